//! What verify found, for programs and for people.

use super::{
    compare::Class,
    lake::Misfit,
    progress::grouped,
    windows::report::{JobCounts, JobReport},
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// One row that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub key: String,
    /// `source`, `topic <partition>/<offset>`, a file and its row.
    #[serde(rename = "where")]
    pub place: String,
    pub what: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TableReport {
    /// None where the topic is not of a captured table.
    pub table: Option<String>,
    pub topic: String,
    /// None where the topic is not landed, or the lake was left out.
    pub path: Option<PathBuf>,
    pub source_compared: bool,
    pub lake_compared: bool,
    #[serde(flatten)]
    pub counts: Counts,
    pub lost: Vec<Difference>,
    pub duplicated: Vec<Difference>,
    pub differing: Vec<Difference>,
    pub changed_in_place: Vec<Difference>,
    pub warnings: Vec<String>,
    pub seconds: f64,
}

impl TableReport {
    /// The count and the list of a class.
    pub fn class(&mut self, class: Class) -> (&mut u64, &mut Vec<Difference>) {
        match class {
            Class::Lost => (&mut self.counts.lost_count, &mut self.lost),
            Class::Duplicated => (&mut self.counts.duplicated_count, &mut self.duplicated),
            Class::Differing => (&mut self.counts.differing_count, &mut self.differing),
            Class::ChangedInPlace => (&mut self.counts.changed_in_place_count, &mut self.changed_in_place),
        }
    }

    /// Adds files that are wrong as a whole.
    pub fn misfits(&mut self, misfits: Vec<Misfit>, list_limit: usize) {
        for misfit in misfits {
            let (count, list) = self.class(misfit.class);
            *count += misfit.count;
            if list.len() < list_limit {
                list.push(misfit.difference);
            }
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub source_rows: u64,
    pub topic_records: u64,
    /// Records that are a version of a row.
    pub topic_versions: u64,
    pub lake_rows: u64,
    /// By reason: of the lake, and rows that capture refused.
    pub dead_letters: BTreeMap<String, u64>,
    pub lost_count: u64,
    pub duplicated_count: u64,
    pub differing_count: u64,
    pub changed_in_place_count: u64,
    /// Still on their way when verify looked.
    pub pending_count: u64,
    /// No longer in the topic, and so compared only as far as the lake allows.
    pub expired_count: u64,
    /// Lost before they had landed, as somebody has accepted.
    pub accepted_count: u64,
    /// Fields of records that no column takes.
    pub unknown_fields: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.source_rows += other.source_rows;
        self.topic_records += other.topic_records;
        self.topic_versions += other.topic_versions;
        self.lake_rows += other.lake_rows;
        for (reason, count) in &other.dead_letters {
            *self.dead_letters.entry(reason.clone()).or_default() += count;
        }
        self.lost_count += other.lost_count;
        self.duplicated_count += other.duplicated_count;
        self.differing_count += other.differing_count;
        self.changed_in_place_count += other.changed_in_place_count;
        self.pending_count += other.pending_count;
        self.expired_count += other.expired_count;
        self.accepted_count += other.accepted_count;
        self.unknown_fields += other.unknown_fields;
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub pipeline: String,
    /// Nothing lost, duplicated or differing, and no window wrong; with `strict`, nothing pending either.
    pub ok: bool,
    #[serde(flatten)]
    pub counts: Counts,
    pub tables: Vec<TableReport>,
    /// The windows of each analyze job.
    pub jobs: Vec<JobReport>,
}

impl Report {
    pub fn new(pipeline: &str, tables: Vec<TableReport>, jobs: Vec<JobReport>, strict: bool) -> Report {
        let mut counts = Counts::default();
        for table in &tables {
            counts.add(&table.counts);
        }
        let failures = counts.lost_count + counts.duplicated_count + counts.differing_count;
        let ok = failures == 0
            && !(strict && counts.pending_count > 0)
            && jobs.iter().all(|job| job.counts.is_equal(strict));
        Report { pipeline: pipeline.to_owned(), ok, counts, tables, jobs }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            write!(f, "{table}")?;
        }
        for job in &self.jobs {
            write!(f, "{job}")?;
        }
        write!(f, "{}: {}", self.pipeline, if self.ok { "equal" } else { "NOT equal" })?;
        let counts = &self.counts;
        if !self.tables.is_empty() {
            write!(
                f,
                "; lost {}, duplicated {}, differing {}, changed in place {}, pending {}",
                grouped(counts.lost_count),
                grouped(counts.duplicated_count),
                grouped(counts.differing_count),
                grouped(counts.changed_in_place_count),
                grouped(counts.pending_count),
            )?;
        }
        if !self.jobs.is_empty() {
            let sum = |count: fn(&JobCounts) -> u64| grouped(self.jobs.iter().map(|job| count(&job.counts)).sum());
            write!(
                f,
                "; windows: missing {}, unexpected {}, differing {}, duplicated {}, explained {}, pending {}",
                sum(|counts| counts.missing_count),
                sum(|counts| counts.unexpected_count),
                sum(|counts| counts.differing_count),
                sum(|counts| counts.duplicated_count),
                sum(|counts| counts.explained_by_late + counts.explained_by_copies),
                sum(|counts| counts.pending_records + counts.pending_windows),
            )?;
        }
        writeln!(f)
    }
}

impl fmt::Display for TableReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table.as_deref().unwrap_or("(no captured table)");
        writeln!(
            f,
            "{table} → {}{}",
            self.topic,
            self.path.as_ref().map_or(String::new(), |path| format!(" → {}", path.display()))
        )?;
        let counts = &self.counts;
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<18}{value:>14}");
        if self.source_compared {
            line("source rows", grouped(counts.source_rows))?;
        }
        line("topic records", grouped(counts.topic_records))?;
        if counts.topic_versions != counts.topic_records {
            line("  of them rows", grouped(counts.topic_versions))?;
        }
        if self.lake_compared {
            line("lake rows", grouped(counts.lake_rows))?;
        }
        for (reason, count) in &counts.dead_letters {
            line(&format!("  {reason}"), grouped(*count))?;
        }
        line("lost", grouped(counts.lost_count))?;
        line("duplicated", grouped(counts.duplicated_count))?;
        line("differing", grouped(counts.differing_count))?;
        for (name, count) in [
            ("changed in place", counts.changed_in_place_count),
            ("pending", counts.pending_count),
            ("expired", counts.expired_count),
            ("accepted losses", counts.accepted_count),
            ("unknown fields", counts.unknown_fields),
        ] {
            if count > 0 {
                line(name, grouped(count))?;
            }
        }
        line("seconds", format!("{:.1}", self.seconds))?;
        let lists = [
            ("lost", &self.lost, counts.lost_count),
            ("duplicated", &self.duplicated, counts.duplicated_count),
            ("differing", &self.differing, counts.differing_count),
            ("changed in place", &self.changed_in_place, counts.changed_in_place_count),
        ];
        for (name, list, count) in lists {
            for difference in list {
                writeln!(f, "  {name}: key {}, {}: {}", difference.key, difference.place, difference.what)?;
            }
            let more = count.saturating_sub(list.len() as u64);
            if more > 0 && !list.is_empty() {
                writeln!(f, "  {name}: and {} more", grouped(more))?;
            }
        }
        for warning in &self.warnings {
            writeln!(f, "  warning: {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(counts: Counts) -> TableReport {
        TableReport { topic: "orders".into(), table: Some("public.orders".into()), counts, ..TableReport::default() }
    }

    #[test]
    fn only_failures_fail() {
        let ok =
            |counts: Counts, strict| Report::new("p", vec![table(Counts::default()), table(counts)], vec![], strict).ok;
        assert!(ok(Counts::default(), true));
        let harmless = Counts { changed_in_place_count: 3, expired_count: 1, unknown_fields: 1, ..Counts::default() };
        assert!(ok(harmless, true));
        assert!(!ok(Counts { lost_count: 1, ..Counts::default() }, false));
        assert!(!ok(Counts { duplicated_count: 1, ..Counts::default() }, false));
        assert!(!ok(Counts { differing_count: 1, ..Counts::default() }, false));
        assert!(ok(Counts { pending_count: 1, ..Counts::default() }, false));
        assert!(!ok(Counts { pending_count: 1, ..Counts::default() }, true));
    }

    #[test]
    fn programs_and_people_read_the_same() {
        let counts = Counts {
            source_rows: 1200,
            lost_count: 2,
            dead_letters: BTreeMap::from([("null_key".to_owned(), 4)]),
            ..Counts::default()
        };
        let difference = Difference { key: "7".into(), place: "source".into(), what: "not in the topic".into() };
        let one = TableReport { source_compared: true, lost: vec![difference], ..table(counts) };
        let report = Report::new("shop", vec![one.clone(), one], vec![], false);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["source_rows"], 2400);
        assert_eq!(json["dead_letters"]["null_key"], 8);
        assert_eq!(json["tables"][0]["lost"][0]["where"], "source");
        assert_eq!(json["tables"][1]["lost_count"], 2);
        assert_eq!(json["ok"], false);
        let text = report.to_string();
        assert!(text.contains("lost: key 7, source: not in the topic\n"), "{text}");
        assert!(text.contains("lost: and 1 more"), "{text}");
        assert!(text.contains("shop: NOT equal; lost 4, duplicated 0"), "{text}");
    }
}
