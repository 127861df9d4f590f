//! Sends the events to Kafka, as fast as it takes them or each when it is due.
//!
//! Records carry the time of their sending, not of their event: a topic's retention goes by it.

use super::{Event, Generator, Kind, PlantedFile, Settings, Topic, Totals, payload::iso_time};
use crate::{
    amount, clock,
    config::model::{Compression, Kafka},
    generate::{GenerateError, Show, shown::Shown},
    kafka::{
        admin::{TopicSpec, ensure_topics},
        plain_producer::PlainProducer,
        producer::ProducerError,
    },
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Events of a live run that are due within so much are sent together.
const TICK: Duration = Duration::from_millis(5);
/// The longest wait without a look at the signals.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// Records between two looks at the signals.
const RECORDS_PER_LOOK: u64 = 1_024;

/// What to write, and where.
#[derive(Debug, Clone)]
pub struct Job {
    pub kafka: Kafka,
    pub chat_topic: String,
    pub viewer_topic: String,
    /// Of a topic that is made here.
    pub partitions: i32,
    pub replication: i32,
    pub compression: Compression,
    pub settings: Settings,
    pub pace: Pace,
    /// Where the planted episodes are listed.
    pub planted: Option<PathBuf>,
    /// Ends a run early, in good order.
    pub shutdown: watch::Receiver<bool>,
    pub show: Show,
    /// Counts along, for a caller that shows progress itself.
    pub progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as Kafka takes them.
    Fast,
    /// Each event when the clock shows its arrival. After a stall what is overdue goes at once.
    RealTime,
}

/// Sent so far. Cheap to clone, shared with the run.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Records of both topics.
    pub fn records(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What Kafka has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub totals: Totals,
    /// Bad records by the dead-letter reason they are to get.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Episodes that began, by kind.
    pub planted: BTreeMap<Kind, u64>,
    /// Event times lie between these.
    pub start: String,
    pub end: String,
    pub seconds: f64,
    pub records_per_second: f64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Totals { messages, viewer_events, duplicates, late, records, bytes, .. } = &self.totals;
        let bad: u64 = self.totals.bad.values().sum();
        let planted = |kind| self.planted.get(&kind).copied().unwrap_or_default();
        writeln!(
            f,
            "{messages} messages and {viewer_events} viewer events ({late} late), {duplicates} duplicates, {bad} bad"
        )?;
        for (reason, count) in &self.dead_letters {
            writeln!(f, "{count} records to become dead letters: {reason}")?;
        }
        writeln!(
            f,
            "planted: {} chat spikes, {} viewer drops, {} emote storms; event time {} to {}",
            planted(Kind::ChatSpike),
            planted(Kind::ViewerDrop),
            planted(Kind::EmoteSpike),
            self.start,
            self.end
        )?;
        let bytes = amount::bytes(*bytes);
        let (seconds, rate) = (self.seconds, self.records_per_second);
        write!(f, "{records} records, {bytes} in {seconds:.1} s: {rate:.0} records/s")
    }
}

