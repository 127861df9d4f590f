//! The demo, and the private servers that it shares with the tests and the benchmark.

pub mod servers;
