//! Writers that do everything which makes a timestamp poller lose rows: transactions that commit late,
//! subtransactions, prepared transactions, several transactions in one message, equal timestamps.
//!
//! Each write takes a new `mark` from a sequence that no rollback turns back, so that every row version
//! of a test has a value of its own, and a row's later version always has the greater mark.

use crate::harness::Db;
use headwater::config::model::Postgres;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A table that the writers know how to fill.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// The column that is polled; writes and updates give it the transaction's `now()`.
    pub watermark: &'static str,
    pub watermark_type: &'static str,
    /// The zone of a `timestamp` or `date` watermark.
    pub zone: &'static str,
}

impl Target {
    pub const fn new(name: &'static str, watermark: &'static str, watermark_type: &'static str) -> Target {
        Target { name, watermark, watermark_type, zone: "UTC" }
    }

    /// An instant as this table writes it into its watermark.
    pub fn moment(&self, instant: &str) -> String {
        if self.watermark_type.starts_with("timestamptz") {
            return instant.to_owned();
        }
        format!("(({instant}) AT TIME ZONE '{}')::{}", self.zone, self.watermark_type)
    }

    /// Makes the table. `mark_seq` and `id_seq` are shared by all tables of the database.
    pub fn create(&self, db: &Db) {
        let Target { name, watermark, watermark_type, .. } = self;
        let now = self.moment("now()");
        db.execute(&format!(
            "CREATE SEQUENCE IF NOT EXISTS mark_seq; CREATE SEQUENCE IF NOT EXISTS id_seq;
             CREATE TABLE {name} (
               id bigint PRIMARY KEY DEFAULT nextval('id_seq'),
               mark bigint NOT NULL DEFAULT nextval('mark_seq'),
               writer int NOT NULL DEFAULT -1,
               kind text NOT NULL,
               note text,
               {watermark} {watermark_type} NOT NULL DEFAULT {now});
             CREATE INDEX ON {name} ({watermark});
             CREATE FUNCTION {name}_with_exception(w int, rows int, fail boolean) RETURNS void LANGUAGE plpgsql AS $$
             BEGIN
               FOR i IN 1..rows LOOP
                 BEGIN
                   INSERT INTO {name} (writer, kind) VALUES (w, 'inside EXCEPTION block');
                   IF fail AND i % 2 = 0 THEN RAISE EXCEPTION 'as asked'; END IF;
                 EXCEPTION WHEN raise_exception THEN
                   INSERT INTO {name} (writer, kind) VALUES (w, 'EXCEPTION handler');
                 END;
               END LOOP;
             END $$;
             CREATE PROCEDURE {name}_with_commits(w int, hold float) LANGUAGE plpgsql AS $$
             BEGIN
               INSERT INTO {name} (writer, kind) VALUES (w, 'procedure, before COMMIT');
               PERFORM pg_sleep(hold);
               COMMIT;
               INSERT INTO {name} (writer, kind) VALUES (w, 'procedure, after COMMIT');
               PERFORM pg_sleep(hold);
               COMMIT;
               INSERT INTO {name} (writer, kind) VALUES (w, 'procedure, last');
             END $$;"
        ));
    }

    /// Rows that are there before anybody polls: `rows` of them, many to a timestamp.
    pub fn fill(&self, db: &Db, rows: u64, age: &str) {
        let moment = self.moment(&format!("now() - interval '{age}' - (n / 100) * interval '1 minute'"));
        db.execute(&format!(
            "INSERT INTO {} (kind, {}) SELECT 'old', {moment} FROM generate_series(1, {rows}) n",
            self.name, self.watermark
        ));
    }
}

/// Small and repeatable; the tests print the seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    /// splitmix64
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Seconds, as PostgreSQL reads them.
    fn seconds(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * (self.below(10_000) as f64 / 10_000.0)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub writers: u64,
    pub duration: Duration,
    pub seed: u64,
    /// Longest time that a transaction is held open, in seconds.
    pub longest_hold: f64,
    /// How far in the past an application's own clock may set the watermark.
    pub backdate_ms: u64,
}

/// What was done, by name; the counts are of committed and rolled back transactions alike.
#[derive(Debug, Default)]
pub struct Done {
    pub actions: BTreeMap<&'static str, u64>,
    /// Transactions that PostgreSQL refused (deadlocks).
    pub refused: u64,
}

struct Writer<'a> {
    number: u64,
    db: Db,
    random: Random,
    targets: &'a [Target],
    options: Options,
    prepared: &'a Mutex<Vec<(String, Instant)>>,
    next_prepared: &'a AtomicU64,
}

