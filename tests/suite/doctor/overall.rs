//! The whole: shipped configurations on healthy servers, dead servers, broken files, and that nothing is changed.

use super::{ORDERS, ROOM, Said, doctor};
use crate::harness::{DEADLINE, Db, Patience, PrivateServers, Run, Test, eventually, kafka::end_offsets, run::Exit};
use headwater::{
    config::model::Kafka,
    demo::servers::{KafkaOptions, PostgresOptions},
    kafka::reach::topic_names,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Every file and directory below `root`, with its times and size.
fn tree(root: &Path) -> BTreeMap<PathBuf, (i64, i64, u64)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let data = fs::metadata(&path).expect("its data");
        if data.is_dir() {
            left.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        }
        found.insert(path, (data.mtime(), data.mtime_nsec(), if data.is_dir() { 0 } else { data.len() }));
    }
    found
}

/// Everything that a doctor could have changed: rows, catalogue, topics with their ends, files.
#[derive(Debug, PartialEq)]
struct World {
    tables: Vec<Vec<Vec<Option<String>>>>,
    topics: BTreeMap<String, BTreeMap<i32, i64>>,
    files: BTreeMap<PathBuf, (i64, i64, u64)>,
}

impl World {
    fn of(db: &Db, brokers: &str, root: &Path) -> World {
        let tables = [
            "SELECT oid, relname, relnatts, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY oid",
            "SELECT oid, rolname FROM pg_roles ORDER BY oid",
            "SELECT * FROM orders ORDER BY 1",
            "SELECT sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del) FROM pg_stat_user_tables",
        ];
        // Not with a consumer, whose group would make the brokers' first topic.
        let names = topic_names(&Kafka::plaintext(brokers), DEADLINE).expect("the topics");
        let topics = names.into_iter().map(|name| (name.clone(), end_offsets(brokers, &name))).collect();
        World { tables: tables.map(|sql| db.rows(sql)).into(), topics, files: tree(root) }
    }
}

