//! What the shipped watches find of what the chat generator plants: the generator's records, in the order of their
//! arrival, through the decoder, the window engine and the watches of `configs/chat.yml`, without servers.
//!
//! Right is a moment that overlaps a planted episode of its kind, once for each; and one of emotes in a planted spike
//! of chat, which brings emotes with it. All else is false, also what the generator's own bursts cause: they are
//! called harmless. A moment is known when the record arrives that closes its window.
//!
//! The floors were chosen on other seeds than those that are asserted here.

use crate::{
    analyze::{
        anomaly::{DetectorName, Moment},
        declare,
        decode::Decoder,
        sentiment::{self, Analyzer},
        watchers::Watchers,
        window::{Engine, Source},
    },
    config::{
        Environment, load,
        model::{Detector, Job},
    },
    generate::chat::{DayShape, Episode, Generator, Kind, Plant, Settings, Topic, Volume},
};
use std::{collections::BTreeMap, path::Path, sync::Arc};

const IN_TIME_MS: i64 = 40_000;
const DAY_SECONDS: u64 = 86_400;
/// Wednesday, 2025-01-15, midnight.
const START_MS: i64 = 1_736_899_200_000;
/// `quantile` finds nothing before it knows 120 periods that have a baseline of their own, and it looks again every
/// fifteen.
const HISTORY_MS: i64 = (120 + 10 + 15 + 1) * 60_000;
const STREAMS: u32 = 5;

struct Scenario {
    name: &'static str,
    day_shape: DayShape,
    bursts_per_day: f64,
    /// Of all streams, whose levels differ by three and more.
    messages_per_second: f64,
    days: u64,
    seed: u64,
}

impl Scenario {
    fn settings(&self) -> Settings {
        let seconds = Some(self.days * DAY_SECONDS);
        Settings {
            seed: self.seed,
            start_ms: START_MS,
            volume: Volume::Rate { messages_per_second: self.messages_per_second, seconds },
            streams: STREAMS,
            users: 1_000,
            day_shape: self.day_shape,
            bursts_per_day: self.bursts_per_day,
            planted: Plant {
                chat_spikes_per_day: 2.0,
                viewer_drops_per_day: 2.0,
                emote_spikes_per_day: 2.0,
                ..Plant::default()
            },
            ..Settings::default()
        }
    }
}

/// The job of the shipped configuration, as its comment says it is changed for `quantile`, without the measures that
/// no watch looks at: they would only take time.
fn shipped_job(detector: DetectorName) -> Job {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/chat.yml");
    let config = load(&path, &Environment::default()).unwrap();
    let mut job = config.pipelines[0].analyze.clone().unwrap().jobs.remove(0);
    let anomalies = &mut job.anomalies;
    assert!(anomalies.iter().all(|anomaly| anomaly.detector == Detector::Zscore && anomaly.threshold == Some(3.0)));
    if detector == DetectorName::Quantile {
        for anomaly in anomalies.iter_mut() {
            anomaly.detector = Detector::Quantile;
            if anomaly.moment == "viewer_drop" {
                (anomaly.threshold, anomaly.baseline_periods) = (Some(2.0), Some(5));
            }
        }
    }
    job.measures.retain(|measure| anomalies.iter().any(|anomaly| anomaly.measure == measure.column));
    job
}

/// A moment, and when it was known.
struct Known {
    moment: Moment,
    at_ms: i64,
}

/// What happened in a scenario, and what each detector said.
struct Run {
    planted: Vec<Episode>,
    found: BTreeMap<&'static str, Vec<Known>>,
    names: Vec<String>,
    messages_per_minute: Vec<f64>,
}

const DETECTORS: [(&str, DetectorName); 2] = [("zscore", DetectorName::Zscore), ("quantile", DetectorName::Quantile)];

