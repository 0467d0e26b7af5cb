//! What can go wrong with a tool call, sorted by what the caller does next.

use agentos_core::{IdempotencyKey, LimitExceeded, PermitHolder, StorageError};

use super::outcome::{MalformedRecord, TooLarge, ToolOutcome, ToolOutput};
use super::pending::Unrecorded;
use crate::error::{IdempotencyError, JsonError};

/// Why a tool call has no answer, or none that was recorded.
///
/// That the tool failed is no error: see [`ToolOutcome`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    // Try again.
    /// Somebody else runs it, and was not done within the time given.
    #[error("{} runs it, since {}", holder.owner, holder.since)]
    InFlight {
        /// The key of the call.
        key: IdempotencyKey,
        /// Who.
        holder: Box<PermitHolder>,
    },
    /// The body says that nothing happened. The call is as it was before: never made, or
    /// failed, with that failure recorded.
    #[error("the tool did nothing: {reason}")]
    NotDone {
        /// Why.
        reason: String,
    },

    // Record it, or hand it on: it happened.
    /// It happened, and its outcome could not be recorded. The error carries the outcome,
    /// and records it again on request; dropped, it leaves the call in doubt.
    #[error("it happened, and its outcome is not recorded")]
    Unrecorded(#[source] Box<Unrecorded>),
    /// It happened, and the right to record that was lost meanwhile: the lease of the
    /// work item, or the permit. Nothing is recorded; whoever has it now finds the call
    /// in doubt, or recorded by somebody else.
    #[error("it happened, and the right to record its outcome was lost")]
    Lost {
        /// What came out.
        outcome: Box<ToolOutcome>,
        /// What is not held any more.
        #[source]
        cause: StorageError,
    },
    /// It happened, and its output is beyond the limit. That it happened is recorded, so
    /// that it is not run again unasked; the output is here and nowhere else, or is gone
    /// if this is a replay.
    #[error("an output of {} bytes is over the limit", large.bytes)]
    TooLarge {
        /// What is recorded.
        large: TooLarge,
        /// The output; `None` when this is a replay.
        output: Option<ToolOutput>,
    },

    // Find out what happened, or call an operator.
    /// It was begun, and nobody knows whether it happened. It stays in doubt until a
    /// probe or an operator has found out.
    #[error("in doubt: {reason}")]
    InDoubt {
        /// The key of the call.
        key: IdempotencyKey,
        /// Why nobody knows.
        reason: String,
        /// Who began it, unless that was this very call.
        holder: Option<Box<PermitHolder>>,
    },
    /// What is recorded is no end of a tool call that this build knows.
    #[error("the record of {key} cannot be read")]
    Malformed {
        /// The key of the call.
        key: IdempotencyKey,
        /// What is wrong with it.
        #[source]
        cause: MalformedRecord,
    },

    // Correct the call.
    /// The caller's own key stands for another tool, or other arguments.
    #[error("the key of this call stands for another one")]
    Conflict {
        /// The key.
        key: IdempotencyKey,
    },
    /// The arguments have no canonical form.
    #[error(transparent)]
    Arguments(#[from] JsonError),

    // As the gate says.
    /// The gate, or the store below it, says so. Unless this came from recording, which
    /// has errors of its own, the tool was not run.
    #[error(transparent)]
    Gate(IdempotencyError),
}

impl From<IdempotencyError> for ToolError {
    fn from(error: IdempotencyError) -> ToolError {
        match error {
            IdempotencyError::Json(error) => ToolError::Arguments(error),
            other => ToolError::Gate(other),
        }
    }
}

impl From<StorageError> for ToolError {
    fn from(error: StorageError) -> ToolError {
        ToolError::Gate(error.into())
    }
}

impl From<LimitExceeded> for ToolError {
    fn from(error: LimitExceeded) -> ToolError {
        ToolError::Gate(error.into())
    }
}

impl ToolError {
    /// What the store said, if it was the store.
    pub fn storage(&self) -> Option<&StorageError> {
        match self {
            ToolError::Gate(error) => error.storage(),
            ToolError::Lost { cause, .. } => Some(cause),
            ToolError::Unrecorded(unrecorded) => unrecorded.cause().storage(),
            _ => None,
        }
    }

    /// Whether the call is known to have happened.
    pub fn happened(&self) -> bool {
        matches!(
            self,
            ToolError::Unrecorded(_) | ToolError::Lost { .. } | ToolError::TooLarge { .. }
        )
    }
}

/// How a body says that the tool did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolFailure {
    /// Nothing happened in the world: the call may be run again.
    NotDone {
        /// Why.
        reason: String,
    },
    /// It failed, which is an outcome, and is recorded.
    Failed {
        /// Why, in words.
        message: String,
        /// What it gave back nevertheless.
        output: ToolOutput,
    },
    /// Nobody knows whether it happened, such as after a timeout of a request: the call
    /// is in doubt at once.
    Unknown {
        /// Why.
        reason: String,
    },
}

impl ToolFailure {
    /// Nothing happened, for this reason.
    pub fn not_done(reason: impl Into<String>) -> ToolFailure {
        ToolFailure::NotDone {
            reason: reason.into(),
        }
    }

    /// It failed with this message and output.
    pub fn failed(message: impl Into<String>, output: impl Into<ToolOutput>) -> ToolFailure {
        ToolFailure::Failed {
            message: message.into(),
            output: output.into(),
        }
    }

    /// Nobody knows whether it happened, for this reason.
    pub fn unknown(reason: impl Into<String>) -> ToolFailure {
        ToolFailure::Unknown {
            reason: reason.into(),
        }
    }
}
