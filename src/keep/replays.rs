//! Which dead letters were replayed, out of the topic that says so and back into it. What was sent stays sent, so what
//! a backup says is added to what the topic says by now; nothing is taken back, and there is nothing to force.

use super::{
    KeepError, Left,
    manifest::{Manifest, Sink},
    restore::{Report, put},
};
use crate::{
    app::group_digits,
    config::model::{Compression, Pipeline},
    dlq::{
        self, DlqError,
        sent::{self, Records},
    },
    kafka::producer::Settings,
    lake::LakeError,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{collections::BTreeMap, path::Path};

/// A record is of 200 KB at most.
const MESSAGE_BYTES: u64 = 1 << 20;

async fn present(pipeline: &Pipeline) -> Result<Records, KeepError> {
    let owned = pipeline.clone();
    Ok(tokio::task::spawn_blocking(move || sent::records(&owned)).await??)
}

/// How many letters there are.
pub async fn backup(pipeline: &Pipeline, root: &Path, manifest: &mut Manifest) -> Result<u64, KeepError> {
    let records = present(pipeline).await?;
    let letters = sent::letters(&pipeline.dlq.replay_topic, &records).map_err(DlqError::from)?;
    let encoded: BTreeMap<String, String> =
        records.into_iter().map(|(key, value)| (key, STANDARD.encode(value))).collect();
    let mut sink = Sink::create(root, "replays.json")?;
    sink.write(&serde_json::to_vec(&encoded).map_err(LakeError::from)?)?;
    manifest.replays = Some(sink.end()?);
    Ok(letters)
}

/// Records that the topic lacks.
pub async fn plan(
    pipeline: &Pipeline,
    manifest: &Manifest,
    root: &Path,
    report: &mut Report,
) -> Result<Records, KeepError> {
    let present = present(pipeline).await?;
    let topic = &pipeline.dlq.replay_topic;
    let Some(part) = &manifest.replays else {
        if present.is_empty() {
            let why = "the backup was made by a program that did not keep them, and the topic is empty or gone: dead \
                       letters that were replayed before would be sent once more by a replay that means them"
                .to_owned();
            report.left.push(Left { what: format!("which dead letters were replayed ({topic})"), why });
        }
        return Ok(Records::new());
    };
    let damaged = || KeepError::Damaged { path: root.join(&part.path) };
    let encoded: BTreeMap<String, String> = serde_json::from_slice(&part.bytes(root)?).map_err(|_| damaged())?;
    let decoded = encoded.into_iter().map(|(key, value)| Ok((key, STANDARD.decode(value).map_err(|_| damaged())?)));
    let saved = decoded.collect::<Result<Records, KeepError>>()?;
    let (records, letters) = sent::lacking(topic, &saved, &present).map_err(DlqError::from)?;
    if !records.is_empty() {
        report.steps.push(format!("{} replayed dead letters: noted in {topic}", group_digits(letters)));
    }
    Ok(records)
}

/// In one transaction, under the id that fences a replay that still runs.
pub async fn restore(pipeline: &Pipeline, records: Records) -> Result<(), KeepError> {
    if records.is_empty() {
        return Ok(());
    }
    let settings = Settings {
        transactional_id: pipeline.dlq.transactional_id.clone(),
        compression: Compression::Lz4,
        max_message_bytes: MESSAGE_BYTES,
    };
    put(&pipeline.kafka, vec![dlq::replay_topic(pipeline)], settings, records).await
}
