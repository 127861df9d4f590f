//! The sequence of events: drawn second by second of event time, given out as they arrive.
//!
//! What happens in a second depends on the settings and the second alone, what a message says on the
//! settings and its number alone. So the same settings give the same bytes, a duplicate is written
//! anew rather than kept, and what waits for its (late) arrival costs 48 bytes whatever it says.

use super::{
    draws::{mix, poisson},
    message::{Mood, Writer, push_username},
    payload::{Chat, Defect, Form, event_id},
    plan::{DAY_SECONDS, Episode, Kind, plan, sizes},
    settings::{Settings, SettingsError, Volume},
    streams::Streams,
};
use crate::generate::Random;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};

/// A duplicate follows its first by up to so much: a producer that has not heard of its success.
pub const REPEAT_MS: u64 = 1_000;
/// Share of messages without the field `emotes`.
const WITHOUT_EMOTES_FIELD: f64 = 0.2;
/// Share of messages that write what is not ASCII as `\u` escapes.
const AS_ESCAPES: f64 = 0.05;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    Chat,
    Viewers,
}

/// A record, valid until the next one is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event<'a> {
    pub topic: Topic,
    /// The stream's id, also where the payload names none.
    pub key: &'a str,
    pub payload: &'a [u8],
    /// In the payload, unless it has a defect.
    pub time_ms: i64,
    /// When it reaches the topic; never falls from one event to the next.
    pub arrival_ms: i64,
    /// Chosen to arrive later than the jitter alone would have it.
    pub is_late: bool,
    /// The same message was there before.
    pub is_duplicate: bool,
    pub defect: Option<Defect>,
}

/// What has been given out.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Messages that fit, each once.
    pub messages: u64,
    /// Viewer events that fit.
    pub viewer_events: u64,
    /// Messages given out again.
    pub duplicates: u64,
    /// Of the messages and viewer events, those chosen to be late.
    pub late: u64,
    /// Records that do not fit, by what is wrong with them, of both topics.
    pub bad: BTreeMap<Defect, u64>,
    /// Everything, and the bytes of its values.
    pub records: u64,
    pub bytes: u64,
}

impl Totals {
    pub fn add(&mut self, event: &Event<'_>) {
        self.records += 1;
        self.bytes += event.payload.len() as u64;
        match (event.defect, event.topic) {
            (Some(defect), _) => *self.bad.entry(defect).or_default() += 1,
            _ if event.is_duplicate => self.duplicates += 1,
            (None, Topic::Chat) => self.messages += 1,
            (None, Topic::Viewers) => self.viewer_events += 1,
        }
        self.late += u64::from(event.is_late && event.defect.is_none() && !event.is_duplicate);
    }
}

/// A lending iterator over the events, in the order of their arrival.
#[derive(Debug)]
pub struct Generator {
    settings: Settings,
    streams: Streams,
    /// On average, without episodes, bursts and the day's shape.
    messages_per_second: f64,
    budget: Option<Budget>,
    id_salt: u64,
    /// The next second to draw, counted from the start.
    second: u64,
    episodes: Episodes,
    /// By second of arrival, the present one first; that one is sorted.
    waiting: VecDeque<Vec<Pending>>,
    /// How many of the present second have been given out.
    given: usize,
    /// Of all events; a duplicate has that of its first.
    next_number: u64,
    next_viewer_event: u64,
    writer: Writer,
    form: Form,
    username: String,
    payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    arrival_ms: i64,
    number: u64,
    time_ms: i64,
    stream: u32,
    content: Content,
    is_late: bool,
    is_duplicate: bool,
    defect: Option<Defect>,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    Message(Mood),
    Viewers(u32),
}

