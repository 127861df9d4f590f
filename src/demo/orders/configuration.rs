//! The orders' names, and the configuration of their pipeline: the short form, with nothing in it that a
//! first user would not write.

use crate::{
    config::{self, model::Postgres},
    demo::{DemoError, file_error, stage_set::StageSet},
};
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct Names {
    pub table: String,
    pub topic: String,
    /// The configuration file.
    pub config: PathBuf,
}

impl Names {
    /// Chooses the names and writes the file.
    pub fn write(set: &StageSet) -> Result<Names, DemoError> {
        let names = Names {
            table: format!("food_orders{}", set.mark),
            topic: format!("food_orders_raw{}", set.mark),
            config: set.directory.join("orders_stream.yml"),
        };
        std::fs::write(&names.config, names.configuration(set)).map_err(file_error(&names.config))?;
        Ok(names)
    }

    /// Everything that the pipeline makes on Kafka.
    pub fn topics(&self) -> Vec<String> {
        let config = config::load_file(&self.config);
        let pipelines = config.into_iter().flat_map(|config| config.pipelines);
        let checkpoints = pipelines.filter_map(|pipeline| Some(pipeline.capture?.checkpoint_topic));
        [self.topic.clone()].into_iter().chain(checkpoints).collect()
    }

    fn configuration(&self, set: &StageSet) -> String {
        let Postgres { host, port, db, user, password, .. } = &set.postgres;
        // A trusted role is asked for no password, but the form has one.
        let password = password.as_ref().map_or("none", |secret| secret.reveal());
        let in_lake = |name: &str| path_text(&set.lake.join(name));
        format!(
            "postgres:\n  host: {}\n  port: {port}\n  db: {}\n  user: {}\n  password: {}\n  table: {}\n\n\
             kafka:\n  brokers: {}\n  topic: {}\n\n\
             datalake:\n  path: {}\n  format: \"parquet\"\n\n\
             streaming:\n  checkpoint_location: {}\n  last_processed_timestamp_location: {}\n  \
             batch_interval: 1  # seconds\n\n\
             http:\n  listen: \"127.0.0.1:0\"\n",
            Value::from(host.as_str()),
            Value::from(db.as_str()),
            Value::from(user.as_str()),
            Value::from(password),
            Value::from(self.table.as_str()),
            Value::from(set.kafka.brokers.as_str()),
            Value::from(self.topic.as_str()),
            in_lake("orders"),
            in_lake("checkpoints/orders"),
            in_lake("lastprocess/orders"),
        )
    }
}

fn path_text(path: &Path) -> Value {
    Value::from(path.to_string_lossy())
}
