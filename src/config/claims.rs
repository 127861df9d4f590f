//! What each table and each pipeline takes for itself. Two that take the same would spoil each
//! other's progress, so every clash is an error: between the tables of a file, and between tenants.

use super::{
    error::{Collector, Origin, Problem},
    model::Postgres,
    section::Section,
};
use std::path::{Component, Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicRole {
    Captured,
    Landed,
    Checkpoints,
    DeadLetters,
    Replays,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryRole {
    Table,
    DeadLetters,
    Checkpoints,
    /// The last processed timestamp, for people.
    Timestamp,
}

#[derive(Debug, Clone, PartialEq)]
enum Thing {
    Topic {
        name: String,
        role: TopicRole,
    },
    Source {
        schema: Option<String>,
        table: String,
    },
    TransactionalId(String),
    Group(String),
    Directory {
        path: PathBuf,
        role: DirectoryRole,
    },
    Job(String),
    /// Table of the windows of a job.
    Windows(String),
}

#[derive(Debug)]
struct Claim {
    thing: Thing,
    /// Number of the pipeline in the file.
    pipeline: usize,
    /// Which Kafka: names clash within one only.
    brokers: String,
    origin: Origin,
    key: String,
}

#[derive(Debug, Default)]
pub struct Claims {
    claims: Vec<Claim>,
    /// Of each pipeline begun, in order.
    names: Vec<String>,
    /// Where each of them has its tables of windows; none where it has no database.
    databases: Vec<Option<String>>,
    brokers: String,
}

impl Claims {
    /// All that is claimed from now on belongs to this pipeline.
    pub fn begin(&mut self, name: &str, brokers: &str) {
        self.names.push(name.to_owned());
        self.databases.push(None);
        self.brokers = brokers.to_owned();
    }

    pub fn topic(&mut self, section: &Section, key: &str, name: &str, role: TopicRole) {
        self.add(section, key, Thing::Topic { name: name.to_owned(), role });
    }

    pub fn source(&mut self, section: &Section, key: &str, schema: Option<&str>, table: &str) {
        self.add(section, key, Thing::Source { schema: schema.map(str::to_owned), table: table.to_owned() });
    }

    pub fn transactional_id(&mut self, section: &Section, key: &str, id: &str) {
        self.add(section, key, Thing::TransactionalId(id.to_owned()));
    }

    pub fn group(&mut self, section: &Section, key: &str, group: &str) {
        self.add(section, key, Thing::Group(group.to_owned()));
    }

    pub fn directory(&mut self, section: &Section, key: &str, path: &Path, role: DirectoryRole) {
        self.add(section, key, Thing::Directory { path: path.to_owned(), role });
    }

    /// A job of `analyze`, and the table that it writes.
    pub fn job(&mut self, section: &Section, name: Option<&str>, table: Option<&str>) {
        if let Some(name) = name {
            self.add(section, "name", Thing::Job(name.to_owned()));
        }
        if let Some(table) = table {
            self.add(section, "table", Thing::Windows(table.to_owned()));
        }
    }

    /// Where the pipeline begun last has its tables of windows. Without a schema the user's search path decides, so
    /// that only those of one user are known to be the same.
    pub fn windows_in(&mut self, postgres: &Postgres, schema: Option<&str>) {
        let Postgres { host, port, db, user, .. } = postgres;
        let place = schema.map_or_else(|| format!("of user {user}"), |schema| format!("schema {schema}"));
        if let Some(database) = self.databases.last_mut() {
            *database = Some(format!("{host}:{port}/{db} {place}"));
        }
    }

    pub fn timestamp(&mut self, section: &Section, key: &str, path: &Path) {
        self.directory(section, key, path, DirectoryRole::Timestamp);
    }

    fn add(&mut self, section: &Section, key: &str, thing: Thing) {
        self.claims.push(Claim {
            thing,
            pipeline: self.names.len(),
            brokers: self.brokers.clone(),
            origin: section.origin(key),
            key: section.path_of(key),
        });
    }

    /// Reports each claim that clashes with an earlier one, once.
    pub fn check(&self, errors: &mut Collector) {
        for (index, later) in self.claims.iter().enumerate() {
            let clash = self.claims[..index]
                .iter()
                .find_map(|earlier| Some((earlier, clash(earlier, later, self.share_tables(earlier, later))?)));
            let Some((earlier, words)) = clash else { continue };
            let place = if earlier.pipeline == later.pipeline {
                format!("{words} as {}", describe(earlier))
            } else {
                let name = |claim: &Claim| self.names.get(claim.pipeline - 1).map_or("", String::as_str);
                let names = format!("tenants {} and {}", name(earlier), name(later));
                match earlier.key == later.key {
                    true => format!("{words} for {names}: put {{tenant}} into it"),
                    false => format!("{words} as {} (of {names}): put {{tenant}} into both", describe(earlier)),
                }
            };
            errors.add_value(&later.origin, later.key.as_str(), Problem::Rule(place), show(&later.thing));
        }
    }

    /// Whether a table of one name is one table for both.
    fn share_tables(&self, first: &Claim, second: &Claim) -> bool {
        let database = |claim: &Claim| self.databases.get(claim.pipeline - 1).and_then(Option::as_ref);
        first.pipeline == second.pipeline || database(first).is_some_and(|place| database(second) == Some(place))
    }
}

fn describe(claim: &Claim) -> String {
    match (&claim.thing, &claim.origin) {
        // These two may be made from the key of another directory.
        (Thing::Directory { role: DirectoryRole::DeadLetters, .. }, _) => format!("the dead letters of {}", claim.key),
        (Thing::Directory { role: DirectoryRole::Checkpoints, .. }, _) => format!("the checkpoints of {}", claim.key),
        (_, Origin::Line(line)) => format!("{} in line {line}", claim.key),
        _ => claim.key.clone(),
    }
}

fn show(thing: &Thing) -> String {
    match thing {
        Thing::Topic { name, .. } => super::check::quoted(name),
        Thing::Source { schema: Some(schema), table } => super::check::quoted(&format!("{schema}.{table}")),
        Thing::Source { schema: None, table } => super::check::quoted(table),
        Thing::TransactionalId(name) | Thing::Group(name) | Thing::Job(name) | Thing::Windows(name) => {
            super::check::quoted(name)
        }
        Thing::Directory { path, .. } => super::check::quoted(&path.display().to_string()),
    }
}

/// How the second clashes with the first, as the beginning of "… as <the first>".
fn clash(first: &Claim, second: &Claim, share_tables: bool) -> Option<String> {
    let same_pipeline = first.pipeline == second.pipeline;
    let same_kafka = first.brokers == second.brokers;
    match (&first.thing, &second.thing) {
        (Thing::Topic { name: a, role: first }, Thing::Topic { name: b, role: second }) => {
            let clashes = a == b && same_kafka && (!same_pipeline || topics_clash(*first, *second));
            clashes.then(|| "is the same topic".to_owned())
        }
        (Thing::Source { .. }, Thing::Source { .. }) => {
            (same_pipeline && first.thing == second.thing).then(|| "is the same table".to_owned())
        }
        (Thing::Job(a), Thing::Job(b)) => (same_pipeline && a == b).then(|| "is the same name".to_owned()),
        (Thing::Windows(a), Thing::Windows(b)) => (share_tables && a == b).then(|| "is the same table".to_owned()),
        (Thing::TransactionalId(a), Thing::TransactionalId(b)) => {
            (a == b && same_kafka).then(|| "is the same transactional id".to_owned())
        }
        (Thing::Group(a), Thing::Group(b)) => (a == b && same_kafka).then(|| "is the same group".to_owned()),
        (Thing::Directory { path: a, role: first }, Thing::Directory { path: b, role: second }) => {
            directories_clash(&normal(a), *first, &normal(b), *second)
        }
        _ => None,
    }
}

/// Whether two uses of one topic within a pipeline spoil each other.
fn topics_clash(first: TopicRole, second: TopicRole) -> bool {
    use TopicRole::*;
    // What is captured is landed, and so may be the dead letters of the capture.
    let fits = matches!(
        (first, second),
        (Captured, Landed) | (Landed, Captured) | (DeadLetters, Landed) | (Landed, DeadLetters)
    );
    !fits
}

fn directories_clash(a: &Path, first: DirectoryRole, b: &Path, second: DirectoryRole) -> Option<String> {
    use DirectoryRole::{Checkpoints, Timestamp};
    if a == b {
        return Some("is the same directory".to_owned());
    }
    // A timestamp's file may lie among the ledgers, which have names of their own.
    if matches!((first, second), (Checkpoints, Timestamp) | (Timestamp, Checkpoints)) {
        return None;
    }
    let inside = |inner: &Path, outer: &Path| inner.starts_with(outer);
    if inside(b, a) {
        return Some("lies inside the directory that serves".to_owned());
    }
    inside(a, b).then(|| "holds the directory that serves".to_owned())
}

/// The absolute path without `.` and `..`. Symbolic links are left alone.
fn normal(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut normal = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_as_they_lie() {
        use DirectoryRole::*;
        let clash = |a: &str, b: &str| directories_clash(&normal(a.as_ref()), Table, &normal(b.as_ref()), Checkpoints);
        assert!(clash("/lake/a", "/lake/b").is_none());
        assert!(clash("/lake/a", "/lake/ab").is_none());
        assert!(clash("/lake/a", "/lake/b/../a/").unwrap().contains("same"));
        assert!(clash("/lake/a", "/lake/./a/c").unwrap().contains("inside"));
        assert!(clash("/lake/a/c", "/lake/a").unwrap().contains("holds"));
        assert!(directories_clash("/a".as_ref(), Checkpoints, "/a/t".as_ref(), Timestamp).is_none());
    }

    #[test]
    fn topics_within_a_pipeline() {
        use TopicRole::*;
        assert!(!topics_clash(Captured, Landed));
        assert!(topics_clash(Captured, Captured) && topics_clash(Landed, Landed));
        assert!(topics_clash(Replays, Landed) && topics_clash(Replays, Checkpoints));
        assert!(topics_clash(Checkpoints, Landed) && topics_clash(Captured, DeadLetters));
    }
}
