//! Topics that differ from the configuration, as the doctor tells them, and `headwater topics`.

use super::{ORDERS, ROOM, cures, doctor};
use crate::harness::{
    DEADLINE, Run, Test, block_on,
    kafka::{create_topic, read_topic, topics},
    run::Exit,
};
use headwater::{
    config::model::Kafka,
    kafka::{inspect::Inspector, reach},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn general(test: &Test, kafka: Value, capture: Value, table: Value) -> String {
    let pg = &test.postgres;
    let extended = |mut base: Value, more: Value| {
        base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        base
    };
    let table = extended(json!({"table": "orders", "topic": test.topic("orders"), "watermark": "created_at"}), table);
    let config = json!({
        "pipeline": test.prefix,
        "postgres": {"host": pg.host, "port": pg.port, "db": pg.db, "user": pg.user, "tls_mode": "disable"},
        "kafka": extended(json!({"brokers": test.brokers}), kafka),
        "capture": extended(json!({"tables": [table]}), capture),
        "http": {"listen": null},
        "runtime": {"wait_attempts": 3, "wait_delay_ms": 50},
    });
    test.write("topics.yml", &format!("{config:#}\n")).display().to_string()
}

/// Partitions and settings of the test's own topics.
fn described(test: &Test) -> BTreeMap<String, (usize, BTreeMap<String, String>)> {
    let kafka = Kafka::plaintext(&test.brokers);
    let cluster = reach::cluster(&kafka, DEADLINE).expect("the cluster");
    let names: Vec<String> = cluster.topics.keys().filter(|name| name.contains(&test.prefix)).cloned().collect();
    let inspector = Inspector::new(&kafka, DEADLINE).expect("an inspector");
    let settings = block_on(inspector.topic_settings(&names));
    let one = |(name, settings): (String, Result<_, _>)| {
        let count = cluster.topics[&name].len();
        (name, (count, settings.expect("its settings")))
    };
    names.into_iter().zip(settings).map(one).collect()
}

#[track_caller]
fn run(test: &Test, arguments: &[&str]) -> (Exit, String) {
    let mut run = Run::start(test, &[&["topics"], arguments].concat());
    let exit = run.wait(DEADLINE);
    (exit, if exit == Exit::Code(75) { run.stderr() } else { run.stdout() })
}

#[track_caller]
fn json_of(test: &Test, arguments: &[&str]) -> (Exit, BTreeMap<String, Value>) {
    let (exit, text) = run(test, &[arguments, &["--format", "json"]].concat());
    let list: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (exit, list.into_iter().map(|topic| (topic["topic"].as_str().unwrap().to_owned(), topic)).collect())
}

#[test]
fn what_is_not_there_is_made_and_nothing_else() {
    let test = Test::new();
    let file = general(
        &test,
        json!({"create_topics": false}),
        json!({}),
        json!({"partitions": 3, "retention_ms": 86_400_000}),
    );
    let checkpoints = format!("headwater-{}-checkpoints", test.prefix);
    let dead_letters = format!("headwater-{}-dead-letters", test.prefix);
    let orders = test.topic("orders");

    let (exit, plan) = run(&test, &["-c", &file, "--dry-run"]);
    assert_eq!(exit, Exit::Code(0), "{plan}");
    let line = plan.lines().find(|line| line.contains(&orders)).expect("the topic");
    assert!(
        line.starts_with("missing ")
            && line.contains("3 partitions, replication 1, retention.ms=86400000  (rows of orders)"),
        "{line}"
    );
    assert_eq!(described(&test).len(), 0, "only shown");
    // Nor may the stages make them, and the doctor says how.
    test.db().execute(ORDERS);
    let said = doctor(&test, &file, &[]);
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "topic", &orders);
    assert!(message.contains("kafka.create_topics is false"), "{message}");
    assert!(
        cure.ends_with(&format!(
            "--create --topic {orders} --partitions 3 --replication-factor 1 --config retention.ms=86400000"
        )),
        "{cure}"
    );

    let (exit, told) = run(&test, &["-c", &file]);
    assert_eq!(exit, Exit::Code(0), "{told}");
    let (plan, done) = told.split_once("\n\n").expect("the plan, then what was done");
    assert!(plan.contains("missing") && !done.contains("missing"), "{told}");
    assert_eq!(done.lines().filter(|line| line.starts_with("created ")).count(), 3, "{told}");
    let made = described(&test);
    assert_eq!(made.keys().collect::<Vec<_>>(), [&checkpoints, &dead_letters, &orders]);
    assert_eq!((made[&orders].0, made[&orders].1["retention.ms"].as_str()), (3, "86400000"));
    assert_eq!((made[&checkpoints].0, made[&checkpoints].1["cleanup.policy"].as_str()), (1, "compact"));
    doctor(&test, &file, &[]).assert_well(&[ROOM]);

    // Again, and beside a capture that makes the same.
    let (exit, again) = json_of(&test, &["-c", &file]);
    assert_eq!(exit, Exit::Code(0));
    assert!(again.values().all(|topic| topic["state"] == "exists" && topic["differences"] == json!([])), "{again:#?}");
    assert_eq!(described(&test), made);
    let mut capture = Run::start(&test, &["capture", "-c", &file, "--until-caught-up"]);
    assert_eq!(capture.wait(DEADLINE), Exit::Code(0), "{}", capture.stderr());
    assert_eq!(read_topic(&test.brokers, &orders, true).len(), 100);
}

