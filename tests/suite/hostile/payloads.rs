//! Payloads that have no business on an orders topic, and some that only look so.

/// What has to become of a payload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Expect {
    /// A row with exactly these values.
    Row,
    /// A dead letter; where reasons are named, with one of them.
    Dead(&'static [&'static str]),
    /// Both can be defended; a row must still hold exactly these values.
    Either,
}

use Expect::{Dead, Either, Row};

pub const INVALID: Expect = Dead(&["schema_validation_failed"]);
const TIMESTAMP: Expect = Dead(&["invalid_timestamp"]);
const NO_TIMESTAMP: Expect = Dead(&["missing_required_field", "invalid_timestamp"]);
const NEGATIVE: Expect = Dead(&["negative_amount"]);
const NULL_KEY: Expect = Dead(&["null_key"]);
const ANY: Expect = Dead(&[]);

#[derive(Debug, Clone)]
pub struct Case {
    pub what: String,
    /// None is a tombstone.
    pub payload: Option<Vec<u8>>,
    pub expect: Expect,
}

const FIELDS: [(&str, &str); 7] = [
    ("order_id", "101"),
    ("customer_name", "\"John Doe\""),
    ("restaurant_name", "\"Burger Junction\""),
    ("item", "\"Veg Burger\""),
    ("amount", "220.0"),
    ("order_status", "\"PLACED\""),
    ("created_at", "\"2025-01-15T12:24:00Z\""),
];
const TEXTS: [&str; 4] = ["customer_name", "restaurant_name", "item", "order_status"];

/// A good order whose members are changed by `change`: none leaves one out.
fn members(change: impl Fn(&str) -> Option<Option<String>>, more: &[&str]) -> Vec<u8> {
    let mut parts = Vec::new();
    for (name, value) in FIELDS {
        match change(name) {
            None => parts.push(format!("\"{name}\":{value}")),
            Some(Some(value)) => parts.push(format!("\"{name}\":{value}")),
            Some(None) => {}
        }
    }
    parts.extend(more.iter().map(|part| (*part).to_owned()));
    format!("{{{}}}", parts.join(",")).into_bytes()
}

fn good() -> Vec<u8> {
    members(|_| None, &[])
}

fn with(field: &str, value: &str) -> Vec<u8> {
    members(|name| (name == field).then(|| Some(value.to_owned())), &[])
}

fn without(field: &str) -> Vec<u8> {
    members(|name| (name == field).then_some(None), &[])
}

fn plus(member: &str) -> Vec<u8> {
    members(|_| None, &[member])
}

/// A good order in whose `field` the text `@` is replaced by raw bytes.
fn with_bytes(field: &str, bytes: &[u8]) -> Vec<u8> {
    let text = with(field, "\"@\"");
    let at = text.iter().position(|byte| *byte == b'@').expect("the mark");
    [&text[..at], bytes, &text[at + 1..]].concat()
}

struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, what: impl Into<String>, payload: impl Into<Vec<u8>>, expect: Expect) {
        self.0.push(Case { what: what.into(), payload: Some(payload.into()), expect });
    }
}

/// All of them, several hundred.
pub fn cases() -> Vec<Case> {
    let mut cases = Cases(vec![Case { what: "a tombstone".to_owned(), payload: None, expect: ANY }]);
    truncated(&mut cases);
    shapes(&mut cases);
    encodings(&mut cases);
    strings(&mut cases);
    wrong_types(&mut cases);
    numbers(&mut cases);
    timestamps(&mut cases);
    keys(&mut cases);
    large(&mut cases);
    cases.0
}

fn truncated(cases: &mut Cases) {
    let good = good();
    for length in 0..good.len() {
        cases.add(format!("cut after {length} bytes"), &good[..length], INVALID);
    }
    for at in (0..good.len()).step_by(3) {
        let mut broken = good.clone();
        broken[at] = 0xff;
        cases.add(format!("0xff at {at}"), broken, INVALID);
    }
    for from in (1..good.len()).step_by(11) {
        cases.add(format!("without the first {from} bytes"), &good[from..], INVALID);
    }
}

