//! The questions of a search, each in a short transaction of a connection of its own: no poll waits for them, and none
//! holds a snapshot or a lock for longer than [`LONGEST`].

use super::{
    super::{
        session::{begin_text, lock_text},
        source::{Column, Source, WatermarkType},
        sql,
    },
    census::{Count, MOST_BUCKETS, Part, width},
};
use crate::{
    config::model::Pipeline,
    postgres::{PostgresError, connect, quote_ident},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_postgres::{Client, error::SqlState};

/// Of one statement.
const LONGEST: Duration = Duration::from_secs(2);
const LOCK_TIMEOUT_MS: u64 = 500;
/// Of all that belongs to one question, with the connecting.
const LINE: Duration = Duration::from_secs(20);

/// Minutes from 1970 to 2000, from where raw watermarks count.
const EPOCH_MINUTES: i64 = 15_778_080;

pub enum Question {
    Counters,
    Count {
        part: Part,
        since: u64,
    },
    /// The newest row in these buckets.
    Example {
        buckets: Vec<i64>,
        since: u64,
    },
}

pub enum Answer {
    Counters(Option<i64>),
    Counts {
        counts: BTreeMap<i64, Count>,
        xmin: u64,
    },
    Example(Option<Example>),
    /// It took longer than it may.
    TooLong,
    /// The table is not as it was, or nothing can be asked now.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub xid: u64,
    /// `column = value`, of each key column.
    pub key: String,
    /// As PostgreSQL writes it.
    pub watermark: String,
    /// In microseconds since 1970, as if a local time were UTC.
    pub watermark_us: i64,
}

/// What is asked of a table.
pub struct Of {
    pub source: Arc<Source>,
    pub lock_name: String,
    pub fingerprint: String,
}

/// The answer, how long it took, and the connection for the next one where it is still of use.
pub type Answered = (Answer, Duration, Option<Client>);

pub async fn ask(pipeline: Arc<Pipeline>, client: Option<Client>, of: Of, question: Question) -> Answered {
    let begun = Instant::now();
    let Some(config) = &pipeline.postgres else { return (Answer::None, Duration::ZERO, None) };
    let asked = async {
        let client = match client {
            Some(client) if !client.is_closed() => client,
            _ => connect(config).await?,
        };
        let answer = match &question {
            Question::Counters => {
                let row = client.query_one(sql::WRITTEN, &[&of.lock_name]).await?;
                Answer::Counters(row.get(0))
            }
            question => {
                let answer = in_transaction(&client, &of, question).await;
                client.batch_execute("ROLLBACK").await?;
                match answer {
                    Ok(answer) => answer,
                    Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Answer::TooLong,
                    Err(error) => return Err(PostgresError::Query(error)),
                }
            }
        };
        Ok::<_, PostgresError>((answer, client))
    };
    match tokio::time::timeout(LINE, asked).await {
        Ok(Ok((answer, client))) => (answer, begun.elapsed(), Some(client)),
        Ok(Err(error)) => {
            tracing::debug!(table = of.source.name, "the search below the bound: {error}");
            (Answer::None, begun.elapsed(), None)
        }
        Err(_) => (Answer::None, begun.elapsed(), None),
    }
}

async fn in_transaction(client: &Client, of: &Of, question: &Question) -> Result<Answer, tokio_postgres::Error> {
    // The lock comes before the snapshot, as in a poll: rows that an ALTER TABLE has rewritten are not to be seen else.
    let tables = std::slice::from_ref(&of.lock_name);
    let begin = format!(
        "{}; SET LOCAL statement_timeout = {}; {}",
        begin_text(LOCK_TIMEOUT_MS),
        LONGEST.as_millis(),
        lock_text(tables)
    );
    client.batch_execute(&begin).await?;
    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    let row = client.query_one(sql::SNAPSHOT, &[&names]).await?;
    let latest = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
    let fingerprints: Vec<Option<String>> = row.get(2);
    if fingerprints.first().and_then(Option::as_ref) != Some(&of.fingerprint) {
        return Ok(Answer::None);
    }
    match question {
        Question::Count { part, since } => {
            let Ok(snapshot) = super::super::plan::Snapshot::parse(row.get(0)) else { return Ok(Answer::None) };
            let rows = client.query(&count(&of.source, *part, latest, *since), &[]).await?;
            if rows.len() > MOST_BUCKETS {
                return Ok(Answer::TooLong);
            }
            let number = |row: &tokio_postgres::Row, column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
            let counts = rows
                .iter()
                .map(|row| (row.get(0), Count { all: number(row, 1), matching: number(row, 2), new: number(row, 3) }));
            Ok(Answer::Counts { counts: counts.collect(), xmin: snapshot.xmin })
        }
        Question::Example { buckets, since } => {
            let row = client.query_opt(&example(&of.source, buckets, latest, *since), &[]).await?;
            Ok(Answer::Example(row.map(|row| Example {
                xid: u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
                watermark: row.get(1),
                watermark_us: row.get(2),
                key: row.get(3),
            })))
        }
        Question::Counters => Ok(Answer::None),
    }
}

fn watermark(source: &Source) -> String {
    format!("t.{}", quote_ident(&source.watermark_column().name))
}

/// The condition that a watermark lies in buckets `from..to`.
fn between(source: &Source, from: i64, to: Option<i64>) -> String {
    let literal = |bucket: i64| {
        sql::watermark_literal(source.watermark_type, bucket.saturating_mul(width(source.watermark_type)))
    };
    let column = watermark(source);
    let order = &source.watermark_column().order;
    let above = format!("{column} {} {}", order.greater_or_equal, literal(from));
    let below = match to {
        Some(to) => literal(to),
        None => format!("'infinity'::{}", source.watermark_type.sql()),
    };
    format!("{above} AND {column} {} {below}", order.less)
}

fn matching(source: &Source) -> String {
    source.filter.as_ref().map_or("true".to_owned(), |filter| format!("((\n{filter}\n) IS TRUE)"))
}

fn newer(latest: u64, since: u64) -> String {
    let distance = latest.saturating_sub(since).min(i32::MAX as u64 - 1);
    format!("age(t.xmin) BETWEEN 1 AND {distance}")
}

/// Bucket, all rows, those that match, those of them that are new: of each bucket that has any.
fn count(source: &Source, part: Part, latest: u64, since: u64) -> String {
    let column = watermark(source);
    let (inner, outer) = match source.watermark_type {
        WatermarkType::Date => (format!("{column} - '2000-01-01'::date"), "bucket::int8".to_owned()),
        kind => {
            let start = sql::watermark_literal(kind, 0);
            let minutes = format!("(extract(epoch FROM bucket) / 60)::int8 - {EPOCH_MINUTES}");
            (format!("date_bin('1 minute', {column}, {start})"), minutes)
        }
    };
    format!(
        "SELECT {outer}, count(*), count(*) FILTER (WHERE matches), count(*) FILTER (WHERE matches AND is_new)
         FROM (SELECT {inner} AS bucket, {} AS matches, {} AS is_new FROM {} AS t WHERE {}) AS s
         GROUP BY bucket LIMIT {}",
        matching(source),
        newer(latest, since),
        source.quoted,
        between(source, part.from, part.to),
        MOST_BUCKETS + 1,
    )
}

/// Transaction id, watermark as text and in microseconds, key: of the newest row in the buckets.
fn example(source: &Source, buckets: &[i64], latest: u64, since: u64) -> String {
    let places: Vec<String> = buckets.iter().map(|bucket| between(source, *bucket, Some(bucket + 1))).collect();
    let key: Vec<String> = source.key.iter().map(|position| named(&source.columns[*position])).collect();
    let column = watermark(source);
    format!(
        "SELECT {latest}::int8 - age(t.xmin), {column}::text, (extract(epoch FROM {column}) * 1000000)::int8,
           concat_ws(', ', {})
         FROM {} AS t WHERE (({})) AND {} AND {}
         ORDER BY age(t.xmin), {column} DESC LIMIT 1",
        key.join(", "),
        source.quoted,
        places.join(") OR ("),
        newer(latest, since),
        matching(source),
    )
}

/// `'name = ' || value`, cut where it is long.
fn named(column: &Column) -> String {
    const LONGEST_VALUE: usize = 60;
    let label = crate::postgres::quote_literal(&format!("{} ", column.name));
    format!("{label} || left(coalesce(t.{}::text, 'NULL'), {LONGEST_VALUE})", quote_ident(&column.name))
}
