//! A record's payload to one value per column, in one pass over its bytes.
//!
//! The plan is compiled from the schema once. Values stay spans and numbers until the whole record is
//! known to be good; only then are they appended.

use super::schema::{Column, Kind, Schema, TextRule};
use crate::{
    config::model::LandTable,
    record::{
        json::{Scratch, Span, Token},
        number::{self, NumberError},
        object::{self, Fields, Member},
        reason::{Reason, Rejection},
        time,
    },
};
use std::borrow::Cow;

/// A column's value in the record being decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Slot {
    Missing,
    Null,
    Whole(i64),
    Decimal(i128),
    Float(f64),
    Bool(bool),
    /// Microseconds since 1970.
    Timestamp(i64),
    /// Days since 1970.
    Date(i32),
    Text(Span),
}

/// A schema compiled for decoding.
pub struct Plan {
    fields: Fields,
    columns: Vec<Column>,
    date: usize,
    not_null: Vec<usize>,
    non_negative: Vec<usize>,
}

impl Plan {
    /// `schema` has passed [`Schema::check`] for the table.
    pub fn new(schema: &Schema, table: &LandTable) -> Self {
        let index = |name: &String| schema.columns.iter().position(|column| column.name == *name);
        Plan {
            fields: Fields::new(schema.columns.iter().map(|column| column.name.as_str())),
            columns: schema.columns.clone(),
            date: index(&table.date_column).unwrap_or(0),
            not_null: table.not_null.iter().filter_map(index).collect(),
            non_negative: table.non_negative.iter().filter_map(index).collect(),
        }
    }
}

/// A member of the object that no column takes.
#[derive(Debug, Clone, Copy)]
struct Unknown {
    key: Span,
    /// The text of the member, key and value.
    start: usize,
    end: usize,
}

/// Decodes records one after another, reusing its buffers.
pub struct Decoder {
    plan: Plan,
    slots: Vec<Slot>,
    scratch: Scratch,
    unknown: Vec<Unknown>,
}

impl Decoder {
    pub fn new(plan: Plan) -> Self {
        Decoder {
            slots: vec![Slot::Missing; plan.columns.len()],
            plan,
            scratch: Scratch::default(),
            unknown: Vec::new(),
        }
    }

    /// The values of the record decoded last, in the order of the schema's columns.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// What spans of the last record that are not in its payload point into.
    pub fn scratch(&self) -> &[u8] {
        &self.scratch.bytes
    }

    pub fn unknown_count(&self) -> usize {
        self.unknown.len()
    }

    /// Names of the last record's fields that no column takes.
    pub fn unknown_names<'a>(&'a self, payload: &'a [u8]) -> impl Iterator<Item = Cow<'a, str>> {
        self.unknown.iter().map(|unknown| String::from_utf8_lossy(unknown.key.of(payload, &self.scratch.bytes)))
    }

    /// The unknown fields of the last record as one JSON object; `None` where there are none.
    pub fn overflow(&self, payload: &[u8]) -> Option<Vec<u8>> {
        if self.unknown.is_empty() {
            return None;
        }
        let mut text = vec![b'{'];
        for unknown in &self.unknown {
            if text.len() > 1 {
                text.push(b',');
            }
            text.extend_from_slice(&payload[unknown.start..unknown.end]);
        }
        text.push(b'}');
        Some(text)
    }

    /// Decodes a payload. Gives its date in days since 1970; the values are in [`Decoder::slots`].
    pub fn decode(&mut self, payload: Option<&[u8]>) -> Result<i32, Rejection> {
        let Decoder { plan, slots, scratch, unknown } = self;
        unknown.clear();
        slots.fill(Slot::Missing);
        // The reading goes on behind a field that does not fit: that the text is no JSON at all is the better reason.
        let mut first_problem = None;
        object::read(&plan.fields, payload, scratch, |member, payload, scratch| {
            let Member { field, token, raw, start, end } = member;
            let index = match field {
                Ok(index) => index,
                Err(key) => {
                    unknown.push(Unknown { key, start, end });
                    return true;
                }
            };
            let is_first = slots[index] == Slot::Missing;
            let column = &plan.columns[index];
            slots[index] = convert(column, token, raw, payload, scratch).unwrap_or_else(|detail| {
                let at_date = index == plan.date;
                let reason = if at_date { Reason::InvalidTimestamp } else { Reason::SchemaValidationFailed };
                first_problem.get_or_insert_with(|| Rejection::new(reason, format!("{:?} {detail}", column.name)));
                Slot::Null
            });
            is_first
        })?;
        match first_problem {
            Some(problem) => Err(problem),
            None => check(plan, slots),
        }
    }
}

