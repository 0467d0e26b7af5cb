//! Idempotency keys: begin, renew, and reads.

use std::time::Duration;

use crate::error::StorageError;
use crate::ids::{IdempotencyKey, KeyId, TaskId};
use crate::limits::{KEYS_PER_PART_MAX, check_size};
use crate::records::key::{
    BeginKey, Begun, KeyEntry, KeyFence, KeySummary, RecordedKey, StalePermit,
};
use crate::storage::{Cursor, Page};
use crate::time::{BootTime, Timestamp};

/// A permit that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewedPermit {
    /// Which.
    pub fence: KeyFence,
    /// When it runs out now, by the store's boot-time clock.
    pub deadline: BootTime,
}

/// Which keys are meant: those that everything given fits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyFilter {
    /// Those that begin with this.
    pub prefix: Option<String>,
    /// Those of this task.
    pub task: Option<TaskId>,
    /// Those of this operation.
    pub operation: Option<String>,
    /// Those that asked this model.
    pub model: Option<String>,
    /// Those that were last changed before this moment.
    pub changed_before: Option<Timestamp>,
}

/// Refuses more permits than one commit renews.
///
/// # Errors
///
/// [`StorageError::LimitExceeded`].
pub fn check_key_renewal(permits: usize) -> Result<(), StorageError> {
    check_size("permits of a renewal", permits, KEYS_PER_PART_MAX)
}

/// Idempotency keys. Recording an outcome, and everything else that changes them, is
/// a part of a commit.
pub trait KeyStorage {
    /// Begins the execution of a key, or says why not. Of any number of callers at
    /// once, in any number of processes, one gets the permit.
    ///
    /// What follows from what is there is said by [`BeginKey::decide`], asked inside
    /// the transaction that writes. When it returns [`Begun::Execute`], that the key
    /// is pending is as durable as a commit.
    ///
    /// # Errors
    ///
    /// [`StorageError::Conflict`] when the key stands for another request;
    /// [`StorageError::StaleLease`] when the lease under which it is to be executed is
    /// not held, or has run out: it is to be renewed first; [`StorageError::Corrupt`] when what is recorded is damaged;
    /// [`StorageError::Invalid`], [`StorageError::LimitExceeded`], and those of
    /// [`Storage::commit`](crate::Storage::commit).
    fn begin_key(&self, begin: &BeginKey) -> Result<Begun, StorageError>;

    /// Renews permits in one commit, each for `lease` from now on. The answers are in
    /// the order of the fences. One that has run out and was not taken over is renewed
    /// as well. One that was begun under a lease lasts as long as that, and is left as
    /// it is: the answer says until when, and that it is over once that lease has run out.
    ///
    /// Uses the room that is kept for a full disk.
    ///
    /// # Errors
    ///
    /// As [`LeaseStorage::renew`](crate::LeaseStorage::renew); a permit that is lost
    /// is no error of the call.
    fn renew_keys(
        &self,
        fences: &[KeyFence],
        lease: Duration,
    ) -> Result<Vec<Result<RenewedPermit, StalePermit>>, StorageError>;

    /// What is there under a key. A read that waits for nobody. An outcome that has
    /// expired is still there until it is removed, or recorded anew: the view says
    /// so.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when the row cannot be read, or the seal of its
    /// outcome does not hold.
    fn find_key(&self, key: &IdempotencyKey) -> Result<Option<KeyEntry>, StorageError>;

    /// What is recorded under a key, and nothing that a replay does not need: the hot
    /// look. `None` when nothing is there, or it is pending.
    ///
    /// # Errors
    ///
    /// As [`KeyStorage::find_key`].
    fn find_recorded(&self, key: &IdempotencyKey) -> Result<Option<RecordedKey>, StorageError>;

    /// The greatest number that a key has now: keys that are made later have greater
    /// ones. `None` when there is no key.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`], and those of a read.
    fn newest_key(&self) -> Result<Option<KeyId>, StorageError>;

    /// Keys, the oldest first, `rows` at a time. Without a task in the filter it walks
    /// over all of them.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] beyond
    /// [`PAGE_ROWS_MAX`](crate::limits::PAGE_ROWS_MAX) rows;
    /// [`StorageError::Corrupt`].
    fn keys(
        &self,
        filter: &KeyFilter,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, StorageError>;

    /// Keys in doubt, the oldest first, `rows` at a time: they are pending, and their
    /// permit is over by its deadline. Those of the model cache are not among them:
    /// whoever asks next takes them over. A page may have fewer rows than were asked for, and yet not be
    /// the last.
    ///
    /// # Errors
    ///
    /// As [`KeyStorage::keys`].
    fn keys_in_doubt(
        &self,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, StorageError>;
}
