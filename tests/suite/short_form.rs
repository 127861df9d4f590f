//! The whole pipeline in the short form of the contract, as its first user runs it.

use crate::harness::{DEADLINE, Db, Run, Test, eventually, eventually_some, kafka, lake, run::Exit};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A name as in the contract: it starts with a digit.
const TABLE: &str = "2025em1100506_orders";

fn orders_table(db: &Db) {
    db.execute(&format!(
        "CREATE TABLE \"{TABLE}\" (order_id serial PRIMARY KEY, customer_name varchar, restaurant_name varchar, item varchar,
                                  amount numeric, order_status varchar, created_at timestamp DEFAULT now())"
    ));
}

/// `count` rows of which every hundredth has a negative amount.
fn insert(db: &Db, count: u64) {
    db.execute(&format!(
        "INSERT INTO \"{TABLE}\" (customer_name, restaurant_name, item, amount, order_status)
         SELECT 'Zoë \"Z\" ' || i, 'Burger Junction', 'Veg Burger', CASE WHEN i % 100 = 0 THEN -1.5 ELSE i / 10.0 END, 'PLACED'
         FROM generate_series(1, {count}) i"
    ));
}

fn arguments(file: &std::path::Path) -> [String; 3] {
    ["run".to_owned(), "-c".to_owned(), file.display().to_string()]
}

fn start(test: &Test, file: &std::path::Path, more: &[&str]) -> Run {
    let own = arguments(file);
    let all: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Run::start(test, &all)
}

