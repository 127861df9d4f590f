//! A flush happens once, whole or not at all, and takes what PostgreSQL would refuse.

use super::{NOON_MS, chat, everything, flush_of, full_flush, late, lead, moment, open, window};
use crate::harness::{Test, block_on};
use headwater::{
    analyze::{
        store::{Flush, Settings, Span, Store, StoreError},
        window::{Value, WindowRow},
    },
    config::model::Postgres,
};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
    },
};

#[test]
fn what_is_flushed_is_there_and_a_restart_reads_it_back() {
    let test = Test::new();
    let store = open(&test);
    let mut leader = lead(&store);
    assert_eq!((leader.stored().watermark_ms, leader.stored().partitions.len()), (None, 0));
    let flushed = block_on(leader.flush(&full_flush(100))).unwrap();
    assert_eq!((flushed.rows, flushed.moments, flushed.dead_letters), (2, 1, 1));
    let db = test.db();
    assert_eq!(
        db.rows(
            "SELECT stream_id, window_start, window_end, chat_count, unique_chatters, avg_sentiment, positive_count,
               negative_count, top_emotes, emote_counts, chat_rate, avg_viewers, is_final, revision, approximate
             FROM chat_summary_minute WHERE stream_id = 's1'"
        ),
        [[
            Some("s1"),
            Some("2025-01-15 12:24:00+00"),
            Some("2025-01-15 12:25:00+00"),
            Some("12"),
            Some("6"),
            Some("0.25"),
            Some("4"),
            Some("0"),
            Some("{Kappa,LUL}"),
            Some("{\"LUL\": 1, \"Kappa\": 12}"),
            Some("0.2"),
            None,
            Some("t"),
            Some("0"),
            Some("f")
        ]
        .map(|value| value.map(str::to_owned))]
    );
    // The same records read again are the same dead letters, and the same moments are known.
    let again = Flush { late: Vec::new(), ..full_flush(100) };
    let flushed = block_on(leader.flush(&again)).unwrap();
    assert_eq!((flushed.rows, flushed.moments, flushed.dead_letters), (0, 0, 0), "nothing is new");
    block_on(leader.release());

    let leader = lead(&store);
    assert_eq!(leader.epoch(), 2);
    assert_eq!(leader.stored().partitions, full_flush(100).partitions);
    assert_eq!(leader.stored().watermark_ms, full_flush(100).watermark_ms);
}

#[test]
fn windows_and_moments_are_read_back_as_they_were_written() {
    use futures_util::TryStreamExt;
    let test = Test::new();
    let store = open(&test);
    let mut leader = lead(&store);
    let provisional = WindowRow { is_final: false, ..window("s1", NOON_MS + 10_000, 3) };
    let rows = vec![
        window("s2", NOON_MS, 5),
        window("s1", NOON_MS, 12),
        window("s1", NOON_MS - 60_000, 9),
        window("s1", NOON_MS + 20_000, 7),
        window("s1", NOON_MS + 30_000, 8),
        // Beyond the end of what is known, as where a job has begun anew.
        window("s1", NOON_MS + 31_000, 9),
        provisional,
    ];
    let moments = vec![
        moment("old", "s1", NOON_MS - 60_000),
        moment("new", "s1", NOON_MS),
        moment("next", "s1", NOON_MS + 31_000),
    ];
    block_on(leader.flush(&Flush { moments, ..flush_of(rows, 10) })).unwrap();
    // Between the two times, only what begins with a minute.
    let span = Span { since_ms: NOON_MS, recent_ms: NOON_MS + 30_000, period_ms: 60_000, until_ms: NOON_MS + 90_000 };
    let columns = ["emote_counts", "chat_count", "top_emotes", "avg_viewers"];
    let read: Vec<WindowRow> =
        block_on(async { store.final_windows(span, &columns).await.unwrap().try_collect().await.unwrap() });
    let expected = |key, start_ms, count| {
        let whole = window(key, start_ms, count);
        let values = [6, 0, 5, 8].map(|index: usize| whole.values[index].clone()).to_vec();
        WindowRow { values, ..whole }
    };
    assert_eq!(read, [expected("s1", NOON_MS, 12), expected("s2", NOON_MS, 5), expected("s1", NOON_MS + 30_000, 8)]);
    let last = block_on(store.last_moments(NOON_MS - 60_000, NOON_MS + 90_000)).unwrap();
    assert_eq!(last.iter().map(|m| (m.key.as_str(), m.window_start_ms)).collect::<Vec<_>>(), [("s1", NOON_MS)]);
}

