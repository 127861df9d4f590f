//! Which topics a pipeline uses, and how one that exists differs from what the configuration says of it.

use crate::{
    amount, analyze, capture,
    config::model::{Kafka, Pipeline},
    kafka::{
        admin::TopicSpec,
        cluster::{Cluster, Partition},
        inspect::Settings,
        tools,
    },
};
use serde::Serialize;

/// Who asks for a topic, and so which keys of the configuration describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Captured {
        table: String,
    },
    Checkpoints,
    DeadLetters,
    Input {
        job: String,
        input: String,
    },
    /// Landed from, and written by somebody else: it is theirs to make.
    Landed,
}

impl Origin {
    /// The key that holds `name`, where there is one, with what tells it from others of its kind.
    pub fn key(&self, name: &str) -> Option<(String, String)> {
        match self {
            Origin::Captured { table } => Some((format!("capture.tables[].{name}"), format!("of table {table}"))),
            Origin::Input { job, input } => {
                Some((format!("analyze.jobs[].inputs[].{name}"), format!("of input {input} of job {job}")))
            }
            Origin::Checkpoints | Origin::DeadLetters if name == "replication" => {
                Some(("capture.checkpoint_replication".to_owned(), "of checkpoints and dead letters".to_owned()))
            }
            Origin::Checkpoints | Origin::DeadLetters | Origin::Landed => None,
        }
    }

    /// The key with its value, as it is to be written.
    fn line(&self, name: &str, value: impl std::fmt::Display) -> Option<String> {
        self.key(name).map(|(key, of)| format!("{key}: {value}   # {of}"))
    }

    /// For people.
    pub fn words(&self) -> String {
        match self {
            Origin::Captured { table } => format!("rows of {table}"),
            Origin::Checkpoints => "checkpoints of capture".to_owned(),
            Origin::DeadLetters => "dead letters of capture".to_owned(),
            Origin::Input { job, input } => format!("input {input} of job {job}"),
            Origin::Landed => "landed, written by others".to_owned(),
        }
    }
}

/// A topic that a pipeline uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub origin: Origin,
    /// As it is made where it is missing; none where that is up to others.
    pub spec: Option<TopicSpec>,
}

/// Each topic once: as capture declares it, else as analyze does, else as land reads it.
pub fn wanted(pipeline: &Pipeline) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut add = |name: &str, origin: Origin, spec: Option<TopicSpec>| {
        if wanted.iter().all(|known| known.name != name) {
            wanted.push(Wanted { name: name.to_owned(), origin, spec });
        }
    };
    if let Some(capture) = &pipeline.capture {
        for spec in capture::topics(capture) {
            let table = capture.tables.iter().find(|table| table.topic == spec.name);
            let origin = match table {
                _ if spec.name == capture.checkpoint_topic => Origin::Checkpoints,
                Some(table) => Origin::Captured { table: table.table.clone() },
                None => Origin::DeadLetters,
            };
            add(&spec.name.clone(), origin, Some(spec));
        }
    }
    for job in pipeline.analyze.iter().flat_map(|analyze| &analyze.jobs) {
        for (input, spec) in job.inputs.iter().zip(analyze::topics(job)) {
            let origin = Origin::Input { job: job.name.clone(), input: input.name.clone() };
            add(&input.topic, origin, Some(spec));
        }
    }
    for table in pipeline.land.iter().flat_map(|land| &land.tables) {
        add(&table.topic, Origin::Landed, None);
    }
    wanted
}

/// What a difference does to the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// More than was asked for, or a matter of taste.
    None,
    /// Less than was asked for.
    Some,
    /// The pipeline loses its progress by it.
    Fatal,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `partitions`, `replication`, or a topic-level setting such as `retention.ms`.
    pub setting: String,
    pub wanted: String,
    pub found: String,
    pub harm: Harm,
    /// The command that makes the topic as it is wanted, or the key to set to what is there.
    pub cure: String,
}

