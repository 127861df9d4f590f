//! Rows below the bound, counted: how one that no poll will ask for is told from ordinary ones. Pure.
//!
//! Below the bound every row was visible at the last poll's snapshot, so polls do not look there again. A row that is
//! written there all the same (by a session whose zone is behind, after a clock was set back, by hand) has an old
//! watermark and a new transaction id. So has the new version of a row whose update left the watermark alone, which is
//! ordinary. PostgreSQL notes in a row whether an update made it, but shows that only to a superuser who has installed
//! an extension. So rows are counted, by minutes of the watermark, of a date by days. Below the bound a minute can only
//! lose rows: an update that leaves the watermark alone puts one row in the place of one, as does a move to another
//! partition or a rewriting `ALTER TABLE`; a delete takes rows away; what was rolled back was never visible. A minute
//! that has more rows than it had before therefore holds rows that were written below the bound.
//!
//! What a minute may hold is what the first count found there, and what polls have given since, or what a later count
//! found, if that was less. Of a table with a filter polls do not show what an update may let match later, so there
//! only counts speak, and both the rows that match and all rows must have become more.
//!
//! What cannot be told: rows that were there at the first count, after a start or a new connection; rows in a minute
//! that has lost as many since its last count, to deletes or to updates that moved them up; with a filter, rows that
//! come before the first count of their minute. And which row of a minute it is, where others there were updated: the
//! example that is shown is the newest version in the minute, which may be one of these. With a filter one wrong answer
//! is possible: a row below the bound that does not match, while an update lets another of the same minute match.

use super::super::source::WatermarkType;
use std::{collections::BTreeMap, ops::Range, time::Duration};

/// A zone can be so far behind another.
const DEPTH_HOURS: i64 = 26;
const MINUTE_US: i64 = 60_000_000;
const HALF_HOUR_US: i64 = 30 * MINUTE_US;
/// Clocks differ, and time passes between a transaction's begin and the first poll that knows of its id.
const UNSURE_US: Range<i64> = -10_000_000..30_000_000;
/// More distinct minutes above the bound are not kept.
pub const MOST_BUCKETS: usize = 10_000;
const FIRST_STEP: i64 = 60;
/// A question shall take about this long.
const QUICK: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_millis(1_000);

/// The bucket of a raw watermark.
pub fn bucket(kind: WatermarkType, raw: i64) -> i64 {
    raw.div_euclid(width(kind))
}

/// Raw watermarks of one bucket.
pub fn width(kind: WatermarkType) -> i64 {
    match kind {
        WatermarkType::Date => 1,
        _ => MINUTE_US,
    }
}

/// Buckets that a search goes back.
fn depth(kind: WatermarkType) -> i64 {
    match kind {
        WatermarkType::Date => DEPTH_HOURS / 24 + 2,
        _ => DEPTH_HOURS * 60,
    }
}

/// Rows that polls have given, by buckets of the watermark.
#[derive(Debug, Default)]
pub struct Tally {
    rows: BTreeMap<i64, u64>,
    total: u64,
    last: Option<(i64, u64)>,
    has_overflown: bool,
}

impl Tally {
    /// Rows come in about the order of the watermark, so that few go into the map one by one.
    pub fn note(&mut self, bucket: Option<i64>) {
        self.total += 1;
        let Some(bucket) = bucket else { return };
        match &mut self.last {
            Some((last, rows)) if *last == bucket => *rows += 1,
            _ => {
                self.settle();
                self.last = Some((bucket, 1));
            }
        }
    }

    fn settle(&mut self) {
        let Some((bucket, rows)) = self.last.take() else { return };
        if self.rows.len() >= MOST_BUCKETS && !self.rows.contains_key(&bucket) {
            self.has_overflown = true;
            return;
        }
        *self.rows.entry(bucket).or_default() += rows;
    }

    /// All rows since the begin.
    pub fn total(&self) -> u64 {
        self.total
    }

    fn clear(&mut self) {
        *self = Tally { total: self.total, ..Tally::default() };
    }
}

/// What a question found in one bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub all: u64,
    /// Those that the filter lets through.
    pub matching: u64,
    /// Of these, with a transaction id that is not old.
    pub new: u64,
}

/// What a bucket may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Base {
    all: u64,
    matching: u64,
    /// Rows with a lesser transaction id were there then.
    since: u64,
}

