//! The table that a job writes: what it must look like, whether it does, and how to make it so.

use super::StoreError;
use crate::postgres::{
    catalogue::{Column, Table, describe},
    quote_ident,
};
use deadpool_postgres::{GenericClient, Object};
use std::collections::HashSet;

/// The columns of every output table beside key and measures, with their types.
const FIXED: &[(&str, &str)] = &[
    ("window_start", "timestamptz"),
    ("window_end", "timestamptz"),
    ("is_final", "boolean"),
    ("revision", "integer"),
    ("approximate", "boolean"),
    ("updated_at", "timestamptz"),
];

/// What a job writes. Names are as PostgreSQL stores them, unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Found by the search path when absent.
    pub schema: Option<String>,
    pub table: String,
    pub key_column: String,
    pub measures: Vec<Measure>,
}

/// A measure's column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure {
    pub column: String,
    pub kind: Kind,
    /// Whether a window may have no value (an average of nothing).
    pub is_nullable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Integer,
    Float,
    TextList,
    Counts,
}

impl Kind {
    /// The type of its column.
    pub fn sql(self) -> &'static str {
        match self {
            Kind::Integer => "bigint",
            Kind::Float => "double precision",
            Kind::TextList => "text[]",
            Kind::Counts => "jsonb",
        }
    }
}

impl Output {
    /// `"schema"."table"`, or `"table"`.
    pub fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quote_ident(schema), quote_ident(&self.table)),
            None => quote_ident(&self.table),
        }
    }

    /// The statements that make the table, partitioned by day.
    pub fn create_sql(&self) -> String {
        let mut columns = vec![
            format!("{} text NOT NULL", quote_ident(&self.key_column)),
            "window_start timestamptz NOT NULL".to_owned(),
            "window_end timestamptz NOT NULL".to_owned(),
        ];
        columns.extend(self.measures.iter().map(|measure| {
            let not_null = if measure.is_nullable { "" } else { " NOT NULL" };
            format!("{} {}{not_null}", quote_ident(&measure.column), measure.kind.sql())
        }));
        columns.extend(FIXED.iter().filter(|(name, _)| !name.starts_with("window_")).map(|(name, sql)| {
            let default = if *name == "updated_at" { " DEFAULT now()" } else { "" };
            format!("{name} {sql} NOT NULL{default}")
        }));
        columns.push(format!("PRIMARY KEY ({}, window_start)", quote_ident(&self.key_column)));
        columns.push("CHECK (window_start < window_end)".to_owned());
        format!(
            "CREATE TABLE {} (\n    {}\n) PARTITION BY RANGE (window_start);\n{}",
            self.quoted(),
            columns.join(",\n    "),
            self.create_default_sql()
        )
    }

    fn create_default_sql(&self) -> String {
        // PostgreSQL would cut a long name, perhaps to that of another table.
        let mut name: String = self.table.chars().take(40).collect();
        name.push_str("_default");
        let default = Output { table: name, ..self.clone() };
        format!("CREATE TABLE {} PARTITION OF {} DEFAULT;", default.quoted(), self.quoted())
    }
}

/// What must be known of a table beside its columns.
struct Traits {
    /// Columns that must be given a value.
    demanding: HashSet<String>,
    partitioning: Partitioning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Partitioning {
    /// None, or of a kind that is not ours to keep.
    Other,
    /// By range on window_start.
    ByTime { has_default: bool, may_keep: bool },
}

/// The table as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// `"schema"."table"`
    pub name: String,
    /// Whether day partitions are ours to make and drop.
    pub has_days: bool,
}

/// Finds the output table and compares it with what the job writes.
pub async fn check(client: &Object, output: &Output) -> Result<Found, StoreError> {
    if !exists(client, output).await? {
        return Err(StoreError::NoTable { table: output.quoted(), create: output.create_sql() });
    }
    let table = describe(client, output.schema.as_deref(), &output.table).await?;
    let traits = traits(client, table.oid).await?;
    let faults = faults(&table, &traits, output);
    if !faults.is_empty() {
        let problems: Vec<String> = faults.iter().map(|fault| fault.problem.clone()).collect();
        let cure: Vec<String> = faults.into_iter().map(|fault| fault.cure).collect();
        return Err(StoreError::Table { table: table.quoted(), problems: problems.join("; "), cure: cure.join("\n") });
    }
    Ok(Found { name: table.quoted(), has_days: traits.partitioning != Partitioning::Other })
}

