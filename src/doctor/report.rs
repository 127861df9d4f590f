//! The findings as people and programs read them.

use super::finding::{Finding, Outcome};
use crate::{amount::counted, app::exit};
use serde::Serialize;
use std::fmt::Write;

/// All findings, in the order of pipelines and sections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// Whether the configuration could not be loaded, so that nothing else was looked at.
    #[serde(skip)]
    pub is_broken: bool,
}

impl Report {
    pub fn count(&self, outcome: Outcome) -> usize {
        self.findings.iter().filter(|finding| finding.outcome == outcome).count()
    }

    /// `strict` lets warnings count as failures.
    pub fn exit_code(&self, strict: bool) -> u8 {
        let is_bad = self.count(Outcome::Failure) > 0 || (strict && self.count(Outcome::Warning) > 0);
        match (self.is_broken, is_bad) {
            (true, _) => exit::CONFIGURATION,
            (false, true) => exit::FAILED,
            (false, false) => exit::DONE,
        }
    }

    /// One block a section, one line a finding with its cure below, a line of sums at the end. What a colour
    /// says is said by a word too.
    pub fn text(&self, is_coloured: bool) -> String {
        let mut text = String::new();
        let name = |finding: &Finding| match &finding.pipeline {
            Some(pipeline) => format!("{} of {pipeline}", finding.section.name()),
            None => finding.section.name().to_owned(),
        };
        let width = self.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        let mut last = None;
        for finding in &self.findings {
            let block = name(finding);
            if last.as_ref() != Some(&block) {
                let gap = if last.is_none() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}{block}");
                last = Some(block);
            }
            let outcome = paint(finding.outcome, &format!("{:<11}", finding.outcome.name()), is_coloured);
            let check = finding.check;
            let _ = writeln!(text, "  {outcome}  {check:<width$}  {}: {}", finding.subject, finding.message);
            if let Some(cure) = &finding.cure {
                let indent = " ".repeat(15 + width + 2);
                let mut lines = cure.lines();
                let _ = writeln!(text, "{indent}cure: {}", lines.next().unwrap_or_default());
                lines.for_each(|line| {
                    let _ = writeln!(text, "{indent}      {line}");
                });
            }
        }
        let _ = write!(
            text,
            "\n{} ok, {}, {}, {} not checked",
            self.count(Outcome::Ok),
            counted(self.count(Outcome::Warning), "warning"),
            counted(self.count(Outcome::Failure), "failure"),
            self.count(Outcome::NotChecked),
        );
        text
    }
}

fn paint(outcome: Outcome, text: &str, is_coloured: bool) -> String {
    let colour = match outcome {
        Outcome::Ok => 32,
        Outcome::Warning => 33,
        Outcome::Failure => 31,
        Outcome::NotChecked => 36,
    };
    if is_coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::*, *};

    fn report() -> Report {
        let mut findings = Findings::new(Section::Postgres);
        findings.ok("version", "shop", "PostgreSQL 15.6");
        findings.warning("index", "orders", "none", Some("CREATE INDEX a;\nCREATE INDEX b;".to_owned()));
        let mut more = Findings::new(Section::Kafka);
        more.not_checked("topics", "k:9092", "cannot be reached", None);
        let findings = findings.of("p").into_iter().chain(more.of("p")).collect();
        Report { findings, is_broken: false }
    }

    #[test]
    fn a_report_is_aligned_and_its_colours_are_words_too() {
        let text = report().text(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "postgres of p",
                "  ok           version  shop: PostgreSQL 15.6",
                "  warning      index    orders: none",
                "                        cure: CREATE INDEX a;",
                "                              CREATE INDEX b;",
                "",
                "kafka of p",
                "  not checked  topics   k:9092: cannot be reached",
                "",
                "1 ok, 1 warning, 0 failures, 1 not checked",
            ]
        );
        let coloured = report().text(true);
        assert!(coloured.contains("\x1b[33mwarning"), "{coloured}");
        let mut plain = coloured.replace("\x1b[0m", "");
        for colour in [31, 32, 33, 36] {
            plain = plain.replace(&format!("\x1b[{colour}m"), "");
        }
        assert_eq!(plain, text);
    }

    #[test]
    fn only_failures_fail_unless_warnings_shall() {
        let mut report = report();
        assert_eq!((report.exit_code(false), report.exit_code(true)), (exit::DONE, exit::FAILED));
        report.findings.retain(|finding| finding.outcome != Outcome::Warning);
        assert_eq!(report.exit_code(true), exit::DONE);
        report.findings[0].outcome = Outcome::Failure;
        assert_eq!(report.exit_code(false), exit::FAILED);
        report.is_broken = true;
        assert_eq!(report.exit_code(false), exit::CONFIGURATION);
    }
}
