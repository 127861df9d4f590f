//! The stages with their charts, the tables and topics, the partitions.

use super::{
    begin_table,
    chart::{Chart, span_ms},
    end_table,
    html::Html,
    none, number,
};
use crate::{
    app::group_digits,
    health::{Health, Point},
    status::{Status, UnitLine, age, columns, passed, rate, seconds},
    visible::shortened,
};

/// Rows of a table, beyond which the page refers to `/status`.
const MOST_ROWS: usize = 200;

/// Each with what it does, what it counts and what its delay is.
const STAGES: [(&str, &str, &str, &str); 3] = [
    ("capture", "PostgreSQL to Kafka", "rows/s", "to Kafka"),
    ("land", "Kafka to the lake", "rows/s", "to the lake"),
    ("analyze", "Kafka to PostgreSQL", "events/s", "behind"),
];

pub fn stages(html: &mut Html, health: &Health, status: &Status) {
    html.raw("<div class=cards>");
    for (stage, what, unit, delay) in STAGES {
        let of_stage: Vec<&UnitLine> = status.units.iter().filter(|unit| unit.stage == stage).collect();
        // The worst of them stands for all.
        let Some(worst) = of_stage.iter().max_by_key(|unit| severity(unit)) else { continue };
        html.raw("<section class=card aria-labelledby=").raw(stage).raw("-h><h2 id=").raw(stage).raw("-h>").raw(stage);
        state(html, worst);
        html.raw("</h2><p class=soft>").raw(what);
        let ready = of_stage.iter().filter(|unit| unit.is_ready()).count();
        html.text(format_args!(" · {} of {} ready", ready, of_stage.len())).raw("</p>");
        let points = health.points(stage);
        let now_ms = health.uptime_ms();
        let per_second: f64 = of_stage.iter().map(|unit| unit.rows_per_second).sum();
        let rates: Vec<_> = points.iter().map(|point| (point.at_ms, Some(point.rows_per_second))).collect();
        figure(html, (stage, "rate"), unit, Some(per_second), &rates, now_ms, rate);
        let longest = of_stage.iter().filter_map(|unit| unit.delay_seconds).max_by(f64::total_cmp);
        let delays: Vec<_> = points.iter().map(|Point { at_ms, delay_seconds, .. }| (*at_ms, *delay_seconds)).collect();
        figure(html, (stage, "delay"), delay, longest, &delays, now_ms, seconds);
        html.raw("<div class=axis><span>")
            .text(seconds(span_ms() as f64 / 1e3))
            .raw(" ago</span><span>now</span></div>");
        html.raw("</section>");
    }
    html.raw("</div>");
}

/// A chart with its newest value; stage and quantity are for those who cannot see it.
fn figure(
    html: &mut Html,
    (stage, quantity): (&str, &str),
    name: &'static str,
    newest: Option<f64>,
    series: &[(u64, Option<f64>)],
    now_ms: u64,
    show: fn(f64) -> String,
) {
    let highest = series.iter().filter_map(|(_, value)| *value).chain(newest).fold(0.0, f64::max);
    let newest = newest.map_or_else(|| "–".to_owned(), show);
    let label = format!(
        "{quantity} of {stage} over the last {}: now {newest} {name}, highest {}",
        seconds(span_ms() as f64 / 1e3),
        show(highest)
    );
    html.raw("<figure><figcaption><span><b>").text(newest).raw("</b> ").raw(name);
    html.raw("</span><span class=nowrap>peak ").text(show(highest)).raw("</span></figcaption>");
    Chart { series, now_ms, label: &label }.draw(html);
    html.raw("</figure>");
}

/// How much somebody has to look at it.
fn severity(unit: &UnitLine) -> u8 {
    match unit.state.as_str() {
        "stopped" => 6,
        "failing" => 5,
        "waiting" => 4,
        "starting" => 3,
        "progressing" => 2,
        "caught_up" => 1,
        _ => 0,
    }
}

fn state(html: &mut Html, unit: &UnitLine) {
    html.raw("<span class=\"state ");
    html.raw(match (unit.is_ready(), unit.state.as_str()) {
        (true, _) => "good\">● ",
        (false, "starting" | "waiting") => "wait\">▲ ",
        (false, _) => "bad\">■ ",
    });
    html.text(unit.state.replace('_', " ")).raw("</span>");
}

/// Says how many were left out.
fn left_out(html: &mut Html, count: usize) {
    if count > MOST_ROWS {
        let count = group_digits((count - MOST_ROWS) as u64);
        html.raw("<p class=soft>and ").text(count).raw(" more: see <a href=status>/status</a></p>");
    }
}

