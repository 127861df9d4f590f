//! What a unit and a stage did over the last minutes: samples in rings of a fixed length.

use std::{collections::VecDeque, time::Duration};

/// Time between two samples.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// Samples of a stage: ten minutes.
pub const POINTS: usize = 120;
/// A rate is the mean over so long.
const RATE_MS: u64 = 60_000;
/// Samples of a unit: as many as a rate looks back on, and one more.
const SAMPLES: usize = RATE_MS as usize / INTERVAL.as_millis() as usize + 2;

/// A stage at one sample, over all of its units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Since the process started.
    pub at_ms: u64,
    /// Mean of the minute before.
    pub rows_per_second: f64,
    /// The longest since the sample before; none where nothing was committed.
    pub delay_seconds: Option<f64>,
}

/// The ring of a stage.
#[derive(Debug, Clone, Default)]
pub struct Points(VecDeque<Point>);

impl Points {
    pub fn push(&mut self, point: Point) {
        if self.0.len() == POINTS {
            self.0.pop_front();
        }
        self.0.push_back(point);
    }

    /// Oldest first.
    pub fn to_vec(&self) -> Vec<Point> {
        self.0.iter().copied().collect()
    }
}

/// The ring of a unit: how many rows it had committed when. Times are milliseconds since the process
/// started.
#[derive(Debug)]
pub struct Samples(VecDeque<(u64, u64)>);

impl Samples {
    pub fn new(at_ms: u64) -> Samples {
        Samples(VecDeque::from([(at_ms, 0)]))
    }

    pub fn push(&mut self, at_ms: u64, rows: u64) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back((at_ms, rows));
    }

    /// Rows a second over the last minute, or since the first sample where that is less.
    pub fn rate(&self, now_ms: u64, rows: u64) -> f64 {
        let before = self.0.iter().rev().find(|(at_ms, _)| now_ms.saturating_sub(*at_ms) >= RATE_MS);
        let Some((at_ms, base)) = before.or(self.0.front()) else { return 0.0 };
        let seconds = (now_ms.saturating_sub(*at_ms) as f64 / 1e3).max(1.0);
        rows.saturating_sub(*base) as f64 / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_minute() {
        let mut samples = Samples::new(1_000);
        assert_eq!(samples.rate(1_000, 50), 50.0, "less than a second counts as one");
        assert_eq!(samples.rate(11_000, 100), 10.0, "since the start");
        // 10 rows a second for two minutes, then none.
        for n in 1..=24 {
            samples.push(1_000 + n * 5_000, n * 50);
        }
        assert_eq!(samples.0.len(), SAMPLES);
        assert_eq!(samples.rate(121_000, 1_200), 10.0);
        for n in 25..=30 {
            samples.push(1_000 + n * 5_000, 1_200);
        }
        assert_eq!(samples.rate(151_000, 1_200), 5.0);
        for n in 31..=36 {
            samples.push(1_000 + n * 5_000, 1_200);
        }
        assert_eq!(samples.rate(181_000, 1_200), 0.0);
    }

    #[test]
    fn a_stage_keeps_ten_minutes() {
        let mut points = Points::default();
        for n in 0..500 {
            points.push(Point { at_ms: n, rows_per_second: 0.0, delay_seconds: None });
        }
        let kept = points.to_vec();
        assert_eq!((kept.len(), kept[0].at_ms, kept[POINTS - 1].at_ms), (POINTS, 380, 499));
    }
}
