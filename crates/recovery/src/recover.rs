//! Where a task goes on after a crash: its state, and the work that is open
//! under it. Nothing is written.

use agentos_checkpoints::{CheckpointError, CheckpointManager, Resume};
use agentos_core::{Storage, StorageError, TaskId, WorkItemStatus, WorkItemSummary};

use crate::limits::{OPEN_ITEMS_MAX, WORK_ITEMS_PER_PAGE};

/// From where a task goes on, and what is still to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovery {
    /// The checkpoint to resume from, and which newer ones were passed over.
    pub resume: Resume,
    /// Work items that are pending, or in progress with who holds them; the
    /// oldest first, at most [`Recovery::OPEN_ITEMS_MAX`].
    pub open: Vec<WorkItemSummary>,
    /// How many wait to be claimed, those among them that are due later.
    pub pending: u64,
    /// How many are held by somebody.
    pub in_progress: u64,
    /// How many are in the dead letter: nobody will do them unless they are
    /// requeued.
    pub dead_letters: u64,
}

impl Recovery {
    /// Most open work items that are named; all of them are counted.
    pub const OPEN_ITEMS_MAX: usize = OPEN_ITEMS_MAX;

    /// Whether nothing is open: no item waits, and none is held.
    pub fn nothing_open(&self) -> bool {
        self.pending == 0 && self.in_progress == 0
    }
}

/// Finds the point from which `task` goes on, as
/// [`CheckpointManager::resume`] does, and the open work under it.
///
/// The work items are read page by page, all that the task has: finished ones
/// cost a look until upkeep removes them. Others may claim and complete work
/// meanwhile; an item is as it was when its page was read.
///
/// # Errors
///
/// As [`CheckpointManager::resume`], among them
/// [`StorageError::NotFound`] for a task that does not exist, and
/// [`StorageError::Corrupt`] for a work item that cannot be read.
pub fn recover(
    checkpoints: &CheckpointManager,
    storage: &dyn Storage,
    task: &TaskId,
) -> Result<Recovery, CheckpointError> {
    let mut recovery = Recovery {
        resume: checkpoints.resume(task)?,
        open: Vec::new(),
        pending: 0,
        in_progress: 0,
        dead_letters: 0,
    };
    let mut after = None;
    loop {
        let page = storage.work_items_of(task, after, WORK_ITEMS_PER_PAGE)?;
        for item in page.items {
            recovery.count(item);
        }
        let Some(next) = page.next else {
            return Ok(recovery);
        };
        // Going on would read the same for ever.
        if after.is_some_and(|after| next.key() <= after.key()) {
            return Err(StorageError::Internal {
                context: "reading the work of a task".into(),
                cause: format!("the engine answered place {} again", next.key()).into(),
            }
            .into());
        }
        after = Some(next);
    }
}

impl Recovery {
    fn count(&mut self, item: WorkItemSummary) {
        match item.status {
            WorkItemStatus::Pending => self.pending += 1,
            WorkItemStatus::InProgress => self.in_progress += 1,
            WorkItemStatus::Failed => {
                self.dead_letters += 1;
                return;
            }
            WorkItemStatus::Succeeded | WorkItemStatus::Cancelled => return,
        }
        if self.open.len() < OPEN_ITEMS_MAX {
            self.open.push(item);
        }
    }
}
