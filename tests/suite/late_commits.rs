//! Writers whose transactions commit late, against a capture that polls all the while: nothing may be
//! lost or doubled, where a loop that asks for `created_at > last` loses rows.

use crate::{
    harness::{DEADLINE, Db, Test, eventually, run::Exit},
    pipeline::{Stop, catch_up, committed, config, drain, setting, start, write},
    reconcile::compare,
    workload::{self, Options, Target},
};
use headwater::config::model::Postgres;
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const TARGETS: [Target; 4] = [
    Target::new("by_timestamp", "created_at", "timestamp"),
    Target::new("by_timestamptz", "created_at", "timestamptz"),
    Target::new("by_date", "created_on", "date"),
    Target::new("by_updated_at", "updated_at", "timestamptz(3)"),
];

fn tables(test: &Test, targets: &[Target]) -> Value {
    let tables = targets.iter().map(|target| {
        json!({
            "table": target.name,
            "topic": test.topic(target.name),
            "watermark": target.watermark,
            "partitions": 3,
        })
    });
    Value::Array(tables.collect())
}

fn options(duration: Duration) -> Options {
    Options {
        writers: setting("HEADWATER_LATE_WRITERS", 9),
        duration,
        seed: setting("HEADWATER_SEED", 20_250_115),
        // Some are open for long enough to be proven open, again and again.
        longest_hold: 5.0,
        backdate_ms: 300,
    }
}

/// Every poller in common use: asks for what is newer than the newest it has seen. Gives the marks of
/// all row versions that it saw.
fn naive_loop(postgres: &Postgres, table: &str, stop: &AtomicBool) -> HashSet<String> {
    let db = Db::connect(postgres);
    let mut last = "-infinity".to_owned();
    let mut seen = HashSet::new();
    loop {
        // Read before the poll, so that one poll follows the last commit.
        let stopped = stop.load(Ordering::Acquire);
        let sql = format!("SELECT mark, created_at FROM {table} WHERE created_at > '{last}' ORDER BY created_at");
        for row in db.rows(&sql) {
            let mut values = row.into_iter().flatten();
            seen.extend(values.next());
            last = values.next().expect("created_at");
        }
        if stopped {
            return seen;
        }
        db.execute("SELECT pg_sleep(0.15)");
    }
}

/// Rewrites every table in the middle of everything; gives the transactions that did.
fn rewrite(postgres: &Postgres, targets: &[Target], after: Duration) -> Vec<String> {
    let db = Db::connect(postgres);
    db.execute(&format!("SELECT pg_sleep({})", after.as_secs_f64()));
    let alter = |target: &Target| {
        let table = target.name;
        let file = db.value(&format!("SELECT pg_relation_filenode('{table}')"));
        db.execute("BEGIN");
        db.execute(&format!("ALTER TABLE {table} ALTER COLUMN writer TYPE bigint"));
        let xid = db.value("SELECT pg_current_xact_id()");
        db.execute("COMMIT");
        assert_ne!(db.value(&format!("SELECT pg_relation_filenode('{table}')")), file, "a rewriting ALTER");
        xid
    };
    targets.iter().map(alter).collect()
}

