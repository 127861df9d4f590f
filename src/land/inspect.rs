//! What `doctor` asks of a landing: how its ledgers stand, whether its columns are known, whether records are
//! gone that it has not landed. Reads only; takes no lock.

pub use super::{schema::SchemaError, source::SourceError};

use super::{
    resume::{Held, Resume, diverged, resume},
    schema::Schema,
};
use crate::{
    config::model::{LandSchema, LandTable},
    lake::{
        LakeError,
        ledger::Progress,
        ledger_file::Ledger,
        reader::{FileName, Listing},
    },
    loss::Loss,
    postgres::{PostgresError, catalogue},
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};
use tokio_postgres::Client;

/// The ledger of a partition that has been landed from.
#[derive(Debug)]
pub struct PartitionLedger {
    pub directory: PathBuf,
    /// None where nothing was committed yet.
    pub progress: Result<Option<Progress>, LakeError>,
}

/// The ledgers of a table, by partition.
pub fn ledgers(table: &LandTable) -> Result<BTreeMap<i32, PartitionLedger>, LakeError> {
    let listed = LakeError::io("list", &table.checkpoint_location);
    let entries = match fs::read_dir(&table.checkpoint_location) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(listed(error)),
    };
    let partition = |path: &Path| {
        let rest = path.file_name()?.to_str()?.strip_prefix(table.topic.as_str())?.strip_prefix('-')?;
        rest.bytes().all(|byte| byte.is_ascii_digit()).then(|| rest.parse::<i32>().ok())?
    };
    let found = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).filter_map(|directory| {
        let progress = Ledger::read(&directory).map(|recovery| recovery.and_then(|it| it.progress));
        Some((partition(&directory)?, PartitionLedger { directory, progress }))
    });
    Ok(found.collect())
}

/// Why a partition cannot be gone on with, given what Kafka holds of it now.
pub fn loss(topic: &str, partition: i32, progress: &Progress, topic_id: &str, low: i64, high: i64) -> Option<Loss> {
    let held = Held { topic_id: topic_id.to_owned(), low, stable: high, high };
    // Behind the last record stood marks of transactions.
    let is_short = progress.next > high && progress.last.is_none_or(|last| last.offset >= high);
    match resume(topic, partition, Some(progress), &held) {
        // Where exactly the logs part is known to nobody but the brokers.
        Resume::At(_) if is_short => Some(diverged(topic, partition, progress, None, high).loss),
        Resume::At(_) => None,
        Resume::Lost(lost) => Some(lost.loss),
    }
}

/// A file where readers of the table look, that no ledger vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// Named as ours are: its rows would be there twice once they are landed.
    Unrecorded(PathBuf),
    /// Of somebody else.
    Foreign(PathBuf),
}

/// The files of a listing that no ledger vouches for. The ledgers must have been read after it.
pub fn strangers(topic: &str, listing: &Listing, ledgers: &BTreeMap<i32, PartitionLedger>) -> Vec<Stranger> {
    let is_known = |name: &FileName| {
        match ledgers.get(&name.partition).map(|ledger| &ledger.progress) {
            // What a ledger says that cannot be read is not known.
            Some(Err(_)) => true,
            Some(Ok(Some(progress))) => {
                name.generation < progress.generation
                    || (name.generation == progress.generation && name.last_offset < progress.next)
            }
            Some(Ok(None)) | None => false,
        }
    };
    let ours = listing.files.iter().filter_map(|file| match file.name.topic == topic {
        true if is_known(&file.name) => None,
        true => Some(Stranger::Unrecorded(file.path.clone())),
        false => Some(Stranger::Foreign(file.path.clone())),
    });
    ours.chain(listing.foreign.iter().cloned().map(Stranger::Foreign)).collect()
}

/// Where a table's columns come from, as they would be found at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    File,
    /// Kept by an earlier run.
    Kept,
    Catalogue,
}

/// Whether the columns are known and the table's configuration fits them. PostgreSQL is asked only where an
/// earlier run has kept nothing that fits; without a `client` the answer is then none.
pub async fn columns(table: &LandTable, client: Option<&Client>) -> Result<Option<Columns>, SourceError> {
    if let Some(schema) = Schema::from_file(table)? {
        schema.check(table)?;
        return Ok(Some(Columns::File));
    }
    let kept = Schema::load(&Schema::cache_path(table))?.unwrap_or_default();
    if !kept.columns.is_empty() && kept.check(table).is_ok() {
        return Ok(Some(Columns::Kept));
    }
    let LandSchema::Table { schema: of, table: name, columns } = &table.schema else { return Ok(None) };
    let Some(client) = client else { return Ok(None) };
    let failed = |source: PostgresError| SourceError::Postgres { topic: table.topic.clone(), source };
    let found = catalogue::describe(client, of.as_deref(), name).await.map_err(failed)?;
    Schema::settle(kept, Schema::from_catalogue(&found, columns, table), table)?;
    Ok(Some(Columns::Catalogue))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kafka::consumer::LastRecord, lake::reader};

    #[test]
    fn a_log_that_ends_behind_the_last_record_has_lost_marks_at_most() {
        let last = Some(LastRecord { offset: 17, leader_epoch: 3 });
        let read = Progress { topic_id: "i".into(), next: 20, last, ..Progress::default() };
        let lost = |high| loss("t", 0, &read, "i", 0, high).is_some();
        assert_eq!([16, 17, 18, 19, 20, 21].map(lost), [true, true, false, false, false, false]);
        let unknown = Progress { last: None, ..read };
        assert!(loss("t", 0, &unknown, "i", 0, 19).is_some());
    }

    #[test]
    fn a_file_is_known_by_the_offsets_that_its_ledger_has_passed() {
        let root = tempfile::tempdir().unwrap();
        let day = root.path().join("date=2025-01-15");
        fs::create_dir(&day).unwrap();
        let files = [
            ("part-t-0-0-9-0.parquet", true),
            ("part-t-0-10-19-0.parquet", true),
            ("part-t-0-20-29-0.parquet", false),
            ("part-t-0-50-59-0-r0.parquet", false),
            ("part-t-0-100-900-0-r1.parquet", false),
            ("part-t-1-0-0-0.parquet", false),
            ("part-t-2-7-7-0.parquet", true),
            ("part-other-0-0-9-0.parquet", false),
            ("copy.parquet", false),
        ];
        files.iter().for_each(|(name, _)| fs::write(day.join(name), "").unwrap());
        let ledger = |progress| PartitionLedger { directory: PathBuf::new(), progress };
        let progress = Progress { topic_id: "i".into(), epoch: 2, next: 20, ..Progress::default() };
        let broken = LakeError::Io { action: "read", path: PathBuf::new(), source: io::Error::other("broken") };
        let ledgers =
            [(0, ledger(Ok(Some(progress)))), (1, ledger(Ok(None))), (2, ledger(Err(broken)))].into_iter().collect();
        let mut found: Vec<String> = strangers("t", &reader::list(root.path()).unwrap(), &ledgers)
            .into_iter()
            .map(|stranger| match stranger {
                Stranger::Unrecorded(path) | Stranger::Foreign(path) => {
                    path.file_name().unwrap().to_string_lossy().into_owned()
                }
            })
            .collect();
        found.sort();
        let mut expected: Vec<&str> = files.iter().filter(|(_, known)| !known).map(|(name, _)| *name).collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}
