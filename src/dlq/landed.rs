//! The dead letters of `land`: rows of Parquet files that a ledger vouches for.
//!
//! A ledger forgets the files of older commits and keeps the position: a file counts where its offsets lie
//! below it, or where it is of a topic that was made anew since. Of the last commit the files are named, and
//! count wherever the process that lands has got with renaming them. Staged files of no commit, and files
//! that somebody else put there, do not count, and are told of.

use super::{
    DlqError, Next, Take,
    filter::{Filter, Span},
    letter::{Body, Letter, Source},
    shared,
};
use crate::{
    config::model::LandTable,
    lake::{
        dead_letter::{self, Letters},
        ledger::{Recovery, Root},
        ledger_file::{Ledger, Ledgers},
        reader::{self, FileName, FileReader, TableFile},
    },
    record::time,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What the open files hold in memory together, about.
const READ_BYTES: usize = 8 << 20;

/// One table's letters.
pub struct Landed {
    source: Arc<Source>,
    topic: Arc<str>,
    /// Those of a partition and generation beside each other, in the order of their first offsets.
    files: Vec<LetterFile>,
}

struct LetterFile {
    path: PathBuf,
    /// Where it stands until it is renamed to `path`.
    staged: Option<PathBuf>,
    name: FileName,
    /// Kafka's id of the topic, for files that do not say it themselves.
    topic_id: Arc<str>,
    day: Option<i32>,
    bytes: u64,
}

impl Landed {
    pub fn open(pipeline: &str, table: &LandTable, warnings: &mut Vec<String>) -> Result<Landed, DlqError> {
        // First, for a ledger names what stands in the table before it stands there.
        let listing = reader::list(&table.dead_letter_path)?;
        let ledgers = ledgers(table, warnings)?;
        let mut landed = Landed {
            source: Arc::new(Source { pipeline: pipeline.to_owned(), stage: "land", job: None }),
            topic: table.topic.as_str().into(),
            files: Vec::new(),
        };
        let mut uncounted: Vec<PathBuf> = listing.foreign;
        for file in listing.files {
            match is_named(&file, table, &ledgers) {
                true => landed.add(&ledgers, file, None),
                false => uncounted.push(file.path),
            }
        }
        for (partition, ledger) in &ledgers {
            for pending in ledger.pending.iter().filter(|pending| pending.root == Root::DeadLetters) {
                let path = table.dead_letter_path.join(&pending.path);
                let name = path.file_name().and_then(|name| FileName::parse(&name.to_string_lossy()));
                let date = Path::new(&pending.path).parent().map(|parent| parent.to_string_lossy().into_owned());
                let Some(name) = name else { continue };
                let date = date.and_then(|date| date.strip_prefix("date=").map(str::to_owned));
                let staged = table.directory(*partition).join("staging").join(&pending.staged);
                landed.add(&ledgers, TableFile { path, date, name }, Some(staged));
            }
        }
        landed.files.sort_by(|a, b| a.place().cmp(&b.place()).then_with(|| a.path.cmp(&b.path)));
        // One that is renamed by now was listed, too.
        landed.files.dedup_by(|second, first| second.path == first.path);
        if let Some(first) = uncounted.first() {
            warnings.push(format!(
                "{} in {} are named by no ledger and do not count, such as {}",
                match uncounted.len() {
                    1 => "1 file".to_owned(),
                    count => format!("{count} files"),
                },
                table.dead_letter_path.display(),
                first.display()
            ));
        }
        Ok(landed)
    }

    fn add(&mut self, ledgers: &HashMap<i32, Recovery>, file: TableFile, staged: Option<PathBuf>) {
        let TableFile { path, date, name } = file;
        let progress = ledgers.get(&name.partition).and_then(|ledger| ledger.progress.as_ref());
        let known = progress.and_then(|progress| progress.topic_id_of(name.generation));
        let topic_id = known.map_or_else(|| format!("{}#{}", self.topic, name.generation).into(), Arc::from);
        let day = date.as_deref().and_then(|date| time::date(date.as_bytes()).ok());
        let bytes = fs::metadata(&path).map_or(0, |found| found.len());
        self.files.push(LetterFile { path, staged, name, topic_id, day, bytes });
    }

    fn chosen(&self, filter: &Filter) -> Vec<&LetterFile> {
        let is_chosen = |file: &&LetterFile| {
            let FileName { partition, first_offset: first, last_offset: last, .. } = file.name;
            filter.may_hold(&Span { topic: &self.topic, partition, first, last, day: file.day })
        };
        self.files.iter().filter(is_chosen).collect()
    }

    /// How many files are to be read, and their bytes.
    pub fn volume(&self, filter: &Filter) -> (u64, u64) {
        let files = self.chosen(filter);
        (files.len() as u64, files.iter().map(|file| file.bytes).sum())
    }

    pub fn read(&self, filter: &Filter, with_body: bool, take: &mut Take<'_>) -> Result<Next, DlqError> {
        let is_of_one = |a: &&LetterFile, b: &&LetterFile| a.partition() == b.partition();
        for files in self.chosen(filter).chunk_by(is_of_one) {
            if self.merge(files, with_body, take)? == Next::Stop {
                return Ok(Next::Stop);
            }
        }
        Ok(Next::Continue)
    }

    /// Gives the letters of a partition by their offsets. Files of a commit divide its offsets by day, and one
    /// that was merged reaches over those of the other days in between. So each is opened when all letters
    /// before its first offset were given, and closed after its last.
    fn merge(&self, files: &[&LetterFile], with_body: bool, take: &mut Take<'_>) -> Result<Next, DlqError> {
        let batch_bytes = READ_BYTES / most_open(files).max(1);
        let mut waiting = files.iter().enumerate().peekable();
        // By the offset of the letter at hand.
        let mut open: BTreeMap<(i64, usize), Cursor> = BTreeMap::new();
        loop {
            let least = open.first_key_value().map_or(i64::MAX, |((offset, _), _)| *offset);
            if let Some((n, file)) = waiting.next_if(|(_, file)| file.name.first_offset <= least) {
                let mut cursor = Cursor::open(file, with_body, batch_bytes)?;
                open.extend(cursor.next_offset()?.map(|offset| ((offset, n), cursor)));
                continue;
            }
            let Some(((_, n), mut cursor)) = open.pop_first() else { return Ok(Next::Continue) };
            if let Some(letter) = cursor.take(&self.source)?
                && take(letter)? == Next::Stop
            {
                return Ok(Next::Stop);
            }
            open.extend(cursor.next_offset()?.map(|offset| ((offset, n), cursor)));
        }
    }
}

impl LetterFile {
    /// Of each of these the offsets are one sequence.
    fn partition(&self) -> (i32, u32) {
        (self.name.partition, self.name.generation)
    }

    fn place(&self) -> (i32, u32, i64, i64) {
        (self.name.partition, self.name.generation, self.name.first_offset, self.name.last_offset)
    }
}

/// How many files, in the order of their first offsets, share an offset at most.
fn most_open(files: &[&LetterFile]) -> usize {
    let (mut ends, mut most) = (BinaryHeap::new(), 0);
    for FileName { first_offset, last_offset, .. } in files.iter().map(|file| &file.name) {
        while ends.peek().is_some_and(|Reverse(end)| end < first_offset) {
            ends.pop();
        }
        ends.push(Reverse(*last_offset));
        most = most.max(ends.len());
    }
    most
}

/// A file as far as it was read.
struct Cursor {
    path: PathBuf,
    reader: FileReader,
    with_body: bool,
    topic_id: Arc<str>,
    /// At hand; none at the end.
    letters: Option<Letters>,
    row: usize,
    topic: Option<Arc<str>>,
}

impl Cursor {
    fn open(file: &LetterFile, with_body: bool, batch_bytes: usize) -> Result<Cursor, DlqError> {
        let open = |path: &Path| FileReader::open_within(path, Some(&dead_letter::columns(with_body)), batch_bytes);
        let reader = match (open(&file.path), &file.staged) {
            // Not renamed yet. It was the right one only if that is still so, for the names of staged files
            // are used again.
            (Err(_), Some(staged)) => match open(staged) {
                Ok(opened) if !file.path.exists() => opened,
                _ => open(&file.path)?,
            },
            (opened, _) => opened?,
        };
        let topic_id = reader.topic_id().map_or_else(|| file.topic_id.clone(), Arc::from);
        Ok(Cursor { path: file.path.clone(), reader, with_body, topic_id, letters: None, row: 0, topic: None })
    }

    /// Offset of the letter at hand.
    fn next_offset(&mut self) -> Result<Option<i64>, DlqError> {
        while self.letters.as_ref().is_none_or(|letters| self.row >= letters.len()) {
            self.row = 0;
            let Some(batch) = self.reader.next() else {
                self.letters = None;
                return Ok(None);
            };
            self.letters = Some(Letters::new(&batch?, self.with_body, &self.path)?);
        }
        Ok(self.letters.as_ref().map(|letters| letters.offset(self.row)))
    }

    /// Takes the letter at hand.
    fn take(&mut self, source: &Arc<Source>) -> Result<Option<Letter>, DlqError> {
        let Some(letters) = &self.letters else { return Ok(None) };
        let stored = letters.letter(self.row);
        self.row += 1;
        let mut letter = Letter {
            source: source.clone(),
            topic: shared(&mut self.topic, stored.topic),
            topic_id: self.topic_id.clone(),
            partition: stored.partition,
            offset: stored.offset,
            reason: stored.reason.to_owned(),
            detail: stored.detail.to_owned(),
            refused_us: stored.refused_us,
            recorded_us: stored.recorded_us,
            body: Body::default(),
            replayed: None,
        };
        let bytes = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        letter.body = Body::stored(bytes(stored.payload), bytes(stored.key), stored.headers);
        Ok(Some(letter))
    }
}

/// What each partition's ledger says. One that cannot be read is told of, and vouches for nothing.
fn ledgers(table: &LandTable, warnings: &mut Vec<String>) -> Result<HashMap<i32, Recovery>, DlqError> {
    let Ledgers { read, unreadable } = Ledger::read_all(&table.checkpoint_location, &table.topic)?;
    warnings.extend(
        unreadable
            .into_iter()
            .map(|(partition, error)| format!("the dead letters of partition {partition} do not count: {error}")),
    );
    Ok(read)
}

/// Whether the partition's ledger vouches for a file.
fn is_named(file: &TableFile, table: &LandTable, ledgers: &HashMap<i32, Recovery>) -> bool {
    let progress = ledgers.get(&file.name.partition).and_then(|ledger| ledger.progress.as_ref());
    let Some(progress) = progress.filter(|_| file.name.topic == table.topic && file.date.is_some()) else {
        return false;
    };
    file.name.generation < progress.generation
        || (file.name.generation == progress.generation && file.name.last_offset < progress.next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::model::LandSchema,
        dlq::filter::Filter,
        lake::{
            TOPIC_ID,
            dead_letter::Batch,
            directory,
            ledger::{LedgerFile, Progress},
            parquet_file::Encoder,
        },
    };

    fn table(root: &Path) -> LandTable {
        LandTable {
            topic: "t".to_owned(),
            path: root.join("lake"),
            checkpoint_location: root.join("checkpoints"),
            dead_letter_path: root.join("dead"),
            schema: LandSchema::File(PathBuf::new()),
            date_column: String::new(),
            not_null: Vec::new(),
            non_negative: Vec::new(),
            numeric_precision: 38,
            numeric_scale: 18,
            overflow_column: None,
            metadata_columns: false,
            rename: Default::default(),
            allow_network_file_system: false,
        }
    }

    /// A file of letters with these offsets.
    fn write(path: &Path, topic_id: Option<&str>, offsets: &[i64]) {
        directory::create_synced(path.parent().unwrap()).unwrap();
        let metadata: Vec<_> = topic_id.map(|id| (TOPIC_ID, id.to_owned())).into_iter().collect();
        let encoder = Encoder::new(dead_letter::schema(), 1, &[], &metadata).unwrap();
        let mut writing = encoder.begin(path).unwrap();
        let mut batch = Batch::default();
        for offset in offsets {
            batch.push(&dead_letter::Letter {
                payload: Some(&[b'x'; 1 << 20]),
                topic: "t",
                reason: "null_key",
                detail: "",
                refused_us: 0,
                partition: 0,
                offset: *offset,
                recorded_us: Some(0),
                key: None,
                headers: None,
            });
        }
        writing.push(&batch.take().unwrap()).unwrap();
        writing.finish().unwrap();
    }

    fn commit(table: &LandTable, next: i64, generation: u32, epoch: u64, files: Vec<LedgerFile>) {
        directory::create_synced(&table.directory(0)).unwrap();
        let (mut ledger, _) = Ledger::open(&table.directory(0)).unwrap();
        let progress = Progress { topic_id: format!("id{generation}"), generation, epoch, next, ..Progress::default() };
        let is_pending = !files.is_empty();
        ledger.commit(progress, next - 10, files).unwrap();
        if !is_pending {
            ledger.done().unwrap();
        }
    }

    fn read(table: &LandTable, conditions: &str) -> (Vec<(String, i64)>, Vec<String>) {
        let (mut found, mut warnings, mut filter) = (Vec::new(), Vec::new(), Filter::default());
        if !conditions.is_empty() {
            filter.add(conditions).unwrap();
        }
        let landed = Landed::open("p", table, &mut warnings).unwrap();
        landed
            .read(&filter, true, &mut |letter| {
                found.push((letter.topic_id.to_string(), letter.offset));
                Ok(Next::Continue)
            })
            .unwrap();
        (found, warnings)
    }

    #[test]
    fn letters_come_by_their_offsets_under_the_id_of_their_topic() {
        let root = tempfile::tempdir().unwrap();
        let table = table(root.path());
        let file = |day: &str, name: &str| table.dead_letter_path.join(format!("date={day}/part-t-0-{name}.parquet"));
        // Of a build that did not note the topic's id: known while the ledger is of that topic.
        write(&file("1970-01-01", "0-9-0"), None, &[0, 3]);
        write(&file("1970-01-02", "0-9-1"), None, &[1, 2, 9]);
        commit(&table, 10, 0, 1, Vec::new());
        let id0 = |offsets: &[i64]| offsets.iter().map(|offset| ("id0".to_owned(), *offset)).collect::<Vec<_>>();
        assert_eq!(read(&table, ""), (id0(&[0, 1, 2, 3, 9]), vec![]));
        assert_eq!(read(&table, "day=1970-01-02").0, id0(&[1, 2, 9]), "the other file is not read");
        assert_eq!(read(&table, "offset>=10").0, []);

        // The topic made anew, and the last commit still in staging.
        let staged = LedgerFile {
            staged: "0.parquet".to_owned(),
            root: Root::DeadLetters,
            path: "date=1970-01-01/part-t-0-0-9-0-r1.parquet".to_owned(),
            rows: 1,
            bytes: 1,
            crc32c: 0,
        };
        write(&table.directory(0).join("staging/0.parquet"), Some("id1"), &[5]);
        write(&table.directory(0).join("staging/1.parquet"), Some("id1"), &[6]);
        commit(&table, 10, 1, 2, vec![staged]);
        write(&file("1970-01-01", "10-19-0-r1"), Some("id1"), &[15]);
        let (found, warnings) = read(&table, "");
        let old: Vec<(String, i64)> = [0, 1, 2, 3, 9].map(|offset| ("t#0".to_owned(), offset)).to_vec();
        assert_eq!(
            found,
            [old, vec![("id1".to_owned(), 5)]].concat(),
            "staged by no commit, or beyond it: not counted"
        );
        assert!(warnings.len() == 1 && warnings[0].contains("10-19-0-r1"), "{warnings:?}");
    }

    #[test]
    fn letters_of_merged_files_come_between_those_of_other_days() {
        let root = tempfile::tempdir().unwrap();
        let table = table(root.path());
        let file = |day: &str, name: &str| table.dead_letter_path.join(format!("date={day}/part-t-0-{name}.parquet"));
        write(&file("1970-01-01", "0-29-m3"), Some("id0"), &[1, 12, 25]);
        write(&file("1970-01-02", "0-9-1"), Some("id0"), &[0, 9]);
        write(&file("1970-01-02", "10-19-1"), Some("id0"), &[10, 19]);
        write(&file("1970-01-02", "20-29-1"), Some("id0"), &[24, 26]);
        write(&file("1970-01-03", "10-39-m2"), Some("id0"), &[11, 38]);
        write(&file("1970-01-03", "40-49-0"), Some("id0"), &[40]);
        commit(&table, 50, 0, 1, Vec::new());
        let offsets = |conditions: &str| -> Vec<i64> {
            let (found, warnings) = read(&table, conditions);
            assert_eq!(warnings, [] as [String; 0]);
            found.into_iter().map(|(_, offset)| offset).collect()
        };
        assert_eq!(offsets(""), [0, 1, 9, 10, 11, 12, 19, 24, 25, 26, 38, 40]);
        assert_eq!(offsets("day<=1970-01-02"), [0, 1, 9, 10, 12, 19, 24, 25, 26]);
        assert_eq!(offsets("offset>=30"), [11, 38, 40], "of the files that may hold such");
    }

    #[test]
    fn a_damaged_ledger_vouches_for_nothing_and_is_told_of() {
        let root = tempfile::tempdir().unwrap();
        let table = table(root.path());
        write(&table.dead_letter_path.join("date=1970-01-01/part-t-0-0-9-0.parquet"), None, &[0]);
        commit(&table, 10, 0, 1, Vec::new());
        let path = table.directory(0).join("ledger");
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (found, warnings) = read(&table, "");
        assert_eq!((found.len(), warnings.len()), (0, 2), "{warnings:?}");
        assert!(warnings[0].contains("partition 0 do not count") && warnings[0].contains("damaged"), "{warnings:?}");
    }
}
