//! Who may go on: two captures of the same thing, a topic without a checkpoint, another cluster.

use crate::{
    harness::{DEADLINE, Db, Test, eventually, kafka::create_topic, run::Exit},
    pipeline::{Stop, catch_up, committed, config, drain, said, start, write},
    reconcile::compare,
    workload::Target,
};
use headwater::demo::servers::{PostgresOptions, PostgresServer};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

const TABLE: Target = Target::new("rows", "created_at", "timestamp");

fn one_table(test: &Test, capture: Value) -> Value {
    config(test, capture, json!([{"table": "rows", "topic": test.topic("rows"), "watermark": "created_at"}]))
}

#[test]
fn the_older_of_two_captures_is_fenced_and_nothing_is_doubled() {
    let test = Test::new();
    let db = test.db();
    TABLE.create(&db);
    TABLE.fill(&db, 500, "1 day");
    let file = write(&test, "capture.yml", &one_table(&test, json!({"chunk_rows": 50})));
    let stop = AtomicBool::new(false);
    let mut second = std::thread::scope(|scope| {
        scope.spawn(|| {
            let db = test.db();
            while !stop.load(Ordering::Acquire) {
                db.execute("INSERT INTO rows (kind) SELECT 'meanwhile' FROM generate_series(1, 5)");
                db.execute("SELECT pg_sleep(0.02)");
            }
        });
        let stopping = Stop(&stop);
        let mut first = start(&test, &file, &[], &[]);
        eventually(DEADLINE, "the first capture's messages", || committed(&test, &test.topic("rows")).len() > 600);
        let second = start(&test, &file, &[], &[]);
        let exit = first.wait(DEADLINE);
        drop(stopping);
        assert_eq!(exit, Exit::Code(1), "{}", first.stderr());
        let log = said(&first);
        assert!(log.contains("fenced") && log.contains(&test.topic("capture")), "{log}");
        second
    });
    eventually(DEADLINE, "the second capture goes on", || {
        assert!(second.is_running(), "{}", second.stderr());
        compare(&db, &TABLE, &committed(&test, &test.topic("rows")), &[]).lost.is_empty()
    });
    drain(&mut second);
    let found = compare(&db, &TABLE, &committed(&test, &test.topic("rows")), &[]);
    eprintln!("two captures: {} rows, {} messages", found.rows, found.messages);
    found.assert_exact("two captures of one table");
}

#[test]
fn a_topic_with_messages_but_no_checkpoint_stops_until_told_how_to_go_on() {
    for option in ["--resync", "--from-now"] {
        let test = Test::new();
        let db = test.db();
        TABLE.create(&db);
        TABLE.fill(&db, 40, "1 day");
        let file = write(&test, "capture.yml", &one_table(&test, json!({})));
        catch_up(&test, &file, &[]);
        let first: Vec<_> = committed(&test, &test.topic("rows"));
        assert_eq!(first.len(), 40);

        let lost = json!({"checkpoint_topic": test.topic("other-checkpoints")});
        let file = write(&test, "capture.yml", &one_table(&test, lost));
        let mut stopped = start(&test, &file, &["--until-caught-up"], &[]);
        assert_eq!(stopped.wait(DEADLINE), Exit::Code(1), "{}", stopped.stderr());
        let log = said(&stopped);
        assert!(log.contains("--resync") && log.contains("--from-now"), "the cures are named: {log}");
        assert_eq!(committed(&test, &test.topic("rows")).len(), 40, "nothing is written by one that stops");

        db.execute("INSERT INTO rows (kind) VALUES ('before')");
        catch_up(&test, &file, &[option]);
        db.execute("INSERT INTO rows (kind) VALUES ('after')");
        catch_up(&test, &file, &[]);
        let new: Vec<Value> =
            committed(&test, &test.topic("rows"))[40..].iter().map(|message| message.json()).collect();
        let kinds: Vec<&str> = new.iter().filter_map(|row| row["kind"].as_str()).collect();
        let old = kinds.iter().filter(|kind| **kind == "old").count();
        let of_now = kinds.iter().filter(|kind| **kind == "before").count();
        assert_eq!(kinds.iter().filter(|kind| **kind == "after").count(), 1, "{option}: {kinds:?}");
        match option {
            "--resync" => assert_eq!((old, of_now), (40, 1), "every row again"),
            _ => assert_eq!((old, of_now), (0, 0), "only what is written from then on: {kinds:?}"),
        }
        let ids: HashSet<i64> = new.iter().filter_map(|row| row["id"].as_i64()).collect();
        assert_eq!(ids.len(), new.len(), "{option} doubles nothing in itself");
    }
}

