//! Tests of the engine as a whole.

mod oracle;
mod properties;
mod restart;
mod rules;

use super::{Added, Declaration, Engine, Event, Field, Flush, Function, Join, Measure, Plan, Source, Value, WindowRow};
use std::collections::BTreeMap;

/// Two inputs, every function.
fn declaration(size_ms: i64, slide_ms: i64) -> Declaration {
    let text = || "user".to_owned();
    let message = || "message".to_owned();
    let emotes = || "emotes".to_owned();
    let amount = || "amount".to_owned();
    let functions = [
        (0, Function::Count),
        (0, Function::Rate),
        (0, Function::Distinct { field: text() }),
        (0, Function::TopK { field: emotes(), k: 2 }),
        (0, Function::Counts { field: emotes() }),
        (0, Function::SentimentAvg { field: message() }),
        (0, Function::SentimentPositive { field: message() }),
        (0, Function::SentimentNegative { field: message() }),
        (1, Function::Sum { field: amount() }),
        (1, Function::Avg { field: amount() }),
        (1, Function::Min { field: amount() }),
        (1, Function::Max { field: amount() }),
    ];
    let measures = functions.into_iter().enumerate().map(|(index, (input, function))| Measure {
        column: format!("m{index}"),
        input,
        function,
    });
    Declaration {
        size_ms,
        slide_ms,
        watermark_delay_ms: 0,
        allowed_lateness_ms: 0,
        idle_timeout_ms: 1_000,
        max_future_ms: 1_000_000,
        distinct_exact_limit: 1_000,
        counts_limit: 100,
        flush_rows_limit: 1_000_000,
        inputs: 2,
        join: Join::Left,
        measures: measures.collect(),
    }
}

/// One record as the tests write it.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    key: String,
    timestamp_ms: i64,
    id: Option<String>,
    /// Of the first input.
    user: String,
    emotes: Vec<String>,
    /// In steps of 1e-4.
    score: i64,
    /// Of the second input, in quarters.
    amount: Option<i64>,
}

fn record(key: &str, timestamp_ms: i64) -> Record {
    Record {
        key: key.to_owned(),
        timestamp_ms,
        id: None,
        user: "u".to_owned(),
        emotes: Vec::new(),
        score: 0,
        amount: None,
    }
}

impl Record {
    fn id(mut self, id: &str) -> Record {
        self.id = Some(id.to_owned());
        self
    }

    fn add_to(&self, engine: &mut Engine, source: Source, input: usize, offset: i64, now_ms: i64) -> Added {
        let emotes: Vec<&str> = self.emotes.iter().map(String::as_str).collect();
        let amount = self.amount.map_or(Field::Null, |quarters| match quarters % 4 {
            0 => Field::Integer(quarters / 4),
            _ => Field::Float(quarters as f64 / 4.0),
        });
        let first = [Field::Text(&self.user), Field::TextList(&emotes), Field::Float(self.score as f64 / 1e4)];
        let values: &[Field<'_>] = if input == 0 { &first } else { &[amount] };
        let id = self.id.as_ref().map(String::as_bytes);
        engine.add(source, offset, &Event { key: &self.key, timestamp_ms: self.timestamp_ms, id, values }, now_ms)
    }
}

/// What PostgreSQL holds.
#[derive(Debug, Clone, PartialEq, Default)]
struct Table {
    rows: BTreeMap<(String, i64), WindowRow>,
    late: BTreeMap<(i64, usize), i64>,
    /// How often a row was given as newly final.
    newly_final: BTreeMap<(String, i64), usize>,
}

impl Table {
    fn commit(&mut self, flush: &Flush) {
        for row in flush.newly_final() {
            *self.newly_final.entry((row.key.to_string(), row.start_ms)).or_default() += 1;
        }
        let mut before: Option<(i64, String)> = None;
        for row in &flush.rows {
            let place = (row.start_ms, row.key.to_string());
            assert!(before.as_ref() < Some(&place), "rows are sorted, each once: {before:?} {place:?}");
            before = Some(place);
            let mut row = row.clone();
            if let Some(present) = self.rows.get(&(row.key.to_string(), row.start_ms)).filter(|row| row.is_final) {
                assert!(row.is_final, "a final row was replaced by {row:?}");
                row.revision = present.revision + 1;
            }
            self.rows.insert((row.key.to_string(), row.start_ms), row);
        }
        for late in &flush.late {
            *self.late.entry((late.window_start_ms, late.input)).or_default() += late.count;
        }
    }

    /// Key, start, first value, revision of the final rows.
    fn finals(&self) -> Vec<(&str, i64, Value, i32)> {
        let rows = self.rows.iter().filter(|(_, row)| row.is_final);
        rows.map(|((key, start), row)| (key.as_str(), *start, row.values[0].clone(), row.revision)).collect()
    }
}

fn engine(declaration: Declaration) -> Engine {
    Engine::new(Plan::new(declaration).unwrap(), None)
}

fn flush(engine: &mut Engine, table: &mut Table, provisional: bool) -> Flush {
    let flush = engine.take_flush(provisional).unwrap();
    table.commit(&flush);
    engine.flushed();
    flush
}
