//! `headwater verify` against windows that were written right, and then against every kind of damage:
//! each must be found, counted exactly and named, and nothing else with it.

use crate::analyze::scene::chat_measures;
use crate::harness::{
    DEADLINE, Db, Run, Test, block_on, eventually,
    kafka::{Outgoing, create_topic, produce},
    run::Exit,
};
use headwater::{
    config::model::{Compression, Kafka},
    generate::{
        Show,
        chat::{Job, Pace, Plant, Progress, Settings, Volume, write},
    },
    verify::{self, Options, windows::report::JobReport},
};
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(60);
/// 2025-01-15T23:50:00Z: the chat goes on past midnight.
const START_MS: i64 = 1_736_985_000_000;
const SECONDS: u64 = 1_200;
/// What is damaged, and put back.
const TABLES: [&str; 4] = ["chat_summary_minute", "moments", "dead_letters", "late_events"];

pub struct Chat {
    test: Test,
    file: PathBuf,
    pub db: Db,
}

impl Chat {
    /// Twenty minutes of six streams, analyzed to their end.
    pub fn analyzed(duplicate_share: f64) -> Chat {
        let chat = Chat::open(json!({"window_duration": "1 minute", "slide_duration": "10 seconds"}));
        chat.generate(duplicate_share);
        chat.analyze();
        chat
    }

    /// A job with these settings, and no topics yet.
    fn open(settings: Value) -> Chat {
        let test = Test::new();
        let (chat, viewer) = (test.topic("chat"), test.topic("viewer"));
        let emotes = ["Kappa", "PogChamp", "LUL", "KEKW", "BibleThump"];
        let input = |name: &str, topic: &str| json!({"name": name, "topic": topic, "key": "stream_id", "partitions": 3, "replication": 1});
        let mut first = input("chat", &chat);
        first["id"] = json!("event_id");
        first["tokens"] = json!([{"field": "emotes", "from": "message", "words": emotes}]);
        let watch = |moment: &str, measure: &str, direction: &str| json!({"moment": moment, "measure": measure, "direction": direction, "baseline_periods": 5});
        let mut config = json!({
            "pipeline": test.prefix,
            "postgres": {"host": test.postgres.host, "port": test.postgres.port, "db": test.postgres.db,
                         "user": test.postgres.user, "tls_mode": "disable"},
            "kafka": {"brokers": test.brokers},
            "analyze": {"jobs": [{
                "name": "chat", "table": "chat_summary_minute", "key_column": "stream_id",
                "idle_timeout_ms": 1_500,
                "retention_days": 36_500,
                "inputs": [first, input("viewer", &viewer)],
                "measures": chat_measures(),
                "anomalies": [
                    watch("chat_spike", "chat_count", "up"),
                    watch("viewer_drop", "avg_viewers", "down"),
                    watch("emote_spike", "emote_counts", "up"),
                ],
            }]},
            "http": {"listen": null},
        });
        let job = config["analyze"]["jobs"][0].as_object_mut().expect("the job");
        job.extend(settings.as_object().expect("settings").clone());
        let file = test.write("chat.yml", &config.to_string());
        let db = test.db();
        Chat { test, file, db }
    }

    fn generate(&self, duplicate_share: f64) {
        let (_running, shutdown) = watch::channel(false);
        let planted = Plant { chat_spikes_per_day: 40.0, gap_seconds: 300, ..Plant::default() };
        let settings = Settings {
            start_ms: START_MS,
            volume: Volume::Total { messages: 12_000, seconds: SECONDS },
            streams: 6,
            users: 400,
            duplicate_share,
            bad_share: 0.02,
            planted,
            ..Settings::default()
        };
        let job = Job {
            kafka: Kafka::plaintext(&self.test.brokers),
            chat_topic: self.test.topic("chat"),
            viewer_topic: self.test.topic("viewer"),
            partitions: 3,
            replication: 1,
            compression: Compression::None,
            settings,
            pace: Pace::Fast,
            planted: None,
            shutdown,
            show: Show::Nothing,
            progress: Progress::default(),
        };
        block_on(write(job)).expect("a chat");
    }

    fn analyze(&self) {
        let file = self.file.to_str().expect("a path");
        let mut run = Run::start(&self.test, &["analyze", "-c", file, "--until-caught-up"]);
        assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    }

    pub fn verify(&self) -> JobReport {
        let config = headwater::config::load_file(&self.file).expect("the configuration");
        let mut report = block_on(verify::run(&config.pipelines[0], Options::default())).expect("a report");
        assert_eq!(report.ok, report.jobs[0].counts.is_equal(false));
        report.jobs.swap_remove(0)
    }

