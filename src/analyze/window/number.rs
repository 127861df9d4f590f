//! Counts, sums and extremes: narrow in a pane, wide in a row.
//!
//! A pane may hold a hundred thousand keys, so that its numbers are packed into 32-bit words. A pane
//! counts up to 4,294,967,295 events of one key; the counts stop there, and the row is approximate.

use super::Field;
use crate::analyze::sentiment::POSITIVE_THRESHOLD;

/// An `i128` in steps of 1e-9, and how many values it adds up.
pub const SUM_WORDS: usize = 5;
/// An `i64` in steps of 1e-4, and how many scores it adds up, how many positive ones, how many negative.
pub const SCORE_WORDS: usize = 5;
/// An `f64`; NaN stands for none.
pub const EXTREME_WORDS: usize = 2;

const SUM_STEPS: i128 = 1_000_000_000;
const SCORE_STEPS: f64 = 1e4;
/// In steps: scores from this on are positive, from its negative on they are negative.
const POSITIVE_SCORE: i64 = (POSITIVE_THRESHOLD * SCORE_STEPS) as i64;
/// Values of a sum are clamped to about what a 64-bit integer can hold, so that no sum overflows.
const SUM_LIMIT: f64 = 9.3e18;

/// A number of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    Sum { sum: i128, values: u64 },
    Least(f64),
    Greatest(f64),
    Score { sum: i64, scores: u64, positive: u64, negative: u64 },
}

impl Number {
    pub fn read(&mut self, words: &[u32]) {
        match self {
            Number::Sum { sum, values } => {
                *sum = sum.wrapping_add(sum_of(words));
                *values += u64::from(words[4]);
            }
            Number::Least(least) => *least = least.min(extreme_of(words)),
            Number::Greatest(greatest) => *greatest = greatest.max(extreme_of(words)),
            Number::Score { sum, scores, positive, negative } => {
                *sum = sum.wrapping_add(score_of(words));
                *scores += u64::from(words[2]);
                *positive += u64::from(words[3]);
                *negative += u64::from(words[4]);
            }
        }
    }

    /// As a float: a sum's value, an extreme, a mean score. None without a value.
    pub fn value(self) -> Option<f64> {
        match self {
            Number::Sum { values: 0, .. } | Number::Score { scores: 0, .. } => None,
            Number::Sum { sum, .. } => Some(sum as f64 / SUM_STEPS as f64),
            Number::Least(value) | Number::Greatest(value) => Some(value).filter(|value| !value.is_nan()),
            Number::Score { sum, scores, .. } => Some(sum as f64 / SCORE_STEPS / scores as f64),
        }
    }

    /// The mean of what a sum adds up.
    pub fn mean(self) -> Option<f64> {
        match self {
            Number::Sum { values, .. } => self.value().map(|sum| sum / values as f64),
            other => other.value(),
        }
    }

    pub fn positive(self) -> u64 {
        if let Number::Score { positive, .. } = self { positive } else { 0 }
    }

    pub fn negative(self) -> u64 {
        if let Number::Score { negative, .. } = self { negative } else { 0 }
    }
}

pub fn blank_extreme() -> [u32; EXTREME_WORDS] {
    split(f64::NAN.to_bits())
}

/// Whether the count has come to its end, as of all functions here.
pub fn count_up(word: &mut u32) -> bool {
    *word = word.saturating_add(1);
    *word == u32::MAX
}

/// Also whether the value had to be clamped.
pub fn add_to_sum(words: &mut [u32], field: &Field<'_>) -> bool {
    let (fixed, is_clamped) = match *field {
        Field::Integer(value) => (i128::from(value) * SUM_STEPS, false),
        Field::Float(value) if value.is_finite() => {
            let clamped = value.clamp(-SUM_LIMIT, SUM_LIMIT);
            // The whole part apart, since it is exact.
            let steps = (clamped.fract() * SUM_STEPS as f64).round() as i128;
            (clamped.trunc() as i128 * SUM_STEPS + steps, clamped != value)
        }
        _ => return false,
    };
    let sum = sum_of(words).wrapping_add(fixed) as u128;
    words[..2].copy_from_slice(&split(sum as u64));
    words[2..4].copy_from_slice(&split((sum >> 64) as u64));
    count_up(&mut words[4]) | is_clamped
}

