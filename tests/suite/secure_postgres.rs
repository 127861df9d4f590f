//! PostgreSQL: TLS in each mode, logins and grants. Whatever is refused says why, and what to do.

use crate::{
    certificates::{Authority, ServerCertificate, Validity},
    harness::{DEADLINE, Db, Run, Test, eventually, run::Exit},
};
use headwater::{
    config::model::{Postgres, Secret, TlsMode},
    demo::servers::{PostgresOptions, PostgresServer, PostgresTls},
    postgres::PostgresError,
};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

/// A cluster whose certificate can be changed while it runs.
struct TlsPostgres {
    server: PostgresServer,
    /// Reaches it without TLS.
    plain: Postgres,
}

impl TlsPostgres {
    fn start(directory: &Path, certificate: &ServerCertificate) -> Self {
        let options = PostgresOptions {
            password: Some("right".to_owned()),
            tls: Some(PostgresTls { certificate: certificate.certificate.clone(), key: certificate.key.clone() }),
            ..PostgresOptions::default()
        };
        let server = PostgresServer::start(&directory.join("postgres"), options).unwrap();
        let plain = Postgres { tls_mode: TlsMode::Disable, ..server.config("postgres") };
        TlsPostgres { server, plain }
    }

    /// Shows this certificate from now on, or has no TLS at all.
    fn present(&self, certificate: Option<&ServerCertificate>) {
        let (name, value) = match certificate {
            None => ("ssl", "off".to_owned()),
            Some(files) => {
                let install = |file: &Path| {
                    let to = self.server.directory().join(file.file_name().unwrap());
                    fs::copy(file, &to).unwrap();
                    fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
                    let owner = fs::metadata(self.server.directory()).unwrap();
                    chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
                    to.display().to_string()
                };
                let key = install(&files.key);
                Db::connect(&self.plain).execute(&format!("ALTER SYSTEM SET ssl_key_file = '{key}'"));
                ("ssl_cert_file", install(&files.certificate))
            }
        };
        Db::connect(&self.plain).execute(&format!("ALTER SYSTEM SET {name} = '{value}'"));
        Db::connect(&self.plain).execute("SELECT pg_reload_conf()");
        // A new session is a child of the server as it is after the reload, certificate and all.
        eventually(DEADLINE, "the reload", || Db::connect(&self.plain).value(&format!("SHOW {name}")) == value);
    }
}

