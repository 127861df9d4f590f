//! A file of which the topic holds a part, divided: the rows of records that the topic holds are landed again, and the
//! others, which nothing else has, stay. These are the first ones where the topic has dropped its oldest records, and the
//! last ones where brokers have lost the end of its log.
//!
//! Rows stand in the order of their offsets, so a part is the first or the last so many rows. Where they hold their
//! offsets, these tell how many. Where they do not, the other rows must be those of the topic's records of that date,
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
    ops::Range,
    path::{Path, PathBuf},
};

/// A file of which the topic holds a part.
pub struct Straddling<'a> {
    pub root: Root,
    /// `date=YYYY-MM-DD/part-….parquet`
    pub path: &'a str,
    pub name: &'a FileName,
    /// Where its bytes are: in the table, or in the backup.
    pub source: PathBuf,
}

/// What of a file stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// The records before an offset, the first that the topic holds.
    Before(i64),
    /// Those from an offset on, at which the log was cut off.
    From(i64),
}

/// The first or the last rows of a file, to be a file of their own.
pub struct Part {
    pub root: Root,
    /// As that of the file.
    pub path: String,
    pub rows: Range<u64>,
    source: PathBuf,
    level: i32,
    metadata: Vec<(String, String)>,
}

pub enum Plan {
    Part(Part),
    /// All of its rows are in the topic.
    Nothing,
    /// Which of its rows the topic holds cannot be told; there are so many together.
    Unsure {
        rows: u64,
    },
}

/// What is to stay of `file` where its other records are landed again. The topic holds these.
pub fn plan(pipeline: &Pipeline, table: &LandTable, file: &Straddling<'_>, stays: Stays) -> Result<Plan, KeepError> {
    let reader = FileReader::open(&file.source, Some(&[])).map_err(LakeError::from)?;
    let Some(rows) = rows_that_stay(&pipeline.kafka, table, file, stays)? else {
        return Ok(Plan::Unsure { rows: reader.rows() });
    };
    if rows.is_empty() {
        return Ok(Plan::Nothing);
    }
    let FileName { topic, partition, number, is_merged, generation, .. } = file.name;
    let merged = if *is_merged { "m" } else { "" };
    let generation = if *generation > 0 { format!("-r{generation}") } else { String::new() };
    let (first_offset, last_offset) = match stays {
        Stays::Before(low) => (file.name.first_offset, low - 1),
        Stays::From(cut) => (cut, file.name.last_offset),
    };
    let name = format!("part-{topic}-{partition}-{first_offset}-{last_offset}-{merged}{number}{generation}.parquet");
    let metadata = reader.schema().metadata().iter().filter(|(key, _)| key.starts_with("headwater.")).map(
        |(key, value)| match key.as_str() {
            "headwater.first_offset" => (key.clone(), first_offset.to_string()),
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
        source: file.source.clone(),
    }))
}

impl Part {
    /// Writes it to `temporary`, which readers do not see, and renames it to `target`; durable.
    pub fn write(&self, temporary: &Path, target: &Path) -> Result<(), LakeError> {
        let metadata: Vec<(&str, String)> =
            self.metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        merge::part(&self.source, self.rows.clone(), temporary, self.level, &metadata)?;
        fs::rename(temporary, target).map_err(LakeError::io("rename a file to", target))?;
        directory::sync(target.parent().unwrap_or(Path::new(".")))
    }
}

/// None where they cannot be told.
fn rows_that_stay(
    kafka: &Kafka,
    table: &LandTable,
    file: &Straddling<'_>,
    stays: Stays,
) -> Result<Option<Range<u64>>, KeepError> {
    let column = match file.root {
        Root::DeadLetters => "kafka_offset",
        Root::Table => "_kafka_offset",
    };
    let reader = FileReader::open(&file.source, Some(&[column])).map_err(LakeError::from)?;
    let says_offsets = file.root == Root::DeadLetters || table.metadata_columns;
    if !says_offsets || reader.schema().index_of(column).is_err() {
        return by_topic(kafka, table, file, stays);
    }
    let (mut older, rows) = (0, reader.rows());
    let (Stays::Before(bound) | Stays::From(bound)) = stays;
    for batch in reader {
        let batch = batch.map_err(LakeError::from)?;
        let Some(offsets) = batch.column_by_name(column).and_then(|values| values.as_primitive_opt::<Int64Type>())
        else {
            return Ok(None);
        };
        older += offsets.values().iter().filter(|offset| **offset < bound).count() as u64;
    }
    Ok(Some(match stays {
        Stays::Before(_) => 0..older,
        Stays::From(_) => older..rows,
    }))
}

/// The same by the records that the topic still holds.
fn by_topic(
    kafka: &Kafka,
    table: &LandTable,
    file: &Straddling<'_>,
    stays: Stays,
) -> Result<Option<Range<u64>>, KeepError> {
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
    let FileName { partition, first_offset, last_offset, .. } = *file.name;
    let mut records = Vec::new();
    let (first, end) = match stays {
        Stays::Before(low) => (low, last_offset + 1),
        Stays::From(cut) => (first_offset, cut),
    };
    let extent = Extent { partition, first, end };
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
    let all = rows.len() as u64;
    Ok(match stays {
        Stays::Before(_) => older(&rows, &records).map(|rows| 0..rows as u64),
        Stays::From(_) => {
            rows.reverse();
            records.reverse();
            older(&rows, &records).map(|rows| all - rows as u64..all)
        }
    })
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
