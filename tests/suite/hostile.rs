//! A topic full of payloads that do not belong there: every good row lands, every other record is a dead
//! letter with its exact bytes, and nothing panics.

pub mod payloads;

use crate::harness::{
    Run, Test,
    kafka::{Message, create_topic, read_topic},
    lake::{self, DeadLetter, Row},
    run::Exit,
};
use crate::landing::{self, Raw, Table, Writer};
use base64::Engine;
use chrono::{DateTime, Utc};
use payloads::{Case, Expect, cases};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// The closed set of `../shared/design/land.md`; a reason that is added there is added here.
const REASONS: &[&str] = &[
    "schema_validation_failed",
    "missing_required_field",
    "invalid_timestamp",
    "invalid_rating_value",
    "null_key",
    "negative_amount",
];
const PARTITIONS: i32 = 3;
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_hostile_topic_lands_by_the_columns_of_a_table() {
    let test = Test::new();
    landing::create_orders(&test);
    let table = Table::orders(test.dir(), &test.topic("orders"));
    lands_what_is_good(&test, &table);
}

#[test]
fn a_hostile_topic_lands_by_a_json_schema() {
    let test = Test::new();
    let schema = landing::orders_schema(&test);
    let table = Table::orders_by_file(test.dir(), &test.topic("orders"), &schema);
    lands_what_is_good(&test, &table);
}

fn lands_what_is_good(test: &Test, table: &Table) {
    create_topic(&test.brokers, &table.topic, PARTITIONS, &[("max.message.bytes", "20000000")]);
    let cases = cases();
    assert!(cases.len() >= 300, "only {} payloads", cases.len());
    write(test, table, &cases);
    let sent: BTreeMap<(i32, i64), Message> = read_topic(&test.brokers, &table.topic, true)
        .into_iter()
        .map(|message| ((message.partition, message.offset), message))
        .collect();
    assert_eq!(sent.len(), cases.len() * 2, "every case and a good one after each");

    let config = landing::land_config(test, std::slice::from_ref(table), &["rotate_ms: 500"]);
    let file = test.write("land.yml", &config);
    let mut run =
        Run::start(test, &["land", "-c", &file.display().to_string(), "--until-caught-up", "--format", "json"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0));
    assert!(!run.stderr().contains("panicked"), "no panic");
    let report = run.json();

    table.assert_exactly(&sent.keys().copied().collect());
    let rows: BTreeMap<(i32, i64), Row> = lake::read_table(&table.path)
        .into_iter()
        .map(|row| ((number(&row["_kafka_partition"]) as i32, number(&row["_kafka_offset"])), row))
        .collect();
    let letters: BTreeMap<(i32, i64), DeadLetter> = lake::dead_letters(&table.dead_letters)
        .into_iter()
        .map(|letter| ((letter.partition as i32, letter.offset), letter))
        .collect();
    assert_eq!(rows.len() + letters.len(), sent.len(), "produced is landed and dead letters");

    let mut faults = Vec::new();
    for (position, message) in &sent {
        let case = case_of(&cases, message);
        let fault = match (rows.get(position), letters.get(position), case.expect) {
            (Some(_), None, Expect::Dead(_)) => Some("landed".to_owned()),
            (Some(row), None, _) => row_fault(row, message),
            (None, Some(letter), Expect::Row) => {
                Some(format!("a dead letter: {} {}", letter.reason, letter.row["error_detail"]))
            }
            (None, Some(letter), expect) => letter_fault(letter, message, &table.topic, expect),
            _ => Some("neither".to_owned()),
        };
        faults.extend(fault.map(|fault| format!("{}: {fault}", case.what)));
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), sent.len(), faults.join("\n"));

    let by_reason = letters.values().fold(BTreeMap::<&str, u64>::new(), |mut counts, letter| {
        *counts.entry(&letter.reason).or_default() += 1;
        counts
    });
    assert_eq!(report["land"]["rows"], rows.len(), "the summary's rows");
    assert_eq!(report["land"]["dead_letters"], serde_json::json!(by_reason), "the summary's dead letters");
}

