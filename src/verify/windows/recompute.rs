//! Windows over events that come in the order of their time: each is counted in when it comes and out
//! when the window has moved past it. There is no watermark here and nothing is late.

use super::{
    copies::Fate,
    event::{Event, Value},
    spec::Spec,
    spill::Line,
};
use crate::{config::model::Function, verify::entry::SpillError};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A value of a row, of the table or recomputed.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Integer(i64),
    Float(f64),
    List(Vec<String>),
    Counts(BTreeMap<String, i64>),
}

/// How well the stage can know a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Exact,
    /// So many different values that the stage may estimate them.
    Estimated,
    /// So many different values that the stage does not keep all.
    Limited,
}

/// A row as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub key: Arc<str>,
    /// False where it is there only if an event counted that probably did not.
    pub is_expected: bool,
    /// Events by input, and how many of them, or beside them, are not certain.
    pub events: Vec<u64>,
    pub uncertain: Vec<u64>,
    pub cells: Vec<(Cell, Precision)>,
    /// A value had to be cut or clamped.
    pub is_inexact: bool,
}

/// All keys of a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    pub number: i64,
    /// By key.
    pub rows: Vec<Row>,
    /// Copies of counted events, by input.
    pub copies: Vec<u64>,
    /// Events by input of the keys that have no row.
    pub outside: Vec<u64>,
}

/// Values of a sum are clamped to this.
const SUM_LIMIT: f64 = 9.3e18;
const SUM_STEPS: i128 = 1_000_000_000;
/// A score of 0.05, in steps.
const POSITIVE_STEPS: i32 = 500;

/// What a key has in the window, of one column.
enum State {
    Nothing,
    Sum {
        steps: i128,
        values: u64,
    },
    /// Numbers by [`sortable`], each as often as it is there.
    Numbers(BTreeMap<u64, u64>),
    Different(HashMap<u64, u64>),
    Tally(HashMap<String, u64>),
    Scores {
        steps: i64,
        values: u64,
        positive: u64,
        negative: u64,
    },
}

struct Key {
    events: Vec<u64>,
    uncertain: Vec<u64>,
    inexact: u64,
    states: Vec<State>,
}

/// Keeps the events of one window's span, the oldest of them perhaps in a file, and what they add up to.
pub struct Recompute<'a> {
    spec: &'a Spec,
    /// Windows before are passed over.
    first: i64,
    /// Windows after are given without rows.
    last: i64,
    keys: HashMap<Arc<str>, Key>,
    copies: Vec<u64>,
    span: Line,
    next: i64,
}

