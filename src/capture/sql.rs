//! The text of the questions: polls and chunks as `COPY`, which takes no parameters.

use super::{
    plan::{Given, runs},
    source::{Column, Source, WatermarkType},
    value,
    zone::Zone,
};
use crate::postgres::{catalogue::Order, quote_ident, quote_literal};
use std::fmt::Write;

/// When the transaction of a session in `pg_stat_activity a` began, at the latest; null where it has none. A
/// session that hides its activity counts from where it connected.
macro_rules! begun {
    () => {
        "least(
                a.xact_start,
                CASE WHEN a.backend_type = 'client backend' AND a.state IN ('active', 'fastpath function call')
                       AND a.leader_pid IS NULL THEN a.query_start END,
                CASE WHEN a.state = 'disabled' THEN a.backend_start END)"
    };
}

/// A table (`$1`), or all of its partitions, as `relid`.
macro_rules! leaves {
    () => {
        "(SELECT to_regclass($1)::oid AS relid UNION SELECT relid::oid FROM pg_partition_tree(to_regclass($1))) AS leaves"
    };
}

/// Rows written to a table since the server began to count; null where it does not.
pub const WRITTEN: &str = concat!(
    "SELECT CASE WHEN current_setting('track_counts')::bool
       THEN sum(pg_stat_get_tuples_inserted(relid) + pg_stat_get_tuples_updated(relid))::int8 END FROM ",
    leaves!()
);

/// Whether PostgreSQL counts, and has counted no update and no delete in a table.
pub const APPEND_ONLY: &str = concat!(
    "SELECT current_setting('track_counts')::bool AND coalesce(
       sum(pg_stat_get_tuples_updated(relid) + pg_stat_get_tuples_deleted(relid)) = 0, false) FROM ",
    leaves!()
);

/// The sessions whose transactions may hold rows of this database that nobody sees yet. A vacuum of hours
/// writes none, so it does not hold the bound.
macro_rules! writers {
    () => {
        "pg_stat_activity a
       WHERE a.pid <> pg_backend_pid() AND (a.datname = current_database() OR a.datname IS NULL)
         AND a.backend_type <> 'autovacuum worker'"
    };
}

/// Read before the snapshot, outside a transaction, so that `now()` is its very begin: the clock, the least start of
/// the transactions that are younger than two seconds, process and start of each older one. All that do not end at
/// once are looked at one by one.
pub const OBSERVE: &str = concat!(
    "
    SELECT (extract(epoch FROM now()) * 1000000)::int8,
      (extract(epoch FROM min(begun) FILTER (WHERE begun > now() - interval '2 s')) * 1000000)::int8,
      coalesce(array_agg(pid) FILTER (WHERE begun <= now() - interval '2 s'), '{}'),
      coalesce(array_agg((extract(epoch FROM begun) * 1000000)::int8) FILTER (WHERE begun <= now() - interval '2 s'), '{}')
    FROM (SELECT a.pid, ",
    begun!(),
    " AS begun FROM ",
    writers!(),
    ") AS open"
);

/// The virtual transaction ids that sessions hold, of a session at most one: `CREATE INDEX CONCURRENTLY` waits on
/// those of others, in another mode.
macro_rules! identities {
    () => {
        "SELECT pid, virtualtransaction FROM pg_locks
    WHERE locktype = 'virtualxid' AND granted AND mode = 'ExclusiveLock' AND virtualtransaction = virtualxid"
    };
}

/// Read after [`OBSERVE`] and before the snapshot, where `$1` says that some transaction has been open for long:
/// `pg_locks` stops the lock manager for a moment.
pub const IDENTITIES: &str = concat!(identities!(), " AND $1");

/// Read after the snapshot: `pg_stat_activity` is kept for the length of a transaction.
pub const FORGET_ACTIVITY: &str = "SELECT pg_stat_clear_snapshot()";

/// Read after [`FORGET_ACTIVITY`]: those of the processes `$1` whose transaction is not visible yet. The ids of a
/// transaction are gone once it is. A parallel apply worker commits while it says that it is idle in a transaction.
pub const STILL_OPEN: &str = "
    SELECT pid FROM pg_stat_activity WHERE pid = ANY($1) AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL
      OR (backend_type = 'client backend' AND state LIKE 'idle in transaction%'))";

/// Read after [`STILL_OPEN`], which has then spoken of these very transactions.
pub const STILL_HELD: &str = concat!(identities!(), " AND pid = ANY($1)");

