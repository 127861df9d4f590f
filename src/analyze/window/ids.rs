//! Which events open panes hold: their ids, and from which offsets on the panes are to be read again.

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
    /// Of its records, and of those that they are copies of.
    least: Offsets,
}

/// The least offset of each partition that something depends on.
#[derive(Debug, Clone, Default)]
struct Offsets(Vec<i64>);

impl Offsets {
    fn add(&mut self, source: usize, offset: i64) {
        if self.0.len() <= source {
            self.0.resize(source + 1, NO_OFFSET);
        }
        self.0[source] = self.0[source].min(offset);
    }

    fn add_all(&mut self, others: &Offsets) {
        others.0.iter().enumerate().for_each(|(source, &offset)| self.add(source, offset));
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
/// A restart reads again what open panes depend on, not what open blocks do: a block goes later than its panes, and
/// the records of closed windows may be gone from the topic.
///
/// A copy may carry another timestamp than the event it copies, and so outlive it: then its pane depends on
/// the offsets of the other's block as well. A restart reads those records again, and though their panes have
/// closed, their ids still tell the copy. What this cannot tell is a copy in another partition, or one that came
/// after the first one's pane had closed while records of it are read again.
#[derive(Debug)]
pub struct Ids {
    grid: Grid,
    panes_per_block: i64,
    blocks: BTreeMap<i64, Block>,
    /// By open pane.
    panes: BTreeMap<i64, Offsets>,
    /// Where reading began again after a restart, by partition.
    replay_from: Offsets,
    /// Ids of records that are read again but whose blocks have closed; only until the replay is over.
    recalled: Hashes,
}

impl Ids {
    /// `span_ms` is how long a pane stays open.
    pub fn new(grid: Grid, span_ms: i64) -> Ids {
        let panes_per_block =
            (span_ms / BLOCKS / grid.pane_ms() + i64::from(span_ms % (BLOCKS * grid.pane_ms()) > 0)).max(1);
        let (blocks, panes) = (BTreeMap::new(), BTreeMap::new());
        Ids { grid, panes_per_block, blocks, panes, replay_from: Offsets::default(), recalled: Hashes::default() }
    }

    pub fn hash(input: usize, id: &[u8]) -> u64 {
        xxh3_64_with_seed(id, input as u64)
    }

    pub fn set_replay(&mut self, source: usize, offset: i64) {
        self.replay_from.add(source, offset);
    }

    /// Notes an event of an open pane. False for the copy of an event in a pane that the watermark has
    /// not closed.
    pub fn admit(&mut self, pane: i64, id: Option<u64>, record: Record, watermark_ms: i64) -> bool {
        let original = self.note(pane, id, record, watermark_ms);
        let least = self.panes.entry(pane).or_default();
        match &original {
            Some(offsets) => least.add_all(offsets),
            None => least.add(record.source, record.offset),
        }
        original.is_none()
    }

    /// Notes an event in its block. Of a copy, the offsets that the block of its original depends on.
    fn note(&mut self, pane: i64, id: Option<u64>, record: Record, watermark_ms: i64) -> Option<Offsets> {
        let number = pane.div_euclid(self.panes_per_block);
        let original = id.and_then(|id| {
            let mut others = self.blocks.iter().filter(|(other, _)| **other != number);
            let holder = others.find(|(_, block)| block.close_ms > watermark_ms && block.ids.contains(id));
            let recalled = (record.is_replayed && self.recalled.contains(id)).then_some(&self.replay_from);
            holder.map(|(_, block)| &block.least).or(recalled).cloned()
        });
        let block = self.block(number);
        if let Some(original) = original {
            block.least.add_all(&original);
            return Some(original);
        }
        if id.is_some_and(|id| !block.ids.insert(id)) {
            return Some(block.least.clone());
        }
        block.least.add(record.source, record.offset);
        None
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
        block.least.add(record.source, record.offset);
    }

    pub fn end_replay(&mut self) {
        self.recalled = Hashes::default();
    }

    /// Drops what the watermark has closed.
    pub fn close(&mut self, watermark_ms: i64) {
        while self.blocks.first_key_value().is_some_and(|(_, block)| block.close_ms <= watermark_ms) {
            self.blocks.pop_first();
        }
        while self.panes.first_key_value().is_some_and(|(pane, _)| self.grid.pane_close_ms(*pane) <= watermark_ms) {
            self.panes.pop_first();
        }
    }

    /// The offset from which the open panes can be built again.
    pub fn least_offset(&self, source: usize) -> Option<i64> {
        let offsets = self.panes.values().filter_map(|least| least.0.get(source));
        offsets.copied().min().filter(|&offset| offset != NO_OFFSET)
    }

    pub fn bytes(&self) -> usize {
        self.blocks.values().map(|block| block.ids.heap_bytes()).sum::<usize>()
            + self.panes.values().map(|least| least.0.capacity() * size_of::<i64>()).sum::<usize>()
            + self.recalled.heap_bytes()
    }

    fn close_ms(&self, number: i64) -> i64 {
        self.grid.pane_close_ms((number + 1) * self.panes_per_block - 1)
    }

    fn block(&mut self, number: i64) -> &mut Block {
        let close_ms = self.close_ms(number);
        self.blocks.entry(number).or_insert_with(|| Block { close_ms, ..Block::default() })
    }
}
