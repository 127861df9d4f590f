//! Rows that polls do not see because they were written below the bound: noticed, and told.
//!
//! PostgreSQL's counters of a table say when a search may be worth its while: rows written run ahead of rows captured.
//! They decide nothing, for inserts that were rolled back count too, as do updates that leave the watermark alone. What
//! a search finds does ([`census`]): it goes 26 hours back, as far as a zone can be behind, in questions of two seconds
//! at most, with long rests between them. It never holds up a poll: it has a task and a connection of its own.

mod ask;
mod census;

pub use census::{Tally, bucket};

use super::{
    Engine,
    source::{Source, WatermarkType},
    sql,
    start::Turn,
    table::Known,
};
use crate::{amount, clock::now_us, config::model::Capture, metrics, visible::visible};
use ask::{Answer, Answered, Example, Of, Question, ask};
use census::{Cause, Census, Counters, Lost, Part};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// Between two looks at the counters.
const LOOK: Duration = Duration::from_secs(5);
/// After each question of a search, at least, and so many times as long as the question took.
const REST: Duration = Duration::from_millis(200);
const RESTS: u32 = 10;
/// Buckets in which the newest row is looked for by name.
const MOST_LOOKED_UP: usize = 5;
/// After a search that took too long, and after one that could not ask.
const LONG_REST: Duration = Duration::from_secs(600);
const AFTER_ERROR: Duration = Duration::from_secs(60);

/// Between two notes of transaction ids and times; as many as 26 hours have.
const NOTE_US: i64 = 2_000_000;
const MOST_NOTES: usize = 26 * 1_800;

/// The search of one table in one turn.
pub struct Search {
    fingerprint: String,
    census: Census,
    counters: Counters,
    next: Instant,
    /// Of all questions of the present pass.
    took: Duration,
    /// Passes that came to their end.
    passes: u64,
    /// Buckets in which rows were found, of which none has been looked at yet.
    unseen: Option<Vec<i64>>,
}

impl Search {
    fn of(known: &Known) -> Search {
        Search {
            fingerprint: known.fingerprint.clone(),
            census: Census::new(known.source.watermark_type, known.source.filter.is_some()),
            counters: Counters::default(),
            next: Instant::now(),
            took: Duration::ZERO,
            passes: 0,
            unseen: None,
        }
    }

    pub fn passes(&self) -> u64 {
        self.passes
    }

    fn rest(&mut self, rest: Duration) {
        self.next = Instant::now() + rest;
    }
}

/// What was found below the bound of a table, for as long as the process lives.
#[derive(Default)]
pub struct Below {
    lost: Lost,
    /// Whether one of them has been looked for by name.
    is_looked_up: bool,
    newest: Option<Newest>,
}

struct Newest {
    example: Example,
    /// From the time that its watermark says to when it was written.
    late_us: Option<i64>,
}

impl Below {
    pub fn rows(&self) -> u64 {
        self.lost.rows()
    }

    /// Why the table is not ready: how many rows, the newest, and the likely cause.
    pub fn reason(&self, capture: &Capture, source: &Source) -> Option<String> {
        let rows = self.rows();
        if rows == 0 || !self.is_looked_up {
            return None;
        }
        let column = &source.watermark_column().name;
        let newest = self.newest.as_ref().map_or_else(String::new, |Newest { example, .. }| {
            format!(" The newest has {} and {column} {}.", visible(&example.key), example.watermark)
        });
        let late_us = self.newest.as_ref().and_then(|newest| newest.late_us);
        Some(format!(
            "rows of {} were written with {column} below the bound, where polls do not look again, and are not \
             published: {rows} so far.{newest} {} --resync publishes every row of all tables of the file again.",
            source.quoted,
            cause(capture, source, late_us)
        ))
    }
}

