//! Configurations of the capture tests, and the running of `headwater capture` with them.

use crate::harness::{
    Run, Test,
    kafka::{Message, read_topic},
    run::Exit,
};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// A configuration with a capture of `tables`. `capture` adds keys to that section. YAML is a superset
/// of JSON, so that any name is quoted as it must be.
pub fn config(test: &Test, capture: Value, tables: Value) -> Value {
    let mut section = json!({
        "poll_interval_ms": 100,
        "slack_ms": 500,
        "checkpoint_topic": test.topic("checkpoints"),
        "transactional_id": test.topic("capture"),
        "dead_letter_topic": test.topic("dead-letters"),
    });
    merge(&mut section, capture);
    section["tables"] = tables;
    json!({
        "pipeline": test.prefix,
        "postgres": {
            "host": test.postgres.host,
            "port": test.postgres.port,
            "db": test.postgres.db,
            "user": test.postgres.user,
            "tls_mode": "disable",
        },
        "kafka": {"brokers": test.brokers},
        "capture": section,
        "http": {"listen": "127.0.0.1:0"},
    })
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

/// Writes a configuration into the test's directory.
pub fn write(test: &Test, name: &str, config: &Value) -> PathBuf {
    test.write(name, &format!("{config:#}\n"))
}

/// `headwater capture -c FILE` with further arguments and environment.
pub fn start(test: &Test, file: &std::path::Path, arguments: &[&str], env: &[(&str, &str)]) -> Run {
    let file = file.to_str().expect("a path of plain text");
    let mut all = vec!["capture", "-c", file];
    all.extend(arguments);
    Run::with_env(test, &all, env)
}

/// Captures until caught up, and expects that to end well.
#[track_caller]
pub fn catch_up(test: &Test, file: &std::path::Path, arguments: &[&str]) -> Value {
    let mut all = vec!["--until-caught-up", "--format", "json"];
    all.extend(arguments);
    let mut run = start(test, file, &all, &[]);
    let exit = run.wait(Duration::from_secs(120));
    assert_eq!(exit, Exit::Code(0), "{}", run.stderr());
    run.json()
}

/// Drains a running capture.
#[track_caller]
pub fn drain(run: &mut Run) {
    run.terminate();
    let exit = run.wait(Duration::from_secs(60));
    assert_eq!(exit, Exit::Code(0), "{}", run.stderr());
}

/// All committed messages; none while the topic does not exist.
pub fn committed(test: &Test, topic: &str) -> Vec<Message> {
    if !crate::harness::kafka::topics(&test.brokers).iter().any(|name| name == topic) {
        return Vec::new();
    }
    read_topic(&test.brokers, topic, true)
}

/// A number from the environment, for `make torture`.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a whole number")),
        Err(_) => default,
    }
}

/// Everything that a run told people: its log and its summary.
pub fn said(run: &Run) -> String {
    format!("{}\n{}", run.stderr(), run.stdout())
}

/// Tells a thread to stop, also when the test fails: a scope waits for its threads.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
