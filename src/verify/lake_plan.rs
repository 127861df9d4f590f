//! How rows of the lake, and the records they came from, are made comparable.

use super::{
    canon::{self, Kind},
    judge::Shape,
    row::{RowBytes, Tag, place_key, push_key_cell},
    source_plan::{self, watermark_us},
};
use crate::config::model::{LandTable, METADATA_COLUMNS};
use arrow_array::{Array, RecordBatch, cast::AsArray, types::*};
use arrow_schema::{DataType, Schema, TimeUnit};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Clone)]
pub struct Column {
    /// Of the field.
    pub name: String,
    /// What it may be called in a file.
    names: Vec<String>,
    pub kind: Kind,
    pub shape: Shape,
    tag: Tag,
}

/// The columns of all files of a table together. A file that lacks one reads as null there.
#[derive(Debug, Clone)]
pub struct LakePlan {
    /// That of the unknown fields last, the others by name, so that a table that grew a column meanwhile hashes its older rows as before.
    pub columns: Vec<Column>,
    pub key: Vec<usize>,
    pub date_column: Option<usize>,
    watermark: Option<usize>,
    overflow: Option<usize>,
    /// How many columns are fields'.
    fields: usize,
    /// Whether rows hold their record's place.
    pub has_offset: bool,
}

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("column {column:?} has type {data_type}, which verify cannot compare")]
pub struct UnknownType {
    pub column: String,
    pub data_type: String,
}

const KAFKA_PARTITION: &str = METADATA_COLUMNS[1];
pub const KAFKA_OFFSET: &str = METADATA_COLUMNS[2];

/// A row or record made comparable.
#[derive(Debug, PartialEq, Eq)]
pub struct Landed {
    /// With its place, where rows hold that.
    pub row: u128,
    /// Without its place.
    pub content: u128,
    pub watermark: Option<i64>,
}

/// Text columns hold whatever has no type of its own in the lake: what the catalogue says of the
/// column tells JSON from text.
fn kind_of(data_type: &DataType, catalogue: Option<&Kind>, is_known: bool) -> Option<Kind> {
    Some(match data_type {
        DataType::Boolean => Kind::Bool,
        data_type if data_type.is_integer() => Kind::Number,
        DataType::Decimal128(..) => Kind::Number,
        DataType::Float32 => Kind::Float32,
        DataType::Float64 => Kind::Float64,
        DataType::Timestamp(..) => Kind::Timestamp(None),
        DataType::Date32 => Kind::Date,
        DataType::Time64(_) => Kind::Time,
        DataType::Binary | DataType::LargeBinary => Kind::Bytes,
        DataType::Utf8 | DataType::LargeUtf8 => match catalogue {
            Some(kind @ (Kind::Json | Kind::Array(_) | Kind::Bytes | Kind::Time | Kind::TimeWithZone | Kind::Inet)) => {
                kind.clone()
            }
            Some(_) => Kind::Text,
            None if is_known => Kind::Text,
            None => Kind::TextOrJson,
        },
        _ => return None,
    })
}

impl Column {
    /// The column of a field. Files from before it was given another name have its own.
    fn new(land: &LandTable, name: &str, kind: Kind, shape: Shape) -> Column {
        let is_added = is_metadata(land, name) || land.overflow_column.as_deref() == Some(name);
        let own = (!is_added).then(|| name.to_owned());
        Column {
            name: name.to_owned(),
            names: land.rename.get(name).cloned().into_iter().chain(own).collect(),
            kind,
            shape,
            tag: Tag::of(name),
        }
    }
}

fn is_metadata(land: &LandTable, name: &str) -> bool {
    land.metadata_columns && METADATA_COLUMNS.contains(&name)
}

