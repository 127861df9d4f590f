//! What `doctor` asks of the tables: what [`super::Store::open`] would find and do, without doing it.

use super::{
    Output, PartitionProgress, StoreError, check_encoding, leader,
    lock::{self, Holder},
    migrate, roles, search_path, table,
    wire::Timestamp,
};
use crate::{config::model::Postgres, postgres::pool::Pool};
use deadpool_postgres::Object;
use tokio_postgres::Client;

/// A connection in the schema of the tables.
pub struct Inspector {
    pub(super) client: Object,
    pub user: String,
    /// None where the role has none to write to.
    pub schema: Option<String>,
    /// Why texts cannot all be kept in this database, if so.
    pub encoding: Result<(), StoreError>,
}

/// The tables that all jobs share.
#[derive(Debug)]
pub struct Shared {
    /// Migrations that have not been applied.
    pub pending: Result<Vec<&'static str>, StoreError>,
    /// Whether the role may make tables in the schema.
    pub may_create: bool,
    /// Tables and views that are gone although their migration is recorded.
    pub gone: Vec<String>,
    /// Tables that the role may not write as it must, and functions that it may not call.
    pub forbidden: Vec<String>,
}

/// What a job's row and its neighbours say.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    pub partitions: Vec<PartitionProgress>,
    /// What the windows under way were made of.
    pub declaration: Option<String>,
    /// Every window that ends by then is final.
    pub watermark_ms: Option<i64>,
    /// Since it last began anew, it writes no window that begins earlier.
    pub windows_from_ms: Option<i64>,
    /// Who leads now.
    pub holder: Option<Holder>,
}

impl Inspector {
    /// Connects as a job does; `options` are further session settings.
    pub async fn open(config: &Postgres, schema: Option<&str>, options: &str) -> Result<Inspector, StoreError> {
        let path = schema.map_or_else(String::new, search_path);
        let client = Pool::new(config, "headwater doctor", &format!("{path} {options}"), 1)?.get().await?;
        let question = "SELECT current_user::text, current_schema()::text, current_setting('server_encoding')";
        let row = client.query_one(question, &[]).await?;
        let encoding = check_encoding(&config.db, row.get(2));
        Ok(Inspector { user: row.get(0), schema: row.get(1), encoding, client })
    }

    pub async fn shared(&self) -> Result<Shared, StoreError> {
        let may_create = "SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)";
        let pending = migrate::missing(&self.client).await.map_err(|error| error.of_user(&self.user));
        let is_applied = pending.as_ref().is_ok_and(Vec::is_empty);
        let (gone, forbidden) = match is_applied {
            true => roles::lacking(&self.client).await?,
            false => (Vec::new(), Vec::new()),
        };
        Ok(Shared { pending, may_create: self.client.query_one(may_create, &[]).await?.get(0), gone, forbidden })
    }

    /// The statements by which owners, writers and readers would be kept apart.
    pub async fn roles_left(&self, output: &Output) -> Result<Vec<String>, StoreError> {
        roles::missing(&self.client, output).await
    }

    /// The job's table, `"schema"."table"`, found to fit.
    pub async fn table(&self, output: &Output) -> Result<String, StoreError> {
        Ok(table::check(&self.client, output).await?.name)
    }

    /// Of a job, once the migrations are applied.
    pub async fn progress(&self, job: &str) -> Result<Progress, StoreError> {
        let client: &Client = &self.client;
        let question = "SELECT declaration, watermark, windows_from FROM analyze_jobs WHERE job = $1";
        let row = client.query_opt(question, &[&job]).await?;
        let time = |index| Some(row.as_ref()?.get::<_, Option<Timestamp>>(index)?.0);
        Ok(Progress {
            partitions: leader::partitions(client, job).await?,
            declaration: row.as_ref().and_then(|row| row.get(0)),
            watermark_ms: time(1),
            windows_from_ms: time(2),
            holder: lock::holder(client, job).await?,
        })
    }

    /// The error with which a job would refuse a table that is there: it is another's, or holds windows of which the
    /// job knows nothing.
    pub async fn refusal(&self, job: &str, table: &str, progress: &Progress) -> Result<Option<StoreError>, StoreError> {
        let (client, table): (&Client, String) = (&self.client, table.to_owned());
        if let Some(owner) = leader::owner(client, &table, job).await? {
            return Ok(Some(StoreError::Owned { job: job.to_owned(), table, owner }));
        }
        let is_unknown = progress.partitions.is_empty() && leader::holds_final(client, &table).await?;
        Ok(is_unknown.then(|| StoreError::NoProgress { job: job.to_owned(), table }))
    }
}
