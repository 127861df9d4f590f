//! What is to happen on a day: the planted episodes, and bursts that mean nothing.

use super::{
    draws::{between, mix, poisson},
    message::{EMOTES_PER_MESSAGE, Mood},
    settings::{DayShape, Settings},
    streams::Streams,
    words::EMOTES,
};
use crate::generate::Random;
use serde::Serialize;
use std::collections::HashMap;

pub const DAY_SECONDS: u64 = 86_400;
/// How large an episode is to be found within 40 s of its start, by its measure's level (`analyze::anomaly` promises
/// it a little below these, and has the reasons): of messages or emotes a minute, what multiplies them at least; of viewers, what is left
/// of them at most. In between, by the level's logarithm; at a level below the first it would not show.
const LEAST_SPIKES: [(f64, f64); 3] = [(30.0, 12.0), (100.0, 8.0), (600.0, 5.5)];
const LEAST_DROPS: [(f64, f64); 2] = [(300.0, 0.3), (2_000.0, 0.4)];
/// A spike is up to so many times as high as the least.
const HIGHEST_SPIKE: f64 = 2.0;
/// What the largest drop leaves.
const LARGEST_DROP: f64 = 0.2;
/// What a burst that means nothing multiplies the messages by.
const BURSTS: (f64, f64) = (1.2, 2.0);
/// How often a place is looked for that is far enough from other episodes.
const TRIES: u32 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    ChatSpike,
    ViewerDrop,
    EmoteSpike,
    /// A burst of chat as any crowd has them; not listed.
    Burst,
}

impl Kind {
    pub const PLANTED: [Kind; 3] = [Kind::ChatSpike, Kind::ViewerDrop, Kind::EmoteSpike];

    /// As in `moments.moment_type`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::ChatSpike => "chat_spike",
            Kind::ViewerDrop => "viewer_drop",
            Kind::EmoteSpike => "emote_spike",
            Kind::Burst => "burst",
        }
    }

    /// How long it lasts, in seconds; half of a short run at most.
    fn lengths(self) -> (f64, f64) {
        match self {
            Kind::ChatSpike | Kind::EmoteSpike => (30.0, 120.0),
            Kind::ViewerDrop => (60.0, 180.0),
            Kind::Burst => (10.0, 60.0),
        }
    }

    /// What it multiplies its measure by, at least and at most, where that has such a level; `None` where it
    /// would not show.
    fn factors(self, level: f64) -> Option<(f64, f64)> {
        match self {
            Kind::ChatSpike | Kind::EmoteSpike => {
                least_size(&LEAST_SPIKES, level).map(|least| (least, HIGHEST_SPIKE * least))
            }
            Kind::ViewerDrop => least_size(&LEAST_DROPS, level).map(|most| (LARGEST_DROP, most)),
            Kind::Burst => Some(BURSTS),
        }
    }
}

fn least_size(sizes: &[(f64, f64)], level: f64) -> Option<f64> {
    let above = sizes.partition_point(|(at, _)| *at <= level);
    let (low, size) = *sizes.get(above.checked_sub(1)?)?;
    let Some((high, next)) = sizes.get(above) else { return Some(size) };
    Some(size + (next - size) * (level / low).ln() / (high / low).ln())
}

/// A time in which one measure of one stream is multiplied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Episode {
    pub kind: Kind,
    /// From 0.
    pub stream: u32,
    pub start_ms: i64,
    pub end_ms: i64,
    /// Of messages (`chat_spike`), viewers (`viewer_drop`), emotes of a message (`emote_spike`).
    pub factor: f64,
}

impl Episode {
    /// Messages on top of the stream's own, as a multiple of these.
    pub fn extra_messages(&self) -> f64 {
        match self.kind {
            Kind::ChatSpike | Kind::Burst => self.factor - 1.0,
            Kind::ViewerDrop | Kind::EmoteSpike => 0.0,
        }
    }

    /// How its messages differ.
    pub fn mood(&self) -> Mood {
        match self.kind {
            Kind::ChatSpike => Mood::Cheer,
            Kind::EmoteSpike => Mood::Storm {
                emote: (mix(self.start_ms as u64 ^ u64::from(self.stream)) % EMOTES.len() as u64) as u8,
                factor: self.factor as f32,
            },
            Kind::ViewerDrop | Kind::Burst => Mood::Calm,
        }
    }
}

/// The sizes that an episode of the kind may have in a stream ([`Kind::factors`]) while the day's shape has such a
/// factor.
pub fn sizes(
    streams: &Streams,
    messages_per_second: f64,
    kind: Kind,
    stream: u32,
    day_factor: f64,
) -> Option<(f64, f64)> {
    let messages = 60.0 * streams.share(stream) * messages_per_second * day_factor;
    // Messages or emotes a minute, or viewers, without episodes.
    kind.factors(match kind {
        Kind::ChatSpike | Kind::Burst => messages,
        Kind::EmoteSpike => messages * EMOTES_PER_MESSAGE,
        Kind::ViewerDrop => streams.viewers(stream) * day_factor.sqrt(),
    })
}

