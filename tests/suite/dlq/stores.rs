//! What `list`, `show` and `export` tell of both stores, against the stores as the tests read them.

use super::scene::{LIMIT, Orders, both, dlq, refused, try_dlq};
use crate::{
    analyze::scene::dead_letters,
    harness::{
        DEADLINE, Run, Test, block_on, eventually,
        kafka::{Message, create_topic, end_offsets},
        lake,
        run::Exit,
    },
    hostile::{headers, payloads},
    landing::{Raw, Writer, walk},
    readers,
};
use base64::Engine;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

type Place = (String, i64, i64);

/// A letter as the tests' own readers of the stores know it.
#[derive(Debug, PartialEq)]
struct Known {
    stage: &'static str,
    reason: String,
    detail: String,
    payload: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    let list = value.as_array()?;
    Some(list.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()).expect("a byte")).collect())
}

/// Writes the hostile payloads of the landing tests, with odd keys and headers.
fn write_hostile(test: &Test, topic: &str) {
    let keys = [Some(b"101".to_vec()), None, Some(Vec::new()), Some(vec![0xff, 0, 0xfe]), Some(vec![b'k'; 10_000])];
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let headers = [
        vec![],
        vec![header("null", None), header("empty", Some(b"")), header("", Some(b"no name"))],
        vec![header("twice", Some(b"1")), header("twice", None), header("twice", Some(b"\xff\x00"))],
        vec![header("\u{202e}é\u{1b}[2J", Some(b"../../etc/passwd")), header("x=y", Some(&[b'v'; 5_000]))],
    ];
    let writer = Writer::new(&test.brokers, topic);
    for (n, case) in payloads::cases().into_iter().enumerate() {
        writer.send(&Raw {
            partition: n as i32 % 3,
            key: keys[n % keys.len()].clone(),
            value: case.payload,
            headers: headers[n % headers.len()].clone(),
        });
    }
    writer.flush();
}

struct World {
    orders: Orders,
    scene: crate::analyze::scene::Scene,
    file: String,
    known: BTreeMap<Place, Vec<Known>>,
}

