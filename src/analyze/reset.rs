//! A job begins anew at the start of its topics, and damages nothing that it wrote before.
//!
//! **Which windows it writes.** Those of which the topics still hold every record. Where a partition has lost its
//! oldest records, windows that may have held some stay as they are: none is written that begins before the newest of
//! the first events that are left, and a slack for records out of order. Where nothing is left, no window of the past
//! is written. `verify` compares windows from the same time on. Where brokers have lost the end of a log that has gone
//! on since, the lost records may be of any time, and windows that are final stay as they are.
//!
//! **Late events** of windows that are written again are forgotten first, and those of the others are not counted
//! again, for the engine passes over windows before the first one ([`super::window::Engine::write_from`]).
//!
//! **When.** While nobody leads the job, by one transaction. Rows stay until each is replaced: a reader sees no gap,
//! and records that go before they are read again stop the job rather than spoil a window.

use super::{
    declare,
    decode::Decoder,
    sentiment::{self, Analyzer},
    store::{
        self, PartitionProgress, StoreError,
        inspect::{Inspector, Progress},
        reset::Beginning,
    },
    window::Plan,
};
use crate::{
    app::group_digits,
    clock::{iso, now_ms},
    config::model::{Config, Input, Job, Kafka, Pipeline},
    kafka::{
        admin::{self, AdminError},
        reader::{Extent, Next, ReadError, Reader},
        topic::{self, TopicError},
    },
    loss,
    record::time,
};
use clap::Args;
use serde::Serialize;
use std::{collections::HashMap, fmt, sync::Arc};

/// So many events, among so many offsets, tell of which time a partition's first remaining records are.
const FIRST_EVENTS: u32 = 1_000;
const FIRST_OFFSETS: i64 = 10_000;
/// Removed records were of times up to this after the first that remain, or ten times as much as events may be out
/// of order.
const LEAST_SLACK_MS: i64 = 3_600_000;

/// What the command line says.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Only this job; needed where the file has several. May be repeated.
    #[arg(long = "job", value_name = "NAME")]
    pub jobs: Vec<String>,
    /// Only these pipelines (tenants) of the file.
    #[arg(long = "pipeline", value_name = "NAME")]
    pub pipelines: Vec<String>,
    /// Write no window that begins earlier: 2025-01-15, or 2025-01-15T12:00:00Z.
    #[arg(long = "from", value_name = "TIME", value_parser = from_ms)]
    pub from_ms: Option<i64>,
    /// Delete the windows that are written again at once, rather than replace each when it is final: for a job that
    /// was declared otherwise, whose keys or windows may be others now. Needs the right to delete from the table.
    #[arg(long)]
    pub delete: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

fn from_ms(text: &str) -> Result<i64, String> {
    let us = time::instant(text).ok_or("a time looks like 2025-01-15 or 2025-01-15T12:00:00Z")?;
    Ok(us.div_euclid(1_000) + i64::from(us.rem_euclid(1_000) > 0))
}

#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("{0}")]
    Refused(String),
    #[error("a task ended by itself: {0}; please report it")]
    Ended(#[from] tokio::task::JoinError),
}

impl ResetError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        match self {
            ResetError::Store(error) => error.is_transient(),
            ResetError::Read(error) => error.is_unavailable(),
            ResetError::Topic(error) => error.is_unavailable(),
            ResetError::Admin(error) => error.is_unavailable(),
            ResetError::Refused(_) | ResetError::Ended(_) => false,
        }
    }
}

