//! The moments of a watch found anew, by the detector that the stage has, in the windows that the table holds.
//!
//! Nothing notes since when a watch has been what it is, nor which old moments were deleted. But a stored moment that is
//! found again, with its very baseline and score, is a witness: from then on the watch was this one, and each later
//! moment is there or is not, as it is found here. Keys with revised windows are left out, for a moment stays what it
//! was when its window was first written.

use super::{
    report::{Findings, Kind},
    tables,
};
use crate::{
    analyze::anomaly::{Moment, Watch, WatchError, Watcher},
    clock::iso,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What the windows of a table say of one watch.
pub struct Refound<'w> {
    job: &'w str,
    watch: &'w Watch,
    size_ms: i64,
    slide_ms: i64,
    /// Of the key at hand.
    watcher: Option<(Arc<str>, Watcher)>,
    found: BTreeMap<(String, i64), Moment>,
    revised: BTreeSet<String>,
    /// The first window of each key.
    begins: BTreeMap<Arc<str>, i64>,
}

impl<'w> Refound<'w> {
    pub fn new(job: &'w str, watch: &'w Watch, size_ms: i64, slide_ms: i64) -> Refound<'w> {
        Refound {
            job,
            watch,
            size_ms,
            slide_ms,
            watcher: None,
            found: BTreeMap::new(),
            revised: BTreeSet::new(),
            begins: BTreeMap::new(),
        }
    }

    /// Takes the final windows by key and start.
    pub fn window(&mut self, key: &str, start_ms: i64, value: Option<f64>, is_revised: bool) -> Result<(), WatchError> {
        if is_revised {
            self.revised.insert(key.to_owned());
        }
        let (known, watcher) = match self.watcher.take().filter(|(known, _)| **known == *key) {
            Some(known) => known,
            None => {
                let key: Arc<str> = key.into();
                self.begins.insert(key.clone(), start_ms);
                (key, Watcher::new(self.job, self.watch, self.size_ms, self.slide_ms)?)
            }
        };
        let (_, watcher) = self.watcher.insert((known.clone(), watcher));
        if let Some(moment) = watcher.observe(&known, start_ms, value) {
            self.found.insert((key.to_owned(), start_ms), moment);
        }
        Ok(())
    }

    /// Compares with what is stored. Windows of a key before `whole_from_ms` may have been dropped: what may depend on
    /// them is left out.
    pub fn compare(&self, stored: &[tables::Moment], whole_from_ms: i64, findings: &mut Findings) {
        let of = |moment: &tables::Moment| (moment.key.clone(), moment.start_us.div_euclid(1_000));
        let close = |a: f64, b: f64| (a - b).abs() <= ERROR * a.abs().max(b.abs());
        let is_found = |moment: &&tables::Moment| {
            let found = self.found.get(&of(moment)).filter(|found| !self.revised.contains(&found.key));
            found.is_some_and(|found| close(found.baseline, moment.baseline) && close(found.score, moment.score))
        };
        let Some(since_ms) = stored.iter().filter(is_found).map(|moment| of(moment).1).min() else { return };
        let span_ms = Watcher::new(self.job, self.watch, self.size_ms, self.slide_ms)
            .map_or(i64::MAX, |watcher| watcher.history_span_ms().saturating_add(EPISODE_MS));
        let is_sure = |key: &str, start_ms: i64| {
            let begin_ms = self.begins.get(key).copied().unwrap_or(i64::MAX);
            let sure_from_ms = if begin_ms > whole_from_ms { begin_ms } else { begin_ms.saturating_add(span_ms) };
            start_ms > since_ms && start_ms >= sure_from_ms && !self.revised.contains(key)
        };
        let place =
            |start_ms: i64| format!("moments {} {}", self.watch.moment_type, iso(start_ms.saturating_mul(1_000)));
        let mut known = BTreeSet::new();
        for moment in stored {
            let (key, start_ms) = of(moment);
            known.insert((key.clone(), start_ms));
            // One without a window is told of already.
            if moment.row.is_none() || !is_sure(&key, start_ms) || is_found(&moment) {
                continue;
            }
            let (kind, what) = match self.found.get(&(key.clone(), start_ms)) {
                None => (
                    Kind::Unexpected,
                    "its window is within what is usual, or in an episode that has begun before".to_owned(),
                ),
                Some(found) => {
                    let both = [("baseline", moment.baseline, found.baseline), ("score", moment.score, found.score)];
                    let wrong = both.iter().filter(|(_, table, again)| !close(*table, *again));
                    let wrong: Vec<String> =
                        wrong.map(|(name, table, again)| format!("{name} is {table}, found again {again}")).collect();
                    (Kind::Differing, wrong.join("; "))
                }
            };
            findings.add(kind, key, place(start_ms), format!("{}: {what}", moment.id));
        }
        for ((key, start_ms), found) in &self.found {
            if is_sure(key, *start_ms) && !known.contains(&(key.clone(), *start_ms)) {
                let what = format!(
                    "no moment, but {} is {} where {} is usual: it scores {}, and {} is a moment",
                    found.metric, found.value, found.baseline, found.score, found.threshold
                );
                findings.add(Kind::Missing, key.clone(), place(*start_ms), what);
            }
        }
    }
}

