//! What `doctor` asks of a source: what capture asks at its start, answered one by one instead of up to the first
//! that is wrong.

pub use super::{
    errors::{SessionError, TableError},
    session::Server,
};

use super::{
    checkpoint::{Identity, Progress},
    session::{begin_text, identity, lock_text},
    source::{self, Source, WatermarkType},
    sql,
    start::checkpoint_key,
    witness::{self, Witness},
};
use crate::{
    config::model::{Capture, CaptureTable, Pipeline},
    kafka::{producer::ProducerError, replay},
    postgres::{PostgresError, catalogue},
};
use std::collections::HashMap;
use tokio_postgres::Client;

/// Longest wait for a table's lock.
const LOCK_TIMEOUT_MS: u64 = 1_000;

/// Longest look at the newest rows.
const LOOK_TIMEOUT_MS: u64 = 2_000;

/// A table as capture would find it.
#[derive(Debug)]
pub struct Table {
    /// `"schema"."table"`
    pub quoted: String,
    pub is_partitioned: bool,
    pub watermark: String,
    /// Whether the watermark is in local time, so that a zone has to be known.
    pub is_local: bool,
    pub zone: Result<(), TableError>,
    /// Whether the server takes the condition on rows.
    pub filter: Result<(), TableError>,
    pub index: Index,
    /// Of the newest rows so many look as if an update had left their watermark alone.
    pub left_alone: i64,
    source: Source,
}

/// The index by which new rows are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Index {
    Good(String),
    /// Left behind by a `CREATE INDEX CONCURRENTLY` that failed.
    Invalid(String),
    /// Leaves rows out, or keeps no order.
    Unsuitable(String),
    Missing,
    /// Of a partitioned table: some have it and these do not.
    MissingOn(Vec<String>),
}

/// The configured name as SQL.
pub fn quoted_name(table: &CaptureTable) -> String {
    source::quoted_name(table)
}

/// Locks the table as a poll does, looks at it, and lets it go.
pub async fn table(
    client: &Client,
    capture: &Capture,
    configured: &CaptureTable,
    user: &str,
    server_zone: Option<&str>,
) -> Result<Table, TableError> {
    let name = quoted_name(configured);
    let failed = |error| TableError::query(&name, user, LOCK_TIMEOUT_MS, error);
    let looked = async {
        let begin = format!("{}; {}", begin_text(LOCK_TIMEOUT_MS), lock_text(std::slice::from_ref(&name)));
        client.batch_execute(&begin).await.map_err(failed)?;
        let found = catalogue::describe(client, configured.schema.as_deref(), &configured.table).await;
        let found = found.map_err(|error| match error {
            PostgresError::Query(error) => failed(error),
            _ => TableError::NoTable { table: name.clone() },
        })?;
        let source = Source::resolve(configured, &found)?;
        let index = index(client, &found, &configured.watermark).await.map_err(failed)?;
        let whole = sql::Chunk { from: None, to: 0, last: None, given: None };
        let filter = match client.batch_execute(&whole.estimate(&source)).await.map_err(failed) {
            Err(error @ (TableError::RowSecurity { .. } | TableError::NoGrant { .. })) => return Err(error),
            filter => filter,
        };
        // The last question, for one that takes too long ends the transaction.
        let left_alone = match (&index, &filter) {
            (Index::Good(_), Ok(())) => left_alone(client, &source).await.unwrap_or(0),
            _ => 0,
        };
        Ok(Table {
            quoted: source.quoted.clone(),
            is_partitioned: found.kind == 'p',
            watermark: configured.watermark.clone(),
            is_local: source.watermark_type != WatermarkType::TimestampTz,
            zone: source::zone(capture, &source, server_zone).map(drop),
            filter,
            index,
            left_alone,
            source,
        })
    };
    let looked = looked.await;
    // Where even that fails the connection is gone, which the next question tells.
    let _ = client.batch_execute("ROLLBACK").await;
    looked
}

async fn left_alone(client: &Client, source: &Source) -> Result<i64, tokio_postgres::Error> {
    client.batch_execute(&format!("SET LOCAL statement_timeout = {LOOK_TIMEOUT_MS}")).await?;
    Ok(client.query_one(&sql::left_alone(source), &[&source.quoted]).await?.get(0))
}

