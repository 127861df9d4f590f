//! A job that begins anew where its topics have lost records: windows that they no longer hold whole stay right,
//! the others are written again, and late events count once.

use super::{
    feed::{MONTH_END_MS, chat, raw},
    scene::{Job, LIMIT, Scene, chat_measures, late_events},
};
use crate::{
    harness::{DEADLINE, Run, Test, block_on, kafka::create_topic, run::Exit},
    landing::Writer,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use serde_json::{Value, json};

const HOUR_MS: i64 = 3_600_000;
/// Of the first stretch of time: ten a second.
const FIRST: i64 = 1_600;
/// So many of them go.
const GONE: i64 = 400;

/// Chat alone, in one partition: which event is late depends on its place alone.
fn lone() -> Scene {
    let test = Test::new();
    let (chat, viewer) = (test.topic("chat"), test.topic("viewer"));
    create_topic(&test.brokers, &chat, 1, &[]);
    let measures = chat_measures();
    let measures: Vec<&Value> =
        measures.as_array().expect("a list").iter().filter(|measure| measure["input"].is_null()).collect();
    let inputs = json!([{"name": "chat", "topic": chat, "key": "stream_id", "id": "event_id"}]);
    let more = json!({"inputs": inputs, "measures": measures});
    Scene { test, chat, viewer, jobs: vec![Job { more, ..Job::quick() }] }
}

/// A stretch, two hours later another; each has an event that is late in the next second.
fn write(scene: &Scene) {
    let writer = Writer::new(&scene.test.brokers, &scene.chat);
    let say =
        |id: &str, at_ms: i64| writer.send(&raw(0, "s", &chat(id, "s", &format!("u{}", at_ms % 7), "so GOOD", at_ms)));
    for n in 0..FIRST {
        say(&format!("a{n}"), MONTH_END_MS + n * 100);
        if n % 500 == 499 {
            say(&format!("late{n}"), MONTH_END_MS + n * 100 - 20_000);
        }
    }
    for n in 0..300 {
        say(&format!("b{n}"), MONTH_END_MS + 2 * HOUR_MS + n * 100);
        if n == 250 {
            say("late-b", MONTH_END_MS + 2 * HOUR_MS);
        }
    }
    writer.flush();
}

fn lose_the_first(scene: &Scene) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &scene.test.brokers).create().expect("an admin client");
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&scene.chat, 0, Offset::Offset(GONE)).expect("an offset");
    block_on(admin.delete_records(&before, &AdminOptions::new())).expect("the records go");
}

fn command(scene: &Scene, arguments: &[&str]) -> (Exit, Run) {
    let mut run = Run::start(&scene.test, arguments);
    (run.wait(LIMIT), run)
}

/// What `reset` says that it does.
#[track_caller]
fn reset(scene: &Scene, file: &str, more: &[&str]) -> Value {
    let (exit, run) = command(scene, &[&["reset", "-c", file, "--format", "json"], more].concat());
    assert_eq!(exit, Exit::Code(0), "{}\n{}", run.stdout(), run.stderr());
    run.json()
}

fn windows(scene: &Scene) -> Vec<Vec<Option<String>>> {
    let sql =
        "SELECT to_jsonb(t) - 'updated_at' - 'revision' FROM chat_summary_minute t ORDER BY stream_id, window_start";
    scene.test.db().rows(sql)
}

fn iso_at(ms: i64) -> String {
    super::feed::iso(ms).replace(".000Z", "Z")
}

