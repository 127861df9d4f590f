//! The lake is read by others: pyarrow, DuckDB and Polars see the same rows, types and partitions as we wrote.

use crate::harness::{Run, Test, kafka::create_topic, run::Exit};
use crate::landing::{self, Raw, Table, Writer};
use serde_json::{Value, json};
use std::{path::Path, process::Command, sync::OnceLock, time::Duration};

pub const READERS: [&str; 3] = ["pyarrow", "duckdb", "polars"];
const LIMIT: Duration = Duration::from_secs(60);

/// The interpreter that has the readers; installs them where they are missing.
fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/python.sh");
        let output = Command::new(script).output().expect("scripts/python.sh");
        assert!(output.status.success(), "scripts/python.sh: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a path").trim().to_owned()
    })
}

/// Types and rows of the table at `root`, as `reader` sees them.
pub fn read(reader: &str, root: &Path) -> (Value, Vec<Value>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/readers.py");
    let output = Command::new(python()).arg(script).arg(reader).arg(root).output().expect("python");
    assert!(output.status.success(), "{reader}: {}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    (found["types"].clone(), found["rows"].as_array().expect("rows").clone())
}

/// What is on the topic, and what every reader must find in the lake.
fn samples() -> Vec<(Value, Value)> {
    let row = |id: i64, text: &str, amount: &str, landed: Value, at: &str, micros: i64, date: &str| {
        let amount: Value = serde_json::from_str(amount).expect("a number or null");
        let sent = json!({"order_id": id, "customer_name": text, "restaurant_name": null, "item": "", "amount": amount,
            "order_status": "PLACED", "created_at": at});
        let found = json!({"order_id": id, "customer_name": text, "restaurant_name": null, "item": "", "amount": landed,
            "order_status": "PLACED", "created_at": micros, "date": date});
        (sent, found)
    };
    let exact = "12345678901234567890.123456789012345678";
    vec![
        row(1, "John Doe", "220.0", json!("220"), "2025-01-15T12:24:00Z", 1_736_943_840_000_000, "2025-01-15"),
        row(2, "आशा राव 🍔", "0.1", json!("0.1"), "2025-01-15T23:59:59.999999Z", 1_736_985_599_999_999, "2025-01-15"),
        row(3, "José \"Pepe\"\n\t\\", exact, json!(exact), "2025-01-16T00:00:00Z", 1_736_985_600_000_000, "2025-01-16"),
        row(
            4,
            "\u{0}\u{7f}\u{2028}",
            "null",
            Value::Null,
            "2024-02-29T00:00:00.000001Z",
            1_709_164_800_000_001,
            "2024-02-29",
        ),
        row(
            5,
            "",
            "0.000000000000000001",
            json!("0.000000000000000001"),
            "1969-12-31T23:59:59.5Z",
            -500_000,
            "1969-12-31",
        ),
        row(
            2_147_483_647,
            "x",
            "99999999999999999999",
            json!("99999999999999999999"),
            "2025-01-16T05:29:59+05:30",
            1_736_985_599_000_000,
            "2025-01-15",
        ),
        row(-7, "x", "0", json!("0"), "1900-01-01T00:00:00Z", -2_208_988_800_000_000, "1900-01-01"),
    ]
}

fn land(test: &Test, table: &Table) {
    let config = landing::land_config(test, std::slice::from_ref(table), &["rotate_ms: 500"]);
    let file = test.write("land.yml", &config);
    let mut run = Run::start(test, &["land", "-c", &file.display().to_string(), "--until-caught-up"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0));
}

fn write(test: &Test, topic: &str, payloads: &[Vec<u8>]) {
    let writer = Writer::new(&test.brokers, topic);
    for payload in payloads {
        writer.send(&Raw { key: Some(b"k".to_vec()), value: Some(payload.clone()), ..Raw::default() });
    }
    writer.flush();
}

#[test]
fn pyarrow_duckdb_and_polars_read_the_table_with_its_partitions() {
    let test = Test::new();
    landing::create_orders(&test);
    let table = Table::orders(test.dir(), &test.topic("orders"));
    create_topic(&test.brokers, &table.topic, 1, &[]);
    let samples = samples();
    let payloads: Vec<Vec<u8>> = samples.iter().map(|(sent, _)| sent.to_string().into_bytes()).collect();
    write(&test, &table.topic, &payloads);
    land(&test, &table);

    let expected_types = [
        ("pyarrow", ["int64", "string", "decimal128(38, 18)", "timestamp[us, tz=UTC]", "date32[day]"]),
        ("duckdb", ["BIGINT", "VARCHAR", "DECIMAL(38,18)", "TIMESTAMP WITH TIME ZONE", "DATE"]),
        (
            "polars",
            ["Int64", "String", "Decimal(precision=38, scale=18)", "Datetime(time_unit='us', time_zone='UTC')", "Date"],
        ),
    ];
    for (reader, expected) in expected_types {
        let (types, mut rows) = read(reader, &table.path);
        let found = ["order_id", "customer_name", "amount", "created_at", "date"].map(|column| types[column].clone());
        assert_eq!(found, expected.map(Value::from), "{reader}'s types");
        rows.sort_by_key(|row| row["_kafka_offset"].as_i64());
        for (n, (row, (_, expected))) in rows.iter().zip(&samples).enumerate() {
            for (column, value) in expected.as_object().expect("a row") {
                assert_eq!(&row[column], value, "{reader}: {column} of row {n}");
            }
            assert_eq!((&row["_kafka_partition"], &row["_kafka_offset"]), (&json!(0), &json!(n)), "{reader}");
            assert!(row["_processing_time"].as_i64() > Some(1_700_000_000_000_000), "{reader}: {row}");
        }
        assert_eq!(rows.len(), samples.len(), "{reader} sees every row once");
    }
}

#[test]
fn pyarrow_duckdb_and_polars_read_the_dead_letters() {
    let test = Test::new();
    landing::create_orders(&test);
    let table = Table::orders(test.dir(), &test.topic("orders"));
    create_topic(&test.brokers, &table.topic, 1, &[]);
    let payloads = [b"not json \xff\x00".to_vec(), landing::order(1, "yesterday").into_bytes(), Vec::new()];
    write(&test, &table.topic, &payloads);
    land(&test, &table);
    for reader in READERS {
        let (_, mut rows) = read(reader, &table.dead_letters);
        rows.sort_by_key(|row| row["kafka_offset"].as_i64());
        let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let found: Vec<_> = rows.iter().map(|row| row["raw_payload"].clone()).collect();
        assert_eq!(found, payloads.iter().map(|bytes| json!(hex(bytes))).collect::<Vec<_>>(), "{reader}");
        assert_eq!(rows[0]["error_reason"], "schema_validation_failed", "{reader}");
        assert_eq!(rows[1]["error_reason"], "invalid_timestamp", "{reader}");
        assert_eq!(rows[1]["key"], "6b", "{reader}");
    }
}

#[test]
fn a_column_that_came_later_is_null_in_the_older_files() {
    let test = Test::new();
    landing::create_orders(&test);
    let table = Table::orders(test.dir(), &test.topic("orders"));
    create_topic(&test.brokers, &table.topic, 1, &[]);
    let plain = landing::order(1, "2025-01-15T12:24:00Z");
    write(&test, &table.topic, &[plain.clone().into_bytes()]);
    land(&test, &table);
    test.db().execute("ALTER TABLE orders ADD COLUMN tip numeric(6, 2), ADD COLUMN note text");
    let wide = plain.replace("Z\"}", "Z\",\"tip\":2.50,\"note\":\"ring twice\"}");
    write(&test, &table.topic, &[wide.into_bytes()]);
    land(&test, &table);
    for reader in READERS {
        let (_, mut rows) = read(reader, &table.path);
        rows.sort_by_key(|row| row["_kafka_offset"].as_i64());
        let found: Vec<_> = rows.iter().map(|row| (row["tip"].clone(), row["note"].clone())).collect();
        assert_eq!(found, [(Value::Null, Value::Null), (json!("2.5"), json!("ring twice"))], "{reader}");
    }
}
