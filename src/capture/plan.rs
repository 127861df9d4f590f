//! The poll plan: which rows a poll asks for, and what is known once they are published. Pure.
//!
//! PostgreSQL's snapshots say what is new, the timestamp only says where to look. A row is new when
//! its transaction id is not below the xmin of the previous snapshot (those had ended then) and not
//! among the ids already given since. The timestamp bound is the least start of any transaction
//! that was not visible yet, so that an index range finds all of them.

use roaring::RoaringTreemap;
use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
};

/// Stands for rows whose transaction id lies too far back to be told apart; PostgreSQL's own frozen id.
pub const FROZEN_ID: u64 = 2;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a snapshot")]
pub struct NotASnapshot(String);

/// `pg_snapshot`: every id below `xmin` had ended, none from `xmax` on had begun.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    pub xmin: u64,
    pub xmax: u64,
    pub in_progress: Vec<u64>,
}

impl Snapshot {
    /// From the text form `xmin:xmax:id,id`.
    pub fn parse(text: &str) -> Result<Snapshot, NotASnapshot> {
        let wrong = || NotASnapshot(text.to_owned());
        let number = |part: &str| part.parse::<u64>().map_err(|_| wrong());
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(list), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let in_progress = list.split(',').filter(|id| !id.is_empty()).map(number).collect::<Result<_, _>>()?;
        let snapshot = Snapshot { xmin: number(xmin)?, xmax: number(xmax)?, in_progress };
        if snapshot.xmin > snapshot.xmax { Err(wrong()) } else { Ok(snapshot) }
    }

    /// Whether the prepared transaction of this name, which begins with its 32-bit id, had not ended.
    fn is_in_progress(&self, prepared: &str) -> bool {
        let id = prepared.split_once(':').and_then(|(id, _)| id.parse::<u32>().ok());
        id.is_some_and(|id| self.in_progress.iter().any(|open| *open as u32 == id))
    }
}

impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (position, id) in self.in_progress.iter().enumerate() {
            write!(f, "{}{id}", if position == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// A 32-bit id of a row in 64 bits, from its distance to `latest` (`age(xmin)`). A visible row is
/// always older than `latest`: any other distance is that of a frozen row whose id has wrapped.
pub fn widen(latest: u64, age: i32) -> u64 {
    match u64::try_from(age) {
        Ok(distance) if distance > 0 && age != i32::MAX => latest.saturating_sub(distance),
        _ => FROZEN_ID,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedTransaction {
    /// Id and name together, since a name can be used again: `7003:name`.
    pub name: String,
    pub prepared_us: i64,
}

/// A transaction of another session that has been open for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Server process of the session.
    pub pid: i32,
    /// The virtual transaction id, which a server gives once in its life. `None` where it was not seen: such a
    /// transaction is never proven open.
    pub identity: Option<String>,
    /// When it began, at the latest.
    pub start_us: i64,
}

/// Transactions that were still open, and invisible, once a poll's snapshot was fixed: process and identity.
pub type Proven = HashSet<(i32, String)>;

/// What was read before the snapshot of a poll was taken. Times in microseconds since the Unix epoch.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    pub clock_us: i64,
    /// The least start of the transactions and messages of other sessions that are not in `notes`.
    pub oldest_start_us: Option<i64>,
    pub notes: Vec<Note>,
    pub prepared: Vec<PreparedTransaction>,
    /// Ids that had ended by then.
    pub ended: RoaringTreemap,
}

impl Observation {
    fn raw_bound_us(&self) -> i64 {
        self.notes.iter().map(|note| note.start_us).fold(self.young_us(), i64::min)
    }

    /// The bound if nothing had been open for a while.
    fn young_us(&self) -> i64 {
        self.oldest_start_us.map_or(self.clock_us, |start| start.min(self.clock_us))
    }
}

/// What a poll noted of the transactions of other sessions. It belongs to the snapshot of that poll and is
/// replaced together with it. Kept in memory only: after a restart the stored bound is asked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    young_us: i64,
    notes: Vec<Note>,
}

impl Noted {
    /// Of two starts that were seen of one transaction the lesser holds.
    pub fn new(observation: &Observation, before: Option<&Noted>) -> Noted {
        let earlier = |note: &Note| {
            let known = before.iter().flat_map(|before| &before.notes);
            let same = known
                .filter(|other| note.identity.is_some() && other.pid == note.pid && other.identity == note.identity);
            same.map(|other| other.start_us).fold(note.start_us, i64::min)
        };
        let notes = observation.notes.iter().map(|note| Note { start_us: earlier(note), ..note.clone() });
        Noted { young_us: observation.young_us(), notes: notes.collect() }
    }

    /// The processes whose transactions can be proven open.
    pub fn pids(&self) -> impl Iterator<Item = i32> {
        self.notes.iter().filter(|note| note.identity.is_some()).map(|note| note.pid)
    }

    /// Where the question of the poll at `snapshot` begins. A transaction that was noted and is still the same one
    /// has shown nothing since, so its start need not hold the question back. What is stored and carried counts it
    /// all the same ([`Poll::new`]), for it may end at any moment.
    fn question_us(&self, base: &Polled, proven: &Proven, snapshot: &Snapshot, margins: Margins) -> i64 {
        let is_proven =
            |note: &Note| note.identity.as_ref().is_some_and(|identity| proven.contains(&(note.pid, identity.clone())));
        let ended = self.notes.iter().filter(|note| !is_proven(note)).map(|note| note.start_us);
        let prepared = base.carried.iter().filter(|(name, _)| !snapshot.is_in_progress(name)).map(|(_, bound)| *bound);
        let from_us = ended.chain(prepared).fold(self.young_us, i64::min);
        from_us.saturating_sub(margins.slack_us).max(base.bound_us)
    }
}

/// Settings of the bound.
#[derive(Debug, Clone, Copy)]
pub struct Margins {
    pub slack_us: i64,
    /// For transactions that were prepared before the very first poll.
    pub prepared_us: i64,
}

/// PostgreSQL's text of each key column.
pub type KeyText = Vec<Option<String>>;

/// What a table has given so far: S', B' and what came since.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Polled {
    /// Of the last poll that was published to its end; all zero before the first.
    pub snapshot: Snapshot,
    /// Every row with a smaller timestamp was visible at `snapshot`.
    pub bound_us: i64,
    /// The bound without carried ones and without slack.
    pub raw_bound_us: i64,
    /// Bounds of prepared transactions, by name, until they are gone.
    pub carried: BTreeMap<String, i64>,
    /// Ids from `snapshot.xmin` on whose rows have been given, or that have none to give.
    pub seen: RoaringTreemap,
    /// Transactions whose rows have been given in part, each with the key of the last one.
    pub partial: BTreeMap<u64, KeyText>,
}

