//! The fence: what is done under a lease that is not held any more is not done at
//! all, and is told who holds it now.

use agentos_core::{
    AbandonKey, AppendCheckpoint, BeginKey, Begun, BoundedTable, CancelWork, CheckpointType,
    Digest, DoubtKey, FailWork, FencingToken, FinishKey, Holder, IdempotencyKey, ManualClock,
    NewOutcome, NewTask, Part, PartOutcome, Permit, PruneCheckpoints, PruneRows,
    RecordVerification, ReleaseWork, RemoveKeys, RequeueWork, Resolution, ResolveKey, Retry,
    RowMark, SequenceNumber, SetTaskStatus, TouchKeys, Verification,
};
use agentos_tests::{append, new_task, numbers};

use super::*;

/// A lease that was lost in each way that there is, and what is said of it.
struct Lost {
    lease: Lease,
    how: &'static str,
    status: WorkItemStatus,
    holder: Option<Worker>,
}

fn lost_leases(store: &dyn Storage, clock: &ManualClock) -> Vec<Lost> {
    type End = fn(&dyn Storage, &ManualClock, &Lease);
    let ways: [(&str, WorkItemStatus, Option<Worker>, End); 7] = [
        (
            "swept",
            WorkItemStatus::Pending,
            None,
            |store, clock, lease| {
                clock.advance(PAST_LEASE);
                assert_eq!(recovered(&sweep(store)), [lease.fence]);
            },
        ),
        (
            "taken over",
            WorkItemStatus::InProgress,
            Some(worker("successor")),
            |store, clock, lease| {
                clock.advance(PAST_LEASE);
                claim_item(store, "successor", lease.fence.item);
            },
        ),
        (
            "released",
            WorkItemStatus::Pending,
            None,
            |store, _, lease| {
                let fence = lease.fence;
                done(
                    store,
                    ReleaseWork {
                        fence,
                        reason: None,
                    },
                );
            },
        ),
        (
            "claimed by the same again",
            WorkItemStatus::InProgress,
            Some(worker("loser")),
            |store, _, lease| {
                let fence = lease.fence;
                done(
                    store,
                    ReleaseWork {
                        fence,
                        reason: None,
                    },
                );
                claim_item(store, "loser", fence.item);
            },
        ),
        (
            "cancelled",
            WorkItemStatus::Cancelled,
            None,
            |store, _, lease| {
                let item = lease.fence.item;
                done(store, CancelWork { item, reason: None });
            },
        ),
        (
            "completed",
            WorkItemStatus::Succeeded,
            None,
            |store, _, lease| {
                done(store, complete(lease));
            },
        ),
        ("failed", WorkItemStatus::Failed, None, |store, _, lease| {
            let fail = FailWork {
                fence: lease.fence,
                reason: "no".into(),
                retry: Retry::Never,
            };
            done(store, fail);
        }),
    ];
    let lose = |(how, status, holder, end): (_, _, _, End)| {
        let kind = NewWorkItem::new(how).priority(100);
        let item = enqueue(store, kind);
        let lease = claim_item(store, "loser", item);
        end(store, clock, &lease);
        // Out of the way of the next one.
        let lost = Lost {
            lease,
            how,
            status,
            holder,
        };
        if status == WorkItemStatus::Pending {
            let fence = claim_item(store, "parked", item).fence;
            done(
                store,
                FailWork {
                    fence,
                    reason: "parked".into(),
                    retry: Retry::After(3600 * SECOND),
                },
            );
        }
        lost
    };
    ways.into_iter().map(lose).collect()
}

fn begun(store: &dyn Storage, name: String) -> Permit {
    let key = IdempotencyKey::new(name).unwrap();
    let begin = BeginKey::new(key, Digest::of(b"request"), worker("other"));
    match store.begin_key(&begin).unwrap() {
        Begun::Execute(permit) => permit,
        answer => panic!("{answer:?}"),
    }
}

/// One part of each kind about keys, of keys that nobody else has.
fn one_of_each_about_keys(store: &dyn Storage, round: usize) -> Vec<Part> {
    let begun = |name: &str| begun(store, format!("{name} {round}"));
    let finish = |fence| FinishKey {
        fence,
        outcome: NewOutcome::success("done"),
    };
    let (doubted, finished) = (begun("in doubt"), begun("finished").fence);
    done(
        store,
        DoubtKey {
            fence: doubted.fence,
        },
    );
    done(store, finish(finished));
    vec![
        finish(begun("to finish").fence).into(),
        AbandonKey {
            fence: begun("to abandon").fence,
        }
        .into(),
        DoubtKey {
            fence: begun("to doubt").fence,
        }
        .into(),
        ResolveKey {
            key: doubted.key,
            fence: doubted.fence,
            resolution: Resolution::DidNotHappen,
            reason: "looked".into(),
            sole_start: None,
        }
        .into(),
        TouchKeys {
            keys: vec![finished.key],
        }
        .into(),
        RemoveKeys {
            keys: vec![finished],
        }
        .into(),
    ]
}

