//! One test for each rule.

use super::*;
use crate::analyze::window::PlanError;

const NOW_MS: i64 = 500_000;

/// One partition, windows of 60 by 10, no delay.
fn one(change: impl FnOnce(&mut Declaration)) -> (Engine, Source, Table) {
    let mut declaration = declaration(60, 10);
    declaration.join = Join::Full;
    change(&mut declaration);
    let mut engine = engine(declaration);
    let source = engine.partition(0, 0, 0);
    (engine, source, Table::default())
}

/// Adds records of these times, as offsets from the position on.
fn add(engine: &mut Engine, source: Source, times: &[i64]) -> Vec<Added> {
    let add = |&time: &i64| {
        let offset = engine.position(source);
        record("k", time).add_to(engine, source, 0, offset, NOW_MS)
    };
    times.iter().map(add).collect()
}

/// The broker calls the partition at its end, twice and as long apart as makes it idle.
fn be_idle(engine: &mut Engine, source: Source, now_ms: i64) {
    for now_ms in [now_ms - 1_000, now_ms] {
        engine.at_end(source, engine.position(source), now_ms);
        engine.advance(now_ms);
    }
}

fn count(number: i64) -> Value {
    Value::Integer(number)
}

#[test]
fn an_open_window_is_written_when_it_changes_and_once_as_final() {
    let (mut engine, source, mut table) = one(|declaration| declaration.slide_ms = 60);
    add(&mut engine, source, &[0, 59]);
    let provisional = flush(&mut engine, &mut table, true);
    assert_eq!((provisional.rows.len(), provisional.rows[0].is_final), (1, false));
    assert_eq!((provisional.rows[0].start_ms, provisional.rows[0].end_ms), (0, 60));
    assert!(flush(&mut engine, &mut table, true).rows.is_empty(), "nothing has changed");
    add(&mut engine, source, &[5, 60, 61]);
    let last = flush(&mut engine, &mut table, false);
    assert_eq!(last.newly_final().count(), 1);
    assert_eq!(table.finals(), [("k", 0, count(3), 0)]);
    assert!(flush(&mut engine, &mut table, false).rows.is_empty(), "final rows come once");
    assert_eq!(flush(&mut engine, &mut table, true).rows.len(), 1);
}

#[test]
fn a_refresh_between_two_others_that_only_write_final_rows_misses_no_change() {
    let (mut engine, source, mut table) = one(|declaration| declaration.slide_ms = 60);
    add(&mut engine, source, &[1]);
    flush(&mut engine, &mut table, true);
    add(&mut engine, source, &[2]);
    assert!(flush(&mut engine, &mut table, false).rows.is_empty());
    assert_eq!(flush(&mut engine, &mut table, true).rows[0].values[0], count(2));
}

#[test]
fn the_delay_holds_windows_open() {
    let (mut engine, source, mut table) = one(|declaration| {
        declaration.slide_ms = 60;
        declaration.watermark_delay_ms = 10;
    });
    assert_eq!(add(&mut engine, source, &[10, 69, 59]), [Added::Counted; 3]);
    assert_eq!(engine.watermark_ms(), Some(59));
    assert!(flush(&mut engine, &mut table, false).rows.is_empty());
    add(&mut engine, source, &[70]);
    assert_eq!(flush(&mut engine, &mut table, false).rows.len(), 1);
}

#[test]
fn the_last_window_closes_by_the_clock_and_no_further() {
    let (mut engine, source, mut table) = one(|declaration| declaration.allowed_lateness_ms = 25);
    add(&mut engine, source, &[100]);
    be_idle(&mut engine, source, NOW_MS);
    assert_eq!(engine.watermark_ms(), Some(160 + 25), "the newest window begins at 100");
    assert_eq!(flush(&mut engine, &mut table, false).rows.len(), 6);
    assert_eq!((engine.open_panes(), engine.keys()), (0, 0));
    assert_eq!(add(&mut engine, source, &[170]), [Added::Counted], "time did not run ahead of the events");
}

