//! Records as bytes: the JSON of an event, and the ways in which a producer gets it wrong.

use super::{draws::mix, message::Writer};
use serde::Serialize;

/// What is wrong with a record. It keeps its key, so that it stays in its stream's partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// The JSON breaks off.
    CutOff,
    /// Bytes that are not UTF-8.
    InvalidUtf8,
    /// JSON, but a list.
    NotAnObject,
    /// `stream_id` is a list (chat), `viewer_count` a word (viewers).
    WrongType,
    /// No `stream_id`.
    NoStream,
    /// `stream_id` is null.
    NullStream,
    /// No `timestamp`.
    NoTimestamp,
    /// `timestamp` is no time.
    InvalidTimestamp,
}

impl Defect {
    pub const ALL: [Defect; 8] = [
        Defect::CutOff,
        Defect::InvalidUtf8,
        Defect::NotAnObject,
        Defect::WrongType,
        Defect::NoStream,
        Defect::NullStream,
        Defect::NoTimestamp,
        Defect::InvalidTimestamp,
    ];

    /// The dead-letter reason that it is to get, where `stream_id` may not be null.
    pub fn reason(self) -> &'static str {
        match self {
            Defect::CutOff | Defect::InvalidUtf8 | Defect::NotAnObject | Defect::WrongType => {
                "schema_validation_failed"
            }
            Defect::NoStream | Defect::NullStream => "null_key",
            Defect::NoTimestamp => "missing_required_field",
            Defect::InvalidTimestamp => "invalid_timestamp",
        }
    }
}

/// Of a chat message, besides its text and emotes.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    pub id: u128,
    pub stream: &'a str,
    pub user: u32,
    pub username: &'a str,
    pub time_ms: i64,
    /// Else the field is missing, and the emotes are in the text alone.
    pub with_emotes: bool,
    /// Whether the text goes as `\u` escapes wherever it is not ASCII, as some libraries write it.
    pub as_escapes: bool,
}

/// An id no other number has, with the digits of a random UUID.
pub fn event_id(salt: u64, number: u64) -> u128 {
    // All 64 bits of a one-to-one mixture of the number, around the bits that a UUID owns.
    let own = mix(number ^ salt);
    let more = mix(own ^ mix(salt)) >> 6;
    let high = (own >> 16 << 16) | 0x4000 | (own >> 4 & 0x0fff);
    let low = 1 << 63 | (own & 0xf) << 58 | more;
    u128::from(high) << 64 | u128::from(low)
}

/// Writes payloads into a buffer that it is given.
#[derive(Debug, Clone, Default)]
pub struct Form {
    date: String,
    day: Option<i64>,
}

impl Form {
    pub fn chat(&mut self, chat: &Chat<'_>, writer: &Writer, defect: Option<Defect>, payload: &mut Vec<u8>) {
        payload.extend_from_slice(b"{\"event_id\":\"");
        push_uuid(payload, chat.id);
        payload.push(b'"');
        push_stream(payload, chat.stream, defect, true);
        payload.extend_from_slice(b",\"user_id\":\"u");
        push_number(payload, u64::from(chat.user));
        payload.extend_from_slice(b"\",\"username\":\"");
        push_escaped(payload, chat.username, chat.as_escapes);
        payload.extend_from_slice(b"\",\"message\":\"");
        push_escaped(payload, writer.text(), chat.as_escapes);
        if defect == Some(Defect::InvalidUtf8) {
            // The first half of a character of two bytes.
            payload.push(0xc3);
        }
        payload.push(b'"');
        if chat.with_emotes {
            payload.extend_from_slice(b",\"emotes\":[");
            for (place, emote) in writer.emotes().iter().enumerate() {
                if place > 0 {
                    payload.push(b',');
                }
                payload.push(b'"');
                payload.extend_from_slice(emote.as_bytes());
                payload.push(b'"');
            }
            payload.push(b']');
        }
        self.end(chat.time_ms, defect, payload);
    }

    pub fn viewers(&mut self, stream: &str, count: u32, time_ms: i64, defect: Option<Defect>, payload: &mut Vec<u8>) {
        payload.push(b'{');
        push_stream(payload, stream, defect, false);
        if defect != Some(Defect::NoStream) {
            payload.push(b',');
        }
        payload.extend_from_slice(b"\"viewer_count\":");
        match defect {
            Some(Defect::WrongType) => payload.extend_from_slice(b"\"many\""),
            Some(Defect::InvalidUtf8) => payload.extend_from_slice(b"\"\xff\""),
            _ => push_number(payload, u64::from(count)),
        }
        self.end(time_ms, defect, payload);
    }

    /// The timestamp and the closing brace, or what a defect makes of it all.
    fn end(&mut self, time_ms: i64, defect: Option<Defect>, payload: &mut Vec<u8>) {
        match defect {
            Some(Defect::CutOff) => return,
            Some(Defect::NotAnObject) => {
                payload.clear();
                payload.extend_from_slice(b"[1,2,3]");
                return;
            }
            Some(Defect::NoTimestamp) => {}
            Some(Defect::InvalidTimestamp) => payload.extend_from_slice(b",\"timestamp\":\"half past nine\""),
            _ => {
                payload.extend_from_slice(b",\"timestamp\":\"");
                self.push_time(payload, time_ms);
                payload.push(b'"');
            }
        }
        payload.push(b'}');
    }

