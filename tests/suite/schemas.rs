//! Columns: those of a JSON Schema file, those that a captured table gains while it runs, and fields that have none.

use crate::harness::{DEADLINE, Run, Test, eventually, kafka::create_topic, lake, run::Exit};
use crate::landing::{self, Raw, Table, Writer};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn write(test: &Test, table: &Table, payloads: &[Value]) {
    let writer = Writer::new(&test.brokers, &table.topic);
    for payload in payloads {
        writer.send(&Raw { value: Some(payload.to_string().into_bytes()), ..Raw::default() });
    }
    writer.flush();
}

/// Rows in the order of the topic.
fn rows(table: &Table) -> Vec<lake::Row> {
    let mut rows = lake::read_table(&table.path);
    rows.sort_by_key(|row| row["_kafka_offset"].as_i64());
    rows
}

fn land(test: &Test, table: &Table, arguments: &[&str]) -> Run {
    let config = landing::land_config(test, std::slice::from_ref(table), &["rotate_ms: 200"]);
    let file = test.write("land.yml", &config).display().to_string();
    Run::start(test, &[&["land", "-c", &file], arguments].concat())
}

/// A table by a schema of the test's own, of events that have an id and a time.
fn by_schema(test: &Test, schema: &str) -> Table {
    let file = test.write("events.schema.json", schema);
    let mut table = Table::orders_by_file(test.dir(), &test.topic("events"), &file);
    table.keys.retain(|(key, _)| *key == "schema_file" || *key == "metadata_columns");
    create_topic(&test.brokers, &table.topic, 1, &[]);
    table.with("date_column", "at").with("not_null", "[id]")
}

#[test]
fn a_json_schema_names_columns_and_rules() {
    let test = Test::new();
    let table = by_schema(
        &test,
        r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "events", "type": "object",
            "required": ["id", "at", "rating"],
            "properties": {
                "id": {"type": ["string", "null"], "description": "of the event"},
                "at": {"type": "string", "format": "date-time"},
                "rating": {"type": "integer", "minimum": 1, "maximum": 5},
                "price": {"type": ["number", "null"], "x-decimal": {"precision": 10, "scale": 2}},
                "ratio": {"type": "number"},
                "is_new": {"type": "boolean"},
                "day": {"type": ["string", "null"], "format": "date"},
                "status": {"type": "string", "enum": ["open", "closed"]},
                "tags": {"type": ["array", "null"]},
                "place": {"type": "object"}}}"#,
    );
    let full = json!({"id": "a", "at": "2025-01-15T12:24:00Z", "rating": 5, "price": 12.5, "ratio": 0.25, "is_new": true,
        "day": "2025-02-28", "status": "open", "tags": ["x", 1], "place": {"city": "Pune", "no": [1, null]}});
    let change = |field: &str, value: Value| {
        let mut changed = full.clone();
        changed[field] = value;
        changed
    };
    let without = |field: &str| {
        let mut changed = full.clone();
        changed.as_object_mut().expect("an object").remove(field);
        changed
    };
    let good = [full.clone(), without("price"), change("day", Value::Null), without("place"), without("status")];
    let bad = [
        (without("rating"), "missing_required_field"),
        (without("id"), "null_key"),
        (change("id", Value::Null), "null_key"),
        (without("at"), "missing_required_field"),
        (change("at", json!("yesterday")), "invalid_timestamp"),
        (change("rating", json!(0)), "schema_validation_failed"),
        (change("rating", json!(6)), "schema_validation_failed"),
        (change("rating", json!("5")), "schema_validation_failed"),
        (change("rating", Value::Null), "schema_validation_failed"),
        (change("price", json!(0.005)), "schema_validation_failed"),
        (change("ratio", json!("0.25")), "schema_validation_failed"),
        (change("is_new", json!(1)), "schema_validation_failed"),
        (change("day", json!("2025-02-29")), "schema_validation_failed"),
        (change("status", json!("half")), "schema_validation_failed"),
        (change("status", json!("Open")), "schema_validation_failed"),
        (change("tags", json!({"x": 1})), "schema_validation_failed"),
        (change("place", json!("Pune")), "schema_validation_failed"),
    ];
    write(&test, &table, &good);
    write(&test, &table, &bad.iter().map(|(payload, _)| payload.clone()).collect::<Vec<_>>());
    let mut run = land(&test, &table, &["--until-caught-up"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0));
    let mut letters = lake::dead_letters(&table.dead_letters);
    letters.sort_by_key(|letter| letter.offset);
    let found: Vec<(Value, &str)> = letters
        .iter()
        .map(|letter| {
            let payload = serde_json::from_slice(letter.payload.as_deref().expect("a payload")).expect("JSON");
            (payload, letter.reason.as_str())
        })
        .collect();
    assert_eq!(found, bad, "every bad one, and why");
    let rows = rows(&table);
    assert_eq!(rows.len(), good.len());
    for (column, value) in [
        ("id", json!("a")),
        ("rating", json!(5)),
        ("ratio", json!(0.25)),
        ("is_new", json!(true)),
        ("at", json!("2025-01-15T12:24:00Z")),
        ("day", json!("2025-02-28")),
        ("status", json!("open")),
    ] {
        assert_eq!(rows[0][column], value, "{column}");
    }
    assert_eq!(rows[0]["price"].to_string(), "12.50");
    for column in ["tags", "place"] {
        let text = rows[0][column].as_str().expect("JSON as text");
        assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), full[column], "{column}");
    }
    for (n, column) in [(1, "price"), (2, "day"), (3, "place"), (4, "status")] {
        assert!(rows[n][column].is_null(), "{column} of row {n}");
    }
    table.assert_exactly(&landing::written(&test, &table.topic));
}

