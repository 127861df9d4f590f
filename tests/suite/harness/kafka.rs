//! Topics as a test sees them: made, written with plain messages, read from end to end.

use super::{DEADLINE, Patience, block_on, eventually_some};
use headwater::kafka::admin::{TopicSpec, ensure_topics};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, Headers, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Message {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the Unix epoch, as the broker keeps it.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Message {
    /// The value as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().unwrap_or_default()).expect("JSON")
    }
}

/// What to write: a message with the partition left to the key unless given.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Outgoing {
    pub fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Outgoing { key: Some(key.into()), value: Some(value.into()), ..Outgoing::default() }
    }
}

/// Makes a topic, with topic-level settings.
pub fn create_topic(brokers: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let spec = TopicSpec {
        name: name.to_owned(),
        partitions,
        replication: 1,
        settings: settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    };
    let created = block_on(ensure_topics(&kafka(brokers), &[spec])).expect("the topic");
    assert_eq!(created, [name], "the topic is new");
}

/// Writes plain messages and waits until the broker has them all.
pub fn produce(brokers: &str, topic: &str, messages: &[Outgoing]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("linger.ms", "5")
        .set("message.max.bytes", "10000000")
        .create()
        .expect("a producer");
    for message in messages {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &message.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).headers(headers);
        record.partition = message.partition;
        record.key = message.key.as_deref();
        record.payload = message.value.as_deref();
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
    producer.flush(DEADLINE).expect("every delivery");
}

/// All messages of a topic up to its present end, sorted by partition and offset. `read_committed`
/// leaves out those of aborted and open transactions.
pub fn read_topic(brokers: &str, topic: &str, read_committed: bool) -> Vec<Message> {
    let consumer = consumer(brokers, if read_committed { "read_committed" } else { "read_uncommitted" });
    let partitions = partitions(&consumer, topic);
    let mut assignment = TopicPartitionList::new();
    for partition in &partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&assignment).expect("the assignment");
    let mut open: HashSet<i32> = partitions.into_iter().collect();
    let mut messages = Vec::new();
    let patience = Patience::new(DEADLINE);
    // A busy broker is away for a moment; the client goes on by itself.
    let mut trouble = None;
    while !open.is_empty() {
        assert!(patience.left().is_some(), "{topic} could not be read to its end: {trouble:?}");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => messages.push(Message {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: message.headers().map_or_else(Vec::new, |headers| {
                    headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
                }),
            }),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(error)) => trouble = Some(error),
        }
    }
    messages.sort_by_key(|message| (message.partition, message.offset));
    messages
}

/// The end offset of each partition.
pub fn end_offsets(brokers: &str, topic: &str) -> BTreeMap<i32, i64> {
    let consumer = consumer(brokers, "read_uncommitted");
    // A partition that was just made has no leader yet.
    let end = |partition| {
        eventually_some(DEADLINE, "the end of a partition", || {
            consumer.fetch_watermarks(topic, partition, DEADLINE).ok().map(|(_, end)| end)
        })
    };
    partitions(&consumer, topic).into_iter().map(|partition| (partition, end(partition))).collect()
}

/// The names of all topics.
pub fn topics(brokers: &str) -> Vec<String> {
    let metadata = consumer(brokers, "read_uncommitted").fetch_metadata(None, DEADLINE).expect("metadata");
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

fn kafka(brokers: &str) -> headwater::config::model::Kafka {
    headwater::config::model::Kafka::plaintext(brokers)
}

fn consumer(brokers: &str, isolation: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        // Asked for by the client, never used: nothing is committed.
        .set("group.id", "headwater-tests")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation)
        .set("fetch.wait.max.ms", "20")
        .create()
        .expect("a consumer")
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    // One that was just made is not known to all at once.
    eventually_some(DEADLINE, &format!("the partitions of {topic}"), || {
        let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).ok()?;
        let found = metadata.topics().first().filter(|found| found.error().is_none())?;
        Some(found.partitions().iter().map(|partition| partition.id()).collect())
    })
}
