//! A topic of a thousand partitions into a lake of a hundred thousand files.

use crate::{
    harness::{Run, Test, eventually, kafka::create_topic, run::Exit},
    landing::{self, Table, Writer},
};
use std::{
    fs::{self, File},
    process::Command,
    time::Duration,
};

const READY_LIMIT: Duration = Duration::from_secs(60);
/// `runtime.shutdown_timeout_ms`.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const DAY: &str = "2025-01-15T12:24:00Z";

#[test]
fn a_thousand_partitions_are_soon_ready_survive_a_rebalance_and_stop_in_time() {
    let partitions = i32::try_from(landing::number("HEADWATER_TEST_PARTITIONS", 1_000)).expect("few");
    let files = landing::number("HEADWATER_TEST_LAKE_FILES", 100_000);
    let test = Test::new();
    let schema = landing::orders_schema(&test);
    let table = Table::orders_by_file(test.dir(), &test.topic("orders"), &schema);
    create_topic(&test.brokers, &table.topic, partitions, &[]);
    // Of an earlier topic, in the same lake.
    for n in 0..files {
        let date = table.path.join(format!("date=2024-{:02}-{:02}", n / 28 % 12 + 1, n % 28 + 1));
        if n < 336 {
            fs::create_dir_all(&date).expect("a date");
        }
        File::create(date.join(format!("part-earlier-{}-{n}-{n}-0.parquet", n % 64))).expect("a file");
    }
    let writer = Writer::new(&test.brokers, &table.topic);
    let write = |from: i64| {
        (0..partitions).for_each(|partition| writer.order(partition, from + i64::from(partition), DAY));
        writer.flush();
    };
    write(0);
    let config = landing::land_config(&test, std::slice::from_ref(&table), &["rotate_ms: 500"]);
    let file = test.write("land.yml", &config).display().to_string();
    // As a shell starts it: with 1,024 descriptors, of which it may have more.
    let start = || {
        let mut shell = Command::new("sh");
        let line = "ulimit -S -n 1024; exec \"$0\" land -c \"$1\"";
        shell.args(["-c", line, env!("CARGO_BIN_EXE_headwater"), &file]);
        Run::command(&test, shell)
    };
    let committed = |run: &Run| -> Vec<i64> {
        let unit = landing::unit(run, &table.topic);
        let partitions = unit.and_then(|unit| unit["detail"]["partitions"].as_object().cloned()).unwrap_or_default();
        partitions.values().map(|partition| partition["committed"].as_i64().unwrap_or(0)).collect()
    };

    let mut first = start();
    eventually(READY_LIMIT, "every partition has landed", || {
        committed(&first).iter().sum::<i64>() == i64::from(partitions) && landing::ready(&first) == 200
    });

    let mut second = start();
    write(i64::from(partitions));
    eventually(READY_LIMIT, "every partition has landed again, and both land", || {
        let (mine, theirs) = (committed(&first), committed(&second));
        let sum: i64 = mine.iter().chain(&theirs).sum();
        !mine.is_empty() && !theirs.is_empty() && sum == 2 * i64::from(partitions)
    });

    // One more record for each partition, so that all of them have something to commit when they stop.
    write(2 * i64::from(partitions));
    for run in [&mut first, &mut second] {
        run.terminate();
        assert_eq!(run.wait(STOP_LIMIT), Exit::Code(0), "{}", run.stderr());
    }
    let mut last = Run::start(&test, &["land", "-c", &file, "--until-caught-up"]);
    assert_eq!(last.wait(Duration::from_secs(120)), Exit::Code(0), "{}", last.stderr());
    // The others' files are no Parquet; they have done their part.
    for date in fs::read_dir(&table.path).expect("the table").flatten() {
        if date.file_name().to_string_lossy().starts_with("date=2024-") {
            fs::remove_dir_all(date.path()).expect("an old date");
        }
    }
    table.assert_exactly(&landing::written(&test, &table.topic));
}
