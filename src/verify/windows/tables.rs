//! The job's tables in PostgreSQL, read without the code that writes them.

use super::{
    WindowsError,
    compare::{Stored, sql_type},
    recompute::Cell,
    spec::Spec,
};
use crate::{
    config::model::{Anomaly, Function, Job, Postgres},
    postgres::{self, epoch_us, quote_ident},
};
use futures_util::TryStreamExt;
use std::collections::BTreeMap;
use tokio_postgres::{Client, Row, error::SqlState, types::ToSql};

/// Dead letters are fetched in pages of so many, since one may hold megabytes.
const LETTERS_PAGE: i64 = 100;

/// What the job has committed, all of one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    pub watermark_ms: Option<i64>,
    pub partitions: Vec<Partition>,
    /// Late events by window number and input.
    pub late: BTreeMap<i64, Vec<i64>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    pub topic: String,
    pub number: i32,
    pub topic_id: String,
    /// Records below are vouched for.
    pub next_offset: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// Of the log that it was read in.
    pub log_id: String,
    pub offset: i64,
    pub reason: String,
    /// When the record was refused.
    pub refused_ms: i64,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
}

/// The dead letters of a partition.
#[derive(Debug, Clone)]
pub struct LettersOf<'a> {
    pub topic: &'a str,
    /// The topic's id, and what stands for it where its log was truncated.
    pub log_ids: &'a [String],
    pub partition: i32,
    /// Of the records that are compared, the end.
    pub until_offset: i64,
}

/// A moment with the row of its window.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    pub id: String,
    pub key: String,
    pub start_us: i64,
    pub end_us: i64,
    pub value: f64,
    pub baseline: f64,
    pub score: f64,
    pub row: Option<MomentRow>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MomentRow {
    pub end_us: i64,
    pub is_final: bool,
    pub is_revised: bool,
    pub value: Option<f64>,
}

pub struct Tables<'a> {
    client: Client,
    job: &'a Job,
    spec: &'a Spec,
    rows: String,
}

/// A parameter in milliseconds since 1970 as a time.
fn time(parameter: &str) -> String {
    format!("('1970-01-01 00:00:00+00'::timestamptz + {parameter}::int8 * interval '1 millisecond')")
}

