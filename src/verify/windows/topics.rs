//! The topics of a job, read from their beginning: each record is an event, or a dead letter with its
//! exact bytes, or still under way.

use super::{
    WindowsError,
    decode::{Decoder, Position},
    event::Event,
    report::{Findings, Kind},
    spec::Spec,
    spill::Sorter,
    tables::{Letter, LettersOf, Progress, Tables},
};
use crate::{
    analyze::sentiment::Analyzer,
    config::model::{Input, Kafka},
    kafka::reader::{Extent, Next, Reader, Record},
    loss,
    record::reason::{Reason, Rejection},
    verify::progress,
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::runtime::Handle;

/// How many events tell of which time a partition's first remaining records are.
const FIRST_EVENTS: u32 = 1_000;
/// Removed records were of times up to this after the first that remain, or ten times as much as events
/// may be out of order.
const LEAST_SLACK_MS: i64 = 3_600_000;

/// What reading the topics needs and fills.
pub struct Topics<'a> {
    pub kafka: &'a Kafka,
    pub spec: &'a Spec,
    pub tables: &'a Tables<'a>,
    pub stored: &'a Progress,
    pub runtime: &'a Handle,
    pub now_ms: i64,
    pub sorter: Sorter,
    pub findings: Findings,
    pub warnings: Vec<String>,
    /// From when on all records of a window are there, where a topic has removed some.
    pub complete_from_ms: Option<i64>,
}

/// A partition as it is read.
struct Lane {
    next_offset: Option<i64>,
    /// That of the log, and of those that it has taken the place of.
    log_ids: Vec<String>,
    letters: VecDeque<Letter>,
    /// The last dead letter that was fetched, and whether there are more.
    fetched_offset: i64,
    has_more: bool,
    /// Of a partition that has lost records: how many of its first events are still to be looked at, and
    /// the newest of those that were.
    first_events: u32,
    first_ms: Option<i64>,
}

impl Lane {
    /// Whether it is of a log that was truncated since.
    fn is_past(&self, letter: &Letter) -> bool {
        self.log_ids.first() != Some(&letter.log_id)
    }

    /// Whether it is the letter of this record, which may have come in the place of another.
    fn is_of(&self, letter: &Letter, record: &Record<'_>) -> bool {
        !self.is_past(letter) || (letter.payload.as_deref(), letter.key.as_deref()) == (record.payload(), record.key())
    }
}

