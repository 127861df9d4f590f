//! How far the first load of a table is, or the reading of a backlog, for people.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// What is read in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    FirstLoad,
    /// What came while nobody polled.
    Backlog,
}

impl What {
    fn words(self) -> &'static str {
        match self {
            What::FirstLoad => "first load",
            What::Backlog => "backlog",
        }
    }
}

#[derive(Default)]
pub struct LoadProgress {
    begun: Option<Begun>,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

struct Begun {
    what: What,
    at: Instant,
    done_rows: u64,
    /// Of the whole load, done ones included; an estimate of the planner.
    total_rows: u64,
}

pub struct Remaining {
    pub total_rows: u64,
    pub rows_per_second: f64,
    pub seconds_left: f64,
}

impl LoadProgress {
    pub fn is_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// What was under way gives way to something else.
    pub fn forget(&mut self) {
        *self = LoadProgress::default();
    }

    pub fn begin(&mut self, what: What, table: &str, done_rows: u64, left_rows: u64, draw: bool) {
        let total_rows = done_rows + left_rows;
        self.begun = Some(Begun { what, at: Instant::now(), done_rows, total_rows });
        if draw {
            let style =
                ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/~{human_len} rows {per_sec} eta {eta}");
            let bar = ProgressBar::new(total_rows).with_message(table.to_owned()).with_position(done_rows);
            self.bar = Some(style.map_or(bar.clone(), |style| bar.with_style(style)));
        } else {
            tracing::info!(table, "{} of {table}: {done_rows} rows done, about {left_rows} to read", what.words());
        }
    }

    pub fn remaining(&self, done_rows: u64) -> Option<Remaining> {
        let begun = self.begun.as_ref()?;
        let seconds = begun.at.elapsed().as_secs_f64().max(0.001);
        let rows_per_second = done_rows.saturating_sub(begun.done_rows) as f64 / seconds;
        let left = begun.total_rows.saturating_sub(done_rows) as f64;
        let seconds_left = if rows_per_second > 0.0 { left / rows_per_second } else { 0.0 };
        Some(Remaining { total_rows: begun.total_rows.max(done_rows), rows_per_second, seconds_left })
    }

    /// Notes rows committed: moves the bar, or logs a line now and then.
    pub fn advance(&mut self, table: &str, done_rows: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done_rows);
            return;
        }
        if self.last_line.is_some_and(|line| line.elapsed() < BETWEEN_LINES) {
            return;
        }
        if let (Some(_), Some(begun), Some(remaining)) = (self.last_line, &self.begun, self.remaining(done_rows)) {
            tracing::info!(
                table,
                "{} of {table}: {done_rows} of about {} rows, {:.0} rows/s, about {:.0} s left",
                begun.what.words(),
                remaining.total_rows,
                remaining.rows_per_second,
                remaining.seconds_left
            );
        }
        self.last_line = Some(Instant::now());
    }

    pub fn finish(&mut self, table: &str, done_rows: u64) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if let Some(begun) = self.begun.take() {
            let (rows, seconds) = (done_rows.saturating_sub(begun.done_rows), begun.at.elapsed().as_secs_f64());
            let what = begun.what.words();
            tracing::info!(table, "{what} of {table} is done: {done_rows} rows, {rows} of them in {seconds:.1} s");
        }
    }
}
