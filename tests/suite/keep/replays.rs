//! What was replayed, over the loss of the topic that says so: a restored pipeline sends no letter again that its
//! backup knows to be sent.

use super::backup::Scene;
use crate::harness::{
    DEADLINE, Run,
    kafka::{create_topic, read_topic},
    run::Exit,
};
use serde_json::{Value, json};
use std::fs;

/// Rows of which every fiftieth is refused.
const ROWS: u64 = 600;

fn dlq(scene: &Scene, command: &str, more: &[&str]) -> Value {
    let arguments = [&["dlq", command, "-c", &scene.file, "--format", "json"], more].concat();
    let mut run = Run::start(&scene.test, &arguments);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{more:?}: {}", run.stderr());
    run.json()
}

fn replay(scene: &Scene, to: &str, more: &[&str]) -> Value {
    dlq(scene, "replay", &[&["--to", to], more].concat())
}

/// Of which each is another.
fn payloads(scene: &Scene, topic: &str) -> Vec<Vec<u8>> {
    let messages = read_topic(&scene.test.brokers, topic, true);
    let mut payloads: Vec<Vec<u8>> = messages.into_iter().map(|message| message.value.expect("a payload")).collect();
    payloads.sort();
    payloads
}

#[test]
fn letters_that_were_replayed_before_a_backup_are_not_sent_again_after_a_restore() {
    let scene = Scene::new();
    scene.insert(ROWS);
    scene.catch_up();
    let to = scene.test.topic("again");
    create_topic(&scene.test.brokers, &to, 1, &[]);
    assert_eq!(replay(&scene, &to, &["--limit", "5"])["sent"], 5);
    // A second time under a name, which a restored pipeline knows, too.
    assert_eq!(replay(&scene, &to, &["--limit", "2", "--again", "fix"])["sent"], 2);
    let (backup, report) = scene.backup("backup", &["--with-data"]);
    assert_eq!(report["replayed"], 7, "{report}");

    let replays = format!("headwater-{}-replays", scene.test.prefix);
    scene.delete_topic(&replays);
    scene.lose_disk();
    let planned = scene.restore(&backup, &["--dry-run"]);
    let noted = format!("7 replayed dead letters: noted in {replays}");
    assert!(planned["steps"].as_array().expect("steps").contains(&json!(noted)), "{planned}");
    assert_eq!(scene.restore(&backup, &[])["steps"], planned["steps"]);
    scene.catch_up();
    let list = dlq(&scene, "list", &[]);
    assert_eq!((&list["count"], &list["replayed"]), (&json!(12), &json!(5)), "{list}");
    let again = replay(&scene, &to, &["--all", "--again", "fix"]);
    assert_eq!((&again["sent"], &again["already_sent"]), (&json!(10), &json!(2)), "{again}");
    let rest = replay(&scene, &to, &["--all"]);
    assert_eq!((&rest["sent"], &rest["already_sent"]), (&json!(0), &json!(12)), "the named round has sent the others");
    let mut sent = payloads(&scene, &to);
    assert_eq!(sent.len(), 17);
    sent.dedup();
    assert_eq!(sent.len(), 12, "five twice, as it was told");

    // The topic knows more by now, and keeps it.
    let left = scene.restore(&backup, &[]);
    assert_eq!(left["steps"], json!([]), "{left}");
    assert_eq!(replay(&scene, &to, &["--all"])["sent"], 0);

    // A backup that does not say it, as older programs made them.
    scene.delete_topic(&replays);
    let path = std::path::Path::new(&backup).join(&scene.test.prefix).join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).expect("the list")).expect("JSON");
    manifest.as_object_mut().expect("an object").remove("replays");
    let bytes = serde_json::to_vec(&manifest).expect("JSON");
    fs::write(&path, &bytes).expect("the list");
    fs::write(path.with_file_name("manifest.crc32c"), format!("{:08x}\n", crc32c::crc32c(&bytes))).expect("its sum");
    let left = scene.restore(&backup, &[]);
    assert!(left["left"].to_string().contains("would be sent once more"), "{left}");
}
