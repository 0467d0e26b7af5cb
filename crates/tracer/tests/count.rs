//! Counting: every interesting call, where it happened, and what it acted on.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use agentos_process::{CommandSpec, Exit};
use agentos_tracer::{CallKind, Plan, Trace};
use support::{run, victim};

fn lines(trace: &Trace) -> Vec<String> {
    trace.calls.iter().map(ToString::to_string).collect()
}

#[test]
fn a_known_program_is_counted_call_by_call() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().canonicalize().unwrap().join("file");
    let file = file.to_str().unwrap();
    let seen = run(&victim(&["writer", file]), Plan::Count);
    assert_eq!(seen.exit, Exit::Exited { code: 0 }, "{seen:#?}");
    assert_eq!(seen.said, ["ack one", "ack two", "ack three"]);
    let created = seen.trace.calls[0].result.unwrap();
    assert_eq!(
        lines(&seen.trace),
        [
            format!("1/1#1 openat {file} = {created}"),
            format!("1/1#2 write {file} = 3"),
            "1/1#3 write pipe = 8".to_owned(),
            format!("1/1#4 write {file} = 3"),
            "1/1#5 write pipe = 8".to_owned(),
            format!("1/1#6 write {file} = 5"),
            "1/1#7 write pipe = 10".to_owned(),
            format!("1/1#8 fsync {file} = 0"),
            format!("1/1#9 rename {file} -> {file}.done = 0"),
        ]
    );
    assert_eq!(seen.trace.counts[&CallKind::named("write").unwrap()], 6);
    assert_eq!(seen.trace.total(), 9);
    // One thread: each returns before the next begins.
    let places: Vec<_> = (1..=9).map(Some).collect();
    assert_eq!(seen.trace.returned, places);
    assert_eq!((seen.trace.processes, seen.trace.threads), (1, 1));
    assert_eq!(seen.trace.hit, None);
}

/// What a run did, whatever order the scheduler gave it.
fn done(trace: &Trace) -> BTreeSet<String> {
    trace
        .calls
        .iter()
        .map(|call| format!("{} {} {}", call.position, call.kind, call.target))
        .collect()
}

/// Goal: a position names the same call in every run.
/// Method: three threads, each with a thread of its own, all writing at the same
/// time, ten times over.
#[test]
fn threads_keep_their_positions_from_run_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap();
    let folder = folder.to_str().unwrap();
    let mut expected = BTreeSet::new();
    for k in 0..3 {
        let outer = format!("1/1+{}", k + 1);
        for (thread, name) in [
            (outer.clone(), k.to_string()),
            (outer + "+1", format!("{k}.inner")),
        ] {
            expected.insert(format!("{thread}#1 openat {folder}/{name}"));
            for nth in 2..7 {
                expected.insert(format!("{thread}#{nth} write {folder}/{name}"));
            }
        }
    }
    for _ in 0..10 {
        let seen = run(&victim(&["threads", folder]), Plan::Count);
        assert!(seen.exit.success(), "{seen:#?}");
        assert_eq!(done(&seen.trace), expected);
        assert_eq!((seen.trace.processes, seen.trace.threads), (1, 7));
        returns_are_in_order(&seen.trace);
    }
}

/// A call returns after it began, and before the next one of its thread begins.
fn returns_are_in_order(trace: &Trace) {
    let mut last: BTreeMap<_, usize> = BTreeMap::new();
    for (place, (call, returned)) in trace.calls.iter().zip(&trace.returned).enumerate() {
        let returned = returned.unwrap();
        assert!(place < returned && returned <= trace.calls.len(), "{call}");
        let position = &call.position;
        let thread = (position.process.clone(), position.thread.clone());
        let before = last.insert(thread, returned).unwrap_or(0);
        assert!(before <= place, "{call}");
    }
}

/// Goal: as above, for processes.
/// Method: a shell with children in the background, with a child of a child,
/// with an executed program and with a pipeline.
#[test]
fn child_processes_keep_their_positions_from_run_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap();
    let text =
        "(echo a > a; (echo b > b; :); echo a >> a) & (mkdir c) & wait; echo d | cat; rmdir c";
    let spec = CommandSpec::new("/bin/sh").args(["-c", text]).cwd(&folder);
    let folder = folder.to_str().unwrap();
    let expected: BTreeSet<String> = [
        format!("1.1/1#1 openat {folder}/a"),
        format!("1.1/1#2 write {folder}/a"),
        format!("1.1.1/1#1 openat {folder}/b"),
        format!("1.1.1/1#2 write {folder}/b"),
        format!("1.1/1#3 openat {folder}/a"),
        format!("1.1/1#4 write {folder}/a"),
        format!("1.2/1#1 mkdir {folder}/c"),
        "1.3/1#1 write pipe".to_owned(),
        "1.4/1#1 write pipe".to_owned(),
        format!("1.5/1#1 rmdir {folder}/c"),
    ]
    .into();
    for _ in 0..10 {
        let seen = run(&spec, Plan::Count);
        assert!(seen.exit.success(), "{seen:#?}");
        assert_eq!(seen.said, ["d"]);
        assert_eq!(done(&seen.trace), expected);
        assert_eq!(seen.trace.processes, 7);
    }
}

#[test]
fn a_thread_that_executes_a_program_becomes_the_main_thread() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap();
    let folder = folder.to_str().unwrap();
    let seen = run(&victim(&["exec-thread", folder]), Plan::Count);
    assert_eq!(seen.said, ["third"]);
    let expected: BTreeSet<String> = [
        format!("1/1#1 openat {folder}/main"),
        format!("1/1#2 write {folder}/main"),
        format!("1/1+1#1 openat {folder}/second"),
        format!("1/1+1#2 write {folder}/second"),
        "1/1#3 write pipe".to_owned(),
    ]
    .into();
    assert_eq!(done(&seen.trace), expected);
}

/// Goal: the file that a socket makes is no surprise. Method: it is bound to a path.
#[test]
fn a_socket_that_is_given_a_name_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let seen = run(&victim(&["binds", socket.to_str().unwrap()]), Plan::Count);
    assert!(seen.exit.success(), "{seen:#?}");
    assert_eq!(lines(&seen.trace), ["1/1#1 bind socket = 0"]);
    assert!(socket.exists());
}

#[test]
fn what_only_reads_is_not_counted() {
    let seen = run(
        &CommandSpec::shell("cat /etc/passwd > /dev/null"),
        Plan::Count,
    );
    let kinds: Vec<_> = seen.trace.calls.iter().map(|call| call.name()).collect();
    assert_eq!(kinds[0], "openat", "{seen:#?}");
    assert!(kinds[1..].iter().all(|&kind| kind == "write"), "{kinds:?}");
    assert_eq!(seen.trace.foreign, 0);
}
