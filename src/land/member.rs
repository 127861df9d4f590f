//! The name by which a process joins the consumer group of a topic.
//!
//! A process that was killed stays a member until its session times out, and its partitions wait for
//! it. One that comes back under the same name gets them at once. The names are slots, each with a
//! lock file: the kernel frees the slot of a killed process, its successor takes it, and two live
//! processes never have the same one.

use crate::{
    config::model::LandTable,
    lake::{
        directory,
        lock::{self, Attempt, Lock},
    },
};

/// Processes of one host that can land the same topic with a name each.
const SLOTS: u32 = 64;

pub struct Member {
    /// `group.instance.id`
    pub name: String,
    _slot: Lock,
}

impl Member {
    /// The first free slot. `None` where there is none, or the directory cannot be written: the
    /// process then joins without a name, and only a restart after a crash takes longer.
    pub fn take(table: &LandTable) -> Option<Member> {
        directory::create_synced(&table.checkpoint_location).ok()?;
        (0..SLOTS).find_map(|slot| {
            let path = table.checkpoint_location.join(format!("{}.member-{slot}.lock", table.topic));
            match lock::acquire_file(&path) {
                // Hosts may share a group without sharing these files.
                Ok(Attempt::Held(held)) => Some(Member { name: format!("{}-{slot}", lock::host()), _slot: held }),
                _ => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::LandSchema;

    #[test]
    fn live_members_have_names_of_their_own_and_a_successor_takes_over_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let table = LandTable {
            topic: "orders".into(),
            path: directory.path().join("t"),
            checkpoint_location: directory.path().join("c"),
            dead_letter_path: directory.path().join("d"),
            schema: LandSchema::File("s".into()),
            date_column: "created_at".into(),
            not_null: vec![],
            non_negative: vec![],
            numeric_precision: 38,
            numeric_scale: 18,
            overflow_column: None,
            metadata_columns: false,
            rename: Default::default(),
            allow_network_file_system: false,
        };
        let (first, second) = (Member::take(&table).unwrap(), Member::take(&table).unwrap());
        assert_ne!(first.name, second.name);
        let name = first.name.clone();
        drop(first);
        assert_eq!(Member::take(&table).unwrap().name, name);
    }
}
