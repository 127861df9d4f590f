//! One canonical form of a value, whichever side it was read from: PostgreSQL's text, a JSON
//! message or an Arrow column. Two values are equal exactly when their canonical bytes are.
//!
//! A canonical value is a tag byte and bytes that are mostly readable text, because keys are
//! printed in reports. A value that does not fit its kind keeps its own text under the tag `?`, so
//! that it differs from everything but itself and never stops a comparison.

use super::clock;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono_tz::Tz;
use serde_json::Value;

/// How the values of a column are compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Bool,
    /// Integers and decimals by their digits: `220`, `220.00` and `2.2e2` are equal.
    Number,
    /// By the bits of the nearest binary value.
    Float32,
    Float64,
    /// UTC microseconds. A value without an offset is local to the zone, or UTC without one.
    Timestamp(Option<Tz>),
    Date,
    Time,
    /// With an offset, which counts.
    TimeWithZone,
    /// As it is. A JSON number is taken by its digits as they stand.
    Text,
    /// An address; the mask of a single host may be written or not.
    Inet,
    /// Text that may be JSON: by structure where it reads as an object or array, else as it is. For
    /// text columns of which nothing but the name is known.
    TextOrJson,
    Bytes,
    /// By structure: object keys sorted, numbers by their digits.
    Json,
    Array(Box<Kind>),
}

const NUMBER: u8 = b'#';
const TEXT: u8 = b't';
const BYTES: u8 = b'b';
const TIME: u8 = b'@';
const JSON: u8 = b'j';
const MISFIT: u8 = b'?';

/// Appends the canonical form of a value that PostgreSQL printed (arrays by `to_json`).
pub fn from_text(kind: &Kind, text: &str, out: &mut Vec<u8>) {
    match kind {
        Kind::Bool => match text {
            "t" | "true" => boolean(true, out),
            "f" | "false" => boolean(false, out),
            _ => tagged(MISFIT, text.as_bytes(), out),
        },
        Kind::Number => number(text, out),
        Kind::Float32 => match text.parse::<f32>() {
            Ok(value) => float32(value, out),
            Err(_) => tagged(MISFIT, text.as_bytes(), out),
        },
        Kind::Float64 => match text.parse::<f64>() {
            Ok(value) => float64(value, out),
            Err(_) => tagged(MISFIT, text.as_bytes(), out),
        },
        Kind::Timestamp(zone) => time_value(clock::timestamp_us(text, *zone), text, out),
        Kind::Date => time_value(clock::date_days(text), text, out),
        Kind::Time => time_value(clock::time_us(text), text, out),
        Kind::TimeWithZone => match clock::time_and_offset_us(text) {
            Some((time, offset)) => tagged(TIME, format!("{time}/{offset}").as_bytes(), out),
            None => tagged(MISFIT, text.as_bytes(), out),
        },
        Kind::Inet => {
            let whole = if text.contains(':') { "/128" } else { "/32" };
            tagged(TEXT, text.strip_suffix(whole).unwrap_or(text).as_bytes(), out);
        }
        Kind::Text => tagged(TEXT, text.as_bytes(), out),
        Kind::TextOrJson => match text.as_bytes().first() {
            Some(b'{' | b'[') => match serde_json::from_str::<Value>(text) {
                Ok(value) => json(&value, out),
                Err(_) => tagged(TEXT, text.as_bytes(), out),
            },
            _ => tagged(TEXT, text.as_bytes(), out),
        },
        Kind::Bytes => match bytes_of(text) {
            Some(decoded) => bytes(&decoded, out),
            None => tagged(MISFIT, text.as_bytes(), out),
        },
        Kind::Json => match serde_json::from_str::<Value>(text) {
            Ok(value) => json(&value, out),
            Err(_) => json(&Value::String(text.to_owned()), out),
        },
        Kind::Array(element) => match serde_json::from_str::<Value>(text) {
            Ok(value) => array(element, &value, out),
            Err(_) => tagged(MISFIT, text.as_bytes(), out),
        },
    }
}

