//! Window rows as statements: upserts of absolute values, out of arrays or out of a temporary table.

use super::{
    StoreError,
    table::{Kind, Measure, Output},
    text::{array_literal, counts_json, storable_key},
    wire::Timestamp,
};
use crate::{
    analyze::window::{Value, WindowRow},
    postgres::quote_ident,
};
use deadpool_postgres::Transaction;
use std::borrow::Cow;
use tokio_postgres::{
    binary_copy::BinaryCopyInWriter,
    types::{ToSql, Type},
};

/// Rows of one statement.
const CHUNK_ROWS: usize = 1_000;
/// From so many rows on, COPY into a temporary table is the cheaper way.
pub const COPY_ROWS: usize = 4_000;

/// The statements for one output table, which do not change.
pub struct Upsert {
    table: String,
    measures: Vec<Measure>,
    from_arrays: String,
    create_buffer: String,
    copy_to_buffer: String,
    from_buffer: String,
    buffer_types: Vec<Type>,
}

impl Upsert {
    pub fn new(output: &Output, table: &str) -> Upsert {
        let measures = output.measures.clone();
        // Lists and counts travel as text and are cast on the server, for unnest flattens nested arrays.
        let transport = |kind| match kind {
            Kind::Integer => ("bigint", Type::INT8, ""),
            Kind::Float => ("double precision", Type::FLOAT8, ""),
            Kind::TextList => ("text", Type::TEXT, "::text[]"),
            Kind::Counts => ("text", Type::TEXT, "::jsonb"),
        };
        let mut sources = vec![
            ("text", Type::TEXT, ""),
            ("timestamptz", Type::TIMESTAMPTZ, ""),
            ("timestamptz", Type::TIMESTAMPTZ, ""),
        ];
        sources.extend(measures.iter().map(|measure| transport(measure.kind)));
        sources.extend([("boolean", Type::BOOL, ""), ("integer", Type::INT4, ""), ("boolean", Type::BOOL, "")]);
        let mut names = vec![quote_ident(&output.key_column), "window_start".to_owned(), "window_end".to_owned()];
        names.extend(measures.iter().map(|measure| quote_ident(&measure.column)));
        names.extend(["is_final", "revision", "approximate"].map(str::to_owned));

        let list = |make: &dyn Fn(usize) -> String| (0..sources.len()).map(make).collect::<Vec<_>>().join(", ");
        let arrays = list(&|n| format!("${}::{}[]", n + 1, sources[n].0));
        let buffer_columns = list(&|n| format!("c{n} {}", sources[n].0));
        let selected = list(&|n| format!("c{n}{}", sources[n].2));
        let aliases = list(&|n| format!("c{n}"));
        let unnested = format!("unnest({arrays}) AS rows({aliases})");
        Upsert {
            from_arrays: merge(&names, table, &selected, &unnested),
            create_buffer: format!(
                "CREATE TEMPORARY TABLE IF NOT EXISTS headwater_rows ({buffer_columns}) ON COMMIT DELETE ROWS"
            ),
            copy_to_buffer: "COPY pg_temp.headwater_rows FROM STDIN BINARY".to_owned(),
            from_buffer: merge(&names, table, &selected, "pg_temp.headwater_rows"),
            buffer_types: sources.into_iter().map(|(_, copied, _)| copied).collect(),
            table: table.to_owned(),
            measures,
        }
    }

