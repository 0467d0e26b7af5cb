//! What can go wrong with a child process, sorted by what the caller does next.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Started the guardian of the child's group.
pub(crate) const START_GUARDIAN: &str = "start the guardian of a process group";
/// Put what the child reads into a file in memory.
pub(crate) const PREPARE_STDIN: &str = "prepare a child's standard input";
/// Executed the program.
pub(crate) const START_CHILD: &str = "start a child process";
/// Let a spawner prepare a child.
pub(crate) const START_BY: &str = "start a child process by its spawner";
/// Handed a started child to its spawner.
pub(crate) const TAKE_CHARGE: &str = "hand a child process to its spawner";

/// What the machine was doing before the program was executed, or in place of it.
const BEFORE_IT_RAN: [&str; 4] = [START_GUARDIAN, PREPARE_STDIN, START_CHILD, START_BY];

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
    /// It was cancelled before it was started. Nothing ran.
    #[error("command {program:?} was cancelled before it was started")]
    Cancelled {
        /// The program as it was named.
        program: OsString,
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

    /// Whether it is known that the program was never executed. Otherwise it may have
    /// run, for however short a time.
    pub fn nothing_ran(&self) -> bool {
        match self {
            ProcessError::NotFound { .. }
            | ProcessError::PermissionDenied { .. }
            | ProcessError::WorkingDirectory { .. }
            | ProcessError::Invalid { .. }
            | ProcessError::Cancelled { .. } => true,
            ProcessError::Machine { doing, .. } => BEFORE_IT_RAN.contains(doing),
            ProcessError::LineTooLong { .. } | ProcessError::StillRunning { .. } => false,
        }
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
