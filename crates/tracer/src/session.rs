//! Starts the tracer's thread, and hands the child over to it.
//!
//! Who does what, in this order; X is the thread that spawns, T the tracer's:
//!
//! 1. X makes two pipes, starts T, and adds a step to the child's start.
//! 2. The child says its process id, and waits.
//! 3. T seizes it (`PTRACE_SEIZE`: stops of job control stay what they are, and
//!    no stop is lost) and lets it go. The child installs the filter and
//!    executes the program.
//! 4. T stops at that execution and waits until X has opened a pidfd. Up to
//!    here T reaps nothing: a child that could not execute its program belongs
//!    to X, which is waiting for it.
//! 5. From then on T alone reaps, and passes the exit status on.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentos_process::Reaper;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::libc;
use nix::sys::ptrace::{self, Options};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, waitid};

use crate::engine::{Alive, Engine};
use crate::error::TraceError;
use crate::filter;
use crate::limits::{KILL_WAIT, REAP_WAIT, START_WAIT};
use crate::plan::Plan;
use crate::sys::{Resume, before_exec, install_filter, resume};
use crate::trace::Trace;

const SEIZE: &str = "trace a process (ptrace)";
const FILTER: &str = "install a filter for system calls (seccomp)";

/// A message to T, as it passes through the pipe: a kind, and a number.
type Message = [i32; 2];
/// From the child: its process id.
const READY: i32 = 1;
/// From the child: the error number with which its filter was refused.
const REFUSED: i32 = 2;
/// From X: the child could not be spawned.
const GIVEN_UP: i32 = 3;

/// A run as X sees it. Dropping it kills the tree.
#[derive(Debug)]
pub(crate) struct Session {
    to_tracer: PipeWriter,
    taken: Sender<()>,
    exit: Receiver<ExitStatus>,
    done: Receiver<Result<Trace, TraceError>>,
    alive: Arc<Alive>,
}

/// The tracer's word on how the first process ended.
#[derive(Debug)]
struct Word(Receiver<ExitStatus>);

