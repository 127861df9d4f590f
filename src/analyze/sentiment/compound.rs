//! The valences of a line's words into one score.

use std::collections::BTreeSet;

/// The value of a word, and whether Python holds it as an integer, which its `sum` treats differently.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Valence {
    pub(super) value: f64,
    pub(super) is_integer: bool,
}

/// What comes after a `but` counts more than what comes before it.
const BEFORE_BUT: f64 = 0.5;
const AFTER_BUT: f64 = 1.5;
/// What an exclamation mark adds, up to four of them.
const EXCLAMATION: f64 = 0.292;
/// What each of two or three question marks adds; one adds nothing, and more add [`MANY_QUESTIONS`] together.
const QUESTION: f64 = 0.18;
const MANY_QUESTIONS: f64 = 0.96;
/// Roughly the square of the sum that is to score 0.7.
const NORMALIZATION: f64 = 15.0;

/// Weighs the valences, of which the first `before_but` stand before the `but`.
///
/// The reference takes each valence in turn and weighs the first place that then holds an equal one, which may be
/// another place, even weighed already. Zeros stay zeros and are not looked at, wherefore the words without a valence
/// need no place here. The first nonzero valence is its own first place and so becomes a float: what that means for
/// the sum below does not depend on the zeros before it either. The places are kept by value, as a search from the
/// start for each would be quadratic.
pub(super) fn weigh_around_but(valences: &mut [Valence], before_but: usize) {
    let key = |value: f64| value.to_bits();
    let mut places: BTreeSet<(u64, usize)> = BTreeSet::new();
    places.extend(valences.iter().enumerate().filter(|(_, v)| v.value != 0.0).map(|(at, v)| (key(v.value), at)));
    for at in 0..valences.len() {
        let value = valences[at].value;
        // Only places up to this one have been weighed, so it is among those of its value still.
        let Some(&(_, first)) = places.range((key(value), 0)..=(key(value), at)).next() else { continue };
        let weight = if first < before_but { BEFORE_BUT } else { AFTER_BUT };
        places.remove(&(key(value), first));
        places.insert((key(value * weight), first));
        valences[first] = Valence { value: value * weight, is_integer: false };
    }
}

/// The score of a line from its valences, and from the marks in its text.
pub(super) fn compound(valences: &[Valence], text: &str) -> f64 {
    let mut sum = sum(valences);
    if sum == 0.0 {
        return 0.0;
    }
    sum += emphasis(text).copysign(sum);
    rounded(sum / (sum * sum + NORMALIZATION).sqrt())
}

/// Python's `sum` (from 3.12 on): integers up to the first float, and that float, are added as they are; then the sum
/// carries its rounding error along (Neumaier's compensation).
fn sum(valences: &[Valence]) -> f64 {
    let (mut sum, mut compensation, mut is_integer) = (0.0_f64, 0.0, true);
    for valence in valences {
        let total = sum + valence.value;
        if !is_integer {
            compensation += if sum.abs() >= valence.value.abs() {
                (sum - total) + valence.value
            } else {
                (valence.value - total) + sum
            };
        }
        sum = total;
        is_integer &= valence.is_integer;
    }
    sum + compensation
}

fn emphasis(text: &str) -> f64 {
    let count = |mark: u8| text.bytes().filter(|byte| *byte == mark).count();
    let questions = match count(b'?') {
        0 | 1 => 0.0,
        few @ 2..=3 => few as f64 * QUESTION,
        _ => MANY_QUESTIONS,
    };
    count(b'!').min(4) as f64 * EXCLAMATION + questions
}

/// Rounded to four decimals as Python's `round` does it: the exact binary value, halves to even, to the nearest float.
pub(super) fn rounded(value: f64) -> f64 {
    let scaled = value * 1e4;
    let is_near_half = (scaled.fract().abs() - 0.5).abs() < 1e-6;
    if is_near_half {
        // The product may have been rounded across the half, so the digits decide.
        return format!("{value:.4}").parse().unwrap_or(value);
    }
    scaled.round() / 1e4
}
