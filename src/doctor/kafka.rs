//! The brokers and the topics: can each be reached, is each as the configuration has it.

use super::{
    LIMIT,
    finding::{Findings, Section},
};
use crate::{
    amount,
    config::model::Pipeline,
    kafka::{
        admin::AdminError,
        cluster::{Broker, Cluster, Partition},
        inspect::{Inspector, Settings},
        rights::{Operation, Refusal, Resource},
        tools,
        topic::{TopicError, TopicFacts},
    },
    topics::{self, Harm, Origin, Wanted, differences, too_few_brokers},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::net::TcpStream;

/// How long a broker may take to take a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Most partitions that are named one by one.
const MOST_LISTED: usize = 5;

/// A cluster that was reached, and what the further checks need of it.
pub struct Reached {
    pub cluster: Cluster,
    pub inspector: Inspector,
    pub wanted: Vec<Wanted>,
    /// Those that exist, with what we may do with them.
    pub topics: BTreeMap<String, TopicFacts>,
    /// Those that may be asked for.
    pub settings: BTreeMap<String, Settings>,
    /// The settings of one broker.
    pub broker: Result<Settings, Refusal>,
}

pub async fn examine(pipeline: &Pipeline) -> (Findings, Option<Reached>) {
    let mut findings = Findings::new(Section::Kafka);
    let subject = &pipeline.kafka.brokers;
    let reached = match reach(pipeline).await {
        Ok(reached) => reached,
        Err(error) => {
            let check = match &error {
                // Somebody has answered, and sent us on.
                AdminError::Elsewhere { .. } => "brokers",
                _ => "reachable",
            };
            findings.failure(check, subject, error.to_string(), error.cure(&pipeline.kafka));
            if error.is_unavailable() {
                findings.mark_away();
            }
            let rest = "brokers, topics, retention, rights, transactions: Kafka cannot be reached";
            findings.not_checked("cluster", subject, rest, None);
            return (findings, None);
        }
    };
    let (cluster, inspector) = reached;
    findings.ok("reachable", subject, amount::counted(cluster.brokers.len(), "broker"));
    if !brokers(pipeline, &cluster.brokers, &mut findings).await {
        let rest = "topics, retention, rights, transactions: no broker can be reached at its own address";
        findings.not_checked("cluster", subject, rest, None);
        return (findings, None);
    }
    let wanted = topics::wanted(pipeline);
    let mut reached = Reached {
        broker: match cluster.brokers.first() {
            Some(broker) => inspector.broker_settings(broker.id).await,
            None => Err(Refusal::Failed("no broker is known".to_owned())),
        },
        cluster,
        inspector,
        wanted,
        topics: BTreeMap::new(),
        settings: BTreeMap::new(),
    };
    about_topics(pipeline, &mut reached, &mut findings).await;
    (findings, Some(reached))
}

async fn reach(pipeline: &Pipeline) -> Result<(Cluster, Inspector), AdminError> {
    let cluster = topics::cluster(pipeline, LIMIT).await?;
    Ok((cluster, Inspector::new(&pipeline.kafka, LIMIT)?))
}

/// Clients are told the brokers' own addresses, which may be good elsewhere only. Whether any can be reached.
async fn brokers(pipeline: &Pipeline, brokers: &[Broker], findings: &mut Findings) -> bool {
    let tries = brokers.iter().map(|broker| async move {
        let connected = TcpStream::connect((broker.host.as_str(), broker.port));
        let reason = match tokio::time::timeout(CONNECT_LIMIT, connected).await {
            Ok(Ok(_)) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CONNECT_LIMIT.as_secs()),
        };
        Some((broker, reason))
    });
    let unreachable: Vec<_> = futures_util::future::join_all(tries).await.into_iter().flatten().collect();
    for (broker, reason) in &unreachable {
        let Broker { id, host, port } = broker;
        let message = format!(
            "broker {id} tells its clients to come to {host}:{port}, which cannot be reached from here: {reason}"
        );
        let cure = format!(
            "advertised.listeners in server.properties of broker {id}: an address that this machine reaches, or a name that it resolves"
        );
        findings.failure("brokers", &format!("{host}:{port}"), message, Some(cure));
    }
    if unreachable.is_empty() {
        let message = "each can be reached at the address that it tells its clients";
        findings.ok("brokers", &pipeline.kafka.brokers, message);
    }
    unreachable.len() < brokers.len()
}

