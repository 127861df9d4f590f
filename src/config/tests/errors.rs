//! Every kind of fault, with its line, key, constraint and value, all of them at once.

use super::*;

/// Replaces text in [`GENERAL`] and gives the one error that comes of it.
fn spoilt(from: &str, to: &str) -> String {
    assert!(GENERAL.contains(from), "{from}");
    error(&GENERAL.replacen(from, to, 1))
}

#[test]
fn unreadable_files() {
    let absent = crate::config::load(Path::new("/nowhere/p.yml"), &Environment::default()).unwrap_err();
    assert!(absent.to_string().starts_with("/nowhere/p.yml: cannot be read: No such file"), "{absent}");
    let broken = error("a: [1\nb: 2\n");
    assert!(broken.starts_with("p.yml:2: is not valid YAML:"), "{broken}");
    assert!(error("kafka: 1\nkafka: 2\n").contains("duplicate"));
}

#[test]
fn everything_at_once_in_the_order_of_lines() {
    let text = "\
postgres:
  host: h
  port: 70000
  pasword: hunter2
kafka:
  brokers: PLAINTEXT://k:9092
  topic: a b
datalake:
  path: /lake/orders
  format: delta
streaming:
  batch_interval: soon
runtime: [1]
";
    assert_eq!(
        errors(text),
        [
            "p.yml:1: postgres.db is missing: give it, or postgres.jdbc_url with a database",
            "p.yml:1: postgres.user is missing: give it, or postgres.jdbc_url with ?user=..",
            "p.yml:3: postgres.port must be a whole number from 1 to 65535; it is 70000",
            "p.yml:4: postgres.pasword is not a key of the configuration\n    did you mean postgres.password?",
            "p.yml:6: kafka.brokers must be a comma-separated list of host:port, without a scheme; it is \"PLAINTEXT://k:9092\"",
            "p.yml:7: kafka.topic must be a Kafka topic: 1 to 249 letters, digits, dots, dashes and underscores, not \".\" or \"..\"; it is \"a b\"",
            "p.yml:10: datalake.format must be parquet: this format does not exist yet in Headwater; it is \"delta\"",
            "p.yml:12: streaming.batch_interval must be a number above 0 and at most 86400; it is \"soon\"",
            "p.yml:13: runtime must be a section of keys; it is a list",
        ]
    );
}

