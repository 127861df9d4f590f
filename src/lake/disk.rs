//! What the disk under a directory allows: how much room there is, and whether files can be written.

use super::LakeError;
use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// What a file that is tried is made of: enough to need room on the disk.
const TRIED_BYTES: usize = 64 << 10;

/// Room on a file system, for users who are not root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Files that there may be, and how many more; both 0 where the file system has no such bound.
    pub total_files: u64,
    pub free_files: u64,
}

/// How much room there is where `path` stands.
pub fn room(path: &Path) -> Result<Room, LakeError> {
    let failed = |source| LakeError::Io { action: "ask for the room of", path: path.to_owned(), source };
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    // SAFETY: all zero is a valid value, and the path ends with a zero.
    let found = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(c_path.as_ptr(), &mut found) != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        found
    };
    let unit = found.f_frsize;
    Ok(Room {
        total_bytes: found.f_blocks.saturating_mul(unit),
        free_bytes: found.f_bavail.saturating_mul(unit),
        total_files: found.f_files,
        free_files: found.f_favail,
    })
}

/// File systems of several machines, or of a program, by the kernel's numbers (statfs(2)). What they promise of locks,
/// renames and syncs depends on servers and mount options.
const REMOTE: [(u32, &str); 16] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "CephFS"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x1983_0326, "BeeGFS"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x786f_4256, "a shared folder of VirtualBox"),
    (0xbacb_acbc, "a shared folder of VMware"),
];

/// Fails where one of `paths`, or where it would be made, is on a file system whose locks and renames nobody can
/// vouch for.
pub fn check_local<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), LakeError> {
    for path in paths {
        if let Some(kind) = remote(file_system(&nearest_existing(path))?) {
            return Err(LakeError::Remote { path: path.clone(), kind });
        }
    }
    Ok(())
}

fn remote(number: u32) -> Option<&'static str> {
    REMOTE.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

fn file_system(path: &Path) -> Result<u32, LakeError> {
    let failed = |source| LakeError::Io { action: "ask for the file system of", path: path.to_owned(), source };
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    // SAFETY: all zero is a valid value, and the path ends with a zero.
    unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        match libc::statfs(c_path.as_ptr(), &mut found) {
            // All numbers have 32 bits, whatever the field has on this machine.
            0 => Ok(found.f_type as u32),
            _ => Err(failed(io::Error::last_os_error())),
        }
    }
}

/// The file system that `path` is on, as a number that tells it from others.
pub fn device(path: &Path) -> Result<u64, LakeError> {
    Ok(fs::metadata(path).map_err(LakeError::io("look at", path))?.dev())
}

/// `path`, or the nearest directory above it that exists: where what is missing would be made.
pub fn nearest_existing(path: &Path) -> PathBuf {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    existing.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Writes a file in `directory` and makes it durable. It has no name, so that nobody sees it and nothing is
/// left; where the file system knows no such files, it has a hidden one for a moment.
pub fn try_write(directory: &Path) -> Result<(), LakeError> {
    let written = |mut file: File| file.write_all(&[0; TRIED_BYTES]).and_then(|()| file.sync_all());
    let nameless = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(directory);
    let result = match nameless {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => {
            let path = directory.join(format!(".headwater-tried-{}", std::process::id()));
            let named = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            named.and_then(|file| {
                let result = written(file);
                fs::remove_file(&path).and(result)
            })
        }
        nameless => nameless.and_then(written),
    };
    result.map_err(LakeError::io("write a file in", directory))
}

/// Whether the kernel would let us make files in `directory`; cheaper than trying.
pub fn may_write(directory: &Path) -> bool {
    let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path ends with a zero.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK | libc::X_OK, libc::AT_EACCESS) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let before = fs::metadata(directory.path()).unwrap().modified().unwrap();
        try_write(directory.path()).unwrap();
        assert!(may_write(directory.path()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(fs::metadata(directory.path()).unwrap().modified().unwrap(), before);
        // Takes no files at all.
        assert!(try_write(Path::new("/proc")).is_err());
        assert!(try_write(&directory.path().join("missing")).is_err());
    }

    #[test]
    fn network_file_systems_are_known_by_their_numbers() {
        let directory = tempfile::tempdir().unwrap();
        check_local([&directory.path().to_owned(), &directory.path().join("not/there")]).unwrap();
        assert_eq!((remote(0x6969), remote(0xff53_4d42)), (Some("NFS"), Some("CIFS")));
        // ext4, xfs, btrfs, tmpfs, overlayfs, ZFS
        for number in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(remote(number), None);
        }
        // What is asked is what stat(1) prints.
        let printed = std::process::Command::new("stat").args(["-f", "-c", "%t", "/proc"]).output().unwrap();
        let printed = String::from_utf8(printed.stdout).unwrap();
        assert_eq!(format!("{:x}", file_system(Path::new("/proc")).unwrap()), printed.trim());
    }

    #[test]
    fn room_is_that_of_the_nearest_directory() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("a/b/c");
        assert_eq!(nearest_existing(&missing), directory.path());
        assert_eq!(nearest_existing(Path::new("no/such")), Path::new("."));
        let room = room(&nearest_existing(&missing)).unwrap();
        assert!(room.total_bytes >= room.free_bytes && room.free_bytes > 0, "{room:?}");
        assert!(super::room(&missing).is_err());
    }
}
