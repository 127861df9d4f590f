//! The brokers: addresses that are good elsewhere only, limits of transactions and messages, too few of them.

use super::{ORDERS, ROOM, Said, cures, doctor};
use crate::harness::{Test, kafka::create_topic, run::Exit};
use headwater::demo::servers::{KafkaOptions, KafkaServer, ProxiedListener, lease_port};

/// What the doctor says of the orders on a Kafka with these properties.
fn look_with(properties: &[(&str, &str)]) -> Said {
    let mut test = Test::new();
    test.db().execute(ORDERS);
    let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let kafka =
        KafkaServer::start(&test.path("kafka"), KafkaOptions { properties, ..KafkaOptions::default() }).unwrap();
    test.brokers = kafka.brokers();
    let file = test.write("orders.yml", &test.short_form("orders", &test.topic("orders")));
    doctor(&test, &file.display().to_string(), &[])
}

#[test]
fn an_address_that_is_good_elsewhere_only_is_told() {
    let mut test = Test::new();
    test.db().execute(ORDERS);
    let (listen, nowhere) = (lease_port().unwrap(), lease_port().unwrap());
    let proxied = vec![ProxiedListener { listen_port: listen.port(), advertised_port: nowhere.port() }];
    let kafka = KafkaServer::start(&test.path("kafka"), KafkaOptions { proxied, ..KafkaOptions::default() }).unwrap();
    test.brokers = format!("127.0.0.1:{}", listen.port());
    let file = test.write("orders.yml", &test.short_form("orders", &test.topic("orders"))).display().to_string();
    let said = doctor(&test, &file, &[]);
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "brokers", "127.0.0.1");
    let told = format!("tells its clients to come to 127.0.0.1:{}", nowhere.port());
    assert!(message.contains(&told) && cure.contains("advertised.listeners"), "{message} {cure}");
    assert_eq!(said.one("cluster", "")["outcome"], "not_checked");
    assert_eq!(said.troubles(&[ROOM]).len(), 2, "one failure: {said}");
    drop(kafka);
}

#[test]
fn transactions_that_the_brokers_do_not_allow_are_told() {
    let said = look_with(&[("transaction.max.timeout.ms", "30000"), ("message.max.bytes", "500000")]);
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "limits", "127.0.0.1");
    assert!(message.contains("at most 30 s, capture asks for 1 min"), "{message}");
    assert!(cure.starts_with("transaction.max.timeout.ms=60000 in server.properties"), "{cure}");
    // Of a topic that is yet to be made the broker's default counts.
    let (message, cure) = said.trouble("warning", "message size", "orders");
    assert!(message.contains("500000") && cure.starts_with("message.max.bytes=1000000 "), "{message} {cure}");
}

#[test]
fn topics_of_the_brokers_that_cannot_be_made_are_told() {
    let three = [
        ("transaction.state.log.replication.factor", "3"),
        ("transaction.state.log.min.isr", "2"),
        ("offsets.topic.replication.factor", "3"),
    ];
    let said = look_with(&three);
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "limits", "__transaction_state");
    assert!(message.contains("3 replicas, with 1 broker"), "{message}");
    assert!(
        cure.contains("transaction.state.log.replication.factor=1") && cure.contains("transaction.state.log.min.isr=1"),
        "{cure}"
    );
    let (_, cure) = said.trouble("failure", "limits", "__consumer_offsets");
    assert!(cure.starts_with("offsets.topic.replication.factor=1 "), "{cure}");
}

#[test]
fn a_topic_that_takes_smaller_messages_than_are_sent_is_told() {
    let test = Test::new();
    test.db().execute(ORDERS);
    create_topic(
        &test.brokers,
        &test.topic("orders"),
        1,
        &[("max.message.bytes", "100000"), ("retention.ms", "604800000")],
    );
    let file = test.write("orders.yml", &test.short_form("orders", &test.topic("orders"))).display().to_string();
    let (message, cure) = doctor(&test, &file, &[]).trouble("warning", "message size", &test.topic("orders"));
    assert!(message.contains("100000 bytes"), "{message}");
    cures::run(&test.brokers, &cure);
    doctor(&test, &file, &[]).assert_ok("message size", &test.topic("orders"));
}
