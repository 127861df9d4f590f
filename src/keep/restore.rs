//! A backup put back, and what cannot be.
//!
//! Only what is lost is restored. A ledger, a checkpoint or a table that is there has gone on since the backup,
//! and is left as it is; `--force` takes the backup's in its place, which goes back in time: capture publishes
//! again what it published since.
//!
//! **A lake whose files are gone** is landed again. Files that the backup holds are copied back; for the others
//! the ledger is set to where the files that are there support it ([`super::support`]), and a landing reads on
//! from Kafka there. Files that hold records which are going to be read again are set aside, into
//! `<checkpoint_location>/<topic>.aside/`; of one that holds others, too, which are older than the topic or have gone with
//! the end of its log, the part with these stays in the table ([`super::divide`]). The ledger is written last: until then a landing refuses to begin
//! beside the files, so that a restore that was killed is simply run again.
//!
//! **What is missing** is told by offsets: records that were in lost files and that the topic no longer holds,
//! and records that had not landed, or not been counted, when their topic was lost.

use super::{
    KeepError, Left, backup, backup_tables,
    divide::{self, Part, Stays},
    land_tables, left_lines,
    manifest::{DataFile, LandPart, Manifest, PartitionPart, TopicState},
    replays, schema_path,
    support::{Gone, Held, Support, support},
};
use crate::{
    app::group_digits,
    capture,
    clock::now_ms,
    config::model::{Kafka, LandTable, Pipeline},
    failpoint,
    kafka::{
        admin::{TopicSpec, ensure_topics},
        producer::{Outgoing, Settings, TransactionalProducer},
    },
    lake::{
        LakeError, directory,
        ledger::{Common, Progress, Root},
        ledger_file::Ledger,
        lock::{self, Attempt},
        reader::{self, FileName},
        upkeep::{self, Place, Upkeep},
    },
    loss,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// What the command line says.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The backup's directory.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Take the backup's state also where something newer is there. Stop every stage before.
    #[arg(long)]
    pub force: bool,
    /// Only say what would be done, and what is missing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Records that cannot be had any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    pub topic: String,
    pub partition: i32,
    pub first_offset: i64,
    pub last_offset: i64,
    /// At most so many; none where only Kafka could have told.
    pub rows: Option<u64>,
    pub what: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub pipeline: String,
    /// RFC 3339: when the backup was made.
    pub created: String,
    pub dry_run: bool,
    /// What is done, or was.
    pub steps: Vec<String>,
    pub left: Vec<Left>,
    pub missing: Vec<Missing>,
}

/// What becomes of one partition of a lake.
struct LedgerPlan {
    partition: i32,
    progress: Progress,
    /// From the backup into the table.
    copied: Vec<DataFile>,
    /// Of those that are about to be set aside, the parts that stay.
    parts: Vec<Part>,
    aside: Vec<(Root, String)>,
}

struct LandPlan<'a> {
    table: &'a LandTable,
    part: &'a LandPart,
    ledgers: Vec<LedgerPlan>,
}

/// Restores one pipeline. The plan is given to `say` before anything changes.
pub async fn run(pipeline: &Pipeline, options: &Options, say: impl Fn(&Report)) -> Result<Report, KeepError> {
    let root = options.from.join(&pipeline.name);
    if !root.join("manifest.json").exists() {
        return Err(KeepError::Refused(format!(
            "{} is no backup of pipeline {}: give --from the directory that backup has made, or check the pipeline's name",
            options.from.display(),
            pipeline.name
        )));
    }
    let (owned, read) = (pipeline.clone(), root.clone());
    let blocking = move || {
        let manifest = Manifest::read(&read)?;
        let topics = backup::topics(&owned)?;
        let checkpoints = backup::checkpoints(&owned)?.unwrap_or_default();
        Ok::<_, KeepError>((manifest, topics, checkpoints))
    };
    let (manifest, topics, present) = tokio::task::spawn_blocking(blocking).await??;
    let mut report = Report {
        pipeline: pipeline.name.clone(),
        created: manifest.created.clone(),
        dry_run: options.dry_run,
        steps: Vec::new(),
        left: Vec::new(),
        missing: Vec::new(),
    };
    let mut lands = Vec::new();
    for part in &manifest.lands {
        let Some(table) = land_tables(pipeline).iter().find(|table| table.topic == part.topic) else {
            let why = "the configuration does not land it any more".to_owned();
            report.left.push(Left { what: part.topic.clone(), why });
            continue;
        };
        let topic = topics.get(&part.topic);
        // It reads files, and the topic where one is divided.
        let plan = || plan_land(pipeline, table, part, topic, (&manifest, &root), options.force, &mut report);
        lands.push(tokio::task::block_in_place(plan)?);
    }
    let records = plan_checkpoints(pipeline, &manifest, &root, &present, options.force, &mut report)?;
    let replayed = replays::plan(pipeline, &manifest, &root, &mut report).await?;
    let restores_tables = plan_tables(pipeline, &manifest, &topics, options.force, &mut report).await?;
    say(&report);
    if options.dry_run {
        return Ok(report);
    }
    // Before the letters are there again.
    replays::restore(pipeline, replayed).await?;
    for land in lands {
        restore_land(land, &root)?;
    }
    if restores_tables {
        backup_tables::restore(pipeline, &manifest.tables, &root).await?;
    }
    if !records.is_empty() {
        put_checkpoints(pipeline, records).await?;
    }
    Ok(report)
}

