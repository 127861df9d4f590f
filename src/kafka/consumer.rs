//! The reader of `land`: one topic, read in batches, with assignment under the caller's control.
//!
//! The group protocol only says which partitions are ours. Where to read is the caller's to say:
//! on an assignment nothing is fetched until [`Consumer::assign`] is called with explicit offsets,
//! and an offset is never reset by the client. Group offsets are published for monitoring only.
//!
//! Messages are taken with `rd_kafka_consume_batch_queue`: one call for thousands of records costs
//! less than half of what polling each does. It serves the callbacks too, on the calling thread.

use super::{
    client_config,
    complaint::Complaints,
    header::{self, bytes},
    log_end::log_ends,
    topic::{self, TopicDescription, TopicError},
};
use crate::{config::model::Kafka, record::headers::Headers};
use rdkafka::{
    ClientConfig, TopicPartitionList, bindings as native,
    client::{Client, ClientContext},
    error::KafkaError as ClientError,
    types::{RDKafkaErrorCode, RDKafkaRespErr, RDKafkaType},
};
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    ffi::{CStr, CString, c_char, c_int, c_void},
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr,
    sync::{Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

/// Most records of one poll, and the payload bytes it aims at.
const POLL_RECORDS: usize = 4_096;
const POLL_BYTES: usize = 4 << 20;
/// librdkafka's own queue of fetched records. It counts payloads, and a small record costs it about
/// 400 bytes more, so their number is bounded too (for each partition).
const QUEUE_KIB: usize = 8 << 10;
const QUEUE_RECORDS: usize = 20_000;

/// What Kafka answers where it gives no records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}{}", cure(.code))]
pub struct FetchError {
    pub code: RDKafkaErrorCode,
    pub text: String,
}

fn cure(code: &RDKafkaErrorCode) -> &'static str {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => "; grant the user READ and DESCRIBE on the topic",
        RDKafkaErrorCode::GroupAuthorizationFailed => "; grant the user READ on the consumer group",
        RDKafkaErrorCode::InvalidSessionTimeout => {
            "; set land.session_timeout_ms between group.min.session.timeout.ms and group.max.session.timeout.ms of the \
             brokers"
        }
        _ => "",
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    #[error("the Kafka consumer cannot be made: {0}; check the kafka section")]
    Create(ClientError),
    #[error("Kafka refused {call}: {code}")]
    Call { call: &'static str, code: RDKafkaErrorCode },
    #[error("Kafka gives no records of partition {partition}: {error}")]
    Fetch { partition: i32, error: FetchError },
    #[error("{0}")]
    Topic(#[from] TopicError),
}

/// A change of what the group gives us. After either, nothing is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebalance {
    /// These partitions, and no others.
    Assigned(Vec<i32>),
    Revoked,
}

/// One item of a poll, in the order of its partition.
pub enum Polled<'a> {
    Record(Record<'a>),
    /// The end of the partition was met: `offset` is where the next record will stand.
    End {
        partition: i32,
        offset: i64,
    },
    /// The client says that the offset we want is not in the partition. It reads no more of it.
    OutOfRange {
        partition: i32,
        error: FetchError,
    },
    /// The log is no longer the one that was read: it parted from it at `common`, where that is known, and what was
    /// read from there on is gone.
    Diverged {
        partition: i32,
        common: Option<i64>,
    },
    /// The client can do nothing more: make another.
    Fatal(String),
    /// A batch is damaged, or packed in a way that cannot be undone. The client would go on behind it.
    Damaged {
        partition: i32,
        offset: i64,
        text: String,
    },
    /// Of a partition, or of the topic or the group where none is named. The client goes on trying.
    Failed {
        partition: Option<i32>,
        error: FetchError,
    },
}

/// The last record that was read of a partition: its offset, and Kafka's number of the leadership under which it
/// was written. Where the log holds another record there, or none, it is no longer the log that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRecord {
    pub offset: i64,
    pub leader_epoch: i32,
}

/// Where to read a partition from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub partition: i32,
    pub offset: i64,
    /// That of the record before it, by which the broker tells whether the log is still the one that was read.
    pub leader_epoch: Option<i32>,
}

/// A record, borrowed from the client.
pub struct Record<'a> {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    message: *const native::rd_kafka_message_t,
    life: PhantomData<&'a ()>,
}

