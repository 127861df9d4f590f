//! Brokers that have lost the end of a log, as after a power cut or an unclean election, and have gone on since: an
//! older directory of the partition is put back while the broker is down, and grows again.

use crate::{
    harness::{
        DEADLINE, PrivateServers, Run, Test, eventually,
        kafka::{create_topic, end_offsets, read_topic},
        lake::read_table,
        run::{Exit, losses},
    },
    landing::{self, Raw, Table, Writer},
};
use headwater::demo::servers::{KafkaOptions, PostgresOptions};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};

const DAY: &str = "2025-01-15T12:24:00Z";
const NEXT_DAY: &str = "2025-01-16T12:24:00Z";

/// Of the broker's data, the directories of these partitions as they are while it is down.
struct Older {
    directory: tempfile::TempDir,
    partitions: Vec<String>,
}

impl Older {
    fn of(own: &PrivateServers, partitions: Vec<String>) -> Older {
        let directory = tempfile::tempdir().expect("a directory");
        for partition in &partitions {
            copy(&own.servers.kafka.directory().join("data").join(partition), &directory.path().join(partition));
        }
        Older { directory, partitions }
    }

    fn put_back(&self, own: &PrivateServers) {
        for partition in &self.partitions {
            let place = own.servers.kafka.directory().join("data").join(partition);
            fs::remove_dir_all(&place).expect("the newer one goes");
            copy(&self.directory.path().join(partition), &place);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("the files").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

fn own() -> PrivateServers {
    PrivateServers::start(PostgresOptions::default(), KafkaOptions::default())
}

fn write(test: &Test, topic: &str, ids: std::ops::Range<i64>) {
    let writer = Writer::new(&test.brokers, topic);
    // Every fiftieth is of the next day.
    ids.for_each(|id| writer.order(0, id, if id % 50 == 7 { NEXT_DAY } else { DAY }));
    writer.flush();
}

/// How a command ends with these arguments, and what it printed.
fn ended(test: &Test, command: &[&str], more: &[&str]) -> (Exit, String) {
    let mut run = Run::start(test, &[command, more].concat());
    let exit = run.wait(DEADLINE);
    (exit, run.stdout())
}

#[track_caller]
fn wait_for_broker(test: &Test, topic: &str) {
    eventually(DEADLINE, "the broker", || end_offsets(&test.brokers, topic).len() == 1);
}

fn ids(table: &Table) -> Vec<i64> {
    let rows = read_table(&table.path);
    let mut ids: Vec<i64> = rows.iter().map(|row| row["order_id"].as_i64().expect("an id")).collect();
    ids.sort_unstable();
    ids
}

/// One log grows past where it was, where the old offset means another record; the other does not get there.
#[test]
fn a_landing_stops_where_the_log_is_another_and_lands_no_row_twice() {
    let mut own = own();
    let test = Test::on(&own.servers);
    let schema = landing::orders_schema(&test);
    let table = |name: &str| Table::orders_by_file(&test.path(name), &test.topic(name), &schema);
    let (grown, short, sound) = (table("grown"), table("short"), table("sound"));
    let tables = [&grown, &short, &sound];
    tables.iter().for_each(|table| create_topic(&test.brokers, &table.topic, 1, &[]));
    let config = landing::land_config(&test, &tables.map(Clone::clone), &["rotate_ms: 200"]);
    let file = test.write("land.yml", &config).display().to_string();
    let catch_up = |more: &[&str]| ended(&test, &["land", "-c", &file, "--until-caught-up"], more);
    write(&test, &grown.topic, 0..59);
    let writer = Writer::new(&test.brokers, &grown.topic);
    writer.send(&Raw { value: Some(b"no order".to_vec()), ..Raw::default() });
    writer.flush();
    write(&test, &short.topic, 0..60);
    write(&test, &sound.topic, 0..60);
    assert_eq!(catch_up(&[]).0, Exit::Code(0));
    let again = test.topic("again");
    create_topic(&test.brokers, &again, 1, &[]);
    let replay = || {
        let mut run = Run::start(&test, &["dlq", "replay", "-c", &file, "--all", "--to", &again]);
        assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
        read_topic(&test.brokers, &again, true).len()
    };
    assert_eq!(replay(), 1);
    own.servers.kafka.stop();
    let older = Older::of(&own, vec![format!("{}-0", grown.topic), format!("{}-0", short.topic)]);
    own.servers.kafka.restart().expect("the broker");
    wait_for_broker(&test, &sound.topic);
    for table in tables {
        write(&test, &table.topic, 60..100);
    }
    // Leaderships change without a loss, too.
    assert_eq!(catch_up(&[]).0, Exit::Code(0));
    own.servers.kafka.stop();
    older.put_back(&own);
    own.servers.kafka.restart().expect("the broker");
    wait_for_broker(&test, &sound.topic);
    write(&test, &grown.topic, 1_000..1_100);
    write(&test, &short.topic, 1_000..1_020);
    write(&test, &sound.topic, 100..120);
    assert_eq!(end_offsets(&test.brokers, &grown.topic)[&0], 160);
    assert_eq!(end_offsets(&test.brokers, &short.topic)[&0], 80);

    let (exit, told) = catch_up(&[]);
    assert_eq!(exit, Exit::Code(1), "{told}");
    let mut names = Vec::new();
    for table in [&grown, &short] {
        let name = format!("{}/0@100-log1", table.topic);
        assert!(told.contains(&format!("--accept-loss {name}")), "{told}");
        assert!(
            told.contains(&format!("partition 0 of topic {} is not the log that was landed", table.topic)),
            "{told}"
        );
        let orders = if table.topic == grown.topic { 0..59 } else { 0..60 };
        assert_eq!(ids(table), orders.chain(60..100).collect::<Vec<_>>(), "nothing of the other log");
        names.push(name);
    }
    assert_eq!(ids(&sound), (0..120).collect::<Vec<_>>());

    let (exit, told) = catch_up(&["--accept-loss", &names.join(",")]);
    assert_eq!(exit, Exit::Code(0), "{told}");
    assert_eq!(ids(&grown), (0..59).chain(60..100).chain(1_000..1_100).collect::<Vec<_>>());
    assert_eq!(replay(), 1, "what was replayed before is known by the log that it was of");
    assert_eq!(ids(&short), (0..100).chain(1_000..1_020).collect::<Vec<_>>());
    // What was accepted stays accepted.
    write(&test, &grown.topic, 2_000..2_010);
    write(&test, &short.topic, 2_000..2_010);
    assert_eq!(catch_up(&[]).0, Exit::Code(0));
    assert_eq!((ids(&grown).len(), ids(&short).len()), (209, 130));
}

/// The rows of the lost records are no others' to `verify`, and none is missing; a lake that is lost is landed again but
/// for these.
#[test]
fn what_a_truncated_log_has_left_in_the_lake_is_verified_and_restored() {
    let mut own = own();
    let test = Test::on(&own.servers);
    let schema = landing::orders_schema(&test);
    let [grown, short] =
        ["grown", "short"].map(|name| Table::orders_by_file(&test.path(name), &test.topic(name), &schema));
    let tables = [&grown, &short];
    tables.iter().for_each(|table| create_topic(&test.brokers, &table.topic, 1, &[]));
    let config = landing::land_config(&test, &tables.map(Clone::clone), &["rotate_ms: 200"]);
    let file = test.write("land.yml", &config).display().to_string();
    let catch_up = |more: &[&str]| ended(&test, &["land", "-c", &file, "--until-caught-up"], more);
    tables.iter().for_each(|table| write(&test, &table.topic, 0..60));
    assert_eq!(catch_up(&[]).0, Exit::Code(0));
    own.servers.kafka.stop();
    let older = Older::of(&own, tables.iter().map(|table| format!("{}-0", table.topic)).collect());
    own.servers.kafka.restart().expect("the broker");
    wait_for_broker(&test, &grown.topic);
    tables.iter().for_each(|table| write(&test, &table.topic, 60..100));
    assert_eq!(catch_up(&[]).0, Exit::Code(0));
    own.servers.kafka.stop();
    older.put_back(&own);
    own.servers.kafka.restart().expect("the broker");
    wait_for_broker(&test, &grown.topic);
    write(&test, &grown.topic, 1_000..1_100);
    write(&test, &short.topic, 1_000..1_020);
    let (exit, told) = catch_up(&[]);
    assert_eq!(exit, Exit::Code(1), "{told}");
    let names = tables.map(|table| format!("{}/0@100-log1", table.topic));
    let (exit, told) = catch_up(&["--accept-loss", &names.join(",")]);
    assert_eq!(exit, Exit::Code(0), "{told}");
    tables.iter().for_each(|table| write(&test, &table.topic, 2_000..2_010));
    assert_eq!(catch_up(&[]).0, Exit::Code(0));

    let verify = || {
        let mut run = Run::start(&test, &["verify", "-c", &file, "--format", "json"]);
        run.wait(DEADLINE);
        let report = run.json();
        let counts = ["lost_count", "duplicated_count", "differing_count", "expired_count"];
        counts.map(|name| report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}")))
    };
    let damaged = |day: &str| {
        let (file, away) = (file_from(&grown, day, 0), test.path("away.parquet"));
        fs::rename(&file, &away).expect("a file goes");
        let counts = verify();
        fs::rename(&away, &file).expect("and comes back");
        counts
    };
    assert_eq!(verify(), [0, 0, 0, 80]);
    assert_eq!(damaged("2025-01-15"), [58, 0, 0, 80], "its records are in the topic");
    let mut compact = Run::start(&test, &["compact", "-c", &file, "--quiet-minutes", "0"]);
    assert_eq!(compact.wait(DEADLINE), Exit::Code(0), "{}", compact.stderr());
    assert_eq!(verify(), [0, 0, 0, 80], "one file has rows of both");
    assert_eq!(damaged("2025-01-15"), [58, 0, 0, 40]);
    assert_eq!(damaged("2025-01-16"), [2, 0, 0, 80]);

    // A lake that is lost is landed again but for the lost records; of a file that is in the way they stay.
    let to = test.path("backup").display().to_string();
    let keep = |arguments: &[&str]| {
        let mut run = Run::start(&test, &[arguments, &["-c", &file, "--format", "json"]].concat());
        assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
        run.json()
    };
    keep(&["backup", "--to", &to]);
    fs::remove_file(file_from(&grown, "2025-01-16", 0)).expect("a file is lost");
    for path in [&grown.checkpoints, &short.checkpoints, &short.path] {
        fs::remove_dir_all(path).expect("a loss");
    }
    let restored = keep(&["restore", "--from", &to]);
    let missing: Vec<_> = restored["missing"].as_array().expect("a list").iter().collect();
    let is_lost = |loss: &serde_json::Value| (&loss["first_offset"], &loss["last_offset"]) == (&60.into(), &99.into());
    assert!(missing.len() == 1 && missing[0]["topic"] == short.topic && is_lost(missing[0]), "{restored}");
    assert_eq!(catch_up(&[]).0, Exit::Code(0));
    let again = |ids: std::ops::Range<i64>| (1_000..ids.end).chain(2_000..2_010);
    assert_eq!(ids(&grown), (0..100).chain(again(0..1_100)).collect::<Vec<_>>());
    assert_eq!(ids(&short), (0..60).chain(again(0..1_020)).collect::<Vec<_>>());
    assert_eq!(verify(), [0, 0, 0, 40]);
}

/// The file of a day that begins at an offset.
fn file_from(table: &Table, day: &str, offset: i64) -> PathBuf {
    let mut files =
        fs::read_dir(table.path.join(format!("date={day}"))).expect("the day").flatten().map(|it| it.path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        name.starts_with(&format!("part-{}-0-{offset}-", table.topic))
    };
    files.find(is_it).expect("a file")
}

/// The file of a job that counts in windows of two seconds what a topic holds.
fn counting(test: &Test, topic: &str, partitions: i32) -> String {
    let pg = &test.postgres;
    let config = json!({
        "pipeline": test.prefix,
        "postgres": {"host": pg.host, "port": pg.port, "db": pg.db, "user": pg.user, "tls_mode": "disable"},
        "kafka": {"brokers": test.brokers},
        "analyze": {"create_tables": true, "jobs": [{
            "name": "chat", "table": "windows", "retention_days": 36_500, "key_column": "stream_id", "window_duration": "2 s",
            "idle_timeout_ms": 500, "watermark_delay_ms": 1_000,
            "inputs": [{"name": "chat", "topic": topic, "key": "stream_id", "partitions": partitions}],
            "measures": [{"column": "chat_count", "function": "count"}],
        }]},
        "http": {"listen": null},
    });
    test.write("chat.yml", &config.to_string()).display().to_string()
}

/// So many events of now.
fn say(test: &Test, topic: &str, partition: i32, count: i64) {
    say_at(test, topic, partition, count, &chrono::Utc::now().to_rfc3339());
}

fn say_at(test: &Test, topic: &str, partition: i32, count: i64, at: &str) {
    let writer = Writer::new(&test.brokers, topic);
    for _ in 0..count {
        let value = json!({"stream_id": format!("s{partition}"), "timestamp": at}).to_string();
        writer.send(&Raw { partition, value: Some(value.into_bytes()), ..Raw::default() });
    }
    writer.flush();
}

/// A record of a transaction that is aborted: it and the mark behind it take two offsets.
fn abort_one(test: &Test, topic: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &test.brokers)
        .set("transactional.id", topic)
        .create()
        .expect("a producer");
    producer.init_transactions(DEADLINE).expect("transactions");
    producer.begin_transaction().expect("a transaction");
    let record = BaseRecord::<[u8], [u8]>::to(topic).partition(0).payload(b"{}");
    producer.send(record).map_err(|(error, _)| error).expect("room");
    producer.flush(DEADLINE).expect("delivery");
    producer.abort_transaction(DEADLINE).expect("the end of the transaction");
}

/// Nothing that landed or was counted is gone, and nobody has to accept anything. What comes in the place of the marks
/// is read, and read once.
#[test]
fn marks_of_transactions_that_are_gone_stop_nobody() {
    let mut own = own();
    let test = Test::on(&own.servers);
    let chat = test.topic("chat");
    let table = Table::orders_by_file(test.dir(), &test.topic("orders"), &landing::orders_schema(&test));
    let topics = [&chat, &table.topic];
    topics.iter().for_each(|topic| create_topic(&test.brokers, topic, 1, &[]));
    let job = counting(&test, &chat, 1);
    let config = landing::land_config(&test, std::slice::from_ref(&table), &["rotate_ms: 200"]);
    let land = test.write("land.yml", &config).display().to_string();
    let catch_up = || {
        for (stage, file) in [("land", &land), ("analyze", &job)] {
            let mut run = Run::start(&test, &[stage, "-c", file, "--until-caught-up"]);
            assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}{}", run.stdout(), run.stderr());
        }
        (ids(&table), test.db().count("SELECT sum(chat_count) FROM windows WHERE is_final"))
    };
    write(&test, &table.topic, 0..60);
    say(&test, &chat, 0, 60);
    catch_up();
    own.servers.kafka.stop();
    let older = Older::of(&own, topics.iter().map(|topic| format!("{topic}-0")).collect());
    own.servers.kafka.restart().expect("the broker");
    wait_for_broker(&test, &chat);
    topics.iter().for_each(|topic| abort_one(&test, topic));
    assert_eq!(end_offsets(&test.brokers, &chat)[&0], 62);
    assert_eq!(catch_up(), ((0..60).collect(), 60));
    own.servers.kafka.stop();
    older.put_back(&own);
    own.servers.kafka.restart().expect("the broker");
    wait_for_broker(&test, &chat);
    assert_eq!(end_offsets(&test.brokers, &chat)[&0], 60);
    assert_eq!(catch_up(), ((0..60).collect(), 60), "nothing has come in their place yet");
    write(&test, &table.topic, 60..70);
    say(&test, &chat, 0, 10);
    assert_eq!(catch_up(), ((0..70).collect(), 70));
    assert_eq!(catch_up(), ((0..70).collect(), 70), "after a restart");
}

/// A window of which the log has lost a part after it was final is not written again from the rest.
#[test]
fn a_job_that_begins_anew_after_its_log_was_truncated_keeps_its_final_windows() {
    let mut own = own();
    let test = Test::on(&own.servers);
    let topic = test.topic("chat");
    create_topic(&test.brokers, &topic, 1, &[]);
    let file = counting(&test, &topic, 1);
    let run = |arguments: &[&str]| {
        let mut run = Run::start(&test, arguments);
        (run.wait(DEADLINE), run.stdout() + &run.stderr())
    };
    let catch_up = ["analyze", "-c", &file, "--until-caught-up"];
    let [noon, two, three] = ["12:00", "14:00", "15:00"].map(|time| format!("2025-01-15T{time}:00Z"));
    let counted = |at: &str| {
        let count = "SELECT coalesce(sum(chat_count), 0)::bigint FROM windows WHERE is_final AND window_start =";
        test.db().count(&format!("{count} '{at}'"))
    };
    let counts = || [&noon, &two, &three].map(|at| counted(at));
    let say_bad = || {
        let writer = Writer::new(&test.brokers, &topic);
        writer.send(&Raw { value: Some(b"{}".to_vec()), ..Raw::default() });
        writer.flush();
    };
    // Each record that is no event has its dead letter, and no other record has one; the window that has lost records
    // differs from them.
    let verified = || {
        let mut run = Run::start(&test, &["verify", "-c", &file, "--format", "json"]);
        assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}", run.stderr());
        let job = run.json()["jobs"][0].clone();
        let count = |name: &str| job[name].as_u64().unwrap_or_else(|| panic!("no {name} in {job}"));
        let counts = ["missing_count", "unexpected_count", "differing_count"].map(count);
        assert_eq!(counts, [0, 0, 1], "{job}");
        assert!(job["warnings"].to_string().contains("was truncated and has grown again"), "{job}");
    };
    say_at(&test, &topic, 0, 1_000, &noon);
    say_bad();
    say_at(&test, &topic, 0, 10, &two);
    own.servers.kafka.stop();
    let older = Older::of(&own, vec![format!("{topic}-0")]);
    own.servers.kafka.restart().expect("the broker");
    wait_for_broker(&test, &topic);
    say_bad();
    say_at(&test, &topic, 0, 30, &two);
    let (exit, told) = run(&catch_up);
    assert_eq!((exit, counts()), (Exit::Code(0), [1_000, 40, 0]), "{told}");
    own.servers.kafka.stop();
    older.put_back(&own);
    own.servers.kafka.restart().expect("the broker");
    wait_for_broker(&test, &topic);
    say_at(&test, &topic, 0, 50, &three);
    say_bad();
    let (exit, told) = run(&catch_up);
    assert_eq!(exit, Exit::Code(1), "{told}");
    let (exit, told) = run(&[&catch_up[..], &["--accept-loss", &losses(&told)]].concat());
    assert_eq!((exit, counts()), (Exit::Code(0), [1_000, 40, 50]), "{told}");
    verified();
    for _ in 0..2 {
        let (exit, told) = run(&["reset", "-c", &file]);
        assert_eq!(exit, Exit::Code(0), "{told}");
        assert!(told.contains(&format!("{topic}-0 was truncated and has grown again")), "{told}");
        assert!(!told.contains("made anew"), "{told}");
        assert_eq!((run(&catch_up).0, counts()), (Exit::Code(0), [1_000, 40, 50]));
    }
    verified();
    let four = three.replace("15:", "16:");
    say_at(&test, &topic, 0, 7, &four);
    assert_eq!((run(&catch_up).0, counted(&four)), (Exit::Code(0), 7), "what comes later counts");
}

