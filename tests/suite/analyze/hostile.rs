//! Topics full of payloads that do not belong there: every good event counts, every other record is a dead
//! letter with its exact bytes and the reason, and nothing stops a flush.

mod payloads;

use super::{
    oracle::{Oracle, Position},
    scene::{Job, Letter, Scene, dead_letters},
};
use crate::{
    harness::kafka::Message,
    hostile::{headers, odd},
    landing::Writer,
};
use payloads::{Case, Expect};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

#[test]
fn a_hostile_topic_counts_what_is_good() {
    // Timestamps within a day of each other are never late, in whatever order they come.
    let scene = Scene::new(vec![Job { delay_ms: 86_400_000, ..Job::quick() }]);
    let cases = [payloads::chat(), payloads::viewer()];
    assert!(cases[0].len() >= 300, "only {} payloads", cases[0].len());
    for (topic, cases) in scene.topics().into_iter().zip(&cases) {
        write(&Writer::new(&scene.test.brokers, topic), cases);
    }
    let report = scene.catch_up(&scene.file());

    let (chat, viewer) = scene.messages();
    let letters: HashMap<Position, Letter> = dead_letters(&scene.test.db(), &scene.job_id(&scene.jobs[0]))
        .into_iter()
        .map(|letter| ((usize::from(letter.topic == scene.viewer), letter.partition, letter.offset), letter))
        .collect();
    let mut faults = Vec::new();
    for (input, messages) in [&chat, &viewer].into_iter().enumerate() {
        assert_eq!(messages.len(), cases[input].len(), "the topic holds what was sent");
        for message in messages {
            let case = case_of(&cases[input], message);
            let letter = letters.get(&(input, message.partition, message.offset));
            faults.extend(fault(case, message, letter).map(|fault| format!("{}: {fault}", case.what)));
        }
    }
    assert!(faults.is_empty(), "{}:\n{}", faults.len(), faults.join("\n"));

    // What is no dead letter counts, with the values that an independent reading finds.
    let is_dead = |position| letters.contains_key(&position);
    let oracle = Oracle { not_events: &is_dead, ..Oracle::new(&chat, &viewer) };
    scene.assert_job(&scene.jobs[0], &oracle);
    let by_reason = letters.values().fold(BTreeMap::<&str, u64>::new(), |mut counts, letter| {
        *counts.entry(&letter.reason).or_default() += 1;
        counts
    });
    assert_eq!(report["analyze"]["rows"], chat.len() + viewer.len(), "counted is produced");
    assert_eq!(report["analyze"]["dead_letters"], json!(by_reason), "the summary's dead letters");
    println!("{} records, {} dead letters", chat.len() + viewer.len(), letters.len());
}

/// Each case under an odd key with odd headers.
fn write(writer: &Writer, cases: &[Case]) {
    for (n, case) in cases.iter().enumerate() {
        writer.send(&odd(n, &case.payload, b"s1"));
    }
    writer.flush();
}

fn case_of<'a>(cases: &'a [Case], message: &Message) -> &'a Case {
    let (_, number) = &message.headers[0];
    let number: usize =
        String::from_utf8_lossy(number.as_deref().unwrap_or_default()).parse().expect("the case's number");
    assert_eq!(cases[number].payload, message.value, "the topic holds what was sent");
    &cases[number]
}

/// What is wrong with what became of a record.
fn fault(case: &Case, message: &Message, letter: Option<&Letter>) -> Option<String> {
    let letter = match (letter, case.expect) {
        (None, Expect::Dead(reason)) => return Some(format!("it counts, and should be {reason}")),
        (None, _) => return None,
        (Some(letter), Expect::Event) => return Some(format!("a dead letter: {} {}", letter.reason, letter.detail)),
        (Some(letter), _) => letter,
    };
    if let Expect::Dead(reason) = case.expect
        && letter.reason != reason
    {
        return Some(format!("{} ({}) and not {reason}", letter.reason, letter.detail));
    }
    if (&letter.payload, &letter.key) != (&message.value, &message.key) {
        return Some("the payload or the key differs".to_owned());
    }
    let kept = headers(&letter.headers.clone().map_or(Value::Null, Value::String));
    if kept != message.headers {
        return Some(format!("the headers are {kept:?}, sent {:?}", message.headers));
    }
    let text = message.value.as_ref().and_then(|value| String::from_utf8(value.clone()).ok());
    if letter.text != text.filter(|text| !text.contains('\0')) {
        return Some("the text differs".to_owned());
    }
    if letter.timestamp_ms != message.timestamp_ms || letter.detail.is_empty() {
        return Some(format!("the time or the detail is wrong: {letter:?}"));
    }
    None
}