/// Hostile orders and a hostile chat, landed and analyzed.
fn world() -> World {
    let orders = Orders::new();
    let (scene, file) = both(&orders);
    write_hostile(&orders.test, &orders.table.topic);
    write_hostile(&scene.test, &scene.chat);
    let mut run = Run::start(&scene.test, &["run", "-c", &file, "--until-caught-up"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());

    let mut known: BTreeMap<Place, Vec<Known>> = BTreeMap::new();
    let chat_letters = scene.test.dir().join("dead").join(&scene.chat);
    for root in [&orders.table.dead_letters, &chat_letters] {
        for letter in lake::dead_letters(root) {
            known.entry((letter.topic, letter.partition, letter.offset)).or_default().push(Known {
                stage: "land",
                reason: letter.reason,
                detail: letter.row["error_detail"].as_str().expect("a text").to_owned(),
                payload: letter.payload,
                key: bytes(&letter.row["key"]),
                headers: headers(&letter.row["headers"]),
            });
        }
    }
    for letter in dead_letters(&scene.test.db(), &scene.job_id(&scene.jobs[0])) {
        known.entry((letter.topic, letter.partition.into(), letter.offset)).or_default().push(Known {
            stage: "analyze chat",
            reason: letter.reason,
            detail: letter.detail,
            payload: letter.payload,
            key: letter.key,
            headers: headers(&letter.headers.map_or(Value::Null, Value::String)),
        });
    }
    World { orders, scene, file, known }
}

/// What an exported line says of a field of bytes.
fn exported(line: &Value, name: &str) -> Option<Vec<u8>> {
    let encoded = &line[format!("{name}_base64")];
    assert!(line[name].is_null() || encoded.is_null(), "one of both: {line}");
    let text = line[name].as_str().map(|text| text.as_bytes().to_vec());
    let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    text.or_else(|| encoded.as_str().map(decode))
}

fn stage(line: &Value) -> String {
    let stage = line["stage"].as_str().expect("a stage").to_owned();
    line["job"].as_str().map_or(stage.clone(), |job| format!("{stage} {job}"))
}

#[test]
fn what_is_listed_shown_and_exported_is_what_both_stages_refused() {
    let world = world();
    let (test, file) = (&world.scene.test, &world.file);
    let count: usize = world.known.values().map(Vec::len).sum();
    let twice = world.known.values().filter(|letters| letters.len() == 2).count();
    assert!(count > 900 && twice > 200, "{count} letters, {twice} of them refused by both stages");
    listed(&world, count);
    exported_lines(&world, count);
    exported_parquet(&world, count);

    // Of each kind one record, whole.
    let mut seen = BTreeSet::new();
    for ((topic, partition, offset), letters) in &world.known {
        let first = &letters[0];
        if !seen.insert((first.stage, first.reason.clone(), letters.len(), first.payload.is_some())) {
            continue;
        }
        let id = format!("{topic}/{partition}/{offset}");
        let (exit, raw, stderr) = try_dlq(test, file, "show", &[&id, "--raw"], &[]);
        match &letters[0].payload {
            Some(payload) => assert_eq!((exit, &raw), (Exit::Code(0), payload), "{id}: {stderr}"),
            None => assert!(exit == Exit::Code(1) && stderr.contains("tombstone"), "{id}: {stderr}"),
        }
        let text = dlq(test, file, "show", &[topic, &partition.to_string(), &offset.to_string()]);
        assert!(text.starts_with(&id) && text.contains(&letters[0].reason), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "what would be obeyed is escaped: {text}");
        assert_eq!(text.matches("\n  stage ").count(), letters.len(), "a record may be in both stores: {text}");
    }
    let some = |is_it: fn(&(&str, String, usize, bool)) -> bool| seen.iter().any(is_it);
    assert!(some(|kind| kind.2 == 2) && some(|kind| !kind.3) && seen.len() > 8, "{seen:?}");
    let (exit, _, stderr) = try_dlq(test, file, "show", &[&world.orders.table.topic, "0", "999999"], &[]);
    assert!(exit == Exit::Code(1) && stderr.contains("there is no dead letter"), "{stderr}");
}

fn listed(world: &World, count: usize) {
    let (test, file) = (&world.scene.test, &world.file);
    let mut expected: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for ((topic, ..), letters) in &world.known {
        for letter in letters {
            let group = (letter.stage.to_owned(), topic.clone(), letter.reason.clone());
            *expected.entry(group).or_default() += 1;
        }
    }
    let list = |more: &[&str]| -> Value {
        let all: Vec<&str> = more.iter().copied().chain(["--format", "json"]).collect();
        serde_json::from_str(&dlq(test, file, "list", &all)).expect("JSON")
    };
    let report = list(&[]);
    assert_eq!((&report["count"], &report["warnings"]), (&json!(count), &json!([])));
    let mut found: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    let text = |group: &Value, name: &str| group[name].as_str().unwrap_or_default().to_owned();
    for group in report["groups"].as_array().expect("groups") {
        let key = (text(group, "stage"), text(group, "topic"), text(group, "reason"));
        *found.entry(key).or_default() += group["count"].as_u64().expect("a count");
        assert!(text(group, "first") <= text(group, "last") && text(group, "day").len() == 10, "{group}");
        let id = text(group, "example");
        let known =
            world.known.iter().find(|((topic, partition, offset), _)| id == format!("{topic}/{partition}/{offset}"));
        let letters = known.unwrap_or_else(|| panic!("{group}")).1;
        assert!(letters.iter().any(|letter| letter.detail == text(group, "detail")), "{group}");
    }
    assert_eq!(found, expected);

    let by_reason = list(&["--by", "reason", "--where", "stage=analyze"]);
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for ((stage, _, reason), count) in &expected {
        if stage == "analyze chat" {
            *reasons.entry(reason.clone()).or_default() += count;
        }
    }
    let groups = by_reason["groups"].as_array().expect("groups").iter();
    let found: BTreeMap<String, u64> = groups.map(|g| (text(g, "reason"), g["count"].as_u64().unwrap())).collect();
    assert_eq!(found, reasons);
    assert!(by_reason["groups"][0].get("topic").is_none());

    let topic = &world.orders.table.topic;
    let narrow = list(&["--topic", topic, "--reason", "negative_amount", "--since", "1h", "--where", "partition=1"]);
    let counted = world.known.iter().filter(|((of, partition, _), letters)| {
        of == topic && *partition == 1 && letters[0].reason == "negative_amount"
    });
    assert_eq!(narrow["count"], counted.count());
    assert_eq!(list(&["--until", "1h"])["count"], 0);
    let table = dlq(test, file, "list", &["--by", "topic,reason"]);
    assert!(
        table.starts_with("TOPIC")
            && table.contains(&format!("\n{} dead letters", headwater::app::group_digits(count as u64))),
        "{table}"
    );
}

fn exported_lines(world: &World, count: usize) {
    let (test, file) = (&world.scene.test, &world.file);
    let to = test.path("letters.ndjson").display().to_string();
    let said = dlq(test, file, "export", &["--to", &to]);
    let written = fs::read(&to).expect("the file");
    assert!(said.contains(&format!("{} bytes", headwater::app::group_digits(written.len() as u64))), "{said}");
    let (exit, piped, _) = try_dlq(test, file, "export", &["--to", "-"], &[]);
    assert_eq!(exit, Exit::Code(0));
    assert_eq!(piped, written, "on stdout the same");

    let mut found: BTreeMap<Place, Vec<Known>> = BTreeMap::new();
    let lines = String::from_utf8(written).expect("UTF-8");
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let place = (
            line["topic"].as_str().unwrap().to_owned(),
            line["partition"].as_i64().unwrap(),
            line["offset"].as_i64().unwrap(),
        );
        assert_eq!(line["id"], format!("{}/{}/{}", place.0, place.1, place.2));
        assert_eq!(line["replayed"], false, "Kafka says that nothing was");
        let stage = if stage(&line) == "land" { "land" } else { "analyze chat" };
        let headers = line["headers"].as_array().unwrap().iter();
        found.entry(place).or_default().push(Known {
            stage,
            reason: line["reason"].as_str().unwrap().to_owned(),
            detail: line["detail"].as_str().unwrap().to_owned(),
            payload: exported(&line, "payload"),
            key: exported(&line, "key"),
            headers: headers.map(|h| (h["name"].as_str().unwrap().to_owned(), exported(h, "value"))).collect(),
        });
    }
    assert_eq!(found.values().map(Vec::len).sum::<usize>(), count);
    for (place, letters) in &world.known {
        assert_eq!(&found[place], letters, "{place:?}");
    }
    let (exit, _, stderr) = try_dlq(test, file, "export", &["--to", &to], &[]);
    assert!(exit == Exit::Code(1) && stderr.contains("is there already"), "{stderr}");
    let (exit, _, stderr) = try_dlq(test, file, "export", &["--to", "letters.csv"], &[]);
    assert!(exit == Exit::Code(2) && stderr.contains("FILE.parquet"), "{stderr}");
}

