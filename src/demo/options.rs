//! The command line of `headwater demo`.

use std::path::PathBuf;

/// What can be played by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Rows of PostgreSQL through Kafka into the lake.
    Orders,
    /// Events of Kafka as windows and moments into PostgreSQL.
    Chat,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Play this part alone.
    #[arg(long, value_name = "PART", value_enum)]
    pub only: Option<Part>,
    /// How long orders come in, and then how long chat does.
    #[arg(long, default_value_t = 70.0)]
    pub seconds: f64,
    /// Orders a second while their pipeline runs.
    #[arg(long, default_value_t = 2_000.0)]
    pub rate: f64,
    /// Orders of the past days that are there before the pipeline starts.
    #[arg(long, default_value_t = 50_000)]
    pub backlog: u64,
    /// Chat messages a second, spikes aside, in the past and live.
    #[arg(long, default_value_t = 3_000.0)]
    pub chat_rate: f64,
    /// Chat of so many minutes before now is written first, as fast as possible: detectors need to know what is usual.
    #[arg(long, default_value_t = 12, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(10..=1_440))]
    pub chat_past: u32,
    /// The same seed gives the same orders and events.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Leave servers, pipeline and files as they are, and say how to look at them (also KEEP=1).
    #[arg(long)]
    pub keep: bool,
    /// Use this PostgreSQL (postgres://user:password@host:port/database; also DEMO_POSTGRES_URL) instead of a
    /// private one. The role needs to create a table and a schema, and pg_monitor. Both are dropped at the end.
    #[arg(long, value_name = "URL")]
    pub postgres_url: Option<String>,
    /// Use this Kafka (host:port; also DEMO_KAFKA_BROKERS) instead of a private one. Topics with names of their own
    /// are made, and deleted at the end.
    #[arg(long, value_name = "BROKERS")]
    pub kafka_brokers: Option<String>,
    /// Where the lake goes; a temporary directory when not given.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

impl Options {
    pub(super) fn plays(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    /// Fills in what the environment says and the command line does not.
    pub(super) fn with_environment(mut self) -> Self {
        let given = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        self.keep |= given("KEEP").is_some_and(|value| value != "0");
        self.postgres_url = self.postgres_url.or_else(|| given("DEMO_POSTGRES_URL"));
        self.kafka_brokers = self.kafka_brokers.or_else(|| given("DEMO_KAFKA_BROKERS"));
        self
    }
}
