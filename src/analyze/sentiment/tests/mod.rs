mod data;
mod lines;
mod oracle;
mod properties;
mod rules;

use super::{Analyzer, Options, Scratch};
use std::sync::OnceLock;
use vader_parity::SentimentIntensityAnalyzer;

fn vader() -> &'static Analyzer {
    static ANALYZER: OnceLock<Analyzer> = OnceLock::new();
    ANALYZER.get_or_init(|| Analyzer::new(Options { emotes: false }))
}

fn with_emotes() -> &'static Analyzer {
    static ANALYZER: OnceLock<Analyzer> = OnceLock::new();
    ANALYZER.get_or_init(|| Analyzer::new(Options { emotes: true }))
}

fn oracle() -> &'static SentimentIntensityAnalyzer {
    static ORACLE: OnceLock<SentimentIntensityAnalyzer> = OnceLock::new();
    ORACLE.get_or_init(SentimentIntensityAnalyzer::new)
}

/// A line's score by VADER alone.
fn score(line: &str) -> f64 {
    vader().score(line, &mut Scratch::default())
}

/// A line's score with emotes.
fn emote_score(line: &str) -> f64 {
    with_emotes().score(line, &mut Scratch::default())
}
