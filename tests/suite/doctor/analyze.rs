//! The tables that analyze owns: schema, migrations, rights, the job's table, who leads it, what was declared.

use super::{Said, doctor, run_sql};
use crate::harness::{DEADLINE, Db, Run, Test, kafka::create_topic, run::Exit};
use serde_json::{Value, json};

/// A job over one topic, with more keys for its sections.
struct Job {
    test: Test,
    analyze: Value,
    job: Value,
    /// Roles are the cluster's: of the test's own.
    role: String,
}

impl Job {
    fn new() -> Job {
        let test = Test::new();
        create_topic(&test.brokers, &test.topic("chat"), 1, &[("retention.ms", "604800000")]);
        let role = format!("writer_{}", test.prefix.replace('-', "_"));
        test.db().execute(&format!("CREATE ROLE {role} LOGIN"));
        Job { test, analyze: json!({"create_tables": true}), job: json!({}), role }
    }

    fn file(&self) -> String {
        let pg = &self.test.postgres;
        let mut job = json!({
            "name": "chat", "table": "windows", "key_column": "stream_id", "window_duration": "2 s", "idle_timeout_ms": 500,
            "inputs": [{"name": "chat", "topic": self.test.topic("chat"), "key": "stream_id", "partitions": 1}],
            "measures": [{"column": "chat_count", "function": "count"}],
        });
        job.as_object_mut().unwrap().extend(self.job.as_object().unwrap().clone());
        let mut analyze = json!({"jobs": [job]});
        analyze.as_object_mut().unwrap().extend(self.analyze.as_object().unwrap().clone());
        let config = json!({
            "pipeline": self.test.prefix,
            "postgres": {"host": pg.host, "port": pg.port, "db": pg.db, "user": self.role, "tls_mode": "disable"},
            "kafka": {"brokers": self.test.brokers},
            "analyze": analyze,
            "http": {"listen": "127.0.0.1:0"},
        });
        self.test.write("chat.yml", &format!("{config:#}\n")).display().to_string()
    }

    fn look(&self) -> Said {
        doctor(&self.test, &self.file(), &[])
    }

    /// Runs the job until its topic is read.
    fn catch_up(&self) {
        let mut run = Run::start(&self.test, &["analyze", "-c", &self.file(), "--until-caught-up"]);
        assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}{}", run.stdout(), run.stderr());
    }

    fn end(self, db: &Db) {
        db.execute(&format!("DROP OWNED BY {0} CASCADE; DROP ROLE {0}", self.role));
    }
}

#[test]
fn from_an_empty_database_to_a_job_that_runs_by_the_cures_alone() {
    let mut job = Job::new();
    let db = job.test.db();
    // Since PostgreSQL 15 nobody may make tables in `public` unless told so.
    db.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    job.analyze = json!({"migrate": false, "create_tables": false, "schema": "chats"});
    let said = job.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "schema", "");
    assert!(message.contains("schema chats does not exist"), "{message}");
    assert_eq!(
        cure,
        format!("CREATE SCHEMA IF NOT EXISTS \"chats\";\nGRANT USAGE, CREATE ON SCHEMA \"chats\" TO \"{}\";", job.role)
    );
    run_sql(&db, &cure);
    db.execute(&format!("REVOKE CREATE ON SCHEMA chats FROM {}", job.role));

    let (message, cure) = job.look().trouble("failure", "migrations", "chats");
    assert!(
        message.contains("0001_analyze, 0002_days, 0003_views, 0004_logs, 0005_owners")
            && cure.starts_with("analyze.migrate: true"),
        "{message} {cure}"
    );
    job.analyze = json!({"migrate": true, "create_tables": false, "schema": "chats"});
    let (message, cure) = job.look().trouble("failure", "migrations", "chats");
    assert!(message.contains("may make no tables"), "{message}");
    run_sql(&db, &cure);
    let said = job.look();
    said.assert_ok("migrations", "chats");
    assert_eq!(said.one("window table", "windows")["outcome"], "not_checked", "it may come with them: {said}");
    assert_eq!(said.exit, Exit::Code(0), "{said}");
    assert_eq!(
        db.count("SELECT count(*) FROM pg_class WHERE relnamespace = 'chats'::regnamespace"),
        0,
        "nothing was made"
    );

    // The start applies them, and stops for the lack of the table.
    let mut run = Run::start(&job.test, &["analyze", "-c", &job.file(), "--until-caught-up"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}", run.stderr());
    let said = job.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "window table", "windows");
    assert!(message.contains("does not exist, and analyze.create_tables is false"), "{message}");
    db.execute(&format!("SET ROLE {}; SET search_path TO chats; {cure}", job.role));
    db.execute("RESET ROLE; RESET search_path");
    let said = job.look();
    said.assert_well(&["roles"]);
    said.assert_ok("tables", "chats");
    said.assert_ok("declaration", "chat");
    job.catch_up();
    job.look().assert_well(&["roles"]);
    job.end(&db);
}

