//! Storage errors, sorted by what the caller does next.
//!
//! No caller needs to read a message: the variant says whether to retry, to
//! read first, to correct the call, or to fetch an operator. Engines classify
//! their errors by code, never by text.

use std::time::Duration;

use crate::records::key::StalePermit;
use crate::records::work_item::StaleLease;

/// The cause of an error, from whichever library.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A bound of [`crate::limits`] was exceeded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {value} is over the limit of {limit}")]
pub struct LimitExceeded {
    /// What is bounded, with its unit.
    pub name: &'static str,
    /// The bound.
    pub limit: u64,
    /// What was given.
    pub value: u64,
}

/// Something was given that can never be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {reason}")]
pub struct InvalidInput {
    /// What was given.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl InvalidInput {
    /// `what` is wrong for this `reason`.
    pub fn new(what: &'static str, reason: impl Into<String>) -> InvalidInput {
        InvalidInput {
            what,
            reason: reason.into(),
        }
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    // Retry as it is.
    /// Others held the write lock, or filled the queue, for the whole busy
    /// timeout. Nothing was written: retry.
    #[error("database busy for {waited:?}")]
    Busy {
        /// How long the caller waited.
        waited: Duration,
    },

    // Read first, then decide.
    /// The disk failed while committing: the write may or may not be durable.
    /// Read before retrying. (A full disk is `DiskFull`: nothing was written.)
    #[error("commit outcome unknown")]
    CommitUnknown(#[source] BoxError),

    // Correct the call.
    /// A bound was exceeded. Nothing was written.
    #[error(transparent)]
    LimitExceeded(#[from] LimitExceeded),
    /// The input can never be right. Nothing was written.
    #[error("invalid input")]
    Invalid(#[from] InvalidInput),
    /// There is no such thing. Nothing was written.
    #[error("{what} {id:?} not found")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The id is taken by something of other content. Nothing was written.
    #[error("{what} {id:?} exists with other content")]
    Conflict {
        /// What kind of thing.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The state machine has no such transition (see `docs/STATES.md`).
    /// Nothing was written: read the state and decide anew.
    #[error("{what} {id:?} cannot go from {from} to {to}")]
    IllegalTransition {
        /// What kind of thing.
        what: &'static str,
        /// Its id.
        id: String,
        /// State it is in.
        from: &'static str,
        /// State that was asked for.
        to: &'static str,
    },
    /// The lease of a work item, or the permit of a key, under which this was to be
    /// done is not held any more. Nothing was written: stop working on it; somebody
    /// else has it or will.
    #[error(transparent)]
    StaleLease(Stale),
    /// The store was closed. Nothing was written.
    #[error("the store is closed")]
    Closed,

    // Make room or give access, then retry.
    /// No space is left. Nothing was written. What frees space still goes
    /// through; the rest does again once there is room.
    #[error("disk full")]
    DiskFull(#[source] BoxError),
    /// The write-ahead log has reached its bound and could not be begun anew for
    /// the whole busy timeout, since somebody reads without an end. Nothing was
    /// written: end that reader.
    #[error("the write-ahead log has {bytes} bytes of at most {bound}")]
    LogFull {
        /// Its size.
        bytes: u64,
        /// Its bound.
        bound: u64,
    },
    /// The file, its directory or the file system does not take writes.
    #[error("read-only")]
    ReadOnly(#[source] BoxError),
    /// The file or the disk could not be read or written; not at a commit.
    /// Nothing was written.
    #[error("input/output error")]
    Io(#[source] BoxError),

    // Call an operator: restore a backup, upgrade the program, mend the path.
    /// Stored data is not what was stored. What is damaged is named.
    #[error("corrupt: {what}")]
    Corrupt {
        /// What is damaged.
        what: String,
        /// How it was found out.
        #[source]
        cause: BoxError,
    },
    /// A newer build made the file. It was left untouched: upgrade this program.
    #[error("schema version {found} is newer than {known}, which this build knows")]
    NewerSchema {
        /// Version of the file.
        found: u32,
        /// Newest version of this build.
        known: u32,
    },
    /// The file was not made by this system. It was left untouched.
    #[error("not a database of this system: {reason}")]
    NotOurs {
        /// How it was recognised.
        reason: String,
    },
    /// The engine or its settings cannot keep the promises. Nothing was touched.
    #[error("the engine cannot keep the promises: {reason}")]
    UnsafeEngine {
        /// What is missing.
        reason: String,
    },
    /// The file system cannot keep the promises. Nothing was touched: move the
    /// file, or allow it in the configuration.
    #[error("the file system {kind} cannot keep the promises")]
    UnsafeFileSystem {
        /// Which one.
        kind: &'static str,
    },
    /// The engine answered what this code did not expect: a defect. Nothing
    /// was written.
    #[error("internal error: {context}")]
    Internal {
        /// What was being done.
        context: String,
        /// The engine's answer.
        #[source]
        cause: BoxError,
    },
}

/// What is not held any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// The lease of a work item.
    #[error(transparent)]
    Work(Box<StaleLease>),
    /// The permit of an idempotency key.
    #[error(transparent)]
    Key(Box<StalePermit>),
}

impl From<StaleLease> for StorageError {
    fn from(stale: StaleLease) -> StorageError {
        StorageError::StaleLease(Stale::Work(Box::new(stale)))
    }
}

impl From<StalePermit> for StorageError {
    fn from(stale: StalePermit) -> StorageError {
        StorageError::StaleLease(Stale::Key(Box::new(stale)))
    }
}

impl StorageError {
    /// Stored data about `what` is damaged, as `detail` says.
    pub fn corrupt(what: impl Into<String>, detail: impl Into<BoxError>) -> StorageError {
        StorageError::Corrupt {
            what: what.into(),
            cause: detail.into(),
        }
    }

    /// The checkpoint of this task and number is damaged.
    pub fn corrupt_checkpoint(
        task: &str,
        sequence: impl std::fmt::Display,
        detail: impl Into<BoxError>,
    ) -> StorageError {
        StorageError::corrupt(format!("checkpoint {sequence} of task {task:?}"), detail)
    }

    /// There is no `what` of this `id`.
    pub fn not_found(what: &'static str, id: impl ToString) -> StorageError {
        StorageError::NotFound {
            what,
            id: id.to_string(),
        }
    }

    /// Whether the same call may succeed if it is simply made again: the store
    /// is busy, or out of space that can come back. Nothing was written.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            StorageError::Busy { .. } | StorageError::DiskFull(_) | StorageError::LogFull { .. }
        )
    }
}
