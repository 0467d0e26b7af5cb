//! Counters of a cache, since it was made, in this process.

use agentos_core::Execution;
use serde::Serialize;

use super::envelope::Usage;
use super::error::NotStored;
use crate::stats::{Counter, fraction};

/// What a cache did since it was made.
///
/// Each call that gets an answer, or whose generator was run, is a hit or a miss and
/// never both: a miss is a run of the generator, whatever came of it. Calls that were
/// refused before that, and those that waited in vain, are neither.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct CacheStats {
    /// Answers that were given without running a generator.
    pub cache_hits: u64,
    /// Runs of a generator.
    pub cache_misses: u64,
    /// Hits among both, from 0 to 1; 0 when there were none.
    pub hit_rate: f64,
    /// Bytes of the answers that were given as hits.
    pub bytes_saved: u64,
    /// Tokens that these answers had cost, where it was known.
    pub tokens_saved: u64,
    /// Price of these answers, in millionths, where it was known.
    pub cost_saved_micros: u64,
    /// Hits of these for which somebody else had to be waited for.
    pub waits: u64,
    /// Calls that waited for somebody else until their time was over.
    pub timeouts: u64,
    /// Misses because the caller wanted a new answer, whatever was recorded.
    pub refreshes: u64,
    /// Misses because what was recorded had expired.
    pub expired: u64,
    /// Misses because whoever was asking the model was gone.
    pub taken_over: u64,
    /// Recorded answers that were damaged, or not in the form that was asked for.
    pub unreadable: u64,
    /// Generators that failed or panicked.
    pub failures: u64,
    /// Answers that were paid for and not stored, for any reason.
    pub not_stored: u64,
    /// Those of them that the predicate, or whoever gave the answer, kept out.
    pub not_kept: u64,
    /// Those of them whose permit was lost; another answer may have been recorded.
    pub permits_lost: u64,
    /// Recorded answers that were removed on demand.
    pub invalidated: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    hits: Counter,
    misses: Counter,
    bytes_saved: Counter,
    tokens_saved: Counter,
    cost_saved_micros: Counter,
    waits: Counter,
    pub(crate) timeouts: Counter,
    refreshes: Counter,
    expired: Counter,
    taken_over: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) failures: Counter,
    not_stored: Counter,
    not_kept: Counter,
    permits_lost: Counter,
    pub(crate) invalidated: Counter,
}

impl Counters {
    pub(crate) fn hit(&self, bytes: usize, usage: Option<Usage>, waited: bool) {
        self.hits.add(1);
        self.bytes_saved.add(bytes as u64);
        if let Some(usage) = usage {
            self.tokens_saved.add(usage.tokens());
            self.cost_saved_micros.add(usage.cost_micros);
        }
        if waited {
            self.waits.add(1);
        }
    }

    /// The generator runs, for this reason if it has a permit.
    pub(crate) fn miss(&self, execution: Option<Execution>, is_refresh: bool) {
        self.misses.add(1);
        self.refreshes.add(u64::from(is_refresh));
        match execution {
            Some(Execution::AfterExpiry) => self.expired.add(1),
            Some(Execution::TakenOver) => self.taken_over.add(1),
            Some(Execution::AfterDamage) => self.unreadable.add(1),
            Some(Execution::First | Execution::AfterFailure | Execution::Again) | None => {}
        }
    }

    pub(crate) fn not_stored(&self, why: &NotStored) {
        self.not_stored.add(1);
        match why {
            NotStored::NotKept => self.not_kept.add(1),
            NotStored::PermitLost => self.permits_lost.add(1),
            _ => {}
        }
    }

    pub(crate) fn read(&self) -> CacheStats {
        let (cache_hits, cache_misses) = (self.hits.get(), self.misses.get());
        CacheStats {
            cache_hits,
            cache_misses,
            hit_rate: fraction(cache_hits, cache_misses),
            bytes_saved: self.bytes_saved.get(),
            tokens_saved: self.tokens_saved.get(),
            cost_saved_micros: self.cost_saved_micros.get(),
            waits: self.waits.get(),
            timeouts: self.timeouts.get(),
            refreshes: self.refreshes.get(),
            expired: self.expired.get(),
            taken_over: self.taken_over.get(),
            unreadable: self.unreadable.get(),
            failures: self.failures.get(),
            not_stored: self.not_stored.get(),
            not_kept: self.not_kept.get(),
            permits_lost: self.permits_lost.get(),
            invalidated: self.invalidated.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hit_rate_is_a_fraction_and_zero_of_nothing_is_zero() {
        let counters = Counters::default();
        assert_eq!(counters.read(), CacheStats::default());
        counters.miss(Some(Execution::First), false);
        assert_eq!(counters.read().hit_rate, 0.0);
        counters.hit(3, None, false);
        assert_eq!(counters.read().hit_rate, 0.5);
        let usage = Usage {
            prompt_tokens: 5,
            completion_tokens: 2,
            cost_micros: 11,
        };
        counters.hit(4, Some(usage), true);
        counters.hit(0, Some(usage), false);
        let expected = CacheStats {
            cache_hits: 3,
            cache_misses: 1,
            hit_rate: 0.75,
            bytes_saved: 7,
            tokens_saved: 14,
            cost_saved_micros: 22,
            waits: 1,
            ..CacheStats::default()
        };
        assert_eq!(counters.read(), expected);
    }
}