#[test]
fn what_is_gone_or_forbidden_or_does_not_fit_is_told() {
    let job = Job::new();
    let db = job.test.db();
    db.execute(&format!("GRANT CREATE ON SCHEMA public TO {}", job.role));
    job.look().assert_ok("migrations", "public");
    job.catch_up();
    job.look().assert_well(&["roles"]);

    // A column too few, and one of another type.
    db.execute("ALTER TABLE windows DROP COLUMN chat_count; ALTER TABLE windows ALTER revision TYPE text");
    let said = job.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "window table", "windows");
    assert!(message.contains("has no column \"chat_count\"") && message.contains("\"revision\" is text"), "{message}");
    run_sql(&db, &cure);
    job.look().assert_well(&["roles"]);

    // The writer's rights, taken away and given as told.
    let owner = format!("owner_{}", job.role);
    db.execute(&format!("CREATE ROLE {owner}; REASSIGN OWNED BY {} TO {owner}", job.role));
    let (message, cure) = job.look().trouble("failure", "migrations", "public");
    assert!(message.contains("permission denied") && cure.starts_with("GRANT headwater_writer TO"), "{message} {cure}");
    db.execute(&format!("GRANT SELECT ON headwater_migrations TO {}", job.role));
    let said = job.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    assert_eq!(said.one("declaration", "chat")["outcome"], "not_checked");
    let (message, cure) = said.trouble("failure", "grants", &job.role);
    assert!(
        message.contains("analyze_jobs") && message.contains("dead_letters") && message.contains("headwater_add_day"),
        "{message}"
    );
    assert_eq!(cure, format!("GRANT headwater_writer TO \"{}\";", job.role));
    db.execute(&format!("REASSIGN OWNED BY {owner} TO {}; DROP ROLE {owner}", job.role));
    job.look().assert_well(&["roles"]);

    db.execute("ALTER TABLE dead_letters RENAME TO lost_letters");
    let said = job.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, _) = said.trouble("failure", "tables", "public");
    assert!(message.contains("dead_letters is gone"), "{message}");
    db.execute("ALTER TABLE lost_letters RENAME TO dead_letters");

    // Of another build.
    db.execute("UPDATE headwater_migrations SET checksum = 'other' WHERE name = '0002_days'");
    let (message, _) = job.look().trouble("failure", "migrations", "public");
    assert!(message.contains("0002_days was applied with another text"), "{message}");
    job.end(&db);
}

#[test]
fn the_statements_that_keep_readers_apart_are_told() {
    let job = Job::new();
    let db = job.test.db();
    db.execute(&format!("GRANT CREATE ON SCHEMA public TO {}", job.role));
    job.catch_up();
    // Another test may have made the roles, which are the cluster's; this role may not grant itself any.
    let (message, cure) = job.look().trouble("warning", "roles", "windows");
    assert!(message.contains("not kept apart"), "{message}");
    assert!(cure.lines().all(|line| line.ends_with(';')) && cure.contains("headwater_owner"), "{cure}");
    for statement in cure.lines() {
        // The roles may have been made meanwhile.
        if !statement.starts_with("CREATE ROLE")
            || db
                .rows(&format!(
                    "SELECT FROM pg_roles WHERE rolname = '{}'",
                    statement.split(' ').nth(2).unwrap_or_default()
                ))
                .is_empty()
        {
            db.execute(statement);
        }
    }
    job.look().assert_ok("roles", "windows");
    job.look().assert_well(&[]);
    db.execute("DROP OWNED BY headwater_owner CASCADE");
    job.end(&db);
}

