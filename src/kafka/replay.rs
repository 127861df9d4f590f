//! Reading committed messages back from a topic's begin: checkpoints, and whether rows of a table
//! are there already. Blocks; called on a thread of its own.

use super::{client_config, header, producer::ProducerError};
use crate::config::model::Kafka;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
};
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

const CALL: Duration = Duration::from_secs(10);
/// Beyond the time for which another producer's transaction can stay open.
const DEADLINE: Duration = Duration::from_secs(120);
/// Foreign messages looked at before a topic is taken for one that holds ours.
const MOST_FOREIGN: u64 = 1_000_000;

fn failed(action: &'static str) -> impl Fn(ClientError) -> ProducerError {
    move |error| ProducerError::Failed { action, reason: error.to_string() }
}

fn consumer(kafka: &Kafka, isolation: &str) -> Result<BaseConsumer, ProducerError> {
    client_config(kafka)
        .set("group.id", "headwater-replay")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("isolation.level", isolation)
        // The topics are small, or the first messages are enough.
        .set("queued.max.messages.kbytes", "8192")
        .set("fetch.message.max.bytes", "1048576")
        .set("fetch.wait.max.ms", "10")
        .create()
        .map_err(failed("making a consumer"))
}

/// Closing a consumer waits for its threads, a tenth of a second or two that a start need not take.
fn close(consumer: BaseConsumer) {
    std::thread::spawn(move || drop(consumer));
}

/// The ends of a topic's first partitions for everybody: with records whose transaction is open, or committed a moment
/// ago and not yet marked so in the partition.
pub fn high_watermarks(kafka: &Kafka, topic: &str, partitions: i32) -> Result<BTreeMap<i32, i64>, ProducerError> {
    let all = consumer(kafka, "read_uncommitted")?;
    let end = |partition| {
        let found = all.fetch_watermarks(topic, partition, CALL).map_err(failed("finding the end of a topic"));
        found.map(|(_, end)| (partition, end))
    };
    let ends = (0..partitions).map(end).collect();
    close(all);
    ends
}

/// The end of a partition for readers of committed messages, once it stands at or behind the end
/// that it has for everybody now: a transaction of somebody else may hold it back for a while.
fn settled_end(kafka: &Kafka, reader: &BaseConsumer, topic: &str, partition: i32) -> Result<(i64, i64), ProducerError> {
    let started = Instant::now();
    let all = consumer(kafka, "read_uncommitted")?;
    // A topic just made is not known to every broker at once.
    let (_, end) = loop {
        match all.fetch_watermarks(topic, partition, CALL) {
            Ok(found) => break found,
            Err(_) if started.elapsed() < CALL => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => return Err(failed("finding the end of a topic")(error)),
        }
    };
    close(all);
    loop {
        match reader.fetch_watermarks(topic, partition, CALL) {
            Ok((low, committed)) if committed >= end => return Ok((low, committed)),
            Err(error) if started.elapsed() > CALL => return Err(failed("finding the end of a topic")(error)),
            _ => {}
        }
        if started.elapsed() > DEADLINE {
            let seconds = DEADLINE.as_secs();
            return Err(ProducerError::Timeout {
                action: "waiting for an open transaction of another producer",
                seconds,
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Visits the committed messages of one partition, oldest first, until the end or until `visit`
/// says that it has enough.
fn visit(
    reader: &BaseConsumer,
    topic: &str,
    partition: i32,
    mut visit: impl FnMut(&rdkafka::message::BorrowedMessage<'_>) -> bool,
) -> Result<(), ProducerError> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Beginning).map_err(failed("reading a topic"))?;
    reader.assign(&assignment).map_err(failed("reading a topic"))?;
    let mut progress = Instant::now();
    loop {
        match reader.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                progress = Instant::now();
                if !visit(&message) {
                    return Ok(());
                }
            }
            Some(Err(ClientError::PartitionEOF(_))) => return Ok(()),
            Some(Err(ClientError::MessageConsumption(RDKafkaErrorCode::TopicAuthorizationFailed))) => {
                let resource = format!("topic {topic}");
                return Err(ProducerError::Forbidden { resource, operations: "Read and Describe" });
            }
            // The client would go on behind the damaged batch.
            Some(Err(
                error @ ClientError::MessageConsumption(
                    RDKafkaErrorCode::BadMessage
                    | RDKafkaErrorCode::BadCompression
                    | RDKafkaErrorCode::NotImplemented
                    | RDKafkaErrorCode::InvalidMessage,
                ),
            )) => return Err(failed("reading a topic that holds a damaged batch")(error)),
            Some(Err(error)) if progress.elapsed() > CALL * 3 => return Err(failed("reading a topic")(error)),
            Some(Err(error)) => tracing::debug!("reading {topic}: {error}"),
            None if progress.elapsed() > CALL * 3 => {
                return Err(ProducerError::Timeout { action: "reading a topic", seconds: CALL.as_secs() * 3 });
            }
            None => {}
        }
    }
}

/// What is done about a transaction that is open when the reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Waited for: it may be of a producer that is fenced only now, and end in a commit.
    Settle,
    /// Left out, as all that comes later.
    Ignore,
}

/// The latest value of each key that `wanted` accepts, from a compacted topic of one partition.
pub fn latest_values(
    kafka: &Kafka,
    topic: &str,
    open: Open,
    wanted: impl Fn(&str) -> bool,
) -> Result<HashMap<String, Vec<u8>>, ProducerError> {
    let reader = consumer(kafka, "read_committed")?;
    let mut values = HashMap::new();
    let (low, end) = match open {
        Open::Settle => settled_end(kafka, &reader, topic, 0)?,
        Open::Ignore => reader.fetch_watermarks(topic, 0, CALL).map_err(failed("finding the end of a topic"))?,
    };
    if low < end {
        visit(&reader, topic, 0, |message| {
            if let Some(key) = message.key().and_then(|key| std::str::from_utf8(key).ok())
                && wanted(key)
            {
                match message.payload() {
                    Some(value) => values.insert(key.to_owned(), value.to_vec()),
                    None => values.remove(key),
                };
            }
            true
        })?;
    }
    close(reader);
    Ok(values)
}

/// What a topic holds of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Nothing,
    Ours,
    /// So many messages of others that no more were looked at.
    Foreign(u64),
}

/// Whether a topic holds committed messages with this value of this header.
pub fn holds(kafka: &Kafka, topic: &str, name: &str, value: &str) -> Result<Held, ProducerError> {
    let reader = consumer(kafka, "read_committed")?;
    let metadata = reader.fetch_metadata(Some(topic), CALL).map_err(failed("looking up a topic"))?;
    let partitions: Vec<i32> =
        metadata.topics().iter().flat_map(|topic| topic.partitions().iter().map(|partition| partition.id())).collect();
    let mut found = Held::Nothing;
    let mut foreign = 0_u64;
    for partition in partitions {
        let (low, end) = settled_end(kafka, &reader, topic, partition)?;
        if low == end {
            continue;
        }
        visit(&reader, topic, partition, |message| {
            let is_ours = header::first(message, name) == Some(value.as_bytes());
            foreign += u64::from(!is_ours);
            found = match is_ours {
                true => Held::Ours,
                false if foreign > MOST_FOREIGN => Held::Foreign(foreign),
                false => Held::Nothing,
            };
            found == Held::Nothing
        })?;
        if found != Held::Nothing {
            break;
        }
    }
    close(reader);
    Ok(found)
}
