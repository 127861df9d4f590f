//! Binary values of PostgreSQL as JSON bytes, straight from one to the other, and as PostgreSQL's
//! own text, from which a query continues.

use super::zone::Zone;
use crate::postgres::catalogue::Column;
use base64::Engine;
use std::io::Write;

/// Seconds between 1970, where we count from, and 2000, where PostgreSQL does.
const EPOCH_2000_US: i64 = 946_684_800_000_000;
const EPOCH_2000_DAYS: i64 = 10_957;
const DAY_US: i64 = 86_400_000_000;
/// Offsets of a `timetz` are less than 16 hours, as in PostgreSQL.
const ZONE_LIMIT_SECONDS: i64 = 16 * 3600;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a value of type {kind:?} has {length} bytes that cannot be read")]
pub struct BadValue {
    pub kind: Kind,
    pub length: usize,
}

/// How a column's values come from the server, and so how they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    /// The bytes are the text.
    Text,
    /// PostgreSQL's one-byte `"char"`.
    Char,
    Json,
    Jsonb,
    Timestamp,
    TimestampTz,
    Date,
    Time,
    TimeTz,
    Uuid,
    Bytea,
    Array(Box<Kind>),
    /// Any other type: the server is asked for its text.
    AsText,
    /// Asked for as text as well, but not by a cast, which alone adds a netmask to a single host.
    Inet,
}

impl Kind {
    pub fn of(column: &Column) -> Kind {
        match column.element_oid {
            0 => Kind::of_type(column.type_oid, column.type_kind, &column.base_name),
            element => match Kind::of_type(element, column.element_kind, "") {
                Kind::AsText | Kind::Inet => Kind::AsText,
                kind => Kind::Array(Box::new(kind)),
            },
        }
    }

    fn of_type(oid: u32, type_kind: char, name: &str) -> Kind {
        match (oid, type_kind, name) {
            (16, _, _) => Kind::Bool,
            (18, _, _) => Kind::Char,
            (21, _, _) => Kind::Int2,
            (23, _, _) => Kind::Int4,
            (20, _, _) => Kind::Int8,
            (26, _, _) => Kind::Oid,
            (700, _, _) => Kind::Float4,
            (701, _, _) => Kind::Float8,
            (1700, _, _) => Kind::Numeric,
            (19 | 25 | 1042 | 1043, _, _) | (_, 'e', _) | (_, 'b', "citext") => Kind::Text,
            (114, _, _) => Kind::Json,
            (3802, _, _) => Kind::Jsonb,
            (1114, _, _) => Kind::Timestamp,
            (1184, _, _) => Kind::TimestampTz,
            (1082, _, _) => Kind::Date,
            (1083, _, _) => Kind::Time,
            (1266, _, _) => Kind::TimeTz,
            (2950, _, _) => Kind::Uuid,
            (17, _, _) => Kind::Bytea,
            (869, _, _) => Kind::Inet,
            _ => Kind::AsText,
        }
    }

    fn bad(&self, raw: &[u8]) -> BadValue {
        BadValue { kind: self.clone(), length: raw.len() }
    }

    fn fixed<const N: usize>(&self, raw: &[u8]) -> Result<[u8; N], BadValue> {
        raw.try_into().map_err(|_| self.bad(raw))
    }