impl Reaper for Word {
    fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        match self.0.recv_timeout(REAP_WAIT) {
            Ok(status) => Ok(Some(status)),
            // T ended without reaping it.
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Session {
    /// Starts T, and has the child wait for it before it executes its program.
    pub(crate) fn prepare(plan: Plan, command: &mut Command) -> Result<Session, TraceError> {
        let doing = "start the tracer";
        // All four ends are close-on-exec.
        let (from_child, to_tracer) = io::pipe().map_err(TraceError::machine(doing))?;
        let (from_tracer, to_child) = io::pipe().map_err(TraceError::machine(doing))?;
        let says = to_tracer.try_clone().map_err(TraceError::machine(doing))?;
        let (taken, is_taken) = bounded(1);
        let (exit_to, exit) = bounded(1);
        let (done_to, done) = bounded(1);
        let alive = Arc::new(Alive::default());
        let tracer = Tracing {
            from_child,
            to_child,
            is_taken,
            plan,
            alive: Arc::clone(&alive),
            exit: exit_to,
        };
        thread::Builder::new()
            .name("agentos-tracer".to_owned())
            .spawn(move || {
                // Nobody may be waiting any more.
                let _ = done_to.send(tracer.run());
            })
            .map_err(TraceError::machine(doing))?;
        let filter = filter::program();
        before_exec(command, move || {
            say(&says, [READY, getpid().as_raw_nonzero().get()])?;
            match answer(&from_tracer)? {
                0 => {}
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
            install_filter(&filter).inspect_err(|error| {
                let _ = say(&says, [REFUSED, error.raw_os_error().unwrap_or(0)]);
            })
        });
        Ok(Session {
            to_tracer,
            taken,
            exit,
            done,
            alive,
        })
    }

    /// The child could not be spawned; returns why, if that lies here.
    pub(crate) fn failed(&self) -> Option<TraceError> {
        let _ = say(&self.to_tracer, [GIVEN_UP, 0]);
        match self.done.recv_timeout(START_WAIT) {
            Ok(Err(TraceError::NotStarted)) => None,
            Ok(Err(own)) => Some(own),
            Ok(Ok(_)) | Err(_) => None,
        }
    }

    /// The child has executed its program and is watched: T may go on.
    pub(crate) fn started(&self) -> Box<dyn Reaper> {
        // A tracer that has ended already has nothing to hear.
        let _ = self.taken.try_send(());
        Box::new(Word(self.exit.clone()))
    }

    /// Waits for the end of the tree, and ends it when that does not come.
    pub(crate) fn finish(&self, wait: Duration) -> Result<Trace, TraceError> {
        let lost = || {
            TraceError::machine("hear from the tracer's thread")(io::Error::from(
                io::ErrorKind::BrokenPipe,
            ))
        };
        match self.done.recv_timeout(wait) {
            Ok(done) => return done,
            Err(RecvTimeoutError::Disconnected) => return Err(lost()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let left_running = self.alive.kill();
        match self.done.recv_timeout(KILL_WAIT) {
            Ok(done) => done.map(|trace| Trace {
                left_running,
                ..trace
            }),
            Err(RecvTimeoutError::Disconnected) => Err(lost()),
            Err(RecvTimeoutError::Timeout) => {
                let source = io::Error::from(io::ErrorKind::TimedOut);
                Err(TraceError::machine("end a traced tree")(source))
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.alive.kill();
    }
}

/// Writes a message in one piece. Allocates nothing: the child calls it.
fn say(to: &PipeWriter, [kind, value]: Message) -> io::Result<()> {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&kind.to_ne_bytes());
    bytes[4..].copy_from_slice(&value.to_ne_bytes());
    let mut to = to;
    to.write_all(&bytes)
}

/// T's answer, an error number. Allocates nothing: the child calls it. It holds
/// the other end of this pipe too, so it would wait for ever for one that died.
fn answer(from: &PipeReader) -> io::Result<i32> {
    let timeout = Timespec {
        tv_sec: START_WAIT.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(from, PollFlags::IN)];
    if poll(&mut fds, Some(&timeout))? == 0 {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    let mut bytes = [0; 4];
    let mut from = from;
    from.read_exact(&mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

/// A run as T sees it.
struct Tracing {
    from_child: PipeReader,
    to_child: PipeWriter,
    is_taken: Receiver<()>,
    plan: Plan,
    alive: Arc<Alive>,
    exit: Sender<ExitStatus>,
}

impl Tracing {
    fn run(mut self) -> Result<Trace, TraceError> {
        let child = match self.hear()? {
            [READY, child] => child,
            _ => return Err(TraceError::NotStarted),
        };
        if let Err(error) = ptrace::seize(nix::unistd::Pid::from_raw(child), options()) {
            self.answer(error as i32)?;
            return Err(TraceError::refused(SEIZE, error.into()));
        }
        self.answer(0)?;
        if !until_executed(child)? {
            return Err(self.why_not_executed());
        }
        self.alive
            .add(child)
            .map_err(TraceError::machine("watch a traced process"))?;
        if self.is_taken.recv_timeout(START_WAIT).is_err() {
            self.alive.kill();
            return Err(TraceError::NotStarted);
        }
        Engine::new(child, self.plan, self.alive, self.exit).run()
    }

    /// The next message; none when X gave up and the child is gone.
    fn hear(&mut self) -> Result<Message, TraceError> {
        let mut bytes = [0; 8];
        match self.from_child.read_exact(&mut bytes) {
            Ok(()) => {
                let half = |at: usize| {
                    i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
                };
                Ok([half(0), half(4)])
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([GIVEN_UP, 0]),
            Err(error) => Err(TraceError::machine("hear from a child")(error)),
        }
    }

    fn answer(&mut self, errno: i32) -> Result<(), TraceError> {
        let sent = self.to_child.write_all(&errno.to_ne_bytes());
        sent.map_err(TraceError::machine("answer a child"))
    }

    /// The child has ended before it executed its program. X says so in the
    /// end; the child may have said more before.
    fn why_not_executed(&mut self) -> TraceError {
        match self.hear() {
            Ok([REFUSED, errno]) => {
                TraceError::refused(FILTER, io::Error::from_raw_os_error(errno))
            }
            Ok(_) => TraceError::NotStarted,
            Err(error) => error,
        }
    }
}

fn options() -> Options {
    Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACESECCOMP
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
}

/// Lets the child go until it stands at the execution of its program; `false`
/// when it ended before. Never reaps it.
fn until_executed(child: i32) -> Result<bool, TraceError> {
    let failed = |source: Errno| TraceError::machine("wait for a traced child")(source);
    let any = WaitIdOptions::from_bits_retain((libc::__WALL | libc::__WNOTHREAD) as u32);
    let Some(pid) = Pid::from_raw(child) else {
        return Ok(false);
    };
    loop {
        let look = any | WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(pid), look) {
            Ok(Some(status)) if status.trapped() => {}
            Ok(None) | Err(Errno::INTR) => continue,
            Ok(Some(_)) | Err(Errno::CHILD) => return Ok(false),
            Err(error) => return Err(failed(error)),
        }
        let take = any | WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let stop = match waitid(WaitId::Pid(pid), take) {
            Ok(Some(status)) => status.trapping_signal().unwrap_or(0),
            Ok(None) | Err(Errno::INTR) => continue,
            Err(Errno::CHILD) => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        let (event, signal) = (stop >> 8, stop & 0x7f);
        if event == libc::PTRACE_EVENT_EXEC {
            return Ok(true);
        }
        // Calls before the execution are not the program's.
        let signal = if event == 0 { signal } else { 0 };
        match resume(child, Resume::Continue, signal) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => return Err(TraceError::machine("let a traced child go on")(error)),
        }
    }
}
