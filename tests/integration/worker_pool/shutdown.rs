//! Shutting a pool down: what runs finishes, what does not is given back, and
//! nothing holds it up for ever.

use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use agentos_core::{
    AttemptOutcome, Deadline, NewWorkItem, Stopwatch, StorageError, WorkItemStatus,
};
use agentos_tests::{PATIENCE, Work, wait_until};
use agentos_worker_pool::{CancelCause, Finish, HandlerError, Job, Parts};

use super::ends;
use crate::group_commit::hold_write_lock;

type Answer = Result<Finish, HandlerError>;

/// Says when a handler has begun, and lets it go on.
struct Reins {
    begun: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
}

/// A handler that has begun, and what it does once it is let go.
fn reined(then: impl Fn(&Job) -> Answer + Sync + Send) -> (Reins, impl Fn(&Job) -> Answer) {
    let (say, begun) = mpsc::channel();
    let (go, told) = mpsc::channel::<()>();
    let (say, told) = (Mutex::new(say), Mutex::new(told));
    let handler = move |job: &Job| {
        say.lock().unwrap().send(()).unwrap();
        told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        then(job)
    };
    (Reins { begun, go }, handler)
}

impl Reins {
    fn wait_until_begun(&self) {
        self.begun.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn what_runs_finishes_and_nothing_more_is_claimed() {
    let work = Work::fresh();
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let (reins, handler) = reined(|_| Ok(Finish::Done(Some(b"in time".to_vec()))));
    let pool = work.pool("w").handler("page", handler).start().unwrap();
    reins.wait_until_begun();
    let holders = Arc::strong_count(&work.store);
    let later = thread::scope(|scope| {
        let shutdown = scope.spawn(|| pool.shutdown());
        // The thread that claims ends, and with it its hold on the store.
        wait_until("an end", || Arc::strong_count(&work.store) < holders);
        let later = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
        reins.go.send(()).unwrap();
        let report = shutdown.join().unwrap();
        assert_eq!(report.finished, 1);
        assert_eq!((report.released, report.abandoned), (0, 0));
        assert_eq!((report.stats.claimed, report.stats.running), (1, 0));
        later
    });
    assert_eq!(work.item(id).result.unwrap(), b"in time");
    let later = work.item(later).summary;
    assert_eq!(
        (later.status, later.newest_token),
        (WorkItemStatus::Pending, None)
    );
}

#[test]
fn a_handler_that_stops_when_it_is_told_to_costs_no_attempt() {
    let work = Work::fresh();
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let (reins, handler) = reined(|job| {
        assert!(job.cancellation().wait(Deadline::after(PATIENCE)));
        let cause = job.cancellation().cause();
        assert_eq!(cause, Some(CancelCause::ShuttingDown));
        // The lease is still held: what is done so far can be kept.
        job.commit(Parts::new().part(NewWorkItem::new("so far")))?;
        Err(HandlerError::new("half done"))
    });
    let pool = work
        .pool("w")
        .grace(Duration::from_millis(20))
        .parting(PATIENCE)
        .handler("page", handler)
        .start()
        .unwrap();
    reins.wait_until_begun();
    reins.go.send(()).unwrap();
    let report = pool.shutdown();
    assert_eq!((report.finished, report.released), (0, 1));
    assert_eq!((report.abandoned, report.stats.released), (0, 1));
    let item = work.item(id).summary;
    assert_eq!((item.status, item.attempts), (WorkItemStatus::Pending, 0));
    let said = "the pool shut down: half done".to_owned();
    assert_eq!(ends(&work, id), [(AttemptOutcome::Released, Some(said))]);
    assert_eq!(work.queue.count().unwrap()[&WorkItemStatus::Pending], 2);
}

/// Goal: what a handler has finished when it is told to stop is not thrown away
/// because the store is busy just then. Method: somebody holds the write lock for
/// several times as long as a commit waits for it.
#[test]
fn a_result_of_the_last_moment_waits_for_a_busy_store() {
    const BUSY: Duration = Duration::from_millis(20);
    let work = Work::configured(|config| config.busy_timeout(BUSY));
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let (say, stopping) = mpsc::channel();
    let say = Mutex::new(say);
    let (reins, handler) = reined(move |job| {
        assert!(job.cancellation().wait(Deadline::after(PATIENCE)));
        say.lock().unwrap().send(()).unwrap();
        Ok(Finish::Done(Some(b"worth hours".to_vec())))
    });
    let pool = work
        .pool("w")
        .grace(Duration::from_millis(20))
        .parting(PATIENCE)
        .handler("page", handler)
        .start()
        .unwrap();
    reins.wait_until_begun();
    let lock = hold_write_lock(work.directory());
    reins.go.send(()).unwrap();
    let report = thread::scope(|scope| {
        let shutdown = scope.spawn(|| pool.shutdown());
        stopping.recv_timeout(PATIENCE).unwrap();
        // Nobody says anything meanwhile: this is how long the store is busy.
        stopping.recv_timeout(5 * BUSY).unwrap_err();
        drop(lock);
        shutdown.join().unwrap()
    });
    assert_eq!((report.finished, report.stats.unreported), (1, 0));
    assert!(0 < report.stats.report_errors);
    assert_eq!(work.item(id).result.unwrap(), b"worth hours");
}

/// Goal: a handler that never returns holds up neither the shutdown nor the item,
/// and can do no harm. Method: the second pool does the item before the handler of
/// the first goes on.
#[test]
fn a_handler_that_does_not_return_is_given_up() {
    let work = Work::fresh();
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let (say, heard) = mpsc::channel();
    let say = Mutex::new(say);
    let (reins, handler) = reined(move |job| {
        let late = job.commit(Parts::new().part(NewWorkItem::new("late")));
        say.lock().unwrap().send(late.map(drop)).unwrap();
        Ok(Finish::Done(Some(b"late".to_vec())))
    });
    let pool = work
        .pool("w")
        .grace(Duration::from_millis(20))
        .parting(Duration::from_millis(20))
        .handler("page", handler)
        .start()
        .unwrap();
    reins.wait_until_begun();
    let watch = Stopwatch::start();
    let report = pool.shutdown();
    let took = watch.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    assert_eq!((report.finished, report.released), (0, 1));
    assert_eq!(report.abandoned, 1);
    assert_eq!(work.item(id).summary.attempts, 0);
    let second = work.pool("w").handler("page", |job| {
        assert_eq!(job.attempt(), 1);
        Ok(Finish::Done(Some(b"in time".to_vec())))
    });
    let second = second.start().unwrap();
    wait_until("the second", || second.stats().succeeded == 1);
    reins.go.send(()).unwrap();
    let late = heard.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(late, Err(StorageError::StaleLease(_))));
    drop(second);
    assert_eq!(work.item(id).result.unwrap(), b"in time");
    let outcomes: Vec<_> = ends(&work, id).into_iter().map(|end| end.0).collect();
    assert_eq!(
        outcomes,
        [AttemptOutcome::Released, AttemptOutcome::Succeeded]
    );
}

/// Goal: what was claimed and not begun goes back. Method: the claim waits for the
/// write lock; meanwhile the pool is shut down, and has not the time to wait for it.
#[test]
fn what_was_claimed_and_not_begun_is_released() {
    let work = Work::fresh();
    let begun = || -> Answer { panic!("it was begun after the shutdown") };
    let pool = work
        .pool("w")
        .grace(Duration::ZERO)
        .parting(Duration::ZERO)
        .handler("page", move |_| begun())
        .start()
        .unwrap();
    let item = NewWorkItem::new("page").delay(Duration::from_millis(500));
    let id = work.queue.enqueue(item).unwrap().id;
    let lock = hold_write_lock(work.directory());
    wait_for_the_lock(&work);
    let report = pool.shutdown();
    assert_eq!((report.stats.claimed, report.abandoned), (0, 0));
    drop(lock);
    wait_until("the release", || {
        let attempts = work.queue.attempts(id).unwrap();
        attempts.iter().any(|attempt| attempt.end.is_some())
    });
    let said = "it was claimed and not begun".to_owned();
    assert_eq!(ends(&work, id), [(AttemptOutcome::Released, Some(said))]);
    let item = work.item(id).summary;
    assert_eq!((item.status, item.attempts), (WorkItemStatus::Pending, 0));
}

#[test]
fn dropping_a_pool_shuts_it_down() {
    let work = Work::fresh();
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let (reins, handler) = reined(|_| Ok(Finish::Done(None)));
    let pool = work.pool("w").handler("page", handler).start().unwrap();
    reins.wait_until_begun();
    reins.go.send(()).unwrap();
    drop(pool);
    assert_eq!(work.item(id).summary.status, WorkItemStatus::Succeeded);
    let Work { store, .. } = work;
    assert_eq!(Arc::strong_count(&store), 2, "this one, and the queue's");
}

/// Waits until this process waits in the kernel for the write lock of `work`.
fn wait_for_the_lock(work: &Work) {
    let lock = std::fs::metadata(work.directory().join("agent.db.wlock")).unwrap();
    let (pid, inode) = (std::process::id().to_string(), lock.ino().to_string());
    wait_until("the claim waits for the lock", || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        locks.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.any(|word| word == "->")
                && words.any(|word| word == pid)
                && words.any(|word| word.rsplit(':').next() == Some(&inode))
        })
    });
}
