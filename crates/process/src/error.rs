//! What can go wrong with a child process, sorted by what the caller does next.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A child process could not be started, read or ended.
///
/// That a program ran and failed is not an error: see
/// [`Outcome`](crate::Outcome) and [`Exit`](crate::Exit).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// There is no such program (or no interpreter that its first line names).
    /// Nothing ran: install it, or correct the command.
    #[error("program {program:?} not found")]
    NotFound {
        /// The program as it was named.
        program: OsString,
        /// What the system said.
        source: io::Error,
    },
    /// The program may not be executed by this user. Nothing ran: correct its
    /// permissions or the command.
    #[error("no permission to execute {program:?}")]
    PermissionDenied {
        /// The program as it was named.
        program: OsString,
        /// What the system said.
        source: io::Error,
    },
    /// The working directory is missing, no directory, or closed to this user.
    /// Nothing ran: correct the directory.
    #[error("working directory {} cannot be entered", path.display())]
    WorkingDirectory {
        /// The directory as it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The command itself can never run: an empty argument list, a NUL byte,
    /// arguments that are too long, a file that is no program. Nothing ran:
    /// correct the command.
    #[error("command {program:?} cannot be run as given")]
    Invalid {
        /// The program as it was named.
        program: OsString,
        /// What the system said.
        source: io::Error,
    },
    /// The machine got in the way (no memory, no process or descriptor left, no
    /// `/bin/sh` for the guardian). What was started has been killed: retry
    /// later, or call an operator.
    #[error("the machine failed to {doing}")]
    Machine {
        /// What was being tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A line of output is longer than the command's `max_output`. The line was
    /// dropped; reading goes on after it.
    #[error("a line of output is longer than {bytes_max} bytes")]
    LineTooLong {
        /// The bound.
        bytes_max: usize,
    },
    /// A process of the group has received SIGKILL and still exists: it sits in
    /// an uninterruptible system call, or another user owns it. Call an
    /// operator; do not assume that it has stopped writing.
    #[error("process group {group} still exists {} ms after SIGKILL", waited.as_millis())]
    StillRunning {
        /// The number of the process group.
        group: u32,
        /// How long it was waited for.
        waited: Duration,
    },
}

impl ProcessError {
    /// Whether the machine, and neither the command nor the program, is to
    /// blame: trying again later can succeed without a change.
    pub fn is_machine(&self) -> bool {
        matches!(
            self,
            ProcessError::Machine { .. } | ProcessError::StillRunning { .. }
        )
    }

    /// For `map_err`: the machine failed while `doing`.
    pub(crate) fn machine<E: Into<io::Error>>(
        doing: &'static str,
    ) -> impl FnOnce(E) -> ProcessError {
        move |source| ProcessError::Machine {
            doing,
            source: source.into(),
        }
    }
}
