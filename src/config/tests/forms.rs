//! Short form, general form, tenants, environment: what they resolve to.

use super::*;
use crate::config::model::*;

pub const CONTRACT: &str = include_str!("../../../tests/data/orders_stream.yml");

#[test]
fn the_contract_loads_unchanged() {
    let config = load_text(Path::new("configs/orders_stream.yml"), CONTRACT, &Environment::default()).unwrap();
    assert_eq!(config.http.listen.as_deref(), Some("127.0.0.1:9464"));
    assert_eq!(
        config.runtime,
        Runtime { shutdown_timeout_ms: 30_000, wait_attempts: 60, wait_delay_ms: 2_000, stall_timeout_ms: 300_000 }
    );
    let [pipeline] = config.pipelines.as_slice() else { panic!("one pipeline") };
    assert_eq!(pipeline.name, "orders_stream");
    assert_eq!(
        pipeline.postgres,
        Some(Postgres {
            host: "postgres".into(),
            port: 5432,
            db: "food_delivery_db".into(),
            user: "student".into(),
            password: Some(Secret::new("student123")),
            tls_mode: TlsMode::Prefer,
            tls_ca_file: None,
            connect_timeout_ms: 10_000,
        })
    );
    assert_eq!(pipeline.kafka.brokers, "kafka:29092");
    assert!(pipeline.kafka.create_topics);
    assert_eq!(
        pipeline.capture,
        Some(Capture {
            poll_interval_ms: 5_000,
            slack_ms: 2_000,
            prepared_margin_ms: 86_400_000,
            timezone: None,
            chunk_rows: 100_000,
            max_transaction_rows: 100_000,
            max_transaction_bytes: 67_108_864,
            max_transaction_ms: 5_000,
            max_row_bytes: 900_000,
            lock_timeout_ms: 5_000,
            max_snapshot_ms: 2_000,
            checkpoint_topic: "headwater-orders_stream-checkpoints".into(),
            checkpoint_replication: 1,
            transactional_id: "headwater-orders_stream-capture".into(),
            compression: Compression::Lz4,
            dead_letter_topic: "headwater-orders_stream-dead-letters".into(),
            last_processed_timestamp_location: Some("/datalake/food/2025em1100506/lastprocess/orders".into()),
            tables: vec![CaptureTable {
                schema: None,
                table: "2025em1100506_orders".into(),
                topic: "2025em1100506_food_orders_raw".into(),
                watermark: "created_at".into(),
                key: vec![],
                columns: vec![],
                filter: None,
                partitions: 1,
                replication: 1,
                retention_ms: 604_800_000,
            }],
        })
    );
    assert_eq!(
        pipeline.land,
        Some(Land {
            group: "headwater-orders_stream".into(),
            rotate_ms: 5_000,
            rotate_bytes: 134_217_728,
            max_files: 1_000,
            buffer_bytes: 67_108_864,
            session_timeout_ms: 6_000,
            compression_level: 1,
            tables: vec![LandTable {
                topic: "2025em1100506_food_orders_raw".into(),
                path: "/datalake/food/2025em1100506/output/orders".into(),
                checkpoint_location: "/datalake/food/2025em1100506/checkpoints/orders".into(),
                dead_letter_path: "/datalake/food/2025em1100506/output/orders_dead_letters".into(),
                schema: LandSchema::Table { schema: None, table: "2025em1100506_orders".into(), columns: vec![] },
                date_column: "created_at".into(),
                not_null: vec!["order_id".into()],
                non_negative: vec!["amount".into()],
                numeric_precision: 38,
                numeric_scale: 18,
                overflow_column: None,
                metadata_columns: false,
                rename: std::collections::BTreeMap::new(),
                allow_network_file_system: false,
            }],
        })
    );
}

#[test]
fn the_short_form_is_tuned_by_general_sections() {
    let text = format!("{CONTRACT}\ncapture: {{slack_ms: 500}}\nland: {{rotate_ms: 700}}\nhttp: {{listen: null}}\n");
    let config = load(&text);
    assert_eq!(config.http.listen, None);
    assert_eq!(config.pipelines[0].capture.as_ref().unwrap().slack_ms, 500);
    assert_eq!(config.pipelines[0].land.as_ref().unwrap().rotate_ms, 700);
}

