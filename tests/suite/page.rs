//! The page as a browser shows it.

mod browser;
mod scene;

use crate::harness::{DEADLINE, Run, Test, eventually_some};
use browser::Browser;
use scene::Scene;
use serde_json::json;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// `make picture`: where the picture for the documentation goes, and when it is taken, for a chart has to
/// fill first.
fn picture() -> Option<(PathBuf, Duration)> {
    let path = std::env::var_os("HEADWATER_PICTURE").filter(|path| !path.is_empty())?;
    let seconds = std::env::var("HEADWATER_PICTURE_SECONDS").ok()?.parse().ok()?;
    Some((PathBuf::from(path), Duration::from_secs(seconds)))
}

fn body(run: &Run) -> Option<String> {
    run.get("/").filter(|(code, _)| *code == 200).map(|(_, body)| body)
}

/// The section of a document that begins with this attribute.
fn part<'a>(dom: &'a str, id: &str) -> &'a str {
    let from = dom.find(id).unwrap_or_else(|| panic!("no {id}: {dom}"));
    let rest = &dom[from..];
    &rest[..rest.find("</section>").unwrap_or(rest.len())]
}

#[test]
fn a_running_pipeline_is_shown_with_scripts_and_without() {
    let wanted = picture();
    let begun = Instant::now();
    let scene = Scene::start(wanted.is_some());
    let url = format!("http://{}/", scene.run.http());
    // The chart needs two samples for a line.
    eventually_some(DEADLINE * 2, "moments, windows and letters of both stages on the page", || {
        let page = body(&scene.run)?;
        let of = |stage: &str| page.contains(&format!("</span></td><td>{stage} "));
        let moments = part(&page, "id=moments").matches("<tr>").count();
        let is_full = of("land") && of("analyze") && moments > 1 && page.contains("<td>final</td>");
        (is_full && page.matches("class=line d=\"M").count() >= 6).then_some(())
    });
    let mut browser = Browser::start(&scene.test);
    if let Some((path, at)) = &wanted {
        eventually_some(*at + DEADLINE, "the moment of the picture", || (begun.elapsed() >= *at).then_some(()));
        browser.resize((1_040, 1_900), false);
        browser.open(&url, true);
        browser.picture(path);
    }
    for scripts in [false, true] {
        // Letters of one reason push those of others off the page, until some come again.
        let words = ["negative_amount", "schema_validation_failed", "avg_sentiment", "● ready"];
        let dom = eventually_some(DEADLINE, "both reasons on the page", || {
            browser.open(&url, scripts);
            let dom = if scripts { browser.wait_until_refreshed() } else { browser.dom() };
            words.iter().all(|word| dom.contains(word)).then_some(dom)
        });
        for id in ["units", "moments", "windows", "letters", "partitions"] {
            let part = part(&dom, &format!("id=\"{id}\""));
            assert!(part.matches("<tr>").count() > 1, "a heading and a row at least, scripts {scripts}: {part}");
        }
        assert_eq!(dom.matches("<svg class=\"chart\"").count(), 6, "rate and delay of each stage");
        assert!(dom.matches("class=\"line\"").count() >= 6, "{dom}");
        assert_eq!(dom.contains("data-refreshed="), scripts);
        assert_eq!(browser.complaints(), Vec::<String>::new(), "neither errors nor breaches of the policy");
        // With scripts it asks again by itself.
        let asked: Vec<String> = browser.asked().into_iter().filter(|asked| asked != "data:,").collect();
        assert!(asked.iter().all(|asked| *asked == url), "nobody else is asked: {asked:?}");
        assert_eq!(asked.len() > 1, scripts, "{asked:?}");
    }
    // On a phone the tables scroll within the page, in either light.
    for (is_dark, name) in [(false, "phone.png"), (true, "phone-dark.png")] {
        browser.resize((390, 844), is_dark);
        assert_eq!(browser.width(), 390);
        let path = scene.test.path(name);
        browser.picture(&path);
        let bytes = path.metadata().expect("the picture").len();
        assert!(bytes > 10_000, "a picture of {bytes} bytes shows nothing");
    }
}

