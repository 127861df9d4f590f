//! The thread of one landed topic: it reads, decodes, and commits, and tells how it is.
//!
//! Nothing here waits for long: what cannot be done now (a lock that another process holds, a full
//! disk, brokers that are away) parks a partition until later, and the consumer goes on being polled,
//! so that the group does not give our partitions away.

use super::{
    Options,
    batch::{Batch, Layout},
    budget::{Advice, Budget},
    columns,
    decode::{Decoder, Plan},
    member::Member,
    partition::{self, Cause, Committed, Open, OpenError, Partition},
    report::Report,
    resume::{Cut, cut, diverged},
    schema::Schema,
    source::Source,
};
use crate::{
    clock::{now_ms, now_us},
    config::model::{Kafka, Land, LandTable, Pipeline},
    health::State,
    kafka::{
        consumer::{Consumer, ConsumerError, Poll, Polled, Position, Rebalance, Record, damaged},
        replay,
    },
    lake::{self, store::Walk},
    loss::{self, Loss},
    metrics,
    stage::{Context, Summary},
};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

const POLL_TIMEOUT: Duration = Duration::from_millis(50);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
/// How often at most the topic's id is asked for, while commits are frequent.
const TOPIC_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long partitions are opened before the consumer is polled again: each takes syncs and questions to the brokers.
const OPEN_SLICE: Duration = Duration::from_millis(500);
const RECREATE_PAUSE_MS: u64 = 1_000;
/// Past this an Arrow text column would come near its 2 GiB.
const BATCH_BYTES_LIMIT: u64 = 1 << 30;

/// What a table's thread works with.
pub struct Table {
    pub config: LandTable,
    pub index: usize,
    land: Land,
    pipeline: Arc<Pipeline>,
    context: Context,
    options: Options,
    runtime: tokio::runtime::Handle,
    budget: Arc<Budget>,
    source: Source,
    schema: Schema,
    layout: Layout,
    decoder: Decoder,
    partitions: BTreeMap<i32, Partition>,
    /// Whether what is open is not all read: reading has stopped, or some were opened since it began.
    is_unread: bool,
    /// What was found lost since the assignment. It is reported at once, so that it can be accepted at once.
    lost: Vec<Loss>,
    /// Which partitions have files, as of the last assignment.
    walk: Walk,
    report: Report,
    /// Failures in a row of each partition, until its next commit: how many, and the last one.
    failures: BTreeMap<i32, (u32, String)>,
    topic_checked: Option<Instant>,
    /// Why the group does not take us, or Kafka gives nothing of the topic: until something comes.
    refusal: Option<String>,
    hold: Hold,
    /// What keeps the whole topic from going on, such as brokers that are away; empty when nothing does.
    trouble: Option<String>,
    probed: Instant,
    /// Where the topic ended when everything had been written to it.
    targets: Option<Targets>,
}

/// Whether another table's batch is waited for.
#[derive(Default)]
struct Hold {
    since: Option<Instant>,
    /// Nothing is read meanwhile, so that the consumer can be polled without taking more.
    is_long: bool,
}

struct Targets {
    topic_id: String,
    ends: BTreeMap<i32, i64>,
}

/// Why the processing of a poll ends early.
enum Interrupt {
    /// The columns cannot be looked up now: nothing may be decoded until they can.
    NoSchema(String),
    /// The Kafka client has to be made anew.
    Client(String),
    /// The topic cannot go on.
    Stop(String),
}

/// How a consumer's life ends.
enum End {
    Done,
    /// With another consumer; the text says why.
    Again(String),
}

impl Table {
    #[expect(clippy::too_many_arguments, reason = "called once; each is a thing of its own")]
    pub fn new(
        pipeline: Arc<Pipeline>,
        land: Land,
        index: usize,
        context: Context,
        options: Options,
        budget: Arc<Budget>,
        source: Source,
        schema: Schema,
        report: Report,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let config = land.tables[index].clone();
        let layout = layout(&schema, &config, &land);
        Table {
            decoder: Decoder::new(Plan::new(&schema, &config)),
            config,
            index,
            land,
            pipeline,
            context,
            options,
            runtime,
            budget,
            source,
            schema,
            layout,
            partitions: BTreeMap::new(),
            is_unread: false,
            lost: Vec::new(),
            walk: Walk::default(),
            report,
            failures: BTreeMap::new(),
            topic_checked: None,
            refusal: None,
            hold: Hold::default(),
            trouble: None,
            probed: Instant::now(),
            targets: None,
        }
    }

