//! The pool at work: what handlers answer, commit, fail with and lose.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use agentos_core::limits::{CLAIM_TYPES_MAX, REASON_BYTES_MAX};
use agentos_core::{
    AttemptOutcome, Deadline, LeaseStorage as _, Lost, NewWorkItem, Retry, RetryRule, Stale,
    Storage as _, StorageError, SweepRequest, WorkItemId, WorkItemStatus,
};
use agentos_tests::{PATIENCE, Work, append, at, new_task, new_worker, task_id, wait_until};
use agentos_worker_pool::limits::{GRACE_MAX, THREADS_MAX};
use agentos_worker_pool::{
    CancelCause, Finish, HandlerError, Loss, Parts, PoolBuilder, StartError, WorkerPool,
};

use super::{LONG, ends};
use crate::group_commit::hold_write_lock;

/// Another attempt at once.
const AGAIN: Retry = Retry::After(Duration::ZERO);

fn status(work: &Work, id: WorkItemId) -> WorkItemStatus {
    work.item(id).summary.status
}

fn wait_for(work: &Work, id: WorkItemId, wanted: WorkItemStatus) {
    wait_until("the item's state", || status(work, id) == wanted);
}

fn outcomes(work: &Work, id: WorkItemId) -> Vec<AttemptOutcome> {
    ends(work, id).into_iter().map(|end| end.0).collect()
}

/// A handler that says it has ended the item, and has not, has failed.
#[test]
fn an_end_that_was_only_claimed_is_a_failure() {
    let work = Work::fresh();
    let new = NewWorkItem::new("page").max_attempts(1);
    let id = work.queue.enqueue(new).unwrap().id;
    let pool = work.pool("w").handler("page", |_| Ok(Finish::Committed));
    let pool = pool.start().unwrap();
    wait_for(&work, id, WorkItemStatus::Failed);
    let said = ends(&work, id).remove(0).1.unwrap();
    assert!(said.contains("still held"), "{said}");
    assert_eq!(pool.shutdown().stats.succeeded, 0);
}

#[test]
fn work_is_done_with_its_result_and_only_what_has_a_handler_is_claimed() {
    let work = Work::fresh();
    work.store.create_task(new_task("a")).unwrap();
    let enqueue = |item| work.queue.enqueue(item).unwrap().id;
    let before = enqueue(NewWorkItem::new("page").payload("1").task(task_id("a")));
    let foreign = enqueue(NewWorkItem::new("image"));
    let pool = work
        .pool("w")
        .handler("page", |job| {
            let page: u32 = std::str::from_utf8(job.payload())?.parse()?;
            assert_eq!(job.task().is_some(), page == 1);
            Ok(Finish::Done(Some(format!("page {page}").into_bytes())))
        })
        .handler("empty", |_| Ok(Finish::Done(None)))
        .start()
        .unwrap();
    let after = enqueue(NewWorkItem::new("page").payload("2"));
    let empty = enqueue(NewWorkItem::new("empty"));
    for id in [before, after, empty] {
        wait_for(&work, id, WorkItemStatus::Succeeded);
    }
    let report = pool.shutdown();
    assert_eq!(work.item(before).result.unwrap(), b"page 1");
    assert_eq!(work.item(after).result.unwrap(), b"page 2");
    assert_eq!(work.item(empty).result, None);
    assert_eq!(status(&work, foreign), WorkItemStatus::Pending);
    assert_eq!((report.stats.claimed, report.stats.succeeded), (3, 3));
    assert_eq!((report.released, report.abandoned), (0, 0));
}

/// One thread, so the next item shows that it lives on.
#[test]
fn a_panic_is_a_failed_attempt_with_its_message_and_the_thread_lives_on() {
    let work = Work::fresh();
    let enqueue = |item| work.queue.enqueue(item).unwrap().id;
    let bad = enqueue(NewWorkItem::new("bad").payload("7").max_attempts(2));
    let good = enqueue(NewWorkItem::new("good").priority(-1));
    let pool = work
        .pool("w")
        .threads(1)
        .retry(AGAIN)
        .handler("bad", |job| {
            panic!("no page {}", String::from_utf8_lossy(job.payload()))
        })
        .handler("good", |_| Ok(Finish::Done(None)))
        .start()
        .unwrap();
    wait_for(&work, bad, WorkItemStatus::Failed);
    wait_for(&work, good, WorkItemStatus::Succeeded);
    let dead = work.queue.dead_letters(None, 10).unwrap().items;
    let said = Some("panicked: no page 7");
    assert_eq!(dead[0].item.id, bad);
    assert_eq!(dead[0].item.last_error.as_deref(), said);
    let failed = (AttemptOutcome::Failed, said.map(str::to_owned));
    assert_eq!(ends(&work, bad), [failed.clone(), failed]);
    let stats = pool.shutdown().stats;
    assert_eq!((stats.panicked, stats.failed, stats.succeeded), (2, 2, 1));
}

