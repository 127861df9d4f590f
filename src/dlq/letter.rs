//! A dead letter, whichever store holds it.

use crate::record::{
    headers::{self, Headers},
    time::MICROS_PER_DAY,
};
use serde::Serialize;
use std::{fmt, str::FromStr, sync::Arc};

/// The store that a letter was found in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    pub pipeline: String,
    /// `capture`, `land` or `analyze`.
    pub stage: &'static str,
    /// Of `analyze`.
    pub job: Option<String>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.job {
            Some(job) => write!(f, "{} {job}", self.stage),
            None => f.write_str(self.stage),
        }
    }
}

/// What a record was, to the byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// None for a tombstone.
    pub payload: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
    pub headers: Headers,
    /// Whether they could not be read as they are stored: then none are given.
    pub headers_damaged: bool,
}

impl Body {
    /// `headers` is their stored form.
    pub fn stored(payload: Option<Vec<u8>>, key: Option<Vec<u8>>, headers: Option<&str>) -> Body {
        let decoded = headers::decode(headers);
        let headers_damaged = decoded.is_err();
        Body { payload, key, headers: decoded.unwrap_or_default(), headers_damaged }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub source: Arc<Source>,
    pub topic: Arc<str>,
    /// Kafka's id of the topic; where nothing remembers it, the topic's name and how often it had been made
    /// anew, which no id looks like.
    pub topic_id: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    pub reason: String,
    pub detail: String,
    /// When it was refused, microseconds since 1970.
    pub refused_us: i64,
    /// Kafka's timestamp of the record, microseconds since 1970.
    pub recorded_us: Option<i64>,
    /// Empty where the reader did not ask for it.
    pub body: Body,
    /// None where it is not known.
    pub replayed: Option<bool>,
}

impl Letter {
    pub fn id(&self) -> Id {
        Id { topic: self.topic.to_string(), partition: self.partition, offset: self.offset }
    }

    /// UTC day of the record, as days since 1970: that of its timestamp, else that of its refusal.
    pub fn day(&self) -> i32 {
        let day = self.recorded_us.unwrap_or(self.refused_us).div_euclid(MICROS_PER_DAY);
        i32::try_from(day).unwrap_or(if day < 0 { i32::MIN } else { i32::MAX })
    }

    /// Bytes of the payload.
    pub fn size(&self) -> usize {
        self.body.payload.as_ref().map_or(0, Vec::len)
    }
}

/// `topic/partition/offset`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Id {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> String {
        id.to_string()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no record: give TOPIC PARTITION OFFSET, or topic/partition/offset as list and export print it")]
pub struct NoId(String);

impl FromStr for Id {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Id, NoId> {
        // A topic's name holds no slash.
        let parts: Vec<&str> = text.split('/').collect();
        let wrong = || NoId(text.to_owned());
        let [topic, partition, offset] = parts.as_slice() else { return Err(wrong()) };
        let partition = partition.parse().ok().filter(|partition| *partition >= 0).ok_or_else(wrong)?;
        let offset = offset.parse().ok().filter(|offset| *offset >= 0).ok_or_else(wrong)?;
        if topic.is_empty() { Err(wrong()) } else { Ok(Id { topic: (*topic).to_owned(), partition, offset }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_printed() {
        let id: Id = "shop-7-orders.x/3/1234".parse().unwrap();
        assert_eq!(id, Id { topic: "shop-7-orders.x".to_owned(), partition: 3, offset: 1234 });
        assert_eq!(id.to_string(), "shop-7-orders.x/3/1234");
        for wrong in ["", "orders", "orders/3", "orders/3/x", "orders/-1/2", "orders/1/-2", "/1/2", "a/b/1/2"] {
            assert!(wrong.parse::<Id>().unwrap_err().to_string().contains("TOPIC PARTITION OFFSET"), "{wrong}");
        }
    }
}
