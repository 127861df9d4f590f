//! Runs the lines of Kafka's own tools that are told as cures, by what they say: the tools themselves are not among
//! the jars that the tests have.

use crate::harness::{DEADLINE, block_on};
use rdkafka::{
    ClientConfig,
    admin::{
        AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, ResourceSpecifier,
        TopicReplication,
    },
    bindings as native,
    client::DefaultClientContext,
};
use std::{collections::BTreeMap, ffi::CString, ptr};

/// A line, taken apart as a shell does.
struct Line {
    tool: String,
    /// Options without a value have an empty one.
    options: BTreeMap<String, Vec<String>>,
}

impl Line {
    fn parse(text: &str) -> Line {
        let mut words = words(text).into_iter().peekable();
        let tool = words.next().expect("a tool");
        let mut options: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Some(name) = words.next() {
            let name = name.strip_prefix("--").unwrap_or_else(|| panic!("{name} in {text}")).to_owned();
            let value = words.next_if(|next| !next.starts_with("--")).unwrap_or_default();
            options.entry(name).or_default().push(value);
        }
        Line { tool, options }
    }

    #[track_caller]
    fn one(&self, name: &str) -> &str {
        match self.options.get(name).map(Vec::as_slice) {
            Some([value]) => value,
            found => panic!("--{name}: {found:?}"),
        }
    }