/// The transactions that hold the bound back, older than `$1` seconds: process, user, application, state, age in
/// seconds, when the query began; null and the name of a prepared one.
pub const LONG: &str = concat!(
    "
    SELECT * FROM (
      SELECT a.pid, coalesce(a.usename::text, a.backend_type, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
        extract(epoch FROM now() - ",
    begun!(),
    ")::int8 AS age, to_char(a.query_start, 'YYYY-MM-DD HH24:MI:SS'), NULL::text
      FROM ",
    writers!(),
    "
      UNION ALL
      SELECT NULL, coalesce(owner::text, ''), '', 'prepared', extract(epoch FROM now() - prepared)::int8,
        to_char(prepared, 'YYYY-MM-DD HH24:MI:SS'), gid
      FROM pg_prepared_xacts WHERE database = current_database()) AS open
    WHERE age >= $1 ORDER BY age DESC"
);

/// An index of a table, or of one of its partitions, that begins with column `$2`: name, whether it is valid,
/// whether it holds all rows, its method. Good ones first. `$1` is the table's oid.
pub const INDEXES: &str = "
    SELECT i.indexrelid::regclass::text, i.indisvalid, i.indpred IS NULL, m.amname::text
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = $1 AND a.attname = $2
    ORDER BY i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree' DESC, i.indpred IS NULL DESC, 1";

/// The partitions of a partitioned table `$1`, those of partitions too, that have no good index of their own.
pub const BARE_PARTITIONS: &str = "
    SELECT t.relid::regclass::text FROM pg_partition_tree($1::oid::regclass) t
    WHERE t.isleaf AND NOT EXISTS (
      SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
      WHERE i.indrelid = t.relid AND a.attname = $2 AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree')
    ORDER BY 1";

/// Read after [`OBSERVE`]: what was open there is seen there or here.
pub const PREPARED: &str = "
    SELECT transaction::text || ':' || gid, (extract(epoch FROM prepared) * 1000000)::int8, gid
    FROM pg_prepared_xacts WHERE database = current_database()";

/// Which of the given ids have ended, as ranges.
pub const ENDED: &str = "
    SELECT coalesce(array_agg(lower(run)), '{}'), coalesce(array_agg(upper(run)), '{}') FROM (
      SELECT unnest(range_agg(int8range(id, id + 1))) AS run
      FROM unnest($1::int8[], $2::int8[]) AS asked(first, last), generate_series(first, last - 1) AS id
      WHERE coalesce(pg_xact_status(id::text::xid8), 'ended') <> 'in progress') AS ended";

/// The first query of a poll's transaction, which fixes its snapshot: the snapshot, the id from
/// which ages count, of each table a fingerprint of all that `Source` depends on, and the end of the log, before
/// which lies the commit of every row that is seen.
pub const SNAPSHOT: &str = "
    SELECT snapshot::text,
      pg_snapshot_xmax(snapshot)::text::int8 + age(pg_snapshot_xmax(snapshot)::xid),
      ARRAY(
        SELECT (SELECT concat_ws(' ', c.oid, c.relkind, c.relnamespace::regnamespace, c.relname, md5(concat(
                    (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull), ',' ORDER BY a.attnum)
                     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), ';',
                    (SELECT string_agg(i.indkey::text, ',') FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), ';',
                    c.relhassubclass, (
                      WITH RECURSIVE above AS (
                        SELECT i.inhparent FROM pg_foreign_table f JOIN pg_inherits i ON i.inhrelid = f.ftrelid
                        UNION SELECT i.inhparent FROM above JOIN pg_inherits i ON i.inhrelid = above.inhparent)
                      SELECT count(*) FROM above WHERE inhparent = c.oid))))
                FROM pg_class c WHERE c.oid = to_regclass(asked.name))
        FROM unnest($1::text[]) WITH ORDINALITY AS asked(name, position) ORDER BY position)
      , pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8
    FROM pg_current_snapshot() AS snapshot";

/// Literal of a raw watermark: microseconds, or days, from 2000.
pub fn watermark_literal(kind: WatermarkType, raw: i64) -> String {
    match kind {
        WatermarkType::Timestamp => format!("'{}'::timestamp", value::timestamp_text(raw)),
        WatermarkType::TimestampTz => {
            let text = value::timestamp_text(raw);
            let text = match text.strip_suffix(" BC") {
                Some(text) => format!("{text}+00 BC"),
                None if text.contains("infinity") => text,
                None => format!("{text}+00"),
            };
            format!("'{text}'::timestamptz")
        }
        WatermarkType::Date => {
            let days = i32::try_from(raw).unwrap_or(if raw < 0 { i32::MIN } else { i32::MAX });
            format!("'{}'::date", value::date_text(days))
        }
    }
}

/// The least raw watermark that a row written between `from_us` and `clock_us` can carry.
pub fn raw_bound(kind: WatermarkType, zone: &Zone, from_us: i64, clock_us: i64) -> i64 {
    match kind {
        WatermarkType::TimestampTz => value::raw_timestamp(from_us),
        WatermarkType::Timestamp => value::raw_timestamp(zone.least_local_us(from_us, clock_us)),
        WatermarkType::Date => i64::from(value::raw_date(zone.least_local_us(from_us, clock_us))),
    }
}

pub fn literal(column: &Column, text: &str) -> String {
    let type_name = &column.order.type_name;
    match value::char_of_text(text).filter(|_| column.kind == value::Kind::Char) {
        // Before PostgreSQL 16 no text stands for it.
        Some(char) => format!("({char})::{type_name}"),
        None => format!("{}::{type_name}", quote_literal(text)),
    }
}

pub fn named(column: &Column) -> String {
    format!("t.{}", quote_ident(&column.name))
}

/// `(columns) > (values)` in the order of [`ascending`].
pub fn after(columns: &[&Column], values: &[Option<String>]) -> String {
    let Some((first, others)) = columns.split_first() else { return "false".to_owned() };
    let has_nulls = columns.iter().any(|column| column.nullable) || values.iter().any(Option::is_none);
    if !has_nulls && others.iter().all(|column| column.order.greater == first.order.greater) {
        let names: Vec<String> = columns.iter().map(|column| named(column)).collect();
        let values: Vec<String> =
            columns.iter().zip(values).map(|(column, text)| literal(column, text.as_deref().unwrap_or(""))).collect();
        return format!("({}) {} ({})", names.join(", "), first.order.greater, values.join(", "));
    }
    // A row comparison has one operator, and nulls compare with nothing: so it is written out.
    let mut equal_so_far = String::new();
    let mut cases = Vec::new();
    for (column, text) in columns.iter().zip(values) {
        let name = named(column);
        match text {
            Some(text) => {
                let literal = literal(column, text);
                let or_null = if column.nullable { format!(" OR {name} IS NULL") } else { String::new() };
                cases.push(format!("({equal_so_far}({name} {} {literal}{or_null}))", column.order.greater));
                let _ = write!(equal_so_far, "{name} {} {literal} AND ", column.order.equal);
            }
            None => {
                let _ = write!(equal_so_far, "{name} IS NULL AND ");
            }
        }
    }
    let cases = if cases.is_empty() { "false".to_owned() } else { format!("({})", cases.join(" OR ")) };
    match values.first() {
        // Implied by the cases, but in a form that an index knows.
        Some(Some(text)) if !first.nullable => {
            format!("({} {} {} AND {cases})", named(first), first.order.greater_or_equal, literal(first, text))
        }
        _ => cases,
    }
}

/// The order of an index over a column, nulls last: by the very operators that [`after`] compares with.
fn ascending(column: &Column) -> String {
    format!("{} USING {}", named(column), column.order.less)
}

/// What is put around the parts that differ between a poll and a chunk.
struct Shape<'a> {
    source: &'a Source,
    conditions: Vec<String>,
    order: Vec<String>,
    limit: String,
    max_row_bytes: u64,
}