/// Whether the session runs over TLS.
fn is_encrypted(config: &Postgres) -> Result<bool, PostgresError> {
    let db = Db::try_connect(config)?;
    Ok(db.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t")
}

#[track_caller]
fn refusal(config: &Postgres) -> String {
    let error = is_encrypted(config).expect_err("a refusal");
    assert!(!error.is_unavailable(), "waiting does not help against: {error}");
    error.to_string()
}

#[test]
fn postgres_tls_checks_what_each_mode_promises() {
    let test = Test::new();
    let authority = Authority::new("authority");
    let right = authority.issue(test.dir(), "localhost", Validity::Now);
    let postgres = TlsPostgres::start(test.dir(), &right);
    let with = |mode, authority: &Authority| Postgres {
        host: "localhost".to_owned(),
        tls_mode: mode,
        tls_ca_file: Some(authority.write(test.dir())),
        ..postgres.plain.clone()
    };

    for (mode, encrypted) in
        [(TlsMode::VerifyFull, true), (TlsMode::Require, true), (TlsMode::Prefer, true), (TlsMode::Disable, false)]
    {
        assert_eq!(is_encrypted(&with(mode, &authority)).unwrap(), encrypted, "{mode:?}");
    }
    // The right server, asked for by another name than its certificate's.
    let by_address = Postgres { host: "127.0.0.1".to_owned(), ..with(TlsMode::VerifyFull, &authority) };
    assert!(refusal(&by_address).contains("IP address mismatch"), "{}", refusal(&by_address));
    // An authority that the file does not hold.
    let stranger = Authority::new("stranger");
    let text = refusal(&with(TlsMode::VerifyFull, &stranger));
    assert!(text.contains("unable to get local issuer certificate"), "{text}");

    let wrong = [
        (authority.issue(test.dir(), "db.example", Validity::Now), "hostname mismatch"),
        (authority.issue(test.dir(), "localhost", Validity::Expired), "certificate has expired"),
        (stranger.issue(test.dir(), "localhost", Validity::Now), "unable to get local issuer certificate"),
    ];
    for (certificate, cause) in wrong {
        postgres.present(Some(&certificate));
        let text = refusal(&with(TlsMode::VerifyFull, &authority));
        for part in [cause, "TLS to PostgreSQL at localhost:", "postgres.tls_ca_file"] {
            assert!(text.contains(part), "no {part:?} in: {text}");
        }
        for mode in [TlsMode::Require, TlsMode::Prefer] {
            assert!(is_encrypted(&with(mode, &authority)).unwrap(), "{mode:?} does not check");
        }
    }

    postgres.present(None);
    for mode in [TlsMode::VerifyFull, TlsMode::Require] {
        let text = refusal(&with(mode, &authority));
        assert!(text.contains("server does not support TLS") && text.contains("postgres.tls_mode"), "{text}");
    }
    assert!(!is_encrypted(&with(TlsMode::Prefer, &authority)).unwrap());

    let missing = Postgres { tls_ca_file: Some("/nowhere/ca.pem".into()), ..with(TlsMode::VerifyFull, &authority) };
    assert!(refusal(&missing).contains("/nowhere/ca.pem"), "{}", refusal(&missing));
}

/// The pipeline's file for a table on another server than the shared one.
fn tls_file(test: &Test, postgres: &Postgres, mode: &str, authority: &Path, password: &str) -> String {
    let on_server = format!("jdbc:postgresql://localhost:{}/{}", postgres.port, postgres.db);
    test.write(
        &format!("{mode}-{password}.yml"),
        &format!(
            "pipeline: {}\npostgres: {{jdbc_url: '{on_server}', user: postgres, password: '{password}', tls_mode: {mode}, tls_ca_file: '{}', table: orders}}\n\
             kafka: {{brokers: '{}', topic: '{}'}}\n\
             http: {{listen: '127.0.0.1:0'}}\nruntime: {{wait_attempts: 3, wait_delay_ms: 100}}\n",
            test.prefix,
            authority.display(),
            test.brokers,
            test.topic("orders"),
        ),
    )
    .display()
    .to_string()
}

#[test]
fn capture_over_tls_takes_the_right_server_and_tells_what_is_wrong_with_others() {
    let test = Test::new();
    let authority = Authority::new("authority");
    let stranger = Authority::new("stranger");
    let postgres = TlsPostgres::start(test.dir(), &authority.issue(test.dir(), "localhost", Validity::Now));
    Db::connect(&postgres.plain).execute(
        "CREATE TABLE orders (order_id bigint PRIMARY KEY, created_at timestamptz NOT NULL);
         INSERT INTO orders SELECT n, now() - interval '1 hour' FROM generate_series(1, 10) n",
    );
    let run = |authority: &Authority, password: &str| {
        let file = tls_file(&test, &postgres.plain, "verify-full", &authority.write(test.dir()), password);
        let mut run = Run::start(&test, &["capture", "-c", &file, "--until-caught-up", "--format", "json"]);
        (run.wait(DEADLINE), run.json())
    };
    let (exit, summary) = run(&authority, "right");
    assert_eq!((exit, &summary["capture"]["rows"]), (Exit::Code(0), &10.into()), "{summary}");
    for (authority, password, causes) in [
        (&authority, "wrong", ["password authentication failed", "postgres.password"]),
        (&stranger, "right", ["unable to get local issuer certificate", "postgres.tls_ca_file"]),
    ] {
        let (exit, summary) = run(authority, password);
        assert_eq!(exit, Exit::Code(1), "refused, not away: {summary}");
        let failures = summary["capture"]["failures"].to_string();
        for cause in causes {
            assert!(failures.contains(cause), "no {cause:?} in {failures}");
        }
    }
}

#[test]
fn a_wrong_or_missing_password_is_told_with_its_key() {
    let test = Test::new();
    let options = PostgresOptions { password: Some("right".to_owned()), ..PostgresOptions::default() };
    let server = PostgresServer::start(&test.path("postgres"), options).unwrap();
    let right = server.config("postgres");
    assert!(!is_encrypted(&right).unwrap());
    assert_eq!(Db::connect(&right).value("SHOW password_encryption"), "scram-sha-256");
    for password in [Some(Secret::new("wrong")), None] {
        let text = refusal(&Postgres { password, ..right.clone() });
        assert!(text.contains("refused user postgres") && text.contains("check postgres.user and postgres.password"));
    }
    let text = refusal(&Postgres { db: "nowhere".to_owned(), ..right });
    assert!(text.contains("database \"nowhere\" does not exist"), "{text}");
}

/// The statement that a message tells to run.
fn grant(message: &str) -> String {
    let from = message.find("GRANT ").unwrap_or_else(|| panic!("no GRANT in: {message}"));
    message[from..].split(['\n', ';', '`']).next().unwrap().trim_end_matches(['.', ' ']).to_owned()
}

#[test]
fn a_missing_grant_is_told_as_the_statement_to_run() {
    let test = Test::new();
    let role = format!("Reader {}", test.prefix);
    let owner = test.db();
    owner.execute(&format!("CREATE ROLE \"{role}\" LOGIN"));
    owner.execute(
        "CREATE SCHEMA \"Odd schema\";
         CREATE TABLE \"Odd schema\".\"The orders\" (order_id bigint PRIMARY KEY, created_at timestamptz NOT NULL);
         INSERT INTO \"Odd schema\".\"The orders\" SELECT n, now() - interval '1 hour' FROM generate_series(1, 10) n",
    );
    let file = test.write(
        "grants.yml",
        &format!(
            "pipeline: {}\npostgres: {{host: 127.0.0.1, port: {}, db: {}, user: '{role}'}}\nkafka: {{brokers: '{}'}}\n\
             capture: {{tables: [{{schema: Odd schema, table: The orders, topic: '{}', watermark: created_at}}]}}\n\
             http: {{listen: '127.0.0.1:0'}}\n",
            test.prefix,
            test.postgres.port,
            test.postgres.db,
            test.brokers,
            test.topic("orders"),
        ),
    );
    let file = file.display().to_string();
    // Each statement that is told is run word for word; at the end the role has just enough.
    let mut told = Vec::new();
    let summary = loop {
        let mut run = Run::start(&test, &["capture", "-c", &file, "--until-caught-up", "--format", "json"]);
        let exit = run.wait(DEADLINE);
        let summary = run.json();
        if exit == Exit::Code(0) {
            break summary;
        }
        assert_eq!(exit, Exit::Code(1), "{summary}");
        let failures = summary["capture"]["failures"].as_array().unwrap();
        let statement = grant(failures[0]["reason"].as_str().unwrap());
        assert!(!told.contains(&statement), "told again after it was run: {statement}");
        owner.execute(&statement);
        told.push(statement);
    };
    assert_eq!(summary["capture"]["rows"], 10);
    told.sort();
    assert_eq!(
        told,
        [
            format!("GRANT SELECT ON \"Odd schema\".\"The orders\" TO \"{role}\""),
            format!("GRANT USAGE ON SCHEMA \"Odd schema\" TO \"{role}\""),
            format!("GRANT pg_monitor TO \"{role}\""),
        ]
    );
    owner.execute(&format!("DROP OWNED BY \"{role}\"; REVOKE pg_monitor FROM \"{role}\"; DROP ROLE \"{role}\""));
}
