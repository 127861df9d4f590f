//! `dlq show`: one record whole.

use super::{
    DlqError, Next, Stores, blocking, escape,
    filter::Filter,
    form::Form,
    letter::{Id, Letter},
    pipelines, replayed,
};
use crate::{app::group_digits, clock, config::model::Config};
use clap::Args;
use serde::{Serialize, Serializer};
use std::{collections::BTreeSet, fmt};
use tokio::runtime::Handle;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The record: TOPIC PARTITION OFFSET, or topic/partition/offset as list and export print it.
    #[arg(required = true, num_args = 1..=3, value_name = "RECORD")]
    record: Vec<String>,
    /// Write the exact bytes of the payload to stdout, and nothing else.
    #[arg(long)]
    pub raw: bool,
    /// Only one that meets these conditions, where several topics were called so one after the other.
    #[arg(long = "where", value_name = "CONDITIONS")]
    conditions: Vec<String>,
}

/// The letters of one record: there may be one in each store.
#[derive(Debug)]
pub struct Shown {
    id: Id,
    letters: Vec<Letter>,
    warnings: Vec<String>,
}

/// The record that `options` name.
pub async fn show(config: Config, options: Options) -> Result<Shown, DlqError> {
    blocking(move |runtime| show_here(&config, &options, runtime)).await
}

fn show_here(config: &Config, options: &Options, runtime: &Handle) -> Result<Shown, DlqError> {
    let id: Id = options.record.join("/").parse()?;
    let mut filter = Filter::default();
    filter.record(&id);
    for text in &options.conditions {
        filter.add(text)?;
    }
    let mut shown = Shown { id, letters: Vec::new(), warnings: Vec::new() };
    for pipeline in pipelines(config, &filter)? {
        let stores = Stores::open(pipeline, &filter, runtime)?;
        shown.warnings.extend(stores.warnings.iter().cloned());
        let sent = replayed(pipeline, &filter, &mut shown.warnings)?;
        stores.read(&filter, true, runtime, &mut |mut letter| {
            letter.replayed = sent.as_ref().map(|sent| sent.holds(&letter));
            if filter.matches(&letter) {
                shown.letters.push(letter);
            }
            Ok(Next::Continue)
        })?;
    }
    match shown.letters.is_empty() {
        true => Err(DlqError::NotFound { id: shown.id, topics: topics(config) }),
        false => Ok(shown),
    }
}

/// The topics whose dead letters the file's stores hold.
fn topics(config: &Config) -> String {
    let mut topics = BTreeSet::new();
    for pipeline in &config.pipelines {
        topics.extend(pipeline.capture.as_ref().map(|capture| capture.dead_letter_topic.as_str()));
        topics.extend(pipeline.land.iter().flat_map(|land| &land.tables).map(|table| table.topic.as_str()));
        let jobs = pipeline.analyze.iter().flat_map(|analyze| &analyze.jobs);
        topics.extend(jobs.flat_map(|job| &job.inputs).map(|input| input.topic.as_str()));
    }
    match topics.is_empty() {
        true => "no topic".to_owned(),
        false => topics.into_iter().collect::<Vec<_>>().join(", "),
    }
}

impl Shown {
    /// The exact bytes of the payload.
    pub fn raw(&self) -> Result<&[u8], DlqError> {
        let payloads: BTreeSet<_> = self.letters.iter().map(|letter| letter.body.payload.as_deref()).collect();
        match payloads.into_iter().collect::<Vec<_>>().as_slice() {
            [Some(payload)] => Ok(payload),
            [None] | [] => Err(DlqError::Tombstone { id: self.id.clone() }),
            several => Err(DlqError::Several { id: self.id.clone(), count: several.len() }),
        }
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// A list, for a record may be refused by several.
impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.letters.iter().map(Form::new))
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters: Vec<String> = self.letters.iter().map(text).collect();
        f.write_str(letters.join("\n").trim_end_matches('\n'))?;
        for warning in &self.warnings {
            write!(f, "\nwarning: {}", escape::line(warning))?;
        }
        Ok(())
    }
}