pub async fn exists(client: &impl GenericClient, output: &Output) -> Result<bool, StoreError> {
    Ok(client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&output.quoted()]).await?.get(0))
}

async fn traits(client: &Object, oid: u32) -> Result<Traits, StoreError> {
    let demanding = client
        .query(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
               AND attnotnull AND NOT atthasdef AND attidentity = ''",
            &[&oid],
        )
        .await?;
    // Days are kept by functions that have the rights of their owner, who must own the table too.
    let partitioned = client
        .query_opt(
            "SELECT p.partdefid <> 0, coalesce((SELECT pg_has_role(f.proowner, c.relowner, 'USAGE') FROM pg_proc f
               WHERE f.oid = to_regprocedure('headwater_add_day(regclass, date)')), false)
             FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid
             JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
             WHERE p.partrelid = $1 AND p.partstrat = 'r' AND p.partnatts = 1 AND a.attname = 'window_start'",
            &[&oid],
        )
        .await?;
    Ok(Traits {
        demanding: demanding.into_iter().map(|row| row.get(0)).collect(),
        partitioning: partitioned
            .map_or(Partitioning::Other, |row| Partitioning::ByTime { has_default: row.get(0), may_keep: row.get(1) }),
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Fault {
    problem: String,
    cure: String,
}

fn faults(table: &Table, traits: &Traits, output: &Output) -> Vec<Fault> {
    let name = table.quoted();
    if !matches!(table.kind, 'r' | 'p') {
        let problem = "it is a view or a foreign table".to_owned();
        return vec![Fault { problem, cure: format!("-- name another table in analyze, or drop {name}") }];
    }
    let mut faults = Vec::new();
    let mut expected = vec![(output.key_column.as_str(), "text", false)];
    expected.extend(FIXED.iter().map(|(name, sql)| (*name, *sql, false)));
    expected.extend(output.measures.iter().map(|m| (m.column.as_str(), m.kind.sql(), m.is_nullable)));
    for (column, sql, is_nullable) in &expected {
        let quoted = quote_ident(column);
        match table.column(column) {
            None => faults.push(Fault {
                problem: format!("it has no column {quoted}"),
                cure: format!("ALTER TABLE {name} ADD COLUMN {quoted} {sql};"),
            }),
            Some(found) if !is_fit(found, sql) => faults.push(Fault {
                problem: format!("column {quoted} is {}, not {sql}", found.type_name),
                cure: format!("ALTER TABLE {name} ALTER COLUMN {quoted} TYPE {sql} USING {};", conversion(found, sql)),
            }),
            Some(found) if found.not_null && *is_nullable => faults.push(Fault {
                problem: format!("column {quoted} is NOT NULL, but a window may have no value for it"),
                cure: format!("ALTER TABLE {name} ALTER COLUMN {quoted} DROP NOT NULL;"),
            }),
            Some(_) => {}
        }
    }
    for column in &table.columns {
        if traits.demanding.contains(&column.name) && !expected.iter().any(|(name, ..)| *name == column.name) {
            let quoted = quote_ident(&column.name);
            faults.push(Fault {
                problem: format!("column {quoted} needs a value that the job does not give"),
                cure: format!("ALTER TABLE {name} ALTER COLUMN {quoted} DROP NOT NULL;"),
            });
        }
    }
    let key: HashSet<&str> = table.primary_key.iter().map(String::as_str).collect();
    if key != HashSet::from([output.key_column.as_str(), "window_start"]) {
        let key_column = quote_ident(&output.key_column);
        let drop = if key.is_empty() { "" } else { "-- after dropping the present primary key\n" };
        faults.push(Fault {
            problem: format!("its primary key is not ({key_column}, window_start)"),
            cure: format!("{drop}ALTER TABLE {name} ADD PRIMARY KEY ({key_column}, window_start);"),
        });
    }
    if let Partitioning::ByTime { has_default, may_keep } = traits.partitioning {
        if !has_default {
            faults.push(Fault {
                problem: "it has no default partition for rows of days without one".to_owned(),
                cure: output.create_default_sql(),
            });
        }
        if !may_keep {
            faults.push(Fault {
                problem: "its owner is not that of the function headwater_add_day, which makes its partitions"
                    .to_owned(),
                cure: format!("ALTER TABLE {name} OWNER TO headwater_owner; -- and its partitions"),
            });
        }
    }
    faults
}

/// Whether the column holds every value of the type. `varchar` without a length does, as `text`.
fn is_fit(column: &Column, sql: &str) -> bool {
    let base = match sql {
        "text" => return column.base_name == "text" || (column.base_name == "varchar" && column.typmod < 0),
        "bigint" => "int8",
        "integer" => return matches!(column.base_name.as_str(), "int4" | "int8"),
        "double precision" => "float8",
        "text[]" => "_text",
        "boolean" => "bool",
        other => other,
    };
    column.base_name == base
}

fn conversion(column: &Column, sql: &str) -> String {
    let quoted = quote_ident(&column.name);
    match (column.base_name.as_str(), sql) {
        // Written in UTC, unless its owner knows better.
        ("timestamp", "timestamptz") => format!("{quoted} AT TIME ZONE 'UTC'"),
        (_, "jsonb") => format!("to_jsonb({quoted})"),
        _ => format!("{quoted}::{sql}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, base: &str, not_null: bool) -> Column {
        Column {
            name: name.to_owned(),
            type_oid: 0,
            type_name: base.to_owned(),
            type_kind: 'b',
            base_name: base.to_owned(),
            element_oid: 0,
            element_kind: ' ',
            typmod: -1,
            not_null,
            order: None,
        }
    }

    fn output() -> Output {
        Output {
            schema: None,
            table: "t".to_owned(),
            key_column: "k".to_owned(),
            measures: vec![
                Measure { column: "n".to_owned(), kind: Kind::Integer, is_nullable: false },
                Measure { column: "a".to_owned(), kind: Kind::Float, is_nullable: true },
            ],
        }
    }

    fn table() -> Table {
        let columns = [
            ("k", "text"),
            ("window_start", "timestamptz"),
            ("window_end", "timestamptz"),
            ("n", "int8"),
            ("a", "float8"),
            ("is_final", "bool"),
            ("revision", "int4"),
            ("approximate", "bool"),
            ("updated_at", "timestamptz"),
        ];
        Table {
            has_children: false,
            foreign_child: None,
            oid: 1,
            schema: "public".to_owned(),
            name: "t".to_owned(),
            kind: 'p',
            columns: columns.map(|(name, base)| column(name, base, name != "a")).to_vec(),
            primary_key: vec!["k".to_owned(), "window_start".to_owned()],
        }
    }

    fn traits() -> Traits {
        let partitioning = Partitioning::ByTime { has_default: true, may_keep: true };
        Traits { demanding: HashSet::new(), partitioning }
    }

    #[test]
    fn a_table_that_fits_has_no_faults() {
        assert_eq!(faults(&table(), &traits(), &output()), []);
    }

    #[test]
    fn every_fault_is_named_at_once_with_its_cure() {
        let mut table = table();
        table.columns.remove(3);
        table.columns[1].base_name = "timestamp".to_owned();
        table.columns[3].not_null = true;
        table.columns.push(column("more", "text", true));
        table.primary_key.pop();
        let partitioning = Partitioning::ByTime { has_default: false, may_keep: false };
        let traits = Traits { demanding: ["more".to_owned(), "k".to_owned()].into(), partitioning };
        let cures: Vec<String> = faults(&table, &traits, &output()).into_iter().map(|fault| fault.cure).collect();
        assert_eq!(
            cures,
            [
                r#"ALTER TABLE "public"."t" ALTER COLUMN "window_start" TYPE timestamptz USING "window_start" AT TIME ZONE 'UTC';"#,
                r#"ALTER TABLE "public"."t" ADD COLUMN "n" bigint;"#,
                r#"ALTER TABLE "public"."t" ALTER COLUMN "a" DROP NOT NULL;"#,
                r#"ALTER TABLE "public"."t" ALTER COLUMN "more" DROP NOT NULL;"#,
                "-- after dropping the present primary key\nALTER TABLE \"public\".\"t\" ADD PRIMARY KEY (\"k\", window_start);",
                r#"CREATE TABLE "t_default" PARTITION OF "t" DEFAULT;"#,
                r#"ALTER TABLE "public"."t" OWNER TO headwater_owner; -- and its partitions"#,
            ]
        );
    }

    #[test]
    fn a_key_with_a_length_does_not_fit() {
        let mut table = table();
        table.columns[0] = Column { typmod: 24, ..column("k", "varchar", true) };
        assert_eq!(faults(&table, &traits(), &output()).len(), 1);
        table.columns[0].typmod = -1;
        assert_eq!(faults(&table, &traits(), &output()), []);
    }
}