impl Base {
    fn excess(&self, count: &Count) -> u64 {
        let more = count.all.saturating_sub(self.all).min(count.matching.saturating_sub(self.matching));
        // A partition that was attached brings old rows.
        more.min(count.new)
    }
}

/// Buckets of one question; without `to` all from `from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub from: i64,
    pub to: Option<i64>,
}

/// A walk down from the bound.
#[derive(Debug, Clone)]
struct Pass {
    asks_above: bool,
    low: i64,
    next: i64,
    step: i64,
}

/// Rows that were found below the bound; outlives a [`Census`].
#[derive(Debug, Default)]
pub struct Lost {
    /// By bucket: how many, and from which transaction id on.
    buckets: BTreeMap<i64, (u64, u64)>,
}

impl Lost {
    pub fn rows(&self) -> u64 {
        self.buckets.values().map(|(rows, _)| rows).sum()
    }

    /// The transaction id from which on rows in these buckets may be lost ones.
    pub fn since(&self, buckets: &[i64]) -> u64 {
        buckets.iter().filter_map(|bucket| self.buckets.get(bucket)).map(|(_, since)| *since).min().unwrap_or(0)
    }
}

/// The counts of a table.
#[derive(Debug)]
pub struct Census {
    kind: WatermarkType,
    /// Whether only counts say what a bucket may hold.
    counts_only: bool,
    bases: BTreeMap<i64, Base>,
    since: u64,
    has_counted_all: bool,
    pass: Option<Pass>,
}

impl Census {
    pub fn new(kind: WatermarkType, counts_only: bool) -> Census {
        Census { kind, counts_only, bases: BTreeMap::new(), since: 0, has_counted_all: false, pass: None }
    }

    /// Whether a first pass has said what the buckets hold.
    pub fn has_counted_all(&self) -> bool {
        self.has_counted_all
    }

    /// Begins a pass; `lower` is the raw watermark below which polls do not look.
    pub fn begin(&mut self, lower: i64, tally: &mut Tally) {
        tally.settle();
        if tally.has_overflown && !self.counts_only {
            *self = Census::new(self.kind, true);
        }
        if !self.has_counted_all || self.counts_only {
            tally.clear();
        }
        let next = bucket(self.kind, lower);
        let asks_above = !self.has_counted_all && !self.counts_only;
        self.pass = Some(Pass { asks_above, low: next - depth(self.kind), next, step: FIRST_STEP });
    }

    /// What to ask next, and the transaction id from which on rows are new there; none at a pass's end.
    pub fn next(&self, lost: &Lost) -> Option<(Part, u64)> {
        let pass = self.pass.as_ref()?;
        if pass.asks_above {
            return Some((Part { from: pass.next, to: None }, 0));
        }
        let from = (pass.next - pass.step).max(pass.low);
        let range = from..pass.next;
        let bases = self.bases.range(range.clone());
        let are_known = bases.clone().count() as i64 == pass.next - from;
        let since = bases.map(|(_, base)| base.since).chain(lost.buckets.range(range).map(|(_, (_, since))| *since));
        let since = since.fold(if are_known { u64::MAX } else { self.since }, u64::min);
        (from < pass.next).then_some((Part { from, to: Some(pass.next) }, since))
    }

    /// Takes an answer, of a snapshot with this xmin. True where rows were found that had not been.
    pub fn take(
        &mut self,
        part: Part,
        counts: &BTreeMap<i64, Count>,
        xmin: u64,
        tally: &mut Tally,
        lost: &mut Lost,
        took: Duration,
    ) -> Vec<i64> {
        let Some(pass) = &mut self.pass else { return Vec::new() };
        let Some(to) = part.to else {
            pass.asks_above = false;
            self.since = xmin;
            let base =
                |(bucket, count): (&i64, &Count)| (*bucket, Base { all: count.all, matching: count.all, since: xmin });
            self.bases = counts.iter().map(base).collect();
            return Vec::new();
        };
        (pass.next, pass.step) = (part.from, next_step(pass.step, took));
        let is_over = pass.next <= pass.low;
        let low = pass.low;
        if !self.has_counted_all && self.counts_only {
            self.since = if self.since == 0 { xmin } else { self.since.min(xmin) };
        }
        tally.settle();
        let range = part.from..to;
        let found = range.filter(|bucket| {
            let count = counts.get(bucket).copied().unwrap_or_default();
            self.judge(*bucket, count, xmin, tally, lost)
        });
        let found = found.collect();
        if is_over {
            self.pass = None;
            self.has_counted_all = true;
            self.bases = self.bases.split_off(&low);
            tally.rows = tally.rows.split_off(&low);
        }
        found
    }

