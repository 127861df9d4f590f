//! A line into words.
//!
//! The reference replaces emoji by their descriptions, splits at white space, takes punctuation off both ends of a word
//! unless two characters or fewer would be left (then it may be an emoticon), and compares in lower case. All that it
//! compares with is ASCII, so a word with another character is unknown and its lower case is never made; of those that
//! could still be found in lower case there is one, the Kelvin sign.

use super::{
    casing,
    lexicon::{CAPITALS, EMOTE, LEXICON, Lexicon, NEGATES, Role, Word},
    table::Key,
};
use std::ops::Range;

/// Words before the one whose valence is sought, that word, and words after it.
pub(super) const WINDOW: usize = BEFORE + 1 + AFTER;
const BEFORE: usize = 3;
const AFTER: usize = 2;

/// What the rules ask of a line as a whole.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Line {
    pub(super) has_valence: bool,
    /// Some words are in capitals and some are not, so that capitals mean emphasis.
    pub(super) is_partly_capitals: bool,
    /// There are exclamation or question marks.
    pub(super) has_marks: bool,
    /// Which word is the first `but`.
    pub(super) but: Option<usize>,
}

const SPACE: u8 = 1;
const UPPER: u8 = 2;
const LOWER: u8 = 4;
const PUNCTUATION: u8 = 8;
const APOSTROPHE: u8 = 16;
const MARK: u8 = 32;
const NOT_ASCII: u8 = 64;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            // The white space of Python's `str.split()`, which counts the four separators before the space.
            b'\t'..=b'\r' | 0x1c..=b' ' => SPACE,
            b'A'..=b'Z' => UPPER,
            b'a'..=b'z' => LOWER,
            b'\'' => PUNCTUATION | APOSTROPHE,
            b'!' | b'?' => PUNCTUATION | MARK,
            other if other.is_ascii_punctuation() => PUNCTUATION,
            0x80.. => NOT_ASCII,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

fn class(byte: u8) -> u8 {
    CLASSES[usize::from(byte)]
}

const PADDING: &str = "                        ";
const _: () = assert!(PADDING.len() == Key::BYTES);

/// Writes a line in normal form: emoji replaced by their descriptions, white space by spaces and the Kelvin sign by the
/// letter K (both are `k` in lower case), and enough spaces behind it that each word can be read as a whole key.
pub(super) fn normalize(line: &str, lexicon: &Lexicon, text: &mut String) {
    let mut copied = 0;
    let characters = if line.is_ascii() { "" } else { line }.char_indices();
    for (at, character) in characters.filter(|(_, character)| !character.is_ascii()) {
        let description = lexicon.emojis.get(character);
        let replacement = match character {
            '\u{212a}' => "K",
            other if other.is_whitespace() => " ",
            _ => description.unwrap_or_default(),
        };
        if !replacement.is_empty() {
            text.push_str(&line[copied..at]);
            // A description begins a word. It ends none: what follows without a space belongs to its last word.
            text.push_str(if description.is_some() { " " } else { "" });
            text.push_str(replacement);
            copied = at + character.len_utf8();
        }
    }
    text.push_str(&line[copied..]);
    text.push_str(PADDING);
}

/// Fills `words` with the words of a normalized line, between what stands before and after every line.
pub(super) fn read(text: &str, lexicon: &Lexicon, words: &mut Vec<Word>) -> Line {
    let bytes = text.as_bytes();
    let (mut line, mut flags, mut has_capitals, mut has_others) = (Line::default(), 0, false, false);
    words.extend([Word::BEFORE_LINE; BEFORE]);
    let mut end = 0;
    while let Some(skipped) = bytes[end..].iter().position(|byte| class(*byte) != SPACE) {
        let start = end + skipped;
        let mut classes = 0;
        let length = bytes[start..].iter().take_while(|byte| {
            classes |= class(**byte) & !SPACE;
            class(**byte) != SPACE
        });
        end = start + length.count();
        line.has_marks |= classes & MARK != 0;
        let word = word(text, start..end, classes, lexicon);
        flags |= word.flags;
        if !word.is(EMOTE) {
            has_capitals |= word.is(CAPITALS);
            has_others |= !word.is(CAPITALS);
        }
        if word.role == Role::But && line.but.is_none() {
            line.but = Some(words.len() - BEFORE);
        }
        words.push(word);
    }
    words.extend([Word::UNKNOWN; AFTER]);
    line.has_valence = flags & LEXICON != 0;
    line.is_partly_capitals = has_capitals && has_others;
    line
}

/// What is known of the word at a place in the text; `classes` are those of its bytes.
fn word(text: &str, place: Range<usize>, classes: u8, lexicon: &Lexicon) -> Word {
    let mut word = Word::UNKNOWN;
    if classes & NOT_ASCII == 0 {
        let key = |place: &Range<usize>| Key::read(text.as_bytes(), place);
        let bare = if classes & PUNCTUATION == 0 { place.clone() } else { without_punctuation(text, place.clone()) };
        if classes & UPPER != 0
            && lexicon.has_emotes()
            && let Some(emote) = lexicon.emote(key(&place)).or_else(|| lexicon.emote(key(&bare)))
        {
            return emote;
        }
        word = lexicon.word(key(if bare.len() <= 2 { &place } else { &bare }));
        if classes & (UPPER | LOWER) == UPPER {
            word.flags |= CAPITALS;
        }
    } else if casing::is_upper(&text[place.clone()]) {
        word.flags |= CAPITALS;
    }
    let has_nt = || text.as_bytes()[place].windows(3).any(|three| three.eq_ignore_ascii_case(b"n't"));
    if classes & APOSTROPHE != 0 && has_nt() {
        word.flags |= NEGATES;
    }
    word
}

fn without_punctuation(text: &str, place: Range<usize>) -> Range<usize> {
    let is_mark = |byte: &u8| byte.is_ascii_punctuation();
    let word = &text.as_bytes()[place.clone()];
    let before = word.iter().take_while(|byte| is_mark(byte)).count();
    let behind = word[before..].iter().rev().take_while(|byte| is_mark(byte)).count();
    place.start + before..place.end - behind
}
