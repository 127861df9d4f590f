//! Old rows of analyze's tables.

use crate::harness::{
    DEADLINE, Run, Test,
    kafka::{Outgoing, create_topic, produce},
    run::Exit,
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
    // Ten of each a day, for forty days; the newest dead letters' records are still on the topic.
    db.execute(&format!(
        "INSERT INTO moments SELECT 'm' || i, 'spike', 's', now() - i * interval '1 day', now(), 'chat_count', 1, 1, 1, 1, now()
         FROM generate_series(0, 39) i;
         INSERT INTO late_events SELECT job, '{name}', now() - i * interval '1 day', now() + interval '1 day', 1, now(), now()
         FROM generate_series(0, 39) i, unnest(ARRAY['{job}', 'of another pipeline']) job;
         INSERT INTO dead_letters (job, topic, error_reason, error_detail, error_ts, kafka_partition, kafka_offset, topic_id)
         SELECT '{job}', '{name}', 'r', 'd', now() - i * interval '1 day', 0, i, CASE i WHEN 35 THEN '{id}' ELSE 'before' END
         FROM generate_series(0, 39) i",
    ));
    let run =
        |arguments: &[&str]| Run::start(&test, &[&["expire", "-c", &file, "--format", "json"], arguments].concat());
    let mut early = run(&["--analyze-older-than-days", "10"]);
    assert_eq!(early.wait(DEADLINE), Exit::Code(1), "windows of 20 days are still explained by late events");
    assert!(early.stderr().contains("--analyze-older-than-days 20"), "{}", early.stderr());

    let counts = || {
        let count =
            |table: &str| db.rows(&format!("SELECT count(*)::text FROM {table}"))[0][0].clone().expect("a count");
        ["moments", "late_events", "dead_letters"].map(count)
    };
    let mut planned = run(&["--analyze-older-than-days", "30", "--dry-run"]);
    assert_eq!(planned.wait(DEADLINE), Exit::Code(0), "{}", planned.stderr());
    assert_eq!(counts(), ["40", "80", "40"]);
    let mut done = run(&["--analyze-older-than-days", "30"]);
    assert_eq!(done.wait(DEADLINE), Exit::Code(0), "{}", done.stderr());
    let rows: Vec<u64> =
        done.json()["tables"].as_array().expect("tables").iter().map(|table| table["rows"].as_u64().unwrap()).collect();
    assert_eq!(done.json()["tables"], planned.json()["tables"]);
    assert_eq!(rows, [9, 9, 8], "31 to 39 days old, without the letter whose record is there");
    assert_eq!(counts(), ["31", "71", "32"]);
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
