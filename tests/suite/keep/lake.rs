//! What has landed, compacted and expired.

use crate::harness::{DEADLINE, Run, Test, eventually, kafka::create_topic, lake, run::Exit};
use crate::landing::{self, Table, Writer};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

pub const OLD: [&str; 2] = ["2025-01-15", "2025-01-16"];
/// Every failpoint of a swap; each is met at least once where a date has several files.
const FAILPOINTS: [&str; 6] = [
    "upkeep.before_note",
    "upkeep.after_note",
    "upkeep.before_exchange",
    "upkeep.after_exchange",
    "upkeep.mid_delete",
    "upkeep.before_done",
];

pub struct Scene {
    pub test: Test,
    pub table: Table,
    pub file: String,
    next_id: AtomicUsize,
}

impl Scene {
    /// A landed topic of two partitions, landed in commits of a few records each.
    pub fn new() -> Scene {
        let test = Test::new();
        let schema = landing::orders_schema(&test);
        let table = Table::orders_by_file(&test.path("base"), &test.topic("orders"), &schema);
        create_topic(&test.brokers, &table.topic, 2, &[]);
        let config =
            landing::land_config(&test, std::slice::from_ref(&table), &["rotate_bytes: 2000", "rotate_ms: 200"]);
        let file = test.write("land.yml", &config).display().to_string();
        Scene { test, table, file, next_id: AtomicUsize::new(0) }
    }

    /// Orders of two old dates and of today, with a dead letter among each ten.
    pub fn write(&self, count: usize) {
        let writer = Writer::new(&self.test.brokers, &self.table.topic);
        let today = chrono::Utc::now().format("%Y-%m-%d").to_string();
        let first = self.next_id.fetch_add(count, Ordering::Relaxed);
        for id in first..first + count {
            let date = if id % 3 == 2 { &today } else { OLD[id % 3] };
            let time = if id % 10 == 9 { "no time".to_owned() } else { format!("{date}T12:00:00Z") };
            writer.order((id % 2) as i32, id as i64, &time);
        }
        writer.flush();
    }

    fn run(&self, arguments: &[&str], failpoint: &str) -> Run {
        let arguments = [&arguments[..1], &["-c", &self.file], &arguments[1..]].concat();
        Run::with_env(&self.test, &arguments, &[("HEADWATER_FAILPOINTS", failpoint)])
    }

    #[track_caller]
    pub fn must(&self, arguments: &[&str]) -> Value {
        let mut run = self.run(&[arguments, &["--format", "json"]].concat(), "");
        let exit = run.wait(DEADLINE);
        assert_eq!(exit, Exit::Code(0), "{arguments:?}: {}\n{}", run.stdout(), run.stderr());
        run.json()
    }

    pub fn land(&self) {
        self.must(&["land", "--until-caught-up"]);
    }

    pub fn compact(&self) -> Value {
        self.must(&["compact", "--quiet-minutes", "0"])
    }

    /// Everything that was written is there once, and `verify` says so too.
    #[track_caller]
    fn assert_whole(&self) {
        self.table.assert_exactly(&landing::written(&self.test, &self.table.topic));
        assert_eq!(self.leftovers(), Vec::<PathBuf>::new());
        let report = self.must(&["verify", "--strict"]);
        assert_eq!((&report["ok"], &report["tables"][0]["warnings"]), (&true.into(), &serde_json::json!([])));
    }

    /// What a swap may leave aside, which is nothing but its note.
    fn leftovers(&self) -> Vec<PathBuf> {
        let directory = self.table.checkpoints.join(format!("{}.upkeep", self.table.topic));
        landing::walk(&directory).into_iter().filter(|file| !file.ends_with("state")).collect()
    }

    /// Files by date.
    fn files(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for file in lake::table_files(&self.table.path) {
            let date = file.parent().and_then(|date| date.file_name()).expect("a date").to_string_lossy().into_owned();
            *counts.entry(date).or_default() += 1;
        }
        counts
    }

    fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> =
            lake::read_table(&self.table.path).iter().map(|row| Value::Object(row.clone()).to_string()).collect();
        rows.sort();
        rows
    }

    fn old_directory(&self, date: &str) -> PathBuf {
        self.table.path.join(format!("date={date}"))
    }
}

