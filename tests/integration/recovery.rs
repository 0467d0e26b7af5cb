//! Recovery: scans in bounded batches, holders and sweeps that are killed anywhere,
//! and a worker that gives up what its earlier starts held.

mod manual;
mod resume;
mod sweeper;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentos_core::records::audit::WORK_RECOVERED;
use agentos_core::{
    AttemptOutcome, CheckpointStorage, ClaimRequest, Commit, CompleteWork, Incarnation, Lease,
    LeaseStorage, ManualClock, NewWorkItem, Storage, StorageError, WorkItemId, WorkItemStatus,
    Worker, WorkerId,
};
use agentos_recovery::{RecoverySweep, SweepConfig, SweepStatistics, give_up_earlier_starts};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{Victim, append, at, config, copy_database, manual_clock, new_task, task_id};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::VICTIM;

const LEASE: Duration = Duration::from_secs(10);

/// A store that threads can share, and the clock that it goes by.
struct Shared {
    store: Arc<SqliteStore>,
    clock: Arc<ManualClock>,
    directory: TempDir,
}

impl Shared {
    fn new() -> Shared {
        let directory = tempfile::tempdir().unwrap();
        let clock = manual_clock();
        let path = directory.path().join("agent.db");
        let store = SqliteStore::open(config(path).clock(Arc::clone(&clock))).unwrap();
        Shared {
            store: Arc::new(store),
            clock,
            directory,
        }
    }

    fn storage(&self) -> Arc<dyn Storage> {
        Arc::<SqliteStore>::clone(&self.store)
    }

    fn sweep(&self, rows_per_batch: u32) -> Result<SweepStatistics, StorageError> {
        let config = SweepConfig {
            rows_per_batch,
            ..SweepConfig::default()
        };
        RecoverySweep::new(self.storage(), config).scan_and_recover()
    }

    fn raw(&self) -> Connection {
        let connection = Connection::open(self.store.path()).unwrap();
        connection
            .execute_batch("PRAGMA foreign_keys = OFF")
            .unwrap();
        connection
    }
}

fn worker(name: &str, start: u32) -> Worker {
    Worker {
        id: WorkerId::new(name).unwrap(),
        incarnation: Incarnation::new(format!("{name}-{start}")).unwrap(),
    }
}

/// So many items of task `a`, all of them held.
fn held(store: &dyn Storage, count: usize, by: Worker) -> Vec<Lease> {
    store.create_task(new_task("a")).unwrap();
    let page = || NewWorkItem::new("page").task(task_id("a"));
    let commit = (0..count).fold(Commit::new(), |commit, _| commit.part(page()));
    store.commit(commit).unwrap();
    let request = ClaimRequest {
        items: u32::try_from(count).unwrap(),
        lease: LEASE,
        ..ClaimRequest::new(by)
    };
    let leases = store.claim(&request).unwrap();
    assert_eq!(leases.len(), count);
    leases
}

fn status(store: &dyn Storage, item: WorkItemId) -> WorkItemStatus {
    store.work_item(item).unwrap().unwrap().summary.status
}

fn complete(lease: &Lease) -> CompleteWork {
    CompleteWork {
        fence: lease.fence,
        result: None,
    }
}

#[test]
fn a_scan_recovers_everything_that_has_run_out() {
    let shared = Shared::new();
    held(&*shared.store, 100, worker("w", 1));
    let early = shared.sweep(7).unwrap();
    assert_eq!((early.expired_found, early.batches), (0, 1));
    shared.clock.advance(LEASE);
    let groups = shared.store.counters().groups;
    let found = shared.sweep(7).unwrap();
    assert_eq!((found.expired_found, found.recovered), (100, 100));
    assert_eq!((found.requeued, found.dead_lettered), (100, 0));
    assert_eq!((found.failed, found.errors), (0, 0));
    assert!(found.is_complete() && 0.0 < found.scan_duration_ms);
    assert_eq!(found.batches, 15, "of seven each");
    assert_eq!(shared.store.counters().groups - groups, 15);
    let again = shared.sweep(7).unwrap();
    assert_eq!((again.expired_found, again.recovered), (0, 0));
    let counts = shared.store.count_work_items().unwrap();
    assert_eq!(counts[&WorkItemStatus::Pending], 100);
}

