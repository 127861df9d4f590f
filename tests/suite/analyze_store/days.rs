//! Day partitions: made ahead and on demand, dropped with age, never in a flush's way.

use super::{DAY_MS, NOON_MS, chat, flush_of, lead, open, window};
use crate::harness::{Db, Patience, Test, block_on};
use headwater::analyze::store::{Flush, Settings, Store};
use std::time::Duration;

fn partitions(db: &Db) -> Vec<String> {
    let sql = "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'chat_summary_minute'::regclass ORDER BY 1";
    db.rows(sql).into_iter().map(|mut row| row.swap_remove(0).unwrap()).collect()
}

fn place(db: &Db, key: &str) -> String {
    db.value(&format!("SELECT tableoid::regclass FROM chat_summary_minute WHERE stream_id = '{key}'"))
}

fn named(days: &[&str]) -> Vec<String> {
    days.iter().map(|day| format!("chat_summary_minute_{day}")).collect()
}

#[test]
fn partitions_are_made_ahead_and_for_the_days_of_a_flush() {
    let test = Test::new();
    let mut leader = lead(&open(&test));
    let db = test.db();
    block_on(leader.keep_days(NOON_MS));
    assert_eq!(partitions(&db), named(&["20250115", "20250116", "20250117", "default"]));
    let leap_day = 1_709_164_800_000;
    let years =
        [("0001", -62_135_596_800_000), ("1970", 0), ("9999", 253_402_300_740_000), ("2026", NOON_MS + 365 * DAY_MS)];
    let mut rows = vec![window("leap", leap_day, 1), window("midnight", NOON_MS - 44_640_000 - 1, 1)];
    rows.extend(years.map(|(year, start_ms)| window(year, start_ms, 1)));
    assert_eq!(block_on(leader.flush(&flush_of(rows, 1))).unwrap().rows, 6);
    assert_eq!(partitions(&db), named(&["20240229", "20250114", "20250115", "20250116", "20250117", "default"]));
    assert_eq!(place(&db, "leap"), "chat_summary_minute_20240229");
    assert_eq!(place(&db, "midnight"), "chat_summary_minute_20250114");
    for odd in ["0001", "1970", "9999", "2026"] {
        assert_eq!(place(&db, odd), "chat_summary_minute_default", "{odd}");
    }
    // A year later that day is near: its row moves, and is found at every moment.
    block_on(leader.flush(&Flush {
        now_ms: NOON_MS + 365 * DAY_MS,
        ..flush_of(vec![window("next", NOON_MS + 365 * DAY_MS, 1)], 2)
    }))
    .unwrap();
    assert_eq!(place(&db, "2026"), "chat_summary_minute_20260115");
    assert_eq!(db.count("SELECT count(*) FROM chat_summary_minute"), 7);
    // Indexes are the parent's, not further ones.
    let indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 'chat_summary_minute_20260115'::regclass";
    assert_eq!(db.count(indexes), 2);
}

#[test]
fn a_reader_holds_up_neither_flush_nor_upkeep() {
    let test = Test::new();
    let settings = Settings { retention_days: Some(1), ..Settings::default() };
    let store = block_on(Store::open(&test.postgres, chat(), settings)).unwrap();
    let mut leader = lead(&store);
    let db = test.db();
    block_on(leader.flush(&flush_of(vec![window("old", NOON_MS - DAY_MS, 1)], 1))).unwrap();
    let reader = test.db();
    reader.execute("BEGIN; SELECT count(*) FROM chat_summary_minute");
    let start = Patience::new(Duration::from_secs(5));
    let tomorrow =
        |next| Flush { now_ms: NOON_MS + DAY_MS, ..flush_of(vec![window("new", NOON_MS + DAY_MS, next)], next) };
    block_on(leader.flush(&tomorrow(2))).unwrap();
    block_on(leader.keep_days(NOON_MS + DAY_MS));
    start.assert_in_time();
    assert_eq!(place(&db, "new"), "chat_summary_minute_default", "there could be no partition yet");
    assert_eq!(db.count("SELECT count(*) FROM chat_summary_minute WHERE stream_id = 'old'"), 1);
    reader.execute("COMMIT");
    let later = NOON_MS + DAY_MS + 10_000;
    block_on(leader.flush(&Flush { now_ms: later, ..tomorrow(3) })).unwrap();
    block_on(leader.keep_days(later));
    assert_eq!(place(&db, "new"), "chat_summary_minute_20250116");
    assert_eq!(db.value("SELECT chat_count FROM chat_summary_minute WHERE stream_id = 'new'"), "3", "one row");
    assert_eq!(db.count("SELECT count(*) FROM chat_summary_minute WHERE stream_id = 'old'"), 0, "two days old");
}

