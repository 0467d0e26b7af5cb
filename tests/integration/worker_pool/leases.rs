//! The queue, and leases by hand.

use std::time::Duration;

use agentos_core::limits::{PARTS_PER_COMMIT_MAX, REASON_BYTES_MAX};
use agentos_core::{
    AttemptOutcome, Commit, NewWorkItem, Next, Retry, Stale, Storage, StorageError, WorkFilter,
    WorkItemStatus,
};
use agentos_tests::{Work, append, new_task, task_id};

use super::{LONG, ends};

#[test]
fn a_batch_is_one_commit_and_a_key_is_enqueued_once() {
    let work = Work::fresh();
    let before = work.store.counters().groups;
    let batch = |keys: [&str; 3]| {
        let items = keys.map(|key| NewWorkItem::new("page").unique_key(key));
        work.queue.enqueue_all(items.to_vec()).unwrap()
    };
    let first = batch(["a", "b", "c"]);
    assert_eq!(work.store.counters().groups - before, 1);
    assert!(first.iter().all(|enqueued| !enqueued.existed));
    let second = batch(["b", "d", "d"]);
    let existed: Vec<bool> = second.iter().map(|enqueued| enqueued.existed).collect();
    assert_eq!(existed, [true, false, true]);
    assert_eq!(second[0].id, first[1].id);
    assert_eq!(second[1].id, second[2].id);
    assert_eq!(work.queue.count().unwrap()[&WorkItemStatus::Pending], 4);
    assert_eq!(work.queue.enqueue_all(Vec::new()).unwrap(), []);
}

#[test]
fn a_batch_beyond_one_commit_is_refused_whole_by_type() {
    let work = Work::fresh();
    let items = vec![NewWorkItem::new("page"); PARTS_PER_COMMIT_MAX + 1];
    let Err(StorageError::LimitExceeded(exceeded)) = work.queue.enqueue_all(items) else {
        panic!("more than a commit takes was taken");
    };
    assert_eq!(exceeded.value, PARTS_PER_COMMIT_MAX as u64 + 1);
    assert_eq!(work.queue.count().unwrap()[&WorkItemStatus::Pending], 0);
    let items = vec![NewWorkItem::new("page"); PARTS_PER_COMMIT_MAX];
    let enqueued = work.queue.enqueue_all(items).unwrap();
    assert_eq!(enqueued.len(), PARTS_PER_COMMIT_MAX);
}

#[test]
fn the_dead_letter_shows_the_whole_history_and_an_operator_takes_out_of_it() {
    let work = Work::fresh();
    let leases = work.leases("w", LONG);
    let item = NewWorkItem::new("page").max_attempts(2);
    let id = work.queue.enqueue(item).unwrap().id;
    let again = Next::Requeue {
        pause: Duration::ZERO,
    };
    for (reason, next) in [("no route", again), ("no page", Next::DeadLetter)] {
        let lease = work.claim(&leases);
        let retry = Retry::After(Duration::ZERO);
        assert_eq!(leases.fail(&lease, reason, retry).unwrap(), next);
    }
    let dead = work.queue.dead_letters(None, 10).unwrap();
    assert_eq!(dead.next, None);
    assert_eq!(dead.items.len(), 1);
    assert_eq!(dead.items[0].item.id, id);
    let said = dead.items[0].attempts.iter().map(|attempt| {
        let end = attempt.end.as_ref().unwrap();
        (attempt.number.get(), end.outcome, end.error.as_deref())
    });
    assert_eq!(
        said.collect::<Vec<_>>(),
        [
            (1, AttemptOutcome::Failed, Some("no route")),
            (2, AttemptOutcome::Failed, Some("no page"))
        ]
    );
    work.queue.requeue(id, Some("the page is back")).unwrap();
    assert_eq!(work.queue.dead_letters(None, 10).unwrap().items, []);
    let lease = work.claim(&leases);
    assert_eq!((lease.attempt, lease.fence.token.get()), (1, 3));
    leases.complete(&lease, Some(Vec::new())).unwrap();
    let item = work.item(id);
    assert_eq!(item.summary.status, WorkItemStatus::Succeeded);
    assert_eq!(item.result, Some(Vec::new()), "an empty result is one");
    let refused = work.queue.requeue(id, None).unwrap_err();
    assert!(matches!(refused, StorageError::IllegalTransition { .. }));
}

