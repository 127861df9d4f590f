//! How a chat line feels: VADER's compound score, and emotes.
//!
//! VADER (Hutto and Gilbert, 2014) looks every word up in a lexicon of valences, bends them by the words around them
//! (boosters, negations, idioms, capitals, `but`) and squeezes their sum into -1..1. Its rules are defined by one
//! Python program, vaderSentiment 3.3.2, quirks included; [`Analyzer::score`] gives that program's value to the last
//! bit, which the tests compare over more than 100,000 lines. It is written anew because every chat line is scored:
//!
//! 1. `words` turns the line into an array of [`Word`]s: one hash look-up per word settles everything the rules ask of
//!    it, so that no rule compares text. A line without a word that has a valence ends here, at 0.
//! 2. `rules` gives each word with a valence its value, from a window of three words before and two after it.
//! 3. `compound` weighs the values around a `but`, sums them and rounds.
//!
//! With [`Options::emotes`], an emote (`data/emote_lexicon.txt`) is a word of the lexicon with three differences: its
//! case counts (`Kappa`, not `kappa`), it goes before VADER's own reading of the same word, and its capitals mean
//! nothing: they do not emphasise it, nor do they decide whether others are emphasised. It is found with or without
//! the punctuation around it. Boosters, negations and `but` act on emotes as on words; an emote of valence 0 (`Kappa`)
//! is a word that means nothing. A line without emotes scores the same with and without the option.

mod casing;
mod compound;
mod emoji;
mod lexicon;
mod rules;
mod table;
#[cfg(test)]
mod tests;
mod words;

use compound::Valence;
use lexicon::{Lexicon, Word};

/// A line with this score or more is positive; with its negative or less, negative.
pub const POSITIVE_THRESHOLD: f64 = 0.05;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether emotes count; without them the score is VADER's.
    pub emotes: bool,
}

/// Scores lines. Immutable: one serves all threads, each with a [`Scratch`] of its own.
#[derive(Debug)]
pub struct Analyzer {
    lexicon: Lexicon,
}

/// Memory that [`Analyzer::score`] uses again from line to line; holds nothing between calls that changes a score.
#[derive(Debug, Default)]
pub struct Scratch {
    text: String,
    words: Vec<Word>,
    valences: Vec<Valence>,
}

/// What a scratch keeps from one line to the next; a line may be a megabyte, and one such line is not worth 16 of ours.
const KEPT_BYTES: usize = 64 * 1024;

impl Analyzer {
    /// Builds the look-up tables from the embedded lexicons, which takes some milliseconds.
    pub fn new(options: Options) -> Self {
        Self { lexicon: Lexicon::new(options.emotes) }
    }

    /// The compound score of a line: -1 (most negative) to 1, rounded to four decimals as the reference rounds; 0 for
    /// a line without a word that VADER knows. Takes time linear in the line's length, but for `n log n` in the words
    /// with a valence where there is a `but`.
    pub fn score(&self, text: &str, scratch: &mut Scratch) -> f64 {
        let score = self.score_within(text, scratch);
        scratch.forget();
        score
    }

    fn score_within(&self, text: &str, scratch: &mut Scratch) -> f64 {
        let Scratch { text: normal, words, valences } = scratch;
        words::normalize(text, &self.lexicon, normal);
        let line = words::read(normal, &self.lexicon, words);
        if !line.has_valence {
            return 0.0;
        }
        let mut before_but = 0;
        for (at, window) in words.windows(words::WINDOW).enumerate() {
            if Some(at) == line.but {
                before_but = valences.len();
            }
            valences.extend(rules::valence(window, line.is_partly_capitals));
        }
        if line.but.is_some() {
            compound::weigh_around_but(valences, before_but);
        }
        compound::compound(valences, if line.has_marks { normal } else { "" })
    }
}

impl Scratch {
    fn forget(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES);
        self.words.clear();
        self.words.shrink_to(KEPT_BYTES / size_of::<Word>());
        self.valences.clear();
        self.valences.shrink_to(KEPT_BYTES / size_of::<Valence>());
    }
}
