//! Moments: windows of one key in which a measure leaves its usual range.
//!
//! Only final windows are scored, each against closed windows before it that do not overlap it or each other. The
//! window itself is left out: among n + 1 values no one is more than n / √(n + 1) sample deviations from their mean
//! (Shiffler 1988, The American Statistician 42), so with ten of which the last is the one in question a threshold
//! of 3.0 could never be reached.
//!
//! Both detectors say `score = (value - baseline) / deviation` and alarm from `threshold` on; they differ in what
//! they take for ordinary.
//!
//! | detector | baseline | deviation |
//! | --- | --- | --- |
//! | `zscore` | mean of the last periods | their sample standard deviation |
//! | `quantile` | median of the last periods | the one that all but a small share of a day's windows kept within |
//!
//! Neither deviation is less than the [`Floor`]. `quantile` measures each window of its history against that
//! window's own baseline, so the day's rise and fall is in neither (the idea of DSPOT: Siffer, Fouque, Termier,
//! Largouët 2017, "Anomaly detection in streams with extreme value theory"); it asks for a quantile within the
//! sample where DSPOT fits a tail beyond it, since a dozen moments a day would bend the fit.
//!
//! The windows of the last moment's episode are left out of the baseline (else a spike would hide the next one) until
//! the new level has lasted for a whole baseline: then it is the usual one. One episode is one moment: after it there
//! is none before the cool-down is over and the measure has come halfway back.
//!
//! How small an event may be to be found within 40 s of its start, with windows of a minute that slide by ten seconds
//! and a watermark ten seconds behind: such a window holds 20 to 30 s of it. Of the shipped watches, with no more
//! than one false moment per stream and day (`tests/quality.rs` measures it and prints smaller events too;
//! `analyze/tests/moments.rs` measures it on the events of `generate chat`, which plants a little more):
//!
//! | messages or emotes a minute | times the level | | viewers | falls to |
//! | --- | --- | --- | --- | --- |
//! | 30 | 10 | | 300 | 30 % |
//! | 100 | 7 | | 2,000 | 40 % |
//! | 600 and more | 5.5 | | 50,000 | 40 % |
//!
//! An event within five minutes of a false moment waits for its cool-down. A harmless burst, up to twice the messages
//! for up to a minute, would be a false moment: the floors lie above nearly all of those; a stream that bursts every
//! twenty minutes has up to 1.4 of them a day with `zscore`. `quantile` learns what is usual in a stream, after its
//! minimum history of two hours and from ten times on, and with it what happens in more than a fiftieth of the time:
//! half an hour of planted spikes a day is usual. It keeps three to six kilobytes a key, `zscore` 60 to 240 bytes.
//!
//! What a watcher finds is a function of three things: the values of the windows within [`Watcher::history_span_ms`],
//! the key's last moment, and the new window. All are rows in PostgreSQL, so a process that was killed goes on with
//! [`Watcher::restore_last`] and [`Watcher::revise`] and finds what an undisturbed one would have found.

mod axis;
pub mod backtest;
mod cells;
mod history;
mod moment;
mod plot;
mod score;
mod series;
#[cfg(test)]
mod tests;
mod watch;
mod watcher;

pub use moment::{Moment, Score, Trace, moment_id};
pub use watch::{Detector, DetectorName, Direction, Floor, Gap, Watch, WatchError};
pub use watcher::Watcher;
