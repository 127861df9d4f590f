//! What the catalogue says of a table: its columns, their types under domains, its primary key.

use super::{PostgresError, quote_ident};
use tokio_postgres::Client;

/// A table as found now. Names are as stored, unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `r` table, `p` partitioned table, `v` view, `m` materialised view, `f` foreign table.
    pub kind: char,
    /// In the order of the table.
    pub columns: Vec<Column>,
    /// In the order of the key; empty where there is none.
    pub primary_key: Vec<String>,
}

impl Table {
    /// `"schema"."table"`
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// `pg_type.oid` with domains resolved to what they stand on.
    pub type_oid: u32,
    /// As `format_type` prints it, domains by their own name.
    pub type_name: String,
    /// `pg_type.typtype` with domains resolved: `b` base, `e` enum, `c` composite, `r` range, `m` multirange.
    pub type_kind: char,
    /// `pg_type.typname` with domains resolved; arrays begin with `_`.
    pub base_name: String,
    /// Type of the elements (domains resolved) where this is an array, else 0.
    pub element_oid: u32,
    /// `pg_type.typtype` of the elements where this is an array.
    pub element_kind: char,
    /// `atttypmod`, or that of the domain; -1 where the type has none.
    pub typmod: i32,
    pub not_null: bool,
}

impl Column {
    /// Precision and scale of a `numeric(p, s)`.
    pub fn numeric_precision_scale(&self) -> Option<(u16, i16)> {
        let modifier = self.typmod.checked_sub(4).filter(|_| self.typmod >= 4)?;
        // The scale is an 11-bit two's complement number since PostgreSQL 15.
        let scale = ((modifier & 0x7ff) ^ 1024) - 1024;
        Some(((modifier >> 16) as u16, scale as i16))
    }
}

/// Finds `schema.table`, or `table` by the search path, and describes it.
pub async fn describe(client: &Client, schema: Option<&str>, table: &str) -> Result<Table, PostgresError> {
    let qualified = match schema {
        Some(schema) => format!("{}.{}", quote_ident(schema), quote_ident(table)),
        None => quote_ident(table),
    };
    let found = client
        .query_opt(
            "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)",
            &[&qualified],
        )
        .await?;
    let Some(found) = found else { return Err(PostgresError::NoTable { table: qualified }) };
    let oid: u32 = found.get(0);
    let first_char = |text: String| text.chars().next().unwrap_or(' ');
    let columns = client
        .query(
            "WITH RECURSIVE base AS (
               SELECT a.attnum, a.attname, a.attnotnull, a.atttypid AS own, a.atttypmod AS own_mod, a.atttypid AS oid, a.atttypmod AS typmod
               FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
             UNION ALL
               SELECT b.attnum, b.attname, b.attnotnull, b.own, b.own_mod, t.typbasetype, t.typtypmod
               FROM base b JOIN pg_type t ON t.oid = b.oid AND t.typtype = 'd'),
             element AS (
               SELECT t.oid AS oid, t.oid AS root, t.typtype, t.typbasetype FROM pg_type t
             UNION ALL
               SELECT t.oid, e.root, t.typtype, t.typbasetype FROM element e JOIN pg_type t ON t.oid = e.typbasetype AND e.typtype = 'd')
             SELECT b.attname::text, b.oid, format_type(b.own, b.own_mod), t.typtype::text, t.typname::text,
                    CASE WHEN t.typcategory = 'A' THEN coalesce(e.oid, 0::oid) ELSE 0::oid END,
                    coalesce(e.typtype::text, ' '), b.typmod, b.attnotnull
             FROM base b JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
             LEFT JOIN element e ON e.root = t.typelem AND t.typelem <> 0 AND e.typtype <> 'd'
             ORDER BY b.attnum",
            &[&oid],
        )
        .await?
        .into_iter()
        .map(|row| Column {
            name: row.get(0),
            type_oid: row.get(1),
            type_name: row.get(2),
            type_kind: first_char(row.get(3)),
            base_name: row.get(4),
            element_oid: row.get(5),
            element_kind: first_char(row.get(6)),
            typmod: row.get(7),
            not_null: row.get(8),
        })
        .collect();
    let primary_key = client
        .query(
            "SELECT a.attname::text FROM pg_index i
             CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, position)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE i.indrelid = $1 AND i.indisprimary ORDER BY k.position",
            &[&oid],
        )
        .await?
        .into_iter()
        .map(|row| row.get(0))
        .collect();
    Ok(Table { oid, schema: found.get(1), name: found.get(2), kind: first_char(found.get(3)), columns, primary_key })
}
