//! A letter as one JSON object: what `export` writes a line of, and `show --format json` prints.

use super::letter::Letter;
use crate::clock;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer, ser::SerializeSeq};

/// Bytes are given as text where they are UTF-8, else as base64: of the two fields at most one is there, and
/// neither for what is null.
#[derive(Serialize)]
pub struct Form<'a> {
    pipeline: &'a str,
    stage: &'static str,
    job: Option<&'a str>,
    id: String,
    topic: &'a str,
    topic_id: &'a str,
    partition: i32,
    offset: i64,
    reason: &'a str,
    detail: &'a str,
    /// When it was refused.
    time: String,
    /// Kafka's timestamp of the record.
    record_time: Option<String>,
    day: String,
    replayed: Option<bool>,
    key: Option<&'a str>,
    key_base64: Option<String>,
    payload: Option<&'a str>,
    payload_base64: Option<String>,
    #[serde(serialize_with = "headers")]
    headers: &'a Letter,
    /// Whether the stored headers could not be read: then none are given.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    headers_damaged: bool,
}

#[derive(Serialize)]
struct Header<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

fn headers<S: Serializer>(letter: &&Letter, serializer: S) -> Result<S::Ok, S::Error> {
    let headers = &letter.body.headers;
    let mut list = serializer.serialize_seq(Some(headers.len()))?;
    for (name, value) in headers {
        let (name, name_base64) = either(Some(name));
        let (value, value_base64) = either(value.as_deref());
        list.serialize_element(&Header { name, name_base64, value, value_base64 })?;
    }
    list.end()
}

fn either(bytes: Option<&[u8]>) -> (Option<&str>, Option<String>) {
    match bytes.map(|bytes| (bytes, simdutf8::basic::from_utf8(bytes))) {
        None => (None, None),
        Some((_, Ok(text))) => (Some(text), None),
        Some((bytes, Err(_))) => (None, Some(STANDARD.encode(bytes))),
    }
}

/// `YYYY-MM-DD`.
pub fn day(days: i32) -> String {
    crate::record::time::partition(days).trim_start_matches("date=").to_owned()
}

impl<'a> Form<'a> {
    pub fn new(letter: &'a Letter) -> Form<'a> {
        let (key, key_base64) = either(letter.body.key.as_deref());
        let (payload, payload_base64) = either(letter.body.payload.as_deref());
        Form {
            pipeline: &letter.source.pipeline,
            stage: letter.source.stage,
            job: letter.source.job.as_deref(),
            id: letter.id().to_string(),
            topic: &letter.topic,
            topic_id: &letter.topic_id,
            partition: letter.partition,
            offset: letter.offset,
            reason: &letter.reason,
            detail: &letter.detail,
            time: clock::iso(letter.refused_us),
            record_time: letter.recorded_us.map(clock::iso),
            day: day(letter.day()),
            replayed: letter.replayed,
            key,
            key_base64,
            payload,
            payload_base64,
            headers: letter,
            headers_damaged: letter.body.headers_damaged,
        }
    }
}
