use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, btree_map::Entry};

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
    /// The virtual transaction id.
    identity: u64,
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
    next_identity: u64,
    /// Transactions that are visible, and still shown and locked for a moment: session, identity, start.
    leaving: Vec<(usize, u64, i64)>,
}

/// From this age on a transaction is looked at by itself.
const OLD_US: i64 = 5;

impl Server {
    fn begin(&mut self, session: usize) {
        let (start_us, identity) = (self.now_us, self.next_identity);
        if let Entry::Vacant(free) = self.open.entry(session) {
            self.leaving.retain(|(of, ..)| *of != session);
            free.insert(Transaction { identity, start_us, ..Transaction::default() });
            self.next_identity += 1;
        }
    }

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
        self.leaving.push((session, transaction.identity, transaction.start_us));
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

    /// Sessions with a transaction that is not visible yet, as the ids in `pg_stat_activity` tell.
    fn still_open(&self) -> Vec<i32> {
        self.open.keys().map(|session| *session as i32).collect()
    }

    /// Who holds which identity.
    fn held(&self) -> HashMap<i32, String> {
        let open = self.open.iter().map(|(session, transaction)| (*session, transaction.identity));
        let leaving = self.leaving.iter().map(|(session, identity, _)| (*session, *identity));
        leaving.chain(open).map(|(session, identity)| (session as i32, identity.to_string())).collect()
    }

