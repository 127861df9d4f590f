//! The captured tables: rights, kinds, keys, indexes, conditions, transactions that hold them up, checkpoints.

use super::{Said, doctor, run_sql};
use crate::{
    harness::{Db, Test, kafka::create_topic, run::Exit},
    lake_faults::topics::delete_topic,
    pipeline::{catch_up, config, write},
};
use headwater::demo::servers::{PostgresOptions, PostgresServer};
use serde_json::{Value, json};

/// What the doctor says of a capture of these tables, each with the watermark `created_at` unless it has its own.
fn look(test: &Test, tables: &[Value], more: &[&str]) -> Said {
    let file = write(test, "capture.yml", &config(test, json!({}), Value::Array(tables.to_vec())));
    doctor(test, &file.display().to_string(), more)
}

fn table(test: &Test, name: &str) -> Value {
    json!({"table": name, "topic": test.topic(name), "watermark": "created_at"})
}

#[test]
fn every_right_that_is_missing_is_told_as_the_statement_that_gives_it() {
    let mut test = Test::new();
    let owner = test.db();
    let role = format!("Reader {}", test.prefix);
    owner.execute(&format!("CREATE ROLE \"{role}\" LOGIN"));
    owner.execute(
        "CREATE SCHEMA \"Odd schema\";
         CREATE TABLE \"Odd schema\".\"The orders\" (order_id bigint PRIMARY KEY, created_at timestamptz NOT NULL);
         CREATE INDEX ON \"Odd schema\".\"The orders\" (created_at)",
    );
    test.postgres.user = role.clone();
    let tables =
        [json!({"schema": "Odd schema", "table": "The orders", "topic": test.topic("o"), "watermark": "created_at"})];
    let mut told = Vec::new();
    loop {
        let said = look(&test, &tables, &[]);
        let failures: Vec<_> = said.findings.iter().filter(|finding| finding["outcome"] == "failure").collect();
        let cures: Vec<String> =
            failures.iter().map(|finding| finding["cure"].as_str().unwrap_or_default().to_owned()).collect();
        if cures.is_empty() {
            said.assert_well(&[]);
            break;
        }
        assert_eq!(said.exit, Exit::Code(1), "{said}");
        for cure in cures {
            assert!(!told.contains(&cure), "told again after it was run: {cure}");
            run_sql(&owner, &cure);
            told.push(cure);
        }
    }
    told.sort();
    assert_eq!(
        told,
        [
            format!("GRANT SELECT ON \"Odd schema\".\"The orders\" TO \"{role}\";"),
            format!("GRANT USAGE ON SCHEMA \"Odd schema\" TO \"{role}\";"),
            format!("GRANT pg_monitor TO \"{role}\";"),
        ]
    );
    owner.execute(&format!("DROP OWNED BY \"{role}\"; REVOKE pg_monitor FROM \"{role}\"; DROP ROLE \"{role}\""));
}

