//! The transactional publisher of `capture` and of replays. Every call blocks, with a deadline; it
//! lives on a thread of its own.

use super::{
    client_config,
    complaint::{self, Complaints},
    set_defaults,
};
use crate::{
    clock::Moment,
    config::model::{Compression, Kafka},
};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    bindings::{
        RD_KAFKA_MSG_F_COPY, rd_kafka_header_add, rd_kafka_headers_copy, rd_kafka_headers_destroy,
        rd_kafka_headers_new, rd_kafka_headers_t, rd_kafka_producev, rd_kafka_resp_err_t, rd_kafka_topic_destroy,
        rd_kafka_topic_new, rd_kafka_topic_t, rd_kafka_vtype_t as Argument,
    },
    config::RDKafkaLogLevel,
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    producer::{BaseProducer, DeliveryResult, Producer, ProducerContext, PurgeConfig},
};
use std::{
    ffi::{CString, c_char, c_void},
    ptr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const OPEN_DEADLINE: Duration = Duration::from_secs(30);
const SEND_DEADLINE: Duration = Duration::from_secs(60);
const COMMIT_DEADLINE: Duration = Duration::from_secs(60);
const ABORT_DEADLINE: Duration = Duration::from_secs(10);
/// The client's mark for a partition that the partitioner chooses.
const UNASSIGNED: i32 = -1;
const BATCH_BYTES: &str = "1000000";
/// The broker aborts what stays open for longer.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    #[error("Kafka at {brokers} cannot be reached: {reason}; check kafka.brokers and its security settings")]
    Unreachable { brokers: String, reason: String },
    #[error("another process with transactional id {transactional_id} has taken over; this one ends")]
    Fenced { transactional_id: String },
    #[error("the Kafka transaction was open for longer than the broker allows, and was aborted")]
    Expired,
    #[error("it is unknown whether a Kafka transaction was committed ({reason}): reading the checkpoints again")]
    UnknownOutcome { reason: String },
    #[error("Kafka: {action}: {reason}")]
    Failed { action: &'static str, reason: String },
    #[error("Kafka: {action} took longer than {seconds} s")]
    Timeout { action: &'static str, seconds: u64 },
    #[error("the Kafka user may not use {resource}: grant it {operations}")]
    Forbidden { resource: String, operations: &'static str },
    /// One topic's own trouble: messages to others would be taken. The client does not always say which one, so the
    /// one who sends adds whose messages (`of`) are in the transaction.
    #[error("{} does not take messages: {reason}", topic.as_ref().map_or("a topic of the transaction".to_owned(), |topic| format!("topic {topic}")))]
    Refused { topic: Option<String>, reason: String, of: Vec<usize> },
    #[error("topic {topic} has an invalid name")]
    TopicName { topic: String },
    #[error("the thread that publishes to Kafka has ended")]
    Gone,
    #[error(transparent)]
    Failpoint(#[from] std::io::Error),
}

impl ProducerError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        !matches!(self, ProducerError::Fenced { .. } | ProducerError::TopicName { .. })
    }
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub transactional_id: String,
    pub compression: Compression,
    /// Largest key and value of one message.
    pub max_message_bytes: u64,
}

/// Keeps the client's latest complaint, which says more than the timeout that follows it, and the topic that has
/// refused a message.
struct Listener {
    complaints: Complaints,
    refused: Mutex<Option<(String, RDKafkaErrorCode)>>,
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        complaint::log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.complaints.error(error, reason);
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            self.complaints.note(error, &format!("a message was not taken: {error}"));
            self.note_refusal(message.topic(), error);
        }
    }
}

impl Listener {
    /// The first one is the cause: what is behind it in the transaction fails with it.
    fn note_refusal(&self, topic: &str, error: &ClientError) {
        if let Some(code) = error.rdkafka_error_code().filter(|code| refusal(*code).is_some()) {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.get_or_insert_with(|| (topic.to_owned(), code));
        }
    }
}

/// The reason of a topic whose limit a message exceeds.
pub const MESSAGE_TOO_LARGE: &str = "a message is larger than its max.message.bytes";

/// Why a topic takes no message, where it is the topic's own trouble, and what to do about it.
fn refusal(code: RDKafkaErrorCode) -> Option<&'static str> {
    Some(match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => MESSAGE_TOO_LARGE,
        RDKafkaErrorCode::TopicAuthorizationFailed => "the Kafka user may not write to it; grant it Write and Describe",
        RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownPartition => "it does not exist any more; make it again: headwater topics -c FILE",
        RDKafkaErrorCode::PolicyViolation | RDKafkaErrorCode::InvalidRecord => {
            "the broker's policy, or the topic's settings, refuse the message"
        }
        _ => return None,
    })
}

