//! The lines of Kafka's own tools that cure something, to be pasted into a shell as they are.

use super::{
    admin::TopicSpec,
    cluster::Partition,
    rights::{Operation, Resource, principal},
};
use crate::{
    config::model::{Kafka, SecurityProtocol},
    shell::word,
};

fn tool(kafka: &Kafka, name: &str) -> String {
    let login = match kafka.security_protocol {
        SecurityProtocol::Plaintext => "",
        // How an administrator logs in is not ours to know.
        _ => " --command-config admin.properties",
    };
    format!("{name} --bootstrap-server {}{login}", word(&kafka.brokers))
}

/// Makes the topic.
pub fn create_topic(kafka: &Kafka, spec: &TopicSpec) -> String {
    let TopicSpec { name, partitions, replication, settings } = spec;
    let mut line = format!(
        "{} --create --topic {} --partitions {partitions} --replication-factor {replication}",
        tool(kafka, "kafka-topics.sh"),
        word(name)
    );
    for (key, value) in settings {
        line.push_str(&format!(" --config {}", word(&format!("{key}={value}"))));
    }
    line
}

/// Makes a topic of which nothing is known; its partitions are for whoever runs it to choose.
pub fn create_undeclared(kafka: &Kafka, topic: &str) -> String {
    format!("{} --create --topic {} --partitions 1", tool(kafka, "kafka-topics.sh"), word(topic))
}

/// Raises the count of partitions.
pub fn add_partitions(kafka: &Kafka, topic: &str, partitions: i32) -> String {
    format!("{} --alter --topic {} --partitions {partitions}", tool(kafka, "kafka-topics.sh"), word(topic))
}

/// Sets a topic's own value of a setting.
pub fn set_topic(kafka: &Kafka, topic: &str, key: &str, value: &str) -> String {
    let assignment = word(&format!("{key}={value}"));
    let (tool, topic) = (tool(kafka, "kafka-configs.sh"), word(topic));
    format!("{tool} --alter --entity-type topics --entity-name {topic} --add-config {assignment}")
}

/// Gives each partition `replication` replicas, the present ones first; none where there are not that
/// many brokers.
pub fn replicate(
    kafka: &Kafka,
    topic: &str,
    partitions: &[Partition],
    brokers: &[i32],
    replication: usize,
) -> Option<String> {
    if brokers.len() < replication {
        return None;
    }
    let assigned = partitions.iter().enumerate().map(|(index, partition)| {
        let mut replicas: Vec<i32> = partition.replicas.iter().copied().take(replication).collect();
        let others = brokers.iter().cycle().skip(index % brokers.len()).take(brokers.len());
        for broker in others {
            if replicas.len() < replication && !replicas.contains(broker) {
                replicas.push(*broker);
            }
        }
        serde_json::json!({"topic": topic, "partition": partition.id, "replicas": replicas})
    });
    let plan = serde_json::json!({"version": 1, "partitions": assigned.collect::<Vec<_>>()});
    let (tool, plan) = (tool(kafka, "kafka-reassign-partitions.sh"), word(&plan.to_string()));
    Some(format!("{tool} --execute --reassignment-json-file <(echo {plan})"))
}

/// Lets our user do `operations` with `resource`.
pub fn allow(kafka: &Kafka, resource: &Resource, operations: &[Operation]) -> String {
    // Without a certificate that can be read we do not know our name.
    let principal =
        principal(kafka).map_or_else(|| "'User:<subject of the certificate>'".to_owned(), |name| word(&name));
    let mut line = format!("{} --add --allow-principal {principal}", tool(kafka, "kafka-acls.sh"));
    for operation in operations {
        line.push_str(&format!(" --operation {}", operation.name()));
    }
    line.push_str(&match resource {
        Resource::Topic(name) => format!(" --topic {}", word(name)),
        Resource::Group(name) => format!(" --group {}", word(name)),
        Resource::TransactionalId(name) => format!(" --transactional-id {}", word(name)),
        Resource::Cluster => " --cluster".to_owned(),
    });
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_brokers_and_asks_for_a_login_where_there_is_one() {
        let mut kafka = Kafka::plaintext("a:9092,b:9092");
        let spec = TopicSpec {
            name: "orders".to_owned(),
            partitions: 3,
            replication: 2,
            settings: vec![("retention.ms".to_owned(), "604800000".to_owned())],
        };
        assert_eq!(
            create_topic(&kafka, &spec),
            "kafka-topics.sh --bootstrap-server a:9092,b:9092 --create --topic orders --partitions 3 --replication-factor 2 --config retention.ms=604800000"
        );
        assert_eq!(
            set_topic(&kafka, "orders", "retention.ms", "-1"),
            "kafka-configs.sh --bootstrap-server a:9092,b:9092 --alter --entity-type topics --entity-name orders --add-config retention.ms=-1"
        );
        kafka.security_protocol = SecurityProtocol::SaslSsl;
        kafka.sasl_username = Some("the reader".to_owned());
        assert_eq!(
            allow(&kafka, &Resource::Group("g".to_owned()), &[Operation::Read, Operation::Describe]),
            "kafka-acls.sh --bootstrap-server a:9092,b:9092 --command-config admin.properties --add --allow-principal 'User:the reader' --operation Read --operation Describe --group g"
        );
    }

    #[test]
    fn replicas_are_added_to_those_that_are_there() {
        let partition =
            |id, replicas: &[i32]| Partition { id, has_leader: true, replicas: replicas.to_vec(), in_sync: 1 };
        let partitions = [partition(0, &[2]), partition(1, &[3])];
        let kafka = Kafka::plaintext("a:1");
        let line = replicate(&kafka, "t", &partitions, &[1, 2, 3], 2).unwrap();
        assert!(line.contains(r#""partition":0,"replicas":[2,1]"#), "{line}");
        assert!(line.contains(r#""partition":1,"replicas":[3,2]"#), "{line}");
        assert_eq!(replicate(&kafka, "t", &partitions, &[1], 2), None);
    }
}