#[test]
fn scans_at_once_recover_each_item_once() {
    let shared = Shared::new();
    held(&*shared.store, 200, worker("w", 1));
    shared.clock.advance(LEASE);
    let recovered: Vec<u64> = std::thread::scope(|scope| {
        let scans: Vec<_> = (0..6).map(|_| scope.spawn(|| shared.sweep(5))).collect();
        let scans = scans.into_iter().map(|scan| scan.join().unwrap().unwrap());
        scans.map(|scan| scan.recovered).collect()
    });
    assert_eq!(recovered.iter().sum::<u64>(), 200, "{recovered:?}");
    let lines = lines(&*shared.store);
    assert_eq!(lines, 200);
}

/// Audit lines of task `a` that speak of a recovery.
fn lines(store: &dyn Storage) -> usize {
    let lines = store.audits(&task_id("a"), None, 1000).unwrap().items;
    let recovered = lines.iter().filter(|line| line.event == WORK_RECOVERED);
    recovered.count()
}

/// Goal: what is damaged keeps nothing else from being recovered, and says what it
/// is. Method: five rows whose task cannot be read, first in the index, and a
/// batch that is smaller; they are mended in the end.
#[test]
fn a_damaged_item_is_passed_over_and_named() {
    let shared = Shared::new();
    let leases = held(&*shared.store, 20, worker("w", 1));
    let damaged: Vec<_> = leases[..5].iter().map(|lease| lease.fence.item).collect();
    let damage = |task: &str| {
        let sql = "UPDATE work_items SET task_id = ?1, lease_deadline_us = 0
                   WHERE work_item_id <= ?2";
        let last = damaged[4].get();
        shared.raw().execute(sql, (task, last)).unwrap();
    };
    damage("");
    shared.clock.advance(LEASE);
    let found = shared.sweep(3).unwrap();
    assert_eq!(
        (found.expired_found, found.recovered, found.failed),
        (20, 15, 5)
    );
    assert!(!found.unfinished && !found.is_complete());
    let named: Vec<_> = found
        .failures
        .iter()
        .filter_map(|failure| failure.item)
        .collect();
    assert_eq!(named, damaged);
    for failure in &found.failures {
        let corrupt = matches!(*failure.error, StorageError::Corrupt { .. });
        assert!(corrupt, "{failure:?}");
    }
    damage("a");
    let mended = shared.sweep(3).unwrap();
    assert_eq!((mended.recovered, mended.is_complete()), (5, true));
}

#[test]
fn a_scan_of_a_closed_store_is_an_error() {
    let shared = Shared::new();
    held(&*shared.store, 1, worker("w", 1));
    shared.store.close();
    assert!(matches!(shared.sweep(10), Err(StorageError::Closed)));
}

/// Ten items of an earlier boot, held: for every process of today they have run
/// out.
fn of_an_earlier_boot() -> (TempDir, PathBuf) {
    let shared = Shared::new();
    held(&*shared.store, 10, worker("w", 1));
    let path = shared.store.path().to_path_buf();
    shared.store.close();
    (shared.directory, path)
}

/// How many of the ten items were recovered, each of them with all that belongs to
/// it.
#[track_caller]
fn recovered(path: &Path) -> usize {
    let store = at(path);
    assert!(store.check_integrity().unwrap().is_sound());
    let items = store.work_items_of(&task_id("a"), None, 100).unwrap().items;
    assert_eq!(items.len(), 10);
    let mut recovered = 0;
    for item in items {
        let attempts = store.attempts(item.id).unwrap();
        let ends = attempts.iter().map(|attempt| attempt.end.as_ref());
        let outcomes: Vec<_> = ends.map(|end| end.map(|end| end.outcome)).collect();
        if item.status == WorkItemStatus::Pending {
            assert_eq!((item.losses, item.attempts), (1, 1));
            assert_eq!(outcomes, [Some(AttemptOutcome::Expired)]);
            recovered += 1;
        } else {
            assert_eq!((item.status, item.losses), (WorkItemStatus::InProgress, 0));
            assert_eq!(outcomes, [None]);
        }
    }
    let boundaries = store.checkpoints(&task_id("a"), None, 100).unwrap();
    assert_eq!((lines(&store), boundaries.len()), (recovered, recovered));
    recovered
}

