//! The tracer's own thread: waits for stops, names them, strikes, lets go.
//!
//! ptrace belongs to a thread, so everything that touches the tree is done
//! here. It waits with `__WALL | __WNOTHREAD`: for what it traces and for
//! nobody else's child. It reaps everything it traces, the first process too,
//! and passes that one's exit status on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;

use crossbeam_channel::Sender;
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace;
use nix::unistd::Pid;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{
    PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, pidfd_send_signal, wait,
};

use crate::calls::{CallKind, If};
use crate::error::TraceError;
use crate::filter::{CREATES, MARK_FOREIGN};
use crate::memory::{arguments, parent_of, process_of, target, word_at};
use crate::plan::{Plan, When};
use crate::strike::failing;
use crate::sys::{Resume, resume};
use crate::trace::{Call, Done, Hit, Trace};
use crate::tree::{Begun, Signature, Tree};

/// What the kernel returns, for itself alone, from a call that a signal
/// interrupted before it did anything: ERESTARTSYS, ERESTARTNOINTR,
/// ERESTARTNOHAND, ERESTART_RESTARTBLOCK.
const INTERRUPTED: [i64; 4] = [-512, -513, -514, -516];

/// The processes of the tree that live, so that others can kill them without
/// ever hitting a stranger.
#[derive(Debug, Default)]
pub(crate) struct Alive {
    processes: Mutex<Processes>,
}

#[derive(Debug, Default)]
struct Processes {
    by_id: BTreeMap<i32, OwnedFd>,
    /// Everything is killed, and what still comes too.
    condemned: bool,
}

