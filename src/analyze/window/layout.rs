//! Where each measure keeps its state: measures of the same field share it.

use super::{
    Function, Measure,
    number::{Number, SCORE_WORDS, SUM_WORDS, blank_extreme},
    plan::{FieldSlot, Reading},
};

/// What an event's field is counted into: the first word of a number, a set, a tally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Sum(usize),
    Least(usize),
    Greatest(usize),
    Score(usize),
    Distinct(usize),
    Tally(usize),
}

#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// Index into `Event::values`.
    pub field: usize,
    pub target: Target,
    /// Where a row has it: index of the number, the set or the tally.
    index: usize,
}

/// How a column is read off the state.
#[derive(Debug, Clone, Copy)]
pub enum Output {
    Count {
        input: usize,
    },
    Rate {
        input: usize,
    },
    /// Of a sum, an extreme or a score.
    Value(usize),
    /// Of a sum.
    Avg(usize),
    Distinct(usize),
    TopK {
        tally: usize,
        k: usize,
    },
    Counts(usize),
    Positive(usize),
    Negative(usize),
}

#[derive(Debug, Clone, Default)]
struct InputLayout {
    fields: Vec<FieldSlot>,
    updates: Vec<Update>,
}

/// The state of a key in a pane: numbers as words (the first ones count each input's events), sets of
/// distinct values, tallies of values.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    inputs: Vec<InputLayout>,
    /// Words of a key that nothing has been counted into.
    pub blank: Vec<u32>,
    /// The numbers of a row, each with the first of its words.
    pub numbers: Vec<(Number, usize)>,
    pub sets: usize,
    pub tallies: usize,
    pub outputs: Vec<Output>,
}

impl Layout {
    /// The measures' inputs are below `inputs`.
    pub fn new(inputs: usize, measures: &[Measure]) -> Layout {
        let mut layout =
            Layout { inputs: vec![InputLayout::default(); inputs], blank: vec![0; inputs], ..Layout::default() };
        for Measure { input, function, .. } in measures {
            let output = layout.output(*input, function);
            layout.outputs.push(output);
        }
        layout
    }

    pub fn fields(&self, input: usize) -> &[FieldSlot] {
        self.inputs.get(input).map_or(&[], |input| &input.fields)
    }

    pub fn updates(&self, input: usize) -> &[Update] {
        self.inputs.get(input).map_or(&[], |input| &input.updates)
    }

    fn output(&mut self, input: usize, function: &Function) -> Output {
        use Reading::{Sentiment, Value};
        match function {
            Function::Count => Output::Count { input },
            Function::Rate => Output::Rate { input },
            Function::Sum { field } => Output::Value(self.place(input, field, Value, Target::Sum)),
            Function::Avg { field } => Output::Avg(self.place(input, field, Value, Target::Sum)),
            Function::Min { field } => Output::Value(self.place(input, field, Value, Target::Least)),
            Function::Max { field } => Output::Value(self.place(input, field, Value, Target::Greatest)),
            Function::Distinct { field } => Output::Distinct(self.place(input, field, Value, Target::Distinct)),
            Function::TopK { field, k } => {
                Output::TopK { tally: self.place(input, field, Value, Target::Tally), k: *k }
            }
            Function::Counts { field } => Output::Counts(self.place(input, field, Value, Target::Tally)),
            Function::SentimentAvg { field } => Output::Value(self.place(input, field, Sentiment, Target::Score)),
            Function::SentimentPositive { field } => {
                Output::Positive(self.place(input, field, Sentiment, Target::Score))
            }
            Function::SentimentNegative { field } => {
                Output::Negative(self.place(input, field, Sentiment, Target::Score))
            }
        }
    }

    /// The place of this state, made if no measure before has needed it.
    fn place(&mut self, input: usize, field: &str, reading: Reading, target: fn(usize) -> Target) -> usize {
        let InputLayout { fields, updates } = &mut self.inputs[input];
        let slot = fields.iter().position(|slot| slot.field == field && slot.reading == reading);
        let field = slot.unwrap_or_else(|| {
            fields.push(FieldSlot { field: field.to_owned(), reading });
            fields.len() - 1
        });
        let is_same = |update: &&Update| {
            update.field == field && std::mem::discriminant(&update.target) == std::mem::discriminant(&target(0))
        };
        if let Some(update) = updates.iter().find(is_same) {
            return update.index;
        }
        let (at, index) = match target(0) {
            Target::Sum(_) => self.number(Number::Sum { sum: 0, values: 0 }, &[0; SUM_WORDS]),
            Target::Score(_) => {
                let blank = Number::Score { sum: 0, scores: 0, positive: 0, negative: 0 };
                self.number(blank, &[0; SCORE_WORDS])
            }
            Target::Least(_) => self.number(Number::Least(f64::NAN), &blank_extreme()),
            Target::Greatest(_) => self.number(Number::Greatest(f64::NAN), &blank_extreme()),
            Target::Distinct(_) => next(&mut self.sets),
            Target::Tally(_) => next(&mut self.tallies),
        };
        self.inputs[input].updates.push(Update { field, target: target(at), index });
        index
    }

    /// The first word of a new number, and its index.
    fn number(&mut self, blank: Number, words: &[u32]) -> (usize, usize) {
        let at = self.blank.len();
        self.blank.extend_from_slice(words);
        self.numbers.push((blank, at));
        (at, self.numbers.len() - 1)
    }
}

fn next(count: &mut usize) -> (usize, usize) {
    *count += 1;
    (*count - 1, *count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::window::number::EXTREME_WORDS;

    fn field() -> String {
        "x".to_owned()
    }

    #[test]
    fn measures_of_one_field_share_their_state() {
        let functions = [
            Function::Sum { field: field() },
            Function::Avg { field: field() },
            Function::Min { field: field() },
            Function::Max { field: field() },
            Function::TopK { field: field(), k: 3 },
            Function::Counts { field: field() },
            Function::SentimentAvg { field: field() },
            Function::SentimentPositive { field: field() },
            Function::Distinct { field: field() },
            Function::Distinct { field: "y".to_owned() },
        ];
        let measures: Vec<Measure> =
            functions.into_iter().map(|function| Measure { column: String::new(), input: 1, function }).collect();
        let layout = Layout::new(2, &measures);
        assert_eq!(layout.fields(0), []);
        let fields: Vec<_> = layout.fields(1).iter().map(|slot| (slot.field.as_str(), slot.reading)).collect();
        assert_eq!(fields, [("x", Reading::Value), ("x", Reading::Sentiment), ("y", Reading::Value)]);
        assert_eq!(layout.blank.len(), 2 + SUM_WORDS + 2 * EXTREME_WORDS + SCORE_WORDS);
        assert_eq!((layout.numbers.len(), layout.sets, layout.tallies), (4, 2, 1));
    }
}
