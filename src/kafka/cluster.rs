//! The cluster as a broker describes it: its brokers, and who holds which partition.

use rdkafka::metadata::Metadata;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    pub brokers: Vec<Broker>,
    /// Those that our user may know of.
    pub topics: BTreeMap<String, Vec<Partition>>,
}

/// A broker at the address that it tells its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub id: i32,
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub id: i32,
    /// Whether anybody takes what is written to it.
    pub has_leader: bool,
    /// Ids of the brokers that should have it.
    pub replicas: Vec<i32>,
    /// How many of them have all of it.
    pub in_sync: usize,
}

impl Cluster {
    pub(super) fn of(metadata: &Metadata) -> Cluster {
        let brokers = metadata.brokers().iter().map(|broker| Broker {
            id: broker.id(),
            host: broker.host().to_owned(),
            port: u16::try_from(broker.port()).unwrap_or(0),
        });
        let topics = metadata.topics().iter().map(|topic| {
            let mut partitions: Vec<Partition> = topic
                .partitions()
                .iter()
                .map(|partition| Partition {
                    id: partition.id(),
                    has_leader: partition.leader() >= 0,
                    replicas: partition.replicas().to_vec(),
                    in_sync: partition.isr().len(),
                })
                .collect();
            partitions.sort_by_key(|partition| partition.id);
            (topic.name().to_owned(), partitions)
        });
        let mut brokers: Vec<Broker> = brokers.collect();
        brokers.sort_by_key(|broker| broker.id);
        Cluster { brokers, topics: topics.collect() }
    }
}
