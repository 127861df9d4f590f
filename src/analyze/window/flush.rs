//! What is committed together.

use super::WindowRow;

/// The progress that a flush vouches for, and from which an engine resumes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// None as long as some partition has never had an event.
    pub watermark_ms: Option<i64>,
    pub partitions: Vec<PartitionProgress>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionProgress {
    pub input: usize,
    pub partition: i32,
    /// Every record below has been counted, reported or passed over.
    pub next_offset: i64,
    /// Where reading begins again after a restart, at most `next_offset`.
    pub replay_offset: i64,
}

/// How many events a closed window misses that came since the last flush; to be added to what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateCount {
    pub window_start_ms: i64,
    pub window_end_ms: i64,
    pub input: usize,
    pub count: i64,
}

/// Rows, late events and the progress they belong to: one commit.
///
/// It stands for itself. While it is being committed the engine may count on; where a commit has failed,
/// the same flush is committed again. Where the outcome is unknown, read the stored progress first:
/// if it equals this one the commit is in.
#[derive(Debug, Clone, PartialEq)]
pub struct Flush {
    /// By start and key, each once. Values are absolute: a row replaces what the table holds.
    pub rows: Vec<WindowRow>,
    pub late: Vec<LateCount>,
    pub progress: Progress,
    /// Rows were left because of the limit: take another flush, provisional or not as this one, at once.
    pub has_more: bool,
}

impl Flush {
    /// The windows that this flush closes, by start and key: what detectors look at. A window is among
    /// these once, late events or not.
    pub fn newly_final(&self) -> impl Iterator<Item = &WindowRow> {
        self.rows.iter().filter(|row| row.is_final && row.revision == 0)
    }
}
