//! The first load, and backlogs: what was there before the polls, in chunks that resume where they stopped.

use super::{
    Engine,
    checkpoint::{Backfill, Progress},
    errors::{Fault, TableError},
    load_progress::What,
    plan::KeyText,
    read::{Last, Mark, Order, ReadError, Reading},
    session::Opened,
    silence::Side,
    source::Source,
    sql::{self, Chunk},
    start::Turn,
};
use crate::metrics;
use roaring::RoaringTreemap;
use std::sync::Arc;

/// Fewer rows than this are read in no time wherever they can be read at all.
const LEAST_CHUNK_ROWS: u64 = 1_000;

struct ChunkMark {
    progress: Progress,
    source: Arc<Source>,
    rows: u64,
}

impl ChunkMark {
    /// What holds after the rows given so far. A backlog comes before what is left of a first load.
    fn at(&self, after: KeyText) -> Progress {
        let mut progress = self.progress.clone();
        if let Some(catch_up) = &mut progress.catch_up {
            catch_up.after = Some(after);
            catch_up.done_rows += self.rows;
        } else if let Backfill::Rows { after: position, done_rows } | Backfill::Nulls { after: position, done_rows } =
            &mut progress.backfill
        {
            *position = Some(after);
            *done_rows += self.rows;
        }
        progress
    }

    fn after(&self, last: &Last) -> Result<KeyText, TableError> {
        match (&self.progress.catch_up, &self.progress.backfill) {
            (Some(_), _) | (None, Backfill::Rows { .. }) => last.watermark_and_key(&self.source),
            _ => last.key(&self.source),
        }
    }

    /// What holds when a chunk was read to its end.
    fn finish(&self, last: Option<&Last>, is_last_chunk: bool) -> Result<Progress, TableError> {
        if let (Some(last), false) = (last, is_last_chunk) {
            return Ok(self.at(self.after(last)?));
        }
        if self.progress.catch_up.is_some() {
            return Ok(Progress { catch_up: None, ..self.progress.clone() });
        }
        let done_rows = self.progress.backfill.done_rows() + self.rows;
        let backfill = match self.progress.backfill {
            Backfill::Rows { .. } if self.source.watermark_column().nullable => {
                Backfill::Nulls { after: None, done_rows }
            }
            _ => Backfill::Done { done_rows },
        };
        Ok(Progress { backfill, ..self.progress.clone() })
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
        Ok(self.at(self.after(last)?))
    }
}

/// What is to be read next by watermark and key; `None` where it is rows without a watermark, or nothing.
fn next_chunk(progress: &Progress, latest: u64) -> Option<Chunk<'_>> {
    if let Some(catch_up) = &progress.catch_up {
        return Some(Chunk {
            from: Some(catch_up.from),
            to: catch_up.to,
            last: catch_up.after.as_deref(),
            given: Some((&catch_up.given, latest)),
        });
    }
    match &progress.backfill {
        Backfill::Rows { after, .. } => {
            Some(Chunk { from: None, to: progress.floor, last: after.as_deref(), given: None })
        }
        _ => None,
    }
}

impl Engine {
    /// Reads and publishes one chunk of a table, and goes on without waiting for its receipt.
    pub async fn load_chunk(&mut self, turn: &mut Turn, index: usize) -> Result<(), Fault> {
        let names = [self.tables[index].lock_name.clone()];
        let mut opened = turn.session.begin(&names, RoaringTreemap::new(), &[]).await?;
        turn.sink.sees(opened.log_end);
        let mut is_read = false;
        if let Some((_, error)) = opened.failed.pop() {
            metrics::CAPTURE_POLL_ERRORS.add(&[&self.pipeline.name, &self.tables[index].label], 1);
            self.tables[index].fail_load(&error);
        } else {
            match self.read_chunk(turn, index, &opened).await {
                Ok(()) => is_read = true,
                Err(error) => {
                    let error = self.sort_error(turn, index, error).await?;
                    self.tables[index].fail_load(&error);
                }
            }
        }
        turn.session.end().await?;
        turn.sink.commit().await?;
        // What has failed has not recovered before its rows are taken.
        let has_failed = self.tables[index].load_retry.is_some();
        self.settle(turn, is_read && has_failed).await?;
        if is_read {
            self.tables[index].recover_load();
        }
        Ok(())
    }

    async fn read_chunk(&mut self, turn: &mut Turn, index: usize, opened: &Opened) -> Result<(), ReadError> {
        self.look(turn, index, opened, opened.fingerprints.first().and_then(Option::as_ref)).await?;
        self.begin_progress(turn, index, opened.latest).await?;
        let capture = self.capture.clone();
        let shutdown = self.context.shutdown.clone();
        let table = &mut self.tables[index];
        let Some(known) = &mut table.known else { return Ok(()) };
        let source = known.source.clone();
        let most_rows = capture.chunk_rows.clamp(1, capture.max_transaction_rows.max(1));
        let rows = known.chunk_rows.unwrap_or(most_rows).min(most_rows);
        let text = match (next_chunk(&known.progress, opened.latest), &known.progress.backfill) {
            (Some(chunk), _) => chunk.text(&source, rows, capture.max_row_bytes),
            (None, Backfill::Nulls { after, .. }) => {
                sql::null_chunk(&source, after.as_deref(), rows, capture.max_row_bytes)
            }
            (None, _) => return Ok(()),
        };
        let stream = turn.session.copy(text);
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
            session: &turn.session,
            until: opened.until,
        };
        turn.sink.forget_cut(index);
        let read = reading.run(stream, &mut turn.sink, &mut mark).await;
        if let Some(progress) = turn.sink.take_cut(index, &read) {
            known.progress = progress;
        }
        let read = read?;
        metrics::CAPTURE_SCANNED.add(&[&self.pipeline.name, &table.label], read.rows);
        if read.is_cut_short {
            // What was read in the time of a snapshot is what the next one is asked for.
            known.chunk_rows = Some(read.rows.clamp(LEAST_CHUNK_ROWS.min(most_rows), most_rows));
            return Ok(());
        }
        if let Some(last) = &read.last {
            known.witness.note(last.captured(&source, opened.snapshot.xmin)?);
        }
        known.chunk_rows = Some(rows.saturating_add(rows / 4 + 1));
        let newest_us = known.progress.newest_us.max(read.newest_us);
        known.progress = mark.finish(read.last.as_ref(), read.rows < rows)?;
        known.progress.newest_us = newest_us;
        self.mark(turn, index).await.map_err(ReadError::Fault)??;
        Ok(())
    }

    /// Estimates once what there is to read.
    async fn begin_progress(&mut self, turn: &Turn, index: usize, latest: u64) -> Result<(), ReadError> {
        let draw = self.context.progress_bar;
        let table = &mut self.tables[index];
        let Some(known) = &table.known else { return Ok(()) };
        if table.load.is_begun() {
            return Ok(());
        }
        let what = if known.progress.catch_up.is_some() { What::Backlog } else { What::FirstLoad };
        let left = match next_chunk(&known.progress, latest) {
            Some(chunk) => {
                let text = chunk.estimate(&known.source);
                let _waiting = turn.session.pulse.waiting(Side::Postgres);
                let row = turn.session.client.query_one(&text, &[]).await.map_err(ReadError::Server)?;
                let plan: Json = row.try_get(0).map_err(ReadError::Server)?;
                plan.0.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_u64).unwrap_or(0)
            }
            None => 0,
        };
        table.load.begin(what, &table.label, known.progress.loaded_rows(), left, draw);
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
