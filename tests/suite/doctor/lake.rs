//! The lake: room, rights, file systems, ledgers, files of others.

use super::{ROOM, Said, doctor, ended};
use crate::{
    harness::{DEADLINE, Run, Test, kafka::create_topic, run::Exit},
    lake_faults::disk,
    landing::{self, Table, Writer},
};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

const DAY: &str = "2025-01-15T12:24:00Z";

/// A landed table under `base`, with its configuration.
struct Landed {
    test: Test,
    table: Table,
    file: String,
}

impl Landed {
    fn new(base: &str) -> Landed {
        let test = Test::new();
        let schema = landing::orders_schema(&test);
        let table = Table::orders_by_file(&test.path(base), &test.topic("orders"), &schema);
        create_topic(&test.brokers, &table.topic, 1, &[]);
        let file = test.write("land.yml", &landing::land_config(&test, std::slice::from_ref(&table), &[]));
        Landed { file: file.display().to_string(), test, table }
    }

    fn land(&self, ids: std::ops::Range<i64>) {
        let writer = Writer::new(&self.test.brokers, &self.table.topic);
        ids.for_each(|id| writer.order(0, id, DAY));
        writer.flush();
        let mut run = Run::start(&self.test, &["land", "-c", &self.file, "--until-caught-up"]);
        assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    }

    fn look(&self) -> Said {
        doctor(&self.test, &self.file, &[])
    }

    /// Where the rows of the one date are.
    fn date(&self) -> std::path::PathBuf {
        self.table.path.join("date=2025-01-15")
    }
}

fn shell(cure: &str) {
    let output = Command::new("sh").args(["-ec", cure]).output().expect("a shell");
    assert!(output.status.success(), "{cure}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn files_of_others_are_told_and_those_of_crashes_are_not() {
    let landed = Landed::new("base");
    landed.land(0..10);
    landed.look().assert_well(&[ROOM]);
    // What a crash leaves, and what readers leave out by themselves.
    let crashed = landed.table.ledger(0).with_file_name("staging").join("part-x.parquet");
    fs::write(&crashed, "half").unwrap();
    fs::write(landed.date().join("_SUCCESS"), "").unwrap();
    fs::write(landed.date().join(".part-0.crc"), "").unwrap();
    landed.look().assert_well(&[ROOM]);

    let own = fs::read_dir(landed.date()).unwrap().flatten().map(|entry| entry.path());
    let own =
        own.filter(|path| path.extension().is_some_and(|kind| kind == "parquet")).collect::<Vec<_>>().pop().unwrap();
    fs::copy(&own, landed.date().join("it's a copy.parquet")).unwrap();
    let said = landed.look();
    assert_eq!(said.exit, Exit::Code(0), "a warning: {said}");
    let (message, cure) = said.trouble("warning", "foreign files", &landed.table.topic);
    assert!(message.contains("1 file of others") && message.contains("it's a copy.parquet"), "{message}");
    shell(&cure);
    assert!(!landed.date().join("it's a copy.parquet").exists(), "moved by: {cure}");
    landed.look().assert_well(&[ROOM]);

    // Named as ours are, beyond what has landed.
    fs::copy(&own, landed.date().join(format!("part-{}-0-500-600-0.parquet", landed.table.topic))).unwrap();
    let said = landed.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "foreign files", &landed.table.topic);
    assert!(message.contains("500-600") && message.contains("twice"), "{message}");
    shell(&cure);
    landed.look().assert_well(&[ROOM]);
    // What is left is what landed.
    for left in [crashed, landed.date().join("_SUCCESS"), landed.date().join(".part-0.crc")] {
        fs::remove_file(left).unwrap();
    }
    landed.table.assert_exactly(&landing::written(&landed.test, &landed.table.topic));
}

#[test]
fn a_ledger_that_is_lost_or_damaged_is_told() {
    let landed = Landed::new("base");
    landed.land(0..10);
    let ledger = landed.table.ledger(0);
    let bytes = fs::read(&ledger).unwrap();
    let mut damaged = bytes.clone();
    damaged[40] ^= 1;
    fs::write(&ledger, &damaged).unwrap();
    let said = landed.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "ledger", &landed.table.topic);
    assert!(message.contains("damaged") && cure.contains(&ledger.display().to_string()), "{message} {cure}");

    fs::remove_file(&ledger).unwrap();
    let said = landed.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, _) = said.trouble("failure", "foreign files", &landed.table.topic);
    assert!(message.contains("no ledger knows"), "{message}");

    // A newer program's.
    let mut newer = bytes.clone();
    newer[8] = 9;
    let crc = crc32c::crc32c(&newer[..12]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&ledger, &newer).unwrap();
    let (message, _) = landed.look().trouble("failure", "ledger", &landed.table.topic);
    assert!(message.contains("newer program"), "{message}");

    fs::write(&ledger, &bytes).unwrap();
    landed.look().assert_well(&[ROOM]);
}

/// The doctor where `prepare` was done with a small memory disk at `mount`, in a namespace of its own. None, saying
/// why, where this system lets us mount nothing.
fn look_on_disk(landed: &Landed, mount: &Path, size: &str, prepare: &str) -> Option<Said> {
    fs::create_dir_all(mount).expect("the mount point");
    let (make, _) = disk::way(mount)?;
    let mut command = Command::new("unshare");
    let script = format!("mount -t tmpfs -o size=\"$1\" tmpfs \"$0\"; {prepare}; shift; exec \"$@\"");
    command.args(make).args(["sh", "-ec", &script]).arg(mount).arg(size);
    command.arg(env!("CARGO_BIN_EXE_headwater")).args(["doctor", "-c", &landed.file, "--format", "json"]);
    Some(ended(Run::command(&landed.test, command)))
}

