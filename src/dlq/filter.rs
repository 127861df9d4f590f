//! Which dead letters are meant: conditions that all hold, written as
//! `reason=null_key and day>=2025-01-15`.

mod parse;

pub use crate::record::time::instant;
pub use parse::{FilterError, columns_help};

use super::letter::{Id, Letter};
use serde_json::Value;
use std::cmp::Ordering;

/// What a condition can be about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    Pipeline,
    Stage,
    Job,
    Topic,
    TopicId,
    Partition,
    Offset,
    Reason,
    Detail,
    Day,
    Time,
    RecordTime,
    Key,
    Payload,
    Size,
    Replayed,
    /// A field of the payload as JSON, by the names on its path.
    Field(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Contains,
}

impl Operator {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Operator::Equal => ordering.is_eq(),
            Operator::Unequal => ordering.is_ne(),
            Operator::Less => ordering.is_lt(),
            Operator::AtMost => ordering.is_le(),
            Operator::Greater => ordering.is_gt(),
            Operator::AtLeast => ordering.is_ge(),
            Operator::Contains => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    /// Whether there is no value.
    IsNull(bool),
    Text(Operator, String),
    /// One of these texts.
    AnyOf(Vec<String>),
    /// Also of days, times and yes (1) or no (0).
    Whole(Operator, i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    column: Column,
    test: Test,
}

/// Records of one partition that stand together, before any of them is read.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub first: i64,
    pub last: i64,
    /// The day of all of them, where they have one.
    pub day: Option<i32>,
}

/// Conditions that a letter has to meet, all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    conditions: Vec<Condition>,
}

impl Filter {
    /// Adds what `text` says.
    pub fn add(&mut self, text: &str) -> Result<(), FilterError> {
        let mut rest = text.trim_start();
        loop {
            let (condition, after) = parse::condition(rest)?;
            self.conditions.push(condition);
            rest = after.trim_start();
            if rest.is_empty() {
                return Ok(());
            }
            let word = rest.split_whitespace().next().unwrap_or_default();
            if !word.eq_ignore_ascii_case("and") {
                return Err(FilterError::And { found: word.to_owned() });
            }
            rest = rest[word.len()..].trim_start();
        }
    }

    pub fn topics(&mut self, topics: &[String]) {
        self.any_of(Column::Topic, topics);
    }

    pub fn pipelines(&mut self, pipelines: &[String]) {
        self.any_of(Column::Pipeline, pipelines);
    }

    pub fn reasons(&mut self, reasons: &[String]) -> Result<(), FilterError> {
        for reason in reasons {
            parse::check_reason(reason)?;
        }
        self.any_of(Column::Reason, reasons);
        Ok(())
    }

    fn any_of(&mut self, column: Column, values: &[String]) {
        if !values.is_empty() {
            self.conditions.push(Condition { column, test: Test::AnyOf(values.to_vec()) });
        }
    }

    /// Refused at `micros` or later.
    pub fn since(&mut self, micros: i64) {
        self.conditions.push(Condition { column: Column::Time, test: Test::Whole(Operator::AtLeast, micros) });
    }

    /// Refused before `micros`.
    pub fn until(&mut self, micros: i64) {
        self.conditions.push(Condition { column: Column::Time, test: Test::Whole(Operator::Less, micros) });
    }

