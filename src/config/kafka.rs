//! The `kafka` section.

use super::{
    error::{Collector, Problem},
    model::{Kafka, SaslMechanism, Secret, SecurityProtocol},
    section::Section,
};
use std::collections::BTreeMap;

/// Properties that are set by Headwater itself, each with what to do instead.
const OWNED: &[(&str, &str)] = &[
    ("bootstrap.servers", "use kafka.brokers"),
    ("metadata.broker.list", "use kafka.brokers"),
    ("security.protocol", "use kafka.security_protocol"),
    ("ssl.ca.location", "use kafka.ssl_ca_file"),
    ("ssl.certificate.location", "use kafka.ssl_certificate_file"),
    ("ssl.key.location", "use kafka.ssl_key_file"),
    ("sasl.mechanism", "use kafka.sasl_mechanism"),
    ("sasl.mechanisms", "use kafka.sasl_mechanism"),
    ("sasl.username", "use kafka.sasl_username"),
    ("sasl.password", "use kafka.sasl_password_file"),
    ("transactional.id", "use capture.transactional_id"),
    ("compression.codec", "use capture.compression"),
    ("compression.type", "use capture.compression"),
    ("group.id", "use land.group"),
    ("group.instance.id", GUARANTEE),
    ("group.protocol", GUARANTEE),
    ("partition.assignment.strategy", GUARANTEE),
    ("acks", GUARANTEE),
    ("request.required.acks", GUARANTEE),
    ("enable.idempotence", GUARANTEE),
    ("enable.gapless.guarantee", GUARANTEE),
    ("isolation.level", GUARANTEE),
    ("enable.auto.commit", GUARANTEE),
    ("auto.commit.enable", GUARANTEE),
    ("enable.auto.offset.store", GUARANTEE),
    ("auto.offset.reset", GUARANTEE),
    ("enable.partition.eof", GUARANTEE),
    ("partitioner", GUARANTEE),
    ("allow.auto.create.topics", "use kafka.create_topics"),
    ("check.crcs", GUARANTEE),
];

const GUARANTEE: &str = "exactly-once delivery rests on its value";

/// `None` where something required is missing or wrong, which has then been reported.
pub fn build(kafka: &Section, errors: &mut Collector) -> Option<Kafka> {
    kafka.missing(errors, "brokers", "give the bootstrap servers as host:port[,host:port]");
    let security_protocol = protocol_of(kafka.choice("security_protocol").unwrap_or_default());
    let sasl_password = kafka.secret("sasl_password", errors);
    check_sasl(kafka, security_protocol, errors);
    check_ssl(kafka, security_protocol, errors);
    let sasl_mechanism = kafka.choice("sasl_mechanism").and_then(mechanism_of);
    let result = Kafka {
        brokers: compact(&kafka.text("brokers").unwrap_or_default()),
        security_protocol,
        sasl_mechanism,
        sasl_username: kafka.text("sasl_username"),
        sasl_password: sasl_password.map(Secret::new),
        ssl_ca_file: kafka.readable_file("ssl_ca_file", errors),
        ssl_certificate_file: kafka.readable_file("ssl_certificate_file", errors),
        ssl_key_file: kafka.readable_file("ssl_key_file", errors),
        create_topics: kafka.boolean("create_topics"),
        properties: properties(kafka, errors),
    };
    (!result.brokers.is_empty()).then_some(result)
}

fn compact(brokers: &str) -> String {
    brokers.split(',').map(str::trim).collect::<Vec<_>>().join(",")
}

fn check_sasl(kafka: &Section, protocol: SecurityProtocol, errors: &mut Collector) {
    let is_sasl = matches!(protocol, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl);
    if is_sasl {
        kafka.missing(errors, "sasl_mechanism", "kafka.security_protocol asks for it");
        kafka.missing(errors, "sasl_username", "kafka.security_protocol asks for it");
        if !kafka.has("sasl_password_file") {
            kafka.missing(
                errors,
                "sasl_password",
                "kafka.security_protocol asks for it, here or in sasl_password_file",
            );
        }
        return;
    }
    for name in ["sasl_mechanism", "sasl_username", "sasl_password", "sasl_password_file"] {
        if kafka.has(name) {
            let rule = "is given, but kafka.security_protocol is neither sasl_plaintext nor sasl_ssl";
            kafka.add(errors, name, Problem::Rule(rule.into()));
        }
    }
}

fn check_ssl(kafka: &Section, protocol: SecurityProtocol, errors: &mut Collector) {
    let is_ssl = matches!(protocol, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl);
    for name in ["ssl_ca_file", "ssl_certificate_file", "ssl_key_file"] {
        if !is_ssl && kafka.has(name) {
            let rule = "is given, but kafka.security_protocol is neither ssl nor sasl_ssl";
            kafka.add(errors, name, Problem::Rule(rule.into()));
        }
    }
    for (name, other) in [("ssl_certificate_file", "ssl_key_file"), ("ssl_key_file", "ssl_certificate_file")] {
        if kafka.has(name) {
            kafka.missing(errors, other, "certificate and key go together");
        }
    }
}

fn properties(kafka: &Section, errors: &mut Collector) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    for (name, value, origin) in kafka.properties("properties") {
        let lower = name.to_lowercase();
        match why_refused(&lower) {
            Some(reason) => {
                let rule = format!("cannot be set as a property: {reason}");
                if may_hold_secret(&lower) {
                    errors.hide(&value);
                }
                errors.add(&origin, format!("{}.{name}", kafka.path_of("properties")), Problem::Rule(rule));
            }
            None => {
                properties.insert(name, value);
            }
        }
    }
    properties
}

/// Properties are printed by `validate --show`, so that a secret among them is refused as well.
fn why_refused(name: &str) -> Option<String> {
    if let Some((_, reason)) = OWNED.iter().find(|(owned, _)| *owned == name) {
        return Some((*reason).to_owned());
    }
    if name.starts_with("sasl.") || name.starts_with("security.") {
        return Some("use the keys kafka.security_protocol and kafka.sasl_…".to_owned());
    }
    may_hold_secret(name)
        .then(|| "it may hold a secret, and properties are shown; use the files kafka.ssl_…_file".to_owned())
}

fn may_hold_secret(name: &str) -> bool {
    ["password", "secret", "token", ".pem", "ssl_", "keystore"].iter().any(|mark| name.contains(mark))
}

fn protocol_of(name: &str) -> SecurityProtocol {
    match name {
        "ssl" => SecurityProtocol::Ssl,
        "sasl_plaintext" => SecurityProtocol::SaslPlaintext,
        "sasl_ssl" => SecurityProtocol::SaslSsl,
        _ => SecurityProtocol::Plaintext,
    }
}

fn mechanism_of(name: &str) -> Option<SaslMechanism> {
    match name {
        "PLAIN" => Some(SaslMechanism::Plain),
        "SCRAM-SHA-256" => Some(SaslMechanism::ScramSha256),
        "SCRAM-SHA-512" => Some(SaslMechanism::ScramSha512),
        _ => None,
    }
}