impl Difference {
    /// For people.
    pub fn words(&self) -> String {
        let told = |value: &str| match (self.setting.as_str(), value.parse::<i64>()) {
            ("retention.ms", Ok(-1)) => "-1 (for ever)".to_owned(),
            ("retention.ms", Ok(milliseconds)) => format!("{value} ({})", amount::duration(milliseconds)),
            _ => value.to_owned(),
        };
        format!("{} is {}, configured {}", self.setting, told(&self.found), told(&self.wanted))
    }
}

/// How a topic that exists differs from what is wanted; `settings` are its own as the broker tells them,
/// none where it does not tell.
pub fn differences(
    kafka: &Kafka,
    origin: &Origin,
    spec: &TopicSpec,
    partitions: &[Partition],
    settings: Option<&Settings>,
    cluster: &Cluster,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let count = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
    if count != spec.partitions {
        let (harm, cure) = if count < spec.partitions {
            (Harm::Some, tools::add_partitions(kafka, &spec.name, spec.partitions))
        } else {
            // They cannot be taken away again.
            (Harm::None, origin.line("partitions", count).unwrap_or_default())
        };
        found.push(difference("partitions", spec.partitions, count, harm, cure));
    }
    let replication = partitions.iter().map(|partition| partition.replicas.len()).min().unwrap_or(0);
    let replication = i32::try_from(replication).unwrap_or(i32::MAX);
    if replication != spec.replication {
        let brokers: Vec<i32> = cluster.brokers.iter().map(|broker| broker.id).collect();
        let wanted = usize::try_from(spec.replication).unwrap_or(usize::MAX);
        let as_found = || origin.line("replication", replication).unwrap_or_default();
        let harm = if replication < spec.replication { Harm::Some } else { Harm::None };
        let cure = tools::replicate(kafka, &spec.name, partitions, &brokers, wanted).unwrap_or_else(as_found);
        found.push(difference("replication", spec.replication, replication, harm, cure));
    }
    let Some(settings) = settings else { return found };
    for (setting, wanted) in expected(spec) {
        let Some(value) = settings.get(setting).filter(|value| *value != wanted) else { continue };
        let cure = tools::set_topic(kafka, &spec.name, setting, wanted);
        found.push(difference(setting, wanted, value, harm(origin, setting, wanted, value), cure));
    }
    found
}

/// Why a topic cannot be made with so many replicas, with the key to set.
pub fn too_few_brokers(origin: &Origin, spec: &TopicSpec, cluster: &Cluster) -> Option<(String, Option<String>)> {
    let brokers = cluster.brokers.len();
    if usize::try_from(spec.replication).is_ok_and(|replication| replication <= brokers) {
        return None;
    }
    let wanted = amount::counted(usize::try_from(spec.replication).unwrap_or(usize::MAX), "replica");
    let trouble = format!("{wanted} configured, and {} known", amount::counted(brokers, "broker"));
    Some((trouble, origin.line("replication", brokers)))
}

fn difference(
    setting: &str,
    wanted: impl ToString,
    found: impl ToString,
    harm: Harm,
    cure: impl Into<String>,
) -> Difference {
    let (wanted, found) = (wanted.to_string(), found.to_string());
    Difference { setting: setting.to_owned(), wanted, found, harm, cure: cure.into() }
}

/// The settings that are asked for, and that rows are not thrown away for the sake of others of their key.
fn expected(spec: &TopicSpec) -> Vec<(&str, &str)> {
    let mut expected: Vec<_> = spec.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    if expected.iter().all(|(key, _)| *key != "cleanup.policy") {
        expected.push(("cleanup.policy", "delete"));
    }
    expected
}

