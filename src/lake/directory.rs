//! Directories that survive a power cut: made with their parents, each synced where its entry stands.

use super::LakeError;
use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

/// Makes `path` and what is missing above it; syncs the parent of each that was made.
pub fn create_synced(path: &Path) -> Result<(), LakeError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_synced(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(source) => return Err(LakeError::io("create directory", path)(source)),
    }
    sync(parent.unwrap_or(Path::new(".")))
}

/// Makes the entries of `path` durable.
pub fn sync(path: &Path) -> Result<(), LakeError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(LakeError::io("sync directory", path))
}

/// Fails where a file cannot be renamed from `staging` into `table`. Both exist.
pub fn check_same_file_system(staging: &Path, table: &Path) -> Result<(), LakeError> {
    let device = |path: &Path| fs::metadata(path).map(|data| data.dev()).map_err(LakeError::io("look at", path));
    // One file system may be mounted in two places, as containers do with directories of the host: neither
    // is a file renamed from one mount to another.
    if device(staging)? == device(table)? && mount(staging) == mount(table) {
        return Ok(());
    }
    Err(LakeError::FileSystems { staging: staging.to_owned(), table: table.to_owned() })
}

/// The mount that a path is on, where the kernel tells it.
fn mount(path: &Path) -> Option<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: all zero is a valid value, the path ends with a zero, and the call fills what it says it has.
    unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        let asked = libc::statx(libc::AT_FDCWD, path.as_ptr(), 0, libc::STATX_MNT_ID, &mut found);
        (asked == 0 && found.stx_mask & libc::STATX_MNT_ID != 0).then_some(found.stx_mnt_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_nested_directories_and_accepts_existing_ones() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        create_synced(&deep).unwrap();
        create_synced(&deep).unwrap();
        assert!(deep.is_dir());
        check_same_file_system(root.path(), &deep).unwrap();
        assert!(matches!(check_same_file_system(root.path(), Path::new("/proc")), Err(LakeError::FileSystems { .. })));
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "x").unwrap();
        assert!(create_synced(&root.path().join("a/b")).is_err());
    }
}
