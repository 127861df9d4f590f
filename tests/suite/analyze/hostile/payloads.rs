//! Payloads that have no business on a chat topic, and some that only look so.

use std::sync::atomic::{AtomicU32, Ordering};

/// What has to become of a payload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Expect {
    /// An event with exactly these values.
    Event,
    /// A dead letter with this reason.
    Dead(&'static str),
    /// Both can be defended; an event must still count with exactly these values.
    Either,
}

use Expect::{Dead, Either, Event};

const INVALID: Expect = Dead("schema_validation_failed");
const TIMESTAMP: Expect = Dead("invalid_timestamp");
const NO_TIMESTAMP: Expect = Dead("missing_required_field");
const NULL_KEY: Expect = Dead("null_key");

#[derive(Debug, Clone)]
pub struct Case {
    pub what: String,
    /// None is a tombstone.
    pub payload: Option<Vec<u8>>,
    pub expect: Expect,
}

const TIME: &str = "2025-01-31T23:59:00Z";
const MIB: usize = 1 << 20;

/// Name and value of each member of a good event; every one has an id and a stream of its own.
fn fields(kind: Kind) -> Vec<(&'static str, String)> {
    static NEXT: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];
    let n = NEXT[kind as usize].fetch_add(1, Ordering::Relaxed);
    match kind {
        Kind::Chat => vec![
            ("event_id", format!("\"e{n}\"")),
            ("stream_id", format!("\"c{n}\"")),
            ("user_id", "\"u1\"".to_owned()),
            ("username", "\"John\"".to_owned()),
            ("message", "\"good game Kappa\"".to_owned()),
            ("timestamp", format!("\"{TIME}\"")),
        ],
        Kind::Viewer => {
            vec![
                ("stream_id", format!("\"v{n}\"")),
                ("viewer_count", "10".to_owned()),
                ("timestamp", format!("\"{TIME}\"")),
            ]
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Chat,
    Viewer,
}

struct Cases {
    kind: Kind,
    cases: Vec<Case>,
}

impl Cases {
    fn add(&mut self, what: impl Into<String>, payload: impl Into<Vec<u8>>, expect: Expect) {
        self.cases.push(Case { what: what.into(), payload: Some(payload.into()), expect });
    }

    /// A good event with `change` applied to its members.
    fn event(&self, change: impl FnOnce(&mut Vec<(&'static str, String)>)) -> String {
        let mut members = fields(self.kind);
        change(&mut members);
        let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    }

    fn good(&self) -> String {
        self.event(|_| {})
    }

    fn with(&self, field: &'static str, value: &str) -> String {
        self.event(|members| match members.iter_mut().find(|(name, _)| *name == field) {
            Some(member) => value.clone_into(&mut member.1),
            None => members.push((field, value.to_owned())),
        })
    }

    fn without(&self, field: &str) -> String {
        self.event(|members| members.retain(|(name, _)| *name != field))
    }

    fn plus(&self, member: &str) -> String {
        let good = self.good();
        format!("{},{member}}}", &good[..good.len() - 1])
    }

    /// A field is set to each of these.
    fn each(&mut self, field: &'static str, values: &[&str], expect: Expect) {
        for value in values {
            let short: String = value.chars().take(40).collect();
            self.add(format!("{field} is {short}"), self.with(field, value), expect);
        }
    }

    /// A good event in whose `field` the text is these bytes.
    fn with_bytes(&self, field: &'static str, bytes: &[u8]) -> Vec<u8> {
        let text = self.with(field, "\"@\"");
        let at = text.find('@').expect("the mark");
        [&text.as_bytes()[..at], bytes, &text.as_bytes()[at + 1..]].concat()
    }
}

/// Several hundred.
pub fn chat() -> Vec<Case> {
    let tombstone = Case { what: "a tombstone".to_owned(), payload: None, expect: INVALID };
    let mut cases = Cases { kind: Kind::Chat, cases: vec![tombstone] };
    truncated(&mut cases);
    shapes(&mut cases);
    bytes(&mut cases);
    escapes(&mut cases);
    types(&mut cases);
    times(&mut cases);
    names(&mut cases);
    large(&mut cases);
    // Company for the events of `viewer`, which alone would give no row.
    for n in 0..VIEWERS {
        cases.add(format!("company for viewer {n}"), cases.with("stream_id", &format!("\"v{n}\"")), Event);
    }
    cases.cases
}

/// At least as many as there are events in [`viewer`].
const VIEWERS: u32 = 60;

pub fn viewer() -> Vec<Case> {
    let mut cases = Cases { kind: Kind::Viewer, cases: Vec::new() };
    cases.each("viewer_count", &["0", "-0", "-5", "1.5", "2e3", "9223372036854775807", "1e15", "1E-3", "null"], Event);
    let wrong = [
        "\"10\"",
        "\"\"",
        "true",
        "false",
        "[]",
        "[10]",
        "{}",
        "NaN",
        "Infinity",
        "-Infinity",
        "01",
        "+1",
        ".5",
        "1.",
        "0x1",
        "--1",
        "1e",
        "-",
    ];
    cases.each("viewer_count", &wrong, INVALID);
    cases.each("viewer_count", &["1e999", "-1e999", &"9".repeat(400)], INVALID);
    cases.each("viewer_count", &["1e-400", &format!("0.{}", "3".repeat(400))], Either);
    cases.add("no viewer_count", cases.without("viewer_count"), Event);
    cases.add("viewer_count twice", cases.plus("\"viewer_count\":5"), INVALID);
    cases.add(
        "an event of chat",
        "{\"stream_id\":\"x\",\"message\":\"m\",\"timestamp\":\"2025-01-31T23:59:00Z\"}",
        Event,
    );
    cases.each("timestamp", &["null"], NO_TIMESTAMP);
    cases.each("stream_id", &["null"], NULL_KEY);
    cases.cases
}

fn truncated(cases: &mut Cases) {
    let good = cases.good();
    for length in 0..good.len() {
        cases.add(format!("cut after {length} bytes"), &good.as_bytes()[..length], INVALID);
    }
    for at in (0..good.len()).step_by(4) {
        let mut broken = cases.good().into_bytes();
        broken[at] = 0xff;
        cases.add(format!("0xff at {at}"), broken, INVALID);
    }
    for from in (1..good.len()).step_by(9) {
        cases.add(format!("without the first {from} bytes"), &good.as_bytes()[from..], INVALID);
    }
}

fn shapes(cases: &mut Cases) {
    for other in
        ["[]", "null", "true", "5", "\"text\"", "not json", "<xml/>", " ", "\0", "{", "}", "[[[[", "id,name\n1,x"]
    {
        cases.add(format!("instead of an object: {other:?}"), other, INVALID);
    }
    let text = cases.good();
    cases.add("an object without members", "{}", NULL_KEY);
    cases.add("an event in an array", format!("[{text}]"), INVALID);
    cases.add("an event in a string", format!("{text:?}"), INVALID);
    cases.add("an event in an event", format!("{{\"event\":{text}}}"), NULL_KEY);
    cases.add("two documents", format!("{text}{text}"), INVALID);
    cases.add("two lines", format!("{text}\n{text}"), INVALID);
    for after in ["\0", "x", "}", ",", "// x"] {
        cases.add(format!("a good one and then {after:?}"), format!("{}{after}", cases.good()), INVALID);
    }
    cases.add("spaces around", format!(" \t\r\n{}\n\n ", cases.good()), Event);
    cases.add("spaces within", cases.good().replace("\":", "\" :\n "), Event);
    for before in ["\u{feff}", "\u{c}", "\u{a0}", "/* x */"] {
        cases.add(format!("{before:?} before"), format!("{before}{}", cases.good()), INVALID);
    }
    for (what, from, to) in [
        ("a trailing comma", "Z\"}", "Z\",}"),
        ("a leading comma", "{\"", "{,\""),
        ("two commas", ",\"user_id", ",,\"user_id"),
        ("no comma", ",\"user_id", " \"user_id"),
        ("no colon", "\"user_id\":", "\"user_id\" "),
        ("an equals sign for a colon", "\"user_id\":", "\"user_id\"="),
        ("a key without quotes", "\"user_id\"", "user_id"),
        ("a number as key", "\"user_id\"", "5"),
        ("null as key", "\"user_id\"", "null"),
        ("single quotes", "\"u1\"", "'u1'"),
    ] {
        cases.add(what, cases.good().replacen(from, to, 1), INVALID);
    }
    for depth in [10, 50] {
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        cases.add(format!("{depth} deep in an unknown field"), cases.plus(&format!("\"x\":{nested}")), Event);
    }
    for depth in [70, 1_000, 100_000] {
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        cases.add(format!("{depth} arrays deep in an unknown field"), cases.plus(&format!("\"x\":{nested}")), INVALID);
        cases.add(format!("{depth} arrays deep as emotes"), cases.with("emotes", &nested), INVALID);
        let objects = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        cases.add(format!("{depth} objects deep as message"), cases.with("message", &objects), INVALID);
    }
    for garbage in [
        "{\"a\":[1,{\"b\":[tru]}]}",
        "[1,2",
        "{\"a\":}",
        "[,]",
        "{\"a\" 1}",
        "nul",
        "[1 2]",
        "{1:2}",
        "NaN",
        "01",
        "1.",
        "\"\t\"",
    ] {
        cases.add(format!("an unknown field of {garbage}"), cases.plus(&format!("\"x\":{garbage}")), INVALID);
    }
    for value in ["{\"a\":[1,{\"b\":[true,null,-1.5e-3]}]}", "[]", "{}", "null", "1e999", "\"\""] {
        cases.add(format!("an unknown field of {value}"), cases.plus(&format!("\"x\":{value}")), Event);
    }
}

fn bytes(cases: &mut Cases) {
    let text = cases.good();
    let utf16: Vec<u16> = text.encode_utf16().collect();
    cases.add("UTF-16, little end", utf16.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<u8>>(), INVALID);
    cases.add("UTF-16, big end", utf16.iter().flat_map(|unit| unit.to_be_bytes()).collect::<Vec<u8>>(), INVALID);
    let invalid: [(&str, &[u8]); 11] = [
        ("a lone continuation byte", b"\x80"),
        ("Latin-1", b"caf\xe9 noir"),
        ("an overlong slash of two bytes", b"\xc0\xaf"),
        ("an overlong slash of four bytes", b"\xf0\x80\x80\xaf"),
        ("an overlong NUL", b"\xc0\x80"),
        ("an encoded high surrogate", b"\xed\xa0\x80"),
        ("an encoded pair (CESU-8)", b"\xed\xa0\xbc\xed\xbd\x94"),
        ("beyond the last code point", b"\xf4\x90\x80\x80"),
        ("0xfe", b"\xfe"),
        ("two thirds of a euro", b"\xe2\x82"),
        ("a bare NUL", b"a\0b"),
    ];
    for (what, bytes) in invalid {
        for field in ["stream_id", "message", "timestamp", "username", "event_id"] {
            cases.add(format!("{what} in {field}"), cases.with_bytes(field, bytes), INVALID);
        }
        cases.add(format!("{what} and nothing else"), bytes, INVALID);
    }
}

fn escapes(cases: &mut Cases) {
    for escape in [
        "\\ud800",
        "\\udc00",
        "\\ud800\\u0041",
        "\\udc00\\ud800",
        "\\ud83c\\n",
        "\\x41",
        "\\u12",
        "\\u12G4",
        "\\'",
        "\\",
    ] {
        for field in ["message", "stream_id", "username"] {
            cases.add(format!("the escape {escape} in {field}"), cases.with(field, &format!("\"{escape}\"")), INVALID);
        }
        cases.add(format!("the escape {escape} as emote"), cases.with("emotes", &format!("[\"{escape}\"]")), INVALID);
    }
    for raw in ["\n", "\t", "\r", "\u{1}", "\u{1f}"] {
        cases.add(format!("a bare {raw:?}"), cases.with("message", &format!("\"a{raw}b\"")), INVALID);
    }
    let odd = [
        "",
        " ",
        "a\\u0000b",
        "\\n",
        "\\\"",
        "\\\\",
        "\\/",
        "\\u00e9",
        "\\ud83c\\udf54",
        "🍔 डोसा",
        "\u{7f}",
        "\u{2028}",
        "\u{202e}abc",
        "{,}",
        "NULL",
        "'; DROP TABLE moments; --",
        "../../x",
        "__proto__",
        "%s%n",
        "NaN",
    ];
    for text in odd {
        for field in ["message", "username", "user_id"] {
            cases.add(format!("{field} is {text:?}"), cases.with(field, &format!("\"{text}\"")), Event);
        }
        cases.add(
            format!("an emote of {text:?}"),
            cases.with("emotes", &format!("[\"{text}\",\"Kappa\",\"{text}\"]")),
            Event,
        );
        cases.add(format!("timestamp is {text:?}"), cases.with("timestamp", &format!("\"{text}\"")), TIMESTAMP);
        let key = cases.with("stream_id", &format!("\"odd{text}\""));
        cases.add(format!("stream_id is odd{text:?}"), key, if text.contains("\\u0000") { INVALID } else { Event });
    }
    cases.add("an empty stream_id", cases.with("stream_id", "\"\""), Event);
}

fn types(cases: &mut Cases) {
    cases.each("stream_id", &["5", "-5", "123456789012345678"], Event);
    cases.each("stream_id", &["true", "[]", "{}", "[\"s\"]", "1.5", "1e400"], INVALID);
    cases.each("stream_id", &["null"], NULL_KEY);
    cases.each("user_id", &["5", "null"], Event);
    cases.each("user_id", &["true", "[]", "{}", "[\"u\"]"], INVALID);
    cases.each("message", &["null"], Event);
    cases.each("message", &["5", "0.5", "true", "[]", "{}", "[\"a\"]", "{\"a\":\"b\"}"], INVALID);
    cases.each("event_id", &["null", "987654321987"], Event);
    cases.each("event_id", &["true", "[]", "{}"], INVALID);
    cases.each(
        "emotes",
        &["null", "[]", "[null]", "[\"Kappa\",null,\"LUL\"]", "\"Kappa\"", "[\"\"]", "[ \"a\" , \"b\" ]"],
        Event,
    );
    cases.each(
        "emotes",
        &["5", "true", "{}", "[5]", "[true]", "[[\"Kappa\"]]", "[{\"name\":\"Kappa\"}]", "{\"Kappa\":1}"],
        INVALID,
    );
    cases.each("username", &["5", "null", "true", "[]", "{}", "{\"a\":[1,2]}"], Event);
    for field in ["user_id", "message", "event_id", "username"] {
        cases.add(format!("no {field}"), cases.without(field), Event);
    }
    cases.add("no stream_id", cases.without("stream_id"), NULL_KEY);
    cases.add("no timestamp", cases.without("timestamp"), NO_TIMESTAMP);
    cases.each("timestamp", &["null"], NO_TIMESTAMP);
    cases.each(
        "timestamp",
        &["1736943840", "1736943840000", "true", "[]", "{}", "[\"2025-01-31T23:59:00Z\"]"],
        TIMESTAMP,
    );
}

fn times(cases: &mut Cases) {
    let fair = [
        "2025-01-31T23:59:00.5Z",
        "2025-01-31T23:59:00.123456Z",
        "2025-02-01T05:29:00+05:30",
        "2025-01-31T23:59:59.999999Z",
        "2025-01-31T11:59:00.001-12:00",
    ];
    for text in fair {
        cases.add(format!("timestamp is {text}"), cases.with("timestamp", &format!("\"{text}\"")), Event);
    }
    let arguable =
        ["2025-01-31 23:59:00Z", "2025-01-31t23:59:00z", "2025-01-31T23:59:00-00:00", "2025-01-31T23:59:00.123456789Z"];
    for text in arguable {
        cases.add(format!("timestamp is {text}, arguable"), cases.with("timestamp", &format!("\"{text}\"")), Either);
    }
    let wrong = [
        "9999-12-31T23:59:59Z",
        "10000-01-01T00:00:00Z",
        "-0001-01-01T00:00:00Z",
        "2025-13-15T12:24:00Z",
        "2025-02-30T12:24:00Z",
        "2025-02-29T00:00:00Z",
        "2025-01-32T12:24:00Z",
        "2025-01-15T25:00:00Z",
        "2025-01-15T12:60:00Z",
        "2025-01-15T12:24:61Z",
        "2025-01-15T12:24:00+25:00",
        "2025-01-15T12:24:00.Z",
        "2025-01-15T12:24:00ZZ",
        "2025-1-15T12:24:00Z",
        "2025/01/15T12:24:00Z",
        "01/15/2025",
        "2025-01-15",
        "2025-01-15T12:24:00",
        "now",
        "infinity",
        "1736943840",
        "2025-01-15T12:24:00 UTC",
        "２０２５-01-15T12:24:00Z",
        "2025-01-15T12:24:00\\u0000Z",
        "0000-00-00T00:00:00Z",
    ];
    for text in wrong {
        cases.add(format!("timestamp is {text}"), cases.with("timestamp", &format!("\"{text}\"")), TIMESTAMP);
    }
}

fn names(cases: &mut Cases) {
    for (name, value) in fields(Kind::Chat) {
        cases.add(format!("{name} twice"), cases.plus(&format!("\"{name}\":{value}")), INVALID);
        cases.add(format!("{name} and then null"), cases.plus(&format!("\"{name}\":null")), INVALID);
        let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
        cases.add(format!("{name} twice, once escaped"), cases.plus(&format!("\"{escaped}\":{value}")), INVALID);
        let renamed = cases.good().replace(&format!("\"{name}\""), &format!("\"{escaped}\""));
        cases.add(format!("{name} escaped and only once"), renamed, Event);
    }
    cases.add("an unknown field twice", cases.plus("\"x\":1,\"x\":1"), INVALID);
    cases.add("a field twice within an unknown one", cases.plus("\"x\":{\"a\":1,\"b\":{\"c\":1,\"c\":2}}"), INVALID);
    cases.add("the same field in two unknown ones", cases.plus("\"x\":{\"a\":1},\"y\":{\"a\":1}"), Event);
    let many: Vec<String> = (0..500).map(|n| format!("\"x{n}\":{n}")).collect();
    cases.add("many unknown fields", cases.plus(&many.join(",")), Event);
    cases.add("an empty name", cases.plus("\"\":1"), Event);
    cases.add("another case", cases.good().replace("stream_id", "Stream_ID"), NULL_KEY);
    cases.add("a space in the name", cases.good().replace("timestamp", "timestamp "), NO_TIMESTAMP);
}

fn large(cases: &mut Cases) {
    let text = "x".repeat(MIB);
    cases.add("a message of 1 MiB", cases.with("message", &format!("\"{text}\"")), Event);
    cases.add("a user_id of 1 MiB", cases.with("user_id", &format!("\"{text}\"")), Event);
    cases.add("an event_id of 1 MiB", cases.with("event_id", &format!("\"{text}\"")), Event);
    cases.add("an emote of 1 MiB", cases.with("emotes", &format!("[\"{text}\"]")), Event);
    cases.add("20,000 emotes", cases.with("emotes", &format!("[{}\"z\"]", "\"Kappa\",".repeat(20_000))), Event);
    cases.add("an unknown field of 1 MiB", cases.plus(&format!("\"x\":\"{text}\"")), Event);
    cases.add("a name of 1 MiB", cases.plus(&format!("\"{text}\":1")), Event);
    cases.add("a stream_id of 1,024 bytes", cases.with("stream_id", &format!("\"{}\"", &text[..1_024])), Event);
    cases.add("a stream_id of 1,025 bytes", cases.with("stream_id", &format!("\"{}\"", &text[..1_025])), INVALID);
    cases.add("a stream_id of 1 MiB", cases.with("stream_id", &format!("\"{text}\"")), INVALID);
    cases.add("a timestamp of 1 MiB", cases.with("timestamp", &format!("\"{text}\"")), TIMESTAMP);
    cases.add("1 MiB of text", text, INVALID);
    cases.add("1 MiB of zeros", vec![0; MIB], INVALID);
    cases.add("1 MiB of 0xff", vec![0xff; MIB], INVALID);
    cases.add("1 MiB of brackets", "[".repeat(MIB), INVALID);
    cases.add("1 MiB of spaces", " ".repeat(MIB), INVALID);
    cases.add("1 MiB of backslashes", cases.with("message", &format!("\"{}\"", "\\".repeat(MIB))), Event);
    cases.add("1 MiB of backslashes, never closed", cases.with("message", &format!("\"{}", "\\".repeat(MIB))), INVALID);
}
