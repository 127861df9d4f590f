//! Where each partition stands, and when it is idle.

/// A partition of an input, as the engine counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(pub(super) usize);

/// The broker's answers that a partition is at its end, since the last record.
#[derive(Debug, Clone, Copy)]
struct Quiet {
    /// None where the broker has failed to answer since.
    since_ms: Option<i64>,
    answered_ms: i64,
}

#[derive(Debug)]
pub struct Partition {
    pub input: usize,
    pub number: i32,
    /// The offset after the last record.
    pub position: i64,
    /// Records below have been vouched for by a flush of a former process.
    pub stored_next: i64,
    /// The largest timestamp since the engine began.
    pub newest_ms: Option<i64>,
    quiet: Option<Quiet>,
    is_idle: bool,
}

impl Partition {
    pub fn new(input: usize, number: i32, position: i64, stored_next: i64) -> Partition {
        Partition { input, number, position, stored_next, newest_ms: None, quiet: None, is_idle: false }
    }

    pub fn is_replaying(&self) -> bool {
        self.position < self.stored_next
    }

    /// False where the offset has been passed before.
    pub fn pass(&mut self, offset: i64) -> bool {
        let is_ahead = offset >= self.position;
        if is_ahead {
            self.position = offset + 1;
            self.quiet = None;
            self.is_idle = false;
        }
        is_ahead
    }

    pub fn answer_end(&mut self, offset: i64, now_ms: i64) {
        if offset < self.position {
            // The answer is older than the last record.
            return;
        }
        self.position = offset;
        let since_ms = self.quiet.and_then(|quiet| quiet.since_ms).unwrap_or(now_ms);
        self.quiet = Some(Quiet { since_ms: Some(since_ms), answered_ms: now_ms });
    }

    /// The broker was asked for the end and did not answer: quiet begins anew when it does, for producers may
    /// have shared the outage, and their backlog is yet to come.
    pub fn miss_end(&mut self) {
        self.is_idle = false;
        if let Some(quiet) = &mut self.quiet {
            quiet.since_ms = None;
        }
    }

    pub fn is_at_end(&self) -> bool {
        self.quiet.is_some()
    }

    /// Idle is what the broker has called at its end for as long as the timeout, and still does:
    /// without answers, as in an outage, a partition is merely silent.
    pub fn update_idle(&mut self, idle_timeout_ms: i64, now_ms: i64) {
        self.is_idle = self.quiet.is_some_and(|quiet| {
            quiet.since_ms.is_some_and(|since_ms| quiet.answered_ms.saturating_sub(since_ms) >= idle_timeout_ms)
                && now_ms.saturating_sub(quiet.answered_ms) < idle_timeout_ms
        });
    }

    /// The time of the last answer, of an idle partition.
    pub fn idle_answered_ms(&self) -> Option<i64> {
        self.quiet.filter(|_| self.is_idle).map(|quiet| quiet.answered_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_an_end_that_the_broker_keeps_confirming() {
        let mut partition = Partition::new(0, 0, 0, 0);
        let idle_at = |partition: &mut Partition, now_ms| {
            partition.update_idle(100, now_ms);
            partition.idle_answered_ms()
        };
        assert_eq!(idle_at(&mut partition, 1_000), None);
        partition.pass(7);
        partition.answer_end(7, 1_000);
        assert!(!partition.is_at_end(), "an answer older than the record");
        partition.answer_end(8, 1_000);
        assert_eq!(idle_at(&mut partition, 1_150), None, "one answer, then silence");
        partition.answer_end(8, 1_150);
        assert_eq!(idle_at(&mut partition, 1_200), Some(1_150));
        assert_eq!(idle_at(&mut partition, 1_250), None, "an outage began");
        partition.answer_end(9, 1_300);
        assert_eq!((idle_at(&mut partition, 1_300), partition.position), (Some(1_300), 9));
        partition.pass(9);
        assert_eq!(partition.idle_answered_ms(), None);
        partition.answer_end(10, 1_310);
        assert_eq!(idle_at(&mut partition, 1_310), None);
    }

    #[test]
    fn quiet_begins_anew_after_a_question_without_an_answer() {
        let mut partition = Partition::new(0, 0, 0, 0);
        let idle_at = |partition: &mut Partition, now_ms| {
            partition.update_idle(100, now_ms);
            partition.idle_answered_ms()
        };
        partition.miss_end();
        assert!(!partition.is_at_end());
        partition.answer_end(0, 1_000);
        partition.answer_end(0, 1_100);
        assert_eq!(idle_at(&mut partition, 1_100), Some(1_100));
        partition.miss_end();
        assert_eq!((idle_at(&mut partition, 1_110), partition.is_at_end()), (None, true));
        partition.answer_end(0, 1_150);
        assert_eq!(idle_at(&mut partition, 1_150), None, "what waited for the broker's return may come");
        partition.answer_end(0, 1_250);
        assert_eq!(idle_at(&mut partition, 1_250), Some(1_250));
    }
}
