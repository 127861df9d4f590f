//! Compact, expire, backup and restore: the same rows or none, beside a landing that goes on, through kills, and with `verify`
//! agreeing at the end.

mod backup;
pub mod lake;
mod replays;
mod tables;
