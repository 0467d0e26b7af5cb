//! Canaries about idempotency keys.

use std::time::Duration;

use agentos_core::{
    BeginKey, Begun, Cursor, IdempotencyKey, KeyEntry, KeyFence, KeyFilter, KeyStorage, KeySummary,
    Page, RenewedPermit, StalePermit, StorageError,
};

use super::Canary;

impl KeyStorage for Canary {
    fn begin_key(&self, begin: &BeginKey) -> Result<Begun, StorageError> {
        self.answer(self.store.begin_key(begin))
    }

    fn renew_keys(
        &self,
        fences: &[KeyFence],
        lease: Duration,
    ) -> Result<Vec<Result<RenewedPermit, StalePermit>>, StorageError> {
        self.answer(self.store.renew_keys(fences, lease))
    }

    fn find_key(&self, key: &IdempotencyKey) -> Result<Option<KeyEntry>, StorageError> {
        self.answer(self.store.find_key(key))
    }

    fn keys(
        &self,
        filter: &KeyFilter,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, StorageError> {
        self.answer(self.store.keys(filter, after, rows))
    }

    fn keys_in_doubt(
        &self,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, StorageError> {
        self.answer(self.store.keys_in_doubt(after, rows))
    }
}