#[test]
fn little_room_warns_and_none_fails() {
    let landed = Landed::new("small");
    let mount = landed.test.path("small");
    let fill = |kib: u32| format!("head -c {kib}k /dev/zero > \"$0/filler\"");
    let Some(said) = look_on_disk(&landed, &mount, "400m", &fill(1)) else { return };
    let (message, cure) = said.trouble("warning", ROOM, "small");
    assert!(message.contains("MiB free, ") && cure.contains("small"), "{message} {cure}");
    assert_eq!(said.exit, Exit::Code(0), "{said}");
    let Some(said) = look_on_disk(&landed, &mount, "8m", &fill(8_100)) else { return };
    let (message, _) = said.trouble("failure", ROOM, "small");
    assert!(message.contains("KiB free"), "{message}");
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    // Full to the last page.
    let Some(said) = look_on_disk(&landed, &mount, "1m", "cat /dev/zero > \"$0/filler\" || true") else { return };
    said.trouble("failure", ROOM, "small");
    let full = said.all("writable", "");
    assert_eq!(full.len(), 3, "{said}");
    for finding in full {
        assert_eq!(finding["outcome"], "failure", "{finding}");
        assert!(finding["message"].as_str().unwrap().contains("the disk is full"), "{finding}");
    }
}

#[test]
fn a_read_only_lake_and_staging_elsewhere_are_told() {
    let landed = Landed::new("small");
    let mount = landed.test.path("small");
    let Some(said) = look_on_disk(&landed, &mount, "64m", "mount -o remount,ro,size=64m tmpfs \"$0\"") else { return };
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    for finding in said.all("writable", "") {
        assert_eq!(finding["outcome"], "failure", "{finding}");
        assert!(finding["message"].as_str().unwrap().contains("read-only"), "{finding}");
        assert!(finding["cure"].as_str().unwrap().starts_with("mount -o remount,rw "), "{finding}");
    }
    // The disk holds the rows alone.
    let path = landed.table.path.clone();
    fs::create_dir_all(&path).unwrap();
    let Some(said) = look_on_disk(&landed, &path, "64m", "true") else { return };
    let (message, cure) = said.trouble("failure", "file system", &landed.table.topic);
    assert!(message.contains("different file systems") && cure.contains("checkpoint_location"), "{message} {cure}");
    // The same file system, mounted once more, as a container has its volumes.
    let twice = format!("umount \"$0\"; mount --bind '{0}' '{0}'", path.display());
    let Some(said) = look_on_disk(&landed, &path, "64m", &twice) else { return };
    let (message, _) = said.trouble("failure", "file system", &landed.table.topic);
    assert!(message.contains("mounted apart"), "{message}");
    // And so it is: a file cannot be renamed from one to the other.
    let (from, to) = (landed.test.path("a file"), path.join("a file"));
    fs::write(&from, "").unwrap();
    let renamed = format!(
        "{twice}; if python3 -c 'import os, sys; os.rename(sys.argv[1], sys.argv[2])' '{}' '{}'; then exit 9; fi",
        from.display(),
        to.display()
    );
    look_on_disk(&landed, &path, "64m", &renamed);
    landed.look().assert_ok("file system", &landed.table.topic);
}

#[test]
fn what_may_not_be_written_is_told_with_whose_it_should_be() {
    let landed = Landed::new("base");
    landed.land(0..10);
    let base = landed.test.path("base");
    shell(&format!("chown -R 65534 '{}'", base.display()));
    let look = || ended(disk::start_as_user(&landed.test, &["doctor", "-c", &landed.file, "--format", "json"]));
    look().assert_well(&[ROOM]);
    let staging = landed.table.ledger(0).with_file_name("staging");
    for (path, subject) in [
        (landed.table.path.clone(), landed.table.path.display().to_string()),
        (landed.table.checkpoints.clone(), landed.table.checkpoints.display().to_string()),
        (staging.clone(), staging.display().to_string()),
        (landed.date(), landed.table.path.display().to_string()),
    ] {
        fs::set_permissions(&path, Permissions::from_mode(0o555)).unwrap();
        let said = look();
        assert_eq!(said.exit, Exit::Code(1), "{}: {said}", path.display());
        let is_told = |finding: &&serde_json::Value| finding["outcome"] == "failure" && finding["subject"] == *subject;
        let told = said.findings.iter().find(is_told).unwrap_or_else(|| panic!("{}: {said}", path.display()));
        assert!(told["cure"].as_str().unwrap().starts_with("chown -R "), "{told}");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }
    look().assert_well(&[ROOM]);
}

#[test]
fn columns_that_do_not_fit_are_told() {
    let landed = Landed::new("base");
    let text = fs::read_to_string(&landed.file).unwrap();
    fs::write(&landed.file, text.replace("[order_id]", "[order_number]")).unwrap();
    let said = landed.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, _) = said.trouble("failure", "columns", &landed.table.topic);
    assert!(message.contains("order_number") && message.contains("not_null"), "{message}");
    fs::write(&landed.file, text).unwrap();
    landed.look().assert_ok("columns", &landed.table.topic);
}