#[test]
fn late_commits_are_neither_lost_nor_doubled_and_a_naive_loop_loses_some() {
    let test = Test::new();
    let db = test.db();
    for target in &TARGETS {
        target.create(&db);
        target.fill(&db, 2_000, "2 days");
    }
    let duration = Duration::from_secs(setting("HEADWATER_LATE_SECONDS", 20));
    let options = options(duration);
    let keys = json!({"slack_ms": 500, "chunk_rows": 150, "max_transaction_rows": 400, "timezone": "UTC"});
    let file = write(&test, "capture.yml", &config(&test, keys, tables(&test, &TARGETS)));
    let begun = Instant::now();

    let stop = AtomicBool::new(false);
    let (mut run, done, rewrites, naive) = std::thread::scope(|scope| {
        let writers = scope.spawn(|| workload::write(&test.postgres, &TARGETS, options));
        let naive = scope.spawn(|| naive_loop(&test.postgres, "by_timestamp", &stop));
        let rewrites = scope.spawn(|| rewrite(&test.postgres, &TARGETS, duration.mul_f64(0.6)));
        // The first load has to find late commits too.
        let stopping = Stop(&stop);
        let run = start(&test, &file, &[], &[]);
        let done = writers.join().expect("the writers");
        drop(stopping);
        (run, done, rewrites.join().expect("the ALTER"), naive.join().expect("the naive loop"))
    });
    let written = begun.elapsed();

    let compare_all = || {
        TARGETS.map(|target| {
            let messages = committed(&test, &test.topic(target.name));
            compare(&db, &target, &messages, &rewrites)
        })
    };
    eventually(DEADLINE, "every row's final version in its topic", || {
        assert!(run.is_running(), "{}", run.stderr());
        compare_all().iter().all(|found| found.lost.is_empty())
    });
    let caught_up = begun.elapsed();
    drain(&mut run);
    // Whatever a poll would still give, it gives now.
    catch_up(&test, &file, &[]);

    eprintln!("late commits: {:?}, {} refused, {:?}", done.actions, done.refused, options);
    for (target, found) in TARGETS.iter().zip(compare_all()) {
        let (lost, doubled) = (found.lost.len(), found.duplicated.len());
        let (rows, messages) = (found.rows, found.messages);
        eprintln!("{}: {rows} rows, {messages} messages, {lost} lost, {doubled} duplicated", target.name);
        found.assert_exact(target.name);
    }
    let marks = db.rows("SELECT mark FROM by_timestamp");
    let total = marks.len();
    let naive_lost = marks.into_iter().flatten().flatten().filter(|mark| !naive.contains(mark)).count();
    eprintln!(
        "a plain created_at > last loop lost {naive_lost} of {total} rows; written in {:.1} s, caught up after {:.1} s",
        written.as_secs_f64(),
        caught_up.as_secs_f64()
    );
    assert!(naive_lost > 0, "the workload does not bite");
}

/// What a poll must remember of open and prepared transactions has to outlive the process.
#[test]
fn late_commits_survive_kills_and_restarts() {
    let test = Test::new();
    let db = test.db();
    let targets = &TARGETS[..2];
    for target in targets {
        target.create(&db);
        target.fill(&db, 500, "2 days");
    }
    let duration = Duration::from_secs(setting("HEADWATER_LATE_KILL_SECONDS", 12));
    let keys = json!({"slack_ms": 500, "chunk_rows": 60, "max_transaction_rows": 60});
    let file = write(&test, "capture.yml", &config(&test, keys, tables(&test, targets)));
    let over = AtomicBool::new(false);
    let kills = std::thread::scope(|scope| {
        scope.spawn(|| {
            let _over = Stop(&over);
            workload::write(&test.postgres, targets, Options { writers: 6, ..options(duration) });
        });
        let mut kills = 0;
        let mut random = workload::Random::new(setting("HEADWATER_SEED", 7));
        while !over.load(Ordering::Acquire) {
            // Dies by itself, at one of the commits of this round: between the transactions of a poll too.
            let point = ["capture.after_commit", "capture.before_commit", "capture.mid_transaction"];
            let point = point[random.below(3) as usize];
            let failpoint = format!("{point}=kill@{}", 2 + random.below(25));
            let mut run = start(&test, &file, &[], &[("HEADWATER_FAILPOINTS", &failpoint)]);
            eventually(DEADLINE, "the failpoint or the end of the writers", || {
                over.load(Ordering::Acquire) || !run.is_running()
            });
            if !run.is_running() {
                assert_eq!(run.wait(DEADLINE), Exit::Signal(libc::SIGKILL), "{}", run.stderr());
            }
            run.kill();
            kills += 1;
        }
        kills
    });
    catch_up(&test, &file, &[]);
    for target in targets {
        let found = compare(&db, target, &committed(&test, &test.topic(target.name)), &[]);
        eprintln!(
            "{} with {kills} kills: {} rows, {} messages, {} lost, {} duplicated",
            target.name,
            found.rows,
            found.messages,
            found.lost.len(),
            found.duplicated.len()
        );
        found.assert_exact(target.name);
    }
    assert!(kills >= 3, "{kills} kills are too few to show anything");
}
