//! What has not been read yet, against the time for which the brokers keep it.

use super::{LIMIT, analyzed, finding::Findings, kafka::Reached, lake};
use crate::{
    amount,
    analyze::{self, inspect::PartitionProgress},
    clock,
    config::model::Pipeline,
    kafka::{
        inspect::Settings,
        reader::{Extent, ReadError, Reader},
        tools,
    },
    lake::ledger::Progress,
    land,
    loss::{self, Loss},
};
use std::collections::BTreeMap;

const CHECK: &str = "retention";
/// Left of the retention when a warning is due: a quarter, but no less than this, nor than half.
const LITTLE_MS: i64 = 3 * 3_600_000;
/// Where a topic is bounded in bytes and has deleted records: so much of what it holds may be unread.
const UNREAD_SHARE: f64 = 0.75;

/// A stage's reading of a topic: by partition, where it stands.
struct Reading<'a> {
    topic: &'a str,
    stage: Stage<'a>,
}

enum Stage<'a> {
    Land(&'a BTreeMap<i32, Progress>),
    Analyze { job: &'a str, positions: BTreeMap<i32, &'a PartitionProgress> },
}

impl Reading<'_> {
    /// For people.
    fn reader(&self) -> String {
        match self.stage {
            Stage::Land(_) => "land".to_owned(),
            Stage::Analyze { job, .. } => format!("job {job}"),
        }
    }

    /// The stage's command.
    fn command(&self) -> &'static str {
        match self.stage {
            Stage::Land(_) => "land",
            Stage::Analyze { .. } => "analyze",
        }
    }

    fn has_begun(&self) -> bool {
        match &self.stage {
            Stage::Land(positions) => !positions.is_empty(),
            Stage::Analyze { positions, .. } => !positions.is_empty(),
        }
    }

    /// The offset at which a start would read on.
    fn next(&self, partition: i32) -> Option<i64> {
        match &self.stage {
            Stage::Land(positions) => positions.get(&partition).map(|progress| progress.next),
            // From the oldest record that an open window depends on.
            Stage::Analyze { positions, .. } => positions.get(&partition).map(|known| known.replay_offset),
        }
    }

    /// Why a partition cannot be gone on with.
    fn loss(&self, topic_id: &str, held: &Extent) -> Option<Loss> {
        let Extent { partition, first, end } = *held;
        match &self.stage {
            Stage::Land(positions) => {
                land::inspect::loss(self.topic, partition, positions.get(&partition)?, topic_id, first, end)
            }
            Stage::Analyze { job, positions } => {
                analyze::inspect::loss(job, positions.get(&partition)?, topic_id, first, end)
            }
        }
    }
}

fn readings<'a>(
    pipeline: &'a Pipeline,
    landed: &'a lake::Positions,
    analyzed: &'a analyzed::Positions,
) -> Vec<Reading<'a>> {
    let mut readings = Vec::new();
    for table in pipeline.land.iter().flat_map(|land| &land.tables) {
        // Without its ledgers nothing can be said.
        let Some(positions) = landed.get(&table.topic) else { continue };
        readings.push(Reading { topic: &table.topic, stage: Stage::Land(positions) });
    }
    for job in pipeline.analyze.iter().flat_map(|analyze| &analyze.jobs) {
        let Some((_, positions)) = analyzed.iter().find(|(id, _)| *id == job.id) else { continue };
        for input in &job.inputs {
            let of_topic = positions.iter().filter(|position| position.topic == input.topic);
            let positions = of_topic.map(|position| (position.partition, position)).collect();
            readings.push(Reading { topic: &input.topic, stage: Stage::Analyze { job: &job.name, positions } });
        }
    }
    readings
}

/// Compares positions with what the topics hold.
pub async fn examine(
    pipeline: &Pipeline,
    reached: &Reached,
    landed: &lake::Positions,
    analyzed: &analyzed::Positions,
    findings: &mut Findings,
) {
    for reading in readings(pipeline, landed, analyzed) {
        let Some(facts) = reached.topics.get(reading.topic) else { continue };
        let settings = reached.settings.get(reading.topic);
        if !reading.has_begun() {
            let message = format!(
                "{} has not begun: it will with the first record that is there{}",
                reading.reader(),
                words(settings)
            );
            findings.ok(CHECK, reading.topic, message);
            continue;
        }
        match look(pipeline, &reading, &facts.description.id.to_string()).await {
            Ok(Looked::Lost(losses)) => {
                let more = match losses.len() {
                    1 => String::new(),
                    count => format!(" (and so of {} more partitions)", count - 1),
                };
                let cure = format!(
                    "headwater {} {} -c FILE   # once; goes on with what is there",
                    reading.command(),
                    loss::argument(&losses)
                );
                let what = losses.first().map_or("", |loss| loss.what.as_str());
                findings.failure(CHECK, reading.topic, format!("{what}{more}"), Some(cure));
            }
            Ok(Looked::Behind(lag)) => tell(pipeline, &reading, judge(&lag, settings), findings),
            Err(error) => findings.not_checked(CHECK, reading.topic, format!("what is unread: {error}"), None),
        }
    }
}

