//! Upkeep of the store's own space, in steps that keep nobody waiting.

use crate::error::StorageError;

/// What one step gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaimed {
    /// Bytes given back to the file system.
    pub bytes: u64,
    /// Whether another step would give back more.
    pub more: bool,
}

/// How far the write-ahead log was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogShortened {
    /// Its size before, in bytes.
    pub bytes_before: u64,
    /// Its size after, in bytes.
    pub bytes_after: u64,
}

/// Upkeep of the store's own space. Everything here may be left undone, and be
/// done by any process at any time; nothing that is stored changes.
///
/// # Errors
///
/// Each method: [`StorageError::Busy`], [`StorageError::DiskFull`],
/// [`StorageError::Io`], [`StorageError::Closed`]. None of them loses anything.
pub trait UpkeepStorage {
    /// Gives unused space inside the file back to the file system, one bounded
    /// step, and leaves `keep_bytes` of it for what will be written next.
    ///
    /// # Errors
    ///
    /// As said at the trait.
    fn reclaim_space(&self, keep_bytes: u64) -> Result<Reclaimed, StorageError>;

    /// Refreshes what the engine's planner knows of the tables, where they have
    /// changed much.
    ///
    /// # Errors
    ///
    /// As said at the trait.
    fn refresh_statistics(&self) -> Result<(), StorageError>;

    /// Moves the write-ahead log into the file while others go on writing, then
    /// cuts it, if nobody needs it at this moment.
    ///
    /// # Errors
    ///
    /// As said at the trait.
    fn shorten_log(&self) -> Result<LogShortened, StorageError>;
}
