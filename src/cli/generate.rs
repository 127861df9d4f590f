//! The arguments of `headwater generate`.

use super::{Format, failed, load, print_result, shutdown_on_signal};
use crate::generate::{self, Bulk, Live, Mode, Progress};
use clap::Args;
use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

#[derive(Args)]
pub struct OrdersArgs {
    /// The configuration file: its PostgreSQL and, unless --table is given, its first captured table.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: PathBuf,
    /// The table to write into, as PostgreSQL stores the name.
    #[arg(long)]
    table: Option<String>,
    /// Make the table first where it is missing, as db/source/orders.sql does.
    #[arg(long)]
    create_table: bool,
    /// The same seed gives the same orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of rows with a negative amount, 0 to 1.
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    bad_share: f64,
    /// Write so many rows of the past at once by COPY, instead of live rows at a rate.
    #[arg(long, value_name = "ROWS")]
    bulk: Option<u64>,
    /// Bulk: spread created_at over so many days up to now; 0 gives all the time of the run.
    #[arg(long, default_value_t = Bulk::default().days, requires = "bulk")]
    days: u32,
    /// Bulk: rows of one transaction.
    #[arg(long, default_value_t = Bulk::default().transaction_rows, requires = "bulk", value_name = "ROWS")]
    transaction_rows: u64,
    /// Live: rows per second.
    #[arg(long, default_value_t = Live::default().rows_per_second, conflicts_with = "bulk")]
    rate: f64,
    /// Live: end after so many rows.
    #[arg(long, conflicts_with = "bulk")]
    rows: Option<u64>,
    /// Live: end after so long; without --rows and --seconds, at SIGINT or SIGTERM.
    #[arg(long, conflicts_with = "bulk")]
    seconds: Option<f64>,
    /// Live: share of rows in transactions that are held open while others commit.
    #[arg(long, default_value_t = Live::default().late_share, conflicts_with = "bulk", value_name = "SHARE")]
    late_share: f64,
    /// Live: late transactions are held for up to so long.
    #[arg(long, default_value_t = Live::default().late_ms, conflicts_with = "bulk", value_name = "MS")]
    late_ms: u64,
    /// Live: share of transactions that roll back.
    #[arg(long, default_value_t = Live::default().rollback_share, conflicts_with = "bulk", value_name = "SHARE")]
    rollback_share: f64,
    /// Live: status updates as a share of the inserted rows.
    #[arg(long, default_value_t = Live::default().update_share, conflicts_with = "bulk", value_name = "SHARE")]
    update_share: f64,
    /// Live: let updates leave created_at as it is. No poller sees such an update; verify lists it.
    #[arg(long, conflicts_with = "bulk")]
    keep_watermark: bool,
    /// How the report is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub async fn orders(args: OrdersArgs) -> ExitCode {
    let config = match load(&args.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let Some(pipeline) = config.pipelines.into_iter().find(|pipeline| pipeline.postgres.is_some()) else {
        eprintln!("headwater: {} has no postgres section to write into", args.config.display());
        return ExitCode::from(crate::app::exit::CONFIGURATION);
    };
    let captured = pipeline.capture.and_then(|capture| capture.tables.into_iter().next());
    let (schema, table) = match (args.table, captured) {
        (Some(table), _) => (None, table),
        (None, Some(captured)) => (captured.schema, captured.table),
        (None, None) => {
            eprintln!("headwater: {} captures no table: name one with --table", args.config.display());
            return ExitCode::from(crate::app::exit::USAGE);
        }
    };
    let Some(postgres) = pipeline.postgres else { return ExitCode::from(crate::app::exit::CONFIGURATION) };
    let mode = match args.bulk {
        Some(rows) => Mode::Bulk(Bulk { rows, days: args.days, transaction_rows: args.transaction_rows }),
        None => Mode::Live(Live {
            rows_per_second: args.rate,
            rows: args.rows,
            seconds: args.seconds,
            late_share: args.late_share,
            late_ms: args.late_ms,
            rollback_share: args.rollback_share,
            update_share: args.update_share,
            keep_watermark: args.keep_watermark,
        }),
    };
    let shutdown = match shutdown_on_signal() {
        Ok(shutdown) => shutdown,
        Err(error) => return failed(&error),
    };
    let options = generate::Options {
        postgres,
        schema,
        table,
        create_table: args.create_table,
        seed: args.seed,
        bad_share: args.bad_share,
        mode,
        shutdown,
        progress_bar: std::io::stderr().is_terminal(),
        progress: Progress::default(),
    };
    match generate::orders(options).await {
        Ok(report) => {
            print_result(&report, args.format);
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}
