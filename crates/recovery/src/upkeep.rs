//! Upkeep in the background: one pass after another, in a thread of its own.
//!
//! The thread waits on its inbox with a deadline and holds nothing meanwhile.
//! It ends when the inbox closes, after the batch under way. An error is
//! logged and counted, and the next pass tries again.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agentos_core::limits::{
    FREE_BYTES_KEPT_DEFAULT, PRUNE_ROWS_MAX, UPKEEP_INTERVAL_DEFAULT, UPKEEP_INTERVAL_MAX,
    UPKEEP_INTERVAL_MIN, UPKEEP_PAUSE_DEFAULT, UPKEEP_PAUSE_MAX,
};
use agentos_core::{InvalidInput, Retention, Storage, StorageError};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use crate::pass::{Mode, Pass};
use crate::stats::UpkeepStats;

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

/// Why upkeep was not started.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The configuration can never be right.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The system has no thread left: try again.
    #[error("no thread for upkeep")]
    Thread(#[source] io::Error),
}

/// Upkeep that goes on until it is stopped or dropped.
///
/// Any number of processes may run it on one file: they share the work.
#[derive(Debug)]
pub struct Upkeep {
    /// Closed by dropping it.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    stats: Arc<Mutex<UpkeepStats>>,
}

impl Upkeep {
    /// Starts with a pass at once, and another after each interval.
    ///
    /// # Errors
    ///
    /// [`UpkeepError`]; nothing was started.
    pub fn start(storage: Arc<dyn Storage>, config: UpkeepConfig) -> Result<Upkeep, UpkeepError> {
        config.check()?;
        let (wake, inbox) = bounded(1);
        let stats = Arc::new(Mutex::new(UpkeepStats::default()));
        let counted = Arc::clone(&stats);
        let thread = thread::Builder::new()
            .name("agentos-upkeep".into())
            .spawn(move || run(storage.as_ref(), &config, &inbox, &counted))
            .map_err(UpkeepError::Thread)?;
        Ok(Upkeep {
            wake: Some(wake),
            thread: Some(thread),
            stats,
        })
    }

    /// Asks for a pass now, or right after the one under way. Does not wait
    /// for it: [`UpkeepStats::passes`] counts those that have ended.
    pub fn run_now(&self) {
        if let Some(wake) = &self.wake {
            match wake.try_send(()) {
                // One that is asked for and has not begun serves both.
                Ok(()) | Err(TrySendError::Full(())) => {}
                Err(TrySendError::Disconnected(())) => {
                    tracing::error!("the thread of upkeep is gone");
                }
            }
        }
    }

    /// What was done since the start.
    pub fn stats(&self) -> UpkeepStats {
        self.stats.lock().clone()
    }

    /// Stops after the batch under way, and says what was done.
    pub fn stop(mut self) -> UpkeepStats {
        self.join();
        self.stats()
    }

    fn join(&mut self) {
        drop(self.wake.take()); // closes the inbox
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of upkeep panicked");
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(
    storage: &dyn Storage,
    config: &UpkeepConfig,
    inbox: &Receiver<()>,
    stats: &Mutex<UpkeepStats>,
) {
    loop {
        let mut asked_again = false;
        let mut pause = || match inbox.recv_timeout(config.pause) {
            Ok(()) => {
                asked_again = true;
                true
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
        };
        let report = Pass::new(storage, Mode::Apply, config, &mut pause).run();
        stats.lock().add(&report);
        if report.stopped {
            return;
        }
        let wait = if asked_again {
            Duration::ZERO
        } else {
            config.interval
        };
        if let Err(RecvTimeoutError::Disconnected) = inbox.recv_timeout(wait) {
            return;
        }
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
