//! Topics that were made anew: their offsets begin again, and their records are others.

use super::scene::{Orders, PARTITIONS, assert_same, contents, try_dlq};
use crate::harness::{
    DEADLINE, Run, block_on, eventually,
    kafka::{create_topic, read_topic, topics},
    run::{Exit, losses},
};
use headwater::{config::model::Kafka, kafka::admin::delete_topics};
use serde_json::json;

#[test]
fn records_of_a_topic_made_anew_are_replayed_too() {
    let orders = Orders::new();
    let (brokers, topic) = (orders.test.brokers.clone(), orders.table.topic.clone());
    orders.write_refused(30);
    orders.land(&[]);
    let target = orders.target("again", 1);
    assert_eq!(orders.json("replay", &["--all", "--to", &target])["sent"], 30);
    let first = read_topic(&brokers, &target, true);

    block_on(delete_topics(&Kafka::plaintext(&brokers), &[&topic])).expect("deleted");
    eventually(DEADLINE, "the topic is gone", || !topics(&brokers).contains(&topic));
    create_topic(&brokers, &topic, PARTITIONS, &[]);
    // Others at the same places.
    let writer = crate::landing::Writer::new(&brokers, &topic);
    for n in 0..30 {
        let mut record = super::scene::refused(n);
        record.value = Some(format!("of the second topic: {n}").into_bytes());
        writer.send(&record);
    }
    writer.flush();
    // Each partition has lost something.
    let mut run = Run::start(&orders.test, &["land", "-c", &orders.file, "--until-caught-up"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(1));
    orders.land(&["--accept-loss", &losses(&run.stdout())]);

    let list = orders.json("list", &["--by", "topic"]);
    assert_eq!((&list["count"], &list["replayed"]), (&json!(60), &json!(30)));
    assert_eq!(orders.json("replay", &["--all", "--to", &target, "--dry-run"])["sent"], 30);
    let report = orders.json("replay", &["--all", "--to", &target]);
    assert_eq!((&report["sent"], &report["already_sent"]), (&json!(30), &json!(30)));
    let found = read_topic(&brokers, &target, true);
    let new: Vec<_> = found.iter().filter(|message| !first.contains(message)).collect();
    assert_same(&contents(new), &contents(&read_topic(&brokers, &topic, true)), "the new ones");
    assert_eq!(orders.json("replay", &["--all", "--to", &target])["sent"], 0);

    // A place alone no longer says which record is meant.
    let shown = orders.json("show", &[&topic, "1", "2"]);
    let ids: Vec<String> =
        shown.as_array().unwrap().iter().map(|letter| letter["topic_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2);
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.len() == 22), "the ids are Kafka's: {ids:?}");
    let place = format!("{topic}/1/2");
    let (exit, _, stderr) = try_dlq(&orders.test, &orders.file, "show", &[&place, "--raw"], &[]);
    assert!(exit == Exit::Code(1) && stderr.contains("topic_id"), "{stderr}");
    for (id, is_second) in [(&ids[0], false), (&ids[1], true)] {
        let chosen = orders.dlq("show", &[&place, "--raw", "--where", &format!("topic_id={id}")]);
        assert_eq!(chosen.contains("of the second topic"), is_second, "{chosen}");
    }
}
