//! Watches while the pipeline runs, and tells what happens.

use super::{
    feed::Feed,
    found::{Moment, Planted},
    tables,
};
use crate::{
    app::group_digits,
    clock::now_ms,
    demo::{DemoError, pipeline::Pipeline, play::Clock},
    generate::chat::Kind,
    postgres::PostgresError,
};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Behind the clock by the watermark's delay, the time from one flush to the next, and a little.
const CAUGHT_UP_MS: i64 = 21_000;

/// When all of the past was counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CaughtUp {
    pub at_ms: i64,
    /// Of both topics.
    pub records: u64,
    pub seconds: f64,
}

pub struct Watch<'a> {
    clock: &'a Clock,
    client: &'a Client,
    feed: &'a Feed,
    planted: &'a [Planted],
    started: Instant,
    caught_up: Option<CaughtUp>,
    /// Up to here episodes have been announced.
    announced_ms: i64,
    /// Moments that have been told, and those of the past.
    told: Option<Vec<Moment>>,
    line: Instant,
}

impl<'a> Watch<'a> {
    pub fn new(
        clock: &'a Clock,
        client: &'a Client,
        feed: &'a Feed,
        planted: &'a [Planted],
        live_from_ms: i64,
    ) -> Watch<'a> {
        let now = Instant::now();
        Watch {
            clock,
            client,
            feed,
            planted,
            started: now,
            caught_up: None,
            announced_ms: live_from_ms,
            told: None,
            line: now,
        }
    }

    pub fn caught_up(&self) -> Option<CaughtUp> {
        self.caught_up
    }

    /// Until the clock shows `until_ms`, or there is no more chat.
    pub async fn until_clock(&mut self, pipeline: &mut Pipeline, until_ms: i64) -> Result<(), DemoError> {
        while now_ms() < until_ms && !self.feed.is_over() {
            self.look(pipeline).await?;
        }
        Ok(())
    }

    /// Until there is no more chat.
    pub async fn until_over(&mut self, pipeline: &mut Pipeline) -> Result<(), DemoError> {
        while !self.feed.is_over() {
            self.look(pipeline).await?;
        }
        Ok(())
    }

    /// Until the windows that ended by `end_ms` are final.
    pub async fn until_final(
        &mut self,
        pipeline: &mut Pipeline,
        end_ms: i64,
        limit: Duration,
    ) -> Result<(), DemoError> {
        let deadline = Instant::now() + limit;
        loop {
            let position = self.look(pipeline).await?;
            if position.watermark_ms.is_some_and(|watermark_ms| watermark_ms >= end_ms) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let behind = position.watermark_ms.map_or("not set".to_owned(), |at_ms| {
                    format!("{:.0} s short of the last of them", (end_ms - at_ms) as f64 / 1e3)
                });
                let seconds = limit.as_secs();
                return Err(DemoError::Late(format!(
                    "after {seconds} s not all windows are final: the watermark is {behind}"
                )));
            }
        }
    }

    async fn look(&mut self, pipeline: &mut Pipeline) -> Result<tables::Position, DemoError> {
        tokio::time::sleep(LOOK_INTERVAL).await;
        pipeline.check()?;
        let position = tables::position(self.client).await.map_err(PostgresError::Query)?;
        let now_ms = now_ms();
        let behind_ms = position.watermark_ms.map(|watermark_ms| now_ms - watermark_ms);
        self.announce(now_ms);
        if behind_ms.is_some_and(|behind_ms| behind_ms < CAUGHT_UP_MS) {
            self.catch_up(now_ms, position);
            self.tell_moments().await?;
        }
        if self.line.elapsed() >= LINE_INTERVAL {
            self.line = Instant::now();
            let behind = behind_ms.map_or("no window yet".to_owned(), |behind_ms| {
                format!(
                    "watermark {:.0} s ago, {} final windows",
                    behind_ms as f64 / 1e3,
                    group_digits(position.final_rows as u64)
                )
            });
            self.clock.say(&format!("  {} records written; {behind}", group_digits(self.feed.records())));
        }
        Ok(position)
    }

    fn catch_up(&mut self, now_ms: i64, position: tables::Position) {
        if self.caught_up.is_some() {
            return;
        }
        let (records, seconds) = (self.feed.records(), self.started.elapsed().as_secs_f64());
        self.caught_up = Some(CaughtUp { at_ms: now_ms, records, seconds });
        self.clock.say(&format!(
            "  the past is counted: {} records in {seconds:.0} s; {} moments found in it",
            group_digits(records),
            position.moments
        ));
    }

    /// Planted episodes that have begun.
    fn announce(&mut self, now_ms: i64) {
        for planted in self.planted {
            if (self.announced_ms..now_ms).contains(&planted.start_ms) {
                let Planted { stream, kind, factor, .. } = planted;
                let what = match kind {
                    Kind::ViewerDrop => format!("{:.0} % of the viewers leave", (1.0 - factor) * 100.0),
                    Kind::EmoteSpike => format!("emotes times {factor:.1}"),
                    Kind::ChatSpike | Kind::Burst => format!("messages times {factor:.1}"),
                };
                self.clock.say(&format!("  planted in {stream}: {what}"));
            }
        }
        self.announced_ms = self.announced_ms.max(now_ms);
    }

    /// What was found since the past is counted.
    async fn tell_moments(&mut self) -> Result<(), DemoError> {
        let moments = tables::moments(self.client).await.map_err(PostgresError::Query)?;
        for moment in moments.iter().filter(|moment| self.told.as_ref().is_some_and(|told| !told.contains(moment))) {
            let Moment { kind, stream, value, baseline, .. } = moment;
            let (value, baseline) = (group_digits(*value as u64), group_digits(*baseline as u64));
            self.clock.say(&format!("  found in {stream}: {kind}, {value} where {baseline} is usual"));
        }
        self.told = Some(moments);
        Ok(())
    }
}
