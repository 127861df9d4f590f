//! What one flush writes, and the one transaction that writes it.

use super::{
    StoreError,
    rows::Upsert,
    text::{json, storable, storable_key},
    wire::Timestamp,
};
use crate::{
    analyze::{anomaly::Moment, window::WindowRow},
    failpoint,
    kafka::consumer::LastRecord,
    record::headers::{self, Headers},
};
use deadpool_postgres::{Object, Transaction};
use std::collections::{BTreeMap, HashMap};
use tokio_postgres::{IsolationLevel, types::ToSql};

/// Dead letters of one statement hold about so many bytes.
const CHUNK_BYTES: usize = 4 << 20;
const CHUNK_ROWS: usize = 1_000;

/// All that becomes visible at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Flush {
    /// Wall clock: decides which days are near, and is `moments.detected_at`.
    pub now_ms: i64,
    /// The stage's watermark; a lower one than is stored changes nothing.
    pub watermark_ms: Option<i64>,
    /// Of the partitions that have moved (others may be given too).
    pub partitions: Vec<PartitionProgress>,
    pub rows: Vec<WindowRow>,
    pub moments: Vec<Moment>,
    pub dead_letters: Vec<DeadLetter>,
    pub late: Vec<LateCount>,
}

/// How far a Kafka partition has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionProgress {
    pub topic: String,
    pub partition: i32,
    /// Kafka's id of the topic, or what stands for it where the log was truncated (see [`crate::loss::next_log`]).
    pub topic_id: String,
    /// Where reading goes on.
    pub next_offset: i64,
    /// Where reading begins again after a restart: the oldest open pane's first record.
    pub replay_offset: i64,
    /// The last record before `next_offset`, where its epoch is known.
    pub last: Option<LastRecord>,
}

/// A row of `dead_letters`.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    pub topic: String,
    pub topic_id: String,
    pub partition: i32,
    pub offset: i64,
    /// As the broker keeps it.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    /// The exact bytes; none for a tombstone.
    pub payload: Option<Vec<u8>>,
    pub headers: Headers,
    /// One of the closed set of reasons.
    pub reason: String,
    pub detail: String,
    /// When it was rejected.
    pub at_ms: i64,
}

/// Events that missed a window since the last flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateCount {
    pub topic: String,
    pub window_start_ms: i64,
    pub window_end_ms: i64,
    pub count: i64,
    /// Wall clock of the first and the last of them.
    pub first_seen_ms: i64,
    pub last_seen_ms: i64,
}

/// What a flush changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Rows of the output table that are new or other than before.
    pub rows: u64,
    /// Moments that were not known.
    pub moments: u64,
    pub dead_letters: u64,
}

/// What the stored progress must be for a flush to take effect.
pub(super) struct Expected<'a> {
    pub job: &'a str,
    pub epoch: i64,
    /// Flushes committed so far.
    pub flushes: i64,
    pub next_offsets: &'a HashMap<(String, i32), i64>,
}

pub(super) enum Attempt {
    Committed(Flushed),
    /// The row of the job is not as expected: another epoch, or another count of flushes.
    Refused,
    /// The connection broke while the commit was under way.
    Unknown(StoreError),
}

/// Writes the flush by one transaction. An error means that nothing of it is committed.
pub(super) async fn attempt(
    client: &mut Object,
    flush: &Flush,
    expected: &Expected<'_>,
    upsert: &Upsert,
    copy_rows: usize,
) -> Result<Attempt, StoreError> {
    failpoint::hit("analyze.before_begin")?;
    // The default of a role or a database may be another level, in which a takeover is an error.
    let transaction =
        client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).read_only(false).start().await?;
    // First, because it takes the row's lock: whoever takes over waits for us, or we fail here.
    if !claim(&transaction, flush, expected).await? {
        return Ok(Attempt::Refused);
    }
    move_partitions(&transaction, flush, expected).await?;
    let rows = upsert.run(&transaction, &flush.rows, copy_rows).await?;
    failpoint::hit("analyze.mid_transaction")?;
    let moments = write_moments(&transaction, flush).await?;
    let dead_letters = write_dead_letters(&transaction, flush, expected.job).await?;
    write_late(&transaction, flush, expected.job).await?;
    failpoint::hit("analyze.before_commit")?;
    if let Err(error) = transaction.commit().await {
        return Ok(Attempt::Unknown(error.into()));
    }
    if let Err(error) = failpoint::hit("analyze.after_commit") {
        return Ok(Attempt::Unknown(error.into()));
    }
    Ok(Attempt::Committed(Flushed { rows, moments, dead_letters }))
}