/// Names of prepared transactions are shared by the whole cluster.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// Writes until the time is over; returns when every transaction has ended, the prepared ones too.
pub fn write(postgres: &Postgres, targets: &[Target], options: Options) -> Done {
    let prepared = Mutex::new(Vec::new());
    let next_prepared = AtomicU64::new(0);
    let writers_done = AtomicBool::new(false);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let gid_prefix = format!("{}-{run}", postgres.db);
    std::thread::scope(|scope| {
        let ender = scope.spawn(|| end_prepared(postgres, &prepared, &writers_done, options));
        let writers: Vec<_> = (0..options.writers)
            .map(|number| {
                let (prepared, next_prepared, gid_prefix) = (&prepared, &next_prepared, &gid_prefix);
                scope.spawn(move || {
                    let mut writer = Writer {
                        number,
                        db: Db::connect(postgres),
                        random: Random::new(options.seed.wrapping_add(number)),
                        targets,
                        options,
                        prepared,
                        next_prepared,
                    };
                    writer.run(gid_prefix)
                })
            })
            .collect();
        let mut done = Done::default();
        for writer in writers {
            let one = writer.join().expect("a writer");
            done.refused += one.refused;
            for (name, count) in one.actions {
                *done.actions.entry(name).or_default() += count;
            }
        }
        writers_done.store(true, Ordering::Release);
        ender.join().expect("the session that ends prepared transactions");
        done
    })
}

/// Commits or rolls back, from a session of its own, what others have prepared, some time later.
fn end_prepared(
    postgres: &Postgres,
    prepared: &Mutex<Vec<(String, Instant)>>,
    writers_done: &AtomicBool,
    options: Options,
) {
    let db = Db::connect(postgres);
    let mut random = Random::new(options.seed ^ 0xdead);
    loop {
        // Read before the list: what is prepared after it is in the next round.
        let last_round = writers_done.load(Ordering::Acquire);
        let now = Instant::now();
        let due: Vec<String> = {
            let mut waiting = prepared.lock().expect("the list");
            let (due, rest) = std::mem::take(&mut *waiting).into_iter().partition(|(_, at)| last_round || *at <= now);
            *waiting = rest;
            Vec::into_iter(due).map(|(gid, _)| gid).collect()
        };
        for gid in due {
            let verb = if random.chance(70) { "COMMIT" } else { "ROLLBACK" };
            db.execute(&format!("{verb} PREPARED '{gid}'"));
        }
        if last_round {
            return;
        }
        db.execute("SELECT pg_sleep(0.05)");
    }
}

