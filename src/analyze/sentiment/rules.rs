//! VADER's rules: the valence of one word, bent by the words around it.
//!
//! The order of the operations is the reference's, since floating point keeps it visible in the last bits.

use super::{
    compound::Valence,
    lexicon::{BOOSTS, CAPITALS, DAMPENS, LEXICON, NEGATES, Role, Word},
};

/// What a booster adds, and a dampener takes away.
const BOOST: f64 = 0.293;
/// What capitals add to a word among words in lower case.
const CAPITALS_BOOST: f64 = 0.733;
/// What a negation makes of the valence of the words after it.
const NEGATION: f64 = -0.74;
/// What `never so` and `never this` make of it.
const NEVER_SO: f64 = 1.25;
/// How much of a boost is left two words on, and three.
const BOOST_LEFT: [f64; 3] = [1.0, 0.95, 0.9];

/// The valence of the word in a window of three words before it and two after it; `None` is the reference's zero of a
/// word that counts for nothing.
pub(super) fn valence(window: &[Word], capitals_count: bool) -> Option<Valence> {
    let [third, second, first, word, next, after] = window else { return None };
    let is_kind_of = word.role == Role::Kind && next.role == Role::Of;
    // The reference passes boosters over as well; none of them is in the lexicon.
    if !word.is(LEXICON) || is_kind_of {
        return None;
    }
    let mut value = word.valence;
    if word.role == Role::No && next.is(LEXICON) {
        value = 0.0;
    }
    let is_after_no = first.role == Role::No
        || second.role == Role::No
        || third.role == Role::No && matches!(first.role, Role::Or | Role::Nor);
    if is_after_no {
        value = word.valence * NEGATION;
    }
    if word.is(CAPITALS) && capitals_count {
        value += if value > 0.0 { CAPITALS_BOOST } else { -CAPITALS_BOOST };
    }

    let before = [first, second, third];
    let mut is_integer = false;
    for (distance, word_before) in before.into_iter().enumerate() {
        if word_before.is(LEXICON) {
            continue;
        }
        value += boost(word_before, value, capitals_count) * BOOST_LEFT[distance];
        value *= negation(before, distance);
        if distance == 2 {
            // Thus idioms are only sought where three words precede, the farthest of which is not in the lexicon.
            (value, is_integer) = match idiom(third, second, first, word, next, after) {
                Some((idiom_value, idiom_is_integer)) => (idiom_value, idiom_is_integer),
                None => (value, false),
            };
            for pair in [(third, second), (second, first)] {
                if let (Role::Just, Role::Enough) | (Role::Kind, Role::Of) | (Role::Sort, Role::Of) =
                    (pair.0.role, pair.1.role)
                {
                    (value, is_integer) = (value - BOOST, false);
                }
            }
        }
    }
    if first.role == Role::Least && !first.is(LEXICON) && !matches!(second.role, Role::At | Role::Very) {
        (value, is_integer) = (value * NEGATION, false);
    }
    Some(Valence { value, is_integer })
}

/// What a booster or dampener adds to the value of a word after it.
fn boost(word_before: &Word, value: f64, capitals_count: bool) -> f64 {
    if !word_before.is(BOOSTS | DAMPENS) {
        return 0.0;
    }
    let mut boost = if word_before.is(BOOSTS) { BOOST } else { -BOOST };
    if value < 0.0 {
        boost = -boost;
    }
    if word_before.is(CAPITALS) && capitals_count {
        boost += if value > 0.0 { CAPITALS_BOOST } else { -CAPITALS_BOOST };
    }
    boost
}

/// The factor of a negation at a distance (0 for the word just before); 1 where there is none.
fn negation(before: [&Word; 3], distance: usize) -> f64 {
    let [first, second, third] = before.map(|word| word.role);
    let is_so = |role| matches!(role, Role::So | Role::This);
    let (is_never_so, is_without_doubt) = match distance {
        0 => (false, false),
        1 => (second == Role::Never && is_so(first), second == Role::Without && first == Role::Doubt),
        // The reference writes `never and so or so`: a `so` just before needs no `never`, if three words precede.
        _ => (
            third == Role::Never && is_so(second) || is_so(first),
            third == Role::Without && (second == Role::Doubt || first == Role::Doubt),
        ),
    };
    if is_never_so {
        NEVER_SO
    } else if before[distance].is(NEGATES) && !is_without_doubt {
        NEGATION
    } else {
        1.0
    }
}

/// The value of an idiom that the word is part of or that precedes it, and whether the reference writes it as an
/// integer. Those that begin with the word go before the others.
fn idiom(third: &Word, second: &Word, first: &Word, word: &Word, next: &Word, after: &Word) -> Option<(f64, bool)> {
    idiom_of_three(word, next, after)
        .or_else(|| idiom_of_two(word, next))
        .or_else(|| idiom_of_two(first, word))
        .or_else(|| idiom_of_three(second, first, word))
        .or_else(|| idiom_of_two(second, first))
        .or_else(|| idiom_of_three(third, second, first))
        .or_else(|| idiom_of_two(third, second))
}

fn idiom_of_two(first: &Word, second: &Word) -> Option<(f64, bool)> {
    Some(match (first.role, second.role) {
        (Role::The, Role::Shit | Role::Bomb) => (3.0, true),
        (Role::Bad, Role::Ass) => (1.5, false),
        (Role::Bus, Role::Stop) => (0.0, false),
        (Role::Yeah, Role::Right) => (-2.0, true),
        (Role::Beating, Role::Heart) => (3.5, false),
        _ => return None,
    })
}

fn idiom_of_three(first: &Word, second: &Word, third: &Word) -> Option<(f64, bool)> {
    Some(match (first.role, second.role, third.role) {
        (Role::Kiss, Role::Of, Role::Death) => (-1.5, false),
        (Role::To, Role::Die, Role::For) => (3.0, true),
        _ => return None,
    })
}
