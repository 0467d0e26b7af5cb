//! A worker that takes an item over whose lease has run out, and goes on with it: a
//! checkpoint under its lease, and later, in one commit, a last checkpoint, what
//! follows and the completion.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentos_core::{Commit, Lease, NewWorkItem, Storage, StorageError, TaskId, WorkFilter};
use agentos_core::{Worker, WorkerId};
use agentos_store::sqlite::Config;
use agentos_worker_pool::{LeaseConfig, LeaseManager};
use serde::{Deserialize, Serialize};

use super::holder::HeldLease;
use super::zombie::signed;
use super::{BUSY_TIMEOUT, ack, pass, say};
use crate::broken_store;
use crate::canary::Canary;

/// Longest sleep while it waits for the lease to run out.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The role of a successor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Successor {
    /// The database.
    pub(crate) db: PathBuf,
    /// Its name.
    pub(crate) worker: String,
    /// It works on this task, and on work of this type alone.
    pub(crate) task: String,
    pub(crate) work_type: String,
    /// What it completes the item with.
    pub(crate) result: String,
    /// Files whose locks it waits for: before it claims, and before it completes.
    pub(crate) claims_at: PathBuf,
    pub(crate) completes_at: PathBuf,
    /// How its store is broken.
    pub(crate) canary: Option<Canary>,
}

/// A takeover, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Succession {
    pub(crate) lease: HeldLease,
    /// Since when, by the wall clock, as text.
    pub(crate) since: String,
}

impl Successor {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let storage = broken_store::open(config, self.canary)?;
        let task = TaskId::new(&self.task)?;
        let worker = Worker::start(WorkerId::new(&self.worker)?);
        let leases = LeaseManager::new(Arc::clone(&storage), worker, LeaseConfig::default())?;
        say("ready")?;
        pass(&self.claims_at)?;
        let lease = self.take(storage.as_ref(), &leases)?;
        storage.commit(Commit::under(&lease).part(signed(&task, "after, 1")))?;
        ack(&Succession {
            lease: HeldLease::from(&lease),
            since: lease.acquired_at.to_text(),
        })?;
        pass(&self.completes_at)?;
        storage.commit(last_commit(&leases, &lease, &task, &self.result))?;
        Ok(say("completed")?)
    }

    fn take(&self, storage: &dyn Storage, leases: &LeaseManager) -> Result<Lease, StorageError> {
        let filter = WorkFilter::types([&self.work_type]);
        loop {
            if let Some(lease) = leases.claim(&filter)? {
                return Ok(lease);
            }
            let outlook = storage.outlook(&filter)?;
            let soonest = outlook.claimable.into_iter().chain(outlook.expires).min();
            thread::park_timeout(soonest.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL));
        }
    }
}

/// The end of an item that was taken over.
pub(crate) fn last_commit(
    leases: &LeaseManager,
    lease: &Lease,
    task: &TaskId,
    result: &str,
) -> Commit {
    Commit::under(lease)
        .part(signed(task, "after, 2"))
        .part(NewWorkItem::new("follows").task(task.clone()))
        .part(leases.prepare_complete(lease, Some(result.as_bytes().to_vec())))
}
