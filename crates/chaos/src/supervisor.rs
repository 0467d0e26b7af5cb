//! Starts a victim, reads its acknowledgements with a deadline, and kills it.
//!
//! The protocol is one line per fact on standard output. A line `ack <payload>`
//! is a promise, printed *after* the commit that it speaks of; every other line
//! is talk. A line that was complete before the victim died counts, also when
//! it was still in the pipe. Dropping a [`Victim`] kills it with everything
//! that it started.
//!
//! A victim that says more than [`TALK_BYTES_MAX`] is given up: every call that would
//! keep more of its words is [`HarnessError::TalksTooMuch`]. No wait is longer because
//! lines keep coming.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_core::Deadline;
use agentos_process::{Child, CommandSpec, Exit, NextLine, ProcessError, Signal, Sink, Spawner};

use crate::clock::{self, End};
use crate::error::HarnessError;
use crate::interrupt::Interrupt;
use crate::limits::{INTERRUPT_POLL, LATE_BYTES_MAX, LINE_BYTES, TALK_BYTES_MAX, WAIT_MAX};
use crate::transcript::{ACK_PREFIX, Shared, Transcript};

/// A victim's program and surroundings, built step by step.
#[derive(Debug, Clone)]
pub struct VictimSpec {
    name: String,
    command: CommandSpec,
    stderr_log: Option<PathBuf>,
    kills_itself: bool,
    ack_prefix: String,
}

impl VictimSpec {
    /// A program under a name that reports and evidence use.
    pub fn new(name: impl Into<String>, program: impl Into<OsString>) -> VictimSpec {
        VictimSpec {
            name: name.into(),
            command: CommandSpec::new(program),
            stderr_log: None,
            kills_itself: false,
            ack_prefix: ACK_PREFIX.to_owned(),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> VictimSpec {
        self.command = self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I>(mut self, args: I) -> VictimSpec
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.command = self.command.args(args);
        self
    }

    /// Sets a variable of the environment, which is otherwise the harness's.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> VictimSpec {
        self.command = self.command.env(key, value);
        self
    }

    /// Runs in this directory.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> VictimSpec {
        self.command = self.command.cwd(cwd);
        self
    }

    /// Appends standard error to this file. Without it, a victim started
    /// through [`Run::start`](crate::Run::start) gets a file of its own that
    /// goes into the evidence, and any other victim loses it.
    #[must_use]
    pub fn stderr_log(mut self, path: impl Into<PathBuf>) -> VictimSpec {
        self.stderr_log = Some(path.into());
        self
    }

    /// Says that the victim sends itself SIGKILL at a place of its own choice:
    /// such an end is then its own, and not taken for the out-of-memory
    /// killer's.
    #[must_use]
    pub fn kills_itself(mut self) -> VictimSpec {
        self.kills_itself = true;
        self
    }

    /// What an acknowledgement begins with, [`ACK_PREFIX`] unless said otherwise:
    /// for a program that has its own words.
    #[must_use]
    pub fn ack_prefix(mut self, prefix: impl Into<String>) -> VictimSpec {
        self.ack_prefix = prefix.into();
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn log(&self) -> Option<&Path> {
        self.stderr_log.as_deref()
    }
}

/// A running victim.
#[derive(Debug)]
pub struct Victim {
    child: Child,
    transcript: Shared,
    /// The scenario's own end: no wait goes beyond it.
    end: End,
    kills_itself: bool,
    /// Acknowledgements in the transcript.
    acked: usize,
    /// `wait_for_line` has looked at this many lines.
    looked_at: usize,
    /// Bytes of memory that all its words took.
    talked: u64,
}

/// One wait for lines. What is there when its time is over still counts, as when there
/// was none from the beginning; what keeps coming does not.
#[derive(Debug)]
struct Wait {
    deadline: Deadline,
    late_bytes: usize,
}

impl Victim {
    /// Starts a victim that no [`Run`](crate::Run) knows of.
    ///
    /// # Errors
    ///
    /// [`HarnessError::NotStarted`] when its program cannot be run,
    /// [`HarnessError::Machine`] when the machine has no room for it.
    pub fn start(spec: &VictimSpec) -> Result<Victim, HarnessError> {
        let end = End::new(WAIT_MAX, Interrupt::new());
        Victim::start_for(spec, Shared::new(&spec.name), end, None)
    }

