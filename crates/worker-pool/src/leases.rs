//! Leases: claims work for one worker, renews, and ends what is held.
//!
//! A lease is a plain record with a fencing token; every write under it is checked
//! against that token in its own transaction. The deadline in a lease from here is
//! counted from *before* the request was made, so it is never later than what the
//! store recorded: who stops at it has stopped before anybody can take over.

use std::sync::Arc;
use std::time::Duration;

use agentos_core::limits::{LEASE_DEFAULT, RENEW_LEASES_MAX};
use agentos_core::storage::check_lease;
use agentos_core::{
    BootTime, ClaimRequest, Commit, CompleteWork, FailWork, Fence, Lease, Next, PartOutcome,
    ReleaseWork, Renewed, Retry, RetryRule, StaleLease, Storage, StorageError, WorkFilter, Worker,
};

use crate::reason::storable;
use crate::unexpected;

/// How work is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseConfig {
    /// For how long: 100 ms to 24 h; 30 s unless changed. A worker that dies is
    /// replaced after this time.
    pub lease: Duration,
    /// What follows for items whose expired leases a claim takes away on its way.
    pub after_loss: RetryRule,
}

impl Default for LeaseConfig {
    fn default() -> LeaseConfig {
        LeaseConfig {
            lease: LEASE_DEFAULT,
            after_loss: RetryRule::default(),
        }
    }
}

impl LeaseConfig {
    /// Checks everything that has a bound.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`].
    pub fn check(&self) -> Result<(), StorageError> {
        check_lease(self.lease)?;
        self.after_loss.check()
    }
}

/// Claims work for one worker, and ends what it holds. Cloning it is cheap.
///
/// It renews nothing by itself: see [`Heartbeat`](crate::Heartbeat).
#[derive(Clone)]
pub struct LeaseManager {
    storage: Arc<dyn Storage>,
    worker: Worker,
    config: LeaseConfig,
}

impl std::fmt::Debug for LeaseManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseManager")
            .field("worker", &self.worker)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl LeaseManager {
    /// Leases of this worker, which should be a start of its own
    /// ([`Worker::start`]).
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] when the configuration can never be right.
    pub fn new(
        storage: Arc<dyn Storage>,
        worker: Worker,
        config: LeaseConfig,
    ) -> Result<LeaseManager, StorageError> {
        config.check()?;
        Ok(LeaseManager {
            storage,
            worker,
            config,
        })
    }

    /// Who claims.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// How work is claimed.
    pub fn config(&self) -> &LeaseConfig {
        &self.config
    }

    /// Claims the most urgent due item, or none when there is none.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] and [`StorageError::LimitExceeded`] for the filter,
    /// and those of [`Storage::commit`]. After [`StorageError::CommitUnknown`] an
    /// item may be held under a lease that nobody knows; it runs out by itself.
    pub fn claim(&self, filter: &WorkFilter) -> Result<Option<Lease>, StorageError> {
        Ok(self.claim_up_to(filter, 1)?.pop())
    }

    /// Claims the most urgent due items, at most `items` of them: 1 to 256.
    ///
    /// # Errors
    ///
    /// As [`LeaseManager::claim`].
    pub fn claim_up_to(&self, filter: &WorkFilter, items: u32) -> Result<Vec<Lease>, StorageError> {
        let request = ClaimRequest {
            filter: filter.clone(),
            lease: self.config.lease,
            items,
            after_loss: self.config.after_loss,
            ..ClaimRequest::new(self.worker.clone())
        };
        let counted = self.storage.boot_now().plus(self.config.lease);
        let mut leases = self.storage.claim(&request)?;
        for lease in &mut leases {
            lease.deadline = earlier(&counted, &lease.deadline);
        }
        Ok(leases)
    }

    /// Renews a lease for the configured time from now on. One that has expired and
    /// was not taken away is renewed as well.
    ///
    /// # Errors
    ///
    /// [`StorageError::StaleLease`] when it is lost, and those of
    /// [`Storage::commit`]; the lease is as it was.
    pub fn renew(&self, lease: &mut Lease) -> Result<(), StorageError> {
        let mut answers = self.renew_all(std::slice::from_mut(lease))?;
        match answers.pop() {
            Some(answer) => Ok(answer?),
            None => Err(unexpected("renewing a lease", &answers)),
        }
    }

    /// Renews leases, in one commit for up to 4096 of them
    /// ([`RENEW_LEASES_MAX`]). The answers are in the order of the leases; one that
    /// is lost is no error of the call.
    ///
    /// # Errors
    ///
    /// Those of [`Storage::commit`]. Of more than 4096 leases, those of earlier
    /// commits are renewed then, and say so.
    pub fn renew_all(
        &self,
        leases: &mut [Lease],
    ) -> Result<Vec<Result<(), StaleLease>>, StorageError> {
        let mut answers = Vec::with_capacity(leases.len());
        for some in leases.chunks_mut(RENEW_LEASES_MAX) {
            let fences: Vec<Fence> = some.iter().map(Fence::from).collect();
            let renewed = renew_counted(self.storage.as_ref(), &fences, self.config.lease)?;
            for (lease, answer) in some.iter_mut().zip(renewed) {
                answers.push(answer.map(|renewed| {
                    lease.duration = self.config.lease;
                    lease.expires_at = renewed.expires_at;
                    lease.deadline = renewed.deadline;
                }));
            }
        }
        Ok(answers)
    }

    /// The part that gives an item back, for a commit under its lease.
    pub fn prepare_release(&self, lease: &Lease, reason: Option<&str>) -> ReleaseWork {
        ReleaseWork {
            fence: lease.fence,
            reason: reason.map(storable),
        }
    }

    /// Gives an item back: it can be claimed at once, and the attempt does not
    /// count.
    ///
    /// # Errors
    ///
    /// [`StorageError::StaleLease`] when it is not held any more, and those of
    /// [`Storage::commit`].
    pub fn release(&self, lease: &Lease, reason: Option<&str>) -> Result<(), StorageError> {
        let part = self.prepare_release(lease, reason);
        let commit = Commit::under(lease).part(part);
        self.storage.commit(commit).map(drop)
    }

    /// The part that completes an item, for a commit under its lease.
    pub fn prepare_complete(&self, lease: &Lease, result: Option<Vec<u8>>) -> CompleteWork {
        CompleteWork {
            fence: lease.fence,
            result,
        }
    }

    /// Completes an item. An empty result is a result, and not the same as none.
    ///
    /// # Errors
    ///
    /// As [`LeaseManager::release`]; [`StorageError::LimitExceeded`] for a result
    /// that is too large.
    pub fn complete(&self, lease: &Lease, result: Option<Vec<u8>>) -> Result<(), StorageError> {
        let part = self.prepare_complete(lease, result);
        let commit = Commit::under(lease).part(part);
        self.storage.commit(commit).map(drop)
    }

    /// The part that reports a failed attempt, for a commit under its lease. A
    /// reason of more than 4096 bytes is cut, and NUL in it is replaced: a failure
    /// can always be reported.
    pub fn prepare_fail(&self, lease: &Lease, reason: &str, retry: Retry) -> FailWork {
        FailWork {
            fence: lease.fence,
            reason: storable(reason),
            retry,
        }
    }

    /// Reports that the attempt failed, and says what follows. The reason is cut and
    /// cleaned as in [`LeaseManager::prepare_fail`].
    ///
    /// # Errors
    ///
    /// As [`LeaseManager::release`]; [`StorageError::Invalid`] for a retry rule that
    /// can never be right.
    pub fn fail(&self, lease: &Lease, reason: &str, retry: Retry) -> Result<Next, StorageError> {
        let part = self.prepare_fail(lease, reason, retry);
        let receipt = self.storage.commit(Commit::under(lease).part(part))?;
        match receipt.outcomes.first() {
            Some(PartOutcome::WorkFailed(next)) => Ok(*next),
            _ => Err(unexpected("reporting a failure", &receipt)),
        }
    }
}

