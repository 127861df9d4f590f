//! What is watched, and how: the declaration of a watch and the shipped ones.

use serde::Serialize;
use thiserror::Error;

/// Which departures from the baseline count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Up,
    Down,
    Both,
}

/// What a window without a row means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// Nothing happened: right for counts, sums and rates.
    Zero,
    /// Nobody measured: right for averages, minima, maxima.
    Missing,
}

/// The least deviation: three independent causes of it, whose variances add, so that a score means something where
/// a sample of few values says too little. For counts this is the variance of a negative binomial distribution,
/// `baseline + (relative * baseline)²`, somewhat widened.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Floor {
    /// In the measure's unit: a quiet channel does not alarm on one message. Above zero.
    pub absolute: f64,
    /// Share of the baseline: a busy channel does not alarm on what nobody would notice.
    pub relative: f64,
    /// Multiple of the baseline's square root, the deviation of a count of independent events (Poisson).
    pub poisson: f64,
}

impl Floor {
    pub fn at(&self, baseline: f64) -> f64 {
        let baseline = baseline.abs();
        let share = self.relative * baseline;
        (self.absolute * self.absolute + self.poisson * self.poisson * baseline + share * share).sqrt()
    }
}

/// The name of a detector in configuration and on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum DetectorName {
    Zscore,
    Quantile,
}

/// How a window is scored. Periods are windows that do not overlap.
#[derive(Debug, Clone, PartialEq)]
pub enum Detector {
    Zscore {
        threshold: f64,
        baseline_periods: u32,
    },
    Quantile {
        threshold: f64,
        baseline_periods: u32,
        /// How many periods the tail is taken from: 1,440 of a minute are a day.
        history_periods: u32,
        /// Share of the history's windows that keep within one deviation.
        probability: f64,
    },
}

impl Detector {
    /// `quantile` over the last 1,440 periods (a day of minutes), of which one in fifty is beyond the deviation.
    pub fn quantile(threshold: f64, baseline_periods: u32) -> Detector {
        Detector::Quantile { threshold, baseline_periods, history_periods: 1_440, probability: 0.98 }
    }

    pub fn name(&self) -> DetectorName {
        match self {
            Detector::Zscore { .. } => DetectorName::Zscore,
            Detector::Quantile { .. } => DetectorName::Quantile,
        }
    }

    pub fn threshold(&self) -> f64 {
        match self {
            Detector::Zscore { threshold, .. } | Detector::Quantile { threshold, .. } => *threshold,
        }
    }

    pub fn with_threshold(&self, threshold: f64) -> Detector {
        match *self {
            Detector::Zscore { baseline_periods, .. } => Detector::Zscore { threshold, baseline_periods },
            Detector::Quantile { baseline_periods, history_periods, probability, .. } => {
                Detector::Quantile { threshold, baseline_periods, history_periods, probability }
            }
        }
    }

    pub fn baseline_periods(&self) -> u32 {
        match self {
            Detector::Zscore { baseline_periods, .. } | Detector::Quantile { baseline_periods, .. } => {
                *baseline_periods
            }
        }
    }
}

/// One kind of moment that is looked for in one measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    /// The kind of its moments, such as `chat_spike`.
    pub moment_type: String,
    /// The column that is watched.
    pub measure: String,
    pub direction: Direction,
    pub detector: Detector,
    /// After a moment there is none for so long, and then none before its episode has ended.
    pub cooldown_ms: i64,
    /// How many periods must be known: of the baseline for `zscore`, of the history for `quantile`.
    pub minimum_history: u32,
    pub gap: Gap,
    pub floor: Floor,
}

/// A watch that cannot work.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum WatchError {
    #[error("the watch {watch:?}: {field} is {value}; {cure}")]
    Value { watch: String, field: &'static str, value: f64, cure: &'static str },
}

impl Watch {
    /// `chat_count` far above its baseline.
    pub fn chat_spike(detector: DetectorName) -> Watch {
        // Three times the share lies between what a harmless burst does to a window, twice its messages at most, and
        // what a spike does that fills a third of one.
        let floor = match detector {
            DetectorName::Zscore => Floor { absolute: 2.5, relative: 0.35, poisson: 1.5 },
            DetectorName::Quantile => Floor { absolute: 1.5, relative: 0.33, poisson: 0.75 },
        };
        Watch::shipped("chat_spike", "chat_count", Direction::Up, Gap::Zero, detector, floor)
    }

