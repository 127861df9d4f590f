//! Three instances of one job: one works, two stand by, and whatever becomes of the one that works,
//! another goes on within 15 seconds, without a wrong row.

use super::{
    feed::{Clock, Load},
    scene::{Job, Scene, state, unit},
};
use crate::{
    harness::{DEADLINE, Db, Proxy, Run, eventually, proxy::Direction, run::Exit},
    landing::ready,
};
use serde_json::json;
use std::time::{Duration, Instant};

const TAKEOVER: Duration = Duration::from_secs(15);

struct Instance {
    run: Run,
    line: Proxy,
    file: String,
}

impl Instance {
    fn start(scene: &Scene, n: usize) -> Instance {
        let line = scene.test.postgres_proxy();
        let config = scene.config(json!({"postgres": {"port": line.port()}}));
        let file = scene.write(&format!("instance{n}.yml"), &config);
        Instance { run: scene.start(&file, &[], &[]), line, file }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a plain system call about a child of ours.
        unsafe { libc::kill(i32::try_from(self.run.pid()).expect("a process"), signal) };
    }
}

/// Epoch and flushes, as they are stored.
fn progress(db: &Db) -> (u64, u64) {
    let row = db.rows("SELECT epoch, flushes FROM analyze_jobs").swap_remove(0);
    let number = |n: usize| row[n].as_deref().expect("not null").parse().expect("a number");
    (number(0), number(1))
}

/// The one that leads, once exactly one does and the others stand by.
#[track_caller]
fn wait_for_roles(instances: &[Instance], what: &str) -> usize {
    let states = || instances.iter().map(|instance| state(&instance.run)).collect::<Vec<_>>();
    eventually(DEADLINE, &format!("one leader and two that stand by: {what}"), || {
        let states = states();
        let standing = states.iter().filter(|state| *state == "standing_by").count();
        standing == 2 && states.iter().any(|state| ["progressing", "caught_up"].contains(&state.as_str()))
    });
    states().iter().position(|state| state != "standing_by").expect("a leader")
}

/// Does something to the leader, and waits until another writes windows.
#[track_caller]
fn replaced(db: &Db, what: &str, act: impl FnOnce()) {
    let (epoch, _) = progress(db);
    let begun = Instant::now();
    act();
    let mut first = None;
    eventually(TAKEOVER, &format!("another instance that writes: {what}"), || {
        let (now, flushes) = progress(db);
        now > epoch && flushes > *first.get_or_insert(flushes)
    });
    println!("{what}: replaced after {:.1} s", begun.elapsed().as_secs_f64());
}

#[test]
fn of_three_instances_one_works_and_is_replaced() {
    let job = Job { delay_ms: 3_000, idle_ms: 3_000, ..Job::quick() };
    let scene = Scene::new(vec![job]);
    let load = Load::start(&scene.test.brokers, scene.topics(), Clock::Wall, 8);
    let mut instances: Vec<Instance> = (0..3).map(|n| Instance::start(&scene, n)).collect();
    let leader = wait_for_roles(&instances, "the start");
    let db = scene.test.db();
    for (n, instance) in instances.iter().enumerate() {
        assert_eq!(ready(&instance.run), 200, "instance {n} is ready, whatever its part");
        let unit = unit(&instance.run).expect("the job's state");
        let pid = instances[leader].run.pid().to_string();
        assert!(
            n == leader || unit["reason"].as_str().is_some_and(|reason| reason.contains(&pid)),
            "who leads: {unit}"
        );
    }

    replaced(&db, "killed", || instances[leader].run.kill());
    let file = instances[leader].file.clone();
    instances[leader].run = scene.start(&file, &[], &[]);
    let leader = wait_for_roles(&instances, "one was killed and started again");

    replaced(&db, "stopped", || instances[leader].signal(libc::SIGSTOP));
    instances[leader].signal(libc::SIGCONT);
    let leader = wait_for_roles(&instances, "one was stopped and woken");

    replaced(&db, "cut off", || {
        instances[leader].line.silence(Direction::ToServer);
        instances[leader].line.silence(Direction::ToClient);
    });
    instances[leader].line.restore();
    let leader = wait_for_roles(&instances, "one was cut off for a while");

    replaced(&db, "drained", || instances[leader].run.terminate());
    assert_eq!(instances[leader].run.wait(DEADLINE), Exit::Code(0), "{}", instances[leader].run.stderr());
    assert_eq!(progress(&db).0, 5, "an epoch for each leadership");
    load.stop();
    scene.wait_until_final("all that was written");
    for instance in &mut instances {
        instance.run.terminate();
        instance.run.wait(DEADLINE);
    }
    let expected = scene.assert_tables();
    println!("{} windows, none wrong", expected.rows.len());
}
