//! Every metric of the program, declared once: the table feeds registration, the help text of
//! `/metrics` and the README's reference.
//!
//! Base units, `_total` on counters, labels of bounded sets only. Stages call the declared statics
//! per batch or commit, never per record.

use metrics::{Label, SharedString};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A declared metric. Values for its labels are given in the order of `labels`.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

impl Metric {
    fn label_values(&self, values: &[&str]) -> Vec<Label> {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        self.labels
            .iter()
            .zip(values)
            .map(|(name, value)| Label::new(*name, SharedString::from((*value).to_owned())))
            .collect()
    }

    /// Adds to a counter.
    pub fn add(&self, values: &[&str], amount: u64) {
        metrics::counter!(self.name, self.label_values(values)).increment(amount);
    }

    /// Begins a counter at zero, so that the first event is an increase for whoever scrapes.
    pub fn begin(&self, values: &[&str]) {
        self.add(values, 0);
    }

    /// Sets a gauge.
    pub fn set(&self, values: &[&str], value: f64) {
        metrics::gauge!(self.name, self.label_values(values)).set(value);
    }

    /// Adds one observation (seconds) to a histogram.
    pub fn observe(&self, values: &[&str], value: f64) {
        metrics::histogram!(self.name, self.label_values(values)).record(value);
    }
}

macro_rules! declare {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub static $id: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// All metrics, in the order of the README's reference.
        pub static ALL: &[&Metric] = &[$(&$id),*];
    };
}

