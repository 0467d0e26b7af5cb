//! Permits: renewed while they are held, lost on time, and refused when they are over.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use agentos_core::LeaseStorage as _;
use agentos_core::{
    Execution, FencingToken, KeyEntry, KeyStatus, NewOutcome, NewWorkItem, OnLost, Stale,
    StorageError, SweepRequest,
};
use agentos_idempotency::{IdempotencyError, PermitLoss};
use agentos_tests::wait_until;

use super::{
    LEASE, clocked, execute, fill, gate, in_doubt, in_flight, key, permitted, replay, request,
    stale_permit,
};
use crate::group_commit::hold_write_lock;

/// Whether somebody waits in the kernel for the lock of this file.
fn is_waited_for(file: &Path) -> bool {
    let inode = format!(":{}", std::fs::metadata(file).unwrap().ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.any(|word| word == "->") && words.any(|word| word.ends_with(&inode))
    })
}

/// Goal: a late finisher changes nothing. Method: his permit runs out, another one
/// takes the key over, and each of them ends in turn.
#[test]
fn a_late_finisher_is_refused_and_changes_nothing() {
    let (work, clock) = clocked();
    let (first, second) = (gate(&work, "first"), gate(&work, "second"));
    let taken_over = request("a").on_lost(OnLost::TakeOver);
    let found = || -> KeyEntry { second.lookup(&key("a")).unwrap().unwrap() };

    let late = execute(&first, &taken_over);
    clock.advance(LEASE);
    let held = execute(&second, &taken_over);
    assert_eq!(held.permit().execution, Execution::TakenOver);
    let pending = found();
    let stale = stale_permit(
        first
            .record(&late, NewOutcome::success("late"))
            .unwrap_err(),
    );
    assert_eq!(stale.fence, late.fence());
    assert_eq!(stale.status, Some(KeyStatus::Pending));
    assert_eq!(stale.newest, Some(FencingToken::new(2).unwrap()));
    assert_eq!(stale.owner.as_ref(), Some(second.owner()));
    assert_eq!(found(), pending);

    second.finish(held, NewOutcome::success("right")).unwrap();
    let recorded = found();
    assert_eq!(recorded.outcome.as_deref(), Some(b"right".as_slice()));
    let stale = stale_permit(
        first
            .record(&late, NewOutcome::success("late"))
            .unwrap_err(),
    );
    assert_eq!(stale.status, Some(KeyStatus::Succeeded));
    assert_eq!(found(), recorded);
    stale_permit(first.abandon(late).unwrap_err());
    assert_eq!(found(), recorded);
    assert_eq!(first.stats().stale, 3);
    assert_eq!(first.stats().finished, 0);
}

/// Goal: the number of a removed key fits no other key.
#[test]
fn who_executed_a_key_that_was_removed_finds_nothing() {
    let (work, clock) = clocked();
    let (first, second) = (gate(&work, "first"), gate(&work, "second"));
    let taken_over = request("a").on_lost(OnLost::TakeOver);
    let late = execute(&first, &taken_over);
    clock.advance(LEASE);
    let held = execute(&second, &taken_over);
    second.abandon(held).unwrap();
    fill(&second, &request("a"), "another");
    let stale = stale_permit(first.finish(late, NewOutcome::success("late")).unwrap_err());
    assert_eq!((stale.status, stale.newest), (None, None));
    assert_eq!(replay(&second, &request("a")), b"another");
}

/// Goal: an execution may take longer than its permit lasts. Method: the clock moves a
/// third of the lease at a time, and each renewal is waited for.
#[test]
fn a_permit_is_renewed_while_its_execution_goes_on() {
    let (work, clock) = clocked();
    let (gate, other) = (gate(&work, "w"), gate(&work, "other"));
    let taken_over = request("0").on_lost(OnLost::TakeOver);
    let held: Vec<_> = (0..10)
        .map(|number| execute(&gate, &request(&format!("{number}"))))
        .collect();
    for renewals in 1..=9 {
        clock.advance(LEASE / 3);
        wait_until("a renewal", || gate.stats().renewals == renewals);
        // All of them in one commit.
        assert_eq!(gate.stats().renewed, 10 * renewals);
        let holder = in_flight(other.begin(&taken_over).unwrap());
        assert_eq!(holder.left, Some(LEASE));
    }
    for (number, held) in held.into_iter().enumerate() {
        assert!(!held.is_lost(), "{number}");
        gate.finish(held, NewOutcome::success("slow")).unwrap();
    }
    assert_eq!(replay(&other, &taken_over), b"slow");
    let stats = gate.stats();
    assert_eq!((stats.held, stats.lost, stats.finished), (0, 0, 10));
}

#[test]
fn a_permit_that_was_dropped_is_renewed_no_more() {
    let (work, clock) = clocked();
    let gate = gate(&work, "w");
    drop(execute(&gate, &request("dropped")));
    let _held = execute(&gate, &request("held"));
    clock.advance(LEASE / 3);
    wait_until("a renewal", || gate.stats().renewals == 1);
    clock.advance(LEASE - LEASE / 3);
    in_doubt(gate.begin(&request("dropped")).unwrap());
    in_flight(gate.begin(&request("held")).unwrap());
}