#[test]
fn both_forms_together() {
    let text = format!(
        "{CONTRACT}\ncapture: {{tables: [{{table: t, topic: t, watermark: w}}]}}\nland: {{tables: [{{topic: t, path: /lake/t, date_column: w}}]}}\n"
    );
    let pipeline = pipeline(&text);
    let topics: Vec<_> = pipeline.capture.unwrap().tables.into_iter().map(|table| table.topic).collect();
    assert_eq!(topics, ["2025em1100506_food_orders_raw", "t"]);
    let land = pipeline.land.unwrap();
    assert_eq!(land.rotate_ms, 5_000);
    assert_eq!(land.tables[1].schema, LandSchema::Table { schema: None, table: "t".into(), columns: vec![] });
    assert_eq!(land.tables[1].checkpoint_location, Path::new("/lake/t_checkpoints"));
    assert_eq!(land.tables[1].dead_letter_path, Path::new("/lake/t_dead_letters"));
}

#[test]
fn the_short_form_in_parts() {
    let capture = pipeline(
        "postgres: {host: h, db: d, user: u, table: sales.t, watermark: updated_at}\nkafka: {brokers: 'k:1', topic: t}\nstreaming: {batch_interval: 0.25}",
    );
    assert!(capture.land.is_none());
    let capture = capture.capture.unwrap();
    assert_eq!(capture.poll_interval_ms, 250);
    assert_eq!(capture.tables[0].schema.as_deref(), Some("sales"));
    assert_eq!(capture.tables[0].watermark, "updated_at");

    let error = error("kafka: {brokers: 'k:1', topic: t}\ndatalake: {path: /lake/t}");
    assert!(error.starts_with("p.yml:2: datalake.path needs the columns of its topic: give postgres.table"), "{error}");
}

#[test]
fn the_general_form_has_defaults_of_its_own() {
    let pipeline = pipeline(GENERAL);
    assert_eq!(pipeline.name, "p");
    let (capture, land) = (pipeline.capture.unwrap(), pipeline.land.unwrap());
    assert_eq!((capture.poll_interval_ms, land.rotate_ms), (1_000, 60_000));
    assert_eq!(capture.transactional_id, "headwater-p-capture");
    assert_eq!(land.group, "headwater-p");
    assert!(land.tables[0].not_null.is_empty());
}

#[test]
fn a_landing_alone_needs_no_database_when_a_file_names_its_columns() {
    let directory = tempfile::tempdir().unwrap();
    let schema = directory.path().join("s.json");
    std::fs::write(&schema, "{}").unwrap();
    let text = format!(
        "kafka: {{brokers: 'k:1'}}\nland: {{tables: [{{topic: t, path: /lake/t, date_column: d, schema_file: {}}}]}}",
        schema.display()
    );
    let pipeline = pipeline(&text);
    assert!(pipeline.postgres.is_none() && pipeline.capture.is_none());
    assert_eq!(pipeline.land.unwrap().tables[0].schema, LandSchema::File(schema));

    let text =
        "kafka: {brokers: 'k:1'}\nland: {tables: [{topic: t, path: /lake/t, date_column: d, source: {table: t}}]}";
    let errors = errors(text);
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(errors[0].starts_with("p.yml: postgres.host is missing"));
}

#[test]
fn smaller_transactions_bring_smaller_chunks() {
    let text = GENERAL.replace("capture:\n", "capture:\n  max_transaction_rows: 10\n  max_transaction_bytes: 5000\n");
    let capture = pipeline(&text).capture.unwrap();
    assert_eq!((capture.chunk_rows, capture.max_row_bytes), (10, 5_000));
    let text = GENERAL.replace("      date_column", "      numeric_precision: 5\n      date_column");
    let land = pipeline(&text).land.unwrap();
    assert_eq!((land.tables[0].numeric_precision, land.tables[0].numeric_scale), (5, 5));
}

#[test]
fn a_jdbc_url_suffices() {
    let short = |rest: &str| format!("postgres: {{table: t, {rest}}}\nkafka: {{brokers: 'k:1', topic: t}}");
    let postgres = |rest: &str| pipeline(&short(rest)).postgres.unwrap();
    let from_url = postgres("jdbc_url: 'jdbc:postgresql://h:6/d?user=u&password=p%26q&sslmode=require'");
    assert_eq!((from_url.host.as_str(), from_url.port, from_url.db.as_str()), ("h", 6, "d"));
    assert_eq!(from_url.password.as_ref().unwrap().reveal(), "p&q");
    assert_eq!(from_url.tls_mode, TlsMode::Require);
    assert_eq!(postgres("user: u, jdbc_url: 'jdbc:postgresql:d'").host, "localhost");
    let agreed = postgres("jdbc_url: 'jdbc:postgresql://h/d?user=u&password=p', host: h, password: p");
    assert_eq!((agreed.port, agreed.user.as_str()), (5432, "u"));
}

