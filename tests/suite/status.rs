//! `/status` and the command that shows it.

use crate::harness::{DEADLINE, Run, Test, eventually, eventually_some, run::Exit};
use headwater::demo::servers::{PortLease, lease_port};
use serde_json::Value;
use std::process::Command;

const ORDERS: &str = "CREATE TABLE orders (
        order_id bigint PRIMARY KEY, amount numeric(10,2), created_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO orders SELECT n, n, now() - interval '1 hour' FROM generate_series(1, 1000) n;
    INSERT INTO orders VALUES (1001, -1, now())";

/// Orders that are captured, landed and counted, at an address that a configuration can name.
struct Scene {
    run: Run,
    file: String,
    topic: String,
    _port: PortLease,
    // Last, for its directory goes with it.
    test: Test,
}

impl Scene {
    fn start(http: &str) -> Scene {
        let test = Test::new();
        test.db().execute(ORDERS);
        let topic = test.topic("orders");
        let port = lease_port().expect("a free port");
        let listen = format!("127.0.0.1:{}", port.port());
        let windows = format!(
            "analyze: {{jobs: [{{name: w, table: windows, key_column: order_id, window_duration: 1s, idle_timeout_ms: 500, \
             inputs: [{{name: o, topic: '{topic}', key: order_id, timestamp: created_at, partitions: 1}}], \
             measures: [{{column: n, function: count}}]}}]}}\n"
        );
        let text = test.short_form("orders", &topic).replace("127.0.0.1:0", &listen);
        let file = test.write("orders.yml", &format!("{text}{http}{windows}")).display().to_string();
        let run = Run::start(&test, &["run", "-c", &file]);
        assert_eq!(run.http(), listen);
        Scene { run, file, topic, _port: port, test }
    }

    fn status(&self, more: &[&str]) -> (Exit, String, String) {
        let mut asked = Run::start(&self.test, &[&["status", "-c", &self.file], more].concat());
        (asked.wait(DEADLINE), asked.stdout(), asked.stderr())
    }

    #[track_caller]
    fn wait_until_ready(&self) {
        eventually(DEADLINE, "a status with exit code 0", || self.status(&["--quiet"]).0 == Exit::Code(0));
    }
}

#[test]
fn each_stage_tells_rate_delay_lag_commit_and_partitions() {
    let scene = Scene::start("");
    let unit = |status: &Value, stage: &str| {
        let units = status["units"].as_array().expect("units");
        units.iter().find(|unit| unit["stage"] == stage).unwrap_or_else(|| panic!("no {stage}: {status}")).clone()
    };
    let status = eventually_some(DEADLINE, "all rows in the status", || {
        let status: Value = serde_json::from_str(&scene.run.get("/status")?.1).ok()?;
        let rows = ["capture", "land", "analyze"].map(|stage| unit(&status, stage)["rows"].as_u64());
        let is_caught_up = status["units"].as_array()?.iter().all(|unit| unit["state"] == "caught_up");
        // The details follow within a second.
        let is_landed = unit(&status, "land")["lag_records"] == 0;
        (is_caught_up && is_landed && rows == [Some(1001), Some(1000), Some(1001)]).then_some(status)
    });
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap_or_else(|| panic!("no {key}: {of}"));
    assert_eq!(status["ready"], true);
    let now = number(&status, "now_seconds");
    assert!((0.0..120.0).contains(&(now - number(&status, "started_seconds"))));
    for stage in ["capture", "land", "analyze"] {
        let unit = unit(&status, stage);
        assert!(number(&unit, "rows_per_second") > 1.0, "{unit}");
        assert!(number(&unit, "delay_seconds") >= 0.0, "{unit}");
        assert!((-1.0..120.0).contains(&(now - number(&unit, "last_commit_seconds"))), "{unit}");
        assert!(unit["last_error"].is_null() && unit["last_error_seconds"].is_null(), "{unit}");
        let dead_letters = if stage == "land" { 1.0 } else { 0.0 };
        assert_eq!(number(&unit, "dead_letters"), dead_letters, "{unit}");
    }
    assert!(unit(&status, "capture")["lag_records"].is_null());
    for (stage, partition) in [("land", "0".to_owned()), ("analyze", format!("{}-0", scene.topic))] {
        let unit = unit(&status, stage);
        assert_eq!(unit["lag_records"], 0, "{unit}");
        let found = &unit["detail"]["partitions"][&partition];
        assert!(found["position"].as_i64().is_some_and(|at| at > 1000) && found["end"] == found["position"], "{unit}");
    }
}

