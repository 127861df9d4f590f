//! A job between two topics and a table of a test's own, and what the tables hold.

use super::oracle::{EMOTES, Expected, Oracle, Row, Rows, Span, differences};
use crate::harness::{
    DEADLINE, Db, Run, Test, eventually,
    kafka::{Message, create_topic, read_topic},
    run::Exit,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub const PARTITIONS: i32 = 3;
/// Long enough for a child on a machine that runs a hundred other tests.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The settings of a job that tests vary.
#[derive(Debug, Clone)]
pub struct Job {
    pub name: &'static str,
    pub table: &'static str,
    pub span: Span,
    pub delay_ms: i64,
    pub lateness_ms: i64,
    pub idle_ms: i64,
    /// Further keys, or others for the ones here.
    pub more: Value,
}

impl Job {
    /// Two seconds by one, soon idle: windows over events of the past close at once when all is read.
    pub fn quick() -> Job {
        Job {
            name: "chat",
            table: "chat_summary_minute",
            span: Span { window_ms: 2_000, slide_ms: 1_000 },
            delay_ms: 3_000,
            lateness_ms: 0,
            idle_ms: 500,
            more: json!({}),
        }
    }

    fn section(&self, chat: &str, viewer: &str) -> Value {
        let words = |name: &str| json!([{"field": name, "from": "message", "words": EMOTES}]);
        let mut job = json!({
            "name": self.name,
            "table": self.table,
            "key_column": "stream_id",
            "window_duration": format!("{} ms", self.span.window_ms),
            "slide_duration": format!("{} ms", self.span.slide_ms),
            "watermark_delay_ms": self.delay_ms,
            "allowed_lateness_ms": self.lateness_ms,
            "idle_timeout_ms": self.idle_ms,
            // Event times here are of any year.
            "retention_days": 36_500,
            // The reference knows no emotes.
            "emote_sentiment": false,
            "inputs": [
                {"name": "chat", "topic": chat, "key": "stream_id", "id": "event_id", "tokens": words("emotes")},
                {"name": "viewer", "topic": viewer, "key": "stream_id"},
            ],
            "measures": chat_measures(),
        });
        merge(&mut job, &self.more);
        job
    }
}

/// The measures of the job that is shipped for chats: those of the inputs `chat` and `viewer`.
pub fn chat_measures() -> Value {
    json!([
        {"column": "chat_count", "function": "count"},
        {"column": "unique_chatters", "function": "distinct", "field": "user_id"},
        {"column": "avg_sentiment", "function": "sentiment_avg", "field": "message"},
        {"column": "positive_count", "function": "sentiment_positive", "field": "message"},
        {"column": "negative_count", "function": "sentiment_negative", "field": "message"},
        {"column": "top_emotes", "function": "top_k", "field": "emotes", "k": 5},
        {"column": "emote_counts", "function": "counts", "field": "emotes"},
        {"column": "chat_rate", "function": "rate"},
        {"column": "avg_viewers", "input": "viewer", "function": "avg", "field": "viewer_count"},
    ])
}

fn merge(into: &mut Value, from: &Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from.clone());
    }
}

pub struct Scene {
    pub test: Test,
    pub chat: String,
    pub viewer: String,
    pub jobs: Vec<Job>,
}

impl Scene {
    /// With both topics, empty.
    pub fn new(jobs: Vec<Job>) -> Scene {
        Scene::on(Test::new(), jobs)
    }

    pub fn on(test: Test, jobs: Vec<Job>) -> Scene {
        let (chat, viewer) = (test.topic("chat"), test.topic("viewer"));
        for topic in [&chat, &viewer] {
            create_topic(&test.brokers, topic, PARTITIONS, &[("max.message.bytes", "20000000")]);
        }
        Scene { test, chat, viewer, jobs }
    }

    pub fn topics(&self) -> [&str; 2] {
        [&self.chat, &self.viewer]
    }

    /// The pipeline's file; `more` adds keys to its sections or replaces them.
    pub fn config(&self, more: Value) -> Value {
        let pg = &self.test.postgres;
        let mut config = json!({
            "pipeline": self.test.prefix,
            "postgres": {"host": pg.host, "port": pg.port, "db": pg.db, "user": pg.user, "tls_mode": "disable"},
            "kafka": {"brokers": self.test.brokers},
            "analyze": {"jobs": self.jobs.iter().map(|job| job.section(&self.chat, &self.viewer)).collect::<Vec<_>>()},
            "http": {"listen": "127.0.0.1:0"},
            "runtime": {"wait_delay_ms": 200},
        });
        if let Value::Object(sections) = &more {
            for (name, section) in sections {
                merge(&mut config[name], section);
            }
        }
        config
    }

