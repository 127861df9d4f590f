//! What `doctor` asks of a job: what it writes, whether its progress fits its declaration, whether records are
//! gone that its windows depend on. Asks only.

pub use super::store::{
    Holder, PartitionProgress, StoreError,
    inspect::{Inspector, Progress, Shared},
};

use super::{
    declare,
    resume::{self, Held, Resume},
    store,
};
use crate::{config::model::Job, loss::Loss};

/// The table that a job writes.
pub fn output(job: &Job) -> store::Output {
    declare::output(job)
}

/// What is wrong with a job by itself.
pub fn fault(job: &Job) -> Option<String> {
    declare::plan(job).err().map(|error| error.to_string())
}

/// The error with which a job would refuse to go on, where its windows under way were declared otherwise.
pub fn redeclared(job: &Job, progress: &Progress) -> Option<StoreError> {
    let now = declare::fingerprint(job);
    let was = progress.declaration.clone().filter(|was| *was != now && !progress.partitions.is_empty())?;
    Some(StoreError::Redeclared { job: job.id.clone(), was, now })
}

/// Why a partition cannot be gone on with, given its topic's id, its first offset and its end now.
pub fn loss(job: &str, known: &PartitionProgress, topic_id: &str, first: i64, end: i64) -> Option<Loss> {
    // Where the last record may be there, marks of transactions are what is gone behind it.
    let end = if known.last.is_some_and(|last| last.offset < end) { end.max(known.next_offset) } else { end };
    match resume::resume(job, known, &Held { topic_id: topic_id.to_owned(), first, stable: end, end, compared: None }) {
        Resume::At(_) => None,
        Resume::Lost(lost) => Some(lost.loss),
    }
}
