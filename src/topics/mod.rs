//! `headwater topics`: the topics of a configuration, made where they are missing.
//!
//! It shows what there is and what it is going to do, makes what is missing, and changes nothing that
//! exists: how that differs is told, with the command that would change it.

mod plan;

pub use plan::{Difference, Harm, Origin, Wanted, differences, too_few_brokers, wanted};

use crate::{
    amount,
    config::model::{Config, Pipeline},
    kafka::{
        admin::{AdminError, create_topics},
        cluster::Cluster,
        inspect::Inspector,
        reach, tools,
    },
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, time::Duration};

/// Longest time for one answer of the brokers.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Exists,
    /// Is going to be made, or would be.
    Missing,
    Created,
    /// Missing, and for others to make.
    Undeclared,
    Failed,
}

/// A topic, what became of it, and how it differs.
#[derive(Debug, Clone, Serialize)]
pub struct Topic {
    pub pipeline: String,
    pub topic: String,
    /// What it is for.
    pub purpose: String,
    pub state: State,
    /// As it is; as it will be where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<i32>,
    /// As the configuration asks for them.
    pub settings: BTreeMap<String, String>,
    pub differences: Vec<Difference>,
    /// What stands in the way, and what would cure it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// All topics of all pipelines.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Report {
    pub topics: Vec<Topic>,
}

impl Report {
    /// Whether there is anything to make.
    pub fn has_missing(&self) -> bool {
        self.topics.iter().any(|topic| topic.state == State::Missing)
    }

    /// Whether every topic is there, or would be after the same without `--dry-run`.
    pub fn is_good(&self) -> bool {
        self.topics.iter().all(|topic| matches!(topic.state, State::Exists | State::Missing | State::Created))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.topics.iter().map(|topic| topic.topic.len()).max().unwrap_or(0);
        for (index, topic) in self.topics.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let state = match topic.state {
                State::Exists => "exists",
                State::Missing => "missing",
                State::Created => "created",
                State::Undeclared => "missing, not ours to make",
                State::Failed => "failed",
            };
            write!(f, "{state:<8} {:<width$}", topic.topic)?;
            if let (Some(partitions), Some(replication)) = (topic.partitions, topic.replication) {
                let partitions = amount::counted(usize::try_from(partitions).unwrap_or(0), "partition");
                write!(f, "  {partitions}, replication {replication}")?;
            }
            for (key, value) in &topic.settings {
                write!(f, ", {key}={value}")?;
            }
            write!(f, "  ({})", topic.purpose)?;
            if let Some(trouble) = &topic.trouble {
                write!(f, "\n         {trouble}")?;
            }
            for difference in &topic.differences {
                let label = if difference.harm == Harm::None { "differs" } else { "warning" };
                write!(f, "\n         {label}: {}; left as it is", difference.words())?;
                if !difference.cure.is_empty() {
                    write!(f, "\n         cure: {}", difference.cure)?;
                }
            }
            if let Some(cure) = &topic.cure {
                write!(f, "\n         cure: {cure}")?;
            }
        }
        Ok(())
    }
}

/// Looks at the topics of every pipeline, waiting for brokers that are away as the stages do.
pub async fn look(config: &Config) -> Result<Report, AdminError> {
    let mut topics = Vec::new();
    for pipeline in &config.pipelines {
        let cluster = wait_for_cluster(pipeline, config.runtime.wait_attempts, config.runtime.wait_delay_ms).await?;
        topics.extend(look_at(pipeline, &cluster).await?);
    }
    Ok(Report { topics })
}

