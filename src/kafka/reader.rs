//! A plain reading of a topic from its beginning to an end taken beforehand: no group membership,
//! no commit, committed transactions only. `verify` and the tools read with it.
//!
//! The end of a partition is often a transaction marker, which no consumer is given: a partition is
//! done at its end-of-partition event or at the first record past the end, whichever comes first.

use super::{admin::AdminError, client_config, header, log_end::log_ends, reach};
use crate::{config::model::Kafka, record::headers::Headers};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError as ClientError,
    message::BorrowedMessage,
    types::RDKafkaErrorCode,
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("Kafka at {brokers} cannot be reached: {source}; check kafka.brokers")]
    Unreachable { brokers: String, source: ClientError },
    /// Not reached at all, or refused.
    #[error(transparent)]
    Reach(#[from] AdminError),
    #[error("topic {topic} does not exist; check its name, or start capture to create it")]
    MissingTopic { topic: String },
    #[error("topic {topic} gave no record for {seconds} s before its end was reached: {last}")]
    Stalled { topic: String, seconds: u64, last: String },
    #[error("topic {topic}: {source}")]
    Client { topic: String, source: ClientError },
}

impl ReadError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        match self {
            ReadError::Unreachable { .. } | ReadError::Stalled { .. } => true,
            ReadError::Reach(error) => error.is_unavailable(),
            ReadError::MissingTopic { .. } | ReadError::Client { .. } => false,
        }
    }
}

/// The offsets that a partition holds: `first..end`, both moving on as the topic lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub partition: i32,
    pub first: i64,
    pub end: i64,
}

/// One record, borrowed from the client for the length of a call.
pub struct Record<'a> {
    message: &'a BorrowedMessage<'a>,
}

impl<'a> Record<'a> {
    pub fn partition(&self) -> i32 {
        self.message.partition()
    }

    pub fn offset(&self) -> i64 {
        self.message.offset()
    }

    pub fn key(&self) -> Option<&'a [u8]> {
        self.message.key()
    }

    pub fn payload(&self) -> Option<&'a [u8]> {
        self.message.payload()
    }

    /// Milliseconds since 1970, where the broker keeps one.
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.message.timestamp().to_millis()
    }

    /// All headers, in their order.
    pub fn headers(&self) -> Headers {
        // SAFETY: the message is borrowed.
        unsafe { header::all(self.message.ptr()) }
    }

    /// The value of the first header of that name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        header::first(self.message, name)
    }
}

/// Whether the reading goes on after a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Continue,
    Stop,
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const STALL_SECONDS: u64 = 60;

/// A reader of one topic, for one reading. Every call blocks: use it on a thread of its own.
pub struct Reader {
    consumer: BaseConsumer,
    brokers: String,
    topic: String,
}

impl Reader {
    pub fn open(kafka: &Kafka, topic: &str) -> Result<Reader, ReadError> {
        // Tells the cause where it does not get through, which the consumer cannot.
        reach::topic_names(kafka, REQUEST_TIMEOUT)?;
        let mut config = client_config(kafka);
        config
            // The client asks for a name although nothing is ever committed or joined under it.
            .set("group.id", "headwater-verify")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("auto.offset.reset", "earliest")
            // By the client's defaults 100,000 small messages of each partition wait in memory.
            .set("queued.min.messages", "10000")
            .set("queued.max.messages.kbytes", "16384")
            // A full queue would be looked at again only after a second.
            .set("fetch.queue.backoff.ms", "5")
            // Compressed bytes, which become many times as much before any limit counts them.
            .set("fetch.message.max.bytes", "262144");
        let consumer = config.create().map_err(|source| ReadError::Client { topic: topic.to_owned(), source })?;
        Ok(Reader { consumer, brokers: kafka.brokers.clone(), topic: topic.to_owned() })
    }

    fn client(&self, source: ClientError) -> ReadError {
        ReadError::Client { topic: self.topic.clone(), source }
    }

    fn unreachable(&self, source: ClientError) -> ReadError {
        ReadError::Unreachable { brokers: self.brokers.clone(), source }
    }

