//! The writing of the chat, in the background.

use super::{Names, script::Script};
use crate::{
    config::model::{Compression, Kafka},
    demo::DemoError,
    generate::{
        GenerateError, Show,
        chat::{self, Job, Pace, Progress, Report},
    },
};
use tokio::{sync::watch, task::JoinHandle};

/// Partitions of either topic, as the configuration has them.
const PARTITIONS: i32 = 3;

/// Dropped, it ends.
pub struct Feed {
    task: JoinHandle<Result<Report, GenerateError>>,
    progress: Progress,
    running: watch::Sender<bool>,
}

impl Feed {
    /// Begins to write, what lies in the past as fast as possible.
    pub fn start(kafka: Kafka, names: &Names, script: &Script) -> Feed {
        let (running, shutdown) = watch::channel(false);
        let progress = Progress::default();
        let job = Job {
            kafka,
            chat_topic: names.chat_topic.clone(),
            viewer_topic: names.viewer_topic.clone(),
            partitions: PARTITIONS,
            replication: 1,
            compression: Compression::None,
            settings: script.settings.clone(),
            pace: Pace::RealTime,
            planted: None,
            shutdown,
            show: Show::Nothing,
            progress: progress.clone(),
        };
        Feed { task: tokio::spawn(chat::write(job)), progress, running }
    }

    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Records of both topics so far.
    pub fn records(&self) -> u64 {
        self.progress.records()
    }

    pub async fn finish(mut self) -> Result<Report, DemoError> {
        Ok((&mut self.task).await.map_err(|_| DemoError::Panicked { task: "generate" })??)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.running.send_replace(true);
    }
}
