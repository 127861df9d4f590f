//! A configured table as it is in the database now: columns, key, watermark.

use super::{errors::TableError, value::Kind, zone::Zone};
use crate::{
    config::model::{Capture, CaptureTable},
    postgres::{
        catalogue::{self, Order, Table},
        quote_ident,
    },
};

/// The type of the watermark column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatermarkType {
    Timestamp,
    TimestampTz,
    Date,
}

impl WatermarkType {
    fn of(kind: &Kind) -> Option<WatermarkType> {
        match kind {
            Kind::Timestamp => Some(WatermarkType::Timestamp),
            Kind::TimestampTz => Some(WatermarkType::TimestampTz),
            Kind::Date => Some(WatermarkType::Date),
            _ => None,
        }
    }

    pub fn sql(self) -> &'static str {
        match self {
            WatermarkType::Timestamp => "timestamp",
            WatermarkType::TimestampTz => "timestamptz",
            WatermarkType::Date => "date",
        }
    }
}

/// A column that is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    /// Of key and watermark; empty where the type of another column has none.
    pub order: Order,
    /// `"name":`, with the separator from the field before it.
    pub json_name: Vec<u8>,
    pub nullable: bool,
    /// Whether its values have no bound worth relying on, so that the server measures them first.
    pub unbounded: bool,
}

/// What a poll and a chunk read. Made anew when the table changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// `"schema"."table"`
    pub quoted: String,
    /// `schema.table`, as in headers.
    pub name: String,
    pub columns: Vec<Column>,
    /// Positions in `columns`.
    pub key: Vec<usize>,
    /// Whether no two rows can have the same key.
    pub unique: bool,
    pub watermark: usize,
    pub watermark_type: WatermarkType,
    /// The step of the watermark's values in microseconds.
    pub resolution_us: i64,
    pub filter: Option<String>,
}

impl Source {
    /// Applies the configuration to what was found.
    pub fn resolve(configured: &CaptureTable, found: &Table) -> Result<Source, TableError> {
        let quoted = found.quoted();
        let kind = match found.kind {
            'v' => Some("view"),
            'm' => Some("materialised view"),
            'f' => Some("foreign table"),
            'r' | 'p' => None,
            _ => Some("relation of another kind"),
        };
        if let Some(kind) = kind {
            return Err(TableError::NotATable { table: quoted, kind });
        }
        if let Some(child) = &found.foreign_child {
            return Err(TableError::ForeignChild { table: quoted, child: child.clone() });
        }
        let key_names = if configured.key.is_empty() { &found.primary_key } else { &configured.key };
        if key_names.is_empty() {
            return Err(TableError::NoKey { table: quoted });
        }
        let missing =
            |column: &String, setting| TableError::NoColumn { table: quoted.clone(), column: column.clone(), setting };
        if let Some(column) = configured.columns.iter().find(|name| found.column(name).is_none()) {
            return Err(missing(column, "columns"));
        }
        let is_read = |name: &String| {
            configured.columns.is_empty()
                || configured.columns.contains(name)
                || key_names.contains(name)
                || *name == configured.watermark
        };
        let columns: Vec<Column> = found
            .columns
            .iter()
            .filter(|column| is_read(&column.name))
            .enumerate()
            .map(|(position, column)| {
                let kind = match Kind::of(column) {
                    Kind::Array(_) if key_names.contains(&column.name) => Kind::AsText,
                    kind => kind,
                };
                let mut json_name = vec![if position == 0 { b'{' } else { b',' }];
                super::value::push_string(&mut json_name, column.name.as_bytes());
                json_name.push(b':');
                let unbounded = match kind {
                    // A `varchar(n)` of modest length cannot make a row too large.
                    Kind::Text => {
                        !(column.typmod > 4 && column.typmod <= 2_000
                            || matches!(column.type_kind, 'e')
                            || column.base_name == "name")
                    }
                    Kind::Json | Kind::Jsonb | Kind::Bytea | Kind::Array(_) | Kind::AsText => true,
                    _ => false,
                };
                Column {
                    name: column.name.clone(),
                    order: column.order.clone().unwrap_or_default(),
                    json_name,
                    nullable: !column.not_null,
                    unbounded: unbounded && !key_names.contains(&column.name),
                    kind,
                }
            })
            .collect();
        let position = |name: &String, setting| {
            columns.iter().position(|column| column.name == *name).ok_or_else(|| missing(name, setting))
        };
        let key = key_names.iter().map(|name| position(name, "key")).collect::<Result<Vec<_>, _>>()?;
        for column in key_names.iter().filter_map(|name| found.column(name)) {
            if let Some(reason) = unfit_for_a_key(column) {
                let (column, type_name) = (column.name.clone(), column.type_name.clone());
                return Err(TableError::KeyType { table: quoted, column, type_name, reason });
            }
        }
        let watermark = position(&configured.watermark, "watermark")?;
        let in_catalogue = found.column(&configured.watermark);
        let Some(watermark_type) = WatermarkType::of(&columns[watermark].kind) else {
            return Err(TableError::WatermarkType {
                table: quoted,
                column: configured.watermark.clone(),
                found: in_catalogue.map_or_else(String::new, |column| column.type_name.clone()),
            });
        };
        let resolution_us = match (watermark_type, in_catalogue.map_or(-1, |column| column.typmod)) {
            // Dates are rounded down where the bound is made.
            (WatermarkType::Date, _) => 0,
            (_, digits @ 0..=5) => 10_i64.pow(6 - digits as u32),
            _ => 1,
        };
        let nullable_key = key.iter().any(|position| columns[*position].nullable);
        // A unique index over other columns is not looked for: saying "not unique" costs little. Nor does a
        // primary key hold for the tables that inherit from its own.
        let is_inherited = found.kind == 'r' && found.has_children;
        let unique = !nullable_key
            && !is_inherited
            && !found.primary_key.is_empty()
            && found.primary_key.iter().all(|name| key_names.contains(name));
        Ok(Source {
            quoted,
            name: format!("{}.{}", found.schema, found.name),
            columns,
            key,
            unique,
            watermark,
            watermark_type,
            resolution_us,
            filter: configured.filter.clone(),
        })
    }

