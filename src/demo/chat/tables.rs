//! What the tables and views say, asked as any reader of them would.

use super::found::Moment;
use crate::demo::Percentiles;
use std::collections::BTreeMap;
use tokio_postgres::{Client, Error, error::SqlState};

/// A busy stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamRow {
    pub name: String,
    /// Over the last hour.
    pub messages: i64,
    /// The others: of its last final minute.
    pub chatters: i64,
    pub rate: f64,
    pub sentiment: Option<f64>,
    pub viewers: Option<f64>,
    pub emotes: Vec<String>,
}

/// How far the pipeline is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Position {
    /// None before the first flush.
    pub watermark_ms: Option<i64>,
    pub final_rows: i64,
    pub moments: i64,
}

pub async fn position(client: &Client) -> Result<Position, Error> {
    let asked = client
        .query_opt(
            "SELECT (extract(epoch FROM watermark) * 1000)::bigint,
               (SELECT count(*) FROM chat_summary_minute WHERE is_final), (SELECT count(*) FROM moments)
             FROM analyze_jobs",
            &[],
        )
        .await;
    match asked {
        Ok(Some(row)) => Ok(Position { watermark_ms: row.get(0), final_rows: row.get(1), moments: row.get(2) }),
        Ok(None) => Ok(Position::default()),
        // The pipeline has not made its tables yet.
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(Position::default()),
        Err(error) => Err(error),
    }
}

/// Final rows and provisional ones.
pub async fn rows(client: &Client) -> Result<(i64, i64), Error> {
    let counts =
        "SELECT count(*) FILTER (WHERE is_final), count(*) FILTER (WHERE NOT is_final) FROM chat_summary_minute";
    let row = client.query_one(counts, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// Events that windows miss because they came too late, each for every window.
pub async fn late(client: &Client) -> Result<i64, Error> {
    let row = client.query_one("SELECT coalesce(sum(event_count), 0)::bigint FROM late_events", &[]).await?;
    Ok(row.get(0))
}

pub async fn dead_letters(client: &Client) -> Result<BTreeMap<String, i64>, Error> {
    let rows = client.query("SELECT error_reason, count(*) FROM dead_letters GROUP BY 1", &[]).await?;
    Ok(rows.into_iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The busiest streams.
pub async fn streams(client: &Client, limit: i64) -> Result<Vec<StreamRow>, Error> {
    let rows = client
        .query(
            "SELECT stream_id, messages, unique_chatters, chat_rate, avg_sentiment, avg_viewers, top_emotes
             FROM chat_latest
             JOIN (SELECT stream_id, sum(chat_count)::bigint AS messages FROM chat_last_hour GROUP BY 1) AS hour
               USING (stream_id)
             ORDER BY messages DESC LIMIT $1",
            &[&limit],
        )
        .await?;
    let row = |row: tokio_postgres::Row| StreamRow {
        name: row.get(0),
        messages: row.get(1),
        chatters: row.get(2),
        rate: row.get(3),
        sentiment: row.get(4),
        viewers: row.get(5),
        emotes: row.get(6),
    };
    Ok(rows.into_iter().map(row).collect())
}

/// A measure of a stream's final windows by their ends. `column` is one of ours.
pub async fn series(client: &Client, column: &str, stream: &str) -> Result<Vec<(i64, f64)>, Error> {
    let rows = client
        .query(
            &format!(
                "SELECT (extract(epoch FROM window_end) * 1000)::bigint, {column} FROM chat_summary_minute
                 WHERE stream_id = $1 AND is_final AND {column} IS NOT NULL ORDER BY 1"
            ),
            &[&stream],
        )
        .await?;
    Ok(rows.into_iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Moments, but for those that an earlier call has given; by the order of their windows.
pub async fn moments(client: &Client) -> Result<Vec<Moment>, Error> {
    let rows = client
        .query(
            "SELECT moment_type, stream_id, (extract(epoch FROM window_start) * 1000)::bigint,
               (extract(epoch FROM window_end) * 1000)::bigint, value, baseline
             FROM moments ORDER BY window_end, stream_id, moment_type",
            &[],
        )
        .await?;
    let moment = |row: tokio_postgres::Row| Moment {
        kind: row.get(0),
        stream: row.get(1),
        window_start_ms: row.get(2),
        window_end_ms: row.get(3),
        value: row.get(4),
        baseline: row.get(5),
    };
    Ok(rows.into_iter().map(moment).collect())
}

/// From when a window could be final, `watermark_delay_ms` after its end, until its final row was written; of
/// windows for which that was between two times.
pub async fn delays(
    client: &Client,
    watermark_delay_ms: i64,
    (from_ms, until_ms): (i64, i64),
) -> Result<Option<Percentiles>, Error> {
    let rows = client
        .query(
            "SELECT due.late_ms FROM (
               SELECT (extract(epoch FROM updated_at) * 1000)::bigint - due_ms AS late_ms, due_ms
               FROM (SELECT updated_at, (extract(epoch FROM window_end) * 1000)::bigint + $1 AS due_ms
                     FROM chat_summary_minute WHERE is_final AND revision = 0) AS final_rows
             ) AS due WHERE due_ms BETWEEN $2 AND $3",
            &[&watermark_delay_ms, &from_ms, &until_ms],
        )
        .await?;
    Ok(Percentiles::of(rows.into_iter().map(|row| row.get(0)).collect()))
}
