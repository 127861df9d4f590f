//! The tests that need real servers, in one binary so that the servers start once.

mod certificates;
mod cli;
mod harness;
mod harness_checks;
mod http;
mod json_schema;
mod outages;
mod secrets;
mod secure_kafka;
mod secure_postgres;
