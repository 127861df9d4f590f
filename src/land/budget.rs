//! The memory of open batches, shared by all tables of a pipeline.

use std::sync::{Mutex, PoisonError};

/// Past its limit the table with the largest batch commits it early, and the others wait for that.
pub struct Budget {
    limit: usize,
    tables: Mutex<Vec<Usage>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    total: usize,
    largest: usize,
}

/// What a table is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    GoOn,
    /// Commit the largest batch now.
    CommitLargest,
    /// Read no further: another table has the largest batch, and is about to commit it.
    Wait,
}

impl Budget {
    pub fn new(limit: usize, tables: usize) -> Self {
        Budget { limit, tables: Mutex::new(vec![Usage::default(); tables]) }
    }

    /// Notes what `table` holds: all of its batches, and the largest of them.
    pub fn report(&self, table: usize, total: usize, largest: usize) -> (usize, Advice) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = tables.get_mut(table) {
            *usage = Usage { total, largest };
        }
        let held: usize = tables.iter().map(|usage| usage.total).sum();
        (held, advise(self.limit, held, largest, tables.iter().map(|usage| usage.largest).max().unwrap_or(0)))
    }
}

impl Budget {
    /// `table` holds nothing any more.
    pub fn release(&self, table: usize) {
        self.report(table, 0, 0);
    }
}

fn advise(limit: usize, held: usize, own_largest: usize, largest: usize) -> Advice {
    if held <= limit {
        Advice::GoOn
    } else if own_largest >= largest {
        Advice::CommitLargest
    } else {
        Advice::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_commits_and_the_others_wait() {
        let budget = Budget::new(100, 2);
        assert_eq!(budget.report(0, 60, 30), (60, Advice::GoOn));
        assert_eq!(budget.report(1, 50, 50), (110, Advice::CommitLargest));
        assert_eq!(budget.report(0, 60, 30), (110, Advice::Wait));
        assert_eq!(budget.report(1, 0, 0), (60, Advice::GoOn));
        assert_eq!(budget.report(0, 101, 1), (101, Advice::CommitLargest));
        budget.release(0);
        assert_eq!(budget.report(1, 5, 5), (5, Advice::GoOn));
    }
}
