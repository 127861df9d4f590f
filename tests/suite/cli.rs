//! The command line as its users meet it: exit codes, what is printed where, signals.

use crate::{
    harness::{DEADLINE, Patience, Run, Test, eventually, kafka::create_topic, run::Exit},
    json_schema,
};
use serde_json::Value;
use std::{path::Path, time::Duration};

/// The short form, as its contract has it.
const CONTRACT: &str = r#"postgres:
  jdbc_url: "jdbc:postgresql://postgres:5432/food_delivery_db"
  host: postgres
  port: 5432
  db: "food_delivery_db"
  user: "student"
  password: "student123"
  table: "2025em1100506_orders"

kafka:
  brokers: "kafka:29092"
  topic: "2025em1100506_food_orders_raw"

datalake:
  path: "/datalake/food/2025em1100506/output/orders"
  format: "parquet"

streaming:
  checkpoint_location: "/datalake/food/2025em1100506/checkpoints/orders"
  last_processed_timestamp_location: "/datalake/food/2025em1100506/lastprocess/orders"
  batch_interval: 5  # seconds
"#;

const ORDERS: &str = "CREATE TABLE orders (
        order_id bigint PRIMARY KEY, amount numeric(10,2), created_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO orders SELECT n, n, now() - interval '1 hour' FROM generate_series(1, 1000) n";

#[track_caller]
fn run(test: &Test, arguments: &[&str]) -> (Exit, String, String) {
    let mut run = Run::start(test, arguments);
    let exit = run.wait(DEADLINE);
    (exit, run.stdout(), run.stderr())
}

