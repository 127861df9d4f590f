//! What the tests of the landing side share: configurations of `headwater land`, topics that are written
//! quickly, and the books that must balance at the end.

use crate::harness::{DEADLINE, Run, Test, eventually, kafka::read_topic, lake};
use arrow_array::{Int32Array, Int64Array};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use rdkafka::{
    ClientConfig,
    error::RDKafkaErrorCode,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

/// A landed topic, with directories of its own under `base`.
#[derive(Debug, Clone)]
pub struct Table {
    pub topic: String,
    pub path: PathBuf,
    pub checkpoints: PathBuf,
    pub dead_letters: PathBuf,
    /// Further keys of its entry in `land.tables`, each with its value.
    pub keys: Vec<(&'static str, String)>,
}

impl Table {
    /// Orders, from the catalogue of the test's database, with metadata columns.
    pub fn orders(base: &Path, topic: &str) -> Table {
        Table::new(base, topic).with("source", "{table: orders}").orders_rules()
    }

    /// Orders, by the JSON Schema at `schema`.
    pub fn orders_by_file(base: &Path, topic: &str, schema: &Path) -> Table {
        Table::new(base, topic).with("schema_file", &quoted(schema)).orders_rules()
    }

    fn new(base: &Path, topic: &str) -> Table {
        Table {
            topic: topic.to_owned(),
            path: base.join("lake").join(topic),
            checkpoints: base.join("checkpoints").join(topic),
            dead_letters: base.join("dead").join(topic),
            keys: Vec::new(),
        }
    }

    fn orders_rules(self) -> Table {
        self.with("date_column", "created_at")
            .with("not_null", "[order_id]")
            .with("non_negative", "[amount]")
            .with("metadata_columns", "true")
    }

    pub fn with(mut self, key: &'static str, value: &str) -> Table {
        self.keys.push((key, value.to_owned()));
        self
    }

    /// Where the partition's ledger stands.
    pub fn ledger(&self, partition: i32) -> PathBuf {
        self.checkpoints.join(format!("{}-{partition}", self.topic)).join("ledger")
    }

    /// The same table as seen through another root, such as that of a process's own mounts.
    pub fn seen_through(&self, root: &Path) -> Table {
        let under = |path: &Path| root.join(path.strip_prefix("/").expect("an absolute path"));
        Table {
            topic: self.topic.clone(),
            path: under(&self.path),
            checkpoints: under(&self.checkpoints),
            dead_letters: under(&self.dead_letters),
            keys: self.keys.clone(),
        }
    }

    /// Files in any staging directory of the table.
    pub fn staged(&self) -> Vec<PathBuf> {
        walk(&self.checkpoints)
            .into_iter()
            .filter(|file| file.components().any(|part| part.as_os_str() == "staging"))
            .collect()
    }

    /// Partition and offset of every landed row, one item a row.
    pub fn positions(&self) -> Vec<(i32, i64)> {
        positions(&self.path, "_kafka_partition", "_kafka_offset")
    }

    /// Partition and offset of every dead letter, one item a letter.
    pub fn dead_positions(&self) -> Vec<(i32, i64)> {
        positions(&self.dead_letters, "kafka_partition", "kafka_offset")
    }

    /// How many records have landed, dead letters included.
    pub fn landed(&self) -> usize {
        self.positions().len() + self.dead_positions().len()
    }

    /// Each of `written` is in the lake once, as a row or as a dead letter, and nothing else is; nothing is
    /// left in staging, and every file of the table stands in a partition.
    #[track_caller]
    pub fn assert_exactly(&self, written: &BTreeSet<(i32, i64)>) {
        let mut counts: BTreeMap<(i32, i64), u32> = BTreeMap::new();
        for position in self.positions().into_iter().chain(self.dead_positions()) {
            *counts.entry(position).or_default() += 1;
        }
        let lost: Vec<_> = written.iter().filter(|position| !counts.contains_key(position)).take(10).collect();
        let doubled: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).take(10).collect();
        let strange: Vec<_> = counts.keys().filter(|position| !written.contains(position)).take(10).collect();
        assert!(
            lost.is_empty() && doubled.is_empty() && strange.is_empty(),
            "{}: of {} records lost {lost:?}, doubled {doubled:?}, never written {strange:?}",
            self.topic,
            written.len()
        );
        assert_eq!(self.staged(), Vec::<PathBuf>::new(), "staging is empty");
        self.assert_layout();
    }

    /// Every file under the table and its dead letters is `date=YYYY-MM-DD/part-*.parquet`.
    #[track_caller]
    pub fn assert_layout(&self) {
        for root in [&self.path, &self.dead_letters] {
            for file in walk(root) {
                let relative = file.strip_prefix(root).expect("under its root").to_string_lossy().into_owned();
                assert!(is_partition_file(&relative), "{} stands in {}", relative, root.display());
            }
        }
    }
}

fn is_partition_file(relative: &str) -> bool {
    let Some((directory, file)) = relative.split_once('/') else { return false };
    let Some(date) = directory.strip_prefix("date=") else { return false };
    let digits = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = date.split('-');
    let is_date = parts.next().is_some_and(|year| digits(year, 4))
        && parts.next().is_some_and(|month| digits(month, 2))
        && parts.next().is_some_and(|day| digits(day, 2))
        && parts.next().is_none();
    is_date && !file.contains('/') && file.starts_with("part-") && file.ends_with(".parquet")
}

/// A file that lands `tables`; `land` holds further lines of its section, such as `rotate_ms: 200`.
pub fn land_config(test: &Test, tables: &[Table], land: &[&str]) -> String {
    let mut text = general_head(test);
    text.push_str("land:\n");
    for line in land {
        writeln!(text, "  {line}").expect("a string");
    }
    text.push_str("  tables:\n");
    for table in tables {
        writeln!(text, "    - topic: {}", table.topic).expect("a string");
        let paths = [
            ("path", &table.path),
            ("checkpoint_location", &table.checkpoints),
            ("dead_letter_path", &table.dead_letters),
        ];
        for (key, path) in paths {
            writeln!(text, "      {key}: {}", quoted(path)).expect("a string");
        }
        for (key, value) in &table.keys {
            writeln!(text, "      {key}: {value}").expect("a string");
        }
    }
    text
}

/// The sections before `capture` and `land`.
pub fn general_head(test: &Test) -> String {
    let pg = &test.postgres;
    format!(
        "pipeline: {}\npostgres: {{host: {}, port: {}, db: {}, user: {}, tls_mode: disable}}\n\
         kafka: {{brokers: \"{}\"}}\nhttp: {{listen: \"127.0.0.1:0\"}}\n",
        test.prefix, pg.host, pg.port, pg.db, pg.user, test.brokers
    )
}

pub fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

/// The orders table of the contract, in the test's database.
pub fn create_orders(test: &Test) {
    test.db().execute(
        "CREATE TABLE orders (order_id serial PRIMARY KEY, customer_name varchar, restaurant_name varchar, item varchar, \
         amount numeric, order_status varchar, created_at timestamp)",
    );
}

/// Orders as a JSON Schema file in the test's directory.
pub fn orders_schema(test: &Test) -> PathBuf {
    test.write(
        "orders.schema.json",
        r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "orders",
  "type": "object",
  "required": ["created_at"],
  "properties": {
    "order_id": {"type": ["integer", "null"]},
    "customer_name": {"type": ["string", "null"]},
    "restaurant_name": {"type": ["string", "null"]},
    "item": {"type": ["string", "null"]},
    "amount": {"type": ["number", "null"], "x-decimal": {"precision": 38, "scale": 18}},
    "order_status": {"type": ["string", "null"]},
    "created_at": {"type": "string", "format": "date-time"}
  }
}
"#,
    )
}

