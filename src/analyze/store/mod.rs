//! Windows, moments, dead letters and progress in PostgreSQL, each written exactly once.
//!
//! **One instance of a job leads.** It holds a session advisory lock ([`lock`]) and has taken the next
//! epoch. The others stand by. A leader that dies, is stopped or is cut off loses the lock within some
//! seconds, because the server ends a session that is silent.
//!
//! **A flush is one transaction** ([`flush`]). It begins with a compare-and-set of the job's row (epoch,
//! count of flushes) and of the offsets of its partitions, and goes on with upserts of absolute values,
//! moments whose ids say what they are about, and dead letters by their offset. So it takes effect once or
//! not at all, and that of a former leader, woken after another has taken over, not at all.
//!
//! **A commit of which nobody knows** (the connection broke under way) is settled before anything else: the
//! count of flushes tells ([`leader`]).
//!
//! **Progress and data cannot part**, for they are rows of one database. A new leader begins at
//! [`Leader::stored`].
//!
//! Connect straight to the server: a pooler that hands a session to several clients breaks its locks.

mod days;
mod error;
mod flush;
pub mod inspect;
mod leader;
mod lock;
mod migrate;
mod read;
pub mod reset;
mod roles;
mod rows;
mod table;
mod text;
mod wire;

pub use error::StoreError;
pub use flush::{DeadLetter, Flush, Flushed, LateCount, PartitionProgress};
pub use leader::{AHEAD_OF_CLOCK, Leader, Stored};
pub use lock::Holder;
pub use read::{LastMoment, Span};
pub use table::{Kind, Measure, Output};
pub use text::{storable, storable_key};

use crate::{
    config::model::Postgres,
    postgres::{
        self,
        pool::{Figures, Pool},
        quote_ident,
    },
};
use std::sync::Arc;
use tokio_postgres::error::SqlState;

/// The oldest PostgreSQL that ends silent sessions.
const OLDEST_SERVER: i32 = 140_000;
/// A flush whose client says nothing for so long within a transaction is given up by the server, so that
/// its locks do not outlive it.
const SESSION: &str = "-c idle_in_transaction_session_timeout=5s";

/// A job as far as its tables are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub name: String,
    pub output: Output,
    /// What its windows are made of; progress is good only for the declaration that made it.
    pub declaration: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where all tables are; the first schema of the role's search path when absent.
    pub schema: Option<String>,
    /// Whether the program applies the migrations, or only checks that somebody has.
    pub migrate: bool,
    /// Whether a missing output table is made.
    pub create_tables: bool,
    /// Older days of the output table are dropped; none are when absent.
    pub retention_days: Option<u32>,
    /// Most connections of the pool. The lock's is beside it.
    pub pool_size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { schema: None, migrate: true, create_tables: false, retention_days: None, pool_size: 4 }
    }
}

/// What [`Store::open`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setup {
    /// Migrations that were applied.
    pub applied: Vec<&'static str>,
    /// Whether the output table was made.
    pub created: bool,
    /// Statements about roles that this role may not run. Everything works without; owners and readers are
    /// then not kept apart.
    pub roles_left: Vec<String>,
}

/// The tables of one job, found to fit it.
pub struct Store {
    config: Postgres,
    job: Job,
    settings: Settings,
    setup: Setup,
    pool: Pool,
    application: String,
    /// Session settings of every connection.
    options: String,
    user: String,
    table: table::Found,
    upsert: rows::Upsert,
    copy_rows: usize,
}

