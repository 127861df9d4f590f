//! The lake: can it be written, is there room, do its ledgers stand, does anybody else put files there.

use super::finding::{Findings, Section};
use crate::{
    amount,
    config::model::{LandTable, Pipeline},
    lake::{directory::check_same_file_system, disk, ledger::Progress, reader, upkeep::Place},
    land::inspect::{PartitionLedger, Stranger, ledgers, strangers},
    shell,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Below either, a warning: a day of landing may need as much.
const LITTLE_SHARE: f64 = 0.10;
const LITTLE_BYTES: u64 = 5 << 30;
/// Below either, a failure: a commit may not fit.
const NO_SHARE: f64 = 0.01;
const NO_BYTES: u64 = 100 << 20;
/// Most files that are named one by one.
const MOST_LISTED: usize = 5;

/// Where each landed topic stands, by topic and partition, for the look at Kafka.
pub type Positions = BTreeMap<String, BTreeMap<i32, Progress>>;

/// Looks at the directories of every landed table. Blocks.
pub fn examine(pipeline: &Pipeline) -> (Findings, Positions) {
    let (mut findings, mut positions) = (Findings::new(Section::Lake), Positions::new());
    let Some(land) = &pipeline.land else { return (findings, positions) };
    room(&land.tables, &mut findings);
    for table in &land.tables {
        writable(table, &mut findings);
        same_file_system(table, &mut findings);
        // Before the ledgers, so that a file of a commit meanwhile is one that they know.
        let listings = [
            (&table.path, reader::list(&table.path)),
            (&table.dead_letter_path, reader::list(&table.dead_letter_path)),
        ];
        let found = match ledgers(table) {
            Ok(found) => found,
            Err(error) => {
                findings.failure("ledger", &table.topic, error.to_string(), error.cure());
                continue;
            }
        };
        let next = ledger(table, &found, &mut findings);
        positions.insert(table.topic.clone(), next);
        let mut unknown = Vec::new();
        for (root, listing) in listings {
            match listing {
                Ok(listing) => {
                    dates(&listing, root, &mut findings);
                    unknown.extend(strangers(&table.topic, &listing, &found));
                }
                Err(error) => findings.failure("foreign files", &shown(root), error.to_string(), None),
            }
        }
        foreign(table, unknown, &mut findings);
    }
    (findings, positions)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn room(tables: &[LandTable], findings: &mut Findings) {
    // One answer for each file system, under the first name by which it is met.
    let mut asked: BTreeSet<u64> = BTreeSet::new();
    for table in tables {
        for (path, key) in
            [(&table.path, "land.tables[].path"), (&table.checkpoint_location, "land.tables[].checkpoint_location")]
        {
            let existing = disk::nearest_existing(path);
            let room = disk::device(&existing).and_then(|device| Ok((device, disk::room(&existing)?)));
            match room {
                Ok((device, room)) if asked.insert(device) => judge_room(path, key, room, findings),
                Ok(_) => {}
                Err(error) => findings.failure("free space", &shown(path), error.to_string(), error.cure()),
            }
        }
    }
}

fn judge_room(path: &Path, key: &str, room: disk::Room, findings: &mut Findings) {
    let share = |free: u64, total: u64| if total == 0 { 1.0 } else { free as f64 / total as f64 };
    let (bytes, files) = (share(room.free_bytes, room.total_bytes), share(room.free_files, room.total_files));
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let mut message = format!("{} free, {}", amount::bytes(room.free_bytes), percent(bytes));
    if files < LITTLE_SHARE {
        message.push_str(&format!("; of the files that it can hold {} are left", percent(files)));
    }
    let cure =
        || Some(format!("make room on the file system of {}, or move {key} to another", shell::word(&shown(path))));
    if room.free_bytes < NO_BYTES || bytes < NO_SHARE || files < NO_SHARE {
        findings.failure("free space", &shown(path), message, cure());
    } else if room.free_bytes < LITTLE_BYTES || bytes < LITTLE_SHARE || files < LITTLE_SHARE {
        findings.warning("free space", &shown(path), message, cure());
    } else {
        findings.ok("free space", &shown(path), message);
    }
}

fn writable(table: &LandTable, findings: &mut Findings) {
    for path in [&table.path, &table.dead_letter_path, &table.checkpoint_location] {
        let existing = disk::nearest_existing(path);
        match disk::try_write(&existing) {
            Ok(()) if existing == *path => findings.ok("writable", &shown(path), "files can be written"),
            Ok(()) => findings.ok(
                "writable",
                &shown(path),
                format!("does not exist yet; can be made in {}", shown(&existing)),
            ),
            Err(error) => findings.failure("writable", &shown(path), error.to_string(), error.cure()),
        }
    }
}

fn same_file_system(table: &LandTable, findings: &mut Findings) {
    if let Err(error) = Place::of(table).check() {
        findings.failure("file system", &table.topic, error.to_string(), error.cure());
        return;
    }
    let staging = disk::nearest_existing(&table.checkpoint_location);
    for path in [&table.path, &table.dead_letter_path] {
        match check_same_file_system(&staging, &disk::nearest_existing(path)) {
            Ok(()) => {}
            Err(error) => {
                findings.failure("file system", &table.topic, error.to_string(), error.cure());
                return;
            }
        }
    }
    let message = "checkpoint_location, path and dead_letter_path are on one, so that files can be renamed into place";
    findings.ok("file system", &table.topic, message);
}

/// The positions that could be read.
fn ledger(
    table: &LandTable,
    found: &BTreeMap<i32, PartitionLedger>,
    findings: &mut Findings,
) -> BTreeMap<i32, Progress> {
    let mut next = BTreeMap::new();
    let mut is_whole = true;
    for (partition, ledger) in found {
        let staging = ledger.directory.join("staging");
        if staging.exists()
            && let Err(error) = disk::try_write(&staging)
        {
            findings.failure("writable", &shown(&staging), error.to_string(), error.cure());
        }
        match &ledger.progress {
            Ok(Some(progress)) => {
                next.insert(*partition, progress.clone());
            }
            Ok(None) => {}
            Err(error) => {
                is_whole = false;
                let subject = format!("{}-{partition}", table.topic);
                findings.failure("ledger", &subject, error.to_string(), error.cure());
            }
        }
    }
    if is_whole {
        let message = match next.len() {
            0 => "nothing has landed yet".to_owned(),
            count => format!("{} landed, and every ledger is whole", amount::counted(count, "partition")),
        };
        findings.ok("ledger", &table.topic, message);
    }
    next
}

/// The dates that are there must take files, too: late rows go to any of them.
fn dates(listing: &reader::Listing, root: &Path, findings: &mut Findings) {
    let dates: BTreeSet<&Path> = listing.files.iter().filter_map(|file| file.path.parent()).collect();
    let closed: Vec<&&Path> = dates.iter().filter(|date| !disk::may_write(date)).collect();
    if let Some(first) = closed.first() {
        let message = format!("{} of {} dates take no files, such as {}", closed.len(), dates.len(), first.display());
        let cure = format!("chown -R --reference={} {}", shell::word(&shown(root)), shell::word(&shown(first)));
        findings.failure("writable", &shown(root), message, Some(cure));
    }
}

fn foreign(table: &LandTable, unknown: Vec<Stranger>, findings: &mut Findings) {
    const CHECK: &str = "foreign files";
    if unknown.is_empty() {
        findings.ok(CHECK, &table.topic, "every file that readers see is in a ledger");
        return;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for stranger in unknown {
        match stranger {
            Stranger::Unrecorded(path) => ours.push(path),
            Stranger::Foreign(path) => theirs.push(path),
        }
    }
    if !ours.is_empty() {
        let message = format!(
            "{} named as those of this table, of which no ledger knows, such as {}: was an older ledger restored? Their \
             rows would be there twice",
            amount::counted(ours.len(), "file"),
            shown(&ours[0])
        );
        findings.failure(CHECK, &table.topic, message, Some(away(table, &ours)));
    }
    if !theirs.is_empty() {
        let message = format!(
            "{} of others, which readers of the table take for data, such as {}",
            amount::counted(theirs.len(), "file"),
            shown(&theirs[0])
        );
        findings.warning(CHECK, &table.topic, message, Some(away(table, &theirs)));
    }
}

/// Lines that move files out of the readers' sight.
fn away(table: &LandTable, paths: &[PathBuf]) -> String {
    let aside = PathBuf::from(format!("{}_foreign", table.path.display()));
    let aside = shell::word(&shown(&aside));
    let mut lines = vec![format!("mkdir -p {aside}")];
    lines.extend(paths.iter().take(MOST_LISTED).map(|path| format!("mv -n {} {aside}/", shell::word(&shown(path)))));
    if paths.len() > MOST_LISTED {
        lines.push(format!("# and {} more", paths.len() - MOST_LISTED));
    }
    lines.join("\n")
}
