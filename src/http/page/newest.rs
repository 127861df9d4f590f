//! The newest moments, windows and dead letters.

use super::{begin_table, end_table, html::Html, number, time_of_day, utc};
use crate::{
    app::group_digits,
    health::{COLUMNS, KEYS, LETTERS_OF_A_REASON, Letter, Recent},
    status::age,
};

pub fn moments(html: &mut Html, recent: &Recent, now_ms: i64) {
    html.raw("<h2 id=moments-h>Newest moments</h2>");
    if recent.moments.is_empty() {
        html.raw("<p class=soft>None since the start of the process.</p>");
        return;
    }
    let columns = [
        ("ended", false),
        ("window, UTC", false),
        ("moment", false),
        ("key", false),
        ("measure", false),
        ("value", true),
        ("usual", true),
        ("score", true),
        ("job", false),
    ];
    begin_table(html, "moments-h", &columns);
    for of in &recent.moments {
        let moment = &of.it;
        html.raw("<tr><td class=nowrap>").text(ago(now_ms, moment.end_ms)).raw("</td><td class=nowrap>");
        html.text(time_of_day(moment.start_ms))
            .raw("–")
            .text(time_of_day(moment.end_ms))
            .raw("</td><td>")
            .text(&moment.kind);
        html.raw("</td><th scope=row>").text(&moment.key).raw("</th><td>").text(&moment.metric).raw("</td>");
        for value in [moment.value, moment.baseline, moment.score] {
            number(html, figure(value));
        }
        html.raw("<td>").text(&of.unit).raw("</td></tr>");
    }
    end_table(html);
}

fn figure(value: f64) -> String {
    match value.abs() {
        1_000.0..1e15 => format!("{}{}", if value < 0.0 { "-" } else { "" }, group_digits(value.abs().round() as u64)),
        100.0.. => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

fn ago(now_ms: i64, then_ms: i64) -> String {
    age(now_ms as f64 / 1e3, then_ms as f64 / 1e3)
}

pub fn windows(html: &mut Html, recent: &Recent) {
    html.raw("<h2 id=windows-h>Newest windows</h2>");
    if recent.windows.values().all(|windows| windows.rows.is_empty()) {
        html.raw("<p class=soft>None since the start of the process.</p>");
        return;
    }
    html.raw("<p class=soft>Of each key its newest window that is final, or the newest one where none is; of ");
    html.text(format_args!("{KEYS} keys and {COLUMNS} measures"))
        .raw(" at most, those with most of the first one.</p>");
    for ((pipeline, job), windows) in recent.windows.iter().filter(|(_, windows)| !windows.rows.is_empty()) {
        html.raw("<h3>").text(job);
        if recent.windows.keys().any(|(other, _)| other != pipeline) {
            html.raw(" <span class=soft>of ").text(pipeline).raw("</span>");
        }
        html.raw("</h3>");
        let is_number: Vec<bool> = (0..windows.columns.len())
            .map(|n| windows.rows.iter().all(|row| row.cells.get(n).is_none_or(|cell| is_number(cell))))
            .collect();
        let measures = windows.columns.iter().map(String::as_str).zip(is_number.iter().copied());
        let columns: Vec<(&str, bool)> =
            [(windows.key_column.as_str(), false), ("window, UTC", false), ("state", false)]
                .into_iter()
                .chain(measures)
                .collect();
        begin_table(html, "windows-h", &columns);
        for row in &windows.rows {
            html.raw("<tr><th scope=row>").text(&row.key).raw("</th><td class=nowrap>");
            html.text(time_of_day(row.start_ms)).raw("–").text(time_of_day(row.end_ms)).raw("</td><td>");
            html.raw(if row.is_final { "final" } else { "provisional" }).raw("</td>");
            for (cell, is_number) in row.cells.iter().zip(&is_number) {
                html.raw(if *is_number { "<td class=num>" } else { "<td class=nowrap>" }).text(cell).raw("</td>");
            }
            html.raw("</tr>");
        }
        end_table(html);
    }
}

/// A number or nothing.
fn is_number(cell: &str) -> bool {
    cell.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b',' | b'-'))
}

pub fn letters(html: &mut Html, recent: &Recent, shows_payloads: bool, now_ms: i64) {
    html.raw("<h2 id=letters-h>Newest dead letters</h2>");
    if recent.letters.is_empty() {
        html.raw("<p class=soft>None since the start of the process.</p>");
        return;
    }
    html.raw("<p class=soft>Of each table and reason the newest ").text(LETTERS_OF_A_REASON).raw(".</p>");
    if !shows_payloads {
        html.raw("<p class=soft>What they hold is not shown: <code>http.show_payloads</code> is false.</p>");
    }
    let columns = [("rejected", false), ("from", false), ("reason", false), ("payload, its start", false)];
    begin_table(html, "letters-h", &columns[..if shows_payloads { 4 } else { 3 }]);
    for of in &recent.letters {
        let Letter { at_ms, topic, place, reason, content } = &of.it;
        html.raw("<tr><td class=nowrap>").text(ago(now_ms, *at_ms)).raw("<span class=\"why soft\">").text(utc(*at_ms));
        html.raw("</span></td><td>").text(of.stage).raw(" ").text(&of.unit).raw("<span class=\"why soft\">");
        if topic != &of.unit {
            html.text(topic).raw(" ");
        }
        if let Some((partition, offset)) = place {
            html.raw("partition ").text(partition).raw(" offset ").text(group_digits(offset.unsigned_abs()));
        }
        html.raw("</span></td><th scope=row>").text(reason);
        if let Some(content) = content {
            html.raw("<span class=why>").text(&content.detail).raw("</span></th><td>");
            match &content.payload {
                Some(payload) => {
                    html.raw("<code>").text(payload).raw(if content.is_cut() { "…" } else { "" }).raw("</code>");
                    html.raw("<span class=\"why soft\">").text(group_digits(content.bytes as u64)).raw(" bytes</span>");
                }
                None => {
                    html.raw("<span class=soft>no payload</span>");
                }
            }
            html.raw("</td></tr>");
        } else {
            html.raw("</th></tr>");
        }
    }
    end_table(html);
}