#[test]
fn wrong_types_and_ranges() {
    let cases = [
        (
            "brokers: k:9092",
            "brokers: k:9092\n  create_topics: maybe",
            "p.yml:5: kafka.create_topics must be true or false; it is \"maybe\"",
        ),
        ("db: d", "db: [d]", "p.yml:2: postgres.db must be a text; it is a list"),
        (
            "db: d",
            "db: ''",
            "p.yml:2: postgres.db must be a text that is not empty (remove the key to leave it out); it is \"\"",
        ),
        (
            "user: u",
            "user: u, port: '5'",
            "p.yml:2: postgres.port must be a whole number from 1 to 65535, without quotes; it is \"5\"",
        ),
        (
            "user: u",
            "user: u, tls_mode: strict",
            "p.yml:2: postgres.tls_mode must be one of disable, prefer, require, verify-full; it is \"strict\"",
        ),
        (
            "capture:",
            "capture:\n  slack_ms: 0",
            "p.yml:6: capture.slack_ms must be a whole number from 1 to 86400000; it is 0",
        ),
        (
            "capture:",
            "capture:\n  timezone: Mars",
            "p.yml:6: capture.timezone must be the IANA name of a time zone, such as Europe/Berlin; it is \"Mars\"",
        ),
        ("capture:", "capture:\n  timezone:", "p.yml:6: capture.timezone has no value: give one, or remove the key"),
        (
            "watermark: created_at",
            "watermark: created_at\n      key: id",
            "p.yml:10: capture.tables[0].key must be a list of texts, such as [a, b]; it is \"id\"",
        ),
        (
            "watermark: created_at",
            "watermark: created_at\n      partitions: 0",
            "p.yml:10: capture.tables[0].partitions must be a whole number from 1 to 100000; it is 0",
        ),
        (
            "land:",
            "land:\n  compression_level: 23",
            "p.yml:11: land.compression_level must be a whole number from 1 to 22; it is 23",
        ),
        (
            "date_column: created_at",
            "date_column: d\n      overflow_column: Date",
            "p.yml:15: land.tables[0].overflow_column cannot be told from \"date\", which every table has of its own: give another name; it is \"Date\"",
        ),
        (
            "date_column: created_at",
            "date_column: d\n      overflow_column: rest\n      rename: {a: REST}",
            "p.yml:16: land.tables[0].rename.a \"REST\" cannot be told from \"rest\": give another name",
        ),
        (
            "date_column: created_at",
            "date_column: d\n      rename: {a: b, b: c}",
            "p.yml:15: land.tables[0].rename.a \"b\" is renamed itself: give a name that no field has",
        ),
        (
            "date_column: created_at",
            "date_column: d\n      numeric_precision: 39",
            "p.yml:15: land.tables[0].numeric_precision must be a whole number from 1 to 38; it is 39",
        ),
        (
            "date_column: created_at",
            "date_column: d\n      numeric_precision: 5\n      numeric_scale: 6",
            "p.yml:16: land.tables[0].numeric_scale must be at most land.tables[0].numeric_precision, which is 5; it is \"6\"",
        ),
        (
            "pipeline: p",
            "http: {listen: '9464'}",
            "p.yml:1: http.listen must be address:port, such as 127.0.0.1:9464, or null; it is \"9464\"",
        ),
        (
            "pipeline: p",
            "http: {allowed_hosts: ['box:9464']}",
            "p.yml:1: http.allowed_hosts[0] must be the name of a host without a port, such as headwater.example.org; it is \"box:9464\"",
        ),
        (
            "pipeline: p",
            "http: {token: two words}",
            "p.yml:1: http.token must hold visible ASCII characters only, as `openssl rand -hex 32` gives them",
        ),
        (
            "path: /lake/orders",
            "path: s3://lake/orders",
            "p.yml:13: land.tables[0].path must be a path on a local file system; it is \"s3://lake/orders\"",
        ),
        (
            "pipeline: p",
            "pipeline: a/b",
            "p.yml:1: pipeline must be a name of at most 100 letters, digits, dots, dashes and underscores that begins with a letter or digit; it is \"a/b\"",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(spoilt(from, to), expected);
    }
}

#[test]
fn missing_keys() {
    assert!(spoilt("  brokers: k:9092\n", "").starts_with("p.yml:3: kafka.brokers is missing"));
    assert!(
        spoilt("      watermark: created_at\n", "")
            .starts_with("p.yml:7: capture.tables[0].watermark is missing: Column of type")
    );
    assert!(
        spoilt("      date_column: created_at\n", "").starts_with("p.yml:12: land.tables[0].date_column is missing")
    );
    assert!(spoilt("host: h, ", "").starts_with("p.yml:2: postgres.host is missing: give it, or postgres.jdbc_url"));
    assert!(error("kafka: {brokers: 'k:1'}").contains("configures nothing to do"));
    assert!(error("kafka: {brokers: 'k:1', topic: t}").contains("kafka.topic is used by nothing"));
    assert_eq!(errors("").len(), 1);
    let no_topic = "postgres: {host: h, db: d, user: u, table: t}\nkafka: {brokers: 'k:1'}\ndatalake: {path: /l}";
    assert!(errors(no_topic)[0].starts_with("p.yml:2: kafka.topic is missing: postgres.table is published to it"));
    let no_path =
        "postgres: {host: h, db: d, user: u, table: t}\nkafka: {brokers: 'k:1', topic: t}\ndatalake: {format: parquet}";
    assert!(error(no_path).starts_with("p.yml:3: datalake.path is missing"));
    assert!(spoilt("db: d", "db: d, watermark: x").contains("belongs to postgres.table, which is not given"));
}

#[test]
fn nearest_keys() {
    assert!(spoilt("pipeline: p", "pipline: p").ends_with("did you mean pipeline?"));
    assert!(spoilt("capture:", "capture:\n  poll_interval: 5").ends_with("did you mean capture.poll_interval_ms?"));
    assert!(spoilt("kafka:", "kafka:\n  slack_ms: 5").ends_with("did you mean capture.slack_ms?"));
    assert!(
        spoilt("      topic: orders\n", "      topics: orders\n").ends_with("did you mean capture.tables[0].topic?")
    );
    let nothing_like_it = spoilt("pipeline: p", "http: {zzz: 1}");
    assert_eq!(
        nothing_like_it,
        "p.yml:1: http.zzz is not a key of the configuration; known here: listen, allowed_hosts, token, token_file, show_payloads"
    );
}

#[test]
fn overrides_have_errors_too() {
    let error = |name: &str, value: &str| {
        let mut errors = errors_with(GENERAL, &[(name, value)]);
        assert_eq!(errors.len(), 1, "{errors:#?}");
        errors.remove(0)
    };
    assert_eq!(
        error("HEADWATER__KAFKA__BROKER", "x:1"),
        "environment variable HEADWATER__KAFKA__BROKER: is not a key of the configuration\n    did you mean HEADWATER__KAFKA__BROKERS?"
    );
    assert!(
        error("HEADWATER__CAPTURE__TABLES__3__TOPICS", "x")
            .ends_with("did you mean HEADWATER__CAPTURE__TABLES__0__TOPIC?")
    );
    assert_eq!(
        error("HEADWATER__CAPTURE__SLACK_MS", "x"),
        "environment variable HEADWATER__CAPTURE__SLACK_MS: capture.slack_ms must be a whole number from 1 to 86400000; it is \"x\""
    );
    assert!(error("HEADWATER__CAPTURE__TABLES__3__TOPIC", "x").contains("skips items of a list that has 1"));
    assert!(error("HEADWATER__TENANTS", "[a").contains("tenants is not valid YAML"));
}

#[test]
fn unset_variables() {
    assert_eq!(
        spoilt("brokers: k:9092", "brokers: ${BROKERS}"),
        "p.yml:4: kafka.brokers needs the environment variable BROKERS, which is not set: set it, or give a default as ${NAME:-default}"
    );
    assert!(spoilt("brokers: k:9092", "brokers: ${BROKERS:?ask Ann}").ends_with("is not set: ask Ann"));
    assert!(spoilt("brokers: k:9092", "brokers: '${BROKERS'").contains("without its }"));
    // What hangs on the value is not called missing as well.
    assert!(spoilt("host: h, db: d, user: u", "jdbc_url: '${URL}'").contains("variable URL"));
    assert!(
        error(&format!("tenants: ${{TENANTS}}\n{}", GENERAL.replace(": orders", ": '{tenant}'")))
            .contains("variable TENANTS")
    );
}

#[test]
fn two_that_disagree() {
    let jdbc = |rest: &str, keys: &str| {
        error(&format!(
            "postgres: {{jdbc_url: 'jdbc:postgresql://h:5/d{rest}', user: u, table: t, {keys}}}\nkafka: {{brokers: 'k:1', topic: t}}"
        ))
    };
    for (rest, keys, name) in [
        ("", "host: x", "host"),
        ("", "port: 6", "port"),
        ("", "db: x", "db"),
        ("?user=x", "port: 5", "user"),
        ("?password=hunter2", "password: hunter3", "password"),
        ("?sslmode=require", "tls_mode: disable", "tls_mode"),
    ] {
        let expected =
            format!("p.yml:1: postgres.{name} disagrees with postgres.jdbc_url: make them equal, or keep one of them");
        assert_eq!(jdbc(rest, keys), expected);
    }
    assert!(
        spoilt("user: u, password: secret-one", "user: u, password: x, password_file: /y")
            .starts_with("p.yml:2: postgres.password_file and postgres.password are both given: keep one")
    );
    let twice = "postgres: {host: h, db: d, user: u, table: t}\nkafka: {brokers: 'k:1', topic: t}\nstreaming: {batch_interval: 5}\ncapture: {poll_interval_ms: 5}";
    assert_eq!(
        error(twice),
        "p.yml:4: capture.poll_interval_ms and streaming.batch_interval are both given: keep one of them"
    );
    let columns = "date_column: d\n      source: {table: t}\n      schema_file: /x";
    assert!(
        spoilt("date_column: created_at", columns).contains("schema_file and land.tables[0].source are both given")
    );
    let several =
        error("postgres: {jdbc_url: 'jdbc:postgresql://a,b/d', user: u, table: t}\nkafka: {brokers: 'k:1', topic: t}");
    assert!(several.contains("must be a URL of a single host"), "{several}");
}

#[test]
fn files_that_are_not_there() {
    assert!(
        spoilt("password: secret-one", "password_file: /nowhere/x")
            .starts_with("p.yml:2: postgres.password_file names a file that cannot be read: No such file")
    );
    let empty = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(empty.path(), "\n").unwrap();
    let to = format!("password_file: {}", empty.path().display());
    assert!(spoilt("password: secret-one", &to).contains("cannot be read: it is empty"));
    assert!(
        spoilt("user: u", "user: u, tls_mode: verify-full, tls_ca_file: /nowhere").contains("tls_ca_file names a file")
    );
    assert!(spoilt("user: u", "user: u, tls_ca_file: /nowhere").contains("postgres.tls_mode is not verify-full"));
    assert!(
        spoilt("brokers: k:9092", "brokers: k:1\n  security_protocol: ssl\n  ssl_ca_file: /tmp")
            .contains("p.yml:6: kafka.ssl_ca_file")
    );
}

#[test]
fn kafka_security_goes_together() {
    let sasl = errors(&GENERAL.replace("brokers: k:9092", "brokers: k:9092\n  security_protocol: SASL_SSL"));
    let missing: Vec<_> = sasl.iter().map(|error| error.split(": ").nth(1).unwrap_or_default()).collect();
    assert_eq!(
        missing,
        ["kafka.sasl_mechanism is missing", "kafka.sasl_username is missing", "kafka.sasl_password is missing"]
    );
    assert!(
        spoilt("brokers: k:9092", "brokers: k:1\n  sasl_username: x").contains("neither sasl_plaintext nor sasl_ssl")
    );
    assert!(spoilt("brokers: k:9092", "brokers: k:1\n  ssl_ca_file: Cargo.toml").contains("neither ssl nor sasl_ssl"));
    let half = spoilt("brokers: k:9092", "brokers: k:1\n  security_protocol: ssl\n  ssl_key_file: Cargo.toml");
    assert!(half.contains("kafka.ssl_certificate_file is missing: certificate and key go together"), "{half}");
}

#[test]
fn properties_that_are_ours() {
    for name in [
        "transactional.id",
        "enable.idempotence",
        "isolation.level",
        "group.id",
        "enable.auto.commit",
        "auto.offset.reset",
        "bootstrap.servers",
        "security.protocol",
        "sasl.password",
        "SASL.username",
        "ssl.key.password",
        "ssl.key.pem",
    ] {
        let error = spoilt("brokers: k:9092", &format!("brokers: k:9092\n  properties:\n    {name}: hunter2"));
        assert!(
            error.starts_with(&format!("p.yml:6: kafka.properties.{name} cannot be set as a property: ")),
            "{error}"
        );
        assert!(!error.contains("hunter2"));
    }
}

#[test]
fn tables_that_clash() {
    let with_table = |table: &str| GENERAL.replace("land:\n", &format!("    - {table}\nland:\n"));
    let with_landing = |landing: &str| format!("{GENERAL}    - {landing}\n");
    let cases = [
        (
            with_table("{table: x, topic: orders, watermark: w}"),
            "p.yml:10: capture.tables[1].topic is the same topic as capture.tables[0].topic in line 8; it is \"orders\"",
        ),
        (
            with_table("{table: orders, topic: x, watermark: w}"),
            "p.yml:10: capture.tables[1].table is the same table as capture.tables[0].table in line 7; it is \"orders\"",
        ),
        (
            with_table("{table: x, topic: headwater-p-checkpoints, watermark: w}"),
            "p.yml:5: capture.checkpoint_topic is the same topic as capture.tables[1].topic in line 10; it is \"headwater-p-checkpoints\"",
        ),
        (
            with_landing("{topic: orders, path: /x, date_column: d}"),
            "p.yml:15: land.tables[1].topic is the same topic as land.tables[0].topic in line 12; it is \"orders\"",
        ),
        (
            with_landing(
                "{topic: x, path: /lake/orders/, date_column: d, source: {table: x}, checkpoint_location: /c, dead_letter_path: /d}",
            ),
            "p.yml:15: land.tables[1].path is the same directory as land.tables[0].path in line 13; it is \"/lake/orders/\"",
        ),
        (
            with_landing(
                "{topic: x, path: /lake/orders/x, date_column: d, source: {table: x}, checkpoint_location: /c, dead_letter_path: /d}",
            ),
            "p.yml:15: land.tables[1].path lies inside the directory that serves as land.tables[0].path in line 13; it is \"/lake/orders/x\"",
        ),
        (
            with_landing("{topic: x, path: /y, date_column: d, source: {table: x}, checkpoint_location: /y/c}"),
            "p.yml:15: land.tables[1].checkpoint_location lies inside the directory that serves as land.tables[1].path in line 15; it is \"/y/c\"",
        ),
        (
            with_landing(
                "{topic: x, path: /y, date_column: d, source: {table: x}, checkpoint_location: /lake/orders_checkpoints}",
            ),
            "p.yml:15: land.tables[1].checkpoint_location is the same directory as the checkpoints of land.tables[0].checkpoint_location; it is \"/lake/orders_checkpoints\"",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error(&text), expected);
    }
    assert!(
        spoilt("capture:", "capture:\n  chunk_rows: 200000")
            .contains("must be at most capture.max_transaction_rows, which is 100000")
    );
    assert!(spoilt("watermark: created_at", "watermark: w\n      retention_ms: 0").contains("-1 to keep everything"));
    assert!(
        spoilt("watermark: created_at", "watermark: w\n      key: [a, a]").contains("names a thing twice; it is \"a\"")
    );
    assert!(
        spoilt("topic: orders\n      path", "topic: other\n      path").contains("land.tables[0].source is missing")
    );
}

#[test]
fn errors_never_show_a_secret() {
    let variables = [
        ("POSTGRES_PASSWORD", "hunter2-a"),
        ("MY_PW", "hunter2-b"),
        ("HEADWATER__KAFKA__SASL_PASSWORD", "hunter2-c"),
        ("URL", "jdbc:postgresql://h:1/d?password=hunter2-d"),
    ];
    let text = "\
postgres:
  jdbc_url: ${URL}
  host: other
  password: ${MY_PW}
  passwort: hunter2-e
  user: [hunter2-f]
  port: ${POSTGRES_PASSWORD}
  db: hunter2-b
  tls_mode: ${MY_PW}
kafka:
  brokers: '${MY_PW}://'
  topic: 'x ${POSTGRES_PASSWORD}'
  security_protocol: hunter2-c
  properties: {sasl.password: hunter2-g, ssl.key.pem: [hunter2-h]}
capture:
  timezone: hunter2-d
";
    let errors = load_text(Path::new("p.yml"), text, &environment(&variables)).unwrap_err();
    assert!(errors.list().len() >= 10);
    for shown in [errors.to_string(), format!("{errors:?}"), serde_json::to_string(errors.list()).unwrap()] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    // Even where the URL that holds it cannot be read.
    for url in [
        "jdbc:postgresql://u:hunter2@h/d",
        "postgres://hunter2",
        "jdbc:postgresql://h:hunter2/d?x",
        "jdbc:postgresql://h/d?password=a&hunter2",
    ] {
        let text = format!("postgres: {{jdbc_url: '{url}', user: u, table: t}}\nkafka: {{brokers: 'k:1', topic: t}}");
        let errors = super::errors(&text);
        assert!(
            !errors.is_empty()
                && errors.iter().all(|error| !error.contains("hunter2") || url.starts_with("postgres://")),
            "{errors:#?}"
        );
    }
}