impl Record<'_> {
    /// Kafka's timestamp in milliseconds since 1970, whichever of the two kinds the topic has.
    pub fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives as long as the record.
        let timestamp = unsafe { native::rd_kafka_message_timestamp(self.message, &mut kind) };
        (kind != native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && timestamp >= 0)
            .then_some(timestamp)
    }

    /// Itself, where the broker keeps the epochs of its leaders.
    pub fn as_last(&self) -> Option<LastRecord> {
        // SAFETY: the message lives as long as the record.
        let leader_epoch = unsafe { native::rd_kafka_message_leader_epoch(self.message) };
        (leader_epoch >= 0).then_some(LastRecord { offset: self.offset, leader_epoch })
    }

    /// Headers in their order, names and values as they are.
    pub fn headers(&self) -> Headers {
        // SAFETY: the message lives as long as the record.
        unsafe { header::all(self.message) }
    }
}

/// What the callbacks leave for the polling thread. They run on that thread, inside the poll.
#[derive(Default)]
struct Callbacks {
    rebalances: Mutex<Vec<Rebalance>>,
    complaints: Complaints,
    reading: Mutex<Reading>,
    closing: Mutex<Closing>,
}

/// How far the end of a member has come.
#[derive(Default, PartialEq)]
enum Closing {
    #[default]
    No,
    /// It was asked for.
    Asked,
    /// A callback has given the partitions up. librdkafka 2.12 ends its group with the first answer, and another
    /// one, to the revocation that came behind an assignment nobody had looked at yet, would wait for ever.
    Answered,
}

impl ClientContext for Callbacks {}

#[derive(Default)]
struct Reading {
    any: bool,
    /// When partitions that were being read were last told to stop.
    stopped_at: Option<Instant>,
}

/// Given to partitions to stop before the assignment changes again. librdkafka up to 2.15 stops a
/// partition twice when it changes while the first stop is under way, and then aborts the process
/// (confluentinc/librdkafka issue 5573; seen here as an assertion in `rdkafka_assignment.c`).
const STOP_TIME: Duration = Duration::from_millis(500);

/// How long a member that leaves waits for its group to end by itself.
const ANSWER_PAUSE: Duration = Duration::from_millis(100);
/// How long leaving may take. Others get the partitions when the session is over, then, and the client is left alone.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

impl Callbacks {
    /// Called before each change of the assignment; `any` says whether it leaves partitions to read.
    fn before_assign(&self, any: bool) {
        let mut reading = lock(&self.reading);
        if let Some(left) = reading.stopped_at.and_then(|at| STOP_TIME.checked_sub(at.elapsed())) {
            std::thread::sleep(left);
        }
        reading.stopped_at = reading.any.then(Instant::now);
        reading.any = any;
    }
}

/// Committed records, from where the caller says, and the end of a partition told.
pub(super) fn reading_config(kafka: &Kafka, group: &str) -> ClientConfig {
    let mut config = client_config(kafka);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        // What a disk or a line has changed is no record of anybody's.
        .set("check.crcs", "true")
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("allow.auto.create.topics", "false")
        .set("fetch.message.max.bytes", "1048576")
        .set("fetch.max.bytes", "4194304")
        .set("receive.message.max.bytes", "100000000")
        .set("socket.timeout.ms", "15000")
        .set("socket.keepalive.enable", "true")
        // A full queue is the usual state of a bulk load: look again soon, not after a second.
        .set("fetch.queue.backoff.ms", "5")
        .set("reconnect.backoff.max.ms", "2000");
    config
}

/// What is said of a damaged batch; `done` is what is not done with the records behind it, `stage` the command.
pub fn damaged(topic: &str, partition: i32, offset: i64, text: &str, done: &str, stage: &str) -> String {
    format!(
        "partition {partition} of topic {topic} holds a damaged batch at offset {offset} ({text}): nothing from there on \
         is {done}; let the broker get the partition from another replica, and start {stage} again, or give the batch up: \
         delete it with all before it (kafka-delete-records.sh), and {stage} says how to go on"
    )
}

pub struct Consumer {
    queue: ManuallyDrop<Queue>,
    client: ManuallyDrop<Client<Callbacks>>,
    topic: String,
    messages: Vec<*mut native::rd_kafka_message_t>,
    /// Running mean of payload sizes, which bounds the records of a poll.
    mean_bytes: usize,
    /// It has not left in time: nobody may take the client from under it.
    is_stuck: Cell<bool>,
}

