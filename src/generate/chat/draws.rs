//! Draws that a simulation of crowds needs: weighted choices, Poisson counts, normal deviates.

use crate::generate::Random;

/// A choice of `0..n` by weight, in one draw whatever `n` is (Vose's alias method).
#[derive(Debug, Clone)]
pub struct Choice {
    /// Of each column: the share (of 2³²) of its own number, and the number that has the rest.
    columns: Vec<(u32, u32)>,
}

impl Choice {
    /// `weights` holds at least one that is above 0, and no more than 2³² of them.
    pub fn new(weights: &[f64]) -> Self {
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        let mut shares: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let mut columns: Vec<(u32, u32)> = (0..weights.len() as u32).map(|number| (u32::MAX, number)).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            (0..weights.len() as u32).partition(|number| shares[*number as usize] < 1.0);
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            let own = shares[poor as usize];
            columns[poor as usize] = ((own * f64::from(u32::MAX)) as u32, rich);
            shares[rich as usize] -= 1.0 - own;
            if shares[rich as usize] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        Choice { columns }
    }

    /// Zipf's law: number `k` weighs `(k + 1)^-exponent`.
    pub fn zipf(count: usize, exponent: f64) -> Self {
        let weights: Vec<f64> = (1..=count).map(|rank| (rank as f64).powf(-exponent)).collect();
        Choice::new(&weights)
    }

    pub fn pick(&self, random: &mut Random) -> usize {
        let draw = random.draw();
        let column = ((draw >> 32) * self.columns.len() as u64) >> 32;
        let (own, other) = self.columns[column as usize];
        if (draw as u32) < own { column as usize } else { other as usize }
    }
}

/// A normal deviate, by Box and Muller.
pub fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.unit()).cos()
}

/// How many events fall into an interval that has `mean` of them on average. Above 50 by the normal
/// law of the same mean and variance, which no chart or test of these sizes tells apart.
pub fn poisson(random: &mut Random, mean: f64) -> u64 {
    if mean > 50.0 {
        return (mean + mean.sqrt() * normal(random)).round().max(0.0) as u64;
    }
    let limit = (-mean).exp();
    let (mut count, mut product) = (0, random.unit());
    while product > limit {
        count += 1;
        product *= random.unit();
    }
    count
}

/// One of a list that is not empty.
pub fn one_of<T: Copy>(random: &mut Random, list: &[T]) -> T {
    list[random.below(list.len() as u64) as usize]
}

/// Evenly between `low` and `high`.
pub fn between(random: &mut Random, (low, high): (f64, f64)) -> f64 {
    low + (high - low) * random.unit()
}

/// Mixes all bits of a number into all others; two different numbers stay different.
pub fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_follows_its_weights() {
        let weights = [5.0, 0.0, 1.0, 3.0, 1.0];
        let choice = Choice::new(&weights);
        let mut random = Random::new(1);
        let mut counts = [0.0_f64; 5];
        for _ in 0..100_000 {
            counts[choice.pick(&mut random)] += 1.0;
        }
        for (count, weight) in counts.iter().zip(weights) {
            let expected = weight * 10_000.0;
            assert!((count - expected).abs() <= 4.0 * f64::sqrt(expected), "{counts:?}");
        }
    }

    #[test]
    fn ranks_follow_zipf() {
        let choice = Choice::zipf(1_000, 1.0);
        let mut random = Random::new(2);
        let mut counts = vec![0.0_f64; 1_000];
        for _ in 0..200_000 {
            counts[choice.pick(&mut random)] += 1.0;
        }
        assert!((counts[0] / counts[9] - 10.0).abs() < 1.0, "{} {}", counts[0], counts[9]);
        assert!(counts.iter().filter(|count| **count > 0.0).count() > 990);
    }

    #[test]
    fn counts_have_the_mean_and_the_variance_of_their_law() {
        for mean in [0.0, 0.3, 7.0, 49.0, 51.0, 4_000.0] {
            let mut random = Random::new(3);
            let draws: Vec<f64> = (0..20_000).map(|_| poisson(&mut random, mean) as f64).collect();
            let average = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|draw| (draw - average).powi(2)).sum::<f64>() / draws.len() as f64;
            assert!((average - mean).abs() <= 0.04 * mean.sqrt(), "{mean}: {average}");
            assert!((variance - mean).abs() <= 0.05 * mean, "{mean}: {variance}");
        }
    }
}
