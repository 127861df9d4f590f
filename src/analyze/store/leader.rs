//! The one instance that may write: flushes, and what to do when nobody knows whether one is in.

use super::{
    Store, StoreError,
    days::Days,
    flush::{Attempt, Expected, Flush, Flushed, PartitionProgress, attempt},
    lock::Lock,
    wire::Timestamp,
};
use crate::kafka::consumer::LastRecord;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio_postgres::{Client, error::SqlState};

const RECONNECT: Duration = Duration::from_millis(250);

/// The progress that the last flush left, which tells where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub epoch: i64,
    /// `None` before the first flush that had one.
    pub watermark_ms: Option<i64>,
    /// By topic and partition; empty before the first flush.
    pub partitions: Vec<PartitionProgress>,
    /// Records that are to be read again and were refused for their time: topic, partition, offset. The
    /// clock that judged them has gone on since.
    pub refused: Vec<(String, i32, i64)>,
    /// Windows that begin earlier are never written: see [`super::super::reset`].
    pub windows_from_ms: Option<i64>,
}

/// Leadership over a job. When it is lost everything that was computed since [`Leader::stored`] is void:
/// lead again, and begin from what is stored then.
pub struct Leader {
    store: Arc<Store>,
    lock: Lock,
    days: Days,
    stored: Stored,
    flushes: i64,
    next_offsets: HashMap<(String, i32), i64>,
    /// Set while a flush is under way: one whose future was dropped may be in or not.
    is_flushing: bool,
}

/// Ends what is said of an event that was refused by the clock. Only such a one is not decoded again when it is read
/// again: the others are judged by what the job declares now.
pub const AHEAD_OF_CLOCK: &str = "ahead of the clock";

