//! Servers that restart and lines that break while a producer goes on: no window differs from the
//! recomputation, and `/ready` says what is wrong for as long as it is, and no longer.

use super::{
    feed::{Clock, Load, ancients},
    oracle::Oracle,
    scene::{Job, Scene, readiness},
};
use crate::{
    analyze_store::{AFTER, BEFORE, CommitProxy},
    harness::{DEADLINE, PrivateServers, Run, Test, eventually, eventually_some, run::Exit},
};
use headwater::demo::servers::{KafkaOptions, PostgresOptions};
use serde_json::json;
use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

#[track_caller]
fn wait_until_not_ready(run: &Run, cause: &str, begun: Instant) {
    let reason = eventually_some(DEADLINE, &format!("/ready to turn 503 for {cause}"), || {
        let (code, reason) = readiness(run);
        (code == 503 && reason.contains(cause)).then_some(reason)
    });
    eprintln!("503 after {:.1} s: {reason}", begun.elapsed().as_secs_f32());
}

#[track_caller]
fn wait_until_ready(scene: &Scene, run: &Run, what: &str) {
    let begun = Instant::now();
    eventually(DEADLINE, &format!("/ready to turn 200: {what}"), || readiness(run).0 == 200);
    wait_for_windows(scene, what);
    eprintln!("{what}: at work after {:.1} s", begun.elapsed().as_secs_f32());
}

/// Waits until more windows are final than now.
#[track_caller]
fn wait_for_windows(scene: &Scene, what: &str) {
    let db = scene.test.db();
    let newest =
        || db.rows("SELECT max(window_start) FROM chat_summary_minute WHERE is_final").swap_remove(0).swap_remove(0);
    let before = newest();
    eventually(DEADLINE, &format!("newer final windows: {what}"), || newest() > before);
}

/// Stops everything in good order, closes the last windows and compares.
#[track_caller]
fn finish(mut scene: Scene, load: Load, mut run: Run) {
    load.stop();
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    scene.jobs[0].idle_ms = 500;
    scene.catch_up(&scene.file());
    let (chat, viewer) = scene.messages();
    let oracle = Oracle { met_watermark: ancients(&chat), ..Oracle::new(&chat, &viewer) };
    let expected = scene.assert_job(&scene.jobs[0], &oracle);
    eprintln!("{} records, {} windows, none wrong", chat.len() + viewer.len(), expected.rows.len());
}

#[test]
fn connections_cut_before_and_after_a_commit_change_nothing() {
    let scene = Scene::new(vec![Job { idle_ms: 60_000, ..Job::quick() }]);
    let proxy = CommitProxy::start(scene.test.postgres.port);
    let file = scene.write("proxied.yml", &scene.config(json!({"postgres": {"port": proxy.port}})));
    let load = Load::start(&scene.test.brokers, scene.topics(), Clock::Past { step_ms: 100 }, 5);
    load.trouble.junk.store(true, SeqCst);
    let run = scene.start(&file, &[], &[]);
    eventually(DEADLINE, "the first windows", || {
        scene.test.db().try_execute("SELECT FROM chat_summary_minute").is_ok()
    });
    wait_for_windows(&scene, "the start");
    load.trouble.ancient.store(true, SeqCst);
    for (n, mode) in [BEFORE, AFTER, BEFORE, AFTER, AFTER, BEFORE].into_iter().enumerate() {
        proxy.cut.store(false, SeqCst);
        proxy.armed.store(mode, SeqCst);
        eventually(DEADLINE, "a commit to cut", || proxy.cut.load(SeqCst));
        wait_for_windows(&scene, &format!("cut {n}"));
    }
    assert_eq!(scene.test.db().value("SELECT epoch FROM analyze_jobs"), "1", "the leader stays the leader");
    finish(scene, load, run);
}

/// The producer reaches the broker, the stage does not: what was written meanwhile comes at once, older than
/// what an idle partition's clock would take.
#[test]
fn a_stage_cut_off_from_kafka_takes_no_silence_for_idleness() {
    let scene = Scene::new(vec![Job { delay_ms: 2_000, idle_ms: 1_000, ..Job::quick() }]);
    let line = scene.test.kafka_proxy();
    let brokers = format!("127.0.0.1:{}", line.port());
    let file = scene.write("proxied.yml", &scene.config(json!({"kafka": {"brokers": brokers}})));
    let run = scene.start(&file, &[], &[]);
    eventually(DEADLINE, "the start", || readiness(&run).0 == 200);
    let load = Load::start(&scene.test.brokers, scene.topics(), Clock::Wall, 6);
    wait_for_windows(&scene, "the start");
    let begun = Instant::now();
    line.refuse();
    line.cut();
    wait_until_not_ready(&run, "Kafka", begun);
    // Well beyond the delay and the idle timeout; what was written meanwhile is a backlog.
    eventually(DEADLINE, "ten seconds to pass", || begun.elapsed() > Duration::from_secs(10));
    line.restore();
    wait_until_ready(&scene, &run, "the line is back");
    finish(scene, load, run);
}

#[test]
fn servers_that_restart_change_no_window() {
    let mut own = PrivateServers::start(PostgresOptions::default(), KafkaOptions::default());
    let scene = Scene::on(Test::on(&own.servers), vec![Job { delay_ms: 2_000, idle_ms: 3_000, ..Job::quick() }]);
    let run = scene.start(&scene.file(), &[], &[]);
    let load = Load::start(&scene.test.brokers, scene.topics(), Clock::Wall, 7);
    eventually(DEADLINE, "the start", || readiness(&run).0 == 200);
    wait_for_windows(&scene, "the start");
    for crash in [false, true] {
        let begun = Instant::now();
        if crash {
            own.servers.postgres.kill()
        } else {
            own.servers.postgres.stop()
        }
        wait_until_not_ready(&run, "PostgreSQL", begun);
        own.servers.postgres.restart().expect("PostgreSQL");
        wait_until_ready(&scene, &run, "PostgreSQL is back");
    }
    // A minute without a broker. The producer shares it: its backlog comes when the broker is back.
    let begun = Instant::now();
    own.servers.kafka.kill();
    wait_until_not_ready(&run, "Kafka", begun);
    eventually(2 * DEADLINE, "a minute to pass", || begun.elapsed() > Duration::from_secs(60));
    own.servers.kafka.restart().expect("Kafka");
    wait_until_ready(&scene, &run, "Kafka is back");
    finish(scene, load, run);
}