    /// `2025-01-15T12:24:00.123Z`
    pub fn push_time(&mut self, payload: &mut Vec<u8>, time_ms: i64) {
        let day = time_ms.div_euclid(86_400_000);
        if self.day != Some(day) {
            let date = chrono::DateTime::from_timestamp_millis(time_ms).unwrap_or_default();
            self.date = date.format("%Y-%m-%dT").to_string();
            self.day = Some(day);
        }
        payload.extend_from_slice(self.date.as_bytes());
        let of_day = time_ms.rem_euclid(86_400_000) as u32;
        let digits = |number: u32| [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8];
        payload.extend_from_slice(&digits(of_day / 3_600_000));
        payload.push(b':');
        payload.extend_from_slice(&digits(of_day / 60_000 % 60));
        payload.push(b':');
        payload.extend_from_slice(&digits(of_day / 1_000 % 60));
        payload.extend_from_slice(&[b'.', b'0' + (of_day / 100 % 10) as u8]);
        payload.extend_from_slice(&digits(of_day));
        payload.push(b'Z');
    }
}

/// As [`Form::push_time`], for a few times.
pub fn iso_time(time_ms: i64) -> String {
    let mut text = Vec::new();
    Form::default().push_time(&mut text, time_ms);
    String::from_utf8(text).unwrap_or_default()
}

fn push_stream(payload: &mut Vec<u8>, stream: &str, defect: Option<Defect>, is_next: bool) {
    if defect == Some(Defect::NoStream) {
        return;
    }
    if is_next {
        payload.push(b',');
    }
    payload.extend_from_slice(b"\"stream_id\":");
    // A viewer event's own wrong type is that of its count.
    match defect {
        Some(Defect::NullStream) => payload.extend_from_slice(b"null"),
        Some(Defect::WrongType) if is_next => payload.extend_from_slice(b"[\"s\"]"),
        _ => {
            payload.push(b'"');
            payload.extend_from_slice(stream.as_bytes());
            payload.push(b'"');
        }
    }
}

fn push_number(payload: &mut Vec<u8>, number: u64) {
    payload.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn push_uuid(payload: &mut Vec<u8>, id: u128) {
    let mut text = [b'-'; 36];
    let places = (0..36).filter(|place| !matches!(place, 8 | 13 | 18 | 23));
    for (digit, place) in places.enumerate() {
        text[place] = HEX[(id >> (124 - 4 * digit)) as usize & 15];
    }
    payload.extend_from_slice(&text);
}

fn push_escaped(payload: &mut Vec<u8>, text: &str, as_escapes: bool) {
    if as_escapes && !text.is_ascii() {
        let mut units = [0; 2];
        for character in text.chars() {
            if character.is_ascii() {
                push_escaped_byte(payload, character as u8);
            } else {
                character.encode_utf16(&mut units).iter().for_each(|unit| push_unit(payload, *unit));
            }
        }
        return;
    }
    // Whole stretches of what needs no escape.
    let bytes = text.as_bytes();
    let mut done = 0;
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(byte, b'"' | b'\\' | 0..0x20) {
            payload.extend_from_slice(&bytes[done..place]);
            push_escaped_byte(payload, *byte);
            done = place + 1;
        }
    }
    payload.extend_from_slice(&bytes[done..]);
}

fn push_escaped_byte(payload: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => payload.extend_from_slice(&[b'\\', byte]),
        b'\n' => payload.extend_from_slice(b"\\n"),
        0..0x20 => push_unit(payload, u16::from(byte)),
        _ => payload.push(byte),
    }
}

fn push_unit(payload: &mut Vec<u8>, unit: u16) {
    let digit = |shift: u16| HEX[usize::from(unit >> shift) & 15];
    payload.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn any_text_comes_back_from_its_json() {
        for text in ["plain", "a \"quote\" \\ and\nlines\t\u{1}\u{7f}", "¯\\_(ツ)_/¯ 👨‍👩‍👧 é ₿", ""]
        {
            for as_escapes in [false, true] {
                let mut json = vec![b'"'];
                push_escaped(&mut json, text, as_escapes);
                json.push(b'"');
                assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
                assert!(!as_escapes || json.is_ascii());
            }
        }
    }

    #[test]
    fn times_are_written_as_they_are() {
        let mut form = Form::default();
        for (time_ms, text) in [
            (1_736_943_840_123, "2025-01-15T12:24:00.123Z"),
            (1_736_985_599_999, "2025-01-15T23:59:59.999Z"),
            (1_736_985_600_000, "2025-01-16T00:00:00.000Z"),
            (1_736_943_840_000, "2025-01-15T12:24:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            let mut payload = Vec::new();
            form.push_time(&mut payload, time_ms);
            assert_eq!(String::from_utf8(payload).unwrap(), text);
        }
    }

    #[test]
    fn ids_are_uuids_and_no_two_are_alike() {
        let mut payload = Vec::new();
        push_uuid(&mut payload, event_id(7, 1));
        let text = String::from_utf8(payload).unwrap();
        assert!(text.len() == 36 && &text[14..15] == "4" && "89ab".contains(&text[19..20]), "{text}");
        let ids: HashSet<u128> = (0..200_000).map(|number| event_id(7, number)).collect();
        assert_eq!(ids.len(), 200_000);
        assert!(!ids.contains(&event_id(8, 1)));
    }
}
