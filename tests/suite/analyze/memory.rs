//! Memory stays within its bound with very many streams, and with very many people in one.

use super::scene::{Job, Scene};
use crate::{
    harness::{Run, eventually, run::Exit},
    landing::number,
};
use headwater::{
    config::model::{Compression, Kafka},
    kafka::plain_producer::PlainProducer,
};
use serde_json::json;
use std::{io::Write as _, time::Duration};

const BOUND_MIB: u64 = 256;
const LIMIT: Duration = Duration::from_secs(300);

fn producer(scene: &Scene) -> PlainProducer {
    PlainProducer::open(&Kafka::plaintext(&scene.test.brokers), Compression::Lz4).expect("a producer")
}

/// Runs the job to its end, and checks what it took.
#[track_caller]
fn within_the_bound(scene: &Scene, records: usize) {
    let mut run: Run = scene.start(&scene.file(), &["--until-caught-up", "--format", "json"], &[]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    let report = run.json();
    assert_eq!(report["analyze"]["rows"], records);
    let mebibytes = report["peak_rss_bytes"].as_u64().expect("peak RSS") >> 20;
    println!("{records} records: {mebibytes} MiB, {} CPU s, {} s", report["cpu_seconds"], report["seconds"]);
    assert!(mebibytes < BOUND_MIB, "peak RSS {mebibytes} MiB");
}

#[test]
fn a_hundred_thousand_streams_fit_into_the_bound() {
    let streams = number("HEADWATER_TEST_STREAMS", 100_000);
    let scene = Scene::new(vec![Job::quick()]);
    let mut producer = producer(&scene);
    let mut payload = Vec::new();
    // Each says something in both seconds: three windows of each, two of which overlap.
    for second in 0..2 {
        for stream in 0..streams {
            payload.clear();
            write!(
                payload,
                "{{\"event_id\":\"{second}-{stream}\",\"stream_id\":\"stream-{stream}\",\"user_id\":\"u{}\",\"message\":\"good game Kappa\",\
                 \"timestamp\":\"2025-01-31T23:59:0{second}.500Z\"}}",
                stream % 977
            )
            .expect("a buffer");
            producer.send(&scene.chat, format!("stream-{stream}").as_bytes(), &payload).expect("room");
        }
    }
    producer.flush().expect("every delivery");
    within_the_bound(&scene, 2 * streams);
    let db = scene.test.db();
    let found = "SELECT count(*), sum(chat_count), bool_and(is_final AND NOT approximate), count(DISTINCT stream_id) FROM chat_summary_minute";
    let expected = [(3 * streams).to_string(), (4 * streams).to_string(), "t".to_owned(), streams.to_string()];
    assert_eq!(db.rows(found), [expected.map(Some)]);
}

#[test]
fn five_million_chatters_of_one_stream_fit_into_the_bound() {
    let chatters = number("HEADWATER_TEST_CHATTERS", 5_000_000);
    let mut scene = Scene::new(vec![Job::quick()]);
    // Only people are counted here: the score of five million lines is another test's.
    scene.jobs[0].table = "chatters";
    scene.jobs[0].more = json!({
        "window_duration": "1 minute",
        "slide_duration": "10 seconds",
        "measures": [{"column": "chat_count", "function": "count"}, {"column": "unique_chatters", "function": "distinct", "field": "user_id"}],
    });
    let mut producer = producer(&scene);
    let mut payload = Vec::new();
    for n in 0..chatters {
        payload.clear();
        // Over a minute of event time, that of one window.
        let second = n * 60 / chatters;
        write!(
            payload,
            "{{\"stream_id\":\"s\",\"user_id\":\"user-{n}\",\"timestamp\":\"2025-01-31T23:59:{second:02}Z\"}}"
        )
        .expect("a buffer");
        producer.send(&scene.chat, b"s", &payload).expect("room");
    }
    producer.flush().expect("every delivery");
    within_the_bound(&scene, chatters);
    let db = scene.test.db();
    let row = db
        .rows(
            "SELECT chat_count, unique_chatters, approximate FROM chatters WHERE window_start = '2025-01-31T23:59:00Z'",
        )
        .swap_remove(0);
    let whole = |n: usize| row[n].as_deref().expect("not null").parse::<f64>().expect("a number");
    assert_eq!((whole(0), row[2].as_deref()), (chatters as f64, Some("t")));
    let error = (whole(1) / chatters as f64 - 1.0).abs();
    println!("{} chatters estimated as {}: {:.2} % off", chatters, whole(1), error * 100.0);
    assert!(error < 0.02, "{} estimated as {}", chatters, whole(1));
    eventually(LIMIT, "every window is final", || db.count("SELECT count(*) FROM chatters WHERE NOT is_final") == 0);
}
