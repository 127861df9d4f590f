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
    /// Which word is the first `but`.
    pub(super) but: Option<usize>,
}

const SPACE: u8 = 1;
const UPPER: u8 = 2;
const LOWER: u8 = 4;
const PUNCTUATION: u8 = 8;
const APOSTROPHE: u8 = 16;
const NOT_ASCII: u8 = 32;

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
            other if other.is_ascii_punctuation() => PUNCTUATION,
            0x80.. => NOT_ASCII,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// The text with emoji replaced by their descriptions, white space by spaces and the Kelvin sign by the letter K (both
/// are `k` in lower case); `buffer` holds it where it differs from the line.
pub(super) fn normalized<'a>(line: &'a str, lexicon: &Lexicon, buffer: &'a mut String) -> &'a str {
    if line.is_ascii() {
        return line;
    }
    let mut copied = 0;
    for (at, character) in line.char_indices().filter(|(_, character)| !character.is_ascii()) {
        let description = lexicon.emojis.get(character);
        let replacement = match character {
            '\u{212a}' => "K",
            other if other.is_whitespace() => " ",
            _ => description.unwrap_or_default(),
        };
        if !replacement.is_empty() {
            buffer.push_str(&line[copied..at]);
            // A description begins a word. It ends none: what follows without a space belongs to its last word.
            buffer.push_str(if description.is_some() { " " } else { "" });
            buffer.push_str(replacement);
            copied = at + character.len_utf8();
        }
    }
    if copied == 0 {
        return line;
    }
    buffer.push_str(&line[copied..]);
    buffer
}

/// Fills `words` with the words of a normalized line, between what stands before and after every line.
pub(super) fn read(text: &str, lexicon: &Lexicon, words: &mut Vec<Word>) -> Line {
    let bytes = text.as_bytes();
    let (mut line, mut flags, mut has_capitals, mut has_others) = (Line::default(), 0, false, false);
    words.extend([Word::BEFORE_LINE; BEFORE]);
    let mut end = 0;
    loop {
        let start = end + bytes[end..].iter().take_while(|byte| CLASSES[usize::from(**byte)] == SPACE).count();
        if start == bytes.len() {
            break;
        }
        let mut classes = 0;
        let in_word = |byte: &&u8| {
            let class = CLASSES[usize::from(**byte)];
            classes |= class & !SPACE;
            class != SPACE
        };
        end = start + bytes[start..].iter().take_while(in_word).count();
        let word = word(&text[start..end], classes, lexicon);
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

/// What is known of a word; `classes` are those of its bytes.
fn word(text: &str, classes: u8, lexicon: &Lexicon) -> Word {
    let mut word = Word::UNKNOWN;
    if classes & NOT_ASCII == 0 {
        let bytes = text.as_bytes();
        let bare = if classes & PUNCTUATION == 0 { bytes } else { without_punctuation(bytes) };
        if classes & UPPER != 0
            && lexicon.has_emotes()
            && let Some(emote) = lexicon.emote(bytes).or_else(|| lexicon.emote(bare))
        {
            return emote;
        }
        let compared = if bare.len() <= 2 { bytes } else { bare };
        word = Key::new(compared).and_then(|key| lexicon.word(key.lower())).unwrap_or(Word::UNKNOWN);
        if classes & (UPPER | LOWER) == UPPER {
            word.flags |= CAPITALS;
        }
    } else if casing::is_upper(text) {
        word.flags |= CAPITALS;
    }
    if classes & APOSTROPHE != 0 && text.as_bytes().windows(3).any(|three| three.eq_ignore_ascii_case(b"n't")) {
        word.flags |= NEGATES;
    }
    word
}

fn without_punctuation(mut word: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = word
        && first.is_ascii_punctuation()
    {
        word = rest;
    }
    while let [rest @ .., last] = word
        && last.is_ascii_punctuation()
    {
        word = rest;
    }
    word
}
