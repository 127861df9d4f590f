//! What the catalogue says of a table: its columns, their types under domains and how those are ordered, its
//! primary key, and the tables below it.

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
    /// Whether other tables inherit from it, or are its partitions.
    pub has_children: bool,
    /// A partition or a child, at any depth, that is a foreign table.
    pub foreign_child: Option<String>,
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
    /// None where PostgreSQL keeps no order of the type.
    pub order: Option<Order>,
}

/// How `ORDER BY` and indexes order a type: by its default B-tree operator class. Its operators are named with
/// their schemas, for a bare `>` means what the search path finds: of a `citext` off the path, that of `text`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Order {
    /// Type of literals to compare with; domains resolved, so that their checks need not run.
    pub type_name: String,
    /// `OPERATOR(schema.<)`, and so on.
    pub less: String,
    pub equal: String,
    pub greater_or_equal: String,
    pub greater: String,
    /// Whether values that are equal have the same bytes, as 1.0 and 1.00 have not.
    pub is_exact: bool,
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
               SELECT a.attnum, a.attname, a.attnotnull, a.attcollation, a.atttypid AS own, a.atttypmod AS own_mod,
                      a.atttypid AS oid, a.atttypmod AS typmod
               FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
             UNION ALL
               SELECT b.attnum, b.attname, b.attnotnull, b.attcollation, b.own, b.own_mod, t.typbasetype, t.typtypmod
               FROM base b JOIN pg_type t ON t.oid = b.oid AND t.typtype = 'd'),
             element AS (
               SELECT t.oid AS oid, t.oid AS root, t.typtype, t.typbasetype FROM pg_type t
             UNION ALL
               SELECT t.oid, e.root, t.typtype, t.typbasetype FROM element e JOIN pg_type t ON t.oid = e.typbasetype AND e.typtype = 'd')
             SELECT b.attname::text, b.oid, format_type(b.own, b.own_mod), t.typtype::text, t.typname::text,
                    CASE WHEN t.typcategory = 'A' THEN coalesce(e.oid, 0::oid) ELSE 0::oid END,
                    coalesce(e.typtype::text, ' '), b.typmod, b.attnotnull, format_type(b.oid, -1), o.operators, o.is_exact
             FROM base b JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
             LEFT JOIN element e ON e.root = t.typelem AND t.typelem <> 0 AND e.typtype <> 'd'
             LEFT JOIN LATERAL (
               SELECT c.opcfamily AS family, c.opcintype AS input
               FROM pg_opclass c JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
               WHERE c.opcdefault AND (
                 c.opcintype = t.oid
                 OR c.opcintype = CASE t.typtype WHEN 'e' THEN 'anyenum'::regtype WHEN 'c' THEN 'record'::regtype
                      WHEN 'r' THEN 'anyrange'::regtype WHEN 'm' THEN 'anymultirange'::regtype END
                 OR c.opcintype = 'anyarray'::regtype AND t.typsubscript = 'array_subscript_handler'::regproc
                 OR c.opcintype IN (SELECT casttarget FROM pg_cast
                      WHERE castsource = t.oid AND castmethod = 'b' AND castcontext = 'i'))
               ORDER BY c.opcintype = t.oid DESC, (SELECT i.typispreferred FROM pg_type i WHERE i.oid = c.opcintype) DESC
               LIMIT 1) AS class ON true
             LEFT JOIN LATERAL (
               SELECT array_agg(format('OPERATOR(%I.%s)', n.nspname, p.oprname) ORDER BY s.amopstrategy) AS operators,
                      class.input <> 'bpchar'::regtype AND EXISTS (
                        SELECT FROM pg_amproc f WHERE f.amprocfamily = class.family AND f.amproclefttype = class.input
                          AND f.amprocrighttype = class.input AND f.amprocnum = 4)
                        AND NOT EXISTS (
                        SELECT FROM pg_collation l WHERE l.oid = b.attcollation AND NOT l.collisdeterministic) AS is_exact
               FROM pg_amop s JOIN pg_operator p ON p.oid = s.amopopr JOIN pg_namespace n ON n.oid = p.oprnamespace
               WHERE s.amopfamily = class.family AND s.amoplefttype = class.input AND s.amoprighttype = class.input
                 AND s.amopstrategy IN (1, 3, 4, 5)) AS o ON true
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
            order: order(row.get(9), row.get(10), row.get(11)),
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
    let below = client
        .query_one(
            "WITH RECURSIVE below AS (
               SELECT inhrelid FROM pg_inherits WHERE inhparent = $1
             UNION
               SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.inhrelid)
             SELECT count(*) > 0, min(inhrelid::regclass::text) FILTER (WHERE relkind = 'f')
             FROM below JOIN pg_class ON pg_class.oid = inhrelid",
            &[&oid],
        )
        .await?;
    Ok(Table {
        oid,
        schema: found.get(1),
        name: found.get(2),
        kind: first_char(found.get(3)),
        columns,
        primary_key,
        has_children: below.get(0),
        foreign_child: below.get(1),
    })
}

/// From the operators of the strategies less, equal, greater or equal, greater.
fn order(type_name: String, operators: Option<Vec<String>>, is_exact: Option<bool>) -> Option<Order> {
    let [less, equal, greater_or_equal, greater] = operators?.try_into().ok()?;
    Some(Order { type_name, less, equal, greater_or_equal, greater, is_exact: is_exact.unwrap_or(false) })
}
