//! One partition of a landed topic: waiting for its turn, open, or stopped.

use super::{
    batch::{Batch, Layout, Range},
    resume::{Held, Resume, resume},
};
use crate::{
    config::model::LandTable,
    health::Letters,
    kafka::consumer::{Consumer, ConsumerError},
    lake::{
        LakeError,
        ledger::Progress,
        store::{Location, Opened, Store},
        upkeep::Place,
    },
};
use std::time::{Duration, Instant};

const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a lock that somebody else holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(500);
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_LAST: Duration = Duration::from_secs(10);

pub enum Partition {
    /// Not read now, to be opened at `until`.
    Parked {
        until: Instant,
        cause: Cause,
    },
    Open(Box<Open>),
    /// Until somebody acts; the text says what.
    Stopped(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Just assigned.
    New,
    /// Another process holds the lock.
    Lock(String),
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Lake(#[from] LakeError),
    #[error("{0}")]
    Kafka(#[from] ConsumerError),
    #[error("{0}")]
    Lost(String),
    #[error("{0}")]
    Locked(String),
}

impl Partition {
    pub fn new() -> Self {
        Partition::Parked { until: Instant::now(), cause: Cause::New }
    }

    /// What follows an attempt to open it, or a failure while it was open, after `failures` in a row.
    pub fn after(error: OpenError, failures: u32) -> Self {
        let now = Instant::now();
        match error {
            OpenError::Locked(text) => Partition::Parked { until: now + LOCK_INTERVAL, cause: Cause::Lock(text) },
            OpenError::Lost(text) => Partition::Stopped(text),
            OpenError::Lake(error) if !error.is_retriable() => Partition::Stopped(error.to_string()),
            error => Partition::Parked { until: now + backoff(failures), cause: Cause::Failed(error.to_string()) },
        }
    }
}

impl Default for Partition {
    fn default() -> Self {
        Partition::new()
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << failures.min(10)).min(BACKOFF_LAST)
}

/// A partition that is ours to read and to commit.
pub struct Open {
    pub store: Store,
    pub batch: Option<Batch>,
    topic_id: String,
    generation: u32,
    epoch: u64,
    /// Where the next record is expected; what a commit would make durable.
    pub position: i64,
    pub committed: i64,
    /// Whether the end of the partition was met at `position`.
    pub at_end: bool,
    /// When the position last moved.
    pub moved: Instant,
    /// Seconds since 1970.
    pub last_commit: Option<u64>,
}

/// What a commit made durable.
pub struct Committed {
    pub records: u64,
    pub rows: u64,
    pub files: u64,
    pub bytes: u64,
    pub unknown_fields: u64,
    pub oldest_ms: Option<i64>,
    pub reasons: std::collections::BTreeMap<crate::record::reason::Reason, u64>,
    /// The newest dead letters.
    pub letters: Letters,
}

/// The partition's directory and what belongs to it.
pub fn location(table: &LandTable, partition: i32) -> Location {
    Location {
        directory: table.directory(partition),
        table: table.path.clone(),
        dead_letters: table.dead_letter_path.clone(),
        aside: Place::of(table).swap(),
        file_prefix: Range::prefix(&table.topic, partition),
    }
}

impl Open {
    /// Takes the lock, recovers the ledger, and decides where to read on.
    pub fn new(table: &LandTable, partition: i32, consumer: &Consumer, accept_loss: bool) -> Result<Self, OpenError> {
        let store = match Store::open(location(table, partition))? {
            Opened::Ready(store) => *store,
            Opened::Busy(holder) => {
                let holder = holder.map_or("another process".to_owned(), |holder| holder.to_string());
                return Err(OpenError::Locked(format!("partition {partition} of {} is held by {holder}", table.topic)));
            }
        };
        let description = consumer.describe(KAFKA_TIMEOUT).map_err(ConsumerError::from)?;
        let (low, high) = consumer.watermarks(partition, KAFKA_TIMEOUT)?;
        let held = Held { topic_id: description.id.to_string(), low, high };
        let (offset, generation, accepted) = match resume(&table.topic, partition, store.progress(), &held, accept_loss)
        {
            Resume::At { offset, generation, accepted } => (offset, generation, accepted),
            Resume::Lost(text) => return Err(OpenError::Lost(text)),
        };
        let mut open = Open {
            epoch: store.progress().map_or(0, |progress| progress.epoch),
            committed: offset,
            store,
            batch: None,
            topic_id: held.topic_id,
            generation,
            position: offset,
            at_end: false,
            moved: Instant::now(),
            last_commit: None,
        };
        if accepted {
            tracing::warn!(topic = %table.topic, partition, offset, "going on at offset {offset}: the loss before it was accepted");
            open.append(offset, Vec::new())?;
            open.store.publish()?;
        }
        tracing::info!(topic = %table.topic, partition, offset, "going on");
        Ok(open)
    }

    pub fn topic_id(&self) -> &str {
        &self.topic_id
    }

    pub fn bytes(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.bytes)
    }

    /// Whether there is anything that a commit would make durable.
    pub fn is_dirty(&self) -> bool {
        self.batch.is_some() || self.position > self.committed
    }

    fn append(&mut self, first: i64, files: Vec<crate::lake::ledger::LedgerFile>) -> Result<(), LakeError> {
        let progress = Progress {
            topic_id: self.topic_id.clone(),
            generation: self.generation,
            epoch: self.epoch + 1,
            next: self.position,
        };
        self.store.commit(progress, first, files)?;
        self.epoch += 1;
        self.committed = self.position;
        Ok(())
    }

    /// Stages the open batch and commits it with the position. The first part of the result is what
    /// became durable, also where the second says that something failed after that.
    pub fn commit(&mut self, layout: &Layout, partition: i32) -> (Option<Committed>, Result<(), LakeError>) {
        let batch = self.batch.take();
        let range = Range {
            topic: layout.topic.clone(),
            topic_id: self.topic_id.clone(),
            partition,
            first: self.committed,
            next: self.position,
            generation: self.generation,
        };
        let mut committed = Committed {
            records: batch.as_ref().map_or(0, |batch| batch.records),
            rows: batch.as_ref().map_or(0, Batch::row_count),
            files: 0,
            bytes: 0,
            unknown_fields: batch.as_ref().map_or(0, |batch| batch.unknown_fields),
            oldest_ms: batch.as_ref().and_then(|batch| batch.oldest_ms),
            reasons: batch.as_ref().map(|batch| batch.reasons.clone()).unwrap_or_default(),
            letters: batch.as_ref().map(|batch| batch.letters.clone()).unwrap_or_default(),
        };
        let files = match batch.map_or(Ok(Vec::new()), |batch| batch.stage(layout, &range, &self.store)) {
            Ok(files) => files,
            Err(error) => return (None, Err(error)),
        };
        committed.files = files.len() as u64;
        committed.bytes = files.iter().map(|file| file.bytes).sum();
        let epoch = self.epoch;
        let result = self.append(range.first, files).and_then(|()| self.store.publish());
        // The store knows whether the record is in the ledger, whatever failed.
        let durable = self.store.progress().is_some_and(|progress| progress.epoch > epoch);
        (durable.then_some(committed), result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_to_its_bound() {
        assert_eq!(backoff(0), BACKOFF_FIRST);
        assert_eq!(backoff(1), BACKOFF_FIRST * 2);
        assert_eq!(backoff(60), BACKOFF_LAST);
    }
}
