//! Connections to PostgreSQL: TLS, session settings, quoting, and errors that name their cure.

pub mod catalogue;
mod pins;
pub mod pool;

use crate::{
    clock,
    config::model::{Postgres, TlsMode},
};
use openssl::ssl::{ErrorCode, SslConnector, SslMethod, SslVerifyMode};
use postgres_openssl::MakeTlsConnector;
use std::time::Duration;
use tokio_postgres::{Client, NoTls, config::SslMode, error::SqlState};

#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error("PostgreSQL at {address} cannot be reached: {}", chain(.source))]
    Unreachable { address: String, source: tokio_postgres::Error },
    #[error("PostgreSQL at {address} refused user {user}: {}; check postgres.user and postgres.password", chain(.source))]
    Refused { address: String, user: String, source: tokio_postgres::Error },
    #[error("TLS to PostgreSQL at {address} failed: {}; check postgres.tls_mode and postgres.tls_ca_file", chain(.source))]
    Tls { address: String, source: tokio_postgres::Error },
    #[error("PostgreSQL at {address} did not answer within {timeout_ms} ms")]
    Timeout { address: String, timeout_ms: u64 },
    #[error("the authorities in {path} cannot be read: {source}; check postgres.tls_ca_file")]
    CaFile { path: String, source: openssl::error::ErrorStack },
    #[error("table {table} does not exist or is not in the search path of the role; check postgres.schema")]
    NoTable { table: String },
    #[error("none of the {size} connections to PostgreSQL at {address} came free within {timeout_ms} ms")]
    PoolExhausted { address: String, size: usize, timeout_ms: u64 },
    #[error(
        "{pooler} at {address} does not give its sessions the settings that they need ({settings}), nor keeps a session for one client: connect to PostgreSQL itself; check postgres.host and postgres.port"
    )]
    Pooled { address: String, pooler: String, settings: String },
    #[error("PostgreSQL: {}", chain(.0))]
    Query(#[from] tokio_postgres::Error),
}

impl PostgresError {
    /// Whether waiting may cure it: the server is away or starting, rather than refusing us.
    pub fn is_unavailable(&self) -> bool {
        match self {
            PostgresError::Unreachable { .. } | PostgresError::Timeout { .. } | PostgresError::PoolExhausted { .. } => {
                true
            }
            PostgresError::Query(error) => error.is_closed() || error.code().is_some_and(is_unavailable_code),
            _ => false,
        }
    }
}

impl PostgresError {
    /// The key to set, or the statement to run.
    pub fn cure(&self) -> Option<String> {
        let cure = match self {
            PostgresError::Unreachable { source, .. } if source.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => {
                "ALTER SYSTEM SET max_connections = 200;   -- and restart the server"
            }
            PostgresError::Unreachable { .. } => "postgres.host, postgres.port",
            PostgresError::Refused { source, .. } => match source.code() {
                Some(code) if *code == SqlState::INVALID_CATALOG_NAME => "postgres.db",
                Some(code) if *code == SqlState::INVALID_PASSWORD => "postgres.user, postgres.password_file",
                Some(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                    "postgres.user, or a line for it in the server's pg_hba.conf"
                }
                _ => "postgres.user, postgres.password_file, postgres.db",
            },
            PostgresError::Tls { .. } => "postgres.tls_mode, postgres.tls_ca_file",
            PostgresError::CaFile { .. } => "postgres.tls_ca_file",
            PostgresError::Timeout { .. } => "postgres.host, postgres.port, postgres.connect_timeout_ms",
            PostgresError::NoTable { .. } => "postgres.table, capture.tables[].schema, capture.tables[].table",
            PostgresError::PoolExhausted { .. } => "analyze.pool_size",
            PostgresError::Pooled { .. } => "postgres.host, postgres.port: the server itself rather than a pooler",
            PostgresError::Query(_) => return None,
        };
        Some(cure.to_owned())
    }
}

