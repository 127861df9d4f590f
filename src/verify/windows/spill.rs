//! Events in temporary files: put into the order of their time, and waiting in line.

use super::event::{Event, Order};
use crate::verify::entry::{SpillError, unnamed_file};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque, binary_heap::PeekMut},
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What a sorter keeps in memory before it writes a run.
const RUN_BYTES: usize = 64 << 20;
/// What is read of a run at a time.
const PIECE_BYTES: usize = 64 << 10;
/// A queue writes its middle to a file in blocks of so many bytes, once it holds so many blocks.
const BLOCK_BYTES: usize = 1 << 20;
const BLOCKS_IN_MEMORY: usize = 64;

/// A file without a name, and how to speak of it.
struct Place {
    directory: PathBuf,
    file: File,
}

impl Place {
    fn new(directory: &Path) -> Result<Place, SpillError> {
        let file = unnamed_file(directory).map_err(|source| SpillError::File { path: directory.to_owned(), source })?;
        Ok(Place { directory: directory.to_owned(), file })
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), SpillError> {
        let failed = |source| SpillError::File { path: self.directory.clone(), source };
        self.file.write_all_at(bytes, at).map_err(failed)
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<(), SpillError> {
        let failed = |source| SpillError::File { path: self.directory.clone(), source };
        self.file.read_exact_at(bytes, at).map_err(failed)
    }

    fn changed(&self) -> SpillError {
        SpillError::Changed { path: self.directory.clone() }
    }
}

/// Takes events in any order. What does not fit into memory goes to a file, as sorted runs.
pub struct Sorter {
    directory: PathBuf,
    limit_bytes: usize,
    bytes: Vec<u8>,
    /// Each event's order, and where it stands in `bytes`.
    index: Vec<(Order, usize)>,
    place: Option<Arc<Place>>,
    runs: Vec<Run>,
    written: u64,
}

impl Sorter {
    pub fn new(directory: &Path) -> Sorter {
        Sorter::with_limit(directory, RUN_BYTES)
    }

    fn with_limit(directory: &Path, limit_bytes: usize) -> Sorter {
        let (bytes, index, runs) = (Vec::new(), Vec::new(), Vec::new());
        Sorter { directory: directory.to_owned(), limit_bytes, bytes, index, place: None, runs, written: 0 }
    }

    pub fn push(&mut self, event: &Event) -> Result<(), SpillError> {
        self.index.push((event.order(), self.bytes.len()));
        event.encode(&mut self.bytes);
        if self.bytes.len() + self.index.len() * size_of::<(Order, usize)>() >= self.limit_bytes {
            self.write_run()?;
        }
        Ok(())
    }

    fn write_run(&mut self) -> Result<(), SpillError> {
        let place = match &self.place {
            Some(place) => place.clone(),
            None => self.place.insert(Arc::new(Place::new(&self.directory)?)).clone(),
        };
        self.index.sort_unstable();
        let begin = self.written;
        let mut out = Vec::with_capacity(BLOCK_BYTES);
        for (_, at) in &self.index {
            out.extend_from_slice(framed(&self.bytes, *at));
            if out.len() >= BLOCK_BYTES {
                place.write(&out, self.written)?;
                self.written += out.len() as u64;
                out.clear();
            }
        }
        place.write(&out, self.written)?;
        self.written += out.len() as u64;
        self.runs.push(Run { place, at: begin, end: self.written, piece: Vec::new(), position: 0 });
        self.bytes.clear();
        self.index.clear();
        Ok(())
    }

    /// All events, by their order.
    pub fn finish(mut self) -> Result<Sorted, SpillError> {
        if self.runs.is_empty() {
            self.index.sort_unstable();
            let index = self.index.into_iter().map(|(_, at)| at).collect::<Vec<_>>().into_iter();
            return Ok(Sorted::Memory { directory: self.directory, bytes: self.bytes, index });
        }
        self.write_run()?;
        let mut heads = BinaryHeap::with_capacity(self.runs.len());
        for (number, run) in self.runs.iter_mut().enumerate() {
            if let Some(event) = run.next()? {
                heads.push(Reverse(Head { order: event.order(), run: number, event }));
            }
        }
        Ok(Sorted::Runs { runs: self.runs, heads })
    }
}

/// The bytes of the event at `at`, its length included.
fn framed(bytes: &[u8], at: usize) -> &[u8] {
    let length = length_at(bytes, at).unwrap_or_default();
    &bytes[at..at + 4 + length]
}

fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    let (length, _) = bytes.get(at..)?.split_first_chunk::<4>()?;
    Some(u32::from_le_bytes(*length) as usize)
}