    /// This one record.
    pub fn record(&mut self, id: &Id) {
        self.any_of(Column::Topic, std::slice::from_ref(&id.topic));
        for (column, value) in [(Column::Partition, i64::from(id.partition)), (Column::Offset, id.offset)] {
            self.conditions.push(Condition { column, test: Test::Whole(Operator::Equal, value) });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    fn asks(&self, is_it: impl Fn(&Column) -> bool) -> bool {
        self.conditions.iter().any(|condition| is_it(&condition.column))
    }

    pub fn needs_body(&self) -> bool {
        self.asks(|column| matches!(column, Column::Key | Column::Payload | Column::Size | Column::Field(_)))
    }

    pub fn needs_replayed(&self) -> bool {
        self.asks(|column| *column == Column::Replayed)
    }

    /// Whether a pipeline may hold letters that are meant.
    pub fn takes_pipeline(&self, name: &str) -> bool {
        self.allows(&Column::Pipeline, name)
    }

    /// Whether letters of a stage may be meant.
    pub fn takes_stage(&self, stage: &str) -> bool {
        self.allows(&Column::Stage, stage)
    }

    fn allows(&self, column: &Column, value: &str) -> bool {
        let of_column = self.conditions.iter().filter(|condition| condition.column == *column);
        of_column.into_iter().all(|condition| condition.test.text(Some(value)))
    }

    /// Whether a condition asks for just this stage, topic or reason.
    pub fn names(&self, stage: &str, topic: &str, reason: &str) -> bool {
        self.conditions.iter().any(|Condition { column, test }| {
            let value = match column {
                Column::Stage => stage,
                Column::Topic => topic,
                Column::Reason => reason,
                _ => return false,
            };
            match test {
                Test::Text(Operator::Equal, text) => text == value,
                Test::AnyOf(texts) => texts.iter().all(|text| text == value),
                _ => false,
            }
        })
    }

    /// False only where no letter of the span is meant.
    pub fn may_hold(&self, span: &Span<'_>) -> bool {
        self.conditions.iter().all(|condition| match condition.column {
            Column::Topic => condition.test.text(Some(span.topic)),
            Column::Partition => condition.test.whole(Some(span.partition.into())),
            Column::Day => span.day.is_none_or(|day| condition.test.whole(Some(day.into()))),
            Column::Offset => condition.test.overlaps(span.first, span.last),
            _ => true,
        })
    }

    /// The least and the greatest offset that can be meant.
    pub fn offsets(&self) -> (i64, i64) {
        let mut bounds = (0, i64::MAX);
        for condition in self.conditions.iter().filter(|condition| condition.column == Column::Offset) {
            let Test::Whole(operator, value) = condition.test else { continue };
            let (least, greatest) = match operator {
                Operator::Equal => (value, value),
                Operator::Less => (0, value.saturating_sub(1)),
                Operator::AtMost => (0, value),
                Operator::Greater => (value.saturating_add(1), i64::MAX),
                Operator::AtLeast => (value, i64::MAX),
                Operator::Unequal | Operator::Contains => continue,
            };
            bounds = (bounds.0.max(least), bounds.1.min(greatest));
        }
        bounds
    }

    /// Whether a letter is meant. Its body is there where [`Filter::needs_body`] says so.
    pub fn matches(&self, letter: &Letter) -> bool {
        let mut json = None;
        self.conditions.iter().all(|Condition { column, test }| match column {
            Column::Pipeline => test.text(Some(&letter.source.pipeline)),
            Column::Stage => test.text(Some(letter.source.stage)),
            Column::Job => test.text(letter.source.job.as_deref()),
            Column::Topic => test.text(Some(&letter.topic)),
            Column::TopicId => test.text(Some(&letter.topic_id)),
            Column::Partition => test.whole(Some(letter.partition.into())),
            Column::Offset => test.whole(Some(letter.offset)),
            Column::Reason => test.text(Some(&letter.reason)),
            Column::Detail => test.text(Some(&letter.detail)),
            Column::Day => test.whole(Some(letter.day().into())),
            Column::Time => test.whole(Some(letter.refused_us)),
            Column::RecordTime => test.whole(letter.recorded_us),
            Column::Key => test.bytes(letter.body.key.as_deref()),
            Column::Payload => test.bytes(letter.body.payload.as_deref()),
            Column::Size => test.whole(letter.body.payload.as_ref().map(|payload| payload.len() as i64)),
            Column::Replayed => test.whole(letter.replayed.map(i64::from)),
            Column::Field(path) => {
                let json = json.get_or_insert_with(|| {
                    serde_json::from_slice::<Value>(letter.body.payload.as_deref().unwrap_or_default()).ok()
                });
                let found = json.as_ref().and_then(|json| path.iter().try_fold(json, |value, name| value.get(name)));
                test.field(found.filter(|value| !value.is_null()))
            }
        })
    }
}

impl Test {
    fn text(&self, value: Option<&str>) -> bool {
        self.bytes(value.map(str::as_bytes))
    }

    fn bytes(&self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else { return *self == Test::IsNull(true) };
        match self {
            Test::IsNull(is_null) => !is_null,
            Test::Text(Operator::Contains, part) => memchr::memmem::find(value, part.as_bytes()).is_some(),
            Test::Text(operator, text) => operator.holds(value.cmp(text.as_bytes())),
            Test::AnyOf(texts) => texts.iter().any(|text| text.as_bytes() == value),
            Test::Whole(..) => false,
        }
    }

    fn whole(&self, value: Option<i64>) -> bool {
        let Some(value) = value else { return *self == Test::IsNull(true) };
        match self {
            Test::IsNull(is_null) => !is_null,
            Test::Whole(operator, wanted) => operator.holds(value.cmp(wanted)),
            Test::Text(..) | Test::AnyOf(_) => false,
        }
    }

    /// Whether any of the numbers from `first` to `last` passes.
    fn overlaps(&self, first: i64, last: i64) -> bool {
        match self {
            Test::Whole(Operator::Equal, value) => (first..=last).contains(value),
            Test::Whole(Operator::Unequal, value) => first != last || first != *value,
            Test::Whole(Operator::Less, value) => first < *value,
            Test::Whole(Operator::AtMost, value) => first <= *value,
            Test::Whole(Operator::Greater, value) => last > *value,
            Test::Whole(Operator::AtLeast, value) => last >= *value,
            Test::IsNull(is_null) => !is_null,
            _ => true,
        }
    }

    /// A field of JSON: as numbers where both are, else as text.
    fn field(&self, value: Option<&Value>) -> bool {
        let text = value.map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        if let (Some(found), Test::Text(operator, wanted)) = (&text, self)
            && *operator != Operator::Contains
            && let Some(ordering) = compare_numbers(found, wanted)
        {
            return operator.holds(ordering);
        }
        self.text(text.as_deref())
    }
}

fn compare_numbers(found: &str, wanted: &str) -> Option<Ordering> {
    if let (Ok(found), Ok(wanted)) = (found.parse::<i128>(), wanted.parse::<i128>()) {
        return Some(found.cmp(&wanted));
    }
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    number(found)?.partial_cmp(&number(wanted)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dlq::letter::{Body, Source};
    use proptest::prelude::*;

    fn filter(text: &str) -> Filter {
        let mut filter = Filter::default();
        filter.add(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        filter
    }

    fn letter() -> Letter {
        Letter {
            source: Source { pipeline: "shop".to_owned(), stage: "land", job: None }.into(),
            topic: "orders".into(),
            topic_id: "AAAA".into(),
            partition: 3,
            offset: 1234,
            reason: "negative_amount".to_owned(),
            detail: "amount is -5".to_owned(),
            refused_us: instant("2025-01-16T08:00:00Z").unwrap(),
            recorded_us: instant("2025-01-15T23:59:59.5Z"),
            body: Body {
                payload: Some(br#"{"order_id":17,"amount":-5.0,"who":{"name":"O'Neil"},"none":null}"#.to_vec()),
                key: Some(b"17".to_vec()),
                ..Body::default()
            },
            replayed: Some(false),
        }
    }

    #[test]
    fn conditions_that_hold() {
        for text in [
            "reason=negative_amount and day>=2025-01-15",
            "reason = 'negative_amount' AND day <= 2025-01-15",
            "topic=orders and partition=3 and offset>1233 and offset<=1234",
            "topic!=other and stage=land and pipeline=shop and job=null and topic_id=AAAA",
            "detail~'is -5' and detail~\"amount\" and detail!=null",
            "time>=2025-01-16 and time<2025-01-16T08:00:01+00:00 and record_time<2025-01-16",
            "key=17 and key>'16' and key!=null and size>60 and size<100",
            "payload~O'Neil and payload.who.name='O''Neil' and payload.who~name",
            "payload.order_id=17 and payload.order_id=17.0 and payload.amount<0 and payload.amount=-5",
            "payload.none=null and payload.absent=null and payload.who!=null",
            "replayed=no and replayed!=yes",
        ] {
            assert!(filter(text).matches(&letter()), "{text}");
        }
    }

    #[test]
    fn conditions_that_do_not_hold() {
        for text in [
            "reason=null_key",
            "day<2025-01-15",
            "day=2025-01-16",
            "offset>1234",
            "job!=null",
            "job=chat",
            "payload.absent=x",
            "payload.absent!=x",
            "payload.order_id>17",
            "payload~nothing",
            "topic=orders and partition=4",
            "replayed=yes",
        ] {
            assert!(!filter(text).matches(&letter()), "{text}");
        }
        let mut tombstone = letter();
        tombstone.body = Body::default();
        assert!(filter("payload=null and key=null and size=null").matches(&tombstone));
        assert!(!filter("payload!=x").matches(&tombstone), "no value is neither equal nor unequal to one");
        tombstone.replayed = None;
        assert!(!filter("replayed=no").matches(&tombstone));
        tombstone.body.payload = Some(b"null".to_vec());
        assert!(filter("payload='null'").matches(&tombstone));
        assert!(!filter("payload=null").matches(&tombstone));
    }

    #[test]
    fn repeated_flags_mean_any_of_them() {
        let mut any = Filter::default();
        any.topics(&["a".to_owned(), "orders".to_owned()]);
        any.reasons(&[]).unwrap();
        assert!(any.matches(&letter()));
        any.topics(&["a".to_owned()]);
        assert!(!any.matches(&letter()));
        assert!(Filter::default().reasons(&["odd".to_owned()]).is_err());
    }

    #[test]
    fn spans_are_left_out_only_where_nothing_in_them_is_meant() {
        let span = Span { topic: "orders", partition: 3, first: 10, last: 20, day: Some(20_103) };
        for (text, expected) in [
            ("topic=other", false),
            ("partition=2", false),
            ("day=2025-01-16", false),
            ("day=2025-01-15", true),
            ("offset<10", false),
            ("offset<=10", true),
            ("offset>20", false),
            ("offset>=20", true),
            ("offset=15 and offset!=15", true),
            ("offset=21", false),
            ("reason=null_key and payload~x", true),
        ] {
            assert_eq!(filter(text).may_hold(&span), expected, "{text}");
        }
        assert_eq!(filter("offset>5 and offset<=9 and offset!=7").offsets(), (6, 9));
        assert!(filter("pipeline=a").takes_pipeline("a") && !filter("pipeline=a").takes_pipeline("b"));
    }

    proptest! {
        #[test]
        fn any_text_can_be_quoted(text in any::<String>()) {
            let mut letter = letter();
            letter.body.key = Some(text.clone().into_bytes());
            let single = filter(&format!("key='{}'", text.replace('\'', "''")));
            let double = filter(&format!("key=\"{}\" and offset=1234", text.replace('"', "\"\"")));
            prop_assert!(single.matches(&letter) && double.matches(&letter));
        }

        #[test]
        fn a_span_that_is_left_out_holds_no_match(first in 0i64..30, length in 0i64..10, at in 0i64..10,
            wanted in 0i64..40, operator in 0usize..6) {
            let sign = ["=", "!=", "<", "<=", ">", ">="][operator];
            let filter = filter(&format!("offset{sign}{wanted}"));
            let last = first + length;
            let span = Span { topic: "orders", partition: 3, first, last, day: None };
            let mut letter = letter();
            letter.offset = (first + at).min(last);
            let (least, greatest) = filter.offsets();
            if filter.matches(&letter) {
                prop_assert!(filter.may_hold(&span));
                prop_assert!((least..=greatest).contains(&letter.offset));
            }
        }
    }
}
