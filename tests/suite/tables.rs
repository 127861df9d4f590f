//! Any table works: its key, its names, its partitions, its filter; alone and among others that fail.

use crate::{
    harness::{DEADLINE, Test, eventually, kafka::Message, run::Exit},
    pipeline::{catch_up, committed, config, drain, said, start, write},
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The last value of each key, in the order of a partition.
fn newest(messages: &[Message]) -> BTreeMap<Vec<u8>, Value> {
    messages.iter().map(|message| (message.key.clone().expect("a key"), message.json())).collect()
}

#[test]
fn composite_keys_keep_versions_of_a_row_together() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE lines (note text, line int, \"order\" text, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (\"order\", line));
         INSERT INTO lines SELECT 'first', n % 10, 'o' || n / 10 FROM generate_series(0, 99) n;
         INSERT INTO lines VALUES ('tricky', 1, 'a\",1'), ('tricky', 11, 'a'), ('tricky', 1, 'a1'), ('tricky', 1, 'a,1')",
    );
    let tables = json!([{"table": "lines", "topic": test.topic("lines"), "watermark": "at", "partitions": 5}]);
    let file = write(&test, "capture.yml", &config(&test, json!({}), tables));
    catch_up(&test, &file, &[]);
    for n in 0..3 {
        db.execute(&format!("UPDATE lines SET note = 'version {n}', at = now() WHERE line < 5"));
        catch_up(&test, &file, &[]);
    }
    let messages = committed(&test, &test.topic("lines"));
    assert_eq!(messages.len(), 104 + 3 * 53);
    let mut identities: BTreeMap<Vec<u8>, BTreeSet<(String, i32)>> = BTreeMap::new();
    for message in &messages {
        let json = message.json();
        let identity = format!("{}/{}", json["order"], json["line"]);
        identities.entry(message.key.clone().expect("a key")).or_default().insert((identity, message.partition));
    }
    assert_eq!(identities.len(), 104, "a key for each row");
    assert!(identities.values().all(|rows| rows.len() == 1), "each key is one row's, in one partition");
    let last = newest(&messages);
    assert_eq!(last.values().filter(|row| row["note"] == "version 2").count(), 53);
}

#[test]
fn a_table_without_a_primary_key_asks_for_key_columns() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE loose (a int NOT NULL, b text NOT NULL, at timestamptz NOT NULL DEFAULT now());
         INSERT INTO loose SELECT n, 'b' || n % 3 FROM generate_series(1, 30) n",
    );
    let mut table = json!({"table": "loose", "topic": test.topic("loose"), "watermark": "at"});
    let file = write(&test, "capture.yml", &config(&test, json!({}), json!([table])));
    let mut stopped = start(&test, &file, &["--until-caught-up"], &[]);
    assert_eq!(stopped.wait(DEADLINE), Exit::Code(1), "{}", said(&stopped));
    let reason = said(&stopped);
    assert!(reason.contains("loose") && reason.contains("primary key") && reason.contains("key columns"), "{reason}");

    table["key"] = json!(["b", "a"]);
    let file = write(&test, "capture.yml", &config(&test, json!({"chunk_rows": 7}), json!([table])));
    catch_up(&test, &file, &[]);
    db.execute("INSERT INTO loose VALUES (31, 'b')");
    catch_up(&test, &file, &[]);
    let messages = committed(&test, &test.topic("loose"));
    assert_eq!((messages.len(), newest(&messages).len()), (31, 31));
}

/// Names as people and programs have made them.
const ODD_NAMES: &[&str] = &[
    "2025em1100506_orders",
    "Order Items",
    "a.b",
    "quo\"te",
    "it's",
    "back\\slash",
    "select",
    "größe 漢字 😀",
    "100% {x} $1 %s",
    " leading and trailing ",
    "tab\tand\nnewline",
    "xmin?",
    "a-very-long-name-that-has-exactly-as-many-bytes-as-there-may-be",
];

