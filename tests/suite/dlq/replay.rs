//! What a replay sends: exact bytes, once, where it was told to.

use super::{
    scene::{Content, LIMIT, Orders, assert_same, both, content, contents, dlq, refused, try_dlq},
    stores::by_place,
};
use crate::{
    analyze::scene::dead_letters,
    harness::{
        Run,
        kafka::{Message, create_topic, end_offsets, read_topic, topics},
        lake,
        run::Exit,
    },
    hostile::payloads,
    landing::{Raw, Writer},
};
use headwater::{
    config::model::{Compression, Kafka},
    kafka::producer::{Headers, Outgoing, Settings, TransactionalProducer},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// What Java's clients make of a key: murmur2, without its sign.
fn java_partition(key: &[u8], partitions: i32) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let mut chunks = key.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().expect("four bytes")).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    for (n, byte) in rest.iter().enumerate() {
        hash ^= u32::from(*byte) << (8 * n);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^= hash >> 15;
    (hash & 0x7fff_ffff) as i32 % partitions
}

#[test]
fn hostile_records_are_replayed_to_the_byte_and_once() {
    let orders = Orders::new();
    let (scene, file) = both(&orders);
    let keys = [Some(b"101".to_vec()), None, Some(Vec::new()), Some(vec![0xff, 0, 0xfe])];
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let headers = [
        vec![],
        vec![header("null", None), header("empty", Some(b"")), header("", Some(b"no name"))],
        vec![header("twice", Some(b"1")), header("twice", None), header("twice", Some(b"\xff\x00"))],
    ];
    let writer = Writer::new(&scene.test.brokers, &scene.chat);
    for (n, case) in payloads::cases().into_iter().enumerate() {
        let (key, headers) = (keys[n % keys.len()].clone(), headers[n % headers.len()].clone());
        writer.send(&Raw { partition: n as i32 % 3, key, value: case.payload, headers });
    }
    writer.flush();
    let mut run = Run::start(&scene.test, &["run", "-c", &file, "--until-caught-up"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    let sent = by_place(read_topic(&scene.test.brokers, &scene.chat, true));
    let landed = lake::dead_letters(&scene.test.dir().join("dead").join(&scene.chat));
    let analyzed = dead_letters(&scene.test.db(), &scene.job_id(&scene.jobs[0]));
    let refused: BTreeSet<(i32, i64)> = landed
        .iter()
        .map(|letter| (letter.partition as i32, letter.offset))
        .chain(analyzed.iter().map(|letter| (letter.partition, letter.offset)))
        .collect();
    let twice = landed.len() + analyzed.len() - refused.len();
    assert!(refused.len() > 500 && twice > 300, "{} records, {twice} of them refused by both", refused.len());
    let expected: Vec<&Message> = refused.iter().map(|place| &sent[place]).collect();

    // Land's come first, then those that only analyze has refused.
    let by_store: Vec<&Message> = {
        let place = |letter: &lake::DeadLetter| (letter.partition as i32, letter.offset);
        let landed: BTreeSet<(i32, i64)> = landed.iter().map(place).collect();
        let rest = refused.difference(&landed);
        landed.iter().chain(rest).map(|place| &sent[place]).collect()
    };
    let target = scene.test.topic("again");
    create_topic(&scene.test.brokers, &target, 3, &[("max.message.bytes", "20000000")]);
    let replay = |more: &[&str]| -> Value {
        let all: Vec<&str> = ["--to", &target, "--format", "json"].into_iter().chain(more.iter().copied()).collect();
        serde_json::from_str(&dlq(&scene.test, &file, "replay", &all)).expect("JSON")
    };
    // A dry run tells the same and sends nothing.
    let dry = replay(&["--all", "--dry-run"]);
    assert_eq!((&dry["sent"], &dry["already_sent"]), (&json!(refused.len()), &json!(twice)));
    assert_eq!(dry["records"].as_array().map(Vec::len), Some(20));
    assert!(end_offsets(&scene.test.brokers, &target).values().all(|end| *end == 0));
    let replays = format!("headwater-{}-replays", scene.test.prefix);
    assert!(!topics(&scene.test.brokers).contains(&replays), "nor makes a topic");
    let text = dlq(&scene.test, &file, "replay", &["--all", "--dry-run", "--to", &target]);
    assert!(text.contains("TO SEND") && text.contains("would send ") && text.contains("nothing was sent"), "{text}");

    let report = replay(&["--all"]);
    assert_eq!(report["sent"], refused.len());
    assert_eq!(report["already_sent"], twice, "a record that both stages refused is sent once");
    let found = read_topic(&scene.test.brokers, &target, true);
    assert_same(&contents(&found), &contents(expected.iter().copied()), "what was replayed");
    for message in &found {
        assert_eq!(message.headers.iter().filter(|(name, _)| name.starts_with("headwater")).count(), 0);
        if let Some(key) = &message.key {
            assert_eq!(message.partition, java_partition(key, 3), "{key:?}");
        }
        let original = expected.iter().find(|original| content(original) == content(message)).expect("its original");
        assert!(message.timestamp_ms >= original.timestamp_ms, "its time is that of the replay");
    }

    // Once: also where other conditions choose it, and to wherever.
    assert_eq!(replay(&["--all"])["sent"], 0);
    assert_eq!(replay(&["--where", "stage=analyze"])["sent"], 0);
    let text = dlq(&scene.test, &file, "replay", &["--all", "--to", &target]);
    assert!(text.contains("0 sent") && text.contains("--again"), "{text}");
    assert_eq!(read_topic(&scene.test.brokers, &target, true).len(), refused.len());
    let list: Value = serde_json::from_str(&dlq(&scene.test, &file, "list", &["--format", "json"])).unwrap();
    assert_eq!(list["replayed"], list["count"], "whichever store has it");
    let none: Value =
        serde_json::from_str(&dlq(&scene.test, &file, "list", &["--format", "json", "--where", "replayed=no"]))
            .unwrap();
    assert_eq!(none["count"], 0);

    // Unless asked, and then once by that name; each to the partition that it was in.
    let again = replay(&["--all", "--again", "fix-1", "--keep-partition"]);
    assert_eq!(again["sent"], refused.len());
    assert_eq!(replay(&["--all", "--again", "fix-1"])["sent"], 0);
    let found = read_topic(&scene.test.brokers, &target, true);
    assert_eq!(found.len(), 2 * refused.len());
    // Within a partition what each of the stages refused comes in the order of the offsets.
    let of_partition = |messages: &[&Message], partition: i32| -> Vec<Content> {
        messages.iter().filter(|message| message.partition == partition).map(|message| content(message)).collect()
    };
    let found: Vec<&Message> = found.iter().collect();
    for partition in 0..3 {
        let expected = of_partition(&by_store, partition);
        let found = of_partition(&found, partition);
        assert_same(&found[found.len() - expected.len()..], &expected, "in the order of a partition");
    }
}

#[test]
fn on_its_own_topic_a_record_is_like_a_new_one() {
    let orders = Orders::new();
    orders.write_refused(40);
    orders.land(&[]);
    let before = orders.messages();
    let report =
        orders.json("replay", &["--where", "partition=1 and offset<5", "--reason", "schema_validation_failed"]);
    assert_eq!(report["sent"], 5);
    let after = orders.messages();
    let new: Vec<&Message> = after.iter().filter(|message| !before.contains(message)).collect();
    let meant: Vec<&Message> = before.iter().filter(|message| message.partition == 1 && message.offset < 5).collect();
    assert_same(&contents(new.iter().copied()), &contents(meant), "what was replayed");

    // Still wrong, it is a new dead letter, of another place, which was never replayed.
    orders.land(&[]);
    let list = orders.json("list", &[]);
    assert_eq!((&list["count"], &list["replayed"]), (&json!(45), &json!(5)));
    let rest = orders.json("replay", &["--where", "replayed=no", "--limit", "7"]);
    assert_eq!((&rest["sent"], orders.messages().len()), (&json!(7), 52));
    let rest = orders.json("replay", &["--where", "replayed=no"]);
    assert_eq!((&rest["sent"], orders.messages().len()), (&json!(33), 85));
    // What a replay puts there is not seen by itself.
    assert_eq!(orders.json("list", &[])["count"], 45);
    let ids: Vec<Value> =
        orders.json("replay", &["--dry-run", "--all", "--again", "x"])["records"].as_array().unwrap().clone();
    assert!(ids.iter().all(|id| id.as_str().unwrap().starts_with(&format!("{}/", orders.table.topic))), "{ids:?}");
}

#[test]
fn a_topic_that_cannot_take_them_is_told_of() {
    let orders = Orders::new();
    let writer = Writer::new(&orders.test.brokers, &orders.table.topic);
    // Beyond what compression makes small.
    let mut noise = 88_172_645_463_325_252_u64;
    let large: Vec<u8> = (0..400_000)
        .map(|_| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        })
        .collect();
    for n in 0..10 {
        writer.send(&refused(n));
    }
    writer.send(&Raw { value: Some(large.clone()), ..refused(10) });
    writer.flush();
    orders.land(&[]);
    let missing = orders.test.topic("missing");
    let (exit, _, stderr) = try_dlq(&orders.test, &orders.file, "replay", &["--all", "--to", &missing], &[]);
    assert!(exit == Exit::Code(1) && stderr.contains(&missing) && stderr.contains("does not exist"), "{stderr}");
    assert!(!topics(&orders.test.brokers).contains(&missing), "it was not made by sending to it");
    let replays = format!("headwater-{}-replays", orders.test.prefix);
    let (exit, _, stderr) = try_dlq(&orders.test, &orders.file, "replay", &["--all", "--to", &replays], &[]);
    assert!(exit == Exit::Code(2) && stderr.contains("holds the progress"), "{stderr}");
    let narrow = orders.target("narrow", 1);
    let (exit, _, stderr) =
        try_dlq(&orders.test, &orders.file, "replay", &["--all", "--to", &narrow, "--keep-partition"], &[]);
    assert!(exit == Exit::Code(2) && stderr.contains("leave out --keep-partition"), "{stderr}");

    let small = orders.test.topic("small");
    create_topic(&orders.test.brokers, &small, 1, &[("max.message.bytes", "100000")]);
    let (exit, _, stderr) = try_dlq(&orders.test, &orders.file, "replay", &["--all", "--to", &small], &[]);
    assert_eq!(exit, Exit::Code(1), "{stderr}");
    assert!(stderr.contains("max.message.bytes") && stderr.contains("--where 'size<400000'"), "{stderr}");
    assert_eq!(read_topic(&orders.test.brokers, &small, true), [], "nothing of that transaction is there");
    let report = orders.json("replay", &["--all", "--to", &small, "--where", "size<400000"]);
    assert_eq!(report["sent"], 10, "as it was told");
    let rest = orders.target("large", 1);
    assert_eq!(orders.json("replay", &["--all", "--to", &rest])["sent"], 1);
    assert_eq!(read_topic(&orders.test.brokers, &rest, true)[0].value.as_ref(), Some(&large));
}

/// Writes messages that only a producer of our own can: names of headers that are no UTF-8, times of any day.
fn write_odd(orders: &Orders, count: usize) {
    let settings = Settings {
        transactional_id: orders.test.topic("writer"),
        compression: Compression::None,
        max_message_bytes: 1_000_000,
    };
    let mut producer =
        TransactionalProducer::open(&Kafka::plaintext(&orders.test.brokers), &settings).expect("a producer");
    let topic = producer.topic(&orders.table.topic).expect("the topic");
    producer.begin().expect("a transaction");
    for n in 0..count {
        let odd: [(&[u8], Option<&[u8]>); 3] =
            [(b"\xff\xfe", Some(b"v")), (b"plain", None), (b"\xff\xfe", Some(b"\xff"))];
        let headers = Headers::new(odd);
        let value = n.to_string();
        // Three days in turn: files of their own within one commit.
        let timestamp_ms = 1_736_943_840_000 + (n % 3) as i64 * 86_400_000;
        let (key, value) = (Some(&b"one"[..]), Some(value.as_bytes()));
        let headers = Some(&headers);
        producer.send(&Outgoing { topic, partition: Some(0), key, value, headers, timestamp_ms }).expect("sent");
    }
    producer.commit().expect("committed");
}

#[test]
fn order_and_odd_header_names_survive() {
    let orders = Orders::new();
    write_odd(&orders, 90);
    orders.land(&[]);
    let root = &orders.table.dead_letters;
    assert_eq!(lake::table_files(root).len(), 3, "one commit of three days");
    let report = orders.json("list", &["--by", "day"]);
    let days: Vec<(&str, u64)> = report["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| (group["day"].as_str().unwrap(), group["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(days, [("2025-01-15", 30), ("2025-01-16", 30), ("2025-01-17", 30)]);
    assert_eq!(orders.json("list", &["--where", "day=2025-01-16"])["count"], 30);

    // Replayed onto the topic itself, they are refused again: what the stage keeps of the headers must be the same.
    let report = orders.json("replay", &["--all"]);
    assert_eq!(report["sent"], 90);
    orders.land(&[]);
    let mut letters = lake::dead_letters(root);
    letters.sort_by_key(|letter| (letter.partition, letter.offset));
    let (first, again): (Vec<_>, Vec<_>) =
        letters.into_iter().partition(|letter| letter.partition == 0 && letter.offset < 90);
    let again: Vec<_> = again.into_iter().filter(|letter| letter.payload.is_some()).collect();
    assert_eq!((first.len(), again.len()), (90, 90));
    let values =
        |letters: &[lake::DeadLetter]| -> Vec<Option<Vec<u8>>> { letters.iter().map(|l| l.payload.clone()).collect() };
    assert_eq!(values(&again), values(&first), "in the order of their offsets, for they have one key");
    let stored = "[[\"\u{fffd}\u{fffd}\",\"dg==\",\"//4=\"],[\"plain\",null],[\"\u{fffd}\u{fffd}\",\"/w==\",\"//4=\"]]";
    for letter in first.iter().chain(&again) {
        assert_eq!(letter.row["headers"], stored);
    }
    let text = orders.dlq("show", &[&orders.table.topic, "0", "0"]);
    assert!(text.contains("0xfffe: v") && text.contains("plain: null"), "{text}");
}

#[test]
fn large_letters_take_bounded_memory() {
    const LETTERS: usize = 120;
    let orders = Orders::new();
    let writer = Writer::new(&orders.test.brokers, &orders.table.topic);
    for n in 0..LETTERS {
        // Compressed they are small, in the files too.
        writer.send(&Raw { value: Some(vec![b'a' + (n % 26) as u8; 2 << 20]), ..refused(n) });
    }
    writer.flush();
    orders.land(&[]);
    let target = orders.target("again", 1);
    let mut run = Run::start(&orders.test, &["dlq", "replay", "-c", &orders.file, "--all", "--to", &target]);
    let status = format!("/proc/{}/status", run.pid());
    let mut peak_kib = 0;
    crate::harness::eventually(LIMIT, "the end of the replay", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let kib =
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak_kib = peak_kib.max(kib.unwrap_or_default());
        !run.is_running()
    });
    assert_eq!(run.wait(Duration::from_secs(1)), Exit::Code(0), "{}", run.stderr());
    let end = end_offsets(&orders.test.brokers, &target)[&0] as usize;
    assert_eq!(end, LETTERS + transactions(&run.stdout()), "{}", run.stdout());
    println!("{} MiB for {} MiB of letters", peak_kib >> 10, LETTERS * 2);
    assert!(peak_kib > 0 && peak_kib < 200 << 10, "{} MiB", peak_kib >> 10);
}

/// How many transactions a summary tells of: each ends with a marker in the topic.
fn transactions(summary: &str) -> usize {
    let (_, rest) = summary.split_once(" sent in ").expect("a summary");
    rest.split(' ').next().expect("a number").parse().expect("a number")
}