impl Generator {
    pub fn new(settings: Settings) -> Result<Generator, SettingsError> {
        settings.check()?;
        let messages_per_second = match settings.volume {
            Volume::Rate { messages_per_second, .. } => messages_per_second,
            Volume::Total { messages, seconds } => {
                let shapes: f64 = (0..seconds).map(|second| day_factor(&settings, second)).sum();
                messages as f64 / shapes
            }
        };
        let streams = Streams::new(mix(settings.seed), settings.streams, messages_per_second);
        let budget = match settings.volume {
            Volume::Total { messages, seconds } => {
                Some(Budget { messages, weight: weight_of_all(&settings, &streams, messages_per_second, seconds) })
            }
            Volume::Rate { .. } => None,
        };
        Ok(Generator {
            messages_per_second,
            budget,
            // Two live runs of one seed are two sets of messages.
            id_salt: mix(settings.seed ^ mix(settings.start_ms as u64)),
            second: 0,
            episodes: Episodes::default(),
            waiting: VecDeque::new(),
            given: 0,
            next_number: 0,
            next_viewer_event: 0,
            writer: Writer::new(settings.users),
            form: Form::default(),
            username: String::new(),
            payload: Vec::with_capacity(1_024),
            streams,
            settings,
        })
    }

    /// None when the time of the settings is over.
    pub fn next_event(&mut self) -> Option<Event<'_>> {
        loop {
            if let Some(pending) = self.waiting.front().and_then(|present| present.get(self.given)) {
                let pending = *pending;
                self.given += 1;
                return Some(self.write(pending));
            }
            if !self.draw_second() {
                return None;
            }
        }
    }

    /// The planted episodes that have begun since this was last asked, by their start.
    pub fn take_planted(&mut self) -> Vec<Episode> {
        std::mem::take(&mut self.episodes.begun)
    }

    pub fn stream_name(&self, stream: u32) -> &str {
        self.streams.name(stream)
    }

    /// Messages a second of a stream on average, without episodes, bursts and the day's shape.
    pub fn stream_rate(&self, stream: u32) -> f64 {
        self.streams.share(stream) * self.messages_per_second
    }

    /// What an episode of the kind may multiply its measure by, at least and at most, to be found within 40 s of its
    /// start when the day's shape is at its middle; `None` where the stream is too small for one to show.
    pub fn sizes(&self, kind: Kind, stream: u32) -> Option<(f64, f64)> {
        sizes(&self.streams, self.messages_per_second, kind, stream, 1.0)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// When the last event arrives at the latest.
    pub fn end_ms(&self) -> Option<i64> {
        self.settings.volume.seconds().map(|seconds| self.settings.start_ms + seconds as i64 * 1_000)
    }

    fn draw_second(&mut self) -> bool {
        let second = self.second;
        if self.settings.volume.seconds().is_some_and(|seconds| second >= seconds) {
            return false;
        }
        self.second += 1;
        let start_ms = self.settings.start_ms + second as i64 * 1_000;
        if second.is_multiple_of(DAY_SECONDS) {
            let day = second / DAY_SECONDS;
            self.episodes.upcoming = plan(&self.settings, &self.streams, self.messages_per_second, day).into();
        }
        self.episodes.advance(start_ms, &self.streams);
        // The second that is over leaves its memory to a later one.
        let mut spent = self.waiting.pop_front().unwrap_or_default();
        spent.clear();
        self.waiting.push_back(spent);
        self.given = 0;

        let mut random = Random::new(mix(self.settings.seed ^ mix(second)));
        let weight = day_factor(&self.settings, second) * (1.0 + self.episodes.extra());
        let is_last = self.settings.volume.seconds() == Some(self.second);
        let count = match &mut self.budget {
            Some(budget) => budget.take(&mut random, weight, is_last),
            None => poisson(&mut random, self.messages_per_second * weight),
        };
        for _ in 0..count {
            self.draw_message(&mut random, start_ms);
        }
        self.draw_viewer_events(&mut random, start_ms);
        if let Some(present) = self.waiting.front_mut() {
            present.sort_unstable_by_key(|pending| (pending.arrival_ms, pending.number, pending.is_duplicate));
        }
        true
    }

    fn draw_message(&mut self, random: &mut Random, start_ms: i64) {
        let (stream, mood) = self.episodes.pick(random, &self.streams);
        let time_ms = start_ms + random.below(1_000) as i64;
        let pending = self.pending(random, stream, time_ms, Content::Message(mood));
        self.wait(pending);
        if pending.defect.is_none() && random.chance(self.settings.duplicate_share) {
            let again_ms = pending.arrival_ms + 1 + random.below(REPEAT_MS) as i64;
            self.wait(Pending { arrival_ms: self.before_end(again_ms), is_duplicate: true, ..pending });
        }
    }

    /// The streams take turns, evenly over the interval.
    fn draw_viewer_events(&mut self, random: &mut Random, start_ms: i64) {
        let (interval, streams) = (self.settings.viewer_interval_ms, u64::from(self.settings.streams));
        loop {
            let (round, turn) = (self.next_viewer_event / streams, self.next_viewer_event % streams);
            let time_ms = self.settings.start_ms + (round * interval + turn * interval / streams) as i64;
            if time_ms >= start_ms + 1_000 {
                return;
            }
            self.next_viewer_event += 1;
            let stream = turn as u32;
            let usual = self.streams.count_viewers(stream, self.settings.day_shape, time_ms, random);
            let count = usual * self.episodes.viewer_factor(stream);
            let pending = self.pending(random, stream, time_ms, Content::Viewers(count.round() as u32));
            self.wait(pending);
        }
    }

    fn pending(&mut self, random: &mut Random, stream: u32, time_ms: i64, content: Content) -> Pending {
        let settings = &self.settings;
        let is_late = random.chance(settings.late_share);
        let delay_ms = if is_late {
            settings.jitter_ms + random.below(settings.late_ms + 1)
        } else {
            random.below(settings.jitter_ms + 1)
        };
        let defect = random.chance(settings.bad_share).then(|| {
            let number = random.below(Defect::ALL.len() as u64);
            Defect::ALL[number as usize]
        });
        let arrival_ms = self.before_end(time_ms + delay_ms as i64);
        let number = self.next_number;
        self.next_number += 1;
        Pending { arrival_ms, number, time_ms, stream, content, is_late, is_duplicate: false, defect }
    }

    /// A run ends when it says: what would arrive later arrives at its end.
    fn before_end(&self, arrival_ms: i64) -> i64 {
        self.end_ms().map_or(arrival_ms, |end_ms| arrival_ms.min(end_ms - 1))
    }

    fn wait(&mut self, pending: Pending) {
        let present_ms = self.settings.start_ms + (self.second as i64 - 1) * 1_000;
        let ahead = ((pending.arrival_ms - present_ms) / 1_000) as usize;
        if self.waiting.len() <= ahead {
            self.waiting.resize_with(ahead + 1, Vec::new);
        }
        self.waiting[ahead].push(pending);
    }

    fn write(&mut self, pending: Pending) -> Event<'_> {
        let Pending { stream, time_ms, defect, .. } = pending;
        self.payload.clear();
        let key = self.streams.name(stream);
        let topic = match pending.content {
            Content::Viewers(count) => {
                self.form.viewers(key, count, time_ms, defect, &mut self.payload);
                Topic::Viewers
            }
            Content::Message(mood) => {
                let mut random = Random::new(self.settings.seed ^ mix(pending.number));
                let user = self.writer.user(&mut random);
                self.username.clear();
                push_username(&mut self.username, user);
                self.writer.write(&mut random, mood);
                let chat = Chat {
                    id: event_id(self.id_salt, pending.number),
                    stream: key,
                    user,
                    username: &self.username,
                    time_ms,
                    with_emotes: !random.chance(WITHOUT_EMOTES_FIELD),
                    as_escapes: random.chance(AS_ESCAPES),
                };
                self.form.chat(&chat, &self.writer, defect, &mut self.payload);
                Topic::Chat
            }
        };
        Event {
            topic,
            key,
            payload: &self.payload,
            time_ms,
            arrival_ms: pending.arrival_ms,
            is_late: pending.is_late,
            is_duplicate: pending.is_duplicate,
            defect,
        }
    }
}

