//! What our user may do: as the brokers tell it with a description, and, for transactional ids, of which
//! they tell nothing, as their rules (ACLs) say.

use super::request;
use crate::config::model::{Kafka, SecurityProtocol};
use openssl::x509::X509;
use rdkafka::{
    bindings as native,
    client::{Client, ClientContext},
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};
use std::{
    ffi::{CStr, CString, c_char},
    ptr,
    time::Duration,
};

/// An operation on a resource, as Kafka's rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    All,
    Read,
    Write,
    Create,
    Delete,
    Alter,
    Describe,
    ClusterAction,
    DescribeConfigs,
    AlterConfigs,
    IdempotentWrite,
}

impl Operation {
    /// As `kafka-acls.sh --operation` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::All => "All",
            Operation::Read => "Read",
            Operation::Write => "Write",
            Operation::Create => "Create",
            Operation::Delete => "Delete",
            Operation::Alter => "Alter",
            Operation::Describe => "Describe",
            Operation::ClusterAction => "ClusterAction",
            Operation::DescribeConfigs => "DescribeConfigs",
            Operation::AlterConfigs => "AlterConfigs",
            Operation::IdempotentWrite => "IdempotentWrite",
        }
    }

    fn of(native: native::rd_kafka_AclOperation_t) -> Option<Operation> {
        use native::rd_kafka_AclOperation_t as Native;
        Some(match native {
            Native::RD_KAFKA_ACL_OPERATION_ALL => Operation::All,
            Native::RD_KAFKA_ACL_OPERATION_READ => Operation::Read,
            Native::RD_KAFKA_ACL_OPERATION_WRITE => Operation::Write,
            Native::RD_KAFKA_ACL_OPERATION_CREATE => Operation::Create,
            Native::RD_KAFKA_ACL_OPERATION_DELETE => Operation::Delete,
            Native::RD_KAFKA_ACL_OPERATION_ALTER => Operation::Alter,
            Native::RD_KAFKA_ACL_OPERATION_DESCRIBE => Operation::Describe,
            Native::RD_KAFKA_ACL_OPERATION_CLUSTER_ACTION => Operation::ClusterAction,
            Native::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS => Operation::DescribeConfigs,
            Native::RD_KAFKA_ACL_OPERATION_ALTER_CONFIGS => Operation::AlterConfigs,
            Native::RD_KAFKA_ACL_OPERATION_IDEMPOTENT_WRITE => Operation::IdempotentWrite,
            _ => return None,
        })
    }
}

/// # Safety
/// `first` is null or begins an array of `count` live values.
pub(super) unsafe fn operations(first: *const native::rd_kafka_AclOperation_t, count: usize) -> Vec<Operation> {
    if first.is_null() {
        return Vec::new();
    }
    // SAFETY: by the caller's promise.
    let found = unsafe { std::slice::from_raw_parts(first, count) };
    found.iter().filter_map(|operation| Operation::of(*operation)).collect()
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    Topic(String),
    Group(String),
    TransactionalId(String),
    Cluster,
}

/// Why something could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Our user may not ask.
    #[error("the user may not ask for it")]
    Forbidden,
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    pub(super) fn of(code: impl Into<RDKafkaErrorCode>) -> Refusal {
        match code.into() {
            RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::TopicAuthorizationFailed => Refusal::Forbidden,
            code => Refusal::Failed(code.to_string()),
        }
    }
}

/// The name by which the brokers' rules know us, where the configuration tells it.
pub fn principal(kafka: &Kafka) -> Option<String> {
    match kafka.security_protocol {
        SecurityProtocol::Plaintext => Some("User:ANONYMOUS".to_owned()),
        SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl => {
            kafka.sasl_username.as_ref().map(|user| format!("User:{user}"))
        }
        SecurityProtocol::Ssl => match &kafka.ssl_certificate_file {
            None => Some("User:ANONYMOUS".to_owned()),
            Some(file) => subject(&std::fs::read(file).ok()?),
        },
    }
}

/// The subject of a certificate, its most special part first, as Java prints it.
fn subject(pem: &[u8]) -> Option<String> {
    let certificate = X509::from_pem(pem).ok()?;
    let parts = certificate.subject_name().entries().map(|entry| {
        let value = entry.data().to_string().ok()?;
        Some(format!("{}={value}", entry.object().nid().short_name().ok()?))
    });
    let mut parts = parts.collect::<Option<Vec<String>>>()?;
    parts.reverse();
    Some(format!("User:{}", parts.join(",")))
}

/// A rule about a resource, or about all whose names begin as its.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub principal: String,
    /// `*` for every address.
    pub host: String,
    pub operation: Operation,
    pub allows: bool,
}

