//! What the log says, as those read it who run the program.

use crate::harness::{DEADLINE, Run, Test, eventually, run::Exit};
use serde_json::Value;

fn configure(test: &Test, rows: u32) -> String {
    test.db().execute(&format!(
        "CREATE TABLE orders (
             order_id bigint PRIMARY KEY, amount numeric(10,2), created_at timestamptz NOT NULL DEFAULT now());
         CREATE INDEX ON orders (created_at);
         INSERT INTO orders SELECT n, n % 7 - 1, now() - interval '1 hour' FROM generate_series(1, {rows}) n"
    ));
    let topic = test.topic("orders");
    let windows = format!(
        "analyze: {{jobs: [{{name: w, table: windows, key_column: order_id, window_duration: 1s, idle_timeout_ms: 500, \
         inputs: [{{name: o, topic: '{topic}', key: order_id, timestamp: created_at, partitions: 1}}], \
         measures: [{{column: n, function: count}}]}}]}}\n"
    );
    let config = test.short_form("orders", &topic).replace("batch_interval: 1\n", "batch_interval: 0.1\n") + &windows;
    test.write("orders.yml", &config).display().to_string()
}

/// The lines of a log in JSON.
#[track_caller]
fn lines(run: &Run) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    run.stderr().lines().map(parse).collect()
}

fn is_of_a_stage(line: &Value) -> bool {
    ["capture", "land", "analyze"].contains(&line["span"]["name"].as_str().unwrap_or_default())
}

#[test]
fn lines_name_pipeline_and_table_and_none_is_of_a_record() {
    let count = |rows: u32| {
        let test = Test::new();
        let file = configure(&test, rows);
        let mut run = Run::start(&test, &["run", "-c", &file, "--until-caught-up", "--log-format", "json"]);
        assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
        let lines = lines(&run);
        for line in &lines {
            for key in ["timestamp", "level", "message"] {
                assert!(line[key].is_string(), "{key} of {line}");
            }
            assert!(["INFO", "WARN"].contains(&line["level"].as_str().unwrap()), "{line}");
        }
        let of_stages: Vec<&Value> = lines.iter().filter(|line| is_of_a_stage(line)).collect();
        assert!(lines.len() - of_stages.len() < 3, "lines without a stage: {lines:?}");
        for line in &of_stages {
            assert_eq!(line["span"]["pipeline"], test.prefix, "{line}");
            assert!(["unit", "table", "topic", "job"].iter().any(|key| line[*key].is_string()), "{line}");
        }
        // Where each stage goes on from.
        let says =
            |stage: &str, key: &str| of_stages.iter().any(|line| line["span"]["name"] == stage && !line[key].is_null());
        assert!(says("capture", "bound") && says("land", "offset") && says("analyze", "epoch"), "{of_stages:?}");
        lines.len()
    };
    let (few, many) = (count(100), count(20_000));
    assert!(many <= few + 3, "{few} lines of 100 rows, {many} of 20,000");
}

/// Breaks a stage by `break_it` until it has failed some times, mends it, and looks at its lines.
fn assert_told_once(stage: &str, counter: &str, text: &str, break_it: impl Fn(&Test), mend_it: impl Fn(&Test)) {
    let test = Test::new();
    let file = configure(&test, 100);
    let run = Run::start(&test, &["run", "-c", &file, "--log-format", "json"]);
    let is_ready = || run.get("/ready").is_some_and(|(code, _)| code == 200);
    eventually(DEADLINE, "/ready to turn 200", is_ready);
    let failures = || {
        let metrics = run.get("/metrics").map(|(_, text)| text).unwrap_or_default();
        let line = metrics.lines().find(|line| line.starts_with(counter)).map(str::to_owned);
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).unwrap_or_default()
    };
    let mut orders = 100_000;
    break_it(&test);
    eventually(DEADLINE, "some failures", || {
        // A landing and a job fail only where there is something to write.
        if stage != "capture" {
            orders += 1;
            test.db().execute(&format!("INSERT INTO orders VALUES ({orders}, 1)"));
        }
        failures() >= 3
    });
    mend_it(&test);
    eventually(DEADLINE, "/ready to turn 200 again", is_ready);
    let lines = lines(&run);
    let told = |level: &str, text: &str| -> Vec<&Value> {
        let is_it = |line: &&Value| line["level"] == level && line["message"].as_str().unwrap().contains(text);
        lines.iter().filter(is_it).filter(|line| line["span"]["name"] == stage).collect()
    };
    assert_eq!((told("ERROR", text).len(), told("ERROR", "").len()), (1, 1), "{}", run.stderr());
    let recovered = told("INFO", "recovered");
    assert_eq!(recovered.len(), 1, "{}", run.stderr());
    let counted = recovered[0]["failures"].as_u64().expect("how often it failed");
    assert!((3..=failures()).contains(&counted), "{counted} of {}: {}", failures(), run.stderr());
}

#[test]
fn an_error_of_every_poll_is_logged_once_and_its_end_with_their_number() {
    assert_told_once(
        "capture",
        "headwater_capture_errors_total{",
        "orders",
        |test| test.db().execute("ALTER TABLE orders RENAME TO away"),
        |test| test.db().execute("ALTER TABLE away RENAME TO orders"),
    );
}

#[test]
fn an_error_of_every_commit_is_logged_once_and_its_end_with_their_number() {
    let (lake, away) = (|test: &Test| test.path("lake"), |test: &Test| test.path("away"));
    assert_told_once(
        "land",
        "headwater_land_errors_total{",
        "lake",
        |test| {
            std::fs::rename(lake(test), away(test)).unwrap();
            std::fs::write(lake(test), "not a directory").unwrap();
        },
        |test| {
            std::fs::remove_file(lake(test)).unwrap();
            std::fs::rename(away(test), lake(test)).unwrap();
        },
    );
}

#[test]
fn an_error_of_every_flush_is_logged_once_and_its_end_with_their_number() {
    assert_told_once(
        "analyze",
        "headwater_analyze_flush_errors_total{",
        "no room for the",
        |test| {
            test.db().execute(
                "CREATE SEQUENCE refused;
                 CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     RAISE EXCEPTION 'no room for the %th time', nextval('refused') USING ERRCODE = 'disk_full';
                 END $$;
                 CREATE TRIGGER refuse BEFORE INSERT ON windows FOR EACH ROW EXECUTE FUNCTION refuse()",
            )
        },
        |test| test.db().execute("DROP TRIGGER refuse ON windows"),
    );
}
