//! The play: raise, run, kill, run again, drain, verify, show.

use super::{
    DemoError, Options, delays,
    pipeline::{Pipeline, Usage},
    screen::{Outcome, Screen, Verified},
    stage_set::StageSet,
};
use crate::generate::{self, Bulk, Job, Live, Mode, Progress, Report, Show};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, task::JoinHandle};

/// A share of bad rows that makes dead letters without drowning in them.
const BAD_SHARE: f64 = 0.005;
const CATCH_UP_LIMIT: Duration = Duration::from_secs(180);
const VERIFY_LIMIT: Duration = Duration::from_secs(180);

/// True when nothing was lost or doubled.
pub async fn play(options: Options) -> Result<bool, DemoError> {
    let options = options.with_environment();
    let clock = Clock { started: Instant::now() };
    clock.say("starting PostgreSQL and Apache Kafka");
    let set = StageSet::raise(&options).await?;
    clock.say(&set.servers());
    let result = act(&clock, &options, &set).await;
    match set.clear().await {
        Ok(Some(left)) => println!("{left}"),
        Ok(None) => {}
        Err(error) => eprintln!("demo: cleaning up: {error}"),
    }
    if options.keep && result.is_err() {
        let stop = write_stop_script(&set, None)?;
        eprintln!("demo: servers and files are kept; to stop them: sh {}", stop.display());
    }
    result
}

async fn act(clock: &Clock, options: &Options, set: &StageSet) -> Result<bool, DemoError> {
    clock.say(&format!("writing {} orders of the past 5 days into table {}", options.backlog, set.table));
    let bulk = Bulk { rows: options.backlog, days: 5, transaction_rows: 25_000 };
    let backlog = generate::write(job(options, set, Mode::Bulk(bulk), Progress::default()).0).await?;

    clock.say("headwater run: first load, polling, landing");
    let from_ms = now_ms();
    let mut pipeline = Pipeline::start(set, "run-1", "run", &[])?;
    let progress = Progress::default();
    let mut generator = Generator::start(options, set, progress.clone());
    let mut usage = Usage::default();

    let half = Duration::from_secs_f64(options.seconds * 0.45);
    generator.watch(clock, set, &mut pipeline, Some(half)).await?;
    usage = usage.and(pipeline.usage());
    let killed_at = progress.report(Duration::ZERO).inserted;
    pipeline.kill();
    clock.say(&format!("kill -9 of the pipeline, {killed_at} live orders in; orders go on coming"));
    let mut pipeline = Pipeline::start(set, "run-2", "run", &[])?;
    clock.say("headwater run: started again");
    generator.watch(clock, set, &mut pipeline, None).await?;
    let live = generator.finish().await?;

    clock.say("no more orders; the pipeline drains (SIGTERM)");
    usage = usage.and(pipeline.usage());
    pipeline.terminate().await?;
    clock.say("headwater run --until-caught-up");
    let last = Pipeline::start(set, "run-3", "run", &["--until-caught-up", "--format", "json"])?;
    last.output(CATCH_UP_LIMIT, &[0]).await?;

    clock.say("headwater verify: source against topic against lake, row by row");
    let verify = Pipeline::start(set, "verify", "verify", &["--format", "json"])?;
    let verified = Verified::of(&verify.output(VERIFY_LIMIT, &[0, 1]).await?);
    clock.say("measuring the delays");
    let delays = delays::measure(set, from_ms).await?;

    let kept = if options.keep { Some(Pipeline::start(set, "kept", "run", &[])?) } else { None };
    let outcome = Outcome { backlog, live, killed_at, verified, delays, usage, seconds: clock.seconds() };
    Screen { set, outcome: &outcome }.show();
    if let Some(pipeline) = &kept {
        keep(set, pipeline).await?;
    }
    Ok(outcome.verified.ok)
}

fn job(options: &Options, set: &StageSet, mode: Mode, progress: Progress) -> (Job, watch::Sender<bool>) {
    let (running, shutdown) = watch::channel(false);
    let job = Job {
        postgres: set.postgres.clone(),
        schema: None,
        table: set.table.clone(),
        create_table: true,
        seed: options.seed,
        bad_share: BAD_SHARE,
        mode,
        shutdown,
        show: Show::Nothing,
        progress,
    };
    (job, running)
}

/// The writing of live orders, in the background.
struct Generator {
    task: JoinHandle<Result<Report, generate::GenerateError>>,
    progress: Progress,
    started: Instant,
    shown: Instant,
    _running: watch::Sender<bool>,
}

impl Generator {
    fn start(options: &Options, set: &StageSet, progress: Progress) -> Generator {
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
        let (job, running) = job(options, set, Mode::Live(live), progress.clone());
        let task = tokio::spawn(generate::write(job));
        Generator { task, progress, started: Instant::now(), shown: Instant::now(), _running: running }
    }

    /// Until `until` (since the start) or, without it, the last order. Says how far things are.
    async fn watch(
        &mut self,
        clock: &Clock,
        set: &StageSet,
        pipeline: &mut Pipeline,
        until: Option<Duration>,
    ) -> Result<(), DemoError> {
        while !self.task.is_finished() && until.is_none_or(|until| self.started.elapsed() < until) {
            pipeline.check()?;
            if self.shown.elapsed() >= Duration::from_secs(5) {
                self.shown = Instant::now();
                let report = self.progress.report(self.started.elapsed());
                let (files, bytes) = lake_files(&set.lake.join("orders"));
                clock.say(&format!(
                    "  {} live orders and {} updates committed; the lake has {files} files, {:.1} MB",
                    report.inserted,
                    report.updated,
                    bytes as f64 / 1e6
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn finish(self) -> Result<Report, DemoError> {
        Ok(self.task.await.map_err(|_| DemoError::Panicked { task: "generate" })??)
    }
}

fn lake_files(table: &Path) -> (usize, u64) {
    let dates = std::fs::read_dir(table).into_iter().flatten().flatten();
    let files = dates.flat_map(|date| std::fs::read_dir(date.path()).into_iter().flatten().flatten());
    files.filter_map(|file| file.metadata().ok()).fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.len()))
}

/// Says how to look at what goes on running, and writes the script that stops it.
async fn keep(set: &StageSet, pipeline: &Pipeline) -> Result<(), DemoError> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while pipeline.http_address().is_none() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stop = write_stop_script(set, Some(pipeline))?;
    super::screen::show_kept(set, pipeline.http_address().as_deref(), &stop);
    Ok(())
}

fn write_stop_script(set: &StageSet, pipeline: Option<&Pipeline>) -> Result<PathBuf, DemoError> {
    let stop = set.directory.join("stop.sh");
    let drain = pipeline.map_or_else(String::new, |pipeline| format!("kill -TERM {}\nsleep 2\n", pipeline.pid()));
    let (servers, directory) = (set.stop_commands(), set.directory.display());
    let script = format!("#!/bin/sh\n{drain}{servers}sleep 3\nrm -rf '{directory}'\n");
    std::fs::write(&stop, script).map_err(super::file_error(&stop))?;
    Ok(stop)
}

/// The first column of the progress lines.
struct Clock {
    started: Instant,
}

impl Clock {
    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn say(&self, text: &str) {
        println!("{:>5.0} s  {text}", self.seconds());
    }
}

/// A line that belongs to the one before.
fn clock_line(text: &str) {
    println!("         {text}");
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as i64)
}
