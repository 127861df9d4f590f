//! A partition's lock, ledger and staging together: what a commit is made of.

use super::{
    LakeError, directory,
    ledger::{LedgerFile, Progress, Root},
    ledger_file::Ledger,
    lock::{self, Attempt, Holder, Lock},
    reader::FileName,
};
use crate::failpoint;
use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// Where the data and the progress of one partition stand.
#[derive(Debug, Clone)]
pub struct Location {
    /// `<checkpoint_location>/<topic>-<partition>`
    pub directory: PathBuf,
    pub table: PathBuf,
    pub dead_letters: PathBuf,
    /// Where a compact or expire keeps a date's directory while it exchanges it.
    pub aside: PathBuf,
    /// Files of this partition are called `<prefix><first>-<last>-<n>…`.
    pub file_prefix: String,
}

impl Location {
    fn root(&self, root: Root) -> &Path {
        match root {
            Root::Table => &self.table,
            Root::DeadLetters => &self.dead_letters,
        }
    }

    fn staging(&self) -> PathBuf {
        self.directory.join("staging")
    }
}

/// The partitions that have files in a table, found by one walk over it when it is first asked: a walk for each new
/// partition of hundreds would read a large lake hundreds of times. Good for as long as no ledger is taken away.
#[derive(Default)]
pub struct Walk {
    /// A file of each partition, by its prefix.
    found: Option<HashMap<String, PathBuf>>,
}

impl Walk {
    /// A file of the partition in the table or its dead letters, if there is one.
    fn file_of(&mut self, location: &Location) -> Result<Option<&PathBuf>, LakeError> {
        if self.found.is_none() {
            let mut found = HashMap::new();
            for root in [&location.table, &location.dead_letters] {
                walk(root, &mut found)?;
            }
            self.found = Some(found);
        }
        Ok(self.found.as_ref().and_then(|found| found.get(&location.file_prefix)))
    }
}

pub enum Opened {
    Ready(Box<Store>),
    Busy(Option<Holder>),
}

/// The write side of a partition. Whoever has one holds the partition's lock.
pub struct Store {
    location: Location,
    staging: PathBuf,
    ledger: Ledger,
    pending: Vec<LedgerFile>,
    _lock: Lock,
}

impl Store {
    /// Takes the lock, recovers the ledger, rolls the last commit forward, and empties staging.
    pub fn open(location: Location, walk: &mut Walk) -> Result<Opened, LakeError> {
        directory::create_synced(&location.directory)?;
        let lock = match lock::acquire(&location.directory)? {
            Attempt::Held(lock) => lock,
            Attempt::Busy(holder) => return Ok(Opened::Busy(holder)),
        };
        let staging = location.staging();
        for path in [&staging, &location.table, &location.dead_letters] {
            directory::create_synced(path)?;
        }
        directory::check_same_file_system(&staging, &location.table)?;
        directory::check_same_file_system(&staging, &location.dead_letters)?;
        let (ledger, pending) = Ledger::open(&location.directory)?;
        if ledger.progress().is_none()
            && let Some(file) = walk.file_of(&location)?
        {
            return Err(LakeError::ForeignFiles { ledger: ledger.path().to_owned(), file: file.clone() });
        }
        let mut store = Store { location, staging, ledger, pending, _lock: lock };
        if !store.pending.is_empty() {
            tracing::info!(files = store.pending.len(), ledger = %store.ledger.path().display(), "rolling a commit forward");
            store.check_staged()?;
            store.publish()?;
        }
        store.empty_staging()?;
        Ok(Opened::Ready(Box::new(store)))
    }

    pub fn progress(&self) -> Option<&Progress> {
        self.ledger.progress()
    }

    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// Makes `files`, which are all durable in staging, part of the table, and `progress` the
    /// progress. After an error neither has happened.
    pub fn commit(&mut self, progress: Progress, first: i64, files: Vec<LedgerFile>) -> Result<(), LakeError> {
        if !files.is_empty() {
            directory::sync(&self.staging)?;
        }
        self.ledger.commit(progress, first, files.clone())?;
        self.pending = files;
        failpoint::hit("land.after_ledger_sync").map_err(LakeError::io("publish", &self.staging))
    }

