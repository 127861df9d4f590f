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

#[test]
fn an_error_of_every_poll_is_logged_once_and_so_is_its_end() {
    let test = Test::new();
    let file = configure(&test, 100);
    let run = Run::start(&test, &["run", "-c", &file, "--log-format", "json"]);
    eventually(DEADLINE, "/ready to turn 200", || run.get("/ready").is_some_and(|(code, _)| code == 200));
    let failures = || {
        let metrics = run.get("/metrics").map(|(_, text)| text).unwrap_or_default();
        let line = metrics.lines().find(|line| line.starts_with("headwater_capture_errors_total{")).map(str::to_owned);
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or_default()
    };
    test.db().execute("ALTER TABLE orders RENAME TO away");
    eventually(DEADLINE, "some failed polls", || failures() >= 3.0);
    test.db().execute("ALTER TABLE away RENAME TO orders");
    eventually(DEADLINE, "/ready to turn 200 again", || run.get("/ready").is_some_and(|(code, _)| code == 200));
    let told = |level: &str, text: &str| {
        let is_it = |line: &&Value| line["level"] == level && line["message"].as_str().unwrap().contains(text);
        lines(&run).iter().filter(is_it).filter(|line| line["span"]["name"] == "capture").count()
    };
    assert_eq!(told("ERROR", "orders"), 1, "{}", run.stderr());
    assert_eq!(told("INFO", "recovered"), 1, "{}", run.stderr());
}
