//! What may hold time up, and what may not: records without a usable time, open transactions, blocks of ids, a clock
//! that was another one, a state that has reached its bound.

use super::{
    feed::{Pen, chat, raw, viewer},
    oracle::{Oracle, Span},
    scene::{Job, PARTITIONS, Scene, readiness, state, unit},
    topics::admin,
};
use crate::{
    harness::{DEADLINE, Run, block_on, eventually, eventually_some, kafka::end_offsets, run::Exit},
    landing::Raw,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::AdminOptions,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const YEAR_MS: i64 = 365 * 86_400_000;

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// A producer with a transaction that is open.
struct Transaction<'a> {
    producer: BaseProducer,
    topic: &'a str,
}

impl<'a> Transaction<'a> {
    fn begin(scene: &Scene, topic: &'a str) -> Transaction<'a> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &scene.test.brokers)
            .set("transactional.id", scene.test.topic("writer"))
            .create()
            .expect("a producer");
        producer.init_transactions(DEADLINE).expect("transactions");
        producer.begin_transaction().expect("a transaction");
        Transaction { producer, topic }
    }

    fn send(&self, record: &Raw) {
        let mut outgoing = BaseRecord::<[u8], [u8]>::to(self.topic).partition(record.partition);
        outgoing.key = record.key.as_deref();
        outgoing.payload = record.value.as_deref();
        self.producer.send(outgoing).map_err(|(error, _)| error).expect("room for a record");
        self.producer.flush(DEADLINE).expect("its delivery");
    }

    fn commit(self) {
        self.producer.commit_transaction(DEADLINE).expect("the commit");
    }
}

/// Events of now, one on each of these partitions, each of a stream of its own; and someone who watches.
struct Talk {
    pen: Pen,
    next: u64,
}

impl Talk {
    fn new(scene: &Scene) -> Talk {
        Talk { pen: Pen::new(&scene.test.brokers, scene.topics()), next: 0 }
    }

    fn say(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.next += 1;
            let stream = format!("s{partition}");
            self.pen.chat(*partition, &chat(&format!("e{}", self.next), &stream, "u", "hello", now_ms()));
            self.pen.viewer(*partition, &viewer(&stream, 7, now_ms()));
        }
        self.pen.flush();
    }
}

/// Windows of the wall clock, with little delay and soon idle.
fn live() -> Job {
    Job { delay_ms: 1_000, idle_ms: 1_000, ..Job::quick() }
}

fn final_windows(scene: &Scene, since_ms: i64) -> u64 {
    let sql = format!(
        "SELECT count(*) FROM chat_summary_minute WHERE is_final AND stream_id IN ('s0', 's1')
           AND window_start >= to_timestamp({since_ms} / 1000.0)"
    );
    scene.test.db().count(&sql)
}

fn wait_for_the_table(scene: &Scene) {
    eventually(DEADLINE, "the table", || scene.test.db().try_execute("SELECT FROM chat_summary_minute").is_ok());
}

/// Each record that says nothing of time comes all the time, on a partition of its own.
#[test]
fn records_without_a_usable_time_hold_no_window_open() {
    let scene = Scene::new(vec![live()]);
    let run = scene.start(&scene.file(), &[], &[]);
    wait_for_the_table(&scene);
    let odd = |at_ms: i64| chat("odd", "odd", "u", "hello", at_ms);
    let kinds: [(&str, &dyn Fn() -> Value); 4] = [
        ("not an event", &|| json!({})),
        ("of 1970", &|| odd(0)),
        ("of a clock that began with 1970", &|| odd(now_ms() - 50 * YEAR_MS)),
        ("of the future", &|| odd(now_ms() + YEAR_MS)),
    ];
    let mut talk = Talk::new(&scene);
    for (what, record) in kinds {
        let since_ms = now_ms();
        eventually(DEADLINE, &format!("final windows beside records that are {what}"), || {
            talk.pen.chat.send(&raw(2, "odd", &record()));
            talk.say(&[0, 1]);
            final_windows(&scene, since_ms) >= 8
        });
        assert_eq!(readiness(&run), (200, String::new()));
    }
}

