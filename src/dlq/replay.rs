//! `dlq replay`: letters back onto a topic, each once.
//!
//! **What it promises.** A message has the letter's exact payload, key and headers, and nothing is added to
//! it; its timestamp is the time of the replay. Readers of committed messages see each letter once, through
//! any crash of ours and any number of runs, until a run with another `--again` sends it once more.
//!
//! **When progress moves.** The messages and the records of which letters they were ([`super::sent`]) stand in
//! one Kafka transaction. A run begins by taking over the transactional id, which aborts what a killed run left
//! open and fences one that still lives, and only then reads the records.

use super::{
    Damaged, DlqError, Next, Progress, Stores, blocking, escape,
    filter::Filter,
    letter::{Id, Letter},
    pipelines, replay_topic, rights,
    selection::Selection,
    sent::Sent,
    table::{self, Set},
};
use crate::{
    app::group_digits,
    clock,
    config::model::{Compression, Config, Pipeline},
    failpoint,
    kafka::{
        admin,
        producer::{Headers, MESSAGE_TOO_LARGE, Outgoing, ProducerError, Settings, TopicHandle, TransactionalProducer},
    },
    record::reason::ROW_TOO_LARGE,
};
use clap::Args;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

/// Limits of one Kafka transaction.
const TRANSACTION_LETTERS: u64 = 5_000;
const TRANSACTION_BYTES: u64 = 16 << 20;
const TRANSACTION_TIME: Duration = Duration::from_secs(5);
/// The broker says what is too large, by the topic's own limit.
const MESSAGE_BYTES: u64 = 1_000_000_000;
/// Records that a dry run names.
const NAMED: usize = 20;
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub selection: Selection,
    /// Replay every dead letter, where nothing narrows it.
    #[arg(long)]
    all: bool,
    /// The topic to send to; without it each record goes to its own.
    #[arg(long, value_name = "TOPIC")]
    to: Option<String>,
    /// Send each record to the partition that it was in, rather than to the one of its key.
    #[arg(long)]
    keep_partition: bool,
    /// Send also what was replayed before, once under this name: a run that was killed and is repeated with the
    /// same name goes on where it stopped.
    #[arg(long, value_name = "NAME")]
    again: Option<String>,
    /// Send at most so many, such as a few to begin with.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Say what would be sent, and send nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Letters of one topic and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub pipeline: String,
    pub topic: String,
    pub to: String,
    pub reason: String,
    /// Sent, or to be sent.
    pub sent: u64,
    pub bytes: u64,
    /// Left out: sent by an earlier run, or found in another store before.
    pub already_sent: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    pub dry_run: bool,
    /// Sent, or to be sent.
    pub sent: u64,
    /// Of payloads.
    pub bytes: u64,
    /// Left out: sent by an earlier run, or found in another store before.
    pub already_sent: u64,
    /// Read and left out, for they are not meant.
    pub not_meant: u64,
    pub transactions: u64,
    pub seconds: f64,
    pub lines: Vec<Line>,
    /// The first that would be sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Id>,
    pub warnings: Vec<String>,
}

/// Sends the letters that are meant, or says which they are.
pub async fn replay(config: Config, options: Options) -> Result<Report, DlqError> {
    let filter = options.selection.filter()?;
    check(&options, &filter)?;
    for pipeline in pipelines(&config, &filter)? {
        check_target(pipeline, options.to.as_deref())?;
        check_meant(pipeline, &filter)?;
        if !options.dry_run {
            let made = admin::ensure_topics(&pipeline.kafka, &[replay_topic(pipeline)]).await;
            made.map_err(|error| rights::of_making(pipeline, error))?;
            check_compacted(pipeline).await?;
        }
    }
    blocking(move |runtime| replay_here(&config, &options, &filter, runtime)).await
}

