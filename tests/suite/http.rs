//! `/metrics`, `/live`, `/ready` and `/status`, as they are served by a real run.

use crate::harness::{DEADLINE, Run, Test, eventually, eventually_some, run::Exit};
use headwater::{
    demo::servers::{PostgresOptions, PostgresServer},
    metrics::{ALL, Kind},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const ORDERS: &str = "CREATE TABLE orders (
        order_id bigint PRIMARY KEY, amount numeric(10,2), created_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO orders SELECT n, n, now() - interval '1 hour' FROM generate_series(1, 1000) n";

/// One family of a scrape.
#[derive(Debug, Default)]
struct Family {
    help: Option<String>,
    kind: Option<String>,
    /// Label names and values of each sample, `le` left out.
    samples: Vec<BTreeMap<String, String>>,
}

/// The families of a scrape in Prometheus' text format.
fn parse_scrape(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut histograms = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("name and help");
            families.entry(name.to_owned()).or_default().help = Some(help.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("name and kind");
            families.entry(name.to_owned()).or_default().kind = Some(kind.to_owned());
            if kind == "histogram" {
                histograms.insert(name.to_owned());
            }
        } else {
            let (series, value) = line.rsplit_once(' ').expect("series and value");
            value.parse::<f64>().unwrap_or_else(|_| panic!("no number: {line}"));
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|name| histograms.contains(*name)))
                .unwrap_or(name);
            let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
            let labels = labels.map(|label| {
                let (name, value) = label.split_once("=\"").expect("label and value");
                (name.to_owned(), value.trim_end_matches('"').to_owned())
            });
            families
                .entry(name.to_owned())
                .or_default()
                .samples
                .push(labels.filter(|(name, _)| name != "le").collect());
        }
    }
    families
}

fn ready(run: &Run) -> (u16, Value) {
    let (code, body) = run.get("/ready").expect("an answer");
    (code, serde_json::from_str(&body).expect("JSON"))
}

/// Waits until everything is caught up and 200.
#[track_caller]
fn wait_until_ready(run: &Run) {
    eventually(DEADLINE, "/ready to turn 200", || ready(run).0 == 200);
}

#[test]
fn every_metric_of_a_scrape_is_declared_and_every_declared_one_is_scraped() {
    let test = Test::new();
    test.db().execute(ORDERS);
    // A negative amount, for the dead letters' metric.
    test.db().execute("INSERT INTO orders VALUES (1001, -1, now() - interval '1 hour')");
    let topic = test.topic("orders");
    let windows = format!(
        "analyze: {{jobs: [{{name: w, table: windows, key_column: order_id, window_duration: 1s, idle_timeout_ms: 500, \
         inputs: [{{name: o, topic: '{topic}', key: order_id, timestamp: created_at, partitions: 1}}], \
         measures: [{{column: n, function: count}}], \
         anomalies: [{{moment: rush, measure: n, direction: up, detector: zscore}}]}}]}}\n"
    );
    let file = test.write("orders.yml", &(test.short_form("orders", &topic) + &windows));
    let run = Run::start(&test, &["run", "-c", &file.display().to_string()]);
    let caught_up = || {
        let status: Value = serde_json::from_str(&run.get("/status")?.1).ok()?;
        let units = status["units"].as_array()?;
        (units.len() == 3 && units.iter().all(|unit| unit["state"] == "caught_up")).then_some(status)
    };
    let landed =
        |text: &str| text.lines().any(|line| line.starts_with("headwater_land_rows_total{") && line.ends_with(" 1000"));
    let scrape = eventually_some(DEADLINE, "all rows in the metrics", || {
        run.get("/metrics").map(|(_, text)| text).filter(|text| landed(text))
    });
    eventually_some(DEADLINE, "all units to be caught up", caught_up);
    let counted = "headwater_analyze_windows_total{";
    eventually_some(DEADLINE, "windows", || run.get("/metrics")?.1.contains(counted).then_some(()));
    // Once more: what is only set when a unit has caught up, or brought up to date each second.
    let caught_up = eventually_some(DEADLINE, "no lag", || {
        let (_, text) = run.get("/metrics")?;
        let lag = text.lines().find(|line| line.starts_with("headwater_land_lag_records{"))?;
        lag.ends_with(" 0").then_some(text.clone())
    });
    let scrape = scrape + &caught_up;

    let families = parse_scrape(&scrape);
    let declared: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
    let scraped: BTreeSet<&str> =
        families.iter().filter(|(_, family)| !family.samples.is_empty()).map(|(name, _)| name.as_str()).collect();
    let undeclared: Vec<&&str> = scraped.difference(&declared).collect();
    assert!(undeclared.is_empty(), "scraped, but not in metrics::ALL: {undeclared:?}");
    let missing: Vec<&&str> = declared.difference(&scraped).collect();
    assert!(missing.is_empty(), "declared, but not scraped after a run: {missing:?}");
    for metric in ALL {
        let Some(family) = families.get(metric.name) else { continue };
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        assert_eq!(family.kind.as_deref(), Some(kind), "{}", metric.name);
        assert_eq!(family.help.as_deref(), Some(metric.help), "{}", metric.name);
        let labels: BTreeSet<&str> = metric.labels.iter().copied().collect();
        for sample in &family.samples {
            assert_eq!(sample.keys().map(String::as_str).collect::<BTreeSet<_>>(), labels, "{}", metric.name);
        }
    }
    let value = |series: &str| {
        let found = scrape.lines().rfind(|line| line.starts_with(series));
        found.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or_else(|| panic!("no {series}"))
    };
    assert_eq!(value("headwater_capture_rows_total{"), 1001.0);
    assert_eq!(value("headwater_land_records_total{"), 1001.0);
    let of_amounts = |line: &&str| {
        line.starts_with("headwater_land_dead_letters_total{") && line.contains("reason=\"negative_amount\"")
    };
    assert!(scrape.lines().rfind(of_amounts).is_some_and(|line| line.ends_with(" 1")), "{scrape}");
}

