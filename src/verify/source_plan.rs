//! How rows of a captured table, and records that claim to be such rows, are made comparable.

use super::{
    canon::{self, Kind},
    clock,
    entry::Fault,
    row::{RowBytes, Tag, push_key_cell},
};
use crate::{
    clock::iso,
    config::model::CaptureTable,
    postgres::{catalogue, quote_ident, quote_literal},
};
use chrono_tz::Tz;
use serde_json::{Map, Value};

#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    tag: Tag,
    /// What is selected.
    expression: String,
    /// How it is compared with a literal, and the literal's type; none where nothing compares it.
    equality: Option<(String, String)>,
    /// Added with a default after rows were there: they hold it without having been written again.
    pub has_missing: bool,
}

#[derive(Debug, Clone)]
pub struct SourcePlan {
    /// `"schema"."table"`
    pub quoted: String,
    /// Of the names that `capture` gives in its dead letters.
    pub name: String,
    pub columns: Vec<Column>,
    pub key: Vec<usize>,
    pub watermark: usize,
    has_transaction: bool,
    filter: Option<String>,
}

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("table {table} has no column {column:?}, which {setting} names; its columns are: {known}")]
    NoColumn { table: String, column: String, setting: &'static str, known: String },
    #[error("table {table} has no primary key: name the columns that identify a row in capture.tables[].key")]
    NoKey { table: String },
    #[error("capture.timezone {name:?} is no IANA time zone; write it as Europe/Berlin")]
    Zone { name: String },
}

/// A row made comparable.
#[derive(Debug)]
pub struct Version {
    pub row: u128,
    pub watermark: Option<i64>,
    pub fault: Fault,
}

/// The kind of a catalogue column. Arrays of types that capture asks the server's text for are text.
pub fn kind_of(column: &catalogue::Column, zone: Option<Tz>) -> Kind {
    if column.element_oid != 0 {
        return match scalar_kind(column.element_oid, zone) {
            Some(kind) => Kind::Array(Box::new(kind)),
            None if column.element_kind == 'e' => Kind::Array(Box::new(Kind::Text)),
            None => Kind::Text,
        };
    }
    match column.type_oid {
        // Only as a column of its own: an array of addresses is published as the array's text.
        869 => Kind::Inet,
        type_oid => scalar_kind(type_oid, zone).unwrap_or(Kind::Text),
    }
}

fn scalar_kind(type_oid: u32, zone: Option<Tz>) -> Option<Kind> {
    Some(match type_oid {
        16 => Kind::Bool,
        20 | 21 | 23 | 1700 => Kind::Number,
        700 => Kind::Float32,
        701 => Kind::Float64,
        1114 => Kind::Timestamp(zone),
        1184 => Kind::Timestamp(None),
        1082 => Kind::Date,
        1083 => Kind::Time,
        1266 => Kind::TimeWithZone,
        17 => Kind::Bytes,
        114 | 3802 => Kind::Json,
        // oid, name, text, char(n), varchar, uuid
        26 | 19 | 25 | 1042 | 1043 | 2950 => Kind::Text,
        _ => return None,
    })
}

