//! What to type: at the end of each command's `--help` and man page.

use super::arguments::Cli;
use clap::CommandFactory;

/// By command, without the program's name; a line each, with what it does behind a `#`.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "run",
        &[
            "run -c orders.yml                       # until a signal drains it",
            "run -c orders.yml --until-caught-up     # to the end of what is there, with a summary",
        ],
    ),
    ("capture", &["capture -c orders.yml", "capture -c orders.yml --resync              # publishes every row again"]),
    (
        "land",
        &["land -c chat.yml", "land -c chat.yml --accept-loss chat/0@100-150   # goes on where the topic lost records"],
    ),
    ("analyze", &["analyze -c chat.yml", "analyze -c chat.yml --until-caught-up"]),
    (
        "validate",
        &[
            "validate -c orders.yml",
            "validate -c orders.yml --show           # every key, with what it comes to",
            "validate --schema > headwater.json      # for an editor",
        ],
    ),
    (
        "doctor",
        &["doctor -c orders.yml", "doctor -c orders.yml --strict --format json    # for a program: warnings fail, too"],
    ),
    (
        "topics",
        &["topics -c orders.yml --dry-run          # what is there, and what would be created", "topics -c orders.yml"],
    ),
    (
        "status",
        &[
            "status -c orders.yml",
            "status -c orders.yml --watch            # again and again",
            "status -c orders.yml --quiet            # the exit code alone: a health check",
        ],
    ),
    (
        "verify",
        &["verify -c orders.yml", "verify -c orders.yml --strict --list 100    # when the stages have caught up"],
    ),
    ("compact", &["compact -c orders.yml --dry-run", "compact -c orders.yml --older-than-days 2"]),
    ("expire", &["expire -c orders.yml --older-than-days 365 --dry-run", "expire -c orders.yml --older-than-days 365"]),
    ("backup", &["backup -c orders.yml --to /backup/orders", "backup -c orders.yml --to /backup/orders --with-data"]),
    (
        "restore",
        &[
            "restore -c orders.yml --from /backup/orders --dry-run    # what is lost",
            "restore -c orders.yml --from /backup/orders",
        ],
    ),
    (
        "reset",
        &[
            "reset -c chat.yml --dry-run             # which windows would be written again",
            "reset -c chat.yml --job chat --from 2025-01-15",
        ],
    ),
    (
        "anomalies",
        &[
            "anomalies --backtest series.csv --plot series.svg",
            "anomalies --backtest series.csv --detector quantile --format json",
        ],
    ),
    ("dlq list", &["dlq list -c orders.yml", "dlq list -c orders.yml --since 1h --by topic,reason"]),
    ("dlq show", &["dlq show -c orders.yml orders/0/1234", "dlq show -c orders.yml orders/0/1234 --raw > payload.bin"]),
    (
        "dlq replay",
        &[
            "dlq replay -c orders.yml --reason null_key --dry-run     # what would be sent",
            "dlq replay -c orders.yml --where 'day>=2025-01-15 and payload.amount<0' --to orders.repair",
        ],
    ),
    (
        "dlq export",
        &[
            "dlq export -c orders.yml --to dead.parquet",
            "dlq export -c orders.yml --to - --reason null_key        # JSON lines on stdout",
        ],
    ),
    (
        "generate orders",
        &[
            "generate orders -c orders.yml --rate 100",
            "generate orders --url postgres://me@localhost/shop --bulk 1000000",
        ],
    ),
    (
        "generate chat",
        &["generate chat -c chat.yml --rate 1000", "generate chat --brokers localhost:9092 --seconds 60 --spikes 2"],
    ),
    (
        "demo",
        &[
            "demo",
            "demo --only chat --seconds 25",
            "demo --keep                             # leaves the servers running",
        ],
    ),
    ("completions", &["completions bash > /etc/bash_completion.d/headwater", "completions zsh > ~/.zfunc/_headwater"]),
    ("man", &["man /usr/local/share/man/man1"]),
];

/// The definitions of the command line with the examples in their place.
pub fn command() -> clap::Command {
    with_examples(Cli::command(), "")
}

fn with_examples(command: clap::Command, path: &str) -> clap::Command {
    let command = command.mut_subcommands(|part| {
        let path = format!("{path} {}", part.get_name());
        with_examples(part, path.trim_start())
    });
    let Some((_, lines)) = EXAMPLES.iter().find(|(of, _)| *of == path) else { return command };
    let lines: String = lines.iter().map(|line| format!("\n  headwater {line}")).collect();
    let further = command.get_after_help().map(|text| format!("\n\n{text}")).unwrap_or_default();
    command.after_long_help(format!("Examples:{lines}{further}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The words of a line as a shell hands them over, without redirection and comment.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" #").next().unwrap().split(" > ").next().unwrap();
        let quoted = line.split('\'').enumerate();
        let words = quoted.flat_map(|(n, part)| match n % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        });
        ["headwater".to_owned()].into_iter().chain(words).collect()
    }

    fn check(command: &clap::Command, path: &str, known: &mut BTreeSet<String>) {
        let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
        assert!(about.len() > 20, "{path} says what it does: {about:?}");
        for argument in command.get_arguments().filter(|it| !it.is_hide_set()) {
            assert!(argument.get_help().is_some(), "{path}: {} says what it is", argument.get_id());
        }
        for part in command.get_subcommands().filter(|part| !part.is_hide_set()) {
            check(part, format!("{path} {}", part.get_name()).trim_start(), known);
        }
        if command.has_subcommands() {
            return;
        }
        let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  headwater ")).collect();
        assert!(!examples.is_empty(), "{path} shows what to type");
        for example in examples {
            assert!(
                example.split_whitespace().zip(path.split(' ')).all(|(word, name)| word == name),
                "{path}: {example}"
            );
            if let Err(error) = super::command().try_get_matches_from(words(example)) {
                panic!("{example}: {error}");
            }
        }
        known.insert(path.to_owned());
    }

    #[test]
    fn every_command_shows_what_to_type_and_that_is_right() {
        let mut known = BTreeSet::new();
        check(&command(), "", &mut known);
        let unknown: Vec<_> = EXAMPLES.iter().filter(|(path, _)| !known.contains(*path)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