#[test]
fn a_pipeline_is_well_before_and_after_it_ran_and_the_doctor_changes_nothing() {
    let own = PrivateServers::start(PostgresOptions::default(), KafkaOptions::default());
    let test = Test::on(&own.servers);
    let db = test.db();
    db.execute(ORDERS);
    // Counts reach the statistics a little later.
    eventually(DEADLINE, "the statistics", || db.value("SELECT sum(n_tup_ins) FROM pg_stat_user_tables") == "100");
    let lake = test.path("base");
    fs::create_dir(&lake).unwrap();
    let text = test
        .short_form("orders", &test.topic("orders"))
        .replace(&test.dir().display().to_string(), &lake.display().to_string());
    let file = test.write("orders.yml", &text).display().to_string();

    // On a fresh cluster: not even the brokers' own topics are made.
    let before = World::of(&db, &test.brokers, &lake);
    assert!(before.topics.is_empty(), "a fresh cluster: {before:?}");
    let said = doctor(&test, &file, &[]);
    said.assert_well(&[ROOM]);
    assert_eq!(World::of(&db, &test.brokers, &lake), before);
    for check in [
        "file",
        "reachable",
        "version",
        "standby",
        "tls",
        "clock",
        "connections",
        "role",
        "index",
        "time zone",
        "transactions",
        "limits",
        "topic",
        "writable",
        "file system",
        "ledger",
        "foreign files",
        "columns",
        "checkpoints",
        "rights",
    ] {
        assert!(said.findings.iter().any(|finding| finding["check"] == check), "no {check} in\n{said}");
    }

    let mut run = Run::start(&test, &["run", "-c", &file, "--until-caught-up"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    db.execute("INSERT INTO orders SELECT n, n FROM generate_series(101, 120) n");
    let mut run = Run::start(&test, &["capture", "-c", &file, "--until-caught-up"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    db.execute("SELECT pg_stat_force_next_flush()");
    let before = World::of(&db, &test.brokers, &lake);
    let said = doctor(&test, &file, &["--strict"]);
    let is_roomy = said.all(ROOM, "").iter().all(|finding| finding["outcome"] == "ok");
    assert_eq!(said.exit, Exit::Code(i32::from(!is_roomy)), "{said}");
    assert!(said.troubles(&[ROOM]).is_empty(), "{said}");
    let (lag, _) = said.trouble("ok", "retention", &test.topic("orders"));
    assert!(lag.contains("offsets behind"), "what land has not read: {lag}");
    assert_eq!(World::of(&db, &test.brokers, &lake), before);

    // As people read it.
    let mut run = Run::start(&test, &["doctor", "-c", &file]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
    let text = run.stdout();
    assert!(!text.contains('\x1b'), "no colours in a file");
    assert!(text.contains("postgres of ") && text.contains("  ok           reachable"), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.ends_with("0 failures, 0 not checked"), "{last}");
}

/// Runs the doctor on a shipped configuration against the servers of the tests.
fn shipped(test: &Test, name: &str, env: &[(&str, String)]) -> Said {
    let file = format!("{}/configs/{name}", env!("CARGO_MANIFEST_DIR"));
    let port = test.postgres.port.to_string();
    let url = format!("jdbc:postgresql://127.0.0.1:{port}/{}", test.postgres.db);
    let lake = test.path("lake").display().to_string();
    let checkpoints = test.path("checkpoints").display().to_string();
    let mut all: Vec<(&str, &str)> = vec![
        ("KAFKA_BOOTSTRAP_SERVERS", &test.brokers),
        ("LAKEHOUSE_PATH", &lake),
        ("CHECKPOINT_LOCATION", &checkpoints),
        ("POSTGRES_USER", "postgres"),
    ];
    match name {
        "tables.yml" | "tenants.yml" => all.extend([
            ("POSTGRES_HOST", "127.0.0.1"),
            ("POSTGRES_DB", test.postgres.db.as_str()),
            ("HEADWATER__POSTGRES__PORT", port.as_str()),
        ]),
        _ => all.push(("POSTGRES_URL", url.as_str())),
    }
    all.extend(env.iter().map(|(name, value)| (*name, value.as_str())));
    super::ended(Run::with_env(test, &["doctor", "-c", &file, "--format", "json"], &all))
}

#[test]
fn every_shipped_configuration_is_well_on_healthy_servers() {
    let test = Test::new();
    let db = test.db();
    let orders = |name: &str| {
        format!("CREATE TABLE \"{name}\" (order_id bigint PRIMARY KEY, created_at timestamptz NOT NULL, amount numeric(10,2));
             CREATE INDEX ON \"{name}\" (created_at);")
    };
    for table in ["2025em1100506_orders", "north_orders", "south_orders"] {
        db.execute(&orders(table));
    }
    db.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, total numeric(10,2), created_at timestamptz, updated_at timestamptz);
         CREATE INDEX ON orders (updated_at);
         CREATE SCHEMA sales;
         CREATE TABLE sales.invoices (country text, number int, customer_id int, total numeric, is_draft boolean, created_at timestamptz);
         CREATE INDEX ON sales.invoices (created_at)",
    );
    let mut seen = 0;
    for entry in fs::read_dir(format!("{}/configs", env!("CARGO_MANIFEST_DIR"))).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".yml") {
            continue;
        }
        seen += 1;
        let said = shipped(&test, &name, &[]);
        assert_eq!(said.exit, Exit::Code(0), "{name}:\n{said}");
        let troubles = said.troubles(&[ROOM]);
        // The chat's window table comes with the migrations; the shared server has roles of other tests.
        let is_known = |finding: &&Value| finding["check"] == "window table" || finding["check"] == "roles";
        let left: Vec<_> = troubles.into_iter().filter(|finding| !is_known(finding)).collect();
        assert!(left.is_empty(), "{name}: {left:#?}");
    }
    assert!(seen >= 4);
}

#[test]
fn servers_that_are_away_are_one_failure_each_and_soon() {
    let test = Test::new();
    // Ports at which nobody listens.
    let closed = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port().to_string()
    };
    let (postgres, kafka) = (closed(), closed());
    let text = test
        .short_form("orders", &test.topic("orders"))
        .replace(&test.postgres.port.to_string(), &postgres)
        .replace(&test.brokers, &format!("127.0.0.1:{kafka}"));
    let file = test
        .write("away.yml", &format!("{text}runtime: {{wait_attempts: 3, wait_delay_ms: 50}}\n"))
        .display()
        .to_string();
    let begun = Patience::new(Duration::from_secs(20));
    let said = doctor(&test, &file, &[]);
    begun.assert_in_time();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let failures: Vec<_> = said.findings.iter().filter(|finding| finding["outcome"] == "failure").collect();
    assert_eq!(failures.len(), 2, "one for each server:\n{said}");
    let (message, cure) = said.trouble("failure", "reachable", &postgres);
    assert!(message.contains("cannot be reached") && cure.contains("postgres.host"), "{message} {cure}");
    let (message, cure) = said.trouble("failure", "reachable", &format!("127.0.0.1:{kafka}"));
    assert!(message.contains("cannot be reached") && cure.contains("kafka.brokers"), "{message} {cure}");
    for (check, section) in [("server", "postgres"), ("cluster", "kafka"), ("columns", "lake")] {
        let found = said.one(check, "");
        assert_eq!((&found["outcome"], &found["section"]), (&"not_checked".into(), &section.into()));
    }
    // What needs neither is looked at all the same.
    said.assert_ok("file system", "");

    let said = doctor(&test, &file, &["--wait"]);
    assert_eq!(said.exit, Exit::Code(1), "{said}");
}