/// Every command and part of one by its words, such as `dlq`, `list`, as the helps tell them.
pub fn commands() -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut next = 0;
    while next < found.len() {
        let path: Vec<String> = found[next].clone();
        next += 1;
        let mut help = std::process::Command::new(env!("CARGO_BIN_EXE_headwater"));
        let output = help.args(&path).arg("--help").output().expect("the help");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some((_, list)) = text.split_once("\nCommands:\n") else { continue };
        for line in list.lines().take_while(|line| !line.is_empty()) {
            // A name stands two columns in; what goes on from the line above stands further in.
            let name =
                line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')).and_then(|rest| rest.split(' ').next());
            if let Some(name) = name.filter(|name| *name != "help") {
                found.push(path.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
    }
    found.remove(0);
    found
}

#[test]
fn every_command_explains_itself() {
    let test = Test::new();
    let (exit, top, _) = run(&test, &["--help"]);
    assert_eq!(exit, Exit::Code(0));
    for code in ["  0 ", "  1 ", "  2 ", "  75 ", "  78 "] {
        assert!(top.contains(code), "exit code {code:?} in: {top}");
    }
    let all = commands();
    for command in ["run", "capture", "land", "analyze", "validate", "doctor", "topics", "verify", "dlq replay", "demo"]
    {
        assert!(all.iter().any(|path| path.join(" ") == command), "{command} in: {all:?}");
    }
    for path in all {
        let words: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let (exit, help, _) = run(&test, &words);
        assert_eq!(exit, Exit::Code(0), "{path:?}");
        assert!(help.contains(&format!("Usage: headwater {}", path.join(" "))), "{path:?}: {help}");
        let has_parts = help.contains("\nCommands:\n");
        assert!(has_parts || help.contains("\nExamples:\n  headwater "), "{path:?}: {help}");
    }
    let (exit, version, _) = run(&test, &["--version"]);
    assert_eq!((exit, version.trim()), (Exit::Code(0), concat!("headwater ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn wrong_arguments_are_exit_code_2() {
    let test = Test::new();
    for arguments in [
        &[][..],
        &["ran"],
        &["run"],
        &["run", "-c"],
        &["run", "-c", "f.yml", "--until-caughtup"],
        &["capture", "-c", "f.yml", "--resync", "--from-now"],
        &["validate"],
        &["validate", "--schema", "-c", "f.yml"],
        &["verify", "-c", "f.yml", "--format", "xml"],
        &["validate", "--schema", "--log", "headwater=loud=very"],
    ] {
        let (exit, stdout, stderr) = run(&test, arguments);
        assert_eq!(exit, Exit::Code(2), "{arguments:?}: {stderr}");
        assert!(stdout.is_empty() && !stderr.is_empty(), "{arguments:?}: usage errors go to stderr");
    }
    let (_, _, stderr) = run(&test, &["run", "-c", "f.yml", "--until-caughtup"]);
    assert!(stderr.contains("--until-caught-up"), "the nearest flag is named: {stderr}");
}

#[test]
fn a_failed_stage_is_exit_code_1() {
    let test = Test::new();
    let text = test.short_form("nowhere", &test.topic("orders"));
    // The landing waits for the table to be made, the capture says what is wrong.
    let file = test.write("c.yml", &format!("{text}runtime: {{wait_attempts: 2, wait_delay_ms: 100}}\n"));
    let (exit, summary, stderr) =
        run(&test, &["run", "-c", &file.display().to_string(), "--until-caught-up", "--format", "json"]);
    assert_eq!(exit, Exit::Code(1), "{stderr}");
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let failure = &summary["capture"]["failures"][0];
    assert!(failure["reason"].as_str().unwrap().contains("table \"nowhere\" does not exist"), "{summary}");
    assert_eq!(failure["unavailable"], false);

    // Nothing to do, and an address that is taken.
    let kafka_only = test.write("kafka.yml", &format!("kafka: {{brokers: '{}'}}\n", test.brokers));
    let (exit, _, stderr) = run(&test, &["run", "-c", &kafka_only.display().to_string()]);
    assert!(matches!(exit, Exit::Code(1 | 78)) && !stderr.is_empty(), "{exit:?} {stderr}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let taken = std::net::TcpListener::bind(taken.unwrap()).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = test.write("taken.yml", &text.replace("127.0.0.1:0", &address));
    let (exit, _, stderr) = run(&test, &["run", "-c", &file.display().to_string()]);
    assert_eq!(exit, Exit::Code(1), "{stderr}");
    assert!(stderr.contains(&address) && stderr.contains("http.listen"), "{stderr}");
    // It names what cures it, and that does.
    let variable = "HEADWATER__HTTP__LISTEN";
    assert!(
        stderr.contains("another process has it") && stderr.contains(&format!("{variable}=127.0.0.1:")),
        "{stderr}"
    );
    test.db().execute(ORDERS);
    let file = test.write("elsewhere.yml", &text.replace("nowhere", "orders").replace("127.0.0.1:0", &address));
    let arguments = ["run", "-c", &file.display().to_string()];
    let run = Run::with_env(&test, &arguments, &[(variable, "127.0.0.1:0")]);
    assert_eq!(run.get("/live").unwrap().0, 200);
}

#[test]
fn a_dependency_that_stays_away_is_exit_code_75() {
    let test = Test::new();
    test.db().execute(ORDERS);
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let text = test.short_form("orders", &test.topic("orders")) + "runtime: {wait_attempts: 2, wait_delay_ms: 50}\n";
    let no_postgres = text
        .replace(&format!("port: {}\n", test.postgres.port), &format!("port: {nobody}\n"))
        .replace(&format!(":{}/", test.postgres.port), &format!(":{nobody}/"));
    let no_kafka = text.replace(&test.brokers, &format!("127.0.0.1:{nobody}"));
    for (name, text, command, awaited) in [
        ("capture-postgres", &no_postgres, "capture", "PostgreSQL"),
        ("capture-kafka", &no_kafka, "capture", "Kafka"),
        ("land-kafka", &no_kafka, "land", "Kafka"),
    ] {
        let file = test.write(&format!("{name}.yml"), text).display().to_string();
        let (exit, summary, stderr) = run(&test, &[command, "-c", &file, "--until-caught-up", "--format", "json"]);
        assert_eq!(exit, Exit::Code(75), "{name}: {summary}{stderr}");
        let summary: Value = serde_json::from_str(&summary).unwrap();
        let failure = &summary[command]["failures"][0];
        let reason = failure["reason"].as_str().unwrap();
        assert!(reason.contains(awaited) && reason.contains(&format!("127.0.0.1:{nobody}")), "{name}: {reason}");
        assert!(reason.contains("refused"), "{name}: the cause is told: {reason}");
        assert_eq!(failure["unavailable"], true, "{name}");
        assert!(stderr.contains(awaited), "{name}: says what it waits for: {stderr}");
    }
}

#[test]
fn every_error_of_a_configuration_is_printed_at_once() {
    let test = Test::new();
    let file = test.write(
        "many.yml",
        "postgres:\n  hots: localhost\n  port: 70000\n  db: shop\n  user: reader\n  table: orders\n  tls_mode: verify\n\
         kafka:\n  brokers: 'localhost:none'\n  topic: 'orders raw'\n\
         datalake:\n  path: /lake\n  format: csv\n\
         streaming:\n  batch_interval: never\n\
         land:\n  compression_level: 0\n\
         stream: {}\n",
    );
    let path = file.display().to_string();
    for command in ["validate", "run", "capture", "land", "verify"] {
        let (exit, stdout, stderr) = run(&test, &[command, "-c", &path]);
        assert_eq!(exit, Exit::Code(78), "{command}: {stderr}");
        assert!(stdout.is_empty(), "{command}: {stdout}");
        for (line, parts) in [
            (2, ["postgres.hots", "did you mean postgres.host?"]),
            (3, ["postgres.port", "it is 70000"]),
            (7, ["postgres.tls_mode", "verify-full"]),
            (9, ["kafka.brokers", "localhost:none"]),
            (10, ["kafka.topic", "orders raw"]),
            (13, ["datalake.format", "csv"]),
            (15, ["streaming.batch_interval", "never"]),
            (17, ["land.compression_level", "0"]),
            (18, ["stream", "did you mean streaming?"]),
        ] {
            let place = format!("{path}:{line}: ");
            let from = stderr.find(&place).unwrap_or_else(|| panic!("nothing at {place}: {stderr}"));
            // An error is a line, with a hint on the next.
            let told: Vec<&str> = stderr[from..].lines().take(2).collect();
            for part in parts {
                assert!(told.join("\n").contains(part), "no {part:?} at line {line}: {stderr}");
            }
        }
    }
    let (exit, _, stderr) = run(&test, &["validate", "-c", "/nowhere/c.yml"]);
    assert!(exit == Exit::Code(78) && stderr.contains("/nowhere/c.yml"), "{stderr}");
}

#[test]
fn the_contract_loads_and_show_masks_its_password() {
    let test = Test::new();
    let file = test.write("orders_stream.yml", CONTRACT).display().to_string();
    let (exit, stdout, stderr) = run(&test, &["validate", "-c", &file]);
    assert_eq!(exit, Exit::Code(0), "{stderr}");
    assert_eq!(stdout.trim(), "pipeline orders_stream: captures 1 table, lands 1 table");
    let (exit, shown, _) = run(&test, &["validate", "-c", &file, "--show"]);
    assert_eq!(exit, Exit::Code(0));
    assert!(shown.contains("***") && !shown.contains("student123"), "{shown}");
    for resolved in ["2025em1100506_food_orders_raw", "poll_interval_ms", "5000", "rotate_ms", "created_at"] {
        assert!(shown.contains(resolved), "no {resolved} in: {shown}");
    }
}

#[test]
fn the_schema_accepts_what_we_ship_and_refuses_what_is_wrong() {
    let test = Test::new();
    let (exit, stdout, _) = run(&test, &["validate", "--schema"]);
    assert_eq!(exit, Exit::Code(0));
    let schema: Value = serde_json::from_str(&stdout).unwrap();
    assert!(schema["$schema"].as_str().unwrap().starts_with("https://json-schema.org/"), "{schema}");
    let check = |text: &str| json_schema::check(&schema, &json_schema::from_yaml(text));

    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let shipped: Vec<_> = std::fs::read_dir(configs).unwrap().map(|entry| entry.unwrap().path()).collect();
    let shipped: Vec<_> = shipped.iter().filter(|path| path.extension().is_some_and(|end| end == "yml")).collect();
    assert!(shipped.iter().any(|path| path.ends_with("orders_stream.yml")), "{shipped:?}");
    for path in shipped {
        let errors = check(&std::fs::read_to_string(path).unwrap());
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    }
    assert_eq!(check(CONTRACT), [""; 0]);

    for (wrong, place) in [
        (CONTRACT.replace("topic:", "topik:"), "/kafka"),
        (CONTRACT.replace("port: 5432", "port: high"), "/postgres/port"),
        (CONTRACT.replace("port: 5432", "port: 70000"), "/postgres/port"),
        (CONTRACT.replace("  host: postgres\n", "  host: postgres\n  tls_mode: verify\n"), "/postgres/tls_mode"),
        (format!("{CONTRACT}capture: {{tables: [{{table: t, topic: t}}]}}\n"), "/capture/tables/0"),
        (format!("{CONTRACT}stream: {{}}\n"), ""),
    ] {
        let errors = check(&wrong);
        assert!(!errors.is_empty(), "accepted: {wrong}");
        assert!(errors.iter().any(|error| error.starts_with(&format!("{place}: "))), "{place}: {errors:?}");
    }
}

#[test]
fn the_summary_of_a_bounded_run_as_json() {
    let test = Test::new();
    test.db().execute(ORDERS);
    test.db().execute("INSERT INTO orders VALUES (1001, -1, now() - interval '1 hour')");
    let file = test.write("orders.yml", &test.short_form("orders", &test.topic("orders"))).display().to_string();
    let (exit, stdout, stderr) = run(&test, &["run", "-c", &file, "--until-caught-up", "--format", "json"]);
    assert_eq!(exit, Exit::Code(0), "{stderr}");
    let summary: Value = serde_json::from_str(&stdout).expect("stdout is the summary and nothing else");
    assert_eq!(summary["capture"]["rows"], 1001, "{summary}");
    assert_eq!(summary["land"]["rows"], 1000, "{summary}");
    assert_eq!(summary["land"]["dead_letters"]["negative_amount"], 1, "{summary}");
    for (stage, field) in [("capture", "bytes"), ("land", "bytes"), ("land", "files")] {
        assert!(summary[stage][field].as_u64().is_some_and(|value| value > 0), "{stage}.{field} in {summary}");
    }
    for field in ["seconds", "rows_per_second", "cpu_seconds", "peak_rss_bytes"] {
        assert!(summary[field].as_f64().is_some_and(|value| value > 0.0), "{field} in {summary}");
    }
    for stage in ["capture", "land"] {
        assert_eq!(summary[stage]["failures"], Value::Array(vec![]), "{summary}");
    }

    // Again, with nothing new, and for people.
    let (exit, stdout, _) = run(&test, &["run", "-c", &file, "--until-caught-up"]);
    assert_eq!(exit, Exit::Code(0));
    assert!(stdout.contains("capture") && stdout.contains(" 0 rows") && stdout.contains("peak RSS"), "{stdout}");
}

#[test]
fn sigterm_drains_and_keeps_what_was_read() {
    let test = Test::new();
    test.db().execute(ORDERS);
    // A batch that would stay open for an hour: only the drain commits it.
    let text = test.short_form("orders", &test.topic("orders")) + "land: {rotate_ms: 3600000}\n";
    let file = test.write("orders.yml", &text).display().to_string();
    let mut pipeline = Run::start(&test, &["run", "-c", &file, "--format", "json"]);
    let read = || {
        let metrics = pipeline.get("/metrics").unwrap().1;
        let captured = metrics.lines().any(|l| l.starts_with("headwater_capture_rows_total{") && l.ends_with(" 1000"));
        let buffered = metrics.lines().find(|line| line.starts_with("headwater_land_buffered_bytes{"));
        captured && buffered.is_some_and(|line| !line.ends_with(" 0"))
    };
    eventually(DEADLINE, "rows in an open batch", read);
    pipeline.terminate();
    assert_eq!(pipeline.wait(DEADLINE), Exit::Code(0));
    let summary = pipeline.json();
    assert_eq!(summary["capture"]["rows"], 1000, "{summary}");
    let drained = summary["land"]["rows"].as_u64().unwrap();
    assert_eq!(crate::harness::lake::read_table(&test.path("lake")).len() as u64, drained);
    // The rest, if the drain came between two polls of the topic.
    let (exit, stdout, _) = run(&test, &["run", "-c", &file, "--until-caught-up", "--format", "json"]);
    assert_eq!(exit, Exit::Code(0));
    let rest = serde_json::from_str::<Value>(&stdout).unwrap()["land"]["rows"].as_u64().unwrap();
    assert_eq!(drained + rest, 1000);
    assert!(drained > 0, "the drain committed the open batch");
}

#[test]
fn a_second_signal_leaves_at_once_and_a_long_drain_has_its_limit() {
    let test = Test::new();
    create_topic(&test.brokers, &test.topic("orders"), 1, &[]);
    test.db().execute(ORDERS);
    // A commit that never ends, so that the drain cannot.
    let stuck = [("HEADWATER_FAILPOINTS", "land.before_stage=pause")];
    let text = test.short_form("orders", &test.topic("orders")) + "land: {rotate_ms: 200}\n";
    for (limit_ms, by_signal) in [(60_000, true), (500, false)] {
        let text = format!("{text}runtime: {{shutdown_timeout_ms: {limit_ms}}}\n");
        let file = test.write(&format!("{limit_ms}.yml"), &text).display().to_string();
        let mut pipeline = Run::with_env(&test, &["run", "-c", &file], &stuck);
        let captured = || {
            let metrics = pipeline.get("/metrics").unwrap().1;
            metrics.lines().any(|line| line.starts_with("headwater_land_buffered_bytes{") && !line.ends_with(" 0"))
        };
        eventually(DEADLINE, "rows in the batch that gets stuck", captured);
        pipeline.terminate();
        pipeline.wait_for_log("draining");
        if by_signal {
            let signalled = Patience::new(Duration::from_secs(5));
            pipeline.terminate();
            assert_eq!(pipeline.wait(DEADLINE), Exit::Code(1));
            signalled.assert_in_time();
        } else {
            assert_eq!(pipeline.wait(DEADLINE), Exit::Code(1));
            assert!(pipeline.stderr().contains("runtime.shutdown_timeout_ms"), "{}", pipeline.stderr());
        }
    }
    // Leaving so is safe: nothing is lost, nothing doubled.
    let file = test.write("rest.yml", &text).display().to_string();
    let (exit, stdout, stderr) = run(&test, &["run", "-c", &file, "--until-caught-up"]);
    assert_eq!(exit, Exit::Code(0), "{stdout}{stderr}");
    assert_eq!(crate::harness::lake::read_table(&test.path("lake")).len(), 1000);
}
