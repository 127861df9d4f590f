//! The server, the connection to it, and what there is of both: version, TLS, clocks, connections.

use super::{
    LIMIT, Options, captured,
    finding::{Findings, Outcome, Section},
};
use crate::{
    amount,
    capture::inspect::{Database, Server, SessionError, Table},
    clock,
    config::model::{LandSchema, Pipeline, Postgres, TlsMode},
    postgres::{PostgresError, connect_as, default_time_zone},
};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Clocks may differ by so much before it is worth a word.
const CLOCK_TOLERANCE_MS: f64 = 1_000.0;
const CLOCK_SAMPLES: usize = 5;
/// The server gives up a question after so long; nothing here takes any time.
pub const OPTIONS: &str = "-c statement_timeout=5s";

/// What other sections need of the source.
pub struct Source {
    pub findings: Findings,
    /// None where it cannot be reached.
    pub client: Option<Client>,
    /// Captured tables that are as they must be, by the position in the configuration.
    pub tables: Vec<(usize, Table)>,
    /// None of a standby, and where nothing is captured.
    pub database: Option<Database>,
}

/// `config` with the patience of a check.
pub fn patient(config: &Postgres) -> Postgres {
    let limit = u64::try_from(LIMIT.as_millis()).unwrap_or(u64::MAX);
    Postgres { connect_timeout_ms: config.connect_timeout_ms.min(limit), ..config.clone() }
}

pub fn address(config: &Postgres) -> String {
    format!("{}:{}/{}", config.host, config.port, config.db)
}

/// Looks at the server and, where the pipeline captures, at its tables.
pub async fn examine(pipeline: &Pipeline, config: &Postgres, options: Options) -> Source {
    let mut source =
        Source { findings: Findings::new(Section::Postgres), client: None, tables: Vec::new(), database: None };
    let (config, subject) = (patient(config), address(config));
    let findings = &mut source.findings;
    let begun = Instant::now();
    let client = match connect_as(&config, "headwater doctor", OPTIONS).await {
        Ok(client) => client,
        Err(error) => {
            findings.failure("reachable", &subject, error.to_string(), error.cure());
            if error.is_unavailable() {
                findings.mark_away();
            }
            let rest = "version, role, TLS, clock, tables: PostgreSQL cannot be reached";
            findings.not_checked("server", &subject, rest, None);
            return source;
        }
    };
    let taken = amount::duration(begun.elapsed().as_millis() as i64);
    findings.ok("reachable", &subject, format!("connected as {} within {taken}", config.user));
    let examined = go_on(pipeline, &config, &client, options, &mut source);
    let examined = tokio::time::timeout(super::SECTION_LIMIT, examined).await;
    let findings = &mut source.findings;
    match examined {
        Ok(Ok(())) => source.client = Some(client),
        Ok(Err(error)) => {
            let cure = if let SessionError::Postgres(error) = &error { error.cure() } else { None };
            findings.failure("answers", &subject, error.to_string(), cure);
            findings.not_checked("server", &subject, "what follows in this section", None);
        }
        Err(_) => {
            let seconds = super::SECTION_LIMIT.as_secs();
            let message = format!("the answers took longer than {seconds} s");
            findings.failure("answers", &subject, message, None);
            findings.not_checked("server", &subject, "what follows in this section", None);
        }
    }
    source
}

async fn go_on(
    pipeline: &Pipeline,
    config: &Postgres,
    client: &Client,
    options: Options,
    source: &mut Source,
) -> Result<(), SessionError> {
    let subject = address(config);
    let server = Server::ask(client).await?;
    let findings = &mut source.findings;
    check_version(&server, &subject, findings);
    let needs_primary = pipeline.capture.is_some() || pipeline.analyze.is_some();
    match (server.is_standby, needs_primary) {
        (true, true) => findings.failure(
            "standby",
            &subject,
            "the server is a standby: its snapshots cannot be followed, and it takes no rows",
            Some("postgres.host: the primary's   # or, to make this one the primary: SELECT pg_promote();".to_owned()),
        ),
        (true, false) => findings.ok("standby", &subject, "a standby, of which only the catalogue is read"),
        (false, _) => findings.ok("standby", &subject, "the primary"),
    }
    tls(config, client, findings).await.map_err(SessionError::query)?;
    clocks(config, client, findings).await.map_err(SessionError::query)?;
    connections(pipeline, config, client, findings).await.map_err(SessionError::query)?;
    if let Some(capture) = &pipeline.capture {
        let zone = default_time_zone(config).await.map_err(SessionError::Postgres)?;
        captured::examine(capture, config, client, &server, zone.as_deref(), source).await?;
        let long = i64::from(options.long_transaction_seconds);
        captured::transactions(&subject, client, &server, long, &mut source.findings).await?;
        if !server.is_standby {
            source.database = Some(Database::ask(client).await?);
        }
    }
    Ok(())
}

