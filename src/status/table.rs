//! A status as a table for a terminal.

use super::{Status, UnitLine};
use crate::{app::group_digits, visible::visible};
use std::fmt::Write;

/// Between two columns.
const GAP: &str = "  ";

/// A span of time, short: `40 ms`, `1.2 s`, `12 s`, `5 min`, `3 h`, `2 d`.
pub fn seconds(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    match seconds {
        ..0.9995 => format!("{:.0} ms", seconds * 1e3),
        ..9.95 => format!("{seconds:.1} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

/// The same of times that are known to the second: `3 s`, `5 min`.
pub fn passed(now_seconds: f64, then_seconds: f64) -> String {
    match (now_seconds - then_seconds).max(0.0).floor() {
        few @ ..10.0 => format!("{few:.0} s"),
        more => seconds(more),
    }
}

/// How long ago something was: `12 s ago`, `just now`.
pub fn age(now_seconds: f64, then_seconds: f64) -> String {
    match now_seconds - then_seconds {
        ..1.0 => "just now".to_owned(),
        _ => format!("{} ago", passed(now_seconds, then_seconds)),
    }
}

/// A rate with a digit behind the point where it is small.
pub fn rate(rows_per_second: f64) -> String {
    match rows_per_second {
        ..0.05 => "0".to_owned(),
        ..99.95 => format!("{rows_per_second:.1}"),
        large => group_digits(large.round() as u64),
    }
}

fn known(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), group_digits)
}

/// A cell, and whether it is a number.
type Cell = (String, bool);

fn text(text: &str) -> Cell {
    (visible(text).into_owned(), false)
}

fn number(text: String) -> Cell {
    (text, true)
}

/// Lines without control characters of others, the last one with its end.
pub fn table(status: &Status) -> String {
    let now = status.now_seconds;
    let is_plural = status.pipelines().len() > 1;
    let heading = columns(is_plural).iter().map(|(name, is_number)| ((*name).to_owned(), *is_number));
    let mut rows = vec![heading.collect()];
    for unit in &status.units {
        let prefix = is_plural.then(|| text(&unit.pipeline));
        rows.push(prefix.into_iter().chain(unit_cells(unit, now)).collect());
        for line in unit.partitions() {
            let prefix = is_plural.then(|| text(""));
            let state = match (&line.trouble, line.position) {
                (Some(trouble), _) => trouble.clone(),
                (None, Some(position)) => format!("at {}", group_digits(position.unsigned_abs())),
                (None, None) => String::new(),
            };
            let last_commit = line.last_commit_seconds.map_or_else(String::new, |then| age(now, then as f64));
            let cells = [
                text(""),
                text(&format!("  {}", line.name)),
                text(&state),
                number(String::new()),
                number(String::new()),
                number(known(line.lag)),
                number(String::new()),
                number(String::new()),
                text(&last_commit),
            ];
            rows.push(prefix.into_iter().chain(cells).collect());
        }
    }
    let mut shown = format!("{}\n\n", headline(status));
    write_rows(&mut shown, &rows);
    let troubles: String = status.units.iter().map(|unit| troubles(unit, now)).collect();
    if !troubles.is_empty() {
        shown.push('\n');
        shown.push_str(&troubles);
    }
    shown
}

fn headline(status: &Status) -> String {
    let Status { version, ready, now_seconds, started_seconds, cpu_seconds, resident_bytes, units, .. } = status;
    let ready_units = units.iter().filter(|unit| unit.is_ready()).count();
    let verdict = if *ready { "ready".to_owned() } else { format!("NOT ready, {ready_units} of {} are", units.len()) };
    let uptime = passed(*now_seconds, *started_seconds);
    let memory = resident_bytes.map_or_else(String::new, |bytes| format!(", {} MiB", bytes >> 20));
    format!("headwater {}: {verdict}; up {uptime}, {cpu_seconds:.1} CPU s{memory}", visible(version))
}

/// What is told of a unit, and whether it is a number; the pipeline only where there are several.
pub fn columns(is_plural: bool) -> &'static [(&'static str, bool)] {
    const ALL: [(&str, bool); 10] = [
        ("pipeline", false),
        ("stage", false),
        ("table, topic, job", false),
        ("state", false),
        ("rows/s", true),
        ("delay", true),
        ("lag", true),
        ("rows", true),
        ("dead letters", true),
        ("last commit", false),
    ];
    &ALL[usize::from(!is_plural)..]
}

fn unit_cells(unit: &UnitLine, now: f64) -> [Cell; 9] {
    [
        text(&unit.stage),
        text(&unit.unit),
        text(&unit.state),
        number(rate(unit.rows_per_second)),
        number(unit.delay_seconds.map_or_else(|| "-".to_owned(), seconds)),
        number(known(unit.lag_records)),
        number(group_digits(unit.rows)),
        number(group_digits(unit.dead_letters)),
        text(&unit.last_commit_seconds.map_or_else(|| "-".to_owned(), |then| age(now, then))),
    ]
}

