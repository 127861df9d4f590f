//! How far a job is behind, while PostgreSQL takes nothing or is away: `/status`, `headwater status`, the
//! page and the metric tell the number of records that it has not read, however many come meanwhile.

use super::{
    feed,
    scene::{Job, PARTITIONS, Scene, unit},
};
use crate::{
    harness::{DEADLINE, Run, eventually, eventually_some, kafka::end_offsets, proxy::Proxy, run::Exit},
    landing::{Raw, Writer},
};
use headwater::app::group_digits;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A job that has not read for so long, though there is something, reads no further.
const STANDS: Duration = Duration::from_secs(3);

/// Records on both topics.
fn written(scene: &Scene) -> u64 {
    let ends = scene.topics().into_iter().flat_map(|topic| end_offsets(&scene.test.brokers, topic).into_values());
    ends.map(i64::unsigned_abs).sum()
}

fn number(unit: &Value, key: &str) -> u64 {
    unit[key].as_u64().unwrap_or_else(|| panic!("no {key}: {unit}"))
}

/// Whether each partition's end is the true one, and its lag the distance to it.
fn is_true(scene: &Scene, unit: &Value) -> bool {
    let partitions = unit["detail"]["partitions"].as_object().expect("partitions");
    assert_eq!(partitions.len() as i32, 2 * PARTITIONS);
    scene.topics().into_iter().all(|topic| {
        end_offsets(&scene.test.brokers, topic).into_iter().all(|(partition, end)| {
            let told = &partitions[&format!("{topic}-{partition}")];
            told["end"] == end && told["lag"].as_i64() == told["position"].as_i64().map(|position| end - position)
        })
    })
}

/// What the metric says of all partitions.
fn metric(run: &Run) -> f64 {
    let (_, text) = run.get("/metrics").expect("an answer");
    let of_lag = text.lines().filter(|line| line.starts_with("headwater_analyze_lag_records{"));
    of_lag.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")).sum()
}

/// All that shows the lag shows this one.
#[track_caller]
fn assert_shown(scene: &Scene, run: &Run, lag: u64) {
    let url = format!("http://{}", run.http());
    let ask = |more: &[&str]| {
        let mut asked = Run::start(&scene.test, &[&["status", "--url", &url], more].concat());
        asked.wait(DEADLINE);
        asked.stdout()
    };
    let shown: Value = serde_json::from_str(&ask(&["--format", "json"])).expect("JSON");
    assert_eq!(shown["units"][0]["lag_records"], lag);
    let table = ask(&[]);
    let line = table.lines().find(|line| line.starts_with("analyze ")).unwrap_or_else(|| panic!("no analyze: {table}"));
    assert!(line.split("  ").any(|cell| cell.trim() == group_digits(lag)), "{lag}: {table}");
    let (_, page) = run.get("/").expect("the page");
    let from = page.find("id=units").expect("the table");
    let units = &page[from..from + page[from..].find("</section>").expect("its end")];
    assert!(units.contains(&format!("<td class=num>{}</td>", group_digits(lag))), "{lag}: {units}");
    assert_eq!(metric(run), lag as f64);
}

#[test]
fn the_lag_of_a_job_is_the_number_of_records_behind() {
    let scene = Scene::new(vec![Job::quick()]);
    let proxy = Proxy::start(([127, 0, 0, 1], scene.test.postgres.port).into());
    let file =
        scene.write("proxied.yml", &scene.config(json!({"postgres": {"host": "127.0.0.1", "port": proxy.port()}})));
    let writer = Writer::new(&scene.test.brokers, &scene.chat);
    let mut next = 0;
    let mut say = |partition: i32, count: i64| {
        for _ in 0..count {
            next += 1;
            let event = feed::chat(&format!("e{next}"), "s", "u", "hello", feed::MONTH_END_MS + next * 10);
            writer.send(&feed::raw(partition, "s", &event));
        }
        writer.flush();
    };
    (0..PARTITIONS).for_each(|partition| say(partition, 100));
    let run = scene.start(&file, &[], &[]);
    let wait_for_the_end = |what: &str| {
        eventually_some(DEADLINE * 2, what, || {
            let unit = unit(&run)?;
            let is_there = unit["state"] == "caught_up" && unit["lag_records"] == 0 && is_true(&scene, &unit);
            // Who leads anew reads again what was not committed.
            (is_there && number(&unit, "rows") >= written(&scene)).then_some(())
        });
        assert_shown(&scene, &run, 0);
    };
    wait_for_the_end("all read");

    // PostgreSQL takes nothing: somebody holds a table. The job reads on until it holds as many dead letters as it may.
    let db = scene.test.db();
    db.execute("BEGIN; LOCK TABLE dead_letters IN ACCESS EXCLUSIVE MODE");
    let junk = Raw { value: Some(vec![b'x'; 900_000]), ..feed::raw(0, "s", &json!({})) };
    let mut standing: Option<(u64, Instant)> = None;
    let behind = eventually_some(DEADLINE * 2, "a job that reads no further", || {
        let unit = unit(&run)?;
        let rows = number(&unit, "rows");
        if unit["lag_records"].as_u64()? > 0 && rows > 310 && is_true(&scene, &unit) {
            // A busy machine is only slow: nothing comes for a while, and nothing is read.
            let (at, since) = *standing.get_or_insert_with(|| (rows, Instant::now()));
            return match at == rows {
                true => (since.elapsed() > STANDS).then_some(unit),
                false => {
                    standing = None;
                    None
                }
            };
        }
        standing = None;
        (0..4).for_each(|_| writer.send(&junk));
        writer.flush();
        None
    });
    let (read, lag) = (number(&behind, "rows"), number(&behind, "lag_records"));
    assert_eq!(read + lag, written(&scene), "{behind}");
    assert_shown(&scene, &run, lag);

    // What comes meanwhile is behind, too: in the partition that it stands in, and in those that were at their ends.
    (0..PARTITIONS).for_each(|partition| say(partition, 400));
    let lag = lag + 400 * PARTITIONS as u64;
    eventually(DEADLINE, &format!("a lag of {lag}"), || unit(&run).is_some_and(|unit| unit["lag_records"] == lag));
    let behind = unit(&run).expect("the job");
    assert_eq!(number(&behind, "rows"), read, "nothing was read meanwhile: {behind}");
    assert!(is_true(&scene, &behind), "{behind}");
    assert_shown(&scene, &run, lag);

    db.execute("COMMIT");
    wait_for_the_end("all read again");

    // PostgreSQL is away, and nobody leads: what is not committed is behind.
    proxy.refuse();
    proxy.cut();
    for round in 1..=2 {
        (0..PARTITIONS).for_each(|partition| say(partition, 50));
        let committed = format!(
            "SELECT sum(next_offset)::bigint FROM analyze_partitions WHERE job = '{}'",
            scene.job_id(&scene.jobs[0])
        );
        let lag = eventually_some(DEADLINE, "the lag of what is committed", || {
            let unit = unit(&run)?;
            let lag = written(&scene) - db.count(&committed);
            let is_told = unit["state"] == "failing" && unit["lag_records"] == lag && is_true(&scene, &unit);
            is_told.then_some(lag)
        });
        assert!(lag >= round * 50 * PARTITIONS as u64, "{lag}");
        assert_shown(&scene, &run, lag);
    }
    proxy.restore();
    wait_for_the_end("all read after the outage");
    let mut run = run;
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
}
