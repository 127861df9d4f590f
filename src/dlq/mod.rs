//! Dead letters after the fact: what there is, one of them whole, back onto a topic, out into a file.
//!
//! There are three stores. `land` keeps its letters in Parquet files, of which those count that a ledger
//! vouches for ([`landed`]); `analyze` keeps its own in the table `dead_letters` ([`analyzed`]); `capture` tells
//! of rows that were too large in a topic ([`captured`]). All are only read here. What one command sees is what
//! stood in them when it began.
//!
//! **A replay sends a letter once**, through any crash: the messages and the record of which letters they
//! were stand in one Kafka transaction ([`replay`], [`sent`]). It does not matter in which of the stores a
//! letter was found, nor by which conditions.

pub mod analyzed;
pub mod captured;
pub mod escape;
pub mod export;
pub mod filter;
pub mod form;
pub mod landed;
pub mod letter;
pub mod list;
pub mod replay;
pub mod rights;
pub mod selection;
pub mod sent;
pub mod show;
pub mod table;

use crate::{
    config::model::{Config, Pipeline},
    kafka::{
        admin::{AdminError, TopicSpec},
        producer::ProducerError,
        reader::ReadError,
        topic::TopicError,
    },
    lake::{LakeError, reader::LakeReadError},
    postgres::{PostgresError, chain},
};
use analyzed::Analyzed;
use captured::Captured;
use filter::{Filter, FilterError};
use landed::Landed;
use letter::{Id, Letter, NoId};
use sent::{Sent, SentError};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

#[derive(Debug, thiserror::Error)]
pub enum DlqError {
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Id(#[from] NoId),
    #[error("{0}")]
    Selection(String),
    #[error("there is no dead letter {id}; this file has stores of {topics}")]
    NotFound { id: Id, topics: String },
    #[error(
        "{count} dead letters with different payloads are called {id}: choose one with --where, by pipeline or topic_id, which are shown without --raw"
    )]
    Several { id: Id, count: usize },
    #[error("dead letter {id} is a tombstone: it has no payload")]
    Tombstone { id: Id },
    #[error(transparent)]
    Read(#[from] LakeReadError),
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error("the dead letters of job {job} cannot be read: {}", chain(.source))]
    Query { job: String, source: tokio_postgres::Error },
    #[error("the dead letters of job {job} may not be read: GRANT SELECT ON dead_letters TO {user}")]
    NoGrant { job: String, user: String },
    #[error(
        "the rows that capture found too large cannot be read: {source}; --where stage!=capture leaves them out, \
         capture.dead_letter_topic needs the rights Describe and Read"
    )]
    Captured { source: ReadError },
    #[error("the user lacks {operations} of {resource}, which a replay needs: {cure}")]
    Lacking { operations: String, resource: String, cure: String },
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Sent(#[from] SentError),
    #[error("which letters were replayed cannot be read: {0}")]
    Replayed(ProducerError),
    #[error(
        "another replay with transactional id {transactional_id} has taken over; this one ends. What it had committed is not sent again: run it again when the other has ended"
    )]
    Fenced { transactional_id: String },
    #[error("the replay stopped: {reason}; run the same command again: what was committed is not sent twice{hint}")]
    Stopped { reason: String, hint: String, unavailable: bool },
    #[error("{}: {source}", .path.display())]
    Output { path: PathBuf, source: std::io::Error },
    #[error("{} is there already: remove it or name another file", .path.display())]
    Exists { path: PathBuf },
    #[error("a column cannot be built: {0}")]
    Arrow(#[from] arrow_schema::ArrowError),
    #[error("it ended by itself: {0}")]
    Ended(#[from] tokio::task::JoinError),
}

impl DlqError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        match self {
            DlqError::Postgres(error) => error.is_unavailable(),
            DlqError::Admin(error) => error.is_unavailable(),
            DlqError::Captured { source } => source.is_unavailable(),
            // A topic that is not there does not come by waiting.
            DlqError::Topic(error) => error.is_unavailable() && !matches!(error, TopicError::Missing { .. }),
            DlqError::Replayed(error) => error.is_unavailable(),
            DlqError::Stopped { unavailable, .. } => *unavailable,
            _ => false,
        }
    }

    /// Whether the command line is wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, DlqError::Filter(_) | DlqError::Id(_) | DlqError::Selection(_))
    }
}

/// Whether a reading goes on after a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Continue,
    Stop,
}

/// What is given each letter.
type Take<'a> = dyn FnMut(Letter) -> Result<Next, DlqError> + 'a;

enum Store {
    Captured(Captured),
    Landed(Landed),
    Analyzed(Analyzed),
}

/// The stores of one pipeline, as they stand now: what comes later is not seen.
struct Stores {
    stores: Vec<Store>,
    warnings: Vec<String>,
}

