//! A window of the table against the recomputed one. Pure.
//!
//! Where `late_events` lists events of the window, rows may lack these: as many, over all keys, as are
//! listed. Where copies of an event leave open which of them counted, rows may differ by these. What
//! either explains is reported apart.

use super::{
    recompute::{Cell, Precision, Row, Window},
    report::{Findings, Kind},
    spec::Spec,
};
use crate::{clock::iso, config::model::Function};
use std::collections::BTreeMap;

/// A row of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub key: String,
    pub start_us: i64,
    pub end_us: i64,
    pub is_final: bool,
    pub is_approximate: bool,
    pub cells: Vec<Cell>,
}

/// The error of an estimated count.
const ESTIMATE_ERROR: f64 = 0.02;
/// Floats that are added up and divided in another order may differ by so much.
pub const FLOAT_ERROR: f64 = 1e-12;

/// What the comparison of windows is about.
pub struct Comparison<'a> {
    pub spec: &'a Spec,
    /// The table, as reports name it.
    pub table: &'a str,
    /// The topics of the inputs.
    pub topics: Vec<&'a str>,
}

/// Something that late events or copies may explain.
struct Excused {
    kind: Kind,
    key: String,
    what: String,
    by_late: bool,
}

/// One window while its rows are compared. The sums are by input.
struct Scene<'a> {
    number: i64,
    place: String,
    /// Late events.
    listed: &'a [i64],
    /// Events that the rows lack for sure.
    lacking: Vec<i64>,
    /// Further ones that may be among the listed: copies that came late, events of keys without a row.
    perhaps: Vec<i64>,
    /// Events of which it is not certain whether they counted.
    uncertain: Vec<i64>,
    excused: Vec<Excused>,
    findings: &'a mut Findings,
}

impl Scene<'_> {
    fn find(&mut self, kind: Kind, key: String, what: String) {
        self.findings.add(kind, key, self.place.clone(), what);
    }
}

