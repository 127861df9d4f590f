//! Reading a table back from its files: which there are, what their names say, their rows.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use parquet::{
    arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder},
    file::metadata::{ParquetMetaData, RowGroupMetaData},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum LakeReadError {
    #[error("cannot list {}: {source}; check that the path exists and may be read", .path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("cannot open {}: {source}", .path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is not a readable Parquet file: {source}", .path.display())]
    Parquet { path: PathBuf, source: parquet::errors::ParquetError },
    #[error("{} is not a file of dead letters: it has no column {column} of its type; move it away", .path.display())]
    DeadLetters { path: PathBuf, column: &'static str },
}

impl LakeReadError {
    /// A file of dead letters without one of their columns.
    pub fn missing(path: &Path, column: &'static str) -> LakeReadError {
        LakeReadError::DeadLetters { path: path.to_owned(), column }
    }
}

/// What a data file's name says:
/// `part-<topic>-<partition>-<first offset>-<last offset>-<n>[-r<generation>].parquet`, or with `m<n>` where it
/// was merged from n files: then others hold offsets between its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileName {
    pub topic: String,
    pub partition: i32,
    pub first_offset: i64,
    pub last_offset: i64,
    pub number: u64,
    pub is_merged: bool,
    /// How often the partition's offsets had begun anew (a topic made again) when it was written.
    pub generation: u32,
}

impl FileName {
    /// None for a name of any other form.
    pub fn parse(name: &str) -> Option<FileName> {
        let stem = name.strip_prefix("part-")?.strip_suffix(".parquet")?;
        let (stem, generation) = match stem.rsplit_once("-r") {
            Some((stem, digits)) if !digits.is_empty() && unsigned(digits).is_some() => {
                (stem, u32::try_from(unsigned(digits)?).ok()?)
            }
            _ => (stem, 0),
        };
        // From the right: a topic's name may hold hyphens and digits of its own.
        let mut parts = stem.rsplitn(5, '-');
        let number = parts.next()?;
        let is_merged = number.starts_with('m');
        let number = number.strip_prefix('m').unwrap_or(number);
        let number = if number.is_empty() { return None } else { unsigned(number)? };
        let last_offset = i64::try_from(unsigned(parts.next()?)?).ok()?;
        let first_offset = i64::try_from(unsigned(parts.next()?)?).ok()?;
        let partition = i32::try_from(unsigned(parts.next()?)?).ok()?;
        let topic = parts.next().filter(|topic| !topic.is_empty())?.to_owned();
        let name = FileName { topic, partition, first_offset, last_offset, number, is_merged, generation };
        (first_offset <= last_offset).then_some(name)
    }
}

fn unsigned(text: &str) -> Option<u64> {
    // `parse` alone would take a plus sign.
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A Parquet file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFile {
    pub path: PathBuf,
    /// The value of its partition directory, `date=<value>`; none directly under the root.
    pub date: Option<String>,
    pub name: FileName,
}

/// A table's directory: our files, and what else stands there.
#[derive(Debug, Default)]
pub struct Listing {
    /// In the order of topic, partition and offsets.
    pub files: Vec<TableFile>,
    /// Anything that is not a file of ours in `date=…` or the root, hidden names aside.
    pub foreign: Vec<PathBuf>,
}

/// Lists the table at `root`. A root that does not exist yet is an empty table.
pub fn list(root: &Path) -> Result<Listing, LakeReadError> {
    let mut listing = Listing::default();
    for path in entries(root)? {
        let name = file_name(&path);
        if is_hidden(&name) {
            continue;
        }
        match (path.is_dir(), name.strip_prefix("date=")) {
            (true, Some(date)) => {
                for file in entries(&path)? {
                    file_into(&mut listing, file, Some(date));
                }
            }
            (true, None) => listing.foreign.push(path),
            (false, _) => file_into(&mut listing, path, None),
        }
    }
    listing.files.sort_by(|a, b| {
        let key = |file: &TableFile| {
            let name = &file.name;
            (name.partition, name.generation, name.first_offset, name.last_offset, name.number)
        };
        a.name.topic.cmp(&b.name.topic).then_with(|| key(a).cmp(&key(b))).then_with(|| a.path.cmp(&b.path))
    });
    listing.foreign.sort();
    Ok(listing)
}

fn file_into(listing: &mut Listing, path: PathBuf, date: Option<&str>) {
    let name = file_name(&path);
    if is_hidden(&name) {
        return;
    }
    match FileName::parse(&name).filter(|_| !path.is_dir()) {
        Some(name) => listing.files.push(TableFile { path, date: date.map(str::to_owned), name }),
        None => listing.foreign.push(path),
    }
}

/// Names that Hive, Spark and their kin leave out: `_SUCCESS`, `.part-….crc`.
fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, LakeReadError> {
    let listed = |source| LakeReadError::List { path: directory.to_owned(), source };
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(listed(error)),
        Ok(found) => found.map(|entry| entry.map(|entry| entry.path()).map_err(listed)).collect(),
    }
}

/// The rows of one file, in its order, a batch at a time.
pub struct FileReader {
    path: PathBuf,
    schema: SchemaRef,
    rows: u64,
    topic_id: Option<String>,
    batches: parquet::arrow::arrow_reader::ParquetRecordBatchReader,
}

const BATCH_ROWS: usize = 4096;

