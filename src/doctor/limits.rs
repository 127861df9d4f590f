//! What the brokers allow: how long transactions may be, how large messages, and whether the topics that
//! transactions and groups are kept in can be there.

use super::{finding::Findings, kafka::Reached};
use crate::{
    amount,
    config::model::{Capture, Pipeline},
    kafka::{
        inspect::Settings,
        producer::{TRANSACTION_TIMEOUT, largest_batch},
        rights::{Operation, Refusal, Resource},
        tools,
    },
    topics::Origin,
};

const CHECK: &str = "limits";

pub fn examine(pipeline: &Pipeline, reached: &Reached, findings: &mut Findings) {
    let subject = &pipeline.kafka.brokers;
    let broker = match &reached.broker {
        Ok(settings) => Some(settings),
        Err(refusal) => {
            let cure = (*refusal == Refusal::Forbidden)
                .then(|| tools::allow(&pipeline.kafka, &Resource::Cluster, &[Operation::DescribeConfigs]));
            findings.not_checked("limits", subject, format!("the brokers' settings: {refusal}"), cure);
            None
        }
    };
    if let Some(capture) = &pipeline.capture {
        if let Some(settings) = broker {
            timeout(subject, settings, findings);
            kept(pipeline, reached, settings, "transactions", "__transaction_state", "transaction.state.log", findings);
        }
        sizes(pipeline, capture, reached, broker, findings);
    }
    if let (Some(_), Some(settings)) = (&pipeline.land, broker) {
        kept(pipeline, reached, settings, "groups", "__consumer_offsets", "offsets.topic", findings);
    }
}

fn timeout(subject: &str, settings: &Settings, findings: &mut Findings) {
    const SETTING: &str = "transaction.max.timeout.ms";
    let ours = i64::try_from(TRANSACTION_TIMEOUT.as_millis()).unwrap_or(i64::MAX);
    let Some(theirs) = settings.get(SETTING).and_then(|value| value.parse::<i64>().ok()) else { return };
    if theirs < ours {
        let message = format!(
            "the brokers take transactions of at most {}, capture asks for {}",
            amount::duration(theirs),
            amount::duration(ours)
        );
        findings.failure(
            CHECK,
            subject,
            message,
            Some(format!("{SETTING}={ours} in server.properties of each broker")),
        );
    } else {
        let message =
            format!("transactions may take {}, capture needs {}", amount::duration(theirs), amount::duration(ours));
        findings.ok(CHECK, subject, message);
    }
}

/// The brokers' own topic `name` is there and takes records, or can be made when it is first used.
fn kept(
    pipeline: &Pipeline,
    reached: &Reached,
    settings: &Settings,
    what: &'static str,
    name: &str,
    prefix: &str,
    findings: &mut Findings,
) {
    let number =
        |suffix: &str| settings.get(&format!("{prefix}.{suffix}")).and_then(|value| value.parse::<usize>().ok());
    let brokers = reached.cluster.brokers.len();
    let replication = number("replication.factor").unwrap_or(1);
    let min_isr = number("min.isr").unwrap_or(1);
    match reached.cluster.topics.get(name) {
        Some(partitions) => {
            let bad = partitions.iter().filter(|one| !one.has_leader || one.in_sync < min_isr).count();
            if bad > 0 {
                let message = format!(
                    "{bad} of {} partitions have no leader or too few replicas in sync: {what} stand still",
                    partitions.len()
                );
                findings.failure(
                    CHECK,
                    name,
                    message,
                    Some("start the brokers that hold the other replicas".to_owned()),
                );
            } else {
                findings.ok(CHECK, name, format!("keeps {what}, and takes records"));
            }
        }
        // Not there yet, or not ours to see: the latter is no trouble, for then it has been made.
        None if replication > brokers => {
            let message = format!(
                "is not there, and cannot be made: it is to have {replication} replicas, with {}",
                amount::counted(brokers, "broker")
            );
            let mut cure = format!("{prefix}.replication.factor={brokers} in server.properties of each broker");
            if min_isr > brokers {
                cure.push_str(&format!(", and {prefix}.min.isr={brokers}"));
            }
            if is_hidden(pipeline, reached) {
                findings.not_checked(CHECK, name, "the user may not see it", None);
            } else {
                findings.failure(CHECK, name, message, Some(cure));
            }
        }
        None => {}
    }
}

/// Whether the brokers may keep topics from us: where there are logins, there may be rules.
fn is_hidden(pipeline: &Pipeline, reached: &Reached) -> bool {
    pipeline.kafka.security_protocol != crate::config::model::SecurityProtocol::Plaintext
        && !reached.cluster.topics.keys().any(|name| name.starts_with("__"))
}

/// Whether every message that capture may send is taken.
fn sizes(
    pipeline: &Pipeline,
    capture: &Capture,
    reached: &Reached,
    broker: Option<&Settings>,
    findings: &mut Findings,
) {
    const SETTING: &str = "max.message.bytes";
    let needed = largest_batch(&pipeline.kafka, capture.max_row_bytes);
    for wanted in reached.wanted.iter().filter(|wanted| matches!(wanted.origin, Origin::Captured { .. })) {
        let name = &wanted.name;
        let own = reached.settings.get(name).and_then(|settings| settings.get(SETTING));
        let default = || broker.filter(|_| !reached.topics.contains_key(name))?.get("message.max.bytes");
        let Some(taken) = own.or_else(default).and_then(|value| value.parse::<u64>().ok()) else { continue };
        if taken < needed {
            let message = format!(
                "takes messages of at most {taken} bytes, capture sends up to {needed} where they cannot be compressed: \
                 such a transaction would fail again and again"
            );
            let cure = match reached.topics.contains_key(name) {
                true => tools::set_topic(&pipeline.kafka, name, SETTING, &needed.to_string()),
                false => format!(
                    "message.max.bytes={needed} in server.properties of each broker, or a smaller capture.max_row_bytes"
                ),
            };
            findings.warning("message size", name, message, Some(cure));
        } else {
            findings.ok("message size", name, format!("takes {taken} bytes, capture sends up to {needed}"));
        }
    }
}
