//! What the play stands on: servers, a directory, a table's name, a configuration.

use super::{
    DemoError, Options, blocking, file_error,
    servers::{KafkaOptions, KafkaServer, Lifetime, PostgresOptions, PostgresServer, Scratch},
};
use crate::{
    config::model::{Kafka, Postgres},
    generate::postgres_of_url,
};
use std::path::{Path, PathBuf};

/// Dropped, it takes the servers down and removes the files, unless they shall be kept.
pub struct StageSet {
    pub postgres: Postgres,
    pub kafka: Kafka,
    pub table: String,
    pub topic: String,
    /// The configuration file.
    pub config: PathBuf,
    pub lake: PathBuf,
    pub logs: PathBuf,
    pub directory: PathBuf,
    pub lifetime: Lifetime,
    own_postgres: Option<PostgresServer>,
    own_kafka: Option<KafkaServer>,
    _scratch: Scratch,
}

impl StageSet {
    pub async fn raise(options: &Options) -> Result<StageSet, DemoError> {
        let lifetime = if options.keep { Lifetime::Outlives } else { Lifetime::EndsWithUs };
        let mut scratch = Scratch::new("demo")?;
        if options.keep {
            scratch.keep();
        }
        let directory = scratch.path().to_owned();
        let given_postgres = options.postgres_url.as_deref().map(postgres_of_url).transpose()?;
        let (with_postgres, with_kafka) = (given_postgres.is_none(), options.kafka_brokers.is_none());
        let (own_postgres, own_kafka) = {
            let (for_postgres, for_kafka) = (directory.join("postgres"), directory.join("kafka"));
            let postgres = blocking("PostgreSQL", move || {
                with_postgres.then(|| PostgresServer::start(&for_postgres, postgres_options(lifetime))).transpose()
            });
            let kafka = blocking("Kafka", move || {
                let options = KafkaOptions { lifetime, ..KafkaOptions::default() };
                with_kafka.then(|| KafkaServer::start(&for_kafka, options)).transpose()
            });
            let (postgres, kafka) = tokio::join!(postgres, kafka);
            (postgres??, kafka??)
        };
        let postgres = given_postgres.or_else(|| own_postgres.as_ref().map(|server| server.config("postgres")));
        let postgres = postgres.ok_or(DemoError::Panicked { task: "PostgreSQL" })?;
        let kafka = match (&own_kafka, &options.kafka_brokers) {
            (Some(server), _) => server.config(),
            (None, brokers) => Kafka::plaintext(brokers.clone().unwrap_or_default()),
        };
        // On servers of others, a name that nobody else has.
        let mark = if with_postgres && with_kafka { String::new() } else { format!("_demo_{}", std::process::id()) };
        let lake = options.directory.clone().unwrap_or_else(|| directory.join("lake"));
        let mut set = StageSet {
            postgres,
            kafka,
            table: format!("food_orders{mark}"),
            topic: format!("food_orders_raw{mark}"),
            config: directory.join("orders_stream.yml"),
            lake,
            logs: directory.join("logs"),
            directory,
            lifetime,
            own_postgres,
            own_kafka,
            _scratch: scratch,
        };
        set.write_files()?;
        Ok(set)
    }

    fn write_files(&mut self) -> Result<(), DemoError> {
        for directory in [&self.lake, &self.logs] {
            std::fs::create_dir_all(directory).map_err(file_error(directory))?;
        }
        self.lake = self.lake.canonicalize().map_err(file_error(&self.lake))?;
        std::fs::write(&self.config, self.configuration()).map_err(file_error(&self.config))
    }

    /// The short form, with nothing in it that a first user would not write.
    fn configuration(&self) -> String {
        let Postgres { host, port, db, user, password, .. } = &self.postgres;
        // A trusted role is asked for no password, but the form has one.
        let password = password.as_ref().map_or("none", |secret| secret.reveal());
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let (lake, checkpoints) =
            (path_text(&self.lake.join("orders")), path_text(&self.lake.join("checkpoints/orders")));
        let last = path_text(&self.lake.join("lastprocess/orders"));
        format!(
            "postgres:\n  host: {}\n  port: {port}\n  db: {}\n  user: {}\n  password: {}\n  table: {}\n\n\
             kafka:\n  brokers: {}\n  topic: {}\n\n\
             datalake:\n  path: {}\n  format: \"parquet\"\n\n\
             streaming:\n  checkpoint_location: {}\n  last_processed_timestamp_location: {}\n  \
             batch_interval: 1  # seconds\n\n\
             http:\n  listen: \"127.0.0.1:0\"\n",
            quoted(host),
            quoted(db),
            quoted(user),
            quoted(password),
            quoted(&self.table),
            quoted(&self.kafka.brokers),
            quoted(&self.topic),
            quoted(&lake),
            quoted(&checkpoints),
            quoted(&last),
        )
    }

    /// What runs privately, in words.
    pub fn servers(&self) -> String {
        let postgres = format!("PostgreSQL on {}:{}", self.postgres.host, self.postgres.port);
        let kafka = format!("Apache Kafka on {}", self.kafka.brokers);
        let whose = |own| if own { "private" } else { "yours" };
        format!("{postgres} ({}), {kafka} ({})", whose(self.own_postgres.is_some()), whose(self.own_kafka.is_some()))
    }

    /// The commands that end the private servers: PostgreSQL shall not wait for its clients.
    pub fn stop_commands(&self) -> String {
        let postgres = self.own_postgres.as_ref().and_then(PostgresServer::pid).map(|pid| format!("kill -INT {pid}\n"));
        let kafka = self.own_kafka.as_ref().and_then(KafkaServer::pid).map(|pid| format!("kill -TERM {pid}\n"));
        postgres.unwrap_or_default() + &kafka.unwrap_or_default()
    }

    /// Takes back what was made on servers of others: the table. (Their topics are left, and named.)
    pub async fn clear(&self) -> Result<Option<String>, DemoError> {
        if self.lifetime == Lifetime::Outlives {
            return Ok(None);
        }
        if self.own_postgres.is_none() {
            let client = crate::postgres::connect(&self.postgres).await?;
            let table = crate::postgres::quote_ident(&self.table);
            client
                .batch_execute(&format!("DROP TABLE IF EXISTS {table}"))
                .await
                .map_err(crate::postgres::PostgresError::Query)?;
        }
        let left = format!("left on your Kafka: topic {} and its checkpoint topic", self.topic);
        Ok(self.own_kafka.is_none().then_some(left))
    }
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn postgres_options(lifetime: Lifetime) -> PostgresOptions {
    // Commit times are what the delays are measured from.
    let settings = vec![("track_commit_timestamp".to_owned(), "on".to_owned())];
    PostgresOptions { settings, lifetime, ..PostgresOptions::default() }
}
