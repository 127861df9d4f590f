//! Where each partition stands, and when it is idle.

/// A partition of an input, as the engine counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(pub(super) usize);

/// The broker's answers that a partition is at its end, since the last record that told of time.
#[derive(Debug, Clone, Copy)]
struct Quiet {
    /// None where the broker has failed to answer since.
    since_ms: Option<i64>,
    answered_ms: i64,
    /// The end that was answered.
    end: i64,
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
    /// Those of the last two events.
    last_ms: [Option<i64>; 2],
    /// When the last record came that told of time.
    pub heard_ms: Option<i64>,
    quiet: Option<Quiet>,
    /// The first answer of the broker beyond the position, and its time: until all below is handed over, or it is
    /// known that none of it will be, more is to come.
    ahead: Option<(i64, i64)>,
    is_idle: bool,
}

impl Partition {
    pub fn new(input: usize, number: i32, position: i64, stored_next: i64) -> Partition {
        Partition {
            input,
            number,
            position,
            stored_next,
            newest_ms: None,
            last_ms: [None; 2],
            heard_ms: None,
            quiet: None,
            ahead: None,
            is_idle: false,
        }
    }

    pub fn is_replaying(&self) -> bool {
        self.position < self.stored_next
    }

    /// All below the offset has been handed over. True where that is what the broker has called the end.
    pub fn reach(&mut self, offset: i64) -> bool {
        if offset > self.position {
            self.position = offset;
            self.is_idle = false;
        }
        match self.ahead {
            Some((end, answered_ms)) if end <= self.position => {
                self.confirm(answered_ms);
                true
            }
            _ => false,
        }
    }

    /// An event came, of a time that others may be measured by.
    pub fn see(&mut self, timestamp_ms: i64) {
        self.newest_ms = self.newest_ms.max(Some(timestamp_ms));
        self.last_ms = [self.last_ms[1], Some(timestamp_ms)];
    }

    /// The time of the last events, of which a single odd one is none.
    pub fn recent_ms(&self) -> Option<i64> {
        self.last_ms[0].min(self.last_ms[1])
    }

    /// The last record told of time: what is quiet begins anew.
    pub fn wake(&mut self, now_ms: i64) {
        self.quiet = None;
        self.heard_ms = Some(now_ms);
    }

    /// The broker says where its log ends. Records up to there that do not come are still to come, as those of an
    /// open transaction. True where it is the position.
    pub fn answer_end(&mut self, end: i64, now_ms: i64) -> bool {
        // An answer below the position is older than the last record.
        if end == self.position {
            self.confirm(now_ms);
        } else if end > self.position {
            self.ahead.get_or_insert((end, now_ms));
            self.is_idle = false;
        }
        end == self.position
    }

    fn confirm(&mut self, answered_ms: i64) {
        let since_ms = self.quiet.and_then(|quiet| quiet.since_ms).unwrap_or(answered_ms);
        self.quiet = Some(Quiet { since_ms: Some(since_ms), answered_ms, end: self.position });
        self.ahead = None;
    }

    /// The broker was asked for the end and did not answer: quiet begins anew when it does, for producers may
    /// have shared the outage, and their backlog is yet to come.
    pub fn miss_end(&mut self) {
        self.is_idle = false;
        self.ahead = None;
        if let Some(quiet) = &mut self.quiet {
            quiet.since_ms = None;
        }
    }

    /// Whether the end was met and nothing has told of time since.
    pub fn is_at_end(&self) -> bool {
        self.quiet.is_some()
    }

    /// Idle is what the broker has called at its end for as long as the timeout, and still does:
    /// without answers, as in an outage, a partition is merely silent.
    pub fn update_idle(&mut self, idle_timeout_ms: i64, now_ms: i64) {
        let Partition { position, ahead, .. } = *self;
        self.is_idle = ahead.is_none()
            && self.quiet.is_some_and(|quiet| {
                quiet.end == position
                    && quiet
                        .since_ms
                        .is_some_and(|since_ms| quiet.answered_ms.saturating_sub(since_ms) >= idle_timeout_ms)
                    && now_ms.saturating_sub(quiet.answered_ms) < idle_timeout_ms
            });
    }

    pub fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// The time of the last answer, of an idle partition.
    pub fn idle_answered_ms(&self) -> Option<i64> {
        self.quiet.filter(|_| self.is_idle).map(|quiet| quiet.answered_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle_at(partition: &mut Partition, now_ms: i64) -> Option<i64> {
        partition.update_idle(100, now_ms);
        partition.idle_answered_ms()
    }

    #[test]
    fn idle_is_an_end_that_the_broker_keeps_confirming() {
        let mut partition = Partition::new(0, 0, 0, 0);
        assert_eq!(idle_at(&mut partition, 1_000), None);
        partition.reach(8);
        partition.answer_end(7, 1_000);
        assert!(!partition.is_at_end(), "an answer older than the record");
        partition.answer_end(8, 1_000);
        assert_eq!(idle_at(&mut partition, 1_150), None, "one answer, then silence");
        partition.answer_end(8, 1_150);
        assert_eq!(idle_at(&mut partition, 1_200), Some(1_150));
        assert_eq!(idle_at(&mut partition, 1_250), None, "an outage began");
        partition.reach(9);
        partition.answer_end(9, 1_300);
        assert_eq!((idle_at(&mut partition, 1_300), partition.position), (Some(1_300), 9));
        partition.reach(10);
        assert_eq!(partition.idle_answered_ms(), None);
        partition.wake(1_305);
        partition.answer_end(10, 1_310);
        assert_eq!(idle_at(&mut partition, 1_310), None);
    }

    #[test]
    fn quiet_begins_anew_after_a_question_without_an_answer() {
        let mut partition = Partition::new(0, 0, 0, 0);
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

    #[test]
    fn what_the_log_holds_beyond_the_position_is_still_to_come() {
        let mut partition = Partition::new(0, 0, 0, 0);
        partition.answer_end(0, 1_000);
        partition.answer_end(0, 1_100);
        assert_eq!(idle_at(&mut partition, 1_100), Some(1_100));
        for now_ms in [1_120, 1_150, 5_000] {
            partition.answer_end(4, now_ms);
            assert_eq!(idle_at(&mut partition, now_ms), None, "a transaction is open");
        }
        assert!(!partition.reach(3) && partition.reach(4), "it was aborted");
        assert_eq!(idle_at(&mut partition, 5_010), None, "the answer is old");
        partition.answer_end(4, 5_020);
        assert_eq!(idle_at(&mut partition, 5_020), Some(5_020), "nothing has told of time meanwhile");
    }

    #[test]
    fn records_that_tell_nothing_do_not_keep_it_awake_however_many_come() {
        let mut partition = Partition::new(0, 0, 0, 0);
        let mut idle = 0;
        for now_ms in 0..1_000 {
            // The end is always a little ahead.
            partition.answer_end(partition.position + 2, now_ms);
            for _ in 0..3 {
                if partition.reach(partition.position + 1) {
                    idle += u32::from(idle_at(&mut partition, now_ms).is_some());
                }
            }
        }
        assert!(idle > 800, "{idle}");
    }
}
