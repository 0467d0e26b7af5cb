//! Long-lived children: lines, signals, kills, and that nothing of a group
//! outlives the process that owns it.

mod support;

use std::io::Write;
use std::time::Duration;

use agentos_process::{Child, CommandSpec, Exit, NextLine, ProcessError, Signal, Sink};
use support::{PATIENCE, ends_within, has_ended, pid_of};

fn spawn(text: &str) -> Child {
    Child::spawn(&CommandSpec::shell(text), Sink::Null).unwrap()
}

fn line_of(child: &mut Child) -> Vec<u8> {
    match child.next_line(PATIENCE).unwrap() {
        NextLine::Line(line) => line,
        other => panic!("a line was expected, not {other:?}"),
    }
}

#[test]
fn lines_come_one_by_one_and_then_the_end() {
    let mut child = spawn(r"echo one; printf 'two \377\n'; printf unfinished");
    assert_eq!(line_of(&mut child), b"one");
    assert_eq!(line_of(&mut child), b"two \xff");
    assert_eq!(child.next_line(PATIENCE).unwrap(), NextLine::Eof);
    assert_eq!(child.next_line(PATIENCE).unwrap(), NextLine::Eof);
    let exit = child.wait(PATIENCE).unwrap();
    assert_eq!(exit, Some(Exit::Exited { code: 0 }));
}

#[test]
fn a_silent_child_times_out_and_lives_on() {
    let soon = Duration::from_millis(100);
    let mut child = spawn("printf half; sleep 1000");
    assert_eq!(child.next_line(soon).unwrap(), NextLine::TimedOut);
    assert_eq!(child.wait(soon).unwrap(), None);
    assert_eq!(child.try_wait().unwrap(), None);
}

#[test]
fn a_stream_without_newlines_does_not_outrun_the_deadline() {
    let spec = CommandSpec::shell("cat /dev/zero").max_output(1000);
    let mut child = Child::spawn(&spec, Sink::Null).unwrap();
    let soon = Duration::from_millis(100);
    assert_eq!(child.next_line(soon).unwrap(), NextLine::TimedOut);
}

#[test]
fn a_line_over_the_bound_is_an_error_once() {
    let spec = CommandSpec::shell("echo 12345; echo 123456; echo ok").max_output(5);
    let mut child = Child::spawn(&spec, Sink::Null).unwrap();
    assert_eq!(line_of(&mut child), b"12345");
    let error = child.next_line(PATIENCE).unwrap_err();
    assert!(
        matches!(error, ProcessError::LineTooLong { bytes_max: 5 }),
        "{error:?}"
    );
    assert_eq!(line_of(&mut child), b"ok");
}

/// Goal: what a victim printed before its death counts.
/// Method: it prints without end, is killed at an arbitrary moment, and the
/// lines read before and drained after make one sequence without a gap.
#[test]
fn lines_in_the_pipe_survive_the_kill() {
    let mut child = spawn("i=0; while :; do i=$((i+1)); echo $i; done");
    let mut seen = Vec::new();
    while seen.len() < 50 {
        seen.push(line_of(&mut child));
    }
    assert!(child.kill().unwrap().is_sigkill());
    seen.extend(child.drain_lines().unwrap());
    assert_eq!(child.next_line(PATIENCE).unwrap(), NextLine::Eof);
    for (index, line) in seen.iter().enumerate() {
        assert_eq!(*line, (index + 1).to_string().into_bytes());
    }
}

#[test]
fn waiting_keeps_the_lines_and_does_not_block_the_child() {
    let mut child = spawn("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo line $i; done");
    let exit = child.wait(PATIENCE).unwrap();
    assert_eq!(exit, Some(Exit::Exited { code: 0 }));
    let lines = child.drain_lines().unwrap();
    assert_eq!(lines.len(), 30_000);
}

#[test]
fn killing_keeps_the_exit_of_a_child_that_ended_before() {
    let mut child = spawn("exit 9");
    child.wait(PATIENCE).unwrap().unwrap();
    assert_eq!(child.kill().unwrap(), Exit::Exited { code: 9 });
    assert_eq!(child.kill().unwrap(), Exit::Exited { code: 9 });
}

#[test]
fn a_stopped_child_says_nothing_until_it_goes_on() {
    let mut child = spawn("echo ready; i=0; while :; do i=$((i+1)); echo $i; done");
    assert_eq!(line_of(&mut child), b"ready");
    child.signal(Signal::Stop).unwrap();
    // It is stopped when the kernel says so, not when the signal was sent.
    let stat = format!("/proc/{}/stat", child.id());
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        std::thread::yield_now();
    }
    child.drain_lines().unwrap();
    assert!(child.drain_lines().unwrap().is_empty());
    child.signal(Signal::Continue).unwrap();
    line_of(&mut child);
    child.signal(Signal::Stop).unwrap();
    assert!(child.kill().unwrap().is_sigkill());
}

