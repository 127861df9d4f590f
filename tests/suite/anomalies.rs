//! `headwater anomalies --backtest` on a file of one's own.

use crate::harness::{DEADLINE, Run, Test, run::Exit};
use serde_json::Value;

const SPIKE: std::ops::Range<usize> = 300..304;

/// 2025-01-15T05:00:00Z, where the spike begins.
const FIVE_MS: i64 = 1_736_917_200_000;

/// Ten hours of minutes around a hundred, with four at five hundred.
fn series() -> String {
    let mut lines = "timestamp,messages\n".to_owned();
    let mut random = 7_u64;
    for minute in 0..600 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let noise = (random >> 33) % 21;
        let value = if SPIKE.contains(&minute) { 500 } else { 90 + noise };
        lines += &format!("2025-01-15T{:02}:{:02}:00Z,{value}\n", minute / 60, minute % 60);
    }
    lines
}

#[test]
fn a_backtest_scores_every_row_and_draws_the_moments() {
    let test = Test::new();
    let file = test.write("series.csv", &series()).display().to_string();
    for detector in ["zscore", "quantile"] {
        let path = |name: &str| test.path(&format!("{detector}-{name}"));
        let (out, moments, plot) = (path("rows.csv"), path("moments.json"), path("plot.svg"));
        let paths = [&out, &moments, &plot].map(|path| path.display().to_string());
        let arguments = ["anomalies", "--backtest", &file, "--detector", detector, "--threshold", "5"];
        let written = ["--out", &paths[0], "--moments", &paths[1], "--plot", &paths[2]];
        let mut run = Run::start(&test, &[&arguments[..], &written].concat());
        assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{}", run.stderr());

        let moments: Value = serde_json::from_slice(&std::fs::read(&moments).unwrap()).unwrap();
        let moments = moments.as_array().unwrap();
        assert_eq!(moments.len(), 1, "{detector}: {moments:?}");
        assert_eq!((&moments[0]["value"], &moments[0]["window_start_ms"]), (&500.0.into(), &FIVE_MS.into()));

        let rows = std::fs::read_to_string(&out).unwrap();
        let mut rows = rows.lines();
        let header: Vec<&str> = rows.next().unwrap().split(',').collect();
        let column = |name: &str| header.iter().position(|it| *it == name).unwrap_or_else(|| panic!("{header:?}"));
        let (value, score, id) = (column("value"), column("score"), column("moment_id"));
        let rows: Vec<Vec<&str>> = rows.map(|row| row.split(',').collect()).collect();
        assert_eq!(rows.len(), 600);
        let high = |row: &&Vec<&str>| row[score].parse().is_ok_and(|score: f64| score >= 5.0);
        let high: Vec<&Vec<&str>> = rows.iter().filter(high).collect();
        assert!(!high.is_empty() && high.iter().all(|row| row[value] == "500"), "{high:?}");
        assert_eq!(rows[SPIKE.start][id], moments[0]["moment_id"], "{detector}");
        assert_eq!(rows.iter().filter(|row| !row[id].is_empty()).count(), 1, "{detector}");

        let drawn = std::fs::read_to_string(&plot).unwrap();
        assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"), "{}", &drawn[..80]);
        assert!(drawn.contains("<title>15 Jan 05:00: 500.0, score"), "the mark names its moment");
        let told = run.stdout();
        assert!(told.contains("3.5") && told.contains("<- chosen") && told.contains("2025-01-15T05:00:00Z"), "{told}");
    }
}

#[test]
fn what_is_no_series_is_refused_with_its_line() {
    let test = Test::new();
    let file = test.write("series.csv", "timestamp,value\n2025-01-15T00:00:00Z,1\n2025-01-15T00:01:00Z,much\n");
    let mut run = Run::start(&test, &["anomalies", "--backtest", &file.display().to_string()]);
    assert_ne!(run.wait(DEADLINE), Exit::Code(0));
    assert!(run.stderr().contains("line 3") && run.stderr().contains("much"), "{}", run.stderr());
}
