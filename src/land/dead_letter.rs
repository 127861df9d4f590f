//! Dead letters: records that could not become rows, with their exact bytes and the reason.

use super::{columns::timestamp_type, rows::Rows};
use crate::{
    kafka::consumer::Record,
    record::{reason::Rejection, time},
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use base64::Engine;
use std::sync::Arc;

/// The columns of a dead-letter file.
pub fn schema() -> SchemaRef {
    let field = |name: &str, data_type: DataType, nullable| Field::new(name, data_type, nullable);
    Arc::new(Schema::new(vec![
        // Null for a tombstone.
        field("raw_payload", DataType::Binary, true),
        // The same as text, where it is UTF-8.
        field("raw_text", DataType::Utf8, true),
        field("topic", DataType::Utf8, false),
        field("error_reason", DataType::Utf8, false),
        field("error_detail", DataType::Utf8, false),
        field("error_ts", timestamp_type(), false),
        field("kafka_partition", DataType::Int32, false),
        field("kafka_offset", DataType::Int64, false),
        field("kafka_timestamp", timestamp_type(), true),
        field("key", DataType::Binary, true),
        // A JSON array of [name, value in base64 or null], for names repeat and values are bytes.
        field("headers", DataType::Utf8, true),
    ]))
}

/// Adds `record`, rejected now. Gives the bytes by which the rows have grown.
pub fn push(rows: &mut Rows, topic: &str, record: &Record<'_>, rejection: &Rejection, now_micros: i64) -> usize {
    let text = record.payload.filter(|payload| simdutf8::basic::from_utf8(payload).is_ok());
    let headers = headers_json(&record.headers());
    let timestamp = record.timestamp_ms().and_then(|ms| ms.checked_mul(1_000)).filter(|micros| in_range(*micros));
    let columns = &mut rows.columns;
    columns[0].push_bytes_or_null(record.payload);
    columns[1].push_bytes_or_null(text);
    columns[2].push_bytes(topic.as_bytes());
    columns[3].push_bytes(rejection.reason.name().as_bytes());
    columns[4].push_bytes(rejection.detail.as_bytes());
    columns[5].push_i64(now_micros);
    columns[6].push_i32(record.partition);
    columns[7].push_i64(record.offset);
    match timestamp {
        Some(micros) => columns[8].push_i64(micros),
        None => columns[8].push_null(),
    }
    columns[9].push_bytes_or_null(record.key);
    columns[10].push_bytes_or_null(headers.as_deref().map(str::as_bytes));
    let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let text_bytes = length(record.payload)
        + length(text)
        + topic.len()
        + rejection.reason.name().len()
        + rejection.detail.len()
        + length(record.key)
        + headers.map_or(0, |headers| headers.len());
    let day = timestamp.unwrap_or(now_micros).div_euclid(time::MICROS_PER_DAY);
    rows.end_row(day as i32, text_bytes)
}

fn in_range(micros: i64) -> bool {
    let days = micros.div_euclid(time::MICROS_PER_DAY);
    (1..=9_999).contains(&i32::try_from(days).map_or(0, |days| time::civil_from_days(days).0))
}

fn headers_json(headers: &[(String, Option<Vec<u8>>)]) -> Option<String> {
    if headers.is_empty() {
        return None;
    }
    let encode = |value: &Vec<u8>| base64::engine::general_purpose::STANDARD.encode(value);
    let list: Vec<(&str, Option<String>)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_ref().map(encode))).collect();
    serde_json::to_string(&list).ok()
}
