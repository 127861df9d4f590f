//! A pipeline that loses its disk, its checkpoints or its topic, and goes on from a backup: without loss or
//! doubling where the sources still hold the data, and with the exact offsets of what they do not.

use crate::landing::general_head;
use crate::{
    doctor::{ROOM, doctor},
    harness::{
        DEADLINE, Run, Test, block_on, eventually,
        kafka::{create_topic, read_topic, topics},
        lake,
        run::Exit,
    },
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(120);

/// Orders from their table through a topic of three partitions into a lake.
pub struct Scene {
    pub test: Test,
    pub topic: String,
    pub file: String,
}

impl Scene {
    pub fn new() -> Scene {
        Scene::with_metadata(true)
    }

    fn with_metadata(metadata: bool) -> Scene {
        let test = Test::new();
        let topic = test.topic("orders");
        test.db().execute(
            "CREATE TABLE orders (order_id serial PRIMARY KEY, item varchar, amount numeric, placed_at timestamp,
                                  created_at timestamp NOT NULL DEFAULT now());
             CREATE INDEX ON orders (created_at)",
        );
        let (head, dir) = (general_head(&test), test.dir().display());
        let text = format!(
            "{head}\
             capture:\n  poll_interval_ms: 100\n  slack_ms: 300\n  chunk_rows: 100\n  max_transaction_rows: 100\n  \
             tables: [{{table: orders, topic: {topic}, watermark: created_at, partitions: 3}}]\n\
             land:\n  rotate_ms: 200\n  rotate_bytes: 4000\n  tables:\n    \
             - {{topic: {topic}, path: {dir}/disk/lake, checkpoint_location: {dir}/disk/checkpoints, \
                  date_column: placed_at, not_null: [order_id], non_negative: [amount], metadata_columns: {metadata}}}\n",
        );
        let file = test.write("headwater.yml", &text).display().to_string();
        Scene { test, topic, file }
    }

    /// Orders of the last ten days, every fiftieth a dead letter.
    pub fn insert(&self, count: u64) {
        self.test.db().execute(&format!(
            "INSERT INTO orders (item, amount, placed_at)
             SELECT 'Item ' || i, CASE WHEN i % 50 = 0 THEN -1 ELSE i END, now()::timestamp - i % 10 * interval '1 day'
             FROM generate_series(1, {count}) i"
        ));
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::start(&self.test, &[&arguments[..1], &["-c", &self.file], &arguments[1..]].concat())
    }

    #[track_caller]
    pub fn must(&self, arguments: &[&str]) -> Value {
        let mut run = self.run(&[arguments, &["--format", "json"]].concat());
        assert_eq!(run.wait(LIMIT), Exit::Code(0), "{arguments:?}: {}\n{}", run.stdout(), run.stderr());
        run.json()
    }

    pub fn catch_up(&self) {
        self.must(&["run", "--until-caught-up"]);
    }

    pub fn backup(&self, name: &str, more: &[&str]) -> (String, Value) {
        let to = self.test.path(name).display().to_string();
        let report = self.must(&[&["backup", "--to", &to], more].concat());
        (to, report)
    }

    pub fn restore(&self, from: &str, more: &[&str]) -> Value {
        self.must(&[&["restore", "--from", from], more].concat())
    }

    /// Lake, ledgers and dead letters.
    fn disk(&self) -> PathBuf {
        self.test.path("disk")
    }

    pub fn lose_disk(&self) {
        fs::remove_dir_all(self.disk()).expect("the disk is lost");
    }

    fn records(&self) -> usize {
        read_topic(&self.test.brokers, &self.topic, true).len()
    }

    /// Partition and offset of each row and dead letter in the lake, sorted.
    fn landed(&self) -> Vec<(i64, i64)> {
        let number = |row: &lake::Row, column: &str| row[column].as_i64().expect("a number");
        let rows = lake::read_table(&self.disk().join("lake"));
        let mut places: Vec<(i64, i64)> =
            rows.iter().map(|row| (number(row, "_kafka_partition"), number(row, "_kafka_offset"))).collect();
        let letters = lake::dead_letters(&self.disk().join("lake_dead_letters"));
        places.extend(letters.iter().map(|letter| (letter.partition, letter.offset)));
        places.sort_unstable();
        places
    }

    /// Each row of the table is in the topic once, each record in the lake once, and `verify` says so.
    #[track_caller]
    fn assert_whole(&self, rows: usize) {
        assert_eq!(self.records(), rows, "records");
        let mut landed = self.landed();
        let count = landed.len();
        landed.dedup();
        assert_eq!((landed.len(), count), (rows, rows), "landed, without and with doubles");
        assert_eq!(self.must(&["verify", "--strict"])["ok"], true);
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.test.brokers).create().expect("an admin client")
    }

    pub fn delete_topic(&self, topic: &str) {
        let deleted = block_on(self.admin().delete_topics(&[topic], &AdminOptions::new())).expect("an answer");
        deleted[0].as_ref().expect("the topic goes");
        eventually(DEADLINE, "the topic is gone", || !topics(&self.test.brokers).iter().any(|found| found == topic));
    }
}