#[test]
fn the_table_shows_units_and_partitions_and_the_code_says_ready() {
    let mut scene = Scene::start("");
    scene.wait_until_ready();
    let shown = eventually_some(DEADLINE, "all rows in the table", || {
        let (code, shown, _) = scene.status(&[]);
        (code == Exit::Code(0) && shown.contains("1,000")).then_some(shown)
    });
    assert!(shown.starts_with(&format!("headwater {}: ready; up ", env!("CARGO_PKG_VERSION"))), "{shown}");
    for word in ["rows/s", "delay", "lag", "last commit", "\ncapture  orders ", "\nland ", "\nanalyze ", "  at 1,00"] {
        assert!(shown.contains(word), "{word:?} in {shown}");
    }
    assert!(shown.contains(&format!("  {}-0 ", scene.topic)), "{shown}");
    let (code, json, _) = scene.status(&["--format", "json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (code, &json["ready"], json["units"].as_array().map(Vec::len)),
        (Exit::Code(0), &Value::Bool(true), Some(3))
    );
    let (code, shown, said) = scene.status(&["--quiet"]);
    assert_eq!((code, shown.as_str(), said.as_str()), (Exit::Code(0), "", ""));

    scene.run.kill();
    for quiet in [&[][..], &["--quiet"]] {
        let (code, shown, said) = scene.status(quiet);
        assert_eq!((code, shown.as_str()), (Exit::Code(1), ""));
        assert!(said.contains("nothing answers at http://127.0.0.1:") && said.contains("http.listen"), "{said}");
    }
}

#[test]
fn a_process_that_is_not_ready_is_shown_with_its_reason_and_fails_the_check() {
    let test = Test::new();
    let port = lease_port().expect("a free port");
    // Nobody is there: the process waits.
    let nobody = lease_port().expect("a free port");
    let text = test.short_form("orders", &test.topic("orders"));
    let text = text.replace("127.0.0.1:0", &format!("127.0.0.1:{}", port.port()));
    let file = test.write("orders.yml", &text.replace(&test.brokers, &format!("127.0.0.1:{}", nobody.port())));
    let file = file.display().to_string();
    let run = Run::start(&test, &["run", "-c", &file]);
    run.http();
    let shown = eventually_some(DEADLINE, "a reason", || {
        let mut asked = Run::start(&test, &["status", "-c", &file]);
        assert_eq!(asked.wait(DEADLINE), Exit::Code(1), "{}", asked.stderr());
        Some(asked.stdout()).filter(|shown| shown.contains("\nland") && shown.contains(": waiting for "))
    });
    assert!(shown.contains("NOT ready, 0 of 2 are"), "{shown}");
    let mut quiet = Run::start(&test, &["status", "-c", &file, "--quiet"]);
    assert_eq!((quiet.wait(DEADLINE), quiet.stdout()), (Exit::Code(1), String::new()));
}

#[test]
fn the_token_comes_from_the_configuration_or_a_file() {
    let scene = Scene::start("  token: s3cret-of-the-status\n");
    scene.wait_until_ready();
    let url = format!("http://{}", scene.run.http());
    let ask = |arguments: &[&str], env: &[(&str, &str)]| {
        let mut asked = Run::with_env(&scene.test, &[&["status", "--url", &url], arguments].concat(), env);
        (asked.wait(DEADLINE), asked.stderr())
    };
    let (code, said) = ask(&[], &[]);
    assert_eq!(code, Exit::Code(1));
    assert!(said.contains("asks for a token") && said.contains("--token-file"), "{said}");
    let (code, said) = ask(&[], &[("HEADWATER__HTTP__TOKEN", "another-one")]);
    assert!(code == Exit::Code(1) && said.contains("another one") && !said.contains("another-one"), "{said}");
    assert_eq!(ask(&[], &[("HEADWATER__HTTP__TOKEN", "s3cret-of-the-status")]).0, Exit::Code(0));
    let file = scene.test.write("token", "s3cret-of-the-status\n").display().to_string();
    assert_eq!(ask(&["--token-file", &file], &[]).0, Exit::Code(0));
    assert_eq!(ask(&["-c", &scene.file], &[]).0, Exit::Code(0));
}

#[test]
fn where_nothing_can_be_asked_the_reason_is_told() {
    let test = Test::new();
    let text = test.short_form("orders", "t");
    let null = test.write("null.yml", &text.replace("\"127.0.0.1:0\"", "null")).display().to_string();
    let any = test.write("any.yml", &text).display().to_string();
    let wrong = test.write("wrong.yml", &text.replace("127.0.0.1:0", "9464")).display().to_string();
    // What is wrong elsewhere, or cannot be read by who asks, is no hindrance.
    let nobody = lease_port().expect("a free port");
    let elsewhere = text.replace("127.0.0.1:0", &format!("127.0.0.1:{}", nobody.port()));
    let elsewhere = elsewhere.replace("password: \"unused\"", "password_file: /nowhere/password");
    let elsewhere = test.write("elsewhere.yml", &elsewhere).display().to_string();
    for (arguments, code, reason) in [
        (&["-c", null.as_str()][..], 1, "http.listen is null"),
        (&["-c", &any], 1, "--url"),
        (&["-c", &wrong], 78, "http.listen must be address:port"),
        (&["-c", "/nowhere/x.yml"], 78, "cannot be read"),
        (&["-c", &elsewhere], 1, "nothing answers at"),
        (&["--url", "https://localhost"], 1, "must be http://host:port"),
        (&[], 2, "--config"),
        (&["-c", &any, "--quiet", "--watch"], 2, "cannot be used with"),
        (&["-c", &any, "--watch=0"], 2, "0"),
    ] {
        let mut asked = Run::start(&test, &[&["status"], arguments].concat());
        assert_eq!(asked.wait(DEADLINE), Exit::Code(code), "{arguments:?}: {}", asked.stderr());
        assert!(asked.stderr().contains(reason), "{arguments:?}: {}", asked.stderr());
    }
    let mut asked = Run::start(&test, &["status", "-c", &elsewhere, "--address"]);
    assert_eq!(
        (asked.wait(DEADLINE), asked.stdout()),
        (Exit::Code(0), format!("http://127.0.0.1:{}/\n", nobody.port()))
    );
    // Something else answers.
    let postgres = format!("http://{}:{}", test.postgres.host, test.postgres.port);
    let mut asked = Run::start(&test, &["status", "--url", &postgres]);
    assert_eq!(asked.wait(DEADLINE), Exit::Code(1));
    assert!(
        asked.stderr().contains("nothing answers at") || asked.stderr().contains("is not headwater"),
        "{}",
        asked.stderr()
    );
}

#[test]
fn watching_prints_again_and_again_and_outlives_the_process_it_watches() {
    let mut scene = Scene::start("");
    scene.wait_until_ready();
    let watch = Run::start(&scene.test, &["status", "-c", &scene.file, "--watch=1"]);
    let tables = || watch.stdout().matches("last commit").count();
    eventually(DEADLINE, "two tables", || tables() >= 2);
    assert!(!watch.stdout().contains('\u{1b}'), "no terminal, no control characters: {}", watch.stdout());
    scene.run.kill();
    eventually(DEADLINE, "the end of the process", || watch.stdout().contains("nothing answers at"));
    let before = tables();
    let again = Run::start(&scene.test, &["run", "-c", &scene.file]);
    again.http();
    eventually(DEADLINE, "a table of the new process", || tables() > before);
    drop(watch);

    // In a terminal, which util-linux's script gives, it draws over what was there.
    let program = env!("CARGO_BIN_EXE_headwater");
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &format!("{program} status -c {} --watch=1", scene.file), "/dev/null"]);
    let drawn = Run::command(&scene.test, command);
    eventually(DEADLINE, "a second drawing", || drawn.stdout().matches("\u{1b}[H").count() >= 2);
    assert!(drawn.stdout().contains("\u{1b}[J") && drawn.stdout().contains("last commit"), "{}", drawn.stdout());
}
