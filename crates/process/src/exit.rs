//! How a process ended: an exit code and a signal are never mixed up.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How a process ended by itself or by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It exited with this code.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// A signal killed it. It has no exit code.
    Signalled {
        /// The signal's number; 9 is SIGKILL.
        signal: i32,
    },
}

impl Exit {
    /// The number of SIGKILL.
    pub const SIGKILL: i32 = 9;

    /// Whether it exited with code 0.
    pub fn success(self) -> bool {
        self == Exit::Exited { code: 0 }
    }

    /// Whether SIGKILL ended it.
    pub fn is_sigkill(self) -> bool {
        self == Exit::Signalled {
            signal: Exit::SIGKILL,
        }
    }

    pub(crate) fn of(status: ExitStatus) -> Exit {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Exited { code },
            (None, Some(signal)) => Exit::Signalled { signal },
            // A reaped child has exited or was killed; a status that says
            // neither is passed on raw and is no success.
            (None, None) => Exit::Exited {
                code: status.into_raw(),
            },
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Exited { code } => write!(f, "exit code {code}"),
            Exit::Signalled { signal } => write!(f, "signal {signal}"),
        }
    }
}

/// How a bounded [`run`](crate::run()) ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The program exited with this code.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// A signal that this crate did not send killed the program.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// The timeout passed, and the whole group was killed.
    TimedOut,
    /// It was cancelled, and the whole group was killed.
    Cancelled,
}

impl Outcome {
    /// The exit code, if there is one. None of the others has one.
    pub fn code(self) -> Option<i32> {
        match self {
            Outcome::Exited { code } => Some(code),
            Outcome::Signalled { .. } | Outcome::TimedOut | Outcome::Cancelled => None,
        }
    }

    /// Whether the program exited with code 0.
    pub fn success(self) -> bool {
        self.code() == Some(0)
    }
}

impl From<Exit> for Outcome {
    fn from(exit: Exit) -> Outcome {
        match exit {
            Exit::Exited { code } => Outcome::Exited { code },
            Exit::Signalled { signal } => Outcome::Signalled { signal },
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Exited { code } => write!(f, "exit code {code}"),
            Outcome::Signalled { signal } => write!(f, "signal {signal}"),
            Outcome::TimedOut => f.write_str("timed out"),
            Outcome::Cancelled => f.write_str("cancelled"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_wait_status_is_read_as_code_or_signal() {
        let exited = ExitStatus::from_raw(3 << 8);
        let killed = ExitStatus::from_raw(9);
        let dumped = ExitStatus::from_raw(6 | 0x80);
        assert_eq!(Exit::of(exited), Exit::Exited { code: 3 });
        assert_eq!(Exit::of(killed), Exit::Signalled { signal: 9 });
        assert_eq!(Exit::of(dumped), Exit::Signalled { signal: 6 });
        assert!(Exit::of(killed).is_sigkill());
        assert!(!Exit::of(dumped).is_sigkill());
    }

    #[test]
    fn only_code_zero_is_success() {
        assert!(Outcome::Exited { code: 0 }.success());
        assert!(!Outcome::Exited { code: 1 }.success());
        assert!(!Outcome::Signalled { signal: 9 }.success());
        assert!(!Outcome::TimedOut.success());
        assert_eq!(Outcome::TimedOut.code(), None);
    }
}
