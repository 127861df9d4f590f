//! The columns of a file of dead letters, and its rows as values.

use super::reader::LakeReadError;
use arrow_array::{
    Array, ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    builder::{BinaryBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder},
    cast::AsArray,
    types::{Int32Type, Int64Type, TimestampMicrosecondType},
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use std::{path::Path, sync::Arc};

/// Microseconds, adjusted to UTC.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

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
        // As [`crate::record::headers`] writes them.
        field("headers", DataType::Utf8, true),
    ]))
}

/// Columns that are mostly distinct.
pub const UNIQUE: [&str; 4] = ["raw_payload", "raw_text", "kafka_offset", "key"];

/// What tells of a record without holding it.
const DESCRIBING: [&str; 7] =
    ["topic", "error_reason", "error_detail", "error_ts", "kafka_partition", "kafka_offset", "kafka_timestamp"];
/// The record itself.
const BODY: [&str; 3] = ["raw_payload", "key", "headers"];

/// Names of the columns to read for [`Letters`], with those of the body or without.
pub fn columns(with_body: bool) -> Vec<&'static str> {
    let body: &[&str] = if with_body { &BODY } else { &[] };
    DESCRIBING.iter().chain(body).copied().collect()
}

/// One dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Letter<'a> {
    pub payload: Option<&'a [u8]>,
    pub topic: &'a str,
    pub reason: &'a str,
    pub detail: &'a str,
    /// When it was refused, microseconds since 1970.
    pub refused_us: i64,
    pub partition: i32,
    pub offset: i64,
    /// Kafka's timestamp of the record, microseconds since 1970.
    pub recorded_us: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub headers: Option<&'a str>,
}

/// The rows of a batch that was read with [`columns`].
pub struct Letters {
    topic: StringArray,
    reason: StringArray,
    detail: StringArray,
    refused: TimestampMicrosecondArray,
    partition: Int32Array,
    offset: Int64Array,
    recorded: TimestampMicrosecondArray,
    body: Option<(BinaryArray, BinaryArray, StringArray)>,
}

impl Letters {
    /// `path` is named where a column is missing.
    pub fn new(batch: &RecordBatch, with_body: bool, path: &Path) -> Result<Letters, LakeReadError> {
        let missing = |column| LakeReadError::missing(path, column);
        let find = |column| batch.column_by_name(column).ok_or_else(|| missing(column));
        let text = |column| find(column)?.as_string_opt().cloned().ok_or_else(|| missing(column));
        let bytes = |column| find(column)?.as_binary_opt().cloned().ok_or_else(|| missing(column));
        let time = |column| {
            find(column)?.as_primitive_opt::<TimestampMicrosecondType>().cloned().ok_or_else(|| missing(column))
        };
        let (partition, offset) = ("kafka_partition", "kafka_offset");
        let body = match with_body {
            true => Some((bytes("raw_payload")?, bytes("key")?, text("headers")?)),
            false => None,
        };
        Ok(Letters {
            topic: text("topic")?,
            reason: text("error_reason")?,
            detail: text("error_detail")?,
            refused: time("error_ts")?,
            partition: find(partition)?.as_primitive_opt::<Int32Type>().cloned().ok_or_else(|| missing(partition))?,
            offset: find(offset)?.as_primitive_opt::<Int64Type>().cloned().ok_or_else(|| missing(offset))?,
            recorded: time("kafka_timestamp")?,
            body,
        })
    }

    pub fn len(&self) -> usize {
        self.offset.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn offset(&self, row: usize) -> i64 {
        self.offset.value(row)
    }

    /// Without its body where that was not read.
    pub fn letter(&self, row: usize) -> Letter<'_> {
        let body = self.body.as_ref();
        Letter {
            payload: body.and_then(|(payload, _, _)| payload.is_valid(row).then(|| payload.value(row))),
            topic: self.topic.value(row),
            reason: self.reason.value(row),
            detail: self.detail.value(row),
            refused_us: self.refused.value(row),
            partition: self.partition.value(row),
            offset: self.offset.value(row),
            recorded_us: self.recorded.is_valid(row).then(|| self.recorded.value(row)),
            key: body.and_then(|(_, key, _)| key.is_valid(row).then(|| key.value(row))),
            headers: body.and_then(|(_, _, headers)| headers.is_valid(row).then(|| headers.value(row))),
        }
    }
}