fn shapes(cases: &mut Cases) {
    let text = String::from_utf8(good()).expect("text");
    for other in
        ["[]", "null", "true", "5", "\"text\"", "not json", "<xml/>", " ", "\n", "\0", "{", "}", "[[[[", "id,name\n1,x"]
    {
        cases.add(format!("instead of an object: {other:?}"), other, INVALID);
    }
    cases.add("an object without members", "{}", Dead(&["null_key", "missing_required_field", "invalid_timestamp"]));
    cases.add("an order in an array", format!("[{text}]"), INVALID);
    cases.add("an order in a string", format!("{text:?}"), INVALID);
    cases.add("an order in an order", format!("{{\"order\":{text}}}"), ANY);
    cases.add("two documents", format!("{text}{text}"), INVALID);
    cases.add("two lines", format!("{text}\n{text}"), INVALID);
    cases.add("two documents and a comma", format!("{text},{text}"), INVALID);
    cases.add("a good one and then NUL", format!("{text}\0"), INVALID);
    cases.add("a good one and then x", format!("{text}x"), INVALID);
    cases.add("a good one and then }", format!("{text}}}"), INVALID);
    cases.add("spaces around", format!(" \t\r\n{text}\n\n "), Row);
    cases.add("spaces within", text.replace(':', " :\n ").replace("T12 :\n 24 :\n 00Z", "T12:24:00Z"), Row);
    cases.add("form feed around", format!("\u{c}{text}"), INVALID);
    cases.add("no-break space around", format!("\u{a0}{text}"), INVALID);
    cases.add("a comment", format!("/* x */{text}"), INVALID);
    cases.add("a comment at the end", format!("{text}// x"), INVALID);
    cases.add("a trailing comma", text.replace("Z\"}", "Z\",}"), INVALID);
    cases.add("a leading comma", text.replacen('{', "{,", 1), INVALID);
    cases.add("two commas", text.replacen(',', ",,", 1), INVALID);
    cases.add("no comma", text.replacen(',', " ", 1), INVALID);
    cases.add("no colon", text.replacen(':', " ", 1), INVALID);
    cases.add("two colons", text.replacen(':', "::", 1), INVALID);
    cases.add("an equals sign for a colon", text.replacen(':', "=", 1), INVALID);
    cases.add("single quotes", text.replace('"', "'"), INVALID);
    cases.add("a key without quotes", text.replace("\"item\"", "item"), INVALID);
    cases.add("a number as key", text.replace("\"item\"", "5"), INVALID);
    cases.add("null as key", text.replace("\"item\"", "null"), INVALID);
    for depth in [10, 50] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        cases.add(format!("{depth} deep in an unknown field"), plus(&format!("\"x\":{open}{close}")), Row);
    }
    for depth in [70, 1_000, 100_000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        cases.add(format!("{depth} arrays deep in an unknown field"), plus(&format!("\"x\":{open}{close}")), INVALID);
        cases.add(format!("{depth} arrays deep, never closed"), open, INVALID);
        let (open, close) = ("{\"a\":".repeat(depth), "}".repeat(depth));
        cases.add(format!("{depth} objects deep in item"), with("item", &format!("{open}1{close}")), INVALID);
    }
    for garbage in
        ["{\"a\":[1,{\"b\":[tru]}]}", "[1,2", "{\"a\":}", "[,]", "{\"a\" 1}", "nul", "[1 2]", "{1:2}", "falsey"]
    {
        cases.add(format!("an unknown field of {garbage}"), plus(&format!("\"x\":{garbage}")), INVALID);
    }
    for value in ["{\"a\":[1,{\"b\":[true,null,-1.5e-3,\"\\u00e9\"]}]}", "[]", "{}", "null", "1e999", "\"\""] {
        cases.add(format!("an unknown field of {value}"), plus(&format!("\"x\":{value}")), Row);
    }
}