/// Renews leases in one commit; their deadlines are counted from before the request.
pub(crate) fn renew_counted(
    storage: &dyn Storage,
    fences: &[Fence],
    lease: Duration,
) -> Result<Vec<Result<Renewed, StaleLease>>, StorageError> {
    let counted = storage.boot_now().plus(lease);
    let mut answers = storage.renew(fences, lease)?;
    if answers.len() != fences.len() {
        return Err(unexpected("renewing leases", &answers));
    }
    for renewed in answers.iter_mut().flatten() {
        renewed.deadline = earlier(&counted, &renewed.deadline);
    }
    Ok(answers)
}

/// The earlier of two deadlines. When the machine was booted in between, the one
/// that was counted, which is over then.
fn earlier(counted: &BootTime, recorded: &BootTime) -> BootTime {
    if counted.boot == recorded.boot && recorded.micros < counted.micros {
        recorded.clone()
    } else {
        counted.clone()
    }
}

#[cfg(test)]
mod tests {
    use agentos_core::BootId;

    use super::*;

    fn moment(boot: &str, micros: i64) -> BootTime {
        BootTime {
            boot: BootId::new(boot),
            micros,
        }
    }

    #[test]
    fn the_earlier_deadline_counts_and_an_earlier_boot_is_over() {
        for (counted, recorded, expected) in [
            (("a", 5), ("a", 7), ("a", 5)),
            (("a", 7), ("a", 5), ("a", 5)),
            (("a", 7), ("b", 5), ("a", 7)),
        ] {
            let (counted, recorded) =
                (moment(counted.0, counted.1), moment(recorded.0, recorded.1));
            assert_eq!(earlier(&counted, &recorded), moment(expected.0, expected.1));
        }
    }

    #[test]
    fn a_configuration_that_can_never_be_right_is_refused() {
        assert!(LeaseConfig::default().check().is_ok());
        let short = LeaseConfig {
            lease: Duration::from_millis(99),
            ..LeaseConfig::default()
        };
        assert!(short.check().is_err());
        let rule = LeaseConfig {
            after_loss: RetryRule {
                factor: 0,
                ..RetryRule::default()
            },
            ..LeaseConfig::default()
        };
        assert!(rule.check().is_err());
    }
}
