//! Files of the lake: Parquet, the ledger that commits them, and the directories they stand in.
//! The only module that names the Parquet writer.
//!
//! A commit in three steps, of which the second is the one that counts:
//! 1. every file of the batch is written and synced in the staging directory;
//! 2. one record is appended to the ledger and synced;
//! 3. the files are renamed into place, the directories synced, and "done" is appended.
//!
//! A crash before 2 leaves staged files that nobody vouches for: they are deleted. A crash after it
//! is rolled forward. A partition's ledger is touched only by the process that holds its lock.

pub mod dead_letter;
pub mod directory;
pub mod disk;
pub mod ledger;
pub mod ledger_file;
pub mod lock;
pub mod merge;
pub mod parquet_file;
pub mod reader;
pub mod store;
pub mod upkeep;

use crate::{
    config::model::{LandSchema, LandTable},
    shell,
};
use std::{fs, io, path::PathBuf};

/// Footer key of Kafka's id of the topic whose records a file holds.
pub const TOPIC_ID: &str = "headwater.topic_id";
/// Footer key of the rules by which the rows of a file were let in.
pub const RULES: &str = "headwater.rules";

/// The rules of a table that decide which of its records become rows, beside the types of its columns: equal texts are
/// equal rules.
pub fn rules(table: &LandTable) -> String {
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    let mut rules = serde_json::json!({
        "not_null": sorted(&table.not_null),
        "non_negative": sorted(&table.non_negative),
    });
    if let LandSchema::File(path) = &table.schema {
        rules["schema_crc32c"] = fs::read(path).ok().map(|text| crc32c::crc32c(&text)).into();
    }
    rules.to_string()
}

#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    #[error("{}", io_message(.action, .path, .source))]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("ledger {}: {source}", .path.display())]
    Ledger { path: PathBuf, source: ledger::LedgerError },
    #[error(
        "{} could not be taken back to its last good record after a failed write: {source}; \
         make sure that the disk is sound and start again", .path.display()
    )]
    Unclean { path: PathBuf, source: io::Error },
    #[error("file {}: {source}", .path.display())]
    Parquet { path: PathBuf, source: parquet::errors::ParquetError },
    #[error(
        "{} and {} are on different file systems, or mounted apart, so that a file cannot be renamed from one to the \
         other: move checkpoint_location to the file system of the table", .staging.display(), .table.display()
    )]
    FileSystems { staging: PathBuf, table: PathBuf },
    #[error(
        "the ledger commits {}, which stands neither in staging nor in the table (or is not of the committed size): \
         restore it", .path.display()
    )]
    MissingFile { path: PathBuf },
    #[error(
        "there is no ledger {}, but {} already stands in the table: restore the ledger, or move the files of this \
         partition away to land them anew", .ledger.display(), .file.display()
    )]
    ForeignFiles { ledger: PathBuf, file: PathBuf },
    #[error("another compact or expire is at work on {}: wait until it has ended", .root.display())]
    UpkeepBusy { root: PathBuf },
    #[error("{}: {what}; a compact or expire was killed here, and what stands there now was not left by it: look at \
             the directory beside this file, put back what belongs into the table, and delete both", .path.display())]
    UpkeepState { path: PathBuf, what: String },
    #[error("{} holds {file}, and no note says whose it is: move what belongs into the table back to its date, and \
             delete the directory", .directory.display())]
    UpkeepUnknown { directory: PathBuf, file: String },
    #[error("{} has format {found}, and this program knows {known} at most: run the newer program", .path.display())]
    UpkeepNewer { path: PathBuf, found: u32, known: u32 },
    #[error(
        "{} cannot be exchanged with another directory ({source}); this needs a file system that can do so \
         atomically, such as ext4, xfs, btrfs or tmpfs", .path.display()
    )]
    Exchange { path: PathBuf, source: io::Error },
    #[error(
        "{} is on {kind}: its locks and renames are not sure to hold between machines and through an outage, so that \
         rows could land twice or be lost; put path, checkpoint_location and dead_letter_path on a local disk, or set \
         land.tables[].allow_network_file_system: true where you know that they hold", .path.display()
    )]
    Remote { path: PathBuf, kind: &'static str },
    #[error("{} is not a plain file: a date is changed only where it holds nothing else; move it away", .path.display())]
    NotAFile { path: PathBuf },
    #[error(
        "{} holds offsets that its ledger (at offset {next}) does not vouch for: restore the ledger, or move the file \
         away", .file.display()
    )]
    NotVouched { file: PathBuf, next: i64 },
    #[error("{}: {what}; nothing was changed, please report it", .path.display())]
    Merge { path: PathBuf, what: String },
    #[error("{0}")]
    Read(#[from] reader::LakeReadError),
    #[error("a ledger record cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

impl LakeError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| LakeError::Io { action, path, source }
    }

    /// The command to run, or the key to set.
    pub fn cure(&self) -> Option<String> {
        use io::ErrorKind;
        let word = |path: &std::path::Path| shell::word(&path.display().to_string());
        match self {
            LakeError::Io { path, source, .. } => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    Some(format!("make room on the file system of {}", word(path)))
                }
                ErrorKind::ReadOnlyFilesystem => Some(format!(
                    "mount -o remount,rw \"$(findmnt -n -o TARGET --target {})\"",
                    word(path)
                )),
                ErrorKind::PermissionDenied => {
                    // SAFETY: no arguments, cannot fail.
                    let user = unsafe { libc::geteuid() };
                    Some(format!("chown -R {user} {}", word(path)))
                }
                _ if is_out_of_files(source) => Some("ulimit -n 65536; in a unit of systemd LimitNOFILE=65536".to_owned()),
                _ => None,
            },
            LakeError::FileSystems { .. } => {
                Some("land.tables[].checkpoint_location: on the file system of the table; short form: streaming.checkpoint_location".to_owned())
            }
            LakeError::Remote { .. } => {
                Some("land.tables[].path, checkpoint_location, dead_letter_path: on a local disk".to_owned())
            }
            LakeError::Ledger { path, .. } | LakeError::Unclean { path, .. } => {
                Some(format!("restore {} from a backup", word(path)))
            }
            _ => None,
        }
    }

    /// Whether trying again may help, such as after room was made on a full disk. Otherwise somebody
    /// has to act on the files themselves.
    pub fn is_retriable(&self) -> bool {
        // What Parquet's writer refuses, it refuses again.
        matches!(self, LakeError::Io { .. })
    }
}

fn io_message(action: &str, path: &std::path::Path, source: &io::Error) -> String {
    let path = path.display();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("cannot {action} {path}: the disk is full; make room, and a landing goes on by itself")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            format!(
                "cannot {action} {path}: the file system is read-only; make it writable, and a landing goes on by itself"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("cannot {action} {path}: permission denied; let the user of this process write there")
        }
        _ if is_out_of_files(source) => format!(
            "cannot {action} {path}: too many files are open, two for each partition among them; let the process open \
             more (LimitNOFILE= of a systemd unit, ulimit -n of a shell) and start it again"
        ),
        _ => format!("cannot {action} {path}: {source}"),
    }
}

/// Whether this process, or all of them, may open no more files.
fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
