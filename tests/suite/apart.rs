//! One table's trouble is its own: the rows of another go on while it lasts, and its own follow when it is over.

use crate::{
    doctor::{cures, rights::guarded},
    harness::{
        DEADLINE, Db, Run, Test, eventually, eventually_some,
        kafka::{create_topic, end_offsets, topics},
        run::Exit,
    },
    pipeline::{committed, config, drain, start, write},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::json;
use std::{path::PathBuf, time::Duration};

/// Two tables of one capture: `good`, and `bad`, which something befalls.
struct Scene {
    test: Test,
    db: Db,
    file: PathBuf,
}

impl Scene {
    fn new(capture: serde_json::Value, condition: Option<&str>) -> Scene {
        Scene::on(Test::new(), capture, condition, json!({}))
    }

    /// `kafka` are further keys of that section.
    fn on(test: Test, capture: serde_json::Value, condition: Option<&str>, kafka: serde_json::Value) -> Scene {
        let db = test.db();
        for table in ["good", "bad"] {
            db.execute(&format!(
                "CREATE TABLE {table} (id text PRIMARY KEY, note text, n int NOT NULL DEFAULT 1, at timestamptz NOT NULL DEFAULT now())"
            ));
        }
        let table = |name: &str| json!({"table": name, "topic": test.topic(name), "watermark": "at"});
        let mut bad = table("bad");
        if let Some(condition) = condition {
            bad["where"] = json!(condition);
        }
        // The one in trouble comes first in every poll.
        let mut config = config(&test, capture, json!([bad, table("good")]));
        if let (Some(section), Some(more)) = (config["kafka"].as_object_mut(), kafka.as_object()) {
            section.extend(more.clone());
        }
        let file = write(&test, "capture.yml", &config);
        Scene { test, db, file }
    }

    fn start(&self) -> Run {
        start(&self.test, &self.file, &[], &[])
    }

    fn add(&self, table: &str, id: &str, note: &str) {
        self.db.execute(&format!("INSERT INTO {table} (id, note) VALUES ({id}, {note})"));
    }

    fn has(&self, table: &str, id: &str) -> bool {
        committed(&self.test, &self.test.topic(table)).iter().any(|message| message.json()["id"] == id)
    }

    fn wait_for(&self, table: &str, id: &str) {
        eventually(DEADLINE, &format!("row {id} of {table} in its topic"), || self.has(table, id));
    }

    /// State and reason of a table.
    fn state(&self, run: &Run, table: &str) -> (String, String) {
        let status = eventually_some(DEADLINE, "a status", || run.get("/status"));
        let status: serde_json::Value = serde_json::from_str(&status.1).expect("JSON");
        let units = status["units"].as_array().expect("units");
        let unit = units.iter().find(|unit| unit["unit"] == table);
        let text = |key: &str| unit.unwrap_or(&serde_json::Value::Null)[key].as_str().unwrap_or_default().to_owned();
        (text("state"), text("reason"))
    }

    /// While the trouble lasts, rows of the good table come, again and again, and the other one says what is wrong.
    fn others_go_on(&self, run: &Run, expected: &str) {
        eventually(DEADLINE, &format!("{expected:?} as the reason"), || {
            self.state(run, "bad").1.contains(expected) || run.stderr().contains(expected)
        });
        for _ in 0..3 {
            let id = format!("good {}", self.db.count("SELECT count(*) FROM good"));
            self.add("good", &format!("'{id}'"), "'meanwhile'");
            self.wait_for("good", &id);
        }
        assert_eq!(self.state(run, "good").0, "caught_up", "{}", run.stderr());
    }

    /// Each row of both tables is in its topic once.
    fn finish(&self, mut run: Run) {
        drain(&mut run);
        for table in ["good", "bad"] {
            let rows = self.db.count(&format!("SELECT count(*) FROM {table}"));
            let mut ids: Vec<String> = committed(&self.test, &self.test.topic(table))
                .iter()
                .map(|message| message.json()["id"].as_str().expect("an id").to_owned())
                .collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len() as u64, rows, "rows of {table}");
            assert_eq!(committed(&self.test, &self.test.topic(table)).len() as u64, rows, "messages of {table}");
        }
    }
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("an admin client")
}