/// A sorted part of the file.
pub struct Run {
    place: Arc<Place>,
    at: u64,
    end: u64,
    piece: Vec<u8>,
    position: usize,
}

impl Run {
    fn next(&mut self) -> Result<Option<Event>, SpillError> {
        loop {
            let rest = &self.piece[self.position..];
            let wanted = match length_at(rest, 0) {
                Some(length) if rest.len() >= 4 + length => {
                    let event = Event::decode(&rest[4..4 + length]).ok_or_else(|| self.place.changed())?;
                    self.position += 4 + length;
                    return Ok(Some(event));
                }
                Some(length) => 4 + length - rest.len(),
                None => 4,
            };
            if self.at == self.end {
                return if rest.is_empty() { Ok(None) } else { Err(self.place.changed()) };
            }
            self.piece.drain(..self.position);
            self.position = 0;
            let more = (wanted.max(PIECE_BYTES) as u64).min(self.end - self.at) as usize;
            let kept = self.piece.len();
            self.piece.resize(kept + more, 0);
            self.place.read(&mut self.piece[kept..], self.at)?;
            self.at += more as u64;
        }
    }
}

/// The next event of a run.
pub struct Head {
    order: Order,
    run: usize,
    event: Event,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.order, self.run).cmp(&(other.order, other.run))
    }
}

pub enum Sorted {
    Memory { directory: PathBuf, bytes: Vec<u8>, index: std::vec::IntoIter<usize> },
    Runs { runs: Vec<Run>, heads: BinaryHeap<Reverse<Head>> },
}

impl Sorted {
    pub fn next(&mut self) -> Result<Option<Event>, SpillError> {
        match self {
            Sorted::Memory { directory, bytes, index } => {
                let Some(at) = index.next() else { return Ok(None) };
                let changed = || SpillError::Changed { path: directory.clone() };
                Event::decode(&framed(bytes, at)[4..]).ok_or_else(changed).map(Some)
            }
            Sorted::Runs { runs, heads } => {
                let Some(mut head) = heads.peek_mut() else { return Ok(None) };
                let run = head.0.run;
                let event = match runs[run].next()? {
                    Some(following) => {
                        let following = Head { order: following.order(), run, event: following };
                        std::mem::replace(&mut head.0, following).event
                    }
                    None => PeekMut::pop(head).0.event,
                };
                Ok(Some(event))
            }
        }
    }
}

/// Events that wait in line, each with a mark of its own. The middle of a long line is in a file.
pub struct Line {
    directory: PathBuf,
    blocks_in_memory: usize,
    block_bytes: usize,
    /// The event that leaves next.
    head: Option<(Event, u8)>,
    front: Vec<u8>,
    position: usize,
    middle: VecDeque<Block>,
    back: Vec<u8>,
    place: Option<Place>,
    /// Parts of the file that are free again, and its end.
    free: Vec<(u64, usize)>,
    end: u64,
}

enum Block {
    Memory(Vec<u8>),
    File { at: u64, length: usize, room: usize },
}

impl Line {
    pub fn new(directory: &Path) -> Line {
        Line::with_limits(directory, BLOCKS_IN_MEMORY, BLOCK_BYTES)
    }

    fn with_limits(directory: &Path, blocks_in_memory: usize, block_bytes: usize) -> Line {
        Line {
            directory: directory.to_owned(),
            blocks_in_memory,
            block_bytes,
            head: None,
            front: Vec::new(),
            position: 0,
            middle: VecDeque::new(),
            back: Vec::new(),
            place: None,
            free: Vec::new(),
            end: 0,
        }
    }

