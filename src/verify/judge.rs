//! Whether a record is to be a row or a dead letter: judged from the configuration, the JSON Schema where there is
//! one, and the columns of the lake, by none of the code that decided when it landed.
//!
//! A judgement is sure or none. What depends on the finer rules of decoding (numbers with an exponent, times in odd
//! forms, fields of columns that no file has) is left to the landing: neither its rows nor its dead letters are held
//! against it there.

use super::{clock, lake_plan::LakePlan};
use crate::{
    config::model::{LandSchema, LandTable},
    record::reason::Reason,
};
use arrow_schema::DataType;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, fmt};

/// What a column of the lake holds, as far as it decides which values fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Whole,
    Decimal { before: i16, after: i16 },
    Float,
    Bool,
    Timestamp,
    Date,
    Text,
    Other,
}

impl Shape {
    pub fn of(data_type: &DataType) -> Shape {
        match data_type {
            DataType::Int64 => Shape::Whole,
            DataType::Decimal128(precision, scale) => {
                Shape::Decimal { before: i16::from(*precision) - i16::from(*scale), after: i16::from(*scale) }
            }
            DataType::Float64 => Shape::Float,
            DataType::Boolean => Shape::Bool,
            DataType::Timestamp(..) => Shape::Timestamp,
            DataType::Date32 => Shape::Date,
            DataType::Utf8 => Shape::Text,
            _ => Shape::Other,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    Unsure,
}

/// What speaks against a record.
#[derive(Debug, Default)]
struct Objections {
    /// Reasons for which it may be refused.
    reasons: BTreeSet<Reason>,
    /// Whether one of them surely holds.
    is_sure: bool,
}

impl Objections {
    fn add(&mut self, fit: Fit, reason: Reason) {
        if fit != Fit::Yes {
            self.reasons.insert(reason);
        }
        self.is_sure |= fit == Fit::No;
    }
}

/// The rules of a landed table.
pub struct Judge<'p> {
    plan: &'p LakePlan,
    land: &'p LandTable,
    /// The JSON Schema, where the table has one; a null where it cannot be read.
    schema: Option<Value>,
}

impl<'p> Judge<'p> {
    pub fn new(plan: &'p LakePlan, land: &'p LandTable) -> Judge<'p> {
        let read = |path| std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let schema = match &land.schema {
            LandSchema::File(path) => Some(read(path).unwrap_or(Value::Null)),
            LandSchema::Table { .. } => None,
        };
        Judge { plan, land, schema }
    }

    /// Whether a record that has become a row in a file of the columns `mask` should have been refused.
    pub fn is_bad(&self, fields: &Map<String, Value>, mask: &[bool]) -> bool {
        self.objections(fields, mask).is_sure
    }

    /// Whether a record of these bytes may have been refused at all.
    pub fn may_be_letter(&self, payload: Option<&[u8]>, fields: &Map<String, Value>, mask: &[bool]) -> bool {
        !is_plain(payload) || self.holds_unknown(fields) || !self.objections(fields, mask).reasons.is_empty()
    }

    /// Whether a record may have been refused for the reason that its dead letter gives.
    pub fn may_be_refused(&self, letter: &Refused<'_>, mask: &[bool]) -> bool {
        let Some(reason) = Reason::ALL.iter().find(|reason| reason.name() == letter.reason) else { return false };
        let Some(fields) = letter.fields else { return *reason == Reason::SchemaValidationFailed };
        if *reason == Reason::SchemaValidationFailed && (!is_plain(letter.payload) || self.holds_unknown(fields)) {
            return true;
        }
        self.objections(fields, mask).reasons.contains(reason) || is_borne_out(*reason, letter.detail, fields)
    }

    /// Whether it holds a field of which no file says what its column takes.
    fn holds_unknown(&self, fields: &Map<String, Value>) -> bool {
        fields.iter().any(|(name, value)| !value.is_null() && self.plan.columns.iter().all(|known| known.name != *name))
    }