fn files(root: &Path) -> usize {
    lake::table_files(root).len()
}

#[test]
fn a_lost_disk_is_landed_again_from_the_topic() {
    let scene = Scene::new();
    scene.insert(600);
    scene.catch_up();
    let (backup, report) = scene.backup("backup", &[]);
    assert_eq!((&report["ledgers"], &report["checkpoints"], &report["data_rows"]), (&3.into(), &1.into(), &600.into()));
    scene.insert(300);
    scene.catch_up();
    scene.lose_disk();

    let planned = scene.restore(&backup, &["--dry-run"]);
    assert!(!scene.disk().join("checkpoints").join(format!("{}-0", scene.topic)).exists(), "nothing was done");
    let done = scene.restore(&backup, &[]);
    assert_eq!(done["steps"], planned["steps"]);
    assert_eq!(done["missing"], json!([]));
    scene.catch_up();
    scene.assert_whole(900);
    // Now there is nothing to restore, and nothing is touched.
    let again = scene.restore(&backup, &[]);
    assert_eq!((&again["steps"], again["left"].as_array().map(Vec::len)), (&json!([]), Some(4)), "{again}");
    scene.assert_whole(900);
}

#[test]
fn a_backup_with_data_made_of_a_running_pipeline_needs_the_topic_only_for_what_came_after() {
    let scene = Scene::new();
    scene.insert(600);
    let mut run = scene.run(&["run"]);
    eventually(LIMIT, "some have landed", || files(&scene.disk().join("lake")) > 3);
    scene.insert(300);
    let (backup, report) = scene.backup("backup", &["--with-data"]);
    scene.insert(300);
    eventually(LIMIT, "all have landed", || scene.landed().len() == 1200);
    run.terminate();
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    let held = report["data_rows"].as_u64().expect("rows");
    assert!((1..=900).contains(&held), "{report}");
    scene.lose_disk();

    // A restore that is killed is run again; meanwhile no landing begins beside the files of a partition.
    let arguments = ["restore", "-c", &scene.file, "--from", &backup];
    let mut killed = Run::with_env(&scene.test, &arguments, &[("HEADWATER_FAILPOINTS", "restore.before_ledger=kill")]);
    assert_eq!(killed.wait(LIMIT), Exit::Signal(libc::SIGKILL));
    let mut land = scene.run(&["land", "--until-caught-up"]);
    assert_eq!(land.wait(LIMIT), Exit::Code(1));
    assert!(land.stdout().contains("there is no ledger"), "{}", land.stdout());
    let done = scene.restore(&backup, &[]);
    assert_eq!(done["missing"], json!([]));
    scene.catch_up();
    scene.assert_whole(1200);
}

