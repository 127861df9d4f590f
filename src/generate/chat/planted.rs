//! The list of what was planted: a line for each episode, once it is over.

use super::{
    payload::iso_time,
    plan::{Episode, Kind},
};
use serde::Serialize;
use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// A file of episodes, CSV or (by the name's ending) JSON lines.
#[derive(Debug)]
pub struct PlantedFile {
    file: File,
    is_json: bool,
    /// Under way, with the names of their streams.
    open: Vec<(Episode, String)>,
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Line<'a> {
    moment_type: Kind,
    stream_id: &'a str,
    start: String,
    end: String,
    factor: f64,
}

impl PlantedFile {
    /// Makes the file, or empties it. `.json`, `.jsonl` and `.ndjson` ask for JSON lines.
    pub fn create(path: &Path) -> io::Result<PlantedFile> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let is_json = matches!(ending, "json" | "jsonl" | "ndjson");
        let mut file = File::create(path)?;
        if !is_json {
            file.write_all(b"moment_type,stream_id,start,end,factor\n")?;
        }
        Ok(PlantedFile { file, is_json, open: Vec::new() })
    }

    pub fn add(&mut self, episode: Episode, stream: &str) {
        self.open.push((episode, stream.to_owned()));
    }

    /// Writes down what has ended by `now_ms`.
    pub fn settle(&mut self, now_ms: i64) -> io::Result<()> {
        if self.open.iter().all(|(episode, _)| episode.end_ms > now_ms) {
            return Ok(());
        }
        let (mut ended, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.open).into_iter().partition(|(episode, _)| episode.end_ms <= now_ms);
        self.open = open;
        ended.sort_by_key(|(episode, _)| episode.end_ms);
        let mut text = Vec::new();
        for (episode, stream) in &ended {
            push_line(&mut text, episode, stream, self.is_json);
        }
        self.file.write_all(&text)
    }

    /// Writes down what is left: a run that ends at `now_ms` ends its episodes.
    pub fn finish(mut self, now_ms: i64) -> io::Result<()> {
        self.open.retain(|(episode, _)| episode.start_ms < now_ms);
        for (episode, _) in &mut self.open {
            episode.end_ms = episode.end_ms.min(now_ms);
        }
        self.settle(now_ms)
    }
}

fn push_line(text: &mut Vec<u8>, episode: &Episode, stream: &str, is_json: bool) {
    let line = Line {
        moment_type: episode.kind,
        stream_id: stream,
        start: iso_time(episode.start_ms),
        end: iso_time(episode.end_ms),
        factor: episode.factor,
    };
    // Neither can fail: the target is memory, and the names hold no comma.
    let _ = if is_json {
        serde_json::to_writer(&mut *text, &line).map_err(io::Error::from)
    } else {
        let Line { moment_type, stream_id, start, end, factor } = &line;
        write!(text, "{},{stream_id},{start},{end},{factor}", moment_type.name())
    };
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn episode(kind: Kind, start_ms: i64, end_ms: i64) -> Episode {
        Episode { kind, stream: 0, start_ms, end_ms, factor: 3.25 }
    }

    fn written(name: &str) -> String {
        let path = std::env::temp_dir().join(format!("planted-{}-{name}", std::process::id()));
        let mut file = PlantedFile::create(&path).unwrap();
        file.add(episode(Kind::ChatSpike, 1_000, 61_000), "s1");
        file.add(episode(Kind::ViewerDrop, 2_000, 32_500), "s2");
        file.add(episode(Kind::EmoteSpike, 90_000, 120_000), "s3");
        file.settle(30_000).unwrap();
        file.settle(70_000).unwrap();
        file.finish(90_000).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        text
    }

    #[test]
    fn lines_are_csv_or_json_by_the_name_of_the_file() {
        let csv = "moment_type,stream_id,start,end,factor\n\
                   viewer_drop,s2,1970-01-01T00:00:02.000Z,1970-01-01T00:00:32.500Z,3.25\n\
                   chat_spike,s1,1970-01-01T00:00:01.000Z,1970-01-01T00:01:01.000Z,3.25\n";
        assert_eq!(written("a.csv"), csv);
        let json = written("a.ndjson");
        assert_eq!(json.lines().count(), 2);
        let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!((first["moment_type"].as_str(), first["factor"].as_f64()), (Some("viewer_drop"), Some(3.25)));
    }

    #[test]
    fn an_episode_that_a_run_breaks_off_ends_with_it() {
        let path = std::env::temp_dir().join(format!("planted-{}-cut.csv", std::process::id()));
        let mut file = PlantedFile::create(&path).unwrap();
        file.add(episode(Kind::ChatSpike, 1_000, 61_000), "s1");
        file.finish(31_000).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(text.ends_with("chat_spike,s1,1970-01-01T00:00:01.000Z,1970-01-01T00:00:31.000Z,3.25\n"), "{text}");
    }
}
