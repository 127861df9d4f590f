//! The tables are lost and put back from a backup: windows go on as if nothing had been.

use super::{
    feed::{MONTH_END_MS, chat, raw},
    scene::{Job, LIMIT, PARTITIONS, Scene},
};
use crate::{
    harness::{Run, run::Exit},
    landing::Writer,
};
use serde_json::{Value, json};

fn say(scene: &Scene, seconds: std::ops::Range<i64>) {
    let writer = Writer::new(&scene.test.brokers, &scene.chat);
    for second in seconds {
        for stream in ["a", "b", "c"] {
            let at_ms = MONTH_END_MS + second * 1_000;
            let event = chat(&format!("{stream}{second}"), stream, &format!("u{}", second % 7), "so GOOD", at_ms);
            writer.send(&raw((second % i64::from(PARTITIONS)) as i32, stream, &event));
        }
    }
    writer.send(&raw(0, "a", &json!("no event")));
    writer.flush();
}

#[track_caller]
fn must(scene: &Scene, arguments: &[&str]) -> Value {
    let mut run = Run::start(&scene.test, &[arguments, &["--format", "json"]].concat());
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}\n{}", run.stdout(), run.stderr());
    run.json()
}

#[test]
fn windows_go_on_from_a_backup() {
    let scene = Scene::new(vec![Job::quick()]);
    let file = scene.file();
    say(&scene, 0..60);
    scene.catch_up(&file);
    let to = scene.test.path("backup").display().to_string();
    let report = must(&scene, &["backup", "-c", &file, "--to", &to]);
    assert_eq!((&report["tables"]["analyze_jobs"], &report["tables"]["dead_letters"]), (&1.into(), &1.into()));
    let before = scene.test.db().count("SELECT count(*) FROM chat_summary_minute");
    assert_eq!(report["tables"]["chat_summary_minute"], before);

    // While all is there, nothing is touched.
    let left = must(&scene, &["restore", "-c", &file, "--from", &to]);
    assert_eq!(left["steps"], json!([]), "{left}");

    // Behind a gap: nothing of it is late.
    say(&scene, 70..130);
    scene.catch_up(&file);
    let db = scene.test.db();
    db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    let done = must(&scene, &["restore", "-c", &file, "--from", &to]);
    assert_eq!(done["missing"], json!([]));
    assert_eq!(db.count("SELECT count(*) FROM chat_summary_minute"), before);
    scene.catch_up(&file);
    scene.assert_tables();
    assert_eq!(must(&scene, &["verify", "-c", &file])["ok"], true);

    // Back in time, beside what has gone on since: counted again, once.
    let epoch = "SELECT epoch FROM analyze_jobs";
    let held = db.count(epoch);
    must(&scene, &["restore", "-c", &file, "--from", &to, "--force"]);
    assert!(db.count(epoch) > held, "a former leader finds another epoch");
    assert_eq!(db.count("SELECT count(*) FROM chat_summary_minute"), before);
    scene.catch_up(&file);
    scene.assert_tables();
}
