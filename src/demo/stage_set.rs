//! What the parts of the play stand on: servers and a directory.

use super::{
    DemoError, Options, blocking, file_error,
    servers::{KafkaOptions, KafkaServer, Lifetime, PostgresOptions, PostgresServer, Scratch},
};
use crate::{
    config::model::{Kafka, Postgres},
    generate::postgres_of_url,
    kafka::admin::delete_topics,
    output,
};
use std::path::PathBuf;

/// Dropped, it takes the servers down and removes the files, unless they shall be kept.
pub struct StageSet {
    pub postgres: Postgres,
    pub kafka: Kafka,
    /// At the end of every name, so that on servers of others nobody else has it; empty on our own.
    pub mark: String,
    pub lake: PathBuf,
    pub logs: PathBuf,
    pub directory: PathBuf,
    lifetime: Lifetime,
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
        let mark = if with_postgres && with_kafka { String::new() } else { format!("_demo_{}", std::process::id()) };
        let (lake, logs) =
            (options.directory.clone().unwrap_or_else(|| directory.join("lake")), directory.join("logs"));
        for made in [&lake, &logs] {
            std::fs::create_dir_all(made).map_err(file_error(made))?;
        }
        let lake = lake.canonicalize().map_err(file_error(&lake))?;
        Ok(StageSet {
            postgres,
            kafka,
            mark,
            lake,
            logs,
            directory,
            lifetime,
            own_postgres,
            own_kafka,
            _scratch: scratch,
        })
    }

    pub fn owns_postgres(&self) -> bool {
        self.own_postgres.is_some()
    }

    /// Whether everything is left as it is at the end.
    pub fn is_kept(&self) -> bool {
        self.lifetime == Lifetime::Outlives
    }

    pub fn owns_kafka(&self) -> bool {
        self.own_kafka.is_some()
    }

    /// What is used, and whose it is.
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

    /// Takes back what was made on servers of others: runs `drop` where PostgreSQL is theirs, and deletes the
    /// topics where Kafka is. What could not be taken back is said.
    pub async fn clear(&self, drop: &str, topics: &[&str]) -> Result<(), DemoError> {
        if self.is_kept() {
            return Ok(());
        }
        if !self.owns_kafka()
            && let Err(error) = delete_topics(&self.kafka, topics).await
        {
            output::complain(format_args!("demo: left on your Kafka: {}: {error}", topics.join(", ")));
        }
        if !self.owns_postgres() {
            let client = crate::postgres::connect(&self.postgres).await?;
            client.batch_execute(drop).await.map_err(crate::postgres::PostgresError::Query)?;
        }
        Ok(())
    }
}

fn postgres_options(lifetime: Lifetime) -> PostgresOptions {
    // Commit times are what the delays are measured from.
    let settings = vec![("track_commit_timestamp".to_owned(), "on".to_owned())];
    PostgresOptions { settings, lifetime, ..PostgresOptions::default() }
}
