//! A backup of everything by which a pipeline goes on: the ledgers with the list of their files (and with
//! `--with-data` the files), the checkpoints of capture, the tables of analyze, and which dead letters were replayed.
//!
//! **Beside a running pipeline.** Each stage's progress is consistent with its own data, for one commit moves
//! both; what ties the stages together is Kafka, which is not in the backup. So the order matters only for the
//! day on which Kafka is lost, too. Checkpoints are read first, then the ends of the topics, then ledgers, then
//! tables: what was published after the checkpoints is published again after a restore, and cannot be missing.
//! With Kafka lost, rows that were captured *and* landed while the backup was made land twice, and those that
//! had not landed by then are named by the restore; with every stage stopped and caught up there are none. With
//! Kafka there, a restore loses nothing and doubles nothing, whenever the backup was made.
//!
//! - A ledger is read when nothing is pending, and its files are listed after it: those beyond its offset are
//!   left out. Compact and expire wait.
//! - The tables are read in one snapshot.
//! - What was replayed is read last, so that little can be sent that it does not say.
//! - All of it is written under a temporary name, made durable, and renamed.

use super::{
    KeepError, backup_tables, land_tables,
    manifest::{self, DataFile, Extent, FORMAT, LandPart, Manifest, PartitionPart, Sink, TopicState},
    replays,
};
use crate::{
    amount,
    app::group_digits,
    capture, clock,
    config::model::{LandTable, Pipeline},
    kafka::{
        reader::{ReadError, Reader},
        replay, topic,
    },
    lake::{
        self, LakeError, directory,
        ledger::Root,
        ledger_file::Ledger,
        merge, reader,
        upkeep::{self, Place, Upkeep},
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::SecondsFormat;
use clap::Args;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A commit is done in moments, unless its landing was killed.
const PENDING_LIMIT: Duration = Duration::from_secs(10);

/// What the command line says.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The directory to make; it must not be there yet.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Copy the data files of the lake as well, not only what the ledgers say of them.
    #[arg(long)]
    pub with_data: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub pipeline: String,
    pub path: PathBuf,
    pub ledgers: u64,
    pub data_files: u64,
    pub data_rows: u64,
    pub with_data: bool,
    pub checkpoints: u64,
    /// Dead letters that were replayed.
    pub replayed: u64,
    pub tables: BTreeMap<String, u64>,
    pub bytes: u64,
}

/// Backs up every pipeline of a file, each into a directory of its name.
pub async fn run(pipelines: &[Pipeline], options: &Options) -> Result<Vec<Report>, KeepError> {
    let to = &options.to;
    if to.exists() {
        return Err(KeepError::Refused(format!("{} is there already: give another name", to.display())));
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    directory::create_synced(parent)?;
    let name = to.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = parent.join(format!(".{name}.{}.unfinished", std::process::id()));
    let mut reports = Vec::new();
    for pipeline in pipelines {
        let root = temporary.join(&pipeline.name);
        directory::create_synced(&root)?;
        match one(pipeline, options, &root).await {
            Ok(report) => reports.push(report),
            Err(error) => {
                let _ = fs::remove_dir_all(&temporary);
                return Err(error);
            }
        }
    }
    sync_all(&temporary)?;
    fs::rename(&temporary, to).map_err(LakeError::io("rename", &temporary))?;
    directory::sync(parent)?;
    Ok(reports)
}

fn sync_all(path: &Path) -> Result<(), LakeError> {
    for entry in fs::read_dir(path).map_err(LakeError::io("list", path))?.flatten() {
        if entry.path().is_dir() {
            sync_all(&entry.path())?;
        }
    }
    directory::sync(path)
}

async fn one(pipeline: &Pipeline, options: &Options, root: &Path) -> Result<Report, KeepError> {
    let mut manifest = Manifest {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        created: clock::iso_to(clock::now_us(), SecondsFormat::Secs),
        pipeline: pipeline.name.clone(),
        with_data: options.with_data,
        topics: BTreeMap::new(),
        lands: Vec::new(),
        checkpoints: None,
        replays: None,
        tables: Vec::new(),
        positions: Vec::new(),
    };
    let (owned, target) = (pipeline.clone(), root.to_owned());
    let with_data = options.with_data;
    let blocking = move || {
        let mut count = 0;
        let records = checkpoints(&owned)?;
        if let Some(records) = records {
            count = records.keys().filter(|key| capture::is_checkpoint(key)).count() as u64;
            let mut sink = Sink::create(&target, "checkpoints.json")?;
            sink.write(&serde_json::to_vec(&records).map_err(LakeError::from)?)?;
            manifest.checkpoints = Some(sink.end()?);
        }
        manifest.topics = topics(&owned)?;
        for table in land_tables(&owned) {
            manifest.lands.push(land(table, with_data, &target)?);
        }
        Ok::<_, KeepError>((manifest, count))
    };
    let (mut manifest, checkpoints) = tokio::task::spawn_blocking(blocking).await??;
    if pipeline.analyze.is_some() {
        (manifest.tables, manifest.positions) = backup_tables::backup(pipeline, root).await?;
    }
    let replayed = replays::backup(pipeline, root, &mut manifest).await?;
    manifest.write(root)?;
    let partitions = || manifest.lands.iter().flat_map(|land| &land.partitions);
    let files = || partitions().flat_map(|partition| &partition.files);
    Ok(Report {
        pipeline: pipeline.name.clone(),
        path: options.to.join(&pipeline.name),
        ledgers: partitions().count() as u64,
        data_files: files().count() as u64,
        data_rows: files().map(|file| file.rows).sum(),
        with_data: options.with_data,
        checkpoints,
        replayed,
        tables: manifest.tables.iter().map(|table| (table.table.clone(), table.rows)).collect(),
        bytes: manifest.bytes(),
    })
}

/// The records of the pipeline in its checkpoint topic, in base64; none where it captures nothing.
pub fn checkpoints(pipeline: &Pipeline) -> Result<Option<BTreeMap<String, String>>, KeepError> {
    let Some(capture) = &pipeline.capture else { return Ok(None) };
    let prefix = format!("{}/", pipeline.name);
    match Reader::open(&pipeline.kafka, &capture.checkpoint_topic)?.extents() {
        Err(ReadError::MissingTopic { .. }) => return Ok(Some(BTreeMap::new())),
        extents => extents?,
    };
    let values = replay::latest_values(&pipeline.kafka, &capture.checkpoint_topic, replay::Open::Settle, |key| {
        key.starts_with(&prefix)
    })?;
    Ok(Some(values.into_iter().map(|(key, value)| (key, STANDARD.encode(value))).collect()))
}

/// Every topic of the pipeline that there is.
pub fn topics(pipeline: &Pipeline) -> Result<BTreeMap<String, TopicState>, KeepError> {
    let mut names: BTreeSet<&str> = land_tables(pipeline).iter().map(|table| table.topic.as_str()).collect();
    names.extend(pipeline.capture.iter().flat_map(|capture| &capture.tables).map(|table| table.topic.as_str()));
    let jobs = pipeline.analyze.iter().flat_map(|analyze| &analyze.jobs);
    names.extend(jobs.flat_map(|job| &job.inputs).map(|input| input.topic.as_str()));
    let mut states = BTreeMap::new();
    for name in names {
        let extents = match Reader::open(&pipeline.kafka, name)?.extents() {
            Err(ReadError::MissingTopic { .. }) => continue,
            extents => extents?,
        };
        let id = topic::find(&pipeline.kafka, name).map_err(|error| KeepError::Refused(error.to_string()))?.id;
        let partitions = extents
            .into_iter()
            .map(|extent| Extent { partition: extent.partition, first: extent.first, end: extent.end })
            .collect();
        states.insert(name.to_owned(), TopicState { id: id.to_string(), partitions });
    }
    Ok(states)
}

fn land(table: &LandTable, with_data: bool, root: &Path) -> Result<LandPart, KeepError> {
    let place = Place::of(table);
    // Nothing is merged or dropped while files are listed and copied.
    let _upkeep = Upkeep::open(place.clone())?;
    let mut part = LandPart { topic: table.topic.clone(), partitions: Vec::new(), schema: None, upkeep: None };
    for partition in partitions(table)? {
        let Some(progress) = settled(&place, partition)? else { continue };
        part.partitions.push(PartitionPart { partition, progress, files: Vec::new() });
    }
    for (directory, at) in [(Root::Table, "table"), (Root::DeadLetters, "dead_letters")] {
        for file in reader::list(place.root(directory)).map_err(LakeError::from)?.files {
            let (name, Some(date)) = (&file.name, &file.date) else { continue };
            let owner = part.partitions.iter_mut().find(|part| part.partition == name.partition);
            let Some(owner) = owner.filter(|_| name.topic == table.topic) else { continue };
            let current = owner.progress.generation;
            if name.generation > current || (name.generation == current && name.last_offset >= owner.progress.next) {
                continue;
            }
            let path =
                format!("date={date}/{}", file.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default());
            let bytes = fs::metadata(&file.path).map_err(LakeError::io("look at", &file.path))?.len();
            let rows = merge::footer(&file.path).map_err(LakeError::from)?.rows;
            let copied = format!("land/{}/{at}/{path}", table.topic);
            let part = if with_data { Some(manifest::copy_in(root, &copied, &file.path)?) } else { None };
            owner.files.push(DataFile { root: directory, path, rows, bytes, part });
        }
    }
    for (name, from) in [("schema.json", super::schema_path(table)), ("upkeep", upkeep::note_path(&place))] {
        if from.exists() {
            let copied = Some(manifest::copy_in(root, &format!("land/{}/{name}", table.topic), &from)?);
            if name == "upkeep" { part.upkeep = copied } else { part.schema = copied }
        }
    }
    Ok(part)
}

/// Partitions that have a ledger.
fn partitions(table: &LandTable) -> Result<BTreeSet<i32>, KeepError> {
    let prefix = format!("{}-", table.topic);
    let entries = match fs::read_dir(&table.checkpoint_location) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(LakeError::io("list", &table.checkpoint_location))?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect())
}

/// Where a ledger stands at a moment when all of its files are in place.
fn settled(place: &Place, partition: i32) -> Result<Option<lake::ledger::Progress>, KeepError> {
    let directory = place.ledger_directory(partition);
    let begun = Instant::now();
    loop {
        match Ledger::look(&directory)? {
            None => return Ok(None),
            Some(ledger) if ledger.pending.is_empty() => return Ok(ledger.progress),
            Some(_) if begun.elapsed() > PENDING_LIMIT => {
                return Err(KeepError::Refused(format!(
                    "a commit in {} has been waiting for {} s to be rolled forward: start land, and back up then",
                    directory.display(),
                    PENDING_LIMIT.as_secs()
                )));
            }
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} ledgers, {} data files {} with {} rows, {} checkpoints, {} replayed dead letters",
            self.path.display(),
            self.ledgers,
            group_digits(self.data_files),
            if self.with_data { "copied" } else { "listed (not copied)" },
            group_digits(self.data_rows),
            self.checkpoints,
            group_digits(self.replayed),
        )?;
        for (table, rows) in &self.tables {
            write!(f, ", {} rows of {table}", group_digits(*rows))?;
        }
        write!(f, "; {}", amount::bytes(self.bytes))
    }
}
