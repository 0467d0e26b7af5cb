//! What a victim was refused, by the type of the error and never by its text: what a
//! user's program would decide by.

use std::error::Error;
use std::io;
use std::sync::Arc;

use agentos_checkpoints::CheckpointError;
use agentos_core::{StaleLease, StalePermit, StorageError};
use agentos_idempotency::{CacheError, IdempotencyError, ToolError};

/// The type of a refusal of the store, as one word.
pub(crate) fn kind(error: &StorageError) -> &'static str {
    match error {
        StorageError::Busy { .. } => "Busy",
        StorageError::CommitUnknown(_) => "CommitUnknown",
        StorageError::LimitExceeded(_) => "LimitExceeded",
        StorageError::Invalid(_) => "Invalid",
        StorageError::NotFound { .. } => "NotFound",
        StorageError::Conflict { .. } => "Conflict",
        StorageError::IllegalTransition { .. } => "IllegalTransition",
        StorageError::StaleLease(_) => "StaleLease",
        StorageError::Closed => "Closed",
        StorageError::DiskFull(_) => "DiskFull",
        StorageError::LogFull { .. } => "LogFull",
        StorageError::ReadOnly(_) => "ReadOnly",
        StorageError::Io(_) => "Io",
        StorageError::Corrupt { .. } => "Corrupt",
        StorageError::NewerSchema { .. } => "NewerSchema",
        StorageError::NotOurs { .. } => "NotOurs",
        StorageError::UnsafeEngine { .. } => "UnsafeEngine",
        StorageError::UnsafeFileSystem { .. } => "UnsafeFileSystem",
        StorageError::Internal { .. } => "Internal",
        _ => "Other",
    }
}

/// The type of any refusal of the library, as one word; `Other` for what is none.
pub(crate) fn kind_of(error: &(dyn Error + 'static)) -> &'static str {
    if let Some(storage) = storage_of(error) {
        return kind(storage);
    }
    if error.is::<StaleLease>() || error.is::<StalePermit>() {
        return "StaleLease";
    }
    match error.downcast_ref::<ToolError>() {
        Some(ToolError::InDoubt { .. }) => return "InDoubt",
        Some(ToolError::InFlight { .. }) => return "InFlight",
        Some(ToolError::Malformed { .. }) => return "Malformed",
        Some(ToolError::Gate(gate)) => return gate_kind(gate),
        _ => {}
    }
    match error.downcast_ref::<CheckpointError>() {
        Some(CheckpointError::Machine(_)) => return "Machine",
        Some(CheckpointError::NotDurable { .. }) => return "NotDurable",
        Some(CheckpointError::BaseDirectory { .. }) => return "Io",
        _ => {}
    }
    if let Some(CacheError::Gate(gate)) = error.downcast_ref::<CacheError<io::Error>>() {
        return gate_kind(gate);
    }
    error
        .downcast_ref::<IdempotencyError>()
        .map_or("Other", gate_kind)
}

fn gate_kind(error: &IdempotencyError) -> &'static str {
    match error {
        IdempotencyError::Storage(error) => kind(error),
        IdempotencyError::Thread(_) => "Machine",
        IdempotencyError::InFlight(_) => "InFlight",
        IdempotencyError::InDoubt(_) => "InDoubt",
        _ => "Other",
    }
}

/// What the store said, if it was the store.
fn storage_of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e StorageError> {
    if let Some(CheckpointError::Storage(storage)) = error.downcast_ref() {
        return Some(storage);
    }
    if let Some(CacheError::Gate(gate)) = error.downcast_ref::<CacheError<io::Error>>() {
        return gate.storage();
    }
    error
        .downcast_ref::<StorageError>()
        // As a sweep has it.
        .or_else(|| Some(error.downcast_ref::<Arc<StorageError>>()?.as_ref()))
        .or_else(|| error.downcast_ref::<ToolError>()?.storage())
        .or_else(|| error.downcast_ref::<IdempotencyError>()?.storage())
}
