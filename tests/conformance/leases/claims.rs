//! Claims: who gets what, once, under a token that only grows.

use std::collections::BTreeSet;
use std::sync::Mutex;

use agentos_core::limits::{CLAIM_ITEMS_MAX, CLAIM_TYPES_MAX, LEASE_MAX, LEASE_MIN};
use agentos_core::{FencingToken, ManualClock, ReleaseWork, RequeueWork, Retry};
use agentos_tests::{append, new_task};

use super::*;

pub(crate) fn a_claim_says_what_is_to_be_done(store: &dyn Storage, clock: &ManualClock) {
    done(store, new_task("a"));
    for state in ["one", "two"] {
        done(store, append("a", state));
    }
    let new = page()
        .task(task_id("a"))
        .payload("read it")
        .priority(3)
        .max_attempts(4);
    let item = enqueue(store, new);
    clock.advance(SECOND);
    let (wall, boot) = (store.now(), store.boot_now());
    let lease = claim_item(store, "w", item);
    let expected = Lease {
        fence: Fence {
            item,
            token: FencingToken::new(1).unwrap(),
        },
        holder: worker("w"),
        work_type: "page".into(),
        task: Some(task_id("a")),
        priority: 3,
        payload: b"read it".to_vec(),
        attempt: 1,
        max_attempts: 4,
        checkpoint: agentos_core::SequenceNumber::new(2).ok(),
        duration: LEASE,
        acquired_at: wall,
        expires_at: wall.plus(LEASE),
        deadline: boot.plus(LEASE),
    };
    assert_eq!(lease, expected);
    let held = summary(store, item);
    assert_eq!(held.status, WorkItemStatus::InProgress);
    assert_eq!((held.attempts, held.losses), (1, 0));
    assert_eq!(held.newest_token, Some(lease.fence.token));
    let holder = held.holder.unwrap();
    assert_eq!(holder.worker, worker("w"));
    assert_eq!((holder.since, holder.until), (wall, wall.plus(LEASE)));
}

pub(crate) fn a_held_item_is_not_due(store: &dyn Storage, clock: &ManualClock) {
    assert_eq!(claim(store, "w"), None, "there is nothing");
    let item = enqueue(store, page());
    claim_item(store, "first", item);
    for name in ["first", "second"] {
        assert_eq!(claim(store, name), None);
    }
    // Until the very end of its lease.
    clock.advance(LEASE - Duration::from_micros(1));
    assert_eq!(claim(store, "second"), None);
    assert_eq!(summary(store, item).holder.unwrap().worker, worker("first"));
    assert_eq!(claimable(store), None);
}

pub(crate) fn a_type_that_is_named_twice_is_looked_for_once(store: &dyn Storage, _: &ManualClock) {
    done(store, new_task("a"));
    let items: Vec<_> = (0..3)
        .map(|_| enqueue(store, page().task(task_id("a"))))
        .collect();
    let twice = WorkFilter::types(["page", "page"]);
    for filter in [twice.clone(), twice.of_task(task_id("a"))] {
        let request = ClaimRequest {
            items: 2,
            filter,
            ..request("w")
        };
        for lease in claim_of(store, &request) {
            assert!(items.contains(&lease.fence.item));
            assert_eq!(lease.fence.token.get(), 1);
        }
    }
    assert_eq!(claimable(store), None);
}

pub(crate) fn a_claim_takes_at_most_as_many_as_it_asks_for(store: &dyn Storage, _: &ManualClock) {
    let all: Vec<_> = (0..10).map(|_| enqueue(store, page())).collect();
    let claim = |items| {
        let request = ClaimRequest {
            items,
            ..request("w")
        };
        let leases = claim_of(store, &request);
        assert!(leases.iter().all(|lease| lease.fence.token.get() == 1));
        leases.iter().map(|lease| lease.fence.item).collect()
    };
    let batches: [Vec<WorkItemId>; 4] = [claim(3), claim(1), claim(CLAIM_ITEMS_MAX), claim(1)];
    assert_eq!(batches.concat(), all);
    assert_eq!(batches.map(|batch| batch.len()), [3, 1, 6, 0]);
}

