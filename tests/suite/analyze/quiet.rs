//! A topic on which nothing happens: what has to be noticed is noticed all the same.

use super::scene::{Job, Scene, state};
use crate::harness::{DEADLINE, eventually};
use serde_json::json;

#[test]
fn a_lock_that_is_lost_is_noticed_on_a_quiet_topic() {
    let scene = Scene::new(vec![Job::quick()]);
    let run = scene.start(&scene.file(), &[], &[]);
    eventually(DEADLINE, "the start", || state(&run) == "caught_up");
    let db = scene.test.db();
    let epoch = || db.count("SELECT epoch FROM analyze_jobs");
    assert_eq!(epoch(), 1);
    db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database d ON d.oid = database
         WHERE locktype = 'advisory' AND d.datname = current_database()",
    );
    eventually(DEADLINE, "somebody leads again", || epoch() == 2 && state(&run) == "caught_up");
}

#[test]
fn a_day_that_could_not_be_dropped_goes_later_on_a_quiet_topic() {
    let scene = Scene::new(vec![Job { more: json!({"retention_days": 30}), ..Job::quick() }]);
    let file = scene.file();
    scene.catch_up(&file);
    let db = scene.test.db();
    db.execute("SELECT headwater_add_day('chat_summary_minute', '2025-01-15')");
    let reader = scene.test.db();
    reader.execute("BEGIN; SELECT count(*) FROM chat_summary_minute_20250115");
    let run = scene.start(&file, &[], &[]);
    run.wait_for_log("old partitions stay for now");
    reader.execute("COMMIT");
    eventually(DEADLINE, "the old day goes", || {
        db.value("SELECT to_regclass('chat_summary_minute_20250115') IS NULL") == "t"
    });
}