/// What happens to a job, or did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub pipeline: String,
    pub job: String,
    pub table: String,
    pub dry_run: bool,
    /// Whether rows that are written again are deleted first.
    pub delete: bool,
    /// No window that begins earlier is written; all are where absent.
    pub windows_from: Option<String>,
    /// Why not all are.
    pub because: Vec<String>,
    /// Records that are read again.
    pub records: u64,
    /// Rows of the table that are written again, and those that stay.
    pub windows_again: u64,
    pub windows_kept: u64,
    /// Rows of `late_events` that go.
    pub late_events: u64,
    /// Who leads the job now, and has to be stopped first.
    pub led_by: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run { "would begin" } else { "begins" };
        write!(
            f,
            "{} {}: {verb} anew with the {} records of its topics; of table {} {} rows are {}written again",
            self.pipeline,
            self.job,
            group_digits(self.records),
            self.table,
            group_digits(self.windows_again),
            if self.delete { "deleted and " } else { "" },
        )?;
        if let Some(from) = &self.windows_from {
            let kept = group_digits(self.windows_kept);
            write!(f, ", and the {kept} of windows that begin before {from} stay as they are")?;
        }
        write!(f, "; {} rows of late_events go", group_digits(self.late_events))?;
        for reason in &self.because {
            write!(f, "\n  {reason}")?;
        }
        if let Some(holder) = &self.led_by {
            write!(f, "\n  it is led by {holder}: stop every instance first")?;
        }
        Ok(())
    }
}

/// The jobs that are meant, each with its pipeline. Fails before anything has changed.
pub fn select<'c>(config: &'c Config, options: &Options) -> Result<Vec<(&'c Pipeline, &'c Job)>, ResetError> {
    let refused = |words: String| Err(ResetError::Refused(words));
    let known = |name: &String| config.pipelines.iter().any(|pipeline| pipeline.name == *name);
    if let Some(name) = options.pipelines.iter().find(|name| !known(name)) {
        let names: Vec<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
        return refused(format!("--pipeline {name}: the file has {}", names.join(", ")));
    }
    let mut all = Vec::new();
    for pipeline in &config.pipelines {
        if options.pipelines.is_empty() || options.pipelines.contains(&pipeline.name) {
            all.extend(pipeline.analyze.iter().flat_map(|analyze| &analyze.jobs).map(|job| (pipeline, job)));
        }
    }
    let mut names: Vec<&str> = all.iter().map(|(_, job)| job.name.as_str()).collect();
    names.dedup();
    if names.is_empty() {
        return refused("the file has no job of analyze: there is nothing to reset".to_owned());
    }
    if let Some(name) = options.jobs.iter().find(|name| !names.contains(&name.as_str())) {
        return refused(format!("--job {name}: the jobs are {}", names.join(", ")));
    }
    if options.jobs.is_empty() && all.len() > 1 {
        return refused(format!("say which job, with --job: {}", names.join(", ")));
    }
    all.retain(|(_, job)| options.jobs.is_empty() || options.jobs.contains(&job.name));
    Ok(all)
}

/// Lets a job begin anew, or says what would be done.
pub async fn run(pipeline: &Pipeline, job: &Job, options: &Options) -> Result<Report, ResetError> {
    let (Some(config), Some(analyze)) = (&pipeline.postgres, &pipeline.analyze) else {
        return Err(ResetError::Refused(format!("pipeline {} has no postgres section", pipeline.name)));
    };
    let plan = declare::plan(job).map_err(|error| ResetError::Refused(error.to_string()))?;
    let output = declare::output(job);
    let mut inspector = Inspector::open(config, analyze.schema.as_deref(), "").await?;
    inspector.check_version().await?;
    let table = inspector.table(&output).await?;
    let progress = inspector.progress(&job.id).await?;
    let is_filled = inspector.holds_final(&table).await?;
    let is_redeclared = super::inspect::redeclared(job, &progress).is_some();
    let led_by = progress.holder.as_ref().map(ToString::to_string);

    let mut held = hold(&pipeline.kafka, job, plan, progress, is_filled).await?;
    let mut from_ms = held.whole_from_ms;
    if let Some(asked_ms) = options.from_ms {
        if from_ms.is_some_and(|whole_ms| whole_ms > asked_ms) {
            held.because.push(format!("so --from {} is too early", iso(asked_ms * 1_000)));
        }
        from_ms = from_ms.max(Some(asked_ms));
    }
    let name = job.id.clone();
    let known = store::Job { name, output, declaration: declare::fingerprint(job) };
    let partitions = held.partitions;
    let beginning = Beginning {
        job: &known,
        table: &table,
        windows_from_ms: from_ms,
        partitions: &partitions,
        delete: options.delete,
    };
    let rows = inspector.rows(&beginning).await?;
    if is_redeclared && !options.delete && rows.again > 0 {
        let words =
            "it is declared otherwise than before: rows of keys or windows that come no more stay, unless --delete";
        held.because.push(words.to_owned());
    }
    if !options.dry_run {
        inspector.begin_anew(&beginning).await?;
    }
    Ok(Report {
        pipeline: pipeline.name.clone(),
        job: job.name.clone(),
        table: job.table.clone(),
        dry_run: options.dry_run,
        delete: options.delete,
        windows_from: from_ms.map(|ms| iso(ms * 1_000)),
        because: held.because,
        records: held.records,
        windows_again: rows.again,
        windows_kept: rows.kept,
        late_events: rows.late,
        led_by: led_by.filter(|_| options.dry_run),
    })
}

