//! What a job tells: its state and detail for `/ready` and `/status`, its metrics, its sums at the end.

use super::{
    newest,
    store::{Flush, Flushed, PartitionProgress},
    window::{Added, Engine},
};
use crate::{
    clock,
    config::model::Job,
    health::{Letters, Moment, State, Unit, Window, Windows},
    kafka::{consumer::Record, partitions::Partition},
    metrics,
    record::reason::Reason,
    stage::{Failure, Summary},
};
use chrono::SecondsFormat;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

const SHOW_INTERVAL: Duration = Duration::from_secs(1);

/// What became of a record, as the metric's label says it.
const OUTCOMES: [&str; 6] = ["counted", "partly_late", "late", "duplicate", "future", "dead_letter"];
const DEAD_LETTER: usize = 5;

/// Why a job does not get on, of either side; both look at it.
#[derive(Clone)]
pub struct Trouble {
    unit: Unit,
    reason: Arc<Mutex<Option<String>>>,
}

impl Trouble {
    /// With a reason each time that an attempt fails.
    pub fn set(&self, reason: Option<String>) {
        if reason.is_some() {
            self.unit.failed();
        }
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    fn get(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub struct Report {
    unit: Unit,
    topics: Vec<String>,
    columns: Windows,
    summary: Summary,
    /// Of flushes that do not get through.
    pub store: Trouble,
    kafka: Option<String>,
    /// By input and outcome, since they were last shown.
    events: Vec<[u64; OUTCOMES.len()]>,
    bytes: u64,
    shown: Option<Instant>,
    epoch: i64,
    last_commit_ms: Option<i64>,
    /// Where reading goes on after a restart, by topic and partition, as it is committed.
    positions: BTreeMap<(String, i32), i64>,
    /// Of the flush under way: rows by kind, moments by type, dead letters by reason, late events.
    taken: Taken,
    totals: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
struct Taken {
    at_ms: i64,
    kinds: [u64; 3],
    moments: BTreeMap<String, u64>,
    reasons: BTreeMap<String, u64>,
    letters: Letters,
    windows: Vec<Window>,
    newest_moments: Vec<Moment>,
    positions: Vec<((String, i32), i64)>,
}

const KINDS: [&str; 3] = ["provisional", "final", "revised"];

impl Report {
    /// Without a job where the report only says that the unit has ended.
    pub fn new(unit: Unit, job: Option<&Job>) -> Report {
        let labels = [unit.id().pipeline.as_str(), unit.id().unit.as_str()];
        metrics::ANALYZE_FLUSH_ERRORS.begin(&labels);
        metrics::ANALYZE_LATE.begin(&labels);
        for kind in KINDS {
            metrics::ANALYZE_WINDOWS.begin(&[labels[0], labels[1], kind]);
        }
        for reason in Reason::ALL {
            metrics::ANALYZE_DEAD_LETTERS.begin(&[labels[0], labels[1], reason.name()]);
        }
        let topics: Vec<String> = job.iter().flat_map(|job| &job.inputs).map(|input| input.topic.clone()).collect();
        Report {
            store: Trouble { unit: unit.clone(), reason: Arc::default() },
            unit,
            columns: job.map(newest::columns).unwrap_or_default(),
            events: vec![[0; OUTCOMES.len()]; topics.len()],
            topics,
            summary: Summary::default(),
            kafka: None,
            bytes: 0,
            shown: None,
            epoch: 0,
            last_commit_ms: None,
            positions: BTreeMap::new(),
            taken: Taken::default(),
            totals: BTreeMap::new(),
        }
    }

    pub fn into_summary(self) -> Summary {
        self.summary
    }

    pub fn set(&self, state: State) {
        self.unit.set(state);
    }

    /// Counts an attempt that has failed.
    pub fn failed(&self) {
        self.unit.failed();
    }

    fn labels(&self) -> [&str; 2] {
        let id = self.unit.id();
        [&id.pipeline, &id.unit]
    }

    /// This instance writes the job's windows from now on, and goes on from `stored`.
    pub fn leads(&mut self, epoch: i64, stored: &[PartitionProgress]) {
        self.epoch = epoch;
        self.positions = stored.iter().map(position).collect();
        metrics::ANALYZE_LEADER.set(&self.labels(), 1.0);
        self.unit.set(State::Starting);
    }

    pub fn stands_by(&self, holder: &str) {
        metrics::ANALYZE_LEADER.set(&self.labels(), 0.0);
        let job = &self.unit.id().unit;
        self.unit.set(State::StandingBy(format!("job {job} is led by {holder}; this process takes over when it ends")));
    }

    /// The unit ends here, until somebody acts, or for something it needs has stayed away.
    pub fn stop(&mut self, reason: String, unavailable: bool) {
        metrics::ANALYZE_LEADER.set(&self.labels(), 0.0);
        self.unit.set(State::Stopped(reason.clone()));
        self.summary.failures.push(Failure { unit: self.unit.id().unit.clone(), reason, unavailable });
    }

    /// One record, of the input with this number.
    #[inline]
    pub fn count(&mut self, input: usize, added: Added, record: &Record<'_>) {
        let outcome = match added {
            Added::Counted => 0,
            Added::PartlyLate => 1,
            Added::Late => 2,
            Added::Duplicate => 3,
            Added::Future => 4,
            // Told by the process that read it first.
            Added::Replayed => return,
        };
        self.events[input][outcome] += 1;
        self.bytes += record.payload.map_or(0, <[u8]>::len) as u64;
    }

    pub fn dead_letter(&mut self, input: usize) {
        self.events[input][DEAD_LETTER] += 1;
    }

    pub fn kafka_trouble(&mut self, reason: Option<String>) {
        if reason.is_some() {
            self.unit.failed();
        }
        self.kafka = reason;
    }

    /// A flush is on its way.
    pub fn taken(&mut self, flush: &Flush) {
        let mut taken = Taken { at_ms: flush.now_ms, ..Taken::default() };
        for row in &flush.rows {
            let kind = match (row.is_final, row.revision) {
                (false, _) => 0,
                (true, 0) => 1,
                (true, _) => 2,
            };
            taken.kinds[kind] += 1;
        }
        for moment in &flush.moments {
            *taken.moments.entry(moment.moment_type.clone()).or_default() += 1;
        }
        for letter in &flush.dead_letters {
            *taken.reasons.entry(letter.reason.clone()).or_default() += 1;
        }
        taken.positions = flush.partitions.iter().map(position).collect();
        taken.letters = newest::letters(&flush.dead_letters);
        taken.windows = newest::windows(&flush.rows);
        taken.newest_moments = newest::moments(&flush.moments);
        self.taken = taken;
    }

    /// It is committed.
    pub fn committed(&mut self, _: &Flushed) {
        let Taken { at_ms, kinds, moments, reasons, letters, windows, newest_moments, positions } =
            std::mem::take(&mut self.taken);
        self.positions.extend(positions);
        self.unit.committed(at_ms, reasons.values().sum(), letters);
        self.unit.windows(&self.columns, windows);
        self.unit.moments(newest_moments);
        let [pipeline, job] = self.labels();
        for (kind, count) in KINDS.into_iter().zip(kinds).filter(|(_, count)| *count > 0) {
            metrics::ANALYZE_WINDOWS.add(&[pipeline, job, kind], count);
        }
        for (moment, count) in &moments {
            metrics::ANALYZE_MOMENTS.add(&[pipeline, job, moment], *count);
        }
        for (reason, count) in &reasons {
            metrics::ANALYZE_DEAD_LETTERS.add(&[pipeline, job, reason], *count);
        }
        for (kind, count) in KINDS.into_iter().zip(kinds) {
            *self.totals.entry(kind).or_default() += count;
        }
        *self.totals.entry("moments").or_default() += moments.values().sum::<u64>();
        for (reason, count) in reasons {
            *self.summary.dead_letters.entry(reason).or_default() += count;
        }
        self.last_commit_ms = Some(at_ms);
    }

    /// Once a second: state, metrics and detail. `lanes` are the partitions, each with its position, whether its
    /// end was met, and the end of its log where it is known; `standing` says why no window ends.
    pub fn show<'a>(
        &mut self,
        engine: &Engine,
        lanes: impl Iterator<Item = (&'a Partition, i64, bool, Option<i64>)>,
        standing: Option<String>,
        now_ms: i64,
    ) {
        if self.shown.is_some_and(|shown| shown.elapsed() < SHOW_INTERVAL) {
            return;
        }
        self.shown = Some(Instant::now());
        self.show_events();
        let mut partitions = serde_json::Map::new();
        let mut is_at_end = true;
        let [pipeline, job] = self.labels();
        for (Partition { topic, number }, position, is_met, end) in lanes {
            is_at_end &= is_met;
            let lag = end.map(|end| (end - position).max(0));
            if let Some(lag) = lag {
                metrics::ANALYZE_LAG.set(&[pipeline, job, topic, &number.to_string()], lag as f64);
            }
            let detail = serde_json::json!({ "position": position, "end": end, "lag": lag });
            partitions.insert(format!("{topic}-{number}"), detail);
        }
        let watermark_ms = engine.watermark_ms();
        if let Some(watermark_ms) = watermark_ms {
            let delay_seconds = (now_ms - watermark_ms) as f64 / 1e3;
            metrics::ANALYZE_WATERMARK_DELAY.set(&[pipeline, job], delay_seconds);
            self.unit.delay(delay_seconds);
        }
        metrics::ANALYZE_PANES.set(&[pipeline, job], engine.open_panes() as f64);
        metrics::ANALYZE_KEYS.set(&[pipeline, job], engine.keys() as f64);
        let state_bytes = engine.state_bytes();
        metrics::ANALYZE_STATE_BYTES.set(&[pipeline, job], state_bytes as f64);
        self.unit.detail(serde_json::json!({
            "epoch": self.epoch,
            "watermark": watermark_ms.map(time_text),
            "last_commit": self.last_commit_ms.map(time_text),
            "open_panes": engine.open_panes(),
            "keys": engine.keys(),
            "state_bytes": state_bytes,
            "committed": self.totals,
            "partitions": partitions,
        }));
        self.unit.set(match self.store.get().or_else(|| self.kafka.clone()).or(standing) {
            Some(trouble) => State::Failing(trouble),
            None if engine.is_replaying() => State::Starting,
            None if is_at_end => State::CaughtUp,
            None => State::Progressing,
        });
    }

    /// While nobody reads for the job: how far what is committed falls behind `ends`, by topic and partition.
    pub fn falls_behind(&self, ends: &BTreeMap<(String, i32), i64>) {
        let [pipeline, job] = self.labels();
        let mut partitions = serde_json::Map::new();
        for (place, position) in &self.positions {
            let (topic, number) = place;
            let end = ends.get(place);
            let lag = end.map(|end| (end - position).max(0));
            if let Some(lag) = lag {
                metrics::ANALYZE_LAG.set(&[pipeline, job, topic, &number.to_string()], lag as f64);
            }
            let detail = serde_json::json!({ "position": position, "end": end, "lag": lag });
            partitions.insert(format!("{topic}-{number}"), detail);
        }
        self.unit.detail(serde_json::json!({
            "last_commit": self.last_commit_ms.map(time_text),
            "committed": self.totals,
            "partitions": partitions,
        }));
    }

    /// Tells what was counted since the last time.
    pub fn show_events(&mut self) {
        let id = self.unit.id();
        let (pipeline, job) = (&id.pipeline, &id.unit);
        for (topic, counts) in self.topics.iter().zip(&mut self.events) {
            metrics::ANALYZE_LATE.add(&[pipeline, job], counts[1] + counts[2]);
            for (outcome, count) in OUTCOMES.into_iter().zip(std::mem::take(counts)).filter(|(_, count)| *count > 0) {
                metrics::ANALYZE_EVENTS.add(&[pipeline, job, topic, outcome], count);
                self.summary.rows += count;
                self.unit.rows(count);
            }
        }
        self.summary.bytes += std::mem::take(&mut self.bytes);
    }
}

fn position(of: &PartitionProgress) -> ((String, i32), i64) {
    ((of.topic.clone(), of.partition), of.next_offset)
}

pub fn time_text(ms: i64) -> String {
    clock::iso_to(ms.saturating_mul(1_000), SecondsFormat::Millis)
}
