//! What stops a landing: a full disk, a lake it may not write, a damaged ledger, a topic that is not the one it
//! was. Only the table in question stops, says why and how to go on, and nothing is lost or doubled afterwards.

pub mod disk;
mod ledger;
pub mod topics;

use crate::harness::{DEADLINE, Run, Test, eventually_some, kafka::create_topic};
use crate::landing::{self, Table, Writer};
use std::path::Path;

const DAY: &str = "2025-01-15T12:24:00Z";

/// Two tables in one process: one that is going to fail, and another that must not care.
struct Pair {
    test: Test,
    failing: Table,
    other: Table,
    settings: Vec<&'static str>,
}

impl Pair {
    /// The failing table stands under `base`, and its topic has so many partitions.
    fn new(test: Test, base: &Path, partitions: i32) -> Pair {
        let schema = landing::orders_schema(&test);
        let failing = Table::orders_by_file(base, &test.topic("failing"), &schema);
        let other = Table::orders_by_file(&test.path("sound"), &test.topic("other"), &schema);
        create_topic(&test.brokers, &failing.topic, partitions, &[]);
        create_topic(&test.brokers, &other.topic, 1, &[]);
        Pair { test, failing, other, settings: vec!["rotate_ms: 200"] }
    }

    /// The configuration's path.
    fn config(&self) -> String {
        let text = landing::land_config(&self.test, &[self.failing.clone(), self.other.clone()], &self.settings);
        self.test.write("land.yml", &text).display().to_string()
    }

    fn start(&self, more: &[&str]) -> Run {
        let file = self.config();
        Run::start(&self.test, &[&["land", "-c", &file], more].concat())
    }

    /// Orders with these ids on partition 0 of the topic that fails.
    fn write(&self, ids: std::ops::Range<i64>) {
        write(&self.test, &self.failing, 0, ids);
    }

    /// Waits until the table fails or has stopped and `/ready` says 503 for its sake alone; gives the reason.
    #[track_caller]
    fn wait_for_trouble(&self, run: &Run) -> String {
        eventually_some(DEADLINE, "the table, and no other, is in trouble", || {
            let unit = landing::unit(run, &self.failing.topic)?;
            let (status, body) = run.get("/ready")?;
            let is_in_trouble = unit["state"] == "failing" || unit["state"] == "stopped";
            let is_alone = status == 503 && body.contains(&self.failing.topic) && !body.contains(&self.other.topic);
            (is_in_trouble && is_alone).then(|| unit["reason"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// The other table lands what is written now.
    #[track_caller]
    fn assert_other_goes_on(&self) {
        let before = self.other.landed();
        write(&self.test, &self.other, 0, 0..50);
        landing::wait_for_landed(&self.other, before + 50);
    }
}

fn write(test: &Test, table: &Table, partition: i32, ids: std::ops::Range<i64>) {
    let writer = Writer::new(&test.brokers, &table.topic);
    ids.for_each(|id| writer.order(partition, id, DAY));
    writer.flush();
}

/// The ids of all landed rows, sorted.
fn landed_ids(table: &Table) -> Vec<i64> {
    let rows = crate::harness::lake::read_table(&table.path);
    let mut ids: Vec<i64> = rows.iter().map(|row| row["order_id"].as_i64().expect("an id")).collect();
    ids.sort_unstable();
    ids
}
