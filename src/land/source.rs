//! Where a table's schema is asked for while it runs: PostgreSQL's catalogue, for captured tables.

use super::schema::{Clash, Schema, SchemaError};
use crate::{
    clock::now_ms,
    config::model::{LandSchema, LandTable, Postgres},
    postgres::{self, PostgresError, catalogue},
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Least time between two readings of the catalogue.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// How often at most the catalogue is asked again for fields that it did not have.
const ABSENT_INTERVAL: Duration = Duration::from_secs(10);
/// Most fields that are remembered. Records of more are no rows of a table.
const MOST_ABSENT: usize = 1_000;
/// How far the clock that stamped a record may be ahead of ours.
const CLOCK_MARGIN_MS: i64 = 60_000;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{0}")]
    Schema(#[from] SchemaError),
    #[error("the columns of topic {topic} cannot be read: {source}")]
    Postgres { topic: String, source: PostgresError },
    #[error("topic {topic} takes its columns from a PostgreSQL table, but there is no postgres section")]
    NoPostgres { topic: String },
}

impl SourceError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        match self {
            // A captured table that does not exist yet, or a catalogue that may not be read yet: both
            // are cured from outside.
            SourceError::Postgres { source, .. } => {
                source.is_unavailable() || matches!(source, PostgresError::NoTable { .. })
            }
            _ => false,
        }
    }
}

pub struct Source {
    postgres: Option<Postgres>,
    /// The last reading of the catalogue.
    read: Option<Reading>,
    /// Fields that became no column, and the last reading that said so.
    absent: HashMap<String, Reading>,
}

/// When the catalogue was read, by the clock that records are stamped with too.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    at_ms: i64,
}

impl Source {
    pub fn new(postgres: Option<Postgres>) -> Self {
        Source { postgres, read: None, absent: HashMap::new() }
    }

    /// The schema to start with: the file's; or what an earlier run has kept; or the catalogue's.
    /// PostgreSQL is asked only where nothing fitting was kept.
    pub async fn first(&mut self, land: &LandTable) -> Result<Schema, SourceError> {
        if let Some(schema) = Schema::from_file(land)? {
            schema.check(land)?;
            return Ok(schema);
        }
        let path = Schema::cache_path(land);
        let kept = Schema::load(&path)?.unwrap_or_default();
        if !kept.columns.is_empty() && kept.check(land).is_ok() {
            return Ok(kept);
        }
        let schema = Schema::settle(kept, self.describe(land, &[]).await?, land)?;
        schema.store(&path)?;
        Ok(schema)
    }

    /// Whether the catalogue could know the column `field` that a record of `record_ms`, polled at `polled`,
    /// holds and the schema does not. False where it was read late enough already; of a field that it did not
    /// have, it is asked again only now and then.
    pub fn may_know(&self, land: &LandTable, field: &str, record_ms: Option<i64>, polled: Instant) -> bool {
        if self.postgres.is_none() || matches!(land.schema, LandSchema::File(_)) {
            return false;
        }
        let Some(last) = self.read else { return true };
        let (read, is_new) = match self.absent.get(field) {
            Some(read) => (*read, false),
            None => (last, self.absent.len() < MOST_ABSENT),
        };
        last.at < polled
            && record_ms.is_none_or(|record_ms| read.at_ms < record_ms + CLOCK_MARGIN_MS)
            && (is_new || read.at.elapsed() >= ABSENT_INTERVAL)
    }

    /// Reads the catalogue again, and adds what is new to `schema`; fields that a record holds are
    /// added even where the configuration does not list them. True where something was new. What is not found is
    /// remembered, and told once.
    pub async fn refresh(
        &mut self,
        land: &LandTable,
        schema: &mut Schema,
        fields: &[String],
    ) -> Result<bool, SourceError> {
        if let Some(read) = self.read {
            tokio::time::sleep(READ_INTERVAL.saturating_sub(read.at.elapsed())).await;
        }
        let mut wider = schema.clone();
        let clashes = wider.widen(self.describe(land, fields).await?, land);
        let is_wider = wider.columns.len() > schema.columns.len();
        if is_wider {
            wider.store(&Schema::cache_path(land))?;
            *schema = wider;
        }
        let is_absent = |field: &&String| !schema.columns.iter().any(|column| column.name == **field);
        for field in fields.iter().filter(is_absent) {
            self.note_absent(land, field, clashes.iter().find(|clash| clash.column == *field));
        }
        Ok(is_wider)
    }

    fn note_absent(&mut self, land: &LandTable, field: &str, clash: Option<&Clash>) {
        let Some(read) = self.read else { return };
        if let Some(known) = self.absent.get_mut(field) {
            *known = read;
            return;
        }
        if self.absent.len() >= MOST_ABSENT {
            return;
        }
        self.absent.insert(field.to_owned(), read);
        let fate = match land.overflow_column {
            Some(_) => "kept in overflow_column",
            None => "counted as unknown and not landed",
        };
        match clash {
            Some(clash) => tracing::warn!(topic = %land.topic, "a field is {fate}: {clash}"),
            None => tracing::warn!(
                topic = %land.topic,
                "field {field:?} is {fate}: the source table has no such column"
            ),
        }
        if self.absent.len() == MOST_ABSENT {
            tracing::warn!(
                topic = %land.topic,
                "{MOST_ABSENT} different fields had no column: a new column is found only within {} s from now on",
                ABSENT_INTERVAL.as_secs()
            );
        }
    }

    async fn describe(&mut self, land: &LandTable, fields: &[String]) -> Result<Schema, SourceError> {
        let topic = || land.topic.clone();
        let (Some(config), LandSchema::Table { schema, table, columns }) = (&self.postgres, &land.schema) else {
            return Err(SourceError::NoPostgres { topic: topic() });
        };
        let read = Reading { at: Instant::now(), at_ms: now_ms() };
        let failed = |source| SourceError::Postgres { topic: topic(), source };
        let client = postgres::connect(config).await.map_err(failed)?;
        let timeout = Duration::from_millis(config.connect_timeout_ms);
        let described = tokio::time::timeout(timeout, catalogue::describe(&client, schema.as_deref(), table)).await;
        let found = match described {
            Ok(found) => found.map_err(failed)?,
            Err(_) => {
                let address = format!("{}:{}", config.host, config.port);
                return Err(failed(PostgresError::Timeout { address, timeout_ms: config.connect_timeout_ms }));
            }
        };
        self.read = Some(read);
        let mut listed = columns.clone();
        if !listed.is_empty() {
            listed.extend_from_slice(fields);
        }
        Ok(Schema::from_catalogue(&found, &listed, land))
    }
}
