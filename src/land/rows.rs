//! Rows of an open batch, for many dates at once: kept in the order in which they arrived, grouped
//! by date only when the batch closes. Any number of dates costs one set of buffers.

use super::columns::ColumnBuffer;
use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::take::take_record_batch;
use std::collections::BTreeMap;

/// Rows taken at once when a date's rows are gathered.
const GATHER_ROWS: usize = 16 << 10;

pub struct Rows {
    schema: SchemaRef,
    pub columns: Vec<ColumnBuffer>,
    /// Bytes of a row, without those of texts.
    row_bytes: usize,
    /// The date of each row, days since 1970.
    days: Vec<i32>,
    counts: BTreeMap<i32, u32>,
    last: Option<(i32, u32)>,
}

impl Rows {
    pub fn new(schema: SchemaRef) -> Self {
        let columns: Vec<_> =
            schema.fields().iter().map(|field| ColumnBuffer::new(field.data_type().clone())).collect();
        let row_bytes = columns.iter().map(ColumnBuffer::row_bytes).sum::<usize>() + 4;
        Rows { schema, columns, row_bytes, days: Vec::new(), counts: BTreeMap::new(), last: None }
    }

    pub fn len(&self) -> usize {
        self.days.len()
    }

    pub fn is_empty(&self) -> bool {
        self.days.is_empty()
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How many dates the rows have.
    pub fn dates(&self) -> usize {
        self.counts.len() + self.last.map_or(0, |(day, _)| usize::from(!self.counts.contains_key(&day)))
    }

    /// Ends a row whose columns have all been pushed. `text_bytes` is what its texts take. Gives the
    /// bytes by which the rows have grown.
    #[inline]
    pub fn end_row(&mut self, day: i32, text_bytes: usize) -> usize {
        self.days.push(day);
        match &mut self.last {
            // Most rows have the date of the row before.
            Some((last, count)) if *last == day => *count += 1,
            _ => {
                self.settle();
                self.last = Some((day, 1));
            }
        }
        self.row_bytes + text_bytes
    }

    fn settle(&mut self) {
        if let Some((day, count)) = self.last.take() {
            *self.counts.entry(day).or_default() += count;
        }
    }

    /// Changes to a schema of the same columns with others among them: `sources` says for each new
    /// column which one it was. The rows so far have null there.
    pub fn widen(&mut self, schema: SchemaRef, sources: &[Option<usize>]) {
        let mut old: Vec<Option<ColumnBuffer>> = std::mem::take(&mut self.columns).into_iter().map(Some).collect();
        for (field, source) in schema.fields().iter().zip(sources) {
            let kept = source.and_then(|index| old.get_mut(index)?.take());
            self.columns.push(kept.unwrap_or_else(|| {
                let mut column = ColumnBuffer::new(field.data_type().clone());
                column.push_nulls(self.days.len());
                column
            }));
        }
        self.row_bytes = self.columns.iter().map(ColumnBuffer::row_bytes).sum::<usize>() + 4;
        self.schema = schema;
    }

    /// The rows as one Arrow batch, and for each date, in order, which of them belong to it.
    pub fn finish(mut self) -> Result<ByDate, ArrowError> {
        self.settle();
        let columns = self.columns.into_iter().map(ColumnBuffer::finish).collect::<Result<Vec<_>, _>>()?;
        let all = RecordBatch::try_new(self.schema, columns)?;
        let mut indices = Vec::new();
        if self.counts.len() > 1 {
            // A counting sort, which keeps the order of arrival within a date.
            let mut next = BTreeMap::new();
            let mut start = 0;
            for (day, count) in &self.counts {
                next.insert(*day, start);
                start += *count;
            }
            indices = vec![0; self.days.len()];
            let mut run: Option<(i32, u32)> = None;
            for (row, day) in self.days.iter().enumerate() {
                let place = match run {
                    Some((last, place)) if last == *day => place,
                    _ => {
                        if let Some((last, place)) = run {
                            next.insert(last, place);
                        }
                        next.get(day).copied().unwrap_or_default()
                    }
                };
                indices[place as usize] = row as u32;
                run = Some((*day, place + 1));
            }
        }
        Ok(ByDate { all, indices, counts: self.counts.into_iter().collect() })
    }
}

/// The rows of a closed batch, date by date.
pub struct ByDate {
    all: RecordBatch,
    /// Row numbers grouped by date; empty where there is one date only.
    indices: Vec<u32>,
    counts: Vec<(i32, u32)>,
}

impl ByDate {
    /// Each date with its rows, in pieces that are small beside the batch.
    pub fn dates(&self) -> impl Iterator<Item = (i32, impl Iterator<Item = Result<RecordBatch, ArrowError>> + '_)> {
        let mut start = 0;
        self.counts.iter().map(move |(day, count)| {
            let first = start;
            start += *count as usize;
            (*day, self.pieces(first, start))
        })
    }

    fn pieces(&self, first: usize, end: usize) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> + '_ {
        (first..end).step_by(GATHER_ROWS).map(move |at| {
            let count = GATHER_ROWS.min(end - at);
            if self.indices.is_empty() {
                return Ok(self.all.slice(at, count));
            }
            take_record_batch(&self.all, &UInt32Array::from(self.indices[at..at + count].to_vec()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Array, Int64Array, cast::AsArray, types::Int64Type};
    use arrow_schema::{DataType, Field, Schema};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn schema(names: &[&str]) -> SchemaRef {
        Arc::new(Schema::new(names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect::<Vec<_>>()))
    }

    proptest! {
        #[test]
        fn groups_by_date_and_keeps_the_order(days in prop::collection::vec(-3_i32..4, 0..200)) {
            let mut rows = Rows::new(schema(&["n"]));
            for (n, day) in days.iter().enumerate() {
                rows.columns[0].push_i64(n as i64);
                rows.end_row(*day, 0);
            }
            let distinct: std::collections::BTreeSet<i32> = days.iter().copied().collect();
            prop_assert_eq!(rows.dates(), distinct.len());
            let grouped = rows.finish().unwrap();
            let mut seen = Vec::new();
            for (day, pieces) in grouped.dates() {
                seen.push(day);
                let expected: Vec<i64> = (0..days.len()).filter(|n| days[*n] == day).map(|n| n as i64).collect();
                let mut found = Vec::new();
                for piece in pieces {
                    found.extend_from_slice(piece.unwrap().column(0).as_primitive::<Int64Type>().values());
                }
                prop_assert_eq!(found, expected);
            }
            prop_assert_eq!(seen, distinct.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn widening_keeps_rows_and_gives_null() {
        let mut rows = Rows::new(schema(&["a", "z"]));
        for n in 0..3 {
            rows.columns[0].push_i64(n);
            rows.columns[1].push_i64(10 + n);
            rows.end_row(0, 0);
        }
        rows.widen(schema(&["a", "b", "z"]), &[Some(0), None, Some(1)]);
        for n in [3, 30, 13] {
            rows.columns[[3, 30, 13].iter().position(|m| *m == n).unwrap()].push_i64(n);
        }
        rows.end_row(0, 0);
        let grouped = rows.finish().unwrap();
        let (_, mut pieces) = grouped.dates().next().unwrap();
        let piece = pieces.next().unwrap().unwrap();
        let column = |index: usize| piece.column(index).as_any().downcast_ref::<Int64Array>().unwrap().clone();
        assert_eq!(column(0), Int64Array::from(vec![0, 1, 2, 3]));
        assert_eq!(column(1), Int64Array::from(vec![None, None, None, Some(30)]));
        assert_eq!(column(2).value(3), 13);
        assert_eq!(column(2).null_count(), 0);
    }
}
