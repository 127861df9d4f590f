//! Chat: Kafka to windows and moments in PostgreSQL, killed once, then compared with a recomputation.

mod configuration;
mod feed;
mod found;
mod screen;
mod script;
mod sparkline;
mod tables;
mod watch;

pub use configuration::Names;
pub use screen::show_kept;

use super::{
    DemoError, Options,
    pipeline::{Line, Pipeline},
    play::{Clock, clock_line},
    stage_set::StageSet,
};
use crate::{
    app::group_digits,
    clock::now_ms,
    generate::{GenerateError, chat::Kind},
    output,
    postgres::PostgresError,
};
use feed::Feed;
use found::Planted;
use screen::{Chart, Outcome, Verified};
use script::Script;
use sparkline::Columns;
use std::time::Duration;
use tokio_postgres::Client;
use watch::Watch;

/// As shipped: windows are final so long after their end.
const WATERMARK_DELAY_MS: i64 = 10_000;
/// The last windows need the watermark's delay, the idle timeout and a flush; a slow machine more.
const FINAL_LIMIT: Duration = Duration::from_secs(120);
const VERIFY_LIMIT: Duration = Duration::from_secs(300);
/// Rows of the table of streams.
const STREAMS_SHOWN: i64 = 8;
/// Windows of a sparkline: twelve minutes.
const COLUMNS: usize = 72;

/// True when the windows are those of the recomputation and every bad record is a dead letter.
pub async fn play(clock: &Clock, options: &Options, set: &StageSet, names: &Names) -> Result<bool, DemoError> {
    let begun = clock.seconds();
    let script = Script::new(options, now_ms()).map_err(GenerateError::from)?;
    clock.say("headwater run: chat and viewers to windows of a minute, every 10 s, and moments");
    let start = |name: &str, command: &str, more: &[&str]| {
        Pipeline::start(&set.logs, name, Line { command, config: &names.config, more })
    };
    let mut pipeline = start("chat-1", "run", &[])?;
    let feed = Feed::start(set.kafka.clone(), names, &script);
    clock_line(&format!(
        "{} messages/s in {} streams: {} minutes of the past at once, then live for {:.0} s",
        group_digits(options.chat_rate as u64),
        script::STREAMS,
        options.chat_past,
        options.seconds
    ));
    clock_line(&format!(
        "1 % up to 8.5 s late, 0.05 % twice, 0.02 % bad; planted: {} chat spikes, {} viewer drops, {} emote storms",
        script.count(Kind::ChatSpike),
        script.count(Kind::ViewerDrop),
        script.count(Kind::EmoteSpike),
    ));
    let planted: Vec<Planted> = script.episodes.iter().map(Planted::of).collect();
    let client = names.connect(&set.postgres).await?;
    let mut watch = Watch::new(clock, &client, &feed, &planted, script.live_from_ms);

    watch.until_clock(&mut pipeline, script.end_ms - (options.seconds * 500.0) as i64).await?;
    let mut usage = pipeline.usage();
    let killed_ms = now_ms();
    pipeline.kill();
    clock.say(&format!("kill -9 of the pipeline, {} records in; chat goes on", group_digits(feed.records())));
    let mut pipeline = start("chat-2", "run", &[])?;
    clock.say("headwater run: started again");
    watch.until_over(&mut pipeline).await?;
    let ended_ms = now_ms();
    clock.say("no more chat; every window that ended with it becomes final");
    watch.until_final(&mut pipeline, script.last_whole_ms(), FINAL_LIMIT).await?;
    let caught_up = watch.caught_up();
    let written = feed.finish().await?;
    usage = usage.and(pipeline.usage());
    clock.say("the pipeline drains (SIGTERM)");
    pipeline.terminate().await?;

    clock.say("headwater verify: every window recomputed from the topics");
    let verify = start("chat-verify", "verify", &["--format", "json"])?;
    let verified = Verified::of(&verify.output(VERIFY_LIMIT, &[0, 1]).await?);

    let asked = Asked { client: &client, script: &script, planted: &planted };
    let live_ms = (caught_up.map_or(script.live_from_ms, |caught_up| caught_up.at_ms), ended_ms);
    let (found, streams, charts) = asked.all(live_ms).await.map_err(PostgresError::Query)?;
    let outcome = Outcome {
        past_minutes: options.chat_past,
        written,
        caught_up,
        live_seconds: options.seconds,
        caught_up_seconds: caught_up.map_or(0.0, |caught_up| (ended_ms - caught_up.at_ms) as f64 / 1e3),
        killed_before_end_seconds: (ended_ms - killed_ms) as f64 / 1e3,
        verified,
        found,
        usage,
        seconds: clock.seconds() - begun,
    };
    output::line(format_args!("\n{}", screen::summary(&outcome)));
    output::line(format_args!("\n{}", screen::streams(&streams)));
    output::line(format_args!("\n{}", screen::charts(&charts)));
    output::line(format_args!(
        "\n{}",
        screen::scores(&found::scores(&planted, &outcome.found.moments, WATERMARK_DELAY_MS))
    ));
    output::line(format_args!("\n{}", screen::verdict(&outcome)));
    Ok(outcome.is_right())
}