    fn objections(&self, fields: &Map<String, Value>, mask: &[bool]) -> Objections {
        let mut found = Objections::default();
        let value = |name: &str| fields.get(name).filter(|value| !value.is_null());
        let at_date = |name: &str| name == self.land.date_column;
        for (index, column) in self.plan.columns.iter().enumerate() {
            let is_there = mask.get(index).copied().unwrap_or(true) && !self.is_overflow(&column.name);
            let Some(value) = value(&column.name).filter(|_| is_there) else { continue };
            let reason = if at_date(&column.name) { Reason::InvalidTimestamp } else { Reason::SchemaValidationFailed };
            found.add(fit(column.shape, value), reason);
        }
        for name in &self.land.not_null {
            found.add(yes(value(name).is_some()), Reason::NullKey);
        }
        for value in self.land.non_negative.iter().filter_map(|name| value(name)) {
            found.add(not_negative(value), Reason::NegativeAmount);
        }
        match value(&self.land.date_column) {
            None => found.add(Fit::No, Reason::MissingRequiredField),
            Some(_) if self.plan.date_column.is_none() => found.add(Fit::Unsure, Reason::InvalidTimestamp),
            Some(_) => {}
        }
        match &self.schema {
            Some(Value::Null) => found.add(Fit::Unsure, Reason::SchemaValidationFailed),
            Some(schema) => self.by_schema(schema, fields, &mut found),
            None => {}
        }
        found
    }

    fn is_overflow(&self, name: &str) -> bool {
        self.land.overflow_column.as_deref() == Some(name)
    }

    fn by_schema(&self, schema: &Value, fields: &Map<String, Value>, found: &mut Objections) {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            found.add(yes(fields.contains_key(name)), Reason::MissingRequiredField);
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let Some(value) = fields.get(name) else { continue };
            let types: Vec<&str> = match &property["type"] {
                Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
                one => one.as_str().into_iter().collect(),
            };
            if value.is_null() {
                // The date column has a reason of its own.
                let is_fine = types.contains(&"null") || *name == self.land.date_column;
                found.add(yes(is_fine), Reason::SchemaValidationFailed);
                continue;
            }
            if let Some(values) = property["enum"].as_array() {
                found.add(yes(values.contains(value)), Reason::SchemaValidationFailed);
            }
            let number = value.as_f64();
            let is_within = |bound: &str, is_fine: fn(f64, f64) -> bool| {
                property[bound].as_f64().zip(number).is_none_or(|(bound, number)| is_fine(number, bound))
            };
            found.add(yes(is_within("minimum", |a, b| a >= b)), Reason::SchemaValidationFailed);
            found.add(yes(is_within("maximum", |a, b| a <= b)), Reason::SchemaValidationFailed);
            let is_nested = |kind: &str| types.contains(&kind);
            let is_shape = (!is_nested("object") || value.is_object()) && (!is_nested("array") || value.is_array());
            found.add(yes(is_shape), Reason::SchemaValidationFailed);
        }
    }
}

/// A dead letter, as far as it is judged.
pub struct Refused<'a> {
    pub reason: &'a str,
    pub detail: &'a str,
    pub payload: Option<&'a [u8]>,
    pub fields: Option<&'a Map<String, Value>>,
}

/// Whether a letter's own words are true of its record, for rules that the configuration may have lost since.
fn is_borne_out(reason: Reason, detail: &str, fields: &Map<String, Value>) -> bool {
    let name = detail.strip_prefix('"').and_then(|rest| rest.split_once('"')).map(|(name, _)| name);
    let value = name.map(|name| fields.get(name).filter(|value| !value.is_null()));
    match (reason, value) {
        (Reason::NullKey | Reason::MissingRequiredField, Some(value)) => value.is_none(),
        (Reason::NegativeAmount, Some(Some(value))) => not_negative(value) != Fit::Yes,
        _ => false,
    }
}

fn yes(is_fine: bool) -> Fit {
    if is_fine { Fit::Yes } else { Fit::No }
}

fn not_negative(value: &Value) -> Fit {
    match value {
        Value::Number(number) => {
            let mantissa = number.as_str().split(['e', 'E']).next().unwrap_or_default();
            yes(!mantissa.starts_with('-') || !mantissa.contains(|digit: char| ('1'..='9').contains(&digit)))
        }
        Value::String(text) if text == "-Infinity" => Fit::Unsure,
        _ => Fit::Yes,
    }
}

fn fit(shape: Shape, value: &Value) -> Fit {
    match (shape, value) {
        (Shape::Text, Value::String(_)) | (Shape::Bool, Value::Bool(_)) => Fit::Yes,
        (Shape::Text | Shape::Other, _) => Fit::Unsure,
        (Shape::Whole | Shape::Decimal { .. } | Shape::Float, Value::Number(number)) => {
            number_fit(shape, number.as_str())
        }
        (Shape::Float, Value::String(_)) => Fit::Unsure,
        (Shape::Timestamp, Value::String(text)) => timestamp_fit(text),
        (Shape::Date, Value::String(text)) => match clock::date_days(text) {
            Some(clock::Moment::At(_)) if text.len() == 10 && !text.starts_with("0000") => Fit::Yes,
            Some(clock::Moment::At(_)) => Fit::Unsure,
            _ => Fit::No,
        },
        _ => Fit::No,
    }
}

