//! Topics that change, tables that do not fit, roles that may little: what goes on, and what stops with
//! words that say the cure.

use super::{
    feed::{Clock, Crowd, Load, MONTH_END_MS, Pen},
    oracle::Oracle,
    scene::{Job, PARTITIONS, Scene, state, unit},
};
use crate::harness::{
    DEADLINE, block_on, eventually,
    kafka::{create_topic, topics},
    run::{Exit, losses},
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
};
use serde_json::json;

pub fn admin(scene: &Scene) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &scene.test.brokers).create().expect("an admin client")
}

/// A minute of events, each stream in a partition of its own.
fn write_minute(scene: &Scene, name: &str, from_ms: i64) {
    let pen = Pen::new(&scene.test.brokers, scene.topics());
    let mut crowd = Crowd::new(name, 9);
    for step in 0..600 {
        for partition in 0..PARTITIONS {
            pen.chat(partition, &crowd.says(&format!("s{partition}"), from_ms + step * 100, 1_000));
            if step % 10 == 0 {
                pen.viewer(partition, &crowd.watches(&format!("s{partition}"), from_ms + step * 100, 1_000));
            }
        }
    }
    pen.flush();
}

/// Why it does not even start, until somebody acts.
#[track_caller]
fn refusal(scene: &Scene, file: &str) -> String {
    let mut run = scene.start(file, &["--until-caught-up", "--format", "json"], &[]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}", run.stderr());
    run.json()["analyze"]["failures"][0]["reason"].as_str().expect("a reason").to_owned()
}

#[test]
fn partitions_that_are_added_are_read_too() {
    let scene = Scene::new(vec![Job { idle_ms: 1_000, ..Job::quick() }]);
    let run = scene.start(&scene.file(), &[], &[]);
    let load = Load::start(&scene.test.brokers, scene.topics(), Clock::Wall, 10);
    eventually(DEADLINE, "the start", || ["progressing", "caught_up"].contains(&state(&run).as_str()));
    let count = PARTITIONS as usize + 1;
    let more = scene.topics().map(|topic| NewPartitions::new(topic, count));
    for result in block_on(admin(&scene).create_partitions(&more, &AdminOptions::new())).expect("an answer") {
        result.expect("the partition");
    }
    let known = |topic: &str| {
        let partition = format!("{topic}-{PARTITIONS}");
        unit(&run).is_some_and(|unit| unit["detail"]["partitions"].get(&partition).is_some())
    };
    eventually(DEADLINE, "the new partitions are known", || scene.topics().into_iter().all(known));
    let pen = Pen::new(&scene.test.brokers, scene.topics());
    let mut crowd = Crowd::new("new", 11);
    for _ in 0..50 {
        let now_ms = chrono::Utc::now().timestamp_millis();
        pen.chat(PARTITIONS, &crowd.says("s-new", now_ms, 500));
        pen.viewer(PARTITIONS, &crowd.watches("s0", now_ms, 500));
    }
    pen.flush();
    load.stop();
    scene.wait_until_final("all partitions");
    drop(run);
    let expected = scene.assert_tables();
    assert!(expected.rows.keys().any(|(stream, _)| stream == "s-new"));
}

#[test]
fn a_topic_made_anew_stops_the_job_until_the_loss_is_accepted() {
    let scene = Scene::new(vec![Job::quick()]);
    let file = scene.file();
    write_minute(&scene, "before", MONTH_END_MS);
    let mut run = scene.start(&file, &["--format", "json"], &[]);
    scene.wait_until_final("the first topic");
    let (mut chat, mut viewer) = scene.messages();
    let deleted = block_on(admin(&scene).delete_topics(&[&scene.chat], &AdminOptions::new())).expect("an answer");
    deleted[0].as_ref().expect("the topic goes");
    eventually(DEADLINE, "the topic is gone", || !topics(&scene.test.brokers).contains(&scene.chat));
    create_topic(&scene.test.brokers, &scene.chat, PARTITIONS, &[]);
    // Its only job has stopped: so does the process.
    assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}", run.stderr());
    let told = |reason: &str| {
        for said in ["made anew", "--accept-loss", &scene.chat] {
            assert!(reason.contains(said), "no {said:?} in: {reason}");
        }
    };
    told(run.json()["analyze"]["failures"][0]["reason"].as_str().unwrap_or_default());
    // As many as before: by the offsets alone nobody would notice.
    write_minute(&scene, "after", MONTH_END_MS + 120_000);
    let reason = refusal(&scene, &file);
    told(&reason);

    let mut run = scene.start(&file, &["--accept-loss", &losses(&reason), "--until-caught-up"], &[]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    // What was accepted stays accepted.
    scene.catch_up(&file);
    let (new_chat, new_viewer) = scene.messages();
    chat.extend(new_chat);
    viewer.clear();
    viewer.extend(new_viewer);
    scene.assert_job(&scene.jobs[0], &Oracle::new(&chat, &viewer));
}

