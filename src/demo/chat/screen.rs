//! The end of the chat's part, on one screen.

use super::{
    Names, WATERMARK_DELAY_MS,
    found::{Moment, Planted, Score},
    sparkline::{Columns, symbol},
    tables::StreamRow,
    watch::CaughtUp,
};
use crate::{
    app::group_digits,
    demo::{Options, Percentiles, pipeline::Usage, program, stage_set::StageSet},
    generate::chat::{Kind, Report},
    output,
};
use serde_json::Value;
use std::collections::BTreeMap;

/// What `headwater verify --format json` found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verified {
    /// Rows that were compared.
    pub rows: u64,
    pub wrong: u64,
    /// Records as verify read them: events, and copies of events.
    pub events: u64,
    pub copies: u64,
    /// Rows that differ by what `late_events` lists.
    pub explained: u64,
    pub ok: bool,
}

impl Verified {
    pub fn of(report: &Value) -> Verified {
        let jobs = report["jobs"].as_array().map_or(&[][..], Vec::as_slice);
        let sum = |names: &[&str]| -> u64 {
            jobs.iter().flat_map(|job| names.iter().map(|name| job[*name].as_u64().unwrap_or(0))).sum()
        };
        Verified {
            rows: sum(&["rows"]),
            wrong: sum(&["missing_count", "unexpected_count", "differing_count", "duplicated_count"]),
            events: sum(&["events"]),
            copies: sum(&["duplicate_events"]),
            explained: sum(&["explained_by_late", "explained_by_copies"]),
            // Nothing compared is nothing shown.
            ok: report["ok"].as_bool().unwrap_or(false) && sum(&["rows"]) > 0,
        }
    }
}

/// What the tables hold.
#[derive(Debug, Clone)]
pub struct Found {
    pub final_rows: i64,
    pub provisional_rows: i64,
    /// Events that a window misses, for each such window.
    pub late: i64,
    pub dead_letters: BTreeMap<String, i64>,
    pub moments: Vec<Moment>,
    pub delays: Option<Percentiles>,
}

pub struct Outcome {
    pub past_minutes: u32,
    pub written: Report,
    /// None where the past was never caught up with before the end.
    pub caught_up: Option<CaughtUp>,
    /// From then to the last message; not above zero where that was before.
    pub caught_up_seconds: f64,
    pub live_seconds: f64,
    pub killed_before_end_seconds: f64,
    pub verified: Verified,
    pub found: Found,
    pub usage: Usage,
    pub seconds: f64,
}

impl Outcome {
    /// The bad records by the reason they are to have, and no others.
    fn has_all_dead_letters(&self) -> bool {
        let expected = self.written.dead_letters.iter().map(|(reason, count)| (*reason, *count as i64));
        expected.eq(self.found.dead_letters.iter().map(|(reason, count)| (reason.as_str(), *count)))
    }

    pub fn is_right(&self) -> bool {
        self.verified.ok && self.has_all_dead_letters()
    }
}

