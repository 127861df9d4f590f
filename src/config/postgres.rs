//! The `postgres` section: its keys and its JDBC URL must say the same.

use super::{
    error::{Collector, Problem},
    jdbc::{self, JdbcUrl},
    model::{Postgres, Secret, TlsMode},
    section::Section,
};

/// `None` where something required is missing or wrong, which has then been reported.
pub fn build(postgres: &Section, errors: &mut Collector) -> Option<Postgres> {
    let url = match postgres.text("jdbc_url") {
        Some(url) => jdbc::parse(&url).ok()?,
        None => JdbcUrl::default(),
    };
    // What a URL that cannot be read would have said is not to be called missing.
    let is_wrong = postgres.has("jdbc_url") && postgres.text("jdbc_url").is_none();
    if is_wrong || errors.is_excused(&postgres.path_of("jdbc_url")) {
        for name in ["host", "db", "user"] {
            errors.excuse(&postgres.path_of(name));
        }
    }
    // A URL that names no host means this machine, as with the driver.
    let default_host = postgres.has("jdbc_url").then(|| "localhost".to_owned());
    let host = agree(postgres, "host", url.host, errors).or(default_host);
    let port = agree(postgres, "port", url.port, errors).and_then(|port| port.parse().ok());
    let db = agree(postgres, "db", url.db, errors);
    let user = agree(postgres, "user", url.user, errors);
    let file_password = postgres.secret("password", errors);
    let password = agree_on(postgres, password_key(postgres), file_password, url.password, errors);
    let tls_mode = agree(postgres, "tls_mode", url.tls_mode.map(str::to_owned), errors);
    let tls_mode = tls_mode.or_else(|| postgres.choice("tls_mode").map(str::to_owned)).unwrap_or_default();
    let tls_mode = tls_mode_of(&tls_mode);
    let tls_ca_file = agree(postgres, "tls_ca_file", url.tls_ca_file.clone(), errors);
    check_tls(postgres, tls_mode, tls_ca_file.as_deref(), url.tls_ca_file.is_some(), errors);
    for (name, value) in [("host", &host), ("db", &db), ("user", &user)] {
        if value.is_none() {
            postgres.missing(errors, name, &format!("give it, or postgres.jdbc_url with {}", in_url(name)));
        }
    }
    Some(Postgres {
        host: host?,
        port: port.unwrap_or_else(|| postgres.integer("port")),
        db: db?,
        user: user?,
        password: password.map(Secret::new),
        tls_mode,
        tls_ca_file: tls_ca_file.map(Into::into),
        connect_timeout_ms: postgres.integer("connect_timeout_ms"),
    })
}

fn in_url(name: &str) -> &'static str {
    match name {
        "user" => "?user=..",
        "db" => "a database",
        _ => "a host",
    }
}

fn password_key(postgres: &Section) -> &'static str {
    if postgres.has("password_file") { "password_file" } else { "password" }
}

/// The value of `name` or of its part in the URL.
fn agree(postgres: &Section, name: &str, in_url: Option<String>, errors: &mut Collector) -> Option<String> {
    let given = if postgres.has(name) { postgres.text(name) } else { None };
    // Compared as they are meant: capitals of a choice, spaces around a number.
    let given = match name {
        "port" if given.is_some() => Some(postgres.integer::<u16>(name).to_string()),
        "tls_mode" if given.is_some() => postgres.choice(name).map(str::to_owned),
        _ => given,
    };
    let in_url = match (name, in_url) {
        ("port", Some(port)) => port.parse::<u16>().ok().map(|port| port.to_string()),
        (_, in_url) => in_url,
    };
    agree_on(postgres, name, given, in_url, errors)
}

/// Two values that differ are an error, unless only one of them is an override of the environment:
/// that one is then meant.
fn agree_on(
    postgres: &Section,
    name: &str,
    given: Option<String>,
    in_url: Option<String>,
    errors: &mut Collector,
) -> Option<String> {
    let (Some(given), Some(in_url)) = (&given, &in_url) else { return given.or(in_url) };
    if given == in_url {
        return Some(given.clone());
    }
    match (postgres.is_override(name), postgres.is_override("jdbc_url")) {
        (true, false) => Some(given.clone()),
        (false, true) => Some(in_url.clone()),
        _ => {
            postgres.add(errors, name, Problem::Disagrees { other: postgres.path_of("jdbc_url") });
            Some(given.clone())
        }
    }
}

fn check_tls(postgres: &Section, mode: TlsMode, ca_file: Option<&str>, in_url: bool, errors: &mut Collector) {
    let Some(ca_file) = ca_file else { return };
    let key = if in_url && !postgres.has("tls_ca_file") { "jdbc_url" } else { "tls_ca_file" };
    if mode != TlsMode::VerifyFull {
        let rule = "names authorities, but postgres.tls_mode is not verify-full, so that no certificate is checked";
        postgres.add(errors, key, Problem::Rule(rule.into()));
    } else if let Err(error) = std::fs::File::open(ca_file) {
        postgres.add_value(errors, key, Problem::File(error), ca_file);
    }
}

fn tls_mode_of(name: &str) -> TlsMode {
    match name {
        "disable" => TlsMode::Disable,
        "require" => TlsMode::Require,
        "verify-full" => TlsMode::VerifyFull,
        _ => TlsMode::Prefer,
    }
}
