//! A traced program is a program like any other: signals, errors of the start,
//! many at the same time, and what the machine refuses.

mod support;

use std::fs;
use std::time::Duration;

use agentos_process::{Child, CommandSpec, Exit, NextLine, ProcessError, Signal, Sink};
use agentos_tracer::{Done, Fault, Plan, TraceError, Tracer};
use support::{PATIENCE, has_ended, line_of, run, victim};

/// Waits until `/proc` shows the process in this state, by its letter and the
/// number of the call that it is in.
fn wait_for_state(child: &Child, states: &str, call: Option<&str>) {
    let stat = format!("/proc/{}/stat", child.id());
    let syscall = format!("/proc/{}/syscall", child.id());
    for _ in 0..60_000 {
        let now = fs::read_to_string(&stat).unwrap();
        let state = now.rsplit_once(") ").unwrap().1.chars().next().unwrap();
        let inside = fs::read_to_string(&syscall).unwrap_or_default();
        if states.contains(state) && call.is_none_or(|call| inside.starts_with(call)) {
            return;
        }
        pause();
    }
    panic!("the child never got there");
}

/// A pause between two looks.
fn pause() {
    let (_open, nothing) = std::sync::mpsc::channel::<()>();
    let _ = nothing.recv_timeout(Duration::from_millis(1));
}

#[test]
fn a_stopped_program_stands_still_until_it_goes_on() {
    let mut tracer = Tracer::new(Plan::Count);
    let spec = CommandSpec::shell("i=0; while :; do i=$((i+1)); echo $i; done");
    let mut child = tracer.spawn(&spec, Sink::Null).unwrap();
    for round in 0..3 {
        line_of(&mut child);
        child.signal(Signal::Stop).unwrap();
        wait_for_state(&child, "tT", None);
        // It may have been at any other stop: only from a stop that lasts can
        // nothing come.
        while child.next_line(Duration::from_millis(200)).unwrap() != NextLine::TimedOut {}
        assert_eq!(child.wait(Duration::ZERO).unwrap(), None, "round {round}");
        child.signal(Signal::Continue).unwrap();
        line_of(&mut child);
    }
    child.signal(Signal::Stop).unwrap();
    assert!(child.kill().unwrap().is_sigkill());
    tracer.finish(PATIENCE).unwrap();
}

/// Goal: a call that a stop interrupted, and that the kernel makes again, is
/// counted once.
/// Method: a program blocks in its seventeenth write, into a full pipe, and is
/// stopped and continued there.
#[test]
fn a_call_that_is_made_again_after_a_stop_is_the_same_call() {
    let mut tracer = Tracer::new(Plan::Count);
    let spec =
        CommandSpec::shell("exec dd if=/dev/zero bs=4096 count=20 status=none").max_output(1 << 20);
    let mut child = tracer.spawn(&spec, Sink::Null).unwrap();
    for _ in 0..3 {
        wait_for_state(&child, "S", Some("1 "));
        child.signal(Signal::Stop).unwrap();
        wait_for_state(&child, "tT", None);
        child.signal(Signal::Continue).unwrap();
    }
    assert_eq!(
        child.wait(PATIENCE).unwrap(),
        Some(Exit::Exited { code: 0 })
    );
    let trace = tracer.finish(PATIENCE).unwrap();
    assert_eq!(trace.total(), 20, "{trace:#?}");
    assert!(trace.calls.iter().all(|call| call.result == Some(4096)));
}

/// Goal: a call that is to be shortened, and that a stop interrupts before it wrote
/// anything, is made again, and struck then.
/// Method: as above, with a short write at the call that blocks.
#[test]
fn a_call_that_is_struck_is_struck_again_when_it_is_made_again() {
    let plan = Plan::fail("1/1#17".parse().unwrap(), Fault::ShortWrite);
    let mut tracer = Tracer::new(plan);
    let spec =
        CommandSpec::shell("exec dd if=/dev/zero bs=4096 count=20 status=none").max_output(1 << 20);
    let mut child = tracer.spawn(&spec, Sink::Null).unwrap();
    for _ in 0..3 {
        wait_for_state(&child, "S", Some("1 "));
        child.signal(Signal::Stop).unwrap();
        wait_for_state(&child, "tT", None);
        child.signal(Signal::Continue).unwrap();
    }
    assert_eq!(
        child.wait(PATIENCE).unwrap(),
        Some(Exit::Exited { code: 0 })
    );
    let trace = tracer.finish(PATIENCE).unwrap();
    let hit = trace.hit.clone().expect("it is hit");
    assert_eq!((hit.done, hit.call.result), (Done::Failed, Some(2048)));
    // The rest of it is one more call, and no call is counted twice.
    assert_eq!(trace.total(), 21, "{trace:#?}");
    let written: i64 = trace.calls.iter().filter_map(|call| call.result).sum();
    assert_eq!(written, 20 * 4096);
}

