//! `/status`: what the process is doing, as JSON; and `headwater status`, which asks for it and shows it as
//! a table.

mod ask;
mod command;
mod table;

pub use command::{Options, StatusError, run};
pub use table::{age, columns, passed, rate, seconds};

use crate::{
    health::{Health, State, UnitId, UnitStatus},
    metrics,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const FLOW: [&str; 3] = ["capture", "land", "analyze"];

/// The answer of `/status`. Times are seconds since the Unix epoch, by the process's own clock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// As `/ready` says it.
    pub ready: bool,
    pub now_seconds: f64,
    /// What is counted below is counted since then.
    pub started_seconds: f64,
    pub cpu_seconds: f64,
    pub resident_bytes: Option<u64>,
    pub peak_rss_bytes: u64,
    /// By pipeline, stage (as rows flow) and name.
    pub units: Vec<UnitLine>,
}

/// A captured table, a landed topic or a job of analyze.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnitLine {
    pub pipeline: String,
    pub stage: String,
    pub unit: String,
    /// As in [`State`].
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub since_seconds: u64,
    /// Committed row versions (capture), committed rows (land), events read (analyze).
    pub rows: u64,
    /// Of these over the last minute.
    pub rows_per_second: f64,
    pub dead_letters: u64,
    /// At the newest commit: the age of the newest row (capture) or of the oldest record (land) in it. Of
    /// analyze: now less the watermark.
    pub delay_seconds: Option<f64>,
    /// Records between the position and the end of all partitions whose end is known; of a first load, rows
    /// that the planner expects.
    pub lag_records: Option<u64>,
    pub last_commit_seconds: Option<f64>,
    pub last_error: Option<String>,
    pub last_error_seconds: Option<u64>,
    /// Positions and the like; stage-specific.
    pub detail: Value,
}

/// A partition of a unit, as its detail has it.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionLine {
    /// Number (land), or topic and number.
    pub name: String,
    pub position: Option<i64>,
    /// Land: up to where the lake has it.
    pub committed: Option<i64>,
    pub end: Option<i64>,
    pub lag: Option<u64>,
    pub last_commit_seconds: Option<u64>,
    /// Why it is not read now.
    pub trouble: Option<String>,
}

impl Status {
    pub fn of(health: &Health) -> Status {
        let (cpu_seconds, peak_rss_bytes) = metrics::process_usage();
        let mut units: Vec<UnitLine> = health.snapshot().into_iter().map(UnitLine::of).collect();
        let place = |stage: &str| FLOW.iter().position(|known| *known == stage);
        units.sort_by(|a, b| (&a.pipeline, place(&a.stage), &a.unit).cmp(&(&b.pipeline, place(&b.stage), &b.unit)));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: !units.is_empty() && units.iter().all(UnitLine::is_ready),
            now_seconds: crate::clock::now_ms() as f64 / 1e3,
            started_seconds: health.started_ms() as f64 / 1e3,
            cpu_seconds,
            resident_bytes: metrics::resident_bytes(),
            peak_rss_bytes,
            units,
        }
    }

    /// Their names, each once.
    pub fn pipelines(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.units.iter().map(|unit| unit.pipeline.as_str()).collect();
        names.dedup();
        names
    }
}

impl UnitLine {
    fn of((id, status): (UnitId, UnitStatus)) -> UnitLine {
        let (state, reason) = status.state.words();
        UnitLine {
            pipeline: id.pipeline,
            stage: id.stage.to_owned(),
            unit: id.unit,
            state: state.to_owned(),
            reason: reason.map(str::to_owned),
            since_seconds: status.since_seconds,
            rows: status.figures.rows,
            rows_per_second: status.rows_per_second,
            dead_letters: status.figures.dead_letters,
            delay_seconds: status.figures.delay_seconds,
            lag_records: lag(&status.detail),
            last_commit_seconds: status.figures.last_commit_ms.map(|ms| ms as f64 / 1e3),
            last_error: status.last_error,
            last_error_seconds: status.last_error_seconds,
            detail: status.detail,
        }
    }

    pub fn is_ready(&self) -> bool {
        State::READY.contains(&self.state.as_str())
    }

    /// By number, and by topic where there are several.
    pub fn partitions(&self) -> Vec<PartitionLine> {
        let mut lines: Vec<PartitionLine> = partitions(&self.detail).collect();
        let place = |name: &str| {
            let (topic, number) = name.rsplit_once('-').unwrap_or(("", name));
            (topic.to_owned(), number.parse::<i64>().unwrap_or(i64::MAX))
        };
        lines.sort_by_cached_key(|line| place(&line.name));
        lines
    }
}

fn partitions(detail: &Value) -> impl Iterator<Item = PartitionLine> {
    let found = detail["partitions"].as_object().into_iter().flatten();
    found.map(|(name, partition)| PartitionLine {
        name: name.clone(),
        position: partition["position"].as_i64(),
        committed: partition["committed"].as_i64(),
        end: partition["end"].as_i64(),
        lag: partition["lag"].as_u64(),
        last_commit_seconds: partition["last_commit"].as_u64(),
        trouble: ["waiting", "stopped"].iter().find_map(|key| partition[*key].as_str()).map(str::to_owned),
    })
}

fn lag(detail: &Value) -> Option<u64> {
    let known = partitions(detail).filter_map(|partition| partition.lag);
    let of_partitions = known.reduce(|sum, lag| sum + lag);
    let load = &detail["backfill"];
    let of_load = (load["done"] == Value::Bool(false))
        .then(|| Some(load["estimated_rows"].as_u64()?.saturating_sub(load["done_rows"].as_u64()?)));
    of_partitions.or(of_load.flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn lag_is_that_of_all_partitions_or_of_the_first_load() {
        assert_eq!(lag(&json!({"partitions": {"0": {"lag": 3}, "1": {"lag": null}, "2": {"lag": 4}}})), Some(7));
        assert_eq!(lag(&json!({"partitions": {"0": {"lag": null}}})), None);
        assert_eq!(lag(&json!({"backfill": {"done": false, "done_rows": 40, "estimated_rows": 100}})), Some(60));
        assert_eq!(lag(&json!({"backfill": {"done": true, "done_rows": 40, "estimated_rows": 100}})), None);
        assert_eq!(lag(&Value::Null), None);
    }

    #[test]
    fn partitions_are_in_the_order_of_their_numbers() {
        let health = Health::new(Duration::MAX, true);
        let unit = health.unit("p", "land", "t");
        unit.detail(json!({"partitions": {"10": {"waiting": "w"}, "9": {"position": 5, "end": 7, "lag": 2}}}));
        let status = Status::of(&health);
        let again: Status = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
        let lines = again.units[0].partitions();
        assert_eq!((lines[0].name.as_str(), lines[0].position, lines[0].lag), ("9", Some(5), Some(2)));
        assert_eq!(lines[1].trouble.as_deref(), Some("w"));
        assert_eq!((again.ready, again.units[0].lag_records, again.pipelines()), (false, Some(2), vec!["p"]));
    }
}
