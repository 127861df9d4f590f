//! The thread that publishes: it takes batches, checkpoints and commits in order, and answers each
//! commit with a receipt. Its first error is its last word; what was open is then aborted.

use super::{
    checkpoint::Records,
    silence::{Pulse, Side},
    value,
};
use crate::{
    clock::now_ms,
    config::model::{Capture, Kafka},
    failpoint,
    kafka::producer::{Headers, Outgoing, ProducerError, Settings, TopicHandle, TransactionalProducer},
};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// Batches under way between the reader and this thread.
const CHANNEL_BATCHES: usize = 8;
/// Spare batches kept for reuse.
const SPARE_BATCHES: usize = 4;

/// Names the table that a message comes from; what is looked for to tell our messages in a topic.
pub const TABLE_HEADER: &str = "headwater-table";

/// Encoded rows in one allocation: of each its key, then its value.
#[derive(Debug, Default)]
pub struct Batch {
    pub bytes: Vec<u8>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub key_end: usize,
    pub end: usize,
    pub xid: u64,
    /// Goes to the topic of dead letters.
    pub is_dead_letter: bool,
}

pub enum Command {
    /// `name` is that of the table, for the header.
    Rows {
        table: usize,
        name: Arc<str>,
        poll_time_us: i64,
        batch: Batch,
    },
    Checkpoint {
        table: usize,
        records: Records,
    },
    Commit,
}

/// How long the committed transaction was open.
pub type Receipt = Result<Duration, ProducerError>;

pub struct Publisher {
    pub pulse: Pulse,
    commands: mpsc::Sender<Command>,
    receipts: mpsc::UnboundedReceiver<Receipt>,
    spare: mpsc::Receiver<Batch>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Publisher {
    /// Opens the producer, which fences any older one.
    pub async fn start(kafka: &Kafka, capture: &Capture, pulse: Pulse) -> Result<Publisher, ProducerError> {
        let (commands, command_queue) = mpsc::channel(CHANNEL_BATCHES);
        let (receipt_queue, receipts) = mpsc::unbounded_channel();
        let (spare_queue, spare) = mpsc::channel(SPARE_BATCHES);
        let (opened_sender, opened) = oneshot::channel();
        let settings = Settings {
            transactional_id: capture.transactional_id.clone(),
            compression: capture.compression,
            max_message_bytes: capture.max_row_bytes,
        };
        let kafka = kafka.clone();
        let topics: Vec<String> = capture.tables.iter().map(|table| table.topic.clone()).collect();
        let (checkpoint_topic, dead_letter_topic) =
            (capture.checkpoint_topic.clone(), capture.dead_letter_topic.clone());
        let span = tracing::Span::current();
        let thread = std::thread::Builder::new()
            .name("publish".to_owned())
            .spawn(move || {
                let _span = span.entered();
                let open = || {
                    let mut producer = TransactionalProducer::open(&kafka, &settings)?;
                    let topics = topics.iter().map(|topic| producer.topic(topic)).collect::<Result<_, _>>()?;
                    let checkpoints = producer.topic(&checkpoint_topic)?;
                    let dead_letters = producer.topic(&dead_letter_topic)?;
                    Ok(Loop {
                        producer,
                        topics,
                        checkpoints,
                        dead_letters,
                        tables: BTreeSet::new(),
                        spare_queue,
                        begun: Instant::now(),
                        headers: None,
                    })
                };
                match open() {
                    Err(error) => drop(opened_sender.send(Err(error))),
                    Ok(publishing) => {
                        let _ = opened_sender.send(Ok(()));
                        publishing.run(command_queue, &receipt_queue);
                    }
                }
            })
            .map_err(ProducerError::Failpoint)?;
        let publisher = Publisher { pulse, commands, receipts, spare, thread: Some(thread) };
        match opened.await {
            Ok(Ok(())) => Ok(publisher),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ProducerError::Gone),
        }
    }

    pub async fn send(&mut self, command: Command) -> Result<(), ProducerError> {
        let _waiting = self.pulse.waiting(Side::Kafka);
        if self.commands.send(command).await.is_ok() {
            return Ok(());
        }
        // The thread has said why, behind the receipts of what it did commit.
        loop {
            match self.receipts.recv().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(ProducerError::Gone),
            }
        }
    }

    pub async fn receipt(&mut self) -> Receipt {
        let _waiting = self.pulse.waiting(Side::Kafka);
        self.receipts.recv().await.unwrap_or(Err(ProducerError::Gone))
    }

    pub fn receipt_at_hand(&mut self) -> Option<Receipt> {
        self.receipts.try_recv().ok()
    }

    pub fn spare_batch(&mut self) -> Batch {
        self.spare.try_recv().unwrap_or_default()
    }

    /// Ends the thread; an open transaction is aborted. Bounded by the deadlines of its calls.
    pub async fn stop(mut self) {
        let thread = self.thread.take();
        drop(self);
        let _ = tokio::task::spawn_blocking(move || thread.map(std::thread::JoinHandle::join)).await;
    }
}