/// A reference to a queue of the client's, which must outlive it.
pub(super) struct Queue(pub *mut native::rd_kafka_queue_t);

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours and is destroyed once, before the client.
        unsafe { native::rd_kafka_queue_destroy(self.0) };
    }
}

impl Consumer {
    /// Joins `group` for `topic`. Does not wait for the brokers. An `instance` makes it a static
    /// member: one that comes back under the same name within the session timeout, after a crash too,
    /// gets its partitions at once. No two live members may have the same.
    pub fn new(
        kafka: &Kafka,
        group: &str,
        topic: &str,
        instance: Option<&str>,
        session_timeout_ms: u64,
    ) -> Result<Self, ConsumerError> {
        let mut config = reading_config(kafka, group);
        if let Some(instance) = instance {
            config.set("group.instance.id", instance);
        }
        config
            .set("partition.assignment.strategy", "range,roundrobin")
            .set("session.timeout.ms", session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", (session_timeout_ms / 4).to_string())
            .set("queued.max.messages.kbytes", QUEUE_KIB.to_string())
            .set("queued.min.messages", QUEUE_RECORDS.to_string());
        let conf = config.create_native_config().map_err(ConsumerError::Create)?;
        // SAFETY: the callbacks are plain functions; the opaque pointer that they get is the
        // context, which the client owns.
        unsafe {
            native::rd_kafka_conf_set_rebalance_cb(conf.ptr(), Some(on_rebalance));
            native::rd_kafka_conf_set_error_cb(conf.ptr(), Some(on_error));
            native::rd_kafka_conf_set_log_cb(conf.ptr(), Some(on_log));
        }
        let client = Client::new(&config, conf, RDKafkaType::RD_KAFKA_CONSUMER, Callbacks::default())
            .map_err(ConsumerError::Create)?;
        // SAFETY: the client is alive; the queue is destroyed before it.
        let queue = unsafe {
            native::rd_kafka_poll_set_consumer(client.native_ptr());
            ManuallyDrop::new(Queue(native::rd_kafka_queue_get_consumer(client.native_ptr())))
        };
        let mut topics = TopicPartitionList::new();
        topics.add_topic_unassigned(topic);
        // SAFETY: the list is copied by the call.
        let code = unsafe { native::rd_kafka_subscribe(client.native_ptr(), topics.ptr()) };
        check("subscribe", code)?;
        Ok(Consumer {
            client: ManuallyDrop::new(client),
            queue,
            topic: topic.to_owned(),
            messages: vec![ptr::null_mut(); POLL_RECORDS],
            mean_bytes: 1_024,
            is_stuck: Cell::new(false),
        })
    }

    /// Takes what has come, waiting at most `timeout` for more. Where the assignment has changed,
    /// the records taken with it are thrown away: none of them was asked for by the new one.
    pub fn poll(&mut self, timeout: Duration) -> Poll<'_> {
        let most = (POLL_BYTES / self.mean_bytes.max(1)).clamp(1, POLL_RECORDS);
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the array has room for `most` pointers, and each that is filled is destroyed once,
        // by the `Poll`.
        let taken =
            unsafe { native::rd_kafka_consume_batch_queue(self.queue.0, timeout_ms, self.messages.as_mut_ptr(), most) };
        let rebalances = std::mem::take(&mut *lock(&self.client.context().rebalances));
        let mut poll = Poll { taken: usize::try_from(taken).unwrap_or(0), rebalances, consumer: self };
        if !poll.rebalances.is_empty() {
            poll.discard();
        }
        poll
    }

    /// Reads exactly these partitions from these offsets, and nothing else.
    pub fn assign(&self, positions: &[Position]) -> Result<(), ConsumerError> {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for Position { partition, offset, leader_epoch } in positions {
            add_position(&mut list, &self.topic, *partition, *offset, *leader_epoch);
        }
        self.client.context().before_assign(!positions.is_empty());
        // SAFETY: the list is copied by the call.
        check("assign", unsafe { native::rd_kafka_assign(self.client.native_ptr(), list.ptr()) })?;
        let known = positions.iter().filter_map(|position| {
            Some((self.topic.as_str(), position.partition, position.offset, position.leader_epoch?))
        });
        compare_logs(&self.client, known)
    }

