//! Kafka behind TLS and passwords: capture and land through a SASL_SSL listener of the real broker, and
//! each kind of refusal told with its cause.

use crate::{
    certificates::{Authority, Validity},
    harness::{DEADLINE, Run, Test, kafka::read_topic, lake::read_table, run::Exit},
};
use headwater::demo::servers::{KafkaOptions, KafkaServer, SaslSsl};
use serde_json::Value;
use std::path::Path;

const USER: &str = "reader";
const PASSWORD: &str = "right \"password\" \\ with; marks";

/// How a client presents itself.
struct Login<'a> {
    brokers: &'a str,
    protocol: &'a str,
    mechanism: &'a str,
    password: &'a str,
    authority: &'a Path,
}

/// A login that cannot work, and what is to be told then.
struct Wrong<'a> {
    login: Login<'a>,
    exit: Exit,
    causes: &'a [&'a str],
}

impl Login<'_> {
    /// A landing waits for the topic that its capture makes, for so many `attempts`.
    fn file(&self, test: &Test, name: &str, attempts: u32) -> String {
        let Login { brokers, protocol, mechanism, password, authority } = self;
        let authority = match *protocol {
            "sasl_ssl" => format!("  ssl_ca_file: '{}'\n", authority.display()),
            _ => String::new(),
        };
        let text = test.short_form("orders", &test.topic(name)).replace(
            "kafka:\n",
            &format!(
                "kafka:\n  security_protocol: {protocol}\n  sasl_mechanism: {mechanism}\n  sasl_username: {USER}\n  \
                 sasl_password: '{}'\n{authority}",
                password.replace('\'', "''"),
            ),
        );
        let text = text.replace(&format!("brokers: \"{}\"", test.brokers), &format!("brokers: \"{brokers}\""));
        let text = text
            .replace("/lake\"", &format!("/lake-{name}\""))
            .replace("/checkpoints\"", &format!("/checkpoints-{name}\""));
        let text = text + &format!("runtime: {{wait_attempts: {attempts}, wait_delay_ms: 100}}\n");
        test.write(&format!("{name}.yml"), &text).display().to_string()
    }
}

fn run(test: &Test, command: &str, file: &str) -> (Exit, Value) {
    let mut run = Run::start(test, &[command, "-c", file, "--until-caught-up", "--format", "json"]);
    (run.wait(DEADLINE), run.json())
}

#[test]
fn capture_and_land_through_sasl_ssl() {
    let test = Test::new();
    let authority = Authority::new("authority");
    let right = authority.write(test.dir());
    let stranger = Authority::new("stranger").write(test.dir());
    let options = KafkaOptions {
        sasl_ssl: Some(SaslSsl {
            keystore: authority.issue(test.dir(), "localhost", Validity::Now).keystore,
            advertised_host: "localhost".to_owned(),
            users: vec![(USER.to_owned(), PASSWORD.to_owned())],
        }),
        ..KafkaOptions::default()
    };
    let kafka = KafkaServer::start(&test.path("kafka"), options).unwrap();
    let brokers = kafka.sasl_brokers().unwrap();
    test.db().execute(
        "CREATE TABLE orders (order_id bigint PRIMARY KEY, created_at timestamptz NOT NULL, amount numeric(10,2));
         INSERT INTO orders SELECT n, now() - interval '1 hour', n FROM generate_series(1, 100) n",
    );
    let login =
        |mechanism| Login { brokers: &brokers, protocol: "sasl_ssl", mechanism, password: PASSWORD, authority: &right };

    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let (exit, summary) = run(&test, "run", &login(mechanism).file(&test, mechanism, 100));
        assert_eq!(exit, Exit::Code(0), "{mechanism}: {summary}");
        assert_eq!(read_topic(&kafka.brokers(), &test.topic(mechanism), true).len(), 100, "{mechanism}");
        assert_eq!(read_table(&test.path(&format!("lake-{mechanism}"))).len(), 100, "{mechanism}");
    }

    let by_address = brokers.replace("localhost", "127.0.0.1");
    let nowhere = brokers.replace("localhost", "kafka.invalid");
    let refused = |login, causes| Wrong { login, exit: Exit::Code(1), causes };
    let away = |login, causes| Wrong { login, exit: Exit::Code(75), causes };
    let wrong = [
        (
            "wrong-password",
            refused(
                Login { password: "wrong", ..login("SCRAM-SHA-512") },
                &["invalid credentials", "kafka.sasl_password"],
            ),
        ),
        (
            "wrong-plain-password",
            refused(
                Login { password: "wrong", ..login("PLAIN") },
                &["Invalid username or password", "kafka.sasl_password"],
            ),
        ),
        (
            "wrong-authority",
            refused(
                Login { authority: &stranger, ..login("PLAIN") },
                &["unable to get local issuer certificate", "kafka.ssl_ca_file"],
            ),
        ),
        (
            "wrong-host",
            refused(
                Login { brokers: &by_address, ..login("PLAIN") },
                &["IP address mismatch", "for localhost", "the host names in kafka.brokers"],
            ),
        ),
        (
            "no-authority",
            Wrong {
                login: Login { authority: Path::new("/nowhere/ca.pem"), ..login("PLAIN") },
                exit: Exit::Code(78),
                causes: &["ssl_ca_file", "/nowhere/ca.pem"],
            },
        ),
        ("without-tls", away(Login { protocol: "sasl_plaintext", ..login("PLAIN") }, &["kafka.security_protocol"])),
        ("wrong-name", away(Login { brokers: &nowhere, ..login("PLAIN") }, &["Failed to resolve", "kafka.invalid"])),
    ];
    std::thread::scope(|scope| {
        for (name, Wrong { login, exit: expected, causes }) in &wrong {
            let test = &test;
            scope.spawn(move || {
                let file = login.file(test, name, 2);
                for command in ["capture", "land", "verify"] {
                    let bounded = (command != "verify").then_some("--until-caught-up");
                    let arguments: Vec<&str> =
                        [command, "-c", &file, "--format", "json"].into_iter().chain(bounded).collect();
                    let mut run = Run::start(test, &arguments);
                    let exit = run.wait(DEADLINE);
                    assert_eq!(exit, *expected, "{command} with {name}: {}{}", run.stdout(), run.stderr());
                    let told = if exit == Exit::Code(78) || command == "verify" {
                        run.stderr()
                    } else {
                        run.json()[command]["failures"][0]["reason"].as_str().unwrap_or_default().to_owned()
                    };
                    for cause in *causes {
                        assert!(told.contains(cause), "{command} with {name}: no {cause:?} in: {told}");
                    }
                }
            });
        }
    });
}