#[test]
fn an_index_that_is_missing_or_of_no_use_is_told_with_the_statement() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE bare (id bigint PRIMARY KEY, created_at timestamptz);
         CREATE INDEX ON bare (id, created_at);
         CREATE TABLE partial (id bigint PRIMARY KEY, created_at timestamptz);
         CREATE INDEX partial_some ON partial (created_at) WHERE id > 5;
         CREATE TABLE brin (id bigint PRIMARY KEY, created_at timestamptz);
         CREATE INDEX ON brin USING brin (created_at);
         CREATE TABLE invalid (id bigint PRIMARY KEY, created_at timestamptz);
         INSERT INTO invalid VALUES (1, '2025-01-01'), (2, '2025-01-01');
         CREATE TABLE good (id bigint PRIMARY KEY, created_at timestamptz);
         CREATE INDEX ON good (created_at DESC, id);
         CREATE TABLE parted (id bigint, created_at timestamptz, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);
         CREATE TABLE parted_old PARTITION OF parted FOR VALUES FROM (MINVALUE) TO ('2025-01-01');
         CREATE TABLE parted_new PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO (MAXVALUE)",
    );
    // As an attempt leaves it that fails at the end.
    db.try_execute("CREATE UNIQUE INDEX CONCURRENTLY invalid_created ON invalid (created_at)").expect_err("not unique");
    db.execute("DELETE FROM invalid");
    let names = ["bare", "partial", "brin", "invalid", "good", "parted"];
    let tables: Vec<Value> = names.iter().map(|name| table(&test, name)).collect();
    let said = look(&test, &tables, &[]);
    assert_eq!(said.exit, Exit::Code(0), "warnings only: {said}");
    assert_eq!(look(&test, &tables, &["--strict"]).exit, Exit::Code(1));
    said.assert_ok("index", "good");
    for (name, told, cure) in [
        ("bare", "no index begins", r#"CREATE INDEX CONCURRENTLY ON "public"."bare" ("created_at");"#),
        (
            "partial",
            "partial_some leaves rows out",
            r#"CREATE INDEX CONCURRENTLY ON "public"."partial" ("created_at");"#,
        ),
        ("brin", "keeps no order", r#"CREATE INDEX CONCURRENTLY ON "public"."brin" ("created_at");"#),
        ("invalid", "invalid_created is not valid", "REINDEX INDEX CONCURRENTLY invalid_created;"),
        ("parted", "no index begins", r#"CREATE INDEX ON "public"."parted" ("created_at");"#),
    ] {
        let (message, found) = said.trouble("warning", "index", name);
        assert!(message.contains(told), "{name}: {message}");
        assert_eq!(found, cure);
        if name != "parted" {
            run_sql(&db, &found);
        }
    }
    // Of a partitioned table each partition may have its own.
    db.execute("CREATE INDEX ON parted_old (created_at)");
    let (message, cure) = look(&test, &tables, &[]).trouble("warning", "index", "parted");
    assert!(message.starts_with("1 of its partitions"), "{message}");
    assert_eq!(cure, r#"CREATE INDEX CONCURRENTLY ON parted_new ("created_at");"#);
    run_sql(&db, &cure);
    look(&test, &tables, &["--strict"]).assert_well(&[]);
    db.execute("DROP INDEX parted_old_created_at_idx, parted_new_created_at_idx; CREATE INDEX ON parted (created_at)");
    look(&test, &tables, &["--strict"]).assert_well(&[]);
}

#[test]
fn updates_that_leave_the_watermark_alone_are_a_warning() {
    let test = Test::new();
    let db = test.db();
    let names = ["leaving", "setting", "still"];
    for name in names {
        db.execute(&format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, status text, created_at timestamptz);
             CREATE INDEX ON {name} (created_at)"
        ));
        // Oldest first, each in a transaction of its own.
        for n in 0..30 {
            db.execute(&format!("INSERT INTO {name} VALUES ({n}, 'new', now() - interval '{} minutes')", 60 - n * 2));
        }
    }
    db.execute("UPDATE leaving SET status = 'done' WHERE id IN (3, 4, 20)");
    db.execute("UPDATE setting SET status = 'done', created_at = now() WHERE id IN (3, 4)");
    crate::harness::eventually(crate::harness::DEADLINE, "the updates are counted", || {
        db.count("SELECT count(*) FROM pg_stat_user_tables WHERE n_tup_upd > 0") == 2
    });
    let tables = names.map(|name| table(&test, name));
    let said = look(&test, &tables, &[]);
    assert_eq!(said.exit, Exit::Code(0), "warnings only: {said}");
    let (message, cure) = said.trouble("warning", "updates", "leaving");
    assert!(message.contains("3 of the newest 1,000 rows") && cure.contains("updated_at"), "{message} {cure}");
    look(&test, &tables[1..], &["--strict"]).assert_well(&[]);
}

#[test]
fn what_cannot_be_captured_is_told_with_the_key_to_set() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE good (id bigint PRIMARY KEY, created_at timestamptz); CREATE INDEX ON good (created_at);
         CREATE TABLE keyless (id bigint, created_at timestamptz);
         CREATE VIEW view AS SELECT * FROM good;
         CREATE TABLE texts (id bigint PRIMARY KEY, created_at text)",
    );
    let with = |name: &str, key: &str, value: Value| {
        let mut table = table(&test, name);
        table[key] = value;
        table
    };
    for (configured, check, told, cure) in [
        (table(&test, "nowhere"), "table", "does not exist", "postgres.table"),
        (table(&test, "keyless"), "table", "has no primary key", "capture.tables[].key"),
        (table(&test, "view"), "table", "is a view", "capture.tables[].table"),
        (table(&test, "texts"), "table", "is of type text", "capture.tables[].watermark"),
        (with("good", "watermark", json!("updated_at")), "table", "has no column updated_at", "postgres.watermark"),
        (with("good", "columns", json!(["id", "sum"])), "table", "has no column sum", "capture.tables[].columns"),
        (with("good", "where", json!("sum > 5")), "filter", "column \"sum\" does not exist", "capture.tables[].where"),
    ] {
        let said = look(&test, &[configured.clone(), with("good", "topic", json!(test.topic("other")))][..1], &[]);
        assert_eq!(said.exit, Exit::Code(1), "{configured}: {said}");
        let (message, found) = said.trouble("failure", check, configured["table"].as_str().unwrap());
        assert!(message.contains(told), "{message}");
        assert!(found.contains(cure), "{message}: {found}");
    }
    // A condition with a comment at its end hides nothing, as in a poll.
    look(&test, &[with("good", "where", json!("id > 5 -- some"))], &[]).assert_well(&[]);

    // A table that somebody holds: the others are looked at all the same, soon.
    let holder = test.db();
    holder.execute("BEGIN; LOCK TABLE texts IN ACCESS EXCLUSIVE MODE");
    let said = look(&test, &[table(&test, "texts"), table(&test, "good")], &[]);
    let (message, cure) = said.trouble("warning", "table", "texts");
    assert!(message.contains("could not be locked"), "{message}");
    assert!(!db.rows(&cure).is_empty(), "the statement shows who holds it: {cure}");
    said.assert_ok("table", "good");
}

