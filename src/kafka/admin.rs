//! Topics: which exist, making those that are missing, deleting those that served their purpose.

use super::{
    client_config, reach,
    rights::{Operation, Resource},
    tools,
};
use crate::config::model::Kafka;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    error::{KafkaError as ClientError, RDKafkaErrorCode},
};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    #[error("Kafka at {brokers} cannot be reached: {reason}; check kafka.brokers and kafka.security_protocol")]
    Unreachable { brokers: String, reason: String },
    #[error(
        "Kafka at {brokers} tells its clients to come to {address}, which cannot be reached from here: {reason}; set advertised.listeners of that broker to an address that this machine reaches"
    )]
    Elsewhere { brokers: String, address: String, reason: String },
    #[error(
        "Kafka at {brokers} refused the login: {reason}; check kafka.sasl_mechanism, kafka.sasl_username and kafka.sasl_password"
    )]
    Credentials { brokers: String, reason: String },
    #[error("TLS to Kafka at {brokers} failed: {reason}; check kafka.ssl_ca_file and the host names in kafka.brokers")]
    Tls { brokers: String, reason: String },
    #[error("the Kafka client refuses its settings: {source}; check the files of kafka.ssl_* and kafka.properties")]
    Settings { source: ClientError },
    #[error(
        "topic {topic} does not exist, and kafka.create_topics is false: create it (`headwater topics`) or allow that"
    )]
    MissingTopic { topic: String },
    #[error("topic {topic} cannot be created: {code}")]
    Create { topic: String, code: RDKafkaErrorCode },
    #[error("topic {topic} cannot be deleted: {code}")]
    Delete { topic: String, code: RDKafkaErrorCode },
    #[error("Kafka: {0}")]
    Client(#[from] ClientError),
}

impl AdminError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, AdminError::Unreachable { .. } | AdminError::Elsewhere { .. } | AdminError::Client(_))
    }

    /// Whether our user may not make a topic.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, AdminError::Create { code: RDKafkaErrorCode::TopicAuthorizationFailed, .. })
    }

    /// The key to set, or the command to run.
    pub fn cure(&self, kafka: &Kafka) -> Option<String> {
        let keys = match self {
            AdminError::Unreachable { .. } => "kafka.brokers, kafka.security_protocol",
            AdminError::Elsewhere { .. } => {
                "advertised.listeners in the broker's server.properties: an address that this machine reaches"
            }
            AdminError::Credentials { .. } => "kafka.sasl_mechanism, kafka.sasl_username, kafka.sasl_password",
            AdminError::Tls { .. } => "kafka.ssl_ca_file, kafka.brokers",
            AdminError::Settings { .. } => {
                "kafka.ssl_ca_file, kafka.ssl_certificate_file, kafka.ssl_key_file, kafka.properties"
            }
            AdminError::MissingTopic { .. } => "kafka.create_topics: true",
            AdminError::Create { topic, code: RDKafkaErrorCode::TopicAuthorizationFailed } => {
                return Some(tools::allow(kafka, &Resource::Topic(topic.clone()), &[Operation::Create]));
            }
            AdminError::Create { .. } | AdminError::Delete { .. } | AdminError::Client(_) => return None,
        };
        Some(keys.to_owned())
    }
}

/// A topic as it should be where it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    pub replication: i32,
    /// Topic-level settings, such as `retention.ms` or `cleanup.policy`.
    pub settings: Vec<(String, String)>,
}

/// Creates those of `topics` that are missing, where that is allowed. An existing topic is left as it is.
/// Waits at most about 30 s. Gives the names that were created.
pub async fn ensure_topics(kafka: &Kafka, topics: &[TopicSpec]) -> Result<Vec<String>, AdminError> {
    let existing = {
        let kafka = kafka.clone();
        tokio::task::spawn_blocking(move || reach::topic_names(&kafka, Duration::from_secs(10)))
            .await
            .map_err(|_| ClientError::Canceled)?
    }?;
    let missing: Vec<&TopicSpec> = topics.iter().filter(|topic| !existing.contains(&topic.name)).collect();
    if let (false, Some(topic)) = (kafka.create_topics, missing.first()) {
        return Err(AdminError::MissingTopic { topic: topic.name.clone() });
    }
    let mut created = Vec::new();
    for (topic, result) in create_topics(kafka, &missing).await? {
        if result? {
            created.push(topic);
        }
    }
    Ok(created)
}

/// Creates each of `topics`: true where it was missing until now. Waits at most about 30 s.
pub async fn create_topics(
    kafka: &Kafka,
    topics: &[&TopicSpec],
) -> Result<Vec<(String, Result<bool, AdminError>)>, AdminError> {
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let admin = client(kafka)?;
    let specs: Vec<NewTopic> = topics
        .iter()
        .map(|topic| NewTopic {
            name: &topic.name,
            num_partitions: topic.partitions,
            replication: TopicReplication::Fixed(topic.replication),
            config: topic.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        })
        .collect();
    let results = admin.create_topics(&specs, &options()).await?.into_iter().map(|result| match result {
        Ok(topic) => (topic, Ok(true)),
        // Another process was quicker: the topic is there, which is all that was asked.
        Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => (topic, Ok(false)),
        Err((topic, code)) => (topic.clone(), Err(AdminError::Create { topic, code })),
    });
    Ok(results.collect())
}

/// Deletes topics with all they hold. One that is not there is as good as deleted.
pub async fn delete_topics(kafka: &Kafka, names: &[&str]) -> Result<(), AdminError> {
    for result in client(kafka)?.delete_topics(names, &options()).await? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((topic, code)) => return Err(AdminError::Delete { topic, code }),
        }
    }
    Ok(())
}

/// A topic's own or inherited setting; none where the user may not see it.
pub async fn topic_setting(kafka: &Kafka, topic: &str, name: &str) -> Result<Option<String>, AdminError> {
    let found = client(kafka)?.describe_configs(&[ResourceSpecifier::Topic(topic)], &options()).await?;
    let entries = found.into_iter().flatten().flat_map(|resource| resource.entries);
    Ok(entries.into_iter().find(|entry| entry.name == name).and_then(|entry| entry.value))
}

fn client(kafka: &Kafka) -> Result<AdminClient<DefaultClientContext>, AdminError> {
    client_config(kafka).create().map_err(|source| AdminError::Settings { source })
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(20))).request_timeout(Some(Duration::from_secs(30)))
}
