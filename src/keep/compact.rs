//! Small files of closed dates, merged into larger ones: the same rows in the same order, with the same
//! columns. Files are merged with their neighbours by offset and never across a change of the columns, so
//! that a file still says which offsets it holds and which columns a record of them could have filled.

use super::{KeepError, Left, failed, failed_lines, is_before, kept_from, land_tables, left_lines};
use crate::{
    amount,
    app::group_digits,
    clock::{now_ms, now_us},
    config::model::Pipeline,
    lake::{
        self, LakeError,
        ledger::Root,
        merge::{self, Footer},
        reader::TableFile,
        upkeep::{self, Place, Upkeep},
    },
};
use arrow_schema::Fields;
use clap::Args;
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// What the command line says.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Leave dates of the last N days as they are, today aside: 1 is today and yesterday (UTC).
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub older_than_days: u32,
    /// Leave dates that received a file within so many minutes.
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub quiet_minutes: u32,
    /// Merge files up to this size.
    #[arg(long, value_name = "BYTES", default_value_t = 128 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub target_bytes: u64,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// What is done, or was, with one date of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Date {
    pub topic: String,
    /// `date=YYYY-MM-DD` under the table or its dead letters.
    pub path: PathBuf,
    pub rows: u64,
    pub files_before: u64,
    pub files_after: u64,
    pub bytes_before: u64,
    /// None before it is done.
    pub bytes_after: Option<u64>,
    /// Sum of the hashes of the rows that were merged, equal before and after; none before it is done.
    pub hash: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub pipeline: String,
    pub dry_run: bool,
    pub dates: Vec<Date>,
    pub left: Vec<Left>,
    pub failures: Vec<Left>,
}

/// Files that become one.
struct Group {
    files: Vec<TableFile>,
    bytes: u64,
    topic_id: Option<String>,
    rules: Option<String>,
}

struct Work {
    root: Root,
    date: String,
    groups: Vec<Group>,
    line: Date,
}