/// A set of headers that many messages share.
pub struct Headers(*mut rd_kafka_headers_t);

impl Headers {
    /// Names and values in this order; names may repeat, and a value may be null.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Headers {
        // SAFETY: names and values are given with their lengths, and are copied by the call.
        unsafe {
            let set = rd_kafka_headers_new(8);
            for (name, value) in pairs {
                rd_kafka_header_add(
                    set,
                    name.as_ptr().cast::<c_char>(),
                    name.len() as isize,
                    value.map_or(ptr::null(), <[u8]>::as_ptr).cast::<c_void>(),
                    value.map_or(0, <[u8]>::len) as isize,
                );
            }
            Headers(set)
        }
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: made by `rd_kafka_headers_new` and owned by us; messages have copies.
        unsafe { rd_kafka_headers_destroy(self.0) };
    }
}

/// A topic that messages are sent to, looked up once. Belongs to the producer that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicHandle(usize);

/// A message to send.
pub struct Outgoing<'a> {
    pub topic: TopicHandle,
    /// By the key when absent.
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    /// Null is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: Option<&'a Headers>,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
}

pub struct TransactionalProducer {
    transactional_id: String,
    complaints: Complaints,
    topics: Vec<*mut rd_kafka_topic_t>,
    /// Of `topics`.
    names: Vec<String>,
    begun: Option<Moment>,
    sent_since_poll: u32,
    // Last, so that the topics are released before it.
    producer: BaseProducer<Listener>,
}

impl TransactionalProducer {
    /// Connects and takes over the transactional id: an older producer with it is fenced, and what
    /// it left open is aborted or finished.
    pub fn open(kafka: &Kafka, settings: &Settings) -> Result<TransactionalProducer, ProducerError> {
        let complaints = Complaints::default();
        let unreachable = |reason: String| ProducerError::Unreachable { brokers: kafka.brokers.clone(), reason };
        let producer: BaseProducer<Listener> = configuration(kafka, settings)
            .create_with_context(Listener { complaints: complaints.clone(), refused: Mutex::default() })
            .map_err(|error| unreachable(error.to_string()))?;
        let opened = TransactionalProducer {
            transactional_id: settings.transactional_id.clone(),
            complaints,
            topics: Vec::new(),
            names: Vec::new(),
            begun: None,
            sent_since_poll: 0,
            producer,
        };
        let started = Instant::now();
        while let Err(error) = opened.producer.init_transactions(Duration::from_secs(5)) {
            opened.producer.poll(Duration::ZERO);
            if code_of(&error) == Some(RDKafkaErrorCode::TransactionalIdAuthorizationFailed) {
                let resource = format!("transactional id {}", settings.transactional_id);
                return Err(ProducerError::Forbidden { resource, operations: "Write and Describe" });
            }
            if !is_retriable(&error) || started.elapsed() > OPEN_DEADLINE {
                return Err(match opened.fenced(&error) {
                    Some(fenced) => fenced,
                    None => unreachable(opened.words(&error)),
                });
            }
        }
        Ok(opened)
    }

    pub fn topic(&mut self, name: &str) -> Result<TopicHandle, ProducerError> {
        let wrong = || ProducerError::TopicName { topic: name.to_owned() };
        let c_name = CString::new(name).map_err(|_| wrong())?;
        // SAFETY: the client outlives the topic, which is released in `drop`; the name is copied.
        let topic =
            unsafe { rd_kafka_topic_new(self.producer.client().native_ptr(), c_name.as_ptr(), ptr::null_mut()) };
        if topic.is_null() {
            return Err(wrong());
        }
        self.topics.push(topic);
        self.names.push(name.to_owned());
        Ok(TopicHandle(self.topics.len() - 1))
    }

    pub fn is_in_transaction(&self) -> bool {
        self.begun.is_some()
    }

    pub fn begin(&mut self) -> Result<(), ProducerError> {
        self.producer.begin_transaction().map_err(|error| self.failed("beginning a transaction", &error))?;
        self.begun = Some(Moment::now());
        Ok(())
    }