impl LakePlan {
    /// `catalogue` holds the kinds of the captured table's columns, where they are known.
    pub fn new(
        land: &LandTable,
        schemas: &[&Schema],
        key: &[String],
        watermark: Option<&str>,
        catalogue: &HashMap<String, Kind>,
    ) -> Result<LakePlan, UnknownType> {
        let mut found: BTreeMap<&str, (Kind, Shape)> = BTreeMap::new();
        let (mut has_offset, mut has_overflow) = (false, false);
        for field in schemas.iter().flat_map(|schema| schema.fields()) {
            let name = field.name().as_str();
            if is_metadata(land, name) {
                has_offset |= name == KAFKA_OFFSET;
                continue;
            }
            if land.overflow_column.as_deref() == Some(name) {
                has_overflow = true;
                continue;
            }
            let name = land.field_of(name);
            let kind = kind_of(field.data_type(), catalogue.get(name), !catalogue.is_empty());
            let unknown = || UnknownType { column: name.to_owned(), data_type: field.data_type().to_string() };
            let shape = match found.get(name) {
                Some((_, known)) if *known != Shape::of(field.data_type()) => Shape::Other,
                _ => Shape::of(field.data_type()),
            };
            found.insert(name, (kind.ok_or_else(unknown)?, shape));
        }
        let mut columns: Vec<Column> =
            found.into_iter().map(|(name, (kind, shape))| Column::new(land, name, kind, shape)).collect();
        let fields = columns.len();
        let overflow = land.overflow_column.as_deref().filter(|_| has_overflow);
        columns.extend(overflow.map(|name| Column {
            name: name.to_owned(),
            names: vec![name.to_owned()],
            kind: Kind::Json,
            shape: Shape::of(&DataType::Utf8),
            // A field may have its name.
            tag: Tag::of("\0overflow"),
        }));
        let position = |name: &str| columns[..fields].iter().position(|column| column.name == name);
        let key = key.iter().map(|name| position(name)).collect::<Option<Vec<_>>>().unwrap_or_default();
        Ok(LakePlan {
            key,
            date_column: position(&land.date_column),
            watermark: watermark.and_then(position),
            overflow: overflow.map(|_| fields),
            fields,
            has_offset,
            columns,
        })
    }

    pub fn key_kinds(&self) -> Vec<Kind> {
        self.key.iter().map(|column| self.columns[*column].kind.clone()).collect()
    }

    /// Which columns a file holds.
    pub fn mask_of(&self, schema: &Schema) -> Vec<bool> {
        self.columns
            .iter()
            .map(|column| column.names.iter().any(|name| schema.column_with_name(name).is_some()))
            .collect()
    }

    /// The row that a record should have become in a file of the columns `mask`.
    pub fn of_record(
        &self,
        fields: &Map<String, Value>,
        place: (i32, i64),
        mask: &[bool],
        bytes: &mut RowBytes,
        key: &mut Vec<u8>,
    ) -> Landed {
        let overflow = self.overflow.and_then(|_| self.overflow_of(fields, mask));
        self.landed(Some(place), bytes, key, |index, column, out| {
            if !mask.get(index).copied().unwrap_or(true) {
                return false;
            }
            let value = if self.overflow == Some(index) { overflow.as_ref() } else { fields.get(&column.name) };
            match value {
                None | Some(Value::Null) => false,
                Some(value) => {
                    canon::from_json(&column.kind, value, out);
                    true
                }
            }
        })
    }