fn encodings(cases: &mut Cases) {
    let good = good();
    let text = String::from_utf8(good.clone()).expect("text");
    cases.add("a byte order mark", [b"\xef\xbb\xbf", &good[..]].concat(), INVALID);
    let utf16: Vec<u16> = text.encode_utf16().collect();
    cases.add("UTF-16, little end", utf16.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<u8>>(), INVALID);
    cases.add("UTF-16, big end", utf16.iter().flat_map(|unit| unit.to_be_bytes()).collect::<Vec<u8>>(), INVALID);
    let invalid: [(&str, &[u8]); 14] = [
        ("a lone continuation byte", b"\x80"),
        ("a start byte at the end", b"caf\xc3"),
        ("Latin-1", b"caf\xe9 noir"),
        ("an overlong slash of two bytes", b"\xc0\xaf"),
        ("an overlong slash of three bytes", b"\xe0\x80\xaf"),
        ("an overlong slash of four bytes", b"\xf0\x80\x80\xaf"),
        ("an overlong NUL", b"\xc0\x80"),
        ("an encoded high surrogate", b"\xed\xa0\x80"),
        ("an encoded low surrogate", b"\xed\xbf\xbf"),
        ("an encoded pair (CESU-8)", b"\xed\xa0\xbc\xed\xbd\x94"),
        ("beyond the last code point", b"\xf4\x90\x80\x80"),
        ("a byte that no code point has", b"\xf5\x80\x80\x80"),
        ("0xfe", b"\xfe"),
        ("two thirds of a euro", b"\xe2\x82"),
    ];
    for (what, bytes) in invalid {
        for field in ["customer_name", "order_status", "created_at"] {
            cases.add(format!("{what} in {field}"), with_bytes(field, bytes), INVALID);
        }
        let unknown = [&good[..good.len() - 1], b",\"x\":\"", bytes, b"\"}"].concat();
        cases.add(format!("{what} in an unknown field"), unknown, INVALID);
        let name = [&good[..good.len() - 1], b",\"", bytes, b"\":1}"].concat();
        cases.add(format!("{what} in a name"), name, INVALID);
        cases.add(format!("{what} and nothing else"), bytes, INVALID);
    }
}

fn strings(cases: &mut Cases) {
    for escape in [
        "\\ud800",
        "\\udc00",
        "\\ud800\\u0041",
        "\\ud800x",
        "\\udc00\\ud800",
        "\\ud83c\\n",
        "\\x41",
        "\\u12",
        "\\u12G4",
        "\\'",
        "\\",
        "\\u",
    ] {
        cases.add(format!("the escape {escape}"), with("item", &format!("\"{escape}\"")), INVALID);
        cases.add(format!("the escape {escape} in an unknown field"), plus(&format!("\"x\":\"{escape}\"")), INVALID);
    }
    for raw in ["\n", "\t", "\r", "\0", "\u{1}", "\u{1f}"] {
        cases.add(format!("a bare {raw:?}"), with("item", &format!("\"a{raw}b\"")), INVALID);
    }
    let odd = [
        "",
        " ",
        "\\u0000",
        "a\\u0000b",
        "\\n",
        "\\r\\n",
        "\\t",
        "\\\"",
        "\\\\",
        "\\/",
        "\\b\\f",
        "\\u00e9",
        "\\ud83c\\udf54",
        "🍔 डोसा",
        "\u{7f}",
        "\u{2028}",
        "\u{feff}",
        "\u{202e}abc",
        "/",
        "//",
        "..",
        ".",
        "../../../../etc/passwd",
        "a/../../b",
        "/etc/passwd",
        "=",
        "date=2025-01-01",
        "date=2025-01-01/part-0.parquet",
        "%2F",
        "%2e%2e%2f",
        "%00",
        "~",
        "*",
        "?",
        "C:\\\\x",
        "CON",
        "$(touch x)",
        "`touch x`",
        "'; DROP TABLE orders; --",
        "\\u002e\\u002e\\u002f",
        "__HIVE_DEFAULT_PARTITION__",
        "null",
        "NaN",
    ];
    for text in odd {
        for field in TEXTS {
            cases.add(format!("{field} is {text:?}"), with(field, &format!("\"{text}\"")), Row);
        }
        cases.add(format!("created_at is {text:?}"), with("created_at", &format!("\"{text}\"")), TIMESTAMP);
        let prefixed = format!("\"{text}2025-01-15T12:24:00Z\"");
        if text.trim() != "" {
            cases.add(format!("created_at after {text:?}"), with("created_at", &prefixed), TIMESTAMP);
        }
    }
}

