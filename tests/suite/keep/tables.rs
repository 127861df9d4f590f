//! Old rows of analyze's tables.

use crate::{
    doctor::doctor,
    harness::{
        DEADLINE, Db, Run, Test, eventually,
        kafka::{Outgoing, create_topic, produce},
        run::Exit,
    },
};
use headwater::{config::model::Kafka, kafka::topic};

fn config(test: &Test, topic: &str) -> String {
    format!(
        "{}analyze:\n  jobs:\n    - name: chat\n      table: chat_summary_minute\n      key_column: stream_id\n      \
         window_duration: 1 minute\n      slide_duration: 10 seconds\n      retention_days: 20\n      inputs:\n        \
         - {{name: chat, topic: {topic}, key: stream_id, timestamp: timestamp, id: event_id}}\n      measures:\n        \
         - {{column: chat_count, function: count}}\n",
        crate::landing::general_head(test)
    )
}

/// One of each a day, for forty days; the record of one dead letter is still on the topic.
fn seed(db: &Db, name: &str, job: &str, id: &str) {
    db.execute(&format!(
        "INSERT INTO moments SELECT 'm' || i, 'spike', 's', now() - i * interval '1 day', now(), 'chat_count', 1, 1, 1, 1, now()
         FROM generate_series(0, 39) i;
         INSERT INTO late_events SELECT job, '{name}', now() - i * interval '1 day', now() + interval '1 day', 1, now(), now()
         FROM generate_series(0, 39) i, unnest(ARRAY['{job}', 'of another pipeline']) job;
         INSERT INTO dead_letters (job, topic, error_reason, error_detail, error_ts, kafka_partition, kafka_offset, topic_id)
         SELECT '{job}', '{name}', 'r', 'd', now() - i * interval '1 day', 0, i, CASE i WHEN 35 THEN '{id}' ELSE 'before' END
         FROM generate_series(0, 39) i",
    ));
}

fn counts(db: &Db) -> [String; 3] {
    let count = |table: &str| db.value(&format!("SELECT count(*) FROM {table}"));
    ["moments", "late_events", "dead_letters"].map(count)
}

#[test]
fn rows_older_than_the_retention_are_deleted_where_nothing_needs_them() {
    let test = Test::new();
    let name = test.topic("chat");
    create_topic(&test.brokers, &name, 1, &[]);
    produce(&test.brokers, &name, &[Outgoing::new("a", "no event")]);
    let id = topic::find(&Kafka::plaintext(&test.brokers), &name).expect("the topic").id.to_string();
    let file = test.write("chat.yml", &config(&test, &name)).display().to_string();
    let db = test.db();
    db.execute(include_str!("../../../db/migrations/0001_analyze.sql"));
    let job = format!("headwater-{}/chat", test.prefix);
    seed(&db, &name, &job, &id);
    let run =
        |arguments: &[&str]| Run::start(&test, &[&["expire", "-c", &file, "--format", "json"], arguments].concat());
    let mut early = run(&["--analyze-older-than-days", "10"]);
    assert_eq!(early.wait(DEADLINE), Exit::Code(1), "windows of 20 days are still explained by late events");
    assert!(early.stderr().contains("--analyze-older-than-days 20"), "{}", early.stderr());

    let mut planned = run(&["--analyze-older-than-days", "30", "--dry-run"]);
    assert_eq!(planned.wait(DEADLINE), Exit::Code(0), "{}", planned.stderr());
    assert_eq!(counts(&db), ["40", "80", "40"]);
    let mut done = run(&["--analyze-older-than-days", "30"]);
    assert_eq!(done.wait(DEADLINE), Exit::Code(0), "{}", done.stderr());
    let rows: Vec<u64> =
        done.json()["tables"].as_array().expect("tables").iter().map(|table| table["rows"].as_u64().unwrap()).collect();
    assert_eq!(done.json()["tables"], planned.json()["tables"]);
    assert_eq!(rows, [9, 9, 8], "31 to 39 days old, without the letter whose record is there");
    assert_eq!(counts(&db), ["31", "71", "32"]);
    assert_eq!(done.json()["left"][0]["what"], "table dead_letters");
}

