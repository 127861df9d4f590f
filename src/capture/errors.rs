//! What goes wrong in capture, sorted by what it stops.

use super::{plan::NotASnapshot, value::BadValue};
use crate::{
    kafka::{admin::AdminError, producer::ProducerError},
    postgres::{PostgresError, chain, is_row_security},
};
use tokio_postgres::error::SqlState;

/// Something that concerns one table; the others go on.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error(
        "table {table} does not exist or is not in the search path of the role; check capture.tables[].schema and .table"
    )]
    NoTable { table: String },
    #[error(
        "{table} is a {kind}: only tables can be captured, for only their rows carry transaction ids; name the tables behind it"
    )]
    NotATable { table: String, kind: &'static str },
    #[error("table {table} has no primary key: name key columns in capture.tables[].key")]
    NoKey { table: String },
    #[error(
        "partition or child {child} of table {table} is a foreign table: its rows carry no transaction ids of this server, so that new ones could not be told from old ones; name the local tables one by one, or detach it"
    )]
    ForeignChild { table: String, child: String },
    #[error(
        "key column {column} of table {table} is of type {type_name}: {reason}; name other columns that tell rows apart in capture.tables[].key"
    )]
    KeyType { table: String, column: String, type_name: String, reason: &'static str },
    #[error("table {table} has no column {column}, which is named in capture.tables[].{setting}")]
    NoColumn { table: String, column: String, setting: &'static str },
    #[error("watermark {column} of table {table} is of type {found}; it must be timestamp, timestamptz or date")]
    WatermarkType { table: String, column: String, found: String },
    #[error(
        "watermark {column} of table {table} is in local time, and the server's time zone is {zone}: set capture.timezone to the zone in which {column} is written"
    )]
    NoTimezone { table: String, column: String, zone: String },
    #[error("capture.timezone {zone:?} is not a time zone name such as Europe/Berlin")]
    UnknownTimezone { zone: String },
    #[error("{message}: run {grant}")]
    NoGrant { message: String, grant: String },
    #[error(
        "row-level security of table {table} would hide rows from role {user}: run ALTER ROLE {user} BYPASSRLS, or make it a member of the role that owns the table; a policy for it is not enough"
    )]
    RowSecurity { table: String, user: String },
    #[error(
        "table {table} could not be locked within {timeout_ms} ms: another session holds it exclusively, or waits to"
    )]
    LockTimeout { table: String, timeout_ms: u64 },
    #[error("table {table}: {}", chain(.source))]
    Query { table: String, source: tokio_postgres::Error },
    #[error("table {table}, column {column}: {source}")]
    Value { table: String, column: String, source: BadValue },
    #[error("table {table}: the server sent a row that cannot be read ({what})")]
    Row { table: String, what: &'static str },
    #[error("table {table}: topic {topic} {reason}")]
    Topic { table: String, topic: String, reason: String },
    #[error(
        "table {table} cannot go on: {reason}; --resync publishes every row of all tables of the file again, --from-now goes on with rows from now"
    )]
    CannotResume { table: String, reason: String },
}

