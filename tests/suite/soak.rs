//! Orders and chat for long, with kills: nothing lost or doubled, and memory and descriptors that do not grow.
//!
//! `HEADWATER_SOAK_MINUTES` (half a minute here) makes it long; `make soak` takes twenty. A process is killed every
//! minute in the first three quarters; in the last quarter it is left alone, and what it holds then must stay flat.

use crate::harness::{Run, Test, kafka, run::Exit};
use std::{
    path::Path,
    time::{Duration, Instant},
};

const ORDERS_PER_SECOND: u32 = 2_000;
const MESSAGES_PER_SECOND: u32 = 500;
const LIMIT: Duration = Duration::from_secs(180);
/// What may come and go: a batch that is open, connections that are made anew.
const SPARE_BYTES: u64 = 16 << 20;
const SPARE_DESCRIPTORS: usize = 6;

/// Resident memory in bytes and open descriptors of a process.
#[derive(Debug, Clone, Copy)]
struct Sample {
    bytes: u64,
    descriptors: usize,
}

fn sample(pid: u32) -> Option<Sample> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = kilobytes.trim().trim_end_matches(" kB").parse().ok()?;
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some(Sample { bytes: kilobytes << 10, descriptors })
}

/// A pipeline that is killed and started again.
struct Pipeline<'a> {
    test: &'a Test,
    name: &'static str,
    file: String,
    run: Run,
    kills: u32,
    samples: Vec<Sample>,
}

impl<'a> Pipeline<'a> {
    fn start(test: &'a Test, name: &'static str, file: &Path) -> Pipeline<'a> {
        let file = file.display().to_string();
        let run = Run::start(test, &["run", "-c", &file]);
        Pipeline { test, name, file, run, kills: 0, samples: Vec::new() }
    }

    fn kill(&mut self) {
        self.run.kill();
        self.kills += 1;
        self.run = Run::start(self.test, &["run", "-c", &self.file]);
    }

    fn sample(&mut self) {
        assert!(self.run.is_running(), "{} has ended: {}", self.name, self.run.stderr());
        self.samples.extend(sample(self.run.pid()));
    }

    /// Ends it as a service manager would, goes on to the end of what there is, and asks for the comparison.
    fn finish(mut self) {
        self.run.terminate();
        assert_eq!(self.run.wait(LIMIT), Exit::Code(0), "{}", self.name);
        let mut rest = Run::start(self.test, &["run", "-c", &self.file, "--until-caught-up"]);
        assert_eq!(rest.wait(LIMIT), Exit::Code(0), "{}", rest.stderr());
        let mut verify = Run::start(self.test, &["verify", "-c", &self.file]);
        let verified = verify.wait(LIMIT * 4);
        println!("{}, killed {} times:\n{}", self.name, self.kills, verify.stdout());
        assert_eq!(verified, Exit::Code(0), "{}", verify.stdout());
        let counts = verify.stdout();
        let mut counts = counts.lines().filter_map(|line| line.trim().strip_prefix("topic records"));
        assert!(counts.all(|count| count.trim() != "0"), "{} compared nothing", self.name);

        let (early, late) = self.samples.split_at(self.samples.len() / 2);
        let most = |samples: &[Sample]| {
            let bytes = samples.iter().map(|sample| sample.bytes).max().expect("samples");
            (bytes, samples.iter().map(|sample| sample.descriptors).max().expect("samples"))
        };
        let ((early_bytes, early_descriptors), (bytes, descriptors)) = (most(early), most(late));
        println!(
            "{}: at most {} MiB and {early_descriptors} descriptors, then {} MiB and {descriptors}; {} samples",
            self.name,
            early_bytes >> 20,
            bytes >> 20,
            self.samples.len(),
        );
        assert!(bytes <= early_bytes + early_bytes / 20 + SPARE_BYTES, "{} grows", self.name);
        assert!(descriptors <= early_descriptors + SPARE_DESCRIPTORS, "{} keeps descriptors open", self.name);
    }
}

