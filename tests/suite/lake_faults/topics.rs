//! The topic is not the one it was, or no longer holds what comes next: nobody goes on over lost records unasked.

use super::{Pair, landed_ids};
use crate::harness::{
    DEADLINE, Run, Test, block_on, eventually,
    kafka::{create_topic, topics},
    run::{Exit, losses},
};
use crate::landing;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

pub fn admin(test: &Test) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &test.brokers).create().expect("an admin client")
}

fn pair() -> Pair {
    let test = Test::new();
    let base = test.path("base");
    Pair::new(test, &base, 1)
}

fn end(mut run: Run) {
    run.terminate();
    run.wait(DEADLINE);
}

pub fn delete_topic(test: &Test, topic: &str) {
    let deleted = block_on(admin(test).delete_topics(&[topic], &AdminOptions::new())).expect("an answer");
    deleted[0].as_ref().expect("the topic goes");
    eventually(DEADLINE, "the topic is gone", || !topics(&test.brokers).iter().any(|found| found == topic));
}

/// Deletes the records of partition 0 below an offset.
fn delete_records(test: &Test, topic: &str, below: i64) {
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(topic, 0, Offset::Offset(below)).expect("an offset");
    block_on(admin(test).delete_records(&before, &AdminOptions::new())).expect("the records go");
}

#[test]
fn a_topic_made_again_stops_its_table_until_the_loss_is_accepted() {
    let pair = pair();
    let topic = pair.failing.topic.clone();
    pair.write(0..100);
    let run = pair.start(&[]);
    landing::wait_for_landed(&pair.failing, 100);
    delete_topic(&pair.test, &topic);
    create_topic(&pair.test.brokers, &topic, 1, &[]);
    // More than before, so that the old position is a valid offset of the new topic.
    pair.write(1_000..1_300);
    // Between the two the topic is missing, which is a trouble of its own, and passes.
    landing::wait_for_state(&run, &topic, &["stopped"]);
    let reason = pair.wait_for_trouble(&run);
    assert!(reason.contains("--accept-loss") && reason.contains(&topic), "{reason}");
    pair.assert_other_goes_on();
    end(run);
    assert_eq!(landed_ids(&pair.failing), (0..100).collect::<Vec<_>>(), "nothing of the new topic");

    // Nor at a start.
    let run = pair.start(&[]);
    let reason = pair.wait_for_trouble(&run);
    assert!(reason.contains("--accept-loss"), "{reason}");
    pair.assert_other_goes_on();
    end(run);

    let run = pair.start(&["--accept-loss", &losses(&reason)]);
    landing::wait_for_landed(&pair.failing, 400);
    landing::wait_for_state(&run, &topic, &["caught_up"]);
    end(run);
    assert_eq!(landed_ids(&pair.failing), (0..100).chain(1_000..1_300).collect::<Vec<_>>());
    assert!(pair.failing.staged().is_empty());

    // What was accepted stays accepted.
    pair.write(2_000..2_010);
    let run = pair.start(&[]);
    landing::wait_for_landed(&pair.failing, 410);
    assert_eq!(landing::ready(&run), 200);
    end(run);
    pair.failing.assert_layout();
    pair.other.assert_exactly(&landing::written(&pair.test, &pair.other.topic));
}

/// The old position is beyond the end of the new topic, which does not mean that all of it has landed.
#[test]
fn a_topic_made_again_with_less_in_it_has_not_been_caught_up_with() {
    let pair = pair();
    let topic = pair.failing.topic.clone();
    let catch_up = |more: &[&str]| {
        let mut run = pair.start(&[&["--until-caught-up"], more].concat());
        (run.wait(DEADLINE), run.stdout())
    };
    pair.write(0..100);
    assert_eq!(catch_up(&[]).0, Exit::Code(0));
    let mut landed = 100;
    for count in [10, 0] {
        delete_topic(&pair.test, &topic);
        create_topic(&pair.test.brokers, &topic, 1, &[]);
        pair.write(1_000..1_000 + count);
        let (exit, told) = catch_up(&[]);
        assert!(exit == Exit::Code(1) && told.contains("--accept-loss"), "{count} records: {exit:?} {told}");
        assert_eq!(landed_ids(&pair.failing).len(), landed);
        assert_eq!(catch_up(&["--accept-loss", &losses(&told)]).0, Exit::Code(0));
        landed += usize::try_from(count).expect("a count");
        assert_eq!(landed_ids(&pair.failing).len(), landed);
        assert_eq!(catch_up(&[]).0, Exit::Code(0), "what was accepted stays accepted");
    }
}

#[test]
fn records_deleted_before_they_landed_stop_the_table_until_the_loss_is_accepted() {
    let pair = pair();
    let topic = pair.failing.topic.clone();
    pair.write(0..100);
    let run = pair.start(&[]);
    landing::wait_for_landed(&pair.failing, 100);
    end(run);
    pair.write(100..200);
    delete_records(&pair.test, &topic, 150);

    let run = pair.start(&[]);
    let reason = pair.wait_for_trouble(&run);
    for said in ["--accept-loss", &topic, "100", "150"] {
        assert!(reason.contains(said), "{reason} says {said}");
    }
    pair.assert_other_goes_on();
    assert_eq!(landing::state(&run, &topic), "stopped");
    end(run);
    assert_eq!(landed_ids(&pair.failing), (0..100).collect::<Vec<_>>());

    let mut run = pair.start(&["--accept-loss", &losses(&reason), "--until-caught-up"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
    assert_eq!(landed_ids(&pair.failing), (0..100).chain(150..200).collect::<Vec<_>>());
    pair.write(200..210);
    let run = pair.start(&[]);
    landing::wait_for_landed(&pair.failing, 160);
    end(run);
    assert!(pair.failing.staged().is_empty());
    pair.other.assert_exactly(&landing::written(&pair.test, &pair.other.topic));
}

#[test]
fn a_loss_is_accepted_by_its_name_and_once() {
    let pair = pair();
    let topic = pair.failing.topic.clone();
    pair.write(0..100);
    let run = pair.start(&[]);
    landing::wait_for_landed(&pair.failing, 100);
    end(run);
    pair.write(100..150);
    delete_records(&pair.test, &topic, 120);
    // The name of another loss.
    let run = pair.start(&["--accept-loss", &format!("{topic}/0@99-120")]);
    let reason = pair.wait_for_trouble(&run);
    end(run);
    assert_eq!(losses(&reason), format!("{topic}/0@100-120"));

    let line = pair.test.kafka_proxy();
    let text = landing::land_config(&pair.test, &[pair.failing.clone(), pair.other.clone()], &pair.settings);
    let text = text.replace(&pair.test.brokers, &format!("127.0.0.1:{}", line.port()));
    let file = pair.test.write("proxied.yml", &text).display().to_string();
    let run = Run::start(&pair.test, &["land", "-c", &file, "--accept-loss", &losses(&reason)]);
    landing::wait_for_landed(&pair.failing, 130);
    landing::wait_for_state(&run, &topic, &["caught_up"]);
    line.refuse();
    line.cut();
    pair.write(150..200);
    delete_records(&pair.test, &topic, 170);
    line.restore();
    landing::wait_for_state(&run, &topic, &["stopped"]);
    let reason = landing::reason(&run, &topic);
    assert!(reason.contains("offsets 150 to 169"), "{reason}");
    assert_eq!(losses(&reason), format!("{topic}/0@150-170"));
    end(run);
    assert_eq!(landed_ids(&pair.failing), (0..100).chain(120..150).collect::<Vec<_>>());
}
