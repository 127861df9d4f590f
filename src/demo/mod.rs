//! `headwater demo`: the whole pipeline on a real PostgreSQL and a real Apache Kafka, in two parts, each
//! killed once in the middle: orders into the lake, reconciled row by row (`orders`), and chat into windows
//! and moments, compared with a recomputation (`chat`).
//!
//! The demo only stages and watches. What it shows is done by child processes of this same binary, as a
//! user would run them: `run`, `run --until-caught-up`, `verify`.

mod chat;
mod options;
mod orders;
mod percentiles;
mod pipeline;
mod play;
pub mod servers;
mod stage_set;

pub use options::Options;

use crate::output;
use percentiles::Percentiles;
use play::play;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("{0}")]
    Servers(#[from] servers::ServerError),
    #[error("{0}")]
    Generate(#[from] crate::generate::GenerateError),
    #[error("{0}")]
    Postgres(#[from] crate::postgres::PostgresError),
    #[error("{0}")]
    Topic(#[from] crate::kafka::reader::ReadError),
    #[error("{path}: {source}", path = .path.display())]
    File { path: std::path::PathBuf, source: std::io::Error },
    #[error("headwater {command} cannot be started: {source}")]
    Spawn { command: String, source: std::io::Error },
    #[error("headwater {command} ended with {status}; the end of its log:\n{log}")]
    Ended { command: String, status: String, log: String },
    #[error("headwater {command} printed what is not JSON ({source}): {output}")]
    Output { command: String, source: serde_json::Error, output: String },
    #[error("the task {task} panicked")]
    Panicked { task: &'static str },
    #[error("{0}")]
    Late(String),
    #[error("interrupted, everything is taken back")]
    Interrupted,
}

/// Plays the demo. Gives 0 when nothing was lost, doubled or wrong, 1 when something was or anything failed,
/// 130 when interrupted; in each case everything is taken down again, unless it shall be kept.
pub async fn run(options: Options) -> ExitCode {
    match play(options, interrupted()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::complain(format_args!("demo: {error}"));
            if matches!(error, DemoError::Interrupted) { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}

async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Runs blocking work on a thread made for it.
async fn blocking<T: Send + 'static>(
    task: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, DemoError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| DemoError::Panicked { task })
}

fn file_error(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> DemoError + '_ {
    move |source| DemoError::File { path: path.to_owned(), source }
}

/// This binary, as a shell would find it.
fn program() -> String {
    std::env::current_exe().map_or_else(|_| "headwater".to_owned(), |path| path.display().to_string())
}