fn run(scenario: &Scenario) -> Run {
    let job = shipped_job(DetectorName::Zscore);
    let plan = declare::plan(&job).unwrap();
    let analyzer = Arc::new(Analyzer::new(sentiment::Options { emotes: false }));
    let inputs = job.inputs.iter().enumerate();
    let mut decoders: Vec<Decoder> =
        inputs.map(|(number, input)| Decoder::new(&plan, number, input, analyzer.clone())).collect();
    let mut engine = Engine::new(plan, None);
    let sources: Vec<Source> = (0..job.inputs.len()).map(|input| engine.partition(input, 0, 0)).collect();
    let mut watchers: Vec<Watchers> =
        DETECTORS.iter().map(|(_, detector)| Watchers::new(&shipped_job(*detector)).unwrap()).collect();

    let mut generator = Generator::new(scenario.settings()).unwrap();
    let mut found: BTreeMap<_, Vec<Known>> = DETECTORS.iter().map(|(name, _)| (*name, Vec::new())).collect();
    let mut offsets = [0; 2];
    let mut final_until = i64::MIN;
    while let Some(event) = generator.next_event() {
        let input = usize::from(event.topic == Topic::Viewers);
        let at_ms = event.arrival_ms;
        let added =
            decoders[input].decode(Some(event.payload), |it| engine.add(sources[input], offsets[input], it, at_ms));
        added.unwrap();
        offsets[input] += 1;
        let slide = engine.watermark_ms().map_or(i64::MIN, |watermark_ms| watermark_ms.div_euclid(job.slide_ms));
        if slide == final_until {
            continue;
        }
        final_until = slide;
        let flush = engine.take_flush(false).unwrap();
        assert!(flush.late.is_empty(), "the generator's late events are within the watermark's delay");
        for ((name, _), watchers) in DETECTORS.iter().zip(&mut watchers) {
            let moments = watchers.observe(&flush).into_iter().map(|moment| Known { moment, at_ms });
            found.entry(name).or_default().extend(moments);
        }
        engine.flushed();
    }
    Run {
        planted: generator.take_planted(),
        found,
        names: (0..STREAMS).map(|stream| generator.stream_name(stream).to_owned()).collect(),
        messages_per_minute: (0..STREAMS).map(|stream| 60.0 * generator.stream_rate(stream)).collect(),
    }
}

#[derive(Debug, Clone, Default)]
struct Tally {
    planted: usize,
    /// Of the episodes that were found, sorted.
    delays_ms: Vec<i64>,
    moments: usize,
    false_by_stream: BTreeMap<String, usize>,
    /// What is out of bounds, in words.
    missed: Vec<String>,
}

impl Tally {
    fn in_time(&self) -> usize {
        self.delays_ms.iter().filter(|delay_ms| **delay_ms <= IN_TIME_MS).count()
    }

    fn false_moments(&self) -> usize {
        self.false_by_stream.values().sum()
    }
}

fn tally(run: &Run, detector: &str, kind: Kind) -> Tally {
    let mut tally = Tally::default();
    let name = |episode: &Episode| &run.names[episode.stream as usize];
    let is_known = |episode: &Episode| detector == "zscore" || episode.start_ms >= START_MS + HISTORY_MS;
    let mut first: Vec<Option<&Known>> = vec![None; run.planted.len()];
    for known in run.found[detector].iter().filter(|known| known.moment.moment_type == kind.name()) {
        let moment = &known.moment;
        let overlaps = |episode: &Episode| {
            *name(episode) == moment.key
                && moment.window_start_ms < episode.end_ms
                && moment.window_end_ms > episode.start_ms
        };
        let own = run.planted.iter().position(|episode| episode.kind == kind && overlaps(episode));
        let brings_emotes = |episode: &Episode| kind == Kind::EmoteSpike && episode.kind == Kind::ChatSpike;
        tally.moments += 1;
        match own {
            Some(own) if first[own].is_none() => first[own] = Some(known),
            None if run.planted.iter().any(|episode| brings_emotes(episode) && overlaps(episode)) => {}
            _ => *tally.false_by_stream.entry(moment.key.clone()).or_default() += 1,
        }
    }
    for (episode, found) in run.planted.iter().zip(first).filter(|(it, _)| it.kind == kind && is_known(it)) {
        let delay_ms = found.map(|known| known.at_ms - episode.start_ms);
        tally.planted += 1;
        tally.delays_ms.extend(delay_ms);
        if delay_ms.is_none_or(|delay_ms| delay_ms > IN_TIME_MS) {
            let stream = name(episode);
            let hours = (episode.start_ms - START_MS) as f64 / 3_600_000.0;
            let details = found.map(|Known { moment, .. }| (moment.value, moment.baseline, &moment.details));
            tally
                .missed
                .push(format!("{stream} after {hours:.2} h, x{}: {delay_ms:?} ms, {details:?}", episode.factor));
        }
    }
    tally.delays_ms.sort_unstable();
    tally
}

