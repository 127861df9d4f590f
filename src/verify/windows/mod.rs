//! Compares the windows of an analyze job with a recomputation from its topics.
//!
//! Nothing of the job's own engine is used: records are decoded here, events are sorted by time (in
//! temporary files where they are many) and counted window by window, without a watermark. Only the
//! sentiment of a line, the detectors of moments and the readers of JSON, numbers and times are shared.
//!
//! **What is compared.** The job's progress is read first, as one snapshot. Every record below its
//! offsets is vouched for, and a window that its watermark has closed changes no more. So these windows
//! are compared with these records, column by column, also on a running pipeline; what comes after is
//! under way. Each record that is no event is one dead letter with the record's exact bytes, and no
//! other is. Each moment is there once, has the value of its window, and is found again, with its score,
//! in the windows of the table; and none that is found there is missing ([`refound`]).
//!
//! **Late events** are in the recomputed windows and not in those of the table. A row may lack events
//! where `late_events` lists some of its window, and over all keys the window lacks as many as are
//! listed: such rows are reported apart. Which one of the copies of an event counted, where their times
//! or partitions differ, only the job knew: rows may differ by these, and are reported apart.
//!
//! **What is left out.** Windows beyond the table's retention, and windows of which a topic has removed
//! records already; the report says from when on it compared.
//!
//! **Memory** grows with the keys and different values of one window, and with the ids of the time in
//! which copies are looked for.

mod compare;
mod copies;
mod decode;
mod event;
mod moments;
mod recompute;
mod refound;
pub mod report;
mod spec;
mod spill;
mod tables;
mod topics;
mod walk;

use super::{Options, entry::SpillError, progress};
use crate::{
    analyze::{
        anomaly::{WatchError, moment_id},
        declare,
        sentiment::{self, Analyzer},
    },
    clock::{iso, now_ms},
    config::model::{Job, Kafka, Pipeline, Postgres},
    kafka::{
        reader::{ReadError, Reader},
        topic::{self, TopicError},
    },
    postgres::{PostgresError, chain},
};
use compare::Comparison;
use copies::Copies;
use moments::Moments;
use recompute::Recompute;
use refound::Refound;
use report::{Findings, JobReport};
use spec::Spec;
use spill::Sorter;
use std::{path::Path, sync::Arc, time::Instant};
use tables::{Progress, Tables};
use tokio::runtime::Handle;
use topics::Topics;
use walk::Walk;

const DAY_MS: i64 = 86_400_000;

#[derive(Debug, thiserror::Error)]
pub enum WindowsError {
    #[error("{0}")]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error("PostgreSQL: {}; check that the role may SELECT from the job's tables", chain(.0))]
    Query(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Spill(#[from] SpillError),
    #[error("the tables of job {job} are not there: start analyze once, and check analyze.schema")]
    NoTables { job: String },
    #[error(
        "topic {topic} was deleted and made anew since job {job} read it: its windows cannot be recomputed \
         from what is there now"
    )]
    OtherTopic { job: String, topic: String },
}

impl WindowsError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        match self {
            WindowsError::Postgres(error) => error.is_unavailable(),
            WindowsError::Query(error) => error.is_closed(),
            WindowsError::Read(error) => error.is_unavailable(),
            WindowsError::Topic(error) => error.is_unavailable(),
            _ => false,
        }
    }
}

/// A job, and what its comparison needs.
pub struct JobUnit {
    job: Job,
    kafka: Kafka,
    postgres: Postgres,
    schema: Option<String>,
    /// Jobs that may write moments of the same kinds into the same table.
    others: Vec<String>,
}

/// The jobs of a pipeline. None of them without a section `postgres`.
pub fn units(pipeline: &Pipeline) -> Vec<JobUnit> {
    let (Some(analyze), Some(postgres)) = (&pipeline.analyze, &pipeline.postgres) else { return Vec::new() };
    let unit = |job: &Job| JobUnit {
        job: job.clone(),
        kafka: pipeline.kafka.clone(),
        postgres: postgres.clone(),
        schema: analyze.schema.clone(),
        others: analyze.jobs.iter().map(|other| other.id.clone()).filter(|id| *id != job.id).collect(),
    };
    analyze.jobs.iter().map(unit).collect()
}

fn time_text(ms: i64) -> String {
    iso(ms * 1_000)
}

impl JobUnit {
    /// Blocks until the job is compared.
    pub fn run(self, options: &Options, runtime: &Handle) -> Result<JobReport, WindowsError> {
        let begun = Instant::now();
        let directory = options.temp_dir.clone().unwrap_or_else(std::env::temp_dir);
        let JobUnit { job, kafka, postgres, schema, .. } = &self;
        let spec = Spec::new(job);
        let mut report = JobReport {
            job: job.name.clone(),
            table: job.table.clone(),
            topics: job.inputs.iter().map(|input| input.topic.clone()).collect(),
            ..JobReport::default()
        };
        let tables = runtime.block_on(Tables::open(postgres, schema.as_deref(), job, &spec))?;
        let stored = runtime.block_on(tables.progress())?;
        if stored.is_none() {
            report.warnings.push("the job has not committed anything yet".to_owned());
        }
        let stored = stored.unwrap_or_default();
        let mut progress = progress::Progress::new(&job.name, options.progress_bar);
        let topics = Topics {
            kafka,
            spec: &spec,
            tables: &tables,
            stored: &stored,
            runtime,
            now_ms: now_ms(),
            sorter: Sorter::new(&directory),
            findings: Findings::new(options.list_limit),
            warnings: Vec::new(),
            complete_from_ms: None,
        };
        let Topics { sorter, mut findings, warnings, complete_from_ms, .. } = self.read(topics, &mut progress)?;
        report.warnings.extend(warnings);

        let first = spec.first_window_from(self.kept_from_ms().max(complete_from_ms.unwrap_or(i64::MIN)));
        let last = stored.watermark_ms.map_or(i64::MIN, |watermark_ms| spec.last_closed(watermark_ms));
        if let Some(watermark_ms) = stored.watermark_ms {
            report.compared_from = Some(time_text(spec.start_ms(first)));
            report.compared_until = Some(time_text(watermark_ms));
        }
        if complete_from_ms.is_some() {
            let from = time_text(spec.start_ms(first));
            report.warnings.push(format!("a topic has removed old records: windows before {from} were not compared"));
        }
        let compared = Compared { spec: &spec, tables: &tables, runtime, stored: &stored, directory: &directory };
        self.windows(&compared, sorter, (first, last), &mut findings, &mut progress)?;
        if first <= last {
            self.moments(&compared, (first, last), &mut findings)?;
        }
        report.seconds = begun.elapsed().as_secs_f64();
        Ok(findings.into_report(report))
    }

