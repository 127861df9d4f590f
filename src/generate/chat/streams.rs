//! The streams: how large each is, and how its viewers come and go.

use super::{
    draws::{Choice, normal},
    settings::DayShape,
};
use crate::generate::Random;

/// Viewers come and go about their level by so much (deviation of the logarithm), and in so long most of that is
/// forgotten: from one minute to the next they move by 1.5 %.
const WALK_DEVIATION: f64 = 0.08;
const WALK_MEMORY_MS: f64 = 3_600_000.0;
/// What one count is off, each on its own.
const COUNT_NOISE: f64 = 0.01;

#[derive(Debug, Clone)]
pub struct Streams {
    names: Vec<String>,
    /// Share of all messages; they sum up to 1.
    shares: Vec<f64>,
    choice: Choice,
    viewers: Vec<Viewers>,
}

#[derive(Debug, Clone, Copy)]
struct Viewers {
    level: f64,
    /// Logarithm of how far the walk is from the level, and when that was so.
    walk: f64,
    time_ms: Option<i64>,
}

impl Streams {
    /// Levels by Zipf's law, shaken a little; the first streams are the large ones. A stream has about
    /// 500 viewers for each message a second.
    pub fn new(seed: u64, count: u32, messages_per_second: f64) -> Self {
        let mut random = Random::new(seed);
        let mut shares: Vec<f64> =
            (1..=count).map(|rank| f64::from(rank).powf(-0.8) * (0.3 * normal(&mut random)).exp()).collect();
        let sum: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= sum);
        let viewers = shares.iter().map(|share| {
            let level = 30.0 + 500.0 * share * messages_per_second * (0.4 * normal(&mut random)).exp();
            Viewers { level, walk: 0.0, time_ms: None }
        });
        Streams {
            names: (1..=count).map(|number| format!("s{number}")).collect(),
            viewers: viewers.collect(),
            choice: Choice::new(&shares),
            shares,
        }
    }

    pub fn name(&self, stream: u32) -> &str {
        &self.names[stream as usize]
    }

    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    pub fn share(&self, stream: u32) -> f64 {
        self.shares[stream as usize]
    }

    /// A stream by its share of messages.
    pub fn pick(&self, random: &mut Random) -> u32 {
        self.choice.pick(random) as u32
    }

    /// Viewers of a stream on average, without episodes and the day's shape.
    pub fn viewers(&self, stream: u32) -> f64 {
        self.viewers[stream as usize].level
    }

    /// The next count of a stream's viewers. They follow the day less than the chat does. How they move in a minute
    /// does not depend on how often they are counted.
    pub fn count_viewers(&mut self, stream: u32, day_shape: DayShape, time_ms: i64, random: &mut Random) -> f64 {
        let viewers = &mut self.viewers[stream as usize];
        // The walk begins as if it had always been under way.
        let passed_ms = viewers.time_ms.map_or(f64::INFINITY, |before_ms| (time_ms - before_ms) as f64);
        let kept = (-passed_ms / WALK_MEMORY_MS).exp();
        viewers.walk = kept * viewers.walk + WALK_DEVIATION * (1.0 - kept * kept).sqrt() * normal(random);
        viewers.time_ms = Some(time_ms);
        let noise = 1.0 + COUNT_NOISE * normal(random);
        viewers.level * day_shape.factor(time_ms).sqrt() * viewers.walk.exp() * noise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_differ_and_sum_up_to_one() {
        let streams = Streams::new(1, 20, 100.0);
        assert!((streams.shares().iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(streams.share(0) > 4.0 * streams.share(19));
        assert_eq!((streams.name(0), streams.name(19)), ("s1", "s20"));
    }

    /// Deviation of a stream's viewers about their level, and from one minute to the next.
    fn deviations(interval_ms: i64) -> (f64, f64) {
        let mut streams = Streams::new(1, 1, 10.0);
        let mut random = Random::new(1);
        let per_minute = (60_000 / interval_ms) as usize;
        let minutes: Vec<f64> = (0..20_000)
            .map(|minute| {
                let times = (0..per_minute).map(|number| minute * 60_000 + number as i64 * interval_ms);
                let counts = times.map(|at| streams.count_viewers(0, DayShape::Flat, at, &mut random));
                (counts.sum::<f64>() / per_minute as f64 / streams_level()).ln()
            })
            .collect();
        let deviation = |values: Vec<f64>| (values.iter().map(|it| it * it).sum::<f64>() / values.len() as f64).sqrt();
        let moves = minutes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        (deviation(minutes), deviation(moves))
    }

    fn streams_level() -> f64 {
        Streams::new(1, 1, 10.0).viewers(0)
    }

    #[test]
    fn viewers_stay_near_their_level_however_often_they_are_counted() {
        for interval_ms in [1_000, 5_000, 15_000] {
            let (about, by_minute) = deviations(interval_ms);
            assert!((0.07..0.09).contains(&about), "{interval_ms}: {about}");
            assert!((0.010..0.018).contains(&by_minute), "{interval_ms}: {by_minute}");
        }
    }
}
