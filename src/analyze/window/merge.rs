//! Rows: the merge of a window's panes.

use super::{
    Join, Value, WindowRow, distinct,
    intern::Interner,
    layout::Output,
    number::Number,
    pane::{Cell, Pane},
    plan::Plan,
    tally::{self, Tally},
};
use std::collections::BTreeMap;

/// Which keys of a window are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    All,
    /// Those with a change since this flush.
    TouchedAfter(u32),
}

/// How the rows of a window are marked.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pub is_final: bool,
    pub revision: i32,
}

/// Room that is used again for each row.
#[derive(Debug, Default)]
pub struct Merger {
    /// Key, index of the pane, row.
    cells: Vec<(u32, u32, u32)>,
    /// Events by input.
    counts: Vec<u64>,
    numbers: Vec<Number>,
    hashes: Vec<u64>,
    tallies: Vec<Vec<(u32, u64)>>,
}

impl Merger {
    /// Adds the rows of a window, of the keys that are asked for.
    pub fn window(
        &mut self,
        (plan, keys, texts): (&Plan, &Interner, &Interner),
        panes: &BTreeMap<i64, Pane>,
        (window, wanted, mark): (i64, Keys, Mark),
        rows: &mut Vec<WindowRow>,
    ) {
        let held: Vec<&Pane> = panes.range(plan.grid.panes_of(window)).map(|(_, pane)| pane).collect();
        self.gather(&held, wanted);
        let all = std::mem::take(&mut self.cells);
        for cells in all.chunk_by(|left, right| left.0 == right.0) {
            let Some(key) = keys.text(cells[0].0) else { continue };
            let merged = cells.iter().map(|&(_, pane, row)| held[pane as usize].cell(&plan.layout, row));
            let Some((values, is_approximate)) = self.row(plan, texts, merged) else { continue };
            rows.push(WindowRow {
                key: key.clone(),
                start_ms: plan.grid.start_ms(window),
                end_ms: plan.grid.end_ms(window),
                values,
                is_final: mark.is_final,
                revision: mark.revision,
                is_approximate,
            });
        }
        self.cells = all;
    }

    /// The cells of the wanted keys, those of a key together.
    fn gather(&mut self, panes: &[&Pane], wanted: Keys) {
        self.cells.clear();
        match wanted {
            Keys::All => {
                for (index, pane) in panes.iter().enumerate() {
                    let heads = pane.heads().zip(0..);
                    self.cells.extend(heads.map(|(head, row)| (head.key, index as u32, row)));
                }
            }
            Keys::TouchedAfter(flush) => {
                let mut changed: Vec<u32> = panes
                    .iter()
                    .filter(|pane| pane.touched > flush)
                    .flat_map(|pane| pane.heads())
                    .filter(|head| head.touched > flush)
                    .map(|head| head.key)
                    .collect();
                changed.sort_unstable();
                changed.dedup();
                for key in changed {
                    let rows = panes.iter().zip(0..).filter_map(|(pane, index)| Some((key, index, pane.row_of(key)?)));
                    self.cells.extend(rows);
                }
            }
        }
        self.cells.sort_unstable();
    }

    /// None where the join wants no row.
    fn row<'a>(
        &mut self,
        plan: &Plan,
        texts: &Interner,
        cells: impl Iterator<Item = Cell<'a>> + Clone,
    ) -> Option<(Vec<Value>, bool)> {
        let layout = &plan.layout;
        self.counts.clear();
        self.counts.resize(plan.declaration.inputs, 0);
        for cell in cells.clone() {
            self.counts.iter_mut().zip(cell.words).for_each(|(count, &word)| *count += u64::from(word));
        }
        if plan.declaration.join == Join::Left && self.counts[0] == 0 {
            return None;
        }
        self.numbers.clear();
        for &(mut number, at) in &layout.numbers {
            cells.clone().for_each(|cell| number.read(&cell.words[at..]));
            self.numbers.push(number);
        }
        let mut is_approximate = cells.clone().any(|cell| cell.is_approximate);
        self.tallies.resize_with(layout.tallies, Vec::new);
        for (index, merged) in self.tallies.iter_mut().enumerate() {
            tally::merge(cells.clone().map(|cell| &cell.tallies[index]), texts, merged);
            is_approximate |= cells.clone().any(|cell| Tally::is_approximate(&cell.tallies[index]));
        }
        let limit = plan.declaration.counts_limit;
        let shown = |value: u32| texts.text(value).map(|text| text.to_string()).unwrap_or_default();
        let mut values = Vec::with_capacity(layout.outputs.len());
        for output in &layout.outputs {
            values.push(match *output {
                Output::Count { input } => Value::Integer(integer(self.counts[input])),
                Output::Rate { input } => Value::Float(self.counts[input] as f64 * 1000.0 / plan.grid.size_ms() as f64),
                Output::Value(number) => self.numbers[number].value().map_or(Value::Null, Value::Float),
                Output::Avg(number) => self.numbers[number].mean().map_or(Value::Null, Value::Float),
                Output::Positive(number) => Value::Integer(integer(self.numbers[number].positive())),
                Output::Negative(number) => Value::Integer(integer(self.numbers[number].negative())),
                Output::Distinct(set) => {
                    let sets = cells.clone().map(|cell| &cell.sets[set]);
                    let (count, is_estimate) = distinct::count(sets, &mut self.hashes);
                    is_approximate |= is_estimate;
                    Value::Integer(integer(count))
                }
                Output::TopK { tally, k } => {
                    let counts = &self.tallies[tally];
                    Value::TextList(
                        counts[..counts.len().min(k).min(limit)].iter().map(|entry| shown(entry.0)).collect(),
                    )
                }
                Output::Counts(tally) => {
                    let counts = &self.tallies[tally];
                    is_approximate |= counts.len() > limit;
                    let counts = counts[..counts.len().min(limit)].iter();
                    Value::Counts(counts.map(|&(value, count)| (shown(value), integer(count))).collect())
                }
            });
        }
        Some((values, is_approximate))
    }
}

fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
