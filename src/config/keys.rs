//! Every key of the configuration, once: its type, its default, its meaning.
//!
//! Validation, the environment's overrides, the JSON Schema and the README's table all read this.

/// One key. `path` names it as `postgres.port`, or `capture.tables[].topic` within a list.
#[derive(Debug)]
pub struct Key {
    pub path: &'static str,
    pub kind: Kind,
    pub default: Default,
    /// Whether each section that holds the key must give it. Needs that depend on other keys are
    /// for the builders.
    pub required: bool,
    /// Whether the value must never be printed.
    pub secret: bool,
    /// Whether `null` is a value of its own.
    pub nullable: bool,
    pub doc: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Default {
    None,
    /// As it would stand in the file.
    Value(&'static str),
    /// Depends on other keys: words for the reader, the value is made where the section is built.
    Derived(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Text(Format),
    /// A whole number in this inclusive range.
    Integer {
        min: i64,
        max: i64,
    },
    /// A number above 0, fractions allowed, up to this one.
    Seconds {
        max: f64,
    },
    /// A number in this inclusive range, fractions allowed.
    Number {
        min: f64,
        max: f64,
    },
    Boolean,
    Choice(&'static [&'static str]),
    TextList(Format),
    /// A free map of names to scalars.
    Properties,
    Section,
    SectionList,
}

/// What a text must look like. The rule of each is in `formats.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Any,
    /// The name of a pipeline or tenant: part of topics, group names and paths.
    Name,
    Topic,
    Brokers,
    Listen,
    /// The name of a host, without a port.
    Host,
    Timezone,
    Path,
    JdbcUrl,
    /// `datalake.format`: what exists so far.
    LakeFormat,
    /// A number with its unit, such as `1 minute`, `10 seconds`, `60s`.
    Duration,
}

const fn key(path: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, kind, default: Default::None, required: false, secret: false, nullable: false, doc }
}

const fn text(path: &'static str, doc: &'static str) -> Key {
    key(path, Kind::Text(Format::Any), doc)
}

const fn file(path: &'static str, doc: &'static str) -> Key {
    key(path, Kind::Text(Format::Path), doc)
}

const fn integer(path: &'static str, min: i64, max: i64, default: &'static str, doc: &'static str) -> Key {
    key(path, Kind::Integer { min, max }, doc).default(default)
}

const fn number(path: &'static str, min: f64, max: f64, default: &'static str, doc: &'static str) -> Key {
    key(path, Kind::Number { min, max }, doc).default(default)
}

const fn section(path: &'static str, doc: &'static str) -> Key {
    key(path, Kind::Section, doc)
}

impl Key {
    const fn default(mut self, value: &'static str) -> Key {
        self.default = Default::Value(value);
        self
    }

    const fn derived(mut self, words: &'static str) -> Key {
        self.default = Default::Derived(words);
        self
    }

    const fn required(mut self) -> Key {
        self.required = true;
        self
    }

    const fn secret(mut self) -> Key {
        self.secret = true;
        self
    }

    const fn nullable(mut self) -> Key {
        self.nullable = true;
        self
    }

    /// The last part of the path.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// The path of the section that holds the key; empty for the top level.
    pub fn parent(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(parent, _)| parent)
    }

    pub fn is_section(&self) -> bool {
        matches!(self.kind, Kind::Section | Kind::SectionList)
    }
}

/// The keys directly within the section `parent` (a path as in [`Key::path`]; empty: the top level).
pub fn children(parent: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.parent() == parent)
}

/// The key `name` within the section `parent`.
pub fn child(parent: &str, name: &str) -> Option<&'static Key> {
    children(parent).find(|key| key.name() == name)
}

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;
const KIB: i64 = 1 << 10;
const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;
const TIB: i64 = 1 << 40;