/// A good order of the given day.
pub fn order(id: i64, created_at: &str) -> String {
    format!(
        "{{\"order_id\":{id},\"customer_name\":\"Asha Rao\",\"restaurant_name\":\"Burger Junction\",\"item\":\"Veg Burger\",\
         \"amount\":{}.50,\"order_status\":\"PLACED\",\"created_at\":\"{created_at}\"}}",
        id % 900
    )
}

/// A record as it is put on a topic, header values that are null included.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Raw {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Writes records as they come, and waits until the broker has them all.
pub struct Writer {
    producer: BaseProducer,
    topic: String,
}

impl Writer {
    pub fn new(brokers: &str, topic: &str) -> Writer {
        Writer::with(brokers, topic, &[])
    }

    /// With further settings of the client.
    pub fn with(brokers: &str, topic: &str, settings: &[(&str, &str)]) -> Writer {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("linger.ms", "20")
            .set("compression.type", "lz4")
            .set("message.max.bytes", "20000000")
            .set("queue.buffering.max.messages", "200000");
        settings.iter().for_each(|(key, value)| {
            config.set(*key, *value);
        });
        let producer = config.create().expect("a producer");
        Writer { producer, topic: topic.to_owned() }
    }

    pub fn send(&self, record: &Raw) {
        self.put(record, None);
    }

