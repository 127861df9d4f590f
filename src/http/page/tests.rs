use super::*;
use crate::health::{Content, Letter, Letters, Moment, State, Window, Windows};
use serde_json::json;
use std::time::Duration;

const HOSTILE: &str = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>\u{202e}&amp;";
const ESCAPED: &str =
    "&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=&#39;alert(2)&#39;&gt;\\u{202e}&amp;amp;";

/// Everything that others can name is hostile.
fn hostile(shows_payloads: bool) -> Health {
    let health = Health::new(Duration::MAX, shows_payloads);
    let capture = health.unit(HOSTILE, "capture", HOSTILE);
    capture.set(State::Failing(HOSTILE.to_owned()));
    capture.detail(json!({"snapshot": HOSTILE, "newest": HOSTILE}));
    let land = health.unit(HOSTILE, "land", HOSTILE);
    land.set(State::Failing(HOSTILE.to_owned()));
    land.set(State::CaughtUp);
    land.detail(json!({"partitions": {HOSTILE: {"waiting": HOSTILE, "position": 1_234, "lag": 7}}}));
    let mut letters = Letters::default();
    letters.push(Letter {
        at_ms: 0,
        topic: HOSTILE.to_owned(),
        place: Some((1, 2_345)),
        reason: HOSTILE.to_owned(),
        content: Some(Content::new(HOSTILE, Some(HOSTILE.as_bytes()))),
    });
    land.committed(0, 1, letters);
    let job = health.unit(HOSTILE, "analyze", HOSTILE);
    let names = Windows { key_column: HOSTILE.to_owned(), columns: vec![HOSTILE.to_owned()], rows: Vec::new() };
    let text = || HOSTILE.to_owned();
    let window = Window { key: text(), start_ms: 0, end_ms: 60_000, cells: vec![text()], weight: 0.0, is_final: true };
    job.windows(&names, vec![window]);
    let (value, baseline, score) = (1_234_567.0, 3.25, -4.0);
    let moment =
        Moment { kind: text(), key: text(), metric: text(), start_ms: 0, end_ms: 60_000, value, baseline, score };
    job.moments(vec![moment]);
    health
}

#[test]
fn whatever_others_name_is_text() {
    let page = render(&hostile(true));
    // Our own one, and nothing that could have come of a name.
    assert_eq!(page.matches("<script>").count(), 1);
    assert_eq!(page.matches("<img").count(), 0);
    assert!(!page.contains('\u{202e}') && !page.contains("\"><script>a"), "{page}");
    assert!(page.matches(ESCAPED).count() >= 15, "{page}");
    assert!(page.contains("<code>") && page.contains("1,234,567"), "{page}");
}

#[test]
fn payloads_can_be_left_out() {
    let page = render(&hostile(false));
    assert!(!page.contains("payload, its start") && page.contains("http.show_payloads"), "{page}");
    assert!(page.contains("partition 1 offset 2,345"), "{page}");
    let with = render(&hostile(true));
    assert!(with.matches(ESCAPED).count() == page.matches(ESCAPED).count() + 2, "detail and payload");
}

#[test]
fn nothing_comes_from_elsewhere_and_there_is_no_control() {
    let page = render(&hostile(true));
    for foreign in ["//", "src=", "url(", "@import", "<form", "<button", "<input", "<iframe", "style=", "onclick"] {
        let allowed = if foreign == "//" { SCRIPT.matches("//").count() } else { 0 };
        let of_names = if foreign == "src=" { page.matches("&lt;img src=x").count() } else { 0 };
        assert_eq!(page.matches(foreign).count(), allowed + of_names, "{foreign}");
    }
    assert!(policy().starts_with("default-src 'none'; style-src 'sha256-"));
    assert!(!policy().contains("unsafe"));
}

#[test]
fn a_page_of_many_tables_is_bounded_and_shows_those_in_trouble() {
    let health = Health::new(Duration::MAX, true);
    for n in 0..3_000 {
        let unit = health.unit("p", "land", &format!("topic-{n:04}"));
        unit.set(State::CaughtUp);
        unit.detail(json!({"partitions": {"0": {"position": 1}}}));
    }
    health.unit("p", "land", "topic-2999").set(State::Stopped("the disk is gone".to_owned()));
    let page = render(&health);
    assert!(page.len() < 400_000, "{}", page.len());
    assert!(page.contains("the disk is gone") && page.contains("and 2,800 more"), "{}", page.len());
    assert!(page.contains("not ready: 1 of 3000"));
}

#[test]
fn a_process_without_units_is_shown_as_starting() {
    let page = render(&Health::new(Duration::MAX, true));
    assert!(page.contains("not ready: starting"), "{page}");
    assert!(page.contains("None since the start of the process."), "{page}");
}
