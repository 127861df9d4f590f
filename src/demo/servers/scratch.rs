//! A directory for one run, removed at its end or, where the run was killed, by the next one.

use super::{ServerError, file_error};
use std::{
    fs::{self, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

const PREFIX: &str = "headwater-";
const LOCK: &str = ".lock";

/// A directory under the system's temporary directory; removed with all it holds when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
    _lock: File,
}

impl Scratch {
    /// Makes `<tmp>/headwater-<purpose>-<process>-<n>`, readable by others (PostgreSQL runs as another
    /// user when we are root), and removes those that dead processes have left.
    pub fn new(purpose: &str) -> Result<Self, ServerError> {
        let base = std::env::temp_dir();
        sweep(&base);
        for n in 0.. {
            let path = base.join(format!("{PREFIX}{purpose}-{}-{n}", std::process::id()));
            match fs::DirBuilder::new().mode(0o755).create(&path) {
                Ok(()) => {
                    let lock_path = path.join(LOCK);
                    let lock = File::create(&lock_path).map_err(file_error(&lock_path))?;
                    lock.lock().map_err(file_error(&lock_path))?;
                    // A sweep may have come between the two calls and taken it for a dead one's.
                    if !lock_path.exists() {
                        continue;
                    }
                    return Ok(Scratch { path, keep: false, _lock: lock });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(ServerError::File { path, source }),
            }
        }
        Err(ServerError::File { path: base, source: std::io::Error::other("too many directories of this process") })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory where it is, for good: without its lock file no sweep touches it.
    pub fn keep(&mut self) {
        self.keep = true;
        let _ = fs::remove_file(self.path.join(LOCK));
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes the directories whose lock nobody holds: their process is gone.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_scratch_is_not_swept_and_a_dead_one_is() {
        let living = Scratch::new("unit").unwrap();
        let dead = std::env::temp_dir().join(format!("{PREFIX}unit-dead-{}", std::process::id()));
        fs::create_dir_all(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        let second = Scratch::new("unit").unwrap();
        assert!(!dead.exists());
        assert!(living.path().exists() && living.path() != second.path());
        let gone = living.path().to_owned();
        drop(living);
        assert!(!gone.exists());
    }
}
