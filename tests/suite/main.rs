//! The tests that need real servers, in one binary so that the servers start once.

mod certificates;
mod cli;
mod crash;
mod harness;
mod harness_checks;
mod hostile;
mod http;
mod json_schema;
mod lake_faults;
mod land_memory;
mod landing;
mod memory;
mod outages;
mod readers;
mod rebalance;
mod schemas;
mod secrets;
mod secure_kafka;
mod secure_postgres;
mod short_form;
mod style;
