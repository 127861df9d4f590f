//! The retention of what analyze writes beside the windows: `moments`, `late_events`, `dead_letters`. Old rows are
//! deleted while a job is led, some thousand at a time, so that no lock is held for long.
//!
//! Nothing goes that `verify` needs for what is still there: of late events those of windows that are kept stay, of
//! dead letters those whose record is still on the topic. Moments are of no job, so whoever leads one deletes the old.

use super::store::{Store, StoreError};
use crate::{
    clock::now_us,
    config::model::{Job, Kafka},
    kafka::{
        reader::{ReadError, Reader},
        topic::{self, TopicError},
    },
    postgres::quote_literal,
    record::time::{self, MICROS_PER_DAY},
};
use std::{collections::BTreeSet, convert::Infallible, time::Duration};

/// Rows of one statement.
pub const BATCH_ROWS: i64 = 10_000;
/// `$1` is the first day that is kept, `$2` the ids of jobs.
pub const MOMENTS: &str = "window_start < $1::text::timestamptz";
pub const LATE_EVENTS: &str = "window_start < $1::text::timestamptz AND job = ANY($2)";
pub const DEAD_LETTERS: &str = "error_ts < $1::text::timestamptz AND job = ANY($2)";
const INTERVAL: Duration = Duration::from_secs(3_600);

/// Where a partition begins now.
pub struct Begin {
    topic: String,
    topic_id: String,
    partition: i32,
    offset: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Topic(#[from] TopicError),
}

impl BeginError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        match self {
            BeginError::Read(error) => error.is_unavailable(),
            BeginError::Topic(error) => error.is_unavailable(),
        }
    }
}

/// Of every partition of these topics. Blocks.
pub fn begins(kafka: &Kafka, topics: BTreeSet<String>) -> Result<Vec<Begin>, BeginError> {
    let mut begins = Vec::new();
    for name in topics {
        let extents = match Reader::open(kafka, &name)?.extents() {
            Err(ReadError::MissingTopic { .. }) => continue,
            extents => extents?,
        };
        let topic_id = topic::find(kafka, &name)?.id.to_string();
        begins.extend(extents.into_iter().map(|extent| Begin {
            topic: name.clone(),
            topic_id: topic_id.clone(),
            partition: extent.partition,
            offset: extent.first,
        }));
    }
    Ok(begins)
}

/// Whether a dead letter's record has left its topic.
pub fn has_left(begins: &[Begin]) -> String {
    let held: Vec<String> = begins
        .iter()
        .map(|Begin { topic, topic_id, partition, offset }| {
            format!(
                "(topic = {} AND topic_id = {} AND kafka_partition = {partition} AND kafka_offset >= {offset})",
                quote_literal(topic),
                quote_literal(topic_id),
            )
        })
        .collect();
    if held.is_empty() { "true".to_owned() } else { format!("NOT ({})", held.join(" OR ")) }
}

/// Deletes up to [`BATCH_ROWS`] rows.
pub fn delete(table: &str, condition: &str) -> String {
    format!(
        "DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {condition} LIMIT {BATCH_ROWS}))"
    )
}

/// The first date, `YYYY-MM-DD`, that is not older than so many days. Dates are UTC.
pub fn kept_from(now_us: i64, days: u32) -> String {
    let today = now_us.div_euclid(MICROS_PER_DAY);
    let day = (today - i64::from(days)).max(i64::from(i32::MIN));
    time::partition(day as i32).trim_start_matches("date=").to_owned()
}

/// Deletes what is old, now and every hour. What cannot be done now is done later, and told once.
pub async fn keep(store: &Store, kafka: &Kafka, job: &Job, days: u32) -> Infallible {
    let mut told: Option<String> = None;
    loop {
        match forget(store, kafka, job, days).await {
            Ok(0) => told = None,
            Ok(rows) => {
                told = None;
                tracing::info!(
                    job = job.name,
                    rows,
                    "deleted moments, late events and dead letters beyond their retention"
                );
            }
            Err(reason) if told.as_ref() != Some(&reason) => {
                tracing::warn!(job = job.name, "old moments, late events and dead letters stay for now: {reason}");
                told = Some(reason);
            }
            Err(_) => {}
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// How many rows went.
async fn forget(store: &Store, kafka: &Kafka, job: &Job, days: u32) -> Result<u64, String> {
    let (kafka, topics) = (kafka.clone(), job.inputs.iter().map(|input| input.topic.clone()).collect());
    let begins =
        tokio::task::spawn_blocking(move || begins(&kafka, topics)).await.map_err(|error| error.to_string())?;
    let letters = format!("{DEAD_LETTERS} AND {}", has_left(&begins.map_err(|error| error.to_string())?));
    let before = kept_from(store.agreed_now_us(now_us()).await.map_err(|error| error.to_string())?, days);
    let mut deleted = 0;
    for (table, condition) in [("moments", MOMENTS), ("late_events", LATE_EVENTS), ("dead_letters", &letters)] {
        // The condition on jobs stands in for one that moments have not.
        let condition =
            if table == "moments" { format!("{condition} AND $2::text[] IS NOT NULL") } else { condition.to_owned() };
        loop {
            let rows = store.delete(&delete(table, &condition), &before).await;
            let rows = rows.map_err(|error: StoreError| error.to_string())?;
            deleted += rows;
            if rows < BATCH_ROWS.unsigned_abs() {
                break;
            }
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_today() {
        let now_us = 20_000 * MICROS_PER_DAY + 5;
        assert_eq!(kept_from(now_us, 0), "2024-10-04");
        assert_eq!(kept_from(now_us, 1), "2024-10-03");
        assert_eq!(kept_from(now_us, 365), "2023-10-05");
    }

    #[test]
    fn a_letter_whose_record_is_there_stays() {
        assert_eq!(has_left(&[]), "true");
        let begin = Begin { topic: "it's".to_owned(), topic_id: "A".to_owned(), partition: 3, offset: 7 };
        assert_eq!(
            has_left(&[begin]),
            "NOT ((topic = 'it''s' AND topic_id = 'A' AND kafka_partition = 3 AND kafka_offset >= 7))"
        );
    }
}