/// The episodes of one day of event time (24 hours from `start_ms`, not a calendar's day), by their
/// start. None that is drawn reaches into the next day.
pub fn plan(settings: &Settings, streams: &Streams, messages_per_second: f64, day: u64) -> Vec<Episode> {
    let first_second = day * DAY_SECONDS;
    let whole = settings.volume.seconds().unwrap_or(u64::MAX);
    let seconds = whole.saturating_sub(first_second).min(DAY_SECONDS);
    let mut planner = Planner {
        random: Random::new(mix(settings.seed ^ mix(day ^ 0x_70_6c_61_6e))),
        start_ms: settings.start_ms + first_second as i64 * 1_000,
        seconds: seconds as f64,
        gap_ms: (settings.planted.gap_seconds.min(seconds / 4) * 1_000) as i64,
        day_shape: settings.day_shape,
        messages_per_second,
        streams,
        taken: HashMap::new(),
        episodes: Vec::new(),
    };
    planner.place(&settings.episodes);
    let counts = [
        (Kind::ChatSpike, settings.planted.chat_spikes_per_day),
        (Kind::ViewerDrop, settings.planted.viewer_drops_per_day),
        (Kind::EmoteSpike, settings.planted.emote_spikes_per_day),
    ];
    let days = seconds as f64 / DAY_SECONDS as f64;
    for (kind, per_day) in counts {
        planner.plant(kind, per_day * days);
    }
    planner.add_bursts(settings.bursts_per_day * f64::from(settings.streams) * days);
    planner.episodes.sort_by_key(|episode| (episode.start_ms, episode.stream, episode.kind));
    planner.episodes
}

struct Planner<'a> {
    random: Random,
    start_ms: i64,
    seconds: f64,
    gap_ms: i64,
    day_shape: DayShape,
    messages_per_second: f64,
    streams: &'a Streams,
    /// Start and end of each stream's planted episodes.
    taken: HashMap<u32, Vec<(i64, i64)>>,
    episodes: Vec<Episode>,
}