impl FileReader {
    /// Reads `columns` (those of them that there are), or all without them.
    pub fn open(path: &Path, columns: Option<&[&str]>) -> Result<FileReader, LakeReadError> {
        FileReader::open_within(path, columns, usize::MAX)
    }

    /// The same in batches of about `batch_bytes`, and of a row at least.
    pub fn open_within(path: &Path, columns: Option<&[&str]>, batch_bytes: usize) -> Result<FileReader, LakeReadError> {
        let file = fs::File::open(path).map_err(|source| LakeReadError::Open { path: path.to_owned(), source })?;
        let unreadable = |source| LakeReadError::Parquet { path: path.to_owned(), source };
        let mut builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(unreadable)?;
        let schema = builder.schema().clone();
        let rows = builder.metadata().file_metadata().num_rows().max(0) as u64;
        let is_chosen = |name: &str| columns.is_none_or(|columns| columns.contains(&name));
        let batch_rows = rows_within(batch_bytes, builder.metadata(), is_chosen);
        let metadata = builder.metadata().file_metadata().key_value_metadata();
        let topic_id = metadata.into_iter().flatten().find(|pair| pair.key == super::TOPIC_ID);
        let topic_id = topic_id.and_then(|pair| pair.value.clone());
        if columns.is_some() {
            let chosen: Vec<usize> =
                (0..schema.fields().len()).filter(|index| is_chosen(schema.field(*index).name())).collect();
            let mask = ProjectionMask::roots(builder.parquet_schema(), chosen);
            builder = builder.with_projection(mask);
        }
        let batches = builder.with_batch_size(batch_rows).build().map_err(unreadable)?;
        Ok(FileReader { path: path.to_owned(), schema, rows, topic_id, batches })
    }

    /// Kafka's id of the topic whose records these are, where the file says it.
    pub fn topic_id(&self) -> Option<&str> {
        self.topic_id.as_deref()
    }

    /// The rules by which the rows were let in ([`super::rules`]), where the file says them.
    pub fn rules(&self) -> Option<&str> {
        self.schema.metadata().get(super::RULES).map(String::as_str)
    }

    /// Of the whole file, whichever columns are read.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }
}

impl Iterator for FileReader {
    type Item = Result<RecordBatch, LakeReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(batch.map_err(|source| LakeReadError::Parquet { path: self.path.clone(), source: source.into() }))
    }
}

/// How many rows take `bytes`, by the mean of the row group whose rows are largest.
fn rows_within(bytes: usize, metadata: &ParquetMetaData, is_chosen: impl Fn(&str) -> bool) -> usize {
    let mean = |group: &RowGroupMetaData| {
        let chosen = group
            .columns()
            .iter()
            .filter(|column| column.column_path().parts().first().is_some_and(|name| is_chosen(name)));
        chosen.map(|column| column.uncompressed_size()).sum::<i64>() / group.num_rows().max(1)
    };
    let largest = metadata.row_groups().iter().map(mean).max().unwrap_or_default();
    (bytes / usize::try_from(largest).unwrap_or_default().max(1)).clamp(1, BATCH_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_from_the_right() {
        let name = FileName::parse("part-shop-7-orders-1-3-100-250-0.parquet").unwrap();
        assert_eq!(name.topic, "shop-7-orders-1");
        assert_eq!((name.partition, name.first_offset, name.last_offset, name.number), (3, 100, 250, 0));
        assert_eq!(FileName::parse("part-t-0-1-2-3-r2.parquet").unwrap().generation, 2);
        let merged = FileName::parse("part-t-0-1-200-m3-r2.parquet").unwrap();
        assert_eq!((merged.is_merged, merged.number, merged.generation), (true, 3, 2));
        assert_eq!(FileName::parse("part-t-r1-0-1-2-3.parquet").unwrap().topic, "t-r1");
        for foreign in [
            "part-00000.parquet",
            "part-orders-0-10-9-0.parquet",
            "part--0-1-2-0.parquet",
            "part-orders-0-1-2-0.parquet.tmp",
            "orders-0-1-2-0.parquet",
            "part-orders-0-+1-2-0.parquet",
            "part-orders-0-1-2-x.parquet",
            "part-orders-0-1-2-m.parquet",
            "part-orders-99999999999-1-2-0.parquet",
        ] {
            assert_eq!(FileName::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_listing_tells_ours_from_foreign() {
        let root = tempfile::tempdir().unwrap();
        let day = root.path().join("date=2025-01-15");
        fs::create_dir_all(&day).unwrap();
        fs::create_dir_all(root.path().join("other")).unwrap();
        for file in ["part-t-0-10-19-0.parquet", "part-t-0-0-9-0.parquet", "part-0.parquet", "_SUCCESS", ".x.crc"] {
            fs::write(day.join(file), b"").unwrap();
        }
        fs::write(root.path().join("part-t-1-0-9-0.parquet"), b"").unwrap();
        let listing = list(root.path()).unwrap();
        let names: Vec<_> = listing.files.iter().map(|file| (file.name.partition, file.name.first_offset)).collect();
        assert_eq!(names, [(0, 0), (0, 10), (1, 0)]);
        assert_eq!(listing.files[0].date.as_deref(), Some("2025-01-15"));
        assert_eq!(listing.files[2].date, None);
        assert_eq!(listing.foreign, [day.join("part-0.parquet"), root.path().join("other")]);
        assert!(list(&root.path().join("missing")).unwrap().files.is_empty());
        assert!(FileReader::open(&day.join("part-0.parquet"), None).is_err());
    }
}