fn wrong_types(cases: &mut Cases) {
    for value in ["\"101\"", "\"\"", "true", "false", "[]", "{}", "[101]", "{\"a\":1}", "1.5", "NaN"] {
        cases.add(format!("order_id is {value}"), with("order_id", value), INVALID);
    }
    for field in TEXTS {
        for value in ["5", "0.5", "true", "false", "[]", "{}", "[\"a\"]", "{\"a\":\"b\"}"] {
            cases.add(format!("{field} is {value}"), with(field, value), INVALID);
        }
        cases.add(format!("{field} is null"), with(field, "null"), Row);
        cases.add(format!("no {field}"), without(field), Row);
    }
    for value in ["\"220.0\"", "\"\"", "\"NaN\"", "true", "false", "[]", "{}", "[220.0]"] {
        cases.add(format!("amount is {value}"), with("amount", value), INVALID);
    }
    for value in ["1736943840", "1736943840000", "true", "[]", "{}", "[\"2025-01-15T12:24:00Z\"]"] {
        let expect = Dead(&["schema_validation_failed", "invalid_timestamp"]);
        cases.add(format!("created_at is {value}"), with("created_at", value), expect);
    }
    cases.add("amount is null", with("amount", "null"), Row);
    cases.add("no amount", without("amount"), Row);
    cases.add("order_id is null", with("order_id", "null"), NULL_KEY);
    cases.add("no order_id", without("order_id"), NULL_KEY);
    cases.add("created_at is null", with("created_at", "null"), NO_TIMESTAMP);
    cases.add("no created_at", without("created_at"), NO_TIMESTAMP);
    cases.add("every field is null", members(|_| Some(Some("null".to_owned())), &[]), ANY);
    let two = members(
        |name| match name {
            "order_id" => Some(Some("null".to_owned())),
            "amount" => Some(Some("-1".to_owned())),
            _ => None,
        },
        &[],
    );
    cases.add("null key and negative amount", two, Dead(&["null_key", "negative_amount"]));
}

fn numbers(cases: &mut Cases) {
    let no_numbers = [
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "inf",
        "01",
        "00",
        "-01",
        "+1",
        ".5",
        "5.",
        "-.5",
        "1e",
        "1e+",
        "1.e5",
        "0x10",
        "1_000",
        "--1",
        "-",
        "1,5",
        "1.2.3",
        "1e5.5",
        "e5",
        "1 000",
        "٣",
        "¹",
    ];
    for text in no_numbers {
        cases.add(format!("amount is {text}"), with("amount", text), INVALID);
        cases.add(format!("order_id is {text}, no number"), with("order_id", text), INVALID);
    }
    let digits = |count: usize| "7".repeat(count);
    let out_of_range = [
        digits(400),
        format!("{}.5", digits(400)),
        format!("0.{}", digits(400)),
        "1e400".to_owned(),
        "1e99999999999999999999".to_owned(),
        "1e-400".to_owned(),
        "1e20".to_owned(),
        "1e39".to_owned(),
        digits(39),
        "0.0000000000000000001".to_owned(),
        "1e2147483648".to_owned(),
        "1e-9223372036854775809".to_owned(),
    ];
    for text in &out_of_range {
        let short = &text[..text.len().min(20)];
        cases.add(format!("amount is {short}, out of range"), with("amount", text), INVALID);
        cases.add(format!("amount is -{short}, out of range"), with("amount", &format!("-{text}")), ANY);
    }
    for text in ["9223372036854775808", "-9223372036854775809", "1e19", "1e400", "1e-1", "18446744073709551616"] {
        cases.add(format!("order_id is {text}"), with("order_id", text), INVALID);
    }
    cases.add("order_id of 400 digits", with("order_id", &digits(400)), INVALID);
    for text in ["0", "-1", "-0", "2147483647"] {
        cases.add(format!("order_id is {text}"), with("order_id", text), Row);
    }
    for text in ["1e2", "1E2", "100.0", "2147483648", "9223372036854775807", "-9223372036854775808", "1000e-1"] {
        cases.add(format!("order_id is {text}"), with("order_id", text), Either);
    }
    let fair = [
        "0",
        "-0",
        "-0.0",
        "0.0",
        "0e5",
        "220",
        "220.00",
        "2.2e2",
        "2.2E+2",
        "22000e-2",
        "0.000000000000000001",
        "99999999999999999999",
        "1e19",
        "12345678901234567890.123456789012345678",
        "0.1",
        "0.30000000000000004",
        "1E0",
        "0.00e-3",
    ];
    for text in fair {
        cases.add(format!("amount is {text}"), with("amount", text), Row);
    }
    let zeros = "0".repeat(400);
    for text in
        [format!("1.{zeros}"), format!("0.{zeros}"), "0e400".to_owned(), "0e-400".to_owned(), format!("1{zeros}e-400")]
    {
        cases.add(format!("amount is {} with many zeros", &text[..4]), with("amount", &text), Either);
    }
    for text in ["-1", "-0.01", "-1e5", "-0.000000000000000001", "-99999999999999999999", "-1.50"] {
        cases.add(format!("amount is {text}"), with("amount", text), NEGATIVE);
    }
}

