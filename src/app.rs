//! Builds the stages that a configuration asks for, supervises them and drains them: the only
//! module that sees all stages.
//!
//! A stage that ends, well or badly, ends alone: the others go on, and the process leaves when all
//! have ended. What a stage promises about its own failures is written in its `mod.rs`.

use crate::{
    amount, analyze, capture,
    clock::now_ms,
    config::model::{Config, Pipeline},
    health::Health,
    http, land, metrics,
    stage::{Context, Failure, Summary, Wait},
    systemd,
};
use serde::Serialize;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing::Instrument;

/// Exit codes, as the README lists them.
pub mod exit {
    pub const DONE: u8 = 0;
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const UNAVAILABLE: u8 = 75;
    pub const CONFIGURATION: u8 = 78;

    /// Each code with what it means, for `--help` and the README.
    pub const ALL: &[(u8, &str)] = &[
        (DONE, "done: drained after a signal, caught up, or nothing wrong found"),
        (FAILED, "failed: a stage stopped, a check found something wrong, or a running process is not ready"),
        (USAGE, "wrong arguments"),
        (UNAVAILABLE, "PostgreSQL or Kafka stayed away for all tries at start"),
        (CONFIGURATION, "the configuration is wrong; every error is printed"),
    ];
}

/// Which stages to run, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub capture: bool,
    pub land: bool,
    pub analyze: bool,
    pub until_caught_up: bool,
    pub progress_bar: bool,
    pub capture_options: capture::Options,
    pub land_options: land::Options,
    pub analyze_options: analyze::Options,
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("the configuration has no {stage} section: nothing to do")]
    NothingToDo { stage: &'static str },
    #[error("http.listen {address} cannot be opened: {source}; {}", another_address(source))]
    Listen { address: String, source: std::io::Error },
    #[error("signals cannot be caught: {0}")]
    Signals(std::io::Error),
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

fn another_address(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another process has it, such as another pipeline: give this one a port of its own, in its file or as \
             HEADWATER__HTTP__LISTEN=127.0.0.1:9465, or null to turn the server off"
        }
        _ => "set an address of this machine and a free port, or null to turn the server off",
    }
}

/// What a whole run did, printed at its end.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub land: Option<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analyze: Option<Summary>,
    pub seconds: f64,
    /// Rows of the last stage that ran, over `seconds`.
    pub rows_per_second: f64,
    pub cpu_seconds: f64,
    pub peak_rss_bytes: u64,
}

impl Report {
    fn stages(&self) -> impl Iterator<Item = (&'static str, &Summary)> {
        [("capture", &self.capture), ("land", &self.land), ("analyze", &self.analyze)]
            .into_iter()
            .filter_map(|(name, summary)| Some((name, summary.as_ref()?)))
    }

    pub fn exit_code(&self) -> u8 {
        let failures: Vec<&Failure> = self.stages().flat_map(|(_, summary)| &summary.failures).collect();
        match failures.as_slice() {
            [] => exit::DONE,
            failures if failures.iter().all(|failure| failure.unavailable) => exit::UNAVAILABLE,
            _ => exit::FAILED,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, summary) in self.stages() {
            let rows = group_digits(summary.rows);
            let bytes = amount::bytes(summary.bytes);
            write!(f, "{name:<8} {rows:>13} rows {bytes:>15}")?;
            if name == "land" {
                write!(f, " {:>8} files", group_digits(summary.files))?;
            }
            writeln!(f)?;
            for (reason, count) in &summary.dead_letters {
                writeln!(f, "         {:>13} dead letters: {reason}", group_digits(*count))?;
            }
            for failure in &summary.failures {
                writeln!(f, "         failed: {}: {}", failure.unit, failure.reason)?;
            }
        }
        write!(
            f,
            "{:.1} s, {} rows/s, {:.1} CPU s, peak RSS {}",
            self.seconds,
            group_digits(self.rows_per_second as u64),
            self.cpu_seconds,
            amount::bytes(self.peak_rss_bytes)
        )
    }
}

