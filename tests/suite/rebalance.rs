//! Landings come and go while records arrive: each record lands once, whoever holds its partition.

use crate::harness::{
    DEADLINE, Run, Test, block_on, eventually, eventually_some,
    kafka::{create_topic, end_offsets},
    lake,
    run::Exit,
};
use crate::landing::{self, Table, Writer};
use headwater::{config::model::Kafka, kafka::consumer::Consumer};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
};
use std::{
    collections::BTreeMap,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

const DAY: &str = "2025-01-15T12:24:00Z";

/// A table and a file that lands it, under the tests' names.
fn prepared(test: &Test, partitions: i32) -> (Table, String) {
    let schema = landing::orders_schema(test);
    let table = Table::orders_by_file(test.dir(), &test.topic("orders"), &schema);
    create_topic(&test.brokers, &table.topic, partitions, &[]);
    let config = landing::land_config(test, std::slice::from_ref(&table), &["rotate_ms: 300"]);
    let file = test.write("land.yml", &config).display().to_string();
    (table, file)
}

/// The end of what stands in the table, by partition, read off the names of its files:
/// `part-<topic>-<partition>-<first>-<last>-<n>.parquet`.
fn landed_ends(table: &Table) -> BTreeMap<i32, i64> {
    let mut ends = BTreeMap::new();
    for file in lake::table_files(&table.path) {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let numbers = name.strip_prefix(&format!("part-{}-", table.topic)).expect("a name of this topic");
        let numbers: Vec<i64> = numbers.split('-').map(|number| number.parse().expect("a number")).collect();
        let (partition, last) = (i32::try_from(numbers[0]).expect("a partition"), numbers[2]);
        let end = ends.entry(partition).or_insert(0);
        *end = last.max(*end - 1) + 1;
    }
    ends
}

/// Waits until all that is on the topic now stands in the table.
#[track_caller]
fn wait_for_present_end(test: &Test, table: &Table) {
    let wanted = end_offsets(&test.brokers, &table.topic);
    eventually(DEADLINE, "every partition has landed up to now", || {
        let landed = landed_ends(table);
        wanted.iter().all(|(partition, end)| landed.get(partition).copied().unwrap_or(0) >= *end)
    });
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Start,
    Terminate,
    Kill,
}

#[test]
fn ten_rebalances_while_landing_lose_and_double_nothing() {
    use Step::{Kill, Start, Terminate};
    const PARTITIONS: i32 = 6;
    let round = [Start, Start, Terminate, Start, Kill, Start, Terminate, Start, Terminate, Kill];
    let rebalances = landing::number("HEADWATER_TEST_REBALANCES", round.len());

    let test = Test::new();
    let (table, file) = prepared(&test, PARTITIONS);
    let start = || Run::start(&test, &["land", "-c", &file]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let producing = scope.spawn(|| {
            let writer = Writer::new(&test.brokers, &table.topic);
            let mut id = 0;
            while !is_over.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    writer.order(i32::try_from(id).expect("few") % PARTITIONS, id, DAY);
                    id += 1;
                }
                // The pace of the load, 2,000 a second at most; nothing is waited for here.
                std::thread::sleep(Duration::from_millis(10));
            }
            writer.flush();
            id
        });
        let ends_the_load = EndsLoad(&is_over);
        let mut runs = vec![start()];
        wait_for_present_end(&test, &table);
        for (n, step) in round.into_iter().cycle().take(rebalances).enumerate() {
            match step {
                Start => {
                    let run = start();
                    let states = ["progressing", "caught_up"];
                    landing::wait_for_state(&run, &table.topic, &states);
                    runs.push(run);
                }
                Terminate => {
                    let mut run = runs.remove(0);
                    run.terminate();
                    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "step {n}");
                }
                Kill => runs.remove(0).kill(),
            }
            wait_for_present_end(&test, &table);
        }
        drop(ends_the_load);
        let sent = producing.join().expect("the producer");
        wait_for_present_end(&test, &table);
        for run in &mut runs {
            run.terminate();
        }
        for run in &mut runs {
            assert_eq!(run.wait(DEADLINE), Exit::Code(0));
        }
        let written = landing::written(&test, &table.topic);
        assert_eq!(written.len(), usize::try_from(sent).expect("a count"));
        table.assert_exactly(&written);
        println!("{rebalances} rebalances over {sent} records");
    });
}

/// As a landing does that finds nothing to do: it leaves before it has looked at what the group gave it.
#[test]
fn a_member_that_leaves_at_once_does_not_wait_for_ever() {
    let test = Test::new();
    let topic = test.topic("orders");
    create_topic(&test.brokers, &topic, 2, &[]);
    let kafka = Kafka::plaintext(&test.brokers);
    let lookout: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &test.brokers).create().expect("a client");
    for round in 0..10 {
        let instance = (round % 2 == 0).then_some("one");
        let group = format!("{}-{round}", test.prefix);
        let is_settled = || {
            let groups = lookout.fetch_group_list(Some(&group), DEADLINE);
            groups.is_ok_and(|groups| groups.groups().iter().any(|group| group.state() == "Stable"))
        };
        let (leave, is_to_leave) = mpsc::channel::<()>();
        let (left, has_left) = mpsc::channel();
        let (kafka, name, topic) = (kafka.clone(), group.clone(), topic.clone());
        std::thread::spawn(move || {
            let consumer = Consumer::new(&kafka, &name, &topic, instance, 6_000).expect("a member");
            let _ = is_to_leave.recv();
            consumer.close();
            let _ = left.send(());
        });
        eventually(DEADLINE, "the group to give it the partitions", is_settled);
        drop(leave);
        has_left.recv_timeout(DEADLINE).expect("the member leaves");
    }
}

