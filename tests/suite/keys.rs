//! Every type that may stand in a primary key, at the ends of its range: read in steps of two rows, continued
//! after kills, compared by `verify`. What cannot be continued is refused with words.

use crate::{
    doctor::doctor,
    harness::{DEADLINE, Db, Test, block_on, run::Exit},
    pipeline::{catch_up, committed, config, said, setting, start, write},
};
use headwater::verify::{self, Options, Report};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// A type and its values as SQL.
type Case = (&'static str, &'static [&'static str]);

const NUMBERS: &[Case] = &[
    ("boolean", &["true", "false"]),
    ("smallint", &["-32768", "-1", "0", "32767"]),
    ("integer", &["-2147483648", "-1", "0", "2147483647"]),
    ("bigint", &["-9223372036854775808", "-1", "0", "9223372036854775807"]),
    ("oid", &["0", "1", "2147483648", "4294967295"]),
    ("real", &["'-Infinity'", "'-3.4028235e38'", "'-0'", "'1e-45'", "1.1", "'3.4028235e38'", "'Infinity'", "'NaN'"]),
    (
        "double precision",
        &[
            "'-Infinity'",
            "-1.7976931348623157e308",
            "'-0'",
            "'5e-324'",
            "0.1::float8 + 0.2::float8",
            "0.3",
            "123456789",
            "1.7976931348623157e308",
            "'Infinity'",
            "'NaN'",
        ],
    ),
    (
        "numeric",
        &[
            "'-Infinity'",
            "-('9' || repeat('0', 400))::numeric",
            "-0.00010",
            "0.000",
            "('0.' || repeat('0', 400) || '1')::numeric",
            "1.10",
            "220.00",
            "('9' || repeat('9', 400))::numeric",
            "'Infinity'",
            "'NaN'",
        ],
    ),
    ("numeric(12,2)", &["-9999999999.99", "0", "7.5", "9999999999.99"]),
    ("money", &["'-92233720368547758.08'", "'0'", "1234.5", "'92233720368547758.07'"]),
    ("positive", &["1", "7", "2147483647"]),
    ("lo", &["0", "7", "4294967295"]),
];

const TEXTS: &[Case] = &[
    (
        "text",
        &[
            "''",
            "' '",
            "'a'",
            "'A'",
            "'é'",
            "'漢'",
            r"E'\\'",
            "''''",
            "'\"'",
            r"E'\n\t'",
            "'NULL'",
            "'😀'",
            r"'\303'",
            "repeat('x', 2000)",
        ],
    ),
    ("varchar(10)", &["''", "'a'", "'B'", "'it''s'", "'zzzzzzzzzz'"]),
    ("char(5)", &["''", "'a'", "'B'", "'zzzzz'"]),
    ("bpchar", &["''", "'a'", "'B'", "'zzzzz'"]),
    ("name", &["''", "'a'", "'B'", "'é'", "repeat('x', 63)"]),
    (
        "\"char\"",
        &["''", "'a'", "'\"'", r"E'\\'", "127::\"char\"", "(-128)::\"char\"", "(-61)::\"char\"", "(-1)::\"char\""],
    ),
    // In the order of text the capitals would come first.
    ("citext", &["''", "'_'", "'a'", "'B'", "'c'", "'D'", "'e'", "'É'", "'Z'", "'zz'"]),
    ("text COLLATE ext.nocase", &["''", "'a'", "'B'", "'c'", "'D'", "'é'"]),
    ("short_name", &["''", "'a'", "'B'"]),
    ("mood", &["'z'", "'a'", "'so \"so\"'", "''"]),
    ("bytea", &["''", r"'\x00'", r"'\x00ff10'", r"'\x5c'", r"'\xff'"]),
    (
        "uuid",
        &[
            "'00000000-0000-0000-0000-000000000000'",
            "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
        ],
    ),
    (
        "jsonb",
        &[
            "'null'",
            "'\"a\"'",
            "'\"1\"'",
            "'1'",
            "'1.50'",
            "'true'",
            "'[]'",
            "'{}'",
            "'{\"a\": [1, null]}'",
            r#"'"q\"uote"'"#,
            "'123456789012345678901234567890.10'",
        ],
    ),
    ("tsvector", &["''", "'a'", "'a:1A b'", "'''it''''s'':3'"]),
    ("tsquery", &["''", "'a & !b'", "'a <-> b'", "'fat | ''r\"at'':*'"]),
    ("hstore", &["''", "'a=>1'", "'a=>NULL'", r#"'"k e"=>"v\"q", a=>b'"#, "'b=>1,a=>2'"]),
    ("ltree", &["''", "'a'", "'a.b'", "'B'", "'z.y.x'"]),
];

const TIMES: &[Case] = &[
    (
        "timestamp",
        &[
            "'-infinity'",
            "'4714-11-24 00:00:00 BC'",
            "'0001-01-01 00:00:00 BC'",
            "'1969-12-31 23:59:59.999999'",
            "'9999-12-31 23:59:59.999999'",
            "'infinity'",
        ],
    ),
    (
        "timestamptz",
        &[
            "'-infinity'",
            "'4714-11-24 00:00:00+00 BC'",
            "'0001-01-01 00:00:00+00'",
            "'2025-01-15 12:24:00+05:30'",
            "'9999-12-31 23:59:59.999999+00'",
            "'infinity'",
        ],
    ),
    ("timestamp(0)", &["'2025-01-15 12:24:00'", "'2025-01-15 12:24:01'", "'2025-01-15 12:24:02'"]),
    ("date", &["'-infinity'", "'4714-11-24 BC'", "'0001-01-01'", "'2024-02-29'", "'5874897-12-31'", "'infinity'"]),
    ("time", &["'00:00:00'", "'00:00:00.000001'", "'23:59:59.999999'", "'24:00:00'"]),
    ("timetz", &["'00:00:00+15:59:59'", "'12:00:00.25-08'", "'12:00:00+05:30'", "'24:00:00-15:59:59'"]),
    (
        "interval",
        &[
            "'-178000000 years'",
            "'-1 mon 1 day'",
            "'-1 day +00:00:01'",
            "'0'",
            "'1 day -00:00:00.000001'",
            "'2147483647 days'",
            "'2562047788:00:54.775807'",
            "'178000000 years'",
        ],
    ),
];

const COMPOUNDS: &[Case] = &[
    ("integer[]", &["'{}'", "'{NULL}'", "'{-2147483648}'", "'{1,2}'", "'{{1,2},{3,4}}'", "'[5:6]={1,2}'"]),
    ("text[]", &["'{}'", r#"ARRAY['a,b', 'q"', E'\\', '', 'NULL', NULL, 'é']"#, "'{a}'", "'{B}'"]),
    ("numeric[]", &["'{1.50}'", "'{NaN}'", "'{-Infinity,1}'"]),
    ("double precision[]", &["'{-0}'", "'{NaN}'", "'{0.30000000000000004}'", "'{0.3}'"]),
    ("timestamptz[]", &["'{-infinity}'", "'{2025-01-01 00:00+00}'", "'{infinity}'"]),
    ("citext[]", &["'{a}'", "'{B}'", "'{c}'", "'{D}'"]),
    ("mood[]", &["'{z}'", "'{a}'", "ARRAY['so \"so\"'::mood, 'a']"]),
    ("pair", &["ROW(NULL, NULL)", "ROW(1, 'x y')", "ROW(1, NULL)", "ROW(1, 'B')", "ROW(1, 'a,\")')"]),
    ("pair[]", &["ARRAY[ROW(1, 'a')::pair]", "ARRAY[ROW(1, 'B')::pair]", "ARRAY[ROW(1, 'c')::pair]"]),
    ("int4range", &["'empty'", "'(,)'", "'[1,10)'", "'(,5]'", "'[2147483646,2147483646]'"]),
    ("int8range", &["'empty'", "'(,5]'", "'[9223372036854775806,)'"]),
    ("numrange", &["'empty'", "'[1.50,2.5]'", "'[-Infinity,NaN]'"]),
    ("tsrange", &["'[2025-01-01,)'", "'[-infinity,2025-01-01]'", "'(,)'"]),
    ("tstzrange", &["'[2025-01-01 02:00+02,)'", "'[-infinity,infinity]'", "'(,)'"]),
    ("daterange", &["'[2025-01-01,2025-01-31]'", "'[-infinity,infinity)'", "'(,)'"]),
    ("floats", &["'[1.5,2.5]'", "'[-Infinity,NaN]'", "'empty'"]),
    ("int4multirange", &["'{}'", "'{[1,3),[5,7)}'", "'{(,)}'"]),
    ("int8multirange", &["'{}'", "'{[1,3),[5,7)}'", "'{(,)}'"]),
    ("nummultirange", &["'{}'", "'{[1.50,3),[5,7]}'", "'{(,)}'"]),
    ("datemultirange", &["'{}'", "'{[2025-01-01,2025-01-31]}'", "'{(,)}'"]),
    ("tsmultirange", &["'{}'", "'{[2025-01-01,2025-01-31]}'", "'{(,)}'"]),
    ("tstzmultirange", &["'{}'", "'{[2025-01-01 00:00+02,)}'", "'{(,)}'"]),
];

const OTHERS: &[Case] = &[
    (
        "inet",
        &[
            "'0.0.0.0/0'",
            "'10.0.0.1'",
            "'10.0.0.1/24'",
            "'255.255.255.255'",
            "'::'",
            "'::1/64'",
            "'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'",
        ],
    ),
    ("cidr", &["'0.0.0.0/0'", "'10.0.0.0/8'", "'10.0.0.1'", "'::/0'", "'ffff::/16'"]),
    ("macaddr", &["'00:00:00:00:00:00'", "'08:00:2b:01:02:03'", "'ff:ff:ff:ff:ff:ff'"]),
    ("macaddr8", &["'00:00:00:00:00:00:00:00'", "'08:00:2b:01:02:03:04:05'", "'ff:ff:ff:ff:ff:ff:ff:ff'"]),
    ("bit(4)", &["B'0000'", "B'1010'", "B'1111'"]),
    ("bit varying", &["B''", "B'1'", "B'10'", "B'0000000000000000001'"]),
    ("oidvector", &["''", "'1 2'", "'4294967295'"]),
    ("int2vector", &["''", "'1'", "'-32768 32767'"]),
    ("tid", &["'(0,0)'", "'(0,1)'", "'(4294967295,65535)'"]),
    ("xid8", &["'0'", "'5'", "'18446744073709551615'"]),
    ("pg_lsn", &["'0/0'", "'1/A'", "'FFFFFFFF/FFFFFFFF'"]),
    ("cube", &["'(0)'", "'(1,2)'", "'(1,2),(3,4)'", "'(-1.7976931348623157e308)'", "'(0.1,0.30000000000000004)'"]),
    ("earth", &["ext.ll_to_earth(0, 0)", "ext.ll_to_earth(-90, 0)", "ext.ll_to_earth(52.5, 13.4)"]),
    ("ean13", &["'000000000000?'", "'978039304002?'", "'999999999999?'"]),
    ("isbn13", &["'978000000000?'", "'978039304002?'", "'978999999999?'"]),
    ("isbn", &["'000000000?'", "'039304002?'", "'999999999?'"]),
    ("ismn13", &["'979000000000?'", "'979026000043?'"]),
    ("ismn", &["'M00000000?'", "'M26000043?'"]),
    ("issn13", &["'977000000000?'", "'977143645200?'"]),
    ("issn", &["'0000000?'", "'1436452?'"]),
    ("upc", &["'000000000000'", "'22035601004?'"]),
];

/// Types that a primary key may have and a capture refuses, with a word of the reason.
const REFUSED: &[(&str, &str, &str)] = &[
    ("regproc", "'now'", "renamed"),
    ("regprocedure", "'now()'", "renamed"),
    ("regoper", "'pg_catalog.||/'", "renamed"),
    ("regoperator", "'+(integer,integer)'", "renamed"),
    ("regclass", "'pg_class'", "renamed"),
    ("regtype", "'integer'", "renamed"),
    ("regconfig", "'english'", "renamed"),
    ("regdictionary", "'simple'", "renamed"),
    ("regnamespace", "'public'", "renamed"),
    ("regrole", "'pg_monitor'", "renamed"),
    ("regcollation", "'\"C\"'", "renamed"),
    ("seg", "'3.14159265'", "digits"),
];

/// Internal to catalogues: nobody can write a value of them.
const NOT_WRITTEN: &[&str] = &["pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list"];

/// The types of extensions stand in a schema that no search path names.
fn prepare(db: &Db) {
    db.execute(
        "CREATE SCHEMA ext;
         CREATE EXTENSION citext SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext; CREATE EXTENSION ltree SCHEMA ext;
         CREATE EXTENSION cube SCHEMA ext; CREATE EXTENSION earthdistance SCHEMA ext; CREATE EXTENSION seg SCHEMA ext;
         CREATE EXTENSION isn SCHEMA ext; CREATE EXTENSION lo SCHEMA ext;
         CREATE COLLATION ext.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         SET search_path = ext, public;
         CREATE TYPE mood AS ENUM ('z', 'a', 'so \"so\"', '');
         CREATE TYPE pair AS (number numeric, words citext);
         CREATE DOMAIN positive AS int CHECK (VALUE > 0);
         CREATE DOMAIN text_domain AS varchar(20);
         CREATE DOMAIN short_name AS text_domain CHECK (length(VALUE) < 10);
         CREATE TYPE floats AS RANGE (subtype = float8);",
    );
}

fn cases() -> Vec<Case> {
    [NUMBERS, TEXTS, TIMES, COMPOUNDS, OTHERS].into_iter().flatten().copied().collect()
}

fn verified(file: &Path) -> Report {
    let loaded = headwater::config::load_file(file).expect("the configuration");
    block_on(verify::run(&loaded.pipelines[0], Options::default())).expect("a report")
}

/// Loads `tables` of so many rows each two rows at a time, then their updates, killed on the way.
fn read_in_steps(test: &Test, db: &Db, tables: &[(String, usize)]) {
    let configured: Vec<Value> = tables
        .iter()
        .map(|(name, _)| json!({"schema": "public", "table": name, "topic": test.topic(name), "watermark": "at", "partitions": 1}))
        .collect();
    // Polls ask every table: seldom, so that chunks are not kept waiting.
    let keys = json!({"chunk_rows": 2, "max_transaction_rows": 2, "poll_interval_ms": 3000});
    let file = write(test, "capture.yml", &config(test, keys, json!(configured)));
    catch_up(test, &file, &[]);
    for (name, _) in tables {
        db.execute(&format!("UPDATE {name} SET at = now(), n = n + 1"));
    }
    let failpoint = format!("capture.after_commit=kill@{}", setting("HEADWATER_KEY_STEPS", 7));
    let mut kills = 0;
    loop {
        let mut run = start(test, &file, &["--until-caught-up"], &[("HEADWATER_FAILPOINTS", &failpoint)]);
        match run.wait(Duration::from_secs(120)) {
            Exit::Code(0) => break,
            Exit::Signal(libc::SIGKILL) if kills < 500 => kills += 1,
            other => panic!("{other:?} instead of an end or a kill:\n{}", said(&run)),
        }
    }
    catch_up(test, &file, &[]);
    let mut wrong = Vec::new();
    for (name, rows) in tables {
        let found = committed(test, &test.topic(name)).len();
        if found != rows * 2 {
            wrong.push(format!("{name}: {found} messages of {rows} rows in two versions"));
        }
    }
    eprintln!("keys: {} tables, {kills} kills", tables.len());
    let report = verified(&file);
    assert!(wrong.is_empty(), "{wrong:#?}\n{report}");
    let counts = &report.counts;
    assert!(report.ok && counts.changed_in_place_count + counts.pending_count + counts.expired_count == 0, "{report}");
    assert_eq!(counts.topic_versions, 2 * tables.iter().map(|(_, rows)| *rows as u64).sum::<u64>());
}

#[test]
fn every_type_of_key_is_read_in_steps_of_two_rows() {
    let test = Test::new();
    let db = test.db();
    prepare(&db);
    let mut tables = Vec::new();
    for (n, (key, values)) in cases().iter().enumerate() {
        let rows: Vec<String> = values.iter().map(|value| format!("({value})")).collect();
        db.execute(&format!(
            "CREATE TABLE public.k{n} (k {key} PRIMARY KEY, at timestamptz NOT NULL DEFAULT '2025-01-15', n int DEFAULT 0);
             INSERT INTO public.k{n} (k) VALUES {}",
            rows.join(", ")
        ));
        tables.push((format!("k{n}"), values.len()));
    }
    // No type of this server and its extensions is forgotten.
    let types = db.rows(
        "SELECT t.typname FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
         WHERE t.typtype IN ('b', 'd', 'r', 'm', 'e') AND t.typisdefined AND t.typnamespace IN ('pg_catalog'::regnamespace, 'ext'::regnamespace)
           AND NOT (t.typcategory = 'A' AND t.typname LIKE '\\_%') AND t.oid NOT IN (SELECT atttypid FROM pg_attribute WHERE attname = 'k')",
    );
    let forgotten: Vec<String> = types
        .into_iter()
        .flatten()
        .flatten()
        .filter(|name| !NOT_WRITTEN.contains(&name.as_str()) && !REFUSED.iter().any(|(refused, ..)| refused == name))
        .filter(|name| {
            let quoted = headwater::postgres::quote_ident(name);
            let made = db.try_execute(&format!("CREATE TABLE made (k {quoted} PRIMARY KEY); DROP TABLE made"));
            // The names of these two are not those of the types that they are made for.
            made.is_ok() && !["text_domain", "floatsmultirange", "floats_multirange"].contains(&name.as_str())
        })
        .collect();
    assert!(forgotten.is_empty(), "types without a case: {forgotten:?}");
    read_in_steps(&test, &db, &tables);
}

#[test]
fn every_type_is_read_in_steps_as_a_part_of_a_key() {
    let test = Test::new();
    let db = test.db();
    prepare(&db);
    let mut tables = Vec::new();
    for (n, (key, values)) in cases().iter().enumerate() {
        // Two columns before it whose operators stand in different schemas, and one behind it.
        let rows: Vec<String> = values.iter().map(|value| format!("('b', 1.0, {value}, 1)")).collect();
        db.execute(&format!(
            "CREATE TABLE public.c{n} (before citext, number numeric, k {key}, after int,
               at timestamptz NOT NULL DEFAULT '2025-01-15', n int DEFAULT 0, PRIMARY KEY (before, number, k, after));
             INSERT INTO public.c{n} VALUES {};
             INSERT INTO public.c{n} SELECT before, number, k, 2 FROM public.c{n} ORDER BY k LIMIT 1;
             INSERT INTO public.c{n} SELECT 'C', number, k, 2 FROM public.c{n} ORDER BY k, after LIMIT 1;
             INSERT INTO public.c{n} SELECT before, 1.5, k, 2 FROM public.c{n} ORDER BY k, after LIMIT 1",
            rows.join(", ")
        ));
        tables.push((format!("c{n}"), values.len() + 3));
    }
    read_in_steps(&test, &db, &tables);
}

#[test]
fn a_key_after_which_reading_cannot_go_on_is_refused() {
    let test = Test::new();
    let db = test.db();
    prepare(&db);
    let mut tables = Vec::new();
    for (n, (key, value, _)) in REFUSED.iter().enumerate() {
        db.execute(&format!(
            "CREATE TABLE public.r{n} (k {key} PRIMARY KEY, at timestamptz NOT NULL DEFAULT '2025-01-15');
             INSERT INTO public.r{n} (k) VALUES ({value})"
        ));
        tables.push(json!({"schema": "public", "table": format!("r{n}"), "topic": test.topic(&format!("r{n}")), "watermark": "at"}));
    }
    // Nor has every type an order, where the key is named by the configuration.
    db.execute("CREATE TABLE public.points (k point NOT NULL, at timestamptz NOT NULL)");
    tables.push(
        json!({"schema": "public", "table": "points", "topic": test.topic("points"), "watermark": "at", "key": ["k"]}),
    );
    let file = write(&test, "capture.yml", &config(&test, json!({}), json!(tables)));
    let mut run = start(&test, &file, &["--until-caught-up"], &[]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}", said(&run));
    let told = doctor(&test, file.to_str().expect("a path"), &[]);
    let all = REFUSED.iter().map(|(key, _, word)| (*key, *word)).chain([("point", "no order")]);
    for (n, (key, word)) in all.enumerate() {
        let name = if key == "point" { "points".to_owned() } else { format!("r{n}") };
        let (message, cure) = told.trouble("failure", "table", &format!("\"{name}\""));
        assert!(message.contains(word) && message.contains(key), "{key}: {message}");
        assert!(cure.contains("capture.tables[].key"), "{cure}");
        assert!(said(&run).contains(&message), "{message}");
        assert!(committed(&test, &test.topic(&name)).is_empty());
    }
}

/// Cuts between rows whose keys are the same to the server, though their bytes are not.
#[test]
fn rows_with_equal_keys_of_other_bytes_are_not_torn_apart() {
    let test = Test::new();
    let db = test.db();
    prepare(&db);
    db.execute(
        "CREATE TABLE public.equals (a citext NOT NULL, b numeric NOT NULL, n int NOT NULL, at timestamptz NOT NULL DEFAULT '2025-01-15');
         INSERT INTO public.equals SELECT CASE WHEN n % 2 = 0 THEN 'k' ELSE 'K' END || n / 6, ('1.' || repeat('0', n % 3))::numeric, n
         FROM generate_series(1, 60) n",
    );
    let tables = json!([{"schema": "public", "table": "equals", "topic": test.topic("equals"), "watermark": "at", "key": ["a", "b"]}]);
    let keys = json!({"chunk_rows": 2, "max_transaction_rows": 2});
    let file = write(&test, "capture.yml", &config(&test, keys, tables));
    catch_up(&test, &file, &[]);
    assert_eq!(committed(&test, &test.topic("equals")).len(), 60);
    db.execute("UPDATE public.equals SET at = now()");
    catch_up(&test, &file, &[]);
    assert_eq!(committed(&test, &test.topic("equals")).len(), 120);
    let report = verified(&file);
    assert!(report.ok, "{report}");
}

/// What cannot be followed is refused with words, rather than read in part.
#[test]
fn what_hides_or_leaves_out_rows_is_refused() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
         CREATE TABLE parts (id int, at timestamptz NOT NULL DEFAULT now()) PARTITION BY LIST (id);
         CREATE TABLE part PARTITION OF parts FOR VALUES IN (1);
         CREATE FOREIGN TABLE far PARTITION OF parts FOR VALUES IN (2) SERVER elsewhere;
         CREATE TABLE hidden (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
         INSERT INTO hidden SELECT generate_series(1, 200);
         ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
         CREATE POLICY odd ON hidden USING (id % 2 = 1)",
    );
    let role = test.postgres.db.clone() + "_reader";
    db.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT pg_monitor TO {role}; GRANT SELECT ON hidden, parts TO {role}"
    ));
    let tables = json!([
        {"table": "hidden", "topic": test.topic("hidden"), "watermark": "at"},
        {"table": "parts", "topic": test.topic("parts"), "watermark": "at", "key": ["id"]},
    ]);
    let mut configuration = config(&test, json!({}), tables);
    configuration["postgres"]["user"] = json!(role);
    let file = write(&test, "capture.yml", &configuration);
    let mut run = start(&test, &file, &["--until-caught-up"], &[]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}", said(&run));
    let told = said(&run);
    assert!(told.contains("BYPASSRLS") && told.contains("far"), "{told}");
    for table in ["hidden", "parts"] {
        assert!(committed(&test, &test.topic(table)).is_empty(), "rows of {table}, of which some are missing");
    }
}

/// A parent's key does not hold for its children: the same key may stand in both.
#[test]
fn rows_of_a_parent_and_its_child_with_one_key_are_not_torn_apart() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE parent (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT '2025-01-15', place text);
         CREATE TABLE child () INHERITS (parent);
         INSERT INTO parent (id, place) SELECT n, 'parent' FROM generate_series(1, 60) n;
         INSERT INTO child (id, place) SELECT n, 'child' FROM generate_series(1, 60) n",
    );
    let tables = json!([{"table": "parent", "topic": test.topic("parent"), "watermark": "at"}]);
    let keys = json!({"chunk_rows": 3, "max_transaction_rows": 3});
    let file = write(&test, "capture.yml", &config(&test, keys, tables));
    catch_up(&test, &file, &[]);
    assert_eq!(committed(&test, &test.topic("parent")).len(), 120);
    db.execute("UPDATE child SET at = now() WHERE id % 2 = 0; UPDATE ONLY parent SET at = now() WHERE id % 3 = 0");
    catch_up(&test, &file, &[]);
    assert_eq!(committed(&test, &test.topic("parent")).len(), 120 + 30 + 20);
    let report = verified(&file);
    assert!(report.ok, "{report}");
}

