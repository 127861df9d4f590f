//! `COPY … (FORMAT binary)` as rows of raw fields.

use bytes::{Bytes, BytesMut};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags and the length of the header's extension.
const HEADER_BYTES: usize = 19;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct BadCopy(pub &'static str);

/// Splits the stream into rows. The server sends a row a message; that it does is not relied on.
#[derive(Debug, Default)]
pub struct Splitter {
    buffer: Bytes,
    past_header: bool,
}

/// A row's fields: where each stands in the row's bytes, `None` for NULL.
pub type Fields = Vec<Option<(u32, u32)>>;

impl Splitter {
    /// Adds what came next. All whole rows must have been taken before.
    pub fn push(&mut self, message: Bytes) {
        if self.buffer.is_empty() {
            self.buffer = message;
        } else {
            let mut joined = BytesMut::with_capacity(self.buffer.len() + message.len());
            joined.extend_from_slice(&self.buffer);
            joined.extend_from_slice(&message);
            self.buffer = joined.freeze();
        }
    }

    /// The next whole row, if there is one, with its fields in `fields`.
    pub fn next(&mut self, fields: &mut Fields) -> Result<Option<Bytes>, BadCopy> {
        if !self.past_header {
            let Some(length) = self.buffer.get(15..HEADER_BYTES).and_then(|bytes| bytes.first_chunk::<4>()) else {
                return Ok(None);
            };
            let header = HEADER_BYTES + u32::from_be_bytes(*length) as usize;
            if !self.buffer.starts_with(SIGNATURE) {
                return Err(BadCopy("no COPY signature"));
            }
            if self.buffer.len() < header {
                return Ok(None);
            }
            let _ = self.buffer.split_to(header);
            self.past_header = true;
        }
        let Some(count) = self.buffer.first_chunk::<2>() else { return Ok(None) };
        let count = i16::from_be_bytes(*count);
        if count < 0 {
            // The trailer; nothing follows.
            self.buffer = Bytes::new();
            return Ok(None);
        }
        fields.clear();
        let mut at = 2_usize;
        for _ in 0..count {
            let Some(length) = self.buffer.get(at..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
            let length = i32::from_be_bytes(*length);
            at += 4;
            match u32::try_from(length) {
                Ok(length) => {
                    fields.push(Some((at as u32, length)));
                    at += length as usize;
                }
                Err(_) if length == -1 => fields.push(None),
                Err(_) => return Err(BadCopy("a field of negative length")),
            }
        }
        if at > self.buffer.len() {
            return Ok(None);
        }
        Ok(Some(self.buffer.split_to(at)))
    }
}

/// The bytes of a field.
#[inline]
pub fn field<'a>(row: &'a [u8], fields: &Fields, position: usize) -> Result<Option<&'a [u8]>, BadCopy> {
    match fields.get(position) {
        Some(Some((start, length))) => Ok(Some(&row[*start as usize..(*start + *length) as usize])),
        Some(None) => Ok(None),
        None => Err(BadCopy("fewer fields than asked for")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[0; 8]);
        for (number, text) in [(1_i32, Some("one")), (2, None), (3, Some(""))] {
            bytes.extend_from_slice(&2_i16.to_be_bytes());
            bytes.extend_from_slice(&4_i32.to_be_bytes());
            bytes.extend_from_slice(&number.to_be_bytes());
            match text {
                Some(text) => {
                    bytes.extend_from_slice(&(text.len() as i32).to_be_bytes());
                    bytes.extend_from_slice(text.as_bytes());
                }
                None => bytes.extend_from_slice(&(-1_i32).to_be_bytes()),
            }
        }
        bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        bytes
    }

    #[test]
    fn rows_come_whole_wherever_the_stream_is_split() {
        let stream = stream();
        for step in 1..=stream.len() {
            let mut splitter = Splitter::default();
            let mut fields = Fields::new();
            let mut rows = Vec::new();
            for part in stream.chunks(step) {
                splitter.push(Bytes::copy_from_slice(part));
                while let Some(row) = splitter.next(&mut fields).unwrap() {
                    let number = field(&row, &fields, 0).unwrap().map(|raw| raw[3]);
                    let text = field(&row, &fields, 1).unwrap().map(<[u8]>::to_vec);
                    rows.push((number, text));
                }
            }
            let wanted = vec![(Some(1), Some(b"one".to_vec())), (Some(2), None), (Some(3), Some(Vec::new()))];
            assert_eq!(rows, wanted, "parts of {step} bytes");
        }
    }

    #[test]
    fn another_stream_is_an_error() {
        let mut splitter = Splitter::default();
        splitter.push(Bytes::from(vec![b'x'; 40]));
        assert!(splitter.next(&mut Fields::new()).is_err());
    }
}