/// Whether a text of PostgreSQL is a JSON null, which a message cannot tell from a null column.
pub fn is_json_null(kind: &Kind, text: &str) -> bool {
    *kind == Kind::Json && text.trim() == "null"
}

/// Appends the canonical form of a field of a message. The field is not null: absent and null are
/// the same to every comparison, and neither is appended.
pub fn from_json(kind: &Kind, value: &Value, out: &mut Vec<u8>) {
    match (kind, value) {
        (Kind::Json, _) => json(value, out),
        (Kind::Array(element), Value::Array(_)) => array(element, value, out),
        (Kind::Bool, Value::Bool(value)) => boolean(*value, out),
        (Kind::Text | Kind::TextOrJson, Value::Bool(value)) => {
            tagged(TEXT, if *value { b"true" } else { b"false" }, out)
        }
        (_, Value::String(text)) => from_text(kind, text, out),
        (
            Kind::Bool | Kind::Bytes | Kind::Timestamp(_) | Kind::Date | Kind::Time | Kind::TimeWithZone,
            Value::Number(value),
        ) => tagged(MISFIT, value.as_str().as_bytes(), out),
        (_, Value::Number(value)) => from_text(kind, value.as_str(), out),
        _ => json(value, out),
    }
}

fn tagged(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(value);
}

pub fn boolean(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

pub fn bytes(value: &[u8], out: &mut Vec<u8>) {
    tagged(BYTES, value, out);
}

pub fn integer(value: i64, tag_as_time: bool, out: &mut Vec<u8>) {
    out.push(if tag_as_time { TIME } else { NUMBER });
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub fn float32(value: f32, out: &mut Vec<u8>) {
    // One NaN, whatever its payload bits.
    let value = if value.is_nan() { f32::NAN } else { value };
    tagged(b'f', &value.to_bits().to_be_bytes(), out);
}

pub fn float64(value: f64, out: &mut Vec<u8>) {
    let value = if value.is_nan() { f64::NAN } else { value };
    tagged(b'd', &value.to_bits().to_be_bytes(), out);
}

fn time_value(value: Option<clock::Moment>, text: &str, out: &mut Vec<u8>) {
    match value {
        Some(clock::Moment::At(value)) => integer(value, true, out),
        Some(clock::Moment::Never) => tagged(TIME, b"infinity", out),
        Some(clock::Moment::Always) => tagged(TIME, b"-infinity", out),
        None => tagged(MISFIT, text.as_bytes(), out),
    }
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let Some(hex) = text.strip_prefix("\\x") else { return STANDARD.decode(text).ok() };
    let digit = |byte: u8| (byte as char).to_digit(16).map(|value| value as u8);
    if !hex.len().is_multiple_of(2) {
        return None;
    }
    hex.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Digits without zeros at either end, and the power of ten of the last one: small powers are
/// written out, so that a key reads as people write it; the form is still one per value.
pub fn number(text: &str, out: &mut Vec<u8>) {
    out.push(NUMBER);
    let bytes = text.as_bytes();
    let plain_integer = |digits: &[u8]| {
        !digits.is_empty() && digits.len() <= 20 && digits[0] != b'0' && digits.iter().all(u8::is_ascii_digit)
    };
    if bytes == b"0" || plain_integer(bytes) || (bytes.first() == Some(&b'-') && plain_integer(&bytes[1..])) {
        out.extend_from_slice(bytes);
        return;
    }
    let written = out.len();
    if decimal(text, out).is_none() {
        out.truncate(written - 1);
        match text.to_ascii_lowercase().as_str() {
            "nan" => tagged(NUMBER, b"NaN", out),
            "infinity" | "inf" => tagged(NUMBER, b"Infinity", out),
            "-infinity" | "-inf" => tagged(NUMBER, b"-Infinity", out),
            _ => tagged(MISFIT, text.as_bytes(), out),
        }
    }
}

fn decimal(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], rest[at + 1..].parse::<i64>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).skip_while(|byte| *byte == b'0').collect();
    let significant = digits.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1);
    if significant == 0 {
        out.push(b'0');
        return Some(());
    }
    let power = exponent.checked_sub(fraction.len() as i64)?.checked_add((digits.len() - significant) as i64)?;
    digits_times_power(negative, &digits[..significant], power, out);
    Some(())
}

