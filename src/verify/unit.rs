//! One table, its topic and its lake: the sides are read one after the other, then compared.
//!
//! The order keeps a running pipeline from looking wrong: the source's snapshot comes first, the
//! topic's ends after it, the lake's files after those. What a later side holds beyond an earlier
//! one is newer, and known by its offset.

use super::{
    Options, VerifyError,
    canon::Kind,
    compare::{Class, Outcome, SourcePolicy, compare_captured, compare_landed},
    entry::{Entry, Side, Spill},
    expired::Expired,
    explain::Explainer,
    judge::Judge,
    lake::Lake,
    progress::Progress,
    report::{Difference, TableReport},
    row::RowBytes,
    source::{Source, SourceError},
    source_plan::{kind_of, young_from_us},
    topic::{AgainstLake, AgainstSource, Refusals, TopicPass},
};
use crate::{
    clock::now_us,
    config::model::{Capture, CaptureTable, Kafka, LandSchema, LandTable, Postgres},
    kafka::{
        reader::{Extent, Next, ReadError, Reader},
        topic,
    },
    postgres::{self, catalogue},
};
use std::{collections::HashMap, time::Instant};
use tokio::runtime::Handle;

/// What shares a topic: a captured table, a landing, or both.
#[derive(Clone)]
pub struct Unit {
    pub topic: String,
    pub kafka: Kafka,
    pub postgres: Option<Postgres>,
    pub capture: Option<(Capture, CaptureTable)>,
    pub land: Option<LandTable>,
    /// The landed tables of the pipeline, whose files may stand in the same directories.
    pub neighbours: Vec<LandTable>,
}

/// What the catalogue says of the lake's columns, and which of them identify a row.
#[derive(Default)]
struct Known {
    kinds: HashMap<String, Kind>,
    key: Vec<String>,
}

impl Unit {
    pub fn name(&self) -> String {
        match &self.capture {
            Some((_, table)) => match &table.schema {
                Some(schema) => format!("{schema}.{}", table.table),
                None => table.table.clone(),
            },
            None => self.topic.clone(),
        }
    }