impl Polled {
    /// Before the first poll, which is about to ask for all rows from the bound on.
    pub fn first(observation: &Observation, margins: Margins) -> Polled {
        let raw_bound_us = observation.raw_bound_us();
        let carried = observation
            .prepared
            .iter()
            .map(|transaction| (transaction.name.clone(), transaction.prepared_us.saturating_sub(margins.prepared_us)))
            .collect();
        let bound_us = least_bound(raw_bound_us, &carried, margins);
        Polled { bound_us, raw_bound_us, carried, ..Polled::default() }
    }

    /// Where the question of the poll at `snapshot` begins; `noted` is what the poll before noted, if it is known.
    pub fn question_us(
        &self,
        noted: Option<&Noted>,
        observation: &Observation,
        proven: &Proven,
        snapshot: &Snapshot,
        margins: Margins,
    ) -> i64 {
        let from_us = noted.map_or(self.bound_us, |noted| noted.question_us(self, proven, snapshot, margins));
        // A clock that was set back writes below the bound.
        from_us.min(observation.clock_us.saturating_sub(margins.slack_us))
    }

    /// With the margins of now: a slack that was raised counts from the next poll on.
    pub fn widen(&mut self, margins: Margins) {
        self.bound_us = self.bound_us.min(least_bound(self.raw_bound_us, &self.carried, margins));
    }

    /// Ids from `snapshot.xmin` up to `limit` of which it is unknown whether they still can give rows.
    pub fn unknown_ids(&self, limit: u64) -> RoaringTreemap {
        let mut unknown = RoaringTreemap::new();
        if self.snapshot.xmin > 0 && self.snapshot.xmin < limit {
            unknown.insert_range(self.snapshot.xmin..limit);
            unknown -= &self.seen;
        }
        unknown
    }

    /// What of the ids from `snapshot.xmin` on has been given.
    pub fn given(&self) -> Given {
        Given { xmin: self.snapshot.xmin, seen: self.seen.clone(), partial: self.partial.clone() }
    }