/// Compacts every landed table of the pipeline. The plan is given to `say` before anything changes. A table
/// that fails does not stop the others.
pub fn run(pipeline: &Pipeline, options: &Options, say: impl Fn(&Report)) -> Result<Report, KeepError> {
    let tables = land_tables(pipeline);
    let Some(land) = pipeline.land.as_ref().filter(|_| !tables.is_empty()) else {
        return Err(KeepError::Nothing { pipeline: pipeline.name.clone(), section: "land", action: "compact" });
    };
    let mut report = Report {
        pipeline: pipeline.name.clone(),
        dry_run: options.dry_run,
        dates: Vec::new(),
        left: Vec::new(),
        failures: Vec::new(),
    };
    let mut all = Vec::new();
    for table in tables {
        let planned = (|| {
            // With the locks, so that a plan is what will be done.
            let upkeep = Upkeep::open(Place::of(table))?;
            let work = plan(&upkeep, options, &mut report.left)?;
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
    say(&report);
    if options.dry_run {
        return Ok(report);
    }
    report.dates.clear();
    for (table, mut upkeep, work) in all {
        for work in work {
            match compact(&mut upkeep, &work, land.compression_level) {
                Ok(done) => {
                    tracing::info!(path = %done.path.display(), rows = done.rows, files = done.files_before, "compacted");
                    report.dates.push(done);
                }
                Err(error) => {
                    report.failures.push(failed(table, &error));
                    break;
                }
            }
        }
    }
    Ok(report)
}

fn plan(upkeep: &Upkeep, options: &Options, left: &mut Vec<Left>) -> Result<Vec<Work>, LakeError> {
    let kept_from = kept_from(now_us(), options.older_than_days);
    let quiet_since = now_ms() - i64::from(options.quiet_minutes) * 60_000;
    let mut all = Vec::new();
    for root in [Root::Table, Root::DeadLetters] {
        for (date, files) in upkeep.settled(root)? {
            if !is_before(&date, &kept_from) {
                continue;
            }
            let (mut known, mut newest_ms) = (Vec::with_capacity(files.len()), i64::MIN);
            for file in files {
                newest_ms = newest_ms.max(upkeep::written_ms(&file.path)?);
                let bytes = std::fs::metadata(&file.path).map_err(LakeError::io("look at", &file.path))?.len();
                let footer = merge::footer(&file.path)?;
                known.push(Known { file, bytes, footer });
            }
            let path = upkeep.place().root(root).join(format!("date={date}"));
            let (files_before, rows): (u64, u64) =
                (known.len() as u64, known.iter().map(|known| known.footer.rows).sum());
            let bytes_before = known.iter().map(|known| known.bytes).sum();
            let groups = groups(known, options.target_bytes);
            if groups.is_empty() {
                continue;
            }
            if newest_ms > quiet_since {
                let why = format!("received a file within the last {} minutes", options.quiet_minutes);
                left.push(Left { what: path.display().to_string(), why });
                continue;
            }
            let merged: u64 = groups.iter().map(|group| group.files.len() as u64).sum();
            let line = Date {
                topic: upkeep.place().topic.clone(),
                path,
                rows,
                files_before,
                files_after: files_before - merged + groups.len() as u64,
                bytes_before,
                bytes_after: None,
                hash: None,
            };
            all.push(Work { root, date, groups, line });
        }
    }
    Ok(all)
}

struct Known {
    file: TableFile,
    bytes: u64,
    footer: Footer,
}

/// Neighbours that fit into `target` together, in the order of their offsets; at least two each.
fn groups(files: Vec<Known>, target: u64) -> Vec<Group> {
    let mut groups: Vec<(Group, Fields)> = Vec::new();
    for Known { file, bytes, footer: Footer { columns, topic_id, rules, .. } } in files {
        let fits = groups.last().is_some_and(|(group, of)| {
            let last = &group.files[group.files.len() - 1].name;
            (last.partition, last.generation) == (file.name.partition, file.name.generation)
                && *of == columns
                && (&group.topic_id, &group.rules) == (&topic_id, &rules)
                && group.bytes + bytes <= target
        });
        match groups.last_mut().filter(|_| fits) {
            Some((group, _)) => {
                group.files.push(file);
                group.bytes += bytes;
            }
            None => groups.push((Group { files: vec![file], bytes, topic_id, rules }, columns)),
        }
    }
    groups.into_iter().map(|(group, _)| group).filter(|group| group.files.len() > 1).collect()
}

/// One exchange for all groups of a date.
fn compact(upkeep: &mut Upkeep, work: &Work, level: i32) -> Result<Date, LakeError> {
    let workspace = upkeep.workspace()?;
    let (mut new, mut old) = (Vec::new(), Vec::new());
    let mut line = work.line.clone();
    let (mut bytes_after, mut hash) = (line.bytes_before, 0_u128);
    for (index, group) in work.groups.iter().enumerate() {
        let (first, last) = (&group.files[0].name, &group.files[group.files.len() - 1].name);
        let sources: Vec<PathBuf> = group.files.iter().map(|file| file.path.clone()).collect();
        let mut metadata = vec![
            ("headwater.topic", first.topic.clone()),
            ("headwater.partition", first.partition.to_string()),
            ("headwater.first_offset", first.first_offset.to_string()),
            ("headwater.last_offset", last.last_offset.to_string()),
        ];
        metadata.extend(group.topic_id.clone().map(|id| (lake::TOPIC_ID, id)));
        metadata.extend(group.rules.clone().map(|rules| (lake::RULES, rules)));
        let path = workspace.join(index.to_string());
        let (written, content) = merge::merge(&sources, &path, level, &metadata)?;
        bytes_after = bytes_after - group.bytes + written.bytes;
        hash = hash.wrapping_add(content.hash);
        let generation = if first.generation > 0 { format!("-r{}", first.generation) } else { String::new() };
        let name = format!(
            "part-{}-{}-{}-{}-m{}{generation}.parquet",
            first.topic,
            first.partition,
            first.first_offset,
            last.last_offset,
            sources.len()
        );
        new.push((path, name));
        old.extend(sources.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())));
    }
    upkeep.replace(work.root, &work.date, &new, &old, None)?;
    (line.bytes_after, line.hash) = (Some(bytes_after), Some(format!("{hash:032x}")));
    Ok(line)
}

impl Report {
    pub fn ok(&self) -> bool {
        self.failures.is_empty()
    }

    /// The plan, a line for each date.
    pub fn plan(&self) -> String {
        let mut text = String::new();
        for date in &self.dates {
            text.push_str(&format!(
                "{}: {} files of {} with {} rows become {}\n",
                date.path.display(),
                group_digits(date.files_before),
                amount::bytes(date.bytes_before),
                group_digits(date.rows),
                group_digits(date.files_after),
            ));
        }
        text.push_str(&left_lines(&self.left));
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&failed_lines(&self.failures))?;
        let sum = |part: fn(&Date) -> u64| self.dates.iter().map(part).sum::<u64>();
        let (before, after) = (sum(|date| date.files_before), sum(|date| date.files_after));
        let verb = if self.dry_run { "would compact" } else { "compacted" };
        write!(
            f,
            "{}: {verb} {} dates, {} files into {}, {} rows, {}",
            self.pipeline,
            group_digits(self.dates.len() as u64),
            group_digits(before),
            group_digits(after),
            group_digits(sum(|date| date.rows)),
            amount::bytes(sum(|date| date.bytes_before)),
        )?;
        if self.dry_run {
            return Ok(());
        }
        write!(f, " now {}", amount::bytes(sum(|date| date.bytes_after.unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::reader::FileName;
    use arrow_schema::{DataType, Field};

    fn known(name: &str, bytes: u64, column: &str) -> Known {
        let name = FileName::parse(name).unwrap();
        let columns = Fields::from(vec![Field::new(column, DataType::Int64, true)]);
        let footer = Footer { columns, rows: 1, topic_id: None, rules: None };
        Known { file: TableFile { path: PathBuf::new(), date: None, name }, bytes, footer }
    }

    #[test]
    fn neighbours_of_one_partition_and_equal_columns_are_merged_up_to_the_target() {
        let files = vec![
            known("part-t-0-0-9-0.parquet", 40, "a"),
            known("part-t-0-10-19-0.parquet", 40, "a"),
            known("part-t-0-20-29-0.parquet", 40, "a"),
            known("part-t-0-30-39-0.parquet", 40, "b"),
            known("part-t-0-40-49-0.parquet", 40, "b"),
            known("part-t-0-50-59-0.parquet", 400, "b"),
            known("part-t-0-60-69-0.parquet", 40, "b"),
            known("part-t-1-0-9-0.parquet", 10, "b"),
            known("part-t-1-0-9-0-r1.parquet", 10, "b"),
        ];
        let merged: Vec<Vec<i64>> = groups(files, 100)
            .iter()
            .map(|group| group.files.iter().map(|file| file.name.first_offset).collect())
            .collect();
        assert_eq!(merged, [vec![0, 10], vec![30, 40]]);
    }
}