impl Writer<'_> {
    fn run(&mut self, gid_prefix: &str) -> Done {
        let mut done = Done::default();
        let deadline = Instant::now() + self.options.duration;
        while Instant::now() < deadline {
            let target = self.targets[self.random.below(self.targets.len() as u64) as usize];
            let (name, statements) = self.choose(target, gid_prefix);
            let mut failed = false;
            for statement in &statements {
                if let Err(error) = self.db.try_execute(statement) {
                    let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
                    assert_eq!(code, "40P01", "only deadlocks are expected: {error:?}\n  in: {statement}");
                    self.db.execute("ROLLBACK");
                    failed = true;
                    break;
                }
            }
            done.refused += u64::from(failed);
            *done.actions.entry(name).or_default() += 1;
            if !failed
                && name == "prepared transaction"
                && let Some(gid) = statements.last().and_then(|last| last.split('\'').nth(1))
            {
                let hold = Duration::from_secs_f64(self.random.seconds(0.0, self.options.longest_hold * 1.5));
                self.prepared.lock().expect("the list").push((gid.to_owned(), Instant::now() + hold));
            }
        }
        done
    }

    fn insert(&mut self, target: Target, kind: &str) -> String {
        let rows = if self.random.chance(15) { 20 + self.random.below(120) } else { 1 + self.random.below(4) };
        format!(
            "INSERT INTO {} (writer, kind, note) SELECT {}, '{kind}', 'n' || n FROM generate_series(1, {rows}) n",
            target.name, self.number
        )
    }

    /// Gives up to `rows` existing rows a new version and watermark; rows that others hold are left out.
    fn update(&mut self, target: Target, kind: &str) -> String {
        let rows = 1 + self.random.below(6);
        let share = self.random.seconds(0.0, 1.0);
        format!(
            "UPDATE {0} SET mark = DEFAULT, {1} = DEFAULT, kind = '{kind}', writer = {2} WHERE id IN (
               SELECT id FROM {0} WHERE id >= (SELECT (last_value * {share})::bigint FROM id_seq) ORDER BY id LIMIT {rows} FOR UPDATE SKIP LOCKED)",
            target.name, target.watermark, self.number
        )
    }

    fn hold(&mut self) -> String {
        let seconds = self.random.seconds(0.0, self.options.longest_hold);
        format!("SELECT pg_sleep({seconds})")
    }

    fn end(&mut self) -> String {
        if self.random.chance(85) { "COMMIT".to_owned() } else { "ROLLBACK".to_owned() }
    }

    /// One piece of work: the messages to send, in this order.
    fn choose(&mut self, target: Target, gid_prefix: &str) -> (&'static str, Vec<String>) {
        match self.random.below(100) {
            0..=24 => ("burst of inserts", {
                let count = 1 + self.random.below(15);
                (0..count).map(|_| self.insert(target, "plain")).collect()
            }),
            25..=36 => ("burst of updates", {
                let count = 1 + self.random.below(10);
                (0..count).map(|_| self.update(target, "updated")).collect()
            }),
            37..=47 => ("long transaction", self.long_transaction(target)),
            48..=58 => ("savepoints", self.savepoints(target)),
            59..=66 => ("EXCEPTION blocks", self.exception_blocks(target)),
            67..=74 => ("prepared transaction", self.prepare(target, gid_prefix)),
            75..=83 => ("many transactions in one message", vec![self.one_message(target)]),
            84..=88 => ("procedure that commits", {
                let hold = self.random.seconds(0.0, 1.0);
                vec![format!("CALL {}_with_commits({}, {hold})", target.name, self.number)]
            }),
            89..=93 => ("row locks", self.row_locks(target)),
            _ => ("the application's clock", vec![self.own_clock(target)]),
        }
    }

    /// `now()` is fixed by BEGIN; the id comes with the first write, which may be much later.
    fn long_transaction(&mut self, target: Target) -> Vec<String> {
        let mut work = vec!["BEGIN".to_owned()];
        if self.random.chance(50) {
            // Fixes now() without taking a transaction id.
            work.extend(["SELECT now()".to_owned(), self.hold()]);
        }
        work.push(self.insert(target, "long"));
        work.push(self.hold());
        if self.random.chance(50) {
            work.push(self.update(target, "updated in long"));
        }
        work.push(self.insert(target, "long, late"));
        work.push(self.end());
        work
    }

    fn savepoints(&mut self, target: Target) -> Vec<String> {
        let mut work = vec!["BEGIN".to_owned()];
        if self.random.chance(50) {
            work.push(self.insert(target, "before savepoint"));
        }
        work.push("SAVEPOINT one".to_owned());
        work.push(self.insert(target, "in savepoint"));
        work.push("SAVEPOINT two".to_owned());
        work.push(self.update(target, "updated in savepoint"));
        work.push(self.insert(target, "in nested savepoint"));
        let ends = ["RELEASE two", "ROLLBACK TO two", "ROLLBACK TO one", "RELEASE one"];
        work.push(ends[self.random.below(4) as usize].to_owned());
        work.push(self.hold());
        work.push(self.insert(target, "after savepoint"));
        work.push(self.end());
        work
    }

    fn exception_blocks(&mut self, target: Target) -> Vec<String> {
        let rows = 1 + self.random.below(8);
        let fail = self.random.chance(60);
        let call = format!("SELECT {}_with_exception({}, {rows}, {fail})", target.name, self.number);
        if self.random.chance(40) {
            return vec![call];
        }
        vec!["BEGIN".to_owned(), call, self.hold(), self.end()]
    }

    fn prepare(&mut self, target: Target, gid_prefix: &str) -> Vec<String> {
        let gid = format!("{gid_prefix}-{}", self.next_prepared.fetch_add(1, Ordering::Relaxed));
        let mut work = vec!["BEGIN".to_owned(), self.insert(target, "prepared")];
        if self.random.chance(50) {
            work.extend(["SAVEPOINT one".to_owned(), self.insert(target, "prepared, in savepoint")]);
        }
        if self.random.chance(50) {
            work.push(self.hold());
        }
        work.push(format!("PREPARE TRANSACTION '{gid}'"));
        work
    }

    /// In one message every `now()` is that of the message's start, in its later transactions too.
    fn one_message(&mut self, target: Target) -> String {
        let mut work = vec![
            "BEGIN".to_owned(),
            self.insert(target, "first in message"),
            "COMMIT".to_owned(),
            self.hold(),
            "BEGIN".to_owned(),
            self.insert(target, "second in message"),
            self.hold(),
            "COMMIT".to_owned(),
        ];
        if self.random.chance(50) {
            work.extend([
                "BEGIN".to_owned(),
                self.update(target, "updated in message"),
                "ROLLBACK".to_owned(),
                self.insert(target, "last in message"),
            ]);
        }
        work.join("; ")
    }

    /// Marks rows as locked without a new version: nothing to capture.
    fn row_locks(&mut self, target: Target) -> Vec<String> {
        let strength = ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"][self.random.below(4) as usize];
        let share = self.random.seconds(0.0, 1.0);
        vec![
            "BEGIN".to_owned(),
            format!(
                "SELECT count(*) FROM (SELECT 1 FROM {} WHERE id >= (SELECT (last_value * {share})::bigint FROM id_seq)
                 ORDER BY id LIMIT 10 FOR {strength} SKIP LOCKED) locked",
                target.name
            ),
            self.hold(),
            self.end(),
        ]
    }

    fn own_clock(&mut self, target: Target) -> String {
        let back = self.random.below(self.options.backdate_ms.max(1));
        let moment = target.moment(&format!("clock_timestamp() - interval '{back} ms'"));
        format!(
            "INSERT INTO {} (writer, kind, {}) VALUES ({}, 'own clock', {moment})",
            target.name, target.watermark, self.number
        )
    }
}