pub fn keep_extreme(words: &mut [u32], field: &Field<'_>, choose: fn(f64, f64) -> f64) {
    let value = match *field {
        Field::Integer(value) => value as f64,
        // Of the two zeros only the positive one, or the order of events would show.
        Field::Float(value) if value.is_finite() => value + 0.0,
        _ => return,
    };
    // The choice between a number and NaN is the number.
    let chosen = choose(extreme_of(words), value);
    words[..2].copy_from_slice(&split(chosen.to_bits()));
}

pub fn add_score(words: &mut [u32], field: &Field<'_>) -> bool {
    let score = match *field {
        Field::Float(score) if score.is_finite() => score,
        Field::Integer(score) => score as f64,
        _ => return false,
    };
    let steps = (score * SCORE_STEPS).round().clamp(-SCORE_STEPS, SCORE_STEPS) as i64;
    let sum = score_of(words).wrapping_add(steps);
    words[..2].copy_from_slice(&split(sum as u64));
    words[3] = words[3].saturating_add(u32::from(steps >= POSITIVE_SCORE));
    words[4] = words[4].saturating_add(u32::from(steps <= -POSITIVE_SCORE));
    count_up(&mut words[2])
}

fn split(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

fn join(words: &[u32]) -> u64 {
    u64::from(words[0]) | u64::from(words[1]) << 32
}

fn sum_of(words: &[u32]) -> i128 {
    (u128::from(join(words)) | u128::from(join(&words[2..])) << 64) as i128
}

fn score_of(words: &[u32]) -> i64 {
    join(words) as i64
}

fn extreme_of(words: &[u32]) -> f64 {
    f64::from_bits(join(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(fields: &[Field<'_>]) -> (Number, bool) {
        let mut words = [0; SUM_WORDS];
        let is_clamped = fields.iter().fold(false, |clamped, field| add_to_sum(&mut words, field) | clamped);
        let mut number = Number::Sum { sum: 0, values: 0 };
        number.read(&words);
        (number, is_clamped)
    }

    #[test]
    fn a_sum_does_not_depend_on_the_order() {
        let fields = [Field::Float(0.1), Field::Float(-1e15), Field::Integer(1 << 60), Field::Float(0.2), Field::Null];
        let mut turned = fields;
        turned.reverse();
        assert_eq!(sum(&fields), sum(&turned));
        assert_eq!(sum(&fields).0, Number::Sum { sum: 1_151_921_504_606_846_976_300_000_000, values: 4 });
        assert_eq!(sum(&[Field::Float(0.1), Field::Float(0.2)]).0.value(), Some(0.3));
        assert_eq!(sum(&[Field::Integer(i64::MIN), Field::Integer(i64::MIN)]).0.value(), Some(-(2_f64.powi(64))));
        assert_eq!(sum(&[Field::Null, Field::Float(f64::NAN), Field::Text("7")]).0.value(), None);
        assert!(sum(&[Field::Float(1e300)]).1 && !sum(&[Field::Integer(i64::MAX)]).1);
    }

    #[test]
    fn extremes_know_one_zero_and_none() {
        let extreme = |fields: &[Field<'_>], choose: fn(f64, f64) -> f64| {
            let mut words = blank_extreme();
            fields.iter().for_each(|field| keep_extreme(&mut words, field, choose));
            extreme_of(&words).to_bits()
        };
        let zeros = [Field::Float(-0.0), Field::Float(0.0)];
        assert_eq!(extreme(&zeros, f64::min), 0_f64.to_bits());
        assert_eq!(extreme(&[Field::Integer(3), Field::Float(-2.5), Field::Null], f64::min), (-2.5_f64).to_bits());
        assert_eq!(extreme(&[Field::Integer(3), Field::Float(-2.5), Field::Null], f64::max), 3_f64.to_bits());
        let mut none = Number::Least(f64::NAN);
        none.read(&blank_extreme());
        assert_eq!(none.value(), None);
    }

    #[test]
    fn scores_count_from_five_hundredths() {
        let mut words = [0; SCORE_WORDS];
        for score in [0.05, 0.0499, -0.05, -0.0499, 1.0, -1.0, 0.0] {
            assert!(!add_score(&mut words, &Field::Float(score)));
        }
        let mut number = Number::Score { sum: 0, scores: 0, positive: 0, negative: 0 };
        number.read(&words);
        assert_eq!(number, Number::Score { sum: 0, scores: 7, positive: 2, negative: 2 });
    }

    #[test]
    fn a_count_ends_without_a_wrap() {
        let mut word = u32::MAX - 2;
        assert_eq!([count_up(&mut word), count_up(&mut word), count_up(&mut word)], [false, true, true]);
        assert_eq!(word, u32::MAX);
    }
}
