//! A publisher without transactions, for generated data. It is idempotent: what the client sends again
//! after a lost answer does not stand in the topic twice. Its calls block; it lives on a thread of its own.

use super::{
    client_config,
    complaint::{self, Complaints},
    producer::ProducerError,
    set_defaults,
};
use crate::config::model::{Compression, Kafka};
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a message may wait for its broker: longer than a broker takes to come back.
const DELIVERY_LIMIT: Duration = Duration::from_secs(120);
/// A little longer, so that what ends the wait is the message's own failure.
const SEND_LIMIT: Duration = Duration::from_secs(130);
/// Calls between two looks at what came back.
const SENDS_PER_POLL: u32 = 1_024;

/// Keeps the client's latest complaint and counts what was not delivered.
struct Listener {
    complaints: Complaints,
    undelivered: Arc<AtomicU64>,
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
        if let Err((error, _)) = result {
            self.undelivered.fetch_add(1, Ordering::Relaxed);
            self.complaints.note(error, &format!("a message was not taken: {error}"));
        }
    }
}

pub struct PlainProducer {
    producer: BaseProducer<Listener>,
    complaints: Complaints,
    undelivered: Arc<AtomicU64>,
    sent_since_poll: u32,
}

impl PlainProducer {
    /// Connects in the background: whether the brokers are there shows later.
    pub fn open(kafka: &Kafka, compression: Compression) -> Result<PlainProducer, ProducerError> {
        let complaints = Complaints::default();
        let undelivered = Arc::<AtomicU64>::default();
        let listener = Listener { complaints: complaints.clone(), undelivered: undelivered.clone() };
        let producer = configuration(kafka, compression).create_with_context(listener).map_err(|error| {
            ProducerError::Unreachable { brokers: kafka.brokers.clone(), reason: error.to_string() }
        })?;
        Ok(PlainProducer { producer, complaints, undelivered, sent_since_poll: 0 })
    }

    /// Hands one message to the client, waiting for room where its queue is full. The record's time is
    /// that of the call.
    pub fn send(&mut self, topic: &str, key: &[u8], value: &[u8]) -> Result<(), ProducerError> {
        self.sent_since_poll += 1;
        if self.sent_since_poll >= SENDS_PER_POLL {
            self.poll(Duration::ZERO);
        }
        let mut record = BaseRecord::to(topic).key(key).payload(value);
        let mut full_since = None;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((ClientError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    let since = *full_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > SEND_LIMIT {
                        return Err(self.timeout("sending", SEND_LIMIT));
                    }
                    record = refused;
                    self.poll(Duration::from_millis(2));
                }
                Err((error, _)) => return Err(self.failed("sending", &error.to_string())),
            }
        }
    }

    /// Takes what the client has to tell, waiting for it at most that long.
    pub fn poll(&mut self, limit: Duration) {
        self.sent_since_poll = 0;
        self.producer.poll(limit);
    }

    /// Waits until everything sent is delivered, or known not to be.
    pub fn flush(&mut self) -> Result<(), ProducerError> {
        let started = Instant::now();
        while self.producer.in_flight_count() > 0 {
            self.poll(Duration::from_millis(10));
            if let Some((_, reason)) = self.producer.client().fatal_error() {
                return Err(self.failed("publishing", &reason));
            }
            if started.elapsed() > SEND_LIMIT {
                return Err(self.timeout("delivering", SEND_LIMIT));
            }
        }
        Ok(())
    }

    /// Messages that were sent and not delivered, so far.
    pub fn undelivered(&self) -> u64 {
        self.undelivered.load(Ordering::Relaxed)
    }

    /// Why the last of them was not, where the client has said so.
    pub fn last_complaint(&self) -> Option<String> {
        self.complaints.last().map(|complaint| complaint.text)
    }

    fn failed(&self, action: &'static str, reason: &str) -> ProducerError {
        ProducerError::Failed { action, reason: self.complaints.explain(reason) }
    }

    fn timeout(&self, action: &'static str, limit: Duration) -> ProducerError {
        match self.last_complaint() {
            Some(reason) => ProducerError::Failed { action, reason },
            None => ProducerError::Timeout { action, seconds: limit.as_secs() },
        }
    }
}

fn configuration(kafka: &Kafka, compression: Compression) -> ClientConfig {
    let mut config = client_config(kafka);
    let delivery_limit_ms = DELIVERY_LIMIT.as_millis().to_string();
    let defaults = [
        ("compression.type", compression.name()),
        ("linger.ms", "5"),
        ("batch.size", "1000000"),
        ("queue.buffering.max.messages", "1000000"),
        ("queue.buffering.max.kbytes", "65536"),
        ("message.timeout.ms", &delivery_limit_ms),
        ("socket.keepalive.enable", "true"),
        ("reconnect.backoff.max.ms", "2000"),
    ];
    set_defaults(&mut config, kafka, &defaults);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // As Java's clients do, so that topics of the same size have a key in partitions of the same number.
        .set("partitioner", "murmur2_random")
        // Reports of the good ones would only cost time.
        .set("delivery.report.only.error", "true");
    config
}
