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
    demo::{Options, Percentiles, pipeline::Usage, stage_set::StageSet},
    generate::chat::{Kind, Report},
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
    /// From then to the last message.
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
    let number = |count: u64| format!("{:>9}", group_digits(count));
    let letters: i64 = found.dead_letters.values().sum();
    let expected: u64 = written.dead_letters.values().sum();
    let reasons: Vec<String> = found.dead_letters.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let of_kind = |kind: Kind| found.moments.iter().filter(|moment| moment.kind == kind.name()).count();
    let mut lines = vec![
        format!(
            "messages       {}  in {} min of the past and {:.0} s live",
            number(written.totals.messages),
            outcome.past_minutes,
            outcome.live_seconds
        ),
        format!("viewer events  {}", number(written.totals.viewer_events)),
        format!(
            "late           {}  written up to 8.5 s late; {} too late for a window",
            number(written.totals.late),
            group_digits(found.late.unsigned_abs())
        ),
        format!("duplicates     {}  written twice, counted once", number(written.totals.duplicates)),
        format!(
            "dead letters   {}  of {} bad records  ({})",
            number(letters as u64),
            group_digits(expected),
            reasons.join(", ")
        ),
        format!(
            "windows        {}  final, and {} that reach beyond the last message",
            number(found.final_rows as u64),
            group_digits(found.provisional_rows as u64)
        ),
        format!(
            "moments        {}  ({})",
            number(found.moments.len() as u64),
            Kind::PLANTED.map(|kind| format!("{} {}", kind.name(), of_kind(kind))).join(", ")
        ),
    ];
    if let Some(CaughtUp { records, seconds, .. }) = outcome.caught_up {
        let live = written.totals.records.saturating_sub(records) as f64 / outcome.live_seconds.max(1e-9);
        lines.push(format!(
            "rate           {}  records/s of the past, while they were being written; {} records/s live",
            number((records as f64 / seconds.max(1e-9)) as u64),
            group_digits(live as u64)
        ));
    }
    lines.push(format!(
        "               the pipeline took {:.1} CPU s, {:.0} MiB at its peak",
        usage.cpu_seconds,
        usage.peak_bytes as f64 / (1024.0 * 1024.0)
    ));
    let delay_s = WATERMARK_DELAY_MS / 1_000;
    match found.delays {
        Some(delays) => {
            lines.push(format!("delay          {delays}  from {delay_s} s after a window's end to its final row"));
            lines.push("               the longest are those of the kill".to_owned());
        }
        None => lines.push("delay          not measured: no window became final while chat was live".to_owned()),
    }
    lines.join("\n")
}

/// A table of streams.
pub fn streams(rows: &[StreamRow]) -> String {
    let mut lines = vec![
        "stream    messages  the last final minute:".to_owned(),
        "         last hour     per s  chatters  sentiment   viewers  top emotes".to_owned(),
    ];
    let figure = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    lines.extend(rows.iter().map(|row| {
        format!(
            "{:<6} {:>11}  {:>8.1}  {:>8}  {:>9}  {:>8}  {}",
            row.name,
            group_digits(row.messages.unsigned_abs()),
            row.rate,
            group_digits(row.chatters.unsigned_abs()),
            row.sentiment.map_or("-".to_owned(), |value| format!("{value:+.3}")),
            figure(row.viewers, 0),
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
            marks: columns.marks(&[(planted.start_ms, planted.end_ms)], moments),
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
    let mut lines = vec!["moments       planted   found   after: least  median    most   echoes  unplanned".to_owned()];
    for Score { kind, planted, found, delays_ms, echoes, unplanned } in scores {
        let delay = |index: Option<usize>| {
            let ms = index.and_then(|index| delays_ms.get(index));
            ms.map_or("-".to_owned(), |ms| format!("{:.0} s", *ms as f64 / 1e3))
        };
        let count = delays_ms.len();
        lines.push(format!(
            "{:<12} {planted:>8} {found:>7} {:>14} {:>7} {:>7} {echoes:>8} {unplanned:>10}",
            kind.name(),
            delay((count > 0).then_some(0)),
            delay((count > 0).then_some(count / 2)),
            delay(count.checked_sub(1)),
        ));
    }
    lines.push(format!(
        "after: from an episode's start to the end of the window that showed it, and {} s to its being final;\n\
         echoes: of a planted episode of another kind, as a spike of chat brings emotes",
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
         after kill -9 {:.0} s before the end  (headwater verify, {} events and {} copies read again; this took {:.0} s)",
        group_digits(*rows),
        group_digits(*wrong),
        outcome.killed_before_end_seconds,
        group_digits(*events),
        group_digits(*copies),
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
        println!("  {:<8}  {psql} '{}'", if n == 0 { "chat" } else { "" }, query.replace("{}", schema));
    }
    println!(
        "            headwater generate chat --brokers {} --chat-topic {chat_topic} --viewer-topic {viewer_topic} \
         --seed {} --rate {}",
        set.kafka.brokers, options.seed, options.chat_rate
    );
    println!("            configuration {}", config.display());
    if let Some(address) = http {
        println!("            curl http://{address}/status   (also /metrics, /ready)");
    }
}