    /// Lands the topic until shutdown, or until it has caught up where that was asked for.
    pub fn run(mut self) -> Summary {
        let group = super::group(&self.land, &self.config);
        let member = Member::take(&self.config);
        let instance = member.as_ref().map(|member| member.name.as_str());
        loop {
            let session_ms = self.land.session_timeout_ms;
            let made = Consumer::new(&self.pipeline.kafka, &group, &self.config.topic, instance, session_ms);
            let ended = match made {
                Ok(mut consumer) => {
                    let ended = self.drive(&mut consumer);
                    self.partitions.clear();
                    self.failures.clear();
                    self.budget.release(self.index);
                    consumer.close();
                    ended
                }
                Err(error) => Err(error.to_string()),
            };
            match ended {
                Ok(End::Done) => return self.report.take_summary(),
                Ok(End::Again(reason)) => {
                    self.report.set(State::Failing(format!("the Kafka client gave up: {reason}; a new one is made")));
                    if self.runtime.block_on(self.context.pause(RECREATE_PAUSE_MS)) {
                        return self.report.take_summary();
                    }
                }
                Err(reason) => {
                    self.report.stop(reason);
                    return self.report.take_summary();
                }
            }
        }
    }

    fn drive(&mut self, consumer: &mut Consumer) -> Result<End, String> {
        loop {
            if self.context.is_shutdown() {
                return self.drain(consumer).map(|()| End::Done);
            }
            self.open_parked(consumer)?;
            if self.hold(consumer)? {
                // Another table is about to make room; reading on would only take more of it.
                std::thread::sleep(Duration::from_millis(20));
                self.rotate(consumer)?;
                continue;
            }
            let poll = consumer.poll(POLL_TIMEOUT);
            if !poll.rebalances.is_empty() {
                self.rebalance(&poll.rebalances);
                continue;
            }
            let result = self.process(&poll);
            drop(poll);
            match result {
                Ok(()) => {}
                Err(Interrupt::Stop(reason)) => return Err(reason),
                Err(Interrupt::NoSchema(reason)) => self.park_all(consumer, &reason)?,
                Err(Interrupt::Client(reason)) => {
                    self.commit_all(consumer)?;
                    return Ok(End::Again(reason));
                }
            }
            self.rotate(consumer)?;
            self.probe(consumer);
            if self.is_caught_up(consumer)? {
                return self.stopped().map_or(Ok(End::Done), Err);
            }
            self.forget_failures();
            // A partition that has been opened again has not recovered before it commits.
            let failure = self.failures.values().next().map(|(_, text)| text.as_str());
            let trouble = failure.or(self.refusal.as_deref()).or(self.trouble.as_deref());
            self.report.show(&self.config, &self.partitions, trouble, consumer);
        }
    }

    /// Whether to wait, for a moment, for another table that is about to commit. Where that takes longer, reading stops
    /// instead: the group wants us to poll, and what we hold ourselves is to be committed in time.
    fn hold(&mut self, consumer: &Consumer) -> Result<bool, String> {
        const MOMENT: Duration = Duration::from_secs(1);
        if !self.budget_advice(consumer)? {
            let held = std::mem::take(&mut self.hold);
            if held.is_long {
                self.read_from_open(consumer);
            }
            return Ok(false);
        }
        let since = *self.hold.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= MOMENT && !self.hold.is_long {
            self.hold.is_long = true;
            tracing::info!(topic = %self.config.topic, "reading waits for memory that other tables hold");
            self.read_from_open(consumer);
        }
        Ok(!self.hold.is_long)
    }

    /// A partition has recovered when it commits, or when it finds nothing left to commit.
    fn forget_failures(&mut self) {
        let partitions = &self.partitions;
        self.failures.retain(|id, _| match partitions.get(id) {
            Some(Partition::Open(open)) => open.is_dirty() || !open.at_end,
            found => found.is_some(),
        });
    }

