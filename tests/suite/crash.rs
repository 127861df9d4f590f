//! Kills: one at every failpoint and some at random, over 200,000 rows that are there at the start and
//! writers that hold transactions open and move watermarks meanwhile. The comparison at the end is this
//! file's own: it uses neither `headwater verify` nor any decoder of the stages.
//!
//! `HEADWATER_TORTURE_KILLS` (10) and `HEADWATER_TORTURE_SEED` make it longer and other; `make torture` does.

use crate::harness::{
    Db, Run, Test,
    kafka::{self, Message},
    lake,
    run::Exit,
};
use crate::landing::general_head;
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const ROWS: u64 = 200_000;
const LIMIT: Duration = Duration::from_secs(120);

/// splitmix64: small, seeded, good enough to choose moments.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn create_orders(db: &Db) {
    db.execute(
        "CREATE TABLE orders (order_id serial PRIMARY KEY, customer_name varchar, restaurant_name varchar, item varchar,
                              amount numeric, order_status varchar, created_at timestamp NOT NULL DEFAULT now());
         CREATE INDEX ON orders (created_at)",
    );
}

fn insert_old_rows(db: &Db, count: u64) {
    db.execute(&format!(
        "INSERT INTO orders (customer_name, restaurant_name, item, amount, order_status, created_at)
         SELECT 'Customer ' || i % 997, 'Restaurant \"' || i % 31 || '\"', 'Item ' || i % 17,
                CASE WHEN i % 500 = 0 THEN -1 ELSE i % 10000 END::numeric / 100, 'PLACED',
                now()::timestamp - interval '10 days' + i * interval '4 s'
         FROM generate_series(1, {count}) i"
    ));
}

fn config(test: &Test, topic: &str) -> String {
    let (head, dir) = (general_head(test), test.dir().display());
    format!(
        "{head}\
         capture:\n  poll_interval_ms: 100\n  slack_ms: 300\n  chunk_rows: 2500\n  max_transaction_rows: 2500\n  \
         last_processed_timestamp_location: {dir}/lastprocess\n  \
         tables: [{{table: orders, topic: {topic}, watermark: created_at, partitions: 3}}]\n\
         land:\n  rotate_ms: 400\n  rotate_bytes: 1048576\n  tables:\n    \
         - {{topic: {topic}, path: {dir}/lake, checkpoint_location: {dir}/checkpoints, date_column: created_at, \
              not_null: [order_id], non_negative: [amount], metadata_columns: true}}\n",
    )
}

/// Sessions that insert, update (which moves the watermark), hold transactions open and roll back.
struct Writers {
    stop: Arc<AtomicBool>,
    statements: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(test: &Test, seed: u64) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let statements = Arc::new(AtomicU64::new(0));
        let threads = (0..3)
            .map(|writer| {
                let (stop, statements, db) = (stop.clone(), statements.clone(), test.db());
                let mut dice = Dice(seed ^ (writer << 32));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        db.execute(&Writers::transaction(&mut dice));
                        statements.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Writers { stop, statements, threads }
    }

    fn transaction(dice: &mut Dice) -> String {
        let rows = 1 + dice.roll(40);
        let insert = format!(
            "INSERT INTO orders (customer_name, item, amount, order_status)
             SELECT 'Late', 'Item', CASE WHEN i % 20 = 0 THEN -i ELSE i END, 'PLACED' FROM generate_series(1, {rows}) i;"
        );
        let touch = format!(
            "UPDATE orders SET order_status = 'DELIVERED', created_at = now() WHERE order_id = {};",
            1 + dice.roll(ROWS)
        );
        // The sleep holds the transaction open across polls, with now() at its beginning.
        let hold = format!("SELECT pg_sleep({});", dice.roll(1200) as f64 / 1000.0);
        let pause = "SELECT pg_sleep(0.02);";
        match dice.roll(6) {
            0 => format!("BEGIN; {insert} {hold} {touch} COMMIT; {pause}"),
            1 => format!(
                "BEGIN; {insert} SAVEPOINT a; {insert} ROLLBACK TO a; {touch} SAVEPOINT b; {insert} COMMIT; {pause}"
            ),
            2 => format!("BEGIN; {touch} {hold} ROLLBACK; {pause}"),
            3 => format!("{touch} {pause}"),
            _ => format!("{insert} {pause}"),
        }
    }

    /// Ends them and gives the number of messages they sent.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a writer");
        }
        self.statements.load(Ordering::Relaxed)
    }
}