    /// Hands one message to the client, waiting for room where its queue is full.
    pub fn send(&mut self, message: &Outgoing<'_>) -> Result<(), ProducerError> {
        self.sent_since_poll += 1;
        if self.sent_since_poll >= 4096 {
            self.sent_since_poll = 0;
            self.producer.poll(Duration::ZERO);
        }
        let mut full_since = None;
        loop {
            match self.produce(message) {
                rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => return Ok(()),
                rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL => {
                    let since = *full_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > SEND_DEADLINE {
                        return Err(self.timeout("sending", SEND_DEADLINE));
                    }
                    self.producer.poll(Duration::from_millis(2));
                }
                code => {
                    let error = ClientError::MessageProduction(code.into());
                    let topic = &self.names[message.topic.0];
                    self.producer.context().note_refusal(topic, &error);
                    // A transaction that has failed takes no message; why it has is told by what is polled.
                    self.producer.poll(Duration::from_millis(100));
                    // Nor can such a transaction be committed, and the refusal names the cause.
                    let cause = match code {
                        rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__STATE => {
                            self.producer.commit_transaction(Duration::from_millis(100)).err()
                        }
                        _ => None,
                    };
                    return Err(self.failed("sending", &cause.unwrap_or(error)));
                }
            }
        }
    }

    fn produce(&self, message: &Outgoing<'_>) -> rd_kafka_resp_err_t {
        let start = |bytes: Option<&[u8]>| bytes.map_or(ptr::null(), <[u8]>::as_ptr).cast::<c_void>();
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        // SAFETY: every argument has the type that its tag announces; key and value are copied
        // (F_COPY), and null where there is none; the copy of the headers is the client's unless it
        // refuses the message.
        unsafe {
            let copy = message.headers.map_or(ptr::null_mut(), |headers| rd_kafka_headers_copy(headers.0));
            let code = rd_kafka_producev(
                self.producer.client().native_ptr(),
                Argument::RD_KAFKA_VTYPE_RKT,
                self.topics[message.topic.0],
                Argument::RD_KAFKA_VTYPE_PARTITION,
                message.partition.unwrap_or(UNASSIGNED),
                Argument::RD_KAFKA_VTYPE_MSGFLAGS,
                RD_KAFKA_MSG_F_COPY,
                Argument::RD_KAFKA_VTYPE_VALUE,
                start(message.value),
                length(message.value),
                Argument::RD_KAFKA_VTYPE_KEY,
                start(message.key),
                length(message.key),
                Argument::RD_KAFKA_VTYPE_TIMESTAMP,
                message.timestamp_ms,
                Argument::RD_KAFKA_VTYPE_HEADERS,
                copy,
                Argument::RD_KAFKA_VTYPE_END,
            );
            if code != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && !copy.is_null() {
                rd_kafka_headers_destroy(copy);
            }
            code
        }
    }

    /// Commits. The queue is drained first: a commit that finds messages in flight waits in steps
    /// of 100 ms.
    pub fn commit(&mut self) -> Result<(), ProducerError> {
        let started = Instant::now();
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::from_millis(1));
            if started.elapsed() > SEND_DEADLINE {
                return Err(self.timeout("delivering", SEND_DEADLINE));
            }
            if let Some((code, reason)) = self.producer.client().fatal_error() {
                return Err(self.fatal(code, reason));
            }
        }
        loop {
            let Err(error) = self.producer.commit_transaction(Duration::from_secs(5)) else {
                self.begun = None;
                return Ok(());
            };
            self.producer.poll(Duration::ZERO);
            if let Some(fenced) = self.fenced(&error) {
                return Err(fenced);
            }
            if is_retriable(&error) && started.elapsed() < COMMIT_DEADLINE {
                continue;
            }
            if let ClientError::Transaction(cause) = &error
                && cause.txn_requires_abort()
            {
                return Err(self.failed("committing", &error));
            }
            return Err(ProducerError::UnknownOutcome { reason: self.words(&error) });
        }
    }

    /// Aborts what is open, so that readers need not wait for the broker to do it. After any error
    /// nothing but this is left to do.
    pub fn abort(&mut self) {
        if self.begun.take().is_none() || self.producer.client().fatal_error().is_some() {
            return;
        }
        // An abort waits until the reports of the messages it throws away have been taken.
        self.producer.purge(PurgeConfig::default().queue().inflight());
        let started = Instant::now();
        while let Err(error) = self.producer.abort_transaction(Duration::from_millis(50)) {
            self.producer.poll(Duration::from_millis(5));
            if !is_retriable(&error) || started.elapsed() > ABORT_DEADLINE {
                tracing::debug!("aborting a Kafka transaction: {error}");
                return;
            }
        }
    }

    fn timeout(&self, action: &'static str, limit: Duration) -> ProducerError {
        match self.producer.client().fatal_error() {
            Some((code, reason)) => self.fatal(code, reason),
            None => ProducerError::Timeout { action, seconds: limit.as_secs() },
        }
    }

    fn failed(&self, action: &'static str, error: &ClientError) -> ProducerError {
        if let Some(fenced) = self.fenced(error) {
            return fenced;
        }
        let refused = self.producer.context().refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        let refused = refused.map(|(topic, code)| (Some(topic), code)).or_else(|| Some((None, code_of(error)?)));
        match refused.and_then(|(topic, code)| Some((topic, refusal(code)?))) {
            Some((topic, reason)) => ProducerError::Refused { topic, reason: reason.to_owned(), of: Vec::new() },
            None => ProducerError::Failed { action, reason: self.words(error) },
        }
    }

    fn fatal(&self, code: RDKafkaErrorCode, reason: String) -> ProducerError {
        if is_fenced(code) { self.fenced_or_expired() } else { ProducerError::Failed { action: "publishing", reason } }
    }

    fn fenced(&self, error: &ClientError) -> Option<ProducerError> {
        let code = code_of(error);
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        (code.is_some_and(is_fenced) || fatal.is_some_and(is_fenced)).then(|| self.fenced_or_expired())
    }

    /// The client has one word for both: a producer that slept through the transaction's timeout
    /// was fenced by the broker itself, and may begin again.
    fn fenced_or_expired(&self) -> ProducerError {
        match self.begun {
            Some(begun) if begun.elapsed() + Duration::from_secs(10) > TRANSACTION_TIMEOUT => ProducerError::Expired,
            _ => ProducerError::Fenced { transactional_id: self.transactional_id.clone() },
        }
    }

    fn words(&self, error: &ClientError) -> String {
        let words = match self.complaints.last() {
            Some(last) => format!("{error} ({})", last.text),
            None => error.to_string(),
        };
        self.complaints.clear();
        words
    }
}

