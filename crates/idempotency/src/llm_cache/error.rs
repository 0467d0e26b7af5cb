//! What can go wrong with a call of the cache, and why an answer is not stored.

use std::time::Duration;

use agentos_core::{BoxError, PermitHolder, StorageError};

use super::envelope::EnvelopeError;
use crate::error::IdempotencyError;

/// Why a call of the cache gave no answer. `E` is what the caller's own generator
/// fails with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError<E> {
    /// The generator failed. Nothing is stored: the next call asks the model again.
    #[error("the model gave no answer")]
    Generate(#[source] E),
    /// Somebody else was still asking the model when the time to wait was over.
    /// Nothing was paid by this call: call again, or wait longer.
    #[error("somebody else was still asking the model after {waited:?}")]
    InFlight {
        /// How long this call waited.
        waited: Duration,
        /// Who is asking.
        holder: Box<PermitHolder>,
    },
    /// The gate or its store refused. The model was not asked.
    #[error(transparent)]
    Gate(#[from] IdempotencyError),
}

impl<E> From<StorageError> for CacheError<E> {
    fn from(error: StorageError) -> CacheError<E> {
        CacheError::Gate(error.into())
    }
}

/// Why an answer that was paid for is not stored. Its caller has it all the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotStored {
    /// The predicate, or whoever gave the answer, kept it out.
    #[error("the answer is not to be kept")]
    NotKept,
    /// The redaction hook kept it from the disk, or left what cannot be read.
    #[error("the redaction hook kept the answer from the disk")]
    Withheld(#[source] BoxError),
    /// It cannot be written, or would not come back as it was given.
    #[error("the answer would not come back as it was given")]
    NotRoundTrip(#[source] BoxError),
    /// The permit to store it was lost, and nobody has stored another one yet.
    #[error("the permit was lost")]
    PermitLost,
    /// What is recorded cannot be read, and cannot be replaced either.
    #[error("what is recorded is in the way")]
    InTheWay(#[source] BoxError),
    /// The gate or its store refused: it is busy or full, or the answer is too large.
    #[error("the store refused the answer")]
    Refused(#[source] IdempotencyError),
}

/// Why a recorded answer cannot be given to whoever asks for it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("it is stored in another form")]
    OtherForm,
    #[error("it does not read as this type")]
    OtherType(#[source] BoxError),
}
