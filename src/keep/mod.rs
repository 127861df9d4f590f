//! Keeping what the stages have made: `compact` and `expire` change the lake and the tables of analyze as they
//! age, `backup` and `restore` bring a pipeline over the loss of a disk. All but `backup` say first what they
//! will do, and do only that with `--dry-run`.
//!
//! How a date of the lake is changed beside a landing that goes on, what its readers see meanwhile, and why a
//! kill at any moment is harmless, is written in [`crate::lake::upkeep`].

pub mod backup;
mod backup_tables;
pub mod compact;
mod divide;
pub mod expire;
mod expire_tables;
mod manifest;
mod replays;
pub mod restore;
mod support;

use crate::{
    analyze::history::kept_from,
    config::model::{LandTable, Pipeline},
    lake::LakeError,
    record::time,
};
use serde::Serialize;

#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error("pipeline {pipeline} has no {section} section: there is nothing to {action}")]
    Nothing { pipeline: String, section: &'static str, action: &'static str },
    #[error("{0}")]
    Lake(#[from] LakeError),
    #[error("{0}")]
    Postgres(#[from] crate::postgres::PostgresError),
    #[error("{0}")]
    Topic(#[from] crate::kafka::reader::ReadError),
    #[error("{0}")]
    Kafka(#[from] crate::kafka::producer::ProducerError),
    #[error("{0}")]
    Begins(#[from] crate::analyze::history::BeginError),
    #[error("{0}")]
    Replays(#[from] crate::dlq::DlqError),
    #[error("cannot {action} {}: {source}", .path.display())]
    File { action: &'static str, path: std::path::PathBuf, source: std::io::Error },
    #[error("{} is not what backup has written: it is damaged or incomplete; use another backup", .path.display())]
    Damaged { path: std::path::PathBuf },
    #[error("{0}")]
    Refused(String),
    #[error("a task ended by itself: {0}; please report it")]
    Ended(#[from] tokio::task::JoinError),
}

impl KeepError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        match self {
            KeepError::Postgres(error) => error.is_unavailable(),
            KeepError::Topic(error) => error.is_unavailable(),
            KeepError::Kafka(error) => error.is_unavailable(),
            KeepError::Begins(error) => error.is_unavailable(),
            KeepError::Replays(error) => error.is_unavailable(),
            _ => false,
        }
    }
}

/// The columns that have landed, as a landing keeps them.
fn schema_path(table: &LandTable) -> std::path::PathBuf {
    crate::land::schema::Schema::cache_path(table)
}

fn land_tables(pipeline: &Pipeline) -> &[LandTable] {
    pipeline.land.as_ref().map_or(&[], |land| &land.tables)
}

/// Whether the name of a date's directory is a date before `kept_from`.
fn is_before(date: &str, kept_from: &str) -> bool {
    time::date(date.as_bytes()).is_ok() && date < kept_from
}

/// Something that stays as it is, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    pub what: String,
    pub why: String,
}

/// A table at which the work ended.
fn failed(table: &LandTable, error: &LakeError) -> Left {
    Left { what: table.topic.clone(), why: error.to_string() }
}

/// The end of a plan: what it leaves, a line each.
fn left_lines(left: &[Left]) -> String {
    left.iter().map(|Left { what, why }| format!("{what}: left, {why}\n")).collect()
}

/// The start of a summary: what failed, a line each.
fn failed_lines(failures: &[Left]) -> String {
    failures.iter().map(|Left { what, why }| format!("failed: {what}: {why}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dates_are_dates() {
        assert!(is_before("2024-10-02", "2024-10-03"));
        assert!(!is_before("2024-10-03", "2024-10-03"));
        assert!(!is_before("2024-1-1", "2024-10-03") && !is_before("__HIVE_DEFAULT_PARTITION__", "2024-10-03"));
    }
}
