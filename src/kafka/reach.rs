//! Whether the brokers can be reached and take us, and if not, why, with the key to set.

use super::{
    admin::AdminError,
    client_config,
    cluster::Cluster,
    complaint::{Cause, Complaint, Complaints},
};
use crate::config::model::Kafka;
use openssl::{
    ssl::{HandshakeError, SslConnector, SslMethod, SslVerifyMode},
    x509::{X509Ref, X509VerifyResult},
};
use rdkafka::{
    error::KafkaError as ClientError,
    producer::{BaseProducer, NoCustomPartitioner, Producer, ProducerContext},
};
use std::{
    collections::HashSet,
    net::{TcpStream, ToSocketAddrs},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

impl ProducerContext<NoCustomPartitioner> for Complaints {
    type DeliveryOpaque = ();
    fn delivery(&self, _: &rdkafka::message::DeliveryResult<'_>, (): Self::DeliveryOpaque) {}
}

/// How long a broker that is known to be away is asked again: the caller has its own patience.
const AWAY_LIMIT: Duration = Duration::from_secs(2);

/// The names of all topics: see [`cluster`].
pub fn topic_names(kafka: &Kafka, limit: Duration) -> Result<HashSet<String>, AdminError> {
    Ok(cluster(kafka, limit)?.topics.into_keys().collect())
}

/// Asks the brokers which brokers and topics there are, for at most `limit`; returns sooner where they
/// are away, and at once where they refuse us. Blocks.
pub fn cluster(kafka: &Kafka, limit: Duration) -> Result<Cluster, AdminError> {
    let complaints = Complaints::default();
    // The cheapest client that hands its errors to the context: an admin client never does.
    let client: BaseProducer<Complaints> = client_config(kafka)
        .create_with_context(complaints.clone())
        .map_err(|source| AdminError::Settings { source })?;
    let start = Instant::now();
    // Short at first, to look for complaints soon; longer then, for lines that are slow. The connection
    // is made in the background, whatever the patience of a single call.
    let mut patience = Duration::from_millis(250);
    loop {
        let metadata = client.client().fetch_metadata(None, patience);
        // Hands the errors that came meanwhile to the context, one after the other until the time is over.
        client.poll(Duration::from_millis(20));
        let source = match metadata {
            Ok(metadata) => return Ok(Cluster::of(&metadata)),
            Err(source) => source,
        };
        let last = complaints.last();
        let is_over = match &last {
            Some(complaint) => complaint.is_refusal() || start.elapsed() >= AWAY_LIMIT.min(limit),
            None => start.elapsed() >= limit,
        };
        if is_over {
            return Err(explain(kafka, source, last));
        }
        patience = (patience * 2).min(Duration::from_secs(1));
    }
}

/// The error of a client that does not get through, from what its context has kept.
pub fn explain(kafka: &Kafka, source: ClientError, complaint: Option<Complaint>) -> AdminError {
    let brokers = kafka.brokers.clone();
    let Some(Complaint { cause, text }) = complaint else {
        return AdminError::Unreachable { brokers, reason: source.to_string() };
    };
    match cause {
        Cause::Unreachable => match told_address(&text) {
            Some(address) if !brokers.split(',').any(|known| known.trim() == address) => {
                AdminError::Elsewhere { address: address.to_owned(), brokers, reason: text }
            }
            _ => AdminError::Unreachable { brokers, reason: text },
        },
        Cause::Credentials => AdminError::Credentials { brokers, reason: text },
        Cause::Tls => {
            // librdkafka says of every certificate that it "could not be verified".
            let verdict = broker_address(&text).and_then(|(host, port)| certificate_verdict(kafka, host, port));
            let reason = verdict.map_or(text.clone(), |verdict| format!("{verdict} ({text})"));
            AdminError::Tls { brokers, reason }
        }
    }
}

/// The address in a complaint such as `host:9092/1: Connect to … failed`, where it is one that a broker has told of
/// itself: its number follows rather than the word `bootstrap`.
fn told_address(complaint: &str) -> Option<&str> {
    let complaint = complaint.split_once("://").map_or(complaint, |(_, rest)| rest);
    let (address, rest) = complaint.split_once('/')?;
    let (number, _) = rest.split_once(':')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !address.contains(' ')).then_some(address)
}

/// Host and port of a complaint such as `sasl_ssl://host:9093/bootstrap: SSL handshake failed: …`.
fn broker_address(complaint: &str) -> Option<(&str, u16)> {
    let (_, rest) = complaint.split_once("://")?;
    let address = rest.split(['/', ' ']).next()?.trim_end_matches(':');
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

/// Shakes hands with the broker once more and says what is wrong with its certificate; none where
/// nothing is.
fn certificate_verdict(kafka: &Kafka, host: &str, port: u16) -> Option<String> {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).ok()?;
    if let Some(file) = &kafka.ssl_ca_file {
        builder.set_ca_file(file).ok()?;
    }
    let shown = Arc::new(Mutex::new(None));
    let shown_later = shown.clone();
    builder.set_verify_callback(SslVerifyMode::PEER, move |is_valid, chain| {
        // The certificate itself is gone once the handshake has failed.
        if let (Some(certificate), Ok(mut shown)) = (chain.chain().and_then(|chain| chain.get(0)), shown.lock()) {
            *shown = Some(names(certificate));
        }
        is_valid
    });
    let limit = Duration::from_secs(3);
    let address = (host, port).to_socket_addrs().ok()?.next()?;
    let stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    let Err(HandshakeError::Failure(handshake)) = builder.build().connect(host, stream) else { return None };
    let verdict = handshake.ssl().verify_result();
    if verdict == X509VerifyResult::OK {
        return None;
    }
    let names = shown_later.lock().ok()?.take().unwrap_or_default();
    Some(format!("the certificate of {host}:{port} (for {names}): {}", verdict.error_string()))
}

/// The names that a certificate is for.
fn names(certificate: &X509Ref) -> String {
    let names = certificate.subject_alt_names().into_iter().flatten();
    let names: Vec<String> = names
        .filter_map(|name| match name.ipaddress() {
            Some([a, b, c, d]) => Some(format!("{a}.{b}.{c}.{d}")),
            _ => name.dnsname().map(str::to_owned),
        })
        .collect();
    if names.is_empty() { "no host".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_a_broker_told_is_known_from_ours() {
        for (complaint, address) in [
            ("10.0.0.7:9092/1: Connect to ipv4#10.0.0.7:9092 failed: Connection refused", Some("10.0.0.7:9092")),
            ("sasl_ssl://kafka:9093/12: Failed to resolve 'kafka:9093'", Some("kafka:9093")),
            ("127.0.0.1:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed", None),
            ("1/1 brokers are down", None),
        ] {
            assert_eq!(told_address(complaint), address, "{complaint}");
        }
        let explain = |brokers: &str| {
            let text = "10.0.0.7:9092/1: Connect to ipv4#10.0.0.7:9092 failed".to_owned();
            let complaint = Complaint { cause: Cause::Unreachable, text };
            super::explain(&Kafka::plaintext(brokers), ClientError::Canceled, Some(complaint))
        };
        assert!(
            matches!(explain("localhost:9092"), AdminError::Elsewhere { address, .. } if address == "10.0.0.7:9092")
        );
        assert!(matches!(explain("localhost:9092, 10.0.0.7:9092"), AdminError::Unreachable { .. }));
    }

    #[test]
    fn the_broker_is_found_in_a_complaint() {
        for (complaint, address) in [
            ("sasl_ssl://kafka.example:9093/bootstrap: SSL handshake failed", Some(("kafka.example", 9093))),
            ("ssl://127.0.0.1:9093/1: SSL handshake failed", Some(("127.0.0.1", 9093))),
            ("[thrd:ssl://[::1]:9093/1]: ssl://[::1]:9093/1: no", Some(("::1", 9093))),
            ("ssl://a:9093: no", Some(("a", 9093))),
            ("1/1 brokers are down", None),
        ] {
            assert_eq!(broker_address(complaint), address, "{complaint}");
        }
    }
}
