//! What each stage is doing, for `/ready`, `/status` and the final summary.
//!
//! Stages report per unit of work (a captured table, a landed topic); readiness follows progress:
//! the process is ready only while every unit is progressing or caught up. Every report is a sign of life; a unit
//! that gives none for too long, be it deadlocked or stuck in a system call, is shown as failing whatever it said last.

mod history;
mod recent;

pub use history::{INTERVAL, POINTS, Point};
pub use recent::{
    COLUMNS, Content, KEYS, LETTERS_OF_A_REASON, Letter, Letters, Moment, Of, Recent, Window, Windows, cell,
};

use crate::clock::now_ms;
use history::{Points, Samples};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// One unit of work: `stage` is `capture`, `land` or `analyze`, `unit` the table, topic or job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitId {
    pub pipeline: String,
    pub stage: &'static str,
    pub unit: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not yet through its first step.
    Starting,
    /// Waits for a dependency, a lock or its turn; the text says for what.
    Waiting(String),
    /// Makes progress through a backlog.
    Progressing,
    CaughtUp,
    /// Another process does the work, and this one takes over when it ends; the text says which.
    StandingBy(String),
    /// Tried and failed, and tries again; the text says what to do.
    Failing(String),
    /// Stands still until somebody acts.
    Stopped(String),
}

impl State {
    /// The names of the states that are ready.
    pub const READY: [&str; 3] = ["progressing", "caught_up", "standing_by"];

    pub fn is_ready(&self) -> bool {
        State::READY.contains(&self.words().0)
    }

    fn is_failure(&self) -> bool {
        matches!(self, State::Failing(_) | State::Stopped(_))
    }

    /// Whether the other is the same state for the same reason, but for numbers in it: places, times, counts.
    fn is_like(&self, other: &State) -> bool {
        fn bare(reason: Option<&str>) -> impl Iterator<Item = char> {
            reason.unwrap_or_default().chars().filter(|character| !character.is_ascii_digit())
        }
        let ((name, reason), (other_name, other_reason)) = (self.words(), other.words());
        name == other_name && bare(reason).eq(bare(other_reason))
    }

    /// Name and reason.
    pub fn words(&self) -> (&'static str, Option<&str>) {
        match self {
            State::Starting => ("starting", None),
            State::Waiting(reason) => ("waiting", Some(reason)),
            State::Progressing => ("progressing", None),
            State::CaughtUp => ("caught_up", None),
            State::StandingBy(reason) => ("standing_by", Some(reason)),
            State::Failing(reason) => ("failing", Some(reason)),
            State::Stopped(reason) => ("stopped", Some(reason)),
        }
    }
}

#[derive(Debug, Clone)]
pub struct UnitStatus {
    pub state: State,
    /// Since when the state holds, seconds since the Unix epoch.
    pub since_seconds: u64,
    /// The last error of this unit, kept after it is over.
    pub last_error: Option<String>,
    /// When it came, seconds since the Unix epoch.
    pub last_error_seconds: Option<u64>,
    pub figures: Figures,
    /// Rows a second over the last minute.
    pub rows_per_second: f64,
    /// Positions, lag and the like; stage-specific.
    pub detail: serde_json::Value,
    /// How often the unit has failed since it was last at work.
    failures: u64,
    /// By when there has to be a sign of life, but for the patience.
    sign_due: Instant,
}

/// What a unit has done since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Committed row versions (capture), committed rows (land), events read (analyze).
    pub rows: u64,
    /// Committed dead letters.
    pub dead_letters: u64,
    /// As the stage's metric of delay has it, at the newest commit (of analyze: now).
    pub delay_seconds: Option<f64>,
    /// Of the newest commit, since the Unix epoch.
    pub last_commit_ms: Option<i64>,
}

struct Entry {
    status: UnitStatus,
    samples: Samples,
    /// The longest delay since the last sample.
    delay_seconds: Option<f64>,
}

#[derive(Default)]
struct Board {
    units: BTreeMap<UnitId, Entry>,
    /// By stage.
    points: BTreeMap<&'static str, Points>,
    recent: Recent,
}

/// Shared between stages (writers) and the HTTP server (reader).
#[derive(Clone)]
pub struct Health {
    board: Arc<Mutex<Board>>,
    started: Instant,
    started_ms: i64,
    /// How long a unit may be silent.
    patience: Duration,
    shows_payloads: bool,
}

impl Health {
    /// `patience` is how long a unit may give no sign of life before it counts as stalled; `shows_payloads`
    /// whether what dead letters hold may be kept for the page.
    pub fn new(patience: Duration, shows_payloads: bool) -> Health {
        Health { board: Arc::default(), started: Instant::now(), started_ms: now_ms(), patience, shows_payloads }
    }

    /// When the process started, milliseconds since the Unix epoch.
    pub fn started_ms(&self) -> i64 {
        self.started_ms
    }

    pub fn shows_payloads(&self) -> bool {
        self.shows_payloads
    }

