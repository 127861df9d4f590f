//! The command line: what each command prints, and with which code it ends. The work is done elsewhere.

mod arguments;
mod examples;

use crate::{
    analyze,
    app::{self, exit},
    capture,
    config::{self, model::Config},
    demo, dlq, doctor,
    generate::{self, GenerateError},
    kafka,
    keep::{self, KeepError},
    land,
    loss::Accepted,
    metrics, output, record,
    status::{self, StatusError},
    topics, verify,
};
use arguments::{
    BackupArgs, Cli, Command, CompactArgs, DlqCommand, DoctorArgs, ExpireArgs, Format, GenerateCommand, LogFormat,
    ResetArgs, RestoreArgs, StageArgs, TopicsArgs, ValidateArgs, VerifyArgs,
};
use clap::FromArgMatches;
use serde::Serialize;
use std::{fmt::Display, io::IsTerminal, path::Path, process::ExitCode};
use tracing_subscriber::EnvFilter;

/// Parses the arguments, runs the command and gives its exit code.
pub fn main() -> ExitCode {
    tune_allocator();
    allow_open_files();
    // First of all, for it asks OpenSSL not to take itself down at exit, and the first who asks is heard: threads of
    // the Kafka client may be in the middle of a handshake then (seen once as a segmentation fault).
    openssl::init();
    let cli = Cli::from_arg_matches(&examples::command().get_matches()).unwrap_or_else(|error| error.exit());
    if let Err(reason) = start_logging(&cli.log, cli.log_format) {
        output::complain(format_args!("--log {}: {reason}", cli.log));
        return ExitCode::from(exit::USAGE);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = output::end(runtime.block_on(dispatch(cli.command)));
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

/// Lets the process open as many files as it may at all: a landing of hundreds of partitions has two open for each,
/// and the usual limit of 1,024 is there for programs that use select(2).
fn allow_open_files() {
    // SAFETY: the structure is ours and outlives both calls. Where the limit cannot be raised it stays as it is.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

fn start_logging(filter: &str, format: LogFormat) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    // A line that cannot be written is lost; to say so on the same stderr would panic.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
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
        Command::Reset(args) => reset(args).await,
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
            clap_complete::generate(shell, &mut examples::command(), "headwater", &mut script);
            output::bytes(&script);
            ExitCode::SUCCESS
        }
        Command::Man { directory } => {
            // Its own error does not say of what it speaks.
            let written = std::fs::create_dir_all(&directory)
                .and_then(|()| clap_mangen::generate_to(examples::command().name("headwater"), &directory));
            match written {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    output::complain(format_args!(
                        "headwater: the man pages cannot be written into {}: {error}",
                        directory.display()
                    ));
                    ExitCode::from(exit::FAILED)
                }
            }
        }
        Command::Reference => {
            output::text(reference_markdown());
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
        land_options: land::Options { accepted: Accepted::new(args.accept_loss.clone()) },
        analyze_options: analyze::Options { accepted: Accepted::new(args.accept_loss) },
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
        output::line(format_args!("{:#}", config::json_schema()));
        return ExitCode::SUCCESS;
    };
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if args.show {
        output::text(config::show(&config));
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
            output::line(format_args!(
                "pipeline {}: captures {}, lands {}{analyzes}",
                pipeline.name,
                tables(captured),
                tables(landed)
            ));
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
            output::line(report.text(is_coloured));
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
        output::complain(format_args!("headwater: {error}"));
        ExitCode::from(if error.is_unavailable() { exit::UNAVAILABLE } else { exit::FAILED })
    };
    let mut report = match topics::look(&config).await {
        Ok(report) => report,
        Err(error) => return ended(&error),
    };
    if !args.dry_run && report.has_missing() {
        if let Format::Text = args.format {
            output::line(format_args!("{report}\n"));
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
            output::complain(errors);
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
                output::complain(format_args!("headwater: {error}"));
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
                Ok(Ok(payload)) if is_raw => {
                    output::bytes(payload);
                    ExitCode::SUCCESS
                }
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
                        report
                            .warnings
                            .iter()
                            .for_each(|warning| output::complain(format_args!("headwater: warning: {warning}")));
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
            output::complain(format_args!("headwater: {error}"));
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
                output::text(report.plan());
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
                output::text(report.plan());
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
                output::text(report.plan());
            }
        };
        if let Err(code) = kept(keep::restore::run(pipeline, &args.options, say).await, args.format) {
            return code;
        }
    }
    ExitCode::SUCCESS
}

async fn reset(args: ResetArgs) -> ExitCode {
    let config = match load(&args.file.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let ended = |error: &analyze::reset::ResetError| {
        output::complain(format_args!("headwater: {error}"));
        ExitCode::from(if error.is_unavailable() { exit::UNAVAILABLE } else { exit::FAILED })
    };
    let jobs = match analyze::reset::select(&config, &args.options) {
        Ok(jobs) => jobs,
        Err(error) => return ended(&error),
    };
    for (pipeline, job) in jobs {
        match analyze::reset::run(pipeline, job, &args.options).await {
            Ok(report) => print_result(&report, args.format),
            Err(error) => return ended(&error),
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
            output::complain(format_args!("headwater: {error}"));
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
            output::complain(errors);
            ExitCode::from(exit::CONFIGURATION)
        }
        Err(error) if error.is_unavailable() => {
            output::complain(format_args!("headwater: {error}"));
            ExitCode::from(exit::UNAVAILABLE)
        }
        Err(error) => failed(&error),
    }
}

fn load(path: &Path) -> Result<Config, ExitCode> {
    config::load_file(path).map_err(|errors| {
        output::complain(errors);
        ExitCode::from(exit::CONFIGURATION)
    })
}

fn print_result<T: Serialize + Display>(result: &T, format: Format) {
    match format {
        Format::Text => output::line(result),
        Format::Json => print_json(result),
    }
}

fn print_json(result: &impl Serialize) {
    match serde_json::to_string(result) {
        Ok(json) => output::line(json),
        Err(error) => output::complain(format_args!("the result cannot be written as JSON: {error}")),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    output::complain(format_args!("headwater: {error}"));
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
