//! A transaction that stays open makes no poll read what has been read, and what it writes is found all the same.

use crate::{
    harness::{DEADLINE, Db, eventually},
    lone_traps::{Scene, TABLES, each},
    pipeline::{drain, start},
};
use std::time::{Duration, Instant};

/// Above the age from which on a transaction is looked at by itself.
const OLD: Duration = Duration::from_millis(2_500);
const ROWS: u64 = 4_000;

/// Polls go on until every transaction that is open now has been noted, and noted again.
fn age(scene: &Scene) {
    let begun = Instant::now();
    while begun.elapsed() < OLD {
        scene.pass();
    }
    scene.pass();
}

/// Entries of the watermark's index that polls have read so far.
fn entries_read(db: &Db) -> u64 {
    db.execute("SELECT pg_stat_force_next_flush()");
    db.count(&format!(
        "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE relname = '{}' AND indexrelname LIKE '%created_at%'",
        TABLES[0].name
    ))
}

/// What `open` leaves behind in a session holds no poll back: a poll reads less than what came since.
fn costs_nothing(what: &str, open: &str) {
    let scene = Scene::start(20, |_, _| ());
    let other = scene.test.db();
    // The last statement may fail, which is what leaves an aborted block behind.
    let _ = other.try_execute(open);
    scene.db.execute(&format!(
        "INSERT INTO {} (kind) SELECT 'since it began' FROM generate_series(1, {ROWS})",
        TABLES[0].name
    ));
    age(&scene);
    // The counters come a second late, so the least of several rounds is looked at.
    eventually(DEADLINE, &format!("polls beside {what} read what is new"), || {
        let before = entries_read(&scene.db);
        for _ in 0..5 {
            scene.pass();
        }
        let read = entries_read(&scene.db) - before;
        eprintln!("beside {what}, the polls of five rounds read {read} entries");
        (1..ROWS).contains(&read)
    });
    let _ = other.try_execute("ROLLBACK");
    scene.finish(what);
}

#[test]
fn a_forgotten_snapshot_costs_nothing() {
    costs_nothing("a dump", "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM by_timestamp");
}

#[test]
fn a_forgotten_writer_costs_nothing() {
    costs_nothing("a writer", "BEGIN; INSERT INTO by_timestamptz (kind) VALUES ('never committed')");
}

#[test]
fn an_aborted_block_left_open_costs_nothing() {
    let scene = "BEGIN; INSERT INTO by_timestamptz (kind) VALUES ('never committed')";
    costs_nothing("an aborted block", &format!("{scene}; SELECT 1 / 0"));
}

/// One session each: with a subtransaction, without, one that takes its id only at the end.
fn long_writers(scene: &Scene) -> [Db; 3] {
    let sessions = [(); 3].map(|()| scene.test.db());
    sessions[0].execute(&format!("BEGIN; {}", each("INSERT INTO {t} (kind) VALUES ('early')")));
    sessions[1].execute(&format!("BEGIN; SAVEPOINT s; {}", each("INSERT INTO {t} (kind) VALUES ('in a savepoint')")));
    sessions[2].execute("BEGIN; SELECT now()");
    sessions
}

#[test]
fn what_long_transactions_write_is_found() {
    let scene = Scene::start(20, |_, _| ());
    let sessions = long_writers(&scene);
    age(&scene);
    for session in &sessions {
        session.execute(&each("INSERT INTO {t} (kind) VALUES ('late')"));
        scene.pass();
        session.execute("COMMIT");
        scene.pass();
    }
    scene.finish("long transactions");
}

#[test]
fn a_transaction_prepared_after_it_was_proven_open_is_found() {
    let scene = Scene::start(20, |_, _| ());
    let sessions = long_writers(&scene);
    age(&scene);
    let name = |number: usize| format!("{}-proven-{number}", scene.test.postgres.db);
    for (number, session) in sessions.iter().enumerate() {
        session.execute(&each("INSERT INTO {t} (kind) VALUES ('before PREPARE')"));
        session.execute(&format!("PREPARE TRANSACTION '{}'", name(number)));
        scene.pass();
    }
    age(&scene);
    for number in 0..sessions.len() {
        scene.db.execute(&format!("COMMIT PREPARED '{}'", name(number)));
        scene.pass();
    }
    scene.finish("prepared after a proof");
}

#[test]
fn a_restart_after_a_proof_asks_with_the_stored_bound() {
    let mut scene = Scene::start(20, |_, _| ());
    let sessions = long_writers(&scene);
    age(&scene);
    drain(&mut scene.run);
    sessions[0].execute("COMMIT");
    scene.run = start(&scene.test, &scene.test.path("capture.yml"), &[], &[]);
    scene.pass();
    for session in &sessions[1..] {
        session.execute(&each("INSERT INTO {t} (kind) VALUES ('late')"));
        session.execute("COMMIT");
    }
    scene.finish("a restart after a proof");
}

/// Polls die between what they noted and what they would have read.
#[test]
fn a_poll_that_dies_after_its_observation_leaves_the_notes_as_they_were() {
    let scene = Scene::start(1, |_, _| ());
    let sessions = long_writers(&scene);
    age(&scene);
    for session in &sessions[1..] {
        session.execute(&each("INSERT INTO {t} (kind) VALUES ('late')"));
        scene.db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'headwater' AND pid <> pg_backend_pid() AND datname = current_database()
               AND backend_xmin IS NOT NULL",
        );
        session.execute("COMMIT");
        scene.pass();
    }
    // A table that cannot be locked keeps its notes, while those of the other move on.
    let holder = scene.test.db();
    std::thread::scope(|scope| {
        // Waits for the writer, and whoever comes later waits for it.
        scope.spawn(|| {
            let table = TABLES[0].name;
            holder.execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; COMMIT"));
        });
        scene.run.wait_for_log("could not be locked");
        sessions[0].execute("COMMIT");
    });
    scene.finish("polls that die");
}

/// `CREATE INDEX CONCURRENTLY` waits on the virtual ids of others, and holds them in another mode once it has them.
#[test]
fn an_index_that_waits_for_a_writer_is_not_taken_for_it() {
    let scene = Scene::start(20, |_, _| ());
    let writer = scene.test.db();
    writer.execute(&format!("BEGIN; {}", each("INSERT INTO {t} (kind) VALUES ('waited for')")));
    let builder = scene.test.db();
    let pid = builder.value("SELECT pg_backend_pid()");
    std::thread::scope(|scope| {
        scope.spawn(|| builder.execute(&format!("CREATE INDEX CONCURRENTLY ON {} (kind)", TABLES[0].name)));
        eventually(DEADLINE, "the index waits for the writer", || {
            scene.db.count(&format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = {pid}")) > 0
        });
        age(&scene);
        let pid: libc::pid_t = pid.parse().expect("a process");
        // SAFETY: a process of the test's own server, named by it a moment ago; it is woken below.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        writer.execute("COMMIT");
        scene.pass();
        scene.pass();
        // SAFETY: as above.
        unsafe { libc::kill(pid, libc::SIGCONT) };
    });
    scene.finish("an index that waits");
}