/// Numbers as text without trailing zeros, so that 2.50 and 2.5 are one.
fn plain(number: &str) -> String {
    if !number.contains('.') {
        return number.to_owned();
    }
    number.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn micros(iso: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(iso).unwrap_or_else(|error| panic!("{iso}: {error}")).timestamp_micros()
}

/// What the three sides have in common of a row: customer, item, amount, status, time.
type Version = (Option<String>, Option<String>, Option<String>, Option<String>, Option<i64>);

fn version(row: &serde_json::Map<String, serde_json::Value>) -> Version {
    let text = |name: &str| row.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let amount = row.get("amount").filter(|value| !value.is_null()).map(|value| plain(&value.to_string()));
    (text("customer_name"), text("item"), amount, text("order_status"), text("created_at").as_deref().map(micros))
}

struct Counts {
    source: usize,
    topic: usize,
    landed: usize,
    dead: usize,
}

/// Source against topic by row version, topic against lake record by record. Fails on the first difference.
#[track_caller]
fn compare(db: &Db, messages: &[Message], lake_root: &Path, dead_letter_root: &Path) -> Counts {
    let mut versions: HashMap<String, HashSet<Version>> = HashMap::new();
    let mut once = HashSet::new();
    for message in messages {
        let key = String::from_utf8(message.key.clone().expect("a key")).expect("text");
        let xid = message
            .headers
            .iter()
            .find_map(|(name, value)| (name == "headwater-xid").then(|| value.clone().unwrap_or_default()))
            .expect("the header of the transaction id");
        assert!(once.insert((key.clone(), xid.clone())), "key {key} of transaction {xid:?} is in the topic twice");
        let json = message.json();
        versions.entry(key).or_default().insert(version(json.as_object().expect("an object")));
    }

    let rows = db.rows(
        "SELECT order_id::text, customer_name, item, amount::text, order_status,
                to_char(created_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM orders",
    );
    let lost: Vec<&Vec<Option<String>>> = rows
        .iter()
        .filter(|row| {
            let amount = row[3].as_deref().map(plain);
            let now = (row[1].clone(), row[2].clone(), amount, row[4].clone(), row[5].as_deref().map(micros));
            !versions.get(row[0].as_deref().unwrap_or_default()).is_some_and(|versions| versions.contains(&now))
        })
        .collect();
    assert!(lost.is_empty(), "{} of {} rows are not in the topic, such as {:?}", lost.len(), rows.len(), lost[0]);

    let mut found: HashMap<(i64, i64), u32> = HashMap::new();
    let by_place: HashMap<(i64, i64), &Message> =
        messages.iter().map(|message| ((i64::from(message.partition), message.offset), message)).collect();
    let landed = lake::read_table(lake_root);
    for row in &landed {
        let place =
            (row["_kafka_partition"].as_i64().expect("partition"), row["_kafka_offset"].as_i64().expect("offset"));
        *found.entry(place).or_default() += 1;
        let message = by_place.get(&place).unwrap_or_else(|| panic!("{place:?} is in the lake and not in the topic"));
        let json = message.json();
        assert_eq!(version(row), version(json.as_object().expect("an object")), "at {place:?}");
        assert_eq!(row["date"].as_str(), json["created_at"].as_str().map(|time| &time[..10]), "at {place:?}");
    }
    let dead = lake::dead_letters(dead_letter_root);
    for letter in &dead {
        let place = (letter.partition, letter.offset);
        *found.entry(place).or_default() += 1;
        assert_eq!(letter.payload, by_place[&place].value, "the bytes of the dead letter at {place:?}");
        assert_eq!(letter.reason, "negative_amount");
    }
    let twice = found.iter().filter(|(_, count)| **count > 1).count();
    assert_eq!(twice, 0, "records that are in the lake more than once");
    assert_eq!(found.len(), messages.len(), "records of the topic that are in the lake");
    Counts { source: rows.len(), topic: messages.len(), landed: landed.len(), dead: dead.len() }
}

/// Those that the orders pass; the others have tests of their own.
fn failpoints() -> impl Iterator<Item = &'static str> {
    headwater::failpoint::ALL.iter().copied().filter(|name| name.starts_with("capture.") || name.starts_with("land."))
}

fn staged_files(checkpoints: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(checkpoints)
        .into_iter()
        .flatten()
        .flatten()
        .flat_map(|partition| std::fs::read_dir(partition.path().join("staging")).into_iter().flatten().flatten())
        .map(|file| file.path())
        .collect()
}

#[test]
fn kills_anywhere_lose_nothing_and_double_nothing() {
    let seed = from_env("HEADWATER_TORTURE_SEED", 20_250_115);
    let kills = from_env("HEADWATER_TORTURE_KILLS", 10);
    println!("seed {seed}, {kills} random kills, {} failpoints", failpoints().count());
    let mut dice = Dice(seed);
    let start = Instant::now();
    let test = Test::new();
    let topic = test.topic("orders");
    let db = test.db();
    create_orders(&db);
    insert_old_rows(&db, ROWS);
    let file = test.write("headwater.yml", &config(&test, &topic));
    let file = file.to_str().expect("a path");
    let writers = Writers::start(&test, seed);

    let mut failpoints: Vec<&str> = failpoints().collect();
    for index in (1..failpoints.len()).rev() {
        failpoints.swap(index, dice.roll(index as u64 + 1) as usize);
    }
    for failpoint in failpoints {
        let armed = format!("{failpoint}=kill@{}", 1 + dice.roll(4));
        let mut run = Run::with_env(&test, &["run", "-c", file], &[("HEADWATER_FAILPOINTS", &armed)]);
        assert_eq!(run.wait(LIMIT), Exit::Signal(libc::SIGKILL), "armed with {armed}: {}", run.stderr());
    }
    for _ in 0..kills {
        let mut run = Run::start(&test, &["run", "-c", file]);
        let moment = Instant::now() + Duration::from_millis(50 + dice.roll(2500));
        while Instant::now() < moment {
            assert!(run.is_running(), "it ended by itself: {}", run.stderr());
            std::thread::park_timeout(moment - Instant::now());
        }
        run.kill();
    }
    let statements = writers.stop();
    let mut run = Run::start(&test, &["run", "-c", file, "--until-caught-up", "--format", "json"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());

    let messages = kafka::read_topic(&test.brokers, &topic, true);
    let counts = compare(&db, &messages, &test.path("lake"), &test.path("lake_dead_letters"));
    assert_eq!(staged_files(&test.path("checkpoints")), Vec::<std::path::PathBuf>::new(), "left in staging");
    println!(
        "{} source rows ({statements} writing messages), {} records, {} landed, {} dead letters, 0 lost, 0 duplicated, {:.0} s",
        counts.source,
        counts.topic,
        counts.landed,
        counts.dead,
        start.elapsed().as_secs_f64()
    );
    let mut verify = Run::start(&test, &["verify", "-c", file, "--format", "json"]);
    assert_eq!(verify.wait(LIMIT), Exit::Code(0), "{}\n{}", verify.stdout(), verify.stderr());
    assert_eq!(verify.json()["ok"], true);
}

#[test]
fn an_operation_that_fails_is_done_again() {
    let test = Test::new();
    let topic = test.topic("orders");
    let db = test.db();
    create_orders(&db);
    insert_old_rows(&db, 20_000);
    let file = test.write("headwater.yml", &config(&test, &topic));
    let armed: Vec<String> = failpoints().map(|name| format!("{name}=error@2")).collect();
    let arguments = ["run", "-c", file.to_str().expect("a path"), "--until-caught-up", "--format", "json"];
    let mut run = Run::with_env(&test, &arguments, &[("HEADWATER_FAILPOINTS", &armed.join(";"))]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    let messages = kafka::read_topic(&test.brokers, &topic, true);
    let counts = compare(&db, &messages, &test.path("lake"), &test.path("lake_dead_letters"));
    assert_eq!((counts.source, counts.topic, counts.landed, counts.dead), (20_000, 20_000, 19_960, 40));
}
