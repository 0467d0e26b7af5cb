//! Killing before and after a call: what was done is there, and nothing more.

mod support;

use std::fs;

use agentos_process::{CommandSpec, Sink};
use agentos_tracer::{CallKind, Done, Plan, Position, Tracer, When};
use support::{PATIENCE, has_ended, line_of, run, victim};

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

/// Goal: a kill leaves exactly what was done by then.
/// Method: a program writes and acknowledges three words, syncs and renames; it
/// is killed before and after each of its nine calls.
#[test]
fn the_world_stands_as_it_was_before_or_after_the_call() {
    let words = ["one", "two", "three"];
    for (nth, when) in (1..=9).flat_map(|nth| [(nth, When::Before), (nth, When::After)]) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let spec = victim(&["writer", file.to_str().unwrap()]);
        let seen = run(&spec, Plan::kill(at(&format!("1/1#{nth}")), when));

        let done = if when == When::Before { nth - 1 } else { nth };
        let what = format!("{when} {nth}: {seen:#?}");
        assert!(seen.exit.is_sigkill(), "{what}");
        let written = words[..(done / 2).min(3)].concat();
        let here = if done == 9 {
            dir.path().join("file.done")
        } else {
            file
        };
        let content = (done > 0).then(|| written.into_bytes());
        assert_eq!(fs::read(here).ok(), content, "{what}");
        let acks: Vec<_> = words[..((done.max(1) - 1) / 2).min(3)]
            .iter()
            .map(|word| format!("ack {word}"))
            .collect();
        assert_eq!(seen.said, acks, "{what}");

        let hit = seen.trace.hit.clone().unwrap();
        assert_eq!(hit.done, Done::Killed);
        assert_eq!(hit.call.position, at(&format!("1/1#{nth}")));
        assert_eq!(hit.call.result.is_some(), when == When::After, "{what}");
        // Nothing came after it.
        assert_eq!(seen.trace.total(), nth as u64, "{what}");
    }
}

#[test]
fn another_call_than_expected_is_killed_at_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let spec = victim(&["writer", file.to_str().unwrap()]);
    let fsync = CallKind::named("fsync").unwrap();
    for (nth, as_expected) in [(2, false), (8, true)] {
        let plan = Plan::kill(at(&format!("1/1#{nth}")), When::Before).expecting(fsync);
        let hit = run(&spec, plan).trace.hit.unwrap();
        assert_eq!(hit.as_expected(), as_expected, "{hit:?}");
        assert_eq!(hit.expected, Some(fsync));
        let name = if as_expected { "fsync" } else { "write" };
        assert_eq!(hit.call.name(), name);
    }
}

#[test]
fn a_position_that_is_never_reached_hits_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let spec = victim(&["writer", file.to_str().unwrap()]);
    let seen = run(&spec, Plan::kill(at("1/1#10"), When::After));
    assert!(seen.exit.success());
    assert_eq!(seen.trace.hit, None);
    assert_eq!(seen.trace.total(), 9);
}

/// Goal: nothing of a tree outlives the kill.
/// Method: a chain of five processes; the deepest is struck while the others
/// wait for their children.
#[test]
fn a_chain_of_processes_is_killed_as_a_whole() {
    let mut tracer = Tracer::new(Plan::kill(at("1.1.1.1.1/1#2"), When::Before));
    let mut child = tracer
        .spawn(&victim(&["forks", "4"]), Sink::Inherit)
        .unwrap();
    let pids: Vec<i32> = (0..5)
        .map(|_| {
            line_of(&mut child)
                .strip_prefix("pid ")
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    assert!(child.wait(PATIENCE).unwrap().unwrap().is_sigkill());
    let trace = tracer.finish(PATIENCE).unwrap();
    assert_eq!(trace.processes, 5, "{trace:#?}");
    assert!(!trace.left_running);
    assert_eq!(child.drain_lines().unwrap(), Vec::<Vec<u8>>::new());
    child.kill().unwrap();
    for pid in pids {
        assert!(has_ended(pid), "{pid}");
    }
}

#[test]
fn a_process_that_left_its_group_is_killed_with_the_tree() {
    let text = "setsid sh -c 'echo $$; exec sleep 1000' & wait";
    let mut tracer = Tracer::new(Plan::Count);
    let mut child = tracer
        .spawn(&CommandSpec::shell(text), Sink::Inherit)
        .unwrap();
    let pid: i32 = line_of(&mut child).parse().unwrap();
    child.kill().unwrap();
    let trace = tracer.finish(std::time::Duration::ZERO).unwrap();
    assert!(trace.left_running);
    assert!(has_ended(pid));
}

/// Goal: no kill, at whatever moment, leaves a process that waits for its tracer.
/// Method: a tree that forks without end, killed from outside after a number of
/// lines, and killed by plan at a number of calls.
#[test]
fn a_tree_that_forks_without_end_is_gone_after_any_kill() {
    let text = "while :; do (echo a; (echo b; :) & :) & (echo c; exec true); done";
    for round in 0..20_u64 {
        let mut tracer = Tracer::new(Plan::Count);
        let mut child = tracer.spawn(&CommandSpec::shell(text), Sink::Null).unwrap();
        for _ in 0..=round {
            line_of(&mut child);
        }
        assert!(child.kill().unwrap().is_sigkill());
        let trace = tracer.finish(PATIENCE).unwrap();
        assert!(!trace.left_running, "{round}");

        let place = at(&format!("1.{}/1#1", 2 * round + 2));
        let when = [When::Before, When::After][round as usize % 2];
        let seen = run(&CommandSpec::shell(text), Plan::kill(place, when));
        assert!(seen.exit.is_sigkill(), "{round}");
        assert!(seen.trace.hit.is_some(), "{round}");
    }
}