async fn tls(config: &Postgres, client: &Client, findings: &mut Findings) -> Result<(), tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT coalesce(s.ssl, false), coalesce(s.version, ''),
               inet_client_addr() IS NULL OR inet_client_addr() <<= '127.0.0.0/8' OR inet_client_addr() = '::1'
               OR host(inet_client_addr()) = host(inet_server_addr())
             FROM (SELECT pg_backend_pid() AS pid) AS own LEFT JOIN pg_stat_ssl s USING (pid)",
            &[],
        )
        .await?;
    let (outcome, message) = judge_tls(row.get::<_, bool>(0).then(|| row.get(1)), row.get(2), config.tls_mode);
    let cure = "postgres.tls_mode: verify-full   # with postgres.tls_ca_file, unless a public authority signed";
    match outcome {
        Outcome::Ok => findings.ok("tls", &address(config), message),
        _ => findings.warning("tls", &address(config), message, Some(cure.to_owned())),
    }
    Ok(())
}

/// `version` where the connection is encrypted.
fn judge_tls(version: Option<&str>, is_local: bool, mode: TlsMode) -> (Outcome, String) {
    match (version, mode) {
        (Some(version), TlsMode::VerifyFull) => {
            (Outcome::Ok, format!("{version}, and the server has proved who it is"))
        }
        (Some(version), _) if is_local => (Outcome::Ok, format!("{version}, on this machine")),
        (None, _) if is_local => (Outcome::Ok, "none, on this machine".to_owned()),
        (Some(version), _) => {
            let message = "but the certificate is not checked: whoever is on the way may pose as the server";
            (Outcome::Warning, format!("{version}, {message}"))
        }
        (None, _) => (Outcome::Warning, "none: password and rows cross the network as they are".to_owned()),
    }
}

async fn clocks(config: &Postgres, client: &Client, findings: &mut Findings) -> Result<(), tokio_postgres::Error> {
    let question = client.prepare("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8").await?;
    // The quickest answer tells best.
    let mut best: Option<(Duration, f64)> = None;
    for _ in 0..CLOCK_SAMPLES {
        let (ours_us, begun) = (clock::now_us(), Instant::now());
        let theirs: i64 = client.query_one(&question, &[]).await?.get(0);
        let trip = begun.elapsed();
        let ahead_ms = (theirs - ours_us) as f64 / 1e3 - trip.as_secs_f64() * 5e2;
        if best.is_none_or(|(least, _)| trip < least) {
            best = Some((trip, ahead_ms));
        }
    }
    let Some((trip, ahead_ms)) = best else { return Ok(()) };
    let subject = address(config);
    // What is certain of it, whichever way took how much of the round trip.
    let certain_ms = ahead_ms.abs() - trip.as_secs_f64() * 5e2;
    let apart = amount::duration(ahead_ms.abs().round() as i64);
    let where_to = if ahead_ms > 0.0 { "ahead of" } else { "behind" };
    if certain_ms <= CLOCK_TOLERANCE_MS {
        findings.ok("clock", &subject, format!("{apart} {where_to} this machine's"));
        return Ok(());
    }
    let message = format!(
        "the server's clock is {apart} {where_to} this machine's: the delays that are shown are wrong by that much, and \
         events are judged too new or too late by this machine's"
    );
    findings.warning(
        "clock",
        &subject,
        message,
        Some("timedatectl set-ntp true   # on the machine whose clock is wrong".to_owned()),
    );
    Ok(())
}

/// Connections that the stages of a pipeline have open at the same time, at most.
fn needed(pipeline: &Pipeline) -> i64 {
    // Two sessions, a question at the start or in a long silence, and the search below the bound.
    let capture = if pipeline.capture.is_some() { 4 } else { 0 };
    let describes = |land: &crate::config::model::Land| {
        land.tables.iter().filter(|table| matches!(table.schema, LandSchema::Table { .. })).count()
    };
    let land = pipeline.land.as_ref().map_or(0, describes);
    // The pool and the lock of each job.
    let analyze = pipeline.analyze.as_ref().map_or(0, |analyze| analyze.jobs.len() * (analyze.pool_size + 1));
    capture + i64::try_from(land + analyze).unwrap_or(i64::MAX)
}

