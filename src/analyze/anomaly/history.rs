//! What is known of one key's windows.
//!
//! Indices count windows by their start: index = start / slide. A period is one of the windows that do not overlap;
//! `stride` windows make a period.

use super::{
    cells::Ring,
    score::{directed, median, quantile},
    watch::{Direction, Floor, Gap},
};

/// Every window of the last baseline periods, for each window has its own baseline of windows before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Recent {
    ring: Ring,
}

impl Recent {
    pub fn new(length: usize) -> Recent {
        Recent { ring: Ring::new(length) }
    }

    pub fn newest(&self) -> Option<i64> {
        self.ring.newest()
    }

    pub fn set(&mut self, index: i64, value: Option<f32>) {
        self.ring.set(index, value);
    }

    /// The value at a window that has passed, a gap filled as the measure wants it.
    pub fn value(&self, index: i64, gap: Gap) -> Option<f64> {
        match (self.ring.get(index), gap) {
            (Some(value), _) => Some(value.into()),
            (None, Gap::Zero) => Some(0.0),
            (None, Gap::Missing) => None,
        }
    }

    /// Fills `values` with those of the periods before `index`, the last first. Before the first window with a value
    /// that the ring still has, nothing is known: a stream that begins has not been silent, it has not been there.
    pub fn baseline(
        &self,
        index: i64,
        periods: u32,
        stride: i64,
        gap: Gap,
        is_ordinary: impl Fn(i64, f64) -> bool,
        values: &mut Vec<f64>,
    ) {
        values.clear();
        let oldest = index - i64::from(periods) * stride;
        let first = match gap {
            Gap::Zero => (oldest..index).find(|&index| self.ring.get(index).is_some()).unwrap_or(index),
            Gap::Missing => oldest,
        };
        for period in 1..=i64::from(periods) {
            let index = index - period * stride;
            if index < first {
                return;
            }
            values.extend(self.value(index, gap).filter(|value| is_ordinary(index, *value)));
        }
    }
}

/// Periods for which a tail holds before it is taken anew, so that many windows share one.
const TAIL_PERIODS: i64 = 15;

/// So many windows are beyond the quantile at least: three or four episodes of some minutes each.
const LEAST_BEYOND: f64 = 10.0;

/// One window of each period of a long time, and the tail of how far they were from their baselines.
#[derive(Debug, Clone)]
pub struct Long {
    ring: Ring,
    /// The period before which the tail was taken, and the tail.
    taken: Option<(i64, Option<f64>)>,
}

/// What a tail is taken by.
#[derive(Debug, Clone, Copy)]
pub struct TailRule {
    pub baseline_periods: u32,
    pub history_periods: u32,
    pub probability: f64,
    pub minimum_history: u32,
    pub gap: Gap,
    pub floor: Floor,
    pub direction: Direction,
}

impl TailRule {
    /// How many periods before a window may have a say in its score.
    pub fn reach(&self) -> i64 {
        i64::from(self.history_periods) + 2 * i64::from(self.baseline_periods) + TAIL_PERIODS
    }

    /// How many of the baseline's periods must be known for a window to be scored or to enter the tail.
    pub fn least_known(&self) -> usize {
        self.baseline_periods.div_ceil(2) as usize
    }
}

impl Long {
    pub fn new(rule: &TailRule) -> Long {
        Long { ring: Ring::new(rule.reach() as usize), taken: None }
    }

    pub fn set(&mut self, period: i64, value: Option<f32>) {
        self.ring.set(period, value);
        // A value that is only added lies behind every period a taken tail knows, unless it came late.
        if self.taken.is_some_and(|(before, _)| period < before) {
            self.taken = None;
        }
    }

    /// How many floors the unusual windows were away from their own baselines, `None` where too few are known.
    /// It ends some periods before the present one, and is the same for all windows of `TAIL_PERIODS`.
    pub fn tail(&mut self, period: i64, rule: &TailRule) -> Option<f64> {
        let before = period.div_euclid(TAIL_PERIODS) * TAIL_PERIODS;
        if let Some((taken_before, tail)) = self.taken
            && taken_before == before
        {
            return tail;
        }
        let mut distances = self.distances(before, rule);
        let is_enough = distances.len() >= rule.minimum_history.max(1) as usize;
        // While the history is short, a few episodes would fill the share that is beyond the quantile.
        let most = 1.0 - LEAST_BEYOND / distances.len().max(1) as f64;
        let tail = is_enough.then(|| quantile(&mut distances, rule.probability.min(most)));
        self.taken = Some((before, tail));
        tail
    }

    fn distances(&self, before: i64, rule: &TailRule) -> Vec<f64> {
        let periods = rule.baseline_periods as usize;
        let values = self.values(before, rule);
        let mut distances = Vec::with_capacity(rule.history_periods as usize);
        let mut baseline = Vec::with_capacity(periods);
        for at in periods..values.len() {
            let Some(value) = values[at] else { continue };
            baseline.clear();
            baseline.extend(values[at - periods..at].iter().flatten());
            if baseline.len() >= rule.least_known() {
                let median = median(&mut baseline);
                distances.push(directed(value - median, rule.direction) / rule.floor.at(median));
            }
        }
        distances
    }

    /// The history's values and those of the baseline of its first, gaps filled. A gap is a zero only for as long
    /// as a baseline after the last value: a stream that has been away so long was not there.
    fn values(&self, before: i64, rule: &TailRule) -> Vec<Option<f64>> {
        let periods = i64::from(rule.baseline_periods);
        let oldest = before - i64::from(rule.history_periods) - periods;
        let mut last_known = (oldest - periods..oldest).rev().find(|&period| self.ring.get(period).is_some());
        let mut values = Vec::with_capacity((before - oldest) as usize);
        for period in oldest..before {
            let value = self.ring.get(period).map(f64::from);
            if value.is_some() {
                last_known = Some(period);
            }
            let is_silent = rule.gap == Gap::Zero && last_known.is_some_and(|known| period - known <= periods);
            values.push(value.or(is_silent.then_some(0.0)));
        }
        values
    }
}
