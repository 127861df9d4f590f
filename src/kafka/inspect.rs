//! What `doctor` and `topics` ask the cluster. Only questions: nothing here changes anything, joins a
//! group, or takes over a transactional id.

use super::{
    admin::AdminError,
    client_config,
    rights::{self, Operation, Refusal, Resource, Rule},
    topic::{self, TopicError, TopicFacts},
};
use crate::config::model::Kafka;
use rdkafka::{
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::{Client, DefaultClientContext},
    config::RDKafkaLogLevel,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Settings of a topic or a broker, defaults included, as the broker sees them.
pub type Settings = BTreeMap<String, String>;

/// A client for questions. Cheap to clone.
#[derive(Clone)]
pub struct Inspector {
    admin: Arc<AdminClient<DefaultClientContext>>,
    /// Longest time for an answer.
    limit: Duration,
}

impl Inspector {
    /// Does not wait for the brokers.
    pub fn new(kafka: &Kafka, limit: Duration) -> Result<Inspector, AdminError> {
        let mut config = client_config(kafka);
        // What goes wrong is told by the answers.
        config.set_log_level(RDKafkaLogLevel::Emerg);
        let admin = config.create().map_err(|source| AdminError::Settings { source })?;
        Ok(Inspector { admin: Arc::new(admin), limit })
    }

    /// Runs a question that blocks.
    async fn ask<T: Send + 'static, E: From<Refusal> + Send + 'static>(
        &self,
        question: impl FnOnce(&Client<DefaultClientContext>, Duration) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (admin, limit) = (self.admin.clone(), self.limit);
        let asked = tokio::task::spawn_blocking(move || question(admin.inner(), limit)).await;
        asked.unwrap_or_else(|error| Err(Refusal::Failed(error.to_string()).into()))
    }

    /// Each topic, in the order given, with what our user may do with it.
    pub async fn topics(&self, names: Vec<String>) -> Result<Vec<Result<TopicFacts, TopicError>>, Refusal> {
        self.ask(move |client, limit| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            topic::describe_all(client, &names, true, limit).map_err(|error| Refusal::Failed(error.to_string()))
        })
        .await
    }

    /// First offset of a partition, and where its next record will stand.
    pub async fn extent(&self, topic: String, partition: i32) -> Result<(i64, i64), Refusal> {
        self.ask(move |client, limit| {
            let asked = client.fetch_watermarks(&topic, partition, limit);
            asked.map_err(|error| match error.rdkafka_error_code() {
                Some(code) => Refusal::of(code),
                None => Refusal::Failed(error.to_string()),
            })
        })
        .await
    }

    /// What our user may do with a consumer group, which need not exist.
    pub async fn group_rights(&self, group: String) -> Result<Vec<Operation>, Refusal> {
        self.ask(move |client, limit| rights::of_group(client, &group, limit)).await
    }

    /// What our user may do with the cluster as a whole.
    pub async fn cluster_rights(&self) -> Result<Vec<Operation>, Refusal> {
        self.ask(rights::of_cluster).await
    }

    /// The rules that speak of a resource; none, too, where the brokers keep no rules.
    pub async fn rules(&self, resource: Resource) -> Result<Vec<Rule>, Refusal> {
        self.ask(move |client, limit| match rights::of_cluster(client, limit)?.contains(&Operation::Describe) {
            true => rights::rules(client, &resource, limit),
            false => Err(Refusal::Forbidden),
        })
        .await
    }

    /// The settings of each topic, in the order given.
    pub async fn topic_settings(&self, names: &[String]) -> Vec<Result<Settings, Refusal>> {
        let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        self.settings(&resources).await
    }

    pub async fn broker_settings(&self, id: i32) -> Result<Settings, Refusal> {
        let none = || Err(Refusal::Failed("no answer".to_owned()));
        self.settings(&[ResourceSpecifier::Broker(id)]).await.pop().unwrap_or_else(none)
    }

    async fn settings(&self, resources: &[ResourceSpecifier<'_>]) -> Vec<Result<Settings, Refusal>> {
        if resources.is_empty() {
            return Vec::new();
        }
        let options = AdminOptions::new().request_timeout(Some(self.limit));
        let answers = match self.admin.describe_configs(resources, &options).await {
            Ok(answers) => answers,
            Err(error) => {
                let code = error.rdkafka_error_code();
                let refusal = code.map_or_else(|| Refusal::Failed(error.to_string()), Refusal::of);
                return resources.iter().map(|_| Err(refusal.clone())).collect();
            }
        };
        let read = answers.into_iter().map(|answer| match answer {
            Ok(found) => {
                let entries = found.entries.into_iter();
                Ok(entries.filter_map(|entry| Some((entry.name, entry.value?))).collect())
            }
            Err(code) => Err(Refusal::of(code)),
        });
        read.collect()
    }
}
