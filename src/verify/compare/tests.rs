use super::*;

const POLICY: SourcePolicy = SourcePolicy { young_from_us: 1000, dropped_to_us: None };

fn source(key: &'static str, row: u128, watermark: i64, transaction: u64) -> Entry<'static> {
    Entry {
        side: Side::Source,
        key: key.as_bytes(),
        row,
        watermark: Some(watermark),
        transaction: Some(transaction),
        identity: row,
        ..Entry::default()
    }
}

fn record(key: &'static str, row: u128, watermark: i64, transaction: u64, offset: u64) -> Entry<'static> {
    Entry { side: Side::Topic, position: offset, ..source(key, row, watermark, transaction) }
}

fn landed(key: &'static str, row: u128, file: u32) -> Entry<'static> {
    Entry { side: Side::Landed, file, transaction: None, ..source(key, row, 1, 0) }
}

fn captured(entries: &[Entry<'static>], policy: &SourcePolicy) -> Outcome {
    // The verdict may not depend on the order in which the sides were read.
    let mut reversed: Vec<_> = entries.iter().rev().copied().collect();
    let (mut outcome, mut other) = (Outcome::new(10), Outcome::new(10));
    compare_captured(&mut entries.to_vec(), policy, &mut outcome);
    compare_captured(&mut reversed, policy, &mut other);
    assert_eq!(outcome.findings, other.findings);
    outcome
}

fn span(first: i64, last: i64) -> Span {
    Span { first, last, is_vouched: true, says_places: false, is_cut: false, has_other_rules: false }
}

fn in_lake(entries: &[Entry<'static>]) -> Outcome {
    let policy = LakePolicy {
        spans: vec![span(0, 9), span(10, 19), span(90, 120), Span { is_vouched: false, ..span(130, 140) }],
        partitions: HashMap::from([(0, PartitionState { first: 0, end: 100, landed_to: Some(50), unsure_to: 0 })]),
        young_from_us: 1000,
        deleted: 0,
    };
    let mut outcome = Outcome::new(10);
    let mut reversed: Vec<_> = entries.iter().rev().copied().collect();
    compare_landed(&mut reversed, &policy, &mut outcome);
    outcome
}

fn counts(outcome: &Outcome) -> [u64; 6] {
    [outcome.lost, outcome.duplicated, outcome.differing, outcome.changed_in_place, outcome.pending, outcome.expired]
}

#[test]
fn a_captured_row_is_fine_beside_its_older_versions() {
    let outcome = captured(
        &[source("1", 7, 5, 3), record("1", 6, 4, 2, 0), record("1", 7, 5, 3, 1), record("2", 1, 1, 1, 2)],
        &POLICY,
    );
    assert_eq!(counts(&outcome), [0; 6]);
    assert!(outcome.findings.is_empty());
}

#[test]
fn a_row_without_record_is_lost_or_young_or_expired_or_refused() {
    let lost = captured(&[source("1", 7, 5, 3)], &POLICY);
    assert_eq!(counts(&lost), [1, 0, 0, 0, 0, 0]);
    assert_eq!(lost.findings[0].trouble, Trouble::NotCaptured { watermark: Some(5) });
    assert_eq!(counts(&captured(&[source("1", 7, 5, 3), record("1", 6, 4, 2, 0)], &POLICY))[0], 1);
    assert_eq!(counts(&captured(&[source("1", 7, 1000, 3)], &POLICY)), [0, 0, 0, 0, 1, 0]);
    let trimmed = SourcePolicy { dropped_to_us: Some(5), ..POLICY };
    assert_eq!(counts(&captured(&[source("1", 7, 5, 3)], &trimmed)), [0, 0, 0, 0, 0, 1]);
    assert_eq!(counts(&captured(&[source("1", 7, 6, 3)], &trimmed)), [1, 0, 0, 0, 0, 0], "younger than what went");
    let refused = Entry { side: Side::Refused, key: b"1", identity: 4, ..Entry::default() };
    let outcome = captured(&[source("1", 7, 5, 3), refused], &POLICY);
    assert_eq!((counts(&outcome), outcome.refused), ([0; 6], HashMap::from([(4, 1)])));
    let endless = Entry { watermark: None, ..source("1", 7, 0, 3) };
    assert_eq!(counts(&captured(&[endless, Entry { watermark: None, ..record("1", 6, 0, 1, 0) }], &POLICY))[0], 1);
}

#[test]
fn a_row_changed_in_place_is_told_from_a_wrong_record() {
    let changed = captured(&[source("1", 7, 5, 4), record("1", 6, 5, 3, 9)], &POLICY);
    assert_eq!(counts(&changed), [0, 0, 0, 1, 0, 0]);
    // The row still is of the transaction that was published: the record is wrong.
    let wrong = captured(&[source("1", 7, 5, 3), record("1", 6, 5, 3 | 5 << 32, 9)], &POLICY);
    assert_eq!(counts(&wrong), [0, 0, 1, 0, 0, 0]);
    assert_eq!(wrong.findings[0].trouble, Trouble::CapturedWrong { record: RecordAt { partition: 0, offset: 9 } });
    let older = Entry { fault: Fault::OlderShape, ..record("1", 6, 5, 3, 9) };
    assert_eq!(counts(&captured(&[source("1", 7, 5, 3), older], &POLICY)), [0, 0, 0, 1, 0, 0]);
}

#[test]
fn the_loss_of_a_row_is_not_explained_by_another_row_of_its_key() {
    // Of one table and one that inherits from it: the same key, the same watermark.
    let twins = [source("1", 7, 5, 3), source("1", 8, 5, 4), record("1", 7, 5, 3, 0)];
    assert_eq!(counts(&captured(&twins, &POLICY)), [1, 0, 0, 0, 0, 0]);
    let of_one_transaction = [source("1", 7, 5, 3), source("1", 8, 5, 3), record("1", 7, 5, 3, 0)];
    assert_eq!(counts(&captured(&of_one_transaction, &POLICY)), [1, 0, 0, 0, 0, 0]);
    // Nor by what the other was before.
    let moved = [source("1", 7, 9, 6), source("1", 8, 5, 4), record("1", 6, 5, 3, 0), record("1", 7, 9, 6, 1)];
    assert_eq!(counts(&captured(&moved, &POLICY)), [1, 0, 0, 0, 0, 0]);
    // Nor by the record of one that is equal in every column.
    let alike = [source("1", 7, 5, 3), source("1", 7, 5, 4), record("1", 7, 5, 3, 0)];
    assert_eq!(counts(&captured(&alike, &POLICY)), [1, 0, 0, 0, 0, 0]);
    let both = [twins[0], twins[1], twins[2], record("1", 8, 5, 4, 1)];
    assert_eq!(counts(&captured(&both, &POLICY)), [0; 6]);
}

#[test]
fn a_record_under_another_key_differs() {
    let astray = Entry { fault: Fault::MessageKey, ..record("1", 7, 5, 3, 0) };
    assert_eq!(counts(&captured(&[source("1", 7, 5, 3), astray], &POLICY)), [0, 0, 1, 0, 0, 0]);
}

#[test]
fn a_version_may_be_there_once() {
    let twice = captured(&[source("1", 7, 5, 3), record("1", 7, 5, 3, 0), record("1", 7, 5, 3, 8)], &POLICY);
    assert_eq!(counts(&twice), [0, 1, 0, 0, 0, 0]);
    let at = |offset| RecordAt { partition: 0, offset };
    assert_eq!(twice.findings[0].trouble, Trouble::CapturedTwice { first: at(0), again: at(8) });
    // Another transaction that set the row back is another version; so is one of other bytes.
    let back = captured(&[source("1", 7, 5, 4), record("1", 7, 5, 3, 0), record("1", 7, 5, 4, 8)], &POLICY);
    assert_eq!(counts(&back), [0; 6]);
    let bare = |identity, offset| Entry { transaction: None, identity, ..record("1", 7, 5, 0, offset) };
    assert_eq!(counts(&captured(&[bare(1, 0), bare(2, 1)], &POLICY))[1], 0);
    assert_eq!(counts(&captured(&[bare(1, 0), bare(1, 1)], &POLICY))[1], 1);
    let shared = [source("1", 7, 5, 3), source("1", 7, 5, 3), record("1", 7, 5, 3, 0), record("1", 7, 5, 3, 8)];
    assert_eq!(counts(&captured(&shared, &POLICY)), [0; 6]);
}

#[test]
fn counts_are_exact_and_lists_are_bounded() {
    let keys = ["a", "b", "c", "d"];
    let mut entries: Vec<_> = keys.iter().map(|key| source(key, 7, 5, 3)).collect();
    let mut outcome = Outcome::new(2);
    compare_captured(&mut entries, &POLICY, &mut outcome);
    assert_eq!((outcome.lost, outcome.findings.len()), (4, 2));
}

#[test]
fn every_record_is_one_row() {
    let fine = [record("1", 7, 1, 0, 3), landed("1", 7, 0), record("1", 7, 1, 0, 12), landed("1", 7, 1)];
    assert_eq!(counts(&in_lake(&fine)), [0; 6]);
    assert_eq!(counts(&in_lake(&fine[..3])), [1, 0, 0, 0, 0, 0]);
    assert_eq!(
        in_lake(&fine[..3]).findings[0].trouble,
        Trouble::NotLanded { record: RecordAt { partition: 0, offset: 12 } }
    );
    let twice = in_lake(&[fine[0], fine[1], fine[2], fine[3], landed("1", 7, 1)]);
    assert_eq!(counts(&twice), [0, 1, 0, 0, 0, 0]);
    let differing = in_lake(&[record("1", 7, 1, 0, 3), landed("1", 8, 0)]);
    assert_eq!(counts(&differing), [0, 0, 1, 0, 0, 0]);
    let elsewhere = in_lake(&[record("1", 7, 1, 0, 3), landed("1", 7, 1)]);
    assert!(matches!(elsewhere.findings[0].trouble, Trouble::LandedElsewhere { .. }));
    let unasked = in_lake(&[landed("1", 7, 0)]);
    assert_eq!(counts(&unasked), [0, 1, 0, 0, 0, 0]);
    let other_partition = in_lake(&[record("1", 7, 1, 0, 3), Entry { partition: 1, ..landed("1", 7, 0) }]);
    assert_eq!(counts(&other_partition), [0, 0, 1, 0, 0, 0]);
}

#[test]
fn a_record_of_a_dropped_date_is_not_lost() {
    let dropped = |offset| Entry { file: 3, ..record("1", 7, 1, 0, offset) };
    for (offset, expected) in [(5, (Some(&1), 0)), (51, (None, 1))] {
        let outcome = in_lake(&[dropped(offset)]);
        assert_eq!((outcome.dropped.get(&3), outcome.pending), expected);
        assert_eq!(outcome.lost, 0);
    }
    assert!(in_lake(&[dropped(5), landed("1", 7, 0)]).dropped.is_empty(), "it landed late");
    let wrong = in_lake(&[dropped(5), landed("1", 8, 0)]);
    assert_eq!((wrong.dropped.len(), wrong.differing), (0, 1));
    assert_eq!(in_lake(&[record("1", 7, 1, 0, 51)]).pending, 1);
}

#[test]
fn a_file_that_no_ledger_knows_is_not_on_its_way() {
    let copied = landed("1", 7, 3);
    assert_eq!(counts(&in_lake(&[record("1", 7, 1, 0, 3), landed("1", 7, 0), copied])), [0, 1, 0, 0, 0, 0]);
    assert_eq!(counts(&in_lake(&[copied])), [0, 1, 0, 0, 0, 0]);
}

#[test]
fn a_row_and_a_dead_letter_are_judged_by_their_record() {
    let bad = Entry { fault: Fault::Refusable, ..record("1", 7, 1, 0, 3) };
    assert_eq!(counts(&in_lake(&[bad, landed("1", 7, 0)])), [0, 0, 1, 0, 0, 0]);
    assert_eq!(counts(&in_lake(&[bad])), [1, 0, 0, 0, 0, 0]);
    let mut outcome = Outcome::new(10);
    let mut policy = LakePolicy { spans: vec![Span { has_other_rules: true, ..span(0, 9) }], ..LakePolicy::default() };
    policy.partitions.insert(0, PartitionState { end: 10, landed_to: Some(9), ..PartitionState::default() });
    compare_landed(&mut [bad, landed("1", 7, 0)], &policy, &mut outcome);
    assert_eq!((counts(&outcome), outcome.by_other_rules), ([0; 6], 1));
    let letter = Entry { fault: Fault::Unfounded, ..landed("1", 7, 0) };
    let outcome = in_lake(&[record("1", 7, 1, 0, 3), letter]);
    assert_eq!(counts(&outcome), [0, 0, 1, 0, 0, 0]);
    assert_eq!(outcome.findings[0].trouble, Trouble::RefusedUnfounded { row: RowAt { file: 0, row: 0 } });
}

#[test]
fn the_lake_may_lag_or_lead() {
    assert_eq!(counts(&in_lake(&[record("1", 7, 1, 0, 51)])), [0, 0, 0, 0, 1, 0]);
    assert_eq!(counts(&in_lake(&[record("1", 7, 1, 0, 50)])), [1, 0, 0, 0, 0, 0]);
    assert_eq!(counts(&in_lake(&[Entry { partition: 5, ..record("1", 7, 1, 0, 0) }])), [0, 0, 0, 0, 1, 0]);
    // A file that reaches past the end that was taken of the topic.
    assert_eq!(counts(&in_lake(&[landed("1", 7, 2)])), [0, 0, 0, 0, 1, 0]);
    assert_eq!(counts(&in_lake(&[record("1", 7, 1, 0, 95), landed("1", 7, 2), landed("1", 7, 2)]))[1], 0);
}

#[test]
fn rows_that_left_the_topic_are_looked_for_in_the_lake() {
    let policy = LakePolicy {
        spans: vec![span(0, 9)],
        partitions: HashMap::from([(0, PartitionState { first: 5, end: 100, landed_to: Some(99), unsure_to: 0 })]),
        young_from_us: 1000,
        deleted: 0,
    };
    let judge = |entries: &[Entry<'static>]| {
        let mut outcome = Outcome::new(10);
        compare_landed(&mut entries.to_vec(), &policy, &mut outcome);
        counts(&outcome)
    };
    assert_eq!(judge(&[source("1", 7, 1, 3), landed("1", 7, 0)]), [0, 0, 0, 0, 0, 1]);
    assert_eq!(judge(&[source("1", 8, 1, 3), landed("1", 7, 0)]), [0, 0, 0, 1, 0, 1]);
    assert_eq!(judge(&[source("1", 8, 2, 3), landed("1", 7, 0)]), [1, 0, 0, 0, 0, 1]);
    assert_eq!(judge(&[source("1", 8, 2, 3)]), [1, 0, 0, 0, 0, 0]);
    assert_eq!(judge(&[source("1", 8, 1000, 3)]), [0, 0, 0, 0, 0, 0]);
    let misfiled = Entry { fault: Fault::WrongDate, ..landed("1", 9, 0) };
    assert_eq!(judge(&[source("1", 7, 1, 3), landed("1", 7, 0), misfiled]), [0, 0, 1, 0, 0, 1]);
    let twice = [landed("1", 7, 0), Entry { position: 1, ..landed("1", 7, 0) }];
    assert_eq!(judge(&[source("1", 7, 1, 3), twice[0], twice[1]]), [0, 0, 0, 0, 0, 2], "rows may be equal");
    let mut policy = LakePolicy { partitions: policy.partitions.clone(), ..LakePolicy::default() };
    policy.spans.push(Span { says_places: true, ..span(0, 9) });
    for entries in [&[twice[0], twice[1]][..], &[twice[0], twice[1], record("1", 7, 1, 0, 7)]] {
        let mut outcome = Outcome::new(10);
        compare_landed(&mut entries.to_vec(), &policy, &mut outcome);
        assert_eq!(outcome.duplicated, 1, "{entries:?}");
    }
    let dead = Entry { side: Side::DeadLetter, ..landed("1", 7, 1) };
    assert_eq!(judge(&[source("1", 7, 1, 3), dead]), [0, 0, 0, 0, 0, 0]);
    assert_eq!(judge(&[source("1", 8, 2, 3), dead]), [1, 0, 0, 0, 0, 0]);
}

#[test]
fn rows_of_a_log_that_was_truncated_are_no_records() {
    let policy = LakePolicy {
        // Landed before the log was cut at 6, and since.
        spans: vec![Span { is_cut: true, ..span(0, 5) }, span(6, 19), Span { is_cut: true, ..span(-1, -1) }],
        partitions: HashMap::from([(0, PartitionState { first: 0, end: 20, landed_to: Some(19), unsure_to: 0 })]),
        young_from_us: 1000,
        deleted: 0,
    };
    let judge = |entries: &[Entry<'static>], policy: &LakePolicy| {
        let mut outcome = Outcome::new(10);
        compare_landed(&mut entries.to_vec(), policy, &mut outcome);
        let passed_over = outcome.passed_over;
        (counts(&outcome), passed_over)
    };
    let (before, after) = ([record("1", 7, 1, 0, 3), landed("1", 7, 0)], [record("1", 8, 1, 0, 7), landed("1", 8, 1)]);
    assert_eq!(judge(&[before, after].concat(), &policy), ([0; 6], 0));
    // Its own record, then the one that came in its place.
    assert_eq!(judge(&[landed("1", 9, 0), landed("1", 9, 2)], &policy), ([0, 0, 0, 0, 0, 2], 0));
    assert_eq!(judge(&[record("1", 9, 1, 0, 7), landed("1", 9, 0)], &policy).0[..3], [0, 0, 1]);
    assert_eq!(judge(&before[..1], &policy), ([1, 0, 0, 0, 0, 0], 0), "it stands in both logs");
    assert_eq!(judge(&after[1..], &policy), ([0, 1, 0, 0, 0, 0], 0));
    let mut unsure = policy;
    unsure.partitions.insert(0, PartitionState { first: 0, end: 20, landed_to: Some(19), unsure_to: 6 });
    assert_eq!(judge(&before[..1], &unsure), ([0; 6], 1));
    assert_eq!(judge(&after[..1], &unsure), ([1, 0, 0, 0, 0, 0], 0));
}

#[test]
fn a_loss_that_was_accepted_explains_as_many_rows_as_it_had_offsets() {
    let policy = LakePolicy { deleted: 2, young_from_us: 1000, ..LakePolicy::default() };
    for (rows, expected) in [(1, (1, 0)), (2, (2, 0)), (5, (2, 3))] {
        let keys = ["a", "b", "c", "d", "e"];
        let mut entries: Vec<_> = keys[..rows].iter().map(|key| source(key, 7, 5, 3)).collect();
        let mut outcome = Outcome::new(10);
        compare_landed(&mut entries, &policy, &mut outcome);
        assert_eq!((outcome.deleted, outcome.lost), expected);
    }
}