fn tell(pipeline: &Pipeline, reading: &Reading<'_>, verdict: Verdict, findings: &mut Findings) {
    let (topic, reader) = (reading.topic, reading.reader());
    let cure = |setting, value: &str| Some(tools::set_topic(&pipeline.kafka, topic, setting, value));
    match verdict {
        Verdict::Good(message) => findings.ok(CHECK, topic, format!("{reader}: {message}")),
        Verdict::Near { message, setting, value } => {
            findings.warning(CHECK, topic, format!("{reader}: {message}"), cure(setting, &value));
        }
        Verdict::Over { message, setting, value } => {
            findings.failure(CHECK, topic, format!("{reader}: {message}"), cure(setting, &value));
        }
    }
}

enum Looked {
    /// Never empty.
    Lost(Vec<Loss>),
    Behind(Lag),
}

/// Holds a reading against what the topic holds now.
async fn look(pipeline: &Pipeline, reading: &Reading<'_>, topic_id: &str) -> Result<Looked, ReadError> {
    let held = read(pipeline, reading.topic, |reader| reader.extents()).await?;
    let losses: Vec<Loss> = held.iter().filter_map(|extent| reading.loss(topic_id, extent)).collect();
    if !losses.is_empty() {
        return Ok(Looked::Lost(losses));
    }
    let unread = held.iter().filter_map(|extent| {
        let next = reading.next(extent.partition)?;
        (next < extent.end).then_some(Extent { first: next.max(extent.first), ..*extent })
    });
    let unread: Vec<Extent> = unread.collect();
    let asked = unread.clone();
    let times = read(pipeline, reading.topic, move |reader| reader.first_timestamps(&asked, LIMIT)).await?;
    let offsets: i64 = unread.iter().map(|extent| extent.end - extent.first).sum();
    Ok(Looked::Behind(Lag {
        offsets: u64::try_from(offsets).unwrap_or(0),
        oldest_ms: times.values().min().map(|at| clock::now_ms() - at),
        unread_share: share(&held, &unread),
    }))
}

/// Asks with a reader of a topic, on a thread where it may block.
async fn read<T: Send + 'static>(
    pipeline: &Pipeline,
    topic: &str,
    question: impl FnOnce(&Reader) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    let (kafka, name) = (pipeline.kafka.clone(), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || question(&Reader::open(&kafka, &name)?)).await;
    asked.unwrap_or_else(|_| Err(ReadError::MissingTopic { topic: topic.to_owned() }))
}

/// What of a topic is unread.
#[derive(Debug, Clone, PartialEq)]
struct Lag {
    offsets: u64,
    /// Age of the oldest, where it could be read.
    oldest_ms: Option<i64>,
    /// Of the records that the partition with the greatest share holds; none where nothing was deleted yet.
    unread_share: Option<f64>,
}

fn share(held: &[Extent], unread: &[Extent]) -> Option<f64> {
    let shares = unread.iter().filter_map(|unread| {
        let held = held.iter().find(|held| held.partition == unread.partition && held.first > 0)?;
        Some((unread.end - unread.first) as f64 / (held.end - held.first).max(1) as f64)
    });
    shares.fold(None, |most: Option<f64>, share| Some(most.map_or(share, |most| most.max(share))))
}

#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    Good(String),
    /// Soon gone, unless the setting is given this value.
    Near {
        message: String,
        setting: &'static str,
        value: String,
    },
    /// To be deleted at any time.
    Over {
        message: String,
        setting: &'static str,
        value: String,
    },
}

fn limit(settings: Option<&Settings>, name: &str) -> Option<i64> {
    settings?.get(name)?.parse::<i64>().ok().filter(|limit| *limit >= 0)
}

fn words(settings: Option<&Settings>) -> String {
    match limit(settings, "retention.ms") {
        Some(kept) => format!(", kept for {}", amount::duration(kept)),
        None => String::new(),
    }
}