impl<'a> Tables<'a> {
    pub async fn open(
        config: &Postgres,
        schema: Option<&str>,
        job: &'a Job,
        spec: &'a Spec,
    ) -> Result<Tables<'a>, WindowsError> {
        let client = postgres::connect(config).await?;
        if let Some(schema) = schema {
            client.query("SELECT set_config('search_path', $1, false)", &[&quote_ident(schema)]).await?;
        }
        let columns: String = spec
            .columns
            .iter()
            .map(|column| format!(", {}::{}", quote_ident(&column.name), sql_type(&column.function)))
            .collect();
        let rows = format!(
            "SELECT {key}::text, {start}, {end}, is_final, approximate{columns} FROM {table}
             WHERE window_start >= {from} AND window_start < {until} ORDER BY window_start, 1",
            key = quote_ident(&job.key_column),
            start = epoch_us("window_start"),
            end = epoch_us("window_end"),
            table = quote_ident(&job.table),
            from = time("$1"),
            until = time("$2"),
        );
        Ok(Tables { client, job, spec, rows })
    }

    /// None where the job has never run.
    pub async fn progress(&self) -> Result<Option<Progress>, WindowsError> {
        self.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let progress = self.progress_within().await;
        self.client.batch_execute("ROLLBACK").await?;
        match progress {
            Err(WindowsError::Query(error)) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                Err(WindowsError::NoTables { job: self.job.name.clone() })
            }
            progress => progress,
        }
    }

    async fn progress_within(&self) -> Result<Option<Progress>, WindowsError> {
        let id = &self.job.id;
        let question = format!("SELECT {} FROM analyze_jobs WHERE job = $1", epoch_us("watermark"));
        let Some(row) = self.client.query_opt(&question, &[id]).await? else { return Ok(None) };
        let watermark_us: Option<i64> = row.try_get(0)?;
        let mut progress =
            Progress { watermark_ms: watermark_us.map(|us| us.div_euclid(1_000)), ..Progress::default() };
        let question = "SELECT topic, partition, topic_id, next_offset FROM analyze_partitions WHERE job = $1";
        for row in self.client.query(question, &[id]).await? {
            let (topic, number) = (row.try_get(0)?, row.try_get(1)?);
            let (topic_id, next_offset) = (row.try_get(2)?, row.try_get(3)?);
            progress.partitions.push(Partition { topic, number, topic_id, next_offset });
        }
        let question =
            format!("SELECT topic, {}, event_count FROM late_events WHERE job = $1", epoch_us("window_start"));
        for row in self.client.query(&question, &[id]).await? {
            let topic: &str = row.try_get(0)?;
            let Some(input) = self.job.inputs.iter().position(|input| input.topic == topic) else { continue };
            let number = row.try_get::<_, i64>(1)?.div_euclid(self.spec.slide_ms * 1_000);
            let listed = progress.late.entry(number).or_insert_with(|| vec![0; self.spec.inputs()]);
            listed[input] += row.try_get::<_, i64>(2)?;
        }
        Ok(Some(progress))
    }

    /// Gives the rows whose windows begin from one time until before another, by their beginning. `begun`
    /// is called when the server has fixed which rows these are.
    pub async fn rows(
        &self,
        from_ms: i64,
        until_ms: i64,
        begun: impl FnOnce(),
        mut take: impl FnMut(Stored),
    ) -> Result<(), WindowsError> {
        let parameters: [&(dyn ToSql + Sync); 2] = [&from_ms, &until_ms];
        let rows = self.client.query_raw(&self.rows, parameters).await?;
        begun();
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.try_next().await? {
            take(self.stored(&row)?);
        }
        Ok(())
    }

    fn stored(&self, row: &Row) -> Result<Stored, WindowsError> {
        let mut cells = Vec::with_capacity(self.spec.columns.len());
        for (index, column) in self.spec.columns.iter().enumerate() {
            let index = index + 5;
            let cell = match sql_type(&column.function) {
                "int8" => row.try_get::<_, Option<i64>>(index)?.map(Cell::Integer),
                "float8" => row.try_get::<_, Option<f64>>(index)?.map(Cell::Float),
                "text[]" => row.try_get::<_, Option<Vec<Option<String>>>>(index)?.map(list),
                _ => row.try_get::<_, Option<&str>>(index)?.map(counts),
            };
            cells.push(cell.unwrap_or(Cell::Null));
        }
        Ok(Stored {
            key: row.try_get(0)?,
            start_us: row.try_get(1)?,
            end_us: row.try_get(2)?,
            is_final: row.try_get(3)?,
            is_approximate: row.try_get(4)?,
            cells,
        })
    }

    /// The next dead letters after an offset: all of an offset, or none.
    pub async fn letters(&self, of: &LettersOf<'_>, after_offset: i64) -> Result<Vec<Letter>, WindowsError> {
        let question = format!(
            "SELECT kafka_offset, error_reason, {}, key, raw_payload, topic_id FROM dead_letters
             WHERE job = $1 AND topic = $2 AND topic_id = ANY($3) AND kafka_partition = $4
               AND kafka_offset > $5 AND kafka_offset < $6
             ORDER BY kafka_offset FETCH FIRST $7 ROWS WITH TIES",
            epoch_us("error_ts")
        );
        let LettersOf { topic, log_ids, partition, until_offset } = of;
        let rows = self
            .client
            .query(&question, &[&self.job.id, topic, log_ids, partition, &after_offset, until_offset, &LETTERS_PAGE])
            .await?;
        let letter = |row: &Row| {
            let refused_us: i64 = row.try_get(2)?;
            Ok(Letter {
                offset: row.try_get(0)?,
                reason: row.try_get(1)?,
                refused_ms: refused_us.div_euclid(1_000),
                key: row.try_get(3)?,
                payload: row.try_get(4)?,
                log_id: row.try_get(5)?,
            })
        };
        rows.iter().map(letter).collect()
    }

    /// The moments of a watch whose windows begin from one time until before another, by key and window.
    pub async fn moments(
        &self,
        anomaly: &Anomaly,
        from_ms: i64,
        until_ms: i64,
        mut take: impl FnMut(Moment),
    ) -> Result<(), WindowsError> {
        let value = self.watched(anomaly);
        let question = format!(
            "SELECT m.moment_id, m.stream_id, {}, {}, m.value, {}, t.is_final, t.revision > 0, {value}, m.baseline, m.score
             FROM moments m LEFT JOIN {table} t ON t.{key} = m.stream_id AND t.window_start = m.window_start
             WHERE m.moment_type = $1 AND m.metric = $2 AND m.window_start >= {from} AND m.window_start < {until}
             ORDER BY m.stream_id, m.window_start, m.moment_id",
            epoch_us("m.window_start"),
            epoch_us("m.window_end"),
            epoch_us("t.window_end"),
            table = quote_ident(&self.job.table),
            key = quote_ident(&self.job.key_column),
            from = time("$3"),
            until = time("$4"),
        );
        let parameters: [&(dyn ToSql + Sync); 4] = [&anomaly.moment, &anomaly.measure, &from_ms, &until_ms];
        let mut rows = std::pin::pin!(self.client.query_raw(&question, parameters).await?);
        while let Some(row) = rows.try_next().await? {
            let end_us: Option<i64> = row.try_get(5)?;
            let found = match end_us {
                None => None,
                Some(end_us) => {
                    let (is_final, is_revised, value) = (row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
                    Some(MomentRow { end_us, is_final, is_revised, value })
                }
            };
            take(Moment {
                id: row.try_get(0)?,
                key: row.try_get(1)?,
                start_us: row.try_get(2)?,
                end_us: row.try_get(3)?,
                value: row.try_get(4)?,
                baseline: row.try_get(9)?,
                score: row.try_get(10)?,
                row: found,
            });
        }
        Ok(())
    }

    /// What a watch looks at of a row `t`.
    fn watched(&self, anomaly: &Anomaly) -> String {
        let column = format!("t.{}", quote_ident(&anomaly.measure));
        let measure = self.spec.columns.iter().find(|column| column.name == anomaly.measure);
        match measure.map(|column| &column.function) {
            // Of counts, their total is watched.
            Some(Function::Counts { .. }) => {
                format!("(SELECT coalesce(sum(e.value::numeric), 0)::float8 FROM jsonb_each_text({column}) AS e)")
            }
            _ => format!("{column}::float8"),
        }
    }

    /// The final windows that begin before a time, by key and start: what a watch looks at, and whether it was revised.
    pub async fn watched_windows(
        &self,
        anomaly: &Anomaly,
        until_ms: i64,
        mut take: impl FnMut(&str, i64, Option<f64>, bool) -> Result<(), WindowsError>,
    ) -> Result<(), WindowsError> {
        let question = format!(
            "SELECT t.{key}, {}, {}, t.revision > 0 FROM {table} t WHERE t.is_final AND t.window_start < {} ORDER BY 1, 2",
            epoch_us("t.window_start"),
            self.watched(anomaly),
            time("$1"),
            table = quote_ident(&self.job.table),
            key = quote_ident(&self.job.key_column),
        );
        let parameters: [&(dyn ToSql + Sync); 1] = [&until_ms];
        let mut rows = std::pin::pin!(self.client.query_raw(&question, parameters).await?);
        while let Some(row) = rows.try_next().await? {
            let start_us: i64 = row.try_get(1)?;
            take(row.try_get(0)?, start_us.div_euclid(1_000), row.try_get(2)?, row.try_get(3)?)?;
        }
        Ok(())
    }
}

fn list(values: Vec<Option<String>>) -> Cell {
    Cell::List(values.into_iter().map(|value| value.unwrap_or_else(|| "NULL".to_owned())).collect())
}

/// What is no object of whole numbers is shown as it is, and differs from every one that is.
fn counts(json: &str) -> Cell {
    match serde_json::from_str(json) {
        Ok(counts) => Cell::Counts(counts),
        Err(_) => Cell::List(vec![json.to_owned()]),
    }
}
