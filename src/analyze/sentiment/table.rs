//! A hash table from short ASCII words to what is known of them: built once, then read for every word of every line.
//!
//! A word is packed into 24 bytes, so that to hash it, to put it in lower case and to compare it are a few operations
//! on three integers. The slots hold an index and 16 bits of the hash: four bytes each, of which all fit the
//! second-level cache, and a look-up that finds nothing (most do) hardly ever leaves them.

use std::ops::Range;

/// A word of at most [`Key::MAX_LENGTH`] bytes: its bytes, zeros, and in the last byte its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u64; 3]);

impl Key {
    pub(super) const BYTES: usize = 24;
    pub(super) const MAX_LENGTH: usize = Self::BYTES - 1;

    /// For a word by itself; `None` where it is longer than any key.
    pub(super) fn new(word: &[u8]) -> Option<Self> {
        Self::read(&[word, &[0; Self::BYTES]].concat(), &(0..word.len()))
    }

    /// For the word at a place in a text, behind which the text goes on for [`Key::BYTES`] at least. It is loaded with
    /// what follows, which is masked out: to copy just the word would take longer than all the rest of a look-up.
    pub(super) fn read(text: &[u8], word: &Range<usize>) -> Option<Self> {
        let mask = MASKS.get(word.len())?;
        let (parts, _) = text.get(word.start..word.start + Self::BYTES)?.as_chunks();
        let [a, b, c] = parts else { return None };
        let [a, b, c] = [a, b, c].map(|part| u64::from_le_bytes(*part));
        Some(Self([a & mask[0], b & mask[1], c & mask[2] | (word.len() as u64) << 56]))
    }

    /// The key of the word in lower case. Only for ASCII words.
    pub(super) fn lower(self) -> Self {
        const ONES: u64 = u64::MAX / 0xff;
        Self(self.0.map(|bytes| {
            // Bit 7 of each byte (0 before, as the byte is ASCII) tells whether it is at least `A`, and past `Z`.
            let from_a = bytes + ONES * (0x80 - b'A' as u64);
            let past_z = bytes + ONES * (0x80 - b'Z' as u64 - 1);
            bytes | (from_a & !past_z & (ONES * 0x80)) >> 2
        }))
    }

    fn hash(self) -> u64 {
        let [a, b, c] = self.0;
        let folded = (a ^ 0x243f_6a88_85a3_08d3) as u128 * (b ^ c.rotate_left(23) ^ 0x1319_8a2e_0370_7345) as u128;
        (folded as u64 ^ (folded >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// By the length of a word, which bits of 24 bytes are its own.
const MASKS: [[u64; 3]; Key::MAX_LENGTH + 1] = {
    let mut masks = [[0; 3]; Key::MAX_LENGTH + 1];
    let mut length = 1;
    while length < masks.len() {
        masks[length] = masks[length - 1];
        masks[length][(length - 1) / 8] |= 0xff << ((length - 1) % 8 * 8);
        length += 1;
    }
    masks
};

/// Open addressing with linear probing; at most half full.
#[derive(Debug)]
pub(super) struct Table<V> {
    /// 16 bits of the hash, then one more than the index of the entry; 0 where free.
    slots: Vec<u32>,
    entries: Vec<(Key, V)>,
}

impl<V> Table<V> {
    /// Keys must differ; what does not fit 16 bits of index would never be found, and is left out.
    pub(super) fn new(entries: impl IntoIterator<Item = (Key, V)>) -> Self {
        let mut entries: Vec<(Key, V)> = entries.into_iter().collect();
        entries.truncate(usize::from(u16::MAX));
        let mut slots = vec![0; (2 * entries.len()).next_power_of_two()];
        let mask = slots.len() - 1;
        for (index, (key, _)) in entries.iter().enumerate() {
            let hash = key.hash();
            let mut at = hash as usize & mask;
            while slots[at] != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = (hash >> 48 << 16) as u32 | (index as u32 + 1);
        }
        Self { slots, entries }
    }

    pub(super) fn get(&self, key: Key) -> Option<&V> {
        let hash = key.hash();
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            if slot >> 16 == (hash >> 48) as u32
                && let Some((found, value)) = self.entries.get((slot & 0xffff) as usize - 1)
                && *found == key
            {
                return Some(value);
            }
            at = (at + 1) & mask;
        }
    }
}
