//! The end of the orders' part, on one screen.

use super::{Names, delays::Delays};
use crate::{
    app::group_digits,
    demo::{Percentiles, pipeline::Usage, program, stage_set::StageSet},
    generate::Report,
    output,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// What `headwater verify --format json` found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verified {
    pub source_rows: u64,
    pub topic_records: u64,
    pub lake_rows: u64,
    pub dead_letters: BTreeMap<String, u64>,
    pub lost: u64,
    pub duplicated: u64,
    pub differing: u64,
    pub ok: bool,
}

impl Verified {
    pub fn of(report: &Value) -> Verified {
        let number = |name: &str| report[name].as_u64().unwrap_or(0);
        let letters = report["dead_letters"].as_object().into_iter().flatten();
        Verified {
            source_rows: number("source_rows"),
            topic_records: number("topic_records"),
            lake_rows: number("lake_rows"),
            dead_letters: letters.map(|(reason, count)| (reason.clone(), count.as_u64().unwrap_or(0))).collect(),
            lost: number("lost_count"),
            duplicated: number("duplicated_count"),
            differing: number("differing_count"),
            ok: report["ok"].as_bool().unwrap_or(false),
        }
    }
}

pub struct Outcome {
    pub backlog: Report,
    pub live: Report,
    pub killed_at: u64,
    pub verified: Verified,
    /// None where PostgreSQL keeps no commit times.
    pub delays: Option<Delays>,
    pub usage: Usage,
    pub seconds: f64,
}

pub struct Screen<'a> {
    pub set: &'a StageSet,
    pub outcome: &'a Outcome,
}

impl Screen<'_> {
    pub fn show(&self) {
        output::line(format_args!("\n{}", summary(self.outcome)));
        output::line(format_args!("\n{}", tree(&self.set.lake)));
        output::line(format_args!(
            "\na query to try{}",
            if self.set.is_kept() { "" } else { " (after KEEP=1 make demo)" }
        ));
        output::line(format_args!("  {}", duckdb(&self.set.lake)));
    }
}

/// The lines that matter, from the figures alone.
fn summary(outcome: &Outcome) -> String {
    let Outcome { backlog, live, killed_at, verified, delays, usage, seconds } = outcome;
    let letters: u64 = verified.dead_letters.values().sum();
    let reasons: Vec<String> =
        verified.dead_letters.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let mut lines = vec![
        line(
            "rows in",
            backlog.inserted + live.inserted,
            &format!(
                "{} of the past, {} live, {} of them committed late; {} rolled back",
                group_digits(backlog.inserted),
                group_digits(live.inserted),
                group_digits(live.late),
                group_digits(live.rolled_back)
            ),
        ),
        line("  + updates", live.updated, "a new version each, unless overwritten before a poll"),
        line("row versions", verified.topic_records, "in Kafka"),
        line("rows landed", verified.lake_rows, ""),
        line("dead letters", letters, &reasons.join(", ")),
        line("lost", verified.lost, ""),
        line("duplicated", verified.duplicated, &format!("after kill -9 at live order {}", group_digits(*killed_at))),
    ];
    if verified.differing > 0 {
        lines.push(line("differing", verified.differing, ""));
    }
    let rate = if live.seconds > 0.0 { (live.inserted + live.updated) as f64 / live.seconds } else { 0.0 };
    let (cpu, mebibytes) = (usage.cpu_seconds, usage.peak_bytes as f64 / f64::from(1 << 20));
    let words = format!(
        "row versions/s for {:.0} s; the pipeline took {cpu:.1} CPU s, {mebibytes:.0} MiB at its peak",
        live.seconds
    );
    lines.push(line("rate", rate as u64, &words));
    match delays {
        Some(Delays { to_kafka, to_lake }) => {
            lines.push(format!("delay          {}  commit in PostgreSQL to timestamp in Kafka", percentiles(to_kafka)));
            lines.push(format!("               {}  commit in PostgreSQL to file in the lake", percentiles(to_lake)));
            lines.push(
                "               polled each second, files closed each 5 s; the longest are those of the kill"
                    .to_owned(),
            );
        }
        None => lines.push("delay          not measured: your PostgreSQL has track_commit_timestamp off".to_owned()),
    }
    let verdict = if verified.ok { "reconciled: every row once" } else { "NOT reconciled: see the counts above" };
    lines.push(format!("{verdict}  (headwater verify; this took {seconds:.0} s)"));
    lines.join("\n")
}