impl<'a> Recompute<'a> {
    pub fn new(spec: &'a Spec, first: i64, last: i64, directory: &Path) -> Recompute<'a> {
        Recompute {
            spec,
            first,
            last,
            keys: HashMap::new(),
            copies: vec![0; spec.inputs()],
            span: Line::new(directory),
            next: first,
        }
    }

    /// Takes an event, none of which is older than the one before. The windows that it ends are given.
    pub fn push<E: From<SpillError>>(
        &mut self,
        event: Event,
        fate: Fate,
        give: &mut impl FnMut(Window) -> Result<(), E>,
    ) -> Result<(), E> {
        self.advance(event.at_ms, give)?;
        if event.at_ms >= self.spec.start_ms(self.first) {
            self.count(&event, fate, true);
            self.span.push(event, fate as u8)?;
        }
        Ok(())
    }

    /// After the last event.
    pub fn finish<E: From<SpillError>>(&mut self, give: &mut impl FnMut(Window) -> Result<(), E>) -> Result<(), E> {
        self.advance(i64::MAX, give)
    }

    /// All events before `to_ms` have come.
    fn advance<E: From<SpillError>>(
        &mut self,
        to_ms: i64,
        give: &mut impl FnMut(Window) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(oldest_ms) = self.span.front_ms() {
            let window = self.next.max(self.spec.first_window_at(oldest_ms));
            if self.spec.end_ms(window) > to_ms {
                break;
            }
            self.next = window + 1;
            while self.span.front_ms().is_some_and(|at_ms| at_ms < self.spec.start_ms(window)) {
                if let Some((event, mark)) = self.span.pop()? {
                    self.count(&event, fate_of(mark), false);
                }
            }
            if self.span.front_ms().is_some() {
                give(self.window(window))?;
            }
        }
        Ok(())
    }

    fn count(&mut self, event: &Event, fate: Fate, is_in: bool) {
        let input = usize::from(event.input);
        if !fate.is_counted() {
            change(&mut self.copies[input], is_in);
            if fate.is_certain() {
                return;
            }
        }
        if !self.keys.contains_key(event.key.as_str()) {
            self.keys.insert(event.key.as_str().into(), Key::new(self.spec));
        }
        let Some(key) = self.keys.get_mut(event.key.as_str()) else { return };
        if !fate.is_certain() {
            change(&mut key.uncertain[input], is_in);
        }
        if fate.is_counted() {
            change(&mut key.events[input], is_in);
            for (column, state) in self.spec.columns.iter().zip(&mut key.states) {
                if column.input == input
                    && let Some(value) = event.values.get(column.field)
                    && state.count(value, is_in)
                {
                    change(&mut key.inexact, is_in);
                }
            }
        }
        if !is_in && key.events.iter().chain(&key.uncertain).all(|count| *count == 0) {
            self.keys.remove(event.key.as_str());
        }
    }

    fn window(&self, number: i64) -> Window {
        let (copies, mut outside) = (self.copies.clone(), vec![0; self.spec.inputs()]);
        let mut rows = Vec::new();
        if number <= self.last {
            for (name, key) in &self.keys {
                let is_expected = self.spec.has_row(&key.events);
                let with_uncertain: Vec<u64> = key.events.iter().zip(&key.uncertain).map(|(a, b)| a + b).collect();
                if is_expected || self.spec.has_row(&with_uncertain) {
                    rows.push(self.row(name.clone(), key, is_expected));
                } else {
                    outside.iter_mut().zip(&key.events).for_each(|(sum, count)| *sum += count);
                }
            }
            rows.sort_by(|one, other| one.key.cmp(&other.key));
        }
        Window { number, rows, copies, outside }
    }

    fn row(&self, name: Arc<str>, key: &Key, is_expected: bool) -> Row {
        let states = self.spec.columns.iter().zip(&key.states);
        let cells = states.map(|(column, state)| {
            let cell = state.cell(&column.function, key.events[column.input], self.spec);
            (cell, state.precision(self.spec))
        });
        Row {
            key: name,
            is_expected,
            cells: cells.collect(),
            events: key.events.clone(),
            uncertain: key.uncertain.clone(),
            is_inexact: key.inexact > 0,
        }
    }
}

fn fate_of(mark: u8) -> Fate {
    let all = [Fate::Counted, Fate::CountedPerhaps, Fate::Copy, Fate::CopyPerhaps];
    all.into_iter().find(|fate| *fate as u8 == mark).unwrap_or(Fate::Counted)
}

fn change(count: &mut u64, is_in: bool) {
    *count = if is_in { *count + 1 } else { count.saturating_sub(1) };
}

fn change_entry<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u64>, value: K, is_in: bool) {
    if is_in {
        *counts.entry(value).or_default() += 1;
    } else if let Some(count) = counts.get_mut(&value) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&value);
        }
    }
}

impl Key {
    fn new(spec: &Spec) -> Key {
        let zeros = vec![0; spec.inputs()];
        let states = spec.columns.iter().map(|column| State::new(&column.function)).collect();
        Key { events: zeros.clone(), uncertain: zeros, inexact: 0, states }
    }
}

impl State {
    fn new(function: &Function) -> State {
        match function {
            Function::Count | Function::Rate => State::Nothing,
            Function::Sum { .. } | Function::Avg { .. } => State::Sum { steps: 0, values: 0 },
            Function::Min { .. } | Function::Max { .. } => State::Numbers(BTreeMap::new()),
            Function::Distinct { .. } => State::Different(HashMap::new()),
            Function::TopK { .. } | Function::Counts { .. } => State::Tally(HashMap::new()),
            Function::SentimentAvg { .. } | Function::SentimentPositive { .. } | Function::SentimentNegative { .. } => {
                State::Scores { steps: 0, values: 0, positive: 0, negative: 0 }
            }
        }
    }

