//! Writes realistic data: food orders into PostgreSQL (here), a chat into Kafka (`chat`); as a bulk of
//! the past, or live at a rate.
//!
//! The content is the same for the same seed. What a live run of orders adds is what makes a poller's life hard:
//! transactions held open while others commit (so that rows appear after rows with younger timestamps),
//! rollbacks, and status updates. An update sets `created_at` to now, because a poller cannot see a row
//! that changes without moving its watermark; with [`Live::keep_watermark`] it does not, which is the way
//! to make `headwater verify` list some.

mod bulk;
pub mod chat;
mod content;
mod live;
mod options;
mod shown;
mod target;

pub use content::{Order, Orders, Random, Status};
pub use options::{Options, postgres_of_url};
pub use shown::Show;

use crate::{
    config::{ConfigErrors, model::Postgres},
    kafka::{admin::AdminError, producer::ProducerError},
    postgres::{PostgresError, quote_ident},
};
use serde::Serialize;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error("{0}")]
    Postgres(#[from] PostgresError),
    #[error("{option} is {value}, and must be {constraint}")]
    Option { option: &'static str, value: String, constraint: &'static str },
    #[error("{text} is no address of a database ({reason}): write postgres://user:password@host:port/database")]
    Url { text: String, reason: String },
    #[error("writing into {table}: {}", crate::postgres::chain(.source))]
    Write { table: String, source: tokio_postgres::Error },
    #[error("{0}")]
    Configuration(#[from] ConfigErrors),
    #[error("{} has the tenants {names}: name one of them with --tenant", .file.display())]
    Tenant { file: PathBuf, names: String },
    #[error("{} has no postgres section: add one, or give --url", .file.display())]
    NoPostgres { file: PathBuf },
    #[error(transparent)]
    Chat(#[from] chat::SettingsError),
    #[error(transparent)]
    Topics(#[from] AdminError),
    #[error(transparent)]
    Producer(#[from] ProducerError),
    #[error("{count} of {records} records were not delivered: {reason}; check the brokers and their log")]
    Undelivered { count: u64, records: u64, reason: String },
    #[error("the list of planted episodes, {}: {source}; check --planted", .path.display())]
    Planted { path: PathBuf, source: std::io::Error },
    #[error("signals cannot be caught: {0}")]
    Signals(std::io::Error),
}

impl GenerateError {
    /// Whether waiting may cure it.
    pub fn is_unavailable(&self) -> bool {
        match self {
            GenerateError::Postgres(error) => error.is_unavailable(),
            GenerateError::Topics(error) => error.is_unavailable(),
            GenerateError::Producer(error) => error.is_unavailable(),
            _ => false,
        }
    }
}

/// What to write, and where.
#[derive(Debug, Clone)]
pub struct Job {
    pub postgres: Postgres,
    pub schema: Option<String>,
    /// As PostgreSQL shall store it, unquoted.
    pub table: String,
    /// Makes the table as `db/source/orders.sql` says, where it is missing.
    pub create_table: bool,
    pub seed: u64,
    /// Share of rows with a negative amount, 0 to 1.
    pub bad_share: f64,
    pub mode: Mode,
    /// Ends a run early, in good order.
    pub shutdown: watch::Receiver<bool>,
    pub show: Show,
    /// Counts along, for a caller that shows progress itself.
    pub progress: Progress,
}

#[derive(Debug, Clone)]
pub enum Mode {
    Bulk(Bulk),
    Live(Live),
}

/// Rows of the past, by COPY.
#[derive(Debug, Clone)]
pub struct Bulk {
    pub rows: u64,
    /// `created_at` runs over so many days up to now; 0: all rows carry the time of the run.
    pub days: u32,
    /// Rows of one COPY, which is one transaction.
    pub transaction_rows: u64,
}

/// Rows of the present, at a rate.
#[derive(Debug, Clone)]
pub struct Live {
    pub rows_per_second: f64,
    /// Ends after so many rows, or
    pub rows: Option<u64>,
    /// after so long; without either at shutdown.
    pub seconds: Option<f64>,
    /// Share of rows in transactions that are held open while others commit.
    pub late_share: f64,
    /// They are held for up to so long.
    pub late_ms: u64,
    /// Share of transactions that roll back.
    pub rollback_share: f64,
    /// Status updates, as a share of the rows inserted.
    pub update_share: f64,
    /// Updates leave `created_at` as it is: no poller sees them.
    pub keep_watermark: bool,
}

impl Default for Bulk {
    fn default() -> Self {
        Bulk { rows: 1_000_000, days: 30, transaction_rows: 1_000_000 }
    }
}

impl Default for Live {
    fn default() -> Self {
        Live {
            rows_per_second: 1_000.0,
            rows: None,
            seconds: None,
            late_share: 0.05,
            late_ms: 3_000,
            rollback_share: 0.01,
            update_share: 0.1,
            keep_watermark: false,
        }
    }
}

/// What was committed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    pub inserted: u64,
    /// Row versions made by updates.
    pub updated: u64,
    /// Of the inserted, those with a negative amount.
    pub bad: u64,
    /// Of the inserted, those that were committed late.
    pub late: u64,
    /// Rows that were taken back.
    pub rolled_back: u64,
    pub transactions: u64,
    pub seconds: f64,
    pub rows_per_second: f64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Report { inserted, updated, bad, late, rolled_back, transactions, seconds, rows_per_second } = self;
        write!(
            f,
            "{inserted} rows inserted ({bad} bad, {late} committed late), {updated} updated, {rolled_back} rolled back, \
             in {transactions} transactions and {seconds:.1} s: {rows_per_second:.0} rows/s"
        )
    }
}

/// Committed so far. Cheap to clone, shared with the run.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    inserted: AtomicU64,
    updated: AtomicU64,
    bad: AtomicU64,
    late: AtomicU64,
    rolled_back: AtomicU64,
    transactions: AtomicU64,
}

impl Progress {
    pub fn report(&self, elapsed: Duration) -> Report {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        let (inserted, updated, seconds) = (read(&counts.inserted), read(&counts.updated), elapsed.as_secs_f64());
        Report {
            inserted,
            updated,
            bad: read(&counts.bad),
            late: read(&counts.late),
            rolled_back: read(&counts.rolled_back),
            transactions: read(&counts.transactions),
            seconds,
            rows_per_second: if seconds > 0.0 { (inserted + updated) as f64 / seconds } else { 0.0 },
        }
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// Writes orders as the command line says, until they are written or a signal ends it.
pub async fn orders(options: Options) -> Result<Report, GenerateError> {
    write(options.job(until_signal()?)?).await
}

/// Turns true at the first SIGINT or SIGTERM. A second one leaves at once.
fn until_signal() -> Result<watch::Receiver<bool>, GenerateError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(GenerateError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(GenerateError::Signals)?;
    let (down, shutdown) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        down.send_replace(true);
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::warn!("second signal: leaving at once");
        std::process::exit(1);
    });
    Ok(shutdown)
}

/// Writes orders until the mode's end or shutdown. What it reports is committed.
pub async fn write(job: Job) -> Result<Report, GenerateError> {
    check(&job)?;
    let started = Instant::now();
    if job.create_table {
        let client = crate::postgres::connect(&job.postgres).await?;
        client.batch_execute(&create_sql(job.schema.as_deref(), &job.table)).await.map_err(write_error(&job))?;
    }
    match &job.mode {
        Mode::Bulk(bulk) => bulk::run(&job, bulk).await?,
        Mode::Live(live) => live::run(&job, live).await?,
    }
    Ok(job.progress.report(started.elapsed()))
}

/// `db/source/orders.sql` for a table of that name.
pub fn create_sql(schema: Option<&str>, table: &str) -> String {
    let index = quote_ident(&format!("{}_created_at_idx", table.chars().take(40).collect::<String>()));
    include_str!("../../db/source/orders.sql")
        .replace("\"orders_created_at_idx\"", &index)
        .replace("\"orders\"", &qualified(schema, table))
}

fn qualified(schema: Option<&str>, table: &str) -> String {
    match schema {
        Some(schema) => format!("{}.{}", quote_ident(schema), quote_ident(table)),
        None => quote_ident(table),
    }
}

impl Job {
    fn target(&self) -> String {
        qualified(self.schema.as_deref(), &self.table)
    }
}

fn write_error(job: &Job) -> impl Fn(tokio_postgres::Error) -> GenerateError + Clone + use<> {
    let table = job.target();
    move |source| GenerateError::Write { table: table.clone(), source }
}

fn check(job: &Job) -> Result<(), GenerateError> {
    let wrong = |option, value: String, constraint| Err(GenerateError::Option { option, value, constraint });
    let mut shares = vec![("the share of bad rows", job.bad_share)];
    match &job.mode {
        Mode::Live(live) => {
            shares.push(("the share of late rows", live.late_share));
            shares.push(("the share of rollbacks", live.rollback_share));
            if !(live.rows_per_second > 0.0 && live.rows_per_second.is_finite()) {
                return wrong("the rate", live.rows_per_second.to_string(), "above 0");
            }
            // Several versions of a row are well possible, a share beyond any use is a typing error.
            if !(0.0..=100.0).contains(&live.update_share) {
                return wrong("the share of updates", live.update_share.to_string(), "between 0 and 100");
            }
        }
        Mode::Bulk(bulk) if bulk.transaction_rows == 0 => {
            return wrong("the rows of a transaction", "0".to_owned(), "at least 1");
        }
        Mode::Bulk(_) => {}
    }
    match shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
        Some((option, share)) => wrong(option, share.to_string(), "between 0 and 1"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_carries_the_quoted_name() {
        let sql = create_sql(Some("s"), "2025\"orders");
        assert!(sql.contains("CREATE TABLE IF NOT EXISTS \"s\".\"2025\"\"orders\" ("));
        assert!(sql.contains("\"2025\"\"orders_created_at_idx\" ON \"s\".\"2025\"\"orders\" (created_at)"));
        assert!(create_sql(None, "orders").contains("ON \"orders\" (created_at)"));
    }
}
