//! Text of others (names, errors, payloads) made fit to be shown: what would hide or reorder its
//! neighbours, or steer a terminal, stands there as an escape, and what is long is cut.

use std::borrow::Cow;

/// `text` with control characters, and those that are invisible or change the direction of others, as
/// escapes such as `\n` and `\u{202e}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
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
            char if is_hidden(char) => shown.extend(char.escape_unicode()),
            char => shown.push(char),
        }
    }
}

/// Joiners are not among these: emoji and many scripts are written with them.
fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
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
        assert_eq!(visible("👨\u{200d}👩"), "👨\u{200d}👩");
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
            prop_assert!(!shown.chars().any(is_hidden));
        }

        #[test]
        fn any_bytes_can_be_shown(bytes in proptest::collection::vec(any::<u8>(), 0..64), limit in 0_usize..64) {
            prop_assert!(!excerpt(&bytes, limit).chars().any(is_hidden));
        }
    }
}