async fn connections(
    pipeline: &Pipeline,
    config: &Postgres,
    client: &Client,
    findings: &mut Findings,
) -> Result<(), tokio_postgres::Error> {
    // Connections of ours may be those of the pipeline at work.
    let row = client
        .query_one(
            "SELECT current_setting('max_connections')::int8 - current_setting('superuser_reserved_connections')::int8
                 - coalesce(current_setting('reserved_connections', true)::int8, 0),
               count(*) FILTER (WHERE NOT is_ours), role.rolconnlimit::int8,
               count(*) FILTER (WHERE NOT is_ours AND usesysid = role.oid), current_user::text
             FROM (SELECT usesysid, usename = current_user AND application_name LIKE 'headwater%' AS is_ours
                   FROM pg_stat_activity WHERE datid IS NOT NULL) AS sessions
             CROSS JOIN (SELECT oid, rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role
             GROUP BY role.oid, role.rolconnlimit",
            &[],
        )
        .await?;
    let (most, others, role_most, role_others): (i64, i64, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
    let (needed, subject) = (needed(pipeline), address(config));
    if role_most >= 0 && role_most - role_others < needed {
        let user = crate::postgres::quote_ident(row.get(4));
        let message = format!(
            "this pipeline has up to {needed} connections, and the role may have {role_most}, of which others use {role_others}"
        );
        let cure = format!("ALTER ROLE {user} CONNECTION LIMIT {};", role_others + needed + 2);
        findings.warning("connections", &subject, message, Some(cure));
    } else if most - others < needed {
        let message = format!(
            "this pipeline has up to {needed} connections, and of the {most} that the server allows others use {others}"
        );
        let more = (most + needed).max(100);
        let cure = format!(
            "ALTER SYSTEM SET max_connections = {more};   -- and restart the server; or lower analyze.pool_size"
        );
        findings.warning("connections", &subject, message, Some(cure));
    } else {
        let message = format!("up to {needed} are needed, {} of {most} are not used by others", most - others);
        findings.ok("connections", &subject, message);
    }
    Ok(())
}

/// Whether a landing does not know its columns because the captured table is not there yet.
pub fn is_missing_table(error: &crate::land::inspect::SourceError) -> bool {
    matches!(error, crate::land::inspect::SourceError::Postgres { source: PostgresError::NoTable { .. }, .. })
}

fn check_version(server: &Server, subject: &str, findings: &mut Findings) {
    if server.is_too_old() {
        findings.failure(
            "version",
            subject,
            format!("PostgreSQL {} is too old: 14 or newer is needed", server.version),
            Some("pg_upgrade to PostgreSQL 14 or newer".to_owned()),
        );
    } else {
        findings.ok("version", subject, format!("PostgreSQL {}", server.version));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_from_14_on_will_do() {
        for (number, version, outcome) in [(130_020, "13.20", Outcome::Failure), (140_000, "14.0", Outcome::Ok)] {
            let server = Server {
                number,
                version: version.to_owned(),
                is_standby: false,
                user: "u".to_owned(),
                database: "d".to_owned(),
                tracks_activities: true,
                sees_others: true,
                encoding: "UTF8".to_owned(),
            };
            let mut findings = Findings::new(Section::Postgres);
            check_version(&server, "db", &mut findings);
            let found = &findings.of("p")[0];
            assert!(found.outcome == outcome && found.message.contains(version), "{found:?}");
            assert_eq!(found.cure.is_some(), outcome == Outcome::Failure);
        }
    }

    #[test]
    fn tls_is_asked_for_where_there_is_a_network() {
        use Outcome::{Ok, Warning};
        for (version, is_local, mode, outcome) in [
            (Some("TLSv1.3"), false, TlsMode::VerifyFull, Ok),
            (Some("TLSv1.3"), false, TlsMode::Require, Warning),
            (Some("TLSv1.3"), true, TlsMode::Prefer, Ok),
            (None, true, TlsMode::Prefer, Ok),
            (None, false, TlsMode::Prefer, Warning),
            (None, false, TlsMode::Disable, Warning),
        ] {
            assert_eq!(judge_tls(version, is_local, mode).0, outcome, "{version:?} {is_local} {mode:?}");
        }
    }
}