/// What the topics hold.
#[derive(Default)]
struct Held {
    /// Each at its first record.
    partitions: Vec<PartitionProgress>,
    records: u64,
    /// Windows that begin earlier may lack records.
    whole_from_ms: Option<i64>,
    because: Vec<String>,
}

/// `is_filled`: the table has final windows.
async fn hold(kafka: &Kafka, job: &Job, plan: Plan, progress: Progress, is_filled: bool) -> Result<Held, ResetError> {
    let mut compacted = Vec::new();
    for input in &job.inputs {
        let policy = admin::topic_setting(kafka, &input.topic, "cleanup.policy").await?;
        compacted.push(policy.is_some_and(|policy| policy.contains("compact")));
    }
    let (kafka, job) = (kafka.clone(), job.clone());
    let work = move || {
        let mut held = Held::default();
        for (number, input) in job.inputs.iter().enumerate() {
            let topic_id = topic::find(&kafka, &input.topic)?.id.to_string();
            let extents = Reader::open(&kafka, &input.topic)?.extents()?;
            let known = progress.partitions.iter().find(|known| known.topic == input.topic);
            // Of a job that nothing is known of, topics may have been other ones.
            let is_other = match known {
                Some(known) => loss::topic_of(&known.topic_id) != topic_id,
                None => is_filled && progress.partitions.is_empty(),
            };
            let of_topic = progress.partitions.iter().filter(|known| known.topic == input.topic);
            let truncated =
                of_topic.filter(|known| !is_other && known.topic_id != topic_id).map(|known| known.partition);
            if let Some(partition) = truncated.min() {
                let from_ms = not_final_from(&plan, &job, &progress, now_ms());
                held.whole_from_ms = held.whole_from_ms.max(Some(from_ms));
                held.because.push(format!(
                    "{}-{partition} was truncated and has grown again: windows that were final then may hold events that \
                     it lacks now",
                    input.topic
                ));
            }
            let cut: Vec<Extent> = extents.iter().copied().filter(|extent| is_other || extent.first > 0).collect();
            let newest_ms = newest_of_first(&kafka, &plan, number, input, &cut)?;
            let look = Look { job: &job, input, now_ms: now_ms(), is_other, is_compacted: compacted[number] };
            if let Some((from_ms, reason)) = look.whole_from(&cut, &newest_ms) {
                held.whole_from_ms = held.whole_from_ms.max(Some(from_ms));
                held.because.push(reason);
            }
            for Extent { partition, first, end } in extents {
                held.records += (end - first).max(0).unsigned_abs();
                // A log that has grown again keeps the name that tells its records from those before.
                let same = progress.partitions.iter().find(|known| {
                    known.topic == input.topic
                        && known.partition == partition
                        && loss::topic_of(&known.topic_id) == topic_id
                });
                held.partitions.push(PartitionProgress {
                    topic: input.topic.clone(),
                    partition,
                    topic_id: same.map_or_else(|| topic_id.clone(), |known| known.topic_id.clone()),
                    next_offset: first,
                    replay_offset: first,
                    last: None,
                });
            }
        }
        Ok(held)
    };
    tokio::task::spawn_blocking(work).await?
}

