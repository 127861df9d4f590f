//! Generated streams with planted events: what the detectors are measured on. Seeded, so that a figure stays a figure.

use std::f64::consts::TAU;

/// Panes of ten seconds, six to a window.
pub const PANE_MS: i64 = 10_000;
pub const WINDOW_PANES: usize = 6;
pub const DAY_PANES: usize = 8_640;

/// Xorshift64* by Vigna, seeded through SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random((state ^ (state >> 31)) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to below 1.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (TAU * self.uniform()).cos()
    }

    pub fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 200.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0);
        }
        if mean > 30.0 {
            return self.poisson(mean / 2.0) + self.poisson(mean / 2.0);
        }
        let (mut left, mut probability, mut count) = (self.uniform(), (-mean).exp(), 0.0);
        while left > probability && count < 1_000.0 {
            left -= probability;
            count += 1.0;
            probability *= mean / count;
        }
        count
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    ChatSpike,
    EmoteSpike,
    ViewerDrop,
}

/// How the level of a stream moves by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Noise {
    /// A constant level: independent noise only.
    Steady,
    /// A day's and a week's shape, a level that wanders by the minute, and twelve bursts a day of a minute or two
    /// that nobody planted.
    Lively,
    /// As `Lively`, with a burst every twenty minutes, higher by half.
    Bursty,
}

#[derive(Debug, Clone, Copy)]
pub struct Planted {
    pub start_ms: i64,
    pub end_ms: i64,
    /// What the level is multiplied by.
    pub factor: f64,
}

/// A stream of one kind of measure: what its panes hold and what was planted.
pub struct Stream {
    pub panes: Vec<f64>,
    pub planted: Vec<Planted>,
}

/// Which planted factors a stream has.
pub type Factors = (f64, f64);

impl Stream {
    /// `level` is messages a minute (for viewers: viewers).
    pub fn new(
        kind: Kind,
        noise: Noise,
        level: f64,
        days: usize,
        per_day: usize,
        factors: Factors,
        seed: u64,
    ) -> Stream {
        let mut random = Random::new(seed);
        let length = days * DAY_PANES;
        let planted = plant(&mut random, days, per_day, factors);
        let factor_of = planted_panes(&planted, length);
        let panes = match kind {
            Kind::ViewerDrop => viewers(&mut random, noise, level, &factor_of),
            _ => counts(&mut random, noise, level, &factor_of),
        };
        Stream { panes, planted }
    }

    /// Values of the windows that begin at each pane; `None` where the stream has no row.
    pub fn window(&self, kind: Kind, first: usize) -> Option<f64> {
        let panes = &self.panes[first..first + WINDOW_PANES];
        let sum: f64 = panes.iter().sum();
        match kind {
            Kind::ViewerDrop => Some(sum / WINDOW_PANES as f64),
            _ => (sum > 0.0).then_some(sum),
        }
    }
}

/// Evenly spread with jitter, so that two are at least half a slot apart; the first hours are left for history.
fn plant(random: &mut Random, days: usize, per_day: usize, factors: Factors) -> Vec<Planted> {
    let slot_ms = 86_400_000.0 / per_day.max(1) as f64;
    (0..days * per_day)
        .map(|number| {
            let start_ms = ((number as f64 + random.between(0.25, 0.75)) * slot_ms) as i64;
            let end_ms = start_ms + random.between(30_000.0, 120_000.0) as i64;
            let factor = (random.between(factors.0.ln(), factors.1.ln())).exp();
            Planted { start_ms, end_ms, factor }
        })
        .filter(|planted| planted.start_ms > 3 * 3_600_000)
        .collect()
}

fn planted_panes(planted: &[Planted], length: usize) -> Vec<f64> {
    let mut factors = vec![1.0; length];
    for event in planted {
        for pane in event.start_ms / PANE_MS..=event.end_ms / PANE_MS {
            let from = event.start_ms.max(pane * PANE_MS);
            let to = event.end_ms.min((pane + 1) * PANE_MS);
            if let Some(factor) = factors.get_mut(pane as usize) {
                *factor += (event.factor - 1.0) * (to - from) as f64 / PANE_MS as f64;
            }
        }
    }
    factors
}

/// Four times as much in the evening as in the morning, a third more at the week's end.
fn day_shape(pane: usize) -> f64 {
    let day = pane as f64 / DAY_PANES as f64;
    let weekly = if day.rem_euclid(7.0) >= 5.0 { 1.3 } else { 1.0 };
    weekly * (1.0 + 0.6 * (TAU * (day - 0.55)).sin())
}

fn counts(random: &mut Random, noise: Noise, level: f64, factors: &[f64]) -> Vec<f64> {
    // A log-level that wanders: deviation 12 %, forgotten in a minute and a half.
    let (kept, deviation) = ((-10.0f64 / 90.0).exp(), 0.12);
    let mut wander = 0.0;
    let (mut burst, mut step, mut steps) = (0.0, 0.0, 0);
    let mut panes = Vec::with_capacity(factors.len());
    for (pane, factor) in factors.iter().enumerate() {
        let mut rate = level / WINDOW_PANES as f64 * factor;
        if noise != Noise::Steady {
            wander = kept * wander + deviation * (1.0 - kept * kept).sqrt() * random.normal();
            // Up by a third in the median, risen within 20 s, halved every 30 s.
            let (bursts, height) = if noise == Noise::Bursty { (72.0, 0.5f64) } else { (12.0, 0.33) };
            if random.uniform() < bursts / DAY_PANES as f64 {
                (step, steps) = (height * (0.5 * random.normal()).exp() / 2.0, 2);
            }
            burst *= 0.5f64.powf(10.0 / 30.0);
            if steps > 0 {
                (burst, steps) = (burst + step, steps - 1);
            }
            rate *= day_shape(pane) * wander.exp() * (1.0 + burst);
        }
        panes.push(random.poisson(rate));
    }
    panes
}

fn viewers(random: &mut Random, noise: Noise, level: f64, factors: &[f64]) -> Vec<f64> {
    let deviation = if noise == Noise::Steady { 0.03 } else { 0.08 };
    let kept = (-10.0f64 / 3_600.0).exp();
    let mut walk = 0.0;
    let mut panes = Vec::with_capacity(factors.len());
    for (pane, factor) in factors.iter().enumerate() {
        walk = kept * walk + deviation * (1.0 - kept * kept).sqrt() * random.normal();
        let shape = if noise == Noise::Steady { 1.0 } else { day_shape(pane) };
        let mean = level * shape * f64::exp(walk) * factor;
        panes.push((mean * (1.0 + 0.01 * random.normal())).round().max(0.0));
    }
    panes
}