async fn index(client: &Client, found: &catalogue::Table, watermark: &str) -> Result<Index, tokio_postgres::Error> {
    let indexes = client.query(sql::INDEXES, &[&found.oid, &watermark]).await?;
    let best = indexes.first().map(|row| {
        let name: String = row.get(0);
        match (row.get(1), row.get::<_, bool>(2) && row.get::<_, &str>(3) == "btree") {
            (true, true) => Index::Good(name),
            (false, true) => Index::Invalid(name),
            (_, false) => Index::Unsuitable(name),
        }
    });
    if found.kind != 'p' || matches!(best, Some(Index::Good(_))) {
        return Ok(best.unwrap_or(Index::Missing));
    }
    let bare = client.query(sql::BARE_PARTITIONS, &[&found.oid, &watermark]).await?;
    let all: i64 = client
        .query_one("SELECT count(*) FROM pg_partition_tree($1::oid::regclass) WHERE isleaf", &[&found.oid])
        .await?
        .get(0);
    let bare: Vec<String> = bare.into_iter().map(|row| row.get(0)).collect();
    Ok(match bare.as_slice() {
        [] if all > 0 => Index::Good("that of each partition".to_owned()),
        some if (some.len() as i64) < all => Index::MissingOn(bare),
        _ => Index::Missing,
    })
}

/// A transaction that holds back what a poll may take for settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTransaction {
    /// The server process; none of a prepared one.
    pub backend: Option<i32>,
    /// Of a prepared one.
    pub name: Option<String>,
    pub user: String,
    pub application: String,
    pub state: String,
    pub seconds: i64,
    /// When its last query began, or when it was prepared: `2025-01-15 12:24:00` in UTC.
    pub query_start: Option<String>,
}

/// Those that are open for at least so long, the oldest first.
pub async fn long_transactions(client: &Client, seconds: i64) -> Result<Vec<OpenTransaction>, SessionError> {
    let rows = client.query(sql::LONG, &[&seconds]).await.map_err(SessionError::query)?;
    let open = rows.into_iter().map(|row| OpenTransaction {
        backend: row.get(0),
        user: row.get(1),
        application: row.get(2),
        state: row.get(3),
        seconds: row.get(4),
        query_start: row.get(5),
        name: row.get(6),
    });
    Ok(open.collect())
}

/// The checkpoint records of a pipeline, by their keys. Blocks, and waits for a transaction that is open.
pub fn checkpoints(pipeline: &Pipeline, capture: &Capture) -> Result<HashMap<String, Vec<u8>>, ProducerError> {
    let prefix = format!("{}/", pipeline.name);
    replay::latest_values(&pipeline.kafka, &capture.checkpoint_topic, replay::Open::Settle, |key| {
        key.starts_with(&prefix)
    })
}

/// What checkpoints are held against: the database as it is now.
pub struct Database {
    identity: Identity,
    /// The id that the server assigns next.
    latest: u64,
}

impl Database {
    pub async fn ask(client: &Client) -> Result<Database, SessionError> {
        let (identity, latest, _) = identity(client).await?;
        Ok(Database { identity, latest })
    }
}

/// How a table's checkpoint fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// Capture has not begun with it.
    None,
    Good,
    Misfit(String),
}

pub fn fit(
    pipeline: &Pipeline,
    table: &Table,
    topic: &str,
    topic_id: Option<&str>,
    records: &HashMap<String, Vec<u8>>,
    database: &Database,
) -> Fit {
    let key = checkpoint_key(&pipeline.name, &table.source.name, topic);
    let refused = || {
        let record = records.get(&witness::record_key(&key))?;
        Witness::decode(record).refusal.map(|refusal| format!("it was refused before: {}", refusal.reason))
    };
    let misfit = match Progress::read(records, &key) {
        Ok(None) => return Fit::None,
        Ok(Some(progress)) => progress
            .misfit(&database.identity, &table.source, database.latest)
            .or_else(|| progress.is_elsewhere(topic, topic_id?))
            .or_else(refused),
        Err(error) => Some(error.to_string()),
    };
    misfit.map_or(Fit::Good, Fit::Misfit)
}