#[test]
fn a_schema_with_rules_that_would_not_be_enforced_is_refused_at_start() {
    let keywords = [
        ("patternProperties", "{}"),
        ("additionalProperties", "false"),
        ("allOf", "[]"),
        ("if", "{}"),
        ("dependentRequired", "{}"),
        ("minProperties", "1"),
        ("$defs", "{}"),
        ("misspelt", "1"),
    ];
    for (keyword, value) in keywords {
        refused(keyword, &format!("\"{keyword}\": {value}, \"properties\": {{\"id\": {{\"type\": \"string\"}}, $at}}"));
    }
    let rules = [
        ("pattern", "\"type\": \"string\", \"pattern\": \"x\""),
        ("maxLength", "\"type\": \"string\", \"maxLength\": 5"),
        ("$ref", "\"$ref\": \"#/x\""),
        ("oneOf", "\"oneOf\": []"),
        ("email", "\"type\": \"string\", \"format\": \"email\""),
        ("multipleOf", "\"type\": \"integer\", \"multipleOf\": 2"),
        ("items", "\"type\": \"array\", \"items\": {\"type\": \"string\"}"),
    ];
    for (keyword, rule) in rules {
        refused(keyword, &format!("\"properties\": {{\"id\": {{{rule}}}, $at}}"));
    }
}

/// A landing by the schema of these members ends with an error that names the file and the word.
#[track_caller]
fn refused(word: &str, members: &str) {
    let members = members.replace("$at", "\"at\": {\"type\": \"string\", \"format\": \"date-time\"}");
    let test = Test::new();
    let table = by_schema(&test, &format!("{{\"type\": \"object\", {members}}}"));
    write(&test, &table, &[json!({"id": "a", "at": "2025-01-15T12:24:00Z"})]);
    let mut run = land(&test, &table, &["--until-caught-up"]);
    let exit = run.wait(LIMIT);
    assert!(matches!(exit, Exit::Code(1 | 78)), "{word}: {exit:?}");
    let said = run.stderr();
    assert!(said.contains(word) && said.contains("events.schema.json"), "{word}: {said}");
    assert_eq!(table.landed(), 0);
}

