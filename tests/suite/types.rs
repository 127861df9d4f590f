//! Every built-in type as JSON, with the values at its ends: what PostgreSQL holds is what is published.

use crate::{
    harness::{Db, Test},
    pipeline::{catch_up, committed, config, write},
};
use serde_json::{Value, json};

/// Column type, a value as SQL, its JSON.
type Case = (&'static str, &'static str, &'static str);

const NUMBERS: &[Case] = &[
    ("boolean", "true", "true"),
    ("boolean", "false", "false"),
    ("smallint", "-32768", "-32768"),
    ("smallint", "32767", "32767"),
    ("integer", "-2147483648", "-2147483648"),
    ("integer", "2147483647", "2147483647"),
    ("bigint", "-9223372036854775808", "-9223372036854775808"),
    ("bigint", "9223372036854775807", "9223372036854775807"),
    ("oid", "4294967295", "4294967295"),
    ("numeric", "220.00", "220.00"),
    ("numeric", "0", "0"),
    ("numeric", "0.000", "0.000"),
    ("numeric", "-0.00010", "-0.00010"),
    ("numeric", "10000", "10000"),
    ("numeric", "100000000.00000001", "100000000.00000001"),
    ("numeric", "99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
    (
        "numeric",
        "-1234567890123456789012345678901234567890.12345678901234567890123456789012345678901234567890",
        "-1234567890123456789012345678901234567890.12345678901234567890123456789012345678901234567890",
    ),
    ("numeric", "'NaN'", "\"NaN\""),
    ("numeric", "'Infinity'", "\"Infinity\""),
    ("numeric", "'-Infinity'", "\"-Infinity\""),
    ("numeric(12,2)", "7.5", "7.50"),
    ("numeric(5,0)", "99999", "99999"),
    ("numeric(3,-2)", "12345", "12300"),
    ("numeric(3,5)", "0.00123", "0.00123"),
    ("money", "1234.5", "\"$1,234.50\""),
    ("money", "-0.01", "\"-$0.01\""),
];

const FLOATS: &[Case] = &[
    ("real", "1.1", "1.1"),
    ("real", "'3.4028235e38'", "3.4028235e38"),
    ("real", "'1e-45'", "1e-45"),
    ("real", "'NaN'", "\"NaN\""),
    ("double precision", "0.1::float8 + 0.2::float8", "0.30000000000000004"),
    ("double precision", "1.7976931348623157e308", "1.7976931348623157e308"),
    ("double precision", "'5e-324'", "5e-324"),
    ("double precision", "'-0'", "-0.0"),
    ("double precision", "1e21", "1e21"),
    ("double precision", "123456789", "123456789.0"),
    ("double precision", "'Infinity'", "\"Infinity\""),
    ("double precision", "'-Infinity'", "\"-Infinity\""),
];

const TEXTS: &[Case] = &[
    ("text", "''", "\"\""),
    (
        "text",
        r#"E'q" b\\ n\n t\t \u0001 \u001f \u007f / é 漢 \U0001F600 \u2028'"#,
        r#""q\" b\\ n\n t\t \u0001 \u001f \u007f / é 漢 😀 \u2028""#,
    ),
    ("varchar(10)", "'John Doe'", "\"John Doe\""),
    ("char(5)", "'ab'", "\"ab   \""),
    ("name", "'a name'", "\"a name\""),
    ("\"char\"", "'x'", "\"x\""),
    ("mood", "'so \"so\"'", r#""so \"so\"""#),
    ("bytea", r"'\x00ff10'", "\"AP8Q\""),
    ("bytea", "''", "\"\""),
    ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\""),
    ("json", "'{\"a\" : 1.50, \"b\": [null, {}], \"a\": 2}'", r#"{"a" : 1.50, "b": [null, {}], "a": 2}"#),
    ("json", "'\"text\"'", "\"text\""),
    ("jsonb", "'{\"b\": [1, 2.00, true], \"a\": \"\\u00e9\"}'", r#"{"a": "é", "b": [1, 2.00, true]}"#),
    ("jsonb", "'null'", "null"),
    ("jsonb", "'123456789012345678901234567890.10'", "123456789012345678901234567890.10"),
    ("xml", "'<a b=\"1\">é</a>'", r#""<a b=\"1\">é</a>""#),
];

const TIMES: &[Case] = &[
    ("timestamp", "'2025-01-15 12:24:00'", "\"2025-01-15T12:24:00Z\""),
    ("timestamp", "'2025-01-15 12:24:00.5'", "\"2025-01-15T12:24:00.5Z\""),
    ("timestamp(0)", "'2025-01-15 12:24:00.4'", "\"2025-01-15T12:24:00Z\""),
    ("timestamp", "'1969-12-31 23:59:59.999999'", "\"1969-12-31T23:59:59.999999Z\""),
    ("timestamp", "'0001-01-01 00:00:00'", "\"0001-01-01T00:00:00Z\""),
    ("timestamp", "'9999-12-31 23:59:59'", "\"9999-12-31T23:59:59Z\""),
    ("timestamp", "'infinity'", "\"infinity\""),
    ("timestamp", "'-infinity'", "\"-infinity\""),
    ("timestamptz", "'2025-01-15 12:24:00+05:30'", "\"2025-01-15T06:54:00Z\""),
    ("timestamptz", "'2000-01-01 00:00:00.000001+00'", "\"2000-01-01T00:00:00.000001Z\""),
    ("timestamptz", "'infinity'", "\"infinity\""),
    ("date", "'2025-01-15'", "\"2025-01-15\""),
    ("date", "'2024-02-29'", "\"2024-02-29\""),
    ("date", "'infinity'", "\"infinity\""),
    ("date", "'-infinity'", "\"-infinity\""),
    ("time", "'23:59:59.999999'", "\"23:59:59.999999\""),
    ("time", "'24:00:00'", "\"24:00:00\""),
    ("timetz", "'12:00:00+05:30'", "\"12:00:00+05:30\""),
    ("timetz", "'12:00:00.25-08'", "\"12:00:00.25-08:00\""),
    ("interval", "'1 year 2 months 3 days 4 hours 5 minutes 6.7 seconds'", "\"P1Y2M3DT4H5M6.7S\""),
    ("interval", "'-1 day +00:00:01'", "\"P-1DT1S\""),
];

const COMPOUNDS: &[Case] = &[
    ("integer[]", "'{1,NULL,-3}'", "[1,null,-3]"),
    ("integer[]", "'{}'", "[]"),
    ("integer[]", "'{{1,2},{3,4}}'", "[[1,2],[3,4]]"),
    ("integer[]", "'{{{1},{2}},{{3},{4}}}'", "[[[1],[2]],[[3],[4]]]"),
    ("integer[]", "'[5:6]={1,2}'", "[1,2]"),
    ("text[]", r#"ARRAY['a,b', 'q"', E'\\', '', 'NULL', NULL, 'é']"#, r#"["a,b","q\"","\\","","NULL",null,"é"]"#),
    ("numeric[]", "'{1.50,NaN,Infinity}'", "[1.50,\"NaN\",\"Infinity\"]"),
    ("boolean[]", "'{t,f}'", "[true,false]"),
    ("bytea[]", r#"ARRAY['\x00'::bytea, '\x']"#, "[\"AA==\",\"\"]"),
    ("jsonb[]", "ARRAY['{\"a\":1}'::jsonb, 'null']", "[{\"a\":1},null]"),
    (
        "timestamptz[]",
        "ARRAY['2025-01-01 00:00+00'::timestamptz, 'infinity']",
        "[\"2025-01-01T00:00:00Z\",\"infinity\"]",
    ),
    ("date[]", "'{2025-01-15}'", "[\"2025-01-15\"]"),
    ("uuid[]", "'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", "[\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"]"),
    ("mood[]", "ARRAY['happy'::mood, 'so \"so\"']", r#"["happy","so \"so\""]"#),
    ("positive", "7", "7"),
    ("price", "7.5", "7.50"),
    ("short_name", "'x'", "\"x\""),
    ("positive[]", "ARRAY[1,2]::positive[]", "[1,2]"),
    ("scores", "'{1,2}'", "[1,2]"),
    ("pair", "ROW(1, 'x y')", "\"(1,\\\"x y\\\")\""),
    ("pair[]", "ARRAY[ROW(1,'x')::pair]", "\"{\\\"(1,x)\\\"}\""),
    ("int4range", "'[1,10)'", "\"[1,10)\""),
    ("int4range", "'empty'", "\"empty\""),
    ("int8range", "'(,5]'", "\"(,6)\""),
    ("numrange", "'[1.50,2.5]'", "\"[1.50,2.5]\""),
    ("daterange", "'[2025-01-01,2025-01-31]'", "\"[2025-01-01,2025-02-01)\""),
    ("tsrange", "'[2025-01-01,)'", "\"[\\\"2025-01-01 00:00:00\\\",)\""),
    ("tstzrange", "'[2025-01-01 02:00+02,)'", "\"[\\\"2025-01-01 00:00:00+00\\\",)\""),
    ("int4multirange", "'{[1,3),[5,7)}'", "\"{[1,3),[5,7)}\""),
    ("floats", "'[1.5,2.5]'", "\"[1.5,2.5]\""),
];

const OTHERS: &[Case] = &[
    ("inet", "'192.168.1.1/24'", "\"192.168.1.1/24\""),
    ("inet", "'::1'", "\"::1\""),
    ("cidr", "'10.0.0.0/8'", "\"10.0.0.0/8\""),
    ("macaddr", "'08:00:2b:01:02:03'", "\"08:00:2b:01:02:03\""),
    ("macaddr8", "'08:00:2b:01:02:03:04:05'", "\"08:00:2b:01:02:03:04:05\""),
    ("bit(4)", "B'1010'", "\"1010\""),
    ("bit varying", "B'1'", "\"1\""),
    ("tsvector", "'a fat cat'", "\"'a' 'cat' 'fat'\""),
    ("tsquery", "'fat & !rat'", "\"'fat' & !'rat'\""),
    ("point", "'(1,2.5)'", "\"(1,2.5)\""),
    ("line", "'{1,2,3}'", "\"{1,2,3}\""),
    ("lseg", "'[(1,2),(3,4)]'", "\"[(1,2),(3,4)]\""),
    ("box", "'(3,4),(1,2)'", "\"(3,4),(1,2)\""),
    ("path", "'((1,2),(3,4))'", "\"((1,2),(3,4))\""),
    ("polygon", "'((1,2),(3,4),(5,6))'", "\"((1,2),(3,4),(5,6))\""),
    ("circle", "'<(1,2),3>'", "\"<(1,2),3>\""),
    ("point[]", "ARRAY['(1,2)'::point]", "\"{\\\"(1,2)\\\"}\""),
    ("pg_lsn", "'16/B374D848'", "\"16/B374D848\""),
    ("pg_snapshot", "'10:20:10,14'", "\"10:20:10,14\""),
    ("txid_snapshot", "'10:20:10,14'", "\"10:20:10,14\""),
    ("xid", "'5'", "\"5\""),
    ("xid8", "'18446744073709551615'", "\"18446744073709551615\""),
    ("cid", "'5'", "\"5\""),
    ("tid", "'(0,1)'", "\"(0,1)\""),
    ("regclass", "'pg_class'", "\"pg_class\""),
    ("regtype", "'integer'", "\"integer\""),
    ("regrole", "'pg_monitor'", "\"pg_monitor\""),
    ("jsonpath", "'$.a'", "\"$.\\\"a\\\"\""),
    ("refcursor", "'c'", "\"c\""),
    ("aclitem", "'pg_monitor=r/pg_monitor'", "\"pg_monitor=r/pg_monitor\""),
];

/// Types that are in no list on purpose: they cannot be stored, or stand for one that is.
const NOT_STORED: &[&str] = &[
    // Kept as another type in the lists, or internal to catalogues.
    "int2vector",
    "oidvector",
    "pg_node_tree",
    "pg_ndistinct",
    "pg_dependencies",
    "pg_mcv_list",
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
];

fn prepare(db: &Db) {
    db.execute(
        "CREATE TYPE mood AS ENUM ('happy', 'so \"so\"');
         CREATE TYPE pair AS (number int, words text);
         CREATE DOMAIN positive AS int CHECK (VALUE > 0);
         CREATE DOMAIN price AS numeric(10,2);
         CREATE DOMAIN text_domain AS varchar(20);
         CREATE DOMAIN short_name AS text_domain CHECK (length(VALUE) < 10);
         CREATE DOMAIN scores AS int[];
         CREATE TYPE floats AS RANGE (subtype = float8);",
    );
}

/// As the bytes are, but for floats, which are equal when their values are.
fn equal(column_type: &str, found: &Value, expected: &Value) -> bool {
    let float =
        |value: &Value| value.is_number().then(|| value.to_string().parse::<f64>().expect("a number").to_bits());
    match column_type {
        "real" | "double precision" if expected.is_number() => float(found) == float(expected),
        _ => found == expected,
    }
}

#[test]
fn every_built_in_type_is_published_as_it_is() {
    let test = Test::new();
    let db = test.db();
    prepare(&db);
    let xml_is_built_in = db.try_execute("SELECT '<a/>'::xml").is_ok();
    let lists = [NUMBERS, FLOATS, TEXTS, TIMES, COMPOUNDS, OTHERS];
    let cases: Vec<Case> =
        lists.into_iter().flatten().copied().filter(|case| case.0 != "xml" || xml_is_built_in).collect();
    let columns: Vec<String> = cases.iter().enumerate().map(|(n, case)| format!("c{n} {}", case.0)).collect();
    let values: Vec<&str> = cases.iter().map(|case| case.1).collect();
    db.execute(&format!(
        "CREATE TABLE types (id int PRIMARY KEY, doubled int GENERATED ALWAYS AS (id * 2) STORED, at timestamptz NOT NULL DEFAULT now(), {});
         INSERT INTO types VALUES (1, DEFAULT, DEFAULT, {});
         INSERT INTO types (id) VALUES (2);",
        columns.join(", "),
        values.join(", ")
    ));
    let tables = json!([{"table": "types", "topic": test.topic("types"), "watermark": "at"}]);
    catch_up(&test, &write(&test, "capture.yml", &config(&test, json!({}), tables)), &[]);
    // Once by the first load's query and once by a poll's.
    db.execute("UPDATE types SET at = now()");
    catch_up(&test, &test.path("capture.yml"), &[]);

    let messages = committed(&test, &test.topic("types"));
    assert_eq!(messages.len(), 4);
    let mut wrong = Vec::new();
    for message in &messages {
        let json = message.json();
        let filled = json["id"] == 1;
        assert_eq!(json["doubled"], if filled { 2 } else { 4 });
        assert_eq!(json.as_object().expect("an object").len(), cases.len() + 3, "every column is there");
        for (n, (column_type, literal, expected)) in cases.iter().enumerate() {
            let found = &json[format!("c{n}")];
            let expected: Value = serde_json::from_str(if filled { expected } else { "null" }).expect("JSON");
            if !equal(column_type, found, &expected) {
                wrong.push(format!("{column_type} {literal}: {found} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} values: {wrong:#?}", wrong.len(), cases.len() * 4);

    // `headwater verify` reads them all alike from table and topic.
    let loaded = headwater::config::load_file(&test.path("capture.yml")).expect("the configuration");
    let verified = headwater::verify::run(&loaded.pipelines[0], headwater::verify::Options::default());
    let verified = crate::harness::block_on(verified).expect("a report");
    assert!(verified.ok && verified.counts.changed_in_place_count == 0, "{verified}");
    assert_eq!(verified.counts.topic_versions, 4);

    // No type of this server is forgotten.
    let storable = db.rows(
        "SELECT t.typname FROM pg_type t WHERE t.typtype IN ('b', 'r', 'm') AND t.typcategory <> 'A'
         AND t.typnamespace = 'pg_catalog'::regnamespace AND t.typname NOT IN
           (SELECT u.typname FROM pg_attribute a JOIN pg_type u ON u.oid = a.atttypid WHERE a.attrelid = 'types'::regclass)",
    );
    let forgotten: Vec<String> = storable.into_iter().flatten().flatten().collect();
    let forgotten: Vec<&String> = forgotten
        .iter()
        // Every multirange goes the way of the one that is tested.
        .filter(|name| !NOT_STORED.contains(&name.as_str()) && !name.ends_with("multirange"))
        .filter(|name| xml_is_built_in || *name != "xml")
        .collect();
    assert!(forgotten.is_empty(), "types without a case: {forgotten:?}");
    eprintln!("types: {} values of {} kinds", cases.len(), columns.len());
}

/// A number of the greatest size that PostgreSQL holds is a string of 131,072 digits, and no float.
#[test]
fn a_numeric_of_many_digits_keeps_them_all() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE big (id int PRIMARY KEY, n numeric, at timestamptz NOT NULL DEFAULT now());
         INSERT INTO big (id, n) VALUES (1, repeat('12345678', 16000)::numeric), (2, ('0.' || repeat('0', 16000) || '1')::numeric)",
    );
    let tables = json!([{"table": "big", "topic": test.topic("big"), "watermark": "at"}]);
    catch_up(&test, &write(&test, "capture.yml", &config(&test, json!({}), tables)), &[]);
    let messages = committed(&test, &test.topic("big"));
    for message in &messages {
        let json = message.json();
        let expected = match json["id"].as_i64() {
            Some(1) => "12345678".repeat(16_000),
            _ => format!("0.{}1", "0".repeat(16_000)),
        };
        let found = json["n"].to_string();
        assert!(found == expected, "{} digits instead of {}", found.len(), expected.len());
    }
    assert_eq!(messages.len(), 2);
}

/// The session's settings decide how text looks; those of the role and the database do not.
#[test]
fn settings_of_role_and_database_change_no_byte() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE settings (id int PRIMARY KEY, i interval, r tstzrange, d daterange, f point, b bytea, at timestamp NOT NULL);
         INSERT INTO settings VALUES (1, '1 day 2 hours', '[2025-01-15 12:00+00,)', '[2025-01-15,2025-01-16)', '(0.1,2)', '\\x01', '2025-01-15 12:24:00')",
    );
    let capture = |name: &str| {
        let tables = json!([{"table": "settings", "topic": test.topic(name), "watermark": "at"}]);
        let keys = json!({
            "checkpoint_topic": test.topic(&format!("{name}-checkpoints")),
            "timezone": "UTC",
        });
        catch_up(&test, &write(&test, "capture.yml", &config(&test, keys, tables)), &[]);
        committed(&test, &test.topic(name)).remove(0).value
    };
    let plain = capture("plain");
    db.execute(&format!(
        "ALTER DATABASE \"{0}\" SET datestyle = 'German, DMY'; ALTER DATABASE \"{0}\" SET timezone = 'Asia/Kolkata';
         ALTER DATABASE \"{0}\" SET intervalstyle = 'postgres_verbose'; ALTER DATABASE \"{0}\" SET extra_float_digits = -10;
         ALTER DATABASE \"{0}\" SET bytea_output = 'escape'; ALTER DATABASE \"{0}\" SET xmloption = 'document';",
        test.postgres.db
    ));
    assert_eq!(capture("odd"), plain);
}
