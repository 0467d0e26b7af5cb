//! Group commit on real SQLite: what waits together shares one transaction, and
//! a commit that fails, in whichever way, harms nobody but itself.
//!
//! Method of most tests: the test itself holds the write lock, so that commits
//! pile up behind it until their number is known; then it lets go.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use agentos_core::{
    AuditLine, BootTime, CheckpointStorage, ClaimRequest, Clock, Commit, LeaseStorage, Limits,
    NewWorkItem, Receipt, RetryRule, SequenceNumber, SetTaskStatus, Storage, StorageError,
    SweepRequest, SystemClock, TaskStatus, TaskStorage, Timestamp, WorkFilter, Worker, WorkerId,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{append, config, fresh, manual_clock, new_task, numbers, task_id, wait_until};
use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};

/// Takes the write lock of the store in `directory`, until the file is dropped.
pub(crate) fn hold_write_lock(directory: &Path) -> File {
    let file = File::open(directory.join("agent.db.wlock")).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}

type Answer = Result<Receipt, StorageError>;

/// Has all commits wait behind the lock, then lets them go; gives the answers
/// in the order of the commits.
fn commit_together(store: &SqliteStore, commits: Vec<Commit>) -> Vec<Answer> {
    let lock = hold_write_lock(store.path().parent().unwrap());
    let queued = commits.len() as u64 - 1;
    thread::scope(|scope| {
        let callers: Vec<_> = commits
            .into_iter()
            .map(|commit| scope.spawn(|| store.commit(commit)))
            .collect();
        wait_until("all commits but the leader's are queued", || {
            store.counters().waiting == queued
        });
        drop(lock);
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect()
    })
}

/// Goal: the fence is checked inside the transaction of the write. Method: the holder's
/// commit waits for the write lock, its lease is taken away meanwhile, past that lock;
/// then it comes through, and changes nothing.
#[test]
fn a_lease_that_is_lost_while_its_commit_waits_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(directory.path().join("agent.db"))).unwrap();
    store.commit(new_task("a").into()).unwrap();
    store.commit(NewWorkItem::new("page").into()).unwrap();
    let holder = Worker::start(WorkerId::new("w").unwrap());
    let lease = store.claim(&ClaimRequest::new(holder)).unwrap().remove(0);
    // So that what the holder looks at before it waits would let it through.
    assert!(store.renew(&[lease.fence], lease.duration).unwrap()[0].is_ok());
    let lock = hold_write_lock(directory.path());
    let others = Connection::open(store.path()).unwrap();
    thread::scope(|scope| {
        let commits: Vec<_> = (0..2)
            .map(|_| {
                let commit = Commit::under(&lease)
                    .part(append("a", "late"))
                    .part(NewWorkItem::new("late"));
                scope.spawn(|| store.commit(commit))
            })
            .collect();
        // One of them leads, and waits for the lock.
        wait_until("the commits wait", || store.counters().waiting == 1);
        others
            .execute_batch(
                "UPDATE work_items SET status = 'pending', lease_holder = NULL,
                     lease_incarnation = NULL, lease_acquired_at = NULL,
                     lease_expires_at = NULL, lease_boot_id = NULL, lease_deadline_us = NULL",
            )
            .unwrap();
        drop(lock);
        for commit in commits {
            let refused = commit.join().unwrap().unwrap_err();
            assert!(
                matches!(refused, StorageError::StaleLease(_)),
                "{refused:?}"
            );
        }
    });
    assert_eq!(numbers(&store, "a"), [0_u64; 0]);
    let items: i64 = others
        .query_row("SELECT count(*) FROM work_items", [], |row| row.get(0))
        .unwrap();
    assert_eq!(items, 1);
}

