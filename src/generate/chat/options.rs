//! The command line of `headwater generate chat`.

use super::{CHAT_TOPIC, DayShape, Job, Pace, Plant, Progress, Settings, VIEWER_TOPIC, Volume};
use crate::{
    clock,
    config::model::{Compression, Kafka},
    generate::{
        GenerateError, Show,
        target::{ConfigFile, TARGET, target_group},
    },
};
use std::{io::IsTerminal, path::PathBuf};
use tokio::sync::watch;

#[derive(Debug, Clone, clap::Args)]
#[command(group = target_group())]
pub struct Options {
    /// The brokers, without TLS and passwords: host:port[,host:port]. For others give a file.
    #[arg(long, value_name = "BROKERS", group = TARGET)]
    pub brokers: Option<String>,
    #[command(flatten)]
    pub file: ConfigFile,
    /// Whose section of the file, where it has several tenants.
    #[arg(long, value_name = "NAME", requires = "config", conflicts_with = "brokers")]
    pub tenant: Option<String>,
    /// Messages, keyed by stream.
    #[arg(long, default_value = CHAT_TOPIC, value_name = "TOPIC")]
    pub chat_topic: String,
    /// Viewer counts, keyed by stream.
    #[arg(long, default_value = VIEWER_TOPIC, value_name = "TOPIC")]
    pub viewer_topic: String,
    /// Of either topic, where it is made.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: i32,
    /// Of either topic, where it is made.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub replication: i32,
    /// Fail where a topic is missing.
    #[arg(long)]
    pub no_create: bool,
    /// The same seed and start give the same records.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Write so many messages of the past as fast as possible, instead of living at a rate.
    #[arg(long, value_name = "MESSAGES", conflicts_with_all = ["rate", "seconds"])]
    pub bulk: Option<u64>,
    /// With --bulk: hours of event time over which the messages are spread.
    #[arg(long, default_value_t = 2.0, requires = "bulk")]
    pub hours: f64,
    /// With --bulk: event time of the first message (2025-01-15T18:00:00Z); so that they end now, when not given.
    #[arg(long, requires = "bulk", value_name = "TIME", value_parser = parse_time)]
    pub start: Option<i64>,
    /// Messages a second, apart from spikes and bursts.
    #[arg(long, default_value_t = 1_000.0)]
    pub rate: f64,
    /// End after so many seconds; at a signal, when not given.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Begin so many minutes ago: the past is written as fast as possible, so that detectors know what is usual.
    #[arg(long, default_value_t = 0, value_name = "MINUTES", conflicts_with = "bulk",
          value_parser = clap::value_parser!(u64).range(..=527_040))]
    pub past: u64,

    /// Streams; the first are the large ones (Zipf's law).
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub streams: u32,
    /// Users of the whole platform; few write much (Zipf's law).
    #[arg(long, default_value_t = 50_000, value_name = "N")]
    pub users: u32,
    /// How the hours of a day (UTC) differ; evening with --bulk, else flat, when not given.
    #[arg(long, value_enum)]
    pub day_shape: Option<DayShape>,
    /// How often each stream tells its viewers.
    #[arg(long, default_value_t = 5_000, value_name = "MILLISECONDS")]
    pub viewer_interval_ms: u64,

    /// Every event arrives up to so much after its time: neighbours are out of order.
    #[arg(long, default_value_t = 500, value_name = "MILLISECONDS")]
    pub jitter_ms: u64,
    /// Share of events that arrive later than that.
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    pub late: f64,
    /// By how much at most.
    #[arg(long, default_value_t = 8_000, value_name = "MILLISECONDS")]
    pub late_ms: u64,
    /// Share of messages that come twice, under the same event_id.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub duplicates: f64,
    /// Share of records that do not fit: broken JSON, no key, no time.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub bad: f64,

    /// Planted for each stream and day: 5 to 20 times the messages for half a minute to two, the more the fewer they are;
    /// none below 30 messages a minute.
    #[arg(long, default_value_t = 2.0, value_name = "COUNT")]
    pub spikes: f64,
    /// Planted for each stream and day: 60 to 80 % of the viewers gone for one to three minutes; none below 300 viewers.
    #[arg(long, default_value_t = 1.0, value_name = "COUNT")]
    pub drops: f64,
    /// Planted for each stream and day: 5 to 20 times the emotes of a message for half a minute to two, the more the
    /// fewer they are; none below 30 emotes a minute.
    #[arg(long, default_value_t = 1.0, value_name = "COUNT")]
    pub storms: f64,
    /// Least time before a stream's first planted episode and between two; a quarter of a short run at most.
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    pub plant_gap: u64,
    /// List the planted episodes here, each when it has ended: CSV, or JSON lines where the name ends in .ndjson.
    #[arg(long, value_name = "FILE")]
    pub planted: Option<PathBuf>,
    /// Harmless bursts for each stream and day, not listed: up to twice the messages for up to a minute.
    #[arg(long, default_value_t = 24.0, value_name = "COUNT")]
    pub bursts: f64,
}