#[test]
fn a_topic_with_a_small_limit() {
    let scene = Scene::new(json!({}), None);
    let topic = scene.test.topic("bad");
    create_topic(&scene.test.brokers, &topic, 1, &[("max.message.bytes", "3000")]);
    let run = scene.start();
    scene.add("bad", "'small'", "'fits'");
    scene.wait_for("bad", "small");
    scene.add("bad", "'large'", "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n)");
    scene.others_go_on(&run, "max.message.bytes");
    let limits = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", "2000000");
    let altered = admin(&scene.test.brokers);
    crate::harness::block_on(altered.alter_configs([&limits], &AdminOptions::new())).expect("another limit");
    scene.wait_for("bad", "large");
    scene.finish(run);
}

#[test]
fn a_topic_that_is_deleted() {
    let scene = Scene::new(json!({}), None);
    let run = scene.start();
    scene.add("bad", "'before'", "'lost with the topic'");
    scene.wait_for("bad", "before");
    let topic = scene.test.topic("bad");
    let deleting = admin(&scene.test.brokers);
    crate::harness::block_on(deleting.delete_topics(&[&topic], &AdminOptions::new())).expect("deleted");
    scene.add("bad", "'after'", "'has nowhere to go'");
    scene.others_go_on(&run, "does not exist any more");
    create_topic(&scene.test.brokers, &topic, 1, &[]);
    // What was in it is gone, and nobody goes on for long as if it were there.
    eventually(DEADLINE, "the table stops", || scene.state(&run, "bad").1.contains("was deleted and made again"));
    scene.others_go_on(&run, "--resync");
    drop(run);
    let run = start(&scene.test, &scene.file, &["--resync"], &[]);
    scene.wait_for("bad", "before");
    scene.wait_for("bad", "after");
    drop(run);
    // So it is where it is made again while nobody looks.
    crate::harness::block_on(deleting.delete_topics(&[&topic], &AdminOptions::new())).expect("deleted");
    eventually(DEADLINE, "the topic is gone", || !topics(&scene.test.brokers).contains(&topic));
    let mut run = start(&scene.test, &scene.file, &["--until-caught-up"], &[]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}", run.stderr());
    assert!(run.stderr().contains("was deleted and made again"), "{}", run.stderr());
}

/// Somebody's transaction that hangs on the topic keeps a new table from being looked at, and no other.
#[test]
fn a_topic_on_which_a_transaction_hangs() {
    let scene = Scene::new(json!({}), None);
    let topic = scene.test.topic("bad");
    create_topic(&scene.test.brokers, &topic, 1, &[]);
    let hanging: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &scene.test.brokers)
        .set("transactional.id", scene.test.topic("hanging"))
        .set("transaction.timeout.ms", "600000")
        .create()
        .expect("a producer");
    hanging.init_transactions(DEADLINE).expect("a transactional id");
    hanging.begin_transaction().expect("a transaction");
    hanging.send(BaseRecord::to(&topic).key("foreign").payload("{}")).expect("a message");
    hanging.flush(DEADLINE).expect("the message that hangs");
    assert!(end_offsets(&scene.test.brokers, &topic)[&0] > 0);
    let run = scene.start();
    scene.add("bad", "'waits'", "'for somebody else'");
    eventually(DEADLINE, "the reason", || scene.state(&run, "bad").1.contains("transaction of another producer"));
    scene.others_go_on(&run, "transaction of another producer");
    hanging.abort_transaction(DEADLINE).expect("aborted");
    scene.wait_for("bad", "waits");
    scene.finish(run);
}