    fn all(&self, name: &str) -> &[String] {
        self.options.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Words, with single quotes around those that hold more than letters.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted, mut is_word) = (Vec::new(), String::new(), false, false);
    for character in text.chars() {
        match character {
            '\'' => (is_quoted, is_word) = (!is_quoted, true),
            ' ' if !is_quoted => {
                if std::mem::take(&mut is_word) {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => {
                word.push(other);
                is_word = true;
            }
        }
    }
    assert!(!is_quoted, "{text}");
    words.extend(is_word.then_some(word));
    words
}

/// Does what a line says, at `brokers`, where we may do everything.
#[track_caller]
pub fn run(brokers: &str, text: &str) {
    let line = Line::parse(text);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("an admin client");
    let options = AdminOptions::new().operation_timeout(Some(DEADLINE));
    match line.tool.as_str() {
        "kafka-topics.sh" => {
            let (topic, count) = (line.one("topic"), line.one("partitions").parse::<i32>().expect("a count"));
            if line.options.contains_key("alter") {
                let more = [NewPartitions::new(topic, usize::try_from(count).expect("a count"))];
                block_on(admin.create_partitions(&more, &options)).expect("an answer")[0].as_ref().expect("partitions");
                return;
            }
            assert!(line.options.contains_key("create"), "{text}");
            let settings: Vec<(&str, &str)> =
                line.all("config").iter().map(|pair| pair.split_once('=').expect("a setting")).collect();
            let new = NewTopic {
                name: topic,
                num_partitions: count,
                replication: TopicReplication::Fixed(1),
                config: settings,
            };
            block_on(admin.create_topics(&[new], &options)).expect("an answer")[0].as_ref().expect("the topic");
        }
        "kafka-configs.sh" => {
            assert!(line.options.contains_key("alter") && line.one("entity-type") == "topics", "{text}");
            let (key, value) = line.one("add-config").split_once('=').expect("a setting");
            let topic = line.one("entity-name");
            // The call sets all that a topic has of its own at once: what it has is given again.
            let resource = ResourceSpecifier::Topic(topic);
            let found = block_on(admin.describe_configs([&resource], &options)).expect("an answer").pop();
            let own = found.expect("the topic").expect("its settings").entries;
            let own = own.iter().filter(|entry| entry.source == ConfigSource::DynamicTopic && entry.name != key);
            let change = own.fold(AlterConfig::new(resource).set(key, value), |change, entry| {
                change.set(&entry.name, entry.value.as_deref().unwrap_or_default())
            });
            block_on(admin.alter_configs(&[change], &options)).expect("an answer")[0].as_ref().expect("the setting");
        }
        "kafka-acls.sh" => {
            assert!(line.options.contains_key("add"), "{text}");
            for operation in line.all("operation") {
                add_rule(&admin, &line, operation);
            }
        }
        other => panic!("{other} in {text}"),
    }
}

/// Adds one rule, for the principal that is allowed or denied it.
fn add_rule(admin: &AdminClient<DefaultClientContext>, line: &Line, operation: &str) {
    use native::{rd_kafka_AclOperation_t as Operation, rd_kafka_ResourceType_t as Kind};
    let operation = match operation {
        "Read" => Operation::RD_KAFKA_ACL_OPERATION_READ,
        "Write" => Operation::RD_KAFKA_ACL_OPERATION_WRITE,
        "Create" => Operation::RD_KAFKA_ACL_OPERATION_CREATE,
        "Describe" => Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE,
        "All" => Operation::RD_KAFKA_ACL_OPERATION_ALL,
        "DescribeConfigs" => Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS,
        other => panic!("{other}"),
    };
    let (kind, name) = if line.options.contains_key("topic") {
        (Kind::RD_KAFKA_RESOURCE_TOPIC, line.one("topic"))
    } else if line.options.contains_key("group") {
        (Kind::RD_KAFKA_RESOURCE_GROUP, line.one("group"))
    } else if line.options.contains_key("transactional-id") {
        (Kind::RD_KAFKA_RESOURCE_TRANSACTIONAL_ID, line.one("transactional-id"))
    } else {
        assert!(line.options.contains_key("cluster"));
        (Kind::RD_KAFKA_RESOURCE_BROKER, "kafka-cluster")
    };
    use native::rd_kafka_AclPermissionType_t::{
        RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW as ALLOW, RD_KAFKA_ACL_PERMISSION_TYPE_DENY as DENY,
    };
    let (permission, principal) = match line.options.contains_key("deny-principal") {
        true => (DENY, line.one("deny-principal")),
        false => (ALLOW, line.one("allow-principal")),
    };
    let text = |text: &str| CString::new(text).expect("no zero byte");
    let (name, principal, host) = (text(name), text(principal), text("*"));
    // SAFETY: every object made here is destroyed here; texts are copied by the calls.
    unsafe {
        let rk = admin.inner().native_ptr();
        let mut binding = native::rd_kafka_AclBinding_new(
            kind,
            name.as_ptr(),
            native::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
            principal.as_ptr(),
            host.as_ptr(),
            operation,
            permission,
            ptr::null_mut(),
            0,
        );
        assert!(!binding.is_null());
        let queue = native::rd_kafka_queue_new(rk);
        native::rd_kafka_CreateAcls(rk, &mut binding, 1, ptr::null(), queue);
        let event = native::rd_kafka_queue_poll(queue, 30_000);
        assert!(!event.is_null(), "an answer");
        assert_eq!(native::rd_kafka_event_error(event), native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
        let result = native::rd_kafka_event_CreateAcls_result(event);
        let mut count = 0;
        let results = native::rd_kafka_CreateAcls_result_acls(result, &mut count);
        assert_eq!(count, 1);
        assert!(native::rd_kafka_acl_result_error(*results).is_null(), "the rule is taken");
        native::rd_kafka_event_destroy(event);
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AclBinding_destroy(binding);
    }
}

#[test]
fn a_line_is_taken_apart_as_a_shell_does() {
    assert_eq!(words("a --b 'c d' --e 'it'\\''s'".replace("\\'", "").as_str()), ["a", "--b", "c d", "--e", "its"]);
    let line = Line::parse("kafka-acls.sh --add --operation Read --operation Write --topic 't x'");
    assert_eq!(line.all("operation"), ["Read", "Write"]);
    assert_eq!((line.one("topic"), line.one("add")), ("t x", ""));
}