    pub(crate) fn start_for(
        spec: &VictimSpec,
        transcript: Shared,
        end: End,
        spawner: Option<&mut dyn Spawner>,
    ) -> Result<Victim, HarnessError> {
        let stderr = match &spec.stderr_log {
            None => Sink::Null,
            Some(path) => OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map(Sink::File)
                .map_err(HarnessError::machine(format!("open {}", path.display())))?,
        };
        let child = match spawner {
            None => Child::spawn(&spec.command, stderr),
            Some(spawner) => Child::spawn_by(&spec.command, stderr, spawner),
        };
        let child = child.map_err(|source| {
            if source.is_machine() {
                HarnessError::machine(format!("start victim {}", spec.name))(source)
            } else {
                HarnessError::NotStarted {
                    victim: spec.name.clone(),
                    source,
                }
            }
        })?;
        transcript.lock().ack_prefix.clone_from(&spec.ack_prefix);
        Ok(Victim {
            child,
            transcript,
            end,
            kills_itself: spec.kills_itself,
            acked: 0,
            looked_at: 0,
            talked: 0,
        })
    }

    /// The victim's name.
    pub fn name(&self) -> String {
        self.transcript.lock().victim.clone()
    }

    /// The victim's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The payloads of the acknowledgements read so far, in order.
    pub fn acks(&self) -> Vec<String> {
        self.transcript.lock().acks()
    }

    /// The other lines read so far, in order.
    pub fn said(&self) -> Vec<String> {
        self.transcript.lock().said()
    }

    /// All that it said so far, and how it ended.
    pub(crate) fn transcript(&self) -> Transcript {
        self.transcript.lock().clone()
    }

    /// Reads until the victim has acknowledged `count` times in its whole life,
    /// and returns all payloads read so far.
    ///
    /// # Errors
    ///
    /// [`HarnessError::Ended`], [`HarnessError::KilledByOthers`] or
    /// [`HarnessError::TimedOut`] when that does not come; what it printed
    /// until then is still in [`acks`](Self::acks). [`HarnessError::TalksTooMuch`] when
    /// it has printed more than is kept.
    pub fn wait_for_acks(
        &mut self,
        count: usize,
        timeout: Duration,
    ) -> Result<Vec<String>, HarnessError> {
        let mut wait = self.begin_wait(timeout);
        while self.acked < count {
            self.read_line(&mut wait, || format!("{count} acknowledgements"))?;
        }
        Ok(self.acks())
    }

    /// Reads until a line (acknowledgements included) satisfies `matches`, and
    /// returns it. The search begins behind the line that the last call of this
    /// method returned; `what` names it in errors.
    ///
    /// # Errors
    ///
    /// As [`wait_for_acks`](Self::wait_for_acks).
    pub fn wait_for_line(
        &mut self,
        what: &str,
        timeout: Duration,
        mut matches: impl FnMut(&str) -> bool,
    ) -> Result<String, HarnessError> {
        let mut wait = self.begin_wait(timeout);
        loop {
            let line = self.transcript.lock().lines.get(self.looked_at).cloned();
            match line {
                Some(line) => {
                    self.looked_at += 1;
                    if matches(&line) {
                        return Ok(line);
                    }
                }
                None => self.read_line(&mut wait, || what.to_owned())?,
            }
        }
    }

