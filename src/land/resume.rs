//! Where a partition is read on from: decided from its ledger and from what Kafka holds. Pure.

use crate::lake::ledger::Progress;

/// What Kafka says of a partition now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub topic_id: String,
    /// First offset that is there.
    pub low: i64,
    /// Where the next record will stand.
    pub high: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    At {
        offset: i64,
        generation: u32,
        /// Whether a loss was accepted to get there: to be committed at once, so that the next start
        /// need not ask again.
        accepted: bool,
    },
    /// Records are gone that never landed; the text says which.
    Lost(String),
}

pub fn resume(topic: &str, partition: i32, progress: Option<&Progress>, held: &Held, accept_loss: bool) -> Resume {
    let Some(progress) = progress else {
        return Resume::At { offset: held.low, generation: 0, accepted: false };
    };
    let next = progress.next;
    let (lost, offset, generation) = if progress.topic_id != held.topic_id {
        let lost = format!(
            "topic {topic} was deleted and made again (its id was {}, now it is {}): what its partition {partition} held from \
             offset {next} on is lost, unless nothing was there; start land with --accept-loss to land the new topic from \
             its first record",
            progress.topic_id, held.topic_id
        );
        (lost, held.low, progress.generation + 1)
    } else if next < held.low {
        let lost = format!(
            "offsets {next} to {} of partition {partition} of topic {topic} were deleted before they had landed; start land \
             with --accept-loss to go on at {}, and raise the topic's retention.ms",
            held.low - 1,
            held.low
        );
        (lost, held.low, progress.generation)
    } else if next > held.high {
        let lost = format!(
            "partition {partition} of topic {topic} ends at offset {}, but everything before {next} has landed: the brokers \
             have lost records, and new ones stand where those were; start land with --accept-loss to land all that is there \
             now, as a new topic",
            held.high
        );
        (lost, held.low, progress.generation + 1)
    } else {
        return Resume::At { offset: next, generation: progress.generation, accepted: false };
    };
    if accept_loss { Resume::At { offset, generation, accepted: true } } else { Resume::Lost(lost) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(next: i64, id: &str, low: i64, high: i64, accept: bool) -> Resume {
        let progress = Progress { topic_id: "old".into(), generation: 2, epoch: 5, next };
        resume("orders", 1, Some(&progress), &Held { topic_id: id.into(), low, high }, accept)
    }

    fn at(offset: i64, generation: u32, accepted: bool) -> Resume {
        Resume::At { offset, generation, accepted }
    }

    #[test]
    fn goes_on_where_the_ledger_says_while_the_records_are_there() {
        assert_eq!(resume("t", 0, None, &Held { topic_id: "x".into(), low: 7, high: 9 }, false), at(7, 0, false));
        for next in [10, 15, 20] {
            assert_eq!(decide(next, "old", 10, 20, false), at(next, 2, false));
        }
    }

    #[test]
    fn stops_where_records_are_gone_until_that_is_accepted() {
        for (next, id, accepted) in
            [(9, "old", at(10, 2, true)), (21, "old", at(10, 3, true)), (15, "new", at(10, 3, true))]
        {
            let Resume::Lost(text) = decide(next, id, 10, 20, false) else { panic!("{next} {id}") };
            assert!(text.contains("--accept-loss") && text.contains(&next.to_string()), "{text}");
            assert_eq!(decide(next, id, 10, 20, true), accepted);
        }
    }
}