#[test]
fn a_job_begins_anew_and_damages_nothing() {
    let scene = lone();
    let (db, file, id) = (scene.test.db(), scene.file(), scene.job_id(&scene.jobs[0]));
    write(&scene);
    scene.catch_up(&file);
    let verify = || {
        let (exit, run) = command(&scene, &["verify", "-c", &file]);
        assert_eq!(exit, Exit::Code(0), "{}", run.stdout());
    };
    verify();
    let (whole, late) = (windows(&scene), late_events(&db, &id));
    assert!(whole.len() > 180 && late.len() == 8, "{} {late:?}", whole.len());
    lose_the_first(&scene);

    // What was documented once: it is refused rather than believed.
    db.execute(
        "CREATE TABLE saved_jobs AS TABLE analyze_jobs; CREATE TABLE saved_partitions AS TABLE analyze_partitions",
    );
    db.execute("DELETE FROM analyze_jobs");
    let (exit, run) = command(&scene, &["analyze", "-c", &file, "--until-caught-up"]);
    assert_eq!(exit, Exit::Code(1));
    let told = run.stdout() + &run.stderr();
    assert!(told.contains("headwater reset -c FILE --job chat"), "{told}");
    assert_eq!((windows(&scene), late_events(&db, &id)), (whole.clone(), late.clone()));
    db.execute("DELETE FROM analyze_jobs; INSERT INTO analyze_jobs TABLE saved_jobs");
    db.execute("INSERT INTO analyze_partitions TABLE saved_partitions");

    // The newest of the first thousand that are left, and an hour; windows begin at whole seconds.
    let from = MONTH_END_MS + (GONE + 999) * 100 + HOUR_MS;
    let progress = "SELECT to_jsonb(j) FROM analyze_jobs j UNION ALL SELECT to_jsonb(p) FROM analyze_partitions p";
    let before = db.rows(progress);
    let said = reset(&scene, &file, &["--dry-run"]);
    assert!(said["windows_from"].as_str() > Some(&*iso_at(MONTH_END_MS + HOUR_MS)), "{said}");
    assert!(said["windows_from"].as_str() <= Some(&*super::feed::iso(from)), "{said}");
    assert!(said["because"][0].as_str().is_some_and(|text| text.contains(&format!("before offset {GONE}"))), "{said}");
    assert_eq!((said["windows_again"].as_u64(), said["late_events"].as_u64()), (Some(31), Some(2)), "{said}");
    assert_eq!((db.rows(progress), late_events(&db, &id)), (before, late.clone()), "a dry run changes nothing");

    // What stays is not looked at, what is written again is: a wrong row shows which.
    let second = iso_at(MONTH_END_MS + 2 * HOUR_MS);
    let spoil = "UPDATE chat_summary_minute SET chat_count = 1000 WHERE";
    db.execute(&format!("{spoil} window_start = '{second}'"));
    db.execute(&format!("UPDATE late_events SET event_count = 77 WHERE window_start = '{second}'"));
    let done = reset(&scene, &file, &["--job", "chat"]);
    assert_eq!(done["windows_from"], said["windows_from"]);
    scene.catch_up(&file);
    assert_eq!((windows(&scene), late_events(&db, &id)), (whole.clone(), late.clone()));
    assert_eq!(db.count("SELECT max(revision) FROM chat_summary_minute"), 1, "nothing else was touched");
    // Once more, and a restart in between.
    reset(&scene, &file, &[]);
    scene.catch_up(&file);
    scene.catch_up(&file);
    assert_eq!((windows(&scene), late_events(&db, &id)), (whole.clone(), late.clone()));
    verify();

    // From a later time on, and with the rows gone first.
    let later = MONTH_END_MS + 2 * HOUR_MS + 15_000;
    db.execute(&format!("{spoil} window_start = '{second}'"));
    let spoilt = windows(&scene);
    let said = reset(&scene, &file, &["--from", &iso_at(later), "--delete"]);
    assert_eq!(said["windows_from"].as_str(), Some(&*iso_at(later)), "{said}");
    assert_eq!(
        db.count(&format!("SELECT count(*) FROM chat_summary_minute WHERE window_start >= '{}'", iso_at(later))),
        0
    );
    scene.catch_up(&file);
    assert_eq!((windows(&scene), late_events(&db, &id)), (spoilt, late));
}

/// What the clock refused stays refused when it is read again; what the declaration did is judged anew.
#[test]
fn what_a_declaration_refused_counts_once_the_job_is_declared_otherwise() {
    let mut scene = lone();
    let writer = Writer::new(&scene.test.brokers, &scene.chat);
    for n in 0..20 {
        let mut event = chat(&format!("e{n}"), "s", "u", "hello", MONTH_END_MS + n * 100);
        event["sent_at"] = event["timestamp"].take();
        event["timestamp"] = json!("yesterday");
        writer.send(&raw(0, "s", &event));
    }
    writer.flush();
    let file = scene.file();
    scene.catch_up(&file);
    let db = scene.test.db();
    assert_eq!(db.count("SELECT count(*) FROM dead_letters WHERE error_reason = 'invalid_timestamp'"), 20);
    scene.jobs[0].more["inputs"][0]["timestamp"] = json!("sent_at");
    let file = scene.file();
    reset(&scene, &file, &[]);
    scene.catch_up(&file);
    // Each is in two windows.
    assert_eq!(db.count("SELECT sum(chat_count)::bigint FROM chat_summary_minute WHERE is_final"), 40);
}

#[test]
fn a_job_that_is_led_does_not_begin_anew() {
    let scene = Scene::new(vec![Job::quick()]);
    let file = scene.file();
    let run = scene.start(&file, &[], &[]);
    run.wait_for_log("leading");
    let (exit, refused) = command(&scene, &["reset", "-c", &file]);
    assert_eq!(exit, Exit::Code(1), "{}", refused.stdout());
    let pid = format!("(process {})", run.pid());
    assert!(
        refused.stderr().contains("stop every instance") && refused.stderr().contains(&pid),
        "{}",
        refused.stderr()
    );
    let (exit, said) = command(&scene, &["reset", "-c", &file, "--dry-run"]);
    assert_eq!(exit, Exit::Code(0), "{}", said.stderr());
    assert!(said.stdout().contains(&pid), "{}", said.stdout());
    let mut wrong = Run::start(&scene.test, &["reset", "-c", &file, "--job", "chats"]);
    assert_eq!(wrong.wait(DEADLINE), Exit::Code(1));
    assert!(wrong.stderr().contains("--job chats: the jobs are chat"), "{}", wrong.stderr());
}