/// The lines that matter, from the figures alone.
pub fn summary(outcome: &Outcome) -> String {
    let Outcome { written, found, usage, .. } = outcome;
    let letters: i64 = found.dead_letters.values().sum();
    let reasons: Vec<String> = found.dead_letters.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let of_kind = |kind: Kind| found.moments.iter().filter(|moment| moment.kind == kind.name()).count();
    let mut lines = vec![
        line(
            "messages",
            written.totals.messages,
            &format!("in {} min of the past and {:.0} s live", outcome.past_minutes, outcome.live_seconds),
        ),
        line("viewer events", written.totals.viewer_events, ""),
        line(
            "late",
            written.totals.late,
            &format!("by up to 8.5 s; {} too late for a window", group_digits(found.late.unsigned_abs())),
        ),
        line("duplicates", written.totals.duplicates, "written twice, counted once"),
        line(
            "dead letters",
            letters.unsigned_abs(),
            &format!("of {} bad records", group_digits(written.dead_letters.values().sum())),
        ),
        format!("{:26}{}", "", reasons.join(", ")),
        line(
            "windows",
            found.final_rows.unsigned_abs(),
            &format!(
                "final, and {} provisional that reach beyond the last message",
                group_digits(found.provisional_rows.unsigned_abs())
            ),
        ),
        line(
            "moments",
            found.moments.len() as u64,
            &Kind::PLANTED.map(|kind| format!("{} {}", kind.name(), of_kind(kind))).join(", "),
        ),
    ];
    if let Some(CaughtUp { records, seconds, .. }) = outcome.caught_up {
        let past = (records as f64 / seconds.max(1e-9)) as u64;
        let live = match outcome.caught_up_seconds > 0.0 {
            true => written.totals.records.saturating_sub(records) as f64 / outcome.caught_up_seconds,
            false => 0.0,
        };
        let live = if live > 0.0 { format!("; {}/s live", group_digits(live as u64)) } else { String::new() };
        lines.push(line("rate", past, &format!("records/s of the past, written at the same time{live}")));
    }
    let (cpu, mebibytes) = (usage.cpu_seconds, usage.peak_bytes as f64 / f64::from(1 << 20));
    lines.push(format!("{:26}the pipeline took {cpu:.1} CPU s, {mebibytes:.0} MiB at its peak", ""));
    let delay_s = WATERMARK_DELAY_MS / 1_000;
    match found.delays {
        Some(delays) => {
            lines.push(format!("delay          {delays}  from {delay_s} s after a window's end to its final row"));
            lines.push(format!("{:15}(a window waits for a later event in every partition, the viewers' too)", ""));
        }
        None => lines.push("delay          not measured: no window became final while chat was live".to_owned()),
    }
    lines.join("\n")
}

fn line(name: &str, count: u64, words: &str) -> String {
    format!("{name:<14} {:>9}  {words}", group_digits(count)).trim_end().to_owned()
}

/// A table of streams.
pub fn streams(rows: &[StreamRow]) -> String {
    let mut lines = vec![
        "              messages  | in the last final minute".to_owned(),
        "stream    of this hour  |    per s  chatters  sentiment   viewers  top emotes".to_owned(),
    ];
    lines.extend(rows.iter().map(|row| {
        format!(
            "{:<8} {:>13}  | {:>8.1}  {:>8}  {:>9}  {:>8}  {}",
            row.name,
            group_digits(row.messages.unsigned_abs()),
            row.rate,
            group_digits(row.chatters.unsigned_abs()),
            row.sentiment.map_or("-".to_owned(), |value| format!("{value:+.3}")),
            row.viewers.map_or("-".to_owned(), |value| group_digits(value.round() as u64)),
            row.emotes.join(" ")
        )
    }));
    lines.join("\n")
}

/// A measure of a stream with what happened in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    stream: String,
    unit: &'static str,
    columns: Columns,
    line: String,
    largest: f64,
    marks: String,
}

impl Chart {
    pub fn new<'a>(
        columns: Columns,
        planted: &Planted,
        series: &[(i64, f64)],
        moments: impl Iterator<Item = &'a Moment>,
    ) -> Chart {
        let (line, largest) = columns.line(series);
        Chart {
            stream: planted.stream.clone(),
            unit: if planted.kind == Kind::ViewerDrop { "viewers" } else { "messages/s" },
            columns,
            line,
            largest,
            marks: columns.marks(planted, moments),
        }
    }
}

/// The charts, with the times at their two ends and what the marks mean.
pub fn charts(charts: &[Chart]) -> String {
    let Some(Chart { columns, .. }) = charts.first() else { return String::new() };
    let time = |ms: i64| {
        chrono::DateTime::from_timestamp_millis(ms).map_or_else(String::new, |time| time.format("%H:%M:%S").to_string())
    };
    let (from, until) = (time(columns.first_ms), time(columns.last_ms()));
    let mut lines = vec![format!("       {from}{until:>width$} UTC", width = columns.count - from.len())];
    for Chart { stream, unit, line, largest, marks, .. } in charts {
        lines.push(format!("{stream:<6} {line}  up to {} {unit}", group_digits(*largest as u64)));
        lines.push(format!("       {marks}"));
    }
    lines.push(format!(
        "       each column a window of a minute, 10 s after the one before; ─ planted, found: {}",
        Kind::PLANTED.map(|kind| format!("{} {}", symbol(kind.name()), kind.name())).join("  ")
    ));
    lines.join("\n")
}

