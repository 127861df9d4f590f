//! What can be wrong with a configuration, all of it at once.

use serde::Serialize;
use std::{collections::HashSet, fmt, io, path::PathBuf};

/// Everything that is wrong with one configuration. Never empty.
#[derive(Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// In the order of the file's lines, then of the environment's variables.
    pub fn list(&self) -> &[ConfigError] {
        &self.0
    }
}

impl std::error::Error for ConfigErrors {}

/// One line (two with a hint) for each error.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// One fault: where, which key, what was asked for, what was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    pub file: PathBuf,
    /// From 1; absent where nothing in the file is to blame (a missing key of a missing section, a
    /// variable of the environment).
    pub line: Option<usize>,
    /// The variable of the environment that set the value.
    pub variable: Option<String>,
    /// As `kafka.topic` or `capture.tables[0].topic`; empty for the file as a whole.
    pub key: String,
    /// What is asked for, and the cure.
    pub constraint: String,
    /// What was there; `***` for a secret, absent where there is nothing to show.
    pub value: Option<String>,
    /// For an unknown key: the nearest known one.
    pub nearest: Option<String>,
    /// Set where the fault shows for one tenant only.
    pub tenant: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.variable, self.line) {
            (Some(variable), _) => write!(f, "environment variable {variable}: ")?,
            (None, Some(line)) => write!(f, "{}:{line}: ", self.file.display())?,
            (None, None) => write!(f, "{}: ", self.file.display())?,
        }
        if !self.key.is_empty() {
            write!(f, "{} ", self.key)?;
        }
        f.write_str(&self.constraint)?;
        if let Some(value) = &self.value {
            write!(f, "; it is {value}")?;
        }
        if let Some(tenant) = &self.tenant {
            write!(f, " (tenant {tenant})")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "\n    did you mean {nearest}?")?;
        }
        Ok(())
    }
}