/// `digits` begin and end with a digit other than 0.
fn digits_times_power(negative: bool, digits: &[u8], power: i64, out: &mut Vec<u8>) {
    const WRITTEN_OUT: i64 = 40;
    if negative {
        out.push(b'-');
    }
    match power {
        0..=WRITTEN_OUT => {
            out.extend_from_slice(digits);
            out.extend(std::iter::repeat_n(b'0', power as usize));
        }
        p if -p < digits.len() as i64 && p < 0 => {
            let (whole, fraction) = digits.split_at(digits.len() - (-p) as usize);
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        p if (-WRITTEN_OUT..0).contains(&p) => {
            out.extend_from_slice(b"0.");
            out.extend(std::iter::repeat_n(b'0', (-p) as usize - digits.len()));
            out.extend_from_slice(digits);
        }
        p => {
            out.extend_from_slice(digits);
            out.push(b'e');
            out.extend_from_slice(itoa::Buffer::new().format(p).as_bytes());
        }
    }
}

/// A scaled integer, as decimal columns hold it.
pub fn scaled(value: i128, scale: i8, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(value.unsigned_abs()).as_bytes();
    out.push(NUMBER);
    let significant = digits.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1);
    if significant == 0 {
        out.push(b'0');
        return;
    }
    let power = (digits.len() - significant) as i64 - i64::from(scale);
    digits_times_power(value < 0, &digits[..significant], power, out);
}

fn array(element: &Kind, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(values) => {
            out.push(b'[');
            for value in values {
                array(element, value, out);
            }
            out.push(b']');
        }
        Value::Null => out.push(b'n'),
        value => framed(out, |out| from_json(element, value, out)),
    }
}

fn json(value: &Value, out: &mut Vec<u8>) {
    out.push(JSON);
    structure(value, out);
}

fn structure(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(b'n'),
        Value::Bool(value) => out.push(if *value { b'T' } else { b'F' }),
        Value::Number(value) => framed(out, |out| number(value.as_str(), out)),
        Value::String(text) => framed(out, |out| tagged(TEXT, text.as_bytes(), out)),
        Value::Array(values) => {
            out.push(b'[');
            for value in values {
                structure(value, out);
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            out.push(b'{');
            let mut names: Vec<&String> = fields.keys().collect();
            // The map's own order depends on a feature that any dependency may turn on.
            names.sort_unstable();
            for name in names {
                framed(out, |out| out.extend_from_slice(name.as_bytes()));
                structure(&fields[name], out);
            }
            out.push(b'}');
        }
    }
}

