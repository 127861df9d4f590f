//! Text of others (names, errors, payloads) made fit to be shown: what would hide or reorder its
//! neighbours, or steer a terminal, stands there as an escape, and what is long is cut.

use std::borrow::Cow;

/// `text` with control characters, and those that are invisible or change the direction of others, as
/// escapes such as `\n` and `\u{202e}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !has_hidden(text) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    push_visible(&mut shown, text);
    Cow::Owned(shown)
}

/// The first `limit` bytes or fewer, cut between two characters, as [`visible`] text. Bytes that are not
/// UTF-8 are shown as `\xff`.
pub fn excerpt(bytes: &[u8], limit: usize) -> String {
    let mut shown = String::with_capacity(limit.min(bytes.len()));
    for chunk in cut(bytes, limit).utf8_chunks() {
        push_visible(&mut shown, chunk.valid());
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// `text` in at most `limit` characters, the last of which is an ellipsis where something was cut.
pub fn shortened(text: &str, limit: usize) -> Cow<'_, str> {
    match text.char_indices().nth(limit) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()),
    }
}

/// A character has at most four bytes, so that its first one is at most three behind.
fn cut(bytes: &[u8], limit: usize) -> &[u8] {
    if bytes.len() <= limit {
        return bytes;
    }
    let is_start = |at: &usize| bytes[*at] & 0xc0 != 0x80;
    let end = (limit.saturating_sub(3)..=limit).rev().find(is_start).unwrap_or(limit);
    &bytes[..end]
}

fn push_visible(shown: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            char if is_hidden(shown, char) => shown.extend(char.escape_unicode()),
            char => shown.push(char),
        }
    }
}

/// Whether a character cannot be seen behind the text `shown` so far, or would be obeyed: controls, marks of direction,
/// line separators, fillers and their kin, private characters and those beyond.
///
/// Joiners and variation selectors steer and reorder nothing, and emoji and many scripts are written with them. Behind
/// ASCII nothing is: there one makes `am\u{200d}ount` look like `amount`, and whoever reads why a record was refused
/// has to see it.
pub fn is_hidden(shown: &str, char: char) -> bool {
    let code = u32::from(char);
    if matches!(code, 0x180b..=0x180d | 0x180f | 0x200c | 0x200d | 0xfe00..=0xfe0f | 0xe0100..=0xe01ef) {
        return shown.chars().next_back().is_none_or(|before| before.is_ascii() || before == char);
    }
    char.is_control()
        || matches!(code,
            0xad | 0x34f | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x8e2 | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180e
            | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xe000..=0xf8ff | 0xfeff | 0xffa0
            | 0xfff0..=0xfffb | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..)
}

/// Whether any character of the text is hidden.
pub fn has_hidden(text: &str) -> bool {
    text.char_indices().any(|(at, char)| is_hidden(&text[..at], char))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_hides_or_reorders_is_escaped() {
        assert_eq!(visible("plain, ü and 😂"), "plain, ü and 😂");
        assert_eq!(visible("a\nb\tc\r\0"), "a\\nb\\tc\\r\\u{0}");
        assert_eq!(visible("\u{1b}[31mred\u{9b}"), "\\u{1b}[31mred\\u{9b}");
        assert_eq!(visible("user\u{202e}gpj.exe\u{2066}"), "user\\u{202e}gpj.exe\\u{2066}");
        assert_eq!(visible("\u{e000}\u{3164}\u{e007f}\u{10ffff}"), "\\u{e000}\\u{3164}\\u{e007f}\\u{10ffff}");
    }

    #[test]
    fn joiners_are_seen_where_they_join_nothing() {
        for written in ["👨\u{200d}👩", "❤\u{fe0f}\u{200d}🔥", "می\u{200c}خواهم", "क्\u{200d}ष", "葛\u{e0100}"]
        {
            assert_eq!(visible(written), written);
        }
        assert_eq!(visible("am\u{200d}ount\u{fe0f}"), "am\\u{200d}ount\\u{fe0f}");
        assert_eq!(visible("\u{200c}1"), "\\u{200c}1");
        assert_eq!(visible("é\u{200d}\u{200d}\u{200d}"), "é\u{200d}\\u{200d}\\u{200d}");
        assert_eq!(visible("\u{202e}\u{200d}"), "\\u{202e}\\u{200d}");
    }

    #[test]
    fn an_excerpt_ends_between_characters() {
        assert_eq!(excerpt("aüb".as_bytes(), 2), "a");
        assert_eq!(excerpt("aüb".as_bytes(), 3), "aü");
        assert_eq!(excerpt("😂😂".as_bytes(), 7), "😂");
        assert_eq!(excerpt(b"a\xff\xc3(", 10), "a\\xff\\xc3(");
        assert_eq!(excerpt(&[0x80; 8], 5), "\\x80\\x80\\x80\\x80\\x80");
        assert_eq!(excerpt(b"", 5), "");
    }

    #[test]
    fn a_long_text_is_shortened() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("äöüß", 3), "äö…");
    }

    proptest! {
        #[test]
        fn an_excerpt_is_a_start_and_is_bounded(text in any::<String>(), limit in 0_usize..64) {
            let shown = excerpt(text.as_bytes(), limit);
            prop_assert!(visible(&text).starts_with(&shown));
            prop_assert!(shown.len() <= limit * 8);
            prop_assert!(!has_hidden(&shown));
        }

        #[test]
        fn any_bytes_can_be_shown(bytes in proptest::collection::vec(any::<u8>(), 0..64), limit in 0_usize..64) {
            prop_assert!(!has_hidden(&excerpt(&bytes, limit)));
        }
    }
}
