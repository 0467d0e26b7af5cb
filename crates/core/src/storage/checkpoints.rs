//! Reads of checkpoints.

use crate::error::StorageError;
use crate::ids::{SequenceNumber, TaskId};
use crate::records::checkpoint::{Checkpoint, CheckpointSummary, EvidenceResult, FoundCheckpoint};

/// Reads of checkpoints.
pub trait CheckpointStorage {
    /// The checkpoint of this number, or `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when it is not what was stored.
    fn checkpoint(
        &self,
        task: &TaskId,
        sequence: SequenceNumber,
    ) -> Result<Option<Checkpoint>, StorageError>;

    /// The newest checkpoint with a number below `below` (or of all), damaged
    /// or not; `None` when there is none. Costs the same however many there are.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when not even its number can be read.
    fn newest_checkpoint(
        &self,
        task: &TaskId,
        below: Option<SequenceNumber>,
    ) -> Result<Option<FoundCheckpoint>, StorageError>;

    /// Summaries of a task's checkpoints, newest first, at most `rows`, with
    /// numbers below `below`: the last number shown gives the next page.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] beyond
    /// [`PAGE_ROWS_MAX`](crate::limits::PAGE_ROWS_MAX) rows.
    fn checkpoints(
        &self,
        task: &TaskId,
        below: Option<SequenceNumber>,
        rows: u32,
    ) -> Result<Vec<CheckpointSummary>, StorageError>;

    /// What the last recorded check of each item of evidence said, in the order
    /// of the pack; empty when none was recorded.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when a row cannot be read.
    fn evidence_results(
        &self,
        task: &TaskId,
        sequence: SequenceNumber,
    ) -> Result<Vec<EvidenceResult>, StorageError>;
}
