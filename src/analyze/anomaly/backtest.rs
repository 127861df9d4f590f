//! `headwater anomalies --backtest FILE.csv`: what a detector would have found in a user's own measurements.
//!
//! Every row is a window, and the rows do not overlap; they go through the same [`Watcher`] as final windows do.

use super::{
    moment::{Moment, Score},
    plot::{self, Picture},
    series::{self, Series, SeriesError, format_time},
    watch::{Detector, DetectorName, Direction, Floor, Gap, Watch, WatchError},
    watcher::Watcher,
};
use serde::Serialize;
use std::{
    fmt,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;

/// Thresholds whose moments are counted beside those of the chosen one.
const THRESHOLDS: [f64; 7] = [2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0];

/// What values are called that have no other name.
const UNNAMED: &str = "value";

/// A shipped watch whose settings are taken where none are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Kind {
    ChatSpike,
    EmoteSpike,
    ViewerDrop,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rows of timestamp,value at even times, with or without a header; times are ISO-8601 (UTC where no zone is
    /// given) or seconds or milliseconds since 1970.
    #[arg(long, value_name = "FILE.csv")]
    pub backtest: PathBuf,
    /// zscore compares with the last rows, quantile with how unusual the rows of a longer history were.
    #[arg(long, value_enum, default_value_t = DetectorName::Zscore)]
    pub detector: DetectorName,
    /// Take the settings of this shipped watch, where no others are given.
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
    /// Scores from here on are moments [default: 3.0].
    #[arg(long, value_name = "DEVIATIONS")]
    pub threshold: Option<f64>,
    /// Rows before each row that it is compared with [default: 10].
    #[arg(long, value_name = "ROWS")]
    pub baseline_periods: Option<u32>,
    /// With quantile: rows whose tail is the deviation [default: 1440].
    #[arg(long, value_name = "ROWS")]
    pub history_periods: Option<u32>,
    /// With quantile: share of those that keep within one deviation [default: 0.98].
    #[arg(long, value_name = "SHARE")]
    pub probability: Option<f64>,
    /// Which departures count [default: up].
    #[arg(long, value_enum)]
    pub direction: Option<Direction>,
    /// Rows from a moment to the next one at least; an episode that lasts longer is one moment still [default: 5].
    #[arg(long, value_name = "ROWS")]
    pub cooldown: Option<u32>,
    /// Rows that must be known before a row is scored [default: half the baseline for zscore, 120 for quantile].
    #[arg(long, value_name = "ROWS")]
    pub minimum_history: Option<u32>,
    /// Least deviation, in the value's unit [default: a tenth of the values' interquartile range].
    #[arg(long, value_name = "VALUE")]
    pub floor_absolute: Option<f64>,
    /// Least deviation as a share of the baseline [default: 0].
    #[arg(long, value_name = "SHARE")]
    pub floor_relative: Option<f64>,
    /// Least deviation as a multiple of the baseline's square root, for counts [default: 0].
    #[arg(long, value_name = "MULTIPLE")]
    pub floor_poisson: Option<f64>,
    /// Write every row with its score here (JSON where the name ends in .json).
    #[arg(long, value_name = "FILE.csv")]
    pub out: Option<PathBuf>,
    /// Write the moments here (JSON where the name ends in .json).
    #[arg(long, value_name = "FILE.csv")]
    pub moments: Option<PathBuf>,
    /// Draw the rows with the moments marked.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// What the rows are measurements of [default: the file's name].
    #[arg(long)]
    pub key: Option<String>,
}

#[derive(Debug, Error)]
pub enum BacktestError {
    #[error("cannot read {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot take {} as a series: {source}", path.display())]
    Series { path: PathBuf, source: SeriesError },
    #[error("cannot watch with these settings: {0}")]
    Watch(#[from] WatchError),
    #[error("cannot write {} ({source}); is its folder there and writable?", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// A row as it was scored.
#[derive(Debug, Clone, Serialize)]
pub struct ScoredRow {
    #[serde(skip)]
    pub start_ms: i64,
    pub timestamp: String,
    pub value: Option<f64>,
    /// `None` where too little was known.
    pub baseline: Option<f64>,
    pub deviation: Option<f64>,
    pub score: Option<f64>,
    pub threshold: f64,
    /// The id of the moment that begins here.
    pub moment_id: Option<String>,
}

/// How many moments another threshold would have found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ThresholdCount {
    pub threshold: f64,
    pub moments: usize,
    pub per_day: f64,
}

/// What was found. Serialised without the rows, which go into a file of their own.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub key: String,
    pub metric: String,
    pub from: String,
    pub to: String,
    pub step_seconds: f64,
    pub rows: usize,
    pub missing_rows: u64,
    pub scored_rows: usize,
    pub detector: DetectorName,
    pub direction: Direction,
    pub threshold: f64,
    pub baseline_periods: u32,
    pub minimum_history: u32,
    pub cooldown_rows: i64,
    pub floor: Floor,
    pub moments: Vec<Moment>,
    pub thresholds: Vec<ThresholdCount>,
    #[serde(skip)]
    pub scored: Vec<ScoredRow>,
}

/// Reads, scores, writes the files that are asked for, and reports.
pub fn run(options: &Options) -> Result<Report, BacktestError> {
    let path = &options.backtest;
    let file = File::open(path).map_err(|source| BacktestError::Open { path: path.clone(), source })?;
    let series =
        series::read(BufReader::new(file)).map_err(|source| BacktestError::Series { path: path.clone(), source })?;
    let stem = path.file_stem().map_or_else(|| "series".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let report = report(options, &series, options.key.clone().unwrap_or(stem))?;
    if let Some(path) = &options.out {
        write_table(path, &report.scored, ROW_HEADER, row_record)?;
    }
    if let Some(path) = &options.moments {
        write_table(path, &report.moments, MOMENT_HEADER, moment_record)?;
    }
    if let Some(path) = &options.plot {
        let svg = plot::svg(&picture(&report));
        fs::write(path, svg).map_err(|source| BacktestError::Write { path: path.clone(), source })?;
    }
    Ok(report)
}

/// The decision: the whole report from the series, without touching a file.
fn report(options: &Options, series: &Series, key: String) -> Result<Report, BacktestError> {
    let watch = watch(options, series);
    let (scores, moments) = replay(&watch, series, &key)?;
    let threshold = watch.detector.threshold();
    let mut begun = moments.iter().peekable();
    let scored: Vec<ScoredRow> = series
        .points
        .iter()
        .zip(&scores)
        .map(|(point, score)| ScoredRow {
            start_ms: point.start_ms,
            timestamp: format_time(point.start_ms),
            value: point.value,
            baseline: score.map(|score| score.baseline),
            deviation: score.map(|score| score.deviation),
            score: score.map(|score| score.score),
            threshold,
            moment_id: begun
                .next_if(|moment| moment.window_start_ms == point.start_ms)
                .map(|moment| moment.moment_id.clone()),
        })
        .collect();
    let (first_ms, last_ms) = match (series.points.first(), series.points.last()) {
        (Some(first), Some(last)) => (first.start_ms, last.start_ms),
        _ => (0, 0),
    };
    let days = (last_ms - first_ms + series.step_ms) as f64 / 86_400_000.0;
    Ok(Report {
        key,
        metric: watch.measure.clone(),
        from: format_time(first_ms),
        to: format_time(last_ms),
        step_seconds: series.step_ms as f64 / 1e3,
        rows: series.points.len(),
        missing_rows: series.missing_rows,
        scored_rows: scores.iter().flatten().count(),
        detector: watch.detector.name(),
        direction: watch.direction,
        threshold,
        baseline_periods: watch.detector.baseline_periods(),
        minimum_history: watch.minimum_history,
        cooldown_rows: watch.cooldown_ms / series.step_ms,
        floor: watch.floor,
        thresholds: count_by_threshold(&watch, series, days)?,
        moments,
        scored,
    })
}

fn replay(watch: &Watch, series: &Series, key: &str) -> Result<(Vec<Option<Score>>, Vec<Moment>), WatchError> {
    let key: Arc<str> = key.into();
    let mut watcher = Watcher::new("backtest", watch, series.step_ms, series.step_ms)?;
    let mut moments = Vec::new();
    let scores = series
        .points
        .iter()
        .map(|point| {
            let (score, moment) = watcher.observe_scored(&key, point.start_ms, point.value);
            moments.extend(moment);
            score
        })
        .collect();
    Ok((scores, moments))
}

fn count_by_threshold(watch: &Watch, series: &Series, days: f64) -> Result<Vec<ThresholdCount>, WatchError> {
    let mut thresholds = THRESHOLDS.to_vec();
    thresholds.push(watch.detector.threshold());
    thresholds.sort_by(f64::total_cmp);
    thresholds.dedup();
    thresholds
        .into_iter()
        .map(|threshold| {
            let watch = Watch { detector: watch.detector.with_threshold(threshold), ..watch.clone() };
            let moments = replay(&watch, series, "")?.1.len();
            Ok(ThresholdCount { threshold, moments, per_day: moments as f64 / days })
        })
        .collect()
}

/// The shipped watch of the kind, or a plain one, with the given settings in place of its own.
fn watch(options: &Options, series: &Series) -> Watch {
    let detector = options.detector;
    let shipped = match options.kind {
        Some(Kind::ViewerDrop) => Watch::viewer_drop(detector),
        Some(Kind::EmoteSpike) => Watch::emote_spike(detector),
        Some(Kind::ChatSpike) => Watch::chat_spike(detector),
        None => Watch {
            moment_type: "anomaly".to_owned(),
            floor: Floor { absolute: interquartile_range(series) / 10.0, relative: 0.0, poisson: 0.0 },
            ..Watch::chat_spike(detector)
        },
    };
    let baseline_periods = options.baseline_periods.unwrap_or(shipped.detector.baseline_periods());
    let threshold = options.threshold.unwrap_or(shipped.detector.threshold());
    let (detector, minimum_history) = match shipped.detector {
        Detector::Zscore { .. } => (Detector::Zscore { threshold, baseline_periods }, baseline_periods.div_ceil(2)),
        Detector::Quantile { history_periods, probability, .. } => {
            let history_periods = options.history_periods.unwrap_or(history_periods);
            let probability = options.probability.unwrap_or(probability);
            let detector = Detector::Quantile { threshold, baseline_periods, history_periods, probability };
            (detector, shipped.minimum_history.min(history_periods))
        }
    };
    Watch {
        measure: series.name.clone().unwrap_or(UNNAMED.to_owned()),
        direction: options.direction.unwrap_or(shipped.direction),
        detector,
        cooldown_ms: i64::from(options.cooldown.unwrap_or(5)) * series.step_ms,
        minimum_history: options.minimum_history.unwrap_or(minimum_history),
        // A row that is missing is one that nobody measured, whatever it would have been.
        gap: Gap::Missing,
        floor: Floor {
            absolute: options.floor_absolute.unwrap_or(shipped.floor.absolute),
            relative: options.floor_relative.unwrap_or(shipped.floor.relative),
            poisson: options.floor_poisson.unwrap_or(shipped.floor.poisson),
        },
        moment_type: shipped.moment_type,
    }
}

/// How far apart the middle half of the values lies; where that is nothing the whole range, and at last 10.
fn interquartile_range(series: &Series) -> f64 {
    let mut values: Vec<f64> = series.points.iter().filter_map(|point| point.value).collect();
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get((share * values.len() as f64) as usize).or(values.last()).copied().unwrap_or(0.0);
    let ranges = [at(0.75) - at(0.25), at(1.0) - at(0.0)];
    ranges.into_iter().find(|range| *range > 0.0).unwrap_or(10.0)
}

const ROW_HEADER: [&str; 7] = ["timestamp", "value", "baseline", "deviation", "score", "threshold", "moment_id"];

fn row_record(row: &ScoredRow) -> Vec<String> {
    let cell = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    vec![
        row.timestamp.clone(),
        cell(row.value),
        cell(row.baseline),
        cell(row.deviation),
        cell(row.score),
        row.threshold.to_string(),
        row.moment_id.clone().unwrap_or_default(),
    ]
}

const MOMENT_HEADER: [&str; 11] = [
    "moment_id",
    "moment_type",
    "key",
    "metric",
    "window_start",
    "window_end",
    "value",
    "baseline",
    "score",
    "threshold",
    "details",
];

fn moment_record(moment: &Moment) -> Vec<String> {
    vec![
        moment.moment_id.clone(),
        moment.moment_type.clone(),
        moment.key.clone(),
        moment.metric.clone(),
        format_time(moment.window_start_ms),
        format_time(moment.window_end_ms),
        moment.value.to_string(),
        moment.baseline.to_string(),
        moment.score.to_string(),
        moment.threshold.to_string(),
        moment.details.to_string(),
    ]
}

fn write_table<Row: Serialize, const COLUMNS: usize>(
    path: &Path,
    rows: &[Row],
    header: [&str; COLUMNS],
    record: impl Fn(&Row) -> Vec<String>,
) -> Result<(), BacktestError> {
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            serde_json::to_writer_pretty(&mut file, rows)?;
            file.write_all(b"\n")?;
        } else {
            let mut table = csv::Writer::from_writer(&mut file);
            table.write_record(header)?;
            for row in rows {
                table.write_record(record(row))?;
            }
            table.flush()?;
        }
        file.flush()
    };
    write().map_err(|source| BacktestError::Write { path: path.to_owned(), source })
}