    /// Writes a configuration, which YAML takes as it takes any JSON.
    pub fn write(&self, name: &str, config: &Value) -> String {
        self.test.write(name, &format!("{config:#}\n")).display().to_string()
    }

    pub fn file(&self) -> String {
        self.write("chat.yml", &self.config(json!({})))
    }

    pub fn start(&self, file: &str, arguments: &[&str], env: &[(&str, &str)]) -> Run {
        let all: Vec<&str> = ["analyze", "-c", file].iter().chain(arguments).copied().collect();
        Run::with_env(&self.test, &all, env)
    }

    /// Reads all there is until every window is final.
    #[track_caller]
    pub fn catch_up(&self, file: &str) -> Value {
        let mut run = self.start(file, &["--until-caught-up", "--format", "json"], &[]);
        let exit = run.wait(LIMIT);
        assert_eq!(exit, Exit::Code(0), "{}", run.stderr());
        assert!(!run.stderr().contains("panicked"), "{}", run.stderr());
        run.json()
    }

    pub fn messages(&self) -> (Vec<Message>, Vec<Message>) {
        let read = |topic: &str| read_topic(&self.test.brokers, topic, true);
        (read(&self.chat), read(&self.viewer))
    }

    /// Every final window of each job equals the recomputation, no other row is there, each record that is
    /// no event is a dead letter once, and nothing was late.
    #[track_caller]
    pub fn assert_tables(&self) -> Expected {
        let (chat, viewer) = self.messages();
        let mut last = Expected::default();
        for job in &self.jobs {
            last = self.assert_job(job, &Oracle::new(&chat, &viewer));
        }
        last
    }

    /// The same for one job, by an oracle that knows what was late.
    #[track_caller]
    pub fn assert_job(&self, job: &Job, oracle: &Oracle<'_>) -> Expected {
        let db = self.test.db();
        let expected = oracle.expected(job.span, job.lateness_ms);
        let found = rows(&db, job);
        let told = differences(&found, &expected.rows);
        assert!(
            told.is_empty(),
            "{}: {} of {} windows differ:\n{}",
            job.table,
            told.len(),
            expected.rows.len(),
            told[..told.len().min(8)].join("\n")
        );
        let late = late_events(&db, &self.job_id(job));
        let missed: BTreeMap<(String, i64), i64> = expected
            .missed
            .iter()
            .map(|((input, start), count)| ((self.topics()[*input].to_owned(), *start), *count))
            .collect();
        assert_eq!(late, missed, "late events by window");
        self.assert_dead(job, oracle, &expected.dead);
        expected
    }

    #[track_caller]
    fn assert_dead(&self, job: &Job, oracle: &Oracle<'_>, expected: &BTreeSet<(usize, i32, i64)>) {
        let letters = dead_letters(&self.test.db(), &self.job_id(job));
        let messages = [oracle.chat, oracle.viewer];
        let mut positions = BTreeSet::new();
        for letter in &letters {
            let input = self.topics().iter().position(|topic| *topic == letter.topic).expect("one of the two topics");
            let is_it = |message: &&Message| message.partition == letter.partition && message.offset == letter.offset;
            let message = messages[input].iter().find(is_it).expect("a record of the topic");
            assert_eq!(letter.payload, message.value, "the bytes of {letter:?}");
            assert!(positions.insert((input, letter.partition, letter.offset)), "{letter:?} is there twice");
        }
        assert_eq!(&positions, expected, "the records that are no events");
    }

    /// Under which the tables know the job.
    pub fn job_id(&self, job: &Job) -> String {
        format!("headwater-{}/{}", self.test.prefix, job.name)
    }

    /// Waits until no window of the first job is open, all that is written being read.
    #[track_caller]
    pub fn wait_until_final(&self, what: &str) {
        let job = &self.jobs[0];
        let db = self.test.db();
        let (chat, viewer) = self.messages();
        let expected = Oracle::new(&chat, &viewer).expected(job.span, job.lateness_ms).rows.len() as u64;
        let sql = format!("SELECT count(*) FROM {} WHERE is_final", job.table);
        eventually(DEADLINE, &format!("{expected} final windows: {what}"), || db.count(&sql) >= expected);
    }
}

