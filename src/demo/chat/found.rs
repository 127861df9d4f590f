//! What was planted against what was found.

use crate::generate::chat::Kind;

/// An episode that was planted.
#[derive(Debug, Clone, PartialEq)]
pub struct Planted {
    pub kind: Kind,
    pub stream: String,
    pub start_ms: i64,
    pub end_ms: i64,
    pub factor: f64,
}

/// A row of `moments`.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    pub kind: String,
    pub stream: String,
    pub window_start_ms: i64,
    pub window_end_ms: i64,
    pub value: f64,
    pub baseline: f64,
}

impl Moment {
    /// Whether its window holds a part of the episode.
    fn is_of(&self, planted: &Planted) -> bool {
        self.stream == planted.stream && self.window_start_ms < planted.end_ms && planted.start_ms < self.window_end_ms
    }
}

/// What a moment tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The planted episode with this index.
    Planted(usize),
    /// A planted episode of another kind: a spike of chat brings emotes, too.
    Echo,
    Unplanned,
}

/// The origin of each moment. An episode is found by its first moment; another one of the same kind is unplanned.
pub fn origins(planted: &[Planted], moments: &[Moment]) -> Vec<Origin> {
    let mut order: Vec<usize> = (0..moments.len()).collect();
    order.sort_by_key(|index| moments[*index].window_end_ms);
    let mut is_found = vec![false; planted.len()];
    let mut origins = vec![Origin::Unplanned; moments.len()];
    for index in order {
        let moment = &moments[index];
        let is_same = |episode: &Planted| episode.kind.name() == moment.kind;
        let place = (0..planted.len()).find(|n| !is_found[*n] && is_same(&planted[*n]) && moment.is_of(&planted[*n]));
        origins[index] = match place {
            Some(place) => {
                is_found[place] = true;
                Origin::Planted(place)
            }
            None if planted.iter().any(|episode| !is_same(episode) && moment.is_of(episode)) => Origin::Echo,
            None => Origin::Unplanned,
        };
    }
    origins
}

/// How one kind was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Score {
    pub kind: Kind,
    pub planted: usize,
    pub found: usize,
    /// In event time, from the start of each episode that was found until its window could be final; rising.
    pub delays_ms: Vec<i64>,
    pub echoes: usize,
    pub unplanned: usize,
}

/// The scores of all kinds. A window is final `watermark_delay_ms` after its end.
pub fn scores(planted: &[Planted], moments: &[Moment], watermark_delay_ms: i64) -> Vec<Score> {
    let origins = origins(planted, moments);
    let score = |kind: Kind| {
        let of_kind: Vec<(&Moment, Origin)> =
            moments.iter().zip(origins.iter().copied()).filter(|(moment, _)| moment.kind == kind.name()).collect();
        let count = |origin| of_kind.iter().filter(|(_, of)| *of == origin).count();
        let mut delays_ms: Vec<i64> = of_kind
            .iter()
            .filter_map(|(moment, origin)| match origin {
                Origin::Planted(place) => Some(moment.window_end_ms + watermark_delay_ms - planted[*place].start_ms),
                Origin::Echo | Origin::Unplanned => None,
            })
            .collect();
        delays_ms.sort_unstable();
        Score {
            kind,
            planted: planted.iter().filter(|episode| episode.kind == kind).count(),
            found: delays_ms.len(),
            delays_ms,
            echoes: count(Origin::Echo),
            unplanned: count(Origin::Unplanned),
        }
    };
    Kind::PLANTED.map(score).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(kind: Kind, stream: &str, start_ms: i64) -> Planted {
        Planted { kind, stream: stream.to_owned(), start_ms, end_ms: start_ms + 45_000, factor: 4.0 }
    }

    fn moment(kind: Kind, stream: &str, window_end_ms: i64) -> Moment {
        let (kind, stream, window_start_ms) = (kind.name().to_owned(), stream.to_owned(), window_end_ms - 60_000);
        Moment { kind, stream, window_start_ms, window_end_ms, value: 4.0, baseline: 1.0 }
    }

    #[test]
    fn a_moment_belongs_to_the_episode_that_its_window_holds() {
        let episodes = [planted(Kind::ChatSpike, "s1", 1_000_000), planted(Kind::ChatSpike, "s1", 2_000_000)];
        let found = |stream, window_end_ms| origins(&episodes, &[moment(Kind::ChatSpike, stream, window_end_ms)])[0];
        assert_eq!(found("s1", 1_010_000), Origin::Planted(0));
        assert_eq!(found("s1", 2_100_000), Origin::Planted(1));
        assert_eq!(found("s1", 1_000_000), Origin::Unplanned, "over before it began");
        assert_eq!(found("s1", 1_105_000), Origin::Unplanned, "began when it was over");
        assert_eq!(found("s2", 1_010_000), Origin::Unplanned);
    }

    #[test]
    fn an_episode_is_found_once_and_by_its_first_moment() {
        let episodes = [planted(Kind::ChatSpike, "s1", 1_000_000)];
        let moments = [moment(Kind::ChatSpike, "s1", 1_060_000), moment(Kind::ChatSpike, "s1", 1_020_000)];
        assert_eq!(origins(&episodes, &moments), [Origin::Unplanned, Origin::Planted(0)]);
        let score = &scores(&episodes, &moments, 10_000)[0];
        assert_eq!((score.planted, score.found, score.unplanned), (1, 1, 1));
        assert_eq!(score.delays_ms, [30_000]);
    }

    #[test]
    fn emotes_of_a_chat_spike_are_an_echo() {
        let episodes = [planted(Kind::ChatSpike, "s1", 1_000_000), planted(Kind::ViewerDrop, "s2", 1_000_000)];
        let moments = [moment(Kind::EmoteSpike, "s1", 1_020_000), moment(Kind::EmoteSpike, "s3", 1_020_000)];
        let scores = scores(&episodes, &moments, 10_000);
        let [chat, viewers, emotes] = scores.as_slice() else { panic!("{scores:?}") };
        assert_eq!((chat.planted, chat.found, viewers.planted, viewers.found), (1, 0, 1, 0));
        assert_eq!((emotes.planted, emotes.found, emotes.echoes, emotes.unplanned), (0, 0, 1, 1));
    }
}