#[test]
fn a_signal_reaches_the_child() {
    let mut child =
        spawn("trap 'echo caught; exit 4' TERM; echo ready; while :; do sleep 0.01; done");
    assert_eq!(line_of(&mut child), b"ready");
    child.signal(Signal::Terminate).unwrap();
    assert_eq!(line_of(&mut child), b"caught");
    let exit = child.wait(PATIENCE).unwrap();
    assert_eq!(exit, Some(Exit::Exited { code: 4 }));
    child.signal(Signal::Terminate).unwrap();
}

#[test]
fn standard_error_goes_to_the_given_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let spec = CommandSpec::shell("echo trouble >&2");
    let mut child = Child::spawn(&spec, Sink::File(file.reopen().unwrap())).unwrap();
    child.wait(PATIENCE).unwrap().unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), b"trouble\n");
}

#[test]
fn dropping_kills_and_reaps_the_group() {
    let mut child = spawn("sleep 1000 & echo grandchild $!; wait");
    let grandchild = pid_of(&line_of(&mut child));
    let main = pid_of(child.id().to_string().as_bytes());
    let group = pid_of(child.group_id().to_string().as_bytes());
    drop(child);
    assert!(has_ended(grandchild));
    // Reaped, not only dead: a zombie would still answer.
    let gone = Err(rustix::io::Errno::SRCH);
    assert_eq!(rustix::process::test_kill_process(main), gone);
    assert_eq!(rustix::process::test_kill_process(group), gone);
}

#[test]
fn a_panic_of_the_owner_kills_the_group() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let owner = std::thread::spawn(move || {
        let mut child = spawn("echo $$; sleep 1000");
        sender.send(pid_of(&line_of(&mut child))).unwrap();
        panic!("on purpose");
    });
    let pid = receiver.recv().unwrap();
    assert!(owner.join().is_err());
    assert!(has_ended(pid));
}

/// Not a test of its own: the parent that the next tests kill. It starts a
/// child with this crate, prints what must die with it, and waits for ever.
#[test]
fn parent_to_be_killed() {
    let Ok(script) = std::env::var("AGENTOS_TEST_SCRIPT") else {
        return;
    };
    let mut child = spawn(&script);
    let mut stdout = std::io::stdout();
    for _ in 0..2 {
        let line = String::from_utf8(line_of(&mut child)).unwrap();
        writeln!(stdout, "\npid {line}").unwrap();
    }
    writeln!(stdout, "pid {}", child.group_id()).unwrap();
    child.wait(Duration::MAX).unwrap();
}

/// Starts the parent above and returns it with the pids of its child, its
/// grandchild and its guardian.
fn start_parent(script: &str) -> (Child, Vec<rustix::process::Pid>) {
    let spec = CommandSpec::new(std::env::current_exe().unwrap())
        .args(["--exact", "parent_to_be_killed", "--nocapture"])
        .env("AGENTOS_TEST_SCRIPT", script);
    let mut parent = Child::spawn(&spec, Sink::Inherit).unwrap();
    let mut pids = Vec::new();
    while pids.len() < 3 {
        let line = line_of(&mut parent);
        if line.starts_with(b"pid ") {
            pids.push(pid_of(&line));
        }
    }
    (parent, pids)
}

/// Goal: no child outlives a parent that was killed with SIGKILL.
/// Method: only the parent process is killed; its child lives in a group of its
/// own, so nobody but its guardian can end it.
#[test]
fn children_die_with_a_killed_parent() {
    let (mut parent, pids) = start_parent("echo $$; sleep 1000 & echo $!; wait");
    assert!(pids.iter().all(|pid| !has_ended(*pid)));
    assert!(parent.kill().unwrap().is_sigkill());
    for pid in pids {
        assert!(ends_within(pid, PATIENCE), "{pid:?} outlived its parent");
    }
}

/// The same, when the script first signals its whole group, which the guardian
/// survives, ignores signals itself, and stops part of its group.
#[test]
fn a_guardian_survives_what_scripts_do_to_their_group() {
    let script = "trap '' TERM HUP INT
        kill -TERM 0; kill -HUP 0; kill -INT 0
        sleep 1000 & kill -STOP $!
        echo $$; echo $!
        while :; do wait; done";
    let (mut parent, pids) = start_parent(script);
    assert!(pids.iter().all(|pid| !has_ended(*pid)));
    assert!(parent.kill().unwrap().is_sigkill());
    for pid in pids {
        assert!(ends_within(pid, PATIENCE), "{pid:?} outlived its parent");
    }
}
