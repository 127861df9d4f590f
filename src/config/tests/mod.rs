//! Whole files in, whole configurations or errors out.

mod errors;
mod forms;
mod mutations;
mod outputs;
mod shipped;

use super::{
    Environment, load_text,
    model::{Config, Pipeline},
};
use std::path::Path;

/// A landing and a capture in the general form; tests change what they are about.
const GENERAL: &str = "\
pipeline: p
postgres: {host: h, db: d, user: u, password: secret-one}
kafka:
  brokers: k:9092
capture:
  tables:
    - table: orders
      topic: orders
      watermark: created_at
land:
  tables:
    - topic: orders
      path: /lake/orders
      date_column: created_at
";

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn load_with(text: &str, variables: &[(&str, &str)]) -> Config {
    match load_text(Path::new("p.yml"), text, &environment(variables)) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

fn load(text: &str) -> Config {
    load_with(text, &[])
}

fn pipeline(text: &str) -> Pipeline {
    load(text).pipelines.remove(0)
}

/// All errors as they are printed, one an item; each is held against its parts too.
fn errors_with(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    match load_text(Path::new("p.yml"), text, &environment(variables)) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.list().iter().map(ToString::to_string).collect(),
    }
}

fn errors(text: &str) -> Vec<String> {
    errors_with(text, &[])
}

/// The one error of a text.
fn error(text: &str) -> String {
    let mut errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.remove(0)
}
