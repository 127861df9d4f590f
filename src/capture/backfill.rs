//! The first load: what was there before the first poll, in chunks that resume where they stopped.

use super::{
    Engine,
    checkpoint::{Backfill, Progress},
    errors::{Fault, TableError},
    plan::KeyText,
    read::{Last, Mark, Order, ReadError, Reading},
    session::Opened,
    silence::Side,
    source::Source,
    sql,
    start::Turn,
};
use crate::metrics;
use roaring::RoaringTreemap;
use std::sync::Arc;

struct ChunkMark {
    progress: Progress,
    source: Arc<Source>,
    rows: u64,
}

impl ChunkMark {
    /// The first load after the rows given so far.
    fn position(&self, after: Option<KeyText>) -> Backfill {
        let done_rows = self.progress.backfill.done_rows() + self.rows;
        match &self.progress.backfill {
            Backfill::Rows { .. } => Backfill::Rows { after, done_rows },
            Backfill::Nulls { .. } => Backfill::Nulls { after, done_rows },
            Backfill::Done { .. } => Backfill::Done { done_rows },
        }
    }

    fn after(&self, last: &Last) -> Result<KeyText, TableError> {
        match self.progress.backfill {
            Backfill::Rows { .. } => last.watermark_and_key(&self.source),
            _ => last.key(&self.source),
        }
    }

    /// The first load when a chunk was read to its end.
    fn finish(&self, last: Option<&Last>, is_last_chunk: bool) -> Result<Backfill, TableError> {
        if let (Some(last), false) = (last, is_last_chunk) {
            return Ok(self.position(Some(self.after(last)?)));
        }
        Ok(match self.position(None) {
            Backfill::Rows { done_rows, .. } if self.source.watermark_column().nullable => {
                Backfill::Nulls { after: None, done_rows }
            }
            other => Backfill::Done { done_rows: other.done_rows() },
        })
    }
}

impl Mark for ChunkMark {
    fn order(&self) -> Order {
        Order::Watermark
    }

    fn give(&mut self, _: u64) {
        self.rows += 1;
    }

    fn cut(&self, last: &Last, _: Option<u64>) -> Result<Progress, TableError> {
        Ok(Progress { backfill: self.position(Some(self.after(last)?)), ..self.progress.clone() })
    }
}

impl Engine {
    /// Reads and publishes one chunk of a table, and goes on without waiting for its receipt.
    pub async fn load_chunk(&mut self, turn: &mut Turn, index: usize) -> Result<(), Fault> {
        let names = [self.tables[index].lock_name.clone()];
        let mut opened = turn.session.begin(&names, RoaringTreemap::new()).await?;
        if let Some((_, error)) = opened.failed.pop() {
            metrics::CAPTURE_POLL_ERRORS.add(&[&self.pipeline.name, &self.tables[index].label], 1);
            self.tables[index].fail(&error);
        } else if let Err(error) = self.read_chunk(turn, index, &opened).await {
            self.fail_table(turn, index, error).await?;
        }
        turn.session.end().await?;
        turn.sink.commit().await?;
        self.settle(turn, false).await
    }

    async fn read_chunk(&mut self, turn: &mut Turn, index: usize, opened: &Opened) -> Result<(), ReadError> {
        self.look(turn, index, opened, opened.fingerprints.first().and_then(Option::as_ref)).await?;
        self.begin_progress(turn, index).await?;
        let capture = self.capture.clone();
        let shutdown = self.context.shutdown.clone();
        let table = &mut self.tables[index];
        let Some(known) = &mut table.known else { return Ok(()) };
        let source = known.source.clone();
        let rows = capture.chunk_rows.clamp(1, capture.max_transaction_rows.max(1));
        let text = match &known.progress.backfill {
            Backfill::Rows { after, .. } => {
                sql::chunk(&source, known.progress.floor, after.as_deref(), rows, capture.max_row_bytes)
            }
            Backfill::Nulls { after, .. } => sql::null_chunk(&source, after.as_deref(), rows, capture.max_row_bytes),
            Backfill::Done { .. } => return Ok(()),
        };
        let stream = turn.session.copy(&text).await.map_err(ReadError::Server)?;
        let mut mark = ChunkMark { progress: known.progress.clone(), source: source.clone(), rows: 0 };
        let reading = Reading {
            table: index,
            source: &source,
            zone: &mut known.zone,
            checkpoint_key: &known.checkpoint_key,
            name: &known.name,
            poll_time_us: opened.observation.clock_us,
            latest: opened.latest,
            max_row_bytes: capture.max_row_bytes,
            is_silent: false,
            tally: &mut known.tally,
            shutdown,
        };
        turn.sink.forget_cut(index);
        let read = reading.run(stream, &mut turn.sink, &mut mark).await;
        if let Some(progress) = turn.sink.take_cut(index, &read) {
            known.progress = progress;
        }
        let read = read?;
        metrics::CAPTURE_SCANNED.add(&[&self.pipeline.name, &table.label], read.rows);
        if read.is_cut_short {
            return Ok(());
        }
        if let Some(last) = &read.last {
            known.witness.note(last.captured(&source, opened.snapshot.xmin)?);
        }
        known.progress.backfill = mark.finish(read.last.as_ref(), read.rows < rows)?;
        known.progress.newest_us = known.progress.newest_us.max(read.newest_us);
        self.mark(turn, index).await.map_err(ReadError::Fault)??;
        Ok(())
    }

    /// Estimates once what there is to read.
    async fn begin_progress(&mut self, turn: &Turn, index: usize) -> Result<(), ReadError> {
        let draw = self.context.progress_bar;
        let table = &mut self.tables[index];
        let Some(known) = &table.known else { return Ok(()) };
        if table.load.is_begun() {
            return Ok(());
        }
        let after = match &known.progress.backfill {
            Backfill::Rows { after, .. } => after.as_deref(),
            _ => None,
        };
        let text = sql::estimate(&known.source, known.progress.floor, after);
        let _waiting = turn.session.pulse.waiting(Side::Postgres);
        let row = turn.session.client.query_one(&text, &[]).await.map_err(ReadError::Server)?;
        let plan: Json = row.try_get(0).map_err(ReadError::Server)?;
        let left = plan.0.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_u64).unwrap_or(0);
        table.load.begin(&table.label, known.progress.backfill.done_rows(), left, draw);
        Ok(())
    }
}

/// A `json` column, which the client library hands over as bytes.
struct Json(serde_json::Value);

impl<'a> tokio_postgres::types::FromSql<'a> for Json {
    fn from_sql(
        _: &tokio_postgres::types::Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Json(serde_json::from_slice(raw)?))
    }

    fn accepts(kind: &tokio_postgres::types::Type) -> bool {
        *kind == tokio_postgres::types::Type::JSON
    }
}
