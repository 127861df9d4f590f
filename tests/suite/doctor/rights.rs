//! Rules (ACLs) of a Kafka that has an authorizer: every right that is missing, told as the line that gives it.

use super::{ROOM, Said, cures, doctor};
use crate::{
    certificates::{Authority, Validity},
    harness::{DEADLINE, Run, Test, kafka::read_topic, run::Exit},
};
use headwater::{
    config::model::Kafka,
    demo::servers::{KafkaOptions, KafkaServer, SaslSsl},
    kafka::reach::topic_names,
};
use std::collections::BTreeSet;

const USER: &str = "reader";
const PASSWORD: &str = "right";

fn names(brokers: &str) -> Vec<String> {
    let mut names: Vec<String> =
        topic_names(&Kafka::plaintext(brokers), DEADLINE).expect("topics").into_iter().collect();
    names.sort();
    names
}

/// A Kafka that keeps rules, under which everybody on its plaintext listener may do everything; and the lines of the
/// section `kafka` by which a user logs in who may do nothing yet.
pub fn guarded(test: &Test) -> (KafkaServer, String) {
    let authority = Authority::new("authority");
    let ca = authority.write(test.dir());
    let options = KafkaOptions {
        sasl_ssl: Some(SaslSsl {
            keystore: authority.issue(test.dir(), "localhost", Validity::Now).keystore,
            advertised_host: "localhost".to_owned(),
            users: vec![(USER.to_owned(), PASSWORD.to_owned())],
        }),
        properties: vec![
            ("authorizer.class.name".to_owned(), "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned()),
            // Whoever comes by the plaintext listener: the broker itself, and this test.
            ("super.users".to_owned(), "User:ANONYMOUS".to_owned()),
        ],
        ..KafkaOptions::default()
    };
    let kafka = KafkaServer::start(&test.path("kafka"), options).unwrap();
    let login = format!(
        "  security_protocol: sasl_ssl\n  sasl_mechanism: SCRAM-SHA-256\n  sasl_username: {USER}\n  \
         sasl_password: {PASSWORD}\n  ssl_ca_file: '{}'\n",
        ca.display()
    );
    (kafka, login)
}

#[test]
fn every_right_that_is_missing_is_told_as_the_line_that_gives_it() {
    let mut test = Test::new();
    let (kafka, login) = guarded(&test);
    test.brokers = kafka.brokers();
    let db = test.db();
    db.execute(&super::ORDERS.replace("interval '1 hour'", "interval '0 s'"));
    let topic = test.topic("orders");
    let write = |name: &str, login: &str| {
        let text = test.short_form("orders", &topic).replace("kafka:\n", &format!("kafka:\n{login}"));
        let brokers = if login.is_empty() { kafka.brokers() } else { kafka.sasl_brokers().unwrap() };
        test.write(name, &text.replace(&test.brokers, &brokers)).display().to_string()
    };
    let file = write("orders.yml", &login);

    // A super user needs none, and nothing is made by looking.
    doctor(&test, &write("super.yml", ""), &[]).assert_well(&[ROOM]);
    assert_eq!(names(&test.brokers), Vec::<String>::new());

    // Without any right: what cannot even be asked is not checked, and has its line all the same.
    let said = doctor(&test, &file, &[]);
    assert_eq!(said.exit, Exit::Code(1), "{said}");
    assert_eq!(said.one("rights", "-capture")["outcome"], "not_checked", "{said}");
    let mut told: Vec<String> = Vec::new();
    let mut rounds = 0;
    let mut said: Said = said;
    loop {
        let is_bad = |finding: &&serde_json::Value| finding["outcome"] != "ok" && finding["check"] != ROOM;
        let mut lines = BTreeSet::new();
        for finding in said.findings.iter().filter(is_bad) {
            let cure = finding["cure"].as_str().unwrap_or_else(|| panic!("no cure in {finding}"));
            // A comment ends a line as it does in a shell.
            lines.extend(cure.lines().map(|line| line.split("   #").next().unwrap_or_default().to_owned()));
        }
        if lines.is_empty() {
            break;
        }
        rounds += 1;
        assert!(rounds < 10, "{said}");
        for line in lines {
            assert!(line.starts_with("kafka-acls.sh --bootstrap-server localhost:"), "{line}");
            assert!(line.contains("--allow-principal User:reader "), "{line}");
            assert!(!told.contains(&line), "told again after it was run: {line}\n{said}");
            cures::run(&test.brokers, &line);
            told.push(line);
        }
        assert_eq!(names(&test.brokers), Vec::<String>::new(), "the doctor makes no topic");
        said = doctor(&test, &file, &[]);
    }
    said.assert_well(&[ROOM]);
    let has = |part: &str| told.iter().any(|line| line.ends_with(part));
    assert!(
        has(&format!("--operation Write --operation Describe --transactional-id headwater-{}-capture", test.prefix)),
        "{told:#?}"
    );

    // They are enough.
    let mut run = Run::start(&test, &["run", "-c", &file, "--until-caught-up"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}{}", run.stdout(), run.stderr());
    assert_eq!(read_topic(&test.brokers, &topic, true).len(), 100);
    doctor(&test, &file, &[]).assert_well(&[ROOM]);
}
