//! A record's payload to an event: key, time, id and the fields that the job measures, in one pass
//! over its bytes. Pure.
//!
//! What does not fit is a dead letter: text that is no JSON object, no key, no time, a field of
//! another type than its measures take. A field that is null or absent is measured as null.

use super::{
    sentiment::{Analyzer, Scratch as SentimentScratch},
    window::{Event, Field, FieldSlot, Function, Plan, Reading},
};
use crate::{
    config::model::{Input, Tokens},
    record::{
        json::{Scanner, Scratch, Span, Token},
        number,
        object::{self, Fields},
        reason::{Reason, Rejection},
        time,
    },
};
use smallvec::SmallVec;
use std::{collections::HashSet, sync::Arc};

/// Longest key: it stands in an index of PostgreSQL, whose entries end at 2,704 bytes.
const LONGEST_KEY: usize = 1_024;

/// What a measured field may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    /// Also whole numbers: what is counted apart is told by its text.
    Text,
    /// A list of texts, or a single one.
    List,
    Sentiment,
}

/// A measured value: of which wanted field, and how.
struct Slot {
    wanted: usize,
    kind: Kind,
    /// Where the field is absent: the words of another one that are in the set.
    tokens: Option<(usize, HashSet<String>)>,
}

/// Decodes the records of one input, one after another, reusing its buffers.
pub struct Decoder {
    /// Names of the fields that are looked at.
    wanted: Vec<String>,
    fields: Fields,
    key: usize,
    timestamp: usize,
    id: Option<usize>,
    slots: Vec<Slot>,
    found: Vec<Option<Token>>,
    scratch: Scratch,
    inner: Scratch,
    sentiment: Arc<Analyzer>,
    sentiment_scratch: SentimentScratch,
}

fn reject<T>(reason: Reason, detail: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection::new(reason, detail))
}

fn broken<T>(detail: impl Into<String>) -> Result<T, Rejection> {
    reject(Reason::SchemaValidationFailed, detail)
}

impl Decoder {
    /// Of the input with number `index` of the plan.
    pub fn new(plan: &Plan, index: usize, input: &Input, sentiment: Arc<Analyzer>) -> Decoder {
        let mut wanted = Vec::new();
        let key = want(&mut wanted, &input.key);
        let timestamp = want(&mut wanted, &input.timestamp);
        let id = input.id.as_ref().map(|id| want(&mut wanted, id));
        let slots = plan.fields(index).iter().map(|slot| {
            let kind = kind_of(plan, index, slot);
            let tokens = input.tokens.iter().find(|tokens| kind == Kind::List && tokens.field == slot.field);
            Slot {
                wanted: want(&mut wanted, &slot.field),
                kind,
                tokens: tokens
                    .map(|Tokens { from, words, .. }| (want(&mut wanted, from), words.iter().cloned().collect())),
            }
        });
        let slots: Vec<Slot> = slots.collect();
        Decoder {
            found: vec![None; wanted.len()],
            fields: Fields::new(wanted.iter().map(String::as_str)),
            wanted,
            key,
            timestamp,
            id,
            slots,
            scratch: Scratch::default(),
            inner: Scratch::default(),
            sentiment,
            sentiment_scratch: SentimentScratch::default(),
        }
    }