    fn rebalance(&mut self, rebalances: &[Rebalance]) {
        for rebalance in rebalances {
            metrics::LAND_REBALANCES.add(&[&self.pipeline.name, &self.config.topic], 1);
            // What is open is thrown away with its staged files and its lock: the next owner, who may
            // be ourselves, reads it again.
            self.failures.clear();
            self.is_unread = false;
            self.lost.clear();
            for (_, partition) in std::mem::take(&mut self.partitions) {
                if let Partition::Open(open) = partition {
                    let _ = open.store.empty_staging();
                }
            }
            if let Rebalance::Assigned(found) = rebalance {
                self.refusal = None;
                tracing::info!(topic = %self.config.topic, partitions = ?found, "partitions assigned");
                self.walk = Walk::default();
                self.partitions = found.iter().map(|id| (*id, Partition::new())).collect();
                // It waits no more: from here on its silence would mean something.
                if !found.is_empty() {
                    self.report.set(State::Starting);
                }
            }
        }
    }

    /// Opens partitions whose time has come, as many as a slice of time allows, and reads from all that are open.
    ///
    /// If there are several, nothing is read until they have had their turn: a broker answers a connection in order,
    /// and each question would stand behind a fetch that waits for records.
    fn open_parked(&mut self, consumer: &Consumer) -> Result<(), String> {
        let now = Instant::now();
        let until = |partition: &Partition| match partition {
            Partition::Parked { until, .. } if *until <= now => Some(*until),
            _ => None,
        };
        // The one that has waited longest comes first, so that slow failures do not keep the others from their turn.
        let mut due: Vec<(Instant, i32)> =
            self.partitions.iter().filter_map(|(id, partition)| Some((until(partition)?, *id))).collect();
        due.sort_unstable();
        let several = due.len() > 1;
        let mut due = due.into_iter().map(|(_, id)| id);
        while now.elapsed() < OPEN_SLICE
            && let Some(id) = due.next()
        {
            let store = match partition::lock(&self.config, id, &mut self.walk) {
                Ok(store) => store,
                Err(error) => {
                    self.fail(id, error);
                    continue;
                }
            };
            if several && !self.is_unread {
                // A group that is about to tell us something else refuses it; then nothing is read either.
                let _ = consumer.assign(&[]);
                self.is_unread = true;
            }
            match Open::new(&self.config, id, store, consumer, &self.options.accepted) {
                Ok(open) => {
                    self.is_unread = true;
                    self.topic_checked = Some(Instant::now());
                    self.partitions.insert(id, Partition::Open(Box::new(open)));
                }
                Err(OpenError::Lost(loss)) => {
                    self.partitions.insert(id, Partition::Stopped(loss.what.clone()));
                    self.lost.push(loss);
                }
                Err(error) => self.fail(id, error),
            }
        }
        // What has failed before, and may again, keeps nobody waiting.
        let is_first =
            |id| matches!(self.partitions.get(&id), Some(Partition::Parked { cause: Cause::New | Cause::Lock(_), .. }));
        if due.any(is_first) {
            return Ok(());
        }
        if !self.lost.is_empty() {
            return Err(loss::told("land", &self.lost));
        }
        if self.is_unread {
            self.read_from_open(consumer);
        }
        Ok(())
    }

    /// The log is not the one that was read. What is not committed is read again, for it may still be there; where
    /// even what has landed is of the other log, that is a loss.
    fn part(&mut self, id: i32, common: Option<i64>, consumer: &Consumer) -> Result<(), String> {
        let Some(Partition::Open(open)) = self.partitions.get_mut(&id) else { return Ok(()) };
        let progress = open.store.progress().filter(|_| !open.is_dirty()).cloned();
        let topic = &self.config.topic;
        let parted = progress.map_or(Ok(()), |progress| {
            let lost = match common.map(|common| cut(topic, id, &progress, common)) {
                Some(Cut::Marks(start)) => {
                    let offset = start.offset;
                    tracing::info!(%topic, partition = id, offset, "the log has lost marks of transactions, and no record");
                    return Ok(open.begin_at(&start, false)?);
                }
                Some(Cut::Records(lost)) => lost,
                None => {
                    let high = consumer.log_end(id, KAFKA_TIMEOUT).map_err(OpenError::from)?;
                    Box::new(diverged(topic, id, &progress, None, high))
                }
            };
            if !self.options.accepted.holds(&lost.loss) {
                return Err(OpenError::Lost(lost.loss));
            }
            open.accept(&lost)?;
            self.options.accepted.spend(&lost.loss);
            Ok(())
        });
        match parted {
            Ok(()) => {
                self.partitions.insert(id, Partition::new());
            }
            Err(OpenError::Lost(loss)) => return Err(loss::told("land", &[loss])),
            Err(error) => self.fail(id, error),
        }
        self.read_from_open(consumer);
        Ok(())
    }