#[test]
fn days_beyond_the_retention_are_dropped() {
    let test = Test::new();
    let settings = Settings { retention_days: Some(30), ..Settings::default() };
    let store = block_on(Store::open(&test.postgres, chat(), settings)).unwrap();
    let mut leader = lead(&store);
    let db = test.db();
    let rows = (0..40).map(|day| window(&format!("d{day}"), NOON_MS - day * DAY_MS, 1)).chain([window("1970", 0, 1)]);
    assert_eq!(block_on(leader.flush(&flush_of(rows.collect(), 1))).unwrap().rows, 41);
    assert_eq!(place(&db, "d30"), "chat_summary_minute_20241216");
    assert_eq!(place(&db, "d31"), "chat_summary_minute_default", "no partition for what is dropped at once");
    block_on(leader.keep_days(NOON_MS));
    assert_eq!(db.count("SELECT count(*) FROM chat_summary_minute"), 31, "today and 30 days");
    // Ten days on, in the same process.
    block_on(leader.keep_days(NOON_MS + 10 * DAY_MS));
    assert_eq!(db.count("SELECT count(*) FROM chat_summary_minute"), 21);
    assert_eq!(partitions(&db)[0], "chat_summary_minute_20241226");
    assert_eq!(db.value("SELECT min(window_start) FROM chat_summary_minute"), "2024-12-26 12:24:00+00");
}

#[test]
fn a_month_that_somebody_partitioned_is_used_and_dropped_whole() {
    let test = Test::new();
    let settings = Settings { retention_days: Some(30), ..Settings::default() };
    let store = block_on(Store::open(&test.postgres, chat(), settings)).unwrap();
    let mut leader = lead(&store);
    let db = test.db();
    db.execute(
        "CREATE TABLE january PARTITION OF chat_summary_minute
           FOR VALUES FROM ('2025-01-01 00:00:00+00') TO ('2025-02-01 00:00:00+00')",
    );
    block_on(leader.flush(&flush_of(vec![window("s1", NOON_MS, 1)], 1))).unwrap();
    assert_eq!(place(&db, "s1"), "january");
    block_on(leader.keep_days(NOON_MS));
    assert_eq!(partitions(&db), ["chat_summary_minute_default", "january"]);
    block_on(leader.keep_days(NOON_MS + 46 * DAY_MS));
    assert!(partitions(&db).contains(&"january".to_owned()), "its last day is kept for 30 days");
    block_on(leader.keep_days(NOON_MS + 47 * DAY_MS));
    assert!(partitions(&db).contains(&"january".to_owned()), "it belongs to somebody else");
    db.execute("ALTER TABLE january OWNER TO headwater_owner");
    block_on(leader.keep_days(NOON_MS + 48 * DAY_MS));
    assert!(!partitions(&db).contains(&"january".to_owned()));
}

#[test]
fn a_clock_that_is_a_month_ahead_drops_no_live_day() {
    let test = Test::new();
    let settings = Settings { retention_days: Some(30), ..Settings::default() };
    let store = block_on(Store::open(&test.postgres, chat(), settings)).unwrap();
    let mut leader = lead(&store);
    let now_ms = chrono::Utc::now().timestamp_millis();
    let rows = (0..32).map(|day| window(&format!("d{day}"), now_ms - day * DAY_MS, 1)).collect();
    let flush = Flush { now_ms, ..flush_of(rows, 1) };
    assert_eq!(block_on(leader.flush(&flush)).unwrap().rows, 32);
    for ahead_days in [31, 365] {
        block_on(leader.keep_days(now_ms + ahead_days * DAY_MS));
        assert_eq!(test.db().count("SELECT count(*) FROM chat_summary_minute"), 31, "today and 30 days");
    }
}
