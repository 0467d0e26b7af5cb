//! One direct child of this process, watched through a pidfd and reaped once.
//!
//! As long as it is not reaped its pid cannot be given to anybody else, so a
//! signal never reaches a stranger.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command};

use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::clock::Deadline;
use crate::error::{ProcessError, START_BY, TAKE_CHARGE};
use crate::exit::Exit;
use crate::pipe;
use crate::spawner::{Reaper, Spawner};

/// A spawned child and the descriptor that becomes readable when it ends.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pidfd: OwnedFd,
    exit: Option<Exit>,
    /// Somebody else who may have reaped it.
    reaper: Option<Box<dyn Reaper>>,
}

/// Why a child could not be had: the program, or the machine.
pub(crate) enum SpawnError {
    Program(io::Error),
    Machine(ProcessError),
}

impl Process {
    /// Spawns into process group `group`; 0 makes it the leader of a new one.
    pub(crate) fn spawn(command: &mut Command, group: i32) -> Result<Process, SpawnError> {
        let child = spawn(command, group).map_err(SpawnError::Program)?;
        Process::watch(child, |_| Ok(None))
    }

    /// As [`spawn`](Self::spawn), with a spawner that prepares it and takes
    /// charge of it.
    pub(crate) fn spawn_by(
        command: &mut Command,
        group: i32,
        spawner: &mut dyn Spawner,
    ) -> Result<Process, SpawnError> {
        // What the spawner sees is the command as it will be.
        command.process_group(group);
        spawner
            .prepare(command)
            .map_err(|source| SpawnError::Machine(ProcessError::machine(START_BY)(source)))?;
        let child = spawn(command, group).map_err(|error| match spawner.failed(&error) {
            Some(own) => SpawnError::Machine(ProcessError::machine(START_BY)(own)),
            None => SpawnError::Program(error),
        })?;
        Process::watch(child, |id| spawner.started(id).map(Some))
    }

    fn watch(
        mut child: Child,
        started: impl FnOnce(u32) -> io::Result<Option<Box<dyn Reaper>>>,
    ) -> Result<Process, SpawnError> {
        let watched = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .map_err(ProcessError::machine("watch a child process"))
            .and_then(|pidfd| {
                let reaper = started(child.id()).map_err(ProcessError::machine(TAKE_CHARGE))?;
                Ok((pidfd, reaper))
            });
        match watched {
            Ok((pidfd, reaper)) => Ok(Process {
                child,
                pidfd,
                exit: None,
                reaper,
            }),
            Err(error) => {
                // One that cannot be watched must not live on.
                let _ = child.kill();
                let _ = child.wait();
                Err(SpawnError::Machine(error))
            }
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Becomes readable when the process has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    pub(crate) fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// How it ended, if that is known already.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Waits for the end and reaps; `None` when the deadline came first.
    pub(crate) fn wait(&mut self, deadline: Deadline) -> Result<Option<Exit>, ProcessError> {
        if self.exit.is_some() {
            return Ok(self.exit);
        }
        let [ended] = pipe::readable([Some(self.pidfd.as_fd())], deadline)?;
        if !ended {
            return Ok(None);
        }
        let doing = "reap a child process";
        let told = match &mut self.reaper {
            Some(reaper) => reaper.reap().map_err(ProcessError::machine(doing))?,
            None => None,
        };
        let status = match told {
            Some(status) => status,
            // The pidfd said that it has ended: this cannot block.
            None => self.child.wait().map_err(ProcessError::machine(doing))?,
        };
        self.exit = Some(Exit::of(status));
        Ok(self.exit)
    }

    /// Sends a signal; one that has ended already is left alone.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) -> Result<(), ProcessError> {
        if self.exit.is_some() {
            return Ok(());
        }
        match pidfd_send_signal(&self.pidfd, signal) {
            // It has ended and nobody has reaped it yet.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(ProcessError::Machine {
                doing: "signal a child process",
                source: error.into(),
            }),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place of the workspace that spawns"
)]
fn spawn(command: &mut Command, group: i32) -> io::Result<Child> {
    command.process_group(group).spawn()
}