impl Shape<'_> {
    /// Columns of the answer: distance of the row's id, its size where too large, the columns. The
    /// unbounded columns of a row too large stay on the server.
    fn copy(mut self) -> String {
        let source = self.source;
        if let Some(filter) = &source.filter {
            // On lines of its own, so that a comment at its end hides nothing.
            self.conditions.push(format!("(\n{filter}\n)"));
        }
        let selected = |column: &Column| match column.kind {
            value::Kind::AsText => format!("{}::text", named(column)),
            value::Kind::Inet => format!("abbrev({})", named(column)),
            _ => named(column),
        };
        let unbounded: Vec<&Column> = source.columns.iter().filter(|column| column.unbounded).collect();
        let outer = if unbounded.is_empty() {
            let columns: Vec<String> = source.columns.iter().map(selected).collect();
            format!("age(t.xmin), NULL::int8, {}", columns.join(", "))
        } else {
            let columns: Vec<String> = source
                .columns
                .iter()
                .enumerate()
                .map(|(n, column)| match column.unbounded {
                    true => format!("CASE WHEN s.size > {} THEN NULL ELSE s.c{n} END", self.max_row_bytes),
                    false => format!("s.c{n}"),
                })
                .collect();
            format!("s.age, CASE WHEN s.size > {} THEN s.size END, {}", self.max_row_bytes, columns.join(", "))
        };
        let mut tail = format!("FROM {} AS t WHERE {}", source.quoted, self.conditions.join("\n  AND "));
        let _ = write!(tail, "\nORDER BY {}{}", self.order.join(", "), self.limit);
        let query = if unbounded.is_empty() {
            format!("SELECT {outer} {tail}")
        } else {
            let size: Vec<String> = unbounded
                .iter()
                .map(|column| {
                    // Neither looks into a value stored out of line; `pg_column_size` sees it compressed.
                    let measure = match column.kind {
                        value::Kind::Text | value::Kind::Bytea => "octet_length",
                        _ => "pg_catalog.pg_column_size",
                    };
                    let bytes = if column.kind == value::Kind::Text {
                        format!("{}::text", named(column))
                    } else {
                        named(column)
                    };
                    format!("coalesce({measure}({bytes}), 0)")
                })
                .collect();
            // Numbered, since a name with anything added may be longer than a name can be, and is cut off.
            let columns: Vec<String> =
                source.columns.iter().enumerate().map(|(n, column)| format!("{} AS c{n}", selected(column))).collect();
            // OFFSET keeps the planner from measuring once for each column.
            format!(
                "SELECT {outer} FROM (SELECT age(t.xmin) AS age, {}::int8 AS size, {} {tail} OFFSET 0) AS s",
                size.iter().map(|one| format!("{one}::int8")).collect::<Vec<_>>().join(" + "),
                columns.join(", "),
            )
        };
        format!("COPY ({query}) TO STDOUT (FORMAT binary)")
    }
}

