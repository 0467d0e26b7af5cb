//! Work items and leases: claims, renewals, sweeps, and reads.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use crate::error::{InvalidInput, LimitExceeded, StorageError};
use crate::ids::{TaskId, WorkItemId, Worker};
use crate::limits::{
    CLAIM_ITEMS_MAX, CLAIM_TYPES_MAX, LEASE_DEFAULT, LEASE_MAX, LEASE_MIN, RENEW_LEASES_MAX,
    SWEEP_ROWS_DEFAULT, SWEEP_ROWS_MAX, check_name, check_size,
};
use crate::records::work_item::{
    Attempt, Fence, Holder, Lease, StaleLease, WorkItem, WorkItemStatus, WorkItemSummary,
};
use crate::retry::{Next, RetryRule};
use crate::storage::{Cursor, Page};
use crate::time::{BootTime, Timestamp};

/// Which work is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkFilter {
    /// Only of these types; all types when empty. At most 64.
    pub types: Vec<String>,
    /// Only of this task.
    pub task: Option<TaskId>,
}

impl WorkFilter {
    /// Work of any type and task.
    pub fn any() -> WorkFilter {
        WorkFilter::default()
    }

    /// Work of these types.
    pub fn types<T: Into<String>>(types: impl IntoIterator<Item = T>) -> WorkFilter {
        WorkFilter {
            types: types.into_iter().map(Into::into).collect(),
            task: None,
        }
    }

    /// Work of this task alone.
    #[must_use]
    pub fn of_task(mut self, task: TaskId) -> WorkFilter {
        self.task = Some(task);
        self
    }

    /// Checks everything that has a bound.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] or [`StorageError::Invalid`].
    pub fn check(&self) -> Result<(), StorageError> {
        check_size("work types of a claim", self.types.len(), CLAIM_TYPES_MAX)?;
        self.types
            .iter()
            .try_for_each(|name| check_name("work type", name))
    }
}

/// A claim of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Who claims.
    pub worker: Worker,
    /// Which work.
    pub filter: WorkFilter,
    /// For how long: 100 ms to 24 h.
    pub lease: Duration,
    /// How many items at most: 1 to 256.
    pub items: u32,
    /// What follows for those whose expired leases are taken away on the way.
    pub after_loss: RetryRule,
}

impl ClaimRequest {
    /// A claim of one item of any type, for 30 s.
    pub fn new(worker: Worker) -> ClaimRequest {
        ClaimRequest {
            worker,
            filter: WorkFilter::any(),
            lease: LEASE_DEFAULT,
            items: 1,
            after_loss: RetryRule::default(),
        }
    }

    /// Checks everything that has a bound.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] or [`StorageError::Invalid`].
    pub fn check(&self) -> Result<(), StorageError> {
        check_lease(self.lease)?;
        if self.items == 0 {
            return Err(InvalidInput::new("claim", "asks for no item").into());
        }
        check_size(
            "items of a claim",
            self.items as usize,
            CLAIM_ITEMS_MAX as usize,
        )?;
        self.after_loss.check()?;
        self.filter.check()
    }
}

/// Refuses a lease that is too short or too long.
///
/// # Errors
///
/// [`StorageError::Invalid`].
pub fn check_lease(lease: Duration) -> Result<(), StorageError> {
    if (LEASE_MIN..=LEASE_MAX).contains(&lease) {
        return Ok(());
    }
    let reason = format!("is not between {LEASE_MIN:?} and {LEASE_MAX:?}");
    Err(InvalidInput::new("lease", reason).into())
}

/// Refuses more leases than one commit renews.
///
/// # Errors
///
/// [`StorageError::LimitExceeded`].
pub fn check_renewal(leases: usize) -> Result<(), StorageError> {
    check_size("leases of a renewal", leases, RENEW_LEASES_MAX)
}

/// A lease that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// Which.
    pub fence: Fence,
    /// When it runs out now, by the wall clock; for people.
    pub expires_at: Timestamp,
    /// When it runs out now, by the store's boot-time clock.
    pub deadline: BootTime,
}

/// Whose leases a sweep takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// Those that have run out.
    Expired,
    /// Those that earlier starts of this worker held, whether they have run out
    /// or not. For a worker that knows that it runs once. Which start is earlier
    /// is told by the order of incarnations, which are generated so that they sort
    /// by time.
    EarlierStarts(Worker),
}

/// One batch of a sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepRequest {
    /// Whose leases.
    pub lost: Lost,
    /// How many at most: 1 to 1000.
    pub rows: u32,
    /// How many to pass over, of those that are found first: items that could not
    /// be recovered in the batches before.
    pub skip: u32,
    /// What follows for them.
    pub after_loss: RetryRule,
}

impl Default for SweepRequest {
    fn default() -> SweepRequest {
        SweepRequest {
            lost: Lost::Expired,
            rows: SWEEP_ROWS_DEFAULT,
            skip: 0,
            after_loss: RetryRule::default(),
        }
    }
}

impl SweepRequest {
    /// Checks everything that has a bound.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] or [`StorageError::Invalid`].
    pub fn check(&self) -> Result<(), StorageError> {
        if self.rows == 0 {
            return Err(InvalidInput::new("sweep", "takes no row").into());
        }
        if SWEEP_ROWS_MAX < self.rows {
            return Err(LimitExceeded {
                name: "rows of a sweep",
                limit: SWEEP_ROWS_MAX.into(),
                value: self.rows.into(),
            }
            .into());
        }
        self.after_loss.check()
    }
}

/// What one batch of a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Leases that it found lost.
    pub found: u32,
    /// Items that it took out of them.
    pub recovered: Vec<RecoveredItem>,
    /// Items that could not be taken out, and why. They are as they were.
    pub failed: Vec<(WorkItemId, StorageError)>,
    /// Whether another batch may find more.
    pub more: bool,
}

