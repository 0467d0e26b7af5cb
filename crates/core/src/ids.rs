//! Identifiers.
//!
//! An id is any Unicode text of 1 to [`ID_BYTES_MAX`] bytes without NUL: SQL
//! binds it as a value, never as text, so quotes and emoji are as good as
//! letters. NUL is refused because C programs that read the file (the
//! `sqlite3` shell among them) would see a shorter id.

use std::fmt;
use std::num::{NonZeroI64, NonZeroU64};
use std::sync::Arc;

use crate::digest::Digest;
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

/// Names a worker, as its user chose: a host, a role, a number.
///
/// Two processes may have the same name, one after the other or by mistake at the
/// same time: [`Worker`] tells them apart.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// Takes the user's own name for it.
    ///
    /// # Errors
    ///
    /// As [`TaskId::new`].
    pub fn new(id: impl AsRef<str>) -> Result<WorkerId, StorageError> {
        let id = id.as_ref();
        if id.is_empty() {
            return Err(InvalidInput::new("worker id", "is empty").into());
        }
        check_text("worker id", "worker id bytes", id, ID_BYTES_MAX)?;
        Ok(WorkerId(id.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerId({:?})", &self.0)
    }
}

/// One start of a worker: no two have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(Arc<str>);

impl Incarnation {
    /// Makes a new one: a UUID version 7 (RFC 9562), so a later start sorts behind
    /// an earlier one, unless the wall clock went back in between.
    pub fn generate() -> Incarnation {
        Incarnation(uuid::Uuid::now_v7().to_string().into())
    }

    /// Takes one that is stored, or that a test chooses.
    ///
    /// # Errors
    ///
    /// As [`TaskId::new`].
    pub fn new(text: impl AsRef<str>) -> Result<Incarnation, StorageError> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(InvalidInput::new("incarnation", "is empty").into());
        }
        check_text("incarnation", "incarnation bytes", text, ID_BYTES_MAX)?;
        Ok(Incarnation(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A worker as leases know it: its name, and which start of it.
///
/// A restarted worker of the same name is another one. What its earlier start
/// held it does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Worker {
    /// Its name.
    pub id: WorkerId,
    /// Which start.
    pub incarnation: Incarnation,
}

impl Worker {
    /// A new start of the worker `id`.
    pub fn start(id: WorkerId) -> Worker {
        Worker {
            id,
            incarnation: Incarnation::generate(),
        }
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.incarnation)
    }
}

/// Names a work item; given by the store when it is enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkItemId(NonZeroI64);

impl WorkItemId {
    /// Takes a number that a store gave.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] unless it is positive.
    pub fn new(number: i64) -> Result<WorkItemId, StorageError> {
        match NonZeroI64::new(number) {
            Some(id) if 0 < number => Ok(WorkItemId(id)),
            _ => Err(InvalidInput::new("work item id", "is not positive").into()),
        }
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0.get()
    }
}

impl fmt::Display for WorkItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names an idempotency key in the store, for those who have begun it.
///
/// A number is given once, also when its key was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(NonZeroI64);

impl KeyId {
    /// Takes a number that a store gave.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] unless it is positive.
    pub fn new(number: i64) -> Result<KeyId, StorageError> {
        match NonZeroI64::new(number) {
            Some(id) if 0 < number => Ok(KeyId(id)),
            _ => Err(InvalidInput::new("key id", "is not positive").into()),
        }
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0.get()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names what is to be done once: the user's own text, or one of the system's.
///
/// Keys that begin as those of the model cache or the tool ledger are kept and removed by
/// their rules: a user's own should not.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// What the keys of the model cache begin with.
    pub const LLM_CACHE: &'static str = "llm-cache:";
    /// What the keys of the tool ledger begin with.
    pub const TOOL_LEDGER: &'static str = "tool-ledger:";

    /// Takes a key.
    ///
    /// # Errors
    ///
    /// As [`TaskId::new`].
    pub fn new(key: impl AsRef<str>) -> Result<IdempotencyKey, StorageError> {
        let key = key.as_ref();
        if key.is_empty() {
            return Err(InvalidInput::new("idempotency key", "is empty").into());
        }
        check_text(
            "idempotency key",
            "idempotency key bytes",
            key,
            ID_BYTES_MAX,
        )?;
        Ok(IdempotencyKey(key.into()))
    }

    /// A key of the model cache.
    pub fn of_cache(digest: &Digest) -> IdempotencyKey {
        IdempotencyKey::of(IdempotencyKey::LLM_CACHE, digest)
    }

    /// A key of the tool ledger.
    pub fn of_ledger(digest: &Digest) -> IdempotencyKey {
        IdempotencyKey::of(IdempotencyKey::TOOL_LEDGER, digest)
    }

    fn of(prefix: &str, digest: &Digest) -> IdempotencyKey {
        // On the way of every hit: formatting costs several times as much.
        IdempotencyKey([prefix, &digest.to_hex()].concat().into())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({:?})", &self.0)
    }
}

/// Says which claim of an item a write belongs to: it grows by one with every
/// claim of that item and is never reset.
///
/// The term is that of Kleppmann, "How to do distributed locking" (2016).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken(NonZeroI64);

impl FencingToken {
    /// Takes a number.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] unless it is positive.
    pub fn new(number: i64) -> Result<FencingToken, StorageError> {
        match NonZeroI64::new(number) {
            Some(token) if 0 < number => Ok(FencingToken(token)),
            _ => Err(InvalidInput::new("fencing token", "is not positive").into()),
        }
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0.get()
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
    fn two_starts_of_a_worker_are_two_workers() {
        let id = WorkerId::new("host-1").unwrap();
        let (first, second) = (Worker::start(id.clone()), Worker::start(id));
        assert_eq!(first.id, second.id);
        assert_ne!(first, second);
    }

    #[test]
    fn item_ids_and_tokens_are_positive() {
        for number in [i64::MIN, -1, 0] {
            assert!(WorkItemId::new(number).is_err());
            assert!(FencingToken::new(number).is_err());
        }
        assert_eq!(WorkItemId::new(7).unwrap().get(), 7);
        assert_eq!(FencingToken::new(i64::MAX).unwrap().get(), i64::MAX);
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