/// Every file of a partition and generation, there or not.
struct Found {
    root: Root,
    path: String,
    name: FileName,
    held: Held,
}

fn plan_land<'a>(
    pipeline: &Pipeline,
    table: &'a LandTable,
    part: &'a LandPart,
    topic: Option<&TopicState>,
    (manifest, backup): (&Manifest, &Path),
    force: bool,
    report: &mut Report,
) -> Result<LandPlan<'a>, KeepError> {
    let place = Place::of(table);
    if !report.dry_run {
        upkeep::recover(&place)?;
    }
    let dropped = upkeep::dropped(&place)?;
    let mut there: BTreeMap<(u8, String), FileName> = BTreeMap::new();
    for (number, root) in [Root::Table, Root::DeadLetters].into_iter().enumerate() {
        for file in reader::list(place.root(root)).map_err(LakeError::from)?.files {
            let (Some(date), true) = (&file.date, file.name.topic == part.topic) else { continue };
            let name = file.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            there.insert((number as u8, format!("date={date}/{name}")), file.name.clone());
        }
    }
    let mut plan = LandPlan { table, part, ledgers: Vec::new() };
    for backed_up in &part.partitions {
        let partition = backed_up.partition;
        let what = format!("{} partition {partition}", part.topic);
        // One that cannot be read is lost.
        let look = Ledger::look(&place.ledger_directory(partition)).ok().flatten();
        let has_ledger = look.as_ref().is_some_and(|ledger| ledger.progress.is_some());
        // What is pending is still staged: taken back, it is read again.
        let now = look.filter(|ledger| ledger.pending.is_empty()).and_then(|ledger| ledger.progress);
        let mut copied = Vec::new();
        let mut found = Vec::new();
        for (number, root) in [Root::Table, Root::DeadLetters].into_iter().enumerate() {
            let held = |name: &FileName, rows, is_there| Held {
                first: name.first_offset,
                last: name.last_offset,
                rows,
                is_there,
            };
            let expected = backed_up.files.iter().filter(|file| file.root == root);
            for file in expected {
                let Some(name) = file.path.split_once('/').and_then(|(_, name)| FileName::parse(name)) else {
                    continue;
                };
                if there.contains_key(&(number as u8, file.path.clone())) {
                    continue;
                }
                let date = file.path.trim_start_matches("date=").split('/').next().unwrap_or_default();
                let before = if root == Root::Table { &dropped.table.before } else { &dropped.dead_letters.before };
                let is_expired = before.as_deref().is_some_and(|before| date < before);
                // Merged since the backup.
                let is_covered = there.iter().any(|((at, path), other)| {
                    *at == number as u8
                        && path.starts_with(&format!("date={date}/"))
                        && (other.partition, other.generation) == (name.partition, name.generation)
                        && other.first_offset <= name.first_offset
                        && other.last_offset >= name.last_offset
                });
                if is_expired || is_covered {
                    continue;
                }
                let is_there = file.part.is_some();
                if is_there {
                    copied.push(file.clone());
                }
                let mut lacking = held(&name, file.rows, is_there);
                // Divided by a restore that was killed: one part of it is there, or both.
                let part = |is_it: &dyn Fn(&FileName) -> bool| {
                    let is_here = |at: u8, path: &str| at == number as u8 && path.starts_with(&format!("date={date}/"));
                    let of_it = |other: &FileName| {
                        (other.partition, other.generation) == (name.partition, name.generation) && is_it(other)
                    };
                    let found = there.iter().find(|((at, path), other)| is_here(*at, path) && of_it(other));
                    found.filter(|_| !is_there).map(|(_, other)| other)
                };
                let (first, last) = (name.first_offset, name.last_offset);
                if let Some(head) = part(&|other| other.first_offset == first && other.last_offset < last) {
                    lacking.first = head.last_offset + 1;
                }
                if let Some(tail) = part(&|other| other.first_offset > first && other.last_offset == last) {
                    lacking.last = tail.first_offset - 1;
                }
                found.push(Found { root, path: file.path.clone(), held: lacking, name });
            }
            let present = there.iter().filter(|((at, _), name)| *at == number as u8 && name.partition == partition);
            found.extend(present.map(|((_, path), name)| Found {
                root,
                path: path.clone(),
                held: held(name, 0, true),
                name: name.clone(),
            }));
        }
        let lost = found.iter().filter(|found| !found.held.is_there).count() + copied.len();
        if has_ledger && !force {
            let why = match lost {
                0 => "its ledger is there and has gone on since".to_owned(),
                lost => format!(
                    "its ledger is there, but {lost} files of the backup are not: --force restores them, or sets the \
                     ledger to where the files that are there support it"
                ),
            };
            report.left.push(Left { what, why });
            continue;
        }
        let progress = newer(now, backed_up);
        let topic_id = loss::topic_of(&progress.topic_id);
        let same = topic.filter(|topic| topic.id == topic_id);
        let extent = same.and_then(|topic| topic.partitions.iter().find(|extent| extent.partition == partition));
        // Of a log that was truncated, what the topic still holds can be read again.
        let cut_at = |found: &Found| match progress.common(found.name.generation) {
            Common { is_unsure: true, .. } => Common::NOTHING.to,
            _ if extent.is_none() && found.name.generation < progress.generation => Common::NOTHING.to,
            common => common.to,
        };
        let known = found.iter().filter(|found| found.name.generation <= progress.generation);
        let (current, retired): (Vec<&Found>, Vec<&Found>) = known.partition(|found| found.held.first < cut_at(found));
        let held = |found: &&Found| Held { last: found.held.last.min(cut_at(found) - 1), ..found.held };
        let held: Vec<Held> = current.iter().map(held).collect();
        let Support { next, aside, divided, mut gone } =
            support(progress.next, extent.map(|extent| extent.first), &held);
        let cut_off = current.iter().zip(&held).filter(|(found, held)| found.held.last > held.last);
        let cut_off = cut_off.map(|(found, held)| Held { first: held.last + 1, ..found.held });
        let lost = retired.iter().map(|found| found.held).chain(cut_off).filter(|held| !held.is_there);
        gone.extend(lost.map(|Held { first, last, rows, .. }| Gone { first, last, rows }));
        report.missing.extend(gone.into_iter().map(|gone| Missing {
            topic: part.topic.clone(),
            partition,
            first_offset: gone.first,
            last_offset: gone.last,
            rows: Some(gone.rows),
            what: "had landed in files that are gone, and the topic holds them no longer".to_owned(),
        }));
        let unlanded = manifest.topics.get(&part.topic).and_then(|then| {
            let extent = then.partitions.iter().find(|extent| extent.partition == partition)?;
            (same.is_none() && then.id == topic_id && next < extent.end).then_some(extent.end)
        });
        if let Some(end) = unlanded {
            report.missing.push(Missing {
                topic: part.topic.clone(),
                partition,
                first_offset: next,
                last_offset: end - 1,
                rows: None,
                what:
                    "had not landed, and the topic is gone or was made again: rows that are still in their table are \
                       published again by capture --resync"
                        .to_owned(),
            });
        }
        let mut parts = Vec::new();
        let low = extent.map_or(0, |extent| extent.first);
        let older = divided.into_iter().map(|index| (current[index], Stays::Before(low)));
        let later = aside.iter().filter(|index| current[**index].held.last > held[**index].last);
        let later = later.map(|index| (current[*index], Stays::From(held[*index].last + 1)));
        for (found, stays) in older.chain(later) {
            let from_backup = copied.iter().find(|file| (file.root, &file.path) == (found.root, &found.path));
            let source = match from_backup.and_then(|file| file.part.as_ref()) {
                Some(part) => backup.join(&part.path),
                None => place.root(found.root).join(&found.path),
            };
            let file = divide::Straddling { root: found.root, path: &found.path, name: &found.name, source };
            match divide::plan(pipeline, table, &file, stays)? {
                divide::Plan::Part(part) => parts.push(part),
                divide::Plan::Nothing => {}
                divide::Plan::Unsure { rows } => report.missing.push(Missing {
                    topic: part.topic.clone(),
                    partition,
                    first_offset: if let Stays::From(cut) = stays { cut } else { found.held.first },
                    last_offset: if let Stays::Before(low) = stays { low - 1 } else { found.held.last },
                    rows: Some(rows),
                    what: format!(
                        "the topic holds them no longer; their rows stand in {} alone, among others that are landed \
                         again, from which they could not be told",
                        if from_backup.is_some() {
                            backup.display().to_string()
                        } else {
                            aside_directory(&place).display().to_string()
                        }
                    ),
                }),
            }
        }
        // Of a log that the ledger does not know yet: all of it is landed again.
        let unknown = found.iter().filter(|found| found.name.generation > progress.generation);
        let aside = aside.into_iter().map(|index| current[index]).chain(unknown);
        let aside: Vec<(Root, String)> = aside.map(|found| (found.root, found.path.clone())).collect();
        // What is about to be read again need not be copied.
        copied.retain(|file| !aside.contains(&(file.root, file.path.clone())));
        let aside: Vec<(Root, String)> = aside
            .into_iter()
            .filter(|(root, path)| there.contains_key(&(u8::from(*root == Root::DeadLetters), path.clone())))
            .collect();
        report.steps.push(format!(
            "{what}: copy {} files, set {} aside{}, land on from offset {next}",
            group_digits(copied.len() as u64),
            group_digits(aside.len() as u64),
            match parts.iter().map(|part| part.rows.end - part.rows.start).sum::<u64>() {
                0 => String::new(),
                rows => format!(" but for {} rows that the topic holds no longer", group_digits(rows)),
            }
        ));
        // The record before another offset is not known.
        let last = progress.last.filter(|_| next == progress.next);
        let progress = Progress { next, last, ..progress };
        plan.ledgers.push(LedgerPlan { partition, progress, copied, parts, aside });
    }
    Ok(plan)
}