#[test]
fn a_job_declared_otherwise_and_its_leader_are_told() {
    let mut job = Job::new();
    let db = job.test.db();
    db.execute(&format!("GRANT CREATE ON SCHEMA public TO {}", job.role));
    let writer = crate::landing::Writer::new(&job.test.brokers, &job.test.topic("chat"));
    writer.send(&crate::landing::Raw {
        value: Some(br#"{"stream_id": "s", "timestamp": "2025-01-15T12:24:00Z"}"#.to_vec()),
        ..crate::landing::Raw::default()
    });
    writer.flush();
    let file = job.file();
    let mut run = Run::start(&job.test, &["analyze", "-c", &file]);
    crate::harness::eventually(DEADLINE, "the job's progress", || {
        db.value("SELECT to_regclass('analyze_partitions') IS NOT NULL") == "t"
            && db.count("SELECT count(*) FROM analyze_partitions") > 0
    });
    let said = job.look();
    said.assert_well(&["roles"]);
    let leader = said.one("leader", "chat")["message"].as_str().unwrap().to_owned();
    assert!(leader.contains(&format!("(process {})", run.pid())), "{leader}");
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());
    assert!(job.look().one("leader", "chat")["message"].as_str().unwrap().contains("nobody leads now"));

    job.job = json!({"window_duration": "4 s"});
    let said = job.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "declaration", "chat");
    assert!(message.contains("declared otherwise"), "{message}");
    assert!(cure.starts_with("headwater reset -c FILE --job chat "), "{cure}");
    let mut reset = Run::start(&job.test, &["reset", "-c", &job.file(), "--job", "chat", "--delete"]);
    assert_eq!(reset.wait(DEADLINE), Exit::Code(0), "{}{}", reset.stdout(), reset.stderr());
    job.look().assert_well(&["roles"]);
    job.catch_up();
    job.end(&db);
}

#[test]
fn a_table_of_another_job_is_told() {
    let mut job = Job::new();
    let db = job.test.db();
    db.execute(&format!("GRANT CREATE ON SCHEMA public TO {}", job.role));
    job.catch_up();
    job.look().assert_ok("owner", "windows");
    job.job = json!({"name": "again"});
    let said = job.look();
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    let (message, cure) = said.trouble("failure", "owner", "windows");
    let id = format!("headwater-{}/chat", job.test.prefix);
    assert!(message.contains(&format!("is written by job {id}")), "{message}");
    assert_eq!(cure, "analyze.jobs[].table");
    job.end(&db);
}

#[test]
fn a_database_that_cannot_hold_every_text_is_told_and_refused() {
    let mut job = Job::new();
    let db = job.test.db();
    job.role = job.test.postgres.user.clone();
    for (encoding, name) in [("LATIN1", "latin"), ("SQL_ASCII", "ascii")] {
        let name = format!("{}_{name}", job.test.postgres.db);
        db.execute(&format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"));
        job.test.postgres.db = name.clone();
        let said = job.look();
        assert_eq!(said.exit, Exit::Code(1), "{said}");
        let (message, cure) = said.trouble("failure", "encoding", &name);
        assert!(message.starts_with(&format!("database {name} is in {encoding}, which cannot")), "{message}");
        let made = cure.replace("telemetry", &format!("{name}_utf8"));
        run_sql(&db, &made);
        let mut run = Run::start(&job.test, &["analyze", "-c", &job.file(), "--until-caught-up"]);
        assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{}{}", run.stdout(), run.stderr());
        assert!(run.stderr().contains("postgres.db") && run.stderr().contains(encoding), "{}", run.stderr());
        job.test.postgres.db = format!("{name}_utf8");
        job.look().assert_ok("encoding", &job.test.postgres.db);
        job.catch_up();
    }
}
