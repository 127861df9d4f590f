//! The reader's side of publishing: which rows and checkpoints the open Kafka transaction holds, and
//! what becomes true when its receipt comes.

use super::{
    checkpoint::{Progress, Records},
    errors::{Fault, SessionError},
    publish::{Batch, Command, Publisher, Receipt},
    read::{Read, ReadError},
    silence::{Pulse, Side},
};
use crate::{
    clock::now_ms,
    config::model::Capture,
    health::{Content, Letter, Letters},
    kafka::producer::ProducerError,
    record::reason::ROW_TOO_LARGE,
};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_postgres::Client;

const BATCH_BYTES: usize = 256 * 1024;
/// Transactions handed over whose receipts have not come.
const MOST_OUTSTANDING: usize = 2;

/// Longest wait until the server's log is on its disk; a Kafka transaction is open meanwhile.
const LONGEST_FLUSH: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

const LOG_FLUSHED: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::int8";
/// A commit that waits for the disk brings with it all that was written before.
const FLUSH_LOG: &str = "BEGIN READ WRITE; SET LOCAL synchronous_commit = local;
    SELECT pg_logical_emit_message(true, 'headwater', ''); COMMIT";

/// What one transaction holds of one table.
#[derive(Debug, Default)]
pub struct Share {
    pub table: usize,
    pub rows: u64,
    pub bytes: u64,
    pub dead_letters: u64,
    /// The newest of these.
    pub letters: Letters,
    /// The last checkpoint; every share has one before it is committed.
    pub progress: Option<Progress>,
    /// Rows since that checkpoint.
    unmarked_rows: u64,
}

/// A committed transaction.
#[derive(Debug)]
pub struct Committed {
    pub shares: Vec<Share>,
    pub open: Duration,
}

pub struct Sink {
    publisher: Publisher,
    pub batch: Batch,
    batch_of: Option<(usize, Arc<str>, i64)>,
    shares: Vec<Share>,
    begun: Option<Instant>,
    rows: u64,
    bytes: u64,
    outstanding: VecDeque<Vec<Share>>,
    /// The last checkpoint of a table that was cut in the middle of the present reading.
    cut: Option<(usize, Progress)>,
    max_rows: u64,
    max_bytes: u64,
    max_open: Duration,
    dead_letter_topic: String,
    server: Arc<Client>,
    /// The server's log up to here holds all that was read.
    log_end: i64,
    /// And is on its disk up to here.
    log_flushed: i64,
}

impl Sink {
    /// `server` is asked how far its log is on disk.
    pub fn new(publisher: Publisher, capture: &Capture, server: Arc<Client>) -> Sink {
        Sink {
            server,
            log_end: 0,
            log_flushed: 0,
            publisher,
            batch: Batch::default(),
            batch_of: None,
            shares: Vec::new(),
            begun: None,
            rows: 0,
            bytes: 0,
            outstanding: VecDeque::new(),
            cut: None,
            max_rows: capture.max_transaction_rows.max(1),
            max_bytes: capture.max_transaction_bytes.max(1),
            max_open: Duration::from_millis(capture.max_transaction_ms.max(1)),
            dead_letter_topic: capture.dead_letter_topic.clone(),
        }
    }

    pub fn pulse(&self) -> &Pulse {
        &self.publisher.pulse
    }

    /// Whether the open transaction has reached a limit by size.
    pub fn is_full(&self) -> bool {
        self.rows >= self.max_rows || self.bytes >= self.max_bytes
    }

    /// When the open transaction shall end.
    pub fn deadline(&self) -> Option<Instant> {
        self.begun.map(|begun| begun + self.max_open)
    }

    /// Rows of `table` that no checkpoint in the transaction covers yet.
    pub fn unmarked_rows(&self, table: usize) -> u64 {
        self.shares.iter().find(|share| share.table == table).map_or(0, |share| share.unmarked_rows)
    }

    fn share(&mut self, table: usize) -> &mut Share {
        let position = match self.shares.iter().position(|share| share.table == table) {
            Some(position) => position,
            None => {
                self.shares.push(Share { table, ..Share::default() });
                self.shares.len() - 1
            }
        };
        &mut self.shares[position]
    }

    /// Says whose rows are put into `batch` from now on.
    pub async fn select(&mut self, table: usize, name: &Arc<str>, poll_time_us: i64) -> Result<(), ProducerError> {
        self.flush().await?;
        self.batch_of = Some((table, name.clone(), poll_time_us));
        Ok(())
    }

    /// Counts the row that was just put into `batch`. True when the batch should be flushed.
    pub fn count(&mut self, bytes: u64, is_dead_letter: bool) -> bool {
        self.begun.get_or_insert_with(Instant::now);
        self.rows += 1;
        self.bytes += bytes;
        if let Some((table, ..)) = self.batch_of {
            let letter = is_dead_letter.then(|| self.last_letter());
            let share = self.share(table);
            share.rows += u64::from(!is_dead_letter);
            share.bytes += bytes;
            share.dead_letters += u64::from(is_dead_letter);
            letter.into_iter().for_each(|letter| share.letters.push(letter));
            share.unmarked_rows += 1;
        }
        self.batch.bytes.len() >= BATCH_BYTES
    }

