//! The thread of one leadership: it reads the partitions in step, counts their events, and hands over
//! flushes, one at a time, counting on while each is being committed.

use super::{
    Options,
    decode::Decoder,
    report::{Report, time_text},
    resume::{Held, Resume, resume},
    sentiment::Analyzer,
    store::{self, AHEAD_OF_CLOCK, Flushed, Stored},
    watchers::Watchers,
    window::{Added, Engine, PartitionProgress, Plan, Progress, Source},
};
use crate::{
    clock::now_ms,
    config::model::{Job, Kafka},
    kafka::{
        consumer::{ConsumerError, LastRecord, Polled, Record, damaged},
        partitions::{Partition, Partitions},
        topic::TopicError,
    },
    loss::{self, Loss},
    record::reason::{Reason, Rejection},
    stage::Context,
};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc::Sender;

const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest sleep while nothing comes.
const NAP: Duration = Duration::from_millis(20);
/// Least time between two flushes, but for those that the engine waits for.
const FLUSH_INTERVAL_MS: i64 = 100;
/// Dead letters wait for a flush so long, and hold so many bytes at most.
const LETTERS_MS: i64 = 1_000;
const LETTERS_BYTES: usize = 16 << 20;
/// How often topics are asked for new partitions.
const TOPICS_INTERVAL: Duration = Duration::from_secs(10);
/// How often the size of the state is looked at.
const STATE_INTERVAL: Duration = Duration::from_millis(20);
/// How long the watermark may stand while events wait for it, and how long where they are read no further; twice the
/// idle timeout where that is more.
const STANDING_LIMIT: Duration = Duration::from_secs(60);
const FULL_LIMIT: Duration = Duration::from_secs(5);
/// How long the brokers may take to say where partitions end.
const ENDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a reading has ended.
#[derive(Debug)]
pub enum End {
    /// At shutdown, or caught up where that was asked for; all is committed.
    Done,
    /// The other side has gone, and knows why.
    Abandoned,
    /// To be tried again.
    Failed(String),
    /// Until somebody acts.
    Stopped(String),
}

impl From<ConsumerError> for End {
    fn from(error: ConsumerError) -> Self {
        End::Failed(error.to_string())
    }
}

impl From<TopicError> for End {
    fn from(error: TopicError) -> Self {
        if error.is_unavailable() { End::Failed(error.to_string()) } else { End::Stopped(error.to_string()) }
    }
}

/// What the thread is given.
pub struct Setup {
    pub job: Job,
    pub kafka: Kafka,
    pub plan: Plan,
    pub stored: Stored,
    pub watchers: Watchers,
    pub options: Options,
    pub context: Context,
    pub report: Report,
    pub flushes: Sender<Box<store::Flush>>,
    pub commits: Receiver<Flushed>,
}

struct Lane {
    source: Source,
    input: usize,
    partition: Partition,
    /// Kafka's id of the topic, or what stands for it where the log was truncated.
    log_id: String,
    /// The last record, where its epoch is known.
    last: Option<LastRecord>,
    /// What Kafka answers instead of records, until some come.
    refusal: Option<String>,
    /// The end that was met, until something follows: that of committed records.
    end: Option<i64>,
    /// The end of the log as the brokers told it last, which moves on also while nothing is read.
    told: Option<i64>,
    /// They were asked since, and did not tell.
    is_unknown: bool,
    /// Of what is read again after a restart, the offsets that are dead letters whatever the clock says now.
    refused: HashSet<i64>,
}

pub struct Reading {
    setup: Setup,
    partitions: Partitions,
    engine: Engine,
    decoders: Vec<Decoder>,
    lanes: Vec<Lane>,
    letters: Letters,
    /// Losses that were accepted, until a flush has stored what follows from them.
    accepted: Vec<Loss>,
    is_in_flight: bool,
    /// The last flush had to leave rows: the next follows at once, provisional as it was.
    more: Option<bool>,
    /// Something was read since the last flush was taken.
    is_dirty: bool,
    flushed_at_ms: i64,
    /// The newest window that was final at the last flush.
    flushed_final: i64,
    refresh_at_ms: i64,
    topics_checked: Instant,
    ends_asked: Instant,
    /// A loss was accepted, and is not stored yet.
    has_accepted: bool,
    /// The state has reached its bound, as it was looked at last.
    is_full: bool,
    state_looked_at: Instant,
    /// The watermark, and when it last moved or nothing waited for it.
    watermark_ms: Option<i64>,
    moved_at: Instant,
    next_lane: usize,
}

