//! The command line: what each command takes and prints. The work is done elsewhere.

use crate::{
    analyze,
    app::{self, exit},
    capture,
    config::{self, model::Config},
    demo, dlq, doctor,
    generate::{self, GenerateError},
    kafka,
    keep::{self, KeepError},
    land, metrics, record,
    status::{self, StatusError},
    topics, verify,
};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use std::{
    fmt::Display,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;

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
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines on stderr look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, display_order = 1_000)]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as `headwater::land=debug`.
    /// The variable HEADWATER_LOG sets it too.
    #[arg(long, global = true, default_value_t = std::env::var("HEADWATER_LOG").unwrap_or("info".to_owned()), hide_default_value = true, display_order = 1_001)]
    log: String,
}

#[derive(Subcommand)]
enum Command {
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
    /// Ledgers with the list of their files, checkpoints of capture, tables of analyze; with --with-data the data
    /// files of the lake, too. Kafka's topics are not in it: with them there, restore loses nothing and doubles
    /// nothing. For the day on which they are lost as well, stop the stages when they have caught up, then back up.
    Backup(BackupArgs),
    /// Put back from a backup what was lost, and say what is missing.
    ///
    /// What is there is left as it is, unless --force. A lake whose files are gone and not in the backup is landed
    /// again from what Kafka still holds; what it no longer holds is listed by offsets. Stop the stages before.
    Restore(RestoreArgs),
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
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the man pages, headwater(1) and one for each command, into a directory.
    Man {
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print the README's reference of keys, metrics, reasons and exit codes, made from the code.
    #[command(hide = true)]
    Reference,
}

#[derive(Subcommand)]
enum GenerateCommand {
    /// Food orders into a table made by db/source/orders.sql.
    Orders(generate::Options),
    /// A streaming platform's chat and viewer counts into Kafka, with planted spikes, drops and emote storms.
    Chat(ChatArgs),
}

#[derive(Subcommand)]
enum DlqCommand {
    /// Count the dead letters of land and analyze, by stage, topic, day and reason.
    ///
    /// Reads the files and tables of every stage that the file configures; Kafka only for which of them were
    /// replayed. Rows that capture found too large to publish are in the topic capture.dead_letter_topic, without
    /// their content, and do not count here.
    #[command(after_help = dlq::filter::columns_help())]
    List(DlqArgs<dlq::list::Options>),
    /// Show one record whole: reason, times, key, headers and payload.
    Show(DlqArgs<dlq::show::Options>),
    /// Send dead letters again: exact payload, key and headers, each once, even if killed in the middle.
    ///
    /// Messages and the record of which they are stand in one Kafka transaction: readers of committed messages
    /// (isolation.level=read_committed) see each once, however often this is run. A run with another filter, or to
    /// another topic, does not send again what one before has sent; --again NAME does. It is safe to interrupt it.
    ///
    /// On its own topic a record is read like any new one: land files it, analyze counts it by its event time,
    /// and where it is still wrong it becomes a new dead letter, of another offset. Its timestamp in Kafka is the
    /// time of the replay. Without --keep-partition it goes to the partition of its key, as Java's clients choose
    /// it; one without a key to any.
    #[command(after_help = dlq::filter::columns_help())]
    Replay(DlqArgs<dlq::replay::Options>),
    /// Write dead letters to a file, whole: a JSON object a line, or Parquet.
    ///
    /// In JSON, bytes that are UTF-8 are text (payload, key), others base64 (payload_base64, key_base64).
    #[command(after_help = dlq::filter::columns_help())]
    Export(DlqArgs<dlq::export::Options>),
}

#[derive(Args)]
struct DlqArgs<O: Args> {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    options: O,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct ChatArgs {
    #[command(flatten)]
    options: generate::chat::Options,
    /// How the summary is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct AnomaliesArgs {
    #[command(flatten)]
    options: analyze::anomaly::backtest::Options,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct StageArgs {
    #[command(flatten)]
    file: FileArg,
    /// End when the tables are captured, the topics landed and all windows final, and print a summary.
    #[arg(long)]
    until_caught_up: bool,
    /// How the summary is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Capture: forget the checkpoint and publish every row again.
    #[arg(long, conflicts_with = "from_now")]
    resync: bool,
    /// Capture: forget the checkpoint and publish only what is written from now on.
    #[arg(long)]
    from_now: bool,
    /// Land and analyze: go on where records were lost (topic made again, retention passed the position).
    #[arg(long)]
    accept_loss: bool,
}

#[derive(Args)]
struct FileArg {
    /// The configuration file.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args)]
struct ValidateArgs {
    /// The configuration file.
    #[arg(short = 'c', long = "config", value_name = "FILE", required_unless_present = "schema")]
    config: Option<PathBuf>,
    /// Print the resolved configuration, secrets masked.
    #[arg(long)]
    show: bool,
    /// Print the JSON Schema of configuration files, for editors.
    #[arg(long, conflicts_with_all = ["config", "show"])]
    schema: bool,
}

#[derive(Args)]
struct DoctorArgs {
    #[command(flatten)]
    file: FileArg,
    /// Try again while PostgreSQL or Kafka is away: runtime.wait_attempts times.
    #[arg(long)]
    wait: bool,
    /// Count warnings as failures.
    #[arg(long)]
    strict: bool,
    /// Tell transactions that have been open for longer: capture reads again what was written since they began.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    long_transaction: u32,
    /// How the findings are printed: with `json` a list of {pipeline, section, check, subject, outcome, message, cure}.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct TopicsArgs {
    #[command(flatten)]
    file: FileArg,
    /// Only show what would be done.
    #[arg(long)]
    dry_run: bool,
    /// How the topics are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct VerifyArgs {
    #[command(flatten)]
    file: FileArg,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Count rows that are still under way as lost.
    #[arg(long)]
    strict: bool,
    /// How many differences of each kind are listed.
    #[arg(long, default_value_t = 20, value_name = "N")]
    list: usize,
    /// Where rows are sorted when they do not fit into memory.
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,
}

#[derive(Args)]
struct CompactArgs {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    options: keep::compact::Options,
    /// How the plan and the summary are printed; as JSON, a line for each pipeline with the summary.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct BackupArgs {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    options: keep::backup::Options,
    /// How the summary is printed; as JSON, a line for each pipeline.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct RestoreArgs {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    options: keep::restore::Options,
    /// How the plan and the summary are printed; as JSON, a line for each pipeline with the summary.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct ExpireArgs {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    options: keep::expire::Options,
    /// How the plan and the summary are printed; as JSON, a line for each pipeline with the summary.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn exit_codes() -> String {
    let lines: Vec<String> = exit::ALL.iter().map(|(code, meaning)| format!("  {code:<4} {meaning}")).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}

/// Parses the arguments, runs the command and gives its exit code.
pub fn main() -> ExitCode {
    tune_allocator();
    let cli = Cli::parse();
    if let Err(reason) = start_logging(&cli.log, cli.log_format) {
        eprintln!("--log {}: {reason}", cli.log);
        return ExitCode::from(exit::USAGE);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = runtime.block_on(dispatch(cli.command));
    // Blocking client calls may still be under way; leaving is always safe, waiting is not useful.
    runtime.shutdown_background();
    code
}

/// Holds glibc's allocator to two arenas, and lets it give large blocks back.
///
/// Messages are allocated on one thread and freed on the client's; with the default of eight arenas a
/// core that doubled capture's CPU (ARCHITECTURE.md, Decisions). Without fixed thresholds glibc raises
/// its own with every large block that is freed, and keeps what a landing's batches have given back.
fn tune_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: settings of the allocator, made before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
    }
}

fn start_logging(filter: &str, format: LogFormat) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

async fn dispatch(command: Command) -> ExitCode {
    match command {
        Command::Run(args) => run_stages(args, Stages { capture: true, land: true, analyze: true }).await,
        Command::Capture(args) => run_stages(args, Stages { capture: true, ..Stages::default() }).await,
        Command::Land(args) => run_stages(args, Stages { land: true, ..Stages::default() }).await,
        Command::Analyze(args) => run_stages(args, Stages { analyze: true, ..Stages::default() }).await,
        Command::Validate(args) => validate(&args),
        Command::Doctor(args) => run_doctor(&args).await,
        Command::Topics(args) => run_topics(&args).await,
        Command::Status(options) => run_status(&options).await,
        Command::Verify(args) => run_verify(args).await,
        Command::Compact(args) => compact(args).await,
        Command::Expire(args) => expire(args).await,
        Command::Backup(args) => backup(args).await,
        Command::Restore(args) => restore(args).await,
        Command::Generate(command) => match *command {
            GenerateCommand::Orders(options) => generated(generate::orders(options).await, Format::Text),
            GenerateCommand::Chat(args) => generated(generate::chat::chat(args.options).await, args.format),
        },
        Command::Anomalies(args) => match analyze::anomaly::backtest::run(&args.options) {
            Ok(report) => {
                print_result(&report, args.format);
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error),
        },
        Command::Dlq(command) => run_dlq(*command).await,
        Command::Demo(options) => demo::run(options).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "headwater", &mut script);
            print_bytes(&script)
        }
        Command::Man { directory } => {
            // Its own error does not say of what it speaks.
            let written = std::fs::create_dir_all(&directory)
                .and_then(|()| clap_mangen::generate_to(Cli::command().name("headwater"), &directory));
            match written {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("headwater: the man pages cannot be written into {}: {error}", directory.display());
                    ExitCode::from(exit::FAILED)
                }
            }
        }
        Command::Reference => {
            print!("{}", reference_markdown());
            ExitCode::SUCCESS
        }
    }
}

