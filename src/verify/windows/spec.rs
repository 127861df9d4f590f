//! What a job declares, as the recomputation wants it: the windows, and which fields are measured how.

use crate::config::model::{Function, Input, Job, Join};
use std::collections::HashSet;

/// How a field is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Number,
    /// A text, or a whole number as it is written.
    Text,
    /// A list of texts, or a single one.
    List,
    /// The sentiment of a text.
    Sentiment,
}

/// A measured field of an input.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub reading: Reading,
    /// Whether its texts are shown, rather than only told apart.
    pub is_tallied: bool,
    /// Where the field is absent: the words of another one that are in the set.
    pub tokens: Option<(String, HashSet<String>)>,
}

/// A column of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub input: usize,
    /// Of the input's fields; unused by counts and rates.
    pub field: usize,
    pub function: Function,
}

/// Windows begin at multiples of the slide since 1970; number n begins at n slides.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub size_ms: i64,
    pub slide_ms: i64,
    pub allowed_lateness_ms: i64,
    pub watermark_delay_ms: i64,
    pub max_future_ms: i64,
    pub is_full_join: bool,
    pub distinct_exact_limit: usize,
    pub counts_limit: usize,
    /// Of each input.
    pub fields: Vec<Vec<Field>>,
    pub columns: Vec<Column>,
}

impl Spec {
    pub fn new(job: &Job) -> Spec {
        let mut fields: Vec<Vec<Field>> = vec![Vec::new(); job.inputs.len()];
        let mut columns = Vec::with_capacity(job.measures.len());
        for measure in &job.measures {
            let field = field_of(&measure.function).map_or(0, |name| {
                let reading = reading(job, measure.input, name, &measure.function);
                let known = &mut fields[measure.input];
                let place = known.iter().position(|field| field.name == name && field.reading == reading);
                let place = place.unwrap_or_else(|| {
                    let tokens = tokens(&job.inputs[measure.input], name, reading);
                    known.push(Field { name: name.to_owned(), reading, is_tallied: false, tokens });
                    known.len() - 1
                });
                known[place].is_tallied |= matches!(measure.function, Function::TopK { .. } | Function::Counts { .. });
                place
            });
            let (name, function) = (measure.column.clone(), measure.function.clone());
            columns.push(Column { name, input: measure.input, field, function });
        }
        Spec {
            size_ms: job.window_ms,
            slide_ms: job.slide_ms,
            allowed_lateness_ms: job.allowed_lateness_ms,
            watermark_delay_ms: job.watermark_delay_ms,
            max_future_ms: job.max_future_ms,
            is_full_join: job.join == Join::Full,
            distinct_exact_limit: job.distinct_exact_limit,
            counts_limit: job.counts_limit,
            fields,
            columns,
        }
    }

    pub fn inputs(&self) -> usize {
        self.fields.len()
    }

    pub fn start_ms(&self, window: i64) -> i64 {
        window * self.slide_ms
    }

    pub fn end_ms(&self, window: i64) -> i64 {
        self.start_ms(window) + self.size_ms
    }

    /// The first window that holds a time.
    pub fn first_window_at(&self, at_ms: i64) -> i64 {
        (at_ms - self.size_ms).div_euclid(self.slide_ms) + 1
    }

    /// The first window that begins at a time or later.
    pub fn first_window_from(&self, at_ms: i64) -> i64 {
        (at_ms - 1).div_euclid(self.slide_ms) + 1
    }

    /// The last window that takes no event any more at this watermark, late ones included.
    pub fn last_closed(&self, watermark_ms: i64) -> i64 {
        (watermark_ms - self.allowed_lateness_ms - self.size_ms).div_euclid(self.slide_ms)
    }

    /// No window has an edge within a pane.
    pub fn pane_ms(&self) -> i64 {
        let (mut pane_ms, mut rest) = (self.size_ms, self.slide_ms);
        while rest > 0 {
            (pane_ms, rest) = (rest, pane_ms % rest);
        }
        pane_ms
    }

    /// How far apart copies of an event may be so that only one of them counts: until the last window
    /// of the first has closed. Further apart they are two events.
    pub fn copies_ms(&self) -> i64 {
        self.size_ms + self.allowed_lateness_ms + self.watermark_delay_ms
    }

    /// Whether a key with so many events of each input has a row.
    pub fn has_row(&self, events: &[u64]) -> bool {
        if self.is_full_join { events.iter().any(|count| *count > 0) } else { events[0] > 0 }
    }

    /// The column that tells how many events of an input a row holds.
    pub fn count_column(&self, input: usize) -> Option<usize> {
        let of = |wanted: &Function| {
            self.columns.iter().position(|column| column.input == input && column.function == *wanted)
        };
        of(&Function::Count).or_else(|| of(&Function::Rate))
    }
}

