//! A user's own measurements: two columns of CSV, evenly spaced in time.

use crate::clock;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use std::{collections::HashMap, io::Read};
use thiserror::Error;

/// One row; the value is `None` where its cell is empty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub start_ms: i64,
    pub value: Option<f64>,
}

/// Rows in order of time, each a whole number of steps after the one before.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The header's name of the values, if there is a header.
    pub name: Option<String>,
    pub step_ms: i64,
    pub points: Vec<Point>,
    /// Steps between the first row and the last that have no row.
    pub missing_rows: u64,
}

#[derive(Debug, Error)]
pub enum SeriesError {
    #[error("it is not readable as CSV: {0}")]
    Csv(#[from] csv::Error),
    #[error("line {line}: {columns} columns; keep two (timestamp,value), or name the two so in a header")]
    Columns { line: u64, columns: usize },
    #[error("line {line}: the timestamp {text:?} is neither ISO-8601 nor seconds or milliseconds since 1970")]
    Timestamp { line: u64, text: String },
    #[error("line {line}: the value {text:?} is not a number; leave the cell empty where there is none")]
    Value { line: u64, text: String },
    #[error("line {line}: {time} is not later than the row before it; sort the rows by time and keep one for each")]
    NotLater { line: u64, time: String },
    #[error(
        "line {line}: {time} is {seconds} s after the row before it, no multiple of the {step_seconds} s between most \
         rows; bring the rows to an even spacing (rows may be missing, but not lie between)"
    )]
    Uneven { line: u64, time: String, seconds: f64, step_seconds: f64 },
    #[error("{rows} rows: at least three are needed to know their spacing")]
    TooFew { rows: usize },
}

/// UTC, as all times are printed.
pub fn format_time(time_ms: i64) -> String {
    clock::iso(time_ms.saturating_mul(1_000))
}

/// Milliseconds since 1970. Without a zone UTC is meant; a bare number is seconds, or from 100,000,000,000 (the year
/// 5138 as seconds, 1973 as milliseconds) milliseconds.
fn parse_time(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<f64>() {
        let time_ms = if number.abs() < 1e11 { number * 1e3 } else { number };
        return (time_ms.abs() < 8e15).then(|| time_ms.round() as i64);
    }
    let text = text.replacen(' ', "T", 1);
    if let Ok(time) = DateTime::parse_from_rfc3339(&text) {
        return Some(time.timestamp_millis());
    }
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(&text, format).ok())
        .or_else(|| NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))?;
    Some(naive.and_utc().timestamp_millis())
}

fn parse_value(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Which columns are read.
struct Columns {
    time: usize,
    value: usize,
    name: Option<String>,
}

/// The first record is a header if neither of its cells is what it would be in a row.
fn columns(first: &csv::StringRecord, line: u64) -> Result<(Columns, bool), SeriesError> {
    let named = |name: &str| first.iter().position(|cell| cell.eq_ignore_ascii_case(name));
    let (time, value) = match (first.len(), named("timestamp"), named("value")) {
        (2, _, _) => (0, 1),
        (_, Some(time), Some(value)) => (time, value),
        (columns, _, _) => return Err(SeriesError::Columns { line, columns }),
    };
    let is_header = parse_time(&first[time]).is_none() && parse_value(&first[value]).is_none();
    let name = (is_header && !first[value].is_empty()).then(|| first[value].to_owned());
    Ok((Columns { time, value, name }, is_header))
}

/// Reads and checks all rows.
pub fn read(input: impl Read) -> Result<Series, SeriesError> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(input);
    let mut chosen: Option<Columns> = None;
    let mut rows: Vec<(u64, Point)> = Vec::new();
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, |position| position.line());
        if record.iter().all(str::is_empty) {
            continue;
        }
        let columns = match &chosen {
            Some(columns) => columns,
            None => {
                let (columns, is_header) = columns(&record, line)?;
                let columns = chosen.insert(columns);
                if is_header {
                    continue;
                }
                columns
            }
        };
        let (Some(time), Some(value)) = (record.get(columns.time), record.get(columns.value)) else {
            return Err(SeriesError::Columns { line, columns: record.len() });
        };
        let start_ms = parse_time(time).ok_or_else(|| SeriesError::Timestamp { line, text: time.to_owned() })?;
        let value = match value {
            "" => None,
            text => Some(parse_value(text).ok_or_else(|| SeriesError::Value { line, text: text.to_owned() })?),
        };
        rows.push((line, Point { start_ms, value }));
    }
    check(rows, chosen.and_then(|columns| columns.name))
}

