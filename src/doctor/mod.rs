//! `headwater doctor`: looks at everything that a configuration needs, and says for each thing whether it is
//! well, and if not, what cures it.
//!
//! It changes nothing: no topic, no row, no file, no group, and it takes over no transactional id. So it may
//! run at any time, beside the pipeline too. What a stage would do at its start is asked with the stage's own
//! questions (`capture::inspect`, `land::inspect`, `analyze::inspect`).
//!
//! The configuration comes first. A server that is away is one failure, and what depends on it is "not
//! checked". Every question has a deadline.

mod access;
mod analyzed;
mod captured;
mod finding;
mod kafka;
mod lake;
mod limits;
mod postgres;
mod report;
mod retention;

pub use finding::{Finding, Outcome, Section};
pub use report::Report;

use crate::{
    capture::inspect::{Fit, checkpoints, fit},
    config::{
        self, ConfigErrors,
        model::{Config, Pipeline},
    },
    land,
};
use finding::Findings;
use futures_util::{StreamExt, stream};
use std::{path::Path, time::Duration};

/// Longest time for one answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest time for the answers of one section, however many tables there are.
const SECTION_LIMIT: Duration = Duration::from_secs(60);
/// Pipelines (tenants) that are looked at at the same time.
const PIPELINES: usize = 8;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Tries again while PostgreSQL or Kafka is away, as often as the stages do at their start.
    pub wait: bool,
    /// Transactions open for longer are told.
    pub long_transaction_seconds: u32,
}

/// Looks at everything that the file at `path` needs.
pub async fn run(path: &Path, options: Options) -> Report {
    let config = match config::load_file(path) {
        Ok(config) => config,
        Err(errors) => return broken(path, &errors),
    };
    let mut attempt = 1;
    loop {
        let report = examine(path, &config, options).await;
        let is_away = report.findings.iter().any(|finding| finding.is_away);
        if !is_away || !options.wait || attempt >= config.runtime.wait_attempts {
            return report;
        }
        if let Some(away) = report.findings.iter().find(|finding| finding.is_away) {
            tracing::info!(attempt, "waiting: {}", away.message);
        }
        attempt += 1;
        tokio::time::sleep(Duration::from_millis(config.runtime.wait_delay_ms)).await;
    }
}

/// Nothing but what is wrong with the configuration.
fn broken(path: &Path, errors: &ConfigErrors) -> Report {
    let mut findings = Findings::new(Section::Configuration);
    for error in errors.list() {
        let cure = match (&error.nearest, error.line) {
            (Some(nearest), _) => Some(nearest.clone()),
            (None, _) if error.key.is_empty() => None,
            (None, Some(line)) => Some(format!("{} (line {line})", error.key)),
            (None, None) => Some(error.key.clone()),
        };
        findings.failure("file", &path.display().to_string(), error.to_string(), cure);
    }
    let rest = "PostgreSQL, Kafka, lake: the configuration comes first";
    findings.not_checked("rest", &path.display().to_string(), rest, None);
    let mut findings = findings.of("");
    findings.iter_mut().for_each(|finding| finding.pipeline = None);
    Report { findings, is_broken: true }
}

async fn examine(path: &Path, config: &Config, options: Options) -> Report {
    let mut file = Findings::new(Section::Configuration);
    let subject = path.display().to_string();
    for pipeline in &config.pipelines {
        let stages = [
            ("capture", pipeline.capture.is_some()),
            ("land", pipeline.land.is_some()),
            ("analyze", pipeline.analyze.is_some()),
        ];
        let stages: Vec<&str> = stages.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name).collect();
        file.ok("file", &subject, format!("pipeline {}: {}", pipeline.name, stages.join(", ")));
    }
    let mut findings = file.of("");
    findings.iter_mut().for_each(|finding| finding.pipeline = None);
    let pipelines = stream::iter(&config.pipelines).map(|pipeline| examine_pipeline(pipeline, options));
    let pipelines = pipelines.buffered(PIPELINES);
    findings.extend(pipelines.collect::<Vec<_>>().await.into_iter().flatten());
    Report { findings, is_broken: false }
}

async fn examine_pipeline(pipeline: &Pipeline, options: Options) -> Vec<Finding> {
    let lake = {
        let pipeline = pipeline.clone();
        tokio::task::spawn_blocking(move || lake::examine(&pipeline))
    };
    let source = async {
        match &pipeline.postgres {
            Some(config) => Some(postgres::examine(pipeline, config, options).await),
            None => None,
        }
    };
    let (source, looked, (mut kafka, reached)) =
        tokio::join!(source, tokio::time::timeout(SECTION_LIMIT, lake), kafka::examine(pipeline));
    let (mut lake, landed) = match looked {
        Ok(Ok(looked)) => looked,
        Ok(Err(error)) => unlooked(pipeline, error.to_string()),
        Err(_) => unlooked(pipeline, format!("it took longer than {} s", SECTION_LIMIT.as_secs())),
    };
    let is_reached = source.as_ref().is_some_and(|source| source.client.is_some());
    let (analyzed, positions) = match (&pipeline.postgres, is_reached) {
        (Some(config), true) => analyzed::examine(pipeline, config).await,
        _ => (unreached(pipeline), analyzed::Positions::new()),
    };
    columns(pipeline, source.as_ref(), &mut lake).await;
    if let Some(reached) = &reached {
        let has_groups = landed.values().any(|ledgers| !ledgers.is_empty())
            || positions.iter().any(|(_, partitions)| !partitions.is_empty())
            || reached.cluster.topics.contains_key("__consumer_offsets");
        retention::examine(pipeline, reached, &landed, &positions, &mut kafka).await;
        access::examine(pipeline, reached, has_groups, &mut kafka).await;
        limits::examine(pipeline, reached, &mut kafka);
        if let Some(source) = &source {
            fitting(pipeline, source, reached, &mut kafka).await;
        }
    }
    let source = source.map(|source| source.findings);
    let sections = source.into_iter().chain([kafka, lake, analyzed]);
    sections.flat_map(|findings| findings.of(&pipeline.name)).collect()
}

