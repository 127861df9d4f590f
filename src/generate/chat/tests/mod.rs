//! Whole sequences of events, counted again from their payloads.

use super::*;
use chrono::DateTime;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

const START_MS: i64 = 1_736_942_400_000;

/// An event that outlives the next one.
struct Kept {
    topic: Topic,
    key: String,
    payload: Vec<u8>,
    time_ms: i64,
    arrival_ms: i64,
    is_late: bool,
    is_duplicate: bool,
    defect: Option<Defect>,
}

impl Kept {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

fn plain(volume: Volume) -> Settings {
    Settings {
        start_ms: START_MS,
        volume,
        day_shape: DayShape::Flat,
        late_share: 0.0,
        planted: Plant::NOTHING,
        bursts_per_day: 0.0,
        ..Settings::default()
    }
}

fn total(messages: u64, seconds: u64) -> Settings {
    plain(Volume::Total { messages, seconds })
}

fn rate(messages_per_second: f64, seconds: u64) -> Settings {
    plain(Volume::Rate { messages_per_second, seconds: Some(seconds) })
}

fn run(settings: Settings) -> (Vec<Kept>, Vec<Episode>, Totals) {
    let mut generator = Generator::new(settings).unwrap();
    let (mut events, mut totals) = (Vec::new(), Totals::default());
    while let Some(event) = generator.next_event() {
        totals.add(&event);
        let Event { topic, time_ms, arrival_ms, is_late, is_duplicate, defect, .. } = event;
        let (key, payload) = (event.key.to_owned(), event.payload.to_owned());
        events.push(Kept { topic, key, payload, time_ms, arrival_ms, is_late, is_duplicate, defect });
    }
    (events, generator.take_planted(), totals)
}

fn messages(events: &[Kept]) -> impl Iterator<Item = &Kept> {
    events.iter().filter(|event| event.topic == Topic::Chat && event.defect.is_none() && !event.is_duplicate)
}

fn viewer_events(events: &[Kept]) -> impl Iterator<Item = &Kept> {
    events.iter().filter(|event| event.topic == Topic::Viewers && event.defect.is_none())
}

#[test]
fn the_same_settings_give_the_same_bytes() {
    let settings = || Settings { late_share: 0.1, duplicate_share: 0.1, bad_share: 0.1, ..total(5_000, 600) };
    let bytes = |settings| {
        let (events, planted, totals) = run(settings);
        (events.into_iter().map(|event| (event.arrival_ms, event.payload)).collect::<Vec<_>>(), planted, totals)
    };
    assert_eq!(bytes(settings()), bytes(settings()));
    assert_ne!(bytes(settings()).0, bytes(Settings { seed: 2, ..settings() }).0);
}

#[test]
fn a_later_run_of_the_same_seed_says_the_same_under_other_ids() {
    let (first, ..) = run(total(500, 60));
    let (second, ..) = run(Settings { start_ms: START_MS + 60_000, ..total(500, 60) });
    let ids = |events: &[Kept]| -> HashSet<String> {
        messages(events).map(|event| event.json()["event_id"].as_str().unwrap().to_owned()).collect()
    };
    assert!(ids(&first).is_disjoint(&ids(&second)) && ids(&first).len() == 500);
    let texts = |events: &[Kept]| messages(events).map(|event| event.json()["message"].to_string()).collect::<Vec<_>>();
    assert_eq!(texts(&first), texts(&second));
}

#[test]
fn every_payload_is_what_its_topic_holds() {
    let (events, ..) = run(Settings { duplicate_share: 0.05, late_share: 0.1, ..total(20_000, 600) });
    let mut without_emotes = 0;
    for event in &events {
        let json = event.json();
        assert_eq!(json["stream_id"], *event.key);
        let time = DateTime::parse_from_rfc3339(json["timestamp"].as_str().unwrap()).unwrap();
        assert_eq!(time.timestamp_millis(), event.time_ms);
        if event.topic == Topic::Viewers {
            assert!(json["viewer_count"].as_u64().is_some() && json.as_object().unwrap().len() == 3);
            continue;
        }
        for field in ["event_id", "user_id", "username", "message"] {
            assert!(!json[field].as_str().unwrap().is_empty(), "{field} of {json}");
        }
        let text = json["message"].as_str().unwrap();
        let in_text: Vec<&str> = text.split_whitespace().filter(|token| EMOTES.contains(token)).collect();
        match json.get("emotes") {
            Some(emotes) => assert_eq!(*emotes, Value::from(in_text), "{json}"),
            None => without_emotes += 1,
        }
    }
    assert!((3_700..4_900).contains(&without_emotes), "{without_emotes}");
}

#[test]
fn a_total_is_exact_and_follows_the_day() {
    let settings = Settings {
        day_shape: DayShape::Evening,
        planted: Plant::default(),
        bursts_per_day: 24.0,
        streams: 5,
        viewer_interval_ms: 60_000,
        ..total(100_000, 2 * 86_400)
    };
    let start_ms = settings.start_ms;
    let (events, _, totals) = run(settings);
    assert_eq!(totals.messages, 100_000);
    let mut hours = [0.0_f64; 24];
    for event in messages(&events) {
        assert!((start_ms..start_ms + 2 * 86_400_000).contains(&event.time_ms));
        hours[(event.time_ms.rem_euclid(86_400_000) / 3_600_000) as usize] += 1.0;
    }
    for (hour, count) in hours.into_iter().enumerate() {
        let middle = DayShape::Evening.factor(hour as i64 * 3_600_000 + 1_800_000);
        assert!((count / (100_000.0 / 24.0) / middle - 1.0).abs() < 0.12, "hour {hour}: {count}");
    }
    // The last second takes what is left, which is no more than a second's part.
    let last = messages(&events).filter(|event| event.time_ms >= start_ms + 172_799_000).count();
    assert!(last < 8, "{last}");
}

#[test]
fn a_rate_is_kept_and_the_streams_differ() {
    let settings = rate(1_000.0, 100);
    let shares: Vec<f64> = {
        let generator = Generator::new(settings.clone()).unwrap();
        (0..20).map(|stream| generator.stream_rate(stream)).collect()
    };
    assert!((shares.iter().sum::<f64>() - 1_000.0).abs() < 1e-6 && shares[0] > 4.0 * shares[19]);
    let (events, _, totals) = run(settings);
    assert!((98_700..101_300).contains(&totals.messages), "{}", totals.messages);
    // Every stream tells its viewers each five seconds.
    assert_eq!(totals.viewer_events, 20 * 20);
    let mut counts: HashMap<&str, f64> = HashMap::new();
    messages(&events).for_each(|event| *counts.entry(&event.key).or_default() += 1.0);
    for (number, rate) in shares.iter().enumerate() {
        let expected = rate * 100.0;
        let count = counts[format!("s{}", number + 1).as_str()];
        assert!((count - expected).abs() < 5.0 * expected.sqrt(), "s{}: {count}, {expected}", number + 1);
    }
    let users: HashSet<String> = messages(&events).map(|event| event.json()["user_id"].to_string()).collect();
    assert!((20_000..50_000).contains(&users.len()), "{}", users.len());
}

#[test]
fn events_come_out_of_order_within_their_bounds() {
    let settings = Settings { late_share: 0.05, late_ms: 30_000, jitter_ms: 400, ..rate(500.0, 300) };
    let (events, _, totals) = run(settings);
    assert!(events.windows(2).all(|pair| pair[0].arrival_ms <= pair[1].arrival_ms));
    let mut newest_ms = i64::MIN;
    let mut behind = 0;
    for event in &events {
        let delay_ms = event.arrival_ms - event.time_ms;
        let most = if event.is_late { 30_400 } else { 400 };
        assert!((0..=most).contains(&delay_ms), "{delay_ms}");
        assert!(event.arrival_ms < START_MS + 300_000);
        behind += u32::from(event.time_ms < newest_ms);
        newest_ms = newest_ms.max(event.time_ms);
    }
    assert!(behind > events.len() as u32 / 2, "{behind}");
    let late = events.iter().filter(|event| event.is_late).count() as u64;
    assert_eq!(late, totals.late);
    assert!((late as f64 / events.len() as f64 - 0.05).abs() < 0.005);
    let far = events.iter().filter(|event| event.arrival_ms - event.time_ms > 15_000).count() as u64;
    assert!(far > late / 3, "{far} of {late}");
}

#[test]
fn duplicates_are_the_same_bytes_a_little_later() {
    let (events, _, totals) = run(Settings { duplicate_share: 0.03, ..total(30_000, 600) });
    assert_eq!(totals.messages, 30_000);
    assert!((750..1_050).contains(&totals.duplicates), "{}", totals.duplicates);
    let mut first: HashMap<String, &Kept> = HashMap::new();
    let mut repeated = 0;
    for event in events.iter().filter(|event| event.topic == Topic::Chat) {
        let id = event.json()["event_id"].as_str().unwrap().to_owned();
        match first.get(&id) {
            None => assert!(!event.is_duplicate && first.insert(id, event).is_none()),
            Some(before) => {
                assert!(event.is_duplicate && event.payload == before.payload && event.key == before.key);
                assert!(event.arrival_ms - before.arrival_ms <= REPEAT_MS as i64);
                repeated += 1;
            }
        }
    }
    assert_eq!((first.len() as u64, repeated), (30_000, totals.duplicates));
}

#[test]
fn bad_records_are_of_every_kind_and_counted() {
    let (events, _, totals) = run(Settings { bad_share: 0.1, viewer_interval_ms: 100, ..total(20_000, 60) });
    assert_eq!(totals.bad.len(), Defect::ALL.len());
    let bad: u64 = totals.bad.values().sum();
    assert_eq!(totals.messages + totals.viewer_events + bad, totals.records);
    assert!((bad as f64 / totals.records as f64 - 0.1).abs() < 0.01);
    for event in &events {
        let json = serde_json::from_slice::<Value>(&event.payload);
        let text = event.payload.escape_ascii();
        match event.defect {
            None => assert!(json.is_ok()),
            Some(Defect::CutOff | Defect::InvalidUtf8) => assert!(json.is_err(), "{text}"),
            Some(defect) => {
                let json = json.unwrap_or_else(|error| panic!("{error}: {text}"));
                match defect {
                    Defect::NotAnObject => assert!(json.is_array()),
                    Defect::NoStream => assert!(json.get("stream_id").is_none()),
                    Defect::NullStream => assert!(json["stream_id"].is_null()),
                    Defect::NoTimestamp => assert!(json.get("timestamp").is_none()),
                    Defect::InvalidTimestamp => {
                        assert!(DateTime::parse_from_rfc3339(json["timestamp"].as_str().unwrap()).is_err());
                    }
                    _ => assert!(json["stream_id"].is_array() || json["viewer_count"].is_string(), "{text}"),
                }
            }
        }
    }
}

/// Mean of what `value` gives for the events of a stream between two times.
fn mean(events: &[&Kept], stream: &str, from_ms: i64, to_ms: i64, value: impl Fn(&Value) -> f64) -> f64 {
    let values: Vec<f64> = events
        .iter()
        .filter(|event| event.key == stream && (from_ms..to_ms).contains(&event.time_ms))
        .map(|event| value(&event.json()))
        .collect();
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn what_is_planted_is_in_the_data() {
    let planted =
        Plant { chat_spikes_per_day: 12.0, viewer_drops_per_day: 12.0, emote_spikes_per_day: 12.0, gap_seconds: 600 };
    let settings = Settings { planted, ..rate(60.0, 6 * 3_600) };
    let rates: HashMap<String, f64> = {
        let generator = Generator::new(settings.clone()).unwrap();
        (0..20).map(|stream| (generator.stream_name(stream).to_owned(), generator.stream_rate(stream))).collect()
    };
    let (events, episodes, _) = run(settings);
    let (chat, viewers): (Vec<&Kept>, Vec<&Kept>) = (messages(&events).collect(), viewer_events(&events).collect());
    let mut found: HashMap<Kind, u32> = HashMap::new();
    for episode in &episodes {
        let stream = format!("s{}", episode.stream + 1);
        let (start, end) = (episode.start_ms, episode.end_ms);
        match episode.kind {
            Kind::ChatSpike => {
                let expected = rates[&stream] * episode.factor * (end - start) as f64 / 1_000.0;
                let inside = |event: &&&Kept| event.key == stream && (start..end).contains(&event.time_ms);
                let count = chat.iter().filter(inside).count() as f64;
                assert!((count - expected).abs() < 4.5 * expected.sqrt(), "{episode:?}: {count}, {expected}");
            }
            Kind::ViewerDrop => {
                let count = |json: &Value| json["viewer_count"].as_f64().unwrap();
                let before = mean(&viewers, &stream, start - 60_000, start, count);
                let within = mean(&viewers, &stream, start, end, count);
                assert!((within / before / episode.factor - 1.0).abs() < 0.2, "{episode:?}: {before}, {within}");
            }
            Kind::EmoteSpike => {
                let emotes = |json: &Value| {
                    let text = json["message"].as_str().unwrap();
                    text.split_whitespace().filter(|token| EMOTES.contains(token)).count() as f64
                };
                let within = mean(&chat, &stream, start, end, emotes);
                let expected = EMOTES_PER_MESSAGE * episode.factor;
                assert!((within / expected - 1.0).abs() < 0.15, "{episode:?}: {within}, {expected}");
            }
            Kind::Burst => panic!("bursts are not planted"),
        }
        *found.entry(episode.kind).or_default() += 1;
    }
    assert_eq!(found.values().sum::<u32>(), 180, "{found:?}");
}

#[test]
fn a_run_without_end_goes_on_past_a_day() {
    let settings = Settings {
        volume: Volume::Rate { messages_per_second: 1.0, seconds: None },
        streams: 1,
        viewer_interval_ms: 600_000,
        bursts_per_day: 10.0,
        planted: Plant::default(),
        ..Settings::default()
    };
    let mut generator = Generator::new(settings).unwrap();
    let mut last_ms = 0;
    while last_ms < 2 * 86_400_000 + 1_000 {
        last_ms = generator.next_event().unwrap().arrival_ms;
    }
    let planted = generator.take_planted();
    let days: HashSet<i64> = planted.iter().map(|episode| episode.start_ms / 86_400_000).collect();
    assert!(days.is_superset(&HashSet::from([0, 1])) && generator.take_planted().is_empty());
}