fn text(letter: &Letter) -> String {
    let mut out = format!("{}\n", escape::line(&letter.id().to_string()));
    let mut line = |name: &str, value: String| {
        out.push_str(format!("  {name:<12}{value}").trim_end());
        out.push('\n');
    };
    line("pipeline", escape::line(&letter.source.pipeline));
    line("stage", escape::line(&letter.source.to_string()));
    line("topic", format!("{} (id {})", escape::line(&letter.topic), escape::line(&letter.topic_id)));
    line("partition", letter.partition.to_string());
    line("offset", letter.offset.to_string());
    line("reason", escape::line(&letter.reason));
    line("detail", escape::line(&letter.detail));
    line("refused", clock::iso(letter.refused_us));
    line("recorded", letter.recorded_us.map_or_else(|| "not known".to_owned(), clock::iso));
    let replayed = letter.replayed.map_or("not known", |replayed| if replayed { "yes" } else { "no" });
    line("replayed", replayed.to_owned());
    line("key", value(letter.body.key.as_deref()));
    let headers = match (letter.body.headers_damaged, letter.body.headers.is_empty()) {
        (true, _) => "cannot be read as they are stored",
        (false, true) => "none",
        (false, false) => "",
    };
    line("headers", headers.to_owned());
    for (name, bytes) in &letter.body.headers {
        line("", format!("{}: {}", escape::bytes(name), value(bytes.as_deref())));
    }
    match letter.body.payload.as_deref() {
        None => line("payload", "null, a tombstone".to_owned()),
        Some(payload) => {
            let text = std::str::from_utf8(payload);
            let kind = if text.is_ok() { "text" } else { "not UTF-8" };
            line("payload", format!("{} bytes, {kind}", group_digits(payload.len() as u64)));
            if !payload.is_empty() {
                out.push_str(&match text {
                    Ok(text) => escape::lines(text, "    "),
                    Err(_) => escape::dump(payload, "    "),
                });
            }
        }
    }
    out
}

fn value(bytes: Option<&[u8]>) -> String {
    match bytes {
        None => "null".to_owned(),
        Some([]) => "empty".to_owned(),
        Some(bytes) => escape::bytes(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dlq::letter::{Body, Source};

    fn shown(payloads: &[Option<&[u8]>]) -> Shown {
        let letter = |payload: &Option<&[u8]>| Letter {
            source: Source { pipeline: "shop".to_owned(), stage: "land", job: None }.into(),
            topic: "orders".into(),
            topic_id: "AAAA".into(),
            partition: 3,
            offset: 1234,
            reason: "null_key".to_owned(),
            detail: "order_id is\nnull".to_owned(),
            refused_us: 1_736_943_840_000_000,
            recorded_us: None,
            body: Body {
                payload: payload.map(<[u8]>::to_vec),
                key: Some(vec![0xff]),
                headers: vec![(b"a\x1b".to_vec(), None), (b"a".to_vec(), Some(Vec::new()))],
                headers_damaged: false,
            },
            replayed: Some(false),
        };
        let id = "orders/3/1234".parse().unwrap();
        Shown { id, letters: payloads.iter().map(letter).collect(), warnings: Vec::new() }
    }

    #[test]
    fn a_record_is_shown_whole_and_cannot_forge_lines() {
        let text = shown(&[Some(b"{\n\"a\": \"\x1b[2J\"}\n  reason      fine")]).to_string();
        let expected = "orders/3/1234
  pipeline    shop
  stage       land
  topic       orders (id AAAA)
  partition   3
  offset      1234
  reason      null_key
  detail      order_id is\\nnull
  refused     2025-01-15T12:24:00Z
  recorded    not known
  replayed    no
  key         0xff
  headers
              a\\u{1b}: null
              a: empty
  payload     33 bytes, text
    {
    \"a\": \"\\u{1b}[2J\"}
      reason      fine";
        assert_eq!(text, expected);
        assert!(
            shown(&[Some(b"\xff\0")])
                .to_string()
                .ends_with("2 bytes, not UTF-8\n    00000000  ff 00                                             |..|")
        );
        assert!(shown(&[None]).to_string().ends_with("payload     null, a tombstone"));
        assert!(shown(&[Some(b"")]).to_string().ends_with("payload     0 bytes, text"));
    }

    #[test]
    fn raw_is_one_payload_or_an_error() {
        assert_eq!(shown(&[Some(b"\xff")]).raw().unwrap(), b"\xff");
        assert_eq!(shown(&[Some(b"x"), Some(b"x")]).raw().unwrap(), b"x", "both stores have the record");
        assert!(matches!(shown(&[None]).raw(), Err(DlqError::Tombstone { .. })));
        assert!(shown(&[Some(b"x"), None]).raw().unwrap_err().to_string().contains("2 dead letters"));
    }

    #[test]
    fn as_json_every_byte_is_there() {
        let json = serde_json::to_value(shown(&[Some(b"\xff\0")])).unwrap();
        let letter = &json[0];
        assert_eq!((&letter["payload"], &letter["payload_base64"]), (&serde_json::Value::Null, &"/wA=".into()));
        assert_eq!((&letter["id"], &letter["key_base64"]), (&"orders/3/1234".into(), &"/w==".into()));
        assert_eq!(letter["headers"][0], serde_json::json!({"name": "a\u{1b}", "value": null}));
        assert_eq!(letter["headers"][1], serde_json::json!({"name": "a", "value": ""}));
    }
}