#[test]
fn a_server_that_takes_connections_and_says_nothing_is_given_up() {
    let test = Test::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let text = test
        .short_form("orders", &test.topic("orders"))
        .replace(&test.postgres.port.to_string(), &port.to_string())
        .replace(&test.brokers, &format!("127.0.0.1:{port}"));
    let file = test.write("silent.yml", &text).display().to_string();
    let begun = Patience::new(Duration::from_secs(30));
    let said = doctor(&test, &file, &[]);
    begun.assert_in_time();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let failures = said.findings.iter().filter(|finding| finding["outcome"] == "failure").count();
    assert_eq!(failures, 2, "{said}");
}

#[test]
fn waiting_ends_when_the_server_comes() {
    let test = Test::new();
    test.db().execute(ORDERS);
    let proxy = test.postgres_proxy();
    proxy.refuse();
    let text = test
        .short_form("orders", &test.topic("orders"))
        .replace(&test.postgres.port.to_string(), &proxy.port().to_string());
    let file = test
        .write("wait.yml", &format!("{text}runtime: {{wait_attempts: 1000, wait_delay_ms: 50}}\n"))
        .display()
        .to_string();
    let run = Run::start(&test, &["doctor", "-c", &file, "--format", "json", "--wait"]);
    run.wait_for_log("waiting: PostgreSQL");
    proxy.restore();
    super::ended(run).assert_well(&[ROOM]);
}

#[test]
fn a_broken_configuration_is_told_whole_and_nothing_else_is_looked_at() {
    let test = Test::new();
    let text =
        test.short_form("orders", &test.topic("orders")).replace("brokers:", "broker:").replace("port:", "prot:");
    let file = test.write("broken.yml", &text).display().to_string();
    let said = doctor(&test, &file, &[]);
    assert_eq!(said.exit, Exit::Code(78), "{said}");
    let broken = said.all("file", "broken.yml");
    assert!(broken.len() >= 2, "every fault: {said}");
    assert!(broken.iter().any(|finding| finding["cure"] == "kafka.brokers"), "{said}");
    assert_eq!(said.one("rest", "")["outcome"], "not_checked");
    assert_eq!(said.findings.len(), broken.len() + 1);
    let mut run = Run::start(&test, &["doctor", "-c", &file]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(78));
    assert!(run.stdout().contains("configuration\n  failure"), "{}", run.stdout());
}
