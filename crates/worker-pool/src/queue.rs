//! The queue: enqueues work, looks at it, cancels it, and takes it out of the dead
//! letter.
//!
//! Nothing here holds a lease: what is done under one is in `leases`. An item is a
//! part of a commit, so whatever belongs together can be committed together.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentos_core::limits::PARTS_PER_COMMIT_MAX;
use agentos_core::limits::check_size;
use agentos_core::{
    Attempt, CancelWork, Commit, Cursor, NewWorkItem, Page, RequeueWork, Storage, StorageError,
    TaskId, WorkItem, WorkItemId, WorkItemStatus, WorkItemSummary,
};

use crate::unexpected;

/// The work of one store. Cloning it is cheap.
#[derive(Clone)]
pub struct WorkQueue {
    storage: Arc<dyn Storage>,
}

impl std::fmt::Debug for WorkQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkQueue").finish_non_exhaustive()
    }
}

/// What enqueuing gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enqueued {
    /// The item.
    pub id: WorkItemId,
    /// Whether it was there before, under the same unique key.
    pub existed: bool,
}

/// An item of the dead letter, and how it got there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The item.
    pub item: WorkItemSummary,
    /// The attempts at it that are kept, in order: the newest 100.
    pub attempts: Vec<Attempt>,
}

impl WorkQueue {
    /// The work of this store.
    pub fn new(storage: Arc<dyn Storage>) -> WorkQueue {
        WorkQueue { storage }
    }

    /// Enqueues an item, alone in a commit. The same unique key again gives the
    /// item that is there.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`] when its task is not there, and those of
    /// [`Storage::commit`]; nothing was enqueued.
    pub fn enqueue(&self, item: NewWorkItem) -> Result<Enqueued, StorageError> {
        let enqueued = self.enqueue_all(vec![item])?;
        match enqueued.first() {
            Some(first) => Ok(*first),
            None => Err(unexpected("enqueuing an item", &enqueued)),
        }
    }

    /// Enqueues items in one commit: all of them, or none. The answers are in the
    /// order of the items.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] beyond 4096 items
    /// ([`PARTS_PER_COMMIT_MAX`]), and as [`WorkQueue::enqueue`].
    pub fn enqueue_all(&self, items: Vec<NewWorkItem>) -> Result<Vec<Enqueued>, StorageError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        check_size("items enqueued at once", items.len(), PARTS_PER_COMMIT_MAX)?;
        let count = items.len();
        let commit = items.into_iter().fold(Commit::new(), Commit::part);
        let receipt = self.storage.commit(commit)?;
        let enqueued: Vec<Enqueued> = receipt
            .enqueued()
            .map(|(id, existed)| Enqueued { id, existed })
            .collect();
        if enqueued.len() != count {
            return Err(unexpected("enqueuing items", &receipt));
        }
        Ok(enqueued)
    }

    /// The part that cancels an item, for a commit with other parts.
    pub fn prepare_cancel(&self, id: WorkItemId, reason: Option<&str>) -> CancelWork {
        CancelWork {
            item: id,
            reason: reason.map(str::to_owned),
        }
    }

    /// Cancels an item that is pending or held. Whoever holds it has lost its lease
    /// at once, and is told at its next heartbeat or write.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`]; [`StorageError::IllegalTransition`] when it has
    /// ended; [`StorageError::LimitExceeded`] for a reason of more than 4096 bytes;
    /// and those of [`Storage::commit`].
    pub fn cancel(&self, id: WorkItemId, reason: Option<&str>) -> Result<(), StorageError> {
        self.storage
            .commit(self.prepare_cancel(id, reason).into())
            .map(drop)
    }

    /// The part that takes an item out of the dead letter, for a commit with other
    /// parts.
    pub fn prepare_requeue(&self, id: WorkItemId, reason: Option<&str>) -> RequeueWork {
        RequeueWork {
            item: id,
            reason: reason.map(str::to_owned),
        }
    }

    /// Takes an item out of the dead letter: it can be claimed at once, and has all
    /// its attempts again. Its history stays.
    ///
    /// # Errors
    ///
    /// As [`WorkQueue::cancel`]; [`StorageError::IllegalTransition`] for one that is
    /// not in the dead letter.
    pub fn requeue(&self, id: WorkItemId, reason: Option<&str>) -> Result<(), StorageError> {
        self.storage
            .commit(self.prepare_requeue(id, reason).into())
            .map(drop)
    }

    /// An item with its payload and result, or `None` when it is not there (any
    /// more).
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when it cannot be read.
    pub fn get(&self, id: WorkItemId) -> Result<Option<WorkItem>, StorageError> {
        self.storage.work_item(id)
    }

    /// Items in a state, the oldest first, at most `rows` of them: 1000 at most.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`], [`StorageError::Corrupt`].
    pub fn list(
        &self,
        status: WorkItemStatus,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<WorkItemSummary>, StorageError> {
        self.storage.work_items(status, after, rows)
    }

    /// Items of a task in any state, the oldest first, at most `rows` of them.
    ///
    /// # Errors
    ///
    /// As [`WorkQueue::list`].
    pub fn list_of_task(
        &self,
        task: &TaskId,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<WorkItemSummary>, StorageError> {
        self.storage.work_items_of(task, after, rows)
    }

    /// How many items are in each state. Costs a walk over an index of all of them.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`].
    pub fn count(&self) -> Result<BTreeMap<WorkItemStatus, u64>, StorageError> {
        self.storage.count_work_items()
    }

    /// The attempts at an item that are kept, in order: the newest 100. None for an
    /// item that was never claimed or is not there.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when a row cannot be read.
    pub fn attempts(&self, id: WorkItemId) -> Result<Vec<Attempt>, StorageError> {
        self.storage.attempts(id)
    }

    /// Items of the dead letter, the oldest first, at most `rows` of them, each with
    /// its history. Item and history are read one after the other: of one that is
    /// requeued meanwhile, the history may be newer than the item.
    ///
    /// # Errors
    ///
    /// As [`WorkQueue::list`] and [`WorkQueue::attempts`].
    pub fn dead_letters(
        &self,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<DeadLetter>, StorageError> {
        let page = self.list(WorkItemStatus::Failed, after, rows)?;
        let with_history = |item: WorkItemSummary| {
            let attempts = self.attempts(item.id)?;
            Ok(DeadLetter { item, attempts })
        };
        let items: Result<Vec<DeadLetter>, StorageError> =
            page.items.into_iter().map(with_history).collect();
        Ok(Page {
            items: items?,
            next: page.next,
        })
    }
}
