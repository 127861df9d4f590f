//! Where a partition is read on from: decided from its ledger and from what Kafka holds. Pure.

use crate::{
    kafka::consumer::LastRecord,
    lake::ledger::{AcceptedLoss, Progress},
    loss::{self, Loss},
};

/// What Kafka says of a partition now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub topic_id: String,
    /// First offset that is there.
    pub low: i64,
    /// Where the next committed record will stand: a transaction that is open holds it back.
    pub stable: i64,
    /// Where the next record of anybody will stand.
    pub high: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    At(Start),
    /// Records are gone that never landed, or others stand where those were that have.
    Lost(Box<Lost>),
}

/// Where reading begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub log_id: String,
    pub generation: u32,
    /// Everything before it has landed.
    pub offset: i64,
    /// Where Kafka is to be asked from, and the epoch by which it tells whether the log is still the one that was
    /// read: behind the last record, for what stands between it and `offset` (marks of transactions) has an epoch
    /// that nobody was told.
    pub fetch_offset: i64,
    pub leader_epoch: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub loss: Loss,
    /// Where it is gone on at once the loss is accepted.
    pub accepted: Start,
    /// Whether nobody knows which of the records before that have landed.
    pub is_unsure: bool,
}

impl Start {
    /// What the ledger keeps of the loss after which reading begins here; `progress` is that before.
    pub fn note(&self, progress: &Progress, is_unsure: bool) -> AcceptedLoss {
        let Start { log_id, generation, offset, .. } = self.clone();
        AcceptedLoss {
            topic_id: log_id,
            topic_id_before: Some(progress.topic_id.clone()),
            next: progress.next,
            offset,
            generation,
            is_unsure,
        }
    }
}

/// What the end of a log is gone with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// Marks of transactions, which stood behind the last record: all that has landed is there, and nothing that is
    /// there was passed over.
    Marks(Start),
    Records(Box<Lost>),
}

fn plain(log_id: String, generation: u32, offset: i64) -> Start {
    Start { log_id, generation, offset, fetch_offset: offset, leader_epoch: None }
}

pub fn resume(topic: &str, partition: i32, progress: Option<&Progress>, held: &Held) -> Resume {
    let Some(progress) = progress else { return Resume::At(plain(held.topic_id.clone(), 0, held.low)) };
    let next = progress.next;
    let lost = |to: &str, what, then: String, accepted| {
        let name = Loss::name("", topic, partition, next, to);
        Resume::Lost(Box::new(Lost { loss: Loss { name, what, then }, accepted, is_unsure: false }))
    };
    let known_id = loss::topic_of(&progress.topic_id);
    if known_id != held.topic_id {
        let what = format!(
            "topic {topic} was deleted and made again (its id was {known_id}, now it is {}): what its partition \
             {partition} held from offset {next} on is lost, unless nothing was there",
            held.topic_id
        );
        let accepted = plain(held.topic_id.clone(), progress.generation + 1, held.low);
        return lost(&held.topic_id, what, "to land the new topic from its first record".to_owned(), accepted);
    }
    if next < held.low {
        let what = format!(
            "offsets {next} to {} of partition {partition} of topic {topic} were deleted before they had landed (raise \
             the topic's retention.ms)",
            held.low - 1
        );
        let accepted = plain(progress.topic_id.clone(), progress.generation, held.low);
        return lost(&held.low.to_string(), what, format!("to go on at {}", held.low), accepted);
    }
    let log_id = progress.topic_id.clone();
    match progress.last {
        // Kafka itself says from where on the log is another one.
        Some(LastRecord { offset, leader_epoch }) if offset + 1 >= held.low => Resume::At(Start {
            fetch_offset: offset + 1,
            leader_epoch: Some(leader_epoch),
            ..plain(log_id, progress.generation, next)
        }),
        _ if next > held.stable => Resume::Lost(Box::new(diverged(topic, partition, progress, None, held.high))),
        _ => Resume::At(plain(log_id, progress.generation, next)),
    }
}

/// The log that was read ends at `common`, before the position, and what came afterwards stands where the rest was.
pub fn cut(topic: &str, partition: i32, progress: &Progress, common: i64) -> Cut {
    if progress.last.is_none_or(|last| last.offset >= common) {
        return Cut::Records(Box::new(diverged(topic, partition, progress, Some(common), common)));
    }
    let log_id = loss::next_log(&progress.topic_id);
    Cut::Marks(plain(log_id, progress.generation + 1, common.min(progress.next)))
}