/// Writes the length before what `write` appends, so that neighbours cannot run into each other.
pub fn framed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A canonical value as people read it: without its tag, bytes in hexadecimal.
pub fn display(canonical: &[u8]) -> String {
    match canonical.split_first() {
        None => "null".to_owned(),
        Some((&BYTES, value)) => value.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
        Some((&(NUMBER | TEXT | TIME | MISFIT), value)) => String::from_utf8_lossy(value).into_owned(),
        Some(_) => String::from_utf8_lossy(canonical).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn text(kind: &Kind, value: &str) -> Vec<u8> {
        let mut out = Vec::new();
        from_text(kind, value, &mut out);
        out
    }

    fn message(kind: &Kind, value: &str) -> Vec<u8> {
        let mut out = Vec::new();
        from_json(kind, &serde_json::from_str(value).unwrap(), &mut out);
        out
    }

    #[test]
    fn numbers_are_equal_by_value_not_by_spelling() {
        for (one, other) in [
            ("220", "220.00"),
            ("220.0", "2.2e2"),
            ("0.001", "1e-3"),
            ("-0", "0.000"),
            ("00012.50", "12.5"),
            ("1e400", "10e399"),
            ("100000000000000000000", "1e20"),
            ("0.05", "5E-2"),
        ] {
            assert_eq!(
                text(&Kind::Number, one),
                message(&Kind::Number, other.trim_start_matches("00")),
                "{one} {other}"
            );
        }
        assert_ne!(text(&Kind::Number, "0.1"), text(&Kind::Number, "0.10000000000000000001"));
        assert_ne!(text(&Kind::Number, "1"), text(&Kind::Number, "-1"));
        assert_ne!(text(&Kind::Number, "1e41"), text(&Kind::Number, "1e42"));
        assert_eq!(text(&Kind::Number, "NaN"), message(&Kind::Number, "\"NaN\""));
        assert_eq!(text(&Kind::Number, "Infinity"), message(&Kind::Number, "\"Infinity\""));
        assert_ne!(text(&Kind::Number, "Infinity"), text(&Kind::Number, "-Infinity"));
        assert_ne!(text(&Kind::Number, "abc"), text(&Kind::Number, "abd"));
        assert_eq!(display(&text(&Kind::Number, "220.50")), "220.5");
        assert_eq!(display(&text(&Kind::Number, "1000")), "1000");
        assert_eq!(display(&text(&Kind::Number, "1e3")), "1000");
    }

    proptest! {
        #[test]
        fn a_scaled_integer_equals_its_digits(value in any::<i64>(), scale in 0i8..30) {
            let digits = format!("{}{value}e-{scale}", "");
            let mut out = Vec::new();
            scaled(i128::from(value), scale, &mut out);
            prop_assert_eq!(out, text(&Kind::Number, &digits));
        }

        #[test]
        fn two_different_numbers_never_meet(a in -100_000i64..100_000, b in -100_000i64..100_000, p in 0i64..4, q in 0i64..4) {
            let equal = a * 10i64.pow(4 - p as u32) == b * 10i64.pow(4 - q as u32);
            let same = text(&Kind::Number, &format!("{a}e-{p}")) == text(&Kind::Number, &format!("{b}e-{q}"));
            prop_assert_eq!(equal, same);
        }
    }

    #[test]
    fn floats_by_their_bits() {
        assert_eq!(text(&Kind::Float64, "0.1"), message(&Kind::Float64, "0.1"));
        assert_eq!(text(&Kind::Float64, "1e+15"), message(&Kind::Float64, "1000000000000000.0"));
        assert_ne!(text(&Kind::Float64, "0"), text(&Kind::Float64, "-0"));
        assert_eq!(text(&Kind::Float64, "NaN"), message(&Kind::Float64, "\"NaN\""));
        assert_eq!(text(&Kind::Float32, "3.4028235e+38"), message(&Kind::Float32, "3.4028235e38"));
        assert_ne!(text(&Kind::Float32, "1"), text(&Kind::Float32, "1.0000001"));
        let mut column = Vec::new();
        float32(0.1, &mut column);
        assert_eq!(column, text(&Kind::Float32, "0.1"));
    }

    #[test]
    fn times_by_the_microsecond() {
        let utc = Kind::Timestamp(None);
        assert_eq!(text(&utc, "2025-01-15 12:24:00+00"), message(&utc, "\"2025-01-15T12:24:00Z\""));
        assert_eq!(text(&utc, "2025-01-15 12:24:00.1+00"), message(&utc, "\"2025-01-15T14:24:00.100000+02:00\""));
        assert_ne!(text(&utc, "2025-01-15 12:24:00.000001"), message(&utc, "\"2025-01-15T12:24:00Z\""));
        assert_eq!(text(&utc, "infinity"), message(&utc, "\"infinity\""));
        assert_eq!(text(&Kind::Date, "2025-01-15"), message(&Kind::Date, "\"2025-01-15\""));
        assert_ne!(text(&Kind::Date, "2025-01-15"), text(&Kind::Date, "0001-01-15 BC"));
        assert_eq!(text(&Kind::Time, "12:24:00"), message(&Kind::Time, "\"12:24:00.000\""));
        let zoned = Kind::TimeWithZone;
        assert_eq!(text(&zoned, "12:00:00.25-08"), message(&zoned, "\"12:00:00.25-08:00\""));
        assert_ne!(text(&zoned, "12:00:00+00"), message(&zoned, "\"13:00:00+01:00\""));
        assert_ne!(text(&utc, "yesterday"), text(&utc, "today"));
        assert_ne!(message(&utc, "1736943840000000"), text(&utc, "2025-01-15 12:24:00"));
    }

    #[test]
    fn text_is_taken_as_it_is() {
        assert_ne!(text(&Kind::Text, "a"), text(&Kind::Text, "a "));
        assert_ne!(text(&Kind::Text, ""), Vec::<u8>::new());
        assert_eq!(text(&Kind::Text, "0.50"), message(&Kind::Text, "0.50"));
        assert_ne!(text(&Kind::Text, "{\"a\": 1}"), text(&Kind::Text, "{\"a\":1}"));
        assert_eq!(text(&Kind::TextOrJson, "{\"a\": 1}"), message(&Kind::TextOrJson, "{\"a\":1.0}"));
        assert_eq!(text(&Kind::Inet, "::1"), message(&Kind::Inet, "\"::1/128\""));
        assert_ne!(text(&Kind::Inet, "10.0.0.1"), message(&Kind::Inet, "\"10.0.0.1/24\""));
        assert_ne!(text(&Kind::TextOrJson, "{a"), text(&Kind::TextOrJson, "{b"));
    }

    #[test]
    fn bytes_and_booleans() {
        assert_eq!(text(&Kind::Bytes, "\\x00ff41"), message(&Kind::Bytes, "\"AP9B\""));
        assert_ne!(text(&Kind::Bytes, "\\x00ff41"), message(&Kind::Bytes, "\"AP9C\""));
        assert_eq!(text(&Kind::Bytes, "\\x"), message(&Kind::Bytes, "\"\""));
        assert_eq!(text(&Kind::Bool, "t"), message(&Kind::Bool, "true"));
        assert_ne!(text(&Kind::Bool, "t"), message(&Kind::Bool, "false"));
        assert_ne!(text(&Kind::Bool, "f"), message(&Kind::Bool, "0"));
    }

    #[test]
    fn structures_by_content() {
        assert_eq!(text(&Kind::Json, "{\"b\":[1,null],\"a\":2.0}"), message(&Kind::Json, "{\"a\":2,\"b\":[1.0,null]}"));
        assert_ne!(text(&Kind::Json, "[1,2]"), text(&Kind::Json, "[12]"));
        assert_ne!(text(&Kind::Json, "[\"1\"]"), text(&Kind::Json, "[1]"));
        assert_ne!(text(&Kind::Json, "[[1],2]"), text(&Kind::Json, "[[1,2]]"));
        assert_ne!(text(&Kind::Json, "{\"a\":\"b\"}"), text(&Kind::Json, "{\"ab\":\"\"}"));
        assert!(is_json_null(&Kind::Json, " null\n") && !is_json_null(&Kind::Json, "\"null\""));
        assert!(!is_json_null(&Kind::Text, "null"));
        let numbers = Kind::Array(Box::new(Kind::Number));
        assert_eq!(text(&numbers, "[1.50,null]"), message(&numbers, "[1.5,null]"));
        assert_ne!(text(&numbers, "[1,null]"), message(&numbers, "[1]"));
        assert_ne!(text(&numbers, "[[1],[2]]"), message(&numbers, "[1,2]"));
        let blobs = Kind::Array(Box::new(Kind::Bytes));
        assert_eq!(text(&blobs, "[\"\\\\x00ff41\"]"), message(&blobs, "[\"AP9B\"]"));
        let local = Kind::Array(Box::new(Kind::Timestamp(Some(chrono_tz::Europe::Berlin))));
        assert_eq!(text(&local, "[\"2025-01-15T12:24:00\"]"), message(&local, "[\"2025-01-15T11:24:00Z\"]"));
        assert_eq!(message(&Kind::Json, &json!({"a": "x"}).to_string()), text(&Kind::Json, "{\"a\" : \"x\"}"));
    }
}
