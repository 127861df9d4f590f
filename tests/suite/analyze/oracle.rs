//! What the tables must hold, by plain recomputation from the topics' records: for each window, the
//! events that fall into it. It shares no code with the stage.

use crate::harness::kafka::Message;
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Mutex, OnceLock},
};
use vader_parity::SentimentIntensityAnalyzer;

/// The words that count as emotes where an event has no field of them.
pub const EMOTES: [&str; 8] = ["Kappa", "PogChamp", "LUL", "KEKW", "monkaS", "4Head", "BibleThump", "Clap"];
const TOP: usize = 5;
const LONGEST_EMOTE: usize = 256;

/// Input (0: chat, 1: viewer), partition, offset.
pub type Position = (usize, i32, i64);

/// What decides about windows.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub window_ms: i64,
    pub slide_ms: i64,
}

impl Span {
    /// The starts of the windows that hold a time, the newest first.
    pub fn starts(self, at_ms: i64) -> impl Iterator<Item = i64> {
        let newest = at_ms.div_euclid(self.slide_ms) * self.slide_ms;
        (0..).map(move |back| newest - back * self.slide_ms).take_while(move |start| start + self.window_ms > at_ms)
    }
}

/// A row of the output table, the columns that a test compares.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    pub chat_count: i64,
    pub unique_chatters: i64,
    pub avg_sentiment: Option<f64>,
    pub positive_count: i64,
    pub negative_count: i64,
    pub top_emotes: Vec<String>,
    pub emote_counts: BTreeMap<String, i64>,
    pub chat_rate: f64,
    pub avg_viewers: Option<f64>,
    pub approximate: bool,
}

impl Row {
    /// Equal, floats within what their decimal text and the order of additions leave open.
    pub fn is_same(&self, other: &Row) -> bool {
        let near = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(1.0),
            (a, b) => a.is_none() && b.is_none(),
        };
        let exact = |row: &Row| Row { avg_sentiment: None, chat_rate: 0.0, avg_viewers: None, ..row.clone() };
        near(self.avg_sentiment, other.avg_sentiment)
            && near(Some(self.chat_rate), Some(other.chat_rate))
            && near(self.avg_viewers, other.avg_viewers)
            && exact(self) == exact(other)
    }
}

pub type Rows = BTreeMap<(String, i64), Row>;

/// An event as this file reads it.
#[derive(Debug, Clone)]
struct Event {
    stream: String,
    at_ms: i64,
    fields: Map<String, Value>,
}

/// The records of both topics, and how they are to be taken.
pub struct Oracle<'a> {
    pub chat: &'a [Message],
    pub viewer: &'a [Message],
    /// Events at or after this time are no events.
    pub future_from_ms: i64,
    /// Of late events: the watermark that they met. Windows that end by then miss them.
    pub met_watermark: HashMap<Position, i64>,
    /// Records that are known to be none, beside those that cannot be read.
    pub not_events: &'a dyn Fn(Position) -> bool,
}

#[derive(Debug, Default)]
pub struct Expected {
    pub rows: Rows,
    pub dead: BTreeSet<Position>,
    pub duplicates: BTreeSet<Position>,
    /// Events that no window or not each of their windows holds.
    pub late: BTreeSet<Position>,
    /// How many events each window misses, by input and start.
    pub missed: BTreeMap<(usize, i64), i64>,
}

impl<'a> Oracle<'a> {
    pub fn new(chat: &'a [Message], viewer: &'a [Message]) -> Self {
        let now_ms = chrono::Utc::now().timestamp_millis();
        Oracle {
            chat,
            viewer,
            future_from_ms: now_ms + 3_600_000,
            met_watermark: HashMap::new(),
            not_events: &|_| false,
        }
    }