/// One part of each kind, all of them good in themselves.
fn one_of_each(store: &dyn Storage, round: usize, other: &Lease, dead: WorkItemId) -> Vec<Part> {
    let sequence = SequenceNumber::FIRST;
    let mut parts = vec![
        NewTask::new(task_id("new"), "test").into(),
        SetTaskStatus::new(task_id("a"), TaskStatus::Running).into(),
        append("a", "late").into(),
        AppendCheckpoint::new(task_id("a"), CheckpointType::ErrorBoundary).into(),
        RecordVerification {
            task: task_id("a"),
            sequence,
            verification: Verification::Failed,
            results: Vec::new(),
        }
        .into(),
        note("a").into(),
        PruneCheckpoints {
            task: task_id("a"),
            from: sequence,
            up_to: sequence,
            protect: SequenceNumber::new(3).ok(),
            spare: None,
            rows: 10,
        }
        .into(),
        PruneRows {
            table: BoundedTable::AuditLines,
            max_age: Some(Duration::ZERO),
            up_to: None,
            after: RowMark::START,
            rows: 10,
        }
        .into(),
        page().into(),
        complete(other).into(),
        FailWork {
            fence: other.fence,
            reason: "no".into(),
            retry: Retry::default(),
        }
        .into(),
        ReleaseWork {
            fence: other.fence,
            reason: None,
        }
        .into(),
        CancelWork {
            item: other.fence.item,
            reason: None,
        }
        .into(),
    ];
    parts.extend(one_of_each_about_keys(store, round));
    // Last, since it makes an urgent item due.
    parts.push(
        RequeueWork {
            item: dead,
            reason: None,
        }
        .into(),
    );
    parts
}

/// Each kind of part has a place in [`one_of_each`]: a new kind does not compile
/// until it is there.
fn kind(part: &Part) -> usize {
    match part {
        Part::CreateTask(_) => 0,
        Part::SetTaskStatus(_) => 1,
        Part::AppendCheckpoint(_) => 2,
        Part::RecordVerification(_) => 3,
        Part::Audit(_) => 4,
        Part::PruneCheckpoints(_) => 5,
        Part::PruneRows(_) => 6,
        Part::EnqueueWork(_) => 7,
        Part::CompleteWork(_) => 8,
        Part::FailWork(_) => 9,
        Part::ReleaseWork(_) => 10,
        Part::CancelWork(_) => 11,
        Part::FinishKey(_) => 12,
        Part::AbandonKey(_) => 13,
        Part::DoubtKey(_) => 14,
        Part::ResolveKey(_) => 15,
        Part::TouchKeys(_) => 16,
        Part::RemoveKeys(_) => 17,
        Part::RequeueWork(_) => 18,
    }
}

/// Goal: a worker that lost its lease, in whatever way, can change nothing under
/// it. Method: for each way and each kind of part a commit under the lost lease;
/// what the store shows is the same before and after.
pub(crate) fn a_commit_under_a_lost_lease_writes_nothing(store: &dyn Storage, clock: &ManualClock) {
    done(store, new_task("a"));
    for state in ["one", "two", "three"] {
        done(store, append("a", state));
    }
    let lost = lost_leases(store, clock);
    let dead = lost.last().unwrap().lease.fence.item;
    // A lease that is held, for the parts that end one.
    let held = |place: usize| {
        let urgent = page().priority(10 + place as i32);
        claim_item(store, "other", enqueue(store, urgent))
    };
    let parts = one_of_each(store, 0, &held(0), dead);
    let mut kinds: Vec<_> = parts.iter().map(kind).collect();
    kinds.dedup();
    assert_eq!(kinds, (0..19).collect::<Vec<_>>());
    let before = everything(store);
    for Lost {
        lease,
        how,
        status,
        holder,
    } in &lost
    {
        for part in &parts {
            let commit = Commit::under(lease).part(part.clone());
            let refusal = stale(store.commit(commit));
            assert_eq!(refusal.fence, lease.fence, "{how}");
            assert_eq!(refusal.status, Some(*status), "{how}");
            let found = refusal.holder.map(|holder| holder.worker);
            assert_eq!(found, *holder, "{how}");
        }
        // Its own item, with and without the commit being under the lease.
        for part in [
            Part::from(complete(lease)),
            FailWork {
                fence: lease.fence,
                reason: "no".into(),
                retry: Retry::default(),
            }
            .into(),
            ReleaseWork {
                fence: lease.fence,
                reason: None,
            }
            .into(),
        ] {
            stale(store.commit(Commit::under(lease).part(part.clone())));
            let among_others = Commit::new().part(note("a")).part(part).part(page());
            stale(store.commit(among_others));
        }
        let renewal = store.renew(&[lease.fence], LEASE).unwrap();
        assert!(renewal[0].is_err(), "{how}");
        assert_eq!(everything(store), before, "{how}");
    }
    // Each of them goes through under a lease that is held.
    for place in 0..parts.len() {
        let other = held(1 + place);
        let part = one_of_each(store, 1 + place, &other, dead).swap_remove(place);
        done(store, Commit::under(&other).part(part));
    }
}