fn day_factor(settings: &Settings, second: u64) -> f64 {
    settings.day_shape.factor(settings.start_ms + second as i64 * 1_000)
}

/// The sum of all seconds' weights, from which each second's part of a total follows.
fn weight_of_all(settings: &Settings, streams: &Streams, messages_per_second: f64, seconds: u64) -> f64 {
    let usual: f64 = (0..seconds).map(|second| day_factor(settings, second)).sum();
    let days = 0..seconds.div_ceil(DAY_SECONDS);
    let extra: f64 = days
        .flat_map(|day| plan(settings, streams, messages_per_second, day))
        .map(|episode| {
            let first = ((episode.start_ms - settings.start_ms) / 1_000) as u64;
            let last = ((episode.end_ms - settings.start_ms) / 1_000) as u64;
            let shapes: f64 = (first..last).map(|second| day_factor(settings, second)).sum();
            shapes * episode.extra_messages() * streams.share(episode.stream)
        })
        .sum();
    usual + extra
}

/// What is left of a total.
#[derive(Debug)]
struct Budget {
    messages: u64,
    weight: f64,
}

impl Budget {
    /// A second's part: random like any crowd's, but in the end exactly the total.
    fn take(&mut self, random: &mut Random, weight: f64, is_last: bool) -> u64 {
        let mean = self.messages as f64 * (weight / self.weight.max(weight)).min(1.0);
        let count = if is_last { self.messages } else { poisson(random, mean).min(self.messages) };
        self.messages -= count;
        self.weight -= weight;
        count
    }
}