impl Planner<'_> {
    /// Those of the settings, from which the drawn ones keep away.
    fn place(&mut self, episodes: &[Episode]) {
        let end_ms = self.start_ms + (DAY_SECONDS * 1_000) as i64;
        for episode in episodes.iter().filter(|episode| (self.start_ms..end_ms).contains(&episode.start_ms)) {
            self.taken.entry(episode.stream).or_default().push((episode.start_ms, episode.end_ms));
            self.episodes.push(*episode);
        }
    }

    /// So many for each stream where they would show, as there is room for them.
    fn plant(&mut self, kind: Kind, per_stream: f64) {
        let all = 0..self.streams.shares().len() as u32;
        // At its best time of day, that is; the time itself is looked at below.
        let candidates: Vec<u32> = all.filter(|stream| self.sizes(kind, *stream, 2.0).is_some()).collect();
        if candidates.is_empty() {
            return;
        }
        for _ in 0..(per_stream * candidates.len() as f64).ceil() as u64 {
            for _ in 0..TRIES {
                let stream = candidates[self.random.below(candidates.len() as u64) as usize];
                let Some(episode) = self.draw(kind, stream) else { continue };
                let taken = self.taken.entry(stream).or_default();
                let is_apart = |(start, end): &(i64, i64)| {
                    episode.start_ms >= end + self.gap_ms || episode.end_ms + self.gap_ms <= *start
                };
                let has_history = episode.start_ms >= self.start_ms + self.gap_ms;
                if has_history && taken.iter().all(is_apart) {
                    taken.push((episode.start_ms, episode.end_ms));
                    self.episodes.push(episode);
                    break;
                }
            }
        }
    }

    fn sizes(&self, kind: Kind, stream: u32, day_factor: f64) -> Option<(f64, f64)> {
        sizes(self.streams, self.messages_per_second, kind, stream, day_factor)
    }

    fn add_bursts(&mut self, mean: f64) {
        for _ in 0..poisson(&mut self.random, mean) {
            let stream = self.random.below(self.streams.shares().len() as u64) as u32;
            let burst = self.draw(Kind::Burst, stream);
            self.episodes.extend(burst);
        }
    }

    /// At any whole second at which it ends within the day; `None` where it would not show.
    fn draw(&mut self, kind: Kind, stream: u32) -> Option<Episode> {
        // A short run has room for a short one, behind the gap that is a quarter of the run.
        let length = between(&mut self.random, kind.lengths()).round().min((self.seconds / 2.0).ceil());
        let start = (self.random.unit() * (self.seconds - length + 1.0)).floor();
        let start_ms = self.start_ms + start as i64 * 1_000;
        let factors = self.sizes(kind, stream, self.day_shape.factor(start_ms))?;
        // Two digits, so that the list says what was done.
        let factor = (between(&mut self.random, factors) * 100.0).round() / 100.0;
        Some(Episode { kind, stream, start_ms, end_ms: start_ms + length as i64 * 1_000, factor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::chat::settings::{Plant, Volume};

    fn settings(seconds: u64) -> Settings {
        Settings {
            start_ms: 1_736_899_200_000,
            volume: Volume::Rate { messages_per_second: 200.0, seconds: Some(seconds) },
            planted: Plant { chat_spikes_per_day: 4.0, viewer_drops_per_day: 3.0, ..Plant::default() },
            ..Settings::default()
        }
    }

    #[test]
    fn episodes_stand_apart_with_a_history_before_each() {
        let settings = settings(3 * DAY_SECONDS);
        let streams = Streams::new(1, 20, 200.0);
        let all: Vec<Episode> = (0..3).flat_map(|day| plan(&settings, &streams, 200.0, day)).collect();
        let of = |kind| all.iter().filter(|episode| episode.kind == kind).count();
        assert_eq!((of(Kind::ChatSpike), of(Kind::ViewerDrop), of(Kind::EmoteSpike)), (240, 180, 60));
        assert!((1_200..1_700).contains(&of(Kind::Burst)), "{}", of(Kind::Burst));
        for stream in 0..20 {
            let mut last_end = settings.start_ms;
            let planted = all.iter().filter(|episode| episode.stream == stream && episode.kind != Kind::Burst);
            for episode in planted {
                assert!(episode.start_ms - last_end >= 900_000 && episode.end_ms > episode.start_ms);
                last_end = episode.end_ms;
            }
            assert!(last_end <= settings.start_ms + 3 * 86_400_000);
        }
    }

    #[test]
    fn a_short_run_has_its_share_and_at_least_one_of_each() {
        let streams = Streams::new(1, 20, 200.0);
        for seconds in [600, 20] {
            let settings = settings(seconds);
            let all = plan(&settings, &streams, 200.0, 0);
            for kind in Kind::PLANTED {
                assert_eq!(all.iter().filter(|episode| episode.kind == kind).count(), 1, "{kind:?}");
            }
            let end_ms = settings.start_ms + seconds as i64 * 1_000;
            assert!(all.iter().all(|episode| episode.start_ms < episode.end_ms && episode.end_ms <= end_ms));
        }
    }

    #[test]
    fn sizes_follow_the_level() {
        let least = |level| least_size(&LEAST_SPIKES, level);
        assert_eq!((least(29.9), least(30.0), least(100.0)), (None, Some(12.0), Some(8.0)));
        assert_eq!((least(600.0), least(1e6)), (Some(5.5), Some(5.5)));
        assert!((least(f64::sqrt(30.0 * 100.0)).unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(Kind::ViewerDrop.factors(50_000.0), Some((0.2, 0.4)));
        assert_eq!(Kind::ViewerDrop.factors(299.0), None);
    }

    #[test]
    fn episodes_of_the_settings_are_there_and_others_keep_away() {
        let mut settings = settings(DAY_SECONDS);
        let start_ms = settings.start_ms + 40_000_000;
        let spike = Episode { kind: Kind::ChatSpike, stream: 3, start_ms, end_ms: start_ms + 45_000, factor: 5.0 };
        let tomorrow = Episode { start_ms: start_ms + 86_400_000, end_ms: start_ms + 86_500_000, ..spike };
        settings.episodes = vec![tomorrow, spike];
        let streams = Streams::new(1, 20, 200.0);
        let of_day = |day| plan(&settings, &streams, 200.0, day);
        let all = of_day(0);
        assert!(all.contains(&spike) && !all.contains(&tomorrow) && of_day(1).contains(&tomorrow));
        let near = |e: &&Episode| e.start_ms < spike.end_ms + 900_000 && e.end_ms + 900_000 > spike.start_ms;
        let neighbours = all.iter().filter(|e| e.stream == 3 && e.kind != Kind::Burst).filter(near);
        assert_eq!(neighbours.count(), 1);
    }

    #[test]
    fn nothing_is_planted_where_it_would_not_show() {
        assert!(
            plan(&settings(DAY_SECONDS), &Streams::new(1, 20, 0.1), 0.1, 0).iter().all(|it| it.kind == Kind::Burst)
        );
        let streams = Streams::new(1, 20, 5.0);
        let episodes = plan(&settings(DAY_SECONDS), &streams, 5.0, 0);
        for kind in Kind::PLANTED {
            assert!(episodes.iter().any(|episode| episode.kind == kind), "{kind:?}");
        }
        for episode in episodes {
            let shape = DayShape::Evening.factor(episode.start_ms);
            let messages = 300.0 * streams.share(episode.stream) * shape;
            let (level, least) = match episode.kind {
                Kind::ChatSpike => (messages, 30.0),
                Kind::EmoteSpike => (messages * EMOTES_PER_MESSAGE, 30.0),
                Kind::ViewerDrop => (streams.viewers(episode.stream) * shape.sqrt(), 300.0),
                Kind::Burst => continue,
            };
            assert!(level >= least, "{episode:?}: {level}");
        }
    }
}