#[test]
fn what_differs_is_told_with_the_line_that_changes_it_and_left_as_it_is() {
    let test = Test::new();
    test.db().execute(ORDERS);
    let file = general(&test, json!({}), json!({}), json!({"partitions": 3, "retention_ms": 86_400_000}));
    let orders = test.topic("orders");
    let checkpoints = format!("headwater-{}-checkpoints", test.prefix);
    create_topic(&test.brokers, &orders, 1, &[("retention.ms", "3600000"), ("cleanup.policy", "compact")]);
    create_topic(
        &test.brokers,
        &checkpoints,
        1,
        &[
            ("cleanup.policy", "delete"),
            ("segment.bytes", "8388608"),
            ("min.cleanable.dirty.ratio", "0.1"),
            ("max.message.bytes", "4194304"),
        ],
    );

    let before = described(&test);
    let (exit, told) = json_of(&test, &["-c", &file]);
    assert_eq!(exit, Exit::Code(0), "differences are warnings: {told:#?}");
    let mut after = described(&test);
    after.remove(&format!("headwater-{}-dead-letters", test.prefix)).expect("what was missing was made");
    assert_eq!(after, before, "nothing else was changed");
    let mut of_orders: BTreeMap<String, Value> = BTreeMap::new();
    for difference in told[&orders]["differences"].as_array().unwrap() {
        of_orders.insert(difference["setting"].as_str().unwrap().to_owned(), difference.clone());
    }
    assert_eq!(of_orders.keys().collect::<Vec<_>>(), ["cleanup.policy", "partitions", "retention.ms"]);
    assert!(of_orders.values().all(|difference| difference["harm"] == "some"), "{of_orders:#?}");
    assert_eq!(
        (&of_orders["retention.ms"]["found"], &of_orders["retention.ms"]["wanted"]),
        (&json!("3600000"), &json!("86400000"))
    );
    let (_, text) = run(&test, &["-c", &file]);
    assert!(text.contains("warning: partitions is 1, configured 3; left as it is"), "{text}");

    // The same of the doctor, for whom checkpoints that are deleted are a failure.
    let said = doctor(&test, &file, &[]);
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "settings", &checkpoints);
    assert!(message.contains("cleanup.policy is delete, configured compact"), "{message}");
    cures::run(&test.brokers, &cure);
    let (message, cure) = said.trouble("warning", "partitions", &orders);
    assert_eq!(message, "partitions is 1, configured 3");
    cures::run(&test.brokers, &cure);
    let settings = said.all("settings", &orders);
    assert_eq!(settings.len(), 2, "{said}");
    for finding in settings {
        assert_eq!(finding["outcome"], "warning");
        cures::run(&test.brokers, finding["cure"].as_str().unwrap());
    }
    doctor(&test, &file, &[]).assert_well(&[ROOM]);

    // More than is asked for does no harm, and cannot be taken away.
    let file = general(&test, json!({}), json!({}), json!({"partitions": 2, "retention_ms": 3_600_000}));
    doctor(&test, &file, &[]).assert_well(&[ROOM]);
    let (_, told) = json_of(&test, &["-c", &file]);
    let partitions = &told[&orders]["differences"][0];
    assert_eq!(
        (&partitions["harm"], &partitions["cure"]),
        (&json!("none"), &json!("capture.tables[].partitions: 3   # of table orders"))
    );
}