pub fn table(html: &mut Html, status: &Status) {
    let now = status.now_seconds;
    let is_plural = status.pipelines().len() > 1;
    html.raw("<h2 id=units-h>Tables, topics and jobs</h2>");
    html.raw("<p class=soft>Rows since the start of the process: row versions committed to Kafka, rows committed to the lake, ");
    html.raw(
        "events read by a job. Rates are means of the last minute. A delay is the age of the newest row (capture) or ",
    );
    html.raw("the oldest record (land) of the newest commit; a job is behind the clock by its watermark.</p>");
    begin_table(html, "units-h", &[columns(is_plural), &[("last error", false)]].concat());
    // Those in trouble are not among the ones left out.
    let mut shown: Vec<&UnitLine> = status.units.iter().collect();
    if shown.len() > MOST_ROWS {
        shown.sort_by_key(|unit| unit.is_ready());
    }
    for unit in shown.into_iter().take(MOST_ROWS) {
        html.raw("<tr>");
        if is_plural {
            html.raw("<td>").text(&unit.pipeline).raw("</td>");
        }
        html.raw("<td>").text(&unit.stage).raw("</td><th scope=row>").text(&unit.unit).raw("</th><td>");
        state(html, unit);
        if let Some(reason) = &unit.reason {
            html.raw("<span class=why>")
                .raw("for ")
                .text(passed(now, unit.since_seconds as f64))
                .raw(": ")
                .text(reason)
                .raw("</span>");
        }
        html.raw("</td>");
        number(html, rate(unit.rows_per_second));
        match unit.delay_seconds {
            Some(delay) => number(html, seconds(delay)),
            None => none(html),
        }
        match unit.lag_records {
            Some(lag) => number(html, group_digits(lag)),
            None => none(html),
        }
        number(html, group_digits(unit.rows));
        number(html, group_digits(unit.dead_letters));
        html.raw("<td class=nowrap>");
        if let Some(then) = unit.last_commit_seconds {
            html.text(age(now, then));
        }
        html.raw("</td><td>");
        if let Some(error) = unit.last_error.as_ref().filter(|error| unit.reason.as_ref() != Some(*error)) {
            let when = unit.last_error_seconds.map_or_else(String::new, |then| age(now, then as f64));
            html.text(when).raw("<span class=why>").text(error).raw("</span>");
        }
        html.raw("</td></tr>");
    }
    end_table(html);
    left_out(html, status.units.len());
}

pub fn partitions(html: &mut Html, status: &Status) {
    let now = status.now_seconds;
    let count: usize = status.units.iter().map(|unit| unit.partitions().len()).sum();
    html.raw("<h2 id=partitions-h>Positions</h2>");
    let columns = [
        ("stage", false),
        ("table, topic, job", false),
        ("partition", false),
        ("position", true),
        ("committed", true),
        ("end", true),
        ("lag", true),
        ("last commit", false),
    ];
    begin_table(html, "partitions-h", &columns);
    for unit in status.units.iter().filter(|unit| unit.stage == "capture").take(MOST_ROWS) {
        captured(html, unit);
    }
    let all = status.units.iter().flat_map(|unit| unit.partitions().into_iter().map(move |line| (unit, line)));
    for (unit, line) in all.take(MOST_ROWS) {
        html.raw("<tr><td>").text(&unit.stage).raw("</td><th scope=row>").text(&unit.unit).raw("</th><td>");
        html.text(&line.name);
        if let Some(trouble) = &line.trouble {
            html.raw("<span class=why>").text(trouble).raw("</span>");
        }
        html.raw("</td>");
        for known in [line.position, line.committed, line.end, line.lag.and_then(|lag| i64::try_from(lag).ok())] {
            match known {
                Some(known) => number(html, group_digits(known.unsigned_abs())),
                None => none(html),
            }
        }
        html.raw("<td class=nowrap>");
        if let Some(then) = line.last_commit_seconds {
            html.text(age(now, then as f64));
        }
        html.raw("</td></tr>");
    }
    end_table(html);
    left_out(html, count);
}

/// A captured table has no offsets: its position is a snapshot of PostgreSQL's.
fn captured(html: &mut Html, unit: &UnitLine) {
    let detail = &unit.detail;
    let Some(snapshot) = detail["snapshot"].as_str() else { return };
    html.raw("<tr><td>capture</td><th scope=row>")
        .text(&unit.unit)
        .raw("</th><td colspan=5>snapshot ")
        .text(shortened(snapshot, 40));
    if let Some(newest) = detail["newest"].as_str() {
        html.raw(", newest row of ").text(newest);
    }
    let load = &detail["backfill"];
    if load["done"] == serde_json::Value::Bool(false) {
        let done = load["done_rows"].as_u64().unwrap_or(0);
        html.raw("<span class=why>first load: ").text(group_digits(done));
        if let Some(total) = load["estimated_rows"].as_u64() {
            html.raw(" of about ").text(group_digits(total));
        }
        if let Some(left) = load["seconds_left"].as_f64() {
            html.raw(", about ").text(seconds(left)).raw(" left");
        }
        html.raw(" </span>");
    }
    html.raw("</td><td></td></tr>");
}
