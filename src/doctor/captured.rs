//! The captured tables, the role that reads them, and the transactions that hold them up.

use super::{finding::Findings, postgres::Source};
use crate::{
    amount,
    capture::inspect::{
        Index, OpenTransaction, Server, SessionError, Table, TableError, long_transactions, quoted_name, table,
    },
    config::model::{Capture, Postgres},
    postgres::{quote_ident, quote_literal},
};
use chrono::{Offset, TimeZone, Utc};
use chrono_tz::Tz;
use tokio_postgres::Client;

/// Most transactions, or partitions, that are named one by one.
const MOST_LISTED: usize = 5;

pub async fn examine(
    capture: &Capture,
    config: &Postgres,
    client: &Client,
    server: &Server,
    server_zone: Option<&str>,
    source: &mut Source,
) -> Result<(), SessionError> {
    let subject = super::postgres::address(config);
    role(&subject, server, &mut source.findings);
    for (position, configured) in capture.tables.iter().enumerate() {
        let looked = table(client, capture, configured, &server.user, server_zone).await;
        let findings = &mut source.findings;
        let name = quoted_name(configured);
        match looked {
            Ok(found) => {
                findings.ok("table", &found.quoted, format!("can be read, with watermark {}", found.watermark));
                about(&found, capture, config, server_zone, findings);
                source.tables.push((position, found));
            }
            Err(error @ TableError::Query { .. }) if client.is_closed() => {
                return Err(SessionError::Postgres(match error {
                    TableError::Query { source, .. } => crate::postgres::PostgresError::Query(source),
                    _ => return Ok(()),
                }));
            }
            Err(error @ TableError::LockTimeout { .. }) => {
                findings.warning("table", &name, error.to_string(), error.cure());
            }
            Err(error) => findings.failure("table", &name, told(&error), error.cure()),
        }
    }
    Ok(())
}

/// An error whose statement is told as the cure.
fn told(error: &TableError) -> String {
    match error {
        TableError::NoGrant { message, .. } => message.clone(),
        error => error.to_string(),
    }
}

fn role(subject: &str, server: &Server, findings: &mut Findings) {
    match server.tracks_activities {
        true => findings.ok("activities", subject, "the server notes when transactions begin"),
        false => findings.failure(
            "activities",
            subject,
            "track_activities is off, so that open transactions cannot be seen",
            Some("ALTER SYSTEM SET track_activities = on; SELECT pg_reload_conf();".to_owned()),
        ),
    }
    match server.knows_characters() {
        true => findings.ok("encoding", subject, format!("the database's text is {}", server.encoding)),
        false => findings.failure(
            "encoding",
            subject,
            SessionError::NoEncoding { database: server.database.clone() }.to_string(),
            Some("CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0;   -- and pg_restore into it".to_owned()),
        ),
    }
    let user = quote_ident(&server.user);
    match server.sees_others {
        true => findings.ok("role", &server.user, "may see when other sessions began"),
        false => findings.failure(
            "role",
            &server.user,
            "may not see when other sessions began",
            Some(format!("GRANT pg_monitor TO {user};")),
        ),
    }
}

fn about(found: &Table, capture: &Capture, config: &Postgres, server_zone: Option<&str>, findings: &mut Findings) {
    let subject = &found.quoted;
    if let Err(error) = &found.filter {
        let key = Some("capture.tables[].where".to_owned());
        findings.failure("filter", subject, format!("the server refuses the condition: {error}"), key);
    }
    zone(found, capture, config, server_zone, findings);
    let column = quote_ident(&found.watermark);
    if found.left_alone > 0 {
        let message = format!(
            "updates leave watermark {column} alone, it seems: {} of the newest 1,000 rows were written after rows with a \
             later one; what such updates change is not captured",
            found.left_alone
        );
        let cure = "capture.tables[].watermark: a column that each update sets too, such as updated_at".to_owned();
        findings.warning("updates", subject, message, Some(cure));
    }
    let concurrently = if found.is_partitioned { "" } else { "CONCURRENTLY " };
    let create = || Some(format!("CREATE INDEX {concurrently}ON {subject} ({column});"));
    let slow = "so that each poll reads the whole table";
    match &found.index {
        Index::Good(name) => findings.ok("index", subject, format!("{name} begins with the watermark")),
        Index::Missing => {
            findings.warning("index", subject, format!("no index begins with watermark {column}, {slow}"), create());
        }
        Index::Unsuitable(name) => {
            let message = format!(
                "{name} leaves rows out or keeps no order, and no other index begins with watermark {column}, {slow}"
            );
            findings.warning("index", subject, message, create());
        }
        Index::Invalid(name) => {
            let cure = format!("REINDEX INDEX CONCURRENTLY {name};");
            findings.warning("index", subject, format!("{name} is not valid, {slow}"), Some(cure));
        }
        Index::MissingOn(partitions) => {
            let cures: Vec<String> = partitions
                .iter()
                .take(MOST_LISTED)
                .map(|partition| format!("CREATE INDEX CONCURRENTLY ON {partition} ({column});"))
                .collect();
            let count = partitions.len();
            let message = format!("{count} of its partitions have no index that begins with watermark {column}");
            findings.warning("index", subject, message, Some(cures.join("\n")));
        }
    }
}

