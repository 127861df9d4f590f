//! `show`, the JSON Schema and the reference: each covers every key, none shows a secret.

use super::*;
use crate::config::{
    json_schema,
    keys::{KEYS, Kind},
    reference_markdown,
    show::{self, is_key, shown_paths},
};
use serde_json::Value;

/// Every leaf of the general form, away from its default.
pub const FULL: &str = "\
pipeline: full
postgres: {host: h, port: 6, db: d, user: u, password: secret-one, tls_mode: verify-full, tls_ca_file: Cargo.toml, connect_timeout_ms: 7}
kafka:
  brokers: k:9092
  security_protocol: sasl_ssl
  sasl_mechanism: SCRAM-SHA-512
  sasl_username: me
  sasl_password: secret-two
  ssl_ca_file: Cargo.toml
  ssl_certificate_file: Cargo.toml
  ssl_key_file: Cargo.toml
  create_topics: false
  properties: {socket.timeout.ms: 5, client.rack: 'a: b'}
capture:
  poll_interval_ms: 11
  slack_ms: 12
  prepared_margin_ms: 13
  timezone: Europe/Berlin
  chunk_rows: 14
  max_transaction_rows: 15
  max_transaction_bytes: 16
  max_transaction_ms: 17
  max_row_bytes: 16
  lock_timeout_ms: 18
  checkpoint_topic: c
  checkpoint_replication: 3
  transactional_id: 'true'
  compression: zstd
  dead_letter_topic: dl
  last_processed_timestamp_location: /last
  tables:
    - {schema: s, table: 'odd \"name', topic: t, watermark: w, key: [a], columns: [b, 'null'], where: \"x = '$${y}'\", partitions: 2, replication: 3, retention_ms: -1}
land:
  group: g
  rotate_ms: 21
  rotate_bytes: 22
  max_files: 23
  buffer_bytes: 65537
  compression_level: 3
  tables:
    - {topic: t, path: /lake/t, checkpoint_location: /c, dead_letter_path: /d, source: {schema: s, table: x, columns: [z]}, date_column: d, not_null: [a], non_negative: [b], numeric_precision: 9, numeric_scale: 2, overflow_column: o, metadata_columns: true, rename: {'odd: \"field': q}, allow_network_file_system: true}
    - {topic: u, path: /lake/u, date_column: d, schema_file: Cargo.toml}
analyze:
  migrate: false
  pool_size: 31
  schema: of_windows
  create_tables: false
  history_retention_days: 51
  jobs:
    - name: j
      table: w
      key_column: k
      window_duration: 1 minute
      slide_duration: 20s
      refresh_ms: 333
      join: full
      watermark_delay_ms: 34
      allowed_lateness_ms: 35
      idle_timeout_ms: 336
      max_future_ms: 37
      distinct_exact_limit: 38
      counts_limit: 39
      max_state_bytes: 2000039
      emote_sentiment: false
      retention_days: 40
      inputs:
        - {name: a, topic: t, key: ka}
        - {name: b, topic: u, key: kb, timestamp: at, id: i, tokens: [{field: f, from: g, words: [x, y]}], partitions: 41, replication: 42, retention_ms: 43}
      measures:
        - {column: c, input: b, function: top_k, field: f, k: 44}
        - {column: n, function: count}
      anomalies:
        - {moment: m, measure: n, direction: both, detector: quantile, threshold: 4.5, baseline_periods: 46, history_periods: 47, minimum_history: 48, cooldown_ms: 49, floor_absolute: 50.5, floor_relative: 0.5, floor_poisson: 1.25}
http: {listen: '0.0.0.0:1', allowed_hosts: [headwater], token: secret-three, show_payloads: false}
runtime: {shutdown_timeout_ms: 1, wait_attempts: 2, wait_delay_ms: 3, stall_timeout_ms: 1004}
";

/// The keys that only ever stand in a file: `show` gives what they resolve to.
fn is_input_only(path: &str) -> bool {
    let keys =
        ["tenants", "postgres.jdbc_url", "postgres.table", "postgres.watermark", "kafka.topic", "kafka.properties"];
    path.ends_with("password_file")
        || path == "http.token_file"
        || path.starts_with("datalake.")
        || path.starts_with("streaming.")
        || keys.contains(&path)
}

#[test]
fn show_covers_every_key_and_loads_again() {
    let config = load(FULL);
    let shown = show::show(&config);
    let paths = shown_paths(&config);
    for path in &paths {
        assert!(is_key(path), "{path} is not a key");
    }
    for key in KEYS.iter().filter(|key| !key.is_section() && !is_input_only(key.path)) {
        assert!(paths.contains(key.path), "show lacks {}", key.path);
    }
    let again =
        load_text(Path::new("other.yml"), &shown, &Environment::default()).unwrap_or_else(|e| panic!("{e}\n{shown}"));
    assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&config).unwrap(), "{shown}");
    assert!(shown.starts_with("pipeline: full\npostgres:\n  host: h\n  port: 6\n"), "{shown}");
    assert!(shown.contains("  tables:\n    - schema: s\n      table: \"odd \\\"name\"\n"), "{shown}");
}

