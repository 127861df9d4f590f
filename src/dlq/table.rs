//! Columns of text that stand below each other.

use std::fmt::Write;

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    Left,
    Right,
}

/// Lines of `rows` below `head`, each column as wide as its widest text. The last column is not filled up.
pub fn lines(head: &[(&str, Set)], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let texts = rows.iter().filter_map(|row| row.get(column));
        texts.map(|text| text.chars().count()).chain([head[column].0.chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    let names: Vec<String> = head.iter().map(|(name, _)| (*name).to_owned()).collect();
    for row in std::iter::once(&names).chain(rows) {
        let mut line = String::new();
        for (((text, (_, set)), width), n) in row.iter().zip(head).zip(&widths).zip(0..) {
            let gap = if n > 0 { "  " } else { "" };
            // Writing to a String cannot fail.
            let _ = match set {
                Set::Right => write!(line, "{gap}{text:>width$}"),
                Set::Left => write!(line, "{gap}{text:<width$}"),
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest() {
        let rows = [["orders", "1,234", "é: x"], ["o", "5", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            lines(&[("TOPIC", Set::Left), ("N", Set::Right), ("WHAT", Set::Left)], &rows),
            "TOPIC       N  WHAT\norders  1,234  é: x\no           5\n"
        );
    }
}
