//! What the events are made of. The same settings give the same bytes.

use super::plan::Episode;

/// A share, a rate or a size that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} is {value}, and must be {constraint}")]
pub struct SettingsError {
    pub option: &'static str,
    pub value: String,
    pub constraint: &'static str,
}

/// Everything that the events depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub seed: u64,
    /// Event time of the first second, in milliseconds since 1970.
    pub start_ms: i64,
    pub volume: Volume,
    pub streams: u32,
    /// Of the whole platform; a user chats in any stream.
    pub users: u32,
    pub day_shape: DayShape,
    /// How often each stream tells its viewers.
    pub viewer_interval_ms: u64,
    /// Every event arrives up to so much after its time, which puts neighbours out of order.
    pub jitter_ms: u64,
    /// Share of events that arrive later than that,
    pub late_share: f64,
    /// by up to so much.
    pub late_ms: u64,
    /// Share of messages that arrive twice, with the same bytes.
    pub duplicate_share: f64,
    /// Share of records that do not fit, of either topic.
    pub bad_share: f64,
    pub planted: Plant,
    /// Planted at times of their own, besides those that are drawn.
    pub episodes: Vec<Episode>,
    /// Harmless bursts of chat for each stream and day, which are not listed as planted.
    pub bursts_per_day: f64,
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Volume {
    /// So many messages, spread over so many seconds of event time.
    Total { messages: u64, seconds: u64 },
    /// Messages a second, episodes and bursts not counted; without `seconds` there is no end.
    Rate { messages_per_second: f64, seconds: Option<u64> },
}

impl Volume {
    pub fn seconds(self) -> Option<u64> {
        match self {
            Volume::Total { seconds, .. } => Some(seconds),
            Volume::Rate { seconds, .. } => seconds,
        }
    }
}

/// How the hours of a day (UTC) differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DayShape {
    /// They do not.
    Flat,
    /// Six times as much at nine in the evening as at six in the morning.
    Evening,
}

/// Episodes that a detector should find.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plant {
    /// For each day and stream where they would show; a shorter run has its share, rounded up over all streams.
    pub chat_spikes_per_day: f64,
    pub viewer_drops_per_day: f64,
    pub emote_spikes_per_day: f64,
    /// Least time between two episodes of a stream, and before its first: a detector needs a history.
    /// At most a quarter of a short run.
    pub gap_seconds: u64,
}

impl Plant {
    pub const NOTHING: Plant =
        Plant { chat_spikes_per_day: 0.0, viewer_drops_per_day: 0.0, emote_spikes_per_day: 0.0, gap_seconds: 900 };
}

impl Default for Plant {
    fn default() -> Self {
        Plant { chat_spikes_per_day: 2.0, viewer_drops_per_day: 1.0, emote_spikes_per_day: 1.0, gap_seconds: 900 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            seed: 1,
            start_ms: 0,
            volume: Volume::Total { messages: 2_000_000, seconds: 7_200 },
            streams: 20,
            users: 50_000,
            day_shape: DayShape::Evening,
            viewer_interval_ms: 5_000,
            jitter_ms: 500,
            late_share: 0.01,
            late_ms: 8_000,
            duplicate_share: 0.0,
            bad_share: 0.0,
            planted: Plant::default(),
            episodes: Vec::new(),
            bursts_per_day: 24.0,
        }
    }
}

