//! The ledger on disk: opened with recovery, appended to, compacted. See [`super::ledger`] for what
//! its bytes mean.

use super::{
    LakeError, directory,
    ledger::{self, LedgerFile, Progress, Record, Recovery},
};
use crate::failpoint;
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Above this the ledger is rewritten as one snapshot record.
const COMPACT_BYTES: u64 = 1 << 20;

/// What the ledgers of a topic say, by partition.
#[derive(Default)]
pub struct Ledgers {
    pub read: HashMap<i32, Recovery>,
    pub unreadable: Vec<(i32, LakeError)>,
}

/// An open ledger. Its owner holds the partition's lock.
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// Bytes that are good; the file is never longer between two calls.
    length: u64,
    progress: Option<Progress>,
}

impl Ledger {
    /// Opens or makes `<directory>/ledger`, cuts off a torn end, and gives the files of the last
    /// commit that may not all be in place yet.
    pub fn open(directory: &Path) -> Result<(Ledger, Vec<LedgerFile>), LakeError> {
        let path = directory.join("ledger");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(LakeError::io("open", &path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(LakeError::io("read", &path))?;
        let recovery = ledger::recover(&bytes).map_err(|source| LakeError::Ledger { path: path.clone(), source })?;
        let mut good = recovery.good;
        let repaired = (|| {
            if good < bytes.len() {
                file.set_len(good as u64)?;
            }
            if good < ledger::HEADER_LENGTH {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(&ledger::header())?;
                good = ledger::HEADER_LENGTH;
            }
            file.seek(SeekFrom::Start(good as u64))?;
            // Also what a crashed process appended and never synced: it is about to be relied on.
            file.sync_all()
        })();
        repaired.map_err(LakeError::io("write", &path))?;
        directory::sync(directory)?;
        Ok((Ledger { path, file, length: good as u64, progress: recovery.progress }, recovery.pending))
    }

    /// What `<directory>/ledger` says, read without its lock (for a partition that another process owns) and left as
    /// it is; none where there is none.
    pub fn read(directory: &Path) -> Result<Option<Recovery>, LakeError> {
        let path = directory.join("ledger");
        match fs::read(&path) {
            Ok(bytes) => ledger::recover(&bytes).map(Some).map_err(|source| LakeError::Ledger { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LakeError::io("read", &path)(source)),
        }
    }

    /// The same of every partition of a topic that has one under `checkpoints`, and which could not be read.
    pub fn read_all(checkpoints: &Path, topic: &str) -> Result<Ledgers, LakeError> {
        let mut ledgers = Ledgers::default();
        let entries = match fs::read_dir(checkpoints) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ledgers),
            entries => entries.map_err(LakeError::io("list", checkpoints))?,
        };
        for entry in entries {
            let entry = entry.map_err(LakeError::io("list", checkpoints))?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(topic)?.strip_prefix('-'));
            let Some(partition) = number.and_then(|number| number.parse().ok()) else { continue };
            match Ledger::read(&entry.path()) {
                Ok(Some(ledger)) => drop(ledgers.read.insert(partition, ledger)),
                Ok(None) => {}
                Err(error) => ledgers.unreadable.push((partition, error)),
            }
        }
        Ok(ledgers)
    }

    /// What one ledger says, made durable: after a power cut it says it still.
    pub fn look(directory: &Path) -> Result<Option<Recovery>, LakeError> {
        let Some(recovery) = Ledger::read(directory)? else { return Ok(None) };
        let path = directory.join("ledger");
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(LakeError::io("sync", path))?;
        Ok(Some(recovery))
    }

