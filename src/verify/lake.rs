//! What has landed: the files of a table and of its dead letters, and their rows.

use super::{
    canon::Kind,
    compare::{LakePolicy, PartitionState, Span},
    entry::{self, Entry, Fault, Side, Spill, SpillError},
    lake_plan::{LakePlan, Rows, UnknownType},
    progress::Progress,
    row::{RowBytes, place_key},
    source_plan,
    topic::fields_of,
};
use crate::{
    config::model::LandTable,
    kafka::reader::Extent,
    lake::{
        ledger::Recovery,
        ledger_file::Ledger,
        reader::{self, FileReader, LakeReadError, TableFile},
        upkeep::{self, Dropped, Tally},
    },
};
use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{Int32Type, Int64Type},
};
use arrow_schema::SchemaRef;
use roaring::RoaringTreemap;
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    #[error("{0}")]
    Read(#[from] LakeReadError),
    #[error("{0}")]
    Spill(#[from] SpillError),
    #[error("{0}")]
    Upkeep(#[from] crate::lake::LakeError),
    #[error("{}: {source}", .path.display())]
    Type { path: PathBuf, source: UnknownType },
    #[error("{} is not a file of dead letters: it has no column {column} of its type; move it away", .path.display())]
    DeadLetters { path: PathBuf, column: &'static str },
}

/// The files of one topic's table and of its dead letters, as they are listed now.
pub struct Lake {
    /// Data files, then files of dead letters; entries name them by their index.
    pub files: Vec<TableFile>,
    data_files: usize,
    /// Of the data files.
    pub schemas: Vec<SchemaRef>,
    pub expected_rows: u64,
    pub warnings: Vec<String>,
    /// Greatest generation by partition: older files are of offsets that have begun anew since.
    generations: HashMap<i32, u32>,
    pub expired: Expired,
}

/// What `expire` dropped, by its own note: nothing else tells a row that went from one that never came.
#[derive(Debug, Clone, Default)]
pub struct Expired {
    dropped: Dropped,
    date_column: String,
    /// Up to which offset each partition had landed.
    landed_to: HashMap<i32, i64>,
}

impl Expired {
    fn of(land: &LandTable) -> Result<Expired, LakeError> {
        let place = upkeep::Place::of(land);
        let dropped = upkeep::dropped(&place)?;
        let mut expired = Expired { dropped, date_column: land.date_column.clone(), ..Expired::default() };
        if expired.rows() > 0 {
            let partitions = std::fs::read_dir(&land.checkpoint_location).into_iter().flatten().flatten();
            for entry in partitions {
                let name = entry.file_name();
                let name = name.to_str().and_then(|name| name.strip_prefix(&land.topic)?.strip_prefix('-'));
                let Some(partition) = name.and_then(|partition| partition.parse().ok()) else { continue };
                if let Ok(Some(Recovery { progress: Some(progress), .. })) = Ledger::read(&entry.path()) {
                    expired.landed_to.insert(partition, progress.next - 1);
                }
            }
        }
        Ok(expired)
    }

    /// Most rows and dead letters that may be missing for this reason.
    pub fn rows(&self) -> u64 {
        self.dropped.table.rows + self.dropped.dead_letters.rows
    }

    fn is_dropped(tally: &Tally, day: Option<&str>) -> bool {
        matches!((day, &tally.before), (Some(day), Some(before)) if day < before.as_str())
    }

    /// Whether a row of this day may be gone.
    pub fn holds_row(&self, day: Option<&str>) -> bool {
        Expired::is_dropped(&self.dropped.table, day)
    }

    /// Whether the row or the dead letter of a record may be gone. `day` is that of its row, where the
    /// lake still has a file that tells the type of the date column.
    pub fn holds_record(
        &self,
        day: Option<&str>,
        fields: Option<&Map<String, Value>>,
        timestamp_ms: Option<i64>,
    ) -> bool {
        if self.rows() == 0 {
            return false;
        }
        let said = || {
            let value = fields?.get(&self.date_column)?;
            [Kind::Timestamp(None), Kind::Date].iter().find_map(|kind| {
                let mut canonical = Vec::new();
                super::canon::from_json(kind, value, &mut canonical);
                source_plan::day_of(kind, &canonical)
            })
        };
        let letter_day = timestamp_ms.and_then(|ms| super::clock::day_name(ms.saturating_mul(1_000)));
        self.holds_row(day.map(str::to_owned).or_else(said).as_deref())
            || Expired::is_dropped(&self.dropped.dead_letters, letter_day.as_deref())
    }
}

impl Lake {
    /// `neighbours` are topics whose files may stand beside those of this table.
    pub fn list(land: &LandTable, neighbours: &BTreeSet<String>) -> Result<Lake, LakeError> {
        let mut warnings = Vec::new();
        let mut files = Vec::new();
        let mut data_files = 0;
        for root in [&land.path, &land.dead_letter_path] {
            let listing = reader::list(root)?;
            let (ours, others): (Vec<_>, Vec<_>) =
                listing.files.into_iter().partition(|file| file.name.topic == land.topic);
            warn_of_overlaps(&ours, &mut warnings);
            let unknown =
                others.into_iter().filter(|file| !neighbours.contains(&file.name.topic)).map(|file| file.path);
            // Dead letters may stand below their table.
            let foreign = listing.foreign.into_iter().filter(|path| !is_or_holds(path, &land.dead_letter_path));
            warn_of_foreign(root, foreign.chain(unknown).collect(), &mut warnings);
            files.extend(ours);
            if data_files == 0 && std::ptr::eq(root, &land.path) {
                data_files = files.len();
            }
        }
        let mut schemas: Vec<SchemaRef> = Vec::with_capacity(data_files);
        let mut expected_rows = 0;
        for file in &files[..data_files] {
            let opened = FileReader::open(&file.path, Some(&[]))?;
            expected_rows += opened.rows();
            // A table has few schemas and many files.
            let known = schemas.iter().rev().take(4).find(|schema| *schema == opened.schema()).cloned();
            schemas.push(known.unwrap_or_else(|| opened.schema().clone()));
        }
        let mut generations: HashMap<i32, u32> = HashMap::new();
        for file in &files {
            let greatest = generations.entry(file.name.partition).or_default();
            *greatest = file.name.generation.max(*greatest);
        }
        // Read last: what was dropped before the listing has been noted by now.
        let expired = Expired::of(land)?;
        let lake = Lake { files, data_files, schemas, expected_rows, warnings, generations, expired };
        Ok(lake)
    }

    fn is_retired(&self, file: &TableFile) -> bool {
        self.generations.get(&file.name.partition).is_some_and(|generation| file.name.generation < *generation)
    }

    pub fn is_dead_letter(&self, file: u32) -> bool {
        file as usize >= self.data_files
    }

    pub fn policy(&self, extents: &[Extent], young_from_us: i64) -> LakePolicy {
        let mut partitions: HashMap<i32, PartitionState> = extents
            .iter()
            .map(|extent| (extent.partition, PartitionState { first: extent.first, end: extent.end, landed_to: None }))
            .collect();
        for file in self.files.iter().filter(|file| !self.is_retired(file)) {
            if let Some(partition) = partitions.get_mut(&file.name.partition) {
                partition.landed_to = partition.landed_to.max(Some(file.name.last_offset));
            }
        }
        let span = |file: &TableFile| {
            if self.is_retired(file) {
                // Before any offset that the topic can hold now.
                return Span { first: -1, last: -1 };
            }
            Span { first: file.name.first_offset, last: file.name.last_offset }
        };
        let dropped_to = self.expired.landed_to.clone();
        LakePolicy { spans: self.files.iter().map(span).collect(), partitions, dropped_to, young_from_us }
    }

    pub fn plan(
        &self,
        land: &LandTable,
        key: &[String],
        watermark: Option<&str>,
        catalogue: &HashMap<String, super::canon::Kind>,
    ) -> Result<LakePlan, LakeError> {
        let schemas: Vec<&arrow_schema::Schema> = self.schemas.iter().map(AsRef::as_ref).collect();
        LakePlan::new(land, &schemas, key, watermark, catalogue)
            .map_err(|source| LakeError::Type { path: land.path.clone(), source })
    }

    pub fn columns_by_offset(&self, plan: &LakePlan) -> ColumnsByOffset {
        let spans = self.files[..self.data_files].iter().zip(&self.schemas);
        let current = spans.filter(|(file, _)| !self.is_retired(file));
        ColumnsByOffset::new(current.map(|(file, schema)| {
            (file.name.partition, file.name.first_offset, file.name.last_offset, plan.mask_of(schema))
        }))
    }

    /// Writes an entry for every row of the table.
    pub fn read_rows(&self, plan: &LakePlan, spill: &mut Spill, progress: &mut Progress) -> Result<u64, LakeError> {
        progress.begin("lake", self.expected_rows);
        let (mut bytes, mut key, mut count) = (RowBytes::default(), Vec::new(), 0);
        for (index, file) in self.files[..self.data_files].iter().enumerate() {
            let mut position = 0;
            for batch in FileReader::open(&file.path, None)? {
                let batch = batch?;
                let rows = Rows::new(plan, &batch);
                for row in 0..batch.num_rows() {
                    key.clear();
                    let landed = rows.row(row, &mut bytes, &mut key);
                    let is_filed_right = file.date.is_some() && plan.day(&bytes) == file.date;
                    spill.write(&Entry {
                        side: Side::Landed,
                        key: &key,
                        // A row in another day's directory is not the row that its record asks for.
                        row: if is_filed_right { landed.row } else { !landed.row },
                        identity: landed.content,
                        watermark: landed.watermark,
                        partition: file.name.partition,
                        position,
                        file: index as u32,
                        fault: if is_filed_right { Fault::None } else { Fault::WrongDate },
                        ..Entry::default()
                    })?;
                    position += 1;
                    progress.row();
                }
            }
            count += position;
        }
        Ok(count)
    }

    /// Writes an entry for every dead letter of the topic, and gives which records they are. With
    /// `vouching`, another for the row that it holds.
    pub fn read_dead_letters(
        &self,
        topic: &str,
        vouching: Option<&LakePlan>,
        spill: &mut Spill,
    ) -> Result<DeadLetters, LakeError> {
        let mut letters = DeadLetters::default();
        let (mut bytes, mut key) = (RowBytes::default(), Vec::new());
        for (index, file) in self.files.iter().enumerate().skip(self.data_files) {
            let mut position = 0;
            for batch in FileReader::open(&file.path, Some(&DEAD_LETTER_COLUMNS))? {
                let batch = batch?;
                let columns = DeadLetterColumns::new(&batch, &file.path)?;
                for row in 0..batch.num_rows() {
                    let place = (columns.partition.value(row), columns.offset.value(row));
                    let is_ours = columns.topic.value(row) == topic;
                    if is_ours {
                        if !self.is_retired(file) && place.1 >= 0 {
                            letters.offsets.entry(place.0).or_default().insert(place.1 as u64);
                        }
                        *letters.reasons.entry(columns.reason.value(row).to_owned()).or_default() += 1;
                        spill.write(&Entry {
                            side: Side::Landed,
                            key: &place_key(place.0, place.1),
                            row: record_hash(columns.key(row), columns.payload(row)),
                            partition: place.0,
                            position,
                            file: index as u32,
                            ..Entry::default()
                        })?;
                        if let (Some(plan), Some(fields)) = (vouching, fields_of(columns.payload(row))) {
                            key.clear();
                            let said = plan.of_record(&fields, place, ALL, &mut bytes, &mut key);
                            spill.write(&Entry {
                                side: Side::DeadLetter,
                                key: &key,
                                identity: said.content,
                                watermark: said.watermark,
                                position,
                                file: index as u32,
                                ..Entry::default()
                            })?;
                        }
                    }
                    position += 1;
                }
            }
        }
        Ok(letters)
    }
}

/// The exact bytes of a record.
pub fn record_hash(key: Option<&[u8]>, payload: Option<&[u8]>) -> u128 {
    let mut bytes = Vec::new();
    for part in [key, payload] {
        bytes.push(u8::from(part.is_some()));
        super::canon::framed(&mut bytes, |out| out.extend_from_slice(part.unwrap_or_default()));
    }
    entry::hash(&bytes)
}

#[derive(Debug, Default)]
pub struct DeadLetters {
    /// By partition.
    offsets: HashMap<i32, RoaringTreemap>,
    pub reasons: BTreeMap<String, u64>,
}

impl DeadLetters {
    pub fn holds(&self, partition: i32, offset: i64) -> bool {
        self.offsets.get(&partition).is_some_and(|offsets| offsets.contains(offset as u64))
    }
}

const DEAD_LETTER_COLUMNS: [&str; 6] =
    ["raw_payload", "topic", "error_reason", "kafka_partition", "kafka_offset", "key"];

struct DeadLetterColumns<'b> {
    payload: &'b arrow_array::BinaryArray,
    key: &'b arrow_array::BinaryArray,
    topic: &'b arrow_array::StringArray,
    reason: &'b arrow_array::StringArray,
    partition: &'b arrow_array::Int32Array,
    offset: &'b arrow_array::Int64Array,
}

impl<'b> DeadLetterColumns<'b> {
    fn new(batch: &'b RecordBatch, path: &Path) -> Result<Self, LakeError> {
        fn find<'b, T>(
            batch: &'b RecordBatch,
            path: &Path,
            column: &'static str,
            cast: impl Fn(&'b dyn Array) -> Option<&'b T>,
        ) -> Result<&'b T, LakeError> {
            let missing = || LakeError::DeadLetters { path: path.to_owned(), column };
            batch.column_by_name(column).and_then(|values| cast(values.as_ref())).ok_or_else(missing)
        }
        Ok(DeadLetterColumns {
            payload: find(batch, path, "raw_payload", |values| values.as_binary_opt())?,
            key: find(batch, path, "key", |values| values.as_binary_opt())?,
            topic: find(batch, path, "topic", |values| values.as_string_opt())?,
            reason: find(batch, path, "error_reason", |values| values.as_string_opt())?,
            partition: find(batch, path, "kafka_partition", |values| values.as_primitive_opt::<Int32Type>())?,
            offset: find(batch, path, "kafka_offset", |values| values.as_primitive_opt::<Int64Type>())?,
        })
    }

    fn payload(&self, row: usize) -> Option<&'b [u8]> {
        self.payload.is_valid(row).then(|| self.payload.value(row))
    }

    fn key(&self, row: usize) -> Option<&'b [u8]> {
        self.key.is_valid(row).then(|| self.key.value(row))
    }
}

