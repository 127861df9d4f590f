//! The streams: how large each is, and how its viewers come and go.

use super::{
    draws::{Choice, normal},
    settings::DayShape,
};
use crate::generate::Random;

/// Each viewer event keeps so much of the walk's distance from its level, and adds so much noise: the
/// walk strays from its level by 5 %.
const WALK_KEEPS: f64 = 0.97;
const WALK_STEP: f64 = 0.012;

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
    /// Logarithm of how far the walk is from the level.
    walk: f64,
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
            Viewers { level, walk: 0.0 }
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

    /// The next count of a stream's viewers. They follow the day less than the chat does.
    pub fn count_viewers(&mut self, stream: u32, day_shape: DayShape, time_ms: i64, random: &mut Random) -> f64 {
        let viewers = &mut self.viewers[stream as usize];
        viewers.walk = WALK_KEEPS * viewers.walk + WALK_STEP * normal(random);
        viewers.level * day_shape.factor(time_ms).sqrt() * viewers.walk.exp()
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

    #[test]
    fn viewers_stay_near_their_level() {
        let mut streams = Streams::new(1, 1, 10.0);
        let mut random = Random::new(1);
        let counts: Vec<f64> =
            (0..20_000).map(|_| streams.count_viewers(0, DayShape::Flat, 0, &mut random).ln()).collect();
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        let spread = (counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / counts.len() as f64).sqrt();
        assert!((0.04..0.06).contains(&spread), "{spread}");
        assert!(counts.windows(2).all(|pair| (pair[1] - pair[0]).abs() < 0.1));
    }
}