impl Alive {
    /// Adds a process that nobody has reaped; one that comes after the end was
    /// decided is killed at once.
    pub(crate) fn add(&self, id: i32) -> io::Result<()> {
        let pid = rustix::process::Pid::from_raw(id).ok_or(Errno::INVAL)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let mut processes = self.processes.lock();
        if processes.condemned {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
        processes.by_id.insert(id, pidfd);
        Ok(())
    }

    fn remove(&self, id: i32) {
        self.processes.lock().by_id.remove(&id);
    }

    /// Sends SIGKILL to every process, and from now on to every new one.
    /// Returns whether there was any.
    pub(crate) fn kill(&self) -> bool {
        let mut processes = self.processes.lock();
        processes.condemned = true;
        for pidfd in processes.by_id.values() {
            // One that has ended already is left alone by the kernel.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        !processes.by_id.is_empty()
    }
}

/// A call that was let in and has not returned.
#[derive(Debug)]
struct Inside {
    call: Call,
    signature: Signature,
    /// Where it is kept in the trace.
    kept: Option<usize>,
    /// The registers as the program had them, when they were changed.
    original: Option<user_regs_struct>,
    strike: Strike,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    Not,
    KillAfter,
    Fail,
}

/// One run of the tracer.
#[derive(Debug)]
pub(crate) struct Engine {
    root: i32,
    plan: Plan,
    tree: Tree<Inside>,
    /// New processes and threads whose creation was not reported yet, with the
    /// signal of their first stop.
    early: BTreeMap<i32, i32>,
    trace: Trace,
    alive: Arc<Alive>,
    exit: Sender<ExitStatus>,
    /// Why the run was ended by this side, if it was.
    failure: Option<TraceError>,
}

/// The next report about anything that this thread traces; `None` when there
/// is nothing left.
fn next_report() -> io::Result<Option<(i32, i32)>> {
    let flags = (libc::__WALL | libc::__WNOTHREAD) as u32;
    loop {
        match wait(WaitOptions::from_bits_retain(flags)) {
            Ok(Some((pid, status))) => {
                return Ok(Some((pid.as_raw_nonzero().get(), status.as_raw())));
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Engine {
    /// Takes over `root`, which stands at the stop of its first execution.
    pub(crate) fn new(
        root: i32,
        plan: Plan,
        alive: Arc<Alive>,
        exit: Sender<ExitStatus>,
    ) -> Engine {
        Engine {
            root,
            plan,
            tree: Tree::new(root),
            early: BTreeMap::new(),
            trace: Trace::default(),
            alive,
            exit,
            failure: None,
        }
    }

    /// Runs until everything that was traced has ended.
    pub(crate) fn run(mut self) -> Result<Trace, TraceError> {
        self.go_on(self.root, Resume::Continue, 0);
        loop {
            match next_report() {
                Ok(Some((id, status))) => self.on_report(id, status),
                Ok(None) => break,
                Err(source) => {
                    // The kernel kills what this thread leaves behind.
                    self.alive.kill();
                    return Err(TraceError::machine("wait for what is traced")(source));
                }
            }
        }
        self.trace.processes = self.tree.processes_seen;
        self.trace.threads = self.tree.threads_seen;
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.trace),
        }
    }

    fn on_report(&mut self, id: i32, status: i32) {
        if !libc::WIFSTOPPED(status) {
            return self.on_end(id, status);
        }
        let signal = libc::WSTOPSIG(status);
        match status >> 16 {
            0 if signal == libc::SIGTRAP | 0x80 => self.on_call_exit(id),
            0 => self.go_on(id, Resume::Continue, signal),
            libc::PTRACE_EVENT_SECCOMP => self.on_call(id),
            event @ (libc::PTRACE_EVENT_FORK
            | libc::PTRACE_EVENT_VFORK
            | libc::PTRACE_EVENT_CLONE) => self.on_creation(id, event),
            libc::PTRACE_EVENT_EXEC => {
                let former = self.message(id).unwrap_or(i64::from(id));
                self.on_execution(id, i32::try_from(former).unwrap_or(id));
                self.go_on(id, Resume::Continue, 0);
            }
            libc::PTRACE_EVENT_STOP if self.tree.knows(id) => self.on_job_control(id, signal),
            libc::PTRACE_EVENT_STOP => self.on_early(id, signal),
            _ => self.go_on(id, Resume::Continue, 0),
        }
    }

    /// A thread is gone, and reaped.
    fn on_end(&mut self, id: i32, status: i32) {
        let was_early = self.early.remove(&id).is_some();
        if id == self.root {
            // Its owner may have lost interest.
            let _ = self.exit.send(ExitStatus::from_raw(status));
        }
        self.adopt_orphans(id);
        if self.tree.remove(id) || id == self.root || was_early {
            self.alive.remove(id);
        }
    }

    /// A process that died while it created another one never reports that: the
    /// new one would wait for ever.
    fn adopt_orphans(&mut self, dead: i32) {
        let waiting: Vec<i32> = self.early.keys().copied().collect();
        for id in waiting {
            // Without its creator it has another parent; a thread dies with
            // its process.
            let parent = parent_of(id);
            if parent.is_none_or(|parent| parent != dead && !self.tree.knows(parent))
                && process_of(id) == Some(id)
            {
                self.welcome(Some(dead), id, true);
            }
        }
    }

    /// A process executes another program; its other threads are gone, and what
    /// they were creating is never reported.
    fn on_execution(&mut self, id: i32, former: i32) {
        self.tree.executed(id, former);
        let waiting: Vec<i32> = self.early.keys().copied().collect();
        for new in waiting {
            if parent_of(new) == Some(id) && process_of(new) == Some(new) {
                self.welcome(Some(id), new, true);
            }
        }
    }

    /// A stop of job control, or the end of one.
    fn on_job_control(&mut self, id: i32, signal: i32) {
        match signal {
            libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => {
                self.go_on(id, Resume::Listen, 0);
            }
            _ => self.go_on(id, Resume::Continue, 0),
        }
    }

    /// The first stop of something new came before the report of its creation,
    /// if that comes at all.
    fn on_early(&mut self, id: i32, signal: i32) {
        self.early.insert(id, signal);
        if process_of(id) == Some(id) {
            self.watch(id);
            if parent_of(id).is_none_or(|parent| !self.tree.knows(parent)) {
                self.welcome(None, id, true);
            }
        }
    }

    /// Makes sure that the process can be killed.
    fn watch(&mut self, id: i32) {
        match self.alive.add(id) {
            Ok(()) => {}
            // It is gone already, and its end is reported next.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => {
                self.give_up(TraceError::machine("watch a new process")(error));
                // Its end is still to be reported here, so its id is its own.
                if let Some(pid) = rustix::process::Pid::from_raw(id) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
    }

    fn on_creation(&mut self, creator: i32, event: i32) {
        if let Some(new) = self.message(creator).and_then(|id| i32::try_from(id).ok()) {
            let of = self.tree.get(creator).map(|thread| thread.process);
            let is_process = event != libc::PTRACE_EVENT_CLONE || process_of(new) != of;
            self.welcome(Some(creator), new, is_process);
        }
        self.go_on(creator, Resume::Continue, 0);
    }

    /// Gives something new its name, and lets it go when it waits already.
    fn welcome(&mut self, creator: Option<i32>, id: i32, is_process: bool) {
        if is_process {
            self.tree.add_process(creator, id);
            self.watch(id);
        } else {
            self.tree.add_thread(creator, id);
        }
        if let Some(signal) = self.early.remove(&id) {
            self.on_job_control(id, signal);
        }
    }

    /// A call is about to be executed.
    fn on_call(&mut self, id: i32) {
        let Ok(regs) = ptrace::getregs(Pid::from_raw(id)) else {
            // It is being killed; its end is reported next.
            return;
        };
        if self.message(id) == Some(i64::from(MARK_FOREIGN)) {
            self.trace.foreign += 1;
            return self.go_on(id, Resume::Continue, 0);
        }
        let args = arguments(&regs);
        let kind = CallKind::of_number(regs.orig_rax).filter(|kind| match kind.row().counted {
            If::Always | If::Flags(_) => true,
            If::How(how) => {
                word_at(id, args[how]).is_some_and(|flags| flags & u64::from(CREATES) != 0)
            }
        });
        let (Some(kind), Some(thread)) = (kind, self.tree.get(id)) else {
            return self.go_on(id, Resume::Continue, 0);
        };
        if !thread.named {
            return self.go_on(id, Resume::Continue, 0);
        }
        let signature = signature(&regs);
        let (nth, again) = thread.next_call(signature);
        let call = Call {
            position: thread.position(nth),
            kind,
            target: target(id, kind.row().on, args),
            result: None,
        };
        let kept = if again {
            self.trace.place_of(&call.position)
        } else {
            self.trace.push(&call)
        };
        let at = call.position.clone();
        let mut inside = Inside {
            call,
            signature,
            kept,
            original: None,
            strike: Strike::Not,
        };
        if self.trace.hit.is_none() && self.plan.position() == Some(&at) {
            match self.plan {
                Plan::Kill {
                    when: When::Before, ..
                } => {
                    self.hit(inside.call, Done::Killed);
                    self.alive.kill();
                    return;
                }
                Plan::Kill { .. } => inside.strike = Strike::KillAfter,
                Plan::Fail { fault, .. } => match failing(id, kind, fault, &regs) {
                    Some(changed) if ptrace::setregs(Pid::from_raw(id), changed).is_ok() => {
                        inside.original = Some(regs);
                        inside.strike = Strike::Fail;
                    }
                    _ => self.hit(inside.call.clone(), Done::Nothing),
                },
                Plan::Count => {}
            }
        }
        if let Some(thread) = self.tree.get(id) {
            thread.begun = Some(Begun { nth, what: inside });
        }
        self.go_on(id, Resume::ToCallExit, 0);
    }

    /// A call has been executed, and the program does not know yet.
    fn on_call_exit(&mut self, id: i32) {
        let Ok(regs) = ptrace::getregs(Pid::from_raw(id)) else {
            return;
        };
        let Some(thread) = self.tree.get(id) else {
            return self.go_on(id, Resume::Continue, 0);
        };
        let Some(Begun { nth, what: inside }) = thread.begun.take() else {
            return self.go_on(id, Resume::Continue, 0);
        };
        let result = regs.rax as i64;
        let is_interrupted = INTERRUPTED.contains(&result);
        if is_interrupted {
            // Made again it is the same call, and is struck then.
            thread.interrupted = Some((nth, inside.signature));
        }
        if let Some(original) = inside.original {
            // The program finds its arguments as it left them, and so does the
            // kernel when it makes the call again.
            let restored = user_regs_struct {
                rax: regs.rax,
                rip: regs.rip,
                rcx: regs.rcx,
                r11: regs.r11,
                ..original
            };
            if let Err(error) = ptrace::setregs(Pid::from_raw(id), restored)
                && error != nix::errno::Errno::ESRCH
            {
                self.give_up(TraceError::machine("restore registers")(io::Error::from(
                    error,
                )));
            }
        }
        if is_interrupted {
            return self.go_on(id, Resume::Continue, 0);
        }
        if let Some(at) = inside.kept {
            self.trace.has_returned(at, result);
        }
        if inside.strike != Strike::Not {
            let call = Call {
                result: Some(result),
                ..inside.call
            };
            if inside.strike == Strike::KillAfter {
                self.hit(call, Done::Killed);
                self.alive.kill();
                return;
            }
            self.hit(call, Done::Failed);
        }
        self.go_on(id, Resume::Continue, 0);
    }

    fn hit(&mut self, call: Call, done: Done) {
        self.trace.hit = Some(Hit {
            call,
            expected: self.plan.expected(),
            done,
        });
    }

    /// Ends the run: the tree is killed, and this is why.
    fn give_up(&mut self, why: TraceError) {
        self.failure.get_or_insert(why);
        self.alive.kill();
    }

    /// What the kernel says about the stop at which the thread stands.
    fn message(&self, id: i32) -> Option<i64> {
        ptrace::getevent(Pid::from_raw(id)).ok()
    }

    fn go_on(&mut self, id: i32, how: Resume, signal: i32) {
        match resume(id, how, signal) {
            // Killed meanwhile: its end is reported next.
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => self.give_up(TraceError::machine("let a traced thread go on")(error)),
        }
    }
}

fn signature(regs: &user_regs_struct) -> Signature {
    let [a, b, c, d, e, f] = arguments(regs);
    [regs.orig_rax, a, b, c, d, e, f, regs.rip, regs.rsp]
}
