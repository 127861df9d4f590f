//! What a check found.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    Warning,
    Failure,
    /// What it needs is away, or may not be asked.
    NotChecked,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failure => "failure",
            Outcome::NotChecked => "not checked",
        }
    }
}

/// What a check is about; in the order in which they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    Configuration,
    Postgres,
    Kafka,
    Lake,
    Analyze,
}

impl Section {
    pub fn name(self) -> &'static str {
        match self {
            Section::Configuration => "configuration",
            Section::Postgres => "postgres",
            Section::Kafka => "kafka",
            Section::Lake => "lake",
            Section::Analyze => "analyze",
        }
    }
}

/// The answer to one question about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    pub section: Section,
    /// The question, in a word: `version`, `index`, `retention`.
    pub check: &'static str,
    /// The server, table, topic or directory.
    pub subject: String,
    pub outcome: Outcome,
    pub message: String,
    /// The statement or command to run, or the key to set.
    pub cure: Option<String>,
    /// Whether waiting may cure it: something is away.
    #[serde(skip)]
    pub is_away: bool,
}

/// The findings of one section of one pipeline, as they are made.
#[derive(Debug)]
pub struct Findings {
    section: Section,
    found: Vec<Finding>,
}

impl Findings {
    pub fn new(section: Section) -> Findings {
        Findings { section, found: Vec::new() }
    }

    pub fn ok(&mut self, check: &'static str, subject: &str, message: impl Into<String>) {
        self.add(check, subject, Outcome::Ok, message.into(), None);
    }

    pub fn warning(
        &mut self,
        check: &'static str,
        subject: &str,
        message: impl Into<String>,
        cure: impl Into<Option<String>>,
    ) {
        self.add(check, subject, Outcome::Warning, message.into(), cure.into());
    }

    pub fn failure(
        &mut self,
        check: &'static str,
        subject: &str,
        message: impl Into<String>,
        cure: impl Into<Option<String>>,
    ) {
        self.add(check, subject, Outcome::Failure, message.into(), cure.into());
    }

    pub fn not_checked(
        &mut self,
        check: &'static str,
        subject: &str,
        message: impl Into<String>,
        cure: impl Into<Option<String>>,
    ) {
        self.add(check, subject, Outcome::NotChecked, message.into(), cure.into());
    }

    /// Notes of the last finding that what it is about is away, so that waiting may help.
    pub fn mark_away(&mut self) {
        if let Some(last) = self.found.last_mut() {
            last.is_away = true;
        }
    }

    fn add(&mut self, check: &'static str, subject: &str, outcome: Outcome, message: String, cure: Option<String>) {
        let cure = cure.filter(|cure| !cure.is_empty());
        let (section, subject) = (self.section, subject.to_owned());
        self.found.push(Finding { pipeline: None, section, check, subject, outcome, message, cure, is_away: false });
    }

    /// All of them, as those of a pipeline.
    pub fn of(self, pipeline: &str) -> Vec<Finding> {
        let named = |finding| Finding { pipeline: Some(pipeline.to_owned()), ..finding };
        self.found.into_iter().map(named).collect()
    }
}
