//! Polls and first loads that need many Kafka transactions, killed between any two of them, while rows
//! move: updated before they were published and after, and new ones beside them.

use crate::{
    harness::{Db, Test, kafka::end_offsets, run::Exit},
    pipeline::{Stop, catch_up, committed, config, setting, start, write},
    reconcile::compare,
    workload::{Random, Target},
};
use serde_json::json;
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const TABLE: Target = Target::new("rows", "created_at", "timestamp");

/// Runs captures that each die at `failpoint`, at the hit that `between` gives for the number of deaths so
/// far, until one comes to its end.
fn die_until_caught_up(test: &Test, file: &Path, failpoint: &str, mut between: impl FnMut(u64) -> u64) -> u64 {
    let most = setting("HEADWATER_CHUNK_KILLS", 150);
    for kills in 0..most {
        let failpoint = format!("{failpoint}=kill@{}", between(kills));
        let mut run = start(test, file, &["--until-caught-up"], &[("HEADWATER_FAILPOINTS", &failpoint)]);
        match run.wait(Duration::from_secs(60)) {
            Exit::Code(0) => return kills,
            Exit::Signal(libc::SIGKILL) => {}
            other => panic!("{other:?} instead of an end or a kill:\n{}", run.stderr()),
        }
    }
    panic!("{failpoint}: not caught up after {most} kills");
}

/// A new version and watermark for some old rows and some new ones, and new rows beside them.
fn move_rows(db: &Db, random: &mut Random, rows: u64) {
    for _ in 0..3 {
        let from = random.below(rows);
        db.execute(&format!(
            "UPDATE rows SET mark = DEFAULT, created_at = DEFAULT, kind = 'moved' WHERE id BETWEEN {from} AND {from} + 2"
        ));
    }
    // The newest are just now being published, or about to be.
    db.execute("UPDATE rows SET mark = DEFAULT, created_at = DEFAULT, kind = 'moved late' WHERE id = (SELECT max(id) - 5 FROM rows)");
    db.execute("INSERT INTO rows (kind) VALUES ('between kills')");
}

fn check(test: &Test, db: &Db, kills: u64, at_least: u64, begun: Instant, what: &str) {
    let found = compare(db, &TABLE, &committed(test, &test.topic("rows")), &[]);
    eprintln!(
        "{what}: {kills} kills, {} rows, {} messages, {} lost, {} duplicated, {:.1} s",
        found.rows,
        found.messages,
        found.lost.len(),
        found.duplicated.len(),
        begun.elapsed().as_secs_f64()
    );
    found.assert_exact(what);
    assert!(kills >= at_least, "{what}: {kills} kills, of {at_least} at least");
}

/// Several small source transactions, one of 750 rows, one with subtransactions, one of updates; 60 rows
/// fit into a Kafka transaction.
fn poll_killed_at(failpoint: &str, hit: u64) {
    let test = Test::new();
    let db = test.db();
    TABLE.create(&db);
    TABLE.fill(&db, 300, "2 days");
    let keys = json!({"max_transaction_rows": 60, "chunk_rows": 60});
    let tables = json!([{"table": "rows", "topic": test.topic("rows"), "watermark": "created_at", "partitions": 2}]);
    let file = write(&test, "capture.yml", &config(&test, keys, tables));
    catch_up(&test, &file, &[]);
    let loaded = committed(&test, &test.topic("rows")).len();
    assert_eq!(loaded, 300);

    let begun = Instant::now();
    for n in 0..4 {
        db.execute(&format!("INSERT INTO rows (kind) SELECT 'small {n}' FROM generate_series(1, 25)"));
    }
    db.execute("INSERT INTO rows (kind, note) SELECT 'one large transaction', repeat('x', n % 90) FROM generate_series(1, 750) n");
    db.execute("BEGIN; INSERT INTO rows (kind) SELECT 'top' FROM generate_series(1, 40)");
    for n in 0..3 {
        db.execute(&format!(
            "SAVEPOINT s{n}; INSERT INTO rows (kind) SELECT 'savepoint {n}' FROM generate_series(1, 90)"
        ));
    }
    db.execute("ROLLBACK TO s2; COMMIT");
    db.execute("UPDATE rows SET mark = DEFAULT, created_at = DEFAULT, kind = 'updated at once' WHERE id <= 130");

    let mut random = Random::new(setting("HEADWATER_SEED", 3));
    let kills = die_until_caught_up(&test, &file, failpoint, |kills| {
        if (1..=12).contains(&kills) {
            move_rows(&db, &mut random, 1_300);
        }
        hit
    });
    // A last run finds nothing left to do: what the killed ones wrote is all there is.
    let before = end_offsets(&test.brokers, &test.topic("rows"));
    catch_up(&test, &file, &[]);
    assert_eq!(end_offsets(&test.brokers, &test.topic("rows")), before, "a poll without news writes nothing");
    check(&test, &db, kills, 15, begun, &format!("a poll of many transactions, {failpoint}"));
}