    /// All emotes of a window far above their baseline. Emotes come several to a message, so that their number varies
    /// more than that of messages.
    pub fn emote_spike(detector: DetectorName) -> Watch {
        let mut watch = Watch::chat_spike(detector);
        watch.moment_type = "emote_spike".to_owned();
        watch.measure = "emote_count".to_owned();
        watch.floor = Floor { absolute: 4.0, poisson: 2.0, ..watch.floor };
        watch
    }

    /// `avg_viewers` far below its baseline. Viewers move slowly, so its floor is a smaller share than that of chat.
    pub fn viewer_drop(detector: DetectorName) -> Watch {
        let floor = Floor { absolute: 1.0, relative: 0.04, poisson: 0.4 };
        let mut watch = Watch::shipped("viewer_drop", "avg_viewers", Direction::Down, Gap::Missing, detector, floor);
        if detector == DetectorName::Quantile {
            // What wanders is best compared with where it was last.
            watch.detector = Detector::quantile(2.0, 5);
        }
        watch
    }

    fn shipped(
        moment_type: &str,
        measure: &str,
        direction: Direction,
        gap: Gap,
        detector: DetectorName,
        floor: Floor,
    ) -> Watch {
        let (detector, minimum_history) = match detector {
            DetectorName::Zscore => (Detector::Zscore { threshold: 3.0, baseline_periods: 10 }, 5),
            DetectorName::Quantile => (Detector::quantile(3.0, 10), 120),
        };
        Watch {
            moment_type: moment_type.to_owned(),
            measure: measure.to_owned(),
            direction,
            detector,
            cooldown_ms: 300_000,
            minimum_history,
            gap,
            floor,
        }
    }

    /// Whether the watch can work over windows of such a size.
    pub fn check(&self, size_ms: i64, slide_ms: i64) -> Result<(), WatchError> {
        let fault = |field, value, cure| Err(WatchError::Value { watch: self.moment_type.clone(), field, value, cure });
        let periods = self.detector.baseline_periods();
        if slide_ms < 1 || size_ms < slide_ms {
            return fault("slide_ms", slide_ms as f64, "windows begin at least every window's size");
        }
        if !(self.detector.threshold() > 0.0 && self.detector.threshold().is_finite()) {
            return fault("threshold", self.detector.threshold(), "take a number above 0, such as 3.0");
        }
        if !(2..=10_000).contains(&periods) {
            return fault("baseline_periods", periods.into(), "take 2 to 10000, such as 10");
        }
        if self.minimum_history < 1 {
            return fault("minimum_history", 0.0, "take at least 1 period");
        }
        match self.detector {
            Detector::Zscore { .. } if self.minimum_history > periods => {
                return fault(
                    "minimum_history",
                    self.minimum_history.into(),
                    "zscore knows no more than baseline_periods: take at most that",
                );
            }
            Detector::Quantile { history_periods, .. } if self.minimum_history > history_periods => {
                return fault("minimum_history", self.minimum_history.into(), "take at most history_periods");
            }
            Detector::Quantile { history_periods, .. } if !(10..=100_000).contains(&history_periods) => {
                return fault("history_periods", history_periods.into(), "take 10 to 100000, such as 1440");
            }
            Detector::Quantile { probability, .. } if !(probability > 0.5 && probability < 1.0) => {
                return fault("probability", probability, "take a share between 0.5 and 1, such as 0.98");
            }
            _ => {}
        }
        let Floor { absolute, relative, poisson } = self.floor;
        if !(absolute > 0.0 && absolute.is_finite()) {
            return fault("floor absolute", absolute, "take a number above 0 in the measure's unit");
        }
        if !(relative >= 0.0 && relative.is_finite()) {
            return fault("floor relative", relative, "take a share of the baseline, such as 0.2, or 0");
        }
        if !(poisson >= 0.0 && poisson.is_finite()) {
            return fault("floor poisson", poisson, "take a multiple of the baseline's square root, such as 1.5, or 0");
        }
        if self.cooldown_ms < 0 {
            return fault("cooldown_ms", self.cooldown_ms as f64, "take 0 or more");
        }
        Ok(())
    }
}
