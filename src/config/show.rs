//! The resolved configuration as files of the general form: one YAML document for each pipeline,
//! with every default filled in and every secret as `***`. Each document loads again.

use super::{
    keys::KEYS,
    model::{Config, Pipeline},
};
use serde_json::{Map, Value, json};

/// YAML text, secrets masked.
pub fn show(config: &Config) -> String {
    let documents: Vec<String> = config.pipelines.iter().map(|pipeline| document(config, pipeline)).collect();
    documents.join("---\n")
}

fn document(config: &Config, pipeline: &Pipeline) -> String {
    let mut out = String::new();
    emit_map(&file_form(config, pipeline), "", 0, &mut out);
    out
}

/// The pipeline with the keys that a file has.
fn file_form(config: &Config, pipeline: &Pipeline) -> Map<String, Value> {
    let mut file = object(json!(pipeline));
    if let Some(name) = file.remove("name") {
        file.insert("pipeline".to_owned(), name);
    }
    if let Some(Value::Array(tables)) = file.get_mut("land").and_then(|land| land.get_mut("tables")) {
        for table in tables.iter_mut().filter_map(Value::as_object_mut) {
            if let Some(Value::Object(mut schema)) = table.remove("schema") {
                let (key, value) = match schema.remove("file") {
                    Some(file) => ("schema_file", file),
                    None => ("source", schema.remove("table").unwrap_or_default()),
                };
                table.insert(key.to_owned(), value);
            }
        }
    }
    if let Some(Value::Array(jobs)) = file.get_mut("analyze").and_then(|analyze| analyze.get_mut("jobs")) {
        jobs.iter_mut().filter_map(Value::as_object_mut).for_each(job_form);
    }
    file.insert("runtime".to_owned(), json!(config.runtime));
    let mut file = object(without_nulls(Value::Object(file)));
    let mut http = object(without_nulls(json!(config.http)));
    // The one key whose null says something.
    http.insert("listen".to_owned(), json!(config.http.listen));
    file.insert("http".to_owned(), Value::Object(http));
    file
}

/// A job of `analyze` with the keys that a file has.
fn job_form(job: &mut Map<String, Value>) {
    job.remove("id");
    for (key, name) in [("window_ms", "window_duration"), ("slide_ms", "slide_duration")] {
        if let Some(ms) = job.remove(key) {
            job.insert(name.to_owned(), json!(format!("{ms} ms")));
        }
    }
    let inputs = job.get("inputs").cloned().unwrap_or_default();
    let measures = job.get_mut("measures").and_then(Value::as_array_mut).into_iter().flatten();
    for measure in measures.filter_map(Value::as_object_mut) {
        let index = measure.get("input").and_then(Value::as_u64).unwrap_or_default();
        let name = inputs.get(index as usize).and_then(|input| input.get("name")).cloned();
        measure.insert("input".to_owned(), name.unwrap_or_default());
        // Those of a field are maps of their name to what they need.
        if let Some(Value::Object(function)) = measure.get("function").cloned() {
            for (name, needs) in function {
                measure.extend(object(needs));
                measure.insert("function".to_owned(), json!(name));
            }
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// Keys come in the order of the table of keys. `pattern` as in [`super::keys::Key::path`].
fn emit_map(map: &Map<String, Value>, pattern: &str, indent: usize, out: &mut String) {
    let path = |name: &str| if pattern.is_empty() { name.to_owned() } else { format!("{pattern}.{name}") };
    let place = |name: &str| KEYS.iter().position(|key| key.path == path(name)).unwrap_or(KEYS.len());
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_by_key(|(name, _)| place(name));
    for (index, (name, value)) in entries.into_iter().enumerate() {
        // The first key of a list's item stands behind its dash.
        let is_behind_dash = index == 0 && out.ends_with("- ");
        if !is_behind_dash {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(&scalar(name));
        out.push(':');
        emit_value(value, &path(name), indent, out);
    }
}

fn emit_value(value: &Value, pattern: &str, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if map.is_empty() => out.push_str(" {}\n"),
        Value::Object(map) => {
            out.push('\n');
            emit_map(map, pattern, indent + 2, out);
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            out.push('\n');
            for item in items.iter().filter_map(Value::as_object) {
                out.push_str(&" ".repeat(indent + 2));
                out.push_str("- ");
                emit_map(item, &format!("{pattern}[]"), indent + 4, out);
            }
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            out.push_str(&format!(" [{}]\n", items.join(", ")));
        }
        other => out.push_str(&format!(" {}\n", flow(other))),
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// `text` without quotes where it stays a text without them, else as a JSON string, which is YAML too.
fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '_' | '/'))
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b':'))
        && !text.ends_with(':')
        && !matches!(text.to_lowercase().as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    if is_plain {
        return text.to_owned();
    }
    // So that a value that holds these characters is not read as a substitution.
    Value::String(text.replace("${", "$${")).to_string()
}

/// Whether `path`, without list positions, is a key of the file.
#[cfg(test)]
pub fn is_key(path: &str) -> bool {
    KEYS.iter().any(|key| key.path == path)
}

/// The paths of all leaves that `show` prints, as in [`super::keys::Key::path`].
#[cfg(test)]
pub fn shown_paths(config: &Config) -> std::collections::BTreeSet<String> {
    fn walk(value: &Value, path: String, paths: &mut std::collections::BTreeSet<String>) {
        let is_free = KEYS.iter().any(|key| key.path == path && key.kind == super::keys::Kind::Properties);
        match value {
            Value::Object(map) if !is_free => map.iter().for_each(|(name, value)| {
                walk(value, if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, paths);
            }),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                items.iter().for_each(|item| walk(item, format!("{path}[]"), paths));
            }
            _ => {
                paths.insert(path);
            }
        }
    }
    let mut paths = std::collections::BTreeSet::new();
    for pipeline in &config.pipelines {
        walk(&Value::Object(file_form(config, pipeline)), String::new(), &mut paths);
    }
    paths
}