impl SourcePlan {
    pub fn new(
        capture: &CaptureTable,
        timezone: Option<&str>,
        table: &catalogue::Table,
        has_missing: &[String],
    ) -> Result<SourcePlan, PlanError> {
        let zone = match timezone {
            Some(name) => Some(name.parse::<Tz>().map_err(|_| PlanError::Zone { name: name.to_owned() })?),
            None => None,
        };
        let key_names = if capture.key.is_empty() { &table.primary_key } else { &capture.key };
        if key_names.is_empty() {
            return Err(PlanError::NoKey { table: table.quoted() });
        }
        let is_read = |name: &String| {
            capture.columns.is_empty()
                || capture.columns.contains(name)
                || key_names.contains(name)
                || capture.watermark == *name
        };
        let columns: Vec<Column> = table
            .columns
            .iter()
            .filter(|column| is_read(&column.name))
            .map(|column| (column, kind_of(column, zone)))
            .map(|(column, kind)| match kind {
                // In a key an array is published as its text.
                Kind::Array(_) if key_names.contains(&column.name) => (column, Kind::Text),
                kind => (column, kind),
            })
            .map(|(column, kind)| Column {
                name: column.name.clone(),
                tag: Tag::of(&column.name),
                expression: expression(column, &kind),
                equality: column.order.as_ref().map(|order| (order.equal.clone(), order.type_name.clone())),
                has_missing: has_missing.contains(&column.name),
                kind,
            })
            .collect();
        let position = |name: &String, setting| {
            columns.iter().position(|column| column.name == *name).ok_or_else(|| PlanError::NoColumn {
                table: table.quoted(),
                column: name.clone(),
                setting,
                known: table.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", "),
            })
        };
        for name in &capture.columns {
            position(name, "columns")?;
        }
        Ok(SourcePlan {
            quoted: table.quoted(),
            name: format!("{}.{}", table.schema, table.name),
            key: key_names.iter().map(|name| position(name, "key")).collect::<Result<_, _>>()?,
            watermark: position(&capture.watermark, "watermark")?,
            // A view has no row versions of its own.
            has_transaction: matches!(table.kind, 'r' | 'p' | 'm'),
            filter: capture.filter.clone(),
            columns,
        })
    }

    pub fn key_kinds(&self) -> Vec<Kind> {
        self.key.iter().map(|column| self.columns[*column].kind.clone()).collect()
    }

    pub fn watermark_is_date(&self) -> bool {
        self.columns[self.watermark].kind == Kind::Date
    }

    /// Reads every row: its transaction id, then the columns, as text.
    pub fn copy_statement(&self) -> String {
        format!("COPY ({}) TO STDOUT", self.select(None))
    }

    /// Reads the rows of one key, where its cells can be written as literals.
    pub fn copy_statement_of(&self, cells: &[&[u8]]) -> Option<String> {
        let mut conditions = Vec::new();
        for (column, cell) in self.key.iter().zip(cells) {
            let column = &self.columns[*column];
            let literal = match (&column.kind, cell.first()?) {
                (Kind::Timestamp(Some(_)) | Kind::Array(_) | Kind::Json, _) | (_, b'?') => return None,
                (kind, _) => super::row::display_cell(kind, cell),
            };
            let (equal, type_name) = column.equality.as_ref()?;
            conditions.push(format!("{} {equal} {}::{type_name}", quote_ident(&column.name), quote_literal(&literal)));
        }
        Some(format!("COPY ({}) TO STDOUT", self.select(Some(&conditions.join(" AND ")))))
    }

    fn select(&self, condition: Option<&str>) -> String {
        let transaction = if self.has_transaction { "xmin" } else { "NULL" };
        let columns: Vec<&str> = self.columns.iter().map(|column| column.expression.as_str()).collect();
        let conditions: Vec<String> =
            self.filter.as_deref().into_iter().chain(condition).map(|condition| format!("({condition})")).collect();
        let conditions =
            if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        format!("SELECT {transaction}, {} FROM {}{conditions}", columns.join(", "), self.quoted)
    }

    /// The row that PostgreSQL printed; its key is appended to `key`.
    pub fn of_text<'t>(
        &self,
        cell: impl Fn(usize) -> Option<&'t str>,
        row: &mut RowBytes,
        key: &mut Vec<u8>,
    ) -> Version {
        self.version(row, key, |index, kind, out| {
            let text = cell(index).filter(|text| !canon::is_json_null(kind, text));
            text.map(|text| canon::from_text(kind, text, out)).is_some()
        })
    }

    /// The row that a record's fields claim to be. None where a part of the key is missing.
    pub fn of_record(&self, fields: &Map<String, Value>, row: &mut RowBytes, key: &mut Vec<u8>) -> Option<Version> {
        let missing = |column: &&Column| !fields.contains_key(&column.name);
        // A JSON null is a value of its own, which a primary key may hold.
        let has_no_value =
            |column: &Column| fields.get(&column.name).is_none_or(|value| value.is_null() && column.kind != Kind::Json);
        if self.key.iter().any(|column| has_no_value(&self.columns[*column])) {
            return None;
        }
        let mut version = self.version(row, key, |index, kind, out| match fields.get(&self.columns[index].name) {
            None | Some(Value::Null) => false,
            Some(value) => {
                canon::from_json(kind, value, out);
                true
            }
        });
        let absent: Vec<&Column> = self.columns.iter().filter(missing).collect();
        // A column that the record lacks was added later, or renamed: then its old name is there.
        let has_unknown = fields.len() + absent.len() > self.columns.len();
        if absent.iter().any(|column| column.has_missing) || (!absent.is_empty() && has_unknown) {
            version.fault = Fault::OlderShape;
        }
        Some(version)
    }

    fn version(
        &self,
        row: &mut RowBytes,
        key: &mut Vec<u8>,
        mut write: impl FnMut(usize, &Kind, &mut Vec<u8>) -> bool,
    ) -> Version {
        row.begin(self.columns.len());
        for (index, column) in self.columns.iter().enumerate() {
            row.cell(index, column.tag, |out| write(index, &column.kind, out));
        }
        for column in &self.key {
            push_key_cell(key, row.get(*column));
        }
        let watermark = watermark_us(&self.columns[self.watermark].kind, row.get(self.watermark));
        Version { row: row.hash(), watermark, fault: Fault::None }
    }

    /// The key that a message key spells: one column as its text, several as a JSON array.
    pub fn key_of_message(&self, message_key: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(message_key).ok()?;
        let mut key = Vec::new();
        let mut cell = Vec::new();
        if let [column] = self.key.as_slice() {
            let kind = &self.columns[*column].kind;
            if !canon::is_json_null(kind, text) {
                canon::from_text(kind, text, &mut cell);
            }
            push_key_cell(&mut key, &cell);
            return Some(key);
        }
        let values: Vec<Value> = serde_json::from_str(text).ok()?;
        if values.len() != self.key.len() {
            return None;
        }
        for (column, value) in self.key.iter().zip(&values) {
            cell.clear();
            if !value.is_null() {
                canon::from_json(&self.columns[*column].kind, value, &mut cell);
            }
            push_key_cell(&mut key, &cell);
        }
        Some(key)
    }
}