    /// The row of the source, as PostgreSQL printed it.
    pub fn of_text<'t>(
        &self,
        cell: impl Fn(&str) -> Option<&'t str>,
        bytes: &mut RowBytes,
        key: &mut Vec<u8>,
    ) -> Landed {
        self.landed(None, bytes, key, |_, column, out| {
            let text = cell(&column.name).filter(|text| !canon::is_json_null(&column.kind, text));
            text.map(|text| canon::from_text(&column.kind, text, out)).is_some()
        })
    }

    /// The day of the row that was just made comparable; none where its date is null or unknown.
    pub fn day(&self, bytes: &RowBytes) -> Option<String> {
        let index = self.date_column?;
        source_plan::day_of(&self.columns[index].kind, bytes.get(index))
    }

    /// How many fields of a record no column takes.
    pub fn unknown_fields(&self, fields: &Map<String, Value>, mask: &[bool]) -> u64 {
        if self.overflow.is_some() {
            return 0;
        }
        fields.keys().filter(|name| self.position(name).is_none_or(|index| mask.get(index) == Some(&false))).count()
            as u64
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.columns[..self.fields].binary_search_by(|column| column.name.as_str().cmp(name)).ok()
    }

    /// The fields for which a file of the columns `mask` has none.
    fn overflow_of(&self, fields: &Map<String, Value>, mask: &[bool]) -> Option<Value> {
        let rest: Map<String, Value> = fields
            .iter()
            .filter(|(name, _)| self.position(name).is_none_or(|index| mask.get(index) == Some(&false)))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        (!rest.is_empty()).then_some(Value::Object(rest))
    }

    fn landed(
        &self,
        place: Option<(i32, i64)>,
        bytes: &mut RowBytes,
        key: &mut Vec<u8>,
        mut write: impl FnMut(usize, &Column, &mut Vec<u8>) -> bool,
    ) -> Landed {
        bytes.begin(self.columns.len());
        for (index, column) in self.columns.iter().enumerate() {
            bytes.cell(index, column.tag, |out| write(index, column, out));
        }
        let content = bytes.hash();
        for column in &self.key {
            push_key_cell(key, bytes.get(*column));
        }
        if self.key.is_empty() {
            // Without a key a row can only be itself.
            match place.filter(|_| self.has_offset) {
                Some((partition, offset)) => key.extend_from_slice(&place_key(partition, offset)),
                None => push_key_cell(key, &content.to_be_bytes()),
            }
        }
        let row = match place.filter(|_| self.has_offset) {
            Some((partition, offset)) => content ^ super::entry::hash(&place_key(partition, offset)),
            None => content,
        };
        let watermark = self.watermark.and_then(|index| watermark_us(&self.columns[index].kind, bytes.get(index)));
        Landed { row, content, watermark }
    }
}

/// A batch of a file, its columns found once.
pub struct Rows<'b> {
    plan: &'b LakePlan,
    columns: Vec<Option<&'b dyn Array>>,
    partition: Option<&'b dyn Array>,
    offset: Option<&'b dyn Array>,
}

impl<'b> Rows<'b> {
    pub fn new(plan: &'b LakePlan, batch: &'b RecordBatch) -> Rows<'b> {
        let find = |name: &str| batch.column_by_name(name).map(|values| &**values);
        Rows {
            plan,
            columns: plan.columns.iter().map(|column| column.names.iter().find_map(|name| find(name))).collect(),
            partition: find(KAFKA_PARTITION).filter(|_| plan.has_offset),
            offset: find(KAFKA_OFFSET).filter(|_| plan.has_offset),
        }
    }

    pub fn row(&self, row: usize, bytes: &mut RowBytes, key: &mut Vec<u8>) -> Landed {
        let place = match (self.partition, self.offset) {
            (Some(partition), Some(offset)) => {
                let partition = partition.as_primitive_opt::<Int32Type>().map_or(-1, |values| values.value(row));
                let offset = offset.as_primitive_opt::<Int64Type>().map_or(-1, |values| values.value(row));
                Some((partition, offset))
            }
            _ => None,
        };
        self.plan.landed(place, bytes, key, |index, column, out| match self.columns[index] {
            Some(values) if !values.is_null(row) => {
                push_cell(values, row, &column.kind, out);
                true
            }
            _ => false,
        })
    }
}

