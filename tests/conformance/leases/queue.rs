//! The queue: enqueued once, shown in lists, counted, and due by the wall clock.

use std::collections::BTreeMap;

use agentos_core::limits::{
    ID_BYTES_MAX, MAX_ATTEMPTS_MAX, PAGE_ROWS_MAX, PRIORITY_MAX, PRIORITY_MIN,
};
use agentos_core::{CancelWork, ManualClock, PartOutcome};
use agentos_tests::new_task;

use super::*;

pub(crate) fn an_enqueued_item_is_read_back(store: &dyn Storage, clock: &ManualClock) {
    done(store, new_task("a"));
    clock.advance(SECOND);
    let new = NewWorkItem::new("résumé")
        .task(task_id("a"))
        .priority(-7)
        .payload(vec![0, 255, 0])
        .max_attempts(3)
        .delay(SECOND)
        .unique_key("it's \"one\"");
    let item = enqueue(store, new);
    let found = store.work_item(item).unwrap().unwrap();
    assert_eq!((found.payload, found.result), (vec![0, 255, 0], None));
    let now = store.now();
    let expected = WorkItemSummary {
        id: item,
        work_type: "résumé".into(),
        task: Some(task_id("a")),
        status: WorkItemStatus::Pending,
        priority: -7,
        unique_key: Some("it's \"one\"".into()),
        attempts: 0,
        max_attempts: 3,
        losses: 0,
        available_at: now.plus(SECOND),
        newest_token: None,
        holder: None,
        last_error: None,
        created_at: now,
        updated_at: now,
    };
    assert_eq!(found.summary, expected);
    assert_eq!(store.attempts(item).unwrap(), []);
    let absent = WorkItemId::new(item.get() + 1).unwrap();
    assert_eq!(store.work_item(absent).unwrap(), None);
}

/// Goal: enqueuing twice is enqueuing once. Method: the same key again, with other
/// content, in the same commit, while the item is held, and after it is done.
pub(crate) fn a_unique_key_gives_the_first_item_back(store: &dyn Storage, _: &ManualClock) {
    let keyed = |payload: &str| page().unique_key("k").payload(payload);
    let both = Commit::new().part(keyed("first")).part(keyed("second"));
    let enqueued: Vec<_> = done(store, both).enqueued().collect();
    let item = enqueued[0].0;
    assert_eq!(enqueued, [(item, false), (item, true)]);
    let again = || -> Vec<_> {
        let other = NewWorkItem::new("other").unique_key("k").priority(9);
        let receipt = done(store, Commit::new().part(other));
        receipt.enqueued().collect()
    };
    assert_eq!(again(), [(item, true)]);
    let lease = claim_item(store, "w", item);
    assert_eq!(lease.payload, b"first");
    assert_eq!(again(), [(item, true)], "it is held");
    done(store, complete(&lease));
    assert_eq!(again(), [(item, true)], "it is done");
    assert_eq!(claim(store, "w"), None);
    assert_ne!(enqueue(store, page().unique_key("K")), item);
    assert_ne!(enqueue(store, page()), enqueue(store, page()));
}

