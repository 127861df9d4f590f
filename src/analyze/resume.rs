//! Where a partition is read on from: decided from what is stored and from what Kafka holds. Pure.

use super::store::PartitionProgress;
use crate::loss::{self, Loss};

/// What Kafka says of a partition now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub topic_id: String,
    /// First offset that is there.
    pub first: i64,
    /// Where the next record will stand.
    pub end: i64,
    /// Set where the log is not the one that was read: where the two part, as far as that is known.
    pub parted: Option<Option<i64>>,
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
    let is_beyond = next > held.end;
    if held.parted.is_some() || is_beyond {
        let parted = held.parted.flatten().unwrap_or(held.end).min(held.end).min(next).max(first);
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
    Resume::At(PartitionProgress { last: last.filter(|last| last.offset >= first), ..known.clone() })
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
        Held { topic_id: "id".into(), first, end, parted: None }
    }

    #[test]
    fn goes_on_while_the_records_are_there() {
        for held in [held(0, 100), held(80, 200)] {
            assert_eq!(resume("job", &known(), &held), Resume::At(known()));
        }
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
            (Held { parted: Some(Some(60)), ..held(0, 300) }, "job:chat/2@100-log1", ("id+1", 60, 60)),
            (Held { parted: Some(Some(95)), ..held(90, 300) }, "job:chat/2@100-log1", ("id+1", 95, 90)),
            (Held { parted: Some(None), ..held(0, 300) }, "job:chat/2@100-log1", ("id+1", 100, 80)),
        ];
        for (held, name, (id, next_offset, replay_offset)) in cases {
            let Resume::Lost(lost) = resume("job", &known(), &held) else { panic!("{held:?}") };
            let accepted = PartitionProgress { topic_id: id.into(), next_offset, replay_offset, last: None, ..known() };
            assert_eq!((lost.loss.name.as_str(), lost.accepted), (name, accepted), "{held:?}");
        }
    }
}
