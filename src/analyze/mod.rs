//! Analyze: from Kafka records to windows and moments in PostgreSQL, each exactly once.
//!
//! **What it promises.** The final row of a window holds every event of its span that came before it
//! closed, each once, and is written once; a later event is counted as late by the windows that miss
//! it; a record that is no event is a dead letter with its exact bytes. So it is through any crash, with
//! any number of processes, and through any outage of either side.
//!
//! **When progress moves.** Rows, moments, dead letters, late counts and the positions that vouch for
//! them are one transaction in PostgreSQL ([`store`]). One instance of a job leads, by an advisory lock
//! and an epoch; a transaction of a former leader changes nothing. A new leader reads again from the
//! oldest record that an open window depends on ([`window`]). Offsets in the consumer group are published
//! for monitoring, and never read.
//!
//! **What stops it.** A table that does not fit, records that are gone before their windows were final
//! (until the loss is accepted). PostgreSQL or Kafka being away is waited for. A bad record stops nothing.
//!
//! **Memory.** It grows with the keys and values of open windows, up to `max_state_bytes`: then only partitions
//! that hold the watermark are read. Distinct values and counts are bounded by estimates. The partitions are read in
//! step, so that a backlog opens no more windows than the present does.

pub mod anomaly;
pub mod declare;
mod decode;
pub mod history;
pub mod inspect;
mod newest;
mod reading;
mod report;
pub mod reset;
mod resume;
pub mod sentiment;
pub mod store;
#[cfg(test)]
mod tests;
mod watchers;
pub mod window;

use crate::{
    clock::now_ms,
    config::model::{Analyze, Job, Pipeline, Postgres},
    health::State,
    kafka::{
        admin::{AdminError, TopicSpec, ensure_topics},
        reader::Reader,
    },
    loss::Accepted,
    metrics,
    stage::{Context, Summary},
};
use reading::{End, Setup};
use report::Report;
use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};
use store::{Leader, Store, StoreError};
use tracing::Instrument;
use watchers::Watchers;

/// What the command line says beyond the configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Go on where these were lost.
    pub accepted: Accepted,
}

const FIRST_BACKOFF_MS: u64 = 500;
const LONGEST_BACKOFF_MS: u64 = 10_000;
/// How often it is looked whether days are to be made or dropped, where nothing is flushed.
const DAYS_INTERVAL: Duration = Duration::from_secs(10);
/// For the ends of the topics, of which only people are told.
const ENDS_LIMIT: Duration = Duration::from_secs(2);

/// Runs every job of the pipeline until shutdown, or until all have caught up where
/// `context.until_caught_up` says so. A job that fails does not stop the others.
pub async fn run(pipeline: Arc<Pipeline>, context: Context, options: Options) -> Summary {
    let Some(analyze) = pipeline.analyze.clone() else { return Summary::default() };
    let jobs: Vec<_> = analyze
        .jobs
        .into_iter()
        .map(|job| {
            let unit = context.health.unit(&pipeline.name, "analyze", &job.name);
            let (pipeline, context) = (pipeline.clone(), context.clone());
            let (spawned, options) = (unit.clone(), options.clone());
            let work = async move {
                let report = Report::new(spawned, Some(&job));
                for anomaly in &job.anomalies {
                    metrics::ANALYZE_MOMENTS.begin(&[&pipeline.name, &job.name, &anomaly.moment]);
                }
                Supervisor { pipeline, job, context, options, has_started: false }.run(report).await
            };
            (unit, tokio::spawn(work.in_current_span()))
        })
        .collect();
    let mut summary = Summary::default();
    for (unit, task) in jobs {
        match task.await {
            Ok(found) => summary.merge(found),
            Err(error) => {
                let mut report = Report::new(unit, None);
                report.stop(format!("a fault of the program, please report it: {error}"), false);
                summary.merge(report.into_summary());
            }
        }
    }
    summary
}

/// The consumer group that a job publishes its offsets to.
pub fn group(job: &Job) -> String {
    format!("{}-analyze", job.id.replace('/', "-"))
}

/// The topics of a job's inputs as they are made where they are missing.
pub fn topics(job: &Job) -> Vec<TopicSpec> {
    let topics = job.inputs.iter().map(|input| TopicSpec {
        name: input.topic.clone(),
        partitions: input.partitions,
        replication: input.replication,
        settings: vec![("retention.ms".to_owned(), input.retention_ms.to_string())],
    });
    topics.collect()
}

async fn open_store(config: &Postgres, analyze: &Analyze, job: &Job) -> Result<Arc<Store>, StoreError> {
    let settings = store::Settings {
        schema: analyze.schema.clone(),
        migrate: analyze.migrate,
        create_tables: analyze.create_tables,
        retention_days: Some(job.retention_days),
        pool_size: analyze.pool_size,
    };
    let (output, declaration) = (declare::output(job), declare::fingerprint(job));
    Store::open(config, store::Job { name: job.id.clone(), output, declaration }, settings).await
}

