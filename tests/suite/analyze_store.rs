//! What analyze keeps in PostgreSQL: tables and roles, leadership, flushes that happen once.

mod days;
mod flush;
mod lead;
mod setup;
mod views;

pub use flush::{AFTER, BEFORE, CommitProxy};

use crate::harness::{Db, Test, block_on};
use headwater::analyze::{
    anomaly::Moment,
    store::{DeadLetter, Flush, Job, Kind, LateCount, Leader, Measure, Output, PartitionProgress, Settings, Store},
    window::{Value, WindowRow},
};
use std::sync::Arc;

pub const DAY_MS: i64 = 86_400_000;
/// 2025-01-15T12:24:00Z
pub const NOON_MS: i64 = 1_736_943_840_000;

/// The chat job, as the shipped tables are made for it.
pub fn chat() -> Job {
    let measure = |column: &str, kind, is_nullable| Measure { column: column.to_owned(), kind, is_nullable };
    Job {
        name: "chat".to_owned(),
        declaration: "as shipped".to_owned(),
        output: Output {
            schema: None,
            table: "chat_summary_minute".to_owned(),
            key_column: "stream_id".to_owned(),
            measures: vec![
                measure("chat_count", Kind::Integer, false),
                measure("unique_chatters", Kind::Integer, false),
                measure("avg_sentiment", Kind::Float, true),
                measure("positive_count", Kind::Integer, false),
                measure("negative_count", Kind::Integer, false),
                measure("top_emotes", Kind::TextList, false),
                measure("emote_counts", Kind::Counts, false),
                measure("chat_rate", Kind::Float, false),
                measure("avg_viewers", Kind::Float, true),
            ],
        },
    }
}

pub fn open(test: &Test) -> Arc<Store> {
    block_on(Store::open(&test.postgres, chat(), Settings::default())).expect("the store")
}

pub fn lead(store: &Arc<Store>) -> Leader {
    block_on(store.lead(|holder| panic!("{holder} leads"))).expect("leadership")
}

/// A final minute of a stream with so many messages.
pub fn window(key: &str, start_ms: i64, count: i64) -> WindowRow {
    WindowRow {
        key: key.into(),
        start_ms,
        end_ms: start_ms + 60_000,
        values: vec![
            Value::Integer(count),
            Value::Integer(count / 2),
            Value::Float(0.25),
            Value::Integer(count / 3),
            Value::Integer(0),
            Value::TextList(vec!["Kappa".to_owned(), "LUL".to_owned()]),
            Value::Counts(vec![("Kappa".to_owned(), count), ("LUL".to_owned(), 1)]),
            Value::Float(count as f64 / 60.0),
            Value::Null,
        ],
        is_final: true,
        revision: 0,
        is_approximate: false,
    }
}

/// A flush of these rows that moves partition 0 of the chat topic to `next_offset`.
pub fn flush_of(rows: Vec<WindowRow>, next_offset: i64) -> Flush {
    let progress = PartitionProgress {
        topic: "telemetra.events.chat".to_owned(),
        partition: 0,
        topic_id: "AAAA".to_owned(),
        next_offset,
        replay_offset: next_offset / 2,
        last: None,
    };
    Flush {
        now_ms: NOON_MS,
        watermark_ms: Some(NOON_MS + next_offset),
        partitions: vec![progress],
        rows,
        ..Flush::default()
    }
}

/// One of everything, so that a flush touches every table.
pub fn full_flush(next_offset: i64) -> Flush {
    Flush {
        moments: vec![moment("m1", "s1", NOON_MS)],
        dead_letters: vec![dead_letter(next_offset - 1, b"{")],
        late: vec![late(3)],
        ..flush_of(vec![window("s1", NOON_MS, 12), window("s2", NOON_MS, 5)], next_offset)
    }
}

pub fn moment(id: &str, key: &str, start_ms: i64) -> Moment {
    Moment {
        moment_id: id.to_owned(),
        moment_type: "chat_spike".to_owned(),
        key: key.to_owned(),
        metric: "chat_count".to_owned(),
        window_start_ms: start_ms,
        window_end_ms: start_ms + 60_000,
        value: 900.0,
        baseline: 100.0,
        score: 8.5,
        threshold: 3.0,
        details: serde_json::json!({"periods": 10}),
    }
}

pub fn dead_letter(offset: i64, payload: &[u8]) -> DeadLetter {
    DeadLetter {
        topic: "telemetra.events.chat".to_owned(),
        topic_id: "AAAA".to_owned(),
        partition: 0,
        offset,
        timestamp_ms: Some(NOON_MS),
        key: None,
        payload: Some(payload.to_owned()),
        headers: vec![(b"h".to_vec(), Some(vec![0, 255])), (b"n\0".to_vec(), None)],
        reason: "schema_validation_failed".to_owned(),
        detail: "not a JSON object".to_owned(),
        at_ms: NOON_MS,
    }
}

pub fn late(count: i64) -> LateCount {
    LateCount {
        topic: "telemetra.events.chat".to_owned(),
        window_start_ms: NOON_MS - 3_600_000,
        window_end_ms: NOON_MS - 3_540_000,
        count,
        first_seen_ms: NOON_MS,
        last_seen_ms: NOON_MS + count,
    }
}

/// All that a flush writes, without the times at which it was written.
pub fn everything(db: &Db) -> Vec<Vec<Vec<Option<String>>>> {
    [
        "SELECT to_jsonb(t) - 'updated_at' FROM chat_summary_minute t ORDER BY stream_id, window_start",
        "SELECT * FROM moments ORDER BY moment_id",
        "SELECT * FROM late_events ORDER BY window_start",
        "SELECT * FROM dead_letters ORDER BY kafka_offset",
        "SELECT job, flushes, watermark FROM analyze_jobs ORDER BY job",
        "SELECT job, topic, partition, topic_id, next_offset, replay_offset FROM analyze_partitions ORDER BY 1, 2, 3",
    ]
    .map(|sql| db.rows(sql))
    .into()
}