/// Makes what `report` found missing.
pub async fn create(config: &Config, report: &mut Report) -> Result<(), AdminError> {
    for pipeline in &config.pipelines {
        let wanted = wanted(pipeline);
        let is_missing = |name: &str| {
            let same = |topic: &&Topic| topic.pipeline == pipeline.name && topic.topic == name;
            report.topics.iter().find(same).is_some_and(|topic| topic.state == State::Missing)
        };
        let specs: Vec<_> =
            wanted.iter().filter(|topic| is_missing(&topic.name)).filter_map(|topic| topic.spec.as_ref()).collect();
        for (name, result) in create_topics(&pipeline.kafka, &specs).await? {
            let same = |topic: &&mut Topic| topic.pipeline == pipeline.name && topic.topic == name;
            let Some(topic) = report.topics.iter_mut().find(same) else { continue };
            match result {
                Ok(true) => topic.state = State::Created,
                Ok(false) => topic.state = State::Exists,
                Err(error) => {
                    topic.state = State::Failed;
                    topic.cure = error.cure(&pipeline.kafka).or(topic.cure.take());
                    topic.trouble = Some(error.to_string());
                }
            }
        }
    }
    Ok(())
}

async fn wait_for_cluster(pipeline: &Pipeline, attempts: u32, delay_ms: u64) -> Result<Cluster, AdminError> {
    let mut attempt = 1;
    loop {
        match cluster(pipeline, LIMIT).await {
            Err(error) if error.is_unavailable() && attempt < attempts => {
                if attempt == 1 {
                    tracing::info!(pipeline = %pipeline.name, "waiting for Kafka: {error}");
                }
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            }
            result => return result,
        }
    }
}

/// The cluster of a pipeline, asked for at most `limit`.
pub async fn cluster(pipeline: &Pipeline, limit: Duration) -> Result<Cluster, AdminError> {
    let kafka = pipeline.kafka.clone();
    let asked = tokio::task::spawn_blocking(move || reach::cluster(&kafka, limit)).await;
    asked.unwrap_or_else(|error| {
        let brokers = pipeline.kafka.brokers.clone();
        Err(AdminError::Unreachable { brokers, reason: error.to_string() })
    })
}

async fn look_at(pipeline: &Pipeline, cluster: &Cluster) -> Result<Vec<Topic>, AdminError> {
    let wanted = wanted(pipeline);
    let present: Vec<String> =
        wanted.iter().map(|topic| topic.name.clone()).filter(|name| cluster.topics.contains_key(name)).collect();
    let settings = Inspector::new(&pipeline.kafka, LIMIT)?.topic_settings(&present).await;
    let settings: BTreeMap<_, _> = present.into_iter().zip(settings).collect();
    let looked = wanted.into_iter().map(|wanted| {
        let mut topic = Topic {
            pipeline: pipeline.name.clone(),
            purpose: wanted.origin.words(),
            state: State::Exists,
            partitions: wanted.spec.as_ref().map(|spec| spec.partitions),
            replication: wanted.spec.as_ref().map(|spec| spec.replication),
            settings: wanted.spec.iter().flat_map(|spec| spec.settings.clone()).collect(),
            differences: Vec::new(),
            trouble: None,
            cure: None,
            topic: wanted.name,
        };
        let Some(partitions) = cluster.topics.get(&topic.topic) else {
            match &wanted.spec {
                Some(spec) => {
                    topic.state = State::Missing;
                    if let Some((trouble, cure)) = too_few_brokers(&wanted.origin, spec, cluster) {
                        topic.trouble = Some(trouble);
                        topic.cure = cure;
                    }
                }
                None => {
                    topic.state = State::Undeclared;
                    topic.trouble = Some("no capture and no job of this file declares its partitions".to_owned());
                    topic.cure = Some(tools::create_undeclared(&pipeline.kafka, &topic.topic));
                }
            }
            return topic;
        };
        topic.partitions = i32::try_from(partitions.len()).ok();
        topic.replication = partitions.iter().filter_map(|one| i32::try_from(one.replicas.len()).ok()).min();
        let found = settings.get(&topic.topic);
        if let Some(spec) = &wanted.spec {
            let settings = found.and_then(|found| found.as_ref().ok());
            topic.differences = differences(&pipeline.kafka, &wanted.origin, spec, partitions, settings, cluster);
            if let Some(Err(refusal)) = found {
                topic.trouble = Some(format!("its settings are not compared: {refusal}"));
            }
        }
        topic
    });
    Ok(looked.collect())
}