fn cause(capture: &Capture, source: &Source, late_us: Option<i64>) -> String {
    let column = &source.watermark_column().name;
    let is_local = source.watermark_type != WatermarkType::TimestampTz;
    let zone = capture.timezone.as_deref().unwrap_or("UTC");
    let later = |late_us: i64| amount::duration(late_us / 1_000);
    match late_us.map(|late_us| (late_us, Cause::of(late_us))) {
        Some((late_us, Cause::Zone)) if is_local => format!(
            "It was written {} later: whole or half hours are a time zone. {column} is read as {zone} \
             (capture.timezone), and a session writes it in a zone behind: set capture.timezone to that zone, or let \
             all sessions write in {zone}.",
            later(Cause::zone_us(late_us))
        ),
        Some((late_us, Cause::Clock)) => format!(
            "It was written {} later: a clock is behind, or was set back. Set capture.slack_ms (now {}) to more than \
             that.",
            later(late_us.max(0)),
            capture.slack_ms
        ),
        other => format!(
            "{}{}Clocks that are behind need a greater capture.slack_ms, and rows that are dated back another \
             capture.tables[].watermark, such as an updated_at that each write sets to the present.",
            other.map_or_else(String::new, |(late_us, _)| format!("It was written {} later. ", later(late_us))),
            match is_local {
                true => format!("Sessions in a time zone behind {zone} need capture.timezone. "),
                false => String::new(),
            }
        ),
    }
}

/// What is asked at present, of which table, and what transaction ids were given when.
#[derive(Default)]
pub struct Searcher {
    running: Option<(usize, Asked, JoinHandle<Answered>)>,
    client: Option<Client>,
    next_table: usize,
    /// The id that comes next, and when, in microseconds since 1970.
    notes: VecDeque<(u64, i64)>,
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    Counters,
    Count(Part),
    Example,
}

impl Drop for Searcher {
    fn drop(&mut self) {
        if let Some((.., task)) = &self.running {
            task.abort();
        }
    }
}

impl Searcher {
    fn note(&mut self, latest: u64, now_us: i64) {
        let is_new = self.notes.back().is_none_or(|(id, at_us)| *id < latest && at_us + NOTE_US <= now_us);
        if is_new {
            if self.notes.len() == MOST_NOTES {
                self.notes.pop_front();
            }
            self.notes.push_back((latest, now_us));
        }
    }

    /// By when a transaction id had been given, where that is known.
    fn given_us(&self, xid: u64) -> Option<i64> {
        let position = self.notes.partition_point(|(next, _)| *next <= xid);
        (position > 0).then(|| self.notes.get(position).map_or_else(now_us, |(_, at_us)| *at_us))
    }
}

impl Engine {
    /// Takes the answer that has come, and asks what is due. Waits for nothing.
    pub async fn search(&mut self, turn: &mut Turn) {
        turn.searcher.note(turn.session.latest, now_us());
        let answered = turn.searcher.running.take_if(|(.., task)| task.is_finished());
        if let Some((index, asked, task)) = answered
            && let Ok((answer, took, client)) = task.await
        {
            turn.searcher.client = client;
            self.take_answer(turn, index, asked, answer, took);
        }
        let (count, first) = (self.tables.len(), turn.searcher.next_table);
        for index in (0..count).map(|step| (first + step) % count) {
            if turn.searcher.running.is_some() {
                return;
            }
            self.ask_next(turn, index);
        }
    }

