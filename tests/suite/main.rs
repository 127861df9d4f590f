//! The tests that need real servers, in one binary so that the servers start once.

mod generate;
mod harness;
mod harness_checks;
