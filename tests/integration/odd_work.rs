//! Work items that a shell, a runbook or damage has made odd: they keep nobody
//! from the others, and nothing of a deleted item fits a later one.

use std::time::Duration;

use agentos_core::{
    ClaimRequest, CompleteWork, FencingToken, Lease, LeaseStorage, NewWorkItem, ReleaseWork, Retry,
    Storage, StorageError, SweepRequest, WorkFilter, WorkItemId, WorkItemStatus, WorkListener,
    Worker, WorkerId,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{Open, fresh, new_task, task_id};
use rusqlite::Connection;

const MOMENT: &str = "2026-01-29 00:00:01.000042";

fn sql(store: &Open, text: &str) {
    let connection = Connection::open(store.path()).unwrap();
    connection.execute_batch(text).unwrap();
}

fn enqueue(store: &SqliteStore, new: NewWorkItem) -> WorkItemId {
    let receipt = store.commit(new.into()).unwrap();
    receipt.enqueued().next().unwrap().0
}

fn request(name: &str) -> ClaimRequest {
    ClaimRequest::new(Worker::start(WorkerId::new(name).unwrap()))
}

fn claim(store: &SqliteStore, name: &str) -> Option<Lease> {
    store.claim(&request(name)).unwrap().pop()
}

fn complete(store: &SqliteStore, lease: &Lease) -> Result<(), StorageError> {
    let fence = lease.fence;
    let result = Some(b"done".to_vec());
    store
        .commit(CompleteWork { fence, result }.into())
        .map(drop)
}

/// Goal: a fence names an item for ever. Method: the newest item is deleted under
/// its holder, by a runbook and by deleting its task; the next item has another id,
/// and nothing that the old holder does touches it.
#[test]
fn the_lease_of_a_deleted_item_fits_no_later_one() {
    let store = fresh();
    for delete in [
        "DELETE FROM work_items",
        "DELETE FROM tasks WHERE task_id = 'runaway'",
    ] {
        store.commit(new_task("runaway").into()).unwrap();
        let first = NewWorkItem::new("page").task(task_id("runaway"));
        let first = enqueue(&store, first);
        let zombie = claim(&store, "a").unwrap();
        assert_eq!(zombie.fence.item, first);
        sql(&store, delete);
        let second = enqueue(&store, NewWorkItem::new("page"));
        assert!(first < second, "{first} {second}");
        let holder = claim(&store, "b").unwrap();
        assert_eq!(holder.fence.item, second);
        let renewed = store.renew(&[zombie.fence], zombie.duration).unwrap();
        assert_eq!(renewed[0].as_ref().unwrap_err().status, None);
        let refused = complete(&store, &zombie).unwrap_err();
        assert!(
            matches!(refused, StorageError::StaleLease(_)),
            "{refused:?}"
        );
        complete(&store, &holder).unwrap();
    }
    // A shell cannot bring an old id back either.
    let connection = Connection::open(store.path()).unwrap();
    let again = format!(
        "INSERT INTO work_items (work_item_id, work_type, status, max_attempts, available_at,
             created_at, updated_at)
         VALUES (1, 'page', 'pending', 3, '{MOMENT}', '{MOMENT}', '{MOMENT}')"
    );
    assert!(connection.execute_batch(&again).is_err());
}

/// Goal: one odd row keeps nobody from the others. Method: for each oddity that a
/// shell can make, a more urgent item has it; the item behind it is claimed, is
/// swept when its lease is lost, and no connection is thrown away.
#[test]
fn an_odd_item_keeps_nobody_from_the_others() {
    for odd in [
        "available_at = '9999-12-31 23:59:59.999999'",
        "available_at = '2025-11-31 00:00:00.000000'",
        "priority = 3000000000",
        "priority = 9223372036854775807",
        "max_attempts = 5000000000",
        "losses = 5000000000",
        "lease_token = 9223372036854775807",
        "max_attempts = attempts + 1, attempts = attempts + 1",
    ] {
        let store = fresh();
        let first = enqueue(&store, NewWorkItem::new("page").priority(9));
        let sound = enqueue(&store, NewWorkItem::new("page"));
        sql(
            &store,
            &format!("UPDATE work_items SET {odd} WHERE work_item_id = {first}"),
        );
        let all = ClaimRequest {
            items: 10,
            ..request("w")
        };
        let claimed = store.claim(&all).unwrap();
        let claimed = claimed.iter().find(|lease| lease.fence.item == sound);
        let lease = claimed.unwrap_or_else(|| panic!("{odd}: it was not claimed"));
        store.outlook(&WorkFilter::any()).unwrap();
        complete(&store, lease).unwrap();
        assert_eq!(store.counters().reopened, 0, "{odd}");
    }
}

#[test]
fn an_item_of_the_highest_priority_that_there_is_can_be_claimed() {
    let store = fresh();
    let item = enqueue(&store, NewWorkItem::new("page"));
    sql(
        &store,
        "UPDATE work_items SET priority = 9223372036854775807",
    );
    let lease = claim(&store, "w").unwrap();
    assert_eq!((lease.fence.item, lease.priority), (item, i32::MAX));
}

