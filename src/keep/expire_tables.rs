//! Old rows of analyze's tables that are not windows: `moments`, `late_events`, `dead_letters`. Deleted some
//! thousand at a time, so that no lock is held for long and a kill loses nothing but the rest of the work.
//!
//! Nothing goes that `verify` needs for what is still there: of late events those of windows that are kept
//! stay, of dead letters those whose record is still on the topic.

use super::{KeepError, Left, expire::Rows};
use crate::{
    analyze::history::{self, DEAD_LETTERS, LATE_EVENTS, MOMENTS, kept_from},
    clock::now_us,
    config::model::{Analyze, Pipeline},
    postgres::{self, PostgresError, quote_ident},
};
use std::collections::BTreeSet;
use tokio_postgres::{Client, error::SqlState};

/// Which rows go, counted.
pub struct Tables {
    client: Client,
    before: String,
    /// Ids of the pipeline's jobs.
    jobs: Vec<String>,
    /// Which dead letters go.
    letters: String,
    moments: u64,
    late_events: u64,
    dead_letters: u64,
    kept_letters: u64,
    user: String,
}

pub async fn plan(pipeline: &Pipeline, days: u32) -> Result<Tables, KeepError> {
    let (Some(analyze), Some(config)) = (&pipeline.analyze, &pipeline.postgres) else {
        let pipeline = pipeline.name.clone();
        return Err(KeepError::Nothing { pipeline, section: "postgres", action: "expire" });
    };
    check_retention(analyze, days)?;
    let client = postgres::connect(config).await?;
    if let Some(schema) = &analyze.schema {
        client
            .batch_execute(&format!("SET search_path = {}", quote_ident(schema)))
            .await
            .map_err(PostgresError::from)?;
    }
    let topics: BTreeSet<String> =
        analyze.jobs.iter().flat_map(|job| &job.inputs).map(|input| input.topic.clone()).collect();
    let kafka = pipeline.kafka.clone();
    let begins = tokio::task::spawn_blocking(move || history::begins(&kafka, topics)).await??;
    // Midnight UTC, as the sessions' zone is.
    let before = kept_from(postgres::agreed_now_us(&client, now_us()).await?, days);
    let mut tables = Tables {
        client,
        before,
        jobs: analyze.jobs.iter().map(|job| job.id.clone()).collect(),
        letters: format!("{DEAD_LETTERS} AND {}", history::has_left(&begins)),
        moments: 0,
        late_events: 0,
        dead_letters: 0,
        kept_letters: 0,
        user: config.user.clone(),
    };
    tables.moments = tables.count("moments", MOMENTS, &[&tables.before]).await?;
    tables.late_events = tables.count("late_events", LATE_EVENTS, &[&tables.before, &tables.jobs]).await?;
    tables.dead_letters = tables.count("dead_letters", &tables.letters, &tables.of_letters()).await?;
    let all = tables.count("dead_letters", DEAD_LETTERS, &tables.of_letters()).await?;
    tables.kept_letters = all - tables.dead_letters;
    Ok(tables)
}

/// `verify` explains what windows lack by the late events of their time.
fn check_retention(analyze: &Analyze, days: u32) -> Result<(), KeepError> {
    match analyze.jobs.iter().find(|job| job.retention_days > days) {
        None => Ok(()),
        Some(job) => Err(KeepError::Refused(format!(
            "the windows of job {} are kept for {} days, and what late_events lists of them explains what they lack: \
             give --analyze-older-than-days {} or more, or lower analyze.jobs[].retention_days",
            job.name, job.retention_days, job.retention_days
        ))),
    }
}

type Parameters<'a> = Vec<&'a (dyn tokio_postgres::types::ToSql + Sync)>;

impl Tables {
    fn of_letters(&self) -> Parameters<'_> {
        vec![&self.before, &self.jobs]
    }

    async fn count(
        &self,
        table: &str,
        condition: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<u64, PostgresError> {
        let question = format!("SELECT count(*) FROM {table} WHERE {condition}");
        Ok(self.client.query_one(&question, parameters).await?.get::<_, i64>(0).max(0) as u64)
    }

    fn lines(&self, counts: [u64; 3]) -> Vec<Rows> {
        let names = ["moments", "late_events", "dead_letters"];
        names
            .into_iter()
            .zip(counts)
            .map(|(table, rows)| Rows { table: table.to_owned(), before: self.before.clone(), rows })
            .collect()
    }

    pub fn rows(&self) -> Vec<Rows> {
        self.lines([self.moments, self.late_events, self.dead_letters])
    }

    pub fn left(&self) -> Vec<Left> {
        let why = format!("{} old rows whose records are still on their topics", self.kept_letters);
        (self.kept_letters > 0).then(|| Left { what: "table dead_letters".to_owned(), why }).into_iter().collect()
    }

    /// Gives what was deleted.
    pub async fn delete(self) -> Result<Vec<Rows>, KeepError> {
        let counts = [
            self.delete_from("moments", MOMENTS, &[&self.before]).await?,
            self.delete_from("late_events", LATE_EVENTS, &[&self.before, &self.jobs]).await?,
            self.delete_from("dead_letters", &self.letters, &self.of_letters()).await?,
        ];
        Ok(self.lines(counts))
    }

    async fn delete_from(
        &self,
        table: &str,
        condition: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<u64, KeepError> {
        let statement = history::delete(table, condition);
        let mut deleted = 0;
        loop {
            match self.client.execute(&statement, parameters).await {
                Ok(0) => return Ok(deleted),
                Ok(count) => deleted += count,
                Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                    return Err(KeepError::Refused(format!(
                        "{user} may not delete from {table}: run GRANT DELETE ON {table} TO {user}",
                        user = self.user
                    )));
                }
                Err(error) => return Err(PostgresError::from(error).into()),
            }
        }
    }
}
