//! Changing what has landed: a date's files replaced by others, or dropped, beside a landing that goes on.
//!
//! **One primitive.** [`Upkeep::replace`] makes a second directory of the date, with the new files and hard
//! links to every file that stays, and exchanges the two by one system call. So `compact` (some files become
//! one) and `expire` (some files become none) are the same step.
//!
//! **What a foreign reader sees** (Spark, DuckDB, a glob of `*.parquet`): one that lists the date sees all of
//! the old files or all of the new ones, never a row twice or missing, for the exchange is atomic. One that
//! listed before it and opens a file after it is told that the file is not there, and has to list again. A date
//! that was dropped is empty for a moment before its directory goes. Where a landing publishes a file into
//! the date in the very moment between the links and the exchange, that file is out of sight for the length
//! of a rename. File systems that cannot exchange directories (NFS, some FUSE) are refused: there is no
//! order of renames and deletions of several files that is right for readers.
//!
//! **Beside the ledger.** A landing holds its partitions' locks for as long as it runs, so this takes others:
//! the kernel's lock on the roots of the table and of its dead letters. Ledgers are only read. A landing
//! never touches a file that it has published, with one exception: the files of a commit whose "done" is
//! not durable are looked for again when it is rolled forward. [`Upkeep::settled`] leaves these alone.
//!
//! **Kills.** The swap is noted, durably, before anything of it is made; the exchange is the commit. Whoever
//! comes next (the next compact or expire, or a landing, also one that runs) finishes it: the directory that is
//! out of the table holds either the old files, when the exchange happened, or the new ones, when it did not,
//! and goes in both cases. Only what the note names is deleted; whatever else stands there, or comes there while
//! it is emptied, was published meanwhile and goes back into the table.
//!
//! `<checkpoint_location>/<topic>.upkeep/` holds the note (`state`), the directory to exchange (`swap`), and
//! how much was ever dropped, which is all by which `verify` can tell an expired row from a lost one.

use super::{
    LakeError, directory, disk,
    ledger::{Recovery, Root},
    ledger_file::Ledger,
    reader::{self, FileName, TableFile},
};
use crate::{config::model::LandTable, failpoint};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    ffi::{CString, OsString},
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

const FORMAT: u32 = 1;

/// Where a landed topic stands.
#[derive(Debug, Clone)]
pub struct Place {
    pub topic: String,
    pub checkpoints: PathBuf,
    pub table: PathBuf,
    pub dead_letters: PathBuf,
    /// Whether locks and renames are trusted wherever it stands.
    pub is_trusted: bool,
}

impl Place {
    pub fn of(table: &LandTable) -> Place {
        Place {
            topic: table.topic.clone(),
            checkpoints: table.checkpoint_location.clone(),
            table: table.path.clone(),
            dead_letters: table.dead_letter_path.clone(),
            is_trusted: table.allow_network_file_system,
        }
    }

    pub fn root(&self, root: Root) -> &Path {
        match root {
            Root::Table => &self.table,
            Root::DeadLetters => &self.dead_letters,
        }
    }

    /// Fails where it cannot be locked and renamed in safely.
    pub fn check(&self) -> Result<(), LakeError> {
        match self.is_trusted {
            true => Ok(()),
            false => disk::check_local([&self.table, &self.checkpoints, &self.dead_letters]),
        }
    }

    fn directory(&self) -> PathBuf {
        self.checkpoints.join(format!("{}.upkeep", self.topic))
    }

    fn state(&self) -> PathBuf {
        self.directory().join("state")
    }

    /// The directory that is exchanged with one of a date; there only while a compact or expire is at work, or
    /// was killed.
    pub fn swap(&self) -> PathBuf {
        self.directory().join("swap")
    }

    /// `<checkpoint_location>/<topic>-<partition>`
    pub fn ledger_directory(&self, partition: i32) -> PathBuf {
        self.checkpoints.join(format!("{}-{partition}", self.topic))
    }
}

/// What was ever dropped of a root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Dates before this one, `YYYY-MM-DD`; none where nothing was.
    pub before: Option<String>,
    pub rows: u64,
    /// The same rows by their date. What a program dropped that did not note this is in the sum alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dates: BTreeMap<String, Went>,
}

/// What went of one date.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Went {
    pub rows: u64,
    /// By partition: the generation and the last offset of the newest file that went. What lies beyond came later.
    pub to: BTreeMap<i32, (u32, i64)>,
}