#[test]
fn what_explains_windows_is_kept_as_long_as_they_are() {
    const WINDOWS: &str = "      retention_days: 40\n";
    const HISTORY: &str = "  history_retention_days: 51\n";
    let days = |text: &str| load(text).pipelines[0].analyze.as_ref().unwrap().history_retention_days;
    assert_eq!(days(FULL), 51);
    let without = FULL.replace(HISTORY, "");
    assert_eq!(days(&without), 365);
    assert_eq!(days(&without.replace(WINDOWS, "      retention_days: 400\n")), 400);
    let short = FULL.replace(WINDOWS, "      retention_days: 52\n");
    let error = load_text(Path::new("p.yml"), &short, &Environment::default()).unwrap_err().to_string();
    assert!(
        error.contains("analyze.history_retention_days must be at least 52, the retention_days of job j"),
        "{error}"
    );
}

#[test]
fn nothing_shows_a_secret() {
    let config = load(FULL);
    for text in [show::show(&config), format!("{config:?}"), serde_json::to_string(&config).unwrap()] {
        for secret in ["secret-one", "secret-two", "secret-three"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("***"));
    }
    assert_eq!(config.pipelines[0].kafka.sasl_password.as_ref().unwrap().reveal(), "secret-two");
}

#[test]
fn every_pipeline_is_a_document() {
    let config = load(
        "tenants: [a, b]\npostgres: {host: h, db: d, user: u, table: t}\nkafka: {brokers: 'k:1', topic: '{tenant}'}\nhttp: {listen: null}",
    );
    let shown = show::show(&config);
    let documents: Vec<_> = shown.split("---\n").collect();
    assert_eq!(documents.len(), 2);
    for (document, pipeline) in documents.into_iter().zip(&config.pipelines) {
        let again = load(document);
        assert_eq!((&again.pipelines[0], again.http.listen), (pipeline, None));
    }
}

fn schema_at<'a>(schema: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(schema, |schema, part| {
        let (name, is_list) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
        let schema = &schema["properties"][name];
        if is_list { &schema["items"] } else { schema }
    })
}

#[test]
fn the_schema_has_every_key() {
    let schema = json_schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for key in KEYS {
        let found = schema_at(&schema, key.path);
        assert!(found["description"].as_str().unwrap().starts_with(key.doc), "{}", key.path);
        match key.kind {
            Kind::Section => assert_eq!(found["additionalProperties"], false, "{}", key.path),
            Kind::SectionList => assert_eq!(found["items"]["additionalProperties"], false, "{}", key.path),
            Kind::Choice(choices) => assert_eq!(found["anyOf"][0]["enum"], serde_json::json!(choices)),
            Kind::Integer { min, .. } => assert_eq!(found["anyOf"][0]["minimum"], serde_json::json!(min)),
            _ => {}
        }
        if matches!(key.default, crate::config::keys::Default::Value(_)) {
            assert!(!found["default"].is_null(), "{} lacks its default", key.path);
        }
    }
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema_at(&schema, "capture.tables[]")["required"], serde_json::json!(["table", "topic", "watermark"]));
}

#[test]
fn the_reference_has_every_key() {
    let markdown = reference_markdown();
    for key in KEYS {
        assert!(markdown.contains(&format!("| `{}` | ", key.path)), "{}", key.path);
    }
    assert!(markdown.contains("| `capture.slack_ms` | integer, 1 to 86400000 | `2000` |"));
    assert_eq!(markdown.lines().count(), KEYS.len() + 2);
}

/// The table's words for choices are those of the model, so that `show` can be loaded.
#[test]
fn every_choice_means_itself() {
    for key in KEYS {
        let Kind::Choice(choices) = key.kind else { continue };
        for choice in choices.iter().filter(|_| !key.path.starts_with("analyze.")) {
            let line = FULL.lines().map(|line| {
                let (section, name) = key.path.split_once('.').unwrap();
                let is_key = line.trim_start().starts_with(&format!("{name}:"));
                match section {
                    "postgres" if line.starts_with("postgres:") && *choice != "verify-full" => {
                        line.replace("tls_mode: verify-full, tls_ca_file: Cargo.toml", &format!("tls_mode: {choice}"))
                    }
                    "kafka" | "capture" if is_key => format!("  {name}: {choice}"),
                    "kafka" if name == "security_protocol" && drop_for(choice, line) => String::new(),
                    _ => line.to_owned(),
                }
            });
            let text: Vec<String> = line.collect();
            let config = load(&text.join("\n"));
            let value = serde_json::to_value(&config.pipelines[0]).unwrap();
            assert_eq!(value.pointer(&format!("/{}", key.path.replace('.', "/"))).unwrap(), choice);
        }
    }
}

#[test]
fn every_choice_of_a_job_means_itself() {
    for key in KEYS.iter().filter(|key| key.path.starts_with("analyze.")) {
        let Kind::Choice(choices) = key.kind else { continue };
        for choice in choices {
            let given = format!("{}: {choice}", key.name());
            let text = match (key.name(), *choice) {
                ("join", _) => FULL.replace("join: full", &given),
                ("direction", _) => FULL.replace("direction: both", &given),
                ("detector", _) => FULL.replace("detector: quantile", &given),
                ("function", "top_k") => FULL.to_owned(),
                ("function", "count" | "rate") => FULL.replace("function: top_k, field: f, k: 44", &given),
                ("function", _) => FULL.replace("function: top_k, field: f, k: 44", &format!("{given}, field: f")),
                (name, _) => panic!("{name} is not tried"),
            };
            let shown = show::show(&load(&text));
            assert!(shown.contains(&given), "{given}\n{shown}");
        }
    }
}

/// What does not go together with a security protocol.
fn drop_for(protocol: &str, line: &str) -> bool {
    let line = line.trim_start();
    (!protocol.contains("sasl") && line.starts_with("sasl_")) || (!protocol.contains("ssl") && line.starts_with("ssl_"))
}