#[test]
fn an_attempt_that_somebody_else_wrote_is_taken_over() {
    let store = fresh();
    let item = enqueue(&store, NewWorkItem::new("page"));
    let foreign = format!(
        "INSERT INTO work_attempts (work_item_id, number, worker, incarnation, started_at)
         VALUES ({item}, 1, 'shell', 'i', '{MOMENT}')"
    );
    sql(&store, &foreign);
    let lease = claim(&store, "w").unwrap();
    let attempts = store.attempts(item).unwrap();
    assert_eq!((attempts.len(), &attempts[0].worker), (1, &lease.holder));
}

/// Goal: what is only for people decides nothing. Method: the holder's columns are
/// spoilt; the lease is still renewed, ended, and taken away when it is lost.
#[test]
fn a_holder_that_cannot_be_read_keeps_nobody_from_the_item() {
    let spoil = "UPDATE work_items SET lease_expires_at = '2026-11-31 00:00:00.000000'
                 WHERE status = 'in_progress'";
    let store = fresh();
    enqueue(&store, NewWorkItem::new("page"));
    let lease = claim(&store, "w").unwrap();
    sql(&store, spoil);
    complete(&store, &lease).unwrap();
    let lost = enqueue(&store, NewWorkItem::new("page"));
    let other = enqueue(&store, NewWorkItem::new("page"));
    let both = ClaimRequest {
        items: 2,
        ..request("w")
    };
    assert_eq!(store.claim(&both).unwrap().len(), 2);
    sql(&store, spoil);
    sql(
        &store,
        "UPDATE work_items SET lease_boot_id = 'another' WHERE status = 'in_progress'",
    );
    let swept = store.sweep(&SweepRequest::default()).unwrap();
    let recovered: Vec<_> = swept.recovered.iter().map(|item| item.fence.item).collect();
    assert_eq!((recovered, swept.failed.len()), (vec![lost, other], 0));
    assert!(swept.recovered.iter().all(|item| item.holder.is_none()));
}

/// A history that takes no checkpoint any more (its counter is gone) does not keep
/// its item under a dead lease.
#[test]
fn an_item_is_recovered_although_its_history_is_damaged() {
    let store = fresh();
    store.commit(new_task("a").into()).unwrap();
    let item = enqueue(&store, NewWorkItem::new("page").task(task_id("a")));
    claim(&store, "w").unwrap();
    sql(
        &store,
        "DELETE FROM checkpoint_counters; UPDATE work_items SET lease_boot_id = 'another'",
    );
    let swept = store.sweep(&SweepRequest::default()).unwrap();
    assert_eq!((swept.found, swept.recovered.len()), (1, 1));
    let found = store.work_item(item).unwrap().unwrap().summary;
    assert_eq!(found.status, WorkItemStatus::Pending);
}

/// Goal: one lease that is gone, and whose row cannot be read, is told alone.
#[test]
fn a_lease_that_is_gone_does_not_take_the_others_with_it() {
    let store = fresh();
    for _ in 0..3 {
        enqueue(&store, NewWorkItem::new("page"));
    }
    let all = ClaimRequest {
        items: 3,
        ..request("w")
    };
    let leases = store.claim(&all).unwrap();
    let fences: Vec<_> = leases.iter().map(|lease| lease.fence).collect();
    let gone = fences[1];
    let fence = gone;
    store
        .commit(
            ReleaseWork {
                fence,
                reason: None,
            }
            .into(),
        )
        .unwrap();
    sql(
        &store,
        &format!(
            "UPDATE work_items SET task_id = NULL, lease_token = 7, losses = 5000000000 WHERE work_item_id = {}",
            gone.item
        ),
    );
    let answers = store.renew(&fences, Duration::from_secs(1)).unwrap();
    let renewed: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(renewed, [true, false, true]);
    let stale = answers[1].as_ref().unwrap_err();
    assert_eq!(stale.newest, FencingToken::new(7).ok());
}

/// Goal: giving an item back pushes no failure out of its history.
#[test]
fn the_dead_letter_shows_failures_from_before_many_releases() {
    let store = fresh();
    let item = enqueue(&store, NewWorkItem::new("page").max_attempts(2));
    let fail = |reason: &str| {
        let part = agentos_core::FailWork {
            fence: claim(&store, "w").unwrap().fence,
            reason: reason.into(),
            retry: Retry::After(Duration::ZERO),
        };
        store.commit(part.into()).unwrap();
    };
    fail("the first failure");
    for _ in 0..120 {
        let fence = claim(&store, "w").unwrap().fence;
        store
            .commit(
                ReleaseWork {
                    fence,
                    reason: None,
                }
                .into(),
            )
            .unwrap();
    }
    fail("the second failure");
    let found = store.work_item(item).unwrap().unwrap().summary;
    assert_eq!(found.status, WorkItemStatus::Failed);
    let failures: Vec<String> = store
        .attempts(item)
        .unwrap()
        .into_iter()
        .filter_map(|attempt| attempt.end?.error)
        .collect();
    assert_eq!(failures, ["the first failure", "the second failure"]);
}

/// A commit that is done stays done, whatever a listener does.
#[test]
fn a_listener_that_panics_changes_no_answer() {
    struct Bomb;
    impl WorkListener for Bomb {
        fn work_arrived(&self) {
            panic!("a listener");
        }
    }
    let store = fresh();
    let bomb: std::sync::Arc<dyn WorkListener> = std::sync::Arc::new(Bomb);
    store.listen(std::sync::Arc::downgrade(&bomb));
    enqueue(&store, NewWorkItem::new("page"));
    assert!(claim(&store, "w").is_some());
}
