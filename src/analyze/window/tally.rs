//! How often each value came, in a pane of one key.

use super::intern::Interner;
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// Up to so many values are a sorted list.
const LIST_LIMIT: usize = 48;

/// For numbers that the program itself has given out in sequence.
#[derive(Debug, Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(u32::from(byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // The map takes its position from the low bits and its tag from the high ones.
        let mixed = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

pub type NumberMap<V> = HashMap<u32, V, BuildHasherDefault<NumberHasher>>;

/// Counts of interned values, no higher than those of events (see [`super::number`]). The list and the map hold each value once in the interner.
#[derive(Debug, Default)]
pub enum Tally {
    #[default]
    None,
    One(u32, u32),
    List(Box<List>),
    Map(Box<Frequent>),
}

/// In the order of the values. Boxed, since a vector is three words and most panes need none.
#[derive(Debug, Default)]
pub struct List {
    counts: Vec<(u32, u32)>,
}

/// Past the limit only frequent values are kept, as in Misra and Gries ("Finding repeated elements",
/// 1982) with the batched decrement of Anderson et al. ("A high-performance algorithm for identifying
/// frequent items in data streams", 2017): the lower median of all counts is taken off each, and what
/// falls to zero goes. A count is then too low by at most `taken_off`, which is at most twice the sum of
/// all counts divided by the limit.
#[derive(Debug, Default)]
pub struct Frequent {
    counts: NumberMap<u32>,
    taken_off: u32,
}

impl Tally {
    pub fn add(&mut self, value: u32, limit: usize, texts: &mut Interner) {
        match self {
            Tally::None => {
                texts.hold(value);
                *self = Tally::One(value, 1);
            }
            Tally::One(present, count) if *present == value => *count = count.saturating_add(1),
            Tally::One(present, count) => {
                let mut list = List { counts: vec![(*present, *count)] };
                list.insert(value, texts);
                *self = Tally::List(Box::new(list));
                self.limit_list(limit, texts);
            }
            Tally::List(list) => {
                list.insert(value, texts);
                self.limit_list(limit, texts);
            }
            Tally::Map(frequent) => {
                let count = frequent.counts.entry(value).or_insert(0);
                if *count == 0 {
                    texts.hold(value);
                }
                *count = count.saturating_add(1);
                frequent.purge(limit, texts);
            }
        }
    }

    fn limit_list(&mut self, limit: usize, texts: &mut Interner) {
        let Tally::List(list) = self else { return };
        if list.counts.len() > LIST_LIMIT.min(limit) {
            let mut frequent = Frequent { counts: list.counts.iter().copied().collect(), taken_off: 0 };
            frequent.purge(limit, texts);
            *self = Tally::Map(Box::new(frequent));
        }
    }

    /// Whether counts have been taken off.
    pub fn is_approximate(&self) -> bool {
        matches!(self, Tally::Map(frequent) if frequent.taken_off > 0)
    }

    pub fn for_each(&self, mut use_count: impl FnMut(u32, u32)) {
        match self {
            Tally::None => {}
            Tally::One(value, count) => use_count(*value, *count),
            Tally::List(list) => list.counts.iter().for_each(|&(value, count)| use_count(value, count)),
            Tally::Map(frequent) => frequent.counts.iter().for_each(|(&value, &count)| use_count(value, count)),
        }
    }

    pub fn heap_bytes(&self) -> usize {
        match self {
            Tally::None | Tally::One(..) => 0,
            Tally::List(list) => size_of::<List>() + list.counts.capacity() * size_of::<(u32, u32)>(),
            Tally::Map(frequent) => {
                size_of::<Frequent>() + frequent.counts.capacity() * (size_of::<(u32, u32)>() + 1) * 8 / 7
            }
        }
    }
}

