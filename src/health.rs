//! What each stage is doing, for `/ready`, `/status` and the final summary.
//!
//! Stages report per unit of work (a captured table, a landed topic); readiness follows progress:
//! the process is ready only while every unit is progressing or caught up. Every report is a sign of life; a unit
//! that gives none for too long, be it deadlocked or stuck in a system call, is shown as failing whatever it said last.

use crate::clock::now_ms;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// One unit of work: `stage` is `capture`, `land` or `analyze`, `unit` the table, topic or job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitId {
    pub pipeline: String,
    pub stage: &'static str,
    pub unit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum State {
    /// Not yet through its first step.
    Starting,
    /// Waits for a dependency, a lock or its turn; the text says for what.
    Waiting(String),
    /// Makes progress through a backlog.
    Progressing,
    CaughtUp,
    /// Another process does the work, and this one takes over when it ends; the text says which.
    StandingBy(String),
    /// Tried and failed, and tries again; the text says what to do.
    Failing(String),
    /// Stands still until somebody acts.
    Stopped(String),
}

impl State {
    pub fn is_ready(&self) -> bool {
        matches!(self, State::Progressing | State::CaughtUp | State::StandingBy(_))
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct UnitStatus {
    #[serde(flatten)]
    pub state: State,
    /// Since when the state holds, seconds since the Unix epoch.
    pub since_seconds: u64,
    /// The last error of this unit, kept after it is over.
    pub last_error: Option<String>,
    /// Positions, lag and the like; stage-specific.
    pub detail: serde_json::Value,
    /// By when there has to be a sign of life, but for the patience.
    #[serde(skip)]
    sign_due: Instant,
}

/// Shared between stages (writers) and the HTTP server (reader).
#[derive(Debug, Clone)]
pub struct Health {
    units: Arc<Mutex<BTreeMap<UnitId, UnitStatus>>>,
    /// How long a unit may be silent.
    patience: Duration,
}

impl Health {
    /// `patience` is how long a unit may give no sign of life before it counts as stalled.
    pub fn new(patience: Duration) -> Health {
        Health { units: Arc::default(), patience }
    }

    /// Registers a unit as starting and gives the handle by which its stage reports.
    pub fn unit(&self, pipeline: &str, stage: &'static str, unit: &str) -> Unit {
        let id = UnitId { pipeline: pipeline.to_owned(), stage, unit: unit.to_owned() };
        let status = UnitStatus {
            state: State::Starting,
            since_seconds: now_seconds(),
            last_error: None,
            detail: serde_json::Value::Null,
            sign_due: Instant::now(),
        };
        self.lock().insert(id.clone(), status);
        Unit { health: self.clone(), id }
    }

    /// All units, sorted by pipeline, stage and name; a stalled one as failing.
    pub fn snapshot(&self) -> Vec<(UnitId, UnitStatus)> {
        let now = Instant::now();
        let shown = |(id, status): (&UnitId, &UnitStatus)| {
            let mut status = status.clone();
            if let Some(silence) = self.silence(&status, now) {
                let seconds = silence.as_secs();
                status.state = State::Failing(format!(
                    "has given no sign of life for {seconds} s (runtime.stall_timeout_ms): restart the process, which \
                     loses nothing, and report it"
                ));
            }
            (id.clone(), status)
        };
        self.lock().iter().map(shown).collect()
    }

    /// Whether a unit has been silent for longer than the patience.
    pub fn is_stalled(&self) -> bool {
        let now = Instant::now();
        self.lock().values().any(|status| self.silence(status, now).is_some())
    }

    /// How long a unit has been silent, if too long. Who waits for somebody else, or stands still, may be silent.
    fn silence(&self, status: &UnitStatus, now: Instant) -> Option<Duration> {
        let is_at_work = !matches!(status.state, State::Waiting(_) | State::StandingBy(_) | State::Stopped(_));
        Some(now.saturating_duration_since(status.sign_due)).filter(|silence| is_at_work && *silence > self.patience)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<UnitId, UnitStatus>> {
        self.units.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The reporting end of one unit. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Unit {
    health: Health,
    id: UnitId,
}

impl Unit {
    pub fn id(&self) -> &UnitId {
        &self.id
    }

    /// Sets the state. Logs once when it becomes `Failing` or `Stopped` with a new reason, and once
    /// when it recovers, so that a failure repeated at each poll is one line.
    pub fn set(&self, state: State) {
        let mut units = self.health.lock();
        let Some(status) = units.get_mut(&self.id) else { return };
        status.sign_due = Instant::now();
        if status.state == state {
            return;
        }
        // Its pipeline and stage are in the span.
        let unit = self.id.unit.as_str();
        match &state {
            State::Failing(reason) | State::Stopped(reason) => {
                tracing::error!(unit, "{reason}");
                status.last_error = Some(reason.clone());
            }
            State::Waiting(reason) | State::StandingBy(reason) => tracing::info!(unit, "{reason}"),
            _ if matches!(status.state, State::Failing(_) | State::Stopped(_)) => {
                let seconds = now_seconds().saturating_sub(status.since_seconds);
                tracing::info!(unit, seconds, "recovered");
            }
            _ => {}
        }
        status.state = state;
        status.since_seconds = now_seconds();
    }

    pub fn is_ready(&self) -> bool {
        self.health.lock().get(&self.id).is_some_and(|status| status.state.is_ready())
    }

    /// Replaces the stage-specific detail of `/status`.
    pub fn detail(&self, detail: serde_json::Value) {
        if let Some(status) = self.health.lock().get_mut(&self.id) {
            status.detail = detail;
            status.sign_due = Instant::now();
        }
    }

    /// A sign of life. The next may be so long in coming, besides the patience: the stage rests.
    pub fn rests_for(&self, rest: Duration) {
        if let Some(status) = self.health.lock().get_mut(&self.id) {
            status.sign_due = Instant::now() + rest;
        }
    }
}

fn now_seconds() -> u64 {
    now_ms() as u64 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_at_work_that_is_silent_for_too_long_is_shown_as_failing() {
        let health = Health::new(Duration::ZERO);
        let unit = health.unit("p", "land", "t");
        let state = || health.snapshot()[0].1.state.clone();
        unit.rests_for(Duration::from_secs(3_600));
        assert!(!health.is_stalled());
        unit.set(State::CaughtUp);
        std::thread::sleep(Duration::from_millis(2));
        assert!(health.is_stalled());
        let State::Failing(reason) = state() else { panic!("{:?}", state()) };
        assert!(reason.contains("no sign of life for 0 s"), "{reason}");
        unit.set(State::Waiting("for the other side".to_owned()));
        std::thread::sleep(Duration::from_millis(2));
        assert!(!health.is_stalled() && state() == State::Waiting("for the other side".to_owned()));
    }
}