fn check(options: &Options, filter: &Filter) -> Result<(), DlqError> {
    if filter.is_empty() && !options.all && !options.dry_run && options.limit.is_none() {
        let what = "say which: --topic, --reason, --since, --where …, --limit; or --all (try --dry-run first)";
        return Err(DlqError::Selection(what.to_owned()));
    }
    let is_name = |name: &str| {
        (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    match &options.again {
        Some(name) if !is_name(name) => Err(DlqError::Selection(format!(
            "--again takes a name of up to 64 letters, digits, dots, dashes and underscores, not {name:?}"
        ))),
        _ => Ok(()),
    }
}

/// A row that was too large to publish is in no letter.
fn check_meant(pipeline: &Pipeline, filter: &Filter) -> Result<(), DlqError> {
    let topic = pipeline.capture.as_ref().map_or("", |capture| &capture.dead_letter_topic);
    // One that is landed has letters of land, too.
    let is_landed = pipeline.land.iter().flat_map(|land| &land.tables).any(|table| table.topic == topic);
    let topic = if is_landed { "" } else { topic };
    match filter.names("capture", topic, ROW_TOO_LARGE) {
        true => Err(DlqError::Selection(
            "the dead letters of capture do not hold the row, and cannot be sent: raise capture.max_row_bytes and the \
             topics' max.message.bytes, and write the rows again, with a new value in their watermark column"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// A topic that Headwater keeps its own progress in takes no letters.
fn check_target(pipeline: &Pipeline, to: Option<&str>) -> Result<(), DlqError> {
    let Some(to) = to else { return Ok(()) };
    let capture = pipeline.capture.as_ref();
    let own = [Some(&pipeline.dlq.replay_topic), capture.map(|capture| &capture.checkpoint_topic)];
    match own.into_iter().flatten().any(|topic| topic == to) {
        true => {
            Err(DlqError::Selection(format!("topic {to} holds the progress of {}: --to takes another", pipeline.name)))
        }
        false => Ok(()),
    }
}

/// What was replayed is forgotten in a topic that removes old records.
async fn check_compacted(pipeline: &Pipeline) -> Result<(), DlqError> {
    let topic = &pipeline.dlq.replay_topic;
    let policy = admin::topic_setting(&pipeline.kafka, topic, "cleanup.policy").await?;
    match policy.as_deref() {
        None | Some("compact") => Ok(()),
        Some(policy) => Err(DlqError::Selection(format!(
            "topic {topic} has cleanup.policy={policy}, by which it would be forgotten what was replayed: set it to compact"
        ))),
    }
}

fn replay_here(config: &Config, options: &Options, filter: &Filter, runtime: &Handle) -> Result<Report, DlqError> {
    let started = Instant::now();
    let mut report = Report { dry_run: options.dry_run, ..Report::default() };
    let mut lines = BTreeMap::new();
    for pipeline in pipelines(config, filter)? {
        let stores = Stores::of_records(pipeline, runtime)?;
        report.warnings.extend(stores.warnings.iter().cloned());
        let sender = match options.dry_run {
            true => None,
            false => Some(Sender::open(pipeline)?),
        };
        let round = options.again.as_deref().unwrap_or_default();
        let sent = match options.dry_run {
            true => Sent::read_if_there(pipeline, round)?,
            false => Sent::read(pipeline, round)?,
        };
        stores.announce(&pipeline.name, filter);
        let damaged = Damaged::default();
        let mut run =
            Replay { pipeline, options, filter, report: &mut report, lines: &mut lines, sent, damaged, sender };
        run.stores(&stores, runtime)?;
        let warning = run.damaged.warning("they were not sent; export them, and send them by other means");
        run.report.warnings.extend(warning);
        if run.is_enough() {
            break;
        }
    }
    report.lines = lines.into_values().collect();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The replay of one pipeline.
struct Replay<'a> {
    pipeline: &'a Pipeline,
    options: &'a Options,
    filter: &'a Filter,
    report: &'a mut Report,
    lines: &'a mut BTreeMap<(String, String, String), Line>,
    sent: Sent,
    damaged: Damaged,
    /// None in a dry run.
    sender: Option<Sender<'a>>,
}

impl Replay<'_> {
    fn stores(&mut self, stores: &Stores, runtime: &Handle) -> Result<(), DlqError> {
        let mut progress = Progress::new("replaying dead letters");
        let read = stores.read(self.filter, true, runtime, &mut |letter| {
            progress.letter(self.report.sent);
            self.letter(letter)
        });
        read.and_then(|()| self.commit()).map_err(|error| match &mut self.sender {
            Some(sender) => sender.give_up(error),
            None => error,
        })
    }

    fn is_enough(&self) -> bool {
        self.options.limit.is_some_and(|limit| self.report.sent >= limit)
    }

    fn letter(&mut self, mut letter: Letter) -> Result<Next, DlqError> {
        if self.is_enough() {
            return Ok(Next::Stop);
        }
        if self.sender.as_ref().is_some_and(Sender::is_full) {
            self.commit()?;
        }
        letter.replayed = Some(self.sent.holds(&letter));
        if !self.filter.matches(&letter) {
            self.report.not_meant += 1;
            return Ok(Next::Continue);
        }
        let to = self.options.to.clone().unwrap_or_else(|| letter.topic.to_string());
        let name = &self.pipeline.name;
        let key = (name.clone(), letter.topic.to_string(), letter.reason.clone());
        let line = self.lines.entry(key).or_insert_with(|| Line {
            pipeline: name.clone(),
            topic: letter.topic.to_string(),
            to: to.clone(),
            reason: letter.reason.clone(),
            sent: 0,
            bytes: 0,
            already_sent: 0,
        });
        // What is not as it was cannot be sent as it was.
        if self.damaged.note(&letter) {
            return Ok(Next::Continue);
        }
        if self.sent.is_done(&letter) {
            line.already_sent += 1;
            self.report.already_sent += 1;
            return Ok(Next::Continue);
        }
        line.sent += 1;
        line.bytes += letter.size() as u64;
        // To look a topic up takes a while, for which no transaction is to stay open.
        if self.sender.as_ref().is_some_and(|sender| !sender.targets.contains_key(&to)) {
            self.commit()?;
        }
        if let Some(sender) = &mut self.sender {
            sender.send(&letter, &to, self.options.keep_partition)?;
        } else if self.report.records.len() < NAMED {
            self.report.records.push(letter.id());
        }
        self.sent.note(&letter);
        self.report.sent += 1;
        self.report.bytes += letter.size() as u64;
        Ok(Next::Continue)
    }

    fn commit(&mut self) -> Result<(), DlqError> {
        let Some(sender) = self.sender.as_mut().filter(|sender| sender.letters > 0) else { return Ok(()) };
        sender.commit(&mut self.sent)?;
        self.report.transactions += 1;
        Ok(())
    }
}

/// A topic to send to.
struct Target {
    handle: TopicHandle,
    partitions: i32,
}

/// The producer with its open transaction.
struct Sender<'a> {
    pipeline: &'a Pipeline,
    producer: TransactionalProducer,
    replays: TopicHandle,
    targets: HashMap<String, Target>,
    begun: Instant,
    /// In the open transaction; there is none without.
    letters: u64,
    bytes: u64,
    largest: Option<(usize, Id)>,
}

impl<'a> Sender<'a> {
    /// Takes over from every older replay of the pipeline.
    fn open(pipeline: &'a Pipeline) -> Result<Sender<'a>, DlqError> {
        let settings = Settings {
            transactional_id: pipeline.dlq.transactional_id.clone(),
            compression: Compression::Lz4,
            max_message_bytes: MESSAGE_BYTES,
        };
        rights::topic(&pipeline.kafka, &pipeline.dlq.replay_topic, rights::OF_REPLAYS)?;
        let opened = TransactionalProducer::open(&pipeline.kafka, &settings);
        let mut producer =
            opened.map_err(|error| rights::of_opening(pipeline, &error).unwrap_or_else(|| stopped(error)))?;
        let replays = producer.topic(&pipeline.dlq.replay_topic).map_err(stopped)?;
        let targets = HashMap::new();
        let begun = Instant::now();
        Ok(Sender { pipeline, producer, replays, targets, begun, letters: 0, bytes: 0, largest: None })
    }

    fn is_full(&self) -> bool {
        self.letters >= TRANSACTION_LETTERS
            || self.bytes >= TRANSACTION_BYTES
            || (self.letters > 0 && self.begun.elapsed() >= TRANSACTION_TIME)
    }

    /// Looked up before anything is sent to it, for brokers may make a topic of any name that is sent to.
    fn target(&mut self, name: &str) -> Result<&Target, DlqError> {
        if !self.targets.contains_key(name) {
            let partitions = rights::topic(&self.pipeline.kafka, name, rights::OF_TARGETS)?.partitions;
            let handle = self.producer.topic(name).map_err(stopped)?;
            self.targets.insert(name.to_owned(), Target { handle, partitions });
        }
        Ok(&self.targets[name])
    }

    fn send(&mut self, letter: &Letter, to: &str, keep_partition: bool) -> Result<(), DlqError> {
        let &Target { handle, partitions } = self.target(to)?;
        if keep_partition && letter.partition >= partitions {
            return Err(DlqError::Selection(format!(
                "record {} was in partition {}, and topic {to} has {partitions}: add partitions to it, or leave out --keep-partition",
                letter.id(),
                letter.partition
            )));
        }
        if self.letters == 0 {
            failpoint::hit("dlq.before_begin").map_err(|error| stopped(error.into()))?;
            self.producer.begin().map_err(stopped)?;
            (self.begun, self.bytes, self.largest) = (Instant::now(), 0, None);
        }
        let headers = (!letter.body.headers.is_empty())
            .then(|| Headers::new(letter.body.headers.iter().map(|(name, value)| (name.as_slice(), value.as_deref()))));
        let message = Outgoing {
            topic: handle,
            partition: keep_partition.then_some(letter.partition),
            key: letter.body.key.as_deref(),
            value: letter.body.payload.as_deref(),
            headers: headers.as_ref(),
            timestamp_ms: clock::now_ms(),
        };
        self.producer.send(&message).map_err(stopped)?;
        self.letters += 1;
        self.bytes += letter.size() as u64;
        if self.largest.as_ref().is_none_or(|(size, _)| *size < letter.size()) {
            self.largest = Some((letter.size(), letter.id()));
        }
        failpoint::hit("dlq.mid_transaction").map_err(|error| stopped(error.into()))
    }

    /// Commits the messages together with the records of which they are.
    fn commit(&mut self, sent: &mut Sent) -> Result<(), DlqError> {
        failpoint::hit("dlq.before_record").map_err(|error| stopped(error.into()))?;
        for (key, value) in sent.take_records()? {
            let message = Outgoing {
                topic: self.replays,
                // Read back from there, however many there are.
                partition: Some(0),
                key: Some(key.as_bytes()),
                value: Some(&value),
                headers: None,
                timestamp_ms: clock::now_ms(),
            };
            self.producer.send(&message).map_err(stopped)?;
        }
        failpoint::hit("dlq.before_commit").map_err(|error| stopped(error.into()))?;
        self.producer.commit().map_err(stopped)?;
        self.letters = 0;
        failpoint::hit("dlq.after_commit").map_err(|error| stopped(error.into()))
    }

    /// Aborts what is open. Of messages that were too large the error names the largest.
    fn give_up(&mut self, error: DlqError) -> DlqError {
        self.producer.abort();
        match (error, &self.largest) {
            (DlqError::Stopped { reason, unavailable, .. }, Some((size, id))) if reason.contains(MESSAGE_TOO_LARGE) => {
                let bytes = group_digits(*size as u64);
                let hint = format!(
                    ". The largest of those that were refused together is {id}, of {bytes} bytes: raise the topic's max.message.bytes, or leave it out by --where 'size<{size}'"
                );
                DlqError::Stopped { reason, hint, unavailable }
            }
            (error, _) => error,
        }
    }
}

/// What a failure of the producer means for a replay.
fn stopped(error: ProducerError) -> DlqError {
    match error {
        ProducerError::Fenced { transactional_id } => DlqError::Fenced { transactional_id },
        ProducerError::UnknownOutcome { reason } => DlqError::Stopped {
            reason: format!("it is unknown whether the last messages were committed ({reason})"),
            hint: String::new(),
            unavailable: true,
        },
        error => {
            let unavailable = matches!(error, ProducerError::Unreachable { .. } | ProducerError::Timeout { .. });
            DlqError::Stopped { reason: error.to_string(), hint: String::new(), unavailable }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = if self.dry_run { "TO SEND" } else { "SENT" };
        let head = [
            ("TOPIC", Set::Left),
            ("TO", Set::Left),
            ("REASON", Set::Left),
            (sent, Set::Right),
            ("BYTES", Set::Right),
            ("ALREADY SENT", Set::Right),
        ];
        let row = |line: &Line| {
            let texts = [&line.topic, &line.to, &line.reason].map(|text| escape::line(text));
            texts.into_iter().chain([line.sent, line.bytes, line.already_sent].map(group_digits)).collect()
        };
        if !self.lines.is_empty() {
            write!(f, "{}", table::lines(&head, &self.lines.iter().map(row).collect::<Vec<_>>()))?;
        }
        for id in &self.records {
            writeln!(f, "would send {}", escape::line(&id.to_string()))?;
        }
        let unnamed = self.sent.saturating_sub(self.records.len() as u64);
        if !self.records.is_empty() && unnamed > 0 {
            writeln!(f, "and {} more", group_digits(unnamed))?;
        }
        let (sent, already) = (group_digits(self.sent), group_digits(self.already_sent));
        match self.dry_run {
            true => write!(f, "dry run, nothing was sent: {sent} would be, {already} were already")?,
            false => {
                let transactions = match self.transactions {
                    1 => "1 transaction".to_owned(),
                    count => format!("{} transactions", group_digits(count)),
                };
                write!(f, "{sent} sent in {transactions}, {already} already sent, {:.1} s", self.seconds)?;
            }
        }
        if self.sent == 0 && self.already_sent > 0 {
            write!(f, " (--again NAME sends them once more)")?;
        }
        for warning in &self.warnings {
            write!(f, "\nwarning: {}", escape::line(warning))?;
        }
        Ok(())
    }
}