/// A predecessor knew leases by the worker's name: a restarted worker, or an older
/// thread of it, completed the newer attempt's work.
pub(crate) fn a_lost_lease_says_who_holds_it_and_since_when(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let item = enqueue(store, page());
    let old = claim_item(store, "w", item);
    clock.advance(PAST_LEASE);
    let again = ClaimRequest {
        worker: start("w", 2),
        ..request("w")
    };
    let since = store.now();
    let new = claim_of(store, &again).pop().unwrap();
    clock.advance(SECOND);
    let expected = StaleLease {
        fence: old.fence,
        status: Some(WorkItemStatus::InProgress),
        newest: Some(new.fence.token),
        holder: Some(Holder {
            worker: start("w", 2),
            since,
            until: since.plus(LEASE),
        }),
    };
    let under = Commit::under(&old).part(page());
    assert_eq!(stale(store.commit(under)), expected);
    assert_eq!(stale(store.commit(complete(&old).into())), expected);
    let renewals = store.renew(&[old.fence], LEASE).unwrap();
    assert_eq!(renewals, [Err(expected)]);
    done(store, Commit::under(&new).part(complete(&new)));
    // Nobody holds it, and one that never was.
    let after = stale(store.commit(complete(&new).into()));
    assert_eq!(after.status, Some(WorkItemStatus::Succeeded));
    assert_eq!((after.newest, after.holder), (Some(new.fence.token), None));
    let never = Fence {
        item: WorkItemId::new(4096).unwrap(),
        token: FencingToken::new(1).unwrap(),
    };
    let refusal = stale(store.commit(Commit::under(never).part(page())));
    assert_eq!((refusal.fence, refusal.status), (never, None));
    assert_eq!((refusal.newest, refusal.holder), (None, None));
    let pending = enqueue(store, page());
    let early = Fence {
        item: pending,
        ..never
    };
    let refusal = stale(store.commit(Commit::under(early).part(page())));
    assert_eq!(refusal.status, Some(WorkItemStatus::Pending));
    assert_eq!(refusal.newest, None, "it was never claimed");
}

/// Nobody else has the item: there is nothing to protect.
pub(crate) fn a_lease_that_expired_and_was_not_taken_may_still_write(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    done(store, new_task("a"));
    let item = enqueue(store, page().task(task_id("a")));
    let lease = claim_item(store, "w", item);
    clock.advance(100 * LEASE);
    assert_eq!(expires(store), Some(Duration::ZERO));
    done(store, Commit::under(&lease).part(append("a", "late")));
    assert_eq!(numbers(store, "a"), [1]);
    done(store, Commit::under(&lease).part(complete(&lease)));
    assert_eq!(status(store, item), WorkItemStatus::Succeeded);
    assert_eq!(outcomes(store, item), [Some(AttemptOutcome::Succeeded)]);
    assert_eq!(sweep(store).found, 0);
}

/// Goal: outcome, state, next work and the task's end are one commit. Method: a
/// step that is whole, and one whose last part fails.
pub(crate) fn a_step_is_one_commit(store: &dyn Storage, _: &ManualClock) {
    done(store, new_task("a"));
    done(store, SetTaskStatus::new(task_id("a"), TaskStatus::Running));
    let item = enqueue(store, page().task(task_id("a")));
    let lease = claim_item(store, "w", item);
    let step = || {
        Commit::under(&lease)
            .part(append("a", "done"))
            .part(page().unique_key("next"))
            .part(complete(&lease))
            .part(SetTaskStatus::new(task_id("a"), TaskStatus::Succeeded))
    };
    let before = everything(store);
    let broken = step().part(note("absent"));
    assert!(matches!(
        store.commit(broken),
        Err(StorageError::NotFound { what: "task", .. })
    ));
    assert_eq!(everything(store), before);
    let receipt = done(store, step());
    let next = receipt.enqueued().next().unwrap();
    assert!(!next.1);
    assert_eq!(receipt.outcomes[2], PartOutcome::WorkCompleted);
    assert_eq!(numbers(store, "a"), [1]);
    assert_eq!(status(store, item), WorkItemStatus::Succeeded);
    let task = store.task(&task_id("a")).unwrap().unwrap();
    assert_eq!(task.status, TaskStatus::Succeeded);
    claim_item(store, "w", next.0);
}