#[test]
fn the_checkpoint_of_another_cluster_stops() {
    let mut test = Test::new();
    let db = test.db();
    TABLE.create(&db);
    TABLE.fill(&db, 10, "1 day");
    catch_up(&test, &write(&test, "capture.yml", &one_table(&test, json!({}))), &[]);

    // The same database as restored elsewhere: same table, other transaction ids.
    let other = PostgresServer::start(&test.path("other"), PostgresOptions::default()).expect("another cluster");
    test.postgres = other.config("postgres");
    let db = test.db();
    TABLE.create(&db);
    TABLE.fill(&db, 10, "1 day");
    let file = write(&test, "capture.yml", &one_table(&test, json!({})));
    let mut stopped = start(&test, &file, &["--until-caught-up"], &[]);
    assert_eq!(stopped.wait(Duration::from_secs(60)), Exit::Code(1), "{}", stopped.stderr());
    let log = said(&stopped);
    assert!(log.contains("system_identifier") || log.contains("system identifier"), "{log}");
    assert!(log.contains("--resync"), "the cure is named: {log}");
    assert_eq!(committed(&test, &test.topic("rows")).len(), 10);

    catch_up(&test, &file, &["--resync"]);
    assert_eq!(committed(&test, &test.topic("rows")).len(), 20);
}

/// A copy of a server's files, running on its own.
fn copied(test: &Test, of: &PostgresServer, name: &str) -> PostgresServer {
    let mut copy = PostgresServer::start(&test.path(name), PostgresOptions::default()).expect("a cluster");
    copy.stop();
    let into = copy.directory().join("data");
    // Its port, and where its socket lies.
    let settings = std::fs::read(into.join("postgresql.conf")).expect("its settings");
    std::fs::remove_dir_all(&into).expect("its data can go");
    let mut command = std::process::Command::new("cp");
    command.arg("-a").arg(of.directory().join("data")).arg(&into);
    assert!(command.status().expect("cp").success());
    std::fs::write(into.join("postgresql.conf"), settings).expect("its settings");
    copy.restart().expect("the copy");
    copy
}

/// Uses up transaction ids until they are beyond those of another database.
fn overtake(db: &Db, other: &Db) {
    let goal = other.count("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8") + 10;
    while db.count("SELECT pg_current_xact_id()::text::int8") < goal {}
}

#[test]
fn a_restored_copy_is_refused_also_when_its_ids_have_caught_up() {
    let mut test = Test::new();
    let mut server = PostgresServer::start(&test.path("server"), PostgresOptions::default()).expect("a cluster");
    test.postgres = server.config("postgres");
    let db = test.db();
    TABLE.create(&db);
    TABLE.fill(&db, 10, "1 day");
    let capture = |test: &Test, arguments: &[&str]| {
        let file = write(test, "capture.yml", &one_table(test, json!({})));
        let mut run = start(test, &file, &[&["--until-caught-up"], arguments].concat(), &[]);
        (run.wait(DEADLINE), said(&run))
    };
    let refused = |(exit, log): (Exit, String), reason: &str| {
        assert_eq!(exit, Exit::Code(1), "{log}");
        assert!(log.contains(reason) && log.contains("--resync"), "{log}");
    };
    assert_eq!(capture(&test, &[]).0, Exit::Code(0));
    one_of(&db, "before the copy");
    assert_eq!(capture(&test, &[]).0, Exit::Code(0));
    db.execute("CHECKPOINT");
    server.stop();
    let copies = ["early", "silent", "busy"].map(|name| copied(&test, &server, name));
    server.restart().expect("the server");
    drop(db);
    let db = test.db();
    let original = server.config("postgres");
    for n in 0..4 {
        one_of(&db, &format!("{n}"));
        assert_eq!(capture(&test, &[]).0, Exit::Code(0));
    }

    // One that was seen while its ids were behind stays refused.
    test.postgres = copies[0].config("postgres");
    refused(capture(&test, &[]), "lies in the future of this database");
    overtake(&test.db(), &db);
    test.db().execute("UPDATE rows SET writer = 7");
    refused(capture(&test, &[]), "lies in the future of this database");
    test.postgres = original.clone();
    assert_eq!(capture(&test, &[]).0, Exit::Code(0), "the database itself goes on");
    one_of(&db, "goes on");
    assert_eq!(capture(&test, &[]).0, Exit::Code(0));

    // One that comes late lacks the rows that were captured last.
    test.postgres = copies[1].config("postgres");
    overtake(&test.db(), &db);
    refused(capture(&test, &[]), "rows that were captured last are not in this database");
    test.postgres = original.clone();
    assert_eq!(capture(&test, &[]).0, Exit::Code(0));

    // One that is at work gives their keys to others.
    test.postgres = copies[2].config("postgres");
    (0..8).for_each(|_| one_of(&test.db(), "another history"));
    overtake(&test.db(), &db);
    refused(capture(&test, &[]), "is not so in this database: it is a restored copy");
    assert!(!committed(&test, &test.topic("rows")).iter().any(|row| row.json()["kind"] == "another history"));
    assert_eq!(capture(&test, &["--resync"]).0, Exit::Code(0));
    assert_eq!(capture(&test, &[]).0, Exit::Code(0), "this is the one that is captured now");
}

