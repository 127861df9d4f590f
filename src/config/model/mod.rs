//! The resolved configuration: the one general form that the rest of the program knows.
//!
//! [`crate::config::load`] turns a file (short form, general form or tenant template) into these
//! values, with every default filled in. Durations are milliseconds, sizes are bytes, as the field
//! names say.

mod analyze;

pub use analyze::{Analyze, Anomaly, Detector, Direction, Function, Input, Job, Join, Measure, Tokens};

use serde::Serialize;
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// A value that can be used but not printed: `Debug`, `Display` and serialisation give `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The secret itself, for the call that authenticates with it and for nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A whole file: one pipeline, or one for each tenant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    pub pipelines: Vec<Pipeline>,
    pub http: Http,
    pub runtime: Runtime,
}

/// What one database, one Kafka and one lake have to do with each other. Pipelines are isolated:
/// each has its own connections, transactional id, consumer groups and ledgers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pipeline {
    /// The tenant's name, or `pipeline` of the file; a metrics label, part of ids and group names.
    pub name: String,
    pub postgres: Option<Postgres>,
    pub kafka: Kafka,
    pub capture: Option<Capture>,
    pub land: Option<Land>,
    pub analyze: Option<Analyze>,
    pub dlq: Dlq,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Postgres {
    pub host: String,
    pub port: u16,
    pub db: String,
    pub user: String,
    pub password: Option<Secret>,
    pub tls_mode: TlsMode,
    /// PEM file of the authorities to trust; the system's when absent.
    pub tls_ca_file: Option<PathBuf>,
    pub connect_timeout_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    Disable,
    /// TLS where the server offers it, certificate unchecked (libpq's meaning of the word).
    Prefer,
    /// TLS or nothing, certificate unchecked.
    Require,
    /// TLS, the chain and the host name checked.
    VerifyFull,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kafka {
    /// `host:port[,host:port]`
    pub brokers: String,
    pub security_protocol: SecurityProtocol,
    pub sasl_mechanism: Option<SaslMechanism>,
    pub sasl_username: Option<String>,
    pub sasl_password: Option<Secret>,
    pub ssl_ca_file: Option<PathBuf>,
    pub ssl_certificate_file: Option<PathBuf>,
    pub ssl_key_file: Option<PathBuf>,
    /// Whether missing topics may be created.
    pub create_topics: bool,
    /// Further librdkafka properties, passed as they are to every client.
    pub properties: BTreeMap<String, String>,
}

impl Kafka {
    /// Brokers without encryption or passwords, as private ones on loopback are.
    pub fn plaintext(brokers: impl Into<String>) -> Kafka {
        Kafka {
            brokers: brokers.into(),
            security_protocol: SecurityProtocol::Plaintext,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            ssl_ca_file: None,
            ssl_certificate_file: None,
            ssl_key_file: None,
            create_topics: true,
            properties: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityProtocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SaslMechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capture {
    pub poll_interval_ms: u64,
    /// Subtracted from the bound; never 0 (see `capture/plan.rs`).
    pub slack_ms: u64,
    /// Carried for a prepared transaction that is there at the very first poll.
    pub prepared_margin_ms: u64,
    /// IANA name. The zone of `timestamp` (without zone) and `date` watermarks; mandatory unless
    /// the server's zone is UTC.
    pub timezone: Option<String>,
    /// Rows of one backfill chunk, which is one Kafka transaction.
    pub chunk_rows: u64,
    pub max_transaction_rows: u64,
    pub max_transaction_bytes: u64,
    pub max_transaction_ms: u64,
    /// A row whose JSON is larger is a dead letter.
    pub max_row_bytes: u64,
    pub lock_timeout_ms: u64,
    pub max_snapshot_ms: u64,
    /// Compacted topic of the checkpoints.
    pub checkpoint_topic: String,
    pub checkpoint_replication: i32,
    /// `transactional.id`; one capture of a pipeline at a time.
    pub transactional_id: String,
    pub compression: Compression,
    /// Topic of rows too large to publish (key, size, reason).
    pub dead_letter_topic: String,
    /// Directory (holds one file per table) or, with a single table, the file itself: see capture.
    pub last_processed_timestamp_location: Option<PathBuf>,
    pub tables: Vec<CaptureTable>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    None,
    Lz4,
    Zstd,
}

impl Compression {
    /// As the Kafka client and the configuration call it.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaptureTable {
    /// Found by the role's `search_path` when absent.
    pub schema: Option<String>,
    /// The name as PostgreSQL stores it, unquoted.
    pub table: String,
    pub topic: String,
    /// Watermark column: `timestamp`, `timestamptz` or `date`.
    pub watermark: String,
    /// Key columns; the primary key when empty.
    pub key: Vec<String>,
    /// Columns to publish; all when empty. Key and watermark are always read.
    pub columns: Vec<String>,
    /// SQL condition on the table's own columns.
    #[serde(rename = "where")]
    pub filter: Option<String>,
    pub partitions: i32,
    pub replication: i32,
    pub retention_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Land {
    /// Consumer group; each table's is `<group>-<topic>`.
    pub group: String,
    pub rotate_ms: u64,
    pub rotate_bytes: u64,
    /// Most files of one commit.
    pub max_files: u64,
    /// Bound on the memory of open batches, over all tables and partitions of the pipeline.
    pub buffer_bytes: u64,
    /// How long the consumer group waits for a member that does not answer.
    pub session_timeout_ms: u64,
    /// zstd level of the Parquet pages, 1 to 22.
    pub compression_level: i32,
    pub tables: Vec<LandTable>,
}

/// Columns that land adds where `metadata_columns` is set.
pub const METADATA_COLUMNS: [&str; 3] = ["_processing_time", "_kafka_partition", "_kafka_offset"];
/// The column that readers take from the names of the directories, `date=YYYY-MM-DD`.
pub const PARTITION_COLUMN: &str = "date";

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LandTable {
    pub topic: String,
    /// Table root; holds `date=YYYY-MM-DD/part-*.parquet`.
    pub path: PathBuf,
    /// Holds `<topic>-<partition>/ledger` and staging; on the same file system as `path`.
    pub checkpoint_location: PathBuf,
    /// Table root of the dead letters; on the same file system as `path`.
    pub dead_letter_path: PathBuf,
    /// Where the columns come from.
    pub schema: LandSchema,
    /// The event-time column whose UTC date is the partition.
    pub date_column: String,
    /// Fields that must be present and not null; a violation is `null_key`.
    pub not_null: Vec<String>,
    /// Fields that must not be below zero; a violation is `negative_amount`.
    pub non_negative: Vec<String>,
    /// Decimal128 of a `numeric` column without precision.
    pub numeric_precision: u8,
    pub numeric_scale: i8,
    /// Text column that keeps unknown fields as a JSON object; counted only when absent.
    pub overflow_column: Option<String>,
    /// Adds `_processing_time`, `_kafka_partition`, `_kafka_offset`.
    pub metadata_columns: bool,
    /// The names that fields have in the lake, where these are others.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// Whether a file system of several machines is trusted to lock and rename as a local one does.
    pub allow_network_file_system: bool,
}

impl LandTable {
    /// Where ledger and staging of a partition stand.
    pub fn directory(&self, partition: i32) -> PathBuf {
        self.checkpoint_location.join(format!("{}-{partition}", self.topic))
    }

    /// The column that a field lands in.
    pub fn column_of<'a>(&'a self, field: &'a str) -> &'a str {
        self.rename.get(field).map_or(field, String::as_str)
    }

    /// The field that lands in a column.
    pub fn field_of<'a>(&'a self, column: &'a str) -> &'a str {
        self.rename.iter().find(|(_, to)| *to == column).map_or(column, |(field, _)| field)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LandSchema {
    /// The columns of a captured table, from PostgreSQL's catalogue.
    Table {
        schema: Option<String>,
        table: String,
        /// As [`CaptureTable::columns`].
        columns: Vec<String>,
    },
    /// A JSON Schema file.
    File(PathBuf),
}

/// What replays of dead letters need.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dlq {
    /// Compacted topic of what was replayed.
    pub replay_topic: String,
    pub replay_replication: i32,
    /// `transactional.id`; one replay of a pipeline at a time.
    pub transactional_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Http {
    /// `address:port`; port 0 takes a free one, `null` turns the server off.
    pub listen: Option<String>,
    /// Names, beside those of the address itself, that a request's `Host` may have.
    pub allowed_hosts: Vec<String>,
    /// Asked of all requests but those to `/live` and `/ready`.
    pub token: Option<Secret>,
    /// Whether the page shows what dead letters hold.
    pub show_payloads: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Runtime {
    pub shutdown_timeout_ms: u64,
    /// Tries to reach PostgreSQL and Kafka at start before exit code 75.
    pub wait_attempts: u32,
    pub wait_delay_ms: u64,
    /// How long a table, topic or job may give no sign of life.
    pub stall_timeout_ms: u64,
}