#[test]
fn the_flush_of_a_former_leader_changes_nothing() {
    let test = Test::new();
    let store = open(&test);
    let mut former = lead(&store);
    block_on(former.flush(&full_flush(100))).unwrap();
    let db = test.db();
    // As a new leader does; the former one has not noticed yet.
    db.execute("UPDATE analyze_jobs SET epoch = epoch + 1");
    let before = everything(&db);
    let later = Flush { moments: vec![moment("m2", "s1", NOON_MS)], ..full_flush(200) };
    let error = block_on(former.flush(&later)).unwrap_err();
    assert!(error.is_over() && !error.is_transient(), "{error}");
    assert_eq!(everything(&db), before);
}

#[test]
fn progress_that_somebody_changed_is_not_overwritten() {
    let test = Test::new();
    let store = open(&test);
    let mut leader = lead(&store);
    block_on(leader.flush(&full_flush(100))).unwrap();
    let db = test.db();
    db.execute("UPDATE analyze_partitions SET next_offset = 90");
    let before = everything(&db);
    let error = block_on(leader.flush(&full_flush(200))).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    assert_eq!(everything(&db), before);
}

#[test]
fn the_watermark_never_falls() {
    let test = Test::new();
    let mut leader = lead(&open(&test));
    for watermark_ms in [Some(NOON_MS), Some(NOON_MS - 5_000), None] {
        block_on(leader.flush(&Flush { watermark_ms, ..flush_of(Vec::new(), 1) })).unwrap();
    }
    assert_eq!(test.db().value("SELECT watermark FROM analyze_jobs"), "2025-01-15 12:24:00+00");
}

#[test]
fn revisions_count_the_changes_of_a_final_row() {
    let test = Test::new();
    let mut leader = lead(&open(&test));
    let db = test.db();
    let row = |count, is_final, revision| WindowRow { is_final, revision, ..window("s1", NOON_MS, count) };
    let mut step = |row: WindowRow| -> (u64, Vec<Option<String>>) {
        let changed = block_on(leader.flush(&flush_of(vec![row], 1))).unwrap().rows;
        let found = db.rows("SELECT chat_count, is_final, revision FROM chat_summary_minute").swap_remove(0);
        (changed, found)
    };
    let is =
        |count: &str, is_final: &str, revision: &str| [count, is_final, revision].map(|s| Some(s.to_owned())).to_vec();
    assert_eq!(step(row(1, false, 0)), (1, is("1", "f", "0")));
    assert_eq!(step(row(2, false, 0)), (1, is("2", "f", "0")), "provisional rows are no revisions");
    assert_eq!(step(row(2, true, 0)), (1, is("2", "t", "0")), "becoming final is no revision");
    assert_eq!(step(row(2, true, 0)), (0, is("2", "t", "0")), "equal values change nothing");
    assert_eq!(step(row(3, true, 0)), (1, is("3", "t", "1")), "a restarted engine does not know of the first");
    assert_eq!(step(row(4, true, 7)), (1, is("4", "t", "7")), "the engine may count more");
    assert_eq!(step(row(4, true, 0)), (0, is("4", "t", "7")));
    assert_eq!(step(row(9, false, 0)), (0, is("4", "t", "7")), "a final row stays");
}

#[test]
fn updated_at_moves_with_the_values_only() {
    let test = Test::new();
    let mut leader = lead(&open(&test));
    let db = test.db();
    let mut written_at = |count| {
        block_on(leader.flush(&flush_of(vec![window("s1", NOON_MS, count)], 1))).unwrap();
        db.value("SELECT updated_at FROM chat_summary_minute")
    };
    let first = written_at(1);
    assert_eq!(written_at(1), first);
    assert_ne!(written_at(2), first);
}

