//! The dead letters of `capture`: records of the topic `capture.dead_letter_topic`, each of which tells of a row
//! that was too large to publish. They do not hold the row, so they are listed, shown and exported, and never
//! sent. What the topic's retention has removed is not here.

use super::{
    DlqError, Next, Take,
    filter::{Filter, Span},
    letter::{Body, Letter, Source},
};
use crate::{
    config::model::{Kafka, Pipeline},
    kafka::{
        reader::{self, Extent, ReadError, Reader, Record},
        topic,
    },
    record::reason::ROW_TOO_LARGE,
};
use serde::Deserialize;
use std::sync::Arc;

/// One pipeline's letters.
pub struct Captured {
    source: Arc<Source>,
    kafka: Kafka,
    topic: Arc<str>,
    topic_id: Arc<str>,
    extents: Vec<Extent>,
}

/// A record, as capture writes it.
#[derive(Deserialize)]
struct Told {
    table: String,
    key: String,
    bytes: u64,
}

impl Captured {
    /// A pipeline that captures nothing, or has never begun to, has none. Blocks.
    pub fn open(pipeline: &Pipeline) -> Result<Option<Captured>, DlqError> {
        let Some(capture) = &pipeline.capture else { return Ok(None) };
        let name = &capture.dead_letter_topic;
        let extents = match Reader::open(&pipeline.kafka, name).and_then(|reader| reader.extents()) {
            Err(ReadError::MissingTopic { .. }) => return Ok(None),
            extents => extents.map_err(failed)?,
        };
        Ok(Some(Captured {
            source: Arc::new(Source { pipeline: pipeline.name.clone(), stage: "capture", job: None }),
            kafka: pipeline.kafka.clone(),
            topic_id: topic::find(&pipeline.kafka, name)?.id.to_string().into(),
            topic: name.as_str().into(),
            extents,
        }))
    }

    /// Gives those of each partition in the order of their offsets.
    pub fn read(&self, filter: &Filter, with_body: bool, take: &mut Take<'_>) -> Result<Next, DlqError> {
        let (least, greatest) = filter.offsets();
        let may_hold = |extent: &&Extent| {
            let Extent { partition, first, end } = **extent;
            filter.may_hold(&Span { topic: &self.topic, partition, first, last: end - 1, day: None })
        };
        let bounded = |extent: &Extent| Extent {
            first: extent.first.max(least),
            end: extent.end.min(greatest.saturating_add(1)),
            ..*extent
        };
        let extents: Vec<Extent> =
            self.extents.iter().filter(may_hold).map(bounded).filter(|extent| extent.first < extent.end).collect();
        let mut taken = Ok(Next::Continue);
        if !extents.is_empty() {
            let reader = Reader::open(&self.kafka, &self.topic).map_err(failed)?;
            let read = reader.read(&extents, |record| {
                taken = take(self.letter(record, with_body));
                if matches!(taken, Ok(Next::Continue)) { reader::Next::Continue } else { reader::Next::Stop }
            });
            read.map_err(failed)?;
        }
        taken
    }

    fn letter(&self, record: &Record<'_>, with_body: bool) -> Letter {
        let told: Option<Told> = record.payload().and_then(|payload| serde_json::from_slice(payload).ok());
        let detail = match told {
            Some(Told { table, key, bytes }) => {
                format!("row {key} of table {table} takes {bytes} bytes, more than capture.max_row_bytes allows")
            }
            None => "the record does not say which row it was".to_owned(),
        };
        let written_us = record.timestamp_ms().map(|ms| ms.saturating_mul(1_000));
        let body = match with_body {
            true => Body {
                payload: record.payload().map(<[u8]>::to_vec),
                key: record.key().map(<[u8]>::to_vec),
                headers: record.headers(),
                headers_damaged: false,
            },
            false => Body::default(),
        };
        Letter {
            source: self.source.clone(),
            topic: self.topic.clone(),
            topic_id: self.topic_id.clone(),
            partition: record.partition(),
            offset: record.offset(),
            reason: ROW_TOO_LARGE.to_owned(),
            detail,
            refused_us: written_us.unwrap_or_default(),
            recorded_us: written_us,
            body,
            replayed: None,
        }
    }
}

fn failed(source: ReadError) -> DlqError {
    DlqError::Captured { source }
}
