//! A moment: one episode in which a watched measure left its usual range.

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

/// What a detector says of one window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Score {
    /// What the measure was expected to be, in its own unit.
    pub baseline: f64,
    /// How far from the baseline an ordinary window may be, in the measure's unit; never zero.
    pub deviation: f64,
    /// Distance from the baseline in deviations, positive in the direction that is watched.
    pub score: f64,
}

/// The first window of an episode, in the columns of the table `moments`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    /// See [`moment_id`].
    pub moment_id: String,
    pub moment_type: String,
    pub key: String,
    pub metric: String,
    pub window_start_ms: i64,
    pub window_end_ms: i64,
    pub value: f64,
    pub baseline: f64,
    pub score: f64,
    pub threshold: f64,
    pub details: serde_json::Value,
}

impl Moment {
    /// What a watcher has to remember of this moment.
    pub fn trace(&self) -> Trace {
        Trace::new(self.window_start_ms, self.value, self.baseline, self.score, self.threshold)
    }
}

/// What is remembered of a key's last moment: enough to tell whether its episode still goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trace {
    pub window_start_ms: i64,
    /// Halfway from the baseline to where the alarm began: a window that comes back to it ends the episode.
    pub release: f64,
    /// Whether the episode lies above its baseline.
    pub is_above: bool,
}

impl Trace {
    /// From the columns of the stored moment, so that a restarted process remembers what the first one did.
    pub fn new(window_start_ms: i64, value: f64, baseline: f64, score: f64, threshold: f64) -> Trace {
        let release = baseline + (value - baseline) * (threshold / score) / 2.0;
        Trace { window_start_ms, release, is_above: value > baseline }
    }

    /// Whether a window with this value ends the episode.
    pub fn is_released_by(&self, value: f64) -> bool {
        if self.is_above { value <= self.release } else { value >= self.release }
    }
}

/// The same moment has the same id in every run: a UUID of version 8 (RFC 9562: the bits are the maker's choice)
/// from a hash of what makes a moment that moment. Parts are prefixed by their length, so `("a", "bc")` is
/// not `("ab", "c")`.
pub fn moment_id(job: &str, moment_type: &str, metric: &str, key: &str, window_start_ms: i64) -> String {
    let mut bytes = Vec::with_capacity(64 + job.len() + moment_type.len() + metric.len() + key.len());
    for part in [job, moment_type, metric, key] {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes.extend_from_slice(&window_start_ms.to_be_bytes());
    let hash = xxh3_128(&bytes);
    let versioned = (hash & !(0xf << 76) & !(0x3 << 62)) | (0x8 << 76) | (0x2 << 62);
    let digits = format!("{versioned:032x}");
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_of_version_8_and_never_changes() {
        let id = moment_id("chat", "chat_spike", "chat_count", "s1", 1_736_943_840_000);
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "8");
        assert!("89ab".contains(&id[19..20]));
        // Stored ids must stay what they are: this value is the contract.
        assert_eq!(id, "77c949f7-78df-85c1-b390-9f1acc600a34");
    }

    #[test]
    fn each_part_counts() {
        let ids = [
            moment_id("chat", "chat_spike", "chat_count", "s1", 0),
            moment_id("chat", "chat_spike", "chat_count", "s1", 10_000),
            moment_id("chat", "chat_spike", "chat_count", "s2", 0),
            moment_id("chat", "chat_spike", "chat_rate", "s1", 0),
            moment_id("chat", "viewer_drop", "chat_count", "s1", 0),
            moment_id("chatc", "hat_spike", "chat_count", "s1", 0),
        ];
        let different: std::collections::BTreeSet<&String> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
    }
}