    /// First offset that is there, and where the next committed record will stand.
    pub fn watermarks(&self, partition: i32, timeout: Duration) -> Result<(i64, i64), ConsumerError> {
        self.client.fetch_watermarks(&self.topic, partition, timeout).map_err(|error| ConsumerError::Call {
            call: "the end offsets",
            code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail),
        })
    }

    /// Where the next record of anybody will stand, those of open transactions included.
    pub fn log_end(&self, partition: i32, timeout: Duration) -> Result<i64, ConsumerError> {
        log_end(&self.client, &self.topic, partition, timeout)
    }

    pub fn describe(&self, timeout: Duration) -> Result<TopicDescription, TopicError> {
        let complaints = &self.client.context().complaints;
        match topic::describe(&self.client, &self.topic, timeout) {
            Ok(description) => {
                complaints.clear();
                Ok(description)
            }
            Err(TopicError::Client { topic, reason }) => {
                Err(TopicError::Client { topic, reason: complaints.explain(&reason) })
            }
            Err(error) => Err(error),
        }
    }

    /// The end of a partition as the last fetch found it; asks nobody.
    pub fn last_known_end(&self, partition: i32) -> Option<i64> {
        last_known_end(&self.client, &self.topic, partition)
    }

    /// Publishes progress to the group, for people and monitoring. Not waited for, never read back.
    pub fn publish_offsets(&self, positions: &[(i32, i64)]) {
        let list = self.list(positions);
        // SAFETY: the list is copied by the call.
        let code = unsafe { native::rd_kafka_commit(self.client.native_ptr(), list.ptr(), 1) };
        if let Err(error) = check("the group's offsets", code) {
            tracing::debug!(topic = %self.topic, "{error}");
        }
    }

    /// Leaves the group, so that the partitions go to others at once.
    pub fn close(&self) {
        let closing = std::mem::replace(&mut *lock(&self.client.context().closing), Closing::Asked);
        if closing != Closing::No {
            return;
        }
        let client = self.client.native_ptr() as usize;
        let (left, has_left) = mpsc::channel();
        std::thread::spawn(move || {
            // SAFETY: this is called once, and the client outlives it: who does not leave in time is never destroyed.
            unsafe { native::rd_kafka_consumer_close(client as *mut native::rd_kafka_t) };
            let _ = left.send(());
        });
        if has_left.recv_timeout(LEAVE_LIMIT).is_err() {
            tracing::warn!(topic = %self.topic, "the Kafka client does not leave its group in time");
            self.is_stuck.set(true);
        }
    }

    fn list(&self, positions: &[(i32, i64)]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (partition, offset) in positions {
            add_position(&mut list, &self.topic, *partition, *offset, None);
        }
        list
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.close();
        if !self.is_stuck.get() {
            // SAFETY: neither is used any more; the queue goes first.
            unsafe {
                ManuallyDrop::drop(&mut self.queue);
                ManuallyDrop::drop(&mut self.client);
            }
        }
    }
}

/// The result of one poll. Destroys its records when dropped.
pub struct Poll<'a> {
    consumer: &'a mut Consumer,
    taken: usize,
    pub rebalances: Vec<Rebalance>,
}

impl Poll<'_> {
    pub fn items(&self) -> impl Iterator<Item = Polled<'_>> {
        self.consumer.messages[..self.taken].iter().map(|message| {
            // SAFETY: the first `taken` pointers are live messages until `discard`.
            unsafe { item(*message) }
        })
    }

    /// The consumer itself, for what a record may lead to.
    pub fn consumer(&self) -> &Consumer {
        self.consumer
    }

    fn discard(&mut self) {
        let mut total = 0;
        for message in &self.consumer.messages[..self.taken] {
            // SAFETY: each was filled by the poll and is destroyed once.
            unsafe {
                total += (**message).len;
                native::rd_kafka_message_destroy(*message);
            }
        }
        if let Some(mean) = total.checked_div(self.taken) {
            self.consumer.mean_bytes = mean + 256;
        }
        self.taken = 0;
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        self.discard();
    }
}

