//! `dlq list`: how many letters there are, by what they have in common.

use super::{
    DlqError, Next, Progress, Stores, blocking, escape, form, pipelines, replayed,
    selection::Selection,
    table::{self, Set},
};
use crate::{app::group_digits, clock, config::model::Config, dlq::letter::Letter};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::{collections::BTreeMap, fmt};
use tokio::runtime::Handle;

/// Groups that are kept apart; a record's day may be any that its producer says.
const MOST_GROUPS: usize = 10_000;
/// What a group beyond them is called.
const OTHERS: &str = "(others)";

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub selection: Selection,
    /// What the letters are counted by; all of them when absent.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "COLUMNS")]
    pub by: Vec<By>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum By {
    Pipeline,
    Stage,
    Topic,
    Day,
    Reason,
}

const ALL: [By; 5] = [By::Pipeline, By::Stage, By::Topic, By::Day, By::Reason];

/// Letters that have the same values in the columns that are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// `capture`, `land`, or `analyze` with its job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub count: u64,
    /// None where it is not known.
    pub replayed: Option<u64>,
    /// When the first and the last of them were refused.
    pub first: String,
    pub last: String,
    /// One of them.
    pub example: String,
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub count: u64,
    pub replayed: Option<u64>,
    pub groups: Vec<Group>,
    pub warnings: Vec<String>,
    #[serde(skip)]
    by: Vec<By>,
}

#[derive(Default)]
struct Tally {
    count: u64,
    replayed: Option<u64>,
    first_us: i64,
    last_us: i64,
    example: String,
    detail: String,
}

/// Counts by the values of some columns.
struct Counting {
    by: Vec<By>,
    groups: BTreeMap<Vec<String>, Tally>,
    is_over: bool,
}

impl Counting {
    fn new(by: &[By]) -> Counting {
        let mut by = if by.is_empty() { ALL.to_vec() } else { by.to_vec() };
        by.sort_unstable();
        by.dedup();
        Counting { by, groups: BTreeMap::new(), is_over: false }
    }

    fn add(&mut self, letter: &Letter) {
        let value = |by: &By| match by {
            By::Pipeline => letter.source.pipeline.clone(),
            By::Stage => letter.source.to_string(),
            By::Topic => letter.topic.to_string(),
            By::Day => form::day(letter.day()),
            By::Reason => letter.reason.clone(),
        };
        let mut key: Vec<String> = self.by.iter().map(value).collect();
        if self.groups.len() >= MOST_GROUPS && !self.groups.contains_key(&key) {
            self.is_over = true;
            key.fill(OTHERS.to_owned());
        }
        let tally = self.groups.entry(key).or_insert_with(|| Tally {
            replayed: letter.replayed.map(|_| 0),
            first_us: letter.refused_us,
            last_us: letter.refused_us,
            example: letter.id().to_string(),
            detail: letter.detail.clone(),
            ..Tally::default()
        });
        tally.count += 1;
        tally.replayed = tally.replayed.zip(letter.replayed).map(|(count, is)| count + u64::from(is));
        tally.first_us = tally.first_us.min(letter.refused_us);
        tally.last_us = tally.last_us.max(letter.refused_us);
    }

    fn report(self, mut warnings: Vec<String>) -> Report {
        if self.is_over {
            warnings.push(format!(
                "there are more than {} groups; the rest is counted together: count by less with --by, or narrow it with --where",
                group_digits(MOST_GROUPS as u64)
            ));
        }
        let by = self.by;
        let groups: Vec<Group> = self
            .groups
            .into_iter()
            .map(|(key, tally)| {
                let of = |wanted| by.iter().zip(&key).find(|(by, _)| **by == wanted).map(|(_, value)| value.clone());
                Group {
                    pipeline: of(By::Pipeline),
                    stage: of(By::Stage),
                    topic: of(By::Topic),
                    day: of(By::Day),
                    reason: of(By::Reason),
                    count: tally.count,
                    replayed: tally.replayed,
                    first: clock::iso(tally.first_us),
                    last: clock::iso(tally.last_us),
                    example: tally.example,
                    detail: tally.detail,
                }
            })
            .collect();
        let replayed = groups.iter().map(|group| group.replayed).sum::<Option<u64>>();
        Report { count: groups.iter().map(|group| group.count).sum(), replayed, groups, warnings, by }
    }
}

/// Counts the letters that are meant, in all pipelines of the file.
pub async fn list(config: Config, options: Options) -> Result<Report, DlqError> {
    blocking(move |runtime| list_here(&config, &options, runtime)).await
}

fn list_here(config: &Config, options: &Options, runtime: &Handle) -> Result<Report, DlqError> {
    let filter = options.selection.filter()?;
    let mut counting = Counting::new(&options.by);
    let mut warnings = Vec::new();
    let mut progress = Progress::new("listing dead letters");
    for pipeline in pipelines(config, &filter)? {
        let stores = Stores::open(pipeline, &filter, runtime)?;
        warnings.extend(stores.warnings.iter().cloned());
        let sent = match stores.stores.is_empty() {
            true => None,
            false => replayed(pipeline, &filter, &mut warnings)?,
        };
        stores.announce(&pipeline.name, &filter);
        let mut count = 0;
        stores.read(&filter, filter.needs_body(), runtime, &mut |mut letter| {
            letter.replayed = sent.as_ref().map(|sent| sent.holds(&letter));
            if filter.matches(&letter) {
                count += 1;
                counting.add(&letter);
            }
            progress.letter(count);
            Ok(Next::Continue)
        })?;
    }
    Ok(counting.report(warnings))
}

