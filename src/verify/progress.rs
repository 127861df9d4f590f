//! How far a long comparison is: a bar on a terminal, else a log line every ten seconds.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Rows between two looks at the clock.
const STRIDE: u64 = 8192;

pub struct Progress {
    unit: String,
    bar: Option<ProgressBar>,
    logged: Instant,
    side: &'static str,
    done: u64,
    expected: u64,
    /// What earlier sides came to.
    before: String,
}

impl Progress {
    pub fn new(unit: &str, draw_bar: bool) -> Progress {
        let bar = draw_bar.then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} {wide_bar} {human_pos}/{human_len} {per_sec} {msg}")
            {
                bar.set_style(style);
            }
            bar
        });
        Progress {
            unit: unit.to_owned(),
            bar,
            logged: Instant::now(),
            side: "",
            done: 0,
            expected: 0,
            before: String::new(),
        }
    }

    /// Begins another side, of about `expected` rows.
    pub fn begin(&mut self, side: &'static str, expected: u64) {
        self.finish_side();
        (self.side, self.done, self.expected) = (side, 0, expected);
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(expected);
            bar.set_prefix(format!("{} {side}", self.unit));
        }
    }

    pub fn row(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(STRIDE) {
            self.show();
        }
    }

    fn show(&mut self) {
        match &self.bar {
            Some(bar) => {
                // An estimate may be too low; a bar never stands beyond its end.
                bar.set_length(self.expected.max(self.done));
                bar.set_position(self.done);
            }
            None if self.logged.elapsed() >= LOG_INTERVAL => {
                self.logged = Instant::now();
                let (unit, before, side) = (&self.unit, &self.before, self.side);
                tracing::info!(
                    "verify {unit}: {before}{side} {} of about {}",
                    grouped(self.done),
                    grouped(self.expected)
                );
            }
            None => {}
        }
    }

    fn finish_side(&mut self) {
        if !self.side.is_empty() {
            self.before.push_str(&format!("{} {}; ", self.side, grouped(self.done)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `1,200,000`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0, 999, 1000, 1_234_567].map(grouped).each_ref().map(|s| s.as_str())
        );
    }
}