/// Planted against found.
pub fn scores(scores: &[Score]) -> String {
    let mut lines = vec!["moments       planted  found   least  median    most  echoes  unplanned".to_owned()];
    for Score { kind, planted, found, delays_ms, echoes, unplanned } in scores {
        let delay = |index: Option<usize>| {
            let ms = index.and_then(|index| delays_ms.get(index));
            ms.map_or("-".to_owned(), |ms| format!("{:.0} s", *ms as f64 / 1e3))
        };
        let last = delays_ms.len().checked_sub(1);
        lines.push(format!(
            "{:<13} {planted:>7} {found:>6} {:>7} {:>7} {:>7} {echoes:>7} {unplanned:>10}",
            kind.name(),
            delay(last.map(|_| 0)),
            delay(last.map(|last| last.div_ceil(2))),
            delay(last),
        ));
    }
    lines.push(format!(
        "times: of the event, from an episode's start to the end of the window that shows it, and {} s until it is final\n\
         echoes: of a planted episode of another kind; a spike of chat brings emotes, too",
        WATERMARK_DELAY_MS / 1_000
    ));
    lines.join("\n")
}

pub fn verdict(outcome: &Outcome) -> String {
    let Verified { rows, wrong, events, copies, explained, ok } = &outcome.verified;
    let explained = match explained {
        0 => String::new(),
        count => format!(", {} differ by late events that are listed", group_digits(*count)),
    };
    let letters = if outcome.has_all_dead_letters() { "" } else { "; dead letters are NOT the bad records" };
    let all = if *ok { "" } else { "; NOT as they should be, see headwater verify" };
    format!(
        "windows compared with a batch recomputation: {}, {} wrong{explained}{all}{letters}\n\
         {:8}after kill -9 {:.0} s before the last message; headwater verify counted {} events and {} copies again\n\
         {:8}(this part took {:.0} s)",
        group_digits(*rows),
        group_digits(*wrong),
        "",
        outcome.killed_before_end_seconds,
        group_digits(*events),
        group_digits(*copies),
        "",
        outcome.seconds
    )
}

