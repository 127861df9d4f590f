//! Orders: PostgreSQL to Kafka to the lake, killed once, then reconciled row by row.

mod configuration;
mod delays;
mod screen;

pub use configuration::Names;
pub use screen::show_kept;

use super::{
    DemoError, Options,
    pipeline::{Line, Pipeline, Usage},
    play::{Clock, clock_line},
    stage_set::StageSet,
};
use crate::{
    app::group_digits,
    clock::now_ms,
    generate::{self, Bulk, Job, Live, Mode, Progress, Report, Show},
};
use screen::{Outcome, Screen, Verified};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};

/// A share of bad rows that makes dead letters without drowning in them.
const BAD_SHARE: f64 = 0.005;
const CATCH_UP_LIMIT: Duration = Duration::from_secs(180);
const VERIFY_LIMIT: Duration = Duration::from_secs(180);

/// True when nothing was lost or doubled.
pub async fn play(clock: &Clock, options: &Options, set: &StageSet, names: &Names) -> Result<bool, DemoError> {
    let begun = clock.seconds();
    let act = Act { clock, options, set, names };
    clock.say(&format!(
        "writing {} orders of the past 5 days into table {}",
        group_digits(options.backlog),
        names.table
    ));
    let bulk = Bulk { rows: options.backlog, days: 5, transaction_rows: 25_000 };
    let backlog = generate::write(act.job(Mode::Bulk(bulk), Progress::default()).0).await?;

    clock.say("headwater run: first load, polling, landing");
    let from_ms = now_ms();
    let mut pipeline = act.start("orders-1", "run", &[])?;
    let progress = Progress::default();
    let mut generator = Generator::start(&act, progress.clone());
    let mut usage = Usage::default();

    let half = Duration::from_secs_f64(options.seconds * 0.45);
    generator.watch(&act, &mut pipeline, Some(half)).await?;
    usage = usage.and(pipeline.usage());
    let killed_at = progress.report(Duration::ZERO).inserted;
    pipeline.kill();
    clock.say(&format!("kill -9 of the pipeline, {} live orders in; orders go on coming", group_digits(killed_at)));
    let mut pipeline = act.start("orders-2", "run", &[])?;
    clock.say("headwater run: started again");
    generator.watch(&act, &mut pipeline, None).await?;
    let live = generator.finish().await?;

    clock.say("no more orders; the pipeline drains (SIGTERM)");
    usage = usage.and(pipeline.usage());
    pipeline.terminate().await?;
    clock.say("headwater run --until-caught-up");
    let last = act.start("orders-3", "run", &["--until-caught-up", "--format", "json"])?;
    last.output(CATCH_UP_LIMIT, &[0]).await?;

    clock.say("headwater verify: source against topic against lake, row by row");
    let verify = act.start("orders-verify", "verify", &["--format", "json"])?;
    let verified = Verified::of(&verify.output(VERIFY_LIMIT, &[0, 1]).await?);
    clock.say("measuring the delays");
    let delays = delays::measure(set, &names.topic, from_ms).await?;

    let seconds = clock.seconds() - begun;
    let outcome = Outcome { backlog, live, killed_at, verified, delays, usage, seconds };
    Screen { set, outcome: &outcome }.show();
    Ok(outcome.verified.ok)
}

/// Takes back what was made on servers of others.
pub async fn clear(set: &StageSet, names: &Names) -> Result<(), DemoError> {
    let topics = names.topics();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    set.clear(&format!("DROP TABLE IF EXISTS {}", crate::postgres::quote_ident(&names.table)), &topics).await
}

struct Act<'a> {
    clock: &'a Clock,
    options: &'a Options,
    set: &'a StageSet,
    names: &'a Names,
}

impl Act<'_> {
    fn start(&self, name: &str, command: &str, more: &[&str]) -> Result<Pipeline, DemoError> {
        Pipeline::start(&self.set.logs, name, Line { command, config: &self.names.config, more })
    }

    fn job(&self, mode: Mode, progress: Progress) -> (Job, watch::Sender<bool>) {
        let (running, shutdown) = watch::channel(false);
        let job = Job {
            postgres: self.set.postgres.clone(),
            schema: None,
            table: self.names.table.clone(),
            create_table: true,
            seed: self.options.seed,
            bad_share: BAD_SHARE,
            mode,
            shutdown,
            show: Show::Nothing,
            progress,
        };
        (job, running)
    }
}

/// The writing of live orders, in the background.
struct Generator {
    task: JoinHandle<Result<Report, generate::GenerateError>>,
    progress: Progress,
    started: Instant,
    shown: Instant,
    running: watch::Sender<bool>,
}

impl Generator {
    fn start(act: &Act<'_>, progress: Progress) -> Generator {
        let options = act.options;
        let live = Live {
            rows_per_second: options.rate,
            seconds: Some(options.seconds),
            late_share: 0.1,
            late_ms: 4_000,
            rollback_share: 0.02,
            ..Live::default()
        };
        clock_line(&format!(
            "{:.0} orders/s for {:.0} s: 10 % committed late, 2 % rolled back, 10 % updated, 0.5 % bad",
            options.rate, options.seconds
        ));
        let (job, running) = act.job(Mode::Live(live), progress.clone());
        let task = tokio::spawn(generate::write(job));
        Generator { task, progress, started: Instant::now(), shown: Instant::now(), running }
    }

    /// Until `until` (since the start) or, without it, the last order. Says how far things are.
    async fn watch(
        &mut self,
        act: &Act<'_>,
        pipeline: &mut Pipeline,
        until: Option<Duration>,
    ) -> Result<(), DemoError> {
        while !self.task.is_finished() && until.is_none_or(|until| self.started.elapsed() < until) {
            pipeline.check()?;
            if self.shown.elapsed() >= Duration::from_secs(5) {
                self.shown = Instant::now();
                let report = self.progress.report(self.started.elapsed());
                let (files, bytes) = lake_files(&act.set.lake.join("orders"));
                act.clock.say(&format!(
                    "  {} live orders and {} updates committed; the lake has {files} files, {:.1} MB",
                    group_digits(report.inserted),
                    group_digits(report.updated),
                    bytes as f64 / 1e6
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Report, DemoError> {
        Ok((&mut self.task).await.map_err(|_| DemoError::Panicked { task: "generate" })??)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.running.send_replace(true);
    }
}

fn lake_files(table: &Path) -> (usize, u64) {
    let dates = std::fs::read_dir(table).into_iter().flatten().flatten();
    let files = dates.flat_map(|date| std::fs::read_dir(date.path()).into_iter().flatten().flatten());
    files.filter_map(|file| file.metadata().ok()).fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.len()))
}
