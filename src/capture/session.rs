//! The connection to PostgreSQL: what is checked when it opens, and how a poll's transaction begins.

use super::{
    checkpoint::Identity,
    errors::{SessionError, TableError},
    plan::{Observation, PreparedTransaction, Snapshot, runs},
    silence::{Pulse, Side},
    sql,
};
use crate::{
    config::model::Postgres,
    postgres::{connect, default_time_zone, quote_ident},
};
use futures_util::future::{join, join4};
use roaring::RoaringTreemap;
use tokio_postgres::{Client, CopyOutStream, Row, Statement, error::SqlState};

/// Ids whose state is asked for at once; each costs 1.4 µs.
const MOST_ASKED: u64 = 500_000;

/// For each table, when they could not all be locked in time.
const SECOND_LOCK_TIMEOUT_MS: u64 = 50;

pub struct Session {
    pub client: Client,
    pub user: String,
    pub identity: Identity,
    /// What other sessions write local times in, where that can be told.
    pub time_zone: Option<String>,
    /// The id after the greatest that had been assigned when last looked.
    pub latest: u64,
    pub pulse: Pulse,
    /// Process id of the session on the server.
    pub backend: i32,
    lock_timeout_ms: u64,
    observe: Statement,
    prepared: Statement,
    ended: Statement,
    snapshot: Statement,
}

/// What must hold of a server and a role before anything is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// As `server_version_num`.
    pub number: i32,
    pub version: String,
    pub is_standby: bool,
    pub user: String,
    pub database: String,
    /// Whether the server notes when transactions begin.
    pub tracks_activities: bool,
    /// Whether the role may see that of others.
    pub sees_others: bool,
}

/// The oldest PostgreSQL whose snapshots can be followed.
const OLDEST_SERVER: i32 = 140_000;

impl Server {
    pub async fn ask(client: &Client) -> Result<Server, SessionError> {
        let facts = client
            .query_one(
                "SELECT current_setting('server_version_num')::int4, current_setting('server_version'),
                   pg_is_in_recovery(), current_user::text, current_database()::text,
                   current_setting('track_activities')::bool,
                   (SELECT coalesce(bool_or(pg_has_role(oid, 'USAGE')), false) FROM pg_roles
                    WHERE rolname = 'pg_read_all_stats')",
                &[],
            )
            .await
            .map_err(SessionError::query)?;
        Ok(Server {
            number: facts.get(0),
            version: facts.get(1),
            is_standby: facts.get(2),
            user: facts.get(3),
            database: facts.get(4),
            tracks_activities: facts.get(5),
            sees_others: facts.get(6),
        })
    }

    pub fn is_too_old(&self) -> bool {
        self.number < OLDEST_SERVER
    }

    /// Everything that keeps capture from starting, the gravest first.
    pub fn problems(&self) -> Vec<SessionError> {
        let mut problems = Vec::new();
        if self.is_too_old() {
            problems.push(SessionError::TooOld { version: self.version.clone() });
        }
        if self.is_standby {
            problems.push(SessionError::Standby);
        }
        if !self.tracks_activities {
            problems.push(SessionError::NoActivities);
        }
        if !self.sees_others {
            problems.push(SessionError::NoMonitor { user: quote_ident(&self.user) });
        }
        problems
    }
}

/// The database, the id that it assigns next, and the process of our session. Not to be had of a standby.
pub(super) async fn identity(client: &Client) -> Result<(Identity, u64, i32), SessionError> {
    let row = client
        .query_one(
            "SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text,
               substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8),
               pg_snapshot_xmax(pg_current_snapshot())::text::int8, pg_backend_pid()",
            &[],
        )
        .await
        .map_err(SessionError::query)?;
    let identity = Identity { system_identifier: row.get(0), database: row.get(1), timeline: row.get(2) };
    Ok((identity, u64::try_from(row.get::<_, i64>(3)).unwrap_or(0), row.get(4)))
}

/// A transaction that has its locks and its snapshot.
pub struct Opened {
    pub observation: Observation,
    pub snapshot: Snapshot,
    /// The id from which ages count in this transaction.
    pub latest: u64,
    /// By table as given; `None` where it could not be locked.
    pub fingerprints: Vec<Option<String>>,
    pub failed: Vec<(usize, TableError)>,
}

impl Session {
    /// Connects and refuses a server or a role with which nothing could be promised.
    pub async fn open(config: &Postgres, lock_timeout_ms: u64, pulse: Pulse) -> Result<Session, SessionError> {
        let client = connect(config).await?;
        let server = Server::ask(&client).await?;
        if let Some(problem) = server.problems().into_iter().next() {
            return Err(problem);
        }
        let user = server.user;
        let (identity, latest, backend) = identity(&client).await?;
        let time_zone = default_time_zone(config).await?;
        let prepare = async |text| client.prepare(text).await.map_err(SessionError::query);
        let (observe, prepared) = (prepare(sql::OBSERVE).await?, prepare(sql::PREPARED).await?);
        let (ended, snapshot) = (prepare(sql::ENDED).await?, prepare(sql::SNAPSHOT).await?);
        Ok(Session {
            pulse,
            backend,
            client,
            user,
            identity,
            time_zone,
            latest,
            lock_timeout_ms,
            observe,
            prepared,
            ended,
            snapshot,
        })
    }

