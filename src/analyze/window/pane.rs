//! The state of all keys in one pane of time.

use super::{
    Field,
    distinct::Distinct,
    intern::Interner,
    layout::{Layout, Target},
    number::{add_score, add_to_sum, count_up, keep_extreme},
    tally::{NumberMap, Tally},
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Rows are kept in blocks, since doubling one vector would leave up to half of it unused.
const BLOCK_ROWS: usize = 256;
/// A counted value longer than this counts under its beginning, and makes the row approximate. Emotes
/// and the like are far shorter; a hostile one shall not fill the memory.
const VALUE_BYTES: usize = 256;

/// A key's row beside its state.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    pub key: u32,
    /// The flush that was to come when the row last changed.
    pub touched: u32,
    /// A value was clamped or cut, or a count has come to its end.
    pub is_approximate: bool,
}

#[derive(Debug, Default)]
struct Block {
    heads: Vec<Head>,
    words: Vec<u32>,
    sets: Vec<Distinct>,
    tallies: Vec<Tally>,
}

/// What one key has in one pane.
#[derive(Debug, Clone, Copy)]
pub struct Cell<'a> {
    pub words: &'a [u32],
    pub sets: &'a [Distinct],
    pub tallies: &'a [Tally],
    pub is_approximate: bool,
}

/// What counting an event needs beside the pane.
pub struct Counting<'a> {
    pub layout: &'a Layout,
    pub texts: &'a mut Interner,
    pub distinct_exact_limit: usize,
    pub counts_limit: usize,
}

#[derive(Debug, Default)]
pub struct Pane {
    rows: NumberMap<u32>,
    blocks: Vec<Block>,
    /// The greatest of the rows'.
    pub touched: u32,
    /// Heap that the sets and tallies hold.
    state_bytes: usize,
}

impl Pane {
    /// `key` is a number of `keys`, which the pane holds as long as it lives.
    pub fn add(
        &mut self,
        counting: &mut Counting<'_>,
        keys: &mut Interner,
        key: u32,
        input: usize,
        values: &[Field<'_>],
        touched: u32,
    ) {
        let row = match self.rows.get(&key) {
            Some(&row) => row as usize,
            None => {
                keys.hold(key);
                self.new_row(counting.layout, key)
            }
        };
        self.touched = self.touched.max(touched);
        let layout = counting.layout;
        let block = &mut self.blocks[row / BLOCK_ROWS];
        let row = row % BLOCK_ROWS;
        let words = &mut block.words[row * layout.blank.len()..][..layout.blank.len()];
        let sets = &mut block.sets[row * layout.sets..][..layout.sets];
        let tallies = &mut block.tallies[row * layout.tallies..][..layout.tallies];
        let head = &mut block.heads[row];
        head.touched = head.touched.max(touched);
        head.is_approximate |= count_up(&mut words[input]);
        for update in layout.updates(input) {
            let field = values.get(update.field).unwrap_or(&Field::Null);
            match update.target {
                Target::Sum(at) => head.is_approximate |= add_to_sum(&mut words[at..], field),
                Target::Least(at) => keep_extreme(&mut words[at..], field, f64::min),
                Target::Greatest(at) => keep_extreme(&mut words[at..], field, f64::max),
                Target::Score(at) => head.is_approximate |= add_score(&mut words[at..], field),
                Target::Distinct(at) => {
                    let before = sets[at].heap_bytes();
                    insert(&mut sets[at], field, counting.distinct_exact_limit);
                    self.state_bytes = self.state_bytes + sets[at].heap_bytes() - before;
                }
                Target::Tally(at) => {
                    let before = tallies[at].heap_bytes();
                    head.is_approximate |= count(&mut tallies[at], field, counting);
                    self.state_bytes = self.state_bytes + tallies[at].heap_bytes() - before;
                }
            }
        }
    }

    fn new_row(&mut self, layout: &Layout, key: u32) -> usize {
        let row = self.rows.len();
        self.rows.insert(key, row as u32);
        if row.is_multiple_of(BLOCK_ROWS) {
            // The first block grows as needed: a window may have thousands of panes and few keys.
            let room = if row == 0 { 0 } else { BLOCK_ROWS };
            self.blocks.push(Block {
                heads: Vec::with_capacity(room),
                words: Vec::with_capacity(room * layout.blank.len()),
                sets: Vec::with_capacity(room * layout.sets),
                tallies: Vec::with_capacity(room * layout.tallies),
            });
        }
        let block = &mut self.blocks[row / BLOCK_ROWS];
        block.heads.push(Head { key, touched: 0, is_approximate: false });
        block.words.extend_from_slice(&layout.blank);
        block.sets.extend((0..layout.sets).map(|_| Distinct::default()));
        block.tallies.extend((0..layout.tallies).map(|_| Tally::default()));
        row
    }

    pub fn heads(&self) -> impl Iterator<Item = &Head> {
        self.blocks.iter().flat_map(|block| &block.heads)
    }

    pub fn row_of(&self, key: u32) -> Option<u32> {
        self.rows.get(&key).copied()
    }

    /// `row` counts the heads.
    pub fn cell(&self, layout: &Layout, row: u32) -> Cell<'_> {
        let row = row as usize;
        let block = &self.blocks[row / BLOCK_ROWS];
        let row = row % BLOCK_ROWS;
        Cell {
            words: &block.words[row * layout.blank.len()..][..layout.blank.len()],
            sets: &block.sets[row * layout.sets..][..layout.sets],
            tallies: &block.tallies[row * layout.tallies..][..layout.tallies],
            is_approximate: block.heads[row].is_approximate,
        }
    }