/// A failure must always be reportable, whatever it says.
#[test]
fn reasons_of_any_length_and_content_are_stored() {
    let work = Work::fresh();
    let leases = work.leases("w", LONG);
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let odd = format!("\0{}", "€".repeat(REASON_BYTES_MAX));
    leases.release(&work.claim(&leases), Some(&odd)).unwrap();
    leases
        .fail(&work.claim(&leases), &odd, Retry::Never)
        .unwrap();
    for (outcome, error) in ends(&work, id) {
        let error = error.unwrap();
        assert!(error.starts_with("\u{fffd}€") && error.ends_with("€…"));
        assert!(error.len() <= REASON_BYTES_MAX, "{outcome}");
    }
}

/// Goal: who stops at its deadline has stopped before anybody can take over.
/// Method: the deadline of a claim and of a renewal lies between what is counted
/// before the call and after it, and never after what the store recorded.
#[test]
fn deadlines_are_counted_from_before_the_request() {
    let work = Work::fresh();
    let leases = work.leases("w", LONG);
    work.queue.enqueue(NewWorkItem::new("page")).unwrap();
    let before = work.store.boot_now().plus(LONG);
    let mut lease = work.claim(&leases);
    let after = work.store.boot_now().plus(LONG);
    assert!(before.micros <= lease.deadline.micros);
    // The commit lies between the two, with its sync: so much is sure.
    assert!(lease.deadline.micros < after.micros);
    let recorded = || -> i64 {
        rusqlite::Connection::open(work.store.path())
            .unwrap()
            .query_row("SELECT lease_deadline_us FROM work_items", [], |row| {
                row.get(0)
            })
            .unwrap()
    };
    assert!(lease.deadline.micros < recorded());
    let claimed = lease.clone();
    leases.renew(&mut lease).unwrap();
    assert!(claimed.deadline.micros < lease.deadline.micros);
    assert!(lease.deadline.micros < recorded());
    assert!(claimed.expires_at < lease.expires_at);
    assert_eq!(lease.fence, claimed.fence);
}

#[test]
fn a_lost_lease_is_renewed_no_more_and_says_who_holds_it() {
    let work = Work::fresh();
    let (first, second) = (work.leases("w", LONG), work.leases("w", LONG));
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let mut lost = work.claim(&first);
    first.release(&lost, None).unwrap();
    let mut held = work.claim(&second);
    let before = lost.clone();
    let Err(StorageError::StaleLease(Stale::Work(stale))) = first.renew(&mut lost) else {
        panic!("a lost lease was renewed");
    };
    assert_eq!(stale.holder.unwrap().worker, *second.worker());
    assert_eq!(lost, before, "it is as it was");
    let mut both = [lost, held.clone()];
    let answers = first.renew_all(&mut both).unwrap();
    assert_eq!(
        answers.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [false, true]
    );
    let [lost, _] = both;
    for refused in [
        first.release(&lost, None),
        first.complete(&lost, None),
        first.fail(&lost, "late", Retry::Never).map(drop),
    ] {
        assert!(matches!(refused, Err(StorageError::StaleLease(_))));
    }
    second.renew(&mut held).unwrap();
    second.complete(&held, None).unwrap();
    let outcomes: Vec<_> = ends(&work, id).into_iter().map(|end| end.0).collect();
    assert_eq!(
        outcomes,
        [AttemptOutcome::Released, AttemptOutcome::Succeeded]
    );
}

#[test]
fn what_is_prepared_shares_a_commit_under_the_lease() {
    let work = Work::fresh();
    work.store.create_task(new_task("a")).unwrap();
    let leases = work.leases("w", LONG);
    let item = NewWorkItem::new("page").task(task_id("a"));
    let id = work.queue.enqueue(item).unwrap().id;
    let lease = work.claim(&leases);
    let commit = |lease| {
        Commit::under(lease)
            .part(append("a", "state"))
            .part(NewWorkItem::new("next"))
            .part(leases.prepare_complete(lease, Some(b"done".to_vec())))
    };
    work.store.commit(commit(&lease)).unwrap();
    assert_eq!(work.item(id).result.unwrap(), b"done");
    let refused = work.store.commit(commit(&lease)).unwrap_err();
    assert!(matches!(refused, StorageError::StaleLease(_)));
    let pending = work.queue.list(WorkItemStatus::Pending, None, 10).unwrap();
    assert_eq!(pending.items.len(), 1, "nothing of the second is there");
    let of_task = work.queue.list_of_task(&task_id("a"), None, 10).unwrap();
    assert_eq!(of_task.items.len(), 1);
    let next = leases.claim_up_to(&WorkFilter::types(["next"]), 5).unwrap();
    assert_eq!(next.len(), 1);
    assert_eq!(leases.claim(&WorkFilter::any()).unwrap(), None);
}