#[test]
fn the_short_form_carries_rows_to_dated_parquet() {
    let test = Test::new();
    let topic = test.topic("food_orders_raw");
    let db = test.db();
    orders_table(&db);
    insert(&db, 10_000);
    let file = test.write("orders_stream.yml", &test.short_form(TABLE, &topic));
    let lake_root = test.path("lake");

    let mut run = start(&test, &file, &["--until-caught-up", "--format", "json"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    let summary = run.json();
    assert_eq!(summary["capture"]["rows"], 10_000);
    assert_eq!(summary["land"]["rows"], 9_900);
    assert_eq!(summary["land"]["dead_letters"], serde_json::json!({"negative_amount": 100}));
    for field in ["seconds", "rows_per_second", "cpu_seconds", "peak_rss_bytes"] {
        assert!(summary[field].as_f64().is_some_and(|value| value > 0.0), "{field} in {summary}");
    }

    let messages = kafka::read_topic(&test.brokers, &topic, true);
    assert_eq!(messages.len(), 10_000);
    let first = messages.iter().find(|message| message.key.as_deref() == Some(b"7")).expect("row 7");
    let created = db.value(&format!(
        "SELECT to_char(created_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.US') FROM \"{TABLE}\" WHERE order_id = 7"
    ));
    let text = String::from_utf8(first.value.clone().expect("a value")).expect("text");
    let created = created.trim_end_matches('0');
    assert_eq!(
        text,
        format!(
            "{{\"order_id\":7,\"customer_name\":\"Zoë \\\"Z\\\" 7\",\"restaurant_name\":\"Burger Junction\",\"item\":\"Veg Burger\",\
             \"amount\":0.70000000000000000000,\"order_status\":\"PLACED\",\"created_at\":\"{created}Z\"}}"
        ),
        "the message of the contract, with PostgreSQL's own digits"
    );

    let date = db.value("SELECT (now() AT TIME ZONE 'UTC')::date::text");
    for path in lake::table_files(&lake_root) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(name.starts_with(&format!("part-{topic}-0-")), "{name}");
        let directory =
            path.parent().and_then(|parent| parent.file_name()).and_then(|name| name.to_str()).expect("a name");
        assert!(directory.strip_prefix("date=").is_some_and(|day| day <= date.as_str()), "{directory}");
    }
    let rows = lake::read_table(&lake_root);
    assert_eq!(rows.len(), 9_900);
    let ids: std::collections::BTreeSet<i64> = rows.iter().filter_map(|row| row["order_id"].as_i64()).collect();
    assert_eq!(ids.len(), 9_900);
    assert_eq!(lake::dead_letters(&test.path("lake_dead_letters")).len(), 100);

    // Nothing new: a second run does nothing, and neither does a third after new rows do it twice.
    let mut again = start(&test, &file, &["--until-caught-up", "--format", "json"]);
    assert_eq!(again.wait(DEADLINE), Exit::Code(0), "{}", again.stderr());
    assert_eq!((again.json()["capture"]["rows"].clone(), again.json()["land"]["rows"].clone()), (0.into(), 0.into()));

    let stamp = std::fs::read_to_string(test.path("lastprocess")).expect("the last processed timestamp");
    chrono::DateTime::parse_from_rfc3339(stamp.trim()).unwrap_or_else(|error| panic!("{stamp:?}: {error}"));
}

#[test]
fn a_row_stands_in_the_lake_within_ten_seconds_and_sigterm_drains() {
    let test = Test::new();
    let topic = test.topic("orders");
    let db = test.db();
    orders_table(&db);
    let file = test.write("orders_stream.yml", &test.short_form(TABLE, &topic));
    let mut run = start(&test, &file, &[]);
    eventually(DEADLINE, "/ready to be 200", || run.get("/ready").is_some_and(|(code, _)| code == 200));

    let mut slowest = Duration::ZERO;
    for round in 1..=3 {
        insert(&db, 99);
        let committed = Instant::now();
        eventually(Duration::from_secs(10), "the rows in the lake", || {
            lake::read_table(&test.path("lake")).len() == round * 99
        });
        slowest = slowest.max(committed.elapsed());
    }
    println!("slowest of 3 from commit to lake: {:.1} s", slowest.as_secs_f64());

    let (_, status) = run.get("/status").expect("/status");
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let units: BTreeMap<&str, &str> = status["units"]
        .as_array()
        .expect("units")
        .iter()
        .map(|unit| (unit["stage"].as_str().expect("stage"), unit["state"].as_str().expect("state")))
        .collect();
    assert_eq!(units.keys().copied().collect::<Vec<_>>(), ["capture", "land"], "{status}");

    // What is captured but not rotated yet is committed by the drain.
    insert(&db, 50);
    eventually(DEADLINE, "the rows in the topic", || kafka::read_topic(&test.brokers, &topic, true).len() == 347);
    run.terminate();
    assert_eq!(run.wait(Duration::from_secs(30)), Exit::Code(0), "{}", run.stderr());
    let mut rest = start(&test, &file, &["--until-caught-up", "--format", "json"]);
    assert_eq!(rest.wait(DEADLINE), Exit::Code(0), "{}", rest.stderr());
    assert_eq!(lake::read_table(&test.path("lake")).len(), 347);
    let staging = test.path("checkpoints").join(format!("{topic}-0")).join("staging");
    assert_eq!(std::fs::read_dir(&staging).map_or(0, Iterator::count), 0, "left in staging");
}

#[test]
fn one_failing_table_does_not_stop_the_others() {
    let test = Test::new();
    let (good, bad) = (test.topic("good"), test.topic("bad"));
    let db = test.db();
    db.execute(
        "CREATE TABLE good (id int PRIMARY KEY, created_at timestamptz DEFAULT now());
         CREATE TABLE bad (id int, created_at timestamptz DEFAULT now());
         INSERT INTO good SELECT generate_series(1, 100); INSERT INTO bad SELECT generate_series(1, 100)",
    );
    let (pg, dir) = (&test.postgres, test.dir().display());
    let file = test.write(
        "two.yml",
        &format!(
            "pipeline: {}\npostgres: {{host: {}, port: {}, db: {}, user: {}, tls_mode: disable}}\nkafka: {{brokers: \"{}\"}}\n\
             capture: {{poll_interval_ms: 100, tables: [{{table: bad, topic: {bad}, watermark: created_at}}, {{table: good, topic: {good}, watermark: created_at}}]}}\n\
             land: {{rotate_ms: 300, tables: [{{topic: {good}, path: {dir}/good, checkpoint_location: {dir}/progress, date_column: created_at}}]}}\n\
             http: {{listen: \"127.0.0.1:0\"}}\n",
            test.prefix, pg.host, pg.port, pg.db, pg.user, test.brokers
        ),
    );
    let run = start(&test, &file, &[]);
    eventually(DEADLINE, "the good table in the lake", || lake::read_table(&test.path("good")).len() == 100);
    let reason = eventually_some(DEADLINE, "the bad table's reason in /ready", || {
        let (code, body) = run.get("/ready")?;
        (code == 503 && body.contains("\"bad\"")).then_some(body)
    });
    assert!(reason.contains("key"), "the cure is to name key columns: {reason}");
    db.execute("INSERT INTO good SELECT generate_series(101, 200)");
    eventually(DEADLINE, "later rows of the good table", || lake::read_table(&test.path("good")).len() == 200);
}
