//! What an engine hands out to be committed.

use super::{
    super::{
        Flush, LateCount, PartitionProgress, Progress, WindowRow,
        merge::{Keys, Mark},
    },
    Engine,
};

impl Engine {
    /// What there is to commit: the rows of windows that have become final, of final windows that late
    /// events have changed, and, if `provisional`, of open windows that have changed since they were last
    /// written.
    ///
    /// None while the flush before has not been acknowledged by [`Engine::flushed`], and while records
    /// are read again after a restart, since windows then lack a part.
    pub fn take_flush(&mut self, provisional: bool) -> Option<Flush> {
        if self.is_in_flight || self.replaying > 0 {
            return None;
        }
        let grid = self.plan.grid;
        let last_final = grid.last_final(self.watermark_ms);
        self.settle_until(last_final);
        let mut rows = std::mem::take(&mut self.settled);
        let has_more = provisional && self.add_provisional(last_final, &mut rows);
        rows.sort_by(|left, right| (left.start_ms, &left.key).cmp(&(right.start_ms, &right.key)));
        self.provisional.retain(|window, _| *window > last_final);
        self.drop_closed();
        self.next_flush += 1;
        self.flushed_ms = self.watermark_ms;
        self.is_in_flight = true;
        let late = std::mem::take(&mut self.late).into_iter().map(|((window, input), count)| LateCount {
            window_start_ms: grid.start_ms(window),
            window_end_ms: grid.end_ms(window),
            input,
            count,
        });
        let mut flush = Flush { rows, late: late.collect(), progress: self.progress(), has_more };
        self.due_rows = 0;
        flush.has_more |= std::mem::take(&mut self.is_held);
        self.raise_watermark();
        Some(flush)
    }

    /// Makes the final rows that are due, of windows until this one: all keys of a window that has become
    /// final since the last flush, the changed keys of one that was final before.
    pub(super) fn settle_until(&mut self, last: i64) {
        let grid = self.plan.grid;
        let flushed = grid.last_final(self.flushed_ms);
        let mut rows = std::mem::take(&mut self.settled);
        for window in self.windows_with_panes(grid.last_closed(self.settled_ms), last) {
            let (keys, revision) = match window > flushed {
                true => (Keys::All, 0),
                false => (Keys::TouchedAfter(self.next_flush - 1), 1),
            };
            self.add_rows(window, keys, Mark { is_final: true, revision }, &mut rows);
        }
        self.settled = rows;
        self.settled_ms = self.watermark_ms;
    }

    /// Whether windows were left for the next flush.
    fn add_provisional(&mut self, last_final: i64, rows: &mut Vec<WindowRow>) -> bool {
        let round = self.round.take().unwrap_or(self.next_flush);
        let Some((&newest, _)) = self.panes.last_key_value() else { return false };
        for window in self.windows_with_panes(last_final, *self.plan.grid.windows_of(newest).end()) {
            let written = self.provisional.get(&window).copied().unwrap_or(0);
            let mut panes = self.panes.range(self.plan.grid.panes_of(window));
            if written >= round || panes.all(|(_, pane)| pane.touched <= written) {
                continue;
            }
            if rows.len() >= self.plan.declaration.flush_rows_limit {
                self.round = Some(round);
                return true;
            }
            self.add_rows(window, Keys::TouchedAfter(written), Mark { is_final: false, revision: 0 }, rows);
            self.provisional.insert(window, self.next_flush);
        }
        false
    }

    fn add_rows(&mut self, window: i64, keys: Keys, mark: Mark, rows: &mut Vec<WindowRow>) {
        let texts = (&self.plan, &self.keys, &self.texts);
        self.merger.window(texts, &self.panes, (window, keys, mark), rows);
    }

    /// What a taken flush holds is no longer needed here: the flush itself is what is committed again.
    fn drop_closed(&mut self) {
        while let Some(entry) = self.panes.first_entry() {
            if self.plan.grid.pane_close_ms(*entry.key()) > self.watermark_ms {
                break;
            }
            entry.remove().release(&mut self.keys, &mut self.texts);
        }
        self.ids.close(self.watermark_ms);
        self.keys.tidy();
        self.texts.tidy();
    }

    fn progress(&self) -> Progress {
        let partitions = self.sources.iter().enumerate().map(|(index, source)| PartitionProgress {
            input: source.input,
            partition: source.number,
            next_offset: source.position,
            replay_offset: self.ids.least_offset(index).unwrap_or(source.position),
        });
        Progress { watermark_ms: self.watermark_ms(), partitions: partitions.collect() }
    }
}
