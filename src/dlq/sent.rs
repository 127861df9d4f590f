//! Which letters were replayed: records of a compacted topic, each of which says it of about a million
//! offsets of a partition. They are written in the Kafka transactions of the messages that they vouch for.
//!
//! The key is `<round>/<topic id>/<partition>/<offset / 2^20>`. A topic made anew has another id, so that its
//! offsets are not those of the one before. The round is empty for what is sent for the first time, and a name
//! for what is sent again; within a round a letter is sent once.

use super::{DlqError, letter::Letter};
use crate::{
    config::model::Pipeline,
    kafka::{
        reach,
        replay::{self, Open},
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Raised when a record could no longer be read by an older version.
const FORMAT: u32 = 1;
/// Offsets of one record, as a power of two. At worst it is of 128 KiB.
const SHARD_BITS: u32 = 20;

#[derive(Debug, thiserror::Error)]
pub enum SentError {
    #[error(
        "topic {topic} holds a record of format {found} on what was replayed, and this version knows {FORMAT}: it was written by a newer Headwater, use that one"
    )]
    Newer { topic: String, found: u32 },
    #[error(
        "topic {topic} holds a record {key:?} that does not say what was replayed: name a topic of its own in dlq.replay_topic"
    )]
    Damaged { topic: String, key: String },
    #[error("what was replayed cannot be written: {0}")]
    Encode(String),
}

/// The offsets of one record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shard {
    topic_id: Arc<str>,
    partition: i32,
    number: u64,
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    /// For people.
    topic: String,
    /// The low bits of the offsets as a roaring bitmap in its portable form, base64.
    offsets: String,
}

#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

/// What was replayed, in all rounds, and what is being sent.
#[derive(Debug, Default)]
pub struct Sent {
    round: String,
    own: BTreeMap<Shard, RoaringBitmap>,
    /// Of other rounds.
    others: BTreeMap<Shard, RoaringBitmap>,
    /// With letters since the last [`Sent::take_records`], and the topic's name.
    touched: BTreeSet<(Shard, Arc<str>)>,
}

fn place(letter: &Letter) -> (Shard, u32) {
    let offset = letter.offset.max(0).unsigned_abs();
    let shard = Shard { topic_id: letter.topic_id.clone(), partition: letter.partition, number: offset >> SHARD_BITS };
    (shard, (offset & ((1 << SHARD_BITS) - 1)) as u32)
}

/// The name of the letters' topic, and their offsets, of a record of `topic`.
fn parse(topic: &str, key: &str, value: &[u8]) -> Result<(String, RoaringBitmap), SentError> {
    let damaged = || SentError::Damaged { topic: topic.to_owned(), key: key.to_owned() };
    let Versioned { format } = serde_json::from_slice(value).map_err(|_| damaged())?;
    if format > FORMAT {
        return Err(SentError::Newer { topic: topic.to_owned(), found: format });
    }
    let record: Record = serde_json::from_slice(value).map_err(|_| damaged())?;
    let bytes = STANDARD.decode(&record.offsets).map_err(|_| damaged())?;
    let offsets = RoaringBitmap::deserialize_from(bytes.as_slice()).map_err(|_| damaged())?;
    Ok((record.topic, offsets))
}

fn encode(topic: &str, mut offsets: RoaringBitmap) -> Result<Vec<u8>, SentError> {
    offsets.optimize();
    let mut bytes = Vec::with_capacity(offsets.serialized_size());
    offsets.serialize_into(&mut bytes).map_err(|error| SentError::Encode(error.to_string()))?;
    let record = Record { format: FORMAT, topic: topic.to_owned(), offsets: STANDARD.encode(bytes) };
    serde_json::to_vec(&record).map_err(|error| SentError::Encode(error.to_string()))
}

/// Records of the topic by their keys, as a backup keeps them.
pub type Records = BTreeMap<String, Vec<u8>>;