fn is_unavailable_code(code: &SqlState) -> bool {
    // Class 57 holds shutdown, crash and "starting up"; 53300 is "too many connections".
    code.code().starts_with("57P") || code.code().starts_with("08") || *code == SqlState::TOO_MANY_CONNECTIONS
}

/// An error and its sources on one line, without repeating what the next already says.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

const APPLICATION: &str = "headwater";
/// Clocks that differ by more are told of.
const CLOCKS_APART_US: i64 = 3_600_000_000;

/// Opens one connection and pins its session settings, so that text forms do not depend on the
/// server's or the role's defaults. The connection ends when the client is dropped.
pub async fn connect(config: &Postgres) -> Result<Client, PostgresError> {
    connect_as(config, APPLICATION, "").await
}

/// The same under another name in `pg_stat_activity` and with further session settings, such as
/// `-c idle_session_timeout=7s`, which win over the pinned ones.
pub async fn connect_as(config: &Postgres, application: &str, options: &str) -> Result<Client, PostgresError> {
    let client = connect_with(config, application, &pins::startup(options)).await?;
    if let Some(settings) = pins::apply(&client, options).await? {
        return Err(pooled(config, settings).await);
    }
    Ok(client)
}

/// The error about a pooler that drops `settings`, with its name where it tells that.
async fn pooled(config: &Postgres, settings: String) -> PostgresError {
    let address = format!("{}:{}", config.host, config.port);
    // PgBouncer answers under this name itself, and tells those who may not ask so.
    let console = Postgres { db: "pgbouncer".to_owned(), ..config.clone() };
    let pooler = match connect_with(&console, APPLICATION, "").await {
        Ok(client) => pins::version(&client).await,
        Err(PostgresError::Pooled { pooler, .. }) => Some(pooler),
        Err(PostgresError::Refused { source, .. } | PostgresError::Unreachable { source, .. })
            if chain(&source).contains("not allowed") =>
        {
            Some("PgBouncer".to_owned())
        }
        Err(_) => None,
    };
    PostgresError::Pooled { address, pooler: pooler.unwrap_or_else(|| "a pooler".to_owned()), settings }
}

/// Whether PostgreSQL refused to hide rows behind a policy, as `row_security = off` has it do.
pub fn is_row_security(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().and_then(|error| error.routine()) == Some("check_enable_rls")
}

/// The time zone that sessions of other roles have in this database, unless they set their own. Asked on
/// a connection of its own, since a pinned setting hides it. `None` where this role's own setting does.
pub async fn default_time_zone(config: &Postgres) -> Result<Option<String>, PostgresError> {
    let client = connect_with(config, APPLICATION, "").await?;
    let row = client
        .query_one(
            "SELECT setting, source IN ('user', 'database user', 'client', 'session') FROM pg_settings WHERE name = 'TimeZone'",
            &[],
        )
        .await?;
    Ok(if row.get(1) { None } else { Some(row.get(0)) })
}

/// Microseconds since 1970 by this machine's clock, `now_us`, or by the server's where that is earlier. What deletes by
/// age asks both, for one clock that is ahead would delete what is young.
pub async fn agreed_now_us(client: &Client, now_us: i64) -> Result<i64, PostgresError> {
    let question = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
    let servers_us: i64 = client.query_one(question, &[]).await?.get(0);
    let ahead_us = now_us.saturating_sub(servers_us);
    if ahead_us > CLOCKS_APART_US {
        let (here, there) = (clock::iso(now_us), clock::iso(servers_us));
        tracing::warn!(
            "this machine's clock says {here}, PostgreSQL's {there}: set it right; nothing is deleted by it"
        );
    }
    Ok(now_us.min(servers_us))
}

fn settings(config: &Postgres, application: &str, options: &str) -> tokio_postgres::Config {
    let mut settings = tokio_postgres::Config::new();
    settings
        .host(&config.host)
        .port(config.port)
        .dbname(&config.db)
        .user(&config.user)
        .application_name(application)
        .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(30))
        .options(options)
        .ssl_mode(match config.tls_mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyFull => SslMode::Require,
        });
    if let Some(password) = &config.password {
        settings.password(password.reveal());
    }
    settings
}