    /// Parks or stops a partition after a failure; the more in a row, the longer.
    fn fail(&mut self, id: i32, error: OpenError) {
        let locked = matches!(error, OpenError::Locked(_));
        let failures = self.failures.get(&id).map_or(0, |(count, _)| *count);
        if !locked {
            metrics::LAND_ERRORS.add(&[&self.pipeline.name, &self.config.topic], 1);
            self.report.failed();
            self.failures.insert(id, (failures + 1, error.to_string()));
        }
        self.partitions.insert(id, Partition::after(error, failures));
    }

    /// Tells the consumer to read what is open, each from its position.
    fn read_from_open(&mut self, consumer: &Consumer) {
        self.is_unread = false;
        let is_read = !self.hold.is_long;
        let positions: Vec<_> = self.open().filter(|_| is_read).map(|(id, open)| open.read_from(*id)).collect();
        if let Err(error) = consumer.assign(&positions) {
            // Usually the group is about to tell us something else, and the rebalance opens everything anew. Nothing
            // is read whose log was not compared.
            let text = error.to_string();
            let until = Instant::now() + Duration::from_secs(1);
            for Position { partition, .. } in positions {
                let cause = Cause::Failed(text.clone());
                self.partitions.insert(partition, Partition::Parked { until, cause });
            }
            let _ = consumer.assign(&[]);
        }
        for partition in self.partitions.values_mut() {
            if let Partition::Open(open) = partition {
                open.at_end = false;
            }
        }
    }

    fn open(&self) -> impl Iterator<Item = (&i32, &Open)> {
        self.partitions.iter().filter_map(|(id, partition)| match partition {
            Partition::Open(open) => Some((id, &**open)),
            _ => None,
        })
    }

    fn stopped(&self) -> Option<String> {
        self.partitions.values().find_map(|partition| match partition {
            Partition::Stopped(reason) => Some(reason.clone()),
            _ => None,
        })
    }