/// Appends the canonical form of a value that is not null. Types were checked with the plan.
fn push_cell(values: &dyn Array, row: usize, kind: &Kind, out: &mut Vec<u8>) {
    macro_rules! primitive {
        ($type:ty) => {
            values.as_primitive::<$type>().value(row)
        };
    }
    match values.data_type() {
        DataType::Boolean => canon::boolean(values.as_boolean().value(row), out),
        DataType::Int8 => canon::integer(primitive!(Int8Type).into(), false, out),
        DataType::Int16 => canon::integer(primitive!(Int16Type).into(), false, out),
        DataType::Int32 => canon::integer(primitive!(Int32Type).into(), false, out),
        DataType::Int64 => canon::integer(primitive!(Int64Type), false, out),
        DataType::UInt8 => canon::integer(primitive!(UInt8Type).into(), false, out),
        DataType::UInt16 => canon::integer(primitive!(UInt16Type).into(), false, out),
        DataType::UInt32 => canon::integer(primitive!(UInt32Type).into(), false, out),
        DataType::UInt64 => canon::scaled(primitive!(UInt64Type).into(), 0, out),
        DataType::Decimal128(_, scale) => canon::scaled(primitive!(Decimal128Type), *scale, out),
        DataType::Float32 => match kind {
            // Another file of the table holds doubles: the shortest digits are what was published.
            Kind::Float64 => canon::from_text(kind, &primitive!(Float32Type).to_string(), out),
            _ => canon::float32(primitive!(Float32Type), out),
        },
        DataType::Float64 => match kind {
            Kind::Float32 => canon::from_text(kind, &primitive!(Float64Type).to_string(), out),
            _ => canon::float64(primitive!(Float64Type), out),
        },
        DataType::Timestamp(unit, _) => {
            let us = match unit {
                TimeUnit::Second => primitive!(TimestampSecondType).saturating_mul(1_000_000),
                TimeUnit::Millisecond => primitive!(TimestampMillisecondType).saturating_mul(1_000),
                TimeUnit::Microsecond => primitive!(TimestampMicrosecondType),
                TimeUnit::Nanosecond => primitive!(TimestampNanosecondType).div_euclid(1_000),
            };
            canon::integer(us, true, out);
        }
        DataType::Date32 => canon::integer(primitive!(Date32Type).into(), true, out),
        DataType::Time64(TimeUnit::Microsecond) => canon::integer(primitive!(Time64MicrosecondType), true, out),
        DataType::Time64(_) => canon::integer(primitive!(Time64NanosecondType).div_euclid(1_000), true, out),
        DataType::Utf8 => canon::from_text(kind, values.as_string::<i32>().value(row), out),
        DataType::LargeUtf8 => canon::from_text(kind, values.as_string::<i64>().value(row), out),
        DataType::Binary => canon::bytes(values.as_binary::<i32>().value(row), out),
        DataType::LargeBinary => canon::bytes(values.as_binary::<i64>().value(row), out),
        // `LakePlan::new` has refused every other type; a cell that differs from all others is the
        // answer that hides nothing.
        _ => out.extend_from_slice(b"?unknown type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::LandSchema;
    use arrow_array::*;
    use arrow_schema::Field;
    use serde_json::json;
    use std::sync::Arc;

    fn land() -> LandTable {
        LandTable {
            topic: "t".into(),
            path: "t".into(),
            checkpoint_location: "c".into(),
            dead_letter_path: "d".into(),
            schema: LandSchema::File("s".into()),
            date_column: "at".into(),
            not_null: vec![],
            non_negative: vec![],
            numeric_precision: 38,
            numeric_scale: 9,
            overflow_column: Some("rest".into()),
            metadata_columns: true,
            rename: Default::default(),
            allow_network_file_system: false,
        }
    }

    fn batch() -> RecordBatch {
        let at = TimestampMicrosecondArray::from(vec![1_736_943_840_500_000]).with_timezone("UTC");
        let amount = Decimal128Array::from(vec![22_000]).with_precision_and_scale(10, 2).unwrap();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("order_id", Arc::new(Int64Array::from(vec![101]))),
            ("amount", Arc::new(amount)),
            ("at", Arc::new(at)),
            ("ratio", Arc::new(Float64Array::from(vec![0.1]))),
            ("small", Arc::new(Float32Array::from(vec![0.1]))),
            ("open", Arc::new(BooleanArray::from(vec![true]))),
            ("due", Arc::new(Date32Array::from(vec![20_103]))),
            ("blob", Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..]]))),
            ("tags", Arc::new(StringArray::from(vec!["[1, \"x\"]"]))),
            ("doc", Arc::new(StringArray::from(vec!["\"1\""]))),
            ("item", Arc::new(StringArray::from(vec![None::<&str>]))),
            ("rest", Arc::new(StringArray::from(vec!["{\"new\":[1.0]}"]))),
            ("_processing_time", Arc::new(Int64Array::from(vec![5]))),
            ("_kafka_partition", Arc::new(Int32Array::from(vec![2]))),
            ("_kafka_offset", Arc::new(Int64Array::from(vec![77]))),
        ];
        let fields: Vec<Field> =
            columns.iter().map(|(name, values)| Field::new(*name, values.data_type().clone(), true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, values)| values).collect())
            .unwrap()
    }

    fn message() -> Value {
        json!({"order_id": 101, "amount": 220.0, "at": "2025-01-15T12:24:00.5Z", "ratio": 0.1, "small": 0.1,
               "open": true, "due": "2025-01-15", "blob": "AP8=", "tags": [1, "x"], "doc": "1", "new": [1]})
    }

    fn compare(message: &Value, place: (i32, i64)) -> (Landed, Landed) {
        let batch = batch();
        let catalogue =
            HashMap::from([("doc".to_owned(), Kind::Json), ("tags".to_owned(), Kind::Array(Box::new(Kind::Text)))]);
        let plan = LakePlan::new(&land(), &[batch.schema_ref()], &["order_id".into()], Some("at"), &catalogue).unwrap();
        let (mut bytes, mut lake_key, mut record_key) = (RowBytes::default(), Vec::new(), Vec::new());
        let rows = Rows::new(&plan, &batch);
        let landed = rows.row(0, &mut bytes, &mut lake_key);
        assert_eq!(rows.plan.day(&bytes).as_deref(), Some("2025-01-15"));
        let mask = plan.mask_of(batch.schema_ref());
        let record = plan.of_record(message.as_object().unwrap(), place, &mask, &mut bytes, &mut record_key);
        if message["order_id"] == 101 {
            assert_eq!(lake_key, record_key);
        }
        (landed, record)
    }

    #[test]
    fn a_row_equals_its_record_and_no_other() {
        let (landed, record) = compare(&message(), (2, 77));
        assert_eq!(landed, record);
        assert_eq!(landed.watermark, Some(1_736_943_840_500_000));
        // The place counts for the row, not for its content.
        let (landed, elsewhere) = compare(&message(), (2, 78));
        assert_eq!(landed.content, elsewhere.content);
        assert_ne!(landed.row, elsewhere.row);
        for (field, value) in [
            ("amount", json!(220.01)),
            ("at", json!("2025-01-15T12:24:00.500001Z")),
            ("ratio", json!(0.10000000000000002)),
            ("small", json!(0.2)),
            ("open", json!(false)),
            ("due", json!("2025-01-16")),
            ("blob", json!("AP4=")),
            ("tags", json!([1, "y"])),
            ("doc", json!(1)),
            ("item", json!("")),
            ("new", json!([2])),
            ("newer", json!(0)),
            ("order_id", json!(102)),
            ("open", Value::Null),
        ] {
            let mut other = message();
            other[field] = value;
            let (landed, record) = compare(&other, (2, 77));
            assert_ne!(landed.content, record.content, "{field}");
        }
        let mut explicit_null = message();
        explicit_null["item"] = Value::Null;
        let (landed, record) = compare(&explicit_null, (2, 77));
        assert_eq!(landed, record);
    }

    #[test]
    fn a_field_that_a_file_has_no_column_for_is_counted() {
        let schema = Schema::new(vec![Field::new("order_id", DataType::Int64, true)]);
        let wider = Schema::new(vec![Field::new("item", DataType::Utf8, true)]);
        let land = LandTable { overflow_column: None, metadata_columns: false, ..land() };
        let plan = LakePlan::new(&land, &[&schema, &wider], &[], None, &HashMap::new()).unwrap();
        let fields = json!({"order_id": 1, "item": "x", "other": 2});
        let fields = fields.as_object().unwrap();
        assert_eq!(plan.unknown_fields(fields, &plan.mask_of(&schema)), 2);
        assert_eq!(plan.unknown_fields(fields, &[true, true]), 1);
        let without = json!({"order_id": 1});
        let mut bytes = RowBytes::default();
        let mut of = |fields: &Map<String, Value>, mask: &[bool]| {
            plan.of_record(fields, (0, 0), mask, &mut bytes, &mut Vec::new()).row
        };
        let masked = of(fields, &plan.mask_of(&schema));
        assert_eq!(masked, of(without.as_object().unwrap(), &[true, true]));
        assert_ne!(masked, of(fields, &[true, true]));
        let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
        let listed = Schema::new(vec![Field::new("numbers", list, true)]);
        assert!(LakePlan::new(&land, &[&listed], &[], None, &HashMap::new()).is_err());
    }
}
