//! What each command takes: the definitions from which help, completions and man pages are made.

use crate::{analyze, app::exit, demo, dlq, generate, keep, status};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Carries PostgreSQL rows through Kafka into a date-partitioned lake, each row version once.
///
/// One file configures everything. A first one:
///
///   postgres:  {host: localhost, db: shop, user: reader, password_file: /run/secrets/pg, table: orders}
///   kafka:     {brokers: "localhost:9092", topic: orders}
///   datalake:  {path: ./lake/orders, format: parquet}
///   streaming: {checkpoint_location: ./lake/checkpoints, batch_interval: 5}
///
/// Check it with `headwater validate -c FILE`, run it with `headwater run -c FILE`.
#[derive(Parser)]
#[command(version, verbatim_doc_comment, arg_required_else_help = true, after_help = exit_codes())]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// How log lines on stderr look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, display_order = 1_000)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as `headwater::land=debug`.
    /// The variable HEADWATER_LOG sets it too.
    #[arg(long, global = true, default_value_t = std::env::var("HEADWATER_LOG").unwrap_or("info".to_owned()), hide_default_value = true, display_order = 1_001)]
    pub log: String,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run every stage that the file configures, until a signal drains them.
    Run(StageArgs),
    /// Run only the capture stage: PostgreSQL tables to Kafka topics.
    Capture(StageArgs),
    /// Run only the land stage: Kafka topics to Parquet tables.
    Land(StageArgs),
    /// Run only the analyze stage: Kafka topics to windows and moments in PostgreSQL.
    Analyze(StageArgs),
    /// Check a configuration: every error at once, exit code 78 if there is one.
    Validate(ValidateArgs),
    /// Look at everything a configuration needs (PostgreSQL, Kafka, lake) and say what cures what is wrong.
    ///
    /// For each thing one line: ok, warning, failure or not checked, with the statement to run or the key to set.
    /// Changes nothing and disturbs nothing: run it at any time, beside the pipeline too. Exit code 1 on a failure,
    /// 78 when the configuration is wrong.
    Doctor(DoctorArgs),
    /// Create the topics a configuration needs, where they are missing.
    ///
    /// Shows first what there is. A topic that exists is never changed: how it differs from the configuration is
    /// told, with the command that would change it. Creates them also where kafka.create_topics is false, which
    /// forbids it to the stages only. Waits for Kafka as the stages do.
    Topics(TopicsArgs),
    /// Show what a running process is doing: rate, delay, lag, last commit and error of each table.
    ///
    /// Asks the process's own /status. Exit code 0 only when it answers and is ready, so that
    /// `headwater status -c FILE --quiet` is a health check.
    Status(status::Options),
    /// Reconcile source, topic and lake row by row, independently of the pipeline's own state.
    ///
    /// Exit code 1 when a row is lost, duplicated or different. Reads every row of all three sides.
    Verify(VerifyArgs),
    /// Merge small files of closed dates, beside a landing that goes on.
    ///
    /// The same rows, in the same order, in fewer files. Row count and content of the new file are compared with
    /// those of the old ones before these go. The files of a date are exchanged at once: readers see all of the
    /// old ones or all of the new ones; one that had listed the old ones and opens them later has to list again.
    /// A kill at any moment loses nothing; the next compact, expire or land finishes it. Prints its plan first.
    Compact(CompactArgs),
    /// Drop dates of the lake, and rows of analyze's tables, that are older than so many days.
    ///
    /// Works beside running stages. What is dropped does not land again, and `verify` counts it as expired.
    /// Today always stays. Prints its plan first.
    Expire(ExpireArgs),
    /// Write a backup of everything by which a pipeline goes on, beside the running stages.
    ///
    /// Ledgers with the list of their files, checkpoints of capture, tables of analyze, which dead letters were
    /// replayed; with --with-data the data files of the lake, too. Kafka's topics are not in it: with them there, restore loses nothing and doubles
    /// nothing. For the day on which they are lost as well, stop the stages when they have caught up, then back up.
    Backup(BackupArgs),
    /// Put back from a backup what was lost, and say what is missing.
    ///
    /// What is there is left as it is, unless --force. A lake whose files are gone and not in the backup is landed
    /// again from what Kafka still holds; what it no longer holds is listed by offsets. What dlq replay had sent by the
    /// time of the backup is not sent again; what it sent after is, where Kafka has lost the record of it. Stop the
    /// stages before.
    Restore(RestoreArgs),
    /// Let a job of analyze begin anew at the start of its topics, and damage nothing that it wrote before.
    ///
    /// Windows of which the topics no longer hold every record stay as they are, and late events are counted once.
    /// Needed where a job is declared otherwise than its windows under way. Stop every instance of the job first; the
    /// next start reads the topics again, and replaces each window when it is final. What the topics hold is reckoned
    /// from the first events that are left, and an hour for records out of order. --dry-run changes nothing.
    Reset(ResetArgs),
    /// Try an anomaly detector on a series of your own, to choose a threshold.
    ///
    /// Prints the moments it finds and how many there are at other thresholds; --plot draws them.
    Anomalies(AnomaliesArgs),
    /// Records that were refused: how many and why, one whole, back onto a topic, out into a file.
    #[command(subcommand)]
    Dlq(Box<DlqCommand>),
    /// Write realistic data to try things with.
    #[command(subcommand)]
    Generate(Box<GenerateCommand>),
    /// Show the whole pipeline on a private PostgreSQL and Apache Kafka, killed once, then verified.
    Demo(demo::Options),
    /// Print the completions of a shell: bash, zsh, fish, elvish, powershell.
    ///
    /// For bash: headwater completions bash > /etc/bash_completion.d/headwater
    #[command(verbatim_doc_comment)]
    Completions {
        /// The shell that reads them.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the man pages, headwater(1) and one for each command, into a directory.
    Man {
        /// Made where it is missing.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print the README's reference of keys, metrics, reasons and exit codes, made from the code.
    #[command(hide = true)]
    Reference,
}

#[derive(Subcommand)]
pub enum GenerateCommand {
    /// Food orders into a table made by db/source/orders.sql.
    Orders(generate::Options),
    /// A streaming platform's chat and viewer counts into Kafka, with planted spikes, drops and emote storms.
    Chat(ChatArgs),
}

#[derive(Subcommand)]
pub enum DlqCommand {
    /// Count the dead letters, by stage, topic, day and reason.
    ///
    /// Reads the files of land and the table of analyze; from Kafka which of them were replayed, and, where the
    /// file captures, which rows were too large to publish (reason row_too_large, in capture.dead_letter_topic for
    /// as long as the topic keeps them). Where Kafka is away, it says so and tells the rest.
    #[command(after_help = dlq::filter::columns_help())]
    List(DlqArgs<dlq::list::Options>),
    /// Show one record whole: reason, times, key, headers and payload.
    Show(DlqArgs<dlq::show::Options>),
    /// Send dead letters again: exact payload, key and headers, each once, even if killed in the middle.
    ///
    /// Messages and the record of which they are stand in one Kafka transaction: readers of committed messages
    /// (isolation.level=read_committed) see each once, however often this is run. A run with another filter, or to
    /// another topic, does not send again what one before has sent; --again NAME does. It is safe to interrupt it.
    /// Rows that were too large to publish are in no letter and are not sent: raise capture.max_row_bytes and write
    /// them again.
    ///
    /// On its own topic a record is read like any new one: land files it, analyze counts it by its event time,
    /// and where it is still wrong it becomes a new dead letter, of another offset. Its timestamp in Kafka is the
    /// time of the replay. Without --keep-partition it goes to the partition of its key, as Java's clients choose
    /// it; one without a key to any.
    ///
    /// On a Kafka with rules (ACLs) the user needs Describe, Read and Write of the topic dlq.replay_topic, and
    /// Create until it is there; Describe and Write of the transactional id dlq.transactional_id; Describe and
    /// Write of each topic that is sent to. One that is missing is told with the line that gives it.
    #[command(after_help = dlq::filter::columns_help())]
    Replay(DlqArgs<dlq::replay::Options>),
    /// Write dead letters to a file, whole: a JSON object a line, or Parquet.
    ///
    /// In JSON, bytes that are UTF-8 are text (payload, key), others base64 (payload_base64, key_base64).
    #[command(after_help = dlq::filter::columns_help())]
    Export(DlqArgs<dlq::export::Options>),
}

#[derive(Args)]
pub struct DlqArgs<O: Args> {
    #[command(flatten)]
    pub file: FileArg,
    #[command(flatten)]
    pub options: O,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub options: generate::chat::Options,
    /// How the summary is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Args)]
pub struct AnomaliesArgs {
    #[command(flatten)]
    pub options: analyze::anomaly::backtest::Options,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Args)]
pub struct StageArgs {
    #[command(flatten)]
    pub file: FileArg,
    /// End when the tables are captured, the topics landed and all windows final, and print a summary.
    #[arg(long)]
    pub until_caught_up: bool,
    /// How the summary is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Capture: forget the checkpoint and publish every row again.
    #[arg(long, conflicts_with = "from_now")]
    pub resync: bool,
    /// Capture: forget the checkpoint and publish only what is written from now on.
    #[arg(long)]
    pub from_now: bool,
    /// Land and analyze: go on where records were lost (topic made again, retention passed the position, brokers lost
    /// the end of a log). Takes the names of the losses, as the error and doctor say them; each is good once.
    #[arg(long, value_name = "LOSS", value_delimiter = ',')]
    pub accept_loss: Vec<String>,
}

#[derive(Args)]
pub struct FileArg {
    /// The configuration file.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: PathBuf,
}

#[derive(Args)]
pub struct ValidateArgs {
    /// The configuration file.
    #[arg(short = 'c', long = "config", value_name = "FILE", required_unless_present = "schema")]
    pub config: Option<PathBuf>,
    /// Print the resolved configuration, secrets masked.
    #[arg(long)]
    pub show: bool,
    /// Print the JSON Schema of configuration files, for editors.
    #[arg(long, conflicts_with_all = ["config", "show"])]
    pub schema: bool,
}

#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub file: FileArg,
    /// Try again while PostgreSQL or Kafka is away: runtime.wait_attempts times.
    #[arg(long)]
    pub wait: bool,
    /// Count warnings as failures.
    #[arg(long)]
    pub strict: bool,
    /// Tell transactions that have been open for longer: capture reads again what was written since they began.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub long_transaction: u32,
    /// How the findings are printed: with `json` a list of {pipeline, section, check, subject, outcome, message, cure}.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Args)]
pub struct TopicsArgs {
    #[command(flatten)]
    pub file: FileArg,
    /// Only show what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// How the topics are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub file: FileArg,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Count rows that are still under way as lost.
    #[arg(long)]
    pub strict: bool,
    /// How many differences of each kind are listed.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub list: usize,
    /// Where rows are sorted when they do not fit into memory.
    #[arg(long, value_name = "DIR")]
    pub temp_dir: Option<PathBuf>,
}

#[derive(Args)]
pub struct CompactArgs {
    #[command(flatten)]
    pub file: FileArg,
    #[command(flatten)]
    pub options: keep::compact::Options,
    /// How the plan and the summary are printed; as JSON, a line for each pipeline with the summary.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Args)]
pub struct BackupArgs {
    #[command(flatten)]
    pub file: FileArg,
    #[command(flatten)]
    pub options: keep::backup::Options,
    /// How the summary is printed; as JSON, a line for each pipeline.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub file: FileArg,
    #[command(flatten)]
    pub options: keep::restore::Options,
    /// How the plan and the summary are printed; as JSON, a line for each pipeline with the summary.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Args)]
pub struct ResetArgs {
    #[command(flatten)]
    pub file: FileArg,
    #[command(flatten)]
    pub options: analyze::reset::Options,
    /// How the result is printed; as JSON, a line for each job.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Args)]
pub struct ExpireArgs {
    #[command(flatten)]
    pub file: FileArg,
    #[command(flatten)]
    pub options: keep::expire::Options,
    /// How the plan and the summary are printed; as JSON, a line for each pipeline with the summary.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

fn exit_codes() -> String {
    let lines: Vec<String> = exit::ALL.iter().map(|(code, meaning)| format!("  {code:<4} {meaning}")).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}