#[test]
fn errors_and_releases_are_followed_by_what_they_ask_for() {
    let work = Work::fresh();
    let enqueue = |name: &str| work.queue.enqueue(NewWorkItem::new(name)).unwrap().id;
    let items = ["permanent", "later", "odd", "back"].map(enqueue);
    let tries = AtomicU32::new(0);
    let pool = work
        .pool("w")
        .handler("permanent", |_| Err(HandlerError::permanent("gone")))
        .handler("later", |_| {
            let pause = Duration::from_secs(3600);
            Err(HandlerError::new("too many requests").retry(Retry::After(pause)))
        })
        .handler("odd", |_| {
            // Neither the text nor the rule can be stored as they are.
            let odd = format!("\0{}", "€".repeat(REASON_BYTES_MAX));
            let never = Retry::After(Duration::MAX);
            Err(HandlerError::new(odd).retry(never))
        })
        .handler("back", move |job| {
            assert_eq!(job.attempt(), 1, "a release does not count");
            match tries.fetch_add(1, Ordering::SeqCst) {
                0 => Ok(Finish::Release),
                _ => Ok(Finish::Done(None)),
            }
        })
        .start()
        .unwrap();
    let [permanent, later, odd, back] = items;
    wait_for(&work, permanent, WorkItemStatus::Failed);
    wait_for(&work, back, WorkItemStatus::Succeeded);
    wait_until("the other failures", || pool.stats().failed == 3);
    assert_eq!(outcomes(&work, permanent), [AttemptOutcome::Failed]);
    assert_eq!(
        outcomes(&work, back),
        [AttemptOutcome::Released, AttemptOutcome::Succeeded]
    );
    let later = work.item(later).summary;
    assert_eq!(later.status, WorkItemStatus::Pending);
    assert_eq!(
        later.available_at.unix_micros() - later.updated_at.unix_micros(),
        3_600_000_000
    );
    let odd = work.item(odd).summary;
    assert_eq!((odd.status, odd.attempts), (WorkItemStatus::Pending, 1));
    assert!(odd.last_error.unwrap().starts_with("\u{fffd}€"));
    // The pool's own rule in place of one that cannot be: half a second to one.
    let pause = odd.available_at.unix_micros() - odd.updated_at.unix_micros();
    assert!((500_000..=1_000_000).contains(&pause), "{pause}");
}

#[test]
fn parts_and_completion_are_one_commit() {
    let work = Work::fresh();
    work.store.create_task(new_task("a")).unwrap();
    let pool = work
        .pool("w")
        .retry(Retry::Never)
        .handler("good", |_| {
            let parts = Parts::new()
                .part(append("a", "state"))
                .part(NewWorkItem::new("next").unique_key("next"));
            Ok(Finish::DoneWith(parts, Some(b"done".to_vec())))
        })
        .handler("bad", |_| {
            let parts = Parts::new()
                .part(append("a", "state"))
                .part(append("no such task", "state"));
            Ok(Finish::DoneWith(parts, Some(b"done".to_vec())))
        })
        .start()
        .unwrap();
    let good = work.queue.enqueue(NewWorkItem::new("good")).unwrap().id;
    wait_for(&work, good, WorkItemStatus::Succeeded);
    // A commit is seen a moment before it is counted, and another one comes after that.
    work.store.create_task(new_task("b")).unwrap();
    let before = work.store.counters();
    let bad = work.queue.enqueue(NewWorkItem::new("bad")).unwrap().id;
    wait_for(&work, bad, WorkItemStatus::Failed);
    drop(pool);
    // Of the second there is only that it failed, and why.
    assert_eq!(agentos_tests::numbers(work.store.as_ref(), "a"), [1]);
    assert_eq!(work.item(bad).result, None);
    let error = work.item(bad).summary.last_error.unwrap();
    assert!(error.contains("\"no such task\" not found"), "{error}");
    let after = work.store.counters();
    assert_eq!(
        after.commits - before.commits,
        3,
        "enqueued, claimed, failed"
    );
    assert_eq!(after.failed - before.failed, 1);
    let pending = work.queue.list(WorkItemStatus::Pending, None, 10).unwrap();
    assert_eq!(pending.items.len(), 1);
}

