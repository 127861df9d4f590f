//! The dead letters of `analyze`: rows of the table `dead_letters`.

use super::{
    DlqError, Next, Take,
    filter::{Filter, Span},
    letter::{Body, Letter, Source},
    shared,
};
use crate::{
    config::model::{Job, Postgres},
    postgres::{self, PostgresError, epoch_us, quote_ident},
};
use futures_util::TryStreamExt;
use std::{pin::pin, sync::Arc};
use tokio::runtime::Handle;
use tokio_postgres::{Client, Row, error::SqlState, types::ToSql};

/// Letters of one question; so a slow taker holds no snapshot of the database for long.
const PAGE: i64 = 1_000;

/// One job's letters.
pub struct Analyzed {
    source: Arc<Source>,
    /// Under which the table knows the job.
    job: String,
    user: String,
    client: Client,
    partitions: Vec<Partition>,
}

/// What a job has of a partition. Later letters have greater offsets.
struct Partition {
    topic: Arc<str>,
    topic_id: Arc<str>,
    number: i32,
    first: i64,
    last: i64,
    letters: u64,
}

impl Analyzed {
    /// A job that has never run has none.
    pub async fn open(
        pipeline: &str,
        config: &Postgres,
        schema: Option<&str>,
        job: &Job,
    ) -> Result<Analyzed, DlqError> {
        let client = postgres::connect(config).await?;
        let source = Source { pipeline: pipeline.to_owned(), stage: "analyze", job: Some(job.name.clone()) };
        let mut analyzed = Analyzed {
            source: Arc::new(source),
            job: job.id.clone(),
            user: config.user.clone(),
            client,
            partitions: Vec::new(),
        };
        if let Some(schema) = schema {
            let path = quote_ident(schema);
            let set = analyzed.client.query("SELECT set_config('search_path', $1, false)", &[&path]).await;
            set.map_err(|source| analyzed.failed(source))?;
        }
        analyzed.partitions = match analyzed.partitions().await {
            Ok(partitions) => partitions,
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Vec::new(),
            Err(error) => return Err(analyzed.failed(error)),
        };
        Ok(analyzed)
    }

    async fn partitions(&self) -> Result<Vec<Partition>, tokio_postgres::Error> {
        let question = "SELECT topic, topic_id, kafka_partition, min(kafka_offset), max(kafka_offset), count(*)
             FROM dead_letters WHERE job = $1 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
        let (mut topic, mut topic_id) = (None, None);
        let mut partitions = Vec::new();
        for row in self.client.query(question, &[&self.job]).await? {
            partitions.push(Partition {
                topic: shared(&mut topic, row.try_get(0)?),
                topic_id: shared(&mut topic_id, row.try_get(1)?),
                number: row.try_get(2)?,
                first: row.try_get(3)?,
                last: row.try_get(4)?,
                letters: row.try_get::<_, i64>(5)?.unsigned_abs(),
            });
        }
        Ok(partitions)
    }

    fn failed(&self, source: tokio_postgres::Error) -> DlqError {
        let job = self.source.job.clone().unwrap_or_default();
        match source.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => DlqError::NoGrant { job, user: quote_ident(&self.user) },
            _ if source.is_closed() => PostgresError::Query(source).into(),
            _ => DlqError::Query { job, source },
        }
    }

    fn chosen<'p>(&'p self, filter: &'p Filter) -> impl Iterator<Item = &'p Partition> {
        self.partitions.iter().filter(|partition| {
            let Partition { topic, number, first, last, .. } = partition;
            filter.may_hold(&Span { topic, partition: *number, first: *first, last: *last, day: None })
        })
    }

    /// How many letters there are in the partitions that are to be read.
    pub fn volume(&self, filter: &Filter) -> u64 {
        self.chosen(filter).map(|partition| partition.letters).sum()
    }

    pub fn read(
        &self,
        filter: &Filter,
        with_body: bool,
        runtime: &Handle,
        take: &mut Take<'_>,
    ) -> Result<Next, DlqError> {
        for partition in self.chosen(filter) {
            if self.read_partition(partition, filter.offsets(), with_body, runtime, take)? == Next::Stop {
                return Ok(Next::Stop);
            }
        }
        Ok(Next::Continue)
    }

    fn read_partition(
        &self,
        of: &Partition,
        (least, greatest): (i64, i64),
        with_body: bool,
        runtime: &Handle,
        take: &mut Take<'_>,
    ) -> Result<Next, DlqError> {
        let body = if with_body { ", raw_payload, key, headers" } else { "" };
        let question = format!(
            "SELECT kafka_offset, error_reason, error_detail, {}, {}{body} FROM dead_letters
             WHERE job = $1 AND topic = $2 AND topic_id = $3 AND kafka_partition = $4
               AND kafka_offset >= $5 AND kafka_offset <= $6 ORDER BY kafka_offset LIMIT $7",
            epoch_us("error_ts"),
            epoch_us("kafka_timestamp"),
        );
        let mut from = least.max(of.first);
        let until = greatest.min(of.last);
        while from <= until {
            let (topic, topic_id) = (&*of.topic, &*of.topic_id);
            let parameters: [&(dyn ToSql + Sync); 7] = [&self.job, &topic, &topic_id, &of.number, &from, &until, &PAGE];
            let asked = runtime.block_on(self.client.query_raw(&question, parameters));
            let mut rows = pin!(asked.map_err(|source| self.failed(source))?);
            let mut count = 0;
            while let Some(row) = runtime.block_on(rows.try_next()).map_err(|source| self.failed(source))? {
                let letter = self.letter(of, &row, with_body)?;
                from = letter.offset.saturating_add(1);
                count += 1;
                if take(letter)? == Next::Stop {
                    return Ok(Next::Stop);
                }
            }
            if count < PAGE {
                break;
            }
        }
        Ok(Next::Continue)
    }

    fn letter(&self, of: &Partition, row: &Row, with_body: bool) -> Result<Letter, DlqError> {
        let failed = |source| self.failed(source);
        let mut letter = Letter {
            source: self.source.clone(),
            topic: of.topic.clone(),
            topic_id: of.topic_id.clone(),
            partition: of.number,
            offset: row.try_get(0).map_err(failed)?,
            reason: row.try_get(1).map_err(failed)?,
            detail: row.try_get(2).map_err(failed)?,
            refused_us: row.try_get(3).map_err(failed)?,
            recorded_us: row.try_get(4).map_err(failed)?,
            body: Body::default(),
            replayed: None,
        };
        if with_body {
            let (payload, key) = (row.try_get(5).map_err(failed)?, row.try_get(6).map_err(failed)?);
            letter.body = Body::stored(payload, key, row.try_get(7).map_err(failed)?);
        }
        Ok(letter)
    }
}
