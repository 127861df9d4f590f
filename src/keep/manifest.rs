//! What a backup holds: its list, which is written last and checked first.

use super::KeepError;
use crate::lake::ledger::{Progress, Root};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
};

pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Version of the program that made it.
    pub program: String,
    /// RFC 3339.
    pub created: String,
    pub pipeline: String,
    /// Whether the data files themselves are in it.
    pub with_data: bool,
    /// Every topic of the pipeline, as it was after the checkpoints were read.
    pub topics: BTreeMap<String, TopicState>,
    pub lands: Vec<LandPart>,
    /// Records of the checkpoint topic.
    pub checkpoints: Option<FilePart>,
    /// Records of which dead letters were replayed; none in a backup by a program that did not keep them.
    #[serde(default)]
    pub replays: Option<FilePart>,
    pub tables: Vec<TablePart>,
    /// Where the jobs of analyze read on.
    pub positions: Vec<Position>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicState {
    pub id: String,
    pub partitions: Vec<Extent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub partition: i32,
    pub first: i64,
    pub end: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LandPart {
    pub topic: String,
    pub partitions: Vec<PartitionPart>,
    /// The columns that have landed, and the note of compact and expire.
    pub schema: Option<FilePart>,
    pub upkeep: Option<FilePart>,
}

/// A ledger is what it says: where to read on, and which files hold what came before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartitionPart {
    pub partition: i32,
    pub progress: Progress,
    pub files: Vec<DataFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    pub root: Root,
    /// `date=YYYY-MM-DD/part-….parquet`
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    /// Where it is in the backup.
    pub part: Option<FilePart>,
}

/// A file of the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePart {
    /// Relative to the manifest.
    pub path: String,
    pub bytes: u64,
    pub crc32c: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TablePart {
    pub table: String,
    pub columns: Vec<String>,
    pub rows: u64,
    /// PostgreSQL's text form.
    pub file: FilePart,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Position {
    pub job: String,
    pub topic: String,
    pub partition: i32,
    pub topic_id: String,
    pub replay_offset: i64,
}

/// What every format begins with.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
    program: String,
}

fn decode(bytes: &[u8], path: &Path) -> Result<Manifest, KeepError> {
    let damaged = |_| KeepError::Damaged { path: path.to_owned() };
    let Versioned { format, program } = serde_json::from_slice(bytes).map_err(damaged)?;
    if format > FORMAT {
        return Err(KeepError::Refused(format!(
            "{} has format {format}, made by version {program}, and this program knows {FORMAT}: use the newer program",
            path.display(),
        )));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> KeepError {
    let path = path.to_owned();
    move |source| KeepError::File { action, path, source }
}

/// Takes bytes into a file, durable at its end.
pub struct Sink {
    root: PathBuf,
    part: FilePart,
    file: File,
}

impl Sink {
    pub fn create(root: &Path, path: &str) -> Result<Sink, KeepError> {
        let full = root.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent).map_err(failed("create", parent))?;
        }
        let file = File::create(&full).map_err(failed("create", &full))?;
        Ok(Sink { root: root.to_owned(), part: FilePart { path: path.to_owned(), bytes: 0, crc32c: 0 }, file })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), KeepError> {
        self.file.write_all(bytes).map_err(failed("write", &self.root.join(&self.part.path)))?;
        self.part.bytes += bytes.len() as u64;
        self.part.crc32c = crc32c::crc32c_append(self.part.crc32c, bytes);
        Ok(())
    }

    pub fn end(self) -> Result<FilePart, KeepError> {
        self.file.sync_all().map_err(failed("sync", &self.root.join(&self.part.path)))?;
        Ok(self.part)
    }
}

/// Copies `from` into the backup.
pub fn copy_in(root: &Path, path: &str, from: &Path) -> Result<FilePart, KeepError> {
    let mut file = File::open(from).map_err(failed("open", from))?;
    let mut sink = Sink::create(root, path)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(failed("read", from))? {
            0 => return sink.end(),
            count => sink.write(&buffer[..count])?,
        }
    }
}

impl FilePart {
    /// Its bytes in pieces; at the end an error where they are not those that were written.
    pub fn pieces(&self, root: &Path) -> Result<Pieces<'_>, KeepError> {
        let path = root.join(&self.path);
        let file = File::open(&path).map_err(failed("open", &path))?;
        Ok(Pieces { part: self, path, file, bytes: 0, crc32c: 0, is_over: false })
    }

    pub fn read(&self, root: &Path, take: impl FnMut(Vec<u8>) -> Result<(), KeepError>) -> Result<(), KeepError> {
        let mut take = take;
        self.pieces(root)?.try_for_each(|piece| take(piece?))
    }

    pub fn bytes(&self, root: &Path) -> Result<Vec<u8>, KeepError> {
        let mut all = Vec::new();
        self.read(root, |piece| {
            all.extend_from_slice(&piece);
            Ok(())
        })?;
        Ok(all)
    }
}