    fn process(&mut self, poll: &Poll<'_>) -> Result<(), Interrupt> {
        let polled = Instant::now();
        let now_micros = now_us();
        let mut is_answered = false;
        for item in poll.items() {
            match item {
                Polled::Record(record) => {
                    if !std::mem::replace(&mut is_answered, true) {
                        self.refusal = None;
                    }
                    self.record(&record, poll.consumer(), polled, now_micros)?;
                }
                Polled::End { partition, offset } => {
                    self.refusal = None;
                    if let Some(Partition::Open(open)) = self.partitions.get_mut(&partition) {
                        // Markers of transactions take offsets: the position is past them.
                        open.move_to(offset, None, polled);
                        open.at_end = true;
                    }
                }
                Polled::Diverged { partition, common } => {
                    self.part(partition, common, poll.consumer()).map_err(Interrupt::Stop)?;
                }
                Polled::Fatal(text) => return Err(Interrupt::Client(text)),
                Polled::Damaged { partition, offset, text } => {
                    // What is before it has landed, then; what is not can be read again.
                    self.commit(partition, poll.consumer()).map_err(Interrupt::Stop)?;
                    if let Some(found @ Partition::Open(_)) = self.partitions.get_mut(&partition) {
                        let topic = &self.config.topic;
                        *found = Partition::Stopped(damaged(topic, partition, offset, &text, "landed", "land"));
                        self.read_from_open(poll.consumer());
                    }
                }
                Polled::Failed { partition: None, error } => {
                    metrics::LAND_ERRORS.add(&[&self.pipeline.name, &self.config.topic], 1);
                    self.report.failed();
                    self.refusal = Some(error.to_string());
                }
                // Where the offset is out of range, opening the partition finds what is lost: what was read is
                // committed before.
                Polled::OutOfRange { partition, error } | Polled::Failed { partition: Some(partition), error } => {
                    self.commit(partition, poll.consumer()).map_err(Interrupt::Stop)?;
                    if matches!(self.partitions.get(&partition), Some(Partition::Open(_))) {
                        self.fail(partition, ConsumerError::Fetch { partition, error }.into());
                        self.read_from_open(poll.consumer());
                    }
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn record(
        &mut self,
        record: &Record<'_>,
        consumer: &Consumer,
        polled: Instant,
        now_micros: i64,
    ) -> Result<(), Interrupt> {
        let Some(Partition::Open(open)) = self.partitions.get_mut(&record.partition) else { return Ok(()) };
        if record.offset < open.position {
            // Where only marks of transactions were: these have gone with the end of the log.
            return match open.last.is_some_and(|last| record.offset > last.offset) {
                true => self.part(record.partition, Some(record.offset), consumer).map_err(Interrupt::Stop),
                false => Ok(()),
            };
        }
        let mut decoded = self.decoder.decode(record.payload);
        if decoded.is_ok() && self.decoder.unknown_count() > 0 {
            let payload = record.payload.unwrap_or_default();
            let timestamp_ms = record.timestamp_ms();
            let may_know = |name: Cow<'_, str>| self.source.may_know(&self.config, &name, timestamp_ms, polled);
            if self.decoder.unknown_names(payload).any(may_know) {
                let names: Vec<String> = self.decoder.unknown_names(payload).map(Cow::into_owned).collect();
                self.learn(&names)?;
                decoded = self.decoder.decode(record.payload);
            }
        }
        let Some(Partition::Open(open)) = self.partitions.get_mut(&record.partition) else { return Ok(()) };
        let batch = open.batch.get_or_insert_with(|| Batch::new(self.layout.schema.clone(), polled));
        match decoded {
            Ok(day) => batch.push(&self.layout, record, &self.decoder, day, now_micros),
            Err(rejection) => batch.push_dead_letter(&self.config.topic, record, &rejection),
        }
        let full = batch.bytes as u64 >= self.land.rotate_bytes.min(BATCH_BYTES_LIMIT)
            || batch.files() as u64 >= self.land.max_files;
        open.move_to(record.offset + 1, record.as_last(), polled);
        open.at_end = false;
        if full {
            self.commit(record.partition, consumer).map_err(Interrupt::Stop)?;
        }
        Ok(())
    }

    /// Looks the columns up again, for a record holds fields that no column takes.
    fn learn(&mut self, names: &[String]) -> Result<(), Interrupt> {
        let mut schema = self.schema.clone();
        let refreshed = self.runtime.block_on(self.source.refresh(&self.config, &mut schema, names));
        let wider = refreshed.map_err(|error| match error.is_unavailable() {
            true => Interrupt::NoSchema(error.to_string()),
            false => Interrupt::Stop(error.to_string()),
        })?;
        if !wider {
            return Ok(());
        }
        tracing::info!(topic = %self.config.topic, "the table has new columns");
        let layout = layout(&schema, &self.config, &self.land);
        let sources: Vec<Option<usize>> =
            layout.schema.fields().iter().map(|field| self.layout.schema.index_of(field.name()).ok()).collect();
        for partition in self.partitions.values_mut() {
            if let Partition::Open(open) = partition
                && let Some(batch) = &mut open.batch
            {
                batch.widen(layout.schema.clone(), &sources);
            }
        }
        self.decoder = Decoder::new(Plan::new(&schema, &self.config));
        self.schema = schema;
        self.layout = layout;
        Ok(())
    }

    /// Commits what is open and stops reading for a while.
    fn park_all(&mut self, consumer: &Consumer, reason: &str) -> Result<(), String> {
        self.commit_all(consumer)?;
        for partition in self.partitions.values_mut() {
            if !matches!(partition, Partition::Stopped(_)) {
                let until = Instant::now() + Duration::from_secs(1);
                *partition = Partition::Parked { until, cause: Cause::Failed(reason.to_owned()) };
            }
        }
        self.read_from_open(consumer);
        Ok(())
    }

    /// Commits a partition. A failure parks it; the error is one that stops the whole topic.
    fn commit(&mut self, id: i32, consumer: &Consumer) -> Result<(), String> {
        if !self.topic_is_ours(id, consumer)? {
            return Ok(());
        }
        let Some(Partition::Open(open)) = self.partitions.get_mut(&id) else { return Ok(()) };
        if !open.is_dirty() {
            return Ok(());
        }
        let started = Instant::now();
        let (committed, result) = open.commit(&self.layout, id);
        if let Some(committed) = committed {
            open.last_commit = Some(now_ms() as u64 / 1_000);
            consumer.publish_offsets(&[(id, open.position)]);
            self.count(committed, started.elapsed());
        }
        match result {
            Ok(()) => {
                self.failures.remove(&id);
            }
            Err(error) => {
                self.fail(id, error.into());
                self.read_from_open(consumer);
            }
        }
        Ok(())
    }

    fn commit_all(&mut self, consumer: &Consumer) -> Result<(), String> {
        let ids: Vec<i32> = self.open().filter(|(_, open)| open.is_dirty()).map(|(id, _)| *id).collect();
        ids.into_iter().try_for_each(|id| self.commit(id, consumer))
    }

    /// Whether the topic is still the one whose records are in the open batch. Where that cannot be
    /// asked the commit has to wait; where it is another, nothing may be committed any more.
    fn topic_is_ours(&mut self, id: i32, consumer: &Consumer) -> Result<bool, String> {
        if self.topic_checked.is_some_and(|checked| checked.elapsed() < TOPIC_CHECK_INTERVAL) {
            return Ok(true);
        }
        let description = match consumer.describe(KAFKA_TIMEOUT) {
            Ok(description) => description,
            Err(error) => {
                self.trouble = Some(error.to_string());
                return Ok(false);
            }
        };
        self.trouble = None;
        let found = description.id.to_string();
        match self.partitions.get(&id) {
            Some(Partition::Open(open)) if open.topic_id() != found => {
                let topic = &self.config.topic;
                let lost: Vec<Loss> = self
                    .open()
                    .map(|(id, open)| Loss {
                        name: Loss::name("", topic, *id, open.committed, &found),
                        what: format!("records from offset {} of partition {id} on had not landed", open.committed),
                        then: "to land the new topic from its first record".to_owned(),
                    })
                    .collect();
                Err(format!(
                    "topic {topic} was deleted and made again while it was being landed (its id was {}, now it is {found}): {}",
                    open.topic_id(),
                    loss::told("land", &lost),
                ))
            }
            _ => {
                self.topic_checked = Some(Instant::now());
                Ok(true)
            }
        }
    }

    fn count(&mut self, committed: Committed, duration: Duration) {
        let labels = [self.pipeline.name.as_str(), self.config.topic.as_str()];
        metrics::LAND_RECORDS.add(&labels, committed.records);
        metrics::LAND_ROWS.add(&labels, committed.rows);
        metrics::LAND_BYTES.add(&labels, committed.bytes);
        metrics::LAND_FILES.add(&labels, committed.files);
        metrics::LAND_COMMITS.add(&labels, 1);
        metrics::LAND_COMMIT_SECONDS.observe(&labels, duration.as_secs_f64());
        metrics::LAND_UNKNOWN_FIELDS.add(&labels, committed.unknown_fields);
        let now = now_ms();
        let delay_seconds = committed.oldest_ms.map(|oldest| (now - oldest) as f64 / 1_000.0);
        if let Some(delay_seconds) = delay_seconds {
            metrics::LAND_AGE.set(&labels, delay_seconds);
        }
        for (reason, count) in &committed.reasons {
            metrics::LAND_DEAD_LETTERS.add(&[labels[0], labels[1], reason.name()], *count);
        }
        self.report.count(committed, now, delay_seconds);
    }

    /// Commits the batches that are old enough; where the end is asked for, those at the end too.
    fn rotate(&mut self, consumer: &Consumer) -> Result<(), String> {
        let age = Duration::from_millis(self.land.rotate_ms);
        let finishing = self.targets.is_some();
        let due = |open: &Open| match &open.batch {
            Some(batch) => batch.opened.elapsed() >= age || (finishing && open.at_end),
            // No record, but markers: committed too, so that a partition at its end looks it.
            None => open.is_dirty() && (open.moved.elapsed() >= age || finishing),
        };
        let ids: Vec<i32> = self.open().filter(|(_, open)| due(open)).map(|(id, _)| *id).collect();
        ids.into_iter().try_for_each(|id| self.commit(id, consumer))
    }

    /// Tells the shared budget what is held, and does what it says. True where reading is to wait.
    fn budget_advice(&mut self, consumer: &Consumer) -> Result<bool, String> {
        loop {
            let held: Vec<(i32, usize)> = self.open().map(|(id, open)| (*id, open.bytes())).collect();
            let largest = held.iter().copied().max_by_key(|(_, bytes)| *bytes);
            let total = held.iter().map(|(_, bytes)| bytes).sum();
            let (all, advice) = self.budget.report(self.index, total, largest.map_or(0, |(_, bytes)| bytes));
            metrics::LAND_BUFFERED_BYTES.set(&[&self.pipeline.name], all as f64);
            match (advice, largest) {
                (Advice::CommitLargest, Some((id, bytes))) if bytes > 0 => {
                    self.commit(id, consumer)?;
                    if self.open().any(|(open_id, open)| *open_id == id && open.batch.is_some()) {
                        // It could not be committed now; reading on would break the bound.
                        return Ok(true);
                    }
                }
                (Advice::Wait, _) => return Ok(true),
                _ => return Ok(false),
            }
        }
    }

    /// Where nothing has come for a while: is that the end of the topic, or are the brokers away?
    fn probe(&mut self, consumer: &Consumer) {
        const QUIET: Duration = Duration::from_secs(3);
        let busy = self.open().any(|(_, open)| open.moved.elapsed() < QUIET) && self.trouble.is_none();
        let interval = if self.trouble.is_some() { Duration::from_secs(1) } else { QUIET };
        if busy || self.probed.elapsed() < interval {
            return;
        }
        let asked = consumer.describe(Duration::from_secs(3));
        self.probed = Instant::now();
        self.trouble = asked.err().map(|error| error.to_string());
    }

    fn is_caught_up(&mut self, consumer: &Consumer) -> Result<bool, String> {
        if !self.context.until_caught_up || !*self.context.upstream_done.borrow() {
            return Ok(false);
        }
        if self.targets.is_none() {
            match end_offsets(&self.pipeline.kafka, &self.config, consumer) {
                Ok(targets) => self.targets = Some(targets),
                Err(reason) => {
                    self.trouble = Some(reason);
                    return Ok(false);
                }
            }
        }
        let Some(Targets { topic_id, ends }) = &self.targets else { return Ok(false) };
        let reached = ends.iter().all(|(id, target)| match self.partitions.get(id) {
            Some(Partition::Open(open)) => open.is_compared() && open.committed >= *target && open.batch.is_none(),
            Some(Partition::Stopped(_)) => true,
            // It is ours, and about to be opened.
            Some(Partition::Parked { cause: Cause::New, .. }) => false,
            // Somebody else reads it: what is committed is in the ledger.
            _ => super::has_landed(&self.config, *id, topic_id, *target, || {
                consumer.watermarks(*id, KAFKA_TIMEOUT).ok().map(|(_, end)| end)
            }),
        });
        if reached {
            // Always asked at the end, so that a topic made anew in the last second is noticed.
            self.topic_checked = None;
            let open = self.open().next().map(|(id, _)| *id);
            if let Some(id) = open {
                return self.topic_is_ours(id, consumer);
            }
        }
        Ok(reached)
    }

    /// At shutdown: one commit of what is open. What cannot be committed is read again next time.
    fn drain(&mut self, consumer: &Consumer) -> Result<(), String> {
        self.commit_all(consumer)?;
        self.stopped().map_or(Ok(()), Err)
    }
}

impl Drop for Table {
    /// However it ends, what it held is not held against the others.
    fn drop(&mut self) {
        self.budget.release(self.index);
    }
}

fn layout(schema: &Schema, config: &LandTable, land: &Land) -> Layout {
    let keys = schema.columns.iter().filter(|column| column.key);
    Layout {
        topic: config.topic.clone(),
        schema: columns::arrow_schema(schema, config),
        key_columns: keys.map(|column| config.column_of(&column.name).to_owned()).collect(),
        overflow: config.overflow_column.is_some(),
        metadata: config.metadata_columns,
        compression_level: land.compression_level,
        rules: lake::rules(config),
    }
}

/// The end for readers of committed messages would be too early: a commit has succeeded before every partition
/// knows of it.
fn end_offsets(kafka: &Kafka, config: &LandTable, consumer: &Consumer) -> Result<Targets, String> {
    let topic = consumer.describe(KAFKA_TIMEOUT).map_err(|error| error.to_string())?;
    let ends = replay::high_watermarks(kafka, &config.topic, topic.partitions).map_err(|error| error.to_string())?;
    Ok(Targets { topic_id: topic.id.to_string(), ends })
}
