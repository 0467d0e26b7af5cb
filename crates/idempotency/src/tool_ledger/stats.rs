//! What a ledger did, in numbers.

use crate::stats::{Counter, fraction};

/// What a ledger did since it was made, in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerStats {
    /// Bodies that were run, however they ended.
    pub executions: u64,
    /// Calls that were answered with what is recorded.
    pub replays: u64,
    /// Of the executions, those of a call of which nobody knew whether it had happened.
    pub retried_in_doubt: u64,
    /// Of the executions, those of a call whose failure was recorded.
    pub rerun_failures: u64,
    /// Failures that were recorded.
    pub failures: u64,
    /// Outputs beyond the limit.
    pub too_large: u64,
    /// Bodies that said that nothing happened.
    pub not_done: u64,
    /// Bodies after which nobody knows: they said so, or panicked, or what they gave back
    /// was dropped before it was recorded.
    pub unknown: u64,
    /// Recordings that failed; each was handed back to the caller.
    pub unrecorded: u64,
    /// Recordings that were refused, since the right to record was lost meanwhile.
    pub lost: u64,
    /// Answers that somebody else runs it.
    pub in_flight: u64,
    /// Answers that it is in doubt.
    pub in_doubt: u64,
    /// Doubts that ended here, by a probe, an operator or by giving up.
    pub resolved: u64,
    /// Of these, those that a probe ended.
    pub verified: u64,
    /// Of these, those that were given up.
    pub given_up: u64,
}

impl LedgerStats {
    /// Which part of the calls that were answered was answered with what is recorded: 0
    /// to 1.
    pub fn replay_rate(&self) -> f64 {
        fraction(self.replays, self.executions)
    }
}

#[derive(Debug, Default)]
pub(crate) struct LedgerCounters {
    pub(crate) executions: Counter,
    pub(crate) replays: Counter,
    pub(crate) retried_in_doubt: Counter,
    pub(crate) rerun_failures: Counter,
    pub(crate) failures: Counter,
    pub(crate) too_large: Counter,
    pub(crate) not_done: Counter,
    pub(crate) unknown: Counter,
    pub(crate) unrecorded: Counter,
    pub(crate) lost: Counter,
    pub(crate) in_flight: Counter,
    pub(crate) in_doubt: Counter,
    pub(crate) resolved: Counter,
    pub(crate) verified: Counter,
    pub(crate) given_up: Counter,
}

impl LedgerCounters {
    pub(crate) fn read(&self) -> LedgerStats {
        LedgerStats {
            executions: self.executions.get(),
            replays: self.replays.get(),
            retried_in_doubt: self.retried_in_doubt.get(),
            rerun_failures: self.rerun_failures.get(),
            failures: self.failures.get(),
            too_large: self.too_large.get(),
            not_done: self.not_done.get(),
            unknown: self.unknown.get(),
            unrecorded: self.unrecorded.get(),
            lost: self.lost.get(),
            in_flight: self.in_flight.get(),
            in_doubt: self.in_doubt.get(),
            resolved: self.resolved.get(),
            verified: self.verified.get(),
            given_up: self.given_up.get(),
        }
    }
}
