//! The record by which a table goes on after a restart; written in the Kafka transaction of the
//! rows that it vouches for.

use super::{
    plan::{Given, KeyText, Polled, Snapshot},
    source::{Source, WatermarkType},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What an older version could not go on from has a newer format: 2 while a backlog is caught up with, and of a record
/// in several parts.
const FORMAT: u32 = 2;
const PLAIN: u32 = 1;

/// A record that a broker takes with its usual limit of 1 MiB.
const PART_BYTES: usize = 900_000;

/// Records of the checkpoint topic: key and value.
pub type Records = Vec<(Arc<str>, Vec<u8>)>;

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(
        "its checkpoint has format {found}, this version knows {FORMAT}: it was written by a newer Headwater, use that one"
    )]
    Newer { found: u32 },
    #[error("its checkpoint cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its checkpoint cannot be read: {0}")]
    Damaged(&'static str),
}

/// Where the first load stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Backfill {
    /// Rows with a watermark below the floor; `after` holds watermark and key of the last one.
    Rows {
        after: Option<KeyText>,
        done_rows: u64,
    },
    /// Rows without a watermark; `after` holds the key of the last one.
    Nulls {
        after: Option<KeyText>,
        done_rows: u64,
    },
    Done {
        done_rows: u64,
    },
}

impl Backfill {
    pub fn is_done(&self) -> bool {
        matches!(self, Backfill::Done { .. })
    }

    pub fn done_rows(&self) -> u64 {
        match self {
            Backfill::Rows { done_rows, .. } | Backfill::Nulls { done_rows, .. } | Backfill::Done { done_rows } => {
                *done_rows
            }
        }
    }
}

/// Rows that came while nobody polled, read as those of a first load are: in the order of watermark and key.
///
/// At the snapshot that set `to`, every row with a smaller watermark was visible. So these rows are all there, and
/// those of the polls all have a greater watermark: no row belongs to both.
#[derive(Debug, Clone, PartialEq)]
pub struct CatchUp {
    /// What had been given before.
    pub given: Given,
    /// Raw watermark from which on they lie.
    pub from: i64,
    /// Raw watermark before which they lie.
    pub to: i64,
    /// Watermark and key of the last one given.
    pub after: Option<KeyText>,
    pub done_rows: u64,
}

/// The database whose transaction ids a checkpoint speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub system_identifier: String,
    pub database: String,
    pub timeline: String,
}

/// All that is kept of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub identity: Identity,
    pub watermark: String,
    pub watermark_type: WatermarkType,
    pub key: Vec<String>,
    pub polled: Polled,
    /// Raw watermark below which rows belong to the first load.
    pub floor: i64,
    pub backfill: Backfill,
    /// Raw watermark below which rows belong to a catching up, this or an earlier one.
    pub polls_from: Option<i64>,
    pub catch_up: Option<CatchUp>,
    /// Greatest watermark published, microseconds since the Unix epoch.
    pub newest_us: Option<i64>,
    /// Kafka's id of the topic that the rows are in; none where it was not known.
    pub topic_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    #[serde(flatten)]
    identity: Identity,
    watermark: String,
    watermark_type: WatermarkType,
    key: Vec<String>,
    snapshot: String,
    bound_us: i64,
    raw_bound_us: i64,
    carried: BTreeMap<String, i64>,
    /// Roaring treemap, base64.
    seen: String,
    partial: Vec<(u64, KeyText)>,
    floor: i64,
    backfill: Backfill,
    newest_us: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    polls_from: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    catch_up: Option<CatchUpRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct CatchUpRecord {
    xmin: u64,
    seen: String,
    partial: Vec<(u64, KeyText)>,
    from: i64,
    to: i64,
    after: Option<KeyText>,
    done_rows: u64,
}

/// Stands for a record that is too large for one: its bytes are in those of the keys [`part_key`].
#[derive(Serialize, Deserialize)]
struct Parts {
    format: u32,
    parts: usize,
    crc32c: u32,
}

#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

/// No topic has such a character in its name, so no other table's key is like this.
fn part_key(key: &str, part: usize) -> String {
    format!("{key}#{part}")
}

/// The parts replace those of the record before in the same Kafka transaction, so that they are of one record
/// whenever they are read. `part_bytes` is the most that one record holds.
fn records(key: &Arc<str>, bytes: Vec<u8>, part_bytes: usize) -> Result<Records, CheckpointError> {
    if bytes.len() <= part_bytes {
        return Ok(vec![(key.clone(), bytes)]);
    }
    let parts = Parts { format: FORMAT, parts: bytes.chunks(part_bytes).len(), crc32c: crc32c::crc32c(&bytes) };
    let mut records = vec![(key.clone(), serde_json::to_vec(&parts)?)];
    let chunks = bytes.chunks(part_bytes).enumerate();
    records.extend(chunks.map(|(part, chunk)| (part_key(key, part).into(), chunk.to_vec())));
    Ok(records)
}

