//! What has landed: the files of a table and of its dead letters, and their rows.

use super::{
    compare::{Class, LakePolicy, PartitionState, Span},
    entry::{self, Entry, Fault, Side, Spill, SpillError},
    expired::Expired,
    judge::{Judge, Refused},
    lake_plan::{KAFKA_OFFSET, LakePlan, Rows, UnknownType},
    logs::Logs,
    progress::Progress,
    report::Difference,
    row::{RowBytes, place_key},
    topic::fields_of,
    vouched::Vouched,
};
use crate::{
    config::model::LandTable,
    kafka::reader::Extent,
    lake::{
        ledger::Common,
        reader::{self, FileReader, LakeReadError, TableFile},
        upkeep,
    },
};
use arrow_array::{
    Array, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
    cast::AsArray,
    types::{Int32Type, Int64Type},
};
use arrow_schema::SchemaRef;
use roaring::RoaringTreemap;
use std::{
    collections::{BTreeMap, HashMap},
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
    /// Files that are wrong as a whole.
    pub misfits: Vec<Misfit>,
    pub logs: Logs,
    vouched: Vouched,
    /// By file: whether the ledger and the file's own footer say that it is one of this landing.
    is_vouched: Vec<bool>,
    /// Of the data files that say so: whether their rows were let in by other rules than those of the configuration.
    has_other_rules: Vec<bool>,
    pub expired: Expired,
}

/// A file that readers of the table would take for a part of it, and that is none.
#[derive(Debug)]
pub struct Misfit {
    pub class: Class,
    /// Its rows, or 1 where it cannot be read.
    pub count: u64,
    pub difference: Difference,
}

impl Misfit {
    fn new(class: Class, count: u64, path: &Path, what: String) -> Misfit {
        let difference = Difference { key: "(a file)".to_owned(), place: path.display().to_string(), what };
        Misfit { class, count, difference }
    }

    fn unreadable(path: &Path, error: &LakeReadError) -> Misfit {
        Misfit::new(Class::Differing, 1, path, format!("readers of the table stop at it: {error}"))
    }
}

/// Whether an error is of the file's content; otherwise trying again may help.
fn is_of_content(error: &LakeReadError) -> bool {
    matches!(error, LakeReadError::Parquet { .. } | LakeReadError::DeadLetters { .. })
}

impl Lake {
    /// `neighbours` are the landed tables of the pipeline, some of which may stand in the same directories;
    /// `topic_id` is the id of the topic that is compared.
    pub fn list(land: &LandTable, neighbours: &[LandTable], topic_id: &str) -> Result<Lake, LakeError> {
        let mut vouched = Vouched::begin(land, topic_id)?;
        let mut warnings = std::mem::take(&mut vouched.warnings);
        let (mut misfits, mut listed) = (Vec::new(), Vec::new());
        for root in [&land.path, &land.dead_letter_path] {
            let listing = reader::list(root)?;
            let (ours, others): (Vec<_>, Vec<_>) =
                listing.files.into_iter().partition(|file| file.name.topic == land.topic);
            warn_of_overlaps(&ours, &mut warnings);
            let is_neighbour = |file: &TableFile| {
                let shares = |table: &&LandTable| table.path == *root || table.dead_letter_path == *root;
                neighbours.iter().filter(shares).any(|table| table.topic == file.name.topic)
            };
            let unknown = others.into_iter().filter(|file| !is_neighbour(file)).map(|file| file.path);
            // Dead letters may stand below their table.
            let foreign = listing.foreign.into_iter().filter(|path| !is_or_holds(path, &land.dead_letter_path));
            let (tables, foreign): (Vec<PathBuf>, Vec<PathBuf>) =
                foreign.chain(unknown).partition(|path| is_parquet(path));
            misfits.extend(tables.iter().map(|path| foreign_table(path)).collect::<Result<Vec<_>, _>>()?);
            warn_of_foreign(root, foreign, &mut warnings);
            listed.push(ours);
        }
        vouched.end(land)?;
        let dead_letters = listed.pop().unwrap_or_default();
        let data = listed.pop().unwrap_or_default();
        let mut lake = Lake {
            files: Vec::with_capacity(data.len() + dead_letters.len()),
            data_files: 0,
            schemas: Vec::with_capacity(data.len()),
            expected_rows: 0,
            warnings,
            misfits,
            logs: vouched.logs(),
            vouched,
            is_vouched: Vec::new(),
            has_other_rules: Vec::new(),
            expired: Expired::default(),
        };
        let rules = crate::lake::rules(land);
        for file in data {
            let Some(opened) = lake.add(file)? else { continue };
            lake.has_other_rules.push(opened.rules().is_some_and(|of_file| *of_file != rules));
            lake.expected_rows += opened.rows();
            // A table has few schemas and many files.
            let known = lake.schemas.iter().rev().take(4).find(|schema| *schema == opened.schema()).cloned();
            lake.schemas.push(known.unwrap_or_else(|| opened.schema().clone()));
        }
        lake.data_files = lake.files.len();
        for file in dead_letters {
            lake.add(file)?;
        }
        lake.files.iter().for_each(|file| lake.logs.add(&file.name));
        // Read last: what was dropped before the listing has been noted by now.
        let dropped = upkeep::dropped(&upkeep::Place::of(land))?;
        lake.expired = Expired::new(&dropped, &land.date_column, lake.logs.clone());
        Ok(lake)
    }

