//! No password is printed, logged, served or put into an error, however loud the log and whatever fails.

use crate::{
    certificates::{Authority, Validity},
    harness::{DEADLINE, Run, Test, eventually, run::Exit},
};
use headwater::demo::servers::{KafkaOptions, KafkaServer, PostgresOptions, PostgresServer, SaslSsl};

/// What every secret of these tests holds, in a form that no escaping changes.
const MARK: &str = "S3kr1tMark";
/// With characters that a URL has to escape.
const POSTGRES_PASSWORD: &str = "pg/S3kr1tMark %&";
const POSTGRES_PASSWORD_IN_URL: &str = "pg%2FS3kr1tMark%20%25%26";
const KAFKA_PASSWORD: &str = "ka-S3kr1tMark";

/// Everything that a run let out.
#[track_caller]
fn assert_silent(title: &str, texts: &[&str]) {
    for text in texts {
        let line = text.lines().find(|line| line.contains(MARK));
        assert!(line.is_none(), "{title} let a secret out: {}", line.unwrap_or_default());
    }
}

struct Servers {
    postgres: PostgresServer,
    kafka: KafkaServer,
    authority: String,
}

impl Servers {
    fn start(test: &Test) -> Self {
        let authority = Authority::new("authority");
        let keystore = authority.issue(test.dir(), "localhost", Validity::Now).keystore;
        let kafka = KafkaOptions {
            sasl_ssl: Some(SaslSsl {
                keystore,
                advertised_host: "localhost".to_owned(),
                users: vec![("reader".to_owned(), KAFKA_PASSWORD.to_owned())],
            }),
            ..KafkaOptions::default()
        };
        let postgres = PostgresOptions { password: Some(POSTGRES_PASSWORD.to_owned()), ..PostgresOptions::default() };
        Servers {
            postgres: PostgresServer::start(&test.path("postgres"), postgres).unwrap(),
            kafka: KafkaServer::start(&test.path("kafka"), kafka).unwrap(),
            authority: authority.write(test.dir()).display().to_string(),
        }
    }

    /// A whole pipeline; `postgres` are the lines that name the database's login.
    fn file(&self, test: &Test, name: &str, postgres: &str, kafka_password: &str) -> String {
        let (authority, dir) = (&self.authority, test.dir().display());
        // A landing waits for the topic that its capture makes; where that is refused it need not.
        let attempts = if name.starts_with("bad-") { 2 } else { 100 };
        let text = format!(
            "postgres:\n  table: orders\n{postgres}\
             kafka:\n  brokers: '{}'\n  topic: '{}'\n  security_protocol: sasl_ssl\n  sasl_mechanism: SCRAM-SHA-512\n  \
             sasl_username: reader\n  sasl_password: '{kafka_password}'\n  ssl_ca_file: '{authority}'\n  \
             properties: {{debug: all}}\n\
             datalake: {{path: '{dir}/lake-{name}'}}\n\
             streaming: {{checkpoint_location: '{dir}/checkpoints-{name}', batch_interval: 0.2}}\n\
             analyze: {{jobs: [{{name: w, table: '{name}', key_column: k, window_duration: 1s, measures: [{{column: n, function: count}}], \
             inputs: [{{name: i, topic: '{}', key: order_id, timestamp: created_at}}]}}]}}\n\
             http: {{listen: '127.0.0.1:0'}}\nruntime: {{wait_attempts: {attempts}, wait_delay_ms: 100}}\n",
            self.kafka.sasl_brokers().unwrap(),
            test.topic(name),
            test.topic(name),
        );
        test.write(&format!("{name}.yml"), &text).display().to_string()
    }
}