fn harm(origin: &Origin, setting: &str, wanted: &str, found: &str) -> Harm {
    let number = |text: &str| text.parse::<i64>().ok();
    match setting {
        "cleanup.policy" if *origin == Origin::Checkpoints => Harm::Fatal,
        "cleanup.policy" => Harm::Some,
        // -1 is for ever.
        "retention.ms" => match (number(wanted), number(found)) {
            (_, Some(-1)) => Harm::None,
            (Some(-1), _) => Harm::Some,
            (Some(wanted), Some(found)) if found >= wanted => Harm::None,
            _ => Harm::Some,
        },
        "max.message.bytes" if number(found) < number(wanted) => Harm::Some,
        _ => Harm::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::cluster::Broker;

    fn cluster(brokers: i32) -> Cluster {
        let brokers = (1..=brokers).map(|id| Broker { id, host: "b".to_owned(), port: 9092 }).collect();
        Cluster { brokers, ..Cluster::default() }
    }

    fn spec(settings: &[(&str, &str)]) -> TopicSpec {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        TopicSpec { name: "t".to_owned(), partitions: 3, replication: 1, settings }
    }

    fn partitions(count: i32, replicas: &[i32]) -> Vec<Partition> {
        let one = |id| Partition { id, has_leader: true, replicas: replicas.to_vec(), in_sync: replicas.len() };
        (0..count).map(one).collect()
    }

    fn found(origin: &Origin, spec: &TopicSpec, count: i32, settings: &[(&str, &str)]) -> Vec<(String, Harm, String)> {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let kafka = Kafka::plaintext("b:9092");
        differences(&kafka, origin, spec, &partitions(count, &[1]), Some(&settings), &cluster(1))
            .into_iter()
            .map(|difference| (difference.words(), difference.harm, difference.cure))
            .collect()
    }

    #[test]
    fn a_topic_that_is_as_wanted_has_no_differences() {
        let table = Origin::Captured { table: "orders".to_owned() };
        let same = [("retention.ms", "604800000"), ("cleanup.policy", "delete")];
        assert_eq!(found(&table, &spec(&same[..1]), 3, &same), []);
        assert_eq!(found(&table, &spec(&[]), 3, &[]), []);
    }

    #[test]
    fn less_than_was_asked_for_harms_and_more_does_not() {
        let table = Origin::Captured { table: "orders".to_owned() };
        let wanted = spec(&[("retention.ms", "86400000")]);
        let kept = |retention: &str| found(&table, &wanted, 3, &[("retention.ms", retention)]).pop().unwrap();
        let (words, harm, cure) = kept("3600000");
        assert_eq!((words.as_str(), harm), ("retention.ms is 3600000 (1 h), configured 86400000 (1 d)", Harm::Some));
        assert_eq!(
            cure,
            "kafka-configs.sh --bootstrap-server b:9092 --alter --entity-type topics --entity-name t --add-config retention.ms=86400000"
        );
        assert_eq!(kept("-1").1, Harm::None);
        assert_eq!(kept("172800000").1, Harm::None);
        let few = found(&table, &wanted, 1, &[]).pop().unwrap();
        assert_eq!(few.1, Harm::Some);
        assert_eq!(few.2, "kafka-topics.sh --bootstrap-server b:9092 --alter --topic t --partitions 3");
        let many = found(&table, &wanted, 9, &[]).pop().unwrap();
        assert_eq!((many.1, many.2.as_str()), (Harm::None, "capture.tables[].partitions: 9   # of table orders"));
    }

    #[test]
    fn a_compacted_topic_of_rows_harms_and_checkpoints_that_are_not_compacted_are_lost() {
        let table = Origin::Captured { table: "orders".to_owned() };
        let rows = found(&table, &spec(&[]), 3, &[("cleanup.policy", "compact")]).pop().unwrap();
        assert_eq!(rows.1, Harm::Some);
        let compact = spec(&[("cleanup.policy", "compact")]);
        for policy in ["delete", "compact,delete"] {
            let lost = found(&Origin::Checkpoints, &compact, 3, &[("cleanup.policy", policy)]).pop().unwrap();
            assert_eq!(lost.1, Harm::Fatal);
            assert!(lost.2.ends_with("--add-config cleanup.policy=compact"), "{}", lost.2);
        }
    }

    #[test]
    fn replicas_come_from_brokers_that_are_there() {
        let kafka = Kafka::plaintext("b:9092");
        let wanted = TopicSpec { replication: 3, ..spec(&[]) };
        let table = Origin::Captured { table: "orders".to_owned() };
        let cure = |brokers| {
            differences(&kafka, &table, &wanted, &partitions(3, &[1]), None, &cluster(brokers)).pop().unwrap().cure
        };
        assert!(cure(3).starts_with("kafka-reassign-partitions.sh"), "{}", cure(3));
        assert_eq!(cure(1), "capture.tables[].replication: 1   # of table orders");
    }
}
