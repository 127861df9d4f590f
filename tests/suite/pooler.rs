//! PgBouncer between us and PostgreSQL: it gives a session's settings away with the session, or drops them, and is
//! refused by its name.

use crate::{
    doctor::doctor,
    harness::{DEADLINE, Run, Test, eventually, run::Exit},
    pipeline::{catch_up, committed, config, start, write},
    workload::Target,
};
use headwater::demo::servers::{PortLease, lease_port};
use serde_json::json;
use std::process::Command;

const TABLE: Target = Target::new("rows", "created_at", "timestamp");

struct PgBouncer {
    /// Ends with it.
    _run: Run,
    port: PortLease,
}

impl PgBouncer {
    fn start(test: &Test, name: &str, settings: &str) -> PgBouncer {
        let port = lease_port().expect("a port");
        let pg = &test.postgres;
        let users = test.write(&format!("{name}.users"), &format!("\"{}\" \"\"\n", pg.user));
        let text = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\n{settings}\n",
            pg.host,
            pg.port,
            port.port(),
            users.display(),
        );
        let file = test.write(&format!("{name}.ini"), &text);
        // Debian keeps it where only administrators look.
        let programs = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
        let program =
            programs.into_iter().find(|path| std::path::Path::new(path).exists()).expect("PgBouncer, by make setup");
        let mut command = Command::new(program);
        // SAFETY: a plain question.
        if unsafe { libc::geteuid() } == 0 {
            command.args(["-u", "postgres"]);
        }
        command.arg(file);
        let run = Run::command(test, command);
        eventually(DEADLINE, "PgBouncer", || std::net::TcpStream::connect(("127.0.0.1", port.port())).is_ok());
        PgBouncer { _run: run, port }
    }
}

#[test]
fn a_pooler_that_drops_settings_is_refused_by_its_name() {
    let mut test = Test::new();
    let db = test.db();
    TABLE.create(&db);
    TABLE.fill(&db, 10, "1 day");
    let direct = test.postgres.port;
    for (name, settings) in [
        ("session", "pool_mode = session"),
        ("session-ignoring", "pool_mode = session\nignore_startup_parameters = options"),
        ("transaction", "pool_mode = transaction"),
        ("transaction-ignoring", "pool_mode = transaction\nignore_startup_parameters = options"),
    ] {
        let pooler = PgBouncer::start(&test, name, settings);
        test.postgres.port = pooler.port.port();
        let tables = json!([{"table": "rows", "topic": test.topic(name), "watermark": "created_at"}]);
        let file = write(&test, &format!("{name}.yml"), &config(&test, json!({}), tables));
        let mut run = start(&test, &file, &["--until-caught-up"], &[]);
        assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{name}: {}", run.stderr());
        let said = format!("{}{}", run.stdout(), run.stderr());
        let address = format!("PgBouncer at 127.0.0.1:{} does not give its sessions the settings", test.postgres.port);
        assert!(said.contains(&address) && said.contains("connect to PostgreSQL itself"), "{name}: {said}");
        if name.ends_with("ignoring") {
            assert!(said.contains("row_security"), "{name}: what is missing is named: {said}");
        }
        let found = doctor(&test, &file.display().to_string(), &[]);
        assert_eq!(found.exit, Exit::Code(1), "{name}: {found}");
        assert!(found.to_string().contains("PgBouncer at 127.0.0.1"), "{name}: {found}");
        test.postgres.port = direct;
    }
    // Nothing was written on the way: the server itself gives every row once.
    let tables = json!([{"table": "rows", "topic": test.topic("session"), "watermark": "created_at"}]);
    let file = write(&test, "direct.yml", &config(&test, json!({}), tables));
    catch_up(&test, &file, &[]);
    assert_eq!(committed(&test, &test.topic("session")).len(), 10);
}
