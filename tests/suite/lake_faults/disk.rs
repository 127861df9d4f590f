//! The disk is full, read-only, not ours to write, or not the one of the table.

use super::{DAY, Pair};
use crate::harness::{DEADLINE, Run, Test, eventually, run::Exit};
use crate::landing::{self, Raw, Table, Writer};
use std::{
    fs::{self, File, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A `headwater` that sees a small memory disk at `mount`. The disk is in a mount namespace of its own, which
/// takes no privilege where user namespaces are allowed, and is gone with the process.
struct OnDisk {
    run: Run,
    mount: PathBuf,
    /// Further arguments for entering the namespace.
    enter: &'static [&'static str],
}

type Arguments = &'static [&'static str];

/// How a mount namespace is made and entered: as root, or as anybody within a user namespace.
const WAYS: [(Arguments, Arguments); 2] = [
    (&["--mount"], &["--mount"]),
    (&["--user", "--map-root-user", "--mount"], &["--user", "--preserve-credentials", "--mount"]),
];

/// The arguments of `unshare` and `nsenter` by which something can be mounted at `mount`. None, saying why, where
/// this system lets us mount nothing.
pub fn way(mount: &Path) -> Option<(Arguments, Arguments)> {
    let may = |make: &[&str]| {
        let mut probe = Command::new("unshare");
        probe.args(make).args(["mount", "-t", "tmpfs", "tmpfs"]).arg(mount);
        probe.output().is_ok_and(|output| output.status.success())
    };
    let way = WAYS.into_iter().find(|(make, _)| may(make));
    if way.is_none() {
        println!("skipped: this system allows neither mounts nor user namespaces");
    }
    way
}

impl OnDisk {
    /// None, saying why, where this system lets us mount nothing.
    fn start(test: &Test, mount: &Path, options: &str, arguments: &[&str]) -> Option<OnDisk> {
        fs::create_dir_all(mount).expect("the mount point");
        let (make, enter) = way(mount)?;
        let mut command = Command::new("unshare");
        command.args(make).args(["sh", "-c", "mount -t tmpfs -o \"$1\" tmpfs \"$0\" && shift && exec \"$@\""]);
        command.arg(mount).arg(options).arg(env!("CARGO_BIN_EXE_headwater")).args(arguments);
        Some(OnDisk { run: Run::command(test, command), mount: mount.to_owned(), enter })
    }

    fn remount(&self, options: &str) {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.run.pid().to_string()).args(self.enter);
        // With the source named, mount does not repeat the present options, of which a user namespace refuses some.
        command.args(["mount", "-t", "tmpfs", "-o", &format!("remount,{options}"), "tmpfs"]).arg(&self.mount);
        let output = command.output().expect("nsenter");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The root of the file system as the process sees it.
    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.run.pid()))
    }

    fn seen(&self, table: &Table) -> Table {
        table.seen_through(&self.root())
    }

    /// A file on the small disk that leaves `pages` of it free.
    fn fill(&self, pages: u64) -> PathBuf {
        const PAGE: u64 = 4096;
        let path = self.root().join(self.mount.strip_prefix("/").expect("absolute")).join("filler");
        let mut file = File::create(&path).expect("the filler");
        while file.write_all(&[0; PAGE as usize]).is_ok() {}
        let length = file.metadata().expect("its length").len();
        file.set_len((length / PAGE).saturating_sub(pages) * PAGE).expect("a shorter filler");
        path
    }
}

/// Orders that no compression makes small.
fn write_large(pair: &Pair, ids: std::ops::Range<i64>) {
    let writer = Writer::new(&pair.test.brokers, &pair.failing.topic);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for id in ids {
        let mut item = String::new();
        while item.len() < 2_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            item.push_str(&format!("{random:016x}"));
        }
        let value = landing::order(id, DAY).replace("Veg Burger", &item).into_bytes();
        writer.send(&Raw { key: Some(id.to_string().into_bytes()), value: Some(value), ..Raw::default() });
    }
    writer.flush();
}

#[test]
fn a_full_disk_stops_its_table_until_room_is_made() {
    let test = Test::new();
    let mount = test.path("small");
    let mut pair = Pair::new(test, &mount, 2);
    pair.settings.push("rotate_bytes: 262144");
    let file = pair.config();
    let Some(mut disk) = OnDisk::start(&pair.test, &mount, "size=1m", &["land", "-c", &file]) else { return };
    // Several times what fits, in batches of which the first still do.
    write_large(&pair, 0..3_000);
    let reason = pair.wait_for_trouble(&disk.run);
    assert!(reason.contains("the disk is full") && reason.contains(&mount.display().to_string()), "{reason}");
    pair.assert_other_goes_on();
    pair.wait_for_trouble(&disk.run);
    let seen = disk.seen(&pair.failing);
    assert!(seen.landed() < 3_000);

    disk.remount("size=64m");
    eventually(DEADLINE, "the table has recovered by itself", || landing::ready(&disk.run) == 200);
    landing::wait_for_landed(&seen, 3_000);
    seen.assert_exactly(&landing::written(&pair.test, &pair.failing.topic));
    disk.run.terminate();
    assert_eq!(disk.run.wait(DEADLINE), Exit::Code(0));
    pair.other.assert_exactly(&landing::written(&pair.test, &pair.other.topic));
}