/// The final windows of a job's table. Fails where another row is there, or one that is not what it says.
#[track_caller]
pub fn rows(db: &Db, job: &Job) -> Rows {
    let odd = format!(
        "SELECT stream_id, window_start, window_end, is_final FROM {}
         WHERE NOT is_final OR window_end - window_start <> interval '{} ms' LIMIT 5",
        job.table, job.span.window_ms
    );
    assert!(db.rows(&odd).is_empty(), "of {}, provisional or of another size: {:?}", job.table, db.rows(&odd));
    let sql = format!(
        "SELECT stream_id, (extract(epoch FROM window_start) * 1000)::bigint, chat_count, unique_chatters, avg_sentiment,
           positive_count, negative_count, to_json(top_emotes), emote_counts, chat_rate, avg_viewers,
           approximate FROM {}",
        job.table
    );
    let parse = |row: Vec<Option<String>>| {
        let text = |n: usize| row[n].as_deref().expect("not null");
        let whole = |n: usize| text(n).parse::<i64>().expect("a whole number");
        let float = |n: usize| row[n].as_deref().map(|text| text.parse::<f64>().expect("a number"));
        let place = (text(0).to_owned(), whole(1));
        let values = Row {
            chat_count: whole(2),
            unique_chatters: whole(3),
            avg_sentiment: float(4),
            positive_count: whole(5),
            negative_count: whole(6),
            top_emotes: serde_json::from_str(text(7)).expect("a list"),
            emote_counts: serde_json::from_str(text(8)).expect("counts"),
            chat_rate: float(9).expect("a rate"),
            avg_viewers: float(10),
            approximate: text(11) == "t",
        };
        (place, values)
    };
    db.rows(&sql).into_iter().map(parse).collect()
}

/// By topic and window.
pub fn late_events(db: &Db, job: &str) -> BTreeMap<(String, i64), i64> {
    let sql = format!(
        "SELECT topic, (extract(epoch FROM window_start) * 1000)::bigint, event_count FROM late_events WHERE job = '{job}'"
    );
    let number = |text: &Option<String>| text.as_deref().expect("not null").parse::<i64>().expect("a number");
    db.rows(&sql).iter().map(|row| ((row[0].clone().expect("a topic"), number(&row[1])), number(&row[2]))).collect()
}

#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub reason: String,
    pub detail: String,
    pub payload: Option<Vec<u8>>,
    pub text: Option<String>,
    pub key: Option<Vec<u8>>,
    pub headers: Option<String>,
    pub timestamp_ms: i64,
}

pub fn dead_letters(db: &Db, job: &str) -> Vec<Letter> {
    let sql = format!(
        "SELECT topic, kafka_partition, kafka_offset, error_reason, error_detail, encode(raw_payload, 'hex'), raw_text,
           encode(key, 'hex'), headers, (extract(epoch FROM kafka_timestamp) * 1000)::bigint FROM dead_letters WHERE job = '{job}'"
    );
    let letters = db.rows(&sql).into_iter().map(|row| {
        let text = |n: usize| row[n].clone().expect("not null");
        let bytes = |n: usize| row[n].as_deref().map(unhex);
        Letter {
            topic: text(0),
            partition: text(1).parse().expect("a partition"),
            offset: text(2).parse().expect("an offset"),
            reason: text(3),
            detail: text(4),
            payload: bytes(5),
            text: row[6].clone(),
            key: bytes(7),
            headers: row[8].clone(),
            timestamp_ms: text(9).parse().expect("a time"),
        }
    });
    letters.collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a digit") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// What `/status` says of the job.
pub fn unit(run: &Run) -> Option<Value> {
    let (_, body) = run.get("/status")?;
    let status: Value = serde_json::from_str(&body).ok()?;
    status["units"].as_array()?.iter().find(|unit| unit["stage"] == "analyze").cloned()
}

/// Its state; empty where nobody answers.
pub fn state(run: &Run) -> String {
    unit(run).and_then(|unit| unit["state"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// What `/ready` says: the code, and why.
pub fn readiness(run: &Run) -> (u16, String) {
    let (code, body) = run.get("/ready").expect("an answer");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    (code, body["not_ready"][0]["reason"].as_str().unwrap_or_default().to_owned())
}
