//! What each stage is doing, for `/ready`, `/status` and the final summary.
//!
//! Stages report per unit of work (a captured table, a landed topic); readiness follows progress:
//! the process is ready only while every unit is progressing or caught up.

use crate::clock::now_ms;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
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
}

/// Shared between stages (writers) and the HTTP server (reader).
#[derive(Debug, Clone, Default)]
pub struct Health {
    units: Arc<Mutex<BTreeMap<UnitId, UnitStatus>>>,
}

impl Health {
    /// Registers a unit as starting and gives the handle by which its stage reports.
    pub fn unit(&self, pipeline: &str, stage: &'static str, unit: &str) -> Unit {
        let id = UnitId { pipeline: pipeline.to_owned(), stage, unit: unit.to_owned() };
        let status = UnitStatus {
            state: State::Starting,
            since_seconds: now_seconds(),
            last_error: None,
            detail: serde_json::Value::Null,
        };
        self.lock().insert(id.clone(), status);
        Unit { health: self.clone(), id }
    }

    /// All units, sorted by pipeline, stage and name.
    pub fn snapshot(&self) -> Vec<(UnitId, UnitStatus)> {
        self.lock().iter().map(|(id, status)| (id.clone(), status.clone())).collect()
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
        if status.state == state {
            return;
        }
        let UnitId { pipeline, stage, unit } = &self.id;
        match &state {
            State::Failing(reason) | State::Stopped(reason) => {
                tracing::error!(%pipeline, %stage, %unit, "{reason}");
                status.last_error = Some(reason.clone());
            }
            State::Waiting(reason) | State::StandingBy(reason) => tracing::info!(%pipeline, %stage, %unit, "{reason}"),
            _ if matches!(status.state, State::Failing(_) | State::Stopped(_)) => {
                tracing::info!(%pipeline, %stage, %unit, "recovered");
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
        }
    }
}

fn now_seconds() -> u64 {
    now_ms() as u64 / 1_000
}
