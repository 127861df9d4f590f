//! The jobs of `analyze`: windows over topics, and what is watched in them.

use super::{
    claims::Claims,
    error::{Collector, Problem},
    model::{Analyze, Anomaly, Detector, Direction, Function, Input, Job, Join, Measure, Tokens},
    section::Section,
};

/// Its default follows a longer retention of windows.
const HISTORY: &str = "history_retention_days";
/// More panes in a window than this would cost more than they tell.
const MOST_PANES: i64 = 10_000;

/// `None` where nothing is to be analysed.
pub fn build(root: &Section, id: &str, errors: &mut Collector, claims: &mut Claims) -> Option<Analyze> {
    let analyze = root.section("analyze");
    let items = analyze.items("jobs");
    let mut jobs: Vec<Job> = Vec::new();
    for item in &items {
        claims.job(item, item.text("name").as_deref(), item.text("table").as_deref());
        jobs.extend(job(item, id, errors));
    }
    if items.is_empty() {
        return None;
    }
    let longest = jobs.iter().max_by_key(|job| job.retention_days);
    let windows_days = longest.map_or(0, |job| job.retention_days);
    let mut history_retention_days: u32 = analyze.integer(HISTORY);
    if !analyze.has(HISTORY) {
        history_retention_days = history_retention_days.max(windows_days);
    } else if let Some(job) = longest.filter(|_| history_retention_days < windows_days) {
        let words = format!(
            "must be at least {windows_days}, the retention_days of job {}: late_events explains what windows lack",
            job.name
        );
        rule(&analyze, HISTORY, words, errors);
    }
    Some(Analyze {
        history_retention_days,
        migrate: analyze.boolean("migrate"),
        schema: analyze.text("schema"),
        create_tables: analyze.boolean("create_tables"),
        pool_size: analyze.integer("pool_size"),
        jobs,
    })
}

fn rule(section: &Section, name: &str, words: impl Into<String>, errors: &mut Collector) {
    section.add(errors, name, Problem::Rule(words.into()));
}

fn job(job: &Section, id: &str, errors: &mut Collector) -> Option<Job> {
    let inputs = inputs(job, errors);
    let measures = measures(job, &inputs, errors);
    let window_ms = job.duration_ms("window_duration");
    let slide_ms = job.duration_ms("slide_duration").or(window_ms);
    if let (Some(window), Some(slide)) = (window_ms, slide_ms) {
        check_slide(job, window, slide, errors);
    }
    let (window_ms, slide_ms) = (window_ms?, slide_ms?);
    let anomalies = job.items("anomalies").iter().filter_map(|item| anomaly(item, &measures, errors)).collect();
    let name = job.text("name")?;
    Some(Job {
        id: format!("{id}/{name}"),
        name,
        table: job.text("table")?,
        key_column: job.text("key_column")?,
        join: match job.choice("join") {
            Some("full") => Join::Full,
            _ => Join::Left,
        },
        window_ms,
        slide_ms,
        refresh_ms: if job.has("refresh_ms") { job.integer("refresh_ms") } else { slide_ms },
        watermark_delay_ms: job.integer("watermark_delay_ms"),
        allowed_lateness_ms: job.integer("allowed_lateness_ms"),
        idle_timeout_ms: job.integer("idle_timeout_ms"),
        max_future_ms: job.integer("max_future_ms"),
        distinct_exact_limit: job.integer("distinct_exact_limit"),
        max_state_bytes: job.integer("max_state_bytes"),
        counts_limit: job.integer("counts_limit"),
        emote_sentiment: job.boolean("emote_sentiment"),
        retention_days: job.integer("retention_days"),
        inputs,
        measures,
        anomalies,
    })
}

