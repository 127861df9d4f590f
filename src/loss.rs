//! Records that are gone, or are others than they were, before a stage had read them: each such loss has a name,
//! and whoever accepts it says that name (`--accept-loss`). A name is good for one loss, once: what is lost later,
//! in the same process or after a restart with the same arguments, stops the stage again. And the ids of logs that were
//! lost and have grown again.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// Why a partition cannot be gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// `[<job>:]<topic>/<partition>@<offset that was next>-<to>`: `to` is the first offset that is there where records
    /// were deleted, the id of the topic that is there now where it was made again, and `log<n>` where the log was
    /// truncated for the `n`th time.
    pub name: String,
    /// What has happened, a sentence without its end.
    pub what: String,
    /// What follows where it is accepted: "to go on at 7".
    pub then: String,
}

impl Loss {
    /// `reader` is the job, and empty for `land`.
    pub fn name(reader: &str, topic: &str, partition: i32, next: i64, to: impl fmt::Display) -> String {
        let colon = if reader.is_empty() { "" } else { ":" };
        format!("{reader}{colon}{topic}/{partition}@{next}-{to}")
    }
}

/// The argument that accepts the losses.
pub fn argument(losses: &[Loss]) -> String {
    let names: Vec<&str> = losses.iter().map(|loss| loss.name.as_str()).collect();
    format!("--accept-loss {}", names.join(","))
}

/// What has happened and what to do about it; `stage` is its command.
pub fn told(stage: &str, losses: &[Loss]) -> String {
    let what: Vec<&str> = losses.iter().map(|loss| loss.what.as_str()).collect();
    let then = losses.first().map_or("", |loss| loss.then.as_str());
    format!("{}; start {stage} once with {} {then}", what.join("; "), argument(losses))
}

/// The names that the command line gave. Clones share what is left of them.
#[derive(Debug, Clone, Default)]
pub struct Accepted(Arc<Mutex<BTreeSet<String>>>);

impl Accepted {
    pub fn new(names: impl IntoIterator<Item = String>) -> Accepted {
        Accepted(Arc::new(Mutex::new(names.into_iter().collect())))
    }

    pub fn holds(&self, loss: &Loss) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&loss.name)
    }

    /// Once what follows from it is stored.
    pub fn spend(&self, loss: &Loss) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&loss.name);
    }
}

/// Kafka's id of the topic that a log is of. A log that was truncated and has grown again is another one under the
/// same id: what is kept under its offsets is kept under `<id>+<n>`, the `n`th such log.
pub fn topic_of(log_id: &str) -> &str {
    log_id.split_once('+').map_or(log_id, |(id, _)| id)
}

/// Whether it is the id of a log that was truncated and has grown again.
pub fn is_regrown(log_id: &str) -> bool {
    log_id.contains('+')
}

/// The id of the log that has taken the place of this one.
pub fn next_log(log_id: &str) -> String {
    let (id, n) = log_id.split_once('+').unwrap_or((log_id, "0"));
    format!("{id}+{}", n.parse::<u32>().unwrap_or(0) + 1)
}

/// The id of a log, and those of the logs of the same topic that it has taken the place of, the newest first.
pub fn logs_up_to(log_id: &str) -> Vec<String> {
    let (id, n) = log_id.split_once('+').unwrap_or((log_id, "0"));
    let regrown = (1..=n.parse::<u32>().unwrap_or(0)).rev().map(|n| format!("{id}+{n}"));
    regrown.chain([id.to_owned()]).collect()
}

/// `log<n>`, the name of a log by its id.
pub fn log_name(log_id: &str) -> String {
    format!("log{}", log_id.split_once('+').map_or("0", |(_, n)| n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_has_grown_again_has_an_id_of_its_own() {
        assert_eq!((next_log("h0-_").as_str(), topic_of("h0-_")), ("h0-_+1", "h0-_"));
        assert_eq!((next_log("h0-_+9").as_str(), topic_of("h0-_+9")), ("h0-_+10", "h0-_"));
        assert_eq!(log_name("h0-_+9"), "log9");
        assert_eq!(
            (logs_up_to("h0-_"), logs_up_to("h0-_+2")),
            (vec!["h0-_".into()], vec!["h0-_+2".into(), "h0-_+1".into(), "h0-_".into()])
        );
        assert!(is_regrown("h0-_+1") && !is_regrown("h0-_"));
    }

    #[test]
    fn a_name_is_good_for_its_loss_once() {
        let loss = |next| Loss {
            name: Loss::name("", "orders", 3, next, 150),
            what: format!("offsets {next} to 149 are gone"),
            then: "to go on at 150".to_owned(),
        };
        let accepted = Accepted::new(["orders/3@100-150".to_owned()]);
        assert!(!accepted.clone().holds(&loss(99)) && accepted.holds(&loss(100)));
        accepted.clone().spend(&loss(100));
        assert!(!accepted.holds(&loss(100)));
        assert_eq!(
            told("land", &[loss(1), loss(2)]),
            "offsets 1 to 149 are gone; offsets 2 to 149 are gone; start land once with --accept-loss \
             orders/3@1-150,orders/3@2-150 to go on at 150"
        );
        assert_eq!(Loss::name("job", "chat", 0, 5, "abc"), "job:chat/0@5-abc");
    }
}
