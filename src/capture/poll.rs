//! A poll: all tables of the database in one snapshot.

use super::{
    Engine,
    checkpoint::Progress,
    errors::{Fault, SessionError, TableError},
    plan::{Noted, Poll, Polled, runs},
    read::{Last, Mark, Order, ReadError, Reading},
    session::Opened,
    source::Source,
    sql,
    start::Turn,
    table::{self, Standing},
};
use crate::{clock::now_us, metrics};
use roaring::RoaringTreemap;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Above this, asking which ids have ended pays: the set of seen ids in the question grows long.
const MOST_RUNS: usize = 256;
const MOST_OPEN_IDS: u64 = 20_000;
/// A prepared transaction that is older holds the bound back noticeably.
const OLD_PREPARED_US: i64 = 300_000_000;
/// Between two checkpoints of a table that has no rows to publish.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(30);

struct PollMark {
    poll: Poll,
    progress: Progress,
    source: Arc<Source>,
}

impl Mark for PollMark {
    fn order(&self) -> Order {
        Order::Ids
    }

    fn give(&mut self, xid: u64) {
        self.poll.give(xid);
    }

    fn cut(&self, last: &Last, next: Option<u64>) -> Result<Progress, TableError> {
        let last_key = last.key(&self.source)?;
        Ok(Progress { polled: self.poll.cut(next, &last_key), ..self.progress.clone() })
    }
}

impl Engine {
    /// Polls all tables that are due, one snapshot for all of them. True when more is there than was read, so that the
    /// next poll should follow at once. A table that has failed is polled by itself, behind the others: what befalls it
    /// takes back nothing of theirs.
    pub async fn poll(&mut self, turn: &mut Turn) -> Result<bool, Fault> {
        let due = (0..self.tables.len()).filter(|index| self.tables[*index].is_due());
        let (sound, failed): (Vec<usize>, Vec<usize>) =
            due.partition(|index| self.tables[*index].standing == Standing::Active);
        let (together, alone) = match self.is_one_by_one {
            true => (Vec::new(), [sound, failed].concat()),
            false => (sound, failed),
        };
        let mut is_more = self.poll_tables(turn, together).await?;
        for index in alone {
            is_more |= self.poll_tables(turn, vec![index]).await?;
        }
        Ok(is_more)
    }

    async fn poll_tables(&mut self, turn: &mut Turn, mut due: Vec<usize>) -> Result<bool, Fault> {
        let begun = Instant::now();
        if due.is_empty() {
            return Ok(false);
        }
        // Those come first that the last snapshot had no time for.
        let first = due.iter().position(|index| *index >= self.next_to_poll).unwrap_or(0);
        due.rotate_left(first);
        let ended = self.ended(turn, &due).await?;
        let names: Vec<String> = due.iter().map(|index| self.tables[*index].lock_name.clone()).collect();
        let noted = due.iter().filter_map(|index| self.tables[*index].known.as_ref()?.noted.as_ref());
        let noted: Vec<i32> = noted.flat_map(Noted::pids).collect();
        let mut opened = turn.session.begin(&names, ended, &noted).await?;
        turn.sink.sees(opened.log_end);
        for (position, error) in std::mem::take(&mut opened.failed) {
            metrics::CAPTURE_POLL_ERRORS.add(&[&self.pipeline.name, &self.tables[due[position]].label], 1);
            self.tables[due[position]].fail(&error);
            opened.fingerprints[position] = None;
        }
        let mut is_more = false;
        let mut polled = Vec::new();
        for (position, index) in due.into_iter().enumerate() {
            if position > 0 && opened.until <= Instant::now() {
                self.next_to_poll = index;
                is_more = true;
                break;
            }
            let Some(fingerprint) = opened.fingerprints[position].clone() else { continue };
            match self.poll_table(turn, index, &opened, &fingerprint).await {
                Ok(is_whole) => {
                    is_more |= !is_whole;
                    polled.push((index, is_whole));
                }
                Err(error) => self.fail_table(turn, index, error).await?,
            }
            if self.context.is_shutdown() {
                break;
            }
        }
        turn.session.end().await?;
        self.write_idle_checkpoints(turn, IDLE_CHECKPOINT).await?;
        turn.sink.commit().await?;
        self.settle(turn, true).await?;
        let now_us = now_us();
        for (index, is_whole) in polled {
            let table = &mut self.tables[index];
            table.recover();
            let Some(known) = &mut table.known else { continue };
            let is_loaded = known.progress.is_loaded();
            known.is_caught_up = is_whole && is_loaded;
            if is_loaded {
                table.recover_load();
            }
            if let Some(state) = table.state(&self.capture) {
                table.unit.set(state);
            }
            table.report(now_us);
        }
        metrics::CAPTURE_POLL_SECONDS.observe(&[&self.pipeline.name], begun.elapsed().as_secs_f64());
        self.warn_prepared(&opened);
        Ok(is_more)
    }