    /// Whether a bucket holds rows below the bound that were not known.
    fn judge(&mut self, bucket: i64, count: Count, xmin: u64, tally: &mut Tally, lost: &mut Lost) -> bool {
        let given = tally.rows.remove(&bucket).unwrap_or(0);
        let (before, lost_since) = lost.buckets.get(&bucket).copied().unwrap_or((0, u64::MAX));
        let still = before.min(count.new);
        let base = match self.bases.get(&bucket) {
            _ if !self.has_counted_all => None,
            None if self.counts_only => None,
            base if self.counts_only => base.copied(),
            base => {
                let base = base.copied().unwrap_or(Base { all: 0, matching: 0, since: self.since });
                Some(Base { all: base.all + given, matching: base.matching + given, since: base.since })
            }
        };
        let since = base.map_or(xmin, |base| base.since).min(lost_since);
        let base = base.unwrap_or(Base { all: count.all - still, matching: count.matching - still, since });
        let rows = base.excess(&count).max(still);
        if rows == 0 {
            lost.buckets.remove(&bucket);
            self.bases.insert(bucket, Base { all: count.all, matching: count.matching, since: xmin });
        } else {
            lost.buckets.insert(bucket, (rows, since));
            self.bases.insert(bucket, base);
        }
        rows > before
    }

    /// A question took too long: smaller ones follow. False where they cannot be smaller.
    pub fn shorten(&mut self) -> bool {
        let Some(pass) = &mut self.pass else { return false };
        if pass.asks_above {
            // What polls give would have nothing to be added to.
            (pass.asks_above, self.counts_only) = (false, true);
            return true;
        }
        let can_be = pass.step > 1;
        pass.step = (pass.step / 4).max(1);
        if !can_be {
            self.pass = None;
        }
        can_be
    }
}

fn next_step(step: i64, took: Duration) -> i64 {
    let step = match took {
        took if took < QUICK => step * 2,
        took if took > LONG => step / 2,
        _ => step,
    };
    step.clamp(1, DEPTH_HOURS * 60)
}

/// When PostgreSQL's counters of a table run ahead of what was captured.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rows inserted and updated, and rows captured, when last looked.
    last: Option<(i64, u64)>,
    ahead: i64,
}

impl Counters {
    /// `written` is unknown where the server does not count.
    pub fn are_ahead(&mut self, written: Option<i64>, captured: u64) -> bool {
        let Some(written) = written else { return true };
        let Some((written_before, captured_before)) = self.last.replace((written, captured)) else { return false };
        let captured = i64::try_from(captured - captured_before).unwrap_or(i64::MAX);
        // Counters come up to a second after the rows, so that a credit is good until the next look.
        self.ahead = (self.ahead + (written - written_before) - captured).max(-captured);
        // Set back, by a reset or with a partition that is gone, they say nothing.
        self.ahead > 0 || written < written_before
    }

    /// A search speaks for all so far.
    pub fn forgive(&mut self) {
        self.ahead = 0;
    }
}

/// Why rows may lie below the bound, from how much later than their watermark they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Whole or half hours: a session in another zone.
    Zone,
    /// A little: a clock that is behind, or was set back.
    Clock,
    /// Any other time: rows that are dated back.
    Other,
}

impl Cause {
    pub fn of(late_us: i64) -> Cause {
        let zone_us = Cause::zone_us(late_us);
        if (HALF_HOUR_US..=DEPTH_HOURS * 2 * HALF_HOUR_US).contains(&zone_us)
            && UNSURE_US.contains(&(late_us - zone_us))
        {
            return Cause::Zone;
        }
        if late_us < HALF_HOUR_US { Cause::Clock } else { Cause::Other }
    }