/// Makes the tables of every job where the configuration lets it, as a start would, and leads none.
pub async fn prepare(pipeline: &Pipeline) -> Result<(), StoreError> {
    let (Some(config), Some(analyze)) = (&pipeline.postgres, &pipeline.analyze) else { return Ok(()) };
    for job in &analyze.jobs {
        open_store(config, analyze, job).await?;
    }
    Ok(())
}

/// Leads a job, again and again, as long as it can be led.
struct Supervisor {
    pipeline: Arc<Pipeline>,
    job: Job,
    context: Context,
    options: Options,
    /// Whether this process has led before: from then on it waits for as long as it takes.
    has_started: bool,
}

/// Why a turn has ended.
enum TurnEnd {
    Done,
    /// To be tried again.
    Failed(String),
    /// Until somebody acts.
    Stopped(String),
}

impl From<StoreError> for TurnEnd {
    fn from(error: StoreError) -> Self {
        match error.is_transient() || error.is_over() {
            true => TurnEnd::Failed(error.to_string()),
            false => TurnEnd::Stopped(error.to_string()),
        }
    }
}

impl From<AdminError> for TurnEnd {
    fn from(error: AdminError) -> Self {
        match error.is_unavailable() {
            true => TurnEnd::Failed(error.to_string()),
            false => TurnEnd::Stopped(error.to_string()),
        }
    }
}

impl Supervisor {
    async fn run(mut self, mut report: Report) -> Summary {
        let (mut attempts, mut backoff_ms) = (0, FIRST_BACKOFF_MS);
        loop {
            let begun = Instant::now();
            let (end, returned) = self.turn(report).await;
            report = returned;
            report.show_events();
            let reason = match end {
                TurnEnd::Done => return report.into_summary(),
                TurnEnd::Stopped(reason) => {
                    report.stop(reason, false);
                    return report.into_summary();
                }
                TurnEnd::Failed(reason) => reason,
            };
            report.failed();
            if self.context.is_shutdown() {
                return report.into_summary();
            }
            let pause_ms = if self.has_started {
                report.set(State::Failing(reason));
                report.falls_behind(&self.ends().await);
                if begun.elapsed() > Duration::from_millis(LONGEST_BACKOFF_MS) {
                    backoff_ms = FIRST_BACKOFF_MS;
                }
                let pause_ms = backoff_ms;
                backoff_ms = (backoff_ms * 2).min(LONGEST_BACKOFF_MS);
                pause_ms
            } else {
                attempts += 1;
                if attempts >= self.context.wait.attempts {
                    report.stop(reason, true);
                    return report.into_summary();
                }
                report.set(State::Waiting(reason));
                self.context.wait.delay_ms
            };
            if self.context.pause(pause_ms).await {
                return report.into_summary();
            }
        }
    }

    /// Of the job's topics, by topic and partition; those of which Kafka does not tell in time are left out.
    async fn ends(&self) -> BTreeMap<(String, i32), i64> {
        let kafka = self.pipeline.kafka.clone();
        let topics: Vec<String> = self.job.inputs.iter().map(|input| input.topic.clone()).collect();
        let asked = tokio::task::spawn_blocking(move || {
            let mut ends = BTreeMap::new();
            for topic in topics {
                let found = Reader::open(&kafka, &topic).and_then(|reader| reader.log_ends());
                let found = found.unwrap_or_default().into_iter();
                ends.extend(found.map(|(partition, end)| ((topic.clone(), partition), end)));
            }
            ends
        });
        tokio::time::timeout(ENDS_LIMIT, asked).await.map(Result::unwrap_or_default).unwrap_or_default()
    }

    /// One leadership, from the first connection to its end.
    async fn turn(&mut self, mut report: Report) -> (TurnEnd, Report) {
        let (store, plan) = match self.open().await {
            Ok(opened) => opened,
            Err(end) => return (end, report),
        };
        let mut shutdown = self.context.shutdown.clone();
        let led = tokio::select! {
            led = store.lead(|holder| report.stands_by(&holder.to_string())) => led,
            _ = shutdown.wait_for(|down| *down) => return (TurnEnd::Done, report),
        };
        let leader = match led {
            Ok(leader) => leader,
            Err(error) => return (error.into(), report),
        };
        self.has_started = true;
        report.leads(leader.epoch(), &leader.stored().partitions);
        let watermark = leader.stored().watermark_ms.map(report::time_text);
        tracing::info!(job = self.job.name, epoch = leader.epoch(), watermark, "leading");
        let mut watchers = match Watchers::new(&self.job) {
            Ok(watchers) => watchers,
            Err(error) => return (TurnEnd::Stopped(error.to_string()), report),
        };
        // Of a job that has begun anew they know what lies before.
        if let Some(watermark_ms) = leader.stored().watermark_ms.or(leader.stored().windows_from_ms)
            && let Err(error) = watchers.restore(&self.job, &store, watermark_ms).await
        {
            return (error.into(), report);
        }
        self.lead(&store, leader, plan, watchers, report).await
    }