impl Drop for TransactionalProducer {
    fn drop(&mut self) {
        for topic in self.topics.drain(..) {
            // SAFETY: made by `rd_kafka_topic_new`, released once.
            unsafe { rd_kafka_topic_destroy(topic) };
        }
    }
}

fn code_of(error: &ClientError) -> Option<RDKafkaErrorCode> {
    error.rdkafka_error_code().or_else(|| match error {
        ClientError::Transaction(cause) => Some(cause.code()),
        _ => None,
    })
}

fn is_fenced(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch)
}

fn is_retriable(error: &ClientError) -> bool {
    match error {
        ClientError::Transaction(cause) => cause.is_retriable(),
        // Waiting for deliveries inside a commit.
        ClientError::Flush(_) => true,
        _ => false,
    }
}

/// What the client takes as one message, of which key and value have `max_message_bytes` at most.
fn message_bytes(max_message_bytes: u64) -> u64 {
    (max_message_bytes + 65_536).clamp(1_000_000, 1_000_000_000)
}

/// Bytes of the largest batch that may be sent, as `max.message.bytes` of a topic counts them where they
/// cannot be compressed.
pub fn largest_batch(kafka: &Kafka, max_message_bytes: u64) -> u64 {
    let batch = kafka.properties.get("batch.size").map_or(BATCH_BYTES, String::as_str);
    batch.parse().unwrap_or(0).max(message_bytes(max_message_bytes))
}

fn configuration(kafka: &Kafka, settings: &Settings) -> ClientConfig {
    let mut config = client_config(kafka);
    let message_bytes = message_bytes(settings.max_message_bytes).to_string();
    let defaults = [
        ("compression.type", settings.compression.name()),
        ("linger.ms", "5"),
        ("batch.size", BATCH_BYTES),
        ("queue.buffering.max.messages", "1000000"),
        ("queue.buffering.max.kbytes", "65536"),
        ("message.max.bytes", &message_bytes),
        ("message.timeout.ms", "45000"),
        // How long a topic that is gone is taken for one that is about to come.
        ("topic.metadata.propagation.max.ms", "5000"),
        ("socket.timeout.ms", "20000"),
        ("socket.keepalive.enable", "true"),
        ("reconnect.backoff.max.ms", "2000"),
        // As Java's clients do, so that a key goes where they would put it.
        ("partitioner", "murmur2_random"),
    ];
    set_defaults(&mut config, kafka, &defaults);
    config
        .set("transactional.id", &settings.transactional_id)
        .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string())
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // A failed delivery fails the commit; reports of the good ones would only cost time.
        .set("delivery.report.only.error", "true");
    config
}