    /// Takes all rows of ids below `xmin` for given. One number says so, however many ids these are.
    fn raise(&mut self, xmin: u64) {
        // At the first poll, frozen rows are still to come until an id of its own is reached.
        if xmin > FROZEN_ID && xmin > self.snapshot.xmin {
            self.snapshot.xmin = xmin;
            self.snapshot.xmax = self.snapshot.xmax.max(xmin);
            // No snapshot is like this, so the next poll is not taken for one that asks the same again.
            self.snapshot.in_progress.clear();
            self.seen.remove_range(..xmin);
        }
    }

    /// Whether a poll at `snapshot` can find nothing: it is the one that was asked last.
    pub fn has_nothing_new_at(&self, snapshot: &Snapshot) -> bool {
        self.partial.is_empty() && self.snapshot == *snapshot
    }
}

/// Which rows a question leaves out, for they have been given: those of ids below `xmin`, of `seen` ones, and of
/// `partial` ones up to a key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Given {
    pub xmin: u64,
    pub seen: RoaringTreemap,
    pub partial: BTreeMap<u64, KeyText>,
}

fn least_bound(raw_bound_us: i64, carried: &BTreeMap<String, i64>, margins: Margins) -> i64 {
    carried.values().copied().fold(raw_bound_us, i64::min).saturating_sub(margins.slack_us)
}

/// Adjacent ids of a set as half-open ranges.
pub fn runs(ids: &RoaringTreemap) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for id in ids {
        match runs.last_mut() {
            Some(run) if run.end == id => run.end += 1,
            _ => runs.push(id..id + 1),
        }
    }
    runs
}

/// One poll of a table while its rows are handed over, in the order of their ids.
#[derive(Debug, Clone)]
pub struct Poll {
    base: Polled,
    snapshot: Snapshot,
    ended: RoaringTreemap,
    raw_bound_us: i64,
    bound_us: i64,
    carried: BTreeMap<String, i64>,
    given: RoaringTreemap,
    current: Option<u64>,
}

impl Poll {
    pub fn new(base: &Polled, observation: &Observation, snapshot: &Snapshot, margins: Margins) -> Poll {
        let raw_bound_us = observation.raw_bound_us();
        // A transaction prepared since the previous poll had begun after that poll's raw bound.
        let carried = observation
            .prepared
            .iter()
            .map(|transaction| {
                let bound = base.carried.get(&transaction.name).copied().unwrap_or(base.raw_bound_us);
                (transaction.name.clone(), bound)
            })
            .collect();
        let bound_us = least_bound(raw_bound_us, &carried, margins);
        Poll {
            base: base.clone(),
            snapshot: snapshot.clone(),
            ended: observation.ended.clone(),
            raw_bound_us,
            bound_us,
            carried,
            given: RoaringTreemap::new(),
            current: None,
        }
    }

    /// Every row with a smaller timestamp is visible at the snapshot.
    pub fn bound_us(&self) -> i64 {
        self.bound_us
    }

    /// Notes that a row of `xid` is handed over. Ids never descend.
    pub fn give(&mut self, xid: u64) {
        if self.current != Some(xid) {
            self.current = Some(xid);
            // Those below have all ended, which one number says.
            if xid >= self.snapshot.xmin {
                self.given.insert(xid);
            }
        }
    }

    /// What holds when the rows so far are committed and no more: the old question, less what is
    /// done. `next` is the id of the row that comes next, where it is known.
    pub fn cut(&self, next: Option<u64>, last_key: &[Option<String>]) -> Polled {
        let mut state = self.base.clone();
        let Some(current) = self.current else { return state };
        // Ids below this are through: their rows were visible, and rows come in the order of ids.
        let through = next.unwrap_or(current);
        let unfinished = state.partial.split_off(&through);
        state.seen.extend(state.partial.into_keys());
        state.partial = unfinished;
        state.seen |= &self.given;
        if through == current {
            state.seen.remove(current);
            state.partial.insert(current, last_key.to_vec());
        }
        let mut ended = self.ended.clone();
        ended.remove_range(through..);
        state.seen |= ended;
        // Every id below the snapshot's xmin had ended, so those that have been passed can give nothing more.
        state.raise(through.min(self.snapshot.xmin));
        state
    }

    /// What holds when all rows of the poll are committed.
    pub fn complete(self) -> Polled {
        let mut seen = self.base.seen;
        seen |= self.given;
        seen |= self.ended;
        seen.extend(self.base.partial.into_keys());
        seen.remove_range(..self.snapshot.xmin);
        Polled {
            snapshot: self.snapshot,
            bound_us: self.bound_us,
            raw_bound_us: self.raw_bound_us,
            carried: self.carried,
            seen,
            partial: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests;