    /// The exit code of the command, and what it prints.
    fn command(&self, arguments: &[&str]) -> (Exit, String) {
        let file = self.file.to_str().expect("a path");
        let mut run = Run::start(&self.test, &[&["verify", "-c", file], arguments].concat());
        (run.wait(LIMIT), run.stdout())
    }

    pub fn save(&self) {
        for table in TABLES {
            self.db
                .execute(&format!("DROP TABLE IF EXISTS saved_{table}; CREATE TABLE saved_{table} AS TABLE {table}"));
        }
    }

    /// What is found after `damage`, which is undone afterwards.
    pub fn after_damage(&self, damage: &str) -> JobReport {
        self.db.execute(damage);
        let report = self.verify();
        for table in TABLES {
            self.db.execute(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM saved_{table}"));
        }
        report
    }

    fn produce(&self, at_ms: i64, id: &str, stream: &str) {
        let at = chrono::DateTime::from_timestamp_millis(at_ms).expect("a time");
        let event = json!({"event_id": id, "stream_id": stream, "user_id": "late", "message": "good",
                           "timestamp": at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)});
        produce(&self.test.brokers, &self.test.topic("chat"), &[Outgoing::new(stream, event.to_string())]);
    }
}

/// Missing, unexpected, differing, duplicated, explained by late events, explained by copies.
fn found(report: &JobReport) -> [u64; 6] {
    let counts = &report.counts;
    [
        counts.missing_count,
        counts.unexpected_count,
        counts.differing_count,
        counts.duplicated_count,
        counts.explained_by_late,
        counts.explained_by_copies,
    ]
}

/// A final row in the middle that no moment is about.
pub const QUIET: &str = "(stream_id, window_start) = (SELECT stream_id, window_start FROM saved_chat_summary_minute s
    WHERE window_start > '2025-01-16 00:00:00+00' AND avg_viewers IS NOT NULL AND emote_counts <> '{}' AND NOT EXISTS
      (SELECT FROM moments m WHERE m.stream_id = s.stream_id AND m.window_start = s.window_start)
    ORDER BY window_start, stream_id LIMIT 1)";

