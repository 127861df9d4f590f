//! The ledger of one topic partition: its format, and what is to be concluded from its bytes.
//!
//! A commit record is the only thing that makes staged files part of the table, and it carries the
//! offset to resume at: data and progress cannot disagree. The file is append-only:
//!
//! ```text
//! header   "HWLEDGER" version:u32 crc32c:u32
//! record   "HWR\n" length:u32 crc32c:u32 body:length bytes of JSON
//! ```
//!
//! Numbers are little-endian; a record's checksum covers its length and body. The end of the file
//! may be torn by a crash in the middle of an append, and is then cut off: the append had not been
//! acknowledged. Bad bytes *before* a valid record cannot come from that, and are an error.
//!
//! Everything here is pure; `ledger_file` does the reading and writing.

use crate::{kafka::consumer::LastRecord, loss};
use serde::{Deserialize, Serialize};

const HEADER_MAGIC: &[u8; 8] = b"HWLEDGER";
const RECORD_MAGIC: &[u8; 4] = b"HWR\n";
const VERSION: u32 = 1;
pub const HEADER_LENGTH: usize = 16;
const PREFIX_LENGTH: usize = 12;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("it is not a ledger")]
    NotALedger,
    #[error("it has format version {found}, and this program knows {VERSION} at most: run the newer program")]
    Newer { found: u32 },
    #[error("the bytes at {at} are damaged, and valid records follow at {next}: restore it from a backup")]
    Damaged { at: usize, next: usize },
    #[error("the record at {at} contradicts those before it ({what}): restore it from a backup")]
    Contradiction { at: usize, what: &'static str },
}

/// Which root a file's path is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    Table,
    DeadLetters,
}

/// A file of a commit: written and synced under `staged` in the staging directory, to be renamed to
/// `path` under its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerFile {
    pub staged: String,
    pub root: Root,
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    pub crc32c: u32,
}

/// A loss that somebody has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedLoss {
    /// Of the topic that was gone on with.
    pub topic_id: String,
    /// Of the one before, which may be the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id_before: Option<String>,
    /// The offset that was next before.
    pub next: i64,
    /// The offset that was gone on at. In the same topic and generation those between were deleted; in the same topic
    /// and a later generation those from here on had stood in a log that was truncated, and have landed before.
    pub offset: i64,
    /// From then on.
    pub generation: u32,
    /// Whether nobody could tell which of the records before `offset` had landed. None of them is landed again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unsure: bool,
}

/// What files of a generation have in common with the log that is landed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Common {
    /// Records before this offset stand in both.
    pub to: i64,
    /// Some of these may be others all the same.
    pub is_unsure: bool,
}

impl Common {
    pub const ALL: Common = Common { to: i64::MAX, is_unsure: false };
    pub const NOTHING: Common = Common { to: i64::MIN, is_unsure: false };
}

/// Progress of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Kafka's id of the topic that the offsets belong to.
    pub topic_id: String,
    /// Counts the logs that were landed one after another: of topics of this name, and of a topic that was truncated
    /// and has grown again. Part of file names.
    pub generation: u32,
    /// Counts commits.
    pub epoch: u64,
    /// The offset to resume at.
    pub next: i64,
    /// None where Kafka did not say, or an older version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastRecord>,
    /// The oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<AcceptedLoss>,
}

impl Progress {
    /// The id of the topic whose offsets files of a generation are named by, where the ledger remembers it.
    pub fn topic_id_of(&self, generation: u32) -> Option<&str> {
        if generation == self.generation {
            return Some(&self.topic_id);
        }
        let followed = self.losses.iter().find(|loss| loss.generation == generation.saturating_add(1))?;
        followed.topic_id_before.as_deref()
    }