/// Takes back what was made on servers of others.
pub async fn clear(set: &StageSet, names: &Names) -> Result<(), DemoError> {
    names.clear(set).await
}

impl Planted {
    fn of(episode: &crate::generate::chat::Episode) -> Planted {
        let &crate::generate::chat::Episode { kind, stream, start_ms, end_ms, factor } = episode;
        // As the generator names them.
        Planted { kind, stream: format!("s{}", stream + 1), start_ms, end_ms, factor }
    }
}

/// The questions to the tables.
struct Asked<'a> {
    client: &'a Client,
    script: &'a Script,
    planted: &'a [Planted],
}

impl Asked<'_> {
    async fn all(
        &self,
        live_ms: (i64, i64),
    ) -> Result<(screen::Found, Vec<tables::StreamRow>, Vec<Chart>), tokio_postgres::Error> {
        let client = self.client;
        let (final_rows, provisional_rows) = tables::rows(client).await?;
        let found = screen::Found {
            final_rows,
            provisional_rows,
            late: tables::late(client).await?,
            dead_letters: tables::dead_letters(client).await?,
            moments: tables::moments(client).await?,
            delays: tables::delays(client, WATERMARK_DELAY_MS, live_ms).await?,
        };
        let mut charts = Vec::new();
        for planted in self.shown() {
            let column = if planted.kind == Kind::ViewerDrop { "avg_viewers" } else { "chat_rate" };
            let series = tables::series(client, column, &planted.stream).await?;
            let columns = Columns::until(self.script.last_whole_ms(), script::SLIDE_MS, COLUMNS);
            let moments = found.moments.iter().filter(|moment| moment.stream == planted.stream);
            charts.push(Chart::new(columns, planted, &series, moments));
        }
        Ok((found, tables::streams(client, STREAMS_SHOWN).await?, charts))
    }

    /// Of the past and of the present the spike in the busiest stream, and the last drop that is over.
    fn shown(&self) -> Vec<&Planted> {
        let live_from_ms = self.script.live_from_ms;
        let of = |kind: Kind, is_live: bool| {
            let of_kind = self.planted.iter().filter(move |planted| planted.kind == kind);
            of_kind.filter(move |planted| (planted.start_ms >= live_from_ms) == is_live)
        };
        // s2 is busier than s10.
        let busiest =
            |is_live| of(Kind::ChatSpike, is_live).min_by_key(|spike| (spike.stream.len(), spike.stream.as_str()));
        [busiest(false), busiest(true), of(Kind::ViewerDrop, false).next_back()].into_iter().flatten().collect()
    }
}
