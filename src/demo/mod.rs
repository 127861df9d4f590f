//! `headwater demo`: the whole pipeline on a real PostgreSQL and a real Apache Kafka, killed once in the
//! middle, then reconciled row by row.
//!
//! The demo only stages and watches. What it shows is done by child processes of this same binary, as a
//! user would run them: `run`, `run --until-caught-up`, `verify`.

mod delays;
mod options;
mod pipeline;
mod play;
mod screen;
pub mod servers;
mod stage_set;

pub use options::Options;

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
}

/// Plays the demo. Gives 0 when no row was lost or doubled, 1 when one was or anything failed, 130 when
/// interrupted; in each case everything is taken down again, unless it shall be kept.
pub async fn run(options: Options) -> ExitCode {
    // Interrupted, the play's future is dropped, and with it children, servers and files.
    tokio::select! {
        result = play(options) => match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("demo: {error}");
                ExitCode::FAILURE
            }
        },
        () = interrupted() => {
            eprintln!("demo: interrupted, cleaning up");
            ExitCode::from(130)
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