    /// Appends the value as JSON.
    #[inline]
    pub fn write_json(&self, raw: &[u8], zone: &mut Zone, out: &mut Vec<u8>) -> Result<(), BadValue> {
        match self {
            Kind::Bool => out.extend_from_slice(if raw.first() == Some(&0) { b"false" } else { b"true" }),
            Kind::Int2 => push_integer(out, i16::from_be_bytes(self.fixed(raw)?)),
            Kind::Int4 => push_integer(out, i32::from_be_bytes(self.fixed(raw)?)),
            Kind::Int8 => push_integer(out, i64::from_be_bytes(self.fixed(raw)?)),
            Kind::Oid => push_integer(out, u32::from_be_bytes(self.fixed(raw)?)),
            Kind::Float4 => {
                let value = f32::from_be_bytes(self.fixed(raw)?);
                match non_finite(f64::from(value)) {
                    Some(name) => push_quoted(out, name),
                    None => out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes()),
                }
            }
            Kind::Float8 => {
                let value = f64::from_be_bytes(self.fixed(raw)?);
                match non_finite(value) {
                    Some(name) => push_quoted(out, name),
                    None => out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes()),
                }
            }
            Kind::Numeric => match numeric_special(raw) {
                Some(name) => push_quoted(out, name),
                None => push_numeric(out, raw).ok_or_else(|| self.bad(raw))?,
            },
            Kind::Text | Kind::AsText | Kind::Inet => push_string(out, raw),
            Kind::Char => push_string(out, text_of_char(self.fixed::<1>(raw)?[0]).as_bytes()),
            // The type vouches that it is JSON.
            Kind::Json => out.extend_from_slice(raw),
            Kind::Jsonb => match raw.split_first() {
                Some((1, text)) => out.extend_from_slice(text),
                _ => return Err(self.bad(raw)),
            },
            Kind::Timestamp | Kind::TimestampTz => {
                let value = i64::from_be_bytes(self.fixed(raw)?);
                out.push(b'"');
                match infinite(value) {
                    Some(name) => out.extend_from_slice(name.as_bytes()),
                    None => {
                        // The last years of PostgreSQL's range are beyond ours, and beyond any zone's rules.
                        let local = value.checked_add(EPOCH_2000_US).filter(|_| *self == Kind::Timestamp);
                        let raw = local.map_or(value, |local| raw_timestamp(zone.instant_us(local)));
                        push_day_and_time(out, raw.div_euclid(DAY_US) + EPOCH_2000_DAYS, raw.rem_euclid(DAY_US));
                    }
                }
                out.push(b'"');
            }
            Kind::Date => {
                out.push(b'"');
                match date_days(i32::from_be_bytes(self.fixed(raw)?)) {
                    Ok(days) => push_date(out, days),
                    Err(name) => out.extend_from_slice(name.as_bytes()),
                }
                out.push(b'"');
            }
            Kind::Time => {
                out.push(b'"');
                push_time_of_day(out, self.fixed(raw)?).ok_or_else(|| self.bad(raw))?;
                out.push(b'"');
            }
            Kind::TimeTz => {
                out.push(b'"');
                push_time_with_zone(out, self.fixed(raw)?).ok_or_else(|| self.bad(raw))?;
                out.push(b'"');
            }
            Kind::Uuid => {
                out.push(b'"');
                push_uuid(out, self.fixed(raw)?);
                out.push(b'"');
            }
            Kind::Bytea => {
                out.push(b'"');
                let start = out.len();
                out.resize(start + raw.len().div_ceil(3) * 4, 0);
                let written = base64::engine::general_purpose::STANDARD.encode_slice(raw, &mut out[start..]);
                out.truncate(start + written.map_err(|_| self.bad(raw))?);
                out.push(b'"');
            }
            Kind::Array(element) => push_array(out, element, raw, zone).ok_or_else(|| self.bad(raw))??,
        }
        Ok(())
    }

    /// The value as PostgreSQL reads it back from a literal.
    pub fn sql_text(&self, raw: &[u8]) -> Result<String, BadValue> {
        let mut out = Vec::new();
        match self {
            Kind::Timestamp | Kind::TimestampTz => {
                let text = timestamp_text(i64::from_be_bytes(self.fixed(raw)?));
                let zone = if *self == Kind::TimestampTz && !text.contains("infinity") { "+00" } else { "" };
                // The era stands behind the zone.
                return Ok(match text.strip_suffix(" BC") {
                    Some(text) => format!("{text}{zone} BC"),
                    None => format!("{text}{zone}"),
                });
            }
            Kind::Date => return Ok(date_text(i32::from_be_bytes(self.fixed(raw)?))),
            Kind::Bytea => {
                out.extend_from_slice(b"\\x");
                raw.iter().for_each(|byte| push_hex(&mut out, *byte));
            }
            Kind::Text | Kind::AsText | Kind::Inet | Kind::Json => out.extend_from_slice(raw),
            Kind::Char => return Ok(text_of_char(self.fixed::<1>(raw)?[0])),
            // The quotes of a JSON string are its own.
            Kind::Jsonb => self.write_json(raw, &mut Zone::new(chrono_tz::UTC), &mut out)?,
            // Arrays are keys so seldom that the server is asked for their text; see `Kind::of_key`.
            Kind::Array(_) => return Err(self.bad(raw)),
            _ => {
                self.write_json(raw, &mut Zone::new(chrono_tz::UTC), &mut out)?;
                if out.first() == Some(&b'"') {
                    out.remove(0);
                    out.pop();
                }
            }
        }
        String::from_utf8(out).map_err(|_| self.bad(raw))
    }
}

