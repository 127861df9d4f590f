//! What an engine makes of stored progress.

use super::*;
use crate::analyze::window::{PartitionProgress, Progress};

const NOW_MS: i64 = 500_000;

fn sliding(lateness_ms: i64) -> Declaration {
    let mut declaration = declaration(60, 10);
    declaration.join = Join::Full;
    declaration.allowed_lateness_ms = lateness_ms;
    declaration
}

fn progress(watermark_ms: i64, offsets: &[(i64, i64)]) -> Option<Progress> {
    let partitions = offsets.iter().enumerate().map(|(number, &(replay_offset, next_offset))| PartitionProgress {
        input: 0,
        partition: number as i32,
        next_offset,
        replay_offset,
    });
    Some(Progress { watermark_ms: Some(watermark_ms), partitions: partitions.collect() })
}

fn resume(declaration: Declaration, progress: Option<Progress>) -> Engine {
    Engine::new(Plan::new(declaration).unwrap(), progress)
}

fn add(engine: &mut Engine, source: Source, offset: i64, time: i64, id: &str) -> Added {
    let record = record("k", time);
    let record = if id.is_empty() { record } else { record.id(id) };
    record.add_to(engine, source, 0, offset, NOW_MS)
}

fn close_all(engine: &mut Engine, sources: &[Source]) {
    for now_ms in [NOW_MS, NOW_MS + 1_000] {
        sources.iter().for_each(|&source| engine.at_end(source, engine.position(source), now_ms));
        engine.advance(now_ms);
    }
}

#[test]
fn reading_begins_again_at_the_oldest_record_of_an_open_pane() {
    let (mut engine, mut table) = (engine(sliding(0)), Table::default());
    let source = engine.partition(0, 0, 0);
    let other = engine.partition(0, 1, 40);
    add(&mut engine, other, 40, 90, "");
    for (offset, time) in [(3, 5), (4, 31), (6, 12), (7, 88)] {
        add(&mut engine, source, offset, time, "");
    }
    engine.skip(source, 8, NOW_MS);
    let found = flush(&mut engine, &mut table, false).progress;
    assert_eq!(found, progress(88, &[(4, 9), (40, 41)]).unwrap());
    close_all(&mut engine, &[source, other]);
    let found = flush(&mut engine, &mut table, false).progress;
    assert_eq!(found, progress(150, &[(9, 9), (41, 41)]).unwrap());
}

#[test]
fn below_the_stored_offset_a_record_enters_only_an_open_pane() {
    let mut table = Table::default();
    let mut engine = resume(sliding(0), progress(100, &[(4, 9)]));
    let source = engine.partition(0, 0, 77);
    assert_eq!(engine.position(source), 4);
    assert!(engine.is_replaying());
    // 51 is partly late at 100, and was counted so before.
    for (offset, time) in [(4, 51), (6, 20), (7, 99)] {
        assert_eq!(add(&mut engine, source, offset, time, ""), Added::Replayed);
        assert_eq!(engine.take_flush(true), None);
    }
    assert_eq!(engine.open_panes(), 2);
    // The record at 8 is gone; the next one shows that the replay is over.
    assert_eq!(add(&mut engine, source, 11, 100, ""), Added::Counted);
    assert!(!engine.is_replaying());
    assert_eq!(add(&mut engine, source, 12, 20, ""), Added::Late);
    assert_eq!(add(&mut engine, source, 13, 51, ""), Added::PartlyLate);
    close_all(&mut engine, &[source]);
    flush(&mut engine, &mut table, false);
    assert_eq!(table.finals()[0], ("k", 50, Value::Integer(4), 0));
    assert_eq!(table.late.values().sum::<i64>(), 6 + 5);
}

#[test]
fn until_all_partitions_are_back_the_watermark_stands() {
    let mut table = Table::default();
    let mut engine = resume(sliding(0), progress(100, &[(4, 6), (10, 12)]));
    let (first, second) = (engine.partition(0, 0, 0), engine.partition(0, 1, 0));
    add(&mut engine, first, 4, 100, "");
    add(&mut engine, first, 5, 200, "");
    add(&mut engine, first, 6, 300, "");
    add(&mut engine, second, 10, 250, "");
    assert_eq!(engine.watermark_ms(), Some(100));
    // A record that came out of order before, which is not late now either.
    add(&mut engine, second, 11, 101, "");
    assert_eq!(engine.watermark_ms(), Some(250));
    flush(&mut engine, &mut table, false);
    assert!(table.finals().contains(&("k", 60, Value::Integer(2), 0)), "{:?}", table.finals());
    assert!(table.late.is_empty());
}

