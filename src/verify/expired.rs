//! What `expire` dropped, by its own note: nothing else tells a row that went from one that never came.
//!
//! The note says how many rows went of which date, and up to which offsets. So many rows of that date, and no more,
//! may be missing; what lies beyond those offsets came later and may not. Of what an older program dropped the note
//! has the sum alone: that many rows of all dates before the latest that it names.

use super::{canon::Kind, logs::Logs, source_plan};
use crate::lake::upkeep::{Dropped, Tally, Went};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};

/// Rows that may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Allowance {
    /// For people: the date, or what of it is known.
    name: String,
    rows: u64,
    /// The allowance that covers what is missing beyond this one.
    rest: Option<usize>,
}

/// Of the table, or of its dead letters.
#[derive(Debug, Clone, Default)]
struct Side {
    before: Option<String>,
    dates: BTreeMap<String, (usize, Went)>,
    /// For dates before `before` of which the note has no more than the sum.
    pool: Option<usize>,
}

#[derive(Debug, Clone, Default)]
pub struct Expired {
    allowances: Vec<Allowance>,
    table: Side,
    dead_letters: Side,
    date_column: String,
    logs: Logs,
}

/// What missing rows of dropped dates came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Excused {
    pub expired: u64,
    /// More than went, by the name of their allowance.
    pub excess: BTreeMap<String, u64>,
}

/// A record's place.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
}

impl Expired {
    pub fn new(dropped: &Dropped, date_column: &str, logs: Logs) -> Expired {
        let mut expired = Expired { date_column: date_column.to_owned(), logs, ..Expired::default() };
        expired.table = expired.side(&dropped.table, "rows");
        expired.dead_letters = expired.side(&dropped.dead_letters, "dead letters");
        expired
    }

    fn side(&mut self, tally: &Tally, what: &str) -> Side {
        let mut side = Side { before: tally.before.clone(), ..Side::default() };
        let mut add = |name, rows, rest| {
            self.allowances.push(Allowance { name, rows, rest });
            self.allowances.len() - 1
        };
        let dated: u64 = tally.dates.values().map(|went| went.rows).sum();
        if let (Some(before), rest @ 1..) = (&tally.before, tally.rows.saturating_sub(dated)) {
            side.pool = Some(add(format!("{what} of dates before {before}"), rest, None));
        }
        for (date, went) in &tally.dates {
            let index = add(format!("{what} of {date}"), went.rows, side.pool);
            side.dates.insert(date.clone(), (index, went.clone()));
        }
        side
    }

    /// The allowance of a row of this day, and of the record at a place where there is one; 0 is none.
    fn of(&self, side: &Side, day: Option<&str>, at: Option<At>) -> u32 {
        let Some(day) = day else { return 0 };
        let pool = side.pool.filter(|_| side.before.as_deref().is_some_and(|before| day < before));
        let index = match side.dates.get(day) {
            Some((index, went)) if at.is_none_or(|at| self.went(went, at)) => Some(*index),
            _ => pool,
        };
        index.map_or(0, |index| index as u32 + 1)
    }

    fn went(&self, went: &Went, at: At) -> bool {
        went.to.get(&at.partition).is_some_and(|(generation, last)| {
            at.offset <= *last && at.offset < self.logs.common(at.partition, *generation).to
        })
    }

    /// The allowance of a row of the source; 0 is none.
    pub fn of_row(&self, day: Option<&str>) -> u32 {
        self.of(&self.table, day, None)
    }

    /// The allowance of a record's row or dead letter; 0 is none. `day` is that of its row, where the lake still has
    /// a file that tells the type of the date column. `may_be_letter` says whether it may have been refused: no letter
    /// that went explains the loss of a row.
    pub fn of_record(
        &self,
        day: Option<&str>,
        fields: Option<&Map<String, Value>>,
        at: At,
        may_be_letter: impl FnOnce() -> bool,
    ) -> u32 {
        if self.allowances.is_empty() {
            return 0;
        }
        let said = || {
            let value = fields?.get(&self.date_column)?;
            [Kind::Timestamp(None), Kind::Date].iter().find_map(|kind| {
                let mut canonical = Vec::new();
                super::canon::from_json(kind, value, &mut canonical);
                source_plan::day_of(kind, &canonical)
            })
        };
        match self.of(&self.table, day.map(str::to_owned).or_else(said).as_deref(), Some(at)) {
            0 => match self.of_letter(at) {
                0 => 0,
                allowance => {
                    if may_be_letter() {
                        allowance
                    } else {
                        0
                    }
                }
            },
            allowance => allowance,
        }
    }

