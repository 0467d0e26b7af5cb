//! Takes recorded answers out of the cache: one, or all that something fits.

use std::time::Duration;

use agentos_core::records::key::KeyFence;
use agentos_core::{
    Commit, IdempotencyKey, InvalidInput, KeyFilter, KeySummary, PartOutcome, RemoveKeys,
    StorageError, TaskId,
};

use super::{LlmOutputCache, LlmRequest};
use crate::error::IdempotencyError;

/// Which answers are meant: those that everything given fits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Invalidation {
    model: Option<String>,
    operation: Option<String>,
    task: Option<TaskId>,
    older_than: Option<Duration>,
}

impl Invalidation {
    /// All answers of the cache.
    pub fn all() -> Invalidation {
        Invalidation::default()
    }

    /// Those of this model.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Invalidation {
        self.model = Some(model.into());
        self
    }

    /// Those of this operation.
    #[must_use]
    pub fn operation(mut self, operation: impl Into<String>) -> Invalidation {
        self.operation = Some(operation.into());
        self
    }

    /// Those that only this task shares.
    #[must_use]
    pub fn task(mut self, task: TaskId) -> Invalidation {
        self.task = Some(task);
        self
    }

    /// Those that were recorded longer ago, by the wall clock.
    #[must_use]
    pub fn older_than(mut self, age: Duration) -> Invalidation {
        self.older_than = Some(age);
        self
    }
}

impl LlmOutputCache {
    /// Removes the answer to a request. Whether there was one.
    ///
    /// One that somebody is asking the model for stays, and is recorded when it
    /// comes.
    ///
    /// # Errors
    ///
    /// Those of [`LlmRequest::key`], and those of the store.
    pub fn invalidate(&self, request: &LlmRequest) -> Result<bool, IdempotencyError> {
        self.invalidate_key(request.key()?)
    }

    /// Removes the answer under a key of the cache, as
    /// [`LlmOutputCache::invalidate`] does.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] when the key is not one of the cache, and those of
    /// the store.
    pub fn invalidate_key(&self, key: &IdempotencyKey) -> Result<bool, IdempotencyError> {
        if !key.as_str().starts_with(IdempotencyKey::LLM_CACHE) {
            return Err(InvalidInput::new("key", "is not one of the model cache").into());
        }
        let removed = match self.gate.lookup(key) {
            Ok(None) => false,
            Ok(Some(entry)) => self.remove_one(&entry.summary)?,
            // A damaged one is found as well where nobody looks at its seal. Keys of
            // the cache have one length: one that begins with it is it.
            Err(IdempotencyError::Storage(StorageError::Corrupt { .. })) => {
                let filter = KeyFilter {
                    prefix: Some(key.as_str().into()),
                    ..KeyFilter::default()
                };
                0 < self.gate.remove(&filter)?
            }
            Err(error) => return Err(error),
        };
        self.counters.invalidated.add(u64::from(removed));
        Ok(removed)
    }

    /// Removes all answers that are meant, in bounded commits; how many there were.
    /// It looks at every key of the store, unless it is about a task.
    ///
    /// Those that somebody is asking a model for stay, and are recorded when they
    /// come.
    ///
    /// # Errors
    ///
    /// Those of the store; some may have been removed then.
    pub fn invalidate_all(&self, meant: &Invalidation) -> Result<u64, IdempotencyError> {
        let now = self.gate.storage().now();
        let filter = KeyFilter {
            prefix: Some(IdempotencyKey::LLM_CACHE.into()),
            task: meant.task.clone(),
            operation: meant.operation.clone(),
            model: meant.model.clone(),
            changed_before: meant.older_than.map(|age| now.minus(age)),
        };
        let removed = self.gate.remove(&filter)?;
        self.counters.invalidated.add(removed);
        Ok(removed)
    }

    /// Removes exactly what was seen: what another one has recorded since stays.
    pub(super) fn remove_one(&self, seen: &KeySummary) -> Result<bool, IdempotencyError> {
        let fence = KeyFence {
            key: seen.id,
            token: seen.token,
        };
        let part = RemoveKeys { keys: vec![fence] };
        let receipt = self.gate.storage().commit(Commit::new().part(part))?;
        Ok(matches!(
            receipt.outcomes.first(),
            Some(PartOutcome::KeysRemoved(1..))
        ))
    }
}