/// The rules on the record as a whole. Gives its date.
fn check(plan: &Plan, slots: &[Slot]) -> Result<i32, Rejection> {
    let absent = |slot: Slot| matches!(slot, Slot::Missing | Slot::Null);
    let name = |index: usize| &plan.columns[index].name;
    if let Some(index) = plan.not_null.iter().find(|index| absent(slots[**index])) {
        return Err(Rejection::new(Reason::NullKey, format!("{:?} is null or absent", name(*index))));
    }
    for (column, slot) in plan.columns.iter().zip(slots) {
        match slot {
            Slot::Missing if column.required => {
                let detail = format!("{:?} is absent", column.name);
                return Err(Rejection::new(Reason::MissingRequiredField, detail));
            }
            // The date column has a reason of its own, below, whichever schema says that it is not null.
            Slot::Null if column.not_null && column.name != *name(plan.date) => {
                let detail = format!("{:?} is null", column.name);
                return Err(Rejection::new(Reason::SchemaValidationFailed, detail));
            }
            _ => {}
        }
    }
    let negative = |slot: Slot| match slot {
        Slot::Whole(value) => value < 0,
        Slot::Decimal(value) => value < 0,
        Slot::Float(value) => value < 0.0,
        _ => false,
    };
    let days = match slots[plan.date] {
        Slot::Timestamp(micros) => micros.div_euclid(time::MICROS_PER_DAY) as i32,
        Slot::Date(days) => days,
        _ => {
            let detail = format!("{:?}, which decides the date, is null or absent", name(plan.date));
            return Err(Rejection::new(Reason::MissingRequiredField, detail));
        }
    };
    if let Some(index) = plan.non_negative.iter().find(|index| negative(slots[**index])) {
        return Err(Rejection::new(Reason::NegativeAmount, format!("{:?} is below zero", name(*index))));
    }
    Ok(days)
}

/// A value as its column wants it, or what is wrong with it. `raw` is its text.
#[inline]
fn convert(column: &Column, token: Token, raw: Span, payload: &[u8], scratch: &[u8]) -> Result<Slot, String> {
    let of = |span: Span| span.of(payload, scratch);
    let slot = match (column.kind, token) {
        (_, Token::Null) => Slot::Null,
        (Kind::Text(TextRule::Json), _) => Slot::Text(raw),
        (Kind::Text(rule @ (TextRule::Objects | TextRule::Arrays)), token) => {
            let (opening, wanted) = if rule == TextRule::Objects { (b'{', "an object") } else { (b'[', "an array") };
            match token {
                Token::Nested(span) if of(span).first() == Some(&opening) => Slot::Text(raw),
                _ => return Err(format!("is {}, not {wanted}", token.text())),
            }
        }
        (Kind::Text(_), Token::Text(span)) => {
            if !column.values.is_empty() && !column.values.iter().any(|value| value.as_bytes() == of(span)) {
                return Err("is none of the allowed values".to_owned());
            }
            Slot::Text(span)
        }
        (Kind::Text(TextRule::Anything), _) => Slot::Text(raw),
        (Kind::Whole, Token::Number(span)) => Slot::Whole(number::whole(of(span)).map_err(|error| match error {
            NumberError::TooLarge => "does not fit 64 bits".to_owned(),
            NumberError::TooPrecise => "is not a whole number".to_owned(),
        })?),
        (Kind::Decimal { precision, scale }, Token::Number(span)) => {
            let value = number::decimal(of(span), precision, scale);
            Slot::Decimal(value.map_err(|error| decimal_text(error, precision, scale))?)
        }
        (Kind::Float, Token::Number(span)) => {
            let text = str::from_utf8(of(span)).unwrap_or_default();
            Slot::Float(number::float(text).map_err(|_| "does not fit a double".to_owned())?)
        }
        (Kind::Float, Token::Text(span)) => Slot::Float(match of(span) {
            b"NaN" => f64::NAN,
            b"Infinity" => f64::INFINITY,
            b"-Infinity" => f64::NEG_INFINITY,
            _ => return Err("is a string, not a number".to_owned()),
        }),
        (Kind::Decimal { .. }, Token::Text(span)) if matches!(of(span), b"NaN" | b"Infinity" | b"-Infinity") => {
            return Err(format!("is {}, which a decimal cannot hold", String::from_utf8_lossy(of(span))));
        }
        (Kind::Bool, Token::Bool(value)) => Slot::Bool(value),
        (Kind::Timestamp { naive_is_utc }, Token::Text(span)) => {
            Slot::Timestamp(time::timestamp(of(span), naive_is_utc).map_err(|error| error.text().to_owned())?)
        }
        (Kind::Date, Token::Text(span)) => Slot::Date(time::date(of(span)).map_err(|error| error.text().to_owned())?),
        (kind, token) => return Err(format!("is {}, not {}", token.text(), kind_text(kind))),
    };
    if column.minimum.is_some() || column.maximum.is_some() {
        check_bounds(column, slot)?;
    }
    Ok(slot)
}