fn timestamps(cases: &mut Cases) {
    let fair = [
        "2025-01-15T12:24:00.5Z",
        "2025-01-15T12:24:00.123456Z",
        "2025-01-15T12:24:00+00:00",
        "2025-01-15T23:59:59.999999-12:00",
        "2025-01-01T00:00:00+05:30",
        "2024-02-29T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999Z",
        "1900-01-01T00:00:00Z",
        "1582-10-10T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "2000-02-29T12:00:00Z",
    ];
    for text in fair {
        cases.add(format!("created_at is {text}"), with("created_at", &format!("\"{text}\"")), Row);
    }
    let arguable = [
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "0000-12-31T23:59:59Z",
        "2016-12-31T23:59:60Z",
        "2025-01-15T12:24:00",
        "2025-01-15 12:24:00Z",
        "2025-01-15t12:24:00z",
        "2025-01-15T12:24:00-00:00",
        "2025-01-15T12:24:00.123456789Z",
        "2025-01-15T12:24:00.000000000000Z",
        "2025-01-15T12:24Z",
        "2025-01-15T24:00:00Z",
        "2025-01-15T12:24:00+0530",
        "2025-01-15T12:24:00+05",
        "20250115T122400Z",
        "2025-01-15T12:24:00,5Z",
    ];
    for text in arguable {
        cases.add(format!("created_at is {text}, arguable"), with("created_at", &format!("\"{text}\"")), Either);
    }
    let wrong = [
        "10000-01-01T00:00:00Z",
        "+10000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-01:00",
        "99999-12-31T00:00:00Z",
        "-0001-01-01T00:00:00Z",
        "-2025-01-15T12:24:00Z",
        "294277-01-01T00:00:00Z",
        "2025-00-15T12:24:00Z",
        "2025-13-15T12:24:00Z",
        "2025-02-30T12:24:00Z",
        "2025-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2025-01-00T12:24:00Z",
        "2025-01-32T12:24:00Z",
        "2025-01-15T25:00:00Z",
        "2025-01-15T12:60:00Z",
        "2025-01-15T12:24:61Z",
        "2025-01-15T12:24:99Z",
        "2025-01-15T12:24:00+25:00",
        "2025-01-15T12:24:00+05:60",
        "2025-01-15T12:24:00.Z",
        "2025-01-15T12:24:00 Z",
        "2025-01-15T12:24:00ZZ",
        "2025-01-15T12:24:00Z ",
        "2025-1-15T12:24:00Z",
        "2025-01-15T1:24:00Z",
        "2025/01/15T12:24:00Z",
        "15.01.2025 12:24",
        "01/15/2025",
        "2025-01-15",
        "12:24:00",
        "2025-W03-3T12:24:00Z",
        "2025-015T12:24:00Z",
        "now",
        "infinity",
        "-infinity",
        "1736943840",
        "2025-01-15T12:24:00 UTC",
        "2025-01-15T12:24:00[Europe/Berlin]",
        "Wed, 15 Jan 2025 12:24:00 GMT",
        "２０２５-01-15T12:24:00Z",
        "2025-01-15T12:24:00\\u0000Z",
        "2025-01-15T12:24:00Z/../../x",
        "2025-01-15/../../x",
        "0000-00-00T00:00:00Z",
        "2025-01-15T12:24:00−05:00",
    ];
    for text in wrong {
        cases.add(format!("created_at is {text}"), with("created_at", &format!("\"{text}\"")), TIMESTAMP);
    }
    let many = format!("\"2025-01-15T12:24:00.{}Z\"", "1".repeat(400));
    cases.add("created_at with 400 fraction digits", with("created_at", &many), Either);
}

