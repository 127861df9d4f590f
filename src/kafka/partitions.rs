//! The reader of `analyze`: all partitions of several topics, each with a queue of its own, so that
//! the caller says which to read next. No group decides anything; every offset is the caller's.
//! Progress is published to a group for monitoring only.

use super::{
    complaint::Complaints,
    consumer::{
        ConsumerError, LastRecord, Polled, Queue, Record, add_position, check, compare_logs, item, last_known_end,
        log_end, on_log, reading_config,
    },
    log_end::log_ends,
    topic::{self, TopicDescription, TopicError},
};
use crate::config::model::Kafka;
use rdkafka::{
    Offset, TopicPartitionList, bindings as native,
    client::{Client, ClientContext},
    error::KafkaError as ClientError,
    types::{RDKafkaErrorCode, RDKafkaRespErr, RDKafkaType},
};
use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    ptr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Most records of one poll.
const POLL_RECORDS: usize = 2_048;
/// Bound on what the client fetches ahead, over all partitions: payloads, and records, for each of
/// which it needs some 400 bytes more.
const AHEAD_KIB: usize = 24 << 10;
const AHEAD_RECORDS: usize = 40_000;

#[derive(Default)]
struct Context {
    complaints: Complaints,
}

impl ClientContext for Context {}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub topic: Arc<str>,
    pub number: i32,
}

/// What the brokers say of a log that was read up to a certain record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// The record is there, and the next one for readers of committed records, or their end, stands at `next`.
    Same { next: i64 },
    /// It is not: the two logs part at `common`, as far as that is known.
    Other { common: Option<i64> },
}

struct Lane {
    partition: Partition,
    queue: Queue,
    /// What had arrived in the common queue before this lane had its own; to be given first.
    early: Vec<Message>,
}

pub struct Partitions {
    // Declared before the client, for they must go first.
    lanes: Vec<Lane>,
    common: Queue,
    client: Client<Context>,
    buffer: Vec<*mut native::rd_kafka_message_t>,
}

// SAFETY: the pointers are librdkafka's own, which may be used from any thread, and only by the owner.
unsafe impl Send for Partitions {}

/// A message of the client's, ours to destroy.
struct Message(*mut native::rd_kafka_message_t);

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a poll and is destroyed once.
        unsafe { native::rd_kafka_message_destroy(self.0) };
    }
}

impl Message {
    /// Topic and partition, of those that have any.
    fn place(&self) -> Option<(String, i32)> {
        // SAFETY: the message is live, and its topic with it.
        unsafe {
            let message = &*self.0;
            let name = (!message.rkt.is_null()).then(|| CStr::from_ptr(native::rd_kafka_topic_name(message.rkt)));
            Some((name?.to_string_lossy().into_owned(), message.partition))
        }
    }
}

/// What one poll has taken, in the order of the partition. Destroys its records when dropped.
pub struct Batch {
    messages: Vec<Message>,
}