fn line(name: &str, count: u64, words: &str) -> String {
    format!("{name:<14} {:>9}  {words}", group_digits(count)).trim_end().to_owned()
}

fn percentiles(found: &Option<Percentiles>) -> String {
    found.map_or_else(|| "no rows".to_owned(), |found| found.to_string())
}

fn duckdb(lake: &Path) -> String {
    format!(
        "duckdb -c \"SELECT date, count(*) AS orders, sum(amount) AS amount FROM \
         read_parquet('{}/orders/*/*.parquet', hive_partitioning = true) GROUP BY date ORDER BY date\"",
        lake.display()
    )
}

/// The lake's directories, with the first file of each and the number of the others.
fn tree(lake: &Path) -> String {
    let mut lines = vec![lake.display().to_string()];
    for table in children(lake).into_iter().filter(|path| path.is_dir()) {
        let dates: Vec<PathBuf> =
            children(&table).into_iter().filter(|path| path.is_dir() && name(path).starts_with("date=")).collect();
        if dates.is_empty() {
            continue;
        }
        lines.push(format!("  {}/", name(&table)));
        // One screen: the oldest dates and the newest.
        let shown = if dates.len() > 6 { 3 } else { dates.len() };
        for (n, date) in dates.iter().enumerate() {
            if n >= shown && n + 2 < dates.len() {
                if n == shown {
                    lines.push(format!("    … {} more dates", dates.len() - shown - 2));
                }
                continue;
            }
            lines.push(format!("    {}/  {}", name(date), contents(date)));
        }
    }
    lines.join("\n")
}

fn contents(date: &Path) -> String {
    let files = children(date);
    let bytes: u64 = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum();
    let first = files.first().map(|file| name(file)).unwrap_or_default();
    let more = if files.len() > 1 { format!(" and {} more", files.len() - 1) } else { String::new() };
    format!("{first}{more}, {:.0} kB", bytes as f64 / 1e3)
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// How to look at what goes on running.
pub fn show_kept(set: &StageSet, names: &Names, http: Option<&str>) {
    let crate::config::model::Postgres { host, port, db, user, .. } = &set.postgres;
    let table = &names.table;
    output::line(format_args!(
        "  orders    psql -h {host} -p {port} -U {user} {db} -c 'SELECT * FROM {table} LIMIT 5'"
    ));
    output::line(format_args!(
        "            {} generate orders --url postgres://{user}@{host}:{port}/{db} --table {table} --rate 100",
        program()
    ));
    output::line(format_args!(
        "            topic {} on {}, configuration {}",
        names.topic,
        set.kafka.brokers,
        names.config.display()
    ));
    if let Some(address) = http {
        output::line(format_args!(
            "            http://{address}/   in a browser, or curl http://{address}/status   (also /metrics, /ready)"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outcome(verified: Verified) -> Outcome {
        let live = Report { inserted: 90, updated: 10, late: 9, rolled_back: 3, seconds: 2.0, ..Report::default() };
        let found = Percentiles { p50_ms: 600, p99_ms: 1_900, max_ms: 4_000, count: 90 };
        Outcome {
            backlog: Report { inserted: 10, ..Report::default() },
            live,
            killed_at: 40,
            verified,
            delays: Some(Delays { to_kafka: Some(found), to_lake: None }),
            usage: Usage { cpu_seconds: 1.5, peak_bytes: 50 << 20 },
            seconds: 60.0,
        }
    }

    #[test]
    fn the_report_of_verify_is_understood() {
        let verified = Verified::of(&json!({
            "source_rows": 100, "topic_records": 110, "topic_versions": 110, "lake_rows": 108,
            "dead_letters": {"negative_amount": 2}, "lost_count": 0, "duplicated_count": 0, "differing_count": 0,
            "ok": true
        }));
        let text = summary(&outcome(verified));
        assert!(text.contains("rows landed          108"), "{text}");
        assert!(text.contains("dead letters           2  negative_amount 2"), "{text}");
        assert!(text.contains("reconciled: every row once") && !text.contains("differing"), "{text}");
        assert!(text.contains("p50 0.60 s, p99 1.90 s, max 4.00 s"), "{text}");
    }

    #[test]
    fn a_difference_is_not_hidden() {
        let verified = Verified::of(&json!({"lost_count": 1, "differing_count": 2, "ok": false}));
        let text = summary(&outcome(verified));
        assert!(text.contains("NOT reconciled") && text.contains("differing              2"), "{text}");
        assert!(!Verified::of(&json!({})).ok);
    }
}
