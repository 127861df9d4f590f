//! One partition of a landed topic: waiting for its turn, open, or stopped.

use super::{
    batch::{Batch, Layout, Range},
    resume::{Held, Lost, Resume, Start, resume},
};
use crate::{
    config::model::LandTable,
    health::Letters,
    kafka::consumer::{Consumer, ConsumerError, LastRecord, Position},
    lake::{
        LakeError,
        ledger::{AcceptedLoss, LedgerFile, Progress},
        store::{Location, Opened, Store, Walk},
        upkeep::Place,
    },
    loss::{self, Accepted, Loss},
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
    #[error("{}", loss::told("land", std::slice::from_ref(.0)))]
    Lost(Loss),
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
            error @ OpenError::Lost(_) => Partition::Stopped(error.to_string()),
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
    /// Kafka's id of the topic, or what stands for it where the log was truncated (see [`loss::next_log`]).
    log_id: String,
    generation: u32,
    epoch: u64,
    /// The record before `position`, where its epoch is known.
    pub last: Option<LastRecord>,
    /// Where to read from as long as nothing was read, which may be before `position`.
    begin: Option<(i64, Option<i32>)>,
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

/// Takes the partition's lock and recovers its ledger; asks no broker.
pub fn lock(table: &LandTable, partition: i32, walk: &mut Walk) -> Result<Store, OpenError> {
    match Store::open(location(table, partition), walk)? {
        Opened::Ready(store) => Ok(*store),
        Opened::Busy(holder) => {
            let holder = holder.map_or("another process".to_owned(), |holder| holder.to_string());
            Err(OpenError::Locked(format!("partition {partition} of {} is held by {holder}", table.topic)))
        }
    }
}

impl Open {
    /// Decides where to read on with a partition's store.
    pub fn new(
        table: &LandTable,
        partition: i32,
        store: Store,
        consumer: &Consumer,
        accepted: &Accepted,
    ) -> Result<Self, OpenError> {
        let description = consumer.describe(KAFKA_TIMEOUT).map_err(ConsumerError::from)?;
        let (low, stable) = consumer.watermarks(partition, KAFKA_TIMEOUT)?;
        let high = match store.progress() {
            Some(progress) if progress.next > stable => consumer.log_end(partition, KAFKA_TIMEOUT)?,
            _ => stable,
        };
        let held = Held { topic_id: description.id.to_string(), low, stable, high };
        let (start, lost) = match resume(&table.topic, partition, store.progress(), &held) {
            Resume::At(start) => (start, None),
            Resume::Lost(lost) if accepted.holds(&lost.loss) => (lost.accepted.clone(), Some(lost)),
            Resume::Lost(lost) => return Err(OpenError::Lost(lost.loss)),
        };
        let Start { log_id, generation, offset, fetch_offset, leader_epoch } = start;
        let mut open = Open {
            epoch: store.progress().map_or(0, |progress| progress.epoch),
            committed: offset,
            last: store.progress().and_then(|progress| progress.last).filter(|_| leader_epoch.is_some()),
            store,
            batch: None,
            log_id,
            generation,
            position: offset,
            begin: Some((fetch_offset, leader_epoch)),
            at_end: false,
            moved: Instant::now(),
            last_commit: None,
        };
        if let Some(lost) = lost {
            open.accept(&lost)?;
            accepted.spend(&lost.loss);
        }
        tracing::info!(topic = %table.topic, partition, offset, "going on");
        Ok(open)
    }

    /// Goes on where the loss says.
    pub fn accept(&mut self, lost: &Lost) -> Result<(), LakeError> {
        let Lost { loss, accepted, is_unsure } = lost;
        tracing::warn!(offset = accepted.offset, loss = loss.name, "this loss was accepted: {}", loss.what);
        self.last = None;
        self.begin_at(accepted, *is_unsure)
    }

    /// Goes on elsewhere, and stores that at once, so that the next start need not ask again. What follows is to be
    /// read by opening it anew.
    pub fn begin_at(&mut self, start: &Start, is_unsure: bool) -> Result<(), LakeError> {
        let before = self.store.progress().cloned().unwrap_or_default();
        self.log_id = start.log_id.clone();
        self.generation = start.generation;
        self.position = start.offset;
        let losses = [before.losses.as_slice(), &[start.note(&before, is_unsure)]].concat();
        self.append(start.offset, Vec::new(), losses)?;
        self.store.publish()
    }

    /// Whether it is known that the log is the one that was read.
    pub fn is_compared(&self) -> bool {
        self.begin.is_none_or(|(_, leader_epoch)| leader_epoch.is_none())
    }

    /// Where to read on.
    pub fn read_from(&self, partition: i32) -> Position {
        let behind = |last: LastRecord| (last.offset + 1, Some(last.leader_epoch));
        let (offset, leader_epoch) = self.begin.unwrap_or_else(|| self.last.map_or((self.position, None), behind));
        Position { partition, offset, leader_epoch }
    }

    /// Takes note of a record, which is in the batch, or of the end that was met; the next one stands at `position`.
    pub fn move_to(&mut self, position: i64, last: Option<LastRecord>, now: Instant) {
        if position > self.position {
            self.position = position;
            self.moved = now;
        }
        self.last = last.or(self.last);
        self.begin = None;
    }

    /// Kafka's id of the topic.
    pub fn topic_id(&self) -> &str {
        loss::topic_of(&self.log_id)
    }

    pub fn bytes(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.bytes)
    }

    /// Whether there is anything that a commit would make durable.
    pub fn is_dirty(&self) -> bool {
        self.batch.is_some() || self.position > self.committed
    }

    fn append(&mut self, first: i64, files: Vec<LedgerFile>, losses: Vec<AcceptedLoss>) -> Result<(), LakeError> {
        let progress = Progress {
            topic_id: self.log_id.clone(),
            generation: self.generation,
            epoch: self.epoch + 1,
            next: self.position,
            last: self.last,
            losses,
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
            topic_id: self.log_id.clone(),
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
        let losses = self.store.progress().map(|progress| progress.losses.clone()).unwrap_or_default();
        let result = self.append(range.first, files, losses).and_then(|()| self.store.publish());
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