/// Why a unit is as it is, and what went wrong last.
fn troubles(unit: &UnitLine, now: f64) -> String {
    let UnitLine { stage, unit: name, state, reason, since_seconds, last_error, last_error_seconds, .. } = unit;
    let name = visible(name);
    let mut lines = String::new();
    if let Some(reason) = reason {
        let long = passed(now, *since_seconds as f64);
        let _ = writeln!(lines, "{stage} {name}: {state} for {long}: {}", visible(reason));
    }
    if let Some(error) = last_error.as_ref().filter(|error| Some(*error) != reason.as_ref()) {
        let when = last_error_seconds.map_or_else(String::new, |then| format!(" {}", age(now, then as f64)));
        let _ = writeln!(lines, "{stage} {name}: last error{when}: {}", visible(error));
    }
    lines
}

/// Columns as wide as their widest cell, numbers to the right.
fn write_rows(shown: &mut String, rows: &[Vec<Cell>]) {
    let count = rows.first().map_or(0, Vec::len);
    let width = |cell: &Cell| cell.0.chars().count();
    let widths: Vec<usize> = (0..count).map(|n| rows.iter().map(|row| width(&row[n])).max().unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if n == 0 { "" } else { GAP };
            let _ = match cell {
                (text, true) => write!(line, "{gap}{text:>width$}"),
                (text, false) => write!(line, "{gap}{text:<width$}"),
            };
        }
        let _ = writeln!(shown, "{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn unit(stage: &str, name: &str, more: serde_json::Value) -> serde_json::Value {
        let mut unit = json!({
            "pipeline": "shop", "stage": stage, "unit": name, "state": "caught_up", "since_seconds": 990,
            "rows": 1234567, "rows_per_second": 12.34, "dead_letters": 0, "delay_seconds": 0.12, "lag_records": null,
            "last_commit_seconds": 998.0, "last_error": null, "last_error_seconds": null, "detail": {}
        });
        unit.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        unit
    }

    fn status(ready: bool, units: &[serde_json::Value]) -> Status {
        let status = json!({
            "version": "0.1.0", "ready": ready, "now_seconds": 1000.0, "started_seconds": 800.0,
            "cpu_seconds": 4.25, "resident_bytes": 35 << 20, "peak_rss_bytes": 0, "units": units
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn units_partitions_and_troubles() {
        let detail = json!({"partitions": {"0": {"position": 1240, "committed": 1234, "end": 1250, "lag": 16,
            "last_commit": 940}, "1": {"waiting": "held by pid 7"}}});
        let units = [
            unit("capture", "public.orders", json!({"last_error": "PostgreSQL went away", "last_error_seconds": 700})),
            unit(
                "land",
                "orders",
                json!({"state": "failing", "reason": "disk\u{1b}[2J full", "detail": detail,
                "last_error": "disk\u{1b}[2J full", "lag_records": 16, "delay_seconds": 75.0}),
            ),
        ];
        let expected = "\
headwater 0.1.0: NOT ready, 1 of 2 are; up 3 min, 4.2 CPU s, 35 MiB

stage    table, topic, job  state          rows/s   delay  lag       rows  dead letters  last commit
capture  public.orders      caught_up        12.3  120 ms    -  1,234,567             0  2 s ago
land     orders             failing          12.3    75 s   16  1,234,567             0  2 s ago
           0                at 1,240                        16                           60 s ago
           1                held by pid 7                    -

capture public.orders: last error 5 min ago: PostgreSQL went away
land orders: failing for 10 s: disk\\u{1b}[2J full
";
        assert_eq!(table(&status(false, &units)), expected);
    }

    #[test]
    fn several_pipelines_are_named() {
        let units = [unit("land", "a", json!({})), unit("land", "b", json!({"pipeline": "other"}))];
        let shown = table(&status(true, &units));
        assert!(shown.starts_with("headwater 0.1.0: ready; up 3 min"), "{shown}");
        assert!(shown.contains("\npipeline  stage  table"), "{shown}");
        assert!(shown.contains("\nother     land   b "), "{shown}");
        assert!(!table(&status(true, &units[..1])).contains("pipeline"));
    }

    #[test]
    fn times_and_rates_are_short() {
        let spans = [0.0, 0.04, 0.9996, 9.94, 9.96, 119.0, 120.0, 7_199.0, 7_200.0, 200_000.0].map(seconds);
        assert_eq!(spans, ["0 ms", "40 ms", "1.0 s", "9.9 s", "10 s", "119 s", "2 min", "120 min", "2 h", "2 d"]);
        assert_eq!([age(10.0, 9.5), age(10.0, 12.0), age(70.9, 10.0)], ["just now", "just now", "60 s ago"]);
        assert_eq!([0.01, 0.3, 99.9, 99.96, 12_345.6].map(rate), ["0", "0.3", "99.9", "100", "12,346"]);
    }
}
