//! What a single value must look like.

use super::{
    keys::{Format, Kind},
    tree::{Scalar, Style},
};

const LONGEST_NAME: usize = 100;
/// Kafka's own bound.
const LONGEST_TOPIC: usize = 249;

/// Whether `text` fits, else what is asked for ("must be …").
pub fn check_text(format: Format, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("a text that is not empty (remove the key to leave it out)".into());
    }
    if text.contains('\0') {
        return Err("a text without NUL characters".into());
    }
    match format {
        Format::Any => Ok(()),
        Format::Path => rule(!text.contains("://"), "a path on a local file system"),
        Format::Name => rule(
            text.len() <= LONGEST_NAME
                && is_word(text)
                && text.starts_with(|first: char| first.is_ascii_alphanumeric()),
            "a name of at most 100 letters, digits, dots, dashes and underscores that begins with a letter or digit",
        ),
        Format::Topic => rule(
            text.len() <= LONGEST_TOPIC && is_word(text) && text != "." && text != "..",
            "a Kafka topic: 1 to 249 letters, digits, dots, dashes and underscores, not \".\" or \"..\"",
        ),
        Format::Brokers => rule(
            text.split(',').all(|broker| is_address(broker.trim(), PortRule::Optional)),
            "a comma-separated list of host:port, without a scheme",
        ),
        Format::Listen => rule(is_address(text, PortRule::Required), "address:port, such as 127.0.0.1:9464, or null"),
        Format::Host => rule(is_word(text), "the name of a host without a port, such as headwater.example.org"),
        Format::Timezone => {
            rule(text.parse::<chrono_tz::Tz>().is_ok(), "the IANA name of a time zone, such as Europe/Berlin")
        }
        Format::Duration => rule(
            duration_ms(text).is_some(),
            "a whole number with its unit (ms, seconds, minutes, hours, days), such as 10 seconds, 1 minute or 60s",
        ),
        Format::JdbcUrl => super::jdbc::parse(text).map(|_| ()),
        Format::LakeFormat => match text {
            "parquet" => Ok(()),
            "delta" | "iceberg" => Err("parquet: this format does not exist yet in Headwater".into()),
            _ => Err("parquet, the only format that exists yet".into()),
        },
    }
}

/// Longest duration that is taken: a year.
const LONGEST_MS: i64 = 366 * 86_400_000;

/// Milliseconds of `10 seconds`, `1 minute`, `60s`; `None` where it is none, or not above zero.
pub fn duration_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "ms" | "millisecond" | "milliseconds" => 1,
        "s" | "sec" | "second" | "seconds" => 1_000,
        "m" | "min" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        _ => return None,
    };
    let number: i64 = text[..digits].parse().ok()?;
    number.checked_mul(unit).filter(|ms| (1..=LONGEST_MS).contains(ms))
}

fn rule(holds: bool, words: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(words.to_owned()) }
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[derive(Clone, Copy, PartialEq)]
enum PortRule {
    /// Any but 0.
    Optional,
    /// 0 takes a free one.
    Required,
}

fn is_address(text: &str, port: PortRule) -> bool {
    if text.contains("://") {
        return false;
    }
    let (host, number) = match text.rsplit_once(':') {
        Some((host, number)) if !number.ends_with(']') => (host, Some(number)),
        _ => (text, None),
    };
    let host_is_right = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && is_word(host),
    };
    let port_is_right = match (number, port) {
        (None, PortRule::Optional) => true,
        (None, PortRule::Required) => false,
        (Some(number), _) => {
            number.bytes().all(|byte| byte.is_ascii_digit())
                && number.parse::<u16>().is_ok_and(|number| number > 0 || port == PortRule::Required)
        }
    };
    host_is_right && port_is_right
}

/// Whether a scalar fits its key, else what is asked for.
pub fn check_scalar(kind: Kind, scalar: &Scalar) -> Result<(), String> {
    match kind {
        Kind::Text(format) => check_text(format, &scalar.text),
        Kind::Integer { min, max } => {
            integer(scalar, min, max).map(|_| ()).ok_or_else(|| integer_words(scalar, min, max))
        }
        Kind::Seconds { max } => {
            let words = || format!("a number above 0 and at most {max}{}", quotes_hint(scalar));
            seconds(scalar, max).map(|_| ()).ok_or_else(words)
        }
        Kind::Number { min, max } => {
            let words = || format!("a number from {min} to {max}{}", quotes_hint(scalar));
            number(scalar, min, max).map(|_| ()).ok_or_else(words)
        }
        Kind::Boolean => boolean(scalar).map(|_| ()).ok_or_else(|| format!("true or false{}", quotes_hint(scalar))),
        Kind::Choice(choices) => {
            choice(choices, &scalar.text).map(|_| ()).ok_or_else(|| format!("one of {}", choices.join(", ")))
        }
        Kind::Properties | Kind::TextList(_) | Kind::Section | Kind::SectionList => Err(kind_words(kind).to_owned()),
    }
}

fn integer_words(scalar: &Scalar, min: i64, max: i64) -> String {
    let range = if max == i64::MAX { format!("at least {min}") } else { format!("from {min} to {max}") };
    format!("a whole number {range}{}", quotes_hint(scalar))
}

