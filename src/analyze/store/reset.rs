//! A job that begins anew: its progress is put back to the beginning of its topics, by one transaction.

use super::{
    Job, PartitionProgress, StoreError,
    inspect::Inspector,
    leader,
    lock::{self, KEY},
    migrate,
    wire::Timestamp,
};
use crate::postgres::quote_ident;
use tokio_postgres::{Client, error::SqlState};

/// Where a job begins anew.
pub struct Beginning<'a> {
    pub job: &'a Job,
    /// `"schema"."table"`
    pub table: &'a str,
    /// Windows that begin earlier stay as they are; none do when absent.
    pub windows_from_ms: Option<i64>,
    /// Each where its topic begins.
    pub partitions: &'a [PartitionProgress],
    /// Whether the windows that are written again go first.
    pub delete: bool,
}

/// Rows that a job's beginning anew is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Windows that are written again.
    pub again: u64,
    /// Windows that stay as they are.
    pub kept: u64,
    /// Of `late_events`, which go, for their windows are counted again.
    pub late: u64,
}

impl Inspector {
    /// Fails where the tables are not those of this version.
    pub async fn check_version(&self) -> Result<(), StoreError> {
        migrate::verify(&self.client).await.map_err(|error| error.of_user(&self.user))
    }

    pub async fn rows(&self, beginning: &Beginning<'_>) -> Result<Rows, StoreError> {
        let Beginning { job, table, windows_from_ms, .. } = beginning;
        let from = Timestamp(windows_from_ms.unwrap_or(i64::MIN));
        let question = format!(
            "SELECT count(*) FILTER (WHERE window_start >= $1), count(*) FILTER (WHERE window_start < $1),
               (SELECT count(*) FROM late_events WHERE job = $2 AND window_start >= $1) FROM {table}"
        );
        let row = self.client.query_one(&question, &[&from, &job.name]).await?;
        let count = |index: usize| row.get::<_, i64>(index).unsigned_abs();
        Ok(Rows { again: count(0), kept: count(1), late: count(2) })
    }

    pub async fn holds_final(&self, table: &str) -> Result<bool, StoreError> {
        leader::holds_final(&self.client, table).await
    }

    /// Does it, all or nothing. Fails where somebody leads the job, or another job owns the table.
    pub async fn begin_anew(&mut self, beginning: &Beginning<'_>) -> Result<(), StoreError> {
        let Beginning { job, table, windows_from_ms, partitions, delete } = beginning;
        let user = self.user.clone();
        let transaction = self.client.transaction().await?;
        let client: &Client = transaction.client();
        let locked = client.query_one(&format!("SELECT pg_try_advisory_xact_lock({KEY})"), &[&job.name]).await?;
        if !locked.get::<_, bool>(0) {
            let holder = lock::holder(client, &job.name).await?;
            let holder = holder.map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
            return Err(StoreError::Led { job: job.name.clone(), holder });
        }
        let from = windows_from_ms.map(Timestamp);
        let put_back = "INSERT INTO analyze_jobs AS j (job, epoch, holder, declaration, output, windows_from)
             VALUES ($1, 1, 'headwater reset', $2, $3, $4)
             ON CONFLICT (job) DO UPDATE SET epoch = j.epoch + 1, holder = excluded.holder, held_since = now(),
               updated_at = now(), watermark = NULL, declaration = excluded.declaration, output = excluded.output,
               windows_from = excluded.windows_from";
        match client.execute(put_back, &[&job.name, &job.declaration, table, &from]).await {
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                transaction.rollback().await?;
                let (job, table) = (job.name.clone(), (*table).to_owned());
                let owner = leader::owner(&self.client, &table, &job).await?.unwrap_or_default();
                return Err(StoreError::Owned { job, table, owner });
            }
            done => done.map_err(|error| StoreError::from(error).of_user(&user))?,
        };
        forget(client, job, partitions, &user).await.map_err(|error| error.of_user(&user))?;
        let from = from.unwrap_or(Timestamp(i64::MIN));
        let late = "DELETE FROM late_events WHERE job = $1 AND window_start >= $2";
        client.execute(late, &[&job.name, &from]).await.map_err(|error| StoreError::from(error).of_user(&user))?;
        if *delete {
            let windows = format!("DELETE FROM {table} WHERE window_start >= $1");
            let deleted = client.execute(&windows, &[&from]).await;
            deleted.map_err(|error| may_not_delete(error, "windows", table, &user))?;
        }
        Ok(transaction.commit().await?)
    }
}

/// Deleting these asks for a right that analyze itself does not need.
fn may_not_delete(error: tokio_postgres::Error, what: &str, table: &str, user: &str) -> StoreError {
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => StoreError::NoGrant {
            message: format!("{what} may not be deleted from {table}"),
            grant: format!("GRANT DELETE ON {table} TO {}", quote_ident(user)),
        },
        _ => error.into(),
    }
}

/// What the job knew of its partitions.
async fn forget(client: &Client, job: &Job, partitions: &[PartitionProgress], user: &str) -> Result<(), StoreError> {
    let topics: Vec<&str> = partitions.iter().map(|p| p.topic.as_str()).collect();
    let numbers: Vec<i32> = partitions.iter().map(|p| p.partition).collect();
    let topic_ids: Vec<&str> = partitions.iter().map(|p| p.topic_id.as_str()).collect();
    let offsets: Vec<i64> = partitions.iter().map(|p| p.next_offset).collect();
    let stale = "FROM analyze_partitions WHERE job = $1 AND NOT (topic, partition) IN
        (SELECT * FROM unnest($2::text[], $3::int4[]))";
    let is_stale =
        client.query_one(&format!("SELECT EXISTS (SELECT {stale})"), &[&job.name, &topics, &numbers]).await?;
    if is_stale.get(0) {
        let deleted = client.execute(&format!("DELETE {stale}"), &[&job.name, &topics, &numbers]).await;
        deleted.map_err(|error| may_not_delete(error, "topics that are no longer read", "analyze_partitions", user))?;
    }
    let put_back = "INSERT INTO analyze_partitions (job, topic, partition, topic_id, next_offset, replay_offset)
         SELECT $1, n.topic, n.partition, n.topic_id, n.next_offset, n.next_offset
         FROM unnest($2::text[], $3::int4[], $4::text[], $5::int8[]) AS n(topic, partition, topic_id, next_offset)
         ON CONFLICT (job, topic, partition) DO UPDATE SET topic_id = excluded.topic_id,
           next_offset = excluded.next_offset, replay_offset = excluded.replay_offset,
           last_offset = NULL, leader_epoch = NULL, updated_at = now()";
    client.execute(put_back, &[&job.name, &topics, &numbers, &topic_ids, &offsets]).await?;
    Ok(())
}