#[test]
fn what_others_write_is_never_run() {
    const NAME: &str = "\"><script>document.title='pwned'</script>";
    const NOTE: &str = "</code><img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>";
    /// Keys, as somebody's number might be.
    const REFUSED: &str = "564738291";
    const TOO_LARGE: &str = "918273645";
    let test = Test::new();
    let quoted = NAME.replace('"', "\"\"");
    let note = NOTE.replace('\'', "''");
    test.db().execute(&format!(
        "CREATE TABLE \"{quoted}\" (id bigint PRIMARY KEY, amount int, note text, at timestamptz NOT NULL DEFAULT now());
         INSERT INTO \"{quoted}\" VALUES ({REFUSED}, -1, '{note}'), ({TOO_LARGE}, 1, repeat('{note}', 100))"
    ));
    let (topic, dir, pg) = (test.topic("t"), test.dir().display().to_string(), &test.postgres);
    let config = |http: serde_json::Value| {
        json!({
            "pipeline": test.prefix,
            "postgres": {"host": pg.host, "port": pg.port, "db": pg.db, "user": pg.user, "tls_mode": "disable"},
            "kafka": {"brokers": test.brokers},
            "capture": {"max_row_bytes": 2_000, "poll_interval_ms": 200,
                "tables": [{"table": NAME, "topic": topic, "watermark": "at"}]},
            "land": {"rotate_ms": 500, "tables": [{"topic": topic, "path": format!("{dir}/lake"),
                "date_column": "at", "non_negative": ["amount"], "source": {"table": NAME}}]},
            "http": http,
        })
    };
    let file = |http| test.write("c.yml", &config(http).to_string()).display().to_string();
    let letters = |page: &str| page.contains("row_too_large") && page.contains("negative_amount");

    let mut run = Run::start(&test, &["run", "-c", &file(json!({"listen": "127.0.0.1:0"}))]);
    eventually_some(DEADLINE, "both dead letters on the page", || body(&run).filter(|page| letters(page)));
    let mut browser = Browser::start(&test);
    browser.open(&format!("http://{}/", run.http()), true);
    let dom = browser.wait_until_refreshed();
    assert!(dom.contains("· Headwater · ") && !dom.contains("<title>pwned"), "{dom}");
    assert!(dom.contains("&lt;script&gt;document.title='pwned'&lt;/script&gt;") && !dom.contains("<img"), "{dom}");
    assert!(dom.contains(REFUSED) && dom.contains(TOO_LARGE), "payloads hold the keys: {dom}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // Who is within a table by keyboard, and has moved it, stays there when it is brought up to date.
    browser.resize((390, 844), false);
    browser.evaluate("old = document.querySelector('#units .scroll'); old.focus(); old.scrollLeft = 40");
    eventually_some(DEADLINE, "a newer table", || {
        browser.evaluate("!old.isConnected").as_bool().filter(|is_newer| *is_newer)
    });
    let place =
        "[document.activeElement === document.querySelector('#units .scroll'), document.activeElement.scrollLeft]";
    assert_eq!(browser.evaluate(place), json!([true, 40]));
    run.kill();
    eventually_some(DEADLINE, "the page says that it is old", || {
        Some(browser.dom()).filter(|dom| dom.contains("Headwater has not answered since"))
    });

    // Where payloads are not to be shown, reasons and places are. The letters are those of a new process.
    test.db().execute(&format!("UPDATE \"{quoted}\" SET at = now()"));
    let quiet = Run::start(&test, &["run", "-c", &file(json!({"listen": "127.0.0.1:0", "show_payloads": false}))]);
    let page = eventually_some(DEADLINE, "the dead letters again", || body(&quiet).filter(|page| letters(page)));
    assert!(!page.contains("onerror") && page.contains("http.show_payloads"), "{page}");
    assert!(page.contains("partition 0 offset"), "{page}");
    let words = |path: &str| quiet.get(path).expect("an answer").1;
    for text in [page, words("/status"), words("/metrics")] {
        assert!(!text.contains(REFUSED) && !text.contains(TOO_LARGE), "keys are what records hold: {text}");
    }
}
