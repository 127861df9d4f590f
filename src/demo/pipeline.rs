//! Child processes of this same binary.

use super::{
    DemoError, blocking, file_error,
    servers::{Lifetime, log_tail, process},
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Until a kept pipeline listens.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// A drain takes `shutdown_timeout_ms` at most, which is well below.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A `headwater` that runs; killed when dropped, unless it shall outlive us.
pub struct Pipeline {
    child: Child,
    command: String,
    stdout: PathBuf,
    log: PathBuf,
    lifetime: Lifetime,
}

/// A command line: `headwater <command> -c <config> <more>`.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub command: &'a str,
    pub config: &'a Path,
    pub more: &'a [&'a str],
}

/// What a process took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub peak_bytes: u64,
}

impl Usage {
    pub fn and(self, other: Usage) -> Usage {
        Usage { cpu_seconds: self.cpu_seconds + other.cpu_seconds, peak_bytes: self.peak_bytes.max(other.peak_bytes) }
    }
}

impl Pipeline {
    /// Starts a command that ends with us; its log is `<logs>/<name>.log`.
    pub fn start(logs: &Path, name: &str, line: Line<'_>) -> Result<Pipeline, DemoError> {
        Pipeline::spawn(logs, name, line, Lifetime::EndsWithUs)
    }

    /// Starts `run` for good, and waits until its HTTP server listens.
    pub async fn keep(logs: &Path, name: &str, config: &Path) -> Result<Pipeline, DemoError> {
        let line = Line { command: "run", config, more: &[] };
        let mut pipeline = Pipeline::spawn(logs, name, line, Lifetime::Outlives)?;
        let deadline = Instant::now() + LISTEN_LIMIT;
        while pipeline.http_address().is_none() && Instant::now() < deadline {
            pipeline.check()?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(pipeline)
    }

    fn spawn(logs: &Path, name: &str, line: Line<'_>, lifetime: Lifetime) -> Result<Pipeline, DemoError> {
        let Line { command, config, more } = line;
        let failed = |source| DemoError::Spawn { command: command.to_owned(), source };
        let (stdout, log) = (logs.join(format!("{name}.out")), logs.join(format!("{name}.log")));
        let mut child = Command::new(std::env::current_exe().map_err(failed)?);
        child
            .arg(command)
            .arg("-c")
            .arg(config)
            .args(more)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).map_err(file_error(&stdout))?)
            .stderr(File::create(&log).map_err(file_error(&log))?);
        let child = process::spawn(child, lifetime, libc::SIGKILL).map_err(failed)?;
        Ok(Pipeline { child, command: command.to_owned(), stdout, log, lifetime })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error when it has ended, which it should not have.
    pub fn check(&mut self) -> Result<(), DemoError> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(self.ended(status)),
            _ => Ok(()),
        }
    }

    fn ended(&self, status: std::process::ExitStatus) -> DemoError {
        DemoError::Ended { command: self.command.clone(), status: process::describe(status), log: log_tail(&self.log) }
    }

    /// As the kernel counts; zero when it is gone.
    pub fn usage(&self) -> Usage {
        let read = |file| fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default();
        // SAFETY: no memory is involved.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        Usage { cpu_seconds: cpu_ticks(&read("stat")) as f64 / ticks, peak_bytes: peak_bytes(&read("status")) }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits until it has drained.
    pub async fn terminate(mut self) -> Result<(), DemoError> {
        process::signal(&mut self.child, libc::SIGTERM);
        self.finish(END_LIMIT).await.map(|_| ())
    }

    /// Waits for an end by itself; gives what it printed. An exit code not among `accepted` is an error.
    pub async fn output(self, limit: Duration, accepted: &[i32]) -> Result<serde_json::Value, DemoError> {
        let command = self.command.clone();
        let (status, pipeline) = self.finish_any(limit).await?;
        let text = fs::read_to_string(&pipeline.stdout).map_err(file_error(&pipeline.stdout))?;
        if !status.code().is_some_and(|code| accepted.contains(&code)) {
            return Err(pipeline.ended(status));
        }
        serde_json::from_str(&text).map_err(|source| DemoError::Output { command, source, output: text })
    }

    async fn finish(self, limit: Duration) -> Result<Pipeline, DemoError> {
        let (status, pipeline) = self.finish_any(limit).await?;
        if status.success() { Ok(pipeline) } else { Err(pipeline.ended(status)) }
    }

    async fn finish_any(mut self, limit: Duration) -> Result<(std::process::ExitStatus, Pipeline), DemoError> {
        let (status, pipeline) = blocking("waiting", move || (process::wait(&mut self.child, limit), self)).await?;
        match status {
            Some(status) => Ok((status, pipeline)),
            None => Err(DemoError::Ended {
                command: pipeline.command.clone(),
                status: format!("no end within {} s", limit.as_secs()),
                log: log_tail(&pipeline.log),
            }),
        }
    }

    /// The address of its HTTP server, once it is in the log.
    pub fn http_address(&self) -> Option<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let line = log.lines().find(|line| line.contains("http listening"))?;
        let from = line.find("127.0.0.1:")?;
        line[from..].split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').next().map(str::to_owned)
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::EndsWithUs {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// User and system time of `/proc/<pid>/stat`, whose second field may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> u64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

fn peak_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 30 0 0 20 0 8 0 100 1000 10";
        assert_eq!(cpu_ticks(stat), 280);
        assert_eq!(peak_bytes("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t1 kB\n"), 2 * 1_024 * 1_024);
        assert_eq!((cpu_ticks(""), peak_bytes("")), (0, 0));
    }
}
