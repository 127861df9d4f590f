//! How many planted events are found, how soon, and how much is found that was not planted: printed by kind, detector,
//! noise and level, and held to bounds.
//!
//! A window is known ten seconds after its end, so the last one that is known 40 s after an event's start holds 20 to
//! 30 s of the event. Below some size, which falls with the level, no detector of such windows could tell those from
//! noise: `least` is the size from which all must be found, the same that the module's header promises.

use super::{
    super::{DetectorName, Watch, Watcher},
    simulation::{Factors, Kind, Noise, PANE_MS, Planted, Stream, WINDOW_PANES},
};
use std::{collections::BTreeMap, sync::Arc};

/// A window is final when the watermark, ten seconds behind, has passed its end.
const WATERMARK_DELAY_MS: i64 = 10_000;
const IN_TIME_MS: i64 = 40_000;
const DAYS: usize = 7;
const PLANTED_PER_DAY: usize = 8;

#[derive(Debug, Clone, Default)]
struct Tally {
    planted: usize,
    moments: usize,
    /// Moments that overlap nothing planted, and second ones of the same event.
    spurious: usize,
    delays_ms: Vec<i64>,
}

impl Tally {
    fn in_time(&self) -> usize {
        self.delays_ms.iter().filter(|delay_ms| **delay_ms <= IN_TIME_MS).count()
    }

    fn spurious_per_day(&self) -> f64 {
        self.spurious as f64 / DAYS as f64
    }
}

fn watch(kind: Kind, detector: DetectorName) -> Watch {
    match kind {
        Kind::ChatSpike => Watch::chat_spike(detector),
        Kind::EmoteSpike => Watch::emote_spike(detector),
        Kind::ViewerDrop => Watch::viewer_drop(detector),
    }
}

fn tally(watch: &Watch, kind: Kind, stream: &Stream) -> Tally {
    let mut watcher = Watcher::new("chat", watch, PANE_MS * WINDOW_PANES as i64, PANE_MS).unwrap();
    let key: Arc<str> = "s1".into();
    let mut delays_ms: Vec<Option<i64>> = vec![None; stream.planted.len()];
    let (mut moments, mut spurious) = (0, 0);
    for first in 0..stream.panes.len() - WINDOW_PANES {
        // A window without events has no row.
        let Some(value) = stream.window(kind, first) else { continue };
        let Some(moment) = watcher.observe(&key, first as i64 * PANE_MS, Some(value)) else { continue };
        moments += 1;
        let overlaps = |event: &Planted| moment.window_start_ms < event.end_ms && moment.window_end_ms > event.start_ms;
        match stream.planted.iter().position(overlaps) {
            Some(event) if delays_ms[event].is_none() => {
                let known_ms = moment.window_end_ms + WATERMARK_DELAY_MS;
                delays_ms[event] = Some(known_ms - stream.planted[event].start_ms);
            }
            _ => spurious += 1,
        }
    }
    let mut found: Vec<i64> = delays_ms.into_iter().flatten().collect();
    found.sort_unstable();
    Tally { planted: stream.planted.len(), moments, spurious, delays_ms: found }
}

/// A level with the factors of planted events that are found there, and with smaller ones that may not be.
struct Level {
    kind: Kind,
    /// Messages or emotes a minute, or viewers.
    level: f64,
    least: Option<Factors>,
    smaller: Option<Factors>,
}

const fn level(kind: Kind, level: f64, least: Option<Factors>, smaller: Option<Factors>) -> Level {
    Level { kind, level, least, smaller }
}

