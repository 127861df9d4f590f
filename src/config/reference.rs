//! The table of keys as Markdown, for the README.

use super::keys::{Default, Format, KEYS, Key, Kind};

/// One table: key, type, default, meaning.
pub fn reference_markdown() -> String {
    let mut out = String::from("| key | type | default | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let meaning = key.doc.replace('|', "\\|");
        out.push_str(&format!("| `{}` | {} | {} | {meaning} |\n", key.path, kind(key), default(key)));
    }
    out
}

fn kind(key: &Key) -> String {
    match key.kind {
        Kind::Text(Format::Path) => "path".to_owned(),
        Kind::Text(Format::LakeFormat) => "`parquet`".to_owned(),
        Kind::Text(_) if key.secret => "text, secret".to_owned(),
        Kind::Text(_) if key.nullable => "text or null".to_owned(),
        Kind::Text(Format::Duration) => "number with its unit".to_owned(),
        Kind::Text(_) => "text".to_owned(),
        Kind::Integer { min, max: i64::MAX } => format!("integer, {min} or more"),
        Kind::Integer { min, max } => format!("integer, {min} to {max}"),
        Kind::Seconds { max } => format!("number above 0, to {max}"),
        Kind::Number { min, max } => format!("number, {min} to {max}"),
        Kind::Boolean => "true or false".to_owned(),
        Kind::Choice(choices) => choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "),
        Kind::TextList(_) => "list of texts".to_owned(),
        Kind::Properties => "map".to_owned(),
        Kind::Section => "section".to_owned(),
        Kind::SectionList => "list of sections".to_owned(),
    }
}

fn default(key: &Key) -> String {
    match key.default {
        Default::Value(value) => format!("`{value}`"),
        Default::Derived(words) if words.contains('<') => format!("`{words}`"),
        Default::Derived(words) => words.to_owned(),
        Default::None if key.required => "required".to_owned(),
        Default::None => String::new(),
    }
}