    /// Waits for the victim to end by itself, and reads all it prints.
    ///
    /// # Errors
    ///
    /// [`HarnessError::TimedOut`] when it goes on (and is not killed),
    /// [`HarnessError::KilledByOthers`] when a foreign SIGKILL ended it,
    /// [`HarnessError::TalksTooMuch`] when it has printed more than is kept.
    pub fn wait_for_exit(&mut self, timeout: Duration) -> Result<Exit, HarnessError> {
        let mut wait = self.begin_wait(timeout);
        while let NextLine::Line(line) = self.next_line(&mut wait)? {
            self.push(&line)?;
        }
        match self.wait(wait.deadline)? {
            Some(exit) => {
                let arrived = self.take_what_arrived();
                self.note_exit(exit, false)?;
                arrived.map(|()| exit)
            }
            None => Err(self.timed_out(wait.deadline, "its end".to_owned())),
        }
    }

    /// Kills the victim, and whatever it started, with SIGKILL, now.
    ///
    /// The returned transcript holds every line that was complete before the
    /// victim died. When this returns, nothing of the victim runs any more. A
    /// victim that had finished by itself, with code 0, is no error:
    /// [`Transcript::killed`] is false then.
    ///
    /// # Errors
    ///
    /// [`HarnessError::Ended`] when it had ended by itself in any other way,
    /// [`HarnessError::KilledByOthers`] when a foreign SIGKILL had come first,
    /// [`HarnessError::TalksTooMuch`] when it had printed more than is kept. Nothing of
    /// it runs then either.
    pub fn kill(&mut self) -> Result<Transcript, HarnessError> {
        let before = self.child.try_wait();
        let before = before.map_err(|source| self.process_error(source))?;
        let exit = self.child.kill();
        let exit = exit.map_err(|source| self.process_error(source))?;
        let arrived = self.take_what_arrived();
        self.note_exit(exit, before.is_none() && exit.is_sigkill())?;
        arrived?;
        if exit.is_sigkill() || exit.success() {
            Ok(self.transcript.lock().clone())
        } else {
            Err(self.ended(exit, "its kill".to_owned()))
        }
    }

    /// [`kill`](Self::kill) after an offset that is measured by spinning: a
    /// sleep could not hit a moment between two system calls.
    ///
    /// # Errors
    ///
    /// As [`kill`](Self::kill).
    pub fn kill_after(&mut self, offset: Duration) -> Result<Transcript, HarnessError> {
        clock::spin(offset);
        self.kill()
    }

    /// Stops the victim's process with SIGSTOP, in the middle of whatever it
    /// does. What it started goes on.
    ///
    /// # Errors
    ///
    /// [`HarnessError::Machine`] when the signal cannot be sent.
    pub fn pause(&mut self) -> Result<(), HarnessError> {
        self.signal(Signal::Stop)
    }

    /// Lets a paused victim go on.
    ///
    /// # Errors
    ///
    /// [`HarnessError::Machine`] when the signal cannot be sent.
    pub fn resume(&mut self) -> Result<(), HarnessError> {
        self.signal(Signal::Continue)
    }

    fn signal(&mut self, signal: Signal) -> Result<(), HarnessError> {
        self.child
            .signal(signal)
            .map_err(|source| self.process_error(source))
    }

    fn begin_wait(&self, timeout: Duration) -> Wait {
        Wait {
            deadline: self.end.or_after(timeout),
            late_bytes: 0,
        }
    }

    fn next_line(&mut self, wait: &mut Wait) -> Result<NextLine, HarnessError> {
        loop {
            let over = wait.deadline.passed() || self.end.is_interrupted();
            if over && LATE_BYTES_MAX <= wait.late_bytes {
                return Ok(NextLine::TimedOut);
            }
            let left = match over {
                true => Duration::ZERO,
                false => wait.deadline.remaining().min(INTERRUPT_POLL),
            };
            let line = self.child.next_line(left);
            match line.map_err(|source| self.process_error(source))? {
                NextLine::TimedOut if !over => {}
                NextLine::Line(line) => {
                    wait.late_bytes += if over { line.len() + 1 } else { 0 };
                    return Ok(NextLine::Line(line));
                }
                line => return Ok(line),
            }
        }
    }