#[test]
fn what_neither_backup_nor_topic_hold_is_named_by_its_offsets() {
    let scene = Scene::new();
    scene.insert(600);
    scene.catch_up();
    let (backup, _) = scene.backup("backup", &[]);
    scene.insert(300);
    scene.catch_up();
    let ends: Vec<i64> = (0..3)
        .map(|p| scene.landed().iter().filter(|(at, _)| *at == p).map(|(_, offset)| *offset).max().unwrap())
        .collect();
    let all = scene.landed();
    scene.lose_disk();
    // The topic has dropped the first hundred offsets of each partition.
    let mut before = TopicPartitionList::new();
    for partition in 0..3 {
        before.add_partition_offset(&scene.topic, partition, Offset::Offset(100)).expect("an offset");
    }
    block_on(scene.admin().delete_records(&before, &AdminOptions::new())).expect("the records go");
    assert!(ends.iter().all(|end| *end > 150), "{ends:?}");

    let done = scene.restore(&backup, &[]);
    let missing = done["missing"].as_array().expect("a list");
    for partition in 0..3 {
        let of = || missing.iter().filter(|missing| missing["partition"] == partition);
        assert_eq!(of().map(|missing| missing["first_offset"].as_i64().unwrap()).min(), Some(0), "{done}");
        assert_eq!(of().map(|missing| missing["last_offset"].as_i64().unwrap()).max(), Some(99), "{done}");
    }
    scene.catch_up();
    let kept: Vec<(i64, i64)> = all.into_iter().filter(|(_, offset)| *offset >= 100).collect();
    assert_eq!(scene.landed(), kept, "what the topic holds is there once");
}

#[test]
fn lost_checkpoints_are_put_back_and_nothing_is_captured_twice() {
    let scene = Scene::new();
    scene.insert(400);
    scene.catch_up();
    let (backup, _) = scene.backup("backup", &[]);
    let checkpoints = format!("headwater-{}-checkpoints", scene.test.prefix);
    scene.delete_topic(&checkpoints);
    let done = scene.restore(&backup, &[]);
    assert_eq!(done["steps"].as_array().map(Vec::len), Some(1), "{done}");
    scene.insert(100);
    scene.catch_up();
    scene.assert_whole(500);
}

#[test]
fn a_lost_topic_is_named_with_what_had_not_landed() {
    let scene = Scene::new();
    scene.insert(300);
    scene.catch_up();
    scene.insert(100);
    scene.must(&["capture", "--until-caught-up"]);
    let (backup, _) = scene.backup("backup", &["--with-data"]);
    let landed = scene.landed().len();
    assert_eq!((landed, scene.records()), (300, 400));
    scene.lose_disk();
    scene.delete_topic(&scene.topic);
    create_topic(&scene.test.brokers, &scene.topic, 3, &[]);
    let done = scene.restore(&backup, &[]);
    assert_eq!(scene.landed().len(), landed);
    let missing = done["missing"].as_array().expect("a list");
    // The markers of transactions have offsets, too.
    let offsets: i64 = missing
        .iter()
        .map(|missing| missing["last_offset"].as_i64().unwrap() - missing["first_offset"].as_i64().unwrap() + 1)
        .sum();
    assert!((100..110).contains(&offsets), "{done}");
    assert!(missing[0]["what"].as_str().unwrap().contains("--resync"), "{done}");
}

#[test]
fn a_lost_date_is_landed_again_where_it_is_asked_for() {
    let scene = Scene::new();
    scene.insert(600);
    scene.catch_up();
    let (backup, _) = scene.backup("backup", &[]);
    // Files that were merged since are not missing.
    scene.must(&["compact", "--quiet-minutes", "0"]);
    let left = scene.restore(&backup, &[]);
    assert!(!left["left"].to_string().contains("--force"), "{left}");
    let date = fs::read_dir(scene.disk().join("lake")).expect("dates").flatten().next().expect("a date").path();
    fs::remove_dir_all(&date).expect("a date is lost");
    let left = scene.restore(&backup, &[]);
    assert_eq!(left["steps"], json!([]));
    assert!(left["left"][0]["why"].as_str().unwrap().contains("--force"), "{left}");
    // The checkpoints of capture are the same still, so that nothing is published again.
    let done = scene.restore(&backup, &["--force"]);
    assert_eq!(done["missing"], json!([]));
    scene.catch_up();
    scene.assert_whole(600);
}