impl Options {
    pub(super) fn job(self, shutdown: watch::Receiver<bool>) -> Result<Job, GenerateError> {
        let mut kafka = match &self.brokers {
            Some(brokers) => Kafka::plaintext(brokers),
            None => self.file.kafka(self.tenant.as_deref())?,
        };
        kafka.create_topics &= !self.no_create;
        let now_ms = clock::now_ms();
        Ok(Job {
            kafka,
            partitions: self.partitions,
            replication: self.replication,
            compression: Compression::None,
            settings: self.settings(now_ms),
            pace: if self.bulk.is_some() { Pace::Fast } else { Pace::RealTime },
            chat_topic: self.chat_topic,
            viewer_topic: self.viewer_topic,
            planted: self.planted,
            shutdown,
            show: if std::io::stderr().is_terminal() { Show::Bar } else { Show::Log },
            progress: Progress::default(),
        })
    }

    fn settings(&self, now_ms: i64) -> Settings {
        // Whole seconds, so that the list of episodes reads well.
        let now_ms = now_ms / 1_000 * 1_000;
        let (volume, start_ms, usual_shape) = match self.bulk {
            Some(messages) => {
                let seconds = (self.hours * 3_600.0).round() as u64;
                let start_ms = self.start.unwrap_or(now_ms.saturating_sub_unsigned(seconds.saturating_mul(1_000)));
                (Volume::Total { messages, seconds }, start_ms, DayShape::Evening)
            }
            None => {
                let past = self.past * 60;
                let seconds = self.seconds.map(|seconds| seconds.saturating_add(past));
                let volume = Volume::Rate { messages_per_second: self.rate, seconds };
                (volume, now_ms - past as i64 * 1_000, DayShape::Flat)
            }
        };
        Settings {
            seed: self.seed,
            start_ms,
            volume,
            streams: self.streams,
            users: self.users,
            day_shape: self.day_shape.unwrap_or(usual_shape),
            viewer_interval_ms: self.viewer_interval_ms,
            jitter_ms: self.jitter_ms,
            late_share: self.late,
            late_ms: self.late_ms,
            duplicate_share: self.duplicates,
            bad_share: self.bad,
            planted: Plant {
                chat_spikes_per_day: self.spikes,
                viewer_drops_per_day: self.drops,
                emote_spikes_per_day: self.storms,
                gap_seconds: self.plant_gap,
            },
            episodes: Vec::new(),
            bursts_per_day: self.bursts,
        }
    }
}

fn parse_time(text: &str) -> Result<i64, String> {
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|time| time.timestamp_millis())
        .map_err(|error| format!("{error}; write it as 2025-01-15T18:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parsed(arguments: &[&str]) -> Result<Options, String> {
        let line = ["chat"].iter().chain(arguments);
        Line::try_parse_from(line).map(|line| line.options).map_err(|error| error.to_string())
    }

    const NOW_MS: i64 = 1_736_964_000_900;

    #[test]
    fn a_bulk_ends_now_or_starts_as_told() {
        let bulk = ["--brokers", "k:9092", "--bulk", "500", "--hours", "1.5"];
        let settings = parsed(&bulk).unwrap().settings(NOW_MS);
        assert_eq!(settings.volume, Volume::Total { messages: 500, seconds: 5_400 });
        assert_eq!((settings.start_ms, settings.day_shape), (1_736_958_600_000, DayShape::Evening));
        let told = [&bulk[..], &["--start", "2025-01-15T20:00:00+02:00", "--day-shape", "flat"]].concat();
        let settings = parsed(&told).unwrap().settings(NOW_MS);
        assert_eq!((settings.start_ms, settings.day_shape), (1_736_964_000_000, DayShape::Flat));
        assert_eq!(settings.check(), Ok(()));
    }

    #[test]
    fn a_live_run_starts_now_with_the_settings_of_the_library() {
        let settings = parsed(&["-c", "f.yml", "--rate", "50"]).unwrap().settings(NOW_MS);
        let volume = Volume::Rate { messages_per_second: 50.0, seconds: None };
        let day_shape = DayShape::Flat;
        assert_eq!(settings, Settings { start_ms: 1_736_964_000_000, volume, day_shape, ..Settings::default() });
    }

    #[test]
    fn a_live_run_may_begin_in_the_past() {
        let settings = parsed(&["-c", "f.yml", "--past", "10", "--seconds", "30"]).unwrap().settings(NOW_MS);
        assert_eq!((settings.start_ms, settings.volume.seconds()), (1_736_963_400_000, Some(630)));
        assert_eq!(settings.check(), Ok(()));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for arguments in [
            &["--rate", "5"][..],
            &["--brokers", "k:1", "-c", "f.yml"],
            &["--brokers", "k:1", "--bulk", "5", "--rate", "5"],
            &["--brokers", "k:1", "--hours", "5"],
            &["--brokers", "k:1", "--bulk", "5", "--past", "5"],
            &["--brokers", "k:1", "--bulk", "5", "--start", "yesterday"],
            &["--brokers", "k:1", "--tenant", "a"],
            &["--brokers", "k:1", "--partitions", "0"],
        ] {
            assert!(parsed(arguments).is_err(), "{arguments:?}");
        }
        let far = parsed(&["--brokers", "k:1", "--bulk", "5", "--hours", "1e30"]).unwrap();
        assert!(far.settings(NOW_MS).check().is_err());
    }
}
