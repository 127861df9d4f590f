//! deploy/postgres/init.sh, which makes the databases that the shipped configurations name.

use crate::{
    doctor::{ROOM, ended},
    harness::{DEADLINE, Db, Run, Test, eventually, run::Exit},
};
use headwater::{
    config::model::{Postgres, Secret},
    demo::servers::{PostgresOptions, PostgresServer},
};
use std::{
    path::Path,
    process::{Command, Output},
};

const SUPERUSER: &str = "of the superuser";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn secret(name: &str) -> String {
    repository().join("deploy/secrets").join(name).display().to_string()
}

/// Runs the script as PostgreSQL's image does, with the files that docker-compose.yml gives it.
fn init(server: &PostgresServer, sources: &Path) -> Output {
    Command::new("bash")
        .arg(repository().join("deploy/postgres/init.sh"))
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", server.port().to_string())
        .env("PGPASSWORD", SUPERUSER)
        .env("STUDENT_PASSWORD_FILE", secret("student_password"))
        .env("TELEMETRA_PASSWORD_FILE", secret("telemetra_password"))
        .env("SOURCES", sources)
        .output()
        .expect("bash")
}

fn server(test: &Test, name: &str) -> PostgresServer {
    let options = PostgresOptions { password: Some(SUPERUSER.to_owned()), ..PostgresOptions::default() };
    PostgresServer::start(&test.path(name), options).expect("PostgreSQL")
}

#[test]
fn the_databases_of_the_shipped_configurations_are_made_and_do() {
    let test = Test::new();
    let server = server(&test, "postgres");
    let done = init(&server, &repository().join("db/source"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    let db = Db::connect(&server.config("postgres"));
    for (database, owner) in [("food_delivery_db", "student"), ("telemetra", "telemetra")] {
        let sql = format!("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{database}'");
        assert_eq!(db.value(&sql), owner, "owner of {database}");
    }
    let orders = Db::connect(&server.config("food_delivery_db"));
    let made = "SELECT tableowner, indexname, indexdef FROM pg_tables JOIN pg_indexes USING (schemaname, tablename)
                WHERE tablename = '2025em1100506_orders' AND indexname LIKE '%created_at%'";
    let [row] = &orders.rows(made)[..] else { panic!("one table with one such index") };
    let [owner, index, definition] = &row[..] else { panic!("{row:?}") };
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    assert_eq!((text(owner), text(index)), ("student".to_owned(), "2025em1100506_orders_created_at_idx".to_owned()));
    assert!(text(definition).ends_with("(created_at)"), "{row:?}");

    // Both pipelines are well there, by the names and passwords that the compose file gives them.
    let (port, topics) = (server.port(), ["orders", "chat", "viewer"].map(|name| test.topic(name)));
    let shared = [
        ("KAFKA_BOOTSTRAP_SERVERS", test.brokers.clone()),
        ("LAKEHOUSE_PATH", test.path("lake").display().to_string()),
        ("CHECKPOINT_LOCATION", test.path("checkpoints").display().to_string()),
        ("LAST_PROCESSED_LOCATION", test.path("last").display().to_string()),
        ("HEADWATER__HTTP__LISTEN", "127.0.0.1:0".to_owned()),
    ];
    let student = [
        ("POSTGRES_URL", format!("jdbc:postgresql://127.0.0.1:{port}/food_delivery_db")),
        ("HEADWATER__POSTGRES__PASSWORD_FILE", secret("student_password")),
        ("ORDERS_TOPIC", topics[0].clone()),
        ("HEADWATER__PIPELINE", test.topic("orders")),
    ];
    let telemetra = [
        ("POSTGRES_URL", format!("jdbc:postgresql://127.0.0.1:{port}/telemetra")),
        ("HEADWATER__POSTGRES__PASSWORD_FILE", secret("telemetra_password")),
        ("HEADWATER__PIPELINE", test.topic("chat")),
        ("HEADWATER__ANALYZE__JOBS__0__INPUTS__0__TOPIC", topics[1].clone()),
        ("HEADWATER__ANALYZE__JOBS__0__INPUTS__1__TOPIC", topics[2].clone()),
        ("HEADWATER__LAND__TABLES__0__TOPIC", topics[1].clone()),
        ("HEADWATER__LAND__TABLES__1__TOPIC", topics[2].clone()),
    ];
    for (file, further) in [("orders_stream.yml", &student[..]), ("chat.yml", &telemetra[..])] {
        let path = repository().join("configs").join(file).display().to_string();
        let environment: Vec<(&str, &str)> = shared.iter().chain(further).map(|(name, it)| (*name, &**it)).collect();
        let run = |arguments: &[&str]| Run::with_env(&test, &[arguments, &["-c", &path]].concat(), &environment);
        let mut topics = run(&["topics"]);
        assert_eq!(topics.wait(DEADLINE), Exit::Code(0), "{file}: {}", topics.stderr());
        // What analyze makes at its first start is not there yet.
        ended(run(&["doctor", "--format", "json"])).assert_well(&[ROOM, "window table"]);
        // The role may do all that the stages do, too.
        let mut stages = run(&["run"]);
        let is_ready = || stages.get("/ready").is_some_and(|(code, _)| code == 200);
        eventually(DEADLINE, "readiness", is_ready);
        stages.terminate();
        assert_eq!(stages.wait(DEADLINE), Exit::Code(0), "{file}: {}", stages.stderr());
        ended(run(&["doctor", "--format", "json"])).assert_well(&[ROOM]);
    }
    let windows = "SELECT tableowner FROM pg_tables WHERE tablename = 'chat_summary_minute'";
    assert_eq!(Db::connect(&server.config("telemetra")).value(windows), "headwater_owner");

    // A wrong password is one.
    let wrong =
        Postgres { user: "student".into(), password: Some(Secret::new("wrong")), ..server.config("food_delivery_db") };
    assert!(Db::try_connect(&wrong).is_err());
}

#[test]
fn a_database_that_cannot_be_made_whole_ends_the_start() {
    let test = Test::new();
    let server = server(&test, "postgres");
    let done = init(&server, &test.path("nowhere"));
    assert!(!done.status.success(), "without its sources");
    let again = init(&server, &repository().join("db/source"));
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("already exists"), "twice");
}
