//! The tests that need real servers, in one binary so that the servers start once.

mod crash;
mod harness;
mod harness_checks;
mod memory;
mod short_form;
mod style;
