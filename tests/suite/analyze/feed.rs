//! Chat and viewer events: single ones, a crowd's, and a producer that goes on until it is stopped.

use super::oracle::Position;
use crate::{
    crash::Dice,
    harness::kafka::Message,
    landing::{Raw, Writer},
};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// 2025-01-31T23:58:00Z: two minutes before a day, a month and (in some zones) nothing at all end.
pub const MONTH_END_MS: i64 = 1_738_367_880_000;

pub fn iso(at_ms: i64) -> String {
    DateTime::from_timestamp_millis(at_ms).expect("a time").to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub fn chat(id: &str, stream: &str, user: &str, message: &str, at_ms: i64) -> Value {
    json!({"event_id": id, "stream_id": stream, "user_id": user, "username": user, "message": message, "timestamp": iso(at_ms)})
}

pub fn viewer(stream: &str, count: i64, at_ms: i64) -> Value {
    json!({"stream_id": stream, "viewer_count": count, "timestamp": iso(at_ms)})
}

pub fn raw(partition: i32, stream: &str, payload: &Value) -> Raw {
    let (key, value) = (Some(stream.as_bytes().to_vec()), Some(payload.to_string().into_bytes()));
    Raw { partition, key, value, headers: Vec::new() }
}

const LINES: [&str; 24] = [
    "hello chat",
    "this is so GOOD!!!",
    "what a terrible play",
    "LUL",
    "Kappa Kappa Kappa",
    "not bad at all, not bad",
    "I love this streamer, best ever",
    "worst game I have ever seen, hate it",
    "PogChamp PogChamp that was AMAZING",
    "kappa is not Kappa",
    "monkaS he is dead monkaS",
    "😂😂😂 KEKW",
    "but why? it was good but the end is bad",
    "first",
    "",
    "ㅋㅋㅋㅋ 좋아요",
    "4Head 4Head",
    "very very happy today :)",
    "BibleThump so sad",
    "Clap",
    "\"quotes\" and \\ and / and \t tabs",
    "it isn't great, sort of the bomb",
    "KEKW\u{a0}LUL",
    "scam! fraud! never again",
];

/// People who talk: seeded, with the same words again and again.
pub struct Crowd {
    pub dice: Dice,
    next_id: u64,
    name: String,
}

impl Crowd {
    pub fn new(name: &str, seed: u64) -> Crowd {
        Crowd { dice: Dice(seed), next_id: 0, name: name.to_owned() }
    }

    /// Something said, at a time up to `disorder_ms` before `at_ms`.
    pub fn says(&mut self, stream: &str, at_ms: i64, disorder_ms: u64) -> Value {
        self.next_id += 1;
        let at_ms = at_ms - self.dice.roll(disorder_ms + 1) as i64;
        // A few talk much, most talk little.
        let spread = 1 + self.dice.roll(200);
        let user = format!("u{}", self.dice.roll(spread));
        let line = LINES[self.dice.roll(LINES.len() as u64) as usize];
        let mut event = chat(&format!("{}-{}", self.name, self.next_id), stream, &user, line, at_ms);
        match self.dice.roll(12) {
            0 => event["emotes"] = Value::Null,
            1 => event["emotes"] = json!([]),
            2 => event["emotes"] = json!(["Kappa", "OwnEmote", "Kappa"]),
            3 => event["emotes"] = json!(["Ünicode \"x\"", "LUL"]),
            4 => event["message"] = Value::Null,
            5 => event["user_id"] = json!(self.dice.roll(40)),
            6 => event["timestamp"] = json!(with_offset(at_ms)),
            7 => event["timestamp"] = json!(iso(at_ms).replace('Z', "999Z")),
            _ => {}
        }
        event
    }

    pub fn watches(&mut self, stream: &str, at_ms: i64, disorder_ms: u64) -> Value {
        let at_ms = at_ms - self.dice.roll(disorder_ms + 1) as i64;
        let mut event = viewer(stream, 100 + self.dice.roll(900) as i64, at_ms);
        if self.dice.roll(20) == 0 {
            event["viewer_count"] = Value::Null;
        }
        event
    }
}

fn with_offset(at_ms: i64) -> String {
    let zone = chrono::FixedOffset::east_opt(5 * 3_600 + 1_800).expect("a zone");
    DateTime::from_timestamp_millis(at_ms).expect("a time").with_timezone(&zone).to_rfc3339()
}

/// Writes to both topics, from one thread.
pub struct Pen {
    pub chat: Writer,
    pub viewer: Writer,
}

impl Pen {
    pub fn new(brokers: &str, topics: [&str; 2]) -> Pen {
        // Each message once and in order, whatever becomes of the broker meanwhile.
        let settings = [("enable.idempotence", "true"), ("reconnect.backoff.max.ms", "200"), ("linger.ms", "5")];
        Pen { chat: Writer::with(brokers, topics[0], &settings), viewer: Writer::with(brokers, topics[1], &settings) }
    }

    pub fn chat(&self, partition: i32, event: &Value) {
        self.chat.send(&raw(partition, event["stream_id"].as_str().unwrap_or_default(), event));
    }

    pub fn viewer(&self, partition: i32, event: &Value) {
        self.viewer.send(&raw(partition, event["stream_id"].as_str().unwrap_or_default(), event));
    }

    pub fn flush(&self) {
        self.chat.flush();
        self.viewer.flush();
    }
}

/// Whose time the events of a [`Load`] are of.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The present.
    Wall,
    /// The past, so much of it in each tick.
    Past { step_ms: i64 },
}