/// Every record of the pipeline's topic; none where it was never made. Blocks.
pub fn records(pipeline: &Pipeline) -> Result<Records, DlqError> {
    let topic = &pipeline.dlq.replay_topic;
    if !reach::topic_names(&pipeline.kafka, Duration::from_secs(10))?.contains(topic) {
        return Ok(Records::new());
    }
    let records = replay::latest_values(&pipeline.kafka, topic, Open::Settle, |_| true).map_err(DlqError::Replayed)?;
    Ok(records.into_iter().collect())
}

/// How many letters the records of `topic` name.
pub fn letters(topic: &str, records: &Records) -> Result<u64, SentError> {
    records.iter().map(|(key, value)| Ok(parse(topic, key, value)?.1.len())).sum()
}

/// The records by which `topic`, which holds `present`, comes to say also what `saved` says, and how many letters
/// it lacks. What was sent stays sent: of two records of a key both are right.
pub fn lacking(topic: &str, saved: &Records, present: &Records) -> Result<(Records, u64), SentError> {
    let (mut records, mut letters) = (Records::new(), 0);
    for (key, value) in saved {
        let (name, saved) = parse(topic, key, value)?;
        let known = present.get(key).map(|value| parse(topic, key, value)).transpose()?;
        let known = known.map(|(_, offsets)| offsets).unwrap_or_default();
        let new = saved.len() - saved.intersection_len(&known);
        if new > 0 {
            letters += new;
            records.insert(key.clone(), encode(&name, saved | known)?);
        }
    }
    Ok((records, letters))
}

impl Sent {
    /// Reads the pipeline's topic, for a run that sends the letters of `round` and has fenced all others.
    pub fn read(pipeline: &Pipeline, round: &str) -> Result<Sent, DlqError> {
        Sent::read_until(pipeline, round, Open::Settle)
    }

    fn read_until(pipeline: &Pipeline, round: &str, open: Open) -> Result<Sent, DlqError> {
        let topic = &pipeline.dlq.replay_topic;
        let records = replay::latest_values(&pipeline.kafka, topic, open, |_| true).map_err(DlqError::Replayed)?;
        Ok(Sent::of_records(topic, round, records)?)
    }

    /// The same for one that only tells; nothing where the topic was never made.
    pub fn read_if_there(pipeline: &Pipeline, round: &str) -> Result<Sent, DlqError> {
        let names = reach::topic_names(&pipeline.kafka, Duration::from_secs(10))?;
        match names.contains(&pipeline.dlq.replay_topic) {
            true => Sent::read_until(pipeline, round, Open::Ignore),
            false => Ok(Sent { round: round.to_owned(), ..Sent::default() }),
        }
    }

