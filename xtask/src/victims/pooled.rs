//! A process that works with a pool of threads until nothing is left to do. One
//! kind of payload is poison: its handler aborts the process, or fails, each time.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use agentos_core::{LeaseStorage, Retry, RetryRule, WorkItemStatus, Worker, WorkerId};
use agentos_store::sqlite::Config;
use agentos_worker_pool::{Finish, HandlerError, Job, Parts, WorkerPool};
use serde::{Deserialize, Serialize};

use super::holder::HeldLease;
use super::{BUSY_TIMEOUT, ack, say};
use crate::broken_store;
use crate::canary::Canary;

/// The payload that is too much for whoever works on it.
pub(crate) const POISON: &[u8] = b"poison";
/// How often it looks whether anything is left to do.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Until poison that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// The role of a process with a pool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pooled {
    /// The database.
    pub(crate) db: PathBuf,
    /// Its name.
    pub(crate) worker: String,
    /// It does work of this type.
    pub(crate) work_type: String,
    /// For how long it claims, in milliseconds.
    pub(crate) lease_ms: u64,
    /// First and longest pause after a further loss, in milliseconds.
    pub(crate) pause_ms: (u64, u64),
    pub(crate) threads: usize,
    /// Whether poison aborts the process; else its handler fails.
    pub(crate) aborts: bool,
    /// How it is broken, or its store.
    pub(crate) canary: Option<Canary>,
}

/// What the work on a payload comes to.
pub(crate) fn result_of(payload: &[u8]) -> Vec<u8> {
    payload.iter().rev().copied().collect()
}

impl Pooled {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let storage = broken_store::open(config, self.canary)?;
        let worker = Worker::start(WorkerId::new(&self.worker)?);
        let (canary, aborts) = (self.canary, self.aborts);
        let (first, most) = self.pause_ms;
        let done = AtomicU64::new(0);
        let pool = WorkerPool::builder(Arc::clone(&storage), worker)
            .threads(self.threads)
            .lease(Duration::from_millis(self.lease_ms))
            .after_loss(RetryRule {
                first: Duration::from_millis(first),
                factor: 2,
                most: Duration::from_millis(most),
            })
            .handler(&self.work_type, move |job| work(job, aborts, canary, &done))
            .start()?;
        say("working")?;
        while is_left(storage.as_ref())? {
            thread::park_timeout(LOOK_INTERVAL);
        }
        let report = pool.shutdown();
        Ok(say(&format!("finished {}", report.stats.succeeded))?)
    }
}

/// Whether anything is to be done, here or elsewhere.
fn is_left(storage: &(impl LeaseStorage + ?Sized)) -> Result<bool, Box<dyn Error>> {
    let counts = storage.count_work_items()?;
    let left = [WorkItemStatus::Pending, WorkItemStatus::InProgress];
    Ok(left.iter().any(|status| counts.get(status) != Some(&0)))
}

fn work(
    job: &Job,
    aborts: bool,
    canary: Option<Canary>,
    done: &AtomicU64,
) -> Result<Finish, HandlerError> {
    let HeldLease { claim, .. } = HeldLease::from(job.lease());
    if job.payload() == POISON {
        say(&format!("poison {}", serde_json::to_string(&claim)?))?;
        if aborts {
            std::process::abort();
        }
        return Err(HandlerError::new("it is poison").retry(Retry::After(RETRY_PAUSE)));
    }
    let third = done.fetch_add(1, Ordering::Relaxed) % 3 == 2;
    if third && canary == Some(Canary::AckWithoutWrite) {
        ack(&claim)?;
        return Ok(Finish::Release);
    }
    let complete = job.prepare_complete(Some(result_of(job.payload())));
    job.commit(Parts::new().part(complete))?;
    ack(&claim)?;
    Ok(Finish::Committed)
}