#[test]
fn transactions_that_are_open_for_long_are_told_with_the_statement_that_ends_them() {
    let test = Test::new();
    let db = test.db();
    db.execute("CREATE TABLE rows (id bigint PRIMARY KEY, created_at timestamptz); CREATE INDEX ON rows (created_at)");
    let tables = [table(&test, "rows")];
    let long: Db = test.db();
    let other = Db::connect(&headwater::config::model::Postgres { db: "postgres".to_owned(), ..test.postgres.clone() });
    other.execute("BEGIN; SELECT pg_current_xact_id()");
    long.execute("BEGIN; INSERT INTO rows VALUES (1, now())");
    let backend = long.value("SELECT pg_backend_pid()");
    db.execute("BEGIN; INSERT INTO rows VALUES (2, now()); PREPARE TRANSACTION 'it''s prepared'");
    // Of age enough is what has been open for a second.
    crate::harness::eventually(crate::harness::DEADLINE, "a second has passed", || {
        db.value("SELECT now() - min(xact_start) > interval '1.5 s' FROM pg_stat_activity WHERE state = 'idle in transaction'") == "t"
            && db.value("SELECT now() - prepared > interval '1.5 s' FROM pg_prepared_xacts WHERE gid LIKE '%prepared' AND database = current_database()") == "t"
    });
    look(&test, &tables, &[]).assert_well(&[]);
    let said = look(&test, &tables, &["--long-transaction", "1"]);
    assert_eq!(said.exit, Exit::Code(0));
    let found = said.all("transactions", "");
    assert_eq!(found.len(), 2, "of this database, and not the other: {said}");
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    for finding in found {
        assert_eq!(finding["outcome"], "warning");
        let (message, cure) = (text(finding, "message"), text(finding, "cure"));
        if message.contains("process") {
            assert!(message.contains(&format!("process {backend} (postgres")), "{message}");
            assert!(
                message.contains("idle in transaction") && message.contains("its last query began 20"),
                "{message}"
            );
            assert_eq!(cure, format!("SELECT pg_terminate_backend({backend});"));
        } else {
            assert!(message.contains("it''s prepared"), "{message}");
            assert!(cure.starts_with("ROLLBACK PREPARED 'it''s prepared';"), "{cure}");
        }
        run_sql(&db, &cure);
    }
    look(&test, &tables, &["--long-transaction", "1"]).assert_well(&[]);
    drop(other);
}

#[test]
fn a_checkpoint_of_another_cluster_is_told_before_capture_stops() {
    let mut test = Test::new();
    let create = "CREATE TABLE rows (id bigint PRIMARY KEY, created_at timestamptz); CREATE INDEX ON rows (created_at);
                  INSERT INTO rows SELECT n, now() FROM generate_series(1, 10) n";
    test.db().execute(create);
    let tables = [table(&test, "rows")];
    look(&test, &tables, &[]).assert_ok("checkpoints", "checkpoints");
    catch_up(&test, &write(&test, "capture.yml", &config(&test, json!({}), json!(tables))), &[]);
    look(&test, &tables, &[]).assert_ok("checkpoints", "rows");

    let other = PostgresServer::start(&test.path("other"), PostgresOptions::default()).expect("another cluster");
    test.postgres = other.config("postgres");
    test.db().execute(create);
    let said = look(&test, &tables, &[]);
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "checkpoints", "rows");
    assert!(message.contains("system identifier") && cure.contains("--resync"), "{message} {cure}");
    catch_up(&test, &write(&test, "capture.yml", &config(&test, json!({}), json!(tables))), &["--resync"]);
    look(&test, &tables, &[]).assert_ok("checkpoints", "rows");

    let topic = test.topic("rows");
    delete_topic(&test, &topic);
    create_topic(&test.brokers, &topic, 1, &[]);
    let (message, cure) = look(&test, &tables, &[]).trouble("failure", "checkpoints", "rows");
    assert!(message.contains("was deleted and made again") && cure.contains("--resync"), "{message} {cure}");
}
