//! What is kept of a row to compare it: its key, hashes and where it stands. Entries go to bucket
//! files by the hash of their key, so that tables larger than memory are compared bucket by bucket.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// A row of the table as it is now.
    Source,
    /// A row that capture could not publish.
    Refused,
    /// A record of the topic.
    Topic,
    /// A row of the lake, or a dead letter.
    Landed,
    /// What a dead letter says of its row, where the topic may no longer hold the record.
    DeadLetter,
}

/// One row of one side. What the fields hold depends on the side; unused ones are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub side: Side,
    /// Canonical key, printable.
    pub key: &'a [u8],
    /// Hash of the canonical row.
    pub row: u128,
    /// The canonical watermark, UTC microseconds.
    pub watermark: Option<i64>,
    /// Source: the row's transaction id, of which it has 32 bits. Topic: that of its header.
    pub transaction: Option<u64>,
    /// Between source and topic: the hash of a record's key and value; of a refused row, the index
    /// of its reason. Between topic and lake: the hash of the row without Kafka's columns.
    pub identity: u128,
    /// Topic, landed: the Kafka partition.
    pub partition: i32,
    /// Topic: the offset. Landed: the row's number in its file.
    pub position: u64,
    /// Landed: index of the file. Source, topic: by which allowance of what was dropped from the lake the row may be
    /// missing there; 0 is none.
    pub file: u32,
    pub fault: Fault,
}

/// What was found wrong with a row before any comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    None,
    /// The message key is not the row's key.
    MessageKey,
    /// The record was published before a column was added or renamed.
    OlderShape,
    /// The row stands under another date than its own.
    WrongDate,
    /// Topic: a record that no row should be.
    Refusable,
    /// Landed: a dead letter whose record is good, or bad for other reasons than the letter's.
    Unfounded,
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Entry {
            side: Side::Source,
            key: &[],
            row: 0,
            watermark: None,
            transaction: None,
            identity: 0,
            partition: 0,
            position: 0,
            file: 0,
            fault: Fault::None,
        }
    }
}

pub fn hash(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

/// Bytes of an entry beside its key.
const FIXED_BYTES: usize = 1 + 1 + 1 + 4 + 16 + 8 + 8 + 16 + 4 + 8 + 4;

impl Entry<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.side as u8);
        out.push(self.fault as u8);
        out.push(u8::from(self.watermark.is_some()) | u8::from(self.transaction.is_some()) << 1);
        out.extend_from_slice(&(self.key.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.row.to_le_bytes());
        out.extend_from_slice(&self.watermark.unwrap_or_default().to_le_bytes());
        out.extend_from_slice(&self.transaction.unwrap_or_default().to_le_bytes());
        out.extend_from_slice(&self.identity.to_le_bytes());
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.file.to_le_bytes());
        out.extend_from_slice(self.key);
    }
}

/// The entries of a bucket's bytes.
pub fn decode(mut bytes: &[u8]) -> Option<Vec<Entry<'_>>> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (head, rest) = bytes.split_first_chunk::<N>()?;
        *bytes = rest;
        Some(*head)
    }
    let mut entries = Vec::with_capacity(bytes.len() / (FIXED_BYTES + 8));
    while !bytes.is_empty() {
        let [side, fault, present] = take(&mut bytes)?;
        let key_length = u32::from_le_bytes(take(&mut bytes)?) as usize;
        let mut entry = Entry {
            side: match side {
                0 => Side::Source,
                1 => Side::Refused,
                2 => Side::Topic,
                3 => Side::Landed,
                _ => Side::DeadLetter,
            },
            fault: match fault {
                0 => Fault::None,
                1 => Fault::MessageKey,
                2 => Fault::OlderShape,
                3 => Fault::WrongDate,
                4 => Fault::Refusable,
                _ => Fault::Unfounded,
            },
            row: u128::from_le_bytes(take(&mut bytes)?),
            watermark: Some(i64::from_le_bytes(take(&mut bytes)?)).filter(|_| present & 1 != 0),
            transaction: Some(u64::from_le_bytes(take(&mut bytes)?)).filter(|_| present & 2 != 0),
            identity: u128::from_le_bytes(take(&mut bytes)?),
            partition: i32::from_le_bytes(take(&mut bytes)?),
            position: u64::from_le_bytes(take(&mut bytes)?),
            file: u32::from_le_bytes(take(&mut bytes)?),
            key: &[],
        };
        (entry.key, bytes) = bytes.split_at_checked(key_length)?;
        entries.push(entry);
    }
    Some(entries)
}

#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    #[error("cannot write temporary files in {}: {source}; make room, or name another directory with --temp-dir", .path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("a temporary file in {} failed: {source}; make room, or name another directory with --temp-dir", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("a temporary file in {} was changed by somebody else; run verify again", .path.display())]
    Changed { path: PathBuf },
}

/// Entries of one comparison, in bucket files that have no name: nothing is left behind, however
/// the process ends.
pub struct Spill {
    directory: PathBuf,
    /// Told apart from the hash of the level above, or a split would move everything together.
    level: u64,
    buckets: Vec<BufWriter<File>>,
    scratch: Vec<u8>,
}

/// A bucket is split again when its file is larger; sorted entries take about as much again.
const BUCKET_BYTES: u64 = 12 << 20;
const MAX_BUCKETS: u64 = 128;
/// One key's entries cannot be split: at this depth a bucket is loaded whatever its size.
const MAX_LEVEL: u64 = 4;

