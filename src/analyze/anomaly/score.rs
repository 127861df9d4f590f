//! What a detector says of a value, given the values it is compared with: arithmetic only.

use super::{
    moment::Score,
    watch::{Direction, Floor},
};

/// Distance in the direction that is watched.
pub fn directed(difference: f64, direction: Direction) -> f64 {
    match direction {
        Direction::Up => difference,
        Direction::Down => -difference,
        Direction::Both => difference.abs(),
    }
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The deviation of a sample (n - 1), zero where there are fewer than two values.
pub fn sample_deviation(values: &[f64], mean: f64) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// Reorders the values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// The smallest value that at least a share of `probability` of the values do not exceed (the inverse of the
/// empirical distribution, Hyndman and Fan's type 1). Reorders the values.
pub fn quantile(values: &mut [f64], probability: f64) -> f64 {
    let rank = (probability * values.len() as f64).ceil() as usize;
    let index = rank.clamp(1, values.len()) - 1;
    *values.select_nth_unstable_by(index, f64::total_cmp).1
}

pub fn zscore(value: f64, baseline: &[f64], floor: &Floor, direction: Direction) -> Score {
    let mean = mean(baseline);
    let deviation = sample_deviation(baseline, mean).max(floor.at(mean));
    Score { baseline: mean, deviation, score: directed(value - mean, direction) / deviation }
}

/// `tail` is in floors: how many of them the unusual windows of the history were away from their baseline.
pub fn tail_score(value: f64, baseline: f64, tail: f64, floor: &Floor, direction: Direction) -> Score {
    let deviation = floor.at(baseline) * tail.max(1.0);
    Score { baseline, deviation, score: directed(value - baseline, direction) / deviation }
}
