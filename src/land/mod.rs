//! Land: from Kafka records to a table, each exactly once.
//!
//! **What it promises.** Every record of a landed topic becomes one row of the table or one dead
//! letter with its exact bytes and the reason; none is lost and none doubled, through any crash, any
//! rebalance, and two processes at once.
//!
//! **When progress moves.** The position of a partition stands in the same ledger record that makes
//! its files part of the table (see [`crate::lake`]), so that a resuming process reads on exactly
//! behind what has landed. The record is appended only by the holder of the partition's lock. Offsets
//! in the consumer group are published for monitoring, and never read.
//!
//! **What stops it.** Records that are gone before they landed (deleted by retention, a topic made
//! anew) stop the topic until the loss is accepted. A failing disk, broker or database parks what it
//! touches, which is tried again for as long as it takes. A bad record stops nothing.
//!
//! **Memory.** Rows of an open batch are kept as they arrived, for any number of dates; a batch is
//! committed early where all of them together would pass `buffer_bytes`, or where it would make more
//! than `max_files` files. Nothing is spilled within a batch, so that a commit is one pass.

mod batch;
mod budget;
mod columns;
mod dead_letter;
pub mod decode;
pub mod inspect;
mod json_schema;
mod member;
mod partition;
mod report;
mod resume;
mod rows;
pub mod schema;
mod source;
mod table;

use crate::{
    config::model::{Land, LandTable, Pipeline},
    health::State,
    kafka::topic,
    lake::{
        ledger::{Progress, Recovery},
        ledger_file::Ledger,
        upkeep,
    },
    loss::{self, Accepted},
    stage::{Context, Summary},
};
use budget::Budget;
use report::Report;
use source::Source;
use std::{sync::Arc, time::Duration};
use tracing::Instrument;

/// How often a running landing looks whether a compact or expire was killed beside it.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What the command line says beyond the configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Go on where these were lost.
    pub accepted: Accepted,
}

/// Lands every table of the pipeline until shutdown, or until all have caught up where
/// `context.until_caught_up` says so. A table that fails does not stop the others.
pub async fn run(pipeline: Arc<Pipeline>, context: Context, options: Options) -> Summary {
    let Some(land) = pipeline.land.clone() else { return Summary::default() };
    let budget = Arc::new(Budget::new(usize::try_from(land.buffer_bytes).unwrap_or(usize::MAX), land.tables.len()));
    let tables: Vec<_> = (0..land.tables.len())
        .map(|index| {
            let (pipeline, land) = (pipeline.clone(), land.clone());
            let (context, budget, options) = (context.clone(), budget.clone(), options.clone());
            tokio::spawn(run_table(pipeline, land, index, context, options, budget).in_current_span())
        })
        .collect();
    let mut summary = Summary::default();
    for (index, table) in tables.into_iter().enumerate() {
        match table.await {
            Ok(found) => summary.merge(found),
            Err(error) => {
                let unit = context.health.unit(&pipeline.name, "land", &land.tables[index].topic);
                let mut report = Report::new(unit);
                report.stop(format!("a fault of the program, please report it: {error}"));
                summary.merge(report.into_summary());
            }
        }
    }
    summary
}

/// Waits for what the table needs, then lands it on a thread of its own.
async fn run_table(
    pipeline: Arc<Pipeline>,
    land: Land,
    index: usize,
    context: Context,
    options: Options,
    budget: Arc<Budget>,
) -> Summary {
    let table = &land.tables[index];
    let mut report = Report::new(context.health.unit(&pipeline.name, "land", &table.topic));
    let mut source = Source::new(pipeline.postgres.clone());
    let schema = match start(&pipeline, table, &context, &mut source, &report).await {
        Start::Ready(schema) => schema,
        Start::Shutdown => return report.into_summary(),
        Start::Unavailable(reason) => {
            report.give_up(reason);
            return report.into_summary();
        }
        Start::Refused(reason) => {
            report.stop(reason);
            return report.into_summary();
        }
    };
    let place = upkeep::Place::of(table);
    let mut left = None;
    finish_upkeep(&place, &mut left).await;
    // Ready only once the group has given partitions: see `report`.
    report.set(State::Starting);
    let unit_name = table.topic.clone();
    let runtime = tokio::runtime::Handle::current();
    let health = context.health.clone();
    let name = pipeline.name.clone();
    let (send, receive) = tokio::sync::oneshot::channel();
    let span = tracing::Span::current();
    let spawned = std::thread::Builder::new().name("land".to_owned()).spawn(move || {
        let _span = span.entered();
        let table = table::Table::new(pipeline, land, index, context, options, budget, source, schema, report, runtime);
        // The receiver is gone only when the whole process is going.
        let _ = send.send(table.run());
    });
    let failure = match spawned {
        Ok(thread) => match beside_upkeep(receive, &place, left).await {
            Ok(summary) => return summary,
            Err(_) => match thread.join() {
                Ok(()) => "its thread ended without a word".to_owned(),
                Err(panic) => panic_text(&*panic),
            },
        },
        Err(error) => format!("no thread could be started: {error}"),
    };
    let mut report = Report::new(health.unit(&name, "land", &unit_name));
    report.stop(format!("a fault of the program, please report it: {failure}"));
    report.into_summary()
}

