//! Which log the files of a landing are of, by the losses that somebody has accepted: a topic may have been made anew,
//! or brokers may have lost the end of its log, which has grown again since. Files keep what had landed by then.

use crate::{
    lake::{
        ledger::{Common, Progress, Recovery},
        reader::FileName,
    },
    loss,
};
use std::collections::HashMap;

/// By partition.
#[derive(Debug, Clone, Default)]
pub struct Logs(HashMap<i32, Log>);

#[derive(Debug, Clone, Default)]
struct Log {
    /// Where its ledger is of the topic that is compared.
    progress: Option<Progress>,
    /// The greatest that any file has.
    generation: u32,
}

impl Logs {
    /// `topic_id` is the id of the topic that is compared.
    pub fn new(ledgers: &HashMap<i32, Recovery>, topic_id: &str) -> Logs {
        let of = |recovery: &Recovery| {
            recovery.progress.clone().filter(|progress| loss::topic_of(&progress.topic_id) == topic_id)
        };
        Logs(ledgers.iter().map(|(id, ledger)| (*id, Log { progress: of(ledger), generation: 0 })).collect())
    }

    pub fn add(&mut self, file: &FileName) {
        let log = self.0.entry(file.partition).or_default();
        log.generation = file.generation.max(log.generation);
    }

    /// What files of a generation have in common with the log that is there now.
    pub fn common(&self, partition: i32, generation: u32) -> Common {
        match self.0.get(&partition) {
            Some(Log { progress: Some(progress), .. }) => progress.common(generation),
            Some(log) if generation < log.generation => Common::NOTHING,
            _ => Common::ALL,
        }
    }

    fn progress(&self) -> impl Iterator<Item = (&i32, &Progress)> {
        self.0.iter().filter_map(|(partition, log)| Some((partition, log.progress.as_ref()?)))
    }

    /// Whether records are gone that the source may still have, and that the lake may.
    pub fn have_lost(&self) -> bool {
        self.progress().any(|(_, progress)| progress.generation > 0 || !progress.losses.is_empty())
    }

    /// Offsets that were deleted before they had landed.
    pub fn deleted(&self) -> u64 {
        self.progress().map(|(_, progress)| progress.deleted()).sum()
    }

    /// The records of a partition before this offset may be some that were passed over, for nobody could tell whether
    /// they had landed.
    pub fn unsure_to(&self, partition: i32) -> i64 {
        let log = self.0.get(&partition).and_then(|log| log.progress.as_ref());
        log.map_or(0, Progress::unsure_to)
    }
}