/// The compare-and-set of the job's row.
async fn claim(transaction: &Transaction<'_>, flush: &Flush, expected: &Expected<'_>) -> Result<bool, StoreError> {
    let statement = transaction
        .prepare_cached(
            "UPDATE analyze_jobs SET flushes = flushes + 1, watermark = greatest(watermark, $4), updated_at = now()
             WHERE job = $1 AND epoch = $2 AND flushes = $3",
        )
        .await?;
    let watermark = flush.watermark_ms.map(Timestamp);
    let changed =
        transaction.execute(&statement, &[&expected.job, &expected.epoch, &expected.flushes, &watermark]).await?;
    Ok(changed == 1)
}

/// The compare-and-set of the partitions. The epoch already keeps other instances out; this finds rows
/// that a person has changed under a running job.
async fn move_partitions(
    transaction: &Transaction<'_>,
    flush: &Flush,
    expected: &Expected<'_>,
) -> Result<(), StoreError> {
    let (mut moved, mut new) = (Vec::new(), Vec::new());
    for progress in &flush.partitions {
        match expected.next_offsets.get(&(progress.topic.clone(), progress.partition)) {
            Some(previous) => moved.push((progress, *previous)),
            None => new.push((progress, 0)),
        }
    }
    let update = "UPDATE analyze_partitions AS p SET topic_id = n.topic_id, next_offset = n.next_offset,
           replay_offset = n.replay_offset, last_offset = n.last_offset, leader_epoch = n.leader_epoch,
           updated_at = now()
         FROM unnest($2::text[], $3::int4[], $4::text[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int4[])
           AS n(topic, partition, topic_id, next_offset, replay_offset, previous, last_offset, leader_epoch)
         WHERE p.job = $1 AND p.topic = n.topic AND p.partition = n.partition AND p.next_offset = n.previous";
    let insert = "INSERT INTO analyze_partitions (job, topic, partition, topic_id, next_offset, replay_offset,
           last_offset, leader_epoch)
         SELECT $1, n.topic, n.partition, n.topic_id, n.next_offset, n.replay_offset, n.last_offset, n.leader_epoch
         FROM unnest($2::text[], $3::int4[], $4::text[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int4[])
           AS n(topic, partition, topic_id, next_offset, replay_offset, previous, last_offset, leader_epoch)
         ON CONFLICT (job, topic, partition) DO NOTHING";
    for (sql, list) in [(update, moved), (insert, new)] {
        if list.is_empty() {
            continue;
        }
        let statement = transaction.prepare_cached(sql).await?;
        let topics: Vec<&str> = list.iter().map(|(p, _)| p.topic.as_str()).collect();
        let partitions: Vec<i32> = list.iter().map(|(p, _)| p.partition).collect();
        let topic_ids: Vec<&str> = list.iter().map(|(p, _)| p.topic_id.as_str()).collect();
        let next: Vec<i64> = list.iter().map(|(p, _)| p.next_offset).collect();
        let replay: Vec<i64> = list.iter().map(|(p, _)| p.replay_offset).collect();
        let previous: Vec<i64> = list.iter().map(|(_, previous)| *previous).collect();
        let last_offsets: Vec<Option<i64>> = list.iter().map(|(p, _)| p.last.map(|last| last.offset)).collect();
        let epochs: Vec<Option<i32>> = list.iter().map(|(p, _)| p.last.map(|last| last.leader_epoch)).collect();
        let parameters: [&(dyn ToSql + Sync); 9] =
            [&expected.job, &topics, &partitions, &topic_ids, &next, &replay, &previous, &last_offsets, &epochs];
        let changed = transaction.execute(&statement, &parameters).await?;
        if changed != list.len() as u64 {
            return Err(StoreError::Conflict {
                job: expected.job.to_owned(),
                detail: "offsets in analyze_partitions are not those that this instance wrote".to_owned(),
            });
        }
    }
    Ok(())
}

async fn write_moments(transaction: &Transaction<'_>, flush: &Flush) -> Result<u64, StoreError> {
    let mut written = 0;
    for chunk in flush.moments.chunks(CHUNK_ROWS) {
        let statement = transaction
            .prepare_cached(
                "INSERT INTO moments (moment_id, moment_type, stream_id, window_start, window_end, metric, value,
                   baseline, score, threshold, detected_at, details)
                 SELECT id, type, stream_id, window_start, window_end, metric, value, baseline, score, threshold, $12,
                   details::jsonb
                 FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[],
                   $7::float8[], $8::float8[], $9::float8[], $10::float8[], $11::text[])
                   AS m(id, type, stream_id, window_start, window_end, metric, value, baseline, score, threshold, details)
                 ON CONFLICT (moment_id) DO NOTHING",
            )
            .await?;
        let texts = |get: fn(&Moment) -> &str| chunk.iter().map(|m| storable(get(m))).collect::<Vec<_>>();
        let times = |get: fn(&Moment) -> i64| chunk.iter().map(|m| Timestamp(get(m))).collect::<Vec<_>>();
        let numbers = |get: fn(&Moment) -> f64| chunk.iter().map(get).collect::<Vec<_>>();
        let keys: Vec<_> = chunk.iter().map(|m| storable_key(&m.key)).collect();
        let details: Vec<String> = chunk.iter().map(|m| json(&m.details)).collect();
        written += transaction
            .execute(
                &statement,
                &[
                    &texts(|m| &m.moment_id),
                    &texts(|m| &m.moment_type),
                    &keys,
                    &times(|m| m.window_start_ms),
                    &times(|m| m.window_end_ms),
                    &texts(|m| &m.metric),
                    &numbers(|m| m.value),
                    &numbers(|m| m.baseline),
                    &numbers(|m| m.score),
                    &numbers(|m| m.threshold),
                    &details,
                    &Timestamp(flush.now_ms),
                ],
            )
            .await?;
    }
    Ok(written)
}

