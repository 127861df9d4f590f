//! Failpoints: named places where a test makes the process die or an operation fail.
//!
//! They are part of the shipped binary, so that what the tests kill is what users run; while
//! `HEADWATER_FAILPOINTS` is unset a failpoint is one relaxed load. The variable holds
//! `name=action[@n]` items joined by `;`. The action happens at the n-th hit (the first, when not
//! given) and only then: `kill` ends the process as SIGKILL would, `error` makes [`hit`] return an
//! error, `pause` stops the calling thread for good, `stop` the process until SIGCONT.

use std::{
    collections::HashMap,
    io,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Every failpoint of the program, in the order in which a row meets them. The tests walk this list.
pub const ALL: &[&str] = &[
    "capture.before_begin",
    "capture.after_begin",
    "capture.mid_transaction",
    "capture.before_checkpoint",
    "capture.before_commit",
    "capture.after_commit",
    "capture.before_timestamp_file",
    "land.before_stage",
    "land.mid_stage",
    "land.after_stage",
    "land.before_ledger_sync",
    "land.after_ledger_sync",
    "land.mid_rename",
    "land.after_rename",
    "land.after_done",
    "compact.before_check",
    "upkeep.before_note",
    "upkeep.after_note",
    "upkeep.before_exchange",
    "upkeep.after_exchange",
    "upkeep.mid_delete",
    "upkeep.before_done",
    "restore.before_ledger",
    "analyze.before_begin",
    "analyze.mid_transaction",
    "analyze.before_commit",
    "analyze.after_commit",
    "dlq.before_begin",
    "dlq.mid_transaction",
    "dlq.before_record",
    "dlq.before_commit",
    "dlq.after_commit",
];

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Kill,
    Error,
    Pause,
    Stop,
}

struct Armed {
    action: Action,
    at: u64,
    hits: AtomicU64,
}

static ARMED: LazyLock<HashMap<String, Armed>> =
    LazyLock::new(|| parse(&std::env::var("HEADWATER_FAILPOINTS").unwrap_or_default()));

fn parse(text: &str) -> HashMap<String, Armed> {
    let mut armed = HashMap::new();
    for item in text.split(';').filter(|item| !item.is_empty()) {
        let (name, rest) = item.split_once('=').unwrap_or((item, "kill"));
        let (action, at) = rest.split_once('@').unwrap_or((rest, "1"));
        let action = match action {
            "error" => Action::Error,
            "pause" => Action::Pause,
            "stop" => Action::Stop,
            _ => Action::Kill,
        };
        let at = at.parse().unwrap_or(1);
        armed.insert(name.to_owned(), Armed { action, at, hits: AtomicU64::new(0) });
    }
    armed
}

/// Passes the failpoint `name`, one of [`ALL`]. Fails only where the environment says so.
pub fn hit(name: &str) -> io::Result<()> {
    if ARMED.is_empty() {
        return Ok(());
    }
    debug_assert!(ALL.contains(&name), "failpoint {name} is not in the list");
    let Some(armed) = ARMED.get(name) else { return Ok(()) };
    if armed.hits.fetch_add(1, Ordering::Relaxed) + 1 != armed.at {
        return Ok(());
    }
    match armed.action {
        Action::Error => Err(io::Error::other(format!("failpoint {name}"))),
        Action::Pause => loop {
            std::thread::park();
        },
        Action::Stop => {
            // To this thread, which stops all of them: a signal to the process lets it run on for a moment.
            // SAFETY: a plain system call without pointers.
            unsafe { libc::raise(libc::SIGSTOP) };
            Ok(())
        }
        Action::Kill => {
            // SAFETY: plain system calls without pointers; the process ends here, as kill -9 would end it.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            loop {
                std::thread::park();
            }
        }
    }
}
