//! Rows that capture found too large to publish: listed, shown and exported beside what land refused, never sent.

use super::scene::{LIMIT, dlq, try_dlq};
use crate::harness::{Run, Test, run::Exit};
use serde_json::{Value, json};

/// Rows of which every tenth is too large and every seventh is refused by land, captured and landed.
fn captured() -> (Test, Value, String) {
    let test = Test::new();
    test.db().execute(
        "CREATE TABLE wide (id int PRIMARY KEY, amount int, filling text, created_at timestamptz NOT NULL DEFAULT now());
         CREATE INDEX ON wide (created_at);
         INSERT INTO wide SELECT i, CASE WHEN i % 7 = 0 THEN -1 ELSE 1 END,
           repeat('x', CASE WHEN i % 10 = 0 THEN 200000 ELSE 10 END) FROM generate_series(1, 60) i",
    );
    let topic = test.topic("wide");
    let pg = &test.postgres;
    let config = json!({
        "pipeline": test.prefix,
        "postgres": {"host": pg.host, "port": pg.port, "db": pg.db, "user": pg.user, "tls_mode": "disable"},
        "kafka": {"brokers": test.brokers},
        "capture": {"poll_interval_ms": 100, "slack_ms": 300, "max_row_bytes": 100_000,
            "tables": [{"table": "wide", "topic": topic, "watermark": "created_at", "partitions": 1}]},
        "land": {"rotate_ms": 200, "tables": [{"topic": topic, "path": test.path("lake"),
            "checkpoint_location": test.path("checkpoints"), "date_column": "created_at", "non_negative": ["amount"]}]},
        "http": {"listen": null},
    });
    let file = test.write("wide.yml", &format!("{config:#}\n")).display().to_string();
    (test, config, file)
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn rows_too_large_are_told_beside_what_was_refused_and_are_never_sent() {
    let (test, config, file) = captured();
    let list = |more: &[&str]| parsed(&dlq(&test, &file, "list", &[&["--format", "json"], more].concat()));
    assert_eq!(list(&[])["count"], 0, "before anything has run");
    let mut run = Run::start(&test, &["run", "-c", &file, "--until-caught-up"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());

    // Of 60 rows six are too large; eight are negative.
    let all = list(&["--by", "stage,reason"]);
    assert_eq!((&all["count"], &all["replayed"], &all["warnings"]), (&json!(14), &json!(0), &json!([])), "{all}");
    let group = &all["groups"][0];
    assert_eq!(
        (&group["stage"], &group["reason"], &group["count"]),
        (&json!("capture"), &json!("row_too_large"), &json!(6))
    );
    let topic = format!("headwater-{}-dead-letters", test.prefix);
    assert!(group["example"].as_str().unwrap().starts_with(&format!("{topic}/0/")), "{group}");
    assert!(group["detail"].as_str().unwrap().contains("of table public.wide takes "), "{group}");
    assert!(group["first"].as_str().unwrap() > "2025", "{group}");
    for (conditions, count) in
        [("stage=capture", 6), ("stage!=capture", 8), ("reason=row_too_large and payload.key=30", 1), ("key=40", 1)]
    {
        assert_eq!(list(&["--where", conditions])["count"], count, "{conditions}");
    }
    assert_eq!(list(&["--reason", "row_too_large", "--topic", &topic])["count"], 6);

    let lines = dlq(&test, &file, "export", &["--to", "-", "--where", "stage=capture"]);
    let lines: Vec<Value> = lines.lines().map(parsed).collect();
    let keys: Vec<&str> = lines.iter().map(|line| line["key"].as_str().expect("a key")).collect();
    assert_eq!(keys, ["10", "20", "30", "40", "50", "60"], "in the order of their offsets");
    let id = lines[2]["id"].as_str().expect("an id");
    let shown = &parsed(&dlq(&test, &file, "show", &[id, "--format", "json"]))[0];
    assert_eq!(shown["payload"], lines[2]["payload"]);
    let told = parsed(shown["payload"].as_str().expect("text"));
    assert_eq!((&told["table"], &told["key"]), (&json!("public.wide"), &json!("30")));
    assert!(shown["headers"].as_array().unwrap().iter().any(|header| header["name"] == "headwater-table"), "{shown}");

    // There is nothing to send of them: the others are sent, and who asks for these is told what to do.
    for conditions in [&["--where", "stage=capture"][..], &["--reason", "row_too_large"], &["--topic", &topic]] {
        let (exit, _, stderr) = try_dlq(&test, &file, "replay", conditions, &[]);
        assert_eq!(exit, Exit::Code(2), "{stderr}");
        assert!(stderr.contains("raise capture.max_row_bytes"), "{stderr}");
    }
    let again = test.topic("again");
    crate::harness::kafka::create_topic(&test.brokers, &again, 1, &[]);
    let sent = parsed(&dlq(&test, &file, "replay", &["--all", "--to", &again, "--format", "json"]));
    assert_eq!(sent["sent"], 8, "{sent}");
    assert_eq!(list(&["--where", "replayed=yes"])["count"], 8);

    // The cure that was told.
    let raised = file.replace("wide.yml", "raised.yml");
    let text = format!("{config:#}\n").replace("\"max_row_bytes\": 100000", "\"max_row_bytes\": 300000");
    std::fs::write(&raised, text).expect("a file");
    test.db().execute("UPDATE wide SET created_at = now() WHERE id % 10 = 0");
    let mut run = Run::start(&test, &["run", "-c", &raised, "--until-caught-up"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    assert_eq!(crate::harness::lake::read_table(&test.path("lake")).len(), 52, "those that land has refused aside");

    // Kafka is away: the rest is told.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!("{config:#}\n").replace(&test.brokers, &format!("127.0.0.1:{nobody}"));
    let away = test.write("away.yml", &text).display().to_string();
    let report = parsed(&dlq(&test, &away, "list", &["--format", "json"]));
    assert_eq!(report["count"], 8);
    assert!(report["warnings"][0].as_str().unwrap().contains("too large cannot be read"), "{report}");
    let report = parsed(&dlq(&test, &away, "list", &["--format", "json", "--where", "stage=land"]));
    assert_eq!(report["warnings"].as_array().map(Vec::len), Some(1), "not asked for: {report}");
}