    /// Registers a unit as starting and gives the handle by which its stage reports.
    pub fn unit(&self, pipeline: &str, stage: &'static str, unit: &str) -> Unit {
        let id = UnitId { pipeline: pipeline.to_owned(), stage, unit: unit.to_owned() };
        let status = UnitStatus {
            state: State::Starting,
            since_seconds: now_seconds(),
            last_error: None,
            last_error_seconds: None,
            figures: Figures::default(),
            rows_per_second: 0.0,
            detail: serde_json::Value::Null,
            failures: 0,
            sign_due: Instant::now(),
        };
        let entry = Entry { status, samples: Samples::new(self.uptime_ms()), delay_seconds: None };
        self.lock().units.insert(id.clone(), entry);
        Unit { health: self.clone(), id }
    }

    /// All units, sorted by pipeline, stage and name; a stalled one as failing.
    pub fn snapshot(&self) -> Vec<(UnitId, UnitStatus)> {
        let (now, uptime_ms) = (Instant::now(), self.uptime_ms());
        let shown = |(id, Entry { status, samples, .. }): (&UnitId, &Entry)| {
            let rows_per_second = samples.rate(uptime_ms, status.figures.rows);
            let mut status = UnitStatus { rows_per_second, ..status.clone() };
            if let Some(silence) = self.silence(&status, now) {
                let seconds = silence.as_secs();
                status.state = State::Failing(format!(
                    "has given no sign of life for {seconds} s (runtime.stall_timeout_ms): restart the process, which \
                     loses nothing, and report it"
                ));
            }
            (id.clone(), status)
        };
        self.lock().units.iter().map(shown).collect()
    }

    /// Whether a unit has been silent for longer than the patience.
    pub fn is_stalled(&self) -> bool {
        let now = Instant::now();
        self.lock().units.values().any(|entry| self.silence(&entry.status, now).is_some())
    }

    /// How long a unit has been silent, if too long. Who waits for somebody else, or stands still, may be silent.
    fn silence(&self, status: &UnitStatus, now: Instant) -> Option<Duration> {
        let is_at_work = !matches!(status.state, State::Waiting(_) | State::StandingBy(_) | State::Stopped(_));
        Some(now.saturating_duration_since(status.sign_due)).filter(|silence| is_at_work && *silence > self.patience)
    }

    /// To be called each [`INTERVAL`]: notes what all units have done by now.
    pub fn sample(&self) {
        let at_ms = self.uptime_ms();
        let board = &mut *self.lock();
        let mut stages: BTreeMap<&'static str, Point> = BTreeMap::new();
        for (id, Entry { status, samples, delay_seconds }) in &mut board.units {
            let rows = status.figures.rows;
            let point = stages.entry(id.stage).or_insert(Point { at_ms, rows_per_second: 0.0, delay_seconds: None });
            point.rows_per_second += samples.rate(at_ms, rows);
            point.delay_seconds = longer(point.delay_seconds, delay_seconds.take());
            samples.push(at_ms, rows);
        }
        for (stage, point) in stages {
            board.points.entry(stage).or_default().push(point);
        }
    }

    /// The last minutes of a stage, oldest first.
    pub fn points(&self, stage: &str) -> Vec<Point> {
        self.lock().points.get(stage).map(Points::to_vec).unwrap_or_default()
    }

    pub fn recent(&self) -> Recent {
        self.lock().recent.clone()
    }