/// What `rules`, which are all about one resource, say of an operation by `principal`: none where no
/// rule speaks of it. A rule for a single address counts only where it allows, for which address we
/// have is not known here.
pub fn verdict(rules: &[Rule], principal: &str, operation: Operation) -> Option<bool> {
    let speaks = |rule: &&Rule| rule.principal == principal || rule.principal == "User:*";
    let is_meant = |rule: &&Rule| {
        use Operation::{Alter, AlterConfigs, Delete, Describe, DescribeConfigs, Read, Write};
        // To describe is part of these.
        let implied = match operation {
            Describe => matches!(rule.operation, Read | Write | Delete | Alter),
            DescribeConfigs => rule.operation == AlterConfigs,
            _ => false,
        };
        rule.operation == operation || rule.operation == Operation::All || (rule.allows && implied)
    };
    let mut meant = rules.iter().filter(speaks).filter(is_meant).peekable();
    meant.peek()?;
    let mut allowed = None;
    for rule in meant {
        if rule.allows {
            allowed = Some(true);
        } else if rule.host == "*" {
            return Some(false);
        }
    }
    allowed
}

/// Every rule that speaks of `resource`, by its name or by a prefix of it. Blocks at most `timeout`. Where
/// we may not ask, or the brokers keep no rules, librdkafka gives none: the caller makes sure of the former.
pub(super) fn rules<C: ClientContext>(
    client: &Client<C>,
    resource: &Resource,
    timeout: Duration,
) -> Result<Vec<Rule>, Refusal> {
    use native::rd_kafka_ResourceType_t as Type;
    let (kind, name) = match resource {
        Resource::Topic(name) => (Type::RD_KAFKA_RESOURCE_TOPIC, name.as_str()),
        Resource::Group(name) => (Type::RD_KAFKA_RESOURCE_GROUP, name.as_str()),
        Resource::TransactionalId(name) => (Type::RD_KAFKA_RESOURCE_TRANSACTIONAL_ID, name.as_str()),
        // So does Kafka call it where it stores a rule.
        Resource::Cluster => (Type::RD_KAFKA_RESOURCE_BROKER, "kafka-cluster"),
    };
    let c_name = CString::new(name).map_err(|error| Refusal::Failed(error.to_string()))?;
    let mut text: [c_char; 256] = [0; 256];
    // SAFETY: the name is copied, the rest are constants; null stands for any principal and any host.
    let filter = unsafe {
        native::rd_kafka_AclBindingFilter_new(
            kind,
            c_name.as_ptr(),
            native::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_MATCH,
            ptr::null(),
            ptr::null(),
            native::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_ANY,
            native::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ANY,
            text.as_mut_ptr(),
            text.len(),
        )
    };
    if filter.is_null() {
        // SAFETY: the text was filled, and ends, by the call.
        return Err(Refusal::Failed(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned()));
    }
    let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBEACLS;
    // SAFETY: the filter is live, and copied by the request.
    let answer = request::ask(client, operation, false, timeout, |request| unsafe {
        native::rd_kafka_DescribeAcls(request.client, filter, request.options, request.queue);
    });
    // SAFETY: made above, destroyed once.
    unsafe { native::rd_kafka_AclBinding_destroy(filter) };
    let answer = answer.map_err(Refusal::of)?;
    // SAFETY: the event answers that request and is live; what is read belongs to it, and is copied.
    unsafe {
        let result = native::rd_kafka_event_DescribeAcls_result(answer.event());
        if result.is_null() {
            return Err(Refusal::of(RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG));
        }
        let mut count = 0;
        let found = native::rd_kafka_DescribeAcls_result_acls(result, &mut count);
        let rule = |index| {
            let binding = *found.add(index);
            let text = |text: *const c_char| CStr::from_ptr(text).to_string_lossy().into_owned();
            Some(Rule {
                principal: text(native::rd_kafka_AclBinding_principal(binding)),
                host: text(native::rd_kafka_AclBinding_host(binding)),
                operation: Operation::of(native::rd_kafka_AclBinding_operation(binding))?,
                allows: native::rd_kafka_AclBinding_permission_type(binding)
                    == native::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
            })
        };
        Ok((0..count).filter_map(rule).collect())
    }
}

/// What our user may do with the cluster as a whole. Blocks at most `timeout`.
pub(super) fn of_cluster<C: ClientContext>(client: &Client<C>, timeout: Duration) -> Result<Vec<Operation>, Refusal> {
    let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER;
    // SAFETY: only the objects of the request are used.
    let answer = request::ask(client, operation, true, timeout, |request| unsafe {
        native::rd_kafka_DescribeCluster(request.client, request.options, request.queue);
    });
    let answer = answer.map_err(Refusal::of)?;
    // SAFETY: the event answers that request and is live; what is read belongs to it, and is copied.
    unsafe {
        let result = native::rd_kafka_event_DescribeCluster_result(answer.event());
        if result.is_null() {
            return Err(Refusal::of(RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG));
        }
        let mut count = 0;
        let found = native::rd_kafka_DescribeCluster_result_authorized_operations(result, &mut count);
        Ok(operations(found, count))
    }
}