async fn about_topics(pipeline: &Pipeline, reached: &mut Reached, findings: &mut Findings) {
    let names: Vec<String> = reached.wanted.iter().map(|topic| topic.name.clone()).collect();
    let described = match reached.inspector.topics(names).await {
        Ok(described) => described,
        Err(refusal) => {
            findings.failure(
                "topics",
                &pipeline.kafka.brokers,
                format!("the brokers do not describe them: {refusal}"),
                None,
            );
            return;
        }
    };
    let mut present = Vec::new();
    for (wanted, described) in reached.wanted.iter().zip(described) {
        match described {
            Ok(described) => {
                present.push(wanted.name.clone());
                reached.topics.insert(wanted.name.clone(), described);
            }
            Err(TopicError::Missing { .. }) => missing(pipeline, wanted, &reached.cluster, findings),
            Err(TopicError::Forbidden { .. }) => {
                let resource = Resource::Topic(wanted.name.clone());
                let cure = tools::allow(&pipeline.kafka, &resource, super::access::needed(pipeline, wanted));
                let message = "may not be described: it does not exist, or the user has no right to it";
                findings.failure("topic", &wanted.name, message, Some(cure));
            }
            Err(error) => findings.failure("topic", &wanted.name, error.to_string(), None),
        }
    }
    let settings = reached.inspector.topic_settings(&present).await;
    let mut refused = Vec::new();
    for (name, settings) in present.iter().zip(settings) {
        match settings {
            Ok(settings) => {
                reached.settings.insert(name.clone(), settings);
            }
            Err(refusal) => refused.push((name, refusal)),
        }
    }
    for wanted in &reached.wanted {
        if let Some(partitions) = reached.cluster.topics.get(&wanted.name).filter(|_| present.contains(&wanted.name)) {
            let settings = reached.settings.get(&wanted.name);
            about_topic(pipeline, wanted, partitions, settings, &reached.cluster, findings);
        }
    }
    for (name, refusal) in refused {
        let resource = Resource::Topic(name.clone());
        let cure = (refusal == Refusal::Forbidden)
            .then(|| tools::allow(&pipeline.kafka, &resource, &[Operation::DescribeConfigs]));
        findings.not_checked("settings", name, format!("retention and the like: {refusal}"), cure);
    }
}

fn missing(pipeline: &Pipeline, wanted: &Wanted, cluster: &Cluster, findings: &mut Findings) {
    let kafka = &pipeline.kafka;
    let name = &wanted.name;
    let Some(spec) = &wanted.spec else {
        let message = "does not exist yet: land waits for it, and no capture or job of this file makes it";
        findings.warning("topic", name, message, Some(tools::create_undeclared(kafka, name)));
        return;
    };
    if let Some((trouble, cure)) = too_few_brokers(&wanted.origin, spec, cluster) {
        findings.failure("topic", name, format!("cannot be made: {trouble}"), cure);
    } else if kafka.create_topics {
        let partitions = amount::counted(usize::try_from(spec.partitions).unwrap_or(0), "partition");
        let message = format!("does not exist yet; is made at the next start, with {partitions}");
        findings.ok("topic", name, message);
    } else {
        let message = "does not exist, and kafka.create_topics is false";
        findings.failure("topic", name, message, Some(tools::create_topic(kafka, spec)));
    }
}

fn about_topic(
    pipeline: &Pipeline,
    wanted: &Wanted,
    partitions: &[Partition],
    settings: Option<&Settings>,
    cluster: &Cluster,
    findings: &mut Findings,
) {
    let name = &wanted.name;
    health(wanted, partitions, settings, findings);
    let differences = match &wanted.spec {
        Some(spec) => differences(&pipeline.kafka, &wanted.origin, spec, partitions, settings, cluster),
        None => Vec::new(),
    };
    let mut harmless = Vec::new();
    for difference in &differences {
        let check = if difference.setting == "partitions" { "partitions" } else { "settings" };
        let cure = Some(difference.cure.clone());
        match difference.harm {
            Harm::Fatal => {
                let message =
                    format!("{}: checkpoints would be deleted, and capture could not go on", difference.words());
                findings.failure(check, name, message, cure);
            }
            Harm::Some => findings.warning(check, name, difference.words(), cure),
            Harm::None => harmless.push(difference.words()),
        }
    }
    let mut message = format!("{}, {}", amount::counted(partitions.len(), "partition"), wanted.origin.words());
    if !harmless.is_empty() {
        message.push_str(&format!("; {}, which does no harm", harmless.join(", ")));
    }
    findings.ok("topic", name, message);
}

/// Whether records can be written and read now.
fn health(wanted: &Wanted, partitions: &[Partition], settings: Option<&Settings>, findings: &mut Findings) {
    let name = &wanted.name;
    let list = |ids: &[i32]| {
        let shown: Vec<String> = ids.iter().take(MOST_LISTED).map(i32::to_string).collect();
        let more = if ids.len() > MOST_LISTED { ", …" } else { "" };
        format!("{}{more}", shown.join(", "))
    };
    let headless: Vec<i32> = partitions.iter().filter(|one| !one.has_leader).map(|one| one.id).collect();
    if !headless.is_empty() {
        let message = format!("partitions without a leader, so that nobody reads or writes them: {}", list(&headless));
        findings.failure("replicas", name, message, Some("start the brokers that hold them".to_owned()));
    }
    let least = settings.and_then(|settings| settings.get("min.insync.replicas")?.parse::<usize>().ok()).unwrap_or(1);
    let thin: Vec<i32> =
        partitions.iter().filter(|one| one.has_leader && one.in_sync < least).map(|one| one.id).collect();
    let is_written = matches!(wanted.origin, Origin::Captured { .. } | Origin::Checkpoints | Origin::DeadLetters);
    if !thin.is_empty() && is_written {
        let message = format!(
            "partitions with less than min.insync.replicas={least} replicas in sync, which take no records: {}",
            list(&thin)
        );
        findings.failure("replicas", name, message, Some("start the brokers that hold the other replicas".to_owned()));
    }
}
