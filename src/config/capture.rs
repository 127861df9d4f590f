//! What is captured: `postgres.table` of the short form and `capture.tables`, in one list.

use super::{
    claims::{Claims, TopicRole},
    error::{Collector, Problem},
    model::{Capture, CaptureTable, Compression},
    section::Section,
};
use std::path::PathBuf;

/// The default of [`Capture::chunk_rows`] follows a smaller bound on transactions.
const CHUNK_ROWS: &str = "chunk_rows";

/// `None` where no table is to be captured. `id` begins the names that are not given.
pub fn build(root: &Section, id: &str, errors: &mut Collector, claims: &mut Claims) -> Option<Capture> {
    let capture = root.section("capture");
    let mut tables = Vec::new();
    tables.extend(short_form(root, errors, claims));
    for table in capture.items("tables") {
        tables.extend(general_form(&table, errors, claims));
    }
    if tables.is_empty() {
        return None;
    }
    let max_transaction_rows = capture.integer("max_transaction_rows");
    let chunk_rows: u64 = capture.integer(CHUNK_ROWS);
    let result = Capture {
        poll_interval_ms: poll_interval_ms(root, errors),
        slack_ms: capture.integer("slack_ms"),
        prepared_margin_ms: capture.integer("prepared_margin_ms"),
        timezone: capture.text("timezone"),
        chunk_rows: if capture.has(CHUNK_ROWS) { chunk_rows } else { chunk_rows.min(max_transaction_rows) },
        max_transaction_rows,
        max_transaction_bytes: capture.integer("max_transaction_bytes"),
        max_transaction_ms: capture.integer("max_transaction_ms"),
        max_row_bytes: max_row_bytes(&capture),
        lock_timeout_ms: capture.integer("lock_timeout_ms"),
        max_snapshot_ms: capture.integer("max_snapshot_ms"),
        checkpoint_topic: capture.text("checkpoint_topic").unwrap_or_else(|| format!("{id}-checkpoints")),
        checkpoint_replication: capture.integer("checkpoint_replication"),
        transactional_id: capture.text("transactional_id").unwrap_or_else(|| format!("{id}-capture")),
        compression: compression_of(capture.choice("compression").unwrap_or_default()),
        dead_letter_topic: capture.text("dead_letter_topic").unwrap_or_else(|| format!("{id}-dead-letters")),
        last_processed_timestamp_location: timestamp_location(root, errors, claims),
        tables,
    };
    check_limits(&capture, &result, errors);
    claims.topic(&capture, "checkpoint_topic", &result.checkpoint_topic, TopicRole::Checkpoints);
    claims.topic(&capture, "dead_letter_topic", &result.dead_letter_topic, TopicRole::DeadLetters);
    claims.transactional_id(&capture, "transactional_id", &result.transactional_id);
    Some(result)
}

/// `postgres.table` into `kafka.topic`.
fn short_form(root: &Section, errors: &mut Collector, claims: &mut Claims) -> Option<CaptureTable> {
    let (postgres, kafka) = (root.section("postgres"), root.section("kafka"));
    if !postgres.has("table") {
        if postgres.has("watermark") {
            let rule = "belongs to postgres.table, which is not given; a table of capture.tables has its own watermark";
            postgres.add(errors, "watermark", Problem::Rule(rule.into()));
        }
        return None;
    }
    kafka.missing(errors, "topic", "postgres.table is published to it");
    let name = postgres.text("table")?;
    // As Spark's `dbtable`; a table with a dot in its name goes into capture.tables.
    let (schema, table) = match name.split_once('.') {
        Some((schema, table)) if !schema.is_empty() && !table.is_empty() => (Some(schema.to_owned()), table.to_owned()),
        _ => (None, name),
    };
    let topic = kafka.text("topic")?;
    claims.source(&postgres, "table", schema.as_deref(), &table);
    claims.topic(&kafka, "topic", &topic, TopicRole::Captured);
    let item = Section::absent("capture.tables[]");
    Some(CaptureTable {
        schema,
        table,
        topic,
        watermark: postgres.text("watermark")?,
        key: Vec::new(),
        columns: Vec::new(),
        filter: None,
        partitions: item.integer("partitions"),
        replication: item.integer("replication"),
        retention_ms: item.integer("retention_ms"),
    })
}

