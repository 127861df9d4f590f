//! What the brokers say of a topic: its id and how many partitions it has.
//!
//! The id tells a topic from another one made later under the same name. The Rust client has no
//! call for it, so this file speaks to librdkafka directly.

use super::{admin::AdminError, client_config, reach};
use crate::config::model::Kafka;
use rdkafka::{
    admin::AdminClient,
    bindings as native,
    client::{Client, ClientContext, DefaultClientContext},
    error::KafkaError as ClientError,
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};
use std::{ffi::CString, fmt, time::Duration};

/// Kafka's UUID of a topic. Printed as Kafka's own tools print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicId(pub u128);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine;
        f.write_str(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.0.to_be_bytes()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicDescription {
    pub id: TopicId,
    pub partitions: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("topic {topic} does not exist yet")]
    Missing { topic: String },
    #[error("the user may not describe topic {topic}: grant it DESCRIBE and READ on the topic")]
    Forbidden { topic: String },
    #[error("Kafka did not describe topic {topic}: {reason}; check kafka.brokers")]
    Client { topic: String, reason: String },
    #[error(transparent)]
    Reach(#[from] AdminError),
    #[error("the Kafka client cannot be made: {source}; check the kafka section")]
    Settings { source: ClientError },
    #[error("topic name {topic:?} holds a zero byte")]
    Name { topic: String },
}

impl TopicError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        match self {
            TopicError::Missing { .. } | TopicError::Client { .. } => true,
            TopicError::Reach(error) => error.is_unavailable(),
            TopicError::Forbidden { .. } | TopicError::Settings { .. } | TopicError::Name { .. } => false,
        }
    }

    fn from_code(topic: &str, code: RDKafkaRespErr) -> Self {
        let topic = topic.to_owned();
        match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID => TopicError::Missing { topic },
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => TopicError::Forbidden { topic },
            code => TopicError::Client { topic, reason: RDKafkaErrorCode::from(code).to_string() },
        }
    }
}

/// Asks the cluster about `topic` with clients made for that. Blocks some seconds at most.
pub fn find(kafka: &Kafka, topic: &str) -> Result<TopicDescription, TopicError> {
    // Tells the cause where it does not get through, which the client below cannot.
    reach::topic_names(kafka, Duration::from_secs(10))?;
    let mut config = client_config(kafka);
    // Waiting is the caller's, who says for what.
    config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
    let made: Result<AdminClient<DefaultClientContext>, _> = config.create();
    let client = made.map_err(|source| TopicError::Settings { source })?;
    describe(client.inner(), topic, Duration::from_secs(5))
}

/// Asks the cluster about `topic`. Blocks at most `timeout`.
pub fn describe<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<TopicDescription, TopicError> {
    let name = CString::new(topic).map_err(|_| TopicError::Name { topic: topic.to_owned() })?;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: every object made here is destroyed here, in the reverse order, and nothing read from
    // the event outlives it. The client outlives the call.
    unsafe {
        let rk = client.native_ptr();
        let queue = native::rd_kafka_queue_new(rk);
        let mut names = [name.as_ptr()];
        let topics = native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options =
            native::rd_kafka_AdminOptions_new(rk, native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let mut text = [0; 256];
        native::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, text.as_mut_ptr(), text.len());
        native::rd_kafka_DescribeTopics(rk, topics, options, queue);
        // The request has its own deadline; a little more, so that its error arrives rather than ours.
        let event = native::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1_000));
        let result = if event.is_null() { Err(RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT) } else { read(event) };
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_AdminOptions_destroy(options);
        native::rd_kafka_TopicCollection_destroy(topics);
        native::rd_kafka_queue_destroy(queue);
        result.map_err(|code| TopicError::from_code(topic, code))
    }
}

/// # Safety
/// `event` is a live event that answers a DescribeTopics request for one topic.
unsafe fn read(event: *mut native::rd_kafka_event_t) -> Result<TopicDescription, RDKafkaRespErr> {
    const OK: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    const BAD: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG;
    // SAFETY: the event is live, and all that is read belongs to it.
    unsafe {
        match native::rd_kafka_event_error(event) {
            OK => {}
            code => return Err(code),
        }
        let result = native::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(BAD);
        }
        let mut count = 0;
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count != 1 {
            return Err(BAD);
        }
        let topic = *topics;
        let error = native::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            match native::rd_kafka_error_code(error) {
                OK => {}
                code => return Err(code),
            }
        }
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        let mut partitions = 0;
        native::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
        let high = native::rd_kafka_Uuid_most_significant_bits(id) as u64;
        let low = native::rd_kafka_Uuid_least_significant_bits(id) as u64;
        Ok(TopicDescription {
            id: TopicId(u128::from(high) << 64 | u128::from(low)),
            partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
        })
    }
}
