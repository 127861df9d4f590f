//! Where a partition is read on from: decided from what is stored and from what Kafka holds. Pure.

use super::store::PartitionProgress;
use crate::{
    kafka::partitions::Compared,
    loss::{self, Loss},
};

/// What Kafka says of a partition now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub topic_id: String,
    /// First offset that is there.
    pub first: i64,
    /// Where the next committed record will stand: a transaction that is open holds it back.
    pub stable: i64,
    /// Where the next record of anybody will stand.
    pub end: i64,
    /// Whether the log is the one that was read, where its last record is known and still held.
    pub compared: Option<Compared>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    At(PartitionProgress),
    /// Records are gone that windows depend on, or others stand where those were.
    Lost(Box<Lost>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub loss: Loss,
    /// Where it is gone on from once the loss is accepted.
    pub accepted: PartitionProgress,
}

pub fn resume(job: &str, known: &PartitionProgress, held: &Held) -> Resume {
    let PartitionProgress { topic, partition, topic_id, next_offset, replay_offset, last } = known;
    let (next, replay, first) = (*next_offset, *replay_offset, held.first);
    let lost = |to: &str, what, accepted: (String, i64, i64)| {
        let name = Loss::name(job, topic, *partition, next, to);
        let loss = Loss { name, what, then: "to go on with what is there".to_owned() };
        let (topic_id, next_offset, replay_offset) = accepted;
        let accepted = PartitionProgress { topic_id, next_offset, replay_offset, last: None, ..known.clone() };
        Resume::Lost(Box::new(Lost { loss, accepted }))
    };
    if loss::topic_of(topic_id) != held.topic_id {
        let what = format!(
            "topic {topic} was deleted and made anew since the last window: what its partition {partition} held from \
             offset {next} on is lost"
        );
        return lost(&held.topic_id, what, (held.topic_id.clone(), first, first));
    }
    let common = match held.compared {
        Some(Compared::Same { .. }) => None,
        Some(Compared::Other { common }) => Some(common),
        None => (next > held.stable).then_some(None),
    };
    if let Some(common) = common {
        let parted = common.unwrap_or(held.end).min(next).max(first);
        let log_id = loss::next_log(topic_id);
        let what = format!(
            "{topic}-{partition} is not the log that was read: everything before offset {next} was counted, but the \
             brokers have lost the records from {parted} on, and others come in their place"
        );
        // What both logs hold is there for the windows under way.
        return lost(&loss::log_name(&log_id), what, (log_id.clone(), parted, replay.max(first).min(parted)));
    }
    if first > replay {
        let what = format!(
            "records {replay} to {} of {topic}-{partition} are gone before their windows were final (the topic's \
             retention is too short)",
            first - 1
        );
        return lost(&first.to_string(), what, (topic_id.clone(), next.max(first), first));
    }
    // Behind the last record stood marks of transactions, which have gone with the end of the log.
    let next_offset = match held.compared {
        Some(Compared::Same { next: behind }) => next.min(behind),
        _ => next,
    };
    let (replay_offset, last) = (replay.min(next_offset), last.filter(|last| last.offset >= first));
    Resume::At(PartitionProgress { next_offset, replay_offset, last, ..known.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::consumer::LastRecord;

    fn known() -> PartitionProgress {
        PartitionProgress {
            topic: "chat".into(),
            partition: 2,
            topic_id: "id".into(),
            next_offset: 100,
            replay_offset: 80,
            last: Some(LastRecord { offset: 98, leader_epoch: 3 }),
        }
    }

    fn held(first: i64, end: i64) -> Held {
        Held { topic_id: "id".into(), first, stable: end, end, compared: None }
    }

    fn other(common: Option<i64>) -> Option<Compared> {
        Some(Compared::Other { common })
    }

    #[test]
    fn goes_on_while_the_records_are_there() {
        for held in [held(0, 100), held(80, 200)] {
            assert_eq!(resume("job", &known(), &held), Resume::At(known()));
        }
    }

    /// What stands there now is read, and counts once.
    #[test]
    fn marks_that_are_gone_are_no_loss() {
        for (next, next_offset, replay_offset) in [(99, 99, 80), (100, 100, 80), (140, 100, 80)] {
            let held = Held { compared: Some(Compared::Same { next }), ..held(0, 99) };
            let at = PartitionProgress { next_offset, replay_offset, ..known() };
            assert_eq!(resume("job", &known(), &held), Resume::At(at));
        }
        let all_final = PartitionProgress { replay_offset: 100, ..known() };
        let held = Held { compared: Some(Compared::Same { next: 99 }), ..held(0, 99) };
        let at = PartitionProgress { next_offset: 99, replay_offset: 99, ..known() };
        assert_eq!(resume("job", &all_final, &held), Resume::At(at));
    }

    #[test]
    fn every_loss_has_its_name_and_its_way_on() {
        let cases = [
            (Held { topic_id: "new".into(), ..held(7, 500) }, "job:chat/2@100-new", ("new", 7, 7)),
            (held(90, 200), "job:chat/2@100-90", ("id", 100, 90)),
            (held(150, 200), "job:chat/2@100-150", ("id", 150, 150)),
            // The offset is beyond the end: nobody knows what below it was counted.
            (held(0, 90), "job:chat/2@100-log1", ("id+1", 90, 80)),
            (held(0, 40), "job:chat/2@100-log1", ("id+1", 40, 40)),
            (Held { compared: other(Some(60)), ..held(0, 300) }, "job:chat/2@100-log1", ("id+1", 60, 60)),
            (Held { compared: other(Some(95)), ..held(90, 300) }, "job:chat/2@100-log1", ("id+1", 95, 90)),
            (Held { compared: other(None), ..held(0, 300) }, "job:chat/2@100-log1", ("id+1", 100, 80)),
            // An open transaction hides what may have been counted.
            (Held { compared: other(Some(60)), stable: 40, ..held(0, 70) }, "job:chat/2@100-log1", ("id+1", 60, 60)),
            (Held { compared: other(None), stable: 40, ..held(0, 90) }, "job:chat/2@100-log1", ("id+1", 90, 80)),
            (Held { stable: 40, ..held(0, 300) }, "job:chat/2@100-log1", ("id+1", 100, 80)),
        ];
        for (held, name, (id, next_offset, replay_offset)) in cases {
            let Resume::Lost(lost) = resume("job", &known(), &held) else { panic!("{held:?}") };
            let accepted = PartitionProgress { topic_id: id.into(), next_offset, replay_offset, last: None, ..known() };
            assert_eq!((lost.loss.name.as_str(), lost.accepted), (name, accepted), "{held:?}");
        }
    }
}
