//! Capture: rows of PostgreSQL tables to Kafka topics, each version that a poll can see once.
//!
//! # The delivery contract
//!
//! A table's progress is a record in a compacted topic, written in the very Kafka transaction that
//! holds the rows it vouches for. So there is no moment at which rows are published and progress is
//! not, or the other way round: whatever dies, the next start reads the record and asks for exactly
//! what is missing.
//!
//! - What is new is said by PostgreSQL's snapshots ([`plan`]), not by the order of timestamps: a row
//!   that becomes visible late, with a timestamp long passed, is found at the poll after.
//! - A poll or a chunk of the first load ([`backfill`]) may need several Kafka transactions. All but
//!   the last say "the old question, less what is done"; only the last moves the snapshot.
//! - What is handed to Kafka and not yet answered for lives in memory only. After any doubt (a lost
//!   connection, an unknown outcome of a commit, an error in the middle of a table) all memory is
//!   thrown away, the producer is made anew, which aborts what was open, and the records are read.
//! - One instance at a time: the producer's transactional id fences older ones, and a fenced one ends.
//!
//! One table's trouble is its own: behind a savepoint it fails, is reported, and is tried again,
//! while the others go on in the same snapshot.

mod backfill;
mod checkpoint;
mod copy;
mod errors;
pub mod inspect;
mod load_progress;
mod plan;
mod poll;
mod publish;
mod read;
mod search;
mod session;
mod silence;
mod sink;
mod source;
mod sql;
mod start;
mod table;
mod timestamp_file;
mod turn;
mod value;
mod witness;
mod zone;

pub use start::{is_checkpoint, topics};

use crate::{
    config::model::{Capture, Pipeline},
    health::State,
    kafka::producer::{MESSAGE_TOO_LARGE, ProducerError},
    metrics,
    record::reason::ROW_TOO_LARGE,
    stage::{Context, Failure, Summary},
};
use errors::{Fault, TableError};
use std::{collections::HashSet, sync::Arc};
use table::{Beginning, Standing, TableRun};
use turn::TurnEnd;

const FIRST_BACKOFF_MS: u64 = 200;
const LONGEST_BACKOFF_MS: u64 = 10_000;

/// How tables whose checkpoint is missing or does not fit shall go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Publishes every table again from its first row, checkpoint or not.
    pub resync: bool,
    /// Lets tables that cannot go on from a checkpoint begin with rows from now on.
    pub from_now: bool,
}

/// Captures the tables of a pipeline until shutdown, or until all is captured where the context says so.
pub async fn run(pipeline: Arc<Pipeline>, context: Context, options: Options) -> Summary {
    let Some(capture) = pipeline.capture.clone() else { return Summary::default() };
    let mut engine = Engine::new(pipeline, capture, context, options);
    engine.run().await;
    engine.finish()
}

struct Engine {
    pipeline: Arc<Pipeline>,
    capture: Arc<Capture>,
    context: Context,
    tables: Vec<TableRun>,
    summary: Summary,
    /// Prepared transactions that have been warned about.
    warned: HashSet<String>,
    /// The table with which the next poll begins.
    next_to_poll: usize,
    /// Each table is published in transactions of its own, until it is known whose messages a topic refuses.
    is_one_by_one: bool,
    /// Whether PostgreSQL and Kafka have both been reached once.
    has_started: bool,
}

impl Engine {
    fn new(pipeline: Arc<Pipeline>, capture: Capture, context: Context, options: Options) -> Engine {
        let is_single = capture.tables.len() == 1;
        let beginning = match options {
            Options { resync: true, .. } => Beginning::Again,
            Options { from_now: true, .. } => Beginning::Now,
            _ => Beginning::FromScratch,
        };
        let tables = capture
            .tables
            .iter()
            .map(|configured| {
                let label = match &configured.schema {
                    Some(schema) => format!("{schema}.{}", configured.table),
                    None => configured.table.clone(),
                };
                let labels = [&pipeline.name, &label].map(String::as_str);
                metrics::CAPTURE_ROWS.begin(&labels);
                metrics::CAPTURE_POLL_ERRORS.begin(&labels);
                metrics::CAPTURE_DEAD_LETTERS.begin(&[labels[0], labels[1], ROW_TOO_LARGE]);
                let location = capture.last_processed_timestamp_location.as_ref();
                TableRun {
                    unit: context.health.unit(&pipeline.name, "capture", &label),
                    lock_name: source::quoted_name(configured),
                    timestamp_file: location.map(|location| timestamp_file::path(location, &label, is_single)),
                    configured: configured.clone(),
                    standing: Standing::Active,
                    beginning,
                    rows: 0,
                    last_commit_us: None,
                    load: load_progress::LoadProgress::default(),
                    below: search::Below::default(),
                    load_retry: None,
                    looking: None,
                    known: None,
                    label,
                }
            })
            .collect();
        Engine {
            pipeline,
            capture: Arc::new(capture),
            context,
            tables,
            summary: Summary::default(),
            warned: HashSet::new(),
            next_to_poll: 0,
            is_one_by_one: false,
            has_started: false,
        }
    }

