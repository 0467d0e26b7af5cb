//! The guardian: leader of the child's process group, and its end.
//!
//! A shell waits for the end of a pipe whose write end only this process holds.
//! When this process dies, however it dies, the kernel closes the pipe and the
//! guardian kills its own group. It is started before the child and reaped
//! after it, so the child never lives unguarded, and the group's number cannot
//! be given to strangers while somebody may still kill by it.

use std::io::PipeWriter;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use crate::clock::{Deadline, Stopwatch};
use crate::error::{ProcessError, START_GUARDIAN};
use crate::limits::{GONE_POLL, KILL_WAIT, START_WAIT, ZOMBIE_GRACE};
use crate::pipe;
use crate::process::{Process, SpawnError};

/// Signals that a shell script sends to its whole group (`kill 0`) must not
/// take the guardian away. A group that was stopped as a whole gets SIGHUP and
/// SIGCONT from the kernel when it loses its parent: the one is ignored, the
/// other wakes. (Not where the processes' new parent shares their session, as
/// the first process of a container may.)
const SCRIPT: &str = "trap '' HUP INT QUIT PIPE ALRM TERM USR1 USR2 TSTP TTIN TTOU
echo
read line
kill -KILL 0";

/// A running guardian. Dropping it kills the group.
#[derive(Debug)]
pub(crate) struct Guardian {
    process: Process,
    /// Closed by the kernel when this process dies. Never written to.
    _lifeline: PipeWriter,
}

impl Guardian {
    pub(crate) fn start() -> Result<Guardian, ProcessError> {
        let doing = START_GUARDIAN;
        // Both ends are close-on-exec: no other child keeps the lifeline open.
        let (reader, lifeline) = std::io::pipe().map_err(ProcessError::machine(doing))?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "agentos-guardian"])
            .env_clear()
            // It must not keep a directory busy that somebody wants to remove.
            .current_dir("/")
            .stdin(Stdio::from(reader))
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let process = Process::spawn(&mut command, 0).map_err(|error| match error {
            SpawnError::Program(source) => ProcessError::Machine { doing, source },
            SpawnError::Machine(error) => error,
        })?;
        let mut guardian = Guardian {
            process,
            _lifeline: lifeline,
        };
        if guardian.is_ready()? {
            Ok(guardian)
        } else {
            let source = std::io::Error::other("it did not get ready");
            Err(ProcessError::Machine { doing, source })
        }
    }

    /// Waits until the guardian says that it ignores signals: the first thing
    /// that some scripts do is to signal their whole group.
    fn is_ready(&mut self) -> Result<bool, ProcessError> {
        let Some(stdout) = self.process.take_stdout() else {
            return Ok(false);
        };
        let [said] = pipe::readable([Some(stdout.as_fd())], Deadline::after(START_WAIT))?;
        Ok(said && !pipe::read_some(&stdout, &mut Vec::new())?.is_empty())
    }

    /// The number of the group that it leads.
    pub(crate) fn group(&self) -> Pid {
        self.process.pid()
    }

    /// Sends SIGKILL to every process of the group, the guardian included, in
    /// one step: a process that is forking meanwhile does not slip through.
    pub(crate) fn kill_group(&self) -> Result<(), ProcessError> {
        if self.process.exit().is_some() {
            return Ok(());
        }
        match kill_process_group(self.group(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(ProcessError::Machine {
                doing: "kill a process group",
                source: error.into(),
            }),
        }
    }

    /// After [`kill_group`](Self::kill_group) and after the child was reaped:
    /// reaps the guardian and waits until nothing of the group runs any more.
    pub(crate) fn wait_gone(&mut self) -> Result<(), ProcessError> {
        let watch = Stopwatch::start();
        let deadline = Deadline::after(KILL_WAIT);
        let group = self.group();
        // As long as the group has a member its number is not given away, so
        // asking for it after the leader was reaped asks about this group.
        let mut gone = self.process.wait(deadline)?.is_some() && is_empty(group);
        while !gone {
            if deadline.passed() {
                return Err(ProcessError::StillRunning {
                    group: group.as_raw_nonzero().get().unsigned_abs(),
                    waited: watch.elapsed(),
                });
            }
            let _: [bool; 0] = pipe::readable([], Deadline::after(GONE_POLL))?;
            // What the group leaves behind is reaped by its new parent. Where
            // that one does not care, zombies stay; they run no more.
            gone = self.process.exit().is_some()
                && (is_empty(group) || (watch.elapsed() > ZOMBIE_GRACE && only_zombies(group)));
        }
        Ok(())
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // Nothing can be reported from here; the group was killed in any case.
        if self.process.exit().is_none() {
            let _ = self.kill_group();
            let _ = self.process.wait(Deadline::after(KILL_WAIT));
        }
    }
}

fn is_empty(group: Pid) -> bool {
    test_kill_process_group(group) == Err(Errno::SRCH)
}

/// Whether `/proc` shows no process of the group that still runs. What cannot
/// be read counts as running.
fn only_zombies(group: Pid) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return false;
    };
    entries.flatten().all(|entry| {
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_process {
            return true;
        }
        // A process that disappears while we look is one less.
        std::fs::read_to_string(entry.path().join("stat"))
            .map_or(true, |stat| !runs_in(&stat, group.as_raw_nonzero().get()))
    })
}

/// Reads one line of `/proc/PID/stat`: `pid (name) state parent group …`, where
/// the name may contain anything, brackets included.
fn runs_in(stat: &str, group: i32) -> bool {
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return false;
    };
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next();
    let its_group = fields.nth(1).and_then(|field| field.parse::<i32>().ok());
    its_group == Some(group) && !matches!(state, Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_stat_is_read_behind_the_name() {
        assert!(runs_in("12 (sh) S 1 40 40 0 -1", 40));
        assert!(!runs_in("12 (sh) S 1 41 40 0 -1", 40));
        assert!(!runs_in("12 (sh) Z 1 40 40 0 -1", 40));
        assert!(runs_in("12 (a) Z 1 40) R 1 40 40 0 -1", 40));
        assert!(!runs_in("", 40));
        assert!(!runs_in("12 (sh)", 40));
    }

    #[test]
    fn the_guardian_leads_its_own_group_and_ends_with_it() {
        let mut guardian = Guardian::start().unwrap();
        let group = guardian.group();
        assert_eq!(rustix::process::getpgid(Some(group)).unwrap(), group);
        guardian.kill_group().unwrap();
        guardian.wait_gone().unwrap();
        assert!(is_empty(group));
    }

    /// What the kernel does when this process dies.
    #[test]
    fn closing_the_lifeline_makes_the_guardian_kill_its_group() {
        let mut guardian = Guardian::start().unwrap();
        let (_reader, other) = std::io::pipe().unwrap();
        drop(std::mem::replace(&mut guardian._lifeline, other));
        let exit = guardian
            .process
            .wait(Deadline::after(KILL_WAIT))
            .unwrap()
            .unwrap();
        assert!(exit.is_sigkill(), "{exit}");
    }
}