    /// Hands the event of a record to `take`, or says why it is none. `None` is a tombstone.
    pub fn decode<T>(&mut self, payload: Option<&[u8]>, take: impl FnOnce(&Event<'_>) -> T) -> Result<T, Rejection> {
        self.found.fill(None);
        let found = &mut self.found;
        let payload = object::read(&self.fields, payload, &mut self.scratch, |member, _, _| {
            member.field.map_or(true, |index| found[index].replace(member.token).is_none())
        })?;
        self.event(payload, take)
    }

    fn event<T>(&mut self, payload: &[u8], take: impl FnOnce(&Event<'_>) -> T) -> Result<T, Rejection> {
        let scratch = &self.scratch.bytes;
        let text = |span: Span| str::from_utf8(span.of(payload, scratch)).unwrap_or_default();
        let name = |index: usize| self.wanted[index].as_str();
        let key = match self.found[self.key] {
            Some(Token::Text(span)) => text(span),
            Some(Token::Number(span)) if number::whole(span.of(payload, scratch)).is_ok() => text(span),
            None | Some(Token::Null) => {
                return reject(Reason::NullKey, format!("{:?} is null or absent", name(self.key)));
            }
            Some(token) => return broken(format!("{:?} is {}, not a text", name(self.key), token.text())),
        };
        if key.len() > LONGEST_KEY {
            return broken(format!("{:?} is longer than {LONGEST_KEY} bytes", name(self.key)));
        }
        if key.contains('\0') {
            return broken(format!("{:?} holds a NUL character, which PostgreSQL cannot keep", name(self.key)));
        }
        let timestamp_ms = match self.found[self.timestamp] {
            Some(Token::Text(span)) => match time::timestamp(span.of(payload, scratch), false) {
                Ok(micros) => micros.div_euclid(1_000),
                Err(error) => {
                    return reject(Reason::InvalidTimestamp, format!("{:?} {}", name(self.timestamp), error.text()));
                }
            },
            None | Some(Token::Null) => {
                let detail = format!("{:?} is null or absent", name(self.timestamp));
                return reject(Reason::MissingRequiredField, detail);
            }
            Some(token) => {
                let detail = format!("{:?} is {}, not a text", name(self.timestamp), token.text());
                return reject(Reason::InvalidTimestamp, detail);
            }
        };
        let id = match self.id.map(|index| (index, self.found[index])) {
            None | Some((_, None | Some(Token::Null))) => None,
            Some((_, Some(Token::Text(span) | Token::Number(span)))) => Some(span.of(payload, scratch)),
            Some((index, Some(token))) => {
                return broken(format!("{:?} is {}, not a text", name(index), token.text()));
            }
        };
        let lists = lists(&self.slots, &self.found, payload, scratch, &mut self.inner);
        let lists = lists.map_err(|index| {
            Rejection::new(Reason::SchemaValidationFailed, format!("{:?} is not a list of texts", name(index)))
        })?;
        let inner = &self.inner.bytes;
        // Most lists are short; they are kept until the event is taken.
        let texts: SmallVec<[SmallVec<[&str; 8]>; 2]> =
            lists.iter().map(|list| list.iter().map(|word| word.text(payload, scratch, inner)).collect()).collect();
        let mut next_list = 0;
        let mut values: SmallVec<[Field<'_>; 8]> = SmallVec::new();
        for slot in &self.slots {
            let token = self.found[slot.wanted];
            let wrong = |wanted: &str| {
                let found = token.map_or("absent", Token::text);
                broken(format!("{:?} is {found}, not {wanted}", name(slot.wanted)))
            };
            values.push(match (slot.kind, token) {
                (Kind::List, _) => {
                    next_list += 1;
                    match (token, texts[next_list - 1].as_slice()) {
                        (None | Some(Token::Null), []) => Field::Null,
                        (_, texts) => Field::TextList(texts),
                    }
                }
                (_, None | Some(Token::Null)) => Field::Null,
                (Kind::Number, Some(Token::Number(span))) => {
                    let digits = span.of(payload, scratch);
                    match number::whole(digits) {
                        Ok(whole) => Field::Integer(whole),
                        Err(_) => match number::float(text(span)) {
                            Ok(float) => Field::Float(float),
                            Err(_) => return broken(format!("{:?} does not fit a double", name(slot.wanted))),
                        },
                    }
                }
                (Kind::Number, _) => return wrong("a number"),
                (Kind::Text, Some(Token::Text(span) | Token::Number(span))) => Field::Text(text(span)),
                (Kind::Text, _) => return wrong("a text"),
                (Kind::Sentiment, Some(Token::Text(span))) => {
                    Field::Float(self.sentiment.score(text(span), &mut self.sentiment_scratch))
                }
                (Kind::Sentiment, _) => return wrong("a text"),
            });
        }
        Ok(take(&Event { key, timestamp_ms, id, values: &values }))
    }
}

/// A word of a list: in the record, or in the buffer of the list's own escapes.
#[derive(Clone, Copy)]
struct Word {
    span: Span,
    /// Offset of the list's text within the record.
    base: u32,
    is_inner: bool,
}

impl Word {
    fn text<'a>(self, payload: &'a [u8], scratch: &'a [u8], inner: &'a [u8]) -> &'a str {
        let Span { start, length, scratch: is_escaped } = self.span;
        let bytes = match (self.is_inner, is_escaped) {
            (true, true) => &inner[start as usize..][..length as usize],
            (true, false) => &payload[(self.base + start) as usize..][..length as usize],
            (false, _) => self.span.of(payload, scratch),
        };
        str::from_utf8(bytes).unwrap_or_default()
    }
}

type Words = SmallVec<[Word; 8]>;

/// The words of each list slot, in the order of the slots; the error is the field that is no list.
fn lists(
    slots: &[Slot],
    found: &[Option<Token>],
    payload: &[u8],
    scratch: &[u8],
    inner: &mut Scratch,
) -> Result<SmallVec<[Words; 2]>, usize> {
    let mut lists = SmallVec::new();
    inner.bytes.clear();
    for slot in slots.iter().filter(|slot| slot.kind == Kind::List) {
        let plain = |span| Word { span, base: 0, is_inner: false };
        lists.push(match (found[slot.wanted], &slot.tokens) {
            (None | Some(Token::Null), None) => Words::new(),
            (None | Some(Token::Null), Some((from, words))) => match found[*from] {
                Some(Token::Text(span)) => words_of(span, payload, scratch, words).map(plain).collect(),
                _ => Words::new(),
            },
            (Some(Token::Text(span)), _) => std::iter::once(plain(span)).collect(),
            (Some(Token::Nested(span)), _) => elements(span, payload, inner).ok_or(slot.wanted)?,
            _ => return Err(slot.wanted),
        });
    }
    Ok(lists)
}

/// The words of a text that are in the set, each as often as it stands there.
fn words_of<'a>(
    span: Span,
    payload: &'a [u8],
    scratch: &'a [u8],
    words: &'a HashSet<String>,
) -> impl Iterator<Item = Span> + 'a {
    let text = str::from_utf8(span.of(payload, scratch)).unwrap_or_default();
    text.split_whitespace().filter(|word| words.contains(*word)).map(move |word| Span {
        start: span.start + (word.as_ptr() as usize - text.as_ptr() as usize) as u32,
        length: word.len() as u32,
        scratch: span.scratch,
    })
}

