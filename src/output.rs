//! What commands print, to readers that may have gone away.
//!
//! `println!` panics where nobody reads any more (`headwater doctor | head`), be it in the middle of a `compact`.
//! Here such a reader has seen enough: the rest is dropped, the work is finished, and the exit code is the work's
//! own. SIGPIPE stays ignored, for it would also come from the socket of a server that went away.

use crate::app::exit;
use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
    process::ExitCode,
    sync::OnceLock,
};

/// Why standard output took no more; nothing is written behind the gap.
static ENDED: OnceLock<io::Error> = OnceLock::new();

/// Prints a line on standard output.
pub fn line(text: impl Display) {
    write(|out| writeln!(out, "{text}"));
}

/// Prints text that ends its lines itself.
pub fn text(text: impl Display) {
    write(|out| write!(out, "{text}"));
}

/// Prints bytes as they are.
pub fn bytes(bytes: &[u8]) {
    write(|out| out.write_all(bytes));
}

fn write(act: impl FnOnce(&mut io::StdoutLock) -> io::Result<()>) {
    if ENDED.get().is_none()
        && let Err(error) = act(&mut io::stdout().lock())
    {
        // Another thread's error tells as much.
        let _ = ENDED.set(error);
    }
}

/// Prints a line on standard error. Where that fails nobody can be told.
pub fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The exit code of a command that ends with `code`: 1 where it worked and its output is lost, other than to a
/// reader that went away.
pub fn end(code: ExitCode) -> ExitCode {
    write(|out| out.flush());
    match ENDED.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            complain(format_args!("headwater: standard output cannot be written: {error}"));
            if code == ExitCode::SUCCESS { ExitCode::from(exit::FAILED) } else { code }
        }
        _ => code,
    }
}
