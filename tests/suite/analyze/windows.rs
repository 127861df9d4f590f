//! Final windows against the recomputation: order, idleness, silence, ends of days, late events.

use super::{
    feed::{Crowd, MONTH_END_MS, Pen, chat, iso, viewer},
    oracle::{Oracle, Span},
    scene::{Job, Scene, late_events, rows, state, unit},
};
use crate::{
    harness::{DEADLINE, Patience, eventually, kafka::Message, run::Exit},
    landing::metric,
};
use serde_json::json;
use std::time::Duration;

/// A minute by ten seconds as shipped, and one whose size is no multiple of its slide.
fn two_jobs() -> Vec<Job> {
    let shipped = Job { span: Span { window_ms: 60_000, slide_ms: 10_000 }, delay_ms: 10_000, ..Job::quick() };
    let odd =
        Job { name: "odd", table: "odd_windows", span: Span { window_ms: 7_000, slide_ms: 3_000 }, ..Job::quick() };
    vec![shipped, odd]
}

#[test]
fn windows_equal_a_batch_recomputation() {
    const DISORDER_MS: u64 = 2_900;
    let scene = Scene::new(two_jobs());
    let pen = Pen::new(&scene.test.brokers, scene.topics());
    let (mut first, mut second) = (Crowd::new("first", 1), Crowd::new("second", 2));
    let mut recent = Vec::new();
    // Over the end of a day and a month, partition 0; s3 falls silent after half a minute.
    for step in 0..2_400 {
        let at_ms = MONTH_END_MS + step * 100;
        for stream in ["s0", "s3"] {
            if stream == "s0" || step < 300 {
                let event = first.says(stream, at_ms, DISORDER_MS);
                pen.chat(0, &event);
                recent.push(event);
            }
        }
        if step % 7 == 0 {
            pen.viewer(0, &first.watches("s0", at_ms, DISORDER_MS));
            // Watched and never chatted with: no row.
            pen.viewer(0, &first.watches("only-viewers", at_ms, DISORDER_MS));
        }
        // A producer that was restarted sends its last messages again; those without an id count again.
        if step % 600 == 599 {
            recent[recent.len() - 20..].iter().for_each(|event| pen.chat(0, event));
            pen.viewer(0, &first.watches("s0", at_ms, 0));
        }
        // A clock that is a year ahead.
        if step % 800 == 5 {
            let future_ms = chrono::Utc::now().timestamp_millis() + 365 * 86_400_000;
            pen.chat(0, &first.says("s0", future_ms, 0));
            pen.viewer(0, &first.watches("s0", future_ms, 0));
        }
        if step % 500 == 3 {
            let mut text = first.says("s0", at_ms, 0);
            text["timestamp"] = json!("yesterday");
            pen.chat(0, &text);
        }
    }
    // An hour behind, in another partition, with a gap of ten minutes: nobody's events are late for that.
    // Partition 2 of chat and partition 1 of viewer stay empty.
    for step in 0..600 {
        let gap_ms = if step < 300 { 0 } else { 600_000 };
        let at_ms = MONTH_END_MS - 3_600_000 + gap_ms + step * 200;
        pen.chat(1, &second.says("s8", at_ms, DISORDER_MS));
        pen.viewer(2, &second.watches("s8", at_ms, DISORDER_MS));
    }
    pen.flush();
    let report = scene.catch_up(&scene.file());
    let expected = scene.assert_tables();
    assert_eq!(expected.duplicates.len(), 80, "the copies that the producer sent again");
    assert_eq!(expected.dead.len(), 3 + 3 + 5, "a year ahead, and no time at all");
    let (chat, viewer) = scene.messages();
    // Both jobs have read everything.
    assert_eq!(report["analyze"]["rows"], 2 * (chat.len() + viewer.len()), "every record is accounted for");
    assert_eq!(report["analyze"]["dead_letters"], json!({"invalid_timestamp": 2 * 11}));
    let db = scene.test.db();
    for job in &scene.jobs {
        let found = rows(&db, job);
        assert!(found.keys().all(|(stream, _)| stream != "only-viewers"), "viewers without chat give no row");
        assert!(found.iter().any(|((stream, _), row)| stream == "s3" && row.avg_viewers.is_none()));
        let over_midnight =
            |start: i64| start < MONTH_END_MS + 120_000 && start + job.span.window_ms > MONTH_END_MS + 120_000;
        assert!(
            found.keys().any(|(stream, start)| stream == "s0" && over_midnight(*start)),
            "a window over the month's end"
        );
    }
    // Nothing new: the same once more changes nothing.
    let before = db.rows("SELECT * FROM chat_summary_minute ORDER BY stream_id, window_start");
    scene.catch_up(&scene.file());
    assert_eq!(db.rows("SELECT * FROM chat_summary_minute ORDER BY stream_id, window_start"), before);
    scene.assert_tables();
}