/// Of two ledgers of one topic the one that vouches for more.
fn newer(now: Option<Progress>, backed_up: &PartitionPart) -> Progress {
    let then = backed_up.progress.clone();
    match now {
        Some(now) if (now.generation, now.epoch) > (then.generation, then.epoch) => now,
        _ => then,
    }
}

fn restore_land(plan: LandPlan<'_>, root: &Path) -> Result<(), KeepError> {
    let place = Place::of(plan.table);
    for (part, path) in [(&plan.part.schema, schema_path(plan.table)), (&plan.part.upkeep, upkeep::note_path(&place))] {
        if let Some(part) = part.as_ref().filter(|_| !path.exists() && !plan.ledgers.is_empty()) {
            write_durable(&path, &part.bytes(root)?)?;
        }
    }
    // Nothing is merged or dropped meanwhile.
    let _upkeep = Upkeep::open(place.clone())?;
    for ledger in plan.ledgers {
        restore_ledger(&place, ledger, root)?;
    }
    Ok(())
}

fn aside_directory(place: &Place) -> PathBuf {
    place.checkpoints.join(format!("{}.aside", place.topic))
}

fn restore_ledger(place: &Place, plan: LedgerPlan, root: &Path) -> Result<(), KeepError> {
    let directory = place.ledger_directory(plan.partition);
    directory::create_synced(&directory)?;
    let _lock = match lock::acquire(&directory)? {
        Attempt::Held(lock) => lock,
        Attempt::Busy(holder) => {
            let holder = holder.map_or("another process".to_owned(), |holder| holder.to_string());
            return Err(KeepError::Refused(format!(
                "partition {} of {} is held by {holder}: stop landing, and restore again",
                plan.partition, place.topic
            )));
        }
    };
    Ledger::remove(&directory)?;
    for part in &plan.parts {
        let path = place.root(part.root).join(&part.path);
        directory::create_synced(path.parent().unwrap_or(place.root(part.root)))?;
        part.write(&directory.join("restored.tmp"), &path)?;
    }
    let aside = aside_directory(place);
    for (at, path) in &plan.aside {
        let from = place.root(*at).join(path);
        let kind = if *at == Root::Table { "table" } else { "dead_letters" };
        let to = aside.join(kind).join(path);
        directory::create_synced(to.parent().unwrap_or(&aside))?;
        fs::rename(&from, &to).map_err(LakeError::io("set aside", &from))?;
        directory::sync(to.parent().unwrap_or(&aside))?;
        directory::sync(from.parent().unwrap_or(place.root(*at)))?;
    }
    for file in &plan.copied {
        let Some(part) = &file.part else { continue };
        write_through(&directory, &place.root(file.root).join(&file.path), |file| {
            part.read(root, |piece| {
                file.write_all(&piece).map_err(|source| KeepError::File {
                    action: "write",
                    path: directory.clone(),
                    source,
                })
            })
        })?;
    }
    failpoint::hit("restore.before_ledger").map_err(LakeError::io("write", &directory))?;
    Ok(Ledger::restore(&directory, plan.progress)?)
}

