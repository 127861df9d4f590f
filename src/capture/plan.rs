//! The poll plan: which rows a poll asks for, and what is known once they are published. Pure.
//!
//! PostgreSQL's snapshots say what is new, the timestamp only says where to look. A row is new when
//! its transaction id is not below the xmin of the previous snapshot (those had ended then) and not
//! among the ids already given since. The timestamp bound is the least start of any transaction
//! that was not visible yet, so that an index range finds all of them.

use roaring::RoaringTreemap;
use std::{collections::BTreeMap, ops::Range};

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
    /// Id and name together, since a name can be used again.
    pub name: String,
    pub prepared_us: i64,
}

/// What was read before the snapshot of a poll was taken. Times in microseconds since the Unix epoch.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    pub clock_us: i64,
    /// The least start of the transactions and messages of other sessions.
    pub oldest_start_us: Option<i64>,
    pub prepared: Vec<PreparedTransaction>,
    /// Ids that had ended by then.
    pub ended: RoaringTreemap,
}

impl Observation {
    fn raw_bound_us(&self) -> i64 {
        self.oldest_start_us.map_or(self.clock_us, |start| start.min(self.clock_us))
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

    /// Ids from `snapshot.xmin` up to `limit` of which it is unknown whether they still can give rows.
    pub fn unknown_ids(&self, limit: u64) -> RoaringTreemap {
        let mut unknown = RoaringTreemap::new();
        if self.snapshot.xmin > 0 && self.snapshot.xmin < limit {
            unknown.insert_range(self.snapshot.xmin..limit);
            unknown -= &self.seen;
        }
        unknown
    }

    /// Whether a poll at `snapshot` can find nothing: it is the one that was asked last.
    pub fn has_nothing_new_at(&self, snapshot: &Snapshot) -> bool {
        self.partial.is_empty() && self.snapshot == *snapshot
    }
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

    /// Notes that a row of `xid` is handed over. Ids never descend.
    pub fn give(&mut self, xid: u64) {
        if self.current != Some(xid) {
            self.current = Some(xid);
            self.given.insert(xid);
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_snapshot_is_read_and_written_as_postgresql_writes_it() {
        for text in ["10:20:", "10:20:10,14,15", "3:3:"] {
            assert_eq!(Snapshot::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "1:2", "2:1:", "a:b:", "1:2:3:4", "1:2:x"] {
            assert!(Snapshot::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_widened_and_wrapped_ones_are_frozen() {
        let latest = (5 << 32) + 10;
        assert_eq!(widen(latest, 1), latest - 1);
        assert_eq!(widen(latest, 20), (5 << 32) - 10);
        assert_eq!(widen(latest, i32::MAX), FROZEN_ID);
        assert_eq!(widen(latest, -7), FROZEN_ID);
        assert_eq!(widen(latest, 0), FROZEN_ID);
    }

    #[test]
    fn runs_are_half_open() {
        let ids: RoaringTreemap = [1, 2, 3, 7, 9, 10].into_iter().collect();
        assert_eq!(runs(&ids), vec![1..4, 7..8, 9..11]);
        assert!(runs(&RoaringTreemap::new()).is_empty());
    }

    const SLACK_US: i64 = 2;
    const MARGINS: Margins = Margins { slack_us: SLACK_US, prepared_us: 1_000 };

    /// A session of the simulated server.
    #[derive(Debug, Clone, Default)]
    struct Transaction {
        start_us: i64,
        xid: Option<u64>,
        /// Subtransactions that are not rolled back, the innermost last.
        savepoints: Vec<u64>,
        /// Ids under which rows were written and not rolled back.
        rows: Vec<(u64, i64, u32)>,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    struct Row {
        xid: u64,
        key: u32,
        time_us: i64,
        /// Top-level transaction.
        top: u64,
    }

    #[derive(Debug, Clone, Default)]
    struct Server {
        now_us: i64,
        next_xid: u64,
        next_key: u32,
        open: BTreeMap<usize, Transaction>,
        prepared: BTreeMap<u64, (i64, Vec<Row>, Vec<u64>)>,
        committed: Vec<Row>,
        /// Subtransaction ids of what is in progress, by top-level id.
        subs: BTreeMap<u64, Vec<u64>>,
    }

    impl Server {
        fn assign(&mut self, session: usize) -> u64 {
            let next = &mut self.next_xid;
            let mut take = || {
                *next += 1;
                *next - 1
            };
            let transaction = self.open.entry(session).or_default();
            let top = *transaction.xid.get_or_insert_with(&mut take);
            self.subs.entry(top).or_default();
            top
        }

        fn write(&mut self, session: usize, count: u32, skew_us: i64) {
            if !self.open.contains_key(&session) {
                return;
            }
            let top = self.assign(session);
            let transaction = self.open.get_mut(&session).unwrap();
            let xid = transaction.savepoints.last().copied().unwrap_or(top);
            for _ in 0..count {
                self.next_key += 1;
                transaction.rows.push((xid, transaction.start_us - skew_us, self.next_key));
            }
        }

        fn savepoint(&mut self, session: usize) {
            if !self.open.contains_key(&session) {
                return;
            }
            let top = self.assign(session);
            let xid = self.next_xid;
            self.next_xid += 1;
            self.open.get_mut(&session).unwrap().savepoints.push(xid);
            self.subs.entry(top).or_default().push(xid);
        }

        fn roll_back_to_savepoint(&mut self, session: usize) {
            let Some(transaction) = self.open.get_mut(&session) else { return };
            if let Some(xid) = transaction.savepoints.pop() {
                transaction.rows.retain(|(of, ..)| *of < xid);
            }
        }

        fn end(&mut self, session: usize, commit: bool) {
            let Some(transaction) = self.open.remove(&session) else { return };
            let Some(top) = transaction.xid else { return };
            self.subs.remove(&top);
            if commit {
                let row = |(xid, time_us, key)| Row { xid, key, time_us, top };
                self.committed.extend(transaction.rows.into_iter().map(row));
            }
        }

        fn prepare(&mut self, session: usize) {
            let Some(transaction) = self.open.remove(&session) else { return };
            let Some(top) = transaction.xid else { return };
            let rows = transaction.rows.into_iter().map(|(xid, time_us, key)| Row { xid, key, time_us, top });
            let subs = self.subs.remove(&top).unwrap_or_default();
            self.prepared.insert(top, (self.now_us, rows.collect(), subs));
        }

        fn end_prepared(&mut self, commit: bool) {
            if let Some((_, (_, rows, _))) = self.prepared.pop_first()
                && commit
            {
                self.committed.extend(rows);
            }
        }

        fn in_progress(&self) -> Vec<u64> {
            let open = self.open.values().filter_map(|transaction| transaction.xid);
            let mut ids: Vec<u64> = open.chain(self.prepared.keys().copied()).collect();
            ids.sort_unstable();
            ids
        }

        fn snapshot(&self) -> Snapshot {
            let in_progress = self.in_progress();
            let xmin = in_progress.first().copied().unwrap_or(self.next_xid);
            Snapshot { xmin, xmax: self.next_xid, in_progress }
        }

        fn observe(&self, asks: bool) -> Observation {
            let mut ended = RoaringTreemap::new();
            if asks {
                ended.insert_range(3..self.next_xid);
                for id in self.in_progress() {
                    ended.remove(id);
                }
                let prepared = self.prepared.values().flat_map(|(_, _, subs)| subs);
                for id in self.subs.values().flatten().chain(prepared) {
                    ended.remove(*id);
                }
            }
            Observation {
                clock_us: self.now_us,
                oldest_start_us: self.open.values().map(|transaction| transaction.start_us).min(),
                prepared: self
                    .prepared
                    .iter()
                    .map(|(id, (prepared_us, ..))| PreparedTransaction {
                        name: format!("{id}:g"),
                        prepared_us: *prepared_us,
                    })
                    .collect(),
                ended,
            }
        }
    }

    /// What the SQL of a poll says.
    fn answer(server: &Server, polled: &Polled, floor_us: i64) -> Vec<Row> {
        let mut rows: Vec<Row> = server
            .committed
            .iter()
            .copied()
            .filter(|row| row.time_us >= polled.bound_us.max(floor_us))
            .filter(|row| row.xid >= polled.snapshot.xmin && !polled.seen.contains(row.xid))
            .filter(|row| match polled.partial.get(&row.xid) {
                Some(last) => row.key > last[0].as_ref().unwrap().parse().unwrap(),
                None => true,
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    #[derive(Debug, Clone)]
    enum Step {
        Pass(i64),
        Begin(usize),
        Write(usize, u32, i64),
        Savepoint(usize),
        RollBackToSavepoint(usize),
        End(usize, bool),
        Prepare(usize),
        EndPrepared(bool),
        /// Kafka transactions of so many rows; so many of them are committed before a crash, if there is one.
        Poll {
            rows: usize,
            crash_after: Option<usize>,
            asks: bool,
            knows_next: bool,
        },
        Load(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let session = 0..4_usize;
        prop_oneof![
            3 => (1..20_i64).prop_map(Step::Pass),
            4 => session.clone().prop_map(Step::Begin),
            5 => (session.clone(), 1..4_u32, 0..=SLACK_US).prop_map(|(s, n, skew)| Step::Write(s, n, skew)),
            3 => session.clone().prop_map(Step::Savepoint),
            1 => session.clone().prop_map(Step::RollBackToSavepoint),
            4 => (session.clone(), prop::bool::weighted(0.8)).prop_map(|(s, c)| Step::End(s, c)),
            1 => session.prop_map(Step::Prepare),
            1 => any::<bool>().prop_map(Step::EndPrepared),
            6 => (1..4_usize, prop::option::of(0..4_usize), any::<bool>(), any::<bool>())
                .prop_map(|(rows, crash_after, asks, knows_next)| Step::Poll { rows, crash_after, asks, knows_next }),
            2 => (1..4_usize).prop_map(Step::Load),
        ]
    }

    /// The stage as it would run, with its checkpoint.
    #[derive(Default)]
    struct Stage {
        stored: Option<(Polled, i64)>,
        loaded_to: Option<(i64, u32)>,
        given: BTreeMap<(u64, u32), u32>,
    }

    impl Stage {
        fn poll(
            &mut self,
            server: &mut Server,
            rows: usize,
            crash_after: Option<usize>,
            asks: bool,
            knows_next: bool,
            between: impl Fn(&mut Server),
        ) {
            let observation = server.observe(asks);
            // Anything may happen between what is read before and the snapshot.
            between(server);
            let snapshot = server.snapshot();
            let (base, floor_us) = self.stored.clone().unwrap_or_else(|| {
                let first = Polled::first(&observation, MARGINS);
                let floor_us = first.bound_us;
                (first, floor_us)
            });
            let answer = answer(server, &base, floor_us);
            let mut poll = Poll::new(&base, &observation, &snapshot, MARGINS);
            if base.has_nothing_new_at(&snapshot) {
                assert!(answer.is_empty(), "nothing was to be new, and {answer:?} are");
            }
            let mut transaction = Vec::new();
            let mut committed = 0;
            for (position, row) in answer.iter().enumerate() {
                poll.give(row.xid);
                transaction.push((row.xid, row.key));
                let next = answer.get(position + 1);
                if transaction.len() >= rows && next.is_some() {
                    if crash_after == Some(committed) {
                        return;
                    }
                    let next = next.map(|row| row.xid).filter(|_| knows_next);
                    let state = poll.cut(next, &[Some(row.key.to_string())]);
                    self.commit(state, floor_us, &mut transaction);
                    committed += 1;
                }
            }
            if crash_after == Some(committed) {
                return;
            }
            self.commit(poll.complete(), floor_us, &mut transaction);
        }

        fn commit(&mut self, state: Polled, floor_us: i64, transaction: &mut Vec<(u64, u32)>) {
            for row in transaction.drain(..) {
                *self.given.entry(row).or_default() += 1;
            }
            self.stored = Some((state, floor_us));
        }

        fn load(&mut self, server: &Server, rows: usize) {
            let Some((_, floor_us)) = &self.stored else { return };
            let mut left: Vec<Row> = server
                .committed
                .iter()
                .copied()
                .filter(|row| row.time_us < *floor_us && self.loaded_to.is_none_or(|to| (row.time_us, row.key) > to))
                .collect();
            left.sort_unstable_by_key(|row| (row.time_us, row.key));
            for row in left.iter().take(rows) {
                *self.given.entry((row.xid, row.key)).or_default() += 1;
                self.loaded_to = Some((row.time_us, row.key));
            }
        }
    }

    fn play(steps: &[Step]) -> (Server, Stage) {
        let mut server = Server { now_us: 10_000, next_xid: 3, ..Server::default() };
        let mut stage = Stage::default();
        for (position, step) in steps.iter().enumerate() {
            server.now_us += 1;
            match step {
                Step::Pass(time) => server.now_us += time,
                Step::Begin(session) => {
                    let start_us = server.now_us;
                    server.open.entry(*session).or_insert(Transaction { start_us, ..Transaction::default() });
                }
                Step::Write(session, count, skew) => server.write(*session, *count, *skew),
                Step::Savepoint(session) => server.savepoint(*session),
                Step::RollBackToSavepoint(session) => server.roll_back_to_savepoint(*session),
                Step::End(session, commit) => server.end(*session, *commit),
                Step::Prepare(session) => server.prepare(*session),
                Step::EndPrepared(commit) => server.end_prepared(*commit),
                Step::Poll { rows, crash_after, asks, knows_next } => {
                    stage.poll(&mut server, *rows, *crash_after, *asks, *knows_next, |server| {
                        if position % 2 == 0 {
                            server.end(position % 4, true);
                            server.now_us += 1;
                            server
                                .open
                                .entry(position % 4)
                                .or_insert(Transaction { start_us: server.now_us, ..Transaction::default() });
                            server.write(position % 4, 1, SLACK_US);
                            if position % 3 == 0 {
                                server.end(position % 4, true);
                            }
                        }
                    });
                }
                Step::Load(rows) => stage.load(&server, *rows),
            }
        }
        for session in 0..4 {
            server.end(session, true);
        }
        while !server.prepared.is_empty() {
            server.end_prepared(true);
        }
        server.now_us += 1;
        stage.poll(&mut server, 2, None, true, true, |_| {});
        stage.poll(&mut server, 1_000, None, false, true, |_| {});
        stage.load(&server, usize::MAX);
        (server, stage)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

        /// Whatever transactions and crashes do, every committed row is given once.
        #[test]
        fn every_committed_row_is_given_once(steps in prop::collection::vec(step(), 1..120)) {
            let (server, stage) = play(&steps);
            for row in &server.committed {
                let times = stage.given.get(&(row.xid, row.key)).copied().unwrap_or(0);
                prop_assert_eq!(times, 1, "{:?} with state {:?}", row, stage.stored);
            }
            prop_assert_eq!(stage.given.len(), server.committed.len());
        }
    }
}
