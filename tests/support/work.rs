//! A store that is shared by threads, its work, and workers that claim from it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentos_core::{Lease, Storage, WorkFilter, WorkItem, WorkItemId, Worker, WorkerId};
use agentos_store::sqlite::{Config, SqliteStore};
use agentos_worker_pool::{LeaseConfig, LeaseManager, PoolBuilder, WorkQueue, WorkerPool};
use tempfile::TempDir;

use crate::stores::config;

/// A store in a directory of its own, with its queue.
pub struct Work {
    /// The store.
    pub store: Arc<SqliteStore>,
    /// Its work.
    pub queue: WorkQueue,
    // Goes last.
    directory: TempDir,
}

impl Work {
    /// A fresh store.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn fresh() -> Work {
        Work::configured(|config| config)
    }

    /// A fresh store of a configuration.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn configured(change: impl FnOnce(Config) -> Config) -> Work {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = change(config(directory.path().join("agent.db")));
        let store = Arc::new(SqliteStore::open(config).expect("a store"));
        Work {
            queue: WorkQueue::new(Arc::clone(&store) as Arc<dyn Storage>),
            store,
            directory,
        }
    }

    /// The directory of its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The store, as the port knows it.
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.store) as Arc<dyn Storage>
    }

    /// A new start of a worker, that claims for so long.
    ///
    /// # Panics
    ///
    /// When the name or the lease cannot be right.
    pub fn leases(&self, worker: &str, lease: Duration) -> LeaseManager {
        let config = LeaseConfig {
            lease,
            ..LeaseConfig::default()
        };
        LeaseManager::new(self.storage(), new_worker(worker), config).expect("a good lease")
    }

    /// Claims the next item.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn claim(&self, leases: &LeaseManager) -> Lease {
        let claimed = leases.claim(&WorkFilter::any()).expect("a claim");
        claimed.expect("a due item")
    }

    /// A pool of a new start of a worker.
    pub fn pool(&self, worker: &str) -> PoolBuilder {
        WorkerPool::builder(self.storage(), new_worker(worker))
    }

    /// An item that is there.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn item(&self, id: WorkItemId) -> WorkItem {
        self.queue.get(id).expect("a read").expect("an item")
    }
}

/// A new start of a worker.
///
/// # Panics
///
/// When the name cannot be right.
pub fn new_worker(id: &str) -> Worker {
    Worker::start(WorkerId::new(id).expect("a good id"))
}