fn write_durable(path: &Path, bytes: &[u8]) -> Result<(), KeepError> {
    let parent = path.parent().unwrap_or(Path::new(".")).to_owned();
    directory::create_synced(&parent)?;
    write_through(&parent, path, |file| {
        file.write_all(bytes).map_err(|source| KeepError::File { action: "write", path: path.to_owned(), source })
    })
}

/// Writes beside, out of sight of readers, and renames.
fn write_through(
    beside: &Path,
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), KeepError>,
) -> Result<(), KeepError> {
    let temporary = beside.join("restored.tmp");
    let parent = path.parent().unwrap_or(beside);
    directory::create_synced(parent)?;
    let mut file = File::create(&temporary).map_err(LakeError::io("create", &temporary))?;
    write(&mut file)?;
    file.sync_all().map_err(LakeError::io("sync", &temporary))?;
    fs::rename(&temporary, path).map_err(LakeError::io("rename a file to", path))?;
    Ok(directory::sync(parent)?)
}

/// Records that are to be put into the checkpoint topic.
fn plan_checkpoints(
    pipeline: &Pipeline,
    manifest: &Manifest,
    root: &Path,
    present: &BTreeMap<String, String>,
    force: bool,
    report: &mut Report,
) -> Result<BTreeMap<String, Vec<u8>>, KeepError> {
    let mut records = BTreeMap::new();
    let (Some(part), Some(capture)) = (&manifest.checkpoints, &pipeline.capture) else { return Ok(records) };
    let damaged = || KeepError::Damaged { path: root.join(&part.path) };
    let saved: BTreeMap<String, String> = serde_json::from_slice(&part.bytes(root)?).map_err(|_| damaged())?;
    for (key, value) in saved {
        match present.get(&key) {
            Some(now) if *now == value => continue,
            Some(_) if !force => {
                let why = "the checkpoint topic has a newer record".to_owned();
                let left = Left { what: format!("checkpoint {key}"), why };
                report.left.extend(capture::is_checkpoint(&key).then_some(left));
            }
            _ => {
                let step = format!("checkpoint {key}: put into {}", capture.checkpoint_topic);
                report.steps.extend(capture::is_checkpoint(&key).then_some(step));
                records.insert(key, STANDARD.decode(&value).map_err(|_| damaged())?);
            }
        }
    }
    Ok(records)
}

