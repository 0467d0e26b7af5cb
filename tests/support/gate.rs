//! A gate at which processes wait, so that all of them start at one instant.
//!
//! It is a file that the test holds locked. Each process says that it is ready
//! and asks for a shared lock; the kernel wakes all of them when the test lets
//! go.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A closed gate. Dropping it opens it.
pub struct Gate {
    file: File,
    path: PathBuf,
}

impl Gate {
    /// Closes a gate at `path`.
    ///
    /// # Panics
    ///
    /// When the file cannot be made.
    pub fn closed(path: &Path) -> Gate {
        let file = File::create(path).expect("a file for the gate");
        flock(&file, FlockOperation::LockExclusive).expect("a closed gate");
        Gate {
            file,
            path: path.to_path_buf(),
        }
    }

    /// The argument that tells a victim where it is.
    ///
    /// # Panics
    ///
    /// When the path is not UTF-8.
    pub fn path(&self) -> &str {
        self.path.to_str().expect("a path in UTF-8")
    }

    /// Lets everybody through.
    ///
    /// # Panics
    ///
    /// When the lock cannot be given back.
    pub fn open(self) {
        flock(&self.file, FlockOperation::Unlock).expect("an open gate");
    }
}

/// Waits at the gate; `-` is no gate.
///
/// # Panics
///
/// When there is no such gate.
pub fn pass(path: &str) {
    if path != "-" {
        let gate = File::open(path).expect("a gate");
        flock(&gate, FlockOperation::LockShared).expect("passing the gate");
    }
}

/// Waits until a process waits in the kernel for a file lock that another holds.
pub fn wait_for_waiter(pid: i32) {
    let pid = pid.to_string();
    crate::wait_until("a process waits for a file lock", || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        locks.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.any(|word| word == "->") && words.any(|word| word == pid)
        })
    });
}
