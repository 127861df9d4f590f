//! Compares a table, row by row, with the committed messages of its topic.

use crate::{
    harness::{Db, kafka::Message},
    workload::Target,
};
use std::collections::{BTreeMap, HashMap};

/// What a comparison found. Everything but `rows` and `messages` should be empty.
#[derive(Debug, Default, PartialEq)]
pub struct Comparison {
    pub rows: usize,
    pub messages: usize,
    /// Rows whose final version is not the last message of their key.
    pub lost: Vec<String>,
    /// Versions that are there twice: by transaction or by value.
    pub duplicated: Vec<String>,
    /// Messages of versions that were never committed.
    pub phantoms: Vec<String>,
    /// Messages of a key that stand in another order than its versions were written.
    pub disordered: Vec<String>,
}

impl Comparison {
    #[track_caller]
    pub fn assert_exact(&self, what: &str) {
        let problems = [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("never committed", &self.phantoms),
            ("out of order", &self.disordered),
        ];
        for (name, list) in problems {
            assert!(
                list.is_empty(),
                "{what}: {} {name} of {} rows and {} messages: {:#?}",
                list.len(),
                self.rows,
                self.messages,
                &list[..list.len().min(10)]
            );
        }
    }
}

/// The transaction that wrote the row version of a message.
pub fn xid(message: &Message) -> String {
    let value = header(message, "headwater-xid");
    value.unwrap_or_else(|| panic!("no transaction id in the headers {:?}", message.headers))
}

pub fn header(message: &Message, name: &str) -> Option<String> {
    let (_, value) = message.headers.iter().find(|(key, _)| key == name)?;
    Some(String::from_utf8(value.clone()?).expect("text"))
}

/// The final version of each row of a table made by `workload::Target`, as `id` to its `mark` and all other columns
/// that a message must agree with.
fn final_versions(db: &Db, target: &Target) -> BTreeMap<i64, BTreeMap<&'static str, String>> {
    let Target { name, watermark, watermark_type, zone } = target;
    // A date is its own text; any timestamp is compared as an instant.
    let moment = match *watermark_type {
        "date" => format!("{watermark}::text"),
        "timestamp" => format!("(extract(epoch FROM {watermark} AT TIME ZONE '{zone}') * 1000000)::bigint"),
        _ => format!("(extract(epoch FROM {watermark}) * 1000000)::bigint"),
    };
    let rows = db.rows(&format!(
        "SELECT id, mark, writer, kind, coalesce(note, 'null'), coalesce({moment}::text, 'null') FROM {name}"
    ));
    rows.into_iter()
        .map(|row| {
            let mut row = row.into_iter().map(|value| value.expect("no nulls"));
            let id = row.next().and_then(|id| id.parse().ok()).expect("an id");
            (id, ["mark", "writer", "kind", "note", "moment"].into_iter().zip(row).collect())
        })
        .collect()
}

/// The same columns of a message.
fn version(message: &Message, watermark: &str) -> (i64, BTreeMap<&'static str, String>) {
    let json = message.json();
    let plain = |name: &str| match &json[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let moment = plain(watermark);
    let moment = match chrono::DateTime::parse_from_rfc3339(&moment) {
        Ok(instant) => instant.timestamp_micros().to_string(),
        Err(_) => moment,
    };
    let columns = ["mark", "writer", "kind", "note"].into_iter().map(|name| (name, plain(name)));
    let id = json["id"].as_i64().expect("an id");
    (id, columns.chain([("moment", moment)]).collect())
}

/// Compares a table of the workload with its topic. A transaction in `rewrites` (an ALTER TABLE that gave
/// every row a new version) may repeat values.
pub fn compare(db: &Db, target: &Target, messages: &[Message], rewrites: &[String]) -> Comparison {
    let source = final_versions(db, target);
    let mut found = Comparison { rows: source.len(), messages: messages.len(), ..Comparison::default() };
    let mut by_transaction = HashMap::new();
    let mut by_value = HashMap::new();
    let mut last: HashMap<i64, (i64, BTreeMap<&'static str, String>)> = HashMap::new();
    for message in messages {
        let (id, columns) = version(message, target.watermark);
        let place = format!("{}/{}", message.partition, message.offset);
        let mark: i64 = columns["mark"].parse().expect("a mark");
        let transaction = xid(message);
        let rewritten = rewrites.contains(&transaction);
        if let Some(other) = by_transaction.insert((id, transaction.clone()), place.clone()) {
            found.duplicated.push(format!("row {id} of transaction {transaction} at {other} and {place}: {columns:?}"));
        }
        if let Some(other) = by_value.insert((id, message.value.clone()), place.clone())
            && !rewritten
        {
            found.duplicated.push(format!("row {id}, the same value at {other} and {place}: {columns:?}"));
        }
        match source.get(&id).map(|row| row["mark"].parse::<i64>().expect("a mark")) {
            None => found.phantoms.push(format!("row {id} at {place} is not in the table: {columns:?}")),
            Some(newest) if mark > newest => {
                found.phantoms.push(format!("row {id} at {place} is newer than the table's {newest}: {columns:?}"));
            }
            Some(_) => {}
        }
        if let Some((before, _)) = last.get(&id)
            && (mark < *before || mark == *before && !rewritten)
        {
            found.disordered.push(format!("row {id} at {place}: mark {mark} after {before}"));
        }
        last.insert(id, (mark, columns));
    }
    for (id, row) in &source {
        match last.get(id) {
            Some((_, columns)) if columns == row => {}
            Some((_, columns)) => found.lost.push(format!("row {id}: {row:?}, the topic has {columns:?}")),
            None => found.lost.push(format!("row {id}: {row:?}, the topic has nothing")),
        }
    }
    found
}