#[test]
fn a_partition_with_an_open_transaction_is_waited_for() {
    let scene = Scene::new(vec![live()]);
    let run = scene.start(&scene.file(), &[], &[]);
    wait_for_the_table(&scene);
    let mut talk = Talk::new(&scene);
    talk.say(&[0, 1, 2]);
    let transaction = Transaction::begin(&scene, &scene.chat);
    let (begun, mut said) = (Instant::now(), 0);
    // Longer than the delay and the idle timeout by far.
    eventually(DEADLINE, "eight seconds to pass", || {
        said += 1;
        transaction.send(&raw(1, "s1", &chat(&format!("t{said}"), "s1", "u", "hello", now_ms())));
        talk.say(&[0, 2]);
        begun.elapsed() > Duration::from_secs(8)
    });
    let behind = eventually_some(DEADLINE, "the lag of the transaction", || {
        let unit = unit(&run)?;
        let told = &unit["detail"]["partitions"][&format!("{}-1", scene.chat)];
        let end = end_offsets(&scene.test.brokers, &scene.chat)[&1];
        (told["end"] == end && told["lag"] == said).then_some(unit)
    });
    assert_eq!(behind["state"], "progressing", "{behind}");
    transaction.commit();
    eventually(DEADLINE, "all to be read", || state(&run) == "caught_up");
    let mut run = run;
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    scene.catch_up(&scene.file());
    let expected = scene.assert_tables();
    assert!(expected.rows.keys().any(|(stream, _)| stream == "s1"));
}

fn empty(scene: &Scene, topic: &str) {
    let mut before = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        before.add_partition_offset(topic, partition, Offset::End).expect("an offset");
    }
    block_on(admin(scene).delete_records(&before, &AdminOptions::new())).expect("the records go");
}