    /// Writes `rows`; where two are of one window, the later. Gives how many rows of the table are new or
    /// other than before.
    pub async fn run(
        &self,
        transaction: &Transaction<'_>,
        rows: &[WindowRow],
        copy_rows: usize,
    ) -> Result<u64, StoreError> {
        let sorted = sorted(rows);
        if sorted.len() >= copy_rows {
            return self.copy(transaction, &sorted).await;
        }
        let statement = transaction.prepare_cached(&self.from_arrays).await?;
        let mut changed = 0;
        for chunk in sorted.chunks(CHUNK_ROWS) {
            let arrays = self.arrays(chunk)?;
            let parameters: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|array| &**array as _).collect();
            changed += transaction.execute(&statement, &parameters).await?;
        }
        Ok(changed)
    }

    fn arrays(&self, rows: &[Keyed<'_>]) -> Result<Vec<Box<dyn ToSql + Sync + Send>>, StoreError> {
        fn array<T: ToSql + Sync + Send + 'static>(items: impl Iterator<Item = T>) -> Box<dyn ToSql + Sync + Send> {
            Box::new(items.collect::<Vec<T>>())
        }
        let mut arrays = vec![
            array(rows.iter().map(|row| row.key.clone().into_owned())),
            array(rows.iter().map(|row| Timestamp(row.row.start_ms))),
            array(rows.iter().map(|row| Timestamp(row.row.end_ms))),
        ];
        for (index, measure) in self.measures.iter().enumerate() {
            let mut cells = Vec::with_capacity(rows.len());
            for row in rows {
                cells.push(self.cell(row.row, index)?);
            }
            arrays.push(match measure.kind {
                Kind::Integer => array(cells.into_iter().map(Cell::integer)),
                Kind::Float => array(cells.into_iter().map(Cell::float)),
                Kind::TextList | Kind::Counts => array(cells.into_iter().map(Cell::text)),
            });
        }
        arrays.push(array(rows.iter().map(|row| row.row.is_final)));
        arrays.push(array(rows.iter().map(|row| row.row.revision)));
        arrays.push(array(rows.iter().map(|row| row.row.is_approximate)));
        Ok(arrays)
    }

    async fn copy(&self, transaction: &Transaction<'_>, rows: &[Keyed<'_>]) -> Result<u64, StoreError> {
        // It lives as long as the session: making it anew each time would bloat the catalogue.
        transaction.batch_execute(&self.create_buffer).await?;
        let sink = transaction.copy_in(&self.copy_to_buffer).await?;
        let writer = BinaryCopyInWriter::new(sink, &self.buffer_types);
        tokio::pin!(writer);
        for Keyed { key, row } in rows {
            let (start, end) = (Timestamp(row.start_ms), Timestamp(row.end_ms));
            let cells = (0..self.measures.len()).map(|index| self.cell(row, index)).collect::<Result<Vec<_>, _>>()?;
            let mut values: Vec<&(dyn ToSql + Sync)> = vec![key, &start, &end];
            values.extend(cells.iter().map(Cell::parameter));
            values.extend([&row.is_final as &(dyn ToSql + Sync), &row.revision, &row.is_approximate]);
            writer.as_mut().write(&values).await?;
        }
        writer.finish().await?;
        Ok(transaction.execute(&*self.from_buffer, &[]).await?)
    }

    fn cell(&self, row: &WindowRow, index: usize) -> Result<Cell, StoreError> {
        let kind = self.measures[index].kind;
        let value = row.values.get(index).unwrap_or(&Value::Null);
        Ok(match (kind, value) {
            (Kind::Integer, Value::Integer(value)) => Cell::Integer(Some(*value)),
            (Kind::Integer, Value::Null) => Cell::Integer(None),
            (Kind::Float, Value::Float(value)) => Cell::Float(Some(*value)),
            (Kind::Float, Value::Integer(value)) => Cell::Float(Some(*value as f64)),
            (Kind::Float, Value::Null) => Cell::Float(None),
            (Kind::TextList, Value::TextList(items)) => Cell::Text(Some(array_literal(items))),
            (Kind::Counts, Value::Counts(counts)) => Cell::Text(Some(counts_json(counts))),
            (Kind::TextList | Kind::Counts, Value::Null) => Cell::Text(None),
            (_, value) => {
                return Err(StoreError::Value {
                    table: self.table.clone(),
                    column: self.measures[index].column.clone(),
                    kind: kind.sql(),
                    value: format!("{value:?}"),
                });
            }
        })
    }
}

