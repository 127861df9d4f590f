//! The verdicts: entries of one key, from both sides, in; what is wrong with them, out. No I/O.

use super::entry::{Entry, Fault, Side};
use std::collections::HashMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Lost,
    Duplicated,
    Differing,
    /// Changed without moving its watermark: no poller can see that, so it is no failure.
    ChangedInPlace,
}

/// A record of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordAt {
    pub partition: i32,
    pub offset: i64,
}

/// A row of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowAt {
    pub file: u32,
    pub row: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    NotCaptured {
        watermark: Option<i64>,
    },
    CapturedTwice {
        first: RecordAt,
        again: RecordAt,
    },
    /// The record of the row's own transaction holds another row.
    CapturedWrong {
        record: RecordAt,
    },
    /// The row's record stands under another key, and so perhaps in another partition.
    WrongMessageKey {
        record: RecordAt,
    },
    ChangedSinceRecord {
        record: RecordAt,
    },
    NotLanded {
        record: RecordAt,
    },
    LandedTwice {
        record: RecordAt,
        again: RowAt,
    },
    LandedWithoutRecord {
        row: RowAt,
    },
    LandedWrong {
        record: RecordAt,
        row: RowAt,
    },
    /// The file's name holds other offsets than the record's.
    LandedElsewhere {
        record: RecordAt,
        row: RowAt,
    },
    /// A row of a record that was to be refused.
    LandedBad {
        record: RecordAt,
        row: RowAt,
    },
    /// A dead letter of a record that was to land, or to be refused for another reason.
    RefusedUnfounded {
        row: RowAt,
    },
    /// The row stands under another date than its own, and the topic no longer holds its record.
    WrongDate {
        row: RowAt,
    },
    /// No longer in the topic, and not in the lake.
    NotInLake {
        watermark: Option<i64>,
    },
    ChangedSinceLanded {
        row: RowAt,
    },
}

impl Trouble {
    pub fn class(&self) -> Class {
        match self {
            Trouble::NotCaptured { .. } | Trouble::NotLanded { .. } | Trouble::NotInLake { .. } => Class::Lost,
            Trouble::CapturedTwice { .. } | Trouble::LandedTwice { .. } | Trouble::LandedWithoutRecord { .. } => {
                Class::Duplicated
            }
            Trouble::CapturedWrong { .. }
            | Trouble::WrongMessageKey { .. }
            | Trouble::LandedWrong { .. }
            | Trouble::LandedBad { .. }
            | Trouble::RefusedUnfounded { .. }
            | Trouble::WrongDate { .. }
            | Trouble::LandedElsewhere { .. } => Class::Differing,
            Trouble::ChangedSinceRecord { .. } | Trouble::ChangedSinceLanded { .. } => Class::ChangedInPlace,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub key: Vec<u8>,
    pub trouble: Trouble,
}

/// What a comparison came to. Counts are exact; of each class the first findings are kept.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    pub list_limit: usize,
    pub lost: u64,
    pub duplicated: u64,
    pub differing: u64,
    pub changed_in_place: u64,
    /// Young enough to be still on their way.
    pub pending: u64,
    /// Older than what the topic still holds, so that this comparison cannot judge them.
    pub expired: u64,
    /// Of a date that was dropped from the lake, and not in it, by allowance.
    pub dropped: HashMap<u32, u64>,
    /// Rows of the source that are nowhere, as many as records were deleted before they had landed at most.
    pub deleted: u64,
    /// Rows that would be dead letters by the rules of now, and were let in by others.
    pub by_other_rules: u64,
    /// Records that were passed over, for nobody could tell whether they had landed.
    pub passed_over: u64,
    /// Refused by capture, by the index of the reason.
    pub refused: HashMap<u128, u64>,
    pub findings: Vec<Finding>,
}

impl Outcome {
    pub fn new(list_limit: usize) -> Outcome {
        Outcome { list_limit, ..Outcome::default() }
    }