    /// Starts the next question about a table, if one is due.
    fn ask_next(&mut self, turn: &mut Turn, index: usize) {
        let table = &mut self.tables[index];
        let Some(known) = table.known.as_mut().filter(|known| known.is_caught_up) else { return };
        // Of another table, or other columns, what was counted before says nothing.
        let search = known.search.take().filter(|search| search.fingerprint == known.fingerprint);
        let mut search = search.unwrap_or_else(|| Search::of(known));
        if search.next <= Instant::now() {
            let lost = &mut table.below.lost;
            if !search.census.has_counted_all() && search.census.next(lost).is_none() {
                search.census.begin(lower(known), &mut known.tally);
            }
            let (asked, question) = match (search.unseen.take(), search.census.next(lost)) {
                (Some(buckets), _) => {
                    let since = lost.since(&buckets);
                    (Asked::Example, Question::Example { buckets, since })
                }
                (None, Some((part, since))) => (Asked::Count(part), Question::Count { part, since }),
                (None, None) => (Asked::Counters, Question::Counters),
            };
            let of = Of {
                source: known.source.clone(),
                lock_name: table.lock_name.clone(),
                fingerprint: known.fingerprint.clone(),
            };
            let task = tokio::spawn(ask(self.pipeline.clone(), turn.searcher.client.take(), of, question));
            turn.searcher.running = Some((index, asked, task));
            turn.searcher.next_table = index + 1;
        }
        known.search = Some(search);
    }

    fn take_answer(&mut self, turn: &mut Turn, index: usize, asked: Asked, answer: Answer, took: Duration) {
        let table = &mut self.tables[index];
        let (below, label) = (&mut table.below, table.label.as_str());
        // Thrown away together with what is known of the table, the question is forgotten.
        let Some(known) = &mut table.known else { return };
        let Some(mut search) = known.search.take() else { return };
        search.rest(REST.max(took * RESTS));
        match (asked, answer) {
            (Asked::Counters, Answer::Counters(written)) => {
                search.rest(LOOK);
                // Those that were found may have been mended.
                if search.counters.are_ahead(written, known.tally.total()) || below.rows() > 0 {
                    search.counters.forgive();
                    search.took = Duration::ZERO;
                    search.census.begin(lower(known), &mut known.tally);
                    search.rest(Duration::ZERO);
                }
            }
            (Asked::Count(part), Answer::Counts { counts, xmin }) => {
                search.took += took;
                let found = search.census.take(part, &counts, xmin, &mut known.tally, &mut below.lost, took);
                if search.census.next(&below.lost).is_none() {
                    search.passes += 1;
                    search.rest(LOOK.max(search.took * RESTS));
                }
                if !found.is_empty() {
                    search.unseen = Some(found.into_iter().rev().take(MOST_LOOKED_UP).collect());
                    search.rest(Duration::ZERO);
                }
                if below.rows() == 0 {
                    *below = Below::default();
                }
                metrics::CAPTURE_BELOW_BOUND.set(&[&self.pipeline.name, label], below.rows() as f64);
            }
            (Asked::Count(_), Answer::TooLong) => {
                if !search.census.shorten() {
                    let column = &known.source.watermark_column().name;
                    tracing::info!(
                        table = label,
                        "rows below the bound are not looked for: a minute of {column} takes longer than two seconds to read; is there an index?"
                    );
                    search.rest(LONG_REST);
                }
            }
            (Asked::Example, answer) => {
                below.is_looked_up = true;
                if let Answer::Example(Some(example)) = answer
                    && below.newest.as_ref().is_none_or(|newest| newest.example.xid < example.xid)
                {
                    let given_us = turn.searcher.given_us(example.xid);
                    let dated_us = dated_us(known, &example);
                    let late_us = given_us.zip(dated_us).map(|(given_us, dated_us)| given_us - dated_us);
                    below.newest = Some(Newest { example, late_us });
                }
            }
            _ => search.rest(AFTER_ERROR),
        }
        known.search = Some(search);
    }
}

/// The raw watermark below which no poll looks again.
fn lower(known: &Known) -> i64 {
    sql::raw_bound(known.source.watermark_type, &known.zone, known.progress.polled.bound_us, now_us())
}

/// The time that a row's watermark says, in microseconds since 1970; a date says none.
fn dated_us(known: &mut Known, example: &Example) -> Option<i64> {
    match known.source.watermark_type {
        WatermarkType::Date => None,
        WatermarkType::Timestamp => Some(known.zone.instant_us(example.watermark_us)),
        WatermarkType::TimestampTz => Some(example.watermark_us),
    }
}