/// The log that was read ends before the position: brokers have lost records, and those that came afterwards stand
/// where they were. It is the one that was read up to `common`, where Kafka could say that; `high` is where the next
/// record will stand, those of open transactions included: such a one has hidden what lies behind it, and what it hid
/// may have landed.
pub fn diverged(topic: &str, partition: i32, progress: &Progress, common: Option<i64>, high: i64) -> Lost {
    let next = progress.next;
    // Where nobody knows which of the records below its end have landed, none of them is landed again.
    let offset = common.unwrap_or(high).min(next);
    let unknown = match common {
        Some(_) => String::new(),
        None => " (which of those before it have landed cannot be told any more; none of them is landed)".to_owned(),
    };
    let what = format!(
        "partition {partition} of topic {topic} is not the log that was landed: everything before offset {next} has \
         landed, but the brokers have lost the records from {offset} on, and others come in their place"
    );
    let then = format!("to land what stands there from {offset} on{unknown}");
    let log_id = loss::next_log(&progress.topic_id);
    let name = Loss::name("", topic, partition, next, loss::log_name(&log_id));
    let accepted = plain(log_id, progress.generation + 1, offset);
    Lost { loss: Loss { name, what, then }, accepted, is_unsure: common.is_none() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(next: i64, last: Option<(i64, i32)>) -> Progress {
        let last = last.map(|(offset, leader_epoch)| LastRecord { offset, leader_epoch });
        Progress { topic_id: "old+1".into(), generation: 2, epoch: 5, next, last, ..Progress::default() }
    }

    fn decide(progress: &Progress, id: &str, low: i64, high: i64) -> Resume {
        resume("orders", 1, Some(progress), &Held { topic_id: id.into(), low, stable: high, high })
    }

    fn at(log_id: &str, generation: u32, offset: i64) -> Start {
        plain(log_id.into(), generation, offset)
    }

    #[test]
    fn goes_on_where_the_ledger_says_while_the_records_are_there() {
        let held = Held { topic_id: "x".into(), low: 7, stable: 9, high: 9 };
        assert_eq!(resume("t", 0, None, &held), Resume::At(at("x", 0, 7)));
        for next in [10, 15, 20] {
            assert_eq!(decide(&progress(next, None), "old", 10, 20), Resume::At(at("old+1", 2, next)));
        }
    }

    /// Also where the position lies beyond the end: Kafka is asked, and tells from where on the log is another.
    #[test]
    fn asks_behind_the_last_record_by_its_epoch_where_that_is_still_held() {
        for (next, high) in [(16, 20), (16, 12)] {
            let start = Start { fetch_offset: 15, leader_epoch: Some(4), ..at("old+1", 2, next) };
            assert_eq!(decide(&progress(next, Some((14, 4))), "old", 10, high), Resume::At(start));
        }
        assert_eq!(decide(&progress(16, Some((14, 4))), "old", 16, 20), Resume::At(at("old+1", 2, 16)));
    }

    #[test]
    fn stops_where_records_are_gone_and_goes_on_without_landing_one_twice() {
        let lost = [
            (9, "old", "orders/1@9-10", at("old+1", 2, 10)),
            // Nobody knows which of 10 to 19 have landed.
            (21, "old", "orders/1@21-log2", at("old+2", 3, 20)),
            (15, "new", "orders/1@15-new", at("new", 3, 10)),
        ];
        for (next, id, name, accepted) in lost {
            let Resume::Lost(lost) = decide(&progress(next, None), id, 10, 20) else { panic!("{next} {id}") };
            assert_eq!((lost.loss.name.as_str(), &lost.accepted), (name, &accepted));
            assert!(loss::told("land", &[lost.loss]).contains(&next.to_string()));
        }
    }

    #[test]
    fn what_came_after_the_logs_parted_is_landed_and_nothing_before_it() {
        let known = diverged("orders", 1, &progress(100, None), Some(60), 200);
        assert_eq!((known.loss.name.as_str(), known.accepted), ("orders/1@100-log2", at("old+2", 3, 60)));
        // The log has not grown past the position: all that it holds had landed.
        assert_eq!(diverged("orders", 1, &progress(100, None), None, 200).accepted.offset, 100);
        assert_eq!(diverged("orders", 1, &progress(100, None), None, 80).accepted.offset, 80);
    }

    /// What a transaction hides that is open again is not landed a second time when it ends.
    #[test]
    fn an_open_transaction_is_not_the_end_of_the_log() {
        let known = diverged("orders", 1, &progress(100, Some((99, 4))), Some(60), 40);
        assert_eq!(known.accepted, at("old+2", 3, 60));
        for (high, offset) in [(80, 80), (200, 100)] {
            let held = Held { topic_id: "old".into(), low: 10, stable: 40, high };
            let Resume::Lost(lost) = resume("orders", 1, Some(&progress(100, None)), &held) else { panic!("{high}") };
            assert_eq!(lost.accepted, at("old+2", 3, offset));
        }
    }

    #[test]
    fn marks_that_are_gone_are_no_loss() {
        let read = progress(100, Some((97, 4)));
        for (common, offset) in [(98, 98), (99, 99), (100, 100)] {
            assert_eq!(cut("orders", 1, &read, common), Cut::Marks(at("old+2", 3, offset)));
        }
        for (read, common) in [(&read, 97), (&read, 5), (&progress(100, None), 98)] {
            let lost = diverged("orders", 1, read, Some(common), common);
            assert_eq!(cut("orders", 1, read, common), Cut::Records(Box::new(lost)));
        }
    }
}
