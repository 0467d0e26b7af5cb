//! What follows a lost or failed attempt, and when. Pure: no clock, no store.

use std::time::Duration;

use crate::error::{InvalidInput, StorageError};
use crate::ids::{FencingToken, WorkItemId};
use crate::limits::{
    RETRY_FACTOR_DEFAULT, RETRY_FACTOR_MAX, RETRY_FIRST_DEFAULT, RETRY_MOST_DEFAULT,
    RETRY_PAUSE_MAX,
};

/// Exponential backoff: the pause before the second attempt, how much longer each
/// further one is, and the longest.
///
/// Half of each pause is fixed and half is spread by chance ("equal jitter" of
/// Marc Brooker, "Exponential Backoff And Jitter", 2015), so that items that
/// failed together are not tried again together. The chance is a hash of item and
/// token: the same attempt always gets the same pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRule {
    /// Pause after the first attempt. 1 s unless changed.
    pub first: Duration,
    /// How many times longer the next pause is. 2 unless changed.
    pub factor: u32,
    /// The longest pause. An hour unless changed.
    pub most: Duration,
}

impl Default for RetryRule {
    fn default() -> RetryRule {
        RetryRule {
            first: RETRY_FIRST_DEFAULT,
            factor: RETRY_FACTOR_DEFAULT,
            most: RETRY_MOST_DEFAULT,
        }
    }
}

impl RetryRule {
    /// No pause at all.
    pub const AT_ONCE: RetryRule = RetryRule {
        first: Duration::ZERO,
        factor: 1,
        most: Duration::ZERO,
    };

    /// Checks that it is within its bounds.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`].
    pub fn check(&self) -> Result<(), StorageError> {
        let invalid = |reason: String| Err(InvalidInput::new("retry rule", reason).into());
        if !(1..=RETRY_FACTOR_MAX).contains(&self.factor) {
            return invalid(format!(
                "has a factor of {}, not 1 to {RETRY_FACTOR_MAX}",
                self.factor
            ));
        }
        if RETRY_PAUSE_MAX < self.first || RETRY_PAUSE_MAX < self.most {
            return invalid(format!("has a pause longer than {RETRY_PAUSE_MAX:?}"));
        }
        if self.most < self.first {
            return invalid("has a first pause longer than the longest".into());
        }
        Ok(())
    }

    /// The pause after attempt number `attempts`: between half of what the rule
    /// says and all of it, as `chance` says.
    pub fn pause(&self, attempts: u32, chance: u64) -> Duration {
        if self.first.is_zero() {
            return Duration::ZERO;
        }
        let grown = self
            .factor
            .checked_pow(attempts.saturating_sub(1))
            .and_then(|times| self.first.checked_mul(times))
            .map_or(self.most, |pause| pause.min(self.most));
        let half = grown / 2;
        let micros = u64::try_from((grown - half).as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(chance % micros.saturating_add(1))
    }
}

/// What the one who reports a failure wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Another attempt after a pause that grows, if one is left.
    Backoff(RetryRule),
    /// Another attempt after this pause, if one is left.
    After(Duration),
    /// No other attempt: the dead letter.
    Never,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry::Backoff(RetryRule::default())
    }
}

impl Retry {
    /// Checks that it is within its bounds.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`].
    pub fn check(&self) -> Result<(), StorageError> {
        match self {
            Retry::Backoff(rule) => rule.check(),
            Retry::After(pause) if RETRY_PAUSE_MAX < *pause => {
                let reason = format!("is longer than {RETRY_PAUSE_MAX:?}");
                Err(InvalidInput::new("pause before a retry", reason).into())
            }
            Retry::After(_) | Retry::Never => Ok(()),
        }
    }
}

/// How often an item was tried, the attempt that has ended included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Attempts so far.
    pub attempts: u32,
    /// Most attempts.
    pub max_attempts: u32,
    /// How many of the earlier ones were lost: their lease ran out.
    pub losses: u32,
}

/// What follows an attempt that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It waits to be claimed again, from so much later on.
    Requeue {
        /// How much later.
        pause: Duration,
    },
    /// No attempt is left, or none is wanted.
    DeadLetter,
}

/// What follows a lease that ran out. The first loss says little about the item
/// and costs no pause.
pub fn after_loss(tried: Tried, rule: &RetryRule, chance: u64) -> Next {
    if tried.attempts >= tried.max_attempts {
        Next::DeadLetter
    } else if tried.losses == 0 {
        Next::Requeue {
            pause: Duration::ZERO,
        }
    } else {
        Next::Requeue {
            pause: rule.pause(tried.attempts, chance),
        }
    }
}