#[test]
fn an_end_of_the_log_ends_the_replay() {
    let mut engine = resume(sliding(0), progress(100, &[(4, 9)]));
    let source = engine.partition(0, 0, 0);
    add(&mut engine, source, 4, 99, "");
    engine.at_end(source, 8, NOW_MS);
    assert!(engine.is_replaying(), "that is not the end that was stored");
    engine.at_end(source, 9, NOW_MS);
    assert!(!engine.is_replaying());
    let flush = engine.take_flush(true).unwrap();
    assert_eq!(flush.rows.len(), 5, "open windows may have changed since they were written");
    assert_eq!(flush.progress, progress(100, &[(4, 9)]).unwrap());
}

#[test]
fn a_final_window_is_written_again_only_with_a_new_late_event_and_then_whole() {
    let mut table = Table::default();
    let mut engine = engine(sliding(30));
    let source = engine.partition(0, 0, 0);
    add(&mut engine, source, 0, 5, "");
    add(&mut engine, source, 1, 70, "");
    let stored = flush(&mut engine, &mut table, false).progress;
    let before = table.finals().len();
    let mut engine = resume(sliding(30), Some(stored));
    assert_eq!(engine.position(source), 0);
    add(&mut engine, source, 0, 5, "");
    add(&mut engine, source, 1, 70, "");
    assert!(flush(&mut engine, &mut table, false).rows.is_empty());
    assert_eq!(add(&mut engine, source, 2, 6, ""), Added::PartlyLate, "those that begin before -10 have closed");
    let revised = flush(&mut engine, &mut table, false);
    assert_eq!(revised.rows.len(), 2);
    assert!(revised.rows.iter().all(|row| row.revision == 1 && row.values[0] == Value::Integer(2)));
    assert_eq!(table.finals().len(), before);
    assert_eq!(table.late, [-50, -40, -30, -20].map(|start| ((start, 0), 1)).into());
}

#[test]
fn a_late_event_that_comes_before_the_replay_is_over_is_still_a_revision() {
    let mut engine = resume(sliding(100), progress(100, &[(4, 4), (7, 8)]));
    let (first, second) = (engine.partition(0, 0, 0), engine.partition(0, 1, 0));
    assert_eq!(add(&mut engine, first, 4, 41, ""), Added::Counted);
    assert_eq!(add(&mut engine, second, 7, 42, ""), Added::Replayed);
    let flush = engine.take_flush(false).unwrap();
    assert_eq!(flush.rows.len(), 6);
    assert!(flush.rows.iter().all(|row| row.is_final && row.values[0] == Value::Integer(2)));
}

#[test]
fn an_input_that_is_no_longer_declared_holds_nothing_up() {
    let mut stored = progress(100, &[(4, 9)]).unwrap();
    stored.partitions[0].input = 2;
    let mut engine = resume(sliding(0), Some(stored));
    assert!(!engine.is_replaying() && engine.take_flush(false).is_some());
}

#[test]
fn a_copy_behind_the_stored_offset_is_known_by_the_replay() {
    let mut engine = resume(sliding(0), progress(50, &[(4, 6)]));
    let source = engine.partition(0, 0, 0);
    assert_eq!(add(&mut engine, source, 4, 45, "a"), Added::Replayed);
    assert_eq!(add(&mut engine, source, 5, 45, "a"), Added::Replayed);
    assert_eq!(add(&mut engine, source, 6, 45, "a"), Added::Duplicate);
    assert_eq!(add(&mut engine, source, 7, 55, "a"), Added::Duplicate);
}

