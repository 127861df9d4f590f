//! Kills in the middle of a replay, and two replays at once: each letter is there once.

use super::scene::{LIMIT, Orders, assert_same, contents};
use crate::{
    crash::Dice,
    harness::{
        DEADLINE, Run, eventually,
        kafka::{Message, read_topic},
        run::Exit,
    },
};
use std::{collections::BTreeMap, time::Instant};

/// More than two transactions hold.
const LETTERS: usize = 12_000;

/// How often each letter is in the topic for readers of committed messages, by its header.
fn times(messages: &[Message]) -> BTreeMap<usize, usize> {
    let mut times = BTreeMap::new();
    for message in messages {
        let (_, value) = message.headers.iter().find(|(name, _)| name == "n").expect("its header");
        let n: usize = String::from_utf8_lossy(value.as_deref().unwrap_or_default()).parse().expect("its number");
        *times.entry(n).or_default() += 1;
    }
    times
}

#[track_caller]
fn assert_once(orders: &Orders, topic: &str, what: &str) {
    let found = read_topic(&orders.test.brokers, topic, true);
    let times = times(&found);
    let twice = times.values().filter(|times| **times > 1).count();
    assert_eq!((times.len(), twice), (LETTERS, 0), "{what}: letters that are there, and those there twice");
    assert_same(&contents(&found), &contents(&orders.messages()), what);
}

#[test]
fn a_replay_that_is_killed_anywhere_and_run_again_sends_each_letter_once() {
    let orders = Orders::new();
    orders.write_refused(LETTERS);
    orders.land(&[]);
    let mut dice = Dice(20_250_115);
    let replay = ["dlq", "replay", "-c", &orders.file, "--all"];
    let failpoints: Vec<&str> =
        headwater::failpoint::ALL.iter().copied().filter(|name| name.starts_with("dlq.")).collect();
    assert_eq!(failpoints.len(), 5);
    for (n, failpoint) in failpoints.into_iter().enumerate() {
        let topic = orders.target(failpoint, 2);
        let name = format!("round-{n}");
        let mut arguments = replay.to_vec();
        arguments.extend(["--to", &topic]);
        // Only the first is a first replay.
        if n > 0 {
            arguments.extend(["--again", &name]);
        }
        let at = if failpoint == "dlq.mid_transaction" { 5_000 + dice.roll(5_000) } else { 2 };
        let armed = format!("{failpoint}=kill@{at}");
        let mut run = Run::with_env(&orders.test, &arguments, &[("HEADWATER_FAILPOINTS", &armed)]);
        assert_eq!(run.wait(LIMIT), Exit::Signal(libc::SIGKILL), "{armed}: {}", run.stderr());
        let committed = times(&read_topic(&orders.test.brokers, &topic, true)).len();
        assert!((4_000..LETTERS).contains(&committed), "{armed}: {committed} were committed before");
        let mut run = Run::start(&orders.test, &arguments);
        assert_eq!(run.wait(LIMIT), Exit::Code(0), "{armed}: {}", run.stderr());
        assert!(run.stdout().contains(" sent in "), "{}", run.stdout());
        assert_once(&orders, &topic, &armed);
        let mut run = Run::start(&orders.test, &arguments);
        assert_eq!(run.wait(LIMIT), Exit::Code(0));
        assert!(run.stdout().contains("0 sent in 0 transactions"), "{}", run.stdout());
    }
}

#[test]
fn random_kills_lose_nothing_and_double_nothing() {
    const ROUNDS: u64 = 6;
    let orders = Orders::new();
    orders.write_refused(LETTERS);
    orders.land(&[]);
    let topic = orders.target("again", 3);
    let mut dice = Dice(crate::landing::number("HEADWATER_TORTURE_SEED", 7) as u64);
    let arguments = ["dlq", "replay", "-c", &orders.file, "--all", "--to", &topic];
    orders.dlq("replay", &["--all", "--to", &topic]);
    let begun = Instant::now();
    orders.dlq("replay", &["--all", "--to", &topic, "--again", "round-1"]);
    let whole = begun.elapsed();
    let mut killed = 0;
    for round in 2..=ROUNDS {
        let name = format!("round-{round}");
        let arguments = [&arguments[..], &["--again", &name]].concat();
        // Twice within the time that a whole replay takes, then to the end.
        for _ in 0..2 {
            let mut run = Run::start(&orders.test, &arguments);
            let moment = Instant::now() + whole.mul_f64(0.1 + dice.roll(600) as f64 / 1_000.0);
            while Instant::now() < moment && run.is_running() {
                std::thread::park_timeout(moment - Instant::now());
            }
            killed += usize::from(run.is_running());
            run.kill();
        }
        let mut run = Run::start(&orders.test, &arguments);
        assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    }
    println!("{killed} of {} runs were killed, a whole one takes {whole:?}", 2 * (ROUNDS - 1));
    assert!(killed >= 2, "{killed}");
    let found = times(&read_topic(&orders.test.brokers, &topic, true));
    let wrong = found.values().filter(|times| **times as u64 != ROUNDS + 1).count();
    assert_eq!((found.len(), wrong), (LETTERS, 0), "letters, and those not there once for each round");
}

#[test]
fn of_two_replays_at_once_the_older_is_fenced() {
    let orders = Orders::new();
    orders.write_refused(LETTERS);
    orders.land(&[]);
    let topic = orders.target("again", 1);
    let arguments = ["dlq", "replay", "-c", &orders.file, "--all", "--to", &topic];
    // It sleeps over its second commit while the other works.
    let mut first = Run::with_env(&orders.test, &arguments, &[("HEADWATER_FAILPOINTS", "dlq.before_commit=stop@2")]);
    eventually(DEADLINE, "the first replay is in its second transaction", || first.is_stopped());
    let mut second = Run::start(&orders.test, &arguments);
    assert_eq!(second.wait(LIMIT), Exit::Code(0), "{}", second.stderr());
    first.go_on();
    assert_eq!(first.wait(LIMIT), Exit::Code(1), "{}", first.stderr());
    let told = first.stderr();
    assert!(told.contains("another replay with transactional id") && told.contains("run it again"), "{told}");
    assert_once(&orders, &topic, "two at once");
}