    pub fn key_names(&self) -> Vec<String> {
        self.key.iter().map(|position| self.columns[*position].name.clone()).collect()
    }

    pub fn watermark_column(&self) -> &Column {
        &self.columns[self.watermark]
    }
}

/// Why reading cannot go on after a value of the column: nothing says what comes next, or its text is not the value.
fn unfit_for_a_key(column: &catalogue::Column) -> Option<&'static str> {
    // regproc, regprocedure, regoper, regoperator, regclass, regtype, regconfig, regdictionary, regnamespace,
    // regrole, regcollation
    const NAMES: [u32; 11] = [24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];
    if column.order.is_none() {
        return Some("PostgreSQL keeps no order of it, in which rows could be read");
    }
    if NAMES.contains(&column.type_oid) || NAMES.contains(&column.element_oid) {
        return Some("its text is the name of something, which can be renamed");
    }
    if column.base_name == "seg" || column.base_name == "_seg" {
        return Some("its text leaves out digits, so that reading could not go on after it");
    }
    None
}

/// The zone in which local times are read: the configured one, or UTC where the server's is that.
pub fn zone(capture: &Capture, source: &Source, server_zone: Option<&str>) -> Result<Zone, TableError> {
    if let Some(name) = &capture.timezone {
        let zone = name.parse().map_err(|_| TableError::UnknownTimezone { zone: name.clone() })?;
        return Ok(Zone::new(zone));
    }
    let server_zone = server_zone.unwrap_or("unknown, since the role has its own");
    let is_utc =
        ["UTC", "Etc/UTC", "GMT", "Etc/GMT", "UCT", "Etc/UCT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal"]
            .iter()
            .any(|name| name.eq_ignore_ascii_case(server_zone));
    let local = source.watermark_type != WatermarkType::TimestampTz;
    if !is_utc && local {
        return Err(TableError::NoTimezone {
            table: source.quoted.clone(),
            column: source.watermark_column().name.clone(),
            zone: server_zone.to_owned(),
        });
    }
    if is_utc {
        return Ok(Zone::new(chrono_tz::UTC));
    }
    // No watermark depends on it; other columns in local time are read in the server's zone.
    Ok(Zone::new(server_zone.parse().unwrap_or(chrono_tz::UTC)))
}

/// The configured name as SQL, for a lock before anything is known of the table.
pub fn quoted_name(table: &CaptureTable) -> String {
    match &table.schema {
        Some(schema) => format!("{}.{}", quote_ident(schema), quote_ident(&table.table)),
        None => quote_ident(&table.table),
    }
}
