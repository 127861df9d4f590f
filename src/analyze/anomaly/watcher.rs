//! The watcher: scores every newly final window of every key, and keeps what that needs.

use super::{
    history::{Long, Recent, TailRule},
    moment::{Moment, Score, Trace, moment_id},
    score::{median, tail_score, zscore},
    watch::{Detector, Gap, Watch, WatchError},
};
use serde_json::json;
use std::{collections::HashMap, ops::Range, sync::Arc};

/// One watch over all keys.
#[derive(Debug)]
pub struct Watcher {
    job: String,
    watch: Watch,
    size_ms: i64,
    slide_ms: i64,
    /// Windows from one period to the next.
    stride: i64,
    tail_rule: Option<TailRule>,
    keys: HashMap<Arc<str>, Known>,
    /// Reused by every window.
    baseline: Vec<f64>,
}

/// What is known of one key.
#[derive(Debug)]
struct Known {
    recent: Recent,
    long: Option<Box<Long>>,
    /// In a box since most keys never had a moment.
    last: Option<Box<Last>>,
}

/// The last moment of a key, and how its episode went on.
#[derive(Debug)]
struct Last {
    trace: Trace,
    /// Index of the moment's window.
    first: i64,
    /// One window of each period for twice a baseline, so that the episode's end is known for as long as the
    /// baseline may reach into it. Indices count periods.
    periods: Recent,
}

impl Last {
    /// Index of the first window, among those of `periods` before `index`, that has come back.
    fn end(&self, index: i64, stride: i64, gap: Gap) -> Option<i64> {
        let mut after = self.first.div_euclid(stride) + 1..(index - 1).div_euclid(stride) + 1;
        let is_over = |period: &i64| self.periods.value(*period, gap).is_some_and(|it| self.trace.is_released_by(it));
        after.find(is_over).map(|period| period * stride)
    }
}

impl Watcher {
    /// `job` only enters the ids of moments. Windows are `size_ms` long and begin every `slide_ms`.
    pub fn new(job: &str, watch: &Watch, size_ms: i64, slide_ms: i64) -> Result<Watcher, WatchError> {
        watch.check(size_ms, slide_ms)?;
        let tail_rule = match watch.detector {
            Detector::Zscore { .. } => None,
            Detector::Quantile { baseline_periods, history_periods, probability, .. } => Some(TailRule {
                baseline_periods,
                history_periods,
                probability,
                minimum_history: watch.minimum_history,
                gap: watch.gap,
                floor: watch.floor,
                direction: watch.direction,
            }),
        };
        Ok(Watcher {
            job: job.to_owned(),
            watch: watch.clone(),
            size_ms,
            slide_ms,
            stride: size_ms.div_euclid(slide_ms) + i64::from(size_ms.rem_euclid(slide_ms) != 0),
            tail_rule,
            keys: HashMap::new(),
            baseline: Vec::new(),
        })
    }

    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// How many keys are known.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Windows that begin more than so long before another have no say in its score.
    pub fn history_span_ms(&self) -> i64 {
        let episode = 2 * i64::from(self.watch.detector.baseline_periods());
        self.tail_rule.map_or(episode, |rule| rule.reach().max(episode)) * self.period_ms()
    }

    /// Beyond this only windows that begin at a multiple of `period_ms` are looked at, so that a restore need not
    /// read the others.
    pub fn recent_span_ms(&self) -> i64 {
        self.recent_length() * self.slide_ms
    }

    /// From one window to the next that does not overlap it.
    pub fn period_ms(&self) -> i64 {
        self.stride * self.slide_ms
    }

    /// A newly final window, and the moment that begins with it. Windows of one key come in order of their start;
    /// `value` is `None` where the measure has none (an average without events). A window that is not later than
    /// the last is taken as a revision.
    pub fn observe(&mut self, key: &Arc<str>, window_start_ms: i64, value: Option<f64>) -> Option<Moment> {
        self.observe_scored(key, window_start_ms, value).1
    }

    /// As `observe`, with the score of windows that have one; what it costs more is a tail for every window.
    pub fn observe_scored(
        &mut self,
        key: &Arc<str>,
        window_start_ms: i64,
        value: Option<f64>,
    ) -> (Option<Score>, Option<Moment>) {
        let index = self.index(window_start_ms);
        let is_later = self.keys.get(key).and_then(|known| known.recent.newest()).is_none_or(|newest| index > newest);
        let score = match value {
            Some(value) if is_later && value.is_finite() => self.score(key, index, value),
            _ => None,
        };
        let moment = match (score, value) {
            (Some(score), Some(value)) if score.score >= self.watch.detector.threshold() => {
                self.moment(key, window_start_ms, value, score)
            }
            _ => None,
        };
        self.set(key, index, value);
        if let Some(moment) = &moment {
            self.known(key).last = Some(self.last(moment.trace()));
        }
        (score, moment)
    }

    /// A final window has a new value, since a late event was still allowed. Later windows are compared with it;
    /// a moment that was found is never taken back.
    pub fn revise(&mut self, key: &Arc<str>, window_start_ms: i64, value: Option<f64>) {
        self.set(key, self.index(window_start_ms), value);
    }

    /// The last moment of a key, however old, after a start. Its windows follow, by `revise`: those within the span
    /// before the next window.
    pub fn restore_last(&mut self, key: &Arc<str>, trace: Trace) {
        self.known(key).last = Some(self.last(trace));
    }

