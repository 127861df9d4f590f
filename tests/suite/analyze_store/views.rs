//! The views answer what they say.

use super::{flush_of, lead, open, window};
use crate::harness::{Test, block_on};
use headwater::analyze::{
    store::Flush,
    window::{Value, WindowRow},
};

const MINUTE_MS: i64 = 60_000;

#[test]
fn views_answer_what_they_say() {
    let test = Test::new();
    let db = test.db();
    let mut leader = lead(&open(&test));
    let now_ms: i64 = db.value("SELECT (extract(epoch FROM now()) * 1000)::bigint").parse().unwrap();
    let minute = now_ms - now_ms.rem_euclid(MINUTE_MS);
    let emotes = |row: WindowRow, counts: &[(&str, i64)]| {
        let mut row = row;
        row.values[6] = Value::Counts(counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect());
        row
    };
    let mut rows = Vec::new();
    // An hour and more of one stream, sliding by 10 s; the last two minutes are provisional.
    for slide in 0..6 * 70 {
        let start_ms = minute - slide * 10_000;
        let row = WindowRow { is_final: slide >= 12, ..window("live", start_ms, slide + 1) };
        rows.push(emotes(row, &[("Kappa", 2), ("LUL", i64::from(slide == 6) * 500)]));
    }
    // One that ended days ago, one of which nothing is final, one from the year 1970.
    rows.push(window("ended", minute - 5 * 86_400_000, 7));
    rows.push(window("ended", minute - 5 * 86_400_000 - 10_000, 6));
    rows.push(WindowRow { is_final: false, ..window("fresh", minute, 1) });
    rows.push(window("ancient", 0, 3));
    let midnight: i64 =
        db.value("SELECT (extract(epoch FROM date_trunc('day', now())) * 1000)::bigint").parse().unwrap();
    let moments = vec![super::moment("today", "live", midnight), super::moment("yesterday", "live", midnight - 1)];
    block_on(leader.flush(&Flush { now_ms, moments, ..flush_of(rows, 1) })).unwrap();

    let text = |rows: Vec<Vec<Option<String>>>| -> Vec<String> {
        rows.into_iter()
            .map(|row| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join(" "))
            .collect()
    };
    let latest =
        "SELECT stream_id, (extract(epoch FROM window_start) * 1000)::bigint, chat_count FROM chat_latest ORDER BY 1";
    assert_eq!(
        text(db.rows(latest)),
        [
            "ancient 0 3".to_owned(),
            format!("ended {} 7", minute - 5 * 86_400_000),
            format!("live {} 13", minute - 12 * 10_000),
        ]
    );
    let hour = db.rows(
        "SELECT (extract(epoch FROM window_start) * 1000)::bigint FROM chat_last_hour WHERE stream_id = 'live' ORDER BY 1 DESC",
    );
    let starts: Vec<i64> = text(hour).iter().map(|start| start.parse().unwrap()).collect();
    // 60, or 61 where the hour began with the minute.
    assert!(matches!(starts.len(), 59..=61), "{}", starts.len());
    assert!(starts.iter().enumerate().all(|(n, start)| *start == minute - n as i64 * MINUTE_MS), "{starts:?}");
    let emotes =
        text(db.rows("SELECT emote, uses, rank FROM chat_top_emotes_hour WHERE stream_id = 'live' ORDER BY rank"));
    assert_eq!(emotes, ["LUL 500 1".to_owned(), format!("Kappa {} 2", 2 * starts.len())]);
    assert_eq!(text(db.rows("SELECT moment_id FROM moments_today")), ["today"]);
}

/// Pages that a statement reads, whether from memory or from disk: what its time follows, on any machine.
fn pages(db: &crate::harness::Db, statement: &str) -> i64 {
    let plan = db.value(&format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"));
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("a plan");
    let top = &plan[0]["Plan"];
    let read = |key: &str| top[key].as_i64().expect("a count");
    read("Shared Hit Blocks") + read("Shared Read Blocks")
}

/// docs/views.md has the times on 26 million rows; here the reason for them: none reads the table.
#[test]
fn views_are_answered_from_indexes() {
    const STREAMS: i64 = 4;
    let test = Test::new();
    let db = test.db();
    open(&test);
    db.execute(&format!(
        "SET timezone = 'UTC';
         SELECT headwater_add_day('chat_summary_minute', current_date - n) FROM generate_series(0, 30) n;
         INSERT INTO chat_summary_minute
         SELECT 's' || stream, start, start + interval '1 minute', 100, 50, 0.1, 30, 20, ARRAY['Kappa', 'LUL'],
                '{{\"Kappa\": 3, \"LUL\": 2}}', 1.6, 900, true, 0, false
         FROM generate_series(1, {STREAMS}) stream,
              generate_series(date_bin('1 minute', now(), 'epoch') - interval '30 days', now(), '1 minute') start;
         INSERT INTO moments
         SELECT stream || '-' || n, 'chat_spike', 's' || stream, start, start + interval '1 minute', 'chat_count', 900,
                100, 8, 3, start
         FROM generate_series(1, {STREAMS}) stream, generate_series(1, 5000) n,
              LATERAL (SELECT now() - n * interval '8 minutes') at(start)"
    ));
    db.execute("VACUUM (ANALYZE) chat_summary_minute");
    db.execute("VACUUM (ANALYZE) moments");
    let whole = |tables: &str| -> i64 {
        let sum = format!(
            "SELECT (sum(pg_relation_size(oid)) / 8192)::bigint FROM pg_class WHERE relname ~ '{tables}' AND relkind = 'r'"
        );
        db.value(&sum).parse().expect("a number of pages")
    };
    let (windows, moments) = (whole("^chat_summary_minute_"), whole("^moments$"));
    assert!(windows > 2_000 && moments > 200, "{windows} and {moments} pages");
    for (statement, rows, most) in [
        // Two looks for each stream at each day's index.
        ("SELECT * FROM chat_latest", STREAMS, windows / 2),
        ("SELECT * FROM chat_last_hour", STREAMS * 60, windows / 20),
        ("SELECT * FROM chat_top_emotes_hour", STREAMS * 2, windows / 20),
        (
            "SELECT * FROM chat_summary_minute WHERE stream_id = 's2' AND is_final ORDER BY window_start DESC LIMIT 1",
            1,
            windows / 20,
        ),
        ("SELECT * FROM moments_today", 0, moments / 2),
        ("SELECT * FROM moments WHERE stream_id = 's2' AND window_start >= now() - interval '1 day'", 0, moments / 2),
    ] {
        let found: i64 = db.value(&format!("SELECT count(*) FROM ({statement}) AS them")).parse().expect("a count");
        assert!(found >= rows && found <= STREAMS * 181, "{statement}: {found} rows");
        let pages = pages(&db, statement);
        println!("{statement}: {pages} pages of {windows} and {moments}");
        assert!(pages <= most, "{statement}: {pages} pages, of {windows} and {moments}");
    }
}
