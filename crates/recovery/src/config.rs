//! How upkeep and sweeps are done: how often, how much at a time, what is kept,
//! what follows a lost lease.

use std::time::Duration;

use agentos_core::limits::{
    FREE_BYTES_KEPT_DEFAULT, PRUNE_ROWS_MAX, SWEEP_ROWS_DEFAULT, UPKEEP_INTERVAL_DEFAULT,
    UPKEEP_INTERVAL_MAX, UPKEEP_INTERVAL_MIN, UPKEEP_PAUSE_DEFAULT, UPKEEP_PAUSE_MAX,
};
use agentos_core::{InvalidInput, Lost, Retention, RetryRule, StorageError, SweepRequest};

/// How upkeep is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpkeepConfig {
    /// Pause after a pass. 60 seconds unless changed.
    pub interval: Duration,
    /// Pause between two batches, in which writers get in. 5 ms unless changed.
    pub pause: Duration,
    /// Rows that one batch looks at, at most. Unless changed as many as the
    /// engine takes; it ends a batch earlier when it takes too long.
    pub rows_per_batch: u32,
    /// Unused bytes that are left in the file for what will be written next.
    /// 16 MiB unless changed.
    pub free_bytes_kept: u64,
    /// How much of everything is kept.
    pub retention: Retention,
}

impl Default for UpkeepConfig {
    fn default() -> UpkeepConfig {
        UpkeepConfig {
            interval: UPKEEP_INTERVAL_DEFAULT,
            pause: UPKEEP_PAUSE_DEFAULT,
            rows_per_batch: PRUNE_ROWS_MAX,
            free_bytes_kept: FREE_BYTES_KEPT_DEFAULT,
            retention: Retention::default(),
        }
    }
}

impl UpkeepConfig {
    /// Checks that everything is within its bounds.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] or [`StorageError::LimitExceeded`].
    pub fn check(&self) -> Result<(), StorageError> {
        let (least, most) = (UPKEEP_INTERVAL_MIN, UPKEEP_INTERVAL_MAX);
        if !(least..=most).contains(&self.interval) {
            let reason = format!("is not between {least:?} and {most:?}");
            return Err(InvalidInput::new("interval of upkeep", reason).into());
        }
        if UPKEEP_PAUSE_MAX < self.pause {
            let reason = format!("is longer than {UPKEEP_PAUSE_MAX:?}");
            return Err(InvalidInput::new("pause of upkeep", reason).into());
        }
        if !(1..=PRUNE_ROWS_MAX).contains(&self.rows_per_batch) {
            let reason = format!("are not between 1 and {PRUNE_ROWS_MAX}");
            return Err(InvalidInput::new("rows of a batch of upkeep", reason).into());
        }
        self.retention.check()
    }
}

/// How a sweep is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepConfig {
    /// Leases that one transaction takes away, at most. 256 unless changed.
    pub rows_per_batch: u32,
    /// What follows for items that lost a lease before. The first loss costs no
    /// pause.
    pub after_loss: RetryRule,
}

impl Default for SweepConfig {
    fn default() -> SweepConfig {
        SweepConfig {
            rows_per_batch: SWEEP_ROWS_DEFAULT,
            after_loss: RetryRule::default(),
        }
    }
}

impl SweepConfig {
    /// Checks that everything is within its bounds.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] or [`StorageError::LimitExceeded`].
    pub fn check(&self) -> Result<(), StorageError> {
        self.first_batch(Lost::Expired).check()
    }

    /// The first batch of a scan.
    pub(crate) fn first_batch(&self, lost: Lost) -> SweepRequest {
        SweepRequest {
            lost,
            rows: self.rows_per_batch,
            skip: 0,
            after_loss: self.after_loss,
        }
    }
}

#[cfg(test)]
mod tests {
    use agentos_core::limits::{RETRY_FACTOR_MAX, SWEEP_ROWS_MAX};

    use super::*;

    #[test]
    fn a_sweep_that_can_never_be_right_is_refused() {
        let good = SweepConfig::default();
        assert!(good.check().is_ok());
        for rows_per_batch in [0, SWEEP_ROWS_MAX + 1] {
            let bad = SweepConfig {
                rows_per_batch,
                ..good
            };
            assert!(bad.check().is_err(), "{bad:?}");
        }
        let after_loss = RetryRule {
            factor: RETRY_FACTOR_MAX + 1,
            ..RetryRule::default()
        };
        assert!(SweepConfig { after_loss, ..good }.check().is_err());
    }

    #[test]
    fn what_can_never_be_right_is_refused() {
        let good = UpkeepConfig::default();
        assert!(good.check().is_ok());
        for bad in [
            UpkeepConfig {
                interval: Duration::ZERO,
                ..good.clone()
            },
            UpkeepConfig {
                interval: Duration::MAX,
                ..good.clone()
            },
            UpkeepConfig {
                pause: Duration::from_secs(2),
                ..good.clone()
            },
            UpkeepConfig {
                retention: Retention {
                    checkpoints: agentos_core::CheckpointRule::keep_last(0),
                    ..Retention::default()
                },
                ..good
            },
        ] {
            assert!(
                matches!(bad.check(), Err(StorageError::Invalid(_))),
                "{bad:?}"
            );
        }
    }
}