#[test]
fn signals_reach_the_program_as_ever() {
    let mut tracer = Tracer::new(Plan::Count);
    let text = "trap 'echo usr1' USR1; trap 'echo term; exit 7' TERM; echo ready
while :; do sleep 0.01; done";
    let mut child = tracer.spawn(&CommandSpec::shell(text), Sink::Null).unwrap();
    assert_eq!(line_of(&mut child), "ready");
    child.signal(Signal::User1).unwrap();
    assert_eq!(line_of(&mut child), "usr1");
    child.signal(Signal::Terminate).unwrap();
    assert_eq!(line_of(&mut child), "term");
    assert_eq!(
        child.wait(PATIENCE).unwrap(),
        Some(Exit::Exited { code: 7 })
    );
    tracer.finish(PATIENCE).unwrap();

    let seen = run(&CommandSpec::shell("kill -ABRT $$"), Plan::Count);
    assert_eq!(seen.exit, Exit::Signalled { signal: 6 });
    // A real-time signal, which has no name.
    let seen = run(&CommandSpec::shell("kill -40 $$"), Plan::Count);
    assert_eq!(seen.exit, Exit::Signalled { signal: 40 });
}

#[test]
fn what_cannot_start_says_why_by_the_same_type_as_untraced() {
    let spawn = |spec: CommandSpec| {
        let mut tracer = Tracer::new(Plan::Count);
        let error = tracer.spawn(&spec, Sink::Null).unwrap_err();
        assert!(matches!(
            tracer.finish(Duration::ZERO),
            Err(TraceError::NotStarted)
        ));
        match error {
            TraceError::Process(error) => error,
            other => panic!("{other:?}"),
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("no-program");
    fs::write(&file, "").unwrap();
    for _ in 0..20 {
        let error = spawn(CommandSpec::new("/nonexistent/program"));
        assert!(matches!(error, ProcessError::NotFound { .. }), "{error:?}");
    }
    let error = spawn(CommandSpec::new(&file));
    assert!(
        matches!(error, ProcessError::PermissionDenied { .. }),
        "{error:?}"
    );
    let error = spawn(CommandSpec::shell("exit 0").cwd("/nonexistent"));
    assert!(
        matches!(error, ProcessError::WorkingDirectory { .. }),
        "{error:?}"
    );
    let error = spawn(CommandSpec::new("nul\0byte"));
    assert!(matches!(error, ProcessError::Invalid { .. }), "{error:?}");
}

#[test]
fn a_tracer_traces_one_program() {
    let mut tracer = Tracer::new(Plan::Count);
    let spec = CommandSpec::shell("exit 3");
    let mut child = tracer.spawn(&spec, Sink::Null).unwrap();
    let second = tracer.spawn(&spec, Sink::Null).unwrap_err();
    assert!(matches!(second, TraceError::Used), "{second:?}");
    assert_eq!(
        child.wait(PATIENCE).unwrap(),
        Some(Exit::Exited { code: 3 })
    );
    assert_eq!(tracer.finish(PATIENCE).unwrap().processes, 1);
}

/// Goal: where ptrace is refused, the error says so by its type.
/// Method: a program that is traced already tries to trace another one: that
/// one has its tracer too.
#[test]
fn a_machine_that_does_not_permit_it_is_told_by_type() {
    let seen = run(&victim(&["tracer"]), Plan::Count);
    assert_eq!(
        seen.said,
        ["trace a process (ptrace): PermissionDenied"],
        "{seen:#?}"
    );
}

#[test]
fn dropping_the_tracer_kills_the_tree() {
    let mut tracer = Tracer::new(Plan::Count);
    let spec = CommandSpec::shell("sleep 1000 & echo $!; wait");
    let mut child = tracer.spawn(&spec, Sink::Null).unwrap();
    let sleeper: i32 = line_of(&mut child).parse().unwrap();
    drop(tracer);
    assert!(child.wait(PATIENCE).unwrap().unwrap().is_sigkill());
    child.kill().unwrap();
    assert!(has_ended(sleeper));
}

/// Goal: tracers do not get into each other's way, nor into that of children
/// that are not traced.
/// Method: eight threads trace and run untraced children at the same time.
#[test]
fn many_at_the_same_time_keep_apart() {
    std::thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                for round in 0..10 {
                    let code = (worker * 10 + round) % 100;
                    let spec = CommandSpec::shell(format!("(exit {code}); echo $?; exit {code}"));
                    let seen = run(&spec, Plan::Count);
                    assert_eq!(seen.exit, Exit::Exited { code });
                    assert_eq!(seen.said, [code.to_string()]);
                    assert_eq!((seen.trace.total(), seen.trace.processes), (1, 2));
                    let plain = agentos_process::run(&spec).unwrap();
                    assert_eq!(plain.outcome.code(), Some(code));
                }
            });
        }
    });
}
