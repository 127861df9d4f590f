//! A private PostgreSQL and a private Apache Kafka, for the demo, the tests and the benchmark.
//!
//! Both live in a directory of their own, listen on free loopback ports and end with this process,
//! however it ends: dropped they are killed and their files removed, and where this process is killed
//! outright the kernel signals them (`PR_SET_PDEATHSIG`) and the next [`Scratch`] sweeps up the files.
//! The calls block; from async code use `spawn_blocking`.

mod kafka;
mod ports;
mod postgres;
pub mod process;
mod scratch;

pub use kafka::{KafkaOptions, KafkaServer, ProxiedListener, SaslSsl};
pub use ports::{PortLease, lease_port};
pub use postgres::{PostgresOptions, PostgresServer, PostgresTls};
pub use scratch::Scratch;

use std::{
    io,
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(
        "PostgreSQL's server programs are not on this machine: run scripts/setup.sh, or set HEADWATER_PG_BIN to the directory that holds initdb"
    )]
    NoPostgres,
    #[error("PostgreSQL does not run as root, and there is no user postgres to run it as: run scripts/setup.sh")]
    NoPostgresUser,
    #[error("Kafka's jars are not at {}: run scripts/setup.sh, or set HEADWATER_KAFKA_LIBS", .0.display())]
    NoKafka(PathBuf),
    #[error("{program} cannot be started: {source}; run scripts/setup.sh")]
    Spawn { program: &'static str, source: io::Error },
    #[error("{program} failed ({status}):\n{log}")]
    Failed { program: &'static str, status: String, log: String },
    #[error("{program} did not answer within {seconds} s; the end of its log:\n{log}")]
    Silent { program: &'static str, seconds: u64, log: String },
    #[error("{path}: {source}", path = .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("no free port between {} and {} on 127.0.0.1", ports::FIRST, ports::LAST)]
    NoPort,
}

/// Whether servers outlive this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    #[default]
    EndsWithUs,
    /// They go on after us (`KEEP=1`); a drop neither stops them nor removes their files.
    Outlives,
}

/// Both servers, started at the same time.
pub struct Servers {
    pub postgres: PostgresServer,
    pub kafka: KafkaServer,
}

impl Servers {
    /// Starts both in `directory/postgres` and `directory/kafka`, and waits until they answer (about 4 s).
    pub fn start(directory: &Path, postgres: PostgresOptions, kafka: KafkaOptions) -> Result<Self, ServerError> {
        let (postgres, kafka) = std::thread::scope(|scope| {
            let started = scope.spawn(|| PostgresServer::start(&directory.join("postgres"), postgres));
            let kafka = KafkaServer::start(&directory.join("kafka"), kafka);
            let postgres = started.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (postgres, kafka)
        });
        Ok(Servers { postgres: postgres?, kafka: kafka? })
    }
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> ServerError + '_ {
    move |source| ServerError::File { path: path.to_owned(), source }
}

/// The last lines of a log, for an error message.
pub(super) fn log_tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
