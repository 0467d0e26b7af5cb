//! Where a task goes on: its state, and the work that is open under it.

use agentos_checkpoints::{
    CheckpointConfig, CheckpointError, CheckpointManager, NewCheckpoint, ReadState, Resume,
};
use agentos_core::{
    CheckpointType, ClaimRequest, Commit, FailWork, LeaseStorage, NewWorkItem, Retry, Storage,
    StorageError, WorkFilter,
};
use agentos_recovery::{Recovery, recover};
use agentos_tests::{new_task, task_id};

use super::{LEASE, Shared, complete, worker};

fn manager(shared: &Shared) -> CheckpointManager {
    let base = shared.directory.path();
    CheckpointManager::new(shared.storage(), CheckpointConfig::new(base)).unwrap()
}

/// Goal: an agent that was started anew knows its state, what is open, who holds
/// what, and what nobody will do. Method: a task with a checkpoint, an error
/// boundary above it, and an item in each state.
#[test]
fn recovering_a_task_gives_its_state_and_its_open_work() {
    let shared = Shared::new();
    let store = &*shared.store;
    let checkpoints = manager(&shared);
    store.create_task(new_task("a")).unwrap();
    store.create_task(new_task("b")).unwrap();
    let state = NewCheckpoint::new(task_id("a"), CheckpointType::IterationEnd);
    checkpoints.append(state.state(&7_u64).unwrap()).unwrap();
    let names = ["dead", "done", "lost", "held", "waits", "later"];
    let items = names.map(|name| {
        let mut item = NewWorkItem::new(name).task(task_id("a"));
        if name == "later" {
            item = item.delay(3600 * LEASE);
        }
        let receipt = store.commit(item.into()).unwrap();
        receipt.enqueued().next().unwrap().0
    });
    store
        .commit(NewWorkItem::new("page").task(task_id("b")).into())
        .unwrap();
    store.commit(NewWorkItem::new("page").into()).unwrap();
    let claim = |name: &str| {
        let request = ClaimRequest {
            filter: WorkFilter::types([name]),
            lease: LEASE,
            ..ClaimRequest::new(worker("w", 1))
        };
        store.claim(&request).unwrap().pop().unwrap()
    };
    let dead = FailWork {
        fence: claim("dead").fence,
        reason: "no".into(),
        retry: Retry::Never,
    };
    store.commit(dead.into()).unwrap();
    store.commit(complete(&claim("done")).into()).unwrap();
    claim("lost");
    shared.clock.advance(LEASE);
    shared.sweep(10).unwrap();
    let held = claim("held");
    let recovery = recover(&checkpoints, store, &task_id("a")).unwrap();
    let Resume::From(resumed) = &recovery.resume else {
        panic!("{recovery:?}")
    };
    assert_eq!(resumed.checkpoint.summary.sequence.get(), 1);
    assert_eq!(resumed.checkpoint.state::<u64>().unwrap(), 7);
    assert_eq!(
        resumed.passed_over,
        [],
        "a boundary is passed over in silence"
    );
    assert_eq!((recovery.pending, recovery.in_progress), (3, 1));
    assert_eq!(recovery.dead_letters, 1);
    assert!(!recovery.nothing_open());
    let open: Vec<_> = recovery.open.iter().map(|item| item.id).collect();
    assert_eq!(open, [items[2], items[3], items[4], items[5]]);
    let holders: Vec<_> = recovery
        .open
        .iter()
        .filter_map(|item| item.holder.as_ref())
        .collect();
    assert_eq!((holders.len(), &holders[0].worker), (1, &held.holder));
    let other = recover(&checkpoints, store, &task_id("b")).unwrap();
    assert!(matches!(other.resume, Resume::Nowhere { .. }));
    assert_eq!((other.pending, other.open.len()), (1, 1));
    let absent = recover(&checkpoints, store, &task_id("absent"));
    let Err(CheckpointError::Storage(StorageError::NotFound { what, .. })) = absent else {
        panic!("{absent:?}")
    };
    assert_eq!(what, "task");
}

#[test]
fn recovering_a_task_with_much_work_names_a_bounded_part_and_counts_all() {
    let shared = Shared::new();
    let store = &*shared.store;
    store.create_task(new_task("a")).unwrap();
    let page = || NewWorkItem::new("page").task(task_id("a"));
    let commit = (0..1300).fold(Commit::new(), |commit, _| commit.part(page()));
    store.commit(commit).unwrap();
    let request = ClaimRequest {
        items: 250,
        ..ClaimRequest::new(worker("w", 1))
    };
    let finished = store.claim(&request).unwrap();
    let commit = finished
        .iter()
        .fold(Commit::new(), |commit, lease| commit.part(complete(lease)));
    store.commit(commit).unwrap();
    let recovery = recover(&manager(&shared), store, &task_id("a")).unwrap();
    assert_eq!((recovery.pending, recovery.in_progress), (1050, 0));
    assert_eq!(recovery.open.len(), Recovery::OPEN_ITEMS_MAX);
    assert!(recovery.open.is_sorted_by_key(|item| item.id));
    let oldest = recovery.open[0].id;
    assert_eq!(oldest.get(), finished.last().unwrap().fence.item.get() + 1);
}
