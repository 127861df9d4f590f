//! Dates and times from their text, PostgreSQL's (`2025-01-15 12:24:00.5+00`, `0044-03-15 BC`) or
//! ISO-8601's (`2025-01-15T12:24:00.5Z`, `-0043-03-15`).

use chrono::{LocalResult, NaiveDate, TimeDelta, TimeZone};
use chrono_tz::Tz;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Days, or microseconds, since 1970 (times of day: since midnight).
    At(i64),
    /// `infinity`
    Never,
    /// `-infinity`
    Always,
}

const DAY_US: i64 = 86_400_000_000;

/// UTC microseconds. Without an offset of its own, `text` is local to `zone`, or UTC without one.
pub fn timestamp_us(text: &str, zone: Option<Tz>) -> Option<Moment> {
    if let Some(moment) = endless(text) {
        return Some(moment);
    }
    let (text, before_christ) = without_era(text);
    let (days, rest) = date_part(text, before_christ)?;
    if rest.is_empty() {
        return local_to_utc(days.checked_mul(DAY_US)?, zone).map(Moment::At);
    }
    let (time, rest) = time_part(rest.strip_prefix(['T', 't', ' '])?)?;
    let local = days.checked_mul(DAY_US)?.checked_add(time)?;
    if rest.is_empty() {
        return local_to_utc(local, zone).map(Moment::At);
    }
    local.checked_sub(offset_us(rest)?).map(Moment::At)
}

/// Days since 1970-01-01.
pub fn date_days(text: &str) -> Option<Moment> {
    if let Some(moment) = endless(text) {
        return Some(moment);
    }
    let (text, before_christ) = without_era(text);
    let (days, rest) = date_part(text, before_christ)?;
    // A date may be printed as its midnight.
    let midnight = rest.is_empty() || matches!(rest, "T00:00:00" | "T00:00:00Z" | " 00:00:00");
    midnight.then_some(Moment::At(days))
}

/// Microseconds since midnight.
pub fn time_us(text: &str) -> Option<Moment> {
    let (time, rest) = time_part(text)?;
    rest.is_empty().then_some(Moment::At(time))
}

/// Microseconds since midnight, and the offset's: `12:00:00-08` is `12:00:00-08:00`, but not `20:00:00Z`.
pub fn time_and_offset_us(text: &str) -> Option<(i64, i64)> {
    let (time, rest) = time_part(text)?;
    Some((time, offset_us(rest)?))
}

/// The name of the day that holds a UTC microsecond, as partition directories have it.
pub fn day_name(us: i64) -> Option<String> {
    day_name_of(us.div_euclid(DAY_US))
}

pub fn day_name_of(days: i64) -> Option<String> {
    let date = NaiveDate::from_ymd_opt(1970, 1, 1)?.checked_add_signed(TimeDelta::try_days(days)?)?;
    Some(date.format("%Y-%m-%d").to_string())
}

fn endless(text: &str) -> Option<Moment> {
    match text.as_bytes().first()? {
        b'i' | b'I' if text.eq_ignore_ascii_case("infinity") => Some(Moment::Never),
        b'-' if text.eq_ignore_ascii_case("-infinity") => Some(Moment::Always),
        _ => None,
    }
}

fn without_era(text: &str) -> (&str, bool) {
    match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    }
}

fn date_part(text: &str, before_christ: bool) -> Option<(i64, &str)> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (year_text, rest) = unsigned.split_once('-')?;
    if year_text.len() < 4 {
        return None;
    }
    let year = digits(year_text)?;
    let year = if negative {
        -year
    } else if before_christ {
        1 - year
    } else {
        year
    };
    let month = digits(rest.get(..2)?)?;
    let day = digits(rest.get(2..)?.strip_prefix('-')?.get(..2)?)?;
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    Some((days_since_epoch(year, month, day), &rest[5..]))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Of the proleptic Gregorian calendar: whole years by their leap days, then the months.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let leap_days = before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
    let months: i64 = (1..month).map(|month| days_in_month(year, month)).sum();
    before * 365 + leap_days + months + day - 1 - 719_162
}

