//! A server outside UTC in the night in which its clocks go back: from 02:59:59 to 02:00:00, so that
//! local timestamps go back by an hour while writers write on.

use crate::{
    harness::{DEADLINE, Test, eventually},
    pipeline::{catch_up, committed, config, drain, start, write},
    reconcile::compare,
    workload::{self, Options, Target},
};
use chrono::{DateTime, Utc};
use headwater::demo::servers::{PostgresOptions, PostgresServer};
use serde_json::json;
use std::{path::PathBuf, time::Duration};

const BERLIN: &str = "Europe/Berlin";
/// 03:00 summer time, which is 02:00 winter time.
const CHANGE: &str = "2026-10-25T01:00:00Z";
const BEFORE_CHANGE: Duration = Duration::from_secs(9);
const WRITTEN: Duration = Duration::from_secs(18);

/// Debian's libfaketime, loaded into that one PostgreSQL.
pub fn faketime_library() -> PathBuf {
    let directories = std::fs::read_dir("/usr/lib").expect("/usr/lib").flatten().map(|entry| entry.path());
    let mut libraries = directories.map(|path| path.join("faketime/libfaketime.so.1"));
    libraries.find(|path| path.exists()).expect("libfaketime is missing: run scripts/setup.sh")
}

/// A PostgreSQL whose clock runs, from now on, `BEFORE_CHANGE` before the change.
fn server_before_the_change(test: &Test) -> PostgresServer {
    let change: DateTime<Utc> = CHANGE.parse().expect("an instant");
    // An offset, not a start: every process of the server reads the same clock.
    let offset = change - BEFORE_CHANGE - Utc::now();
    let options = PostgresOptions {
        timezone: BERLIN.to_owned(),
        environment: vec![
            ("LD_PRELOAD".to_owned(), faketime_library().display().to_string()),
            ("FAKETIME".to_owned(), format!("{:+}", offset.num_seconds())),
            // Timeouts and sleeps are measured with this clock.
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ],
        ..PostgresOptions::default()
    };
    PostgresServer::start(&test.path("postgres"), options).expect("a PostgreSQL in another time")
}

#[test]
fn an_autumn_clock_change_loses_and_doubles_nothing() {
    let mut test = Test::new();
    let server = server_before_the_change(&test);
    test.postgres = server.config("postgres");
    let db = test.db();
    let targets = [
        Target { zone: BERLIN, ..Target::new("by_timestamp", "created_at", "timestamp") },
        Target { zone: BERLIN, ..Target::new("by_date", "created_on", "date") },
        Target::new("by_timestamptz", "created_at", "timestamptz"),
    ];
    for target in &targets {
        target.create(&db);
        // Some from a minute ago, within the hour that is about to come again.
        target.fill(&db, 300, "1 minute");
    }
    let tables = targets.map(|target| {
        json!({"table": target.name, "topic": test.topic(target.name), "watermark": target.watermark, "partitions": 2})
    });
    let keys = json!({"slack_ms": 500, "timezone": BERLIN, "chunk_rows": 40});
    let file = write(&test, "capture.yml", &config(&test, keys, json!(tables)));

    let options = Options { writers: 4, duration: WRITTEN, seed: 25, longest_hold: 2.0, backdate_ms: 0 };
    let mut run = start(&test, &file, &[], &[]);
    let done = workload::write(&test.postgres, &targets, options);
    let now: DateTime<Utc> = db
        .value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
        .parse()
        .expect("an instant");
    let change: DateTime<Utc> = CHANGE.parse().expect("an instant");
    assert!(now > change, "the clocks were to change while the writers wrote; it is {now}");

    let compare_all = || targets.map(|target| compare(&db, &target, &committed(&test, &test.topic(target.name)), &[]));
    eventually(DEADLINE, "every row's final version in its topic", || {
        assert!(run.is_running(), "{}", run.stderr());
        compare_all().iter().all(|found| found.lost.is_empty())
    });
    drain(&mut run);
    catch_up(&test, &file, &[]);
    eprintln!("autumn: {:?}", done.actions);
    for (target, found) in targets.iter().zip(compare_all()) {
        eprintln!(
            "{}: {} rows, {} messages, {} lost, {} duplicated",
            target.name,
            found.rows,
            found.messages,
            found.lost.len(),
            found.duplicated.len()
        );
        found.assert_exact(target.name);
    }
    // Rows of both passes of the hour are there: the local clock did go back.
    let before = db.count("SELECT count(*) FROM by_timestamp WHERE kind <> 'old' AND created_at >= '2026-10-25 02:59'");
    let after = db.count("SELECT count(*) FROM by_timestamp WHERE created_at BETWEEN '2026-10-25 02:00' AND '2026-10-25 02:01' AND kind <> 'old'");
    assert!(before > 0 && after > 0, "{before} rows before the change, {after} after it");
}