/// The whole record of a key, from the latest values of a checkpoint topic.
fn whole<'a>(latest: &'a HashMap<String, Vec<u8>>, key: &str) -> Result<Option<Cow<'a, [u8]>>, CheckpointError> {
    let Some(bytes) = latest.get(key) else { return Ok(None) };
    let Versioned { format } = serde_json::from_slice(bytes)?;
    if format > FORMAT {
        return Err(CheckpointError::Newer { found: format });
    }
    let Ok(parts) = serde_json::from_slice::<Parts>(bytes) else { return Ok(Some(Cow::Borrowed(bytes))) };
    let mut joined = Vec::new();
    for part in 0..parts.parts {
        joined
            .extend_from_slice(latest.get(&part_key(key, part)).ok_or(CheckpointError::Damaged("a part is missing"))?);
    }
    if crc32c::crc32c(&joined) != parts.crc32c {
        return Err(CheckpointError::Damaged("its parts are not of one record"));
    }
    Ok(Some(Cow::Owned(joined)))
}

fn text_of(ids: &RoaringTreemap) -> Result<String, CheckpointError> {
    // Adjacent ids as ranges: a set of millions that has few gaps is small.
    let ids = RoaringTreemap::from_bitmaps(ids.bitmaps().map(|(high, bitmap)| {
        let mut bitmap = bitmap.clone();
        bitmap.optimize();
        (high, bitmap)
    }));
    let mut bytes = Vec::with_capacity(ids.serialized_size());
    ids.serialize_into(&mut bytes).map_err(|_| CheckpointError::Damaged("set of ids"))?;
    Ok(STANDARD.encode(bytes))
}

fn ids_of(text: &str) -> Result<RoaringTreemap, CheckpointError> {
    let damaged = CheckpointError::Damaged("set of ids");
    let Ok(bytes) = STANDARD.decode(text) else { return Err(damaged) };
    RoaringTreemap::deserialize_from(bytes.as_slice()).map_err(|_| damaged)
}

fn list_of(partial: &BTreeMap<u64, KeyText>) -> Vec<(u64, KeyText)> {
    partial.iter().map(|(xid, key)| (*xid, key.clone())).collect()
}

impl Progress {
    /// The records that hold it under this key.
    pub fn records(&self, key: &Arc<str>) -> Result<Records, CheckpointError> {
        records(key, self.encode()?, PART_BYTES)
    }

    /// What the latest values of a checkpoint topic hold of this key.
    pub fn read(latest: &HashMap<String, Vec<u8>>, key: &str) -> Result<Option<Progress>, CheckpointError> {
        whole(latest, key)?.map(|bytes| Progress::decode(&bytes)).transpose()
    }

    /// Raw watermark from which on a poll asks, if its bound is `bound`.
    pub fn lower(&self, bound: i64) -> i64 {
        bound.max(self.polls_from.unwrap_or(self.floor))
    }

    /// Rows that the present catching up, or else the first load, has given.
    pub fn loaded_rows(&self) -> u64 {
        self.catch_up.as_ref().map_or(self.backfill.done_rows(), |catch_up| catch_up.done_rows)
    }

    /// Leaves the rows between two raw watermarks to a catching up, with what has been given of them so far.
    pub fn begin_catch_up(&mut self, from: i64, to: i64) {
        self.polls_from = Some(to);
        self.catch_up = Some(CatchUp { given: self.polled.given(), from, to, after: None, done_rows: 0 });
    }

    /// Whether the polls alone give what there is.
    pub fn is_loaded(&self) -> bool {
        self.backfill.is_done() && self.catch_up.is_none()
    }

    fn encode(&self) -> Result<Vec<u8>, CheckpointError> {
        let catch_up = self.catch_up.as_ref().map(|catch_up| {
            Ok::<_, CheckpointError>(CatchUpRecord {
                xmin: catch_up.given.xmin,
                seen: text_of(&catch_up.given.seen)?,
                partial: list_of(&catch_up.given.partial),
                from: catch_up.from,
                to: catch_up.to,
                after: catch_up.after.clone(),
                done_rows: catch_up.done_rows,
            })
        });
        let record = Record {
            format: if catch_up.is_some() { FORMAT } else { PLAIN },
            identity: self.identity.clone(),
            watermark: self.watermark.clone(),
            watermark_type: self.watermark_type,
            key: self.key.clone(),
            snapshot: self.polled.snapshot.to_string(),
            bound_us: self.polled.bound_us,
            raw_bound_us: self.polled.raw_bound_us,
            carried: self.polled.carried.clone(),
            seen: text_of(&self.polled.seen)?,
            partial: list_of(&self.polled.partial),
            floor: self.floor,
            backfill: self.backfill.clone(),
            newest_us: self.newest_us,
            polls_from: self.polls_from,
            catch_up: catch_up.transpose()?,
            topic_id: self.topic_id.clone(),
        };
        Ok(serde_json::to_vec(&record)?)
    }