    /// The half hours in it, where it is a zone's.
    pub fn zone_us(late_us: i64) -> i64 {
        (late_us - UNSURE_US.start).div_euclid(HALF_HOUR_US) * HALF_HOUR_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARGIN_US: i64 = 2 * MINUTE_US;

    #[derive(Debug, Clone, Copy)]
    struct Row {
        raw: i64,
        matches: bool,
        xid: u64,
    }

    /// A table and the polls and searches of it.
    struct Scene {
        rows: Vec<Row>,
        next_xid: u64,
        clock: i64,
        /// Below, polls do not look.
        lower: i64,
        tally: Tally,
        census: Census,
        lost: Lost,
        is_filtered: bool,
    }

    impl Scene {
        fn new(is_filtered: bool) -> Scene {
            Scene {
                rows: Vec::new(),
                next_xid: 3,
                clock: 10_000 * MINUTE_US,
                lower: 10_000 * MINUTE_US - MARGIN_US,
                tally: Tally::default(),
                census: Census::new(WatermarkType::Timestamp, is_filtered),
                lost: Lost::default(),
                is_filtered,
            }
        }

        fn xid(&mut self) -> u64 {
            self.next_xid += 1;
            self.next_xid
        }

        /// Writes a row that a poll will see, or will not.
        fn write(&mut self, raw: i64, matches: bool) {
            let row = Row { raw, matches: matches || !self.is_filtered, xid: self.xid() };
            self.rows.push(row);
            if row.matches && raw >= self.lower {
                self.tally.note(Some(bucket(WatermarkType::Timestamp, raw)));
            }
        }

        fn pass_by(&mut self, time: i64) {
            self.clock += time;
            self.lower = self.clock - MARGIN_US;
        }

        fn search(&mut self) -> usize {
            self.census.begin(self.lower, &mut self.tally);
            let mut found = 0;
            while let Some((part, since)) = self.census.next(&self.lost) {
                let mut counts: BTreeMap<i64, Count> = BTreeMap::new();
                for row in &self.rows {
                    let bucket = bucket(WatermarkType::Timestamp, row.raw);
                    if bucket >= part.from && part.to.is_none_or(|to| bucket < to) {
                        let count = counts.entry(bucket).or_default();
                        count.all += 1;
                        count.matching += u64::from(row.matches);
                        count.new += u64::from(row.matches && row.xid >= since);
                    }
                }
                let xmin = self.next_xid + 1;
                let took = Duration::from_millis(self.next_xid % 1_500);
                found += self.census.take(part, &counts, xmin, &mut self.tally, &mut self.lost, took).len();
            }
            found
        }
    }

    #[test]
    fn a_row_below_the_bound_is_found_and_one_that_is_mended_is_forgotten() {
        for is_filtered in [false, true] {
            let mut scene = Scene::new(is_filtered);
            (0..5).for_each(|n| scene.write(scene.clock - n * 60 * MINUTE_US, true));
            scene.search();
            scene.pass_by(30 * MINUTE_US);
            scene.write(scene.clock, true);
            scene.search();
            scene.pass_by(30 * MINUTE_US);
            assert_eq!(scene.search(), 0);
            // A session five hours behind, twice in an empty minute and once in one that has a row.
            for minutes in [303, 303, 300] {
                scene.write(scene.clock - minutes * MINUTE_US, true);
            }
            assert_eq!((scene.search(), scene.lost.rows()), (2, 3));
            assert_eq!((scene.search(), scene.lost.rows()), (0, 3), "told once");
            let clock = scene.clock;
            for row in scene.rows.iter_mut().rev().take(3) {
                row.raw = clock;
            }
            assert_eq!((scene.search(), scene.lost.rows()), (0, 0));
        }
    }

    #[test]
    fn a_little_below_the_bound_is_found_where_polls_count() {
        let mut scene = Scene::new(false);
        scene.search();
        scene.write(scene.clock, true);
        scene.pass_by(10 * MINUTE_US);
        scene.write(scene.clock - 10 * MINUTE_US, true);
        assert_eq!((scene.search(), scene.lost.rows()), (1, 1));
    }

    #[test]
    fn too_many_minutes_leave_it_to_counts() {
        let mut scene = Scene::new(false);
        scene.search();
        (0..=MOST_BUCKETS as i64).for_each(|n| scene.write(scene.clock + n * MINUTE_US, true));
        for _ in 0..20 {
            scene.pass_by(60 * MINUTE_US);
            assert_eq!(scene.search(), 0);
        }
        scene.write(scene.clock - 120 * MINUTE_US, true);
        assert_eq!(scene.search(), 1);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write {
            ahead: i64,
            matches: bool,
        },
        Pass(i64),
        Update {
            row: usize,
            matches: bool,
        },
        Touch(usize),
        Delete(usize),
        Rewrite,
        /// An old partition comes with rows in it.
        Attach(i64),
        WriteBelow(i64),
        Search,
        /// The connection is lost, and what was counted.
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..90_i64, any::<bool>()).prop_map(|(ahead, matches)| Step::Write { ahead, matches }),
            3 => (1..90_i64).prop_map(Step::Pass),
            2 => (any::<usize>(), any::<bool>()).prop_map(|(row, matches)| Step::Update { row, matches }),
            1 => any::<usize>().prop_map(Step::Touch),
            1 => any::<usize>().prop_map(Step::Delete),
            1 => Just(Step::Rewrite),
            1 => (3..400_i64).prop_map(Step::Attach),
            1 => (3..400_i64).prop_map(Step::WriteBelow),
            4 => Just(Step::Search),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        /// No more rows are ever told than were written below the bound; where none was, none is.
        #[test]
        fn there_is_no_false_alarm(steps in prop::collection::vec(step(), 1..80), is_filtered: bool, has_lost: bool) {
            let mut scene = Scene::new(is_filtered);
            let mut below = 0;
            for step in steps {
                let count = scene.rows.len().max(1);
                match step {
                    Step::Write { ahead, matches } => scene.write(scene.clock + ahead * MINUTE_US, matches),
                    Step::Pass(minutes) => scene.pass_by(minutes * MINUTE_US),
                    Step::Update { row, matches } => {
                        let xid = scene.xid();
                        if let Some(row) = scene.rows.get_mut(row % count) {
                            (row.xid, row.matches) = (xid, matches || !is_filtered);
                        }
                    }
                    Step::Touch(row) => {
                        if row % count < scene.rows.len() {
                            let row = scene.rows.swap_remove(row % count);
                            scene.write(scene.clock, row.matches);
                        }
                    }
                    Step::Delete(row) => {
                        if row % count < scene.rows.len() {
                            scene.rows.swap_remove(row % count);
                        }
                    }
                    Step::Rewrite => {
                        let xid = scene.xid();
                        scene.rows.iter_mut().for_each(|row| row.xid = xid);
                    }
                    Step::Attach(minutes) if has_lost => {
                        scene.rows.push(Row { raw: scene.clock - minutes * MINUTE_US, matches: true, xid: 3 });
                        below += 1;
                    }
                    Step::WriteBelow(minutes) if has_lost => {
                        scene.write(scene.lower - minutes * MINUTE_US, true);
                        below += 1;
                    }
                    Step::Attach(_) | Step::WriteBelow(_) => {}
                    Step::Search => {
                        scene.search();
                    }
                    Step::Restart => {
                        scene.tally = Tally::default();
                        scene.census = Census::new(WatermarkType::Timestamp, is_filtered);
                    }
                }
                prop_assert!(scene.lost.rows() <= below, "{} of {below}", scene.lost.rows());
            }
        }
    }