/// Waits for `landed`, and meanwhile finishes what a compact or expire leaves that is killed beside the landing: a
/// file that landed in the moment of its exchange is out of sight of readers until then.
async fn beside_upkeep<T>(landed: impl Future<Output = T>, place: &upkeep::Place, mut left: Option<String>) -> T {
    let mut landed = std::pin::pin!(landed);
    loop {
        tokio::select! {
            found = &mut landed => return found,
            () = tokio::time::sleep(UPKEEP_INTERVAL) => finish_upkeep(place, &mut left).await,
        }
    }
}

/// `said` is what was the matter last time, so that it is said once.
async fn finish_upkeep(place: &upkeep::Place, said: &mut Option<String>) {
    let owned = place.clone();
    let found = match tokio::task::spawn_blocking(move || upkeep::recover(&owned)).await {
        Ok(found) => found.err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(error) = found.as_ref().filter(|_| found != *said) {
        // Readers may see old files beside new ones; what lands is not touched by it.
        tracing::error!(topic = %place.topic, "a killed compact or expire could not be finished: {error}");
    }
    *said = found;
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text").to_owned()
}

enum Start {
    Ready(schema::Schema),
    Shutdown,
    Unavailable(String),
    Refused(String),
}

/// Waits for the topic, then for the schema, for as many tries as the context allows.
async fn start(
    pipeline: &Pipeline,
    table: &LandTable,
    context: &Context,
    source: &mut Source,
    report: &Report,
) -> Start {
    let mut attempts = 0;
    loop {
        let reason = match ready(pipeline, table, source).await {
            Ok(schema) => return Start::Ready(schema),
            Err(NotReady::Refused(reason)) => return Start::Refused(reason),
            Err(NotReady::Unavailable(reason)) => reason,
        };
        if context.is_shutdown() {
            return Start::Shutdown;
        }
        attempts += 1;
        if attempts >= context.wait.attempts {
            return Start::Unavailable(reason);
        }
        report.set(State::Waiting(reason));
        if context.pause(context.wait.delay_ms).await {
            return Start::Shutdown;
        }
    }
}

enum NotReady {
    Unavailable(String),
    Refused(String),
}

async fn ready(pipeline: &Pipeline, table: &LandTable, source: &mut Source) -> Result<schema::Schema, NotReady> {
    let sort =
        |unavailable, reason| if unavailable { NotReady::Unavailable(reason) } else { NotReady::Refused(reason) };
    let place = upkeep::Place::of(table);
    match tokio::task::spawn_blocking(move || place.check()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(sort(error.is_retriable(), error.to_string())),
        Err(error) => return Err(NotReady::Refused(error.to_string())),
    }
    let (kafka, name) = (pipeline.kafka.clone(), table.topic.clone());
    match tokio::task::spawn_blocking(move || topic::find(&kafka, &name)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(sort(error.is_unavailable(), error.to_string())),
        Err(error) => return Err(NotReady::Refused(error.to_string())),
    }
    source.first(table).await.map_err(|error| sort(error.is_unavailable(), error.to_string()))
}

/// The consumer group of a table.
pub fn group(land: &Land, table: &LandTable) -> String {
    format!("{}-{}", land.group, table.topic)
}

/// Whether everything up to `target` has landed, as the ledger says of a partition that another process lands;
/// read without its lock. `end` is asked where it says more: a log that ends before is not the one that has landed.
fn has_landed(
    table: &LandTable,
    partition: i32,
    topic_id: &str,
    target: i64,
    end: impl FnOnce() -> Option<i64>,
) -> bool {
    match Ledger::read(&table.directory(partition)) {
        // Offsets of a topic made anew are others: somebody has to take note of it, were it empty.
        Ok(Some(Recovery { progress: Some(Progress { topic_id: known, next, .. }), .. })) => {
            let has_passed = next == target || (next > target && end().is_some_and(|end| next <= end));
            loss::topic_of(&known) == topic_id && has_passed
        }
        _ => target == 0,
    }
}
