//! Runs a command to its end, bounded in time and in output.
//!
//! One thread reads both streams and watches the process; whatever the command
//! started in its group is killed when the command itself has ended, so a
//! background process that keeps a pipe open cannot hold anybody up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use crate::cancel::CancelToken;
use crate::clock::{Deadline, Stopwatch};
use crate::command::CommandSpec;
use crate::error::ProcessError;
use crate::exit::Outcome;
use crate::group::Group;
use crate::pipe;

/// What a bounded [`run`] brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub outcome: Outcome,
    /// The first `max_output` bytes of standard output, exactly as written.
    pub stdout: Vec<u8>,
    /// The first `max_output` bytes of standard error, exactly as written.
    pub stderr: Vec<u8>,
    /// Whether standard output was longer than what was kept.
    pub stdout_truncated: bool,
    /// Whether standard error was longer than what was kept.
    pub stderr_truncated: bool,
    /// From the start of the guardian to the end of the group.
    pub duration: Duration,
}

impl Finished {
    /// Whether the program exited with code 0.
    pub fn success(&self) -> bool {
        self.outcome.success()
    }
}

/// Runs `spec` and waits for it, from its start at most its timeout (plus,
/// after a kill, the moment that the kernel needs).
///
/// Output beyond `max_output` is read and dropped, so that the command never
/// blocks on a full pipe, and marked as truncated. When the command has ended,
/// or its timeout has passed, everything in its group is killed; what such a
/// background process would have printed later is not waited for. On return
/// nothing of the group runs any more.
///
/// # Errors
///
/// That the command fails, dies or times out is no error. See [`ProcessError`]
/// for what is: mostly that it could not be started.
pub fn run(spec: &CommandSpec) -> Result<Finished, ProcessError> {
    finish(spec, None, None)
}

/// As [`run`], and kills the whole group at once when `cancel` is cancelled
/// meanwhile. A command that had ended by itself by then keeps its own end.
///
/// # Errors
///
/// As [`run`]; [`ProcessError::Cancelled`] when it was cancelled before anything was
/// started.
pub fn run_until(spec: &CommandSpec, cancel: &CancelToken) -> Result<Finished, ProcessError> {
    refuse_cancelled(spec, Some(cancel))?;
    finish(spec, Some(cancel), None)
}

/// As [`run_until`], also without a token, and asks `goes_on` at every `interval`
/// meanwhile. When that says no the whole group is killed, as if it were cancelled.
///
/// # Errors
///
/// As [`run_until`].
pub fn run_while(
    spec: &CommandSpec,
    cancel: Option<&CancelToken>,
    interval: Duration,
    mut goes_on: impl FnMut() -> bool,
) -> Result<Finished, ProcessError> {
    refuse_cancelled(spec, cancel)?;
    let watch = Watch {
        interval,
        goes_on: &mut goes_on,
    };
    finish(spec, cancel, Some(watch))
}

fn refuse_cancelled(spec: &CommandSpec, cancel: Option<&CancelToken>) -> Result<(), ProcessError> {
    if cancel.is_some_and(CancelToken::is_cancelled) {
        return Err(ProcessError::Cancelled {
            program: spec.program.clone(),
        });
    }
    Ok(())
}

/// Who is asked, and how often, whether the command goes on.
struct Watch<'w> {
    interval: Duration,
    goes_on: &'w mut dyn FnMut() -> bool,
}

fn finish(
    spec: &CommandSpec,
    cancel: Option<&CancelToken>,
    mut watched: Option<Watch<'_>>,
) -> Result<Finished, ProcessError> {
    let watch = Stopwatch::start();
    let mut group = Group::start(spec, Stdio::piped(), Stdio::piped(), None)?;
    // The command's time does not begin before the command: starting the
    // guardian on a busy machine is not its fault.
    let deadline = Deadline::after(spec.timeout);
    let mut stdout = Capture::new(group.main.take_stdout(), spec.max_output);
    let mut stderr = Capture::new(group.main.take_stderr(), spec.max_output);
    let mut buffer = Vec::new();
    let interval = watched.as_ref().map(|watch| watch.interval);
    let next_look = || interval.map_or(Deadline::NEVER, Deadline::after);
    let mut look = next_look();

    let killed_for = loop {
        let fds = [
            Some(group.main.pidfd()),
            cancel.map(CancelToken::fd),
            stdout.fd(),
            stderr.fd(),
        ];
        let [ended, cancelled, out, err] = pipe::readable(fds, deadline.earlier(look))?;
        // The end of the command comes first: a process that left the group
        // must not keep us reading.
        if ended {
            break None;
        }
        if cancelled {
            break Some(Outcome::Cancelled);
        }
        // Also while output keeps coming: a talkative command has no more time
        // than a silent one.
        if deadline.passed() {
            break Some(Outcome::TimedOut);
        }
        if let Some(watch) = &mut watched
            && look.passed()
        {
            if !(watch.goes_on)() {
                break Some(Outcome::Cancelled);
            }
            look = next_look();
        }
        if out {
            stdout.read(&mut buffer)?;
        }
        if err {
            stderr.read(&mut buffer)?;
        }
    };

    let exit = group.end()?;
    stdout.drain()?;
    stderr.drain()?;
    // A command that exited by itself in the instant before the kill did exit by
    // itself.
    let outcome = match killed_for {
        Some(reason) if exit.is_sigkill() => reason,
        _ => Outcome::from(exit),
    };
    Ok(Finished {
        outcome,
        stdout: stdout.kept,
        stderr: stderr.kept,
        stdout_truncated: stdout.truncated,
        stderr_truncated: stderr.truncated,
        duration: watch.elapsed(),
    })
}

/// One stream: the first bytes are kept, the rest is read and dropped.
struct Capture {
    fd: Option<OwnedFd>,
    kept: Vec<u8>,
    bytes_max: usize,
    truncated: bool,
}

impl Capture {
    fn new(pipe: Option<impl Into<OwnedFd>>, bytes_max: usize) -> Capture {
        Capture {
            fd: pipe.map(Into::into),
            kept: Vec::new(),
            bytes_max,
            truncated: false,
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.bytes_max.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.truncated |= bytes.len() > room;
    }

    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<(), ProcessError> {
        let Some(fd) = &self.fd else { return Ok(()) };
        let bytes = pipe::read_some(fd, buffer)?;
        if bytes.is_empty() {
            self.fd = None;
        } else {
            self.keep(bytes);
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), ProcessError> {
        let Some(fd) = self.fd.take() else {
            return Ok(());
        };
        pipe::drain(&fd, |bytes| self.keep(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_keeps_the_first_bytes_and_says_when_it_dropped_some() {
        let mut capture = Capture::new(None::<OwnedFd>, 5);
        capture.keep(b"abc");
        capture.keep(b"de");
        assert!(!capture.truncated);
        capture.keep(b"f");
        assert_eq!(capture.kept, b"abcde");
        assert!(capture.truncated);
    }
}
