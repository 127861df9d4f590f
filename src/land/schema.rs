//! The columns of a landed table: where they come from, and how they grow.
//!
//! A schema only widens: a column that has landed once stays, with the type it landed with. That
//! keeps every file readable together with every other one, by name.

use crate::{
    config::{
        is_same_name,
        model::{LandSchema, LandTable, METADATA_COLUMNS, PARTITION_COLUMN},
    },
    lake::{self, LakeError, parquet_file},
    land::{columns::data_type, json_schema},
    postgres::catalogue,
};
use arrow_schema::Field;
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
    #[error("topic {topic} cannot be landed with {clash}")]
    Clash { topic: String, clash: Clash },
}

/// Why a field cannot be a column of the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column:?}: {why}; {cure}")]
pub struct Clash {
    pub column: String,
    why: String,
    cure: String,
}

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

    /// Adds the columns of `newer` that are not there yet and can be; gives why others cannot. Their fields stay
    /// unknown ones: what has landed so far does not stop for a column that comes.
    pub fn widen(&mut self, newer: Schema, land: &LandTable) -> Vec<Clash> {
        let mut clashes = Vec::new();
        for column in newer.columns {
            if !self.columns.iter().any(|known| known.name == column.name) {
                match clash(&column, &self.columns, land) {
                    Some(clash) => clashes.push(clash),
                    None => self.columns.push(column),
                }
            }
        }
        clashes
    }

    /// What is landed with where an earlier run has kept `kept` and the source describes the table as `found`.
    pub fn settle(kept: Schema, found: Schema, land: &LandTable) -> Result<Schema, SchemaError> {
        if kept.columns.is_empty() {
            found.check(land)?;
            return Ok(found);
        }
        let mut schema = kept;
        for clash in schema.widen(found, land) {
            tracing::warn!(topic = %land.topic, "a new column does not land: {clash}");
        }
        schema.check(land)?;
        Ok(schema)
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
        let mut clashes =
            self.columns.iter().enumerate().filter_map(|(n, column)| clash(column, &self.columns[..n], land));
        clashes.next().map_or(Ok(()), |clash| Err(SchemaError::Clash { topic: topic(), clash }))
    }

    /// `<checkpoint_location>/<topic>.schema.json`
    pub fn cache_path(land: &LandTable) -> PathBuf {
        land.checkpoint_location.join(format!("{}.schema.json", land.topic))
    }

    /// What an earlier run has kept.
    pub fn load(path: &Path) -> Result<Option<Schema>, SchemaError> {
        match fs::read(path) {
            Ok(bytes) => {
                let mut schema: Schema = serde_json::from_slice(&bytes)
                    .map_err(|source| SchemaError::Cache { path: path.to_owned(), source })?;
                for column in &mut schema.columns {
                    if let Kind::Decimal { precision, scale } = column.kind {
                        // Earlier versions kept scales below zero, with which no file could be written.
                        column.kind = decimal(precision.into(), scale.into());
                    }
                }
                Ok(Some(schema))
            }
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

/// Why a field cannot be a column beside `others`, as readers of the files would see it.
fn clash(column: &Column, others: &[Column], land: &LandTable) -> Option<Clash> {
    let name = land.column_of(&column.name);
    let is_same = |other: &str| is_same_name(name, other);
    let is_partition = column.name == land.date_column && column.kind == Kind::Date;
    let why = if is_same(PARTITION_COLUMN) && !is_partition {
        Some(format!(
            "readers take {PARTITION_COLUMN:?} from the names of the directories, {PARTITION_COLUMN}=YYYY-MM-DD"
        ))
    } else if land.overflow_column.as_deref().is_some_and(is_same) {
        Some("overflow_column has this name".to_owned())
    } else if land.metadata_columns && METADATA_COLUMNS.into_iter().any(is_same) {
        Some("metadata_columns adds one of this name".to_owned())
    } else if let Some(other) = others.iter().find(|other| is_same(land.column_of(&other.name))) {
        Some(format!("readers that know no case cannot tell it from column {:?}", other.name))
    } else {
        let refused = parquet_file::can_hold(&Field::new(name, data_type(column.kind), true)).err();
        refused.map(|error| format!("Parquet cannot hold it: {error}"))
    };
    let leave_out = match land.schema {
        LandSchema::File(_) => "leave it out of schema_file",
        LandSchema::Table { .. } => "leave it out by land.tables[].source.columns",
    };
    // A name that no other column has, as far as anybody can know.
    let free = format!("{}_", name.trim_matches('_'));
    let (field, free) = (json_text(&column.name), json_text(&free));
    let cure =
        format!("give it another name by land.tables[].rename, such as rename: {{{field}: {free}}}, or {leave_out}");
    why.map(|why| Clash { column: column.name.clone(), why, cure })
}

/// In quotes, as YAML takes it too.
fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Decimals as Parquet holds them, which knows no scale below zero: such a number is a whole one, with its zeros.
/// Beyond 128 bits it is its digits as text.
fn decimal(precision: u16, scale: i16) -> Kind {
    let digits = i32::from(precision) + i32::from(-scale.min(0));
    let scale = scale.max(0);
    match u8::try_from(digits) {
        Ok(precision @ 1..=38) if scale <= precision.into() => Kind::Decimal { precision, scale: scale as i8 },
        _ => Kind::Text(TextRule::Anything),
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
            Some((precision, scale)) => decimal(precision, scale),
        },
        "text" | "varchar" | "bpchar" | "char" | "name" | "uuid" | "bytea" | "time" | "timetz" | "interval" => {
            Kind::Text(TextRule::Strings)
        }
        _ if column.type_kind == 'e' => Kind::Text(TextRule::Strings),
        _ => Kind::Text(TextRule::Anything),
    }
}