fn number_fit(shape: Shape, text: &str) -> Fit {
    if text.contains(['e', 'E']) {
        return Fit::Unsure;
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    match shape {
        Shape::Whole if fraction.is_empty() => yes(whole.parse::<i64>().is_ok()),
        Shape::Decimal { before: before @ 0.., after: after @ 0.. } => {
            let digits = |text: &str| i16::try_from(text.len()).unwrap_or(i16::MAX);
            let whole = whole.trim_start_matches(['-', '0']);
            yes(digits(whole) <= before && digits(fraction.trim_end_matches('0')) <= after)
        }
        Shape::Float => Fit::Yes,
        _ => Fit::Unsure,
    }
}

/// Sure of the form that everybody writes, and of what is no time at all.
fn timestamp_fit(text: &str) -> Fit {
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let is_plain = form.strip_prefix("0000-00-00T00:00:00").is_some_and(|rest| {
        let zone = rest.strip_prefix('.').map_or(rest, |fraction| fraction.trim_start_matches('0'));
        matches!(zone, "Z" | "+00:00" | "-00:00") && rest != ".Z"
    });
    match clock::timestamp_us(text, None) {
        Some(clock::Moment::At(_)) if is_plain && !text.starts_with("0000") && !text.starts_with("9999") => Fit::Yes,
        Some(clock::Moment::At(_)) => Fit::Unsure,
        // A leap second is a time to some.
        None if is_plain && text.contains(":60") => Fit::Unsure,
        _ => Fit::No,
    }
}

/// JSON in which no object has a name twice, and that is not nested deeply.
struct Plain;

fn is_plain(payload: Option<&[u8]>) -> bool {
    payload.is_some_and(|payload| serde_json::from_slice::<Plain>(payload).is_ok())
}

const PLAIN_DEPTH: usize = 60;

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Plain, D::Error> {
        Level(0).visit(deserializer)
    }
}

#[derive(Clone, Copy)]
struct Level(usize);