/// Which columns the files had that a record's offset falls into: a field that came before its
/// column did is unknown there, and not missing.
pub struct ColumnsByOffset {
    masks: Vec<Vec<bool>>,
    /// By partition, in order. Those of files that were merged may hold others.
    ranges: HashMap<i32, Vec<Range>>,
}

struct Range {
    first: i64,
    last: i64,
    mask: usize,
    /// Greatest last offset up to here.
    reach: i64,
}

const ALL: &[bool] = &[];

impl ColumnsByOffset {
    fn new(files: impl Iterator<Item = (i32, i64, i64, Vec<bool>)>) -> ColumnsByOffset {
        let mut masks: Vec<Vec<bool>> = Vec::new();
        let mut ranges: HashMap<i32, BTreeMap<(i64, i64), usize>> = HashMap::new();
        let mut index_of = |mask: Vec<bool>| match masks.iter().position(|known| *known == mask) {
            Some(index) => index,
            None => {
                masks.push(mask);
                masks.len() - 1
            }
        };
        let mut shared: Vec<(i32, (i64, i64), Vec<bool>)> = Vec::new();
        for (partition, first, last, mask) in files {
            let index = index_of(mask.clone());
            let known = *ranges.entry(partition).or_default().entry((first, last)).or_insert(index);
            if known != index {
                shared.push((partition, (first, last), mask));
            }
        }
        // Files of one commit may differ by their date: then a field may be in either.
        for (partition, range, mask) in shared {
            let Some(known) = ranges.get_mut(&partition).and_then(|ranges| ranges.get_mut(&range)) else { continue };
            let both: Vec<bool> = masks[*known].iter().zip(&mask).map(|(a, b)| *a || *b).collect();
            *known = match masks.iter().position(|known| *known == both) {
                Some(index) => index,
                None => {
                    masks.push(both);
                    masks.len() - 1
                }
            };
        }
        let in_order = |ranges: BTreeMap<(i64, i64), usize>| {
            let mut reach = i64::MIN;
            let ranges = ranges.into_iter().map(|((first, last), mask)| {
                reach = reach.max(last);
                Range { first, last, mask, reach }
            });
            ranges.collect()
        };
        ColumnsByOffset {
            masks,
            ranges: ranges.into_iter().map(|(partition, ranges)| (partition, in_order(ranges))).collect(),
        }
    }

