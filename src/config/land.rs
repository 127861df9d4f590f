//! What is landed: `datalake.path` of the short form and `land.tables`, in one list.

use super::{
    capture::check_distinct,
    claims::{Claims, DirectoryRole, TopicRole},
    error::{Collector, Problem},
    model::{CaptureTable, Land, LandSchema, LandTable, METADATA_COLUMNS, PARTITION_COLUMN},
    section::Section,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A row of the orders pipeline stands in the lake within 10 s of its commit.
const SHORT_FORM_ROTATE_MS: u64 = 5_000;

/// `None` where no topic is to be landed. `captured` are the tables of the same pipeline.
pub fn build(
    root: &Section,
    id: &str,
    captured: &[CaptureTable],
    errors: &mut Collector,
    claims: &mut Claims,
) -> Option<Land> {
    let land = root.section("land");
    let is_short = root.has("datalake");
    let mut tables = Vec::new();
    if is_short {
        tables.extend(short_form(root, captured, errors, claims));
    }
    for table in land.items("tables") {
        if !captures_are_right(root, captured) {
            errors.excuse(&table.path_of("source"));
        }
        tables.extend(general_form(&table, captured, errors, claims));
    }
    if tables.is_empty() {
        return None;
    }
    let result = Land {
        group: land.text("group").unwrap_or_else(|| id.to_owned()),
        rotate_ms: match is_short && !land.has("rotate_ms") {
            true => SHORT_FORM_ROTATE_MS,
            false => land.integer("rotate_ms"),
        },
        rotate_bytes: land.integer("rotate_bytes"),
        max_files: land.integer("max_files"),
        buffer_bytes: land.integer("buffer_bytes"),
        session_timeout_ms: land.integer("session_timeout_ms"),
        compression_level: land.integer("compression_level"),
        tables,
    };
    claims.group(&land, "group", &result.group);
    Some(result)
}

/// `kafka.topic` into `datalake.path`, by the rules of the orders pipeline.
fn short_form(
    root: &Section,
    captured: &[CaptureTable],
    errors: &mut Collector,
    claims: &mut Claims,
) -> Option<LandTable> {
    let (datalake, kafka, streaming) = (root.section("datalake"), root.section("kafka"), root.section("streaming"));
    datalake.missing(errors, "path", "give the root of the table, or remove the section");
    kafka.missing(errors, "topic", "datalake.path is filled from it");
    let (path, topic) = (datalake.text("path"), kafka.text("topic"));
    if let Some(topic) = &topic {
        claims.topic(&kafka, "topic", topic, TopicRole::Landed);
    }
    let (path, topic) = (PathBuf::from(path?), topic?);
    let schema = captured_schema(captured, &topic);
    if schema.is_none() && captures_are_right(root, captured) {
        let rule = "needs the columns of its topic: give postgres.table, or land it in land.tables with source";
        datalake.add(errors, "path", Problem::Rule(rule.into()));
    }
    let given = streaming.text("checkpoint_location").map(PathBuf::from);
    let checkpoint_location = given.unwrap_or_else(|| beside(&path, "_checkpoints"));
    let dead_letter_path = beside(&path, "_dead_letters");
    claims.directory(&datalake, "path", &path, DirectoryRole::Table);
    claims.directory(&datalake, "path", &dead_letter_path, DirectoryRole::DeadLetters);
    let (owner, key) = match streaming.has("checkpoint_location") {
        true => (&streaming, "checkpoint_location"),
        false => (&datalake, "path"),
    };
    claims.directory(owner, key, &checkpoint_location, DirectoryRole::Checkpoints);
    let item = Section::absent("land.tables[]");
    Some(LandTable {
        topic,
        path,
        checkpoint_location,
        dead_letter_path,
        schema: schema?,
        date_column: "created_at".to_owned(),
        not_null: vec!["order_id".to_owned()],
        non_negative: vec!["amount".to_owned()],
        numeric_precision: item.integer("numeric_precision"),
        numeric_scale: item.integer("numeric_scale"),
        overflow_column: None,
        metadata_columns: false,
        rename: BTreeMap::new(),
        allow_network_file_system: false,
    })
}

fn general_form(
    table: &Section,
    captured: &[CaptureTable],
    errors: &mut Collector,
    claims: &mut Claims,
) -> Option<LandTable> {
    let topic = table.text("topic");
    let schema = schema_of(table, captured, topic.as_deref(), errors);
    if let Some(topic) = &topic {
        claims.topic(table, "topic", topic, TopicRole::Landed);
    }
    for name in ["not_null", "non_negative"] {
        check_distinct(table, name, errors);
    }
    let (numeric_precision, numeric_scale) = numeric(table, errors);
    let rename = rename(table, errors);
    let path = PathBuf::from(table.text("path")?);
    let given = |name: &str| table.text(name).map(PathBuf::from);
    let checkpoint_location = given("checkpoint_location").unwrap_or_else(|| beside(&path, "_checkpoints"));
    let dead_letter_path = given("dead_letter_path").unwrap_or_else(|| beside(&path, "_dead_letters"));
    claims.directory(table, "path", &path, DirectoryRole::Table);
    claims.directory(table, "dead_letter_path", &dead_letter_path, DirectoryRole::DeadLetters);
    claims.directory(table, "checkpoint_location", &checkpoint_location, DirectoryRole::Checkpoints);
    Some(LandTable {
        topic: topic?,
        path,
        checkpoint_location,
        dead_letter_path,
        schema: schema?,
        date_column: table.text("date_column")?,
        not_null: table.texts("not_null"),
        non_negative: table.texts("non_negative"),
        numeric_precision,
        numeric_scale,
        overflow_column: table.text("overflow_column"),
        metadata_columns: table.boolean("metadata_columns"),
        rename,
        allow_network_file_system: table.boolean("allow_network_file_system"),
    })
}

fn schema_of(
    table: &Section,
    captured: &[CaptureTable],
    topic: Option<&str>,
    errors: &mut Collector,
) -> Option<LandSchema> {
    if table.has("source") && table.has("schema_file") {
        table.add(errors, "schema_file", Problem::Exclusive { other: table.path_of("source") });
        return None;
    }
    if table.has("schema_file") {
        return table.readable_file("schema_file", errors).map(LandSchema::File);
    }
    if table.has("source") {
        let source = table.section("source");
        check_distinct(&source, "columns", errors);
        return Some(LandSchema::Table {
            schema: source.text("schema"),
            table: source.text("table")?,
            columns: source.texts("columns"),
        });
    }
    let schema = captured_schema(captured, topic?);
    if schema.is_none() {
        let why =
            "no table of capture in this file publishes to the topic, so give source: {schema, table}, or schema_file";
        table.missing(errors, "source", why);
    }
    schema
}

/// Whether every capture of the file came through its checks. If not, a topic without a table may
/// be the fault of the table.
fn captures_are_right(root: &Section, captured: &[CaptureTable]) -> bool {
    let capture = root.section("capture");
    let short = usize::from(root.section("postgres").has("table"));
    let is_list = !capture.has("tables") || capture.is_list("tables");
    is_list && captured.len() == short + capture.items("tables").len()
}

fn captured_schema(captured: &[CaptureTable], topic: &str) -> Option<LandSchema> {
    captured.iter().find(|table| table.topic == topic).map(|table| LandSchema::Table {
        schema: table.schema.clone(),
        table: table.table.clone(),
        columns: table.columns.clone(),
    })
}

/// Whether readers of a table, many of which know no case, take two names for one.
pub fn is_same_name(one: &str, other: &str) -> bool {
    one == other || one.to_lowercase() == other.to_lowercase()
}

/// The columns of other names; and whether these, and that for unknown fields, can be told from what land adds.
fn rename(table: &Section, errors: &mut Collector) -> BTreeMap<String, String> {
    let overflow = table.text("overflow_column");
    let added = METADATA_COLUMNS.iter().filter(|_| table.boolean("metadata_columns")).copied();
    let taken: Vec<&str> = added.chain([PARTITION_COLUMN]).collect();
    if let Some(name) = overflow.as_deref()
        && let Some(other) = taken.iter().find(|other| is_same_name(name, other))
    {
        let rule = format!("cannot be told from {other:?}, which every table has of its own: give another name");
        table.add_value(errors, "overflow_column", Problem::Rule(rule), name);
    }
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    for (field, name, origin) in table.properties("rename") {
        let mut others = taken.iter().copied().chain(overflow.as_deref()).chain(renamed.values().map(String::as_str));
        let problem = if name.trim().is_empty() {
            Some("must be a name".to_owned())
        } else if table.properties("rename").iter().any(|(other, ..)| *other == name) {
            Some(format!("{name:?} is renamed itself: give a name that no field has"))
        } else {
            let other = others.find(|other| is_same_name(&name, other));
            other.map(|other| format!("{name:?} cannot be told from {other:?}: give another name"))
        };
        match problem {
            Some(rule) => errors.add(&origin, format!("{}.{field}", table.path_of("rename")), Problem::Rule(rule)),
            None => {
                renamed.insert(field, name);
            }
        }
    }
    renamed
}

fn numeric(table: &Section, errors: &mut Collector) -> (u8, i8) {
    let (precision, scale): (u8, u8) = (table.integer("numeric_precision"), table.integer("numeric_scale"));
    // Without a word on the scale, that of the default goes as far as the precision allows.
    let scale = if table.has("numeric_scale") { scale } else { scale.min(precision) };
    if scale > precision {
        let rule = format!("must be at most {}, which is {precision}", table.path_of("numeric_precision"));
        table.add_value(errors, "numeric_scale", Problem::Rule(rule), &scale.to_string());
    }
    (precision, i8::try_from(scale).unwrap_or_default())
}

/// The directory next to `path` with `suffix` behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    match path.file_name() {
        Some(name) => {
            let mut name = name.to_owned();
            name.push(suffix);
            path.with_file_name(name)
        }
        None => path.join(suffix.trim_start_matches('_')),
    }
}