/// A `"char"` as PostgreSQL writes it since version 16: older ones send bytes that are no text as they are.
fn text_of_char(byte: u8) -> String {
    match byte {
        0 => String::new(),
        1..0x80 => char::from(byte).to_string(),
        _ => format!("\\{byte:03o}"),
    }
}

/// The number of a `"char"` that [`text_of_char`] had to write otherwise, as a cast takes it.
pub fn char_of_text(text: &str) -> Option<i8> {
    let digits = text.strip_prefix('\\').filter(|digits| digits.len() == 3)?;
    u8::from_str_radix(digits, 8).ok().map(|byte| byte as i8)
}

/// A raw watermark as PostgreSQL's literal; `raw` counts microseconds from 2000.
pub fn timestamp_text(raw: i64) -> String {
    if let Some(name) = infinite(raw) {
        return name.to_owned();
    }
    let (days, time) = (raw.div_euclid(DAY_US) + EPOCH_2000_DAYS, raw.rem_euclid(DAY_US));
    let mut out = Vec::new();
    push_time(&mut out, time);
    let time = String::from_utf8_lossy(&out).into_owned();
    let date = era_date(days);
    match date.strip_suffix(" BC") {
        Some(date) => format!("{date} {time} BC"),
        None => format!("{date} {time}"),
    }
}

/// A raw date as PostgreSQL's literal; `raw` counts days from 2000.
pub fn date_text(raw: i32) -> String {
    match date_days(raw) {
        Ok(days) => era_date(days),
        Err(name) => name.to_owned(),
    }
}

fn era_date(days: i64) -> String {
    let (year, month, day) = civil(days);
    if year > 0 { format!("{year:04}-{month:02}-{day:02}") } else { format!("{:04}-{month:02}-{day:02} BC", 1 - year) }
}

/// Microseconds since 1970 of a raw timestamp, where it is finite.
pub fn unix_us(raw: i64) -> Option<i64> {
    infinite(raw).is_none().then(|| raw.saturating_add(EPOCH_2000_US))
}

/// The raw timestamp of microseconds since 1970.
pub fn raw_timestamp(unix_us: i64) -> i64 {
    unix_us.saturating_sub(EPOCH_2000_US)
}

/// The raw date of a day that begins at or before these microseconds since 1970.
pub fn raw_date(unix_us: i64) -> i32 {
    (unix_us.div_euclid(DAY_US) - EPOCH_2000_DAYS).clamp(i64::from(i32::MIN) + 1, i64::from(i32::MAX) - 1) as i32
}

/// Microseconds since 1970 of the begin of a raw date, where it is finite.
pub fn date_unix_us(raw: i32) -> Option<i64> {
    date_days(raw).ok().map(|days| days * DAY_US)
}

fn date_days(raw: i32) -> Result<i64, &'static str> {
    match raw {
        i32::MAX => Err("infinity"),
        i32::MIN => Err("-infinity"),
        days => Ok(i64::from(days) + EPOCH_2000_DAYS),
    }
}

fn infinite(raw: i64) -> Option<&'static str> {
    match raw {
        i64::MAX => Some("infinity"),
        i64::MIN => Some("-infinity"),
        _ => None,
    }
}

