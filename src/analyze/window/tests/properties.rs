//! The engine against the recomputation, undisturbed and killed at random.

use super::{
    Added, Declaration, Engine, Flush, Join, Plan, Record, Source, Table, declaration,
    oracle::{Expected, Oracle},
};
use crate::analyze::window::Progress;
use proptest::prelude::*;

/// The clock of the tests. Events are far before it, or in the future by more than is allowed.
const NOW_MS: i64 = 1_000_000;
const FUTURE_MS: i64 = 10_000_000;

/// A partition's input and its records by offset.
type Log = (usize, Vec<(i64, Record)>);

#[derive(Debug, Clone)]
enum Step {
    /// So many records of this partition.
    Read(usize, usize),
    Flush {
        provisional: bool,
        then: Then,
    },
}

#[derive(Debug, Clone, Copy)]
enum Then {
    Commit,
    /// The commit fails, and the same flush is committed at the next one.
    Retry,
    DieBefore,
    DieAfter,
}

#[derive(Debug, Clone)]
struct Case {
    declaration: Declaration,
    logs: Vec<Log>,
    steps: Vec<Step>,
}

/// What a record is made from: key, gap to the one before, how far behind, id, user, emotes, score,
/// amount, whether it is a copy, and the gap in offsets.
type Seed = (u8, i64, i64, bool, u8, Vec<u8>, i64, Option<i64>, u8, i64);

fn seeds(most: usize) -> impl Strategy<Value = Vec<Seed>> {
    let seed = (
        0..4_u8,
        0..12_i64,
        0..100_i64,
        any::<bool>(),
        0..6_u8,
        prop::collection::vec(0..5_u8, 0..3),
        -10_000..=10_000_i64,
        prop::option::of(-20..20_i64),
        0..12_u8,
        0..3_i64,
    );
    prop::collection::vec(seed, 0..most)
}

/// `spread_ms`: how far behind the newest a record may come.
fn log(partition: usize, seeds: Vec<Seed>, spread_ms: i64, with_future: bool) -> Vec<(i64, Record)> {
    let (mut newest, mut offset) = (100, 0);
    let mut log: Vec<(i64, Record)> = Vec::new();
    for (index, (key, gap, back, has_id, user, emotes, score, amount, copy, skip)) in seeds.into_iter().enumerate() {
        newest += gap;
        offset += 1 + skip;
        let timestamp_ms = if copy == 11 && with_future { FUTURE_MS } else { newest - back * spread_ms / 100 };
        let mut record = Record {
            key: format!("k{key}"),
            timestamp_ms,
            id: has_id.then(|| format!("{partition}-{index}")),
            user: format!("u{user}"),
            emotes: emotes.iter().map(|emote| format!("e{emote}")).collect(),
            score,
            amount,
        };
        // A copy of a record shortly before: late if that is too long ago.
        if copy < 2 && log.len() > usize::from(copy) {
            let original = &log[log.len() - 1 - usize::from(copy)].1;
            if original.id.is_some() && original.timestamp_ms >= newest - spread_ms {
                record = original.clone();
            }
        }
        log.push((offset, record));
    }
    log
}

fn steps(partitions: usize, with_death: bool) -> impl Strategy<Value = Vec<Step>> {
    let then = match with_death {
        true => prop_oneof![4 => Just(Then::Commit), 1 => Just(Then::Retry), 2 => Just(Then::DieBefore), 2 => Just(Then::DieAfter)].boxed(),
        false => prop_oneof![3 => Just(Then::Commit), 1 => Just(Then::Retry)].boxed(),
    };
    let step = prop_oneof![
        3 => (0..partitions, 1..12_usize).prop_map(|(partition, count)| Step::Read(partition, count)),
        1 => (any::<bool>(), then).prop_map(|(provisional, then)| Step::Flush { provisional, then }),
    ];
    prop::collection::vec(step, 0..60)
}

