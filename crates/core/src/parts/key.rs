//! Parts about idempotency keys.

use crate::error::{InvalidInput, StorageError};
use crate::ids::{IdempotencyKey, KeyId, Worker};
use crate::limits::{KEYS_PER_PART_MAX, Limits, check_size};
use crate::records::key::{KeyFence, NewOutcome};

use super::check_reason;

/// Records the outcome of an execution. Prepared by `agentos-idempotency`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishKey {
    /// The permit under which it was executed.
    pub fence: KeyFence,
    /// How it ended.
    pub outcome: NewOutcome,
}

/// Ends an execution that did nothing: the key is as if it had never been begun,
/// and what was recorded before is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbandonKey {
    /// The permit under which it was begun.
    pub fence: KeyFence,
}

/// Ends an execution of which nobody knows what it did: the key is in doubt at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtKey {
    /// The permit under which it was begun.
    pub fence: KeyFence,
}

/// What is found out about a key that was in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It was executed, and this is what came out.
    Happened(NewOutcome),
    /// It was not executed: the key is as if it had never been begun.
    DidNotHappen,
}

/// Ends the doubt about a key. An audit line says how, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveKey {
    /// The key.
    pub key: IdempotencyKey,
    /// The execution that is in doubt: another one is not resolved by this.
    pub fence: KeyFence,
    /// What was found out.
    pub resolution: Resolution,
    /// By whom, and how it was found out.
    pub reason: String,
    /// Whether the permit counts as over if its owner is an earlier start of this
    /// worker, whatever its deadline.
    pub sole_start: Option<Worker>,
}

/// Removes keys with a recorded outcome. One that is pending now, or was executed
/// again, stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveKeys {
    /// Which: at most 1000.
    pub keys: Vec<KeyFence>,
}

/// Notes that recorded outcomes were used, for those who remove the ones that were
/// not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TouchKeys {
    /// Which: at most 1000. What is not there is passed over.
    pub keys: Vec<KeyId>,
}

impl FinishKey {
    pub(super) fn check(&self, limits: &Limits) -> Result<(), StorageError> {
        self.outcome.check(limits)
    }
}

impl ResolveKey {
    pub(super) fn check(&self, limits: &Limits) -> Result<(), StorageError> {
        if self.reason.is_empty() {
            return Err(InvalidInput::new("reason of a resolution", "is empty").into());
        }
        check_reason(Some(&self.reason))?;
        match &self.resolution {
            Resolution::Happened(outcome) => outcome.check(limits),
            Resolution::DidNotHappen => Ok(()),
        }
    }
}

pub(super) fn check_count(keys: usize) -> Result<(), StorageError> {
    check_size("keys of a part", keys, KEYS_PER_PART_MAX)
}
