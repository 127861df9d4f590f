//! The tests that need real servers, in one binary so that the servers start once.

mod harness;
mod harness_checks;
mod hostile;
mod lake_faults;
mod land_memory;
mod landing;
mod readers;
mod rebalance;
mod schemas;