impl Batch {
    pub fn items(&self) -> impl Iterator<Item = Polled<'_>> {
        self.messages.iter().map(|message| {
            // SAFETY: the message lives as long as the batch.
            unsafe { item(message.0) }
        })
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl Partitions {
    /// Does not wait for the brokers. `count` is how many partitions there will be, about.
    pub fn new(kafka: &Kafka, group: &str, count: usize) -> Result<Partitions, ConsumerError> {
        let mut config = reading_config(kafka, group);
        config
            // A full partition is left out of a request, which the broker then holds for so long where the
            // others are empty; nor does it answer anything else on that connection meanwhile.
            .set("fetch.wait.max.ms", "50")
            .set("queued.max.messages.kbytes", (AHEAD_KIB / count.max(1)).max(1_024).to_string())
            .set("queued.min.messages", (AHEAD_RECORDS / count.max(1)).max(1_000).to_string());
        let conf = config.create_native_config().map_err(ConsumerError::Create)?;
        // SAFETY: the callbacks are plain functions; the opaque pointer that they get is the context,
        // which the client owns.
        unsafe {
            native::rd_kafka_conf_set_error_cb(conf.ptr(), Some(on_error));
            native::rd_kafka_conf_set_log_cb(conf.ptr(), Some(on_log));
        }
        let client = Client::new(&config, conf, RDKafkaType::RD_KAFKA_CONSUMER, Context::default())
            .map_err(ConsumerError::Create)?;
        // SAFETY: the client is alive; the queue is destroyed before it.
        let common = unsafe {
            native::rd_kafka_poll_set_consumer(client.native_ptr());
            Queue(native::rd_kafka_queue_get_consumer(client.native_ptr()))
        };
        Ok(Partitions { lanes: Vec::new(), common, client, buffer: vec![ptr::null_mut(); POLL_RECORDS] })
    }

    /// Of each of these, whether its log is still the one that was read up to the given record; none where the brokers
    /// do not say. Waits for them as long as `limit`. For a client that is used for nothing else.
    pub fn compare(
        &mut self,
        records: &[(Partition, LastRecord)],
        limit: Duration,
    ) -> Result<Vec<Option<Compared>>, ConsumerError> {
        let mut list = TopicPartitionList::with_capacity(records.len());
        for (Partition { topic, number }, last) in records {
            add_position(&mut list, topic, *number, last.offset + 1, Some(last.leader_epoch));
        }
        // SAFETY: the list is copied by the call.
        check("assign", unsafe { native::rd_kafka_assign(self.client.native_ptr(), list.ptr()) })?;
        let known = records.iter().map(|(at, last)| (&*at.topic, at.number, last.offset + 1, last.leader_epoch));
        compare_logs(&self.client, known)?;
        // The first thing that comes of a partition tells: nothing is fetched before its log was compared.
        let mut told: Vec<Option<Option<Compared>>> = vec![None; records.len()];
        let begun = Instant::now();
        while told.contains(&None) {
            if begun.elapsed() > limit {
                return Err(ConsumerError::Call {
                    call: "whether the log is the one that was read",
                    code: RDKafkaErrorCode::OperationTimedOut,
                });
            }
            for message in self.take(self.common.0, Duration::from_millis(50)) {
                let Some((topic, number)) = message.place() else { continue };
                let is_it = |(partition, _): &(Partition, LastRecord)| {
                    *partition.topic == *topic.as_str() && partition.number == number
                };
                let Some(told) = records.iter().position(is_it).map(|index| &mut told[index]) else { continue };
                // SAFETY: the message is live.
                match unsafe { item(message.0) } {
                    Polled::Diverged { common, .. } => *told = Some(Some(Compared::Other { common })),
                    Polled::Record(Record { offset: next, .. }) | Polled::End { offset: next, .. } => {
                        told.get_or_insert(Some(Compared::Same { next }));
                    }
                    Polled::OutOfRange { .. } => {
                        told.get_or_insert(None);
                    }
                    // Asking on would end in a timeout that does not name the missing right.
                    Polled::Failed { partition: Some(partition), error }
                        if error.code == RDKafkaErrorCode::TopicAuthorizationFailed =>
                    {
                        return Err(ConsumerError::Fetch { partition, error });
                    }
                    Polled::Fatal(_) | Polled::Failed { .. } | Polled::Damaged { .. } => {}
                }
            }
        }
        Ok(told.into_iter().flatten().collect())
    }

    /// Reads exactly these, from these offsets. Lane `n` is the `n`th of them from now on.
    pub fn assign(&mut self, positions: &[(Partition, i64)]) -> Result<(), ConsumerError> {
        self.lanes.clear();
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (partition, offset) in positions {
            add_position(&mut list, &partition.topic, partition.number, *offset, None);
        }
        // SAFETY: the list is copied by the call.
        check("assign", unsafe { native::rd_kafka_assign(self.client.native_ptr(), list.ptr()) })?;
        for (partition, _) in positions {
            let queue = self.own_queue(partition)?;
            self.lanes.push(Lane { partition: partition.clone(), queue, early: Vec::new() });
        }
        // Between the two calls records may have come into the common queue. None can any more.
        loop {
            let messages = self.take(self.common.0, Duration::ZERO);
            if messages.is_empty() {
                return Ok(());
            }
            for message in messages {
                if let Some((topic, number)) = message.place() {
                    let is_it =
                        |lane: &&mut Lane| *lane.partition.topic == *topic.as_str() && lane.partition.number == number;
                    if let Some(lane) = self.lanes.iter_mut().find(is_it) {
                        lane.early.push(message);
                    }
                }
            }
        }
    }

    /// The partition's queue, which feeds the common one no longer.
    fn own_queue(&self, partition: &Partition) -> Result<Queue, ConsumerError> {
        let failed = ConsumerError::Call { call: "a partition's queue", code: RDKafkaErrorCode::UnknownPartition };
        let Ok(topic) = CString::new(&*partition.topic) else { return Err(failed) };
        // SAFETY: the client is alive, the name is copied, the queue is released by its owner.
        unsafe {
            let queue =
                native::rd_kafka_queue_get_partition(self.client.native_ptr(), topic.as_ptr(), partition.number);
            if queue.is_null() {
                return Err(failed);
            }
            native::rd_kafka_queue_forward(queue, ptr::null_mut());
            Ok(Queue(queue))
        }
    }

    /// Takes what a lane has, waiting at most `timeout` for something.
    pub fn poll(&mut self, lane: usize, timeout: Duration) -> Batch {
        let lane = &mut self.lanes[lane];
        if !lane.early.is_empty() {
            return Batch { messages: std::mem::take(&mut lane.early) };
        }
        let queue = lane.queue.0;
        Batch { messages: self.take(queue, timeout) }
    }

    /// Serves what concerns the client as a whole.
    pub fn serve(&mut self) -> Batch {
        Batch { messages: self.take(self.common.0, Duration::ZERO) }
    }

    fn take(&mut self, queue: *mut native::rd_kafka_queue_t, timeout: Duration) -> Vec<Message> {
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the array has room for as many pointers, and each that is filled is owned by a
        // `Message` from then on.
        let taken = unsafe {
            native::rd_kafka_consume_batch_queue(queue, timeout_ms, self.buffer.as_mut_ptr(), self.buffer.len())
        };
        self.buffer[..usize::try_from(taken).unwrap_or(0)].iter().map(|message| Message(*message)).collect()
    }

    /// Where the log of each lane ends, open transactions included, as the brokers answer now; lanes of which they do
    /// not tell are left out.
    pub fn log_ends(&self, lanes: &[usize], timeout: Duration) -> Result<Vec<(usize, i64)>, ConsumerError> {
        let places = lanes.iter().map(|lane| &self.lanes[*lane].partition);
        let ends = log_ends(&self.client, places.map(|place| (&*place.topic, place.number)), timeout);
        let ends = ends.map_err(|code| ConsumerError::Call { call: "the end offsets", code: code.into() })?;
        let end_of = |lane: &usize| {
            let Partition { topic, number } = &self.lanes[*lane].partition;
            let is_it = |(name, partition, _): &&(String, i32, i64)| **name == **topic && partition == number;
            ends.iter().find(is_it).map(|(_, _, end)| (*lane, *end))
        };
        Ok(lanes.iter().filter_map(end_of).collect())
    }

    /// Where a lane's log ended when the brokers last sent something of it: no question is asked.
    pub fn last_known_end(&self, lane: usize) -> Option<i64> {
        let Partition { topic, number } = &self.lanes.get(lane)?.partition;
        last_known_end(&self.client, topic, *number)
    }

    /// Where the log of a partition ends, open transactions included.
    pub fn log_end(&self, partition: &Partition, timeout: Duration) -> Result<i64, ConsumerError> {
        log_end(&self.client, &partition.topic, partition.number, timeout)
    }

    /// The first offset that a partition still has, and the end of its committed records.
    pub fn extent(&self, partition: &Partition, timeout: Duration) -> Result<(i64, i64), ConsumerError> {
        self.client.fetch_watermarks(&partition.topic, partition.number, timeout).map_err(|error| ConsumerError::Call {
            call: "the first and last offsets",
            code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail),
        })
    }

