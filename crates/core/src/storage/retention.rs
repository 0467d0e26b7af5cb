//! Reads for retention: what may go, asked outside of any transaction.

use crate::error::StorageError;
use crate::ids::{SequenceNumber, TaskId};
use crate::parts::{KeptFor, PruneCheckpoints, PruneRows};
use crate::records::retention::{BoundedTable, RowMark, RowRule};
use crate::storage::{Cursor, Page};
use crate::time::Timestamp;

/// What there is of a task's checkpoints, at the cost of two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointSpan {
    /// The oldest number that is there.
    pub oldest: SequenceNumber,
    /// When the oldest was appended; `None` when that cannot be read.
    pub oldest_created_at: Option<Timestamp>,
    /// The newest number that is there.
    pub newest: SequenceNumber,
}

/// What pruning would remove.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prunable {
    /// How many rows.
    pub rows: u64,
    /// Bytes of what users stored in them.
    pub bytes: u64,
    /// Checkpoints that stay although their rule does not keep them, and why,
    /// the oldest first.
    pub kept: Vec<(SequenceNumber, KeptFor)>,
}

/// Reads for retention.
pub trait RetentionStorage {
    /// The ids of all tasks, the oldest first, `rows` at a time. Nothing else of
    /// a task is read: damage to the rest of its row hides it from no list of
    /// these. In the place of an id that cannot be read stands
    /// [`StorageError::Corrupt`].
    ///
    /// # Errors
    ///
    /// As [`TaskStorage::tasks`](crate::TaskStorage::tasks).
    fn task_ids(
        &self,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<Result<TaskId, StorageError>>, StorageError>;

    /// The oldest and the newest checkpoint of a task; `None` when it has none.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when a number cannot be read.
    fn checkpoint_span(&self, task: &TaskId) -> Result<Option<CheckpointSpan>, StorageError>;

    /// What all batches of this plan together would remove now, in one read
    /// that costs as much as what it counts and holds nobody up.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when a row cannot be read.
    fn prunable_checkpoints(&self, plan: &PruneCheckpoints) -> Result<Prunable, StorageError>;

    /// The newest row that is not among the newest of a table's rows that may go, by
    /// number and bytes as the rule says; `None` when it keeps all of them. Where its
    /// moment cannot be read, the place behind it.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when a row cannot be read.
    fn rows_beyond(
        &self,
        table: BoundedTable,
        rule: &RowRule,
    ) -> Result<Option<RowMark>, StorageError>;

    /// As [`RetentionStorage::prunable_checkpoints`], for rows. Of tasks it
    /// counts the tasks, and not the checkpoints that go with them. Rows whose
    /// moment cannot be read are counted, and stay.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when a row cannot be read.
    fn prunable_rows(&self, plan: &PruneRows) -> Result<Prunable, StorageError>;
}
