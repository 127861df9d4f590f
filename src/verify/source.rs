//! Reading a table as it is in one snapshot.

use super::{
    progress::Progress,
    source_plan::{PlanError, SourcePlan},
};
use crate::{
    config::model::{Capture, CaptureTable, Postgres},
    postgres::{self, PostgresError, catalogue},
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use std::borrow::Cow;
use tokio_postgres::Client;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{0}")]
    Postgres(#[from] PostgresError),
    #[error("{0}")]
    Plan(#[from] PlanError),
    #[error("table {table}: {}; {}", postgres::chain(.source), advice(.source))]
    Read { table: String, source: tokio_postgres::Error },
    #[error("table {table}: PostgreSQL printed a row of {found} columns instead of {expected}; run verify again")]
    Columns { table: String, found: usize, expected: usize },
}

fn advice(error: &tokio_postgres::Error) -> &'static str {
    match postgres::is_row_security(error) {
        true => "its row-level security would hide rows: run ALTER ROLE … BYPASSRLS for postgres.user",
        false => "check the filter of the table, and that the role may SELECT from it",
    }
}

/// A table within a snapshot of its own.
pub struct Source {
    client: Client,
    pub plan: SourcePlan,
    /// When the snapshot was taken, by the server's clock.
    pub snapshot_us: i64,
    pub estimated_rows: u64,
}

impl Source {
    pub async fn open(config: &Postgres, capture: &Capture, table: &CaptureTable) -> Result<Source, SourceError> {
        let client = postgres::connect(config).await?;
        let query = |source| SourceError::Postgres(PostgresError::Query(source));
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(query)?;
        let clock = client
            .query_one(
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8, pg_current_snapshot()::text",
                &[],
            )
            .await
            .map_err(query)?;
        let found = catalogue::describe(&client, table.schema.as_deref(), &table.table).await?;
        let attributes = client
            .query(
                "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND atthasmissing",
                &[&found.oid],
            )
            .await
            .map_err(query)?;
        let has_missing: Vec<String> = attributes.iter().map(|row| row.get(0)).collect();
        let estimate = client
            .query_one(
                "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::int8 FROM pg_class c
                 WHERE c.oid = $1 OR c.oid IN (SELECT relid FROM pg_partition_tree($1))",
                &[&found.oid],
            )
            .await
            .map_err(query)?;
        let plan = SourcePlan::new(table, capture.timezone.as_deref(), &found, &has_missing)?;
        let estimated_rows = estimate.get::<_, i64>(0).max(0) as u64;
        Ok(Source { client, plan, snapshot_us: clock.get(0), estimated_rows })
    }

    /// Gives every row's cells to `take`, the transaction id first.
    pub async fn read<E: From<SourceError>>(
        &self,
        progress: &mut Progress,
        mut take: impl FnMut(&[Option<Cow<'_, str>>]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut rows = 0;
        self.copy(&self.plan.copy_statement(), |cells| {
            rows += 1;
            progress.row();
            take(cells)
        })
        .await?;
        Ok(rows)
    }

    /// Lets the snapshot go: an open transaction holds back vacuum, and the bound of capture's polls.
    pub async fn end_snapshot(&self) -> Result<(), SourceError> {
        self.client.batch_execute("COMMIT").await.map_err(|source| PostgresError::Query(source).into())
    }

    /// Runs a statement of the plan's own.
    pub async fn copy<E: From<SourceError>>(
        &self,
        statement: &str,
        mut take: impl FnMut(&[Option<Cow<'_, str>>]) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |source| SourceError::Read { table: self.plan.quoted.clone(), source };
        let expected = self.plan.columns.len() + 1;
        let stream = self.client.copy_out(statement).await.map_err(failed)?;
        let mut stream = std::pin::pin!(stream);
        let mut carried = Vec::new();
        while let Some(chunk) = stream.try_next().await.map_err(failed)? {
            each_line(&mut carried, chunk, |line| {
                let cells: Vec<Option<Cow<'_, str>>> = line.split(|byte| *byte == b'\t').map(cell).collect();
                if cells.len() != expected {
                    let (table, found) = (self.plan.quoted.clone(), cells.len());
                    return Err(SourceError::Columns { table, found, expected }.into());
                }
                take(&cells)
            })?;
        }
        Ok(())
    }
}

/// Splits into lines; what follows the last one is carried to the next chunk.
fn each_line<E>(carried: &mut Vec<u8>, chunk: Bytes, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut rest = &chunk[..];
    while let Some(end) = memchr::memchr(b'\n', rest) {
        if carried.is_empty() {
            take(&rest[..end])?;
        } else {
            carried.extend_from_slice(&rest[..end]);
            take(carried)?;
            carried.clear();
        }
        rest = &rest[end + 1..];
    }
    carried.extend_from_slice(rest);
    Ok(())
}

/// A cell of COPY's text format.
fn cell(raw: &[u8]) -> Option<Cow<'_, str>> {
    if raw == b"\\N" {
        return None;
    }
    if memchr::memchr(b'\\', raw).is_none() {
        return Some(String::from_utf8_lossy(raw));
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match (byte, if byte == b'\\' { bytes.next() } else { None }) {
            (_, Some(b'b')) => 0x08,
            (_, Some(b'f')) => 0x0c,
            (_, Some(b'n')) => b'\n',
            (_, Some(b'r')) => b'\r',
            (_, Some(b't')) => b'\t',
            (_, Some(b'v')) => 0x0b,
            (_, Some(&escaped)) => escaped,
            (byte, None) => byte,
        });
    }
    Some(Cow::Owned(String::from_utf8_lossy(&out).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_as_copy_writes_them() {
        assert_eq!(cell(b"\\N"), None);
        assert_eq!(cell(b"").as_deref(), Some(""));
        assert_eq!(cell(b"a\\tb\\nc\\\\N").as_deref(), Some("a\tb\nc\\N"));
        assert_eq!(cell(b"\\\\x00ff").as_deref(), Some("\\x00ff"));
    }

    #[test]
    fn lines_may_be_cut_anywhere() {
        let text = b"1\ta\n2\tbb\n\n3\tc\n";
        for cut in 0..text.len() {
            let mut lines = Vec::new();
            let mut carried = Vec::new();
            for chunk in [&text[..cut], &text[cut..]] {
                each_line(&mut carried, Bytes::copy_from_slice(chunk), |line| {
                    lines.push(line.to_vec());
                    Ok::<(), ()>(())
                })
                .unwrap();
            }
            assert_eq!(lines, [&b"1\ta"[..], b"2\tbb", b"", b"3\tc"]);
            assert!(carried.is_empty());
        }
    }
}
