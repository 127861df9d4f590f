//! Several files of one table, of equal columns, made one: encoded as a landing encodes them, and read back
//! before anybody relies on it.

use super::{
    LakeError,
    parquet_file::{Encoder, Written},
    reader::{FileReader, LakeReadError},
};
use crate::failpoint;
use arrow_array::{Array, RecordBatch, cast::AsArray, types::*};
use arrow_schema::{ArrowError, DataType, Fields, Schema};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// What the footer of a file says.
pub struct Footer {
    pub columns: Fields,
    pub rows: u64,
    /// Kafka's id of the topic, which older files do not say.
    pub topic_id: Option<String>,
    /// The rules by which its rows were let in, which older files do not say.
    pub rules: Option<String>,
}

pub fn footer(path: &Path) -> Result<Footer, LakeReadError> {
    let reader = FileReader::open(path, Some(&[]))?;
    let topic_id = reader.topic_id().map(str::to_owned);
    let rules = reader.rules().map(str::to_owned);
    Ok(Footer { columns: reader.schema().fields().clone(), rows: reader.rows(), topic_id, rules })
}

/// Rows, and the sum of their hashes: equal for equal rows in any order, whichever files they stand in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Content {
    pub rows: u64,
    pub hash: u128,
}

/// Writes the rows of `sources`, which have equal columns, to `target` in their order, makes it durable, and
/// compares row count and content with those of the sources, all read anew.
pub fn merge(
    sources: &[PathBuf],
    target: &Path,
    level: i32,
    metadata: &[(&str, String)],
) -> Result<(Written, Content), LakeError> {
    let wrong = |what: String| LakeError::Merge { path: target.to_owned(), what };
    let written = write(sources, 0..u64::MAX, target, level, metadata)?;
    failpoint::hit("compact.before_check").map_err(LakeError::io("read", target))?;
    let (before, after) = (content(sources)?, content(&[target.to_owned()])?);
    if before != after || written.rows != before.rows {
        return Err(wrong(format!("of {} rows {} were read back, or others", before.rows, after.rows)));
    }
    Ok((written, after))
}

/// Writes some rows of `source` to `target`, by their numbers, and makes it durable.
pub fn part(
    source: &Path,
    rows: Range<u64>,
    target: &Path,
    level: i32,
    metadata: &[(&str, String)],
) -> Result<Written, LakeError> {
    let written = write(&[source.to_owned()], rows.clone(), target, level, metadata)?;
    if written.rows == rows.end - rows.start {
        return Ok(written);
    }
    Err(LakeError::Merge {
        path: target.to_owned(),
        what: format!("the rows {} to {} were asked for, and {} are there", rows.start, rows.end, written.rows),
    })
}

/// Writes those of `rows` that `sources` have, which have equal columns, and makes them durable.
fn write(
    sources: &[PathBuf],
    rows: Range<u64>,
    target: &Path,
    level: i32,
    metadata: &[(&str, String)],
) -> Result<Written, LakeError> {
    let Some(first) = sources.first() else {
        return Err(LakeError::Merge { path: target.to_owned(), what: "there is nothing to merge".to_owned() });
    };
    let unique = plain_columns(first)?;
    let unique: Vec<&str> = unique.iter().map(String::as_str).collect();
    let schema = Arc::new(Schema::new(footer(first)?.columns));
    let failed = |source| LakeError::Parquet { path: target.to_owned(), source };
    let encoder = Encoder::new(schema.clone(), level, &unique, metadata).map_err(failed)?;
    let batches = sources.iter().flat_map(|source| {
        let (batches, error) = match FileReader::open(source, None) {
            Ok(reader) => (Some(reader), None),
            Err(error) => (None, Some(Err(error))),
        };
        error.into_iter().chain(batches.into_iter().flatten())
    });
    let mut at = 0;
    let batches = batches.map(|batch| {
        batch.map_err(|error| ArrowError::ExternalError(Box::new(error))).and_then(|batch| {
            let within = |row: u64| usize::try_from(row.saturating_sub(at)).unwrap_or(usize::MAX).min(batch.num_rows());
            let (first, end) = (within(rows.start), within(rows.end));
            at += batch.num_rows() as u64;
            // Without the footer's own metadata, which is each file's.
            Ok(RecordBatch::try_new(schema.clone(), batch.columns().to_vec())?.slice(first, end - first))
        })
    });
    let batches = batches.filter(|batch| batch.as_ref().map_or(true, |batch| batch.num_rows() > 0));
    let (written, file) = encoder.write(target, batches)?;
    file.sync_all().map_err(LakeError::io("sync", target))?;
    Ok(written)
}

/// Columns that were written without a dictionary, for their values are mostly distinct.
fn plain_columns(path: &Path) -> Result<Vec<String>, LakeReadError> {
    let file = File::open(path).map_err(|source| LakeReadError::Open { path: path.to_owned(), source })?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .map_err(|source| LakeReadError::Parquet { path: path.to_owned(), source })?;
    let chunks = builder.metadata().row_groups().iter().take(1).flat_map(|group| group.columns());
    Ok(chunks
        .filter(|chunk| chunk.dictionary_page_offset().is_none())
        .map(|chunk| chunk.column_path().string())
        .collect())
}

/// What files hold together.
pub fn content(files: &[PathBuf]) -> Result<Content, LakeError> {
    let mut content = Content::default();
    for path in files {
        for batch in FileReader::open(path, None)? {
            add(&mut content, &batch?, path)?;
        }
    }
    Ok(content)
}