    /// Each event counts in each of its windows, but for copies of an id and for what came late.
    pub fn expected(&self, span: Span, lateness_ms: i64) -> Expected {
        let mut expected = Expected::default();
        let mut ids: HashSet<String> = HashSet::new();
        let mut windows: BTreeMap<(String, i64), (Vec<Event>, Vec<Event>)> = BTreeMap::new();
        for (input, messages) in [(0, self.chat), (1, self.viewer)] {
            for message in messages {
                let position = (input, message.partition, message.offset);
                let event = (!(self.not_events)(position)).then(|| read(message)).flatten();
                let Some(event) = event.filter(|event| event.at_ms < self.future_from_ms) else {
                    expected.dead.insert(position);
                    continue;
                };
                let met = self.met_watermark.get(&position).copied().unwrap_or(i64::MIN);
                let (open, closed): (Vec<i64>, Vec<i64>) =
                    span.starts(event.at_ms).partition(|start| start + span.window_ms + lateness_ms > met);
                let id = event.fields.get("event_id").and_then(Value::as_str).filter(|_| input == 0);
                if !open.is_empty() && id.is_some_and(|id| !ids.insert(id.to_owned())) {
                    expected.duplicates.insert(position);
                    continue;
                }
                if !closed.is_empty() {
                    expected.late.insert(position);
                }
                closed.into_iter().for_each(|start| *expected.missed.entry((input, start)).or_default() += 1);
                for start in open {
                    let (chat, viewer) = windows.entry((event.stream.clone(), start)).or_default();
                    if input == 0 { chat } else { viewer }.push(event.clone());
                }
            }
        }
        for (place, (chat, viewer)) in windows {
            if !chat.is_empty() {
                expected.rows.insert(place, row(&chat, &viewer, span));
            }
        }
        expected
    }
}

/// None where the record is no event.
fn read(message: &Message) -> Option<Event> {
    let Value::Object(fields) = serde_json::from_slice(message.value.as_deref()?).ok()? else { return None };
    let stream = match fields.get("stream_id")? {
        Value::String(stream) => stream.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let at_ms = milliseconds(fields.get("timestamp")?.as_str()?)?;
    Some(Event { stream, at_ms, fields })
}

/// The whole milliseconds of an ISO-8601 text; what is finer is cut off.
fn milliseconds(text: &str) -> Option<i64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.timestamp_micros().div_euclid(1_000))
}

