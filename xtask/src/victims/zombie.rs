//! A worker that is stopped between two transactions, loses its lease meanwhile,
//! and goes on as if nothing had happened: it tries everything that a holder may do.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentos_core::{
    AppendCheckpoint, AuditLine, CheckpointType, Codec, Commit, CompleteWork, Fence, FencingToken,
    Incarnation, Lease, NewWorkItem, Retry, SetTaskStatus, Snapshot, Stale, StaleLease, Storage,
    StorageError, TaskId, TaskStatus, WorkFilter, WorkItemId, Worker, WorkerId,
};
use agentos_store::sqlite::Config;
use agentos_worker_pool::{LeaseConfig, LeaseManager};
use serde::{Deserialize, Serialize};

use super::holder::HeldLease;
use super::{BUSY_TIMEOUT, ack, pass, say};
use crate::broken_store;
use crate::canary::Canary;
use crate::work::{Claim, Who};

/// The role of a zombie.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Zombie {
    /// The database.
    pub(crate) db: PathBuf,
    /// Its name.
    pub(crate) worker: String,
    /// It works on this task, and on work of this type alone.
    pub(crate) task: String,
    pub(crate) work_type: String,
    /// For how long it claims, in milliseconds.
    pub(crate) lease_ms: u64,
    /// How many checkpoints it appends before it is stopped.
    pub(crate) checkpoints: u32,
    /// Leases that it was given before and has lost since, each with its task; when there
    /// are any, it goes on under each of them, and claims nothing.
    pub(crate) given: Vec<(String, Claim)>,
    /// Files whose locks it waits for: while it waits for the first it is stopped.
    pub(crate) gates: Vec<PathBuf>,
    /// How its store is broken.
    pub(crate) canary: Option<Canary>,
}

/// What was tried under the lost lease, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempted {
    pub(crate) what: String,
    pub(crate) answer: Answered,
}

/// What a store answers to a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answered {
    /// It was done.
    Accepted,
    /// The lease is not held any more.
    Stale {
        /// The lease that was presented.
        item: i64,
        token: i64,
        /// State of the item, and token of its newest claim.
        status: Option<String>,
        newest: Option<i64>,
        /// Who holds it now, and since when.
        holder: Option<(Who, String)>,
    },
    /// Anything else.
    Failed(String),
}

impl<T> From<Result<T, StorageError>> for Answered {
    fn from(result: Result<T, StorageError>) -> Answered {
        match result {
            Ok(_) => Answered::Accepted,
            Err(StorageError::StaleLease(Stale::Work(stale))) => Answered::from(*stale),
            Err(error) => Answered::Failed(format!("{error:?}")),
        }
    }
}

impl From<StaleLease> for Answered {
    fn from(stale: StaleLease) -> Answered {
        Answered::Stale {
            item: stale.fence.item.get(),
            token: stale.fence.token.get(),
            status: stale.status.map(|status| status.as_str().to_owned()),
            newest: stale.newest.map(|token| token.get()),
            holder: stale
                .holder
                .map(|holder| (Who::from(&holder.worker), holder.since.to_text())),
        }
    }
}

/// A checkpoint whose state says who made it.
pub(crate) fn signed(task: &TaskId, who: &str) -> AppendCheckpoint {
    AppendCheckpoint {
        snapshot: Some(Snapshot::new(Codec::Raw, 1, who.as_bytes().to_vec())),
        ..AppendCheckpoint::new(task.clone(), CheckpointType::IterationEnd)
    }
}

impl Zombie {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let storage = broken_store::open(config, self.canary)?;
        let task = TaskId::new(&self.task)?;
        let config = LeaseConfig {
            lease: Duration::from_millis(self.lease_ms),
            ..LeaseConfig::default()
        };
        for (task, claim) in &self.given {
            let task = TaskId::new(task)?;
            let lease = self.lost(&task, claim, storage.as_ref())?;
            let worker = lease.holder.clone();
            let leases = LeaseManager::new(Arc::clone(&storage), worker, config)?;
            told(tries(storage.as_ref(), &leases, &lease, &task))?;
        }
        if !self.given.is_empty() {
            return Ok(());
        }
        let worker = Worker::start(WorkerId::new(&self.worker)?);
        let leases = LeaseManager::new(Arc::clone(&storage), worker, config)?;
        let lease = leases
            .claim(&WorkFilter::types([&self.work_type]))?
            .ok_or("there is nothing to claim")?;
        ack(&HeldLease::from(&lease))?;
        for number in 1..=self.checkpoints {
            let part = signed(&task, &format!("before, {number}"));
            storage.commit(Commit::under(&lease).part(part))?;
        }
        say("between")?;
        for gate in &self.gates {
            pass(gate)?;
            told(tries(storage.as_ref(), &leases, &lease, &task))?;
        }
        Ok(())
    }

    /// A lease of another life, as far as a store asks for it.
    fn lost(
        &self,
        task: &TaskId,
        claim: &Claim,
        storage: &dyn Storage,
    ) -> Result<Lease, Box<dyn Error>> {
        let (now, deadline) = (storage.now(), storage.boot_now());
        Ok(Lease {
            fence: Fence {
                item: WorkItemId::new(claim.item)?,
                token: FencingToken::new(claim.token)?,
            },
            holder: Worker {
                id: WorkerId::new(&claim.who.name)?,
                incarnation: Incarnation::new(&claim.who.incarnation)?,
            },
            work_type: self.work_type.clone(),
            task: Some(task.clone()),
            priority: 0,
            payload: Vec::new(),
            attempt: 1,
            max_attempts: 1,
            checkpoint: None,
            duration: Duration::from_millis(self.lease_ms),
            acquired_at: now,
            expires_at: now,
            deadline,
        })
    }
}

/// Tells of what was tried.
fn told(tries: Vec<(&'static str, Answered)>) -> Result<(), Box<dyn Error>> {
    for (what, answer) in tries {
        let what = what.to_owned();
        ack(&Attempted { what, answer })?;
    }
    Ok(say("tried")?)
}

/// Everything that a holder may do, under a lease that is lost.
fn tries(
    storage: &dyn Storage,
    leases: &LeaseManager,
    lease: &Lease,
    task: &TaskId,
) -> Vec<(&'static str, Answered)> {
    let under = || Commit::under(lease);
    let commit = |commit: Commit| Answered::from(storage.commit(commit));
    let checkpoint = || signed(task, "the zombie's");
    let enqueue = || NewWorkItem::new("haunted").task(task.clone());
    let complete = || CompleteWork {
        fence: lease.fence,
        result: Some(b"the zombie's".to_vec()),
    };
    let audit = AuditLine::new(task.clone(), "haunted");
    let status = SetTaskStatus::new(task.clone(), TaskStatus::Failed);
    let all = under().part(checkpoint()).part(enqueue()).part(complete());
    vec![
        ("heartbeat", leases.renew(&mut lease.clone()).into()),
        ("checkpoint", commit(under().part(checkpoint()))),
        ("enqueue", commit(under().part(enqueue()))),
        ("audit", commit(under().part(audit))),
        ("task status", commit(under().part(status))),
        ("checkpoint, enqueue, complete", commit(all)),
        // Without the commit's own fence: that of the part is there still.
        ("complete, by its part", commit(complete().into())),
        ("release", leases.release(lease, None).into()),
        ("fail", leases.fail(lease, "haunted", Retry::Never).into()),
        ("complete", leases.complete(lease, complete().result).into()),
    ]
}