    /// Counts a value in or out. True where it is not counted as it is.
    fn count(&mut self, value: &Value, is_in: bool) -> bool {
        let sign = if is_in { 1 } else { -1 };
        match self {
            State::Nothing => false,
            State::Sum { steps, values } => {
                let Some((fixed, is_clamped)) = fixed(value) else { return false };
                *steps += fixed * i128::from(sign);
                change(values, is_in);
                is_clamped
            }
            State::Numbers(numbers) => {
                let number = match value {
                    Value::Integer(value) => *value as f64,
                    Value::Float(value) => *value,
                    _ => return false,
                };
                let count = numbers.entry(sortable(number)).or_default();
                change(count, is_in);
                if *count == 0 {
                    numbers.remove(&sortable(number));
                }
                false
            }
            State::Different(values) => {
                for hash in hashes(value) {
                    change_entry(values, hash, is_in);
                }
                false
            }
            State::Tally(counts) => {
                match value {
                    Value::Texts(texts) => {
                        texts.iter().for_each(|text| change_entry(counts, text.shown.clone(), is_in));
                        return texts.iter().any(|text| text.is_cut);
                    }
                    Value::Integer(value) => change_entry(counts, value.to_string(), is_in),
                    Value::Float(value) => change_entry(counts, value.to_string(), is_in),
                    _ => {}
                }
                false
            }
            State::Scores { steps, values, positive, negative } => {
                let Value::Score(score) = value else { return false };
                *steps += i64::from(*score) * sign;
                change(values, is_in);
                if *score >= POSITIVE_STEPS {
                    change(positive, is_in);
                }
                if *score <= -POSITIVE_STEPS {
                    change(negative, is_in);
                }
                false
            }
        }
    }

    fn precision(&self, spec: &Spec) -> Precision {
        match self {
            State::Different(values) if values.len() > spec.distinct_exact_limit => Precision::Estimated,
            State::Tally(counts) if counts.len() > spec.counts_limit => Precision::Limited,
            _ => Precision::Exact,
        }
    }

    fn cell(&self, function: &Function, events: u64, spec: &Spec) -> Cell {
        let mean = |sum: f64, values: u64| if values == 0 { Cell::Null } else { Cell::Float(sum / values as f64) };
        match (self, function) {
            (State::Sum { values: 0, .. }, _) => Cell::Null,
            (State::Sum { steps, .. }, Function::Sum { .. }) => Cell::Float(*steps as f64 / SUM_STEPS as f64),
            (State::Sum { steps, values }, _) => mean(*steps as f64 / SUM_STEPS as f64, *values),
            (State::Numbers(numbers), Function::Min { .. }) => extreme(numbers.first_key_value()),
            (State::Numbers(numbers), _) => extreme(numbers.last_key_value()),
            (State::Different(values), _) => integer(values.len() as u64),
            (State::Tally(counts), Function::TopK { k, .. }) => {
                let values = frequent(counts, (*k).min(spec.counts_limit));
                Cell::List(values.into_iter().map(|(value, _)| storable(value)).collect())
            }
            (State::Tally(counts), _) => {
                let mut all = BTreeMap::new();
                for (value, count) in frequent(counts, spec.counts_limit) {
                    *all.entry(storable(value)).or_default() += count as i64;
                }
                Cell::Counts(all)
            }
            (State::Scores { positive, .. }, Function::SentimentPositive { .. }) => integer(*positive),
            (State::Scores { negative, .. }, Function::SentimentNegative { .. }) => integer(*negative),
            (State::Scores { steps, values, .. }, _) => mean(*steps as f64 / 1e4, *values),
            (State::Nothing, Function::Rate) => Cell::Float(events as f64 / (spec.size_ms as f64 / 1e3)),
            (State::Nothing, _) => integer(events),
        }
    }
}

fn integer(count: u64) -> Cell {
    Cell::Integer(count as i64)
}

fn extreme(entry: Option<(&u64, &u64)>) -> Cell {
    entry.map_or(Cell::Null, |(number, _)| Cell::Float(from_sortable(*number)))
}

/// The most frequent values; of equally frequent ones those whose bytes come first.
fn frequent(counts: &HashMap<String, u64>, most: usize) -> Vec<(&str, u64)> {
    let mut all: Vec<(&str, u64)> = counts.iter().map(|(value, count)| (value.as_str(), *count)).collect();
    all.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
    all.truncate(most);
    all
}

/// As PostgreSQL can hold it.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Steps of 1e-9, and whether the value was clamped.
fn fixed(value: &Value) -> Option<(i128, bool)> {
    match value {
        Value::Integer(value) => Some((i128::from(*value) * SUM_STEPS, false)),
        Value::Float(value) => {
            let clamped = value.clamp(-SUM_LIMIT, SUM_LIMIT);
            let fraction = (clamped.fract() * SUM_STEPS as f64).round() as i128;
            Some((clamped.trunc() as i128 * SUM_STEPS + fraction, clamped != *value))
        }
        _ => None,
    }
}

