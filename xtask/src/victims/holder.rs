//! A worker that claims work, may renew what it holds, and then does nothing more:
//! it exists to die with its leases held.

use std::error::Error;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use agentos_core::{ClaimRequest, Fence, Lease, StorageError, WorkFilter, Worker, WorkerId};
use agentos_store::sqlite::Config;
use serde::{Deserialize, Serialize};

use super::{BUSY_TIMEOUT, ack, pass, say};
use crate::broken_store;
use crate::canary::Canary;
use crate::work::{Claim, Who};

/// The role of a holder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The database.
    pub(crate) db: PathBuf,
    /// Its name.
    pub(crate) worker: String,
    /// It claims work of this type alone.
    pub(crate) work_type: String,
    /// How many items it claims, at once, and for how long in milliseconds.
    pub(crate) items: u32,
    pub(crate) lease_ms: u64,
    /// How often it renews what it holds, and for how long in milliseconds.
    pub(crate) renewals: u32,
    pub(crate) renewed_ms: u64,
    /// A file whose lock it waits for before it renews.
    pub(crate) gate: Option<PathBuf>,
    /// Whether it ends at last and keeps its leases, or waits for its end.
    pub(crate) leaves: bool,
    /// How it is broken, or its store.
    pub(crate) canary: Option<Canary>,
}

/// A lease that was given or renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldLease {
    /// Which.
    pub(crate) claim: Claim,
    /// When it runs out, in microseconds of the boot-time clock.
    pub(crate) deadline_us: i64,
}

impl From<&Lease> for HeldLease {
    fn from(lease: &Lease) -> HeldLease {
        HeldLease {
            claim: Claim {
                item: lease.fence.item.get(),
                token: lease.fence.token.get(),
                who: Who::from(&lease.holder),
            },
            deadline_us: lease.deadline.micros,
        }
    }
}

impl Holder {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let storage = broken_store::open(config, self.canary)?;
        let worker = Worker::start(WorkerId::new(&self.worker)?);
        let leases = storage.claim(&ClaimRequest {
            filter: WorkFilter::types([&self.work_type]),
            lease: Duration::from_millis(self.lease_ms),
            items: self.items,
            ..ClaimRequest::new(worker)
        })?;
        let mut held: Vec<HeldLease> = leases.iter().map(HeldLease::from).collect();
        for one in &held {
            ack(one)?;
        }
        say("holding")?;
        if let Some(gate) = &self.gate {
            pass(gate)?;
        }
        let fences: Vec<Fence> = leases.iter().map(Fence::from).collect();
        let lease = Duration::from_millis(self.renewed_ms);
        for _ in 0..self.renewals {
            if self.canary == Some(Canary::AckBeforeCommit) {
                for one in &mut held {
                    one.deadline_us = storage.boot_now().micros + i64::try_from(lease.as_micros())?;
                    ack(one)?;
                }
            }
            let renewed = storage.renew(&fences, lease)?;
            for (one, answer) in held.iter_mut().zip(renewed) {
                one.deadline_us = answer.map_err(StorageError::from)?.deadline.micros;
            }
            if self.canary != Some(Canary::AckBeforeCommit) {
                for one in &held {
                    ack(one)?;
                }
            }
        }
        say("waiting")?;
        if self.leaves {
            return Ok(());
        }
        loop {
            thread::park();
        }
    }
}
