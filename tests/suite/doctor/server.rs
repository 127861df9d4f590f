//! The server and the connection to it: refused logins, a standby, other clocks and zones, TLS, too few connections.

use super::{ORDERS, ROOM, Said, doctor, run_sql};
use crate::{
    autumn::faketime_library,
    certificates::{Authority, Validity},
    harness::{DEADLINE, Db, Run, Test, run::Exit},
};
use headwater::demo::servers::{PostgresOptions, PostgresServer, PostgresTls};
use serde_json::{Value, json};
use std::fs;

/// On a server of its own, with the orders.
fn on(options: PostgresOptions) -> (PostgresServer, Test) {
    let mut test = Test::new();
    let server = PostgresServer::start(&test.path("postgres"), options).expect("a server");
    test.postgres = server.config("postgres");
    (server, test)
}

/// A capture of the orders, with more keys for the section `postgres` and of the file.
fn file(test: &Test, postgres: Value, more: Value) -> String {
    let pg = &test.postgres;
    let mut config = json!({
        "pipeline": test.prefix,
        "postgres": {"host": pg.host, "port": pg.port, "db": pg.db, "user": pg.user, "tls_mode": "disable"},
        "kafka": {"brokers": test.brokers},
        "capture": {"tables": [{"table": "orders", "topic": test.topic("orders"), "watermark": "created_at"}]},
        "http": {"listen": null},
    });
    config["postgres"].as_object_mut().unwrap().extend(postgres.as_object().unwrap().clone());
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    test.write("server.yml", &format!("{config:#}\n")).display().to_string()
}

fn look(test: &Test, postgres: Value) -> Said {
    doctor(test, &file(test, postgres, json!({})), &[])
}

#[test]
fn a_refused_login_is_told_with_its_key() {
    let options = PostgresOptions { password: Some("right".to_owned()), ..PostgresOptions::default() };
    let (_server, test) = on(options);
    test.db().execute(ORDERS);
    for (wrong, cure) in [
        (json!({"password": "wrong"}), "postgres.password_file"),
        (json!({}), "postgres.password_file"),
        (json!({"password": "right", "db": "nowhere"}), "postgres.db"),
        (json!({"password": "right", "user": "nobody"}), "postgres.user"),
        (json!({"password": "right", "tls_mode": "require"}), "postgres.tls_mode"),
    ] {
        let said = look(&test, wrong.clone());
        assert_eq!(said.exit, Exit::Code(1), "{wrong}: {said}");
        let (message, told) = said.trouble("failure", "reachable", "/");
        assert!(told.contains(cure) && !message.contains("right"), "{wrong}: {message} {told}");
        assert_eq!(said.one("server", "")["outcome"], "not_checked");
    }
    look(&test, json!({"password": "right"})).assert_well(&[]);
}

#[test]
fn a_standby_is_no_source() {
    let (mut server, test) = on(PostgresOptions::default());
    test.db().execute(ORDERS);
    look(&test, json!({})).assert_well(&[]);
    fs::write(server.directory().join("data/standby.signal"), "").unwrap();
    server.restart().expect("a standby");
    let said = look(&test, json!({}));
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "standby", "");
    assert!(message.contains("standby") && cure.contains("postgres.host"), "{message} {cure}");
    assert_eq!(said.one("transactions", "")["outcome"], "not_checked");
    // Its tables can be looked at all the same.
    said.assert_ok("index", "orders");

    // Columns alone may come from one.
    let text = json!({"land": {"tables": [{
        "topic": test.topic("orders"), "path": test.path("lake"), "checkpoint_location": test.path("checkpoints"),
        "date_column": "created_at", "source": {"table": "orders"},
    }]}});
    let path = file(&test, json!({}), text);
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("capture");
    fs::write(&path, config.to_string()).unwrap();
    let said = doctor(&test, &path, &[]);
    said.assert_ok("standby", "");
    said.assert_ok("columns", &test.topic("orders"));
    assert_eq!(said.exit, Exit::Code(0), "{said}");

    assert_eq!(test.db().value("SELECT pg_promote()"), "t");
    look(&test, json!({})).assert_well(&[]);
}

#[test]
fn a_clock_that_is_wrong_is_told_with_how_much() {
    let environment = |seconds: i32| {
        vec![
            ("LD_PRELOAD".to_owned(), faketime_library().display().to_string()),
            ("FAKETIME".to_owned(), format!("{seconds:+}")),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ]
    };
    for (seconds, told) in [(90, "1.5 min ahead of"), (-3_600, "1 h behind")] {
        let (_server, test) = on(PostgresOptions { environment: environment(seconds), ..PostgresOptions::default() });
        test.db().execute(ORDERS);
        let said = look(&test, json!({}));
        let (message, cure) = said.trouble("warning", "clock", "");
        assert!(message.contains(told) && cure.contains("timedatectl"), "{message} {cure}");
        said.assert_well(&["clock"]);
    }
}

