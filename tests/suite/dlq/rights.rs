//! A replay by a user of least rights: each that is missing is told as the line that gives it, those are the ones that
//! are documented, and with them it works.

use super::scene::{Orders, assert_same, contents, try_dlq};
use crate::{
    doctor::{cures, rights::guarded},
    harness::{Test, kafka::read_topic, run::Exit},
};
use serde_json::Value;
use std::fs;

#[test]
fn a_replay_needs_the_documented_rights_and_names_each_that_is_missing() {
    let mut test = Test::new();
    let (kafka, login) = guarded(&test);
    test.brokers = kafka.brokers();
    // What is refused is written and landed by somebody who may do everything.
    let orders = Orders::on(test);
    orders.write_refused(50);
    orders.land(&[]);
    let text = fs::read_to_string(&orders.file).expect("the configuration");
    let plain = format!("kafka: {{brokers: \"{}\"}}\n", orders.test.brokers);
    assert!(text.contains(&plain), "{text}");
    let guarded = format!("kafka:\n  brokers: \"{}\"\n{login}", kafka.sasl_brokers().expect("a guarded listener"));
    let file = orders.test.write("user.yml", &text.replace(&plain, &guarded)).display().to_string();
    let again = orders.target("again", 2);
    let replay = || try_dlq(&orders.test, &file, "replay", &["--all", "--to", &again, "--format", "json"], &[]);

    let mut told = Vec::new();
    let sent = loop {
        let (exit, stdout, stderr) = replay();
        if exit == Exit::Code(0) {
            break serde_json::from_slice::<Value>(&stdout).expect("JSON");
        }
        assert_eq!(exit, Exit::Code(1), "{stderr}");
        assert_eq!(read_topic(&orders.test.brokers, &again, false).len(), 0, "nothing is sent before all is well");
        let (words, line) = stderr.trim().split_once(", which a replay needs: ").unwrap_or_else(|| panic!("{stderr}"));
        let needed = words.split_once("the user lacks ").expect("what is lacking").1.to_owned();
        assert!(!told.contains(&needed), "told again after it was given: {stderr}");
        cures::run(&orders.test.brokers, line.lines().next().expect("a line"));
        told.push(needed);
    };
    let prefix = format!("headwater-{}", orders.test.prefix);
    let expected = [
        format!("Create, Describe, Read, Write of topic {prefix}-replays"),
        format!("Describe, Write of transactional id {prefix}-replay"),
        format!("Describe, Write of topic {again}"),
    ];
    assert_eq!(told, expected);
    assert_eq!(sent["sent"], 50);
    let found = read_topic(&orders.test.brokers, &again, true);
    assert_same(&contents(&found), &contents(&orders.messages()), "what was replayed");
    let (exit, stdout, stderr) = replay();
    assert_eq!(exit, Exit::Code(0), "{stderr}");
    let sent: Value = serde_json::from_slice(&stdout).expect("JSON");
    assert_eq!((&sent["sent"], &sent["already_sent"]), (&0.into(), &50.into()));

    // A right that is not there for the topic itself: nothing is sent to it.
    let (exit, _, stderr) = try_dlq(&orders.test, &file, "replay", &["--all", "--again", "own"], &[]);
    assert_eq!(exit, Exit::Code(1));
    assert!(stderr.contains(&format!("Describe, Write of topic {}", orders.table.topic)), "{stderr}");

    // As the README has it.
    let readme = include_str!("../../../README.md").replace('\n', " ");
    for sentence in [
        "needs `Describe`, `Read` and `Write` of the topic `dlq.replay_topic` (and `Create` until it is there)",
        "`Describe` and `Write` of the transactional id `dlq.transactional_id`",
        "`Describe` and `Write` of each topic that it sends to",
    ] {
        assert!(readme.contains(sentence), "{sentence}");
    }
}