/// The begin of the first window that is not final. Where that is not known, for the job began anew before it had a
/// watermark, the windows that it was to write then, or else none of the past.
fn not_final_from(plan: &Plan, job: &Job, progress: &Progress, now_ms: i64) -> i64 {
    let from_ms = progress.watermark_ms.map(|watermark_ms| plan.not_final_from_ms(watermark_ms));
    let from_ms = from_ms.max(progress.windows_from_ms);
    from_ms.unwrap_or_else(|| now_ms.saturating_add(job.max_future_ms))
}

/// The newest timestamp among each partition's first events; none of a partition that has no event there.
fn newest_of_first(
    kafka: &Kafka,
    plan: &Plan,
    number: usize,
    input: &Input,
    extents: &[Extent],
) -> Result<HashMap<i32, i64>, ResetError> {
    let mut newest: HashMap<i32, (u32, i64)> = HashMap::new();
    let first = |extent: &Extent| Extent { end: extent.end.min(extent.first + FIRST_OFFSETS), ..*extent };
    let extents: Vec<Extent> = extents.iter().map(first).collect();
    // Nothing is scored: only times are looked at.
    let mut decoder = Decoder::new(plan, number, input, Arc::new(Analyzer::new(sentiment::Options { emotes: false })));
    Reader::open(kafka, &input.topic)?.read(&extents, |record| {
        let (count, at_ms) = newest.entry(record.partition()).or_insert((0, i64::MIN));
        if *count < FIRST_EVENTS
            && let Ok(event_ms) = decoder.decode(record.payload(), |event| event.timestamp_ms)
        {
            *count += 1;
            *at_ms = event_ms.max(*at_ms);
        }
        Next::Continue
    })?;
    Ok(newest
        .into_iter()
        .filter(|(_, (count, _))| *count > 0)
        .map(|(partition, (_, at_ms))| (partition, at_ms))
        .collect())
}

/// What is known of a topic.
struct Look<'a> {
    job: &'a Job,
    input: &'a Input,
    now_ms: i64,
    /// It may be another topic than the one that the windows were made of.
    is_other: bool,
    is_compacted: bool,
}

impl Look<'_> {
    /// From when on windows lack no record of the topic, and why; none where they never do. `cut` are the partitions
    /// that have lost records, `newest_ms` the newest of their first events.
    fn whole_from(&self, cut: &[Extent], newest_ms: &HashMap<i32, i64>) -> Option<(i64, String)> {
        let Look { job, input, .. } = self;
        let topic = &input.topic;
        let never_ms = self.now_ms.saturating_add(job.max_future_ms);
        if self.is_compacted {
            return Some((never_ms, format!("topic {topic} is compacted, so any window of the past may lack records")));
        }
        let slack_ms = LEAST_SLACK_MS.max(10 * (job.watermark_delay_ms + job.allowed_lateness_ms));
        // A topic that was made anew began at one time for all of its partitions.
        let counts = |extent: &&Extent| !self.is_other || newest_ms.contains_key(&extent.partition);
        let from =
            |extent: &Extent| newest_ms.get(&extent.partition).map_or(never_ms, |at_ms| at_ms.saturating_add(slack_ms));
        let last = cut.iter().filter(counts).max_by_key(|extent| from(extent));
        let Some(last) = last else {
            let reason = format!("topic {topic} may have been made anew, and is empty");
            return self.is_other.then_some((never_ms, reason));
        };
        let (place, from_ms) = (format!("{topic}-{}", last.partition), from(last));
        let reason = match (newest_ms.contains_key(&last.partition), self.is_other) {
            (false, _) => format!("{place} has no event left, so any window of the past may lack records"),
            (true, true) => format!("{topic} may have been made anew, and its records begin then"),
            (true, false) => format!("{place} holds no records before offset {}, which is of that time", last.first),
        };
        Some((from_ms, reason))
    }
}
