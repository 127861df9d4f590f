//! The chat's names, and the configuration of its pipeline: the shipped `configs/chat.yml` with the addresses
//! of these servers, without its part for the lake.

use crate::{
    config::model::Postgres,
    demo::{DemoError, file_error, stage_set::StageSet},
    generate::chat::{CHAT_TOPIC, VIEWER_TOPIC},
    postgres::{self, PostgresError, quote_ident},
};
use serde_json::Value;
use std::{collections::BTreeMap, path::PathBuf};
use tokio_postgres::Client;

const SHIPPED: &str = include_str!("../../../configs/chat.yml");
/// Made once for all databases of a server, where the connecting role may.
const ROLES: [&str; 3] = ["headwater_owner", "headwater_writer", "headwater_reader"];

#[derive(Debug, Clone)]
pub struct Names {
    pub schema: String,
    pub chat_topic: String,
    pub viewer_topic: String,
    /// The configuration file.
    pub config: PathBuf,
    /// Roles that this run is the first to make.
    new_roles: Vec<&'static str>,
}

impl Names {
    /// Chooses the names, writes the file, and makes the schema if the chat is played.
    pub async fn prepare(set: &StageSet, is_played: bool) -> Result<Names, DemoError> {
        let mut names = Names {
            schema: format!("telemetra{}", set.mark),
            chat_topic: format!("{CHAT_TOPIC}{}", set.mark),
            viewer_topic: format!("{VIEWER_TOPIC}{}", set.mark),
            config: set.directory.join("chat.yml"),
            new_roles: Vec::new(),
        };
        let text = names.configuration(&set.postgres, &set.kafka.brokers, &set.mark);
        std::fs::write(&names.config, text).map_err(file_error(&names.config))?;
        if is_played {
            let client = names.connect(&set.postgres).await?;
            let known = client.query("SELECT rolname::text FROM pg_roles", &[]).await.map_err(PostgresError::Query)?;
            let known: Vec<String> = known.into_iter().map(|row| row.get(0)).collect();
            names.new_roles = ROLES.into_iter().filter(|role| !known.iter().any(|name| name == role)).collect();
            let make = format!("CREATE SCHEMA {}", quote_ident(&names.schema));
            client.batch_execute(&make).await.map_err(PostgresError::Query)?;
        }
        Ok(names)
    }

    /// A connection that finds the chat's tables by their names.
    pub async fn connect(&self, config: &Postgres) -> Result<Client, PostgresError> {
        postgres::connect_as(config, "headwater demo", &format!("-c search_path={}", self.schema)).await
    }

    /// Takes back what was made on servers of others.
    pub async fn clear(&self, set: &StageSet) -> Result<(), DemoError> {
        let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", quote_ident(&self.schema));
        set.clear(&drop, &[&self.chat_topic, &self.viewer_topic]).await?;
        if !set.owns_postgres() && !set.is_kept() {
            let client = postgres::connect(&set.postgres).await?;
            for role in &self.new_roles {
                // Another pipeline may have come to use it.
                if let Err(error) = client.batch_execute(&format!("DROP ROLE IF EXISTS {role}")).await {
                    tracing::debug!("{role} stays: {}", postgres::chain(&error));
                }
            }
        }
        Ok(())
    }

    fn configuration(&self, postgres: &Postgres, brokers: &str, mark: &str) -> String {
        let Postgres { host, port, db, user, password, .. } = postgres;
        // A trusted role is asked for no password, but the form has one.
        let password = password.as_ref().map_or("none", |secret| secret.reveal());
        let variables = BTreeMap::from([
            ("POSTGRES_URL", format!("jdbc:postgresql://{host}:{port}/{db}")),
            ("POSTGRES_USER", user.clone()),
            ("POSTGRES_PASSWORD", password.to_owned()),
            ("KAFKA_BOOTSTRAP_SERVERS", brokers.to_owned()),
        ]);
        let text = SHIPPED.split_once("\nland:").map_or(SHIPPED, |(before, _)| before);
        let text = substituted(text, &variables)
            .replace("pipeline: chat\n", &format!("pipeline: chat{mark}\n"))
            .replace("\nanalyze:\n", &format!("\nanalyze:\n  schema: {}\n", self.schema))
            .replace(&format!("topic: {CHAT_TOPIC}\n"), &format!("topic: {}\n", self.chat_topic))
            .replace(&format!("topic: {VIEWER_TOPIC}\n"), &format!("topic: {}\n", self.viewer_topic));
        format!("{text}\nhttp:\n  listen: \"127.0.0.1:0\"\n")
    }
}

/// Puts values in the place of `${NAME:-default}`; defaults where there is none, so that the environment of
/// whoever plays changes nothing.
fn substituted(text: &str, values: &BTreeMap<&str, String>) -> String {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inner, behind) = after.split_once('}').unwrap_or((after, ""));
        let (name, default) = inner.split_once(":-").unwrap_or((inner, ""));
        // Quotes are for the braces, which mean something to YAML within a list.
        let (before, behind) = match (before.strip_suffix('"'), behind.strip_prefix('"')) {
            (Some(before), Some(behind)) => (before, behind),
            _ => (before, behind),
        };
        done.push_str(before);
        match values.get(name) {
            // As JSON, which YAML reads; `$${` is a dollar sign and a brace.
            Some(value) => done.push_str(&Value::from(value.replace("${", "$${")).to_string()),
            None => done.push_str(default),
        }
        rest = behind;
    }
    done + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Environment, load},
        generate::postgres_of_url,
    };

    #[test]
    fn the_shipped_pipeline_runs_on_the_servers_of_the_demo() {
        let directory = std::env::temp_dir();
        let names = Names {
            schema: "telemetra_demo_7".to_owned(),
            chat_topic: "telemetra.events.chat_demo_7".to_owned(),
            viewer_topic: "telemetra.events.viewer_demo_7".to_owned(),
            config: directory.join(format!("demo-chat-{}.yml", std::process::id())),
            new_roles: Vec::new(),
        };
        let postgres = postgres_of_url("postgres://me:a%22%24%7Bb%7D@[::1]:5433/shop").unwrap();
        std::fs::write(&names.config, names.configuration(&postgres, "b1:1,b2:2", "_demo_7")).unwrap();
        let loaded = load(&names.config, &Environment::default()).unwrap();
        std::fs::remove_file(&names.config).unwrap();
        let pipeline = &loaded.pipelines[0];
        assert_eq!((pipeline.name.as_str(), pipeline.kafka.brokers.as_str()), ("chat_demo_7", "b1:1,b2:2"));
        assert!(pipeline.capture.is_none() && pipeline.land.is_none());
        let found = pipeline.postgres.as_ref().unwrap();
        assert_eq!((found.port, found.db.as_str(), found.user.as_str()), (5433, "shop", "me"));
        assert_eq!(found.password.as_ref().unwrap().reveal(), "a\"${b}");
        let analyze = pipeline.analyze.as_ref().unwrap();
        assert_eq!(analyze.schema.as_deref(), Some("telemetra_demo_7"));

        // All else is as shipped.
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/chat.yml");
        let shipped = load(std::path::Path::new(shipped), &Environment::default()).unwrap();
        let mut expected = shipped.pipelines[0].analyze.as_ref().unwrap().jobs[0].clone();
        expected.id = "headwater-chat_demo_7/chat".to_owned();
        expected.inputs[0].topic.clone_from(&names.chat_topic);
        expected.inputs[1].topic.clone_from(&names.viewer_topic);
        assert_eq!(analyze.jobs[0], expected);
    }
}
