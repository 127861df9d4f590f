//! Growing columns of an open batch, turned into Arrow arrays when it closes.

use super::schema::{Column, Kind, Schema};
use crate::{
    config::model::{LandTable, METADATA_COLUMNS},
    lake::dead_letter::timestamp_type,
};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    StringArray, TimestampMicrosecondArray,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use std::sync::Arc;

pub fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Whole => DataType::Int64,
        Kind::Float => DataType::Float64,
        Kind::Bool => DataType::Boolean,
        Kind::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
        Kind::Timestamp { .. } => timestamp_type(),
        Kind::Date => DataType::Date32,
        Kind::Text(_) => DataType::Utf8,
    }
}

/// The Arrow schema of a table's files: its columns, then those that land adds.
pub fn arrow_schema(schema: &Schema, land: &LandTable) -> SchemaRef {
    let field = |column: &Column| Field::new(land.column_of(&column.name), data_type(column.kind), true);
    let mut fields: Vec<Field> = schema.columns.iter().map(field).collect();
    fields.extend(land.overflow_column.as_ref().map(|name| Field::new(name, DataType::Utf8, true)));
    if land.metadata_columns {
        let [time, partition, offset] = METADATA_COLUMNS;
        fields.push(Field::new(time, timestamp_type(), false));
        fields.push(Field::new(partition, DataType::Int32, false));
        fields.push(Field::new(offset, DataType::Int64, false));
    }
    Arc::new(arrow_schema::Schema::new(fields))
}

enum Values {
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float(Vec<f64>),
    Bool(Vec<bool>),
    Decimal(Vec<i128>),
    /// Where each value ends, and all the bytes.
    Bytes(Vec<i32>, Vec<u8>),
}

/// One column. The values of null rows are zero or empty.
pub struct ColumnBuffer {
    values: Values,
    nulls: NullBufferBuilder,
    data_type: DataType,
}

impl ColumnBuffer {
    pub fn new(data_type: DataType) -> Self {
        let values = match &data_type {
            DataType::Int32 | DataType::Date32 => Values::Int32(Vec::new()),
            DataType::Int64 | DataType::Timestamp(..) => Values::Int64(Vec::new()),
            DataType::Float64 => Values::Float(Vec::new()),
            DataType::Boolean => Values::Bool(Vec::new()),
            DataType::Decimal128(..) => Values::Decimal(Vec::new()),
            _ => Values::Bytes(Vec::new(), Vec::new()),
        };
        ColumnBuffer { values, nulls: NullBufferBuilder::new(0), data_type }
    }

    /// Bytes of a row, without those of texts.
    pub fn row_bytes(&self) -> usize {
        match &self.values {
            Values::Int32(_) | Values::Bytes(..) => 4,
            Values::Int64(_) | Values::Float(_) => 8,
            Values::Bool(_) => 1,
            Values::Decimal(_) => 16,
        }
    }

    #[inline]
    pub fn push_null(&mut self) {
        self.push_nulls(1);
    }

    pub fn push_nulls(&mut self, count: usize) {
        self.nulls.append_n_nulls(count);
        match &mut self.values {
            Values::Int32(values) => values.resize(values.len() + count, 0),
            Values::Int64(values) => values.resize(values.len() + count, 0),
            Values::Float(values) => values.resize(values.len() + count, 0.0),
            Values::Bool(values) => values.resize(values.len() + count, false),
            Values::Decimal(values) => values.resize(values.len() + count, 0),
            Values::Bytes(ends, bytes) => ends.resize(ends.len() + count, bytes.len() as i32),
        }
    }

    #[inline]
    pub fn push_i32(&mut self, value: i32) {
        if let Values::Int32(values) = &mut self.values {
            values.push(value);
            self.nulls.append_non_null();
        }
    }

    #[inline]
    pub fn push_i64(&mut self, value: i64) {
        if let Values::Int64(values) = &mut self.values {
            values.push(value);
            self.nulls.append_non_null();
        }
    }

    #[inline]
    pub fn push_f64(&mut self, value: f64) {
        if let Values::Float(values) = &mut self.values {
            values.push(value);
            self.nulls.append_non_null();
        }
    }

    #[inline]
    pub fn push_bool(&mut self, value: bool) {
        if let Values::Bool(values) = &mut self.values {
            values.push(value);
            self.nulls.append_non_null();
        }
    }

    #[inline]
    pub fn push_decimal(&mut self, value: i128) {
        if let Values::Decimal(values) = &mut self.values {
            values.push(value);
            self.nulls.append_non_null();
        }
    }

    /// The batch closes long before a column reaches 2 GiB.
    #[inline]
    pub fn push_bytes(&mut self, value: &[u8]) {
        if let Values::Bytes(ends, bytes) = &mut self.values {
            bytes.extend_from_slice(value);
            ends.push(bytes.len() as i32);
            self.nulls.append_non_null();
        }
    }

    pub fn push_bytes_or_null(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.push_bytes(value),
            None => self.push_null(),
        }
    }

    pub fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.nulls.finish();
        Ok(match (self.values, &self.data_type) {
            (Values::Int32(values), DataType::Date32) => Arc::new(Date32Array::try_new(values.into(), nulls)?),
            (Values::Int32(values), _) => Arc::new(Int32Array::try_new(values.into(), nulls)?),
            (Values::Int64(values), DataType::Timestamp(..)) => {
                Arc::new(TimestampMicrosecondArray::try_new(values.into(), nulls)?.with_timezone("UTC"))
            }
            (Values::Int64(values), _) => Arc::new(Int64Array::try_new(values.into(), nulls)?),
            (Values::Float(values), _) => Arc::new(Float64Array::try_new(values.into(), nulls)?),
            (Values::Bool(values), _) => Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls)),
            (Values::Decimal(values), DataType::Decimal128(precision, scale)) => {
                Arc::new(Decimal128Array::try_new(values.into(), nulls)?.with_precision_and_scale(*precision, *scale)?)
            }
            (Values::Decimal(values), _) => Arc::new(Decimal128Array::try_new(values.into(), nulls)?),
            (Values::Bytes(mut ends, bytes), data_type) => {
                ends.insert(0, 0);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
                match data_type {
                    DataType::Binary => Arc::new(BinaryArray::try_new(offsets, Buffer::from_vec(bytes), nulls)?),
                    _ => Arc::new(StringArray::try_new(offsets, Buffer::from_vec(bytes), nulls)?),
                }
            }
        })
    }
}
