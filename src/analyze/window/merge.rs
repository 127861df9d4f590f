//! Rows: the merge of a window's panes.

use super::{
    Join, Value, WindowRow,
    distinct, intern::Interner,
    layout::{Output, SCORE_WORDS, Target},
    pane::{Cell, Pane, SCORE_STEPS, set_sum, sum_of, sum_value},
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
    words: Vec<u64>,
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
        self.words.clone_from(&layout.blank);
        for cell in cells.clone() {
            merge_words(plan, &mut self.words, cell.words);
        }
        if plan.declaration.join == Join::Left && self.words[0] == 0 {
            return None;
        }
        let mut is_approximate = cells.clone().any(|cell| cell.is_approximate);
        self.tallies.resize_with(layout.tallies, Vec::new);
        for (index, merged) in self.tallies.iter_mut().enumerate() {
            tally::merge(cells.clone().map(|cell| &cell.tallies[index]), texts, merged);
            is_approximate |= cells.clone().any(|cell| Tally::is_approximate(&cell.tallies[index]));
        }
        let limit = plan.declaration.counts_limit;
        let mut values = Vec::with_capacity(layout.outputs.len());
        for output in &layout.outputs {
            values.push(match *output {
                Output::Distinct(set) => {
                    let (count, is_estimate) = distinct::count(cells.clone().map(|cell| &cell.sets[set]), &mut self.hashes);
                    is_approximate |= is_estimate;
                    Value::Integer(integer(count))
                }
                Output::TopK { tally, k } => {
                    let top = self.tallies[tally].iter().take(k.min(limit));
                    Value::TextList(top.filter_map(|entry| Some(texts.text(entry.0)?.to_string())).collect())
                }
                Output::Counts(tally) => {
                    let counts = &self.tallies[tally];
                    is_approximate |= counts.len() > limit;
                    let shown = counts.iter().take(limit);
                    let shown = shown.filter_map(|&(value, count)| Some((texts.text(value)?.to_string(), integer(count))));
                    Value::Counts(shown.collect())
                }
                ref number => number_value(number, &self.words, plan.grid.size_ms()),
            });
        }
        Some((values, is_approximate))
    }
}

fn merge_words(plan: &Plan, merged: &mut [u64], words: &[u64]) {
    for input in 0..plan.declaration.inputs {
        merged[input] += words[input];
    }
    for target in plan.layout.targets() {
        match target {
            Target::Sum(at) => {
                let sum = sum_of(&merged[at..]).wrapping_add(sum_of(&words[at..]));
                set_sum(&mut merged[at..], sum);
                merged[at + 2] += words[at + 2];
            }
            Target::Score(at) => {
                for word in at..at + SCORE_WORDS {
                    merged[word] = merged[word].wrapping_add(words[word]);
                }
            }
            Target::Least(at) => {
                merged[at] = f64::from_bits(merged[at]).min(f64::from_bits(words[at])).to_bits();
            }
            Target::Greatest(at) => {
                merged[at] = f64::from_bits(merged[at]).max(f64::from_bits(words[at])).to_bits();
            }
            Target::Distinct(_) | Target::Tally(_) => {}
        }
    }
}

fn number_value(output: &Output, words: &[u64], size_ms: i64) -> Value {
    let mean = |sum: f64, values: u64| if values == 0 { Value::Null } else { Value::Float(sum / values as f64) };
    match *output {
        Output::Count { input } => Value::Integer(integer(words[input])),
        Output::Rate { input } => Value::Float(words[input] as f64 * 1000.0 / size_ms as f64),
        Output::Sum(at) if words[at + 2] == 0 => Value::Null,
        Output::Sum(at) => Value::Float(sum_value(sum_of(&words[at..]))),
        Output::Avg(at) => mean(sum_value(sum_of(&words[at..])), words[at + 2]),
        Output::Extreme(at) => {
            let value = f64::from_bits(words[at]);
            if value.is_nan() { Value::Null } else { Value::Float(value) }
        }
        Output::ScoreAvg(at) => mean(words[at] as i64 as f64 / SCORE_STEPS, words[at + 1]),
        Output::Positive(at) => Value::Integer(integer(words[at + 2])),
        Output::Negative(at) => Value::Integer(integer(words[at + 3])),
        Output::Distinct(_) | Output::TopK { .. } | Output::Counts(_) => Value::Null,
    }
}

fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
