//! What the brokers say of a topic: its id and how many partitions it has.
//!
//! The id tells a topic from another one made later under the same name. The Rust client has no
//! call for it, so this file speaks to librdkafka directly.

use super::{
    admin::AdminError,
    client_config, reach,
    request::{self, Answer},
    rights::{self, Operation},
};
use crate::config::model::Kafka;
use rdkafka::{
    admin::AdminClient,
    bindings as native,
    client::{Client, ClientContext, DefaultClientContext},
    error::KafkaError as ClientError,
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    fmt,
    time::Duration,
};

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

/// A topic, and what our user may do with it where that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFacts {
    pub description: TopicDescription,
    pub rights: Vec<Operation>,
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
    Ok(look(kafka, topic, false)?.description)
}

/// The same with what our user may do.
pub fn facts(kafka: &Kafka, topic: &str) -> Result<TopicFacts, TopicError> {
    look(kafka, topic, true)
}

fn look(kafka: &Kafka, topic: &str, rights: bool) -> Result<TopicFacts, TopicError> {
    // Tells the cause where it does not get through, which the client below cannot.
    reach::topic_names(kafka, Duration::from_secs(10))?;
    let client = quiet_client(kafka)?;
    describe_one(client.inner(), topic, rights, Duration::from_secs(5))
}

/// A client that logs nothing: waiting is the caller's, who says for what.
fn quiet_client(kafka: &Kafka) -> Result<AdminClient<DefaultClientContext>, TopicError> {
    let mut config = client_config(kafka);
    config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
    config.create().map_err(|source| TopicError::Settings { source })
}

/// The ids of those of `topics` that are there. Blocks some seconds at most.
pub fn ids(kafka: &Kafka, topics: &[&str]) -> Result<HashMap<String, String>, TopicError> {
    let client = quiet_client(kafka)?;
    let described = describe_all(client.inner(), topics, false, Duration::from_secs(10))?;
    let id = |(name, found): (&&str, Result<TopicFacts, TopicError>)| {
        Some(((*name).to_owned(), found.ok()?.description.id.to_string()))
    };
    Ok(topics.iter().zip(described).filter_map(id).collect())
}

/// Asks the cluster about `topic`. Blocks at most `timeout`.
pub fn describe<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<TopicDescription, TopicError> {
    Ok(describe_one(client, topic, false, timeout)?.description)
}

fn describe_one<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    rights: bool,
    timeout: Duration,
) -> Result<TopicFacts, TopicError> {
    let described = describe_all(client, &[topic], rights, timeout)?.pop();
    described.unwrap_or_else(|| Err(TopicError::from_code(topic, BAD)))
}

/// Asks the cluster about `topics`; the answers are in their order, with what this client's user may do
/// where `rights` asks for it. Blocks at most `timeout`.
pub fn describe_all<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    rights: bool,
    timeout: Duration,
) -> Result<Vec<Result<TopicFacts, TopicError>>, TopicError> {
    let Some(first) = topics.first() else { return Ok(Vec::new()) };
    let c_name = |topic: &&str| CString::new(*topic).map_err(|_| TopicError::Name { topic: (*topic).to_owned() });
    let names = topics.iter().map(c_name).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: the collection copies the names and is copied by the request.
    let answer = request::ask(client, operation, rights, timeout, |request| unsafe {
        let collection = native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        native::rd_kafka_DescribeTopics(request.client, collection, request.options, request.queue);
        native::rd_kafka_TopicCollection_destroy(collection);
    });
    let answer = answer.map_err(|code| TopicError::from_code(first, code))?;
    // SAFETY: the event is live and answers that request.
    let read = unsafe { read(&answer) }.map_err(|code| TopicError::from_code(first, code))?;
    let find = |topic: &&str| {
        let found = read.iter().find(|(name, _)| name == topic);
        found.map_or(Err(BAD), |(_, found)| found.clone()).map_err(|code| TopicError::from_code(topic, code))
    };
    Ok(topics.iter().map(find).collect())
}

const BAD: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG;

type Described = Result<TopicFacts, RDKafkaRespErr>;

/// # Safety
/// `answer` is that of a DescribeTopics request.
unsafe fn read(answer: &Answer) -> Result<Vec<(String, Described)>, RDKafkaRespErr> {
    // SAFETY: the event is live, and all that is read belongs to it.
    unsafe {
        let result = native::rd_kafka_event_DescribeTopics_result(answer.event());
        if result.is_null() {
            return Err(BAD);
        }
        let mut count = 0;
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let topics = (0..count).map(|index| *topics.add(index));
        let read = topics.map(|topic| {
            let name = CStr::from_ptr(native::rd_kafka_TopicDescription_name(topic));
            let described = request::check(native::rd_kafka_TopicDescription_error(topic)).map(|()| {
                let id = native::rd_kafka_TopicDescription_topic_id(topic);
                let mut partitions = 0;
                native::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
                let high = native::rd_kafka_Uuid_most_significant_bits(id) as u64;
                let low = native::rd_kafka_Uuid_least_significant_bits(id) as u64;
                let mut rights = 0;
                let operations = native::rd_kafka_TopicDescription_authorized_operations(topic, &mut rights);
                let description = TopicDescription {
                    id: TopicId(u128::from(high) << 64 | u128::from(low)),
                    partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
                };
                TopicFacts { description, rights: rights::operations(operations, rights) }
            });
            (name.to_string_lossy().into_owned(), described)
        });
        Ok(read.collect())
    }
}