#[test]
fn small_files_of_closed_dates_become_one_a_partition() {
    let scene = Scene::new();
    scene.write(600);
    scene.land();
    let (before, rows) = (scene.files(), scene.rows());
    assert!(before.values().all(|files| *files > 4), "{before:?}");

    let planned = scene.must(&["compact", "--quiet-minutes", "0", "--dry-run"]);
    assert_eq!(planned["dates"].as_array().expect("dates").len(), 2, "{planned}");
    assert_eq!(scene.files(), before);
    let quiet = scene.must(&["compact"]);
    assert_eq!((quiet["dates"].as_array().map(Vec::len), quiet["left"].as_array().map(Vec::len)), (Some(0), Some(2)));
    assert_eq!(scene.files(), before, "the dates received files just now");

    let done = scene.compact();
    let after = scene.files();
    for date in OLD {
        assert_eq!(after[&format!("date={date}")], 2, "one for each partition");
    }
    let today = before.keys().last().expect("today");
    assert_eq!(after[today], before[today], "today is not closed");
    assert_eq!(done["dates"][0]["files_before"], before["date=2025-01-15"]);
    assert_eq!(scene.rows(), rows);
    scene.assert_whole();
    let merged =
        lake::table_files(&scene.table.path).into_iter().filter(|file| file.starts_with(scene.old_directory(OLD[0])));
    for file in merged {
        let offsets: Vec<i64> =
            lake::read_file(&file).iter().map(|row| row["_kafka_offset"].as_i64().expect("an offset")).collect();
        assert!(offsets.len() > 50 && offsets.is_sorted(), "{}", file.display());
    }
    assert_eq!(scene.compact()["dates"], serde_json::json!([]), "there is nothing left to do");

    // Landing goes on behind it, also into the same dates.
    scene.write(60);
    scene.land();
    scene.assert_whole();
}

#[test]
fn readers_and_a_landing_beside_a_compaction_notice_nothing() {
    let scene = Scene::new();
    scene.write(600);
    scene.land();
    let directory = scene.old_directory(OLD[0]);
    let expected = rows_of(&directory).expect("nobody disturbs");
    let mut land = scene.run(&["land"], "");
    landing::wait_for_state(&land, &scene.table.topic, &["caught_up"]);
    let (stop, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if let Some(rows) = rows_of(&directory) {
                    assert_eq!(rows, expected, "a reader saw rows twice or not at all");
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let _stop = crate::pipeline::Stop(&stop);
        eventually(DEADLINE, "a look before", || looks.load(Ordering::Relaxed) > 0 || reader.is_finished());
        scene.compact();
        let before = looks.load(Ordering::Relaxed);
        eventually(DEADLINE, "a look after", || looks.load(Ordering::Relaxed) > before || reader.is_finished());
    });
    assert_eq!(scene.files()["date=2025-01-15"], 2);
    scene.write(300);
    landing::wait_for_landed(&scene.table, 900);
    land.terminate();
    assert_eq!(land.wait(DEADLINE), Exit::Code(0));
    scene.assert_whole();
}

/// How many rows a date has, for a reader that lists, opens every file it saw, and lists again where that
/// fails or the names have changed.
fn rows_of(directory: &PathBuf) -> Option<i64> {
    let names = |directory: &PathBuf| {
        let entries = fs::read_dir(directory).ok()?;
        let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        names.sort();
        Some(names)
    };
    let listed = names(directory)?;
    let mut rows = 0;
    for path in &listed {
        let file = fs::File::open(path).ok()?;
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).ok()?;
        rows += reader.metadata().file_metadata().num_rows();
    }
    (names(directory)? == listed).then_some(rows)
}

#[test]
fn a_killed_compaction_is_finished_or_undone_by_whoever_comes_next() {
    for failpoint in FAILPOINTS {
        let scene = Scene::new();
        scene.write(240);
        scene.land();
        for next in ["land", "compact"] {
            let armed = format!("{failpoint}=kill");
            let mut run = scene.run(&["compact", "--quiet-minutes", "0"], &armed);
            assert_eq!(run.wait(DEADLINE), Exit::Signal(libc::SIGKILL), "{armed}: {}", run.stderr());
            scene.write(60);
            match next {
                "land" => scene.land(),
                _ => {
                    scene.compact();
                    scene.land();
                }
            }
            scene.assert_whole();
        }
        scene.compact();
        scene.assert_whole();
        assert_eq!(scene.files()["date=2025-01-15"], 2, "after {failpoint}");
    }
}