#[test]
fn numbers_may_be_texts_and_keep_their_digits() {
    let text = GENERAL.replace("secret-one", "0123").replace("table: orders", "table: 2025");
    let pipeline = pipeline(&text);
    assert_eq!(pipeline.postgres.unwrap().password.unwrap().reveal(), "0123");
    assert_eq!(pipeline.capture.unwrap().tables[0].table, "2025");
}

#[test]
fn overrides_win() {
    let variables = [
        ("HEADWATER__KAFKA__BROKERS", "x:1"),
        ("HEADWATER__CAPTURE__SLACK_MS", "7"),
        ("HEADWATER__CAPTURE__TABLES__0__TOPIC", "t2"),
        ("HEADWATER__LAND__TABLES__0__TOPIC", "t2"),
        ("HEADWATER__LAND__TABLES__0__NOT_NULL", "[id, x]"),
        ("HEADWATER__CAPTURE__TABLES__1", "{table: u, topic: u, watermark: w}"),
        ("HEADWATER__CAPTURE__TABLES__1__KEY__0", "k"),
        ("HEADWATER__CAPTURE__TABLES__1__WHERE", "x = '${y}'"),
        ("HEADWATER__KAFKA__PROPERTIES__SOCKET_TIMEOUT_MS", "9000"),
        ("HEADWATER__HTTP__LISTEN", "null"),
        ("HEADWATER__LAND__GROUP", ""),
        ("HEADWATER_FAILPOINTS", "x"),
    ];
    let config = load_with(GENERAL, &variables);
    assert_eq!(config.http.listen, None);
    let pipeline = &config.pipelines[0];
    assert_eq!(pipeline.kafka.brokers, "x:1");
    assert_eq!(pipeline.kafka.properties["socket.timeout.ms"], "9000");
    let (capture, land) = (pipeline.capture.as_ref().unwrap(), pipeline.land.as_ref().unwrap());
    assert_eq!(capture.slack_ms, 7);
    assert_eq!(capture.tables[0].topic, "t2");
    assert_eq!(capture.tables[1].key, ["k"]);
    assert_eq!(capture.tables[1].filter.as_deref(), Some("x = '${y}'"));
    assert_eq!(land.tables[0].not_null, ["id", "x"]);
    assert_eq!(land.group, "headwater-p");
}

#[test]
fn an_override_is_meant_where_the_file_says_otherwise() {
    let postgres = |variables: &[(&str, &str)]| load_with(CONTRACT, variables).pipelines.remove(0).postgres.unwrap();
    let url = postgres(&[("HEADWATER__POSTGRES__JDBC_URL", "jdbc:postgresql://a:1/b?user=c&password=d")]);
    assert_eq!((url.host.as_str(), url.port, url.db.as_str(), url.user.as_str()), ("a", 1, "b", "c"));
    assert_eq!(url.password.unwrap().reveal(), "d");
    let host = postgres(&[("HEADWATER__POSTGRES__HOST", "a"), ("HEADWATER__POSTGRES__PORT", "7")]);
    assert_eq!((host.host.as_str(), host.port, host.db.as_str()), ("a", 7, "food_delivery_db"));

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from-file\r\n").unwrap();
    let path = file.path().to_str().unwrap();
    let password = postgres(&[("HEADWATER__POSTGRES__PASSWORD_FILE", path)]).password.unwrap();
    assert_eq!(password.reveal(), "from-file");

    let config = load_with(CONTRACT, &[("HEADWATER__CAPTURE__POLL_INTERVAL_MS", "100")]);
    assert_eq!(config.pipelines[0].capture.as_ref().unwrap().poll_interval_ms, 100);
}