/// The texts of an array, which the scanner has checked to be JSON. `None` where it is no array of
/// texts; nulls in it are passed over.
fn elements(list: Span, payload: &[u8], inner: &mut Scratch) -> Option<Words> {
    let text = &payload[list.start as usize..][..list.length as usize];
    let mut words = Words::new();
    let mut scanner = Scanner::continuing(text, inner);
    if !scanner.take(b"[") {
        return None;
    }
    loop {
        scanner.skip_space();
        match scanner.peek()? {
            b']' => return Some(words),
            b',' => scanner.expect(b',').ok()?,
            _ => match scanner.value(2).ok()? {
                Token::Text(span) => words.push(Word { span, base: list.start, is_inner: true }),
                Token::Null => {}
                _ => return None,
            },
        }
    }
}

fn want(wanted: &mut Vec<String>, name: &str) -> usize {
    wanted.iter().position(|wanted| wanted == name).unwrap_or_else(|| {
        wanted.push(name.to_owned());
        wanted.len() - 1
    })
}

/// What the measures of a field take. Where they disagree, the one that takes less decides.
fn kind_of(plan: &Plan, input: usize, slot: &FieldSlot) -> Kind {
    if slot.reading == Reading::Sentiment {
        return Kind::Sentiment;
    }
    let measures = plan.declaration().measures.iter().filter(|measure| measure.input == input);
    let mut kind = Kind::List;
    for measure in measures {
        match &measure.function {
            Function::Sum { field } | Function::Avg { field } | Function::Min { field } | Function::Max { field }
                if *field == slot.field =>
            {
                return Kind::Number;
            }
            Function::Distinct { field } if *field == slot.field => kind = Kind::Text,
            _ => {}
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::{
        sentiment::Options,
        window::{Declaration, Join, Measure},
    };

    fn decoder() -> Decoder {
        let field = |name: &str| name.to_owned();
        let functions = [
            ("count", Function::Count),
            ("users", Function::Distinct { field: field("user") }),
            ("mood", Function::SentimentAvg { field: field("text") }),
            ("top", Function::TopK { field: field("emotes"), k: 3 }),
            ("sum", Function::Sum { field: field("n") }),
        ];
        let plan = Plan::new(Declaration {
            size_ms: 1,
            slide_ms: 1,
            watermark_delay_ms: 0,
            allowed_lateness_ms: 0,
            idle_timeout_ms: 1,
            max_future_ms: 0,
            distinct_exact_limit: 1,
            counts_limit: 1,
            flush_rows_limit: 1,
            inputs: 1,
            join: Join::Left,
            measures: functions
                .into_iter()
                .map(|(column, function)| Measure { column: column.to_owned(), input: 0, function })
                .collect(),
        })
        .unwrap();
        let input = Input {
            name: field("chat"),
            topic: field("t"),
            key: field("key"),
            timestamp: field("at"),
            id: Some(field("id")),
            tokens: vec![Tokens {
                field: field("emotes"),
                from: field("text"),
                words: vec![field("Kappa"), field("LUL")],
            }],
            partitions: 1,
            replication: 1,
            retention_ms: 1,
        };
        Decoder::new(&plan, 0, &input, Arc::new(Analyzer::new(Options { emotes: false })))
    }

    /// The event of a payload as text: what is compared in the tests.
    fn event(payload: &str) -> Result<String, (Reason, String)> {
        decoder()
            .decode(Some(payload.as_bytes()), |event| {
                let id = event.id.map(|id| String::from_utf8_lossy(id).into_owned());
                format!("{} {} {id:?} {:?}", event.key, event.timestamp_ms, event.values)
            })
            .map_err(|rejection| (rejection.reason, rejection.detail))
    }

    fn reason(payload: &str) -> Reason {
        event(payload).expect_err(payload).0
    }

    #[test]
    fn an_event_has_its_fields_wherever_they_stand() {
        let expected =
            "k 1736943840123 Some(\"e1\") [Text(\"u\"), Float(0.4404), TextList([\"A\", \"é\"]), Integer(7)]";
        let orders = [
            r#"{"key":"k","at":"2025-01-15T12:24:00.123Z","id":"e1","user":"u","text":"good","emotes":["A","\u00e9"],"n":7}"#,
            r#" { "n" : 7 , "emotes":[ "A" ,null, "é" ], "other":{"key":[1]}, "text":"good","user":"u","id":"e1","at":"2025-01-15T13:24:00.123+01:00","key":"k" } "#,
        ];
        for payload in orders {
            assert_eq!(event(payload).unwrap(), expected, "{payload}");
        }
    }

    #[test]
    fn what_is_absent_or_null_is_null() {
        let expected = "5 0 None [Null, Null, Null, Null]";
        assert_eq!(event(r#"{"key":5,"at":"1970-01-01T00:00:00Z"}"#).unwrap(), expected);
        let nulls = r#"{"key":5,"at":"1970-01-01T00:00:00Z","id":null,"user":null,"text":null,"emotes":null,"n":null}"#;
        assert_eq!(event(nulls).unwrap(), expected);
    }

    #[test]
    fn a_list_that_is_absent_is_found_in_the_text() {
        let of = |text: &str, emotes: &str| {
            let event =
                event(&format!(r#"{{"key":"k","at":"1970-01-01T00:00:00Z","text":"{text}"{emotes}}}"#)).unwrap();
            event[event.find("Float").unwrap()..].split_once(", ").unwrap().1.to_owned()
        };
        assert_eq!(of("Kappa x LUL\\tKappa kappa Kappa!", ""), "TextList([\"Kappa\", \"LUL\", \"Kappa\"]), Null]");
        assert_eq!(of("none here", ""), "Null, Null]");
        assert_eq!(of("Kappa", r#","emotes":[]"#), "TextList([]), Null]");
        assert_eq!(of("Kappa", r#","emotes":["B"]"#), "TextList([\"B\"]), Null]");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_reason() {
        let with = |more: &str| format!(r#"{{"key":"k","at":"1970-01-01T00:00:00Z"{more}}}"#);
        for (payload, expected) in [
            ("", Reason::SchemaValidationFailed),
            ("[]", Reason::SchemaValidationFailed),
            ("{}", Reason::NullKey),
            (r#"{"at":"1970-01-01T00:00:00Z"}"#, Reason::NullKey),
            (r#"{"key":null,"at":"1970-01-01T00:00:00Z"}"#, Reason::NullKey),
            (r#"{"key":"k"}"#, Reason::MissingRequiredField),
            (r#"{"key":"k","at":"yesterday"}"#, Reason::InvalidTimestamp),
            (r#"{"key":"k","at":"1970-01-01T00:00:00"}"#, Reason::InvalidTimestamp),
            (r#"{"key":"k","at":5}"#, Reason::InvalidTimestamp),
            (r#"{"key":1.5,"at":"1970-01-01T00:00:00Z"}"#, Reason::SchemaValidationFailed),
            (r#"{"key":"a\u0000b","at":"1970-01-01T00:00:00Z"}"#, Reason::SchemaValidationFailed),
            (r#"{"key":"\ud800","at":"1970-01-01T00:00:00Z"}"#, Reason::SchemaValidationFailed),
            (&with(r#","key":"k""#), Reason::SchemaValidationFailed),
            (&with(r#","user":[1]"#), Reason::SchemaValidationFailed),
            (&with(r#","text":5"#), Reason::SchemaValidationFailed),
            (&with(r#","emotes":[5]"#), Reason::SchemaValidationFailed),
            (&with(r#","emotes":{"a":1}"#), Reason::SchemaValidationFailed),
            (&with(r#","emotes":true"#), Reason::SchemaValidationFailed),
            (&with(r#","n":"7""#), Reason::SchemaValidationFailed),
            (&with(r#","n":1e999"#), Reason::SchemaValidationFailed),
            (&with(r#","id":{}"#), Reason::SchemaValidationFailed),
            (
                &format!(r#"{{"key":"{}","at":"1970-01-01T00:00:00Z"}}"#, "x".repeat(1_025)),
                Reason::SchemaValidationFailed,
            ),
        ] {
            assert_eq!(reason(payload), expected, "{payload}");
        }
        assert!(decoder().decode(None, |_| ()).is_err(), "a tombstone");
        assert!(decoder().decode(Some(b"{\"key\":\"\xff\"}"), |_| ()).is_err(), "not UTF-8");
    }

    #[test]
    fn one_record_leaves_nothing_to_the_next() {
        let mut decoder = decoder();
        let full =
            br#"{"key":"k","at":"1970-01-01T00:00:00Z","id":"e","user":"u","text":"good","emotes":["\u0041"],"n":7}"#;
        for _ in 0..2 {
            decoder.decode(Some(full), |event| assert_eq!(event.values.len(), 4)).unwrap();
            let bare = br#"{"key":"k","at":"1970-01-01T00:00:00Z"}"#;
            let is_bare =
                |event: &Event<'_>| event.id.is_none() && event.values.iter().all(|value| *value == Field::Null);
            assert!(decoder.decode(Some(bare), is_bare).unwrap());
        }
    }
}