#[test]
fn no_secret_leaves_the_process_by_any_way() {
    let test = Test::new();
    let servers = Servers::start(&test);
    let mut as_owner = Test::new();
    as_owner.postgres = servers.postgres.config("postgres");
    as_owner.db().execute(
        "CREATE TABLE orders (order_id bigint PRIMARY KEY, created_at timestamptz NOT NULL, amount numeric(10,2));
         INSERT INTO orders SELECT n, now() - interval '1 hour', n FROM generate_series(1, 100) n",
    );
    let port = servers.postgres.port();
    let url = |password: &str| {
        format!("  jdbc_url: 'jdbc:postgresql://127.0.0.1:{port}/postgres?user=postgres&password={password}'\n")
    };
    let keys = |password: &str| {
        format!("  host: 127.0.0.1\n  port: {port}\n  db: postgres\n  user: postgres\n  password: '{password}'\n")
    };
    let password_file = test.write("password", &format!("{POSTGRES_PASSWORD}\n"));
    let from_file = keys("").replace("password: ''", &format!("password_file: '{}'", password_file.display()));
    let from_environment = keys("${POSTGRES_PASSWORD}");

    // It works, with the password given in each of the ways there are.
    for (name, postgres) in
        [("url", url(POSTGRES_PASSWORD_IN_URL)), ("file", from_file), ("environment", from_environment)]
    {
        let file = servers.file(&test, name, &postgres, KAFKA_PASSWORD);
        let env = [("POSTGRES_PASSWORD", POSTGRES_PASSWORD)];
        let mut run = Run::with_env(&test, &["run", "-c", &file, "--log", "trace"], &env);
        eventually(DEADLINE, "the pipeline to be ready", || run.get("/ready").is_some_and(|(code, _)| code == 200));
        for path in ["/", "/ready", "/status", "/metrics", "/live"] {
            assert_silent(&format!("{path} with {name}"), &[&run.get(path).unwrap().1]);
        }
        run.terminate();
        assert_eq!(run.wait(DEADLINE), Exit::Code(0));
        assert_silent(&format!("a run with {name}"), &[&run.stdout(), &run.stderr()]);
        assert!(run.stderr().contains("TRACE"), "the log is at trace level");
    }

    // It does not work: refused by either side.
    let wrong = format!("not-{MARK}");
    for (name, postgres, kafka) in [
        ("bad-url", url(&wrong), KAFKA_PASSWORD),
        ("bad-postgres", keys(&wrong), KAFKA_PASSWORD),
        ("bad-kafka", keys(POSTGRES_PASSWORD), wrong.as_str()),
    ] {
        let file = servers.file(&test, name, &postgres, kafka);
        for arguments in [
            &["run", "-c", &file, "--until-caught-up", "--log", "trace"][..],
            &["run", "-c", &file, "--until-caught-up", "--log", "trace", "--log-format", "json", "--format", "json"],
            &["verify", "-c", &file, "--log", "trace"],
        ] {
            let mut run = Run::start(&test, arguments);
            assert_eq!(run.wait(DEADLINE), Exit::Code(1), "{arguments:?}");
            assert_silent(&format!("{arguments:?}"), &[&run.stdout(), &run.stderr()]);
        }
    }
}

#[test]
fn no_secret_is_shown_by_validate() {
    let test = Test::new();
    let valid = format!(
        "postgres: {{jdbc_url: 'jdbc:postgresql://h:1/d?user=u&password=x{MARK}', table: t}}\n\
         kafka: {{brokers: 'h:1', topic: t, security_protocol: sasl_ssl, sasl_mechanism: PLAIN, sasl_username: u, sasl_password: '{MARK}'}}\n"
    );
    let file = |name: &str, text: &str| test.write(name, text).display().to_string();
    let mut show = Run::start(&test, &["validate", "--show", "-c", &file("valid.yml", &valid), "--log", "trace"]);
    assert_eq!(show.wait(DEADLINE), Exit::Code(0));
    assert!(show.stdout().contains("***"), "{}", show.stdout());
    assert_silent("--show", &[&show.stdout(), &show.stderr()]);

    for (name, text) in [
        // The secret stands in a value that is wrong, or under a key that is.
        ("wrong-type", valid.replace(&format!("sasl_password: '{MARK}'"), &format!("sasl_password: ['{MARK}']"))),
        ("wrong-key", valid.replace("sasl_password", "sasl_pasword")),
        (
            "in-properties",
            format!("{valid}  # properties\n")
                .replace("sasl_password:", "properties: {sasl.password: x}, sasl_password:"),
        ),
        (
            "secret-property",
            valid.replace("sasl_password: '", "properties: {ssl.key.password: '").replace("'}\n", "'}}\n"),
        ),
        ("bad-url", valid.replace("//h:1/d?", "//h:one/d?")),
        ("not-a-url", valid.replace("jdbc:postgresql://", "postgres://u:")),
        ("disagrees", valid.replace("table: t}", &format!("table: t, password: 'other{MARK}'}}"))),
        ("unset", format!("{valid}capture: {{transactional_id: '${{NOWHERE}}'}}\n")),
        ("syntax", format!("{valid}postgres: {{password: '{MARK}'\n")),
        ("substitution", valid.replace(&format!("sasl_password: '{MARK}'"), &format!("sasl_password: '${{{MARK}'"))),
    ] {
        let mut run = Run::start(&test, &["validate", "-c", &file(&format!("{name}.yml"), &text), "--log", "trace"]);
        assert_eq!(run.wait(DEADLINE), Exit::Code(78), "{name}: {}", run.stdout());
        assert_silent(name, &[&run.stdout(), &run.stderr()]);
    }
}
