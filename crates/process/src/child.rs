//! A long-lived child whose standard output is read line by line.
//!
//! A line counts when its newline has arrived, also when the child was killed
//! right after: what it wrote before its death stays in the pipe and can be
//! drained. Dropping the child kills and reaps its whole group.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use crate::clock::Deadline;
use crate::command::CommandSpec;
use crate::error::ProcessError;
use crate::exit::Exit;
use crate::group::Group;
use crate::limits::BUFFERED_BYTES_MAX;
use crate::lines::Lines;
use crate::pipe;
use crate::spawner::Spawner;

/// Where a child's standard error goes.
#[derive(Debug)]
pub enum Sink {
    /// Nowhere.
    Null,
    /// To this process's standard error.
    Inherit,
    /// To a file, from its current position.
    File(File),
}

/// A signal that does not end the group by force; for that see [`Child::kill`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// SIGSTOP: the process stands still until [`Signal::Continue`].
    Stop,
    /// SIGCONT.
    Continue,
    /// SIGTERM.
    Terminate,
    /// SIGINT, as Ctrl-C sends it.
    Interrupt,
    /// SIGHUP.
    Hangup,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
}

/// What [`Child::next_line`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextLine {
    /// A complete line, without its newline, exactly as written.
    Line(Vec<u8>),
    /// No line will come any more: the child closed its output, or it has ended
    /// and its pipe is empty.
    Eof,
    /// The timeout passed without a complete line; a later call goes on.
    TimedOut,
}

/// A running child in a guarded group of its own.
///
/// ```
/// use agentos_process::{Child, CommandSpec, NextLine, Sink};
/// use std::time::Duration;
///
/// let spec = CommandSpec::shell("echo ready; sleep 1000");
/// let mut child = Child::spawn(&spec, Sink::Null)?;
/// let line = child.next_line(Duration::from_secs(10))?;
/// assert_eq!(line, NextLine::Line(b"ready".to_vec()));
/// assert!(child.kill()?.is_sigkill());
/// # Ok::<(), agentos_process::ProcessError>(())
/// ```
#[derive(Debug)]
pub struct Child {
    group: Group,
    stdout: Option<OwnedFd>,
    lines: Lines,
    buffer: Vec<u8>,
}

impl Child {
    /// Starts `spec`; its timeout is not used. Read its lines or
    /// [`wait`](Self::wait) for it: a child whose output nobody reads blocks
    /// when its pipe is full.
    ///
    /// # Errors
    ///
    /// See [`ProcessError`]; whatever was started by then has been killed.
    pub fn spawn(spec: &CommandSpec, stderr: Sink) -> Result<Child, ProcessError> {
        Child::start(spec, stderr, None)
    }

    /// As [`spawn`](Self::spawn), with a [`Spawner`] that prepares the child
    /// and takes charge of it, such as a tracer.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn), and [`ProcessError::Machine`] with the
    /// spawner's own error as its source when the spawner is to blame.
    pub fn spawn_by(
        spec: &CommandSpec,
        stderr: Sink,
        spawner: &mut dyn Spawner,
    ) -> Result<Child, ProcessError> {
        Child::start(spec, stderr, Some(spawner))
    }

    fn start(
        spec: &CommandSpec,
        stderr: Sink,
        spawner: Option<&mut dyn Spawner>,
    ) -> Result<Child, ProcessError> {
        let stderr = match stderr {
            Sink::Null => Stdio::null(),
            Sink::Inherit => Stdio::inherit(),
            Sink::File(file) => Stdio::from(file),
        };
        let mut group = Group::start(spec, Stdio::piped(), stderr, spawner)?;
        let stdout = group.main.take_stdout().map(OwnedFd::from);
        Ok(Child {
            group,
            stdout,
            lines: Lines::new(spec.max_output),
            buffer: Vec::new(),
        })
    }

    /// The child's process id. It names nobody else before the child is reaped
    /// by `try_wait`, `wait` or `kill` (or, once it has ended, by the reaper
    /// of its [`Spawner`]; signals go by the pidfd and reach no stranger).
    pub fn id(&self) -> u32 {
        self.group.main.id()
    }

    /// The number of its process group, which the guardian leads.
    pub fn group_id(&self) -> u32 {
        self.group.id()
    }

