//! Events in, windows out.

mod take;

use super::{
    Added, Event, Plan, Progress, Source, WindowRow,
    grid::{FARTHEST_MS, NEVER_MS},
    ids::{Ids, Record},
    intern::Interner,
    merge::Merger,
    pane::{Counting, Pane},
    source::Partition,
};
use std::collections::BTreeMap;

/// An event so much older than the watermark or than the events of other partitions, beyond all disorder that is
/// declared, is taken for one whose clock is wrong: it counts, but time does not wait for it.
const FAR_PAST_MS: i64 = 86_400_000;
/// About what a row costs beside its values.
const ROW_BYTES: usize = size_of::<WindowRow>() + 64;

/// The windows of one job. See the module for what it promises.
#[derive(Debug)]
pub struct Engine {
    plan: Plan,
    sources: Vec<Partition>,
    /// How many of them are not yet where the stored progress says.
    replaying: usize,
    panes: BTreeMap<i64, Pane>,
    keys: Interner,
    texts: Interner,
    ids: Ids,
    watermark_ms: i64,
    /// The largest timestamp of all partitions.
    newest_ms: Option<i64>,
    /// How far apart the events of partitions may be that time waits for.
    far_ms: i64,
    /// The least window end above the watermark.
    next_end_ms: i64,
    /// The watermark of the last flush: windows that end by then have been given as final.
    flushed_ms: i64,
    /// Of windows that close by this watermark everything has been given, or stands in `settled`.
    settled_ms: i64,
    settled: Vec<WindowRow>,
    late: BTreeMap<(i64, usize), i64>,
    /// Counts the flushes: rows of panes remember before which flush they last changed.
    next_flush: u32,
    /// The flush that last wrote provisional rows of a window.
    provisional: BTreeMap<i64, u32>,
    /// The flush with which the round of provisional rows began that is under way: each window is written once in a
    /// round, so that the oldest, which change all the time, do not keep the newest from their turn.
    round: Option<u32>,
    /// At most so many rows have become final since the last flush.
    due_rows: usize,
    /// The watermark waits because more rows would come due than one flush may hold.
    is_held: bool,
    is_in_flight: bool,
    /// Windows before are neither written nor counted late.
    first_window: i64,
    merger: Merger,
}

impl Engine {
    /// `restored` is the progress of the last committed flush. Partitions it names are to be read from
    /// [`Engine::position`], which lies below what has been counted: until each is there again the
    /// watermark stands still and no flush is given.
    pub fn new(plan: Plan, restored: Option<Progress>) -> Engine {
        let declaration = plan.declaration();
        let span_ms = declaration.size_ms + declaration.watermark_delay_ms + declaration.allowed_lateness_ms;
        let restored = restored.unwrap_or_default();
        let watermark_ms = restored.watermark_ms.unwrap_or(NEVER_MS);
        let mut ids = Ids::new(plan.grid, span_ms);
        let mut sources = Vec::new();
        // An input that is no longer declared would never be read to where it stood.
        for stored in restored.partitions.iter().filter(|stored| stored.input < declaration.inputs) {
            let replay_offset = stored.replay_offset.min(stored.next_offset);
            ids.set_replay(sources.len(), replay_offset);
            sources.push(Partition::new(stored.input, stored.partition, replay_offset, stored.next_offset));
        }
        Engine {
            replaying: sources.iter().filter(|source| source.is_replaying()).count(),
            next_end_ms: plan.grid.end_ms(plan.grid.last_final(watermark_ms) + 1),
            plan,
            sources,
            panes: BTreeMap::new(),
            keys: Interner::default(),
            texts: Interner::default(),
            ids,
            watermark_ms,
            newest_ms: None,
            far_ms: span_ms + FAR_PAST_MS,
            flushed_ms: watermark_ms,
            settled_ms: watermark_ms,
            settled: Vec::new(),
            late: BTreeMap::new(),
            next_flush: 2,
            provisional: BTreeMap::new(),
            round: None,
            due_rows: 0,
            is_held: false,
            is_in_flight: false,
            first_window: i64::MIN,
            merger: Merger::default(),
        }
    }

    /// Windows that begin before are somebody else's: no row is made of them, and no late event counted.
    pub fn write_from(&mut self, from_ms: i64) {
        self.first_window = self.plan.grid.first_from(from_ms);
    }

