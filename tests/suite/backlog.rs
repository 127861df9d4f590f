//! What came while nobody polled is read in chunks, between which new rows arrive; and nothing is vouched for that a
//! crash of PostgreSQL could still take back.

use crate::{
    harness::{DEADLINE, Db, Test, eventually},
    pipeline::{catch_up, committed, config, drain, start, write},
    reconcile::compare,
    workload::Target,
};
use headwater::demo::servers::{PostgresOptions, PostgresServer};
use serde_json::{Value, json};
use std::time::Duration;

const TABLE: Target = Target::new("rows", "created_at", "timestamp");

fn one_table(test: &Test, capture: Value) -> Value {
    config(test, capture, json!([{"table": "rows", "topic": test.topic("rows"), "watermark": "created_at"}]))
}

fn exact(test: &Test, db: &Db, what: &str) {
    compare(db, &TABLE, &committed(test, &test.topic("rows")), &[]).assert_exact(what);
}

#[test]
fn a_backlog_is_read_in_chunks_while_new_rows_arrive() {
    let test = Test::new();
    let db = test.db();
    TABLE.create(&db);
    TABLE.fill(&db, 300, "2 days");
    let file = write(&test, "capture.yml", &one_table(&test, json!({"chunk_rows": 100})));
    catch_up(&test, &file, &[]);

    // One transaction of many subtransactions, several small ones, some rows of the first load updated.
    db.execute(
        "DO $$ BEGIN FOR n IN 1..2000 LOOP
           BEGIN INSERT INTO rows (kind) VALUES ('subtransaction'); EXCEPTION WHEN division_by_zero THEN NULL; END;
         END LOOP; END $$",
    );
    for _ in 0..20 {
        db.execute("INSERT INTO rows (kind) SELECT 'while away' FROM generate_series(1, 150)");
    }
    db.execute("UPDATE rows SET mark = DEFAULT, created_at = DEFAULT, kind = 'updated while away' WHERE id <= 130");

    // Beyond the slack, so that all of it is a backlog; what is newer belongs to the polls.
    db.execute("SELECT pg_sleep(1.5)");
    // Stands still behind a few of some fifty chunks.
    let mut run = start(&test, &file, &[], &[("HEADWATER_FAILPOINTS", "capture.after_commit=stop@8")]);
    eventually(DEADLINE, "the failpoint", || run.is_stopped());
    assert!(run.stderr().contains("backlog of rows"), "{}", run.stderr());
    db.execute("INSERT INTO rows (kind) VALUES ('in between')");
    // Rows that the backlog has given, and some that it has not, move on.
    db.execute("UPDATE rows SET mark = DEFAULT, created_at = DEFAULT, kind = 'moved' WHERE id % 500 = 0");
    run.go_on();
    run.wait_for_log("backlog of rows is done");
    drain(&mut run);
    catch_up(&test, &file, &[]);
    exact(&test, &db, "a backlog");

    let messages = committed(&test, &test.topic("rows"));
    let place = |kind: &str| messages.iter().rposition(|message| message.json()["kind"] == kind).expect("a message");
    let (new, old) = (place("in between"), place("while away"));
    assert!(new < old, "a new row at {new} did not wait for the last of the backlog at {old}");
}

/// An old transaction holds back what is settled, and its many subtransactions lie between the ids of others.
#[test]
fn a_backlog_beside_a_transaction_that_stays_open() {
    let test = Test::new();
    let db = test.db();
    TABLE.create(&db);
    let file = write(&test, "capture.yml", &one_table(&test, json!({"chunk_rows": 100})));
    catch_up(&test, &file, &[]);
    let old = test.db();
    old.execute("BEGIN; INSERT INTO rows (kind) VALUES ('old')");
    for n in 0..300 {
        db.execute("INSERT INTO rows (kind) VALUES ('between')");
        old.execute(&format!("SAVEPOINT s{n}; INSERT INTO rows (kind) VALUES ('old, in a savepoint')"));
    }
    catch_up(&test, &file, &[]);
    catch_up(&test, &file, &[]);
    old.execute("COMMIT");
    catch_up(&test, &file, &[]);
    exact(&test, &db, "a backlog beside an open transaction");
}

/// With `synchronous_commit = off` a transaction is seen before it is on disk, and a crash gives its id to another.
#[test]
fn what_a_crash_of_postgresql_takes_back_was_not_published() {
    let mut test = Test::new();
    let settings = [("synchronous_commit", "off"), ("wal_writer_delay", "10s"), ("wal_writer_flush_after", "2GB")];
    let options = PostgresOptions {
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..PostgresOptions::default()
    };
    let mut server = PostgresServer::start(&test.path("postgres"), options).expect("a PostgreSQL");
    test.postgres = server.config("postgres");
    TABLE.create(&test.db());
    let file = write(&test, "capture.yml", &one_table(&test, json!({"poll_interval_ms": 20})));
    let mut run = start(&test, &file, &[], &[]);
    for round in 1..=3_usize {
        let db = test.db();
        // A writer that is idle in its transaction has written what nobody flushes for it.
        let idle = test.db();
        idle.execute("BEGIN; INSERT INTO rows (kind) VALUES ('never committed')");
        for _ in 0..50 {
            db.execute("INSERT INTO rows (kind) VALUES ('not yet on disk')");
        }
        let published = || committed(&test, &test.topic("rows")).len();
        eventually(DEADLINE, "rows that are published", || published() >= 50 * round);
        drop((db, idle));
        server.kill();
        server.restart().expect("the server again");
    }
    let db = test.db();
    db.execute("INSERT INTO rows (kind) SELECT 'after the crashes' FROM generate_series(1, 30)");
    eventually(Duration::from_secs(120), "every row in the topic", || {
        compare(&db, &TABLE, &committed(&test, &test.topic("rows")), &[]).lost.is_empty()
    });
    drain(&mut run);
    exact(&test, &db, "crashes of PostgreSQL");
}
