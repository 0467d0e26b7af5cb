//! The gate on a real store.

mod answers;
mod doubt;
mod late;
mod outcomes;
mod permits;
mod together;
mod unknown;

use std::sync::Arc;
use std::time::Duration;

use agentos_core::{
    BeginKey, Digest, IdempotencyKey, KeyEntry, ManualClock, NewOutcome, PermitHolder, Stale,
    StalePermit, StorageError, Worker,
};
use agentos_idempotency::{
    Begin, GateConfig, HeldPermit, IdempotencyError, IdempotencyStore, Request,
};
use agentos_tests::{Work, manual_clock, new_worker};

/// A permit that is not lost because the machine is slow for a moment.
const LEASE: Duration = Duration::from_secs(60);

/// A store whose clock stands until it is moved.
fn clocked() -> (Work, Arc<ManualClock>) {
    let clock = manual_clock();
    let work = Work::configured(|config| config.clock(Arc::clone(&clock)));
    (work, clock)
}

fn gate_of(work: &Work, owner: Worker) -> IdempotencyStore {
    let config = GateConfig::new(owner).permit_lease(LEASE);
    IdempotencyStore::new(work.storage(), config).unwrap()
}

fn gate(work: &Work, owner: &str) -> IdempotencyStore {
    gate_of(work, new_worker(owner))
}

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::new(name).unwrap()
}

/// Asks for a key that stands for its name.
fn request(name: &str) -> Request {
    Request::new(key(name), Digest::of(name.as_bytes()))
}

fn execute(gate: &IdempotencyStore, request: &Request) -> HeldPermit {
    permitted(gate.begin(request).unwrap())
}

fn permitted(begin: Begin) -> HeldPermit {
    match begin {
        Begin::Execute(held) => held,
        other => panic!("{other:?}"),
    }
}

fn replayed(begin: Begin) -> KeyEntry {
    match begin {
        Begin::Replay(entry) => *entry,
        other => panic!("{other:?}"),
    }
}

/// What is replayed under a key.
fn replay(gate: &IdempotencyStore, request: &Request) -> Vec<u8> {
    let entry = replayed(gate.begin(request).unwrap());
    entry.outcome.expect("an outcome")
}

fn in_flight(begin: Begin) -> PermitHolder {
    match begin {
        Begin::InFlight(holder) => holder,
        other => panic!("{other:?}"),
    }
}

fn in_doubt(begin: Begin) -> PermitHolder {
    match begin {
        Begin::InDoubt(holder) => holder,
        other => panic!("{other:?}"),
    }
}

/// Executes a key whose outcome is `bytes`.
fn fill(gate: &IdempotencyStore, request: &Request, bytes: &str) {
    let held = execute(gate, request);
    gate.finish(held, NewOutcome::success(bytes)).unwrap();
}

/// The error of a permit that is over.
fn stale_permit(error: IdempotencyError) -> StalePermit {
    match error {
        IdempotencyError::Storage(StorageError::StaleLease(Stale::Key(stale))) => *stale,
        other => panic!("{other:?}"),
    }
}

/// Begins a key in the store, as a process did that is gone now.
fn begun_by(work: &Work, owner: &Worker, request: &Request) {
    let begin = BeginKey {
        lease: LEASE,
        ..BeginKey::new(request.key.clone(), request.digest, owner.clone())
    };
    let storage = work.storage();
    let begun = storage.begin_key(&begin).unwrap();
    assert!(
        matches!(begun, agentos_core::Begun::Execute(_)),
        "{begun:?}"
    );
}