    pub fn describe(&self, name: &str, timeout: Duration) -> Result<TopicDescription, TopicError> {
        let complaints = &self.client.context().complaints;
        topic::describe(&self.client, name, timeout).map_err(|error| match error {
            TopicError::Client { topic, reason } => TopicError::Client { topic, reason: complaints.explain(&reason) },
            error => error,
        })
    }

    /// `reason`, with what the client has last complained about.
    pub fn explain(&self, reason: &str) -> String {
        self.client.context().complaints.explain(reason)
    }

    /// Publishes progress to the group, for people and monitoring. Not waited for, never read back.
    pub fn publish_offsets(&self, positions: &[(usize, i64)]) {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (lane, offset) in positions {
            let Partition { topic, number } = &self.lanes[*lane].partition;
            let _ = list.add_partition_offset(topic, *number, Offset::Offset(*offset));
        }
        // SAFETY: the list is copied by the call.
        let code = unsafe { native::rd_kafka_commit(self.client.native_ptr(), list.ptr(), 1) };
        if let Err(error) = check("the group's offsets", code) {
            tracing::debug!("{error}");
        }
    }
}

impl Drop for Partitions {
    fn drop(&mut self) {
        self.lanes.clear();
        // SAFETY: the client is alive, and this is called once.
        unsafe { native::rd_kafka_consumer_close(self.client.native_ptr()) };
    }
}

unsafe extern "C" fn on_error(_: *mut native::rd_kafka_t, code: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: librdkafka gives a live text, and the context that was set as opaque.
    unsafe {
        let context = &*opaque.cast::<Context>();
        if let Ok(code) = RDKafkaRespErr::try_from(code) {
            context.complaints.note(&ClientError::Global(code.into()), &CStr::from_ptr(reason).to_string_lossy());
        }
    }
}
