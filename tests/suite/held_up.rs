//! What holds a reading up without ending it: damaged batches, open transactions, a group that does not take the
//! member, memory that another table held. Each is seen in the state, and keeps nothing from the others.

use crate::{
    harness::{DEADLINE, PrivateServers, Run, Test, eventually, kafka::create_topic, lake::read_table, run::Exit},
    lake_faults::topics::delete_topic,
    landing::{self, Table, Writer},
};
use headwater::demo::servers::{KafkaOptions, KafkaServer, PostgresOptions};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};
use std::{fs, ops::Range, path::Path};

const DAY: &str = "2025-01-15T12:24:00Z";

fn table(test: &Test, name: &str) -> Table {
    let table = Table::orders_by_file(&test.path(name), &test.topic(name), &landing::orders_schema(test));
    create_topic(&test.brokers, &table.topic, 1, &[]);
    table
}

fn write(test: &Test, table: &Table, ids: Range<i64>) {
    let writer = Writer::new(&test.brokers, &table.topic);
    ids.for_each(|id| writer.order(0, id, DAY));
    writer.flush();
}

fn start(test: &Test, tables: &[&Table], settings: &[&str]) -> Run {
    let tables: Vec<Table> = tables.iter().map(|table| (*table).clone()).collect();
    let file = test.write("land.yml", &landing::land_config(test, &tables, settings));
    Run::start(test, &["land", "-c", &file.display().to_string()])
}

/// Changes the last byte of the batch that holds an offset, in the first file of a partition's log.
fn damage(directory: &Path, offset: i64) {
    let log = directory.join("00000000000000000000.log");
    let mut bytes = fs::read(&log).expect("the log");
    let mut at = 0;
    loop {
        let first = i64::from_be_bytes(bytes[at..at + 8].try_into().expect("the first offset"));
        let length = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().expect("the length")) as usize;
        let count = u32::from_be_bytes(bytes[at + 57..at + 61].try_into().expect("the count"));
        let end = at + 12 + length;
        if (first..first + i64::from(count)).contains(&offset) {
            bytes[end - 1] ^= 1;
            break;
        }
        at = end;
    }
    fs::write(&log, bytes).expect("the log");
}