/// An item that was taken out of a lost lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredItem {
    /// The lease that was lost.
    pub fence: Fence,
    /// Who held it, since when and until when; `None` when that cannot be read.
    pub holder: Option<Holder>,
    /// The task that it belongs to.
    pub task: Option<TaskId>,
    /// What followed.
    pub next: Next,
}

/// When something will be to do; durations from now. What others do meanwhile may
/// bring it forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outlook {
    /// Until an item can be claimed; zero when one can be now, `None` when none is
    /// pending.
    pub claimable: Option<Duration>,
    /// Until a lease runs out; zero when one has, `None` when none is held.
    pub expires: Option<Duration>,
}

/// Is told when work may be claimable that was not before, and of leases that
/// were taken from their holders.
///
/// Both are called after the commit that did it, in the thread that made it: they
/// must not block, nor use the store.
pub trait WorkListener: Send + Sync {
    /// A commit of this store enqueued, released, requeued or recovered work.
    fn work_arrived(&self) {}

    /// A commit of this store took these leases away: it swept them, or cancelled
    /// their items.
    fn leases_lost(&self, lost: &[Fence]) {
        let _ = lost;
    }
}

/// Work items and leases. Completing, failing, releasing and cancelling are parts
/// of a commit, as enqueuing is.
pub trait LeaseStorage {
    /// Claims the most urgent due items: higher priority first, then those that
    /// have been due for longest. None when there is none.
    ///
    /// An item is due when it is pending and its `available_at` has been reached.
    /// Expired leases are taken away first, one bounded batch, in the same
    /// transaction. Each claim gives the item's next fencing token.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`], [`StorageError::LimitExceeded`], and those of
    /// [`Storage::commit`](crate::Storage::commit).
    fn claim(&self, request: &ClaimRequest) -> Result<Vec<Lease>, StorageError>;

    /// Renews leases in one commit, each for `lease` from now on. The answers are
    /// in the order of the fences. One that has expired and was not taken away is
    /// renewed as well.
    ///
    /// Uses the room that is kept for a full disk.
    ///
    /// # Errors
    ///
    /// As [`LeaseStorage::claim`]; a lease that is lost is no error of the call.
    fn renew(
        &self,
        fences: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Result<Renewed, StaleLease>>, StorageError>;

    /// Takes one bounded batch of lost leases away, in one commit. For each item
    /// its attempt is closed as expired, it gets its next state, an audit line,
    /// and, if it belongs to a task, an `error_boundary` checkpoint.
    ///
    /// The statement that changes an item tests that its lease has run out: any
    /// number of sweeps at once take each away once, and never one that was
    /// renewed. Uses the room that is kept for a full disk.
    ///
    /// # Errors
    ///
    /// As [`LeaseStorage::claim`]; an item that cannot be recovered is no error of
    /// the call.
    fn sweep(&self, request: &SweepRequest) -> Result<Swept, StorageError>;

    /// A work item, or `None` when it is not there (any more).
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when the row cannot be read as a work item.
    fn work_item(&self, id: WorkItemId) -> Result<Option<WorkItem>, StorageError>;

    /// Work items in a state, the oldest first, `rows` at a time.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] beyond
    /// [`PAGE_ROWS_MAX`](crate::limits::PAGE_ROWS_MAX) rows;
    /// [`StorageError::Corrupt`].
    fn work_items(
        &self,
        status: WorkItemStatus,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<WorkItemSummary>, StorageError>;

    /// Work items of a task in any state, the oldest first, `rows` at a time.
    ///
    /// # Errors
    ///
    /// As [`LeaseStorage::work_items`].
    fn work_items_of(
        &self,
        task: &TaskId,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<WorkItemSummary>, StorageError>;

    /// How many work items are in each state. Costs a walk over an index of all of
    /// them.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`].
    fn count_work_items(&self) -> Result<BTreeMap<WorkItemStatus, u64>, StorageError>;

    /// The attempts at an item that are kept, in order.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when a row cannot be read.
    fn attempts(&self, item: WorkItemId) -> Result<Vec<Attempt>, StorageError>;

    /// When something will be to do. A read that waits for nobody.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`], [`StorageError::Io`].
    fn outlook(&self, filter: &WorkFilter) -> Result<Outlook, StorageError>;

    /// Tells the listener of work that commits of this store make claimable, and of
    /// leases that they take away, until it is dropped. What other processes commit
    /// it is not told of.
    fn listen(&self, listener: Weak<dyn WorkListener>);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::WorkerId;

    #[test]
    fn what_can_never_be_right_is_refused() {
        let good = || ClaimRequest::new(Worker::start(WorkerId::new("w").unwrap()));
        assert!(good().check().is_ok());
        let types = |count: usize| WorkFilter::types((0..count).map(|n| format!("type {n}")));
        for bad in [
            ClaimRequest {
                lease: LEASE_MIN - Duration::from_nanos(1),
                ..good()
            },
            ClaimRequest {
                lease: LEASE_MAX + Duration::from_nanos(1),
                ..good()
            },
            ClaimRequest { items: 0, ..good() },
            ClaimRequest {
                items: CLAIM_ITEMS_MAX + 1,
                ..good()
            },
            ClaimRequest {
                filter: types(CLAIM_TYPES_MAX + 1),
                ..good()
            },
            ClaimRequest {
                filter: WorkFilter::types([""]),
                ..good()
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        for rows in [0, SWEEP_ROWS_MAX + 1] {
            let bad = SweepRequest {
                rows,
                ..SweepRequest::default()
            };
            assert!(bad.check().is_err());
        }
        assert!(check_renewal(RENEW_LEASES_MAX + 1).is_err());
    }
}