#[test]
fn quoted_and_odd_names_work_everywhere() {
    let test = Test::new();
    let db = test.db();
    let quote = |name: &str| headwater::postgres::quote_ident(name);
    let mut tables = Vec::new();
    for (n, name) in ODD_NAMES.iter().enumerate() {
        // The same name for schema, table and columns; the suffix keeps the columns apart.
        let (schema, table) = (quote(name), quote(name));
        let column = |suffix: &str| quote(&format!("{}{suffix}", name.chars().take(25).collect::<String>()));
        db.execute(&format!(
            "CREATE SCHEMA {schema};
             CREATE TABLE {schema}.{table} ({} int, {} text, {} timestamptz NOT NULL DEFAULT now(), PRIMARY KEY ({1}, {0}));
             INSERT INTO {schema}.{table} SELECT n, 'k' || n FROM generate_series(1, 25) n",
            column("1"),
            column("2"),
            column("3"),
        ));
        tables.push(json!({
            "schema": name,
            "table": name,
            "topic": test.topic(&format!("odd{n}")),
            "watermark": format!("{}3", name.chars().take(25).collect::<String>()),
        }));
    }
    let file = write(&test, "capture.yml", &config(&test, json!({"chunk_rows": 10}), json!(tables)));
    catch_up(&test, &file, &[]);
    for name in ODD_NAMES {
        let column = quote(&format!("{}1", name.chars().take(25).collect::<String>()));
        db.execute(&format!(
            "INSERT INTO {0}.{0} ({column}, {1}) VALUES (26, 'k')",
            quote(name),
            quote(&format!("{}2", name.chars().take(25).collect::<String>()))
        ));
    }
    catch_up(&test, &file, &[]);
    for (n, name) in ODD_NAMES.iter().enumerate() {
        let messages = committed(&test, &test.topic(&format!("odd{n}")));
        let short: String = name.chars().take(25).collect();
        assert_eq!(messages.len(), 26, "{name:?}");
        let numbers: BTreeSet<i64> =
            messages.iter().filter_map(|message| message.json()[format!("{short}1")].as_i64()).collect();
        assert_eq!(numbers.len(), 26, "{name:?}");
    }
}

#[test]
fn partitioned_tables_are_one_table() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE events (id int, region text, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE events_north PARTITION OF events FOR VALUES IN ('north');
         CREATE TABLE events_south PARTITION OF events FOR VALUES IN ('south') PARTITION BY HASH (id);
         CREATE TABLE events_south_0 PARTITION OF events_south FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE events_south_1 PARTITION OF events_south FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO events SELECT n, (ARRAY['north', 'south'])[1 + n % 2], now() - interval '1 day' FROM generate_series(1, 200) n",
    );
    let tables = json!([{"table": "events", "topic": test.topic("events"), "watermark": "at"}]);
    let file = write(&test, "capture.yml", &config(&test, json!({"chunk_rows": 30}), tables));
    let mut run = start(&test, &file, &[], &[]);
    let count = |wanted: usize| {
        eventually(DEADLINE, &format!("{wanted} messages"), || committed(&test, &test.topic("events")).len() >= wanted);
    };
    count(200);
    // A partition made while the capture runs, and rows that move from one partition to another.
    db.execute(
        "CREATE TABLE events_east PARTITION OF events FOR VALUES IN ('east');
         INSERT INTO events SELECT n, 'east' FROM generate_series(201, 250) n;",
    );
    count(250);
    db.execute("UPDATE events SET region = 'east', at = now() WHERE id <= 20");
    count(270);
    drain(&mut run);
    catch_up(&test, &file, &[]);
    let messages = committed(&test, &test.topic("events"));
    assert_eq!(messages.len(), 270);
    let east = messages.iter().filter(|message| message.json()["region"] == "east").count();
    assert_eq!(east, 70);
}

