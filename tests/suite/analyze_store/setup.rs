//! Tables, roles and the job's own table: made where that may be, told where not.

use super::{chat, flush_of, full_flush, lead, open, window};
use crate::harness::{Db, Test, block_on};
use headwater::{
    analyze::store::{Job, Kind, Measure, Output, Settings, Store, StoreError},
    config::model::Postgres,
};

#[test]
fn instances_that_start_together_migrate_once() {
    // In two databases of one cluster, which share their roles.
    let tests = [Test::new(), Test::new()];
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..10)
            .map(|n| &tests[n % 2])
            .map(|test| (test, scope.spawn(|| open(test).setup().applied.clone())))
            .collect();
        let mut applied: Vec<(String, &str)> = runs
            .into_iter()
            .flat_map(|(test, run)| run.join().unwrap().into_iter().map(|name| (test.prefix.clone(), name)))
            .collect();
        applied.sort();
        let expected: Vec<(String, &str)> = tests
            .iter()
            .flat_map(|test| {
                ["0001_analyze", "0002_days", "0003_views", "0004_logs", "0005_owners"]
                    .map(|name| (test.prefix.clone(), name))
            })
            .collect();
        assert_eq!(applied, expected);
    });
    for test in &tests {
        assert_eq!(test.db().count("SELECT count(*) FROM headwater_migrations WHERE checksum <> ''"), 5);
        let again = open(test);
        assert_eq!(again.setup().applied, Vec::<&str>::new());
        assert_eq!(again.setup().roles_left, Vec::<String>::new());
    }
}

#[test]
fn a_changed_a_missing_and_an_unknown_migration_are_told() {
    let test = Test::new();
    let refusal =
        |settings: &Settings| block_on(Store::open(&test.postgres, chat(), settings.clone())).err().expect("a refusal");
    let only_check = Settings { migrate: false, ..Settings::default() };
    let error = refusal(&only_check);
    assert!(matches!(&error, StoreError::NotMigrated { names, .. } if names.starts_with("0001_analyze, ")), "{error}");
    open(&test);
    assert!(block_on(Store::open(&test.postgres, chat(), only_check.clone())).is_ok());
    let db = test.db();
    db.execute("INSERT INTO headwater_migrations (name, checksum) VALUES ('9999_later', '')");
    assert!(matches!(refusal(&only_check), StoreError::NewerMigration { name, .. } if name == "9999_later"));
    db.execute("DELETE FROM headwater_migrations WHERE name = '9999_later'");
    db.execute("UPDATE headwater_migrations SET checksum = 'x' WHERE name = '0002_days'");
    for settings in [only_check, Settings::default()] {
        let error = refusal(&settings);
        assert!(matches!(&error, StoreError::ChangedMigration { name, .. } if name == "0002_days"), "{error}");
    }
}

#[test]
fn a_schema_that_is_not_there_is_told() {
    let test = Test::new();
    let settings = Settings { schema: Some("my tables".to_owned()), ..Settings::default() };
    let error = block_on(Store::open(&test.postgres, chat(), settings.clone())).err().expect("a refusal");
    assert!(error.to_string().ends_with("CREATE SCHEMA \"my tables\""), "{error}");
    let db = test.db();
    db.execute("CREATE SCHEMA \"my tables\"");
    let mut leader = lead(&block_on(Store::open(&test.postgres, chat(), settings)).unwrap());
    block_on(leader.flush(&full_flush(10))).unwrap();
    assert_eq!(db.count("SELECT count(*) FROM \"my tables\".chat_summary_minute_20250115"), 2);
}

/// The same server under another role, which is made.
fn as_role(test: &Test, name: &str) -> Postgres {
    let user = format!("{name}_{}", test.prefix.replace('-', "_"));
    test.db().execute(&format!("CREATE ROLE {user} LOGIN"));
    Postgres { user, ..test.postgres.clone() }
}

fn denied(db: &Db, sql: &str) {
    let error = db.try_execute(sql).expect_err(sql);
    assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{sql}: {error}");
}

#[test]
fn owner_writer_and_reader_may_what_they_need_and_no_more() {
    let test = Test::new();
    open(&test);
    let admin = test.db();
    let (writer, reader) = (as_role(&test, "writer"), as_role(&test, "reader"));
    let settings = Settings { migrate: false, retention_days: Some(30), ..Settings::default() };
    let error = block_on(Store::open(&writer, chat(), settings.clone())).err().expect("a refusal");
    assert!(error.to_string().ends_with(&format!("GRANT headwater_writer TO \"{}\"", writer.user)), "{error}");
    admin.execute(&format!("GRANT headwater_writer TO {}; GRANT headwater_reader TO {}", writer.user, reader.user));

    // All that the program does, with the writer's role alone: small and large flushes, days made and dropped.
    let store = block_on(Store::open(&writer, chat(), settings)).unwrap();
    let mut leader = lead(&store);
    block_on(leader.flush(&full_flush(10))).unwrap();
    block_on(leader.flush(&full_flush(20))).unwrap();
    let many = (0..5_000).map(|n| window(&format!("s{n}"), super::NOON_MS, 1)).collect();
    block_on(leader.flush(&flush_of(many, 30))).unwrap();
    block_on(leader.keep_days(super::NOON_MS + 100 * super::DAY_MS));
    assert_eq!(admin.count("SELECT count(*) FROM chat_summary_minute"), 0, "dropped");
    block_on(leader.flush(&full_flush(40))).unwrap();
    drop(leader);

    let writer = Db::connect(&writer);
    denied(&writer, "DROP TABLE moments");
    denied(&writer, "DELETE FROM chat_summary_minute");
    denied(&writer, "UPDATE headwater_migrations SET checksum = ''");
    denied(&writer, "CREATE TABLE mine (n int)");

    let reader = Db::connect(&reader);
    for relation in [
        "chat_latest",
        "chat_last_hour",
        "chat_top_emotes_hour",
        "moments_today",
        "chat_summary_minute",
        "chat_summary_minute_20250115",
        "moments",
        "late_events",
        "dead_letters",
        "analyze_jobs",
        "analyze_partitions",
    ] {
        reader.execute(&format!("SELECT * FROM {relation}"));
    }
    denied(&reader, "INSERT INTO moments (moment_id) VALUES ('x')");
    denied(&reader, "UPDATE chat_summary_minute SET chat_count = 0");
    denied(&reader, "DELETE FROM dead_letters");
    denied(&reader, "SELECT headwater_drop_day('chat_summary_minute', now())");
    let owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(admin.rows(owners), [[Some("headwater_owner".to_owned())]]);
}

