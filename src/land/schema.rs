//! The columns of a landed table: where they come from, and how they grow.
//!
//! A schema only widens: a column that has landed once stays, with the type it landed with. That
//! keeps every file readable together with every other one, by name.

use crate::{
    config::model::{LandSchema, LandTable},
    lake::{self, LakeError},
    land::json_schema,
    postgres::catalogue,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// What a column holds, and so which JSON values fit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 64 bits.
    Whole,
    Float,
    Bool,
    Decimal {
        precision: u8,
        scale: i8,
    },
    /// Microseconds, UTC.
    Timestamp {
        naive_is_utc: bool,
    },
    Date,
    Text(TextRule),
}

/// Which JSON values become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextRule {
    /// Strings only.
    Strings,
    /// Strings as they are, anything else as its JSON text.
    Anything,
    /// The JSON text of any value, of strings too: for `json` columns, where `"1"` is not `1`.
    Json,
    /// The JSON text of objects only.
    Objects,
    /// The JSON text of arrays only.
    Arrays,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    /// The field must be there.
    #[serde(default)]
    pub required: bool,
    /// The field must not be null.
    #[serde(default)]
    pub not_null: bool,
    /// Part of the key: mostly distinct values.
    #[serde(default)]
    pub key: bool,
    /// The only strings allowed, where any are given.
    #[serde(default)]
    pub values: Vec<String>,
    #[serde(default)]
    pub minimum: Option<f64>,
    #[serde(default)]
    pub maximum: Option<f64>,
}

impl Column {
    pub fn new(name: &str, kind: Kind) -> Self {
        Column {
            name: name.to_owned(),
            kind,
            required: false,
            not_null: false,
            key: false,
            values: Vec::new(),
            minimum: None,
            maximum: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Schema {
    pub columns: Vec<Column>,
}

#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("{0}")]
    Lake(#[from] LakeError),
    #[error("the schema kept in {} cannot be read: {source}; restore it, or delete it to describe the table anew", .path.display())]
    Cache { path: PathBuf, source: serde_json::Error },
    #[error("{0}")]
    File(#[from] json_schema::JsonSchemaError),
    #[error("{key} names {column:?}, which is not a column of topic {topic}; its columns are: {known}")]
    NoColumn { key: &'static str, column: String, topic: String, known: String },
    #[error("date_column {column:?} of topic {topic} is neither a timestamp nor a date")]
    NotADate { column: String, topic: String },
    #[error(
        "column {column:?} of topic {topic} has the name of a column that land adds itself: leave it out of columns"
    )]
    Reserved { column: String, topic: String },
}

/// Columns that land adds where `metadata_columns` is set.
pub const METADATA_COLUMNS: [&str; 3] = ["_processing_time", "_kafka_partition", "_kafka_offset"];

impl Schema {
    /// The columns of a captured table, of those that are published: `listed` (all when empty), the
    /// primary key, and the columns that the landing itself asks for.
    pub fn from_catalogue(found: &catalogue::Table, listed: &[String], land: &LandTable) -> Schema {
        let wanted = |column: &catalogue::Column| {
            listed.is_empty()
                || listed.contains(&column.name)
                || found.primary_key.contains(&column.name)
                || column.name == land.date_column
                || land.not_null.contains(&column.name)
                || land.non_negative.contains(&column.name)
        };
        let columns =
            found.columns.iter().filter(|column| wanted(column)).map(|column| Schema::column(found, column, land));
        Schema { columns: columns.collect() }
    }

    pub fn column(table: &catalogue::Table, column: &catalogue::Column, land: &LandTable) -> Column {
        let mut made = Column::new(&column.name, kind_of(column, land));
        made.key = table.primary_key.contains(&column.name);
        made
    }

    /// Adds the columns of `newer` that are not there yet. True where there were any.
    pub fn widen(&mut self, newer: Schema) -> bool {
        let before = self.columns.len();
        for column in newer.columns {
            if !self.columns.iter().any(|known| known.name == column.name) {
                self.columns.push(column);
            }
        }
        self.columns.len() > before
    }

    /// Whether the configuration of the table fits these columns.
    pub fn check(&self, land: &LandTable) -> Result<(), SchemaError> {
        let topic = || land.topic.clone();
        let find = |key, name: &String| {
            self.columns.iter().find(|column| column.name == *name).ok_or_else(|| SchemaError::NoColumn {
                key,
                column: name.clone(),
                topic: topic(),
                known: self.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", "),
            })
        };
        let date = find("date_column", &land.date_column)?;
        if !matches!(date.kind, Kind::Timestamp { .. } | Kind::Date) {
            return Err(SchemaError::NotADate { column: date.name.clone(), topic: topic() });
        }
        for name in &land.not_null {
            find("not_null", name)?;
        }
        for name in &land.non_negative {
            find("non_negative", name)?;
        }
        let added = METADATA_COLUMNS.iter().filter(|_| land.metadata_columns).copied();
        // Beside a directory `date=…` a column of that name could not be read, unless they are equal.
        let directory = (date.name != "date" || date.kind != Kind::Date).then_some("date");
        let mut reserved = added.chain(land.overflow_column.as_deref()).chain(directory);
        match reserved.find(|name| self.columns.iter().any(|column| column.name == *name)) {
            Some(name) => Err(SchemaError::Reserved { column: name.to_owned(), topic: topic() }),
            None => Ok(()),
        }
    }

    /// `<checkpoint_location>/<topic>.schema.json`
    pub fn cache_path(land: &LandTable) -> PathBuf {
        land.checkpoint_location.join(format!("{}.schema.json", land.topic))
    }

    /// What an earlier run has kept.
    pub fn load(path: &Path) -> Result<Option<Schema>, SchemaError> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| SchemaError::Cache { path: path.to_owned(), source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LakeError::Io { action: "read", path: path.to_owned(), source }.into()),
        }
    }

