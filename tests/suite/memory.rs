//! The capture's memory stays within its bound, whatever the size of a table, a transaction or a row.

use crate::harness::{Run, Test, kafka, run::Exit};
use crate::landing::general_head;
use std::{collections::HashSet, time::Duration};

const LIMIT: Duration = Duration::from_secs(180);
const BOUND_MIB: u64 = 256;

fn config(test: &Test, topic: &str, more: &str) -> std::path::PathBuf {
    let head = general_head(test);
    test.write(
        "headwater.yml",
        &format!(
            "{head}capture: {{poll_interval_ms: 100, {more} tables: [{{table: wide, topic: {topic}, watermark: created_at}}]}}\n"
        ),
    )
}

#[test]
fn wide_rows_and_one_large_transaction_fit_into_the_bound() {
    let test = Test::new();
    let topic = test.topic("wide");
    let db = test.db();
    db.execute(
        "CREATE TABLE wide (id bigint PRIMARY KEY, filling text, created_at timestamptz NOT NULL DEFAULT now())",
    );
    // Half is there at the first load; half comes as one transaction that a poll has to read at once.
    let rows = |from: u64, to: u64| {
        format!("INSERT INTO wide SELECT i, repeat(md5(i::text), 64) FROM generate_series({from}, {to}) i")
    };
    db.execute(&rows(1, 60_000));
    let file = config(&test, &topic, "");
    let arguments = ["capture", "-c", file.to_str().expect("a path"), "--until-caught-up", "--format", "json"];
    for (from, to) in [(0, 0), (60_001, 180_000)] {
        if to > 0 {
            db.execute(&rows(from, to));
        }
        let mut run = Run::start(&test, &arguments);
        assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
        let peak = run.json()["peak_rss_bytes"].as_u64().expect("peak RSS") >> 20;
        println!("peak RSS {peak} MiB");
        assert!(peak < BOUND_MIB, "peak RSS {peak} MiB");
    }
    let keys: HashSet<Option<Vec<u8>>> =
        kafka::read_topic(&test.brokers, &topic, true).into_iter().map(|message| message.key).collect();
    assert_eq!(keys.len(), 180_000);
}

#[test]
fn a_row_too_large_is_a_dead_letter_and_stops_nothing() {
    let test = Test::new();
    let topic = test.topic("wide");
    let db = test.db();
    db.execute(
        "CREATE TABLE wide (id int PRIMARY KEY, filling text, created_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO wide SELECT i, repeat('x', CASE WHEN i % 10 = 0 THEN 200000 ELSE 10 END) FROM generate_series(1, 100) i",
    );
    let file = config(&test, &topic, "max_row_bytes: 100000,");
    let arguments = ["capture", "-c", file.to_str().expect("a path"), "--until-caught-up", "--format", "json"];
    let mut run = Run::start(&test, &arguments);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    assert_eq!(run.json()["capture"]["dead_letters"], serde_json::json!({"row_too_large": 10}));
    assert_eq!(kafka::read_topic(&test.brokers, &topic, true).len(), 90);
    let letters = kafka::read_topic(&test.brokers, &format!("headwater-{}-dead-letters", test.prefix), true);
    assert_eq!(letters.len(), 10);
    let keys: HashSet<String> =
        letters.iter().map(|letter| letter.json()["key"].as_str().unwrap_or_default().to_owned()).collect();
    assert!(keys.contains("10") && keys.contains("100"), "{keys:?}");
    assert!(letters.iter().all(|letter| letter.json()["reason"] == "row_too_large"));
}