/// Goal: a lease whose renewal was asked for in time is not lost to a claim that came
/// earlier and shares its group; and what is urgent does not wait behind bulk work.
/// Method: behind the lock a claim and bulk commits are queued, then the renewal of a
/// lease, which has run out by the time that the lock comes.
#[test]
fn a_renewal_goes_before_what_waits_with_it() {
    let clock = manual_clock();
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path().join("agent.db")).clock(Arc::clone(&clock));
    let store = SqliteStore::open(config).unwrap();
    let request = |name| ClaimRequest::new(Worker::start(WorkerId::new(name).unwrap()));
    store.commit(NewWorkItem::new("page").into()).unwrap();
    let lease = store.claim(&request("holder")).unwrap().remove(0);
    let bulk = || {
        (0..4096).fold(Commit::new(), |commit, _| {
            commit.part(NewWorkItem::new("bulk"))
        })
    };
    let lock = hold_write_lock(directory.path());
    let waiting = |count: u64| wait_until("the queue", || store.counters().waiting == count);
    thread::scope(|scope| {
        let mut bulks = vec![scope.spawn(|| store.commit(bulk()))];
        let thief = scope.spawn(|| {
            let filter = WorkFilter::types(["page"]);
            let request = ClaimRequest {
                filter,
                ..request("thief")
            };
            store.claim(&request).unwrap()
        });
        waiting(1);
        bulks.push(scope.spawn(|| store.commit(bulk())));
        waiting(2);
        let renewal = scope.spawn(|| store.renew(&[lease.fence], lease.duration).unwrap());
        waiting(3);
        clock.advance(2 * lease.duration);
        drop(lock);
        assert!(renewal.join().unwrap()[0].is_ok(), "the lease was lost");
        assert_eq!(thief.join().unwrap(), [], "it was stolen");
        for bulk in bulks {
            bulk.join().unwrap().unwrap();
        }
    });
    // Two commits of the most parts that there can be do not share a group.
    assert!(store.counters().largest_group < 4);
}

fn states(store: &SqliteStore, task: &str) -> Vec<Vec<u8>> {
    let task_id = task_id(task);
    let mut states: Vec<Vec<u8>> = numbers(store, task)
        .into_iter()
        .map(|number| {
            let sequence = SequenceNumber::new(number).unwrap();
            let found = store.checkpoint(&task_id, sequence).unwrap().unwrap();
            found.snapshot.unwrap().bytes().to_vec()
        })
        .collect();
    states.sort();
    states
}

#[test]
fn commits_that_wait_together_share_one_transaction() {
    const CALLERS: usize = 32;
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    let before = store.counters();
    let commits = (0..CALLERS)
        .map(|caller| append("a", vec![caller as u8]).into())
        .collect();
    let answers = commit_together(&store, commits);
    let mut given: Vec<u64> = answers
        .into_iter()
        .map(|answer| answer.unwrap().appended().next().unwrap().sequence.get())
        .collect();
    given.sort_unstable();
    assert_eq!(given, (1..=CALLERS as u64).collect::<Vec<_>>());
    let after = store.counters();
    assert_eq!(after.groups - before.groups, 1);
    assert_eq!(after.commits - before.commits, CALLERS as u64);
    assert_eq!(after.largest_group, CALLERS as u64);
    assert_eq!((after.failed, after.waiting, after.reopened), (0, 0, 0));
}

/// Goal: a commit that fails leaves its neighbours in the group untouched, and
/// nothing of itself. Method: every third commit fails at its last part, after
/// parts that had been applied.
#[test]
fn a_failing_commit_leaves_its_neighbours_untouched() {
    const CALLERS: u8 = 18;
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    let groups = store.counters().groups;
    let commits = (0..CALLERS)
        .map(|caller| {
            let commit = Commit::new().part(append("a", vec![caller]));
            if caller % 3 == 0 {
                commit.part(SetTaskStatus::new(task_id("a"), TaskStatus::Succeeded))
            } else {
                commit
            }
        })
        .collect();
    let answers = commit_together(&store, commits);
    for (caller, answer) in answers.iter().enumerate() {
        if caller % 3 == 0 {
            let Err(StorageError::IllegalTransition { from, to, .. }) = answer else {
                panic!("{answer:?}")
            };
            assert_eq!((*from, *to), ("created", "succeeded"));
        } else {
            assert!(answer.is_ok(), "{answer:?}");
        }
    }
    let kept: Vec<Vec<u8>> = (0..CALLERS)
        .filter(|c| c % 3 != 0)
        .map(|c| vec![c])
        .collect();
    assert_eq!(states(&store, "a"), kept);
    assert_eq!(store.numbers("a"), (1..=12).collect::<Vec<u64>>());
    let counters = store.counters();
    assert_eq!((counters.groups - groups, counters.failed), (1, 6));
    assert_eq!(counters.run_alone_again, 0);
}

