//! Columns whose names or types the lake cannot take as they are: found at a start, no obstacle while it runs, and
//! landed under another name.

use crate::{
    harness::{DEADLINE, Run, Test, block_on, eventually, kafka::create_topic, lake, run::Exit},
    landing::{self, Raw, Table, Writer},
};
use headwater::verify;
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Lands the table `things` of the test's database, whose event time is `at`.
fn things(test: &Test) -> Table {
    let mut table = Table::orders(test.dir(), &test.topic("things"));
    table.keys.clear();
    create_topic(&test.brokers, &table.topic, 1, &[]);
    table.with("source", "{table: things}").with("date_column", "at")
}

fn write(test: &Test, table: &Table, payloads: &[Value]) {
    let writer = Writer::new(&test.brokers, &table.topic);
    for payload in payloads {
        writer.send(&Raw { value: Some(payload.to_string().into_bytes()), ..Raw::default() });
    }
    writer.flush();
}

fn start(test: &Test, table: &Table, arguments: &[&str]) -> Run {
    let config = landing::land_config(test, std::slice::from_ref(table), &["rotate_ms: 200"]);
    let file = test.write("land.yml", &config).display().to_string();
    Run::start(test, &[&["land", "-c", &file], arguments].concat())
}

#[track_caller]
fn land_all(test: &Test, table: &Table) {
    let mut run = start(test, table, &["--until-caught-up"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
}

fn rows(table: &Table) -> Vec<lake::Row> {
    let mut rows = lake::read_table(&table.path);
    rows.sort_by_key(|row| row["id"].as_i64());
    rows
}

#[test]
fn a_numeric_that_keeps_no_tens_lands_as_a_whole_number() {
    let test = Test::new();
    test.db().execute(
        "CREATE TABLE things (id int PRIMARY KEY, hundreds numeric(5,-2), far numeric(30,-20), at timestamptz NOT NULL)",
    );
    let table = things(&test);
    write(
        &test,
        &table,
        &[
            json!({"id": 1, "hundreds": 1234500, "far": 0, "at": "2025-01-15T12:24:00Z"}),
            json!({"id": 2, "hundreds": -9999900, "far": null, "at": "2025-01-15T12:24:00Z"}),
        ],
    );
    land_all(&test, &table);
    let rows = rows(&table);
    let found: Vec<String> = rows.iter().map(|row| row["hundreds"].to_string()).collect();
    assert_eq!(found, ["1234500", "-9999900"]);
    assert_eq!(rows[0]["far"], "0", "beyond 38 digits it is text");
    assert!(table.dead_letters.is_dir() && lake::dead_letters(&table.dead_letters).is_empty());
}

/// A landing that meets the table for the first time says which column it cannot take and why, and the cure that
/// it prints works.
#[test]
fn names_that_readers_cannot_tell_apart_are_found_at_start_and_land_under_others() {
    for (column, keys, renamed) in [
        ("Date", &[][..], "Date_"),
        ("date", &[], "date_"),
        ("ID", &[], "ID_"),
        ("Rest", &[("overflow_column", "rest")], "Rest_"),
        ("_KAFKA_offset", &[("metadata_columns", "true")], "KAFKA_offset_"),
    ] {
        let test = Test::new();
        test.db()
            .execute(&format!("CREATE TABLE things (id int PRIMARY KEY, \"{column}\" text, at timestamptz NOT NULL)"));
        let table = keys.iter().fold(things(&test), |table, (key, value)| table.with(key, value));
        write(&test, &table, &[json!({"id": 1, column: "2001-02-03", "at": "2025-01-15T12:24:00Z"})]);
        let mut run = start(&test, &table, &["--until-caught-up"]);
        assert_eq!(run.wait(LIMIT), Exit::Code(1), "{column}: {}", run.stderr());
        let cure = format!("{{\\\"{column}\\\": \\\"{renamed}\\\"}}");
        let said = run.stderr();
        assert!(said.contains(&cure) || said.contains(&cure.replace('\\', "")), "{cure} is not in: {said}");
        assert_eq!(lake::table_files(&table.path).len(), 0);

        let table = table.with("rename", &cure.replace('\\', ""));
        land_all(&test, &table);
        let rows = rows(&table);
        assert_eq!((rows.len(), &rows[0][renamed]), (1, &json!("2001-02-03")), "{column}");
    }
}

#[test]
fn a_column_with_a_reserved_name_that_comes_while_it_runs_stops_nothing_and_lands_once_it_is_renamed() {
    let test = Test::new();
    let db = test.db();
    db.execute("CREATE TABLE things (id int PRIMARY KEY, at timestamptz NOT NULL)");
    let table = things(&test).with("overflow_column", "rest").with("metadata_columns", "true");
    let mut run = start(&test, &table, &[]);
    let at = "2025-01-15T12:24:00Z";
    write(&test, &table, &[json!({"id": 1, "at": at})]);
    landing::wait_for_landed(&table, 1);
    db.execute(
        "ALTER TABLE things ADD COLUMN date date, ADD COLUMN \"Id\" int, ADD COLUMN rest text,
         ADD COLUMN _kafka_offset bigint, ADD COLUMN note text",
    );
    let odd = json!({"id": 2, "at": at, "date": "2001-02-03", "Id": 3, "rest": "r", "_kafka_offset": 4, "note": "n"});
    write(&test, &table, std::slice::from_ref(&odd));
    landing::wait_for_landed(&table, 2);
    run.wait_for_log("land.tables[].rename");
    write(&test, &table, &[json!({"id": 3, "at": at})]);
    landing::wait_for_landed(&table, 3);
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    let found = rows(&table);
    let kept: Value = serde_json::from_str(found[1]["rest"].as_str().expect("text")).expect("JSON");
    assert_eq!(kept, json!({"date": "2001-02-03", "Id": 3, "rest": "r", "_kafka_offset": 4}));
    assert_eq!(found[1]["note"], "n", "a column that can be one is one");

    let table = table.with("rename", "{date: day, Id: other_id, rest: remains, _kafka_offset: place}");
    let mut again = odd;
    again["id"] = json!(4);
    write(&test, &table, &[again]);
    land_all(&test, &table);
    let found = rows(&table);
    let row = &found[3];
    assert_eq!(
        (&row["day"], &row["other_id"], &row["remains"], &row["place"], &row["rest"]),
        (&json!("2001-02-03"), &json!(3), &json!("r"), &json!(4), &Value::Null)
    );
    // Verify knows the names as well, and what of the same fields stands in the overflow column of older rows.
    let config = headwater::config::load_file(&test.dir().join("land.yml")).expect("the configuration");
    let report = block_on(verify::run(&config.pipelines[0], verify::Options::default())).expect("a report");
    assert!(report.ok && report.counts.lake_rows == 4, "{report}");
}

/// A field that the source table does not have is asked for once, and not once a second.
#[test]
fn an_unknown_field_costs_no_connection_a_second() {
    let test = Test::new();
    let db = test.db();
    db.execute("CREATE TABLE things (id int PRIMARY KEY, at timestamptz NOT NULL)");
    let table = things(&test).with("metadata_columns", "true");
    let run = start(&test, &table, &[]);
    let sessions = || db.count("SELECT sessions FROM pg_stat_database WHERE datname = current_database()");
    let writer = Writer::new(&test.brokers, &table.topic);
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let send = |id: usize| {
        let payload = json!({"id": id, "at": now, "tip": 1}).to_string().into_bytes();
        writer.send(&Raw { value: Some(payload), ..Raw::default() });
        writer.flush();
    };
    send(1);
    landing::wait_for_landed(&table, 1);
    let before = sessions();
    // Each in a poll of its own, over more seconds than there may be sessions.
    let started = std::time::Instant::now();
    let mut count = 1;
    while started.elapsed() < Duration::from_secs(8) {
        count += 1;
        send(count);
        landing::wait_for_landed(&table, count);
    }
    let after = sessions();
    assert!(after - before <= 2, "{} sessions for {count} records with a field that no column takes", after - before);
    // A column of that name that comes later is found all the same.
    db.execute("ALTER TABLE things ADD COLUMN tip int");
    eventually(LIMIT, "the field that became a column", || {
        count += 1;
        send(count);
        landing::wait_for_landed(&table, count);
        lake::read_table(&table.path).iter().any(|row| row.get("tip") == Some(&json!(1)))
    });
    drop(run);
}