fn exported_parquet(world: &World, count: usize) {
    let (test, file) = (&world.scene.test, &world.file);
    // Where the readers of a table find it.
    let root = test.path("exported");
    fs::create_dir_all(root.join("date=2025-01-15")).expect("the directory");
    let to = root.join("date=2025-01-15/part-export.parquet");
    dlq(test, file, "export", &["--to", &to.display().to_string()]);
    assert_eq!(walk(&root), [to], "nothing beside it");

    let letters = lake::dead_letters(&root);
    assert_eq!(letters.len(), count);
    let theirs = lake::dead_letters(&world.orders.table.dead_letters);
    let columns: BTreeSet<&String> = letters[0].row.keys().collect();
    assert_eq!(columns, theirs[0].row.keys().collect(), "the columns of land's own files");
    let ours: BTreeMap<Place, &lake::DeadLetter> =
        letters.iter().map(|letter| ((letter.topic.clone(), letter.partition, letter.offset), letter)).collect();
    for letter in &theirs {
        let place = (letter.topic.clone(), letter.partition, letter.offset);
        let mut expected = letter.row.clone();
        expected.insert("date".to_owned(), "2025-01-15".into());
        assert_eq!(ours[&place].row, expected, "{place:?}");
    }
    for reader in readers::READERS {
        let (_, rows) = readers::read(reader, &root);
        assert_eq!(rows.len(), count, "{reader}");
        let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for row in &rows {
            let place = (
                row["topic"].as_str().unwrap().to_owned(),
                row["kafka_partition"].as_i64().unwrap(),
                row["kafka_offset"].as_i64().unwrap(),
            );
            let known = &world.known[&place][0];
            assert_eq!(row["raw_payload"].as_str(), known.payload.as_ref().map(hex).as_deref(), "{reader}: {place:?}");
            assert_eq!(row["key"].as_str(), known.key.as_ref().map(hex).as_deref(), "{reader}: {place:?}");
        }
    }
}

