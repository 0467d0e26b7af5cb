//! Questions about rows, for evidence.

use crate::error::StorageError;
use crate::records::row::{RowAnswer, RowQuestion};

/// Questions about rows.
pub trait RowStorage {
    /// Asks about a row, here or in another SQLite file, which is opened
    /// read-only. Names are quoted and values bound.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`], [`StorageError::Io`] or
    /// [`StorageError::Busy`] when the database did not answer. What makes the
    /// question itself impossible is an answer,
    /// [`RowAnswer::CannotAsk`].
    fn ask_row(&self, question: &RowQuestion) -> Result<RowAnswer, StorageError>;
}