#[test]
fn what_a_handler_ends_itself_is_counted_as_what_it_is() {
    let work = Work::fresh();
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let pool = work
        .pool("w")
        .handler("page", |job| {
            let end = job.prepare_complete(Some(b"mine".to_vec()));
            job.commit(Parts::new().part(NewWorkItem::new("next")).part(end))?;
            let late = job.commit(Parts::new().part(NewWorkItem::new("late")));
            assert!(matches!(late, Err(StorageError::StaleLease(_))));
            Ok(Finish::Committed)
        })
        .handler("careless", |job| {
            job.commit(Parts::new().part(job.prepare_complete(None)))?;
            Err(HandlerError::new("something that comes too late"))
        })
        .start()
        .unwrap();
    let careless = NewWorkItem::new("careless");
    let careless = work.queue.enqueue(careless).unwrap().id;
    wait_for(&work, careless, WorkItemStatus::Succeeded);
    wait_for(&work, id, WorkItemStatus::Succeeded);
    let stats = pool.shutdown().stats;
    assert_eq!((stats.succeeded, stats.failed, stats.lost), (2, 0, 0));
    assert_eq!((stats.panicked, stats.heartbeat.lost), (0, 0));
    assert_eq!(status(&work, careless), WorkItemStatus::Succeeded);
    assert_eq!(work.item(id).result.unwrap(), b"mine");
    assert_eq!(work.queue.count().unwrap()[&WorkItemStatus::Pending], 1);
}

/// A handler that says what it sees and goes on only when it is told to.
fn stubborn(
    builder: PoolBuilder,
) -> (
    WorkerPool,
    mpsc::Sender<()>,
    mpsc::Receiver<Result<(), StorageError>>,
) {
    let (go, told) = mpsc::channel();
    let (say, heard) = mpsc::channel();
    let (told, say) = (Mutex::new(told), Mutex::new(say));
    let pool = builder
        .threads(1)
        .handler("page", move |job| {
            let say = |what| say.lock().unwrap().send(what).unwrap();
            say(Ok(()));
            told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            say(job
                .commit(Parts::new().part(NewWorkItem::new("child")))
                .map(drop));
            Ok(Finish::Done(Some(b"the first".to_vec())))
        })
        .handler("next", |_| Ok(Finish::Done(None)))
        .start()
        .unwrap();
    (pool, go, heard)
}

/// Goal: a worker that seemed dead can damage nothing. Method: its lease is given up
/// by a later start, another pool takes over and completes; then the first goes on.
#[test]
fn a_handler_that_goes_on_without_its_lease_can_commit_nothing() {
    let work = Work::fresh();
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let (first, go, heard) = stubborn(work.pool("w").lease(LONG));
    heard.recv_timeout(PATIENCE).unwrap().unwrap();
    let request = SweepRequest {
        lost: Lost::EarlierStarts(new_worker("w")),
        ..SweepRequest::default()
    };
    assert_eq!(work.store.sweep(&request).unwrap().found, 1);
    let second = work
        .pool("w")
        .handler("page", |_| Ok(Finish::Done(Some(b"the second".to_vec()))))
        .start()
        .unwrap();
    wait_for(&work, id, WorkItemStatus::Succeeded);
    go.send(()).unwrap();
    let refused = heard.recv_timeout(PATIENCE).unwrap();
    let Err(StorageError::StaleLease(Stale::Work(stale))) = refused else {
        panic!("a commit under a lost lease: {refused:?}");
    };
    assert_eq!(stale.status, Some(WorkItemStatus::Succeeded));
    // Its thread is free again.
    let next = work.queue.enqueue(NewWorkItem::new("next")).unwrap().id;
    wait_for(&work, next, WorkItemStatus::Succeeded);
    let stats = first.shutdown().stats;
    assert_eq!((stats.claimed, stats.lost, stats.succeeded), (2, 1, 1));
    assert_eq!(second.shutdown().stats.succeeded, 1);
    assert_eq!(work.item(id).result.unwrap(), b"the second");
    assert_eq!(
        outcomes(&work, id),
        [AttemptOutcome::Expired, AttemptOutcome::Succeeded]
    );
    assert_eq!(work.queue.count().unwrap()[&WorkItemStatus::Pending], 0);
}