    pub fn mask(&self, partition: i32, offset: i64) -> &[bool] {
        if let [only] = self.masks.as_slice() {
            return only;
        }
        let Some(ranges) = self.ranges.get(&partition) else { return ALL };
        let next = ranges.partition_point(|range| range.first <= offset);
        // The one that begins last is the smallest that holds the offset, or of the same columns.
        let before = ranges[..next].iter().rev().take_while(|range| range.reach >= offset);
        before.into_iter().find(|range| range.last >= offset).map_or(ALL, |range| &self.masks[range.mask])
    }
}

fn is_or_holds(path: &Path, inner: &Path) -> bool {
    inner.starts_with(path)
}

const MOST_NAMES: usize = 3;

fn warn_of_foreign(root: &Path, foreign: Vec<PathBuf>, warnings: &mut Vec<String>) {
    if foreign.is_empty() {
        return;
    }
    let names: Vec<String> = foreign.iter().take(MOST_NAMES).map(|path| path.display().to_string()).collect();
    let more = if foreign.len() > MOST_NAMES { ", …" } else { "" };
    warnings.push(format!(
        "{} has {} entries that no landing of this pipeline writes: {}{more}",
        root.display(),
        foreign.len(),
        names.join(", ")
    ));
}

/// Two commits of one partition never share an offset; the files of one commit share all. A file that was
/// merged from those of several commits shares none with the others of its date.
fn warn_of_overlaps(files: &[TableFile], warnings: &mut Vec<String>) {
    let mut reach: Option<&TableFile> = None;
    let mut overlaps = Vec::new();
    for file in files.iter().filter(|file| !file.name.is_merged) {
        let name = &file.name;
        if let Some(before) =
            reach.filter(|before| (before.name.partition, before.name.generation) == (name.partition, name.generation))
        {
            let is_same = (before.name.first_offset, before.name.last_offset) == (name.first_offset, name.last_offset);
            if !is_same && name.first_offset <= before.name.last_offset {
                overlaps.push(format!("{} and {}", before.path.display(), file.path.display()));
            }
            if name.last_offset < before.name.last_offset {
                continue;
            }
        }
        reach = Some(file);
    }
    let mut dates: BTreeMap<Option<&str>, &TableFile> = BTreeMap::new();
    for file in files {
        let reach = dates.entry(file.date.as_deref()).or_insert(file);
        let (before, name) = (&reach.name, &file.name);
        let is_other = !std::ptr::eq(*reach, file) && (before.is_merged || name.is_merged);
        let is_neighbour = (before.partition, before.generation) == (name.partition, name.generation);
        if is_other && is_neighbour && name.first_offset <= before.last_offset {
            overlaps.push(format!("{} and {}", reach.path.display(), file.path.display()));
        }
        if !is_neighbour || name.last_offset >= before.last_offset {
            *reach = file;
        }
    }
    if let Some(first) = overlaps.first() {
        warnings.push(format!("{} pairs of files hold overlapping offsets, such as {first}", overlaps.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::reader::FileName;

    fn file(partition: i32, first: i64, last: i64, n: u64) -> TableFile {
        let name = format!("part-t-{partition}-{first}-{last}-{n}.parquet");
        let name = FileName::parse(&name).unwrap();
        TableFile { path: format!("{first}-{last}-{n}").into(), date: None, name }
    }

    #[test]
    fn overlaps_are_of_different_commits() {
        let warned = |files: &[TableFile]| {
            let mut warnings = Vec::new();
            warn_of_overlaps(files, &mut warnings);
            warnings.len()
        };
        assert_eq!(warned(&[file(0, 0, 9, 0), file(0, 0, 9, 1), file(0, 10, 19, 0), file(1, 5, 9, 0)]), 0);
        assert_eq!(warned(&[file(0, 0, 9, 0), file(0, 9, 19, 0)]), 1);
        assert_eq!(warned(&[file(0, 0, 99, 0), file(0, 5, 6, 0), file(0, 50, 120, 0)]), 1);
        assert_eq!(warned(&[file(0, 0, 9, 0), file(0, 0, 5, 0)]), 1);
    }

    #[test]
    fn a_merged_file_overlaps_only_with_those_of_its_date() {
        let warned = |files: &[(&str, &str)]| {
            let files: Vec<TableFile> = files
                .iter()
                .map(|(date, name)| TableFile {
                    path: format!("{date}/{name}").into(),
                    date: Some((*date).to_owned()),
                    name: FileName::parse(&format!("part-t-0-{name}.parquet")).unwrap(),
                })
                .collect();
            let mut warnings = Vec::new();
            warn_of_overlaps(&files, &mut warnings);
            warnings.len()
        };
        assert_eq!(warned(&[("a", "0-50-m3"), ("b", "10-19-0"), ("b", "30-90-m2"), ("a", "60-69-0")]), 0);
        assert_eq!(warned(&[("a", "0-50-m3"), ("a", "10-19-0")]), 1);
        assert_eq!(warned(&[("a", "0-9-0"), ("a", "5-50-m3")]), 1);
        assert_eq!(warned(&[("a", "0-9-0"), ("b", "5-12-0")]), 1);
    }

    #[test]
    fn a_record_is_given_the_columns_of_its_file() {
        let (old, new) = (vec![true, false], vec![true, true]);
        let by_offset = ColumnsByOffset::new(
            [
                (0, 0, 9, old.clone()),
                (0, 10, 19, new.clone()),
                (0, 20, 29, old.clone()),
                (0, 20, 29, vec![false, true]),
            ]
            .into_iter(),
        );
        assert_eq!(by_offset.mask(0, 9), old);
        assert_eq!(by_offset.mask(0, 10), new);
        assert_eq!(by_offset.mask(0, 25), new);
        assert_eq!(by_offset.mask(0, 30), ALL);
        assert_eq!(by_offset.mask(1, 0), ALL);
        let merged = ColumnsByOffset::new([(0, 0, 99, old.clone()), (0, 10, 19, new.clone())].into_iter());
        assert_eq!((merged.mask(0, 15), merged.mask(0, 25), merged.mask(0, 100)), (&new[..], &old[..], ALL));
        let single = ColumnsByOffset::new([(0, 0, 9, old.clone())].into_iter());
        assert_eq!(single.mask(7, 100), old);
    }

    #[test]
    fn no_key_and_an_empty_key_are_two_records() {
        assert_ne!(record_hash(None, Some(b"a")), record_hash(Some(b""), Some(b"a")));
        assert_ne!(record_hash(Some(b"a"), None), record_hash(None, Some(b"a")));
    }
}