fn time_part(text: &str) -> Option<(i64, &str)> {
    let bytes = text.as_bytes();
    if bytes.len() < 5 || bytes[2] != b':' {
        return None;
    }
    let hours = digits(text.get(..2)?)?;
    let minutes = digits(text.get(3..5)?)?;
    let (seconds, rest) = match text.get(5..)?.strip_prefix(':') {
        Some(rest) => (digits(rest.get(..2)?)?, rest.get(2..)?),
        None => (0, text.get(5..)?),
    };
    if hours > 24 || minutes > 59 || seconds > 60 {
        return None;
    }
    let (fraction, rest) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let length = rest.bytes().take_while(u8::is_ascii_digit).count();
            let shown = &rest[..length.min(6)];
            (digits(shown)? * 10i64.pow(6 - shown.len() as u32), &rest[length..])
        }
    };
    Some((((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction, rest))
}

fn offset_us(text: &str) -> Option<i64> {
    if text == "Z" || text == "z" {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let mut parts = [0; 3];
    let digits_only = text[1..].replace(':', "");
    if !digits_only.len().is_multiple_of(2) || digits_only.is_empty() || digits_only.len() > 6 {
        return None;
    }
    for (part, at) in parts.iter_mut().zip((0..digits_only.len()).step_by(2)) {
        *part = digits(digits_only.get(at..at + 2)?)?;
    }
    Some(sign * ((parts[0] * 60 + parts[1]) * 60 + parts[2]) * 1_000_000)
}

fn local_to_utc(local_us: i64, zone: Option<Tz>) -> Option<i64> {
    let Some(zone) = zone else { return Some(local_us) };
    let local = chrono::DateTime::from_timestamp_micros(local_us)?.naive_utc();
    let time = match zone.from_local_datetime(&local) {
        LocalResult::Single(time) => time,
        // PostgreSQL takes standard time, the later one, where an hour happens twice.
        LocalResult::Ambiguous(_, later) => later,
        // In the hour that is skipped it takes the offset from before the change.
        LocalResult::None => {
            let before = zone.from_local_datetime(&(local - TimeDelta::try_hours(3)?)).latest()?;
            return Some(before.timestamp_micros() + 3 * 3_600_000_000);
        }
    };
    Some(time.timestamp_micros())
}

fn digits(text: &str) -> Option<i64> {
    if text.is_empty() || text.len() > 9 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn us(text: &str) -> i64 {
        match timestamp_us(text, None) {
            Some(Moment::At(us)) => us,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn both_spellings_are_one_moment() {
        assert_eq!(us("1970-01-01T00:00:00Z"), 0);
        assert_eq!(us("2025-01-15 12:24:00+00"), us("2025-01-15T12:24:00Z"));
        assert_eq!(us("2025-01-15T12:24:00.1234569Z"), us("2025-01-15 12:24:00.123456"));
        assert_eq!(us("2025-01-15T12:24:00+05:30"), us("2025-01-15T06:54:00Z"));
        assert_eq!(us("0044-03-15 00:00:00+00 BC"), us("-0043-03-15T00:00:00Z"));
        assert_eq!(us("294246-12-31 23:59:59+00"), us("+294246-12-31T23:59:59Z"));
        assert_eq!(us("1969-12-31T23:59:59.5Z"), -500_000);
        for wrong in ["", "2025", "2025-13-01", "2025-02-29", "2025-01-15X", "2025-01-15T25:00:00Z", "é", "25-01-15"] {
            assert_eq!(timestamp_us(wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn local_times_follow_postgresql() {
        let berlin = Some(chrono_tz::Europe::Berlin);
        let at = |text| timestamp_us(text, berlin);
        assert_eq!(at("2025-07-01 12:00:00"), Some(Moment::At(us("2025-07-01T10:00:00Z"))));
        assert_eq!(at("2025-10-26 02:30:00"), Some(Moment::At(us("2025-10-26T01:30:00Z"))));
        assert_eq!(at("2025-03-30 02:30:00"), Some(Moment::At(us("2025-03-30T01:30:00Z"))));
        assert_eq!(at("2025-07-01 12:00:00Z"), Some(Moment::At(us("2025-07-01T12:00:00Z"))));
    }

    proptest! {
        #[test]
        fn days_agree_with_chrono(year in -9999i32..9999, day_of_year in 1u32..366) {
            let date = NaiveDate::from_yo_opt(year, day_of_year).unwrap();
            let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
            let text = format!("{}{:04}{}", if year < 0 { "-" } else { "" }, year.abs(), date.format("-%m-%d"));
            prop_assert_eq!(date_days(&text), Some(Moment::At((date - epoch).num_days())));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            timestamp_us(&text, Some(chrono_tz::Europe::Berlin));
            date_days(&text);
            time_us(&text);
            time_and_offset_us(&text);
        }
    }
}
