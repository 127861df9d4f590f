//! The rights that a replay needs on a Kafka with rules (ACLs): looked at before a message is sent, so that a
//! missing one is told by its name, with the line that gives it.

use super::DlqError;
use crate::{
    config::model::{Kafka, Pipeline},
    kafka::{
        admin::AdminError,
        producer::ProducerError,
        rights::Operation::{self, Create, Describe, Read, Write},
        rights::Resource,
        tools,
        topic::{self, TopicDescription, TopicError},
    },
};

/// Of the topic of what was replayed.
pub const OF_REPLAYS: &[Operation] = &[Describe, Read, Write];
/// Of a topic that is sent to.
pub const OF_TARGETS: &[Operation] = &[Describe, Write];
const OF_TRANSACTIONS: &[Operation] = &[Describe, Write];

fn lacking(kafka: &Kafka, resource: Resource, operations: &[Operation]) -> DlqError {
    let names: Vec<&str> = operations.iter().map(|operation| operation.name()).collect();
    DlqError::Lacking {
        operations: names.join(", "),
        resource: match &resource {
            Resource::Topic(name) => format!("topic {name}"),
            Resource::TransactionalId(name) => format!("transactional id {name}"),
            Resource::Group(name) => format!("group {name}"),
            Resource::Cluster => "the cluster".to_owned(),
        },
        cure: tools::allow(kafka, &resource, operations),
    }
}

/// A topic with which our user may do what is `needed`. Blocks.
pub fn topic(kafka: &Kafka, name: &str, needed: &[Operation]) -> Result<TopicDescription, DlqError> {
    let resource = || Resource::Topic(name.to_owned());
    let facts = match topic::facts(kafka, name) {
        Err(TopicError::Forbidden { .. }) => return Err(lacking(kafka, resource(), needed)),
        facts => facts?,
    };
    let lacks: Vec<Operation> = needed.iter().copied().filter(|right| !facts.rights.contains(right)).collect();
    if lacks.is_empty() { Ok(facts.description) } else { Err(lacking(kafka, resource(), &lacks)) }
}

/// Why the topic of what was replayed could not be made; one that our user may not see looks like a missing one.
pub fn of_making(pipeline: &Pipeline, error: AdminError) -> DlqError {
    match error.is_forbidden() {
        true => {
            let resource = Resource::Topic(pipeline.dlq.replay_topic.clone());
            lacking(&pipeline.kafka, resource, &[&[Create], OF_REPLAYS].concat())
        }
        false => error.into(),
    }
}

/// Why the transactional id could not be taken over, where that is a matter of rights.
pub fn of_opening(pipeline: &Pipeline, error: &ProducerError) -> Option<DlqError> {
    let resource = || Resource::TransactionalId(pipeline.dlq.transactional_id.clone());
    matches!(error, ProducerError::Forbidden { .. }).then(|| lacking(&pipeline.kafka, resource(), OF_TRANSACTIONS))
}
