//! What can go wrong, sorted by what the caller does next.

use std::io;
use std::path::PathBuf;

/// A shim could not be installed, or a recording not started or kept up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShimError {
    /// SQLite has no VFS named `unix` in this process: there is nothing to put
    /// a shim over.
    #[error("this build of SQLite has no VFS named `unix`")]
    NoUnixVfs,
    /// SQLite refused to register the shim.
    #[error("SQLite refused the VFS with code {code}")]
    Refused {
        /// SQLite's result code.
        code: i32,
    },
    /// This directory has a shim already. Drop that one first.
    #[error("{} has a shim already", dir.display())]
    Taken {
        /// The directory.
        dir: PathBuf,
    },
    /// The log lies in the directory that is to be recorded. Put it elsewhere:
    /// it would become part of what it records.
    #[error("the log {} lies in the recorded directory", log.display())]
    LogInside {
        /// The log.
        log: PathBuf,
    },
    /// The directory holds more than is copied into a log
    /// ([`limits::BASE_BYTES_MAX`](crate::limits::BASE_BYTES_MAX)), or a path
    /// that a log cannot hold (not UTF-8, or too long).
    #[error("{} cannot be recorded: {why}", path.display())]
    CannotRecord {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// The file given as log is not one, or of another version. It was not
    /// changed.
    #[error("{} is not a log of this version", log.display())]
    NotALog {
        /// The file.
        log: PathBuf,
    },
    /// The recording ended early: the machine failed beneath it, or the log
    /// could not be written. What the log holds is sound up to there.
    #[error("the recording ended early: {why}")]
    Broken {
        /// What failed.
        why: String,
    },
    /// A record of the program's own can stand in no log. Nothing was recorded.
    #[error("not a record of a log: {why}")]
    BadRecord {
        /// Why not.
        why: &'static str,
    },
    /// A mark is longer than
    /// [`limits::MARK_BYTES_MAX`](crate::limits::MARK_BYTES_MAX). Nothing was
    /// recorded.
    #[error("a mark of {bytes} bytes is too long")]
    MarkTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The machine got in the way.
    #[error("failed to {doing}")]
    Machine {
        /// What was being tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl ShimError {
    /// For `map_err`: the machine failed while `doing`.
    pub(crate) fn machine(doing: &'static str) -> impl FnOnce(io::Error) -> ShimError {
        move |source| ShimError::Machine { doing, source }
    }
}

/// A log could not be read, or an image not be made from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The file does not begin as a log of this version does.
    #[error("not a log of this version")]
    NotALog,
    /// A record makes no sense where it stands. The log was put together
    /// wrongly, or somebody else than SQLite changed a recorded file.
    #[error("record {record}: {why}")]
    Inconsistent {
        /// Its number, from 0.
        record: usize,
        /// What is wrong.
        why: String,
    },
    /// No such image: the log has fewer records than the cut asks for, or the
    /// cut lies within the files that were there before.
    #[error("the log has no cut {cut}")]
    NoSuchCut {
        /// The number of records before the cut.
        cut: usize,
    },
    /// The directory that an image was to be written to holds files already.
    /// Nothing was written.
    #[error("{} is not empty", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// The machine got in the way.
    #[error("failed to {doing}")]
    Machine {
        /// What was being tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl LogError {
    /// For `map_err`: the machine failed while `doing`.
    pub(crate) fn machine(doing: &'static str) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Machine { doing, source }
    }
}