    #[test]
    fn counters_speak_when_they_run_ahead_and_when_they_fall() {
        let mut counters = Counters::default();
        assert!(!counters.are_ahead(Some(100), 0), "what was before is not known");
        assert!(!counters.are_ahead(Some(110), 10));
        assert!(!counters.are_ahead(Some(110), 15), "they come later than the rows");
        assert!(!counters.are_ahead(Some(115), 15));
        assert!(counters.are_ahead(Some(118), 15));
        counters.forgive();
        assert!(!counters.are_ahead(Some(118), 15));
        // Rows that were published again are no credit for long.
        assert!(!counters.are_ahead(Some(118), 1_015));
        assert!(!counters.are_ahead(Some(119), 1_016));
        assert!(counters.are_ahead(Some(122), 1_017));
        assert!(counters.are_ahead(Some(0), 1_017), "after a reset");
        assert!(counters.are_ahead(None, 1_017), "where the server does not count");
    }

    #[test]
    fn a_zone_is_whole_or_half_hours() {
        const SECOND_US: i64 = 1_000_000;
        for (seconds, cause) in [
            (0, Cause::Clock),
            (40, Cause::Clock),
            (29 * 60, Cause::Clock),
            (30 * 60 - 3, Cause::Zone),
            (5 * 3_600, Cause::Zone),
            (5 * 3_600 + 12, Cause::Zone),
            (5 * 3_600 + 90, Cause::Other),
            (5 * 3_600 + 1_800, Cause::Zone),
            (26 * 3_600, Cause::Zone),
            (27 * 3_600, Cause::Other),
            (-5, Cause::Clock),
        ] {
            assert_eq!(Cause::of(seconds * SECOND_US), cause, "{seconds}");
        }
    }
}
