//! Rows that are written below the bound: they are noticed, and nothing else is taken for them.

use crate::{
    harness::{DEADLINE, Db, Run, Test, eventually, eventually_some},
    pipeline::{catch_up, committed, config, drain, said, setting, start, write},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The unit of a table in `/status`, once there is one.
fn unit(run: &Run, table: &str) -> Option<Value> {
    let status: Value = serde_json::from_str(&run.get("/status")?.1).ok()?;
    status["units"].as_array()?.iter().find(|unit| unit["unit"] == table).cloned()
}

/// How often a table has been searched to the end, and how many rows were found below its bound.
fn searches(run: &Run, table: &str) -> (u64, u64) {
    let found = unit(run, table).map_or(Value::Null, |unit| unit["detail"]["below_bound"].clone());
    (found["searches"].as_u64().unwrap_or(0), found["rows"].as_u64().unwrap_or(0))
}

fn is_ready(run: &Run) -> bool {
    run.get("/ready").is_some_and(|(code, _)| code == 200)
}

/// Waits until a table is not ready, and returns what it says.
fn reason(run: &Run, table: &str) -> String {
    eventually_some(DEADLINE, &format!("{table} is failing"), || {
        let unit = unit(run, table)?;
        (unit["state"] == "failing").then(|| unit["reason"].as_str().unwrap_or_default().to_owned())
    })
}

fn launch(test: &Test, tables: &[Value]) -> Run {
    let file = write(test, "capture.yml", &config(test, json!({}), json!(tables)));
    let run = start(test, &file, &[], &[]);
    for table in tables {
        let name = table["table"].as_str().expect("a name");
        eventually(DEADLINE, &format!("a first count of {name}"), || searches(&run, name).0 > 0);
    }
    run
}

fn table(test: &Test, name: &str, watermark: &str) -> Value {
    json!({"table": name, "topic": test.topic(name), "watermark": watermark})
}

#[test]
fn a_session_in_a_zone_behind_makes_its_table_not_ready() {
    let test = Test::new();
    let db = test.db();
    for name in ["behind", "ahead"] {
        db.execute(&format!(
            "CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY, region text NOT NULL DEFAULT 'a',
               created_at timestamp NOT NULL DEFAULT now(), PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE {name}_a PARTITION OF {name} FOR VALUES IN ('a');
             CREATE TABLE {name}_b PARTITION OF {name} FOR VALUES IN ('b');
             CREATE INDEX ON {name} (created_at);
             INSERT INTO {name} (created_at) SELECT now() - n * interval '1 minute' FROM generate_series(1, 2000) n"
        ));
    }
    let mut run = launch(&test, &[table(&test, "behind", "created_at"), table(&test, "ahead", "created_at")]);
    assert!(is_ready(&run));
    let new_york = test.db();
    new_york.execute("SET timezone = 'America/New_York'");
    let berlin = test.db();
    berlin.execute("SET timezone = 'Europe/Berlin'");
    for _ in 0..4 {
        db.execute("INSERT INTO behind DEFAULT VALUES; INSERT INTO ahead DEFAULT VALUES");
        berlin.execute("INSERT INTO ahead DEFAULT VALUES");
    }
    for region in ["a", "a", "b"] {
        new_york.execute(&format!("INSERT INTO behind (region) VALUES ('{region}')"));
    }
    let reason = reason(&run, "behind");
    eprintln!("{reason}");
    assert!(!is_ready(&run));
    let newest = db.value("SELECT max(id) FROM behind");
    for word in ["3 so far", "capture.timezone", "whole or half hours", "--resync", &format!("id {newest}, region b")] {
        assert!(reason.contains(word), "{word:?} in {reason}");
    }
    let hours = db.value("SELECT extract(hour FROM now()::timestamp - (now() AT TIME ZONE 'America/New_York'))");
    assert!(reason.contains(&format!("{hours} h later")), "{reason}");
    assert_eq!(committed(&test, &test.topic("behind")).len(), 2004, "they are not published");
    let state = unit(&run, "ahead").expect("a unit")["state"].clone();
    assert_eq!((state, searches(&run, "ahead").1), (json!("caught_up"), 0), "that of others is their own");

    // Rows that are written anew, above the bound, are mended.
    db.execute(&format!("UPDATE behind SET created_at = DEFAULT WHERE id > {newest} - 3"));
    eventually(DEADLINE, "ready again", || is_ready(&run));
    assert_eq!(searches(&run, "behind").1, 0);
    assert_eq!(committed(&test, &test.topic("behind")).len(), 2007);
    drain(&mut run);
}

#[test]
fn a_clock_set_back_and_rows_dated_back_are_told_with_their_cures() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE clocks (id int PRIMARY KEY, updated_at timestamptz NOT NULL);
         CREATE INDEX ON clocks (updated_at);
         CREATE TABLE dated (id int PRIMARY KEY, status text, day timestamptz);
         CREATE INDEX ON dated (day);
         INSERT INTO dated SELECT n, 'new', now() - n * interval '7 minutes' FROM generate_series(1, 300) n",
    );
    let mut dated = table(&test, "dated", "day");
    dated["where"] = json!("status = 'new' -- of these");
    let mut run = launch(&test, &[table(&test, "clocks", "updated_at"), dated]);
    db.execute("INSERT INTO clocks SELECT n, now() FROM generate_series(1, 10) n");
    // The minute of the bound itself is not below it.
    db.execute("UPDATE clocks SET updated_at = now() - interval '4 minutes' WHERE id = 10");
    db.execute("UPDATE dated SET day = now() - interval '100 minutes', status = 'new' WHERE id = 5");
    let told = [reason(&run, "clocks"), reason(&run, "dated")];
    eprintln!("{told:?}");
    for (told, words) in told.iter().zip([
        ["1 so far", "id 10 and updated_at", "capture.slack_ms (now 500)"],
        ["1 so far", "id 5 and day", "updated_at that each write sets"],
    ]) {
        assert!(words.iter().all(|word| told.contains(word)), "{words:?} in {told}");
    }
    drain(&mut run);
}