/// # Safety
/// `message` is live for as long as the item is used.
pub(super) unsafe fn item<'a>(message: *const native::rd_kafka_message_t) -> Polled<'a> {
    // SAFETY: as the caller promises; keys and payloads belong to the message.
    unsafe {
        let found = &*message;
        match found.err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Polled::Record(Record {
                partition: found.partition,
                offset: found.offset,
                key: bytes(found.key, found.key_len),
                payload: bytes(found.payload, found.len),
                message,
                life: PhantomData,
            }),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                Polled::End { partition: found.partition, offset: found.offset }
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR__LOG_TRUNCATION => {
                let text = bytes(found.payload, found.len).map(String::from_utf8_lossy).unwrap_or_default();
                let is_truncation = found.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__LOG_TRUNCATION;
                match is_truncation || text.contains(TRUNCATION) {
                    true => Polled::Diverged { partition: found.partition, common: common_end(&text) },
                    false => {
                        let error = FetchError { code: found.err.into(), text: text.into_owned() };
                        Polled::OutOfRange { partition: found.partition, error }
                    }
                }
            }
            code => {
                let text = bytes(found.payload, found.len).map(|text| String::from_utf8_lossy(text).into_owned());
                let text = text.unwrap_or_default();
                // Errors of the topic and of the group come with partition 0.
                let partition = (!found.rkt.is_null() && found.offset >= 0).then_some(found.partition);
                match (code, partition) {
                    (
                        RDKafkaRespErr::RD_KAFKA_RESP_ERR__FATAL | RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID,
                        _,
                    ) => Polled::Fatal(text),
                    (
                        RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG
                        | RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_COMPRESSION
                        | RDKafkaRespErr::RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED
                        | RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_MSG,
                        Some(partition),
                    ) => Polled::Damaged { partition, offset: found.offset, text },
                    (code, partition) => Polled::Failed { partition, error: FetchError { code: code.into(), text } },
                }
            }
        }
    }
}

/// How librdkafka says that a log was truncated: without a policy for resetting offsets it gives the error of the
/// reset, and this, with the end of what both logs hold, in its words.
const TRUNCATION: &str = "Partition log truncation detected";
const COMMON_END: &str = "broker end offset is ";

fn common_end(text: &str) -> Option<i64> {
    let (_, rest) = text.split_once(COMMON_END)?;
    let number = rest.split(|c: char| !c.is_ascii_digit() && c != '-').next()?;
    number.parse().ok().filter(|end| *end >= 0)
}