/// What is wrong, without the place. None of these texts holds a value from the file: values are
/// given apart, where secrets are taken out of them.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    #[error("is not valid YAML: {0}")]
    Syntax(String),
    #[error("is not a key of the configuration{}", known(.0))]
    UnknownKey(Vec<String>),
    #[error("is missing: {0}")]
    Missing(String),
    /// A wrong type, form or range.
    #[error("must be {0}")]
    Invalid(String),
    #[error("needs the environment variable {name}, which is not set{}", reason(.message))]
    UnsetVariable { name: String, message: Option<String> },
    #[error("has a substitution that cannot be read: {0} (write $${{ for a plain ${{)")]
    Substitution(&'static str),
    #[error("and {other} are both given: keep one of them")]
    Exclusive { other: String },
    #[error("disagrees with {other}: make them equal, or keep one of them")]
    Disagrees { other: String },
    #[error("names a file that cannot be read: {0}")]
    File(#[source] io::Error),
    #[error("{0}")]
    Rule(String),
}

fn known(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; known here: {}", names.join(", ")) }
}

fn reason(message: &Option<String>) -> String {
    match message {
        Some(message) if !message.is_empty() => format!(": {message}"),
        _ => ": set it, or give a default as ${NAME:-default}".to_owned(),
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing in particular: the file as a whole.
    File,
    Line(usize),
    /// A `HEADWATER__…` variable.
    Variable(String),
}

/// Gathers errors, and what no error may show.
#[derive(Debug)]
pub struct Collector {
    file: PathBuf,
    errors: Vec<ConfigError>,
    /// Keys whose absence is explained by another error: that they are missing needs no saying.
    excused: HashSet<String>,
    secrets: Secrets,
    /// The tenant whose values are being looked at.
    pub tenant: Option<String>,
}

#[derive(Default)]
struct Secrets(HashSet<String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Secrets shorter than this are not searched for within longer values, of which they would hide
/// too many; a value that equals one is hidden all the same.
const SHORTEST_SEARCHED_SECRET: usize = 4;

impl Collector {
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Collector {
            file: file.into(),
            errors: Vec::new(),
            excused: HashSet::new(),
            secrets: Secrets::default(),
            tenant: None,
        }
    }

    /// The absolute path of `path`, which is relative to the directory of the file.
    pub fn beside(&self, path: &str) -> PathBuf {
        let beside = self.file.parent().map_or_else(|| PathBuf::from(path), |directory| directory.join(path));
        std::path::absolute(&beside).unwrap_or(beside)
    }

    /// Forgets the errors of other keys.
    pub fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.errors.retain(|error| is_kept(&error.key));
    }

    /// Text that must not show up in any error.
    pub fn hide(&mut self, secret: &str) {
        if !secret.is_empty() {
            self.secrets.0.insert(secret.to_owned());
        }
    }

    pub fn add(&mut self, origin: &Origin, key: impl Into<String>, problem: Problem) {
        self.push(origin, key.into(), problem, None, None);
    }

    /// With the value as it is to be shown.
    pub fn add_value(&mut self, origin: &Origin, key: impl Into<String>, problem: Problem, value: String) {
        self.push(origin, key.into(), problem, Some(value), None);
    }

    pub fn add_unknown(&mut self, origin: &Origin, key: String, nearest: Option<String>, known: Vec<String>) {
        if let Some(path) = &nearest {
            self.excused.insert(path.clone());
        }
        // The nearest key says enough; the list is for names that resemble nothing.
        let known = if nearest.is_some() { Vec::new() } else { known };
        self.push(origin, key, Problem::UnknownKey(known), None, nearest);
    }

    fn push(&mut self, origin: &Origin, key: String, problem: Problem, value: Option<String>, nearest: Option<String>) {
        if matches!(problem, Problem::Missing(_)) && self.excused.contains(&key) {
            return;
        }
        let (line, variable) = match origin {
            Origin::File => (None, None),
            Origin::Line(line) => (Some(*line), None),
            Origin::Variable(name) => (None, Some(name.clone())),
        };
        self.errors.push(ConfigError {
            file: self.file.clone(),
            line,
            variable,
            key,
            constraint: problem.to_string(),
            value,
            nearest,
            tenant: self.tenant.clone(),
        });
    }

    /// A fault at `key` has been reported: that it is missing then needs no saying.
    pub fn excuse(&mut self, key: &str) {
        self.excused.insert(key.to_owned());
    }

    pub fn is_excused(&self, key: &str) -> bool {
        self.excused.contains(key)
    }

    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// All errors: in order, each once, without any secret.
    pub fn finish(self) -> ConfigErrors {
        let Collector { mut errors, secrets, .. } = self;
        for error in &mut errors {
            error.value = error.value.take().map(|value| secrets.scrub(value));
        }
        // One fault of a template shows for every tenant: say it once, and without a tenant's name.
        let mut kept: Vec<ConfigError> = Vec::new();
        for error in errors {
            let same = |other: &&mut ConfigError| {
                (&other.line, &other.variable, &other.key, &other.constraint, &other.value)
                    == (&error.line, &error.variable, &error.key, &error.constraint, &error.value)
            };
            match kept.iter_mut().find(same) {
                Some(other) => other.tenant = None,
                None => kept.push(error),
            }
        }
        kept.sort_by_key(|error| (error.variable.is_some(), error.line.unwrap_or(usize::MAX)));
        ConfigErrors(kept)
    }
}

impl Secrets {
    fn scrub(&self, value: String) -> String {
        let bare = value.trim_matches('"');
        let shows = |secret: &String| {
            bare == secret || (secret.len() >= SHORTEST_SEARCHED_SECRET && value.contains(secret.as_str()))
        };
        if self.0.iter().any(shows) { "***".to_owned() } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let mut errors = Collector::new("a.yml");
        errors.hide("hunter22");
        errors.hide("7");
        errors.add_value(&Origin::Line(1), "kafka.topic", Problem::Invalid("a topic".into()), "\"x hunter22\"".into());
        errors.add_value(&Origin::Line(2), "postgres.port", Problem::Invalid("1 to 65537".into()), "\"7\"".into());
        errors.add_value(&Origin::Line(3), "kafka.topic", Problem::Rule("is odd".into()), "\"17\"".into());
        let text = errors.finish().to_string();
        assert_eq!(
            text,
            "a.yml:1: kafka.topic must be a topic; it is ***\n\
             a.yml:2: postgres.port must be 1 to 65537; it is ***\n\
             a.yml:3: kafka.topic is odd; it is \"17\""
        );
    }

    #[test]
    fn a_fault_of_every_tenant_is_said_once() {
        let mut errors = Collector::new("a.yml");
        for tenant in ["a", "b"] {
            errors.tenant = Some(tenant.into());
            errors.add(&Origin::Line(4), "kafka.topic", Problem::Missing("the topic".into()));
        }
        errors.add(&Origin::Line(2), "x", Problem::Rule("is odd".into()));
        let errors = errors.finish();
        assert_eq!(errors.to_string(), "a.yml:2: x is odd (tenant b)\na.yml:4: kafka.topic is missing: the topic");
    }

    #[test]
    fn a_key_that_was_misspelt_is_not_also_missing() {
        let mut errors = Collector::new("a.yml");
        errors.add_unknown(&Origin::Line(4), "kafka.broker".into(), Some("kafka.brokers".into()), vec![]);
        errors.add(&Origin::File, "kafka.brokers", Problem::Missing("the servers".into()));
        let errors = errors.finish();
        assert_eq!(errors.list().len(), 1);
        assert!(errors.to_string().ends_with("did you mean kafka.brokers?"));
    }
}