impl Spill {
    /// For about `entries` entries; more are taken too.
    pub fn new(directory: &Path, entries: u64) -> Result<Spill, SpillError> {
        let buckets = (entries.saturating_mul(FIXED_BYTES as u64 + 16) / BUCKET_BYTES + 1).min(MAX_BUCKETS);
        Spill::with_buckets(directory, buckets, 0)
    }

    fn with_buckets(directory: &Path, count: u64, level: u64) -> Result<Spill, SpillError> {
        let mut buckets = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let file =
                unnamed_file(directory).map_err(|source| SpillError::Create { path: directory.to_owned(), source })?;
            buckets.push(BufWriter::with_capacity(64 << 10, file));
        }
        Ok(Spill { directory: directory.to_owned(), level, buckets, scratch: Vec::new() })
    }

    pub fn write(&mut self, entry: &Entry<'_>) -> Result<(), SpillError> {
        let bucket = xxh3_64_with_seed(entry.key, self.level) % self.buckets.len() as u64;
        self.scratch.clear();
        entry.encode(&mut self.scratch);
        self.buckets[bucket as usize]
            .write_all(&self.scratch)
            .map_err(|source| SpillError::File { path: self.directory.clone(), source })
    }

    /// Gives the entries of one bucket after the other to `compare`: all entries of a key together.
    pub fn for_each_bucket(self, compare: &mut impl FnMut(&mut [Entry<'_>])) -> Result<(), SpillError> {
        self.for_each_bucket_up_to(BUCKET_BYTES, compare)
    }

    fn for_each_bucket_up_to(
        self,
        limit_bytes: u64,
        compare: &mut impl FnMut(&mut [Entry<'_>]),
    ) -> Result<(), SpillError> {
        let failed = |source| SpillError::File { path: self.directory.clone(), source };
        let changed = || SpillError::Changed { path: self.directory.clone() };
        for bucket in self.buckets {
            let mut file = bucket.into_inner().map_err(|error| failed(error.into_error()))?;
            let length = file.stream_position().map_err(failed)?;
            file.rewind().map_err(failed)?;
            if length > limit_bytes && self.level < MAX_LEVEL {
                let mut parts = Spill::with_buckets(&self.directory, 16, self.level + 1)?;
                parts.fill_from(&mut file)?;
                drop(file);
                parts.for_each_bucket_up_to(limit_bytes, compare)?;
                continue;
            }
            let mut bytes = Vec::with_capacity(length as usize);
            file.read_to_end(&mut bytes).map_err(failed)?;
            drop(file);
            let mut entries = decode(&bytes).ok_or_else(changed)?;
            compare(&mut entries);
        }
        Ok(())
    }

    /// Distributes the entries of a larger bucket, a piece at a time.
    fn fill_from(&mut self, file: &mut File) -> Result<(), SpillError> {
        let path = self.directory.clone();
        let failed = |source| SpillError::File { path: path.clone(), source };
        let mut reader = io::BufReader::with_capacity(1 << 20, file);
        let mut entry = Vec::new();
        loop {
            let mut head = [0; FIXED_BYTES];
            match reader.read_exact(&mut head) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
            let key_length = u32::from_le_bytes([head[3], head[4], head[5], head[6]]) as usize;
            entry.clear();
            entry.extend_from_slice(&head);
            entry.resize(FIXED_BYTES + key_length, 0);
            reader.read_exact(&mut entry[FIXED_BYTES..]).map_err(failed)?;
            let bucket = xxh3_64_with_seed(&entry[FIXED_BYTES..], self.level) % self.buckets.len() as u64;
            self.buckets[bucket as usize].write_all(&entry).map_err(failed)?;
        }
    }
}

/// A file that loses its name at once: the system frees it with the process.
pub fn unnamed_file(directory: &Path) -> io::Result<File> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    std::fs::create_dir_all(directory)?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("headwater-verify-{}-{number}.tmp", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn entry(key: &[u8], position: u64) -> Entry<'_> {
        Entry {
            side: Side::Topic,
            key,
            row: u128::MAX - 7,
            position,
            partition: -1,
            fault: Fault::WrongDate,
            ..Entry::default()
        }
    }

    #[test]
    fn an_entry_survives_its_encoding() {
        let entries = [
            Entry { watermark: Some(-1), transaction: Some(u64::MAX), identity: 1 << 100, ..entry(b"a", 7) },
            Entry { side: Side::Landed, file: u32::MAX, fault: Fault::MessageKey, ..entry(b"", u64::MAX) },
            Entry { side: Side::Refused, ..Entry::default() },
        ];
        let mut bytes = Vec::new();
        for entry in &entries {
            entry.encode(&mut bytes);
        }
        assert_eq!(decode(&bytes).unwrap(), entries);
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn every_entry_comes_back_once_with_all_of_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let keys: Vec<String> = (0..500).map(|n| format!("key-{n}")).collect();
        // A limit of 1 byte splits every bucket to the last level.
        for limit_bytes in [1, 4000, BUCKET_BYTES] {
            let mut spill = Spill::new(directory.path(), 1_000_000).unwrap();
            for round in 0..4 {
                for key in &keys {
                    spill.write(&entry(key.as_bytes(), round)).unwrap();
                }
            }
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
            let mut found: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
            spill
                .for_each_bucket_up_to(limit_bytes, &mut |entries| {
                    let mut in_bucket: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
                    for entry in entries {
                        in_bucket.entry(entry.key.to_vec()).or_default().push(entry.position);
                    }
                    for (key, positions) in in_bucket {
                        assert!(found.insert(key, positions).is_none(), "a key in two buckets");
                    }
                })
                .unwrap();
            assert_eq!(found.len(), 500);
            assert!(found.values().all(|positions| positions == &[0, 1, 2, 3]));
        }
    }
}
