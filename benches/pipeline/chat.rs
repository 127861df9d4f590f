//! (e) to (g): the chat of `configs/chat.yml`, from Kafka into PostgreSQL; the window engine and the
//! sentiment alone; and how long after the end of a slide its row can be read.

use super::{Bench, finished, mebibytes, report};
use crate::child::{Child, Usage};
use headwater::{
    analyze::{
        sentiment::{Analyzer, Options, Scratch},
        window::{Declaration, Engine, Event, Field, Function, Join, Measure, Plan},
    },
    generate::{
        Show,
        chat::{Generator, Job, Pace, Progress, Settings, Topic, Volume, write},
    },
};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

const STREAMS: u32 = 20;
const USERS: u32 = 50_000;
const SENTIMENT: &str = "
        - {column: avg_sentiment, function: sentiment_avg, field: message}
        - {column: positive_count, function: sentiment_positive, field: message}
        - {column: negative_count, function: sentiment_negative, field: message}";

impl Bench {
    /// The job of `configs/chat.yml`, into a table of its own.
    fn chat_config(&self, name: &str, measures: &str, idle_timeout_ms: u64) -> PathBuf {
        let directory = self.scratch.path().join(name);
        fs::create_dir_all(&directory).expect("directory");
        let postgres = self.servers.postgres.config("postgres");
        let text = format!(
            "pipeline: {name}
postgres: {{host: {}, port: {}, db: postgres, user: postgres, tls_mode: disable}}
kafka: {{brokers: \"{}\"}}
http: {{listen: null}}
analyze:
  jobs:
    - name: chat
      table: windows_{name}
      key_column: stream_id
      window_duration: 1 minute
      slide_duration: 10 seconds
      idle_timeout_ms: {idle_timeout_ms}
      inputs:
        - {{name: chat, topic: {topic}-chat, key: stream_id, id: event_id}}
        - {{name: viewer, topic: {topic}-viewer, key: stream_id}}
      measures:
        - {{column: chat_count, function: count}}
        - {{column: unique_chatters, function: distinct, field: user_id}}{measures}
        - {{column: top_emotes, function: top_k, field: emotes, k: 5}}
        - {{column: emote_counts, function: counts, field: emotes}}
        - {{column: chat_rate, function: rate}}
        - {{column: avg_viewers, input: viewer, function: avg, field: viewer_count}}
      anomalies:
        - {{moment: chat_spike, measure: chat_count}}
        - {{moment: viewer_drop, measure: avg_viewers, direction: down}}
        - {{moment: emote_spike, measure: emote_counts}}
",
            postgres.host,
            postgres.port,
            self.servers.kafka.brokers(),
            topic = name.split('_').next().unwrap_or(name),
        );
        let file = directory.join("chat.yml");
        fs::write(&file, text).expect("configuration");
        file
    }

    /// Writes a chat into `<topic>-chat` and `<topic>-viewer`.
    fn chat_job(&self, topic: &str, settings: Settings, pace: Pace) -> (Job, watch::Sender<bool>) {
        let (stop, shutdown) = watch::channel(false);
        let job = Job {
            kafka: headwater::config::model::Kafka::plaintext(self.servers.kafka.brokers()),
            chat_topic: format!("{topic}-chat"),
            viewer_topic: format!("{topic}-viewer"),
            partitions: 3,
            replication: 1,
            compression: headwater::config::model::Compression::None,
            settings,
            pace,
            planted: None,
            shutdown,
            show: Show::Nothing,
            progress: Progress::default(),
        };
        (job, stop)
    }

    /// (e)
    pub async fn chat(&self) {
        let messages = self.scaled(2_000_000);
        println!("\n(e) windows over {messages} chat messages of two hours, {STREAMS} streams, {USERS} users");
        let settings = Settings {
            start_ms: 1_736_956_800_000,
            volume: Volume::Total { messages, seconds: 7_200 },
            streams: STREAMS,
            users: USERS,
            ..Settings::default()
        };
        let (job, _stop) = self.chat_job("e", settings, Pace::Fast);
        let written = write(job).await.expect("a chat");
        let records = written.totals.records;
        for (title, measures) in [("with VADER and emotes", SENTIMENT), ("without sentiment", "")] {
            let (mut rates, mut cpus, mut memories) = (vec![], vec![], vec![]);
            for run in 0..self.runs {
                let name = format!("e_{}{run}", if measures.is_empty() { "plain" } else { "full" });
                let config = self.chat_config(&name, measures, 300);
                let usage = finished(Child::start(&["analyze", "--until-caught-up"], &config).finish());
                assert_eq!(usage.summary["analyze"]["rows"].as_u64(), Some(records), "{}", usage.stdout);
                let client = self.database().await;
                let sql = format!("SELECT sum(chat_count)::int8 FROM windows_{name} WHERE is_final");
                let counted: i64 = client.query_one(&sql, &[]).await.expect("a sum").get(0);
                // Each message is in six windows.
                assert_eq!(counted, 6 * messages as i64, "{title}");
                rates.push(messages as f64 / usage.wall_seconds);
                cpus.push(usage.cpu_seconds * 1e6 / messages as f64);
                memories.push(mebibytes(&usage));
            }
            report::line(&format!("windows {title}, process start to end"), "msg/s", &rates);
            report::line("  CPU per million messages", "s", &cpus);
            report::line("  peak RSS", "MiB", &memories);
        }
    }

    /// (f)
    pub fn engine(&self) {
        let messages = self.scaled(2_000_000);
        println!("\n(f) in memory, one core: the window engine over {messages} messages; the sentiment of their lines");
        let settings = Settings {
            volume: Volume::Total { messages, seconds: 7_200 },
            streams: STREAMS,
            users: USERS,
            ..Settings::default()
        };
        let parsed = parsed(settings);
        let (mut engines, mut lines) = (vec![], vec![]);
        let analyzer = Analyzer::new(Options { emotes: true });
        for _ in 0..self.runs {
            let start = Instant::now();
            let rows = drive(&parsed);
            engines.push(parsed.len() as f64 / start.elapsed().as_secs_f64());
            assert!(rows > 0, "windows came out");
            let (mut scratch, mut sum) = (Scratch::default(), 0.0);
            let start = Instant::now();
            for message in &parsed {
                sum += analyzer.score(&message.text, &mut scratch);
            }
            lines.push(parsed.len() as f64 / start.elapsed().as_secs_f64());
            assert!(sum != 0.0, "lines have a mood");
        }
        report::line("window engine alone", "events/s", &engines);
        report::line("sentiment alone, VADER and emotes", "lines/s", &lines);
    }

    /// (g)
    pub async fn flush_delay(&self) {
        let seconds = (60.0 * self.scale).max(30.0) as u64;
        println!("\n(g) end of a slide to its row being readable, 5,000 messages/s, {seconds} s");
        let (mut p50s, mut p99s, mut finals, mut cpus, mut memories) = (vec![], vec![], vec![], vec![], vec![]);
        for run in 0..self.runs {
            let topic = format!("g{run}");
            let config = self.chat_config(&topic, SENTIMENT, 5_000);
            let settings = Settings {
                start_ms: now_ms(),
                volume: Volume::Rate { messages_per_second: 5_000.0, seconds: Some(seconds) },
                streams: STREAMS,
                users: USERS,
                day_shape: headwater::generate::chat::DayShape::Flat,
                ..Settings::default()
            };
            let (job, _stop) = self.chat_job(&topic, settings, Pace::RealTime);
            let child = Child::start(&["analyze"], &config);
            let writing = tokio::spawn(write(job));
            let (mut open, mut closed) = (Vec::new(), Vec::new());
            self.watch_rows(&format!("windows_{topic}"), Duration::from_secs(seconds), &mut open, &mut closed).await;
            let written = writing.await.expect("the writer").expect("a chat");
            child.terminate();
            let usage: Usage = finished(child.finish());
            open.sort_by(f64::total_cmp);
            closed.sort_by(f64::total_cmp);
            assert!(!open.is_empty() && !closed.is_empty(), "rows were seen: {} and {}", open.len(), closed.len());
            p50s.push(report::percentile(&open, 0.5));
            p99s.push(report::percentile(&open, 0.99));
            finals.push(report::percentile(&closed, 0.99));
            cpus.push(usage.cpu_seconds * 1e6 / written.totals.messages as f64);
            memories.push(mebibytes(&usage));
        }
        report::line("slide's end to its row, p50", "ms", &p50s);
        report::line("slide's end to its row, p99", "ms", &p99s);
        report::line("end + watermark delay to final row, p99", "ms", &finals);
        report::line("  CPU per million messages", "s", &cpus);
        report::line("  peak RSS", "MiB", &memories);
    }

    /// For each window of each stream: when its row was first seen to have been written after the
    /// window's end, and when it was first seen to be final, in milliseconds after it was due.
    async fn watch_rows(&self, table: &str, limit: Duration, open: &mut Vec<f64>, closed: &mut Vec<f64>) {
        let client = self.database().await;
        let sql = format!(
            "SELECT stream_id, (extract(epoch FROM window_end) * 1000)::int8, is_final FROM {table}
             WHERE updated_at >= window_end AND window_end > to_timestamp($1::float8)"
        );
        let begun = now_ms();
        let mut seen = std::collections::HashSet::new();
        let deadline = Instant::now() + limit;
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        while Instant::now() < deadline {
            pace.tick().await;
            // The last minutes are enough; windows of before the start have had nobody to write them.
            let since = (now_ms() - 40_000).max(begun + 12_000) as f64 / 1e3;
            let Ok(rows) = client.query(&sql, &[&since]).await else { continue };
            let now = now_ms();
            for row in rows {
                let (stream, end, is_final): (String, i64, bool) = (row.get(0), row.get(1), row.get(2));
                if is_final && seen.insert((stream.clone(), end, true)) {
                    closed.push((now - end - 10_000) as f64);
                }
                if seen.insert((stream, end, false)) {
                    open.push((now - end) as f64);
                }
            }
        }
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_millis() as i64
}

/// A message as the engine is given it.
struct Message {
    stream: String,
    time_ms: i64,
    id: String,
    user: String,
    text: String,
    emotes: Vec<String>,
}

fn parsed(settings: Settings) -> Vec<Message> {
    let mut generator = Generator::new(settings).expect("settings");
    let mut messages = Vec::new();
    while let Some(event) = generator.next_event() {
        if event.topic != Topic::Chat {
            continue;
        }
        let value: serde_json::Value = serde_json::from_slice(event.payload).expect("JSON");
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let time = chrono::DateTime::parse_from_rfc3339(&text("timestamp")).expect("a time");
        let emotes = value["emotes"].as_array().into_iter().flatten();
        messages.push(Message {
            stream: text("stream_id"),
            time_ms: time.timestamp_millis(),
            id: text("event_id"),
            user: text("user_id"),
            text: text("message"),
            emotes: emotes.filter_map(|emote| emote.as_str().map(str::to_owned)).collect(),
        });
    }
    messages
}

/// The engine over all messages, flushed each thousand; gives the final rows.
fn drive(messages: &[Message]) -> usize {
    let field = |name: &str| name.to_owned();
    let measure = |column: &str, function| Measure { column: field(column), input: 0, function };
    let plan = Plan::new(Declaration {
        size_ms: 60_000,
        slide_ms: 10_000,
        watermark_delay_ms: 10_000,
        allowed_lateness_ms: 0,
        idle_timeout_ms: 5_000,
        max_future_ms: 60_000,
        distinct_exact_limit: 10_000,
        counts_limit: 1_000,
        flush_rows_limit: 20_000,
        inputs: 1,
        join: Join::Left,
        measures: vec![
            measure("chat_count", Function::Count),
            measure("unique_chatters", Function::Distinct { field: field("user_id") }),
            measure("top_emotes", Function::TopK { field: field("emotes"), k: 5 }),
            measure("emote_counts", Function::Counts { field: field("emotes") }),
            measure("chat_rate", Function::Rate),
        ],
    })
    .expect("a plan");
    let slots: Vec<String> = plan.fields(0).iter().map(|slot| slot.field.clone()).collect();
    let mut engine = Engine::new(plan, None);
    let source = engine.partition(0, 0, 0);
    let mut rows = 0;
    for (offset, message) in messages.iter().enumerate() {
        let emotes: Vec<&str> = message.emotes.iter().map(String::as_str).collect();
        let values: Vec<Field<'_>> = slots
            .iter()
            .map(|slot| if slot == "user_id" { Field::Text(&message.user) } else { Field::TextList(&emotes) })
            .collect();
        let event = Event {
            key: &message.stream,
            timestamp_ms: message.time_ms,
            id: Some(message.id.as_bytes()),
            values: &values,
        };
        engine.add(source, offset as i64, &event, message.time_ms);
        if offset % 1_000 == 999
            && let Some(flush) = engine.take_flush(false)
        {
            rows += flush.newly_final().count();
            engine.flushed();
        }
    }
    rows
}
