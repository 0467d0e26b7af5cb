//! Runs programs under the tracer, and looks at what is left of them.

use std::time::Duration;

use agentos_process::{Child, CommandSpec, Exit, NextLine, Sink};
use agentos_tracer::{Plan, Trace, Tracer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What one traced run came to.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) exit: Exit,
    pub(crate) said: Vec<String>,
    pub(crate) trace: Trace,
}

/// The tests' own victim in one of its roles.
#[allow(dead_code, reason = "not every test binary has victims")]
pub(crate) fn victim(args: &[&str]) -> CommandSpec {
    CommandSpec::new(env!("CARGO_BIN_EXE_agentos-tracer-victim")).args(args)
}

/// The next line of a child that has one.
#[allow(dead_code, reason = "not every test binary talks to its victims")]
pub(crate) fn line_of(child: &mut Child) -> String {
    match child.next_line(PATIENCE).unwrap() {
        NextLine::Line(line) => String::from_utf8(line).unwrap(),
        other => panic!("a line was expected, not {other:?}"),
    }
}

/// Runs a program to its end.
pub(crate) fn run(spec: &CommandSpec, plan: Plan) -> Seen {
    let mut tracer = Tracer::new(plan);
    let mut child = tracer.spawn(spec, Sink::Inherit).unwrap();
    let mut said = Vec::new();
    while let NextLine::Line(line) = child.next_line(PATIENCE).unwrap() {
        said.push(String::from_utf8(line).unwrap());
    }
    let exit = child.wait(PATIENCE).unwrap().expect("it ends in time");
    let trace = tracer
        .finish(PATIENCE)
        .unwrap_or_else(|error| panic!("{exit}, {said:?}: {error:?}"));
    assert!(!trace.left_running, "{trace:?}");
    Seen { exit, said, trace }
}

/// Whether the process runs no more; whoever inherited it may not have reaped
/// it yet.
#[allow(dead_code, reason = "not every test binary asks")]
pub(crate) fn has_ended(pid: i32) -> bool {
    let Ok(pidfd) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else {
        return true;
    };
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)).unwrap() == 1
}