    /// Whether records that landed, or never did, are gone by a loss that was accepted.
    pub fn have_lost(land: &LandTable, topic_id: &str) -> Result<bool, LakeError> {
        Ok(Vouched::begin(land, topic_id)?.begun().have_lost())
    }

    /// Takes a file of the landing, and gives it opened; one that cannot be read is a misfit.
    fn add(&mut self, file: TableFile) -> Result<Option<FileReader>, LakeError> {
        let opened = match FileReader::open(&file.path, Some(&[])) {
            Err(error) if is_of_content(&error) => {
                self.misfits.push(Misfit::unreadable(&file.path, &error));
                return Ok(None);
            }
            opened => opened?,
        };
        let beyond = self.vouched.lies_beyond(&file.name);
        if let Some(next) = beyond {
            self.warnings.push(format!(
                "{} holds offsets that its ledger (at offset {next}) does not vouch for",
                file.path.display()
            ));
        }
        let is_named_right = is_named_right(&file, &opened);
        if !is_named_right {
            self.warnings.push(format!("{} says other offsets in its footer than in its name", file.path.display()));
        }
        self.is_vouched.push(beyond.is_none() && is_named_right);
        self.files.push(file);
        Ok(Some(opened))
    }

    fn common(&self, file: &TableFile) -> Common {
        self.logs.common(file.name.partition, file.name.generation)
    }

    /// The offsets of a file that stand in the log that is compared; none where there are none.
    fn compared(&self, file: &TableFile) -> Option<(i64, i64)> {
        let to = self.common(file).to;
        (file.name.first_offset < to).then_some((file.name.first_offset, file.name.last_offset.min(to - 1)))
    }

    pub fn is_dead_letter(&self, file: u32) -> bool {
        file as usize >= self.data_files
    }

    /// `has_offset` where rows may hold their record's place.
    pub fn policy(&self, extents: &[Extent], young_from_us: i64, has_offset: bool) -> LakePolicy {
        let mut partitions: HashMap<i32, PartitionState> = extents
            .iter()
            .map(|extent| {
                let unsure_to = self.logs.unsure_to(extent.partition);
                let state = PartitionState { first: extent.first, end: extent.end, landed_to: None, unsure_to };
                (extent.partition, state)
            })
            .collect();
        for file in &self.files {
            if let (Some(partition), Some((_, last))) = (partitions.get_mut(&file.name.partition), self.compared(file))
            {
                partition.landed_to = partition.landed_to.max(Some(last));
            }
        }
        for (partition, state) in &mut partitions {
            state.landed_to = self.vouched.landed_to(*partition).or(state.landed_to);
        }
        let span = |(index, file): (usize, &TableFile)| {
            let is_vouched = self.is_vouched[index];
            let is_letters = self.is_dead_letter(index as u32);
            let says_places = is_letters || (has_offset && self.schemas[index].index_of(KAFKA_OFFSET).is_ok());
            let has_other_rules = self.has_other_rules.get(index).copied().unwrap_or_default();
            let Some((first, last)) = self.compared(file) else {
                // Before any offset that the topic can hold now.
                let (first, last, says_places, is_cut) = (-1, -1, false, true);
                return Span { first, last, is_vouched, says_places, is_cut, has_other_rules };
            };
            let is_cut = last < file.name.last_offset || self.common(file).is_unsure;
            // What stands behind the cut has the places of others.
            let says_places = says_places && !is_cut;
            Span { first, last, is_vouched, says_places, is_cut, has_other_rules }
        };
        let spans = self.files.iter().enumerate().map(span).collect();
        LakePolicy { spans, partitions, young_from_us, deleted: self.logs.deleted() }
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
        let compared = spans.filter_map(|(file, schema)| Some((file.name.partition, self.compared(file)?, schema)));
        ColumnsByOffset::new(
            compared.map(|(partition, (first, last), schema)| (partition, first, last, plan.mask_of(schema))),
        )
    }