/// Dead letters on their way into a file.
#[derive(Default)]
pub struct Batch {
    payload: BinaryBuilder,
    text: StringBuilder,
    topic: StringBuilder,
    reason: StringBuilder,
    detail: StringBuilder,
    refused: TimestampMicrosecondBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    recorded: TimestampMicrosecondBuilder,
    key: BinaryBuilder,
    headers: StringBuilder,
    bytes: usize,
}

impl Batch {
    pub fn push(&mut self, letter: &Letter<'_>) {
        let text = letter.payload.and_then(|payload| simdutf8::basic::from_utf8(payload).ok());
        self.payload.append_option(letter.payload);
        self.text.append_option(text);
        self.topic.append_value(letter.topic);
        self.reason.append_value(letter.reason);
        self.detail.append_value(letter.detail);
        self.refused.append_value(letter.refused_us);
        self.partition.append_value(letter.partition);
        self.offset.append_value(letter.offset);
        self.recorded.append_option(letter.recorded_us);
        self.key.append_option(letter.key);
        self.headers.append_option(letter.headers);
        let length = |bytes: Option<usize>| bytes.unwrap_or_default();
        self.bytes += 2 * length(letter.payload.map(<[u8]>::len))
            + length(letter.key.map(<[u8]>::len))
            + length(letter.headers.map(str::len))
            + letter.detail.len()
            + 128;
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The letters so far, in columns of [`schema`]; none remain.
    pub fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let mut taken = std::mem::take(self);
        fn array(array: impl Array + 'static) -> ArrayRef {
            Arc::new(array)
        }
        RecordBatch::try_new(
            schema(),
            vec![
                array(taken.payload.finish()),
                array(taken.text.finish()),
                array(taken.topic.finish()),
                array(taken.reason.finish()),
                array(taken.detail.finish()),
                array(taken.refused.finish().with_timezone("UTC")),
                array(taken.partition.finish()),
                array(taken.offset.finish()),
                array(taken.recorded.finish().with_timezone("UTC")),
                array(taken.key.finish()),
                array(taken.headers.finish()),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_as_they_were_pushed() {
        let bare = Letter {
            payload: None,
            topic: "t",
            reason: "null_key",
            detail: "",
            refused_us: 1,
            partition: 2,
            offset: 3,
            recorded_us: None,
            key: None,
            headers: None,
        };
        let full = Letter {
            payload: Some(b"\xff\0"),
            detail: "d",
            recorded_us: Some(-1),
            key: Some(b""),
            headers: Some("[[\"h\",null]]"),
            ..bare
        };
        let mut batch = Batch::default();
        batch.push(&bare);
        batch.push(&full);
        assert!(batch.bytes() > 0);
        let taken = batch.take().unwrap();
        let letters = Letters::new(&taken, true, Path::new("f")).unwrap();
        assert_eq!([letters.letter(0), letters.letter(1)], [bare, full]);
        let without = Letters::new(&taken, false, Path::new("f")).unwrap();
        assert_eq!((without.len(), without.offset(1)), (2, 3));
        assert_eq!(without.letter(1), Letter { payload: None, key: None, headers: None, ..full });
        assert_eq!((batch.bytes(), batch.take().unwrap().num_rows()), (0, 0));
        let foreign = taken.project(&[2, 3]).unwrap();
        let error = Letters::new(&foreign, false, Path::new("f")).err().unwrap().to_string();
        assert!(error.contains("f is not a file of dead letters"), "{error}");
    }
}
