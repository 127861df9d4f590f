//! What a turn needs before its first poll: topics, the server, the producer, the checkpoints.

use super::{
    Engine,
    errors::{Fault, SessionError},
    publish::Publisher,
    search::Searcher,
    session::Session,
    silence::Pulse,
    sink::Sink,
};
use crate::{
    config::model::{Capture, Kafka},
    health::State,
    kafka::{
        admin::{TopicSpec, ensure_topics},
        producer::ProducerError,
        replay,
        topic::{self, TopicError},
    },
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// The connections of a turn.
pub struct Turn {
    pub session: Session,
    pub sink: Sink,
    pub searcher: Searcher,
    /// The latest records of this pipeline, by their keys.
    pub checkpoints: HashMap<String, Vec<u8>>,
    /// Kafka's ids of the tables' topics, as far as they are known.
    pub topic_ids: HashMap<String, String>,
    /// They are asked for again now and then.
    pub topics_asked: Option<AskedTopics>,
    pub topics_asked_at: Instant,
}

pub type AskedTopics = JoinHandle<Result<HashMap<String, String>, TopicError>>;

/// Asks Kafka for the ids of the tables' topics.
pub fn topic_ids(kafka: &Kafka, capture: &Capture) -> AskedTopics {
    let (kafka, names) = (kafka.clone(), capture.tables.iter().map(|table| table.topic.clone()).collect::<Vec<_>>());
    tokio::task::spawn_blocking(move || {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        topic::ids(&kafka, &names)
    })
}

impl Engine {
    /// The server comes first: while it is away the producer need not be disturbed.
    pub async fn start(&mut self) -> Result<Turn, Fault> {
        let config = self.pipeline.postgres.clone().ok_or(SessionError::NotConfigured)?;
        if !self.has_started {
            let reason = format!("waiting for PostgreSQL at {}:{}", config.host, config.port);
            self.tables.iter().for_each(|table| table.unit.set(State::Waiting(reason.clone())));
        }
        let pulse = Pulse::default();
        let opening = Session::open(&config, &self.capture, pulse.clone());
        // Three connections and a few questions that take no time.
        let limit = Duration::from_millis(config.connect_timeout_ms * 3) + Duration::from_secs(10);
        let silent = |_| SessionError::Silent { seconds: limit.as_secs() };
        let session = tokio::time::timeout(limit, opening).await.map_err(silent)??;
        let kafka = self.pipeline.kafka.clone();
        if !self.has_started {
            let reason = format!("waiting for Kafka at {}", kafka.brokers);
            self.tables.iter().for_each(|table| table.unit.set(State::Waiting(reason.clone())));
            ensure_topics(&kafka, &topics(&self.capture)).await?;
        }
        let asked = topic_ids(&kafka, &self.capture);
        let publisher = Publisher::start(&kafka, &self.capture, pulse).await?;
        let topic = self.capture.checkpoint_topic.clone();
        let prefix = format!("{}/", self.pipeline.name);
        let checkpoints = blocking(move || {
            replay::latest_values(&kafka, &topic, replay::Open::Settle, |key| key.starts_with(&prefix))
        })
        .await;
        let checkpoints = match checkpoints {
            Ok(checkpoints) => checkpoints,
            Err(error) => {
                publisher.stop().await;
                return Err(error.into());
            }
        };
        // Where that is not known, it is asked again later.
        let topic_ids = asked.await.ok().and_then(Result::ok).unwrap_or_default();
        let sink = Sink::new(publisher, &self.capture, session.side.clone());
        if !self.has_started {
            self.tables.iter().for_each(|table| table.unit.set(State::Starting));
        }
        self.has_started = true;
        Ok(Turn {
            session,
            sink,
            searcher: Searcher::default(),
            checkpoints,
            topic_ids,
            topics_asked: None,
            topics_asked_at: Instant::now(),
        })
    }
}

/// Key of a table's record: another topic is another beginning.
pub fn checkpoint_key(pipeline: &str, table: &str, topic: &str) -> String {
    format!("{pipeline}/{table}/{topic}")
}

/// Whether a record of the checkpoint topic is a table's checkpoint, rather than what stands beside one.
pub fn is_checkpoint(key: &str) -> bool {
    !key.ends_with(super::witness::SUFFIX) && !key.contains('#')
}

/// The topics of a capture as they are made where they are missing: checkpoints, dead letters, and one for
/// each table or several.
pub fn topics(capture: &Capture) -> Vec<TopicSpec> {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut topics = vec![
        TopicSpec {
            name: capture.checkpoint_topic.clone(),
            partitions: 1,
            replication: capture.checkpoint_replication,
            settings: vec![
                setting("cleanup.policy", "compact"),
                // Small, so that a start reads little.
                setting("segment.bytes", "8388608"),
                setting("min.cleanable.dirty.ratio", "0.1"),
                setting("max.message.bytes", "4194304"),
            ],
        },
        TopicSpec {
            name: capture.dead_letter_topic.clone(),
            partitions: 1,
            replication: capture.checkpoint_replication,
            settings: Vec::new(),
        },
    ];
    for table in &capture.tables {
        if topics.iter().all(|topic| topic.name != table.topic) {
            topics.push(TopicSpec {
                name: table.topic.clone(),
                partitions: table.partitions,
                replication: table.replication,
                settings: vec![setting("retention.ms", &table.retention_ms.to_string())],
            });
        }
    }
    topics
}

/// Runs a blocking call of the Kafka client on a thread where it may.
pub async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, ProducerError> + Send + 'static,
) -> Result<T, ProducerError> {
    tokio::task::spawn_blocking(call).await.unwrap_or(Err(ProducerError::Gone))
}