    fn decode(bytes: &[u8]) -> Result<Progress, CheckpointError> {
        let Versioned { format } = serde_json::from_slice(bytes)?;
        if format > FORMAT {
            return Err(CheckpointError::Newer { found: format });
        }
        let record: Record = serde_json::from_slice(bytes)?;
        let seen = ids_of(&record.seen)?;
        let catch_up = record.catch_up.map(|catch_up| {
            Ok::<_, CheckpointError>(CatchUp {
                given: Given {
                    xmin: catch_up.xmin,
                    seen: ids_of(&catch_up.seen)?,
                    partial: catch_up.partial.into_iter().collect(),
                },
                from: catch_up.from,
                to: catch_up.to,
                after: catch_up.after,
                done_rows: catch_up.done_rows,
            })
        });
        let snapshot = Snapshot::parse(&record.snapshot).map_err(|_| CheckpointError::Damaged("snapshot"))?;
        Ok(Progress {
            identity: record.identity,
            watermark: record.watermark,
            watermark_type: record.watermark_type,
            key: record.key,
            polled: Polled {
                snapshot,
                bound_us: record.bound_us,
                raw_bound_us: record.raw_bound_us,
                carried: record.carried,
                seen,
                partial: record.partial.into_iter().collect(),
            },
            floor: record.floor,
            backfill: record.backfill,
            newest_us: record.newest_us,
            polls_from: record.polls_from,
            catch_up: catch_up.transpose()?,
            topic_id: record.topic_id,
        })
    }

    /// Why the topic is no longer the one that the rows were published to; `id` is that of the present one.
    pub fn is_elsewhere(&self, topic: &str, id: &str) -> Option<String> {
        let before = self.topic_id.as_deref().filter(|before| *before != id)?;
        Some(format!(
            "topic {topic} was deleted and made again (its id was {before}, now it is {id}), and what was published to it before is gone"
        ))
    }

    /// Whether this is the database of the checkpoint, set back to before it was made.
    pub fn is_ahead_of(&self, identity: &Identity, latest: u64) -> bool {
        self.identity == *identity && self.polled.snapshot.xmax > latest
    }