/// Goal: who waits for a renewal that hangs is not told that all is well. Method: the
/// write lock is held by another, as far as the file knows, beyond the deadline.
#[test]
fn a_permit_is_lost_at_its_deadline_while_its_renewal_hangs() {
    let (work, clock) = clocked();
    let gate = gate(&work, "w");
    let held = execute(&gate, &request("a"));
    let lock = hold_write_lock(work.directory());
    clock.advance(LEASE / 3);
    wait_until("the renewal waits for the lock", || {
        is_waited_for(&work.directory().join("agent.db.wlock"))
    });
    assert!(!held.is_lost());
    clock.advance(LEASE - LEASE / 3 - Duration::from_micros(1));
    assert!(!held.is_lost());
    clock.advance(Duration::from_micros(1));
    assert_eq!(held.loss(), Some(PermitLoss::Overdue));
    drop(lock);
    wait_until("it is counted", || gate.stats().lost == 1);
    // The store did renew it, too late for him.
    let stats = gate.stats();
    assert_eq!((stats.renewals, stats.renewed), (1, 1));
    in_flight(gate.begin(&request("a")).unwrap());
    assert_eq!(held.loss(), Some(PermitLoss::Overdue));
    // Nobody took it over: what was done is recorded nevertheless.
    gate.finish(held, NewOutcome::success("late")).unwrap();
    assert_eq!(replay(&gate, &request("a")), b"late");
}

#[test]
fn a_holder_is_told_that_his_key_was_taken_over() {
    let (work, clock) = clocked();
    let (first, second) = (gate(&work, "first"), gate(&work, "second"));
    let taken_over = request("a").on_lost(OnLost::TakeOver);
    let held = execute(&first, &taken_over);
    let lock = hold_write_lock(work.directory());
    clock.advance(LEASE);
    assert!(held.is_lost());
    drop(lock);
    wait_until("it is counted", || first.stats().lost == 1);
    permitted(second.begin(&taken_over).unwrap());
}

/// Goal: what is executed under a lease is in doubt as soon as that lease is lost,
/// however long it had to go, and the one who lost it records nothing.
#[test]
fn under_a_lease_the_key_lives_and_dies_with_it() {
    let (work, clock) = clocked();
    let (first, second) = (gate(&work, "first"), gate(&work, "second"));
    let leases = work.leases("worker", LEASE);
    let item = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let lease = work.claim(&leases);
    assert_eq!(lease.fence.item, item);

    let done = request("done").under(lease.fence);
    let held = execute(&first, &done);
    assert_eq!(
        first.stats().held,
        0,
        "the heartbeat of the worker renews it"
    );
    first.finish(held, NewOutcome::success("x")).unwrap();

    let held = execute(&first, &request("a").under(lease.fence));
    let holder = in_flight(second.begin(&request("a")).unwrap());
    assert_eq!(holder.under, Some(lease.fence));
    assert_eq!(holder.left, Some(LEASE));
    // The worker renews its lease, and the permit goes on with it.
    clock.advance(LEASE / 2);
    let mut renewed = lease.clone();
    leases.renew(&mut renewed).unwrap();
    let holder = in_flight(second.begin(&request("a")).unwrap());
    assert_eq!(holder.left, Some(LEASE));

    // It is cancelled long before its deadline.
    work.queue.cancel(item, None).unwrap();
    let holder = in_doubt(second.begin(&request("a")).unwrap());
    assert_eq!(holder.under, Some(lease.fence));
    let before = second.lookup(&key("a")).unwrap();
    for error in [
        first
            .record(&held, NewOutcome::success("late"))
            .unwrap_err(),
        first.begin(&request("b").under(lease.fence)).unwrap_err(),
        first.leave_in_doubt(held).unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                IdempotencyError::Storage(StorageError::StaleLease(Stale::Work(_)))
            ),
            "{error:?}"
        );
    }
    assert_eq!(second.lookup(&key("a")).unwrap(), before);
    assert_eq!(second.lookup(&key("b")).unwrap(), None);
    assert_eq!(replay(&second, &request("done")), b"x");
}

#[test]
fn under_a_lease_that_was_swept_the_next_holder_finds_the_doubt() {
    let (work, clock) = clocked();
    let gate = gate(&work, "w");
    work.queue.enqueue(NewWorkItem::new("page")).unwrap();
    let leases = work.leases("worker", LEASE);
    let lease = work.claim(&leases);
    let held = execute(&gate, &request("a").under(lease.fence));
    clock.advance(LEASE);
    // Over, though nobody has swept it.
    in_doubt(gate.begin(&request("a")).unwrap());
    let swept = work.store.sweep(&SweepRequest::default()).unwrap();
    assert_eq!(swept.recovered.len(), 1);
    let next = work.claim(&leases);
    let again = request("a").under(next.fence);
    in_doubt(gate.begin(&again).unwrap());
    let held_again = execute(&gate, &again.on_lost(OnLost::TakeOver));
    gate.finish(held, NewOutcome::success("late")).unwrap_err();
    gate.finish(held_again, NewOutcome::success("right"))
        .unwrap();
    assert_eq!(replay(&gate, &request("a")), b"right");
}

/// Goal: the thread ends with the gate, and a permit keeps the gate.
#[test]
fn a_permit_is_renewed_also_when_the_gate_was_dropped() {
    let (work, clock) = clocked();
    let gate = gate(&work, "w");
    let held = execute(&gate, &request("a"));
    let groups = work.store.counters().groups;
    drop(gate);
    clock.advance(LEASE / 3);
    wait_until("a renewal", || work.store.counters().groups == groups + 1);
    // The holder knows of the first when the thread makes the second.
    clock.advance(LEASE / 3);
    wait_until("the next", || work.store.counters().groups == groups + 2);
    clock.advance(LEASE - LEASE / 3 * 2);
    assert!(!held.is_lost());
    drop(held);
    // Nobody holds the store any more but this test.
    assert_eq!(std::sync::Arc::strong_count(&work.store), 2);
}