#[test]
fn a_role_that_may_not_make_roles_tells_what_to_run() {
    let test = Test::new();
    // So that they are there, whichever test runs first.
    open(&Test::new());
    let admin = test.db();
    let plain = as_role(&test, "plain");
    admin.execute(&format!("GRANT CREATE, USAGE ON SCHEMA public TO {}", plain.user));
    let store = block_on(Store::open(&plain, chat(), Settings::default())).unwrap();
    let left = store.setup().roles_left.clone();
    assert!(left.contains(&format!("GRANT headwater_owner TO {}", plain.user)), "{left:?}");
    let mut leader = lead(&store);
    block_on(leader.flush(&full_flush(10))).unwrap();
    assert_eq!(admin.count("SELECT count(*) FROM chat_summary_minute_20250115"), 2, "it works all the same");
    for statement in &left {
        admin.execute(statement);
    }
    let again = block_on(Store::open(&plain, chat(), Settings::default())).unwrap();
    assert_eq!(again.setup().roles_left, Vec::<String>::new());
    block_on(leader.flush(&full_flush(20))).unwrap();
}

fn clicks() -> Job {
    let measure = |column: &str, kind| Measure { column: column.to_owned(), kind, is_nullable: kind == Kind::Float };
    Job {
        name: "clicks".to_owned(),
        declaration: "as shipped".to_owned(),
        output: Output {
            schema: None,
            table: "Clicks by page".to_owned(),
            key_column: "The page".to_owned(),
            measures: vec![measure("clicks", Kind::Integer), measure("avg \"ms\"", Kind::Float)],
        },
    }
}

#[test]
fn a_declared_table_is_made_or_the_statement_for_it_is_told() {
    let test = Test::new();
    let db = test.db();
    let error = block_on(Store::open(&test.postgres, clicks(), Settings::default())).err().expect("a refusal");
    let StoreError::NoTable { create, .. } = &error else { panic!("{error}") };
    assert!(error.to_string().contains("create_tables"), "{error}");
    let told = create.clone();
    let settings = Settings { create_tables: true, ..Settings::default() };
    let store = block_on(Store::open(&test.postgres, clicks(), settings.clone())).unwrap();
    assert!(store.setup().created);
    let mut leader = lead(&store);
    let mut row = window("/", super::NOON_MS, 3);
    row.values.truncate(1);
    row.values.push(headwater::analyze::window::Value::Integer(7));
    block_on(leader.flush(&flush_of(vec![row], 1))).unwrap();
    let found = db.rows("SELECT tableoid::regclass, \"The page\", clicks, \"avg \"\"ms\"\"\" FROM \"Clicks by page\"");
    assert_eq!(found, [["\"Clicks by page_20250115\"", "/", "3", "7"].map(|s| Some(s.to_owned()))]);
    assert!(!block_on(Store::open(&test.postgres, clicks(), settings.clone())).unwrap().setup().created);
    drop(leader);

    db.execute("DROP TABLE \"Clicks by page\"");
    db.execute(&told);
    db.execute("ALTER TABLE \"Clicks by page\" OWNER TO headwater_owner");
    block_on(Store::open(&test.postgres, clicks(), Settings::default())).unwrap();
}

#[test]
fn a_table_that_does_not_fit_is_told_with_statements_that_cure_it() {
    let test = Test::new();
    let db = test.db();
    open(&test);
    db.execute(
        "CREATE TABLE \"Clicks by page\" (\"The page\" varchar(20), window_start timestamp, window_end timestamptz,
           clicks int, is_final boolean, revision bigint, approximate boolean, updated_at timestamptz, more int NOT NULL)",
    );
    let refuse = || block_on(Store::open(&test.postgres, clicks(), Settings::default()));
    let error = refuse().err().expect("a refusal");
    let StoreError::Table { problems, cure, .. } = &error else { panic!("{error}") };
    for named in [
        "varchar",
        "timestamp without",
        "\"clicks\" is integer",
        "no column \"avg \"\"ms\"\"\"",
        "\"more\"",
        "primary key",
    ] {
        assert!(problems.replace("character varying", "varchar").contains(named), "no {named:?} in {problems}");
    }
    db.execute(cure);
    let mut leader = lead(&refuse().unwrap());
    let mut row = window("/", super::NOON_MS, 3);
    row.values.truncate(1);
    block_on(leader.flush(&flush_of(vec![row], 1))).unwrap();
    db.execute("DROP TABLE \"Clicks by page\"; CREATE VIEW \"Clicks by page\" AS SELECT 1 AS n");
    assert!(refuse().err().expect("a refusal").to_string().contains("a view"));
}