fn judge(lag: &Lag, settings: Option<&Settings>) -> Verdict {
    if lag.offsets == 0 {
        return Verdict::Good(format!("all is read{}", words(settings)));
    }
    // Markers of transactions take offsets too, so that they are not records, all of them.
    let behind = amount::counted(usize::try_from(lag.offsets).unwrap_or(usize::MAX), "offset");
    let age = lag
        .oldest_ms
        .map_or_else(String::new, |age| format!(", the oldest unread record {} old", amount::duration(age.max(0))));
    let unread = format!("{behind} behind{age}");
    // Or for ever, where there is no such number.
    let times = |kept: i64, more: i64| kept.checked_mul(more).map_or_else(|| "-1".to_owned(), |more| more.to_string());
    if let (Some(kept), Some(age)) = (limit(settings, "retention.ms"), lag.oldest_ms) {
        let left = kept - age;
        let setting = "retention.ms";
        if left <= 0 {
            let value = times(age, 4);
            let message = format!(
                "{unread}, and records are kept for {}: they may be deleted at any moment",
                amount::duration(kept)
            );
            return Verdict::Over { message, setting, value };
        }
        if left < (kept / 4).max(LITTLE_MS.min(kept / 2)) {
            let message = format!(
                "{unread}, and records are kept for {}: they are deleted in {}",
                amount::duration(kept),
                amount::duration(left)
            );
            return Verdict::Near { message, setting, value: times(kept, 2) };
        }
    }
    if let (Some(bytes), Some(share)) = (limit(settings, "retention.bytes"), lag.unread_share)
        && share > UNREAD_SHARE
    {
        let message = format!(
            "{unread}, {:.0} % of what a partition holds, and each is kept to {}: what comes in pushes out what was not read",
            share * 100.0,
            amount::bytes(u64::try_from(bytes).unwrap_or(0))
        );
        return Verdict::Near { message, setting: "retention.bytes", value: times(bytes, 2) };
    }
    Verdict::Good(format!("{unread}{}", words(settings)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn settings(pairs: &[(&str, i64)]) -> Settings {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect()
    }

    fn lag(oldest_ms: i64) -> Lag {
        Lag { offsets: 1_234, oldest_ms: Some(oldest_ms), unread_share: None }
    }

    #[test]
    fn a_lag_is_held_against_the_time_that_is_left() {
        let week = settings(&[("retention.ms", 168 * HOUR)]);
        assert!(matches!(judge(&lag(125 * HOUR), Some(&week)), Verdict::Good(_)));
        let near = judge(&lag(127 * HOUR), Some(&week));
        let Verdict::Near { message, setting, value } = near else { panic!("{near:?}") };
        assert!(message.contains("1,234 offsets behind") && message.contains("deleted in 1.7 d"), "{message}");
        assert_eq!((setting, value.as_str()), ("retention.ms", "1209600000"));
        assert!(matches!(judge(&lag(169 * HOUR), Some(&week)), Verdict::Over { .. }));
        // Few hours are few, also where they are more than a quarter; and half of a short time is enough.
        let day_half = settings(&[("retention.ms", 8 * HOUR)]);
        assert!(matches!(judge(&lag(4 * HOUR), Some(&day_half)), Verdict::Good(_)));
        assert!(matches!(judge(&lag(6 * HOUR), Some(&day_half)), Verdict::Near { .. }));
        let hour = settings(&[("retention.ms", HOUR)]);
        assert!(matches!(judge(&lag(HOUR / 4), Some(&hour)), Verdict::Good(_)));
        assert!(matches!(judge(&lag(HOUR * 2 / 3), Some(&hour)), Verdict::Near { .. }));
    }

    #[test]
    fn what_is_kept_for_ever_or_read_is_no_trouble() {
        let ever = settings(&[("retention.ms", -1)]);
        assert!(matches!(judge(&lag(10_000 * HOUR), Some(&ever)), Verdict::Good(_)));
        assert!(matches!(judge(&lag(10_000 * HOUR), None), Verdict::Good(_)));
        let none = Lag { offsets: 0, oldest_ms: None, unread_share: None };
        assert!(matches!(judge(&none, Some(&settings(&[("retention.ms", 1)]))), Verdict::Good(_)));
    }

    #[test]
    fn a_bound_in_bytes_is_near_where_most_of_what_is_held_is_unread() {
        let bounded = settings(&[("retention.ms", -1), ("retention.bytes", 1 << 30)]);
        let with = |share| Lag { unread_share: share, ..lag(HOUR) };
        assert!(matches!(judge(&with(Some(0.5)), Some(&bounded)), Verdict::Good(_)));
        assert!(matches!(judge(&with(None), Some(&bounded)), Verdict::Good(_)));
        let near = judge(&with(Some(0.9)), Some(&bounded));
        assert!(matches!(&near, Verdict::Near { setting: "retention.bytes", .. }), "{near:?}");
        let extent = |partition, first, end| Extent { partition, first, end };
        let held = [extent(0, 0, 100), extent(1, 50, 150)];
        assert_eq!(share(&held, &[extent(0, 0, 100)]), None, "nothing was deleted yet");
        assert_eq!(share(&held, &[extent(0, 0, 100), extent(1, 60, 150)]), Some(0.9));
    }
}
