//! Which of several records with one id counts.
//!
//! The stage drops an event whose id an open window already holds. So of copies that are close enough
//! in time one counts, and it is the one that was read first: within a partition that of the lower
//! offset. Where copies differ in their time, or stand in different partitions, the topic alone does
//! not tell for sure which one it was, or whether the first window was still open; such events are
//! marked, and the rows they may be in are compared less strictly.

use super::{event::Event, spec::Spec, spill::Line};
use crate::verify::entry::SpillError;
use std::{collections::HashMap, path::Path};

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Counted,
    /// Perhaps a copy of it was counted instead.
    CountedPerhaps,
    Copy,
    /// Perhaps it was counted instead, or as well.
    CopyPerhaps,
}

impl Fate {
    pub fn is_counted(self) -> bool {
        matches!(self, Fate::Counted | Fate::CountedPerhaps)
    }

    pub fn is_certain(self) -> bool {
        matches!(self, Fate::Counted | Fate::Copy)
    }

    pub fn of(is_counted: bool, is_certain: bool) -> Fate {
        match (is_counted, is_certain) {
            (true, true) => Fate::Counted,
            (true, false) => Fate::CountedPerhaps,
            (false, true) => Fate::Copy,
            (false, false) => Fate::CopyPerhaps,
        }
    }
}

/// The copy of an id that counts, as far as is known.
struct Kept {
    number: u64,
    pane: i64,
    partition: i32,
    offset: i64,
    content: u64,
}

/// Holds events back until no copy can follow.
pub struct Copies {
    copies_ms: i64,
    pane_ms: i64,
    line: Line,
    pushed: u64,
    popped: u64,
    kept: HashMap<(u16, u64), Kept>,
    /// Of the waiting events that are not simply counted.
    fates: HashMap<u64, Fate>,
}

impl Copies {
    pub fn new(spec: &Spec, directory: &Path) -> Copies {
        Copies {
            copies_ms: spec.copies_ms(),
            pane_ms: spec.pane_ms(),
            line: Line::new(directory),
            pushed: 0,
            popped: 0,
            kept: HashMap::new(),
            fates: HashMap::new(),
        }
    }

    /// Takes an event, none of which is older than the one before.
    pub fn push(&mut self, event: Event) -> Result<(), SpillError> {
        let number = self.pushed;
        self.pushed += 1;
        if let Some(id) = event.id {
            let kept = Kept {
                number,
                pane: event.at_ms.div_euclid(self.pane_ms),
                partition: event.partition,
                offset: event.offset,
                content: event.content(),
            };
            self.decide((event.input, id), kept);
        }
        self.line.push(event, 0)
    }

    fn decide(&mut self, id: (u16, u64), new: Kept) {
        let Some(known) = self.kept.get(&id) else {
            self.kept.insert(id, new);
            return;
        };
        let is_same_partition = known.partition == new.partition;
        let is_certain = known.content == new.content || (known.pane == new.pane && is_same_partition);
        let is_new_first = is_same_partition && new.offset < known.offset;
        let (winner, loser) = if is_new_first { (new.number, known.number) } else { (known.number, new.number) };
        let was_certain = self.fates.get(&winner).is_none_or(|fate| fate.is_certain());
        self.fates.insert(winner, Fate::of(true, was_certain && is_certain));
        let was_certain = self.fates.get(&loser).is_none_or(|fate| fate.is_certain());
        self.fates.insert(loser, Fate::of(false, was_certain && is_certain));
        if is_new_first {
            self.kept.insert(id, new);
        }
    }

    /// The next event that no event of `now_ms` or later can be a copy of.
    pub fn pop_before(&mut self, now_ms: i64) -> Result<Option<(Event, Fate)>, SpillError> {
        match self.line.front_ms() {
            Some(at_ms) if at_ms.saturating_add(self.copies_ms) < now_ms => {}
            _ => return Ok(None),
        }
        let Some((event, _)) = self.line.pop()? else { return Ok(None) };
        let number = self.popped;
        self.popped += 1;
        if let Some(id) = event.id {
            let id = (event.input, id);
            if self.kept.get(&id).is_some_and(|kept| kept.number == number) {
                self.kept.remove(&id);
            }
        }
        Ok(Some((event, self.fates.remove(&number).unwrap_or(Fate::Counted))))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::spec::tests::job, *};
    use crate::config::model::Function;

    /// Events as (time in s, partition, offset, id), given back with their fates.
    fn fates(events: &[(i64, i32, i64, u64)]) -> Vec<Fate> {
        let spec = Spec::new(&job(&[(0, Function::Count)]));
        let mut copies = Copies::new(&spec, Path::new("/nowhere"));
        let mut found = Vec::new();
        for (second, partition, offset, id) in events {
            let (at_ms, id) = (second * 1_000, Some(*id).filter(|id| *id > 0));
            while let Some((_, fate)) = copies.pop_before(at_ms).unwrap() {
                found.push(fate);
            }
            let (partition, offset) = (*partition, *offset);
            let (key, values) = ("s1".to_owned(), Vec::new());
            copies.push(Event { at_ms, input: 0, partition, offset, id, key, values }).unwrap();
        }
        while let Some((_, fate)) = copies.pop_before(i64::MAX).unwrap() {
            found.push(fate);
        }
        assert!(copies.kept.is_empty() && copies.fates.is_empty());
        found
    }

    #[test]
    fn one_of_equal_copies_counts() {
        use Fate::{Copy, Counted};
        assert_eq!(fates(&[(1, 0, 1, 7), (1, 0, 2, 7), (1, 0, 3, 8)]), [Counted, Copy, Counted]);
        assert_eq!(fates(&[(1, 0, 9, 7), (1, 1, 2, 7)]), [Counted, Copy], "in two partitions");
        assert_eq!(fates(&[(1, 0, 1, 0), (1, 0, 2, 0)]), [Counted, Counted], "without ids");
        assert_eq!(fates(&[(1, 0, 1, 7), (72, 0, 2, 7)]), [Counted, Counted], "too far apart");
    }

    #[test]
    fn of_copies_with_other_times_the_first_one_read_counts_perhaps() {
        use Fate::{Copy, CopyPerhaps, Counted, CountedPerhaps};
        assert_eq!(fates(&[(1, 0, 1, 7), (2, 0, 2, 7)]), [Counted, Copy], "in one pane");
        assert_eq!(fates(&[(1, 0, 2, 7), (2, 0, 1, 7)]), [Copy, Counted]);
        assert_eq!(fates(&[(1, 0, 1, 7), (2, 1, 1, 7)]), [CountedPerhaps, CopyPerhaps]);
        assert_eq!(fates(&[(1, 0, 1, 7), (60, 0, 2, 7)]), [CountedPerhaps, CopyPerhaps]);
        assert_eq!(fates(&[(1, 0, 2, 7), (60, 0, 1, 7)]), [CopyPerhaps, CountedPerhaps]);
        let three = [(1, 0, 1, 7), (1, 0, 2, 7), (30, 0, 3, 7)];
        assert_eq!(fates(&three), [CountedPerhaps, Copy, CopyPerhaps]);
    }
}