/// `late` events come, or all of them within the delay.
fn case(partitions: usize, late: bool, with_death: bool) -> impl Strategy<Value = Case> {
    let window =
        (1..40_i64, 1..40_i64, 0..30_i64, 0..60_i64, any::<bool>(), prop::sample::select(vec![1, 7, 1_000_000]));
    let logs = prop::collection::vec(seeds(if partitions == 1 { 120 } else { 50 }), partitions..=partitions);
    (window, logs, steps(partitions, with_death)).prop_map(move |(window, logs, steps)| {
        let (size, slide, delay, lateness, is_full, limit) = window;
        let mut declaration = declaration(size.max(slide), size.min(slide));
        declaration.watermark_delay_ms = delay;
        declaration.allowed_lateness_ms = if lateness < 30 { 0 } else { lateness };
        declaration.join = if is_full { Join::Full } else { Join::Left };
        let mut spread_ms = delay;
        if late {
            spread_ms = 150;
        } else {
            // A flush may hold the watermark back, which shows only where events are late.
            declaration.flush_rows_limit = limit;
        }
        let logs = logs
            .into_iter()
            .enumerate()
            .map(|(partition, seeds)| (partition % 2, log(partition, seeds, spread_ms, true)))
            .collect();
        Case { declaration, logs, steps }
    })
}

struct Run<'a> {
    case: &'a Case,
    engine: Engine,
    sources: Vec<Source>,
    table: Table,
    stored: Option<Progress>,
    flush: Option<Flush>,
    /// The records in the order of reading, and what became of each.
    read: Vec<(usize, usize, Record)>,
    outcomes: Vec<Added>,
}

impl<'a> Run<'a> {
    fn new(case: &'a Case) -> Run<'a> {
        let plan = Plan::new(case.declaration.clone()).unwrap();
        let mut run = Run {
            case,
            engine: Engine::new(plan, None),
            sources: Vec::new(),
            table: Table::default(),
            stored: None,
            flush: None,
            read: Vec::new(),
            outcomes: Vec::new(),
        };
        run.start();
        run
    }

    fn start(&mut self) {
        self.engine = Engine::new(Plan::new(self.case.declaration.clone()).unwrap(), self.stored.clone());
        self.flush = None;
        let partitions = self.case.logs.iter().enumerate();
        self.sources = partitions.map(|(number, (input, _))| self.engine.partition(*input, number as i32, 0)).collect();
    }

    fn read(&mut self, partition: usize, count: usize) -> bool {
        let (input, log) = &self.case.logs[partition];
        let source = self.sources[partition];
        let position = self.engine.position(source);
        let ahead: Vec<_> = log.iter().filter(|(offset, _)| *offset >= position).take(count).collect();
        let stored = self.stored.iter().flat_map(|stored| &stored.partitions);
        let vouched = stored.filter(|stored| stored.partition as usize == partition).map(|stored| stored.next_offset);
        let vouched = vouched.max().unwrap_or(0);
        for (offset, record) in &ahead {
            // What is refused is a dead letter, which a restart knows.
            if record.timestamp_ms >= FUTURE_MS && *offset < vouched {
                assert!(!self.engine.skip(source, *offset, NOW_MS));
                continue;
            }
            let added = record.add_to(&mut self.engine, source, *input, *offset, NOW_MS);
            self.read.push((*input, partition, record.clone()));
            self.outcomes.push(added);
            assert_eq!(record.add_to(&mut self.engine, source, *input, *offset, NOW_MS), Added::Replayed);
        }
        !ahead.is_empty()
    }

    fn flush(&mut self, provisional: bool, then: Then) {
        if self.flush.is_none() {
            self.flush = self.engine.take_flush(provisional);
        }
        assert!(self.engine.take_flush(provisional).is_none(), "one flush at a time");
        let Some(flush) = &self.flush else { return };
        match then {
            Then::Retry => return,
            Then::DieBefore => return self.start(),
            Then::Commit | Then::DieAfter => {}
        }
        self.table.commit(flush);
        self.stored = Some(flush.progress.clone());
        self.flush = None;
        match then {
            Then::DieAfter => self.start(),
            _ => self.engine.flushed(),
        }
    }

    /// Reads everything, then lets the last windows close by the clock.
    fn finish(&mut self) {
        for turn in 0.. {
            let was_moving = (0..self.sources.len()).fold(false, |moving, index| self.read(index, 3) | moving);
            if turn % 5 == 4 {
                self.flush(turn % 2 == 0, Then::Commit);
            }
            if !was_moving {
                break;
            }
        }
        for now_ms in [NOW_MS, NOW_MS + 1_000, NOW_MS + 1_100] {
            for &source in &self.sources {
                let end = self.engine.position(source);
                self.engine.at_end(source, end + 1, now_ms);
            }
            self.engine.advance(now_ms);
        }
        self.flush(false, Then::Commit);
        while self.engine.wants_flush() {
            self.flush(false, Then::Commit);
        }
        self.flush(true, Then::Commit);
    }

    fn all(mut self) -> Run<'a> {
        for step in &self.case.steps {
            match *step {
                Step::Read(partition, count) => {
                    self.read(partition, count);
                }
                Step::Flush { provisional, then } => self.flush(provisional, then),
            }
        }
        self.finish();
        self
    }