/// Goal: a commit that takes the whole transaction down costs its neighbours
/// nothing. Method: a trigger rolls the transaction back at one audit event;
/// commits before and after it in the group are run again, each exactly once.
#[test]
fn a_commit_that_takes_the_transaction_down_fails_alone() {
    const CALLERS: u8 = 9;
    for boom in [0, 4, 8] {
        let store = fresh();
        store.create_task(new_task("a")).unwrap();
        Connection::open(store.path())
            .unwrap()
            .execute_batch(
                "CREATE TRIGGER boom BEFORE INSERT ON task_audits WHEN NEW.event = 'boom'
                 BEGIN SELECT RAISE(ROLLBACK, 'boom'); END",
            )
            .unwrap();
        let commits = (0..CALLERS)
            .map(|caller| {
                let commit = Commit::new().part(append("a", vec![caller]));
                if caller == boom {
                    commit.part(AuditLine::new(task_id("a"), "boom"))
                } else {
                    commit
                }
            })
            .collect();
        let answers = commit_together(&store, commits);
        for (caller, answer) in answers.iter().enumerate() {
            assert_eq!(answer.is_err(), caller == usize::from(boom), "{answer:?}");
        }
        let kept: Vec<Vec<u8>> = (0..CALLERS)
            .filter(|c| *c != boom)
            .map(|c| vec![c])
            .collect();
        assert_eq!(states(&store, "a"), kept, "each once");
        assert_eq!(store.numbers("a"), (1..=8).collect::<Vec<u64>>());
        let counters = store.counters();
        assert_eq!(counters.run_alone_again, u64::from(CALLERS));
        assert_eq!((counters.commits, counters.failed), (1 + 8, 1));
        assert_eq!(counters.reopened, 0);
    }
}

/// A clock that panics as often as it is told to.
#[derive(Default)]
struct Bomb {
    panics: AtomicU32,
}

impl Clock for Bomb {
    fn wall(&self) -> Timestamp {
        let left = self.panics.load(Ordering::SeqCst);
        self.panics.store(left.saturating_sub(1), Ordering::SeqCst);
        assert!(left == 0, "the clock is broken");
        Timestamp::from_unix_micros(0)
    }

    fn boot(&self) -> BootTime {
        SystemClock.boot()
    }
}

#[test]
fn a_panic_inside_a_commit_fails_that_commit_alone() {
    let directory = tempfile::tempdir().unwrap();
    let bomb = Arc::new(Bomb::default());
    let store =
        SqliteStore::open(config(directory.path().join("agent.db")).clock(Arc::clone(&bomb)))
            .unwrap();
    store.create_task(new_task("a")).unwrap();
    // Alone, then in company: there the group is undone and run again.
    bomb.panics.store(1, Ordering::SeqCst);
    assert!(matches!(
        store.commit(append("a", "alone").into()),
        Err(StorageError::Internal { .. })
    ));
    bomb.panics.store(2, Ordering::SeqCst);
    let commits = (0..6_u8)
        .map(|caller| append("a", vec![caller]).into())
        .collect();
    let answers = commit_together(&store, commits);
    let failed = answers
        .iter()
        .filter(|answer| matches!(answer, Err(StorageError::Internal { .. })))
        .count();
    assert_eq!(
        (failed, answers.iter().filter(|a| a.is_ok()).count()),
        (1, 5)
    );
    assert_eq!(numbers(&store, "a"), [1, 2, 3, 4, 5]);
    assert!(store.check_integrity().unwrap().is_sound());
}

fn small_queue(directory: &Path, busy_timeout: Duration) -> SqliteStore {
    let limits = Limits {
        queue_length: 4,
        ..Limits::default()
    };
    SqliteStore::open(
        config(directory.join("agent.db"))
            .limits(limits)
            .busy_timeout(busy_timeout),
    )
    .unwrap()
}

/// Goal: who cannot be served in time is told so, and wrote nothing: the leader
/// that waits for the lock, those in the queue, and those outside a full queue.
#[test]
fn callers_whose_deadline_passes_get_busy_and_wrote_nothing() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let directory = tempfile::tempdir().unwrap();
    let store = small_queue(directory.path(), TIMEOUT);
    store.create_task(new_task("a")).unwrap();
    let lock = hold_write_lock(directory.path());
    thread::scope(|scope| {
        let callers: Vec<_> = (0..9)
            .map(|_| scope.spawn(|| store.commit(append("a", "state").into())))
            .collect();
        let mut longest_queue = 0;
        wait_until("all have been answered", || {
            longest_queue = longest_queue.max(store.counters().waiting);
            callers.iter().all(|caller| caller.is_finished())
        });
        assert_eq!(longest_queue, 4, "the queue is bounded, and was full");
        for caller in callers {
            let Err(StorageError::Busy { waited }) = caller.join().unwrap() else {
                panic!("an answer other than busy")
            };
            assert!(TIMEOUT <= waited && waited < TIMEOUT * 20, "{waited:?}");
        }
    });
    drop(lock);
    assert_eq!(numbers(&store, "a"), [0_u64; 0]);
    store.commit(append("a", "state").into()).unwrap();
    assert_eq!(numbers(&store, "a"), [1], "no number was used up");
    assert_eq!(store.counters().commits, 2);
}