fn quotes_hint(scalar: &Scalar) -> &'static str {
    if scalar.style == Style::Quoted { ", without quotes" } else { "" }
}

/// What a value of this kind is, in words.
pub fn kind_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Text(_) | Kind::Choice(_) => "a text",
        Kind::Integer { .. } | Kind::Seconds { .. } | Kind::Number { .. } => "a number",
        Kind::Boolean => "true or false",
        Kind::TextList(_) => "a list of texts, such as [a, b]",
        Kind::Properties => "a map of property names to values",
        Kind::Section => "a section of keys",
        Kind::SectionList => "a list of sections, each begun by a dash",
    }
}

pub fn integer(scalar: &Scalar, min: i64, max: i64) -> Option<i64> {
    if scalar.style == Style::Quoted {
        return None;
    }
    scalar.text.trim().parse().ok().filter(|number| (min..=max).contains(number))
}

pub fn seconds(scalar: &Scalar, max: f64) -> Option<f64> {
    if scalar.style == Style::Quoted {
        return None;
    }
    let number: f64 = scalar.text.trim().parse().ok()?;
    // A half of a millisecond rounds to one, the least that can be waited.
    (number >= 0.0005 && number <= max).then_some(number)
}

pub fn number(scalar: &Scalar, min: f64, max: f64) -> Option<f64> {
    if scalar.style == Style::Quoted {
        return None;
    }
    scalar.text.trim().parse().ok().filter(|number| (min..=max).contains(number))
}

pub fn boolean(scalar: &Scalar) -> Option<bool> {
    match (scalar.style, scalar.text.trim().to_lowercase().as_str()) {
        (Style::Quoted, _) => None,
        (_, "true") => Some(true),
        (_, "false") => Some(false),
        _ => None,
    }
}

/// The choice as the table of keys spells it; capitals do not matter.
pub fn choice(choices: &'static [&'static str], text: &str) -> Option<&'static str> {
    choices.iter().find(|choice| choice.eq_ignore_ascii_case(text)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(format: Format, text: &str) -> bool {
        check_text(format, text).is_ok()
    }

    #[test]
    fn texts() {
        assert!(fits(Format::Topic, "2025em1100506_food_orders_raw"));
        assert!(!fits(Format::Topic, "a b") && !fits(Format::Topic, "..") && !fits(Format::Topic, "é"));
        assert!(fits(Format::Topic, &"x".repeat(249)) && !fits(Format::Topic, &"x".repeat(250)));
        assert!(fits(Format::Name, "a.b-c_9") && !fits(Format::Name, "-a") && !fits(Format::Name, "a/b"));
        assert!(fits(Format::Brokers, "kafka:29092") && fits(Format::Brokers, "a:1, b:2,[::1]:9092,c"));
        assert!(
            !fits(Format::Brokers, "PLAINTEXT://a:1")
                && !fits(Format::Brokers, "a:1,")
                && !fits(Format::Brokers, "a:0")
        );
        assert!(
            fits(Format::Listen, "127.0.0.1:0")
                && fits(Format::Listen, "[::]:9464")
                && fits(Format::Listen, "localhost:1")
        );
        assert!(!fits(Format::Listen, "9464") && !fits(Format::Listen, ":9464") && !fits(Format::Listen, "a:99999"));
        assert!(!fits(Format::Listen, "a:+1"));
        assert!(fits(Format::Timezone, "Europe/Berlin") && !fits(Format::Timezone, "Mars/Base"));
        assert!(fits(Format::Path, "/lake/a") && !fits(Format::Path, "s3://lake/a"));
        assert!(fits(Format::LakeFormat, "parquet"));
        assert!(check_text(Format::LakeFormat, "delta").unwrap_err().contains("does not exist yet"));
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in [
            ("1 minute", 60_000),
            ("10 seconds", 10_000),
            ("60s", 60_000),
            (" 5 Min ", 300_000),
            ("250 ms", 250),
            ("2h", 7_200_000),
            ("1 day", 86_400_000),
        ] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for wrong in
            ["", "60", "s", "0 s", "-1 s", "1.5 s", "1 fortnight", "99999999999999999999 s", "9999 days", "1 s 2"]
        {
            assert_eq!(duration_ms(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_are_not_in_quotes_unless_a_variable_gave_them() {
        let scalar = |text: &str, style| Scalar { text: text.into(), style };
        assert_eq!(integer(&scalar("5", Style::Plain), 1, 9), Some(5));
        assert_eq!(integer(&scalar("5", Style::Loose), 1, 9), Some(5));
        assert_eq!(integer(&scalar("5", Style::Quoted), 1, 9), None);
        assert_eq!(integer(&scalar("10", Style::Plain), 1, 9), None);
        assert_eq!(integer(&scalar("5.0", Style::Plain), 1, 9), None);
        assert_eq!(seconds(&scalar("0.5", Style::Plain), 9.0), Some(0.5));
        for wrong in ["0", "-1", "NaN", "inf", "x", "10", "0.0001"] {
            assert_eq!(seconds(&scalar(wrong, Style::Plain), 9.0), None, "{wrong}");
        }
        assert_eq!(boolean(&scalar("True", Style::Plain)), Some(true));
        assert_eq!(boolean(&scalar("yes", Style::Plain)), None);
    }
}
