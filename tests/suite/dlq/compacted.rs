//! Dead letters of several dates whose files were merged: the same letters in the same order, sent once.

use super::scene::{Orders, PARTITIONS, assert_same, content, refused};
use crate::{
    harness::{
        Run,
        kafka::{Message, read_topic},
        lake,
        run::Exit,
    },
    landing::Writer,
};
use serde_json::{Value, json};

const DAY_MS: i64 = 86_400_000;
const LETTERS: usize = 120;

/// Letters of two closed dates, alternately, in several commits.
fn orders_of_two_dates() -> Orders {
    let orders = Orders::new();
    let writer = Writer::new(&orders.test.brokers, &orders.table.topic);
    let now_ms = chrono::Utc::now().timestamp_millis();
    for part in 0..3 {
        for n in (0..LETTERS).filter(|n| n / (LETTERS / 3) == part) {
            writer.send_at(&refused(n), now_ms - DAY_MS * (4 - n as i64 % 2 * 2));
        }
        writer.flush();
        orders.land(&[]);
    }
    orders
}

/// Files of the older date, and of the newer.
fn files(orders: &Orders) -> [usize; 2] {
    let mut dates: Vec<_> = lake::table_files(&orders.table.dead_letters)
        .iter()
        .map(|file| file.parent().expect("a date").to_owned())
        .collect();
    dates.sort();
    let counts: Vec<usize> = dates.chunk_by(|a, b| a == b).map(<[_]>::len).collect();
    counts.try_into().expect("two dates")
}

fn compact(orders: &Orders, older_than_days: &str) {
    let arguments = ["compact", "-c", &orders.file, "--quiet-minutes", "0", "--older-than-days", older_than_days];
    let mut run = Run::start(&orders.test, &arguments);
    assert_eq!(run.wait(super::scene::LIMIT), Exit::Code(0), "{}\n{}", run.stdout(), run.stderr());
}

fn id(message: &Message, topic: &str) -> String {
    format!("{topic}/{}/{}", message.partition, message.offset)
}

/// All commands tell of every letter once, those of a partition by their offsets.
#[track_caller]
fn assert_told(orders: &Orders, messages: &[Message], replayed: usize) {
    let topic = &orders.table.topic;
    let expected: Vec<String> = messages.iter().map(|message| id(message, topic)).collect();
    let exported = |more: &[&str]| -> Vec<String> {
        let text = orders.dlq("export", &[&["--to", "-"], more].concat());
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.map(|line| line["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(exported(&[]), expected);
    let later: Vec<String> =
        messages.iter().filter(|message| message.offset >= 15).map(|message| id(message, topic)).collect();
    assert_eq!(exported(&["--where", "offset>=15"]), later);
    let list = orders.json("list", &["--by", "day"]);
    assert_eq!((&list["count"], &list["replayed"]), (&json!(LETTERS), &json!(replayed)));
    let counts: Vec<&Value> = list["groups"].as_array().expect("groups").iter().map(|group| &group["count"]).collect();
    assert_eq!(counts, [LETTERS / 2; 2], "{list}");
    for message in messages.iter().step_by(37) {
        let shown = orders.json("show", &[&id(message, topic)]);
        assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown}");
        let payload = String::from_utf8(message.value.clone().expect("a payload")).expect("text");
        assert_eq!(shown[0]["payload"], payload);
    }
}

#[test]
fn letters_of_merged_files_are_told_in_order_and_replayed_once() {
    let orders = orders_of_two_dates();
    let messages = orders.messages();
    let [old, new] = files(&orders);
    assert!(old >= 9 && new >= 9, "{old} and {new} files");
    assert_told(&orders, &messages, 0);
    let target = orders.target("again", PARTITIONS);
    let replay = |more: &[&str]| orders.json("replay", &[&["--to", &target, "--keep-partition"], more].concat());
    assert_eq!(replay(&["--limit", "7"])["sent"], 7);

    // One date is merged: its files reach over those of the other.
    compact(&orders, "3");
    assert_eq!(files(&orders), [PARTITIONS as usize, new]);
    assert_told(&orders, &messages, 7);
    let report = replay(&["--all"]);
    assert_eq!((&report["sent"], &report["already_sent"]), (&json!(LETTERS - 7), &json!(7)));
    let sent: Vec<_> = read_topic(&orders.test.brokers, &target, true).iter().map(content).collect();
    assert_same(&sent, &messages.iter().map(content).collect::<Vec<_>>(), "each once, in the order of its partition");

    // Both are.
    compact(&orders, "1");
    assert_eq!(files(&orders), [PARTITIONS as usize; 2]);
    assert_told(&orders, &messages, LETTERS);
    assert_eq!(replay(&["--all"])["sent"], 0);
    assert_eq!(read_topic(&orders.test.brokers, &target, true).len(), LETTERS);
}
