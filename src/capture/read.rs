//! Rows from a `COPY` stream into the open Kafka transaction, which is cut where it is full.

use super::{
    checkpoint::{CheckpointError, Progress, Records},
    copy::{BadCopy, Fields, Splitter, field},
    errors::{Fault, TableError},
    plan::{KeyText, widen},
    publish::Row,
    search::{Tally, bucket},
    session::{Copy, Session},
    silence::Side,
    sink::Sink,
    source::{Source, WatermarkType},
    value::{self, Kind, push_string},
    witness::Captured,
    zone::Zone,
};
use futures_util::FutureExt;
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Fields before the table's own: distance of the id, size where too large.
const LEADING_FIELDS: usize = 2;
/// Rows between two looks at the clock and at shutdown.
const ROWS_A_LOOK: u32 = 64;

/// Bytes of a key in a dead letter.
const LONGEST_LETTER_KEY: usize = 10_000;

/// Time for reading once the first row has come.
const LEAST_READING: Duration = Duration::from_millis(500);

const DAY_US: i64 = 86_400_000_000;

/// The last row handed over: raw key and watermark, kept to continue after it.
#[derive(Debug, Default)]
pub struct Last {
    pub xid: u64,
    raw: Vec<u8>,
    fields: Fields,
}

impl Last {
    fn remember(&mut self, xid: u64, row: &[u8], fields: &Fields, source: &Source) -> Result<(), BadCopy> {
        self.xid = xid;
        self.raw.clear();
        self.fields.clear();
        for position in source.key.iter().chain([&source.watermark]) {
            match field(row, fields, LEADING_FIELDS + position)? {
                Some(bytes) => {
                    self.fields.push(Some((self.raw.len() as u32, bytes.len() as u32)));
                    self.raw.extend_from_slice(bytes);
                }
                None => self.fields.push(None),
            }
        }
        Ok(())
    }

    /// Whether a cut may stand between this row and the next: nothing tells equal ones apart.
    fn differs(&self, xid: u64, row: &[u8], fields: &Fields, source: &Source, order: Order) -> Result<bool, BadCopy> {
        if source.unique {
            return Ok(true);
        }
        let compared = match order {
            Order::Ids if self.xid != xid => return Ok(true),
            Order::Ids => source.key.len(),
            Order::Watermark => source.key.len() + 1,
        };
        for (position, column) in source.key.iter().chain([&source.watermark]).enumerate().take(compared) {
            let is_exact = source.columns[*column].order.is_exact;
            match (field(&self.raw, &self.fields, position)?, field(row, fields, LEADING_FIELDS + column)?) {
                // Other bytes may be the same value to the server, and so to what continues after it.
                (Some(last), Some(next)) if is_exact && last != next => return Ok(true),
                (None, Some(_)) | (Some(_), None) => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    }

    fn text(&self, source: &Source, position: usize, column: usize) -> Result<Option<String>, TableError> {
        let column = &source.columns[column];
        let raw = field(&self.raw, &self.fields, position).map_err(|error| bad_row(source, error))?;
        raw.map(|raw| column.kind.sql_text(raw)).transpose().map_err(|error| TableError::Value {
            table: source.quoted.clone(),
            column: column.name.clone(),
            source: error,
        })
    }

    /// PostgreSQL's text of the key.
    pub fn key(&self, source: &Source) -> Result<KeyText, TableError> {
        source.key.iter().enumerate().map(|(position, column)| self.text(source, position, *column)).collect()
    }

    /// The row as it is looked up later; `xmin` is that of the snapshot that showed it.
    pub fn captured(&self, source: &Source, xmin: u64) -> Result<Captured, TableError> {
        let watermark = self.text(source, source.key.len(), source.watermark)?;
        Ok(Captured { xid: self.xid, xmin, watermark, key: self.key(source)? })
    }

    /// PostgreSQL's text of watermark and key.
    pub fn watermark_and_key(&self, source: &Source) -> Result<KeyText, TableError> {
        let mut values = vec![self.text(source, source.key.len(), source.watermark)?];
        values.extend(self.key(source)?);
        Ok(values)
    }
}

fn bad_row(source: &Source, error: BadCopy) -> TableError {
    TableError::Row { table: source.quoted.clone(), what: error.0 }
}

/// The order in which rows come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Ids,
    Watermark,
}

/// What a poll and a chunk make of the rows that go by.
pub trait Mark {
    fn order(&self) -> Order;
    /// A row is handed over.
    fn give(&mut self, xid: u64);
    /// What holds once all rows up to `last` are committed; `next` is the id of the row behind it, where known.
    fn cut(&self, last: &Last, next: Option<u64>) -> Result<Progress, TableError>;
}

/// What is read and where it goes.
pub struct Reading<'a> {
    pub table: usize,
    pub source: &'a Source,
    pub zone: &'a mut Zone,
    pub checkpoint_key: &'a Arc<str>,
    pub name: &'a Arc<str>,
    pub poll_time_us: i64,
    /// The id from which ages count.
    pub latest: u64,
    pub max_row_bytes: u64,
    /// Ids are noted, rows are not published.
    pub is_silent: bool,
    /// Every row is counted, for the search below the bound.
    pub tally: &'a mut Tally,
    pub shutdown: watch::Receiver<bool>,
    pub session: &'a Session,
    /// When the snapshot shall be given back, with what has been read by then.
    pub until: Instant,
}

