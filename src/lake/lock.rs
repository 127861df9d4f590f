//! The lock of a partition: one process at a time reads and writes its ledger and staging.
//!
//! The lock is a file of its own beside the ledger, for compaction replaces the ledger. It is the
//! kernel's lock on the open file, gone with its holder; what the file says is for people.

use super::LakeError;
use crate::clock;
use chrono::SecondsFormat;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

/// Who holds a lock, as the lock file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    pub host: String,
    /// RFC 3339.
    pub since: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {} since {}", self.pid, self.host, self.since)
    }
}

pub enum Attempt {
    Held(Lock),
    /// Another has it; who, where its file can be read.
    Busy(Option<Holder>),
}

/// The lock; dropping it lets go.
pub struct Lock {
    _file: File,
}

/// This machine's name.
pub fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Takes the lock of the partition in `directory`, which exists, or says who has it.
pub fn acquire(directory: &Path) -> Result<Attempt, LakeError> {
    acquire_file(&directory.join("lock"))
}

/// Who holds the lock of the partition in `directory`, where anybody does. For messages only.
pub fn holder(directory: &Path) -> Option<Holder> {
    let path = directory.join("lock");
    let file = File::open(&path).ok()?;
    match file.try_lock_shared() {
        Ok(()) => None,
        Err(_) => serde_json::from_str(&std::fs::read_to_string(&path).ok()?).ok(),
    }
}

/// Takes the lock file `path`, made where it is missing, or says who has it.
pub fn acquire_file(path: &Path) -> Result<Attempt, LakeError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(LakeError::io("open", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let holder = file.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str(&text).ok());
            return Ok(Attempt::Busy(holder));
        }
        Err(TryLockError::Error(source)) => {
            return Err(LakeError::Io { action: "lock", path: path.to_owned(), source });
        }
    }
    let since = clock::iso_to(clock::now_us(), SecondsFormat::Secs);
    let holder = Holder { pid: std::process::id(), host: host(), since };
    // Only for people: on a full disk the lock still holds.
    let noted = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(serde_json::to_string(&holder).unwrap_or_default().as_bytes()));
    if let Err(error) = noted {
        tracing::debug!("cannot note the holder in {}: {error}", path.display());
    }
    Ok(Attempt::Held(Lock { _file: file }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_says_who_holds_it_and_is_free_when_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let Attempt::Held(lock) = acquire(directory.path()).unwrap() else { panic!("not free") };
        let Attempt::Busy(Some(holder)) = acquire(directory.path()).unwrap() else { panic!("not held") };
        assert_eq!(holder.pid, std::process::id());
        drop(lock);
        assert!(matches!(acquire(directory.path()).unwrap(), Attempt::Held(_)));
    }
}
