//! As much of JSON Schema as our own schema uses; a keyword that is not known here fails the test, so
//! that nothing is passed over.

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Number, Value};

/// Words that constrain nothing.
const ANNOTATIONS: &[&str] = &["$schema", "$id", "$defs", "title", "description", "default", "examples", "writeOnly"];

/// What `value` breaks, each as `/path/to/it: reason`.
pub fn check(schema: &Value, value: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    walk(schema, schema, value, "", &mut errors);
    errors
}

fn walk(root: &Value, schema: &Value, value: &Value, path: &str, errors: &mut Vec<String>) {
    let rules = match schema {
        Value::Bool(true) => return,
        Value::Bool(false) => return errors.push(format!("{path}: nothing is allowed here")),
        schema => schema.as_object().expect("a schema"),
    };
    let passes = |schema: &Value| {
        let mut errors = Vec::new();
        walk(root, schema, value, path, &mut errors);
        errors.is_empty()
    };
    for (keyword, rule) in rules {
        let mut fail = |reason: String| errors.push(format!("{path}: {reason}"));
        match keyword.as_str() {
            "$ref" => {
                let pointer = rule.as_str().and_then(|rule| rule.strip_prefix('#')).expect("a local reference");
                walk(root, root.pointer(pointer).expect("its target"), value, path, errors);
            }
            "type" => {
                let allowed: Vec<&Value> = rule.as_array().map_or(vec![rule], |list| list.iter().collect());
                if !allowed.iter().any(|name| is_of(value, name.as_str().expect("a type"))) {
                    fail(format!("{value} is not {rule}"));
                }
            }
            "enum" if !rule.as_array().expect("a list").contains(value) => fail(format!("{value} is none of {rule}")),
            "const" if rule != value => fail(format!("{value} is not {rule}")),
            "minimum" if value.as_f64() < rule.as_f64() && value.is_number() => fail(format!("{value} < {rule}")),
            "maximum" if value.as_f64() > rule.as_f64() && value.is_number() => fail(format!("{value} > {rule}")),
            "exclusiveMinimum" if value.as_f64() <= rule.as_f64() && value.is_number() => {
                fail(format!("{value} <= {rule}"));
            }
            "minLength"
                if value.as_str().is_some_and(|text| (text.chars().count() as u64) < rule.as_u64().unwrap()) =>
            {
                fail("too short".to_owned());
            }
            "minItems" if value.as_array().is_some_and(|list| (list.len() as u64) < rule.as_u64().unwrap()) => {
                fail("too few".to_owned());
            }
            "uniqueItems" => {}
            "pattern" => {
                // A substitution, in place of a value of any type. No other pattern is used.
                assert_eq!(rule, "\\$\\{[A-Za-z_]", "teach this pattern to this test");
                if value.as_str().is_some_and(|text| !text.contains("${")) {
                    fail(format!("{value} does not match {rule}"));
                }
            }
            "anyOf" if !rule.as_array().expect("a list").iter().any(passes) => fail(format!("{value}: none of anyOf")),
            "oneOf" if rule.as_array().expect("a list").iter().filter(|rule| passes(rule)).count() != 1 => {
                fail(format!("{value}: not exactly one of oneOf"));
            }
            "allOf" => rule.as_array().expect("a list").iter().for_each(|rule| walk(root, rule, value, path, errors)),
            "not" if passes(rule) => fail(format!("{value}: is what it must not be")),
            "required" => {
                let Some(object) = value.as_object() else { continue };
                for name in rule.as_array().expect("a list") {
                    if !object.contains_key(name.as_str().expect("a name")) {
                        fail(format!("{name} is missing"));
                    }
                }
            }
            "properties" => {
                let Some(object) = value.as_object() else { continue };
                for (name, rule) in rule.as_object().expect("properties") {
                    if let Some(value) = object.get(name) {
                        walk(root, rule, value, &format!("{path}/{name}"), errors);
                    }
                }
            }
            "additionalProperties" => {
                let Some(object) = value.as_object() else { continue };
                for (name, value) in object {
                    if rules.get("properties").is_none_or(|known| known.get(name).is_none()) {
                        if rule == &Value::Bool(false) {
                            errors.push(format!("{path}: {name} is not known"));
                        } else {
                            walk(root, rule, value, &format!("{path}/{name}"), errors);
                        }
                    }
                }
            }
            "items" => {
                for (n, value) in value.as_array().into_iter().flatten().enumerate() {
                    walk(root, rule, value, &format!("{path}/{n}"), errors);
                }
            }
            "enum" | "const" | "minimum" | "maximum" | "exclusiveMinimum" | "minLength" | "minItems" | "anyOf"
            | "oneOf" | "not" => {}
            keyword if ANNOTATIONS.contains(&keyword) => {}
            keyword => panic!("the schema uses {keyword}: teach it to this test"),
        }
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_i64().is_some() || value.as_u64().is_some(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no such type: {other}"),
    }
}

/// A YAML document as the JSON value that an editor checks.
pub fn from_yaml(text: &str) -> Value {
    let documents = Yaml::load_from_str(text).expect("YAML");
    documents.first().map_or(Value::Null, json)
}

fn json(node: &Yaml) -> Value {
    match node {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => Value::Bool(*value),
        Yaml::Value(Scalar::Integer(value)) => Value::from(*value),
        Yaml::Value(Scalar::FloatingPoint(value)) => Number::from_f64(**value).map_or(Value::Null, Value::Number),
        Yaml::Value(Scalar::String(value)) => Value::String(value.to_string()),
        Yaml::Sequence(items) => Value::Array(items.iter().map(json).collect()),
        Yaml::Mapping(entries) => {
            let entries =
                entries.iter().map(|(key, value)| (key.as_str().expect("a text as key").to_owned(), json(value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        other => panic!("no JSON for {other:?}"),
    }
}
