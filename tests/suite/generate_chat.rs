//! A chat as `generate chat` writes it, and where both generators are told to write.

use crate::harness::{DEADLINE, Run, Test, block_on, kafka::Message, kafka::read_topic, run::Exit};
use headwater::{
    config::model::{Compression, Kafka},
    generate::{
        Show,
        chat::{Generator, Job, Pace, Progress, Settings, Topic, Volume, write},
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// Keys with their payloads, in order.
fn by_key(messages: &[Message]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for message in messages {
        found.entry(message.key.clone().unwrap()).or_default().push(message.value.clone().unwrap());
    }
    found
}

#[test]
fn a_bulk_is_the_generators_sequence_in_partitions_by_stream() {
    let test = Test::new();
    let settings = Settings {
        start_ms: 1_736_964_000_000,
        volume: Volume::Total { messages: 30_000, seconds: 900 },
        duplicate_share: 0.02,
        bad_share: 0.01,
        late_share: 0.05,
        ..Settings::default()
    };
    let (_running, shutdown) = watch::channel(false);
    let job = Job {
        kafka: Kafka::plaintext(&test.brokers),
        chat_topic: test.topic("chat"),
        viewer_topic: test.topic("viewer"),
        partitions: 3,
        replication: 1,
        compression: Compression::Zstd,
        settings: settings.clone(),
        pace: Pace::Fast,
        planted: Some(test.path("planted.csv")),
        shutdown,
        show: Show::Nothing,
        progress: Progress::default(),
    };
    let (progress, chat_topic, viewer_topic) = (job.progress.clone(), job.chat_topic.clone(), job.viewer_topic.clone());
    let report = block_on(write(job)).expect("the chat");

    let mut generator = Generator::new(settings).unwrap();
    let mut expected: HashMap<Topic, BTreeMap<Vec<u8>, Vec<Vec<u8>>>> = HashMap::new();
    while let Some(event) = generator.next_event() {
        let of_topic = expected.entry(event.topic).or_default();
        of_topic.entry(event.key.as_bytes().to_vec()).or_default().push(event.payload.to_vec());
    }
    let chat = read_topic(&test.brokers, &chat_topic, true);
    let viewers = read_topic(&test.brokers, &viewer_topic, true);
    assert!(by_key(&chat) == expected[&Topic::Chat] && by_key(&viewers) == expected[&Topic::Viewers]);
    let records = (chat.len() + viewers.len()) as u64;
    assert_eq!((report.totals.records, progress.records()), (records, records));
    let bad: u64 = report.dead_letters.values().sum();
    let totals = &report.totals;
    assert_eq!(totals.messages + totals.viewer_events + totals.duplicates + bad, records);

    // A key has the partition of the same number in both topics, and retention cannot take what is old by
    // its own time.
    let mut partitions: HashMap<&[u8], i32> = HashMap::new();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    for message in chat.iter().chain(&viewers) {
        let partition = *partitions.entry(message.key.as_deref().unwrap()).or_insert(message.partition);
        assert_eq!(partition, message.partition);
        assert!((now_ms - message.timestamp_ms).abs() < 600_000);
    }
    assert_eq!(partitions.len(), 20);
    // As Java's clients place them.
    assert_eq!(["s1", "s2", "s3", "s4", "s5"].map(|key| partitions[key.as_bytes()]), [0, 0, 2, 1, 2]);

    let listed = std::fs::read_to_string(test.path("planted.csv")).unwrap();
    assert_eq!(listed.lines().count() as u64 - 1, report.planted.values().sum::<u64>());
}

#[test]
fn a_live_chat_ends_at_a_signal_and_has_sent_what_it_says() {
    let test = Test::new();
    let file = test.write("kafka.yml", &test.short_form("orders", &test.topic("orders")));
    let (chat_topic, viewer_topic) = (test.topic("chat"), test.topic("viewer"));
    let file = file.to_string_lossy();
    let arguments = ["generate", "chat", "-c", &file, "--rate", "2000", "--format", "json"];
    let topics = ["--chat-topic", &chat_topic, "--viewer-topic", &viewer_topic, "--partitions", "1"];
    let mut run = Run::start(&test, &[&arguments[..], &topics[..]].concat());
    let enough = |topic: &str| {
        headwater::kafka::topic::find(&Kafka::plaintext(&test.brokers), topic).is_ok()
            && read_topic(&test.brokers, topic, true).len() > 500
    };
    crate::harness::eventually(DEADLINE, "some messages", || enough(&chat_topic));
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    let report = run.json();
    let count = |topic| read_topic(&test.brokers, topic, true).len() as u64;
    assert_eq!(report["messages"].as_u64(), Some(count(&chat_topic)));
    assert_eq!(report["viewer_events"].as_u64(), Some(count(&viewer_topic)));
    // Live means that no event is from the future.
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    for message in read_topic(&test.brokers, &chat_topic, true) {
        let json = message.json();
        let time = chrono::DateTime::parse_from_rfc3339(json["timestamp"].as_str().unwrap()).unwrap();
        assert!(time.timestamp_millis() <= message.timestamp_ms && message.timestamp_ms <= now_ms);
    }
}

#[test]
fn orders_find_their_database_in_a_file() {
    let test = Test::new();
    let file = test.write("orders.yml", &test.short_form("orders", &test.topic("orders")));
    let file = file.to_string_lossy();
    let run = |arguments: &[&str]| {
        let mut run = Run::start(&test, &[&["generate", "orders"], arguments].concat());
        (run.wait(DEADLINE), run.stderr())
    };
    let (exit, told) = run(&["-c", &file, "--bulk", "100"]);
    assert_eq!(exit, Exit::Code(0), "{told}");
    assert_eq!(test.db().count("SELECT count(*) FROM orders"), 100);
    let (exit, told) = run(&["-c", &file, "--url", "postgres://u@h/d", "--bulk", "100"]);
    assert!(exit == Exit::Code(2) && told.contains("cannot be used with"), "{told}");
    let (exit, told) = run(&["--bulk", "100"]);
    assert!(exit == Exit::Code(2) && told.contains("--url <URL>|--config <FILE>"), "{told}");
    let (exit, told) = run(&["-c", "missing.yml", "--bulk", "100"]);
    assert!(exit == Exit::Code(78) && told.contains("missing.yml"), "{told}");
}
