//! What the recomputation of a job's windows came to.

use crate::verify::{progress::grouped, report::Difference};
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct JobReport {
    pub job: String,
    pub table: String,
    pub topics: Vec<String>,
    /// Windows that begin from here on were compared. None where no window is over.
    pub compared_from: Option<String>,
    /// The job's watermark.
    pub compared_until: Option<String>,
    #[serde(flatten)]
    pub counts: JobCounts,
    /// Rows and dead letters that should be there.
    pub missing: Vec<Difference>,
    /// Rows and dead letters that should not be there.
    pub unexpected: Vec<Difference>,
    pub differing: Vec<Difference>,
    /// Moments that are there twice.
    pub duplicated: Vec<Difference>,
    /// Rows that lack what `late_events` lists, or differ by copies of which one may have counted.
    pub explained: Vec<Difference>,
    pub warnings: Vec<String>,
    pub seconds: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JobCounts {
    /// Windows with a row, or that should have one.
    pub windows: u64,
    pub rows: u64,
    /// Records that the job has read, by what they are: events, copies of events, dead letters by reason.
    pub events: u64,
    pub duplicate_events: u64,
    pub dead_letters: BTreeMap<String, u64>,
    pub moments: u64,
    /// Late events as windows list them, and those windows.
    pub late_events: u64,
    pub late_windows: u64,
    /// Windows with late events of an input that no column counts.
    pub late_unchecked: u64,
    pub explained_by_late: u64,
    pub explained_by_copies: u64,
    pub approximate_rows: u64,
    /// Columns that the stage keeps in part only.
    pub tallies_skipped: u64,
    /// Moments whose window late events have changed since.
    pub moments_revised: u64,
    pub missing_count: u64,
    pub unexpected_count: u64,
    pub differing_count: u64,
    pub duplicated_count: u64,
    /// Records that the job has not vouched for yet, and windows that are not over.
    pub pending_records: u64,
    pub pending_windows: u64,
}

impl JobCounts {
    pub fn is_equal(&self, strict: bool) -> bool {
        let pending = self.pending_records + self.pending_windows;
        self.missing_count + self.unexpected_count + self.differing_count + self.duplicated_count == 0
            && !(strict && pending > 0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Missing,
    Unexpected,
    Differing,
    Duplicated,
}

/// Collects what is found, and lists the first of each kind.
#[derive(Debug, Default)]
pub struct Findings {
    pub counts: JobCounts,
    list_limit: usize,
    lists: [Vec<Difference>; 4],
    explained: Vec<Difference>,
    last_place: String,
}

impl Findings {
    pub fn new(list_limit: usize) -> Findings {
        Findings { list_limit, ..Findings::default() }
    }

    pub fn add(&mut self, kind: Kind, key: String, place: String, what: String) {
        let counts = &mut self.counts;
        let (count, list) = match kind {
            Kind::Missing => (&mut counts.missing_count, 0),
            Kind::Unexpected => (&mut counts.unexpected_count, 1),
            Kind::Differing => (&mut counts.differing_count, 2),
            Kind::Duplicated => (&mut counts.duplicated_count, 3),
        };
        *count += 1;
        self.last_place.clone_from(&place);
        if self.lists[list].len() < self.list_limit {
            self.lists[list].push(Difference { key, place, what });
        }
    }

    /// Whether the last finding was at this place.
    pub fn has_at(&self, place: &str) -> bool {
        self.last_place == place
    }

    pub fn explain(&mut self, by_late: bool, key: String, place: String, what: String) {
        let cause = if by_late {
            self.counts.explained_by_late += 1;
            "late events"
        } else {
            self.counts.explained_by_copies += 1;
            "copies of events"
        };
        if self.explained.len() < self.list_limit {
            self.explained.push(Difference { key, place, what: format!("{what} (by {cause})") });
        }
    }

    pub fn into_report(self, report: JobReport) -> JobReport {
        let [missing, unexpected, differing, duplicated] = self.lists;
        let (counts, explained) = (self.counts, self.explained);
        JobReport { counts, missing, unexpected, differing, duplicated, explained, ..report }
    }
}

impl fmt::Display for JobReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let letters: u64 = counts.dead_letters.values().sum();
        write!(
            f,
            "job {} → {}: {} windows, {} rows, {} events, {} late, {} duplicates, {} dead letters, {} moments",
            self.job,
            self.table,
            grouped(counts.windows),
            grouped(counts.rows),
            grouped(counts.events),
            grouped(counts.late_events),
            grouped(counts.duplicate_events),
            grouped(letters),
            grouped(counts.moments),
        )?;
        let figures = [
            ("missing", counts.missing_count),
            ("unexpected", counts.unexpected_count),
            ("differing", counts.differing_count),
            ("duplicated", counts.duplicated_count),
            ("explained by late events", counts.explained_by_late),
            ("explained by copies", counts.explained_by_copies),
            ("records under way", counts.pending_records),
            ("windows under way", counts.pending_windows),
        ];
        for (name, count) in figures.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "; {name} {}", grouped(count))?;
        }
        writeln!(f, " ({:.1} s)", self.seconds)?;
        let line = |f: &mut fmt::Formatter<'_>, name: &str, count: u64| match count {
            0 => Ok(()),
            count => writeln!(f, "  {name:<34}{:>14}", grouped(count)),
        };
        if !self.is_plain() {
            for (reason, count) in &counts.dead_letters {
                line(f, reason, *count)?;
            }
            line(f, "windows with late events", counts.late_windows)?;
            line(f, "of them without a count to check", counts.late_unchecked)?;
            line(f, "approximate rows", counts.approximate_rows)?;
            line(f, "columns not compared (counts_limit)", counts.tallies_skipped)?;
            line(f, "moments of windows revised since", counts.moments_revised)?;
        }
        for (name, list, count) in [
            ("missing", &self.missing, counts.missing_count),
            ("unexpected", &self.unexpected, counts.unexpected_count),
            ("differing", &self.differing, counts.differing_count),
            ("duplicated", &self.duplicated, counts.duplicated_count),
            ("explained", &self.explained, counts.explained_by_late + counts.explained_by_copies),
        ] {
            for difference in list {
                writeln!(f, "  {name}: key {}, {}: {}", difference.key, difference.place, difference.what)?;
            }
            let more = count.saturating_sub(list.len() as u64);
            if more > 0 && !list.is_empty() {
                writeln!(f, "  {name}: and {} more", grouped(more))?;
            }
        }
        if let (Some(from), Some(until), false) = (&self.compared_from, &self.compared_until, self.is_plain()) {
            writeln!(f, "  compared: windows from {from} that were over at {until}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  warning: {warning}")?;
        }
        Ok(())
    }
}

