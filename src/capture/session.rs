//! The connection to PostgreSQL: what is checked when it opens, and how a poll's transaction begins.

use super::{
    checkpoint::Identity,
    errors::{SessionError, TableError},
    plan::{Note, Observation, PreparedTransaction, Proven, Snapshot, runs},
    silence::{Pulse, Side},
    sql,
};
use crate::{
    config::model::{Capture, Postgres},
    postgres::{connect, default_time_zone, quote_ident},
};
use futures_util::{
    StreamExt,
    future::{join, join3, join5},
};
use roaring::RoaringTreemap;
use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_postgres::{Client, CopyOutStream, Row, Statement, error::SqlState};

/// Ids whose state is asked for at once; each costs 1.4 µs.
const MOST_ASKED: u64 = 500_000;

/// For each table, when they could not all be locked in time.
const SECOND_LOCK_TIMEOUT_MS: u64 = 50;

pub struct Session {
    pub client: Client,
    /// A second connection, for what cannot wait until the first is free.
    pub side: Arc<Client>,
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
    max_snapshot: Duration,
    /// Whether a transaction had been open for a while when last looked.
    sees_old: bool,
    statements: Statements,
}

struct Statements {
    observe: Statement,
    identities: Statement,
    prepared: Statement,
    ended: Statement,
    snapshot: Statement,
    still_open: Statement,
    still_held: Statement,
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
    /// Of the database's text.
    pub encoding: String,
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
                    WHERE rolname = 'pg_read_all_stats'), current_setting('server_encoding')",
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
            encoding: facts.get(7),
        })
    }

    pub fn is_too_old(&self) -> bool {
        self.number < OLDEST_SERVER
    }

    /// Whether text can be turned into the UTF-8 of JSON: SQL_ASCII holds bytes of encodings that nobody noted.
    pub fn knows_characters(&self) -> bool {
        self.encoding != "SQL_ASCII"
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
        if !self.knows_characters() {
            problems.push(SessionError::NoEncoding { database: self.database.clone() });
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
    /// Of the transactions that were asked about.
    pub proven: Proven,
    /// Where the server's log ended: the commits of all rows that are seen lie before it.
    pub log_end: i64,
    /// When the snapshot and its locks shall be given back.
    pub until: Instant,
}

impl Session {
    /// Connects and refuses a server or a role with which nothing could be promised.
    pub async fn open(config: &Postgres, capture: &Capture, pulse: Pulse) -> Result<Session, SessionError> {
        let client = connect(config).await?;
        let server = Server::ask(&client).await?;
        if let Some(problem) = server.problems().into_iter().next() {
            return Err(problem);
        }
        let user = server.user;
        let (identity, latest, backend) = identity(&client).await?;
        let time_zone = default_time_zone(config).await?;
        let side = Arc::new(connect(config).await?);
        let prepare = async |text| client.prepare(text).await.map_err(SessionError::query);
        let statements = Statements {
            observe: prepare(sql::OBSERVE).await?,
            identities: prepare(sql::IDENTITIES).await?,
            prepared: prepare(sql::PREPARED).await?,
            ended: prepare(sql::ENDED).await?,
            snapshot: prepare(sql::SNAPSHOT).await?,
            still_open: prepare(sql::STILL_OPEN).await?,
            still_held: prepare(sql::STILL_HELD).await?,
        };
        Ok(Session {
            pulse,
            backend,
            client,
            side,
            user,
            identity,
            time_zone,
            latest,
            lock_timeout_ms: capture.lock_timeout_ms,
            max_snapshot: Duration::from_millis(capture.max_snapshot_ms),
            sees_old: false,
            statements,
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
        let row = self.client.query_one(&self.statements.ended, &[&first, &last]).await.map_err(SessionError::query)?;
        let (lower, upper): (Vec<i64>, Vec<i64>) = (row.get(0), row.get(1));
        for (lower, upper) in lower.into_iter().zip(upper) {
            ended.insert_range(lower as u64..upper as u64);
        }
        Ok(ended)
    }

    /// Reads what must be read before a snapshot, locks `tables`, takes the snapshot, and looks which transactions of
    /// the processes `noted` are still the same: in this order, all in one flight. A table that cannot be locked is
    /// left out.
    pub async fn begin(
        &mut self,
        tables: &[String],
        ended: RoaringTreemap,
        noted: &[i32],
    ) -> Result<Opened, SessionError> {
        let _waiting = self.pulse.waiting(Side::Postgres);
        let (client, statements) = (&self.client, &self.statements);
        let names: Vec<&str> = tables.iter().map(String::as_str).collect();
        // While one lock is waited for, those of other tables are held.
        let lock_timeout_ms = match tables.len() {
            0 | 1 => self.lock_timeout_ms,
            _ => self.lock_timeout_ms.min(self.max_snapshot.as_millis() as u64),
        };
        let begin = format!("{}; {}; SAVEPOINT one", begin_text(lock_timeout_ms), lock_text(tables));
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&names];
        let ((clock, identities, prepared, locked, snapshot), proven) = join(
            join5(
                client.query_one(&statements.observe, &[]),
                client.query(&statements.identities, &[&self.sees_old]),
                client.query(&statements.prepared, &[]),
                client.batch_execute(&begin),
                client.query_one(&statements.snapshot, &parameters),
            ),
            self.prove(noted),
        )
        .await;
        let until = Instant::now() + self.max_snapshot;
        let observation = observation(
            &clock.map_err(SessionError::query)?,
            &identities.map_err(SessionError::query)?,
            &prepared.map_err(SessionError::query)?,
            ended,
        );
        let opened = match locked {
            Ok(()) => opened(observation, &snapshot.map_err(SessionError::query)?, Vec::new(), proven?, until)?,
            Err(error) if error.is_closed() => return Err(SessionError::query(error)),
            // What was read before still comes before the snapshot.
            Err(error) => {
                // The time for waiting has been spent; the other tables shall not wait again.
                let has_waited = error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
                let lock_timeout_ms = if has_waited { SECOND_LOCK_TIMEOUT_MS } else { lock_timeout_ms };
                self.begin_one_by_one(tables, observation, lock_timeout_ms, noted).await?
            }
        };
        self.latest = opened.latest;
        self.sees_old = !opened.observation.notes.is_empty();
        Ok(opened)
    }

    /// As [`Session::begin`], each lock on its own, so that one table does not stop the others.
    async fn begin_one_by_one(
        &self,
        tables: &[String],
        observation: Observation,
        lock_timeout_ms: u64,
        noted: &[i32],
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
                    failed.push((position, TableError::query(table, &self.user, lock_timeout_ms, error)));
                    names.push(None);
                }
            }
        }
        let row = self.client.query_one(&self.statements.snapshot, &[&names]).await.map_err(SessionError::query)?;
        let until = Instant::now() + self.max_snapshot;
        opened(observation, &row, failed, self.prove(noted).await?, until)
    }

    /// Which transactions of these processes are not visible to the snapshot that has just been fixed. The two views
    /// are read one after the other: what holds its identity in the second was the same when the first was read.
    async fn prove(&self, noted: &[i32]) -> Result<Proven, SessionError> {
        if noted.is_empty() {
            return Ok(Proven::new());
        }
        let (client, statements) = (&self.client, &self.statements);
        let (forgotten, open, held) = join3(
            client.batch_execute(sql::FORGET_ACTIVITY),
            client.query(&statements.still_open, &[&noted]),
            client.query(&statements.still_held, &[&noted]),
        )
        .await;
        forgotten.map_err(SessionError::query)?;
        let open = open.map_err(SessionError::query)?;
        let held = held.map_err(SessionError::query)?;
        let open: Vec<i32> = open.iter().map(|row| row.get(0)).collect();
        let held = held.iter().map(|row| (row.get(0), row.get(1)));
        Ok(held.filter(|(pid, _)| open.contains(pid)).collect())
    }

    /// Ends the transaction; the connection is of no use where that fails.
    pub async fn end(&self) -> Result<(), SessionError> {
        let _waiting = self.pulse.waiting(Side::Postgres);
        self.client.batch_execute("COMMIT").await.map_err(SessionError::query)
    }

    /// Starts a `COPY` behind a savepoint of its own, once its first answer is waited for.
    pub fn copy(&self, sql: String) -> Copy<'_> {
        let answer = async move {
            let (savepoint, stream) =
                join(self.client.batch_execute("RELEASE one; SAVEPOINT one"), self.client.copy_out(&sql)).await;
            savepoint?;
            stream
        };
        Copy {
            answer: Answer::Awaited(Box::pin(answer)),
            side: self.side.clone(),
            backend: self.backend,
            pulse: self.pulse.clone(),
            is_over: false,
        }
    }

    /// Goes on after a failed query.
    pub async fn undo(&self) -> Result<(), SessionError> {
        let _waiting = self.pulse.waiting(Side::Postgres);
        self.client.batch_execute("ROLLBACK TO one").await.map_err(SessionError::query)
    }
}

