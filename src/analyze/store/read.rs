//! What a new leader reads back, so that its detectors remember what the former one saw.

use super::{Store, StoreError, table::Kind, wire::Timestamp};
use crate::{
    analyze::window::{Value, WindowRow},
    postgres::quote_ident,
};
use futures_util::{Stream, TryStreamExt};
use std::sync::Arc;
use tokio_postgres::{Row, types::ToSql};

/// The newest moment of a key, a type and a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct LastMoment {
    pub moment_type: String,
    pub key: String,
    pub metric: String,
    pub window_start_ms: i64,
    pub value: f64,
    pub baseline: f64,
    pub score: f64,
    pub threshold: f64,
}

/// Which windows are read: all that begin at `recent_ms` or later; back to `since_ms`, those that begin at a multiple
/// of `period_ms`. Those that end after `until_ms` are left out: a job that has begun anew comes to them again.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub since_ms: i64,
    pub recent_ms: i64,
    pub period_ms: i64,
    pub until_ms: i64,
}

impl Store {
    /// The final windows of the span, with the values of `columns` (measures of the job) in their order, by
    /// start and key. A stream: never all in memory at once.
    pub async fn final_windows(
        &self,
        span: Span,
        columns: &[&str],
    ) -> Result<impl Stream<Item = Result<WindowRow, StoreError>> + use<>, StoreError> {
        let mut kinds = Vec::with_capacity(columns.len());
        let mut selected = String::new();
        for column in columns {
            let measure = self.job.output.measures.iter().find(|measure| measure.column == *column);
            let kind = measure.map(|measure| measure.kind).ok_or_else(|| StoreError::Table {
                table: self.table.name.clone(),
                problems: format!("{column} is not a measure of the job"),
                cure: "-- name one of its measures".to_owned(),
            })?;
            // A driver without our JSON type reads its text.
            let cast = if kind == Kind::Counts { "::text" } else { "" };
            selected.push_str(&format!(", {}{cast}", quote_ident(column)));
            kinds.push(kind);
        }
        let key = quote_ident(&self.job.output.key_column);
        let sql = format!(
            "SELECT {key}, window_start, window_end, revision::int4, approximate{selected} FROM {}
             WHERE is_final AND window_start >= $1 AND window_end <= $4
               AND (window_start >= $2 OR (extract(epoch FROM window_start) * 1000)::bigint % $3 = 0)
             ORDER BY window_start, {key}",
            self.table.name
        );
        let client = self.pool.get().await?;
        let (since, recent, until) = (Timestamp(span.since_ms), Timestamp(span.recent_ms), Timestamp(span.until_ms));
        let parameters: [&(dyn ToSql + Sync); 4] = [&since, &recent, &span.period_ms, &until];
        let rows = client.query_raw(&sql, parameters).await?;
        Ok(rows.map_err(StoreError::from).and_then(move |row| {
            // The connection goes back to the pool with the last row.
            let _held = &client;
            std::future::ready(window_row(&row, &kinds))
        }))
    }

    /// The newest moment of each key, type and metric whose window begins at `since_ms` or later and ends at `until_ms`
    /// or before.
    pub async fn last_moments(&self, since_ms: i64, until_ms: i64) -> Result<Vec<LastMoment>, StoreError> {
        let client = self.pool.get().await?;
        let rows = client
            .query(
                "SELECT DISTINCT ON (stream_id, moment_type, metric) moment_type, stream_id, metric, window_start,
                   value, baseline, score, threshold
                 FROM moments WHERE window_start >= $1 AND window_end <= $2
                 ORDER BY stream_id, moment_type, metric, window_start DESC",
                &[&Timestamp(since_ms), &Timestamp(until_ms)],
            )
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| LastMoment {
                moment_type: row.get(0),
                key: row.get(1),
                metric: row.get(2),
                window_start_ms: row.get::<_, Timestamp>(3).0,
                value: row.get(4),
                baseline: row.get(5),
                score: row.get(6),
                threshold: row.get(7),
            })
            .collect())
    }
}

const FIRST_VALUE: usize = 5;

fn window_row(row: &Row, kinds: &[Kind]) -> Result<WindowRow, StoreError> {
    let mut values = Vec::with_capacity(kinds.len());
    for (index, kind) in kinds.iter().enumerate() {
        let index = FIRST_VALUE + index;
        let value = match kind {
            Kind::Integer => row.try_get::<_, Option<i64>>(index)?.map(Value::Integer),
            Kind::Float => row.try_get::<_, Option<f64>>(index)?.map(Value::Float),
            Kind::TextList => row.try_get::<_, Option<Vec<String>>>(index)?.map(Value::TextList),
            Kind::Counts => row.try_get::<_, Option<String>>(index)?.map(|json| Value::Counts(counts(&json))),
        };
        values.push(value.unwrap_or(Value::Null));
    }
    Ok(WindowRow {
        key: Arc::from(row.try_get::<_, &str>(0)?),
        start_ms: row.try_get::<_, Timestamp>(1)?.0,
        end_ms: row.try_get::<_, Timestamp>(2)?.0,
        values,
        is_final: true,
        revision: row.try_get(3)?,
        is_approximate: row.try_get(4)?,
    })
}

/// By count, the highest first, then by name. What is no whole number was not written by us.
fn counts(json: &str) -> Vec<(String, i64)> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    let mut counts: Vec<(String, i64)> =
        object.into_iter().filter_map(|(name, count)| Some((name, count.as_i64()?))).collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_in_a_fixed_order() {
        let expected = [("c", 3), ("a", 2), ("b", 2)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(counts(r#"{"b": 2, "a": 2, "c": 3, "odd": 1.5}"#), expected);
        assert_eq!(counts("null"), []);
    }
}
