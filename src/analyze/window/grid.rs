//! Which panes and windows a time falls into.

use std::ops::RangeInclusive;

/// No time yet: before every event, and far enough from the end of `i64` to calculate with.
pub const NEVER_MS: i64 = -(1 << 60);
/// Timestamps beyond are taken as this, so that no sum overflows: 35,000 years from 1970.
pub const FARTHEST_MS: i64 = 1 << 50;

/// Time cut into panes, the longest pieces of which every window is a whole number: gcd(size, slide).
///
/// Panes are numbered from 1970; so are windows, by their starts. With `n` panes to a window and `m` to
/// a slide, window `w` is panes `w * m` to `w * m + n - 1`.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    size_ms: i64,
    slide_ms: i64,
    lateness_ms: i64,
    pane_ms: i64,
}

impl Grid {
    /// All positive, and the slide at most the size.
    pub fn new(size_ms: i64, slide_ms: i64, lateness_ms: i64) -> Grid {
        let (mut pane_ms, mut rest) = (size_ms, slide_ms);
        while rest != 0 {
            (pane_ms, rest) = (rest, pane_ms % rest);
        }
        Grid { size_ms, slide_ms, lateness_ms, pane_ms }
    }

    pub fn pane_ms(&self) -> i64 {
        self.pane_ms
    }

    pub fn size_ms(&self) -> i64 {
        self.size_ms
    }

    pub fn panes_per_window(&self) -> i64 {
        self.size_ms / self.pane_ms
    }

    pub fn pane_at(&self, timestamp_ms: i64) -> i64 {
        timestamp_ms.clamp(-FARTHEST_MS, FARTHEST_MS).div_euclid(self.pane_ms)
    }

    /// The windows that hold a pane.
    pub fn windows_of(&self, pane: i64) -> RangeInclusive<i64> {
        let slide = self.slide_ms / self.pane_ms;
        let first = (pane - self.panes_per_window()).div_euclid(slide) + 1;
        first..=pane.div_euclid(slide)
    }

    pub fn panes_of(&self, window: i64) -> RangeInclusive<i64> {
        let first = window * (self.slide_ms / self.pane_ms);
        first..=first + self.panes_per_window() - 1
    }

    pub fn start_ms(&self, window: i64) -> i64 {
        window * self.slide_ms
    }

    pub fn end_ms(&self, window: i64) -> i64 {
        self.start_ms(window) + self.size_ms
    }

    /// The first window that begins at a time or later.
    pub fn first_from(&self, from_ms: i64) -> i64 {
        from_ms.clamp(-FARTHEST_MS, FARTHEST_MS).div_euclid(self.slide_ms)
            + i64::from(from_ms.rem_euclid(self.slide_ms) > 0)
    }

    /// The watermark from which the window takes no event any more.
    pub fn window_close_ms(&self, window: i64) -> i64 {
        self.end_ms(window) + self.lateness_ms
    }

    /// The watermark from which no window takes an event of this pane any more.
    pub fn pane_close_ms(&self, pane: i64) -> i64 {
        self.window_close_ms(*self.windows_of(pane).end())
    }

    /// The newest window whose end the watermark has reached.
    pub fn last_final(&self, watermark_ms: i64) -> i64 {
        (watermark_ms - self.size_ms).div_euclid(self.slide_ms)
    }

    /// The newest window whose close the watermark has reached.
    pub fn last_closed(&self, watermark_ms: i64) -> i64 {
        self.last_final(watermark_ms - self.lateness_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_and_panes_agree(size in 1..200_i64, slide in 1..200_i64, lateness in 0..50_i64, time in -2_000..2_000_i64) {
            let (size, slide) = (size.max(slide), size.min(slide));
            let grid = Grid::new(size, slide, lateness);
            let pane = grid.pane_at(time);
            let holding: Vec<i64> = (-4_200..4_200)
                .filter(|&window| grid.start_ms(window) <= time && time < grid.end_ms(window))
                .collect();
            prop_assert_eq!(grid.windows_of(pane).collect::<Vec<_>>(), holding.clone());
            prop_assert!(holding.iter().all(|&window| grid.panes_of(window).contains(&pane)));
            let close = grid.pane_close_ms(pane);
            prop_assert_eq!(holding.iter().map(|&window| grid.window_close_ms(window)).max(), Some(close));
            let last = grid.last_final(time);
            prop_assert!(grid.end_ms(last) <= time && grid.end_ms(last + 1) > time);
            let first = grid.first_from(time);
            prop_assert!(grid.start_ms(first) >= time && grid.start_ms(first - 1) < time);
            let closed = grid.last_closed(time);
            prop_assert!(grid.window_close_ms(closed) <= time && grid.window_close_ms(closed + 1) > time);
        }
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        for (size, slide) in [(1, 1), (1 << 40, 1), (1 << 40, 1 << 40)] {
            let grid = Grid::new(size, slide, 1 << 40);
            for time in [i64::MIN, NEVER_MS, i64::MAX] {
                grid.pane_close_ms(grid.pane_at(time));
            }
            grid.last_closed(NEVER_MS);
            grid.panes_of(grid.last_closed(NEVER_MS));
        }
    }
}