/// Those that a command runs, where the file configures them.
#[derive(Default)]
struct Stages {
    capture: bool,
    land: bool,
    analyze: bool,
}

async fn run_stages(args: StageArgs, stages: Stages) -> ExitCode {
    let config = match load(&args.file.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let options = app::Options {
        capture: stages.capture,
        land: stages.land,
        analyze: stages.analyze,
        until_caught_up: args.until_caught_up,
        progress_bar: std::io::stderr().is_terminal(),
        capture_options: capture::Options { resync: args.resync, from_now: args.from_now },
        land_options: land::Options { accept_loss: args.accept_loss },
        analyze_options: analyze::Options { accept_loss: args.accept_loss },
    };
    match app::run(config, options).await {
        Ok(report) => {
            print_result(&report, args.format);
            ExitCode::from(report.exit_code())
        }
        Err(error) => failed(&error),
    }
}

fn validate(args: &ValidateArgs) -> ExitCode {
    let Some(path) = &args.config else {
        println!("{:#}", config::json_schema());
        return ExitCode::SUCCESS;
    };
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if args.show {
        print!("{}", config::show(&config));
    } else {
        let tables = |count: usize| if count == 1 { "1 table".to_owned() } else { format!("{count} tables") };
        for pipeline in &config.pipelines {
            let captured = pipeline.capture.as_ref().map_or(0, |capture| capture.tables.len());
            let landed = pipeline.land.as_ref().map_or(0, |land| land.tables.len());
            let jobs = pipeline.analyze.as_ref().map_or(0, |analyze| analyze.jobs.len());
            let analyzes = if jobs == 0 {
                String::new()
            } else {
                format!(", analyzes {jobs} job{}", if jobs == 1 { "" } else { "s" })
            };
            println!("pipeline {}: captures {}, lands {}{analyzes}", pipeline.name, tables(captured), tables(landed));
        }
    }
    ExitCode::SUCCESS
}

async fn run_doctor(args: &DoctorArgs) -> ExitCode {
    let options = doctor::Options { wait: args.wait, long_transaction_seconds: args.long_transaction };
    let report = doctor::run(&args.file.config, options).await;
    match args.format {
        // A pipe, and whoever does not want them, gets no colours.
        Format::Text => {
            let is_coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            println!("{}", report.text(is_coloured));
        }
        Format::Json => print_json(&report),
    }
    ExitCode::from(report.exit_code(args.strict))
}

async fn run_topics(args: &TopicsArgs) -> ExitCode {
    let config = match load(&args.file.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let ended = |error: &kafka::admin::AdminError| {
        eprintln!("headwater: {error}");
        ExitCode::from(if error.is_unavailable() { exit::UNAVAILABLE } else { exit::FAILED })
    };
    let mut report = match topics::look(&config).await {
        Ok(report) => report,
        Err(error) => return ended(&error),
    };
    if !args.dry_run && report.has_missing() {
        if let Format::Text = args.format {
            println!("{report}\n");
        }
        if let Err(error) = topics::create(&config, &mut report).await {
            return ended(&error);
        }
    }
    print_result(&report, args.format);
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
}

async fn run_status(options: &status::Options) -> ExitCode {
    match status::run(options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(exit::FAILED),
        Err(StatusError::Configuration(errors)) => {
            eprintln!("{errors}");
            ExitCode::from(exit::CONFIGURATION)
        }
        Err(error) => failed(&error),
    }
}

async fn run_verify(args: VerifyArgs) -> ExitCode {
    let config = match load(&args.file.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut all_equal = true;
    for pipeline in &config.pipelines {
        let options = verify::Options {
            progress_bar: std::io::stderr().is_terminal(),
            list_limit: args.list,
            temp_dir: args.temp_dir.clone(),
            strict: args.strict,
            ..verify::Options::default()
        };
        match verify::run(pipeline, options).await {
            Ok(report) => {
                all_equal &= report.ok;
                print_result(&report, args.format);
            }
            Err(error) if error.is_unavailable() => {
                eprintln!("headwater: {error}");
                return ExitCode::from(exit::UNAVAILABLE);
            }
            Err(error) => return failed(&error),
        }
    }
    if all_equal { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
}

async fn run_dlq(command: DlqCommand) -> ExitCode {
    match command {
        DlqCommand::List(args) => match load(&args.file.config) {
            Ok(config) => told(dlq::list::list(config, args.options).await, args.format),
            Err(code) => code,
        },
        DlqCommand::Show(args) => {
            let is_raw = args.options.raw;
            let shown = match load(&args.file.config) {
                Ok(config) => dlq::show::show(config, args.options).await,
                Err(code) => return code,
            };
            match shown.as_ref().map(|shown| shown.raw()) {
                Ok(Ok(payload)) if is_raw => match std::io::stdout().write_all(payload) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => failed(&error),
                },
                Ok(Err(error)) if is_raw => failed(&error),
                _ => told(shown, args.format),
            }
        }
        DlqCommand::Replay(args) => match load(&args.file.config) {
            Ok(config) => told(dlq::replay::replay(config, args.options).await, args.format),
            Err(code) => code,
        },
        DlqCommand::Export(args) => {
            let is_stdout = args.options.to == Path::new("-");
            match load(&args.file.config) {
                Ok(config) => match dlq::export::export(config, args.options).await {
                    // The letters themselves are there.
                    Ok(report) if is_stdout => {
                        report.warnings.iter().for_each(|warning| eprintln!("headwater: warning: {warning}"));
                        ExitCode::SUCCESS
                    }
                    result => told(result, args.format),
                },
                Err(code) => code,
            }
        }
    }
}

fn told<T: Serialize + Display>(result: Result<T, dlq::DlqError>, format: Format) -> ExitCode {
    match result {
        Ok(report) => {
            print_result(&report, format);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("headwater: {error}");
            ExitCode::from(match &error {
                error if error.is_usage() => exit::USAGE,
                error if error.is_unavailable() => exit::UNAVAILABLE,
                _ => exit::FAILED,
            })
        }
    }
}

async fn compact(args: CompactArgs) -> ExitCode {
    let config = match load(&args.file.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut ok = true;
    for pipeline in config.pipelines {
        let options = args.options.clone();
        let is_text = args.format == Format::Text;
        let say = move |report: &keep::compact::Report| {
            if is_text {
                print!("{}", report.plan());
            }
        };
        let work = move || keep::compact::run(&pipeline, &options, say);
        let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.into()));
        ok &= match kept(done, args.format) {
            Ok(report) => report.ok(),
            Err(code) => return code,
        };
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
}

async fn expire(args: ExpireArgs) -> ExitCode {
    let config = match load(&args.file.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut ok = true;
    for pipeline in &config.pipelines {
        let say = |report: &keep::expire::Report| {
            if args.format == Format::Text {
                print!("{}", report.plan());
            }
        };
        ok &= match kept(keep::expire::run(pipeline, &args.options, say).await, args.format) {
            Ok(report) => report.ok(),
            Err(code) => return code,
        };
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
}

async fn backup(args: BackupArgs) -> ExitCode {
    let config = match load(&args.file.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let reports = match keep::backup::run(&config.pipelines, &args.options).await {
        Ok(reports) => reports,
        Err(error) => return kept(Err::<keep::backup::Report, _>(error), args.format).err().unwrap_or_default(),
    };
    for report in &reports {
        print_result(report, args.format);
    }
    ExitCode::SUCCESS
}

async fn restore(args: RestoreArgs) -> ExitCode {
    let config = match load(&args.file.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    for pipeline in &config.pipelines {
        let say = |report: &keep::restore::Report| {
            if args.format == Format::Text {
                print!("{}", report.plan());
            }
        };
        if let Err(code) = kept(keep::restore::run(pipeline, &args.options, say).await, args.format) {
            return code;
        }
    }
    ExitCode::SUCCESS
}

/// Prints what was done, or gives the exit code.
fn kept<T: Serialize + Display>(done: Result<T, KeepError>, format: Format) -> Result<T, ExitCode> {
    match done {
        Ok(report) => {
            print_result(&report, format);
            Ok(report)
        }
        Err(error) if error.is_unavailable() => {
            eprintln!("headwater: {error}");
            Err(ExitCode::from(exit::UNAVAILABLE))
        }
        Err(error) => Err(failed(&error)),
    }
}

fn generated<T: Serialize + Display>(result: Result<T, GenerateError>, format: Format) -> ExitCode {
    match result {
        Ok(report) => {
            print_result(&report, format);
            ExitCode::SUCCESS
        }
        Err(GenerateError::Configuration(errors)) => {
            eprintln!("{errors}");
            ExitCode::from(exit::CONFIGURATION)
        }
        Err(error) if error.is_unavailable() => {
            eprintln!("headwater: {error}");
            ExitCode::from(exit::UNAVAILABLE)
        }
        Err(error) => failed(&error),
    }
}

fn load(path: &Path) -> Result<Config, ExitCode> {
    config::load_file(path).map_err(|errors| {
        eprintln!("{errors}");
        ExitCode::from(exit::CONFIGURATION)
    })
}

fn print_result<T: Serialize + Display>(result: &T, format: Format) {
    match format {
        Format::Text => println!("{result}"),
        Format::Json => print_json(result),
    }
}

fn print_json(result: &impl Serialize) {
    match serde_json::to_string(result) {
        Ok(json) => println!("{json}"),
        Err(error) => eprintln!("the result cannot be written as JSON: {error}"),
    }
}

/// A reader that has seen enough (`| head`) is no failure.
fn print_bytes(bytes: &[u8]) -> ExitCode {
    match std::io::stdout().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => failed(&error),
        _ => ExitCode::SUCCESS,
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("headwater: {error}");
    ExitCode::from(exit::FAILED)
}

/// The part of the README between its `reference` marks.
pub fn reference_markdown() -> String {
    let reasons: String = record::reason::Reason::ALL
        .iter()
        .map(|reason| format!("| `{}` | {} |\n", reason.name(), reason.meaning()))
        .collect();
    let codes: String = exit::ALL.iter().map(|(code, meaning)| format!("| {code} | {meaning} |\n")).collect();
    format!(
        "### Configuration keys\n\n{}\n### Dead-letter reasons\n\n| reason | meaning |\n| --- | --- |\n{reasons}\n### Metrics\n\n{}\n### Exit codes\n\n| code | meaning |\n| --- | --- |\n{codes}",
        config::reference_markdown(),
        metrics::reference_markdown(),
    )
}