/// The answer to a `COPY`. Dropped before its end, it is cancelled: the server would go on for nobody, and the
/// session could do nothing else meanwhile.
pub struct Copy<'s> {
    answer: Answer<'s>,
    side: Arc<Client>,
    backend: i32,
    pulse: Pulse,
    is_over: bool,
}

/// The server holds even the begin of an answer back until 8 KiB of it are full or it has come to its end: a search
/// that finds little answers only then.
enum Answer<'s> {
    Awaited(Pin<Box<dyn Future<Output = Result<CopyOutStream, tokio_postgres::Error>> + Send + 's>>),
    Coming(Pin<Box<CopyOutStream>>),
}

impl Copy<'_> {
    /// What comes next; nothing behind the last. What it has waited for is not lost where it is dropped.
    pub async fn next(&mut self) -> Option<Result<bytes::Bytes, tokio_postgres::Error>> {
        if self.is_over {
            return None;
        }
        let message = loop {
            match &mut self.answer {
                Answer::Coming(stream) => break stream.next().await,
                Answer::Awaited(answer) => match answer.await {
                    Ok(stream) => self.answer = Answer::Coming(Box::pin(stream)),
                    Err(error) => break Some(Err(error)),
                },
            }
        };
        self.is_over = !matches!(message, Some(Ok(_)));
        message
    }

    /// Ends it, if it has not come to its end, so that the session is free for the next statement.
    pub async fn stop(&mut self) {
        let _waiting = self.pulse.waiting(Side::Postgres);
        while !self.is_over {
            // It has reached the session when it is answered, and so cannot hit what is asked next. It is said again,
            // for a statement that had not begun has not heard it. Where it fails, the rest is read for nothing.
            let _ = self.side.query(CANCEL, &[&self.backend]).await;
            let rest = async { while let Some(Ok(_)) = self.next().await {} };
            let _ = tokio::time::timeout(CANCEL_AGAIN, rest).await;
        }
    }
}