#[test]
fn a_role_that_may_not_delete_is_told_what_to_grant() {
    let test = Test::new();
    let name = test.topic("chat");
    create_topic(&test.brokers, &name, 1, &[]);
    let db = test.db();
    db.execute(include_str!("../../../db/migrations/0001_analyze.sql"));
    let role = test.prefix.replace('-', "_");
    db.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT ON moments, late_events, dead_letters TO {role};
         INSERT INTO moments VALUES ('m', 'spike', 's', now() - interval '40 days', now(), 'chat_count', 1, 1, 1, 1, now())"
    ));
    let text = config(&test, &name).replace(&format!("user: {}", test.postgres.user), &format!("user: {role}"));
    let file = test.write("chat.yml", &text).display().to_string();
    let mut run = Run::start(&test, &["expire", "-c", &file, "--analyze-older-than-days", "30"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}", run.stdout());
    assert!(run.stderr().contains(&format!("GRANT DELETE ON moments TO {role}")), "{}", run.stderr());
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_job_that_runs_deletes_what_is_beyond_the_retention_and_nothing_else() {
    let test = Test::new();
    let name = test.topic("chat");
    create_topic(&test.brokers, &name, 1, &[]);
    produce(&test.brokers, &name, &[Outgoing::new("a", "no event")]);
    let id = topic::find(&Kafka::plaintext(&test.brokers), &name).expect("the topic").id.to_string();
    let settings = "analyze:\n  create_tables: true\n  history_retention_days: 30\n";
    let text = config(&test, &name).replace("analyze:\n", settings).replace("chat_summary_minute", "windows");
    let file = test.write("chat.yml", &text).display().to_string();
    let mut run = Run::start(&test, &["analyze", "-c", &file, "--until-caught-up"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    let (db, job) = (test.db(), format!("headwater-{}/chat", test.prefix));
    assert_eq!(counts(&db), ["0", "0", "1"], "the record is no event");
    seed(&db, &name, &job, &id);
    assert_eq!(counts(&db), ["40", "80", "41"]);

    // A user who may do all but that goes on, and is told.
    let role = format!("writer_{}", test.prefix.replace('-', "_"));
    db.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT headwater_writer TO {role};
         REVOKE DELETE ON moments, late_events, dead_letters FROM headwater_writer"
    ));
    let other = text.replace(&format!("user: {}", test.postgres.user), &format!("user: {role}"));
    let other = other.replace("create_tables: true", "migrate: false");
    let other = test.write("writer.yml", &other).display().to_string();
    let run = Run::start(&test, &["analyze", "-c", &other]);
    run.wait_for_log(&format!("GRANT DELETE ON moments, late_events, dead_letters TO \"{role}\""));
    eventually(DEADLINE, "a job that is ready", || run.get("/ready").is_some_and(|(code, _)| code == 200));
    assert_eq!(counts(&db), ["40", "80", "41"]);
    drop(run);
    let (message, cure) = doctor(&test, &other, &[]).trouble("failure", "grants", &role);
    assert!(message.contains("dead_letters, late_events, moments"), "{message}");
    db.execute(&cure);
    doctor(&test, &other, &[]).assert_ok("grants", &role);

    let run = Run::start(&test, &["analyze", "-c", &other]);
    let left = ["31", "71", "33"].map(str::to_owned);
    eventually(DEADLINE, "old rows to go", || counts(&db) == left);
    eventually(DEADLINE, "a line of it", || {
        run.stderr().contains("beyond their retention") && run.stderr().contains("rows=26")
    });
    assert_eq!(db.count("SELECT count(*) FROM late_events WHERE job = 'of another pipeline'"), 40);
    let held = format!("SELECT count(*) FROM dead_letters WHERE topic_id = '{id}' AND kafka_offset = 35");
    assert_eq!(db.count(&held), 1, "its record is still on the topic");
    drop(run);
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}