    /// Turns follow one another until shutdown or the end; each begins with fresh connections.
    async fn run(&mut self) {
        let mut attempts = 0_u32;
        let mut backoff_ms = FIRST_BACKOFF_MS;
        while !self.context.is_shutdown() {
            let fault = match self.turn(&mut backoff_ms).await {
                Ok(TurnEnd::Done) => return,
                Err(fault) => fault,
            };
            let is_apart = self.is_apart(&fault);
            self.tables.iter_mut().for_each(|table| table.known = None);
            if is_apart {
                self.context.pause(FIRST_BACKOFF_MS).await;
                continue;
            }
            if self.is_over(&fault, &mut attempts) {
                return;
            }
            let delay_ms = match self.has_started {
                true => backoff_ms,
                false => self.context.wait.delay_ms,
            };
            backoff_ms = (backoff_ms * 2).min(LONGEST_BACKOFF_MS);
            self.context.pause(delay_ms).await;
        }
    }

    /// Whether a fault is that of some tables only. These are tried again later, and by themselves; what was taken back
    /// of the others is published anew.
    fn is_apart(&mut self, fault: &Fault) -> bool {
        let Fault::Producer(ProducerError::Refused { topic, reason, of }) = fault else { return false };
        let is_owner = |table: &TableRun| topic.as_ref() == Some(&table.configured.topic);
        let mut owners: Vec<usize> = (0..self.tables.len()).filter(|index| is_owner(&self.tables[*index])).collect();
        if owners.is_empty() {
            // It may be a topic that all tables share, such as that of dead letters: who fills it is found by
            // publishing each table by itself.
            self.is_one_by_one = of.len() != 1;
            if self.is_one_by_one {
                return true;
            }
            owners.clone_from(of);
        }
        let cure = match reason == MESSAGE_TOO_LARGE {
            true => "; raise that, or lower capture.max_row_bytes and, in kafka.properties, batch.size",
            false => "",
        };
        for index in owners {
            let table = &mut self.tables[index];
            let capture = &self.capture;
            let any =
                || format!("{}, {} or {}", table.configured.topic, capture.dead_letter_topic, capture.checkpoint_topic);
            let topic = topic.clone().unwrap_or_else(any);
            let reason = format!("does not take messages: {reason}{cure}");
            table.fail_turn(&TableError::Topic { table: table.label.clone(), topic, reason });
        }
        true
    }

    /// Reports a fault on every table; true when the stage ends with it.
    fn is_over(&mut self, fault: &Fault, attempts: &mut u32) -> bool {
        let reason = fault.to_string();
        let is_fenced = matches!(fault, Fault::Producer(ProducerError::Fenced { .. }));
        *attempts += 1;
        let gives_up = !self.has_started && (!fault.is_unavailable() || *attempts >= self.context.wait.attempts);
        for table in &mut self.tables {
            if matches!(table.standing, Standing::Stopped { .. }) {
                continue;
            }
            table.unit.failed();
            if is_fenced || gives_up {
                table.standing = Standing::Stopped { reason: reason.clone() };
                table.unit.set(State::Stopped(reason.clone()));
            } else if !self.has_started {
                table.unit.set(State::Waiting(reason.clone()));
            } else if !matches!(fault, Fault::Interrupted(_))
                && (table.standing == Standing::Active || fault.is_unavailable())
            {
                table.unit.set(State::Failing(reason.clone()));
            }
        }
        if is_fenced || gives_up {
            let unavailable = !is_fenced && fault.is_unavailable();
            let failed = |table: &TableRun| Failure { unit: table.label.clone(), reason: reason.clone(), unavailable };
            self.summary.failures = self.tables.iter().map(failed).collect();
        }
        is_fenced || gives_up
    }

    fn finish(mut self) -> Summary {
        for table in &self.tables {
            let is_known = self.summary.failures.iter().any(|failure| failure.unit == table.label);
            let reason = match &table.standing {
                Standing::Stopped { reason } => Some(reason.as_str()),
                _ if self.context.until_caught_up => table.given_up(),
                _ => None,
            };
            if let (false, Some(reason)) = (is_known, reason) {
                let (unit, reason) = (table.label.clone(), reason.to_owned());
                self.summary.failures.push(Failure { unit, reason, unavailable: false });
            }
        }
        self.summary
    }
}