#[test]
fn damage_to_the_tables_is_found_whatever_it_is() {
    let chat = Chat::analyzed(0.02);
    let intact = chat.verify();
    let counts = &intact.counts;
    assert!(counts.is_equal(true), "{intact}");
    assert_eq!(found(&intact), [0; 6], "{intact}");
    assert_eq!(counts.rows, chat.db.count("SELECT count(*) FROM chat_summary_minute"));
    assert_eq!(counts.moments, chat.db.count("SELECT count(*) FROM moments"));
    assert_eq!(counts.dead_letters.values().sum::<u64>(), chat.db.count("SELECT count(*) FROM dead_letters"));
    assert!(counts.rows > 500 && counts.windows > 120 && counts.moments > 2, "{intact}");
    assert!(counts.duplicate_events > 100 && counts.dead_letters.len() > 2, "{intact}");
    chat.save();

    let (exit, text) = chat.command(&["--strict"]);
    assert_eq!(exit, Exit::Code(0), "{text}");
    assert!(text.starts_with("job chat → chat_summary_minute: ") && text.lines().count() <= 3, "{text}");
    assert!(text.contains(": equal; windows: missing 0, unexpected 0, differing 0, duplicated 0"), "{text}");

    // Every column, one by one.
    for (column, value) in [
        ("chat_count", "chat_count + 1"),
        ("unique_chatters", "unique_chatters - 1"),
        ("avg_sentiment", "coalesce(avg_sentiment, 0) + 0.0001"),
        ("positive_count", "positive_count + 1"),
        ("negative_count", "negative_count + 1"),
        ("top_emotes", "array_append(top_emotes, 'x')"),
        ("emote_counts", "emote_counts || '{\"x\": 1}'"),
        ("chat_rate", "chat_rate * 1.001"),
        ("avg_viewers", "NULL"),
        ("window_end", "window_end + interval '1 ms'"),
        ("is_final", "false"),
        ("approximate", "true"),
    ] {
        let report = chat.after_damage(&format!("UPDATE chat_summary_minute SET {column} = {value} WHERE {QUIET}"));
        assert_eq!(found(&report), [0, 0, 1, 0, 0, 0], "{column}: {report}");
        let difference = &report.differing[0];
        assert!(difference.what.starts_with(&format!("{column}: table ")), "{column}: {}", difference.what);
        assert!(difference.place.starts_with("chat_summary_minute 2025-01-16T00:"), "{}", difference.place);
    }

    let report = chat.after_damage(&format!("DELETE FROM chat_summary_minute WHERE {QUIET}"));
    assert_eq!(found(&report), [1, 0, 0, 0, 0, 0], "{report}");
    assert!(report.missing[0].what.starts_with("missing; its events: "), "{report}");

    for (key, start) in [("'nobody'", "window_start"), ("stream_id", "window_start + interval '3 ms'")] {
        let report = chat.after_damage(&format!(
            "CREATE TEMPORARY TABLE one AS SELECT * FROM chat_summary_minute WHERE {QUIET};
             UPDATE one SET stream_id = {key}, window_start = {start};
             INSERT INTO chat_summary_minute SELECT * FROM one; DROP TABLE one"
        ));
        assert_eq!(found(&report), [0, 1, 0, 0, 0, 0], "{report}");
    }

    let letter = "(kafka_partition, kafka_offset, topic) = (SELECT kafka_partition, kafka_offset, topic
                   FROM saved_dead_letters ORDER BY kafka_offset DESC LIMIT 1)";
    let report = chat.after_damage(&format!("DELETE FROM dead_letters WHERE {letter}"));
    assert_eq!(found(&report), [1, 0, 0, 0, 0, 0], "{report}");
    assert!(report.missing[0].what.starts_with("no dead letter, but the record is no event: "), "{report}");
    for change in ["raw_payload = raw_payload || '\\x20'", "key = '\\x00'", "error_reason = 'other'"] {
        let report = chat.after_damage(&format!("UPDATE dead_letters SET {change} WHERE {letter}"));
        assert_eq!(found(&report), [0, 0, 1, 0, 0, 0], "{change}: {report}");
        assert!(report.differing[0].what.starts_with("the dead letter: "), "{report}");
    }
    // A letter that stands at the record before, which is an event.
    let report = chat.after_damage(
        "UPDATE dead_letters d SET kafka_offset = kafka_offset - 1 WHERE ctid = (
           SELECT d.ctid FROM dead_letters d WHERE kafka_offset > 0
           AND NOT EXISTS (SELECT FROM dead_letters e WHERE e.topic = d.topic AND e.kafka_partition = d.kafka_partition
                           AND e.kafka_offset = d.kafka_offset - 1)
           ORDER BY kafka_partition, topic, kafka_offset LIMIT 1)",
    );
    assert_eq!(found(&report), [1, 1, 0, 0, 0, 0], "{report}");

    let moment = "moment_id = (SELECT min(moment_id) FROM saved_moments)";
    let report = chat.after_damage(&format!(
        "CREATE TEMPORARY TABLE one AS SELECT * FROM moments WHERE {moment}; UPDATE one SET moment_id = 'other';
         INSERT INTO moments SELECT * FROM one; DROP TABLE one"
    ));
    assert_eq!(found(&report), [0, 0, 0, 1, 0, 0], "{report}");
    assert!(report.duplicated[0].what.contains("is there twice"), "{report}");
    // One that was moved lacks where it was, too.
    for (change, missing) in
        [("value = value + 1", 0), ("window_end = window_end + interval '10 s'", 0), ("stream_id = 'nobody'", 1)]
    {
        let report = chat.after_damage(&format!("UPDATE moments SET {change} WHERE {moment}"));
        assert_eq!(found(&report), [missing, 0, 1, 0, 0, 0], "{change}: {report}");
    }

    // The command says so, to people and to programs.
    chat.db.execute(&format!("UPDATE chat_summary_minute SET chat_count = 0 WHERE {QUIET}"));
    let (exit, text) = chat.command(&[]);
    assert_eq!(exit, Exit::Code(1));
    assert!(text.contains("; differing 1 (") && text.contains("  differing: key "), "{text}");
    assert!(text.contains("chat_count: table 0, recomputed "), "{text}");
    assert!(text.contains(": NOT equal; windows: missing 0, unexpected 0, differing 1"), "{text}");
    let (exit, text) = chat.command(&["--format", "json"]);
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(exit, Exit::Code(1));
    assert_eq!((&report["ok"], &report["jobs"][0]["differing_count"]), (&json!(false), &json!(1)));
    assert!(report["jobs"][0]["differing"][0]["what"].as_str().is_some_and(|what| what.starts_with("chat_count: ")));
}

