//! An end whose commit has an unknown outcome: the pool looks, and neither loses it
//! nor makes it twice.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentos_core::{
    AttemptOutcome, BeginKey, Begun, BootTime, Commit, Cursor, IdempotencyKey, KeyEntry, KeyFence,
    KeyFilter, KeyId, KeyStorage, KeySummary, Limits, NewWorkItem, Page, Receipt, RecordedKey,
    RenewedPermit, Retry, StalePermit, Storage, StorageError, Timestamp, WorkItemId,
    WorkItemStatus,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{Work, as_it_is, new_worker, passes_on, wait_until};
use agentos_worker_pool::{Finish, HandlerError, Job, Parts, PoolBuilder, PoolStats, WorkerPool};

use super::ends;

/// What is done with a commit before its outcome is called unknown.
#[derive(Debug, Clone, Copy)]
enum Doubt {
    Made,
    NotMade,
}

/// The store, of whose commits under a lease the next are in doubt.
struct Doubtful {
    store: Arc<SqliteStore>,
    doubts: Mutex<VecDeque<Doubt>>,
}

impl Storage for Doubtful {
    fn commit(&self, commit: Commit) -> Result<Receipt, StorageError> {
        let doubt = commit
            .fence()
            .and_then(|_| self.doubts.lock().unwrap().pop_front());
        match doubt {
            None => return self.store.commit(commit),
            Some(Doubt::Made) => drop(self.store.commit(commit)?),
            Some(Doubt::NotMade) => {}
        }
        Err(StorageError::CommitUnknown("the disk failed".into()))
    }

    as_it_is! {
        fn limits(&self) -> &Limits;
        fn now(&self) -> Timestamp;
        fn boot_now(&self) -> BootTime;
        fn own_files(&self) -> Vec<PathBuf>;
    }
}

/// Runs one item in a pool on a store with doubts, until its end is counted.
fn run_one(
    doubts: &[Doubt],
    handler: impl Fn(&Job) -> Result<Finish, HandlerError> + Send + Sync + 'static,
) -> (Work, WorkItemId, PoolStats) {
    let work = Work::fresh();
    let storage = Arc::new(Doubtful {
        store: Arc::clone(&work.store),
        doubts: Mutex::new(doubts.iter().copied().collect()),
    });
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let builder: PoolBuilder = WorkerPool::builder(storage, new_worker("w"));
    let pool = builder.handler("page", handler).start().unwrap();
    wait_until("an end", || {
        let stats = pool.stats();
        0 < stats.finished() + stats.released + stats.lost + stats.unreported
    });
    (work, id, pool.shutdown().stats)
}

#[test]
fn an_end_in_doubt_is_recorded_once() {
    for doubts in [
        &[][..],
        &[Doubt::Made],
        &[Doubt::NotMade],
        &[Doubt::NotMade, Doubt::Made],
    ] {
        let (work, id, stats) = run_one(doubts, |_| {
            let next = Parts::new().part(NewWorkItem::new("next"));
            Ok(Finish::DoneWith(next, None))
        });
        assert_eq!((stats.claimed, stats.succeeded), (1, 1), "{doubts:?}");
        assert_eq!(stats.report_errors, doubts.len() as u64);
        assert_eq!(ends(&work, id), [(AttemptOutcome::Succeeded, None)]);
        let pending = work.queue.count().unwrap()[&WorkItemStatus::Pending];
        assert_eq!(pending, 1, "{doubts:?}");

        let (work, id, stats) = run_one(doubts, |_| Err(HandlerError::permanent("gone")));
        assert_eq!((stats.claimed, stats.failed), (1, 1), "{doubts:?}");
        let failed = (AttemptOutcome::Failed, Some("gone".to_owned()));
        assert_eq!(ends(&work, id), [failed]);
    }
}

/// The handler ends its item itself, is told that the outcome is unknown, and gives
/// the error on.
#[test]
fn an_end_of_the_handlers_own_that_is_in_doubt_is_looked_for() {
    let complete = |job: &Job| {
        let end = job.prepare_complete(Some(b"mine".to_vec()));
        job.commit(Parts::new().part(end))?;
        Ok(Finish::Committed)
    };
    let (work, id, stats) = run_one(&[Doubt::Made], complete);
    assert_eq!((stats.succeeded, stats.failed, stats.lost), (1, 0, 0));
    assert_eq!(work.item(id).result.unwrap(), b"mine");

    let (work, id, stats) = run_one(&[Doubt::NotMade], move |job| {
        complete(job).map_err(|error: HandlerError| error.retry(Retry::Never))
    });
    assert_eq!((stats.succeeded, stats.failed, stats.lost), (0, 1, 0));
    let said = "commit outcome unknown: the disk failed".to_owned();
    assert_eq!(ends(&work, id), [(AttemptOutcome::Failed, Some(said))]);

    // One that believes in its commit says so; then the item is tried again.
    let (work, id, stats) = run_one(&[Doubt::NotMade], move |job| {
        let _ = complete(job);
        Ok(Finish::Committed)
    });
    assert!(1 <= stats.released);
    assert_eq!((stats.failed, stats.lost), (0, 0));
    assert_eq!(ends(&work, id)[0].0, AttemptOutcome::Released);
}

impl KeyStorage for Doubtful {
    as_it_is! {
        fn begin_key(&self, begin: &BeginKey) -> Result<Begun, StorageError>;
        fn renew_keys(&self, fences: &[KeyFence], lease: Duration)
            -> Result<Vec<Result<RenewedPermit, StalePermit>>, StorageError>;
        fn find_key(&self, key: &IdempotencyKey) -> Result<Option<KeyEntry>, StorageError>;
        fn find_recorded(&self, key: &IdempotencyKey)
            -> Result<Option<RecordedKey>, StorageError>;
        fn newest_key(&self) -> Result<Option<KeyId>, StorageError>;
        fn keys(&self, filter: &KeyFilter, after: Option<Cursor>, rows: u32)
            -> Result<Page<KeySummary>, StorageError>;
        fn keys_in_doubt(&self, after: Option<Cursor>, rows: u32)
            -> Result<Page<KeySummary>, StorageError>;
    }
}

passes_on!(Doubtful);