fn non_finite(value: f64) -> Option<&'static str> {
    match value {
        value if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

fn push_integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn push_quoted(out: &mut Vec<u8>, plain: &str) {
    out.push(b'"');
    out.extend_from_slice(plain.as_bytes());
    out.push(b'"');
}

/// Bytes that cannot stand in a JSON string as they are.
static ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

/// Appends `text` as a JSON string.
pub fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut start = 0;
    while let Some(length) = text[start..].iter().position(|byte| ESCAPED[usize::from(*byte)]) {
        out.extend_from_slice(&text[start..start + length]);
        let byte = text[start + length];
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ => 0,
        };
        if short == 0 {
            out.extend_from_slice(b"\\u00");
            push_hex(out, byte);
        } else {
            out.extend_from_slice(&[b'\\', short]);
        }
        start += length + 1;
    }
    out.extend_from_slice(&text[start..]);
    out.push(b'"');
}

fn push_hex(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

fn push_uuid(out: &mut Vec<u8>, raw: [u8; 16]) {
    for (position, byte) in raw.into_iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        push_hex(out, byte);
    }
}

/// The last two digits of a value that is not negative.
fn push_two(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&[b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]);
}

/// Year (0 is 1 BC), month and day of a day counted from 1970, in the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years of this count begin in March, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Years of four digits where that is possible, else with a sign, as ISO 8601 has it.
fn push_date(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil(days);
    if (0..=9999).contains(&year) {
        push_two(out, year / 100);
        push_two(out, year % 100);
    } else {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{year:+05}");
    }
    out.push(b'-');
    push_two(out, month);
    out.push(b'-');
    push_two(out, day);
}

fn push_time(out: &mut Vec<u8>, time_us: i64) {
    let seconds = time_us / 1_000_000;
    push_two(out, seconds / 3600);
    out.push(b':');
    push_two(out, seconds / 60 % 60);
    out.push(b':');
    push_two(out, seconds % 60);
    let mut fraction = time_us % 1_000_000;
    if fraction > 0 {
        out.push(b'.');
        let mut unit = 100_000;
        while fraction > 0 {
            out.push(b'0' + (fraction / unit) as u8);
            fraction %= unit;
            unit /= 10;
        }
    }
}

/// `YYYY-MM-DDTHH:MM:SS[.ffffff]Z` of microseconds since 1970.
pub fn push_instant(out: &mut Vec<u8>, unix_us: i64) {
    push_day_and_time(out, unix_us.div_euclid(DAY_US), unix_us.rem_euclid(DAY_US));
}

fn push_day_and_time(out: &mut Vec<u8>, days: i64, time_us: i64) {
    push_date(out, days);
    out.push(b'T');
    push_time(out, time_us);
    out.push(b'Z');
}

/// [`push_instant`] as a string.
pub fn instant_text(unix_us: i64) -> String {
    let mut out = Vec::with_capacity(32);
    push_instant(&mut out, unix_us);
    String::from_utf8_lossy(&out).into_owned()
}

/// `None` where it is no time of a day, the last of which is 24:00:00.
fn push_time_of_day(out: &mut Vec<u8>, raw: [u8; 8]) -> Option<()> {
    let time_us = Some(i64::from_be_bytes(raw)).filter(|time| (0..=DAY_US).contains(time))?;
    push_time(out, time_us);
    Some(())
}

/// `None` where it is no time of a day, or no zone's.
fn push_time_with_zone(out: &mut Vec<u8>, raw: [u8; 12]) -> Option<()> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = raw;
    push_time_of_day(out, [a, b, c, d, e, f, g, h])?;
    // PostgreSQL counts to the west.
    let east = -i64::from(i32::from_be_bytes([i, j, k, l]));
    if east.abs() >= ZONE_LIMIT_SECONDS {
        return None;
    }
    out.push(if east < 0 { b'-' } else { b'+' });
    let east = east.abs();
    push_two(out, east / 3600);
    out.push(b':');
    push_two(out, east / 60 % 60);
    if east % 60 != 0 {
        out.push(b':');
        push_two(out, east % 60);
    }
    Some(())
}

