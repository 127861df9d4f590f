//! A series in a line of text, and marks below it.

use super::found::{Moment, Planted};

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A column for each window, by the windows' ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// End of the first window.
    pub first_ms: i64,
    pub step_ms: i64,
    pub count: usize,
}

impl Columns {
    /// The last `count` windows that end by `last_ms`.
    pub fn until(last_ms: i64, step_ms: i64, count: usize) -> Columns {
        Columns { first_ms: last_ms - (count as i64 - 1) * step_ms, step_ms, count }
    }

    /// End of the last window.
    pub fn last_ms(&self) -> i64 {
        self.first_ms + (self.count as i64 - 1) * self.step_ms
    }

    fn at(&self, end_ms: i64) -> Option<usize> {
        let column = (end_ms - self.first_ms).div_euclid(self.step_ms);
        usize::try_from(column).ok().filter(|column| *column < self.count)
    }

    /// The values over zero, the largest one a full block; a blank where there is none. Gives the largest, too.
    pub fn line(&self, values: &[(i64, f64)]) -> (String, f64) {
        let mut cells = vec![None; self.count];
        for (end_ms, value) in values {
            if let Some(column) = self.at(*end_ms) {
                cells[column] = Some(*value);
            }
        }
        let largest = cells.iter().flatten().copied().fold(0.0, f64::max);
        let level = |value: f64| match largest > 0.0 {
            true => LEVELS[((value / largest * 8.0).ceil().max(1.0) as usize - 1).min(7)],
            false => LEVELS[0],
        };
        (cells.into_iter().map(|cell| cell.map_or(' ', level)).collect(), largest)
    }

    /// A dash below each window that ends within an episode, and what was found, each at its window's end. Of two
    /// moments at one place the kind of the episode is shown.
    pub fn marks<'a>(&self, episode: &Planted, moments: impl Iterator<Item = &'a Moment>) -> String {
        let is_within = |end_ms: i64| episode.start_ms < end_ms && end_ms < episode.end_ms + self.step_ms;
        let mut cells: Vec<char> = (0..self.count)
            .map(|column| self.first_ms + column as i64 * self.step_ms)
            .map(|end_ms| if is_within(end_ms) { '─' } else { ' ' })
            .collect();
        let is_own = |moment: &&Moment| moment.kind == episode.kind.name();
        let (own, others): (Vec<_>, Vec<_>) = moments.partition(is_own);
        for moment in others.into_iter().chain(own) {
            if let Some(column) = self.at(moment.window_end_ms) {
                cells[column] = symbol(&moment.kind);
            }
        }
        cells.into_iter().collect::<String>().trim_end().to_owned()
    }
}

pub fn symbol(kind: &str) -> char {
    match kind {
        "chat_spike" => '▲',
        "viewer_drop" => '▼',
        _ => '◆',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::chat::Kind;

    const COLUMNS: Columns = Columns { first_ms: 1_000, step_ms: 10, count: 8 };

    #[test]
    fn values_have_the_height_of_their_share() {
        let values: Vec<(i64, f64)> = (0..8).map(|n| (1_000 + n * 10, (n + 1) as f64 * 5.0)).collect();
        assert_eq!(COLUMNS.line(&values), ("▁▂▃▄▅▆▇█".to_owned(), 40.0));
        assert_eq!(COLUMNS.line(&[(1_010, 0.0), (1_070, 3.0), (1_080, 9.0), (990, 9.0)]).0, " ▁     █");
        assert_eq!(COLUMNS.line(&[(1_000, 0.0)]), ("▁       ".to_owned(), 0.0));
        assert_eq!(Columns::until(1_070, 10, 8), COLUMNS);
    }

    #[test]
    fn marks_stand_below_their_windows() {
        let moment = |kind: &str, window_end_ms| Moment {
            kind: kind.to_owned(),
            stream: "s1".to_owned(),
            window_start_ms: window_end_ms - 60,
            window_end_ms,
            value: 2.0,
            baseline: 1.0,
        };
        let episode =
            Planted { kind: Kind::ChatSpike, stream: "s1".to_owned(), start_ms: 1_010, end_ms: 1_035, factor: 2.0 };
        let moments = [moment("chat_spike", 1_030), moment("emote_spike", 1_070), moment("viewer_drop", 2_000)];
        assert_eq!(COLUMNS.marks(&episode, moments.iter()), "  ─▲─  ◆");
        let both = [moment("chat_spike", 1_030), moment("emote_spike", 1_030)];
        assert_eq!(COLUMNS.marks(&episode, both.iter()), "  ─▲─");
        assert_eq!(COLUMNS.marks(&episode, [].iter()), "  ───");
    }
}
