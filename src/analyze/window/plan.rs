//! What is to be counted: the declaration of a window, checked and compiled.

use super::{grid::Grid, layout::Layout};
use crate::config::model::{Function, Join, Measure};

/// More panes than this in one window would make each row a long merge.
const PANES_LIMIT: i64 = 3_600;
/// 34 years. Sums of times stay far from the ends of `i64`.
const LONGEST_MS: i64 = 1 << 40;

/// A window as it is declared. All times in milliseconds.
#[derive(Debug, Clone)]
pub struct Declaration {
    pub size_ms: i64,
    /// Equal to the size for tumbling windows. Windows begin at multiples of it since 1970 UTC.
    pub slide_ms: i64,
    /// How far events of a partition may stand out of order: its watermark is its newest timestamp less this.
    pub watermark_delay_ms: i64,
    /// How long past its end, on the watermark, a window still takes late events as revisions.
    pub allowed_lateness_ms: i64,
    pub idle_timeout_ms: i64,
    /// An event further ahead of the clock than this is refused.
    pub max_future_ms: i64,
    /// More distinct values than this in one pane (the slide, mostly) are estimated.
    pub distinct_exact_limit: usize,
    /// Most different values that a measure counts in one pane, and that one row shows.
    pub counts_limit: usize,
    /// About how many rows one flush holds at most. The watermark waits for a flush when final rows of
    /// more than this would come due.
    pub flush_rows_limit: usize,
    /// How many inputs there are. The first is the left side of the join.
    pub inputs: usize,
    pub join: Join,
    pub measures: Vec<Measure>,
}

/// A place in [`super::Event::values`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldSlot {
    pub field: String,
    pub reading: Reading,
}

/// What of a field an event brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Its value.
    Value,
    /// The sentiment score of its text, −1 to 1, which all sentiment measures of the field share.
    Sentiment,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("{name} is {value_ms} ms: it must be from {least_ms} to {LONGEST_MS} ms")]
    Duration { name: &'static str, value_ms: i64, least_ms: i64 },
    #[error(
        "windows of {size_ms} ms that slide by {slide_ms} ms leave events between them: \
         make the slide at most the size"
    )]
    Gaps { size_ms: i64, slide_ms: i64 },
    #[error(
        "windows of {size_ms} ms that slide by {slide_ms} ms have {panes} panes each, more than {PANES_LIMIT}: \
         choose a slide that divides the size, or a longer one"
    )]
    Panes { size_ms: i64, slide_ms: i64, panes: i64 },
    #[error("{name} is 0: it must be at least 1")]
    Zero { name: &'static str },
    #[error("a window without measures writes nothing: declare at least one measure")]
    NoMeasures,
    #[error("measure {column} reads input {input}, but there are {inputs}: count inputs from 0")]
    NoInput { column: String, input: usize, inputs: usize },
    #[error("measure {column} keeps 0 values: set k to at least 1")]
    NoValues { column: String },
}

/// A checked declaration.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) grid: Grid,
    pub(super) layout: Layout,
    pub(super) declaration: Declaration,
}

impl Plan {
    pub fn new(declaration: Declaration) -> Result<Plan, PlanError> {
        check_times(&declaration)?;
        check_limits(&declaration)?;
        let grid = Grid::new(declaration.size_ms, declaration.slide_ms, declaration.allowed_lateness_ms);
        let panes = grid.panes_per_window();
        if panes > PANES_LIMIT {
            let Declaration { size_ms, slide_ms, .. } = declaration;
            return Err(PlanError::Panes { size_ms, slide_ms, panes });
        }
        let layout = Layout::new(declaration.inputs, &declaration.measures);
        Ok(Plan { grid, layout, declaration })
    }

    /// What `Event::values` of an input's events holds, in this order: each field once, however many
    /// measures read it.
    pub fn fields(&self, input: usize) -> &[FieldSlot] {
        self.layout.fields(input)
    }

    /// The begin of the first window that a watermark has not made final.
    pub fn not_final_from_ms(&self, watermark_ms: i64) -> i64 {
        self.grid.start_ms(self.grid.last_final(watermark_ms) + 1)
    }

    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }
}

fn check_times(declaration: &Declaration) -> Result<(), PlanError> {
    let Declaration { size_ms, slide_ms, .. } = *declaration;
    for (name, value_ms, least_ms) in [
        ("size", size_ms, 1),
        ("slide", slide_ms, 1),
        ("watermark_delay", declaration.watermark_delay_ms, 0),
        ("allowed_lateness", declaration.allowed_lateness_ms, 0),
        ("idle_timeout", declaration.idle_timeout_ms, 1),
        ("max_future", declaration.max_future_ms, 0),
    ] {
        if !(least_ms..=LONGEST_MS).contains(&value_ms) {
            return Err(PlanError::Duration { name, value_ms, least_ms });
        }
    }
    if slide_ms > size_ms { Err(PlanError::Gaps { size_ms, slide_ms }) } else { Ok(()) }
}

fn check_limits(declaration: &Declaration) -> Result<(), PlanError> {
    for (name, value) in [
        ("inputs", declaration.inputs),
        ("distinct_exact_limit", declaration.distinct_exact_limit),
        ("counts_limit", declaration.counts_limit),
        ("flush_rows_limit", declaration.flush_rows_limit),
    ] {
        if value == 0 {
            return Err(PlanError::Zero { name });
        }
    }
    if declaration.measures.is_empty() {
        return Err(PlanError::NoMeasures);
    }
    for Measure { column, input, function } in &declaration.measures {
        let (input, inputs) = (*input, declaration.inputs);
        if input >= inputs {
            return Err(PlanError::NoInput { column: column.clone(), input, inputs });
        }
        if matches!(function, Function::TopK { k: 0, .. }) {
            return Err(PlanError::NoValues { column: column.clone() });
        }
    }
    Ok(())
}