    /// Takes the ledger away, under the partition's lock: until another is there no landing begins beside the
    /// partition's files.
    pub fn remove(directory: &Path) -> Result<(), LakeError> {
        let path = directory.join("ledger");
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(LakeError::io("delete", &path)).and_then(|()| directory::sync(directory)),
        }
    }

    /// Makes a ledger that says no more than this, under the partition's lock.
    pub fn restore(directory: &Path, progress: Progress) -> Result<(), LakeError> {
        let (mut ledger, _) = Ledger::open(directory)?;
        ledger.compact(progress)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }

    /// Appends a commit and makes it durable. When this returns without error the files are part of
    /// the table, whatever happens next; when it fails, they are not.
    pub fn commit(&mut self, progress: Progress, first: i64, files: Vec<LedgerFile>) -> Result<(), LakeError> {
        self.append(&Record::Commit { progress: progress.clone(), first, files }, true)?;
        self.progress = Some(progress);
        Ok(())
    }

    /// Notes that every file of the last commit is in place. Not synced: the next commit does that,
    /// and without the note the renames are only looked at again.
    pub fn done(&mut self) -> Result<(), LakeError> {
        let Some(progress) = self.progress.clone() else { return Ok(()) };
        self.append(&Record::Done { epoch: progress.epoch }, false)?;
        if self.length > COMPACT_BYTES { self.compact(progress) } else { Ok(()) }
    }

    fn append(&mut self, record: &Record, durable: bool) -> Result<(), LakeError> {
        let bytes = record.encode()?;
        let appended = (|| {
            self.file.write_all(&bytes)?;
            if durable {
                failpoint::hit("land.before_ledger_sync")?;
                self.file.sync_data()?;
            }
            Ok(())
        })();
        match appended {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(source) => {
                self.cut_off()?;
                Err(LakeError::Io { action: "write", path: self.path.clone(), source })
            }
        }
    }

    /// After a failed append or sync: takes the bytes back, so that nobody can find a record that was
    /// reported as failed. Fails for good where that cannot be made durable.
    fn cut_off(&mut self) -> Result<(), LakeError> {
        let taken_back = (|| -> io::Result<()> {
            // Where nothing was written there is nothing to cut, and on a file system that has become
            // read-only it could not be done.
            if self.file.metadata()?.len() != self.length {
                self.file.set_len(self.length)?;
                self.file.sync_all()?;
            }
            self.file.seek(SeekFrom::Start(self.length)).map(drop)
        })();
        taken_back.map_err(|source| LakeError::Unclean { path: self.path.clone(), source })
    }

    fn compact(&mut self, progress: Progress) -> Result<(), LakeError> {
        let temporary = self.path.with_extension("tmp");
        let snapshot = Record::Snapshot { progress }.encode()?;
        let written = (|| {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary)?;
            file.write_all(&ledger::header())?;
            file.write_all(&snapshot)?;
            file.sync_all()?;
            Ok(file)
        })();
        let file = written.map_err(LakeError::io("write", &temporary))?;
        fs::rename(&temporary, &self.path).map_err(LakeError::io("rename", &temporary))?;
        self.file = file;
        self.length = (ledger::HEADER_LENGTH + snapshot.len()) as u64;
        self.path.parent().map_or(Ok(()), directory::sync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::ledger::Root;

    fn progress(epoch: u64) -> Progress {
        Progress { topic_id: "id".into(), epoch, next: epoch as i64 * 10, ..Progress::default() }
    }

    fn files(count: usize) -> Vec<LedgerFile> {
        let file = LedgerFile {
            staged: "0.parquet".into(),
            root: Root::Table,
            path: "date=2025-01-15/part-orders-0-0-9-0.parquet".into(),
            rows: 1,
            bytes: 2,
            crc32c: 3,
        };
        vec![file; count]
    }

    #[test]
    fn resumes_where_it_stopped_and_cuts_a_torn_end() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, pending) = Ledger::open(directory.path()).unwrap();
        assert!(pending.is_empty() && ledger.progress().is_none());
        ledger.commit(progress(1), 0, files(1)).unwrap();
        drop(ledger);
        let path = directory.path().join("ledger");
        let torn = [fs::read(&path).unwrap(), b"HWR\n\x10".to_vec()].concat();
        fs::write(&path, &torn).unwrap();
        let (mut ledger, pending) = Ledger::open(directory.path()).unwrap();
        assert_eq!((ledger.progress(), pending), (Some(&progress(1)), files(1)));
        assert_eq!(fs::metadata(&path).unwrap().len(), torn.len() as u64 - 5);
        ledger.done().unwrap();
        ledger.commit(progress(2), 10, files(1)).unwrap();
        assert_eq!(Ledger::read(directory.path()).unwrap().unwrap().progress, Some(progress(2)));
    }

    #[test]
    fn compacts_to_one_record_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        for epoch in 1..=30 {
            ledger.commit(progress(epoch), epoch as i64 * 10 - 10, files(400)).unwrap();
            ledger.done().unwrap();
        }
        let length = fs::metadata(directory.path().join("ledger")).unwrap().len();
        assert!(length < COMPACT_BYTES + (1 << 17), "{length}");
        ledger.commit(progress(31), 300, files(1)).unwrap();
        drop(ledger);
        let (ledger, pending) = Ledger::open(directory.path()).unwrap();
        assert_eq!((ledger.progress(), pending.len()), (Some(&progress(31)), 1));
    }
}