impl Settings {
    pub fn check(&self) -> Result<(), SettingsError> {
        let wrong = |option, value: String, constraint| Err(SettingsError { option, value, constraint });
        let shares = [
            ("the share of late events", self.late_share),
            ("the share of duplicates", self.duplicate_share),
            ("the share of bad records", self.bad_share),
        ];
        if let Some((option, share)) = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return wrong(option, share.to_string(), "between 0 and 1");
        }
        let counts = [
            ("the number of chat spikes", self.planted.chat_spikes_per_day),
            ("the number of viewer drops", self.planted.viewer_drops_per_day),
            ("the number of emote storms", self.planted.emote_spikes_per_day),
            ("the number of bursts", self.bursts_per_day),
        ];
        // An episode takes half a minute at least: more of them than that do not fit into a day.
        if let Some((option, count)) = counts.into_iter().find(|(_, count)| !(0.0..=2_880.0).contains(count)) {
            return wrong(option, count.to_string(), "between 0 and 2880 for each stream and day");
        }
        if let Volume::Rate { messages_per_second: rate, .. } = self.volume
            && !(rate > 0.0 && rate <= 1e9)
        {
            return wrong("the rate", rate.to_string(), "above 0");
        }
        let sizes = [
            ("the number of streams", u64::from(self.streams), 1_000_000),
            ("the number of users", u64::from(self.users), 50_000_000),
            ("the time in seconds", self.volume.seconds().unwrap_or(1), 366 * 86_400),
        ];
        if let Some((option, size, _)) = sizes.into_iter().find(|(_, size, most)| *size == 0 || size > most) {
            return wrong(
                option,
                size.to_string(),
                match option {
                    "the number of streams" => "between 1 and 1,000,000",
                    "the number of users" => "between 1 and 50,000,000",
                    _ => "between 1 s and 366 days",
                },
            );
        }
        // Any day of the years that four digits write.
        if !(-62_135_596_800_000..=253_370_764_800_000).contains(&self.start_ms) {
            return wrong("the start", format!("{} ms", self.start_ms), "in the years 1 to 9998");
        }
        // A day at most: what arrives late is held until then.
        let delays = [("the jitter", self.jitter_ms), ("the delay of late events", self.late_ms)];
        if let Some((option, delay)) = delays.into_iter().find(|(_, delay)| *delay > 86_400_000) {
            return wrong(option, format!("{delay} ms"), "at most a day");
        }
        let is_possible = |episode: &&Episode| {
            let Episode { stream, start_ms, end_ms, factor, .. } = **episode;
            let is_in_time = self.start_ms <= start_ms && start_ms < end_ms;
            stream < self.streams && is_in_time && factor >= 0.0 && factor.is_finite()
        };
        if let Some(episode) = self.episodes.iter().find(|episode| !is_possible(episode)) {
            let words = "in one of the streams, of a time from the start on, with a factor of at least 0";
            return wrong("an episode", format!("{episode:?}"), words);
        }
        if self.viewer_interval_ms == 0 {
            return wrong("the interval of viewer events", "0 ms".to_owned(), "at least 1 ms");
        }
        Ok(())
    }
}

/// Relative amounts of the 24 hours, UTC, each at its beginning; their mean is 1.
const EVENING: [f64; 24] = [
    1.20, 0.95, 0.72, 0.54, 0.42, 0.34, 0.30, 0.34, 0.44, 0.56, 0.68, 0.80, 0.90, 0.98, 1.05, 1.14, 1.25, 1.38, 1.53,
    1.68, 1.79, 1.82, 1.70, 1.49,
];

impl DayShape {
    /// How much more than on average there is at this time.
    pub fn factor(self, time_ms: i64) -> f64 {
        match self {
            DayShape::Flat => 1.0,
            DayShape::Evening => {
                let hours = time_ms.rem_euclid(86_400_000) as f64 / 3_600_000.0;
                let (hour, part) = (hours as usize, hours.fract());
                EVENING[hour % 24] * (1.0 - part) + EVENING[(hour + 1) % 24] * part
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::chat::Kind;

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        type Change = fn(&mut Settings);
        const SPIKE: Episode = Episode { kind: Kind::ChatSpike, stream: 19, start_ms: 0, end_ms: 1, factor: 2.0 };
        let cases: [(&str, Change); 12] = [
            ("late", |s| s.late_share = 1.5),
            ("duplicates", |s| s.duplicate_share = f64::NAN),
            ("bad", |s| s.bad_share = -0.1),
            ("rate", |s| s.volume = Volume::Rate { messages_per_second: 0.0, seconds: None }),
            ("streams", |s| s.streams = 0),
            ("users", |s| s.users = 0),
            ("spikes", |s| s.planted.chat_spikes_per_day = f64::INFINITY),
            ("seconds", |s| s.volume = Volume::Total { messages: 1, seconds: 0 }),
            ("interval", |s| s.viewer_interval_ms = 0),
            ("episode", |s| s.episodes = vec![Episode { stream: 20, ..SPIKE }]),
            ("episode", |s| s.episodes = vec![SPIKE, Episode { end_ms: 0, ..SPIKE }]),
            ("episode", |s| s.episodes = vec![Episode { factor: -1.0, ..SPIKE }]),
        ];
        assert_eq!(Settings::default().check(), Ok(()));
        for (word, change) in cases {
            let mut settings = Settings::default();
            change(&mut settings);
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("must be"), "{error}");
        }
    }

    #[test]
    fn the_evening_has_six_times_the_morning_and_the_mean_is_one() {
        let day: Vec<f64> = (0..1_440).map(|minute| DayShape::Evening.factor(minute * 60_000)).collect();
        assert!((day.iter().sum::<f64>() / 1_440.0 - 1.0).abs() < 0.01);
        let (least, most) = day.iter().fold((f64::MAX, 0.0_f64), |(a, b), x| (a.min(*x), b.max(*x)));
        assert!((6.0..6.2).contains(&(most / least)), "{least} {most}");
        let jump = day.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f64::max);
        assert!(jump < 0.01 && (day[1_439] - day[0]).abs() < 0.01);
        // Before 1970, too.
        assert_eq!(DayShape::Evening.factor(-86_400_000), DayShape::Evening.factor(0));
    }
}
