//! An item that cannot be recovered is left as it was, and harms no other: neither
//! those of its batch, nor a claim that meets it, nor who commits beside them.

use std::path::{Path, PathBuf};
use std::thread;

use agentos_core::{
    ClaimRequest, LeaseStorage, RetryRule, Storage, StorageError, SweepRequest, WorkItemId,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{
    append, disagreements, lease_rows, leased_clock, leased_file, numbers, open_leased, wait_until,
    worker,
};
use rusqlite::Connection;

use crate::group_commit::hold_write_lock;

/// Items 1 to 3 are lost.
fn leased(change: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    leased_file(&path);
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(change).unwrap();
    connection.close().unwrap();
    (directory, path)
}

/// A user's trigger that refuses the second of the writes of a recovery.
const REFUSED: &str = "
    CREATE TRIGGER mine BEFORE UPDATE ON work_attempts WHEN OLD.work_item_id = 1
    BEGIN SELECT RAISE(ABORT, 'not this one'); END";

/// A row that cannot be read as a work item's.
const UNREADABLE: &str = "
    PRAGMA foreign_keys = OFF;
    UPDATE work_items SET task_id = '' WHERE work_item_id = 1";

/// The rows that speak of item 1.
fn of_item_one(path: &Path) -> Vec<String> {
    let rows = lease_rows(path);
    let of_one = |table: &str| {
        let one =
            |row: &&String| row.contains("work_item_id=1 ") || row.contains("\"work_item\":1,");
        rows[table].iter().filter(one).cloned().collect::<Vec<_>>()
    };
    let tables = ["work_items", "work_attempts", "task_audits", "checkpoints"];
    tables.into_iter().flat_map(of_one).collect()
}

fn item(number: i64) -> WorkItemId {
    WorkItemId::new(number).unwrap()
}

/// Goal: all of a batch but the item that fails is recovered, in one commit, and the
/// item that fails is as it was, its first write undone. Method: a trigger refuses
/// one of its writes, or its row cannot be read; sweep, and look at every row.
#[test]
fn an_item_that_cannot_be_recovered_harms_no_other() {
    for change in [REFUSED, UNREADABLE] {
        let (_directory, path) = leased(change);
        let before = of_item_one(&path);
        let store = open_leased(&path, &leased_clock());
        for found in [3, 1] {
            let swept = store.sweep(&SweepRequest::default()).unwrap();
            assert_eq!(swept.found, found, "{change}");
            let recovered: Vec<_> = swept.recovered.iter().map(|one| one.fence.item).collect();
            let expected: &[_] = if found == 3 { &[item(2), item(3)] } else { &[] };
            assert_eq!(recovered, expected, "{change}");
            let failed: Vec<_> = swept.failed.iter().map(|(item, _)| *item).collect();
            assert_eq!(failed, [item(1)], "{change}");
        }
        assert_eq!(of_item_one(&path), before, "{change}");
        let counters = store.counters();
        assert_eq!((counters.failed, counters.reopened), (0, 0), "{change}");
        // Whoever knows of it passes it over.
        let rest = SweepRequest {
            skip: 1,
            ..SweepRequest::default()
        };
        assert_eq!(store.sweep(&rest).unwrap().found, 0);
    }
}

/// Goal: an item that cannot be recovered keeps nobody from work. Method: claims
/// meet it on their way; each gets what is due.
#[test]
fn a_claim_passes_over_an_item_that_cannot_be_recovered() {
    for change in [REFUSED, UNREADABLE] {
        let (_directory, path) = leased(change);
        let before = of_item_one(&path);
        let store = open_leased(&path, &leased_clock());
        let request = ClaimRequest {
            after_loss: RetryRule::AT_ONCE,
            ..ClaimRequest::new(worker("new", "first"))
        };
        // 6 is more urgent, 3 was lost and has been due for longer than 7; 2 is dead.
        for expected in [6, 3, 7] {
            let leases = store.claim(&request).unwrap();
            let claimed: Vec<_> = leases.iter().map(|lease| lease.fence.item).collect();
            assert_eq!(claimed, [item(expected)], "{change}");
        }
        assert_eq!(store.claim(&request).unwrap(), []);
        assert_eq!(of_item_one(&path), before, "{change}");
        assert_eq!(store.counters().reopened, 0, "{change}");
    }
}

/// Goal: who commits beside a sweep that is run again is committed once. Method: a
/// sweep and appends pile up behind the write lock and share a transaction, which is
/// undone when the trigger refuses a write of the sweep.
#[test]
fn those_beside_a_sweep_that_is_run_again_are_committed_once() {
    const CALLERS: u8 = 8;
    let (directory, path) = leased(REFUSED);
    let store = open_leased(&path, &leased_clock());
    let lock = hold_write_lock(directory.path());
    thread::scope(|scope| {
        let sweep = scope.spawn(|| store.sweep(&SweepRequest::default()));
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let store: &SqliteStore = &store;
                scope.spawn(move || store.commit(append("a", vec![caller]).into()))
            })
            .collect();
        wait_until("all but the leader are queued", || {
            store.counters().waiting == u64::from(CALLERS)
        });
        drop(lock);
        let swept = sweep.join().unwrap().unwrap();
        assert_eq!((swept.recovered.len(), swept.failed.len()), (2, 1));
        for caller in callers {
            caller.join().unwrap().unwrap();
        }
    });
    // Two there were, and the error boundary of item 2.
    let all: Vec<u64> = (1..=2 + u64::from(CALLERS) + 1).collect();
    assert_eq!(numbers(&store, "a"), all);
    let counters = store.counters();
    assert_eq!((counters.failed, counters.groups), (0, 1));
    assert_eq!(disagreements(&path), [""; 0]);
}

/// A trigger that takes the whole transaction away is no matter of one item.
#[test]
fn a_transaction_that_is_gone_is_said_to_be_gone() {
    let (_directory, path) = leased(&REFUSED.replace("ABORT", "ROLLBACK"));
    let before = lease_rows(&path);
    let store = open_leased(&path, &leased_clock());
    let answer = store.sweep(&SweepRequest::default());
    assert!(
        matches!(answer, Err(StorageError::Internal { .. })),
        "{answer:?}"
    );
    assert_eq!(lease_rows(&path), before);
    let receipt = store.commit(append("a", "three").into()).unwrap();
    assert_eq!(receipt.appended().next().unwrap().sequence.get(), 3);
}