fn check(rows: Vec<(u64, Point)>, name: Option<String>) -> Result<Series, SeriesError> {
    if rows.len() < 3 {
        return Err(SeriesError::TooFew { rows: rows.len() });
    }
    let mut counts: HashMap<i64, u64> = HashMap::new();
    for pair in rows.windows(2) {
        let (before, (line, point)) = (&pair[0].1, &pair[1]);
        let difference_ms = point.start_ms - before.start_ms;
        if difference_ms <= 0 {
            return Err(SeriesError::NotLater { line: *line, time: format_time(point.start_ms) });
        }
        *counts.entry(difference_ms).or_default() += 1;
    }
    // The commonest, of equally common ones the least.
    let step_ms = counts.iter().max_by_key(|(step_ms, count)| (**count, -**step_ms)).map_or(1, |(step_ms, _)| *step_ms);
    let mut missing_rows = 0;
    for pair in rows.windows(2) {
        let (before, (line, point)) = (&pair[0].1, &pair[1]);
        let difference_ms = point.start_ms - before.start_ms;
        if difference_ms % step_ms != 0 {
            return Err(SeriesError::Uneven {
                line: *line,
                time: format_time(point.start_ms),
                seconds: difference_ms as f64 / 1e3,
                step_seconds: step_ms as f64 / 1e3,
            });
        }
        missing_rows += (difference_ms / step_ms - 1) as u64;
    }
    Ok(Series { name, step_ms, points: rows.into_iter().map(|(_, point)| point).collect(), missing_rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(text: &str) -> Vec<(i64, Option<f64>)> {
        read(text.as_bytes()).unwrap().points.iter().map(|point| (point.start_ms, point.value)).collect()
    }

    fn error(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn times_of_every_form() {
        let minute = 1_736_943_840_000;
        let forms = [
            "2025-01-15T12:24:00Z",
            "2025-01-15T12:24:00.000Z",
            "2025-01-15 12:24:00",
            "2025-01-15T12:24",
            "2025-01-15T13:24:00+01:00",
            "2025-01-15 13:24:00+01:00",
            "1736943840",
            "1736943840.0",
            "1736943840000",
        ];
        for form in forms {
            assert_eq!(parse_time(form), Some(minute), "{form}");
        }
        assert_eq!(parse_time("2025-01-15"), Some(minute - 44_640_000));
        for form in ["", "noon", "2025-02-30", "2025-01-15T25:00:00", "NaN", "inf", "15/01/2025"] {
            assert_eq!(parse_time(form), None, "{form}");
        }
    }

    #[test]
    fn a_header_may_be_there_and_cells_quoted_or_empty() {
        let expected = [(0, Some(1.5)), (60_000, None), (120_000, Some(-2e3))];
        assert_eq!(points("0,1.5\n60,\n120,-2e3\n"), expected);
        assert_eq!(points("when,how many\r\n\"0\",\"1.5\"\r\n60,\r\n\r\n120, -2e3"), expected);
        assert_eq!(points("\u{feff}0,1.5\n60,\n120,-2e3\n"), expected);
        assert_eq!(points("\u{feff}timestamp,key,value\n0,a,1.5\n60,b,\n120,c,-2e3\n"), expected);
        assert_eq!(points("key,value,Timestamp\na,1.5,0\nb,,60\nc,-2e3,120\n"), expected);
        assert_eq!(read("t,load\n0,1\n1,1\n2,1\n".as_bytes()).unwrap().name.as_deref(), Some("load"));
    }

    #[test]
    fn the_step_is_what_most_rows_are_apart() {
        let series = read("0,1\n120,1\n180,1\n240,1\n420,1\n".as_bytes()).unwrap();
        assert_eq!((series.step_ms, series.missing_rows), (60_000, 3));
    }

    #[test]
    fn a_fault_names_its_line_and_the_cure() {
        assert_eq!(
            error("0,1\n60,1\n60,2\n"),
            "line 3: 1970-01-01T00:01:00Z is not later than the row before it; sort the rows by time and keep one for each"
        );
        assert!(error("t,v\n0,1\n60,1\n120,1\n150,1\n").starts_with("line 5: 1970-01-01T00:02:30Z is 30 s after"));
        assert!(error("t,v\n0,1\nnoon,1\n").starts_with("line 3: the timestamp \"noon\""));
        assert!(error("t,v\n0,1\n60,many\n").starts_with("line 3: the value \"many\""));
        assert!(error("t,v\n0,1\n60\n").starts_with("line 3: 1 columns"));
        assert!(error("noon,1\n0,1\n").starts_with("line 1: the timestamp"));
        assert!(error("a,b,c\n0,1,2\n").starts_with("line 1: 3 columns"));
        assert!(error("t,v\n0,1\n60,inf\n").starts_with("line 3: the value"));
        assert!(error("t,v\n0,1\n").starts_with("1 rows"));
        assert!(error("").starts_with("0 rows"));
    }
}