    /// Those of `asked` that have ended by now.
    pub async fn ended(&self, asked: &RoaringTreemap) -> Result<RoaringTreemap, SessionError> {
        let _waiting = self.pulse.waiting(Side::Postgres);
        let mut ended = RoaringTreemap::new();
        let mut left = MOST_ASKED;
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for run in runs(asked) {
            let end = run.end.min(run.start + left);
            left -= end - run.start;
            first.push(run.start as i64);
            last.push(end as i64);
            if left == 0 {
                break;
            }
        }
        let row = self.client.query_one(&self.ended, &[&first, &last]).await.map_err(SessionError::query)?;
        let (lower, upper): (Vec<i64>, Vec<i64>) = (row.get(0), row.get(1));
        for (lower, upper) in lower.into_iter().zip(upper) {
            ended.insert_range(lower as u64..upper as u64);
        }
        Ok(ended)
    }

    /// Reads what must be read before a snapshot, locks `tables`, takes the snapshot: in this order,
    /// all in one flight. A table that cannot be locked is left out.
    pub async fn begin(&mut self, tables: &[String], ended: RoaringTreemap) -> Result<Opened, SessionError> {
        let _waiting = self.pulse.waiting(Side::Postgres);
        let client = &self.client;
        let names: Vec<&str> = tables.iter().map(String::as_str).collect();
        let begin = format!("{}; {}; SAVEPOINT one", begin_text(self.lock_timeout_ms), lock_text(tables));
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&names];
        let (clock, prepared, locked, snapshot) = join4(
            client.query_one(&self.observe, &[]),
            client.query(&self.prepared, &[]),
            client.batch_execute(&begin),
            client.query_one(&self.snapshot, &parameters),
        )
        .await;
        let observation =
            observation(&clock.map_err(SessionError::query)?, &prepared.map_err(SessionError::query)?, ended);
        let opened = match locked {
            Ok(()) => opened(observation, &snapshot.map_err(SessionError::query)?, Vec::new())?,
            Err(error) if error.is_closed() => return Err(SessionError::query(error)),
            // What was read before still comes before the snapshot.
            Err(error) => {
                // The time for waiting has been spent; the other tables shall not wait again.
                let has_waited = error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
                let lock_timeout_ms = if has_waited { SECOND_LOCK_TIMEOUT_MS } else { self.lock_timeout_ms };
                self.begin_one_by_one(tables, observation, lock_timeout_ms).await?
            }
        };
        self.latest = opened.latest;
        Ok(opened)
    }

    /// As [`Session::begin`], each lock on its own, so that one table does not stop the others.
    async fn begin_one_by_one(
        &self,
        tables: &[String],
        observation: Observation,
        lock_timeout_ms: u64,
    ) -> Result<Opened, SessionError> {
        let run = async |text: &str| self.client.batch_execute(text).await;
        run(&format!("ROLLBACK; {}; SAVEPOINT one", begin_text(lock_timeout_ms))).await.map_err(SessionError::query)?;
        let mut failed = Vec::new();
        let mut names: Vec<Option<&str>> = Vec::new();
        for (position, table) in tables.iter().enumerate() {
            match run(&format!("RELEASE one; SAVEPOINT one; {}", lock_text(std::slice::from_ref(table)))).await {
                Ok(()) => names.push(Some(table)),
                Err(error) if error.is_closed() => return Err(SessionError::query(error)),
                Err(error) => {
                    run("ROLLBACK TO one").await.map_err(SessionError::query)?;
                    failed.push((position, TableError::query(table, &self.user, self.lock_timeout_ms, error)));
                    names.push(None);
                }
            }
        }
        let row = self.client.query_one(&self.snapshot, &[&names]).await.map_err(SessionError::query)?;
        opened(observation, &row, failed)
    }

    /// Ends the transaction; the connection is of no use where that fails.
    pub async fn end(&self) -> Result<(), SessionError> {
        let _waiting = self.pulse.waiting(Side::Postgres);
        self.client.batch_execute("COMMIT").await.map_err(SessionError::query)
    }

    /// Starts a `COPY` behind a savepoint of its own.
    pub async fn copy(&self, sql: &str) -> Result<CopyOutStream, tokio_postgres::Error> {
        let _waiting = self.pulse.waiting(Side::Postgres);
        let (savepoint, stream) =
            join(self.client.batch_execute("RELEASE one; SAVEPOINT one"), self.client.copy_out(sql)).await;
        savepoint?;
        stream
    }

    /// Goes on after a failed query.
    pub async fn undo(&self) -> Result<(), SessionError> {
        let _waiting = self.pulse.waiting(Side::Postgres);
        self.client.batch_execute("ROLLBACK TO one").await.map_err(SessionError::query)
    }
}

pub(super) fn begin_text(lock_timeout_ms: u64) -> String {
    format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = {lock_timeout_ms}")
}

pub(super) fn lock_text(tables: &[String]) -> String {
    // ONLY would leave partitions to be rewritten under us.
    if tables.is_empty() { String::new() } else { format!("LOCK TABLE {} IN ACCESS SHARE MODE", tables.join(", ")) }
}

fn observation(clock: &Row, prepared: &[Row], ended: RoaringTreemap) -> Observation {
    Observation {
        clock_us: clock.get(0),
        oldest_start_us: clock.get(1),
        prepared: prepared
            .iter()
            .map(|row| PreparedTransaction { name: row.get(0), prepared_us: row.get(1) })
            .collect(),
        ended,
    }
}

fn opened(observation: Observation, row: &Row, failed: Vec<(usize, TableError)>) -> Result<Opened, SessionError> {
    Ok(Opened {
        observation,
        snapshot: Snapshot::parse(row.get(0))?,
        latest: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        fingerprints: row.get(2),
        failed,
    })
}
