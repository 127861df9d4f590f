//! Which events open panes hold: their ids, and from which offsets on they are to be read again.

use super::{grid::Grid, hashes::Hashes};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// An event is looked up in this many blocks, or a few more.
const BLOCKS: i64 = 8;
const NO_OFFSET: i64 = i64::MAX;

/// The memory of a run of panes, which goes when the last of them closes. A block is one pane where a
/// window has few, and several where it has many, so that a look-up stays short.
#[derive(Debug, Default)]
struct Block {
    close_ms: i64,
    ids: Hashes,
    /// The least offset of each partition whose record the block depends on.
    least: Vec<i64>,
}

impl Block {
    fn depend_on(&mut self, source: usize, offset: i64) {
        if self.least.len() <= source {
            self.least.resize(source + 1, NO_OFFSET);
        }
        self.least[source] = self.least[source].min(offset);
    }
}

/// Where an event was read.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    pub source: usize,
    pub offset: i64,
    /// A former process has read it too.
    pub is_replayed: bool,
}

/// An id is one of an input, whatever its key and timestamp. It is kept as 64 bits of hash: with a
/// million ids in open windows, one event in 18 trillion is taken for a copy of another.
///
/// A copy may carry another timestamp than the event it copies, and so outlive it: then its block depends on
/// the offsets of the other's block as well. A restart reads those records again, and though their panes have
/// closed, their ids still tell the copy. What this cannot tell is a copy in another partition, or one that came
/// after the first one's pane had closed while records of it are read again.
#[derive(Debug)]
pub struct Ids {
    grid: Grid,
    panes_per_block: i64,
    blocks: BTreeMap<i64, Block>,
    /// Where reading began again after a restart, by partition.
    replay_from: Vec<i64>,
    /// Ids of records that are read again but whose blocks have closed; only until the replay is over.
    recalled: Hashes,
}

impl Ids {
    /// `span_ms` is how long a pane stays open.
    pub fn new(grid: Grid, span_ms: i64) -> Ids {
        let panes_per_block =
            (span_ms / BLOCKS / grid.pane_ms() + i64::from(span_ms % (BLOCKS * grid.pane_ms()) > 0)).max(1);
        Ids { grid, panes_per_block, blocks: BTreeMap::new(), replay_from: Vec::new(), recalled: Hashes::default() }
    }

    pub fn hash(input: usize, id: &[u8]) -> u64 {
        xxh3_64_with_seed(id, input as u64)
    }

    pub fn set_replay(&mut self, source: usize, offset: i64) {
        self.replay_from.resize(source + 1, NO_OFFSET);
        self.replay_from[source] = offset;
    }

    /// Notes an event of an open pane. False for the copy of an event in a pane that the watermark has
    /// not closed.
    pub fn admit(&mut self, pane: i64, id: Option<u64>, record: Record, watermark_ms: i64) -> bool {
        let number = pane.div_euclid(self.panes_per_block);
        let holder = id.and_then(|id| {
            let mut others = self.blocks.iter().filter(|(other, _)| **other != number);
            others.find(|(_, block)| block.close_ms > watermark_ms && block.ids.contains(id)).map(|(other, _)| *other)
        });
        let depends_on = match (holder, id) {
            (Some(holder), _) => self.blocks.get(&holder).map(|block| block.least.clone()),
            (None, Some(id)) if record.is_replayed && self.recalled.contains(id) => Some(self.replay_from.clone()),
            _ => None,
        };
        let block = self.block(number);
        if let Some(least) = depends_on {
            least.iter().enumerate().for_each(|(source, &offset)| block.depend_on(source, offset));
            return false;
        }
        if id.is_some_and(|id| !block.ids.insert(id)) {
            return false;
        }
        block.depend_on(record.source, record.offset);
        true
    }

    /// Notes the id of a record that is read again although its pane has closed.
    pub fn recall(&mut self, pane: i64, id: u64, record: Record, watermark_ms: i64) {
        let number = pane.div_euclid(self.panes_per_block);
        if self.close_ms(number) <= watermark_ms {
            self.recalled.insert(id);
            return;
        }
        let block = self.block(number);
        block.ids.insert(id);
        block.depend_on(record.source, record.offset);
    }

    pub fn end_replay(&mut self) {
        self.recalled = Hashes::default();
    }

    /// Drops what the watermark has closed.
    pub fn close(&mut self, watermark_ms: i64) {
        while self.blocks.first_key_value().is_some_and(|(_, block)| block.close_ms <= watermark_ms) {
            self.blocks.pop_first();
        }
    }

    /// The offset from which the open blocks can be built again.
    pub fn least_offset(&self, source: usize) -> Option<i64> {
        let offsets = self.blocks.values().filter_map(|block| block.least.get(source));
        offsets.copied().min().filter(|&offset| offset != NO_OFFSET)
    }

    pub fn bytes(&self) -> usize {
        self.blocks.values().map(|block| block.ids.heap_bytes()).sum::<usize>() + self.recalled.heap_bytes()
    }

    fn close_ms(&self, number: i64) -> i64 {
        self.grid.pane_close_ms((number + 1) * self.panes_per_block - 1)
    }

    fn block(&mut self, number: i64) -> &mut Block {
        let close_ms = self.close_ms(number);
        self.blocks.entry(number).or_insert_with(|| Block { close_ms, ..Block::default() })
    }
}
