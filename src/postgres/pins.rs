//! Session settings that do not depend on the server's, the database's or the role's.

use super::{PostgresError, quote_literal};
use std::fmt::Write;
use tokio_postgres::{Client, SimpleQueryMessage, error::SqlState};

/// Given when a session begins; every server of ours knows them. The last one is nobody else's: where it is missing,
/// something between us and the server has dropped what we gave.
const AT_START: [(&str, &str); 9] = [
    ("DateStyle", "ISO"),
    ("IntervalStyle", "iso_8601"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    // Rows that a policy hides are an error, and a policy's functions, which are others', do not run as our role.
    ("row_security", "off"),
    ("headwater.pinned", "on"),
];

/// Set where the server knows them: a session that was given one at its start would be refused by an older server.
const WHERE_KNOWN: [(&str, &str); 2] = [("idle_session_timeout", "0"), ("transaction_timeout", "0")];

/// How often the server looks, while it works for us, whether we are still there. Some systems cannot.
const CHECK_INTERVAL: &str =
    "SELECT set_config(name, '10s', false) FROM pg_settings WHERE name = 'client_connection_check_interval'";

fn free<'a>(pins: &'a [(&str, &str)], options: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let options = options.to_owned();
    pins.iter().copied().filter(move |(name, _)| !options.contains(&format!("-c {name}=")))
}

/// The options of a session; `options`, as `-c name=value`, win.
pub fn startup(options: &str) -> String {
    let pinned = free(&AT_START, options).fold(String::new(), |mut text, (name, value)| {
        let _ = write!(text, "-c {name}={value} ");
        text
    });
    format!("{pinned}{options}")
}

/// `('name', 'value'), …`
fn values<'a>(pins: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> =
        pins.map(|(name, value)| format!("({}, {})", quote_literal(name), quote_literal(value))).collect();
    pairs.join(", ")
}

/// Sets what could not be given at the start, and reads all of it back: the settings that are not in force.
pub async fn apply(client: &Client, options: &str) -> Result<Option<String>, PostgresError> {
    let set = match values(free(&WHERE_KNOWN, options)) {
        pins if pins.is_empty() => String::new(),
        pins => format!(
            "SELECT set_config(name, value, false) FROM (VALUES {pins}) AS pins (name, value) JOIN pg_settings USING (name); "
        ),
    };
    let read = format!(
        "SELECT pins.name AS missing FROM (VALUES {}) AS pins (name, value)
         WHERE split_part(coalesce(current_setting(pins.name, true), ''), ',', 1) <> pins.value",
        values(free(&AT_START, options))
    );
    let missing: Vec<String> = texts(client, &format!("{set}{read}"), "missing").await?;
    match client.simple_query(CHECK_INTERVAL).await {
        Err(error) if error.code() != Some(&SqlState::INVALID_PARAMETER_VALUE) => return Err(error.into()),
        _ => {}
    }
    Ok(if missing.is_empty() { None } else { Some(missing.join(", ")) })
}

/// What a pooler's console calls itself.
pub async fn version(console: &Client) -> Option<String> {
    texts(console, "SHOW VERSION", "version").await.ok()?.pop()
}

/// The values of column `name`, of whichever statement has it.
async fn texts(client: &Client, statements: &str, name: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let messages = client.simple_query(statements).await?;
    let of = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.try_get(name).ok().flatten().map(str::to_owned),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_wins_over_what_is_pinned() {
        let options = startup("-c statement_timeout=5s -c idle_session_timeout=7s");
        assert_eq!(options.matches("statement_timeout=").count(), 1, "{options}");
        assert!(options.contains("-c row_security=off") && options.contains("-c statement_timeout=5s"), "{options}");
        let left: Vec<&str> = free(&WHERE_KNOWN, "-c idle_session_timeout=7s").map(|(name, _)| name).collect();
        assert_eq!(left, ["transaction_timeout"]);
    }
}