/// What lands in the moment of an exchange is out of sight of readers for the length of a rename; where the
/// compaction is killed in that moment, the landing that runs beside it puts it back.
#[test]
fn a_running_landing_finishes_a_compaction_that_is_killed_beside_it() {
    let scene = Scene::new();
    scene.write(240);
    scene.land();
    let mut land = scene.run(&["land"], "");
    landing::wait_for_state(&land, &scene.table.topic, &["caught_up"]);
    let armed = "upkeep.before_exchange=stop;upkeep.after_exchange=kill";
    let mut compact = scene.run(&["compact", "--quiet-minutes", "0"], armed);
    eventually(DEADLINE, "all is ready for the exchange", || compact.is_stopped());
    scene.write(60);
    landing::wait_for_landed(&scene.table, 300);
    compact.go_on();
    assert_eq!(compact.wait(DEADLINE), Exit::Signal(libc::SIGKILL), "{}", compact.stderr());
    eventually(DEADLINE, "the landing finishes the exchange", || {
        scene.leftovers().is_empty() && scene.table.landed() == 300
    });
    assert_eq!(land.get("/ready").map(|(code, _)| code), Some(200));
    land.terminate();
    assert_eq!(land.wait(DEADLINE), Exit::Code(0));
    scene.assert_whole();
}

/// A process that had looked the directory up before the exchange publishes into the one that is being deleted.
#[test]
fn a_file_that_comes_while_the_old_ones_are_deleted_goes_into_the_table() {
    let scene = Scene::new();
    scene.write(240);
    scene.land();
    let mut compact = scene.run(&["compact", "--quiet-minutes", "0"], "upkeep.mid_delete=stop");
    eventually(DEADLINE, "a file is deleted", || compact.is_stopped());
    let aside = scene.table.checkpoints.join(format!("{}.upkeep/swap", scene.table.topic));
    fs::write(aside.join("late"), "late").expect("a late file");
    compact.go_on();
    assert_eq!(compact.wait(DEADLINE), Exit::Code(0), "{}", compact.stderr());
    let late = scene.old_directory(OLD[0]).join("late");
    assert_eq!(fs::read(&late).expect("it is in the table"), b"late");
    fs::remove_file(late).expect("it goes");
    scene.assert_whole();
}

/// What was written is read again before anything takes the place of what it was made of.
#[test]
fn a_merged_file_that_does_not_hold_its_sources_takes_the_place_of_none() {
    let scene = Scene::new();
    scene.write(240);
    scene.land();
    let (files, rows) = (scene.files(), scene.rows());
    let mut compact = scene.run(&["compact", "--quiet-minutes", "0", "--format", "json"], "compact.before_check=stop");
    eventually(DEADLINE, "a merged file is written", || compact.is_stopped());
    let merged = scene.table.checkpoints.join(format!("{}.upkeep/new/0", scene.table.topic));
    let ids =
        |path: &PathBuf| -> Vec<Value> { lake::read_file(path).iter().map(|row| row["order_id"].clone()).collect() };
    let written = ids(&merged);
    // Whole and readable, and one of the files it was made of.
    let one = lake::table_files(&scene.table.path)
        .into_iter()
        .find(|file| ids(file).iter().all(|id| written.contains(id)))
        .expect("a source");
    assert!(ids(&one).len() < written.len());
    fs::copy(one, &merged).expect("the damage");
    compact.go_on();
    assert_eq!(compact.wait(DEADLINE), Exit::Code(1), "{}", compact.stderr());
    let failures = compact.json()["failures"].to_string();
    assert!(failures.contains("were read back"), "{failures}");
    assert_eq!((scene.files(), scene.rows()), (files, rows));
    scene.compact();
    scene.assert_whole();
}

#[test]
fn expired_dates_stay_away_and_are_not_lost() {
    let scene = Scene::new();
    scene.write(600);
    scene.land();
    let before = scene.files();
    let mut without_age = scene.run(&["expire", "--dry-run"], "");
    assert_eq!(without_age.wait(DEADLINE), Exit::Code(2), "{}", without_age.stdout());
    assert!(without_age.stderr().contains("--older-than-days"), "{}", without_age.stderr());
    let arguments = ["expire", "--older-than-days", "30"];
    let planned = scene.must(&[&arguments[..], &["--dry-run"]].concat());
    assert_eq!(scene.files(), before);
    let rows: u64 = planned["dates"].as_array().expect("dates").iter().map(|date| date["rows"].as_u64().unwrap()).sum();
    assert_eq!(rows, 360, "two of three rows are old, nine of ten are rows: {planned}");

    let done = scene.must(&arguments);
    assert_eq!(done["dates"], planned["dates"]);
    assert_eq!(scene.files().len(), 1, "today stays, and nothing is left of the others");
    assert!(!scene.old_directory(OLD[0]).exists());
    let report = scene.must(&["verify", "--strict"]);
    assert_eq!((&report["ok"], &report["expired_count"]), (&true.into(), &360.into()));
    assert_eq!(scene.must(&arguments)["dates"], serde_json::json!([]));

    // A landing brings nothing back, and lands what comes late for such a date.
    scene.write(60);
    scene.land();
    assert_eq!(scene.table.positions().len(), 180 + 54);
    let report = scene.must(&["verify", "--strict"]);
    assert_eq!((&report["ok"], &report["expired_count"]), (&true.into(), &360.into()));

    // What expire did not drop is lost, whatever its date.
    let late = lake::table_files(&scene.table.path);
    let late = late.iter().find(|file| file.starts_with(scene.old_directory(OLD[0]))).expect("a late file");
    let (bytes, rows) = (fs::read(late).expect("its bytes"), lake::read_file(late).len());
    fs::remove_file(late).expect("it goes");
    let mut run = scene.run(&["verify", "--format", "json"], "");
    assert_eq!(run.wait(DEADLINE), Exit::Code(1));
    assert_eq!(run.json()["lost_count"], rows);
    fs::write(late, bytes).expect("it comes back");
    scene.must(&arguments);
    let report = scene.must(&["verify", "--strict"]);
    assert_eq!((&report["ok"], &report["expired_count"]), (&true.into(), &(360 + 36).into()));
}