/// Live events, all of the present; then nobody says anything any more.
#[test]
fn the_last_window_closes_without_further_input() {
    let job = Job { delay_ms: 1_000, idle_ms: 500, ..Job::quick() };
    let scene = Scene::new(vec![job]);
    let run = scene.start(&scene.file(), &[], &[]);
    eventually(DEADLINE, "the job caught up on nothing", || state(&run) == "caught_up");
    let pen = Pen::new(&scene.test.brokers, scene.topics());
    let mut crowd = Crowd::new("c", 3);
    let now_ms = chrono::Utc::now().timestamp_millis();
    for n in 0..50 {
        pen.chat(n % 2, &crowd.says(&format!("s{}", n % 4), now_ms, 500));
    }
    pen.viewer(0, &crowd.watches("s0", now_ms, 0));
    pen.flush();
    scene.wait_until_final("the last windows");
    scene.assert_tables();
    // Not before its time, and soon after it: a window's end, the delay, and what idleness takes to show.
    let slowest = "SELECT max(extract(epoch FROM updated_at - window_end)) FROM chat_summary_minute";
    let waited: f64 = scene.test.db().value(slowest).parse().expect("seconds");
    assert!((1.0..30.0).contains(&waited), "the last row is written {waited} s after its window's end");
    assert_eq!(crate::landing::ready(&run), 200);
}

struct Live<'a> {
    scene: &'a Scene,
    pen: Pen,
    next: u32,
}

impl Live<'_> {
    /// One event of stream `s` on the only partition that is used.
    fn say(&mut self, at_ms: i64) {
        self.next += 1;
        self.pen.chat(0, &chat(&format!("e{}", self.next), "s", &format!("u{}", self.next), "good", at_ms));
        self.pen.flush();
    }

    fn count(&self, start_ms: i64) -> Option<(i64, i64)> {
        let sql = format!(
            "SELECT chat_count, revision FROM chat_summary_minute WHERE is_final AND window_start = to_timestamp({start_ms} / 1000.0)"
        );
        let row = self.scene.test.db().rows(&sql).into_iter().next()?;
        let number = |n: usize| row[n].as_deref().expect("not null").parse().expect("a number");
        Some((number(0), number(1)))
    }
}

#[test]
fn a_late_event_revises_what_is_open_and_is_counted_for_what_is_not() {
    const BASE_MS: i64 = MONTH_END_MS;
    let seconds = |n: i64| BASE_MS + n * 1_000;
    // Not idle for the length of the test, so that only events move the time.
    let job = Job { delay_ms: 2_000, lateness_ms: 10_000, idle_ms: 60_000, ..Job::quick() };
    let settled = Job { idle_ms: 200, ..job.clone() };
    let mut scene = Scene::new(vec![job]);
    // Partitions that are empty would hold the time until they are idle: one of each topic is enough.
    let pen = Pen::new(&scene.test.brokers, scene.topics());
    let everywhere = |at_ms: i64| {
        (1..3).for_each(|partition| {
            pen.chat(partition, &chat(&format!("p{partition}-{at_ms}"), "other", "u", "", at_ms))
        });
        (0..3).for_each(|partition| pen.viewer(partition, &viewer("other", 5, at_ms)));
        pen.flush();
    };
    let run = scene.start(&scene.file(), &[], &[]);
    let mut live = Live { scene: &scene, pen: Pen::new(&scene.test.brokers, scene.topics()), next: 0 };
    everywhere(seconds(200));
    for second in [88, 95, 100] {
        live.say(seconds(second));
    }
    // Watermark 98: windows until [96, 98) are final, those until [86, 88) closed.
    eventually(DEADLINE, "the final window of second 95", || live.count(seconds(95)) == Some((1, 0)));
    live.say(seconds(95) + 500);
    eventually(DEADLINE, "its revision", || {
        live.count(seconds(95)) == Some((2, 1)) && live.count(seconds(94)) == Some((2, 1))
    });
    live.say(seconds(95) + 600);
    eventually(DEADLINE, "its second revision", || live.count(seconds(95)) == Some((3, 2)));
    // Of its windows one has closed, one has not.
    live.say(seconds(87) + 500);
    eventually(DEADLINE, "the half that it is counted for", || live.count(seconds(87)) == Some((2, 1)));
    // Of its windows none is open.
    live.say(seconds(50));
    live.say(seconds(50) + 1);
    let id = scene.job_id(&scene.jobs[0]);
    let db = scene.test.db();
    eventually(DEADLINE, "the late events by window", || late_events(&db, &id).values().sum::<i64>() >= 5);
    let topic = scene.chat.clone();
    let expected =
        [(seconds(49), 2), (seconds(50), 2), (seconds(86), 1)].map(|(start, count)| ((topic.clone(), start), count));
    assert_eq!(late_events(&db, &id), expected.into());
    // Three events, whatever windows they miss.
    eventually(DEADLINE, "the metric", || metric(&run, "headwater_late_events_total", "job=\"chat\"") == 3.0);
    assert_eq!(metric(&run, "headwater_analyze_events_total", "partly_late"), 1.0);
    drop(run);

    // Another process closes what is left, counts nothing twice and raises no revision.
    scene.jobs = vec![settled];
    scene.catch_up(&scene.file());
    let (chat, viewer) = scene.messages();
    let met = |message: &&Message| {
        let at = message.json()["timestamp"].as_str().map(str::to_owned);
        [seconds(87) + 500, seconds(50), seconds(50) + 1].iter().any(|late| at.as_deref() == Some(&iso(*late)))
    };
    let late = chat.iter().filter(met).map(|message| ((0, message.partition, message.offset), seconds(98)));
    let oracle = Oracle { met_watermark: late.collect(), ..Oracle::new(&chat, &viewer) };
    let expected = scene.assert_job(&scene.jobs[0], &oracle);
    assert_eq!(expected.late.len(), 3);
    let revisions = "SELECT count(*), sum(revision) FROM chat_summary_minute WHERE revision > 0";
    assert_eq!(
        db.rows(revisions),
        [[Some("3".to_owned()), Some("5".to_owned())]],
        "seconds 94, 95 (twice each) and 87"
    );
}