    /// Blocks until the table is compared.
    pub fn run(self, options: &Options, runtime: &Handle) -> Result<TableReport, VerifyError> {
        let begun = Instant::now();
        let directory = options.temp_dir.clone().unwrap_or_else(std::env::temp_dir);
        let mut progress = Progress::new(&self.name(), options.progress_bar);
        let before = self.extents()?;
        let records: u64 = before.iter().map(|extent| (extent.end - extent.first).max(0) as u64).sum();
        let mut report = TableReport { topic: self.topic.clone(), ..TableReport::default() };

        let source = match (&self.capture, &self.postgres) {
            (Some((capture, table)), Some(postgres)) if options.source => {
                Some(runtime.block_on(Source::open(postgres, capture, table))?)
            }
            _ => None,
        };
        let land = self.land.as_ref().filter(|_| options.lake);
        let known = self.known(source.as_ref(), options, runtime)?;
        let expected = source.as_ref().map_or(0, |source| source.estimated_rows);
        let mut captured = source.as_ref().map(|_| Spill::new(&directory, expected + records)).transpose()?;
        let mut landed = land.map(|_| Spill::new(&directory, 2 * records)).transpose()?;
        let topic_id = topic::find(&self.kafka, &self.topic)?.id.to_string();
        let have_lost = land.map_or(Ok(false), |land| Lake::have_lost(land, &topic_id))?;
        let is_trimmed = have_lost || before.iter().any(|extent| extent.first > 0);

        if let (Some(source), Some(captured)) = (&source, &mut captured) {
            // Only where the topic has dropped records can the lake have to vouch for source rows.
            let against_lake = match (land, &mut landed) {
                (Some(land), Some(landed)) if is_trimmed => {
                    let lake = Lake::list(land, &self.neighbours, &topic_id)?;
                    Some((self.plan_of(&lake, land, &known)?, lake.expired, landed))
                }
                _ => None,
            };
            report.counts.source_rows = runtime.block_on(read_source(source, captured, against_lake, &mut progress))?;
            report.source_compared = true;
            report.table = Some(source.plan.name.clone());
        }
        let extents = self.extents()?;
        let mut lake = land.map(|land| Lake::list(land, &self.neighbours, &topic_id)).transpose()?;
        let plan = match (&lake, land) {
            (Some(lake), Some(land)) => Some(self.plan_of(lake, land, &known)?),
            _ => None,
        };
        let columns = lake.as_ref().zip(plan.as_ref()).map(|(lake, plan)| lake.columns_by_offset(plan));
        let judge = plan.as_ref().zip(land).map(|(plan, land)| Judge::new(plan, land));
        let mut dead_letters = super::lake::DeadLetters::default();
        if let (Some(lake), Some(plan), Some(columns), Some(judge), Some(landed)) =
            (&mut lake, &plan, &columns, &judge, &mut landed)
        {
            let vouching = Some(plan).filter(|_| is_trimmed && source.is_some());
            dead_letters = lake.read_dead_letters(judge, columns, vouching, landed)?;
            report.counts.dead_letters = dead_letters.reasons.clone();
            report.counts.lake_rows = lake.read_rows(plan, landed, &mut progress)?;
            report.warnings.append(&mut lake.warnings);
            report.misfits(std::mem::take(&mut lake.misfits), options.list_limit);
            report.lake_compared = true;
            report.path = land.map(|land| land.path.clone());
        }

        let mut against_source =
            source.as_ref().zip(captured.as_mut()).map(|(source, spill)| AgainstSource { plan: &source.plan, spill });
        let never = Expired::default();
        let mut against_lake = match (&plan, &columns, &judge, landed.as_mut()) {
            (Some(plan), Some(columns), Some(judge), Some(spill)) => {
                let expired = lake.as_ref().map_or(&never, |lake| &lake.expired);
                Some(AgainstLake { plan, columns, dead_letters: &dead_letters, expired, judge, spill })
            }
            _ => None,
        };
        let pass = self.read_topic(&extents, against_source.as_mut(), against_lake.as_mut(), &mut progress)?;
        report.counts.topic_records = pass.counts.records;
        report.counts.topic_versions = pass.counts.versions;
        report.counts.unknown_fields = pass.counts.unknown_fields;

        let refusals =
            self.read_refusals(source.as_ref(), captured.as_mut(), landed.as_mut().filter(|_| is_trimmed))?;
        let policy = self.source_policy(source.as_ref(), &extents, &pass, (report.lake_compared, have_lost));

        progress.begin("comparing", 0);
        let explainer = Explainer {
            kafka: &self.kafka,
            topic: &self.topic,
            runtime,
            source: source.as_ref(),
            lake: lake.as_ref().zip(plan.as_ref()),
        };
        if let Some(captured) = captured {
            let mut outcome = Outcome::new(options.list_limit);
            captured.for_each_bucket(&mut |entries| compare_captured(entries, &policy, &mut outcome))?;
            for (reason, count) in &outcome.refused {
                let reason = refusals.reasons.get(reason).cloned().unwrap_or_else(|| "unknown".to_owned());
                *report.counts.dead_letters.entry(reason).or_default() += count;
            }
            if outcome.expired > 0 && !report.lake_compared {
                report.warnings.push(format!(
                    "the topic has dropped old records: {} source rows are older, and only a lake could vouch for them",
                    outcome.expired
                ));
            }
            take(&outcome, &mut report, options, |finding| explainer.captured(finding));
        }
        if let (Some(landed), Some(lake)) = (landed, &lake) {
            let policy = lake.policy(&extents, policy.young_from_us, plan.as_ref().is_some_and(|plan| plan.has_offset));
            let mut outcome = Outcome::new(options.list_limit);
            landed.for_each_bucket(&mut |entries| compare_landed(entries, &policy, &mut outcome))?;
            report.counts.accepted_count += outcome.deleted + outcome.passed_over;
            if outcome.deleted > 0 {
                report.warnings.push(format!(
                    "accepted losses: {} source rows are neither in the topic nor in the lake; {} offsets were deleted \
                     before they had landed",
                    outcome.deleted,
                    lake.logs.deleted()
                ));
            }
            if outcome.by_other_rules > 0 {
                report.warnings.push(format!(
                    "{} rows have landed that would be dead letters by the rules of the configuration (not_null, \
                     non_negative, schema_file): they landed by other rules",
                    outcome.by_other_rules
                ));
            }
            if outcome.passed_over > 0 {
                report.warnings.push(format!(
                    "accepted losses: {} records have not landed, for nobody could tell whether they had when the log was \
                     truncated",
                    outcome.passed_over
                ));
            }
            let excused = lake.expired.excuse(&outcome.dropped);
            outcome.expired += excused.expired;
            for (name, excess) in excused.excess {
                report.warnings.push(format!(
                    "{excess} more {name} are missing than expire has dropped: they are counted as lost"
                ));
                outcome.lost += excess;
            }
            take(&outcome, &mut report, options, |finding| explainer.landed(finding));
        }
        report.seconds = begun.elapsed().as_secs_f64();
        Ok(report)
    }