/// One transaction, under the id that fences a capture that still runs.
async fn put_checkpoints(pipeline: &Pipeline, records: BTreeMap<String, Vec<u8>>) -> Result<(), KeepError> {
    let Some(capture) = &pipeline.capture else { return Ok(()) };
    let topics = capture::topics(capture).into_iter().filter(|topic| topic.name == capture.checkpoint_topic);
    let settings = Settings {
        transactional_id: capture.transactional_id.clone(),
        compression: capture.compression,
        max_message_bytes: capture.max_row_bytes,
    };
    put(&pipeline.kafka, topics.collect(), settings, records).await
}

/// Puts records into the first partition of the first of `topics`, which are made where they are missing.
pub async fn put(
    kafka: &Kafka,
    topics: Vec<TopicSpec>,
    settings: Settings,
    records: BTreeMap<String, Vec<u8>>,
) -> Result<(), KeepError> {
    ensure_topics(kafka, &topics).await.map_err(|error| KeepError::Refused(error.to_string()))?;
    let kafka = kafka.clone();
    let put = move || {
        let Some(topic) = topics.first() else { return Ok(()) };
        let mut producer = TransactionalProducer::open(&kafka, &settings)?;
        let topic = producer.topic(&topic.name)?;
        producer.begin()?;
        for (key, value) in &records {
            producer.send(&Outgoing {
                topic,
                partition: Some(0),
                key: Some(key.as_bytes()),
                value: Some(value),
                headers: None,
                timestamp_ms: now_ms(),
            })?;
        }
        producer.commit()
    };
    Ok(tokio::task::spawn_blocking(put).await??)
}

