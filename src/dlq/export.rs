//! `dlq export`: letters into a file, as lines of JSON or as Parquet.

use super::{
    Damaged, DlqError, Next, Progress, Stores, blocking, escape, filter::Filter, form::Form, letter::Letter, pipelines,
    replayed, selection::Selection,
};
use crate::{
    app::group_digits,
    config::model::Config,
    lake::{
        LakeError,
        dead_letter::{self, Batch},
        directory,
        parquet_file::{Encoder, Writing},
    },
    record::headers,
};
use clap::Args;
use serde::Serialize;
use std::{
    fmt,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};
use tokio::runtime::Handle;

const BATCH_BYTES: usize = 8 << 20;
/// zstd, as land's own files.
const COMPRESSION_LEVEL: i32 = 3;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The file to write: FILE.ndjson, a JSON object a line; FILE.parquet, with the columns of land's own files
    /// of dead letters; or - for lines of JSON on stdout.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    #[command(flatten)]
    pub selection: Selection,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub file: PathBuf,
    pub letters: u64,
    pub bytes: u64,
    pub warnings: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (letters, bytes) = (group_digits(self.letters), group_digits(self.bytes));
        write!(f, "{}: {letters} dead letters, {bytes} bytes", self.file.display())?;
        for warning in &self.warnings {
            write!(f, "\nwarning: {}", escape::line(warning))?;
        }
        Ok(())
    }
}

/// Writes the letters that are meant. A file has its name only once it is whole.
pub async fn export(config: Config, options: Options) -> Result<Report, DlqError> {
    blocking(move |runtime| export_here(&config, &options, runtime)).await
}

fn export_here(config: &Config, options: &Options, runtime: &Handle) -> Result<Report, DlqError> {
    let filter = options.selection.filter()?;
    let file = &options.to;
    if file == Path::new("-") {
        let mut lines = Lines { out: Counted { inner: BufWriter::new(io::stdout()), bytes: 0 }, path: file.clone() };
        let poured = pour(config, &filter, runtime, |letter| lines.push(letter));
        let finished = poured.and_then(|poured| Ok((poured, lines.finish()?.1)));
        return match finished {
            Ok(((letters, warnings), bytes)) => Ok(Report { file: file.clone(), letters, bytes, warnings }),
            // Whoever read it has enough, as `head` has.
            Err(DlqError::Output { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
                Ok(Report { file: file.clone(), letters: 0, bytes: 0, warnings: Vec::new() })
            }
            Err(error) => Err(error),
        };
    }
    let extension = file.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let is_parquet = match extension.as_deref() {
        Some("ndjson" | "jsonl") => false,
        Some("parquet") => true,
        _ => {
            let wrong = format!("--to takes FILE.ndjson, FILE.parquet or -, not {}", file.display());
            return Err(DlqError::Selection(wrong));
        }
    };
    if file.exists() {
        return Err(DlqError::Exists { path: file.clone() });
    }
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let unfinished = Unfinished(file.with_file_name(format!(".{name}.{}", std::process::id())));
    let path = &unfinished.0;
    let (letters, warnings, bytes, written) = if is_parquet {
        let mut rows = Rows::begin(path)?;
        let (letters, warnings) = pour(config, &filter, runtime, |letter| rows.push(letter))?;
        let (bytes, written) = rows.finish()?;
        (letters, warnings, bytes, written)
    } else {
        let out = File::create(path).map_err(LakeError::io("create", path))?;
        let mut lines = Lines { out: Counted { inner: BufWriter::new(out), bytes: 0 }, path: path.clone() };
        let (letters, warnings) = pour(config, &filter, runtime, |letter| lines.push(letter))?;
        let (out, bytes) = lines.finish()?;
        let out = out.into_inner().map_err(|error| LakeError::io("write", path)(error.into_error()))?;
        (letters, warnings, bytes, out)
    };
    written.sync_all().map_err(LakeError::io("sync", path))?;
    if file.exists() {
        return Err(DlqError::Exists { path: file.clone() });
    }
    fs::rename(path, file).map_err(LakeError::io("rename a file to", file))?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    directory::sync(parent.unwrap_or(Path::new(".")))?;
    Ok(Report { file: file.clone(), letters, bytes, warnings })
}

/// A file under a name of its own until it is whole; removed where it never is.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Gives every letter that is meant to `push`. How many there were, and what is to be told.
fn pour(
    config: &Config,
    filter: &Filter,
    runtime: &Handle,
    mut push: impl FnMut(&Letter) -> Result<(), DlqError>,
) -> Result<(u64, Vec<String>), DlqError> {
    let mut progress = Progress::new("exporting dead letters");
    let (mut letters, mut warnings, mut damaged) = (0, Vec::new(), Damaged::default());
    for pipeline in pipelines(config, filter)? {
        let stores = Stores::open(pipeline, filter, runtime)?;
        warnings.extend(stores.warnings.iter().cloned());
        let sent = replayed(pipeline, filter, &mut warnings)?;
        stores.announce(&pipeline.name, filter);
        stores.read(filter, true, runtime, &mut |mut letter| {
            letter.replayed = sent.as_ref().map(|sent| sent.holds(&letter));
            if filter.matches(&letter) {
                letters += 1;
                damaged.note(&letter);
                push(&letter)?;
            }
            progress.letter(letters);
            Ok(Next::Continue)
        })?;
    }
    warnings.extend(damaged.warning("they are exported without"));
    Ok((letters, warnings))
}

struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A JSON object a line.
struct Lines<W> {
    out: Counted<W>,
    path: PathBuf,
}

impl<W: Write> Lines<W> {
    fn push(&mut self, letter: &Letter) -> Result<(), DlqError> {
        let written = serde_json::to_writer(&mut self.out, &Form::new(letter)).map_err(io::Error::from);
        written.and_then(|()| self.out.write_all(b"\n")).map_err(|source| self.failed(source))
    }

    fn finish(mut self) -> Result<(W, u64), DlqError> {
        self.out.flush().map_err(|source| self.failed(source))?;
        Ok((self.out.inner, self.out.bytes))
    }

    fn failed(&self, source: io::Error) -> DlqError {
        DlqError::Output { path: self.path.clone(), source }
    }
}

/// Rows of a Parquet file.
struct Rows {
    writing: Writing,
    batch: Batch,
}

impl Rows {
    fn begin(path: &Path) -> Result<Rows, DlqError> {
        let failed = |source| LakeError::Parquet { path: path.to_owned(), source };
        let encoder =
            Encoder::new(dead_letter::schema(), COMPRESSION_LEVEL, &dead_letter::UNIQUE, &[]).map_err(failed)?;
        Ok(Rows { writing: encoder.begin(path)?, batch: Batch::default() })
    }

    fn push(&mut self, letter: &Letter) -> Result<(), DlqError> {
        let headers = headers::encode(&letter.body.headers);
        self.batch.push(&dead_letter::Letter {
            payload: letter.body.payload.as_deref(),
            topic: &letter.topic,
            reason: &letter.reason,
            detail: &letter.detail,
            refused_us: letter.refused_us,
            partition: letter.partition,
            offset: letter.offset,
            recorded_us: letter.recorded_us,
            key: letter.body.key.as_deref(),
            headers: headers.as_deref(),
        });
        if self.batch.bytes() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DlqError> {
        Ok(self.writing.push(&self.batch.take()?)?)
    }

    fn finish(mut self) -> Result<(u64, File), DlqError> {
        self.flush()?;
        let (written, file) = self.writing.finish()?;
        Ok((written.bytes, file))
    }
}
