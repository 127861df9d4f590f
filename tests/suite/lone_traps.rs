//! Each way to lose a row by itself, in a database where nothing else is open: in a crowd some older
//! transaction holds the bound back and hides what is wrong.

use crate::{
    harness::{DEADLINE, Db, Run, Test, eventually},
    pipeline::{catch_up, committed, config, drain, setting, start, write},
    reconcile::compare,
    workload::Target,
};
use serde_json::json;
use std::time::{Duration, Instant};

pub const TABLES: [Target; 2] = [
    Target::new("by_timestamp", "created_at", "timestamp"),
    Target::new("by_timestamptz", "updated_at", "timestamptz(3)"),
];
const SLACK: Duration = Duration::from_millis(400);

pub struct Scene {
    pub test: Test,
    pub db: Db,
    pub run: Run,
}

impl Scene {
    /// A capture that has polled. `before` is done before its first poll.
    pub fn start(poll_interval_ms: u64, before: impl FnOnce(&Test, &Db)) -> Scene {
        let scene = Scene::launch(poll_interval_ms, before);
        scene.pass();
        scene
    }

    /// A capture over two tables that has just been started.
    fn launch(poll_interval_ms: u64, before: impl FnOnce(&Test, &Db)) -> Scene {
        let test = Test::new();
        let db = test.db();
        for target in &TABLES {
            target.create(&db);
        }
        before(&test, &db);
        let tables = TABLES.map(
            |target| json!({"table": target.name, "topic": test.topic(target.name), "watermark": target.watermark}),
        );
        let keys =
            json!({"slack_ms": SLACK.as_millis() as u64, "poll_interval_ms": poll_interval_ms, "chunk_rows": 20});
        let file = write(&test, "capture.yml", &config(&test, keys, json!(tables)));
        let run = start(&test, &file, &[], &[]);
        Scene { test, db, run }
    }

    /// Waits until polls have come whose bounds would lie behind now, if nothing held them back.
    pub fn pass(&self) {
        let marker = Db::connect(&self.test.postgres);
        let begun = Instant::now();
        let mut last_round = false;
        while !last_round {
            last_round = begun.elapsed() > SLACK * 2;
            for target in &TABLES {
                marker.execute(&format!("INSERT INTO {} (kind) VALUES ('marker')", target.name));
                let newest = marker.count(&format!("SELECT max(id) FROM {} WHERE kind = 'marker'", target.name));
                self.wait_for(target, &format!("marker {newest}"), |row| row["id"] == newest);
            }
        }
    }

    fn wait_for(&self, target: &Target, what: &str, condition: impl Fn(&serde_json::Value) -> bool) {
        eventually(DEADLINE, &format!("{what} in {}", target.name), || {
            committed(&self.test, &self.test.topic(target.name)).iter().any(|message| condition(&message.json()))
        });
    }

    /// What was done is captured: a marker written after it is, and so must be all before it.
    pub fn finish(mut self, what: &str) {
        self.pass();
        drain(&mut self.run);
        catch_up(&self.test, &self.test.path("capture.yml"), &[]);
        for target in &TABLES {
            let found = compare(&self.db, target, &committed(&self.test, &self.test.topic(target.name)), &[]);
            eprintln!("{what}, {}: {} rows, {} lost", target.name, found.rows, found.lost.len());
            found.assert_exact(what);
        }
    }
}

pub fn each(statement: &str) -> String {
    TABLES.map(|target| statement.replace("{t}", target.name)).join("; ")
}

#[test]
fn a_transaction_that_began_long_before_its_first_write() {
    let scene = Scene::start(50, |_, _| ());
    for subtransaction in [false, true] {
        let late = scene.test.db();
        late.execute("BEGIN; SELECT now()");
        scene.pass();
        if subtransaction {
            late.execute("SAVEPOINT one");
        }
        late.execute(&each("INSERT INTO {t} (kind) VALUES ('late')"));
        scene.pass();
        late.execute(&each("UPDATE {t} SET kind = 'later', mark = DEFAULT WHERE kind = 'late'"));
        if subtransaction {
            late.execute("RELEASE one");
        }
        scene.pass();
        late.execute("COMMIT");
    }
    scene.finish("a late first write");
}

