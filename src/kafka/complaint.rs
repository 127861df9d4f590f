//! Why the client does not get through.
//!
//! librdkafka's calls answer "timed out" or "all brokers down"; the cause (a refused password, a
//! certificate, a name that does not resolve) is told only to callbacks, which run while the client is
//! polled. [`Complaints`] is the context that keeps the last of them, for messages that name the cure.

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use std::sync::{Arc, Mutex, MutexGuard};

const CLOSED: &str = "connections are taken and closed without a word, as by a proxy whose broker is away, or by a listener of another security protocol";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No answer: away, starting, or not to be found under this name. Waiting may help.
    Unreachable,
    /// The broker does not take the user, the password or the mechanism.
    Credentials,
    /// The TLS handshake ended with a refusal, by either side.
    Tls,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    pub cause: Cause,
    /// In librdkafka's words, which begin with the broker's address.
    pub text: String,
}

impl Complaint {
    /// Whether the other side has answered and refused, so that waiting does not help.
    pub fn is_refusal(&self) -> bool {
        self.cause != Cause::Unreachable
    }
}

/// A client context that logs what the client says and keeps its last complaint. Cheap to clone;
/// clones share what they keep.
#[derive(Debug, Clone, Default)]
pub struct Complaints(Arc<Mutex<Option<Complaint>>>);

impl Complaints {
    pub fn last(&self) -> Option<Complaint> {
        self.lock().clone()
    }

    /// `reason`, followed by the last complaint where there is one.
    pub fn explain(&self, reason: &str) -> String {
        match self.last() {
            Some(complaint) if !reason.contains(&complaint.text) => format!("{reason}: {}", complaint.text),
            _ => reason.to_owned(),
        }
    }

    /// Forgets the last complaint: the client has got through.
    pub fn clear(&self) {
        self.lock().take();
    }

    /// For contexts that hold this one: keeps what the client reported.
    pub fn note(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut last = self.lock();
        if code != RDKafkaErrorCode::AllBrokersDown {
            *last = Some(Complaint { cause: cause(code), text: reason.to_owned() });
        } else if last.is_none() {
            // It follows the single brokers' errors and says less; that there were none means that
            // every connection was taken and then closed.
            *last = Some(Complaint { cause: Cause::Unreachable, text: CLOSED.to_owned() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Complaint>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn cause(code: RDKafkaErrorCode) -> Cause {
    match code {
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => Cause::Credentials,
        RDKafkaErrorCode::SSL => Cause::Tls,
        _ => Cause::Unreachable,
    }
}

impl ClientContext for Complaints {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("Kafka client: {error}: {reason}");
        self.note(&error, reason);
    }
}

impl ConsumerContext for Complaints {}

/// A line of the client's own log. Its errors are ours only once they stop something: the stage then
/// says so by itself, so that a broker's restart is not a page of errors here.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Debug => tracing::trace!(facility, "Kafka client: {message}"),
        _ => tracing::debug!(facility, "Kafka client: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cause_is_kept_and_not_hidden_by_all_brokers_down() {
        let complaints = Complaints::default();
        let report = |code, text| complaints.note(&KafkaError::Global(code), text);
        report(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        assert_eq!(complaints.explain("timed out"), format!("timed out: {CLOSED}"));
        assert!(complaints.last().is_some_and(|complaint| !complaint.is_refusal()));
        report(RDKafkaErrorCode::Authentication, "ssl://a:1/bootstrap: invalid credentials");
        report(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        let last = complaints.last().unwrap();
        assert_eq!((last.cause, last.is_refusal()), (Cause::Credentials, true));
        report(RDKafkaErrorCode::SSL, "ssl://a:1/bootstrap: handshake failed");
        assert_eq!(complaints.last().unwrap().cause, Cause::Tls);
        complaints.clear();
        assert_eq!(complaints.explain("timed out"), "timed out");
    }
}
