//! The port: what an engine does for the crates above it.
//!
//! One method is one transaction. What changes goes through
//! [`Storage::commit`], and, where a commit cannot say it (to claim, to renew, to
//! sweep), through a method of its own; all others read. The port takes
//! durations and no deadlines: the engine owns the clock.

mod checkpoints;
mod keys;
mod leases;
mod retention;
mod rows;
mod tasks;
mod upkeep;

use std::path::PathBuf;

pub use checkpoints::CheckpointStorage;
pub use keys::{KeyFilter, KeyStorage, RenewedPermit, check_key_renewal};
pub use leases::{
    ClaimRequest, LeaseStorage, Lost, Outlook, RecoveredItem, Renewed, SweepRequest, Swept,
    WorkFilter, WorkListener, check_lease, check_renewal,
};
pub use retention::{CheckpointSpan, Prunable, RetentionStorage};
pub use rows::RowStorage;
pub use tasks::TaskStorage;
pub use upkeep::{LogShortened, Reclaimed, UpkeepStorage};

use crate::error::StorageError;
use crate::limits::Limits;
use crate::parts::{Commit, PartOutcome, Receipt};
use crate::records::task::{NewTask, Task};
use crate::time::{BootTime, Timestamp};

/// An engine that keeps tasks, checkpoints, work items and idempotency keys.
pub trait Storage:
    TaskStorage
    + CheckpointStorage
    + LeaseStorage
    + KeyStorage
    + RowStorage
    + RetentionStorage
    + UpkeepStorage
    + Send
    + Sync
{
    /// Applies all parts of a commit, or none of them.
    ///
    /// When it returns `Ok`, the commit is durable as the store was configured.
    ///
    /// # Errors
    ///
    /// [`StorageError::StaleLease`] when the commit's lease, or the lease or permit of
    /// a part, is not held any more. Those of the parts ([`StorageError::NotFound`],
    /// [`StorageError::Conflict`], [`StorageError::IllegalTransition`],
    /// [`StorageError::LimitExceeded`], [`StorageError::Invalid`]);
    /// [`StorageError::Busy`], [`StorageError::DiskFull`],
    /// [`StorageError::LogFull`], [`StorageError::ReadOnly`],
    /// [`StorageError::Closed`]: nothing was written; [`StorageError::CommitUnknown`]: read before retrying.
    fn commit(&self, commit: Commit) -> Result<Receipt, StorageError>;

    /// The bounds of this store.
    fn limits(&self) -> &Limits;

    /// Now, by the store's clock.
    fn now(&self) -> Timestamp;

    /// Now, by the boot-time clock of this machine: for one who measures how long
    /// a lease may still be relied on.
    fn boot_now(&self) -> BootTime;

    /// Files that only the engine may open. Evidence about them is refused:
    /// opening and closing one would drop the engine's locks.
    fn own_files(&self) -> Vec<PathBuf>;

    /// Creates a task, alone in a commit. The same id with the same content
    /// again gives the task that is there.
    ///
    /// # Errors
    ///
    /// [`StorageError::Conflict`] when the id is taken by other content, and
    /// those of [`Storage::commit`].
    fn create_task(&self, task: NewTask) -> Result<Task, StorageError> {
        let receipt = self.commit(task.into())?;
        match receipt.outcomes.into_iter().next() {
            Some(PartOutcome::TaskCreated { task, .. }) => Ok(task),
            other => Err(StorageError::Internal {
                context: "creating a task".into(),
                cause: format!("the engine answered {other:?}").into(),
            }),
        }
    }
}

/// Part of a list, and where the next part begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where to go on; `None` at the end of the list.
    pub next: Option<Cursor>,
}

/// A place in a list. It stays valid while rows are added and removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(i64);

impl Cursor {
    /// Makes a cursor from the engine's key of the last row shown, or from what
    /// [`Cursor::key`] gave.
    pub const fn new(key: i64) -> Cursor {
        Cursor(key)
    }

    /// The engine's key of the last row shown.
    pub const fn key(self) -> i64 {
        self.0
    }
}
