//! What is kept under keys: looked at, listed, resolved and removed.

use agentos_core::limits::{PAGE_ROWS_MAX, USED_AT_RESOLUTION};
use agentos_core::{
    Commit, Cursor, Fence, IdempotencyKey, KeyEntry, KeyFence, KeyFilter, KeyId, KeyStatus,
    KeySummary, Page, PartOutcome, RecordedKey, RemoveKeys, Resolution, ResolveKey, TaskId,
    Timestamp,
};

use crate::error::IdempotencyError;
use crate::gate::IdempotencyStore;

impl IdempotencyStore {
    /// What is there under a key. A read that waits for nobody.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`](agentos_core::StorageError::Corrupt) when it is damaged.
    pub fn lookup(&self, key: &IdempotencyKey) -> Result<Option<KeyEntry>, IdempotencyError> {
        Ok(self.gate.storage.find_key(key)?)
    }

    /// What is recorded under a key, and nothing that a replay does not need: what a
    /// hit costs. `None` when nothing is there, or it is pending.
    ///
    /// # Errors
    ///
    /// As [`IdempotencyStore::lookup`].
    pub fn recorded(&self, key: &IdempotencyKey) -> Result<Option<RecordedKey>, IdempotencyError> {
        Ok(self.gate.storage.find_recorded(key)?)
    }

    /// Notes that an outcome was used, where the last use that is known is older than
    /// an hour ([`USED_AT_RESOLUTION`]). It is kept in memory, and written with what is
    /// written anyway, or together with others: a minute later at most, by a thread.
    pub fn touch(&self, key: KeyId, used_at: Timestamp) {
        let fresh_until = used_at.plus(USED_AT_RESOLUTION);
        if fresh_until <= self.gate.storage.now() {
            self.gate.permits.note_use(key);
        }
    }

    /// Keys in doubt, the oldest first, `rows` at a time. A page may have fewer rows,
    /// and yet not be the last.
    ///
    /// # Errors
    ///
    /// As [`KeyStorage::keys_in_doubt`](agentos_core::KeyStorage::keys_in_doubt).
    pub fn in_doubt(
        &self,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, IdempotencyError> {
        Ok(self.gate.storage.keys_in_doubt(after, rows)?)
    }

    /// Ends the doubt about a key. An audit line says how, and why: who found it out,
    /// and how.
    ///
    /// # Errors
    ///
    /// [`StorageError::StaleLease`](agentos_core::StorageError::StaleLease) when it is not that execution which is in doubt;
    /// [`StorageError::IllegalTransition`](agentos_core::StorageError::IllegalTransition) when its permit is not over;
    /// [`StorageError::Invalid`](agentos_core::StorageError::Invalid) without a reason, and those of [`Storage::commit`](agentos_core::Storage::commit).
    pub fn resolve(
        &self,
        key: &KeySummary,
        resolution: Resolution,
        reason: impl Into<String>,
    ) -> Result<(), IdempotencyError> {
        self.resolve_under(None, key, resolution, reason)
    }

    /// As [`IdempotencyStore::resolve`], under the lease of a work item: who has lost it
    /// ends no doubt.
    pub(crate) fn resolve_under(
        &self,
        lease: Option<Fence>,
        key: &KeySummary,
        resolution: Resolution,
        reason: impl Into<String>,
    ) -> Result<(), IdempotencyError> {
        let config = &self.gate.config;
        let resolve = ResolveKey {
            key: key.key.clone(),
            fence: KeyFence {
                key: key.id,
                token: key.token,
            },
            resolution,
            reason: reason.into(),
            sole_start: config.sole_start.then(|| config.owner.clone()),
        };
        let commit = lease.map_or_else(Commit::new, Commit::under);
        self.gate.storage.commit(commit.part(resolve))?;
        self.gate.rooms.ended(&key.key);
        Ok(())
    }

    /// The keys of a task, the oldest first, `rows` at a time.
    ///
    /// # Errors
    ///
    /// As [`KeyStorage::keys`](agentos_core::KeyStorage::keys).
    pub fn history(
        &self,
        task: &TaskId,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, IdempotencyError> {
        let filter = KeyFilter {
            task: Some(task.clone()),
            ..KeyFilter::default()
        };
        Ok(self.gate.storage.keys(&filter, after, rows)?)
    }

    /// Removes the keys that a filter fits and that have an outcome, and says how many
    /// they were. What is pending stays, and so does every key that is made after the
    /// call began, and every outcome that is recorded after it was looked at. Without a
    /// task in the filter it walks over all keys.
    ///
    /// It makes a commit for each thousand of them: after an error some may be gone.
    ///
    /// # Errors
    ///
    /// Those of [`KeyStorage::keys`](agentos_core::KeyStorage::keys) and
    /// [`Storage::commit`](agentos_core::Storage::commit).
    pub fn remove(&self, filter: &KeyFilter) -> Result<u64, IdempotencyError> {
        let storage = &self.gate.storage;
        // The walk ends where the keys do now, by their numbers: a clock that was set
        // back would say of some that they are yet to come.
        let Some(last) = storage.newest_key()? else {
            return Ok(0);
        };
        let (mut removed, mut after) = (0, None);
        loop {
            let page = storage.keys(filter, after, PAGE_ROWS_MAX)?;
            let is_last = page.items.last().is_some_and(|key| last < key.id);
            let keys: Vec<KeyFence> = page
                .items
                .iter()
                .filter(|key| key.id <= last && key.view.status != KeyStatus::Pending)
                .map(|key| KeyFence {
                    key: key.id,
                    token: key.token,
                })
                .collect();
            if !keys.is_empty() {
                let receipt = storage.commit(RemoveKeys { keys }.into())?;
                removed += receipt.outcomes.iter().map(removed_by).sum::<u64>();
            }
            match page.next {
                Some(next) if !is_last => after = Some(next),
                _ => return Ok(removed),
            }
        }
    }
}

fn removed_by(outcome: &PartOutcome) -> u64 {
    match outcome {
        PartOutcome::KeysRemoved(removed) => (*removed).into(),
        _ => 0,
    }
}
