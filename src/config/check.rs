//! Holds the whole tree against the table of keys.

use super::{
    error::{Collector, Origin, Problem},
    formats, jdbc,
    keys::{self, Format, KEYS, Key, Kind},
    nearest::nearest,
    tree::{self, Node, Scalar, Style, Value},
};

const LONGEST_SHOWN: usize = 120;

/// Reports every unknown key, wrong type, value out of range and missing key of `root`.
pub fn check(root: &Node, errors: &mut Collector) {
    check_section(root, "", "", errors);
}

fn check_section(node: &Node, pattern: &str, path: &str, errors: &mut Collector) {
    let entries = match &node.value {
        Value::Map(entries) => entries.as_slice(),
        // All of its keys are commented out.
        Value::Null => &[],
        other => {
            let wanted = Problem::Invalid(formats::kind_words(Kind::Section).to_owned());
            return errors.add_value(&node.origin, path, wanted, shape(other).to_owned());
        }
    };
    for entry in entries {
        let path = join(path, &entry.name);
        match keys::child(pattern, &entry.name) {
            Some(key) => check_value(&entry.node, key, &path, errors),
            None => unknown(&entry.node.origin, pattern, &path, &entry.name, errors),
        }
    }
    for key in keys::children(pattern).filter(|key| key.required) {
        if !entries.iter().any(|entry| entry.name == key.name()) {
            errors.add(&node.origin, join(path, key.name()), Problem::Missing(key.doc.to_owned()));
        }
    }
}

fn check_value(node: &Node, key: &Key, path: &str, errors: &mut Collector) {
    let invalid = |words: &str| Problem::Invalid(words.to_owned());
    match (&node.value, key.kind) {
        (_, Kind::Section) => check_section(node, key.path, path, errors),
        (Value::Null, _) if key.nullable => {}
        (Value::Null, _) => {
            errors.add(&node.origin, path, Problem::Rule("has no value: give one, or remove the key".into()));
        }
        (Value::List(items), Kind::SectionList) => {
            for (index, item) in items.iter().enumerate() {
                check_section(item, &format!("{}[]", key.path), &format!("{path}[{index}]"), errors);
            }
        }
        (Value::List(items), Kind::TextList(format)) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                match &item.value {
                    Value::Scalar(scalar) => check_scalar(item, scalar, Kind::Text(format), key, &path, errors),
                    other => {
                        errors.add_value(&item.origin, path, invalid("a text"), shape(other).to_owned());
                    }
                }
            }
        }
        (Value::Map(entries), Kind::Properties) => {
            for entry in entries {
                if !matches!(entry.node.value, Value::Scalar(_)) {
                    let wanted = invalid("a text, a number, true or false");
                    errors.add(&entry.node.origin, join(path, &entry.name), wanted);
                }
            }
        }
        (Value::Scalar(scalar), kind) => check_scalar(node, scalar, kind, key, path, errors),
        (other, kind) => {
            errors.add_value(&node.origin, path, invalid(formats::kind_words(kind)), shape(other).to_owned());
        }
    }
}

fn check_scalar(node: &Node, scalar: &Scalar, kind: Kind, key: &Key, path: &str, errors: &mut Collector) {
    if kind == Kind::Text(Format::JdbcUrl) {
        if let Some(password) = jdbc::parse(&scalar.text).ok().and_then(|parts| parts.password) {
            errors.hide(&password);
        }
    } else if key.secret {
        errors.hide(&scalar.text);
    }
    if let Err(words) = formats::check_scalar(kind, scalar) {
        errors.add_value(&node.origin, path, Problem::Invalid(words), shown(scalar, key));
    }
}

/// A value for an error's eyes.
fn shown(scalar: &Scalar, key: &Key) -> String {
    // A URL may hold a password anywhere behind these marks, most of all when it cannot be read.
    let is_plain_url = key.kind == Kind::Text(Format::JdbcUrl) && !scalar.text.contains(['?', '@', '&', '=']);
    if key.secret && !is_plain_url {
        return "***".to_owned();
    }
    let plain_word = scalar.style == Style::Plain
        && !scalar.text.is_empty()
        && scalar.text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'));
    if plain_word { scalar.text.clone() } else { quoted(&scalar.text) }
}

/// `text` in quotes, shortened.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Scalar(_) => "a single value",
        Value::List(_) => "a list",
        Value::Map(_) => "a section",
    }
}

pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The nearest key of the same section; else one of that name elsewhere.
fn unknown(origin: &Origin, pattern: &str, path: &str, name: &str, errors: &mut Collector) {
    let section = path.strip_suffix(name).unwrap_or_default();
    let siblings = || keys::children(pattern).map(|key| key.name().to_owned());
    let elsewhere = || {
        let same = |key: &&Key| !key.is_section() && key.name().eq_ignore_ascii_case(name);
        KEYS.iter().find(same).map(|key| key.path.to_owned())
    };
    let near = nearest(name, siblings()).map(|near| format!("{section}{near}")).or_else(elsewhere);
    errors.add_unknown(origin, path.to_owned(), near, siblings().collect());
}

/// A list or section that a substituted variable gives as text (`tenants: ${TENANTS:-[a, b]}`).
pub fn unfold(node: &mut Node, pattern: &str, path: &str, errors: &mut Collector) {
    match &mut node.value {
        Value::Map(entries) => {
            for entry in entries {
                let Some(key) = keys::child(pattern, &entry.name) else { continue };
                let path = join(path, &entry.name);
                if matches!(key.kind, Kind::TextList(_) | Kind::SectionList | Kind::Section | Kind::Properties)
                    && let Value::Scalar(Scalar { text, style: Style::Loose }) = &entry.node.value
                {
                    match tree::parse_flow(text, &entry.node.origin) {
                        Ok(parsed) => entry.node = parsed,
                        Err(problem) => errors.add(&entry.node.origin, path.as_str(), problem),
                    }
                }
                if key.is_section() {
                    unfold(&mut entry.node, key.path, &path, errors);
                }
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                unfold(item, &format!("{pattern}[]"), &format!("{path}[{index}]"), errors);
            }
        }
        Value::Null | Value::Scalar(_) => {}
    }
}
