//! What each setting of a watch does, on series small enough to follow by hand.

use super::super::{Detector, DetectorName, Direction, Floor, Gap, Moment, Watch, WatchError, Watcher};
use std::sync::Arc;

const MINUTE_MS: i64 = 60_000;

/// Windows of a minute that do not overlap, so that a series reads as it is scored.
fn minutes(watch: &Watch) -> Watcher {
    Watcher::new("chat", watch, MINUTE_MS, MINUTE_MS).unwrap()
}

fn run(watch: &Watch, values: &[f64]) -> Vec<Moment> {
    let key: Arc<str> = "s1".into();
    let mut watcher = minutes(watch);
    (0..).zip(values).filter_map(|(minute, value)| watcher.observe(&key, minute * MINUTE_MS, Some(*value))).collect()
}

fn minutes_of(moments: &[Moment]) -> Vec<i64> {
    moments.iter().map(|moment| moment.window_start_ms / MINUTE_MS).collect()
}

fn zscore() -> Watch {
    Watch {
        floor: Floor { absolute: 2.0, relative: 0.0, poisson: 0.0 },
        cooldown_ms: 5 * MINUTE_MS,
        ..Watch::chat_spike(DetectorName::Zscore)
    }
}

/// Ten values of mean 10 and sample deviation 2.
const ORDINARY: [f64; 10] = [8.0, 12.0, 8.0, 12.0, 10.0, 10.0, 8.0, 12.0, 7.0, 13.0];

fn then(values: &[f64]) -> Vec<f64> {
    ORDINARY.iter().chain(values).copied().collect()
}

#[test]
fn a_window_is_compared_with_the_ten_before_it_and_not_with_itself() {
    // Squares about the mean: 4+4+4+4+0+0+4+4+9+9 = 42; the deviation is √(42/9) = 2.1602.
    let moments = run(&zscore(), &then(&[17.0]));
    let [moment] = &moments[..] else { panic!("{moments:?}") };
    assert_eq!((moment.value, moment.baseline, moment.threshold), (17.0, 10.0, 3.0));
    assert!((moment.score - 7.0 / (42.0f64 / 9.0).sqrt()).abs() < 1e-12, "{}", moment.score);
    assert_eq!((moment.window_start_ms, moment.window_end_ms), (10 * MINUTE_MS, 11 * MINUTE_MS));
    assert_eq!((moment.moment_type.as_str(), moment.metric.as_str()), ("chat_spike", "chat_count"));
    assert_eq!(moment.details["detector"], "zscore");
    assert!(run(&zscore(), &then(&[16.0])).is_empty());
}

#[test]
fn windows_that_overlap_the_present_one_are_no_baseline() {
    let key: Arc<str> = "s1".into();
    let mut watcher = Watcher::new("chat", &zscore(), MINUTE_MS, 10_000).unwrap();
    for window in 0..=60 {
        // Five windows before the last overlap it and are as high: they must not count.
        let value = if window > 54 { 30.0 } else { 10.0 };
        // The rise itself is a moment, of the first high window.
        let moment = watcher.observe(&key, window * 10_000, Some(value));
        assert_eq!(moment.is_some(), window == 55, "window {window}");
        if let Some(moment) = moment {
            assert_eq!((moment.baseline, moment.score), (10.0, 10.0));
        }
    }
    let (score, _) = watcher.observe_scored(&key, 61 * 10_000, Some(30.0));
    // One of the ten, that of start 550 s, is high by now, but belongs to the episode.
    assert_eq!(score.map(|score| score.baseline), Some(10.0));
}

#[test]
fn what_follows_an_episode_is_ordinary_though_it_is_not_quite_what_was_before() {
    // Back at 12, the episode is over; that 14 lies on its side of halfway (13.2) makes it no part of it.
    let after = [30.0, 12.0, 14.0, 14.0, 14.0, 14.0, 14.0, 14.0, 14.0, 14.0, 12.0, 14.0, 14.0, 14.0, 14.0, 40.0];
    assert_eq!(minutes_of(&run(&zscore(), &then(&after))), [10, 25]);
}

