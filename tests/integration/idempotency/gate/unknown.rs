//! The end of an execution whose commit has an unknown outcome: the gate looks, and takes
//! no other outcome for its own.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentos_core::{
    BeginKey, Begun, BootTime, Commit, Cursor, IdempotencyKey, KeyEntry, KeyFence, KeyFilter,
    KeyId, KeyStorage, KeySummary, Limits, NewOutcome, Page, Receipt, RecordedKey, RenewedPermit,
    Resolution, Stale, StalePermit, Storage, StorageError, Timestamp,
};
use agentos_idempotency::{GateConfig, IdempotencyError, IdempotencyStore};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{Work, as_it_is, new_worker, passes_on};

use super::{LEASE, clocked, execute, gate, replay, request};

/// What happens to a commit before its outcome is called unknown.
enum Doubt {
    Made,
    NotMade,
    /// It is not made, and this is done by somebody else.
    Meanwhile(Box<dyn FnOnce() + Send>),
}

/// The store, of which the next commits are in doubt.
struct Doubtful {
    store: Arc<SqliteStore>,
    doubts: Mutex<VecDeque<Doubt>>,
}

impl Storage for Doubtful {
    fn commit(&self, commit: Commit) -> Result<Receipt, StorageError> {
        let doubt = self.doubts.lock().unwrap().pop_front();
        match doubt {
            None => return self.store.commit(commit),
            Some(Doubt::Made) => drop(self.store.commit(commit)?),
            Some(Doubt::NotMade) => {}
            Some(Doubt::Meanwhile(done)) => done(),
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

fn doubtful(work: &Work, doubts: impl IntoIterator<Item = Doubt>) -> IdempotencyStore {
    let storage = Arc::new(Doubtful {
        store: Arc::clone(&work.store),
        doubts: Mutex::new(doubts.into_iter().collect()),
    });
    let config = GateConfig::new(new_worker("w")).permit_lease(LEASE);
    IdempotencyStore::new(storage, config).unwrap()
}

#[test]
fn an_outcome_of_which_nobody_knows_is_recorded_once() {
    for doubts in [
        vec![Doubt::Made],
        vec![Doubt::NotMade],
        vec![Doubt::NotMade, Doubt::Made],
    ] {
        let (work, _clock) = clocked();
        let gate = doubtful(&work, doubts);
        let held = execute(&gate, &request("a"));
        gate.finish(held, NewOutcome::success("mine")).unwrap();
        assert_eq!(replay(&gate, &request("a")), b"mine");
        assert_eq!(gate.stats().finished, 1);
    }
}

/// Goal: who finds another outcome than his own under his token is not told that his is
/// recorded. Method: his permit runs out, and an operator says what happened while his
/// commit fails.
#[test]
fn what_somebody_else_has_found_out_is_not_taken_for_the_own_outcome() {
    let (work, clock) = clocked();
    let operator = gate(&work, "operator");
    let resolves = move || {
        clock.advance(LEASE);
        let doubt = operator.in_doubt(None, 10).unwrap().items.remove(0);
        let found = Resolution::Happened(NewOutcome::success("found out"));
        operator.resolve(&doubt, found, "the log says so").unwrap();
    };
    let gate = doubtful(&work, [Doubt::Meanwhile(Box::new(resolves))]);
    let held = execute(&gate, &request("a"));
    let error = gate.finish(held, NewOutcome::success("mine")).unwrap_err();
    assert!(
        matches!(
            error,
            IdempotencyError::Storage(StorageError::StaleLease(Stale::Key(_)))
        ),
        "{error:?}"
    );
    assert_eq!(replay(&gate, &request("a")), b"found out");
}
