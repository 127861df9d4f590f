//! What `analyze` is told: jobs, each a declaration of keyed event-time windows over topics.

use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analyze {
    /// Whether the tables that headwater owns are created and brought up to date at start.
    pub migrate: bool,
    /// Where all tables are; the first schema of the role's `search_path` when absent.
    pub schema: Option<String>,
    /// Whether a missing table of windows is created.
    pub create_tables: bool,
    /// Most connections to PostgreSQL of one job, the one of its lock aside.
    pub pool_size: usize,
    /// How long moments, late events and dead letters are kept; no shorter than any job's windows.
    pub history_retention_days: u32,
    pub jobs: Vec<Job>,
}

/// Windows over the inputs, joined by key and window, into one table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    pub name: String,
    /// Under which progress is kept: of the pipeline's name and the job's.
    pub id: String,
    /// The table of the windows.
    pub table: String,
    pub key_column: String,
    /// The first is the left side of the join.
    pub inputs: Vec<Input>,
    pub join: Join,
    pub window_ms: i64,
    /// As the window: tumbling.
    pub slide_ms: i64,
    pub refresh_ms: i64,
    pub watermark_delay_ms: i64,
    pub allowed_lateness_ms: i64,
    pub idle_timeout_ms: i64,
    pub max_future_ms: i64,
    /// Above it a distinct count of one key and pane is estimated.
    pub distinct_exact_limit: usize,
    /// Whether emotes count for the sentiment, beside VADER's own words.
    pub emote_sentiment: bool,
    /// Most different values that one window keeps counts of.
    pub counts_limit: usize,
    /// Bound on the memory of open windows, about.
    pub max_state_bytes: usize,
    pub retention_days: u32,
    pub measures: Vec<Measure>,
    pub anomalies: Vec<Anomaly>,
}

/// Which windows of a key become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// Where the first input has an event.
    #[default]
    Left,
    /// Where any input has an event.
    Full,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Input {
    pub name: String,
    pub topic: String,
    /// Field of the key: a text or a whole number.
    pub key: String,
    /// Field of the event time: ISO-8601 with a zone.
    pub timestamp: String,
    /// Field of an id by which an event that comes twice is told.
    pub id: Option<String>,
    /// List fields that are taken from a text where they are absent.
    pub tokens: Vec<Tokens>,
    pub partitions: i32,
    pub replication: i32,
    pub retention_ms: i64,
}

/// Where `field` is absent: the words of `from` that are among `words`, capitals as they are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tokens {
    pub field: String,
    pub from: String,
    pub words: Vec<String>,
}

/// One column of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measure {
    pub column: String,
    /// Index of the input whose events it measures.
    pub input: usize,
    pub function: Function,
}

/// What is measured of an input's events in a window. Fields that are null or of another kind are
/// passed over, as in SQL; without any value the numbers are `Value::Null`, the counts zero or empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// Events: `Value::Integer`.
    Count,
    /// Events per second of the window: `Value::Float`.
    Rate,
    /// `Value::Float`, added in steps of 1e-9, so that the order of events does not matter.
    Sum {
        field: String,
    },
    Avg {
        field: String,
    },
    Min {
        field: String,
    },
    Max {
        field: String,
    },
    /// Different values, of a list its elements: `Value::Integer`.
    Distinct {
        field: String,
    },
    /// The most frequent values, those equally frequent by their bytes: `Value::TextList`.
    TopK {
        field: String,
        k: usize,
    },
    /// How often each value came, in the same order: `Value::Counts`.
    Counts {
        field: String,
    },
    /// Mean of the sentiment scores, in steps of 1e-4: `Value::Float`.
    SentimentAvg {
        field: String,
    },
    /// Scores of 0.05 and above: `Value::Integer`.
    SentimentPositive {
        field: String,
    },
    /// Scores of -0.05 and below: `Value::Integer`.
    SentimentNegative {
        field: String,
    },
}

impl Function {
    /// As the configuration spells it.
    pub fn name(&self) -> &'static str {
        match self {
            Function::Count => "count",
            Function::Rate => "rate",
            Function::Sum { .. } => "sum",
            Function::Avg { .. } => "avg",
            Function::Min { .. } => "min",
            Function::Max { .. } => "max",
            Function::Distinct { .. } => "distinct",
            Function::TopK { .. } => "top_k",
            Function::Counts { .. } => "counts",
            Function::SentimentAvg { .. } => "sentiment_avg",
            Function::SentimentPositive { .. } => "sentiment_positive",
            Function::SentimentNegative { .. } => "sentiment_negative",
        }
    }

    /// Whether a window without events has a value, which is zero.
    pub fn is_zero_when_empty(&self) -> bool {
        use Function::{Avg, Max, Min, SentimentAvg};
        !matches!(self, Avg { .. } | Min { .. } | Max { .. } | SentimentAvg { .. })
    }
}

/// What is watched, and how. The detectors are those of [`crate::analyze::anomaly`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Anomaly {
    /// Kind of the moments.
    pub moment: String,
    /// Column of the measure; of counts, their total.
    pub measure: String,
    pub direction: Direction,
    pub detector: Detector,
    /// The detector's own where none is given, as with all that follow.
    pub threshold: Option<f64>,
    pub baseline_periods: Option<u32>,
    pub history_periods: Option<u32>,
    pub minimum_history: Option<u32>,
    pub cooldown_ms: i64,
    /// The least deviation: in the measure's unit, as a share of the baseline, as a multiple of its root.
    pub floor_absolute: Option<f64>,
    pub floor_relative: Option<f64>,
    pub floor_poisson: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Up,
    Down,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    Zscore,
    Quantile,
}
