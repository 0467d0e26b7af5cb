//! A worker that waits for an item that another one holds, takes it when its lease
//! has run out, and completes it: in each of the ways in which a program can.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use agentos_core::{Lease, Storage, WorkFilter, WorkListener, Worker, WorkerId};
use agentos_recovery::{RecoverySweep, SweepConfig, Sweeper};
use agentos_store::sqlite::Config;
use agentos_worker_pool::{Finish, LeaseConfig, LeaseManager, WorkerPool};
use serde::{Deserialize, Serialize};

use super::holder::HeldLease;
use super::probe::{Probe, now_us};
use super::{BUSY_TIMEOUT, ack, pass, say};
use crate::broken_store;
use crate::canary::Canary;

/// For what comes within milliseconds: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest sleep of one that claims by itself.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The role of a taker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Taker {
    /// The database.
    pub(crate) db: PathBuf,
    /// Its name.
    pub(crate) worker: String,
    /// It takes work of this type alone.
    pub(crate) work_type: String,
    /// How it gets at the item.
    pub(crate) way: Way,
    /// A file whose lock it waits for before it looks for work.
    pub(crate) gate: PathBuf,
    /// Where its probe of the machine writes.
    pub(crate) probe: PathBuf,
    /// How its store is broken.
    pub(crate) canary: Option<Canary>,
}

/// How a program gets at an item whose lease has run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// A sweeper takes the lease away, and a claim follows.
    Sweeper,
    /// It claims, at once and whenever the store's outlook says so.
    Claims,
    /// A pool of threads does.
    Pool,
}

/// A takeover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// What it was given.
    pub(crate) lease: HeldLease,
    /// Since when it looked for work, and when it had the item, in microseconds of
    /// the boot-time clock.
    pub(crate) watched_us: i64,
    pub(crate) taken_us: i64,
    /// From when to when the machine stood still.
    pub(crate) stalls: Vec<(i64, i64)>,
}

/// What it had to say at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Leases that its sweeper found lost, and took away; `None` without one.
    pub(crate) swept: Option<(u64, u64)>,
    /// Leases that a scan found lost after everything.
    pub(crate) found_again: u64,
}

impl Taker {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let storage = broken_store::open(config, self.canary)?;
        let worker = Worker::start(WorkerId::new(&self.worker)?);
        let config = LeaseConfig::default();
        let leases = LeaseManager::new(Arc::clone(&storage), worker, config)?;
        say("ready")?;
        pass(&self.gate)?;
        let scene = Scene {
            storage: Arc::clone(&storage),
            leases,
            filter: WorkFilter::types([&self.work_type]),
            probe: Probe::start(&self.probe)?,
            watched_us: now_us(),
        };
        let swept = match self.way {
            Way::Sweeper => Some(scene.with_sweeper()?),
            Way::Claims => {
                scene.with_claims()?;
                None
            }
            Way::Pool => {
                scene.with_pool(&self.work_type)?;
                None
            }
        };
        let again = RecoverySweep::new(storage, SweepConfig::default()).scan_and_recover()?;
        Ok(ack(&Done {
            swept,
            found_again: again.expired_found,
        })?)
    }
}

/// What every way needs.
struct Scene {
    storage: Arc<dyn Storage>,
    leases: LeaseManager,
    filter: WorkFilter,
    probe: Probe,
    watched_us: i64,
}

impl Scene {
    fn with_sweeper(&self) -> Result<(u64, u64), Box<dyn Error>> {
        let (word, words) = sync_channel(1);
        let listener: Arc<dyn WorkListener> = Arc::new(Words(word));
        self.storage.listen(Arc::downgrade(&listener));
        let sweeper = Sweeper::start(Arc::clone(&self.storage), SweepConfig::default())?;
        words.recv_timeout(PATIENCE)?;
        let lease = self
            .leases
            .claim(&self.filter)?
            .ok_or("what was swept cannot be claimed")?;
        self.taken(&lease, now_us())?;
        self.complete(&lease)?;
        let totals = sweeper.stop().totals;
        Ok((totals.expired_found, totals.recovered))
    }

    fn with_claims(&self) -> Result<(), Box<dyn Error>> {
        loop {
            // The first claim comes before the lease runs out.
            if let Some(lease) = self.leases.claim(&self.filter)? {
                self.taken(&lease, now_us())?;
                return self.complete(&lease);
            }
            let outlook = self.storage.outlook(&self.filter)?;
            let soonest = outlook.claimable.into_iter().chain(outlook.expires).min();
            thread::park_timeout(soonest.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL));
        }
    }

    fn with_pool(&self, work_type: &str) -> Result<(), Box<dyn Error>> {
        let (word, words) = sync_channel::<(Lease, i64)>(1);
        let storage = Arc::clone(&self.storage);
        let worker = self.leases.worker().clone();
        let pool = WorkerPool::builder(storage, worker)
            .threads(2)
            .handler(work_type, move |job| {
                let taken_us = now_us();
                word.send((job.lease().clone(), taken_us))?;
                Ok(Finish::Done(Some(job.payload().to_vec())))
            })
            .start()?;
        let (lease, taken_us) = words.recv_timeout(PATIENCE)?;
        self.taken(&lease, taken_us)?;
        let report = pool.shutdown();
        if report.stats.succeeded == 1 {
            Ok(())
        } else {
            Err(format!("the pool ended with {report:?}").into())
        }
    }

    fn taken(&self, lease: &Lease, taken_us: i64) -> Result<(), Box<dyn Error>> {
        Ok(ack(&Taken {
            lease: HeldLease::from(lease),
            watched_us: self.watched_us,
            taken_us,
            stalls: self.probe.stalls()?,
        })?)
    }

    fn complete(&self, lease: &Lease) -> Result<(), Box<dyn Error>> {
        Ok(self.leases.complete(lease, Some(lease.payload.clone()))?)
    }
}

/// Hears of work.
struct Words(SyncSender<()>);

impl WorkListener for Words {
    fn work_arrived(&self) {
        // One word that is not heard yet serves all.
        let _ = self.0.try_send(());
    }
}