#[test]
fn a_full_queue_pushes_back_and_lets_in_when_it_moves() {
    let directory = tempfile::tempdir().unwrap();
    let store = small_queue(directory.path(), Duration::from_secs(60));
    store.create_task(new_task("a")).unwrap();
    let lock = hold_write_lock(directory.path());
    thread::scope(|scope| {
        let callers: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| store.commit(append("a", "state").into())))
            .collect();
        wait_until("the queue is full", || store.counters().waiting == 4);
        drop(lock);
        for caller in callers {
            caller.join().unwrap().unwrap();
        }
    });
    assert_eq!(numbers(&store, "a"), (1..=12).collect::<Vec<u64>>());
    assert!(store.counters().largest_group <= 5, "a leader and four");
}

/// Goal: a commit is visible wholly or not at all. Method: for each length of
/// prefix, parts that succeed are followed by one that fails, alone and in
/// company; then nothing of them may be there, not even a used-up number.
#[test]
fn a_commit_that_fails_after_any_prefix_leaves_nothing() {
    let prefix = |length: usize| {
        let commit = [
            new_task("new").into(),
            SetTaskStatus::new(task_id("new"), TaskStatus::Running).into(),
            append("new", "state").into(),
            append("old", "state").into(),
            AuditLine::new(task_id("old"), "event").into(),
        ]
        .into_iter()
        .take(length)
        .fold(Commit::new(), |commit, part: agentos_core::Part| {
            commit.part(part)
        });
        commit.part(append("absent", "state"))
    };
    let store = fresh();
    store.create_task(new_task("old")).unwrap();
    for length in 0..=5 {
        for company in [false, true] {
            let answer = if company {
                let neighbour = AuditLine::new(task_id("old"), "neighbour").into();
                commit_together(&store, vec![neighbour, prefix(length)])
                    .pop()
                    .unwrap()
            } else {
                store.commit(prefix(length))
            };
            assert!(
                matches!(answer, Err(StorageError::NotFound { what: "task", .. })),
                "{answer:?}"
            );
            assert_eq!(store.task(&task_id("new")).unwrap(), None);
            assert_eq!(store.numbers("old"), [0_u64; 0]);
        }
    }
    let audits = store.audits(&task_id("old"), None, 100).unwrap().items;
    let neighbours = audits
        .iter()
        .filter(|line| line.event == "neighbour")
        .count();
    assert_eq!((audits.len(), neighbours), (1 + 6, 6));
    let receipt = store.commit(append("old", "state").into()).unwrap();
    let number = receipt.appended().next().unwrap().sequence;
    assert_eq!(number, SequenceNumber::FIRST);
}

/// Goal: whoever asks how many leases were lost is told of all of them. Method: of
/// four that run out a sweep takes one away, and a claim the others on its way.
#[test]
fn leases_that_sweeps_and_claims_take_away_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let clock = manual_clock();
    let path = directory.path().join("agent.db");
    let settings = config(&path).clock(Arc::clone(&clock));
    let store = SqliteStore::open(settings).unwrap();
    for _ in 0..4 {
        store.commit(NewWorkItem::new("page").into()).unwrap();
    }
    let request = ClaimRequest {
        items: 4,
        after_loss: RetryRule::AT_ONCE,
        ..ClaimRequest::new(Worker::start(WorkerId::new("w").unwrap()))
    };
    assert_eq!(store.claim(&request).unwrap().len(), 4);
    assert_eq!(store.counters().recovered, 0);
    clock.advance(request.lease);
    let one = SweepRequest {
        rows: 1,
        ..SweepRequest::default()
    };
    assert_eq!(store.sweep(&one).unwrap().recovered.len(), 1);
    assert_eq!(store.counters().recovered, 1);
    assert_eq!(store.claim(&request).unwrap().len(), 4);
    assert_eq!(store.counters().recovered, 4);
}