#[test]
fn a_prepared_transaction_alone() {
    let name = |test: &Test, n: u32| format!("{}-{n}", test.postgres.db);
    let scene = Scene::start(50, |test, db| {
        // There at the very first poll; its rows are older than its PREPARE.
        db.execute(&format!("BEGIN; {}", each("INSERT INTO {t} (kind) VALUES ('prepared before the first poll')")));
        db.execute("SELECT pg_sleep(1)");
        db.execute(&format!("PREPARE TRANSACTION '{}'", name(test, 0)));
    });
    let other = scene.test.db();
    other.execute(&format!("BEGIN; {}", each("INSERT INTO {t} (kind) VALUES ('prepared at once')")));
    other.execute(&format!("SAVEPOINT one; {}", each("INSERT INTO {t} (kind) VALUES ('prepared, in savepoint')")));
    other.execute(&format!("PREPARE TRANSACTION '{}'", name(&scene.test, 1)));
    other.execute(&format!("BEGIN; {}", each("INSERT INTO {t} (kind) VALUES ('prepared late')")));
    scene.pass();
    other.execute(&format!("PREPARE TRANSACTION '{}'", name(&scene.test, 2)));
    scene.pass();
    scene.db.execute(&format!("COMMIT PREPARED '{}'", name(&scene.test, 1)));
    scene.pass();
    scene.db.execute(&format!("COMMIT PREPARED '{}'", name(&scene.test, 2)));
    scene.db.execute(&format!("COMMIT PREPARED '{}'", name(&scene.test, 0)));
    scene.finish("prepared transactions");
}

#[test]
fn many_transactions_in_one_message() {
    let scene = Scene::start(1, |_, _| ());
    // A poll must fall between two of them to find nothing else to go by, which is rare: this number is for torture.
    // They all take their now() from the message's start, and between them the session shows none.
    let mut message = "SELECT pg_sleep(1); ".to_owned();
    for n in 0..setting("HEADWATER_MESSAGE_TRANSACTIONS", 3_000) as usize {
        let target = TABLES[n % 2].name;
        message.push_str(&format!("BEGIN; INSERT INTO {target} (kind) VALUES ('in one message'); COMMIT; "));
    }
    for _ in 0..2 {
        scene.db.execute(&message);
    }
    scene.finish("many transactions in one message");
}

#[test]
fn an_application_clock_that_is_slow() {
    let scene = Scene::start(1, |_, _| ());
    for n in 0..150 {
        let back = SLACK.as_millis() as usize * (n % 9) / 10;
        for target in &TABLES {
            let moment = target.moment(&format!("clock_timestamp() - interval '{back} ms'"));
            scene.db.execute(&format!(
                "INSERT INTO {} (kind, {}) VALUES ('slow clock', {moment})",
                target.name, target.watermark
            ));
        }
    }
    scene.finish("a slow clock");
}

#[test]
fn a_rewriting_alter_table_under_a_first_load() {
    // A chunk that sees the table empty would take the first load for done.
    let scene = Scene::launch(20, |_, db| TABLES.iter().for_each(|target| target.fill(db, 10_000, "2 days")));
    scene.wait_for(&TABLES[1], "the first chunk", |row| row["kind"] == "old");
    let mut rewrites = Vec::new();
    for n in 0..14 {
        // The ALTER waits for the insert, polls wait for the ALTER: their snapshots must come after it.
        let holder = scene.test.db();
        for target in &TABLES {
            scene
                .db
                .execute(&format!("INSERT INTO {} (kind) SELECT 'round {n}' FROM generate_series(1, 20)", target.name));
            let column_type = if n % 2 == 0 { "bigint" } else { "int" };
            holder.execute(&format!("BEGIN; ALTER TABLE {} ALTER COLUMN writer TYPE {column_type}", target.name));
            rewrites.push(holder.value("SELECT pg_current_xact_id()"));
            holder.execute("SELECT pg_sleep(0.05); COMMIT");
        }
    }
    scene.pass();
    let Scene { test, db, mut run } = scene;
    drain(&mut run);
    catch_up(&test, &test.path("capture.yml"), &[]);
    for target in &TABLES {
        compare(&db, target, &committed(&test, &test.topic(target.name)), &rewrites).assert_exact("rewritten tables");
    }
}