#[test]
fn a_quiet_channel_does_not_alarm_on_a_message() {
    let watch = Watch::chat_spike(DetectorName::Zscore);
    let silent = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let after = |value: f64| run(&watch, &[&silent[..], &[value]].concat());
    assert!(after(1.0).is_empty());
    assert!(after(5.0).is_empty());
    assert_eq!(after(20.0).len(), 1);
    // Nor a channel that never varied on a tenth more.
    assert!(run(&watch, &[vec![100.0; 10], vec![110.0]].concat()).is_empty());
}

#[test]
fn one_episode_is_one_moment() {
    let spike = |length| [vec![60.0; length], vec![10.0; 12]].concat();
    for length in 1..=9 {
        assert_eq!(minutes_of(&run(&zscore(), &then(&spike(length)))), [10], "length {length}");
    }
    // Within the cool-down nothing is a moment, even when the level has come back.
    assert_eq!(minutes_of(&run(&zscore(), &then(&[60.0, 10.0, 10.0, 60.0, 10.0]))), [10]);
    // After it a new one is, and the first is no baseline that would hide it.
    assert_eq!(minutes_of(&run(&zscore(), &then(&[60.0, 10.0, 10.0, 10.0, 10.0, 10.0, 60.0]))), [10, 16]);
}

#[test]
fn an_episode_is_no_baseline_for_as_long_as_its_windows_are_among_the_last() {
    let key: Arc<str> = "s1".into();
    let mut watcher = minutes(&zscore());
    let values = [vec![10.0; 10], vec![60.0; 4], vec![10.0; 25]].concat();
    for (minute, value) in (0..).zip(values) {
        let (score, _) = watcher.observe_scored(&key, minute * MINUTE_MS, Some(value));
        assert!(score.is_none_or(|score| score.baseline == 10.0), "minute {minute}: {score:?}");
    }
}

#[test]
fn a_level_that_stays_is_one_moment_and_then_the_usual() {
    assert_eq!(minutes_of(&run(&zscore(), &then(&[60.0; 60]))), [10]);
    let mut values = then(&[60.0; 30]);
    values.push(180.0);
    assert_eq!(minutes_of(&run(&zscore(), &values)), [10, 40]);
}

#[test]
fn directions() {
    let watch = |direction| Watch { direction, ..zscore() };
    let (up, down) = (then(&[20.0]), then(&[0.0]));
    assert_eq!([run(&watch(Direction::Up), &up).len(), run(&watch(Direction::Up), &down).len()], [1, 0]);
    assert_eq!([run(&watch(Direction::Down), &up).len(), run(&watch(Direction::Down), &down).len()], [0, 1]);
    assert_eq!([run(&watch(Direction::Both), &up).len(), run(&watch(Direction::Both), &down).len()], [1, 1]);
    assert!(run(&watch(Direction::Down), &down)[0].score > 3.0);
}

#[test]
fn nothing_is_a_moment_before_the_minimum_history() {
    let after = |known: usize| run(&zscore(), &[vec![10.0; known], vec![1_000.0]].concat()).len();
    assert_eq!([1, 4, 5, 9].map(after), [0, 0, 1, 1]);
}

#[test]
fn a_gap_is_a_zero_for_counts_and_nothing_for_averages() {
    let key: Arc<str> = "s1".into();
    for (gap, baseline) in [(Gap::Zero, 5.0), (Gap::Missing, 10.0)] {
        let mut watcher = minutes(&Watch { gap, ..zscore() });
        for minute in [0, 2, 4, 6, 8] {
            watcher.observe(&key, minute * MINUTE_MS, Some(10.0));
        }
        let (score, _) = watcher.observe_scored(&key, 10 * MINUTE_MS, Some(11.0));
        assert_eq!(score.map(|score| score.baseline), Some(baseline), "{gap:?}");
    }
    // A stream that begins has not been silent before.
    let mut watcher = minutes(&zscore());
    for minute in 4..10 {
        watcher.observe(&key, minute * MINUTE_MS, Some(10.0));
    }
    let (score, _) = watcher.observe_scored(&key, 10 * MINUTE_MS, Some(10.0));
    assert_eq!(score.map(|score| score.baseline), Some(10.0));
}