    fn add(&mut self, key: &[u8], trouble: Trouble) {
        let class = trouble.class();
        let count = match class {
            Class::Lost => &mut self.lost,
            Class::Duplicated => &mut self.duplicated,
            Class::Differing => &mut self.differing,
            Class::ChangedInPlace => &mut self.changed_in_place,
        };
        *count += 1;
        if *count <= self.list_limit as u64 {
            self.findings.push(Finding { key: key.to_vec(), trouble });
        }
    }
}

/// Calls `judge` with the entries of each key, the sides in the order of [`Side`].
fn for_each_key<'a>(entries: &mut [Entry<'a>], mut judge: impl FnMut(&'a [u8], &mut [Entry<'a>])) {
    entries.sort_unstable_by(|a, b| {
        let rest = |entry: &Entry<'_>| (entry.side, entry.partition, entry.position, entry.file);
        a.key.cmp(b.key).then_with(|| rest(a).cmp(&rest(b)))
    });
    let mut remaining = entries;
    while let Some(first) = remaining.first() {
        let key = first.key;
        let length = remaining.iter().take_while(|entry| entry.key == key).count();
        let (group, rest) = remaining.split_at_mut(length);
        judge(key, group);
        remaining = rest;
    }
}

/// Where each side ends in the sorted entries of a key.
fn sides<'e, 'a>(group: &'e mut [Entry<'a>]) -> [&'e mut [Entry<'a>]; 5] {
    let end = |side: Side| group.partition_point(|entry| entry.side <= side);
    let (source, refused, topic, landed) = (end(Side::Source), end(Side::Refused), end(Side::Topic), end(Side::Landed));
    let (group, dead_letters) = group.split_at_mut(landed);
    let (group, landed) = group.split_at_mut(topic);
    let (group, topic) = group.split_at_mut(refused);
    let (source, refused) = group.split_at_mut(source);
    [source, refused, topic, landed, dead_letters]
}

fn record_at(entry: &Entry<'_>) -> RecordAt {
    RecordAt { partition: entry.partition, offset: entry.position as i64 }
}

fn row_at(entry: &Entry<'_>) -> RowAt {
    RowAt { file: entry.file, row: entry.position }
}

/// When a source row that is not in the topic may be so without a loss.
#[derive(Debug, Clone, Copy)]
pub struct SourcePolicy {
    /// Watermarks from here on may not have been polled yet.
    pub young_from_us: i64,
    /// The topic may have dropped records of watermarks up to this one; none where it has dropped none.
    pub dropped_to_us: Option<i64>,
}

impl SourcePolicy {
    fn may_be_dropped(&self, watermark: Option<i64>) -> bool {
        self.dropped_to_us.is_some_and(|to| watermark.is_none_or(|watermark| watermark <= to))
    }
}

