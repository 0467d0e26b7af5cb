//! Lost leases: found by the clock that does not jump, taken away once, with all
//! that belongs to it, by a sweep or by a claim.

use std::collections::BTreeSet;
use std::sync::Mutex;

use agentos_core::limits::SWEEP_ROWS_MAX;
use agentos_core::records::audit::WORK_RECOVERED;
use agentos_core::{
    CheckpointType, Holder, Lost, ManualClock, Next, RecoveredItem, SequenceNumber,
};
use agentos_tests::{append, new_task, numbers};
use serde_json::json;

use super::*;

/// Goal: a lost lease is taken away with everything that belongs to it. Method:
/// the item, its attempt, the audit line and the error boundary are looked at
/// after the sweep; they carry one moment.
pub(crate) fn a_lost_lease_is_taken_away_with_all_that_belongs_to_it(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    done(store, new_task("a"));
    done(store, append("a", "state"));
    let item = enqueue(store, page().task(task_id("a")));
    let lease = claim_item(store, "w", item);
    let claimed = store.now();
    clock.advance(LEASE - Duration::from_micros(1));
    let early = sweep(store);
    assert_eq!((early.found, early.more), (0, false), "it is held");
    assert_eq!(expires(store), Some(Duration::from_micros(1)));
    clock.advance(Duration::from_micros(1));
    assert_eq!(expires(store), Some(Duration::ZERO));
    let swept = sweep(store);
    assert_eq!((swept.found, swept.more), (1, false));
    let holder = Holder {
        worker: worker("w"),
        since: claimed,
        until: claimed.plus(LEASE),
    };
    let at_once = Next::Requeue {
        pause: Duration::ZERO,
    };
    let expected = RecoveredItem {
        fence: lease.fence,
        holder: Some(holder),
        task: Some(task_id("a")),
        next: at_once,
    };
    assert_eq!(swept.recovered, [expected]);
    let now = store.now();
    let found = summary(store, item);
    assert_eq!(
        (found.status, found.holder),
        (WorkItemStatus::Pending, None)
    );
    assert_eq!((found.attempts, found.losses), (1, 1));
    // It keeps its age, whatever the wall clock of the one who sweeps says.
    assert_eq!((found.available_at, found.updated_at), (claimed, now));
    assert_eq!(found.newest_token, Some(lease.fence.token));
    assert!(found.last_error.unwrap().contains("w (w-1)"));
    let attempt = store.attempts(item).unwrap().pop().unwrap();
    let end = attempt.end.unwrap();
    assert_eq!((end.at, end.outcome), (now, AttemptOutcome::Expired));
    let line = store
        .audits(&task_id("a"), None, 10)
        .unwrap()
        .items
        .pop()
        .unwrap();
    assert_eq!(
        (line.event.as_str(), line.created_at),
        (WORK_RECOVERED, now)
    );
    let states = (line.from.as_deref(), line.to.as_deref());
    assert_eq!(states, (Some("in_progress"), Some("pending")));
    let sequence = SequenceNumber::new(2).unwrap();
    let boundary = store.checkpoint(&task_id("a"), sequence).unwrap().unwrap();
    assert_eq!(
        boundary.summary.checkpoint_type,
        CheckpointType::ErrorBoundary
    );
    assert_eq!(
        (boundary.snapshot, boundary.summary.created_at),
        (None, now)
    );
    // Who held the lease until when.
    for (name, value) in [
        ("work_item", json!(item.get())),
        ("token", json!(1)),
        ("worker", json!("w")),
        ("incarnation", json!("w-1")),
        ("held_until", json!(claimed.plus(LEASE).to_text())),
    ] {
        assert_eq!(boundary.metadata[name], value, "{name}");
    }
    let again = sweep(store);
    assert_eq!((again.found, expires(store)), (0, None));
    assert_eq!(numbers(store, "a"), [1, 2]);
}

/// Goal: the first loss says little about the item and costs no pause; further
/// ones do; and losses are attempts, so they end.
pub(crate) fn losses_requeue_at_once_then_with_a_pause_and_end(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    done(store, new_task("a"));
    let item = enqueue(store, page().task(task_id("a")).max_attempts(4));
    let mut pauses = Vec::new();
    for attempt in 1..=4 {
        let lease = claim_item(store, "w", item);
        assert_eq!(lease.attempt, attempt);
        clock.advance(PAST_LEASE);
        let next = sweep(store).recovered.pop().unwrap().next;
        match next {
            Next::Requeue { pause } => {
                let available_at = summary(store, item).available_at;
                match pause {
                    Duration::ZERO => assert!(available_at < store.now()),
                    pause => assert_eq!(available_at, store.now().plus(pause)),
                }
                clock.advance(pause);
                pauses.push(pause);
            }
            Next::DeadLetter => assert_eq!(attempt, 4),
        }
    }
    assert_eq!(pauses[0], Duration::ZERO);
    for pause in &pauses[1..] {
        assert!(SECOND / 2 <= *pause && *pause <= SECOND, "{pause:?}");
    }
    assert_eq!(pauses.len(), 3);
    let found = summary(store, item);
    assert_eq!(found.status, WorkItemStatus::Failed);
    assert_eq!((found.attempts, found.losses), (4, 4));
    assert_eq!(outcomes(store, item), [Some(AttemptOutcome::Expired); 4]);
    assert_eq!((claim(store, "w"), claimable(store)), (None, None));
    let line = store
        .audits(&task_id("a"), None, 100)
        .unwrap()
        .items
        .pop()
        .unwrap();
    assert_eq!(
        (line.event.as_str(), line.to.as_deref()),
        (WORK_RECOVERED, Some("failed"))
    );
}