    /// The tables and the topics, found to be there.
    async fn open(&self) -> Result<(Arc<Store>, window::Plan), TurnEnd> {
        let missing = || TurnEnd::Stopped("the pipeline has no postgres section, which analyze needs".to_owned());
        let config = self.pipeline.postgres.as_ref().ok_or_else(missing)?;
        let analyze = self.pipeline.analyze.as_ref().ok_or_else(missing)?;
        let plan = declare::plan(&self.job).map_err(|error| TurnEnd::Stopped(error.to_string()))?;
        let store = open_store(config, analyze, &self.job).await?;
        for statement in &store.setup().roles_left {
            tracing::info!(
                job = self.job.name,
                "this role may not run: {statement}; without it owners and readers are not kept apart"
            );
        }
        ensure_topics(&self.pipeline.kafka, &topics(&self.job)).await?;
        Ok((store, plan))
    }

    /// Commits what the reading thread hands over, until either side ends.
    async fn lead(
        &self,
        store: &Store,
        mut leader: Leader,
        plan: window::Plan,
        watchers: Watchers,
        report: Report,
    ) -> (TurnEnd, Report) {
        let (flushes, mut handed) = tokio::sync::mpsc::channel(1);
        let (committed, commits) = mpsc::channel();
        let trouble = report.store.clone();
        let setup = Setup {
            job: self.job.clone(),
            kafka: self.pipeline.kafka.clone(),
            plan,
            stored: leader.stored().clone(),
            watchers,
            options: self.options.clone(),
            context: self.context.clone(),
            report,
            flushes,
            commits,
        };
        let span = tracing::Span::current();
        let reading = tokio::task::spawn_blocking(move || span.in_scope(|| reading::run(setup)));
        let days = self.pipeline.analyze.as_ref().map_or(u32::MAX, |analyze| analyze.history_retention_days);
        let over = tokio::select! {
            over = self.commit_all(store, &mut leader, &mut handed, committed, &trouble) => over,
            never = history::keep(store, &self.pipeline.kafka, &self.job, days) => match never {},
        };
        // The thread notices that nobody listens, and ends.
        drop(handed);
        trouble.set(None);
        let (end, report) = match reading.await {
            Ok(ended) => ended,
            Err(error) => {
                let unit = self.context.health.unit(&self.pipeline.name, "analyze", &self.job.name);
                let reason = format!("a fault of the program, please report it: {error}");
                (End::Stopped(reason), Report::new(unit, Some(&self.job)))
            }
        };
        leader.release().await;
        let end = match (over, end) {
            (Err(error), _) => error.into(),
            (Ok(()), End::Done) => TurnEnd::Done,
            (Ok(()), End::Stopped(reason)) => TurnEnd::Stopped(reason),
            (Ok(()), End::Failed(reason)) => TurnEnd::Failed(reason),
            (Ok(()), End::Abandoned) => TurnEnd::Failed("the reading thread was left alone".to_owned()),
        };
        (end, report)
    }

    async fn commit_all(
        &self,
        store: &Store,
        leader: &mut Leader,
        handed: &mut tokio::sync::mpsc::Receiver<Box<store::Flush>>,
        committed: mpsc::Sender<store::Flushed>,
        trouble: &report::Trouble,
    ) -> Result<(), StoreError> {
        let labels = [self.pipeline.name.as_str(), self.job.name.as_str()];
        let lost = leader.lost();
        let mut lost = std::pin::pin!(lost);
        loop {
            leader.keep_days(now_ms()).await;
            let flush = tokio::select! {
                flush = handed.recv() => flush,
                // Days expire on a quiet topic, too.
                () = tokio::time::sleep(DAYS_INTERVAL) => continue,
                reason = &mut lost => return Err(StoreError::Lost { job: self.job.id.clone(), reason }),
            };
            let Some(flush) = flush else { return Ok(()) };
            let mut backoff_ms = FIRST_BACKOFF_MS;
            let begun = Instant::now();
            let flushed = loop {
                match leader.flush(&flush).await {
                    Ok(flushed) => break flushed,
                    Err(error) if error.is_transient() => {
                        metrics::ANALYZE_FLUSH_ERRORS.add(&labels, 1);
                        if self.context.is_shutdown() {
                            // What is not committed is read again next time.
                            return Err(error);
                        }
                        trouble.set(Some(format!("a flush failed and is tried again: {error}")));
                        tokio::time::sleep(Duration::from_millis(backoff_ms)).await;
                        backoff_ms = (backoff_ms * 2).min(LONGEST_BACKOFF_MS);
                    }
                    Err(error) => return Err(error),
                }
            };
            trouble.set(None);
            metrics::ANALYZE_FLUSH_SECONDS.observe(&labels, begun.elapsed().as_secs_f64());
            let figures = store.pool_figures();
            for (state, count) in [("most", figures.most), ("open", figures.open), ("idle", figures.idle)] {
                metrics::POOL_CONNECTIONS.set(&[labels[0], labels[1], state], count as f64);
            }
            metrics::POOL_WAITING.set(&labels, figures.waiting as f64);
            if committed.send(flushed).is_err() {
                return Ok(());
            }
        }
    }
}
