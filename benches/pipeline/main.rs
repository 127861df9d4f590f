//! `make bench`: what the pipeline costs, on its own PostgreSQL and Apache Kafka, beside a plain ceiling of the same run.
//!
//! (a) capture of 1,000,000 existing rows; (b) capture of 500,000 rows that arrive in transactions of
//! 1,000; (c) landing of 3,000,000 order messages from 3 partitions; (d) end-to-end delay to Kafka at
//! 1,000 commits/s with a 100 ms poll; (e) windows over 2,000,000 chat messages, with and without
//! sentiment; (f) window engine and sentiment alone; (g) delay from the end of a slide to its row at
//! 5,000 messages/s. Each three times (`RUNS`); `cargo bench --bench pipeline -- a c`
//! runs some of them. `SCALE=0.1` makes everything smaller, for a quick look.
//!
//! CPU and memory are those of the headwater process alone.

mod chat;
mod child;
mod kafka;
mod orders;
mod report;

use child::{Child, Usage};
use headwater::demo::servers::{KafkaOptions, PostgresOptions, Scratch, Servers};
use rdkafka::message::Message;
use std::{
    fs,
    path::PathBuf,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio_postgres::{Client, NoTls};

const TABLE: &str = "orders";

struct Bench {
    servers: Servers,
    scratch: Scratch,
    runs: usize,
    scale: f64,
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| chosen.is_empty() || chosen.iter().any(|one| one == name);
    let number =
        |name: &str, default: f64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let scratch = Scratch::new("bench").expect("a directory for the bench");
    let postgres = PostgresOptions {
        settings: [("fsync", "on"), ("shared_buffers", "512MB"), ("max_wal_size", "8GB"), ("autovacuum", "off")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..PostgresOptions::default()
    };
    let broker =
        KafkaOptions { java_options: ["-Xms1g", "-Xmx1g"].map(str::to_owned).into(), ..KafkaOptions::default() };
    println!("starting PostgreSQL and Kafka");
    let servers = Servers::start(scratch.path(), postgres, broker).expect("servers");
    let bench = Bench { servers, scratch, runs: number("RUNS", 3.0) as usize, scale: number("SCALE", 1.0) };
    println!("machine: {}", machine());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    if wants("a") {
        runtime.block_on(bench.existing_rows());
    }
    if wants("b") {
        runtime.block_on(bench.arriving_rows());
    }
    if wants("c") {
        tokio::task::block_in_place(|| bench.landing(&runtime));
    }
    if wants("d") {
        runtime.block_on(bench.delay());
    }
    if wants("e") {
        runtime.block_on(bench.chat());
    }
    if wants("f") {
        bench.engine();
    }
    if wants("g") {
        runtime.block_on(bench.flush_delay());
    }
}

/// Processor, cores and memory, for those who read the figures.
fn machine() -> String {
    let field = |file: &str, name: &str| {
        fs::read_to_string(file)
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix(name).map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned()))
            .unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{}, {cores} cores, {} memory", field("/proc/cpuinfo", "model name"), field("/proc/meminfo", "MemTotal"))
}

impl Bench {
    fn scaled(&self, count: u64) -> u64 {
        ((count as f64 * self.scale) as u64 / 1000).max(1) * 1000
    }

    async fn database(&self) -> Client {
        let config = self.servers.postgres.config("postgres");
        let (client, connection) = tokio_postgres::connect(
            &format!("host={} port={} user=postgres dbname=postgres", config.host, config.port),
            NoTls,
        )
        .await
        .expect("a connection to the bench's PostgreSQL");
        tokio::spawn(connection);
        client
    }

    async fn fresh_table(&self) -> Client {
        let client = self.database().await;
        client
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS {TABLE};
                 CREATE TABLE {TABLE} (order_id serial PRIMARY KEY, customer_name varchar, restaurant_name varchar, item varchar,
                                       amount numeric, order_status varchar, created_at timestamp DEFAULT now());
                 CREATE INDEX ON {TABLE} (created_at)"
            ))
            .await
            .expect("the table");
        client
    }

    /// A configuration of the short form, with `extra` sections appended.
    fn config(&self, name: &str, poll_seconds: f64, extra: &str) -> PathBuf {
        let directory = self.scratch.path().join(name);
        fs::create_dir_all(&directory).expect("directory");
        let postgres = self.servers.postgres.config("postgres");
        let text = format!(
            "pipeline: {name}\n\
             postgres: {{host: {}, port: {}, db: postgres, user: postgres, table: {TABLE}, tls_mode: disable}}\n\
             kafka: {{brokers: \"{}\", topic: {name}}}\n\
             datalake: {{path: {path}/lake, format: parquet}}\n\
             streaming: {{checkpoint_location: {path}/checkpoints, batch_interval: {poll_seconds}}}\n\
             http: {{listen: null}}\n{extra}",
            postgres.host,
            postgres.port,
            self.servers.kafka.brokers(),
            path = directory.display(),
        );
        let file = directory.join("headwater.yml");
        fs::write(&file, text).expect("configuration");
        file
    }

    /// (a)
    async fn existing_rows(&self) {
        let count = self.scaled(1_000_000);
        println!("\n(a) capture of {count} existing rows");
        let client = self.fresh_table().await;
        client
            .batch_execute(&format!(
                "INSERT INTO {TABLE} (customer_name, restaurant_name, item, amount, order_status, created_at)
                 SELECT 'Customer ' || i % 5000, 'Restaurant ' || i % 300, 'Item ' || i % 80, (500 + i::bigint * 7919 % 29500)::numeric / 100,
                        (ARRAY['PLACED', 'PREPARING', 'DELIVERED', 'CANCELLED'])[1 + i % 4], now()::timestamp - interval '1 hour' - (({count} - i) * interval '20 ms')
                 FROM generate_series(1, {count}) i"
            ))
            .await
            .expect("rows");
        // Each alone, for VACUUM refuses to stand in a message of several.
        for statement in [format!("VACUUM ANALYZE {TABLE}"), "CHECKPOINT".to_owned()] {
            client.batch_execute(&statement).await.expect("a settled table");
        }
        let (mut ceiling_read, mut ceiling_write, mut rates, mut cpus, mut memories) =
            (vec![], vec![], vec![], vec![], vec![]);
        for run in 0..self.runs {
            let start = Instant::now();
            let mut rows =
                pin!(client.copy_out(&format!("COPY {TABLE} TO STDOUT (FORMAT binary)")).await.expect("copy"));
            while let Some(part) = futures_util::StreamExt::next(&mut rows).await {
                part.expect("copy data");
            }
            ceiling_read.push(count as f64 / start.elapsed().as_secs_f64());

            let topic = format!("plain-a-{run}");
            let brokers = self.servers.kafka.brokers();
            let seconds = tokio::task::block_in_place(|| {
                std::thread::scope(|scope| {
                    scope.spawn(|| kafka::create_topic(&brokers, &topic, 1)).join().expect("topic");
                });
                kafka::produce(&brokers, &topic, orders::messages(count))
            });
            ceiling_write.push(count as f64 / seconds);

            let config = self.config(&format!("a{run}"), 5.0, "");
            let usage = finished(Child::start(&["capture", "--until-caught-up"], &config).finish());
            rates.push(count as f64 / usage.wall_seconds);
            cpus.push(usage.cpu_seconds * 1e6 / count as f64);
            memories.push(mebibytes(&usage));
            assert_captured(&usage, count);
        }
        report::line("capture, process start to end", "rows/s", &rates);
        report::line("  CPU per million rows", "s", &cpus);
        report::line("  peak RSS", "MiB", &memories);
        report::line("ceiling: COPY binary, thrown away", "rows/s", &ceiling_read);
        report::line("ceiling: plain producer, ready messages", "rows/s", &ceiling_write);
    }

    /// (b)
    async fn arriving_rows(&self) {
        let count = self.scaled(500_000);
        println!("\n(b) capture of {count} rows that arrive in transactions of 1,000");
        let (mut behind, mut writing, mut cpus, mut memories) = (vec![], vec![], vec![], vec![]);
        for run in 0..self.runs {
            let client = self.fresh_table().await;
            let topic = format!("b{run}");
            let config = self.config(&topic, 0.1, "");
            let child = Child::start(&["capture"], &config);
            self.wait_for_topic(&client, &topic, 1).await;
            let brokers = self.servers.kafka.brokers();
            let reader = std::thread::spawn(move || {
                let consumer = kafka::reader(&brokers, &topic, 1);
                kafka::read(&consumer, count + 1, |_| {});
                Instant::now()
            });
            let start = Instant::now();
            for batch in 0..count / 1000 {
                client
                    .batch_execute(&format!(
                        "INSERT INTO {TABLE} (customer_name, restaurant_name, item, amount, order_status)
                         SELECT 'Customer ' || i % 5000, 'Restaurant ' || i % 300, 'Item ' || i % 80, (500 + i::bigint * 7919 % 29500)::numeric / 100, 'PLACED'
                         FROM generate_series({batch} * 1000, {batch} * 1000 + 999) i"
                    ))
                    .await
                    .expect("insert");
            }
            let committed = Instant::now();
            writing.push(count as f64 / (committed - start).as_secs_f64());
            let seen = tokio::task::block_in_place(|| reader.join().expect("reader"));
            behind.push((seen - committed).as_secs_f64());
            child.terminate();
            let usage = finished(child.finish());
            cpus.push(usage.cpu_seconds * 1e6 / count as f64);
            memories.push(mebibytes(&usage));
        }
        report::line("last row in Kafka after the last commit", "s", &behind);
        report::line("  CPU per million rows", "s", &cpus);
        report::line("  peak RSS", "MiB", &memories);
        report::line("the writer's own pace", "rows/s", &writing);
    }

    /// Inserts a first row and waits until a committed reader sees it, so that start-up is not measured.
    async fn wait_for_topic(&self, client: &Client, topic: &str, rows: u64) {
        client
            .batch_execute(&format!(
                "INSERT INTO {TABLE} (customer_name, amount) SELECT 'warm', 1 FROM generate_series(1, {rows})"
            ))
            .await
            .expect("insert");
        let (brokers, topic) = (self.servers.kafka.brokers(), topic.to_owned());
        tokio::task::block_in_place(|| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !kafka::has_records(&brokers, &topic) {
                assert!(Instant::now() < deadline, "the capture did not publish its first row within 60 s");
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }

    /// (c)
    fn landing(&self, runtime: &tokio::runtime::Runtime) {
        let count = self.scaled(3_000_000);
        println!("\n(c) landing of {count} order messages from 3 partitions");
        runtime.block_on(self.fresh_table());
        let brokers = self.servers.kafka.brokers();
        kafka::create_topic(&brokers, "c", 3);
        kafka::produce(&brokers, "c", orders::messages(count));
        let (mut ceilings, mut rates, mut cpus, mut memories) = (vec![], vec![], vec![], vec![]);
        for run in 0..self.runs {
            let consumer = kafka::reader(&brokers, "c", 3);
            let start = Instant::now();
            let mut bytes = 0;
            kafka::read(&consumer, count, |message| bytes += kafka::value(message).len());
            ceilings.push(count as f64 / start.elapsed().as_secs_f64());
            drop(consumer);

            let config = self.config("c", 5.0, "");
            let directory = config.parent().expect("directory").to_owned();
            let usage = finished(Child::start(&["land", "--until-caught-up"], &config).finish());
            rates.push(count as f64 / usage.wall_seconds);
            cpus.push(usage.cpu_seconds * 1e6 / count as f64);
            memories.push(mebibytes(&usage));
            let dead: u64 = usage.summary["land"]["dead_letters"]
                .as_object()
                .map_or(0, |reasons| reasons.values().filter_map(serde_json::Value::as_u64).sum());
            assert_eq!(
                usage.summary["land"]["rows"].as_u64().unwrap_or(0) + dead,
                count,
                "run {run}: {}",
                usage.stdout
            );
            fs::remove_dir_all(directory).expect("clean");
        }
        report::line("landing, process start to end", "msg/s", &rates);
        report::line("  CPU per million messages", "s", &cpus);
        report::line("  peak RSS", "MiB", &memories);
        report::line("ceiling: plain consumer, thrown away", "msg/s", &ceilings);
    }

    /// (d)
    async fn delay(&self) {
        let seconds = (60.0 * self.scale).max(5.0);
        println!(
            "\n(d) delay from insert to a committed reader of Kafka, 1,000 commits/s, poll every 100 ms, {seconds:.0} s"
        );
        let (mut p50s, mut p99s, mut paces, mut memories, mut cpus) = (vec![], vec![], vec![], vec![], vec![]);
        for run in 0..self.runs {
            let client = self.fresh_table().await;
            client
                .batch_execute(&format!(
                    "ALTER TABLE {TABLE} ALTER created_at SET DEFAULT clock_timestamp() AT TIME ZONE 'UTC'"
                ))
                .await
                .expect("default");
            let topic = format!("d{run}");
            let config = self.config(&topic, 0.1, "");
            let child = Child::start(&["capture"], &config);
            self.wait_for_topic(&client, &topic, 1).await;
            let stop = std::sync::Arc::new(AtomicBool::new(false));
            let (brokers, stopped) = (self.servers.kafka.brokers(), stop.clone());
            let reader = std::thread::spawn(move || {
                let consumer = kafka::reader(&brokers, &topic, 1);
                let mut delays = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    if let Some(Ok(message)) =
                        rdkafka::consumer::BaseConsumer::poll(&consumer, Duration::from_millis(200))
                    {
                        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_micros() as i64;
                        let row: serde_json::Value =
                            serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON");
                        let created =
                            chrono::DateTime::parse_from_rfc3339(row["created_at"].as_str().unwrap_or_default())
                                .expect("time");
                        delays.push((now - created.timestamp_micros()) as f64 / 1000.0);
                    }
                }
                delays
            });
            let writers: Vec<_> = (0..4).map(|_| self.steady_writer(seconds)).collect();
            let written: u64 = futures_util::future::join_all(writers).await.into_iter().sum();
            tokio::time::sleep(Duration::from_secs(2)).await;
            stop.store(true, Ordering::Relaxed);
            let mut delays = tokio::task::block_in_place(|| reader.join().expect("reader"));
            delays.remove(0);
            assert_eq!(delays.len() as u64, written, "every committed row is read once");
            delays.sort_by(f64::total_cmp);
            p50s.push(report::percentile(&delays, 0.5));
            p99s.push(report::percentile(&delays, 0.99));
            paces.push(written as f64 / seconds);
            child.terminate();
            let usage = finished(child.finish());
            memories.push(mebibytes(&usage));
            cpus.push(usage.cpu_seconds * 1e6 / written as f64);
        }
        report::line("delay p50", "ms", &p50s);
        report::line("delay p99", "ms", &p99s);
        report::line("  CPU per million rows", "s", &cpus);
        report::line("  peak RSS", "MiB", &memories);
        report::line("the writers' own pace", "rows/s", &paces);
    }

    /// A quarter of 1,000 single-row commits a second. Gives the rows written.
    async fn steady_writer(&self, seconds: f64) -> u64 {
        let client = self.database().await;
        let insert = client
            .prepare(&format!(
                "INSERT INTO {TABLE} (customer_name, restaurant_name, item, amount, order_status) VALUES ('John Doe', 'Burger Junction', 'Veg Burger', 220.0, 'PLACED')"
            ))
            .await
            .expect("statement");
        let mut pace = tokio::time::interval(Duration::from_millis(4));
        let start = Instant::now();
        let mut written = 0;
        while start.elapsed().as_secs_f64() < seconds {
            pace.tick().await;
            written += client.execute(&insert, &[]).await.expect("insert");
        }
        written
    }
}

fn finished(usage: Usage) -> Usage {
    assert!(usage.status.success(), "headwater ended with {}: {}", usage.status, usage.stdout);
    usage
}

fn mebibytes(usage: &Usage) -> f64 {
    usage.summary["peak_rss_bytes"].as_f64().unwrap_or_default() / f64::from(1 << 20)
}

fn assert_captured(usage: &Usage, count: u64) {
    assert_eq!(usage.summary["capture"]["rows"].as_u64(), Some(count), "{}", usage.stdout);
}