impl JobReport {
    /// All is equal and nothing asks for more words than one line has.
    fn is_plain(&self) -> bool {
        let counts = &self.counts;
        counts.is_equal(true) && counts.late_windows == 0 && counts.approximate_rows == 0 && self.warnings.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_job_is_one_line() {
        let counts = JobCounts { windows: 1_200, rows: 24_000, events: 9, ..JobCounts::default() };
        let report = JobReport { job: "chat".to_owned(), table: "t".to_owned(), counts, ..JobReport::default() };
        let text = report.to_string();
        let line =
            "job chat → t: 1,200 windows, 24,000 rows, 9 events, 0 late, 0 duplicates, 0 dead letters, 0 moments";
        assert_eq!(text, format!("{line} (0.0 s)\n"));
    }

    #[test]
    fn lists_are_bounded_and_counts_are_not() {
        let mut findings = Findings::new(1);
        for number in 0..3 {
            findings.add(Kind::Missing, format!("s{number}"), "t 1970".to_owned(), "missing".to_owned());
            findings.explain(number == 0, "s".to_owned(), "t 1970".to_owned(), "differs".to_owned());
        }
        assert!(findings.has_at("t 1970") && !findings.has_at("t"));
        let report = findings.into_report(JobReport::default());
        assert_eq!((report.counts.missing_count, report.missing.len()), (3, 1));
        assert_eq!((report.counts.explained_by_late, report.counts.explained_by_copies), (1, 2));
        assert!(!report.counts.is_equal(false));
        let text = report.to_string();
        assert!(text.contains("; missing 3; explained by late events 1; explained by copies 2"), "{text}");
        assert!(text.contains("  missing: key s0, t 1970: missing\n  missing: and 2 more\n"), "{text}");
        assert!(text.contains("  explained: key s, t 1970: differs (by late events)\n"), "{text}");
        let pending = JobCounts { pending_windows: 1, ..JobCounts::default() };
        assert!(pending.is_equal(false) && !pending.is_equal(true));
    }
}
