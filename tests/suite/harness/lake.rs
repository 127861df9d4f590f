//! The lake as a reader sees it: the rows of every Parquet file under a table's root.

use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int16Array,
    Int32Array, Int64Array, LargeBinaryArray, ListArray, MapArray, StringArray, StructArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, cast::AsArray,
};
use arrow_schema::{DataType, TimeUnit};
use chrono::DateTime;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};
use std::{
    fs::File,
    path::{Path, PathBuf},
};

pub type Row = Map<String, Value>;

/// A dead letter, with what the tests ask for taken out of its row.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The exact bytes; none for a tombstone.
    pub payload: Option<Vec<u8>>,
    pub reason: String,
    pub topic: String,
    pub partition: i64,
    pub offset: i64,
    pub row: Row,
}

/// Every `*.parquet` under the directories `date=*` of a table's root, sorted.
pub fn table_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for directory in list(root).into_iter().filter(|path| name(path).starts_with("date=")) {
        files.extend(list(&directory).into_iter().filter(|path| name(path).ends_with(".parquet")));
    }
    files.sort();
    files
}

/// All rows of a table, in the order of its files, each with its partition as `date`. Binary values are
/// lists of numbers, timestamps ISO-8601 in UTC, decimals numbers with all their digits.
pub fn read_table(root: &Path) -> Vec<Row> {
    table_files(root).iter().flat_map(|file| read_file(file)).collect()
}

pub fn read_file(file: &Path) -> Vec<Row> {
    let date = file.parent().map(name).and_then(|name| name.strip_prefix("date=").map(str::to_owned));
    let open = File::open(file).expect("the file");
    let reader = ParquetRecordBatchReaderBuilder::try_new(open)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.expect("a batch");
        for n in 0..batch.num_rows() {
            let mut row = Row::new();
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                row.insert(field.name().clone(), value(column, n));
            }
            if let Some(date) = &date {
                row.insert("date".to_owned(), Value::String(date.clone()));
            }
            rows.push(row);
        }
    }
    rows
}

/// The dead letters under `root`, whose layout is that of any table.
pub fn dead_letters(root: &Path) -> Vec<DeadLetter> {
    let text = |row: &Row, column: &str| row[column].as_str().unwrap_or_default().to_owned();
    let number = |row: &Row, column: &str| row[column].as_i64().expect("a number");
    let letters = read_table(root).into_iter().map(|row| DeadLetter {
        payload: row["raw_payload"].as_array().map(|bytes| {
            bytes.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()).expect("a byte")).collect()
        }),
        reason: text(&row, "error_reason"),
        topic: text(&row, "topic"),
        partition: number(&row, "kafka_partition"),
        offset: number(&row, "kafka_offset"),
        row,
    });
    letters.collect()
}

fn list(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn value(column: &ArrayRef, n: usize) -> Value {
    if column.is_null(n) {
        return Value::Null;
    }
    fn as_<T: 'static>(column: &ArrayRef) -> &T {
        column.as_any().downcast_ref::<T>().expect("the array of its type")
    }
    let bytes = |bytes: &[u8]| bytes.iter().map(|byte| Value::from(*byte)).collect();
    let items = |items: ArrayRef| (0..items.len()).map(|n| value(&items, n)).collect();
    match column.data_type() {
        DataType::Boolean => as_::<BooleanArray>(column).value(n).into(),
        DataType::Int16 => as_::<Int16Array>(column).value(n).into(),
        DataType::Int32 => as_::<Int32Array>(column).value(n).into(),
        DataType::Int64 => as_::<Int64Array>(column).value(n).into(),
        DataType::Float32 => as_::<Float32Array>(column).value(n).into(),
        DataType::Float64 => as_::<Float64Array>(column).value(n).into(),
        DataType::Utf8 => as_::<StringArray>(column).value(n).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(n).into(),
        DataType::Binary => Value::Array(bytes(as_::<BinaryArray>(column).value(n))),
        DataType::LargeBinary => Value::Array(bytes(as_::<LargeBinaryArray>(column).value(n))),
        DataType::Decimal128(_, _) => {
            serde_json::from_str(&as_::<Decimal128Array>(column).value_as_string(n)).expect("a number")
        }
        DataType::Date32 => {
            as_::<Date32Array>(column).value_as_date(n).map_or(Value::Null, |date| date.to_string().into())
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            iso(DateTime::from_timestamp_micros(as_::<TimestampMicrosecondArray>(column).value(n)))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            iso(DateTime::from_timestamp_millis(as_::<TimestampMillisecondArray>(column).value(n)))
        }
        DataType::List(_) => Value::Array(items(as_::<ListArray>(column).value(n))),
        DataType::Map(_, _) => {
            let entries: ArrayRef = std::sync::Arc::new(as_::<MapArray>(column).value(n));
            Value::Array(items(entries))
        }
        DataType::Struct(fields) => {
            let columns = as_::<StructArray>(column).columns();
            Value::Object(fields.iter().zip(columns).map(|(f, column)| (f.name().clone(), value(column, n))).collect())
        }
        other => panic!("no reading of {other} yet: add it here"),
    }
}

fn iso(time: Option<DateTime<chrono::Utc>>) -> Value {
    time.map_or(Value::Null, |time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true).into())
}