/// The id of a row in 64 bits.
fn row_id(given: &Given, latest: u64) -> String {
    if given.xmin == 0 {
        let frozen = super::plan::FROZEN_ID;
        return format!(
            "CASE WHEN age(t.xmin) BETWEEN 1 AND 2147483646 THEN {latest}::int8 - age(t.xmin) ELSE {frozen} END"
        );
    }
    format!("{latest}::int8 - age(t.xmin)")
}

/// The conditions that leave out what has been given.
fn unseen(source: &Source, given: &Given, latest: u64) -> Vec<String> {
    let xid = row_id(given, latest);
    let mut conditions = Vec::new();
    if given.xmin > 0 {
        conditions.push(format!("age(t.xmin) BETWEEN 1 AND {}", latest.saturating_sub(given.xmin)));
    }
    if !given.seen.is_empty() {
        let mut ranges = String::new();
        for run in runs(&given.seen) {
            let _ = write!(ranges, "{}[{},{})", if ranges.is_empty() { "" } else { "," }, run.start, run.end);
        }
        conditions.push(format!("NOT ({xid}) <@ '{{{ranges}}}'::int8multirange"));
    }
    let key: Vec<&Column> = source.key.iter().map(|position| &source.columns[*position]).collect();
    for (partial, last_key) in &given.partial {
        conditions.push(format!("(({xid}) <> {partial} OR {})", after(&key, last_key)));
    }
    conditions
}

/// The rows that a poll shall give, `rows` at most, in the order of their ids; `lower` is the raw watermark below
/// which none is new.
pub fn poll(source: &Source, given: &Given, lower: i64, latest: u64, rows: u64, max_row_bytes: u64) -> String {
    let mut conditions = vec![bounded(source, &source.watermark_column().order.greater_or_equal, lower)];
    conditions.extend(unseen(source, given, latest));
    let mut order = vec![if given.xmin == 0 { row_id(given, latest) } else { "age(t.xmin) DESC".to_owned() }];
    order.extend(source.key.iter().map(|position| ascending(&source.columns[*position])));
    Shape { source, conditions, order, limit: limit(source, rows), max_row_bytes }.copy()
}

/// What a chunk reads, by watermark and key.
pub struct Chunk<'a> {
    /// Raw watermark from which on it reads; from the first one where absent.
    pub from: Option<i64>,
    /// Raw watermark before which it reads.
    pub to: i64,
    /// Watermark and key of the last row before it.
    pub last: Option<&'a [Option<String>]>,
    /// What it leaves out, with the id from which ages count.
    pub given: Option<(&'a Given, u64)>,
}

