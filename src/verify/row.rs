//! A row as it is compared: the canonical cells that are not null, each under its column's name, so
//! that absent and null are one and a table that has grown a column compares with its past.

use super::{
    canon::{self, Kind},
    clock, entry,
};
use crate::clock::iso;
use std::ops::Range;

/// A column's name as it stands in the hashed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag([u8; 8]);

impl Tag {
    pub fn of(name: &str) -> Tag {
        Tag(xxhash_rust::xxh3::xxh3_64(name.as_bytes()).to_be_bytes())
    }
}

/// The bytes of one row, built cell by cell in an order that both sides share. Reused row by row.
#[derive(Debug, Default)]
pub struct RowBytes {
    bytes: Vec<u8>,
    cells: Vec<Option<Range<usize>>>,
}

impl RowBytes {
    /// Begins a row of `columns` cells.
    pub fn begin(&mut self, columns: usize) {
        self.bytes.clear();
        self.cells.clear();
        self.cells.resize(columns, None);
    }

    /// Appends what `write` writes; nothing where it gives false, which is null.
    pub fn cell(&mut self, index: usize, tag: Tag, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&tag.0);
        let mut is_value = false;
        canon::framed(&mut self.bytes, |out| is_value = write(out));
        if is_value {
            self.cells[index] = Some(start + tag.0.len() + 4..self.bytes.len());
        } else {
            self.bytes.truncate(start);
        }
    }

    /// The canonical cell; empty where it is null.
    pub fn get(&self, index: usize) -> &[u8] {
        self.cells.get(index).cloned().flatten().map_or(&[], |range| &self.bytes[range])
    }

    pub fn hash(&self) -> u128 {
        entry::hash(&self.bytes)
    }
}

/// The canonical cells of a key, each with its length before it. A missing one is empty.
pub fn push_key_cell(key: &mut Vec<u8>, canonical: &[u8]) {
    canon::framed(key, |out| out.extend_from_slice(canonical));
}

/// Stands for a record that has no key of its own: where it is.
const PLACE: u8 = b'!';

pub fn place_key(partition: i32, offset: i64) -> Vec<u8> {
    let mut key = Vec::new();
    push_key_cell(&mut key, format!("{}{partition}/{offset}", PLACE as char).as_bytes());
    key
}

pub fn key_cells(key: &[u8]) -> Vec<&[u8]> {
    let mut cells = Vec::new();
    let mut rest = key;
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let Some((cell, tail)) = tail.split_at_checked(u32::from_be_bytes(*length) as usize) else { break };
        cells.push(cell);
        rest = tail;
    }
    cells
}

/// A key as people read it, by the kinds of its columns.
pub fn display_key(key: &[u8], kinds: &[Kind]) -> String {
    let cells = key_cells(key);
    if let [cell] = cells.as_slice()
        && let Some((&PLACE, place)) = cell.split_first()
    {
        return format!("at {}", String::from_utf8_lossy(place));
    }
    let shown: Vec<String> = cells
        .iter()
        .enumerate()
        .map(|(n, cell)| kinds.get(n).map_or_else(|| canon::display(cell), |kind| display_cell(kind, cell)))
        .collect();
    shown.join(", ")
}

/// A canonical cell as people read it.
pub fn display_cell(kind: &Kind, canonical: &[u8]) -> String {
    let text = canon::display(canonical);
    let number = || text.parse::<i64>().ok().filter(|_| canonical.first() == Some(&b'@'));
    match kind {
        Kind::Timestamp(_) => number().map_or(text.clone(), iso),
        Kind::Date => number().and_then(clock::day_name_of).unwrap_or(text.clone()),
        Kind::Float32 if canonical.len() == 5 => {
            canonical[1..].try_into().map_or(text.clone(), |bits| f32::from_bits(u32::from_be_bytes(bits)).to_string())
        }
        Kind::Float64 if canonical.len() == 9 => {
            canonical[1..].try_into().map_or(text.clone(), |bits| f64::from_bits(u64::from_be_bytes(bits)).to_string())
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(cells: &[(&str, &str)]) -> u128 {
        let mut row = RowBytes::default();
        row.begin(cells.len());
        for (index, (name, value)) in cells.iter().enumerate() {
            row.cell(index, Tag::of(name), |out| {
                canon::from_text(&Kind::Text, value, out);
                true
            });
            assert_eq!(&row.get(index)[1..], value.as_bytes());
        }
        row.cell(0, Tag::of("null"), |_| false);
        row.hash()
    }

    #[test]
    fn neither_names_nor_values_run_into_each_other() {
        assert_eq!(hash(&[("a", "1"), ("b", "2")]), hash(&[("a", "1"), ("b", "2")]));
        assert_ne!(hash(&[("a", "1"), ("b", "2")]), hash(&[("a", "2"), ("b", "1")]));
        assert_ne!(hash(&[("a", "1")]), hash(&[("b", "1")]));
        assert_ne!(hash(&[("a", ""), ("b", "")]), hash(&[("a", "")]));
    }

    #[test]
    fn keys_read_as_people_write_them() {
        let key = |cells: &[(&Kind, &str)]| {
            let mut key = Vec::new();
            for (kind, text) in cells {
                let mut cell = Vec::new();
                canon::from_text(kind, text, &mut cell);
                push_key_cell(&mut key, &cell);
            }
            key
        };
        let moment = Kind::Timestamp(None);
        let composite =
            key(&[(&Kind::Number, "101"), (&moment, "2025-01-15 12:24:00+00"), (&Kind::Date, "2025-01-15")]);
        let kinds = [Kind::Number, moment, Kind::Date];
        assert_eq!(display_key(&composite, &kinds), "101, 2025-01-15T12:24:00Z, 2025-01-15");
        assert_eq!(display_key(&place_key(3, 77), &kinds), "at 3/77");
        assert_ne!(key(&[(&Kind::Text, "a"), (&Kind::Text, "b")]), key(&[(&Kind::Text, "atb")]));
        let mut cell = Vec::new();
        canon::from_text(&Kind::Float64, "0.1", &mut cell);
        assert_eq!(display_cell(&Kind::Float64, &cell), "0.1");
    }
}