/// Relative.
const ERROR: f64 = 1e-9;
/// An episode that lasts for longer has become what is usual.
const EPISODE_MS: i64 = 86_400_000;

#[cfg(test)]
mod tests {
    use super::{super::report::JobReport, *};
    use crate::analyze::anomaly::{Detector, DetectorName};

    const SIZE_MS: i64 = 60_000;

    fn watch(threshold: f64) -> Watch {
        Watch {
            detector: Detector::Zscore { threshold, baseline_periods: 5 },
            ..Watch::chat_spike(DetectorName::Zscore)
        }
    }

    /// A key with spikes, an hour apart; of the other the first window was revised.
    fn windows(refound: &mut Refound<'_>) {
        for key in ["a", "b"] {
            for n in 0..240 {
                let value = if n % 60 == 50 { 900.0 } else { 100.0 + f64::from(n % 3) };
                refound.window(key, i64::from(n) * SIZE_MS, Some(value), key == "b" && n == 0).unwrap();
            }
        }
    }

    fn stored(refound: &Refound<'_>) -> Vec<tables::Moment> {
        let moment = |found: &Moment| tables::Moment {
            id: found.moment_id.clone(),
            key: found.key.clone(),
            start_us: found.window_start_ms * 1_000,
            end_us: found.window_end_ms * 1_000,
            value: found.value,
            baseline: found.baseline,
            score: found.score,
            row: Some(tables::MomentRow {
                end_us: found.window_end_ms * 1_000,
                is_final: true,
                is_revised: false,
                value: Some(found.value),
            }),
        };
        refound.found.values().map(moment).collect()
    }

    fn compared(change: impl Fn(&mut Vec<tables::Moment>), whole_from_ms: i64) -> [u64; 3] {
        let watch = watch(6.0);
        let mut refound = Refound::new("chat", &watch, SIZE_MS, SIZE_MS);
        windows(&mut refound);
        let mut moments = stored(&refound);
        assert_eq!(moments.len(), 8);
        change(&mut moments);
        let mut findings = Findings::new(20);
        refound.compare(&moments, whole_from_ms, &mut findings);
        let counts = findings.into_report(JobReport::default()).counts;
        [counts.missing_count, counts.unexpected_count, counts.differing_count]
    }

    #[test]
    fn each_moment_behind_a_witness_is_there_and_no_other() {
        let of_a = |moments: &[tables::Moment], n: usize| {
            moments.iter().enumerate().filter(|(_, moment)| moment.key == "a").nth(n).map(|(index, _)| index).unwrap()
        };
        assert_eq!(compared(|_| {}, -1), [0; 3]);
        assert_eq!(compared(|moments| drop(moments.remove(of_a(moments, 2))), -1), [1, 0, 0]);
        let changed = |moments: &mut Vec<tables::Moment>| {
            let index = of_a(moments, 3);
            moments[index].score *= 2.0;
        };
        assert_eq!(compared(changed, -1), [0, 0, 1]);
        let invented = |moments: &mut Vec<tables::Moment>| {
            let last = moments[of_a(moments, 3)].clone();
            moments.push(tables::Moment { start_us: last.start_us + 5 * SIZE_MS * 1_000, ..last });
        };
        assert_eq!(compared(invented, -1), [0, 1, 0]);
        // What came before the first that is found again, and keys with revised windows, are nobody's guess.
        assert_eq!(compared(|moments| drop(moments.remove(of_a(moments, 0))), -1), [0; 3]);
        assert_eq!(compared(|moments| moments.retain(|moment| moment.key == "a"), -1), [0; 3]);
        // Nor is what depends on windows that may be gone.
        assert_eq!(compared(|moments| drop(moments.remove(of_a(moments, 2))), 0), [0; 3]);
        assert_eq!(compared(Vec::clear, -1), [0; 3]);
    }
}