#[test]
fn only_files_that_a_ledger_vouches_for_count() {
    let orders = Orders::new();
    orders.write_refused(30);
    orders.land(&[]);
    assert_eq!(orders.json("list", &[])["count"], 30);

    // Committed, and killed before the files were renamed: they count where they stand, in staging.
    orders.write_refused(12);
    let armed = [("HEADWATER_FAILPOINTS", "land.after_ledger_sync=kill")];
    let mut run = Run::with_env(&orders.test, &["land", "-c", &orders.file, "--until-caught-up"], &armed);
    assert_eq!(run.wait(LIMIT), Exit::Signal(libc::SIGKILL), "{}", run.stderr());
    let staged = orders.table.staged();
    assert!(!staged.is_empty(), "the commit's files are in staging");
    let count = orders.json("list", &[])["count"].as_u64().expect("a count");
    let in_place = lake::dead_letters(&orders.table.dead_letters).len() as u64;
    assert!(in_place < count && count <= 42, "{in_place} in place, {count} listed");
    assert_eq!(orders.table.staged(), staged, "listing leaves staging alone");

    // Staged by nobody's commit: killed before the ledger.
    orders.land(&[]);
    orders.write_refused(5);
    let armed = [("HEADWATER_FAILPOINTS", "land.after_stage=kill")];
    let mut run = Run::with_env(&orders.test, &["land", "-c", &orders.file, "--until-caught-up"], &armed);
    assert_eq!(run.wait(LIMIT), Exit::Signal(libc::SIGKILL));
    assert!(!orders.table.staged().is_empty());
    assert_eq!(orders.json("list", &[])["count"], 42);
    orders.land(&[]);
    assert_eq!(orders.json("list", &[])["count"], 47);

    // A file that looks like ours and that no ledger has committed.
    let file = lake::table_files(&orders.table.dead_letters).remove(0);
    let stray = file.with_file_name(format!("part-{}-0-900000-900009-0.parquet", orders.table.topic));
    fs::copy(&file, &stray).expect("a copy");
    let report = orders.json("list", &[]);
    assert_eq!(report["count"], 47);
    let warning = report["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("named by no ledger") && warning.contains("900000"), "{warning}");
    // And without any ledger none counts.
    fs::remove_dir_all(&orders.table.checkpoints).expect("the ledgers");
    let report = orders.json("list", &[]);
    assert_eq!(report["count"], 0);
    assert!(report["warnings"][0].as_str().unwrap().contains("named by no ledger"), "{report}");
}

#[test]
fn stores_that_are_empty_or_away() {
    let orders = Orders::new();
    let (scene, file) = both(&orders);
    // Neither has ever run.
    assert!(dlq(&scene.test, &file, "list", &[]).starts_with("0 dead letters"));
    orders.write_refused(3);
    orders.land(&[]);
    // Kafka is away: what there is can be told, but not what was replayed.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = fs::read_to_string(&orders.file).unwrap().replace(&orders.test.brokers, &format!("127.0.0.1:{nobody}"));
    let away = orders.test.write("away.yml", &text).display().to_string();
    let report: Value = serde_json::from_str(&dlq(&orders.test, &away, "list", &["--format", "json"])).unwrap();
    assert_eq!((&report["count"], &report["replayed"]), (&json!(3), &Value::Null));
    assert!(report["warnings"][0].as_str().unwrap().contains("were replayed is not known"), "{report}");
    assert!(dlq(&orders.test, &away, "show", &[&orders.table.topic, "0", "0"]).contains("replayed    not known"));
    for arguments in [&["--where", "replayed=no"][..], &["--where", "replayed=no", "--by", "topic"]] {
        let (exit, _, stderr) = try_dlq(&orders.test, &away, "list", arguments, &[]);
        assert!(exit == Exit::Code(75) && stderr.contains("kafka.brokers"), "{stderr}");
    }
    let (exit, _, stderr) = try_dlq(&orders.test, &away, "replay", &["--all"], &[]);
    assert!(exit == Exit::Code(75) && stderr.contains("kafka.brokers"), "{stderr}");
    // PostgreSQL is away.
    let text = fs::read_to_string(&file).unwrap();
    let port = format!("\"port\": {}", scene.test.postgres.port);
    assert!(text.contains(&port), "{text}");
    let away =
        scene.test.write("no-postgres.yml", &text.replace(&port, &format!("\"port\": {nobody}"))).display().to_string();
    let (exit, _, stderr) = try_dlq(&scene.test, &away, "list", &[], &[]);
    assert!(exit == Exit::Code(75) && stderr.contains("PostgreSQL"), "{stderr}");
}

#[test]
fn what_is_asked_wrongly_is_said() {
    let orders = Orders::new();
    orders.write_refused(3);
    orders.land(&[]);
    for (command, arguments, told) in [
        ("list", &["--where", "reasons=x"][..], "there is no column \"reasons\"; there are pipeline"),
        ("list", &["--reason", "nul_key"], "there are schema_validation_failed"),
        ("list", &["--since", "yesterday"], "--since takes a time"),
        ("list", &["--pipeline", "other"], "no such pipeline: this file has"),
        ("list", &["--by", "colour"], "possible values"),
        ("show", &["orders"], "TOPIC PARTITION OFFSET"),
        ("show", &[], "RECORD"),
        ("replay", &[], "--dry-run"),
        ("replay", &["--all", "--again", "a/b"], "--again takes a name"),
        ("export", &[], "--to"),
    ] {
        let (exit, stdout, stderr) = try_dlq(&orders.test, &orders.file, command, arguments, &[]);
        assert_eq!(exit, Exit::Code(2), "{command} {arguments:?}: {stderr}");
        assert!(stdout.is_empty() && stderr.contains(told), "{command} {arguments:?}: {stderr}");
    }
    for command in ["list", "show", "replay", "export"] {
        let help = orders.dlq(command, &["--help"]);
        assert!(help.contains("Usage: headwater dlq") && help.contains("-c, --config"), "{help}");
    }
    assert!(orders.dlq("list", &["--help"]).contains("payload.a.b"), "the columns of --where are explained");
    let (exit, _, stderr) = try_dlq(&orders.test, "/nowhere.yml", "list", &[], &[]);
    assert!(exit == Exit::Code(78) && stderr.contains("/nowhere.yml"), "{stderr}");
}

/// The topic's messages, by partition and offset.
pub fn by_place(messages: Vec<Message>) -> BTreeMap<(i32, i64), Message> {
    messages.into_iter().map(|message| ((message.partition, message.offset), message)).collect()
}

#[test]
fn a_letter_is_found_by_what_its_payload_says() {
    let orders = Orders::new();
    let writer = Writer::new(&orders.test.brokers, &orders.table.topic);
    for n in 0..20 {
        let value = format!("{{\"order_id\":{n},\"amount\":-{n}.5,\"who\":{{\"name\":\"Asha {n}\"}}}}");
        writer.send(&Raw { value: Some(value.into_bytes()), ..refused(n) });
    }
    writer.flush();
    orders.land(&[]);
    for (conditions, count) in [
        ("payload.order_id>=15", 5),
        ("payload.amount<-9 and payload.who.name~'Asha 1'", 10),
        ("payload.who.name='Asha 7'", 1),
        ("payload~'Asha 1' and key=k1", 2),
        ("size<1", 0),
        ("reason=missing_required_field and day>=2025-01-15 and offset<3 and partition!=0", 6),
    ] {
        assert_eq!(orders.json("list", &["--where", conditions])["count"], count, "{conditions}");
    }
}

#[test]
fn tenants_are_told_apart() {
    let orders = Orders::new();
    let (test, schema) = (&orders.test, orders.test.path("orders.schema.json"));
    let config = json!({
        "pipeline": test.prefix,
        "tenants": ["north", "south"],
        "kafka": {"brokers": test.brokers},
        "http": {"listen": null},
        "land": {"rotate_ms": 500, "tables": [{
            "topic": format!("{}-{{tenant}}", test.prefix), "path": test.path("lake/{tenant}"), "schema_file": schema,
            "date_column": "created_at",
        }]},
    });
    let file = test.write("tenants.yml", &format!("{config:#}\n")).display().to_string();
    for (tenant, count) in [("north", 4), ("south", 7)] {
        let topic = format!("{}-{tenant}", test.prefix);
        create_topic(&test.brokers, &topic, 3, &[]);
        let writer = Writer::new(&test.brokers, &topic);
        (0..count).for_each(|n| writer.send(&refused(n)));
        writer.flush();
    }
    let mut run = Run::start(test, &["land", "-c", &file, "--until-caught-up"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    let table = dlq(test, &file, "list", &["--by", "pipeline"]);
    assert!(table.starts_with("PIPELINE") && table.contains("\nnorth") && table.contains("\nsouth"), "{table}");
    assert!(table.ends_with("11 dead letters\n"), "{table}");
    assert!(dlq(test, &file, "list", &["--pipeline", "south"]).ends_with("7 dead letters\n"));

    // What one has replayed is none of the other's business.
    let sent = dlq(test, &file, "replay", &["--pipeline", "north"]);
    assert!(sent.contains("4 sent in 1 transaction"), "{sent}");
    let sent = dlq(test, &file, "replay", &["--all"]);
    assert!(sent.contains("7 sent in 1 transaction, 4 already sent"), "{sent}");
}

/// Times that a producer may give a record, and that no calendar, or no 64 bits of microseconds, holds.
const ODD_TIMES_MS: [i64; 4] = [1_795_833_863_000_000_000, i64::MAX, 253_402_300_800_000, 9_224_318_015_999_999];

#[test]
fn no_odd_record_stops_a_command() {
    let orders = Orders::new();
    let (scene, file) = both(&orders);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &orders.test.brokers).create().expect("an admin client");
    for topic in [&orders.table.topic, &scene.chat] {
        let all = i64::MAX.to_string();
        let settings = AlterConfig::new(ResourceSpecifier::Topic(topic))
            .set("message.timestamp.after.max.ms", &all)
            .set("max.message.bytes", "20000000");
        block_on(admin.alter_configs([&settings], &AdminOptions::new())).expect("altered")[0]
            .as_ref()
            .expect("a topic");
        let writer = Writer::new(&orders.test.brokers, topic);
        for (n, time_ms) in ODD_TIMES_MS.into_iter().enumerate() {
            let record = refused(n);
            // The brokers learn of the settings one after another, and refuse such a time until then.
            eventually(DEADLINE, "a record of an odd time", || {
                let is_there = || end_offsets(&orders.test.brokers, topic)[&record.partition] > (n / 3) as i64;
                if !is_there() {
                    writer.send_at(&record, time_ms);
                    writer.flush();
                }
                is_there()
            });
        }
    }
    let mut run = Run::start(&scene.test, &["run", "-c", &file, "--until-caught-up"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());

    let json = |command: &str, more: &[&str]| -> Value {
        let all: Vec<&str> = more.iter().copied().chain(["--format", "json"]).collect();
        serde_json::from_str(&dlq(&scene.test, &file, command, &all)).expect("JSON")
    };
    // The chat's are refused by both stages.
    assert_eq!(json("list", &[])["count"], 12);
    dlq(&scene.test, &file, "list", &["--by", "day"]);
    let place = |n: usize| [refused(n).partition.to_string(), (n / 3).to_string()];
    for topic in [&orders.table.topic, &scene.chat] {
        for n in 0..ODD_TIMES_MS.len() {
            let [partition, offset] = place(n);
            dlq(&scene.test, &file, "show", &[topic, &partition, &offset]);
        }
    }
    // Headers that somebody has changed.
    scene.test.db().execute("UPDATE dead_letters SET headers = 'odd' WHERE kafka_partition = 0 AND kafka_offset = 0");
    let shown = dlq(&scene.test, &file, "show", &[&scene.chat, "0", "0"]);
    assert!(shown.contains("cannot be read as they are stored"), "{shown}");
    for name in ["letters.ndjson", "letters.parquet"] {
        let report = json("export", &["--to", &scene.test.path(name).display().to_string()]);
        assert_eq!(report["letters"], 12, "{report}");
        assert!(report["warnings"][0].as_str().is_some_and(|text| text.contains("damaged")), "{report}");
    }
    let target = orders.target("again", 1);
    let report = json("replay", &["--to", &target, "--all"]);
    assert_eq!((&report["sent"], report["warnings"].as_array().map(Vec::len)), (&json!(8), Some(1)), "{report}");

    let mut verify = Run::start(&scene.test, &["verify", "-c", &file, "--format", "json"]);
    assert_eq!(verify.wait(LIMIT), Exit::Code(0), "{}\n{}", verify.stdout(), verify.stderr());
}