    /// With a timestamp of its own, milliseconds since 1970.
    pub fn send_at(&self, record: &Raw, timestamp_ms: i64) {
        self.put(record, Some(timestamp_ms));
    }

    fn put(&self, record: &Raw, timestamp_ms: Option<i64>) {
        let headers = record
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() }));
        let mut outgoing = BaseRecord::<[u8], [u8]>::to(&self.topic).partition(record.partition).headers(headers);
        outgoing.key = record.key.as_deref();
        outgoing.payload = record.value.as_deref();
        outgoing.timestamp = timestamp_ms;
        while let Err((error, back)) = self.producer.send(outgoing) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            self.producer.poll(Duration::from_millis(10));
            outgoing = back;
        }
        self.producer.poll(Duration::ZERO);
    }

    /// A payload under the key `id`.
    pub fn order(&self, partition: i32, id: i64, created_at: &str) {
        self.send(&Raw {
            partition,
            key: Some(id.to_string().into_bytes()),
            value: Some(order(id, created_at).into_bytes()),
            headers: Vec::new(),
        });
    }

    pub fn flush(&self) {
        self.producer.flush(DEADLINE).expect("every delivery");
    }
}

/// Partition and offset of everything on the topic.
pub fn written(test: &Test, topic: &str) -> BTreeSet<(i32, i64)> {
    read_topic(&test.brokers, topic, true).iter().map(|message| (message.partition, message.offset)).collect()
}

/// What `/status` says of the unit, none while it is not there yet.
pub fn unit(run: &Run, topic: &str) -> Option<Value> {
    let (_, body) = run.get("/status")?;
    let status: Value = serde_json::from_str(&body).ok()?;
    status["units"].as_array()?.iter().find(|unit| unit["stage"] == "land" && unit["unit"] == topic).cloned()
}

/// `starting`, `waiting`, `progressing`, `caught_up`, `failing` or `stopped`; empty while it is not there yet.
pub fn state(run: &Run, topic: &str) -> String {
    unit(run, topic).and_then(|unit| unit["state"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// The reason of the unit's state, empty where it has none.
pub fn reason(run: &Run, topic: &str) -> String {
    unit(run, topic).and_then(|unit| unit["reason"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// Waits until the unit is in one of `states`.
#[track_caller]
pub fn wait_for_state(run: &Run, topic: &str, states: &[&str]) {
    eventually(DEADLINE, &format!("{topic} is one of {states:?}"), || states.contains(&state(run, topic).as_str()));
}

/// Waits until `count` records of the table stand in the lake.
#[track_caller]
pub fn wait_for_landed(table: &Table, count: usize) {
    eventually(DEADLINE, &format!("{count} records of {} in the lake", table.topic), || table.landed() >= count);
}

/// Status of `/ready`, 0 where nobody answers.
pub fn ready(run: &Run) -> u16 {
    run.get("/ready").map_or(0, |(status, _)| status)
}

/// Sum of a metric's samples over all label sets that hold `label`.
pub fn metric(run: &Run, name: &str, label: &str) -> f64 {
    let (_, body) = run.get("/metrics").expect("metrics");
    body.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// A number from the environment, for longer runs.
pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn positions(root: &Path, partition: &str, offset: &str) -> Vec<(i32, i64)> {
    let mut found = Vec::new();
    for path in lake::table_files(root) {
        // A file may be renamed away from a name that was listed only if it is not part of the table.
        let Ok(file) = File::open(&path) else { continue };
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mask = ProjectionMask::columns(builder.parquet_schema(), [partition, offset]);
        for batch in builder.with_projection(mask).build().expect("a reader") {
            let batch = batch.expect("a batch");
            let column = |name| batch.column_by_name(name).unwrap_or_else(|| panic!("{name} in {}", path.display()));
            let partitions = column(partition).as_any().downcast_ref::<Int32Array>().expect("int32").values();
            let offsets = column(offset).as_any().downcast_ref::<Int64Array>().expect("int64").values();
            found.extend(partitions.iter().copied().zip(offsets.iter().copied()));
        }
    }
    found
}

/// Every file under `root`, however deep.
pub fn walk(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files.sort();
    files
}
