//! ISO-8601 texts to microseconds and days since 1970. Years 1 to 9999, for a partition's name has
//! four digits and Parquet's readers agree on no more.

pub const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Why a text is no timestamp or date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeError {
    /// Not of the form, or not a day or time that exists.
    Malformed,
    /// A timestamp without `Z` or an offset.
    NoZone,
    /// Outside the years 1 to 9999.
    OutOfRange,
}

impl TimeError {
    pub fn text(self) -> &'static str {
        match self {
            TimeError::Malformed => "is not an ISO-8601 time",
            TimeError::NoZone => "has no zone (Z or an offset)",
            TimeError::OutOfRange => "is outside the years 0001 to 9999",
        }
    }
}

fn number(text: &[u8], at: usize, length: usize) -> Option<i64> {
    let mut value = 0;
    for byte in text.get(at..at + length)? {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(value)
}

/// Days since 1970-01-01 of a day of the Gregorian calendar, the year counted from March.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of `days` since 1970-01-01.
pub fn civil_from_days(days: i32) -> (i64, u32, u32) {
    let days = i64::from(days) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

/// `YYYY-MM-DD` at the start of `text`, as days.
fn day(text: &[u8]) -> Result<i64, TimeError> {
    let parts = (number(text, 0, 4), number(text, 5, 2), number(text, 8, 2));
    let (Some(year), Some(month), Some(day)) = parts else {
        // A sign, or a fifth digit: a year that cannot be kept, rather than no time at all.
        let digits = text.iter().skip(usize::from(matches!(text.first(), Some(b'+' | b'-'))));
        let long = digits.take_while(|byte| byte.is_ascii_digit()).count() > 4;
        return Err(if long { TimeError::OutOfRange } else { TimeError::Malformed });
    };
    if text[4] != b'-' || text[7] != b'-' {
        return Err(TimeError::Malformed);
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return Err(TimeError::Malformed),
    };
    if day < 1 || day > last {
        return Err(TimeError::Malformed);
    }
    if year == 0 {
        return Err(TimeError::OutOfRange);
    }
    Ok(days_from_civil(year, month, day))
}

/// `YYYY-MM-DD` as days since 1970.
pub fn date(text: &[u8]) -> Result<i32, TimeError> {
    let days = day(text)?;
    if text.len() != 10 {
        return Err(TimeError::Malformed);
    }
    i32::try_from(days).map_err(|_| TimeError::OutOfRange)
}

/// A timestamp with a zone as microseconds since 1970; further digits are cut off. A second of 60 is
/// the first of the next minute, as in PostgreSQL. Without a zone it is UTC where `naive_is_utc`.
pub fn timestamp(text: &[u8], naive_is_utc: bool) -> Result<i64, TimeError> {
    let days = day(text)?;
    let parts = (number(text, 11, 2), number(text, 14, 2), number(text, 17, 2));
    let (Some(hour), Some(minute), Some(second)) = parts else { return Err(TimeError::Malformed) };
    if !matches!(text[10], b'T' | b't' | b' ') || text[13] != b':' || text[16] != b':' {
        return Err(TimeError::Malformed);
    }
    if hour > 23 || minute > 59 || second > 60 {
        return Err(TimeError::Malformed);
    }
    let mut rest = &text[19..];
    let mut micros = 0;
    if let [b'.' | b',', fraction @ ..] = rest {
        let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            return Err(TimeError::Malformed);
        }
        let digits = fraction[..length].iter().chain(std::iter::repeat(&b'0')).take(6);
        micros = digits.fold(0, |micros, digit| micros * 10 + i64::from(digit - b'0'));
        rest = &fraction[length..];
    }
    let offset_minutes = match rest {
        b"Z" | b"z" => 0,
        [] if naive_is_utc => 0,
        [] => return Err(TimeError::NoZone),
        [sign @ (b'+' | b'-'), offset @ ..] => {
            let (hours, minutes) = match offset.len() {
                2 => (number(offset, 0, 2), Some(0)),
                4 => (number(offset, 0, 2), number(offset, 2, 2)),
                5 if offset[2] == b':' => (number(offset, 0, 2), number(offset, 3, 2)),
                _ => (None, None),
            };
            let (Some(hours @ 0..=23), Some(minutes @ 0..=59)) = (hours, minutes) else {
                return Err(TimeError::Malformed);
            };
            (hours * 60 + minutes) * if *sign == b'+' { 1 } else { -1 }
        }
        _ => return Err(TimeError::Malformed),
    };
    let seconds = days * 86_400 + hour * 3_600 + (minute - offset_minutes) * 60 + second;
    let value = seconds * 1_000_000 + micros;
    // An offset, or a leap second, can carry over the ends.
    if (FIRST..=LAST).contains(&value) { Ok(value) } else { Err(TimeError::OutOfRange) }
}

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999999Z.
const FIRST: i64 = -719_162 * MICROS_PER_DAY;
const LAST: i64 = 2_932_897 * MICROS_PER_DAY - 1;

/// Microseconds since 1970 of a time, or of the beginning of a day; UTC where no zone is given.
pub fn instant(text: &str) -> Option<i64> {
    match date(text.as_bytes()) {
        Ok(days) => Some(i64::from(days) * MICROS_PER_DAY),
        Err(_) => timestamp(text.as_bytes(), true).ok(),
    }
}

/// `date=YYYY-MM-DD`, the directory of a day.
pub fn partition(days: i32) -> String {
    let (year, month, day) = civil_from_days(days);
    format!("date={year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Datelike, NaiveDate};

    fn at(text: &str) -> Result<i64, TimeError> {
        timestamp(text.as_bytes(), false)
    }

    #[test]
    fn agrees_with_chrono() {
        for text in [
            "2025-01-15T12:24:00Z",
            "2025-01-15T12:24:00.5Z",
            "2024-02-29T23:59:59.999999+05:30",
            "1969-12-31T23:59:59.999999-00:30",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999Z",
        ] {
            assert_eq!(at(text), Ok(DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()), "{text}");
        }
        for days in (-719_162..2_932_897).step_by(97) {
            let day = NaiveDate::from_num_days_from_ce_opt(days + 719_163).unwrap();
            assert_eq!(civil_from_days(days), (i64::from(day.year()), day.month(), day.day()));
            assert_eq!(days_from_civil(day.year().into(), day.month().into(), day.day().into()), i64::from(days));
            assert_eq!(date(day.to_string().as_bytes()), Ok(days));
        }
    }

    #[test]
    fn forms_that_are_accepted() {
        assert_eq!(at("2025-01-15T12:24:00.1234567Z"), at("2025-01-15T12:24:00.123456Z"));
        assert_eq!(at("2025-01-15 12:24:00+00"), at("2025-01-15T12:24:00Z"));
        assert_eq!(at("2025-01-15t12:24:00+0530"), at("2025-01-15T06:54:00z"));
        assert_eq!(at("2016-12-31T23:59:60Z"), at("2017-01-01T00:00:00Z"));
        assert_eq!(timestamp(b"2025-01-15T12:24:00", true), at("2025-01-15T12:24:00Z"));
        assert_eq!(partition(20_103), "date=2025-01-15");
        assert_eq!(partition(-719_162), "date=0001-01-01");
    }

    #[test]
    fn what_is_refused_and_why() {
        for text in ["2025-01-15T12:24:00", "2025-01-15T12:24:00.5"] {
            assert_eq!(at(text), Err(TimeError::NoZone), "{text}");
        }
        for text in [
            "0000-01-01T00:00:00Z",
            "10000-01-01T00:00:00Z",
            "+12345-01-01T00:00:00Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "9999-12-31T23:59:60Z",
        ] {
            assert_eq!(at(text), Err(TimeError::OutOfRange), "{text}");
        }
        for text in [
            "",
            "Z",
            "infinity",
            "-infinity",
            "2025",
            "2025-01-15",
            "2025-01-15T",
            "2025-02-29T00:00:00Z",
            "2025-13-01T00:00:00Z",
            "2025-00-01T00:00:00Z",
            "2025-01-00T00:00:00Z",
            "2025-01-32T00:00:00Z",
            "2025-01-15T24:00:00Z",
            "2025-01-15T12:60:00Z",
            "2025-01-15T12:24:61Z",
            "2025-01-15T12:24:00.Z",
            "2025-01-15T12:24:00ZZ",
            "2025-01-15T12:24:00+",
            "2025-01-15T12:24:00+1",
            "2025-01-15T12:24:00+24:00",
            "2025/01/15T12:24:00Z",
            "2025-01-15T12-24-00Z",
            "2025-01-15X12:24:00Z",
            "0044-03-15T00:00:00Z BC",
            "٢٠٢٥-01-15T12:24:00Z",
            "../../etc/passwd",
        ] {
            assert_eq!(at(text), Err(TimeError::Malformed), "{text}");
        }
        assert_eq!(date(b"2025-01-15T00:00:00Z"), Err(TimeError::Malformed));
        assert_eq!(date(b"0000-01-15"), Err(TimeError::OutOfRange));
    }
}
