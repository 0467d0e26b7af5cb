//! Many tasks and many workers in one process, and many leases that run out
//! together.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentos_checkpoints::{CheckpointConfig, CheckpointManager, NewCheckpoint, ReadState, Resume};
use agentos_core::limits::CLAIM_ITEMS_MAX;
use agentos_core::{
    CheckpointStorage, CheckpointType, ClaimRequest, Commit, CompleteWork, LeaseStorage,
    NewWorkItem, Storage, WorkItemStatus, Worker, WorkerId,
};
use agentos_recovery::{RecoverySweep, SweepConfig};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{append, at, config, manual_clock, new_task, numbers, task_id};

use crate::alone;

fn worker(index: usize) -> Worker {
    Worker::start(WorkerId::new(format!("worker-{index}")).unwrap())
}

/// Goal: 500 of 500. Method: 100 threads, each with a task of its own, append five
/// checkpoints each; every task is resumed from its fifth.
#[test]
fn a_hundred_tasks_append_five_checkpoints_each() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(at(directory.path().join("agent.db")));
    let storage: Arc<dyn Storage> = Arc::<SqliteStore>::clone(&store);
    let manager = CheckpointManager::new(storage, CheckpointConfig::new(directory.path()));
    let manager = manager.unwrap();
    let appended: usize = thread::scope(|scope| {
        let tasks: Vec<_> = (0..100_u64)
            .map(|index| {
                let (store, manager) = (&store, &manager);
                scope.spawn(move || {
                    let task = task_id(&format!("task-{index}"));
                    store.create_task(new_task(task.as_str())).unwrap();
                    let append = |step: u64| {
                        let new = NewCheckpoint::new(task.clone(), CheckpointType::IterationEnd);
                        let new = new.state(&(index, step)).unwrap();
                        manager.append(new).unwrap().sequence.get() == step
                    };
                    (1..=5).filter(|step| append(*step)).count()
                })
            })
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).sum()
    });
    assert_eq!(appended, 500);
    for index in 0..100_u64 {
        let name = format!("task-{index}");
        assert_eq!(numbers(&*store, &name), [1, 2, 3, 4, 5]);
        let Resume::From(resumed) = manager.resume(&task_id(&name)).unwrap() else {
            panic!("{name} is lost")
        };
        assert_eq!(
            resumed.checkpoint.state::<(u64, u64)>().unwrap(),
            (index, 5)
        );
    }
    assert_eq!(store.inspect().unwrap().rows["checkpoints"], 500);
    assert!(store.check_integrity().unwrap().is_sound());
}

/// Goal: all succeed. Method: 20 workers each claim an item of one task, append 25
/// checkpoints to it under their leases, and complete.
#[test]
fn twenty_workers_write_to_the_same_task() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let store = at(directory.path().join("agent.db"));
    store.create_task(new_task("shared")).unwrap();
    let item = || NewWorkItem::new("write").task(task_id("shared"));
    let commit = (0..20).fold(Commit::new(), |commit, _| commit.part(item()));
    store.commit(commit).unwrap();
    let mut all: Vec<u64> = thread::scope(|scope| {
        let workers: Vec<_> = (0..20)
            .map(|index| {
                let store = &store;
                scope.spawn(move || {
                    let request = ClaimRequest::new(worker(index));
                    let lease = store.claim(&request).unwrap().pop().unwrap();
                    let mut said = Vec::new();
                    for step in 0..25 {
                        let mut commit =
                            Commit::under(&lease).part(append("shared", format!("{index} {step}")));
                        if step == 24 {
                            commit = commit.part(CompleteWork {
                                fence: lease.fence,
                                result: None,
                            });
                        }
                        let receipt = store.commit(commit).unwrap();
                        said.extend(receipt.appended().map(|one| one.sequence.get()));
                    }
                    assert!(said.is_sorted());
                    said
                })
            })
            .collect();
        let workers = workers.into_iter().map(|worker| worker.join().unwrap());
        workers.flatten().collect()
    });
    all.sort_unstable();
    assert_eq!(all, (1..=500).collect::<Vec<_>>());
    assert_eq!(numbers(&store, "shared"), all);
    let counts = store.count_work_items().unwrap();
    assert_eq!(counts[&WorkItemStatus::Succeeded], 20);
}

/// Goal: 1,000 of 1,000 in one call. Method: they are claimed by ten workers, the
/// time of all leases passes, one scan.
#[test]
fn a_thousand_leases_that_ran_out_are_recovered_in_one_call() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let clock = manual_clock();
    let config = config(directory.path().join("agent.db")).clock(Arc::clone(&clock));
    let store = Arc::new(SqliteStore::open(config).unwrap());
    for task in 0..10 {
        store
            .create_task(new_task(&format!("task-{task}")))
            .unwrap();
    }
    let item =
        |index: usize| NewWorkItem::new("page").task(task_id(&format!("task-{}", index % 10)));
    let commit = (0..1000).fold(Commit::new(), |commit, index| commit.part(item(index)));
    store.commit(commit).unwrap();
    let mut held = 0;
    for index in 0.. {
        let request = ClaimRequest {
            items: 100.min(CLAIM_ITEMS_MAX),
            ..ClaimRequest::new(worker(index))
        };
        match store.claim(&request).unwrap().len() {
            0 => break,
            leases => held += leases,
        }
    }
    assert_eq!(held, 1000);
    clock.advance(Duration::from_secs(30));
    let storage: Arc<dyn Storage> = Arc::<SqliteStore>::clone(&store);
    let sweep = RecoverySweep::new(storage, SweepConfig::default());
    let found = sweep.scan_and_recover().unwrap();
    println!(
        "1,000 leases: {:.1} ms in {} batches",
        found.scan_duration_ms, found.batches
    );
    assert_eq!((found.expired_found, found.recovered), (1000, 1000));
    assert_eq!((found.requeued, found.failed, found.errors), (1000, 0, 0));
    assert!(found.is_complete());
    let counts = store.count_work_items().unwrap();
    assert_eq!(counts[&WorkItemStatus::Pending], 1000);
    for task in 0..10 {
        let task = task_id(&format!("task-{task}"));
        // An error boundary each.
        assert_eq!(store.checkpoints(&task, None, 1000).unwrap().len(), 100);
    }
    assert_eq!(sweep.scan_and_recover().unwrap().expired_found, 0);
}
