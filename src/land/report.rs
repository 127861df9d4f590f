//! What a table's thread tells: its state and detail for `/ready` and `/status`, its sums at the end.

use super::partition::{self, Cause, Committed, Partition};
use crate::{
    config::model::LandTable,
    health::{State, Unit},
    kafka::consumer::Consumer,
    lake::{disk, lock},
    metrics,
    record::reason::Reason,
    stage::{Failure, Summary},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const DETAIL_INTERVAL: Duration = Duration::from_secs(1);

pub struct Report {
    unit: Unit,
    summary: Summary,
    shown: Option<Instant>,
    /// Of partitions that end, for readers of committed messages, before their log does: since when that is so.
    blocked: BTreeMap<i32, Instant>,
}

/// A transaction that is open for longer is told as a trouble: Kafka ends those of its own default after a minute.
const LONG_TRANSACTION: Duration = Duration::from_secs(90);

impl Report {
    pub fn new(unit: Unit) -> Self {
        let labels = [unit.id().pipeline.as_str(), unit.id().unit.as_str()];
        for counter in
            [&metrics::LAND_RECORDS, &metrics::LAND_ROWS, &metrics::LAND_ERRORS, &metrics::LAND_UNKNOWN_FIELDS]
        {
            counter.begin(&labels);
        }
        for reason in Reason::ALL {
            metrics::LAND_DEAD_LETTERS.begin(&[labels[0], labels[1], reason.name()]);
        }
        Report { unit, summary: Summary::default(), shown: None, blocked: BTreeMap::new() }
    }

    pub fn into_summary(mut self) -> Summary {
        self.take_summary()
    }

    pub fn take_summary(&mut self) -> Summary {
        std::mem::take(&mut self.summary)
    }

    pub fn set(&self, state: State) {
        self.unit.set(state);
    }

    /// Counts an attempt that has failed.
    pub fn failed(&self) {
        self.unit.failed();
    }

    /// Takes note of a commit; its delay is that of the oldest record in it.
    pub fn count(&mut self, committed: Committed, now_ms: i64, delay_seconds: Option<f64>) {
        self.summary.rows += committed.rows;
        self.summary.bytes += committed.bytes;
        self.summary.files += committed.files;
        self.unit.rows(committed.rows);
        if let Some(delay_seconds) = delay_seconds {
            self.unit.delay(delay_seconds);
        }
        self.unit.committed(now_ms, committed.reasons.values().sum(), committed.letters);
        for (reason, count) in &committed.reasons {
            *self.summary.dead_letters.entry(reason.name().to_owned()).or_default() += count;
        }
    }

    /// The unit ends here, until somebody acts.
    pub fn stop(&mut self, reason: String) {
        self.unit.set(State::Stopped(reason.clone()));
        self.summary.failures.push(Failure { unit: self.unit.id().unit.clone(), reason, unavailable: false });
    }

    /// The unit ends here, for something it needs has stayed away.
    pub fn give_up(&mut self, reason: String) {
        self.unit.set(State::Stopped(reason.clone()));
        self.summary.failures.push(Failure { unit: self.unit.id().unit.clone(), reason, unavailable: true });
    }

    pub fn show(
        &mut self,
        table: &LandTable,
        partitions: &BTreeMap<i32, Partition>,
        trouble: Option<&str>,
        consumer: &Consumer,
    ) {
        // The end that a reader of committed messages meets is not that of the log while a transaction is open.
        let end_of = |id: i32| consumer.last_known_end(id);
        let blocked = partitions.iter().filter_map(|(id, partition)| match partition {
            Partition::Open(open) if open.at_end && end_of(*id).is_some_and(|end| end > open.position) => Some(*id),
            _ => None,
        });
        let blocked: Vec<i32> = blocked.collect();
        self.blocked.retain(|id, _| blocked.contains(id));
        for id in &blocked {
            self.blocked.entry(*id).or_insert_with(Instant::now);
        }
        let hanging = self.blocked.iter().find(|(_, since)| since.elapsed() >= LONG_TRANSACTION).map(|(id, since)| {
            format!(
                "records of partition {id} wait for a transaction of their producer that has been open for {} s: find it \
                 with kafka-transactions.sh find-hanging, and abort it where its producer is gone",
                since.elapsed().as_secs()
            )
        });
        match state(partitions, &blocked, trouble.or(hanging.as_deref())) {
            Some(state) => self.unit.set(state),
            // Nothing is ours: usually since another process has it all.
            None if self.shown.is_none_or(|shown| shown.elapsed() >= DETAIL_INTERVAL) => {
                self.unit.set(State::Waiting(unassigned(table)));
            }
            None => {}
        }
        if self.shown.is_some_and(|shown| shown.elapsed() < DETAIL_INTERVAL) {
            return;
        }
        self.shown = Some(Instant::now());
        let id = self.unit.id();
        if let Ok(room) = disk::room(&disk::nearest_existing(&table.path)) {
            metrics::LAND_FREE.set(&[&id.pipeline, &id.unit], room.free_bytes as f64);
        }
        let mut detail = serde_json::Map::new();
        for (partition, found) in partitions {
            let value = match found {
                Partition::Open(open) => {
                    let met = open.at_end.then_some(open.position);
                    let end = end_of(*partition).max(met);
                    let lag = end.map(|end| (end - open.committed).max(0));
                    if let Some(lag) = lag {
                        let label = partition.to_string();
                        metrics::LAND_LAG.set(&[&id.pipeline, &id.unit, &label], lag as f64);
                    }
                    serde_json::json!({
                        "position": open.position,
                        "committed": open.committed,
                        "end": end,
                        "lag": lag,
                        "open_rows": open.batch.as_ref().map_or(0, super::batch::Batch::row_count),
                        "last_commit": open.last_commit,
                    })
                }
                Partition::Parked { cause: Cause::New, .. } => serde_json::json!({ "waiting": "just assigned" }),
                Partition::Parked { cause: Cause::Lock(text) | Cause::Failed(text), .. } => {
                    serde_json::json!({ "waiting": text })
                }
                Partition::Stopped(text) => serde_json::json!({ "stopped": text }),
            };
            detail.insert(partition.to_string(), value);
        }
        self.unit.detail(serde_json::json!({ "partitions": detail }));
    }
}

/// Why no partition is assigned, as far as the ledgers' locks tell.
fn unassigned(table: &LandTable) -> String {
    let holder = (0..).map(|id| partition::location(table, id).directory).take_while(|directory| directory.is_dir());
    match holder.filter_map(|directory| lock::holder(&directory)).find(|holder| holder.pid != std::process::id()) {
        Some(holder) => {
            format!("the partitions of {} are held by {holder}; this process takes over when it ends", table.topic)
        }
        None => format!("no partition of {} is assigned to this process yet", table.topic),
    }
}

/// The state of the whole topic: that of the partition which is worst off. `None` where there is none.
/// `blocked` are those that are not at the end of their log although they have met an end.
fn state(partitions: &BTreeMap<i32, Partition>, blocked: &[i32], trouble: Option<&str>) -> Option<State> {
    let mut waiting = None;
    let mut failing = trouble.map(str::to_owned);
    let mut at_end = blocked.is_empty();
    for partition in partitions.values() {
        match partition {
            Partition::Stopped(reason) => return Some(State::Stopped(reason.clone())),
            Partition::Parked { cause: Cause::Failed(reason), .. } => failing = failing.or(Some(reason.clone())),
            Partition::Parked { cause: Cause::Lock(reason), .. } => waiting = waiting.or(Some(reason.clone())),
            Partition::Parked { cause: Cause::New, .. } => at_end = false,
            Partition::Open(open) => at_end &= open.at_end,
        }
    }
    Some(match (failing, waiting) {
        (Some(reason), _) => State::Failing(reason),
        (None, Some(reason)) => State::Waiting(reason),
        (None, None) if partitions.is_empty() => return None,
        (None, None) if at_end => State::CaughtUp,
        (None, None) => State::Progressing,
    })
}
