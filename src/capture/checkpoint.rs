//! The record by which a table goes on after a restart; written in the Kafka transaction of the
//! rows that it vouches for.

use super::{
    plan::{KeyText, Polled, Snapshot},
    source::{Source, WatermarkType},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Raised when a record could no longer be read by an older version.
const FORMAT: u32 = 1;

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
    /// Raw watermark from which on rows belong to the polls; below it, to the first load.
    pub floor: i64,
    pub backfill: Backfill,
    /// Greatest watermark published, microseconds since the Unix epoch.
    pub newest_us: Option<i64>,
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
}

#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

impl Progress {
    pub fn encode(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut seen = Vec::with_capacity(self.polled.seen.serialized_size());
        self.polled.seen.serialize_into(&mut seen).map_err(|_| CheckpointError::Damaged("set of ids"))?;
        let record = Record {
            format: FORMAT,
            identity: self.identity.clone(),
            watermark: self.watermark.clone(),
            watermark_type: self.watermark_type,
            key: self.key.clone(),
            snapshot: self.polled.snapshot.to_string(),
            bound_us: self.polled.bound_us,
            raw_bound_us: self.polled.raw_bound_us,
            carried: self.polled.carried.clone(),
            seen: STANDARD.encode(seen),
            partial: self.polled.partial.iter().map(|(xid, key)| (*xid, key.clone())).collect(),
            floor: self.floor,
            backfill: self.backfill.clone(),
            newest_us: self.newest_us,
        };
        Ok(serde_json::to_vec(&record)?)
    }

    pub fn decode(bytes: &[u8]) -> Result<Progress, CheckpointError> {
        let Versioned { format } = serde_json::from_slice(bytes)?;
        if format > FORMAT {
            return Err(CheckpointError::Newer { found: format });
        }
        let record: Record = serde_json::from_slice(bytes)?;
        let seen = STANDARD.decode(&record.seen).map_err(|_| CheckpointError::Damaged("set of ids"))?;
        let seen =
            RoaringTreemap::deserialize_from(seen.as_slice()).map_err(|_| CheckpointError::Damaged("set of ids"))?;
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
        })
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
        if self.polled.snapshot.xmin > 0 && latest - self.polled.snapshot.xmin >= 1 << 31 {
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
        if self.key != source.key_names() && !(self.backfill.is_done() && self.polled.partial.is_empty()) {
            return Some("its key has changed in the middle of the first load or of a transaction".to_owned());
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
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let progress = progress();
        let bytes = progress.encode().unwrap();
        assert_eq!(Progress::decode(&bytes).unwrap(), progress);
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
        let text = String::from_utf8(progress().encode().unwrap()).unwrap().replace("\"format\":1", "\"format\":2");
        let error = Progress::decode(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("newer Headwater"), "{error}");
        assert!(Progress::decode(b"{\"format\":9}").unwrap_err().to_string().contains("newer"));
        assert!(Progress::decode(b"").is_err());
    }
}