#[test]
fn a_filter_and_a_column_list_choose_what_is_published() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE people (id int PRIMARY KEY, name text, secret text, age int, at timestamptz NOT NULL DEFAULT now());
         INSERT INTO people SELECT n, 'name ' || n, 'secret', n, now() - interval '1 day' FROM generate_series(1, 100) n;
         CREATE TABLE ghosts (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
         INSERT INTO ghosts SELECT generate_series(1, 50)",
    );
    let tables = json!([
        {"table": "people", "topic": test.topic("adults"), "watermark": "at", "where": "age >= 18 AND name <> 'it''s; -- \"odd\"' OR false", "columns": ["name", "age"]},
        {"table": "ghosts", "topic": test.topic("nobody"), "watermark": "at", "where": "id < 0"},
    ]);
    let file = write(&test, "capture.yml", &config(&test, json!({"chunk_rows": 10}), tables));
    catch_up(&test, &file, &[]);
    db.execute("INSERT INTO people VALUES (101, 'young', 's', 3), (102, 'old', 's', 70)");
    catch_up(&test, &file, &[]);
    let messages = committed(&test, &test.topic("adults"));
    assert_eq!(messages.len(), 84);
    for message in &messages {
        let json = message.json();
        let names: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
        assert!(json["age"].as_i64().is_some_and(|age| age >= 18), "{json}");
        assert!(json.get("secret").is_none(), "a column that is not in the list: {names:?}");
        assert!(json.get("id").is_some() && json.get("at").is_some(), "key and watermark are always there: {names:?}");
    }
    // Filtered to nothing, the other is caught up all the same, and goes on when a row comes.
    assert_eq!(committed(&test, &test.topic("nobody")).len(), 0);
    db.execute("INSERT INTO ghosts VALUES (51), (-1)");
    catch_up(&test, &file, &[]);
    assert_eq!(committed(&test, &test.topic("nobody")).len(), 1);

    let wrong =
        json!([{"table": "people", "topic": test.topic("wrong"), "watermark": "at", "where": "no_such_column = 1"}]);
    let keys = json!({"checkpoint_topic": test.topic("wrong-checkpoints")});
    let file = write(&test, "wrong.yml", &config(&test, keys, wrong));
    let mut stopped = start(&test, &file, &["--until-caught-up"], &[]);
    assert_eq!(stopped.wait(DEADLINE), Exit::Code(1), "{}", said(&stopped));
    assert!(said(&stopped).contains("no_such_column"), "{}", said(&stopped));
}

#[test]
fn rows_without_a_watermark_come_with_the_first_load() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE sparse (id int PRIMARY KEY, at timestamp);
         INSERT INTO sparse SELECT n, CASE WHEN n % 3 = 0 THEN NULL ELSE now() - interval '1 day' END FROM generate_series(1, 300) n",
    );
    let tables = json!([{"table": "sparse", "topic": test.topic("sparse"), "watermark": "at"}]);
    let file = write(&test, "capture.yml", &config(&test, json!({"chunk_rows": 40}), tables));
    catch_up(&test, &file, &[]);
    let messages = committed(&test, &test.topic("sparse"));
    assert_eq!((messages.len(), newest(&messages).len()), (300, 300));
    assert_eq!(messages.iter().filter(|message| message.json()["at"].is_null()).count(), 100);
    db.execute("UPDATE sparse SET at = now() WHERE id <= 30");
    catch_up(&test, &file, &[]);
    assert_eq!(committed(&test, &test.topic("sparse")).len(), 330);
}

#[test]
fn the_last_processed_timestamp_is_written_for_people() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE orders (order_id serial PRIMARY KEY, created_at timestamp NOT NULL);
         INSERT INTO orders (created_at) VALUES ('2025-01-15 12:24:00'), ('2025-01-15 12:24:07.25')",
    );
    let location = test.path("lastprocess/orders");
    let tables = json!([{"table": "orders", "topic": test.topic("orders"), "watermark": "created_at"}]);
    let keys = json!({"last_processed_timestamp_location": location});
    let file = write(&test, "capture.yml", &config(&test, keys, tables));
    catch_up(&test, &file, &[]);
    let content = || {
        let file = if location.is_dir() { location.join("public.orders") } else { location.clone() };
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    assert_eq!(content().trim(), "2025-01-15T12:24:07.25Z");
    db.execute("INSERT INTO orders (created_at) VALUES (now())");
    catch_up(&test, &file, &[]);
    let written: chrono::DateTime<chrono::Utc> = content().trim().parse().expect("an ISO timestamp");
    assert!((chrono::Utc::now() - written).num_seconds() < 60, "{written}");

    // It is never read back: whatever stands there, nothing is published twice.
    for text in ["nonsense", "1999-01-01T00:00:00Z"] {
        let file_on_disk = if location.is_dir() { location.join("public.orders") } else { location.clone() };
        std::fs::write(&file_on_disk, text).expect("the file");
        catch_up(&test, &file, &[]);
        assert_eq!(committed(&test, &test.topic("orders")).len(), 3);
    }
}
