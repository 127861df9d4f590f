//! The built binary as a measured child: wall time and CPU seconds as the kernel counts them, and the peak
//! memory of its own summary (`ru_maxrss` would begin with ours).

use std::{
    fs::File,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

/// One finished child.
pub struct Usage {
    pub wall_seconds: f64,
    pub cpu_seconds: f64,
    pub status: ExitStatus,
    pub stdout: String,
    /// What it printed at its end.
    pub summary: serde_json::Value,
}

/// A child that is still running. Its stdout and stderr go to files beside the configuration.
pub struct Child {
    pid: i32,
    start: Instant,
    stdout: std::path::PathBuf,
}

impl Child {
    /// Starts `headwater ARGS --format json -c CONFIG`.
    pub fn start(args: &[&str], config: &Path) -> Child {
        let stdout = config.with_extension("out");
        #[expect(clippy::zombie_processes, reason = "`finish` waits for it, by wait4")]
        let child = Command::new(env!("CARGO_BIN_EXE_headwater"))
            .args(args)
            .args(["--format", "json"])
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).expect("a file for stdout"))
            .stderr(File::create(config.with_extension("err")).expect("a file for stderr"))
            .spawn()
            .expect("the headwater binary starts");
        Child { pid: child.id() as i32, start: Instant::now(), stdout }
    }

    pub fn terminate(&self) {
        // SAFETY: a signal to a child of ours that nobody has waited for yet.
        unsafe { libc::kill(self.pid, libc::SIGTERM) };
    }

    /// Waits for the end. The figures are those of this child alone (`wait4`).
    pub fn finish(self) -> Usage {
        let mut status = 0;
        // SAFETY: plain out-parameters that we own; the pid is a child that nobody else waits for.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::wait4(self.pid, &mut status, 0, &mut usage);
            usage
        };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        let stdout = std::fs::read_to_string(&self.stdout).unwrap_or_default();
        Usage {
            wall_seconds: self.start.elapsed().as_secs_f64(),
            cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            status: ExitStatus::from_raw(status),
            summary: serde_json::from_str(&stdout).unwrap_or_default(),
            stdout,
        }
    }
}