    /// What files of a generation have in common with the present log. Of a topic that was made anew it is nothing, and
    /// so it is where an older version has noted no losses.
    pub fn common(&self, generation: u32) -> Common {
        let mut common = Common::ALL;
        for later in generation + 1..=self.generation {
            let begun = self.losses.iter().find(|loss| loss.generation == later);
            let Some(cut) = begun.filter(|loss| loss::is_regrown(&loss.topic_id)) else { return Common::NOTHING };
            common = Common { to: common.to.min(cut.offset), is_unsure: common.is_unsure || cut.is_unsure };
        }
        common
    }

    /// Offsets that were deleted before they had landed.
    pub fn deleted(&self) -> u64 {
        let before = std::iter::once(None).chain(self.losses.iter().map(Some));
        let deleted = self.losses.iter().zip(before).filter(|(loss, before)| {
            let is_same = loss.topic_id_before.as_ref().is_none_or(|before| *before == loss.topic_id);
            is_same && loss.offset > loss.next && before.is_none_or(|before| before.generation == loss.generation)
        });
        deleted.map(|(loss, _)| loss.offset.abs_diff(loss.next)).sum()
    }

    /// Before this offset stand records of which nobody knows whether they have landed.
    pub fn unsure_to(&self) -> i64 {
        let unsure = self.losses.iter().filter(|loss| loss.is_unsure);
        unsure.map(|loss| loss.offset.min(self.common(loss.generation).to)).max().unwrap_or(0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    Commit {
        #[serde(flatten)]
        progress: Progress,
        /// First offset that the commit vouches for; with `next` it is the range.
        first: i64,
        files: Vec<LedgerFile>,
    },
    /// Every file of that commit stands at its final path.
    Done { epoch: u64 },
    /// All that came before, in one record: what compaction leaves. Nothing is pending.
    Snapshot {
        #[serde(flatten)]
        progress: Progress,
    },
}

/// What a ledger's bytes say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    pub progress: Option<Progress>,
    /// Files of the last commit where its "done" is missing: to be rolled forward.
    pub pending: Vec<LedgerFile>,
    /// Bytes that are good; what follows them is torn and is to be cut off. Less than
    /// [`HEADER_LENGTH`] where not even the header was written.
    pub good: usize,
}

pub fn header() -> [u8; HEADER_LENGTH] {
    let mut bytes = [0; HEADER_LENGTH];
    bytes[..8].copy_from_slice(HEADER_MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

impl Record {
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = vec![0; PREFIX_LENGTH];
        serde_json::to_writer(&mut bytes, self)?;
        let length = u32::try_from(bytes.len() - PREFIX_LENGTH).map_err(serde::ser::Error::custom)?;
        bytes[..4].copy_from_slice(RECORD_MAGIC);
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        let crc = checksum(length, &bytes[PREFIX_LENGTH..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }
}

fn checksum(length: u32, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), body)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The valid record that starts at `at`, and where it ends.
fn record_at(bytes: &[u8], at: usize) -> Option<(Record, usize)> {
    if bytes.get(at..at + 4)? != RECORD_MAGIC {
        return None;
    }
    let length = u32_at(bytes, at + 4)?;
    let start = at + PREFIX_LENGTH;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    let body = bytes.get(start..end)?;
    if checksum(length, body) != u32_at(bytes, at + 8)? {
        return None;
    }
    Some((serde_json::from_slice(body).ok()?, end))
}

fn next_record(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memmem::find_iter(bytes.get(from..)?, RECORD_MAGIC)
        .map(|at| from + at)
        .find(|at| record_at(bytes, *at).is_some())
}

/// Concludes what stands, what is pending and what is torn.
pub fn recover(bytes: &[u8]) -> Result<Recovery, LedgerError> {
    let mut recovery = Recovery::default();
    if bytes.len() < HEADER_LENGTH {
        // A crash while the file was made. Anything else of that length is not ours to overwrite.
        return if header().starts_with(bytes) { Ok(recovery) } else { Err(LedgerError::NotALedger) };
    }
    if &bytes[..8] != HEADER_MAGIC {
        return Err(LedgerError::NotALedger);
    }
    let version = u32_at(bytes, 8).unwrap_or(0);
    if u32_at(bytes, 12) != Some(crc32c::crc32c(&bytes[..12])) {
        return Err(LedgerError::NotALedger);
    }
    if version > VERSION {
        return Err(LedgerError::Newer { found: version });
    }
    recovery.good = HEADER_LENGTH;
    while recovery.good < bytes.len() {
        let at = recovery.good;
        let Some((record, end)) = record_at(bytes, at) else {
            return match next_record(bytes, at + 1) {
                Some(next) => Err(LedgerError::Damaged { at, next }),
                None => Ok(recovery),
            };
        };
        apply(&mut recovery, record).map_err(|what| LedgerError::Contradiction { at, what })?;
        recovery.good = end;
    }
    Ok(recovery)
}

fn apply(recovery: &mut Recovery, record: Record) -> Result<(), &'static str> {
    let last = recovery.progress.as_ref();
    match record {
        Record::Commit { progress, first, files } => {
            if !recovery.pending.is_empty() {
                return Err("a commit while the one before is not done");
            }
            if progress.next < first {
                return Err("a range that ends before it begins");
            }
            if let Some(last) = last {
                if progress.epoch != last.epoch + 1 {
                    return Err("an epoch out of order");
                }
                if progress.generation == last.generation && first < last.next {
                    return Err("a range that begins before the end of the last one");
                }
            }
            recovery.progress = Some(progress);
            recovery.pending = files;
        }
        Record::Done { epoch } => {
            if last.is_none_or(|last| last.epoch != epoch) {
                return Err("a \"done\" without its commit");
            }
            recovery.pending.clear();
        }
        Record::Snapshot { progress } => {
            if last.is_some() {
                return Err("a snapshot that is not the first record");
            }
            recovery.progress = Some(progress);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(epoch: u64, next: i64) -> Progress {
        Progress { topic_id: "id".into(), epoch, next, ..Progress::default() }
    }

    #[test]
    fn the_ids_of_logs_that_were_lost_are_remembered() {
        let loss = |before: Option<&str>, topic_id: &str, generation| AcceptedLoss {
            topic_id: topic_id.to_owned(),
            topic_id_before: before.map(str::to_owned),
            next: 9,
            offset: 5,
            generation,
            is_unsure: false,
        };
        // Made again twice, the second time noted by a version that kept no id; truncated, with records deleted after it.
        let losses =
            vec![loss(Some("a"), "b", 1), loss(None, "c", 2), loss(Some("c"), "c+1", 3), loss(Some("c+1"), "c+1", 3)];
        let found = Progress { topic_id: "c+1".into(), generation: 3, losses, ..Progress::default() };
        assert_eq!([0, 1, 2, 3, 4].map(|of| found.topic_id_of(of)), [Some("a"), None, Some("c"), Some("c+1"), None]);
    }

    fn file(name: &str) -> LedgerFile {
        LedgerFile {
            staged: name.into(),
            root: Root::Table,
            path: format!("date=x/{name}"),
            rows: 1,
            bytes: 2,
            crc32c: 3,
        }
    }

    fn commit(epoch: u64, first: i64, next: i64) -> Record {
        Record::Commit { progress: progress(epoch, next), first, files: vec![file(&format!("{epoch}.parquet"))] }
    }

    /// A ledger of three commits, and where each of its records ends.
    fn sample() -> (Vec<u8>, Vec<(usize, Record)>) {
        let mut bytes = header().to_vec();
        let mut ends = Vec::new();
        for epoch in 1..=3 {
            let at = epoch as i64 * 10;
            for record in [commit(epoch, at - 10, at), Record::Done { epoch }] {
                bytes.extend(record.encode().unwrap());
                ends.push((bytes.len(), record));
            }
        }
        (bytes, ends)
    }

    #[test]
    fn truncation_at_every_byte_keeps_exactly_the_whole_records() {
        let (bytes, ends) = sample();
        for cut in 0..=bytes.len() {
            let recovery = recover(&bytes[..cut]).unwrap();
            let whole: Vec<_> = ends.iter().filter(|(end, _)| *end <= cut).collect();
            let good = whole.last().map_or(if cut < HEADER_LENGTH { 0 } else { HEADER_LENGTH }, |(end, _)| *end);
            assert_eq!(recovery.good, good, "cut at {cut}");
            let mut expected = Recovery { good, ..Recovery::default() };
            for (_, record) in whole {
                apply(&mut expected, record.clone()).unwrap();
            }
            assert_eq!(recovery, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_before_a_valid_record_is_an_error_and_in_the_last_one_is_torn() {
        let (bytes, ends) = sample();
        let last_start = ends[ends.len() - 2].0;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                match recover(&damaged) {
                    Err(_) => assert!(at < last_start, "byte {at}"),
                    Ok(recovery) => {
                        assert!(at >= last_start, "byte {at} bit {bit} was not noticed");
                        assert_eq!(recovery.good, last_start);
                    }
                }
            }
        }
    }

    #[test]
    fn torn_bytes_of_any_kind_after_the_last_record_are_cut_off() {
        let (bytes, _) = sample();
        for tail in [vec![0; 4096], vec![0xff; 7], b"HWR\n".to_vec(), b"HWR\n\x05\0\0\0".to_vec()] {
            let torn = [bytes.clone(), tail].concat();
            assert_eq!(recover(&torn).unwrap().good, bytes.len());
        }
    }

    #[test]
    fn pending_files_are_those_of_a_commit_without_done() {
        let mut bytes = header().to_vec();
        bytes.extend(commit(1, 0, 10).encode().unwrap());
        let recovery = recover(&bytes).unwrap();
        assert_eq!(recovery.progress, Some(progress(1, 10)));
        assert_eq!(recovery.pending, vec![file("1.parquet")]);
        bytes.extend(Record::Done { epoch: 1 }.encode().unwrap());
        assert!(recover(&bytes).unwrap().pending.is_empty());
    }

    /// The file is never made anew: what it holds lies in lakes. A format of its own has a file of its own.
    #[test]
    fn the_stored_ledger_of_version_1_is_read_and_still_written_so() {
        let stored = include_bytes!("ledger.1");
        let dead = LedgerFile {
            staged: "9-d.parquet".into(),
            root: Root::DeadLetters,
            path: "date=2025-01-15/9-d.parquet".into(),
            rows: 3,
            bytes: 4_096,
            crc32c: u32::MAX,
        };
        let pending = vec![file("9.parquet"), dead];
        let of_topic = |epoch, next| Progress {
            topic_id: "h0ysj-pTSyWJMtL0NKgfUQ".into(),
            generation: 2,
            epoch,
            next,
            ..Progress::default()
        };
        let records = [
            Record::Snapshot { progress: of_topic(7, 70) },
            Record::Commit { progress: of_topic(8, 1 << 40), first: 70, files: vec![file("8.parquet")] },
            Record::Done { epoch: 8 },
            Record::Commit { progress: of_topic(9, (1 << 40) + 5), first: 1 << 40, files: pending.clone() },
        ];
        let progress = Some(of_topic(9, (1 << 40) + 5));
        assert_eq!(recover(stored), Ok(Recovery { progress, pending, good: stored.len() }));
        let written = records.iter().flat_map(|record| record.encode().unwrap());
        assert_eq!(header().into_iter().chain(written).collect::<Vec<u8>>(), stored);
    }

    /// As it lies in lakes; fields that are not known are not written, so that an older version reads what it wrote.
    #[test]
    fn the_last_record_and_the_accepted_losses_are_stored_so() {
        let stored = r#"{"snapshot":{"topic_id":"id+1","generation":1,"epoch":3,"next":30,"last":{"offset":28,"leader_epoch":4},"losses":[{"topic_id":"id+1","topic_id_before":"id","next":25,"offset":20,"generation":1}]}}"#;
        let loss = AcceptedLoss {
            topic_id: "id+1".into(),
            topic_id_before: Some("id".into()),
            next: 25,
            offset: 20,
            generation: 1,
            is_unsure: false,
        };
        let progress = Progress {
            topic_id: "id+1".into(),
            generation: 1,
            last: Some(LastRecord { offset: 28, leader_epoch: 4 }),
            losses: vec![loss],
            ..progress(3, 30)
        };
        let bytes = Record::Snapshot { progress: progress.clone() }.encode().unwrap();
        assert_eq!(std::str::from_utf8(&bytes[PREFIX_LENGTH..]).unwrap(), stored);
        assert_eq!(recover(&[&header()[..], &bytes].concat()).unwrap().progress, Some(progress));
    }

    #[test]
    fn a_file_shares_with_the_log_what_came_before_all_later_truncations() {
        let loss = |topic_id: &str, next, offset, generation, is_unsure| AcceptedLoss {
            topic_id: topic_id.into(),
            topic_id_before: None,
            next,
            offset,
            generation,
            is_unsure,
        };
        let losses = vec![
            loss("old", 5, 9, 0, false),
            loss("id", 70, 0, 1, false),
            loss("id", 10, 15, 1, false),
            loss("id+1", 100, 60, 2, false),
            loss("id+1", 80, 84, 2, false),
            loss("id+2", 200, 90, 3, true),
            loss("id+3", 95, 50, 4, false),
        ];
        let of = |losses: &[AcceptedLoss], generation| Progress {
            topic_id: "id+3".into(),
            generation,
            losses: losses.to_vec(),
            ..progress(9, 300)
        };
        let all = of(&losses, 4);
        let common = |to, is_unsure| Common { to, is_unsure };
        let expected = [Common::NOTHING, common(50, true), common(50, true), common(50, false), Common::ALL];
        assert_eq!([0, 1, 2, 3, 4].map(|generation| all.common(generation)), expected);
        assert_eq!(of(&losses[..6], 3).common(1), common(60, true));
        assert_eq!((all.deleted(), all.unsure_to(), of(&losses[..6], 3).unsure_to()), (4 + 5 + 4, 50, 90));
        // As an older version has left it.
        assert_eq!(of(&[], 2).common(1), Common::NOTHING);
        assert_eq!((of(&[], 2).deleted(), of(&[], 2).unsure_to()), (0, 0));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let mut newer = header();
        newer[8] = 2;
        let crc = crc32c::crc32c(&newer[..12]);
        newer[12..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(recover(&newer), Err(LedgerError::Newer { found: 2 }));
        assert_eq!(recover(b"something else than a ledger"), Err(LedgerError::NotALedger));
        assert_eq!(recover(b"short"), Err(LedgerError::NotALedger));
    }

    #[test]
    fn refuses_contradictions() {
        let with = |records: &[Record]| {
            let mut bytes = header().to_vec();
            records.iter().for_each(|record| bytes.extend(record.encode().unwrap()));
            recover(&bytes)
        };
        let done = |epoch| Record::Done { epoch };
        let snapshot = Record::Snapshot { progress: progress(7, 70) };
        assert!(with(&[snapshot.clone(), commit(8, 70, 80), done(8)]).is_ok());
        assert!(with(&[snapshot.clone(), commit(8, 69, 80)]).is_err());
        assert!(with(&[snapshot.clone(), commit(9, 70, 80)]).is_err());
        assert!(with(&[commit(1, 0, 10), commit(2, 10, 20)]).is_err());
        assert!(with(&[commit(1, 0, 10), done(2)]).is_err());
        assert!(with(&[commit(1, 0, 10), done(1), snapshot]).is_err());
    }
}