/// `INSERT … SELECT … FROM source`, with what happens to a window that is there already:
///
/// - equal values change nothing, not even `updated_at`: a restarted process writes much again;
/// - a final row stays final: a provisional one does not replace it;
/// - a final row that is replaced by a differing one is a revision. The engine counts revisions since its
///   own start only, so the stored count may be the higher.
fn merge(names: &[String], table: &str, selected: &str, source: &str) -> String {
    let (key, measures) = (&names[0], &names[2..names.len() - 3]);
    let compared: Vec<&str> = measures.iter().map(String::as_str).chain(["approximate", "is_final"]).collect();
    let of = |side: &str| compared.iter().map(|name| format!("{side}.{name}")).collect::<Vec<_>>().join(", ");
    let sets: Vec<String> = compared.iter().map(|name| format!("{name} = excluded.{name}")).collect();
    format!(
        "INSERT INTO {table} AS old ({columns}, updated_at)
         SELECT {selected}, now() FROM {source}
         ON CONFLICT ({key}, window_start) DO UPDATE SET {sets}, updated_at = excluded.updated_at,
           revision = CASE WHEN old.is_final THEN greatest(old.revision + 1, excluded.revision) ELSE excluded.revision END
         WHERE (excluded.is_final OR NOT old.is_final) AND ({old}) IS DISTINCT FROM ({new})",
        columns = names.join(", "),
        sets = sets.join(", "),
        old = of("old"),
        new = of("excluded"),
    )
}

struct Keyed<'a> {
    key: Cow<'a, str>,
    row: &'a WindowRow,
}

/// By key and start, one for each window: a statement must not touch a row twice. The later of two wins.
fn sorted(rows: &[WindowRow]) -> Vec<Keyed<'_>> {
    let mut keyed: Vec<Keyed<'_>> = rows.iter().map(|row| Keyed { key: storable_key(&row.key), row }).collect();
    keyed.sort_by(|a, b| (&a.key, a.row.start_ms).cmp(&(&b.key, b.row.start_ms)));
    keyed.dedup_by(|next, kept| {
        let is_same = next.key == kept.key && next.row.start_ms == kept.row.start_ms;
        if is_same {
            kept.row = next.row;
        }
        is_same
    });
    keyed
}

enum Cell {
    Integer(Option<i64>),
    Float(Option<f64>),
    Text(Option<String>),
}

impl Cell {
    fn integer(self) -> Option<i64> {
        if let Cell::Integer(value) = self { value } else { None }
    }

    fn float(self) -> Option<f64> {
        if let Cell::Float(value) = self { value } else { None }
    }

    fn text(self) -> Option<String> {
        if let Cell::Text(value) = self { value } else { None }
    }

    fn parameter(&self) -> &(dyn ToSql + Sync) {
        match self {
            Cell::Integer(value) => value,
            Cell::Float(value) => value,
            Cell::Text(value) => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, start_ms: i64, revision: i32) -> WindowRow {
        let (values, is_final, is_approximate) = (Vec::new(), true, false);
        WindowRow { key: key.into(), start_ms, end_ms: start_ms + 1, values, is_final, revision, is_approximate }
    }

    #[test]
    fn rows_are_sorted_and_the_later_of_two_wins() {
        let rows = [row("b", 0, 0), row("a", 10, 1), row("a", 0, 2), row("a", 10, 3), row("a", 10, 4)];
        let found: Vec<(String, i64, i32)> =
            sorted(&rows).iter().map(|k| (k.key.to_string(), k.row.start_ms, k.row.revision)).collect();
        let expected = [("a", 0, 2), ("a", 10, 4), ("b", 0, 0)].map(|(key, start, n)| (key.to_owned(), start, n));
        assert_eq!(found, expected);
    }
}