#[test]
fn a_backup_is_whole_or_is_not_there() {
    let scene = Scene::new();
    scene.insert(100);
    scene.catch_up();
    let (backup, _) = scene.backup("backup", &["--with-data"]);
    let mut again = scene.run(&["backup", "--to", &backup]);
    assert_eq!(again.wait(LIMIT), Exit::Code(1));
    assert!(again.stderr().contains("is there already"), "{}", again.stderr());

    scene.lose_disk();
    let data = crate::landing::walk(Path::new(&backup))
        .into_iter()
        .find(|file| file.extension().is_some_and(|e| e == "parquet"));
    let data = data.expect("a data file");
    let sound = fs::read(&data).expect("its bytes");
    let mut damaged = sound.clone();
    damaged[10] ^= 1;
    for bytes in [&damaged[..], &sound[..sound.len() - 1]] {
        fs::write(&data, bytes).expect("the damage");
        let mut run = scene.run(&["restore", "--from", &backup]);
        assert_eq!(run.wait(LIMIT), Exit::Code(1));
        assert!(run.stderr().contains(&data.display().to_string()), "{}", run.stderr());
        assert_eq!(scene.landed(), [], "nothing was restored");
    }
    fs::write(&data, &sound).expect("sound again");
    scene.restore(&backup, &[]);
    scene.catch_up();
    scene.assert_whole(100);
}

#[test]
fn doctor_finds_nothing_wrong_with_what_these_commands_leave() {
    let scene = Scene::new();
    scene.insert(600);
    scene.catch_up();
    let look = |what: &str| {
        let said = doctor(&scene.test, &scene.file, &[]);
        assert_eq!(said.troubles(&[ROOM]), [] as [&Value; 0], "{what}:\n{said}");
        said.assert_ok("foreign files", &scene.topic);
    };
    look("before");
    // Killed with both directories of a date in their changed places, run again, and all done.
    let arguments = ["compact", "-c", &scene.file, "--quiet-minutes", "0"];
    let failpoint = [("HEADWATER_FAILPOINTS", "upkeep.after_exchange=kill@2")];
    let mut killed = Run::with_env(&scene.test, &arguments, &failpoint);
    assert_eq!(killed.wait(LIMIT), Exit::Signal(libc::SIGKILL), "{}", killed.stderr());
    look("a compact that was killed");
    assert_ne!(
        scene.must(&arguments[..1].iter().chain(&arguments[3..]).copied().collect::<Vec<_>>())["dates"],
        json!([])
    );
    look("a compact");
    scene.insert(100);
    scene.catch_up();
    look("a landing into merged dates");
    let expire = ["expire", "-c", &scene.file, "--older-than-days", "5"];
    let mut killed = Run::with_env(&scene.test, &expire, &failpoint);
    assert_eq!(killed.wait(LIMIT), Exit::Signal(libc::SIGKILL), "{}", killed.stderr());
    look("an expire that was killed");
    assert_ne!(scene.must(&["expire", "--older-than-days", "5"])["dates"], json!([]));
    look("an expire");

    let (with_data, _) = scene.backup("with-data", &["--with-data"]);
    let (without, _) = scene.backup("without", &[]);
    look("a backup");
    scene.lose_disk();
    scene.restore(&with_data, &[]);
    look("a restore of the files");
    scene.catch_up();
    look("a landing after it");
    scene.lose_disk();
    scene.restore(&without, &[]);
    look("a restore of the ledgers");
    scene.catch_up();
    look("a landing from the topic");
    // Files with records that are read again are set aside.
    scene.must(&["compact", "--quiet-minutes", "0"]);
    let date = fs::read_dir(scene.disk().join("lake")).expect("dates").flatten().next().expect("a date").path();
    fs::remove_dir_all(&date).expect("a date is lost");
    let done = scene.restore(&without, &["--force"]);
    assert!(done["steps"].to_string().contains("aside") && !files_aside(&scene).is_empty(), "{done}");
    look("a restore that set files aside");
    scene.catch_up();
    look("a landing of these");
    // It can fail: the same file, where readers see it.
    let aside = files_aside(&scene).remove(0);
    fs::create_dir_all(&date).expect("the date");
    fs::copy(&aside, date.join("copy.parquet")).expect("a copy");
    let (message, _) = doctor(&scene.test, &scene.file, &[]).trouble("warning", "foreign files", &scene.topic);
    assert!(message.contains("copy.parquet"), "{message}");
}