/// A predecessor chose expired rows first and updated them by their key later: it
/// stole leases that had been renewed in between.
pub(crate) fn a_lease_that_was_renewed_is_never_taken_away(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let fences: Vec<Fence> = (0..10)
        .map(|_| {
            let item = enqueue(store, page());
            claim_item(store, "w", item).fence
        })
        .collect();
    clock.advance(LEASE - SECOND);
    let (renewed, lost) = fences.split_at(6);
    let answers = store.renew(renewed, LEASE).unwrap();
    assert!(answers.iter().all(Result::is_ok));
    clock.advance(PAST_LEASE - LEASE + SECOND);
    let swept = sweep(store);
    let taken: BTreeSet<_> = recovered(&swept).into_iter().collect();
    assert_eq!(taken, lost.iter().copied().collect());
    assert_eq!(sweep(store).found, 0);
    for fence in renewed {
        done(
            store,
            Commit::under(fence).part(CompleteWork {
                fence: *fence,
                result: None,
            }),
        );
    }
}

pub(crate) fn a_sweep_is_done_in_bounded_batches(store: &dyn Storage, clock: &ManualClock) {
    let commit = (0..25).fold(Commit::new(), |commit, _| commit.part(page()));
    let all: BTreeSet<_> = done(store, commit)
        .enqueued()
        .map(|(item, _)| item)
        .collect();
    let batch = ClaimRequest {
        items: 25,
        ..request("w")
    };
    assert_eq!(claim_of(store, &batch).len(), 25);
    clock.advance(PAST_LEASE);
    let of = |rows, skip| SweepRequest {
        rows,
        skip,
        ..SweepRequest::default()
    };
    let first = sweep_of(store, &of(10, 0));
    assert_eq!(
        (first.found, first.recovered.len(), first.more),
        (10, 10, true)
    );
    // Passed over: as if those had failed.
    let second = sweep_of(store, &of(10, 12));
    assert_eq!((second.found, second.more), (3, false));
    let third = sweep_of(store, &of(SWEEP_ROWS_MAX, 0));
    assert_eq!((third.found, third.more), (12, false));
    let swept = [first, second, third];
    let taken: BTreeSet<_> = swept
        .iter()
        .flat_map(recovered)
        .map(|fence| fence.item)
        .collect();
    assert_eq!(taken, all);
    for rows in [0, SWEEP_ROWS_MAX + 1] {
        let answer = store.sweep(&of(rows, 0));
        let refused = matches!(
            answer,
            Err(StorageError::Invalid(_) | StorageError::LimitExceeded(_))
        );
        assert!(refused, "{answer:?}");
    }
}

/// Goal: any number of sweeps and claims at once recover each item once. Method:
/// eight threads sweep in small batches while two claim.
pub(crate) fn sweeps_and_claims_at_once_recover_each_item_once(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let commit = (0..200).fold(Commit::new(), |commit, _| commit.part(page()));
    done(store, commit);
    let batch = ClaimRequest {
        items: 200,
        ..request("dead")
    };
    assert_eq!(claim_of(store, &batch).len(), 200);
    clock.advance(PAST_LEASE);
    let swept = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for index in 0..10 {
            let swept = &swept;
            scope.spawn(move || {
                if 8 <= index {
                    while claim(store, "living").is_some() {}
                    return;
                }
                let small = SweepRequest {
                    rows: 7,
                    ..SweepRequest::default()
                };
                while expires(store) == Some(Duration::ZERO) {
                    let batch = recovered(&sweep_of(store, &small));
                    swept.lock().unwrap().extend(batch);
                }
            });
        }
    });
    let swept = swept.into_inner().unwrap();
    let distinct: BTreeSet<_> = swept.iter().collect();
    assert_eq!(distinct.len(), swept.len(), "an item was recovered twice");
    // The sweeps' and the claims' recoveries together: each attempt ended once.
    let mut expired = 0;
    for state in WorkItemStatus::ALL {
        for item in store.work_items(*state, None, PAGE_ROWS_MAX).unwrap().items {
            assert_eq!(item.losses, 1, "{item:?}");
            let ends = outcomes(store, item.id);
            assert_eq!(ends[0], Some(AttemptOutcome::Expired));
            assert!(ends.len() <= 2);
            expired += 1;
        }
    }
    assert_eq!(expired, 200);
}