/// What our user may do with a consumer group, which need not exist. Blocks at most `timeout`.
pub(super) fn of_group<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> Result<Vec<Operation>, Refusal> {
    let c_name = CString::new(group).map_err(|error| Refusal::Failed(error.to_string()))?;
    let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
    let mut names = [c_name.as_ptr()];
    // SAFETY: the names are copied by the request.
    let answer = request::ask(client, operation, true, timeout, |request| unsafe {
        let (names, count) = (names.as_mut_ptr(), names.len());
        native::rd_kafka_DescribeConsumerGroups(request.client, names, count, request.options, request.queue);
    });
    let answer = answer.map_err(Refusal::of)?;
    // SAFETY: the event answers that request and is live; what is read belongs to it, and is copied.
    unsafe {
        let result = native::rd_kafka_event_DescribeConsumerGroups_result(answer.event());
        let mut count = 0;
        let groups = match result.is_null() {
            true => ptr::null_mut(),
            false => native::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count),
        };
        if count != 1 {
            return Err(Refusal::of(RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG));
        }
        let described = *groups;
        request::check(native::rd_kafka_ConsumerGroupDescription_error(described)).map_err(Refusal::of)?;
        let mut count = 0;
        let found = native::rd_kafka_ConsumerGroupDescription_authorized_operations(described, &mut count);
        Ok(operations(found, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(principal: &str, host: &str, operation: Operation, allows: bool) -> Rule {
        Rule { principal: principal.to_owned(), host: host.to_owned(), operation, allows }
    }

    #[test]
    fn a_rule_that_refuses_wins_and_silence_is_told_from_both() {
        let ours = |operation, allows| rule("User:a", "*", operation, allows);
        let write = |rules: &[Rule]| verdict(rules, "User:a", Operation::Write);
        assert_eq!(write(&[]), None);
        assert_eq!(write(&[rule("User:b", "*", Operation::Write, true), ours(Operation::Read, true)]), None);
        assert_eq!(write(&[ours(Operation::Write, true)]), Some(true));
        assert_eq!(write(&[rule("User:*", "*", Operation::All, true)]), Some(true));
        assert_eq!(write(&[ours(Operation::Write, true), rule("User:*", "*", Operation::All, false)]), Some(false));
        // Perhaps it is about another machine than ours.
        assert_eq!(
            write(&[ours(Operation::Write, true), rule("User:a", "10.0.0.9", Operation::All, false)]),
            Some(true)
        );
        assert_eq!(write(&[rule("User:a", "10.0.0.9", Operation::All, false)]), None);
    }

    #[test]
    fn whoever_may_write_may_describe_and_whoever_may_not_write_still_may() {
        let describe = |rules: &[Rule]| verdict(rules, "User:a", Operation::Describe);
        assert_eq!(describe(&[rule("User:a", "*", Operation::Write, true)]), Some(true));
        assert_eq!(describe(&[rule("User:a", "*", Operation::Write, false)]), None);
    }

    #[test]
    fn the_principal_is_the_one_that_the_brokers_see() {
        let plain = Kafka::plaintext("b:1");
        assert_eq!(principal(&plain).as_deref(), Some("User:ANONYMOUS"));
        let sasl = Kafka {
            security_protocol: SecurityProtocol::SaslSsl,
            sasl_username: Some("reader".to_owned()),
            ..plain.clone()
        };
        assert_eq!(principal(&sasl).as_deref(), Some("User:reader"));
        let anonymous = Kafka { security_protocol: SecurityProtocol::Ssl, ..plain };
        assert_eq!(principal(&anonymous).as_deref(), Some("User:ANONYMOUS"));
        let gone = Kafka { ssl_certificate_file: Some("/nowhere".into()), ..anonymous };
        assert_eq!(principal(&gone), None);
    }

    #[test]
    fn the_subject_of_a_certificate_begins_with_its_name() {
        use openssl::{asn1::Asn1Time, hash::MessageDigest, pkey::PKey, rsa::Rsa, x509::X509NameBuilder};
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        for (field, value) in [("C", "DE"), ("O", "Shop"), ("CN", "headwater")] {
            name.append_entry_by_text(field, value).unwrap();
        }
        let mut builder = X509::builder().unwrap();
        builder.set_subject_name(&name.build()).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let pem = builder.build().to_pem().unwrap();
        assert_eq!(subject(&pem).as_deref(), Some("User:CN=headwater,O=Shop,C=DE"));
    }
}
