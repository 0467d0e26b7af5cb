//! Permits that are over as they are given, since the store took longer than they last.
//!
//! Nothing is executed under such a permit. It is renewed once: its token says whether
//! it is still the newest. If that fails or takes too long as well, it is given back as
//! what it was before: what may have happened stays in doubt, and what was recorded is
//! recorded again, for nothing was executed.

use std::time::Duration;

use agentos_core::limits::TTL_MAX;
use agentos_core::{
    AbandonKey, BootTime, Commit, DoubtKey, Execution, FinishKey, KeyEntry, KeyStatus, NewOutcome,
    Part, Permit, StorageError, Timestamp,
};

use crate::gate::Gate;
use crate::permits::earlier;

impl Gate {
    /// The permit that was asked for at a moment, if it is not over: with a deadline
    /// that counts from before the request. `None`: somebody else has it by now.
    ///
    /// # Errors
    ///
    /// [`StorageError::Busy`] when it was over, and was given back;
    /// [`StorageError::StaleLease`] when the lease of its work item is; and those of
    /// [`renew_keys`](agentos_core::KeyStorage::renew_keys).
    pub(crate) fn in_time(
        &self,
        mut permit: Permit,
        asked: &BootTime,
        before: Option<Box<KeyEntry>>,
    ) -> Result<Option<Permit>, StorageError> {
        permit.deadline = self.counted(&permit, asked, &permit.deadline);
        if !self.is_past(&permit.deadline) {
            return Ok(Some(permit));
        }
        let asked_again = self.storage.boot_now();
        let renewed = self
            .storage
            .renew_keys(&[permit.fence], self.config.lease)
            .map(|mut answers| answers.pop());
        let refusal = match renewed {
            Ok(Some(Ok(renewed))) => {
                permit.deadline = self.counted(&permit, &asked_again, &renewed.deadline);
                if !self.is_past(&permit.deadline) {
                    return Ok(Some(permit));
                }
                self.busy_since(asked)
            }
            Ok(Some(Err(stale))) if permit.under.is_some() => stale.into(),
            Ok(Some(Err(_)) | None) => return Ok(None),
            Err(error) => error,
        };
        self.counters.late.add(1);
        let key = &permit.key;
        tracing::warn!(%key, %refusal, "a permit was over before it was given");
        self.give_back(&permit, before);
        Err(refusal)
    }

    /// That it took the store so long to give a permit which is over now.
    pub(crate) fn busy_since(&self, asked: &BootTime) -> StorageError {
        StorageError::Busy {
            waited: asked.until(&self.storage.boot_now()),
        }
    }

    /// Under a lease the permit lasts as long as that, which others renew.
    fn counted(&self, permit: &Permit, asked: &BootTime, given: &BootTime) -> BootTime {
        match permit.under {
            Some(_) => given.clone(),
            None => earlier(&asked.plus(self.config.lease), given),
        }
    }

    fn is_past(&self, deadline: &BootTime) -> bool {
        self.storage.boot_now().until(deadline).is_zero()
    }

    /// Ends a permit under which nothing was executed. Where that cannot be recorded
    /// the key is in doubt, as after any permit that ran out.
    fn give_back(&self, permit: &Permit, before: Option<Box<KeyEntry>>) {
        let fence = permit.fence;
        let part: Part = match permit.execution {
            Execution::First | Execution::AfterExpiry => AbandonKey { fence }.into(),
            Execution::AfterFailure | Execution::Again => {
                let before =
                    before.and_then(|before| replaced(*before, permit, self.storage.now()));
                match before {
                    Some(outcome) => FinishKey { fence, outcome }.into(),
                    None => DoubtKey { fence }.into(),
                }
            }
            Execution::AfterDamage | Execution::TakenOver => DoubtKey { fence }.into(),
        };
        let commit = permit.under.map_or_else(Commit::new, Commit::under);
        if let Err(error) = self.storage.commit(commit.part(part)) {
            let key = &permit.key;
            tracing::warn!(%key, %error, "a permit could not be given back");
        }
        self.rooms.ended(&permit.key);
    }
}

/// The outcome in whose place a permit came: that of the execution before it.
fn replaced(before: KeyEntry, permit: &Permit, now: Timestamp) -> Option<NewOutcome> {
    let KeyEntry {
        summary, outcome, ..
    } = before;
    let is_last = summary.id == permit.fence.key
        && summary.token.get().checked_add(1) == Some(permit.fence.token.get());
    // It expires when it would have, or at once if it has by now.
    let left = |at: Timestamp| {
        let micros = at.unix_micros().saturating_sub(now.unix_micros());
        Duration::from_micros(u64::try_from(micros).unwrap_or(0).max(1)).min(TTL_MAX)
    };
    is_last.then_some(NewOutcome {
        failed: summary.view.status == KeyStatus::Failed,
        bytes: outcome?,
        ttl: summary.expires_at.map(left),
    })
}