    /// The allowance of a record that can only be a dead letter.
    fn of_letter(&self, at: At) -> u32 {
        let day = at.timestamp_ms.and_then(|ms| super::clock::day_name(ms.saturating_mul(1_000)));
        self.of(&self.dead_letters, day.as_deref(), Some(at))
    }

    /// How many of the missing rows, counted by their allowance, have expired.
    pub fn excuse(&self, missing: &HashMap<u32, u64>) -> Excused {
        let mut missing: Vec<u64> = (1..=self.allowances.len() as u32)
            .map(|allowance| missing.get(&allowance).copied().unwrap_or_default())
            .collect();
        let mut excused = Excused::default();
        // Pools stand before what leads to them.
        for (index, allowance) in self.allowances.iter().enumerate().rev() {
            let expired = missing[index].min(allowance.rows);
            let excess = missing[index] - expired;
            excused.expired += expired;
            match allowance.rest {
                Some(rest) => missing[rest] += excess,
                None if excess > 0 => drop(excused.excess.insert(allowance.name.clone(), excess)),
                None => {}
            }
        }
        excused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::reader::FileName;

    fn went(rows: u64, partition: i32, last: i64) -> Went {
        let mut went = Went::default();
        went.add(&FileName::parse(&format!("part-t-{partition}-0-{last}-0.parquet")).unwrap(), rows);
        went
    }

    fn at(partition: i32, offset: i64) -> At {
        At { partition, offset, timestamp_ms: Some(1_736_943_840_000) }
    }

    fn expired(rows: u64, dates: &[(&str, Went)]) -> Expired {
        let dates = dates.iter().map(|(date, went)| ((*date).to_owned(), went.clone())).collect();
        let table = Tally { before: Some("2025-02-01".to_owned()), rows, dates };
        let dead_letters = Tally { before: Some("2025-02-01".to_owned()), rows: 2, dates: BTreeMap::new() };
        Expired::new(&Dropped { table, dead_letters }, "at", Logs::default())
    }

    #[test]
    fn one_date_does_not_excuse_another() {
        let expired = expired(12, &[("2025-01-15", went(5, 0, 9)), ("2025-01-16", went(7, 0, 9))]);
        let of = |day, offset| expired.of_record(Some(day), None, At { timestamp_ms: None, ..at(0, offset) }, || true);
        let (one, other) = (of("2025-01-15", 3), of("2025-01-16", 3));
        assert!(one != 0 && other != 0 && one != other);
        assert_eq!([of("2025-01-17", 3), of("2025-01-15", 10), of("2025-02-01", 3)], [0; 3], "none of them went");
        assert_eq!(expired.of_row(Some("2025-01-15")), one);
        let counted = expired.excuse(&HashMap::from([(one, 6), (other, 2)]));
        assert_eq!(counted.expired, 7);
        assert_eq!(counted.excess, BTreeMap::from([("rows of 2025-01-15".to_owned(), 1)]));
    }

    #[test]
    fn what_an_older_program_dropped_is_a_sum_for_all_dates() {
        let expired = expired(12, &[("2025-01-15", went(5, 0, 9))]);
        let dated = expired.of_row(Some("2025-01-15"));
        let pooled = expired.of_row(Some("2024-12-01"));
        assert!(dated != 0 && pooled != 0 && dated != pooled);
        assert_eq!(expired.of_row(Some("2025-02-01")), 0);
        assert_eq!(expired.excuse(&HashMap::from([(dated, 6), (pooled, 6)])).excess, BTreeMap::new());
        let more = expired.excuse(&HashMap::from([(dated, 7), (pooled, 6)]));
        assert_eq!((more.expired, more.excess.values().sum::<u64>()), (12, 1));
        // A dead letter has the day of its record.
        assert_ne!(expired.of_record(None, None, at(0, 3), || true), 0);
        assert_eq!(expired.of_record(None, None, at(0, 3), || false), 0, "a row, which must be somewhere");
        assert_eq!(expired.of_record(None, None, At { timestamp_ms: None, ..at(0, 3) }, || true), 0);
    }
}