#[test]
fn a_killed_expire_ends_beside_a_landing_and_counts_once() {
    for failpoint in FAILPOINTS {
        let scene = Scene::new();
        scene.write(240);
        scene.land();
        let arguments = ["expire", "--older-than-days", "30"];
        let mut run = scene.run(&arguments, &format!("{failpoint}=kill"));
        assert_eq!(run.wait(DEADLINE), Exit::Signal(libc::SIGKILL), "{failpoint}: {}", run.stderr());
        // At every moment verify tells what is gone from what is lost.
        let report = scene.must(&["verify", "--strict"]);
        assert_eq!(report["ok"], true, "after {failpoint}");
        scene.land();
        scene.must(&arguments);
        assert_eq!(scene.leftovers(), Vec::<PathBuf>::new(), "after {failpoint}");
        let report = scene.must(&["verify", "--strict"]);
        assert_eq!((&report["ok"], &report["expired_count"]), (&true.into(), &144.into()), "after {failpoint}");
        let state = scene.table.checkpoints.join(format!("{}.upkeep/state", scene.table.topic));
        let state: Value = serde_json::from_slice(&fs::read(state).expect("the note")).expect("JSON");
        assert_eq!(state["dropped"]["table"]["rows"], 144, "after {failpoint}: {state}");
    }
}

#[test]
fn dead_letters_expire_by_an_option_of_their_own() {
    let scene = Scene::new();
    scene.write(100);
    scene.land();
    assert_eq!(scene.table.dead_positions().len(), 10);
    // Their date is that of their record, which is today: as if it had been long ago.
    let today = fs::read_dir(&scene.table.dead_letters).expect("the dates").flatten().next().expect("today").path();
    let old = scene.table.dead_letters.join("date=2025-01-15");
    fs::rename(today, old).expect("another date");
    scene.must(&["expire", "--older-than-days", "36500"]);
    assert_eq!(scene.table.dead_positions().len(), 10);
    let done = scene.must(&["expire", "--dead-letters-older-than-days", "30"]);
    assert_eq!(done["dates"][0]["rows"], 10);
    assert_eq!(scene.table.dead_positions().len(), 0);
    assert_eq!(scene.table.positions().len(), 90);
}

#[test]
fn a_date_with_a_directory_in_it_and_a_file_of_no_ledger_are_left_alone() {
    let scene = Scene::new();
    scene.write(240);
    scene.land();
    let rows = scene.rows();
    let directory = scene.old_directory(OLD[0]).join("mine");
    fs::create_dir(&directory).expect("somebody's directory");
    let mut run = scene.run(&["compact", "--quiet-minutes", "0"], "");
    assert_eq!(run.wait(DEADLINE), Exit::Code(1));
    assert!(run.stdout().contains(&directory.display().to_string()), "{}", run.stdout());
    assert_eq!(scene.rows(), rows);
    fs::remove_dir(&directory).expect("it goes");

    let foreign = scene.old_directory(OLD[0]).join(format!("part-{}-0-100000-100001-0.parquet", scene.table.topic));
    fs::write(&foreign, "not ours").expect("a file of somebody else");
    let mut run = scene.run(&["expire", "--older-than-days", "30"], "");
    assert_eq!(run.wait(DEADLINE), Exit::Code(1));
    assert!(run.stdout().contains("does not vouch for"), "{}", run.stdout());
    fs::remove_file(&foreign).expect("it goes");
    scene.compact();
    scene.assert_whole();
}