impl Frequent {
    fn purge(&mut self, limit: usize, texts: &mut Interner) {
        if self.counts.len() <= limit {
            return;
        }
        let mut counts: Vec<u32> = self.counts.values().copied().collect();
        let middle = (counts.len() - 1) / 2;
        let (_, &mut median, _) = counts.select_nth_unstable(middle);
        self.counts.retain(|&value, count| {
            *count = count.saturating_sub(median);
            if *count == 0 {
                texts.release(value);
            }
            *count > 0
        });
        self.taken_off = self.taken_off.saturating_add(median);
    }
}

impl List {
    fn insert(&mut self, value: u32, texts: &mut Interner) {
        match self.counts.binary_search_by_key(&value, |entry| entry.0) {
            Ok(position) => self.counts[position].1 = self.counts[position].1.saturating_add(1),
            Err(position) => {
                if self.counts.len() == self.counts.capacity() {
                    self.counts.reserve_exact(self.counts.len().clamp(2, 16));
                }
                self.counts.insert(position, (value, 1));
                texts.hold(value);
            }
        }
    }
}

/// The counts of several tallies together: the most frequent first, those equally frequent by their text.
pub fn merge<'a>(tallies: impl Iterator<Item = &'a Tally>, texts: &Interner, merged: &mut Vec<(u32, u64)>) {
    merged.clear();
    tallies.for_each(|tally| tally.for_each(|value, count| merged.push((value, u64::from(count)))));
    merged.sort_unstable_by_key(|entry| entry.0);
    merged.dedup_by(|next, kept| {
        let is_same = next.0 == kept.0;
        if is_same {
            kept.1 += next.1;
        }
        is_same
    });
    merged.sort_unstable_by(|left, right| {
        right.1.cmp(&left.1).then_with(|| texts.text(left.0).cmp(&texts.text(right.0)))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(tallies: &[Tally], texts: &Interner) -> Vec<(String, u64)> {
        let mut merged = Vec::new();
        merge(tallies.iter(), texts, &mut merged);
        merged.iter().map(|&(value, count)| (texts.text(value).unwrap().to_string(), count)).collect()
    }

    fn add(tally: &mut Tally, texts: &mut Interner, value: &str, limit: usize) {
        let number = texts.number(value);
        tally.add(number, limit, texts);
    }

    #[test]
    fn the_most_frequent_come_first_then_by_text() {
        let mut texts = Interner::default();
        let (mut one, mut other) = (Tally::default(), Tally::default());
        for value in ["b", "b", "z", "a", "z"] {
            add(&mut one, &mut texts, value, 100);
        }
        add(&mut other, &mut texts, "a", 100);
        let expected = [("a", 2), ("b", 2), ("z", 2)].map(|(text, count)| (text.to_owned(), count));
        assert_eq!(counted(&[one, other], &texts), expected);
    }

    #[test]
    fn lists_and_maps_count_alike() {
        let mut texts = Interner::default();
        let mut tally = Tally::default();
        for round in 0..200_usize {
            for value in 0..=round {
                add(&mut tally, &mut texts, &format!("{value:03}"), 1000);
            }
        }
        let expected: Vec<_> = (0..200).map(|value| (format!("{value:03}"), 200 - value as u64)).collect();
        assert!(!tally.is_approximate() && matches!(tally, Tally::Map(_)));
        assert_eq!(counted(&[tally], &texts), expected);
    }

    #[test]
    fn past_the_limit_the_frequent_ones_stay_and_the_others_are_released() {
        let mut texts = Interner::default();
        let mut tally = Tally::default();
        let limit = 20;
        for round in 0..5_000 {
            add(&mut tally, &mut texts, "Kappa", limit);
            add(&mut tally, &mut texts, &format!("once{round}"), limit);
        }
        assert!(tally.is_approximate());
        let counted = counted(&[tally], &texts);
        assert_eq!(counted[0].0, "Kappa");
        assert!((4_000..=5_000).contains(&counted[0].1), "{}", counted[0].1);
        assert!(counted.len() <= limit && texts.len() <= limit, "{} {}", counted.len(), texts.len());
        let mut tiny = Tally::default();
        ["a", "b", "b"].iter().for_each(|value| add(&mut tiny, &mut texts, value, 1));
        assert!(tiny.is_approximate());
    }
}