struct Loop {
    producer: TransactionalProducer,
    topics: Vec<TopicHandle>,
    checkpoints: TopicHandle,
    dead_letters: TopicHandle,
    /// Whose messages the open transaction holds.
    tables: BTreeSet<usize>,
    spare_queue: mpsc::Sender<Batch>,
    begun: Instant,
    /// Of the last message, reused while they stay the same.
    headers: Option<(Arc<str>, u64, i64, Headers)>,
}

impl Loop {
    fn run(mut self, mut commands: mpsc::Receiver<Command>, receipts: &mpsc::UnboundedSender<Receipt>) {
        while let Some(command) = commands.blocking_recv() {
            let receipt = match command {
                Command::Rows { table, name, poll_time_us, batch } => {
                    self.rows(table, &name, poll_time_us, batch).err().map(Err)
                }
                Command::Checkpoint { table, records } => self.checkpoint(table, &records).err().map(Err),
                Command::Commit => Some(self.commit()),
            };
            let receipt = receipt.map(|receipt| receipt.map_err(|error| self.of_tables(error)));
            let failed = matches!(receipt, Some(Err(_)));
            if let Some(receipt) = receipt
                && receipts.send(receipt).is_err()
            {
                break;
            }
            if failed {
                break;
            }
        }
        self.producer.abort();
    }

    /// Says of a refusal whose messages were in the transaction.
    fn of_tables(&self, error: ProducerError) -> ProducerError {
        match error {
            ProducerError::Refused { topic, reason, .. } => {
                ProducerError::Refused { topic, reason, of: self.tables.iter().copied().collect() }
            }
            other => other,
        }
    }

    fn begin(&mut self) -> Result<(), ProducerError> {
        if !self.producer.is_in_transaction() {
            failpoint::hit("capture.before_begin")?;
            self.producer.begin()?;
            self.begun = Instant::now();
            failpoint::hit("capture.after_begin")?;
        }
        Ok(())
    }

    fn rows(
        &mut self,
        table: usize,
        name: &Arc<str>,
        poll_time_us: i64,
        mut batch: Batch,
    ) -> Result<(), ProducerError> {
        self.begin()?;
        self.tables.insert(table);
        failpoint::hit("capture.mid_transaction")?;
        let now_ms = now_ms();
        let topic = self.topics[table];
        let mut start = 0;
        for row in &batch.rows {
            let is_same = matches!(&self.headers, Some((of, xid, time, _)) if *xid == row.xid && *time == poll_time_us && of == name);
            if !is_same {
                let xid = row.xid.to_string();
                let time = value::instant_text(poll_time_us);
                let pairs = [(TABLE_HEADER, &**name), ("headwater-xid", &*xid), ("headwater-poll-time", &*time)];
                let headers = Headers::new(pairs.map(|(name, value)| (name.as_bytes(), Some(value.as_bytes()))));
                self.headers = Some((name.clone(), row.xid, poll_time_us, headers));
            }
            let headers = self.headers.as_ref().map(|(_, _, _, headers)| headers);
            let topic = if row.is_dead_letter { self.dead_letters } else { topic };
            let (key, value) = (&batch.bytes[start..row.key_end], &batch.bytes[row.key_end..row.end]);
            let (partition, timestamp_ms) = (None, now_ms);
            self.producer.send(&Outgoing {
                topic,
                partition,
                key: Some(key),
                value: Some(value),
                headers,
                timestamp_ms,
            })?;
            start = row.end;
        }
        batch.bytes.clear();
        batch.rows.clear();
        // Where no more are kept, it is freed.
        let _ = self.spare_queue.try_send(batch);
        Ok(())
    }

    fn checkpoint(&mut self, table: usize, records: &Records) -> Result<(), ProducerError> {
        self.begin()?;
        self.tables.insert(table);
        failpoint::hit("capture.before_checkpoint")?;
        for (key, value) in records {
            self.producer.send(&Outgoing {
                topic: self.checkpoints,
                // Read back from there, however many there are.
                partition: Some(0),
                key: Some(key.as_bytes()),
                value: Some(value),
                headers: None,
                timestamp_ms: now_ms(),
            })?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Receipt {
        failpoint::hit("capture.before_commit")?;
        self.producer.commit()?;
        self.tables.clear();
        failpoint::hit("capture.after_commit")?;
        Ok(self.begun.elapsed())
    }
}
