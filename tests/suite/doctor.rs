//! `headwater doctor`: each check seen well and in trouble, and every cure run as it was told.

mod analyze;
mod brokers;
mod capture;
pub mod cures;
mod lake;
mod overall;
mod retention;
pub mod rights;
mod server;
mod topics;

use crate::harness::{DEADLINE, Db, Run, Test, run::Exit};
use serde_json::Value;

/// What a doctor said.
pub struct Said {
    pub exit: Exit,
    pub findings: Vec<Value>,
}

/// `headwater doctor -c FILE --format json` with further arguments.
#[track_caller]
pub fn doctor(test: &Test, file: &str, more: &[&str]) -> Said {
    let arguments: Vec<&str> = ["doctor", "-c", file, "--format", "json"].iter().chain(more).copied().collect();
    ended(Run::start(test, &arguments))
}

/// What a doctor that was started otherwise says.
#[track_caller]
pub fn ended(mut run: Run) -> Said {
    let exit = run.wait(DEADLINE);
    let findings = run.json().as_array().expect("a list").clone();
    for finding in &findings {
        for key in ["section", "check", "subject", "outcome", "message"] {
            assert!(finding[key].is_string(), "{key} of {finding}");
        }
        assert!(finding["cure"].is_string() || finding["cure"].is_null(), "{finding}");
        // Whatever is wrong has a cure, or is said to be unknown.
        assert!(!run.stdout().contains("unused"), "no secret is told");
    }
    Said { exit, findings }
}

impl Said {
    /// The findings of a check whose subject holds `subject`.
    pub fn all(&self, check: &str, subject: &str) -> Vec<&Value> {
        let is_meant = |finding: &&Value| {
            finding["check"] == check && finding["subject"].as_str().is_some_and(|text| text.contains(subject))
        };
        self.findings.iter().filter(is_meant).collect()
    }

    /// The only one of them.
    #[track_caller]
    pub fn one(&self, check: &str, subject: &str) -> &Value {
        match self.all(check, subject).as_slice() {
            [one] => one,
            found => panic!("{} findings of {check} about {subject}: {found:#?}\n{self}", found.len()),
        }
    }

    #[track_caller]
    pub fn assert_ok(&self, check: &str, subject: &str) {
        assert_eq!(self.one(check, subject)["outcome"], "ok", "{check} of {subject}:\n{self}");
    }

    /// Its message and its cure, where it has that outcome.
    #[track_caller]
    pub fn trouble(&self, outcome: &str, check: &str, subject: &str) -> (String, String) {
        let found = self.one(check, subject);
        assert_eq!(found["outcome"], outcome, "{check} of {subject}:\n{self}");
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("message"), text("cure"))
    }

    /// Those that are neither ok nor, as `besides`, known to be otherwise here.
    pub fn troubles(&self, besides: &[&str]) -> Vec<&Value> {
        let is_known = |finding: &Value| besides.iter().any(|check| finding["check"] == *check);
        self.findings.iter().filter(|finding| finding["outcome"] != "ok" && !is_known(finding)).collect()
    }

    /// No failure, and no trouble but `besides`.
    #[track_caller]
    pub fn assert_well(&self, besides: &[&str]) {
        let troubles = self.troubles(besides);
        assert!(troubles.is_empty(), "{troubles:#?}");
        assert_eq!(self.exit, Exit::Code(0), "{self}");
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

/// Runs the statements of a cure, one a line, as they were told.
#[track_caller]
pub fn run_sql(db: &Db, cure: &str) {
    assert!(!cure.is_empty(), "there is a cure");
    for statement in cure.lines() {
        db.execute(statement);
    }
}

/// How much room the machine that runs the tests has is not theirs to judge.
pub const ROOM: &str = "free space";

/// Orders that are as they must be, some of them there already.
pub const ORDERS: &str = "CREATE TABLE orders (
        order_id bigint PRIMARY KEY, amount numeric(10,2), created_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON orders (created_at);
    INSERT INTO orders SELECT n, n, now() - interval '1 hour' FROM generate_series(1, 100) n";
