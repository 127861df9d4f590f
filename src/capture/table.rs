//! A captured table while the stage runs: what is known of it, where it stands, how it does.

use super::{
    checkpoint::{Backfill, Identity, Progress},
    errors::TableError,
    load_progress::LoadProgress,
    plan::{Margins, Noted, Observation, Poll, Polled, Snapshot},
    search::{Below, Search, Tally},
    session::Session,
    source::{self, Source},
    sql,
    value::instant_text,
    witness,
    zone::Zone,
};
use crate::{
    config::model::{Capture, CaptureTable},
    health::{State, Unit},
    kafka::{producer::ProducerError, replay::Held},
    postgres::{PostgresError, catalogue},
};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// With `--until-caught-up`, failures in a row after which a table is given up.
const MOST_ATTEMPTS: u32 = 6;

/// Tried again later, ever later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    at: Instant,
    attempts: u32,
    is_transient: bool,
    reason: String,
}

impl Retry {
    fn after(before: Option<&Retry>, error: &TableError) -> Retry {
        let attempts = before.map_or(1, |before| before.attempts + 1);
        let delay = Duration::from_millis(500 << attempts.min(7)).min(LONGEST_RETRY);
        let (is_transient, reason) = (error.is_transient(), error.to_string());
        Retry { at: Instant::now() + delay, attempts, is_transient, reason }
    }

    fn given_up(&self) -> Option<&str> {
        (!self.is_transient || self.attempts >= MOST_ATTEMPTS).then_some(&*self.reason)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Active,
    Retry(Retry),
    Stopped { reason: String },
}

/// How a table that cannot go on from a checkpoint shall begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Only where nothing has been published before.
    FromScratch,
    /// From scratch, whatever there is.
    Again,
    /// With rows from now on.
    Now,
}

pub struct TableRun {
    pub configured: CaptureTable,
    pub unit: Unit,
    /// In metrics.
    pub label: String,
    pub lock_name: String,
    pub standing: Standing,
    pub beginning: Beginning,
    pub timestamp_file: Option<PathBuf>,
    pub rows: u64,
    pub last_commit_us: Option<i64>,
    pub load: LoadProgress,
    pub below: Below,
    /// Chunks that failed in a row; the polls go on meanwhile.
    pub load_retry: Option<Retry>,
    /// A look into the topic that is under way: whether it holds rows of this table.
    pub looking: Option<JoinHandle<Result<Held, ProducerError>>>,
    /// Known in this turn; anew after a reset.
    pub known: Option<Known>,
}

/// What holds from the first look at a table until the connection or the producer is replaced.
pub struct Known {
    pub fingerprint: String,
    pub source: Arc<Source>,
    pub zone: Zone,
    pub name: Arc<str>,
    pub checkpoint_key: Arc<str>,
    /// Includes what is handed over and not yet committed.
    pub progress: Progress,
    /// The first poll notes what is there without publishing it.
    pub is_silent: bool,
    /// Nothing of this state is in the checkpoint topic yet.
    pub is_unwritten: bool,
    /// Snapshot of the last checkpoint handed over, and when.
    pub written: Snapshot,
    pub written_at: Instant,
    /// Nothing was left to read at the last poll.
    pub is_caught_up: bool,
    /// Rows read in this turn.
    pub tally: Tally,
    pub search: Option<Search>,
    pub witness: witness::Record,
    /// Of the poll that `progress` has its snapshot from; none after a restart.
    pub noted: Option<Noted>,
    /// More may have come since than one poll reads.
    pub is_behind: bool,
    /// Rows of the next chunk, where the last was not the usual.
    pub chunk_rows: Option<u64>,
}

impl Known {
    /// All rows of a poll have been handed over.
    pub fn complete(&mut self, poll: Poll, observation: &Observation) {
        self.progress.polled = poll.complete();
        let lower = (self.progress.floor, self.progress.polls_from);
        if self.progress.is_loaded() && lower != (i64::MIN, None) {
            // All that is visible has been given, and its ids say so: the bound alone is asked with. It is a time,
            // which stays right where the zone or the slack is changed.
            self.progress.floor = i64::MIN;
            self.progress.polls_from = None;
            self.is_unwritten = true;
        }
        self.noted = Some(Noted::new(observation, self.noted.as_ref()));
    }
}

impl TableRun {
    pub fn is_due(&self) -> bool {
        match &self.standing {
            Standing::Active => true,
            Standing::Retry(retry) => retry.at <= Instant::now(),
            Standing::Stopped { .. } => false,
        }
    }

    pub fn fail(&mut self, error: &TableError) {
        self.note_failure(error);
        if !matches!(self.standing, Standing::Stopped { .. }) {
            let before = match &self.standing {
                Standing::Retry(retry) => Some(retry),
                _ => None,
            };
            self.standing = Standing::Retry(Retry::after(before, error));
        }
    }

    /// A chunk has failed. Polls, which read other rows, are not kept from going on.
    pub fn fail_load(&mut self, error: &TableError) {
        self.note_failure(error);
        self.load_retry = Some(Retry::after(self.load_retry.as_ref(), error));
    }

