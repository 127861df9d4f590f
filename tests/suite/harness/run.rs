//! The built binary as a child process.

use super::{DEADLINE, Patience, Test, eventually_some};
use headwater::demo::servers::{Lifetime, process};
use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// A running (or ended) `headwater`; killed when dropped. Its output goes to files in the test's
/// directory, and to the screen where the test fails.
pub struct Run {
    child: Child,
    title: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Run {
    /// `headwater <arguments>`, such as `["run", "-c", …]`.
    pub fn start(test: &Test, arguments: &[&str]) -> Run {
        Run::with_env(test, arguments, &[])
    }

    /// The same with further environment, such as `HEADWATER_FAILPOINTS`.
    pub fn with_env(test: &Test, arguments: &[&str], env: &[(&str, &str)]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
        command.args(arguments).envs(env.iter().copied());
        Run::command(test, command)
    }

    /// The same with standard output on a pipe whose reader has gone away, and standard error too where
    /// `is_silent`; else that is kept as ever.
    pub fn unread(test: &Test, arguments: &[&str], is_silent: bool) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
        command.args(arguments);
        Run::spawn(test, command, Some(unread_pipe()), is_silent.then(unread_pipe))
    }

    /// Any command (another user's, under a limit) in the same keeping.
    pub fn command(test: &Test, command: Command) -> Run {
        Run::spawn(test, command, None, None)
    }

    /// Its output goes where it is said, else into files.
    fn spawn(test: &Test, mut command: Command, out: Option<Stdio>, err: Option<Stdio>) -> Run {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let (stdout, stderr) = (test.path(&format!("run{n}.out")), test.path(&format!("run{n}.err")));
        let title = format!("{command:?}");
        command
            .current_dir(test.dir())
            .stdin(Stdio::null())
            .stdout(out.unwrap_or_else(|| File::create(&stdout).expect("the file for stdout").into()))
            .stderr(err.unwrap_or_else(|| File::create(&stderr).expect("the file for stderr").into()));
        let child = process::spawn(command, Lifetime::EndsWithUs, libc::SIGKILL).expect("the child");
        Run { child, title, stdout, stderr }
    }

    /// Whether a failpoint, or a signal, has stopped it.
    pub fn is_stopped(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).is_ok_and(|stat| stat.contains(") T "))
    }

    /// Wakes a stopped process.
    pub fn go_on(&self) {
        // SAFETY: plain numbers; the child is ours and not reaped.
        unsafe { libc::kill(self.pid() as libc::pid_t, libc::SIGCONT) };
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// The same to the byte.
    pub fn stdout_bytes(&self) -> Vec<u8> {
        std::fs::read(&self.stdout).unwrap_or_default()
    }

    /// What it has logged so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// All it printed, as one JSON value.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let text = self.stdout();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in the output of {}: {text}", self.title))
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; returns at once.
    pub fn terminate(&mut self) {
        process::signal(&mut self.child, libc::SIGTERM);
    }

    /// Waits for the end; fails the test when it does not come within `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> Exit {
        let patience = Patience::new(limit);
        let status = loop {
            let Some(left) = patience.left() else { panic!("{} still runs after {limit:?}", self.title) };
            if let Some(status) = process::wait(&mut self.child, left) {
                break status;
            }
        };
        status.code().map_or_else(|| Exit::Signal(status.signal().unwrap_or(0)), Exit::Code)
    }

    /// Waits until the log holds `text`.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        super::eventually(DEADLINE, &format!("{text:?} in the log"), || self.stderr().contains(text));
    }

    /// `127.0.0.1:port` of its HTTP server, from its log.
    #[track_caller]
    pub fn http(&self) -> String {
        eventually_some(DEADLINE, "the address of the HTTP server in the log", || http_address(&self.stderr()))
    }

    /// Status and body of `GET path`; none where nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http_get(&self.http(), path)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let (out, err) = (self.stdout(), self.stderr());
            let lines: Vec<&str> = err.lines().collect();
            let end = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("--- {}\n--- stdout:\n{out}\n--- end of stderr:\n{end}\n---", self.title);
        }
    }
}

fn unread_pipe() -> Stdio {
    let (_, writer) = std::io::pipe().expect("a pipe");
    writer.into()
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// The names of the losses that an error or a cure says to accept.
pub fn losses(told: &str) -> String {
    let (_, rest) = told.split_once("--accept-loss ").expect("how to accept it");
    rest.split([' ', '"', '\n']).next().expect("a name").to_owned()
}

/// Finds `address=127.0.0.1:1234` (or `"address":"…"` in a JSON log) on the line "http listening".
pub fn http_address(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("http listening") && line.contains("address"))?;
    let from = line.find("127.0.0.1:")?;
    let address = line[from..].split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').next()?;
    Some(address.to_owned())
}

/// A bare HTTP/1.1 request.
pub fn http_get(address: &str, path: &str) -> Option<(u16, String)> {
    let answer = http_send(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))?;
    Some((answer.code, answer.body))
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header, whose name is given in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// Sends a request as it is given, and reads what comes until the server ends the connection.
pub fn http_send(address: &str, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let code = answer.split(' ').nth(1)?.parse().ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    // Our server sends small bodies whole; a chunked one would have to be put together first.
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "a chunked body");
    Some(Answer { code, head: head.to_owned(), body: body.to_owned() })
}