impl Chunk<'_> {
    fn range(&self, source: &Source) -> Vec<String> {
        let order = &source.watermark_column().order;
        let mut conditions = vec![bounded(source, &order.less, self.to)];
        conditions.extend(self.from.map(|from| bounded(source, &order.greater_or_equal, from)));
        conditions
    }

    /// `rows` of them at most.
    pub fn text(&self, source: &Source, rows: u64, max_row_bytes: u64) -> String {
        let column = Column { nullable: false, ..source.watermark_column().clone() };
        let mut columns: Vec<&Column> = vec![&column];
        columns.extend(source.key.iter().map(|position| &source.columns[*position]));
        let mut conditions = self.range(source);
        conditions.extend(self.last.map(|last| after(&columns, last)));
        conditions.extend(self.given.iter().flat_map(|(given, latest)| unseen(source, given, *latest)));
        ordered(source, &columns, conditions, rows, max_row_bytes)
    }

    /// Asks the planner how many there are from here to the end. Names all that later questions name, so that what
    /// the role may not use is found at the start.
    pub fn estimate(&self, source: &Source) -> String {
        let watermark = source.watermark_column();
        let mut conditions = self.range(source);
        if let Some(Some(text)) = self.last.and_then(|last| last.first()) {
            let from = &watermark.order.greater_or_equal;
            conditions.push(format!("{} {from} {}", named(watermark), literal(watermark, text)));
        }
        for column in source.key.iter().map(|position| &source.columns[*position]) {
            let Order { greater, type_name, .. } = &column.order;
            conditions.push(format!("({} {greater} NULL::{type_name}) IS NOT TRUE", named(column)));
        }
        if let Some(filter) = &source.filter {
            conditions.push(format!("(\n{filter}\n)"));
        }
        format!("EXPLAIN (FORMAT JSON) SELECT FROM {} AS t WHERE {}", source.quoted, conditions.join(" AND "))
    }
}

/// One chunk of the rows without a watermark, by key.
pub fn null_chunk(source: &Source, last: Option<&[Option<String>]>, rows: u64, max_row_bytes: u64) -> String {
    let columns: Vec<&Column> = source.key.iter().map(|position| &source.columns[*position]).collect();
    let mut conditions = vec![format!("{} IS NULL", named(source.watermark_column()))];
    conditions.extend(last.map(|last| after(&columns, last)));
    ordered(source, &columns, conditions, rows, max_row_bytes)
}

fn ordered(source: &Source, columns: &[&Column], conditions: Vec<String>, rows: u64, max_row_bytes: u64) -> String {
    let order = columns.iter().map(|column| ascending(column)).collect();
    Shape { source, conditions, order, limit: limit(source, rows), max_row_bytes }.copy()
}

/// How many of the newest 1,000 rows were written by a later transaction than one whose watermark is a minute later, or
/// more, in a table (`$1`) that is updated: an update that leaves the watermark alone does that.
pub fn left_alone(source: &Source) -> String {
    let watermark = named(source.watermark_column());
    let filter = source.filter.as_ref().map_or("true".to_owned(), |filter| format!("(\n{filter}\n)"));
    format!(
        "SELECT count(*) FILTER (
           WHERE age < later AND (SELECT sum(pg_stat_get_tuples_updated(relid)) > 0 FROM {}))
         FROM (
           SELECT age, max(age) OVER (
             ORDER BY watermark RANGE BETWEEN '1 minute'::interval FOLLOWING AND UNBOUNDED FOLLOWING) AS later
           FROM (
             SELECT {watermark} AS watermark, age(t.xmin) AS age FROM {} AS t
             WHERE {watermark} IS NOT NULL AND isfinite({watermark}) AND {filter}
             ORDER BY {watermark} DESC LIMIT 1000) AS newest) AS aged",
        leaves!(),
        source.quoted
    )
}

/// Rows that nothing tells apart must not fall on both sides of a cut.
fn limit(source: &Source, rows: u64) -> String {
    format!(" FETCH FIRST {rows} ROWS {}", if source.unique { "ONLY" } else { "WITH TIES" })
}

/// The watermark compared with a raw one.
fn bounded(source: &Source, operator: &str, raw: i64) -> String {
    let watermark = named(source.watermark_column());
    format!("{watermark} {operator} {}", watermark_literal(source.watermark_type, raw))
}