#[test]
fn a_credential_stands_for_the_key_of_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let path = directory.path().to_str().unwrap();
    let load = |text: &str, variables: &[(&str, &str)]| {
        let variables: Vec<(&str, &str)> = variables.iter().copied().chain([("CREDENTIALS_DIRECTORY", path)]).collect();
        load_text(Path::new("p.yml"), text, &environment(&variables))
    };
    let password = |variables: &[(&str, &str)]| {
        let postgres = load(CONTRACT, variables).unwrap().pipelines.remove(0).postgres.unwrap();
        postgres.password.unwrap().reveal().to_owned()
    };
    assert_eq!(password(&[]), "student123");
    put("postgres_password", "\n");
    assert_eq!(password(&[]), "student123", "what is without text is not given");
    put("postgres_password", "from the manager\n");
    assert_eq!(password(&[]), "from the manager");
    assert_eq!(password(&[("HEADWATER__POSTGRES__PASSWORD", "v")]), "v", "a variable is more explicit");

    // Without PostgreSQL there is nothing that it would be the password of.
    put("http_token", "t0ken");
    let land = "kafka: {brokers: 'k:1'}\nland:\n  tables:\n    - {topic: t, path: /l, checkpoint_location: /c, \
                schema_file: configs/schemas/chat.json, date_column: timestamp}\n";
    let config = load(land, &[]).unwrap();
    assert!(config.pipelines[0].postgres.is_none());
    assert_eq!(config.http.token.unwrap().reveal(), "t0ken", "http needs no section");
    put("kafka_sasl_password", "k");
    let errors = load(land, &[]).unwrap_err().to_string();
    assert!(errors.contains("CREDENTIALS_DIRECTORY: kafka.sasl_password_file is given, but"), "{errors}");
    let sasl = land.replace("'k:1'", "'k:1', security_protocol: sasl_ssl, sasl_mechanism: plain, sasl_username: u");
    assert!(load(&sasl, &[]).is_ok());
    std::fs::remove_file(directory.path().join("kafka_sasl_password")).unwrap();
    assert!(load(&sasl, &[]).is_err());
    // Where it cannot be read, its path is told.
    std::fs::create_dir(directory.path().join("kafka_sasl_password")).unwrap();
    let errors = load(&sasl, &[]).unwrap_err().to_string();
    assert!(errors.contains(&format!("{path}/kafka_sasl_password")), "{errors}");
}

#[test]
fn substituted_values_have_the_type_of_their_key() {
    let text = GENERAL
        .replace("host: h,", "host: h, port: \"${PORT}\", tls_ca_file: \"${CA:-}\",")
        .replace("user: u", "user: '$${U} ${WHO:-{x}}'")
        .replace("kafka:\n", "kafka:\n  create_topics: ${CREATE}\n")
        .replace("watermark: created_at", "watermark: created_at\n      key: ${KEY:-[a, b]}");
    let config = load_with(&text, &[("PORT", "6"), ("CREATE", "false")]);
    let postgres = config.pipelines[0].postgres.as_ref().unwrap();
    assert_eq!((postgres.port, postgres.user.as_str()), (6, "${U} {x}"));
    assert_eq!(postgres.tls_ca_file, None);
    assert!(!config.pipelines[0].kafka.create_topics);
    assert_eq!(config.pipelines[0].capture.as_ref().unwrap().tables[0].key, ["a", "b"]);
}

pub const TENANTS: &str = "\
tenants: [a, b]
postgres: {host: h, db: '{tenant}', user: u, table: '{tenant}_orders'}
kafka: {brokers: 'k:1', topic: '{tenant}_raw'}
datalake: {path: '/lake/{tenant}/orders'}
";

#[test]
fn tenants_are_pipelines() {
    let config = load(TENANTS);
    let names: Vec<_> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let b = &config.pipelines[1];
    assert_eq!(b.postgres.as_ref().unwrap().db, "b");
    let (capture, land) = (b.capture.as_ref().unwrap(), b.land.as_ref().unwrap());
    assert_eq!((capture.tables[0].table.as_str(), capture.tables[0].topic.as_str()), ("b_orders", "b_raw"));
    assert_eq!(capture.transactional_id, "headwater-p-b-capture");
    assert_eq!(land.group, "headwater-p-b");
    assert_eq!(land.tables[0].path, Path::new("/lake/b/orders"));
    assert_eq!(load_with(TENANTS, &[("HEADWATER__TENANTS", "[x]")]).pipelines[0].name, "x");
}

