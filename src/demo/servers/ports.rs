//! Ports that nobody else will take.
//!
//! A port from below the range that the kernel gives to outgoing connections, and a locked file for as
//! long as the lease lasts, so that two of our processes never choose the same one, also while the
//! server behind it is down for a restart.

use super::{ServerError, file_error};
use std::{
    fs::{File, TryLockError},
    hash::{BuildHasher, RandomState},
    net::TcpListener,
};

pub(super) const FIRST: u16 = 20_000;
pub(super) const LAST: u16 = 31_999;

/// A port of 127.0.0.1, ours until dropped.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    _lock: File,
}

impl PortLease {
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Takes a port that nobody listens on and that no other process of ours has leased.
pub fn lease_port() -> Result<PortLease, ServerError> {
    // SAFETY: no arguments, cannot fail.
    let user = unsafe { libc::geteuid() };
    let directory = std::env::temp_dir().join(format!("headwater-ports-{user}"));
    std::fs::create_dir_all(&directory).map_err(file_error(&directory))?;
    let count = LAST - FIRST + 1;
    // A fresh hasher is seeded from the system's randomness.
    let start = (RandomState::new().hash_one(std::process::id()) % u64::from(count)) as u16;
    for step in 0..count {
        let port = FIRST + (start + step) % count;
        let path = directory.join(port.to_string());
        let lock = File::create(&path).map_err(file_error(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(source)) => return Err(ServerError::File { path, source }),
        }
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(PortLease { port, _lock: lock });
        }
    }
    Err(ServerError::NoPort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_differ_while_they_are_held() {
        let leases: Vec<PortLease> = (0..50).map(|_| lease_port().unwrap()).collect();
        let ports: std::collections::HashSet<u16> = leases.iter().map(PortLease::port).collect();
        assert_eq!(ports.len(), leases.len());
        assert!(ports.iter().all(|port| (FIRST..=LAST).contains(port)));
    }
}