#[test]
fn status_and_live_tell_what_the_process_does() {
    let test = Test::new();
    test.db().execute(ORDERS);
    let topic = test.topic("orders");
    let file = test.write("orders.yml", &test.short_form("orders", &topic));
    let mut run = Run::start(&test, &["run", "-c", &file.display().to_string()]);
    wait_until_ready(&run);
    let (code, body) = ready(&run);
    assert_eq!((code, &body["ready"], &body["not_ready"]), (200, &Value::Bool(true), &Value::Array(vec![])));
    assert_eq!(run.get("/live"), Some((200, "live\n".to_owned())));
    assert_eq!(run.get("/nothing").map(|(code, _)| code), Some(404));

    let status: Value = serde_json::from_str(&run.get("/status").unwrap().1).unwrap();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["cpu_seconds"].as_f64().unwrap() > 0.0 && status["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
    let units = status["units"].as_array().unwrap();
    let unit = |stage: &str| units.iter().find(|unit| unit["stage"] == stage).unwrap_or_else(|| panic!("no {stage}"));
    assert_eq!(unit("capture")["pipeline"], test.prefix);
    assert!(unit("capture")["unit"].as_str().unwrap().contains("orders"), "{status}");
    assert!(unit("land")["unit"].as_str().unwrap().contains(&topic), "{status}");
    for unit in units {
        assert!(unit["state"].is_string() && unit["since_seconds"].as_u64().unwrap() > 1_700_000_000, "{unit}");
        assert!(unit["last_error"].is_null() && unit["detail"].is_object(), "positions and no error: {unit}");
    }
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
}

#[test]
fn without_a_setting_it_listens_on_loopback_only() {
    let test = Test::new();
    let file = test.write("c.yml", &test.short_form("orders", "t").replace("http:\n  listen: \"127.0.0.1:0\"\n", ""));
    let file = file.display().to_string();
    let mut show = Run::start(&test, &["validate", "--show", "-c", &file]);
    assert_eq!(show.wait(DEADLINE), Exit::Code(0), "{}", show.stderr());
    assert!(show.stdout().contains("127.0.0.1:9464"), "{}", show.stdout());
}

#[test]
fn ready_turns_503_with_the_reason_and_back_by_itself() {
    let shared = Test::new();
    let mut postgres = PostgresServer::start(&shared.path("postgres"), PostgresOptions::default()).unwrap();
    let mut test = Test::new();
    test.postgres = postgres.config("postgres");
    test.db().execute(ORDERS);
    let file = test.write("orders.yml", &test.short_form("orders", &test.topic("orders")));
    let run = Run::start(&test, &["run", "-c", &file.display().to_string()]);
    wait_until_ready(&run);
    for crash in [false, true] {
        if crash {
            postgres.kill()
        } else {
            postgres.stop()
        }
        let body = eventually_some(DEADLINE, "/ready to turn 503", || {
            let (code, body) = ready(&run);
            (code == 503).then_some(body)
        });
        assert_eq!(body["ready"], false);
        let units = body["not_ready"].as_array().unwrap();
        assert_eq!(units.len(), 1, "the landing goes on: {body}");
        assert_eq!((&units[0]["stage"], &units[0]["state"]), (&"capture".into(), &"failing".into()), "{body}");
        assert!(units[0]["reason"].as_str().unwrap().contains("PostgreSQL"), "{body}");
        assert_eq!(run.get("/live").map(|(code, _)| code), Some(200));
        let metrics = run.get("/metrics").unwrap().1;
        let of_capture = |line: &&str| line.starts_with("headwater_stage_ready{") && line.contains("\"capture\"");
        assert!(metrics.lines().find(of_capture).is_some_and(|line| line.ends_with(" 0")), "{metrics}");

        postgres.restart().unwrap();
        wait_until_ready(&run);
        let status: Value = serde_json::from_str(&run.get("/status").unwrap().1).unwrap();
        let kept = status["units"].as_array().unwrap().iter().find(|unit| unit["stage"] == "capture").unwrap();
        assert!(kept["last_error"].as_str().unwrap().contains("PostgreSQL"), "the last error is kept: {kept}");
    }
    test.db().execute("INSERT INTO orders VALUES (2000, 1, now())");
    eventually(DEADLINE, "the row written after the outage", || {
        let metrics = run.get("/metrics").unwrap().1;
        metrics.lines().any(|line| line.starts_with("headwater_land_rows_total{") && line.ends_with(" 1001"))
    });
}