#[test]
fn a_copy_that_outlives_the_first_stays_a_copy() {
    let mut table = Table::default();
    let mut engine = engine(sliding(0));
    let source = engine.partition(0, 0, 0);
    add(&mut engine, source, 0, 9, "");
    add(&mut engine, source, 1, 5, "a");
    assert_eq!(add(&mut engine, source, 2, 35, "a"), Added::Duplicate);
    add(&mut engine, source, 3, 36, "b");
    add(&mut engine, source, 4, 75, "");
    let stored = flush(&mut engine, &mut table, false).progress;
    assert_eq!(stored, progress(75, &[(0, 5)]).unwrap(), "its pane has closed, but the copy depends on it");
    for _ in 0..2 {
        let mut engine = resume(sliding(0), Some(stored.clone()));
        for (offset, (time, id)) in [(9, ""), (5, "a"), (35, "a"), (36, "b"), (75, "")].into_iter().enumerate() {
            assert_eq!(add(&mut engine, source, offset as i64, time, id), Added::Replayed);
        }
        assert_eq!(add(&mut engine, source, 5, 76, "a"), Added::Counted, "as without the restart");
        assert_eq!(engine.take_flush(false).unwrap().progress.partitions[0].replay_offset, 0);
        engine.flushed();
        close_all(&mut engine, &[source]);
        flush(&mut engine, &mut table, false);
        let finals = table.finals();
        let found: Vec<_> = finals.iter().filter(|row| row.1 == 30).map(|row| row.2.clone()).collect();
        assert_eq!(found, [Value::Integer(3)], "b, that at 75 and that at 76");
    }
}

#[test]
fn dead_letters_are_new_once() {
    let mut engine = resume(sliding(0), progress(100, &[(4, 6)]));
    let source = engine.partition(0, 0, 0);
    assert!(!engine.skip(source, 4, NOW_MS) && !engine.skip(source, 5, NOW_MS));
    assert!(!engine.is_replaying());
    assert!(engine.skip(source, 6, NOW_MS));
}

#[test]
fn a_partition_that_came_while_stopped_holds_the_watermark() {
    let mut engine = resume(sliding(0), progress(100, &[(4, 4)]));
    let (source, new) = (engine.partition(0, 0, 0), engine.partition(0, 1, 3));
    assert_eq!((engine.position(source), engine.position(new)), (4, 3));
    assert!(!engine.is_replaying());
    add(&mut engine, source, 4, 300, "");
    assert_eq!(engine.watermark_ms(), Some(100));
    assert_eq!(add(&mut engine, new, 3, 150, ""), Added::Counted);
    assert_eq!(engine.watermark_ms(), Some(150));
}

#[test]
fn what_is_read_again_was_judged_by_the_clock_of_its_first_reading() {
    let mut declaration = sliding(0);
    declaration.max_future_ms = 50;
    let (mut first, mut table) = (engine(declaration.clone()), Table::default());
    let source = first.partition(0, 0, 0);
    assert_eq!(add(&mut first, source, 0, NOW_MS + 50, ""), Added::Counted);
    let stored = flush(&mut first, &mut table, false).progress;
    // The clock was stepped back, or the limit was lowered.
    declaration.max_future_ms = 0;
    let mut again = resume(declaration, Some(stored));
    assert_eq!(add(&mut again, source, 0, NOW_MS + 50, ""), Added::Replayed);
    assert_eq!(add(&mut again, source, 1, NOW_MS + 1, ""), Added::Future);
    assert_eq!(again.open_panes(), 1, "it takes its place again");
    assert_eq!(flush(&mut again, &mut table, true).rows.len(), 6);
}

#[test]
fn closed_windows_hold_no_offset_back_whatever_block_their_ids_are_in() {
    let mut declaration = declaration(300, 10);
    declaration.join = Join::Full;
    let (mut engine, mut table) = (engine(declaration.clone()), Table::default());
    let source = engine.partition(0, 0, 0);
    for offset in 0..10 {
        add(&mut engine, source, offset, 1_000 + 10 * offset, &offset.to_string());
    }
    // Four panes are open, each to the end of the window that begins with it.
    add(&mut engine, source, 10, 1_350, "x");
    assert_eq!(flush(&mut engine, &mut table, false).progress.partitions[0].replay_offset, 6);
    close_all(&mut engine, &[source]);
    let stored = flush(&mut engine, &mut table, false).progress;
    assert_eq!(engine.open_panes(), 0);
    assert_eq!(stored.partitions[0].replay_offset, 11, "all is final, nothing is to be read again");
    // A copy needs its original, and no longer than its own windows are open.
    let mut engine = resume(declaration, Some(stored));
    let at_ms = engine.watermark_ms().unwrap();
    add(&mut engine, source, 11, at_ms, "a");
    add(&mut engine, source, 12, at_ms + 290, "");
    assert_eq!(add(&mut engine, source, 13, at_ms + 290, "a"), Added::Duplicate);
    add(&mut engine, source, 14, at_ms + 320, "");
    assert_eq!(flush(&mut engine, &mut table, false).progress.partitions[0].replay_offset, 11);
    close_all(&mut engine, &[source]);
    assert_eq!(flush(&mut engine, &mut table, false).progress.partitions[0].replay_offset, 15);
}