/// Takeover never waits for a sweeper: a claim takes expired leases away itself,
/// as a sweep would.
pub(crate) fn a_claim_takes_an_expired_lease_over_by_itself(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    done(store, new_task("a"));
    let item = enqueue(store, page().task(task_id("a")));
    let old = claim_item(store, "old", item);
    clock.advance(LEASE);
    let new = claim_item(store, "new", item);
    assert_eq!((old.fence.token.get(), new.fence.token.get()), (1, 2));
    assert_eq!((new.attempt, summary(store, item).losses), (2, 1));
    assert_eq!(outcomes(store, item), [Some(AttemptOutcome::Expired), None]);
    assert_eq!(numbers(store, "a"), [1], "its error boundary");
    let line = store
        .audits(&task_id("a"), None, 10)
        .unwrap()
        .items
        .pop()
        .unwrap();
    assert_eq!(line.event, WORK_RECOVERED);
    // Whatever the claim asks for: others get the item that it freed.
    clock.advance(LEASE);
    let elsewhere = ClaimRequest {
        filter: WorkFilter::types(["other"]),
        ..request("third")
    };
    assert_eq!(claim_of(store, &elsewhere), []);
    assert_eq!(status(store, item), WorkItemStatus::Pending);
}

pub(crate) fn a_reboot_ends_every_lease(store: &dyn Storage, clock: &ManualClock) {
    let items: Vec<_> = (0..3).map(|_| enqueue(store, page())).collect();
    let batch = ClaimRequest {
        items: 3,
        lease: 3600 * SECOND,
        ..request("w")
    };
    let leases = claim_of(store, &batch);
    assert_eq!(expires(store), Some(3600 * SECOND));
    clock.reboot();
    assert_eq!(expires(store), Some(Duration::ZERO));
    // The holder of the earlier boot is not gone for the store until then.
    done(store, Commit::under(&leases[2]).part(complete(&leases[2])));
    let after = claim_item(store, "w", items[0]);
    assert_eq!((after.fence.token.get(), after.attempt), (2, 2));
    for item in &items[..2] {
        assert_eq!(outcomes(store, *item)[0], Some(AttemptOutcome::Expired));
    }
    stale(store.commit(Commit::under(&leases[0]).part(page())));
    assert_eq!(expires(store), Some(LEASE), "one of this boot");
}

/// Texts follow the wall clock; leases do not.
pub(crate) fn a_wall_clock_that_jumps_touches_no_lease(store: &dyn Storage, clock: &ManualClock) {
    let item = enqueue(store, page());
    let lease = claim_item(store, "w", item);
    let day = 24 * 3600 * SECOND;
    let now = store.now();
    for jump in [now.plus(30 * day), now.minus(30 * day), now] {
        clock.set(jump);
        assert_eq!(expires(store), Some(LEASE));
        assert_eq!((sweep(store).found, claim(store, "other")), (0, None));
        let renewed = store
            .renew(&[lease.fence], LEASE)
            .unwrap()
            .pop()
            .unwrap()
            .unwrap();
        assert_eq!(renewed.expires_at, jump.plus(LEASE));
        assert_eq!(renewed.deadline, store.boot_now().plus(LEASE));
    }
    // And it runs out by the other clock alone.
    clock.advance_boot(LEASE);
    assert_eq!(recovered(&sweep(store)), [lease.fence]);
}

/// Goal: a worker that was started anew gives up what its earlier starts held, and
/// nothing else. Method: two earlier starts, the start that asks, and a worker of
/// another name.
pub(crate) fn only_earlier_starts_of_the_worker_are_given_up(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let claim_as = |worker: &Worker| {
        let item = enqueue(store, page());
        let claimed = ClaimRequest {
            worker: worker.clone(),
            ..request("w")
        };
        let lease = claim_of(store, &claimed).pop().unwrap();
        assert_eq!(lease.fence.item, item);
        lease
    };
    let me = start("w", 3);
    let earlier = [start("w", 1), start("w", 2), start("w", 1)].map(|worker| claim_as(&worker));
    let own = claim_as(&me);
    let other = claim_as(&start("v", 1));
    let later = claim_as(&start("w", 4));
    clock.advance(SECOND); // none has run out
    let give_up = SweepRequest {
        lost: Lost::EarlierStarts(me),
        rows: 2,
        ..SweepRequest::default()
    };
    let first = sweep_of(store, &give_up);
    assert_eq!((first.found, first.more), (2, true));
    let second = sweep_of(store, &give_up);
    assert_eq!(second.found, 1);
    let mut given_up = recovered(&first);
    given_up.extend(recovered(&second));
    given_up.sort_unstable();
    let mut expected = earlier.each_ref().map(|lease| lease.fence);
    expected.sort_unstable();
    assert_eq!(given_up, expected);
    for lease in &earlier {
        stale(store.commit(Commit::under(lease).part(page())));
        let item = summary(store, lease.fence.item);
        assert_eq!((item.status, item.losses), (WorkItemStatus::Pending, 1));
        assert!(item.available_at <= store.now(), "at once");
    }
    for lease in [own, other, later] {
        done(store, Commit::under(&lease).part(complete(&lease)));
    }
    assert_eq!(sweep_of(store, &give_up).found, 0);
}
