//! How long a row takes, from its commit in PostgreSQL to Kafka and to the lake.
//!
//! The start is the commit time that PostgreSQL keeps for the transaction (`track_commit_timestamp`), found
//! by the message's header `headwater-xid`. Kafka's end is the message's timestamp; its transaction commits a few
//! milliseconds later. The lake's end is the `ctime` of the file that holds the message's offset: a rename
//! into place is the last thing that changes it.

use crate::{
    demo::{DemoError, Percentiles, blocking, stage_set::StageSet},
    kafka::reader::{Next, Reader},
    postgres::PostgresError,
};
use std::{
    collections::{BTreeMap, HashMap},
    os::unix::fs::MetadataExt,
    path::Path,
};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delays {
    pub to_kafka: Option<Percentiles>,
    pub to_lake: Option<Percentiles>,
}

struct Seen {
    partition: i32,
    offset: i64,
    xid: i64,
    timestamp_ms: i64,
}

/// Over the rows that were committed while a pipeline ran: from `from_ms` on, seconds of the kill included.
/// None where the server keeps no commit times.
pub async fn measure(set: &StageSet, topic: &str, from_ms: i64) -> Result<Option<Delays>, DemoError> {
    let (kafka, topic) = (set.kafka.clone(), topic.to_owned());
    let seen = blocking("reading the topic", move || read(&kafka, &topic)).await??;
    let Some(commits) = commit_times(set, &seen).await? else { return Ok(None) };
    let files = files_by_offset(&set.lake.join("orders"));
    let (mut to_kafka, mut to_lake) = (Vec::new(), Vec::new());
    for message in &seen {
        let Some(commit_ms) = commits.get(&message.xid).filter(|time| **time >= from_ms) else { continue };
        to_kafka.push(message.timestamp_ms - commit_ms);
        if let Some(landed_ms) = landed_at(&files, message) {
            to_lake.push(landed_ms - commit_ms);
        }
    }
    Ok(Some(Delays { to_kafka: Percentiles::of(to_kafka), to_lake: Percentiles::of(to_lake) }))
}

fn read(kafka: &crate::config::model::Kafka, topic: &str) -> Result<Vec<Seen>, crate::kafka::reader::ReadError> {
    let reader = Reader::open(kafka, topic)?;
    let extents = reader.extents()?;
    let mut seen = Vec::new();
    reader.read(&extents, |record| {
        let xid = record.header("headwater-xid").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        if let (Some(xid), Some(timestamp_ms)) = (xid, record.timestamp_ms()) {
            seen.push(Seen { partition: record.partition(), offset: record.offset(), xid, timestamp_ms });
        }
        Next::Continue
    })?;
    Ok(seen)
}

/// Milliseconds since 1970 by transaction id.
async fn commit_times(set: &StageSet, seen: &[Seen]) -> Result<Option<HashMap<i64, i64>>, DemoError> {
    let client = crate::postgres::connect(&set.postgres).await?;
    let kept = client.query_one("SHOW track_commit_timestamp", &[]).await.map_err(PostgresError::Query)?;
    if kept.get::<_, &str>(0) != "on" {
        return Ok(None);
    }
    let mut xids: Vec<i64> = seen.iter().map(|message| message.xid).collect();
    xids.sort_unstable();
    xids.dedup();
    let rows = client
        .query(
            "SELECT x, (extract(epoch FROM pg_xact_commit_timestamp((x % 4294967296)::text::xid)) * 1000)::bigint
             FROM unnest($1::bigint[]) AS x",
            &[&xids],
        )
        .await
        .map_err(PostgresError::Query)?;
    Ok(Some(rows.iter().filter_map(|row| Some((row.get(0), row.get::<_, Option<i64>>(1)?))).collect()))
}

/// Per partition, by the first offset: the last offset, and when the file came into place. Files of one
/// range (one for each date) came at about the same time; the last of them counts.
type Files = HashMap<i32, BTreeMap<i64, (i64, i64)>>;

fn files_by_offset(table: &Path) -> Files {
    let mut files = Files::new();
    let dates = std::fs::read_dir(table).into_iter().flatten().flatten();
    for file in dates.flat_map(|date| std::fs::read_dir(date.path()).into_iter().flatten().flatten()) {
        let name = file.file_name().to_string_lossy().into_owned();
        let (Some((partition, first, last)), Ok(metadata)) = (offsets_of(&name), file.metadata()) else { continue };
        let at_ms = metadata.ctime() * 1_000 + metadata.ctime_nsec() / 1_000_000;
        let range = files.entry(partition).or_default().entry(first).or_insert((last, at_ms));
        *range = (range.0.max(last), range.1.max(at_ms));
    }
    files
}

/// Partition, first and last offset of `part-<topic>-<partition>-<first>-<last>-<n>.parquet`.
fn offsets_of(name: &str) -> Option<(i32, i64, i64)> {
    let mut parts = name.strip_prefix("part-")?.strip_suffix(".parquet")?.rsplit('-').skip(1);
    let (last, first, partition) = (parts.next()?, parts.next()?, parts.next()?);
    Some((partition.parse().ok()?, first.parse().ok()?, last.parse().ok()?))
}

fn landed_at(files: &Files, message: &Seen) -> Option<i64> {
    let (_, (last, at_ms)) = files.get(&message.partition)?.range(..=message.offset).next_back()?;
    (message.offset <= *last).then_some(*at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_its_offsets() {
        assert_eq!(offsets_of("part-food-orders-raw-3-100-250-0.parquet"), Some((3, 100, 250)));
        assert_eq!(offsets_of("part-0.parquet"), None);
        assert_eq!(offsets_of("other.parquet"), None);
    }

    #[test]
    fn a_message_is_in_the_file_of_its_range() {
        let files = Files::from([(0, BTreeMap::from([(0, (9, 100)), (20, (29, 200))]))]);
        let landed = |offset| landed_at(&files, &Seen { partition: 0, offset, xid: 1, timestamp_ms: 0 });
        assert_eq!((landed(9), landed(15), landed(20), landed(30)), (Some(100), None, Some(200), None));
    }
}