/// The record of the nth case in one of three partitions, under the nth of odd keys (one of which is the good one) and with odd headers, the
/// first of which says the number.
pub fn odd(n: usize, payload: &Option<Vec<u8>>, good_key: &[u8]) -> Raw {
    let keys = [
        Some(good_key.to_vec()),
        None,
        Some(Vec::new()),
        Some(vec![0xff, 0x00, 0xfe]),
        Some(b"../../x=%2F\n".to_vec()),
        Some(vec![b'k'; 10_000]),
    ];
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let headers = [
        vec![],
        vec![header("null", None)],
        vec![header("empty", Some(b"")), header("", Some(b"no name"))],
        vec![header("twice", Some(b"1")), header("twice", None), header("twice", Some(b"\xff\x00"))],
        vec![header("../é\u{1F354}", Some(b"../../etc/passwd")), header("x=y", Some(&[b'v'; 5_000]))],
        (0..100).map(|n| header(&format!("h{n}"), Some(b"v"))).collect(),
    ];
    let mut all = vec![header("case", Some(n.to_string().as_bytes()))];
    all.extend(headers[n % headers.len()].iter().cloned());
    // 7 and 6 have no common divisor: every key meets every kind of header.
    let key = keys[(n / 7) % keys.len()].clone();
    Raw { partition: n as i32 % PARTITIONS, key, value: payload.clone(), headers: all }
}

/// Each case under an odd key with odd headers, and after each a good order.
fn write(test: &Test, table: &Table, cases: &[Case]) {
    let writer = Writer::new(&test.brokers, &table.topic);
    for (n, case) in cases.iter().enumerate() {
        writer.send(&odd(n, &case.payload, b"101"));
        writer.order(n as i32 % PARTITIONS, n as i64, &format!("2025-01-{:02}T12:24:{:02}Z", n % 5 + 10, n % 60));
    }
    writer.flush();
}

fn case_of<'a>(cases: &'a [Case], message: &Message) -> std::borrow::Cow<'a, Case> {
    match message.headers.first() {
        Some((name, Some(value))) if name == "case" => {
            let n: usize = String::from_utf8_lossy(value).parse().expect("the case's number");
            assert_eq!(cases[n].payload, message.value, "the topic holds what was sent");
            std::borrow::Cow::Borrowed(&cases[n])
        }
        _ => std::borrow::Cow::Owned(Case {
            what: "a good order".to_owned(),
            payload: message.value.clone(),
            expect: Expect::Row,
        }),
    }
}

/// What is wrong with a row, judged by an independent reading of its payload.
fn row_fault(row: &Row, message: &Message) -> Option<String> {
    let sent = match serde_json::from_slice::<Value>(message.value.as_deref().unwrap_or_default()) {
        Ok(sent) => sent,
        Err(error) => return Some(format!("landed, and is no JSON: {error}")),
    };
    for field in ["customer_name", "restaurant_name", "item", "order_status"] {
        if row[field] != sent[field] {
            return Some(format!("{field} is {}, sent {}", row[field], sent[field]));
        }
    }
    for field in ["order_id", "amount"] {
        let (landed, written) = (decimal(&row[field].to_string()), decimal(&sent[field].to_string()));
        if landed != written {
            return Some(format!("{field} is {}, sent {}", row[field], sent[field]));
        }
    }
    let landed: DateTime<Utc> = match row["created_at"].as_str().unwrap_or_default().parse() {
        Ok(landed) => landed,
        Err(error) => return Some(format!("created_at is {}: {error}", row["created_at"])),
    };
    if row["date"] != landed.format("%Y-%m-%d").to_string() {
        return Some(format!("{} stands under {}", row["created_at"], row["date"]));
    }
    // chrono takes less than could be defended; what it takes must agree, to the microsecond.
    let written = DateTime::parse_from_rfc3339(sent["created_at"].as_str().unwrap_or_default());
    let is_leap_second = sent["created_at"].as_str().unwrap_or_default().contains(":60");
    match written {
        Ok(written) if !is_leap_second && written.timestamp_micros() != landed.timestamp_micros() => {
            Some(format!("created_at is {landed}, sent {written}"))
        }
        _ => None,
    }
}