    /// Writes an entry for every row of the table.
    pub fn read_rows(&mut self, plan: &LakePlan, spill: &mut Spill, progress: &mut Progress) -> Result<u64, LakeError> {
        progress.begin("lake", self.expected_rows);
        let (mut bytes, mut key, mut count) = (RowBytes::default(), Vec::new(), 0);
        for (index, file) in self.files[..self.data_files].iter().enumerate() {
            let mut position = 0;
            for batch in FileReader::open(&file.path, None)? {
                let batch = match batch {
                    Err(error) if is_of_content(&error) => {
                        self.misfits.push(Misfit::unreadable(&file.path, &error));
                        break;
                    }
                    batch => batch?,
                };
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
        &mut self,
        judge: &Judge<'_>,
        columns: &ColumnsByOffset,
        vouching: Option<&LakePlan>,
        spill: &mut Spill,
    ) -> Result<DeadLetters, LakeError> {
        let mut letters = DeadLetters::default();
        let (mut bytes, mut key) = (RowBytes::default(), Vec::new());
        for (index, file) in self.files.iter().enumerate().skip(self.data_files) {
            let mut position = 0;
            let to = self.common(file).to;
            for batch in FileReader::open(&file.path, Some(&DEAD_LETTER_COLUMNS))? {
                let read = batch.and_then(|batch| Ok((Stored::new(&batch, &file.path)?, batch.num_rows())));
                let (stored, rows) = match read {
                    Err(error) if is_of_content(&error) => {
                        self.misfits.push(Misfit::unreadable(&file.path, &error));
                        break;
                    }
                    read => read?,
                };
                for row in 0..rows {
                    let place = (stored.partition.value(row), stored.offset.value(row));
                    let is_ours = stored.topic.value(row) == file.name.topic;
                    if is_ours {
                        let fields = fields_of(stored.payload(row));
                        let reason = stored.reason.value(row);
                        let refused = Refused {
                            reason,
                            detail: stored.detail.value(row),
                            payload: stored.payload(row),
                            fields: fields.as_ref(),
                        };
                        let is_compared = place.1 < to;
                        let mask = if is_compared { columns.mask(place.0, place.1) } else { ALL };
                        let is_founded = judge.may_be_refused(&refused, mask);
                        if is_compared && place.1 >= 0 {
                            letters.offsets.entry(place.0).or_default().insert(place.1 as u64);
                        }
                        *letters.reasons.entry(reason.to_owned()).or_default() += 1;
                        spill.write(&Entry {
                            side: Side::Landed,
                            key: &place_key(place.0, place.1),
                            row: record_hash(stored.key(row), stored.payload(row)),
                            partition: place.0,
                            position,
                            file: index as u32,
                            fault: if is_founded { Fault::None } else { Fault::Unfounded },
                            ..Entry::default()
                        })?;
                        if let (Some(plan), Some(fields)) = (vouching, &fields) {
                            key.clear();
                            let said = plan.of_record(fields, place, ALL, &mut bytes, &mut key);
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

const DEAD_LETTER_COLUMNS: [&str; 7] =
    ["raw_payload", "topic", "error_reason", "error_detail", "kafka_partition", "kafka_offset", "key"];

/// A batch of dead letters.
struct Stored {
    payload: BinaryArray,
    key: BinaryArray,
    topic: StringArray,
    reason: StringArray,
    detail: StringArray,
    partition: Int32Array,
    offset: Int64Array,
}

impl Stored {
    fn new(batch: &RecordBatch, path: &Path) -> Result<Stored, LakeReadError> {
        fn find<T: Clone>(
            batch: &RecordBatch,
            path: &Path,
            column: &'static str,
            cast: impl Fn(&dyn Array) -> Option<&T>,
        ) -> Result<T, LakeReadError> {
            let missing = || LakeReadError::missing(path, column);
            batch.column_by_name(column).and_then(|values| cast(values.as_ref()).cloned()).ok_or_else(missing)
        }
        Ok(Stored {
            payload: find(batch, path, "raw_payload", |values| values.as_binary_opt())?,
            key: find(batch, path, "key", |values| values.as_binary_opt())?,
            topic: find(batch, path, "topic", |values| values.as_string_opt())?,
            reason: find(batch, path, "error_reason", |values| values.as_string_opt())?,
            detail: find(batch, path, "error_detail", |values| values.as_string_opt())?,
            partition: find(batch, path, "kafka_partition", |values| values.as_primitive_opt::<Int32Type>())?,
            offset: find(batch, path, "kafka_offset", |values| values.as_primitive_opt::<Int64Type>())?,
        })
    }

    fn payload(&self, row: usize) -> Option<&[u8]> {
        self.payload.is_valid(row).then(|| self.payload.value(row))
    }

    fn key(&self, row: usize) -> Option<&[u8]> {
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

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) && path.is_file()
}

/// A Parquet file of somebody else.
fn foreign_table(path: &Path) -> Result<Misfit, LakeReadError> {
    match FileReader::open(path, Some(&[])) {
        Err(error) if is_of_content(&error) => Ok(Misfit::unreadable(path, &error)),
        opened => {
            let rows = opened?.rows();
            let what = format!(
                "readers take its {rows} rows for rows of the table, and no landing of the table has written it: move it away"
            );
            Ok(Misfit::new(Class::Duplicated, rows.max(1), path, what))
        }
    }
}

/// Whether the offsets in a file's footer are those of its name; older files and those of others say none.
fn is_named_right(file: &TableFile, opened: &FileReader) -> bool {
    let metadata = opened.schema().metadata();
    let is = |key: &str, expected: i64| {
        metadata.get(key).and_then(|text| text.parse::<i64>().ok()).is_none_or(|found| found == expected)
    };
    is("headwater.partition", file.name.partition.into())
        && is("headwater.first_offset", file.name.first_offset)
        && is("headwater.last_offset", file.name.last_offset)
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