fn general_form(table: &Section, errors: &mut Collector, claims: &mut Claims) -> Option<CaptureTable> {
    let retention_ms: i64 = table.integer("retention_ms");
    if retention_ms == 0 {
        let rule = "would let Kafka delete rows before they are landed: give a time, or -1 to keep everything";
        table.add_value(errors, "retention_ms", Problem::Rule(rule.into()), "0");
    }
    for name in ["key", "columns"] {
        check_distinct(table, name, errors);
    }
    let topic = table.text("topic");
    if let Some(topic) = &topic {
        claims.topic(table, "topic", topic, TopicRole::Captured);
    }
    let schema = table.text("schema");
    let name = table.text("table")?;
    claims.source(table, "table", schema.as_deref(), &name);
    Some(CaptureTable {
        schema,
        table: name,
        topic: topic?,
        watermark: table.text("watermark")?,
        key: table.texts("key"),
        columns: table.texts("columns"),
        filter: table.text("where"),
        partitions: table.integer("partitions"),
        replication: table.integer("replication"),
        retention_ms,
    })
}

/// Reports a name that stands twice in the list `name`.
pub fn check_distinct(section: &Section, name: &str, errors: &mut Collector) {
    let texts = section.texts(name);
    for (index, text) in texts.iter().enumerate() {
        if texts[..index].contains(text) {
            section.add_value(errors, name, Problem::Rule("names a thing twice".into()), text);
        }
    }
}

fn poll_interval_ms(root: &Section, errors: &mut Collector) -> u64 {
    let (streaming, capture) = (root.section("streaming"), root.section("capture"));
    let from_short_form =
        pick((&streaming, "batch_interval"), (&capture, "poll_interval_ms"), errors).is_some_and(|first| first);
    match streaming.seconds("batch_interval") {
        // Between half a millisecond and a day, by the table of keys.
        Some(seconds) if from_short_form => (seconds * 1_000.0).round() as u64,
        _ => capture.integer("poll_interval_ms"),
    }
}

fn timestamp_location(root: &Section, errors: &mut Collector, claims: &mut Claims) -> Option<PathBuf> {
    const NAME: &str = "last_processed_timestamp_location";
    let (streaming, capture) = (root.section("streaming"), root.section("capture"));
    let section = match pick((&streaming, NAME), (&capture, NAME), errors)? {
        true => streaming,
        false => capture,
    };
    let path = PathBuf::from(section.text(NAME)?);
    claims.timestamp(&section, NAME, &path);
    Some(path)
}

/// Which of two keys with one meaning is given: true for the first. Both are an error, unless one
/// of them is an override of the environment.
fn pick(first: (&Section, &str), second: (&Section, &str), errors: &mut Collector) -> Option<bool> {
    match (first.0.has(first.1), second.0.has(second.1)) {
        (false, false) => None,
        (true, false) => Some(true),
        (false, true) => Some(false),
        (true, true) => {
            let (a, b) = (first.0.is_override(first.1), second.0.is_override(second.1));
            if a == b {
                second.0.add(errors, second.1, Problem::Exclusive { other: first.0.path_of(first.1) });
            }
            Some(a)
        }
    }
}

/// As `chunk_rows`: the default follows a smaller bound on transactions.
fn max_row_bytes(capture: &Section) -> u64 {
    let bytes: u64 = capture.integer("max_row_bytes");
    if capture.has("max_row_bytes") { bytes } else { bytes.min(capture.integer("max_transaction_bytes")) }
}

fn check_limits(capture: &Section, result: &Capture, errors: &mut Collector) {
    let limits = [
        (CHUNK_ROWS, result.chunk_rows, "max_transaction_rows", result.max_transaction_rows),
        ("max_row_bytes", result.max_row_bytes, "max_transaction_bytes", result.max_transaction_bytes),
    ];
    for (name, value, bound_name, bound) in limits {
        if value > bound {
            let rule = format!("must be at most {}, which is {bound}", capture.path_of(bound_name));
            capture.add_value(errors, name, Problem::Rule(rule), &value.to_string());
        }
    }
}

fn compression_of(name: &str) -> Compression {
    match name {
        "none" => Compression::None,
        "zstd" => Compression::Zstd,
        _ => Compression::Lz4,
    }
}