impl Store {
    /// Connects, brings the tables to this version and checks that the job's fits.
    pub async fn open(config: &Postgres, job: Job, settings: Settings) -> Result<Arc<Store>, StoreError> {
        let application = format!("headwater analyze {}", job.name);
        let options = settings.schema.as_deref().map_or_else(String::new, search_path);
        let pool = Pool::new(config, &application, &format!("{options} {SESSION}"), settings.pool_size.max(1))?;
        let mut client = pool.get().await?;
        let facts = client
            .query_one(
                "SELECT current_setting('server_version_num')::int4, current_setting('server_version'),
                   pg_is_in_recovery(), current_user::text, current_schema()::text,
                   has_database_privilege(current_database(), 'TEMP'), current_setting('server_encoding')",
                &[],
            )
            .await?;
        if facts.get::<_, i32>(0) < OLDEST_SERVER {
            return Err(StoreError::TooOld { version: facts.get(1) });
        }
        if facts.get(2) {
            return Err(StoreError::Standby);
        }
        check_encoding(&config.db, facts.get(6))?;
        let user: String = facts.get(3);
        let copy_rows = if facts.get(5) { rows::COPY_ROWS } else { usize::MAX };
        if facts.get::<_, Option<&str>>(4).is_none() {
            let schema = quote_ident(settings.schema.as_deref().unwrap_or(&user));
            return Err(StoreError::NoSchema { user, schema });
        }
        let (setup, table) = set_up(&mut client, &job.output, &settings).await.map_err(|error| error.of_user(&user))?;
        drop(client);
        let upsert = rows::Upsert::new(&job.output, &table.name);
        let config = config.clone();
        let store = Store { config, job, settings, setup, pool, application, options, user, table, upsert, copy_rows };
        Ok(Arc::new(store))
    }

    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Of the pool, for the metrics.
    pub fn pool_figures(&self) -> Figures {
        self.pool.figures()
    }

    /// As [`postgres::agreed_now_us`].
    pub async fn agreed_now_us(&self, now_us: i64) -> Result<i64, StoreError> {
        Ok(postgres::agreed_now_us(&*self.pool.get().await?, now_us).await?)
    }

    /// Runs one statement of [`super::history`] about this job, whose parameters are the first day that is kept and
    /// the job's id in a list. How many rows went.
    pub async fn delete(&self, statement: &str, before: &str) -> Result<u64, StoreError> {
        let client = self.pool.get().await?;
        let deleted = client.execute(statement, &[&before, &[self.job.name.as_str()].as_slice()]).await;
        deleted.map_err(|error| match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => StoreError::NoDelete { user: quote_ident(&self.user) },
            _ => error.into(),
        })
    }

    /// Waits until this instance leads the job; `standing_by` is told who does meanwhile. Gives up when the
    /// future is dropped.
    pub async fn lead(self: &Arc<Self>, standing_by: impl FnMut(&Holder)) -> Result<Leader, StoreError> {
        let lock = lock::Lock::take(&self.config, &self.job, &self.application, &self.options, standing_by).await?;
        Leader::new(self.clone(), lock).await
    }
}

/// What people write is of any script, and one character that the database cannot hold would stop every flush.
fn check_encoding(db: &str, encoding: &str) -> Result<(), StoreError> {
    if encoding == "UTF8" {
        return Ok(());
    }
    let create = "CREATE DATABASE telemetry ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0".to_owned();
    Err(StoreError::Encoding { db: db.to_owned(), encoding: encoding.to_owned(), create })
}

/// `-c search_path="schema"`, with what the option syntax would split escaped.
fn search_path(schema: &str) -> String {
    let value: String = quote_ident(schema)
        .chars()
        .flat_map(|c| matches!(c, ' ' | '\\').then_some('\\').into_iter().chain([c]))
        .collect();
    format!("-c search_path={value}")
}

async fn set_up(
    client: &mut deadpool_postgres::Object,
    output: &Output,
    settings: &Settings,
) -> Result<(Setup, table::Found), StoreError> {
    let mut setup = Setup::default();
    if settings.migrate {
        setup.applied = migrate::apply(client).await?;
    } else {
        migrate::verify(client).await?;
    }
    if settings.create_tables {
        setup.created = create(client, output).await?;
    }
    // After the table was made, so that it gets its owner.
    if settings.migrate {
        setup.roles_left = roles::apply(client, output).await?;
    }
    let table = table::check(client, output).await?;
    Ok((setup, table))
}

/// Makes the output table unless it is there.
async fn create(client: &mut deadpool_postgres::Object, output: &Output) -> Result<bool, StoreError> {
    if table::exists(&*client, output).await? {
        return Ok(false);
    }
    let transaction = client.transaction().await?;
    transaction
        .batch_execute("SELECT pg_advisory_xact_lock(hashtextextended('headwater.migrations.' || current_schema(), 0))")
        .await?;
    let is_missing = !table::exists(&transaction, output).await?;
    if is_missing {
        transaction.batch_execute(&output.create_sql()).await?;
    }
    transaction.commit().await?;
    Ok(is_missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_of_any_name_is_one_option() {
        assert_eq!(search_path("my schema"), "-c search_path=\"my\\ schema\"");
        assert_eq!(search_path("a\\b\"c"), "-c search_path=\"a\\\\b\"\"c\"");
    }
}
