//! One turn: polls, and chunks of first loads between them, until something goes wrong or the end.

use super::{
    Engine, FIRST_BACKOFF_MS,
    checkpoint::{Backfill, Progress},
    errors::{Fault, TableError},
    plan::Snapshot,
    publish::TABLE_HEADER,
    read::{ReadError, encode_checkpoint},
    search::Tally,
    session::Opened,
    silence::{Side, Watch},
    sink::Committed,
    start::{self, Turn, blocking, checkpoint_key},
    table::{self, Beginning, Known, Standing},
    timestamp_file,
    value::instant_text,
    witness::{self, Refusal, Verdict, Witness},
};
use crate::{
    clock::now_us,
    health::State,
    kafka::{
        producer::ProducerError,
        replay::{self, Held},
    },
    metrics,
    record::reason::ROW_TOO_LARGE,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Between two records of the rows that were captured last.
const WITNESS: Duration = Duration::from_secs(10);
/// What came in a shorter time is one poll.
const LONG_AWAY_US: i64 = 10_000_000;
/// Longest wait for a look into a topic, with the snapshot in hand.
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// Between two questions for the ids of topics.
const BETWEEN_TOPICS: Duration = Duration::from_secs(10);

pub enum TurnEnd {
    /// Shutdown, caught up, or every table stands still.
    Done,
}

impl Engine {
    pub async fn turn(&mut self, backoff_ms: &mut u64) -> Result<TurnEnd, Fault> {
        let mut turn = self.start().await?;
        let watch = Watch {
            pulse: turn.session.pulse.clone(),
            pipeline: self.pipeline.clone(),
            backend: turn.session.backend,
            side: turn.session.side.clone(),
            units: self.tables.iter().map(|table| table.unit.clone()).collect(),
        };
        let result = tokio::select! {
            result = self.work(&mut turn, backoff_ms) => result,
            error = watch.dead() => Err(error.into()),
        };
        turn.sink.stop().await;
        result
    }

    async fn work(&mut self, turn: &mut Turn, backoff_ms: &mut u64) -> Result<TurnEnd, Fault> {
        let interval = Duration::from_millis(self.capture.poll_interval_ms.max(1));
        let mut next_poll = Instant::now();
        let mut next_to_load = 0;
        loop {
            self.tables.iter().for_each(|table| table.unit.rests_for(Duration::ZERO));
            if next_poll <= Instant::now() {
                let begun = Instant::now();
                let was_full = self.poll(turn).await?;
                *backoff_ms = FIRST_BACKOFF_MS;
                next_poll = if was_full { begun } else { begun + interval };
                if self.is_done() {
                    return self.end(turn).await;
                }
            }
            if self.context.is_shutdown() {
                return self.end(turn).await;
            }
            self.search(turn).await;
            self.look_at_topics(turn).await?;
            let count = self.tables.len();
            match (0..count).map(|step| (next_to_load + step) % count).find(|index| self.tables[*index].is_loading()) {
                Some(index) => {
                    next_to_load = index + 1;
                    self.load_chunk(turn, index).await?;
                    if !self.tables[index].is_loading() {
                        // What came meanwhile has waited for long enough.
                        next_poll = Instant::now();
                    }
                }
                None => {
                    let left = next_poll.saturating_duration_since(Instant::now());
                    self.tables.iter().for_each(|table| table.unit.rests_for(left));
                    self.context.pause(left.as_millis().max(1) as u64).await;
                }
            }
        }
    }

    /// Whether the topics are still the same: a broker may make one anew, when the producer asks for it, without a word.
    async fn look_at_topics(&mut self, turn: &mut Turn) -> Result<(), Fault> {
        if let Some(asked) = turn.topics_asked.take_if(|asked| asked.is_finished()) {
            turn.topics_asked_at = Instant::now();
            let Ok(Ok(found)) = asked.await else { return Ok(()) };
            for table in &self.tables {
                let topic = &table.configured.topic;
                let (Some(id), Some(known)) = (found.get(topic), &table.known) else { continue };
                if let Some(reason) = known.progress.is_elsewhere(topic, id) {
                    // The next turn finds it in the checkpoint, and refuses that table.
                    return Err(ProducerError::Failed { action: "publishing", reason }.into());
                }
            }
        } else if turn.topics_asked.is_none() && turn.topics_asked_at.elapsed() > BETWEEN_TOPICS {
            turn.topics_asked = Some(start::topic_ids(&self.pipeline.kafka, &self.capture));
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        if self.tables.iter().all(|table| matches!(table.standing, Standing::Stopped { .. })) {
            return true;
        }
        let is_settled = |table: &table::TableRun| {
            table.given_up().is_some()
                || table.standing == Standing::Active && table.known.as_ref().is_some_and(|known| known.is_caught_up)
        };
        self.context.until_caught_up && self.tables.iter().all(is_settled)
    }

    /// The last checkpoints, and the receipts of all that is under way.
    async fn end(&mut self, turn: &mut Turn) -> Result<TurnEnd, Fault> {
        self.write_idle_checkpoints(turn, Duration::ZERO).await?;
        turn.sink.commit().await?;
        self.settle(turn, true).await?;
        Ok(TurnEnd::Done)
    }

    /// Writes the checkpoints of tables that have moved without rows to publish.
    pub async fn write_idle_checkpoints(&mut self, turn: &mut Turn, after: Duration) -> Result<(), Fault> {
        for index in 0..self.tables.len() {
            // Rows of a read that was cut short without a checkpoint are taken back.
            if turn.sink.unmarked_rows(index) > 0 {
                continue;
            }
            let Some(known) = &mut self.tables[index].known else { continue };
            if let Some(record) = known.witness.due(after.min(WITNESS)) {
                turn.sink.record(index, &known.witness.key, record).await?;
            }
            let has_moved = known.written != known.progress.polled.snapshot && known.written_at.elapsed() >= after;
            if !has_moved && !known.is_unwritten {
                continue;
            }
            // A first poll that was cut short has nothing to say yet.
            if known.is_silent {
                continue;
            }
            if let Err(error) = self.mark(turn, index).await? {
                self.tables[index].fail(&error);
            }
        }
        Ok(())
    }

    /// Puts a table's progress into the open transaction.
    pub async fn mark(&mut self, turn: &mut Turn, index: usize) -> Result<Result<(), TableError>, Fault> {
        let Some(known) = &mut self.tables[index].known else { return Ok(Ok(())) };
        let records = match encode_checkpoint(&known.source, &known.checkpoint_key, &known.progress) {
            Ok(records) => records,
            Err(error) => return Ok(Err(error)),
        };
        turn.sink.checkpoint(index, known.progress.clone(), records).await?;
        known.written = known.progress.polled.snapshot.clone();
        known.written_at = Instant::now();
        known.is_unwritten = false;
        Ok(Ok(()))
    }

    /// Takes note of committed transactions.
    pub async fn settle(&mut self, turn: &mut Turn, all: bool) -> Result<(), Fault> {
        loop {
            match turn.sink.settle(all).await {
                Ok(Some(committed)) => self.note(committed),
                Ok(None) => return Ok(()),
                Err(error) => {
                    let outcome = match &error {
                        ProducerError::UnknownOutcome { .. } => "unknown",
                        _ => "aborted",
                    };
                    metrics::CAPTURE_TRANSACTIONS.add(&[&self.pipeline.name, outcome], 1);
                    return Err(error.into());
                }
            }
        }
    }

    fn note(&mut self, committed: Committed) {
        let pipeline = self.pipeline.name.as_str();
        metrics::CAPTURE_TRANSACTIONS.add(&[pipeline, "committed"], 1);
        metrics::CAPTURE_TRANSACTION_SECONDS.observe(&[pipeline], committed.open.as_secs_f64());
        let now_us = now_us();
        for share in committed.shares {
            let table = &mut self.tables[share.table];
            let labels = [pipeline, table.label.as_str()];
            table.last_commit_us = Some(now_us);
            table.rows += share.rows;
            table.unit.rows(share.rows);
            table.unit.committed(now_us / 1_000, share.dead_letters, share.letters);
            self.summary.rows += share.rows;
            self.summary.bytes += share.bytes;
            metrics::CAPTURE_ROWS.add(&labels, share.rows);
            metrics::CAPTURE_BYTES.add(&labels, share.bytes);
            if share.dead_letters > 0 {
                metrics::CAPTURE_DEAD_LETTERS.add(&[pipeline, &table.label, ROW_TOO_LARGE], share.dead_letters);
                *self.summary.dead_letters.entry(ROW_TOO_LARGE.to_owned()).or_default() += share.dead_letters;
            }
            let Some(progress) = share.progress else { continue };
            // What was asked for once at the start has happened.
            table.beginning = Beginning::FromScratch;
            metrics::CAPTURE_SEEN_IDS.set(&labels, progress.polled.seen.len() as f64);
            if share.rows > 0
                && let Some(newest_us) = progress.newest_us
            {
                let delay_seconds = (now_us - newest_us) as f64 / 1e6;
                metrics::CAPTURE_DELAY.set(&labels, delay_seconds);
                table.unit.delay(delay_seconds);
                if let Some(path) = &table.timestamp_file
                    && let Err(error) = timestamp_file::write(path, &instant_text(newest_us))
                {
                    tracing::warn!(
                        table = table.label,
                        "the last processed timestamp cannot be written to {}: {error}",
                        path.display()
                    );
                }
            }
            if table.load.is_begun() {
                let done_rows = progress.loaded_rows();
                if progress.is_loaded() {
                    table.load.finish(&table.label, done_rows);
                    metrics::CAPTURE_BACKFILL_ROWS.set(&labels, 0.0);
                } else {
                    table.load.advance(&table.label, done_rows);
                    if let Some(left) = table.load.remaining(done_rows) {
                        let left = left.total_rows.saturating_sub(done_rows);
                        metrics::CAPTURE_BACKFILL_ROWS.set(&labels, left as f64);
                    }
                }
            }
            if !progress.is_loaded() && table.standing == Standing::Active && table.load_retry.is_none() {
                table.unit.set(State::Progressing);
            }
            table.report(now_us);
        }
    }

    /// Makes sure that a table is known as it is in this transaction.
    pub async fn look(
        &mut self,
        turn: &mut Turn,
        index: usize,
        opened: &Opened,
        fingerprint: Option<&String>,
    ) -> Result<(), ReadError> {
        let table = &self.tables[index];
        let Some(fingerprint) = fingerprint else {
            return Err(TableError::NoTable { table: table.lock_name.clone() }.into());
        };
        if table.known.as_ref().is_some_and(|known| known.fingerprint == *fingerprint) {
            return Ok(());
        }
        let waiting = turn.session.pulse.waiting(Side::Postgres);
        let (source, zone) = table.describe(&turn.session, &self.capture).await?;
        drop(waiting);
        if !source.unique {
            tracing::warn!(
                table = self.tables[index].label,
                "table {}: the key ({}) is not the primary key or can be null: rows with the same key are versions of one row to those who read the topic",
                source.quoted,
                source.key_names().join(", ")
            );
        }
        let source = Arc::new(source);
        let identity = turn.session.identity.clone();
        let (topic, beginning) = (table.configured.topic.clone(), table.beginning);
        let topic_id = turn.topic_ids.get(&topic).cloned();
        let misfit = |progress: &Progress| {
            let misfit = progress.misfit(&identity, &source, opened.latest);
            misfit.or_else(|| progress.is_elsewhere(&topic, topic_id.as_deref()?))
        };
        let cannot_resume = |reason| TableError::CannotResume { table: source.quoted.clone(), reason };
        if let Some(known) = &mut self.tables[index].known {
            if let Some(reason) = misfit(&known.progress) {
                return Err(cannot_resume(reason).into());
            }
            tracing::info!(table = source.name, "the table has changed");
            known.progress.key = source.key_names();
            known.fingerprint = fingerprint.clone();
            known.witness.fit(&source);
            known.source = source;
            known.zone = zone;
            return Ok(());
        }
        let key = checkpoint_key(&self.pipeline.name, &source.name, &topic);
        let witness_key: Arc<str> = witness::record_key(&key).into();
        let mut kept = turn.checkpoints.get(&*witness_key).map(|bytes| Witness::decode(bytes)).unwrap_or_default();
        let before = kept.clone();
        kept.fit(&source);
        let read = Progress::read(&turn.checkpoints, &key).map_err(|error| error.to_string());
        let stored = match (read, beginning) {
            (Ok(None), _) | (_, Beginning::Again) => None,
            (read, beginning) => {
                let fitting = match read {
                    Err(reason) => Err(reason),
                    Ok(progress) => match progress.as_ref().and_then(misfit) {
                        None => {
                            let examined = witness::examine(&turn.session.client, &source, &kept, opened.latest).await;
                            let verdict = match examined {
                                Err(error) if witness::tells_nothing(&error) => {
                                    tracing::debug!("rows that were captured last cannot be looked up: {error}");
                                    turn.session.undo().await.map_err(|error| ReadError::Fault(error.into()))?;
                                    kept.forget();
                                    Verdict::Unknown
                                }
                                examined => examined.map_err(ReadError::Server)?,
                            };
                            kept.accept(verdict).map(|()| progress)
                        }
                        Some(reason) => {
                            if progress.is_some_and(|progress| progress.is_ahead_of(&identity, opened.latest)) {
                                kept.refusal = Some(Refusal { reason: reason.clone(), from: opened.latest });
                            }
                            Err(reason)
                        }
                    },
                };
                if kept.refusal.is_some() && kept.refusal != before.refusal {
                    let recorded = turn.sink.record(index, &witness_key, kept.encode()).await;
                    recorded.map_err(|error| ReadError::Fault(error.into()))?;
                }
                match fitting {
                    Ok(progress) => progress,
                    Err(_) if beginning == Beginning::Now => None,
                    Err(reason) => return Err(cannot_resume(reason).into()),
                }
            }
        };
        let is_new = stored.is_none();
        if is_new && beginning == Beginning::FromScratch {
            self.refuse_published(index, &topic, &source.name, &cannot_resume).await?;
        }
        let margins = table::margins(&self.capture, &source);
        let going_on = |mut progress: Progress| {
            progress.key = source.key_names();
            progress.polled.widen(margins);
            progress
        };
        let progress = stored.map(going_on).unwrap_or_else(|| {
            let backfill = match beginning {
                Beginning::Now => Backfill::Done { done_rows: 0 },
                _ => Backfill::Rows { after: None, done_rows: 0 },
            };
            table::beginning(&source, &zone, &turn.session.identity, &opened.observation, margins, backfill)
        });
        let topic_id = topic_id.or_else(|| progress.topic_id.clone());
        let is_unwritten = is_new || topic_id != progress.topic_id;
        let progress = Progress { topic_id, ..progress };
        let (bound, done_rows) = (instant_text(progress.polled.bound_us), progress.loaded_rows());
        // An outage is read in chunks.
        let is_behind = !is_new && opened.observation.clock_us - progress.polled.raw_bound_us > LONG_AWAY_US;
        let label = self.tables[index].label.as_str();
        match is_new {
            true => tracing::info!(table = label, topic, bound, "no checkpoint: beginning"),
            false => tracing::info!(table = label, topic, bound, done_rows, "going on from the checkpoint"),
        }
        let is_silent = is_new && beginning == Beginning::Now;
        self.tables[index].known = Some(Known {
            fingerprint: fingerprint.clone(),
            name: source.name.as_str().into(),
            source,
            zone,
            checkpoint_key: key.into(),
            written: if is_new { Snapshot::default() } else { progress.polled.snapshot.clone() },
            progress,
            is_silent,
            is_unwritten,
            written_at: Instant::now(),
            is_caught_up: false,
            witness: witness::Record::new(
                witness_key,
                if is_new { Witness::default() } else { kept.clone() },
                if is_new { before == Witness::default() } else { kept == before },
            ),
            tally: Tally::default(),
            search: None,
            noted: None,
            is_behind,
            chunk_rows: None,
        });
        Ok(())
    }

    /// Without a checkpoint, rows that are in the topic already would be published again. The looking takes as long
    /// as somebody else's transaction stays open there; other tables do not wait for it.
    async fn refuse_published(
        &mut self,
        index: usize,
        topic: &str,
        name: &str,
        refusal: impl Fn(String) -> TableError,
    ) -> Result<(), ReadError> {
        let looking = self.tables[index].looking.get_or_insert_with(|| {
            let (kafka, of, name) = (self.pipeline.kafka.clone(), topic.to_owned(), name.to_owned());
            tokio::spawn(blocking(move || replay::holds(&kafka, &of, TABLE_HEADER, &name)))
        });
        let Ok(holds) = tokio::time::timeout(LONGEST_LOOK, &mut *looking).await else {
            return Err(ReadError::Pending(format!(
                "topic {topic} is read to see whether it holds rows of {name} already; a transaction of another producer that is open there is waited for"
            )));
        };
        self.tables[index].looking = None;
        match holds.unwrap_or(Err(ProducerError::Gone)) {
            Ok(Held::Nothing) => Ok(()),
            Ok(Held::Foreign(count)) => {
                let reason = format!(
                    "topic {topic} holds {count} messages of others and more, so that it was not looked through for rows of it, and topic {checkpoints} has no checkpoint",
                    checkpoints = self.capture.checkpoint_topic
                );
                Err(refusal(reason).into())
            }
            Ok(Held::Ours) => {
                let checkpoints = &self.capture.checkpoint_topic;
                let reason =
                    format!("topic {topic} holds rows of it already, and topic {checkpoints} has no checkpoint");
                Err(refusal(reason).into())
            }
            Err(ProducerError::Forbidden { operations, .. }) => Err(ReadError::Table(TableError::Topic {
                table: name.to_owned(),
                topic: topic.to_owned(),
                reason: format!(
                    "may not be read by the Kafka user, to see whether it holds rows already; grant it {operations}"
                ),
            })),
            // Such as a damaged batch, or a partition without a leader: other tables go on.
            Err(error @ (ProducerError::Timeout { .. } | ProducerError::Failed { .. })) => {
                Err(ReadError::Table(TableError::Topic {
                    table: name.to_owned(),
                    topic: topic.to_owned(),
                    reason: format!("cannot be read, to see whether it holds rows already: {error}"),
                }))
            }
            Err(error) => Err(ReadError::Fault(error.into())),
        }
    }

    pub async fn fail_table(&mut self, turn: &Turn, index: usize, error: ReadError) -> Result<(), Fault> {
        if let ReadError::Pending(reason) = error {
            self.tables[index].unit.set(State::Waiting(reason));
            return Ok(());
        }
        let error = self.sort_error(turn, index, error).await?;
        self.tables[index].fail(&error);
        Ok(())
    }

    /// Sorts what ended the reading of a table: the table's own trouble is given back, and the transaction goes on
    /// behind its savepoint; rows without a checkpoint mean that the turn must end.
    pub async fn sort_error(&mut self, turn: &Turn, index: usize, error: ReadError) -> Result<TableError, Fault> {
        let error = match error {
            ReadError::Fault(fault) => return Err(fault),
            ReadError::Server(error) if error.is_closed() || turn.session.client.is_closed() => {
                return Err(Fault::Session(super::errors::SessionError::query(error)));
            }
            ReadError::Server(error) => {
                let timeout_ms = self.capture.lock_timeout_ms;
                TableError::query(&self.tables[index].lock_name, &turn.session.user, timeout_ms, error)
            }
            ReadError::Table(error) => error,
            // Only of a table that is new, of which no chunk is read.
            ReadError::Pending(reason) => {
                let table = &self.tables[index];
                TableError::Topic { table: table.label.clone(), topic: table.configured.topic.clone(), reason }
            }
        };
        metrics::CAPTURE_POLL_ERRORS.add(&[&self.pipeline.name, &self.tables[index].label], 1);
        if turn.sink.unmarked_rows(index) > 0 {
            self.tables[index].fail_turn(&error);
            return Err(Fault::Interrupted(error));
        }
        turn.session.undo().await?;
        Ok(error)
    }
}
