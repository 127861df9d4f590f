//! An event as the recomputation keeps it, and its form in temporary files.

use xxhash_rust::xxh3::xxh3_64;

/// What of a record counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Since 1970 UTC.
    pub at_ms: i64,
    pub input: u16,
    pub partition: i32,
    pub offset: i64,
    /// Hash of the id.
    pub id: Option<u64>,
    pub key: String,
    /// As the fields of the input that are measured.
    pub values: Vec<Value>,
}

/// A measured field.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    Float(f64),
    /// Sentiment, in steps of 1e-4.
    Score(i32),
    Texts(Vec<Text>),
}

/// A text, as far as it is counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// Of the whole text.
    pub hash: u64,
    /// Empty where only different texts are counted.
    pub shown: String,
    pub is_cut: bool,
}

/// Longer values are counted under their beginning.
pub const SHOWN_BYTES: usize = 256;

impl Text {
    pub fn new(text: &str, is_tallied: bool) -> Text {
        let mut end = if is_tallied { text.len().min(SHOWN_BYTES) } else { 0 };
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let is_cut = is_tallied && end < text.len();
        Text { hash: xxh3_64(text.as_bytes()), shown: text[..end].to_owned(), is_cut }
    }
}

/// The order in which events are recomputed: by time; copies within a partition as they were read.
pub type Order = (i64, u16, i32, i64);

impl Event {
    pub fn order(&self) -> Order {
        (self.at_ms, self.input, self.partition, self.offset)
    }

    /// Appends the event with its length before it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.at_ms.to_le_bytes());
        out.extend_from_slice(&self.input.to_le_bytes());
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.push(u8::from(self.id.is_some()));
        out.extend_from_slice(&self.id.unwrap_or_default().to_le_bytes());
        self.encode_content(out);
        let length = (out.len() - begin - 4) as u32;
        out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn encode_content(&self, out: &mut Vec<u8>) {
        put_text(out, &self.key);
        put_length(out, self.values.len());
        for value in &self.values {
            match value {
                Value::Null => out.push(0),
                Value::Integer(value) => {
                    out.push(1);
                    out.extend_from_slice(&value.to_le_bytes());
                }
                Value::Float(value) => {
                    out.push(2);
                    out.extend_from_slice(&value.to_le_bytes());
                }
                Value::Score(steps) => {
                    out.push(3);
                    out.extend_from_slice(&steps.to_le_bytes());
                }
                Value::Texts(texts) => {
                    out.push(4);
                    put_length(out, texts.len());
                    for text in texts {
                        out.extend_from_slice(&text.hash.to_le_bytes());
                        out.push(u8::from(text.is_cut));
                        put_text(out, &text.shown);
                    }
                }
            }
        }
    }

    /// Of key, time and values: equal for copies of which it does not matter which one counts.
    pub fn content(&self) -> u64 {
        let mut bytes = self.at_ms.to_le_bytes().to_vec();
        self.encode_content(&mut bytes);
        xxh3_64(&bytes)
    }

    /// An event without the length before it. `None` where the bytes are not of [`Event::encode`].
    pub fn decode(mut bytes: &[u8]) -> Option<Event> {
        let from = &mut bytes;
        let (at_ms, input) = (i64::from_le_bytes(take(from)?), u16::from_le_bytes(take(from)?));
        let (partition, offset) = (i32::from_le_bytes(take(from)?), i64::from_le_bytes(take(from)?));
        let [has_id] = take(from)?;
        let id = Some(u64::from_le_bytes(take(from)?)).filter(|_| has_id == 1);
        let key = take_text(from)?;
        let mut values = Vec::with_capacity(4);
        for _ in 0..take_length(from)? {
            let [kind] = take(from)?;
            values.push(match kind {
                0 => Value::Null,
                1 => Value::Integer(i64::from_le_bytes(take(from)?)),
                2 => Value::Float(f64::from_le_bytes(take(from)?)),
                3 => Value::Score(i32::from_le_bytes(take(from)?)),
                _ => {
                    let mut texts = Vec::new();
                    for _ in 0..take_length(from)? {
                        let hash = u64::from_le_bytes(take(from)?);
                        let [is_cut] = take(from)?;
                        texts.push(Text { hash, shown: take_text(from)?, is_cut: is_cut == 1 });
                    }
                    Value::Texts(texts)
                }
            });
        }
        bytes.is_empty().then_some(Event { at_ms, input, partition, offset, id, key, values })
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&(length as u32).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_length(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    take(bytes).map(|length| u32::from_le_bytes(length) as usize)
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    let length = take_length(bytes)?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_its_encoding() {
        let values = vec![
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Float(-0.5),
            Value::Score(-9_999),
            Value::Texts(vec![Text::new("Kappa", true), Text::new(&"é".repeat(200), true), Text::new("u1", false)]),
        ];
        let event =
            Event { at_ms: -1, input: 1, partition: 2, offset: 3, id: Some(u64::MAX), key: "s1".to_owned(), values };
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        assert_eq!(u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len() - 4);
        assert_eq!(Event::decode(&bytes[4..]), Some(event.clone()));
        assert_eq!(Event::decode(&bytes[4..bytes.len() - 1]), None);
        let Value::Texts(texts) = &event.values[4] else { panic!() };
        assert_eq!((texts[0].is_cut, texts[1].is_cut, texts[1].shown.len()), (false, true, 256));
        assert_eq!((texts[2].is_cut, texts[2].shown.as_str()), (false, ""));
    }
}
