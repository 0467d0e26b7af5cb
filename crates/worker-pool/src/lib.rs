//! Work of AgentOS Recovery: the queue, leases, heartbeats, and a pool of threads
//! that runs handlers.
//!
//! Work is enqueued in a [`WorkQueue`]. A [`WorkerPool`] claims it under leases and
//! runs handlers; what a pool is made of can be used alone: a [`LeaseManager`] claims
//! and ends leases, a [`Heartbeat`] renews them. A lease carries a fencing token,
//! which every write under it is checked against: who lost its lease can change
//! nothing any more. This crate knows the port of `agentos-core`, never an engine.
//!
//! ```
//! use std::sync::Arc;
//! use agentos_core::{NewWorkItem, Storage, Worker, WorkerId};
//! use agentos_worker_pool::{Finish, Parts, StartError, WorkQueue, WorkerPool};
//!
//! fn serve(storage: Arc<dyn Storage>) -> Result<WorkerPool, StartError> {
//!     let queue = WorkQueue::new(Arc::clone(&storage));
//!     queue.enqueue(NewWorkItem::new("page").payload("https://example.org").priority(5))?;
//!     let worker = Worker::start(WorkerId::new("host-1")?);
//!     WorkerPool::builder(storage, worker)
//!         .threads(8)
//!         .handler("page", |job| {
//!             let url = std::str::from_utf8(job.payload())?;
//!             if job.cancellation().is_cancelled() {
//!                 return Ok(Finish::Release);
//!             }
//!             // What follows and the completion are one commit, under the lease.
//!             let index = NewWorkItem::new("index").payload(url);
//!             Ok(Finish::DoneWith(Parts::new().part(index), None))
//!         })
//!         .handler("index", |job| Ok(Finish::Done(Some(job.payload().to_vec()))))
//!         .start()
//! }
//! ```
//!
//! The same by hand, without threads:
//!
//! ```
//! use std::sync::Arc;
//! use agentos_core::{Storage, StorageError, WorkFilter, Worker, WorkerId};
//! use agentos_worker_pool::{LeaseConfig, LeaseManager};
//!
//! fn by_hand(storage: Arc<dyn Storage>) -> Result<(), StorageError> {
//!     let worker = Worker::start(WorkerId::new("host-1")?);
//!     let leases = LeaseManager::new(storage, worker, LeaseConfig::default())?;
//!     if let Some(lease) = leases.claim(&WorkFilter::types(["page"]))? {
//!         leases.complete(&lease, Some(b"200 OK".to_vec()))?;
//!     }
//!     Ok(())
//! }
//! ```

mod cancellation;
mod dispatcher;
mod handler;
mod heartbeat;
mod leases;
pub mod limits;
mod pause;
mod pool;
mod queue;
mod reason;
mod report;
mod stats;
mod worker;

use agentos_core::StorageError;

pub use cancellation::{CancelCause, Cancellation, Loss};
pub use handler::{Finish, HandlerError, Job, Parts};
pub use heartbeat::{Heartbeat, HeartbeatStats, Held, StartError};
pub use leases::{LeaseConfig, LeaseManager};
pub use pool::{PoolBuilder, ShutdownReport, WorkerPool};
pub use queue::{DeadLetter, Enqueued, WorkQueue};
pub use stats::PoolStats;

/// The engine answered what it never should: a defect.
fn unexpected(context: &str, answer: &impl std::fmt::Debug) -> StorageError {
    StorageError::Internal {
        context: context.into(),
        cause: format!("the engine answered {answer:?}").into(),
    }
}