/// What is said of a lake that cannot be looked at.
fn unlooked(pipeline: &Pipeline, reason: String) -> (Findings, lake::Positions) {
    let mut findings = Findings::new(Section::Lake);
    findings.not_checked("lake", &pipeline.name, reason, None);
    (findings, lake::Positions::new())
}

/// What is said of analyze while its server is away.
fn unreached(pipeline: &Pipeline) -> Findings {
    let mut findings = Findings::new(Section::Analyze);
    if pipeline.analyze.is_some() {
        let rest = "migrations, roles, tables, leader: PostgreSQL cannot be reached";
        findings.not_checked("tables", &pipeline.name, rest, None);
    }
    findings
}

/// Where the columns of the landed tables come from, of which the catalogue may have to tell.
async fn columns(pipeline: &Pipeline, source: Option<&postgres::Source>, findings: &mut Findings) {
    const CHECK: &str = "columns";
    use land::inspect::Columns;
    let client = source.and_then(|source| source.client.as_ref());
    for table in pipeline.land.iter().flat_map(|land| &land.tables) {
        match land::inspect::columns(table, client).await {
            Ok(Some(Columns::File)) => findings.ok(CHECK, &table.topic, "known by the schema file"),
            Ok(Some(Columns::Kept)) => findings.ok(CHECK, &table.topic, "known from an earlier run"),
            Ok(Some(Columns::Catalogue)) => findings.ok(CHECK, &table.topic, "known by PostgreSQL's catalogue"),
            Ok(None) => findings.not_checked(CHECK, &table.topic, "PostgreSQL cannot be reached", None),
            Err(error) if postgres::is_missing_table(&error) => {
                let message = format!("{error}: land waits for it");
                findings.not_checked(CHECK, &table.topic, message, None);
            }
            Err(error) => findings.failure(CHECK, &table.topic, error.to_string(), Some("land.tables[]".to_owned())),
        }
    }
}

/// Whether the checkpoints of capture are of this database.
async fn fitting(pipeline: &Pipeline, source: &postgres::Source, reached: &kafka::Reached, findings: &mut Findings) {
    const CHECK: &str = "checkpoints";
    let (Some(capture), Some(database)) = (&pipeline.capture, &source.database) else { return };
    let topic = &capture.checkpoint_topic;
    // An empty one is not read: the reader's group might be the cluster's first, and make a topic.
    let is_empty = match reached.topics.contains_key(topic) {
        true => reached.inspector.extent(topic.clone(), 0).await.map(|(first, end)| first == end),
        false => Ok(true),
    };
    match is_empty {
        Ok(false) => {}
        Ok(true) => return findings.ok(CHECK, topic, "none yet: the first load begins with the next start"),
        Err(refusal) => return findings.not_checked(CHECK, topic, refusal.to_string(), None),
    }
    let read = {
        let (pipeline, capture) = (pipeline.clone(), capture.clone());
        tokio::task::spawn_blocking(move || checkpoints(&pipeline, &capture))
    };
    let records = match tokio::time::timeout(LIMIT * 2, read).await {
        Ok(Ok(Ok(records))) => records,
        Ok(Ok(Err(error))) => return findings.not_checked(CHECK, topic, error.to_string(), None),
        Ok(Err(error)) => return findings.not_checked(CHECK, topic, error.to_string(), None),
        Err(_) => {
            let message = "they could not be read in time: a transaction of another producer is open";
            return findings.not_checked(CHECK, topic, message, None);
        }
    };
    for (position, table) in &source.tables {
        let configured = &capture.tables[*position];
        let topic_id = reached.topics.get(&configured.topic).map(|facts| facts.description.id.to_string());
        match fit(pipeline, table, &configured.topic, topic_id.as_deref(), &records, database) {
            Fit::None => findings.ok(CHECK, &table.quoted, "none yet: the first load begins with the next start"),
            Fit::Good => findings.ok(CHECK, &table.quoted, "capture can go on where it was"),
            Fit::Misfit(reason) => {
                let cure = "headwater capture --resync -c FILE     # publishes every row of all tables again\n\
                            headwater capture --from-now -c FILE   # goes on with rows from now";
                let message = format!("capture cannot go on: {reason}");
                findings.failure(CHECK, &table.quoted, message, Some(cure.to_owned()));
            }
        }
    }
}