    /// Before a roll-forward: what is still staged must be what was committed.
    fn check_staged(&self) -> Result<(), LakeError> {
        for file in &self.pending {
            let path = self.staging.join(&file.staged);
            let Ok(found) = fs::metadata(&path) else { continue };
            if found.len() != file.bytes || file_crc32c(&path)? != file.crc32c {
                return Err(LakeError::MissingFile { path });
            }
        }
        Ok(())
    }

    /// Moves the committed files to where readers look. After an error it is to be done again, by
    /// opening the store anew.
    pub fn publish(&mut self) -> Result<(), LakeError> {
        let failed = |source| LakeError::Io { action: "publish", path: self.staging.clone(), source };
        let mut touched = BTreeSet::new();
        for (index, file) in self.pending.iter().enumerate() {
            if index > 0 {
                failpoint::hit("land.mid_rename").map_err(failed)?;
            }
            let staged = self.staging.join(&file.staged);
            let path = self.location.root(file.root).join(&file.path);
            let parent = path.parent().unwrap_or(Path::new(".")).to_owned();
            // Looked for first, for it goes from there into the table.
            let is_aside = path.file_name().is_some_and(|name| self.location.aside.join(name).exists());
            match fs::metadata(&staged) {
                Ok(_) => {
                    if touched.insert(parent.clone()) {
                        directory::create_synced(&parent)?;
                    }
                    fs::rename(&staged, &path).map_err(LakeError::io("rename a file to", &path))?;
                }
                Err(_) if fs::metadata(&path).is_ok_and(|found| found.len() == file.bytes) => {
                    touched.insert(parent);
                }
                // Published in the moment of an exchange: whoever finishes that puts it back.
                Err(source) if is_aside => {
                    return Err(LakeError::Io { action: "find, before a compact or expire has ended,", path, source });
                }
                Err(_) => return Err(LakeError::MissingFile { path }),
            }
        }
        failpoint::hit("land.after_rename").map_err(failed)?;
        for parent in &touched {
            directory::sync(parent)?;
        }
        if !self.pending.is_empty() {
            directory::sync(&self.staging)?;
        }
        self.ledger.done()?;
        self.pending.clear();
        failpoint::hit("land.after_done").map_err(|source| LakeError::Io {
            action: "publish",
            path: self.staging.clone(),
            source,
        })
    }

    /// Deletes staged files, which belong to no commit.
    pub fn empty_staging(&self) -> Result<(), LakeError> {
        let failed = |source| LakeError::Io { action: "empty", path: self.staging.clone(), source };
        for entry in fs::read_dir(&self.staging).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            fs::remove_file(&path).map_err(LakeError::io("delete", &path))?;
        }
        Ok(())
    }
}

/// Notes a file of each partition whose files stand in the dates of `root`.
fn walk(root: &Path, found: &mut HashMap<String, PathBuf>) -> Result<(), LakeError> {
    let entries = fs::read_dir(root).map_err(LakeError::io("list", root))?;
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("date=")) {
        for file in fs::read_dir(entry.path()).map_err(LakeError::io("list", entry.path()))?.flatten() {
            if let Some(name) = file.file_name().to_str().and_then(FileName::parse) {
                found.entry(format!("part-{}-{}-", name.topic, name.partition)).or_insert_with(|| file.path());
            }
        }
    }
    Ok(())
}

fn file_crc32c(path: &Path) -> Result<u32, LakeError> {
    let mut file = File::open(path).map_err(LakeError::io("open", path))?;
    let mut buffer = vec![0; 1 << 16];
    let mut crc = 0;
    loop {
        match file.read(&mut buffer).map_err(LakeError::io("read", path))? {
            0 => return Ok(crc),
            count => crc = crc32c::crc32c_append(crc, &buffer[..count]),
        }
    }
}