#[test]
fn tls_that_was_checked_is_told_apart() {
    let authority = Authority::new("authority");
    let directory = Test::new();
    let certificate = authority.issue(directory.dir(), "localhost", Validity::Now);
    let tls = Some(PostgresTls { certificate: certificate.certificate.clone(), key: certificate.key.clone() });
    let (_server, test) = on(PostgresOptions { tls, ..PostgresOptions::default() });
    test.db().execute(ORDERS);
    let ca = authority.write(test.dir());
    let said = look(&test, json!({"host": "localhost", "tls_mode": "verify-full", "tls_ca_file": ca}));
    said.assert_well(&[]);
    assert!(said.one("tls", "")["message"].as_str().unwrap().contains("TLSv1.3, and the server has proved"), "{said}");
    let said = look(&test, json!({"tls_mode": "verify-full", "tls_ca_file": ca}));
    let (message, cure) = said.trouble("failure", "reachable", "/");
    assert!(message.contains("IP address mismatch") && cure.contains("postgres.tls_ca_file"), "{message} {cure}");
    let said = look(&test, json!({"tls_mode": "prefer"}));
    assert!(said.one("tls", "")["message"].as_str().unwrap().ends_with("on this machine"), "{said}");
}

#[test]
fn a_time_zone_that_loses_rows_is_told() {
    let (_server, test) = on(PostgresOptions { timezone: "Europe/Berlin".to_owned(), ..PostgresOptions::default() });
    let db = test.db();
    db.execute(&ORDERS.replace("timestamptz", "timestamp"));
    // Nobody has said in which zone the local times are.
    let said = look(&test, json!({}));
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "time zone", "orders");
    assert!(message.contains("local time"), "{message}");
    assert_eq!(cure, "capture.timezone: Europe/Berlin");
    // As told.
    let (_, zone) = cure.split_once(": ").unwrap();
    let with_zone = |zone: &str| {
        let tables = json!([{"table": "orders", "topic": test.topic("orders"), "watermark": "created_at"}]);
        let path = file(&test, json!({}), json!({"capture": {"timezone": zone, "tables": tables}}));
        doctor(&test, &path, &[])
    };
    with_zone(zone).assert_well(&[]);
    with_zone("Europe/Paris").assert_well(&[]);
    let (message, cure) = with_zone("UTC").trouble("warning", "time zone", "orders");
    assert!(message.contains("lost"), "{message}");
    let statement = cure.lines().find(|line| line.starts_with("ALTER DATABASE")).expect("a statement");
    run_sql(&db, statement);
    with_zone("UTC").assert_well(&[]);
    db.execute("ALTER DATABASE postgres RESET timezone");

    // The role's own zone hides the one in which others write.
    db.execute("ALTER ROLE postgres SET timezone TO 'Asia/Tokyo'");
    let (_, cure) = look(&test, json!({})).trouble("failure", "time zone", "orders");
    run_sql(&db, &cure);
    db.execute("ALTER DATABASE postgres SET timezone TO 'UTC'");
    look(&test, json!({})).assert_well(&[]);

    // An instant needs no zone.
    db.execute(
        "ALTER DATABASE postgres SET timezone TO 'Asia/Tokyo'; ALTER TABLE orders ALTER created_at TYPE timestamptz",
    );
    look(&test, json!({})).assert_well(&[]);
}

#[test]
fn too_few_connections_are_told() {
    let (_server, test) = on(PostgresOptions {
        settings: vec![("max_connections".to_owned(), "12".to_owned())],
        ..PostgresOptions::default()
    });
    let db = test.db();
    db.execute(ORDERS);
    look(&test, json!({})).assert_ok("connections", "");
    let others: Vec<Db> = (0..8).map(|_| other(&test)).collect();
    let (message, cure) = look(&test, json!({})).trouble("warning", "connections", "");
    assert!(message.contains("others use 8"), "{message}");
    assert!(cure.starts_with("ALTER SYSTEM SET max_connections = "), "{cure}");
    drop(others);

    db.execute("CREATE ROLE few LOGIN CONNECTION LIMIT 1; GRANT SELECT ON orders TO few; GRANT pg_monitor TO few");
    // One is enough to look, and too few to work.
    let (message, cure) = look(&test, json!({"user": "few"})).trouble("warning", "connections", "");
    assert!(message.contains("the role may have 1"), "{message}");
    run_sql(&db, &cure);
    look(&test, json!({"user": "few"})).assert_well(&[]);
}

/// A session of somebody else's program.
fn other(test: &Test) -> Db {
    let client = crate::harness::block_on(headwater::postgres::connect_as(&test.postgres, "their program", ""));
    Db { client: client.expect("a connection") }
}

#[test]
fn a_server_that_notes_no_activities_is_no_source() {
    let (_server, test) = on(PostgresOptions::default());
    let db = test.db();
    db.execute(ORDERS);
    db.execute("ALTER SYSTEM SET track_activities = off");
    db.execute("SELECT pg_reload_conf()");
    crate::harness::eventually(DEADLINE, "the reload", || test.db().value("SHOW track_activities") == "off");
    let said = look(&test, json!({}));
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (_, cure) = said.trouble("failure", "activities", "");
    for statement in cure.split_inclusive(';') {
        db.execute(statement);
    }
    crate::harness::eventually(DEADLINE, "the reload", || test.db().value("SHOW track_activities") == "on");
    look(&test, json!({})).assert_well(&[ROOM]);
    // And so does capture, which is asked the same.
    let path = file(&test, json!({}), json!({}));
    let mut run = Run::start(&test, &["capture", "-c", &path, "--until-caught-up"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
}
