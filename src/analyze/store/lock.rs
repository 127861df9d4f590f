//! Who leads: a session advisory lock on a connection of its own, which says every two seconds that we
//! are alive.
//!
//! The server ends the session by itself after some seconds without a word (`idle_session_timeout`), be
//! it that this process is stopped, cut off or gone: then the lock is free for another, who looks for it
//! twice a second. Looking, rather than waiting in the server's queue, keeps the lock from being handed
//! to an instance that is itself stopped.

use super::{Job, StoreError};
use crate::{
    config::model::Postgres,
    postgres::{chain, connect_as},
};
use std::{fmt, time::Duration};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_postgres::{Client, types::ToSql};

const HEARTBEAT: Duration = Duration::from_secs(2);
/// Longest silence of a leader; above, the server ends its session.
const SILENCE: Duration = Duration::from_secs(7);
/// A heartbeat unanswered for so long: we are cut off, and another leads soon.
const ANSWER: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(500);
/// Whoever still holds the job's row after so long, without the lock, is a former leader that does not move.
const PATIENCE: Duration = Duration::from_secs(2);

/// The lock's key: of the schema and the job, for a database may hold several of both.
pub(super) const KEY: &str = "hashtextextended('headwater.analyze.' || current_schema() || '.' || $1::text, 0)";
const EPOCH: &str = "INSERT INTO analyze_jobs AS j (job, epoch, holder) VALUES ($1, 1, $2)
    ON CONFLICT (job) DO UPDATE SET epoch = j.epoch + 1, holder = excluded.holder, held_since = now(), updated_at = now()
    RETURNING epoch";

/// Who holds the lock, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The server process of its session.
    pub backend: i32,
    /// What it wrote of itself, if it came so far.
    pub description: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.description {
            Some(description) => write!(f, "{description}, PostgreSQL session {}", self.backend),
            None => write!(f, "PostgreSQL session {}", self.backend),
        }
    }
}

/// The lock, while it is ours.
pub(super) struct Lock {
    pub epoch: i64,
    lost: watch::Receiver<Option<String>>,
    stop: Option<oneshot::Sender<()>>,
    heart: JoinHandle<()>,
}

impl Lock {
    /// Waits for the lock and takes the next epoch. `standing_by` is told who holds it, each time it is
    /// somebody else. Dropping the future gives up.
    pub async fn take(
        config: &Postgres,
        job: &Job,
        application: &str,
        options: &str,
        mut standing_by: impl FnMut(&Holder),
    ) -> Result<Lock, StoreError> {
        let own = format!(
            "{options} -c idle_session_timeout={} -c tcp_user_timeout={} -c tcp_keepalives_idle=2 \
             -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3",
            SILENCE.as_millis(),
            SILENCE.as_millis()
        );
        let client = connect_as(config, application, &own).await?;
        let attempt = client.prepare(&format!("SELECT pg_try_advisory_lock({KEY})")).await?;
        let mut holder = None;
        while !client.query_one(&attempt, &[&job.name]).await?.get::<_, bool>(0) {
            let now = self::holder(&client, &job.name).await?;
            if let Some(now) = now.filter(|now| holder.as_ref() != Some(now)) {
                standing_by(&now);
                holder = Some(now);
            }
            tokio::time::sleep(LOOK).await;
        }
        let epoch = take_epoch(config, &client, application, &job.name).await?;
        let (tell, lost) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let heart = tokio::spawn(beat(client, job.name.clone(), epoch, tell, stopped));
        Ok(Lock { epoch, lost, stop: Some(stop), heart })
    }

    /// Why the lock is no longer ours, if so.
    pub fn loss(&self) -> Option<String> {
        self.lost.borrow().clone()
    }

    /// Returns once the lock is lost.
    pub fn lost(&self) -> impl Future<Output = String> + Send + use<> {
        let mut lost = self.lost.clone();
        async move {
            match lost.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or_default(),
                Err(_) => "its heartbeat has ended".to_owned(),
            }
        }
    }

    /// Gives the lock back and waits until the server has it, so that another takes over at once.
    pub async fn release(mut self) {
        drop(self.stop.take());
        let _ = (&mut self.heart).await;
    }
}

/// Who holds the lock of a job now.
pub(super) async fn holder(client: &Client, job: &str) -> Result<Option<Holder>, StoreError> {
    let row = client
        .query_opt(
            &format!(
                "SELECT l.pid, j.holder FROM pg_locks l LEFT JOIN analyze_jobs j ON j.job = $1
                 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND (l.classid::int8 << 32 | l.objid::int8) = {KEY}"
            ),
            &[&job],
        )
        .await?;
    Ok(row.map(|row| Holder { backend: row.get(0), description: row.get(1) }))
}

/// A former leader that was stopped within a flush holds the job's row until its session ends. We hold
/// the lock, so that flush is void: its session is ended.
async fn take_epoch(config: &Postgres, client: &Client, application: &str, job: &str) -> Result<i64, StoreError> {
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let description = format!("{} (process {})", host(), std::process::id());
    let parameters: [&(dyn ToSql + Sync); 2] = [&job, &description];
    let taken = client.query_one(EPOCH, &parameters);
    tokio::pin!(taken);
    loop {
        match tokio::time::timeout(PATIENCE, &mut taken).await {
            Ok(row) => return row.map(|row| row.get(0)).map_err(|error| StoreError::from(error).of_user(&config.user)),
            Err(_) => end_blockers(config, application, backend, job).await?,
        }
    }
}

async fn end_blockers(config: &Postgres, application: &str, backend: i32, job: &str) -> Result<(), StoreError> {
    let client = connect_as(config, application, "").await?;
    let blockers = client
        .query(
            "SELECT pid, usename IS NOT DISTINCT FROM current_user
               AND application_name = current_setting('application_name') AND pg_terminate_backend(pid)
             FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids($1))",
            &[&backend],
        )
        .await?;
    for blocker in blockers {
        let session: i32 = blocker.get(0);
        if blocker.get(1) {
            tracing::warn!(job, session, "ended the session of a former leader that held the job's row");
        } else {
            tracing::warn!(job, session, "waiting for a session that holds the job's row in analyze_jobs");
        }
    }
    Ok(())
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown host".to_owned(), |h| h.trim().to_owned())
}

/// Until the lock is lost, or nobody wants it any more.
async fn beat(
    client: Client,
    job: String,
    epoch: i64,
    lost: watch::Sender<Option<String>>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        // A value is never sent: the receiver ends when the lock is released or dropped.
        if tokio::time::timeout(HEARTBEAT, &mut stopped).await.is_ok() {
            let unlock = client.batch_execute("SELECT pg_advisory_unlock_all()");
            let _ = tokio::time::timeout(ANSWER, unlock).await;
            return;
        }
        let parameters: [&(dyn ToSql + Sync); 2] = [&job, &epoch];
        let question = client.query_opt("SELECT FROM analyze_jobs WHERE job = $1 AND epoch = $2", &parameters);
        let reason = match tokio::time::timeout(ANSWER, question).await {
            Ok(Ok(Some(_))) => continue,
            Ok(Ok(None)) => "its row in analyze_jobs has another epoch, or is gone".to_owned(),
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("PostgreSQL has not answered for {} s", ANSWER.as_secs()),
        };
        tracing::warn!(job, epoch, "leadership is lost: {reason}");
        lost.send_replace(Some(reason));
        return;
    }
}