async fn connect_with(config: &Postgres, application: &str, options: &str) -> Result<Client, PostgresError> {
    let address = format!("{}:{}", config.host, config.port);
    let settings = settings(config, application, options);
    let attempt = async {
        match config.tls_mode {
            TlsMode::Disable => {
                let (client, connection) =
                    settings.connect(NoTls).await.map_err(|e| connect_error(config, &address, e))?;
                spawn(connection);
                Ok(client)
            }
            _ => {
                let tls = tls_connector(config)?;
                let (client, connection) =
                    settings.connect(tls).await.map_err(|e| connect_error(config, &address, e))?;
                spawn(connection);
                Ok(client)
            }
        }
    };
    // `connect_timeout` bounds the TCP connect only; a server that accepts and then says nothing
    // would hold us for ever.
    match tokio::time::timeout(Duration::from_millis(config.connect_timeout_ms), attempt).await {
        Ok(result) => result,
        Err(_) => Err(PostgresError::Timeout { address, timeout_ms: config.connect_timeout_ms }),
    }
}

fn spawn<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("PostgreSQL connection ended: {}", chain(&error));
        }
    });
}

fn tls_connector(config: &Postgres) -> Result<MakeTlsConnector, PostgresError> {
    let path = config.tls_ca_file.as_ref().map_or("the system's store".to_owned(), |p| p.display().to_string());
    let ca_error = |source| PostgresError::CaFile { path: path.clone(), source };
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(ca_error)?;
    if let Some(file) = &config.tls_ca_file {
        builder.set_ca_file(file).map_err(ca_error)?;
    }
    let verify = config.tls_mode == TlsMode::VerifyFull;
    if !verify {
        builder.set_verify(SslVerifyMode::NONE);
    }
    let mut connector = MakeTlsConnector::new(builder.build());
    connector.set_callback(move |settings, _| {
        settings.set_verify_hostname(verify);
        Ok(())
    });
    Ok(connector)
}

fn connect_error(config: &Postgres, address: &str, source: tokio_postgres::Error) -> PostgresError {
    let address = address.to_owned();
    let user = || config.user.clone();
    // The client has no public kind for the last two; its own words are the only mark.
    match source.code() {
        // PgBouncer's words for session settings that it does not know.
        Some(code) if *code == SqlState::PROTOCOL_VIOLATION && chain(&source).contains("startup parameter") => {
            PostgresError::Pooled { address, pooler: "PgBouncer".to_owned(), settings: chain(&source) }
        }
        Some(code) if is_unavailable_code(code) => PostgresError::Unreachable { address, source },
        Some(_) => PostgresError::Refused { address, user: user(), source },
        None if is_broken_line(&source) => PostgresError::Unreachable { address, source },
        None if source.to_string().contains("TLS") => PostgresError::Tls { address, source },
        None if chain(&source).contains("password missing") => PostgresError::Refused { address, user: user(), source },
        None => PostgresError::Unreachable { address, source },
    }
}

/// Whether the connection broke, also within the TLS handshake, as it does while a server restarts.
fn is_broken_line(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        error.is::<std::io::Error>()
            || error.downcast_ref::<openssl::ssl::Error>().is_some_and(|error| {
                error.io_error().is_some() || matches!(error.code(), ErrorCode::SYSCALL | ErrorCode::ZERO_RETURN)
            })
    })
}

/// SQL for a time as microseconds since 1970. PostgreSQL knows times that 64 bits of them do not hold, and endless
/// ones: of these the end of the range.
pub fn epoch_us(column: &str) -> String {
    format!(
        "CASE WHEN {column} IS NOT NULL THEN least(greatest(extract(epoch FROM {column}) * 1000000, {}), {})::int8 END",
        i64::MIN,
        i64::MAX
    )
}

/// `name` as a quoted identifier.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as a string literal, safe whatever `standard_conforming_strings` is.
pub fn quote_literal(text: &str) -> String {
    if text.contains('\\') {
        format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}
