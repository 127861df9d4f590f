//! The command line of `headwater generate orders`.

use super::{
    Bulk, GenerateError, Job, Live, Mode, Progress, Show,
    target::{ConfigFile, TARGET, target_group},
};
use crate::config::model::{Postgres, Secret, TlsMode};
use std::{io::IsTerminal, str::FromStr};
use tokio::sync::watch;
use tokio_postgres::config::{Host, SslMode};

#[derive(Debug, Clone, clap::Args)]
#[command(group = target_group())]
pub struct Options {
    /// The database: postgres://user:password@host:port/database
    #[arg(long, value_name = "URL", group = TARGET)]
    pub url: Option<String>,
    #[command(flatten)]
    pub file: ConfigFile,
    /// Whose section of the file, where it has several tenants.
    #[arg(long, value_name = "NAME", requires = "config", conflicts_with = "url")]
    pub tenant: Option<String>,
    /// Made where it is missing; odd names are quoted.
    #[arg(long, default_value = "orders")]
    pub table: String,
    /// The table's schema; the search path decides when not given.
    #[arg(long)]
    pub schema: Option<String>,
    /// Fail where the table is missing.
    #[arg(long)]
    pub no_create: bool,
    /// The same seed gives the same orders.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Share of rows with a negative amount.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub bad: f64,
    /// Write so many rows of the past at once, instead of living at a rate.
    #[arg(long, value_name = "ROWS", conflicts_with_all = ["rate", "late", "late_ms", "rollbacks", "updates", "keep_watermark", "seconds"])]
    pub bulk: Option<u64>,
    /// With --bulk: days over which created_at is spread.
    #[arg(long, default_value_t = 30, requires = "bulk")]
    pub days: u32,
    /// With --bulk: rows of one transaction.
    #[arg(long, default_value_t = 1_000_000, requires = "bulk", value_name = "ROWS")]
    pub transaction_rows: u64,
    /// Rows a second.
    #[arg(long, default_value_t = 1_000.0)]
    pub rate: f64,
    /// End after so many rows.
    #[arg(long)]
    pub rows: Option<u64>,
    /// End after so many seconds.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Share of rows in transactions that are held open while others commit.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    pub late: f64,
    /// How long those are held at most.
    #[arg(long, default_value_t = 3_000, value_name = "MILLISECONDS")]
    pub late_ms: u64,
    /// Share of transactions that roll back.
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    pub rollbacks: f64,
    /// Status updates, as a share of the rows inserted; each sets created_at to now, so that a poller sees it.
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    pub updates: f64,
    /// Updates leave created_at as it is: no poller sees them, `headwater verify` lists them apart.
    #[arg(long)]
    pub keep_watermark: bool,
}

impl Options {
    pub(super) fn job(self, shutdown: watch::Receiver<bool>) -> Result<Job, GenerateError> {
        let postgres = match &self.url {
            Some(url) => postgres_of_url(url)?,
            None => self.file.postgres(self.tenant.as_deref())?,
        };
        let mode = match self.bulk {
            Some(rows) => Mode::Bulk(Bulk { rows, days: self.days, transaction_rows: self.transaction_rows }),
            None => Mode::Live(Live {
                rows_per_second: self.rate,
                rows: self.rows,
                seconds: self.seconds,
                late_share: self.late,
                late_ms: self.late_ms,
                rollback_share: self.rollbacks,
                update_share: self.updates,
                keep_watermark: self.keep_watermark,
            }),
        };
        Ok(Job {
            postgres,
            schema: self.schema,
            table: self.table,
            create_table: !self.no_create,
            seed: self.seed,
            bad_share: self.bad,
            mode,
            shutdown,
            show: if std::io::stderr().is_terminal() { Show::Bar } else { Show::Log },
            progress: Progress::default(),
        })
    }
}

/// Understands `postgres://user:password@host:port/database?sslmode=…`, and libpq's `key=value` form.
pub fn postgres_of_url(text: &str) -> Result<Postgres, GenerateError> {
    // Without the part that may hold a password.
    let shown = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    let wrong = |reason: &str| GenerateError::Url { text: shown.to_owned(), reason: reason.to_owned() };
    let parsed = tokio_postgres::Config::from_str(text).map_err(|error| wrong(&crate::postgres::chain(&error)))?;
    let Some(Host::Tcp(host)) = parsed.get_hosts().first() else { return Err(wrong("it names no host")) };
    let user = parsed.get_user().ok_or_else(|| wrong("it names no user"))?;
    Ok(Postgres {
        host: host.clone(),
        port: parsed.get_ports().first().copied().unwrap_or(5_432),
        db: parsed.get_dbname().unwrap_or(user).to_owned(),
        user: user.to_owned(),
        password: parsed.get_password().map(|bytes| Secret::new(String::from_utf8_lossy(bytes))),
        tls_mode: match parsed.get_ssl_mode() {
            SslMode::Disable => TlsMode::Disable,
            SslMode::Require => TlsMode::Require,
            _ => TlsMode::Prefer,
        },
        tls_ca_file: None,
        connect_timeout_ms: 10_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let found = postgres_of_url("postgres://me:s%40cret@db.example:5433/shop?sslmode=require").unwrap();
        assert_eq!((found.host.as_str(), found.port, found.db.as_str()), ("db.example", 5433, "shop"));
        assert_eq!(found.password.unwrap().reveal(), "s@cret");
        assert_eq!(found.tls_mode, TlsMode::Require);
        assert_eq!(postgres_of_url("postgres://me@host").unwrap().db, "me");
    }

    #[test]
    fn a_wrong_address_is_told_without_its_password() {
        let error = postgres_of_url("postgres://me:secret@host:port/x").unwrap_err().to_string();
        assert!(error.contains("host:port/x") && !error.contains("secret"), "{error}");
        assert!(postgres_of_url("postgres:///x").is_err());
    }
}