impl Leader {
    pub(super) async fn new(store: Arc<Store>, lock: Lock) -> Result<Leader, StoreError> {
        let client = store.pool.get().await?;
        let job = &store.job.name;
        let row = client
            .query_one(
                "SELECT epoch, flushes, watermark, declaration, windows_from FROM analyze_jobs WHERE job = $1",
                &[job],
            )
            .await?;
        let epoch: i64 = row.get(0);
        if epoch != lock.epoch {
            return Err(fenced(&store, &lock, format!("now it is {epoch}")));
        }
        let declared: Option<String> = row.get(3);
        let is_other = declared.as_ref() != Some(&store.job.declaration);
        let partitions = partitions(&client, job).await?;
        if let (true, Some(was), false) = (is_other, declared, partitions.is_empty()) {
            let (job, now) = (job.clone(), store.job.declaration.clone());
            return Err(StoreError::Redeclared { job, was, now });
        }
        let table = &store.table.name;
        let owned = |owner| StoreError::Owned { job: job.clone(), table: table.clone(), owner };
        if let Some(owner) = owner(&client, table, job).await? {
            return Err(owned(owner));
        }
        if partitions.is_empty() && holds_final(&client, table).await? {
            return Err(StoreError::NoProgress { job: job.clone(), table: table.clone() });
        }
        let claim = "UPDATE analyze_jobs SET declaration = $2, output = $4 WHERE job = $1 AND epoch = $3";
        match client.execute(claim, &[job, &store.job.declaration, &epoch, table]).await {
            // Another one has claimed it in this moment.
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                return Err(owned(owner(&client, table, job).await?.unwrap_or_default()));
            }
            claimed => claimed?,
        };
        let refused = client
            .query(
                "SELECT d.topic, d.kafka_partition, d.kafka_offset FROM analyze_partitions p JOIN dead_letters d
                   ON d.job = p.job AND d.topic = p.topic AND d.kafka_partition = p.partition AND d.topic_id = p.topic_id
                   AND d.kafka_offset >= p.replay_offset
                 WHERE p.job = $1 AND d.error_reason = 'invalid_timestamp' AND d.error_detail LIKE '%' || $2",
                &[job, &AHEAD_OF_CLOCK],
            )
            .await?
            .into_iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)))
            .collect();
        drop(client);
        let watermark_ms = row.get::<_, Option<Timestamp>>(2).map(|watermark| watermark.0);
        let windows_from_ms = row.get::<_, Option<Timestamp>>(4).map(|from| from.0);
        let stored = Stored { epoch, watermark_ms, partitions, refused, windows_from_ms };
        let next_offsets = stored.partitions.iter().map(|p| ((p.topic.clone(), p.partition), p.next_offset)).collect();
        let days = Days::new(store.table.has_days.then(|| store.table.name.clone()), store.settings.retention_days);
        Ok(Leader { store, lock, days, stored, flushes: row.get(1), next_offsets, is_flushing: false })
    }

    pub fn epoch(&self) -> i64 {
        self.lock.epoch
    }

    /// The progress as it was when this instance began to lead.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Returns, with the reason, once leadership is lost. Does not borrow, to be awaited beside a flush.
    pub fn lost(&self) -> impl Future<Output = String> + Send + use<> {
        self.lock.lost()
    }

    /// Writes `flush` with the progress it brings, all or nothing.
    ///
    /// - `Ok`: it is committed, once.
    /// - An error that [`StoreError::is_over`]: another instance leads, or may; what this one holds is void.
    /// - Any other error: nothing of it is committed. The same flush may be tried again where the error
    ///   [`StoreError::is_transient`], and a larger one that holds it as well.
    ///
    /// Once its future was dropped before the end, nobody knows: the leader then counts as lost.
    pub async fn flush(&mut self, flush: &Flush) -> Result<Flushed, StoreError> {
        self.check()?;
        self.is_flushing = true;
        let lost = self.lock.lost();
        let (job, epoch) = (self.store.job.name.clone(), self.lock.epoch);
        let result = tokio::select! {
            biased;
            result = self.flush_or_settle(flush) => result,
            reason = lost => {
                tracing::warn!(job, epoch, "a flush is abandoned: {reason}");
                return Err(StoreError::Lost { job, reason });
            }
        };
        self.is_flushing = false;
        result
    }

    /// Makes the day partitions of the coming days and drops those beyond the retention, when it is time.
    /// Never fails: what cannot be done now is done later. Ends early where leadership is lost.
    pub async fn keep_days(&mut self, now_ms: i64) {
        let lost = self.lock.lost();
        tokio::select! {
            () = self.days.keep(&self.store.pool, now_ms) => {}
            _ = lost => {}
        }
    }

    /// Ends leadership in good order, so that a standby takes over at once.
    pub async fn release(self) {
        self.lock.release().await;
    }

    fn check(&self) -> Result<(), StoreError> {
        let loss = self.lock.loss().or_else(|| self.is_flushing.then(|| "a flush was abandoned".to_owned()));
        match loss {
            Some(reason) => Err(StoreError::Lost { job: self.store.job.name.clone(), reason }),
            None => Ok(()),
        }
    }

    async fn flush_or_settle(&mut self, flush: &Flush) -> Result<Flushed, StoreError> {
        let store = self.store.clone();
        self.days.cover(&store.pool, flush.rows.iter().map(|row| row.start_ms), flush.now_ms).await;
        let mut client = store.pool.get().await?;
        let expected = Expected {
            job: &store.job.name,
            epoch: self.lock.epoch,
            flushes: self.flushes,
            next_offsets: &self.next_offsets,
        };
        let attempt = attempt(&mut client, flush, &expected, &store.upsert, store.copy_rows).await;
        drop(client);
        let flushed = match attempt {
            Ok(Attempt::Committed(flushed)) => flushed,
            Ok(Attempt::Refused) => return Err(self.refusal().await?),
            Ok(Attempt::Unknown(error)) => {
                tracing::warn!(
                    job = store.job.name,
                    "the connection broke during a commit, asking what became of it: {error}"
                );
                self.settle(error).await?
            }
            Err(error) => return Err(error.of_user(&store.user)),
        };
        self.flushes += 1;
        for progress in &flush.partitions {
            self.next_offsets.insert((progress.topic.clone(), progress.partition), progress.next_offset);
        }
        Ok(flushed)
    }

    /// Finds out whether the flush is in. `Ok` if so; what it changed is then not known.
    async fn settle(&self, cause: StoreError) -> Result<Flushed, StoreError> {
        loop {
            match self.progress().await {
                Ok((epoch, _)) if epoch != self.lock.epoch => {
                    return Err(fenced(&self.store, &self.lock, format!("now it is {epoch}")));
                }
                Ok((_, flushes)) if flushes == self.flushes + 1 => return Ok(Flushed::default()),
                Ok((_, flushes)) if flushes == self.flushes => return Err(cause),
                Ok((_, flushes)) => return Err(self.tampered(flushes)),
                Err(error) if error.is_transient() => {
                    tracing::debug!("{error}");
                    tokio::time::sleep(RECONNECT).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Epoch and count of flushes. `FOR UPDATE` waits for a commit that is still under way on the broken
    /// connection's session, so the answer is final.
    async fn progress(&self) -> Result<(i64, i64), StoreError> {
        let client = self.store.pool.get().await?;
        let question = "SELECT epoch, flushes FROM analyze_jobs WHERE job = $1 FOR UPDATE";
        let row = client.query_opt(question, &[&self.store.job.name]).await?;
        // Without a row another epoch than any of ours.
        Ok(row.map_or((0, 0), |row| (row.get(0), row.get(1))))
    }

    async fn refusal(&self) -> Result<StoreError, StoreError> {
        Ok(match self.progress().await? {
            (0, _) => StoreError::Conflict {
                job: self.store.job.name.clone(),
                detail: "its row in analyze_jobs is gone".to_owned(),
            },
            (epoch, flushes) if epoch == self.lock.epoch => self.tampered(flushes),
            (epoch, _) => fenced(&self.store, &self.lock, format!("now it is {epoch}")),
        })
    }

    fn tampered(&self, flushes: i64) -> StoreError {
        StoreError::Conflict {
            job: self.store.job.name.clone(),
            detail: format!("{flushes} flushes are recorded, {} were made", self.flushes),
        }
    }
}

/// The job to which a table belongs, where that is another one. `table` is `"schema"."table"`.
pub(super) async fn owner(client: &Client, table: &str, job: &str) -> Result<Option<String>, StoreError> {
    let question = "SELECT job FROM analyze_jobs WHERE output = $1 AND job <> $2";
    Ok(client.query_opt(question, &[&table, &job]).await?.map(|row| row.get(0)))
}

/// Whether a table has windows that were final.
pub(super) async fn holds_final(client: &Client, table: &str) -> Result<bool, StoreError> {
    Ok(client.query_one(&format!("SELECT EXISTS (SELECT FROM {table} WHERE is_final)"), &[]).await?.get(0))
}

/// Where a job stands, by topic and partition.
pub(super) async fn partitions(client: &Client, job: &str) -> Result<Vec<PartitionProgress>, StoreError> {
    let rows = client
        .query(
            "SELECT topic, partition, topic_id, next_offset, replay_offset, last_offset, leader_epoch
             FROM analyze_partitions WHERE job = $1 ORDER BY topic, partition",
            &[&job],
        )
        .await?;
    let partition = |row: tokio_postgres::Row| PartitionProgress {
        topic: row.get(0),
        partition: row.get(1),
        topic_id: row.get(2),
        next_offset: row.get(3),
        replay_offset: row.get(4),
        last: row
            .get::<_, Option<i64>>(5)
            .zip(row.get(6))
            .map(|(offset, leader_epoch)| LastRecord { offset, leader_epoch }),
    };
    Ok(rows.into_iter().map(partition).collect())
}

fn fenced(store: &Store, lock: &Lock, now: String) -> StoreError {
    StoreError::Fenced { job: store.job.name.clone(), epoch: lock.epoch, now }
}