/// A null is left out, so that a column that a file lacks is a column of nulls.
fn add(content: &mut Content, batch: &RecordBatch, path: &Path) -> Result<(), LakeError> {
    let schema = batch.schema();
    let cells: Vec<(u64, &dyn Array, Cell<'_>)> = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| {
            let what = || format!("column {} has type {}, which cannot be compared", field.name(), field.data_type());
            let cell = cell(column.as_ref()).ok_or_else(|| LakeError::Merge { path: path.to_owned(), what: what() })?;
            Ok((xxh3_64(field.name().as_bytes()), column.as_ref(), cell))
        })
        .collect::<Result<_, LakeError>>()?;
    let mut bytes = Vec::new();
    for row in 0..batch.num_rows() {
        bytes.clear();
        for (name, column, push) in &cells {
            if column.is_valid(row) {
                bytes.extend_from_slice(&name.to_le_bytes());
                push(row, &mut bytes);
            }
        }
        content.hash = content.hash.wrapping_add(xxh3_128(&bytes));
        content.rows += 1;
    }
    Ok(())
}

/// Appends the bytes of a value that is not null, so that no two lists of values have the same.
type Cell<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

fn cell(column: &dyn Array) -> Option<Cell<'_>> {
    macro_rules! primitive {
        ($type:ty) => {{
            let values = column.as_primitive_opt::<$type>()?;
            Box::new(move |row, out: &mut Vec<u8>| out.extend_from_slice(&values.value(row).to_le_bytes())) as Cell<'_>
        }};
    }
    fn framed(bytes: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    Some(match column.data_type() {
        DataType::Boolean => {
            let values = column.as_boolean_opt()?;
            Box::new(move |row, out| out.push(u8::from(values.value(row))))
        }
        DataType::Int32 => primitive!(Int32Type),
        DataType::Int64 => primitive!(Int64Type),
        DataType::Float64 => primitive!(Float64Type),
        DataType::Date32 => primitive!(Date32Type),
        DataType::Decimal128(..) => primitive!(Decimal128Type),
        DataType::Timestamp(..) => primitive!(TimestampMicrosecondType),
        DataType::Utf8 => {
            let values = column.as_string_opt::<i32>()?;
            Box::new(move |row, out| framed(values.value(row).as_bytes(), out))
        }
        DataType::Binary => {
            let values = column.as_binary_opt::<i32>()?;
            Box::new(move |row, out| framed(values.value(row), out))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Int64Array, StringArray};
    use arrow_schema::Field;

    fn file(directory: &Path, name: &str, ids: &[i64], texts: &[Option<&str>]) -> PathBuf {
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("text", DataType::Utf8, true),
        ]));
        let batch = RecordBatch::try_new(
            schema.clone(),
            vec![Arc::new(Int64Array::from(ids.to_vec())), Arc::new(StringArray::from(texts.to_vec()))],
        )
        .unwrap();
        let path = directory.join(name);
        let metadata = [("headwater.first_offset", name.to_owned())];
        let encoder = Encoder::new(schema, 1, &["id"], &metadata).unwrap();
        encoder.write(&path, [Ok(batch)].into_iter()).unwrap();
        path
    }

    #[test]
    fn files_become_one_of_the_same_rows_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let sources = [file(path, "a", &[1, 2], &[Some("x"), None]), file(path, "b", &[3], &[Some("")])];
        let target = path.join("ab");
        let (written, content) = merge(&sources, &target, 1, &[("headwater.first_offset", "7".to_owned())]).unwrap();
        assert_eq!((written.rows, content.rows), (3, 3));
        assert_eq!(plain_columns(&target).unwrap(), ["id"], "encoded as before");
        let mut ids = Vec::new();
        let reader = FileReader::open(&target, None).unwrap();
        assert_eq!(reader.schema().metadata()["headwater.first_offset"], "7");
        for batch in reader {
            ids.extend_from_slice(batch.unwrap().column(0).as_primitive::<Int64Type>().values());
        }
        assert_eq!(ids, [1, 2, 3]);
    }

    #[test]
    fn a_part_is_some_of_the_rows_or_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let source = file(path, "a", &[1, 2, 3, 4], &[Some("x"), None, None, Some("y")]);
        for (rows, expected) in [(0..2, &[1, 2][..]), (1..3, &[2, 3]), (3..4, &[4])] {
            part(&source, rows, &path.join("part"), 1, &[]).unwrap();
            let batches = FileReader::open(&path.join("part"), None).unwrap();
            let ids = batches.flat_map(|batch| {
                batch.unwrap().column(0).as_primitive::<Int64Type>().values().iter().copied().collect::<Vec<_>>()
            });
            assert_eq!(ids.collect::<Vec<_>>(), expected);
        }
        assert!(matches!(part(&source, 3..5, &path.join("part"), 1, &[]), Err(LakeError::Merge { .. })));
    }

    #[test]
    fn the_content_tells_rows_apart_and_not_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let of = |files: &[PathBuf]| content(files).unwrap();
        let (a, b) = (file(path, "a", &[1, 2], &[Some("x"), None]), file(path, "b", &[2, 1], &[None, Some("x")]));
        assert_eq!(of(std::slice::from_ref(&a)), of(&[b]));
        for (name, ids, texts) in [
            ("c", &[1, 2], &[None, Some("x")]),
            ("d", &[1, 2], &[Some("x"), Some("")]),
            ("e", &[1, 1], &[Some("x"), None]),
        ] {
            assert_ne!(of(std::slice::from_ref(&a)), of(&[file(path, name, ids, texts)]), "{name}");
        }
        assert_ne!(of(&[a.clone(), a.clone()]), of(&[a]));
    }
}