/// Writes events until their end or shutdown. What it reports is in Kafka.
pub async fn write(job: Job) -> Result<Report, GenerateError> {
    // What is wrong with the settings is told before anything is made.
    let generator = Generator::new(job.settings.clone())?;
    let spec = |name: &String| TopicSpec {
        name: name.clone(),
        partitions: job.partitions,
        replication: job.replication,
        settings: Vec::new(),
    };
    ensure_topics(&job.kafka, &[spec(&job.chat_topic), spec(&job.viewer_topic)]).await?;
    tokio::task::spawn_blocking(move || Run::new(job, generator)?.write())
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

struct Run {
    job: Job,
    producer: PlainProducer,
    generator: Generator,
    totals: Totals,
    planted: BTreeMap<Kind, u64>,
    file: Option<PlantedFile>,
    started: Instant,
}

impl Run {
    fn new(job: Job, generator: Generator) -> Result<Run, GenerateError> {
        let file = job.planted.as_deref().map(PlantedFile::create).transpose().map_err(planted_error(&job))?;
        let producer = PlainProducer::open(&job.kafka, job.compression)?;
        let (totals, planted) = Default::default();
        Ok(Run { producer, generator, totals, planted, file, started: Instant::now(), job })
    }

    fn write(mut self) -> Result<Report, GenerateError> {
        let until_ms = self.send_all()?;
        self.producer.flush()?;
        let count = self.producer.undelivered();
        if count > 0 {
            let reason = self.producer.last_complaint().unwrap_or_else(|| "no reason was given".to_owned());
            return Err(GenerateError::Undelivered { count, records: self.totals.records, reason });
        }
        self.list_episodes(until_ms)?;
        if let Some(file) = self.file.take() {
            file.finish(until_ms).map_err(planted_error(&self.job))?;
        }
        Ok(self.report(until_ms))
    }

    /// Gives the event time at which the run ends.
    fn send_all(&mut self) -> Result<i64, GenerateError> {
        let total = match self.job.settings.volume {
            super::Volume::Total { messages, .. } => messages,
            super::Volume::Rate { .. } => 0,
        };
        // There is no bar for a run that lives in real time.
        let mut shown = (self.job.pace == Pace::Fast).then(|| Shown::new(self.job.show, total, "messages"));
        let mut logged = Instant::now();
        let mut last_ms = self.job.settings.start_ms;
        let mut listed_ms = last_ms;
        let mut is_over = false;
        let mut until_ms = None;
        while !is_over {
            let Some(event) = self.generator.next_event() else {
                until_ms = self.generator.end_ms();
                break;
            };
            if self.job.pace == Pace::RealTime && !wait_for(event.arrival_ms, &mut self.producer, &self.job.shutdown) {
                break;
            }
            last_ms = event.arrival_ms;
            send(&mut self.producer, &self.job, &event)?;
            self.totals.add(&event);
            if self.totals.records.is_multiple_of(RECORDS_PER_LOOK) || self.job.pace == Pace::RealTime {
                self.job.progress.0.store(self.totals.records, Ordering::Relaxed);
                is_over = *self.job.shutdown.borrow();
                if let Some(shown) = &mut shown {
                    shown.at(self.totals.messages);
                } else if self.job.show != Show::Nothing && logged.elapsed() >= Duration::from_secs(10) {
                    logged = Instant::now();
                    tracing::info!(messages = self.totals.messages, records = self.totals.records, "generating");
                }
            }
            if last_ms >= listed_ms + 1_000 {
                listed_ms = last_ms;
                self.list_episodes(last_ms)?;
            }
        }
        self.job.progress.0.store(self.totals.records, Ordering::Relaxed);
        if let Some(shown) = shown {
            shown.end();
        }
        Ok(until_ms.unwrap_or(last_ms))
    }

    fn list_episodes(&mut self, now_ms: i64) -> Result<(), GenerateError> {
        for episode in self.generator.take_planted() {
            // A second is drawn as a whole: this one was not reached.
            if episode.start_ms > now_ms {
                continue;
            }
            *self.planted.entry(episode.kind).or_default() += 1;
            if let Some(file) = &mut self.file {
                file.add(episode, self.generator.stream_name(episode.stream));
            }
        }
        match &mut self.file {
            Some(file) => file.settle(now_ms).map_err(planted_error(&self.job)),
            None => Ok(()),
        }
    }

    fn report(self, until_ms: i64) -> Report {
        let seconds = self.started.elapsed().as_secs_f64();
        let mut dead_letters = BTreeMap::new();
        for (defect, count) in &self.totals.bad {
            *dead_letters.entry(defect.reason()).or_default() += count;
        }
        Report {
            dead_letters,
            planted: self.planted,
            start: iso_time(self.job.settings.start_ms),
            end: iso_time(until_ms),
            seconds,
            records_per_second: self.totals.records as f64 / seconds.max(1e-9),
            totals: self.totals,
        }
    }
}

fn send(producer: &mut PlainProducer, job: &Job, event: &Event<'_>) -> Result<(), ProducerError> {
    let topic = match event.topic {
        Topic::Chat => &job.chat_topic,
        Topic::Viewers => &job.viewer_topic,
    };
    producer.send(topic, event.key.as_bytes(), event.payload)
}

/// Until the clock shows `due_ms`; false where the run is to end before that.
fn wait_for(due_ms: i64, producer: &mut PlainProducer, shutdown: &watch::Receiver<bool>) -> bool {
    loop {
        let now_ms = clock::now_ms();
        if due_ms <= now_ms {
            return true;
        }
        if *shutdown.borrow() {
            return false;
        }
        let left = Duration::from_millis((due_ms - now_ms) as u64);
        std::thread::sleep(left.clamp(TICK, LONGEST_WAIT));
        producer.poll(Duration::ZERO);
    }
}

fn planted_error(job: &Job) -> impl Fn(std::io::Error) -> GenerateError + use<> {
    let path = job.planted.clone().unwrap_or_default();
    move |source| GenerateError::Planted { path: path.clone(), source }
}