fn hashes(value: &Value) -> Vec<u64> {
    match value {
        Value::Texts(texts) => texts.iter().map(|text| text.hash).collect(),
        Value::Integer(value) => vec![xxh3_64_with_seed(&value.to_le_bytes(), 1)],
        // 5.0 is 5.
        Value::Float(value) if (*value as i64) as f64 == *value => hashes(&Value::Integer(*value as i64)),
        Value::Float(value) => vec![xxh3_64_with_seed(&value.to_le_bytes(), 2)],
        Value::Null | Value::Score(_) => Vec::new(),
    }
}

const SIGN: u64 = 1 << 63;

/// A number that is greater where the float is; of the zeros only the positive one.
fn sortable(float: f64) -> u64 {
    let bits = (float + 0.0).to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

fn from_sortable(number: u64) -> f64 {
    f64::from_bits(if number & SIGN == 0 { !number } else { number & !SIGN })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            event::Text,
            spec::tests::{field, job},
        },
        *,
    };
    use proptest::prelude::*;

    fn spec() -> Spec {
        Spec::new(&job(&[
            (0, Function::Count),
            (0, Function::Rate),
            (0, Function::Distinct { field: field("u") }),
            (0, Function::TopK { field: field("e"), k: 2 }),
            (0, Function::Counts { field: field("e") }),
            (0, Function::SentimentAvg { field: field("m") }),
            (0, Function::SentimentPositive { field: field("m") }),
            (0, Function::SentimentNegative { field: field("m") }),
            (1, Function::Avg { field: field("v") }),
            (1, Function::Min { field: field("v") }),
            (1, Function::Max { field: field("v") }),
            (1, Function::Sum { field: field("v") }),
        ]))
    }

    fn chat(at_ms: i64, key: &str, user: &str, emotes: &[&str], score: i32) -> Event {
        let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|text| Text::new(text, true)).collect());
        let values = vec![texts(&[user]), texts(emotes), Value::Score(score)];
        Event { at_ms, input: 0, partition: 0, offset: at_ms, id: None, key: key.to_owned(), values }
    }

    fn viewers(at_ms: i64, key: &str, count: f64) -> Event {
        let values = vec![Value::Float(count)];
        Event { at_ms, input: 1, partition: 0, offset: at_ms, id: None, key: key.to_owned(), values }
    }

    fn windows(spec: &Spec, mut events: Vec<(Event, Fate)>, first: i64) -> Vec<Window> {
        events.sort_by_key(|(event, _)| event.order());
        let mut windows = Vec::new();
        let mut give = |window| {
            windows.push(window);
            Ok::<(), SpillError>(())
        };
        let mut recompute = Recompute::new(spec, first, i64::MAX, Path::new("/nowhere"));
        for (event, fate) in events {
            recompute.push(event, fate, &mut give).unwrap();
        }
        recompute.finish(&mut give).unwrap();
        assert!(recompute.keys.is_empty());
        windows
    }

    fn counted(events: Vec<Event>) -> Vec<(Event, Fate)> {
        events.into_iter().map(|event| (event, Fate::Counted)).collect()
    }

    #[test]
    fn a_window_has_every_column() {
        let spec = spec();
        let events = vec![
            chat(1_000, "s1", "u1", &["b", "a", "b"], 5_000),
            chat(2_000, "s1", "u2", &["c\0"], -500),
            chat(3_000, "s1", "u1", &["c\u{fffd}", "a"], 499),
            viewers(4_000, "s1", 10.0),
            viewers(5_000, "s1", 0.1),
            viewers(5_000, "s2", 7.0),
        ];
        let windows = windows(&spec, counted(events), i64::MIN / 100_000);
        assert_eq!(windows.iter().map(|window| window.number).collect::<Vec<_>>(), [-5, -4, -3, -2, -1, 0]);
        let Window { rows, outside, .. } = &windows[2];
        assert_eq!((rows.len(), outside.as_slice()), (1, &[0, 1][..]), "s2 has no chat");
        let cells: Vec<Cell> = rows[0].cells.iter().map(|(cell, _)| cell.clone()).collect();
        let list = ["a", "b"].map(str::to_owned).to_vec();
        let counts = [("a", 2), ("b", 2), ("c\u{fffd}", 2)].map(|(name, n)| (name.to_owned(), n)).into();
        let expected = [
            Cell::Integer(3),
            Cell::Float(0.05),
            Cell::Integer(2),
            Cell::List(list),
            Cell::Counts(counts),
            Cell::Float(4_999.0 / 1e4 / 3.0),
            Cell::Integer(1),
            Cell::Integer(1),
            Cell::Float(5.05),
            Cell::Float(0.1),
            Cell::Float(10.0),
            Cell::Float(10.1),
        ];
        assert_eq!(cells, expected);
    }

    #[test]
    fn copies_and_uncertain_events_are_told_apart() {
        let spec = spec();
        let event = |user| chat(1_000, "s1", user, &[], 0);
        let events = vec![
            (event("a"), Fate::Counted),
            (event("b"), Fate::Copy),
            (event("c"), Fate::CountedPerhaps),
            (event("d"), Fate::CopyPerhaps),
            (chat(1_000, "s2", "e", &[], 0), Fate::CopyPerhaps),
        ];
        let found = windows(&spec, events, 0);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].copies, [3, 0]);
        let rows: Vec<_> =
            found[0].rows.iter().map(|row| (&*row.key, row.is_expected, row.events[0], row.uncertain[0])).collect();
        assert_eq!(rows, [("s1", true, 2, 2), ("s2", false, 0, 1)]);
    }

    #[test]
    fn what_the_stage_may_estimate_is_marked() {
        let spec = Spec { distinct_exact_limit: 2, counts_limit: 2, ..spec() };
        let event = |at: i64, user: &str| chat(at, "s1", user, &[user], 0);
        let two = windows(&spec, counted(vec![event(1, "a"), event(2, "b")]), 0);
        assert!(two[0].rows[0].cells.iter().all(|(_, precision)| *precision == Precision::Exact));
        let long = "x".repeat(300);
        let three = windows(&spec, counted(vec![event(1, "a"), event(2, "b"), event(3, &long)]), 0);
        let precisions: Vec<Precision> = three[0].rows[0].cells.iter().map(|cell| cell.1).collect();
        assert_eq!(precisions[2..5], [Precision::Estimated, Precision::Limited, Precision::Limited]);
        assert!(three[0].rows[0].is_inexact && !two[0].rows[0].is_inexact);
    }

    #[test]
    fn floats_sort_as_numbers() {
        let floats = [f64::MIN, -1.5, -0.0, 0.25, f64::MAX];
        let sorted = floats.map(sortable);
        assert!(sorted.is_sorted() && sorted.map(from_sortable) == floats);
        assert_eq!(sortable(-0.0), sortable(0.0));
        // Large values that cancel leave the small ones.
        let sum = |values: &[f64]| values.iter().filter_map(|v| fixed(&Value::Float(*v))).map(|f| f.0).sum::<i128>();
        assert_eq!(sum(&[1e15, 0.1, -1e15]), 100_000_000);
        assert!(fixed(&Value::Float(1e300)).unwrap().1);
    }

    proptest! {
        /// Counting in and out gives what a fresh count of the window's events gives.
        #[test]
        fn a_window_is_the_sum_of_its_events(
            drawn in prop::collection::vec((0..400_i64, 0..3_usize, 0..4_usize, -600..600_i32, any::<bool>()), 0..60),
            (size, slide) in prop::sample::select(vec![(60, 10), (60, 60), (70, 20), (50, 1)]),
        ) {
            let spec = Spec { size_ms: size, slide_ms: slide, ..spec() };
            let (keys, users) = (["s1", "s2", "s3"], ["a", "b", "c", "d"]);
            let mut events = Vec::new();
            for (number, (at, key, user, score, is_chat)) in drawn.into_iter().enumerate() {
                let event = match is_chat {
                    true => chat(at, keys[key], users[user], &[users[user], users[3 - user]], score),
                    false => viewers(at, keys[key], f64::from(score) / 7.0),
                };
                events.push(Event { offset: number as i64, ..event });
            }
            let found = windows(&spec, counted(events.clone()), -100);
            for number in -100..500 {
                let (start, end) = (spec.start_ms(number), spec.end_ms(number));
                let within: Vec<Event> =
                    events.iter().filter(|event| (start..end).contains(&event.at_ms)).cloned().collect();
                let window = found.iter().find(|window| window.number == number);
                prop_assert_eq!(window.is_some(), !within.is_empty());
                let Some(window) = window else { continue };
                // One tumbling window that holds exactly these.
                let whole = Spec { size_ms: 1_000_000, slide_ms: 1_000_000, ..spec.clone() };
                let moved = within.into_iter().map(|event| Event { at_ms: event.at_ms + 1_000, ..event }).collect();
                let fresh = windows(&whole, counted(moved), -1);
                let rate = |rows: &[Row]| rows.iter().map(|row| {
                    let mut cells = row.cells.clone();
                    cells.remove(1);
                    (row.key.clone(), cells, row.events.clone())
                }).collect::<Vec<_>>();
                prop_assert_eq!(rate(&window.rows), rate(&fresh[0].rows));
            }
        }
    }
}