fn half(raw: &[u8], position: usize) -> Option<u16> {
    raw.get(position..position + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

fn word(raw: &[u8], position: usize) -> Option<i32> {
    raw.get(position..position + 4).map(|four| i32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

fn numeric_special(raw: &[u8]) -> Option<&'static str> {
    match half(raw, 4)? {
        0xC000 => Some("NaN"),
        0xD000 => Some("Infinity"),
        0xF000 => Some("-Infinity"),
        _ => None,
    }
}

/// Appends exactly the digits that PostgreSQL prints: groups of four decimal digits, the first of
/// them `weight` groups before the point, and `scale` digits behind it.
fn push_numeric(out: &mut Vec<u8>, raw: &[u8]) -> Option<()> {
    let groups = usize::from(half(raw, 0)?);
    let weight = i32::from(half(raw, 2)? as i16);
    let negative = half(raw, 4)? == 0x4000;
    let scale = usize::from(half(raw, 6)?);
    if raw.len() != 8 + groups * 2 {
        return None;
    }
    let group = |position: i32| match usize::try_from(position) {
        Ok(position) if position < groups => half(raw, 8 + position * 2).unwrap_or(0).min(9999),
        _ => 0,
    };
    let digits =
        |value: u16| [value / 1000, value / 100 % 10, value / 10 % 10, value % 10].map(|digit| b'0' + digit as u8);
    if negative {
        out.push(b'-');
    }
    if weight < 0 {
        out.push(b'0');
    } else {
        push_integer(out, group(0));
        for position in 1..=weight {
            out.extend_from_slice(&digits(group(position)));
        }
    }
    if scale > 0 {
        out.push(b'.');
        let mut left = scale;
        let mut position = weight + 1;
        while left > 0 {
            let four = digits(group(position));
            out.extend_from_slice(&four[..left.min(4)]);
            left = left.saturating_sub(4);
            position += 1;
        }
    }
    Some(())
}

/// Appends a nested JSON array; `None` where the bytes are not an array.
fn push_array(out: &mut Vec<u8>, element: &Kind, raw: &[u8], zone: &mut Zone) -> Option<Result<(), BadValue>> {
    let dimensions = usize::try_from(word(raw, 0)?).ok().filter(|count| *count <= 6)?;
    if dimensions == 0 {
        out.extend_from_slice(b"[]");
        return Some(Ok(()));
    }
    let mut sizes = [0usize; 6];
    for (position, size) in sizes.iter_mut().enumerate().take(dimensions) {
        *size = usize::try_from(word(raw, 12 + position * 8)?).ok()?;
    }
    // Empty arrays inside others would need no bytes, and so no bytes would bound how many there are said to be.
    if dimensions > 1 && sizes[..dimensions].contains(&0) {
        return None;
    }
    let mut rest = raw.get(12 + dimensions * 8..)?;
    push_dimension(out, element, &sizes[..dimensions], &mut rest, zone)
}

fn push_dimension(
    out: &mut Vec<u8>,
    element: &Kind,
    sizes: &[usize],
    rest: &mut &[u8],
    zone: &mut Zone,
) -> Option<Result<(), BadValue>> {
    let (size, inner) = sizes.split_first()?;
    out.push(b'[');
    for position in 0..*size {
        if position > 0 {
            out.push(b',');
        }
        if !inner.is_empty() {
            if let Err(error) = push_dimension(out, element, inner, rest, zone)? {
                return Some(Err(error));
            }
            continue;
        }
        let length = word(rest, 0)?;
        *rest = &rest[4..];
        match usize::try_from(length) {
            Err(_) => out.extend_from_slice(b"null"),
            Ok(length) => {
                let value = rest.get(..length)?;
                if let Err(error) = element.write_json(value, zone, out) {
                    return Some(Err(error));
                }
                *rest = &rest[length..];
            }
        }
    }
    out.push(b']');
    Some(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(kind: &Kind, raw: &[u8]) -> String {
        let mut out = Vec::new();
        kind.write_json(raw, &mut Zone::new(chrono_tz::UTC), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn numeric(weight: i16, sign: u16, scale: u16, groups: &[u16]) -> Vec<u8> {
        let head = [groups.len() as u16, weight as u16, sign, scale];
        head.iter().chain(groups).flat_map(|half| half.to_be_bytes()).collect()
    }

    #[test]
    fn numbers() {
        assert_eq!(json(&Kind::Bool, &[1]), "true");
        assert_eq!(json(&Kind::Bool, &[0]), "false");
        assert_eq!(json(&Kind::Int2, &(-7_i16).to_be_bytes()), "-7");
        assert_eq!(json(&Kind::Int4, &i32::MIN.to_be_bytes()), "-2147483648");
        assert_eq!(json(&Kind::Int8, &i64::MAX.to_be_bytes()), "9223372036854775807");
        assert_eq!(json(&Kind::Oid, &u32::MAX.to_be_bytes()), "4294967295");
        assert_eq!(json(&Kind::Float4, &0.1_f32.to_be_bytes()), "0.1");
        assert_eq!(json(&Kind::Float8, &1e300_f64.to_be_bytes()), "1e300");
        assert_eq!(json(&Kind::Float8, &f64::NAN.to_be_bytes()), "\"NaN\"");
        assert_eq!(json(&Kind::Float4, &f32::NEG_INFINITY.to_be_bytes()), "\"-Infinity\"");
    }

    #[test]
    fn numerics_keep_every_digit() {
        for (raw, text) in [
            (numeric(0, 0, 2, &[220]), "220.00"),
            (numeric(0, 0x4000, 1, &[12, 5000]), "-12.5"),
            (numeric(1, 0, 0, &[1, 0]), "10000"),
            (numeric(1, 0, 0, &[1]), "10000"),
            (numeric(-1, 0, 4, &[1]), "0.0001"),
            (numeric(-2, 0, 8, &[12]), "0.00000012"),
            (numeric(0, 0, 0, &[]), "0"),
            (numeric(0, 0, 3, &[]), "0.000"),
            (numeric(2, 0, 5, &[12, 34, 5678, 9012, 3000]), "1200345678.90123"),
            (numeric(0, 0xC000, 0, &[]), "\"NaN\""),
            (numeric(0, 0xD000, 0, &[]), "\"Infinity\""),
            (numeric(0, 0xF000, 0, &[]), "\"-Infinity\""),
        ] {
            assert_eq!(json(&Kind::Numeric, &raw), text);
        }
        assert!(Kind::Numeric.write_json(&[0, 1], &mut Zone::new(chrono_tz::UTC), &mut Vec::new()).is_err());
    }

    #[test]
    fn strings_are_escaped() {
        assert_eq!(json(&Kind::Text, "a\"b\\c\n\r\t\u{8}\u{c}\u{1}é😀".as_bytes()), r#""a\"b\\c\n\r\t\b\f\u0001é😀""#);
        assert_eq!(json(&Kind::Text, b""), "\"\"");
        assert_eq!(json(&Kind::AsText, b"[1,2)"), "\"[1,2)\"");
        assert_eq!(json(&Kind::Json, b"{ \"a\" : 1 }"), "{ \"a\" : 1 }");
        assert_eq!(json(&Kind::Jsonb, b"\x01{\"a\": 1}"), "{\"a\": 1}");
        assert_eq!(json(&Kind::Bytea, b"\x00\xff\x10"), "\"AP8Q\"");
        assert_eq!(json(&Kind::Bytea, b""), "\"\"");
        let uuid: Vec<u8> = (0..16).collect();
        assert_eq!(json(&Kind::Uuid, &uuid), "\"00010203-0405-0607-0809-0a0b0c0d0e0f\"");
    }

    #[test]
    fn times() {
        let timestamp = |raw: i64| json(&Kind::Timestamp, &raw.to_be_bytes());
        assert_eq!(timestamp(0), "\"2000-01-01T00:00:00Z\"");
        assert_eq!(timestamp(-1), "\"1999-12-31T23:59:59.999999Z\"");
        assert_eq!(timestamp(790_259_040_500_000), "\"2025-01-15T12:24:00.5Z\"");
        assert_eq!(timestamp(i64::MAX), "\"infinity\"");
        assert_eq!(timestamp(i64::MIN), "\"-infinity\"");
        // The ends of PostgreSQL's range.
        assert_eq!(timestamp(9_223_371_331_199_999_999), "\"+294276-12-31T23:59:59.999999Z\"");
        assert_eq!(timestamp(-211_813_488_000_000_000), "\"-4713-11-24T00:00:00Z\"");
        assert_eq!(json(&Kind::Date, &0_i32.to_be_bytes()), "\"2000-01-01\"");
        assert_eq!(json(&Kind::Date, &59_i32.to_be_bytes()), "\"2000-02-29\"");
        assert_eq!(json(&Kind::Date, &i32::MAX.to_be_bytes()), "\"infinity\"");
        assert_eq!(json(&Kind::Date, &(-730_485_i32).to_be_bytes()), "\"0000-01-01\"");
        assert_eq!(json(&Kind::Time, &86_400_000_000_i64.to_be_bytes()), "\"24:00:00\"");
        let mut with_zone = 3_600_000_001_i64.to_be_bytes().to_vec();
        with_zone.extend_from_slice(&(-19_800_i32).to_be_bytes());
        assert_eq!(json(&Kind::TimeTz, &with_zone), "\"01:00:00.000001+05:30\"");
    }

    fn refuses(kind: &Kind, raw: &[u8]) {
        let bad = Err(BadValue { kind: kind.clone(), length: raw.len() });
        assert_eq!(kind.write_json(raw, &mut Zone::new(chrono_tz::UTC), &mut Vec::new()), bad, "{raw:?}");
        assert_eq!(kind.sql_text(raw).map(drop), bad, "{raw:?}");
    }

    #[test]
    fn times_that_no_clock_shows_are_refused() {
        let with_zone = |time: i64, zone: i32| [&time.to_be_bytes()[..], &zone.to_be_bytes()].concat();
        for (time, zone) in [(0, 57_599), (0, -57_599), (DAY_US, 0)] {
            assert!(Kind::TimeTz.sql_text(&with_zone(time, zone)).is_ok(), "{time} {zone}");
        }
        for time in [-1, DAY_US + 1, -DAY_US, i64::MIN, i64::MAX] {
            refuses(&Kind::Time, &time.to_be_bytes());
            refuses(&Kind::TimeTz, &with_zone(time, 0));
        }
        for zone in [57_600, -57_600, i32::MIN, i32::MAX] {
            refuses(&Kind::TimeTz, &with_zone(0, zone));
        }
        // Minus ten hours, to the byte: a digit of -1 overflowed what it was added to.
        refuses(&Kind::TimeTz, &[255, 255, 255, 247, 158, 59, 152, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn local_times_are_read_in_their_zone() {
        let mut out = Vec::new();
        let raw =
            raw_timestamp(chrono::DateTime::parse_from_rfc3339("2025-07-01T12:00:00Z").unwrap().timestamp_micros());
        let mut zone = Zone::new(chrono_tz::Europe::Berlin);
        Kind::Timestamp.write_json(&raw.to_be_bytes(), &mut zone, &mut out).unwrap();
        assert_eq!(out, b"\"2025-07-01T10:00:00Z\"");
    }

    #[test]
    fn arrays_nest() {
        let element = |value: Option<i32>| match value {
            Some(value) => [4_i32.to_be_bytes(), value.to_be_bytes()].concat(),
            None => (-1_i32).to_be_bytes().to_vec(),
        };
        let head = |sizes: &[i32]| {
            let mut raw = [(sizes.len() as i32).to_be_bytes(), 1_i32.to_be_bytes(), 23_i32.to_be_bytes()].concat();
            for size in sizes {
                raw.extend_from_slice(&size.to_be_bytes());
                raw.extend_from_slice(&1_i32.to_be_bytes());
            }
            raw
        };
        let kind = Kind::Array(Box::new(Kind::Int4));
        assert_eq!(json(&kind, &head(&[])), "[]");
        let one = [head(&[2]), element(Some(1)), element(None)].concat();
        assert_eq!(json(&kind, &one), "[1,null]");
        let two = [head(&[2, 2]), element(Some(1)), element(Some(2)), element(Some(3)), element(Some(4))].concat();
        assert_eq!(json(&kind, &two), "[[1,2],[3,4]]");
        for length in 0..two.len() {
            assert!(
                kind.write_json(&two[..length], &mut Zone::new(chrono_tz::UTC), &mut Vec::new()).is_err(),
                "{length}"
            );
        }
        // 2^31 - 1 arrays of nothing, in 28 bytes.
        let hollow = Kind::Array(Box::new(Kind::Int4)).write_json(
            &head(&[i32::MAX, 0]),
            &mut Zone::new(chrono_tz::UTC),
            &mut Vec::new(),
        );
        assert_eq!(hollow, Err(BadValue { kind: kind.clone(), length: 28 }));
        assert_eq!(json(&kind, &head(&[0])), "[]", "as an empty int2vector is sent");
    }

    #[test]
    fn values_are_read_back_by_postgresql() {
        let text = |kind: &Kind, raw: &[u8]| kind.sql_text(raw).unwrap();
        assert_eq!(text(&Kind::Timestamp, &(-1_i64).to_be_bytes()), "1999-12-31 23:59:59.999999");
        assert_eq!(text(&Kind::TimestampTz, &0_i64.to_be_bytes()), "2000-01-01 00:00:00+00");
        assert_eq!(text(&Kind::TimestampTz, &i64::MAX.to_be_bytes()), "infinity");
        assert_eq!(
            text(&Kind::TimestampTz, &(-211_813_488_000_000_000_i64).to_be_bytes()),
            "4714-11-24 00:00:00+00 BC"
        );
        assert_eq!(text(&Kind::Date, &(-730_485_i32).to_be_bytes()), "0001-01-01 BC");
        assert_eq!(text(&Kind::Bytea, b"\x00\xff"), "\\x00ff");
        assert_eq!(text(&Kind::Text, b"a\"b"), "a\"b");
        assert_eq!(text(&Kind::Float8, &f64::NAN.to_be_bytes()), "NaN");
        assert_eq!(text(&Kind::Uuid, &[0; 16]), "00000000-0000-0000-0000-000000000000");
    }

    proptest! {
        #[test]
        fn any_text_is_read_back_from_json(text in any::<String>()) {
            let read: String = serde_json::from_str(&json(&Kind::Text, text.as_bytes())).unwrap();
            prop_assert_eq!(read, text);
        }

        #[test]
        fn any_instant_is_read_back(unix_us in -62_135_596_800_000_000_i64..253_402_300_799_999_999) {
            let read = chrono::DateTime::parse_from_rfc3339(&instant_text(unix_us)).unwrap();
            prop_assert_eq!(read.timestamp_micros(), unix_us);
        }

        #[test]
        fn any_bytes_are_refused_or_written(raw in prop::collection::vec(any::<u8>(), 0..40)) {
            let element = |kind| Kind::Array(Box::new(kind));
            for kind in [Kind::Bool, Kind::Int4, Kind::Float8, Kind::Numeric, Kind::Timestamp, Kind::TimestampTz, Kind::Date,
                Kind::Time, Kind::TimeTz, Kind::Uuid, Kind::Bytea, Kind::Jsonb, element(Kind::Int4), element(Kind::Numeric)] {
                let _ = kind.write_json(&raw, &mut Zone::new(chrono_tz::Europe::Berlin), &mut Vec::new());
                let _ = kind.sql_text(&raw);
            }
        }
    }
}