/// `1234567` as `1,234,567`.
pub fn group_digits(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Runs the chosen stages of every pipeline until they have caught up, a signal drains them, or all
/// have failed. A second signal, or a drain longer than `runtime.shutdown_timeout_ms`, leaves at
/// once, which is always safe.
pub async fn run(config: Config, options: Options) -> Result<Report, AppError> {
    let start = Instant::now();
    let (cpu_before, _) = metrics::process_usage();
    let wants = |stage: bool, present: fn(&Pipeline) -> bool| stage && config.pipelines.iter().any(present);
    let runs_capture = wants(options.capture, |pipeline| pipeline.capture.is_some());
    let runs_land = wants(options.land, |pipeline| pipeline.land.is_some());
    let runs_analyze = wants(options.analyze, |pipeline| pipeline.analyze.is_some());
    if !runs_capture && !runs_land && !runs_analyze {
        let stage = match (options.capture, options.land, options.analyze) {
            (true, false, false) => "capture",
            (false, true, false) => "land",
            (false, false, true) => "analyze",
            _ => "capture, land or analyze",
        };
        return Err(AppError::NothingToDo { stage });
    }

    let prometheus = metrics::install()?;
    metrics::BUILD_INFO.set(&[env!("CARGO_PKG_VERSION")], 1.0);
    metrics::START_TIME.set(&[], now_ms() as f64 / 1e3);
    let patience = Duration::from_millis(config.runtime.stall_timeout_ms);
    let health = Health::new(patience, config.http.show_payloads);
    if let Some(address) = &config.http.listen {
        let bound = http::serve(address, &config.http, health.clone(), prometheus)
            .await
            .map_err(|source| AppError::Listen { address: address.clone(), source })?;
        tracing::info!(address = %bound, "http listening");
    }
    let (shutdown_sender, shutdown) = watch::channel(false);
    drain_on_signal(shutdown_sender, config.runtime.shutdown_timeout_ms)?;
    tokio::spawn(systemd::tell(health.clone(), shutdown.clone()));

    let mut captures = JoinSet::new();
    let mut lands = JoinSet::new();
    let mut analyses = JoinSet::new();
    for pipeline in config.pipelines {
        let pipeline = Arc::new(pipeline);
        let captures_here = options.capture && pipeline.capture.is_some();
        let (done_sender, upstream_done) = watch::channel(!captures_here);
        let context = Context {
            health: health.clone(),
            shutdown: shutdown.clone(),
            until_caught_up: options.until_caught_up,
            upstream_done,
            wait: Wait { attempts: config.runtime.wait_attempts, delay_ms: config.runtime.wait_delay_ms },
            progress_bar: options.progress_bar,
        };
        if captures_here {
            let (pipeline, context) = (pipeline.clone(), context.clone());
            captures.spawn(async move {
                let stage = capture::run(pipeline.clone(), context, options.capture_options);
                let stage = tokio::spawn(stage.instrument(tracing::info_span!("capture", pipeline = pipeline.name)));
                let summary = ended(stage.await, &pipeline.name, "capture");
                // Only now is the end of a topic the end of its rows.
                done_sender.send_replace(true);
                summary
            });
        }
        if options.analyze && pipeline.analyze.is_some() {
            let (pipeline, context, options) = (pipeline.clone(), context.clone(), options.analyze_options.clone());
            analyses.spawn(async move {
                let stage = analyze::run(pipeline.clone(), context, options);
                let stage = tokio::spawn(stage.instrument(tracing::info_span!("analyze", pipeline = pipeline.name)));
                ended(stage.await, &pipeline.name, "analyze")
            });
        }
        if options.land && pipeline.land.is_some() {
            let options = options.land_options.clone();
            lands.spawn(async move {
                let stage = land::run(pipeline.clone(), context, options);
                let stage = tokio::spawn(stage.instrument(tracing::info_span!("land", pipeline = pipeline.name)));
                ended(stage.await, &pipeline.name, "land")
            });
        }
    }
    let capture = collect(captures).await;
    let land = collect(lands).await;
    let analyze = collect(analyses).await;

    let seconds = start.elapsed().as_secs_f64();
    let rows = land.as_ref().or(analyze.as_ref()).or(capture.as_ref()).map_or(0, |summary| summary.rows);
    let (cpu, peak_rss_bytes) = metrics::process_usage();
    Ok(Report {
        capture,
        land,
        analyze,
        seconds,
        rows_per_second: rows as f64 / seconds.max(1e-9),
        cpu_seconds: cpu - cpu_before,
        peak_rss_bytes,
    })
}

fn ended(result: Result<Summary, tokio::task::JoinError>, pipeline: &str, stage: &str) -> Summary {
    result.unwrap_or_else(|error| {
        let reason = format!("a defect in headwater ended this stage: {error}; please report it");
        tracing::error!(pipeline, stage, "{reason}");
        let failure = Failure { unit: format!("{pipeline} {stage}"), reason, unavailable: false };
        Summary { failures: vec![failure], ..Summary::default() }
    })
}

/// The sum over all pipelines; none where the stage did not run.
async fn collect(mut stages: JoinSet<Summary>) -> Option<Summary> {
    let mut sum = None::<Summary>;
    while let Some(result) = stages.join_next().await {
        let summary = ended(result, "all", "supervisor");
        sum.get_or_insert_default().merge(summary);
    }
    sum
}

fn drain_on_signal(shutdown: watch::Sender<bool>, timeout_ms: u64) -> Result<(), AppError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("draining; a second signal leaves at once");
        shutdown.send_replace(true);
        tokio::select! {
            _ = terminate.recv() => tracing::warn!("second signal: leaving at once"),
            _ = interrupt.recv() => tracing::warn!("second signal: leaving at once"),
            () = tokio::time::sleep(Duration::from_millis(timeout_ms)) => {
                tracing::warn!(timeout_ms, "not drained within runtime.shutdown_timeout_ms: leaving at once");
            }
        }
        std::process::exit(i32::from(exit::FAILED));
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(group_digits(number), text);
        }
    }

    #[test]
    fn exit_code_says_whether_waiting_would_have_helped() {
        let failure = |unavailable| Failure { unit: "t".into(), reason: "r".into(), unavailable };
        let report = |failures: Vec<Failure>| Report {
            capture: Some(Summary { failures, ..Summary::default() }),
            land: None,
            analyze: None,
            seconds: 1.0,
            rows_per_second: 0.0,
            cpu_seconds: 0.0,
            peak_rss_bytes: 0,
        };
        assert_eq!(report(vec![]).exit_code(), exit::DONE);
        assert_eq!(report(vec![failure(true)]).exit_code(), exit::UNAVAILABLE);
        assert_eq!(report(vec![failure(true), failure(false)]).exit_code(), exit::FAILED);
    }
}