#[test]
fn unknown_fields_are_counted() {
    let test = Test::new();
    landing::create_orders(&test);
    let table = Table::orders(test.dir(), &test.topic("orders"));
    create_topic(&test.brokers, &table.topic, 1, &[]);
    let plain: Value = serde_json::from_str(&landing::order(1, "2025-01-15T12:24:00Z")).expect("JSON");
    let mut odd = plain.clone();
    odd["tip"] = json!(5);
    odd["note"] = json!({"a": [1, 2]});
    write(&test, &table, &[plain.clone(), odd.clone(), odd, plain]);
    let run = land(&test, &table, &[]);
    landing::wait_for_landed(&table, 4);
    eventually(DEADLINE, "four unknown fields are counted", || {
        landing::metric(&run, "headwater_land_unknown_fields_total", &table.topic) == 4.0
    });
    assert_eq!(table.dead_positions(), []);
    assert!(rows(&table).iter().all(|row| !row.contains_key("tip") && row["order_id"] == 1));
}

#[test]
fn unknown_fields_are_kept_where_there_is_a_column_for_them() {
    let test = Test::new();
    landing::create_orders(&test);
    let table = Table::orders(test.dir(), &test.topic("orders")).with("overflow_column", "rest");
    create_topic(&test.brokers, &table.topic, 1, &[]);
    let plain: Value = serde_json::from_str(&landing::order(1, "2025-01-15T12:24:00Z")).expect("JSON");
    let more =
        json!({"tip": 5.00, "a \"quoted\" name\n": null, "note": {"a": [1, {"b": "é"}]}, "": "empty", "big": 1e300});
    let mut odd = plain.clone();
    odd.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    write(&test, &table, &[plain, odd]);
    let mut run = land(&test, &table, &["--until-caught-up"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0));
    let rows = rows(&table);
    assert_eq!(rows.len(), 2);
    assert!(rows[0]["rest"].is_null(), "nothing to keep: {}", rows[0]["rest"]);
    let kept: Value = serde_json::from_str(rows[1]["rest"].as_str().expect("text")).expect("JSON");
    assert_eq!(kept, more);
}

#[test]
fn a_column_added_while_it_runs_lands_from_its_first_row() {
    let test = Test::new();
    landing::create_orders(&test);
    let table = Table::orders(test.dir(), &test.topic("orders"));
    let mut config = landing::land_config(&test, std::slice::from_ref(&table), &["rotate_ms: 200"]);
    config.push_str(&format!(
        "capture:\n  poll_interval_ms: 100\n  slack_ms: 1000\n  tables:\n    \
         - {{table: orders, topic: {}, watermark: created_at, partitions: 3}}\n",
        table.topic
    ));
    let file = test.write("run.yml", &config).display().to_string();
    let db = test.db();
    let insert = |count: u32, columns: &str, values: &str| {
        format!(
            "INSERT INTO orders (customer_name, amount, order_status, created_at{columns}) \
             SELECT 'Asha', n, 'PLACED', now() AT TIME ZONE 'UTC'{values} FROM generate_series(1, {count}) n;"
        )
    };
    db.execute(&insert(500, "", ""));
    let mut run = Run::start(&test, &["run", "-c", &file]);
    landing::wait_for_landed(&table, 500);
    // In one transaction, so that the first message with the column comes before anybody could know of it.
    db.execute(&format!(
        "BEGIN; ALTER TABLE orders ADD COLUMN note text; {} COMMIT",
        insert(500, ", note", ", 'n' || n")
    ));
    landing::wait_for_landed(&table, 1_000);
    db.execute("ALTER TABLE orders ADD COLUMN tip numeric(8, 2)");
    db.execute(&insert(500, ", note, tip", ", 'n' || n, n + 0.25"));
    landing::wait_for_landed(&table, 1_500);
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));

    table.assert_exactly(&landing::written(&test, &table.topic));
    assert_eq!(table.dead_positions(), []);
    let rows = lake::read_table(&table.path);
    assert_eq!(rows.len(), 1_500);
    let value = |row: &lake::Row, column: &str| row.get(column).cloned().unwrap_or(Value::Null);
    for row in rows {
        let id = row["order_id"].as_i64().expect("an id");
        let n = (id - 1) % 500 + 1;
        let note = if id > 500 { json!(format!("n{n}")) } else { Value::Null };
        let tip = if id > 1_000 { format!("{n}.25") } else { "null".to_owned() };
        assert_eq!((value(&row, "note"), value(&row, "tip").to_string()), (note, tip), "order {id}");
    }
}
