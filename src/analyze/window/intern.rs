//! Texts as small numbers, for as long as some pane uses them.

use std::{collections::HashMap, sync::Arc};

/// What a text costs beside its bytes: the entry, the map's entry, the reference counts.
const OVERHEAD_BYTES: usize = 80;

#[derive(Debug)]
struct Entry {
    text: Arc<str>,
    uses: u32,
}

/// Keys and counted values are chosen by whoever writes to a topic, so the map keeps the standard
/// library's hasher, which cannot be flooded.
#[derive(Debug, Default)]
pub struct Interner {
    numbers: HashMap<Arc<str>, u32>,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    text_bytes: usize,
}

impl Interner {
    /// The number of the text, which the caller is to hold if it keeps it.
    pub fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let text: Arc<str> = text.into();
        self.text_bytes += text.len();
        let entry = Some(Entry { text: text.clone(), uses: 0 });
        let number = match self.free.pop() {
            Some(number) => {
                self.entries[number as usize] = entry;
                number
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.numbers.insert(text, number);
        number
    }

    pub fn hold(&mut self, number: u32) {
        if let Some(Some(entry)) = self.entries.get_mut(number as usize) {
            entry.uses += 1;
        }
    }

    /// Frees the text with its last use.
    pub fn release(&mut self, number: u32) {
        let Some(slot) = self.entries.get_mut(number as usize) else { return };
        let Some(entry) = slot else { return };
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses == 0 {
            self.numbers.remove(&entry.text);
            self.text_bytes -= entry.text.len();
            *slot = None;
            self.free.push(number);
        }
    }

    /// Gives room back after a peak.
    pub fn tidy(&mut self) {
        if self.numbers.len() * 4 < self.numbers.capacity() {
            self.numbers.shrink_to(self.numbers.len() * 2);
            while self.entries.last().is_some_and(Option::is_none) {
                self.entries.pop();
            }
            self.entries.shrink_to(self.entries.len() * 2);
            let end = self.entries.len() as u32;
            self.free.retain(|&number| number < end);
            self.free.shrink_to_fit();
        }
    }

    pub fn text(&self, number: u32) -> Option<&Arc<str>> {
        Some(&self.entries.get(number as usize)?.as_ref()?.text)
    }

    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn bytes(&self) -> usize {
        self.text_bytes + self.numbers.len() * OVERHEAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_lives_as_long_as_it_is_held() {
        let mut texts = Interner::default();
        let first = texts.number("a");
        texts.hold(first);
        assert_eq!(texts.number("a"), first);
        texts.hold(first);
        let second = texts.number("b");
        texts.hold(second);
        texts.release(first);
        assert_eq!(texts.text(first).map(AsRef::as_ref), Some("a"));
        texts.release(first);
        assert_eq!((texts.text(first), texts.len()), (None, 1));
        assert_eq!(texts.number("c"), first);
        assert_eq!(texts.text(second).map(AsRef::as_ref), Some("b"));
    }

    #[test]
    fn tidying_after_a_peak_keeps_what_is_held() {
        let mut texts = Interner::default();
        let numbers: Vec<u32> = (0..1000).map(|n| texts.number(&n.to_string())).collect();
        numbers.iter().for_each(|&number| texts.hold(number));
        numbers.iter().filter(|&&number| number != 5).for_each(|&number| texts.release(number));
        texts.tidy();
        assert!(texts.entries.capacity() < 100 && texts.numbers.capacity() < 100);
        assert_eq!(texts.text(numbers[5]).map(AsRef::as_ref), Some("5"));
        let again: std::collections::HashSet<u32> = (2000..2100).map(|n| texts.number(&n.to_string())).collect();
        assert!(again.len() == 100 && !again.contains(&numbers[5]));
    }
}