impl Level {
    fn visit<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Plain, D::Error> {
        if self.0 > PLAIN_DEPTH { Err(D::Error::custom("deep")) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Level {
    type Value = Plain;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Plain, D::Error> {
        self.visit(deserializer)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_str<E>(self, _: &str) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Plain, A::Error> {
        while items.next_element_seed(Level(self.0 + 1))?.is_some() {}
        Ok(Plain)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Plain, A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("twice"));
            }
            members.next_value_seed(Level(self.0 + 1))?;
        }
        Ok(Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::{Field, Schema, TimeUnit};
    use serde_json::json;
    use std::collections::HashMap;

    fn land() -> LandTable {
        LandTable {
            topic: "t".into(),
            path: "t".into(),
            checkpoint_location: "c".into(),
            dead_letter_path: "d".into(),
            schema: LandSchema::Table { schema: None, table: "orders".into(), columns: vec![] },
            date_column: "at".into(),
            not_null: vec!["id".into()],
            non_negative: vec!["amount".into()],
            numeric_precision: 38,
            numeric_scale: 18,
            overflow_column: None,
            metadata_columns: false,
            rename: Default::default(),
            allow_network_file_system: false,
        }
    }

    fn plan(land: &LandTable) -> LakePlan {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("amount", DataType::Decimal128(10, 2), true),
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
            Field::new("item", DataType::Utf8, true),
            Field::new("paid", DataType::Boolean, true),
            Field::new("due", DataType::Date32, true),
        ]);
        LakePlan::new(land, &[&schema], &[], None, &HashMap::new()).unwrap()
    }

    fn record(change: Value) -> Map<String, Value> {
        let mut record = json!({"id": 1, "amount": 220.50, "at": "2025-01-15T12:24:00.5Z", "item": "x", "paid": true,
                                "due": "2025-01-15"});
        record.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        record.as_object().unwrap().clone()
    }

    #[test]
    fn a_record_is_good_or_bad_or_left_to_the_landing() {
        let land = land();
        let plan = plan(&land);
        let judge = Judge::new(&plan, &land);
        let verdict = |change: Value| {
            let objections = judge.objections(&record(change), &[]);
            (objections.is_sure, objections.reasons.into_iter().map(Reason::name).collect::<Vec<_>>())
        };
        let good: (bool, Vec<&str>) = (false, vec![]);
        for change in [json!({}), json!({"item": null, "amount": null}), json!({"amount": -0.0}), json!({"more": 1})] {
            assert_eq!(verdict(change.clone()), good, "{change}");
        }
        for (change, reason) in [
            (json!({"id": null}), "null_key"),
            (json!({"at": null}), "missing_required_field"),
            (json!({"at": "yesterday"}), "invalid_timestamp"),
            (json!({"at": 1_736_943_840}), "invalid_timestamp"),
            (json!({"amount": -0.01}), "negative_amount"),
            (json!({"amount": "1"}), "schema_validation_failed"),
            (json!({"amount": 1.001}), "schema_validation_failed"),
            (json!({"id": "1"}), "schema_validation_failed"),
            (json!({"paid": 1}), "schema_validation_failed"),
            (json!({"due": "2025-02-30"}), "schema_validation_failed"),
        ] {
            assert_eq!(verdict(change.clone()), (true, vec![reason]), "{change}");
        }
        for change in [json!({"at": "2025-01-15T12:24:00"}), json!({"at": "2025-01-15 12:24:00Z"}), json!({"item": 1})]
        {
            assert_eq!((verdict(change.clone()).0, verdict(change.clone()).1.len()), (false, 1), "{change}");
        }
        // A field that came before its column did was nobody's.
        let mask = [true, true, true, true, true, false];
        assert!(judge.is_bad(&record(json!({"amount": -1})), &mask));
        let paid = plan.columns.iter().position(|column| column.name == "paid").unwrap();
        let mask: Vec<bool> = (0..plan.columns.len()).map(|index| index != paid).collect();
        assert!(!judge.is_bad(&record(json!({"paid": 1})), &mask));
    }

    #[test]
    fn a_letter_is_founded_by_its_record() {
        let land = land();
        let plan = plan(&land);
        let judge = Judge::new(&plan, &land);
        let may = |reason: &str, detail: &str, payload: &str| {
            let fields = crate::verify::topic::fields_of(Some(payload.as_bytes()));
            let payload = Some(payload.as_bytes());
            judge.may_be_refused(&Refused { reason, detail, payload, fields: fields.as_ref() }, &[])
        };
        let text = |change: Value| Value::Object(record(change)).to_string();
        for reason in Reason::ALL {
            assert!(!may(reason.name(), "", &text(json!({}))), "{}", reason.name());
        }
        let letter = |text: &str| {
            let fields = crate::verify::topic::fields_of(Some(text.as_bytes())).unwrap();
            judge.may_be_letter(Some(text.as_bytes()), &fields, &[])
        };
        assert!(!letter(&text(json!({}))));
        for change in [json!({"amount": -1}), json!({"item": 1}), json!({"more": 1})] {
            assert!(letter(&text(change.clone())), "{change}");
        }
        assert!(!may("anything", "", "no JSON"));
        assert!(may("schema_validation_failed", "", "no JSON") && !may("null_key", "", "no JSON"));
        assert!(may("negative_amount", "", &text(json!({"amount": -1}))));
        assert!(!may("null_key", "", &text(json!({"amount": -1}))), "another reason");
        assert!(may("schema_validation_failed", "", &text(json!({})).replacen("\"id\"", "\"id\":1,\"id\"", 1)));
        assert!(may("schema_validation_failed", "", &text(json!({"more": 1}))), "a column that no file has");
        // By a rule that the configuration has lost since.
        assert!(may("null_key", "\"item\" is null or absent", &text(json!({"item": null}))));
        assert!(!may("null_key", "\"item\" is null or absent", &text(json!({}))));
        assert!(!may("negative_amount", "\"id\" is below zero", &text(json!({}))));
    }

    #[test]
    fn a_schema_has_rules_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("schema.json");
        let schema = json!({"type": "object", "required": ["item"], "properties": {
            "item": {"type": "string", "enum": ["x", "y"]}, "id": {"type": "integer", "minimum": 1}}});
        std::fs::write(&path, schema.to_string()).unwrap();
        let land = LandTable { schema: LandSchema::File(path), ..land() };
        let plan = plan(&land);
        let judge = Judge::new(&plan, &land);
        assert!(!judge.is_bad(&record(json!({})), &[]));
        for change in [json!({"item": "z"}), json!({"item": null}), json!({"id": 0})] {
            assert!(judge.is_bad(&record(change.clone()), &[]), "{change}");
        }
        let mut without = record(json!({}));
        without.remove("item");
        assert!(judge.objections(&without, &[]).reasons.contains(&Reason::MissingRequiredField));
    }
}