impl Stores {
    /// Of all letters. Where Kafka is away, those of capture are told to be missing.
    fn open(pipeline: &Pipeline, filter: &Filter, runtime: &Handle) -> Result<Stores, DlqError> {
        let mut stores = Stores::of_records(pipeline, runtime)?;
        if filter.takes_stage("capture") {
            match Captured::open(pipeline) {
                Ok(found) => stores.stores.extend(found.map(Store::Captured)),
                Err(error) if error.is_unavailable() => stores.warnings.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(stores)
    }

    /// Of the letters that hold the record that was refused, and can be sent.
    fn of_records(pipeline: &Pipeline, runtime: &Handle) -> Result<Stores, DlqError> {
        let mut stores = Vec::new();
        let mut warnings = Vec::new();
        for table in pipeline.land.iter().flat_map(|land| &land.tables) {
            stores.push(Store::Landed(Landed::open(&pipeline.name, table, &mut warnings)?));
        }
        if let (Some(analyze), Some(postgres)) = (&pipeline.analyze, &pipeline.postgres) {
            for job in &analyze.jobs {
                let opening = Analyzed::open(&pipeline.name, postgres, analyze.schema.as_deref(), job);
                stores.push(Store::Analyzed(runtime.block_on(opening)?));
            }
        }
        Ok(Stores { stores, warnings })
    }

    /// Gives the letters that may be meant, those of a partition in the order of their offsets within each
    /// store. Bodies are read where `with_body` says so.
    fn read(&self, filter: &Filter, with_body: bool, runtime: &Handle, take: &mut Take<'_>) -> Result<(), DlqError> {
        for store in &self.stores {
            let next = match store {
                Store::Captured(store) => store.read(filter, with_body, take)?,
                Store::Landed(store) => store.read(filter, with_body, take)?,
                Store::Analyzed(store) => store.read(filter, with_body, runtime, take)?,
            };
            if next == Next::Stop {
                break;
            }
        }
        Ok(())
    }

    /// Says how much there is to read, where that takes a while.
    fn announce(&self, pipeline: &str, filter: &Filter) {
        const LONG_BYTES: u64 = 64 << 20;
        const LONG_LETTERS: u64 = 200_000;
        let (mut files, mut bytes, mut rows) = (0, 0, 0);
        for store in &self.stores {
            match store {
                // Few, and small.
                Store::Captured(_) => {}
                Store::Landed(store) => {
                    let (more_files, more_bytes) = store.volume(filter);
                    (files, bytes) = (files + more_files, bytes + more_bytes);
                }
                Store::Analyzed(store) => rows += store.volume(filter),
            }
        }
        if bytes >= LONG_BYTES || rows >= LONG_LETTERS {
            let mebibytes = bytes >> 20;
            tracing::info!(pipeline, files, mebibytes, rows, "reading dead letters: files of land, rows of analyze");
        }
    }
}

/// A line now and then on what takes long.
struct Progress {
    what: &'static str,
    said: Instant,
    read: u64,
}

impl Progress {
    const INTERVAL: Duration = Duration::from_secs(5);

    fn new(what: &'static str) -> Progress {
        Progress { what, said: Instant::now(), read: 0 }
    }

    /// Counts a letter that was read; `done` of them were dealt with.
    fn letter(&mut self, done: u64) {
        self.read += 1;
        if self.read.is_multiple_of(1_024) && self.said.elapsed() >= Progress::INTERVAL {
            self.said = Instant::now();
            tracing::info!(read = self.read, done, "{} so far", self.what);
        }
    }
}

/// Letters whose headers cannot be read as they are stored: how many, and the first.
#[derive(Default)]
struct Damaged {
    count: u64,
    first: Option<Id>,
}

impl Damaged {
    /// True where the letter is one of them.
    fn note(&mut self, letter: &Letter) -> bool {
        if letter.body.headers_damaged {
            self.count += 1;
            self.first.get_or_insert_with(|| letter.id());
        }
        letter.body.headers_damaged
    }

    /// `what` says what became of them.
    fn warning(&self, what: &str) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(format!("the stored headers of {} dead letters are damaged, such as {first}: {what}", self.count))
    }
}

/// The pipelines that a filter may mean; none is a fault of the filter.
fn pipelines<'c>(config: &'c Config, filter: &Filter) -> Result<Vec<&'c Pipeline>, DlqError> {
    let taken: Vec<&Pipeline> =
        config.pipelines.iter().filter(|pipeline| filter.takes_pipeline(&pipeline.name)).collect();
    if taken.is_empty() {
        let names: Vec<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
        return Err(DlqError::Selection(format!("no such pipeline: this file has {}", names.join(", "))));
    }
    Ok(taken)
}

/// Which letters were replayed, for commands that only tell of it: where Kafka is away they go on without,
/// unless the filter asks for it.
fn replayed(pipeline: &Pipeline, filter: &Filter, warnings: &mut Vec<String>) -> Result<Option<Sent>, DlqError> {
    match Sent::read_if_there(pipeline, "") {
        Ok(sent) => Ok(Some(sent)),
        Err(error) if filter.needs_replayed() || matches!(error, DlqError::Sent(_)) => Err(error),
        Err(error) => {
            warnings.push(format!("which letters of {} were replayed is not known: {error}", pipeline.name));
            Ok(None)
        }
    }
}

/// The topic of what was replayed.
pub fn replay_topic(pipeline: &Pipeline) -> TopicSpec {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    TopicSpec {
        name: pipeline.dlq.replay_topic.clone(),
        partitions: 1,
        replication: pipeline.dlq.replay_replication,
        settings: vec![
            setting("cleanup.policy", "compact"),
            // Small, so that a start reads little.
            setting("segment.bytes", "8388608"),
            setting("min.cleanable.dirty.ratio", "0.1"),
        ],
    }
}

/// Runs what blocks on a thread where it may, with the runtime that its connections live on.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Handle) -> Result<T, DlqError> + Send + 'static,
) -> Result<T, DlqError> {
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || work(&runtime)).await?
}

/// `text` shared between letters that have the same.
fn shared(last: &mut Option<Arc<str>>, text: &str) -> Arc<str> {
    match last {
        Some(last) if **last == *text => last.clone(),
        _ => last.insert(text.into()).clone(),
    }
}