    /// Anything may happen between what is read first and the rest.
    fn observe(&mut self, asks: bool, between: impl FnOnce(&mut Server)) -> Observation {
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
        let clock_us = self.now_us;
        let open = self.open.iter().map(|(session, transaction)| (*session, transaction.start_us));
        let leaving = self.leaving.iter().map(|(session, _, start_us)| (*session, *start_us));
        let (old, young): (Vec<_>, Vec<_>) =
            open.chain(leaving).partition(|(_, start_us)| *start_us <= clock_us - OLD_US);
        between(self);
        let held = self.held();
        let note = |(session, start_us): (usize, i64)| {
            let pid = session as i32;
            Note { pid, identity: held.get(&pid).cloned(), start_us }
        };
        Observation {
            clock_us,
            oldest_start_us: young.into_iter().map(|(_, start_us)| start_us).min(),
            notes: old.into_iter().map(note).collect(),
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

/// What is asked for: rows between two times that have not been given, in the order of the question.
fn answer(server: &Server, given: &Given, times: Range<i64>) -> Vec<Row> {
    let is_asked = |row: &Row| {
        let is_through = given.partial.get(&row.xid).is_some_and(|last| row.key <= key_of(last));
        times.contains(&row.time_us) && row.xid >= given.xmin && !given.seen.contains(row.xid) && !is_through
    };
    let mut rows: Vec<Row> = server.committed.iter().copied().filter(is_asked).collect();
    rows.sort_unstable();
    rows
}

fn key_of(text: &[Option<String>]) -> u32 {
    text[0].as_ref().unwrap().parse().unwrap()
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
    /// Kafka transactions of so many rows; so many of them are committed before a crash, if there is one. So many
    /// rows at most.
    Poll {
        rows: usize,
        most: usize,
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
        7 => (1..4_usize, prop_oneof![1..6_usize, Just(1_000)], prop::option::weighted(0.3, 0..4_usize), any::<bool>(), any::<bool>())
            .prop_map(|(rows, most, crash_after, asks, knows_next)| Step::Poll { rows, most, crash_after, asks, knows_next }),
        3 => (1..4_usize).prop_map(Step::Load),
    ]
}

/// Time and key of the last row read in this order, where there is one.
type Place = Option<(i64, u32)>;

/// A checkpoint.
#[derive(Debug, Clone)]
struct Kept {
    polled: Polled,
    /// Below it rows belong to the first load, and to what was caught up with.
    polls_from_us: i64,
    floor_us: i64,
    loaded_to: Place,
    is_loaded: bool,
    /// What had been given, from when to when, and the last one since.
    catch_up: Option<(Given, Range<i64>, Place)>,
}

/// The stage as it would run.
#[derive(Default)]
struct Stage {
    kept: Option<Kept>,
    given: BTreeMap<(u64, u32), u32>,
    /// Gone with a crash.
    noted: Option<Noted>,
    is_behind: bool,
    narrowed: u32,
    caught_up: u32,
}

/// How a poll is played.
#[derive(Debug, Clone, Copy)]
struct Play {
    rows: usize,
    most: usize,
    crash_after: Option<usize>,
    asks: bool,
    knows_next: bool,
}

impl Stage {
    /// `between` is what happens at each of the moments between two questions.
    fn poll(&mut self, server: &mut Server, play: Play, between: impl Fn(&mut Server, u32)) {
        let observation = server.observe(play.asks, |server| between(server, 0));
        between(server, 1);
        let snapshot = server.snapshot();
        let visible = server.clone();
        between(server, 2);
        let open = server.still_open();
        between(server, 3);
        let proven: Proven = server.held().into_iter().filter(|(pid, _)| open.contains(pid)).collect();

        let mut kept = self.kept.clone().unwrap_or_else(|| {
            let polled = Polled::first(&observation, MARGINS);
            let floor_us = polled.bound_us;
            Kept { polled, polls_from_us: floor_us, floor_us, loaded_to: None, is_loaded: false, catch_up: None }
        });
        let mut poll = Poll::new(&kept.polled, &observation, &snapshot, MARGINS);
        let base = kept.polled.clone();
        let from_us = base.question_us(self.noted.as_ref(), &observation, &proven, &snapshot, MARGINS);
        self.narrowed += u32::from(from_us > base.bound_us);
        if base.has_nothing_new_at(&snapshot) {
            let all = answer(&visible, &base.given(), kept.polls_from_us..i64::MAX);
            let all = all.iter().filter(|row| row.time_us >= base.bound_us).count();
            assert_eq!(all, 0, "nothing was to be new");
        }
        let mut lower_us = from_us.max(kept.polls_from_us);
        if self.is_behind && kept.catch_up.is_none() && lower_us < poll.bound_us() {
            kept.catch_up = Some((base.given(), lower_us..poll.bound_us(), None));
            kept.polls_from_us = poll.bound_us();
            lower_us = poll.bound_us();
            self.caught_up += 1;
        }
        let all = answer(&visible, &base.given(), lower_us..i64::MAX);
        let answer = &all[..all.len().min(play.most)];
        let mut transaction = Vec::new();
        let mut committed = 0;
        for (position, row) in answer.iter().enumerate() {
            poll.give(row.xid);
            transaction.push((row.xid, row.key));
            let next = answer.get(position + 1);
            if transaction.len() >= play.rows && next.is_some() {
                if play.crash_after == Some(committed) {
                    return self.crash();
                }
                let next = next.map(|row| row.xid).filter(|_| play.knows_next);
                kept.polled = poll.cut(next, &[Some(row.key.to_string())]);
                self.commit(&kept, &mut transaction);
                committed += 1;
            }
        }
        if play.crash_after == Some(committed) {
            return self.crash();
        }
        self.is_behind = answer.len() >= play.most;
        if let (true, Some(last)) = (self.is_behind, answer.last()) {
            kept.polled = poll.cut(None, &[Some(last.key.to_string())]);
        } else {
            kept.polled = poll.complete();
            if kept.is_loaded && kept.catch_up.is_none() {
                kept.polls_from_us = i64::MIN;
            }
            self.noted = Some(Noted::new(&observation, self.noted.as_ref()));
        }
        self.commit(&kept, &mut transaction);
    }

    fn crash(&mut self) {
        self.noted = None;
        self.is_behind = true;
    }

    fn commit(&mut self, kept: &Kept, transaction: &mut Vec<(u64, u32)>) {
        for row in transaction.drain(..) {
            *self.given.entry(row).or_default() += 1;
        }
        self.kept = Some(kept.clone());
    }

    /// A chunk of so many rows.
    fn load(&mut self, server: &Server, rows: usize) {
        let Some(kept) = &mut self.kept else { return };
        let first = Given::default();
        let (given, times, last) = match &mut kept.catch_up {
            Some((given, times, last)) => (&*given, times.clone(), last),
            None => (&first, i64::MIN..kept.floor_us, &mut kept.loaded_to),
        };
        let mut left = answer(server, given, times);
        left.retain(|row| last.is_none_or(|to| (row.time_us, row.key) > to));
        left.sort_unstable_by_key(|row| (row.time_us, row.key));
        for row in left.iter().take(rows) {
            *self.given.entry((row.xid, row.key)).or_default() += 1;
            *last = Some((row.time_us, row.key));
        }
        if left.len() < rows {
            kept.is_loaded |= kept.catch_up.is_none();
            kept.catch_up = None;
        }
    }
}

/// What other sessions do at a moment between two questions of a poll.
fn disturb(server: &mut Server, position: usize, moment: u32) {
    let chosen = position * 7 + moment as usize * 3;
    if !chosen.is_multiple_of(3) {
        return;
    }
    let session = chosen % 4;
    match chosen % 5 {
        0 => server.prepare(session),
        1 => server.end_prepared(true),
        _ => server.end(session, true),
    }
    server.now_us += 1;
    server.begin(session);
    server.write(session, 1, SLACK_US);
    if chosen.is_multiple_of(2) {
        server.end(session, true);
    }
}

fn play(steps: &[Step]) -> (Server, Stage) {
    let mut server = Server { now_us: 10_000, next_xid: 3, ..Server::default() };
    let mut stage = Stage::default();
    for (position, step) in steps.iter().enumerate() {
        server.now_us += 1;
        match step {
            Step::Pass(time) => {
                server.now_us += time;
                server.leaving.clear();
            }
            Step::Begin(session) => server.begin(*session),
            Step::Write(session, count, skew) => server.write(*session, *count, *skew),
            Step::Savepoint(session) => server.savepoint(*session),
            Step::RollBackToSavepoint(session) => server.roll_back_to_savepoint(*session),
            Step::End(session, commit) => server.end(*session, *commit),
            Step::Prepare(session) => server.prepare(*session),
            Step::EndPrepared(commit) => server.end_prepared(*commit),
            Step::Poll { rows, most, crash_after, asks, knows_next } => {
                let (rows, most, crash_after) = (*rows, *most, *crash_after);
                let play = Play { rows, most, crash_after, asks: *asks, knows_next: *knows_next };
                stage.poll(&mut server, play, |server, moment| disturb(server, position, moment));
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
    let whole = Play { rows: 1_000, most: 1_000, crash_after: None, asks: false, knows_next: true };
    stage.poll(&mut server, Play { rows: 2, asks: true, ..whole }, |_, _| {});
    stage.poll(&mut server, whole, |_, _| {});
    // What was caught up with, then what is left of the first load.
    stage.load(&server, usize::MAX);
    stage.load(&server, usize::MAX);
    (server, stage)
}

/// The simulation bites only where the ways that it is about are gone.
#[test]
fn the_simulation_narrows_questions_and_catches_up() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut narrowed, mut caught_up) = (0, 0);
    for _ in 0..200 {
        let steps = prop::collection::vec(step(), 1..120).new_tree(&mut runner).unwrap().current();
        let (_, stage) = play(&steps);
        narrowed += stage.narrowed;
        caught_up += stage.caught_up;
    }
    assert!(narrowed > 100 && caught_up > 100, "{narrowed} narrowed, {caught_up} caught up");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// Whatever transactions and crashes do, every committed row is given once.
    #[test]
    fn every_committed_row_is_given_once(steps in prop::collection::vec(step(), 1..120)) {
        let (server, stage) = play(&steps);
        for row in &server.committed {
            let times = stage.given.get(&(row.xid, row.key)).copied().unwrap_or(0);
            prop_assert_eq!(times, 1, "{:?} with state {:?}", row, stage.kept);
        }
        prop_assert_eq!(stage.given.len(), server.committed.len());
    }
}