/// A key that no message can hold is a dead letter, with its begin.
#[test]
fn a_key_larger_than_a_message() {
    let scene = Scene::new(json!({}), None);
    let run = scene.start();
    scene.db.execute("ALTER TABLE bad DROP CONSTRAINT bad_pkey; ALTER TABLE bad ADD UNIQUE (n)");
    drop(run);
    let table = json!({"table": "bad", "topic": scene.test.topic("bad"), "watermark": "at", "key": ["id"]});
    let good = json!({"table": "good", "topic": scene.test.topic("good"), "watermark": "at"});
    let file = write(&scene.test, "capture.yml", &config(&scene.test, json!({}), json!([table, good])));
    let run = start(&scene.test, &file, &[], &[]);
    scene.db.execute("INSERT INTO bad (id, n) VALUES (repeat('ké', 600000), 2), ('small', 3)");
    scene.add("good", "'beside it'", "NULL");
    scene.wait_for("bad", "small");
    scene.wait_for("good", "beside it");
    let letters = committed(&scene.test, &scene.test.topic("dead-letters"));
    assert_eq!(letters.len(), 1, "{}", run.stderr());
    let letter = letters[0].json();
    assert_eq!((&letter["reason"], letter["table"].as_str()), (&json!("row_too_large"), Some("public.bad")));
    assert!(
        letter["bytes"].as_u64() > Some(1_200_000) && letter["key"].as_str().is_some_and(|key| key.starts_with("kéké"))
    );
}

/// A condition that fails on one row: those that came before are published, and those of the other table go on.
#[test]
fn a_condition_that_fails_on_one_row() {
    let scene = Scene::new(json!({"chunk_rows": 50}), Some("100 / n > 0"));
    scene.db.execute("INSERT INTO bad (id, at) SELECT 'old ' || n, now() - (1000 - n) * interval '1 minute' FROM generate_series(1, 120) n");
    // As of a table too large to be sorted: the index gives the rows one by one, up to the one that fails.
    scene.db.execute("CREATE INDEX ON bad (at)");
    for plan in ["seqscan", "bitmapscan", "sort"] {
        scene.db.execute(&format!("ALTER DATABASE {} SET enable_{plan} = off", scene.test.postgres.db));
    }
    scene.db.execute("INSERT INTO bad (id, n, at) VALUES ('zero', 0, now() - interval '500 minutes')");
    let run = scene.start();
    scene.others_go_on(&run, "division by zero");
    // The first load stands still; the polls of the same table do not.
    scene.add("bad", "'new'", "NULL");
    scene.wait_for("bad", "new");
    scene.wait_for("bad", "old 50");
    let (state, reason) = scene.state(&run, "bad");
    assert!(state == "failing" && reason.contains("division by zero"), "{state}: {reason}");
    scene.db.execute("UPDATE bad SET n = 1 WHERE id = 'zero'");
    scene.wait_for("bad", "zero");
    eventually(DEADLINE, "the end of the first load", || scene.state(&run, "bad").0 == "caught_up");
    scene.finish(run);
}

