//! Children that end with us.
//!
//! `PR_SET_PDEATHSIG` watches the *thread* that forked, not the process: a server started by a test's
//! thread or a pool's worker would die with that thread. So one thread that never ends forks them all.

use super::Lifetime;
use std::{
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus},
    sync::{LazyLock, Mutex, mpsc},
    time::{Duration, Instant},
};

type Job = Box<dyn FnOnce() + Send>;

static KEEPER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<Job>();
    std::thread::spawn(move || jobs.into_iter().for_each(|job| job()));
    Mutex::new(sender)
});

/// Starts `command` as a child in a process group of its own (a Ctrl-C in the terminal is for us alone).
/// With [`Lifetime::EndsWithUs`] it gets `death_signal` when this process ends in any way.
pub fn spawn(mut command: Command, lifetime: Lifetime, death_signal: i32) -> io::Result<Child> {
    command.process_group(0);
    if lifetime == Lifetime::EndsWithUs {
        let parent = std::process::id();
        let tie = move || {
            // SAFETY: between fork and exec, only calls that are safe in a signal handler.
            unsafe {
                if libc::prctl(libc::PR_SET_PDEATHSIG, death_signal as libc::c_ulong) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have died before the call: then nobody would ever send the signal.
                if libc::getppid() as u32 != parent {
                    libc::_exit(1);
                }
            }
            Ok(())
        };
        // SAFETY: the closure allocates nothing and takes no lock.
        unsafe { command.pre_exec(tie) };
    }
    let (reply, answer) = mpsc::channel();
    let job: Job = Box::new(move || {
        let _ = reply.send(command.spawn());
    });
    let gone = |_| io::Error::other("the thread that starts children is gone");
    KEEPER.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).send(job).map_err(|_| gone(()))?;
    answer.recv().map_err(|_| gone(()))?
}

/// Sends `signal`; a child that has ended already is left alone.
pub fn signal(child: &mut Child, signal: i32) {
    if let Ok(None) = child.try_wait() {
        // SAFETY: plain numbers. The child is not reaped yet, so its id is still its own.
        unsafe { libc::kill(child.id() as libc::pid_t, signal) };
    }
}

/// Waits until the child has ended, at most `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

/// Asks the child to end by `polite`, and kills it where it has not within `limit`.
pub fn end(child: &mut Child, polite: i32, limit: Duration) {
    signal(child, polite);
    if wait(child, limit).is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// "exit code 1" or "signal 9".
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