/// Offsets of a topic that is gone say nothing of the one in its place.
#[test]
fn what_the_clock_refused_of_a_topic_counts_in_the_one_made_anew() {
    let more = json!({"max_future_ms": 60_000});
    let mut scene = Scene::new(vec![Job { idle_ms: 60_000, more, ..Job::quick() }]);
    let pen = Pen::new(&scene.test.brokers, scene.topics());
    let say = |id: &str, stream: &str, at_ms: i64| pen.chat(0, &super::feed::chat(id, stream, "u", "hello", at_ms));
    say("open", "old", MONTH_END_MS);
    say("ahead", "old", chrono::Utc::now().timestamp_millis() + 3_600_000);
    pen.flush();
    let mut run = scene.start(&scene.file(), &[], &[]);
    let db = scene.test.db();
    let is_refused = "SELECT count(*) FROM dead_letters d JOIN analyze_partitions p ON p.topic = d.topic
        AND p.partition = d.kafka_partition AND d.kafka_offset = 1 AND p.replay_offset = 0 AND p.next_offset = 2";
    eventually(DEADLINE, "a refused record of an open window", || {
        db.try_execute("SELECT FROM dead_letters").is_ok() && db.count(is_refused) == 1
    });
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    let deleted = block_on(admin(&scene).delete_topics(&[&scene.chat], &AdminOptions::new())).expect("an answer");
    deleted[0].as_ref().expect("the topic goes");
    eventually(DEADLINE, "the topic is gone", || !topics(&scene.test.brokers).contains(&scene.chat));
    create_topic(&scene.test.brokers, &scene.chat, PARTITIONS, &[]);
    let pen = Pen::new(&scene.test.brokers, scene.topics());
    for n in 0..3 {
        pen.chat(0, &super::feed::chat(&format!("new{n}"), "new", "u", "hello", MONTH_END_MS + 60_000));
    }
    pen.flush();
    scene.jobs[0].idle_ms = 500;
    let file = scene.file();
    let reason = refusal(&scene, &file);
    let mut run = scene.start(&file, &["--accept-loss", &losses(&reason), "--until-caught-up"], &[]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    // Each is in two windows.
    let counted = "SELECT sum(chat_count)::bigint FROM chat_summary_minute WHERE stream_id = 'new' AND is_final";
    assert_eq!(db.count(counted), 6);
}

#[test]
fn records_that_are_gone_stop_the_job_until_the_loss_is_accepted() {
    let job = Job { idle_ms: 60_000, ..Job::quick() };
    let mut scene = Scene::new(vec![job]);
    write_minute(&scene, "one", MONTH_END_MS);
    let mut run = scene.start(&scene.file(), &[], &[]);
    let db = scene.test.db();
    eventually(DEADLINE, "windows, and some that are open", || {
        db.try_execute("SELECT FROM chat_summary_minute").is_ok()
            && db.count(
                "SELECT count(*) FROM analyze_partitions WHERE replay_offset > 0 AND replay_offset < next_offset",
            ) > 0
            && db.count("SELECT coalesce(sum(next_offset), 0) FROM analyze_partitions") == 600 * 3 + 60 * 3
    });
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
    let sql = format!(
        "SELECT replay_offset, next_offset FROM analyze_partitions WHERE topic = '{}' AND partition = 0",
        scene.chat
    );
    let row = db.rows(&sql).swap_remove(0);
    let [replay, next] = [0, 1].map(|n| row[n].as_deref().expect("not null").parse::<i64>().expect("an offset"));
    assert!(replay < next, "{replay} to {next}");
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&scene.chat, 0, Offset::Offset(next)).expect("an offset");
    block_on(admin(&scene).delete_records(&before, &AdminOptions::new())).expect("the records go");
    scene.jobs[0].idle_ms = 500;
    let file = scene.file();
    let reason = refusal(&scene, &file);
    for said in ["--accept-loss", &scene.chat, &replay.to_string(), &(next - 1).to_string(), "retention"] {
        assert!(reason.contains(said), "no {said:?} in: {reason}");
    }
    let mut run = scene.start(&file, &["--accept-loss", &losses(&reason), "--until-caught-up"], &[]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    // Other partitions have lost nothing.
    let wrong = "SELECT count(*) FROM chat_summary_minute WHERE NOT is_final AND stream_id <> 's0'";
    assert_eq!(db.count(wrong), 0);
    write_minute(&scene, "two", MONTH_END_MS + 120_000);
    scene.catch_up(&file);
    let (chat, viewer) = scene.messages();
    let later: Vec<_> =
        chat.iter().filter(|message| message.partition != 0 || message.offset >= next).cloned().collect();
    let expected = Oracle::new(&later, &viewer).expected(scene.jobs[0].span, 0);
    // What a refresh had written of the windows that lost records is never final.
    db.execute(
        "DELETE FROM chat_summary_minute WHERE NOT is_final AND stream_id = 's0' AND window_start < '2025-02-01'",
    );
    let found = super::scene::rows(&db, &scene.jobs[0]);
    let whole = |(stream, start): &(String, i64)| stream != "s0" || *start >= MONTH_END_MS + 110_000;
    let keep = |rows: &super::oracle::Rows| rows.clone().into_iter().filter(|(place, _)| whole(place)).collect();
    let told = super::oracle::differences(&keep(&found), &keep(&expected.rows));
    assert!(told.is_empty(), "{}", told.join("\n"));
}

/// The statements that a message tells to run.
fn statements(message: &str) -> String {
    message.lines().filter(|line| line.trim_start().starts_with("ALTER")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_table_that_does_not_fit_is_told_with_the_statement_to_run() {
    // A table that no view of ours looks at.
    let scene = Scene::new(vec![Job { table: "windows", ..Job::quick() }]);
    let file = scene.file();
    write_minute(&scene, "one", MONTH_END_MS);
    scene.catch_up(&file);
    let db = scene.test.db();
    db.execute(
        "ALTER TABLE windows DROP COLUMN chat_rate;
         ALTER TABLE windows ALTER COLUMN positive_count TYPE text USING positive_count::text",
    );
    let reason = refusal(&scene, &file);
    let cure = statements(&reason);
    assert!(cure.contains("\"chat_rate\"") && cure.contains("\"positive_count\""), "{reason}");
    db.execute(&cure);
    db.execute("UPDATE windows SET chat_rate = chat_count / 2.0");
    write_minute(&scene, "two", MONTH_END_MS + 120_000);
    scene.catch_up(&file);
    scene.assert_tables();
}

#[test]
fn a_role_that_may_only_write_is_enough_once_somebody_has_migrated() {
    let scene = Scene::new(vec![Job::quick()]);
    // The administrator's part: the tables, with nothing to read yet.
    scene.catch_up(&scene.file());
    let db = scene.test.db();
    let role = format!("only_writes_{}", scene.test.prefix.replace('-', "_"));
    db.execute(&format!("CREATE ROLE {role} LOGIN"));
    let more = json!({"postgres": {"user": role}, "analyze": {"migrate": false, "create_tables": false}});
    let file = scene.write("writer.yml", &scene.config(more));
    let reason = refusal(&scene, &file);
    let grant = format!("GRANT headwater_writer TO \"{role}\"");
    assert!(reason.contains(&grant), "{reason}");
    db.execute(&grant);
    write_minute(&scene, "one", MONTH_END_MS);
    scene.catch_up(&file);
    scene.assert_tables();
    let days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'chat_summary_minute'::regclass";
    assert!(db.count(days) > 1, "it makes the partitions of its days");
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));

    // Without the tables it says what is to be done.
    let other = Scene::new(vec![Job::quick()]);
    let file = other.write("bare.yml", &other.config(json!({"analyze": {"migrate": false}})));
    let reason = refusal(&other, &file);
    assert!(reason.contains("0001_analyze"), "{reason}");
}