#[test]
fn the_clock_moves_the_watermark_up_to_the_answer_less_the_delay() {
    let (mut engine, source, _) = one(|declaration| declaration.watermark_delay_ms = 30);
    add(&mut engine, source, &[NOW_MS + 5]);
    be_idle(&mut engine, source, NOW_MS + 40);
    assert_eq!(engine.watermark_ms(), Some(NOW_MS + 10));
}

#[test]
fn silence_is_not_idleness() {
    let (mut engine, source, _) = one(|_| {});
    add(&mut engine, source, &[100]);
    engine.at_end(source, 1, NOW_MS);
    for later_ms in [500, 1_000, 1_000_000] {
        engine.advance(NOW_MS + later_ms);
    }
    assert_eq!(engine.watermark_ms(), Some(100), "the broker has not answered since");
}

#[test]
fn the_least_partition_that_is_not_idle_is_the_watermark_which_never_falls() {
    let (mut engine, first, _) = one(|_| {});
    let second = engine.partition(1, 0, 0);
    add(&mut engine, first, &[1_000]);
    assert_eq!(engine.watermark_ms(), None, "the second has said nothing yet");
    add(&mut engine, second, &[300]);
    assert_eq!(engine.watermark_ms(), Some(300));
    be_idle(&mut engine, second, NOW_MS);
    assert_eq!(engine.watermark_ms(), Some(1_000));
    add(&mut engine, second, &[400]);
    engine.advance(NOW_MS);
    add(&mut engine, first, &[2_000]);
    assert_eq!(engine.watermark_ms(), Some(1_000), "the second counts again, and holds it");
    add(&mut engine, second, &[1_500]);
    assert_eq!(engine.watermark_ms(), Some(1_500));
    let third = engine.partition(0, 1, 0);
    add(&mut engine, second, &[1_600]);
    assert_eq!(engine.watermark_ms(), Some(1_500), "a partition that comes while running holds it");
    be_idle(&mut engine, third, NOW_MS);
    assert_eq!(engine.watermark_ms(), Some(1_600));
    assert_eq!(engine.partition(0, 1, 77), third);
}

#[test]
fn partitions_are_read_in_step() {
    let (mut engine, first, _) = one(|_| {});
    let second = engine.partition(0, 1, 0);
    add(&mut engine, first, &[100]);
    assert_eq!(engine.most_behind(), Some(second));
    add(&mut engine, second, &[200]);
    assert_eq!(engine.most_behind(), Some(first));
    assert_eq!((engine.event_time_of(first), engine.event_time_of(second)), (Some(100), Some(200)));
    engine.at_end(first, 1, NOW_MS);
    assert_eq!(engine.most_behind(), Some(second));
    engine.at_end(second, 1, NOW_MS);
    assert_eq!(engine.most_behind(), None);
}

#[test]
fn an_event_is_listed_by_each_closed_window_that_misses_it() {
    let (mut engine, source, mut table) = one(|_| {});
    // At 100 the windows that end by then have closed.
    assert_eq!(
        add(&mut engine, source, &[100, 51, 51, 45, -500]),
        [Added::Counted, Added::PartlyLate, Added::PartlyLate, Added::Late, Added::Late,]
    );
    be_idle(&mut engine, source, NOW_MS);
    flush(&mut engine, &mut table, false);
    let late: Vec<(i64, i64)> = table.late.iter().map(|((start, _), count)| (*start, *count)).collect();
    assert_eq!(late[..6], [-550, -540, -530, -520, -510, -500].map(|start| (start, 1)));
    // 51 is in the windows from 0 to 50, of which the last is open; 45 in those from -10 to 40.
    assert_eq!(late[6..], [(-10, 1), (0, 3), (10, 3), (20, 3), (30, 3), (40, 3)]);
    assert_eq!(table.finals()[0], ("k", 50, count(3), 0));
}

#[test]
fn a_closed_window_lacks_what_came_after_it_closed_whenever_it_is_flushed() {
    let (mut engine, source, mut table) = one(|_| {});
    add(&mut engine, source, &[5, 60, 5]);
    flush(&mut engine, &mut table, false);
    assert!(table.finals().contains(&("k", 0, count(1), 0)));
    assert_eq!(table.late.get(&(0, 0)), Some(&1));
}