/// Source against topic: the present version of every row must be among the records of its key,
/// and no version may be there twice.
pub fn compare_captured(entries: &mut [Entry<'_>], policy: &SourcePolicy, outcome: &mut Outcome) {
    for_each_key(entries, |key, group| {
        let [source, refused, versions, ..] = sides(group);
        judge_source(key, source, refused, versions, policy, outcome);
        judge_repetitions(key, source, versions, outcome);
    });
}

fn same_transaction(source: &Entry<'_>, version: &Entry<'_>) -> bool {
    match (source.transaction, version.transaction) {
        (Some(source), Some(version)) => source as u32 == version as u32,
        _ => false,
    }
}

/// The rows of one key, of which there are several where it is no primary key.
fn judge_source(
    key: &[u8],
    source: &mut [Entry<'_>],
    refused: &[Entry<'_>],
    versions: &[Entry<'_>],
    policy: &SourcePolicy,
    outcome: &mut Outcome,
) {
    // A record that is one row explains no other.
    let mut free: Vec<&Entry<'_>> =
        versions.iter().filter(|version| source.iter().all(|row| row.row != version.row)).collect();
    let is_shared = source.len() > 1;
    source.sort_unstable_by_key(|row| (row.row, row.transaction));
    for rows in source.chunk_by(|a, b| a.row == b.row) {
        let equal: Vec<&Entry<'_>> = versions.iter().filter(|version| version.row == rows[0].row).collect();
        if let Some(first) = equal.first()
            && equal.iter().all(|version| version.fault == Fault::MessageKey)
        {
            outcome.add(key, Trouble::WrongMessageKey { record: record_at(first) });
        }
        // Rows that are equal in all columns have a record each.
        for row in rows.iter().skip(equal.len()) {
            judge_missing_row(key, row, is_shared, refused, &mut free, policy, outcome);
        }
    }
}

/// `free` are the records of the key that are none of its rows; each explains one row at most.
fn judge_missing_row(
    key: &[u8],
    row: &Entry<'_>,
    is_shared: bool,
    refused: &[Entry<'_>],
    free: &mut Vec<&Entry<'_>>,
    policy: &SourcePolicy,
    outcome: &mut Outcome,
) {
    // Newest first: with several records the last is what the row should be.
    let own = free.iter().rposition(|version| same_transaction(row, version));
    // Where rows share a key, an earlier version of one must not explain the loss of another.
    let same_watermark = || {
        let is_older = |version: &&Entry<'_>| row.watermark.is_some() && version.watermark == row.watermark;
        free.iter().rposition(is_older).filter(|_| !is_shared)
    };
    match own.or_else(same_watermark).map(|position| free.remove(position)) {
        Some(record) if own.is_some() && record.fault != Fault::OlderShape => {
            outcome.add(key, Trouble::CapturedWrong { record: record_at(record) });
        }
        Some(record) => outcome.add(key, Trouble::ChangedSinceRecord { record: record_at(record) }),
        None => match refused.last() {
            Some(refused) => *outcome.refused.entry(refused.identity).or_default() += 1,
            None if row.watermark.is_some_and(|watermark| watermark >= policy.young_from_us) => outcome.pending += 1,
            None if policy.may_be_dropped(row.watermark) => outcome.expired += 1,
            None => outcome.add(key, Trouble::NotCaptured { watermark: row.watermark }),
        },
    }
}

/// A version is the row and its transaction; without that header, the bytes of key and value.
fn judge_repetitions(key: &[u8], source: &[Entry<'_>], versions: &mut [Entry<'_>], outcome: &mut Outcome) {
    if versions.len() < 2 {
        return;
    }
    let version = |entry: &Entry<'_>| match entry.transaction {
        Some(transaction) => (entry.row, Some(transaction), 0),
        None => (entry.row, None, entry.identity),
    };
    versions.sort_unstable_by_key(|entry| (version(entry), entry.partition, entry.position));
    for run in versions.chunk_by(|a, b| version(a) == version(b)) {
        // Key columns that do not identify a row let equal rows of one transaction share them.
        let rows = source.iter().filter(|row| row.row == run[0].row && same_transaction(row, &run[0])).count();
        for again in run.iter().skip(rows.max(1)) {
            outcome.add(key, Trouble::CapturedTwice { first: record_at(&run[0]), again: record_at(again) });
        }
    }
}

/// The offsets that a file's name gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: i64,
    pub last: i64,
    /// Whether the file is one that the landing has written, as far as its ledger and its footer tell.
    pub is_vouched: bool,
    /// Whether its rows hold their record's place: equal ones are then one row twice, whatever the topic holds.
    pub says_places: bool,
    /// Whether it holds rows of records, too, that the topic had in a log which was truncated.
    pub is_cut: bool,
    /// Whether its rows were let in by other rules than those by which records are judged now.
    pub has_other_rules: bool,
}

/// The state of one partition when the topic's ends were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionState {
    pub first: i64,
    pub end: i64,
    /// Last offset below which all has landed, by the ledger; without one the greatest that any file of the
    /// partition names; none when nothing has landed.
    pub landed_to: Option<i64>,
    /// Of records before this offset nobody may know whether they have landed.
    pub unsure_to: i64,
}

#[derive(Debug, Default)]
pub struct LakePolicy {
    /// By file index, of data files and files of dead letters.
    pub spans: Vec<Span>,
    pub partitions: HashMap<i32, PartitionState>,
    pub young_from_us: i64,
    /// So many records were deleted at most before they had landed, and somebody has accepted that.
    pub deleted: u64,
}

impl LakePolicy {
    fn span(&self, row: &Entry<'_>) -> Span {
        self.spans.get(row.file as usize).copied().unwrap_or(Span {
            first: 0,
            last: i64::MAX,
            is_vouched: true,
            says_places: false,
            is_cut: false,
            has_other_rules: false,
        })
    }

    fn is_pending(&self, record: &Entry<'_>) -> bool {
        let landed_to = self.partitions.get(&record.partition).and_then(|partition| partition.landed_to);
        landed_to.is_none_or(|landed_to| record.position as i64 > landed_to)
    }

    fn is_unsure(&self, record: &Entry<'_>) -> bool {
        let partition = self.partitions.get(&record.partition);
        partition.is_some_and(|partition| (record.position as i64) < partition.unsure_to)
    }

    /// Whether the row's record may lie outside of what was read of the topic.
    fn is_outside(&self, row: &Entry<'_>) -> Outside {
        let (span, Some(partition)) = (self.span(row), self.partitions.get(&row.partition)) else {
            return Outside::No;
        };
        if !span.is_vouched {
            Outside::No
        } else if span.first < partition.first || span.is_cut {
            Outside::Expired
        } else if span.last >= partition.end {
            Outside::Newer
        } else {
            Outside::No
        }
    }
}

#[derive(PartialEq)]
enum Outside {
    No,
    Expired,
    Newer,
}

/// Topic against lake and dead letters: every record is exactly one row or one dead letter, equal
/// in all of it, and every row is a record.
pub fn compare_landed(entries: &mut [Entry<'_>], policy: &LakePolicy, outcome: &mut Outcome) {
    for_each_key(entries, |key, group| {
        let [source, refused, records, rows, dead_letters] = sides(group);
        let (missing, stray) = match_equal(key, records, rows, policy, outcome);
        judge_remainder(key, missing, stray, policy, outcome);
        if !source.is_empty() && refused.is_empty() {
            let landed: Vec<Entry<'_>> = rows.iter().chain(dead_letters.iter()).copied().collect();
            judge_expired_source(key, source, records, &landed, policy, outcome);
        }
    });
}

/// Takes away what is equal; gives what is left on either side, without what may be pending.
fn match_equal<'a>(
    key: &[u8],
    records: &mut [Entry<'a>],
    rows: &mut [Entry<'a>],
    policy: &LakePolicy,
    outcome: &mut Outcome,
) -> (Vec<Entry<'a>>, Vec<Entry<'a>>) {
    let content = |entry: &Entry<'_>| (entry.partition, entry.row);
    records.sort_unstable_by_key(|record| (content(record), record.position));
    rows.sort_unstable_by_key(|row| {
        let span = policy.span(row);
        (content(row), span.first, span.last, row.file, row.position)
    });
    let (mut missing, mut stray) = (Vec::new(), Vec::new());
    let (mut record_runs, mut row_runs) = (
        records.chunk_by(|a, b| content(a) == content(b)).peekable(),
        rows.chunk_by(|a, b| content(a) == content(b)).peekable(),
    );
    loop {
        match (record_runs.peek(), row_runs.peek()) {
            (None, None) => break,
            (Some(records), Some(rows)) if content(&records[0]) == content(&rows[0]) => {
                missing.extend(match_run(key, records, rows, policy, outcome));
                record_runs.next();
                row_runs.next();
            }
            (Some(records), rows) if rows.is_none_or(|rows| content(&records[0]) < content(&rows[0])) => {
                missing.extend_from_slice(records);
                record_runs.next();
            }
            (_, rows) => {
                let mut has_one = false;
                for row in rows.into_iter().flat_map(|rows| rows.iter()) {
                    let says_place = policy.span(row).says_places;
                    if says_place && has_one {
                        outcome.add(key, Trouble::LandedWithoutRecord { row: row_at(row) });
                    } else {
                        stray.push(*row);
                    }
                    has_one |= says_place;
                }
                row_runs.next();
            }
        }
    }
    missing.retain(|record| {
        let pending = policy.is_pending(record);
        outcome.pending += u64::from(pending);
        !pending
    });
    (missing, stray)
}

/// Records and rows of equal content: pairs them by the offsets of the files, gives the records
/// that are left.
fn match_run<'a>(
    key: &[u8],
    records: &[Entry<'a>],
    rows: &[Entry<'a>],
    policy: &LakePolicy,
    outcome: &mut Outcome,
) -> Vec<Entry<'a>> {
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    let (mut record_queue, mut row_queue) = (records.iter().peekable(), rows.iter().peekable());
    while let (Some(record), Some(row)) = (record_queue.peek(), row_queue.peek()) {
        let (offset, span) = (record.position as i64, policy.span(row));
        if offset < span.first {
            missing.extend(record_queue.next());
        } else if offset > span.last {
            extra.extend(row_queue.next());
        } else {
            if record.fault == Fault::Refusable && span.has_other_rules {
                outcome.by_other_rules += 1;
            } else if record.fault == Fault::Refusable {
                outcome.add(key, Trouble::LandedBad { record: record_at(record), row: row_at(row) });
            }
            if row.fault == Fault::Unfounded {
                outcome.add(key, Trouble::RefusedUnfounded { row: row_at(row) });
            }
            record_queue.next();
            row_queue.next();
        }
    }
    missing.extend(record_queue);
    extra.extend(row_queue);
    let elsewhere = missing.len().min(extra.len());
    for (record, row) in missing.drain(..elsewhere).zip(extra.drain(..elsewhere)) {
        outcome.add(key, Trouble::LandedElsewhere { record: record_at(record), row: row_at(row) });
    }
    for row in extra {
        match policy.is_outside(row) {
            Outside::Expired if policy.span(row).says_places => {
                outcome.add(key, Trouble::LandedTwice { record: record_at(&records[0]), again: row_at(row) });
            }
            Outside::No => {
                outcome.add(key, Trouble::LandedTwice { record: record_at(&records[0]), again: row_at(row) });
            }
            Outside::Expired => outcome.expired += 1,
            Outside::Newer => outcome.pending += 1,
        }
    }
    missing.into_iter().copied().collect()
}

fn judge_remainder(
    key: &[u8],
    missing: Vec<Entry<'_>>,
    mut stray: Vec<Entry<'_>>,
    policy: &LakePolicy,
    outcome: &mut Outcome,
) {
    stray.retain(|row| {
        match policy.is_outside(row) {
            Outside::No => return true,
            // What is wrong with it by itself is wrong without its record, too.
            Outside::Expired if row.fault == Fault::WrongDate => {
                outcome.add(key, Trouble::WrongDate { row: row_at(row) });
            }
            Outside::Expired if row.fault == Fault::Unfounded => {
                outcome.add(key, Trouble::RefusedUnfounded { row: row_at(row) });
            }
            Outside::Expired => outcome.expired += 1,
            Outside::Newer => outcome.pending += 1,
        }
        false
    });
    let mut stray = stray.into_iter();
    for record in missing {
        let record_at = record_at(&record);
        match stray.next() {
            Some(row) => outcome.add(key, Trouble::LandedWrong { record: record_at, row: row_at(&row) }),
            None if record.file > 0 => *outcome.dropped.entry(record.file).or_default() += 1,
            None if policy.is_unsure(&record) => outcome.passed_over += 1,
            None => outcome.add(key, Trouble::NotLanded { record: record_at }),
        }
    }
    for row in stray {
        outcome.add(key, Trouble::LandedWithoutRecord { row: row_at(&row) });
    }
}

/// Where the topic has dropped old records, the lake alone can say whether a row came through.
fn judge_expired_source(
    key: &[u8],
    source: &[Entry<'_>],
    records: &[Entry<'_>],
    landed: &[Entry<'_>],
    policy: &LakePolicy,
    outcome: &mut Outcome,
) {
    // As against the topic: of rows that share a key none is explained by an earlier version of another.
    let is_shared = source.len() > 1;
    for row in source {
        let seen = |entry: &&Entry<'_>| entry.identity == row.identity;
        let same_watermark =
            |entry: &&Entry<'_>| !is_shared && row.watermark.is_some() && entry.watermark == row.watermark;
        // Rows of young watermarks and of records in the topic were judged against the topic.
        let judged = row.watermark.is_some_and(|watermark| watermark >= policy.young_from_us)
            || records.iter().any(|record| seen(&record) || same_watermark(&record))
            || landed.iter().any(|landed| seen(&landed));
        if judged {
            continue;
        }
        match landed.iter().find(same_watermark) {
            Some(landed) => outcome.add(key, Trouble::ChangedSinceLanded { row: row_at(landed) }),
            None if row.file > 0 => *outcome.dropped.entry(row.file).or_default() += 1,
            None if outcome.deleted < policy.deleted => outcome.deleted += 1,
            None => outcome.add(key, Trouble::NotInLake { watermark: row.watermark }),
        }
    }
}

#[cfg(test)]
mod tests;
