//! How upkeep is done: how often, how much at a time, what is kept.

use std::time::Duration;

use agentos_core::limits::{
    FREE_BYTES_KEPT_DEFAULT, PRUNE_ROWS_MAX, UPKEEP_INTERVAL_DEFAULT, UPKEEP_INTERVAL_MAX,
    UPKEEP_INTERVAL_MIN, UPKEEP_PAUSE_DEFAULT, UPKEEP_PAUSE_MAX,
};
use agentos_core::{InvalidInput, Retention, StorageError};

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

#[cfg(test)]
mod tests {
    use super::*;

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
