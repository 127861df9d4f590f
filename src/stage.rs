//! What every stage is given, and what it gives back.

use crate::health::Health;
use serde::Serialize;
use tokio::sync::watch;

/// Handed to each stage by `app`. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub health: Health,
    /// Turns true once, when the stage shall finish what it holds, commit and return.
    pub shutdown: watch::Receiver<bool>,
    /// Whether the stage returns when it has caught up (`--until-caught-up`).
    pub until_caught_up: bool,
    /// For `land`: true when nothing more is being captured into its topics, so that the end of a
    /// topic is the end. Always true where no capture runs in this process.
    pub upstream_done: watch::Receiver<bool>,
    pub wait: Wait,
    /// Whether progress of long work is drawn as a bar on the terminal (else it is logged).
    pub progress_bar: bool,
}

/// How long to wait for PostgreSQL and Kafka at start.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    pub attempts: u32,
    pub delay_ms: u64,
}

impl Context {
    pub fn is_shutdown(&self) -> bool {
        *self.shutdown.borrow()
    }

    /// Sleeps for `milliseconds`, or until shutdown. True when shutdown has come.
    pub async fn pause(&self, milliseconds: u64) -> bool {
        let mut shutdown = self.shutdown.clone();
        let _ =
            tokio::time::timeout(std::time::Duration::from_millis(milliseconds), shutdown.wait_for(|down| *down)).await;
        self.is_shutdown()
    }
}

/// What a stage did, summed over its units.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    pub rows: u64,
    pub bytes: u64,
    pub files: u64,
    /// By reason.
    pub dead_letters: std::collections::BTreeMap<String, u64>,
    /// Units that did not end well, each with its reason: a non-empty list is exit code 1 (or 75).
    pub failures: Vec<Failure>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    pub unit: String,
    pub reason: String,
    /// A dependency stayed away (exit code 75), rather than a fault of the unit's own (1).
    pub unavailable: bool,
}

impl Summary {
    pub fn merge(&mut self, other: Summary) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.files += other.files;
        for (reason, count) in other.dead_letters {
            *self.dead_letters.entry(reason).or_default() += count;
        }
        self.failures.extend(other.failures);
    }
}