pub(crate) fn work_that_can_never_be_right_is_refused(store: &dyn Storage, _: &ManualClock) {
    let before = everything(store);
    let large = vec![0; store.limits().payload_bytes + 1];
    for bad in [
        NewWorkItem::new(""),
        NewWorkItem::new("a\0b"),
        page().priority(PRIORITY_MAX + 1),
        page().priority(PRIORITY_MIN - 1),
        page().max_attempts(0),
        page().max_attempts(MAX_ATTEMPTS_MAX + 1),
        page().unique_key(""),
        page().unique_key("k".repeat(ID_BYTES_MAX + 1)),
        page().payload(large),
    ] {
        let answer = store.commit(Commit::new().part(page()).part(bad));
        let refused = matches!(
            answer,
            Err(StorageError::Invalid(_) | StorageError::LimitExceeded(_))
        );
        assert!(refused, "{answer:?}");
    }
    let orphan = page().task(task_id("absent"));
    let answer = store.commit(Commit::new().part(page()).part(orphan));
    let Err(StorageError::NotFound { what, id }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((what, id.as_str()), ("task", "absent"));
    assert_eq!(everything(store), before);
}

pub(crate) fn delayed_work_is_due_by_the_wall_clock(store: &dyn Storage, clock: &ManualClock) {
    let now = store.now();
    let later = enqueue(store, page().delay(SECOND));
    let moment = enqueue(store, page().available_at(now.plus(2 * SECOND)));
    assert_eq!((claim(store, "w"), claimable(store)), (None, Some(SECOND)));
    // Only the wall clock counts.
    clock.advance_boot(100 * SECOND);
    assert_eq!(claim(store, "w"), None);
    clock.set(now.plus(SECOND));
    assert_eq!(claimable(store), Some(Duration::ZERO));
    claim_item(store, "w", later);
    assert_eq!((claim(store, "w"), claimable(store)), (None, Some(SECOND)));
    clock.set(now.plus(2 * SECOND));
    claim_item(store, "w", moment);
    assert_eq!((claim(store, "w"), claimable(store)), (None, None));
}

/// Goal: the most urgent item that is due comes first, then what has been due for
/// longest; what is for later is in nobody's way.
pub(crate) fn the_most_urgent_comes_first_and_then_the_oldest(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let first = enqueue(store, page());
    clock.advance(SECOND);
    let second = enqueue(store, page());
    let urgent = enqueue(store, page().priority(5));
    let later = enqueue(store, page().priority(100).delay(60 * SECOND));
    let idle = enqueue(store, page().priority(-1));
    // Enqueued last, and due for longest.
    let oldest = enqueue(store, page().available_at(store.now().minus(60 * SECOND)));
    let twin = enqueue(store, page());
    let order = [urgent, oldest, first, second, twin, idle];
    let one_by_one = order.map(|_| claim(store, "w").unwrap().fence.item);
    assert_eq!(one_by_one, order);
    assert_eq!(claim(store, "w"), None, "the rest is for later");
    clock.advance(60 * SECOND);
    let again: Vec<_> = store
        .claim(&ClaimRequest {
            items: 10,
            ..request("other")
        })
        .unwrap();
    // The expired ones came back within the claim; the delayed one goes first.
    assert_eq!(items(&again)[..2], [later, urgent]);
}

pub(crate) fn lists_show_each_item_once_and_counts_agree(store: &dyn Storage, _: &ManualClock) {
    done(store, new_task("a"));
    done(store, new_task("b"));
    let all: Vec<WorkItemId> = (0..23)
        .map(|number| {
            let task = task_id(if number % 2 == 0 { "a" } else { "b" });
            enqueue(store, page().task(task))
        })
        .collect();
    let alone = enqueue(store, page());
    let leases = claim_of(
        store,
        &ClaimRequest {
            items: 5,
            ..request("w")
        },
    );
    done(store, complete(&leases[0]));
    let cancel = CancelWork {
        item: alone,
        reason: None,
    };
    let cancelled = PartOutcome::WorkCancelled { lost: None };
    assert_eq!(done(store, cancel).outcomes, [cancelled]);
    let counts = BTreeMap::from([
        (WorkItemStatus::Pending, 18),
        (WorkItemStatus::InProgress, 4),
        (WorkItemStatus::Succeeded, 1),
        (WorkItemStatus::Failed, 0),
        (WorkItemStatus::Cancelled, 1),
    ]);
    let mut found = store.count_work_items().unwrap();
    for status in WorkItemStatus::ALL {
        found.entry(*status).or_insert(0);
        let listed = paged(|after| store.work_items(*status, after, 5).unwrap());
        assert_eq!(listed.len() as u64, counts[status], "{status}");
        assert!(listed.iter().all(|item| item.status == *status));
        assert!(listed.is_sorted_by_key(|item| item.id), "oldest first");
        for item in &listed {
            assert_eq!(*item, summary(store, item.id));
        }
    }
    assert_eq!(found, counts);
    let of_a = paged(|after| store.work_items_of(&task_id("a"), after, 5).unwrap());
    let of_a: Vec<_> = of_a.iter().map(|item| item.id).collect();
    let expected: Vec<_> = all.iter().copied().step_by(2).collect();
    assert_eq!(of_a, expected, "in any state, the oldest first");
    let none = store.work_items_of(&task_id("absent"), None, 5).unwrap();
    assert_eq!((none.items.len(), none.next), (0, None));
    let rows = PAGE_ROWS_MAX + 1;
    for answer in [
        store.work_items(WorkItemStatus::Pending, None, rows),
        store.work_items_of(&task_id("a"), None, rows),
    ] {
        assert!(matches!(answer, Err(StorageError::LimitExceeded(_))));
    }
}

fn paged(
    mut read: impl FnMut(Option<agentos_core::Cursor>) -> agentos_core::Page<WorkItemSummary>,
) -> Vec<WorkItemSummary> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = read(after);
        assert!(page.items.len() <= 5);
        all.extend(page.items);
        assert!(all.len() < 100, "the list does not end");
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}
