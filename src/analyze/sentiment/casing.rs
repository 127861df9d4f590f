//! Python's `str.isupper()`, as the reference asks it of every word.
//!
//! The reference's values are defined by Unicode 16, which Rust's own tables have left behind. Where these differ the
//! functions say so by character; a test over all characters finds what the next version of Rust changes.

/// Whether a character makes `isupper()` false: lower case or title case.
fn is_lower_or_title(character: char) -> bool {
    // The 31 title case letters, such as `ǅ`, are all in this range: cased, yet neither lower nor upper case.
    let is_title = || {
        ('\u{1c5}'..='\u{1ffc}').contains(&character)
            && !character.is_uppercase()
            && character.to_lowercase().next() != Some(character)
    };
    // The bears of kaomoji begin with this one, `ʕ•ᴥ•ʔ`, which was of lower case until Unicode 17.
    character == 'ʕ' || character.is_lowercase() || is_title()
}

/// Letters that came after Unicode 16: there they have no case.
fn is_later_than_unicode_16(character: char) -> bool {
    matches!(character, '\u{a7ce}'..='\u{a7cf}' | '\u{a7d2}' | '\u{a7d4}' | '\u{a7f1}' | '\u{16ea0}'..='\u{16ed3}')
}

/// True where `text` has an upper case letter and none of lower or title case.
pub(super) fn is_upper(text: &str) -> bool {
    let mut has_upper = false;
    for character in text.chars().filter(|character| !is_later_than_unicode_16(*character)) {
        if is_lower_or_title(character) {
            return false;
        }
        has_upper |= character.is_uppercase();
    }
    has_upper
}