    /// Ids that have ended, where the sets of seen ids have become long.
    async fn ended(&self, turn: &Turn, due: &[usize]) -> Result<RoaringTreemap, SessionError> {
        let limit = turn.session.latest;
        let mut asked = RoaringTreemap::new();
        for index in due {
            let Some(known) = &self.tables[*index].known else { continue };
            let polled: &Polled = &known.progress.polled;
            let open = limit.saturating_sub(polled.snapshot.xmin);
            if polled.snapshot.xmin > 0 && (open > MOST_OPEN_IDS || runs(&polled.seen).len() > MOST_RUNS) {
                asked |= polled.unknown_ids(limit);
            }
        }
        if asked.is_empty() { Ok(asked) } else { turn.session.ended(&asked).await }
    }

    /// Polls one table. True where all that is visible has been read.
    async fn poll_table(
        &mut self,
        turn: &mut Turn,
        index: usize,
        opened: &Opened,
        fingerprint: &String,
    ) -> Result<bool, ReadError> {
        self.look(turn, index, opened, Some(fingerprint)).await?;
        let capture = self.capture.clone();
        let shutdown = self.context.shutdown.clone();
        let table = &mut self.tables[index];
        let Some(known) = &mut table.known else { return Ok(true) };
        let source = known.source.clone();
        let margins = table::margins(&capture, &source);
        let base = &known.progress.polled;
        let poll = Poll::new(base, &opened.observation, &opened.snapshot, margins);
        if base.has_nothing_new_at(&opened.snapshot) {
            known.complete(poll, &opened.observation);
            return Ok(true);
        }
        let noted = known.noted.as_ref();
        let from_us = base.question_us(noted, &opened.observation, &opened.proven, &opened.snapshot, margins);
        let raw = |from_us| sql::raw_bound(source.watermark_type, &known.zone, from_us, opened.observation.clock_us);
        let mut lower = known.progress.lower(raw(from_us));
        let settled = raw(poll.bound_us());
        if known.is_behind && known.progress.catch_up.is_none() && !known.is_silent && lower < settled {
            // What is settled is read in chunks; the poll has only what may still change.
            known.progress.begin_catch_up(lower, settled);
            known.is_unwritten = true;
            table.load.forget();
            lower = settled;
        }
        known.is_behind = true;
        let rows = if known.is_silent { i64::MAX as u64 } else { capture.chunk_rows };
        let text =
            sql::poll(&source, &known.progress.polled.given(), lower, opened.latest, rows, capture.max_row_bytes);
        let stream = turn.session.copy(text);
        let mut mark = PollMark { poll, progress: known.progress.clone(), source: source.clone() };
        let reading = Reading {
            table: index,
            source: &source,
            zone: &mut known.zone,
            checkpoint_key: &known.checkpoint_key,
            name: &known.name,
            poll_time_us: opened.observation.clock_us,
            latest: opened.latest,
            max_row_bytes: capture.max_row_bytes,
            is_silent: known.is_silent,
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
            return Ok(false);
        }
        known.progress.newest_us = known.progress.newest_us.max(read.newest_us);
        if let (Some(last), false) = (&read.last, known.is_silent) {
            known.witness.note(last.captured(&source, opened.snapshot.xmin)?);
        }
        if let Some(last) = read.last.as_ref().filter(|_| read.rows >= rows) {
            known.progress.polled = mark.cut(last, None)?.polled;
            self.mark(turn, index).await.map_err(ReadError::Fault)??;
            return Ok(false);
        }
        known.complete(mark.poll, &opened.observation);
        let must_write = known.is_unwritten || read.rows > 0;
        known.is_silent = false;
        known.is_behind = false;
        if must_write {
            self.mark(turn, index).await.map_err(ReadError::Fault)??;
        }
        Ok(true)
    }

    /// Warns once of each prepared transaction that keeps the bound far back.
    fn warn_prepared(&mut self, opened: &Opened) {
        for transaction in &opened.observation.prepared {
            let age_us = opened.observation.clock_us - transaction.prepared_us;
            if age_us > OLD_PREPARED_US && self.warned.insert(transaction.name.clone()) {
                let gid = transaction.name.split_once(':').map_or("", |(_, gid)| gid);
                tracing::warn!(
                    name = gid,
                    "prepared transaction {gid:?} is {} minutes old and keeps polls reading from before its begin: COMMIT PREPARED or ROLLBACK PREPARED it",
                    age_us / 60_000_000
                );
            }
        }
    }
}
