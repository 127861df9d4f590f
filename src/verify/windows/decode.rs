//! A record's payload to an event, or the reason why it is none. Written for itself: what the stage
//! refuses or reads otherwise shows as a difference.

use super::{
    event::{Event, Text, Value},
    spec::{Field, Reading},
};
use crate::{
    analyze::sentiment::{Analyzer, Scratch as SentimentScratch},
    config::model::Input,
    record::{
        json::{JsonError, Scanner, Scratch, Span, Token},
        number,
        reason::{Reason, Rejection},
        time,
    },
};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Longest key.
const KEY_BYTES: usize = 1_024;

/// Decodes the records of one input.
pub struct Decoder<'a> {
    number: u16,
    input: &'a Input,
    fields: &'a [Field],
    sentiment: Arc<Analyzer>,
    sentiment_scratch: SentimentScratch,
    scratch: Scratch,
    found: Vec<(Span, Token)>,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    pub partition: i32,
    pub offset: i64,
}

fn no_event(reason: Reason, detail: impl Into<String>) -> Rejection {
    Rejection::new(reason, detail)
}

fn unfit(detail: impl Into<String>) -> Rejection {
    Rejection::new(Reason::SchemaValidationFailed, detail)
}

impl<'a> Decoder<'a> {
    pub fn new(number: usize, input: &'a Input, fields: &'a [Field], sentiment: Arc<Analyzer>) -> Decoder<'a> {
        let (scratch, sentiment_scratch) = (Scratch::default(), SentimentScratch::default());
        Decoder { number: number as u16, input, fields, sentiment, sentiment_scratch, scratch, found: Vec::new() }
    }

    pub fn decode(&mut self, payload: Option<&[u8]>, at: Position) -> Result<Event, Rejection> {
        let payload = payload.ok_or_else(|| unfit("no value"))?;
        if u32::try_from(payload.len()).is_err() || str::from_utf8(payload).is_err() {
            return Err(unfit("no UTF-8 text"));
        }
        self.read(payload).map_err(|error| unfit(format!("{} (at byte {})", error.problem.text(), error.at)))?;
        let key = self.key(payload)?;
        let at_ms = self.time(payload)?;
        let id = match self.input.id.as_deref().and_then(|name| self.token(payload, name)) {
            None | Some(Token::Null) => None,
            Some(Token::Text(span) | Token::Number(span)) => Some(xxh3_64(self.bytes(payload, span))),
            Some(_) => return Err(unfit("the id is no text")),
        };
        let mut values = Vec::with_capacity(self.fields.len());
        for field in self.fields {
            values.push(self.value(payload, field)?);
        }
        Ok(Event { at_ms, input: self.number, partition: at.partition, offset: at.offset, id, key, values })
    }

    /// Finds the fields of the object.
    fn read(&mut self, payload: &[u8]) -> Result<(), JsonError> {
        self.found.clear();
        let mut scanner = Scanner::new(payload, &mut self.scratch);
        scanner.skip_space();
        scanner.expect(b'{')?;
        scanner.skip_space();
        while scanner.peek() != Some(b'}') {
            let key = scanner.key()?;
            let token = scanner.value(1)?;
            self.found.push((key, token));
            scanner.remember(key);
            scanner.skip_space();
            if scanner.peek() == Some(b'}') {
                break;
            }
            scanner.expect(b',')?;
            scanner.skip_space();
            if scanner.peek() == Some(b'}') {
                // A comma, and nothing after it.
                scanner.key()?;
            }
        }
        scanner.expect(b'}')?;
        scanner.check_keys(0)?;
        scanner.end()
    }

    fn bytes<'b>(&'b self, payload: &'b [u8], span: Span) -> &'b [u8] {
        span.of(payload, &self.scratch.bytes)
    }

    fn text<'b>(&'b self, payload: &'b [u8], span: Span) -> &'b str {
        str::from_utf8(self.bytes(payload, span)).unwrap_or_default()
    }

    fn token(&self, payload: &[u8], name: &str) -> Option<Token> {
        let is_it = |(key, _): &&(Span, Token)| self.bytes(payload, *key) == name.as_bytes();
        self.found.iter().find(is_it).map(|(_, token)| *token)
    }

    fn key(&self, payload: &[u8]) -> Result<String, Rejection> {
        let key = match self.token(payload, &self.input.key) {
            Some(Token::Text(span)) => self.text(payload, span),
            Some(Token::Number(span)) if number::whole(self.bytes(payload, span)).is_ok() => self.text(payload, span),
            None | Some(Token::Null) => return Err(no_event(Reason::NullKey, "no key")),
            Some(_) => return Err(unfit("the key is no text")),
        };
        if key.len() > KEY_BYTES || key.contains('\0') {
            return Err(unfit("the key cannot be kept"));
        }
        Ok(key.to_owned())
    }

    fn time(&self, payload: &[u8]) -> Result<i64, Rejection> {
        match self.token(payload, &self.input.timestamp) {
            None | Some(Token::Null) => Err(no_event(Reason::MissingRequiredField, "no time")),
            Some(Token::Text(span)) => match time::timestamp(self.bytes(payload, span), false) {
                Ok(micros) => Ok(micros.div_euclid(1_000)),
                Err(error) => Err(no_event(Reason::InvalidTimestamp, format!("the time {}", error.text()))),
            },
            Some(_) => Err(no_event(Reason::InvalidTimestamp, "the time is no text")),
        }
    }

    fn value(&mut self, payload: &[u8], field: &Field) -> Result<Value, Rejection> {
        let token = self.token(payload, &field.name);
        let wrong = |wanted: &str| unfit(format!("{:?} is not {wanted}", field.name));
        let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|text| Text::new(text, field.is_tallied)).collect());
        Ok(match (field.reading, token) {
            (Reading::List, None | Some(Token::Null)) => match &field.tokens {
                None => Value::Null,
                Some((from, words)) => match self.token(payload, from) {
                    Some(Token::Text(span)) => {
                        let text = self.text(payload, span);
                        texts(&text.split_whitespace().filter(|word| words.contains(*word)).collect::<Vec<_>>())
                    }
                    _ => Value::Null,
                },
            },
            (_, None | Some(Token::Null)) => Value::Null,
            (Reading::List, Some(Token::Text(span))) => texts(&[self.text(payload, span)]),
            (Reading::List, Some(Token::Nested(span))) => {
                // The scanner has checked it; here it is read by another hand.
                let list: Option<Vec<Option<String>>> = serde_json::from_slice(self.bytes(payload, span)).ok();
                let list = list.ok_or_else(|| wrong("a list of texts"))?;
                texts(&list.iter().flatten().map(String::as_str).collect::<Vec<_>>())
            }
            (Reading::Text, Some(Token::Text(span) | Token::Number(span))) => texts(&[self.text(payload, span)]),
            (Reading::Number, Some(Token::Number(span))) => match number::whole(self.bytes(payload, span)) {
                Ok(whole) => Value::Integer(whole),
                Err(_) => {
                    let float = number::float(self.text(payload, span));
                    Value::Float(float.map_err(|_| wrong("a number that a double holds"))?)
                }
            },
            (Reading::Sentiment, Some(Token::Text(span))) => {
                let line = str::from_utf8(span.of(payload, &self.scratch.bytes)).unwrap_or_default();
                let score = self.sentiment.score(line, &mut self.sentiment_scratch);
                Value::Score((score * 1e4).round() as i32)
            }
            _ => return Err(wrong("what its measures take")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::spec::{
            Spec,
            tests::{field, job},
        },
        *,
    };
    use crate::{
        analyze::sentiment::Options,
        config::model::{Function, Tokens},
    };

    fn decoded(payload: &str) -> Result<Event, Reason> {
        let mut job = job(&[
            (0, Function::Distinct { field: field("u") }),
            (0, Function::SentimentAvg { field: field("m") }),
            (0, Function::TopK { field: field("e"), k: 5 }),
            (0, Function::Avg { field: field("n") }),
        ]);
        let words = vec!["Kappa".to_owned(), "LUL".to_owned()];
        job.inputs[0].tokens.push(Tokens { field: field("e"), from: field("m"), words });
        let spec = Spec::new(&job);
        let sentiment = Arc::new(Analyzer::new(Options { emotes: true }));
        let mut decoder = Decoder::new(0, &job.inputs[0], &spec.fields[0], sentiment);
        let position = Position { partition: 3, offset: 7 };
        decoder.decode(Some(payload.as_bytes()), position).map_err(|rejection| rejection.reason)
    }

    fn shown(value: &Value) -> Vec<&str> {
        let Value::Texts(texts) = value else { panic!("{value:?}") };
        texts.iter().map(|text| text.shown.as_str()).collect()
    }

    #[test]
    fn an_event_has_all_that_is_measured() {
        let event = decoded(
            r#"{"x":{"a":[1]},"id":"7","k":"s1","t":"1970-01-01T00:00:01.5Z","u":12,"m":"good Kappa x Kappa","n":1.50,"e":null}"#,
        )
        .unwrap();
        assert_eq!((event.at_ms, event.partition, event.offset, event.key.as_str()), (1_500, 3, 7, "s1"));
        assert!(event.id.is_some());
        assert_eq!(event.values[0], Value::Texts(vec![Text::new("12", false)]));
        assert!(matches!(event.values[1], Value::Score(steps) if steps > 500));
        assert_eq!(shown(&event.values[2]), ["Kappa", "Kappa"]);
        assert_eq!(event.values[3], Value::Float(1.5));
        let event = decoded(r#"{"k":5,"t":"1970-01-01T00:00:00Z","e":["b\u0041",null,"c"],"m":"Kappa"}"#).unwrap();
        assert_eq!((event.key.as_str(), event.id), ("5", None));
        assert_eq!(shown(&event.values[2]), ["bA", "c"]);
        assert_eq!((&event.values[0], &event.values[3]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn what_is_no_event_has_its_reason() {
        use Reason::{InvalidTimestamp, MissingRequiredField, NullKey, SchemaValidationFailed};
        let time = r#""t":"1970-01-01T00:00:00Z""#;
        for (payload, reason) in [
            ("".to_owned(), SchemaValidationFailed),
            ("[]".to_owned(), SchemaValidationFailed),
            ("{\"k\":1,}".to_owned(), SchemaValidationFailed),
            (format!("{{\"k\":\"a\",{time}}} x"), SchemaValidationFailed),
            (format!("{{\"k\":\"a\",\"k\":\"a\",{time}}}"), SchemaValidationFailed),
            (format!("{{\"k\":\"a\",\"y\":1,\"\\u0079\":1,{time}}}"), SchemaValidationFailed),
            (format!("{{{time}}}"), NullKey),
            (format!("{{\"k\":1.5,{time}}}"), SchemaValidationFailed),
            (format!("{{\"k\":\"a\\u0000\",{time}}}"), SchemaValidationFailed),
            (format!("{{\"k\":\"{}\",{time}}}", "x".repeat(1_025)), SchemaValidationFailed),
            ("{\"k\":\"a\"}".to_owned(), MissingRequiredField),
            ("{\"k\":\"a\",\"t\":\"yesterday\"}".to_owned(), InvalidTimestamp),
            ("{\"k\":\"a\",\"t\":5}".to_owned(), InvalidTimestamp),
            (format!("{{\"k\":\"a\",{time},\"id\":[]}}"), SchemaValidationFailed),
            (format!("{{\"k\":\"a\",{time},\"e\":[1]}}"), SchemaValidationFailed),
            (format!("{{\"k\":\"a\",{time},\"e\":{{}}}}"), SchemaValidationFailed),
            (format!("{{\"k\":\"a\",{time},\"n\":\"1\"}}"), SchemaValidationFailed),
            (format!("{{\"k\":\"a\",{time},\"u\":true}}"), SchemaValidationFailed),
            (format!("{{\"k\":\"a\",{time},\"m\":1}}"), SchemaValidationFailed),
        ] {
            assert_eq!(decoded(&payload).map(|event| event.key), Err(reason), "{payload}");
        }
        assert!(decoded(&format!(" {{ {time} , \"k\" : \"a\" }} ")).is_ok());
    }
}