#[test]
fn an_item_that_is_cancelled_under_its_handler_stays_so() {
    let work = Work::fresh();
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let (pool, go, heard) = stubborn(work.pool("w"));
    heard.recv_timeout(PATIENCE).unwrap().unwrap();
    work.queue.cancel(id, None).unwrap();
    go.send(()).unwrap();
    let refused = heard.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(refused, Err(StorageError::StaleLease(_))));
    wait_until("the end", || pool.stats().lost == 1);
    assert_eq!(status(&work, id), WorkItemStatus::Cancelled);
    assert_eq!(outcomes(&work, id), [AttemptOutcome::Cancelled]);
}

#[test]
fn a_handler_hears_of_its_loss_within_a_heartbeat() {
    const LEASE: Duration = Duration::from_secs(3);
    let work = Work::fresh();
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let (say, heard) = mpsc::channel();
    let say = Mutex::new(say);
    let pool = work
        .pool("w")
        .lease(LEASE)
        .handler("page", move |job| {
            let say = |what| say.lock().unwrap().send(what).unwrap();
            say(None);
            assert!(job.cancellation().wait(Deadline::after(PATIENCE)));
            say(job.cancellation().cause());
            Err(HandlerError::new("stopped"))
        })
        .start()
        .unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), None);
    work.queue.cancel(id, None).unwrap();
    // A heartbeat comes each second; the lease would last two more.
    let cause = heard.recv_timeout(2 * LEASE / 3).unwrap();
    assert!(
        matches!(cause, Some(CancelCause::Lost(Loss::Taken(_)))),
        "{cause:?}"
    );
    wait_until("the end", || pool.stats().lost == 1);
    assert_eq!(outcomes(&work, id), [AttemptOutcome::Cancelled]);
}

/// Goal: a handler that takes five times its lease keeps it. A machine that stands
/// still for most of a lease can make it lose the lease, so one run in which it keeps
/// it is enough.
#[test]
fn a_slow_handler_keeps_its_lease_over_five_lease_times() {
    const LEASE: Duration = Duration::from_secs(1);
    const RUNS_MAX: usize = 5;
    let work = Work::fresh();
    let (say, heard) = mpsc::channel();
    let say = Mutex::new(say);
    let pool = work
        .pool("w")
        .threads(1)
        .lease(LEASE)
        .handler("page", move |job| {
            job.cancellation().wait(Deadline::after(5 * LEASE));
            say.lock().unwrap().send(job.cancellation().cause())?;
            Ok(Finish::Done(None))
        })
        .start()
        .unwrap();
    for _ in 0..RUNS_MAX {
        let before = pool.stats().heartbeat.renewals;
        let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
        let cause = heard.recv_timeout(PATIENCE).unwrap();
        // Nobody was free to take it away, so its end is recorded all the same.
        wait_for(&work, id, WorkItemStatus::Succeeded);
        assert_eq!(outcomes(&work, id), [AttemptOutcome::Succeeded]);
        if cause.is_none() {
            let renewals = pool.stats().heartbeat.renewals - before;
            assert!((5..=16).contains(&renewals), "{renewals}");
            return;
        }
        assert_eq!(cause, Some(CancelCause::Lost(Loss::Overdue)));
    }
    panic!("it was lost in each run");
}

