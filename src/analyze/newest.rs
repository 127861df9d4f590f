//! Of a flush what people may want to see of it: a few of its windows, moments and dead letters, as text.

use super::{
    anomaly,
    store::DeadLetter,
    window::{Value, WindowRow},
};
use crate::{
    app::group_digits,
    config::model::Job,
    health::{COLUMNS, Content, KEYS, LETTERS_OF_A_REASON, Letter, Letters, Moment, Window, Windows, cell},
};
use std::{cmp::Ordering, collections::HashMap};

/// The columns of the job's windows, as far as they are shown.
pub fn columns(job: &Job) -> Windows {
    let columns = job.measures.iter().take(COLUMNS).map(|measure| measure.column.clone());
    Windows { key_column: job.key_column.clone(), columns: columns.collect(), rows: Vec::new() }
}

/// Of each key its highest row, of the keys that rank highest: final ones first, the newest of them, those with most.
/// A flush may hold very many rows, most of which are only compared with the worst that is kept.
pub fn windows(rows: &[WindowRow]) -> Vec<Window> {
    let mut best: Vec<&WindowRow> = Vec::with_capacity(KEYS + 1);
    // The newest come last.
    for row in rows.iter().rev() {
        if best.len() == KEYS && best.last().is_some_and(|worst| rank(row, worst).is_le()) {
            continue;
        }
        if let Some(known) = best.iter().position(|known| known.key == row.key) {
            if rank(row, best[known]).is_le() {
                continue;
            }
            best.remove(known);
        }
        let place = best.partition_point(|known| rank(known, row).is_ge());
        best.insert(place, row);
        best.truncate(KEYS);
    }
    best.into_iter().map(window).collect()
}

fn rank(a: &WindowRow, b: &WindowRow) -> Ordering {
    (a.is_final, a.end_ms).cmp(&(b.is_final, b.end_ms)).then(weight(a).total_cmp(&weight(b)))
}

/// The first measure, where it is a number.
fn weight(row: &WindowRow) -> f64 {
    match row.values.first() {
        Some(Value::Integer(value)) => *value as f64,
        Some(Value::Float(value)) => *value,
        _ => 0.0,
    }
}

fn window(row: &WindowRow) -> Window {
    Window {
        key: cell(&row.key),
        start_ms: row.start_ms,
        end_ms: row.end_ms,
        cells: row.values.iter().take(COLUMNS).map(text).collect(),
        weight: weight(row),
        is_final: row.is_final,
    }
}

/// Lists longer than a cell are cut, so that no more of them need be looked at.
fn text(value: &Value) -> String {
    const MOST: usize = 20;
    match value {
        Value::Null => String::new(),
        Value::Integer(value) => whole(*value),
        Value::Float(value) => number(*value),
        Value::TextList(texts) => cell(&texts.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ")),
        Value::Counts(counts) => {
            let counts = counts.iter().take(MOST).map(|(text, count)| format!("{text} {count}"));
            cell(&counts.collect::<Vec<_>>().join(", "))
        }
    }
}

fn whole(value: i64) -> String {
    format!("{}{}", if value < 0 { "-" } else { "" }, group_digits(value.unsigned_abs()))
}

/// With three digits behind the point, and none where there are many before it.
fn number(value: f64) -> String {
    match value.abs() {
        1e3..1e15 => whole(value.round() as i64),
        _ => format!("{value:.3}"),
    }
}

pub fn moments(moments: &[anomaly::Moment]) -> Vec<Moment> {
    let shown = moments.iter().map(|moment| Moment {
        kind: cell(&moment.moment_type),
        key: cell(&moment.key),
        metric: cell(&moment.metric),
        start_ms: moment.window_start_ms,
        end_ms: moment.window_end_ms,
        value: moment.value,
        baseline: moment.baseline,
        score: moment.score,
    });
    shown.collect()
}

pub fn letters(letters: &[DeadLetter]) -> Letters {
    let mut newest = Letters::default();
    // Found before they are made into text, for there may be many.
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut wanted: Vec<&DeadLetter> = letters.iter().rev().collect();
    wanted.retain(|letter| {
        let count = counts.entry(&letter.reason).or_default();
        *count += 1;
        *count <= LETTERS_OF_A_REASON
    });
    for letter in wanted.into_iter().rev() {
        newest.push(Letter {
            at_ms: letter.at_ms,
            topic: letter.topic.clone(),
            place: Some((letter.partition, letter.offset)),
            reason: letter.reason.clone(),
            content: Some(Content::new(&letter.detail, letter.payload.as_deref())),
        });
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, start_ms: i64, count: i64, is_final: bool) -> WindowRow {
        WindowRow {
            key: key.into(),
            start_ms,
            end_ms: start_ms + 60_000,
            values: vec![Value::Integer(count)],
            is_final,
            revision: 0,
            is_approximate: false,
        }
    }

    #[test]
    fn the_newest_final_windows_with_most_are_shown() {
        let mut rows: Vec<WindowRow> = (0..100).map(|n| row(&format!("k{n}"), 0, n, true)).collect();
        rows.push(row("k99", 10_000, 1, false));
        rows.push(row("k5", 10_000, 1, true));
        let shown = windows(&rows);
        assert_eq!(shown.len(), KEYS);
        let of =
            |key: &str| shown.iter().find(|window| window.key == key).map(|window| (window.start_ms, window.weight));
        assert_eq!(of("k5"), Some((10_000, 1.0)), "the newest first");
        assert_eq!(of("k99"), Some((0, 99.0)), "final before provisional");
        assert_eq!((of("k81"), of("k80")), (Some((0, 81.0)), None), "then by the first measure");
    }

    #[test]
    fn values_are_short_text() {
        let counts: Vec<(String, i64)> = (0..500).map(|n| (format!("word{n}"), n)).collect();
        assert!(text(&Value::Counts(counts)).chars().count() <= 36);
        assert_eq!(text(&Value::TextList(vec!["a\u{202e}".to_owned(), "b\n".to_owned()])), "a\\u{202e}, b\\n");
        let numbers = [1.0, 0.12345, -2.5, 1e9, 0.0, -1234.5].map(|value| text(&Value::Float(value)));
        assert_eq!(numbers, ["1.000", "0.123", "-2.500", "1,000,000,000", "0.000", "-1,235"]);
        assert_eq!(text(&Value::Integer(i64::MIN)), "-9,223,372,036,854,775,808");
        assert_eq!(text(&Value::Null), "");
    }
}