impl Comparison<'_> {
    /// `window` is None where no event falls into it; `listed` are its late events by input.
    pub fn window(
        &self,
        number: i64,
        window: Option<&Window>,
        stored: Vec<Stored>,
        listed: &[i64],
        findings: &mut Findings,
    ) {
        let counts = &mut findings.counts;
        counts.windows += 1;
        counts.rows += stored.len() as u64;
        counts.late_windows += u64::from(listed.iter().any(|count| *count > 0));
        counts.late_events += listed.iter().sum::<i64>().max(0) as u64;
        counts.approximate_rows += stored.iter().filter(|row| row.is_approximate).count() as u64;
        let start_us = self.spec.start_ms(number) * 1_000;
        let zeros = vec![0; self.spec.inputs()];
        let place = format!("{} {}", self.table, iso(start_us));
        let (lacking, perhaps, uncertain) = (zeros.clone(), zeros.clone(), zeros);
        let mut scene = Scene { number, place, listed, lacking, perhaps, uncertain, excused: Vec::new(), findings };
        if let Some(window) = window {
            let sums = window.copies.iter().zip(&window.outside).map(|(copies, outside)| (copies + outside) as i64);
            scene.perhaps = sums.collect();
        }
        let mut own = BTreeMap::new();
        for row in stored {
            if row.start_us == start_us {
                own.insert(row.key.clone(), row);
            } else {
                let what = "no window of the job begins then".to_owned();
                let place = format!("{} {}", self.table, iso(row.start_us));
                scene.findings.add(Kind::Unexpected, row.key, place, what);
            }
        }
        for row in window.map_or(&[][..], |window| &window.rows) {
            match own.remove(&*row.key) {
                Some(stored) => self.row(row, &stored, &mut scene),
                None => self.without_row(row, &mut scene),
            }
        }
        for (key, row) in own {
            let what = format!("no event gives this row: {}", self.shown_row(&row));
            scene.find(Kind::Unexpected, key, what);
        }
        self.settle(scene);
    }

    fn shown_row(&self, row: &Stored) -> String {
        let columns = self.spec.columns.iter().zip(&row.cells);
        columns.map(|(column, cell)| format!("{} {}", column.name, shown(cell))).collect::<Vec<_>>().join(", ")
    }

    /// A row that should be there, or may be.
    fn without_row(&self, row: &Row, scene: &mut Scene<'_>) {
        if !row.is_expected {
            return;
        }
        // Without its row a key lacks all events that make one.
        let is_deciding = |input: usize| self.spec.is_full_join || input == 0;
        let certain: Vec<i64> =
            row.events.iter().zip(&row.uncertain).map(|(all, open)| all.saturating_sub(*open) as i64).collect();
        let inputs = || (0..self.spec.inputs()).filter(|input| row.events[*input] > 0);
        let is_excused =
            inputs().filter(|input| is_deciding(*input)).all(|input| certain[input] <= scene.listed[input]);
        let events: Vec<String> =
            inputs().map(|input| format!("{} of {}", row.events[input], self.topics[input])).collect();
        let what = format!("missing; its events: {}", events.join(", "));
        if !is_excused {
            scene.find(Kind::Missing, row.key.to_string(), what);
            return;
        }
        for input in inputs() {
            scene.uncertain[input] += row.uncertain[input] as i64;
            let sum = if is_deciding(input) { &mut scene.lacking } else { &mut scene.perhaps };
            sum[input] += certain[input];
        }
        let by_late = certain.iter().any(|count| *count > 0);
        scene.excused.push(Excused { kind: Kind::Missing, key: row.key.to_string(), what, by_late });
    }

    fn row(&self, row: &Row, stored: &Stored, scene: &mut Scene<'_>) {
        let mut wrong = self.fixed_columns(row, stored, scene.listed);
        let mut open = Vec::new();
        let mut by_late = false;
        let lacking: Vec<Option<i64>> = (0..self.spec.inputs()).map(|input| self.lacking(row, stored, input)).collect();
        for (input, count) in lacking.iter().enumerate() {
            scene.lacking[input] += count.unwrap_or(0);
            scene.uncertain[input] += row.uncertain[input] as i64;
        }
        for (index, column) in self.spec.columns.iter().enumerate() {
            let (cell, precision) = &row.cells[index];
            let found = &stored.cells[index];
            if *precision == Precision::Limited && stored.is_approximate {
                scene.findings.counts.tallies_skipped += 1;
                continue;
            }
            if is_equal(cell, found, *precision == Precision::Estimated && stored.is_approximate) {
                continue;
            }
            let (late, uncertain) = (scene.listed[column.input], row.uncertain[column.input] as i64);
            let most = match lacking[column.input] {
                // More or fewer events than anything explains.
                Some(count) if count < -uncertain || count > late + uncertain => 0,
                Some(count) => count.abs() + uncertain,
                None => late + uncertain,
            };
            let what = format!("{}: table {}, recomputed {}", column.name, shown(found), shown(cell));
            if most > 0 && is_within(cell, found, most, uncertain > 0) {
                by_late |= late > 0;
                open.push(what);
            } else {
                wrong.push(what);
            }
        }
        if !wrong.is_empty() {
            wrong.append(&mut open);
            scene.find(Kind::Differing, stored.key.clone(), wrong.join("; "));
        } else if !open.is_empty() {
            let (key, what) = (stored.key.clone(), open.join("; "));
            scene.excused.push(Excused { kind: Kind::Differing, key, what, by_late });
        }
    }

    /// What is written for every window by itself.
    fn fixed_columns(&self, row: &Row, stored: &Stored, listed: &[i64]) -> Vec<String> {
        let mut wrong = Vec::new();
        let end_us = stored.start_us.saturating_add(self.spec.size_ms * 1_000);
        if stored.end_us != end_us {
            let (found, right) = (iso(stored.end_us), iso(end_us));
            wrong.push(format!("window_end: table {found}, recomputed {right}"));
        }
        if !stored.is_final {
            wrong.push("is_final: table false, but the window is over".to_owned());
        }
        let may_be = row.is_inexact || row.cells.iter().any(|(_, precision)| *precision != Precision::Exact);
        // Where not all counts can be shown; events that the row lacks may be what makes one too many.
        let is_limited = self.spec.columns.iter().zip(&row.cells).any(|(column, (_, precision))| {
            let is_certain = listed[column.input] == 0 && row.uncertain[column.input] == 0;
            *precision == Precision::Limited && matches!(column.function, Function::Counts { .. }) && is_certain
        });
        let is_uncertain = row.uncertain.iter().any(|count| *count > 0);
        if stored.is_approximate && !may_be && !is_uncertain {
            wrong.push("approximate: table true, but no value needs an estimate".to_owned());
        }
        if !stored.is_approximate && is_limited {
            wrong.push("approximate: table false, but not all counts are kept".to_owned());
        }
        wrong
    }

    /// Events of the input that the row lacks, where a column tells.
    fn lacking(&self, row: &Row, stored: &Stored, input: usize) -> Option<i64> {
        let column = self.spec.count_column(input)?;
        let count = match &stored.cells[column] {
            Cell::Integer(count) => *count,
            Cell::Float(rate) => (rate * self.spec.size_ms as f64 / 1e3).round() as i64,
            _ => return None,
        };
        Some(row.events[input] as i64 - count)
    }

    /// Late events explain what they may explain only if there are as many as are lacking. Where a row
    /// is wrong for sure, the sums tell nothing.
    fn settle(&self, scene: Scene<'_>) {
        let Scene { number, place, listed, lacking, perhaps, uncertain, excused, findings } = scene;
        let mut wrong = Vec::new();
        for (input, topic) in self.topics.iter().enumerate() {
            let (listed, lacking, uncertain) = (listed[input], lacking[input], uncertain[input]);
            let possible = lacking - uncertain..=lacking + perhaps[input] + uncertain;
            if self.spec.count_column(input).is_none() {
                findings.counts.late_unchecked += u64::from(listed > 0);
            } else if !possible.contains(&listed) {
                wrong.push((topic, format!("late_events lists {listed} of {topic}, {lacking} are missing")));
            }
        }
        if wrong.is_empty() || findings.has_at(&place) {
            for Excused { key, what, by_late, .. } in excused {
                findings.explain(by_late, key, place.clone(), what);
            }
        } else if excused.is_empty() {
            let start = iso(self.spec.start_ms(number) * 1_000);
            for (topic, words) in wrong {
                findings.add(Kind::Differing, (*topic).to_owned(), format!("late_events {start}"), words);
            }
        } else {
            let sums: Vec<String> = wrong.into_iter().map(|(_, words)| words).collect();
            for Excused { kind, key, what, .. } in excused {
                findings.add(kind, key, place.clone(), format!("{what} ({})", sums.join("; ")));
            }
        }
    }
}

