//! Where data goes to, read from a configuration: a password then stands in no command line.

use super::GenerateError;
use crate::config::{
    self,
    model::{Kafka, Pipeline, Postgres},
};
use std::path::PathBuf;

/// The arguments that say where to: an address or a file.
pub(super) const TARGET: &str = "target";

/// One of them is given, and only one.
pub(super) fn target_group() -> clap::ArgGroup {
    clap::ArgGroup::new(TARGET).required(true).multiple(false)
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigFile {
    /// A configuration file whose postgres or kafka section says how to connect.
    #[arg(short = 'c', long = "config", value_name = "FILE", group = TARGET)]
    pub config: Option<PathBuf>,
}

impl ConfigFile {
    pub(super) fn postgres(&self, tenant: Option<&str>) -> Result<Postgres, GenerateError> {
        let no_postgres = || GenerateError::NoPostgres { file: self.config.clone().unwrap_or_default() };
        self.pipeline(tenant)?.postgres.ok_or_else(no_postgres)
    }

    pub(super) fn kafka(&self, tenant: Option<&str>) -> Result<Kafka, GenerateError> {
        Ok(self.pipeline(tenant)?.kafka)
    }

    /// The only one, or that of the tenant.
    fn pipeline(&self, tenant: Option<&str>) -> Result<Pipeline, GenerateError> {
        let file = self.config.clone().unwrap_or_default();
        let mut pipelines = config::load_file(&file)?.pipelines;
        let names: Vec<&str> = pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
        let place = match tenant {
            Some(tenant) => names.iter().position(|name| *name == tenant),
            None => (names.len() == 1).then_some(0),
        };
        let wrong = GenerateError::Tenant { file, names: names.join(", ") };
        place.map(|place| pipelines.swap_remove(place)).ok_or(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const SECTIONS: &str =
        "postgres: {host: h, db: '{tenant}', user: u, table: t}\nkafka: {brokers: 'k:9092', topic: '{tenant}'}\n";

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("target-{}-{name}.yml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn found(path: &Path, tenant: Option<&str>) -> Result<Pipeline, GenerateError> {
        ConfigFile { config: Some(path.to_owned()) }.pipeline(tenant)
    }

    #[test]
    fn a_file_of_several_tenants_needs_the_name_of_one() {
        let path = file("tenants", &format!("tenants: [a, b]\n{SECTIONS}"));
        assert_eq!(found(&path, Some("b")).unwrap().postgres.unwrap().db, "b");
        for tenant in [None, Some("c")] {
            let error = found(&path, tenant).unwrap_err().to_string();
            assert!(error.contains("a, b") && error.contains("--tenant"), "{error}");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_of_one_pipeline_is_taken_as_it_is() {
        let path = file("one", &SECTIONS.replace("{tenant}", "shop"));
        let of_file = ConfigFile { config: Some(path.clone()) };
        assert_eq!(of_file.kafka(None).unwrap().brokers, "k:9092");
        assert_eq!(of_file.postgres(None).unwrap().db, "shop");
        std::fs::remove_file(path).unwrap();
        let error = of_file.kafka(None).unwrap_err();
        assert!(matches!(error, GenerateError::Configuration(_)), "{error}");
    }
}