#[test]
fn what_postgresql_cannot_hold_stops_nothing() {
    let test = Test::new();
    let store = open(&test);
    let mut leader = lead(&store);
    let values = |top: &str| {
        let mut row = window("x", NOON_MS, 1);
        row.values[2] = Value::Float(f64::NAN);
        row.values[5] = Value::TextList(vec![top.to_owned(), "a\"\\,{}".to_owned(), String::new(), "NULL".to_owned()]);
        row.values[6] =
            Value::Counts(vec![(top.to_owned(), 1), ("Kap\u{fffd}pa".to_owned(), 2), ("\"\\\u{1}".to_owned(), 3)]);
        row.values[7] = Value::Float(f64::INFINITY);
        row.values[8] = Value::Float(f64::NEG_INFINITY);
        row.values
    };
    let long = "é".repeat(1 << 19);
    let keys = ["a\0", "a\u{fffd}", "", "ä😀'\"\\", &long];
    let rows: Vec<WindowRow> =
        keys.iter().map(|key| WindowRow { values: values("Kap\0pa"), ..window(key, NOON_MS, 1) }).collect();
    let mut hostile = moment("m\0", "a\0", NOON_MS);
    hostile.score = f64::NAN;
    hostile.value = f64::INFINITY;
    hostile.details = serde_json::json!({"a\0": ["\0", {"b": "\0"}, 1e300, null]});
    let mut letters = vec![super::dead_letter(1, b"n\0l"), super::dead_letter(2, b"\xff\xfe")];
    letters.push(super::dead_letter(3, &vec![b'x'; 5 << 20]));
    letters.extend((4..8).map(|offset| super::dead_letter(offset, &vec![b'y'; 3 << 20])));
    letters[0].detail = "at \0".to_owned();
    letters[0].key = Some(vec![0, 1]);
    letters[1].payload = None;
    letters[1].timestamp_ms = Some(i64::MAX);
    let flush = Flush { moments: vec![hostile], dead_letters: letters, ..flush_of(rows.clone(), 8) };
    let flushed = block_on(leader.flush(&flush)).unwrap();
    assert_eq!((flushed.rows, flushed.moments, flushed.dead_letters), (5, 1, 7));
    let again = block_on(leader.flush(&flush)).unwrap();
    assert_eq!((again.rows, again.moments, again.dead_letters), (0, 0, 0), "NaN is NaN, and stand-ins are the same");

    let db = test.db();
    assert_eq!(db.count("SELECT count(DISTINCT stream_id) FROM chat_summary_minute"), 5);
    assert_eq!(
        db.rows("SELECT DISTINCT top_emotes[1], top_emotes[2], top_emotes[4], emote_counts FROM chat_summary_minute"),
        [["Kap\u{fffd}pa", "a\"\\,{}", "NULL", "{\"\\\"\\\\\\u0001\": 3, \"Kap\u{fffd}pa\": 3}"]
            .map(|s| Some(s.to_owned()))],
        "counts of names that became one are added"
    );
    assert_eq!(
        db.value("SELECT stream_id FROM moments"),
        db.value("SELECT min(stream_id) FROM chat_summary_minute WHERE stream_id LIKE 'a%~%'")
    );
    assert_eq!(db.value("SELECT encode(raw_payload, 'hex') FROM dead_letters WHERE kafka_offset = 1"), "6e006c");
    assert_eq!(
        db.value("SELECT headers FROM dead_letters WHERE kafka_offset = 1"),
        r#"[["h","AP8="],["n\u0000",null]]"#
    );
    assert_eq!(db.count("SELECT count(*) FROM dead_letters WHERE raw_text IS NULL"), 2);
    assert_eq!(db.count("SELECT max(length(raw_payload)) FROM dead_letters"), 5 << 20);
}

#[test]
fn a_large_flush_writes_what_small_ones_do() {
    let (small, large) = (Test::new(), Test::new());
    let keys = 2_500;
    let rows: Vec<WindowRow> = (0..2 * keys)
        .map(|n| {
            let mut row = window(&format!("s{}", n % keys), NOON_MS + n / keys * 10_000, n);
            row.values[5] = Value::TextList(vec![format!("e\0\"{n}"), "\\".to_owned()]);
            row.values[8] = if n % 3 == 0 { Value::Null } else { Value::Float(n as f64 / 7.0) };
            row.is_final = n % 2 == 0;
            row.is_approximate = n % 5 == 0;
            row
        })
        .collect();
    let revised: Vec<WindowRow> = rows
        .iter()
        .enumerate()
        .map(|(n, row)| {
            let mut row = row.clone();
            row.values[0] = Value::Integer(if n % 4 == 0 { -1 } else { n as i64 });
            row
        })
        .collect();
    let mut leader = lead(&open(&small));
    let mut changed = Vec::new();
    for rows in [&rows, &revised] {
        let counts = rows.chunks(700).map(|rows| block_on(leader.flush(&flush_of(rows.to_vec(), 1))).unwrap().rows);
        changed.push(counts.sum::<u64>());
    }
    let mut leader = lead(&open(&large));
    let at_once = [&rows, &revised].map(|rows| block_on(leader.flush(&flush_of(rows.clone(), 1))).unwrap().rows);
    assert_eq!(changed, at_once);
    let dump = |test: &Test| everything(&test.db()).swap_remove(0);
    let expected = dump(&small);
    assert_eq!(expected.len() as i64, 2 * keys);
    assert_eq!(dump(&large), expected);
}