/// How to look at what goes on running.
pub fn show_kept(set: &StageSet, names: &Names, options: &Options, http: Option<&str>) {
    let crate::config::model::Postgres { host, port, db, user, .. } = &set.postgres;
    let psql = format!("psql -h {host} -p {port} -U {user} {db} -c");
    let Names { schema, chat_topic, viewer_topic, config, .. } = names;
    let queries = [
        "SELECT stream_id, window_end, chat_count, avg_sentiment, avg_viewers, top_emotes FROM {}.chat_latest",
        "SELECT stream_id, sum(chat_count) FROM {}.chat_last_hour GROUP BY 1 ORDER BY 2 DESC",
        "SELECT * FROM {}.chat_top_emotes_hour WHERE rank <= 3",
        "SELECT window_end, moment_type, stream_id, value, baseline, score FROM {}.moments_today ORDER BY 1",
    ];
    for (n, query) in queries.into_iter().enumerate() {
        output::line(format_args!(
            "  {:<8}  {psql} '{}'",
            if n == 0 { "chat" } else { "" },
            query.replace("{}", schema)
        ));
    }
    output::line(format_args!(
        "            {} generate chat --brokers {} --chat-topic {chat_topic} --viewer-topic {viewer_topic} \
         --seed {} --rate {}",
        program(),
        set.kafka.brokers,
        options.seed,
        options.chat_rate
    ));
    output::line(format_args!("            configuration {}", config.display()));
    if let Some(address) = http {
        output::line(format_args!(
            "            http://{address}/   in a browser, or curl http://{address}/status   (also /metrics, /ready)"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{demo::chat::found, generate::chat::Totals};
    use serde_json::json;

    fn outcome(report: &Value) -> Outcome {
        let totals = Totals { messages: 2_000_000, records: 2_100_000, late: 9, duplicates: 3, ..Totals::default() };
        let written = Report {
            totals,
            dead_letters: BTreeMap::from([("null_key", 2)]),
            planted: BTreeMap::new(),
            start: String::new(),
            end: String::new(),
            seconds: 70.0,
            records_per_second: 30_000.0,
        };
        let found = Found {
            final_rows: 1_920,
            provisional_rows: 120,
            late: 0,
            dead_letters: BTreeMap::from([("null_key".to_owned(), 2)]),
            moments: Vec::new(),
            delays: Percentiles::of(vec![100, 300]),
        };
        Outcome {
            past_minutes: 15,
            written,
            caught_up: Some(CaughtUp { at_ms: 0, records: 2_000_000, seconds: 10.0 }),
            caught_up_seconds: 20.0,
            live_seconds: 30.0,
            killed_before_end_seconds: 10.0,
            verified: Verified::of(report),
            found,
            usage: Usage { cpu_seconds: 8.0, peak_bytes: 100 << 20 },
            seconds: 90.0,
        }
    }

    #[test]
    fn what_is_right_is_said_in_figures() {
        let report =
            json!({"ok": true, "jobs": [{"rows": 1_920, "missing_count": 0, "events": 5, "duplicate_events": 3}]});
        let outcome = outcome(&report);
        assert!(outcome.is_right());
        let text = summary(&outcome);
        assert!(text.contains("dead letters           2  of 2 bad records\n"), "{text}");
        assert!(text.contains("rate             200,000  records/s of the past"), "{text}");
        assert!(text.contains("; 5,000/s live") && text.contains("p50 0.30 s"), "{text}");
        let text = verdict(&outcome);
        assert!(text.starts_with("windows compared with a batch recomputation: 1,920, 0 wrong\n"), "{text}");
    }

    #[test]
    fn what_is_wrong_is_not_hidden() {
        let report = json!({"ok": false, "jobs": [{"rows": 9, "missing_count": 1, "differing_count": 2, "explained_by_late": 4}]});
        let text = verdict(&outcome(&report));
        assert!(text.contains("9, 3 wrong, 4 differ by late events that are listed; NOT as they should be"), "{text}");
        let nothing = outcome(&json!({"ok": true, "jobs": []}));
        assert!(!nothing.is_right(), "nothing was compared");
        let mut letters = outcome(&json!({"ok": true, "jobs": [{"rows": 1}]}));
        letters.found.dead_letters.insert("invalid_timestamp".to_owned(), 1);
        assert!(!letters.is_right() && verdict(&letters).contains("dead letters are NOT the bad records"));
    }

    #[test]
    fn tables_keep_their_columns() {
        let delays_ms = vec![12_000, 18_000, 41_000];
        let found = found::Score { kind: Kind::ChatSpike, planted: 4, found: 3, delays_ms, echoes: 0, unplanned: 1 };
        let missed = found::Score {
            kind: Kind::EmoteSpike,
            planted: 1,
            found: 0,
            delays_ms: Vec::new(),
            echoes: 2,
            unplanned: 0,
        };
        let text = scores(&[found, missed]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "chat_spike          4      3    12 s    18 s    41 s       0          1");
        assert_eq!(lines[2], "emote_spike         1      0       -       -       -       2          0");
        let row = StreamRow {
            name: "s1".to_owned(),
            messages: 1_234_567,
            chatters: 12_345,
            rate: 612.345,
            sentiment: Some(0.1),
            viewers: None,
            emotes: vec!["Kappa".to_owned(), "LUL".to_owned()],
        };
        let text = streams(&[row]);
        let last = text.lines().last().unwrap_or_default();
        assert_eq!(last, "s1           1,234,567  |    612.3    12,345     +0.100         -  Kappa LUL");
    }
}