impl Topics<'_> {
    /// Reads the topic of one input. `extents` were taken after the job's progress.
    pub fn read(
        &mut self,
        number: usize,
        input: &Input,
        topic_id: &str,
        extents: &[Extent],
        sentiment: Arc<Analyzer>,
        progress: &mut progress::Progress,
    ) -> Result<(), WindowsError> {
        let spec = self.spec;
        let mut decoder = Decoder::new(number, input, &spec.fields[number], sentiment);
        let mut lanes: HashMap<i32, Lane> = HashMap::new();
        for extent in extents {
            let stored = self.stored.partitions.iter();
            let mut stored = stored.filter(|known| known.topic == input.topic && known.number == extent.partition);
            let known = stored.next();
            let log_ids = loss::logs_up_to(known.map_or(topic_id, |known| &known.topic_id));
            if log_ids.len() > 1 {
                self.warnings.push(format!(
                    "{}-{} was truncated and has grown again: windows that have counted lost records differ from these",
                    input.topic, extent.partition
                ));
            }
            let lane = Lane {
                next_offset: known.map(|known| known.next_offset),
                log_ids,
                letters: VecDeque::new(),
                fetched_offset: extent.first - 1,
                has_more: true,
                first_events: if extent.first > 0 { FIRST_EVENTS } else { 0 },
                first_ms: None,
            };
            lanes.insert(extent.partition, lane);
        }
        let reader = Reader::open(self.kafka, &input.topic)?;
        let mut failed = None;
        reader.read(extents, |record| {
            progress.row();
            let Some(lane) = lanes.get_mut(&record.partition()) else { return Next::Continue };
            match self.record(input, lane, &mut decoder, record) {
                Ok(()) => Next::Continue,
                Err(error) => {
                    failed = Some(error);
                    Next::Stop
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        for extent in extents {
            let Some(lane) = lanes.get_mut(&extent.partition) else { continue };
            // What remains are letters of records that are not there.
            self.letters_at(input, lane, extent.partition, i64::MAX)?;
            if extent.first > 0 {
                self.note_loss(input, extent, lane);
            }
        }
        Ok(())
    }

    fn record(
        &mut self,
        input: &Input,
        lane: &mut Lane,
        decoder: &mut Decoder<'_>,
        record: &Record<'_>,
    ) -> Result<(), WindowsError> {
        let (partition, offset) = (record.partition(), record.offset());
        if lane.next_offset.is_none_or(|next| offset >= next) {
            self.findings.counts.pending_records += 1;
            return Ok(());
        }
        let letters = self.letters_at(input, lane, partition, offset)?;
        let letter = letters.into_iter().find(|letter| lane.is_of(letter, record));
        let place = format!("{} {partition}/{offset}", input.topic);
        match (decoder.decode(record.payload(), Position { partition, offset }), letter) {
            (Ok(event), Some(letter)) if self.is_too_new(&event, letter.refused_ms) => {
                self.refused(&letter, Reason::InvalidTimestamp, record, place);
            }
            (Ok(event), letter) => {
                if let Some(letter) = letter {
                    let what = format!("a dead letter ({}), but the record is an event", letter.reason);
                    self.findings.add(Kind::Unexpected, event.key.clone(), place, what);
                }
                // One without a letter was accepted by the clock and the limit of then: its windows will show it.
                self.event(lane, &event)?;
            }
            (Err(Rejection { reason, .. }), Some(letter)) => self.refused(&letter, reason, record, place),
            (Err(Rejection { reason, detail }), None) => {
                let key = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
                let what = format!("no dead letter, but the record is no event: {} ({detail})", reason.name());
                self.findings.add(Kind::Missing, key, place, what);
            }
        }
        Ok(())
    }

    fn is_too_new(&self, event: &Event, clock_ms: i64) -> bool {
        event.at_ms > clock_ms.saturating_add(self.spec.max_future_ms)
    }

    fn event(&mut self, lane: &mut Lane, event: &Event) -> Result<(), WindowsError> {
        if lane.first_events > 0 {
            lane.first_events -= 1;
            lane.first_ms = lane.first_ms.max(Some(event.at_ms));
        }
        Ok(self.sorter.push(event)?)
    }

    fn refused(&mut self, letter: &Letter, reason: Reason, record: &Record<'_>, place: String) {
        *self.findings.counts.dead_letters.entry(reason.name().to_owned()).or_default() += 1;
        let wrong: Vec<String> = [
            (letter.reason != reason.name())
                .then(|| format!("error_reason is {}, not {}", letter.reason, reason.name())),
            (letter.payload.as_deref() != record.payload()).then(|| "raw_payload has other bytes".to_owned()),
            (letter.key.as_deref() != record.key()).then(|| "key has other bytes".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !wrong.is_empty() {
            let key = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
            self.findings.add(Kind::Differing, key, place, format!("the dead letter: {}", wrong.join("; ")));
        }
    }

    /// The dead letters of an offset, that of the newest log first; those passed on the way are of no record.
    fn letters_at(
        &mut self,
        input: &Input,
        lane: &mut Lane,
        partition: i32,
        offset: i64,
    ) -> Result<Vec<Letter>, WindowsError> {
        let mut found = Vec::new();
        let Some(until_offset) = lane.next_offset else { return Ok(found) };
        loop {
            if lane.letters.is_empty() && lane.has_more {
                let of = LettersOf { topic: &input.topic, log_ids: &lane.log_ids, partition, until_offset };
                lane.letters = self.runtime.block_on(self.tables.letters(&of, lane.fetched_offset))?.into();
                match lane.letters.back() {
                    Some(last) => lane.fetched_offset = last.offset,
                    None => lane.has_more = false,
                }
            }
            match lane.letters.front() {
                Some(letter) if letter.offset <= offset => {}
                _ => break,
            }
            match lane.letters.pop_front() {
                // Its record may have gone with the end of an older log.
                Some(letter) if letter.offset < offset && lane.is_past(&letter) => {}
                Some(letter) if letter.offset < offset => {
                    let key = String::from_utf8_lossy(letter.key.as_deref().unwrap_or_default()).into_owned();
                    let place = format!("{} {partition}/{}", input.topic, letter.offset);
                    let what = format!("a dead letter ({}), but there is no such record", letter.reason);
                    self.findings.add(Kind::Unexpected, key, place, what);
                }
                letter => found.extend(letter),
            }
        }
        found.sort_by_key(|letter| lane.log_ids.iter().position(|id| *id == letter.log_id));
        Ok(found)
    }

    /// The partition has lost its oldest records: windows that may have held some are not compared.
    fn note_loss(&mut self, input: &Input, extent: &Extent, lane: &Lane) {
        let Spec { watermark_delay_ms, allowed_lateness_ms, .. } = self.spec;
        let slack_ms = LEAST_SLACK_MS.max(10 * (watermark_delay_ms + allowed_lateness_ms));
        let from_ms = match lane.first_ms {
            Some(first_ms) => first_ms + slack_ms,
            None => {
                self.warnings.push(format!(
                    "{}-{} has no event left: windows are compared as far as its retention.ms of the configuration tells",
                    input.topic, extent.partition
                ));
                self.now_ms - input.retention_ms.max(0) + self.spec.max_future_ms
            }
        };
        self.complete_from_ms = self.complete_from_ms.max(Some(from_ms));
    }
}