#[test]
fn a_topic_may_be_emptied_once_its_windows_are_final() {
    let span = Span { window_ms: 300_000, slide_ms: 10_000 };
    let mut scene = Scene::new(vec![Job { span, ..Job::quick() }]);
    let pen = Pen::new(&scene.test.brokers, scene.topics());
    for n in 0..10 {
        let at_ms = super::feed::MONTH_END_MS + n * 10_000;
        pen.chat(0, &chat(&format!("e{n}"), "s0", "u", "hello", at_ms));
        pen.viewer(0, &viewer("s0", 5, at_ms));
    }
    pen.flush();
    scene.catch_up(&scene.file());
    scene.assert_tables();
    scene.topics().into_iter().for_each(|topic| empty(&scene, topic));
    scene.catch_up(&scene.file());

    // Open windows that lose records are a loss, which is accepted once, though nothing comes after it.
    scene.jobs[0].idle_ms = 60_000;
    let at_ms = super::feed::MONTH_END_MS + 7 * 86_400_000;
    pen.chat(0, &chat("late", "s0", "u", "hello", at_ms));
    pen.flush();
    let mut run = scene.start(&scene.file(), &[], &[]);
    let open = "SELECT count(*) FROM analyze_partitions WHERE replay_offset < next_offset";
    eventually(DEADLINE, "an open window", || scene.test.db().count(open) == 1);
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    empty(&scene, &scene.chat);
    scene.jobs[0].idle_ms = 500;
    let file = scene.file();
    let mut run = scene.start(&file, &["--until-caught-up", "--format", "json"], &[]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}", run.stderr());
    let reason = run.json()["analyze"]["failures"][0]["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.contains("--accept-loss"), "{reason}");
    let mut run =
        scene.start(&file, &["--accept-loss", &crate::harness::run::losses(&reason), "--until-caught-up"], &[]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    scene.catch_up(&file);
}

#[test]
fn what_was_accepted_before_a_restart_counts_after_it() {
    // One window holds the present and the next hour.
    let begun_ms = now_ms();
    let is_one = |window_ms: &i64| begun_ms / window_ms == (begun_ms + 3_600_000) / window_ms;
    let window_ms = [4, 5, 7].map(|days| days * 86_400_000).into_iter().find(is_one).expect("one of them");
    let span = Span { window_ms, slide_ms: window_ms };
    let more = |max_future_ms: i64| json!({"refresh_ms": 100, "max_future_ms": max_future_ms});
    let mut scene = Scene::new(vec![Job { span, more: more(3_600_000), ..Job::quick() }]);
    let pen = Pen::new(&scene.test.brokers, scene.topics());
    let say = |id: &str, at_ms: i64| {
        pen.chat(0, &chat(id, "s0", "u", "hello", at_ms));
        pen.flush();
    };
    let counted = |scene: &Scene| {
        let db = scene.test.db();
        db.try_execute("SELECT FROM chat_summary_minute").ok()?;
        let rows = db.rows("SELECT chat_count FROM chat_summary_minute WHERE stream_id = 's0'");
        rows.first().and_then(|row| row[0].clone())
    };
    say("ahead", now_ms() + 1_800_000);
    let mut run = scene.start(&scene.file(), &[], &[]);
    eventually(DEADLINE, "the event ahead", || counted(&scene).as_deref() == Some("1"));
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    scene.jobs[0].more = more(60_000);
    let run = scene.start(&scene.file(), &[], &[]);
    eventually(DEADLINE, "the start", || state(&run) == "caught_up");
    say("now", now_ms());
    say("refused", now_ms() + 1_800_000);
    let letters = "SELECT count(*) FROM dead_letters";
    eventually(DEADLINE, "the one that is refused", || scene.test.db().count(letters) == 1);
    eventually(DEADLINE, "both events", || counted(&scene).is_some_and(|count| count != "1"));
    assert_eq!(counted(&scene).as_deref(), Some("2"), "what was accepted stays so");
    let mut verify = Run::start(&scene.test, &["verify", "-c", &scene.file()]);
    assert_eq!(verify.wait(DEADLINE), Exit::Code(0), "{}", verify.stdout());
}

#[test]
fn a_state_that_waits_for_time_stays_within_its_bound_and_says_so() {
    const BOUND: u64 = 1 << 20;
    const STREAMS: usize = 20_000;
    let scene = Scene::new(vec![Job { more: json!({"max_state_bytes": BOUND}), ..live() }]);
    let run = scene.start(&scene.file(), &[], &[]);
    wait_for_the_table(&scene);
    let mut talk = Talk::new(&scene);
    talk.say(&[0, 1, 2]);
    let transaction = Transaction::begin(&scene, &scene.chat);
    transaction.send(&raw(1, "s1", &chat("open", "s1", "u", "hello", now_ms())));
    // A transaction that was seen.
    eventually(DEADLINE, "the transaction to be seen", || {
        unit(&run).is_some_and(|unit| unit["lag_records"].as_u64() == Some(1))
    });
    for n in 0..STREAMS {
        let stream = format!("many{n}");
        talk.pen.chat(n as i32 % 2 * 2, &chat(&stream, &stream, "u", "hello", now_ms()));
    }
    talk.pen.flush();
    let mut most = 0;
    let reason = eventually_some(DEADLINE, "a job that is not ready", || {
        talk.say(&[0, 2]);
        most = most.max(unit(&run)?["detail"]["state_bytes"].as_u64()?);
        let (code, reason) = readiness(&run);
        (code == 503).then_some(reason)
    });
    for said in ["transaction is open", &format!("{}-1", scene.chat), "max_state_bytes"] {
        assert!(reason.contains(said), "no {said:?} in: {reason}");
    }
    assert!(most > BOUND / 2 && most < 4 * BOUND, "{most} bytes");
    assert!(unit(&run).expect("the job")["lag_records"].as_u64() > Some(STREAMS as u64 / 4), "what is ahead waits");
    transaction.commit();
    eventually(DEADLINE * 2, "all to be read", || readiness(&run).0 == 200 && state(&run) == "caught_up");
    let mut run = run;
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    scene.catch_up(&scene.file());
    let (chat, viewer) = scene.messages();
    scene.assert_job(&scene.jobs[0], &Oracle::new(&chat, &viewer));
}