    fn last(&self, trace: Trace) -> Box<Last> {
        let first = self.index(trace.window_start_ms);
        Box::new(Last { trace, first, periods: Recent::new(2 * self.watch.detector.baseline_periods() as usize) })
    }

    /// Forgets the keys of which no window beginning at `window_start_ms` or later would remember anything.
    /// Changes no result; to be called now and then.
    pub fn forget_before(&mut self, window_start_ms: i64) {
        let oldest = self.index(window_start_ms - self.history_span_ms().max(self.watch.cooldown_ms));
        self.keys.retain(|_, known| {
            let last = known.last.as_ref().map(|last| last.first);
            known.recent.newest().max(last).is_some_and(|newest| newest >= oldest)
        });
    }

    fn index(&self, window_start_ms: i64) -> i64 {
        window_start_ms.div_euclid(self.slide_ms)
    }

    fn recent_length(&self) -> i64 {
        i64::from(self.watch.detector.baseline_periods()) * self.stride
    }

    fn set(&mut self, key: &Arc<str>, index: i64, value: Option<f64>) {
        let value = value.map(|value| value as f32).filter(|value| value.is_finite());
        let stride = self.stride;
        let known = self.known(key);
        known.recent.set(index, value);
        if index.rem_euclid(stride) == 0 {
            let period = index.div_euclid(stride);
            known.long.iter_mut().for_each(|long| long.set(period, value));
            known.last.iter_mut().for_each(|last| last.periods.set(period, value));
        }
    }

    fn known(&mut self, key: &Arc<str>) -> &mut Known {
        let length = self.recent_length() as usize;
        self.keys.entry(Arc::clone(key)).or_insert_with(|| Known {
            recent: Recent::new(length),
            long: self.tail_rule.map(|rule| Box::new(Long::new(&rule))),
            last: None,
        })
    }

    fn score(&mut self, key: &Arc<str>, index: i64, value: f64) -> Option<Score> {
        let Watch { detector, floor, direction, gap, minimum_history, .. } = &self.watch;
        let (stride, length) = (self.stride, self.recent_length());
        let known = self.keys.get_mut(key)?;
        let episode =
            known.last.as_deref().and_then(|last| Some((last, set_apart(last, index, stride, length, *gap)?)));
        let is_ordinary = |at, value| {
            episode.as_ref().is_none_or(|(last, windows)| !windows.contains(&at) || last.trace.is_released_by(value))
        };
        known.recent.baseline(index, detector.baseline_periods(), stride, *gap, is_ordinary, &mut self.baseline);
        let Some(rule) = &self.tail_rule else {
            let is_enough = self.baseline.len() >= *minimum_history as usize;
            return is_enough.then(|| zscore(value, &self.baseline, floor, *direction));
        };
        if self.baseline.len() < rule.least_known() {
            return None;
        }
        let baseline = median(&mut self.baseline);
        let tail = known.long.as_mut()?.tail(index.div_euclid(stride), rule)?;
        Some(tail_score(value, baseline, tail, floor, *direction))
    }

    /// The moment of a window over the threshold, unless it belongs to the episode of the last one.
    fn moment(&self, key: &Arc<str>, window_start_ms: i64, value: f64, score: Score) -> Option<Moment> {
        if let Some(known) = self.keys.get(key)
            && let Some(last) = &known.last
            && self.is_one_episode(known, last, window_start_ms)
        {
            return None;
        }
        let Watch { moment_type, measure, direction, detector, .. } = &self.watch;
        Some(Moment {
            moment_id: moment_id(&self.job, moment_type, measure, key, window_start_ms),
            moment_type: moment_type.clone(),
            key: key.to_string(),
            metric: measure.clone(),
            window_start_ms,
            window_end_ms: window_start_ms + self.size_ms,
            value,
            baseline: score.baseline,
            score: score.score,
            threshold: detector.threshold(),
            details: json!({
                "detector": detector.name(),
                "direction": direction,
                "deviation": score.deviation,
                "baseline_periods": detector.baseline_periods(),
            }),
        })
    }

    /// Within the cool-down, or not come back since. Once all of the baseline lies after the last moment its level
    /// is the usual one, whether it came back or not.
    fn is_one_episode(&self, known: &Known, last: &Last, window_start_ms: i64) -> bool {
        let (first, index) = (last.first, self.index(window_start_ms));
        let has_come_back = || {
            let mut between = (first + 1..index).filter_map(|index| known.recent.value(index, self.watch.gap));
            between.any(|value| last.trace.is_released_by(value))
        };
        window_start_ms - last.trace.window_start_ms < self.watch.cooldown_ms
            || index - first <= self.recent_length() && !has_come_back()
    }
}

/// The windows of the last moment's episode, which are left out of the baseline of the window at `index` unless they
/// look as before the episode: they are not the ordinary ones that it is to be seen against. A level that has stayed
/// for a whole baseline is ordinary.
fn set_apart(last: &Last, index: i64, stride: i64, length: i64, gap: Gap) -> Option<Range<i64>> {
    match index - last.first {
        since if since > 2 * length => None,
        since if since > length => last.end(index, stride, gap).map(|end| last.first..end),
        _ => Some(last.first..last.end(index, stride, gap).unwrap_or(index)),
    }
}