/// Goal: a sweep that dies anywhere leaves each item as it was or recovered with
/// all that belongs to it, and the next one does the rest, once. Method: a dry run
/// counts every point of a sweep of three batches; a process dies at each in turn,
/// by SIGKILL, on a copy of the file.
#[test]
fn a_sweep_that_is_killed_anywhere_is_finished_by_the_next() {
    let (_directory, path) = of_an_earlier_boot();
    let copy = || {
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = copy_database(&path, elsewhere.path());
        (elsewhere, copy)
    };
    let (_elsewhere, undisturbed) = copy();
    let arguments = ["sweep", undisturbed.to_str().unwrap(), "4"];
    let mut points = BTreeMap::<String, usize>::new();
    let (passed, words) = Victim::points(VICTIM, arguments);
    for point in passed {
        *points.entry(point).or_default() += 1;
    }
    assert_eq!(words, ["recovered 10"]);
    assert_eq!(recovered(&undisturbed), 10);
    let counted = |point: &str| points.get(point).copied().unwrap_or_default();
    for (point, hits) in [
        ("sweep.recovered", 3),
        ("sweep.between_batches", 2),
        ("store.before_commit", 3),
        ("store.after_commit", 3),
    ] {
        assert_eq!(counted(point), hits, "{point}: {points:?}");
    }
    for (point, hits) in &points {
        for hit in 1..=*hits {
            let (_elsewhere, copy) = copy();
            let database = copy.to_str().unwrap();
            let arguments = [point, &hit.to_string(), "sweep", database, "4"];
            let words = Victim::start(VICTIM, "kill-at", arguments).dies();
            assert_eq!(words, [""; 0]);
            let expected = match point.as_str() {
                "sweep.recovered" | "store.before_commit" => 4 * (hit - 1),
                _ => (4 * hit).min(10),
            };
            assert_eq!(
                recovered(&copy),
                expected,
                "after a death at {point}, hit {hit}"
            );
            let rest = Victim::start(VICTIM, "sweep", [database, "4"]).finish();
            assert_eq!(rest, [format!("recovered {}", 10 - expected)]);
            assert_eq!(recovered(&copy), 10);
        }
    }
}

/// Goal: what a worker held when it was killed does not wait for its lease, which is
/// a day here. Method: a process claims and completes one of three items, and is
/// killed; its name is started again.
#[test]
fn a_worker_that_is_started_again_gives_up_what_its_dead_start_held() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    let store = at(&path);
    let page = || NewWorkItem::new("page");
    let commit = Commit::new().part(page()).part(page()).part(page());
    let enqueued = store.commit(commit).unwrap();
    let items: Vec<_> = enqueued.enqueued().map(|(item, _)| item).collect();
    let mut victim = Victim::start(VICTIM, "hold", [path.to_str().unwrap(), "w", "3"]);
    while victim.line() != format!("completed {}", items[2]) {}
    assert_eq!(victim.kill(), [""; 0]);
    let stranger = Worker::start(WorkerId::new("v").unwrap());
    let none = give_up_earlier_starts(&store, &stranger).unwrap();
    assert_eq!((none.expired_found, none.recovered), (0, 0));
    let again = Worker::start(WorkerId::new("w").unwrap());
    let given_up = give_up_earlier_starts(&store, &again).unwrap();
    assert_eq!((given_up.recovered, given_up.is_complete()), (2, true));
    assert_eq!(status(&store, items[2]), WorkItemStatus::Succeeded);
    let request = ClaimRequest {
        items: 3,
        ..ClaimRequest::new(again)
    };
    let claimed = store.claim(&request).unwrap();
    let tokens = claimed
        .iter()
        .map(|lease| (lease.fence.item, lease.fence.token.get()));
    assert_eq!(tokens.collect::<Vec<_>>(), [(items[0], 2), (items[1], 2)]);
}

#[test]
fn what_a_later_start_gave_up_its_earlier_one_cannot_use() {
    let shared = Shared::new();
    let leases = held(&*shared.store, 5, worker("w", 1));
    let given_up = give_up_earlier_starts(&*shared.store, &worker("w", 1)).unwrap();
    assert_eq!(given_up.recovered, 0, "it is itself");
    let sweep = RecoverySweep::new(shared.storage(), SweepConfig::default());
    let given_up = sweep.give_up_earlier_starts(&worker("w", 2)).unwrap();
    assert_eq!((given_up.expired_found, given_up.recovered), (5, 5));
    for lease in &leases {
        let late = Commit::under(lease)
            .part(append("a", "late"))
            .part(complete(lease));
        let answer = shared.store.commit(late);
        assert!(
            matches!(answer, Err(StorageError::StaleLease(_))),
            "{answer:?}"
        );
    }
}
