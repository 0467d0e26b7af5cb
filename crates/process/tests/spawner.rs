//! A spawner has its say in how a child is started and reaped, and the group
//! stays as guarded as without one.

mod support;

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use agentos_process::{
    Child, CommandSpec, Exit, NextLine, ProcessError, Reaper, Signal, Sink, Spawner,
};
use rustix::process::{Pid, WaitOptions, waitpid};
use support::{PATIENCE, ends_within, pid_of};

/// Sets a variable, and reaps by itself when it is told to.
#[derive(Debug, Default)]
struct Own {
    reaps: bool,
    refuses_to_prepare: bool,
    refuses_to_take: bool,
    is_to_blame: bool,
    failed: Option<io::ErrorKind>,
}

#[derive(Debug)]
struct Waits(Option<Pid>);

impl Reaper for Waits {
    fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(pid) = self.0 else {
            return Ok(None);
        };
        let (_, status) = waitpid(Some(pid), WaitOptions::empty())?.expect("it has ended");
        Ok(Some(ExitStatus::from_raw(status.as_raw())))
    }
}

impl Spawner for Own {
    fn prepare(&mut self, command: &mut Command) -> io::Result<()> {
        if self.refuses_to_prepare {
            return Err(io::Error::other("not today"));
        }
        command.env("PREPARED", "yes");
        Ok(())
    }

    fn failed(&mut self, error: &io::Error) -> Option<io::Error> {
        self.failed = Some(error.kind());
        self.is_to_blame.then(|| io::Error::other("my fault"))
    }

    fn started(&mut self, id: u32) -> io::Result<Box<dyn Reaper>> {
        if self.refuses_to_take {
            return Err(io::Error::other("no room"));
        }
        let pid = Pid::from_raw(i32::try_from(id).unwrap());
        Ok(Box::new(Waits(pid.filter(|_| self.reaps))))
    }
}

fn spawn(text: &str, own: &mut Own) -> Result<Child, ProcessError> {
    Child::spawn_by(&CommandSpec::shell(text), Sink::Null, own)
}

fn source_of(error: ProcessError) -> String {
    match error {
        ProcessError::Machine { source, .. } => source.to_string(),
        other => panic!("the machine was expected, not {other:?}"),
    }
}

#[test]
fn a_spawner_prepares_the_command_and_may_leave_the_reaping_to_us() {
    for reaps in [false, true] {
        let mut own = Own {
            reaps,
            ..Own::default()
        };
        let mut child = spawn("echo $PREPARED; exit 3", &mut own).unwrap();
        let line = child.next_line(PATIENCE).unwrap();
        assert_eq!(line, NextLine::Line(b"yes".to_vec()));
        let exit = child.wait(PATIENCE).unwrap();
        assert_eq!(exit, Some(Exit::Exited { code: 3 }));
        assert_eq!(child.kill().unwrap(), Exit::Exited { code: 3 });
        assert_eq!(own.failed, None);
    }
}

#[test]
fn a_child_that_its_reaper_reaps_is_paused_and_killed_with_its_group() {
    let mut own = Own {
        reaps: true,
        ..Own::default()
    };
    let mut child = spawn("sleep 1000 & echo $!; wait", &mut own).unwrap();
    let NextLine::Line(line) = child.next_line(PATIENCE).unwrap() else {
        panic!("the sleeper's id was expected");
    };
    let sleeper = pid_of(&line);
    child.signal(Signal::Stop).unwrap();
    assert_eq!(child.wait(Duration::from_millis(50)).unwrap(), None);
    child.signal(Signal::Continue).unwrap();
    assert!(child.kill().unwrap().is_sigkill());
    assert!(ends_within(sleeper, Duration::ZERO));
}

#[test]
fn a_spawner_that_refuses_is_to_blame_and_nothing_is_left_running() {
    let mut own = Own {
        refuses_to_prepare: true,
        ..Own::default()
    };
    let error = spawn("exit 0", &mut own).unwrap_err();
    assert!(error.nothing_ran(), "{error:?}");
    assert_eq!(source_of(error), "not today");

    let mut own = Own {
        refuses_to_take: true,
        ..Own::default()
    };
    let error = spawn("sleep 1000", &mut own).unwrap_err();
    assert!(!error.nothing_ran(), "{error:?}");
    assert_eq!(source_of(error), "no room");
}

#[test]
fn a_program_that_cannot_be_executed_is_the_same_error_unless_the_spawner_is_to_blame() {
    let missing = CommandSpec::new("/nonexistent/program");
    let mut own = Own::default();
    let error = Child::spawn_by(&missing, Sink::Null, &mut own).unwrap_err();
    assert!(matches!(error, ProcessError::NotFound { .. }), "{error:?}");
    assert_eq!(own.failed, Some(io::ErrorKind::NotFound));

    own.is_to_blame = true;
    let error = Child::spawn_by(&missing, Sink::Null, &mut own).unwrap_err();
    assert!(error.nothing_ran(), "{error:?}");
    assert_eq!(source_of(error), "my fault");
}
