//! What can go wrong here, sorted by what the caller does next.
//!
//! What the store says is passed on as it is: see [`StorageError`]. That a permit was
//! lost is [`StorageError::StaleLease`], that a key stands for another request
//! [`StorageError::Conflict`].

use std::io;

use agentos_core::{InvalidInput, LimitExceeded, PermitHolder, StorageError};

/// Why the gate, the cache or the ledger did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdempotencyError {
    // As the store says.
    /// The store says so.
    #[error(transparent)]
    Storage(#[from] StorageError),

    // Try again.
    /// The system has no thread left for renewing permits. Nothing was begun.
    #[error("no thread left")]
    Thread(#[source] io::Error),
    /// Somebody else executes it, and was not done within the time given.
    #[error("{} executes it, since {}", .0.owner, .0.since)]
    InFlight(Box<PermitHolder>),

    // Find out what happened, or call an operator.
    /// It was begun, and nobody knows whether it was executed.
    #[error("in doubt: {} began it at {} and is gone", .0.owner, .0.since)]
    InDoubt(Box<PermitHolder>),

    // Correct the call.
    /// What was given as JSON has no canonical form.
    #[error(transparent)]
    Json(#[from] JsonError),
}

impl From<InvalidInput> for IdempotencyError {
    fn from(error: InvalidInput) -> IdempotencyError {
        IdempotencyError::Storage(error.into())
    }
}

impl From<LimitExceeded> for IdempotencyError {
    fn from(error: LimitExceeded) -> IdempotencyError {
        IdempotencyError::Storage(error.into())
    }
}

impl IdempotencyError {
    /// What the store said, if it was the store.
    pub fn storage(&self) -> Option<&StorageError> {
        match self {
            IdempotencyError::Storage(error) => Some(error),
            _ => None,
        }
    }
}

/// Why something has no canonical form.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// It is no JSON.
    #[error("not JSON")]
    NotJson(#[from] serde_json::Error),
    /// It is no UTF-8, and so no JSON.
    #[error("not UTF-8")]
    NotUtf8(#[from] std::str::Utf8Error),
    /// An object has two members of this name: readers differ in which they take.
    #[error("the member {name:?} is there twice")]
    DuplicateMember {
        /// The first 40 characters of the name.
        name: String,
    },
    /// The exponent of a number is beyond every use.
    #[error("the exponent of {number} is out of range")]
    Exponent {
        /// The number, shortened.
        number: String,
    },
    /// A value holds a number as a float that stands for many integers: below -2^63, or
    /// 2^64 and beyond. Which was meant is lost; as text it is exact, so give it as text.
    #[error("a value holds {number} as a float, and may have lost digits: give it as text")]
    Inexact {
        /// The number, as the value has it.
        number: String,
    },
    /// It is too long, or nested too deeply.
    #[error(transparent)]
    LimitExceeded(#[from] LimitExceeded),
}