fn name(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn picture(report: &Report) -> Picture<'_> {
    Picture {
        title: if report.metric == UNNAMED {
            report.key.clone()
        } else {
            format!("{} · {}", report.key, report.metric)
        },
        subtitle: format!(
            "{} of {} rows, threshold {}: {} moment{} from {} to {}",
            name(report.detector),
            report.baseline_periods,
            report.threshold,
            report.moments.len(),
            if report.moments.len() == 1 { "" } else { "s" },
            report.from,
            report.to,
        ),
        direction: report.direction,
        threshold: report.threshold,
        step_ms: (report.step_seconds * 1e3) as i64,
        rows: &report.scored,
        moments: &report.moments,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rows from {} to {}, one every {} s, {} missing; {} scored by {} against {} rows",
            self.rows,
            self.from,
            self.to,
            self.step_seconds,
            self.missing_rows,
            self.scored_rows,
            name(self.detector),
            self.baseline_periods,
        )?;
        if self.scored_rows == 0 {
            writeln!(f, "no row had a history of {} rows: lower --minimum-history", self.minimum_history)?;
        }
        let Floor { absolute, relative, poisson } = self.floor;
        writeln!(f, "least deviation: absolute {absolute:.4}, relative {relative}, poisson {poisson}\n")?;
        writeln!(f, "{:>9}  {:>7}  {:>7}", "threshold", "moments", "a day")?;
        for count in &self.thresholds {
            let mark = if count.threshold == self.threshold { "  <- chosen" } else { "" };
            writeln!(f, "{:>9}  {:>7}  {:>7.2}{mark}", count.threshold, count.moments, count.per_day)?;
        }
        if self.moments.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{:<24}  {:>12}  {:>12}  {:>7}", "moment", "value", "baseline", "score")?;
        for moment in &self.moments {
            let time = format_time(moment.window_start_ms);
            writeln!(f, "{time:<24}  {:>12.4}  {:>12.4}  {:>7.2}", moment.value, moment.baseline, moment.score)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::fmt::Write;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Cli::parse_from(["anomalies"].iter().chain(arguments)).options
    }

    /// Two days of minutes, a spike of three in each.
    fn csv(name: &str) -> String {
        let mut text = format!("timestamp,{name}\n");
        for minute in 0..2_880 {
            let ordinary = 100 + minute * 7 % 13;
            let value = if minute % 1_440 >= 1_000 && minute % 1_440 < 1_003 { 500 } else { ordinary };
            writeln!(text, "{},{value}", 1_736_899_200 + minute * 60).unwrap();
        }
        text
    }

    #[test]
    fn finds_the_episodes_and_writes_what_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        fs::write(path("load.csv"), csv("requests")).unwrap();
        for detector in ["zscore", "quantile"] {
            let (rows, moments, plot) = (path("rows.csv"), path("moments.json"), path("plot.svg"));
            let files = ["--out", &rows, "--moments", &moments, "--plot", &plot];
            let input = path("load.csv");
            let arguments = [&["--backtest", &input, "--detector", detector][..], &files].concat();
            let report = run(&options(&arguments)).unwrap();
            assert_eq!((report.rows, report.missing_rows, report.step_seconds), (2_880, 0, 60.0));
            assert_eq!((report.key.as_str(), report.metric.as_str()), ("load", "requests"));
            let starts: Vec<String> = report.moments.iter().map(|it| format_time(it.window_start_ms)).collect();
            assert_eq!(starts, ["2025-01-15T16:40:00Z", "2025-01-16T16:40:00Z"], "{detector}");

            let rows = fs::read_to_string(rows).unwrap();
            assert_eq!(rows.lines().count(), 2_881);
            let spike = rows.lines().find(|row| row.starts_with("2025-01-15T16:40:00Z,500,")).unwrap();
            assert!(spike.ends_with(&report.moments[0].moment_id));
            let moments: Vec<serde_json::Value> = serde_json::from_str(&fs::read_to_string(moments).unwrap()).unwrap();
            assert_eq!(moments.len(), 2);
            assert_eq!(moments[0]["moment_type"], "anomaly");
            assert_eq!(fs::read_to_string(plot).unwrap().matches("class=\"rule\"").count(), 2);

            let chosen = report.thresholds.iter().find(|count| count.threshold == report.threshold).unwrap();
            assert_eq!((chosen.moments, chosen.per_day), (2, 1.0));
            assert!(report.thresholds.is_sorted_by(|one, other| one.moments >= other.moments));
            let text = report.to_string();
            assert!(text.contains("<- chosen") && text.contains("2025-01-16T16:40:00Z"), "{text}");
        }
    }

    #[test]
    fn settings_take_the_place_of_a_kinds_own() {
        let series = series::read(csv("n").as_bytes()).unwrap();
        let watch = |arguments: &str| {
            let arguments: Vec<&str> = arguments.split_whitespace().collect();
            watch(&options(&[&["--backtest", "x"], &arguments[..]].concat()), &series)
        };
        let plain = watch("");
        assert_eq!((plain.direction, plain.floor.relative), (Direction::Up, 0.0));
        let drop = watch("--kind viewer_drop");
        assert_eq!(drop.floor, Watch::viewer_drop(DetectorName::Zscore).floor);
        assert_eq!((drop.direction, drop.measure.as_str()), (Direction::Down, "n"));
        let own = watch(
            "--kind viewer_drop --threshold 4 --baseline-periods 20 --direction both --cooldown 7 \
             --minimum-history 20 --floor-absolute 9 --floor-relative 0.5 --floor-poisson 2",
        );
        assert_eq!(own.detector, Detector::Zscore { threshold: 4.0, baseline_periods: 20 });
        assert_eq!(own.floor, Floor { absolute: 9.0, relative: 0.5, poisson: 2.0 });
        assert_eq!((own.direction, own.cooldown_ms, own.minimum_history), (Direction::Both, 420_000, 20));
        let own = watch("--detector quantile --history-periods 60 --probability 0.9");
        assert_eq!((own.detector.name(), own.minimum_history), (DetectorName::Quantile, 60));
    }

    #[test]
    fn a_series_without_spread_or_too_short_is_no_fault() {
        for values in [[5.0; 4], [0.0; 4]] {
            let text: String = (0..).zip(values).map(|(row, value): (i32, f64)| format!("{row},{value}\n")).collect();
            let series = series::read(text.as_bytes()).unwrap();
            let report = report(&options(&["--backtest", "x"]), &series, "k".to_owned()).unwrap();
            assert_eq!((report.scored_rows, report.moments.len()), (0, 0));
            assert!(report.to_string().contains("lower --minimum-history"));
            assert!(plot::svg(&picture(&report)).ends_with("</svg>\n"));
        }
    }

    #[test]
    fn faults_say_which_file_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv").to_string_lossy().into_owned();
        let missing = run(&options(&["--backtest", &path])).unwrap_err();
        assert!(matches!(missing, BacktestError::Open { .. }));
        fs::write(&path, "0,1\n1,1\n2,1\n2,1\n").unwrap();
        let fault = run(&options(&["--backtest", &path])).unwrap_err();
        assert!(matches!(fault, BacktestError::Series { source: SeriesError::NotLater { line: 4, .. }, .. }));
        fs::write(&path, "0,1\n1,1\n2,1\n").unwrap();
        let fault = run(&options(&["--backtest", &path, "--threshold", "0"])).unwrap_err();
        assert!(matches!(fault, BacktestError::Watch(_)));
        let fault = run(&options(&["--backtest", &path, "--out", "/nowhere/rows.csv"])).unwrap_err();
        assert!(matches!(fault, BacktestError::Write { .. }));
    }
}