/// What follows a failure that the holder reported.
pub fn after_failure(tried: Tried, retry: &Retry, chance: u64) -> Next {
    if tried.attempts >= tried.max_attempts {
        return Next::DeadLetter;
    }
    match retry {
        Retry::Never => Next::DeadLetter,
        Retry::After(pause) => Next::Requeue { pause: *pause },
        Retry::Backoff(rule) => Next::Requeue {
            pause: rule.pause(tried.attempts, chance),
        },
    }
}

/// The chance of an attempt, the same whenever it is asked for: the finalizer of
/// SplitMix64 (Steele, Lea and Flood, 2014) over item and token.
pub fn chance(item: WorkItemId, token: FencingToken) -> u64 {
    let seed = item.get().cast_unsigned().rotate_left(32) ^ token.get().cast_unsigned();
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: RetryRule = RetryRule {
        first: Duration::from_secs(1),
        factor: 2,
        most: Duration::from_secs(60),
    };

    fn tried(attempts: u32, losses: u32) -> Tried {
        Tried {
            attempts,
            max_attempts: 3,
            losses,
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_keep_half() {
        for (attempts, seconds) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (200, 60)] {
            let whole = Duration::from_secs(seconds);
            assert_eq!(RULE.pause(attempts, 0), whole / 2, "{attempts}");
            let micros = u64::try_from((whole / 2).as_micros()).unwrap();
            assert_eq!(RULE.pause(attempts, micros), whole, "{attempts}");
            for chance in [1, 77, u64::MAX, 0x0123_4567_89ab_cdef] {
                let pause = RULE.pause(attempts, chance);
                assert!(
                    whole / 2 <= pause && pause <= whole,
                    "{attempts}: {pause:?}"
                );
            }
        }
        assert_eq!(RetryRule::AT_ONCE.pause(9, 7), Duration::ZERO);
        let nothing = RetryRule {
            first: Duration::ZERO,
            ..RULE
        };
        assert_eq!(nothing.pause(100, 7), Duration::ZERO);
    }

    #[test]
    fn the_first_loss_costs_no_pause_and_the_last_attempt_ends_it() {
        let at_once = Next::Requeue {
            pause: Duration::ZERO,
        };
        assert_eq!(after_loss(tried(1, 0), &RULE, 0), at_once);
        let half_of_two = Duration::from_secs(1);
        let later = Next::Requeue { pause: half_of_two };
        assert_eq!(after_loss(tried(2, 1), &RULE, 0), later);
        assert_eq!(after_loss(tried(3, 0), &RULE, 0), Next::DeadLetter);
        assert_eq!(after_loss(tried(3, 2), &RULE, 0), Next::DeadLetter);
    }

    #[test]
    fn a_failure_is_retried_as_asked_while_an_attempt_is_left() {
        let pause = Duration::from_secs(7);
        let after = Retry::After(pause);
        assert_eq!(
            after_failure(tried(1, 0), &after, 0),
            Next::Requeue { pause }
        );
        assert_eq!(after_failure(tried(3, 0), &after, 0), Next::DeadLetter);
        assert_eq!(
            after_failure(tried(1, 0), &Retry::Never, 0),
            Next::DeadLetter
        );
        let backoff = Retry::Backoff(RULE);
        let pause = Duration::from_millis(500);
        assert_eq!(
            after_failure(tried(1, 0), &backoff, 0),
            Next::Requeue { pause }
        );
    }

    #[test]
    fn chances_differ_between_items_and_between_claims() {
        let chance = |item, token| {
            let item = WorkItemId::new(item).unwrap();
            chance(item, FencingToken::new(token).unwrap())
        };
        assert_eq!(chance(1, 1), chance(1, 1));
        let mut all: Vec<u64> = (1..=30)
            .flat_map(|item| (1..=30).map(move |token| (item, token)))
            .map(|(item, token)| chance(item, token))
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 900);
    }

    #[test]
    fn rules_have_bounds() {
        assert!(RULE.check().is_ok());
        assert!(RetryRule::AT_ONCE.check().is_ok());
        for bad in [
            RetryRule { factor: 0, ..RULE },
            RetryRule {
                factor: RETRY_FACTOR_MAX + 1,
                ..RULE
            },
            RetryRule {
                most: Duration::MAX,
                ..RULE
            },
            RetryRule {
                most: Duration::ZERO,
                ..RULE
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(Retry::After(Duration::MAX).check().is_err());
    }
}