/// See [`FilePart::pieces`].
pub struct Pieces<'a> {
    part: &'a FilePart,
    path: PathBuf,
    file: File,
    bytes: u64,
    crc32c: u32,
    is_over: bool,
}

impl Iterator for Pieces<'_> {
    type Item = Result<Vec<u8>, KeepError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let mut buffer = vec![0; 1 << 16];
        let count = match self.file.read(&mut buffer) {
            Ok(count) => count,
            Err(error) => {
                self.is_over = true;
                return Some(Err(failed("read", &self.path)(error)));
            }
        };
        if count == 0 {
            self.is_over = true;
            let is_whole = (self.bytes, self.crc32c) == (self.part.bytes, self.part.crc32c);
            return (!is_whole).then(|| Err(KeepError::Damaged { path: self.path.clone() }));
        }
        buffer.truncate(count);
        self.bytes += count as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &buffer);
        Some(Ok(buffer))
    }
}

impl Manifest {
    pub fn write(&self, root: &Path) -> Result<(), KeepError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(crate::lake::LakeError::from)?;
        for (name, bytes) in
            [("manifest.json", &bytes[..]), ("manifest.crc32c", format!("{:08x}\n", crc32c::crc32c(&bytes)).as_bytes())]
        {
            let mut sink = Sink::create(root, name)?;
            sink.write(bytes)?;
            sink.end()?;
        }
        Ok(())
    }

    /// Reads the list and every file that it names.
    pub fn read(root: &Path) -> Result<Manifest, KeepError> {
        let path = root.join("manifest.json");
        let bytes = fs::read(&path).map_err(failed("open", &path))?;
        let sum = root.join("manifest.crc32c");
        let expected = fs::read_to_string(&sum).map_err(failed("open", &sum))?;
        if expected.trim() != format!("{:08x}", crc32c::crc32c(&bytes)) {
            return Err(KeepError::Damaged { path });
        }
        let manifest = decode(&bytes, &path)?;
        for part in manifest.parts() {
            part.read(root, |_| Ok(()))?;
        }
        Ok(manifest)
    }

    fn parts(&self) -> impl Iterator<Item = &FilePart> {
        let lands = self.lands.iter().flat_map(|land| {
            let data = land.partitions.iter().flat_map(|partition| &partition.files).filter_map(|f| f.part.as_ref());
            data.chain(&land.schema).chain(&land.upkeep)
        });
        lands.chain(&self.checkpoints).chain(&self.replays).chain(self.tables.iter().map(|table| &table.file))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.parts().map(|part| part.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file is never made anew: such lists lie in backups.
    const STORED: &str = include_str!("manifest.1.json");

    #[test]
    fn the_stored_list_of_format_1_is_read() {
        let manifest = decode(STORED.as_bytes(), Path::new("manifest.json")).unwrap();
        assert_eq!((manifest.pipeline.as_str(), manifest.with_data), ("orders", true));
        assert_eq!(manifest.topics["orders"].partitions, [Extent { partition: 0, first: 10, end: 90 }]);
        let partition = &manifest.lands[0].partitions[0];
        let topic_id = "h0ysj-pTSyWJMtL0NKgfUQ".to_owned();
        assert_eq!(partition.progress, Progress { topic_id, generation: 2, epoch: 7, next: 70, ..Progress::default() });
        let file = &partition.files[0];
        assert_eq!((file.root, file.rows, file.bytes), (Root::DeadLetters, 3, 4_096));
        let parts: Vec<(&str, u64, u32)> =
            manifest.parts().map(|part| (part.path.as_str(), part.bytes, part.crc32c)).collect();
        assert_eq!(
            parts,
            [
                ("data/0.parquet", 4_096, u32::MAX),
                ("orders/schema.json", 20, 1),
                ("checkpoints.ndjson", 30, 2),
                ("tables/windows.copy", 40, 3),
            ]
        );
        assert_eq!((manifest.tables[0].rows, manifest.positions[0].replay_offset), (5, 60));
    }

    #[test]
    fn a_list_of_a_newer_program_is_refused_by_its_format() {
        let newer = br#"{"format":9,"program":"8.0.0","lands":"something else"}"#;
        let refused = decode(newer, Path::new("manifest.json")).unwrap_err().to_string();
        assert!(refused.contains("format 9") && refused.contains("8.0.0"), "{refused}");
    }
}
