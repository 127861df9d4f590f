//! What comes in and what goes out.

use std::sync::Arc;

/// One record of an input, as far as the window's declaration reads it.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    pub key: &'a str,
    /// Since 1970 UTC.
    pub timestamp_ms: i64,
    /// What tells copies of an event; without it every record counts.
    pub id: Option<&'a [u8]>,
    /// As [`super::Plan::fields`] of the input lists them.
    pub values: &'a [Field<'a>],
}

/// A field of an event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Field<'a> {
    Null,
    Integer(i64),
    /// Also a sentiment score.
    Float(f64),
    Text(&'a str),
    TextList(&'a [&'a str]),
}

/// One column of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    Float(f64),
    TextList(Vec<String>),
    Counts(Vec<(String, i64)>),
}

/// A window of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowRow {
    pub key: Arc<str>,
    pub start_ms: i64,
    pub end_ms: i64,
    /// As the plan's measures.
    pub values: Vec<Value>,
    /// The watermark has passed the window's end.
    pub is_final: bool,
    /// 1 where late events change a window that was final before, else 0. The count is the table's to
    /// keep, since it outlives the engine: a final row that replaces a final row has one more than that.
    pub revision: i32,
    /// Whether a value is an estimate.
    pub is_approximate: bool,
}

/// What became of an event. Every record is exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// In every window that holds it.
    Counted,
    /// In the windows that are still open; those that had closed miss it, and list it as late.
    PartlyLate,
    /// Every window that would hold it had closed.
    Late,
    /// Its id is already in an open window.
    Duplicate,
    /// Its timestamp is further ahead of the clock than `max_future`. It is in no window. The clock is that of
    /// the first reading: whoever reads it again knows by its dead letter that it was refused.
    Future,
    /// A flush before has vouched for it, or the engine has seen its offset: nothing to count or report.
    /// If its pane is open it has taken its place there again.
    Replayed,
}