/// Everything ordinary that makes PostgreSQL's counters run ahead, or gives old watermarks new transaction ids.
fn round(db: &Db, n: u64) {
    for statement in [
        "BEGIN; INSERT INTO orders (status) SELECT 'rolled back' FROM generate_series(1, 50); ROLLBACK",
        "INSERT INTO orders (status) SELECT 'new' FROM generate_series(1, 20)",
        "BEGIN; SAVEPOINT one; INSERT INTO orders (status) SELECT 'undone' FROM generate_series(1, 5); ROLLBACK TO one;
         INSERT INTO orders (status) VALUES ('new'); COMMIT",
        "UPDATE orders SET status = 'done' WHERE id % 7 = 0",
        "UPDATE orders SET region = CASE region WHEN 'a' THEN 'b' ELSE 'a' END WHERE id % 11 = 0",
        "DELETE FROM orders WHERE id % 13 = 0",
        "BEGIN; CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM orders WHERE id % 17 = 0;
         DELETE FROM orders WHERE id % 17 = 0; INSERT INTO orders OVERRIDING SYSTEM VALUE SELECT * FROM kept; COMMIT",
        "UPDATE orders SET created_at = now() WHERE id % 19 = 0",
        "INSERT INTO orders (status, created_at) VALUES ('planned', now() + interval '20 s'), ('planned', now() + interval '1 day')",
        "INSERT INTO orders (status, created_at) VALUES ('unknown', NULL)",
    ] {
        db.execute(statement);
    }
    if n.is_multiple_of(4) {
        db.execute("SELECT pg_stat_reset()");
    }
    // While nothing is open that holds the table: all rows get a new transaction id, once the columns change too.
    if n % 10 == 4 {
        let kind = if n < 14 { "int" } else { "bigint" };
        db.execute(&format!("ALTER TABLE orders ALTER COLUMN size TYPE {kind} USING size + 1"));
    }
}

#[test]
fn ordinary_work_is_no_alarm() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, region text NOT NULL DEFAULT 'a', status text,
           size int DEFAULT 1, created_at timestamptz DEFAULT now(), PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE orders_a PARTITION OF orders FOR VALUES IN ('a');
         CREATE TABLE orders_b PARTITION OF orders FOR VALUES IN ('b');
         CREATE INDEX ON orders (created_at);
         INSERT INTO orders (status, created_at)
           SELECT 'old', now() - n * interval '1 minute' FROM generate_series(1, 3000) n",
    );
    let mut filtered = table(&test, "orders", "created_at");
    filtered["where"] = json!("status IN ('new', 'done')");
    filtered["topic"] = json!(test.topic("filtered"));
    filtered["schema"] = json!("public");
    let names = ["orders", "public.orders"];
    let file = config(&test, json!({}), json!([table(&test, "orders", "created_at"), filtered]));
    let mut run = start(&test, &write(&test, "capture.yml", &file), &[], &[]);
    for name in names {
        eventually(DEADLINE, &format!("a first count of {name}"), || searches(&run, name).0 > 0);
    }
    let begun = Instant::now();
    let soak = Duration::from_secs(setting("HEADWATER_BELOW_BOUND_SECONDS", 25));
    let late = test.db();
    let mut rounds = 0_u64;
    // A minute has to pass below the bound and be searched, some of them at least.
    while begun.elapsed() < soak || names.iter().any(|name| searches(&run, name).0 < 4) {
        assert!(begun.elapsed() < soak + 4 * DEADLINE, "no searches: {}", said(&run));
        if rounds.is_multiple_of(5) {
            // Visible long after its time.
            late.execute("BEGIN; INSERT INTO orders (status) VALUES ('late')");
        }
        round(&db, rounds);
        if rounds % 5 == 3 {
            late.execute("COMMIT");
        }
        rounds += 1;
        for name in names {
            assert_eq!(searches(&run, name).1, 0, "{name}: {}", said(&run));
        }
    }
    eprintln!("{rounds} rounds, {:?}", names.map(|name| searches(&run, name)));
    late.execute("ROLLBACK");
    assert!(!said(&run).contains("below the bound"), "{}", said(&run));
    drain(&mut run);
}

/// The cure of rows that a session in a zone behind writes: what comes after the zone is set is read, too.
#[test]
fn a_zone_that_is_set_later_counts_from_then_on() {
    let test = Test::new();
    let db = test.db();
    db.execute("CREATE TABLE visits (id int PRIMARY KEY, created_at timestamp NOT NULL DEFAULT now())");
    let file =
        |keys: Value| write(&test, "capture.yml", &config(&test, keys, json!([table(&test, "visits", "created_at")])));
    db.execute("SET timezone = 'UTC'; INSERT INTO visits VALUES (1)");
    catch_up(&test, &file(json!({})), &[]);
    assert_eq!(committed(&test, &test.topic("visits")).len(), 1);
    let zone = json!({"timezone": "America/New_York"});
    db.execute("SET timezone = 'America/New_York'; INSERT INTO visits VALUES (2), (3)");
    catch_up(&test, &file(zone.clone()), &[]);
    db.execute("INSERT INTO visits VALUES (4)");
    catch_up(&test, &file(zone), &[]);
    let mut ids: Vec<i64> =
        committed(&test, &test.topic("visits")).iter().map(|row| row.json()["id"].as_i64().expect("an id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4]);
}
