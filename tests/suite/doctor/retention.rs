//! What is unread, against what the brokers keep: near the end, over it, and gone.

use super::{ROOM, Said, cures, doctor};
use crate::{
    harness::{
        DEADLINE, Run, Test, block_on,
        kafka::create_topic,
        run::{Exit, losses},
    },
    lake_faults::topics::{admin, delete_topic},
    landing::{self, Table, Writer},
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::AdminOptions,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: &str = "2025-01-15T12:24:00Z";
const MINUTE_MS: i64 = 60_000;

/// A landed topic whose records are kept for an hour, with ten of them landed.
struct Kept {
    test: Test,
    table: Table,
    file: String,
}

impl Kept {
    fn new(settings: &[(&str, &str)]) -> Kept {
        let test = Test::new();
        let schema = landing::orders_schema(&test);
        let table = Table::orders_by_file(&test.path("base"), &test.topic("orders"), &schema);
        create_topic(&test.brokers, &table.topic, 1, settings);
        let file = test.write("land.yml", &landing::land_config(&test, std::slice::from_ref(&table), &[]));
        let kept = Kept { file: file.display().to_string(), test, table };
        kept.write(0..10);
        kept.land(&[]);
        kept
    }

    fn write(&self, ids: std::ops::Range<i64>) {
        let writer = Writer::new(&self.test.brokers, &self.table.topic);
        ids.for_each(|id| writer.order(0, id, DAY));
        writer.flush();
    }

    /// One that says it was written so many minutes ago.
    fn write_old(&self, minutes: i64) {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &self.test.brokers).create().expect("a producer");
        let value = landing::order(1_000, DAY);
        let record = BaseRecord::<[u8], [u8]>::to(&self.table.topic).partition(0).payload(value.as_bytes());
        producer.send(record.timestamp(now_ms - minutes * MINUTE_MS)).map_err(|(error, _)| error).expect("room");
        producer.flush(DEADLINE).expect("delivery");
    }

    fn land(&self, more: &[&str]) {
        let arguments: Vec<&str> =
            ["land", "-c", &self.file, "--until-caught-up"].iter().chain(more).copied().collect();
        let mut run = Run::start(&self.test, &arguments);
        assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    }

    fn look(&self) -> Said {
        doctor(&self.test, &self.file, &[])
    }
}

#[test]
fn a_lag_is_told_before_its_records_are_gone() {
    // Kept for an hour; the files in which they are deleted are not closed meanwhile.
    let kept = Kept::new(&[("retention.ms", "3600000")]);
    let topic = &kept.table.topic;
    let said = kept.look();
    said.assert_well(&[ROOM]);
    assert!(said.one("retention", topic)["message"].as_str().unwrap().contains("all is read, kept for 1 h"), "{said}");
    kept.write(10..20);
    let said = kept.look();
    said.assert_well(&[ROOM]);
    assert!(said.one("retention", topic)["message"].as_str().unwrap().contains("10 offsets behind"), "{said}");
    kept.land(&[]);

    kept.write_old(50);
    let said = kept.look();
    assert_eq!(said.exit, Exit::Code(0), "a warning: {said}");
    let (message, cure) = said.trouble("warning", "retention", topic);
    assert!(
        message.starts_with("land: 1 offset behind, the oldest unread record 50 min old")
            && message.contains("deleted in 10 min"),
        "{message}"
    );
    assert!(cure.ends_with("--add-config retention.ms=7200000"), "{cure}");
    cures::run(&kept.test.brokers, &cure);
    kept.look().assert_well(&[ROOM]);
    kept.land(&[]);
    kept.look().assert_well(&[ROOM]);

    kept.write_old(130);
    let said = kept.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "retention", topic);
    assert!(message.contains("may be deleted at any moment"), "{message}");
    cures::run(&kept.test.brokers, &cure);
    kept.look().assert_well(&[ROOM]);
}

#[test]
fn records_that_are_gone_unread_are_told_and_so_is_a_topic_made_again() {
    let kept = Kept::new(&[]);
    let topic = &kept.table.topic;
    kept.write(10..30);
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(topic, 0, Offset::Offset(15)).unwrap();
    block_on(admin(&kept.test).delete_records(&before, &AdminOptions::new())).expect("the records go");
    let said = kept.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "retention", topic);
    assert!(
        message.contains("offsets 10 to 14") && cure.starts_with("headwater land --accept-loss"),
        "{message} {cure}"
    );
    kept.land(&["--accept-loss", &losses(&cure)]);
    kept.look().assert_well(&[ROOM]);

    delete_topic(&kept.test, topic);
    create_topic(&kept.test.brokers, topic, 1, &[]);
    kept.write(100..110);
    let said = kept.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "retention", topic);
    assert!(message.contains("was deleted and made again"), "{message}");
    kept.land(&["--accept-loss", &losses(&cure)]);
    kept.look().assert_well(&[ROOM]);
}

#[test]
fn a_job_is_held_against_its_topics_too() {
    let test = Test::new();
    let (chat, other) = (test.topic("chat"), test.topic("other"));
    for topic in [&chat, &other] {
        create_topic(&test.brokers, topic, 1, &[("retention.ms", "604800000")]);
    }
    let pg = &test.postgres;
    let config = json!({
        "pipeline": test.prefix,
        "postgres": {"host": pg.host, "port": pg.port, "db": pg.db, "user": pg.user, "tls_mode": "disable"},
        "kafka": {"brokers": test.brokers},
        "analyze": {"create_tables": true, "jobs": [{
            "name": "chat", "table": "windows", "key_column": "stream_id", "window_duration": "2 s",
            "idle_timeout_ms": 500, "watermark_delay_ms": 1_000,
            "inputs": [{"name": "chat", "topic": chat, "key": "stream_id", "partitions": 1}],
            "measures": [{"column": "chat_count", "function": "count"}],
        }]},
        "http": {"listen": null},
    });
    let file = test.write("chat.yml", &config.to_string()).display().to_string();
    let writer = Writer::new(&test.brokers, &chat);
    let event = |n: i64| landing::Raw {
        value: Some(format!("{{\"stream_id\": \"s\", \"timestamp\": \"2025-01-15T12:{:02}:00Z\"}}", n).into_bytes()),
        ..landing::Raw::default()
    };
    (0..10).for_each(|n| writer.send(&event(n)));
    writer.flush();
    let mut run = Run::start(&test, &["analyze", "-c", &file, "--until-caught-up"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    let said = doctor(&test, &file, &[]);
    said.assert_well(&["roles"]);
    assert!(said.one("retention", &chat)["message"].as_str().unwrap().starts_with("job chat: all is read"), "{said}");

    (10..20).for_each(|n| writer.send(&event(n)));
    writer.flush();
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&chat, 0, Offset::Offset(15)).unwrap();
    block_on(admin(&test).delete_records(&before, &AdminOptions::new())).expect("the records go");
    let said = doctor(&test, &file, &[]);
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "retention", &chat);
    assert!(message.contains("are gone before their windows were final"), "{message}");
    assert!(cure.starts_with("headwater analyze --accept-loss"), "{cure}");
    let mut run = Run::start(&test, &["analyze", "-c", &file, "--until-caught-up", "--accept-loss", &losses(&cure)]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    doctor(&test, &file, &[]).assert_well(&["roles"]);
}