    fn partitions(&self) -> Result<Vec<i32>, ReadError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), REQUEST_TIMEOUT);
        let metadata = metadata.map_err(|source| self.unreachable(source))?;
        let partitions: Vec<i32> = metadata
            .topics()
            .iter()
            .filter(|topic| topic.name() == self.topic && topic.error().is_none())
            .flat_map(|topic| topic.partitions().iter().map(|partition| partition.id()))
            .collect();
        if partitions.is_empty() {
            return Err(ReadError::MissingTopic { topic: self.topic.clone() });
        }
        Ok(partitions)
    }

    /// Where the log of each partition ends, open transactions included.
    pub fn log_ends(&self) -> Result<Vec<(i32, i64)>, ReadError> {
        let partitions = self.partitions()?;
        let places = partitions.iter().map(|partition| (self.topic.as_str(), *partition));
        let ends = log_ends(self.consumer.client(), places, REQUEST_TIMEOUT);
        let ends = ends.map_err(|code| self.unreachable(ClientError::Global(code.into())))?;
        Ok(ends.into_iter().map(|(_, partition, end)| (partition, end)).collect())
    }

    /// Every partition with its present offsets; the end is that of committed transactions.
    pub fn extents(&self) -> Result<Vec<Extent>, ReadError> {
        let partitions = self.partitions()?;
        let mut extents = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let watermarks = self.consumer.fetch_watermarks(&self.topic, partition, REQUEST_TIMEOUT);
            let (first, end) = watermarks.map_err(|source| self.unreachable(source))?;
            extents.push(Extent { partition, first, end });
        }
        extents.sort_by_key(|extent| extent.partition);
        Ok(extents)
    }

    /// Gives every record of `extents` to `take`, in the order of each partition, until it is at
    /// their ends or `take` stops it.
    pub fn read(self, extents: &[Extent], mut take: impl FnMut(&Record<'_>) -> Next) -> Result<(), ReadError> {
        let mut open: HashMap<i32, i64> = extents
            .iter()
            .filter(|extent| extent.first < extent.end)
            .map(|extent| (extent.partition, extent.end))
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let mut assignment = TopicPartitionList::new();
        for extent in extents.iter().filter(|extent| open.contains_key(&extent.partition)) {
            assignment
                .add_partition_offset(&self.topic, extent.partition, Offset::Offset(extent.first))
                .map_err(|source| self.client(source))?;
        }
        self.consumer.assign(&assignment).map_err(|source| self.client(source))?;
        self.drain(&mut open, &mut take)
    }

    /// The timestamp of the first record of each of `extents`, in milliseconds since 1970. One that does not
    /// come within `limit`, or has no timestamp, is left out.
    pub fn first_timestamps(&self, extents: &[Extent], limit: Duration) -> Result<HashMap<i32, i64>, ReadError> {
        let mut open: HashMap<i32, i64> = HashMap::new();
        let mut assignment = TopicPartitionList::new();
        for extent in extents {
            assignment
                .add_partition_offset(&self.topic, extent.partition, Offset::Offset(extent.first))
                .map_err(|source| self.client(source))?;
            open.insert(extent.partition, extent.end);
        }
        if !open.is_empty() {
            self.consumer.assign(&assignment).map_err(|source| self.client(source))?;
        }
        let (begun, mut found) = (Instant::now(), HashMap::new());
        while !open.is_empty() && begun.elapsed() < limit {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if open.contains_key(&message.partition()) => {
                    found.extend(message.timestamp().to_millis().map(|at| (message.partition(), at)));
                    self.close(message.partition(), &mut open)?;
                }
                Some(Err(ClientError::PartitionEOF(partition))) if open.contains_key(&partition) => {
                    self.close(partition, &mut open)?;
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Gives the record at one place, if it is still there.
    pub fn read_at(&self, partition: i32, offset: i64, mut take: impl FnMut(&Record<'_>)) -> Result<(), ReadError> {
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&self.topic, partition, Offset::Offset(offset))
            .map_err(|source| self.client(source))?;
        self.consumer.assign(&assignment).map_err(|source| self.client(source))?;
        let begun = Instant::now();
        while begun.elapsed() < REQUEST_TIMEOUT {
            match self.consumer.poll(Duration::from_millis(500)) {
                Some(Ok(message)) if message.partition() == partition && message.offset() >= offset => {
                    if message.offset() == offset {
                        take(&Record { message: &message });
                    }
                    return Ok(());
                }
                Some(Err(ClientError::PartitionEOF(at))) if at == partition => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }

    fn drain(&self, open: &mut HashMap<i32, i64>, take: &mut impl FnMut(&Record<'_>) -> Next) -> Result<(), ReadError> {
        let mut moved = Instant::now();
        let mut last_error = "no error was reported; check that the brokers are up".to_owned();
        while !open.is_empty() {
            match self.consumer.poll(Duration::from_millis(500)) {
                None => {}
                Some(Ok(message)) => {
                    moved = Instant::now();
                    let Some(&end) = open.get(&message.partition()) else { continue };
                    if message.offset() < end && take(&Record { message: &message }) == Next::Stop {
                        return Ok(());
                    }
                    if message.offset() + 1 >= end {
                        self.close(message.partition(), open)?;
                    }
                    continue;
                }
                Some(Err(ClientError::PartitionEOF(partition))) => {
                    moved = Instant::now();
                    self.close(partition, open)?;
                    continue;
                }
                Some(Err(ClientError::MessageConsumption(
                    code @ (RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownPartition
                    // The client would go on behind the damaged batch.
                    | RDKafkaErrorCode::BadMessage
                    | RDKafkaErrorCode::BadCompression
                    | RDKafkaErrorCode::NotImplemented
                    | RDKafkaErrorCode::InvalidMessage),
                ))) => {
                    return Err(self.client(ClientError::MessageConsumption(code)));
                }
                Some(Err(error @ ClientError::MessageConsumptionFatal(_))) => return Err(self.client(error)),
                // The client tries again by itself; only its standing still ends the reading.
                Some(Err(error)) => last_error = error.to_string(),
            }
            if moved.elapsed() > Duration::from_secs(STALL_SECONDS) {
                return Err(ReadError::Stalled { topic: self.topic.clone(), seconds: STALL_SECONDS, last: last_error });
            }
        }
        Ok(())
    }

    /// Stops fetching a partition that is done, so that a busy one does not crowd out the others.
    fn close(&self, partition: i32, open: &mut HashMap<i32, i64>) -> Result<(), ReadError> {
        open.remove(&partition);
        let mut done = TopicPartitionList::new();
        done.add_partition(&self.topic, partition);
        self.consumer.pause(&done).map_err(|source| self.client(source))
    }
}