    /// Waits for its end, which may be long after its last line.
    fn wait(&mut self, deadline: Deadline) -> Result<Option<Exit>, HarnessError> {
        loop {
            let exit = self.child.wait(deadline.remaining().min(INTERRUPT_POLL));
            match exit.map_err(|source| self.process_error(source))? {
                None if !deadline.passed() && !self.end.is_interrupted() => {}
                exit => return Ok(exit),
            }
        }
    }

    /// Reads one line into the transcript, or says why none comes.
    fn read_line(
        &mut self,
        wait: &mut Wait,
        waiting_for: impl Fn() -> String,
    ) -> Result<(), HarnessError> {
        let deadline = wait.deadline;
        match self.next_line(wait)? {
            NextLine::Line(line) => self.push(&line),
            NextLine::TimedOut => Err(self.timed_out(deadline, waiting_for())),
            NextLine::Eof => match self.wait(deadline)? {
                Some(exit) => {
                    self.note_exit(exit, false)?;
                    Err(self.ended(exit, waiting_for()))
                }
                None => Err(self.timed_out(deadline, waiting_for())),
            },
        }
    }

    /// Bytes that are no UTF-8 become replacement characters, so that such an
    /// acknowledgement matches nothing. What goes beyond the bound is not kept.
    fn push(&mut self, line: &[u8]) -> Result<(), HarnessError> {
        let line = String::from_utf8_lossy(line).into_owned();
        self.talked += LINE_BYTES + line.len() as u64;
        if TALK_BYTES_MAX < self.talked {
            return Err(HarnessError::TalksTooMuch {
                victim: self.name(),
                bytes_max: TALK_BYTES_MAX,
            });
        }
        let mut transcript = self.transcript.lock();
        self.acked += usize::from(line.starts_with(&transcript.ack_prefix));
        transcript.lines.push(line);
        Ok(())
    }

    fn take_what_arrived(&mut self) -> Result<(), HarnessError> {
        loop {
            let lines = self.child.drain_lines();
            let lines = lines.map_err(|source| self.process_error(source))?;
            if lines.is_empty() {
                return Ok(());
            }
            for line in &lines {
                self.push(line)?;
            }
        }
    }

    /// Keeps how it ended; a SIGKILL that nobody here sent is an error. An end
    /// that is known already stays as it is.
    fn note_exit(&self, exit: Exit, killed: bool) -> Result<(), HarnessError> {
        let mut transcript = self.transcript.lock();
        if transcript.exit.is_none() {
            transcript.exit = Some(exit);
            transcript.killed = killed;
        }
        if exit.is_sigkill() && !transcript.killed && !self.kills_itself {
            return Err(HarnessError::KilledByOthers {
                victim: transcript.victim.clone(),
            });
        }
        Ok(())
    }

    fn ended(&self, exit: Exit, waiting_for: String) -> HarnessError {
        HarnessError::Ended {
            victim: self.name(),
            exit,
            waiting_for,
        }
    }

    fn timed_out(&self, deadline: Deadline, waiting_for: String) -> HarnessError {
        HarnessError::TimedOut {
            victim: self.name(),
            waiting_for,
            waited_ms: u64::try_from(deadline.waited().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn process_error(&self, source: ProcessError) -> HarnessError {
        match source {
            ProcessError::LineTooLong { .. } => HarnessError::Unreadable {
                victim: self.name(),
                source,
            },
            source => HarnessError::machine(format!("supervise victim {}", self.name()))(source),
        }
    }
}

impl Drop for Victim {
    /// A victim that the scenario gave up on is killed like any other, and its
    /// last words go into the evidence.
    fn drop(&mut self) {
        if self.transcript.lock().exit.is_none() {
            // The scenario has its verdict already: nothing to report to.
            let _ = self.kill();
        }
    }
}