fn row(chat: &[Event], viewer: &[Event], span: Span) -> Row {
    let text = |event: &Event, name: &str| event.fields.get(name).and_then(Value::as_str).map(str::to_owned);
    let users: HashSet<String> = chat
        .iter()
        .filter_map(|event| match event.fields.get("user_id")? {
            Value::String(user) => Some(user.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
        .collect();
    let scores: Vec<f64> =
        chat.iter().filter_map(|event| text(event, "message")).map(|line| sentiment(&line)).collect();
    let mut emotes: BTreeMap<String, i64> = BTreeMap::new();
    let mut approximate = false;
    for emote in chat.iter().flat_map(emotes_of) {
        // One of such a length counts under its beginning.
        let kept = (0..=LONGEST_EMOTE.min(emote.len())).rev().find(|end| emote.is_char_boundary(*end)).unwrap_or(0);
        approximate |= kept < emote.len();
        *emotes.entry(emote[..kept].to_owned()).or_default() += 1;
    }
    let mut ranked: Vec<(&String, &i64)> = emotes.iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(a.1).then(a.0.as_bytes().cmp(b.0.as_bytes())));
    let top = ranked.into_iter().take(TOP).map(|(emote, _)| storable(emote)).collect();
    let mut stored: BTreeMap<String, i64> = BTreeMap::new();
    emotes.iter().for_each(|(emote, count)| *stored.entry(storable(emote)).or_default() += count);
    let viewers: Vec<f64> = viewer
        .iter()
        .filter_map(|event| event.fields.get("viewer_count").filter(|count| !count.is_null()))
        .map(|count| count.to_string().parse().unwrap_or_else(|_| panic!("{count} is no number")))
        .collect();
    let mean = |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let count = |is_wanted: &dyn Fn(f64) -> bool| scores.iter().filter(|score| is_wanted(**score)).count() as i64;
    Row {
        chat_count: chat.len() as i64,
        unique_chatters: users.len() as i64,
        avg_sentiment: mean(&scores),
        positive_count: count(&|score| score >= 0.05),
        negative_count: count(&|score| score <= -0.05),
        top_emotes: top,
        emote_counts: stored,
        chat_rate: chat.len() as f64 / (span.window_ms as f64 / 1e3),
        avg_viewers: mean(&viewers),
        approximate,
    }
}

/// Of the field; where it is absent or null, the words of the message that are in the set.
fn emotes_of(event: &Event) -> Vec<String> {
    match event.fields.get("emotes") {
        Some(Value::Array(items)) => items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
        Some(Value::String(one)) => vec![one.clone()],
        _ => {
            let message = event.fields.get("message").and_then(Value::as_str).unwrap_or_default();
            message.split_whitespace().filter(|word| EMOTES.contains(word)).map(str::to_owned).collect()
        }
    }
}

/// PostgreSQL has no U+0000.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// By the reference; the tests' lines repeat, so that each is scored once.
fn sentiment(line: &str) -> f64 {
    static REFERENCE: OnceLock<SentimentIntensityAnalyzer> = OnceLock::new();
    static SCORES: Mutex<Option<HashMap<String, f64>>> = Mutex::new(None);
    let mut scores = SCORES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let scores = scores.get_or_insert_default();
    if let Some(score) = scores.get(line) {
        return *score;
    }
    let score = REFERENCE.get_or_init(SentimentIntensityAnalyzer::new).polarity_scores(line).compound;
    scores.insert(line.to_owned(), score);
    score
}

/// The first differences between two tables, for people.
pub fn differences(found: &Rows, expected: &Rows) -> Vec<String> {
    let mut told = Vec::new();
    for (place, row) in expected {
        match found.get(place) {
            None => told.push(format!("{place:?} is missing; it is to be {row:?}")),
            Some(there) if !there.is_same(row) => told.push(format!("{place:?} is {there:?}\n   not {row:?}")),
            Some(_) => {}
        }
    }
    told.extend(
        found
            .iter()
            .filter(|(place, _)| !expected.contains_key(*place))
            .map(|(place, row)| format!("{place:?} is there and should not be: {row:?}")),
    );
    told
}

#[test]
fn the_comparison_bites() {
    let row = Row {
        chat_count: 3,
        unique_chatters: 2,
        avg_sentiment: Some(0.25),
        positive_count: 1,
        negative_count: 1,
        top_emotes: vec!["Kappa".to_owned()],
        emote_counts: BTreeMap::from([("Kappa".to_owned(), 2)]),
        chat_rate: 1.5,
        avg_viewers: None,
        approximate: false,
    };
    let place = ("s1".to_owned(), 1_000);
    let expected = Rows::from([(place.clone(), row.clone())]);
    assert_eq!(differences(&expected, &expected), Vec::<String>::new());
    let others: [Row; 10] = [
        Row { chat_count: 4, ..row.clone() },
        Row { unique_chatters: 3, ..row.clone() },
        Row { avg_sentiment: Some(0.2501), ..row.clone() },
        Row { avg_sentiment: None, ..row.clone() },
        Row { positive_count: 0, ..row.clone() },
        Row { negative_count: 0, ..row.clone() },
        Row { top_emotes: Vec::new(), ..row.clone() },
        Row { emote_counts: BTreeMap::new(), ..row.clone() },
        Row { avg_viewers: Some(0.0), ..row.clone() },
        Row { approximate: true, ..row.clone() },
    ];
    for other in others {
        assert_eq!(differences(&Rows::from([(place.clone(), other.clone())]), &expected).len(), 1, "{other:?}");
    }
    assert_eq!(differences(&Rows::new(), &expected).len(), 1, "missing");
    assert_eq!(differences(&expected, &Rows::new()).len(), 1, "too many");
}