#[test]
fn tenants_that_are_not_isolated() {
    let text = TENANTS.replace("{tenant}_raw", "raw").replace("/{tenant}/", "/");
    let errors = errors(&text);
    assert_eq!(errors.len(), 4, "{errors:#?}");
    assert_eq!(
        errors[0],
        "p.yml:3: kafka.topic is the same topic for tenants a and b: put {tenant} into it; it is \"raw\""
    );
    assert!(errors[1].starts_with("p.yml:4: datalake.path is the same directory for tenants a and b"), "{errors:#?}");

    let error = error(
        "tenants: [a, b]\nkafka: {brokers: 'k:1', topic: '{tenant}'}\npostgres: {host: h, db: d, user: u, table: t}\ncapture: {transactional_id: x}",
    );
    assert!(error.starts_with("p.yml:4: capture.transactional_id is the same transactional id"), "{error}");
}

#[test]
fn tenants_do_not_write_one_table_of_windows() {
    let analyze = |postgres: &str, more: &str| {
        format!(
            "tenants: [a, b]\nkafka: {{brokers: 'k:1'}}\npostgres: {{{postgres}}}\nanalyze:\n  {more}jobs:\n  - {{name: j, table: w, key_column: k, \
             window_duration: 10 s, inputs: [{{name: i, topic: '{{tenant}}', key: k}}], measures: [{{column: n, function: count}}]}}\n"
        )
    };
    let words = "analyze.jobs[0].table is the same table for tenants a and b: put {tenant} into it; it is \"w\"";
    for (postgres, more) in [("host: h, db: d, user: u", ""), ("host: h, db: d, user: '{tenant}'", "schema: s\n  ")] {
        let error = error(&analyze(postgres, more));
        assert!(error.contains(words), "{error}");
    }
    for (postgres, more) in [
        ("host: h, db: '{tenant}', user: u", ""),
        ("host: h, db: d, user: u", "schema: '{tenant}'\n  "),
        // Each may have a schema of its name: the database knows.
        ("host: h, db: d, user: '{tenant}'", ""),
    ] {
        assert_eq!(load(&analyze(postgres, more)).pipelines.len(), 2, "{postgres} {more}");
    }
}

#[test]
fn placeholders_need_tenants() {
    let error = error(&GENERAL.replace("table: orders", "table: '{tenant}'"));
    assert!(error.starts_with("p.yml:7: capture holds {tenant}, but the file has no list of tenants"), "{error}");
    let errors = errors(&TENANTS.replace("[a, b]", "[a, a, 'x/y']"));
    assert!(errors[0].contains("names a tenant twice; it is \"a\""), "{errors:#?}");
    assert!(errors[1].contains("tenants[2] must be a name of at most"), "{errors:#?}");
    assert!(super::error(&TENANTS.replace("[a, b]", "[]")).contains("is empty"));
}

#[test]
fn the_name_comes_from_the_file() {
    let name = |path: &str| {
        load_text(Path::new(path), &GENERAL.replace("pipeline: p\n", ""), &Environment::default())
            .unwrap()
            .pipelines
            .remove(0)
            .name
    };
    assert_eq!(name("/x/my orders.yml"), "my-orders");
    assert_eq!(name("/x/.yml"), "yml");
    assert_eq!(name("/x/é.yml"), "pipeline");
}

#[test]
fn the_http_section_stands_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yml");
    let of = |text: &str| {
        std::fs::write(&path, text).unwrap();
        crate::config::load_http(&path, &Environment::default()).map_err(|errors| errors.to_string())
    };
    let http =
        of("kafka: {brokers: 'no: good'}\npostgres: {password: '${UNSET}'}\nzzz: 1\nhttp: {listen: 'h:1', token: t}\n")
            .unwrap();
    assert_eq!((http.listen.as_deref(), http.token.unwrap().reveal()), (Some("h:1"), "t"));
    let default = of("kafka: {brokers: k}\n").unwrap();
    assert_eq!((default.listen.as_deref(), default.show_payloads), (Some("127.0.0.1:9464"), true));
    assert!(default.token.is_none() && default.allowed_hosts.is_empty());
    let error = of("kafka: {brokers: 1}\nhttp: {listen: 1, tokn: x}\n").unwrap_err();
    assert!(error.contains("http.listen must be") && error.contains("did you mean http.token?"), "{error}");
    assert!(!error.contains("kafka"), "{error}");
    assert!(of("a: [").unwrap_err().contains("is not valid YAML"));
}