    /// The next complete line of standard output.
    ///
    /// # Errors
    ///
    /// [`ProcessError::LineTooLong`] for a line beyond `max_output`, once, in
    /// its place; the next call goes on behind it.
    pub fn next_line(&mut self, timeout: Duration) -> Result<NextLine, ProcessError> {
        let deadline = Deadline::after(timeout);
        loop {
            if let Some(line) = self.lines.pop()? {
                return Ok(NextLine::Line(line));
            }
            let Some(stdout) = &self.stdout else {
                return Ok(NextLine::Eof);
            };
            let ended = self.group.main.exit().is_some();
            let pidfd = (!ended).then(|| self.group.main.pidfd());
            let at = if ended { now() } else { deadline };
            let [out, died] = pipe::readable([Some(stdout.as_fd()), pidfd], at)?;
            if out {
                self.read()?;
                // A stream without newlines must not outrun the deadline.
                if let Some(line) = self.lines.pop()? {
                    return Ok(NextLine::Line(line));
                }
                if deadline.passed() {
                    return Ok(NextLine::TimedOut);
                }
            } else if ended {
                // The child is dead and its pipe is empty. A process that it
                // left behind may hold the pipe open; its words do not count.
                self.stdout = None;
            } else if died {
                // It may have written between the two looks of one poll: reap
                // it, then look once more.
                self.try_wait()?;
            } else if deadline.passed() {
                return Ok(NextLine::TimedOut);
            }
        }
    }

    /// All complete lines that have arrived, without waiting. After
    /// [`kill`](Self::kill) these are the last words.
    ///
    /// # Errors
    ///
    /// [`ProcessError::LineTooLong`] when the *first* of them is too long; the
    /// next call goes on behind it.
    pub fn drain_lines(&mut self) -> Result<Vec<Vec<u8>>, ProcessError> {
        if let Some(stdout) = &self.stdout {
            let lines = &mut self.lines;
            pipe::drain(stdout, |bytes| lines.push(bytes))?;
        }
        self.lines.pop_all()
    }

    /// Sends a signal to the child alone, not to the rest of its group: a
    /// stopped guardian could not guard. One that has ended is left alone.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Machine`] when the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        use rustix::process::Signal as Raw;
        self.group.main.signal(match signal {
            Signal::Stop => Raw::STOP,
            Signal::Continue => Raw::CONT,
            Signal::Terminate => Raw::TERM,
            Signal::Interrupt => Raw::INT,
            Signal::Hangup => Raw::HUP,
            Signal::User1 => Raw::USR1,
            Signal::User2 => Raw::USR2,
        })
    }

    /// Sends SIGKILL to the whole group, reaps the child, and returns when
    /// nothing of the group runs any more. Stopped processes die too. A child
    /// that had ended before keeps its own exit. Lines that it wrote before its
    /// death can still be read.
    ///
    /// # Errors
    ///
    /// [`ProcessError::StillRunning`] when the group survives
    /// [`KILL_WAIT`](crate::limits::KILL_WAIT) in an uninterruptible call.
    pub fn kill(&mut self) -> Result<Exit, ProcessError> {
        self.group.end()
    }

    /// How the child ended, if it has. Other processes of its group may run on
    /// until [`kill`](Self::kill) or drop.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Machine`] when it cannot be reaped.
    pub fn try_wait(&mut self) -> Result<Option<Exit>, ProcessError> {
        self.group.main.wait(now())
    }

    /// Waits for the child to end by itself; `None` when the timeout came first
    /// (it is not killed then). Lines that arrive meanwhile are kept for
    /// [`next_line`](Self::next_line), up to 8 MiB of memory.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Machine`] when it cannot be watched or reaped.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Exit>, ProcessError> {
        let deadline = Deadline::after(timeout);
        loop {
            if let Some(exit) = self.group.main.exit() {
                return Ok(Some(exit));
            }
            let stdout = self
                .stdout
                .as_ref()
                .filter(|_| self.lines.buffered() < BUFFERED_BYTES_MAX)
                .map(AsFd::as_fd);
            let [died, out] = pipe::readable([Some(self.group.main.pidfd()), stdout], deadline)?;
            if died {
                return self.try_wait();
            }
            if deadline.passed() {
                return Ok(None);
            }
            if out {
                self.read()?;
            }
        }
    }

    /// Reads once from the pipe, which is known to be readable.
    fn read(&mut self) -> Result<(), ProcessError> {
        let Some(stdout) = &self.stdout else {
            return Ok(());
        };
        let bytes = pipe::read_some(stdout, &mut self.buffer)?;
        if bytes.is_empty() {
            self.stdout = None;
        } else {
            self.lines.push(bytes);
        }
        Ok(())
    }
}

/// A deadline that lets nothing wait.
fn now() -> Deadline {
    Deadline::after(Duration::ZERO)
}
