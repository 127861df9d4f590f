//! The open batch of one partition: what was read since the last commit, as rows and dead letters,
//! and how it becomes staged files.

use super::{
    dead_letter,
    decode::{Decoder, Slot},
    rows::{ByDate, Rows},
};
use crate::{
    clock::now_us,
    failpoint,
    health::{Content, Letter, Letters},
    kafka::consumer::Record,
    lake::{
        self, LakeError,
        ledger::{LedgerFile, Root},
        parquet_file::Encoder,
        store::Store,
    },
    record::{
        reason::{Reason, Rejection},
        time,
    },
};
use arrow_schema::{ArrowError, SchemaRef};
use std::{collections::BTreeMap, fs::File, time::Instant};

/// Most files that are written before they are synced: so many are open at a time.
const OPEN_FILES: usize = 64;

/// How the files of a table are made.
#[derive(Clone)]
pub struct Layout {
    pub topic: String,
    pub schema: SchemaRef,
    pub key_columns: Vec<String>,
    pub overflow: bool,
    pub metadata: bool,
    pub compression_level: i32,
    /// See [`lake::rules`].
    pub rules: String,
}

pub struct Batch {
    rows: Rows,
    dead_letters: Option<Rows>,
    pub reasons: BTreeMap<Reason, u64>,
    /// The newest dead letters.
    pub letters: Letters,
    /// Bytes held.
    pub bytes: usize,
    pub opened: Instant,
    /// Kafka timestamp of the oldest record.
    pub oldest_ms: Option<i64>,
    pub records: u64,
    /// Fields without a column, in all records so far.
    pub unknown_fields: u64,
}

impl Batch {
    pub fn new(schema: SchemaRef, now: Instant) -> Self {
        Batch {
            rows: Rows::new(schema),
            dead_letters: None,
            reasons: BTreeMap::new(),
            letters: Letters::default(),
            bytes: 0,
            opened: now,
            oldest_ms: None,
            records: 0,
            unknown_fields: 0,
        }
    }

    pub fn row_count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// How many files it would become.
    pub fn files(&self) -> usize {
        self.rows.dates() + self.dead_letters.as_ref().map_or(0, Rows::dates)
    }

    pub fn widen(&mut self, schema: SchemaRef, sources: &[Option<usize>]) {
        self.rows.widen(schema, sources);
    }

    fn note(&mut self, record: &Record<'_>) {
        self.records += 1;
        if self.records % 256 == 1 {
            // Records of a partition are nearly in the order of their timestamps.
            self.oldest_ms = match (self.oldest_ms, record.timestamp_ms()) {
                (Some(oldest), Some(found)) => Some(oldest.min(found)),
                (oldest, found) => oldest.or(found),
            };
        }
    }

    /// Adds the record that `decoder` has just decoded.
    #[inline]
    pub fn push(&mut self, layout: &Layout, record: &Record<'_>, decoder: &Decoder, day: i32, now_micros: i64) {
        self.note(record);
        let payload = record.payload.unwrap_or_default();
        let mut text_bytes = 0;
        let columns = &mut self.rows.columns;
        for (column, slot) in columns.iter_mut().zip(decoder.slots()) {
            match *slot {
                Slot::Missing | Slot::Null => column.push_null(),
                Slot::Whole(value) | Slot::Timestamp(value) => column.push_i64(value),
                Slot::Decimal(value) => column.push_decimal(value),
                Slot::Float(value) => column.push_f64(value),
                Slot::Bool(value) => column.push_bool(value),
                Slot::Date(days) => column.push_i32(days),
                Slot::Text(span) => {
                    text_bytes += span.length as usize;
                    column.push_bytes(span.of(payload, decoder.scratch()));
                }
            }
        }
        let mut added = decoder.slots().len();
        if layout.overflow {
            let overflow = decoder.overflow(payload);
            text_bytes += overflow.as_ref().map_or(0, Vec::len);
            columns[added].push_bytes_or_null(overflow.as_deref());
            added += 1;
        } else {
            self.unknown_fields += decoder.unknown_count() as u64;
        }
        if layout.metadata {
            columns[added].push_i64(now_micros);
            columns[added + 1].push_i32(record.partition);
            columns[added + 2].push_i64(record.offset);
        }
        self.bytes += self.rows.end_row(day, text_bytes);
    }