impl Went {
    /// Counts a file of so many rows.
    pub fn add(&mut self, file: &FileName, rows: u64) {
        self.rows += rows;
        self.reach(file.partition, (file.generation, file.last_offset));
    }

    fn reach(&mut self, partition: i32, to: (u32, i64)) {
        let reached = self.to.entry(partition).or_insert(to);
        *reached = to.max(*reached);
    }
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.before = self.before.take().max(other.before.clone());
        self.rows += other.rows;
        for (date, went) in &other.dates {
            let sum = self.dates.entry(date.clone()).or_default();
            sum.rows += went.rows;
            went.to.iter().for_each(|(partition, to)| sum.reach(*partition, *to));
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub table: Tally,
    pub dead_letters: Tally,
}

impl Dropped {
    fn of(&mut self, root: Root) -> &mut Tally {
        match root {
            Root::Table => &mut self.table,
            Root::DeadLetters => &mut self.dead_letters,
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    format: u32,
    #[serde(default)]
    dropped: Dropped,
    /// A swap that was begun.
    open: Option<Swap>,
}

/// What every format begins with.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Swap {
    root: Root,
    date: String,
    new: Vec<String>,
    old: Vec<String>,
    /// Of others, or not to be touched: they stand in both directories.
    linked: Vec<String>,
    /// What goes with `old`, where nothing takes its place.
    dropped: Option<Tally>,
}

/// The file of the note, for backups.
pub fn note_path(place: &Place) -> PathBuf {
    place.state()
}

/// How much was dropped of a topic's table, read without any lock; what is just being dropped included.
pub fn dropped(place: &Place) -> Result<Dropped, LakeError> {
    let state = read_state(&place.state())?;
    let mut dropped = state.dropped;
    if let Some(Swap { root, dropped: Some(tally), .. }) = state.open {
        dropped.of(root).add(&tally);
    }
    Ok(dropped)
}

/// Finishes what a killed compact or expire has left, unless one is at work now. Costs next to nothing where
/// nothing is left.
pub fn recover(place: &Place) -> Result<(), LakeError> {
    let is_left = place.swap().exists() || place.directory().join("new").exists();
    if !is_left && read_state(&place.state())?.open.is_none() {
        return Ok(());
    }
    match Upkeep::open(place.clone()) {
        Ok(_) | Err(LakeError::UpkeepBusy { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn read_state(path: &Path) -> Result<State, LakeError> {
    let unreadable = |what: String| LakeError::UpkeepState { path: path.to_owned(), what };
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State { format: FORMAT, ..State::default() }),
        Err(error) => Err(LakeError::io("read", path)(error)),
        Ok(bytes) => {
            let Versioned { format } = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
            if format > FORMAT {
                return Err(LakeError::UpkeepNewer { path: path.to_owned(), found: format, known: FORMAT });
            }
            serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))
        }
    }
}

/// The right to change what has landed of one topic. One process at a time has it for a root.
pub struct Upkeep {
    place: Place,
    directory: PathBuf,
    state: State,
    _locks: Vec<File>,
}

impl Upkeep {
    /// Takes the roots' locks and finishes what was left.
    pub fn open(place: Place) -> Result<Upkeep, LakeError> {
        place.check()?;
        let directory = place.directory();
        directory::create_synced(&directory)?;
        let mut locks = Vec::new();
        let roots: BTreeSet<&Path> = BTreeSet::from([place.table.as_path(), place.dead_letters.as_path()]);
        for root in roots.into_iter().filter(|root| root.is_dir()) {
            let file = File::open(root).map_err(LakeError::io("open", root))?;
            match file.try_lock() {
                Ok(()) => locks.push(file),
                Err(TryLockError::WouldBlock) => return Err(LakeError::UpkeepBusy { root: root.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(LakeError::io("lock", root)(source)),
            }
            directory::check_same_file_system(&directory, root)?;
        }
        let state = read_state(&place.state())?;
        let mut upkeep = Upkeep { place, directory, state, _locks: locks };
        if upkeep.state.open.is_some() {
            tracing::info!(topic = upkeep.place.topic, "finishing a compact or expire that was killed");
            upkeep.finish()?;
        }
        upkeep.drop_unnoted()?;
        if let Some(name) = entries(&upkeep.swap())?.into_iter().next() {
            return Err(LakeError::UpkeepUnknown { directory: upkeep.swap(), file: name.display().to_string() });
        }
        remove_empty(&upkeep.swap())?;
        clear(&upkeep.directory.join("new"))?;
        Ok(upkeep)
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    fn swap(&self) -> PathBuf {
        self.place.swap()
    }

    /// An empty directory for new files, on the file system of the table.
    pub fn workspace(&self) -> Result<PathBuf, LakeError> {
        let path = self.directory.join("new");
        clear(&path)?;
        directory::create_synced(&path)?;
        Ok(path)
    }

    /// The topic's files under a root, by date and in the order of their offsets, that no landing looks
    /// for again. Fails where a file is not vouched for by a ledger.
    pub fn settled(&self, root: Root) -> Result<BTreeMap<String, Vec<TableFile>>, LakeError> {
        // Listed first: what is listed was committed before the ledger is read.
        let listing = reader::list(self.place.root(root)).map_err(LakeError::Read)?;
        let mut ledgers = BTreeMap::new();
        let mut dates: BTreeMap<String, Vec<TableFile>> = BTreeMap::new();
        for file in listing.files.into_iter().filter(|file| file.name.topic == self.place.topic) {
            let Some(date) = file.date.clone() else { continue };
            let partition = file.name.partition;
            if let Entry::Vacant(vacant) = ledgers.entry(partition) {
                vacant.insert(Ledger::look(&self.place.ledger_directory(partition))?);
            }
            let Some(Recovery { progress: Some(progress), pending, .. }) =
                ledgers.get(&partition).and_then(Option::as_ref)
            else {
                let ledger = self.place.ledger_directory(partition).join("ledger");
                return Err(LakeError::ForeignFiles { ledger, file: file.path });
            };
            let name = (file.name.generation, file.name.last_offset);
            if name.0 > progress.generation || (name.0 == progress.generation && name.1 >= progress.next) {
                return Err(LakeError::NotVouched { file: file.path, next: progress.next });
            }
            if !pending.iter().any(|pending| pending.root == root && file.path.ends_with(&pending.path)) {
                dates.entry(date).or_default().push(file);
            }
        }
        Ok(dates)
    }

    /// An older program made the directory to exchange before it noted that. Where it was killed in between there are
    /// links to files of a date, and merged files whose rows stand in the table as they did: in it these would be twice.
    fn drop_unnoted(&self) -> Result<(), LakeError> {
        let swap = self.swap();
        for name in entries(&swap)? {
            let path = swap.join(&name);
            let is_merged = name.to_str().and_then(FileName::parse).is_some_and(|name| name.is_merged);
            if is_merged || self.is_linked(&path, &name)? {
                tracing::info!(file = %path.display(), "deleting what a compact or expire had prepared when it was killed");
                fs::remove_file(&path).map_err(LakeError::io("delete", path))?;
            }
        }
        Ok(())
    }

    /// Whether a date has it under the same name: that very file, not one like it.
    fn is_linked(&self, path: &Path, name: &OsString) -> Result<bool, LakeError> {
        let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino()));
        let own = identity(path).map_err(LakeError::io("look at", path))?;
        for root in [&self.place.table, &self.place.dead_letters] {
            let mut dates = entries(root)?.into_iter().map(|date| root.join(date).join(name));
            if dates.any(|other| identity(&other).is_ok_and(|other| other == own)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts `new` files, which are durable in the workspace, in the place of the `old` ones of a date. With
    /// `dropped` the old rows are gone for good, and that is noted. After an error the next opening ends it.
    pub fn replace(
        &mut self,
        root: Root,
        date: &str,
        new: &[(PathBuf, String)],
        old: &[String],
        dropped: Option<Tally>,
    ) -> Result<(), LakeError> {
        let (target, swap) = (self.target(root, date), self.swap());
        let failed = |source| LakeError::Io { action: "replace the files of", path: target.clone(), source };
        let linked: Vec<String> = names(&target)?.into_iter().filter(|name| !old.contains(name)).collect();
        failpoint::hit("upkeep.before_note").map_err(failed)?;
        let named = new.iter().map(|(_, name)| name.clone()).collect();
        let old = old.to_vec();
        self.state.open = Some(Swap { root, date: date.to_owned(), new: named, old, linked: linked.clone(), dropped });
        self.write_state()?;
        failpoint::hit("upkeep.after_note").map_err(failed)?;
        fs::create_dir(&swap).map_err(LakeError::io("create directory", &swap))?;
        let mode = fs::metadata(&target).map_err(failed)?.permissions();
        fs::set_permissions(&swap, mode).map_err(failed)?;
        for (path, name) in new {
            fs::rename(path, swap.join(name)).map_err(failed)?;
        }
        for name in &linked {
            fs::hard_link(target.join(name), swap.join(name)).map_err(LakeError::io("link", target.join(name)))?;
        }
        directory::sync(&swap)?;
        directory::sync(&self.directory)?;
        failpoint::hit("upkeep.before_exchange").map_err(failed)?;
        exchange(&swap, &target).map_err(|source| LakeError::Exchange { path: target.clone(), source })?;
        directory::sync(self.place.root(root))?;
        directory::sync(&self.directory)?;
        failpoint::hit("upkeep.after_exchange").map_err(failed)?;
        self.finish()
    }

    fn target(&self, root: Root, date: &str) -> PathBuf {
        self.place.root(root).join(format!("date={date}"))
    }

    /// Deletes the directory that is out of the table, whichever that is.
    fn finish(&mut self) -> Result<(), LakeError> {
        let Some(swap) = self.state.open.clone() else { return Ok(()) };
        let (target, aside) = (self.target(swap.root, &swap.date), self.swap());
        let failed = |source| LakeError::Io { action: "clean up after", path: target.clone(), source };
        let stand = |names: &[String]| names.iter().all(|name| target.join(name).exists());
        let is_done = !swap.old.iter().any(|name| target.join(name).exists()) && stand(&swap.new);
        if !is_done && !stand(&swap.old) {
            let what = format!("{} holds neither all of the old files nor all of the new ones", target.display());
            return Err(LakeError::UpkeepState { path: self.place.state(), what });
        }
        put_away(&aside, &target, &swap)?;
        directory::sync(&self.directory)?;
        failpoint::hit("upkeep.before_done").map_err(failed)?;
        if let Some(tally) = swap.dropped.filter(|_| is_done) {
            self.state.dropped.of(swap.root).add(&tally);
            // Only where it is empty.
            if fs::remove_dir(&target).is_ok() {
                directory::sync(self.place.root(swap.root))?;
            }
        }
        self.state.open = None;
        self.write_state()
    }

    fn write_state(&self) -> Result<(), LakeError> {
        let (path, temporary) = (self.place.state(), self.directory.join("state.tmp"));
        let bytes = serde_json::to_vec(&self.state)?;
        let written = (|| {
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        })();
        written.map_err(LakeError::io("write", &path))?;
        directory::sync(&self.directory)
    }
}

fn names(directory: &Path) -> Result<Vec<String>, LakeError> {
    let failed = |source| LakeError::Io { action: "list", path: directory.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string();
        let is_file = entry.file_type().map_err(failed)?.is_file();
        match name {
            Ok(name) if is_file => names.push(name),
            _ => return Err(LakeError::NotAFile { path: entry.path() }),
        }
    }
    names.sort();
    Ok(names)
}

/// What stands in a directory; nothing where it is not there.
fn entries(directory: &Path) -> Result<Vec<OsString>, LakeError> {
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect()),
    };
    listed.map_err(LakeError::io("list", directory))
}

/// Deletes a directory that is empty, where it is there; false where it is not empty.
fn remove_empty(directory: &Path) -> Result<bool, LakeError> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LakeError::io("delete", directory)(error)),
        _ => Ok(true),
    }
}

/// Deletes our workspace, in which nobody else writes.
fn clear(workspace: &Path) -> Result<(), LakeError> {
    for name in entries(workspace)? {
        let path = workspace.join(name);
        fs::remove_file(&path).map_err(LakeError::io("delete", path))?;
    }
    remove_empty(workspace).map(drop)
}

/// Deletes `aside`, of its files those that the swap names. Anything else was published while the swap was made,
/// or is published even now by somebody who had opened the directory before the exchange: it goes into `target`.
fn put_away(aside: &Path, target: &Path, swap: &Swap) -> Result<(), LakeError> {
    let named: BTreeSet<&str> =
        [&swap.old, &swap.new, &swap.linked].into_iter().flatten().map(String::as_str).collect();
    let is_named = |name: &OsString| name.to_str().is_some_and(|name| named.contains(name));
    let mut deleted = 0;
    loop {
        // Those of others first: they are missing from the table.
        let (ours, others): (Vec<_>, Vec<_>) = entries(aside)?.into_iter().partition(is_named);
        for name in &others {
            directory::create_synced(target)?;
            let (from, to) = (aside.join(name), target.join(name));
            rename(&from, &to, libc::RENAME_NOREPLACE).map_err(LakeError::io("put back into the table", &from))?;
        }
        if !others.is_empty() {
            directory::sync(target)?;
        }
        for name in &ours {
            let path = aside.join(name);
            if deleted > 0 {
                failpoint::hit("upkeep.mid_delete").map_err(LakeError::io("delete", &path))?;
            }
            fs::remove_file(&path).map_err(LakeError::io("delete", path))?;
            deleted += 1;
        }
        if remove_empty(aside)? {
            return Ok(());
        }
    }
}

/// Each path names afterwards what the other did; atomic.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    rename(one, other, libc::RENAME_EXCHANGE)
}

