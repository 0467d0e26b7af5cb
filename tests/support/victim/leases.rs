//! Roles about work items: who claims, who holds, who sweeps.

use std::sync::Arc;
use std::thread;

use agentos_core::limits::LEASE_MAX;
use agentos_core::{
    ClaimRequest, Commit, CompleteWork, Lease, LeaseStorage as _, Storage, WorkItemId, Worker,
    WorkerId,
};
use agentos_recovery::{RecoverySweep, SweepConfig};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{config, pass};

use super::{number, say};

fn request(name: &str) -> ClaimRequest {
    let id = WorkerId::new(name).expect("a good name");
    ClaimRequest::new(Worker::start(id))
}

fn complete(lease: &Lease) -> CompleteWork {
    CompleteWork {
        fence: lease.fence,
        result: Some(b"done".to_vec()),
    }
}

/// Claims and completes one item after another until none is due; says each when
/// it is done.
pub(crate) fn claim(database: &str, gate: &str, name: &str) {
    let store = SqliteStore::open(config(database)).expect("an open store");
    let request = request(name);
    say(format_args!("ready"));
    pass(gate);
    while let Some(lease) = store.claim(&request).expect("a claim").pop() {
        let commit = Commit::under(&lease).part(complete(&lease));
        store.commit(commit).expect("a completion");
        say(format_args!("{} {}", lease.fence.item, lease.fence.token));
    }
}

/// Claims so many items for a day, renews them, completes one, and holds the
/// others until it is killed.
pub(crate) fn hold(database: &str, name: &str, count: &str) {
    let store = SqliteStore::open(config(database)).expect("an open store");
    let mut request = request(name);
    request.items = number(count);
    request.lease = LEASE_MAX;
    let leases = store.claim(&request).expect("a claim");
    for lease in &leases {
        say(format_args!("claimed {}", lease.fence.item));
    }
    let fences: Vec<_> = leases.iter().map(|lease| lease.fence).collect();
    let renewed = store.renew(&fences, LEASE_MAX).expect("a renewal");
    assert!(renewed.iter().all(Result::is_ok), "{renewed:?}");
    say(format_args!("renewed"));
    if let Some(lease) = leases.last() {
        store.commit(complete(lease).into()).expect("a completion");
        let item: WorkItemId = lease.fence.item;
        say(format_args!("completed {item}"));
    }
    loop {
        thread::park();
    }
}

/// Takes away what has run out, so many at a time, and says how it went.
pub(crate) fn sweep(database: &str, rows: &str) {
    let store = SqliteStore::open(config(database)).expect("an open store");
    let storage: Arc<dyn Storage> = Arc::new(store);
    let config = SweepConfig {
        rows_per_batch: number(rows),
        ..SweepConfig::default()
    };
    let swept = RecoverySweep::new(storage, config).scan_and_recover();
    let swept = swept.expect("a scan");
    assert!(swept.is_complete(), "{swept:?}");
    say(format_args!("recovered {}", swept.recovered));
}
