//! What our user may do with topics, groups and the transactional id.
//!
//! The brokers tell it of topics and groups. Of a transactional id they tell nothing but their rules:
//! trying it would fence the capture that runs with it.

use super::{finding::Findings, kafka::Reached};
use crate::{
    analyze,
    config::model::Pipeline,
    kafka::{
        inspect::Inspector,
        rights::{Operation, Refusal, Resource, principal, verdict},
        tools,
    },
    land,
    topics::{Origin, Wanted},
};

const CHECK: &str = "rights";

/// What the stages do with a topic.
pub fn needed(pipeline: &Pipeline, wanted: &Wanted) -> &'static [Operation] {
    use Operation::{Describe, Read, Write};
    let lands = || pipeline.land.iter().flat_map(|land| &land.tables).any(|table| table.topic == wanted.name);
    match wanted.origin {
        // Capture reads the topic of its rows once, to see whether it has published before.
        Origin::Captured { .. } | Origin::Checkpoints => &[Read, Write, Describe],
        Origin::DeadLetters if lands() => &[Read, Write, Describe],
        Origin::DeadLetters => &[Write, Describe],
        Origin::Input { .. } | Origin::Landed => &[Read, Describe],
    }
}

/// `has_groups`: whether a group has been used in the cluster, so that asking for one makes no topic.
pub async fn examine(pipeline: &Pipeline, reached: &Reached, has_groups: bool, findings: &mut Findings) {
    topics(pipeline, reached, findings).await;
    if needs_no_rule(pipeline, reached).await {
        let message = "the user needs no rules (ACLs): the brokers keep none, or it is a super user";
        findings.ok(CHECK, &pipeline.kafka.brokers, message);
        return;
    }
    groups(pipeline, reached, has_groups, findings).await;
    if let Some(capture) = &pipeline.capture {
        transactions(pipeline, &capture.transactional_id, reached, findings).await;
    }
}

/// Whether the user may do what no rule gives. Seen by a right to the cluster that no rule explains.
async fn needs_no_rule(pipeline: &Pipeline, reached: &Reached) -> bool {
    let inspector = &reached.inspector;
    let (Ok(rights), Ok(rules)) = (inspector.cluster_rights().await, inspector.rules(Resource::Cluster).await) else {
        return false;
    };
    let is_explained =
        |right| principal(&pipeline.kafka).is_some_and(|name| verdict(&rules, &name, right) == Some(true));
    // Without rules for anybody our own name does not matter.
    rights.iter().any(|right| rules.is_empty() || !is_explained(*right))
}

fn names(operations: &[Operation]) -> String {
    operations.iter().map(|operation| operation.name()).collect::<Vec<_>>().join(", ")
}

async fn topics(pipeline: &Pipeline, reached: &Reached, findings: &mut Findings) {
    let kafka = &pipeline.kafka;
    for wanted in &reached.wanted {
        let resource = Resource::Topic(wanted.name.clone());
        let Some(facts) = reached.topics.get(&wanted.name) else {
            if reached.cluster.topics.contains_key(&wanted.name) || wanted.spec.is_none() || !kafka.create_topics {
                continue;
            }
            may_create(pipeline, wanted, reached, findings).await;
            continue;
        };
        let lacking: Vec<Operation> =
            needed(pipeline, wanted).iter().copied().filter(|operation| !facts.rights.contains(operation)).collect();
        match lacking.is_empty() {
            true => findings.ok(CHECK, &wanted.name, names(needed(pipeline, wanted))),
            false => {
                let message = format!("the user lacks {}", names(&lacking));
                findings.failure(CHECK, &wanted.name, message, Some(tools::allow(kafka, &resource, &lacking)));
            }
        }
    }
}

