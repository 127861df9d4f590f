//! What is written: the past and the present of one chat, and what is planted in it.

use crate::{
    demo::Options,
    generate::{
        Random,
        chat::{DayShape, Episode, Generator, Kind, Plant, Settings, SettingsError, Volume},
    },
};

pub const STREAMS: u32 = 20;
/// The shipped window; all times of the script lie on this grid.
pub const SLIDE_MS: i64 = 10_000;
const DUPLICATES: f64 = 0.000_5;
const BAD: f64 = 0.000_2;
/// Each in a stream of its own: in the past, and live.
const PAST: [(Kind, usize); 3] = [(Kind::ChatSpike, 5), (Kind::ViewerDrop, 3), (Kind::EmoteSpike, 3)];
const LIVE: [(Kind, usize); 3] = [(Kind::ChatSpike, 2), (Kind::ViewerDrop, 1), (Kind::EmoteSpike, 1)];
/// From here on a detector knows the five windows that it needs, and the first of them is whole.
const HISTORY_MS: i64 = 7 * 60_000;
/// An episode that begins so long before the end has a final window in which it shows: it is found within 40 s, 10 s
/// of which are the wait until a window is final, and the last window may end a slide before the end.
const NOTICE_MS: i64 = 40_000;

/// One sequence of events that begins in the past and ends `seconds` from now.
#[derive(Debug, Clone)]
pub struct Script {
    pub settings: Settings,
    /// When it was written.
    pub live_from_ms: i64,
    pub end_ms: i64,
    /// Planted, by their start.
    pub episodes: Vec<Episode>,
}

impl Script {
    /// Fails when the options ask for a chat that cannot be, such as no messages a second.
    pub fn new(options: &Options, now_ms: i64) -> Result<Script, SettingsError> {
        let live_from_ms = now_ms.div_euclid(SLIDE_MS) * SLIDE_MS;
        let past_seconds = u64::from(options.chat_past) * 60;
        // The part of a slide that has passed already is made up for.
        let seconds = past_seconds + (options.seconds + (now_ms - live_from_ms) as f64 / 1e3).ceil().max(1.0) as u64;
        let start_ms = live_from_ms - past_seconds as i64 * 1_000;
        let end_ms = start_ms + seconds as i64 * 1_000;
        let mut settings = Settings {
            seed: options.seed,
            start_ms,
            volume: Volume::Rate { messages_per_second: options.chat_rate, seconds: Some(seconds) },
            streams: STREAMS,
            day_shape: DayShape::Flat,
            duplicate_share: DUPLICATES,
            bad_share: BAD,
            planted: Plant::NOTHING,
            // A detector learns over hours which bursts are usual; here it has minutes.
            bursts_per_day: 0.0,
            ..Settings::default()
        };
        let episodes = episodes(&settings, live_from_ms, end_ms)?;
        settings.episodes.clone_from(&episodes);
        Ok(Script { settings, live_from_ms, end_ms, episodes })
    }

    /// How often something of the kind is planted.
    pub fn count(&self, kind: Kind) -> usize {
        self.episodes.iter().filter(|episode| episode.kind == kind).count()
    }

    /// The end of the last window in which every second is whole.
    pub fn last_whole_ms(&self) -> i64 {
        self.end_ms.div_euclid(SLIDE_MS) * SLIDE_MS
    }
}

fn episodes(settings: &Settings, live_from_ms: i64, end_ms: i64) -> Result<Vec<Episode>, SettingsError> {
    let generator = Generator::new(settings.clone())?;
    let mut random = Random::new(settings.seed);
    let mut streams: Vec<u32> = (0..STREAMS).collect();
    let live_until_ms = end_ms - NOTICE_MS;
    let spans = [
        (PAST, settings.start_ms + HISTORY_MS, live_from_ms - 60_000),
        // A short demo has none that is quite live.
        (LIVE, live_until_ms - 20_000, live_until_ms),
    ];
    let mut episodes = Vec::new();
    for (kinds, from_ms, until_ms) in spans {
        for kind in kinds.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count)) {
            let large: Vec<(usize, (f64, f64))> =
                (0..streams.len()).filter_map(|n| Some((n, generator.sizes(kind, streams[n])?))).collect();
            // At a low rate no stream may be large enough.
            if large.is_empty() {
                continue;
            }
            let (place, (low, high)) = large[random.below(large.len() as u64) as usize];
            let stream = streams.swap_remove(place);
            let factor = ((low + (high - low) * random.unit()) * 100.0).round() / 100.0;
            let (least, most) = if kind == Kind::ViewerDrop { (60, 120) } else { (30, 60) };
            let length_ms = (least + random.below(most - least + 1)) as i64 * 1_000;
            let start_ms = from_ms + random.below(((until_ms - from_ms) / 1_000) as u64) as i64 * 1_000;
            episodes.push(Episode { kind, stream, start_ms, end_ms: (start_ms + length_ms).min(end_ms), factor });
        }
    }
    episodes.sort_by_key(|episode| (episode.start_ms, episode.stream));
    Ok(episodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::HashSet;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    const NOW_MS: i64 = 1_736_942_403_900;

    fn script(arguments: &[&str]) -> Script {
        let line = ["demo"].iter().chain(arguments);
        Script::new(&Line::try_parse_from(line).unwrap().options, NOW_MS).unwrap()
    }

    #[test]
    fn it_ends_when_told_and_the_generator_takes_it() {
        for seconds in ["5", "25", "70", "70.5"] {
            let script = script(&["--seconds", seconds]);
            assert_eq!(script.settings.check(), Ok(()));
            assert_eq!(script.live_from_ms, 1_736_942_400_000);
            let seconds: f64 = seconds.parse().unwrap();
            let planned_ms = (script.end_ms - NOW_MS) as f64;
            assert!((0.0..=1_000.0).contains(&(planned_ms - seconds * 1_000.0)), "{planned_ms}");
            assert!(script.last_whole_ms() <= script.end_ms && script.last_whole_ms() > script.end_ms - SLIDE_MS);
        }
    }

    #[test]
    fn each_episode_has_a_stream_of_its_own_a_history_and_time_to_show() {
        for seed in 0..200 {
            for seconds in ["20", "70"] {
                let script = script(&["--seed", &seed.to_string(), "--seconds", seconds]);
                assert_eq!(script.count(Kind::ChatSpike) + script.count(Kind::EmoteSpike), 11);
                let streams: HashSet<u32> = script.episodes.iter().map(|episode| episode.stream).collect();
                assert_eq!(streams.len(), script.episodes.len());
                let generator = Generator::new(script.settings.clone()).unwrap();
                for episode in &script.episodes {
                    let (low, high) = generator.sizes(episode.kind, episode.stream).unwrap();
                    assert!((low - 0.005..=high + 0.005).contains(&episode.factor), "{episode:?}");
                    assert!(episode.start_ms >= script.settings.start_ms + HISTORY_MS);
                    assert!(episode.start_ms <= script.end_ms - NOTICE_MS && episode.end_ms <= script.end_ms);
                }
            }
        }
        let live = |script: &Script| script.episodes.iter().filter(|e| e.start_ms >= NOW_MS).count();
        assert_eq!(live(&script(&["--seconds", "70"])), 4);
    }
}
