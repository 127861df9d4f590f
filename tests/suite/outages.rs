//! Servers that restart and lines that break under a steady load: nothing is lost, nothing is doubled,
//! and `/ready` says what is wrong for as long as it is, and no longer.
//!
//! `HEADWATER_OUTAGE_ROUNDS` (1) repeats the whole sequence.

use crate::harness::{
    DEADLINE, Db, PrivateServers, Proxy, Run, Test, eventually, eventually_some, kafka::read_topic, lake::read_table,
    proxy::Direction, run::Exit,
};
use headwater::{
    config::model::Postgres,
    demo::servers::{KafkaOptions, PortLease, PostgresOptions, ProxiedListener, lease_port},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const ROWS_PER_SECOND: u32 = 500;
const ROWS_PER_TRANSACTION: u32 = 25;

/// An outage may take this long to be noticed (half-open lines are the slowest) and to be over.
const NOTICE: Duration = Duration::from_secs(60);

/// A file of a pipeline whose lines to both servers go through proxies.
fn file(test: &Test, topic: &str) -> String {
    let text = test.short_form("orders", topic).replace("batch_interval: 1", "batch_interval: 0.1")
        + "land: {rotate_ms: 500}\nruntime: {wait_delay_ms: 200}\n";
    // So that a dead line is found dead soon.
    let text = text.replace("postgres:\n", "postgres:\n  connect_timeout_ms: 1000\n");
    // So that an outage of seconds fails transactions, which would else be waited for.
    let text = text.replace("kafka:\n", "kafka:\n  properties: {message.timeout.ms: 3000}\n");
    test.write("orders.yml", &text).display().to_string()
}

/// Inserts rows at a steady rate until stopped, through any outage; every fourth transaction is held
/// open for a while, so that its rows come late.
struct Writer {
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Writer {
    fn start(postgres: &Postgres) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let (postgres, stop) = (postgres.clone(), stopped.clone());
        let thread = std::thread::spawn(move || write_until(&postgres, &stop));
        Writer { stopped, thread }
    }

    /// Gives the number of rows written.
    fn stop(self) -> u32 {
        self.stopped.store(true, SeqCst);
        self.thread.join().expect("the writer")
    }
}

fn write_until(postgres: &Postgres, stop: &AtomicBool) -> u32 {
    let (mut even, mut odd) = (None, None);
    let mut written = 0;
    let mut due = Instant::now();
    while !stop.load(SeqCst) {
        let (from, to) = (written + 1, written + ROWS_PER_TRANSACTION);
        let insert = |db: &Db, from: u32, to: u32| {
            db.try_execute(&format!(
                "INSERT INTO orders (order_id, amount) SELECT n, n FROM generate_series({from}, {to}) n ON CONFLICT DO NOTHING"
            ))
        };
        // What a broken commit has done is not known: the same rows are written again, if not there.
        let late = (to / ROWS_PER_TRANSACTION).is_multiple_of(4);
        let line = if late { &mut even } else { &mut odd };
        if line.is_none() {
            *line = Db::try_connect(postgres).ok();
        }
        let done = line.as_ref().is_some_and(|db| {
            if late {
                let pause = "SELECT pg_sleep(0.15)";
                db.try_execute("BEGIN")
                    .and_then(|()| insert(db, from, to))
                    .and_then(|()| db.try_execute(pause))
                    .and_then(|()| db.try_execute("COMMIT"))
                    .is_ok()
            } else {
                insert(db, from, to).is_ok()
            }
        });
        if done {
            written = to
        } else {
            *line = None
        }
        due += Duration::from_secs(1) * ROWS_PER_TRANSACTION / ROWS_PER_SECOND;
        // A rate, not a wait. What an outage held up is not caught up on.
        match due.checked_duration_since(Instant::now()) {
            Some(early) => std::thread::sleep(early),
            None => due = Instant::now(),
        }
    }
    written
}

/// What `/ready` says: the code, and each unit that is not ready as `stage: reason`.
fn readiness(run: &Run) -> (u16, Vec<String>) {
    let (code, body) = run.get("/ready").expect("an answer");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let units = body["not_ready"].as_array().expect("a list");
    let tell =
        |unit: &Value| format!("{}: {}", unit["stage"].as_str().unwrap(), unit["reason"].as_str().unwrap_or("-"));
    (code, units.iter().map(tell).collect())
}

#[track_caller]
fn wait_until_not_ready(run: &Run, what: &str, cause: &str) {
    let mut last = Vec::new();
    let started = Instant::now();
    let found = eventually_some(NOTICE, &format!("/ready to turn 503 with the reason: {what}"), || {
        let (code, reasons) = readiness(run);
        if reasons != last {
            eprintln!("{what}: {code} {reasons:?}");
            last.clone_from(&reasons);
        }
        (code == 503 && reasons.iter().any(|reason| reason.contains(cause))).then_some(reasons)
    });
    eprintln!("{what}: 503 after {:.1} s: {found:?}", started.elapsed().as_secs_f32());
}

#[track_caller]
fn wait_until_ready(run: &Run, what: &str) {
    let started = Instant::now();
    // Waits for rows to come: the writer has to run.
    eventually(NOTICE, &format!("/ready to turn 200 after: {what}"), || readiness(run).0 == 200);
    // And not only for a moment before the outage shows.
    wait_until_progress(run);
    eprintln!("{what}: at work after {:.1} s", started.elapsed().as_secs_f32());
}

/// How often each key is there.
fn times(ids: impl Iterator<Item = i64>) -> BTreeMap<i64, u32> {
    let mut times = BTreeMap::new();
    ids.for_each(|id| *times.entry(id).or_default() += 1);
    times
}

#[track_caller]
fn assert_each_once(place: &str, written: &HashSet<i64>, found: &BTreeMap<i64, u32>) {
    let lost: Vec<_> = written.iter().filter(|id| !found.contains_key(id)).take(10).collect();
    let doubled: Vec<_> = found.iter().filter(|(_, times)| **times > 1).take(10).collect();
    let invented: Vec<_> = found.keys().filter(|id| !written.contains(id)).take(10).collect();
    assert!(
        lost.is_empty() && doubled.is_empty() && invented.is_empty(),
        "{place}: lost {lost:?}, doubled {doubled:?}, invented {invented:?}"
    );
}

#[test]
fn the_comparison_bites() {
    let written = HashSet::from([1, 2, 3]);
    assert_each_once("whole", &written, &times([1, 2, 3].into_iter()));
    for wrong in [&[1, 2][..], &[1, 2, 3, 3], &[1, 2, 3, 4]] {
        let found = times(wrong.iter().copied());
        let told = std::panic::catch_unwind(|| assert_each_once("wrong", &written, &found));
        assert!(told.is_err(), "{wrong:?}");
    }
}

fn rounds() -> u32 {
    std::env::var("HEADWATER_OUTAGE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// Private servers with a proxy before each, and a pipeline through the proxies under a steady load.
struct Scene {
    test: Test,
    own: PrivateServers,
    postgres_line: Proxy,
    kafka_line: Proxy,
    topic: String,
    config: String,
    writer: Option<Writer>,
    run: Run,
    _lease: PortLease,
}

impl Scene {
    fn start() -> Self {
        let lease = lease_port().unwrap();
        let kafka_line = Proxy::start(SocketAddr::from(([127, 0, 0, 1], lease.port())));
        let proxied = vec![ProxiedListener { listen_port: lease.port(), advertised_port: kafka_line.port() }];
        let own =
            PrivateServers::start(PostgresOptions::default(), KafkaOptions { proxied, ..KafkaOptions::default() });
        let mut test = Test::on(&own.servers);
        test.db().execute(
            "CREATE TABLE orders (order_id bigint PRIMARY KEY, amount numeric(12,2), created_at timestamptz NOT NULL DEFAULT now());
             CREATE INDEX ON orders (created_at);
             INSERT INTO orders (order_id, amount, created_at) SELECT -n, n, now() - interval '1 hour' FROM generate_series(1, 1000) n",
        );
        let postgres_line = test.postgres_proxy();
        let direct = test.postgres.clone();
        test.postgres.port = postgres_line.port();
        test.brokers = format!("127.0.0.1:{}", kafka_line.port());
        let topic = test.topic("orders");
        let config = file(&test, &topic);
        test.postgres = direct;
        let run = Run::start(&test, &["run", "-c", &config]);
        let writer = Some(Writer::start(&test.postgres));
        wait_until_ready(&run, "the start");
        Scene { test, own, postgres_line, kafka_line, topic, config, writer, run, _lease: lease }
    }

    /// Stops the load, lets the pipeline catch up and compares by key.
    fn finish(mut self) {
        let written = self.writer.take().unwrap().stop();
        self.run.terminate();
        assert_eq!(self.run.wait(DEADLINE), Exit::Code(0), "drained");
        let mut rest = Run::start(&self.test, &["run", "-c", &self.config, "--until-caught-up"]);
        assert_eq!(rest.wait(DEADLINE), Exit::Code(0), "caught up");

        let rows = self.test.db().rows("SELECT order_id FROM orders");
        let written: HashSet<i64> = rows
            .iter()
            .map(|row| row[0].as_deref().unwrap().parse().unwrap())
            .inspect(|id: &i64| assert!(*id <= i64::from(written) + i64::from(ROWS_PER_TRANSACTION)))
            .collect();
        let messages = read_topic(&self.own.servers.kafka.brokers(), &self.topic, true);
        assert_each_once("topic", &written, &times(messages.iter().map(|m| m.json()["order_id"].as_i64().unwrap())));
        let lake = read_table(&self.test.path("lake"));
        assert_each_once("lake", &written, &times(lake.iter().map(|row| row["order_id"].as_i64().unwrap())));
        eprintln!("{} rows, each once", written.len());
    }
}

#[test]
fn servers_that_restart_lose_and_double_nothing() {
    let mut scene = Scene::start();
    for round in 0..rounds() {
        for n in 0..4 {
            let what = format!("round {round}, PostgreSQL restart {n}");
            if n % 2 == 0 {
                scene.own.servers.postgres.stop()
            } else {
                scene.own.servers.postgres.kill()
            }
            wait_until_not_ready(&scene.run, &what, "PostgreSQL");
            scene.own.servers.postgres.restart().unwrap();
            wait_until_ready(&scene.run, &what);
        }
        for n in 0..3 {
            let what = format!("round {round}, Kafka restart {n}");
            if n % 2 == 0 {
                scene.own.servers.kafka.kill()
            } else {
                scene.own.servers.kafka.stop()
            }
            wait_until_not_ready(&scene.run, &what, "Kafka");
            scene.own.servers.kafka.restart().unwrap();
            wait_until_ready(&scene.run, &what);
        }
    }
    scene.finish();
}

#[test]
fn lines_that_break_or_fall_silent_lose_and_double_nothing() {
    let scene = Scene::start();
    for round in 0..rounds() {
        for (name, line) in [("PostgreSQL", &scene.postgres_line), ("Kafka", &scene.kafka_line)] {
            // Cut and open again at once: a moment that need not be seen from outside.
            for _ in 0..5 {
                line.cut();
                wait_until_progress(&scene.run);
            }
            wait_until_ready(&scene.run, &format!("round {round}, {name} cut five times"));
            line.refuse();
            line.cut();
            let what = format!("round {round}, {name} cut off");
            wait_until_not_ready(&scene.run, &what, name);
            line.restore();
            wait_until_ready(&scene.run, &what);

            for direction in [Direction::ToClient, Direction::ToServer] {
                let what = format!("round {round}, {name} silent {direction:?}");
                line.silence(direction);
                wait_until_not_ready(&scene.run, &what, name);
                line.restore();
                wait_until_ready(&scene.run, &what);
            }
        }
    }
    scene.finish();
}

/// Waits until more rows have been landed than now.
#[track_caller]
fn wait_until_progress(run: &Run) {
    let landed = || {
        let metrics = run.get("/metrics").expect("an answer").1;
        let line = metrics.lines().find(|line| line.starts_with("headwater_land_rows_total{"))?.to_owned();
        line.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    let before = landed();
    eventually(NOTICE, "more rows in the lake", || landed() > before);
}
