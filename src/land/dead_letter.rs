//! Dead letters: records that could not become rows, with their exact bytes and the reason.

use super::rows::Rows;
use crate::{
    kafka::consumer::Record,
    record::{headers, reason::Rejection, time},
};

/// Adds `record`, rejected now, to rows of the columns of [`crate::lake::dead_letter::schema`]. Gives the bytes by which the rows have grown.
pub fn push(rows: &mut Rows, topic: &str, record: &Record<'_>, rejection: &Rejection, now_micros: i64) -> usize {
    let text = record.payload.filter(|payload| simdutf8::basic::from_utf8(payload).is_ok());
    let headers = headers::encode(&record.headers());
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
