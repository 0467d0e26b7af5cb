//! Workers on a disk that others slow down: a pool whose handlers take longer than a lease,
//! while a thread of the same process commits without an end; and a caller with little time.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use agentos_core::{
    AuditLine, Deadline, Stopwatch, Storage, StorageError, TaskId, UpkeepStorage, WorkItemStatus,
    Worker, WorkerId,
};
use agentos_store::sqlite::{Config, SqliteStore};
use agentos_worker_pool::{Finish, HandlerError, Job, WorkerPool};
use serde::{Deserialize, Serialize};

use super::probe::Probe;
use super::refusal::kind;
use super::{BUSY_TIMEOUT, ack, pass, say};
use crate::broken_store;
use crate::canary::Canary;

/// The work, and the task of everything.
pub(crate) const SLOW_WORK: &str = "slow";
pub(crate) const SLOW_TASK: &str = "slow";
/// How often a worker looks whether anything is left.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The role of a worker whose handlers outlast a lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sluggish {
    /// The database.
    pub(crate) db: PathBuf,
    /// Its name.
    pub(crate) worker: String,
    pub(crate) lease_ms: u64,
    /// How long a handler takes.
    pub(crate) work_ms: u64,
    /// A line for each beginning of a handler.
    pub(crate) world: PathBuf,
    /// Where its probe of the machine writes.
    pub(crate) probe: PathBuf,
    /// A file whose lock it waits for before it begins.
    pub(crate) gate: PathBuf,
    /// How it is broken, or its store.
    pub(crate) canary: Option<Canary>,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Worked {
    /// Items that it has done.
    pub(crate) succeeded: u64,
    /// Commits of its other thread.
    pub(crate) noise: u64,
    /// The longest time for which the machine stood still, in microseconds.
    pub(crate) longest_stall_us: i64,
}

impl Sluggish {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let storage = broken_store::open(config, self.canary)?;
        say("ready")?;
        pass(&self.gate)?;
        let probe = Probe::start(&self.probe)?;
        let worker = Worker::start(WorkerId::new(&self.worker)?);
        let (world, work) = (self.world.clone(), Duration::from_millis(self.work_ms));
        let pool = WorkerPool::builder(Arc::clone(&storage), worker)
            .threads(2)
            .lease(Duration::from_millis(self.lease_ms))
            .handler(SLOW_WORK, move |job| handle(job, &world, work))
            .start()?;
        let over = AtomicBool::new(false);
        let noise = thread::scope(|scope| {
            let noise = scope.spawn(|| make_noise(&*storage, &over));
            let waited = wait_until_done(&*storage);
            over.store(true, Ordering::Relaxed);
            let noise = noise.join().map_err(|_| "the other thread panicked")??;
            waited.map(|()| noise)
        })?;
        let report = pool.shutdown();
        let stalls = probe.stalls()?;
        Ok(ack(&Worked {
            succeeded: report.stats.succeeded,
            noise,
            longest_stall_us: stalls.iter().map(|(from, to)| to - from).max().unwrap_or(0),
        })?)
    }
}

/// Says in the world that it begins, and takes its time.
fn handle(job: &Job, world: &PathBuf, work: Duration) -> Result<Finish, HandlerError> {
    let mut world = OpenOptions::new().create(true).append(true).open(world)?;
    let line = format!("{} {}\n", job.id(), job.lease().fence.token);
    world.write_all(line.as_bytes())?;
    match job.cancellation().wait(Deadline::after(work)) {
        true => Err(HandlerError::new("its lease was lost")),
        false => Ok(Finish::Done(None)),
    }
}

fn wait_until_done(storage: &dyn Storage) -> Result<(), Box<dyn Error>> {
    let left = [WorkItemStatus::Pending, WorkItemStatus::InProgress];
    loop {
        let counts = storage.count_work_items()?;
        if left.iter().all(|status| counts.get(status) == Some(&0)) {
            return Ok(());
        }
        thread::park_timeout(LOOK_INTERVAL);
    }
}

/// Commits one line after the other, so that the write lock is always wanted.
fn make_noise(storage: &dyn Storage, over: &AtomicBool) -> Result<u64, StorageError> {
    let mut commits = 0;
    while !over.load(Ordering::Relaxed) {
        storage.commit(AuditLine::new(TaskId::new(SLOW_TASK)?, "noise").into())?;
        commits += 1;
    }
    Ok(commits)
}

/// The role of one who keeps the disk and the write lock busy until it is killed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Noisy {
    /// The database.
    pub(crate) db: PathBuf,
    /// A file whose lock it waits for before it begins.
    pub(crate) gate: PathBuf,
}

impl Noisy {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let store = SqliteStore::open(Config::at(&self.db).busy_timeout(BUSY_TIMEOUT))?;
        say("ready")?;
        pass(&self.gate)?;
        loop {
            store.commit(AuditLine::new(TaskId::new(SLOW_TASK)?, "noise").into())?;
            // Several syncs under one lock.
            store.shorten_log()?;
        }
    }
}

/// The role of a caller with little time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Impatient {
    /// The database.
    pub(crate) db: PathBuf,
    /// How long it says that it waits, in milliseconds.
    pub(crate) waits_ms: u64,
    pub(crate) calls: u64,
    /// Where its probe of the machine writes.
    pub(crate) probe: PathBuf,
    /// A file whose lock it waits for before it begins.
    pub(crate) gate: PathBuf,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// One of its calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Called {
    /// The type of the refusal; `None`: it was done.
    pub(crate) refused: Option<String>,
    pub(crate) took_us: i64,
    /// For how long the machine stood still meanwhile, in microseconds.
    pub(crate) stalled_us: i64,
}

impl Impatient {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let waits = match self.canary {
            Some(Canary::WaitLonger) => self.waits_ms * 20,
            _ => self.waits_ms,
        };
        let config = Config::at(&self.db).busy_timeout(Duration::from_millis(waits));
        let store = SqliteStore::open(config)?;
        say("ready")?;
        pass(&self.gate)?;
        let probe = Probe::start(&self.probe)?;
        let stalled = || -> Result<i64, Box<dyn Error>> {
            Ok(probe.stalls()?.iter().map(|(from, to)| to - from).sum())
        };
        for _ in 0..self.calls {
            let before = stalled()?;
            let watch = Stopwatch::start();
            let line = AuditLine::new(TaskId::new(SLOW_TASK)?, "in a hurry");
            let answer = store.commit(line.into());
            let took_us = i64::try_from(watch.elapsed().as_micros())?;
            ack(&Called {
                refused: answer.err().map(|error| kind(&error).to_owned()),
                took_us,
                stalled_us: stalled()? - before,
            })?;
        }
        Ok(say("done")?)
    }
}
