//! What is known of each word, read once from the embedded files.

use super::{
    emoji::Emojis,
    table::{Key, Table},
};
use std::collections::BTreeMap;

pub(super) const VADER: &str = include_str!("data/vader_lexicon.txt");
pub(super) const EMOJI: &str = include_str!("data/emoji_utf8_lexicon.txt");
pub(super) const MODIFIERS: &str = include_str!("data/modifiers.txt");
pub(super) const EMOTES: &str = include_str!("data/emote_lexicon.txt");

/// All that the rules ask of a word of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Word {
    /// From the lexicon; 0 where it has none.
    pub(super) valence: f64,
    /// The flags below.
    pub(super) flags: u8,
    pub(super) role: Role,
}

/// Stands in the lexicon. Such a word neither boosts nor negates the words after it, whatever else it is.
pub(super) const LEXICON: u8 = 1;
/// Strengthens the words after it: `very`.
pub(super) const BOOSTS: u8 = 2;
/// Weakens the words after it: `somewhat`.
pub(super) const DAMPENS: u8 = 4;
/// Turns the words after it around: `not`, and all with `n't` in them.
pub(super) const NEGATES: u8 = 8;
/// Is written in capitals.
pub(super) const CAPITALS: u8 = 16;
/// Is an emote.
pub(super) const EMOTE: u8 = 32;

impl Word {
    pub(super) const UNKNOWN: Self = Self { valence: 0.0, flags: 0, role: Role::None };
    /// What stands before the first word of a line: no rule sees anything there, just as behind a word of the lexicon
    /// that has no part in a rule.
    pub(super) const BEFORE_LINE: Self = Self { flags: LEXICON, ..Self::UNKNOWN };

    pub(super) fn is(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// Words that a rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    None,
    Ass,
    At,
    Bad,
    Beating,
    Bomb,
    Bus,
    But,
    Death,
    Die,
    Doubt,
    Enough,
    For,
    Heart,
    Just,
    Kind,
    Kiss,
    Least,
    Never,
    No,
    Nor,
    Of,
    Or,
    Right,
    Shit,
    So,
    Sort,
    Stop,
    The,
    This,
    To,
    Very,
    Without,
    Yeah,
}

const ROLES: [(&str, Role); 33] = [
    ("ass", Role::Ass),
    ("at", Role::At),
    ("bad", Role::Bad),
    ("beating", Role::Beating),
    ("bomb", Role::Bomb),
    ("bus", Role::Bus),
    ("but", Role::But),
    ("death", Role::Death),
    ("die", Role::Die),
    ("doubt", Role::Doubt),
    ("enough", Role::Enough),
    ("for", Role::For),
    ("heart", Role::Heart),
    ("just", Role::Just),
    ("kind", Role::Kind),
    ("kiss", Role::Kiss),
    ("least", Role::Least),
    ("never", Role::Never),
    ("no", Role::No),
    ("nor", Role::Nor),
    ("of", Role::Of),
    ("or", Role::Or),
    ("right", Role::Right),
    ("shit", Role::Shit),
    ("so", Role::So),
    ("sort", Role::Sort),
    ("stop", Role::Stop),
    ("the", Role::The),
    ("this", Role::This),
    ("to", Role::To),
    ("very", Role::Very),
    ("without", Role::Without),
    ("yeah", Role::Yeah),
];

/// The lines of a lexicon: a word, a tab, a valence; the rest is for people.
pub(super) fn entries(file: &'static str) -> impl Iterator<Item = (&'static str, f64)> {
    file.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        Some((fields.next()?, fields.next()?.parse().ok()?))
    })
}

#[derive(Debug)]
pub(super) struct Lexicon {
    words: Table<Word>,
    emotes: Option<Table<Word>>,
    pub(super) emojis: Emojis,
}

impl Lexicon {
    pub(super) fn new(with_emotes: bool) -> Self {
        Self { words: words(), emotes: with_emotes.then(emotes), emojis: Emojis::new(EMOJI) }
    }

    /// What is known of the word with this key in any case; no key is longer than all that are known.
    pub(super) fn word(&self, key: Option<Key>) -> Word {
        key.and_then(|key| self.words.get(key.lower())).copied().unwrap_or(Word::UNKNOWN)
    }

    /// The emote with just this key.
    pub(super) fn emote(&self, key: Option<Key>) -> Option<Word> {
        self.emotes.as_ref()?.get(key?).copied()
    }

    pub(super) fn has_emotes(&self) -> bool {
        self.emotes.is_some()
    }
}

fn words() -> Table<Word> {
    let mut words = BTreeMap::<&str, Word>::new();
    // Of two valences the later holds, as in the reference. Entries with a capital or a space in them are never found,
    // there as here: a line's words are compared in lower case.
    for (text, valence) in entries(VADER) {
        words.insert(text, Word { valence, flags: LEXICON, role: Role::None });
    }
    for line in MODIFIERS.lines() {
        let (kind, texts) = line.split_once(' ').unwrap_or_default();
        let flag = match kind {
            "boost" => BOOSTS,
            "dampen" => DAMPENS,
            "negate" => NEGATES,
            _ => continue,
        };
        for text in texts.split(' ') {
            words.entry(text).or_insert(Word::UNKNOWN).flags |= flag;
        }
    }
    for (text, role) in ROLES {
        words.entry(text).or_insert(Word::UNKNOWN).role = role;
    }
    table(words)
}

fn emotes() -> Table<Word> {
    // An emote of valence 0 is a word that means nothing: were it of the lexicon, `so Kappa` would be positive.
    let flags = |valence| if valence == 0.0 { EMOTE } else { EMOTE | LEXICON };
    table(
        entries(EMOTES)
            .map(|(text, valence)| (text, Word { valence, flags: flags(valence), role: Role::None }))
            .collect(),
    )
}

fn table(words: BTreeMap<&str, Word>) -> Table<Word> {
    Table::new(words.into_iter().filter_map(|(text, word)| Some((Key::new(text.as_bytes())?, word))))
}