fn check_slide(job: &Section, window_ms: i64, slide_ms: i64, errors: &mut Collector) {
    let key = if job.has("slide_duration") { "slide_duration" } else { "window_duration" };
    if slide_ms > window_ms {
        rule(job, key, "must be at most window_duration: events between two windows would count nowhere", errors);
    } else if window_ms / greatest_common_divisor(window_ms, slide_ms) > MOST_PANES {
        let words = format!("divides the window into more than {MOST_PANES} panes: choose a longer slide");
        rule(job, key, words, errors);
    } else if 86_400_000 % slide_ms != 0 && slide_ms % 86_400_000 != 0 {
        // Windows begin at multiples of the slide since 1970: others would begin elsewhere every day.
        rule(job, key, "must divide a day, or be whole days", errors);
    }
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn inputs(job: &Section, errors: &mut Collector) -> Vec<Input> {
    let mut inputs: Vec<Input> = Vec::new();
    for item in job.items("inputs") {
        let (Some(name), Some(topic), Some(key)) = (item.text("name"), item.text("topic"), item.text("key")) else {
            continue;
        };
        if inputs.iter().any(|input| input.name == name) {
            rule(&item, "name", "is the name of another input", errors);
        }
        if inputs.iter().any(|input| input.topic == topic) {
            rule(&item, "topic", "is read by another input of the job", errors);
        }
        let tokens = item.items("tokens").into_iter().filter_map(|item| {
            Some(Tokens { field: item.text("field")?, from: item.text("from")?, words: item.texts("words") })
        });
        inputs.push(Input {
            name,
            topic,
            key,
            timestamp: item.text("timestamp").unwrap_or_default(),
            id: item.text("id"),
            tokens: tokens.collect(),
            partitions: item.integer("partitions"),
            replication: item.integer("replication"),
            retention_ms: item.integer("retention_ms"),
        });
    }
    if job.has("inputs") && inputs.is_empty() && job.is_empty_list("inputs") {
        rule(job, "inputs", "names no topic: give at least one", errors);
    }
    inputs
}

fn measures(job: &Section, inputs: &[Input], errors: &mut Collector) -> Vec<Measure> {
    let mut measures: Vec<Measure> = Vec::new();
    for item in job.items("measures") {
        let (Some(column), Some(function)) = (item.text("column"), function(&item, errors)) else { continue };
        let reserved = ["window_start", "window_end", "is_final", "revision", "approximate", "updated_at"];
        if reserved.contains(&column.as_str()) || Some(&column) == job.text("key_column").as_ref() {
            rule(&item, "column", "is written for every window by itself: choose another column", errors);
        }
        if measures.iter().any(|measure| measure.column == column) {
            rule(&item, "column", "is the column of another measure", errors);
        }
        let input = match item.text("input") {
            None => Some(0),
            Some(name) => {
                let found = inputs.iter().position(|input| input.name == name);
                if found.is_none() && !inputs.is_empty() {
                    let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
                    rule(&item, "input", format!("is no input of this job, which has {}", names.join(", ")), errors);
                }
                found
            }
        };
        measures.extend(input.map(|input| Measure { column, input, function }));
    }
    if job.is_empty_list("measures") {
        rule(job, "measures", "measures nothing: give at least one, such as {column: events, function: count}", errors);
    }
    measures
}

fn function(item: &Section, errors: &mut Collector) -> Option<Function> {
    let name = item.choice("function")?;
    if let "count" | "rate" = name {
        if item.has("field") {
            rule(item, "field", format!("is not used by {name}: remove it"), errors);
        }
        return Some(if name == "count" { Function::Count } else { Function::Rate });
    }
    if item.has("k") && name != "top_k" {
        rule(item, "k", format!("is not used by {name}: remove it"), errors);
    }
    item.missing(errors, "field", &format!("{name} needs the field that it measures"));
    let field = item.text("field")?;
    Some(match name {
        "sum" => Function::Sum { field },
        "avg" => Function::Avg { field },
        "min" => Function::Min { field },
        "max" => Function::Max { field },
        "distinct" => Function::Distinct { field },
        "top_k" => Function::TopK { field, k: item.integer("k") },
        "counts" => Function::Counts { field },
        "sentiment_avg" => Function::SentimentAvg { field },
        "sentiment_positive" => Function::SentimentPositive { field },
        _ => Function::SentimentNegative { field },
    })
}

fn anomaly(item: &Section, measures: &[Measure], errors: &mut Collector) -> Option<Anomaly> {
    let measure = item.text("measure")?;
    match measures.iter().find(|found| found.column == measure) {
        None => rule(item, "measure", "is no column of this job's measures", errors),
        Some(found) if matches!(found.function, Function::TopK { .. }) => {
            rule(item, "measure", "is a list, which has no size: watch a column of counts", errors);
        }
        Some(_) => {}
    }
    let optional = |name: &str| item.has(name).then(|| item.number(name));
    let given = |name: &str| item.has(name).then(|| item.integer::<u32>(name));
    Some(Anomaly {
        moment: item.text("moment")?,
        measure,
        direction: match item.choice("direction") {
            Some("down") => Direction::Down,
            Some("both") => Direction::Both,
            _ => Direction::Up,
        },
        detector: match item.choice("detector") {
            Some("quantile") => Detector::Quantile,
            _ => Detector::Zscore,
        },
        threshold: optional("threshold"),
        baseline_periods: given("baseline_periods"),
        history_periods: given("history_periods"),
        minimum_history: given("minimum_history"),
        cooldown_ms: item.integer("cooldown_ms"),
        floor_absolute: optional("floor_absolute"),
        floor_relative: optional("floor_relative"),
        floor_poisson: optional("floor_poisson"),
    })
}
