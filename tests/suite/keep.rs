//! Compact and expire: the same rows or none, beside a landing that goes on, through kills, and with `verify`
//! agreeing at the end.

mod lake;
mod tables;