/// Ends the load when dropped, also by a failed assertion, for the scope waits for its threads.
struct EndsLoad<'a>(&'a AtomicBool);

impl Drop for EndsLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_second_landing_of_one_partition_waits_and_takes_over() {
    let test = Test::new();
    let (table, file) = prepared(&test, 1);
    let writer = Writer::new(&test.brokers, &table.topic);
    let write = |ids: std::ops::Range<i64>| {
        ids.for_each(|id| writer.order(0, id, DAY));
        writer.flush();
    };
    write(0..500);
    let first = Run::start(&test, &["land", "-c", &file]);
    wait_for_present_end(&test, &table);
    let second = Run::start(&test, &["land", "-c", &file]);
    // The group may give the partition to either: the one that has none says that it waits.
    let runs = [&first, &second];
    eventually(DEADLINE, "one of the two waits", || {
        runs.iter().filter(|run| landing::state(run, &table.topic) == "waiting").count() == 1
            && runs.iter().filter(|run| landing::state(run, &table.topic) == "caught_up").count() == 1
    });
    write(500..1_000);
    wait_for_present_end(&test, &table);
    let (mut holder, waiting) =
        if landing::state(&first, &table.topic) == "waiting" { (second, first) } else { (first, second) };
    write(1_000..1_500);
    holder.kill();
    write(1_500..2_000);
    wait_for_present_end(&test, &table);
    landing::wait_for_state(&waiting, &table.topic, &["caught_up"]);
    assert_eq!(landing::ready(&waiting), 200);
    table.assert_exactly(&landing::written(&test, &table.topic));
    assert_eq!(table.landed(), 2_000);
}

#[test]
fn another_group_waits_for_the_lock_says_who_holds_it_and_takes_over() {
    let test = Test::new();
    let (table, file) = prepared(&test, 1);
    let other = landing::land_config(&test, std::slice::from_ref(&table), &["rotate_ms: 300", "group: another"]);
    let other = test.write("other.yml", &other).display().to_string();
    let writer = Writer::new(&test.brokers, &table.topic);
    let write = |ids: std::ops::Range<i64>| {
        ids.for_each(|id| writer.order(0, id, DAY));
        writer.flush();
    };
    write(0..500);
    let mut first = Run::start(&test, &["land", "-c", &file]);
    wait_for_present_end(&test, &table);
    let second = Run::start(&test, &["land", "-c", &other]);
    let holder = first.pid().to_string();
    let reason = eventually_some(DEADLINE, "the second says who holds the lock", || {
        Some(landing::reason(&second, &table.topic)).filter(|reason| mentions(reason, &holder))
    });
    assert_eq!(landing::state(&second, &table.topic), "waiting", "{reason}");
    assert_eq!(landing::ready(&second), 503);
    assert!(second.stderr().lines().any(|line| mentions(line, &holder)), "the log names {holder} too");
    write(500..1_000);
    wait_for_present_end(&test, &table);
    landing::wait_for_state(&first, &table.topic, &["caught_up"]);
    assert_eq!(landing::state(&second, &table.topic), "waiting");
    first.kill();
    write(1_000..1_500);
    wait_for_present_end(&test, &table);
    landing::wait_for_state(&second, &table.topic, &["caught_up"]);
    assert_eq!(landing::ready(&second), 200);
    table.assert_exactly(&landing::written(&test, &table.topic));
    assert_eq!(table.landed(), 1_500);
}

/// Whether `text` holds the number by itself, not as a part of another.
fn mentions(text: &str, number: &str) -> bool {
    text.split(|c: char| !c.is_ascii_digit()).any(|word| word == number)
}

#[test]
fn partitions_added_while_it_runs_are_read_from_their_first_record() {
    let test = Test::new();
    let (table, file) = prepared(&test, 1);
    let writer = Writer::new(&test.brokers, &table.topic);
    (0..100).for_each(|id| writer.order(0, id, DAY));
    writer.flush();
    let mut run = Run::start(&test, &["land", "-c", &file]);
    wait_for_present_end(&test, &table);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &test.brokers).create().expect("an admin client");
    let added = block_on(admin.create_partitions(&[NewPartitions::new(&table.topic, 4)], &AdminOptions::new()));
    added.expect("an answer")[0].as_ref().expect("more partitions");
    eventually(DEADLINE, "the new partitions are known", || end_offsets(&test.brokers, &table.topic).len() == 4);
    // A new producer, which asks for the partitions only now.
    let writer = Writer::new(&test.brokers, &table.topic);
    (100..500).for_each(|id| writer.order(i32::try_from(id % 4).expect("small"), id, DAY));
    writer.flush();
    wait_for_present_end(&test, &table);
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
    table.assert_exactly(&landing::written(&test, &table.topic));
    assert_eq!(table.landed(), 500);
}
