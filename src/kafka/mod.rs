//! The only module that names the Kafka client.
//!
//! `producer` holds the transactional publisher of `capture`, `plain_producer` that of generated data,
//! `consumer` the reader of `land`, `partitions` that of `analyze`, `admin` topics and their ids,
//! `inspect` and `rights` what `doctor` asks the cluster. The client's calls block: each lives on a
//! thread of its own.

pub mod admin;
pub mod cluster;
pub mod complaint;
pub mod consumer;
pub mod header;
pub mod inspect;
mod log_end;
pub mod partitions;
pub mod plain_producer;
pub mod producer;
pub mod reach;
pub mod reader;
pub mod replay;
mod request;
pub mod rights;
pub mod tools;
pub mod topic;

use crate::config::model::{Kafka, SecurityProtocol};
use rdkafka::ClientConfig;

/// The settings that every client shares: addresses, security and the user's own properties.
pub fn client_config(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.brokers).set("client.id", "headwater");
    let protocol = match kafka.security_protocol {
        SecurityProtocol::Plaintext => "plaintext",
        SecurityProtocol::Ssl => "ssl",
        SecurityProtocol::SaslPlaintext => "sasl_plaintext",
        SecurityProtocol::SaslSsl => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(mechanism) = kafka.sasl_mechanism {
        use crate::config::model::SaslMechanism::*;
        let name = match mechanism {
            Plain => "PLAIN",
            ScramSha256 => "SCRAM-SHA-256",
            ScramSha512 => "SCRAM-SHA-512",
        };
        config.set("sasl.mechanism", name);
    }
    if let Some(user) = &kafka.sasl_username {
        config.set("sasl.username", user);
    }
    if let Some(password) = &kafka.sasl_password {
        config.set("sasl.password", password.reveal());
    }
    let files = [
        ("ssl.ca.location", &kafka.ssl_ca_file),
        ("ssl.certificate.location", &kafka.ssl_certificate_file),
        ("ssl.key.location", &kafka.ssl_key_file),
    ];
    for (property, file) in files {
        if let Some(file) = file {
            config.set(property, file.to_string_lossy());
        }
    }
    for (property, value) in &kafka.properties {
        config.set(property, value);
    }
    config
}

/// Sets what the user's own properties do not.
fn set_defaults(config: &mut ClientConfig, kafka: &Kafka, defaults: &[(&str, &str)]) {
    for (name, value) in defaults {
        if !kafka.properties.contains_key(*name) {
            config.set(*name, *value);
        }
    }
}
