//! Memory and file handles stay bounded, however many dates or records there are.

use crate::harness::{Run, Test, kafka::create_topic, lake, run::Exit};
use crate::landing::{self, Table, Writer, number};
use std::{collections::BTreeSet, path::Path, time::Duration};

const MEMORY_BYTES: u64 = 256 << 20;
const LIMIT: Duration = Duration::from_secs(600);

/// The most that a process has used.
#[derive(Debug, Default)]
struct Peak {
    memory_bytes: u64,
    handles: usize,
}

/// Watches the process until it ends.
fn watch(run: &mut Run) -> (Peak, Exit) {
    let mut peak = Peak::default();
    let directory = format!("/proc/{}", run.pid());
    let deadline = std::time::Instant::now() + LIMIT;
    while run.is_running() {
        assert!(std::time::Instant::now() < deadline, "not done within {LIMIT:?}");
        let handles = std::fs::read_dir(format!("{directory}/fd")).map_or(0, Iterator::count);
        peak.handles = peak.handles.max(handles);
        let status = std::fs::read_to_string(format!("{directory}/status")).unwrap_or_default();
        let kibibytes =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak.memory_bytes = peak.memory_bytes.max(kibibytes.map_or(0, |kibibytes: u64| kibibytes * 1024));
        std::thread::sleep(Duration::from_millis(5));
    }
    (peak, run.wait(LIMIT))
}

/// Lands the table to its end and checks what it took.
fn land_within(test: &Test, table: &Table, settings: &[&str], handles: usize) {
    let config = landing::land_config(test, std::slice::from_ref(table), settings);
    let file = test.write("land.yml", &config).display().to_string();
    let mut run = Run::start(test, &["land", "-c", &file, "--until-caught-up", "--format", "json"]);
    let (peak, exit) = watch(&mut run);
    assert_eq!(exit, Exit::Code(0));
    let mebibytes = peak.memory_bytes >> 20;
    println!("{mebibytes} MiB, {} handles, {} s", peak.handles, run.json()["seconds"]);
    assert!(peak.memory_bytes > 0 && peak.handles > 0, "it was watched: {peak:?}");
    assert!(peak.memory_bytes <= MEMORY_BYTES, "{mebibytes} MiB");
    assert!(peak.handles <= handles, "{} file handles", peak.handles);
}

#[test]
fn many_distinct_dates_exhaust_neither_memory_nor_file_handles() {
    let dates = number("HEADWATER_TEST_DATES", 5_000);
    let test = Test::new();
    let schema = landing::orders_schema(&test);
    let table = Table::orders_by_file(test.dir(), &test.topic("orders"), &schema);
    create_topic(&test.brokers, &table.topic, 1, &[]);
    let writer = Writer::new(&test.brokers, &table.topic);
    let first = chrono::NaiveDate::from_ymd_opt(1000, 1, 1).expect("a date");
    for n in 0..dates {
        let date = first + chrono::Days::new(u64::try_from(n).expect("small") % 3_000_000);
        writer.order(0, i64::try_from(n).expect("small"), &format!("{date}T12:00:00Z"));
    }
    writer.flush();
    // Far fewer than the dates, so that batches must close by their number of files.
    land_within(&test, &table, &["rotate_ms: 60000", "buffer_bytes: 8388608", "max_files: 300"], 300);
    let landed = table.positions();
    assert_eq!(landed.len(), dates);
    assert_eq!(landed.into_iter().collect::<BTreeSet<_>>().len(), dates);
    let directories = std::fs::read_dir(&table.path).expect("the table").count();
    assert_eq!(directories, dates, "a directory for each date");
    assert!(table.staged().is_empty());
    table.assert_layout();
}

#[test]
fn dates_in_turn_share_one_small_buffer() {
    const DATES: usize = 300;
    let records = number("HEADWATER_TEST_INTERLEAVED", 60_000);
    let test = Test::new();
    let schema = landing::orders_schema(&test);
    let table = Table::orders_by_file(test.dir(), &test.topic("orders"), &schema);
    create_topic(&test.brokers, &table.topic, 2, &[]);
    let writer = Writer::new(&test.brokers, &table.topic);
    let first = chrono::NaiveDate::from_ymd_opt(2025, 1, 1).expect("a date");
    for n in 0..records {
        let date = first + chrono::Days::new(u64::try_from(n % DATES).expect("small"));
        writer.order(
            i32::try_from(n % 2).expect("small"),
            i64::try_from(n).expect("small"),
            &format!("{date}T12:00:00Z"),
        );
    }
    writer.flush();
    // 12 MB of payloads through a buffer of 1 MiB.
    land_within(&test, &table, &["rotate_ms: 60000", "buffer_bytes: 1048576"], 300);
    let batches: BTreeSet<String> = lake::table_files(&table.path).iter().map(|file| batch_of(file)).collect();
    let least = records * 200 / (1 << 20) / 2;
    assert!(batches.len() >= least, "{} batches: the buffer must have closed at least {least}", batches.len());
    let written = landing::written(&test, &table.topic);
    assert_eq!(written.len(), records);
    table.assert_exactly(&written);
}

/// What the names of all files of a batch begin with: topic, partition, first and last offset.
fn batch_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.rsplit_once('-').expect("a name with the file's number").0.to_owned()
}

#[test]
fn a_backlog_of_any_length_takes_bounded_memory() {
    const PARTITIONS: i32 = 3;
    let records = number("HEADWATER_TEST_BACKLOG", 2_000_000);
    let test = Test::new();
    landing::create_orders(&test);
    let table = Table::orders(test.dir(), &test.topic("orders"));
    create_topic(&test.brokers, &table.topic, PARTITIONS, &[]);
    let writer = Writer::new(&test.brokers, &table.topic);
    for n in 0..i64::try_from(records).expect("small") {
        let day = n * 5 / i64::try_from(records).expect("small") + 10;
        writer.order(i32::try_from(n % i64::from(PARTITIONS)).expect("small"), n, &format!("2025-01-{day}T12:24:00Z"));
    }
    writer.flush();
    // No batch closes by its age: what bounds them is the buffer.
    land_within(&test, &table, &["rotate_ms: 600000"], 300);
    let landed = table.positions();
    assert_eq!(landed.len(), records);
    assert_eq!(landed.into_iter().collect::<BTreeSet<_>>().len(), records);
    assert!(table.staged().is_empty() && table.dead_positions().is_empty());
}
