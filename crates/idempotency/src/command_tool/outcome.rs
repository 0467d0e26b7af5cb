//! How a command ended, and how that is stored.
//!
//! Exit code, signal, timeout and cancelling are told apart; both streams are kept byte
//! for byte. Reading never panics: what is not one of ours is an error.

use std::fmt;
use std::time::Duration;

use agentos_process::{Finished, Outcome};

/// Version of the stored form that this build writes.
///
/// - 1: a byte of version, a byte of how it ended, code or signal (4 bytes, little-endian,
///   zero if there is neither), which streams are cut (bit 0: output, bit 1: error),
///   duration (8 bytes, microseconds), length of the output (8 bytes), output, error.
pub const COMMAND_VERSION: u8 = 1;

const EXITED: u8 = 0;
const SIGNALLED: u8 = 1;
const TIMED_OUT: u8 = 2;
const CANCELLED: u8 = 3;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommandEnd {
    /// It exited with this code.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// A signal that this library did not send killed it.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// Its time was over, and it was killed with all that it started.
    TimedOut,
    /// It was cancelled, and was killed with all that it started.
    Cancelled,
}

impl CommandEnd {
    /// Whether it exited with code 0.
    pub fn is_success(self) -> bool {
        self == CommandEnd::Exited { code: 0 }
    }

    /// The exit code; none for all others.
    pub fn code(self) -> Option<i32> {
        match self {
            CommandEnd::Exited { code } => Some(code),
            _ => None,
        }
    }
}

impl fmt::Display for CommandEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandEnd::Exited { code } => write!(f, "exit code {code}"),
            CommandEnd::Signalled { signal } => write!(f, "signal {signal}"),
            CommandEnd::TimedOut => f.write_str("timed out"),
            CommandEnd::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// What came out of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutcome {
    /// How it ended.
    pub exit: CommandEnd,
    /// What is kept of its standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// What is kept of its standard error, byte for byte.
    pub stderr: Vec<u8>,
    /// Whether there was more standard output than was to be kept.
    pub stdout_cut: bool,
    /// Whether there was more standard error than was to be kept.
    pub stderr_cut: bool,
    /// How long it ran, in microseconds as it is stored.
    pub duration: Duration,
}

/// These bytes are no outcome of a command that this build knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedOutcome {
    /// They end before they should.
    #[error("the outcome of a command is cut off")]
    CutOff,
    /// A newer build wrote them.
    #[error("version {0} of the outcome of a command is unknown")]
    Version(u8),
    /// There is no such end, or it has a number that it cannot have.
    #[error("end {0} of a command is unknown, or has a number that it cannot have")]
    Exit(u8),
    /// There are no such flags.
    #[error("the flags of a command's outcome are {0}")]
    Flags(u8),
}

impl From<Finished> for CommandOutcome {
    fn from(finished: Finished) -> CommandOutcome {
        CommandOutcome {
            exit: match finished.outcome {
                Outcome::Exited { code } => CommandEnd::Exited { code },
                Outcome::Signalled { signal } => CommandEnd::Signalled { signal },
                Outcome::TimedOut => CommandEnd::TimedOut,
                Outcome::Cancelled => CommandEnd::Cancelled,
            },
            stdout: finished.stdout,
            stderr: finished.stderr,
            stdout_cut: finished.stdout_truncated,
            stderr_cut: finished.stderr_truncated,
            duration: Duration::from_micros(micros(finished.duration)),
        }
    }
}

impl CommandOutcome {
    /// Whether it exited with code 0.
    pub fn is_success(&self) -> bool {
        self.exit.is_success()
    }

    /// The stored form: what a probe or an operator gives who has found out how a command
    /// ended.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, number) = match self.exit {
            CommandEnd::Exited { code } => (EXITED, code),
            CommandEnd::Signalled { signal } => (SIGNALLED, signal),
            CommandEnd::TimedOut => (TIMED_OUT, 0),
            CommandEnd::Cancelled => (CANCELLED, 0),
        };
        let mut bytes = vec![COMMAND_VERSION, kind];
        bytes.reserve_exact(21 + self.stdout.len() + self.stderr.len());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.push(u8::from(self.stdout_cut) | u8::from(self.stderr_cut) << 1);
        bytes.extend_from_slice(&micros(self.duration).to_le_bytes());
        bytes.extend_from_slice(&(self.stdout.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.stdout);
        bytes.extend_from_slice(&self.stderr);
        bytes
    }

    /// Reads the stored form.
    ///
    /// # Errors
    ///
    /// [`MalformedOutcome`], for everything that [`CommandOutcome::encode`] does not
    /// write.
    pub fn decode(bytes: &[u8]) -> Result<CommandOutcome, MalformedOutcome> {
        let ([version], rest) = take::<1>(bytes)?;
        if version != COMMAND_VERSION {
            return Err(MalformedOutcome::Version(version));
        }
        let ([kind], rest) = take::<1>(rest)?;
        let (number, rest) = take::<4>(rest)?;
        let ([flags], rest) = take::<1>(rest)?;
        let (duration, rest) = take::<8>(rest)?;
        let (length, rest) = take::<8>(rest)?;
        let exit = match (kind, i32::from_le_bytes(number)) {
            (EXITED, code) => CommandEnd::Exited { code },
            (SIGNALLED, signal) => CommandEnd::Signalled { signal },
            (TIMED_OUT, 0) => CommandEnd::TimedOut,
            (CANCELLED, 0) => CommandEnd::Cancelled,
            _ => return Err(MalformedOutcome::Exit(kind)),
        };
        if 3 < flags {
            return Err(MalformedOutcome::Flags(flags));
        }
        let (stdout, stderr) = usize::try_from(u64::from_le_bytes(length))
            .ok()
            .and_then(|length| rest.split_at_checked(length))
            .ok_or(MalformedOutcome::CutOff)?;
        Ok(CommandOutcome {
            exit,
            stdout: stdout.to_vec(),
            stderr: stderr.to_vec(),
            stdout_cut: flags & 1 != 0,
            stderr_cut: flags & 2 != 0,
            duration: Duration::from_micros(u64::from_le_bytes(duration)),
        })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), MalformedOutcome> {
    bytes
        .split_first_chunk::<N>()
        .map(|(chunk, rest)| (*chunk, rest))
        .ok_or(MalformedOutcome::CutOff)
}