fn one_of(db: &Db, kind: &str) {
    db.execute(&format!("INSERT INTO rows (kind) VALUES ('{kind}')"));
}

#[test]
fn a_standby_and_the_timeline_of_a_promoted_one_are_refused() {
    let mut test = Test::new();
    let mut server = PostgresServer::start(&test.path("server"), PostgresOptions::default()).expect("a cluster");
    test.postgres = server.config("postgres");
    let db = test.db();
    TABLE.create(&db);
    TABLE.fill(&db, 10, "1 day");
    drop(db);
    let file = write(&test, "capture.yml", &one_table(&test, json!({})));
    catch_up(&test, &file, &[]);

    std::fs::write(server.directory().join("data/standby.signal"), "").expect("the signal");
    server.restart().expect("a standby");
    let mut stopped = start(&test, &file, &["--until-caught-up"], &[]);
    assert_eq!(stopped.wait(DEADLINE), Exit::Code(1), "{}", stopped.stderr());
    let log = said(&stopped);
    assert!(log.contains("standby") && log.contains("connect to the primary"), "{log}");

    let db = test.db();
    assert_eq!(db.value("SELECT pg_promote()"), "t");
    db.execute("INSERT INTO rows (kind) VALUES ('promoted')");
    drop(db);
    let mut stopped = start(&test, &file, &["--until-caught-up"], &[]);
    assert_eq!(stopped.wait(DEADLINE), Exit::Code(1), "{}", stopped.stderr());
    let log = said(&stopped);
    assert!(log.contains("timeline 00000001, this is 00000002") && log.contains("--resync"), "{log}");
    assert_eq!(committed(&test, &test.topic("rows")).len(), 10, "nothing is written by those that stop");

    catch_up(&test, &file, &["--resync"]);
    assert_eq!(committed(&test, &test.topic("rows")).len(), 21);
}

/// Rows are kept beside the checkpoint by the texts of their keys, to tell a restored copy. Another key has other texts.
#[test]
fn another_key_is_no_other_database() {
    let test = Test::new();
    let db = test.db();
    // Made beforehand, with more partitions than are read.
    create_topic(&test.brokers, &test.topic("checkpoints"), 3, &[("cleanup.policy", "compact")]);
    db.execute(
        "CREATE TYPE mood AS ENUM ('glad', 'sad');
         CREATE TABLE rows (id text PRIMARY KEY, mood mood NOT NULL UNIQUE, no int, at timestamptz NOT NULL DEFAULT now());
         INSERT INTO rows VALUES ('1', 'glad', 2)",
    );
    let file = |key: &str| {
        let table = json!({"table": "rows", "topic": test.topic("rows"), "watermark": "at", "key": [key]});
        write(&test, "capture.yml", &config(&test, json!({}), json!([table])))
    };
    let mut count = 0;
    let mut captures = |key: &str, id: &str| {
        catch_up(&test, &file(key), &[]);
        count += 1;
        let messages = committed(&test, &test.topic("rows"));
        assert_eq!(messages.len(), count, "{key}");
        assert_eq!(messages.last().expect("a row").json()["id"], id);
    };
    captures("id", "1");
    // While nobody looks, and from one run to the next.
    db.execute("DELETE FROM rows; ALTER TABLE rows ALTER COLUMN id TYPE uuid USING gen_random_uuid()");
    db.execute("INSERT INTO rows VALUES ('00000000-0000-0000-0000-000000000002', 'glad', 1)");
    captures("id", "00000000-0000-0000-0000-000000000002");
    db.execute("UPDATE rows SET at = now()");
    captures("mood", "00000000-0000-0000-0000-000000000002");
    db.execute("ALTER TYPE mood RENAME VALUE 'glad' TO 'merry'; UPDATE rows SET at = now()");
    captures("mood", "00000000-0000-0000-0000-000000000002");
    db.execute(
        "ALTER TABLE rows ALTER COLUMN no SET NOT NULL; ALTER TABLE rows ADD UNIQUE (no); UPDATE rows SET at = now()",
    );
    captures("no", "00000000-0000-0000-0000-000000000002");
}
