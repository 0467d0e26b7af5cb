//! The adapter for SQLite: one file, any number of threads and processes.
//!
//! The only folder of the library that names `rusqlite`. Writing goes through
//! one connection a store, behind a queue whose leader commits for all that
//! wait; reading goes through a pool and never waits for the writer. Between
//! processes a lock on a side file makes waiting fair.

mod admission;
mod backup;
mod ballast;
mod checkpoints;
mod chores;
mod claims;
mod config;
mod connection;
mod create;
mod doctor;
mod dump;
mod error;
mod file_system;
mod group_commit;
mod inspect;
mod jobs;
mod keys;
mod leases;
mod listeners;
mod locks;
mod log_bound;
mod migrate;
mod open;
mod parts;
mod paths;
mod permits;
mod prune;
mod queue;
mod readers;
mod registry;
mod retention;
mod rows;
mod statements;
mod sweep;
mod tasks;
mod upkeep;
mod work;
mod write_lock;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agentos_core::{BootTime, Commit, Deadline, Limits, Receipt, Storage, StorageError, Timestamp};

pub use self::backup::BackupReport;
pub use self::config::{Config, Durability};
pub use self::doctor::{Check, Condition, Finding, Report};
pub use self::dump::{DumpOptions, DumpReport, dump};
use self::group_commit::{Counters, SqliteWriter};
pub use self::inspect::{FileFacts, Inspection, Integrity, inspect};
use self::jobs::{Done, Job};
use self::listeners::Listeners;
pub use self::locks::{LockFacts, ReaderFacts};
pub use self::migrate::SCHEMA_VERSION;
use self::queue::Queue;
use self::readers::Readers;
use self::registry::Registered;
use crate::sync::Mutex;

/// A store in one SQLite file.
///
/// Share it between threads in an [`Arc`]. Dropping it, or calling
/// [`SqliteStore::close`], finishes every commit that was accepted.
///
/// Do not use a store in a child made by `fork` without `exec`: SQLite's locks
/// and ours belong to the process that opened it.
pub struct SqliteStore {
    path: PathBuf,
    config: Config,
    queue: Queue<SqliteWriter>,
    readers: Arc<Readers>,
    counters: Arc<Counters>,
    listeners: Arc<Listeners>,
    /// `synchronous` as it was read back from the writing connection.
    synchronous: i64,
    /// The file that was opened, whatever has its name now.
    identity: admission::Identity,
    /// Whether it was closed; held while a connection beside the others is open.
    closed: Mutex<bool>,
    /// Dropped last, after the connections are closed.
    _registered: Registered,
}

/// What a store has done since it was opened, and how many wait now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreCounters {
    /// Writes (commits, claims, renewals and sweeps) that were acknowledged.
    pub commits: u64,
    /// Writes that were answered with an error by the writer.
    pub failed: u64,
    /// Transactions that carried them; each is one sync with `Durability::Full`.
    pub groups: u64,
    /// Most commits in one transaction.
    pub largest_group: u64,
    /// Commits that were run again alone, because their group's transaction was
    /// taken down.
    pub run_alone_again: u64,
    /// Lost leases that were taken away: by sweeps, and by claims on their way.
    pub recovered: u64,
    /// How often the connections were opened anew after an I/O error.
    pub reopened: u64,
    /// How often the ballast was given up, since the disk was full.
    pub ballast_given_up: u64,
    /// Commits that wait in the queue now.
    pub waiting: u64,
}

impl SqliteStore {
    /// Opens the database, making it when it is not there, and brings an older
    /// schema forward.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotOurs`] for any other file, an empty one among them;
    /// [`StorageError::NewerSchema`] for one of a newer build: both are left
    /// untouched. [`StorageError::Corrupt`] for a damaged file or a
    /// write-ahead log without its database; [`StorageError::Invalid`] for one
    /// that has a second name (a hard link); [`StorageError::ReadOnly`] when the
    /// file or its directory cannot be written; [`StorageError::UnsafeEngine`] or
    /// [`StorageError::UnsafeFileSystem`] when SQLite, its settings or the place
    /// cannot keep the promises; [`StorageError::DiskFull`], [`StorageError::Io`],
    /// [`StorageError::Busy`].
    ///
    /// What does not stand in the way is a warning: see
    /// [`doctor`](SqliteStore::doctor).
    pub fn open(config: Config) -> Result<SqliteStore, StorageError> {
        open::open(config)
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses new work, finishes what was accepted, and closes all
    /// connections. Later calls get [`StorageError::Closed`].
    pub fn close(&self) {
        self.queue.close();
        *self.closed.lock() = true;
        // The writer closes last: it moves the write-ahead log into the file.
        self.readers.close();
        self.queue.with_writer(SqliteWriter::close);
    }

    /// Has the writer do a job, and waits for its answer as long as is configured.
    pub(crate) fn submit(&self, job: Job) -> Result<Done, StorageError> {
        let deadline = Deadline::after(self.config.busy_timeout);
        self.queue.submit(job, &deadline)
    }

    /// What the store has done, and how many wait.
    pub fn counters(&self) -> StoreCounters {
        let counters = &self.counters;
        StoreCounters {
            commits: counters.commits.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
            groups: counters.groups.load(Ordering::Relaxed),
            largest_group: counters.largest_group.load(Ordering::Relaxed),
            run_alone_again: counters.run_alone_again.load(Ordering::Relaxed),
            recovered: counters.recovered.load(Ordering::Relaxed),
            reopened: counters.reopened.load(Ordering::Relaxed),
            ballast_given_up: counters.ballast_given_up.load(Ordering::Relaxed),
            waiting: self.queue.waiting() as u64,
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Storage for SqliteStore {
    fn commit(&self, commit: Commit) -> Result<Receipt, StorageError> {
        commit.check(&self.config.limits)?;
        let parts = commit.parts().len();
        let Done::Committed(receipt) = self.submit(Job::Commit(commit))? else {
            return Err(StorageError::Internal {
                context: "committing".into(),
                cause: "it was answered as something else".into(),
            });
        };
        assert_eq!(
            receipt.outcomes.len(),
            parts,
            "a receipt answers every part"
        );
        Ok(receipt)
    }

    fn limits(&self) -> &Limits {
        &self.config.limits
    }

    fn now(&self) -> Timestamp {
        self.config.clock.wall()
    }

    fn boot_now(&self) -> BootTime {
        self.config.clock.boot()
    }

    fn own_files(&self) -> Vec<PathBuf> {
        registry::open_files()
    }
}
