//! A JSON Schema file as columns. The keywords that are understood are enforced; any other one is
//! refused at start, for a rule that is silently not applied is worse than none.

use super::schema::{Column, Kind, Schema, TextRule};
use serde_json::{Map, Value};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum JsonSchemaError {
    #[error("schema {} cannot be read: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("schema {} is not JSON: {source}", .path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("schema {}: {place} has the keyword {keyword:?}, which is not supported: leave it out", .path.display())]
    Keyword { path: PathBuf, place: String, keyword: String },
    #[error("schema {}: {place}: {problem}", .path.display())]
    Invalid { path: PathBuf, place: String, problem: String },
}

/// Say something to people, and rule nothing.
const ANNOTATIONS: [&str; 6] = ["$schema", "$id", "$comment", "title", "description", "examples"];

pub fn read(path: &Path) -> Result<Schema, JsonSchemaError> {
    let text = fs::read(path).map_err(|source| JsonSchemaError::Read { path: path.to_owned(), source })?;
    let root: Value =
        serde_json::from_slice(&text).map_err(|source| JsonSchemaError::Parse { path: path.to_owned(), source })?;
    Reader { path }.schema(&root)
}

struct Reader<'a> {
    path: &'a Path,
}

impl Reader<'_> {
    fn invalid<T>(&self, place: &str, problem: impl Into<String>) -> Result<T, JsonSchemaError> {
        Err(JsonSchemaError::Invalid { path: self.path.to_owned(), place: place.to_owned(), problem: problem.into() })
    }

    /// The object at `place`, whose keywords are all among `known` or annotations.
    fn object<'v>(
        &self,
        value: &'v Value,
        place: &str,
        known: &[&str],
    ) -> Result<&'v Map<String, Value>, JsonSchemaError> {
        let Some(object) = value.as_object() else { return self.invalid(place, "must be an object") };
        let strange = object.keys().find(|key| !known.contains(&key.as_str()) && !ANNOTATIONS.contains(&key.as_str()));
        match strange {
            None => Ok(object),
            Some(keyword) => Err(JsonSchemaError::Keyword {
                path: self.path.to_owned(),
                place: place.to_owned(),
                keyword: keyword.clone(),
            }),
        }
    }

    fn schema(&self, root: &Value) -> Result<Schema, JsonSchemaError> {
        let root = self.object(root, "the schema", &["type", "properties", "required"])?;
        if root.get("type").and_then(Value::as_str) != Some("object") {
            return self.invalid("the schema", "type must be \"object\"");
        }
        let Some(properties) = root.get("properties").and_then(Value::as_object) else {
            return self.invalid("the schema", "properties must be an object");
        };
        let required = match root.get("required") {
            None => Vec::new(),
            Some(names) => self.strings(names, "required")?,
        };
        if let Some(name) = required.iter().find(|name| !properties.contains_key(*name)) {
            return self.invalid("required", format!("{name:?} is not among the properties"));
        }
        let mut columns = Vec::with_capacity(properties.len());
        for (name, property) in properties {
            let mut column = self.property(name, property)?;
            column.required = required.contains(name);
            columns.push(column);
        }
        Ok(Schema { columns })
    }

    fn property(&self, name: &str, value: &Value) -> Result<Column, JsonSchemaError> {
        let place = format!("property {name:?}");
        let known = ["type", "format", "enum", "minimum", "maximum", "x-decimal", "x-naive-utc"];
        let property = self.object(value, &place, &known)?;
        let (kind, nullable) = match property.get("type") {
            Some(Value::String(kind)) => (kind.as_str(), false),
            Some(Value::Array(kinds)) => match kinds.iter().map(Value::as_str).collect::<Vec<_>>().as_slice() {
                [Some(kind), Some("null")] | [Some("null"), Some(kind)] => (*kind, true),
                _ => return self.invalid(&place, "type must be one type, or one type and \"null\""),
            },
            _ => return self.invalid(&place, "type is missing"),
        };
        let kind = self.kind(&place, kind, property)?;
        let mut column = Column::new(name, kind);
        column.not_null = !nullable;
        if let Some(values) = property.get("enum") {
            if kind != Kind::Text(TextRule::Strings) {
                return self.invalid(&place, "enum is supported for strings only");
            }
            let values = match (nullable, values) {
                (true, Value::Array(values)) => Value::Array(values.iter().filter(|v| !v.is_null()).cloned().collect()),
                (_, values) => values.clone(),
            };
            column.values = self.strings(&values, &format!("{place}, enum"))?;
        }
        for (keyword, bound) in [("minimum", &mut column.minimum), ("maximum", &mut column.maximum)] {
            let Some(value) = property.get(keyword) else { continue };
            if !matches!(kind, Kind::Whole | Kind::Float | Kind::Decimal { .. }) {
                return self.invalid(&place, format!("{keyword} is supported for numbers only"));
            }
            *bound = value.as_f64();
            if bound.is_none() {
                return self.invalid(&place, format!("{keyword} must be a number"));
            }
        }
        Ok(column)
    }

    fn kind(&self, place: &str, kind: &str, property: &Map<String, Value>) -> Result<Kind, JsonSchemaError> {
        let format = property.get("format").map(|format| format.as_str().unwrap_or_default());
        let naive_is_utc = match property.get("x-naive-utc") {
            None => false,
            Some(Value::Bool(naive)) if format == Some("date-time") => *naive,
            Some(_) => {
                return self.invalid(place, "x-naive-utc must be true or false, beside the format \"date-time\"");
            }
        };
        let decimal = property.get("x-decimal");
        if decimal.is_some() && kind != "number" {
            return self.invalid(place, "x-decimal goes with the type \"number\"");
        }
        match (kind, format) {
            ("string", None) => Ok(Kind::Text(TextRule::Strings)),
            ("string", Some("date-time")) => Ok(Kind::Timestamp { naive_is_utc }),
            ("string", Some("date")) => Ok(Kind::Date),
            (_, Some(format)) => self.invalid(place, format!("format {format:?} is not supported: date-time or date")),
            ("integer", None) => Ok(Kind::Whole),
            ("number", None) => match decimal {
                None => Ok(Kind::Float),
                Some(decimal) => self.decimal(place, decimal),
            },
            ("boolean", None) => Ok(Kind::Bool),
            ("object", None) => Ok(Kind::Text(TextRule::Objects)),
            ("array", None) => Ok(Kind::Text(TextRule::Arrays)),
            (kind, None) => self.invalid(place, format!("type {kind:?} is not a type")),
        }
    }

    fn decimal(&self, place: &str, value: &Value) -> Result<Kind, JsonSchemaError> {
        let place = format!("{place}, x-decimal");
        let decimal = self.object(value, &place, &["precision", "scale"])?;
        let number = |name| decimal.get(name).and_then(Value::as_i64);
        match (number("precision"), number("scale")) {
            (Some(precision @ 1..=38), Some(scale)) if (0..=precision).contains(&scale) => {
                Ok(Kind::Decimal { precision: precision as u8, scale: scale as i8 })
            }
            _ => self.invalid(&place, "precision must be 1 to 38, and scale 0 to precision"),
        }
    }

    fn strings(&self, value: &Value, place: &str) -> Result<Vec<String>, JsonSchemaError> {
        let strings =
            value.as_array().and_then(|values| values.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        match strings {
            Some(strings) => Ok(strings),
            None => self.invalid(place, "must be an array of strings"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Schema, JsonSchemaError> {
        Reader { path: Path::new("test.json") }.schema(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn reads_every_supported_keyword() {
        let schema = parse(
            r#"{"$schema": "x", "type": "object", "required": ["id"], "properties": {
                "id": {"type": "integer", "minimum": 1, "maximum": 5, "description": "d"},
                "amount": {"type": ["number", "null"], "x-decimal": {"precision": 10, "scale": 2}},
                "ratio": {"type": "number"}, "flag": {"type": "boolean"},
                "at": {"type": "string", "format": "date-time", "x-naive-utc": true},
                "day": {"type": ["null", "string"], "format": "date"},
                "status": {"type": ["string", "null"], "enum": ["A", "B", null]}, "tags": {"type": "array"}, "place": {"type": "object"}}}"#,
        )
        .unwrap();
        let column = |name: &str| schema.columns.iter().find(|column| column.name == name).unwrap();
        assert!(column("id").required && column("id").not_null);
        assert_eq!((column("id").minimum, column("id").maximum), (Some(1.0), Some(5.0)));
        assert_eq!(column("amount").kind, Kind::Decimal { precision: 10, scale: 2 });
        assert!(!column("amount").not_null && !column("amount").required);
        assert_eq!(column("ratio").kind, Kind::Float);
        assert_eq!(column("at").kind, Kind::Timestamp { naive_is_utc: true });
        assert_eq!(column("day").kind, Kind::Date);
        assert_eq!(column("status").values, ["A", "B"]);
        assert_eq!(column("tags").kind, Kind::Text(TextRule::Arrays));
        assert_eq!(column("place").kind, Kind::Text(TextRule::Objects));
    }

    #[test]
    fn refuses_what_it_would_not_enforce() {
        for (keyword, text) in [
            ("pattern", r#"{"type":"object","properties":{"a":{"type":"string","pattern":"x"}}}"#),
            ("additionalProperties", r#"{"type":"object","properties":{},"additionalProperties":false}"#),
            ("$ref", r##"{"type":"object","properties":{"a":{"$ref":"#/x"}}}"##),
        ] {
            let error = parse(text).unwrap_err();
            assert!(matches!(&error, JsonSchemaError::Keyword { keyword: found, .. } if found == keyword), "{error}");
        }
        for text in [
            r#"{"type":"array","properties":{}}"#,
            r#"{"type":"object"}"#,
            r#"{"type":"object","properties":{},"required":["a"]}"#,
            r#"{"type":"object","properties":{"a":{"type":["string","integer"]}}}"#,
            r#"{"type":"object","properties":{"a":{"type":"string","format":"email"}}}"#,
            r#"{"type":"object","properties":{"a":{"type":"string","minimum":1}}}"#,
            r#"{"type":"object","properties":{"a":{"type":"number","x-decimal":{"precision":39,"scale":2}}}}"#,
        ] {
            assert!(matches!(parse(text), Err(JsonSchemaError::Invalid { .. })), "{text}");
        }
    }
}