/// The episodes to come and those that are under way.
#[derive(Debug, Default)]
struct Episodes {
    upcoming: VecDeque<Episode>,
    active: Vec<Episode>,
    /// Planted ones that nobody has been told of.
    begun: Vec<Episode>,
    /// Running sum of the extra messages of `active`, as a share of the usual ones of all streams.
    sums: Vec<f64>,
}

impl Episodes {
    fn advance(&mut self, now_ms: i64, streams: &Streams) {
        self.active.retain(|episode| episode.end_ms > now_ms);
        while let Some(next) = self.upcoming.front()
            && next.start_ms <= now_ms
        {
            self.active.push(*next);
            if next.kind != Kind::Burst {
                self.begun.push(*next);
            }
            self.upcoming.pop_front();
        }
        self.sums.clear();
        let mut sum = 0.0;
        for episode in &self.active {
            sum += episode.extra_messages() * streams.share(episode.stream);
            self.sums.push(sum);
        }
    }

    fn extra(&self) -> f64 {
        self.sums.last().copied().unwrap_or_default()
    }

    /// The stream of a message, and how people feel there.
    fn pick(&self, random: &mut Random, streams: &Streams) -> (u32, Mood) {
        if self.active.is_empty() {
            return (streams.pick(random), Mood::Calm);
        }
        let point = random.unit() * (1.0 + self.extra());
        let stream = if point < 1.0 {
            streams.pick(random)
        } else {
            let place = self.sums.partition_point(|sum| *sum <= point - 1.0).min(self.active.len() - 1);
            self.active[place].stream
        };
        let moods = self.active.iter().filter(|episode| episode.stream == stream).map(Episode::mood);
        (stream, moods.max_by_key(|mood| *mood != Mood::Calm).unwrap_or(Mood::Calm))
    }

    fn viewer_factor(&self, stream: u32) -> f64 {
        let is_drop = |episode: &&Episode| episode.kind == Kind::ViewerDrop && episode.stream == stream;
        self.active.iter().find(is_drop).map_or(1.0, |episode| episode.factor)
    }
}