    fn of_records(
        topic: &str,
        round: &str,
        records: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<Sent, SentError> {
        let mut sent = Sent { round: round.to_owned(), ..Sent::default() };
        for (key, value) in records {
            let damaged = || SentError::Damaged { topic: topic.to_owned(), key: key.clone() };
            let (_, offsets) = parse(topic, &key, &value)?;
            let parts: Vec<&str> = key.split('/').collect();
            let [of_round, topic_id, partition, number] = parts.as_slice() else { return Err(damaged()) };
            let shard = Shard {
                topic_id: (*topic_id).into(),
                partition: partition.parse().map_err(|_| damaged())?,
                number: number.parse().map_err(|_| damaged())?,
            };
            let side = if *of_round == round { &mut sent.own } else { &mut sent.others };
            *side.entry(shard).or_default() |= offsets;
        }
        Ok(sent)
    }

    /// Whether a letter was replayed in any round.
    pub fn holds(&self, letter: &Letter) -> bool {
        let (shard, low) = place(letter);
        [&self.own, &self.others].iter().any(|side| side.get(&shard).is_some_and(|offsets| offsets.contains(low)))
    }

    /// Whether a letter is not to be sent: in the first round, where any has sent it; in a named one, where
    /// that one has.
    pub fn is_done(&self, letter: &Letter) -> bool {
        if self.round.is_empty() {
            return self.holds(letter);
        }
        let (shard, low) = place(letter);
        self.own.get(&shard).is_some_and(|offsets| offsets.contains(low))
    }

    /// Notes a letter as sent; it is true once the records of [`Sent::take_records`] are committed.
    pub fn note(&mut self, letter: &Letter) {
        let (shard, low) = place(letter);
        self.own.entry(shard.clone()).or_default().insert(low);
        self.touched.insert((shard, letter.topic.clone()));
    }

    /// Keys and values of the records that say what was noted since the last call.
    pub fn take_records(&mut self) -> Result<Vec<(String, Vec<u8>)>, SentError> {
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().map(|(shard, topic)| self.record(&shard, &topic)).collect()
    }

    fn record(&self, shard: &Shard, topic: &str) -> Result<(String, Vec<u8>), SentError> {
        let value = encode(topic, self.own.get(shard).cloned().unwrap_or_default())?;
        let Shard { topic_id, partition, number } = shard;
        Ok((format!("{}/{topic_id}/{partition}/{number}", self.round), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dlq::letter::{Body, Source};
    use proptest::prelude::*;

    fn letter(topic_id: &str, partition: i32, offset: i64) -> Letter {
        Letter {
            source: Source { pipeline: "p".to_owned(), stage: "land", job: None }.into(),
            topic: "t".into(),
            topic_id: topic_id.into(),
            partition,
            offset,
            reason: String::new(),
            detail: String::new(),
            refused_us: 0,
            recorded_us: None,
            body: Body::default(),
            replayed: None,
        }
    }

    /// What a later run finds, whose round is `round`.
    fn later(sent: &mut Sent, round: &str, before: Vec<(String, Vec<u8>)>) -> (Sent, Vec<(String, Vec<u8>)>) {
        // As in a compacted topic, the last record of a key counts.
        let mut records: BTreeMap<String, Vec<u8>> = before.into_iter().collect();
        records.extend(sent.take_records().unwrap());
        let records: Vec<_> = records.into_iter().collect();
        (Sent::of_records("replays", round, records.clone()).unwrap(), records)
    }

    #[test]
    fn a_letter_is_done_once_in_its_round() {
        let mut first = Sent::default();
        let one = letter("A", 0, 7);
        assert!(!first.is_done(&one));
        first.note(&one);
        assert!(first.is_done(&one), "also before it is committed");
        let (again, records) = later(&mut first, "", Vec::new());
        assert!(again.is_done(&one) && again.holds(&one));
        for other in [letter("B", 0, 7), letter("A", 1, 7), letter("A", 0, 8), letter("A", 0, 7 + (1 << 20))] {
            assert!(!again.is_done(&other), "{other:?}");
        }

        let (mut named, records) = later(&mut first, "fix-1", records);
        assert!(!named.is_done(&one) && named.holds(&one), "a named round sends it again");
        named.note(&one);
        named.note(&letter("A", 0, 9));
        let (named_later, records) = later(&mut named, "fix-1", records);
        assert!(named_later.is_done(&one), "and once");
        let (last, _) = later(&mut Sent::default(), "", records);
        assert!(last.is_done(&letter("A", 0, 9)), "what a named round has sent is not new to the first");
    }

    #[test]
    fn a_million_letters_are_one_record_of_a_few_bytes_or_at_most_128_kib() {
        let mut dense = Sent::default();
        let mut sparse = Sent::default();
        for offset in 0..1 << SHARD_BITS {
            dense.note(&letter("A", 0, offset));
            // The worst for a bitmap: no runs, many values.
            if offset % 2 == 0 {
                sparse.note(&letter("A", 0, offset));
            }
        }
        let records = dense.take_records().unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].0, "/A/0/0");
        assert!(records[0].1.len() < 1_000, "{}", records[0].1.len());
        let records = sparse.take_records().unwrap();
        assert!(records[0].1.len() < 200_000, "{}", records[0].1.len());
        assert_eq!(sparse.take_records().unwrap(), []);
    }

    /// The file is never made anew: what it holds lies in topics. A format of its own has a file of its own.
    #[test]
    fn the_stored_record_of_format_1_is_read_and_still_written_so() {
        let stored = include_bytes!("replay.1.json").to_vec();
        let at = |offset: i64| letter("A", 3, (2 << SHARD_BITS) + offset);
        let offsets: Vec<i64> = (0..100).chain([1_000, 65_600]).collect();
        let found = Sent::of_records("replays", "", [("/A/3/2".to_owned(), stored.clone())]).unwrap();
        assert_eq!((-1..70_000).filter(|offset| found.holds(&at(*offset))).collect::<Vec<_>>(), offsets);
        let mut written = Sent::default();
        offsets.iter().for_each(|offset| written.note(&at(*offset)));
        assert_eq!(written.take_records().unwrap(), [("/A/3/2".to_owned(), stored)]);
    }

    #[test]
    fn what_a_backup_says_is_added_to_what_is_there() {
        let records = |round: &str, offsets: &[i64]| -> Records {
            let mut sent = Sent { round: round.to_owned(), ..Sent::default() };
            offsets.iter().for_each(|offset| sent.note(&letter("A", 0, *offset)));
            sent.take_records().unwrap().into_iter().collect()
        };
        let saved: Records = records("", &[1, 2, 3]).into_iter().chain(records("again", &[2])).collect();
        assert_eq!(letters("replays", &saved).unwrap(), 4);
        assert_eq!(lacking("replays", &saved, &Records::new()).unwrap(), (saved.clone(), 4));
        assert_eq!(lacking("replays", &saved, &saved).unwrap(), (Records::new(), 0));
        let present = records("", &[3, 4]);
        let (put, count) = lacking("replays", &saved, &present).unwrap();
        assert_eq!((count, &put["/A/0/0"]), (3, &records("", &[1, 2, 3, 4])["/A/0/0"]));
        assert!(lacking("replays", &[("/A/0/0".to_owned(), b"{\"format\":9}".to_vec())].into(), &present).is_err());
    }

    #[test]
    fn records_of_others_and_of_newer_versions_are_refused_by_name() {
        let (key, value) = {
            let mut sent = Sent::default();
            sent.note(&letter("A", 0, 7));
            sent.take_records().unwrap().remove(0)
        };
        let refused = |key: &str, value: &[u8]| {
            Sent::of_records("replays", "", [(key.to_owned(), value.to_owned())]).unwrap_err().to_string()
        };
        let text = String::from_utf8(value.clone()).unwrap();
        assert!(refused(&key, text.replace("\"format\":1", "\"format\":2").as_bytes()).contains("newer Headwater"));
        assert!(refused(&key, b"{\"format\":9}").contains("newer Headwater"));
        for (key, value) in [("A/0/0", &*value), ("/A/x/0", &value), ("/A/0/-1", &value), (&key, b"x"), (&key, b"")] {
            assert!(refused(key, value).contains("dlq.replay_topic"), "{key}");
        }
    }

    proptest! {
        #[test]
        fn offsets_are_read_as_they_were_noted(offsets in prop::collection::btree_set(0..i64::MAX, 0..40)) {
            let mut sent = Sent::default();
            offsets.iter().for_each(|offset| sent.note(&letter("A", 3, *offset)));
            let (found, _) = later(&mut sent, "", Vec::new());
            for offset in &offsets {
                prop_assert!(found.holds(&letter("A", 3, *offset)));
                let next = offset + 1;
                prop_assert_eq!(found.holds(&letter("A", 3, next)), offsets.contains(&next));
            }
        }
    }
}
