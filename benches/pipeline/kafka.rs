//! What the bench itself does with Kafka: makes topics, fills one, and watches one.

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Message},
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::time::{Duration, Instant};

pub fn create_topic(brokers: &str, topic: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("admin client");
    let spec = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let results = runtime.block_on(admin.create_topics(&[spec], &AdminOptions::new())).expect("topic creation");
    for result in results {
        result.expect("topic created");
    }
}

/// A producer without transactions: the ceiling of publishing. Gives the seconds until all is acknowledged.
pub fn produce(brokers: &str, topic: &str, messages: impl Iterator<Item = (String, String)>) -> f64 {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "100000")
        .create()
        .expect("producer");
    let start = Instant::now();
    for (key, payload) in messages {
        let mut record = BaseRecord::to(topic).key(&key).payload(&payload);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    producer.poll(Duration::from_millis(5));
                    record = back;
                }
                Err((error, _)) => panic!("produce: {error}"),
            }
        }
    }
    producer.flush(Duration::from_secs(60)).expect("flush");
    start.elapsed().as_secs_f64()
}

/// A committed-only reader of a whole topic from its beginning.
pub fn reader(brokers: &str, topic: &str, partitions: i32) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "10")
        .set("queued.max.messages.kbytes", "16384")
        .create()
        .expect("consumer");
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("offset");
    }
    consumer.assign(&assignment).expect("assignment");
    consumer
}

/// Reads `count` messages, giving each to `see`. Panics when nothing comes for a minute.
pub fn read(consumer: &BaseConsumer, count: u64, mut see: impl FnMut(&BorrowedMessage<'_>)) {
    let mut seen = 0;
    while seen < count {
        match consumer.poll(Duration::from_secs(60)) {
            Some(Ok(message)) => {
                see(&message);
                seen += 1;
            }
            Some(Err(error)) => panic!("consume: {error}"),
            None => panic!("no message for 60 s after {seen} of {count}"),
        }
    }
}

/// The bytes of a message's value.
pub fn value<'a>(message: &'a BorrowedMessage<'_>) -> &'a [u8] {
    message.payload().unwrap_or_default()
}

/// Whether the first partition of the topic holds anything; false where the topic is not there yet.
pub fn has_records(brokers: &str, topic: &str) -> bool {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench-watch")
        .create()
        .expect("consumer");
    consumer.fetch_watermarks(topic, 0, Duration::from_secs(5)).is_ok_and(|(low, high)| high > low)
}
