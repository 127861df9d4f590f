//! The tests that need real servers, in one binary so that the servers start once.

mod autumn;
mod chunks;
mod fencing;
mod generate;
mod harness;
mod harness_checks;
mod late_commits;
mod pipeline;
mod reconcile;
mod schema_changes;
mod tables;
mod types;
mod workload;
