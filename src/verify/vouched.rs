//! What the ledgers of a landing vouch for. Verify believes them only where they speak against the pipeline: what lies
//! below a ledger's offset has landed and is not on its way, and a file beyond it is nobody's.

use super::logs::Logs;
use crate::{
    config::model::LandTable,
    lake::{
        LakeError,
        ledger::{Progress, Recovery},
        ledger_file::{Ledger, Ledgers},
        reader::FileName,
    },
};
use std::{collections::HashMap, path::Path};

/// The ledgers of a topic, read before its files were listed and after.
#[derive(Debug, Default)]
pub struct Vouched {
    topic_id: String,
    before: HashMap<i32, Recovery>,
    after: HashMap<i32, Recovery>,
    pub warnings: Vec<String>,
}

impl Vouched {
    /// `topic_id` is the id of the topic that is compared.
    pub fn begin(land: &LandTable, topic_id: &str) -> Result<Vouched, LakeError> {
        let Ledgers { read, unreadable } = Ledger::read_all(&land.checkpoint_location, &land.topic)?;
        let warnings = unreadable
            .into_iter()
            .map(|(partition, error)| format!("what has landed of partition {partition} is not known: {error}"))
            .collect();
        Ok(Vouched { topic_id: topic_id.to_owned(), before: read, after: HashMap::new(), warnings })
    }

    /// Once the files are listed: whatever was among them had been committed by now.
    pub fn end(&mut self, land: &LandTable) -> Result<(), LakeError> {
        self.after = Ledger::read_all(&land.checkpoint_location, &land.topic)?.read;
        Ok(())
    }

    /// The logs that had been landed before the files were listed.
    pub fn begun(&self) -> Logs {
        Logs::new(&self.before, &self.topic_id)
    }

    /// Those that had been once they were.
    pub fn logs(&self) -> Logs {
        Logs::new(&self.after, &self.topic_id)
    }

    /// The last offset of which the file stood in its place before the listing; none where no ledger says.
    pub fn landed_to(&self, partition: i32) -> Option<i64> {
        let ledger = self.before.get(&partition)?;
        let progress =
            ledger.progress.as_ref().filter(|progress| crate::loss::topic_of(&progress.topic_id) == self.topic_id)?;
        // Files of the last commit that may still be staged name the offsets that it began with.
        let name = |path: &str| FileName::parse(&Path::new(path).file_name()?.to_string_lossy());
        let pending = ledger.pending.iter().filter_map(|file| Some(name(&file.path)?.first_offset)).min();
        Some(pending.unwrap_or(progress.next) - 1)
    }

    /// The offset that a file lies beyond, where its ledger does not know it.
    pub fn lies_beyond(&self, file: &FileName) -> Option<i64> {
        let Progress { generation, next, .. } = self.after.get(&file.partition)?.progress.as_ref()?;
        let is_beyond = file.generation > *generation || (file.generation == *generation && file.last_offset >= *next);
        is_beyond.then_some(*next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::ledger::{LedgerFile, Root};

    fn ledger(topic_id: &str, next: i64, pending: &[&str]) -> Recovery {
        let file = |name: &&str| LedgerFile {
            staged: String::new(),
            root: Root::Table,
            path: format!("date=2025-01-15/{name}"),
            rows: 1,
            bytes: 1,
            crc32c: 0,
        };
        let progress = Progress { topic_id: topic_id.to_owned(), generation: 1, epoch: 1, next, ..Progress::default() };
        Recovery { progress: Some(progress), pending: pending.iter().map(file).collect(), good: 0 }
    }

    #[test]
    fn below_its_offset_all_has_landed_and_beyond_it_nothing() {
        let name = |name: &str| FileName::parse(name).unwrap();
        let partitions = [
            (0, ledger("id", 20, &[])),
            (1, ledger("id", 20, &["part-t-1-10-19-0-r1.parquet"])),
            (2, ledger("another", 20, &[])),
        ];
        let vouched = Vouched {
            topic_id: "id".to_owned(),
            before: HashMap::from(partitions.clone()),
            after: HashMap::from(partitions),
            warnings: Vec::new(),
        };
        assert_eq!([0, 1, 2, 3].map(|partition| vouched.landed_to(partition)), [Some(19), Some(9), None, None]);
        for (file, beyond) in [
            ("part-t-0-10-19-0-r1.parquet", None),
            ("part-t-0-10-20-0-r1.parquet", Some(20)),
            ("part-t-0-0-9-0-r2.parquet", Some(20)),
            ("part-t-0-90-99-0.parquet", None),
            ("part-t-3-90-99-0.parquet", None),
        ] {
            assert_eq!(vouched.lies_beyond(&name(file)), beyond, "{file}");
        }
    }
}