const LEVELS: [Level; 10] = [
    level(Kind::ChatSpike, 2.0, None, Some((10.0, 10.0))),
    level(Kind::ChatSpike, 30.0, Some((10.0, 12.0)), Some((3.0, 10.0))),
    level(Kind::ChatSpike, 100.0, Some((7.0, 10.0)), Some((3.0, 7.0))),
    level(Kind::ChatSpike, 600.0, Some((5.5, 10.0)), Some((3.0, 5.5))),
    level(Kind::ChatSpike, 5_000.0, Some((5.5, 10.0)), Some((3.0, 5.5))),
    level(Kind::EmoteSpike, 40.0, Some((10.0, 12.0)), Some((3.0, 10.0))),
    level(Kind::EmoteSpike, 250.0, Some((6.0, 10.0)), Some((3.0, 6.0))),
    level(Kind::ViewerDrop, 300.0, Some((0.2, 0.3)), Some((0.3, 0.6))),
    level(Kind::ViewerDrop, 2_000.0, Some((0.2, 0.4)), Some((0.4, 0.6))),
    level(Kind::ViewerDrop, 50_000.0, Some((0.2, 0.4)), Some((0.4, 0.6))),
];

fn line(kind: Kind, detector: DetectorName, noise: Noise, level: f64, factors: Factors, tally: &Tally) -> String {
    let share = |count: usize, of: usize| 100.0 * count as f64 / of.max(1) as f64;
    let delay =
        |index: usize| tally.delays_ms.get(index).map_or("-".to_owned(), |ms| format!("{:.0}", *ms as f64 / 1e3));
    format!(
        "{:<12}{:<10}{:<8}{level:>7}  x{:<4}to x{:<4}{:>7.1}{:>9.1}{:>11.1}{:>11.2}{:>8}{:>6}",
        format!("{kind:?}"),
        format!("{detector:?}"),
        format!("{noise:?}"),
        factors.0,
        factors.1,
        share(tally.in_time(), tally.planted),
        share(tally.delays_ms.len(), tally.planted),
        share(tally.delays_ms.len(), tally.moments),
        tally.spurious_per_day(),
        delay(tally.delays_ms.len() / 2),
        delay(tally.delays_ms.len().saturating_sub(1)),
    )
}

#[test]
fn planted_events_are_found_in_time_and_little_else_is() {
    println!(
        "{:<12}{:<10}{:<8}{:>7}  {:<12}{:>8}{:>9}{:>11}{:>11}{:>8}{:>6}",
        "kind",
        "detector",
        "noise",
        "level",
        "planted",
        "in 40 s%",
        "recall%",
        "precision%",
        "false/day",
        "median s",
        "max s"
    );
    let mut failures = Vec::new();
    // The worst stream of each kind, for one stream has all three kinds of moments.
    let mut worst: BTreeMap<(String, String), f64> = BTreeMap::new();
    for (number, Level { kind, level, least, smaller }) in LEVELS.into_iter().enumerate() {
        for noise in [Noise::Steady, Noise::Lively, Noise::Bursty] {
            if noise == Noise::Bursty && kind == Kind::ViewerDrop {
                continue;
            }
            for (factors, is_found) in least.map(|least| (least, true)).into_iter().chain(smaller.map(|it| (it, false)))
            {
                let seed = number as u64 * 10 + u64::from(is_found);
                let stream = Stream::new(kind, noise, level, DAYS, PLANTED_PER_DAY, factors, seed);
                for detector in [DetectorName::Zscore, DetectorName::Quantile] {
                    let tally = tally(&watch(kind, detector), kind, &stream);
                    let line = line(kind, detector, noise, level, factors, &tally);
                    println!("{line}");
                    if noise != Noise::Bursty {
                        let so_far = worst.entry((format!("{detector:?}"), format!("{kind:?}"))).or_default();
                        *so_far = so_far.max(tally.spurious_per_day());
                    }
                    // A stream that bursts all the time is what `quantile` is recommended for.
                    let is_bound = noise != Noise::Bursty || detector == DetectorName::Quantile;
                    let is_missed = is_found && noise != Noise::Bursty && tally.in_time() < tally.planted;
                    if is_missed || is_bound && tally.spurious_per_day() > 1.0 {
                        failures.push(line);
                    }
                }
            }
        }
    }
    for detector in ["Zscore", "Quantile"] {
        let sum: f64 = worst.iter().filter(|((name, _), _)| name == detector).map(|(_, per_day)| per_day).sum();
        println!("{detector}: {sum:.2} false moments per stream and day, all kinds together, at the worst");
        assert!(sum <= 1.0);
    }
    assert!(failures.is_empty(), "out of bounds:\n{}", failures.join("\n"));
}