const CANCEL: &str = "SELECT pg_cancel_backend($1)";
const CANCEL_AGAIN: Duration = Duration::from_secs(1);

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        if let (false, Ok(runtime)) = (self.is_over, tokio::runtime::Handle::try_current()) {
            let (side, backend) = (self.side.clone(), self.backend);
            runtime.spawn(async move { drop(side.query(CANCEL, &[&backend]).await) });
        }
    }
}

pub(super) fn begin_text(lock_timeout_ms: u64) -> String {
    // What a poll sorts fits into this, rather than into files.
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL work_mem = '64MB'"
    )
}

pub(super) fn lock_text(tables: &[String]) -> String {
    // ONLY would leave partitions to be rewritten under us.
    if tables.is_empty() { String::new() } else { format!("LOCK TABLE {} IN ACCESS SHARE MODE", tables.join(", ")) }
}

fn observation(clock: &Row, identities: &[Row], prepared: &[Row], ended: RoaringTreemap) -> Observation {
    let identities: HashMap<i32, String> = identities.iter().map(|row| (row.get(0), row.get(1))).collect();
    let (pids, starts): (Vec<i32>, Vec<i64>) = (clock.get(2), clock.get(3));
    let note = |(pid, start_us)| Note { pid, identity: identities.get(&pid).cloned(), start_us };
    Observation {
        clock_us: clock.get(0),
        oldest_start_us: clock.get(1),
        notes: pids.into_iter().zip(starts).map(note).collect(),
        prepared: prepared
            .iter()
            .map(|row| PreparedTransaction { name: row.get(0), prepared_us: row.get(1) })
            .collect(),
        ended,
    }
}

fn opened(
    observation: Observation,
    row: &Row,
    failed: Vec<(usize, TableError)>,
    proven: Proven,
    until: Instant,
) -> Result<Opened, SessionError> {
    Ok(Opened {
        observation,
        snapshot: Snapshot::parse(row.get(0))?,
        latest: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        fingerprints: row.get(2),
        failed,
        proven,
        log_end: row.get(3),
        until,
    })
}