    /// The same of a failure that has ended the turn, whichever of the two it was: neither is read again at once.
    pub fn fail_turn(&mut self, error: &TableError) {
        self.fail(error);
        self.load_retry = Some(Retry::after(self.load_retry.as_ref(), error));
    }

    fn note_failure(&mut self, error: &TableError) {
        let reason = error.to_string();
        self.unit.failed();
        if let Some(known) = &mut self.known {
            known.is_caught_up = false;
        }
        if error.is_final() {
            self.unit.set(State::Stopped(reason.clone()));
            self.standing = Standing::Stopped { reason };
        } else {
            self.unit.set(State::Failing(reason));
        }
    }

    pub fn recover(&mut self) {
        self.standing = Standing::Active;
    }

    pub fn recover_load(&mut self) {
        self.load_retry = None;
    }

    /// How it does after a poll that went well; `None` where something else still fails.
    pub fn state(&self, capture: &Capture) -> Option<State> {
        let below = self.known.as_ref().and_then(|known| self.below.reason(capture, &known.source));
        let is_caught_up = self.known.as_ref().is_some_and(|known| known.is_caught_up);
        match (&self.load_retry, below) {
            (Some(_), _) => None,
            (None, Some(reason)) => Some(State::Failing(reason)),
            (None, None) if is_caught_up => Some(State::CaughtUp),
            (None, None) => Some(State::Progressing),
        }
    }

    /// Why `--until-caught-up` need not wait for this table any longer.
    pub fn given_up(&self) -> Option<&str> {
        match &self.standing {
            Standing::Stopped { reason } => Some(reason),
            Standing::Retry(retry) => retry.given_up(),
            Standing::Active => self.load_retry.as_ref().and_then(Retry::given_up),
        }
    }

    pub fn is_loading(&self) -> bool {
        self.standing == Standing::Active
            && self.load_retry.as_ref().is_none_or(|retry| retry.at <= Instant::now())
            && self.known.as_ref().is_some_and(|known| !known.progress.is_loaded())
    }

    /// Describes the table, in the transaction that has locked it, and applies the configuration.
    pub async fn describe(&self, session: &Session, capture: &Capture) -> Result<(Source, Zone), TableError> {
        let table = &self.configured;
        let found = catalogue::describe(&session.client, table.schema.as_deref(), &table.table).await;
        let found = found.map_err(|error| match error {
            PostgresError::Query(source) => {
                TableError::query(&self.lock_name, &session.user, capture.lock_timeout_ms, source)
            }
            _ => TableError::NoTable { table: self.lock_name.clone() },
        })?;
        let source = Source::resolve(table, &found)?;
        let zone = source::zone(capture, &source, session.time_zone.as_deref())?;
        Ok((source, zone))
    }

    pub fn report(&self, now_us: i64) {
        let Some(known) = &self.known else { return };
        let progress = &known.progress;
        let load = self.load.remaining(progress.loaded_rows());
        self.unit.detail(serde_json::json!({
            "snapshot": progress.polled.snapshot.to_string(),
            "bound": instant_text(progress.polled.bound_us),
            "bound_age_seconds": (now_us - progress.polled.bound_us) as f64 / 1e6,
            "seen_transactions": progress.polled.seen.len(),
            "newest": progress.newest_us.map(instant_text),
            "rows": self.rows,
            "below_bound": {
                "rows": self.below.rows(),
                "searches": known.search.as_ref().map_or(0, Search::passes),
            },
            "last_commit": self.last_commit_us.map(instant_text),
            "backfill": {
                "done": progress.is_loaded(),
                "what": if progress.catch_up.is_some() { "backlog" } else { "first load" },
                "done_rows": progress.loaded_rows(),
                "estimated_rows": load.as_ref().map(|load| load.total_rows),
                "rate": load.as_ref().map(|load| load.rows_per_second),
                "seconds_left": load.as_ref().map(|load| load.seconds_left),
            },
        }));
    }
}

/// The slack that holds for a table: never below what its column can tell apart, never 0.
pub fn margins(capture: &Capture, source: &Source) -> Margins {
    const LEAST_SLACK_US: i64 = 100_000;
    let microseconds = |milliseconds: u64| i64::try_from(milliseconds.saturating_mul(1000)).unwrap_or(i64::MAX);
    Margins {
        slack_us: microseconds(capture.slack_ms).max(source.resolution_us).max(LEAST_SLACK_US),
        prepared_us: microseconds(capture.prepared_margin_ms),
    }
}

/// Where a table without a checkpoint begins: rows from `floor` on belong to the polls.
pub fn beginning(
    source: &Source,
    zone: &Zone,
    identity: &Identity,
    observation: &Observation,
    margins: Margins,
    backfill: Backfill,
) -> Progress {
    let polled = Polled::first(observation, margins);
    let floor = sql::raw_bound(source.watermark_type, zone, polled.bound_us, observation.clock_us);
    Progress {
        identity: identity.clone(),
        watermark: source.watermark_column().name.clone(),
        watermark_type: source.watermark_type,
        key: source.key_names(),
        polled,
        floor,
        backfill,
        polls_from: None,
        catch_up: None,
        newest_us: None,
        topic_id: None,
    }
}
