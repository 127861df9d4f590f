//! Text that PostgreSQL can hold. It refuses U+0000 in `text` and `jsonb`, and keys beyond a third of a
//! page in an index; neither may stop a flush.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write};
use xxhash_rust::xxh3::xxh3_128;

/// Longest key that is stored as it is, in bytes. A B-tree takes 2,704 in all.
const LONGEST_KEY: usize = 1_024;
/// What a stand-in keeps of its key's beginning.
const KEPT: usize = 900;

/// `text` with each U+0000 replaced by U+FFFD.
pub fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// `key`, or a stand-in where PostgreSQL cannot hold it: its beginning and the hash of the whole, so that
/// different keys stay different rows.
pub fn storable_key(key: &str) -> Cow<'_, str> {
    if key.len() <= LONGEST_KEY && !key.contains('\0') {
        return Cow::Borrowed(key);
    }
    let mut end = key.len().min(KEPT);
    while !key.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}~{:032x}", storable(&key[..end]), xxh3_128(key.as_bytes())))
}

/// The literal of a `text[]`, for a cast on the server: `unnest` would flatten a nested array.
pub fn array_literal(items: &[String]) -> String {
    let mut literal = String::from("{");
    for (index, item) in items.iter().enumerate() {
        literal.push_str(if index == 0 { "\"" } else { ",\"" });
        for character in storable(item).chars() {
            if matches!(character, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(character);
        }
        literal.push('"');
    }
    literal.push('}');
    literal
}

/// The JSON object of counts by name. Names that become one by [`storable`] are added up.
pub fn counts_json(counts: &[(String, i64)]) -> String {
    let mut totals: BTreeMap<Cow<'_, str>, i64> = BTreeMap::new();
    for (name, count) in counts {
        let total = totals.entry(storable(name)).or_default();
        *total = total.saturating_add(*count);
    }
    let mut json = String::from("{");
    for (index, (name, count)) in totals.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_json_string(&mut json, name);
        // Writing to a String cannot fail.
        let _ = write!(json, ":{count}");
    }
    json.push('}');
    json
}

/// `value` as JSON that `jsonb` takes.
pub fn json(value: &serde_json::Value) -> String {
    use serde_json::Value;
    fn push(out: &mut String, value: &Value) {
        match value {
            Value::String(text) => push_json_string(out, &storable(text)),
            Value::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    push(out, item);
                }
                out.push(']');
            }
            Value::Object(fields) => {
                out.push('{');
                for (index, (name, field)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    push_json_string(out, &storable(name));
                    out.push(':');
                    push(out, field);
                }
                out.push('}');
            }
            plain => out.push_str(&plain.to_string()),
        }
    }
    let mut out = String::new();
    push(&mut out, value);
    out
}

fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_that_cannot_be_stored_get_stand_ins_that_differ() {
        assert_eq!(storable_key("s1"), "s1");
        let long = "é".repeat(600);
        let longer = "é".repeat(601);
        let stand_ins = [storable_key("a\0"), storable_key("a\u{fffd}"), storable_key(&long), storable_key(&longer)];
        for (index, one) in stand_ins.iter().enumerate() {
            assert!(one.len() <= LONGEST_KEY && !one.contains('\0'), "{one}");
            assert!(stand_ins[index + 1..].iter().all(|other| other != one));
        }
        assert_eq!(storable_key(&"x".repeat(LONGEST_KEY)).len(), LONGEST_KEY);
    }

    #[test]
    fn literals_are_quoted() {
        let items = ["Kappa", "a\"b\\c", "", "NULL", "{,}", "n\0l"].map(str::to_owned);
        assert_eq!(array_literal(&items), r#"{"Kappa","a\"b\\c","","NULL","{,}","n�l"}"#);
        assert_eq!(array_literal(&[]), "{}");
    }

    #[test]
    fn counts_of_one_name_are_added() {
        let counts = [("b\0".to_owned(), 1), ("a\"".to_owned(), 2), ("b\u{fffd}".to_owned(), 3)];
        assert_eq!(counts_json(&counts), "{\"a\\\"\":2,\"b\u{fffd}\":4}");
    }

    proptest! {
        #[test]
        fn json_is_read_as_it_was_meant(name in "\\PC*|[\u{1}-\u{1f}\"\\\\]*", text in any::<String>()) {
            let value = serde_json::json!({ &name: [text.clone(), 1.5, true, {}] });
            let read: serde_json::Value = serde_json::from_str(&json(&value)).unwrap();
            prop_assert_eq!(&read[storable(&name).as_ref()][0], &serde_json::Value::from(storable(&text)));
            prop_assert!(!json(&value).contains("\\u0000"));
        }
    }
}