fn files_aside(scene: &Scene) -> Vec<PathBuf> {
    crate::landing::walk(&scene.disk().join("checkpoints").join(format!("{}.aside", scene.topic)))
}

/// Merged files hold records on both sides of the topic's first. What the topic holds is landed again, and the rows of
/// what it has dropped stay, whether rows say their offsets or not.
#[test]
fn of_a_file_that_the_topic_holds_in_part_the_older_rows_stay() {
    for metadata in [true, false] {
        let scene = Scene::with_metadata(metadata);
        scene.insert(900);
        scene.catch_up();
        scene.must(&["compact", "--older-than-days", "0", "--quiet-minutes", "0"]);
        let (from, _) = scene.backup("backup", &[]);
        let messages = read_topic(&scene.test.brokers, &scene.topic, true);

        // A date is lost, and the topic's older half, and the ledgers.
        let table = scene.disk().join("lake");
        let lost = fs::read_dir(&table).expect("the dates").flatten().map(|entry| entry.path()).min().expect("a date");
        let date = lost.file_name().expect("a name").to_string_lossy().replace("date=", "");
        fs::remove_dir_all(&lost).expect("the date is lost");
        let mut low = [0; 3];
        let mut before = TopicPartitionList::new();
        for (partition, low) in low.iter_mut().enumerate() {
            let of_it: Vec<i64> =
                messages.iter().filter(|m| m.partition == partition as i32).map(|message| message.offset).collect();
            *low = of_it[of_it.len() / 2];
            before.add_partition_offset(&scene.topic, partition as i32, Offset::Offset(*low)).expect("an offset");
        }
        block_on(scene.admin().delete_records(&before, &AdminOptions::new())).expect("records deleted");
        for partition in 0..3 {
            let ledger = scene.disk().join(format!("checkpoints/{}-{partition}", scene.topic));
            fs::remove_dir_all(ledger).expect("the ledger is lost");
        }

        let report = scene.restore(&from, &[]);
        let missing = report["missing"].as_array().expect("a list");
        let is_of_lost = |one: &Value| one["what"].as_str().is_some_and(|what| what.contains("files that are gone"));
        assert!(!missing.is_empty() && missing.iter().all(is_of_lost), "{report}");
        scene.catch_up();
        let mut landed: Vec<i64> =
            lake::read_table(&table).iter().map(|row| row["order_id"].as_i64().expect("an id")).collect();
        landed.sort_unstable();
        let mut expected: Vec<i64> = messages
            .iter()
            .map(|message| (message, message.json()))
            .filter(|(_, order)| order["amount"].as_f64().is_some_and(|amount| amount >= 0.0))
            .filter(|(message, order)| {
                let is_lost = order["placed_at"].as_str().is_some_and(|at| at.starts_with(&date));
                !is_lost || message.offset >= low[message.partition as usize]
            })
            .map(|(_, order)| order["order_id"].as_i64().expect("an id"))
            .collect();
        expected.sort_unstable();
        assert_eq!(landed, expected, "with offsets in the rows: {metadata}");
        assert_eq!(lake::dead_letters(&scene.disk().join("lake_dead_letters")).len(), 18);
    }
}