pub const TLS_MODES: &[&str] = &["disable", "prefer", "require", "verify-full"];
pub const SECURITY_PROTOCOLS: &[&str] = &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
pub const SASL_MECHANISMS: &[&str] = &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
pub const COMPRESSIONS: &[&str] = &["none", "lz4", "zstd"];
pub const JOINS: &[&str] = &["left", "full"];
pub const FUNCTIONS: &[&str] = &[
    "count",
    "rate",
    "sum",
    "avg",
    "min",
    "max",
    "distinct",
    "top_k",
    "counts",
    "sentiment_avg",
    "sentiment_positive",
    "sentiment_negative",
];
pub const DIRECTIONS: &[&str] = &["up", "down", "both"];
pub const DETECTORS: &[&str] = &["zscore", "quantile"];

/// In the order of the reference.
pub static KEYS: &[Key] = &[
    key("pipeline", Kind::Text(Format::Name), "Name of the pipeline: a metrics label, part of ids and group names.")
        .derived("the file's name without extension"),
    key(
        "tenants",
        Kind::TextList(Format::Name),
        "One isolated pipeline for each of these names; every text in the file may hold `{tenant}`.",
    ),
    // PostgreSQL
    section("postgres", "The database that is captured, or whose catalogue names the columns of a landing."),
    key(
        "postgres.jdbc_url",
        Kind::Text(Format::JdbcUrl),
        "`jdbc:postgresql://host:port/db?user=..&password=..&sslmode=..&sslrootcert=..`, instead of or beside the keys below; they must agree.",
    )
    .secret(),
    text("postgres.host", "Host name or address; required unless `jdbc_url` names it."),
    integer("postgres.port", 1, 65_535, "5432", "TCP port."),
    text("postgres.db", "Database; required unless `jdbc_url` names it."),
    text("postgres.user", "Role; needs SELECT on the tables and pg_monitor. Required unless `jdbc_url` names it."),
    text("postgres.password", "Its password; better kept in `password_file`.").secret(),
    file("postgres.password_file", "File that holds the password (one trailing newline is cut off)."),
    text(
        "postgres.table",
        "Short form: the table to capture into `kafka.topic`, as `table` or `schema.table`.",
    ),
    text("postgres.watermark", "Short form: its watermark column.").default("created_at"),
    key(
        "postgres.tls_mode",
        Kind::Choice(TLS_MODES),
        "`prefer` and `require` do not check the certificate, `verify-full` checks chain and host name.",
    )
    .default("prefer"),
    file("postgres.tls_ca_file", "PEM file of the authorities to trust, for `verify-full`; the system's when absent."),
    integer("postgres.connect_timeout_ms", 1, HOUR, "10000", "Longest wait for a connection."),
    // Kafka
    section("kafka", "The Kafka cluster."),
    key("kafka.brokers", Kind::Text(Format::Brokers), "Bootstrap servers, `host:port[,host:port]`. Required."),
    key(
        "kafka.topic",
        Kind::Text(Format::Topic),
        "Short form: the topic between `postgres.table` and `datalake.path`.",
    ),
    key("kafka.security_protocol", Kind::Choice(SECURITY_PROTOCOLS), "How clients talk to the brokers.")
        .default("plaintext"),
    key("kafka.sasl_mechanism", Kind::Choice(SASL_MECHANISMS), "Required with a `sasl_` protocol."),
    text("kafka.sasl_username", "Required with a `sasl_` protocol."),
    text("kafka.sasl_password", "Its password; better kept in `sasl_password_file`.").secret(),
    file("kafka.sasl_password_file", "File that holds the password (one trailing newline is cut off)."),
    file("kafka.ssl_ca_file", "PEM file of the authorities to trust; the system's when absent."),
    file("kafka.ssl_certificate_file", "PEM file of the client's certificate, for brokers that ask for one."),
    file("kafka.ssl_key_file", "PEM file of that certificate's key, not encrypted."),
    key("kafka.create_topics", Kind::Boolean, "Whether the stages create missing topics; `headwater topics` does so in any case.").default("true"),
    key(
        "kafka.properties",
        Kind::Properties,
        "Further librdkafka properties for every client. Those that Headwater's guarantees rest on, security and secrets are refused here.",
    ),
    // Capture
    section("capture", "PostgreSQL to Kafka."),
    integer("capture.poll_interval_ms", 1, DAY, "1000", "Time between two polls. The short form gives it as `streaming.batch_interval`."),
    integer(
        "capture.slack_ms",
        1,
        DAY,
        "2000",
        "How far the watermark of a row may lie before the start of its transaction: application clocks that are slow.",
    ),
    integer(
        "capture.prepared_margin_ms",
        1,
        365 * DAY,
        "86400000",
        "For a prepared transaction that is there at the very first poll: how old its rows may be.",
    ),
    key(
        "capture.timezone",
        Kind::Text(Format::Timezone),
        "IANA name of the zone of `timestamp` and `date` watermarks. Required unless the server's zone is UTC.",
    ),
    integer("capture.chunk_rows", 1, 10_000_000, "100000", "Rows of one chunk of the first load, which is one Kafka transaction; never more than `max_transaction_rows`."),
    integer("capture.max_transaction_rows", 1, 10_000_000, "100000", "Most rows of one Kafka transaction."),
    integer("capture.max_transaction_bytes", 1, 4 * GIB, "67108864", "Most bytes of one Kafka transaction."),
    integer("capture.max_transaction_ms", 1, 30 * SECOND, "5000", "Longest time that a Kafka transaction stays open."),
    integer(
        "capture.max_row_bytes",
        1,
        1_000_000_000,
        "900000",
        "A row whose JSON is larger becomes a dead letter. Keep it under the topic's `max.message.bytes` (1 MiB by default).",
    ),
    integer("capture.lock_timeout_ms", 1, HOUR, "5000", "Longest wait for the ACCESS SHARE lock on a table."),
    integer(
        "capture.max_snapshot_ms",
        100,
        HOUR,
        "2000",
        "Longest time that a snapshot and its locks are held; a backlog is read in several. A single sort on the server may take longer.",
    ),
    key("capture.checkpoint_topic", Kind::Text(Format::Topic), "Compacted topic of the checkpoints.")
        .derived("headwater-<pipeline>-checkpoints"),
    integer("capture.checkpoint_replication", 1, 32_767, "1", "Its replication where it is created."),
    text("capture.transactional_id", "`transactional.id`: a second capture with the same one fences the first.")
        .derived("headwater-<pipeline>-capture"),
    key("capture.compression", Kind::Choice(COMPRESSIONS), "Compression of the messages.").default("lz4"),
    key("capture.dead_letter_topic", Kind::Text(Format::Topic), "Topic of the rows too large to publish.")
        .derived("headwater-<pipeline>-dead-letters"),
    file(
        "capture.last_processed_timestamp_location",
        "Where the last processed timestamp is written, for people; never read back. Absent: nowhere.",
    ),
    key("capture.tables", Kind::SectionList, "The tables to capture."),
    text("capture.tables[].schema", "Schema of the table.").derived("found by the role's search_path"),
    text("capture.tables[].table", "Name of the table as PostgreSQL stores it, unquoted.").required(),
    key("capture.tables[].topic", Kind::Text(Format::Topic), "Topic of its rows.").required(),
    text(
        "capture.tables[].watermark",
        "Column of type `timestamp`, `timestamptz` or `date` that is set when a row is written; prefer one that updates move too.",
    )
    .required(),
    key("capture.tables[].key", Kind::TextList(Format::Any), "Columns of the message key.")
        .derived("the primary key"),
    key("capture.tables[].columns", Kind::TextList(Format::Any), "Columns to publish.").derived("all"),
    text("capture.tables[].where", "SQL condition on the table's own columns: only these rows."),
    integer("capture.tables[].partitions", 1, 100_000, "1", "Partitions of the topic where it is created."),
    integer("capture.tables[].replication", 1, 32_767, "1", "Replication of the topic where it is created."),
    integer(
        "capture.tables[].retention_ms",
        -1,
        i64::MAX,
        "604800000",
        "Retention of the topic where it is created; -1 keeps everything.",
    ),
    // Land
    section("land", "Kafka to the lake."),
    text("land.group", "Consumer group; each table's is `<group>-<topic>`.").derived("headwater-<pipeline>"),
    integer(
        "land.rotate_ms",
        1,
        7 * DAY,
        "60000",
        "A batch is committed at this age, 5000 by default with the short form's `datalake.path`.",
    ),
    integer("land.rotate_bytes", 1, TIB, "134217728", "A batch is committed at this size."),
    integer("land.max_files", 1, 100_000, "1000", "A batch is committed at this number of files."),
    integer(
        "land.buffer_bytes",
        64 * KIB,
        TIB,
        "67108864",
        "Bound on the memory of open batches, over all tables and partitions of the pipeline.",
    ),
    integer(
        "land.session_timeout_ms",
        1_000,
        HOUR,
        "6000",
        "How long the partitions of a process that was killed wait for it; between the brokers' `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.",
    ),
    integer("land.compression_level", 1, 22, "1", "zstd level of the Parquet pages."),
    key("land.tables", Kind::SectionList, "The topics to land."),
    key("land.tables[].topic", Kind::Text(Format::Topic), "Topic to read.").required(),
    file("land.tables[].path", "Root of the table: holds `date=YYYY-MM-DD/part-*.parquet`.").required(),
    file("land.tables[].checkpoint_location", "Directory of ledger and staging, on the same file system as `path`.")
        .derived("<path>_checkpoints"),
    file("land.tables[].dead_letter_path", "Root of the table of dead letters, on the same file system as `path`.")
        .derived("<path>_dead_letters"),
    section(
        "land.tables[].source",
        "The PostgreSQL table that names the columns. Absent: the table of `capture` that publishes to the same topic.",
    ),
    text("land.tables[].source.schema", "Schema of the table.").derived("found by the role's search_path"),
    text("land.tables[].source.table", "Name of the table as PostgreSQL stores it, unquoted.").required(),
    key("land.tables[].source.columns", Kind::TextList(Format::Any), "Columns to land.").derived("all"),
    file("land.tables[].schema_file", "JSON Schema that names the columns, instead of `source`; a relative path is relative to this file."),
    text("land.tables[].date_column", "Event-time column: its UTC date is the partition.").required(),
    key(
        "land.tables[].not_null",
        Kind::TextList(Format::Any),
        "Fields that must be there and not null; else a dead letter, `null_key`.",
    )
    .default("[]"),
    key(
        "land.tables[].non_negative",
        Kind::TextList(Format::Any),
        "Fields that must not be below zero; else a dead letter, `negative_amount`.",
    )
    .default("[]"),
    // The same as Spark's JDBC source gives for a bare numeric, so that a table moved from Spark keeps its type.
    integer("land.tables[].numeric_precision", 1, 38, "38", "Decimal precision of a `numeric` column without one."),
    integer("land.tables[].numeric_scale", 0, 38, "18", "Decimal scale of such a column, at most the precision."),
    text("land.tables[].overflow_column", "Text column that keeps unknown fields as a JSON object. Absent: they are counted."),
    key(
        "land.tables[].metadata_columns",
        Kind::Boolean,
        "Adds `_processing_time`, `_kafka_partition`, `_kafka_offset`.",
    )
    .default("false"),
    key(
        "land.tables[].rename",
        Kind::Properties,
        "Names of columns in the lake, as `{date: order_day}`, where a field's own cannot be one: `date`, which readers take from the directories, or `Id` beside `id`.",
    ),
    key(
        "land.tables[].allow_network_file_system",
        Kind::Boolean,
        "Lands on NFS, SMB, FUSE and their kin too, which are refused otherwise: whether their locks (flock) and renames hold as those of a local disk do is for you to know.",
    )
    .default("false"),
    // Analyze
    section("analyze", "Kafka to PostgreSQL: event-time windows and anomalies."),
    key(
        "analyze.migrate",
        Kind::Boolean,
        "Whether the tables that headwater owns (`db/migrations`) are created and brought up to date at start.",
    )
    .default("true"),
    integer("analyze.pool_size", 1, 100, "2", "Most connections of a job, the one of its lock aside."),
    integer(
        "analyze.history_retention_days",
        1,
        36_500,
        "365",
        "How long moments, late events and dead letters are kept: at least as long as any job's windows (without the key, as long as the longest where that is more). A dead letter stays while its record is on the topic; moments are of no job, so the least of the pipelines in one schema counts.",
    ),
    text("analyze.schema", "Where all tables of analyze are.").derived("the first of the role's search_path"),
    key("analyze.create_tables", Kind::Boolean, "Whether a missing table of windows is created, partitioned by day.")
        .default("true"),
    key("analyze.jobs", Kind::SectionList, "The jobs: each has its windows, its table and its progress."),
    key("analyze.jobs[].name", Kind::Text(Format::Name), "Name of the job; its progress is kept under it.").required(),
    text("analyze.jobs[].table", "Table of the windows.").required(),
    text("analyze.jobs[].key_column", "Its column of the key.").required(),
    key("analyze.jobs[].window_duration", Kind::Text(Format::Duration), "Length of a window, such as `1 minute` or `60s`.")
        .required(),
    key("analyze.jobs[].slide_duration", Kind::Text(Format::Duration), "Time from the start of a window to that of the next.")
        .derived("as `window_duration`: tumbling windows"),
    integer("analyze.jobs[].refresh_ms", 100, DAY, "0", "How often open windows are written as provisional rows.")
        .derived("the slide"),
    key(
        "analyze.jobs[].join",
        Kind::Choice(JOINS),
        "`left`: a window has a row where the first input has events; `full`: where any has.",
    )
    .default("left"),
    integer(
        "analyze.jobs[].watermark_delay_ms",
        0,
        DAY,
        "10000",
        "How far events of a partition may be out of order: its watermark is its latest timestamp less this.",
    ),
    integer(
        "analyze.jobs[].allowed_lateness_ms",
        0,
        DAY,
        "0",
        "For how long behind the watermark an event still revises a final window; a later one is counted as late.",
    ),
    integer(
        "analyze.jobs[].idle_timeout_ms",
        100,
        DAY,
        "5000",
        "A partition at its end that brings no event of a usable time for so long holds the watermark back no longer.",
    ),
    integer(
        "analyze.jobs[].max_future_ms",
        0,
        365 * DAY,
        "60000",
        "A timestamp so far ahead of the clock, when it is first read, is a dead letter and moves no watermark.",
    ),
    integer(
        "analyze.jobs[].distinct_exact_limit",
        16,
        10_000_000,
        "10000",
        "Above so many distinct values of a key they are estimated (HyperLogLog), and the row is `approximate`.",
    ),
    integer(
        "analyze.jobs[].counts_limit",
        1,
        1_000_000,
        "1000",
        "Most different values of `top_k` and `counts` in a window; beyond, the row is `approximate`.",
    ),
    integer(
        "analyze.jobs[].max_state_bytes",
        MIB,
        TIB,
        "536870912",
        "Bound on the memory of open windows, about: beyond it only partitions are read that hold the watermark.",
    ),
    key("analyze.jobs[].emote_sentiment", Kind::Boolean, "Whether emotes count for the sentiment, beside VADER's words.")
        .default("true"),
    integer("analyze.jobs[].retention_days", 1, 36_500, "30", "How long windows are kept."),
    key("analyze.jobs[].inputs", Kind::SectionList, "The topics, joined by key and window.").required(),
    key("analyze.jobs[].inputs[].name", Kind::Text(Format::Name), "What measures call it.").required(),
    key("analyze.jobs[].inputs[].topic", Kind::Text(Format::Topic), "Topic to read.").required(),
    text("analyze.jobs[].inputs[].key", "Field of the key.").required(),
    text("analyze.jobs[].inputs[].timestamp", "Field of the event time, ISO-8601 with a zone.").default("timestamp"),
    text("analyze.jobs[].inputs[].id", "Field of an id: an event whose id is in an open window is a duplicate.")
        .derived("none: every record counts"),
    key("analyze.jobs[].inputs[].tokens", Kind::SectionList, "List fields that are found in a text where they are absent."),
    text("analyze.jobs[].inputs[].tokens[].field", "The list field.").required(),
    text("analyze.jobs[].inputs[].tokens[].from", "The text field whose words are looked at.").required(),
    key("analyze.jobs[].inputs[].tokens[].words", Kind::TextList(Format::Any), "The words that count, capitals as they are.")
        .required(),
    integer("analyze.jobs[].inputs[].partitions", 1, 100_000, "3", "Partitions of the topic where it is created."),
    integer("analyze.jobs[].inputs[].replication", 1, 32_767, "1", "Replication of the topic where it is created."),
    integer(
        "analyze.jobs[].inputs[].retention_ms",
        -1,
        i64::MAX,
        "604800000",
        "Retention of the topic where it is created; -1 keeps everything.",
    ),
    key("analyze.jobs[].measures", Kind::SectionList, "What is measured of each window, a column each.").required(),
    text("analyze.jobs[].measures[].column", "Column of the table.").required(),
    key("analyze.jobs[].measures[].input", Kind::Text(Format::Name), "The input that is measured.")
        .derived("the first"),
    key("analyze.jobs[].measures[].function", Kind::Choice(FUNCTIONS), "What is measured.").required(),
    text("analyze.jobs[].measures[].field", "The field that is measured; all functions but `count` and `rate` need it."),
    integer("analyze.jobs[].measures[].k", 1, 1_000, "5", "How many values `top_k` lists."),
    key("analyze.jobs[].anomalies", Kind::SectionList, "What is watched: moments are written to the table `moments`."),
    text("analyze.jobs[].anomalies[].moment", "Type of the moments, such as `chat_spike`.").required(),
    text("analyze.jobs[].anomalies[].measure", "Column of the measure that is watched; of `counts`, their total.").required(),
    key("analyze.jobs[].anomalies[].direction", Kind::Choice(DIRECTIONS), "Which way is unusual.").default("up"),
    key(
        "analyze.jobs[].anomalies[].detector",
        Kind::Choice(DETECTORS),
        "`zscore`: deviations from the last periods; `quantile`: the tail of a longer history.",
    )
    .default("zscore"),
    number("analyze.jobs[].anomalies[].threshold", 0.1, 1e6, "0", "Score from which a window is a moment.")
        .derived("3.0"),
    integer(
        "analyze.jobs[].anomalies[].baseline_periods",
        2,
        10_000,
        "0",
        "Closed windows before this one, not overlapping, that it is compared with.",
    )
    .derived("10"),
    integer(
        "analyze.jobs[].anomalies[].history_periods",
        2,
        100_000,
        "0",
        "`quantile`: the windows, not overlapping, whose tail says what is usual.",
    )
    .derived("1440, a day of minutes"),
    integer(
        "analyze.jobs[].anomalies[].minimum_history",
        1,
        100_000,
        "0",
        "Windows, not overlapping, that must be known before one is scored.",
    )
    .derived("5 for `zscore`, 120 for `quantile`"),
    integer(
        "analyze.jobs[].anomalies[].cooldown_ms",
        0,
        DAY,
        "300000",
        "After a moment there is none for so long, and then none before its episode has ended.",
    ),
    number(
        "analyze.jobs[].anomalies[].floor_absolute",
        1e-9,
        1e15,
        "0",
        "Least deviation in the measure's unit: a quiet channel does not alarm on one message.",
    )
    .derived("2.5 for `zscore`, 1.5 for `quantile`"),
    number("analyze.jobs[].anomalies[].floor_relative", 0.0, 1e6, "0", "Least deviation as a share of the baseline.")
        .derived("0.35 for `zscore`, 0.33 for `quantile`"),
    number(
        "analyze.jobs[].anomalies[].floor_poisson",
        0.0,
        1e6,
        "0",
        "Least deviation as a multiple of the baseline's square root, which is that of independent events.",
    )
    .derived("1.5 for `zscore`, 0.75 for `quantile`"),
    // Dead letters
    section("dlq", "What `headwater dlq replay` keeps."),
    key("dlq.replay_topic", Kind::Text(Format::Topic), "Compacted topic of what was replayed: a dead letter is replayed once.")
        .derived("headwater-<pipeline>-replays"),
    integer("dlq.replay_replication", 1, 32_767, "1", "Its replication where it is created."),
    text("dlq.transactional_id", "`transactional.id`: a second replay with the same one fences the first.")
        .derived("headwater-<pipeline>-replay"),
    // The short form's own sections
    section("datalake", "Short form: the landing of `kafka.topic`, by the rules of the orders pipeline."),
    file("datalake.path", "Root of the table; partitioned by `created_at`, `order_id` not null, `amount` not negative."),
    key("datalake.format", Kind::Text(Format::LakeFormat), "Table format; only `parquet` exists yet.").default("parquet"),
    section("streaming", "Short form: progress and pace."),
    file("streaming.checkpoint_location", "As `land.tables[].checkpoint_location`, for `datalake.path`.")
        .derived("<datalake.path>_checkpoints"),
    file("streaming.last_processed_timestamp_location", "As `capture.last_processed_timestamp_location`."),
    key("streaming.batch_interval", Kind::Seconds { max: 86_400.0 }, "Seconds between two polls, instead of `capture.poll_interval_ms`."),
    // The process
    section("http", "The server of the page, /metrics, /live, /ready and /status."),
    key("http.listen", Kind::Text(Format::Listen), "`address:port`; port 0 takes a free one, `null` turns the server off.")
        .default("127.0.0.1:9464")
        .nullable(),
    key(
        "http.allowed_hosts",
        Kind::TextList(Format::Host),
        "Host names that requests may be sent to, such as a container's; localhost, IP addresses and the name of `listen` always may.",
    )
    .default("[]"),
    text("http.token", "Asked for as `Authorization: Bearer …`, by all but /live and /ready; better kept in `token_file`.")
        .secret(),
    file("http.token_file", "File that holds the token (one trailing newline is cut off)."),
    key("http.show_payloads", Kind::Boolean, "Whether the page shows what dead letters hold: the start of the payload, its length, what is wrong with it. Reason and place it shows in any case.")
        .default("true"),
    section("runtime", "The process."),
    integer("runtime.shutdown_timeout_ms", 0, HOUR, "30000", "Longest time to finish what is held after SIGTERM."),
    integer("runtime.stall_timeout_ms", 1_000, 24 * HOUR, "300000", "A table, topic or job without a sign of life for so long is not ready, and systemd restarts the process."),
    integer("runtime.wait_attempts", 1, 1_000_000, "60", "Tries to reach PostgreSQL and Kafka at start; then exit code 75."),
    integer("runtime.wait_delay_ms", 0, HOUR, "2000", "Time between two of these tries."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_path_is_unique_and_hangs_on_a_section() {
        let mut seen = HashSet::new();
        for key in KEYS {
            assert!(seen.insert(key.path), "{} is there twice", key.path);
            assert!(key.doc.ends_with('.'), "{}: the sentence has no end", key.path);
            let parent = key.parent();
            if parent.is_empty() {
                continue;
            }
            let (name, kind) = match parent.strip_suffix("[]") {
                Some(list) => (list, Kind::SectionList),
                None => (parent, Kind::Section),
            };
            assert!(KEYS.iter().any(|k| k.path == name && k.kind == kind), "{} hangs in the air", key.path);
        }
    }

    #[test]
    fn names_and_parents() {
        let key = child("capture.tables[]", "topic").unwrap();
        assert_eq!((key.name(), key.parent()), ("topic", "capture.tables[]"));
        assert_eq!(child("", "kafka").unwrap().parent(), "");
        assert!(children("streaming").count() == 3);
        assert!(child("capture", "topic").is_none());
    }
}