/// Makes the client ask the brokers whether the logs of these partitions, which have just been assigned, are still the
/// ones that were read (topic, partition, offset, epoch of the record before it), before it gives anything of them.
/// librdkafka 2.12 asks so when it seeks, but not of what is assigned. What it has fetched meanwhile it throws away.
pub(super) fn compare_logs<'a, C: ClientContext>(
    client: &Client<C>,
    positions: impl Iterator<Item = (&'a str, i32, i64, i32)>,
) -> Result<(), ConsumerError> {
    let mut left: Vec<_> = positions.collect();
    let begun = Instant::now();
    while !left.is_empty() {
        let mut list = TopicPartitionList::with_capacity(left.len());
        for (topic, partition, offset, epoch) in &left {
            add_position(&mut list, topic, *partition, *offset, Some(*epoch));
        }
        // SAFETY: the client is alive; the list is ours, and the call notes in it what became of each.
        let error = unsafe { native::rd_kafka_seek_partitions(client.native_ptr(), list.ptr(), SEEK_TIMEOUT_MS) };
        if !error.is_null() {
            // SAFETY: the error is ours to destroy.
            unsafe { native::rd_kafka_error_destroy(error) };
        }
        // Those that have not been started yet are asked again.
        left.retain(|(topic, partition, ..)| {
            list.find_partition(topic, *partition).is_none_or(|found| found.error().is_err())
        });
        if !left.is_empty() {
            if begun.elapsed() > COMPARE_LIMIT {
                let code = RDKafkaErrorCode::OperationTimedOut;
                return Err(ConsumerError::Call { call: "to compare the log with the one that was read", code });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

const SEEK_TIMEOUT_MS: c_int = 1_000;
const COMPARE_LIMIT: Duration = Duration::from_secs(5);

/// Adds a position to what is to be assigned.
pub(super) fn add_position(
    list: &mut TopicPartitionList,
    topic: &str,
    partition: i32,
    offset: i64,
    leader_epoch: Option<i32>,
) {
    // Fails only for offsets without a raw form, and a plain number has one.
    let _ = list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset));
    if let Some(epoch) = leader_epoch {
        // SAFETY: the list is ours, and its last element is the one just added.
        unsafe {
            let raw = &*list.ptr();
            let last = raw.elems.add(usize::try_from(raw.cnt - 1).unwrap_or(0));
            native::rd_kafka_topic_partition_set_leader_epoch(last, epoch);
        }
    }
}

unsafe extern "C" fn on_rebalance(
    client: *mut native::rd_kafka_t,
    code: RDKafkaRespErr,
    partitions: *mut native::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: librdkafka gives a live client, a live list, and the context that was set as opaque.
    unsafe {
        let callbacks = &*opaque.cast::<Callbacks>();
        let is_closing = {
            let mut closing = lock(&callbacks.closing);
            match *closing {
                Closing::No => false,
                Closing::Asked => {
                    *closing = Closing::Answered;
                    true
                }
                Closing::Answered => return,
            }
        };
        callbacks.before_assign(false);
        if is_closing {
            // A group that was about to change ends without our answer, and at once.
            let asked = Instant::now();
            while native::rd_kafka_consumer_closed(client) == 0 && asked.elapsed() < ANSWER_PAUSE {
                std::thread::sleep(Duration::from_millis(5));
            }
            if native::rd_kafka_consumer_closed(client) == 0 {
                native::rd_kafka_assign(client, ptr::null());
            }
            return;
        }
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let list = &*partitions;
            let found = (0..usize::try_from(list.cnt).unwrap_or(0)).map(|i| (*list.elems.add(i)).partition).collect();
            lock(&callbacks.rebalances).push(Rebalance::Assigned(found));
            // Accepts the assignment without reading anything yet: the offsets come later.
            native::rd_kafka_assign(client, TopicPartitionList::new().ptr());
        } else {
            lock(&callbacks.rebalances).push(Rebalance::Revoked);
            native::rd_kafka_assign(client, ptr::null());
        }
    }
}

unsafe extern "C" fn on_error(_: *mut native::rd_kafka_t, code: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: librdkafka gives a live text, and the context that was set as opaque.
    unsafe {
        let callbacks = &*opaque.cast::<Callbacks>();
        if let Ok(code) = RDKafkaRespErr::try_from(code) {
            callbacks.complaints.note(&ClientError::Global(code.into()), &CStr::from_ptr(reason).to_string_lossy());
        }
    }
}

pub(super) unsafe extern "C" fn on_log(
    _: *const native::rd_kafka_t,
    _: c_int,
    facility: *const c_char,
    text: *const c_char,
) {
    // SAFETY: librdkafka gives live texts. Errors that matter arrive by other ways too.
    let (facility, text) = unsafe { (CStr::from_ptr(facility), CStr::from_ptr(text)) };
    tracing::debug!(target: "librdkafka", facility = %facility.to_string_lossy(), "{}", text.to_string_lossy());
}

/// The end of a partition, records of open transactions included, as the brokers answer now.
pub(super) fn log_end<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partition: i32,
    timeout: Duration,
) -> Result<i64, ConsumerError> {
    let failed = |code| ConsumerError::Call { call: "the end of the log", code };
    let ends = log_ends(client, std::iter::once((topic, partition)), timeout).map_err(|code| failed(code.into()))?;
    ends.first().map(|(.., end)| *end).ok_or_else(|| failed(RDKafkaErrorCode::UnknownPartition))
}

/// The end of a partition as the last fetch found it; asks nobody.
pub(super) fn last_known_end<C: ClientContext>(client: &Client<C>, topic: &str, partition: i32) -> Option<i64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is alive; the name and the two numbers outlive the call.
    unsafe {
        native::rd_kafka_get_watermark_offsets(client.native_ptr(), topic.as_ptr(), partition, &mut low, &mut high);
    }
    (high >= 0).then_some(high)
}

pub(super) fn check(call: &'static str, code: RDKafkaRespErr) -> Result<(), ConsumerError> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(ConsumerError::Call { call, code: code.into() }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_both_logs_hold_is_read_from_the_clients_words() {
        let told = "Partition log truncation detected at offset 120 (leader epoch 3): broker end offset is 60 (offset \
                    leader epoch 2). Reset to INVALID.: Local: Partition log truncation detected (broker 1)";
        assert!(told.contains(TRUNCATION));
        assert_eq!(common_end(told), Some(60));
        let unknown = "No epoch found less or equal to offset 120 (leader epoch 3): broker end offset is -1 (offset \
                       leader epoch -1). Reset using configured policy.: Local: Partition log truncation detected";
        assert_eq!((unknown.contains(TRUNCATION), common_end(unknown)), (true, None));
    }
}