/// A canonical watermark in microseconds (dates by their midnight), for its age and for equality.
pub fn watermark_us(kind: &Kind, canonical: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(canonical.strip_prefix(b"@")?).ok()?;
    match text {
        "infinity" => Some(i64::MAX),
        "-infinity" => Some(i64::MIN),
        text => {
            let value = text.parse::<i64>().ok()?;
            if *kind == Kind::Date { value.checked_mul(86_400_000_000) } else { Some(value) }
        }
    }
}

/// The text form is PostgreSQL's own; only what depends on the zone is asked for otherwise.
fn expression(column: &catalogue::Column, kind: &Kind) -> String {
    let name = quote_ident(&column.name);
    match kind {
        Kind::Timestamp(Some(zone)) => format!("{name}::timestamp AT TIME ZONE {}", quote_literal(zone.name())),
        Kind::Array(_) => format!("pg_catalog.to_json({name})"),
        // As PostgreSQL writes it since version 16: older ones print bytes that are no text as they are.
        _ if column.type_oid == 18 => format!(
            "CASE WHEN {name}::int4 < 0 THEN concat(chr(92), (256 + {name}::int4) / 64, (256 + {name}::int4) / 8 % 8, \
             (256 + {name}::int4) % 8) ELSE {name}::text END"
        ),
        _ => name,
    }
}

/// Whether a watermark may lie within what has not been polled yet.
pub fn young_from_us(snapshot_us: i64, window_ms: u64, watermark_is_date: bool) -> i64 {
    let from = snapshot_us.saturating_sub(window_ms.saturating_mul(1000) as i64);
    if watermark_is_date {
        // Of a date only the day is known, in a zone at most 14 hours ahead of UTC.
        return (from - 14 * 3_600_000_000).div_euclid(86_400_000_000) * 86_400_000_000;
    }
    from
}

/// The day that a canonical cell of a date column lies in, as partition directories have it.
pub fn day_of(kind: &Kind, canonical: &[u8]) -> Option<String> {
    match (kind, watermark_us(kind, canonical)?) {
        (_, i64::MAX | i64::MIN) => None,
        (_, us) => clock::day_name(us),
    }
}

/// A watermark as people read it.
pub fn display_watermark(watermark: Option<i64>) -> String {
    match watermark {
        None => "null: only the first load reads such rows".to_owned(),
        Some(i64::MAX) => "infinity".to_owned(),
        Some(i64::MIN) => "-infinity".to_owned(),
        Some(us) => iso(us),
    }
}