    fn extents(&self) -> Result<Vec<Extent>, ReadError> {
        Reader::open(&self.kafka, &self.topic)?.extents()
    }

    fn source_policy(
        &self,
        source: Option<&Source>,
        extents: &[Extent],
        pass: &TopicPass,
        (vouches_lake, have_lost): (bool, bool),
    ) -> SourcePolicy {
        let window_ms = self.capture.as_ref().map_or(0, |(capture, _)| capture.slack_ms + capture.poll_interval_ms);
        let now_us = now_us();
        let snapshot_us = source.map_or(now_us, |source| source.snapshot_us);
        let is_date = source.is_some_and(|source| source.plan.watermark_is_date());
        // What was published before the first record that a partition still holds was written before it.
        let trimmed = extents
            .iter()
            .filter(|extent| extent.first > 0)
            .map(|extent| pass.first_ms.get(&extent.partition).copied().unwrap_or(i64::MAX));
        SourcePolicy {
            young_from_us: young_from_us(snapshot_us, window_ms, is_date),
            dropped_to_us: if vouches_lake {
                // The lake is asked for all that is not in the topic.
                (have_lost || trimmed.max().is_some()).then_some(i64::MAX)
            } else {
                trimmed
                    .max()
                    .map(|ms| ms.saturating_mul(1_000).saturating_add((window_ms as i64).saturating_mul(1_000)))
            },
        }
    }

    fn plan_of(&self, lake: &Lake, land: &LandTable, known: &Known) -> Result<super::lake_plan::LakePlan, VerifyError> {
        let watermark = self.capture.as_ref().map(|(_, table)| table.watermark.as_str());
        Ok(lake.plan(land, &known.key, watermark, &known.kinds)?)
    }

    fn known(&self, source: Option<&Source>, options: &Options, runtime: &Handle) -> Result<Known, VerifyError> {
        if let Some(source) = source {
            let plan = &source.plan;
            return Ok(Known {
                kinds: plan.columns.iter().map(|column| (column.name.clone(), column.kind.clone())).collect(),
                key: plan.key.iter().map(|column| plan.columns[*column].name.clone()).collect(),
            });
        }
        let mut known = Known::default();
        let Some(land) = &self.land else { return Ok(known) };
        if let (Some(postgres), LandSchema::Table { schema, table, .. }, true) =
            (&self.postgres, &land.schema, options.source)
        {
            let described = runtime.block_on(async {
                let client = postgres::connect(postgres).await?;
                catalogue::describe(&client, schema.as_deref(), table).await
            });
            let described = described.map_err(SourceError::Postgres)?;
            known.kinds = described.columns.iter().map(|column| (column.name.clone(), kind_of(column, None))).collect();
            known.key = described.primary_key;
        }
        if known.key.is_empty() {
            let configured = self.capture.as_ref().map(|(_, table)| table.key.clone()).filter(|key| !key.is_empty());
            known.key = configured.unwrap_or_else(|| land.not_null.clone());
        }
        Ok(known)
    }