    fn check_rows(&self, expected: &Expected) -> Result<(), TestCaseError> {
        prop_assert!(self.table.rows.values().all(|row| row.is_final), "every window closes");
        let rows: std::collections::BTreeMap<_, _> =
            self.table.rows.iter().map(|(place, row)| (place.clone(), row.values.clone())).collect();
        prop_assert_eq!(&rows, &expected.rows);
        prop_assert_eq!(self.engine.open_panes(), 0);
        prop_assert_eq!(self.engine.keys(), 0);
        Ok(())
    }
}

fn oracle<'a>(case: &'a Case, records: Vec<(usize, usize, Record)>) -> Oracle<'a> {
    Oracle { declaration: &case.declaration, records, partitions: case.logs.len(), future_from_ms: FUTURE_MS }
}

/// The records partition by partition: the order does not matter where none is late.
fn in_log_order(case: &Case) -> Vec<(usize, usize, Record)> {
    let partitions = case.logs.iter().enumerate();
    partitions
        .flat_map(|(partition, (input, log))| log.iter().map(move |(_, record)| (*input, partition, record.clone())))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(600)))]

    #[test]
    fn any_interleaving_and_any_flushes_equal_the_recomputation(case in case(3, true, false)) {
        let run = Run::new(&case).all();
        let expected = oracle(&case, run.read.clone()).expected();
        prop_assert_eq!(&run.outcomes, &expected.outcomes);
        run.check_rows(&expected)?;
        prop_assert_eq!(&run.table.late, &expected.late);
        prop_assert!(run.table.newly_final.values().all(|&times| times == 1));
    }

    #[test]
    fn a_killed_engine_ends_with_the_rows_of_an_undisturbed_one(case in case(4, false, true)) {
        let run = Run::new(&case).all();
        let mut declaration = case.declaration.clone();
        // In the recomputation nothing may close between one partition and the next.
        declaration.allowed_lateness_ms = 1 << 30;
        let expected = Oracle { declaration: &declaration, ..oracle(&case, in_log_order(&case)) }.expected();
        run.check_rows(&expected)?;
        prop_assert!(run.table.late.is_empty());
    }

    #[test]
    fn late_events_too_are_counted_once_however_often_it_is_killed(case in case(1, true, true)) {
        let run = Run::new(&case).all();
        let expected = oracle(&case, in_log_order(&case)).expected();
        run.check_rows(&expected)?;
        prop_assert_eq!(&run.table.late, &expected.late);
    }
}