    /// The handle of a partition of a declared input. One that is new is read from `first_offset`, and holds the watermark
    /// until it has an event or is idle; so all partitions are to be named before the first event.
    pub fn partition(&mut self, input: usize, number: i32, first_offset: i64) -> Source {
        let known = self.sources.iter().position(|source| source.input == input && source.number == number);
        Source(known.unwrap_or_else(|| {
            self.sources.push(Partition::new(input, number, first_offset, first_offset));
            self.sources.len() - 1
        }))
    }

    /// The offset to read next.
    pub fn position(&self, source: Source) -> i64 {
        self.sources[source.0].position
    }

    /// Counts one record. Offsets of a partition rise, with gaps or without; one that does not rise is
    /// passed over. What is read again after a restart, and was refused before, is for [`Engine::skip`].
    pub fn add(&mut self, source: Source, offset: i64, event: &Event<'_>, now_ms: i64) -> Added {
        let partition = &self.sources[source.0];
        let is_replayed = offset < partition.stored_next;
        if offset < partition.position {
            return Added::Replayed;
        }
        let input = partition.input;
        self.reach(source, offset, now_ms);
        // What is read again was judged by the clock of its first reading.
        if !is_replayed && event.timestamp_ms > now_ms.saturating_add(self.plan.declaration.max_future_ms) {
            self.reach(source, offset + 1, now_ms);
            return Added::Future;
        }
        let added = self.place(input, Record { source: source.0, offset, is_replayed }, event);
        let timestamp_ms = event.timestamp_ms.clamp(-FARTHEST_MS, FARTHEST_MS);
        let is_time = !self.is_far_behind(source, timestamp_ms);
        let partition = &mut self.sources[source.0];
        let before_ms = partition.newest_ms;
        partition.see(timestamp_ms);
        if is_time {
            partition.wake(now_ms);
        }
        self.newest_ms = self.newest_ms.max(Some(timestamp_ms));
        self.reach(source, offset + 1, now_ms);
        // Whoever is ahead of the stage's watermark does not hold it.
        let delay_ms = self.plan.declaration.watermark_delay_ms;
        let held_it = before_ms.is_none_or(|before_ms| before_ms.saturating_sub(delay_ms) <= self.watermark_ms);
        if held_it && before_ms < Some(timestamp_ms) {
            self.raise_watermark();
        }
        added
    }

    /// Passes over a record that is no event. False where a former flush has vouched for it, so that its
    /// dead letter is stored already.
    pub fn skip(&mut self, source: Source, offset: i64, now_ms: i64) -> bool {
        let partition = &self.sources[source.0];
        let is_new = offset >= partition.stored_next && offset >= partition.position;
        self.reach(source, offset, now_ms);
        self.reach(source, offset + 1, now_ms);
        is_new
    }

    /// The broker has answered that the partition ends at `offset`, and all before has been handed over.
    /// To be repeated, more often than `idle_timeout`, as long as the answer holds.
    pub fn at_end(&mut self, source: Source, offset: i64, now_ms: i64) {
        self.reach(source, offset, now_ms);
        self.log_ends(source, offset, now_ms);
    }

    /// The broker has answered that the partition's log ends at `end`. What stands below and is not handed over, such
    /// as the records of an open transaction, is still to come.
    pub fn log_ends(&mut self, source: Source, end: i64, now_ms: i64) {
        if self.sources[source.0].answer_end(end, now_ms) {
            self.end_is_met(source, now_ms);
        }
    }

    /// All before `offset` has been handed over.
    pub fn reach(&mut self, source: Source, offset: i64, now_ms: i64) {
        let partition = &mut self.sources[source.0];
        let was_replaying = partition.is_replaying();
        let is_end = partition.reach(offset);
        if was_replaying && !partition.is_replaying() {
            self.replaying -= 1;
            if self.replaying == 0 {
                self.ids.end_replay();
                self.raise_watermark();
            }
        }
        if is_end {
            self.end_is_met(source, now_ms);
        }
    }

    /// However many records come that tell nothing of time: at this moment the partition is at its end.
    fn end_is_met(&mut self, source: Source, now_ms: i64) {
        self.sources[source.0].update_idle(self.plan.declaration.idle_timeout_ms, now_ms);
        if self.sources[source.0].is_idle() {
            self.raise_watermark();
        }
    }

    /// The broker was asked for the end of the partition and did not answer.
    pub fn end_unknown(&mut self, source: Source) {
        self.sources[source.0].miss_end();
    }