#[test]
fn the_drain_at_sigterm_commits_what_was_counted() {
    let scene = Scene::new(vec![Job { idle_ms: 60_000, more: json!({"refresh_ms": 86_400_000}), ..Job::quick() }]);
    let pen = Pen::new(&scene.test.brokers, scene.topics());
    let mut crowd = Crowd::new("c", 4);
    (0..300).for_each(|n| pen.chat(n % 3, &crowd.says("s", MONTH_END_MS + i64::from(n) * 100, 1_000)));
    pen.flush();
    let mut run = scene.start(&scene.file(), &[], &[]);
    eventually(DEADLINE, "all is read", || {
        let unit = unit(&run).unwrap_or_default();
        let partitions = unit["detail"]["partitions"].as_object().cloned().unwrap_or_default();
        let read: i64 = partitions.values().filter_map(|partition| partition["position"].as_i64()).sum();
        read == 300
    });
    let begun = Patience::new(Duration::from_secs(10));
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    begun.assert_in_time();
    let stored = "SELECT sum(next_offset) FROM analyze_partitions";
    assert_eq!(scene.test.db().value(stored), "300", "the positions are those of all that was read");
}

/// The clock that judged it goes on, and a restart reads it again.
#[test]
fn an_event_too_far_ahead_stays_a_dead_letter_after_a_restart() {
    // Not idle, and nothing in most partitions: no window closes, and all is read again.
    let job = Job { idle_ms: 60_000, more: json!({"max_future_ms": 2_000}), ..Job::quick() };
    let mut scene = Scene::new(vec![job.clone()]);
    let pen = Pen::new(&scene.test.brokers, scene.topics());
    let now_ms = chrono::Utc::now().timestamp_millis();
    let mut run = scene.start(&scene.file(), &[], &[]);
    let ahead_ms = now_ms + 8_000;
    pen.chat(0, &chat("present", "s", "u", "", now_ms));
    pen.chat(0, &chat("future", "s", "u", "", ahead_ms));
    pen.chat(0, &chat("after", "s", "u", "", now_ms));
    pen.flush();
    let db = scene.test.db();
    eventually(DEADLINE, "the dead letter", || {
        db.try_execute("SELECT FROM dead_letters").is_ok() && db.count("SELECT count(*) FROM dead_letters") == 1
    });
    run.kill();
    eventually(DEADLINE, "its time to be near", || chrono::Utc::now().timestamp_millis() > ahead_ms - 1_000);
    scene.jobs = vec![Job { idle_ms: 500, ..job }];
    scene.catch_up(&scene.file());
    let (messages, viewer) = scene.messages();
    let is_future = |position| position == (0, 0, 1);
    let expected =
        scene.assert_job(&scene.jobs[0], &Oracle { not_events: &is_future, ..Oracle::new(&messages, &viewer) });
    assert_eq!((expected.rows.len(), expected.dead.len()), (2, 1));
}
