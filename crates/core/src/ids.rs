//! Identifiers.
//!
//! An id is any Unicode text of 1 to [`ID_BYTES_MAX`] bytes without NUL: SQL
//! binds it as a value, never as text, so quotes and emoji are as good as
//! letters. NUL is refused because C programs that read the file (the
//! `sqlite3` shell among them) would see a shorter id.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::error::{InvalidInput, LimitExceeded, StorageError};
use crate::limits::{ID_BYTES_MAX, check_text};

/// Names a task, chosen by the user or generated.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Arc<str>);

impl TaskId {
    /// Takes the user's own id.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] when it is empty or contains NUL,
    /// [`StorageError::LimitExceeded`] beyond [`ID_BYTES_MAX`] bytes.
    pub fn new(id: impl AsRef<str>) -> Result<TaskId, StorageError> {
        let id = id.as_ref();
        if id.is_empty() {
            return Err(InvalidInput::new("task id", "is empty").into());
        }
        check_text("task id", "task id bytes", id, ID_BYTES_MAX)?;
        Ok(TaskId(id.into()))
    }

    /// Makes a new id: a UUID version 7 (RFC 9562), which sorts by time of
    /// creation and so keeps index pages close together.
    pub fn generate() -> TaskId {
        TaskId(uuid::Uuid::now_v7().to_string().into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({:?})", &self.0)
    }
}

/// The number of a checkpoint within its task: 1, 2, 3, … without gaps.
///
/// At most `i64::MAX`, since SQL integers are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceNumber(NonZeroU64);

impl SequenceNumber {
    /// The number of a task's first checkpoint.
    pub const FIRST: SequenceNumber = SequenceNumber(NonZeroU64::MIN);

    /// Takes a number.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] for zero, [`StorageError::LimitExceeded`]
    /// beyond `i64::MAX`.
    pub fn new(number: u64) -> Result<SequenceNumber, StorageError> {
        let limit = i64::MAX as u64;
        if number > limit {
            return Err(LimitExceeded {
                name: "sequence number",
                limit,
                value: number,
            }
            .into());
        }
        NonZeroU64::new(number)
            .map(SequenceNumber)
            .ok_or_else(|| InvalidInput::new("sequence number", "is zero").into())
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_unicode_and_quotes_are_kept() {
        for id in ["a", "it's \"quoted\"", "задача-7 🦀", "a:b;--", "\n\t"] {
            assert_eq!(TaskId::new(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn empty_nul_and_long_ids_are_refused_by_type() {
        assert!(matches!(
            TaskId::new("").unwrap_err(),
            StorageError::Invalid(InvalidInput {
                what: "task id",
                ..
            })
        ));
        assert!(matches!(
            TaskId::new("a\0b").unwrap_err(),
            StorageError::Invalid(InvalidInput {
                what: "task id",
                ..
            })
        ));
        let long = "x".repeat(10_000);
        let Err(StorageError::LimitExceeded(exceeded)) = TaskId::new(long) else {
            panic!("an id of 10,000 characters was taken");
        };
        assert_eq!(
            exceeded,
            LimitExceeded {
                name: "task id bytes",
                limit: ID_BYTES_MAX as u64,
                value: 10_000
            }
        );
    }

    #[test]
    fn generated_ids_differ() {
        assert_ne!(TaskId::generate(), TaskId::generate());
    }

    #[test]
    fn sequence_numbers_start_at_one() {
        assert!(SequenceNumber::new(0).is_err());
        assert!(SequenceNumber::new(u64::MAX).is_err());
        assert_eq!(SequenceNumber::new(1).unwrap(), SequenceNumber::FIRST);
    }
}
