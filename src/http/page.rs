//! The page: what this process is doing, for people with a browser. It shows and does nothing else: no
//! controls, nothing from elsewhere, and all of it without scripts.

mod chart;
mod html;
mod newest;
mod units;

use crate::{
    app::group_digits,
    health::Health,
    status::{Status, passed, seconds},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use html::Html;
use std::sync::LazyLock;

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The page's Content-Security-Policy: its one style, its one script, and itself to ask again.
pub fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash = |text: &str| STANDARD.encode(openssl::sha::sha256(text.as_bytes()));
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(STYLE),
            hash(SCRIPT)
        )
    });
    &POLICY
}

/// The whole document.
pub fn render(health: &Health) -> String {
    let status = Status::of(health);
    let mut html = Html::default();
    html.raw("<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>");
    html.text(verdict(&status)).raw(" · Headwater · ").text(status.pipelines().join(", "));
    html.raw("</title><meta name=viewport content=\"width=device-width, initial-scale=1\">");
    // Without one, browsers ask for one.
    html.raw("<link rel=icon href=\"data:,\"><style>").raw(STYLE);
    html.raw("</style><script>").raw(SCRIPT).raw("</script></head>\n<body>");
    html.raw("<header id=head data-live>");
    head(&mut html, &status);
    html.raw("</header>\n<p id=trouble role=status></p>\n<main>\n<div id=stages data-live>");
    units::stages(&mut html, health, &status);
    html.raw("</div>\n<section id=units data-live>");
    units::table(&mut html, &status);
    let recent = health.recent();
    let now_ms = (status.now_seconds * 1e3) as i64;
    let has_jobs = status.units.iter().any(|unit| unit.stage == "analyze");
    // A part that is empty now may be filled when the page is brought up to date.
    html.raw("</section>\n<section id=moments data-live>");
    if has_jobs {
        newest::moments(&mut html, &recent, now_ms);
    }
    html.raw("</section>\n<section id=windows data-live>");
    if has_jobs {
        newest::windows(&mut html, &recent);
    }
    html.raw("</section>\n<section id=letters data-live>");
    newest::letters(&mut html, &recent, health.shows_payloads(), now_ms);
    html.raw("</section>\n<section id=partitions data-live>");
    units::partitions(&mut html, &status);
    html.raw("</section>\n</main>\n<footer>");
    html.raw("<p>This page shows what this one process has done since its start, and has no controls. ");
    html.raw("The same figures for programs: <a href=status>/status</a>, <a href=metrics>/metrics</a>, ");
    html.raw("<a href=ready>/ready</a>; in a terminal: <code>headwater status -c FILE --watch</code>.</p>");
    html.raw("<noscript><p>Reload the page for newer figures: scripts, which would do that, are off.</p></noscript>");
    html.raw("</footer></body></html>\n");
    html.into_string()
}

fn verdict(status: &Status) -> String {
    let not_ready = status.units.iter().filter(|unit| !unit.is_ready()).count();
    match (status.ready, not_ready) {
        (true, _) => "ready".to_owned(),
        (false, 0) => "not ready: starting".to_owned(),
        (false, count) => format!("not ready: {count} of {}", status.units.len()),
    }
}

fn head(html: &mut Html, status: &Status) {
    html.raw("<div class=head><h1>Headwater <small>").text(&status.version).raw("</small></h1><span class=\"state ");
    html.raw(if status.ready { "good\">● " } else { "bad\">■ " }).text(verdict(status)).raw("</span><dl>");
    let mut entry = |name: &'static str, value: String| {
        html.raw("<div><dt>").raw(name).raw("</dt><dd>").text(value).raw("</dd></div>");
    };
    let pipelines = status.pipelines();
    match pipelines.len() {
        0..=5 => entry("pipeline", pipelines.join(", ")),
        count => entry("pipelines", group_digits(count as u64)),
    }
    entry("up", passed(status.now_seconds, status.started_seconds));
    entry("CPU", format!("{} used", seconds(status.cpu_seconds)));
    if let Some(bytes) = status.resident_bytes {
        entry("memory", format!("{} MiB", bytes >> 20));
    }
    entry("as of", utc((status.now_seconds * 1e3) as i64));
    html.raw("</dl></div>");
}

/// Date and time of day in UTC.
fn utc(at_ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(at_ms)
        .map_or_else(|| format!("{at_ms} ms"), |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// The time of day in UTC.
fn time_of_day(at_ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(at_ms)
        .map_or_else(|| format!("{at_ms} ms"), |time| time.format("%H:%M:%S").to_string())
}

/// The start of a table that scrolls by itself where it is too wide, by keys too.
fn begin_table(html: &mut Html, heading: &'static str, columns: &[(&str, bool)]) {
    html.raw("<div class=scroll role=region tabindex=0 aria-labelledby=").raw(heading).raw("><table><thead><tr>");
    for (name, is_number) in columns {
        html.raw(if *is_number { "<th scope=col class=num>" } else { "<th scope=col>" }).text(name).raw("</th>");
    }
    html.raw("</tr></thead><tbody>");
}

fn end_table(html: &mut Html) {
    html.raw("</tbody></table></div>");
}

fn number(html: &mut Html, text: impl std::fmt::Display) {
    html.raw("<td class=num>").text(text).raw("</td>");
}

/// What is not there, for eyes and for screen readers.
fn none(html: &mut Html) {
    html.raw("<td class=num><span class=soft aria-label=none>–</span></td>");
}

#[cfg(test)]
mod tests;
