//! Executions under the lease of a work item: they live exactly as long as it does.

use agentos_core::{
    AbandonKey, CancelWork, CompleteWork, FailWork, ManualClock, ReleaseWork, RenewedPermit, Retry,
    SweepRequest,
};

use super::*;

fn sweep(store: &dyn Storage) {
    let swept = store.sweep(&SweepRequest::default()).unwrap();
    assert!(swept.failed.is_empty(), "{swept:?}");
    assert_eq!(swept.recovered.len(), 1);
}

/// How a lease ends, and its end.
type End = (&'static str, fn(&dyn Storage, &ManualClock, &Lease));

/// Each way in which a lease ends.
const ENDS: [End; 7] = [
    ("swept", |store, clock, _| {
        clock.advance(PAST_LEASE);
        sweep(store);
    }),
    ("claimed by another", |store, clock, _| {
        clock.advance(PAST_LEASE);
        claim(store, "successor");
    }),
    ("claimed by itself again", |store, clock, _| {
        clock.advance(PAST_LEASE);
        claim(store, "one");
    }),
    ("cancelled", |store, _, lease| {
        let item = lease.fence.item;
        done(store, CancelWork { item, reason: None });
    }),
    ("completed", |store, _, lease| {
        let fence = lease.fence;
        done(
            store,
            CompleteWork {
                fence,
                result: None,
            },
        );
    }),
    ("failed", |store, _, lease| {
        let fail = FailWork {
            fence: lease.fence,
            reason: "no".into(),
            retry: Retry::Never,
        };
        done(store, fail);
    }),
    ("released", |store, _, lease| {
        let fence = lease.fence;
        done(
            store,
            ReleaseWork {
                fence,
                reason: None,
            },
        );
    }),
];

/// Gets the item of an end, and the key of a test, out of the way of the next.
fn clear(store: &dyn Storage, clock: &ManualClock, lease: &Lease) {
    clock.advance(2 * PAST_LEASE);
    let item = lease.fence.item;
    let status = store.work_item(item).unwrap().unwrap().summary.status;
    if ["pending", "in_progress"].contains(&status.as_str()) {
        done(store, CancelWork { item, reason: None });
    }
    let asked = BeginKey {
        on_recorded: OnRecorded::RunAgain,
        ..take_over("clearer")
    };
    let fence = executes(store, &asked).fence;
    done(store, AbandonKey { fence });
}

pub(crate) fn a_permit_under_a_lease_lasts_as_long_as_the_lease(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let lease = leased(store, "one");
    clock.advance(SECOND);
    let begun = store.now();
    let permit = executes(store, &begin_under(&lease, "one"));
    assert_eq!(permit.under, Some(lease.fence));
    assert_eq!(permit.deadline, lease.deadline);
    assert_eq!(permit.expires_at, begun.plus(LEASE - SECOND));
    let holder = in_flight(store, &begin("two"));
    assert_eq!(
        (holder.under, holder.left),
        (Some(lease.fence), Some(LEASE - SECOND))
    );
    assert_eq!(
        (holder.since, holder.until),
        (begun, begun.plus(LEASE - SECOND))
    );
    // A renewal of the lease renews it, without a word to the key.
    clock.advance(5 * SECOND);
    store.renew(&[lease.fence], LEASE).unwrap()[0]
        .as_ref()
        .unwrap();
    let holder = in_flight(store, &take_over("two"));
    assert_eq!(holder.left, Some(LEASE));
    assert_eq!(holder.until, store.now().plus(LEASE));
    assert_eq!(view(store).permit.unwrap().left, Some(LEASE));
    // A renewal of the key says until when, and changes nothing.
    let deadline = store.boot_now().plus(LEASE);
    clock.advance(SECOND);
    let before = everything(store);
    let renewed = store.renew_keys(&[permit.fence], 50 * LEASE).unwrap();
    let expected = RenewedPermit {
        fence: permit.fence,
        deadline,
    };
    assert_eq!(renewed, [Ok(expected)]);
    assert_eq!(everything(store), before);
    clock.advance(LEASE);
    assert_eq!(doubts(store), [permit.fence]);
    in_doubt(store, &begin("two"));
    assert_eq!(
        executes(store, &take_over("two")).execution,
        Execution::TakenOver
    );
}

/// Goal: whatever ends the lease ends the permit at once, and what was executed under
/// it can not be recorded any more. Method: each way in which a lease ends.
pub(crate) fn the_end_of_the_lease_is_the_end_of_the_permit(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    for (how, end) in ENDS {
        let lease = leased(store, "one");
        let permit = executes(store, &begin_under(&lease, "one"));
        assert_eq!(permit.execution, Execution::First);
        // While it is held, also the same worker is told that it is in flight.
        in_flight(store, &begin_under(&lease, "one"));
        end(store, clock, &lease);
        let holder = in_doubt(store, &begin("two"));
        assert_eq!((holder.fence, holder.left), (permit.fence, None), "{how}");
        assert_eq!(holder.owner, worker("one"), "{how}");
        assert_eq!(doubts(store), [permit.fence], "{how}");
        let before = everything(store);
        for outcome in [NewOutcome::success("late"), NewOutcome::failure("late")] {
            let under = Commit::under(&lease).part(finish(&permit, outcome.clone()));
            assert_eq!(stale_lease(store.commit(under)).fence, lease.fence, "{how}");
            let alone = store.commit(finish(&permit, outcome).into());
            assert!(
                matches!(alone, Err(StorageError::StaleLease(_))),
                "{how}: {alone:?}"
            );
        }
        let renewed = store.renew_keys(&[permit.fence], LEASE).unwrap();
        assert!(renewed[0].is_err(), "{how}: {renewed:?}");
        assert_eq!(everything(store), before, "{how}");
        let taken = executes(store, &take_over("two"));
        assert_eq!(taken.execution, Execution::TakenOver, "{how}");
        follows(&taken, &permit);
        done(store, finish(&taken, NewOutcome::success("two's")));
        assert_eq!(replayed(store, &begin("three")), b"two's", "{how}");
        clear(store, clock, &lease);
    }
}

/// Goal: under a lease that is not held nothing begins, whatever is there. Method:
/// each way in which a lease ends, and each state of the key.
pub(crate) fn under_a_lost_lease_nothing_begins(store: &dyn Storage, clock: &ManualClock) {
    for (how, end) in ENDS {
        let lease = leased(store, "one");
        end(store, clock, &lease);
        let refuses = |asked: BeginKey| {
            let before = everything(store);
            let refusal = stale_lease(store.begin_key(&asked));
            assert_eq!(refusal.fence, lease.fence, "{how}");
            assert_eq!(everything(store), before, "{how}");
        };
        let again = || BeginKey {
            on_recorded: OnRecorded::RunAgain,
            on_lost: OnLost::TakeOver,
            ..begin_under(&lease, "one")
        };
        refuses(begin_under(&lease, "one"));
        assert_eq!(entry(store, "k"), None, "{how}");
        let permit = first(store, "two");
        done(store, finish(&permit, NewOutcome::failure("")));
        refuses(begin_under(&lease, "one"));
        refuses(again());
        let permit = executes(store, &run_again("two"));
        clock.advance(PAST_LEASE);
        refuses(again());
        done(store, finish(&permit, NewOutcome::success("two's")));
        clear(store, clock, &lease);
    }
}

/// Nobody took the item: its holder may still write, and so execute.
pub(crate) fn an_expired_lease_that_nobody_took_still_records(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let lease = leased(store, "one");
    let permit = executes(store, &begin_under(&lease, "one"));
    clock.advance(100 * LEASE);
    in_doubt(store, &begin("two"));
    let commit = Commit::under(&lease)
        .part(finish(&permit, NewOutcome::success("late")))
        .part(CompleteWork {
            fence: lease.fence,
            result: None,
        });
    done(store, commit);
    assert_eq!(replayed(store, &begin("two")), b"late");
}

/// The successor on the item decides what follows for what its predecessor began.
pub(crate) fn who_claims_the_item_next_finds_what_its_predecessor_left(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let lease = leased(store, "one");
    let names = ["done", "open", "failed"];
    let permits = names.map(|name| {
        let asked = BeginKey {
            key: key(name),
            ..begin_under(&lease, "one")
        };
        executes(store, &asked)
    });
    let outcomes = Commit::under(&lease)
        .part(finish(&permits[0], NewOutcome::success("done")))
        .part(finish(&permits[2], NewOutcome::failure("no")));
    done(store, outcomes);
    clock.advance(PAST_LEASE);
    let next = claim(store, "two");
    assert_eq!(next.fence.item, lease.fence.item);
    let asks = |name: &str| BeginKey {
        key: key(name),
        ..begin_under(&next, "two")
    };
    assert_eq!(replayed(store, &asks("done")), b"done");
    assert_eq!(in_doubt(store, &asks("open")).under, Some(lease.fence));
    let failed = executes(store, &asks("failed"));
    assert_eq!(failed.execution, Execution::AfterFailure);
    assert_eq!(
        (failed.under, failed.deadline.clone()),
        (Some(next.fence), next.deadline.clone())
    );
    let again = BeginKey {
        on_lost: OnLost::TakeOver,
        ..asks("open")
    };
    let open = executes(store, &again);
    assert_eq!(open.execution, Execution::TakenOver);
    let both = Commit::under(&next)
        .part(finish(&open, NewOutcome::success("open")))
        .part(finish(&failed, NewOutcome::success("failed")));
    done(store, both);
    for name in names {
        assert_eq!(replayed(store, &asks(name)), name.as_bytes());
    }
}