/// Whether the tables are restored.
async fn plan_tables(
    pipeline: &Pipeline,
    manifest: &Manifest,
    topics: &BTreeMap<String, TopicState>,
    force: bool,
    report: &mut Report,
) -> Result<bool, KeepError> {
    if manifest.tables.is_empty() || pipeline.analyze.is_none() {
        return Ok(false);
    }
    let occupied = backup_tables::occupied(pipeline, &manifest.tables).await?;
    if !occupied.is_empty() && !force {
        let why = "they hold rows of this pipeline, and have gone on since".to_owned();
        report.left.push(Left { what: format!("tables {}", occupied.join(", ")), why });
        return Ok(false);
    }
    for part in &manifest.tables {
        report.steps.push(format!("table {}: {} rows", part.table, group_digits(part.rows)));
    }
    let jobs: BTreeSet<&str> = pipeline.analyze.iter().flat_map(|analyze| &analyze.jobs).map(|job| &*job.id).collect();
    for position in manifest.positions.iter().filter(|position| jobs.contains(&*position.job)) {
        let now = topics.get(&position.topic).filter(|topic| topic.id == loss::topic_of(&position.topic_id));
        let at = |state: &TopicState| state.partitions.iter().find(|e| e.partition == position.partition).copied();
        let (last, what) = match (now.and_then(at), manifest.topics.get(&position.topic).and_then(at)) {
            (Some(now), _) => (now.first - 1, "were not counted by then, and the topic holds them no longer"),
            (None, Some(then)) => (then.end - 1, "were not counted by then, and the topic is gone or was made again"),
            (None, None) => continue,
        };
        if position.replay_offset <= last {
            report.missing.push(Missing {
                topic: position.topic.clone(),
                partition: position.partition,
                first_offset: position.replay_offset,
                last_offset: last,
                rows: None,
                what: format!("{what}: windows of job {} that were open lack them", position.job),
            });
        }
    }
    Ok(true)
}

impl Report {
    /// What will be done, what is left, and what is missing.
    pub fn plan(&self) -> String {
        let mut text = format!("backup of {}\n", self.created);
        for step in &self.steps {
            text.push_str(&format!("{step}\n"));
        }
        text.push_str(&left_lines(&self.left));
        for missing in &self.missing {
            let rows = missing.rows.map_or_else(String::new, |rows| format!(" (at most {} rows)", group_digits(rows)));
            text.push_str(&format!(
                "missing: {} partition {} offsets {} to {}{rows}: {}\n",
                missing.topic, missing.partition, missing.first_offset, missing.last_offset, missing.what
            ));
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run { "would restore" } else { "restored" };
        write!(f, "{}: {verb} {} parts, left {}", self.pipeline, self.steps.len(), self.left.len())?;
        match self.missing.len() {
            0 => write!(f, "; nothing is missing"),
            ranges => write!(f, "; {ranges} ranges of offsets are MISSING, as listed"),
        }
    }
}