/// A topic that is to be made at the next start.
async fn may_create(pipeline: &Pipeline, wanted: &Wanted, reached: &Reached, findings: &mut Findings) {
    let kafka = &pipeline.kafka;
    if reached.inspector.cluster_rights().await.is_ok_and(|rights| rights.contains(&Operation::Create)) {
        findings.ok(CHECK, &wanted.name, "may be made");
        return;
    }
    let resource = Resource::Topic(wanted.name.clone());
    let mut operations = vec![Operation::Create];
    operations.extend(needed(pipeline, wanted));
    let cure = tools::allow(kafka, &resource, &operations);
    match by_rules(&reached.inspector, kafka, resource, Operation::Create).await {
        Ok(Some(true)) => findings.ok(CHECK, &wanted.name, "may be made"),
        Ok(_) => findings.failure(CHECK, &wanted.name, "the user may not make it", Some(cure)),
        Err(refusal) => unknown(pipeline, &wanted.name, "whether the user may make it", &refusal, cure, findings),
    }
}

/// What the rules say of an operation by our user.
async fn by_rules(
    inspector: &Inspector,
    kafka: &crate::config::model::Kafka,
    resource: Resource,
    operation: Operation,
) -> Result<Option<bool>, Refusal> {
    let rules = inspector.rules(resource).await?;
    let principal = principal(kafka).ok_or_else(|| Refusal::Failed("our own name is not known here".to_owned()))?;
    Ok(verdict(&rules, &principal, operation))
}

async fn groups(pipeline: &Pipeline, reached: &Reached, has_groups: bool, findings: &mut Findings) {
    let kafka = &pipeline.kafka;
    let landed = pipeline.land.iter().flat_map(|land| land.tables.iter().map(|table| (land::group(land, table), true)));
    // Analyze publishes its offsets for people only.
    let analyzed = pipeline.analyze.iter().flat_map(|analyze| &analyze.jobs).map(|job| (analyze::group(job), false));
    for (group, is_needed) in landed.chain(analyzed) {
        let resource = Resource::Group(group.clone());
        let may_read = match has_groups {
            true => match reached.inspector.group_rights(group.clone()).await {
                Ok(rights) => Ok(rights.contains(&Operation::Read)),
                Err(Refusal::Forbidden) => Ok(false),
                Err(refusal) => Err(refusal),
            },
            false => by_rules(&reached.inspector, kafka, resource.clone(), Operation::Read)
                .await
                .map(|verdict| verdict == Some(true)),
        };
        let cure = tools::allow(kafka, &resource, &[Operation::Read]);
        match may_read {
            Ok(true) => findings.ok(CHECK, &group, "Read of the group"),
            Ok(false) if is_needed => findings.failure(CHECK, &group, "the user lacks Read of the group", Some(cure)),
            Ok(false) => {
                let message = "the user lacks Read of the group: offsets are not published for monitoring";
                findings.warning(CHECK, &group, message, Some(cure));
            }
            Err(refusal) => unknown(pipeline, &group, "Read of the group", &refusal, cure, findings),
        }
    }
}

async fn transactions(pipeline: &Pipeline, id: &str, reached: &Reached, findings: &mut Findings) {
    const NEEDED: [Operation; 2] = [Operation::Write, Operation::Describe];
    let kafka = &pipeline.kafka;
    let resource = Resource::TransactionalId(id.to_owned());
    let cure = tools::allow(kafka, &resource, &NEEDED);
    match by_rules(&reached.inspector, kafka, resource, Operation::Write).await {
        Ok(Some(true)) => findings.ok(CHECK, id, "Write of the transactional id"),
        Ok(Some(false)) => findings.failure(CHECK, id, "a rule forbids Write of the transactional id", Some(cure)),
        Ok(None) => findings.failure(CHECK, id, "no rule gives the user Write of the transactional id", Some(cure)),
        Err(refusal) => unknown(pipeline, id, "Write of the transactional id", &refusal, cure, findings),
    }
}

/// A right of which the rules may not be asked. `give` gives it in any case.
fn unknown(pipeline: &Pipeline, subject: &str, what: &str, refusal: &Refusal, give: String, findings: &mut Findings) {
    let ask = tools::allow(&pipeline.kafka, &Resource::Cluster, &[Operation::Describe]);
    let cure = match refusal {
        Refusal::Forbidden => format!("{give}\n{ask}   # lets doctor see the rules"),
        Refusal::Failed(_) => give,
    };
    findings.not_checked(CHECK, subject, format!("{what}: {refusal}"), Some(cure));
}