#[test]
fn a_disk_that_fills_up_at_any_step_of_a_commit_loses_nothing() {
    let rounds = i64::try_from(landing::number("HEADWATER_TEST_FULL_DISKS", 8)).expect("small");
    let test = Test::new();
    let mount = test.path("small");
    let pair = Pair::new(test, &mount, 1);
    let file = pair.config();
    let Some(mut disk) = OnDisk::start(&pair.test, &mount, "size=2m", &["land", "-c", &file]) else { return };
    pair.write(0..10);
    let seen = disk.seen(&pair.failing);
    landing::wait_for_landed(&seen, 10);
    let mut troubles = 0;
    for round in 0..rounds {
        let filler = disk.fill(u64::try_from(round).expect("small"));
        let from = 10 + round * 40;
        // About 40 KiB as a file, and two dates, so that directories are made too.
        write_large(&pair, from..from + 30);
        let writer = Writer::new(&pair.test.brokers, &pair.failing.topic);
        (from + 30..from + 40).for_each(|id| writer.order(0, id, &format!("2025-02-{:02}T00:00:00Z", round % 28 + 1)));
        writer.flush();
        let wanted = usize::try_from(from + 40).expect("a count");
        eventually(DEADLINE, "the round has landed or failed", || {
            seen.landed() >= wanted || landing::state(&disk.run, &pair.failing.topic) == "failing"
        });
        troubles += usize::from(seen.landed() < wanted);
        fs::remove_file(filler).expect("room");
        landing::wait_for_landed(&seen, wanted);
    }
    assert!(troubles > 0, "the disk was never too full");
    eventually(DEADLINE, "the table has recovered by itself", || landing::ready(&disk.run) == 200);
    seen.assert_exactly(&landing::written(&pair.test, &pair.failing.topic));
    disk.run.terminate();
    assert_eq!(disk.run.wait(DEADLINE), Exit::Code(0));
}

#[test]
fn a_read_only_file_system_is_waited_for() {
    let test = Test::new();
    let mount = test.path("small");
    let pair = Pair::new(test, &mount, 1);
    pair.write(0..100);
    let file = pair.config();
    let Some(disk) = OnDisk::start(&pair.test, &mount, "ro,size=8m", &["land", "-c", &file]) else { return };
    let reason = pair.wait_for_trouble(&disk.run);
    assert!(reason.contains("read-only") && reason.contains(&mount.display().to_string()), "{reason}");
    pair.assert_other_goes_on();
    disk.remount("rw,size=8m");
    let seen = disk.seen(&pair.failing);
    landing::wait_for_landed(&seen, 100);
    eventually(DEADLINE, "the table has recovered by itself", || landing::ready(&disk.run) == 200);
    seen.assert_exactly(&landing::written(&pair.test, &pair.failing.topic));
}

#[test]
fn staging_on_another_file_system_is_refused() {
    let test = Test::new();
    let mount = test.path("small");
    let mut pair = Pair::new(test, &mount, 1);
    pair.failing.path = pair.test.path("elsewhere/table");
    pair.write(0..100);
    let file = pair.config();
    let Some(disk) = OnDisk::start(&pair.test, &mount, "size=8m", &["land", "-c", &file]) else { return };
    let reason = pair.wait_for_trouble(&disk.run);
    assert!(reason.contains("file system"), "{reason}");
    for path in [&pair.failing.path, &mount] {
        assert!(reason.contains(&path.display().to_string()), "{reason} names {}", path.display());
    }
    assert_eq!(landing::state(&disk.run, &pair.failing.topic), "stopped", "time does not cure it");
    pair.assert_other_goes_on();
    assert!(pair.failing.positions().is_empty());
}

/// `headwater` as a user who is not root, for whom permissions mean something.
pub fn start_as_user(test: &Test, arguments: &[&str]) -> Run {
    // SAFETY: a plain question to the kernel.
    if unsafe { libc::geteuid() } != 0 {
        return Run::start(test, arguments);
    }
    // The build's directory may be one that other users cannot enter.
    let program = test.path("headwater");
    // By another process: a child that is forked meanwhile would inherit our file, and keep it from being run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_headwater")).arg(&program).status();
    assert!(copied.expect("cp").success(), "a copy of the program");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(arguments);
    Run::command(test, command)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

#[test]
fn a_lake_that_may_not_be_written_stops_its_table_until_it_may() {
    let test = Test::new();
    let base = test.path("theirs");
    fs::create_dir(&base).expect("the lake");
    let sound = test.path("sound");
    fs::create_dir(&sound).expect("the other lake");
    let pair = Pair::new(test, &base, 1);
    set_mode(&sound, 0o777);
    set_mode(&base, 0o555);
    let file = pair.config();
    let mut run = start_as_user(&pair.test, &["land", "-c", &file]);
    let mut landed = 0;
    let mut trouble_with = |path: &Path, open: u32, closed: u32, day: &str| {
        set_mode(path, closed);
        let writer = Writer::new(&pair.test.brokers, &pair.failing.topic);
        (landed..landed + 100).for_each(|id| writer.order(0, id, day));
        writer.flush();
        landed += 100;
        let reason = pair.wait_for_trouble(&run);
        assert!(reason.contains("permission denied") && reason.contains(&base.display().to_string()), "{reason}");
        pair.assert_other_goes_on();
        set_mode(path, open);
        landing::wait_for_landed(&pair.failing, usize::try_from(landed).expect("a count"));
        eventually(DEADLINE, "the table has recovered by itself", || landing::ready(&run) == 200);
    };
    // Nothing can be made at the start; then no new date; then no file in a date that is there; then no staging.
    trouble_with(&base, 0o777, 0o555, DAY);
    trouble_with(&pair.failing.path, 0o777, 0o555, "2025-01-16T00:00:00Z");
    trouble_with(&pair.failing.path.join("date=2025-01-16"), 0o777, 0o555, "2025-01-16T00:00:00Z");
    let staging = pair.failing.ledger(0).with_file_name("staging");
    trouble_with(&staging, 0o777, 0o555, DAY);
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
    pair.failing.assert_exactly(&landing::written(&pair.test, &pair.failing.topic));
    pair.other.assert_exactly(&landing::written(&pair.test, &pair.other.topic));
}
