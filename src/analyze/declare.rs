//! A job of the configuration as its parts want it: the engine's plan, the table, the watches.

use super::{
    anomaly::{Detector, DetectorName, Direction, Floor, Gap, Watch},
    store,
    window::{Declaration, Plan, PlanError},
};
use crate::config::model::{self, Function, Job};
use serde_json::json;

/// About so many rows are handed to PostgreSQL at once.
const FLUSH_ROWS: usize = 20_000;

pub fn plan(job: &Job) -> Result<Plan, PlanError> {
    Plan::new(Declaration {
        size_ms: job.window_ms,
        slide_ms: job.slide_ms,
        watermark_delay_ms: job.watermark_delay_ms,
        allowed_lateness_ms: job.allowed_lateness_ms,
        idle_timeout_ms: job.idle_timeout_ms,
        max_future_ms: job.max_future_ms,
        distinct_exact_limit: job.distinct_exact_limit,
        counts_limit: job.counts_limit,
        flush_rows_limit: FLUSH_ROWS,
        inputs: job.inputs.len(),
        join: job.join,
        measures: job.measures.clone(),
    })
}

/// All that the content of a window depends on, as JSON. What only says when a row is written is left out.
pub fn fingerprint(job: &Job) -> String {
    let inputs: Vec<_> = job
        .inputs
        .iter()
        .map(|input| json!([input.topic, input.key, input.timestamp, input.id, input.tokens]))
        .collect();
    let measures: Vec<_> =
        job.measures.iter().map(|measure| json!([measure.column, measure.input, measure.function])).collect();
    json!({
        "table": job.table,
        "window_ms": job.window_ms,
        "slide_ms": job.slide_ms,
        "allowed_lateness_ms": job.allowed_lateness_ms,
        "join": job.join,
        "emote_sentiment": job.emote_sentiment,
        "inputs": inputs,
        "measures": measures,
    })
    .to_string()
}

pub fn output(job: &Job) -> store::Output {
    store::Output {
        schema: None,
        table: job.table.clone(),
        key_column: job.key_column.clone(),
        measures: job
            .measures
            .iter()
            .map(|measure| store::Measure {
                column: measure.column.clone(),
                kind: kind(&measure.function),
                is_nullable: is_nullable(&measure.function),
            })
            .collect(),
    }
}

fn kind(function: &Function) -> store::Kind {
    use Function::{
        Avg, Count, Counts, Distinct, Max, Min, Rate, SentimentAvg, SentimentNegative, SentimentPositive, Sum, TopK,
    };
    match function {
        Count | Distinct { .. } | SentimentPositive { .. } | SentimentNegative { .. } => store::Kind::Integer,
        Rate | Sum { .. } | Avg { .. } | Min { .. } | Max { .. } | SentimentAvg { .. } => store::Kind::Float,
        TopK { .. } => store::Kind::TextList,
        Counts { .. } => store::Kind::Counts,
    }
}

/// Whether a window may have no value.
fn is_nullable(function: &Function) -> bool {
    use Function::{Avg, Max, Min, SentimentAvg, Sum};
    matches!(function, Sum { .. } | Avg { .. } | Min { .. } | Max { .. } | SentimentAvg { .. })
}

/// A watch of this job, with the shipped values of its detector where the configuration has none.
pub fn watch(job: &Job, anomaly: &model::Anomaly) -> Watch {
    let name = match anomaly.detector {
        model::Detector::Zscore => DetectorName::Zscore,
        model::Detector::Quantile => DetectorName::Quantile,
    };
    let shipped = Watch::chat_spike(name);
    let periods = anomaly.baseline_periods.unwrap_or(shipped.detector.baseline_periods());
    let limit = anomaly.threshold.unwrap_or(shipped.detector.threshold());
    let detector = match shipped.detector {
        Detector::Zscore { .. } => Detector::Zscore { threshold: limit, baseline_periods: periods },
        Detector::Quantile { history_periods, probability, .. } => Detector::Quantile {
            threshold: limit,
            baseline_periods: periods,
            history_periods: anomaly.history_periods.unwrap_or(history_periods),
            probability,
        },
    };
    let measure = job.measures.iter().find(|measure| measure.column == anomaly.measure);
    let is_zero = measure.is_none_or(|measure| measure.function.is_zero_when_empty());
    Watch {
        moment_type: anomaly.moment.clone(),
        measure: anomaly.measure.clone(),
        direction: match anomaly.direction {
            model::Direction::Up => Direction::Up,
            model::Direction::Down => Direction::Down,
            model::Direction::Both => Direction::Both,
        },
        detector,
        cooldown_ms: anomaly.cooldown_ms,
        // A short baseline asks for no more history than it has.
        minimum_history: anomaly.minimum_history.unwrap_or(match name {
            DetectorName::Zscore => shipped.minimum_history.min(periods),
            DetectorName::Quantile => shipped.minimum_history,
        }),
        gap: if is_zero { Gap::Zero } else { Gap::Missing },
        floor: Floor {
            absolute: anomaly.floor_absolute.unwrap_or(shipped.floor.absolute),
            relative: anomaly.floor_relative.unwrap_or(shipped.floor.relative),
            poisson: anomaly.floor_poisson.unwrap_or(shipped.floor.poisson),
        },
    }
}