/// A record that is read again after a restart is a dead letter again, and is there already.
async fn write_dead_letters(transaction: &Transaction<'_>, flush: &Flush, job: &str) -> Result<u64, StoreError> {
    let mut written = 0;
    let mut rest = flush.dead_letters.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take(CHUNK_ROWS).take_while(|letter| {
            let is_fitting = bytes < CHUNK_BYTES;
            bytes += letter.payload.as_ref().map_or(0, Vec::len) + letter.key.as_ref().map_or(0, Vec::len);
            is_fitting
        });
        let (chunk, after) = rest.split_at(fitting.count());
        rest = after;
        let statement = transaction
            .prepare_cached(
                "INSERT INTO dead_letters (job, raw_payload, raw_text, topic, error_reason, error_detail, error_ts,
                   kafka_partition, kafka_offset, kafka_timestamp, key, headers, topic_id)
                 SELECT $1, d.* FROM unnest($2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[],
                   $7::timestamptz[], $8::int4[], $9::int8[], $10::timestamptz[], $11::bytea[], $12::text[], $13::text[]) AS d
                 ON CONFLICT (job, topic, kafka_partition, kafka_offset, topic_id) DO NOTHING",
            )
            .await?;
        written += transaction
            .execute(
                &statement,
                &[
                    &job,
                    &chunk.iter().map(|d| d.payload.as_deref()).collect::<Vec<_>>(),
                    &chunk.iter().map(|d| text_of(d.payload.as_deref())).collect::<Vec<_>>(),
                    &chunk.iter().map(|d| d.topic.as_str()).collect::<Vec<_>>(),
                    &chunk.iter().map(|d| d.reason.as_str()).collect::<Vec<_>>(),
                    &chunk.iter().map(|d| storable(&d.detail)).collect::<Vec<_>>(),
                    &chunk.iter().map(|d| Timestamp(d.at_ms)).collect::<Vec<_>>(),
                    &chunk.iter().map(|d| d.partition).collect::<Vec<_>>(),
                    &chunk.iter().map(|d| d.offset).collect::<Vec<_>>(),
                    &chunk.iter().map(|d| d.timestamp_ms.map(Timestamp)).collect::<Vec<_>>(),
                    &chunk.iter().map(|d| d.key.as_deref()).collect::<Vec<_>>(),
                    // As text and not jsonb: there a NUL in a name stays what it is.
                    &chunk.iter().map(|d| headers::encode(&d.headers)).collect::<Vec<_>>(),
                    &chunk.iter().map(|d| d.topic_id.as_str()).collect::<Vec<_>>(),
                ],
            )
            .await?;
    }
    Ok(written)
}

