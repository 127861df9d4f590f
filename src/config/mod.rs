//! The configuration: its schema, its loading, its errors.
//!
//! One table of keys ([`keys::KEYS`]) feeds validation, the JSON Schema, the reference in the README
//! and the names of the environment's overrides. Loading goes
//!
//! 1. the YAML as a tree of texts with line numbers (`tree`),
//! 2. `HEADWATER__…` overrides, the service manager's credentials, then `${VAR}` substitution (`environment`),
//! 3. a copy for each tenant (`tenants`),
//! 4. the tree against the table: unknown keys, types, ranges (`check`),
//! 5. the sections, short form and general form, into [`model`] (`postgres`, `kafka`, `capture`, `land`, `analyze`, `dlq`),
//! 6. clashes between tables and between tenants (`claims`),
//!
//! and gathers every error on the way rather than stopping at the first.

mod analyze;
mod capture;
mod check;
mod claims;
mod dlq;
mod environment;
mod error;
mod formats;
mod http;
mod jdbc;
mod kafka;
pub mod keys;
mod land;
pub mod model;
mod nearest;
mod postgres;
mod reference;
mod schema;
mod section;
mod show;
mod tenants;
mod tree;

pub use environment::Environment;
pub use error::{ConfigError, ConfigErrors};
pub use land::is_same_name;
pub use reference::reference_markdown;
pub use schema::json_schema;
pub use show::show;

use claims::Claims;
use error::{Collector, Origin, Problem};
use model::{Config, Http, LandSchema, Pipeline, Runtime};
use section::Section;
use std::path::Path;
use tree::Node;

/// Loads the file with this process's environment.
pub fn load_file(path: &Path) -> Result<Config, ConfigErrors> {
    load(path, &Environment::of_process())
}

/// Loads the file, or says everything that is wrong with it.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, ConfigErrors> {
    load_text(path, &read(path)?, environment)
}

fn read(path: &Path) -> Result<String, ConfigErrors> {
    std::fs::read_to_string(path).map_err(|error| {
        let mut errors = Collector::new(path);
        errors.add(&Origin::File, "", Problem::Unreadable(error));
        errors.finish()
    })
}

/// As [`load`], of a file's text; `path` names it and its pipeline.
pub fn load_text(path: &Path, text: &str, environment: &Environment) -> Result<Config, ConfigErrors> {
    let mut errors = Collector::new(path);
    let Some(root) = resolve(text, environment, &mut errors) else { return Err(errors.finish()) };
    let config = build(&root, path, &mut errors);
    match config {
        Some(config) if errors.is_empty() => Ok(config),
        _ => Err(errors.finish()),
    }
}

/// The `http` section alone, for those who ask a running process: what else is wrong with the file, or
/// cannot be read from here (a secret of the service's own), does not matter to them.
pub fn load_http(path: &Path, environment: &Environment) -> Result<Http, ConfigErrors> {
    let text = read(path)?;
    let mut errors = Collector::new(path);
    let Some(root) = resolve(&text, environment, &mut errors) else { return Err(errors.finish()) };
    check::check(&root, &mut errors);
    let http = http::build(&Section::root(&root).section("http"), &mut errors);
    errors.retain(|key| key == "http" || key.starts_with("http."));
    if errors.is_empty() { Ok(http) } else { Err(errors.finish()) }
}

/// The file's tree with the environment's values in it; none where it cannot be read as YAML.
fn resolve(text: &str, environment: &Environment, errors: &mut Collector) -> Option<Node> {
    environment::hide_secrets(environment, errors);
    let mut root = match tree::parse(text) {
        Ok(root) => root,
        Err((origin, problem)) => {
            errors.add(&origin, "", problem);
            return None;
        }
    };
    environment::apply_overrides(&mut root, environment, errors);
    environment::apply_credentials(&mut root, environment);
    environment::substitute(&mut root, environment, errors);
    check::unfold(&mut root, "", "", errors);
    Some(root)
}

fn build(root: &Node, path: &Path, errors: &mut Collector) -> Option<Config> {
    let top = Section::root(root);
    tenants::check_placeholders(root, tenants::is_template(&top, errors), errors);
    let tenants = tenants::names(&top, errors);
    let name = top.text("pipeline").unwrap_or_else(|| name_of(path));
    let mut claims = Claims::default();
    let mut pipelines = Vec::new();
    if tenants.is_empty() {
        check::check(root, errors);
        pipelines.extend(build_pipeline(&top, &name, &format!("headwater-{name}"), errors, &mut claims));
    }
    for tenant in tenants {
        errors.tenant = Some(tenant.clone());
        let root = tenants::expand(root, &tenant);
        check::check(&root, errors);
        // The file's name too, for two files may have tenants of the same names.
        let id = format!("headwater-{name}-{tenant}");
        pipelines.extend(build_pipeline(&Section::root(&root), &tenant, &id, errors, &mut claims));
    }
    errors.tenant = None;
    claims.check(errors);
    let (http, runtime) = (top.section("http"), top.section("runtime"));
    let config = Config {
        pipelines,
        http: http::build(&http, errors),
        runtime: Runtime {
            shutdown_timeout_ms: runtime.integer("shutdown_timeout_ms"),
            wait_attempts: runtime.integer("wait_attempts"),
            wait_delay_ms: runtime.integer("wait_delay_ms"),
            stall_timeout_ms: runtime.integer("stall_timeout_ms"),
        },
    };
    (!config.pipelines.is_empty()).then_some(config)
}

fn build_pipeline(
    top: &Section,
    name: &str,
    id: &str,
    errors: &mut Collector,
    claims: &mut Claims,
) -> Option<Pipeline> {
    let kafka = kafka::build(&top.section("kafka"), errors);
    claims.begin(name, kafka.as_ref().map_or("", |kafka| &kafka.brokers));
    let capture = capture::build(top, id, errors, claims);
    let captured = capture.as_ref().map_or(&[][..], |capture| &capture.tables);
    let land = land::build(top, id, captured, errors, claims);
    check_short_topic(top, errors);
    let from_catalogue = |land: &model::Land| land.tables.iter().any(|t| matches!(t.schema, LandSchema::Table { .. }));
    let analyze = analyze::build(top, id, errors, claims);
    let dlq = dlq::build(top, id, claims);
    let needs_postgres = capture.is_some() || analyze.is_some() || land.as_ref().is_some_and(from_catalogue);
    let postgres = match top.has("postgres") || needs_postgres {
        true => Some(postgres::build(&top.section("postgres"), errors)?),
        false => None,
    };
    if let (Some(postgres), Some(analyze)) = (&postgres, &analyze) {
        claims.windows_in(postgres, analyze.schema.as_deref());
    }
    if capture.is_none() && land.is_none() && analyze.is_none() && errors.is_empty() {
        let rule = "configures nothing to do: give postgres.table with kafka.topic, capture.tables, land.tables or analyze.jobs";
        errors.add(&Origin::File, "", Problem::Rule(rule.into()));
    }
    Some(Pipeline { name: name.to_owned(), postgres, kafka: kafka?, capture, land, analyze, dlq })
}

fn check_short_topic(top: &Section, errors: &mut Collector) {
    let kafka = top.section("kafka");
    if kafka.has("topic") && !top.section("postgres").has("table") && !top.has("datalake") {
        let rule = "is used by nothing: give postgres.table to fill it, or datalake.path to land it";
        kafka.add(errors, "topic", Problem::Rule(rule.into()));
    }
}

/// The file's name without its extension, with dashes for what a name may not hold.
fn name_of(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = stem.chars().map(allowed).take(64).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "pipeline".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests;
