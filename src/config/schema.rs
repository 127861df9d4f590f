//! The file format as a JSON Schema, for the completion and checks of editors.

use super::keys::{self, Default, Format, Key, Kind};
use serde_json::{Map, Value, json};

/// JSON Schema, draft 2020-12.
pub fn json_schema() -> Value {
    let mut schema = section("");
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("Headwater pipeline configuration"));
    // A value may be given by a variable whatever its type.
    schema.insert("$defs".to_owned(), json!({ "substitution": { "type": "string", "pattern": "\\$\\{[A-Za-z_]" } }));
    Value::Object(schema)
}

fn section(path: &str) -> Map<String, Value> {
    let properties: Map<String, Value> = keys::children(path).map(|key| (key.name().to_owned(), of_key(key))).collect();
    let required: Vec<&str> = keys::children(path).filter(|key| key.required).map(Key::name).collect();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), Value::Object(properties));
    schema.insert("additionalProperties".to_owned(), json!(false));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema
}

fn of_key(key: &Key) -> Value {
    let mut schema = of_kind(key);
    schema.insert("description".to_owned(), json!(description(key)));
    if let Some(default) = default_of(key) {
        schema.insert("default".to_owned(), default);
    }
    if key.secret {
        schema.insert("writeOnly".to_owned(), json!(true));
    }
    Value::Object(schema)
}

fn description(key: &Key) -> String {
    match key.default {
        Default::Derived(words) => format!("{} Default: {words}.", key.doc),
        _ => key.doc.to_owned(),
    }
}

fn of_kind(key: &Key) -> Map<String, Value> {
    let or_substitution = |schema: Value| json!({ "anyOf": [schema, { "$ref": "#/$defs/substitution" }] });
    let schema = match key.kind {
        Kind::Text(format) => text(format, key.nullable),
        Kind::Integer { min, max: i64::MAX } => or_substitution(json!({ "type": "integer", "minimum": min })),
        Kind::Integer { min, max } => or_substitution(json!({ "type": "integer", "minimum": min, "maximum": max })),
        Kind::Seconds { max } => or_substitution(json!({ "type": "number", "exclusiveMinimum": 0, "maximum": max })),
        Kind::Number { min, max } => or_substitution(json!({ "type": "number", "minimum": min, "maximum": max })),
        Kind::Boolean => or_substitution(json!({ "type": "boolean" })),
        Kind::Choice(choices) => or_substitution(json!({ "enum": choices })),
        Kind::TextList(format) => {
            or_substitution(json!({ "type": "array", "items": text(format, false), "uniqueItems": true }))
        }
        Kind::Properties => json!({
            "type": "object",
            "additionalProperties": { "type": ["string", "number", "boolean"] },
        }),
        Kind::Section => Value::Object(section(key.path)),
        Kind::SectionList => json!({ "type": "array", "items": section(&format!("{}[]", key.path)) }),
    };
    match schema {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Patterns would have to allow substitutions and `{tenant}` everywhere, so that only `validate`
/// holds texts against their rules.
fn text(format: Format, nullable: bool) -> Value {
    if format == Format::LakeFormat {
        return json!({ "anyOf": [{ "enum": ["parquet"] }, { "$ref": "#/$defs/substitution" }] });
    }
    let kind = if nullable { json!(["string", "null"]) } else { json!("string") };
    json!({ "type": kind, "minLength": 1 })
}

fn default_of(key: &Key) -> Option<Value> {
    let Default::Value(text) = key.default else { return None };
    match key.kind {
        Kind::Text(_) | Kind::Choice(_) => Some(json!(text)),
        _ => serde_json::from_str(text).ok(),
    }
}