fn chat_file(test: &Test, chat: &str, viewer: &str) -> String {
    let shipped = include_str!("../../configs/chat.yml");
    let dir = test.dir().display();
    shipped
        .replace("pipeline: chat\n", &format!("pipeline: {}-chat\nhttp: {{listen: null}}\n", test.prefix))
        .replace("telemetra.events.chat", chat)
        .replace("telemetra.events.viewer", viewer)
        .replace("${KAFKA_BOOTSTRAP_SERVERS:-kafka:9092}", &format!("\"{}\"", test.brokers))
        .replace(
            "${POSTGRES_URL:-jdbc:postgresql://postgres:5432/telemetra}",
            &format!("\"jdbc:postgresql://{}:{}/{}\"", test.postgres.host, test.postgres.port, test.postgres.db),
        )
        .replace("${POSTGRES_USER:-telemetra}", &format!("\"{}\"", test.postgres.user))
        .replace("${LAKEHOUSE_PATH:-/datalake/telemetra}", &format!("{dir}/chat-lake"))
        .replace("${CHECKPOINT_LOCATION:-/datalake/telemetra/checkpoints}", &format!("{dir}/chat-checkpoints"))
        .replace("schemas/", &format!("{}/configs/schemas/", env!("CARGO_MANIFEST_DIR")))
        .replace("rotate_ms: 60000", "rotate_ms: 5000")
}

#[test]
fn pipelines_that_are_killed_now_and_then_lose_nothing_and_do_not_grow() {
    let minutes: f64 = std::env::var("HEADWATER_SOAK_MINUTES").ok().map_or(0.5, |text| text.parse().expect("minutes"));
    let length = Duration::from_secs_f64(60.0 * minutes);
    let between_kills = Duration::from_secs(60).min(length / 4);
    let test = Test::new();
    let orders = test.topic("orders");
    let (chat, viewer) = (test.topic("chat"), test.topic("viewer"));
    for topic in [&chat, &viewer] {
        kafka::create_topic(&test.brokers, topic, 3, &[]);
    }
    let orders_file = test.write("orders.yml", &test.short_form("orders", &orders));
    let chat_file = test.write("chat.yml", &chat_file(&test, &chat, &viewer));

    let seconds = length.as_secs_f64().to_string();
    let generate = |what: &str, file: &Path, rate: u32, more: &[&str]| {
        let (file, rate) = (file.display().to_string(), rate.to_string());
        let arguments = ["generate", what, "-c", &file, "--rate", &rate, "--seconds", &seconds];
        Run::start(&test, &[&arguments[..], more].concat())
    };
    let mut writers = [
        generate("orders", &orders_file, ORDERS_PER_SECOND, &[]),
        generate("chat", &chat_file, MESSAGES_PER_SECOND, &["--chat-topic", &chat, "--viewer-topic", &viewer]),
    ];
    let begun = Instant::now();
    crate::harness::eventually(LIMIT, "the orders' table", || {
        test.db().value("SELECT to_regclass('orders') IS NOT NULL") == "t"
    });
    let mut pipelines = [Pipeline::start(&test, "orders", &orders_file), Pipeline::start(&test, "chat", &chat_file)];
    let mut next_kill = between_kills;
    while begun.elapsed() < length {
        let elapsed = begun.elapsed();
        if elapsed >= length * 3 / 4 {
            pipelines.iter_mut().for_each(Pipeline::sample);
        } else if elapsed >= next_kill {
            next_kill += between_kills;
            pipelines.iter_mut().for_each(Pipeline::kill);
        }
        std::thread::sleep(Duration::from_millis(500).min(length / 60));
    }
    for writer in &mut writers {
        assert_eq!(writer.wait(LIMIT), Exit::Code(0), "{}", writer.stderr());
        println!("{}", writer.stdout());
    }
    pipelines.into_iter().for_each(Pipeline::finish);
}
