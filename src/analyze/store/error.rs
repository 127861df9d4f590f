//! What goes wrong between analyze and PostgreSQL, sorted by what it means for the flush at hand.

use crate::postgres::{PostgresError, chain, quote_ident, quote_literal};
use tokio_postgres::error::SqlState;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Postgres(PostgresError),
    #[error("PostgreSQL {version} is too old: analyze needs 14 or newer")]
    TooOld { version: String },
    #[error(
        "database {db} is in {encoding}, which cannot hold every text, such as an emoji: analyze needs one in UTF8; name it in postgres.db, or make it: {create}"
    )]
    Encoding { db: String, encoding: String, create: String },
    #[error("old rows may not be deleted: GRANT DELETE ON moments, late_events, dead_letters TO {user}")]
    NoDelete { user: String },
    #[error("the server is a standby, which takes no rows: connect to the primary")]
    Standby,
    #[error(
        "there is no schema to write to: create the one named in analyze.schema, or let the first of user {user}'s search_path exist and be open to it: CREATE SCHEMA {schema}"
    )]
    NoSchema { user: String, schema: String },
    #[error(
        "schema {schema} lacks the migrations {names}: set analyze.migrate to true, or start once with a role that may create tables in it"
    )]
    NotMigrated { schema: String, names: String },
    #[error(
        "migration {name} was applied with another text (checksum {applied}, here {known}): this schema belongs to another build of Headwater; use that one, or another schema"
    )]
    ChangedMigration { name: String, applied: String, known: String },
    #[error("schema {schema} has migration {name}, which this version does not know: use the newer Headwater")]
    NewerMigration { schema: String, name: String },
    #[error("migration {name} failed: {}", chain(.source))]
    Migration { name: String, source: tokio_postgres::Error },
    #[error("table {table} does not exist: set analyze.create_tables to true, or run\n{create}")]
    NoTable { table: String, create: String },
    #[error("table {table} does not fit the job: {problems}; run\n{cure}")]
    Table { table: String, problems: String, cure: String },
    #[error("column {column} of table {table} holds {kind}, but the window gave it {value}")]
    Value { table: String, column: String, kind: &'static str, value: String },
    #[error("{message}: run {grant}")]
    NoGrant { message: String, grant: String },
    #[error(
        "table {table} is written by job {owner}, and two would overwrite each other's windows: give job {job} another table; where no process runs job {owner} any more: DELETE FROM analyze_jobs WHERE job = {}",
        quote_literal(.owner)
    )]
    Owned { job: String, table: String, owner: String },
    #[error(
        "table {table} holds final windows, but job {job} has no progress to go on from, and would replace them with what its topics still hold: {}",
        reset_words(.job)
    )]
    NoProgress { job: String, table: String },
    #[error("job {job} is led by {holder}: stop every instance of it first, then do this")]
    Led { job: String, holder: String },
    /// Another instance leads. What is held in memory is void: load again after leading again.
    #[error("another instance has taken over job {job}: ours is epoch {epoch}, {now}")]
    Fenced { job: String, epoch: i64, now: String },
    /// Leadership is gone, or cannot be known. As [`StoreError::Fenced`].
    #[error("this instance no longer leads job {job}: {reason}")]
    Lost { job: String, reason: String },
    #[error(
        "job {job} has windows under way that were declared otherwise (then {was}; now {now}): declare them as they were, give the job another name and table, or {}",
        reset_words(.job)
    )]
    Redeclared { job: String, was: String, now: String },
    #[error(
        "the progress of job {job} was changed by somebody else ({detail}): stop every instance before changing analyze_jobs or analyze_partitions by hand"
    )]
    Conflict { job: String, detail: String },
    #[error(transparent)]
    Failpoint(#[from] std::io::Error),
}

impl From<PostgresError> for StoreError {
    fn from(error: PostgresError) -> Self {
        StoreError::Postgres(error)
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        StoreError::Postgres(PostgresError::Query(error))
    }
}

/// How a job begins anew. Its id ends in its name.
fn reset_words(job: &str) -> String {
    let name = job.rsplit('/').next().unwrap_or(job);
    format!("stop every instance and let it begin anew: headwater reset -c FILE --job {name}")
}

impl StoreError {
    /// The same, with its cure where `user` lacks a right.
    pub(super) fn of_user(self, user: &str) -> StoreError {
        let StoreError::Postgres(PostgresError::Query(error)) = &self else { return self };
        match error.as_db_error() {
            Some(told) if *told.code() == SqlState::INSUFFICIENT_PRIVILEGE => StoreError::NoGrant {
                message: told.message().to_owned(),
                grant: format!("GRANT headwater_writer TO {}", quote_ident(user)),
            },
            _ => self,
        }
    }

    /// The statements to run or the key to set.
    pub fn cure(&self) -> Option<String> {
        match self {
            StoreError::Postgres(error) => error.cure(),
            StoreError::Standby => Some("postgres.host: the primary's".to_owned()),
            StoreError::NoSchema { schema, user } => {
                Some(format!("CREATE SCHEMA {schema} AUTHORIZATION {};", quote_ident(user)))
            }
            StoreError::Encoding { create, .. } => Some(format!("{create};")),
            StoreError::Owned { .. } => Some("analyze.jobs[].table".to_owned()),
            StoreError::NoProgress { job, .. } | StoreError::Redeclared { job, .. } => {
                let name = job.rsplit('/').next().unwrap_or(job);
                Some(format!("headwater reset -c FILE --job {name}   # with every instance stopped"))
            }
            StoreError::NotMigrated { .. } => Some("analyze.migrate: true".to_owned()),
            StoreError::NoTable { create, .. } => Some(create.clone()),
            StoreError::Table { cure, .. } => Some(cure.clone()),
            StoreError::NoGrant { grant, .. } => Some(format!("{grant};")),
            _ => None,
        }
    }

    /// Whether the same thing may be tried again without anybody acting.
    pub fn is_transient(&self) -> bool {
        match self {
            StoreError::Failpoint(_) => true,
            StoreError::Postgres(PostgresError::Query(error)) if error.code().is_some_and(is_passing) => true,
            StoreError::Postgres(error) => error.is_unavailable(),
            StoreError::Migration { source, .. } => source.is_closed() || source.code().is_some_and(is_passing),
            _ => false,
        }
    }

    /// Whether another instance leads, or may.
    pub fn is_over(&self) -> bool {
        matches!(self, StoreError::Fenced { .. } | StoreError::Lost { .. })
    }
}

/// Conflicts between transactions, shortages and failures of the machine: what time may heal.
fn is_passing(code: &SqlState) -> bool {
    ["40", "53", "57", "58", "08"].iter().any(|class| code.code().starts_with(class))
        || *code == SqlState::LOCK_NOT_AVAILABLE
}

pub(super) fn is_lock_conflict(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::T_R_DEADLOCK_DETECTED)
}