    pub fn push(&mut self, event: Event, mark: u8) -> Result<(), SpillError> {
        if self.head.is_none() {
            self.head = Some((event, mark));
            return Ok(());
        }
        self.back.push(mark);
        event.encode(&mut self.back);
        if self.back.len() < self.block_bytes {
            return Ok(());
        }
        let block = std::mem::take(&mut self.back);
        if self.middle.len() < self.blocks_in_memory {
            self.middle.push_back(Block::Memory(block));
            return Ok(());
        }
        let length = block.len();
        let fitting = self.free.iter().position(|(_, room)| *room >= length);
        let (at, room) = match fitting {
            Some(index) => self.free.swap_remove(index),
            None => {
                self.end += length as u64;
                (self.end - length as u64, length)
            }
        };
        let place = match &self.place {
            Some(place) => place,
            None => self.place.insert(Place::new(&self.directory)?),
        };
        place.write(&block, at)?;
        self.middle.push_back(Block::File { at, length, room });
        Ok(())
    }

    /// The time of the event that leaves next.
    pub fn front_ms(&self) -> Option<i64> {
        self.head.as_ref().map(|(event, _)| event.at_ms)
    }

    pub fn pop(&mut self) -> Result<Option<(Event, u8)>, SpillError> {
        let Some(leaving) = self.head.take() else { return Ok(None) };
        if self.position == self.front.len() {
            self.position = 0;
            self.front = match self.middle.pop_front() {
                None => std::mem::take(&mut self.back),
                Some(Block::Memory(bytes)) => bytes,
                Some(Block::File { at, length, room }) => {
                    let mut bytes = vec![0; length];
                    if let Some(place) = &self.place {
                        place.read(&mut bytes, at)?;
                    }
                    self.free.push((at, room));
                    bytes
                }
            };
        }
        if let Some(&mark) = self.front.get(self.position) {
            let event = framed(&self.front, self.position + 1);
            self.position += 1 + event.len();
            let changed = || SpillError::Changed { path: self.directory.clone() };
            self.head = Some((Event::decode(&event[4..]).ok_or_else(changed)?, mark));
        }
        Ok(Some(leaving))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(at_ms: i64, offset: i64, key_length: usize) -> Event {
        let key = "k".repeat(key_length);
        Event { at_ms, input: 0, partition: 0, offset, id: None, key, values: Vec::new() }
    }

    fn drained(mut sorted: Sorted) -> Vec<Event> {
        std::iter::from_fn(|| sorted.next().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn events_come_back_by_time_however_many_runs(
            events in prop::collection::vec((-50..50_i64, 0..300_usize), 0..200),
            limit in prop::sample::select(vec![1, 700, 5_000, usize::MAX]),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::with_limit(directory.path(), limit);
            let mut expected = Vec::new();
            for (offset, (at_ms, length)) in events.into_iter().enumerate() {
                let event = event(at_ms, offset as i64, length);
                sorter.push(&event).unwrap();
                expected.push(event);
            }
            expected.sort_by_key(Event::order);
            prop_assert_eq!(drained(sorter.finish().unwrap()), expected);
        }

        #[test]
        fn a_line_keeps_its_order_in_memory_and_in_its_file(
            steps in prop::collection::vec((any::<bool>(), 0..60_usize), 0..300), blocks in 0..3_usize,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut line = Line::with_limits(directory.path(), blocks, 100);
            let mut expected = VecDeque::new();
            for (number, (is_push, length)) in steps.into_iter().enumerate() {
                if is_push {
                    let event = event(number as i64, 0, length);
                    line.push(event.clone(), length as u8).unwrap();
                    expected.push_back((event, length as u8));
                } else {
                    prop_assert_eq!(line.pop().unwrap(), expected.pop_front());
                }
                prop_assert_eq!(line.front_ms(), expected.front().map(|(event, _)| event.at_ms));
            }
            while let Some(next) = expected.pop_front() {
                prop_assert_eq!(line.pop().unwrap(), Some(next));
            }
        }
    }

    #[test]
    fn a_record_longer_than_a_piece_is_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::with_limit(directory.path(), 300_000);
        for offset in 0..12 {
            sorter.push(&event(-offset, offset, 100_000)).unwrap();
        }
        let offsets: Vec<i64> = drained(sorter.finish().unwrap()).iter().map(|event| event.offset).collect();
        assert_eq!(offsets, (0..12).rev().collect::<Vec<_>>());
    }
}
