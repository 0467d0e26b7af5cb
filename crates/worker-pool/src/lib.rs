//! Work of AgentOS Recovery: the queue, leases, heartbeats, and a pool of threads
//! that runs handlers.
//!
//! Work is enqueued in a [`WorkQueue`] and claimed under leases by a
//! [`LeaseManager`]. A lease carries a fencing token, which every write under it is
//! checked against: who lost its lease can change nothing any more. This crate knows
//! the port of `agentos-core`, never an engine.
//!
//! ```
//! use std::sync::Arc;
//! use agentos_core::{NewWorkItem, Storage, StorageError, WorkFilter, Worker, WorkerId};
//! use agentos_worker_pool::{LeaseConfig, LeaseManager, WorkQueue};
//!
//! fn by_hand(storage: Arc<dyn Storage>) -> Result<(), StorageError> {
//!     let queue = WorkQueue::new(Arc::clone(&storage));
//!     queue.enqueue(NewWorkItem::new("page").payload("https://example.org").priority(5))?;
//!     let worker = Worker::start(WorkerId::new("host-1")?);
//!     let leases = LeaseManager::new(storage, worker, LeaseConfig::default())?;
//!     if let Some(lease) = leases.claim(&WorkFilter::types(["page"]))? {
//!         leases.complete(&lease, Some(b"200 OK".to_vec()))?;
//!     }
//!     Ok(())
//! }
//! ```

mod leases;
mod queue;
mod reason;

use agentos_core::StorageError;

pub use leases::{LeaseConfig, LeaseManager};
pub use queue::{DeadLetter, Enqueued, WorkQueue};

/// The engine answered what it never should: a defect.
fn unexpected(context: &str, answer: &impl std::fmt::Debug) -> StorageError {
    StorageError::Internal {
        context: context.into(),
        cause: format!("the engine answered {answer:?}").into(),
    }
}
