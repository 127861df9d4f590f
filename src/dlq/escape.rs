//! Bytes of others on a terminal: nothing that they hold can move the cursor, change colours, reverse the
//! direction of the text or pass for a line of ours.

use crate::visible::is_hidden;
use std::fmt::Write;

/// Of a payload that is shown on one line, at most so many characters.
pub const LINE_CHARACTERS: usize = 80;

/// Text on one line; of what cannot be seen or would be obeyed, the code.
pub fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|character| push(&mut out, character));
    out
}

/// The same, cut to about `most` characters.
pub fn cut(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (n, character) in text.chars().enumerate() {
        if n == most {
            out.push('…');
            break;
        }
        push(&mut out, character);
    }
    out
}

/// Text with its lines kept, each behind `indent`.
pub fn lines(text: &str, indent: &str) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    for part in text.split('\n') {
        let _ = writeln!(out, "{indent}{}", line(part));
    }
    out
}

/// Bytes on one line: as text where they are UTF-8, else in hexadecimal digits.
pub fn bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => line(text),
        Err(_) => {
            let mut out = String::from("0x");
            bytes.iter().for_each(|byte| {
                let _ = write!(out, "{byte:02x}");
            });
            out
        }
    }
}

/// Sixteen bytes a line, with their place and as ASCII, each line behind `indent`.
pub fn dump(bytes: &[u8], indent: &str) -> String {
    let mut out = String::with_capacity(bytes.len() * 5);
    for (n, row) in bytes.chunks(16).enumerate() {
        let _ = write!(out, "{indent}{:08x} ", n * 16);
        for at in 0..16 {
            let gap = if at == 8 { " " } else { "" };
            let _ = match row.get(at) {
                Some(byte) => write!(out, "{gap} {byte:02x}"),
                None => write!(out, "{gap}   "),
            };
        }
        let ascii = row.iter().map(|byte| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '.' });
        let _ = writeln!(out, "  |{}|", ascii.collect::<String>());
    }
    out
}

fn push(out: &mut String, character: char) {
    let _ = match character {
        '\n' => write!(out, "\\n"),
        '\r' => write!(out, "\\r"),
        '\t' => write!(out, "\\t"),
        '\\' => write!(out, "\\\\"),
        character if is_hidden(out, character) => {
            write!(out, "\\u{{{:x}}}", u32::from(character))
        }
        character => {
            out.push(character);
            Ok(())
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::visible::has_hidden;
    use proptest::prelude::*;

    #[test]
    fn what_would_be_obeyed_is_shown_as_its_code() {
        assert_eq!(line("आशा 🍔 é \\ \"x\""), "आशा 🍔 é \\\\ \"x\"");
        assert_eq!(line("a\u{1b}[31mred\u{7}\0\u{9b}"), "a\\u{1b}[31mred\\u{7}\\u{0}\\u{9b}");
        assert_eq!(
            line("\u{202e}evil\u{2066}\u{200f}\u{feff}\u{2028}"),
            "\\u{202e}evil\\u{2066}\\u{200f}\\u{feff}\\u{2028}"
        );
        assert_eq!(line("a\n\r\tb"), "a\\n\\r\\tb");
        assert_eq!(lines("{\n\t1\r\n}", "  "), "  {\n  \\t1\\r\n  }\n");
        assert_eq!(cut("abcdef", 3), "abc…");
        assert_eq!(cut("abc", 3), "abc");
    }

    #[test]
    fn bytes_that_are_no_text_are_digits() {
        assert_eq!(bytes(b"k\xff\0"), "0x6bff00");
        assert_eq!(bytes("é".as_bytes()), "é");
        assert_eq!(
            dump(b"0123456789abcdef\xff\n", " "),
            " 00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n \
             00000010  ff 0a                                             |..|\n"
        );
        assert_eq!(dump(b"", " "), "");
    }

    proptest! {
        #[test]
        fn a_line_stays_a_line(text in any::<String>()) {
            let shown = line(&text);
            prop_assert!(!has_hidden(&shown));
            prop_assert!(cut(&text, 10).chars().count() <= 10 * 10 + 1);
        }
    }
}
