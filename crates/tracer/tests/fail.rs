//! Failing calls: the program sees exactly the fault, and goes on.

mod support;

use std::fs;

use agentos_process::CommandSpec;
use agentos_tracer::{Done, Fault, Plan, Position, Target};
use support::{run, victim};

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

#[test]
fn a_write_fails_as_planned_and_the_next_one_does_not() {
    for (fault, saw, content) in [
        (Fault::Eio, "Uncategorized Some(5)", "twelve bytes"),
        (Fault::Enospc, "StorageFull Some(28)", "twelve bytes"),
        (Fault::Eintr, "Interrupted Some(4)", "twelve bytes"),
        (Fault::ShortWrite, "wrote 6", "twelvetwelve bytes"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let spec = victim(&["fallible", file.to_str().unwrap()]);
        let seen = run(&spec, Plan::fail(at("1/1#2"), fault));
        assert!(seen.exit.success());
        assert_eq!(seen.said, [saw, "wrote 12", "synced"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
        let hit = seen.trace.hit.clone().unwrap();
        assert_eq!(hit.done, Done::Failed);
        assert_eq!(hit.call.name(), "write");
        let returned = fault.errno().map_or(6, |errno| -i64::from(errno));
        assert_eq!(hit.call.result, Some(returned));
        assert_eq!(seen.trace.calls[1].result, Some(returned));
        assert_eq!(seen.trace.total(), 7);
    }
}

#[test]
fn a_sync_fails_as_planned() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let spec = victim(&["fallible", file.to_str().unwrap()]);
    let seen = run(&spec, Plan::fail(at("1/1#6"), Fault::Eio));
    assert_eq!(seen.said, ["wrote 12", "wrote 12", "Uncategorized Some(5)"]);
}

#[test]
fn a_vector_is_written_short_by_buffers_and_a_single_buffer_by_bytes() {
    for (position, said, content) in [
        ("1/1#2", ["8", "4"], "aaaabbbbaaaa"),
        ("1/1#4", ["16", "2"], "aaaabbbbccccddddaa"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let spec = victim(&["vector", file.to_str().unwrap()]);
        let seen = run(&spec, Plan::fail(at(position), Fault::ShortWrite));
        assert_eq!(seen.said, said);
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
        let hit = seen.trace.hit.clone().unwrap();
        assert_eq!((hit.done, hit.call.name()), (Done::Failed, "writev"));
    }
}

#[test]
fn a_fault_that_makes_no_sense_does_nothing_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    let one_byte = CommandSpec::shell("printf x");
    let mkdir = CommandSpec::new("mkdir").arg(&folder);
    for (spec, fault) in [(one_byte, Fault::ShortWrite), (mkdir, Fault::Eintr)] {
        let seen = run(&spec, Plan::fail(at("1/1#1"), fault));
        assert!(seen.exit.success(), "{seen:#?}");
        let hit = seen.trace.hit.clone().unwrap();
        assert_eq!(hit.done, Done::Nothing, "{fault}");
        assert_eq!(hit.call.kind, seen.trace.calls[0].kind);
    }
    assert!(folder.is_dir());
}

#[test]
fn a_pipe_has_no_disk_that_could_fail() {
    let seen = run(&CommandSpec::shell("echo x"), Plan::Count);
    let faults: Vec<Fault> = seen.trace.calls[0].faults().collect();
    assert_eq!(faults, [Fault::Eintr, Fault::ShortWrite]);
}

/// An `eventfd` takes eight bytes or none: half of them would be an error that no
/// program ever sees.
#[test]
fn an_event_is_taken_whole() {
    let seen = run(&victim(&["event"]), Plan::Count);
    assert!(seen.exit.success(), "{seen:#?}");
    let call = &seen.trace.calls[0];
    assert_eq!((call.name(), call.result), ("write", Some(8)));
    assert!(matches!(call.target, Target::Other(_)), "{call:?}");
    assert_eq!(call.faults().count(), 0);
}