fn is_equal(one: &Cell, other: &Cell, is_estimate: bool) -> bool {
    match (one, other) {
        (Cell::Integer(one), Cell::Integer(other)) if is_estimate => {
            (one - other).abs() as f64 <= (*one as f64 * ESTIMATE_ERROR).max(1.0)
        }
        (Cell::Float(one), Cell::Float(other)) => {
            one == other || (one - other).abs() <= FLOAT_ERROR * one.abs().max(other.abs())
        }
        _ => one == other,
    }
}

/// Whether a value can come of so many events less, or (`either_way`) of others.
fn is_within(recomputed: &Cell, stored: &Cell, events: i64, either_way: bool) -> bool {
    match (recomputed, stored) {
        (Cell::Integer(one), Cell::Integer(other)) => (one - other).abs() <= events && (either_way || other <= one),
        (Cell::Counts(one), Cell::Counts(other)) => {
            either_way || other.iter().all(|(name, count)| one.get(name).is_some_and(|all| count <= all))
        }
        _ => true,
    }
}

/// A cell is shown up to here.
const SHOWN_CHARACTERS: usize = 60;

pub fn shown(cell: &Cell) -> String {
    let text = match cell {
        Cell::Null => "null".to_owned(),
        Cell::Integer(value) => value.to_string(),
        Cell::Float(value) => value.to_string(),
        Cell::List(values) => format!("{values:?}"),
        Cell::Counts(counts) => {
            let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            format!("{{{}}}", counts.join(", "))
        }
    };
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Of the function, as the table holds it.
pub fn sql_type(function: &Function) -> &'static str {
    match function {
        Function::Count
        | Function::Distinct { .. }
        | Function::SentimentPositive { .. }
        | Function::SentimentNegative { .. } => "int8",
        Function::TopK { .. } => "text[]",
        Function::Counts { .. } => "text",
        _ => "float8",
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            recompute::Row,
            spec::tests::{field, job},
        },
        *,
    };
    use crate::verify::windows::report::JobReport;

    fn spec() -> Spec {
        Spec::new(&job(&[
            (0, Function::Count),
            (0, Function::Distinct { field: field("u") }),
            (0, Function::Counts { field: field("e") }),
            (1, Function::Avg { field: field("v") }),
        ]))
    }

    fn cells(count: i64, users: i64, emotes: i64, viewers: f64) -> Vec<Cell> {
        let emotes = Cell::Counts([("Kappa".to_owned(), emotes)].into());
        vec![Cell::Integer(count), Cell::Integer(users), emotes, Cell::Float(viewers)]
    }

    fn row(key: &str, events: u64, cells: Vec<Cell>) -> Row {
        Row {
            key: key.into(),
            is_expected: true,
            events: vec![events, 1],
            uncertain: vec![0, 0],
            cells: cells.into_iter().map(|cell| (cell, Precision::Exact)).collect(),
            is_inexact: false,
        }
    }

    fn stored(key: &str, cells: Vec<Cell>) -> Stored {
        let (is_final, is_approximate) = (true, false);
        Stored { key: key.to_owned(), start_us: 60_000_000, end_us: 120_000_000, is_final, is_approximate, cells }
    }

    fn window(rows: Vec<Row>) -> Window {
        Window { number: 6, rows, copies: vec![0, 0], outside: vec![0, 0] }
    }

    fn compared(spec: &Spec, window: Option<&Window>, stored: Vec<Stored>, listed: [i64; 2]) -> JobReport {
        let comparison = Comparison { spec, table: "t", topics: vec!["chat", "viewer"] };
        let mut findings = Findings::new(20);
        comparison.window(6, window, stored, &listed, &mut findings);
        findings.into_report(JobReport::default())
    }

    /// Missing, unexpected, differing, explained by late events, explained by copies.
    fn found(report: &JobReport) -> [u64; 5] {
        let counts = &report.counts;
        [
            counts.missing_count,
            counts.unexpected_count,
            counts.differing_count,
            counts.explained_by_late,
            counts.explained_by_copies,
        ]
    }

    #[test]
    fn every_difference_is_named() {
        let spec = spec();
        let right = window(vec![row("s1", 5, cells(5, 3, 7, 1.5)), row("s2", 1, cells(1, 1, 0, 2.0))]);
        let (one, two) = (stored("s1", cells(5, 3, 7, 1.5)), stored("s2", cells(1, 1, 0, 2.0)));
        let report = compared(&spec, Some(&right), vec![one.clone(), two.clone()], [0, 0]);
        assert_eq!(found(&report), [0; 5]);
        assert_eq!((report.counts.windows, report.counts.rows), (1, 2));

        let report = compared(&spec, Some(&right), vec![one.clone()], [0, 0]);
        assert_eq!(found(&report), [1, 0, 0, 0, 0]);
        assert_eq!(report.missing[0].place, "t 1970-01-01T00:01:00Z");
        assert_eq!(report.missing[0].what, "missing; its events: 1 of chat, 1 of viewer");

        let report = compared(&spec, None, vec![one.clone()], [0, 0]);
        assert_eq!(found(&report), [0, 1, 0, 0, 0]);
        let odd = Stored { start_us: 60_000_001, ..one.clone() };
        let report = compared(&spec, Some(&right), vec![one.clone(), two.clone(), odd], [0, 0]);
        assert_eq!(found(&report), [0, 1, 0, 0, 0]);

        let wrong = Stored { end_us: 0, is_final: false, is_approximate: true, ..stored("s1", cells(5, 4, 7, 1.25)) };
        let report = compared(&spec, Some(&right), vec![wrong, two.clone()], [0, 0]);
        assert_eq!(found(&report), [0, 0, 1, 0, 0]);
        for words in [
            "window_end: table 1970-01-01T00:00:00Z, recomputed 1970-01-01T00:02:00Z",
            "is_final: table false",
            "approximate: table true",
            "c1: table 4, recomputed 3",
            "c3: table 1.25, recomputed 1.5",
        ] {
            assert!(report.differing[0].what.contains(words), "{}", report.differing[0].what);
        }
    }

    #[test]
    fn late_events_explain_as_many_as_are_listed_and_nothing_else() {
        let spec = spec();
        let right = window(vec![row("s1", 5, cells(5, 3, 7, 1.5)), row("s2", 1, cells(1, 1, 0, 2.0))]);
        let (one, two) = (stored("s1", cells(5, 3, 7, 1.5)), stored("s2", cells(1, 1, 0, 2.0)));
        let less = stored("s1", cells(3, 2, 6, 1.5));
        // Two events of one key; one more is all of the other key.
        assert_eq!(found(&compared(&spec, Some(&right), vec![less.clone(), two.clone()], [2, 0])), [0, 0, 0, 1, 0]);
        assert_eq!(found(&compared(&spec, Some(&right), vec![less.clone()], [3, 0])), [0, 0, 0, 2, 0]);
        // Not as many as are listed.
        assert_eq!(found(&compared(&spec, Some(&right), vec![less.clone(), two.clone()], [3, 0])), [0, 0, 1, 0, 0]);
        assert_eq!(found(&compared(&spec, Some(&right), vec![less.clone(), two.clone()], [1, 0])), [0, 0, 1, 0, 0]);
        assert_eq!(found(&compared(&spec, Some(&right), vec![one.clone(), two.clone()], [2, 0])), [0, 0, 1, 0, 0]);
        assert_eq!(found(&compared(&spec, None, vec![], [2, 0])), [0, 0, 1, 0, 0]);
        // A copy that came late is listed as well.
        let with_copy = Window { copies: vec![1, 0], ..right.clone() };
        assert_eq!(found(&compared(&spec, Some(&with_copy), vec![less.clone(), two.clone()], [3, 0])), [0, 0, 0, 1, 0]);
        assert_eq!(found(&compared(&spec, Some(&with_copy), vec![less.clone()], [2, 0])), [1, 0, 1, 0, 0]);
        // A key that has all its events has no excuse, nor has a value that events cannot take away.
        let other = stored("s2", cells(1, 0, 0, 2.0));
        assert_eq!(found(&compared(&spec, Some(&right), vec![less.clone(), other], [2, 0])), [0, 0, 1, 1, 0]);
        let more = stored("s1", cells(3, 2, 8, 1.5));
        assert_eq!(found(&compared(&spec, Some(&right), vec![more, two.clone()], [2, 0])), [0, 0, 1, 0, 0]);
        // Late viewers excuse no chat.
        let viewers = stored("s1", cells(5, 3, 7, 9.0));
        let report = compared(&spec, Some(&right), vec![viewers.clone(), two.clone()], [0, 1]);
        assert_eq!((found(&report), report.counts.late_unchecked), ([0, 0, 0, 1, 0], 1));
        assert_eq!(found(&compared(&spec, Some(&right), vec![viewers, two], [2, 0])), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn copies_of_which_one_may_have_counted_explain_so_many_events() {
        let spec = spec();
        let uncertain = Row { uncertain: vec![1, 0], ..row("s1", 5, cells(5, 3, 7, 1.5)) };
        let right = window(vec![uncertain]);
        let with = |cells| found(&compared(&spec, Some(&right), vec![stored("s1", cells)], [0, 0]));
        assert_eq!(with(cells(5, 3, 7, 1.5)), [0; 5]);
        assert_eq!(with(cells(6, 4, 8, 1.5)), [0, 0, 0, 0, 1]);
        assert_eq!(with(cells(4, 3, 7, 1.5)), [0, 0, 0, 0, 1]);
        assert_eq!(with(cells(7, 3, 7, 1.5)), [0, 0, 1, 0, 0]);
        assert_eq!(with(cells(5, 3, 7, 1.0)), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn estimates_may_be_off_by_two_in_a_hundred() {
        let spec = spec();
        let mut large = row("s1", 1_000, cells(1_000, 1_000, 7, 1.5));
        large.cells[1].1 = Precision::Estimated;
        large.cells[2].1 = Precision::Limited;
        let right = window(vec![large]);
        let with = |users, is_approximate| {
            let row = Stored { is_approximate, ..stored("s1", cells(1_000, users, 3, 1.5)) };
            compared(&spec, Some(&right), vec![row], [0, 0])
        };
        let report = with(1_020, true);
        assert_eq!((found(&report), report.counts.tallies_skipped), ([0; 5], 1));
        assert_eq!(found(&with(1_021, true)), [0, 0, 1, 0, 0]);
        let exact = with(1_000, false);
        assert_eq!(found(&exact), [0, 0, 1, 0, 0]);
        assert!(exact.differing[0].what.contains("approximate: table false"), "{}", exact.differing[0].what);
    }
}
