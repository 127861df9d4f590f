//! Commands whose output nobody reads any more, as in `headwater doctor | head`, or cannot be kept.

use crate::{
    dlq::scene::{Orders, PARTITIONS},
    harness::{DEADLINE, Run, Test, eventually, kafka::read_topic, lake, run::Exit},
    landing::Writer,
};
use headwater::demo::servers::lease_port;
use std::{fs::File, process::Command};

/// A thousand orders, the first of which is refused.
const ORDERS: &str = "CREATE TABLE orders (
        order_id bigint PRIMARY KEY, amount numeric(10,2), created_at timestamptz NOT NULL);
    INSERT INTO orders SELECT n, n - 2, '2025-01-15T12:00:00Z' FROM generate_series(1, 1000) n";

fn run(test: &Test, arguments: &[&str]) -> (Exit, String) {
    let mut run = Run::start(test, arguments);
    (run.wait(DEADLINE), run.stderr())
}

/// How it ends where nobody reads what it prints, or neither that nor what it complains of.
#[track_caller]
fn unread(test: &Test, arguments: &[&str], is_silent: bool) -> Exit {
    let mut run = Run::unread(test, arguments, is_silent);
    let exit = run.wait(DEADLINE);
    let stderr = run.stderr();
    assert!(!stderr.contains("panicked") && !stderr.contains("roken pipe"), "{arguments:?}: {stderr}");
    exit
}

#[test]
fn every_command_ends_as_it_would_before_a_reader() {
    let test = Test::new();
    test.db().execute(ORDERS);
    let port = lease_port().expect("a free port");
    let text =
        test.short_form("orders", &test.topic("orders")).replace("127.0.0.1:0", &format!("127.0.0.1:{}", port.port()));
    let file = &*test.write("orders.yml", &text).display().to_string();
    let series = &*test.write("series.csv", "0,1\n60,2\n120,1\n180,2\n").display().to_string();
    let (topic, lines) = (&*test.topic("orders"), &*test.path("letters.ndjson").display().to_string());
    assert_eq!(unread(&test, &["run", "-c", file, "--until-caught-up"], false), Exit::Code(0));
    let refused = lake::dead_letters(&test.path("lake_dead_letters"));
    let record = &*format!("{topic}/{}/{}", refused[0].partition, refused[0].offset);
    for arguments in [
        &["--help"][..],
        &["dlq", "list", "--help"],
        &["completions", "bash"],
        &["reference"],
        &["validate", "--schema"],
        &["validate", "-c", file],
        &["validate", "-c", file, "--show"],
        &["doctor", "-c", file],
        &["doctor", "-c", file, "--format", "json"],
        &["topics", "-c", file, "--dry-run"],
        &["topics", "-c", file],
        // Nothing runs there.
        &["status", "-c", file],
        &["status", "-c", file, "--address"],
        &["verify", "-c", file],
        &["verify", "-c", file, "--format", "json"],
        &["run", "-c", file, "--until-caught-up"],
        &["dlq", "list", "-c", file],
        &["dlq", "show", "-c", file, record],
        &["dlq", "show", "-c", file, record, "--raw"],
        &["dlq", "export", "-c", file, "--to", "-"],
        &["dlq", "replay", "-c", file, "--all", "--dry-run"],
        &["compact", "-c", file, "--quiet-minutes", "0"],
        &["compact", "-c", file, "--dry-run"],
        &["expire", "-c", file, "--older-than-days", "36000"],
        &["anomalies", "--backtest", series],
        &["generate", "orders", "-c", file, "--table", "others", "--bulk", "10"],
    ] {
        let (exit, stderr) = run(&test, arguments);
        assert!(matches!(exit, Exit::Code(0 | 1)), "{arguments:?}: {exit:?} {stderr}");
        assert_eq!(unread(&test, arguments, false), exit, "{arguments:?}: {stderr}");
        assert_eq!(unread(&test, arguments, true), exit, "{arguments:?} without stderr: {stderr}");
    }
    let exported = ["dlq", "export", "-c", file, "--to", lines];
    assert_eq!(unread(&test, &exported, false), Exit::Code(0));
    assert_eq!(std::fs::read_to_string(lines).unwrap_or_default().lines().count(), refused.len());
    let backup = test.path("backup").display().to_string();
    assert_eq!(unread(&test, &["backup", "-c", file, "--to", &backup], false), Exit::Code(0));
    assert_eq!(unread(&test, &["restore", "-c", file, "--from", &backup], false), Exit::Code(0));

    let mut running = Run::start(&test, &["run", "-c", file]);
    running.http();
    for arguments in [&["status", "-c", file][..], &["status", "-c", file, "--watch=1"]] {
        assert!(matches!(unread(&test, arguments, false), Exit::Code(0 | 1)), "{arguments:?}");
    }
    running.terminate();
    assert_eq!(running.wait(DEADLINE), Exit::Code(0));
}

#[test]
fn work_is_finished_though_nobody_reads_of_it() {
    let orders = Orders::new();
    orders.write_refused(40);
    orders.land(&[]);
    let target = orders.target("again", 1);
    let replay = ["dlq", "replay", "-c", &orders.file, "--all", "--to", &target];
    assert_eq!(unread(&orders.test, &replay, true), Exit::Code(0));
    assert_eq!(read_topic(&orders.test.brokers, &target, true).len(), 40);

    // Each landing leaves a file for each partition.
    let writer = Writer::new(&orders.test.brokers, &orders.table.topic);
    for id in 0..60 {
        writer.order(id as i32 % PARTITIONS, id, "2025-01-15T12:00:00Z");
        if id % 20 == 19 {
            writer.flush();
            orders.land(&[]);
        }
    }
    let files = || lake::table_files(&orders.table.path).len();
    let before = files();
    assert_eq!(unread(&orders.test, &["compact", "-c", &orders.file, "--quiet-minutes", "0"], true), Exit::Code(0));
    assert!(files() < before, "{before} files, and nothing was merged");
    assert_eq!(lake::read_table(&orders.table.path).len(), 60);
}

/// The log of a stage may end before it, as where `2>&1 | tee log` was ended.
#[test]
fn a_stage_outlives_the_reader_of_its_log() {
    let test = Test::new();
    test.db().execute(ORDERS);
    let text = test.short_form("orders", &test.topic("orders"));
    let file = test.write("orders.yml", &text).display().to_string();
    let mut pipeline = Run::unread(&test, &["run", "-c", &file], true);
    eventually(DEADLINE, "all rows landed", || lake::read_table(&test.path("lake")).len() == 999);
    pipeline.terminate();
    assert_eq!(pipeline.wait(DEADLINE), Exit::Code(0));
}

#[test]
fn output_that_cannot_be_kept_is_a_failure() {
    let test = Test::new();
    let to_full_disk = |arguments: &[&str]| {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let output = Command::new(env!("CARGO_BIN_EXE_headwater")).args(arguments).stdout(full).output();
        let output = output.expect("headwater");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    for arguments in [&["reference"][..], &["completions", "zsh"], &["validate", "--schema"]] {
        let (code, stderr) = to_full_disk(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("headwater: ") && stderr.contains("No space left"), "{stderr}");
    }
    // Its own code says more.
    let file = test.write("c.yml", "kafka: {}\nhttp: {listen: '127.0.0.1:1'}\n").display().to_string();
    let (code, stderr) = to_full_disk(&["doctor", "-c", &file]);
    assert!(code.is_some_and(|code| code != 0) && stderr.contains("No space left"), "{code:?} {stderr}");
}