/// Goal: however many pools, threads and stores share one file, each item is done
/// once. Method: two pools on one store and one on another store of the same file
/// count how often each item is begun.
#[test]
fn pools_share_the_work_and_do_each_item_once() {
    const ITEMS: u32 = 300;
    let work = Work::fresh();
    let begun: Arc<Mutex<HashMap<WorkItemId, u32>>> = Arc::default();
    let other: Arc<dyn agentos_core::Storage> = Arc::new(at(work.store.path()));
    let stores = [work.storage(), work.storage(), other];
    let pools: Vec<WorkerPool> = stores
        .into_iter()
        .map(|storage| {
            let begun = Arc::clone(&begun);
            let follow = |number| NewWorkItem::new("page").unique_key(format!("{number}"));
            WorkerPool::builder(storage, new_worker("w"))
                .threads(3)
                .handler("page", move |job| {
                    *begun.lock().unwrap().entry(job.id()).or_default() += 1;
                    // Half of the work is made by work.
                    let number = u32::try_from(job.id().get())? + ITEMS / 2;
                    Ok(Finish::DoneWith(
                        if number <= ITEMS {
                            Parts::new().part(follow(number))
                        } else {
                            Parts::new()
                        },
                        None,
                    ))
                })
                .start()
                .unwrap()
        })
        .collect();
    let items = vec![NewWorkItem::new("page"); ITEMS as usize / 2];
    work.queue.enqueue_all(items).unwrap();
    wait_until("all items", || {
        work.queue.count().unwrap()[&WorkItemStatus::Succeeded] == u64::from(ITEMS)
    });
    let stats: Vec<_> = pools
        .into_iter()
        .map(|pool| pool.shutdown().stats)
        .collect();
    let succeeded: Vec<u64> = stats.iter().map(|stats| stats.succeeded).collect();
    assert_eq!(succeeded.iter().sum::<u64>(), u64::from(ITEMS));
    assert!(succeeded.iter().all(|count| 0 < *count), "{succeeded:?}");
    let begun = begun.lock().unwrap();
    assert_eq!(begun.len(), ITEMS as usize);
    for (id, count) in begun.iter() {
        assert_eq!(*count, 1, "item {id}");
        assert_eq!(outcomes(&work, *id), [AttemptOutcome::Succeeded]);
    }
}

/// The handler returns while another writer holds the store beyond the busy timeout.
#[test]
fn an_end_is_recorded_as_soon_as_the_store_can_again() {
    let work = Work::configured(|config| config.busy_timeout(Duration::from_millis(50)));
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let (say, heard) = mpsc::channel();
    let (go, told) = mpsc::channel::<()>();
    let (say, told) = (Mutex::new(say), Mutex::new(told));
    let pool = work
        .pool("w")
        .handler("page", move |_| {
            say.lock().unwrap().send(()).unwrap();
            told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            Ok(Finish::Done(None))
        })
        .start()
        .unwrap();
    heard.recv_timeout(PATIENCE).unwrap();
    let lock = hold_write_lock(work.directory());
    go.send(()).unwrap();
    wait_until("two refusals", || 2 <= pool.stats().report_errors);
    assert_eq!((pool.stats().succeeded, pool.stats().running), (0, 1));
    drop(lock);
    wait_for(&work, id, WorkItemStatus::Succeeded);
    let stats = pool.shutdown().stats;
    assert_eq!((stats.succeeded, stats.failed, stats.lost), (1, 0, 0));
}

#[test]
fn a_pool_that_can_never_be_right_is_not_started() {
    let work = Work::fresh();
    let good = || work.pool("w").handler("page", |_| Ok(Finish::Done(None)));
    drop(good().start().unwrap());
    let many = (0..CLAIM_TYPES_MAX).fold(good(), |pool, number| {
        pool.handler(format!("type {number}"), |_| Ok(Finish::Done(None)))
    });
    let rule = RetryRule {
        factor: 0,
        ..RetryRule::default()
    };
    for bad in [
        work.pool("w"),
        good().handler("page", |_| Ok(Finish::Done(None))),
        good().handler("", |_| Ok(Finish::Done(None))),
        many,
        good().threads(0),
        good().threads(THREADS_MAX + 1),
        good().lease(Duration::from_millis(99)),
        good().after_loss(rule),
        good().retry(Retry::Backoff(rule)),
        good().grace(GRACE_MAX + Duration::from_millis(1)),
        good().parting(GRACE_MAX + Duration::from_millis(1)),
    ] {
        let described = format!("{bad:?}");
        let refused = bad.start().map(|_| described).unwrap_err();
        assert!(matches!(
            refused,
            StartError::Storage(StorageError::Invalid(_) | StorageError::LimitExceeded(_))
        ));
    }
}