    fn read<'t>(&self, mut topics: Topics<'t>, progress: &mut progress::Progress) -> Result<Topics<'t>, WindowsError> {
        let JobUnit { job, kafka, .. } = self;
        let sentiment = Arc::new(Analyzer::new(sentiment::Options { emotes: job.emote_sentiment }));
        for (number, input) in job.inputs.iter().enumerate() {
            let topic_id = topic::find(kafka, &input.topic)?.id.to_string();
            let mut known = topics.stored.partitions.iter().filter(|known| known.topic == input.topic);
            if known.any(|known| crate::loss::topic_of(&known.topic_id) != topic_id) {
                return Err(WindowsError::OtherTopic { job: job.name.clone(), topic: input.topic.clone() });
            }
            let extents = Reader::open(kafka, &input.topic)?.extents()?;
            progress.begin("topic", extents.iter().map(|extent| (extent.end - extent.first).max(0) as u64).sum());
            topics.read(number, input, &topic_id, &extents, sentiment.clone(), progress)?;
        }
        Ok(topics)
    }

    /// Windows that begin before are dropped, or will be at any moment.
    fn kept_from_ms(&self) -> i64 {
        (now_ms().div_euclid(DAY_MS) - i64::from(self.job.retention_days)) * DAY_MS
    }

    fn windows(
        &self,
        compared: &Compared<'_>,
        sorter: Sorter,
        (first, last): (i64, i64),
        findings: &mut Findings,
        progress: &mut progress::Progress,
    ) -> Result<(), WindowsError> {
        let Compared { spec, tables, runtime, stored, directory } = *compared;
        let topics = self.job.inputs.iter().map(|input| input.topic.as_str()).collect();
        let comparison = Comparison { spec, table: &self.job.table, topics };
        let kept_from_ms = || self.kept_from_ms();
        let mut walk = Walk::new(comparison, tables, runtime, &stored.late, (first, last), &kept_from_ms);
        let mut copies = Copies::new(spec, directory);
        let mut recompute = Recompute::new(spec, first, last, directory);
        progress.begin("windows", sorter.events);
        let mut sorted = sorter.finish()?;
        loop {
            let event = sorted.next()?;
            let now_ms = event.as_ref().map_or(i64::MAX, |event| event.at_ms);
            while let Some((event, fate)) = copies.pop_before(now_ms)? {
                progress.row();
                let count =
                    if fate.is_counted() { &mut findings.counts.events } else { &mut findings.counts.duplicate_events };
                *count += 1;
                recompute.push(event, fate, &mut |window| walk.window(window, findings))?;
            }
            match event {
                Some(event) => copies.push(event)?,
                None => break,
            }
        }
        recompute.finish(&mut |window| walk.window(window, findings))?;
        walk.finish(findings)
    }

    fn moments(
        &self,
        compared: &Compared<'_>,
        (first, last): (i64, i64),
        findings: &mut Findings,
    ) -> Result<(), WindowsError> {
        let Compared { spec, tables, runtime, .. } = *compared;
        let (from_ms, until_ms) = (spec.start_ms(first), spec.start_ms(last + 1));
        for anomaly in &self.job.anomalies {
            let mut look = Moments::new(&anomaly.moment, &anomaly.measure, spec.size_ms);
            let is_others = |moment: &tables::Moment| {
                let start_ms = moment.start_us.div_euclid(1_000);
                let id = |job: &String| moment_id(job, &anomaly.moment, &anomaly.measure, &moment.key, start_ms);
                self.others.iter().any(|other| id(other) == moment.id)
            };
            let mut stored = Vec::new();
            let moments = tables.moments(anomaly, from_ms, until_ms, |moment| {
                if !is_others(&moment) {
                    look.look(&moment, findings);
                    stored.push(moment);
                }
            });
            runtime.block_on(moments)?;
            // Without a moment there is no witness of what the watch was.
            if !stored.is_empty() {
                let watch = declare::watch(&self.job, anomaly);
                let mut refound = Refound::new(&self.job.id, &watch, spec.size_ms, spec.slide_ms);
                let windows = tables.watched_windows(anomaly, until_ms, |key, start_ms, value, is_revised| {
                    Ok(refound.window(key, start_ms, value, is_revised)?)
                });
                runtime.block_on(windows)?;
                // Of the oldest day that is kept some windows may be gone.
                refound.compare(&stored, self.kept_from_ms() + DAY_MS, findings);
            }
        }
        Ok(())
    }
}

/// What the comparison of windows and that of moments stand on.
struct Compared<'a> {
    spec: &'a Spec,
    tables: &'a Tables<'a>,
    runtime: &'a Handle,
    stored: &'a Progress,
    directory: &'a Path,
}
