//! What a gate did, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a gate did since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GateStats {
    /// Executions that were permitted.
    pub executions: u64,
    /// Of these, those whose last owner was gone.
    pub takeovers: u64,
    /// Outcomes that were replayed.
    pub replays: u64,
    /// Answers that somebody else executes it.
    pub in_flight: u64,
    /// Answers that it is in doubt.
    pub in_doubt: u64,
    /// Requests whose key stood for another one.
    pub conflicts: u64,
    /// Records that were found damaged.
    pub damaged: u64,
    /// Requests that waited for somebody else.
    pub waits: u64,
    /// Outcomes that were recorded by the gate itself.
    pub finished: u64,
    /// Ends that were refused, since their permit was over.
    pub stale: u64,
    /// Permits that are renewed now.
    pub held: u64,
    /// Renewals: commits, each of all permits that were held then.
    pub renewals: u64,
    /// Permits that were renewed, each time counted.
    pub renewed: u64,
    /// Renewals that failed as a whole; each was tried again.
    pub renewal_errors: u64,
    /// Permits that were lost while they were held here.
    pub lost: u64,
    /// Permits that were over before the store had given them, and were given back.
    pub late: u64,
}

/// The part that `part` is of itself and `rest` together; 0 when both are 0.
pub fn fraction(part: u64, rest: u64) -> f64 {
    let whole = part.saturating_add(rest);
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// A number that grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The numbers of a gate.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) executions: Counter,
    pub(crate) takeovers: Counter,
    pub(crate) replays: Counter,
    pub(crate) in_flight: Counter,
    pub(crate) in_doubt: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) damaged: Counter,
    pub(crate) waits: Counter,
    pub(crate) finished: Counter,
    pub(crate) stale: Counter,
    pub(crate) renewals: Counter,
    pub(crate) renewed: Counter,
    pub(crate) renewal_errors: Counter,
    pub(crate) lost: Counter,
    pub(crate) late: Counter,
}

impl Counters {
    pub(crate) fn read(&self, held: u64) -> GateStats {
        GateStats {
            executions: self.executions.get(),
            takeovers: self.takeovers.get(),
            replays: self.replays.get(),
            in_flight: self.in_flight.get(),
            in_doubt: self.in_doubt.get(),
            conflicts: self.conflicts.get(),
            damaged: self.damaged.get(),
            waits: self.waits.get(),
            finished: self.finished.get(),
            stale: self.stale.get(),
            held,
            renewals: self.renewals.get(),
            renewed: self.renewed.get(),
            renewal_errors: self.renewal_errors.get(),
            lost: self.lost.get(),
            late: self.late.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_nothing_is_zero() {
        assert_eq!(fraction(0, 0).to_bits(), 0.0_f64.to_bits());
        assert_eq!(fraction(500, 500).to_bits(), 0.5_f64.to_bits());
        assert_eq!(fraction(0, 7).to_bits(), 0.0_f64.to_bits());
        assert_eq!(fraction(u64::MAX, u64::MAX).to_bits(), 1.0_f64.to_bits());
    }
}