/// Forwards until it is armed and a client commits: then that one connection is cut, before or after the
/// server has seen it.
pub struct CommitProxy {
    pub port: u16,
    /// [`BEFORE`] or [`AFTER`]; nothing once it has cut.
    pub armed: Arc<AtomicU8>,
    pub cut: Arc<AtomicBool>,
}

pub const BEFORE: u8 = 1;
pub const AFTER: u8 = 2;

impl CommitProxy {
    pub fn start(target: u16) -> CommitProxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (armed, cut) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicBool::new(false)));
        let proxy = CommitProxy { port, armed: armed.clone(), cut: cut.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(("127.0.0.1", target)).unwrap();
                let (to_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let is_silent = Arc::new(AtomicBool::new(false));
                let (armed, cut, silenced) = (armed.clone(), cut.clone(), is_silent.clone());
                std::thread::spawn(move || pump(from_server, to_client, |_| !silenced.load(SeqCst)));
                std::thread::spawn(move || {
                    let (cut_client, mut cut_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                    pump(client, server, move |bytes| {
                        if !bytes.windows(7).any(|w| w == b"COMMIT\0") {
                            return true;
                        }
                        let mode = armed.swap(0, SeqCst);
                        if mode == 0 {
                            return true;
                        }
                        is_silent.store(true, SeqCst);
                        if mode == AFTER {
                            let _ = cut_server.write_all(bytes);
                        } else {
                            let _ = cut_server.shutdown(Shutdown::Both);
                        }
                        cut.store(true, SeqCst);
                        let _ = cut_client.shutdown(Shutdown::Both);
                        false
                    });
                });
            }
        });
        proxy
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut may_pass: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !may_pass(&buffer[..read]) {
            return;
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn a_commit_of_which_nobody_knows_is_settled() {
    for mode in [BEFORE, AFTER] {
        let test = Test::new();
        let proxy = CommitProxy::start(test.postgres.port);
        let config = Postgres { port: proxy.port, ..test.postgres.clone() };
        let store = block_on(Store::open(&config, chat(), Settings::default())).unwrap();
        let mut leader = lead(&store);
        block_on(leader.flush(&full_flush(100))).unwrap();
        let flush = Flush { late: vec![late(1)], ..full_flush(200) };
        proxy.armed.store(mode, SeqCst);
        let result = block_on(leader.flush(&flush));
        assert!(proxy.cut.load(SeqCst), "the connection was cut within the commit");
        match (mode, result) {
            (AFTER, result) => drop(result.unwrap()),
            (_, Ok(_)) => panic!("the server never saw that commit"),
            (_, Err(error)) => {
                assert!(error.is_transient() && !error.is_over(), "{error}");
                assert_eq!(test.db().value("SELECT next_offset FROM analyze_partitions"), "100");
                block_on(leader.flush(&flush)).unwrap();
            }
        }
        let db = test.db();
        assert_eq!(db.value("SELECT next_offset FROM analyze_partitions"), "200");
        assert_eq!(db.value("SELECT event_count FROM late_events"), "4", "added once");
        assert_eq!(db.value("SELECT flushes FROM analyze_jobs"), "2");
        block_on(leader.flush(&full_flush(300))).unwrap();
    }
}

#[test]
fn a_dropped_flush_ends_leadership() {
    let test = Test::new();
    let store = open(&test);
    let mut leader = lead(&store);
    let db = test.db();
    db.execute("BEGIN; LOCK TABLE analyze_jobs IN EXCLUSIVE MODE");
    let flush = full_flush(1);
    let dropped =
        block_on(async { tokio::time::timeout(std::time::Duration::from_millis(50), leader.flush(&flush)).await });
    assert!(dropped.is_err(), "the flush waits for the lock");
    db.execute("ROLLBACK");
    assert!(block_on(leader.flush(&flush)).unwrap_err().is_over());
}