/// What a load brings beside events in their order.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Copies, and records that are no events.
    pub junk: AtomicBool,
    /// Events of the day before, of the stream `ancient`.
    pub ancient: AtomicBool,
}

/// The watermark that they met, of all of these on a topic, for the oracle.
pub fn ancients(chat: &[Message]) -> HashMap<Position, i64> {
    let mark = b"\"ancient\"";
    let is_ancient = |value: &Vec<u8>| value.windows(mark.len()).any(|window| window == mark);
    let ancient = chat.iter().filter(|message| message.value.as_ref().is_some_and(is_ancient));
    ancient.map(|message| ((0, message.partition, message.offset), i64::MAX)).collect()
}

/// A producer that goes on until it is stopped, whatever happens: three streams, each in a partition of its
/// own; the first has spikes.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub trouble: Arc<Trouble>,
    thread: JoinHandle<()>,
}

const TICK: Duration = Duration::from_millis(10);
const DISORDER_MS: u64 = 1_500;

impl Load {
    pub fn start(brokers: &str, topics: [&str; 2], clock: Clock, seed: u64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let trouble = Arc::new(Trouble::default());
        let (pen, stopped, troubles) = (Pen::new(brokers, topics), stop.clone(), trouble.clone());
        let thread = std::thread::spawn(move || {
            let mut crowd = Crowd::new("load", seed);
            let mut due = Instant::now();
            for tick in 0_i64.. {
                if stopped.load(SeqCst) {
                    return pen.flush();
                }
                let at_ms = match clock {
                    Clock::Wall => chrono::Utc::now().timestamp_millis(),
                    Clock::Past { step_ms } => MONTH_END_MS + tick * step_ms,
                };
                write(&pen, &mut crowd, tick, at_ms, &troubles);
                due += TICK;
                // A rate, not a wait. What the machine held up is not caught up on.
                match due.checked_duration_since(Instant::now()) {
                    Some(early) => std::thread::sleep(early),
                    None => due = Instant::now(),
                }
            }
        });
        Load { stop, trouble, thread }
    }

    /// Returns when all is delivered.
    pub fn stop(self) {
        self.stop.store(true, SeqCst);
        self.thread.join().expect("the producer");
    }
}

fn write(pen: &Pen, crowd: &mut Crowd, tick: i64, at_ms: i64, trouble: &Trouble) {
    let second = at_ms.div_euclid(1_000);
    for partition in 0..3 {
        let stream = format!("s{partition}");
        let times = if partition == 0 && second.rem_euclid(60) >= 57 { 10 } else { 1 };
        for _ in 0..times {
            let event = crowd.says(&stream, at_ms, DISORDER_MS);
            pen.chat(partition, &event);
            if trouble.junk.load(SeqCst) && crowd.dice.roll(15) == 0 {
                pen.chat(partition, &event);
            }
        }
        if tick % 5 == i64::from(partition) {
            pen.viewer(partition, &crowd.watches(&stream, at_ms, DISORDER_MS));
        }
    }
    if trouble.junk.load(SeqCst) && tick % 11 == 0 {
        let junk = [&b"not json"[..], b"", b"{\"stream_id\":\"s0\"}", b"\xff\xfe", b"{\"timestamp\":1}"];
        let value = Some(junk[crowd.dice.roll(junk.len() as u64) as usize].to_vec());
        pen.chat.send(&Raw { partition: (tick % 3) as i32, value, ..Raw::default() });
    }
    if trouble.ancient.load(SeqCst) && tick % 23 == 0 {
        pen.chat((tick % 3) as i32, &crowd.says("ancient", MONTH_END_MS - 86_400_000, 5_000));
    }
}
