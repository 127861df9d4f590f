//! The command line of `headwater demo`.

use std::path::PathBuf;

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Orders a second while the pipeline runs.
    #[arg(long, default_value_t = 2_000.0)]
    pub rate: f64,
    /// How long orders come in.
    #[arg(long, default_value_t = 70.0)]
    pub seconds: f64,
    /// Orders of the past days that are there before the pipeline starts.
    #[arg(long, default_value_t = 50_000)]
    pub backlog: u64,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Leave servers, pipeline and files as they are, and say how to look at them (also KEEP=1).
    #[arg(long)]
    pub keep: bool,
    /// Use this PostgreSQL (postgres://user:password@host:port/database; also DEMO_POSTGRES_URL) instead of a
    /// private one. The role needs to create a table, and pg_monitor.
    #[arg(long, value_name = "URL")]
    pub postgres_url: Option<String>,
    /// Use this Kafka (host:port; also DEMO_KAFKA_BROKERS) instead of a private one.
    #[arg(long, value_name = "BROKERS")]
    pub kafka_brokers: Option<String>,
    /// Where the lake goes; a temporary directory when not given.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

impl Options {
    /// Fills in what the environment says and the command line does not.
    pub(super) fn with_environment(mut self) -> Self {
        let given = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        self.keep |= given("KEEP").is_some_and(|value| value != "0");
        self.postgres_url = self.postgres_url.or_else(|| given("DEMO_POSTGRES_URL"));
        self.kafka_brokers = self.kafka_brokers.or_else(|| given("DEMO_KAFKA_BROKERS"));
        self
    }
}
