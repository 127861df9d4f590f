//! How a long run shows that it goes on.

use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// A bar on the terminal (bulk only).
    Bar,
    /// A line in the log every few seconds.
    Log,
    /// The caller shows the run's progress.
    Nothing,
}

/// A bar on a terminal, a line in the log every few seconds elsewhere.
pub(super) struct Shown {
    bar: Option<indicatif::ProgressBar>,
    log: bool,
    total: u64,
    /// What is counted, in the plural.
    noun: &'static str,
    started: Instant,
    logged: Instant,
}

impl Shown {
    pub(super) fn new(show: Show, total: u64, noun: &'static str) -> Self {
        let bar = (show == Show::Bar).then(|| {
            let bar = indicatif::ProgressBar::new(total);
            let template = format!("{{bar:30}} {{human_pos}} of {{human_len}} {noun}  {{per_sec}}  {{eta}} left");
            if let Ok(style) = indicatif::ProgressStyle::with_template(&template) {
                bar.set_style(style);
            }
            bar
        });
        let now = Instant::now();
        Shown { bar, log: show == Show::Log, total, noun, started: now, logged: now }
    }

    pub(super) fn at(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.log && self.logged.elapsed() >= Duration::from_secs(5) {
            self.logged = Instant::now();
            let per_second = (done as f64 / self.started.elapsed().as_secs_f64()) as u64;
            tracing::info!(done, of = self.total, per_second, "generating {}", self.noun);
        }
    }

    pub(super) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
