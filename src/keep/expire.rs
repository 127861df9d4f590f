//! Dates beyond a retention, dropped from the lake, and old rows from the tables of analyze that have no
//! retention of their own.
//!
//! A dropped date stays dropped: its offsets lie before the ledger's, so that no landing reads them again. How
//! many rows of which date were dropped, and up to which offsets, is noted beside the ledgers; `verify` takes so many
//! rows of a date for expired and not for lost, and no more. A row that arrives late for a dropped date lands as
//! any other, and goes with the next expire.

use super::{KeepError, Left, expire_tables, failed, failed_lines, is_before, kept_from, land_tables, left_lines};
use crate::{
    amount,
    app::group_digits,
    clock::now_us,
    config::model::Pipeline,
    lake::{
        LakeError,
        ledger::Root,
        merge,
        upkeep::{Place, Tally, Upkeep, Went},
    },
};
use clap::{ArgGroup, Args};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// What the command line says. Days are counted back from today (UTC), which always stays.
#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("what").required(true).multiple(true))]
pub struct Options {
    /// Drop dates of the landed tables that are older than N days.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500), group = "what")]
    pub older_than_days: Option<u32>,
    /// Drop dates of their dead letters that are older than N days.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500), group = "what")]
    pub dead_letters_older_than_days: Option<u32>,
    /// Delete what analyze wrote into moments, late_events and dead_letters more than N days ago. A dead
    /// letter stays while its record is on the topic. (The windows have analyze.jobs[].retention_days.)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500), group = "what")]
    pub analyze_older_than_days: Option<u32>,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// A date that goes, or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Date {
    pub topic: String,
    /// `date=YYYY-MM-DD` under the table or its dead letters.
    pub path: PathBuf,
    pub files: u64,
    pub rows: u64,
    pub bytes: u64,
}

/// Rows of a table in PostgreSQL that go, or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rows {
    pub table: String,
    /// Those before this day, `YYYY-MM-DD`.
    pub before: String,
    pub rows: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub pipeline: String,
    pub dry_run: bool,
    pub dates: Vec<Date>,
    pub tables: Vec<Rows>,
    pub left: Vec<Left>,
    pub failures: Vec<Left>,
}

struct Work {
    root: Root,
    date: String,
    names: Vec<String>,
    tally: Tally,
    line: Date,
}

/// Drops what is old in every landed table and in analyze's tables. The plan is given to `say` before
/// anything changes. A table that fails does not stop the others.
pub async fn run(pipeline: &Pipeline, options: &Options, say: impl Fn(&Report)) -> Result<Report, KeepError> {
    let nothing = |section| KeepError::Nothing { pipeline: pipeline.name.clone(), section, action: "expire" };
    if (options.older_than_days.is_some() || options.dead_letters_older_than_days.is_some()) && pipeline.land.is_none()
    {
        return Err(nothing("land"));
    }
    if options.analyze_older_than_days.is_some() && pipeline.analyze.is_none() {
        return Err(nothing("analyze"));
    }
    let mut report = Report {
        pipeline: pipeline.name.clone(),
        dry_run: options.dry_run,
        dates: Vec::new(),
        tables: Vec::new(),
        left: Vec::new(),
        failures: Vec::new(),
    };
    let tables = match options.analyze_older_than_days {
        Some(days) => Some(expire_tables::plan(pipeline, days).await?),
        None => None,
    };
    let mut all = Vec::new();
    for table in land_tables(pipeline) {
        let planned = (|| {
            let upkeep = Upkeep::open(Place::of(table))?;
            let work = plan(&upkeep, options)?;
            Ok::<_, LakeError>((upkeep, work))
        })();
        match planned {
            Ok((upkeep, work)) => {
                report.dates.extend(work.iter().map(|work| work.line.clone()));
                all.push((table, upkeep, work));
            }
            Err(error) => report.failures.push(failed(table, &error)),
        }
    }
    if let Some(tables) = &tables {
        report.tables = tables.rows();
        report.left = tables.left();
    }
    say(&report);
    if options.dry_run {
        return Ok(report);
    }
    report.dates.clear();
    for (table, mut upkeep, work) in all {
        for work in work {
            let done = upkeep.replace(work.root, &work.date, &[], &work.names, Some(work.tally));
            if let Err(error) = done {
                report.failures.push(failed(table, &error));
                break;
            }
            tracing::info!(path = %work.line.path.display(), rows = work.line.rows, "dropped");
            report.dates.push(work.line);
        }
    }
    if let Some(tables) = tables {
        report.tables = tables.delete().await?;
    }
    Ok(report)
}

fn plan(upkeep: &Upkeep, options: &Options) -> Result<Vec<Work>, LakeError> {
    let mut all = Vec::new();
    let roots = [(Root::Table, options.older_than_days), (Root::DeadLetters, options.dead_letters_older_than_days)];
    for (root, days) in roots {
        let Some(days) = days else { continue };
        let kept_from = kept_from(now_us(), days);
        for (date, files) in upkeep.settled(root)? {
            if !is_before(&date, &kept_from) {
                continue;
            }
            let path = upkeep.place().root(root).join(format!("date={date}"));
            let topic = upkeep.place().topic.clone();
            let mut line = Date { topic, path, files: files.len() as u64, rows: 0, bytes: 0 };
            let (mut names, mut went) = (Vec::with_capacity(files.len()), Went::default());
            for file in files {
                let rows = merge::footer(&file.path)?.rows;
                line.rows += rows;
                went.add(&file.name, rows);
                line.bytes += std::fs::metadata(&file.path).map_err(LakeError::io("look at", &file.path))?.len();
                names.extend(file.path.file_name().map(|name| name.to_string_lossy().into_owned()));
            }
            let dates = BTreeMap::from([(date.clone(), went)]);
            let tally = Tally { before: Some(kept_from.clone()), rows: line.rows, dates };
            all.push(Work { root, date, names, tally, line });
        }
    }
    Ok(all)
}

impl Report {
    pub fn ok(&self) -> bool {
        self.failures.is_empty()
    }

    /// The plan, a line for each date and table.
    pub fn plan(&self) -> String {
        let mut text = String::new();
        for date in &self.dates {
            text.push_str(&format!(
                "{}: {} files of {} with {} rows go\n",
                date.path.display(),
                group_digits(date.files),
                amount::bytes(date.bytes),
                group_digits(date.rows),
            ));
        }
        for table in &self.tables {
            let rows = group_digits(table.rows);
            text.push_str(&format!("table {}: {rows} rows of before {} go\n", table.table, table.before));
        }
        text.push_str(&left_lines(&self.left));
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&failed_lines(&self.failures))?;
        let sum = |part: fn(&Date) -> u64| self.dates.iter().map(part).sum::<u64>();
        let verb = if self.dry_run { "would drop" } else { "dropped" };
        write!(
            f,
            "{}: {verb} {} dates, {} files, {} rows, {}",
            self.pipeline,
            group_digits(self.dates.len() as u64),
            group_digits(sum(|date| date.files)),
            group_digits(sum(|date| date.rows)),
            amount::bytes(sum(|date| date.bytes)),
        )?;
        for table in &self.tables {
            write!(f, "; {} rows of {}", group_digits(table.rows), table.table)?;
        }
        Ok(())
    }
}
