//! The analyze stage from end to end: events on a real Kafka, windows in a real PostgreSQL, the built
//! binary between them, and a plain recomputation that says what the tables must hold.

mod backup;
mod crash;
mod feed;
mod hostile;
mod instances;
mod lag;
mod memory;
mod oracle;
mod outages;
mod quiet;
mod reset;
pub mod scene;
mod time;
mod topics;
mod windows;