    pub fn push_dead_letter(&mut self, topic: &str, record: &Record<'_>, rejection: &Rejection) {
        self.note(record);
        *self.reasons.entry(rejection.reason).or_default() += 1;
        let now = now_us();
        self.letters.push(Letter {
            at_ms: now / 1_000,
            topic: topic.to_owned(),
            place: Some((record.partition, record.offset)),
            reason: rejection.reason.name().to_owned(),
            content: Some(Content::new(&rejection.detail, record.payload)),
        });
        let rows = self.dead_letters.get_or_insert_with(|| Rows::new(lake::dead_letter::schema()));
        self.bytes += dead_letter::push(rows, topic, record, rejection, now);
    }

    /// Writes the batch, which ends before `next`, to files in the store's staging and syncs them.
    pub fn stage(self, layout: &Layout, range: &Range, store: &Store) -> Result<Vec<LedgerFile>, LakeError> {
        failpoint::hit("land.before_stage").map_err(LakeError::io("write in", store.staging()))?;
        let mut stage = Stage { range, rules: &layout.rules, store, files: Vec::new(), unsynced: Vec::new() };
        let keys: Vec<&str> = layout.key_columns.iter().map(String::as_str).collect();
        stage.rows(Root::Table, self.rows, &keys, layout.compression_level)?;
        if let Some(rows) = self.dead_letters {
            stage.rows(Root::DeadLetters, rows, &lake::dead_letter::UNIQUE, layout.compression_level)?;
        }
        stage.sync()?;
        failpoint::hit("land.after_stage").map_err(LakeError::io("write in", store.staging()))?;
        Ok(stage.files)
    }
}

/// Which records a commit covers; names its files.
#[derive(Debug, Clone)]
pub struct Range {
    pub topic: String,
    /// Kafka's id of the topic.
    pub topic_id: String,
    pub partition: i32,
    pub first: i64,
    pub next: i64,
    pub generation: u32,
}

impl Range {
    /// `part-<topic>-<partition>-`
    pub fn prefix(topic: &str, partition: i32) -> String {
        format!("part-{topic}-{partition}-")
    }

    fn file_name(&self, n: usize) -> String {
        let prefix = Range::prefix(&self.topic, self.partition);
        let generation = if self.generation > 0 { format!("-r{}", self.generation) } else { String::new() };
        format!("{prefix}{}-{}-{n}{generation}.parquet", self.first, self.next - 1)
    }
}

struct Stage<'a> {
    range: &'a Range,
    rules: &'a str,
    store: &'a Store,
    files: Vec<LedgerFile>,
    unsynced: Vec<File>,
}

impl Stage<'_> {
    fn rows(&mut self, root: Root, rows: Rows, unique: &[&str], level: i32) -> Result<(), LakeError> {
        if rows.is_empty() {
            return Ok(());
        }
        let staging = self.store.staging();
        let failed = |source| LakeError::Parquet { path: staging.to_owned(), source };
        let arrow = |error: ArrowError| failed(error.into());
        let metadata = [
            ("headwater.topic", self.range.topic.clone()),
            (lake::TOPIC_ID, self.range.topic_id.clone()),
            ("headwater.partition", self.range.partition.to_string()),
            ("headwater.first_offset", self.range.first.to_string()),
            ("headwater.last_offset", (self.range.next - 1).to_string()),
            (lake::RULES, self.rules.to_owned()),
        ];
        let encoder = Encoder::new(rows.schema().clone(), level, unique, &metadata).map_err(failed)?;
        let grouped: ByDate = rows.finish().map_err(arrow)?;
        for (day, pieces) in grouped.dates() {
            let n = self.files.len();
            if n > 0 {
                failpoint::hit("land.mid_stage").map_err(LakeError::io("write in", staging))?;
            }
            let staged = format!("{n}.parquet");
            let (written, file) = encoder.write(&staging.join(&staged), pieces)?;
            self.files.push(LedgerFile {
                staged,
                root,
                path: format!("{}/{}", time::partition(day), self.range.file_name(n)),
                rows: written.rows,
                bytes: written.bytes,
                crc32c: written.crc32c,
            });
            self.unsynced.push(file);
            if self.unsynced.len() >= OPEN_FILES {
                self.sync()?;
            }
        }
        Ok(())
    }

    /// Files that were written together share the file system's own commits when they are synced
    /// together.
    fn sync(&mut self) -> Result<(), LakeError> {
        for file in self.unsynced.drain(..) {
            file.sync_all().map_err(LakeError::io("sync a file in", self.store.staging()))?;
        }
        Ok(())
    }
}
