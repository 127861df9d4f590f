//! `headwater status`.

use super::{
    Status,
    ask::{Address, AskError, ask},
    table::table,
};
use crate::{
    config::{
        self, ConfigErrors, Environment,
        model::{Http, Secret},
    },
    output,
};
use clap::{Args, ValueEnum};
use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

/// What `headwater status` is asked.
#[derive(Debug, Args)]
pub struct Options {
    /// The configuration file, whose http section says where the process answers, and with which token.
    #[arg(short = 'c', long = "config", value_name = "FILE", required_unless_present = "url")]
    config: Option<PathBuf>,
    /// Where the process answers, if not where the file says: http://host:port.
    #[arg(long)]
    url: Option<String>,
    /// File that holds the token, if not that of the configuration.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Ask again and again, each so many seconds (2 where none are given), until a signal.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
    /// How the status is printed: json is the process's own answer, one line each.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Print nothing but errors: for health checks, which want the exit code.
    #[arg(long, conflicts_with = "watch")]
    quiet: bool,
    /// Ask nothing: print where the process answers, which is where its page is.
    #[arg(long, conflicts_with_all = ["watch", "quiet", "format", "token_file"])]
    address: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("{0}")]
    Configuration(#[from] ConfigErrors),
    #[error("--token-file {} cannot be read: {source}", .path.display())]
    TokenFile { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the status cannot be understood ({0}): is the process another version of headwater?")]
    Answer(serde_json::Error),
}

/// Asks and prints; gives whether the process is ready. With `--watch` it does not return while standard
/// output can be written to.
pub async fn run(options: &Options) -> Result<bool, StatusError> {
    let http = match &options.config {
        Some(path) => Some(config::load_http(path, &Environment::of_process())?),
        None => None,
    };
    let address = match (&options.url, &http) {
        (Some(url), _) => Address::of_url(url)?,
        (None, Some(http)) => Address::of(http)?,
        (None, None) => return Err(AskError::Off.into()),
    };
    if options.address {
        output::line(address.url("/"));
        return Ok(true);
    }
    let token = token(options, http.as_ref())?;
    let Some(period) = options.watch.map(Duration::from_secs) else {
        let (ready, text) = look(options, &address, token.as_ref()).await?;
        if !options.quiet {
            output::text(text);
        }
        return Ok(ready);
    };
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ready = false;
    loop {
        ticks.tick().await;
        // A process that is just being started again will answer in a while.
        let text = match look(options, &address, token.as_ref()).await {
            Ok((found, text)) => {
                ready = found;
                text
            }
            Err(error) => format!("{error}\n"),
        };
        if show(&text, options.format).is_err() {
            return Ok(ready);
        }
    }
}

async fn look(options: &Options, address: &Address, token: Option<&Secret>) -> Result<(bool, String), StatusError> {
    let body = ask(address, token).await?;
    let status: Status = serde_json::from_str(&body).map_err(StatusError::Answer)?;
    let text = match options.format {
        Format::Text => table(&status),
        Format::Json => format!("{}\n", body.trim_end()),
    };
    Ok((status.ready, text))
}

/// That of `--token-file`, of the configuration, of the environment.
fn token(options: &Options, http: Option<&Http>) -> Result<Option<Secret>, StatusError> {
    if let Some(path) = &options.token_file {
        let text =
            std::fs::read_to_string(path).map_err(|source| StatusError::TokenFile { path: path.clone(), source })?;
        return Ok(Some(Secret::new(text.trim_end())));
    }
    match http {
        Some(http) => Ok(http.token.clone()),
        None => Ok(Environment::of_process().get("HEADWATER__HTTP__TOKEN").map(Secret::new)),
    }
}

/// Over what was there where it is a terminal, else below it.
fn show(text: &str, format: Format) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() && format == Format::Text {
        // From the top, each line to its end, and nothing below: without the flicker of an empty screen.
        write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))?;
    } else if format == Format::Text {
        writeln!(out, "{text}")?;
    } else {
        write!(out, "{text}")?;
    }
    out.flush()
}