fn rename(one: &Path, other: &Path, flags: libc::c_uint) -> io::Result<()> {
    let [one, other] = [one, other].map(|path| CString::new(path.as_os_str().as_bytes()));
    let (one, other) = (one?, other?);
    // SAFETY: a plain system call on two texts that end in NUL and outlive it.
    let result = unsafe {
        libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, one.as_ptr(), libc::AT_FDCWD, other.as_ptr(), flags)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Milliseconds since 1970 at which a file was last written.
pub fn written_ms(path: &Path) -> Result<i64, LakeError> {
    let data = fs::metadata(path).map_err(LakeError::io("look at", path))?;
    Ok(data.mtime() * 1_000 + data.mtime_nsec() / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        directory: tempfile::TempDir,
        place: Place,
    }

    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let under = |name: &str| directory.path().join(name);
        let place = Place {
            topic: "t".into(),
            checkpoints: under("checkpoints"),
            table: under("table"),
            dead_letters: under("dead"),
            is_trusted: false,
        };
        fs::create_dir_all(place.table.join("date=2025-01-15")).unwrap();
        fs::create_dir_all(&place.dead_letters).unwrap();
        for name in ["a", "b", "other"] {
            fs::write(place.table.join("date=2025-01-15").join(name), name).unwrap();
        }
        Scene { directory, place }
    }

    impl Scene {
        fn names(&self) -> Vec<String> {
            names(&self.place.table.join("date=2025-01-15")).unwrap()
        }

        fn old() -> [String; 2] {
            ["a".into(), "b".into()]
        }
    }

    /// The file is never made anew: such notes lie beside lakes.
    #[test]
    fn the_stored_note_of_format_1_is_read_and_still_written_so() {
        let stored = include_str!("upkeep.1.json");
        let scene = scene();
        fs::create_dir_all(scene.place.directory()).unwrap();
        fs::write(scene.place.state(), stored).unwrap();
        let state = read_state(&scene.place.state()).unwrap();
        let swap = state.open.clone().unwrap();
        assert_eq!((swap.root, swap.date.as_str()), (Root::Table, "2025-01-15"));
        assert_eq!((swap.new, swap.old), (vec!["ab".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
        let tally = |before: &str, rows| Tally { before: Some(before.to_owned()), rows, ..Tally::default() };
        let expected = Dropped { table: tally("2024-12-01", 70_000), dead_letters: tally("2024-11-01", 3) };
        assert_eq!(state.dropped, expected);
        assert_eq!(serde_json::to_string(&state).unwrap(), stored.trim_end());
    }

    #[test]
    fn a_note_of_a_newer_program_is_refused_by_its_format() {
        let scene = scene();
        fs::create_dir_all(scene.place.directory()).unwrap();
        fs::write(scene.place.state(), r#"{"format":9,"open":"something else"}"#).unwrap();
        for refused in [Upkeep::open(scene.place.clone()).err(), recover(&scene.place).err()] {
            assert!(matches!(refused, Some(LakeError::UpkeepNewer { found: 9, .. })), "{refused:?}");
        }
    }

    #[test]
    fn files_are_replaced_and_what_is_not_named_stays() {
        let scene = scene();
        let mut upkeep = Upkeep::open(scene.place.clone()).unwrap();
        let new = upkeep.workspace().unwrap().join("0");
        fs::write(&new, "ab").unwrap();
        upkeep.replace(Root::Table, "2025-01-15", &[(new, "ab".into())], &Scene::old(), None).unwrap();
        assert_eq!(scene.names(), ["ab", "other"]);
        assert_eq!(dropped(&scene.place).unwrap(), Dropped::default());
        assert!(matches!(Upkeep::open(scene.place.clone()), Err(LakeError::UpkeepBusy { .. })));
    }

    #[test]
    fn what_is_dropped_is_remembered_and_an_empty_date_goes() {
        let scene = scene();
        let tally = |before: &str, rows, last: i64| {
            let mut went = Went::default();
            went.add(&FileName::parse(&format!("part-t-0-0-{last}-0.parquet")).unwrap(), rows);
            Tally { before: Some(before.into()), rows, dates: BTreeMap::from([("2025-01-15".to_owned(), went)]) }
        };
        let mut upkeep = Upkeep::open(scene.place.clone()).unwrap();
        upkeep.replace(Root::Table, "2025-01-15", &[], &Scene::old(), Some(tally("2025-02-01", 7, 19))).unwrap();
        assert_eq!(scene.names(), ["other"]);
        let rest = ["other".to_owned()];
        upkeep.replace(Root::Table, "2025-01-15", &[], &rest, Some(tally("2025-01-20", 1, 9))).unwrap();
        assert!(!scene.place.table.join("date=2025-01-15").exists());
        assert_eq!(dropped(&scene.place).unwrap().table, tally("2025-02-01", 8, 19));
    }

    #[test]
    fn a_file_published_before_the_exchange_comes_back() {
        let scene = scene();
        let mut upkeep = Upkeep::open(scene.place.clone()).unwrap();
        // As after a kill behind the exchange: the old directory stands aside, with a file more.
        let aside = upkeep.swap();
        fs::rename(scene.place.table.join("date=2025-01-15"), &aside).unwrap();
        fs::create_dir(scene.place.table.join("date=2025-01-15")).unwrap();
        fs::write(scene.place.table.join("date=2025-01-15/ab"), "ab").unwrap();
        fs::hard_link(aside.join("other"), scene.place.table.join("date=2025-01-15/other")).unwrap();
        fs::write(aside.join("late"), "late").unwrap();
        upkeep.state.open = Some(Swap {
            root: Root::Table,
            date: "2025-01-15".into(),
            new: vec!["ab".into()],
            old: Scene::old().to_vec(),
            linked: vec!["other".into()],
            dropped: None,
        });
        upkeep.write_state().unwrap();
        drop(upkeep);
        recover(&scene.place).unwrap();
        assert_eq!(scene.names(), ["ab", "late", "other"]);
        assert!(!aside.exists());
        assert!(read_state(&scene.place.state()).unwrap().open.is_none());
    }

    /// As an older program left it, which prepared a swap before it noted it.
    #[test]
    fn what_was_prepared_and_never_noted_goes_and_nothing_else() {
        let scene = scene();
        let date = scene.place.table.join("date=2025-01-15");
        let swap = scene.place.swap();
        fs::create_dir_all(&swap).unwrap();
        fs::hard_link(date.join("other"), swap.join("other")).unwrap();
        fs::write(swap.join("part-t-0-0-19-m1.parquet"), "ab").unwrap();
        recover(&scene.place).unwrap();
        assert_eq!((scene.names(), swap.exists()), (vec!["a".into(), "b".into(), "other".into()], false));
        // Equal to one of the table, and no link to it; and one that is nowhere else.
        for name in ["b", "part-t-0-20-29-0.parquet"] {
            fs::create_dir_all(&swap).unwrap();
            fs::write(swap.join(name), "b").unwrap();
            assert!(matches!(recover(&scene.place), Err(LakeError::UpkeepUnknown { .. })), "{name}");
            fs::remove_file(swap.join(name)).unwrap();
        }
    }

    #[test]
    fn a_swap_that_was_only_noted_is_undone_and_a_strange_one_is_left_alone() {
        let scene = scene();
        let mut upkeep = Upkeep::open(scene.place.clone()).unwrap();
        fs::create_dir(upkeep.swap()).unwrap();
        fs::write(upkeep.swap().join("ab"), "ab").unwrap();
        upkeep.state.open = Some(Swap {
            root: Root::Table,
            date: "2025-01-15".into(),
            new: vec!["ab".into()],
            old: Scene::old().to_vec(),
            linked: Vec::new(),
            dropped: None,
        });
        upkeep.write_state().unwrap();
        fs::remove_file(scene.place.table.join("date=2025-01-15/b")).unwrap();
        drop(upkeep);
        assert!(matches!(recover(&scene.place), Err(LakeError::UpkeepState { .. })));
        fs::write(scene.place.table.join("date=2025-01-15/b"), "b").unwrap();
        recover(&scene.place).unwrap();
        assert_eq!(scene.names(), ["a", "b", "other"]);
        drop(scene.directory);
    }
}