impl TableError {
    /// Sorts an error of a query about `table`.
    pub fn query(table: &str, user: &str, timeout_ms: u64, source: tokio_postgres::Error) -> TableError {
        let table = table.to_owned();
        match source.code() {
            Some(_) if is_row_security(&source) => {
                TableError::RowSecurity { table, user: crate::postgres::quote_ident(user) }
            }
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                let message = source.as_db_error().map_or_else(|| chain(&source), |error| error.message().to_owned());
                let user = crate::postgres::quote_ident(user);
                let grant = match message.strip_prefix("permission denied for schema ") {
                    Some(schema) => {
                        format!("GRANT USAGE ON SCHEMA {} TO {user}", crate::postgres::quote_ident(schema))
                    }
                    None => format!("GRANT SELECT ON {table} TO {user}"),
                };
                TableError::NoGrant { message, grant }
            }
            Some(code) if *code == SqlState::UNDEFINED_TABLE || *code == SqlState::INVALID_SCHEMA_NAME => {
                TableError::NoTable { table }
            }
            Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => TableError::LockTimeout { table, timeout_ms },
            _ => TableError::Query { table, source },
        }
    }

    /// The statement to run, or the key to set.
    pub fn cure(&self) -> Option<String> {
        Some(match self {
            TableError::NoTable { .. } => {
                "capture.tables[].schema, capture.tables[].table; short form: postgres.table".to_owned()
            }
            TableError::NotATable { .. } => "capture.tables[].table: the table behind it".to_owned(),
            TableError::ForeignChild { .. } => "capture.tables[].table: one entry for each local table".to_owned(),
            TableError::NoKey { .. } | TableError::KeyType { .. } => {
                "capture.tables[].key: [columns that tell rows apart]".to_owned()
            }
            TableError::NoColumn { setting, .. } => match *setting {
                "watermark" => "capture.tables[].watermark; short form: postgres.watermark".to_owned(),
                setting => format!("capture.tables[].{setting}"),
            },
            TableError::WatermarkType { .. } => {
                "capture.tables[].watermark: a column of type timestamptz; short form: postgres.watermark".to_owned()
            }
            TableError::NoTimezone { zone, .. } if zone.contains("unknown") => "capture.timezone".to_owned(),
            TableError::NoTimezone { zone, .. } => format!("capture.timezone: {zone}"),
            TableError::UnknownTimezone { .. } => "capture.timezone".to_owned(),
            TableError::NoGrant { grant, .. } => format!("{grant};"),
            TableError::RowSecurity { user, .. } => format!("ALTER ROLE {user} BYPASSRLS;"),
            TableError::CannotResume { .. } => "headwater capture --resync -c FILE".to_owned(),
            TableError::LockTimeout { table, .. } => format!(
                "SELECT pid, state, query FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks \
                 WHERE relation = {}::regclass AND mode = 'AccessExclusiveLock');",
                crate::postgres::quote_literal(table)
            ),
            _ => return None,
        })
    }

    /// Whether the table stands still until somebody acts and starts us anew.
    pub fn is_final(&self) -> bool {
        matches!(self, TableError::CannotResume { .. } | TableError::UnknownTimezone { .. })
    }

    /// Whether trying again may help without anybody acting.
    pub fn is_transient(&self) -> bool {
        matches!(self, TableError::LockTimeout { .. } | TableError::Query { .. } | TableError::Topic { .. })
    }
}

/// Something that concerns all tables of the database.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error("the pipeline has no postgres section, which capture needs")]
    NotConfigured,
    #[error("the server is a standby, whose snapshots cannot be followed: connect to the primary")]
    Standby,
    #[error("PostgreSQL {version} is too old: capture needs 14 or newer")]
    TooOld { version: String },
    #[error(
        "database {database} has the encoding SQL_ASCII: its text can be any bytes, which JSON cannot hold; move it to a database of another encoding (pg_dump, then CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
    )]
    NoEncoding { database: String },
    #[error("the role may not see when other sessions began: run GRANT pg_monitor TO {user}")]
    NoMonitor { user: String },
    #[error("track_activities is off, so that open transactions cannot be seen: set it to on in postgresql.conf")]
    NoActivities,
    #[error(transparent)]
    Snapshot(#[from] NotASnapshot),
    #[error(
        "PostgreSQL's log has not reached its disk within {seconds} s, so that a crash could take back what was read: GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) to the role, or set synchronous_commit to on"
    )]
    NotFlushed { seconds: u64 },
    #[error("PostgreSQL has not answered for {seconds} s and does not work for us: the line is dead")]
    Silent { seconds: u64 },
}

impl SessionError {
    pub fn query(source: tokio_postgres::Error) -> SessionError {
        SessionError::Postgres(PostgresError::Query(source))
    }

    pub fn is_unavailable(&self) -> bool {
        match self {
            SessionError::Postgres(error) => error.is_unavailable(),
            SessionError::Silent { .. } => true,
            _ => false,
        }
    }
}

/// Something that ends the present turn of the whole stage; all but `Fenced` are tried again.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Producer(#[from] ProducerError),
    #[error(transparent)]
    Topics(#[from] AdminError),
    /// Rows of a table were handed to Kafka without an end; they are taken back.
    #[error("{0}")]
    Interrupted(TableError),
}

impl Fault {
    pub fn is_unavailable(&self) -> bool {
        match self {
            Fault::Session(error) => error.is_unavailable(),
            Fault::Producer(error) => error.is_unavailable(),
            Fault::Topics(error) => error.is_unavailable(),
            Fault::Interrupted(_) => false,
        }
    }
}
