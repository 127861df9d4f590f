//! The tests that need real servers, in one binary so that the servers start once.

mod certificates;
mod cli;
mod crash;
mod harness;
mod harness_checks;
mod http;
mod json_schema;
mod memory;
mod outages;
mod secrets;
mod secure_kafka;
mod secure_postgres;
mod short_form;
mod style;