fn keys(cases: &mut Cases) {
    for (name, value) in FIELDS {
        cases.add(format!("{name} twice"), plus(&format!("\"{name}\":{value}")), INVALID);
        cases.add(format!("{name} and then null"), plus(&format!("\"{name}\":null")), INVALID);
        let first = name.as_bytes()[0];
        let escaped = format!("\\u{first:04x}{}", &name[1..]);
        cases.add(format!("{name} twice, once escaped"), plus(&format!("\"{escaped}\":{value}")), INVALID);
        let renamed =
            String::from_utf8(good()).expect("text").replace(&format!("\"{name}\""), &format!("\"{escaped}\""));
        cases.add(format!("{name} escaped and only once"), renamed, Row);
    }
    cases.add("an unknown field twice", plus("\"x\":1,\"x\":1"), INVALID);
    cases.add("an unknown field twice, once escaped", plus("\"xy\":1,\"\\u0078y\":2"), INVALID);
    cases.add("a field twice within an unknown one", plus("\"x\":{\"a\":1,\"b\":{\"c\":1,\"c\":2}}"), INVALID);
    cases.add("the same field in two unknown ones", plus("\"x\":{\"a\":1},\"y\":{\"a\":1}"), Row);
    cases.add(
        "many unknown fields",
        plus(&(0..500).map(|n| format!("\"x{n}\":{n}")).collect::<Vec<_>>().join(",")),
        Row,
    );
    cases.add("an empty name", plus("\"\":1"), Row);
    cases.add("names that are paths", plus("\"../x\":1,\"a/b\":2,\"\\u0000\":3,\"date\":4,\"_kafka_offset\":5"), Row);
    cases.add("another case", String::from_utf8(good()).expect("text").replace("order_id", "Order_ID"), NULL_KEY);
    cases.add(
        "a space in the name",
        String::from_utf8(good()).expect("text").replace("created_at", "created_at "),
        NO_TIMESTAMP,
    );
    cases.add("a proxy's own names", plus("\"__proto__\":{\"a\":1},\"constructor\":null"), Row);
}

fn large(cases: &mut Cases) {
    const MIB: usize = 1 << 20;
    let text = "x".repeat(MIB);
    for field in TEXTS {
        cases.add(format!("{field} of 1 MiB"), with(field, &format!("\"{text}\"")), Row);
    }
    cases.add("an unknown field of 1 MiB", plus(&format!("\"x\":\"{text}\"")), Row);
    cases.add("a name of 1 MiB", plus(&format!("\"{text}\":1")), Row);
    cases.add("created_at of 1 MiB", with("created_at", &format!("\"{text}\"")), TIMESTAMP);
    cases.add("amount of 1 MiB", with("amount", &"9".repeat(MIB)), INVALID);
    cases.add("order_id of 1 MiB", with("order_id", &"9".repeat(MIB)), INVALID);
    cases.add("1 MiB of text", text, INVALID);
    cases.add("1 MiB of zeros", vec![0; MIB], INVALID);
    cases.add("1 MiB of 0xff", vec![0xff; MIB], INVALID);
    cases.add("1 MiB of brackets", "[".repeat(MIB), INVALID);
    cases.add("1 MiB of braces", "{\"a\":".repeat(MIB / 5), INVALID);
    cases.add("1 MiB of spaces", " ".repeat(MIB), INVALID);
    cases.add("1 MiB of quotes", "\"".repeat(MIB), INVALID);
    cases.add("1 MiB of backslashes", with("item", &format!("\"{}\"", "\\".repeat(MIB))), Row);
    cases.add("1 MiB of backslashes, never closed", with("item", &format!("\"{}", "\\".repeat(MIB))), INVALID);
    let many: String = (0..60_000).map(|n| format!(",\"f{n}\":{n}")).collect();
    cases.add("60,000 unknown fields", plus(&many[1..]), Row);
}
