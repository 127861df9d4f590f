//! What is shipped in deploy/, held against schemas, the program, and a real Prometheus that scrapes it.

use crate::harness::{DEADLINE, Run, Test, eventually, eventually_some, kafka::Outgoing, kafka::produce};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script(name: &str, arguments: &[&str]) -> Output {
    let output = Command::new(repository().join("scripts").join(name)).args(arguments).output().expect("the script");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_is_shipped_fits_schemas_and_the_program() {
    let checked = script("deploy-check.sh", &[]);
    assert!(checked.status.success(), "{}", text(&checked));
    // What it cannot do here it says; anything else it must have looked at.
    let unchecked: Vec<String> =
        text(&checked).lines().filter(|line| line.starts_with("NOT CHECKED")).map(str::to_owned).collect();
    assert!(unchecked.iter().all(|line| line.contains("docker compose")), "{unchecked:?}");
    let proved = script("deploy-check.sh", &["--prove"]);
    assert!(proved.status.success(), "{}", text(&proved));
}

/// Prometheus with the shipped configuration, but for what it scrapes and how often.
struct Prometheus {
    /// Ends with it.
    _run: Run,
    address: String,
}

impl Prometheus {
    fn start(test: &Test, target: &str) -> Prometheus {
        let tools = script("prometheus.sh", &[]);
        assert!(tools.status.success(), "scripts/prometheus.sh");
        let binary = PathBuf::from(text(&tools).trim()).join("prometheus");
        let deploy = repository().join("deploy/prometheus");
        let shipped = std::fs::read_to_string(deploy.join("prometheus.yml")).unwrap();
        let config = shipped
            .replace("15s", "1s")
            .replace("- headwater:9464", &format!("- {target}"))
            .replace("          - headwater-chat:9464\n", "")
            .replace("- alerts.yml", &format!("- {}", deploy.join("alerts.yml").display()));
        let config = test.write("prometheus.yml", &config);
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(binary);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", test.path("tsdb").display()))
            .arg(format!("--web.listen-address={address}"));
        let prometheus = Prometheus { _run: Run::command(test, command), address };
        eventually(DEADLINE, "Prometheus", || prometheus.get("/-/ready").is_some_and(|(code, _)| code == 200));
        prometheus
    }

    /// By HTTP 1.0, in which a long answer does not come in chunks.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        Some((code, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// The samples of an instant query; none where it cannot be asked now.
    #[track_caller]
    fn query(&self, query: &str) -> Option<Vec<Value>> {
        let encoded: String = query
            .bytes()
            .map(
                |byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") },
            )
            .collect();
        let (code, body) = self.get(&format!("/api/v1/query?query={encoded}"))?;
        assert_eq!(code, 200, "{query}: {body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        answer["data"]["result"].as_array().cloned()
    }
}

/// Names of our metrics in a query, without the ending of a histogram's series.
fn metrics_in(query: &str) -> Vec<&str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("headwater_")).collect()
}

fn is_number(sample: &Value) -> bool {
    sample["value"][1].as_str().and_then(|text| text.parse::<f64>().ok()).is_some_and(f64::is_finite)
}

#[test]
fn a_real_prometheus_has_an_answer_to_every_panel_and_knows_every_metric() {
    let test = Test::new();
    test.db().execute(
        "CREATE TABLE orders (
             order_id bigint PRIMARY KEY, amount numeric(10,2), created_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO orders SELECT n, n - 3, now() - interval '1 hour' FROM generate_series(1, 1000) n",
    );
    let (orders, chat) = (test.topic("orders"), test.topic("chat"));
    let windows = format!(
        "analyze: {{jobs: [{{name: chat, table: windows, key_column: stream_id, window_duration: 1s, \
         idle_timeout_ms: 500, inputs: [{{name: o, topic: '{chat}', key: stream_id, timestamp: at, partitions: 1}}], \
         measures: [{{column: n, function: count}}], \
         anomalies: [{{moment: rush, measure: n, direction: up, detector: zscore}}]}}]}}\n"
    );
    let file = test.write("orders.yml", &(test.short_form("orders", &orders) + &windows));
    let run = Run::start(&test, &["run", "-c", &file.display().to_string()]);
    eventually(DEADLINE, "/ready to turn 200", || run.get("/ready").is_some_and(|(code, _)| code == 200));
    let prometheus = Prometheus::start(&test, &run.http());

    let asked = script("deploy-check.sh", &["--queries"]);
    let queries: Vec<Value> = serde_json::from_str(&text(&asked)).expect("queries");
    let query_of = |entry: &Value| entry["query"].as_str().expect("a query").to_owned();
    let mut panels: Vec<(String, String)> = queries
        .iter()
        .map(|entry| (entry["where"].as_str().expect("where it stands").to_owned(), query_of(entry)))
        .filter(|(place, _)| !place.starts_with("alert "))
        .collect();
    assert!(panels.len() > 30 && queries.len() > panels.len() + 10, "{} panels", panels.len());

    let mut number = 1_000;
    eventually(DEADLINE, "every panel to show something", || {
        // A rate needs something that happens.
        number += 1;
        test.db().execute(&format!("INSERT INTO orders VALUES ({number}, {}, now())", number % 3 - 1));
        let now = chrono::Utc::now().to_rfc3339();
        let events =
            [Outgoing::new("s1", format!(r#"{{"stream_id":"s1","at":"{now}"}}"#)), Outgoing::new("s1", "no event")];
        produce(&test.brokers, &chat, &events);
        panels.retain(|(_, query)| {
            prometheus.query(query).is_none_or(|found| found.is_empty() || !found.iter().any(is_number))
        });
        let open = panels.iter().map(|(place, query)| format!("{place}: {query}")).collect::<Vec<_>>();
        (!open.is_empty()).then(|| eprintln!("still empty: {}", open.join("; ")));
        open.is_empty()
    });

    let names = eventually_some(DEADLINE, "the names", || prometheus.get("/api/v1/label/__name__/values"));
    let names: Value = serde_json::from_str(&names.1).expect("JSON");
    let known: BTreeSet<&str> = names["data"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for entry in &queries {
        let query = query_of(entry);
        for metric in metrics_in(&query) {
            assert!(known.contains(metric), "{metric} of {} is not in a scrape", entry["where"]);
        }
    }
    // The rules of deploy/prometheus/alerts.yml are at work: all were evaluated, none failed.
    let rules = eventually_some(DEADLINE, "the rules", || {
        let (_, body) = prometheus.get("/api/v1/rules")?;
        let rules: Value = serde_json::from_str(&body).ok()?;
        let rules = rules["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(rules)
    });
    assert!(rules.len() > 10, "{rules:?}");
}