fn field_of(function: &Function) -> Option<&str> {
    match function {
        Function::Count | Function::Rate => None,
        Function::Sum { field }
        | Function::Avg { field }
        | Function::Min { field }
        | Function::Max { field }
        | Function::Distinct { field }
        | Function::TopK { field, .. }
        | Function::Counts { field }
        | Function::SentimentAvg { field }
        | Function::SentimentPositive { field }
        | Function::SentimentNegative { field } => Some(field),
    }
}

fn is_sentiment(function: &Function) -> bool {
    matches!(
        function,
        Function::SentimentAvg { .. } | Function::SentimentPositive { .. } | Function::SentimentNegative { .. }
    )
}

/// Sentiment is read apart. Of all other measures of the field the one that takes least decides.
fn reading(job: &Job, input: usize, name: &str, function: &Function) -> Reading {
    if is_sentiment(function) {
        return Reading::Sentiment;
    }
    let others = || {
        let of_field = job.measures.iter().filter(|measure| measure.input == input);
        of_field.map(|measure| &measure.function).filter(|function| field_of(function) == Some(name))
    };
    let is_number = |function: &Function| {
        matches!(function, Function::Sum { .. } | Function::Avg { .. } | Function::Min { .. } | Function::Max { .. })
    };
    if others().any(is_number) {
        Reading::Number
    } else if others().any(|function| matches!(function, Function::Distinct { .. })) {
        Reading::Text
    } else {
        Reading::List
    }
}

fn tokens(input: &Input, name: &str, reading: Reading) -> Option<(String, HashSet<String>)> {
    let tokens = input.tokens.iter().find(|tokens| reading == Reading::List && tokens.field == name)?;
    Some((tokens.from.clone(), tokens.words.iter().cloned().collect()))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::model::Measure;

    pub fn input(name: &str) -> Input {
        Input {
            name: name.to_owned(),
            topic: format!("topic-{name}"),
            key: "k".to_owned(),
            timestamp: "t".to_owned(),
            id: Some("id".to_owned()),
            tokens: Vec::new(),
            partitions: 1,
            replication: 1,
            retention_ms: 0,
        }
    }

    /// Windows of a minute by 10 s over two inputs, with a column for each of these functions.
    pub fn job(functions: &[(usize, Function)]) -> Job {
        let measure = |(number, (input, function)): (usize, &(usize, Function))| Measure {
            column: format!("c{number}"),
            input: *input,
            function: function.clone(),
        };
        Job {
            name: "job".to_owned(),
            id: "pipeline/job".to_owned(),
            table: "t".to_owned(),
            key_column: "k".to_owned(),
            inputs: vec![input("a"), input("b")],
            join: Join::Left,
            window_ms: 60_000,
            slide_ms: 10_000,
            refresh_ms: 10_000,
            watermark_delay_ms: 10_000,
            allowed_lateness_ms: 0,
            idle_timeout_ms: 1_000,
            max_future_ms: 60_000,
            distinct_exact_limit: 100,
            emote_sentiment: true,
            counts_limit: 100,
            max_state_bytes: 1 << 30,
            retention_days: 30,
            measures: functions.iter().enumerate().map(measure).collect(),
            anomalies: Vec::new(),
        }
    }

    pub fn field(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn a_field_is_read_as_its_measures_want_it() {
        let spec = Spec::new(&job(&[
            (0, Function::Counts { field: field("e") }),
            (0, Function::Distinct { field: field("u") }),
            (0, Function::TopK { field: field("u"), k: 3 }),
            (0, Function::SentimentAvg { field: field("m") }),
            (0, Function::Counts { field: field("m") }),
            (1, Function::Counts { field: field("n") }),
            (1, Function::Avg { field: field("n") }),
        ]));
        let found = |input: usize| -> Vec<_> {
            spec.fields[input].iter().map(|f| (f.name.as_str(), f.reading, f.is_tallied)).collect()
        };
        assert_eq!(
            found(0),
            [
                ("e", Reading::List, true),
                ("u", Reading::Text, true),
                ("m", Reading::Sentiment, false),
                ("m", Reading::List, true)
            ]
        );
        assert_eq!(found(1), [("n", Reading::Number, true)]);
        assert_eq!(spec.columns.iter().map(|c| c.field).collect::<Vec<_>>(), [0, 1, 1, 2, 3, 0, 0]);
    }

    #[test]
    fn windows_are_numbered_from_1970() {
        let spec = Spec::new(&job(&[(0, Function::Count)]));
        assert_eq!((spec.first_window_at(0), spec.first_window_at(9_999), spec.first_window_at(10_000)), (-5, -5, -4));
        assert_eq!((spec.first_window_from(0), spec.first_window_from(1), spec.first_window_from(10_000)), (0, 1, 1));
        assert_eq!((spec.last_closed(60_000), spec.last_closed(59_999)), (0, -1));
        assert_eq!((spec.pane_ms(), spec.copies_ms()), (10_000, 70_000));
        let odd = Spec { size_ms: 90, slide_ms: 60, ..spec };
        assert_eq!(odd.pane_ms(), 30);
    }
}
