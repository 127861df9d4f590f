//! One Parquet file: encoded, checksummed, made durable.

use super::LakeError;
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
};

const ROW_GROUP_BYTES: usize = 128 << 20;
const ROW_GROUP_ROWS: usize = 1 << 20;

/// How the columns of a table are encoded; the same for all of its files.
#[derive(Clone)]
pub struct Encoder {
    schema: SchemaRef,
    properties: WriterProperties,
}

/// Whether files can have such a column; why not. Asked at a start, for no later try would do better.
pub fn can_hold(field: &Field) -> Result<(), ParquetError> {
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    ArrowWriter::try_new(io::sink(), schema, None).map(drop)
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub rows: u64,
    pub bytes: u64,
    pub crc32c: u32,
}

impl Encoder {
    /// `unique` columns are mostly distinct: a dictionary of them would be built for nothing.
    pub fn new(
        schema: SchemaRef,
        level: i32,
        unique: &[&str],
        metadata: &[(&str, String)],
    ) -> Result<Self, ParquetError> {
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(level)?))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_write_batch_size(8_192)
            .set_key_value_metadata(Some(
                metadata.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), value.clone())).collect(),
            ));
        for field in schema.fields() {
            let whole = matches!(field.data_type(), DataType::Int64 | DataType::Timestamp(..));
            let unique =
                unique.contains(&field.name().as_str()) || matches!(field.data_type(), DataType::Timestamp(..));
            if unique {
                let path = ColumnPath::from(field.name().as_str());
                properties = properties.set_column_dictionary_enabled(path.clone(), false);
                if whole {
                    properties = properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
                }
            }
        }
        Ok(Encoder { schema, properties: properties.build() })
    }

    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Writes `path` from `batches`. The bytes are not durable yet: sync the file that is given back.
    pub fn write(
        &self,
        path: &Path,
        batches: impl Iterator<Item = Result<RecordBatch, arrow_schema::ArrowError>>,
    ) -> Result<(Written, File), LakeError> {
        let mut writing = self.begin(path)?;
        for batch in batches {
            writing.push(&batch.map_err(|error| parquet_error(path, error.into()))?)?;
        }
        writing.finish()
    }

    /// Begins `path`, to be written batch by batch.
    pub fn begin(&self, path: &Path) -> Result<Writing, LakeError> {
        let file = File::create(path).map_err(LakeError::io("create", path))?;
        let sink = Checksummed { inner: BufWriter::with_capacity(64 << 10, file), bytes: 0, crc32c: 0 };
        let options = ArrowWriterOptions::new().with_properties(self.properties.clone());
        let writer = ArrowWriter::try_new_with_options(sink, self.schema.clone(), options)
            .map_err(|error| parquet_error(path, error))?;
        Ok(Writing { path: path.to_owned(), writer, rows: 0 })
    }
}

/// A file that is being written.
pub struct Writing {
    path: PathBuf,
    writer: ArrowWriter<Checksummed<BufWriter<File>>>,
    rows: u64,
}

impl Writing {
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch).map_err(|error| parquet_error(&self.path, error))
    }

    /// Writes the end. The bytes are not durable yet: sync the file that is given back.
    pub fn finish(self) -> Result<(Written, File), LakeError> {
        let sink = self.writer.into_inner().map_err(|error| parquet_error(&self.path, error))?;
        let written = Written { rows: self.rows, bytes: sink.bytes, crc32c: sink.crc32c };
        let file = sink.inner.into_inner().map_err(|error| LakeError::io("write", &self.path)(error.into_error()))?;
        start_writing_back(&file);
        Ok((written, file))
    }
}

/// Lets the kernel begin to write while the next file is encoded, so that the syncs of a commit's
/// files share one commit of the file system's journal. Only a hint: its failure changes nothing.
fn start_writing_back(file: &File) {
    // SAFETY: a plain system call on a descriptor that is open.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// An I/O error inside Parquet's keeps its kind, so that a full disk is called one.
fn parquet_error(path: &Path, error: ParquetError) -> LakeError {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => LakeError::Io { action: "write", path: path.to_owned(), source: *source },
            Err(source) => LakeError::Parquet { path: path.to_owned(), source: ParquetError::External(source) },
        },
        source => LakeError::Parquet { path: path.to_owned(), source },
    }
}

struct Checksummed<W> {
    inner: W,
    bytes: u64,
    crc32c: u32,
}

impl<W: Write> Write for Checksummed<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.bytes += written as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
