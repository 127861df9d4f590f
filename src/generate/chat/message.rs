//! What people write: a phrase of some mood, dressed as people dress it, with emotes in it.

use super::{
    draws::{Choice, between, one_of},
    words::{
        ADVERBS, EMOTES, FOREIGN, NAME_FIRST, NAME_FOREIGN, NAME_SECOND, NEGATIVE, NEUTRAL, POSITIVE, TAILS, THINGS,
    },
};
use crate::generate::Random;
use std::fmt::Write;

/// Share of messages that hold emotes, and how many of them one, two or three: 0.49 a message.
const WITH_EMOTES: f64 = 0.35;
const ONE_EMOTE: f64 = 0.7;
const TWO_EMOTES: f64 = 0.2;
/// Emotes of a message on average.
pub const EMOTES_PER_MESSAGE: f64 = WITH_EMOTES * (ONE_EMOTE + 2.0 * TWO_EMOTES + 3.0 * (1.0 - ONE_EMOTE - TWO_EMOTES));

/// What goes on in the stream when the message is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mood {
    Calm,
    /// A spike of chat: mostly people who like it.
    Cheer,
    /// A storm of one emote: `factor` times as many emotes as usual.
    Storm {
        emote: u8,
        factor: f32,
    },
}

/// Writes messages. What it wrote last can be read until the next one.
#[derive(Debug, Clone)]
pub struct Writer {
    popularity: Choice,
    users: Choice,
    text: String,
    phrase: String,
    emotes: Vec<&'static str>,
}

impl Writer {
    pub fn new(users: u32) -> Self {
        Writer {
            popularity: Choice::zipf(EMOTES.len(), 1.0),
            // The most eager of 50,000 writes 2.6 % of all.
            users: Choice::zipf(users as usize, 0.8),
            text: String::new(),
            phrase: String::new(),
            emotes: Vec::new(),
        }
    }

    /// Whose message it is, from 1.
    pub fn user(&self, random: &mut Random) -> u32 {
        self.users.pick(random) as u32 + 1
    }