    /// The last row of the batch, which is a dead letter.
    fn last_letter(&self) -> Letter {
        let value = self.batch.rows.last().and_then(|row| self.batch.bytes.get(row.key_end..row.end));
        Letter {
            at_ms: now_ms(),
            topic: self.dead_letter_topic.clone(),
            place: None,
            reason: ROW_TOO_LARGE.to_owned(),
            content: Some(Content::new("its JSON is larger than capture.max_row_bytes", value)),
        }
    }

    pub async fn flush(&mut self) -> Result<(), ProducerError> {
        let Some((table, name, poll_time_us)) = self.batch_of.clone().filter(|_| !self.batch.rows.is_empty()) else {
            return Ok(());
        };
        let spare = self.publisher.spare_batch();
        let batch = std::mem::replace(&mut self.batch, spare);
        self.publisher.send(Command::Rows { table, name, poll_time_us, batch }).await
    }

    /// Puts a checkpoint behind the rows so far.
    pub async fn checkpoint(
        &mut self,
        table: usize,
        progress: Progress,
        records: Records,
    ) -> Result<(), ProducerError> {
        self.flush().await?;
        let share = self.share(table);
        share.progress = Some(progress);
        share.unmarked_rows = 0;
        self.begun.get_or_insert_with(Instant::now);
        self.publisher.send(Command::Checkpoint { table, records }).await
    }

    /// Puts a record of a table beside its checkpoint, which says nothing of rows.
    pub async fn record(&mut self, table: usize, key: &Arc<str>, value: Vec<u8>) -> Result<(), ProducerError> {
        self.flush().await?;
        self.share(table);
        self.begun.get_or_insert_with(Instant::now);
        let records = vec![(key.clone(), value)];
        self.publisher.send(Command::Checkpoint { table, records }).await
    }

    pub fn forget_cut(&mut self, table: usize) {
        self.cut.take_if(|(of, _)| *of == table);
    }

    /// What a reading that did not come to its end has left behind in Kafka nevertheless.
    pub fn take_cut(&mut self, table: usize, read: &Result<Read, ReadError>) -> Option<Progress> {
        let is_whole = matches!(read, Ok(read) if !read.is_cut_short);
        let cut = self.cut.take_if(|(of, _)| *of == table && !is_whole);
        cut.map(|(_, progress)| progress)
    }

    /// Puts a checkpoint behind the rows so far, in the middle of a reading, and commits.
    pub async fn cut(&mut self, table: usize, progress: Progress, records: Records) -> Result<(), Fault> {
        self.cut = Some((table, progress.clone()));
        self.checkpoint(table, progress, records).await?;
        self.commit().await
    }

    /// What is read from now on was committed before the server's log reached `log_end`.
    pub fn sees(&mut self, log_end: i64) {
        self.log_end = self.log_end.max(log_end);
    }

    /// Waits until no crash of the server can take back what was read. With `synchronous_commit = off` a transaction
    /// is seen before it is on disk; a crash then loses it and gives its id to another, whose rows we would take for
    /// given. So a checkpoint vouches only for what is flushed.
    async fn log_is_flushed(&mut self) -> Result<(), SessionError> {
        if self.log_flushed >= self.log_end {
            return Ok(());
        }
        let _waiting = self.publisher.pulse.waiting(Side::Disk);
        let flushed = tokio::time::timeout(LONGEST_FLUSH, self.flush_log()).await;
        flushed.unwrap_or(Err(SessionError::NotFlushed { seconds: LONGEST_FLUSH.as_secs() }))
    }

    async fn flush_log(&mut self) -> Result<(), SessionError> {
        let mut has_asked = false;
        loop {
            self.log_flushed = self.server.query_one(LOG_FLUSHED, &[]).await.map_err(SessionError::query)?.get(0);
            if self.log_flushed >= self.log_end {
                return Ok(());
            }
            if !std::mem::replace(&mut has_asked, true) {
                match self.server.batch_execute(FLUSH_LOG).await {
                    Ok(()) => continue,
                    Err(error) if error.is_closed() => return Err(SessionError::query(error)),
                    Err(error) => {
                        tracing::debug!("the server's log is waited for, since it cannot be flushed: {error}");
                        self.server.batch_execute("ROLLBACK").await.map_err(SessionError::query)?;
                    }
                }
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Ends the open transaction, if there is one, without waiting for its receipt. Never with rows
    /// that no checkpoint covers: these stay open, to be aborted.
    pub async fn commit(&mut self) -> Result<(), Fault> {
        if self.shares.is_empty() || self.shares.iter().any(|share| share.unmarked_rows > 0) {
            return Ok(());
        }
        self.flush().await?;
        self.log_is_flushed().await?;
        self.publisher.send(Command::Commit).await?;
        self.outstanding.push_back(std::mem::take(&mut self.shares));
        (self.begun, self.rows, self.bytes) = (None, 0, 0);
        Ok(())
    }

    /// The next transaction that is committed: waits where `all` shall be settled or too many are
    /// outstanding, else takes what is at hand.
    pub async fn settle(&mut self, all: bool) -> Result<Option<Committed>, ProducerError> {
        let receipt: Receipt = match self.outstanding.len() {
            0 => return Ok(None),
            length if all || length >= MOST_OUTSTANDING => self.publisher.receipt().await,
            _ => match self.publisher.receipt_at_hand() {
                Some(receipt) => receipt,
                None => return Ok(None),
            },
        };
        let open = receipt?;
        Ok(self.outstanding.pop_front().map(|shares| Committed { shares, open }))
    }

    pub async fn stop(self) {
        self.publisher.stop().await;
    }
}