/// The payload as text, where PostgreSQL can hold it as such.
fn text_of(payload: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(payload?).ok().filter(|text| !text.contains('\0'))
}

/// The one place that adds instead of writing absolute values: counts of late events outlive the process
/// that counted them, and this transaction happens at most once for a position in the topics (see
/// [`claim`]), so each late event is added once.
async fn write_late(transaction: &Transaction<'_>, flush: &Flush, job: &str) -> Result<(), StoreError> {
    let mut windows: BTreeMap<(&str, i64, i64), (i64, i64, i64)> = BTreeMap::new();
    for late in &flush.late {
        let window = (late.topic.as_str(), late.window_start_ms, late.window_end_ms);
        let total = windows.entry(window).or_insert((0, late.first_seen_ms, late.last_seen_ms));
        *total = (total.0 + late.count, total.1.min(late.first_seen_ms), total.2.max(late.last_seen_ms));
    }
    let windows: Vec<_> = windows.into_iter().collect();
    for chunk in windows.chunks(CHUNK_ROWS) {
        let statement = transaction
            .prepare_cached(
                "INSERT INTO late_events AS old (job, topic, window_start, window_end, event_count, first_seen, last_seen)
                 SELECT $1, l.* FROM unnest($2::text[], $3::timestamptz[], $4::timestamptz[], $5::int8[],
                   $6::timestamptz[], $7::timestamptz[]) AS l
                 ON CONFLICT (job, topic, window_start, window_end) DO UPDATE SET
                   event_count = old.event_count + excluded.event_count,
                   first_seen = least(old.first_seen, excluded.first_seen),
                   last_seen = greatest(old.last_seen, excluded.last_seen)",
            )
            .await?;
        transaction
            .execute(
                &statement,
                &[
                    &job,
                    &chunk.iter().map(|(window, _)| window.0).collect::<Vec<_>>(),
                    &chunk.iter().map(|(window, _)| Timestamp(window.1)).collect::<Vec<_>>(),
                    &chunk.iter().map(|(window, _)| Timestamp(window.2)).collect::<Vec<_>>(),
                    &chunk.iter().map(|(_, total)| total.0).collect::<Vec<_>>(),
                    &chunk.iter().map(|(_, total)| Timestamp(total.1)).collect::<Vec<_>>(),
                    &chunk.iter().map(|(_, total)| Timestamp(total.2)).collect::<Vec<_>>(),
                ],
            )
            .await?;
    }
    Ok(())
}