fn show(scenario: &Scenario, run: &Run) -> Vec<String> {
    let mut failures = Vec::new();
    let stream_days = f64::from(STREAMS) * scenario.days as f64;
    for (detector, _) in DETECTORS {
        let mut by_stream: BTreeMap<String, usize> = BTreeMap::new();
        for kind in Kind::PLANTED {
            let tally = tally(run, detector, kind);
            let share = |count: usize, of: usize| 100.0 * count as f64 / of.max(1) as f64;
            let seconds = |index: usize| tally.delays_ms.get(index).map_or(f64::NAN, |ms| *ms as f64 / 1e3);
            println!(
                "{:<10}{detector:<10}{:<12}{:>8}{:>10.1}{:>9.1}{:>11.1}{:>12.2}{:>10.1}{:>8.1}",
                scenario.name,
                kind.name(),
                tally.planted,
                share(tally.in_time(), tally.planted),
                share(tally.delays_ms.len(), tally.planted),
                share(tally.moments - tally.false_moments(), tally.moments),
                tally.false_moments() as f64 / stream_days,
                seconds(tally.delays_ms.len() / 2),
                seconds(tally.delays_ms.len().saturating_sub(1)),
            );
            assert!(tally.planted >= 10, "too few to say anything");
            if tally.in_time() < tally.planted {
                let missed = tally.missed.iter();
                failures.extend(missed.map(|it| format!("{} {detector} {}: {it}", scenario.name, kind.name())));
            }
            for (stream, count) in tally.false_by_stream {
                *by_stream.entry(stream).or_default() += count;
            }
        }
        let all = by_stream.values().sum::<usize>() as f64 / stream_days;
        let (worst, most) = by_stream.iter().max_by_key(|(_, count)| **count).map_or(("none", 0), |(s, n)| (s, *n));
        let worst_per_day = most as f64 / scenario.days as f64;
        println!(
            "{:<10}{detector:<10}all kinds: {all:.2} false moments per stream and day, {worst_per_day:.2} of the worst ({worst})",
            scenario.name
        );
        if worst_per_day > 1.0 {
            failures.push(format!("{} {detector}: {worst_per_day:.2} false moments a day in {worst}", scenario.name));
        }
    }
    failures
}

fn check(scenario: &Scenario) {
    let run = run(scenario);
    let levels: Vec<String> = run.messages_per_minute.iter().map(|level| format!("{level:.0}")).collect();
    println!(
        "{}: {} messages a minute, {} days, seed {}",
        scenario.name,
        levels.join(", "),
        scenario.days,
        scenario.seed
    );
    println!(
        "{:<10}{:<10}{:<12}{:>8}{:>10}{:>9}{:>11}{:>12}{:>10}{:>8}",
        "noise", "detector", "kind", "planted", "in 40 s%", "recall%", "precision%", "false/day", "median s", "max s"
    );
    let failures = show(scenario, &run);
    assert!(failures.is_empty(), "out of bounds:\n{}", failures.join("\n"));
}

/// A seed to look at others than those asserted.
fn seed(usual: u64) -> u64 {
    std::env::var("HEADWATER_MOMENTS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(usual)
}

#[test]
fn planted_episodes_are_found_in_independent_noise() {
    check(&Scenario {
        name: "flat",
        day_shape: DayShape::Flat,
        bursts_per_day: 0.0,
        messages_per_second: 20.0,
        days: 2,
        seed: seed(4_001),
    });
}

#[test]
fn planted_episodes_are_found_in_a_week_of_evenings_and_bursts() {
    check(&Scenario {
        name: "evening",
        day_shape: DayShape::Evening,
        bursts_per_day: 24.0,
        messages_per_second: 8.0,
        days: 7,
        seed: seed(4_002),
    });
}