#[derive(Default)]
struct Letters {
    letters: Vec<store::DeadLetter>,
    bytes: usize,
    since_ms: i64,
}

/// Reads until the end of the leadership.
pub fn run(setup: Setup) -> (End, Report) {
    match Reading::start(setup) {
        Ok(mut reading) => {
            let end = match reading.work() {
                Ok(()) => End::Done,
                Err(end) => end,
            };
            (end, reading.setup.report)
        }
        Err((end, report)) => (end, *report),
    }
}

struct Opened {
    partitions: Partitions,
    engine: Engine,
    lanes: Vec<Lane>,
    accepted: Vec<Loss>,
}

impl Lane {
    fn new(
        source: Source,
        input: usize,
        partition: Partition,
        (log_id, last): (String, Option<LastRecord>),
        refused: HashSet<i64>,
    ) -> Lane {
        let (refusal, end, told, is_unknown) = (None, None, None, false);
        Lane { source, input, partition, log_id, last, refusal, end, told, is_unknown, refused }
    }
}

impl Reading {
    fn start(setup: Setup) -> Result<Reading, (End, Box<Report>)> {
        match Reading::open(&setup) {
            Ok(Opened { partitions, engine, lanes, accepted }) => {
                let emotes = setup.job.emote_sentiment;
                let sentiment = Arc::new(Analyzer::new(super::sentiment::Options { emotes }));
                let decoders = setup.job.inputs.iter().enumerate();
                let decoders = decoders.map(|(n, input)| Decoder::new(&setup.plan, n, input, sentiment.clone()));
                Ok(Reading {
                    decoders: decoders.collect(),
                    partitions,
                    flushed_final: last_final(&setup.job, engine.watermark_ms()),
                    engine,
                    lanes,
                    letters: Letters::default(),
                    is_in_flight: false,
                    more: None,
                    is_dirty: false,
                    has_accepted: !accepted.is_empty(),
                    accepted,
                    flushed_at_ms: 0,
                    refresh_at_ms: next_multiple(now_ms(), setup.job.refresh_ms),
                    topics_checked: Instant::now(),
                    ends_asked: Instant::now(),
                    is_full: false,
                    state_looked_at: Instant::now(),
                    watermark_ms: None,
                    moved_at: Instant::now(),
                    next_lane: 0,
                    setup,
                })
            }
            Err(end) => Err((end, Box::new(setup.report))),
        }
    }

    /// Finds the partitions and where each is to be read from.
    fn open(setup: &Setup) -> Result<Opened, End> {
        let Setup { job, kafka, stored, options, .. } = setup;
        let group = super::group(job);
        let mut partitions = Partitions::new(kafka, &group, 2 * job.inputs.len())?;
        let mut progress = Progress { watermark_ms: stored.watermark_ms, partitions: Vec::new() };
        let mut found = Vec::new();
        for (input, declared) in job.inputs.iter().enumerate() {
            let topic: Arc<str> = declared.topic.as_str().into();
            let description = partitions.describe(&topic, KAFKA_TIMEOUT)?;
            for number in 0..description.partitions {
                let partition = Partition { topic: topic.clone(), number };
                let (first, stable) = partitions.extent(&partition, KAFKA_TIMEOUT)?;
                let known = stored.partitions.iter().find(|p| *p.topic == *topic && p.partition == number);
                let end = match known {
                    Some(known) if known.next_offset > stable => partitions.log_end(&partition, KAFKA_TIMEOUT)?,
                    _ => stable,
                };
                let held = Held { topic_id: description.id.to_string(), first, stable, end, compared: None };
                found.push((input, partition, held, known));
            }
        }
        compare_logs(setup, &mut found)?;
        let (mut lost, mut accepted): (Vec<Loss>, Vec<Loss>) = (Vec::new(), Vec::new());
        let mut starts = Vec::with_capacity(found.len());
        for (input, partition, held, known) in found {
            // Offsets of a log that is gone say nothing of the one in its place.
            let mut is_other = false;
            let resumed = match known.map(|known| resume(&job.name, known, &held)) {
                None => None,
                Some(Resume::At(at)) => Some(at),
                Some(Resume::Lost(found)) if options.accepted.holds(&found.loss) => {
                    tracing::warn!(loss = found.loss.name, "this loss was accepted: {}", found.loss.what);
                    accepted.push(found.loss);
                    is_other = true;
                    Some(found.accepted)
                }
                Some(Resume::Lost(found)) => {
                    lost.push(found.loss);
                    None
                }
            };
            let at = resumed.as_ref().map(|at| PartitionProgress {
                input,
                partition: at.partition,
                next_offset: at.next_offset,
                replay_offset: at.replay_offset,
            });
            progress.partitions.extend(at);
            let (log_id, last) = resumed.map_or((held.topic_id, None), |at| (at.topic_id, at.last));
            starts.push((input, partition, held.first, log_id, last, is_other));
        }
        if !lost.is_empty() {
            return Err(End::Stopped(loss::told("analyze", &lost)));
        }
        let mut engine = Engine::new(setup.plan.clone(), Some(progress));
        if let Some(from_ms) = stored.windows_from_ms {
            engine.write_from(from_ms);
        }
        let mut lanes = Vec::with_capacity(starts.len());
        for (input, partition, first, log_id, last, is_other) in starts {
            let source = engine.partition(input, partition.number, first);
            let is_here =
                |(topic, number, _): &&(String, i32, i64)| *topic == *partition.topic && *number == partition.number;
            let refused = stored.refused.iter().filter(|_| !is_other).filter(is_here);
            let refused = refused.map(|(_, _, offset)| *offset).collect();
            lanes.push(Lane::new(source, input, partition, (log_id, last), refused));
        }
        assign(&mut partitions, &engine, &lanes)?;
        Ok(Opened { partitions, engine, lanes, accepted })
    }