#[test]
fn a_poll_is_killed_after_every_commit() {
    poll_killed_at("capture.after_commit", 1);
}

#[test]
fn a_poll_is_killed_before_every_second_commit() {
    // The first commit of each run goes through, or nothing would ever move.
    poll_killed_at("capture.before_commit", 2);
}

/// Chunks of 60 rows, a hundred rows to a timestamp, some without one.
fn first_load_killed_at(failpoint: &str, hit: u64, composite_key: bool) {
    let test = Test::new();
    let db = test.db();
    TABLE.create(&db);
    TABLE.fill(&db, 1_400, "2 days");
    db.execute("ALTER TABLE rows ALTER COLUMN created_at DROP NOT NULL");
    db.execute("UPDATE rows SET created_at = NULL WHERE id > 1250");
    if composite_key {
        db.execute(
            r#"ALTER TABLE rows ADD COLUMN "Pa""rt" text;
               UPDATE rows SET "Pa""rt" = (ARRAY['it''s', 'a "b"', '', '{x}\', 'é, 漢 %s', ' '])[1 + id % 6];
               ALTER TABLE rows ALTER COLUMN "Pa""rt" SET DEFAULT 'new', DROP CONSTRAINT rows_pkey;
               ALTER TABLE rows ADD PRIMARY KEY ("Pa""rt", id);"#,
        );
    }
    let keys = json!({"max_transaction_rows": 60, "chunk_rows": 60});
    let tables = json!([{"table": "rows", "topic": test.topic("rows"), "watermark": "created_at", "partitions": 2}]);
    let file = write(&test, "capture.yml", &config(&test, keys, tables));
    let begun = Instant::now();

    let quiet = AtomicBool::new(false);
    let kills = std::thread::scope(|scope| {
        // Rows move while chunks are being read, too.
        scope.spawn(|| {
            let db = test.db();
            let mut random = Random::new(setting("HEADWATER_SEED", 5));
            while !quiet.load(Ordering::Acquire) {
                let id = random.below(1_400);
                db.execute(&format!(
                    "UPDATE rows SET mark = DEFAULT, created_at = DEFAULT, kind = 'moved meanwhile' WHERE id = {id}"
                ));
                db.execute("SELECT pg_sleep(0.05)");
            }
        });
        let _stopping = Stop(&quiet);
        let mut random = Random::new(setting("HEADWATER_SEED", 4));
        die_until_caught_up(&test, &file, failpoint, |kills| {
            if kills < 18 {
                // The poll that comes first publishes what has moved; the commit after it is a chunk's.
                move_rows(&db, &mut random, 1_400);
                return hit + 1;
            }
            quiet.store(true, Ordering::Release);
            hit
        })
    });
    catch_up(&test, &file, &[]);
    check(&test, &db, kills, 20, begun, &format!("the first load, {failpoint}"));
}

#[test]
fn the_first_load_is_killed_after_every_chunk() {
    first_load_killed_at("capture.after_commit", 1, false);
}

#[test]
fn the_first_load_is_killed_before_every_second_chunk() {
    // The chunk before it goes through, or nothing would ever move.
    first_load_killed_at("capture.before_commit", 2, true);
}
