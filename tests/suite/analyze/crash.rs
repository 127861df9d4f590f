//! Kills, one at each failpoint of the stage and some at random, while a producer goes on: the tables
//! then hold what the recomputation says, and what a run that nobody disturbed writes.
//!
//! `HEADWATER_TORTURE_KILLS` (6) and `HEADWATER_TORTURE_SEED` make it longer and other; `make torture` does.

use super::{
    feed::{Clock, Load, ancients},
    oracle::Oracle,
    scene::{Job, Scene},
};
use crate::{
    crash::Dice,
    harness::{DEADLINE, Db, Test, eventually, run::Exit},
    pipeline::setting,
};
use serde_json::json;
use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

/// A job that watches, for events of the past.
fn watchful(idle_ms: i64) -> Job {
    let watch = |moment: &str, measure: &str, direction: &str| json!({"moment": moment, "measure": measure, "direction": direction, "cooldown_ms": 10_000});
    let anomalies = json!([
        watch("chat_spike", "chat_count", "up"),
        watch("emote_spike", "emote_counts", "up"),
        watch("viewer_drop", "avg_viewers", "down"),
    ]);
    Job { idle_ms, more: json!({"anomalies": anomalies, "refresh_ms": 250}), ..Job::quick() }
}

/// All that two runs over the same records must have in common.
fn outcome(db: &Db) -> Vec<Vec<Vec<Option<String>>>> {
    [
        "SELECT to_jsonb(t) - '{updated_at,revision}'::text[] FROM chat_summary_minute t
         WHERE stream_id <> 'ancient' ORDER BY stream_id, window_start",
        "SELECT to_jsonb(m) - 'detected_at' FROM moments m ORDER BY moment_id",
        "SELECT to_jsonb(d) - 'error_ts' FROM dead_letters d ORDER BY topic, kafka_partition, kafka_offset",
    ]
    .map(|sql| db.rows(sql))
    .into()
}

#[test]
fn kills_anywhere_change_no_window_and_no_moment() {
    let seed = setting("HEADWATER_TORTURE_SEED", 20_250_115);
    let kills = setting("HEADWATER_TORTURE_KILLS", 6);
    let mut failpoints: Vec<&str> =
        headwater::failpoint::ALL.iter().copied().filter(|name| name.starts_with("analyze.")).collect();
    println!("seed {seed}, {kills} random kills, {} failpoints", failpoints.len());
    let begun = Instant::now();
    let mut dice = Dice(seed);
    // Idle only at the end: until then, time is what the events say.
    let mut scene = Scene::new(vec![watchful(60_000)]);
    let file = scene.file();
    let db = scene.test.db();
    let load = Load::start(&scene.test.brokers, scene.topics(), Clock::Past { step_ms: 200 }, seed);
    load.trouble.junk.store(true, SeqCst);

    let mut first = scene.start(&file, &[], &[]);
    eventually(DEADLINE, "the first final windows", || {
        db.try_execute("SELECT FROM analyze_jobs").is_ok()
            && db.count("SELECT count(*) FROM chat_summary_minute WHERE is_final") > 0
    });
    // From now on every instance finds a watermark for which these are late.
    load.trouble.ancient.store(true, SeqCst);
    first.kill();

    for index in (1..failpoints.len()).rev() {
        failpoints.swap(index, dice.roll(index as u64 + 1) as usize);
    }
    for failpoint in failpoints {
        let armed = format!("{failpoint}=kill@{}", 1 + dice.roll(5));
        let mut run = scene.start(&file, &[], &[("HEADWATER_FAILPOINTS", &armed)]);
        assert_eq!(run.wait(DEADLINE), Exit::Signal(libc::SIGKILL), "armed with {armed}: {}", run.stderr());
    }
    for _ in 0..kills {
        let mut run = scene.start(&file, &[], &[]);
        let moment = Instant::now() + Duration::from_millis(50 + dice.roll(2_000));
        while Instant::now() < moment {
            assert!(run.is_running(), "it ended by itself: {}", run.stderr());
            std::thread::park_timeout(moment - Instant::now());
        }
        run.kill();
    }
    load.stop();
    scene.jobs = vec![watchful(500)];
    let file = scene.file();
    scene.catch_up(&file);

    let (chat, viewer) = scene.messages();
    let oracle = Oracle { met_watermark: ancients(&chat), ..Oracle::new(&chat, &viewer) };
    let expected = scene.assert_job(&scene.jobs[0], &oracle);
    assert!(!expected.late.is_empty() && !expected.dead.is_empty() && !expected.duplicates.is_empty());

    // The same records, read by one process that nobody disturbs, into another database.
    let other = Test::new();
    let mut config = scene.config(json!({}));
    config["postgres"]["db"] = json!(other.postgres.db);
    scene.catch_up(&scene.write("undisturbed.yml", &config));
    let (disturbed, undisturbed) = (outcome(&db), outcome(&other.db()));
    for (name, (found, wanted)) in ["windows", "moments", "dead letters"].iter().zip(disturbed.iter().zip(&undisturbed))
    {
        assert!(!wanted.is_empty(), "no {name}");
        let missing: Vec<_> = wanted.iter().filter(|row| !found.contains(row)).take(3).collect();
        let more: Vec<_> = found.iter().filter(|row| !wanted.contains(row)).take(3).collect();
        assert!(
            missing.is_empty() && more.is_empty() && found.len() == wanted.len(),
            "{name}: missing {missing:?}, too many {more:?}"
        );
    }
    let twice = "SELECT count(*) FROM (SELECT FROM moments GROUP BY stream_id, moment_type, window_start HAVING count(*) > 1) twice";
    assert_eq!(db.count(twice), 0, "a moment that is told twice");
    println!(
        "{} records, {} windows, {} moments, {} dead letters, {} duplicates, {} late, 0 wrong, {:.0} s",
        chat.len() + viewer.len(),
        expected.rows.len(),
        undisturbed[1].len(),
        expected.dead.len(),
        expected.duplicates.len(),
        expected.late.len(),
        begun.elapsed().as_secs_f64()
    );
}