#[test]
fn a_late_event_within_the_allowance_is_a_revision() {
    let (mut engine, source, mut table) = one(|declaration| {
        declaration.slide_ms = 60;
        declaration.allowed_lateness_ms = 20;
    });
    add(&mut engine, source, &[5, 60, 6]);
    flush(&mut engine, &mut table, false);
    assert_eq!(table.finals(), [("k", 0, count(2), 0)], "late, but before the first flush");
    assert_eq!(add(&mut engine, source, &[79, 7]), [Added::Counted; 2]);
    let offset = engine.position(source);
    record("other", 8).add_to(&mut engine, source, 0, offset, NOW_MS);
    let revised = flush(&mut engine, &mut table, false);
    assert_eq!(revised.rows.iter().map(|row| row.revision).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(revised.newly_final().count(), 0);
    // The window takes 9, then closes before the flush, then misses 10.
    assert_eq!(add(&mut engine, source, &[9, 80, 10]), [Added::Counted, Added::Counted, Added::Late]);
    flush(&mut engine, &mut table, false);
    assert_eq!(table.finals(), [("k", 0, count(4), 2), ("other", 0, count(1), 1)]);
    assert_eq!(table.late, [((0, 0), 1)].into());
}

#[test]
fn an_event_from_the_future_neither_counts_nor_moves_time() {
    let (mut engine, source, mut table) = one(|declaration| declaration.max_future_ms = 50);
    assert_eq!(
        add(&mut engine, source, &[NOW_MS + 50, NOW_MS + 51, i64::MAX]),
        [Added::Counted, Added::Future, Added::Future]
    );
    assert_eq!(engine.watermark_ms(), Some(NOW_MS + 50));
    assert_eq!(flush(&mut engine, &mut table, false).progress.partitions[0].next_offset, 3);
    assert_eq!(add(&mut engine, source, &[i64::MIN]), [Added::Late]);
}

#[test]
fn the_copy_of_an_event_in_an_open_window_is_dropped() {
    let (mut engine, source, mut table) = one(|_| {});
    let other = engine.partition(1, 0, 0);
    let mut add = |source: Source, input: usize, id: &str, key: &str, time: i64| {
        let offset = engine.position(source);
        record(key, time).id(id).add_to(&mut engine, source, input, offset, NOW_MS)
    };
    assert_eq!(add(source, 0, "a", "k", 5), Added::Counted);
    assert_eq!(add(source, 0, "a", "k", 5), Added::Duplicate);
    assert_eq!(add(source, 0, "a", "k", 25), Added::Duplicate, "another pane");
    assert_eq!(add(source, 0, "a", "l", 5), Added::Duplicate, "another key");
    assert_eq!(add(other, 1, "a", "k", 5), Added::Counted, "another input");
    assert_eq!(add(source, 0, "b", "k", 6), Added::Counted);
    add(other, 1, "z", "k", 59);
    add(source, 0, "z", "k", 59);
    assert_eq!(add(source, 0, "a", "k", 58), Added::Duplicate);
    add(other, 1, "y", "k", 70);
    add(source, 0, "y", "k", 70);
    assert_eq!(add(source, 0, "a", "k", 71), Added::Counted, "the windows of the first have closed");
    flush(&mut engine, &mut table, false);
    assert!(table.finals().contains(&("k", 0, count(3), 0)));
}

#[test]
fn events_without_an_id_all_count() {
    let (mut engine, source, _) = one(|_| {});
    assert_eq!(add(&mut engine, source, &[5, 5, 5]), [Added::Counted; 3]);
}

#[test]
fn a_window_with_very_many_panes_knows_copies_too() {
    let (mut engine, source, _) = one(|declaration| {
        declaration.size_ms = 3_000;
        declaration.slide_ms = 1;
    });
    let mut outcomes = Vec::new();
    for (offset, (id, time)) in [("a", 10), ("b", 1_500), ("a", 2_000), ("b", 1_400)].into_iter().enumerate() {
        outcomes.push(record("k", time).id(id).add_to(&mut engine, source, 0, offset as i64, NOW_MS));
    }
    assert_eq!(outcomes, [Added::Counted, Added::Counted, Added::Duplicate, Added::Duplicate]);
}

#[test]
fn the_join_decides_which_windows_become_rows() {
    for (join, expected) in [(Join::Left, vec!["both", "first"]), (Join::Full, vec!["both", "first", "second"])] {
        let (mut engine, first, mut table) = one(|declaration| {
            declaration.slide_ms = 60;
            declaration.join = join;
        });
        let second = engine.partition(1, 0, 0);
        let keys = [(first, 0, "first"), (first, 0, "both"), (second, 1, "both"), (second, 1, "second")];
        for (source, input, key) in keys {
            let offset = engine.position(source);
            let mut record = record(key, 1);
            record.amount = Some(10);
            record.add_to(&mut engine, source, input, offset, NOW_MS);
        }
        be_idle(&mut engine, first, NOW_MS);
        be_idle(&mut engine, second, NOW_MS);
        let flush = flush(&mut engine, &mut table, false);
        assert_eq!(flush.rows.iter().map(|row| row.key.as_ref()).collect::<Vec<_>>(), expected);
        assert_eq!(flush.rows[0].values[8], Value::Float(2.5));
        assert_eq!(flush.rows[1].values[8], Value::Null, "no event of the second input");
        assert_eq!(flush.rows[1].values[0], count(1));
    }
}

#[test]
fn estimates_are_marked() {
    let (mut engine, source, mut table) = one(|declaration| {
        declaration.slide_ms = 60;
        declaration.distinct_exact_limit = 10;
        declaration.counts_limit = 3;
    });
    let mut offset = 0;
    let mut put = |engine: &mut Engine, key: &str, user: usize, emote: &str| {
        let mut record = record(key, 1);
        (record.user, record.emotes) = (format!("u{user}"), vec![emote.to_owned()]);
        record.add_to(engine, source, 0, offset, NOW_MS);
        offset += 1;
    };
    (0..10).for_each(|user| put(&mut engine, "exact", user, "e"));
    (0..11).for_each(|user| put(&mut engine, "users", user, "e"));
    (0..4).for_each(|value| put(&mut engine, "emotes", 1, &value.to_string()));
    put(&mut engine, "long", 1, &"é".repeat(200));
    be_idle(&mut engine, source, NOW_MS);
    flush(&mut engine, &mut table, false);
    let marked: Vec<(&str, bool)> = table.rows.values().map(|row| (row.key.as_ref(), row.is_approximate)).collect();
    assert_eq!(marked, [("emotes", true), ("exact", false), ("long", true), ("users", true)]);
    let long = &table.rows[&("long".to_owned(), 0)].values[4];
    assert_eq!(long, &Value::Counts(vec![("é".repeat(128), 1)]));
}

#[test]
fn a_row_shows_no_more_counts_than_the_limit() {
    let (mut engine, source, mut table) = one(|declaration| declaration.counts_limit = 2);
    for (offset, emote) in ["a", "b", "c", "c"].into_iter().enumerate() {
        let mut record = record("k", offset as i64 * 10);
        record.emotes = vec![emote.to_owned()];
        record.add_to(&mut engine, source, 0, offset as i64, NOW_MS);
    }
    be_idle(&mut engine, source, NOW_MS);
    flush(&mut engine, &mut table, false);
    let row = &table.rows[&("k".to_owned(), 0)];
    assert_eq!(row.values[4], Value::Counts(vec![("c".to_owned(), 2), ("a".to_owned(), 1)]));
    assert!(row.is_approximate);
}

#[test]
fn the_watermark_waits_for_a_flush_rather_than_let_it_grow() {
    let (mut engine, source, mut table) = one(|declaration| {
        declaration.slide_ms = 60;
        declaration.flush_rows_limit = 2;
    });
    let far = engine.partition(0, 1, 0);
    add(&mut engine, source, &[0, 60, 120, 180, 240]);
    add(&mut engine, far, &[240]);
    assert!(engine.wants_flush());
    assert_eq!(engine.watermark_ms(), Some(179));
    let first = flush(&mut engine, &mut table, false);
    assert_eq!((first.rows.len(), first.has_more), (2, true));
    let second = flush(&mut engine, &mut table, true);
    assert_eq!((second.rows.len(), second.has_more, engine.wants_flush()), (2, true, false), "the open one is left");
    assert_eq!(flush(&mut engine, &mut table, true).rows.len(), 1);
    assert_eq!(table.finals().len(), 4);
}

#[test]
fn the_newest_windows_come_to_their_turn_however_much_the_older_change() {
    let (mut engine, source, mut table) = one(|declaration| {
        declaration.watermark_delay_ms = 1_000;
        declaration.flush_rows_limit = 5;
    });
    let talk = |engine: &mut Engine| {
        for key in 0..20 {
            for time in [0, 60, 120] {
                let offset = engine.position(source);
                record(&format!("k{key}"), time).add_to(engine, source, 0, offset, NOW_MS);
            }
        }
    };
    // Thirteen open windows, each of more keys than a flush holds, all of which change between two flushes.
    for round in 1..=2 {
        talk(&mut engine);
        let mut flushes = 1;
        while flush(&mut engine, &mut table, true).has_more {
            talk(&mut engine);
            flushes += 1;
            assert!(flushes <= 18, "a round ends");
        }
        assert_eq!(table.rows.len(), 18 * 20, "every window of every key, in round {round}");
    }
    flush(&mut engine, &mut table, true);
}

#[test]
fn windows_before_the_first_are_left_alone() {
    let (mut engine, source, mut table) = one(|declaration| declaration.slide_ms = 10);
    engine.write_from(95);
    let copied = |engine: &mut Engine, time: i64, id: &str| {
        let offset = engine.position(source);
        record("k", time).id(id).add_to(engine, source, 0, offset, NOW_MS)
    };
    // The first window is [100, 160): what is only in earlier ones is passed over, and known.
    assert_eq!(copied(&mut engine, 30, "a"), Added::Replayed);
    assert_eq!(copied(&mut engine, 99, "b"), Added::Replayed);
    assert_eq!(copied(&mut engine, 101, "c"), Added::Counted);
    assert_eq!(copied(&mut engine, 105, "b"), Added::Duplicate);
    assert_eq!(copied(&mut engine, 400, "d"), Added::Counted);
    flush(&mut engine, &mut table, true);
    let starts = |table: &Table| table.rows.keys().map(|(_, start)| *start).collect::<Vec<_>>();
    assert_eq!(starts(&table)[0], 100);
    // Late for windows before as well as after: only these miss it.
    assert_eq!(copied(&mut engine, 90, "e"), Added::Replayed);
    assert_eq!(copied(&mut engine, 115, "f"), Added::Late);
    flush(&mut engine, &mut table, true);
    assert_eq!(starts(&table)[0], 100);
    assert_eq!(table.late.keys().map(|(start, _)| *start).collect::<Vec<_>>(), [100, 110]);
}

#[test]
fn a_flush_is_taken_once_until_it_is_acknowledged() {
    let (mut engine, source, _) = one(|_| {});
    add(&mut engine, source, &[0, 60]);
    let flush = engine.take_flush(false).unwrap();
    add(&mut engine, source, &[70]);
    assert_eq!(engine.take_flush(true), None);
    assert_eq!(flush.progress.partitions[0].next_offset, 2, "what came since belongs to the next one");
    engine.flushed();
    assert_eq!(engine.take_flush(false).unwrap().progress.partitions[0].next_offset, 3);
}

#[test]
fn offsets_rise_with_gaps_and_repeated_ones_are_passed_over() {
    let (mut engine, source, _) = one(|_| {});
    let mut add = |offset| record("k", 1).add_to(&mut engine, source, 0, offset, NOW_MS);
    assert_eq!([add(7), add(9), add(9), add(8)], [Added::Counted, Added::Counted, Added::Replayed, Added::Replayed]);
    assert!(engine.skip(source, 12, NOW_MS) && !engine.skip(source, 12, NOW_MS));
    engine.at_end(source, 15, NOW_MS);
    assert_eq!(engine.position(source), 15);
}

#[test]
fn state_is_given_back() {
    let (mut engine, source, mut table) = one(|_| {});
    let empty = engine.state_bytes();
    for offset in 0..5_000 {
        let mut record = record(&format!("key{offset}"), 10).id(&offset.to_string());
        record.emotes = vec![format!("e{offset}")];
        record.add_to(&mut engine, source, 0, offset, NOW_MS);
    }
    assert!(engine.state_bytes() > 5_000 * 100, "{}", engine.state_bytes());
    assert_eq!((engine.open_panes(), engine.keys()), (1, 5_000));
    be_idle(&mut engine, source, NOW_MS);
    flush(&mut engine, &mut table, false);
    assert_eq!(engine.state_bytes(), empty);
}

#[test]
fn a_declaration_that_cannot_work_is_refused_with_the_cure() {
    let refused = |change: fn(&mut Declaration)| {
        let mut declaration = declaration(60_000, 10_000);
        change(&mut declaration);
        Plan::new(declaration).map(|_| ()).unwrap_err()
    };
    assert!(matches!(refused(|d| d.size_ms = 0), PlanError::Duration { name: "size", .. }));
    assert!(matches!(refused(|d| d.idle_timeout_ms = 0), PlanError::Duration { name: "idle_timeout", .. }));
    assert!(matches!(refused(|d| d.slide_ms = 60_001), PlanError::Gaps { .. }));
    assert!(matches!(refused(|d| d.slide_ms = 59_999), PlanError::Panes { panes: 60_000, .. }));
    assert!(matches!(refused(|d| d.inputs = 1), PlanError::NoInput { input: 1, inputs: 1, .. }));
    assert!(matches!(refused(|d| d.measures.clear()), PlanError::NoMeasures));
    assert!(matches!(refused(|d| d.counts_limit = 0), PlanError::Zero { name: "counts_limit" }));
    let without_values = |d: &mut Declaration| d.measures[3].function = Function::TopK { field: "x".into(), k: 0 };
    assert!(matches!(refused(without_values), PlanError::NoValues { .. }));
}

type Put = dyn Fn(&mut Engine, Source, i64);

#[test]
fn what_has_no_usable_time_says_nothing_about_time() {
    const DAYS_MS: i64 = 10 * 86_400_000;
    let bad: [&Put; 4] = [
        &|engine, source, now_ms| {
            engine.skip(source, engine.position(source), now_ms);
        },
        &|engine, source, now_ms| {
            let record = record("k", now_ms + 2_000_000);
            assert_eq!(record.add_to(engine, source, 0, engine.position(source), now_ms), Added::Future);
        },
        &|engine, source, now_ms| {
            record("k", 5).add_to(engine, source, 0, engine.position(source), now_ms);
        },
        &|engine, source, now_ms| {
            // A clock that began with 1970, and goes.
            record("k", now_ms - DAYS_MS).add_to(engine, source, 0, engine.position(source), now_ms);
        },
    ];
    for (kind, bad) in bad.into_iter().enumerate() {
        for (is_dense, begins_bad) in [(false, true), (false, false), (true, true), (true, false)] {
            let (mut engine, first, mut table) = one(|_| {});
            let [second, third] = [1, 2].map(|number| engine.partition(0, number, 0));
            for tick in 0..500 {
                let now_ms = DAYS_MS + NOW_MS + tick * 100;
                if tick == 0 && begins_bad {
                    bad(&mut engine, third, now_ms);
                }
                for source in [first, second] {
                    let offset = engine.position(source);
                    record("k", now_ms).add_to(&mut engine, source, 0, offset, now_ms);
                    engine.at_end(source, offset + 1, now_ms);
                }
                // Where they come all the time, the partition is never seen at its end.
                let ahead = i64::from(is_dense) * 2;
                engine.log_ends(third, engine.position(third) + ahead, now_ms);
                (0..=ahead).for_each(|_| bad(&mut engine, third, now_ms));
                engine.advance(now_ms);
            }
            flush(&mut engine, &mut table, false);
            let newest = table.finals().last().map(|row| row.1).unwrap_or_default();
            let expected = DAYS_MS + NOW_MS + 499 * 100 - 1_000;
            assert!(newest > expected, "kind {kind}, dense: {is_dense}: {newest} is not {expected}");
        }
    }
}

#[test]
fn a_partition_that_is_behind_by_less_than_a_day_is_waited_for() {
    let (mut engine, first, _) = one(|_| {});
    let second = engine.partition(0, 1, 0);
    for tick in 0..100 {
        let now_ms = 10 * 86_400_000 + tick * 100;
        let back = |hours: i64| now_ms - hours * 3_600_000;
        for (source, at_ms) in [(first, now_ms), (second, back(23))] {
            let offset = engine.position(source);
            record("k", at_ms).add_to(&mut engine, source, 0, offset, now_ms);
            engine.at_end(source, offset + 1, now_ms);
        }
        engine.advance(now_ms);
        assert_eq!(engine.watermark_ms(), Some(back(23)));
    }
    assert_eq!(engine.held_back_by(), Some(second));
}

#[test]
fn one_odd_time_does_not_make_the_others_late() {
    let (mut engine, first, _) = one(|declaration| declaration.max_future_ms = 1 << 40);
    let second = engine.partition(0, 1, 0);
    for tick in 0..100 {
        let now_ms = NOW_MS + tick * 100;
        let mut put = |source: Source, at_ms: i64| {
            let offset = engine.position(source);
            let added = record("k", at_ms).add_to(&mut engine, source, 0, offset, now_ms);
            engine.at_end(source, offset + 1, now_ms);
            added
        };
        if tick == 10 {
            put(first, now_ms + 3 * 86_400_000);
        }
        assert_eq!([put(first, now_ms), put(second, now_ms)], [Added::Counted; 2]);
        engine.advance(now_ms);
    }
}

#[test]
fn a_partition_with_an_open_transaction_is_not_idle() {
    let (mut engine, first, _) = one(|_| {});
    let second = engine.partition(0, 1, 0);
    add(&mut engine, first, &[100]);
    add(&mut engine, second, &[100]);
    be_idle(&mut engine, second, NOW_MS);
    engine.log_ends(second, 5, NOW_MS);
    for later_ms in (0..30_000).step_by(300) {
        add(&mut engine, first, &[NOW_MS + later_ms]);
        engine.log_ends(second, 5 + later_ms, NOW_MS + later_ms);
        engine.advance(NOW_MS + later_ms);
    }
    assert_eq!(engine.watermark_ms(), Some(100));
    assert_eq!(engine.held_back_by(), Some(second));
    assert_eq!(add(&mut engine, second, &[NOW_MS]), [Added::Counted], "it is committed");
}

#[test]
fn who_comes_back_late_is_late_until_time_has_waited_for_it() {
    let (mut engine, first, _) = one(|_| {});
    let second = engine.partition(0, 1, 0);
    let mut late = 0;
    for tick in 0..100 {
        let now_ms = NOW_MS + tick * 100;
        let mut put = |source: Source, at_ms: i64| {
            let offset = engine.position(source);
            let added = record("k", at_ms).add_to(&mut engine, source, 0, offset, now_ms);
            engine.at_end(source, offset + 1, now_ms);
            added
        };
        put(first, now_ms);
        // Two seconds behind, and away for three.
        if !(20..50).contains(&tick) {
            late += u32::from(put(second, now_ms - 2_000) == Added::Late);
        } else {
            engine.log_ends(second, engine.position(second), now_ms);
        }
        engine.advance(now_ms);
    }
    assert!((15..=25).contains(&late), "{late} late events");
}