    /// Why this checkpoint does not fit the database and table as they are now; `latest` is the id
    /// that the server assigns next.
    pub fn misfit(&self, identity: &Identity, source: &Source, latest: u64) -> Option<String> {
        let now =
            |what: &str, then: &str, now: &str| Some(format!("its checkpoint is of {what} {then}, this is {now}"));
        if self.identity.system_identifier != identity.system_identifier {
            return now("system identifier", &self.identity.system_identifier, &identity.system_identifier);
        }
        if self.identity.database != identity.database {
            return now("database", &self.identity.database, &identity.database);
        }
        if self.identity.timeline != identity.timeline {
            let reason = now("timeline", &self.identity.timeline, &identity.timeline);
            return reason.map(|reason| format!("{reason}, where transaction ids have been used again"));
        }
        if self.polled.snapshot.xmax > latest {
            return Some(format!(
                "its checkpoint was made at transaction {}, which lies in the future of this database (at {latest}): was it restored?",
                self.polled.snapshot.xmax
            ));
        }
        // Beyond, a 32-bit id could be a newer or an older one. The first poll has no xmin and asks for all.
        let oldest = self.catch_up.iter().map(|catch_up| catch_up.given.xmin).fold(self.polled.snapshot.xmin, u64::min);
        if oldest > 0 && latest - oldest >= 1 << 31 {
            return Some("its checkpoint is more than two billion transactions old".to_owned());
        }
        let column = source.watermark_column();
        if self.watermark != column.name || self.watermark_type != source.watermark_type {
            return Some(format!(
                "its checkpoint is by watermark {} ({}), this is {} ({})",
                self.watermark,
                self.watermark_type.sql(),
                column.name,
                source.watermark_type.sql()
            ));
        }
        if self.key != source.key_names() && !(self.is_loaded() && self.polled.partial.is_empty()) {
            return Some(
                "its key has changed in the middle of the first load, of a backlog or of a transaction".to_owned(),
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        Progress {
            identity: Identity { system_identifier: "7".into(), database: "d".into(), timeline: "00000001".into() },
            watermark: "created_at".into(),
            watermark_type: WatermarkType::Timestamp,
            key: vec!["id".into()],
            polled: Polled {
                snapshot: Snapshot { xmin: 10, xmax: 20, in_progress: vec![10, 12] },
                bound_us: -5,
                raw_bound_us: 7,
                carried: [("99:gid".to_owned(), 3)].into(),
                seen: [11, 13, 1 << 40].into_iter().collect(),
                partial: [(14, vec![Some("1".to_owned()), None])].into(),
            },
            floor: i64::MIN,
            backfill: Backfill::Rows { after: Some(vec![Some("infinity".into())]), done_rows: 5 },
            newest_us: Some(1),
            topic_id: None,
            polls_from: None,
            catch_up: None,
        }
    }

    fn behind() -> Progress {
        let given = Given { xmin: 9, seen: (10..300_000).collect(), partial: [(300_001, vec![None])].into() };
        let after = Some(vec![Some("2025-01-15".to_owned()), Some("7".to_owned())]);
        let catch_up = Some(CatchUp { given, from: -3, to: 4, after, done_rows: 11 });
        Progress { polls_from: Some(4), catch_up, ..progress() }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for progress in [progress(), behind()] {
            let bytes = progress.encode().unwrap();
            assert_eq!(Progress::decode(&bytes).unwrap(), progress);
        }
    }

    #[test]
    fn an_older_version_is_told_of_what_it_cannot_go_on_from() {
        assert!(behind().encode().unwrap().starts_with(b"{\"format\":2"));
        let after = Progress { catch_up: None, ..behind() };
        assert!(after.encode().unwrap().starts_with(b"{\"format\":1"));
    }

    /// The outage of a transaction with seven million subtransactions, all of one table.
    #[test]
    fn a_set_of_millions_of_adjacent_ids_is_small() {
        let mut progress = progress();
        progress.polled.seen = (1_000..7_001_000).collect();
        progress.polled.seen.remove(5_000_000);
        let bytes = progress.encode().unwrap();
        assert!(bytes.len() < 10_000, "{} bytes", bytes.len());
        assert_eq!(Progress::decode(&bytes).unwrap(), progress);
    }

    /// Every other id of two million is somebody else's: no range is longer than one.
    #[test]
    fn a_record_too_large_for_one_is_several_and_read_back_as_one() {
        let mut progress = progress();
        progress.polled.seen = (1_000..8_000_000).step_by(2).collect();
        let key: Arc<str> = "p/public.t/t".into();
        let records = progress.records(&key).unwrap();
        assert!(records.len() > 2 && records.iter().all(|(_, bytes)| bytes.len() <= PART_BYTES), "{}", records.len());
        let mut latest: HashMap<String, Vec<u8>> =
            records.into_iter().map(|(key, bytes)| (key.to_string(), bytes)).collect();
        assert_eq!(Progress::read(&latest, &key).unwrap().as_ref(), Some(&progress));
        assert_eq!(Progress::read(&latest, "p/public.t/other").unwrap(), None);
        latest.insert(part_key(&key, 1), b"of another".to_vec());
        assert!(Progress::read(&latest, &key).unwrap_err().to_string().contains("not of one record"));
        latest.remove(&part_key(&key, 1));
        assert!(Progress::read(&latest, &key).unwrap_err().to_string().contains("missing"));
        // What is small again leaves the old parts behind, unread.
        progress.polled.seen.clear();
        latest.extend(progress.records(&key).unwrap().into_iter().map(|(key, bytes)| (key.to_string(), bytes)));
        assert_eq!(Progress::read(&latest, &key).unwrap(), Some(progress));
    }

    /// The file is never made anew: what it holds lies in topics. A format of its own has a file of its own.
    #[test]
    fn the_stored_record_of_format_1_is_read_and_still_written_so() {
        let stored = include_bytes!("checkpoint.1.json");
        assert_eq!(Progress::decode(stored).unwrap(), progress());
        assert_eq!(progress().encode().unwrap(), stored);
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_by_name() {
        let text = String::from_utf8(progress().encode().unwrap()).unwrap().replace("\"format\":1", "\"format\":3");
        let error = Progress::decode(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("newer Headwater"), "{error}");
        assert!(Progress::decode(b"{\"format\":9}").unwrap_err().to_string().contains("newer"));
        assert!(Progress::decode(b"").is_err());
    }
}
