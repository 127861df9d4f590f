//! One instance leads, the others stand by; a leader that is dead, cut off or stopped is replaced.

use super::{NOON_MS, chat, everything, flush_of, full_flush, lead, open, window};
use crate::harness::{DEADLINE, Patience, Test, block_on, eventually, proxy::Direction};
use headwater::{
    analyze::store::{Leader, Settings, Store},
    config::model::Postgres,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// The design's bound on how long nobody leads.
const TAKEOVER: Duration = Duration::from_secs(15);

/// The leader's lock: that of this database, for the tests share a server.
const LOCK: &str = "FROM pg_locks JOIN pg_database d ON d.oid = database
    WHERE locktype = 'advisory' AND d.datname = current_database()";

/// Waits for leadership on a thread of its own; gives the leader and whom it was told of.
fn stand_by(store: Arc<Store>) -> (std::thread::JoinHandle<Leader>, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    let waiting = std::thread::spawn(move || {
        block_on(store.lead(|holder| telling.lock().unwrap().push(holder.to_string()))).expect("leadership")
    });
    let heard = told.clone();
    eventually(DEADLINE, "the standby knows who leads", || !heard.lock().unwrap().is_empty());
    (waiting, told)
}

#[test]
fn a_standby_knows_who_leads_and_takes_over_at_once_from_one_that_leaves() {
    let test = Test::new();
    let store = open(&test);
    let leader = lead(&store);
    let (waiting, told) = stand_by(open(&test));
    let backend = test.db().value(&format!("SELECT pid {LOCK}"));
    let holder = told.lock().unwrap()[0].clone();
    assert!(holder.contains(&format!("process {}", std::process::id())) && holder.contains(&backend), "{holder}");
    let start = Patience::new(Duration::from_secs(5));
    block_on(leader.release());
    let leader = waiting.join().unwrap();
    assert_eq!(leader.epoch(), 2);
    start.assert_in_time();
}

#[test]
fn jobs_and_schemas_do_not_stand_in_each_others_way() {
    let test = Test::new();
    test.db().execute("CREATE SCHEMA \"other place\"");
    let store = open(&test);
    let settings = Settings { schema: Some("other place".to_owned()), ..Settings::default() };
    let elsewhere = block_on(Store::open(&test.postgres, chat(), settings)).unwrap();
    let mut job = chat();
    job.name = "chat 'of\" others".to_owned();
    job.output.table = "chat of others".to_owned();
    let settings = Settings { create_tables: true, ..Settings::default() };
    let other = block_on(Store::open(&test.postgres, job, settings)).unwrap();
    let leaders = [lead(&store), lead(&elsewhere), lead(&other)];
    assert_eq!(leaders.map(|leader| leader.epoch()), [1, 1, 1]);
}

#[test]
fn a_leader_whose_session_is_ended_is_replaced() {
    let test = Test::new();
    let store = open(&test);
    let mut former = lead(&store);
    block_on(former.flush(&full_flush(100))).unwrap();
    let (waiting, _) = stand_by(open(&test));
    let start = Patience::new(Duration::from_secs(5));
    test.db().execute(&format!("SELECT pg_terminate_backend(pid) {LOCK}"));
    let mut leader = waiting.join().unwrap();
    start.assert_in_time();
    let before = everything(&test.db());
    assert!(block_on(former.flush(&full_flush(200))).unwrap_err().is_over());
    assert_eq!(everything(&test.db()), before);
    let reason = block_on(former.lost());
    assert!(reason.contains("terminating connection") || reason.contains("closed"), "{reason}");
    block_on(leader.flush(&full_flush(150))).unwrap();
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_knows_it() {
    let test = Test::new();
    let proxy = test.postgres_proxy();
    let behind = Postgres { port: proxy.port(), ..test.postgres.clone() };
    let store = block_on(Store::open(&behind, chat(), Settings::default())).unwrap();
    let mut former = lead(&store);
    block_on(former.flush(&full_flush(100))).unwrap();
    let (waiting, _) = stand_by(open(&test));
    let start = Patience::new(TAKEOVER);
    // To both sides the line is just silent, as it is to the server when the process is stopped.
    proxy.silence(Direction::ToServer);
    proxy.silence(Direction::ToClient);
    let lost = former.lost();
    let flushing = std::thread::spawn(move || (block_on(former.flush(&full_flush(200))), former));
    let mut leader = waiting.join().unwrap();
    let taken = start.elapsed();
    start.assert_in_time();
    let reason = block_on(lost);
    let (result, mut former) = flushing.join().unwrap();
    assert!(result.unwrap_err().is_over());
    println!("replaced after {taken:?}; lost by: {reason}");
    block_on(leader.flush(&full_flush(150))).unwrap();
    let before = everything(&test.db());
    proxy.restore();
    assert!(block_on(former.flush(&full_flush(200))).unwrap_err().is_over());
    drop(former);
    assert_eq!(everything(&test.db()), before, "what the silence held back changes nothing");
}

#[test]
fn a_former_leader_stopped_within_a_flush_does_not_hold_up_the_next() {
    let test = Test::new();
    let store = open(&test);
    let mut first = lead(&store);
    block_on(first.flush(&flush_of(vec![window("s1", NOON_MS, 1)], 1))).unwrap();
    block_on(first.release());
    // Its session holds the job's row and waits for a client that says nothing, in the midst of a COPY,
    // where the server's time limit for idle transactions does not count.
    let stopped = test.db();
    stopped.execute(
        "SET application_name = 'headwater analyze chat'; CREATE TEMPORARY TABLE t (n int);
         BEGIN; UPDATE analyze_jobs SET flushes = flushes + 1",
    );
    let copy = block_on(stopped.client.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN")).unwrap();
    let start = Patience::new(TAKEOVER);
    let second = lead(&store);
    assert_eq!(second.epoch(), 2);
    start.assert_in_time();
    drop(copy);
    assert_eq!(test.db().value("SELECT flushes FROM analyze_jobs"), "1");
}

#[test]
fn windows_under_way_are_not_gone_on_with_under_another_declaration() {
    let test = Test::new();
    let otherwise = || {
        let job = headwater::analyze::store::Job { declaration: "otherwise".to_owned(), ..chat() };
        block_on(Store::open(&test.postgres, job, Settings::default())).expect("the store")
    };
    // Before the first flush there is nothing that could be spoilt.
    block_on(lead(&open(&test)).release());
    block_on(lead(&otherwise()).release());
    let mut leader = lead(&otherwise());
    block_on(leader.flush(&full_flush(1))).expect("a flush");
    block_on(leader.release());
    let refused = block_on(open(&test).lead(|_| {})).err().expect("a refusal").to_string();
    for words in ["then otherwise", "now as shipped", "headwater reset -c FILE --job chat"] {
        assert!(refused.contains(words), "{refused}");
    }
    let mut leader = lead(&otherwise());
    block_on(leader.flush(&full_flush(2))).expect("the former declaration goes on");
    block_on(leader.release());
}

#[test]
fn a_table_is_written_by_one_job_alone() {
    let test = Test::new();
    let of = |name: &str| {
        let job = headwater::analyze::store::Job { name: format!("p/{name}"), ..chat() };
        block_on(Store::open(&test.postgres, job, Settings::default())).expect("the store")
    };
    let refusal = |name: &str| block_on(of(name).lead(|_| {})).err().expect("a refusal").to_string();
    // Whoever comes first, though nothing is written yet; and again.
    let mut first = lead(&of("first"));
    let told = refusal("second");
    for words in ["\"public\".\"chat_summary_minute\" is written by job p/first", "give job p/second another table"] {
        assert!(told.contains(words), "{told}");
    }
    block_on(first.flush(&full_flush(1))).expect("a flush");
    block_on(first.release());
    assert_eq!(refusal("second"), told, "while it is away, too");
    block_on(lead(&of("first")).release());

    // Where the first is no more, its windows are no windows of the second.
    let (_, cure) = told.split_once("any more: ").expect("a statement");
    test.db().execute(cure);
    let told = refusal("second");
    assert!(told.contains("holds final windows") && told.ends_with("headwater reset -c FILE --job second"), "{told}");
    test.db().execute("UPDATE chat_summary_minute SET is_final = false");
    block_on(lead(&of("second")).release());
}