    fn work(&mut self) -> Result<(), End> {
        loop {
            self.take_commit(Duration::ZERO)?;
            let now_ms = now_ms();
            if self.setup.context.is_shutdown() {
                return self.drain();
            }
            // Where nothing is read nothing is handed over, by which a loss of leadership would be noticed.
            if self.setup.flushes.is_closed() {
                return Err(End::Abandoned);
            }
            self.read(now_ms)?;
            self.ask_ends(now_ms);
            self.check_topics()?;
            self.engine.advance(now_ms);
            self.note_watermark();
            self.flush_if_due(now_ms)?;
            let standing = self.standing();
            let partitions = &self.partitions;
            let lag = self.lanes.iter().enumerate().map(|(index, lane)| {
                let end = lane.log_end(index, partitions);
                (&lane.partition, self.engine.position(lane.source), lane.is_caught_up(end), end)
            });
            self.setup.report.show(&self.engine, lag, standing, now_ms);
            if self.is_caught_up() {
                return Ok(());
            }
        }
    }

    /// Reads what is at hand, the partitions that are behind first; naps where there is nothing.
    fn read(&mut self, now_ms: i64) -> Result<(), End> {
        // What is read now could not be given to anyone before the commit under way has ended.
        if self.is_in_flight && (self.engine.wants_flush() || self.letters.bytes > LETTERS_BYTES) {
            self.moved_at = Instant::now();
            return self.take_commit(NAP);
        }
        for item in self.partitions.serve().items() {
            if let Polled::Fatal(text) = item {
                return Err(End::Failed(format!("the Kafka client cannot go on: {text}")));
            }
        }
        if self.state_looked_at.elapsed() >= STATE_INTERVAL {
            // What is read again was within the bound of its time, and all of it is needed.
            let is_replaying = self.engine.is_replaying();
            self.is_full = !is_replaying && self.engine.state_bytes() >= self.setup.job.max_state_bytes;
            self.state_looked_at = Instant::now();
        }
        let limit_ms = self.step_limit();
        let count = self.lanes.len();
        let mut nap_at: Option<usize> = None;
        let mut any = false;
        for step in 0..count {
            let index = (self.next_lane + step) % count;
            let lane = &self.lanes[index];
            let newest_ms = self.engine.event_time_of(lane.source);
            if lane.end.is_none() && newest_ms > limit_ms {
                continue;
            }
            // What is ahead adds to the state; only what is behind can make it less.
            if self.is_full && !self.engine.holds_watermark(lane.source) {
                continue;
            }
            // Something is more likely to come where the end was not met.
            if nap_at.is_none_or(|lane| self.lanes[lane].end.is_some()) {
                nap_at = Some(index);
            }
            any |= self.read_lane(index, Duration::ZERO, now_ms)?;
        }
        self.next_lane = (self.next_lane + 1) % count.max(1);
        match nap_at {
            Some(index) if !any => self.read_lane(index, NAP, now_ms).map(|_| ()),
            None => {
                std::thread::sleep(NAP);
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// How far a partition may be ahead of the one that is most behind: its events keep panes open that
    /// nobody can close yet. `None` is before every time.
    fn step_limit(&self) -> Option<i64> {
        let Some(behind) = self.engine.most_behind() else { return Some(i64::MAX) };
        let slack_ms = self.setup.job.window_ms.max(self.setup.job.watermark_delay_ms);
        self.engine.event_time_of(behind).map(|newest_ms| newest_ms.saturating_add(slack_ms))
    }

    /// Whether a record came.
    fn read_lane(&mut self, index: usize, timeout: Duration, now_ms: i64) -> Result<bool, End> {
        let batch = self.partitions.poll(index, timeout);
        if batch.is_empty() {
            return Ok(false);
        }
        let Lane { source, input, partition, log_id, last, refusal, end, refused, .. } = &mut self.lanes[index];
        let (source, decoder) = (*source, &mut self.decoders[*input]);
        let mut any = false;
        for item in batch.items() {
            match item {
                Polled::Record(record) => {
                    any = true;
                    *end = None;
                    *refusal = None;
                    let engine = &mut self.engine;
                    let offset = record.offset;
                    *last = record.as_last().filter(|_| last.is_none_or(|last| last.offset < offset)).or(*last);
                    if !refused.is_empty() && refused.remove(&offset) {
                        engine.skip(source, offset, now_ms);
                        continue;
                    }
                    let decoded = decoder.decode(record.payload, |event| engine.add(source, offset, event, now_ms));
                    let rejection = match decoded {
                        Ok(added) => {
                            self.setup.report.count(*input, added, &record);
                            match added {
                                Added::Future => Some(too_new(self.setup.job.max_future_ms)),
                                _ => None,
                            }
                        }
                        Err(rejection) => self.engine.skip(source, offset, now_ms).then(|| {
                            self.setup.report.dead_letter(*input);
                            rejection
                        }),
                    };
                    if let Some(rejection) = rejection {
                        self.letters.push(&partition.topic, log_id, &record, rejection, now_ms);
                    }
                }
                Polled::End { offset, .. } => {
                    *end = Some(offset);
                    *refusal = None;
                    self.engine.reach(source, offset, now_ms);
                    // The log goes on where a transaction is open.
                    if let Some(log_end) = self.partitions.last_known_end(index) {
                        self.engine.log_ends(source, log_end, now_ms);
                    }
                }
                Polled::OutOfRange { error, .. } => {
                    let Partition { topic, number } = partition;
                    let words = "the offset is out of range, and the log is looked at again";
                    return Err(End::Failed(format!("Kafka gives no records of {topic}-{number}: {words} ({error})")));
                }
                Polled::Diverged { .. } => {
                    let Partition { topic, number } = partition;
                    return Err(End::Failed(format!("the log of {topic}-{number} was truncated: looking again")));
                }
                Polled::Fatal(text) => return Err(End::Failed(format!("the Kafka client cannot go on: {text}"))),
                Polled::Damaged { offset, text, .. } => {
                    let Partition { topic, number } = partition;
                    return Err(End::Stopped(damaged(topic, *number, offset, &text, "counted", "analyze")));
                }
                Polled::Failed { error, .. } => {
                    let Partition { topic, number } = partition;
                    *refusal = Some(format!("Kafka gives no records of {topic}-{number}: {error}"));
                }
            }
        }
        if any {
            self.is_dirty = true;
        }
        Ok(any)
    }

    /// Lets the brokers say again that a partition is at its end: only then is it idle rather than silent. Those that
    /// bring events of their own need not be asked.
    fn ask_ends(&mut self, now_ms: i64) {
        let interval_ms = (self.setup.job.idle_timeout_ms / 3).clamp(30, ENDS_TIMEOUT.as_millis() as i64);
        if self.ends_asked.elapsed() < Duration::from_millis(interval_ms.unsigned_abs()) {
            return;
        }
        let is_asked = |index: &usize| {
            let heard_ms = self.engine.heard_ms(self.lanes[*index].source);
            heard_ms.is_none_or(|heard_ms| now_ms - heard_ms >= interval_ms || now_ms < heard_ms)
        };
        let asked: Vec<usize> = (0..self.lanes.len()).filter(is_asked).collect();
        let answer = if asked.is_empty() { Ok(Vec::new()) } else { self.partitions.log_ends(&asked, ENDS_TIMEOUT) };
        self.ends_asked = Instant::now();
        let mut trouble = self.lanes.iter().find_map(|lane| lane.refusal.clone());
        let ends = answer.unwrap_or_else(|error| {
            let words = self.partitions.explain(&error.to_string());
            trouble = Some(format!("Kafka does not answer: {words}"));
            Vec::new()
        });
        for index in asked {
            let Lane { source, partition: Partition { topic, number }, told, is_unknown, .. } = &mut self.lanes[index];
            let answer = ends.iter().find(|(lane, _)| *lane == index).map(|(_, end)| *end);
            *told = answer.or(*told);
            *is_unknown = answer.is_none();
            match answer {
                Some(end) => self.engine.log_ends(*source, end, now_ms),
                None => {
                    self.engine.end_unknown(*source);
                    trouble.get_or_insert_with(|| {
                        format!(
                            "Kafka does not tell where {topic}-{number} ends, so nothing of it is read: \
                             `kafka-topics.sh --describe --topic {topic}` shows whether it has a leader"
                        )
                    });
                }
            }
        }
        self.setup.report.kafka_trouble(trouble);
    }

    /// Notes when the watermark moves, and when there is nothing that waits for it.
    fn note_watermark(&mut self) {
        let watermark_ms = self.engine.watermark_ms();
        let waits = !self.engine.is_replaying() && !self.engine.wants_flush() && self.engine.held_back_by().is_some();
        if watermark_ms != self.watermark_ms || !waits {
            self.watermark_ms = watermark_ms;
            self.moved_at = Instant::now();
        }
    }

    /// Why no window ends, where that has been so for too long.
    fn standing(&self) -> Option<String> {
        let stands = self.moved_at.elapsed();
        let limit = if self.is_full { FULL_LIMIT } else { STANDING_LIMIT };
        if stands < limit || stands.as_millis() < 2 * self.setup.job.idle_timeout_ms.unsigned_abs() as u128 {
            return None;
        }
        let holder = self.engine.held_back_by()?;
        let (index, lane) = self.lanes.iter().enumerate().find(|(_, lane)| lane.source == holder)?;
        let Partition { topic, number } = &lane.partition;
        let stands = stands.as_secs();
        let why = match (lane.end, lane.log_end(index, &self.partitions)) {
            (Some(end), Some(log_end)) if log_end > end => format!(
                "a transaction is open there at offset {end}: let its producer end it, or see \
                 `kafka-transactions.sh find-hanging`"
            ),
            _ => match self.engine.event_time_of(holder) {
                Some(newest_ms) => format!("its newest event is of {}: see its producer's clock", time_text(newest_ms)),
                None => "it has no event, and its end has not been met".to_owned(),
            },
        };
        let full = match self.is_full {
            true => " The state has reached max_state_bytes of the job, so that others are not read either.",
            false => "",
        };
        Some(format!("no window has ended for {stands} s, for {topic}-{number} holds the watermark: {why}.{full}"))
    }

    /// Looks for partitions that were added, and for topics made anew.
    fn check_topics(&mut self) -> Result<(), End> {
        if self.topics_checked.elapsed() < TOPICS_INTERVAL {
            return Ok(());
        }
        self.topics_checked = Instant::now();
        let mut added = false;
        for (input, declared) in self.setup.job.inputs.iter().enumerate() {
            let description = match self.partitions.describe(&declared.topic, ENDS_TIMEOUT) {
                Ok(description) => description,
                // Brokers that are away are noticed elsewhere; a topic that is gone stays so.
                Err(error) => {
                    tracing::debug!("{error}");
                    continue;
                }
            };
            let topic_id = description.id.to_string();
            let known = self.lanes.iter().filter(|lane| lane.input == input);
            if known.clone().any(|lane| loss::topic_of(&lane.log_id) != topic_id) {
                return Err(End::Failed(format!("topic {} was made anew: looking again", declared.topic)));
            }
            for number in i32::try_from(known.count()).unwrap_or(i32::MAX)..description.partitions {
                let partition = Partition { topic: declared.topic.as_str().into(), number };
                let (first, _) = self.partitions.extent(&partition, KAFKA_TIMEOUT)?;
                let source = self.engine.partition(input, number, first);
                tracing::info!(topic = %declared.topic, partition = number, "a partition was added");
                let refused = HashSet::new();
                self.lanes.push(Lane::new(source, input, partition, (topic_id.clone(), None), refused));
                added = true;
            }
        }
        if added {
            self.lanes.iter_mut().for_each(|lane| lane.end = None);
            assign(&mut self.partitions, &self.engine, &self.lanes)?;
        }
        Ok(())
    }

    fn flush_if_due(&mut self, now_ms: i64) -> Result<(), End> {
        if self.is_in_flight {
            return Ok(());
        }
        let is_refresh = now_ms >= self.refresh_at_ms;
        let newly_final = last_final(&self.setup.job, self.engine.watermark_ms()) > self.flushed_final;
        let is_rested = now_ms - self.flushed_at_ms >= FLUSH_INTERVAL_MS;
        let is_due = self.engine.wants_flush()
            || self.has_accepted
            || self.more.is_some()
            || (is_refresh && self.is_dirty)
            || (newly_final && is_rested)
            || self.letters.bytes > LETTERS_BYTES / 2
            || (!self.letters.letters.is_empty() && now_ms - self.letters.since_ms >= LETTERS_MS)
            || (self.is_dirty && self.setup.context.until_caught_up && self.is_at_end());
        if !is_due {
            return Ok(());
        }
        self.flush(is_refresh || self.more == Some(true), now_ms)?;
        if is_refresh {
            self.refresh_at_ms = next_multiple(now_ms, self.setup.job.refresh_ms);
        }
        Ok(())
    }

    /// Hands over a flush, if the engine has one to give.
    fn flush(&mut self, provisional: bool, now_ms: i64) -> Result<(), End> {
        let Some(flush) = self.engine.take_flush(provisional) else { return Ok(()) };
        let moments = self.setup.watchers.observe(&flush);
        self.more = flush.has_more.then_some(provisional);
        self.is_dirty = false;
        self.has_accepted = false;
        self.flushed_at_ms = now_ms;
        self.flushed_final = last_final(&self.setup.job, flush.progress.watermark_ms);
        let topic = |input: usize| self.setup.job.inputs[input].topic.clone();
        let progress = flush.progress.partitions.iter().map(|progress| {
            let lane = |lane: &&Lane| lane.input == progress.input && lane.partition.number == progress.partition;
            let lane = self.lanes.iter().find(lane);
            store::PartitionProgress {
                topic: topic(progress.input),
                partition: progress.partition,
                topic_id: lane.map(|lane| lane.log_id.clone()).unwrap_or_default(),
                last: lane.and_then(|lane| lane.last),
                next_offset: progress.next_offset,
                replay_offset: progress.replay_offset,
            }
        });
        let late = flush.late.iter().map(|late| store::LateCount {
            topic: topic(late.input),
            window_start_ms: late.window_start_ms,
            window_end_ms: late.window_end_ms,
            count: late.count,
            first_seen_ms: now_ms,
            last_seen_ms: now_ms,
        });
        let handed = store::Flush {
            now_ms,
            watermark_ms: flush.progress.watermark_ms,
            partitions: progress.collect(),
            late: late.collect(),
            rows: flush.rows,
            moments,
            dead_letters: std::mem::take(&mut self.letters).letters,
        };
        self.setup.report.taken(&handed);
        self.is_in_flight = true;
        self.setup.flushes.blocking_send(Box::new(handed)).map_err(|_| End::Abandoned)
    }

    /// Takes note of a commit, waiting for one at most `timeout`.
    fn take_commit(&mut self, timeout: Duration) -> Result<(), End> {
        if !self.is_in_flight {
            return Ok(());
        }
        let commit = match timeout.is_zero() {
            true => self.setup.commits.try_recv().map_err(|error| error == TryRecvError::Empty),
            false => self.setup.commits.recv_timeout(timeout).map_err(|error| error == RecvTimeoutError::Timeout),
        };
        match commit {
            Ok(flushed) => {
                self.is_in_flight = false;
                self.accepted.drain(..).for_each(|loss| self.setup.options.accepted.spend(&loss));
                self.engine.flushed();
                self.setup.report.committed(&flushed);
                let positions = self.lanes.iter().enumerate();
                let positions = positions.map(|(index, lane)| (index, self.engine.position(lane.source)));
                self.partitions.publish_offsets(&positions.collect::<Vec<_>>());
                Ok(())
            }
            Err(true) => Ok(()),
            Err(false) => Err(End::Abandoned),
        }
    }

    /// At shutdown: the commit under way, and one of what has been counted since.
    fn drain(&mut self) -> Result<(), End> {
        while self.is_in_flight {
            self.take_commit(NAP)?;
        }
        self.flush(false, now_ms())?;
        while self.is_in_flight {
            self.take_commit(NAP)?;
        }
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        let mut lanes = self.lanes.iter().enumerate();
        lanes.all(|(index, lane)| lane.told.is_some() && lane.is_caught_up(lane.log_end(index, &self.partitions)))
    }

    /// With `--until-caught-up`: everything is read, every window is final, and all is committed.
    fn is_caught_up(&self) -> bool {
        self.setup.context.until_caught_up
            && *self.setup.context.upstream_done.borrow()
            && self.is_at_end()
            && !self.is_in_flight
            && !self.is_dirty
            && !self.has_accepted
            && self.more.is_none()
            && self.letters.letters.is_empty()
            && self.engine.open_panes() == 0
    }
}

impl Lane {
    /// Where the log ends, as far as the brokers have told.
    fn log_end(&self, index: usize, partitions: &Partitions) -> Option<i64> {
        self.end.max(self.told).max(partitions.last_known_end(index))
    }

    fn is_caught_up(&self, log_end: Option<i64>) -> bool {
        self.end.is_some() && self.end == log_end && !self.is_unknown
    }
}

impl Letters {
    fn push(&mut self, topic: &str, topic_id: &str, record: &Record<'_>, rejection: Rejection, now_ms: i64) {
        if self.letters.is_empty() {
            self.since_ms = now_ms;
        }
        let letter = store::DeadLetter {
            topic: topic.to_owned(),
            topic_id: topic_id.to_owned(),
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms(),
            key: record.key.map(<[u8]>::to_vec),
            payload: record.payload.map(<[u8]>::to_vec),
            headers: record.headers(),
            reason: rejection.reason.name().to_owned(),
            detail: rejection.detail,
            at_ms: now_ms,
        };
        self.bytes += 256 + letter.payload.as_ref().map_or(0, Vec::len) + letter.key.as_ref().map_or(0, Vec::len);
        self.letters.push(letter);
    }
}

fn too_new(max_future_ms: i64) -> Rejection {
    let detail = format!("the time is more than {} s {AHEAD_OF_CLOCK}", max_future_ms / 1_000);
    Rejection::new(Reason::InvalidTimestamp, detail)
}

/// Asks of the partitions that were read before whether their logs are still the ones that were read: by the last
/// record, for reading itself begins before it.
fn compare_logs(
    setup: &Setup,
    found: &mut [(usize, Partition, Held, Option<&store::PartitionProgress>)],
) -> Result<(), End> {
    let mut records = Vec::new();
    for (_, partition, held, known) in found.iter_mut() {
        let last = known.filter(|known| loss::topic_of(&known.topic_id) == held.topic_id).and_then(|known| known.last);
        if let Some(last) = last.filter(|last| last.offset + 1 >= held.first) {
            records.push(((partition.clone(), last), &mut held.compared));
        }
    }
    let (asked, answers): (Vec<_>, Vec<_>) = records.into_iter().unzip();
    if asked.is_empty() {
        return Ok(());
    }
    let group = super::group(&setup.job);
    let compared = Partitions::new(&setup.kafka, &group, asked.len())?.compare(&asked, KAFKA_TIMEOUT)?;
    answers.into_iter().zip(compared).for_each(|(answer, compared)| *answer = compared);
    Ok(())
}

fn assign(partitions: &mut Partitions, engine: &Engine, lanes: &[Lane]) -> Result<(), ConsumerError> {
    let positions: Vec<_> = lanes.iter().map(|lane| (lane.partition.clone(), engine.position(lane.source))).collect();
    partitions.assign(&positions)
}

/// Number of the newest window that has ended at a watermark.
fn last_final(job: &Job, watermark_ms: Option<i64>) -> i64 {
    watermark_ms.map_or(i64::MIN, |watermark_ms| (watermark_ms - job.window_ms).div_euclid(job.slide_ms))
}

fn next_multiple(now_ms: i64, interval_ms: i64) -> i64 {
    (now_ms.div_euclid(interval_ms) + 1) * interval_ms
}
