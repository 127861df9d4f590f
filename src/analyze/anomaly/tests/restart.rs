//! A watcher that was restored from rows finds what one that ran on finds.

use super::super::{Detector, Direction, Floor, Gap, Moment, Trace, Watch, Watcher};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

const SLIDE_MS: i64 = 10_000;

#[derive(Debug, Clone)]
enum Step {
    /// The next window of a key is final: a row with a value, a row without, or no row.
    Final { key: usize, row: Option<Option<f64>> },
    /// So many windows pass without a row of any key.
    Pass(i64),
    /// A late event changes, or makes, the row of a window that is final.
    Revise { key: usize, back: i64, value: f64 },
    /// Keys that are long unseen are forgotten.
    Forget,
    /// The process is killed and started again (only one of the two watchers is).
    Restart,
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![8 => (8u32..14).prop_map(f64::from), 2 => (20u32..90).prop_map(f64::from), 1 => 0.0..300.0]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (0usize..2, prop::option::weighted(0.9, prop::option::weighted(0.9, value())))
            .prop_map(|(key, row)| Step::Final { key, row }),
        1 => (1i64..40).prop_map(Step::Pass),
        3 => (0usize..2, 0i64..12, value()).prop_map(|(key, back, value)| Step::Revise { key, back, value }),
        1 => Just(Step::Forget),
        2 => Just(Step::Restart),
    ]
}

fn watch() -> impl Strategy<Value = Watch> {
    let detector = prop_oneof![
        Just(Detector::Zscore { threshold: 3.0, baseline_periods: 4 }),
        Just(Detector::Quantile { threshold: 2.0, baseline_periods: 3, history_periods: 20, probability: 0.9 }),
    ];
    let direction = prop_oneof![Just(Direction::Up), Just(Direction::Down), Just(Direction::Both)];
    let gap = prop_oneof![Just(Gap::Zero), Just(Gap::Missing)];
    (detector, direction, gap, 0i64..30, 1u32..4).prop_map(|(detector, direction, gap, cooldown, minimum_history)| {
        Watch {
            moment_type: "kind".to_owned(),
            measure: "measure".to_owned(),
            direction,
            detector,
            cooldown_ms: cooldown * SLIDE_MS,
            minimum_history,
            gap,
            floor: Floor { absolute: 1.0, relative: 0.1, poisson: 0.3 },
        }
    })
}

/// What PostgreSQL holds.
#[derive(Default)]
struct Tables {
    rows: BTreeMap<(usize, i64), Option<f64>>,
    moments: Vec<Moment>,
}

impl Tables {
    fn restored(&self, new: impl Fn() -> Watcher, keys: &[Arc<str>], next_ms: i64) -> Watcher {
        let mut watcher = new();
        let oldest_ms = next_ms - watcher.history_span_ms();
        let (recent_ms, period_ms) = (next_ms - watcher.recent_span_ms(), watcher.period_ms());
        for (number, key) in keys.iter().enumerate() {
            let rows = self.rows.range((number, oldest_ms)..(number, next_ms));
            let rows = rows.filter(|((_, start_ms), _)| *start_ms >= recent_ms || start_ms % period_ms == 0);
            let last = self.moments.iter().rfind(|moment| *moment.key == **key);
            let last = last.map(|it| Trace::new(it.window_start_ms, it.value, it.baseline, it.score, it.threshold));
            last.into_iter().for_each(|trace| watcher.restore_last(key, trace));
            rows.for_each(|((_, start_ms), value)| watcher.revise(key, *start_ms, *value));
        }
        watcher
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn finds_the_same_moments_whenever_it_is_restarted(
        watch in watch(),
        stride in 1i64..4,
        steps in prop::collection::vec(step(), 50..600),
    ) {
        let keys: [Arc<str>; 2] = ["s1".into(), "s2".into()];
        let new = || Watcher::new("job", &watch, stride * SLIDE_MS, SLIDE_MS).unwrap();
        let (mut undisturbed, mut restarted) = (new(), new());
        let mut tables = Tables::default();
        // Windows become final in order of their start; both keys' windows of one start before the next.
        let mut next = [0i64; 2];
        for step in steps {
            let start_ms = *next.iter().max().unwrap() * SLIDE_MS;
            match step {
                Step::Final { key, row } => {
                    // The key that is behind goes first.
                    let key = if next[0] == next[1] { key } else { usize::from(next[1] < next[0]) };
                    let start_ms = next[key] * SLIDE_MS;
                    next[key] += 1;
                    let Some(value) = row else { continue };
                    let one = undisturbed.observe(&keys[key], start_ms, value);
                    let other = restarted.observe(&keys[key], start_ms, value);
                    prop_assert_eq!(&one, &other);
                    tables.rows.insert((key, start_ms), value);
                    tables.moments.extend(one);
                }
                Step::Pass(windows) => next = [start_ms / SLIDE_MS + windows; 2],
                Step::Revise { key, back, value } => {
                    let start_ms = (next[key] - 1 - back) * SLIDE_MS;
                    undisturbed.revise(&keys[key], start_ms, Some(value));
                    restarted.revise(&keys[key], start_ms, Some(value));
                    tables.rows.insert((key, start_ms), Some(value));
                }
                Step::Forget => undisturbed.forget_before(next[0].min(next[1]) * SLIDE_MS),
                Step::Restart => {
                    // A flush ends with a watermark: every key's windows before it are final.
                    next = [*next.iter().max().unwrap(); 2];
                    restarted = tables.restored(new, &keys, next[0] * SLIDE_MS);
                }
            }
        }
    }
}
