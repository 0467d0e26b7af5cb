//! Parts about work items.

use crate::error::StorageError;
use crate::ids::WorkItemId;
use crate::limits::{Limits, check_size};
use crate::records::work_item::{Fence, NewWorkItem};
use crate::retry::Retry;

use super::{Part, check_reason};

/// Completes an item that is held. Prepared by `agentos-worker-pool`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompleteWork {
    /// The lease under which it is done.
    pub fence: Fence,
    /// What came out of it. An empty result is a result.
    pub result: Option<Vec<u8>>,
}

/// Reports that an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailWork {
    /// The lease under which it was made.
    pub fence: Fence,
    /// Why it failed.
    pub reason: String,
    /// What shall follow.
    pub retry: Retry,
}

/// Gives an item back that is held: it can be claimed at once, and the attempt
/// does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseWork {
    /// The lease that is given back.
    pub fence: Fence,
    /// Why, for the attempt's row.
    pub reason: Option<String>,
}

/// Cancels an item that is pending or held. Whoever holds it has lost its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelWork {
    /// Which item.
    pub item: WorkItemId,
    /// Why, for the audit line.
    pub reason: Option<String>,
}

/// Takes an item out of the dead letter: it can be claimed at once, and has all
/// its attempts again. Its token goes on growing, and its history stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequeueWork {
    /// Which item.
    pub item: WorkItemId,
    /// Why, for the audit line.
    pub reason: Option<String>,
}

impl CompleteWork {
    pub(super) fn check(&self, limits: &Limits) -> Result<(), StorageError> {
        let result = self.result.as_deref().unwrap_or_default();
        check_size("result bytes", result.len(), limits.payload_bytes)
    }
}

impl FailWork {
    pub(super) fn check(&self) -> Result<(), StorageError> {
        self.retry.check()?;
        check_reason(Some(&self.reason))
    }
}

impl From<NewWorkItem> for Part {
    fn from(item: NewWorkItem) -> Part {
        Part::EnqueueWork(Box::new(item))
    }
}
