//! A process that takes lost leases away, twice, and then finishes all that can be
//! claimed: what a program does after its workers have died.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentos_core::limits::CLAIM_ITEMS_MAX;
use agentos_core::{RetryRule, WorkFilter, Worker, WorkerId};
use agentos_recovery::{RecoverySweep, SweepConfig, SweepStatistics};
use agentos_store::sqlite::Config;
use agentos_worker_pool::{LeaseConfig, LeaseManager};
use serde::{Deserialize, Serialize};

use super::holder::HeldLease;
use super::probe::now_us;
use super::{BUSY_TIMEOUT, ack, say};
use crate::broken_store;
use crate::canary::Canary;

/// The role of a recoverer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Recoverer {
    /// The database.
    pub(crate) db: PathBuf,
    /// Its name.
    pub(crate) worker: String,
    /// When it begins, in microseconds of the boot-time clock.
    pub(crate) begin_us: i64,
    /// Leases that one transaction takes away, at most.
    pub(crate) rows_per_batch: u32,
    /// How long it claims what it finishes, in milliseconds.
    pub(crate) lease_ms: u64,
    /// How its store is broken.
    pub(crate) canary: Option<Canary>,
}

/// What a scan said of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scan {
    pub(crate) expired_found: u64,
    pub(crate) recovered: u64,
    pub(crate) requeued: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) failed: u64,
    pub(crate) errors: u64,
    pub(crate) duration_ms: f64,
}

impl From<SweepStatistics> for Scan {
    fn from(statistics: SweepStatistics) -> Scan {
        Scan {
            expired_found: statistics.expired_found,
            recovered: statistics.recovered,
            requeued: statistics.requeued,
            dead_lettered: statistics.dead_lettered,
            failed: statistics.failed,
            errors: statistics.errors,
            duration_ms: statistics.scan_duration_ms,
        }
    }
}

impl Recoverer {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let storage = broken_store::open(config, self.canary)?;
        let config = SweepConfig {
            rows_per_batch: self.rows_per_batch,
            // What was lost more than once is to be done at once as well.
            after_loss: RetryRule::AT_ONCE,
        };
        let sweep = RecoverySweep::new(Arc::clone(&storage), config);
        wait_until(self.begin_us);
        for _ in 0..2 {
            ack(&Scan::from(sweep.scan_and_recover()?))?;
        }
        say("swept")?;
        let config = LeaseConfig {
            lease: Duration::from_millis(self.lease_ms),
            after_loss: RetryRule::AT_ONCE,
        };
        let worker = Worker::start(WorkerId::new(&self.worker)?);
        let leases = LeaseManager::new(storage, worker, config)?;
        loop {
            let claimed = leases.claim_up_to(&WorkFilter::any(), CLAIM_ITEMS_MAX)?;
            if claimed.is_empty() {
                return Ok(());
            }
            for lease in &claimed {
                leases.complete(lease, Some(lease.payload.clone()))?;
                ack(&HeldLease::from(lease))?;
            }
        }
    }
}

/// Waits until a moment of the boot-time clock.
fn wait_until(moment_us: i64) {
    while let Ok(left @ 1..) = u64::try_from(moment_us - now_us()) {
        thread::park_timeout(Duration::from_micros(left));
    }
}