#[test]
fn a_revision_changes_what_later_windows_are_compared_with_and_finds_nothing_itself() {
    let key: Arc<str> = "s1".into();
    let mut watcher = minutes(&zscore());
    for minute in 0..10 {
        watcher.observe(&key, minute * MINUTE_MS, Some(10.0));
    }
    watcher.revise(&key, 9 * MINUTE_MS, Some(110.0));
    assert_eq!(watcher.observe(&key, 9 * MINUTE_MS, Some(110.0)), None);
    let (score, _) = watcher.observe_scored(&key, 10 * MINUTE_MS, Some(10.0));
    assert_eq!(score.map(|score| score.baseline), Some(20.0));
}

#[test]
fn a_tail_learns_how_much_a_stream_bursts() {
    let watch = Watch {
        detector: Detector::Quantile { threshold: 2.5, baseline_periods: 10, history_periods: 300, probability: 0.98 },
        ..Watch::chat_spike(DetectorName::Quantile)
    };
    let calm: Vec<f64> = (0..400).map(|minute| 100.0 + f64::from(minute % 5)).collect();
    // Every twentieth minute twice as many.
    let bursty: Vec<f64> = (0..400).map(|minute| if minute % 20 == 19 { 200.0 } else { 100.0 }).collect();
    let with = |values: &[f64], last: f64| minutes_of(&run(&watch, &[values, &[last]].concat()));
    assert_eq!(with(&calm, 200.0), [400]);
    // Ten of them are usual: the tail that is taken at minute 225 is the first to have eleven.
    let learning = [139, 159, 179, 199, 219];
    assert_eq!(with(&bursty, 200.0), learning);
    assert_eq!(with(&bursty, 500.0), [&learning[..], &[400]].concat());
}

#[test]
fn a_value_that_is_no_number_is_a_gap() {
    let key: Arc<str> = "s1".into();
    let mut watcher = minutes(&Watch { gap: Gap::Missing, ..zscore() });
    for minute in 0..12 {
        let value = [Some(10.0), None, Some(f64::NAN), Some(f64::INFINITY)][minute as usize % 4];
        assert_eq!(watcher.observe(&key, minute * MINUTE_MS, value), None);
    }
    assert_eq!(watcher.observe_scored(&key, 12 * MINUTE_MS, Some(f64::NAN)), (None, None));
}

#[test]
fn keys_unseen_for_the_span_are_forgotten() {
    let mut watcher = minutes(&zscore());
    let keys: Vec<Arc<str>> = (0..100).map(|number| format!("s{number}").into()).collect();
    for (minute, key) in (0..).zip(&keys) {
        watcher.observe(key, minute * MINUTE_MS, Some(1.0));
    }
    // For two baselines: so long an episode may be remembered.
    watcher.forget_before(100 * MINUTE_MS);
    assert_eq!(watcher.len(), 20);
    watcher.forget_before(1_000 * MINUTE_MS);
    assert!(watcher.is_empty());
}

#[test]
fn a_watch_that_cannot_work_is_refused_with_the_cure() {
    let floor = Floor { absolute: 0.0, ..zscore().floor };
    let error = Watcher::new("chat", &Watch { floor, ..zscore() }, MINUTE_MS, MINUTE_MS).unwrap_err();
    assert!(matches!(error, WatchError::Value { field: "floor absolute", .. }));
    assert_eq!(
        error.to_string(),
        "the watch \"chat_spike\": floor absolute is 0; take a number above 0 in the measure's unit"
    );
    assert!(Watcher::new("chat", &Watch { minimum_history: 11, ..zscore() }, MINUTE_MS, MINUTE_MS).is_err());
    assert!(Watcher::new("chat", &zscore(), MINUTE_MS, 2 * MINUTE_MS).is_err());
}