declare! {
    BUILD_INFO: Gauge "headwater_build_info" ["version"] "1, with the version as a label.";
    START_TIME: Gauge "headwater_start_time_seconds" [] "Start of the process, seconds since the Unix epoch.";
    PROCESS_CPU: Gauge "headwater_process_cpu_seconds" [] "CPU time used by the process, user and system.";
    PROCESS_RSS: Gauge "headwater_process_resident_bytes" [] "Resident memory of the process.";
    STAGE_READY: Gauge "headwater_stage_ready" ["pipeline", "stage", "unit"] "1 while the table or topic progresses or is caught up, else 0.";

    CAPTURE_ROWS: Counter "headwater_capture_rows_total" ["pipeline", "table"] "Row versions committed to Kafka.";
    CAPTURE_BYTES: Counter "headwater_capture_bytes_total" ["pipeline", "table"] "Bytes of keys and values committed to Kafka.";
    CAPTURE_SCANNED: Counter "headwater_capture_rows_scanned_total" ["pipeline", "table"] "Rows that PostgreSQL returned to polls and backfill chunks.";
    CAPTURE_DEAD_LETTERS: Counter "headwater_capture_dead_letters_total" ["pipeline", "table", "reason"] "Rows that could not be published.";
    CAPTURE_POLL_SECONDS: Histogram "headwater_capture_poll_seconds" ["pipeline"] "Duration of one poll over all tables, to the last Kafka commit.";
    CAPTURE_DELAY: Gauge "headwater_capture_replication_delay_seconds" ["pipeline", "table"] "Now less the watermark of the newest published row, at its commit to Kafka.";
    CAPTURE_TRANSACTION_SECONDS: Histogram "headwater_capture_transaction_seconds" ["pipeline"] "Duration of one Kafka transaction, begin to commit.";
    CAPTURE_TRANSACTIONS: Counter "headwater_capture_transactions_total" ["pipeline", "outcome"] "Kafka transactions: committed, aborted, unknown.";
    CAPTURE_POLL_ERRORS: Counter "headwater_capture_errors_total" ["pipeline", "table"] "Failed polls or chunks of a table.";
    CAPTURE_BACKFILL_ROWS: Gauge "headwater_capture_backfill_remaining_rows" ["pipeline", "table"] "Estimated rows that the first load still has to read.";
    CAPTURE_BELOW_BOUND: Gauge "headwater_capture_rows_below_bound" ["pipeline", "table"] "Rows found that were written below the bound, and are not published.";
    CAPTURE_SEEN_IDS: Gauge "headwater_capture_seen_transactions" ["pipeline", "table"] "Transaction ids held in the checkpoint because an older transaction is still open.";

    LAND_RECORDS: Counter "headwater_land_records_total" ["pipeline", "topic"] "Kafka records committed to the lake, as rows or dead letters.";
    LAND_ROWS: Counter "headwater_land_rows_total" ["pipeline", "topic"] "Rows committed to the table.";
    LAND_BYTES: Counter "headwater_land_bytes_total" ["pipeline", "topic"] "Bytes of committed Parquet files, dead letters included.";
    LAND_FILES: Counter "headwater_land_files_total" ["pipeline", "topic"] "Committed files, dead letters included.";
    LAND_COMMITS: Counter "headwater_land_commits_total" ["pipeline", "topic"] "Ledger records appended.";
    LAND_COMMIT_SECONDS: Histogram "headwater_land_commit_seconds" ["pipeline", "topic"] "Duration of one commit: staging, ledger and renames.";
    LAND_AGE: Gauge "headwater_land_age_seconds" ["pipeline", "topic"] "Now less the Kafka timestamp of the oldest record of the newest commit, at that commit.";
    LAND_DEAD_LETTERS: Counter "headwater_land_dead_letters_total" ["pipeline", "topic", "reason"] "Records committed as dead letters.";
    LAND_UNKNOWN_FIELDS: Counter "headwater_land_unknown_fields_total" ["pipeline", "topic"] "Fields of records that no column takes.";
    LAND_BUFFERED_BYTES: Gauge "headwater_land_buffered_bytes" ["pipeline"] "Memory held by open batches.";
    LAND_FREE: Gauge "headwater_land_free_bytes" ["pipeline", "topic"] "Room on the file system of the table, for users who are not root.";
    LAND_LAG: Gauge "headwater_land_lag_records" ["pipeline", "topic", "partition"] "End of the partition less the committed position.";
    LAND_REBALANCES: Counter "headwater_land_rebalances_total" ["pipeline", "topic"] "Assignments taken or lost.";
    LAND_ERRORS: Counter "headwater_land_errors_total" ["pipeline", "topic"] "Failed commits or refused partitions.";

    ANALYZE_EVENTS: Counter "headwater_analyze_events_total" ["pipeline", "analyze_job", "topic", "outcome"] "Records read: counted, partly_late (some of its windows had closed), late, duplicate, future, dead_letter.";
    ANALYZE_LATE: Counter "headwater_late_events_total" ["pipeline", "analyze_job"] "Events that one closed window or more misses; the table late_events lists them by window.";
    ANALYZE_WINDOWS: Counter "headwater_analyze_windows_total" ["pipeline", "analyze_job", "kind"] "Rows committed: provisional, final, revised.";
    ANALYZE_MOMENTS: Counter "headwater_analyze_moments_total" ["pipeline", "analyze_job", "moment"] "Anomalies committed.";
    ANALYZE_DEAD_LETTERS: Counter "headwater_analyze_dead_letters_total" ["pipeline", "analyze_job", "reason"] "Records committed as dead letters.";
    ANALYZE_FLUSH_SECONDS: Histogram "headwater_analyze_flush_seconds" ["pipeline", "analyze_job"] "Duration of one flush: the transaction in PostgreSQL.";
    ANALYZE_FLUSH_ERRORS: Counter "headwater_analyze_flush_errors_total" ["pipeline", "analyze_job"] "Flushes that failed and were tried again.";
    ANALYZE_WATERMARK_DELAY: Gauge "headwater_analyze_watermark_delay_seconds" ["pipeline", "analyze_job"] "Now less the watermark.";
    ANALYZE_PANES: Gauge "headwater_analyze_open_panes" ["pipeline", "analyze_job"] "Panes of windows that are not closed.";
    ANALYZE_KEYS: Gauge "headwater_analyze_keys" ["pipeline", "analyze_job"] "Keys in open panes.";
    ANALYZE_STATE_BYTES: Gauge "headwater_analyze_state_bytes" ["pipeline", "analyze_job"] "Memory of open panes, about.";
    ANALYZE_LAG: Gauge "headwater_analyze_lag_records" ["pipeline", "analyze_job", "topic", "partition"] "End of the partition, open transactions included, less the position, where the end is known.";
    ANALYZE_LEADER: Gauge "headwater_analyze_leader" ["pipeline", "analyze_job"] "1 while this instance writes the job's windows, 0 while it stands by.";
    POOL_CONNECTIONS: Gauge "headwater_postgres_pool_connections" ["pipeline", "analyze_job", "state"] "Connections to PostgreSQL: most, open, idle.";
    POOL_WAITING: Gauge "headwater_postgres_pool_waiting" ["pipeline", "analyze_job"] "Tasks that wait for a connection.";
}

/// Installs the process-wide recorder and describes every metric. Call once, from `app`.
pub fn install() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    let buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &buckets)?
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::debug!("a metrics recorder is installed already");
    }
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    Ok(handle)
}

/// CPU seconds (user and system) of this process so far, and its peak resident memory in bytes.
///
/// The peak is not `ru_maxrss`, which begins with that of the process that started us.
pub fn process_usage() -> (f64, u64) {
    // SAFETY: getrusage writes a plain struct that we own; zero is a valid value of it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    (seconds(usage.ru_utime) + seconds(usage.ru_stime), peak_resident_bytes().unwrap_or(0))
}

fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Resident memory of this process now, in bytes; none where the kernel does not say.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: a plain query without pointers.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page_bytes).ok()?)
}

/// The metrics as a Markdown table, for the README.
pub fn reference_markdown() -> String {
    let mut table = String::from("| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        table.push_str(&format!("| `{}` | {kind} | {} | {} |\n", metric.name, metric.labels.join(", "), metric.help));
    }
    table
}
