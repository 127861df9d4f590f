//! What holds a reading up without ending it: open transactions, a group that does not take the
//! member, memory that another table held. Each is seen in the state, and keeps nothing from the others.

use crate::{
    harness::{DEADLINE, PrivateServers, Run, Test, eventually, kafka::create_topic},
    lake_faults::topics::delete_topic,
    landing::{self, Table, Writer},
};
use headwater::demo::servers::{KafkaOptions, PostgresOptions};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::ops::Range;

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
