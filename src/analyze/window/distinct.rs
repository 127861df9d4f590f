//! The distinct values of a pane's key: exact as long as they are few, then a sketch.

use super::{hashes::Hashes, sketch::Sketch};

/// Most panes of a key see a value or none, so that these take no heap.
#[derive(Debug, Default)]
pub enum Distinct {
    #[default]
    None,
    One(u64),
    /// Two to four. Zero is a free place, as in [`Hashes`].
    Few(Box<[u64; 4]>),
    Exact(Box<Hashes>),
    Estimated(Box<Sketch>),
}

impl Distinct {
    /// Whether it becomes a sketch depends on how many different hashes came, not on their order.
    pub fn insert(&mut self, hash: u64, exact_limit: usize) {
        let hash = hash.max(1);
        match self {
            Distinct::None => *self = Distinct::One(hash),
            Distinct::One(present) if *present == hash => {}
            Distinct::One(present) => *self = Distinct::Few(Box::new([*present, hash, 0, 0])).limited(exact_limit),
            Distinct::Few(hashes) => match hashes.iter_mut().find(|place| **place == hash || **place == 0) {
                Some(place) if *place == hash => {}
                Some(place) => {
                    *place = hash;
                    *self = std::mem::take(self).limited(exact_limit);
                }
                None => {
                    let mut all = Hashes::default();
                    for hash in few(hashes).chain([hash]) {
                        all.insert(hash);
                    }
                    *self = Distinct::Exact(Box::new(all)).limited(exact_limit);
                }
            },
            Distinct::Exact(hashes) => {
                if hashes.insert(hash) && hashes.len() > exact_limit {
                    *self = std::mem::take(self).limited(exact_limit);
                }
            }
            Distinct::Estimated(sketch) => sketch.insert(hash),
        }
    }

    fn limited(self, exact_limit: usize) -> Distinct {
        match &self {
            Distinct::Few(hashes) if few(hashes).count() > exact_limit => Distinct::estimated(few(hashes)),
            Distinct::Exact(hashes) if hashes.len() > exact_limit => Distinct::estimated(hashes.iter()),
            _ => self,
        }
    }

    fn estimated(hashes: impl Iterator<Item = u64>) -> Distinct {
        let mut sketch = Sketch::new();
        hashes.for_each(|hash| sketch.insert(hash));
        Distinct::Estimated(Box::new(sketch))
    }

    pub fn heap_bytes(&self) -> usize {
        match self {
            Distinct::None | Distinct::One(_) => 0,
            Distinct::Few(_) => size_of::<[u64; 4]>(),
            Distinct::Exact(hashes) => size_of::<Hashes>() + hashes.heap_bytes(),
            Distinct::Estimated(_) => size_of::<Sketch>() + Sketch::BYTES,
        }
    }
}

fn few(hashes: &[u64; 4]) -> impl Iterator<Item = u64> {
    hashes.iter().copied().filter(|&hash| hash != 0)
}

/// The size of the union, and whether it is an estimate. `scratch` keeps its room between calls.
pub fn count<'a>(sets: impl Iterator<Item = &'a Distinct> + Clone, scratch: &mut Vec<u64>) -> (u64, bool) {
    scratch.clear();
    let mut sketches = sets.clone().filter_map(|set| match set {
        Distinct::Estimated(sketch) => Some(sketch),
        _ => None,
    });
    for set in sets.clone() {
        match set {
            Distinct::None | Distinct::Estimated(_) => {}
            Distinct::One(hash) => scratch.push(*hash),
            Distinct::Few(hashes) => scratch.extend(few(hashes)),
            Distinct::Exact(hashes) => scratch.extend(hashes.iter()),
        }
    }
    if let Some(first) = sketches.next() {
        let mut union = Sketch::new();
        union.merge(first);
        sketches.for_each(|sketch| union.merge(sketch));
        scratch.iter().for_each(|&hash| union.insert(hash));
        return (union.estimate(), true);
    }
    // Each large set gave an ascending run; a merge sort takes the runs as they are.
    scratch.sort();
    scratch.dedup();
    (scratch.len() as u64, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    fn of(numbers: impl Iterator<Item = u64>, limit: usize) -> Distinct {
        let mut set = Distinct::default();
        numbers.for_each(|number| set.insert(xxh3_64(&number.to_le_bytes()), limit));
        set
    }

    #[test]
    fn a_union_is_exact_until_one_set_passes_the_limit() {
        let mut scratch = Vec::new();
        let sets = [of(0..100, 100), of(50..150, 100), of(0..0, 100), of(7..8, 100)];
        assert_eq!(count(sets.iter(), &mut scratch), (150, false));
        let sets = [of(0..101, 100), of(50..150, 100), of(7..8, 100)];
        let (estimate, is_estimate) = count(sets.iter(), &mut scratch);
        assert!(is_estimate && (149..=151).contains(&estimate), "{estimate}");
    }

    #[test]
    fn the_order_does_not_matter_around_the_limit() {
        let mut scratch = Vec::new();
        let forth = [of(0..300, 120)];
        let back = [of((0..300).rev().chain(0..300), 120)];
        assert_eq!(count(forth.iter(), &mut scratch), count(back.iter(), &mut scratch));
        assert_eq!(count([of(1..2, 0), of(1..2, 0)].iter(), &mut scratch), (1, false));
        assert!(count([of(1..3, 1)].iter(), &mut scratch).1);
    }
}
