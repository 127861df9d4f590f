//! The wall clock. Decisions take the time as an argument; this is where the argument comes from.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since 1970-01-01 00:00 UTC.
pub fn now_ms() -> i64 {
    since_epoch().as_millis() as i64
}

/// Microseconds since 1970-01-01 00:00 UTC.
pub fn now_us() -> i64 {
    since_epoch().as_micros() as i64
}
