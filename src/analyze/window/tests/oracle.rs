//! The windows by plain recomputation: for each window, the events that fall into it.

use super::{Added, Declaration, Join, Record, Value};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Records in the order in which they are read, each with its input and partition.
pub struct Oracle<'a> {
    pub declaration: &'a Declaration,
    pub records: Vec<(usize, usize, Record)>,
    pub partitions: usize,
    pub future_from_ms: i64,
}

#[derive(Debug, Default, PartialEq)]
pub struct Expected {
    pub rows: BTreeMap<(String, i64), Vec<Value>>,
    pub late: BTreeMap<(i64, usize), i64>,
    pub outcomes: Vec<Added>,
}

impl Oracle<'_> {
    pub fn expected(&self) -> Expected {
        let declaration = self.declaration;
        let close = |start: i64| start + declaration.size_ms + declaration.allowed_lateness_ms;
        let mut newest = vec![None; self.partitions];
        let mut watermark = i64::MIN;
        let mut ids = HashSet::new();
        let mut windows: BTreeMap<(String, i64), Vec<(usize, &Record)>> = BTreeMap::new();
        let mut expected = Expected::default();
        for (input, partition, record) in &self.records {
            if record.timestamp_ms >= self.future_from_ms {
                expected.outcomes.push(Added::Future);
                continue;
            }
            let (open, closed): (Vec<i64>, Vec<i64>) =
                self.starts(record.timestamp_ms).partition(|&start| close(start) > watermark);
            let is_copy = !open.is_empty() && record.id.as_ref().is_some_and(|id| !ids.insert((*input, id)));
            if is_copy {
                expected.outcomes.push(Added::Duplicate);
            } else {
                closed.iter().for_each(|&start| *expected.late.entry((start, *input)).or_default() += 1);
                for &start in &open {
                    windows.entry((record.key.clone(), start)).or_default().push((*input, record));
                }
                expected.outcomes.push(match (open.is_empty(), closed.is_empty()) {
                    (true, _) => Added::Late,
                    (_, true) => Added::Counted,
                    _ => Added::PartlyLate,
                });
            }
            newest[*partition] = newest[*partition].max(Some(record.timestamp_ms));
            if let Some(least) = newest.iter().copied().min().flatten() {
                watermark = watermark.max(least - declaration.watermark_delay_ms);
            }
        }
        for (place, events) in windows {
            if declaration.join == Join::Full || events.iter().any(|(input, _)| *input == 0) {
                expected.rows.insert(place, self.values(&events));
            }
        }
        expected
    }

    fn starts(&self, timestamp_ms: i64) -> impl Iterator<Item = i64> {
        let (size, slide) = (self.declaration.size_ms, self.declaration.slide_ms);
        let newest = timestamp_ms.div_euclid(slide) * slide;
        (0..=size / slide).map(move |back| newest - back * slide).filter(move |start| start + size > timestamp_ms)
    }

    fn values(&self, events: &[(usize, &Record)]) -> Vec<Value> {
        let first: Vec<&Record> = events.iter().filter(|(input, _)| *input == 0).map(|(_, record)| *record).collect();
        let users: BTreeSet<&str> = first.iter().map(|record| record.user.as_str()).collect();
        let mut emotes: BTreeMap<&str, i64> = BTreeMap::new();
        first.iter().flat_map(|record| &record.emotes).for_each(|emote| *emotes.entry(emote).or_default() += 1);
        let mut emotes: Vec<(String, i64)> =
            emotes.into_iter().map(|(emote, count)| (emote.to_owned(), count)).collect();
        emotes.sort_by_key(|(_, count)| -count);
        let count = |number: usize| Value::Integer(number as i64);
        let score: i64 = first.iter().map(|record| record.score).sum();
        let mean = if first.is_empty() { Value::Null } else { Value::Float(score as f64 / 1e4 / first.len() as f64) };
        let second = events.iter().filter(|(input, _)| *input == 1);
        let amounts: Vec<f64> =
            second.filter_map(|(_, record)| record.amount).map(|quarters| quarters as f64 / 4.0).collect();
        let number = |value: f64| if amounts.is_empty() { Value::Null } else { Value::Float(value) };
        let sum: f64 = amounts.iter().sum();
        vec![
            count(first.len()),
            Value::Float(first.len() as f64 * 1000.0 / self.declaration.size_ms as f64),
            count(users.len()),
            Value::TextList(emotes.iter().take(2).map(|(emote, _)| emote.clone()).collect()),
            Value::Counts(emotes),
            mean,
            count(first.iter().filter(|record| record.score >= 500).count()),
            count(first.iter().filter(|record| record.score <= -500).count()),
            number(sum),
            number(sum / amounts.len() as f64),
            number(amounts.iter().copied().fold(f64::INFINITY, f64::min)),
            number(amounts.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        ]
    }
}