    /// Keeps the schema for the next run: whole or not at all.
    pub fn store(&self, path: &Path) -> Result<(), SchemaError> {
        let directory = path.parent().unwrap_or(Path::new("."));
        lake::directory::create_synced(directory)?;
        let text = serde_json::to_vec_pretty(self).map_err(LakeError::from)?;
        // Processes that share a topic may widen it at the same moment.
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = (|| {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        })();
        written.map_err(|source| LakeError::Io { action: "write", path: path.to_owned(), source })?;
        Ok(lake::directory::sync(directory)?)
    }

    /// The columns of a JSON Schema file, where the table has one.
    pub fn from_file(land: &LandTable) -> Result<Option<Schema>, SchemaError> {
        match &land.schema {
            LandSchema::File(path) => Ok(Some(json_schema::read(path)?)),
            LandSchema::Table { .. } => Ok(None),
        }
    }
}

fn kind_of(column: &catalogue::Column, land: &LandTable) -> Kind {
    if column.element_oid != 0 || column.type_kind == 'm' {
        return Kind::Text(TextRule::Anything);
    }
    match column.base_name.as_str() {
        // All of 64 bits, so that int to bigint changes nothing in the lake.
        "int2" | "int4" | "int8" | "oid" => Kind::Whole,
        "float4" | "float8" => Kind::Float,
        "bool" => Kind::Bool,
        "timestamp" | "timestamptz" => Kind::Timestamp { naive_is_utc: false },
        "date" => Kind::Date,
        "json" | "jsonb" => Kind::Text(TextRule::Json),
        "numeric" => match column.numeric_precision_scale() {
            None => Kind::Decimal { precision: land.numeric_precision, scale: land.numeric_scale },
            Some((precision @ 1..=38, scale @ -38..=38)) if scale <= precision as i16 => {
                Kind::Decimal { precision: precision as u8, scale: scale as i8 }
            }
            // Beyond 128 bits: its digits as text.
            Some(_) => Kind::Text(TextRule::Anything),
        },
        "text" | "varchar" | "bpchar" | "char" | "name" | "uuid" | "bytea" | "time" | "timetz" | "interval" => {
            Kind::Text(TextRule::Strings)
        }
        _ if column.type_kind == 'e' => Kind::Text(TextRule::Strings),
        _ => Kind::Text(TextRule::Anything),
    }
}
