//! The last processed timestamp, written for people after each commit and never read back.

use crate::failpoint;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Where a table's timestamp goes: the location itself for a single table, unless it is a directory;
/// else a file in it by the table's name.
pub fn path(location: &Path, table: &str, is_single: bool) -> PathBuf {
    if is_single && !location.is_dir() {
        return location.to_owned();
    }
    let name: String = table.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    location.join(if name.starts_with('.') { format!("_{name}") } else { name })
}

/// Replaces the file's content in one step.
pub fn write(path: &Path, timestamp: &str) -> io::Result<()> {
    failpoint::hit("capture.before_timestamp_file")?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{timestamp}")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_table_has_the_file_and_several_share_a_directory() {
        let root = tempfile::tempdir().unwrap();
        let location = root.path().join("last/orders");
        assert_eq!(path(&location, "orders", true), location);
        assert_eq!(path(&location, "a/b", false), location.join("a_b"));
        assert_eq!(path(root.path(), "orders", true), root.path().join("orders"));
    }

    #[test]
    fn the_file_holds_the_latest_timestamp_only() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("deep/orders");
        write(&file, "2025-01-15T12:24:00Z").unwrap();
        write(&file, "2025-01-15T12:24:01Z").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "2025-01-15T12:24:01Z\n");
        assert_eq!(fs::read_dir(root.path().join("deep")).unwrap().count(), 1);
    }
}