fn check_bounds(column: &Column, slot: Slot) -> Result<(), String> {
    let value = match (slot, column.kind) {
        (Slot::Whole(value), _) => value as f64,
        (Slot::Decimal(value), Kind::Decimal { scale, .. }) => value as f64 / 10_f64.powi(scale.into()),
        (Slot::Float(value), _) => value,
        _ => return Ok(()),
    };
    match (column.minimum, column.maximum) {
        (Some(minimum), _) if value < minimum => Err(format!("is below {minimum}")),
        (_, Some(maximum)) if value > maximum => Err(format!("is above {maximum}")),
        _ => Ok(()),
    }
}

fn decimal_text(error: NumberError, precision: u8, scale: i8) -> String {
    let (where_, setting) = match error {
        NumberError::TooLarge => ("before", "numeric_precision"),
        NumberError::TooPrecise => ("after", "numeric_scale"),
    };
    format!(
        "has more digits {where_} the point than its column's decimal({precision}, {scale}) keeps \
         (for a numeric without precision: {setting})"
    )
}

fn kind_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Whole | Kind::Float | Kind::Decimal { .. } => "a number",
        Kind::Bool => "a boolean",
        Kind::Timestamp { .. } => "a timestamp in a string",
        Kind::Date => "a date in a string",
        Kind::Text(_) => "a string",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::LandSchema;
    use Reason::{InvalidTimestamp, MissingRequiredField, NegativeAmount, NullKey, SchemaValidationFailed};

    fn table() -> LandTable {
        LandTable {
            topic: "orders".into(),
            path: "t".into(),
            checkpoint_location: "c".into(),
            dead_letter_path: "d".into(),
            schema: LandSchema::File("s".into()),
            date_column: "created_at".into(),
            not_null: vec!["order_id".into()],
            non_negative: vec!["amount".into()],
            numeric_precision: 38,
            numeric_scale: 18,
            overflow_column: None,
            metadata_columns: false,
            rename: Default::default(),
            allow_network_file_system: false,
        }
    }

    fn decoder() -> Decoder {
        let column = Column::new;
        let schema = Schema {
            columns: vec![
                column("order_id", Kind::Whole),
                column("item", Kind::Text(TextRule::Strings)),
                column("amount", Kind::Decimal { precision: 38, scale: 18 }),
                column("created_at", Kind::Timestamp { naive_is_utc: false }),
                column("score", Kind::Float),
                column("paid", Kind::Bool),
                column("due", Kind::Date),
                column("document", Kind::Text(TextRule::Json)),
                column("tags", Kind::Text(TextRule::Anything)),
            ],
        };
        Decoder::new(Plan::new(&schema, &table()))
    }

    const GOOD: &str = r#"{"order_id":101,"item":"Veg Burger","amount":220.0,"created_at":"2025-01-15T12:24:00Z"}"#;

    fn reason(payload: &[u8]) -> Option<Reason> {
        decoder().decode(Some(payload)).err().map(|rejection| rejection.reason)
    }

    /// `GOOD` with one field replaced.
    fn with(field: &str, value: &str) -> String {
        let good = [
            ("order_id", "101"),
            ("item", "\"Veg Burger\""),
            ("amount", "220.0"),
            ("created_at", "\"2025-01-15T12:24:00Z\""),
        ];
        let kept = good.into_iter().filter(|(name, _)| *name != field);
        let members: Vec<String> =
            kept.chain([(field, value)]).map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    }

    #[test]
    fn decodes_a_good_record_in_any_order_with_any_space() {
        let mut decoder = decoder();
        let amount = Slot::Decimal(220 * 10_i128.pow(18));
        for payload in [
            GOOD.to_owned(),
            GOOD.replace("\":", "\" :\t").replace(",\"", " ,\n \""),
            r#" { "created_at" : "2025-01-15T12:24:00Z" , "amount" : 2.2e2 , "item" : "Veg Burger" , "order_id" : 101 } "#
                .to_owned(),
            GOOD.replace("item", "\\u0069tem").replace("Veg", "\\u0056eg"),
        ] {
            assert_eq!(decoder.decode(Some(payload.as_bytes())), Ok(20_103), "{payload}");
            let slots = decoder.slots();
            assert_eq!((slots[0], slots[2], slots[4]), (Slot::Whole(101), amount, Slot::Missing));
            let Slot::Text(item) = slots[1] else { panic!("{:?}", slots[1]) };
            assert_eq!(item.of(payload.as_bytes(), decoder.scratch()), b"Veg Burger");
        }
    }

    #[test]
    fn texts_of_nested_values_and_of_json_columns() {
        let mut decoder = decoder();
        let mut text = |field: &str, value: &str, index: usize| {
            let payload = with(field, value);
            decoder.decode(Some(payload.as_bytes())).unwrap();
            match decoder.slots()[index] {
                Slot::Text(span) => String::from_utf8(span.of(payload.as_bytes(), decoder.scratch()).to_vec()).unwrap(),
                slot => format!("{slot:?}"),
            }
        };
        assert_eq!(text("document", r#"{"a": [1, "x\n"]}"#, 7), r#"{"a": [1, "x\n"]}"#);
        assert_eq!(text("document", r#""1""#, 7), r#""1""#);
        assert_eq!(text("document", "1", 7), "1");
        assert_eq!(text("document", "null", 7), "Null");
        assert_eq!(text("tags", r#"["a", null]"#, 8), r#"["a", null]"#);
        assert_eq!(text("tags", r#""{a\"b}""#, 8), r#"{a"b}"#);
        assert_eq!(text("tags", "true", 8), "true");
        assert_eq!(text("score", "\"NaN\"", 4), "Float(NaN)");
        assert_eq!(text("score", "\"-Infinity\"", 4), "Float(-inf)");
        assert_eq!(text("due", "\"2024-02-29\"", 6), "Date(19782)");
    }

    #[test]
    fn hostile_payloads_are_rejected_with_their_reason() {
        assert_eq!(decoder().decode(None).unwrap_err().reason, SchemaValidationFailed);
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(70), "]".repeat(70));
        let megabyte = format!("{{\"x\":\"{}", "a".repeat(1 << 20));
        #[rustfmt::skip]
        let texts = [
            "", " ", "not json", "null", "1", "\"x\"", "[]", "[{}]", "{", "{}x", "{]", "{,}", "{\"a\"}", "{\"a\":}",
            "{\"a\":1,}", "{a:1}", "{'a':1}", "{\"order_id\":NaN}", "{\"order_id\":01}", "{\"order_id\":1}{}",
            "\u{feff}{}", &deep, &megabyte, r#"{"item":"\ud800"}"#, "{\"item\":\"\n\"}",
        ];
        for payload in texts {
            assert_eq!(reason(payload.as_bytes()), Some(SchemaValidationFailed), "{payload:.60}");
        }
        for payload in [&b"\xff\xfe"[..], b"{\"item\":\"\xc3\x28\"}", b"{\"item\":\"\xed\xa0\x80\"}", b"\0"] {
            assert_eq!(reason(payload), Some(SchemaValidationFailed), "{payload:?}");
        }
        for cut in 0..GOOD.len() {
            assert_eq!(reason(&GOOD.as_bytes()[..cut]), Some(SchemaValidationFailed), "cut at {cut}");
        }
        let doubled = [
            GOOD.replace("\"item\"", "\"order_id\""),
            GOOD.replace("\"item\"", "\"order\\u005fid\""),
            with("unknown", "1,\"unknown\":2"),
            with("unknown", r#"1,"\u0075nknown":2"#),
            with("document", r#"{"a":1,"\u0061":2}"#),
        ];
        for payload in doubled {
            assert_eq!(reason(payload.as_bytes()), Some(SchemaValidationFailed), "{payload}");
        }
    }

    #[test]
    fn wrong_types_for_each_field() {
        let values = ["1", "1.5", "true", "\"x\"", "[]", "{}", "[1]", "\"2025-01-15\"", "\"2025-01-15T12:24:00Z\""];
        let fitting = |field: &str| match field {
            "order_id" => vec!["1"],
            "item" => vec!["\"x\"", "\"2025-01-15\"", "\"2025-01-15T12:24:00Z\""],
            "amount" | "score" => vec!["1", "1.5"],
            "created_at" => vec!["\"2025-01-15T12:24:00Z\""],
            "paid" => vec!["true"],
            "due" => vec!["\"2025-01-15\""],
            _ => values.to_vec(),
        };
        for field in ["order_id", "item", "amount", "created_at", "score", "paid", "due", "document", "tags"] {
            for value in values {
                let expected = match fitting(field).contains(&value) {
                    true => None,
                    false if field == "created_at" => Some(InvalidTimestamp),
                    false => Some(SchemaValidationFailed),
                };
                assert_eq!(reason(with(field, value).as_bytes()), expected, "{field} = {value}");
            }
        }
    }

    #[test]
    fn numbers_that_do_not_fit() {
        let digits = "9".repeat(400);
        #[rustfmt::skip]
        let cases = [
            ("order_id", digits.as_str()), ("order_id", "9223372036854775808"), ("order_id", "1.5"), ("amount", &digits),
            ("amount", "1e400"), ("amount", "1e-19"), ("amount", "\"NaN\""), ("amount", "\"220.0\""), ("score", "1e999"),
            ("score", "\"nan\""), ("due", "\"infinity\""), ("due", "\"10000-01-01\""),
        ];
        for (field, value) in cases {
            assert_eq!(reason(with(field, value).as_bytes()), Some(SchemaValidationFailed), "{field} = {value:.40}");
        }
        let detail = decoder().decode(Some(with("amount", "1e-19").as_bytes())).unwrap_err().detail;
        assert!(detail.contains("numeric_scale"), "{detail}");
    }

    #[test]
    fn the_rules_on_a_record() {
        let years = ["\"0000-01-01T00:00:00Z\"", "\"10000-01-01T00:00:00Z\""];
        for value in years.into_iter().chain(["\"2025-01-15T12:24:00\"", "\"infinity\"", "17"]) {
            assert_eq!(reason(with("created_at", value).as_bytes()), Some(InvalidTimestamp), "{value}");
        }
        assert_eq!(reason(with("created_at", "\"9999-12-31T23:59:59Z\"").as_bytes()), None);
        assert_eq!(reason(with("created_at", "null").as_bytes()), Some(MissingRequiredField));
        assert_eq!(reason(br#"{"order_id":1}"#), Some(MissingRequiredField));
        assert_eq!(reason(with("order_id", "null").as_bytes()), Some(NullKey));
        assert_eq!(reason(b"{}"), Some(NullKey));
        assert_eq!(reason(with("amount", "-0.01").as_bytes()), Some(NegativeAmount));
        assert_eq!(reason(with("amount", "-0.0").as_bytes()), None);
        assert_eq!(reason(with("amount", "null").as_bytes()), None);
    }

    #[test]
    fn unknown_fields_are_kept_apart() {
        let mut decoder = decoder();
        let payload = with("new\\n1", r#"{"a" : 1},"b":"x""#);
        decoder.decode(Some(payload.as_bytes())).unwrap();
        assert_eq!(decoder.unknown_names(payload.as_bytes()).collect::<Vec<_>>(), ["new\n1", "b"]);
        assert_eq!(decoder.overflow(payload.as_bytes()).unwrap(), br#"{"new\n1":{"a" : 1},"b":"x"}"#);
        decoder.decode(Some(GOOD.as_bytes())).unwrap();
        assert_eq!((decoder.unknown_count(), decoder.overflow(GOOD.as_bytes())), (0, None));
    }
}
