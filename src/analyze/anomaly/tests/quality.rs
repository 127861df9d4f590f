//! How many planted events are found, how soon, and how much is found that was not planted.

use super::{
    super::{DetectorName, Watch, Watcher},
    simulation::{Factors, Kind, Noise, PANE_MS, Planted, Stream, WINDOW_PANES},
};
use std::sync::Arc;

/// A window is final when the watermark, ten seconds behind, has passed its end.
const WATERMARK_DELAY_MS: i64 = 10_000;
const IN_TIME_MS: i64 = 40_000;

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    planted: usize,
    in_time: usize,
    found: usize,
    moments: usize,
    spurious: usize,
    delay_ms: i64,
    days: f64,
}

fn watch(kind: Kind, detector: DetectorName) -> Watch {
    match kind {
        Kind::ChatSpike => Watch::chat_spike(detector),
        Kind::EmoteSpike => Watch::emote_spike(detector),
        Kind::ViewerDrop => Watch::viewer_drop(detector),
    }
}

fn run(watch: &Watch, kind: Kind, stream: &Stream, tally: &mut Tally) {
    let size_ms = PANE_MS * WINDOW_PANES as i64;
    let mut watcher = Watcher::new("chat", watch, size_ms, PANE_MS).unwrap();
    let key: Arc<str> = "s1".into();
    let mut found: Vec<Option<i64>> = vec![None; stream.planted.len()];
    for first in 0..stream.panes.len() - WINDOW_PANES {
        let value = stream.window(kind, first);
        if value.is_none() {
            continue;
        }
        let Some(moment) = watcher.observe(&key, first as i64 * PANE_MS, value) else { continue };
        tally.moments += 1;
        let overlaps = |event: &Planted| moment.window_start_ms < event.end_ms && moment.window_end_ms > event.start_ms;
        match stream.planted.iter().position(overlaps) {
            Some(event) if found[event].is_none() => {
                found[event] = Some(moment.window_end_ms + WATERMARK_DELAY_MS - stream.planted[event].start_ms);
            }
            _ => tally.spurious += 1,
        }
    }
    tally.planted += found.len();
    for delay_ms in found.into_iter().flatten() {
        tally.found += 1;
        tally.in_time += usize::from(delay_ms <= IN_TIME_MS);
        tally.delay_ms = tally.delay_ms.max(delay_ms);
    }
    tally.days += stream.panes.len() as f64 / super::simulation::DAY_PANES as f64;
}

#[test]
fn explore() {
    for kind in [Kind::ChatSpike, Kind::ViewerDrop] {
        let sizes: &[Factors] = if kind == Kind::ViewerDrop {
            &[(0.6, 0.6), (0.5, 0.5), (0.3, 0.3), (0.2,0.2)]
        } else {
            &[(3.0, 3.0), (4.0, 4.0), (5.0, 5.0), (7.0, 7.0), (10.0, 10.0)]
        };
        for detector in [DetectorName::Zscore, DetectorName::Quantile] {
            for noise in [Noise::Steady, Noise::Lively, Noise::Bursty] {
                for level in [2.0, 10.0, 30.0, 100.0, 600.0, 5_000.0] {
                    let level = if kind == Kind::ViewerDrop { level * 10.0 } else { level };
                    let mut line = format!("{kind:?} {detector:?} {noise:?} {level:>6}:");
                    let mut all = Tally::default();
                    for factors in sizes {
                        let mut tally = Tally::default();
                        for seed in 0..1 {
                            let stream = Stream::new(kind, noise, level, 7, 8, *factors, seed * 100 + level as u64);
                            run(&watch(kind, detector), kind, &stream, &mut tally);
                        }
                        let share = |count: usize| 100.0 * count as f64 / tally.planted as f64;
                        line += &format!(" x{}:{:.0}/{:.0}%", factors.0, share(tally.in_time), share(tally.found));
                        all.spurious += tally.spurious;
                        all.days += tally.days;
                    }
                    println!("{line} false/day {:.2}", all.spurious as f64 / all.days);
                }
            }
        }
    }
}
