//! A compact set of 64-bit hashes.

/// A set of uniformly distributed 64-bit hashes in ascending order, at 10 to 13 bytes each.
///
/// Open addressing with ordered linear probing (Amble and Knuth, "Ordered hash tables", 1974): a hash's
/// home grows with the hash itself, so the occupied slots read from left to right are sorted. A search
/// therefore ends at the first larger hash, growing is one pass in order, and the union of several sets
/// is a merge. The set grows by a quarter at a time, since at millions of hashes the free slots of a
/// doubled table are what costs.
#[derive(Debug, Default)]
pub struct Hashes {
    /// Zero is a free slot.
    slots: Vec<u64>,
    /// Homes are below it. The slots behind take what the last homes push along.
    homes: usize,
    len: usize,
}

impl Hashes {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>()
    }

    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().copied().filter(|&hash| hash != 0)
    }

    pub fn contains(&self, hash: u64) -> bool {
        let hash = occupied(hash);
        self.slots.get(self.search(hash)) == Some(&hash)
    }

    /// Whether the hash is new.
    pub fn insert(&mut self, hash: u64) -> bool {
        let hash = occupied(hash);
        let mut position = self.search(hash);
        if self.slots.get(position) == Some(&hash) {
            return false;
        }
        if (self.len + 1) * 5 > self.homes * 4 {
            self.grow();
            position = self.search(hash);
        }
        loop {
            if let Some(free) = self.slots[position..].iter().position(|&slot| slot == 0) {
                self.slots.copy_within(position..position + free, position + 1);
                self.slots[position] = hash;
                self.len += 1;
                return true;
            }
            self.grow();
            position = self.search(hash);
        }
    }

    /// The slot that holds the hash, or else the one where it belongs; the number of slots where that
    /// lies behind the last one.
    fn search(&self, hash: u64) -> usize {
        let mut position = home(hash, self.homes);
        while let Some(&slot) = self.slots.get(position) {
            if slot == 0 || slot >= hash {
                break;
            }
            position += 1;
        }
        position
    }

    fn grow(&mut self) {
        let mut homes = self.homes;
        'sizes: loop {
            homes += homes / 4 + 3;
            let mut slots = vec![0; homes + (homes / 4).min(64) + 1];
            let mut next = 0;
            for hash in self.iter() {
                let position = home(hash, homes).max(next);
                // The hashes crowd at the end: take yet more room.
                let Some(slot) = slots.get_mut(position) else { continue 'sizes };
                *slot = hash;
                next = position + 1;
            }
            self.slots = slots;
            self.homes = homes;
            return;
        }
    }
}

/// Zero stands for a free slot, so that the one hash that is zero shares the entry of one.
fn occupied(hash: u64) -> u64 {
    hash.max(1)
}

/// Maps 0..2^64 onto 0..homes, never falling as the hash grows.
fn home(hash: u64, homes: usize) -> usize {
    ((u128::from(hash) * homes as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_sorted_set(
            hashes in prop::collection::vec(
                prop_oneof![any::<u64>(), 0..20_u64, (0..40_u64).prop_map(|low| u64::MAX - low)],
                0..600,
            )
        ) {
            let mut set = Hashes::default();
            let mut expected = BTreeSet::new();
            for &hash in &hashes {
                prop_assert_eq!(set.contains(hash), expected.contains(&hash.max(1)));
                prop_assert_eq!(set.insert(hash), expected.insert(hash.max(1)));
            }
            prop_assert_eq!(set.len(), expected.len());
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_million_hashes_take_less_than_13_bytes_each() {
        let mut set = Hashes::default();
        for number in 0..1_000_000_u64 {
            assert!(set.insert(xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes())));
        }
        assert!(set.heap_bytes() < 13_000_000, "{}", set.heap_bytes());
    }
}
