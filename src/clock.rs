//! The wall clock. Decisions take the time as an argument; this is where the argument comes from, and how a time is
//! told.

use chrono::{DateTime, SecondsFormat};
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

/// A moment on a clock that also counts while the machine sleeps, as the clocks of brokers and servers do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    pub fn now() -> Moment {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes into `time`, which lives until then.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        Moment(Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32))
    }

    pub fn elapsed(self) -> Duration {
        Moment::now().since(self)
    }

    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// `2025-01-15T12:24:00.500Z` of microseconds since 1970, with a fraction where there is one; for times that are in no
/// calendar the number.
pub fn iso(us: i64) -> String {
    iso_to(us, SecondsFormat::AutoSi)
}

/// The same with so many digits behind the second.
pub fn iso_to(us: i64, digits: SecondsFormat) -> String {
    let known = DateTime::from_timestamp_micros(us);
    known.map_or_else(|| format!("{us} us"), |time| time.to_rfc3339_opts(digits, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc() {
        let us = 1_736_943_840_500_000;
        assert_eq!(iso(us), "2025-01-15T12:24:00.500Z");
        assert_eq!(iso(us + 1), "2025-01-15T12:24:00.500001Z");
        assert_eq!(iso(us - 500_000), "2025-01-15T12:24:00Z");
        assert_eq!(iso_to(us, SecondsFormat::Secs), "2025-01-15T12:24:00Z");
        assert_eq!(iso_to(us - 500_000, SecondsFormat::Millis), "2025-01-15T12:24:00.000Z");
        assert_eq!(iso(i64::MAX), "9223372036854775807 us");
    }
}