#[test]
fn columns_whose_long_names_differ_in_the_last_byte_are_two() {
    let test = Test::new();
    let db = test.db();
    let name = |last: char| format!("{}{last}", "n".repeat(62));
    db.execute(&format!(
        "CREATE TABLE long ({a} int PRIMARY KEY, {b} timestamptz NOT NULL, {c} text);
         INSERT INTO long SELECT n, '2025-01-15', 'row ' || n FROM generate_series(1, 10) n",
        a = name('a'),
        b = name('b'),
        c = name('c'),
    ));
    let tables = json!([{"table": "long", "topic": test.topic("long"), "watermark": name('b')}]);
    let file = write(&test, "capture.yml", &config(&test, json!({"chunk_rows": 2}), tables));
    catch_up(&test, &file, &[]);
    db.execute(&format!("UPDATE long SET {} = now() WHERE {} = 7", name('b'), name('a')));
    catch_up(&test, &file, &[]);
    let messages = committed(&test, &test.topic("long"));
    assert_eq!(messages.len(), 11);
    let row = messages.last().expect("a row").json();
    assert_eq!((&row[name('a')], &row[name('c')]), (&json!(7), &json!("row 7")), "{row}");
    assert!(row[name('b')].is_string(), "{row}");
    assert!(verified(&file).ok);
}

#[test]
fn a_database_of_bytes_in_no_encoding_is_refused() {
    let mut test = Test::new();
    let name = format!("{}_ascii", test.postgres.db);
    test.db().execute(&format!(
        "CREATE DATABASE \"{name}\" ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    ));
    test.postgres.db = name;
    test.db().execute(
        r"CREATE TABLE bytes (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), name text);
         INSERT INTO bytes VALUES (1, now(), E'\xff'), (2, now(), 'good')",
    );
    let tables = json!([{"table": "bytes", "topic": test.topic("bytes"), "watermark": "at"}]);
    let file = write(&test, "capture.yml", &config(&test, json!({}), tables));
    let mut run = start(&test, &file, &["--until-caught-up"], &[]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}", said(&run));
    assert!(said(&run).contains("SQL_ASCII") && said(&run).contains("ENCODING 'UTF8'"), "{}", said(&run));
    let found = doctor(&test, file.to_str().expect("a path"), &[]);
    assert_eq!(found.exit, Exit::Code(1), "{found}");
    assert!(found.to_string().contains("SQL_ASCII"), "{found}");
}
