//! Dead letters to work on: topics of records that are refused, landed and analyzed by the built binary.

use crate::{
    analyze::scene::{Job, Scene},
    harness::{
        Run, Test,
        kafka::{Message, create_topic, read_topic},
        run::Exit,
    },
    landing::{self, Raw, Table, Writer},
};
use serde_json::{Value, json};
use std::time::Duration;

/// Long enough for a child on a machine that runs a hundred other tests.
pub const LIMIT: Duration = Duration::from_secs(120);
pub const PARTITIONS: i32 = 3;

/// A record without its place.
pub type Content = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

pub fn content(message: &Message) -> Content {
    (message.key.clone(), message.value.clone(), message.headers.clone())
}

/// Contents in an order of their own, for topics whose partitions differ.
pub fn contents<'m>(messages: impl IntoIterator<Item = &'m Message>) -> Vec<Content> {
    let mut contents: Vec<Content> = messages.into_iter().map(content).collect();
    contents.sort();
    contents
}

/// Fails where the contents differ, with the first that does and not with megabytes.
#[track_caller]
pub fn assert_same(found: &[Content], expected: &[Content], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: how many there are");
    let short = |(key, value, headers): &Content| {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(Vec::len);
        format!("key of {:?} bytes, value of {:?}, {} headers", length(key), length(value), headers.len())
    };
    if let Some((found, expected)) = found.iter().zip(expected).find(|(found, expected)| found != expected) {
        panic!("{what}: {}, and not {}", short(found), short(expected));
    }
}

/// A topic that is landed by the columns of an order.
pub struct Orders {
    pub test: Test,
    pub table: Table,
    pub file: String,
}

impl Orders {
    pub fn new() -> Orders {
        Orders::on(Test::new())
    }

    pub fn on(test: Test) -> Orders {
        let topic = test.topic("orders");
        create_topic(&test.brokers, &topic, PARTITIONS, &[("max.message.bytes", "20000000")]);
        let table = Table::orders_by_file(test.dir(), &topic, &landing::orders_schema(&test));
        let config = landing::land_config(&test, std::slice::from_ref(&table), &["rotate_ms: 500"]);
        let file = test.write("orders.yml", &config).display().to_string();
        Orders { test, table, file }
    }

    /// Writes so many records that are refused, keyed in turn, with a header that says which each is.
    pub fn write_refused(&self, count: usize) {
        let writer = Writer::new(&self.test.brokers, &self.table.topic);
        for n in 0..count {
            writer.send(&refused(n));
        }
        writer.flush();
    }

    #[track_caller]
    pub fn land(&self, more: &[&str]) {
        let arguments: Vec<&str> =
            ["land", "-c", &self.file, "--until-caught-up"].into_iter().chain(more.iter().copied()).collect();
        let mut run = Run::start(&self.test, &arguments);
        assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    }

    pub fn messages(&self) -> Vec<Message> {
        read_topic(&self.test.brokers, &self.table.topic, true)
    }

    /// Another topic to replay to.
    pub fn target(&self, name: &str, partitions: i32) -> String {
        let topic = self.test.topic(name);
        create_topic(&self.test.brokers, &topic, partitions, &[("max.message.bytes", "20000000")]);
        topic
    }

    /// `headwater dlq <command> -c FILE …`, which must end well; what it prints.
    #[track_caller]
    pub fn dlq(&self, command: &str, more: &[&str]) -> String {
        dlq(&self.test, &self.file, command, more)
    }

    /// The same as JSON.
    #[track_caller]
    pub fn json(&self, command: &str, more: &[&str]) -> Value {
        let all: Vec<&str> = more.iter().copied().chain(["--format", "json"]).collect();
        serde_json::from_str(&self.dlq(command, &all)).expect("JSON")
    }
}

/// The nth record that no order is: under a key of ten, in the partition of the key's number.
pub fn refused(n: usize) -> Raw {
    Raw {
        partition: (n % 10) as i32 % PARTITIONS,
        key: Some(format!("k{}", n % 10).into_bytes()),
        value: Some(
            format!("{{\"order_id\":{n},\"amount\":-{n}.5,\"created_at\":\"2025-01-15T12:24:00Z\"").into_bytes(),
        ),
        headers: vec![("n".to_owned(), Some(n.to_string().into_bytes()))],
    }
}

/// Orders that are landed and a chat that is analyzed, in one file. The chat is landed too, by the columns of an
/// order, so that both stages refuse some of its records.
pub fn both(orders: &Orders) -> (Scene, String) {
    // Timestamps within a day of each other are never late, in whatever order they come.
    let scene = Scene::new(vec![Job { delay_ms: 86_400_000, ..Job::quick() }]);
    let chat = Table::orders_by_file(scene.test.dir(), &scene.chat, &landing::orders_schema(&scene.test));
    let table = |table: &Table, schema: &std::path::Path| {
        json!({
            "topic": table.topic, "path": table.path, "checkpoint_location": table.checkpoints,
            "dead_letter_path": table.dead_letters, "schema_file": schema, "date_column": "created_at",
            "not_null": ["order_id"], "non_negative": ["amount"], "metadata_columns": true,
        })
    };
    let mut config = scene.config(json!({}));
    config["land"] = json!({
        "rotate_ms": 500,
        "tables": [
            table(&orders.table, &orders.test.path("orders.schema.json")),
            table(&chat, &scene.test.path("orders.schema.json")),
        ],
    });
    let file = scene.write("both.yml", &config);
    (scene, file)
}

#[track_caller]
pub fn dlq(test: &Test, file: &str, command: &str, more: &[&str]) -> String {
    let (exit, stdout, stderr) = try_dlq(test, file, command, more, &[]);
    assert_eq!(exit, Exit::Code(0), "dlq {command} {more:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    String::from_utf8(stdout).expect("text")
}

/// However it ends.
pub fn try_dlq(test: &Test, file: &str, command: &str, more: &[&str], env: &[(&str, &str)]) -> (Exit, Vec<u8>, String) {
    let arguments: Vec<&str> = ["dlq", command, "-c", file].into_iter().chain(more.iter().copied()).collect();
    let mut run = Run::with_env(test, &arguments, env);
    let exit = run.wait(LIMIT);
    (exit, run.stdout_bytes(), run.stderr())
}