#[derive(Debug, Default)]
pub struct Read {
    pub rows: u64,
    pub last: Option<Last>,
    /// Greatest watermark, microseconds since the Unix epoch.
    pub newest_us: Option<i64>,
    /// Ended before the last row, for shutdown or because the snapshot was held for long enough.
    pub is_cut_short: bool,
}

enum Waited {
    Message(Option<Result<bytes::Bytes, tokio_postgres::Error>>),
    /// The rows so far are covered by a checkpoint, and no more shall be read.
    End,
}

/// Why a stream ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("{0}")]
    Server(tokio_postgres::Error),
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Nothing is wrong; it is too early to read.
    #[error("{0}")]
    Pending(String),
}

impl Reading<'_> {
    /// Reads the stream to its end, or to a row behind which a cut may stand once shutdown or the end of the
    /// snapshot's time has come. Where a row cannot be read, those before it are cut off and published.
    pub async fn run(
        mut self,
        mut stream: Copy<'_>,
        sink: &mut Sink,
        mark: &mut dyn MarkSend,
    ) -> Result<Read, ReadError> {
        let (mut read, mut last) = (Read::default(), Last::default());
        let done = self.rows(&mut stream, sink, mark, &mut read, &mut last).await;
        stream.stop().await;
        match done {
            Ok(()) => {
                read.last = (read.rows > 0).then_some(last);
                Ok(read)
            }
            Err(error) => {
                let is_of_row = match &error {
                    ReadError::Table(_) => true,
                    ReadError::Server(error) => !error.is_closed(),
                    ReadError::Fault(_) | ReadError::Pending(_) => false,
                };
                // Without a look at the next row only a unique key tells where a cut may stand.
                if is_of_row && self.source.unique && sink.unmarked_rows(self.table) > 0 {
                    let progress = mark.cut(&last, None)?;
                    self.cut(sink, progress, read.newest_us).await?;
                }
                Err(error)
            }
        }
    }

    async fn rows(
        &mut self,
        stream: &mut Copy<'_>,
        sink: &mut Sink,
        mark: &mut dyn MarkSend,
        read: &mut Read,
        last: &mut Last,
    ) -> Result<(), ReadError> {
        let source = self.source;
        let fault = |error| ReadError::Fault(Fault::Producer(error));
        let bad = |error| ReadError::Table(bad_row(source, error));
        let mut splitter = Splitter::default();
        let mut fields = Fields::new();
        let mut looked = 0_u32;
        let mut is_due = false;
        sink.select(self.table, self.name, self.poll_time_us).await.map_err(fault)?;
        loop {
            let message = match stream.next().now_or_never() {
                Some(message) => message,
                None => match self.wait(stream, sink, mark, last, read).await? {
                    Waited::Message(message) => {
                        // It may have taken long.
                        looked = ROWS_A_LOOK;
                        message
                    }
                    Waited::End => {
                        read.is_cut_short = true;
                        return Ok(());
                    }
                },
            };
            let Some(message) = message else { break };
            splitter.push(message.map_err(ReadError::Server)?);
            while let Some(row) = splitter.next(&mut fields).map_err(bad)? {
                let age = field(&row, &fields, 0).map_err(bad)?.and_then(|raw| raw.first_chunk::<4>());
                let age = age.ok_or(BadCopy("no id")).map_err(bad)?;
                let xid = widen(self.latest, i32::from_be_bytes(*age));
                looked += 1;
                if looked >= ROWS_A_LOOK {
                    looked = 0;
                    let now = Instant::now();
                    is_due = self.shall_end(now) || sink.deadline().is_some_and(|deadline| deadline <= now);
                }
                if (is_due || sink.is_full())
                    && read.rows > 0
                    && !self.is_silent
                    && last.differs(xid, &row, &fields, source, mark.order()).map_err(bad)?
                {
                    let progress = mark.cut(last, Some(xid))?;
                    self.cut(sink, progress, read.newest_us).await?;
                    is_due = false;
                    if self.shall_end(Instant::now()) {
                        read.is_cut_short = true;
                        return Ok(());
                    }
                }
                let start = sink.batch.bytes.len();
                let rows = sink.batch.rows.len();
                let is_dead_letter = match self.is_silent {
                    true => false,
                    false => match self.encode(&row, &fields, xid, sink) {
                        Ok(is_dead_letter) => is_dead_letter,
                        Err(error) => {
                            sink.batch.bytes.truncate(start);
                            sink.batch.rows.truncate(rows);
                            return Err(error.into());
                        }
                    },
                };
                mark.give(xid);
                if read.rows == 0 {
                    // A server that had to sort for long would else do so for a handful of rows.
                    self.until = self.until.max(Instant::now() + LEAST_READING);
                }
                read.rows += 1;
                self.note_watermark(&row, &fields, read)?;
                if self.is_silent {
                    continue;
                }
                last.remember(xid, &row, &fields, source).map_err(bad)?;
                let bytes = (sink.batch.bytes.len() - start) as u64;
                if sink.count(bytes, is_dead_letter) && self.hand_over(stream, sink).await? {
                    let progress = mark.cut(last, None)?;
                    self.cut(sink, progress, read.newest_us).await?;
                    read.is_cut_short = true;
                    return Ok(());
                }
            }
        }
        sink.flush().await.map_err(fault)
    }

    /// Whether no more than what is needed for a cut shall be read.
    fn shall_end(&self, now: Instant) -> bool {
        *self.shutdown.borrow() || self.until <= now
    }

    /// Hands the batch over. True where Kafka took so long that the snapshot has been given back meanwhile, so that
    /// nobody waits for our locks.
    async fn hand_over(&self, stream: &mut Copy<'_>, sink: &mut Sink) -> Result<bool, ReadError> {
        let fault = |error| ReadError::Fault(Fault::Producer(error));
        let mut flush = pin!(sink.flush());
        tokio::select! {
            biased;
            done = &mut flush => return done.map(|()| false).map_err(fault),
            // Only of a unique key it is known that a cut may stand here.
            () = tokio::time::sleep_until(self.until.into()), if self.source.unique => {}
        }
        stream.stop().await;
        self.session.end().await.map_err(|error| ReadError::Fault(error.into()))?;
        flush.await.map(|()| true).map_err(fault)
    }

    /// Waits for the server. A transaction that is open all the while is ended in time, and so is the snapshot.
    async fn wait(
        &self,
        stream: &mut Copy<'_>,
        sink: &mut Sink,
        mark: &mut dyn MarkSend,
        last: &Last,
        read: &Read,
    ) -> Result<Waited, ReadError> {
        let mut shutdown = self.shutdown.clone();
        loop {
            // Without a look at the next row only a unique key tells where a cut may stand.
            let may_end = self.source.unique || sink.unmarked_rows(self.table) == 0;
            let deadline = sink.deadline().filter(|_| may_end);
            // Before the first row the server may be sorting, which would only begin again.
            let until = Some(self.until).filter(|_| self.source.unique && !self.is_silent && read.rows > 0);
            let overdue = async {
                match deadline.into_iter().chain(until).min() {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            let waiting = sink.pulse().waiting(Side::Postgres);
            let is_down = tokio::select! {
                biased;
                message = stream.next() => return Ok(Waited::Message(message)),
                _ = shutdown.wait_for(|down| *down) => true,
                () = overdue => false,
            };
            drop(waiting);
            let is_over = is_down || until.is_some_and(|until| until <= Instant::now());
            if sink.unmarked_rows(self.table) > 0 && self.source.unique {
                let progress = mark.cut(last, None)?;
                self.cut(sink, progress, read.newest_us).await?;
            } else if !is_over {
                sink.commit().await?;
            }
            if is_over {
                return Ok(Waited::End);
            }
        }
    }

    async fn cut(&self, sink: &mut Sink, mut progress: Progress, newest_us: Option<i64>) -> Result<(), ReadError> {
        progress.newest_us = progress.newest_us.max(newest_us);
        let records = encode_checkpoint(self.source, self.checkpoint_key, &progress)?;
        Ok(sink.cut(self.table, progress, records).await?)
    }

    fn note_watermark(&mut self, row: &[u8], fields: &Fields, read: &mut Read) -> Result<(), TableError> {
        let raw = field(row, fields, LEADING_FIELDS + self.source.watermark);
        let Some(raw) = raw.map_err(|error| bad_row(self.source, error))? else {
            self.tally.note(None);
            return Ok(());
        };
        let kind = self.source.watermark_type;
        let raw = match kind {
            WatermarkType::Date => raw.first_chunk::<4>().map(|raw| i64::from(i32::from_be_bytes(*raw))),
            _ => raw.first_chunk::<8>().map(|raw| i64::from_be_bytes(*raw)),
        };
        self.tally.note(raw.map(|raw| bucket(kind, raw)));
        let time_us = raw.and_then(|raw| match kind {
            WatermarkType::Date => {
                i32::try_from(raw).ok().and_then(value::date_unix_us).map(|local| self.zone.instant_us(local))
            }
            WatermarkType::Timestamp => value::unix_us(raw).map(|local| self.zone.instant_us(local)),
            WatermarkType::TimestampTz => value::unix_us(raw),
        });
        // A date in the far future would stand as the newest for good.
        let plausible_us = self.poll_time_us.saturating_add(DAY_US);
        read.newest_us = read.newest_us.max(time_us.filter(|time| *time <= plausible_us));
        Ok(())
    }

    /// Puts key and value into the batch; true where the row is too large and its dead letter is there instead.
    fn encode(&mut self, row: &[u8], fields: &Fields, xid: u64, sink: &mut Sink) -> Result<bool, TableError> {
        let source = self.source;
        let bad = |error| bad_row(source, error);
        let out = &mut sink.batch.bytes;
        let start = out.len();
        self.encode_key(row, fields, out)?;
        let mut key_end = out.len();
        let mut too_large = field(row, fields, 1)
            .map_err(bad)?
            .and_then(|raw| raw.first_chunk::<8>())
            .map(|raw| i64::from_be_bytes(*raw).unsigned_abs());
        if too_large.is_none() {
            for (position, column) in source.columns.iter().enumerate() {
                out.extend_from_slice(&column.json_name);
                match field(row, fields, LEADING_FIELDS + position).map_err(bad)? {
                    None => out.extend_from_slice(b"null"),
                    Some(raw) => {
                        let written = column.kind.write_json(raw, self.zone, out);
                        written.map_err(|error| TableError::Value {
                            table: source.quoted.clone(),
                            column: column.name.clone(),
                            source: error,
                        })?;
                    }
                }
            }
            out.push(b'}');
            // The key counts too: Kafka bounds the whole message.
            let bytes = (out.len() - start) as u64;
            too_large = (bytes > self.max_row_bytes).then_some(bytes);
        }
        if let Some(bytes) = too_large {
            // Of a key that is itself too large, the begin says which row it is.
            key_end = key_end.min(start + LONGEST_LETTER_KEY);
            // Not within a character.
            while out.get(key_end).is_some_and(|byte| byte & 0xC0 == 0x80) {
                key_end -= 1;
            }
            out.truncate(key_end);
            let key = out[start..].to_vec();
            out.extend_from_slice(b"{\"table\":");
            push_string(out, source.name.as_bytes());
            out.extend_from_slice(b",\"key\":");
            push_string(out, &key);
            out.extend_from_slice(format!(",\"reason\":\"row_too_large\",\"bytes\":{bytes}}}").as_bytes());
        }
        sink.batch.rows.push(Row { key_end, end: out.len(), xid, is_dead_letter: too_large.is_some() });
        Ok(too_large.is_some())
    }

    /// One column: its text as it is. Several: a JSON array of their values.
    fn encode_key(&mut self, row: &[u8], fields: &Fields, out: &mut Vec<u8>) -> Result<(), TableError> {
        let source = self.source;
        let is_single = source.key.len() == 1;
        for (position, column) in source.key.iter().enumerate() {
            if !is_single {
                out.push(if position == 0 { b'[' } else { b',' });
            }
            let raw = field(row, fields, LEADING_FIELDS + column).map_err(|error| bad_row(source, error))?;
            let column = &source.columns[*column];
            let start = out.len();
            let written = match raw {
                None => {
                    out.extend_from_slice(b"null");
                    Ok(())
                }
                Some(raw) if is_single && matches!(column.kind, Kind::Text | Kind::AsText | Kind::Inet) => {
                    out.extend_from_slice(raw);
                    continue;
                }
                Some(raw) if is_single && column.kind == Kind::Char => {
                    column.kind.sql_text(raw).map(|text| out.extend_from_slice(text.as_bytes()))
                }
                Some(raw) => column.kind.write_json(raw, self.zone, out),
            };
            written.map_err(|error| TableError::Value {
                table: source.quoted.clone(),
                column: column.name.clone(),
                source: error,
            })?;
            // The quotes of a JSON string tell it from what else it may look like.
            let has_own_quotes = matches!(column.kind, Kind::Json | Kind::Jsonb | Kind::Char);
            if is_single && !has_own_quotes && out.get(start) == Some(&b'"') {
                out.remove(start);
                out.pop();
            }
        }
        if !is_single {
            out.push(b']');
        }
        Ok(())
    }
}

/// [`Mark`] that can be held over an await.
pub trait MarkSend: Mark + Send {}
impl<T: Mark + Send> MarkSend for T {}

pub fn encode_checkpoint(source: &Source, key: &Arc<str>, progress: &Progress) -> Result<Records, TableError> {
    let refused =
        |error: CheckpointError| TableError::CannotResume { table: source.quoted.clone(), reason: error.to_string() };
    progress.records(key).map_err(refused)
}