fn letter_fault(letter: &DeadLetter, message: &Message, topic: &str, expect: Expect) -> Option<String> {
    if letter.payload != message.value {
        return Some("the payload differs".to_owned());
    }
    let key = bytes(&letter.row["key"]);
    if key != message.key {
        return Some(format!("the key is {key:?}, sent {:?}", message.key));
    }
    let headers = headers(&letter.row["headers"]);
    if headers != message.headers {
        return Some(format!("the headers are {headers:?}, sent {:?}", message.headers));
    }
    if letter.topic != topic {
        return Some(format!("the topic is {}", letter.topic));
    }
    let timestamp = letter.row["kafka_timestamp"].as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
    if timestamp.map(|timestamp| timestamp.timestamp_millis()) != Some(message.timestamp_ms) {
        return Some(format!("the timestamp is {}, sent {}", letter.row["kafka_timestamp"], message.timestamp_ms));
    }
    if letter.row["error_detail"].as_str().is_none_or(str::is_empty) || letter.row["error_ts"].is_null() {
        return Some("it says neither why nor when".to_owned());
    }
    let text = String::from_utf8(message.value.clone().unwrap_or_default()).ok().filter(|_| message.value.is_some());
    if letter.row["raw_text"].as_str() != text.as_deref() {
        return Some("the text differs".to_owned());
    }
    if !REASONS.contains(&letter.reason.as_str()) {
        return Some(format!("the reason {} is not of the closed set", letter.reason));
    }
    match expect {
        Expect::Dead(reasons) if !reasons.is_empty() && !reasons.contains(&letter.reason.as_str()) => {
            Some(format!("the reason is {} ({}), not one of {reasons:?}", letter.reason, letter.row["error_detail"]))
        }
        _ => None,
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().expect("a number")
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    let list = value.as_array()?;
    Some(list.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()).expect("a byte")).collect())
}

/// A JSON array of name and value in base64; null where there are none.
pub fn headers(value: &Value) -> Vec<(String, Option<Vec<u8>>)> {
    let list: Vec<(String, Option<String>)> =
        value.as_str().map_or_else(Vec::new, |text| serde_json::from_str(text).expect("an array of pairs"));
    let decode = |value: String| base64::engine::general_purpose::STANDARD.decode(value).expect("base64");
    list.into_iter().map(|(name, value)| (name, value.map(decode))).collect()
}

/// A JSON number by its value: sign, digits without zeros around, exponent of the last one. Anything else by its text.
fn decimal(text: &str) -> (bool, String, i64) {
    let Some(body) =
        text.strip_prefix('-').or(Some(text)).filter(|body| body.starts_with(|c: char| c.is_ascii_digit()))
    else {
        return (false, text.to_owned(), 0);
    };
    let (mantissa, exponent) = body.split_once(['e', 'E']).unwrap_or((body, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    let trimmed = significant.trim_end_matches('0');
    if trimmed.is_empty() {
        return (false, "0".to_owned(), 0);
    }
    let zeros = (significant.len() - trimmed.len()) as i64;
    let exponent = exponent.parse::<i64>().expect("an exponent") - fraction.len() as i64 + zeros;
    (text.starts_with('-'), trimmed.to_owned(), exponent)
}

#[test]
fn numbers_are_compared_by_value() {
    for (one, other) in [("220.0", "2.2e2"), ("-0.0", "0"), ("1000e-1", "100"), ("0.10", "1E-1"), ("null", "null")] {
        assert_eq!(decimal(one), decimal(other), "{one} and {other}");
    }
    for (one, other) in [("1", "-1"), ("1", "10"), ("0.1", "0.01"), ("null", "0")] {
        assert_ne!(decimal(one), decimal(other), "{one} and {other}");
    }
}
