//! What is broken about idempotency keys.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use agentos_core::{
    BeginKey, Begun, Commit, Cursor, Execution, FencingToken, FinishKey, IdempotencyKey,
    KeyDecision, KeyEntry, KeyFence, KeyFilter, KeyId, KeyStatus, KeyStorage, KeySummary, OnLost,
    Page, Part, Permit, PermitHolder, RecordedKey, RenewedPermit, StalePermit, Storage,
    StorageError,
};

use super::BrokenStore;
use crate::canary::Canary;

/// Between the look and the write of a begin that is not atomic.
const CHECK_THEN_ACT: Duration = Duration::from_millis(20);
/// The end of a tool call that did what it was asked, and gave back nothing.
const DONE_WITH_NOTHING: [u8; 2] = [1, 0];

/// Executions that were begun and of which nothing is written yet.
pub(super) type Unwritten = HashMap<KeyFence, BeginKey>;

impl BrokenStore {
    fn unwritten(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit of which the store knows nothing, or which is somebody else's.
    fn permit(&self, begin: &BeginKey, fence: KeyFence, execution: Execution) -> Permit {
        Permit {
            fence,
            key: begin.key.clone(),
            owner: begin.owner.clone(),
            under: begin.under,
            execution,
            deadline: self.store.boot_now().plus(begin.lease),
            expires_at: self.store.now().plus(begin.lease),
        }
    }

    /// [`Canary::BeginUnwritten`]: lets it be executed, and writes nothing.
    fn begin_unwritten(&self, begin: &BeginKey) -> Result<Begun, StorageError> {
        let found = self.store.find_key(&begin.key)?;
        let view = found.as_ref().map(|entry| &entry.summary.view);
        let KeyDecision::Execute(why) = begin.decide(view) else {
            return self.store.begin_key(begin);
        };
        let mut unwritten = self.unwritten();
        let number = i64::try_from(unwritten.len()).unwrap_or(0);
        let fence = KeyFence {
            key: KeyId::new(i64::MAX - number)?,
            token: FencingToken::new(1)?,
        };
        unwritten.insert(fence, begin.clone());
        Ok(Begun::Execute(self.permit(begin, fence, why)))
    }

    /// Writes what was begun together with its end.
    pub(super) fn written_after(&self, commit: Commit) -> Result<Commit, StorageError> {
        let begun = commit.fence().map_or_else(Commit::new, Commit::under);
        commit.parts().iter().cloned().try_fold(begun, |all, part| {
            let Part::FinishKey(finish) = &part else {
                return Ok(all.part(part));
            };
            let Some(begin) = self.unwritten().remove(&finish.fence) else {
                return Ok(all.part(part));
            };
            let fence = match self.store.begin_key(&begin)? {
                Begun::Execute(permit) => permit.fence,
                _ => finish.fence,
            };
            let outcome = finish.outcome.clone();
            Ok(all.part(FinishKey { fence, outcome }))
        })
    }

    /// [`Canary::CheckThenAct`]: looks, and executes on what it saw then.
    fn begin_on_a_look(&self, begin: &BeginKey) -> Result<Begun, StorageError> {
        let found = self.store.find_key(&begin.key)?;
        let view = found.as_ref().map(|entry| &entry.summary.view);
        let KeyDecision::Execute(why) = begin.decide(view) else {
            return self.store.begin_key(begin);
        };
        thread::park_timeout(CHECK_THEN_ACT);
        Ok(match self.store.begin_key(begin)? {
            Begun::InFlight(holder) => Begun::Execute(self.permit(begin, holder.fence, why)),
            begun => begun,
        })
    }

    /// [`Canary::SkipDoubt`]: what was begun counts as done.
    fn as_if_done(&self, begin: &BeginKey, begun: Begun) -> Result<Begun, StorageError> {
        if !matches!(begun, Begun::InDoubt(_)) {
            return Ok(begun);
        }
        let found = self.store.find_key(&begin.key)?;
        let done = found.map(done);
        Ok(done.map_or(begun, |entry| Begun::Replay(Box::new(entry))))
    }
}

fn is_over(entry: &KeyEntry) -> bool {
    let permit: Option<&PermitHolder> = entry.summary.view.permit.as_ref();
    permit.is_some_and(|permit| permit.left.is_none())
}

fn done(mut entry: KeyEntry) -> KeyEntry {
    entry.summary.view.status = KeyStatus::Succeeded;
    entry.summary.view.permit = None;
    entry.outcome = Some(DONE_WITH_NOTHING.to_vec());
    entry
}

impl KeyStorage for BrokenStore {
    fn begin_key(&self, begin: &BeginKey) -> Result<Begun, StorageError> {
        match self.canary {
            Canary::BeginUnwritten => self.begin_unwritten(begin),
            Canary::CheckThenAct => self.begin_on_a_look(begin),
            Canary::SkipDoubt => self.as_if_done(begin, self.store.begin_key(begin)?),
            Canary::PendingIsAbsent => self.store.begin_key(&BeginKey {
                on_lost: OnLost::TakeOver,
                ..begin.clone()
            }),
            _ => self.store.begin_key(begin),
        }
    }

    fn renew_keys(
        &self,
        fences: &[KeyFence],
        lease: Duration,
    ) -> Result<Vec<Result<RenewedPermit, StalePermit>>, StorageError> {
        if self.canary != Canary::BeginUnwritten {
            return self.store.renew_keys(fences, lease);
        }
        let deadline = self.store.boot_now().plus(lease);
        let renewed = |fence: &KeyFence| {
            Ok(RenewedPermit {
                fence: *fence,
                deadline: deadline.clone(),
            })
        };
        Ok(fences.iter().map(renewed).collect())
    }

    fn find_key(&self, key: &IdempotencyKey) -> Result<Option<KeyEntry>, StorageError> {
        let found = self.store.find_key(key)?;
        Ok(match (self.canary, found) {
            (Canary::PendingIsAbsent, Some(entry))
                if entry.summary.view.status == KeyStatus::Pending =>
            {
                None
            }
            (Canary::SkipDoubt, Some(entry)) if is_over(&entry) => Some(done(entry)),
            (_, found) => found,
        })
    }

    fn find_recorded(&self, key: &IdempotencyKey) -> Result<Option<RecordedKey>, StorageError> {
        match self.canary {
            // Broken in the same way, whichever look it is.
            Canary::PendingIsAbsent | Canary::SkipDoubt => {
                Ok(self.find_key(key)?.and_then(RecordedKey::of))
            }
            _ => self.store.find_recorded(key),
        }
    }

    fn newest_key(&self) -> Result<Option<KeyId>, StorageError> {
        self.store.newest_key()
    }

    fn keys(
        &self,
        filter: &KeyFilter,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, StorageError> {
        self.store.keys(filter, after, rows)
    }

    fn keys_in_doubt(
        &self,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, StorageError> {
        self.store.keys_in_doubt(after, rows)
    }
}
