//! Doubt: listed, ended once, with a reason that is audited.

use agentos_core::{
    NewOutcome, NewTask, OnRecorded, Resolution, Storage as _, StorageError, TaskStorage as _,
};
use agentos_idempotency::IdempotencyError;
use agentos_tests::{new_worker, task_id};

use super::{
    LEASE, begun_by, clocked, execute, gate, in_doubt, in_flight, key, replay, request,
    stale_permit,
};

#[test]
fn doubt_is_listed_and_an_operators_finding_ends_it() {
    let (work, clock) = clocked();
    let gate = gate(&work, "w");
    let task = task_id("t");
    work.store
        .create_task(NewTask::new(task.clone(), "test"))
        .unwrap();
    for name in ["happened", "failed", "not"] {
        let held = execute(&gate, &request(name).task(task.clone()).operation("pay"));
        gate.leave_in_doubt(held).unwrap();
        in_doubt(gate.begin(&request(name)).unwrap());
    }
    let pending = execute(&gate, &request("pending"));
    let page = gate.in_doubt(None, 10).unwrap();
    let names: Vec<&str> = page.items.iter().map(|key| key.key.as_str()).collect();
    assert_eq!(names, ["happened", "failed", "not"]);

    let empty = gate.resolve(&page.items[0], Resolution::DidNotHappen, "");
    assert!(
        matches!(
            empty,
            Err(IdempotencyError::Storage(StorageError::Invalid(_)))
        ),
        "{empty:?}"
    );
    for (doubtful, resolution) in page.items.iter().zip([
        Resolution::Happened(NewOutcome::success("receipt 7")),
        Resolution::Happened(NewOutcome::failure("declined")),
        Resolution::DidNotHappen,
    ]) {
        gate.resolve(doubtful, resolution, "looked at the bank")
            .unwrap();
    }
    assert_eq!(gate.in_doubt(None, 10).unwrap().items, []);
    assert_eq!(replay(&gate, &request("happened")), b"receipt 7");
    let asked = request("failed").on_recorded(OnRecorded::Replay);
    assert_eq!(replay(&gate, &asked), b"declined");
    assert_eq!(gate.lookup(&key("not")).unwrap(), None);
    execute(&gate, &request("not"));

    let lines = work.store.audits(&task, None, 100).unwrap().items;
    let resolved: Vec<_> = lines
        .iter()
        .filter(|line| line.reason.as_deref() == Some("looked at the bank"))
        .collect();
    assert_eq!(resolved.len(), 3);
    assert_eq!(resolved[0].detail["key"], "happened");
    assert_eq!(resolved[0].created_at, agentos_core::Clock::wall(&*clock));

    // A doubt ends once; and what is in flight is none.
    let again = gate.resolve(&page.items[0], Resolution::DidNotHappen, "again");
    stale_permit(again.unwrap_err());
    assert_eq!(replay(&gate, &request("happened")), b"receipt 7");
    let entry = gate.lookup(&key("pending")).unwrap().unwrap();
    let early = gate.resolve(&entry.summary, Resolution::DidNotHappen, "impatient");
    assert!(
        matches!(
            early,
            Err(IdempotencyError::Storage(
                StorageError::IllegalTransition { .. }
            ))
        ),
        "{early:?}"
    );
    in_flight(gate.begin(&request("pending")).unwrap());
    drop(pending);
}

/// Goal: a holder who comes back after his doubt was resolved changes nothing.
#[test]
fn who_comes_back_after_the_finding_is_too_late() {
    let (work, clock) = clocked();
    let (first, second) = (gate(&work, "first"), gate(&work, "second"));
    let late = execute(&first, &request("a"));
    clock.advance(LEASE);
    in_doubt(second.begin(&request("a")).unwrap());
    let page = second.in_doubt(None, 10).unwrap();
    let found = Resolution::Happened(NewOutcome::success("found"));
    second.resolve(&page.items[0], found, "looked").unwrap();
    stale_permit(first.finish(late, NewOutcome::success("late")).unwrap_err());
    assert_eq!(replay(&first, &request("a")), b"found");
}

#[test]
fn doubt_is_listed_in_pages_among_what_is_in_flight() {
    let (work, _clock) = clocked();
    let gate = gate(&work, "w");
    let gone = new_worker("gone");
    let mut held = Vec::new();
    for number in 0..20 {
        let asked = request(&format!("{number}"));
        if number % 4 == 0 {
            let doubtful = execute(&gate, &asked);
            gate.leave_in_doubt(doubtful).unwrap();
        } else if number % 4 == 1 {
            begun_by(&work, &gone, &asked);
        } else {
            held.push(execute(&gate, &asked));
        }
    }
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = gate.in_doubt(after, 3).unwrap();
        names.extend(page.items.iter().map(|key| key.key.to_string()));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(names, ["0", "4", "8", "12", "16"]);
}