#[test]
fn a_damaged_batch_stops_its_partition_and_is_never_passed_over() {
    let mut own = PrivateServers::start(PostgresOptions::default(), KafkaOptions::default());
    let test = Test::on(&own.servers);
    let (damaged, sound) = (table(&test, "damaged"), table(&test, "sound"));
    for ids in [0..10, 10..20, 20..30] {
        // Each a batch of its own, or some.
        write(&test, &damaged, ids);
    }
    write(&test, &sound, 0..30);
    // A broker that had to be killed cuts its log off at the damage when it starts.
    let was_clean = |kafka: &KafkaServer| kafka.directory().join("data/.kafka_cleanshutdown").exists();
    own.servers.kafka.stop();
    while !was_clean(&own.servers.kafka) {
        own.servers.kafka.restart().expect("the broker");
        own.servers.kafka.stop();
    }
    let directory = own.servers.kafka.directory().join("data").join(format!("{}-0", damaged.topic));
    damage(&directory, 15);
    own.servers.kafka.restart().expect("the broker");
    let run = start(&test, &[&damaged, &sound], &["rotate_ms: 200"]);
    landing::wait_for_landed(&sound, 30);
    let mut told = Value::Null;
    eventually(DEADLINE, "the damaged partition stops", || {
        let unit = landing::unit(&run, &damaged.topic).unwrap_or_default();
        if unit["state"] != told["state"] {
            eprintln!("{unit}");
            told = unit;
        }
        told["state"] == "stopped"
    });
    let reason = landing::reason(&run, &damaged.topic);
    assert!(reason.contains("damaged batch at offset 1") && reason.contains("partition 0"), "{reason}");
    let ids: Vec<i64> = read_table(&damaged.path).iter().map(|row| row["order_id"].as_i64().expect("an id")).collect();
    assert!(ids.len() >= 10 && ids.iter().all(|id| *id < 15), "{ids:?}");
    assert!(damaged.dead_positions().is_empty(), "what a disk has changed is no record of anybody's");
    drop(run);

    let pg = &test.postgres;
    let config = json!({
        "pipeline": test.prefix,
        "postgres": {"host": pg.host, "port": pg.port, "db": pg.db, "user": pg.user, "tls_mode": "disable"},
        "kafka": {"brokers": test.brokers},
        "analyze": {"create_tables": true, "jobs": [{
            "name": "orders", "table": "windows", "key_column": "k", "window_duration": "2 s",
            "inputs": [{"name": "orders", "topic": damaged.topic, "key": "order_id", "timestamp": "created_at",
                "partitions": 1}],
            "measures": [{"column": "n", "function": "count"}],
        }]},
        "http": {"listen": null},
    });
    let file = test.write("analyze.yml", &config.to_string()).display().to_string();
    let mut run = Run::start(&test, &["analyze", "-c", &file, "--until-caught-up"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}", run.stderr());
    assert!(run.stdout().contains("damaged batch"), "{}", run.stdout());
}

#[test]
fn an_open_transaction_is_lag_and_not_the_end() {
    let test = Test::new();
    let orders = table(&test, "orders");
    write(&test, &orders, 0..10);
    let run = start(&test, &[&orders], &["rotate_ms: 200"]);
    landing::wait_for_state(&run, &orders.topic, &["caught_up"]);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &test.brokers)
        .set("transactional.id", &orders.topic)
        .create()
        .expect("a producer");
    producer.init_transactions(DEADLINE).expect("a transaction's producer");
    producer.begin_transaction().expect("a transaction");
    for id in 10..15 {
        let value = landing::order(id, DAY);
        let record = BaseRecord::<[u8], [u8]>::to(&orders.topic).partition(0).payload(value.as_bytes());
        producer.send(record).map_err(|(error, _)| error).expect("room");
    }
    producer.flush(DEADLINE).expect("delivery");
    let lag = || landing::unit(&run, &orders.topic).and_then(|unit| unit["detail"]["partitions"]["0"]["lag"].as_i64());
    eventually(DEADLINE, "the open transaction as a lag", || lag() == Some(5));
    assert_eq!(landing::state(&run, &orders.topic), "progressing");
    producer.commit_transaction(DEADLINE).expect("the end of the transaction");
    landing::wait_for_landed(&orders, 15);
    eventually(DEADLINE, "no lag", || lag() == Some(0));
    landing::wait_for_state(&run, &orders.topic, &["caught_up"]);
}

#[test]
fn a_group_that_does_not_take_the_member_is_the_state_of_the_topic() {
    let properties = vec![("group.min.session.timeout.ms".to_owned(), "10000".to_owned())];
    let kafka = KafkaOptions { properties, ..KafkaOptions::default() };
    let own = PrivateServers::start(PostgresOptions::default(), kafka);
    let test = Test::on(&own.servers);
    let orders = table(&test, "orders");
    write(&test, &orders, 0..10);
    let run = start(&test, &[&orders], &[]);
    landing::wait_for_state(&run, &orders.topic, &["failing"]);
    let reason = landing::reason(&run, &orders.topic);
    assert!(reason.contains("land.session_timeout_ms"), "{reason}");
    assert_eq!(landing::ready(&run), 503);
    drop(run);
    let run = start(&test, &[&orders], &["session_timeout_ms: 10000", "rotate_ms: 200"]);
    landing::wait_for_landed(&orders, 10);
    assert_eq!(landing::ready(&run), 200);
}

/// A table that has stopped holds no memory, and one that waits goes on committing what is due.
#[test]
fn memory_of_a_table_that_has_stopped_is_free_for_the_others() {
    let test = Test::new();
    let (stopped, other) = (table(&test, "stopped"), table(&test, "other"));
    write(&test, &stopped, 0..6_000);
    let run = start(&test, &[&stopped, &other], &["buffer_bytes: 1000000", "rotate_ms: 20000"]);
    let open = || {
        let unit = landing::unit(&run, &stopped.topic);
        unit.and_then(|unit| unit["detail"]["partitions"]["0"]["open_rows"].as_i64()).unwrap_or(0)
    };
    eventually(DEADLINE, "rows that are not committed yet", || open() == 6_000);
    delete_topic(&test, &stopped.topic);
    create_topic(&test.brokers, &stopped.topic, 1, &[]);
    landing::wait_for_state(&run, &stopped.topic, &["stopped"]);
    // Less than what the stopped table held, more than is left beside it.
    write(&test, &other, 0..4_500);
    landing::wait_for_landed(&other, 4_500);
}
