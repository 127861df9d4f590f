//! The time zone in which `timestamp` and `date` columns are read.

use chrono::{DateTime, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;
/// No zone has ever turned its clocks back by more than a day.
const GREATEST_STEP_US: i64 = 25 * 3600 * SECOND_US;

/// A zone with a memory for the last day that it was asked about, since rows come in order.
#[derive(Debug, Clone)]
pub struct Zone {
    tz: Tz,
    /// Local days `first..last` without a change of offset, and that offset.
    steady: Option<(i64, i64, i64)>,
}

impl Zone {
    pub fn new(tz: Tz) -> Zone {
        Zone { tz, steady: None }
    }

    fn offset_us(&self, instant_us: i64) -> i64 {
        let instant = DateTime::<Utc>::from_timestamp_micros(instant_us).map(|time| time.naive_utc());
        let instant = instant.unwrap_or(if instant_us < 0 { NaiveDateTime::MIN } else { NaiveDateTime::MAX });
        if self.tz == Tz::UTC {
            return 0;
        }
        i64::from(self.tz.offset_from_utc_datetime(&instant).fix().local_minus_utc()) * SECOND_US
    }

    /// The wall clock at an instant, in microseconds as if it were UTC.
    pub fn local_us(&self, instant_us: i64) -> i64 {
        instant_us.saturating_add(self.offset_us(instant_us))
    }

    /// The instant of a wall-clock time, as PostgreSQL's `AT TIME ZONE` takes it: in the hour that is
    /// left out the offset before the change holds, in the hour that comes twice the one after it.
    pub fn instant_us(&mut self, local_us: i64) -> i64 {
        if self.tz == Tz::UTC {
            return local_us;
        }
        let day = local_us.div_euclid(DAY_US);
        if let Some((first, last, offset)) = self.steady
            && (first..last).contains(&day)
        {
            return local_us.saturating_sub(offset);
        }
        let before = self.offset_us(local_us.saturating_sub(DAY_US));
        let after = self.offset_us(local_us.saturating_add(DAY_US));
        if before == after {
            // The last days of the count of microseconds are in PostgreSQL's range, too.
            let begin = day.saturating_mul(DAY_US);
            if self.changes(begin.saturating_sub(2 * DAY_US), begin.saturating_add(3 * DAY_US)).is_empty() {
                self.steady = Some((day, day + 1, before));
            }
            return local_us.saturating_sub(before);
        }
        let with_before = local_us.saturating_sub(before);
        let with_after = local_us.saturating_sub(after);
        let before_holds = self.offset_us(with_before) == before;
        let after_holds = self.offset_us(with_after) == after;
        match (before_holds, after_holds) {
            (_, true) => with_after,
            _ => with_before,
        }
    }

    /// The least wall-clock value at any instant from `from_us` to `to_us` and the day after: where
    /// clocks go back, a later instant has a smaller one.
    pub fn least_local_us(&self, from_us: i64, to_us: i64) -> i64 {
        let to_us = to_us.max(from_us).saturating_add(GREATEST_STEP_US);
        let at_changes = self.changes(from_us, to_us).into_iter().map(|change| self.local_us(change));
        at_changes.fold(self.local_us(from_us), i64::min)
    }

    /// The instants in `(from_us, to_us]` at which another offset begins.
    fn changes(&self, from_us: i64, to_us: i64) -> Vec<i64> {
        if self.tz == Tz::UTC {
            return Vec::new();
        }
        // Every zone keeps an offset for longer than this.
        let step = 6 * 3600 * SECOND_US;
        let mut changes = Vec::new();
        let mut start = from_us;
        while start < to_us {
            let end = start.saturating_add(step).min(to_us);
            if self.offset_us(start) != self.offset_us(end) {
                let (mut low, mut high) = (start, end);
                while high - low > 1 {
                    let middle = low + (high - low) / 2;
                    if self.offset_us(middle) == self.offset_us(low) { low = middle } else { high = middle }
                }
                changes.push(high);
            }
            start = end;
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    #[test]
    fn wall_clock_times_are_taken_as_postgresql_takes_them() {
        let mut zone = Zone::new(chrono_tz::Europe::Berlin);
        for (local, instant) in [
            ("2025-07-01T12:00:00Z", "2025-07-01T10:00:00Z"),
            ("2025-01-01T12:00:00Z", "2025-01-01T11:00:00Z"),
            // Left out in spring, twice in autumn.
            ("2025-03-30T02:30:00Z", "2025-03-30T01:30:00Z"),
            ("2025-03-30T03:00:00Z", "2025-03-30T01:00:00Z"),
            ("2025-10-26T02:30:00Z", "2025-10-26T01:30:00Z"),
            ("2025-10-26T01:59:59Z", "2025-10-25T23:59:59Z"),
            ("2025-10-26T03:00:00Z", "2025-10-26T02:00:00Z"),
            ("2025-10-26T03:00:01Z", "2025-10-26T02:00:01Z"),
        ] {
            assert_eq!(zone.instant_us(us(local)), us(instant), "{local}");
        }
        assert_eq!(zone.instant_us(us("2025-07-01T13:00:00Z")), us("2025-07-01T11:00:00Z"));
    }

    #[test]
    fn the_least_local_value_knows_the_autumn_hour() {
        let zone = Zone::new(chrono_tz::Europe::Berlin);
        // 02:59:59 summer time is followed by 02:00:00 winter time.
        let bound = zone.least_local_us(us("2025-10-26T00:59:00Z"), us("2025-10-26T00:59:30Z"));
        assert_eq!(bound, us("2025-10-26T02:00:00Z"));
        let later = zone.least_local_us(us("2025-10-26T01:00:10Z"), us("2025-10-26T01:00:12Z"));
        assert_eq!(later, us("2025-10-26T02:00:10Z"));
        assert_eq!(
            zone.least_local_us(us("2025-07-01T10:00:00Z"), us("2025-07-01T10:00:01Z")),
            us("2025-07-01T12:00:00Z")
        );
    }

    #[test]
    fn far_times_do_not_panic() {
        let mut zone = Zone::new(chrono_tz::America::New_York);
        for time in [i64::MIN, i64::MIN + 1, -211_810_204_800_000_000, 0, 9_200_000_000_000_000_000, i64::MAX] {
            zone.local_us(time);
            zone.instant_us(time);
        }
    }
}
