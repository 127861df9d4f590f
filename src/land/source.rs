//! Where a table's schema is asked for while it runs: PostgreSQL's catalogue, for captured tables.

use super::schema::{Schema, SchemaError};
use crate::{
    clock::now_ms,
    config::model::{LandSchema, LandTable, Postgres},
    postgres::{self, PostgresError, catalogue},
};
use std::time::{Duration, Instant};

/// Least time between two readings of the catalogue.
const READ_INTERVAL: Duration = Duration::from_secs(1);
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
    read: Option<(Instant, i64)>,
}

impl Source {
    pub fn new(postgres: Option<Postgres>) -> Self {
        Source { postgres, read: None }
    }

    /// The schema to start with: the file's; or what an earlier run has kept; or the catalogue's.
    /// PostgreSQL is asked only where nothing fitting was kept.
    pub async fn first(&mut self, land: &LandTable) -> Result<Schema, SourceError> {
        if let Some(schema) = Schema::from_file(land)? {
            schema.check(land)?;
            return Ok(schema);
        }
        let path = Schema::cache_path(land);
        let mut schema = Schema::load(&path)?.unwrap_or_default();
        if schema.columns.is_empty() || schema.check(land).is_err() {
            schema.widen(self.describe(land, &[]).await?);
            schema.check(land)?;
            schema.store(&path)?;
        }
        Ok(schema)
    }

    /// Whether the catalogue could know a column that a record of `record_ms`, polled at `polled`,
    /// holds and the schema does not. False where it was read late enough already.
    pub fn may_know(&self, land: &LandTable, record_ms: Option<i64>, polled: Instant) -> bool {
        if self.postgres.is_none() || matches!(land.schema, LandSchema::File(_)) {
            return false;
        }
        self.read.is_none_or(|(read, read_ms)| {
            read < polled && record_ms.is_none_or(|record_ms| read_ms < record_ms + CLOCK_MARGIN_MS)
        })
    }

    /// Reads the catalogue again, and adds what is new to `schema`; fields that a record holds are
    /// added even where the configuration does not list them. True where something was new.
    pub async fn refresh(
        &mut self,
        land: &LandTable,
        schema: &mut Schema,
        fields: &[String],
    ) -> Result<bool, SourceError> {
        if let Some((read, _)) = self.read {
            tokio::time::sleep(READ_INTERVAL.saturating_sub(read.elapsed())).await;
        }
        let mut wider = schema.clone();
        if !wider.widen(self.describe(land, fields).await?) {
            return Ok(false);
        }
        wider.check(land)?;
        wider.store(&Schema::cache_path(land))?;
        *schema = wider;
        Ok(true)
    }

    async fn describe(&mut self, land: &LandTable, fields: &[String]) -> Result<Schema, SourceError> {
        let topic = || land.topic.clone();
        let (Some(config), LandSchema::Table { schema, table, columns }) = (&self.postgres, &land.schema) else {
            return Err(SourceError::NoPostgres { topic: topic() });
        };
        let read_ms = now_ms();
        let read = Instant::now();
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
        self.read = Some((read, read_ms));
        let mut listed = columns.clone();
        if !listed.is_empty() {
            listed.extend_from_slice(fields);
        }
        Ok(Schema::from_catalogue(&found, &listed, land))
    }
}
