//! Counting: every interesting call, where it happened, and what it acted on.

mod support;

use agentos_process::Exit;
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
    assert_eq!((seen.trace.processes, seen.trace.threads), (1, 1));
    assert_eq!(seen.trace.hit, None);
}