/// The right to write a topic, or to read it, is missing at the start, and taken away later.
#[test]
fn a_topic_whose_rights_are_missing() {
    let mut test = Test::new();
    let (kafka, _) = guarded(&test);
    test.brokers = kafka.brokers();
    let login = json!({
        "brokers": kafka.sasl_brokers().expect("a guarded listener"),
        "security_protocol": "sasl_ssl",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_username": "reader",
        "sasl_password": "right",
        "ssl_ca_file": test.path("authority.pem"),
    });
    let scene = Scene::on(test, json!({}), None, login);
    let rule = |who: &str, operation: &str, resource: &str| {
        let line = format!("kafka-acls.sh --add --{who}-principal User:reader --operation {operation} {resource}");
        cures::run(&kafka.brokers(), &line);
    };
    let bad = scene.test.topic("bad");
    for topic in [&bad, &scene.test.topic("good")] {
        create_topic(&scene.test.brokers, topic, 1, &[]);
    }
    for name in ["good", "checkpoints", "dead-letters"] {
        rule("allow", "All", &format!("--topic {}", scene.test.topic(name)));
    }
    rule("allow", "All", &format!("--transactional-id {}", scene.test.topic("capture")));
    for operation in ["Create", "Describe", "DescribeConfigs"] {
        rule("allow", operation, "--cluster");
    }
    rule("allow", "All", "--group headwater-replay");
    rule("allow", "Describe", &format!("--topic {bad}"));
    let run = scene.start();
    scene.add("bad", "'first'", "'has no right yet'");
    scene.others_go_on(&run, &bad);
    rule("allow", "Read", &format!("--topic {bad}"));
    scene.others_go_on(&run, "may not write to it");
    assert!(!run.stderr().contains("recovered unit=\"bad\""), "what is refused has not recovered: {}", run.stderr());
    rule("allow", "Write", &format!("--topic {bad}"));
    scene.wait_for("bad", "first");
    rule("deny", "Write", &format!("--topic {bad}"));
    scene.add("bad", "'last'", "'had a right once'");
    scene.others_go_on(&run, "grant it Write and Describe");
    assert!(!scene.has("bad", "last"));
    drop(run);
}

/// A row that is too large goes to the topic of dead letters, which all tables share. Where that refuses it, the table
/// that the row is of waits for it, and no other.
#[test]
fn a_topic_of_dead_letters_that_refuses() {
    let scene = Scene::new(json!({"max_row_bytes": 2000}), None);
    let run = scene.start();
    scene.add("bad", "'first'", "'fits'");
    scene.wait_for("bad", "first");
    let letters = scene.test.topic("dead-letters");
    let limit = |bytes: &str| {
        let limits = AlterConfig::new(ResourceSpecifier::Topic(&letters)).set("max.message.bytes", bytes);
        let altered = admin(&scene.test.brokers);
        crate::harness::block_on(altered.alter_configs([&limits], &AdminOptions::new())).expect("another limit");
    };
    limit("100");
    scene.add("bad", "'large'", "repeat('x', 3000)");
    scene.others_go_on(&run, "max.message.bytes");
    limit("1000000");
    eventually(DEADLINE, "the dead letter", || committed(&scene.test, &letters).len() == 1);
    scene.add("bad", "'last'", "'fits'");
    scene.wait_for("bad", "last");
    drop(run);
}

/// The server answers a search that finds little only at its end. Rows that were read before do not wait for that, nor
/// does whoever wants the process to end.
#[test]
fn a_search_that_takes_long() {
    let scene = Scene::new(json!({"max_transaction_ms": 500}), None);
    scene.db.execute(
        "CREATE FUNCTION slowly(n int) RETURNS boolean LANGUAGE plpgsql AS
         'BEGIN IF n = 99 THEN PERFORM pg_sleep(300); END IF; RETURN true; END'",
    );
    let table = |name: &str| json!({"table": name, "topic": scene.test.topic(name), "watermark": "at"});
    let mut slow = table("bad");
    slow["where"] = json!("slowly(n)");
    let keys = json!({"max_transaction_ms": 500});
    let file = write(&scene.test, "slow.yml", &config(&scene.test, keys, json!([table("good"), slow])));
    let mut run = start(&scene.test, &file, &[], &[]);
    for table in ["good", "bad"] {
        eventually(DEADLINE, "both are loaded", || scene.state(&run, table).0 == "caught_up");
    }
    scene.db.execute(
        "BEGIN; INSERT INTO good (id) VALUES ('beside it'); INSERT INTO bad (id, n) VALUES ('slow', 99); COMMIT",
    );
    scene.wait_for("good", "beside it");
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY%slowly%'";
    eventually(DEADLINE, "the search", || scene.db.count(asked) == 1);
    run.terminate();
    assert_eq!(run.wait(Duration::from_secs(25)), Exit::Code(0), "{}", run.stderr());
    eventually(DEADLINE, "the search is cancelled", || scene.db.count(asked) == 0);
}