#[test]
fn late_events_explain_what_they_list_and_later_records_are_under_way() {
    let chat = Chat::analyzed(0.0);
    let stream = chat.db.value("SELECT min(stream_id) FROM chat_summary_minute");
    // Ten minutes late: one by one, one of them twice, and one of a stream that nobody else writes to.
    for (seconds, id, stream) in
        [(600, "late-1", &*stream), (605, "late-2", &stream), (605, "late-2", &stream), (601, "late-3", "lone")]
    {
        chat.produce(START_MS + seconds * 1_000, id, stream);
    }
    let before = chat.verify();
    assert_eq!((before.counts.pending_records, found(&before)), (4, [0; 6]), "{before}");
    assert_eq!(chat.command(&[]).0, Exit::Code(0));
    assert_eq!(chat.command(&["--strict"]).0, Exit::Code(1));

    chat.analyze();
    chat.save();
    // Six windows hold each.
    let listed = chat.db.count("SELECT sum(event_count) FROM late_events");
    assert_eq!(listed, 24);
    let report = chat.verify();
    assert!(report.counts.is_equal(true), "{report}");
    assert_eq!((report.counts.late_events, report.counts.late_windows), (24, 6), "{report}");
    assert_eq!(found(&report), [0, 0, 0, 0, 12, 0], "{report}");
    assert!(report.explained.iter().any(|row| row.key == "lone" && row.what.contains("missing; its events: 1")));
    assert!(report.to_string().contains("explained by late events 12"), "{report}");

    // The list must be true.
    let window = "window_start = (SELECT min(window_start) FROM saved_late_events)";
    let report = chat.after_damage(&format!("UPDATE late_events SET event_count = event_count + 2 WHERE {window}"));
    assert_eq!(found(&report), [1, 0, 1, 0, 10, 0], "{report}");
    assert!(report.differing[0].what.contains("late_events lists 6 of "), "{report}");
    let report = chat.after_damage(&format!("DELETE FROM late_events WHERE {window}"));
    assert_eq!(found(&report), [1, 0, 1, 0, 10, 0], "{report}");
    let report = chat.after_damage(
        "INSERT INTO late_events SELECT job, topic, window_start - interval '5 min', window_end - interval '5 min', 1,
           first_seen, last_seen FROM late_events ORDER BY window_start LIMIT 1",
    );
    assert_eq!(found(&report), [0, 0, 1, 0, 12, 0], "{report}");
    assert!(report.differing[0].place.starts_with("late_events 2025-01-15T23:54:"), "{report}");
    // A row beside those that lack something is not excused.
    let beside = format!("stream_id <> '{stream}' AND {window}");
    let report = chat.after_damage(&format!(
        "UPDATE chat_summary_minute SET unique_chatters = unique_chatters - 1 WHERE {beside} AND stream_id =
           (SELECT max(stream_id) FROM saved_chat_summary_minute WHERE {beside})"
    ));
    assert_eq!(found(&report), [0, 0, 1, 0, 12, 0], "{report}");
}

#[test]
fn a_job_that_has_not_run_is_under_way_and_a_topic_made_anew_is_named() {
    let chat = Chat::analyzed(0.0);
    let id = chat.db.value("SELECT job FROM analyze_jobs");
    chat.db.execute("UPDATE analyze_partitions SET topic_id = 'another' WHERE partition = 0");
    let (exit, _) = chat.command(&[]);
    assert_eq!(exit, Exit::Code(1));
    chat.db.execute(&format!("DELETE FROM analyze_jobs WHERE job = '{id}'"));
    let report = chat.verify();
    assert_eq!((report.counts.windows, report.compared_from.as_deref()), (0, None), "{report}");
    assert!(report.counts.pending_records > 10_000, "{report}");
    assert_eq!(chat.command(&["--strict"]).0, Exit::Code(1));
}

/// The clock that refused it has gone on when the record is read again.
#[test]
fn a_record_refused_as_too_new_stays_refused_after_a_kill() {
    let now_ms = || chrono::Utc::now().timestamp_millis();
    let chat = Chat::open(json!({"window_duration": "15 seconds", "slide_duration": "5 seconds",
                                 "watermark_delay_ms": 3_000, "max_future_ms": 2_000}));
    for name in ["chat", "viewer"] {
        create_topic(&chat.test.brokers, &chat.test.topic(name), 3, &[]);
    }
    let file = chat.file.to_str().expect("a path");
    let mut run = Run::start(&chat.test, &["analyze", "-c", file]);
    run.wait_for_log("leading");
    let begun_ms = now_ms();
    let too_new_ms = begun_ms + 8_000;
    // The first holds a window open, so that both are read again.
    chat.produce(begun_ms, "now", "s1");
    chat.produce(too_new_ms, "too-new", "s1");
    eventually(DEADLINE, "the dead letter", || chat.db.count("SELECT count(*) FROM dead_letters") == 1);
    run.kill();
    eventually(DEADLINE, "a time at which the record would be taken", || now_ms() > too_new_ms - 2_000);
    chat.analyze();
    assert_eq!(chat.db.value("SELECT string_agg(DISTINCT chat_count::text, ',') FROM chat_summary_minute"), "1");
    assert_eq!(chat.db.count("SELECT count(*) FROM chat_summary_minute"), 3);
    let report = chat.verify();
    assert!(report.counts.is_equal(true), "{report}");
    assert_eq!((report.counts.events, report.counts.dead_letters["invalid_timestamp"]), (1, 1), "{report}");
}