    fn read_topic(
        &self,
        extents: &[Extent],
        mut source: Option<&mut AgainstSource<'_>>,
        mut lake: Option<&mut AgainstLake<'_>>,
        progress: &mut Progress,
    ) -> Result<TopicPass, VerifyError> {
        progress.begin("topic", extents.iter().map(|extent| (extent.end - extent.first).max(0) as u64).sum());
        let mut pass = TopicPass::default();
        let mut failed = None;
        Reader::open(&self.kafka, &self.topic)?.read(extents, |record| {
            progress.row();
            match pass.record(record, source.as_deref_mut(), lake.as_deref_mut()) {
                Ok(()) => Next::Continue,
                Err(error) => {
                    failed = Some(error);
                    Next::Stop
                }
            }
        })?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(pass),
        }
    }

    /// Rows too large to publish stand in a topic of their own.
    fn read_refusals(
        &self,
        source: Option<&Source>,
        captured: Option<&mut Spill>,
        mut landed: Option<&mut Spill>,
    ) -> Result<Refusals, VerifyError> {
        let mut refusals = Refusals::default();
        let (Some((capture, _)), Some(source), Some(captured)) = (&self.capture, source, captured) else {
            return Ok(refusals);
        };
        let reader = Reader::open(&self.kafka, &capture.dead_letter_topic)?;
        let extents = match reader.extents() {
            // Nothing was ever refused.
            Err(ReadError::MissingTopic { .. }) => return Ok(refusals),
            extents => extents?,
        };
        let mut failed = None;
        reader.read(&extents, |record| {
            let Some((key, reason)) = refusals.record(record, &source.plan) else { return Next::Continue };
            let entry = Entry { side: Side::Refused, key: &key, identity: reason, ..Entry::default() };
            let spills = [Some(&mut *captured), landed.as_deref_mut()];
            match spills.into_iter().flatten().try_for_each(|spill| spill.write(&entry)) {
                Ok(()) => Next::Continue,
                Err(error) => {
                    failed = Some(error);
                    Next::Stop
                }
            }
        })?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(refusals),
        }
    }
}

async fn read_source(
    source: &Source,
    captured: &mut Spill,
    mut against_lake: Option<(super::lake_plan::LakePlan, Expired, &mut Spill)>,
    progress: &mut Progress,
) -> Result<u64, VerifyError> {
    progress.begin("source", source.estimated_rows);
    let (mut bytes, mut key) = (RowBytes::default(), Vec::new());
    let positions: HashMap<&str, usize> =
        source.plan.columns.iter().enumerate().map(|(index, column)| (column.name.as_str(), index + 1)).collect();
    let rows = source
        .read(progress, |cells| {
            key.clear();
            let version = source.plan.of_text(|index| cells.get(index + 1)?.as_deref(), &mut bytes, &mut key);
            let mut entry = Entry {
                side: Side::Source,
                key: &key,
                row: version.row,
                watermark: version.watermark,
                transaction: cells[0].as_deref().and_then(|id| id.parse().ok()),
                ..Entry::default()
            };
            captured.write(&entry)?;
            let Some((plan, expired, spill)) = &mut against_lake else { return Ok(()) };
            let mut lake_key = Vec::new();
            let landed = plan.of_text(|name| cells.get(*positions.get(name)?)?.as_deref(), &mut bytes, &mut lake_key);
            (entry.key, entry.row, entry.identity) = (&lake_key, landed.row, landed.content);
            entry.file = expired.of_row(plan.day(&bytes).as_deref());
            spill.write(&entry)?;
            Ok::<(), VerifyError>(())
        })
        .await?;
    source.end_snapshot().await?;
    Ok(rows)
}

/// Adds what a comparison came to.
fn take(
    outcome: &Outcome,
    report: &mut TableReport,
    options: &Options,
    explain: impl Fn(&super::compare::Finding) -> Difference,
) {
    for (class, count) in [
        (Class::Lost, outcome.lost),
        (Class::Duplicated, outcome.duplicated),
        (Class::Differing, outcome.differing),
        (Class::ChangedInPlace, outcome.changed_in_place),
    ] {
        *report.class(class).0 += count;
    }
    report.counts.pending_count += outcome.pending;
    report.counts.expired_count += outcome.expired;
    for finding in &outcome.findings {
        let (_, list) = report.class(finding.trouble.class());
        if list.len() < options.list_limit {
            list.push(explain(finding));
        }
    }
}