#[test]
fn a_topic_that_others_make_or_that_cannot_be_made_is_a_failure() {
    let test = Test::new();
    let schema = crate::landing::orders_schema(&test);
    let table = crate::landing::Table::orders_by_file(&test.path("base"), &test.topic("theirs"), &schema);
    let file = test.write("land.yml", &crate::landing::land_config(&test, &[table], &[])).display().to_string();
    let (exit, told) = json_of(&test, &["-c", &file]);
    assert_eq!(exit, Exit::Code(1));
    let theirs = &told[&test.topic("theirs")];
    assert_eq!(theirs["state"], "undeclared");
    let (message, _) = doctor(&test, &file, &[]).trouble("warning", "topic", &test.topic("theirs"));
    assert!(message.contains("land waits for it"), "{message}");
    cures::run(&test.brokers, theirs["cure"].as_str().unwrap());
    assert_eq!(json_of(&test, &["-c", &file]).0, Exit::Code(0));
    doctor(&test, &file, &[]).assert_well(&[ROOM]);

    test.db().execute(ORDERS);
    let file = general(&test, json!({}), json!({}), json!({"replication": 3}));
    let (exit, told) = json_of(&test, &["-c", &file]);
    assert_eq!(exit, Exit::Code(1));
    let orders = &told[&test.topic("orders")];
    assert_eq!(
        (&orders["state"], &orders["cure"]),
        (&json!("failed"), &json!("capture.tables[].replication: 1   # of table orders"))
    );
    // The others are made all the same.
    assert!(topics(&test.brokers).contains(&format!("headwater-{}-checkpoints", test.prefix)));
    let (message, cure) = doctor(&test, &file, &[]).trouble("failure", "topic", &test.topic("orders"));
    assert!(message.contains("3 replicas configured, and 1 broker known"), "{message}");
    assert_eq!(cure, "capture.tables[].replication: 1   # of table orders");
}

#[test]
fn topics_of_every_tenant_and_stage_are_told_once() {
    let test = Test::new();
    let config = format!("{}/configs/", env!("CARGO_MANIFEST_DIR"));
    let run = |name: &str| {
        let file = format!("{config}{name}");
        let env = [("KAFKA_BOOTSTRAP_SERVERS", test.brokers.as_str()), ("POSTGRES_USER", "postgres")];
        let mut run = Run::with_env(&test, &["topics", "-c", &file, "--dry-run", "--format", "json"], &env);
        assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
        let names = run
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|topic| topic["topic"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>();
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        names
    };
    assert_eq!(run("chat.yml"), ["telemetra.events.chat", "telemetra.events.viewer"]);
    let tenants = run("tenants.yml");
    assert_eq!(tenants.len(), 6);
    assert!(
        tenants.contains(&"north_food_orders_raw".to_owned()) && tenants.contains(&"south_food_orders_raw".to_owned())
    );
}

#[test]
fn brokers_that_are_away_are_waited_for() {
    let test = Test::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = listener.local_addr().unwrap().to_string();
    drop(listener);
    let file = general(&test, json!({"brokers": away}), json!({}), json!({}));
    let (exit, told) = run(&test, &["-c", &file]);
    assert_eq!(exit, Exit::Code(75), "{told}");
    assert!(told.contains("waiting for Kafka") && told.contains(&away) && told.contains("kafka.brokers"), "{told}");

    let proxy = test.kafka_proxy();
    proxy.refuse();
    let file = general(&test, json!({"brokers": format!("127.0.0.1:{}", proxy.port())}), json!({}), json!({}));
    let text = std::fs::read_to_string(&file).unwrap().replace("\"wait_attempts\": 3", "\"wait_attempts\": 1000");
    std::fs::write(&file, text).unwrap();
    let mut run = Run::start(&test, &["topics", "-c", &file]);
    run.wait_for_log("waiting for Kafka");
    proxy.restore();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
}
