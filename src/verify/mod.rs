//! Compares source table, topic and lake, without trust in the pipeline's own state: no checkpoint, no decoder of
//! capture or land is used here. The windows of analyze are compared with a recomputation from their topics
//! ([`windows`]).
//!
//! A ledger is believed only where it speaks against the pipeline ([`vouched`]): what lies below its offset is not on
//! its way any more, and a file beyond it is nobody's. And what `expire` dropped is known only by its own note
//! ([`expired`]): so many rows of a date as it names may be missing, and no more. So are the losses that somebody has
//! accepted ([`logs`]): at most as many rows are missing as offsets were deleted before they had landed, and files keep
//! rows of a log that was truncated after they had.
//!
//! **Source against topic, to the row version.** The present version of every row is among the
//! records of its key. A row that is not there is lost, unless a record of its key has the same
//! watermark: then it was changed in place, which no poller can see and which is listed apart. But
//! where that record is of the very transaction that wrote the row, the record is wrong. The same
//! version (key, row, transaction) twice is a duplicate. Older versions and rows deleted since are
//! expected.
//!
//! **Topic against lake, to the byte.** Every record is one row of the lake, equal in every column
//! and filed under its own date, or one dead letter with the record's exact key and payload; never
//! both, never twice. Every row and dead letter is a record. Which of both a record is to be is judged anew
//! ([`judge`]), as far as that is sure. Readers take every Parquet file of the directory for a part of the table: one
//! that no landing of the table has written, or that cannot be read, is a difference, too.
//!
//! Where the topic has dropped old records, the lake vouches for source rows instead.
//!
//! **On a running pipeline** the sides are read in the order of the flow, and what may still be on
//! its way is counted as pending: source rows whose watermark lies within one poll interval and the
//! slack of the snapshot, and records beyond the last landed offset of their partition. A
//! transaction that commits later than that can look lost; on an idle pipeline the result is exact.
//!
//! **Memory** does not grow with the table: rows go to unnamed bucket files by the hash of their
//! key, as hashes, and are compared a bucket at a time.

pub mod canon;
pub mod clock;
pub mod compare;
pub mod entry;
mod expired;
mod explain;
pub mod judge;
mod lake;
pub mod lake_plan;
mod logs;
mod progress;
pub mod report;
pub mod row;
mod source;
pub mod source_plan;
mod topic;
mod unit;
mod vouched;
pub mod windows;

pub use report::{Difference, Report, TableReport};
pub use topic::fields_of;

use crate::{
    config::model::Pipeline,
    kafka::{reader::ReadError, topic::TopicError},
};
use std::path::PathBuf;
use unit::Unit;

#[derive(Debug, Clone)]
pub struct Options {
    /// Draw progress on the terminal, rather than log it.
    pub progress_bar: bool,
    /// Most differences listed of each class, in each table.
    pub list_limit: usize,
    /// For bucket files; the system's when absent.
    pub temp_dir: Option<PathBuf>,
    /// Compare the source table, where the pipeline has one.
    pub source: bool,
    /// Compare the lake, where the pipeline has one.
    pub lake: bool,
    /// Recompute the windows, where the pipeline has any.
    pub windows: bool,
    /// Whether what is still on its way makes the report fail.
    pub strict: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            progress_bar: false,
            list_limit: 20,
            temp_dir: None,
            source: true,
            lake: true,
            windows: true,
            strict: false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("pipeline {pipeline} captures, lands and analyzes nothing: add a capture, a land or an analyze section")]
    Nothing { pipeline: String },
    #[error("pipeline {pipeline} captures or analyzes, but has no postgres section")]
    NoPostgres { pipeline: String },
    #[error("{0}")]
    Source(#[from] source::SourceError),
    #[error("{0}")]
    Topic(#[from] ReadError),
    #[error("{0}")]
    TopicId(#[from] TopicError),
    #[error("{0}")]
    Lake(#[from] lake::LakeError),
    #[error("{0}")]
    Spill(#[from] entry::SpillError),
    #[error("{0}")]
    Windows(#[from] windows::WindowsError),
    #[error("a comparison ended by itself: {0}")]
    Ended(#[from] tokio::task::JoinError),
}

impl VerifyError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        match self {
            VerifyError::Topic(error) => error.is_unavailable(),
            VerifyError::TopicId(error) => error.is_unavailable(),
            VerifyError::Source(source::SourceError::Postgres(error)) => error.is_unavailable(),
            VerifyError::Windows(error) => error.is_unavailable(),
            _ => false,
        }
    }
}

/// Compares every table, topic and job of the pipeline, one after the other.
pub async fn run(pipeline: &Pipeline, options: Options) -> Result<Report, VerifyError> {
    let units = units(pipeline);
    let analyzes = options.windows && pipeline.analyze.is_some();
    if units.is_empty() && !analyzes {
        return Err(VerifyError::Nothing { pipeline: pipeline.name.clone() });
    }
    if (analyzes || (options.source && pipeline.capture.is_some())) && pipeline.postgres.is_none() {
        return Err(VerifyError::NoPostgres { pipeline: pipeline.name.clone() });
    }
    let mut tables = Vec::with_capacity(units.len());
    for unit in units {
        let options = options.clone();
        let runtime = tokio::runtime::Handle::current();
        tables.push(tokio::task::spawn_blocking(move || unit.run(&options, &runtime)).await??);
    }
    let mut jobs = Vec::new();
    for unit in windows::units(pipeline).into_iter().filter(|_| analyzes) {
        let options = options.clone();
        let runtime = tokio::runtime::Handle::current();
        jobs.push(tokio::task::spawn_blocking(move || unit.run(&options, &runtime)).await??);
    }
    Ok(Report::new(&pipeline.name, tables, jobs, options.strict))
}

/// Each captured table with the landing of its topic, then the landings of other topics.
fn units(pipeline: &Pipeline) -> Vec<Unit> {
    let lands = pipeline.land.as_ref().map_or(&[][..], |land| &land.tables);
    let unit = |topic: &str| Unit {
        topic: topic.to_owned(),
        kafka: pipeline.kafka.clone(),
        postgres: pipeline.postgres.clone(),
        capture: None,
        land: lands.iter().find(|land| land.topic == topic).cloned(),
        neighbours: lands.to_vec(),
    };
    let mut units: Vec<Unit> = Vec::new();
    if let Some(capture) = &pipeline.capture {
        units.extend(
            capture
                .tables
                .iter()
                .map(|table| Unit { capture: Some((capture.clone(), table.clone())), ..unit(&table.topic) }),
        );
    }
    for land in lands {
        if !units.iter().any(|unit| unit.topic == land.topic) {
            units.push(unit(&land.topic));
        }
    }
    units
}
