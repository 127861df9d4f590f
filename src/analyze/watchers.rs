//! The job's watches over its newly final windows, and what they remember after a restart.

use super::{
    anomaly::{Moment, Trace, WatchError, Watcher},
    declare,
    store::{Span, Store, StoreError},
    window::{Flush, Value, WindowRow},
};
use crate::config::model::Job;
use futures_util::TryStreamExt;
use std::sync::Arc;

/// An episode that lasts for longer has become what is usual.
const EPISODE_MS: i64 = 86_400_000;
/// Keys that are no longer seen are looked for once in so many flushes.
const FORGET_FLUSHES: u32 = 100;

pub struct Watchers {
    /// Each with the index of its measure.
    watchers: Vec<(usize, Watcher)>,
    flushes: u32,
}

impl Watchers {
    pub fn new(job: &Job) -> Result<Watchers, WatchError> {
        let mut watchers = Vec::with_capacity(job.anomalies.len());
        for anomaly in &job.anomalies {
            let watch = declare::watch(job, anomaly);
            let measure = job.measures.iter().position(|measure| measure.column == watch.measure);
            let watcher = Watcher::new(&job.id, &watch, job.window_ms, job.slide_ms)?;
            watchers.extend(measure.map(|measure| (measure, watcher)));
        }
        Ok(Watchers { watchers, flushes: 0 })
    }

    /// Reads back what a former process knew: the final windows of the spans that the watches look at,
    /// below the stored watermark, and each key's last moments.
    pub async fn restore(&mut self, job: &Job, store: &Store, watermark_ms: i64) -> Result<(), StoreError> {
        let Some((_, first)) = self.watchers.first() else { return Ok(()) };
        let period_ms = first.period_ms();
        let since = |span: fn(&Watcher) -> i64| {
            let longest = self.watchers.iter().map(|(_, watcher)| span(watcher)).max().unwrap_or(0);
            watermark_ms.saturating_sub(longest + job.window_ms + job.slide_ms)
        };
        let since_ms = since(Watcher::history_span_ms);
        let recent_ms = since(Watcher::recent_span_ms);
        let span = Span { since_ms, recent_ms, period_ms, until_ms: watermark_ms };
        // A moment counts until its episode is over, which may be long after it began.
        for last in store.last_moments(since_ms.saturating_sub(EPISODE_MS), watermark_ms).await? {
            let key: Arc<str> = last.key.as_str().into();
            let is_it = |watcher: &Watcher| {
                watcher.watch().moment_type == last.moment_type && watcher.watch().measure == last.metric
            };
            for (_, watcher) in self.watchers.iter_mut().filter(|(_, watcher)| is_it(watcher)) {
                let trace = Trace::new(last.window_start_ms, last.value, last.baseline, last.score, last.threshold);
                watcher.restore_last(&key, trace);
            }
        }
        let columns: Vec<&str> = self.watchers.iter().map(|(_, watcher)| watcher.watch().measure.as_str()).collect();
        let mut rows = std::pin::pin!(store.final_windows(span, &columns).await?);
        while let Some(row) = rows.try_next().await? {
            for ((_, watcher), value) in self.watchers.iter_mut().zip(&row.values) {
                watcher.revise(&row.key, row.start_ms, number(value));
            }
        }
        Ok(())
    }

    /// The moments that begin with the windows of a flush.
    pub fn observe(&mut self, flush: &Flush) -> Vec<Moment> {
        let mut moments = Vec::new();
        for row in flush.rows.iter().filter(|row| row.is_final) {
            self.observe_row(row, &mut moments);
        }
        self.flushes += 1;
        if self.flushes.is_multiple_of(FORGET_FLUSHES)
            && let Some(watermark_ms) = flush.progress.watermark_ms
        {
            self.watchers.iter_mut().for_each(|(_, watcher)| watcher.forget_before(watermark_ms));
        }
        moments
    }

    fn observe_row(&mut self, row: &WindowRow, moments: &mut Vec<Moment>) {
        for (measure, watcher) in &mut self.watchers {
            let value = row.values.get(*measure).and_then(number);
            if row.revision > 0 {
                watcher.revise(&row.key, row.start_ms, value);
            } else {
                moments.extend(watcher.observe(&row.key, row.start_ms, value));
            }
        }
    }
}

/// A measure as a number: of counts, their total.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        Value::Counts(counts) => Some(counts.iter().map(|(_, count)| *count).sum::<i64>() as f64),
        Value::Null | Value::TextList(_) => None,
    }
}