    pub fn write(&mut self, random: &mut Random, mood: Mood) {
        self.text.clear();
        self.pick_emotes(random, mood);
        // Of those with emotes, a third is nothing else.
        if self.emotes.is_empty() || random.chance(0.65) {
            self.write_words(random, mood);
        }
        let before = !self.emotes.is_empty() && random.chance(0.15);
        if before {
            self.phrase.clear();
            std::mem::swap(&mut self.text, &mut self.phrase);
        }
        for emote in &self.emotes {
            separate(&mut self.text);
            self.text.push_str(emote);
        }
        if before && !self.phrase.is_empty() {
            separate(&mut self.text);
            self.text.push_str(&self.phrase);
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The emotes in the text, in their order.
    pub fn emotes(&self) -> &[&'static str] {
        &self.emotes
    }

    fn pick_emotes(&mut self, random: &mut Random, mood: Mood) {
        self.emotes.clear();
        let count = match mood {
            Mood::Storm { factor, .. } => {
                // All write them, and so many that the mean is right.
                let mean = EMOTES_PER_MESSAGE * f64::from(factor);
                mean as usize + usize::from(random.chance(mean.fract()))
            }
            _ if !random.chance(WITH_EMOTES) => 0,
            _ => match random.unit() {
                draw if draw < ONE_EMOTE => 1,
                draw if draw < ONE_EMOTE + TWO_EMOTES => 2,
                _ => 3,
            },
        };
        for _ in 0..count {
            let number = match mood {
                Mood::Storm { emote, .. } if random.chance(0.8) => usize::from(emote) % EMOTES.len(),
                _ => self.popularity.pick(random),
            };
            self.emotes.push(EMOTES[number]);
        }
    }

    fn write_words(&mut self, random: &mut Random, mood: Mood) {
        let start = self.text.len();
        let rare = random.unit();
        if rare < 0.025 {
            self.text.push_str(one_of(random, FOREIGN));
            return;
        }
        if rare < 0.105 {
            self.text.push('@');
            let user = self.user(random);
            push_username(&mut self.text, user);
            self.text.push(' ');
        }
        let phrase_start = self.text.len();
        push_phrase(&mut self.text, random, mood);
        if random.chance(0.08) {
            self.text.push_str(one_of(random, &[" but ", ", ", " and ", ". "]));
            push_phrase(&mut self.text, random, mood);
        }
        if rare > 0.997 {
            // What is copied is copied again.
            self.phrase.clear();
            self.phrase.push_str(&self.text[phrase_start..]);
            for _ in 0..2 + random.below(8) {
                self.text.push(' ');
                self.text.push_str(&self.phrase);
            }
        }
        let dress = random.unit();
        if dress < 0.06 {
            self.text[phrase_start..].make_ascii_uppercase();
        } else if dress < 0.10 {
            stretch(&mut self.text, random);
        }
        if random.chance(0.4) {
            self.text.push_str(one_of(random, TAILS));
        }
        debug_assert!(self.text.len() > start);
    }
}

fn separate(text: &mut String) {
    if !text.is_empty() {
        text.push(' ');
    }
}

/// `sooo`: the last letter again and again.
fn stretch(text: &mut String, random: &mut Random) {
    if let Some(last) = text.chars().last().filter(char::is_ascii_alphabetic) {
        for _ in 0..2 + random.below(5) {
            text.push(last);
        }
    }
}

fn push_phrase(text: &mut String, random: &mut Random, mood: Mood) {
    let (positive, negative) = if mood == Mood::Cheer { (0.7, 0.8) } else { (0.33, 0.53) };
    let template = match between(random, (0.0, 1.0)) {
        draw if draw < positive => one_of(random, POSITIVE),
        draw if draw < negative => one_of(random, NEGATIVE),
        _ => one_of(random, NEUTRAL),
    };
    let mut parts = template.split('{');
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (list, rest) = match part.strip_prefix("n}") {
            Some(rest) => (THINGS, rest),
            None => (ADVERBS, part.strip_prefix("v}").unwrap_or(part)),
        };
        text.push_str(one_of(random, list));
        text.push_str(rest);
    }
}

/// The name of a user, always the same.
pub fn push_username(text: &mut String, user: u32) {
    let user = user as usize;
    if user.is_multiple_of(50) {
        text.push_str(NAME_FOREIGN[user / 50 % NAME_FOREIGN.len()]);
    } else {
        // Steps that share no factor with the lists, so that neighbours in rank share no part.
        text.push_str(NAME_FIRST[user * 7 % NAME_FIRST.len()]);
        text.push('_');
        text.push_str(NAME_SECOND[(user * 11 + user / 32) % NAME_SECOND.len()]);
    }
    let _ = write!(text, "{user}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    fn sample(mood: Mood, count: u64) -> Vec<(String, Vec<&'static str>)> {
        let mut writer = Writer::new(1_000);
        let mut random = Random::new(5);
        let mut one = || {
            writer.write(&mut random, mood);
            (writer.text().to_owned(), writer.emotes().to_vec())
        };
        (0..count).map(|_| one()).collect()
    }

    fn emotes_per_message(sample: &[(String, Vec<&str>)]) -> f64 {
        sample.iter().map(|(_, emotes)| emotes.len()).sum::<usize>() as f64 / sample.len() as f64
    }

    #[test]
    fn the_emotes_of_a_message_are_the_tokens_of_its_text() {
        for (text, emotes) in sample(Mood::Calm, 20_000).into_iter().chain(sample(Mood::Cheer, 5_000)) {
            assert!(!text.is_empty() && text.len() < 1_000);
            let found: Vec<&str> = text.split_whitespace().filter(|token| EMOTES.contains(token)).collect();
            assert_eq!(found, emotes, "{text}");
        }
    }

    #[test]
    fn few_emotes_are_used_often_and_each_is_used() {
        let sample = sample(Mood::Calm, 50_000);
        assert!((emotes_per_message(&sample) / EMOTES_PER_MESSAGE - 1.0).abs() < 0.03);
        let mut counts: HashMap<&str, f64> = HashMap::new();
        for emote in sample.iter().flat_map(|(_, emotes)| emotes) {
            *counts.entry(emote).or_default() += 1.0;
        }
        assert_eq!(counts.len(), EMOTES.len());
        assert!((counts[EMOTES[0]] / counts[EMOTES[9]] - 10.0).abs() < 1.5, "{counts:?}");
    }

    #[test]
    fn a_storm_has_its_factor_of_emotes_mostly_one() {
        for factor in [3.0, 7.5, 10.0] {
            let sample = sample(Mood::Storm { emote: 7, factor }, 10_000);
            let mean = emotes_per_message(&sample);
            assert!((mean / EMOTES_PER_MESSAGE / f64::from(factor) - 1.0).abs() < 0.02, "{factor}: {mean}");
            let stormy = sample.iter().flat_map(|(_, emotes)| emotes).filter(|emote| **emote == EMOTES[7]).count();
            assert!(stormy as f64 > 0.75 * mean * 10_000.0);
        }
    }

    #[test]
    fn messages_vary() {
        let texts: HashSet<String> = sample(Mood::Calm, 20_000).into_iter().map(|(text, _)| text).collect();
        assert!(texts.len() > 9_000, "{}", texts.len());
        let any = |is: fn(&str) -> bool| texts.iter().filter(|text| is(text)).count();
        assert!(any(|text| text.contains('"')) > 20 && any(|text| text.contains('\\')) > 20);
        assert!(any(|text| !text.is_ascii()) > 500);
        assert!(any(|text| text.len() > 8 && text.chars().all(|c| !c.is_lowercase())) > 100);
        assert!(!texts.iter().any(|text| text.contains('{') || text.contains('}')), "an unfilled place");
    }

    #[test]
    fn every_user_has_a_name_of_his_own() {
        let names: HashSet<String> = (1..=100_000)
            .map(|user| {
                let mut name = String::new();
                push_username(&mut name, user);
                name
            })
            .collect();
        assert_eq!(names.len(), 100_000);
    }
}
