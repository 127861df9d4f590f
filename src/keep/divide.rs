//! A file of which the topic still holds the newer records and has dropped the older ones, divided between them: the
//! newer are landed again, and the rows of the older, which nothing else has, stay.
//!
//! Rows stand in the order of their offsets, so a part is the first so many rows. Where they hold their offsets,
//! that is how many lie below. Where they do not, the last rows must be those of the topic's records of that date,
//! one by one; where they are not, nothing is divided.

use super::KeepError;
use crate::{
    config::model::{Kafka, LandTable, Pipeline},
    kafka::reader::{Extent, Next, Reader},
    lake::{
        LakeError, directory,
        ledger::Root,
        merge,
        reader::{FileName, FileReader},
    },
    verify::{
        fields_of,
        judge::Judge,
        lake_plan::{LakePlan, Rows},
        row::RowBytes,
    },
};
use arrow_array::{cast::AsArray, types::Int64Type};
use arrow_schema::Schema;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// A file that holds offsets on both sides of the topic's first.
pub struct Straddling<'a> {
    pub root: Root,
    /// `date=YYYY-MM-DD/part-….parquet`
    pub path: &'a str,
    pub name: &'a FileName,
    /// Where its bytes are: in the table, or in the backup.
    pub source: PathBuf,
}

/// The first rows of a file, to be a file of their own.
pub struct Part {
    pub root: Root,
    /// As that of the file.
    pub path: String,
    pub rows: u64,
    source: PathBuf,
    level: i32,
    metadata: Vec<(String, String)>,
}

pub enum Plan {
    Part(Part),
    /// All of its rows are in the topic.
    Nothing,
    /// Which of its rows are older cannot be told; there are so many together.
    Unsure {
        rows: u64,
    },
}

/// What is to stay of `file` where its records from offset `low` on are landed again.
pub fn plan(pipeline: &Pipeline, table: &LandTable, file: Straddling<'_>, low: i64) -> Result<Plan, KeepError> {
    let reader = FileReader::open(&file.source, Some(&[])).map_err(LakeError::from)?;
    let Some(rows) = older_rows(&pipeline.kafka, table, &file, low)? else {
        return Ok(Plan::Unsure { rows: reader.rows() });
    };
    if rows == 0 {
        return Ok(Plan::Nothing);
    }
    let FileName { topic, partition, first_offset, number, is_merged, generation, .. } = file.name;
    let merged = if *is_merged { "m" } else { "" };
    let generation = if *generation > 0 { format!("-r{generation}") } else { String::new() };
    let last_offset = low - 1;
    let name = format!("part-{topic}-{partition}-{first_offset}-{last_offset}-{merged}{number}{generation}.parquet");
    let metadata = reader.schema().metadata().iter().filter(|(key, _)| key.starts_with("headwater.")).map(
        |(key, value)| match key.as_str() {
            "headwater.last_offset" => (key.clone(), last_offset.to_string()),
            _ => (key.clone(), value.clone()),
        },
    );
    Ok(Plan::Part(Part {
        root: file.root,
        path: Path::new(file.path).with_file_name(name).display().to_string(),
        rows,
        level: pipeline.land.as_ref().map_or(1, |land| land.compression_level),
        metadata: metadata.collect(),
        source: file.source,
    }))
}

impl Part {
    /// Writes it to `temporary`, which readers do not see, and renames it to `target`; durable.
    pub fn write(&self, temporary: &Path, target: &Path) -> Result<(), LakeError> {
        let metadata: Vec<(&str, String)> =
            self.metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        merge::head(&self.source, self.rows, temporary, self.level, &metadata)?;
        fs::rename(temporary, target).map_err(LakeError::io("rename a file to", target))?;
        directory::sync(target.parent().unwrap_or(Path::new(".")))
    }
}

/// How many rows of the file are of records before `low`; none where that cannot be told.
fn older_rows(kafka: &Kafka, table: &LandTable, file: &Straddling<'_>, low: i64) -> Result<Option<u64>, KeepError> {
    let column = match file.root {
        Root::DeadLetters => "kafka_offset",
        Root::Table => "_kafka_offset",
    };
    let reader = FileReader::open(&file.source, Some(&[column])).map_err(LakeError::from)?;
    let says_offsets = file.root == Root::DeadLetters || table.metadata_columns;
    if !says_offsets || reader.schema().index_of(column).is_err() {
        return by_topic(kafka, table, file, low);
    }
    let mut older = 0;
    for batch in reader {
        let batch = batch.map_err(LakeError::from)?;
        let Some(offsets) = batch.column_by_name(column).and_then(|values| values.as_primitive_opt::<Int64Type>())
        else {
            return Ok(None);
        };
        older += offsets.values().iter().filter(|offset| **offset < low).count() as u64;
    }
    Ok(Some(older))
}

/// The same by the records that the topic still holds.
fn by_topic(kafka: &Kafka, table: &LandTable, file: &Straddling<'_>, low: i64) -> Result<Option<u64>, KeepError> {
    let reader = FileReader::open(&file.source, None).map_err(LakeError::from)?;
    let schema = Schema::new(reader.schema().fields().clone());
    let Ok(plan) = LakePlan::new(table, &[&schema], &[], None, &HashMap::new()) else { return Ok(None) };
    let judge = Judge::new(&plan, table);
    let (mut bytes, mut key) = (RowBytes::default(), Vec::new());
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.map_err(LakeError::from)?;
        let read = Rows::new(&plan, &batch);
        for row in 0..batch.num_rows() {
            key.clear();
            rows.push(read.row(row, &mut bytes, &mut key).content);
        }
    }
    let date = file.path.strip_prefix("date=").and_then(|path| path.split('/').next());
    let FileName { partition, last_offset, .. } = file.name;
    let mut records = Vec::new();
    let extent = Extent { partition: *partition, first: low, end: last_offset + 1 };
    Reader::open(kafka, &table.topic)?.read(&[extent], |record| {
        if let Some(fields) = fields_of(record.payload()) {
            key.clear();
            let place = (record.partition(), record.offset());
            let content = plan.of_record(&fields, place, &[], &mut bytes, &mut key).content;
            if plan.day(&bytes).as_deref() == date {
                records.push((content, judge.is_bad(&fields, &[])));
            }
        }
        Next::Continue
    })?;
    Ok(older(&rows, &records).map(|older| older as u64))
}

/// How many rows stand before those of `records`, each with whether it should be no row; none where the last rows are
/// not those of the records.
fn older(rows: &[u128], records: &[(u128, bool)]) -> Option<usize> {
    let mut left = rows;
    for (content, is_bad) in records.iter().rev() {
        match left.split_last() {
            Some((last, before)) if last == content => left = before,
            _ if *is_bad => {}
            _ => return None,
        }
    }
    Some(left.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rows_are_the_records_or_nothing_is_said() {
        assert_eq!(older(&[1, 2, 3, 4], &[(3, false), (9, true), (4, false)]), Some(2));
        assert_eq!(older(&[1, 2, 3, 4], &[]), Some(4));
        assert_eq!(older(&[3, 4], &[(3, false), (4, false)]), Some(0));
        assert_eq!(older(&[1, 2, 3, 4], &[(3, false), (5, false)]), None, "a row that is no record's");
        assert_eq!(older(&[4], &[(3, false), (4, false)]), None, "a record that is no row");
    }
}