fn zone(found: &Table, capture: &Capture, config: &Postgres, server_zone: Option<&str>, findings: &mut Findings) {
    let subject = &found.quoted;
    if let Err(error) = &found.zone {
        let mut cure = error.cure();
        if server_zone.is_none() {
            let user = quote_ident(&config.user);
            cure = Some(format!("ALTER ROLE {user} RESET timezone;   -- or set capture.timezone"));
        }
        findings.failure("time zone", subject, error.to_string(), cure);
        return;
    }
    if !found.is_local {
        findings.ok("time zone", subject, "the watermark carries its own");
        return;
    }
    let configured = capture.timezone.as_deref();
    match (configured, server_zone) {
        (Some(ours), Some(theirs)) if differ(ours, theirs) => {
            let message = format!(
                "the watermark is read as {ours}, but sessions write it in {theirs} unless they set their own: rows would be \
                 looked for at the wrong time, and lost"
            );
            let cure = format!(
                "capture.timezone: {theirs}   # where the watermark is set by the server, as by DEFAULT now()\n\
                 ALTER DATABASE {} SET timezone TO {};   -- where it should be {ours}",
                quote_ident(&config.db),
                quote_literal(ours),
            );
            findings.warning("time zone", subject, message, Some(cure));
        }
        (Some(ours), _) => findings.ok("time zone", subject, format!("the watermark is read as {ours}")),
        (None, _) => findings.ok("time zone", subject, "the watermark is read as UTC, the server's zone"),
    }
}

/// Whether two zones show other times, in winter or in summer.
fn differ(ours: &str, theirs: &str) -> bool {
    let (Ok(ours), Ok(theirs)) = (ours.parse::<Tz>(), theirs.parse::<Tz>()) else { return false };
    let now = Utc::now();
    let half_a_year = chrono::TimeDelta::days(182);
    [now, now + half_a_year].iter().any(|time| {
        let offset = |zone: Tz| zone.offset_from_utc_datetime(&time.naive_utc()).fix();
        offset(ours) != offset(theirs)
    })
}

/// Those that are open for longer than `long` seconds.
pub async fn transactions(
    subject: &str,
    client: &Client,
    server: &Server,
    long: i64,
    findings: &mut Findings,
) -> Result<(), SessionError> {
    const CHECK: &str = "transactions";
    if server.is_standby || !server.sees_others || !server.tracks_activities {
        findings.not_checked(CHECK, subject, "what other sessions have open cannot be seen", None);
        return Ok(());
    }
    let open = long_transactions(client, long).await?;
    if open.is_empty() {
        let span = amount::duration(long * 1_000);
        findings.ok(CHECK, subject, format!("none is open for longer than {span}"));
    }
    for transaction in open.iter().take(MOST_LISTED) {
        let OpenTransaction { backend, name, user, application, state, seconds, query_start } = transaction;
        let age = amount::duration(seconds * 1_000);
        let holds = "until it ends, every poll asks again for all rows written since it began";
        let (message, cure) = match (backend, name) {
            (Some(backend), _) => {
                let query = query_start
                    .as_ref()
                    .map_or_else(String::new, |start| format!(", its last query began {start} UTC"));
                let by = if application.is_empty() { String::new() } else { format!(", {application}") };
                let message = format!("process {backend} ({user}{by}, {state}) has one open for {age}{query}: {holds}");
                (message, format!("SELECT pg_terminate_backend({backend});"))
            }
            (None, name) => {
                let name = quote_literal(name.as_deref().unwrap_or_default());
                let message = format!("{name} of {user} has been prepared for {age}: {holds}");
                (message, format!("ROLLBACK PREPARED {name};   -- or COMMIT PREPARED"))
            }
        };
        findings.warning(CHECK, subject, message, Some(cure));
    }
    if open.len() > MOST_LISTED {
        let message = format!("{} more are open for long", open.len() - MOST_LISTED);
        findings.warning(CHECK, subject, message, None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_differ_by_what_their_clocks_show() {
        assert!(!differ("UTC", "Etc/UTC"));
        assert!(!differ("Europe/Berlin", "Europe/Paris"));
        assert!(differ("UTC", "Europe/Berlin"));
        // The same in one half of the year only.
        assert!(differ("UTC", "Europe/London"));
        // What we cannot read we do not judge.
        assert!(!differ("UTC", "<+03>-3"));
    }
}