    /// Lets time pass: finds the idle partitions and raises the watermark. The clock itself moves it
    /// only where all partitions are idle.
    pub fn advance(&mut self, now_ms: i64) {
        let idle_timeout_ms = self.plan.declaration.idle_timeout_ms;
        self.sources.iter_mut().for_each(|source| source.update_idle(idle_timeout_ms, now_ms));
        self.raise_watermark();
    }

    /// The last flush is committed.
    pub fn flushed(&mut self) {
        self.is_in_flight = false;
    }

    /// The watermark waits for a flush.
    pub fn wants_flush(&self) -> bool {
        self.is_held
    }

    /// Records are read again after a restart.
    pub fn is_replaying(&self) -> bool {
        self.replaying > 0
    }

    /// None before all partitions have had an event.
    pub fn watermark_ms(&self) -> Option<i64> {
        Some(self.watermark_ms).filter(|&watermark_ms| watermark_ms != NEVER_MS)
    }

    /// The partition to read first so that the partitions move in step: of those not at their end, the
    /// one with the oldest event time.
    pub fn most_behind(&self) -> Option<Source> {
        let behind = self.sources.iter().enumerate().filter(|(_, source)| !source.is_at_end());
        behind.min_by_key(|(_, source)| source.newest_ms).map(|(index, _)| Source(index))
    }

    /// The largest timestamp read from the partition.
    pub fn event_time_of(&self, source: Source) -> Option<i64> {
        self.sources[source.0].newest_ms
    }

    /// When the partition last brought an event that told of time.
    pub fn heard_ms(&self, source: Source) -> Option<i64> {
        self.sources[source.0].heard_ms
    }

    /// Whether reading on in the partition may raise the watermark.
    pub fn holds_watermark(&self, source: Source) -> bool {
        let delay_ms = self.plan.declaration.watermark_delay_ms;
        let newest_ms = self.sources[source.0].newest_ms;
        newest_ms.is_none_or(|newest_ms| newest_ms.saturating_sub(delay_ms) <= self.watermark_ms)
    }

    /// The partition that holds the watermark, where another one alone would let a window end.
    pub fn held_back_by(&self) -> Option<Source> {
        let reached_ms = self.newest_ms?.saturating_sub(self.plan.declaration.watermark_delay_ms);
        if reached_ms < self.next_end_ms || self.panes.is_empty() {
            return None;
        }
        let awake = self.sources.iter().enumerate().filter(|(_, source)| !source.is_idle());
        awake.min_by_key(|(_, source)| source.newest_ms).map(|(index, _)| Source(index))
    }

    pub fn open_panes(&self) -> usize {
        self.panes.len()
    }

    /// Different keys in open panes.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// About what the state takes in memory, a flush that has been taken left aside. Costs a walk over
    /// the panes, not over their keys.
    pub fn state_bytes(&self) -> usize {
        self.panes.values().map(Pane::bytes).sum::<usize>()
            + self.ids.bytes()
            + self.keys.bytes()
            + self.texts.bytes()
            + self.settled.len() * (ROW_BYTES + self.plan.declaration.measures.len() * size_of::<super::Value>())
            + self.late.len() * 64
    }

    /// Puts an event into its pane, or finds that it does not belong there.
    fn place(&mut self, input: usize, record: Record, event: &Event<'_>) -> Added {
        let grid = self.plan.grid;
        let pane = grid.pane_at(event.timestamp_ms);
        let id = event.id.map(|id| Ids::hash(input, id));
        let is_replayed = record.is_replayed;
        let windows = grid.windows_of(pane);
        let windows = self.first_window.max(*windows.start())..=*windows.end();
        if grid.window_close_ms(*windows.end()) <= self.watermark_ms {
            if is_replayed {
                if let Some(id) = id {
                    self.ids.recall(pane, id, record, self.watermark_ms);
                }
                return Added::Replayed;
            }
            if windows.is_empty() {
                return Added::Replayed;
            }
            self.count_late(windows, input);
            return Added::Late;
        }
        if !self.ids.admit(pane, id, record, self.watermark_ms) {
            return if is_replayed { Added::Replayed } else { Added::Duplicate };
        }
        if windows.is_empty() {
            // Its id is known from now on: a copy in a later window is a copy all the same.
            return Added::Replayed;
        }
        let first = *windows.start();
        let misses = grid.window_close_ms(first) <= self.watermark_ms;
        // What a former process counted late, it counted then.
        if misses && !is_replayed {
            let last_closed = grid.last_closed(self.watermark_ms);
            if last_closed > grid.last_closed(self.settled_ms).max(first - 1) {
                // The rows that miss this event are made before it is counted.
                self.settle_until(last_closed);
            }
            self.count_late(first..=last_closed, input);
        }
        let key = self.keys.number(event.key);
        let mut counting = Counting {
            layout: &self.plan.layout,
            texts: &mut self.texts,
            distinct_exact_limit: self.plan.declaration.distinct_exact_limit,
            counts_limit: self.plan.declaration.counts_limit,
        };
        // What is read again stands in final rows already.
        let touched = self.next_flush - u32::from(is_replayed);
        let pane = self.panes.entry(pane).or_default();
        pane.add(&mut counting, &mut self.keys, key, input, event.values, touched);
        match (is_replayed, misses) {
            (true, _) => Added::Replayed,
            (false, true) => Added::PartlyLate,
            (false, false) => Added::Counted,
        }
    }

