//! A captured table while the stage runs: what is known of it, where it stands, how it does.

use super::{
    checkpoint::{Backfill, Identity, Progress},
    errors::TableError,
    load_progress::LoadProgress,
    plan::{Margins, Observation, Polled, Snapshot},
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
    postgres::{PostgresError, catalogue},
};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// With `--until-caught-up`, failures in a row after which a table is given up.
const MOST_ATTEMPTS: u32 = 6;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Active,
    Retry { at: Instant, attempts: u32, is_transient: bool, reason: String },
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
}

impl TableRun {
    pub fn is_due(&self) -> bool {
        match &self.standing {
            Standing::Active => true,
            Standing::Retry { at, .. } => *at <= Instant::now(),
            Standing::Stopped { .. } => false,
        }
    }

    pub fn fail(&mut self, error: &TableError) {
        let reason = error.to_string();
        self.unit.failed();
        let attempts = match &self.standing {
            Standing::Retry { attempts, .. } => attempts + 1,
            _ => 1,
        };
        if let Some(known) = &mut self.known {
            known.is_caught_up = false;
        }
        if error.is_final() {
            self.unit.set(State::Stopped(reason.clone()));
            self.standing = Standing::Stopped { reason };
            return;
        }
        self.unit.set(State::Failing(reason.clone()));
        let delay = Duration::from_millis(500 << attempts.min(7)).min(LONGEST_RETRY);
        let at = Instant::now() + delay;
        self.standing = Standing::Retry { at, attempts, is_transient: error.is_transient(), reason };
    }

    pub fn recover(&mut self) {
        self.standing = Standing::Active;
    }

    /// How the table stands after a poll that went well.
    pub fn state(&self, capture: &Capture) -> State {
        let Some(known) = &self.known else { return State::Progressing };
        match self.below.reason(capture, &known.source) {
            Some(reason) => State::Failing(reason),
            None if known.is_caught_up => State::CaughtUp,
            None => State::Progressing,
        }
    }

    /// Why `--until-caught-up` need not wait for this table any longer.
    pub fn given_up(&self) -> Option<&str> {
        match &self.standing {
            Standing::Stopped { reason } => Some(reason),
            Standing::Retry { attempts, is_transient, reason, .. } if !is_transient || *attempts >= MOST_ATTEMPTS => {
                Some(reason)
            }
            _ => None,
        }
    }

    pub fn is_loading(&self) -> bool {
        self.standing == Standing::Active && self.known.as_ref().is_some_and(|known| !known.progress.backfill.is_done())
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
        let load = self.load.remaining(progress.backfill.done_rows());
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
                "done": progress.backfill.is_done(),
                "done_rows": progress.backfill.done_rows(),
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
        newest_us: None,
    }
}
