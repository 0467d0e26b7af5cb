//! Reads of tasks and their audit lines.

use crate::error::StorageError;
use crate::ids::TaskId;
use crate::records::audit::Audit;
use crate::records::task::{Task, TaskStatus};
use crate::storage::{Cursor, Page};

/// Reads of tasks.
pub trait TaskStorage {
    /// The task, or `None` when there is no such id.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when the row cannot be read as a task.
    fn task(&self, id: &TaskId) -> Result<Option<Task>, StorageError>;

    /// Tasks in a state, oldest first, `rows` at a time.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] beyond
    /// [`PAGE_ROWS_MAX`](crate::limits::PAGE_ROWS_MAX) rows.
    fn tasks(
        &self,
        status: TaskStatus,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<Task>, StorageError>;

    /// The audit lines of a task, in the order in which they were committed.
    ///
    /// # Errors
    ///
    /// As [`TaskStorage::tasks`].
    fn audits(
        &self,
        task: &TaskId,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<Audit>, StorageError>;
}