pub(crate) fn a_claim_takes_only_what_its_filter_names(store: &dyn Storage, _: &ManualClock) {
    done(store, new_task("a"));
    done(store, new_task("b"));
    let of = |kind: &str, task: Option<&str>, priority| {
        let mut item = NewWorkItem::new(kind).priority(priority);
        item.task = task.map(task_id);
        enqueue(store, item)
    };
    let x_a = of("x", Some("a"), 0);
    let y_a = of("y", Some("a"), 5);
    let x_b = of("x", Some("b"), 9);
    let z = of("z", None, 1);
    let x = of("x", None, 2);
    let claims = |filter: WorkFilter| {
        let filtered = ClaimRequest {
            filter: filter.clone(),
            items: 10,
            ..request("w")
        };
        let outlook = store.outlook(&filter).unwrap();
        let leases = claim_of(store, &filtered);
        let due = (!leases.is_empty()).then_some(Duration::ZERO);
        assert_eq!(outlook.claimable, due, "{filter:?}");
        for lease in &leases {
            let back = ReleaseWork {
                fence: lease.fence,
                reason: None,
            };
            done(store, back);
        }
        items(&leases)
    };
    assert_eq!(claims(WorkFilter::any()), [x_b, y_a, x, z, x_a]);
    assert_eq!(claims(WorkFilter::types(["x"])), [x_b, x, x_a]);
    assert_eq!(claims(WorkFilter::types(["z", "y"])), [y_a, z]);
    assert_eq!(claims(WorkFilter::any().of_task(task_id("a"))), [y_a, x_a]);
    let x_of_b = WorkFilter::types(["x", "z"]).of_task(task_id("b"));
    assert_eq!(claims(x_of_b), [x_b]);
    assert_eq!(claims(WorkFilter::types(["X", "x'", "*"])), []);
    assert_eq!(claims(WorkFilter::any().of_task(task_id("absent"))), []);
}

/// Goal: the token grows by one with each claim and is never reset. Method: every
/// way in which an item comes back, and a claim after each.
pub(crate) fn a_token_grows_with_every_claim_and_is_never_reset(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    done(store, new_task("a"));
    let item = enqueue(store, page().task(task_id("a")).max_attempts(3));
    let again = |expected| {
        let lease = claim_item(store, "w", item);
        assert_eq!(lease.fence.token.get(), expected);
        lease.fence
    };
    let fence = again(1);
    done(
        store,
        ReleaseWork {
            fence,
            reason: None,
        },
    );
    assert_eq!(summary(store, item).newest_token, Some(fence.token));
    again(2);
    clock.advance(PAST_LEASE);
    assert_eq!(sweep(store).recovered.len(), 1);
    let fence = again(3);
    let failed = |fence, retry| agentos_core::FailWork {
        fence,
        reason: "no".into(),
        retry,
    };
    done(store, failed(fence, Retry::After(Duration::ZERO)));
    let fence = again(4);
    done(store, failed(fence, Retry::Never));
    done(store, RequeueWork { item, reason: None });
    assert_eq!(summary(store, item).newest_token, Some(fence.token));
    again(5);
    clock.advance(PAST_LEASE);
    again(6); // the claim itself took the expired lease away
}

pub(crate) fn what_a_claim_can_never_ask_for_is_refused(store: &dyn Storage, _: &ManualClock) {
    let item = enqueue(store, page());
    let good = || request("w");
    let types = (0..=CLAIM_TYPES_MAX).map(|number| format!("type {number}"));
    for bad in [
        ClaimRequest { items: 0, ..good() },
        ClaimRequest {
            items: CLAIM_ITEMS_MAX + 1,
            ..good()
        },
        ClaimRequest {
            lease: LEASE_MIN - Duration::from_nanos(1),
            ..good()
        },
        ClaimRequest {
            lease: LEASE_MAX + Duration::from_nanos(1),
            ..good()
        },
        ClaimRequest {
            filter: WorkFilter::types(types),
            ..good()
        },
        ClaimRequest {
            filter: WorkFilter::types([""]),
            ..good()
        },
    ] {
        let answer = store.claim(&bad);
        let refused = matches!(
            answer,
            Err(StorageError::Invalid(_) | StorageError::LimitExceeded(_))
        );
        assert!(refused, "{answer:?}");
    }
    claim_item(store, "w", item);
}

/// Goal: an item is given to one. Method: eight threads claim and complete until
/// nothing is left, each as a worker of its own.
pub(crate) fn threads_share_the_items_and_each_is_claimed_once(
    store: &dyn Storage,
    _: &ManualClock,
) {
    let all = (0..200).fold(Commit::new(), |commit, _| commit.part(page()));
    let enqueued: BTreeSet<_> = done(store, all).enqueued().map(|(item, _)| item).collect();
    let claimed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for index in 0..8 {
            let claimed = &claimed;
            scope.spawn(move || {
                let name = format!("worker-{index}");
                while let Some(lease) = claim(store, &name) {
                    let commit = Commit::under(&lease).part(complete(&lease));
                    store.commit(commit).unwrap();
                    claimed.lock().unwrap().push(lease.fence.item);
                }
            });
        }
    });
    let claimed = claimed.into_inner().unwrap();
    assert_eq!(claimed.len(), 200);
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), enqueued);
    let succeeded = store.count_work_items().unwrap()[&WorkItemStatus::Succeeded];
    assert_eq!(succeeded, 200);
}