#[test]
fn a_job_stops_where_the_log_is_another_or_ends_before_its_offset() {
    let mut own = own();
    let test = Test::on(&own.servers);
    let topic = test.topic("chat");
    create_topic(&test.brokers, &topic, 2, &[]);
    let file = counting(&test, &topic, 2);
    let write = |partition: i32, count: i64| say(&test, &topic, partition, count);
    let catch_up = |more: &[&str]| ended(&test, &["analyze", "-c", &file, "--until-caught-up"], more);
    [0, 1].into_iter().for_each(|partition| write(partition, 60));
    assert_eq!(catch_up(&[]).0, Exit::Code(0));
    own.servers.kafka.stop();
    let older = Older::of(&own, vec![format!("{topic}-0"), format!("{topic}-1")]);
    own.servers.kafka.restart().expect("the broker");
    eventually(DEADLINE, "the broker", || end_offsets(&test.brokers, &topic).len() == 2);
    [0, 1].into_iter().for_each(|partition| write(partition, 40));
    let (exit, told) = catch_up(&[]);
    assert_eq!(exit, Exit::Code(0), "{told}");
    own.servers.kafka.stop();
    older.put_back(&own);
    own.servers.kafka.restart().expect("the broker");
    eventually(DEADLINE, "the broker", || end_offsets(&test.brokers, &topic).len() == 2);
    write(0, 100);
    write(1, 20);

    let (exit, told) = catch_up(&[]);
    assert_eq!(exit, Exit::Code(1), "{told}");
    for partition in [0, 1] {
        assert!(told.contains(&format!("{topic}-{partition} is not the log that was read")), "{told}");
    }
    let names = losses(&told);
    assert_eq!(names, format!("chat:{topic}/0@100-log1,chat:{topic}/1@100-log1"));
    let counted = || test.db().value("SELECT sum(chat_count) FROM windows WHERE is_final");
    assert_eq!(counted(), "200");
    let (exit, told) = catch_up(&["--accept-loss", &names]);
    assert_eq!(exit, Exit::Code(0), "{told}");
    // All of the first partition's new records: it is known where the logs part. Windows that are final stay.
    let of = |partition: i32| {
        test.db().value(&format!("SELECT sum(chat_count) FROM windows WHERE is_final AND stream_id = 's{partition}'"))
    };
    assert_eq!((of(0).as_str(), of(1).as_str()), ("200", "120"));
    [0, 1].into_iter().for_each(|partition| write(partition, 1));
    assert_eq!(catch_up(&[]).0, Exit::Code(0), "what was accepted stays accepted");
}
