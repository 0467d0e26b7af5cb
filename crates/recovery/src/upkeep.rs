//! Upkeep in the background: one pass after another, in a thread of its own.
//!
//! The thread waits on its inbox with a deadline and holds nothing meanwhile.
//! It ends when the inbox closes, after the batch under way. An error is
//! logged and counted, and the next pass tries again.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agentos_core::{Storage, StorageError};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use crate::config::UpkeepConfig;
use crate::pass::{Mode, Pass};
use crate::stats::UpkeepStats;

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
