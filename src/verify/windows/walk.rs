//! The recomputed windows and those of the table, side by side in the order of time.

use super::{
    WindowsError,
    compare::{Comparison, Stored},
    recompute::Window,
    report::Findings,
    spec::Spec,
    tables::Tables,
};
use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
};
use tokio::runtime::Handle;

/// About so many recomputed rows are compared by one question to the table.
const CHUNK_ROWS: usize = 50_000;

pub struct Walk<'a> {
    pub comparison: Comparison<'a>,
    pub tables: &'a Tables<'a>,
    pub runtime: &'a Handle,
    /// Late events by window and input.
    pub late: &'a BTreeMap<i64, Vec<i64>>,
    /// The last window that is over.
    pub last: i64,
    /// The first one that was not compared yet.
    next: i64,
    chunk: VecDeque<Window>,
    chunk_rows: usize,
    /// Windows that begin before are beyond the retention by now.
    kept_from_ms: &'a dyn Fn() -> i64,
}

impl<'a> Walk<'a> {
    pub fn new(
        comparison: Comparison<'a>,
        tables: &'a Tables<'a>,
        runtime: &'a Handle,
        late: &'a BTreeMap<i64, Vec<i64>>,
        (first, last): (i64, i64),
        kept_from_ms: &'a dyn Fn() -> i64,
    ) -> Walk<'a> {
        let (chunk, chunk_rows) = (VecDeque::new(), 0);
        Walk { comparison, tables, runtime, late, last, next: first, chunk, chunk_rows, kept_from_ms }
    }

    /// Takes the windows by their order.
    pub fn window(&mut self, window: Window, findings: &mut Findings) -> Result<(), WindowsError> {
        if window.number > self.last {
            findings.counts.pending_windows += 1;
            return Ok(());
        }
        self.chunk_rows += 1 + window.rows.len();
        let number = window.number;
        self.chunk.push_back(window);
        if self.chunk_rows >= CHUNK_ROWS { self.compare_until(number, findings) } else { Ok(()) }
    }

    pub fn finish(&mut self, findings: &mut Findings) -> Result<(), WindowsError> {
        self.compare_until(self.last, findings)
    }

    /// Compares what the table and the recomputation have up to a window.
    fn compare_until(&mut self, until: i64, findings: &mut Findings) -> Result<(), WindowsError> {
        if until < self.next {
            return Ok(());
        }
        let spec: &Spec = self.comparison.spec;
        let kept_from_ms = Cell::new(i64::MIN);
        let mut pairs = Pairs {
            comparison: &self.comparison,
            late: self.late,
            chunk: &mut self.chunk,
            next: self.next,
            group: Vec::new(),
            group_number: self.next,
            kept_from_ms: &kept_from_ms,
            findings,
        };
        let begun = || kept_from_ms.set((self.kept_from_ms)());
        let rows = self.tables.rows(spec.start_ms(self.next), spec.start_ms(until + 1), begun, |row| pairs.row(row));
        self.runtime.block_on(rows)?;
        pairs.finish(until);
        self.next = until + 1;
        self.chunk_rows = 0;
        Ok(())
    }
}

/// A stretch of time on both sides.
struct Pairs<'w, 'a> {
    comparison: &'w Comparison<'a>,
    late: &'w BTreeMap<i64, Vec<i64>>,
    chunk: &'w mut VecDeque<Window>,
    next: i64,
    /// Rows of the table of one window.
    group: Vec<Stored>,
    group_number: i64,
    kept_from_ms: &'w Cell<i64>,
    findings: &'w mut Findings,
}

impl Pairs<'_, '_> {
    /// Rows come by their time.
    fn row(&mut self, row: Stored) {
        let number = row.start_us.div_euclid(self.comparison.spec.slide_ms * 1_000);
        if number != self.group_number {
            self.end_group();
            self.group_number = number;
        }
        self.group.push(row);
    }

    fn finish(&mut self, until: i64) {
        self.end_group();
        self.without_rows(until + 1);
    }

    fn end_group(&mut self) {
        if self.group.is_empty() {
            return;
        }
        self.without_rows(self.group_number);
        let rows = std::mem::take(&mut self.group);
        let window = self.take(self.group_number);
        self.compare(self.group_number, window, rows);
        self.next = self.group_number + 1;
    }

    /// Windows before `until` that the table has no row of.
    fn without_rows(&mut self, until: i64) {
        while self.next < until {
            let recomputed = self.chunk.front().map(|window| window.number);
            let listed = self.late.range(self.next..until).next().map(|(number, _)| *number);
            let number = match (recomputed, listed) {
                (Some(one), Some(other)) => one.min(other),
                (Some(number), None) | (None, Some(number)) => number,
                (None, None) => break,
            };
            if number >= until {
                break;
            }
            let window = self.take(number);
            // A window of keys without rows only has nothing to compare.
            if listed == Some(number) || window.as_ref().is_some_and(|window| !window.rows.is_empty()) {
                self.compare(number, window, Vec::new());
            }
            self.next = number + 1;
        }
        self.next = self.next.max(until);
    }

    fn take(&mut self, number: i64) -> Option<Window> {
        let is_next = self.chunk.front().is_some_and(|window| window.number == number);
        is_next.then(|| self.chunk.pop_front()).flatten()
    }

    fn compare(&mut self, number: i64, window: Option<Window>, rows: Vec<Stored>) {
        let spec = self.comparison.spec;
        if spec.start_ms(number) < self.kept_from_ms.get() {
            return;
        }
        let none = vec![0; spec.inputs()];
        let listed = self.late.get(&number).unwrap_or(&none);
        self.comparison.window(number, window.as_ref(), rows, listed, self.findings);
    }
}