    fn count_late(&mut self, windows: std::ops::RangeInclusive<i64>, input: usize) {
        for window in windows {
            *self.late.entry((window, input)).or_insert(0) += 1;
        }
    }

    /// Whether the time is far behind the watermark, or another partition.
    fn is_far_behind(&self, source: Source, timestamp_ms: i64) -> bool {
        let is_far = |other_ms: i64| other_ms.saturating_sub(timestamp_ms) > self.far_ms;
        if is_far(self.watermark_ms) {
            return true;
        }
        if !self.newest_ms.is_some_and(is_far) {
            return false;
        }
        let others = self.sources.iter().enumerate().filter(|(index, other)| *index != source.0 && !other.is_idle());
        others.filter_map(|(_, other)| other.recent_ms()).any(is_far)
    }

    /// The watermark that the partitions allow.
    fn allowed_watermark(&self) -> Option<i64> {
        if self.replaying > 0 {
            // Until all partitions stand where they stood, an older record may still come again.
            return None;
        }
        let delay_ms = self.plan.declaration.watermark_delay_ms;
        let mut least_ms: Option<i64> = None;
        let mut answered_ms: Option<i64> = None;
        for source in &self.sources {
            match source.idle_answered_ms() {
                Some(answer_ms) => answered_ms = Some(answered_ms.map_or(answer_ms, |least| least.min(answer_ms))),
                None => {
                    let newest_ms = source.newest_ms?;
                    least_ms = Some(least_ms.map_or(newest_ms, |least| least.min(newest_ms)));
                }
            }
        }
        if let Some(least_ms) = least_ms {
            return Some(least_ms.saturating_sub(delay_ms));
        }
        // All are idle: nothing older than their answers is to come.
        let (&newest, _) = self.panes.last_key_value()?;
        Some(answered_ms?.saturating_sub(delay_ms).min(self.plan.grid.pane_close_ms(newest)))
    }

    fn raise_watermark(&mut self) {
        let Some(allowed_ms) = self.allowed_watermark().filter(|&allowed_ms| allowed_ms > self.watermark_ms) else {
            return;
        };
        if allowed_ms < self.next_end_ms {
            self.watermark_ms = allowed_ms;
            return;
        }
        let grid = self.plan.grid;
        let mut reached_ms = allowed_ms;
        let (after, until) = (grid.last_final(self.watermark_ms), grid.last_final(allowed_ms));
        for window in self.windows_with_panes(after, until) {
            if self.due_rows > 0 && self.due_rows + self.keys.len() > self.plan.declaration.flush_rows_limit {
                self.is_held = true;
                reached_ms = grid.end_ms(window) - 1;
                break;
            }
            self.due_rows += self.keys.len();
        }
        self.watermark_ms = self.watermark_ms.max(reached_ms);
        self.next_end_ms = grid.end_ms(grid.last_final(self.watermark_ms) + 1);
    }

    /// The windows after one and until another that hold a pane.
    fn windows_with_panes(&self, after: i64, until: i64) -> Vec<i64> {
        let grid = self.plan.grid;
        let mut found = Vec::new();
        if after.max(self.first_window.saturating_sub(1)) >= until {
            return found;
        }
        let mut next = self.first_window.max(after + 1);
        let panes = *grid.panes_of(next).start()..=*grid.panes_of(until).end();
        for (&pane, _) in self.panes.range(panes) {
            let windows = grid.windows_of(pane);
            let last = until.min(*windows.end());
            found.extend(next.max(*windows.start())..=last);
            next = next.max(last + 1);
        }
        found
    }
}