/// `2025-01-15 12:24:00`, to the second.
fn short_time(time: &str) -> String {
    time.get(..19).map_or_else(|| time.to_owned(), |time| time.replace('T', " "))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_one_pipeline = self.groups.iter().all(|group| group.pipeline == self.groups[0].pipeline);
        let by: Vec<By> = self.by.iter().copied().filter(|by| *by != By::Pipeline || !is_one_pipeline).collect();
        let mut head: Vec<(&str, Set)> = by
            .iter()
            .map(|by| match by {
                By::Pipeline => ("PIPELINE", Set::Left),
                By::Stage => ("STAGE", Set::Left),
                By::Topic => ("TOPIC", Set::Left),
                By::Day => ("DAY", Set::Left),
                By::Reason => ("REASON", Set::Left),
            })
            .collect();
        head.extend([("COUNT", Set::Right), ("REPLAYED", Set::Right)]);
        head.extend([("FIRST (UTC)", Set::Left), ("LAST (UTC)", Set::Left), ("FOR EXAMPLE", Set::Left)]);
        let count = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), group_digits);
        let row = |group: &Group| {
            let mut row: Vec<String> = by
                .iter()
                .map(|by| match by {
                    By::Pipeline => &group.pipeline,
                    By::Stage => &group.stage,
                    By::Topic => &group.topic,
                    By::Day => &group.day,
                    By::Reason => &group.reason,
                })
                .map(|value| escape::line(value.as_deref().unwrap_or_default()))
                .collect();
            row.extend([group_digits(group.count), count(group.replayed)]);
            row.extend([short_time(&group.first), short_time(&group.last)]);
            row.push(format!(
                "{}: {}",
                escape::line(&group.example),
                escape::cut(&group.detail, escape::LINE_CHARACTERS)
            ));
            row
        };
        if !self.groups.is_empty() {
            write!(f, "{}", table::lines(&head, &self.groups.iter().map(row).collect::<Vec<_>>()))?;
        }
        let letters = if self.count == 1 { "dead letter" } else { "dead letters" };
        write!(f, "{} {letters}", group_digits(self.count))?;
        if let Some(replayed) = self.replayed.filter(|replayed| *replayed > 0) {
            write!(f, ", {} of them replayed", group_digits(replayed))?;
        }
        for warning in &self.warnings {
            write!(f, "\nwarning: {}", escape::line(warning))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dlq::letter::{Body, Source};

    fn letter(topic: &str, offset: i64, reason: &str) -> Letter {
        Letter {
            source: Source { pipeline: "p".to_owned(), stage: "analyze", job: Some("chat".to_owned()) }.into(),
            topic: topic.into(),
            topic_id: "A".into(),
            partition: 0,
            offset,
            reason: reason.to_owned(),
            detail: "bad \u{1b}[31m field".to_owned(),
            refused_us: 1_736_943_840_000_000 + offset,
            recorded_us: Some(offset * crate::record::time::MICROS_PER_DAY),
            body: Body::default(),
            replayed: Some(offset % 2 == 0),
        }
    }

    #[test]
    fn letters_are_counted_by_what_was_asked_for() {
        let mut counting = Counting::new(&[By::Reason, By::Topic, By::Topic]);
        for offset in 0..5 {
            counting.add(&letter("a", offset, "null_key"));
        }
        counting.add(&letter("b", 9, "null_key"));
        let report = counting.report(vec!["odd".to_owned()]);
        assert_eq!((report.count, report.replayed, report.groups.len()), (6, Some(3), 2));
        let group = &report.groups[0];
        assert_eq!((group.topic.as_deref(), group.reason.as_deref()), (Some("a"), Some("null_key")));
        assert_eq!((group.day.as_deref(), group.count, group.replayed), (None, 5, Some(3)));
        assert_eq!(
            (group.first.as_str(), group.last.as_str()),
            ("2025-01-15T12:24:00Z", "2025-01-15T12:24:00.000004Z")
        );
        assert_eq!(
            report.to_string(),
            "TOPIC  REASON    COUNT  REPLAYED  FIRST (UTC)          LAST (UTC)           FOR EXAMPLE\n\
             a      null_key      5         3  2025-01-15 12:24:00  2025-01-15 12:24:00  a/0/0: bad \\u{1b}[31m field\n\
             b      null_key      1         0  2025-01-15 12:24:00  2025-01-15 12:24:00  b/0/9: bad \\u{1b}[31m field\n\
             6 dead letters, 3 of them replayed\nwarning: odd"
        );
        assert_eq!(Counting::new(&[]).report(Vec::new()).to_string(), "0 dead letters");
    }

    #[test]
    fn hostile_days_do_not_fill_the_memory() {
        let mut counting = Counting::new(&[By::Day]);
        for offset in 0..MOST_GROUPS as i64 + 500 {
            counting.add(&letter("a", offset, "null_key"));
        }
        let report = counting.report(Vec::new());
        assert_eq!(report.groups.len(), MOST_GROUPS + 1);
        assert_eq!(report.count, MOST_GROUPS as u64 + 500);
        let others = report.groups.iter().find(|group| group.day.as_deref() == Some(OTHERS)).unwrap();
        assert_eq!(others.count, 500);
        assert!(report.warnings[0].contains("--by"), "{:?}", report.warnings);
    }
}