    /// Gives up what the pane holds of the interned texts.
    pub fn release(&self, keys: &mut Interner, texts: &mut Interner) {
        self.heads().for_each(|head| keys.release(head.key));
        let tallies = self.blocks.iter().flat_map(|block| &block.tallies);
        tallies.for_each(|tally| tally.for_each(|value, _| texts.release(value)));
    }

    pub fn bytes(&self) -> usize {
        let blocks = self.blocks.iter().map(|block| {
            block.heads.capacity() * size_of::<Head>()
                + block.words.capacity() * size_of::<u32>()
                + block.sets.capacity() * size_of::<Distinct>()
                + block.tallies.capacity() * size_of::<Tally>()
        });
        // The map's entries and their tags, at most 7/8 full.
        blocks.sum::<usize>() + self.rows.capacity() * 9 * 8 / 7 + self.state_bytes
    }
}

fn insert(set: &mut Distinct, field: &Field<'_>, exact_limit: usize) {
    match *field {
        Field::Null => {}
        Field::Text(text) => set.insert(xxh3_64(text.as_bytes()), exact_limit),
        Field::TextList(texts) => texts.iter().for_each(|text| set.insert(xxh3_64(text.as_bytes()), exact_limit)),
        Field::Integer(value) => set.insert(xxh3_64_with_seed(&value.to_le_bytes(), 1), exact_limit),
        // 5 and 5.0 are one value.
        Field::Float(value) if value as i64 as f64 == value => insert(set, &Field::Integer(value as i64), exact_limit),
        Field::Float(value) => set.insert(xxh3_64_with_seed(&value.to_bits().to_le_bytes(), 2), exact_limit),
    }
}

/// Whether a value had to be cut.
fn count(tally: &mut Tally, field: &Field<'_>, counting: &mut Counting<'_>) -> bool {
    match *field {
        Field::Null => false,
        Field::Text(text) => count_text(tally, text, counting),
        Field::TextList(texts) => texts.iter().fold(false, |cut, text| count_text(tally, text, counting) | cut),
        Field::Integer(value) => count_text(tally, &value.to_string(), counting),
        Field::Float(value) => count_text(tally, &value.to_string(), counting),
    }
}

fn count_text(tally: &mut Tally, text: &str, counting: &mut Counting<'_>) -> bool {
    let mut end = text.len().min(VALUE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let value = counting.texts.number(&text[..end]);
    tally.add(value, counting.counts_limit, counting.texts);
    end < text.len()
}