    /// Milliseconds since the process started.
    pub fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn longer(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// The reporting end of one unit. Cheap to clone.
#[derive(Clone)]
pub struct Unit {
    health: Health,
    id: UnitId,
}

impl Unit {
    pub fn id(&self) -> &UnitId {
        &self.id
    }

    /// Sets the state. A failure that is repeated at each poll is one line when it comes, whatever numbers its reason
    /// holds, and one with their count when it is over.
    pub fn set(&self, state: State) {
        let mut board = self.health.lock();
        let Some(Entry { status, .. }) = board.units.get_mut(&self.id) else { return };
        status.sign_due = Instant::now();
        let is_known = status.state.is_like(&state);
        let failures = status.failures;
        if !state.is_failure() {
            status.failures = 0;
        }
        if status.state == state {
            return;
        }
        // Its pipeline and stage are in the span.
        let unit = self.id.unit.as_str();
        match &state {
            State::Failing(reason) | State::Stopped(reason) => {
                if !is_known {
                    tracing::error!(unit, "{reason}");
                }
                status.last_error = Some(reason.clone());
                status.last_error_seconds = Some(now_seconds());
            }
            State::Waiting(reason) | State::StandingBy(reason) if !is_known => tracing::info!(unit, "{reason}"),
            _ if status.state.is_failure() => {
                let seconds = now_seconds().saturating_sub(status.since_seconds);
                tracing::info!(unit, seconds, failures, "recovered");
            }
            _ => {}
        }
        if !is_known {
            status.since_seconds = now_seconds();
        }
        status.state = state;
    }

    /// Counts an attempt that has failed. The line that tells of the recovery says how many did.
    pub fn failed(&self) {
        self.change(|entry| entry.status.failures += 1);
    }

    pub fn is_ready(&self) -> bool {
        self.health.lock().units.get(&self.id).is_some_and(|entry| entry.status.state.is_ready())
    }

    /// Replaces the stage-specific detail of `/status`.
    pub fn detail(&self, detail: serde_json::Value) {
        self.change(|entry| {
            entry.status.detail = detail;
            entry.status.sign_due = Instant::now();
        });
    }

    /// A sign of life. The next may be so long in coming, besides the patience: the stage rests.
    pub fn rests_for(&self, rest: Duration) {
        self.change(|entry| entry.status.sign_due = Instant::now() + rest);
    }

    /// Adds rows, as [`Figures::rows`] counts them.
    pub fn rows(&self, count: u64) {
        self.change(|entry| entry.status.figures.rows += count);
    }

    /// How far it is behind now.
    pub fn delay(&self, seconds: f64) {
        self.change(|entry| {
            entry.status.figures.delay_seconds = Some(seconds);
            entry.delay_seconds = longer(entry.delay_seconds, Some(seconds));
        });
    }

    /// Something was committed at this time, in milliseconds since the Unix epoch; among it so many dead
    /// letters, of which `letters` are the newest.
    pub fn committed(&self, at_ms: i64, dead_letters: u64, letters: Letters) {
        self.change(|entry| {
            entry.status.figures.last_commit_ms = Some(at_ms);
            entry.status.figures.dead_letters += dead_letters;
        });
        if dead_letters > 0 {
            let letters = if self.health.shows_payloads { letters } else { letters.without_content() };
            self.health.lock().recent.push_letters(&self.id, letters);
        }
    }

    /// These windows were committed; `names` gives their columns.
    pub fn windows(&self, names: &Windows, rows: Vec<Window>) {
        let key = (self.id.pipeline.clone(), self.id.unit.clone());
        self.health.lock().recent.windows.entry(key).or_insert_with(|| names.clone()).merge(rows);
    }

    /// These moments were committed.
    pub fn moments(&self, moments: Vec<Moment>) {
        self.health.lock().recent.push_moments(&self.id, moments);
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.health.lock().units.get_mut(&self.id) {
            change(entry);
        }
    }
}

fn now_seconds() -> u64 {
    now_ms() as u64 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_at_work_that_is_silent_for_too_long_is_shown_as_failing() {
        let health = Health::new(Duration::ZERO, true);
        let unit = health.unit("p", "land", "t");
        let state = || health.snapshot()[0].1.state.clone();
        unit.rests_for(Duration::from_secs(3_600));
        assert!(!health.is_stalled());
        unit.set(State::CaughtUp);
        std::thread::sleep(Duration::from_millis(2));
        assert!(health.is_stalled());
        let State::Failing(reason) = state() else { panic!("{:?}", state()) };
        assert!(reason.contains("no sign of life for 0 s"), "{reason}");
        unit.set(State::Waiting("for the other side".to_owned()));
        std::thread::sleep(Duration::from_millis(2));
        assert!(!health.is_stalled() && state() == State::Waiting("for the other side".to_owned()));
    }

    #[test]
    fn reasons_are_alike_but_for_their_numbers() {
        let failing = |reason: &str| State::Failing(reason.to_owned());
        assert!(failing("of 3 files 17 are missing").is_like(&failing("of 40 files 1 are missing")));
        assert!(!failing("of 3 files 17 are missing").is_like(&failing("no files are missing")));
        assert!(!failing("gone").is_like(&State::Stopped("gone".to_owned())));
        assert!(!failing("").is_like(&State::CaughtUp) && State::CaughtUp.is_like(&State::CaughtUp));
    }

    #[test]
    fn a_stage_is_the_sum_of_its_units_and_their_longest_delay() {
        let health = Health::new(Duration::MAX, true);
        let (a, b) = (health.unit("p", "land", "a"), health.unit("p", "land", "b"));
        a.rows(100);
        b.rows(20);
        for (unit, delays) in [(&a, [3.0, 1.0]), (&b, [2.0, 2.5])] {
            delays.into_iter().for_each(|seconds| unit.delay(seconds));
        }
        health.sample();
        b.delay(0.5);
        health.sample();
        health.sample();
        let points = health.points("land");
        assert_eq!(points.iter().map(|point| point.delay_seconds).collect::<Vec<_>>(), [Some(3.0), Some(0.5), None]);
        assert_eq!(points[0].rows_per_second, 120.0);
        assert_eq!(health.snapshot()[0].1.figures.delay_seconds, Some(1.0));
        assert!(health.points("capture").is_empty());
    }

    #[test]
    fn what_letters_hold_is_kept_only_where_it_may_be_shown() {
        for shows_payloads in [true, false] {
            let health = Health::new(Duration::MAX, shows_payloads);
            let mut letters = Letters::default();
            letters.push(Letter {
                at_ms: 1,
                topic: "t".to_owned(),
                place: Some((0, 7)),
                reason: "null_key".to_owned(),
                content: Some(Content::new("d", Some(b"secret"))),
            });
            health.unit("p", "land", "t").committed(1, 1, letters);
            let kept = health.recent().letters;
            assert_eq!(kept[0].it.content.is_some(), shows_payloads);
            assert_eq!((kept[0].it.place, kept[0].stage), (Some((0, 7)), "land"));
        }
    }
}
